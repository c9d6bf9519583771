//! Room on the disk: which errors mean that there is none, and whether there is some again.
//!
//! The decision to wait for room rests on the operating system's error kinds, never on texts.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};

/// The file that tries whether there is room; there only for the moment of the trial.
const TRIAL: &str = "ROOM";
/// What the trial writes and syncs in earnest, bytes.
const WRITTEN: usize = 64 << 10;

/// Why a node cannot write into its data directory.
#[derive(Debug, thiserror::Error)]
pub enum NoRoom {
    /// The file system has less than is needed.
    #[error("no room in {}: {free} bytes are free, {needed} are needed", .path.display())]
    Low {
        /// The data directory.
        path: PathBuf,
        /// What is free there, bytes.
        free: u64,
        /// What is needed, bytes.
        needed: u64,
    },
    /// The system refuses: a full file system, a quota, or one that is read-only.
    #[error("no room in {}: {source}; {free} bytes are free, {needed} are needed", .path.display())]
    Refused {
        /// The data directory.
        path: PathBuf,
        /// What is free there, bytes: a quota may permit less.
        free: u64,
        /// What is needed, bytes.
        needed: u64,
        /// What the system said.
        source: io::Error,
    },
}

impl NoRoom {
    /// What is free, bytes.
    #[must_use]
    pub const fn free(&self) -> u64 {
        match self {
            Self::Low { free, .. } | Self::Refused { free, .. } => *free,
        }
    }
}

/// True if the system says that there is no room: a full file system (ENOSPC), a quota (EDQUOT), or a read-only one
/// (EROFS). A limit on the size of files (EFBIG) is none of these: no space that returns lifts it.
#[must_use]
pub fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem)
}

/// [`is_refusal`] of whatever error of the system stands behind this one. sled hands out clones of its first error, which
/// keep the kind alone.
#[must_use]
pub fn is_want_of_room(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let shared = error.downcast_ref::<Arc<io::Error>>().map(|shared| &**shared);
        let of_sled = error.downcast_ref::<sled::Error>().and_then(|error| match error {
            sled::Error::Io(error) => Some(error),
            _ => None,
        });
        if error.downcast_ref::<io::Error>().or(shared).or(of_sled).is_some_and(is_refusal) {
            return true;
        }
        next = error.source();
    }
    false
}

/// Gives a file room on the disk for its first `bytes` without making it shorter, and that length.
///
/// # Errors
/// What the system says, with its code. A file system that cannot give room gives the length alone.
pub(crate) fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    // The room first, the length afterwards: a file that got no room is no longer than it was.
    let given = rustix::io::retry_on_intr(|| fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes));
    match given.map_err(io::Error::from) {
        Err(error) if error.kind() != ErrorKind::Unsupported => return Err(error),
        _ => {}
    }
    if file.metadata()?.len() < bytes { file.set_len(bytes) } else { Ok(()) }
}

/// Whether `needed` bytes can be had and written in a directory, which is made if it is not there. Tried in earnest, since
/// the free space of a file system knows nothing of quotas; the file of the trial is removed. Blocking.
///
/// # Errors
/// [`NoRoom`] with the facts; anything else that the system says (a missing permission) is returned as it is.
pub fn try_room(directory: &Path, needed: u64) -> io::Result<Result<(), NoRoom>> {
    let (path, trial) = (directory.to_owned(), directory.join(TRIAL));
    let tried = try_at(directory, &trial, needed);
    let free = fs2::available_space(directory).unwrap_or(0);
    match tried {
        Ok(true) => Ok(Ok(())),
        Ok(false) => Ok(Err(NoRoom::Low { path, free, needed })),
        Err(source) if is_refusal(&source) => Ok(Err(NoRoom::Refused { path, free, needed, source })),
        Err(other) => Err(other),
    }
}

fn try_at(directory: &Path, trial: &Path, needed: u64) -> io::Result<bool> {
    std::fs::create_dir_all(directory)?;
    // What a killed process has left.
    remove(trial)?;
    // Not tried below that: others may need the little that is there.
    if fs2::available_space(directory)? < needed {
        return Ok(false);
    }
    let written = write_at(trial, needed);
    let removed = remove(trial);
    written.and(removed).map(|()| true)
}

fn write_at(trial: &Path, needed: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(trial)?;
    allocate(&file, needed)?;
    file.write_all(&[0; WRITTEN])?;
    file.sync_all()
}

fn remove(trial: &Path) -> io::Result<()> {
    match std::fs::remove_file(trial) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use aurigraph_schema_upgrades::UpgradeError;

    use super::*;
    use crate::storage::{JournalError, StoreError};
    use crate::tree::StartNodeError;

    const FULL: i32 = 28;
    const READ_ONLY: i32 = 30;
    const QUOTA: i32 = 122;
    const TOO_LARGE: i32 = 27;
    const BROKEN: i32 = 5;

    fn os(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    fn of_journal(code: i32) -> JournalError {
        JournalError::Io { doing: "write", path: "000001.seg".into(), source: Arc::new(os(code)) }
    }

    #[test]
    fn a_full_a_limited_and_a_read_only_disk_are_want_of_room_and_nothing_else_is() {
        for (code, expected) in [(FULL, true), (READ_ONLY, true), (QUOTA, true), (TOO_LARGE, false), (BROKEN, false)] {
            assert_eq!(is_refusal(&os(code)), expected, "{code}");
            let sled = || sled::Error::Io(os(code));
            let upgrade = UpgradeError::Io { doing: "back up", path: "store".into(), source: os(code) };
            let errors: Vec<Box<dyn Error>> = vec![
                Box::new(of_journal(code)),
                Box::new(StartNodeError::from(of_journal(code))),
                Box::new(of_journal(code).into_io()),
                Box::new(StoreError::from(sled())),
                // sled remembers the first error and answers with clones of it, which have lost the code.
                Box::new(StartNodeError::from(StoreError::from(sled().clone().clone()))),
                Box::new(StartNodeError::from(StoreError::from(Arc::new(upgrade)))),
                Box::new(StartNodeError::Directory { path: "data".into(), source: os(code) }),
            ];
            for error in errors {
                assert_eq!(is_want_of_room(&*error), expected, "{code}: {error:?}");
            }
        }
        let texts: Box<dyn Error> = "No space left on device (os error 28)".into();
        assert!(!is_want_of_room(&*texts), "a text decides nothing");
    }

    #[test]
    fn room_that_is_refused_keeps_the_systems_code_and_the_files_length() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::create_new(directory.path().join("file")).unwrap();
        // More than any file may hold.
        let error = allocate(&file, i64::MAX as u64).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(FULL | TOO_LARGE)), "{error:?}");
        assert_eq!(file.metadata().unwrap().len(), 0);
        allocate(&file, 10_000).unwrap();
        allocate(&file, 10).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 10_000, "never shorter");
    }

    #[test]
    fn the_trial_leaves_nothing_and_says_what_is_free_and_needed() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("new/v1");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join(TRIAL), "left by a killed process").unwrap();
        try_room(&data, 1 << 20).unwrap().unwrap();
        let no_room = try_room(&data, u64::MAX).unwrap().unwrap_err();
        assert!(no_room.free() > 0 && no_room.to_string().contains(&u64::MAX.to_string()), "{no_room}");
        assert!(no_room.to_string().contains(&data.display().to_string()), "{no_room}");
        assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
        // No want of room, and none that waiting would help: a file stands where the directory should.
        std::fs::write(directory.path().join("file"), "").unwrap();
        assert!(try_room(&directory.path().join("file"), 1).is_err());
    }
}
