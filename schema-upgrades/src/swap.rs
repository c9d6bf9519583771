//! Putting a new directory in an old one's place, so that a crash in between is ended by whoever comes next.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use fs2::FileExt as _;
use serde::{Deserialize, Serialize};

use crate::error::UpgradeError;
use crate::lock::{self, Lock};

/// Both renames, written down before the first one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Swap {
    /// Comes into the place. Beside it, like the other.
    pub new: PathBuf,
    /// Where the old one goes, if there is one.
    pub aside: Option<PathBuf>,
}

/// Why a swap is not written down.
#[derive(Debug, thiserror::Error)]
pub enum NotNoted {
    /// It certainly is not: what counted before counts still.
    #[error(transparent)]
    Refused(UpgradeError),
    /// The next start may find the note, or not.
    #[error(transparent)]
    Undecided(UpgradeError),
}

impl From<NotNoted> for UpgradeError {
    fn from(error: NotNoted) -> Self {
        match error {
            NotNoted::Refused(error) | NotNoted::Undecided(error) => error,
        }
    }
}

/// `<place>.<suffix>` beside a directory.
pub(crate) fn beside(place: &Path, suffix: &str) -> PathBuf {
    let mut name = place.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{suffix}"));
    place.with_file_name(name)
}

/// Digits of the time in names: milliseconds since 1970, for three centuries.
pub(crate) const DIGITS: usize = 13;

/// The first free name `<place>.<word>-<ms>`.
pub(crate) fn free(place: &Path, word: &str, ms: u64) -> PathBuf {
    let names = (ms..).map(|at| beside(place, &format!("{word}-{at:0DIGITS$}")));
    names.into_iter().find(|path| !path.exists()).unwrap_or_else(|| beside(place, word))
}

pub(crate) fn note(place: &Path) -> PathBuf {
    beside(place, "swap")
}

fn io(doing: &'static str, path: &Path) -> impl Fn(std::io::Error) -> UpgradeError {
    move |source| UpgradeError::Io { doing, path: path.to_owned(), source }
}

/// Makes the names in a directory's folder durable.
pub(crate) fn sync_folder(place: &Path) -> Result<(), UpgradeError> {
    let folder = place.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|it| it.sync_all()).map_err(io("sync", folder))
}

/// Writes down what is to be done, also where an earlier note waits.
pub(crate) fn begin(place: &Path, swap: &Swap) -> Result<(), NotNoted> {
    let (note, part) = (note(place), beside(place, "swap.part"));
    let refused = |error| NotNoted::Refused(io("write", &note)(error));
    let text = serde_json::to_vec(swap).map_err(|error| refused(error.into()))?;
    let write = || {
        let mut file = File::create(&part)?;
        file.write_all(&text)?;
        file.sync_all()
    };
    let written = write().and_then(|()| std::fs::rename(&part, &note));
    if let Err(error) = written {
        if std::fs::read(&note).is_ok_and(|there| there == text) {
            return Err(NotNoted::Undecided(io("write", &note)(error)));
        }
        // Harmless if it stays: the next one is written over it.
        let _ = std::fs::remove_file(&part);
        return Err(refused(error));
    }
    sync_folder(place).map_err(NotNoted::Undecided)
}

/// What a note says. Both names are beside the place, wherever the folder was moved or copied to since.
fn parse(place: &Path, text: &str) -> Result<Swap, UpgradeError> {
    let swap: Swap = serde_json::from_str(text).map_err(|error| io("read", &note(place))(error.into()))?;
    let here = |path: &Path| path.file_name().map_or_else(|| path.to_owned(), |name| place.with_file_name(name));
    Ok(Swap { new: here(&swap.new), aside: swap.aside.as_deref().map(here) })
}

/// What is written down, if anything is.
pub(crate) fn read(place: &Path) -> Result<Option<Swap>, UpgradeError> {
    match std::fs::read_to_string(note(place)) {
        Ok(text) => parse(place, &text).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("read", &note(place))(error)),
    }
}

/// Does what was written down, or what is left of it. Without a note, nothing.
pub(crate) fn finish(place: &Path) -> Result<(), UpgradeError> {
    finish_with(place, None)
}

/// [`finish`] by who has the place's lock already, if so.
pub(crate) fn finish_with(place: &Path, held: Option<Lock>) -> Result<(), UpgradeError> {
    let note = note(place);
    let mut file = match OpenOptions::new().read(true).write(true).open(&note) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("open", &note)(error)),
    };
    file.lock_exclusive().map_err(io("lock", &note))?;
    if !note.exists() {
        // Somebody else has ended it meanwhile.
        return Ok(());
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(io("read", &note))?;
    let swap = parse(place, &text)?;
    if swap.new.exists() {
        // Whoever has it open writes files by its name, and whoever removes the old one does so by the place's.
        let _new = lock::take(&swap.new)?;
        let _old = match held {
            None if place.exists() => Some(lock::take(place)?),
            held => held,
        };
        // Looked at again: with the lock nobody removes it any more, but until then somebody may have.
        if let Some(aside) = swap.aside.as_ref().filter(|aside| place.exists() && !aside.exists()) {
            std::fs::rename(place, aside).map_err(io("rename", place))?;
            sync_folder(place)?;
        }
        std::fs::rename(&swap.new, place).map_err(io("rename", &swap.new))?;
        sync_folder(place)?;
    }
    std::fs::remove_file(&note).map_err(io("remove", &note))?;
    sync_folder(place)
}
