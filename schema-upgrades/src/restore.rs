//! Restoring a backup: into a new directory first, then in the place of the old one, which is set aside and kept.

use std::path::{Path, PathBuf};

use crate::backup::{self, Backup};
use crate::content::Filling;
use crate::database::Database;
use crate::error::UpgradeError;
use crate::lock::{self, now_ms};
use crate::swap::{self, Swap};

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Restored {
    /// What was restored.
    pub backup: Backup,
    /// The directory that has it now.
    pub database: PathBuf,
    /// Where the database that was there before is kept.
    pub set_aside: Option<PathBuf>,
}

/// Restores a backup to a directory. Nothing is wiped: what is there is renamed to `<directory>.before-restore-<ms>`.
/// A crash before the swap leaves everything as it was; one in the swap is ended by the next [`Database::open`].
///
/// # Errors
/// [`UpgradeError::InUse`], [`UpgradeError::Backup`], [`UpgradeError::Io`], [`UpgradeError::Sled`].
pub fn restore(file: &Path, directory: &Path) -> Result<Restored, UpgradeError> {
    swap::finish(directory)?;
    // The old database may be damaged: it is locked, not opened.
    let lock = directory.exists().then(|| lock::take(directory)).transpose()?;
    let backup = backup::verify(file)?;
    let new = swap::free(directory, "restoring", now_ms());
    fill(file, &new)?;
    let aside = directory.exists().then(|| swap::free(directory, "before-restore", now_ms()));
    swap::begin(directory, &Swap { new, aside: aside.clone() })?;
    swap::finish_with(directory, lock)?;
    Ok(Restored { backup, database: directory.to_owned(), set_aside: aside })
}

fn fill(file: &Path, new: &Path) -> Result<(), UpgradeError> {
    let database = Database::open_at(new)?;
    let mut filling = Filling::new(&database);
    let backup = backup::read(file, |piece| filling.add(piece))?;
    filling.finish(&backup.content)
}
