//! Reading the journal: by key, by index, and in log order.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use aurigraph_ledger::Hash;
use bytes::Bytes;

use super::error::JournalError;
use super::frame::{self, End, FrameReader, Next};
use super::index::Position;
use super::open::Shared;
use super::segment;
use crate::bounds::storage::JOURNAL_OPEN_SEGMENTS;
use crate::storage::record::{Cursor, Record, RecordKind};

/// Reads the log with handles of its own; cheap to clone, valid across restarts of the journal actor. Blocking: large
/// reads belong on a thread.
#[derive(Clone)]
pub struct JournalReader {
    shared: Arc<Shared>,
}

impl JournalReader {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The newest record of this kind and key. Its checksum was verified.
    ///
    /// # Errors
    /// If the file cannot be read, or `InvalidData` if the record is damaged.
    pub fn get(&self, kind: RecordKind, key: &Hash) -> io::Result<Option<Bytes>> {
        let position = self.shared.index.read().get(kind, key);
        position.map(|position| self.body(position)).transpose()
    }

    /// True if such a record is in the log, written if not yet synced.
    #[must_use]
    pub fn contains(&self, kind: RecordKind, key: &Hash) -> bool {
        self.shared.index.read().get(kind, key).is_some()
    }

    /// The commit with this index.
    ///
    /// # Errors
    /// Those of [`JournalReader::get`].
    pub fn commit(&self, index: u64) -> io::Result<Option<Bytes>> {
        self.get(RecordKind::Commit, &Record::index_key(index))
    }

    /// The mark that this commit was executed and persisted.
    ///
    /// # Errors
    /// Those of [`JournalReader::get`].
    pub fn mark(&self, index: u64) -> io::Result<Option<Bytes>> {
        self.get(RecordKind::Mark, &Record::index_key(index))
    }

    /// The highest commit's index.
    #[must_use]
    pub fn highest_commit(&self) -> Option<u64> {
        self.highest(RecordKind::Commit)
    }

    /// The highest mark's index.
    #[must_use]
    pub fn highest_mark(&self) -> Option<u64> {
        self.highest(RecordKind::Mark)
    }

    /// The highest index among the records of a kind that is found by index.
    #[must_use]
    pub fn highest(&self, kind: RecordKind) -> Option<u64> {
        self.shared.index.read().highest(kind).map(|(index, _)| index)
    }

    /// The consensus snapshot with the highest index, and the place of its record.
    ///
    /// # Errors
    /// Those of [`JournalReader::get`].
    pub fn latest_snapshot(&self) -> io::Result<Option<(Bytes, Cursor)>> {
        let newest = self.shared.index.read().highest(RecordKind::ConsensusSnapshot);
        let Some((_, position)) = newest else { return Ok(None) };
        let cursor = Cursor { segment: position.segment, offset: u64::from(position.offset) };
        Ok(Some((self.body(position)?, cursor)))
    }

    /// The place of a record.
    #[must_use]
    pub fn position(&self, kind: RecordKind, key: &Hash) -> Option<Cursor> {
        let position = self.shared.index.read().get(kind, key)?;
        Some(Cursor { segment: position.segment, offset: u64::from(position.offset) })
    }

    /// The end of what is written: a replay from here begins with the next append.
    #[must_use]
    pub fn end(&self) -> Cursor {
        self.shared.index.read().end.unwrap_or(Cursor::START)
    }

    /// Hands over the records of some kinds in log order, from a place to what is the end when this is called. Returns
    /// the place after the last record that was looked at.
    ///
    /// # Errors
    /// If a file cannot be read, or `InvalidData` if a record is damaged.
    pub fn replay(
        &self,
        from: Cursor,
        kinds: &[RecordKind],
        mut visit: impl FnMut(RecordKind, Hash, Bytes) -> ControlFlow<()>,
    ) -> io::Result<Cursor> {
        let end = self.end();
        let mut at = from;
        while at < end {
            let path = segment::path(&self.shared.directory, at.segment);
            let mut frames = FrameReader::open(&path, at.offset).map_err(JournalError::into_io)?;
            while at < end {
                match frames.next(|kind| kinds.contains(&kind))? {
                    Next::Record(record, offset, size) => {
                        at.offset = offset + size;
                        if kinds.contains(&record.kind) && visit(record.kind, record.key, record.body).is_break() {
                            return Ok(at);
                        }
                    }
                    // Behind the last record stands at most a sync mark.
                    Next::End(End::Clean { offset, .. }) if at.segment == end.segment && offset == end.offset => {
                        at = end;
                    }
                    Next::End(_) if at.segment == end.segment => {
                        let what = format!("the log ends here, {} bytes are missing", end.offset - at.offset);
                        return Err(JournalError::Corrupt { path, offset: at.offset, what }.into_io());
                    }
                    Next::End(End::Clean { .. }) => break,
                    Next::End(End::Bad { offset, what }) => {
                        return Err(JournalError::Corrupt { path, offset, what }.into_io());
                    }
                }
            }
            if at < end {
                at = Cursor { segment: at.segment + 1, offset: 0 };
            }
        }
        Ok(at)
    }

    /// Reads the whole log and checks every frame. Returns how many records it holds.
    ///
    /// # Errors
    /// The first damage, or a file that cannot be read.
    pub fn verify(&self) -> io::Result<u64> {
        let mut records = 0;
        self.replay(Cursor::START, &RecordKind::ALL, |_, _, _| {
            records += 1;
            ControlFlow::Continue(())
        })?;
        Ok(records)
    }

    fn body(&self, position: Position) -> io::Result<Bytes> {
        let file = self.handle(position.segment)?;
        let mut bytes = vec![0; position.length as usize];
        file.read_exact_at(&mut bytes, u64::from(position.offset))?;
        let record = frame::decode(&Bytes::from(bytes)).map_err(|what| {
            let path = segment::path(&self.shared.directory, position.segment);
            JournalError::Corrupt { path, offset: u64::from(position.offset), what }.into_io()
        })?;
        Ok(record.body)
    }

    fn handle(&self, number: u32) -> io::Result<Arc<File>> {
        if let Some(file) = self.shared.handles.read().get(&number) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(File::open(segment::path(&self.shared.directory, number))?);
        let mut handles = self.shared.handles.write();
        if handles.len() >= JOURNAL_OPEN_SEGMENTS {
            handles.clear();
        }
        handles.insert(number, Arc::clone(&file));
        Ok(file)
    }
}
