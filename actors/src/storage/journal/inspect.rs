//! Looking at a journal's directory without changing anything in it: no lock file is written, no torn tail cut.

use std::fs::File;
use std::path::{Path, PathBuf};

use fs2::FileExt as _;

use super::base;
use super::error::JournalError;
use super::frame::{self, End};
use super::open::{lock_holder, owner, scan};
use super::segment;
use crate::storage::record::{Cursor, Record, RecordKind};

/// What stands in a journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalInspection {
    /// Whose it is, in words; none for a log that has not begun.
    pub owner: Option<String>,
    /// Segment files.
    pub segments: usize,
    /// Bytes of whole frames.
    pub bytes: u64,
    /// The first segment, if those before it were pruned.
    pub pruned_before: Option<u32>,
    /// Lowest index of a commit.
    pub lowest_commit: Option<u64>,
    /// Records in them.
    pub records: u64,
    /// Highest index of a commit.
    pub highest_commit: Option<u64>,
    /// Highest index of an executed commit.
    pub highest_mark: Option<u64>,
    /// Highest index of a consensus snapshot.
    pub highest_snapshot: Option<u64>,
    /// A torn last frame: segment, offset, what is wrong. The next start cuts it; it was never acknowledged.
    pub torn: Option<(PathBuf, u64, String)>,
}

/// Reads every frame of the journal in `data_dir/journal`. Blocking.
///
/// # Errors
/// [`JournalError::InUse`] while a node works on it, [`JournalError::Corrupt`] for damage that a start refuses, too, and
/// what the operating system refuses.
pub fn inspect(data_dir: &Path) -> Result<JournalInspection, JournalError> {
    let _lock = shut_out(data_dir)?;
    let directory = data_dir.join("journal");
    let owner = owner(data_dir, &directory)?;
    let numbers = segment::list(&directory)?;
    let mut found = JournalInspection {
        owner: owner.as_ref().map(|owner| owner.identity.to_string()),
        segments: numbers.len(),
        pruned_before: base::list(&directory)?.last().copied(),
        ..JournalInspection::default()
    };
    for number in &numbers {
        let path = segment::path(&directory, *number);
        let (entries, end) = scan(&path)?;
        found.records += entries.len() as u64;
        for entry in &entries {
            if entry.kind == RecordKind::Commit {
                let index = Record::key_index(&entry.key);
                found.lowest_commit = Some(found.lowest_commit.map_or(index, |lowest| lowest.min(index)));
            }
            let highest = match entry.kind {
                RecordKind::Commit => &mut found.highest_commit,
                RecordKind::Mark => &mut found.highest_mark,
                RecordKind::ConsensusSnapshot => &mut found.highest_snapshot,
                _ => continue,
            };
            *highest = (*highest).max(Some(Record::key_index(&entry.key)));
        }
        let last = Some(number) == numbers.last();
        match end {
            End::Clean { offset, more } if !more || last => found.bytes += offset,
            End::Clean { offset, .. } => {
                let what = "a sealed segment ends early".to_owned();
                return Err(JournalError::Corrupt { path, offset, what });
            }
            End::Bad { offset, what } if last => {
                found.bytes += offset;
                found.torn = Some((path, offset, what));
            }
            End::Bad { offset, what } => return Err(JournalError::Corrupt { path, offset, what }),
        }
        // As a start does: a mark that says that more was once synced makes a short log a damaged one.
        if let (true, Some(owner)) = (last, &owner) {
            let path = segment::path(&directory, *number);
            let offset = match &found.torn {
                Some((_, offset, _)) => *offset,
                None => entries.last().map_or(0, |entry| u64::from(entry.offset) + u64::from(entry.length)),
            };
            let end = Cursor { segment: *number, offset };
            if let Some(synced) = frame::synced_beyond(&path, &owner.salt, end)? {
                let what = format!("the log was synced up to offset {} before", synced.offset);
                return Err(JournalError::Corrupt { path, offset, what });
            }
        }
    }
    Ok(found)
}

/// Holds the directory's lock, if there is a lock file, without writing into it.
fn shut_out(data_dir: &Path) -> Result<Option<File>, JournalError> {
    let path = data_dir.join("LOCK");
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(JournalError::io("open", &path)(error)),
    };
    match file.try_lock_exclusive() {
        Ok(()) => Ok(Some(file)),
        Err(error) if error.kind() == fs2::lock_contended_error().kind() => {
            Err(JournalError::InUse { directory: data_dir.to_owned(), holder: lock_holder(&mut file) })
        }
        Err(error) => Err(JournalError::io("lock", &path)(error)),
    }
}
