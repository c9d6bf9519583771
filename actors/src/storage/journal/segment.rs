//! Segment files: their names, their listing, and what the file system must be told about them.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use super::base;
use super::error::JournalError;
use crate::storage::room;

/// `000001.seg`.
pub(super) fn path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:06}.seg"))
}

/// `000001.idx`, the sidecar of a sealed segment.
pub(super) fn sidecar_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:06}.idx"))
}

/// The numbers of the segments in a directory without a gap: from 1, or from where the log's base says that it begins.
/// What a pruning has left before that is no part of the log.
pub(super) fn list(directory: &Path) -> Result<Vec<u32>, JournalError> {
    let first = base::list(directory)?.last().copied();
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(JournalError::io("list", directory))? {
        let name = entry.map_err(JournalError::io("list", directory))?.file_name();
        let number: Option<u32> =
            name.to_str().and_then(|name| name.strip_suffix(".seg")).and_then(|digits| digits.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    let begin = first.unwrap_or(1);
    numbers.retain(|number| *number >= begin);
    if let (Some(first), true) = (first, numbers.is_empty()) {
        let what = "the segment with which the log begins is missing".to_owned();
        return Err(JournalError::Corrupt { path: path(directory, first), offset: 0, what });
    }
    for (expected, number) in (begin..).zip(&numbers) {
        if expected != *number {
            let what = format!("the segment is missing, segment {number} exists");
            return Err(JournalError::Corrupt { path: path(directory, expected), offset: 0, what });
        }
    }
    Ok(numbers)
}

/// Opens or creates a segment for writing and gives it room, so that appends change no metadata.
pub(super) fn open(path: &Path, room: u64) -> Result<File, JournalError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(JournalError::io("open", path))?;
    allocate(&file, path, room)?;
    Ok(file)
}

/// Cuts a segment to its records and gives it room again: what stood behind them is zero afterwards, so that no stale
/// frame can follow a new one.
pub(super) fn cut(file: &File, path: &Path, end: u64, room: u64) -> Result<(), JournalError> {
    file.set_len(end).map_err(JournalError::io("cut", path))?;
    file.sync_all().map_err(JournalError::io("sync", path))?;
    allocate(file, path, room)?;
    file.sync_all().map_err(JournalError::io("sync", path))
}

fn allocate(file: &File, path: &Path, room: u64) -> Result<(), JournalError> {
    if room == 0 {
        return Ok(());
    }
    room::allocate(file, room).map_err(JournalError::io("preallocate", path))
}

/// Makes created, renamed and removed names of a directory durable.
pub(super) fn sync_directory(directory: &Path) -> Result<(), JournalError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(JournalError::io("sync", directory))
}

/// Makes the names of a new directory and of those around it durable: any of them may be as new. One that may not be
/// opened or changed, or that knows no sync, is not ours.
pub(super) fn sync_above(directory: &Path) -> Result<(), JournalError> {
    use std::io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    let directory = directory.canonicalize().map_err(JournalError::io("find", directory))?;
    for above in directory.ancestors().skip(1) {
        match File::open(above).and_then(|file| file.sync_all()) {
            Err(error)
                if matches!(error.kind(), InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported) =>
            {
                return Ok(());
            }
            result => result.map_err(JournalError::io("sync", above))?,
        }
    }
    Ok(())
}
