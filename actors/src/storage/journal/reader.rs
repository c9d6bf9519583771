//! Reading the journal: by key, by index, and in log order.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use aurigraph_ledger::Hash;
use bytes::Bytes;

use super::base;
use super::error::JournalError;
use super::frame::{self, End, FrameReader, Next};
use super::index::{Entry, Position};
use super::open::{Shared, sealed_entries};
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

    /// Whether the directory takes the place of a lost one, so that the log's beginning says nothing of what was signed.
    #[must_use]
    pub fn is_after_loss(&self) -> bool {
        self.shared.after_loss
    }

    /// Whether the log was begun under another validator key than the one that it was opened with.
    #[must_use]
    pub fn is_under_another_key(&self) -> bool {
        self.shared.under_another_key
    }

    /// The newest record of this kind and key. Its checksum was verified.
    ///
    /// # Errors
    /// If the file cannot be read, or `InvalidData` if the record is damaged.
    pub fn get(&self, kind: RecordKind, key: &Hash) -> io::Result<Option<Bytes>> {
        loop {
            let Some(position) = self.shared.index.read().get(kind, key) else { return Ok(None) };
            match self.body(position) {
                // Pruned between the two: it stands in the base now, or nowhere.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.stands(kind, key, position) => {}
                read => return read.map(Some),
            }
        }
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

    fn stands(&self, kind: RecordKind, key: &Hash, position: Position) -> bool {
        self.shared.index.read().get(kind, key) == Some(position)
    }

    /// The lowest index among the records of a kind that is found by index.
    #[must_use]
    pub fn lowest(&self, kind: RecordKind) -> Option<u64> {
        self.shared.index.read().lowest(kind)
    }

    /// The first commit of which the log may hold everything: 1, until segments were pruned. A log that has begun with a
    /// snapshot and has no commits yet goes on with the one after that.
    #[must_use]
    pub fn oldest_commit(&self) -> u64 {
        if self.first_segment() == 1 {
            return 1;
        }
        let begun = || self.lowest(RecordKind::ConsensusSnapshot).map(|index| index.saturating_add(1));
        self.lowest(RecordKind::Commit).or_else(begun).unwrap_or(u64::MAX)
    }

    /// The first segment that was not pruned.
    #[must_use]
    pub fn first_segment(&self) -> u32 {
        self.shared.index.read().first
    }

    /// Size of a segment's file, and when it was last written to; none if it was pruned.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn segment_file(&self, number: u32) -> io::Result<Option<(u64, std::time::SystemTime)>> {
        match std::fs::metadata(segment::path(&self.shared.directory, number)) {
            Ok(found) => Ok(Some((found.len(), found.modified()?))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
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

    /// The place of a record; none if its segment was pruned.
    #[must_use]
    pub fn position(&self, kind: RecordKind, key: &Hash) -> Option<Cursor> {
        let position = self.shared.index.read().get(kind, key).filter(|at| base::first_of(at.segment).is_none())?;
        Some(Cursor { segment: position.segment, offset: u64::from(position.offset) })
    }

    /// The end of what is written: a replay from here begins with the next append.
    #[must_use]
    pub fn end(&self) -> Cursor {
        self.shared.index.read().end.unwrap_or(Cursor::START)
    }

    /// Hands over the records of some kinds in log order, from a place to what is the end when this is called. Returns
    /// the place after the last record that was looked at. A log that was pruned begins where it begins now; records in its
    /// base are no part of a replay. Costs what these records cost: others are passed over by
    /// their segment's index.
    ///
    /// # Errors
    /// If a file cannot be read, or `InvalidData` if a record is damaged.
    pub fn replay(
        &self,
        from: Cursor,
        kinds: &[RecordKind],
        mut visit: impl FnMut(RecordKind, Hash, Bytes) -> ControlFlow<()>,
    ) -> io::Result<Cursor> {
        self.entries(from, kinds, |position, kind, key| Ok(visit(kind, key, self.body(position)?)))
    }

    /// Like [`JournalReader::replay`], but reads only the first bytes of each body, and says how long it is. They are
    /// not checked against the record's checksum: the log was when it was opened.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn replay_heads(
        &self,
        from: Cursor,
        kind: RecordKind,
        head: usize,
        mut visit: impl FnMut(Hash, &[u8], usize) -> ControlFlow<()>,
    ) -> io::Result<Cursor> {
        let mut bytes = vec![0; head];
        self.entries(from, &[kind], |position, _, key| {
            let length = (position.length as usize).saturating_sub(frame::OVERHEAD);
            let head = &mut bytes[..head.min(length)];
            let at = u64::from(position.offset) + frame::OVERHEAD as u64;
            self.handle(position.segment)?.read_exact_at(head, at)?;
            Ok(visit(key, head, length))
        })
    }

    /// The places of the records of some kinds, in log order.
    fn entries(
        &self,
        from: Cursor,
        kinds: &[RecordKind],
        mut visit: impl FnMut(Position, RecordKind, Hash) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<Cursor> {
        let end = self.end();
        let mut at = from;
        while at < end {
            at = at.max(Cursor { segment: self.first_segment(), offset: 0 });
            let first = u32::try_from(at.offset).unwrap_or(u32::MAX);
            let wanted = |entry: &Entry| entry.offset >= first && kinds.contains(&entry.kind);
            let mut entries = match self.segment_entries(at.segment) {
                Err(error) if self.was_pruned(&error, at.segment) => continue,
                entries => entries?,
            };
            entries.retain(wanted);
            for Entry { kind, key, offset, length } in entries {
                if at.segment == end.segment && u64::from(offset) >= end.offset {
                    break;
                }
                at.offset = u64::from(offset) + u64::from(length);
                match visit(Position { segment: at.segment, offset, length }, kind, key) {
                    Err(error) if self.was_pruned(&error, at.segment) => break,
                    Err(error) => return Err(error),
                    Ok(ControlFlow::Break(())) => return Ok(at),
                    Ok(ControlFlow::Continue(())) => {}
                }
            }
            at = if at.segment < end.segment { Cursor { segment: at.segment + 1, offset: 0 } } else { end };
        }
        Ok(at)
    }

    fn was_pruned(&self, error: &io::Error, segment: u32) -> bool {
        error.kind() == io::ErrorKind::NotFound && segment < self.first_segment()
    }

    /// A segment's records in log order.
    fn segment_entries(&self, number: u32) -> io::Result<Vec<Entry>> {
        {
            let index = self.shared.index.read();
            if index.end.is_some_and(|end| end.segment == number) {
                return Ok(index.active.clone());
            }
        }
        sealed_entries(&self.shared.directory, number).map_err(JournalError::into_io)
    }

    /// Reads the whole log and checks every frame. Returns how many records it holds.
    ///
    /// # Errors
    /// The first damage, or a file that cannot be read.
    pub fn verify(&self) -> io::Result<u64> {
        let (mut records, end) = (0, self.end());
        let first = self.first_segment();
        if base::list(&self.shared.directory).map_err(JournalError::into_io)?.contains(&first) {
            records += base::read(&self.shared.directory, first).map_err(JournalError::into_io)?.entries.len() as u64;
        }
        for number in first..=end.segment {
            let path = segment::path(&self.shared.directory, number);
            let mut frames = FrameReader::open(&path, 0).map_err(JournalError::into_io)?;
            loop {
                match frames.next(|_| true)? {
                    Next::Record(_, offset, _) if number == end.segment && offset >= end.offset => break,
                    Next::Record(..) => records += 1,
                    // Behind the last record stands at most a sync mark.
                    Next::End(End::Clean { offset, .. }) if number < end.segment || offset >= end.offset => break,
                    Next::End(End::Clean { offset, .. }) => {
                        let what = format!("the log ends here, {} bytes are missing", end.offset - offset);
                        return Err(JournalError::Corrupt { path, offset, what }.into_io());
                    }
                    // What is being written behind the end is no part of the log yet.
                    Next::End(End::Bad { offset, .. }) if number == end.segment && offset >= end.offset => break,
                    Next::End(End::Bad { offset, what }) => {
                        return Err(JournalError::Corrupt { path, offset, what }.into_io());
                    }
                }
            }
        }
        Ok(records)
    }

    fn body(&self, position: Position) -> io::Result<Bytes> {
        let file = self.handle(position.segment)?;
        let mut bytes = vec![0; position.length as usize];
        file.read_exact_at(&mut bytes, u64::from(position.offset))?;
        let record = frame::decode(&Bytes::from(bytes)).map_err(|what| {
            let path = match base::first_of(position.segment) {
                Some(first) => base::path(&self.shared.directory, first),
                None => segment::path(&self.shared.directory, position.segment),
            };
            JournalError::Corrupt { path, offset: u64::from(position.offset), what }.into_io()
        })?;
        Ok(record.body)
    }

    fn handle(&self, number: u32) -> io::Result<Arc<File>> {
        if let Some(file) = self.shared.handles.read().get(&number) {
            return Ok(Arc::clone(file));
        }
        let path = match base::first_of(number) {
            Some(first) => base::path(&self.shared.directory, first),
            None => segment::path(&self.shared.directory, number),
        };
        let file = Arc::new(File::open(path)?);
        let mut handles = self.shared.handles.write();
        if handles.len() >= JOURNAL_OPEN_SEGMENTS {
            handles.clear();
        }
        handles.insert(number, Arc::clone(&file));
        Ok(file)
    }
}
