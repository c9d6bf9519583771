//! Pruning: segments at the beginning of the log are removed, what must outlive them goes into the log's base.
//!
//! What may go is not decided here. The order is: the new base, durably; the index; the files. A crash leaves the log
//! as it was, or with a base before which files still lie that the next start removes.

use std::sync::Arc;

use aurigraph_ledger::Hash;

use super::base;
use super::error::JournalError;
use super::index::Entry;
use super::open::{Journal, sealed_entries};
use super::segment;
use crate::storage::record::{Record, RecordKind};

/// Entries that the index forgets under one lock: a fraction of a millisecond.
const FORGOTTEN_AT_ONCE: usize = 2_048;

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Segments.
    pub segments: u32,
    /// Bytes of their files.
    pub bytes: u64,
    /// Records that went into the base.
    pub kept: usize,
}

impl Journal {
    /// Removes all segments before `before` but never the last, keeping the newest record of each kind and key that
    /// `keep` wants. Everything that makes them superfluous must be durable. Blocking; beside the writer and readers.
    ///
    /// # Errors
    /// If the journal has failed, a segment is damaged, or the operating system refuses. Then nothing was removed, or
    /// what lies before the base is removed at the next start.
    pub fn prune(&self, before: u32, keep: &dyn Fn(RecordKind, &Hash) -> bool) -> Result<Pruned, JournalError> {
        self.prune_in_steps(before, keep, &mut || ())
    }

    /// [`Journal::prune`] with a word after each step that a crash could follow.
    pub(super) fn prune_in_steps(
        &self,
        before: u32,
        keep: &dyn Fn(RecordKind, &Hash) -> bool,
        step: &mut dyn FnMut(),
    ) -> Result<Pruned, JournalError> {
        let shared = &self.0;
        let _one_at_a_time = shared.pruning.lock();
        if let Some(earlier) = shared.failed.lock().as_ref() {
            return Err(JournalError::Poisoned(earlier.to_string()));
        }
        let (old, before) = {
            let index = shared.index.read();
            (index.first, before.min(index.end.map_or(1, |end| end.segment)))
        };
        if before <= old {
            return Ok(Pruned::default());
        }
        let directory = &shared.directory;
        let reader = self.reader();
        let (mut gone, mut kept, mut pruned) = (Vec::new(), Vec::new(), Pruned::default());
        let init = match base::list(directory)?.contains(&old) {
            true => {
                let base = base::read(directory, old)?;
                gone.push((base::number(old), base.entries));
                base.init
            }
            false => reader
                .get(RecordKind::Init, &Hash::ZERO)
                .map_err(|error| JournalError::io("read", directory)(error))?
                .ok_or_else(|| JournalError::NoOwner { directory: directory.clone() })?,
        };
        for number in old..before {
            let path = segment::path(directory, number);
            pruned.bytes += std::fs::metadata(&path).map_err(JournalError::io("stat", &path))?.len();
            gone.push((number, sealed_entries(directory, number)?));
        }
        for (number, entries) in &gone {
            for entry in entries.iter().filter(|entry| keep(entry.kind, &entry.key)) {
                let newest = shared.index.read().get(entry.kind, &entry.key);
                let is_newest = newest.is_some_and(|at| (at.segment, at.offset) == (*number, entry.offset));
                if !is_newest || entry.kind == RecordKind::Init {
                    continue;
                }
                let body = reader.get(entry.kind, &entry.key).map_err(JournalError::io("read", directory))?;
                kept.extend(body.map(|body| Record::new(entry.kind, entry.key, body)));
            }
        }
        step();
        let entries = base::write(directory, before, &init, &kept)?;
        step();
        self.forget(before, &entries, &gone);
        (pruned.segments, pruned.kept) = (before - old, kept.len());
        for number in old..before {
            for path in [segment::path(directory, number), segment::sidecar_path(directory, number)] {
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(JournalError::io("remove", &path)(error));
                    }
                    _ => step(),
                }
            }
        }
        base::sweep(directory, before)?;
        step();
        Ok(pruned)
    }

    /// The index points into the base, and no more into what will be removed.
    fn forget(&self, before: u32, kept: &[Entry], gone: &[(u32, Vec<Entry>)]) {
        let shared = &self.0;
        {
            let mut index = shared.index.write();
            index.first = before;
            let number = base::number(before);
            for entry in kept {
                let here = index.get(entry.kind, &entry.key);
                // A newer record may have come meanwhile.
                if here.is_some_and(|at| gone.iter().any(|(number, _)| *number == at.segment)) {
                    index.insert(number, entry);
                }
            }
        }
        for (number, entries) in gone {
            for some in entries.chunks(FORGOTTEN_AT_ONCE) {
                let mut index = shared.index.write();
                some.iter().for_each(|entry| index.forget(*number, entry));
            }
            shared.handles.write().remove(number);
        }
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Journal").field(&self.0.directory).field(&Arc::strong_count(&self.0)).finish()
    }
}
