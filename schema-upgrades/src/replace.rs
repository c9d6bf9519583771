//! A copy of an open database takes its place, while both stay open.
//!
//! sled keeps its directory's name and writes files by it, so neither directory is renamed while it is open. A note says
//! which one counts; whoever opens the place next, once nobody has the copy open any more, renames it.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs2::FileExt as _;

use crate::error::UpgradeError;
use crate::lock::{self, now_ms};
use crate::swap::{self, Swap};

pub use crate::swap::NotNoted;

const COPY: &str = "rewrite";
/// Nothing that a person would call a database that is moved aside: what has this name is removed.
const OLD: &str = "rewritten";
/// How long sled's threads may take to let go of a database that was closed.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);
const RELEASE_POLL: Duration = Duration::from_millis(5);
/// A large file is cut shorter by so much at once: freeing gigabytes in one step holds up others' syncs.
const PIECE: u64 = 64 << 20;

/// A free name beside a database for its copy.
#[must_use]
pub fn place_for_copy(place: &Path) -> PathBuf {
    swap::free(place, COPY, now_ms())
}

/// Says durably that the database in `copy` counts from now on. Everything in it must be durable already.
///
/// # Errors
/// [`NotNoted::Refused`] if it does not, as where there is no room for the note. After [`NotNoted::Undecided`] either may:
/// write to neither before the next start.
pub fn adopt(place: &Path, copy: &Path) -> Result<(), NotNoted> {
    // Its name first: a note that outlives it would lead to nothing.
    swap::sync_folder(place).map_err(NotNoted::Refused)?;
    let aside = swap::free(place, OLD, now_ms());
    swap::begin(place, &Swap { new: copy.to_owned(), aside: Some(aside) })
}

/// Brings a copy that counts to its place, if a note says that there is one.
///
/// # Errors
/// [`UpgradeError::InUse`] while somebody has the copy open or removes the old one, [`UpgradeError::Io`].
pub fn settle(place: &Path) -> Result<(), UpgradeError> {
    swap::finish(place)
}

/// True if a note says that another directory counts than the one in the place.
#[must_use]
pub fn is_unsettled(place: &Path) -> bool {
    swap::note(place).exists()
}

/// The directory that counts: the one in the place, or the copy that a note names.
///
/// # Errors
/// [`UpgradeError::Io`] if there is a note that cannot be read.
pub fn counting(place: &Path) -> Result<PathBuf, UpgradeError> {
    let noted = swap::read(place)?.map(|swap| swap.new).filter(|new| new.exists());
    Ok(noted.unwrap_or_else(|| place.to_owned()))
}

/// Copies that were not finished and databases that were replaced, by names that only this module gives: a word and a
/// time of [`DIGITS`](swap::DIGITS) digits at the least. None while a note waits: one of them may count.
#[must_use]
pub fn leftovers(place: &Path) -> Vec<PathBuf> {
    if is_unsettled(place) {
        return Vec::new();
    }
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let heads = [COPY, OLD].map(|word| format!("{name}.{word}-"));
    let folder = place.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let time = |end: &str| end.len() >= swap::DIGITS && end.bytes().all(|it| it.is_ascii_digit());
    let names = entries.filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        heads.iter().any(|head| name.strip_prefix(head).is_some_and(time))
    });
    let mut found: Vec<PathBuf> = names.map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// Removes a closed database's directory, its large file piece by piece with a pause between. Returns the bytes it had.
///
/// # Errors
/// [`UpgradeError::InUse`] if somebody has it open, [`UpgradeError::Io`].
pub fn discard(directory: &Path, pause: Duration) -> Result<u64, UpgradeError> {
    let error = |doing| move |source| UpgradeError::Io { doing, path: directory.to_owned(), source };
    let lock = lock::take(directory)?;
    let mut bytes = 0;
    match OpenOptions::new().write(true).open(directory.join("db")) {
        Ok(file) => {
            let began = Instant::now();
            while file.try_lock_exclusive().is_err() {
                if began.elapsed() >= RELEASE_WITHIN {
                    return Err(UpgradeError::InUse { directory: directory.to_owned(), holder: Box::new(None) });
                }
                std::thread::sleep(RELEASE_POLL);
            }
            bytes = file.metadata().map_err(error("look at"))?.len();
            let mut left = bytes;
            while left > 0 {
                left = left.saturating_sub(PIECE);
                file.set_len(left).map_err(error("shorten"))?;
                if left > 0 {
                    std::thread::sleep(pause);
                }
            }
        }
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(error("open")(source)),
    }
    std::fs::remove_dir_all(directory).map_err(error("remove"))?;
    drop(lock);
    Ok(bytes)
}
