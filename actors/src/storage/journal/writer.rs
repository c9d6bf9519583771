//! The one writer of the log: buffers frames, writes them, tells the index, syncs, seals segments.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aurigraph_ledger::Hash;

use super::error::JournalError;
use super::frame::{self, End};
use super::index::{Entry, write_sidecar};
use super::open::{Shared, scan};
use super::segment;
use crate::bounds::storage::{JOURNAL_GROUP, JOURNAL_MAX_BODY};
use crate::storage::record::{Cursor, Record};

/// Owns the end of the log. There is at most one, see [`Shared::owner`].
pub(super) struct Writer {
    shared: Arc<Shared>,
    file: File,
    path: PathBuf,
    number: u32,
    /// Where the buffer will be written.
    written: u64,
    /// Frames not yet written.
    buffer: Vec<u8>,
    /// What the index learns once the buffer is written.
    pending: Vec<Entry>,
    /// The end of the last sync in this segment, until the next group says so.
    synced: Option<Cursor>,
    #[cfg(test)]
    pub(super) syncs: u64,
}

impl Writer {
    /// Takes the end of the log. The first writer of a process takes it as the disk has it: it scans the last segment and
    /// cuts its torn tail. A later one knows from the one before what was written; what that left behind without saying
    /// so was never acknowledged, and is cut. Both sync the rest.
    pub(super) fn open(shared: Arc<Shared>) -> Result<Self, JournalError> {
        if let Some(earlier) = shared.failed.lock().as_ref() {
            return Err(JournalError::Poisoned(earlier.to_string()));
        }
        let number = segment::list(&shared.directory)?.last().copied().unwrap_or(1);
        let path = segment::path(&shared.directory, number);
        let file = segment::open(&path, 0)?;
        let known = shared.index.read().end.filter(|end| end.segment == number);
        let size = file.metadata().map_err(JournalError::io("stat", &path))?.len();
        let end = match known.filter(|end| end.offset <= size) {
            Some(end) => end.offset,
            None => Self::scan(&shared, &path, number)?,
        };
        segment::cut(&file, &path, end, shared.segment_bytes)?;
        segment::sync_directory(&shared.directory)?;
        Ok(Self {
            shared,
            file,
            path,
            number,
            written: end,
            buffer: Vec::new(),
            pending: Vec::new(),
            synced: None,
            #[cfg(test)]
            syncs: 0,
        })
    }

    /// Tells the index of every record in the last segment. Returns where the log goes on.
    fn scan(shared: &Shared, path: &Path, number: u32) -> Result<u64, JournalError> {
        let (entries, end) = scan(path)?;
        let end = tail(path, number, &shared.salt, end)?;
        let mut index = shared.index.write();
        for entry in &entries {
            index.insert(number, entry);
        }
        index.active = entries;
        index.end = Some(Cursor { segment: number, offset: end });
        Ok(end)
    }

    /// Takes records in; large groups are written on the way. Durable after [`Writer::sync`].
    pub(super) fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        if let Some(record) = records.iter().find(|record| record.body.len() > JOURNAL_MAX_BODY) {
            return Err(JournalError::TooLarge { bytes: record.body.len(), max: JOURNAL_MAX_BODY });
        }
        for record in records {
            let size = frame::OVERHEAD + record.body.len();
            let at = self.written + self.buffer.len() as u64;
            let room = (size + frame::MARK_SIZE) as u64;
            let at = if at > 0 && at + room > self.shared.segment_bytes { self.roll()? } else { self.mark(at) };
            // Segments end at segment_bytes or after one frame, both far below 4 GiB.
            #[allow(clippy::cast_possible_truncation)]
            let entry = Entry { kind: record.kind, key: record.key, offset: at as u32, length: size as u32 };
            frame::encode(record, &mut self.buffer);
            self.pending.push(entry);
            if self.buffer.len() >= JOURNAL_GROUP {
                self.write()?;
            }
        }
        Ok(())
    }

    /// Says in front of a group that everything before it is synced. Returns where its first frame goes.
    fn mark(&mut self, at: u64) -> u64 {
        match self.synced.take() {
            Some(synced) => {
                frame::encode_mark(&self.shared.salt, synced, &mut self.buffer);
                at + frame::MARK_SIZE as u64
            }
            None => at,
        }
    }

    /// Writes what was taken in, without a sync: from here readers see it, and a killed process loses none of it.
    pub(super) fn write(&mut self) -> Result<(), JournalError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.guard(self.file.write_all_at(&self.buffer, self.written).map_err(JournalError::io("write", &self.path)))?;
        metrics::counter!("journal_bytes_total", "node" => self.shared.node.clone())
            .increment(self.buffer.len() as u64);
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        let mut index = self.shared.index.write();
        for entry in &self.pending {
            index.insert(self.number, entry);
        }
        index.end = Some(Cursor { segment: self.number, offset: self.written });
        index.active.append(&mut self.pending);
        Ok(())
    }

    /// Writes and syncs: everything taken in before is durable when this returns.
    pub(super) fn sync(&mut self) -> Result<(), JournalError> {
        self.write()?;
        let began = std::time::Instant::now();
        #[cfg(test)]
        {
            self.syncs += 1;
        }
        self.guard(self.file.sync_data().map_err(JournalError::io("sync", &self.path)))?;
        metrics::histogram!("journal_sync_seconds", "node" => self.shared.node.clone())
            .record(began.elapsed().as_secs_f64());
        self.synced = Some(Cursor { segment: self.number, offset: self.written });
        Ok(())
    }

    /// Has what comes next stand at the beginning of a segment.
    pub(super) fn begin_segment(&mut self) -> Result<(), JournalError> {
        self.write()?;
        if self.written > 0 { self.roll().map(drop) } else { Ok(()) }
    }

    /// Seals the segment and begins the next one. Returns where its first frame goes.
    fn roll(&mut self) -> Result<u64, JournalError> {
        self.write()?;
        let result = self.seal_and_begin();
        self.guard(result)?;
        Ok(self.written)
    }

    fn seal_and_begin(&mut self) -> Result<(), JournalError> {
        self.file.set_len(self.written).map_err(JournalError::io("cut", &self.path))?;
        self.file.sync_all().map_err(JournalError::io("sync", &self.path))?;
        let directory = &self.shared.directory;
        let entries = self.shared.index.read().active.clone();
        write_sidecar(&segment::sidecar_path(directory, self.number), self.written, &entries)?;
        let number = self.number + 1;
        let path = segment::path(directory, number);
        let file = segment::open(&path, self.shared.segment_bytes)?;
        file.sync_all().map_err(JournalError::io("sync", &path))?;
        segment::sync_directory(directory)?;
        (self.file, self.path, self.number, self.written) = (file, path, number, 0);
        self.synced = None;
        let mut index = self.shared.index.write();
        index.active.clear();
        index.end = Some(Cursor { segment: number, offset: 0 });
        Ok(())
    }

    /// A failed write or sync is final: nobody knows afterwards what the disk holds.
    fn guard(&self, result: Result<(), JournalError>) -> Result<(), JournalError> {
        if let Err(error) = &result {
            let mut failed = self.shared.failed.lock();
            if failed.is_none() {
                *failed = Some(error.clone());
                self.shared.fatal.raise_for(error, format!("the journal cannot be written: {error}"));
            }
        }
        result
    }
}

/// Where the log goes on in its last segment. Behind a torn tail nothing can have been synced.
fn tail(path: &Path, number: u32, salt: &Hash, end: End) -> Result<u64, JournalError> {
    let (offset, what) = match end {
        End::Clean { more: false, offset } => return Ok(offset),
        End::Clean { more: true, offset } => (offset, None),
        End::Bad { offset, what } => (offset, Some(what)),
    };
    if let Some(synced) = frame::synced_beyond(path, salt, Cursor { segment: number, offset })? {
        let what = what.unwrap_or_else(|| "an empty frame".to_owned());
        let what = format!("{what}, though the log was synced up to {}: this is no torn tail", synced.offset);
        return Err(JournalError::Corrupt { path: path.to_owned(), offset, what });
    }
    if let Some(what) = what {
        tracing::warn!(segment = %path.display(), offset, what, "a torn tail is cut from the journal");
    }
    Ok(offset)
}
