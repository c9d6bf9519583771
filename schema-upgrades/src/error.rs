//! Why a plan is no plan, and why a database cannot be used with it. Each says what mends it.

use std::path::PathBuf;

use crate::lock::Holder;
use crate::step::{StepError, label};

/// Why the steps of a program are no plan: a mistake of its authors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Versions count 1, 2, 3 …
    #[error("step {found} stands where version {expected} is expected: versions have no gaps and no duplicates")]
    Version {
        /// What should stand there.
        expected: u32,
        /// What does.
        found: String,
    },
    /// A name with other characters than a-z, 0-9 and _.
    #[error("the name {name:?} of version {version}: only a-z, 0-9 and _ are allowed")]
    Name {
        /// The version.
        version: u32,
        /// The name.
        name: String,
    },
}

/// Why a database cannot be opened, validated or upgraded.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// Another process has it.
    #[error("database {} is used by {}", .directory.display(), .holder.as_ref().as_ref().map_or_else(|| "another process".to_owned(), ToString::to_string))]
    InUse {
        /// The database.
        directory: PathBuf,
        /// Who, if it can be read.
        holder: Box<Option<Holder>>,
    },
    /// An applied step is not the one that this program knows.
    #[error(
        "{} was altered after it was applied: recorded {recorded}, declared {declared}. \
         Use the release that has it, or put it back: changes belong into a new step. `schema repair` accepts it if its \
         result is there", label(*.version, .name)
    )]
    Altered {
        /// The version.
        version: u32,
        /// The name in this program.
        name: String,
        /// What the history says, `name checksum`.
        recorded: String,
        /// What the program says.
        declared: String,
    },
    /// The history lacks a version below its newest.
    #[error(
        "{} is missing in the history, but version {newest} was applied. `schema repair` records it if its result is \
         there; `schema baseline --to {newest}` does on your word", label(*.version, .name)
    )]
    Missing {
        /// The version that is not in the history.
        version: u32,
        /// Its name.
        name: String,
        /// The newest version that is.
        newest: u32,
    },
    /// An older step was applied after a newer one.
    #[error(
        "{} was applied after version {after}: its result may have undone newer ones. `schema repair` checks that, \
         `schema restore FILE` goes back to before it", label(*.version, .name)
    )]
    OutOfOrder {
        /// The older step.
        version: u32,
        /// Its name.
        name: String,
        /// The newer one that was there before.
        after: u32,
    },
    /// The database was written by a newer program.
    #[error(
        "the database is at version {found} ({name}), this program knows up to {known}: use the newer release, go back \
         with its `schema downgrade --to {known}`, or `schema restore FILE`"
    )]
    UnknownFuture {
        /// The database's version.
        found: u32,
        /// Its name.
        name: String,
        /// The newest that this program knows.
        known: u32,
    },
    /// There are trees, but no history.
    #[error(
        "the database has content ({trees}) but no history: `schema repair` records the steps whose results are there; \
         `schema baseline --to N` says by hand which version it is at"
    )]
    Unversioned {
        /// Some of its trees.
        trees: String,
    },
    /// A step's result is there, but not in the history: what stopped the system before this one for days.
    #[error(
        "the result of {} is in the database, but the history does not have it. Nothing needs to be wiped: \
         `schema repair` records it, and `schema upgrade` goes over it without harm", label(*.version, .name)
    )]
    Unrecorded {
        /// The version that the history lacks.
        version: u32,
        /// Its name.
        name: String,
    },
    /// A way back was begun and not ended.
    #[error(
        "the downgrade from {} was interrupted after {chunks} chunks: `schema downgrade --to {}` ends it, \
         `schema upgrade` takes it back", label(*.version, .name), .version - 1
    )]
    HalfDowngraded {
        /// The version on whose way back it stopped.
        version: u32,
        /// Its name.
        name: String,
        /// Chunks that were done.
        chunks: u64,
    },
    /// An older database, and a program that was told not to upgrade by itself.
    #[error(
        "the database is at version {at}, this program needs {newest}, and it was told not to upgrade by itself: run \
         `schema dry-run` and then `schema upgrade`"
    )]
    Pending {
        /// Where it is.
        at: u32,
        /// What is needed.
        newest: u32,
    },
    /// The operator has ended the downgrade window.
    #[error("version {finalised} was finalised, there is no way back to {to}{}", hint(.backup.as_ref()))]
    Finalised {
        /// The finalised version.
        finalised: u32,
        /// What was asked for.
        to: u32,
        /// The backup from before.
        backup: Option<PathBuf>,
    },
    /// A step has no way back.
    #[error("{} has no way back{}", label(*.version, .name), hint(.backup.as_ref()))]
    NotReversible {
        /// The version.
        version: u32,
        /// Its name.
        name: String,
        /// The backup from before.
        backup: Option<PathBuf>,
    },
    /// A copy would not fit.
    #[error("a copy needs up to {needed} bytes, {} has {free}: make room or name another place", .path.display())]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// What it may need.
        needed: u64,
        /// What there is.
        free: u64,
    },
    /// A backup that cannot be used.
    #[error("the backup {} cannot be used: {problem}", .path.display())]
    Backup {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A history or progress row fails its checksum.
    #[error(
        "the {what} row {key} is damaged: `schema repair` writes it anew if the step's result is there, else restore a backup"
    )]
    Damaged {
        /// Which tree.
        what: &'static str,
        /// Which row.
        key: String,
    },
    /// A version that the plan does not have.
    #[error("there is no version {version}, the newest is {newest}")]
    NoSuchVersion {
        /// What was asked for.
        version: u32,
        /// What there is.
        newest: u32,
    },
    /// A baseline below what is already recorded.
    #[error("the database is already at version {at}, a baseline of {version} would go back")]
    BaselineBehind {
        /// Where it is.
        at: u32,
        /// What was asked for.
        version: u32,
    },
    /// A step failed; the next upgrade goes on at the same chunk.
    #[error("{} failed in chunk {chunk}: {source}. The next upgrade resumes there", label(*.version, .name))]
    Step {
        /// The version.
        version: u32,
        /// The name.
        name: String,
        /// The chunk, from 1.
        chunk: u64,
        /// Why.
        source: StepError,
    },
    /// sled failed.
    #[error("sled failed on {}: {source}", .path.display())]
    Sled {
        /// The database.
        path: PathBuf,
        /// What it said.
        source: sled::Error,
    },
    /// sled panicked, as it does on some damaged files.
    #[error("sled panicked on {}: {text}", .path.display())]
    Panicked {
        /// The database.
        path: PathBuf,
        /// What it said.
        text: String,
    },
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
}

fn hint(backup: Option<&PathBuf>) -> String {
    backup.map_or_else(String::new, |path| format!(": `schema restore {}` goes back to before it", path.display()))
}

impl UpgradeError {
    /// True if the files themselves are damaged: setting the database aside can help, asking an operator cannot.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Sled { source, .. } => is_damage(source),
            Self::Panicked { .. } | Self::Damaged { .. } => true,
            _ => false,
        }
    }
}

/// True if sled's error says that the files are damaged. A full disk, a missing permission or a failing device is the
/// operating system's word, and no reason to give a database up.
#[must_use]
pub fn is_damage(error: &sled::Error) -> bool {
    match error {
        sled::Error::Io(error) => !is_of_the_system(error) || error.kind() == std::io::ErrorKind::NotFound,
        _ => true,
    }
}

/// True if the error came from the operating system. sled keeps its first error and hands out clones, in which the code
/// is gone and only the kind and the debug text (`Os { code: 28, … }`) are left.
fn is_of_the_system(error: &std::io::Error) -> bool {
    error.raw_os_error().is_some() || error.to_string().contains("Os { code: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operating_system_refuses_is_no_damage() {
        let os = |code| sled::Error::Io(std::io::Error::from_raw_os_error(code));
        let (no_permission, io, disk_full, read_only, no_file) = (13, 5, 28, 30, 2);
        for code in [no_permission, io, disk_full, read_only] {
            assert!(!is_damage(&os(code)), "{code}");
            // sled remembers the first error and answers with clones of it, which have lost the code.
            assert!(!is_damage(&os(code).clone()), "{code} in a clone");
            assert!(!is_damage(&os(code).clone().clone()), "{code} in a clone of a clone");
        }
        assert!(is_damage(&os(no_file).clone()));
        assert!(is_damage(&sled::Error::Io(std::io::Error::other("crc mismatch")).clone()));
        assert!(is_damage(&os(no_file)));
        assert!(is_damage(&sled::Error::Io(std::io::Error::other("crc mismatch"))));
        assert!(is_damage(&sled::Error::Corruption { at: None, bt: () }));
    }
}
