//! Why the journal refuses or fails.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the journal could not be opened, read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// Another process works on the directory.
    #[error("data directory {} is used by process {holder}", .directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// What the lock file says about its holder.
        holder: String,
    },
    /// The directory belongs to another chain or node.
    #[error("data directory {} belongs to {found}; this is {expected}", .directory.display())]
    Foreign {
        /// The directory.
        directory: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asked.
        expected: String,
    },
    /// A validator's directory without its first record: an earlier signature of it may exist elsewhere.
    #[error(
        "data directory {} was never initialised for validator {node}: start it once with --init if {node} has never \
         signed on this chain, or with --rejoin if it has and its directory is lost", .directory.display()
    )]
    Uninitialised {
        /// The directory.
        directory: PathBuf,
        /// The validator.
        node: String,
    },
    /// A directory that holds records, but not the one that says whose they are.
    #[error("{} holds records but does not say whose they are", .directory.display())]
    NoOwner {
        /// The directory.
        directory: PathBuf,
    },
    /// A frame in a place where no torn write can be.
    #[error("{} is corrupt at offset {offset}: {what}", .path.display())]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// The record is larger than a frame may be.
    #[error("a record of {bytes} bytes exceeds the maximum of {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The maximum.
        max: usize,
    },
    /// The operating system refused.
    #[error("{} failed on {}: {source}", .doing, .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        source: Arc<std::io::Error>,
    },
    /// An earlier write or sync failed: nothing more is written by this process.
    #[error("the journal has failed before: {0}")]
    Poisoned(String),
    /// The owning thread has ended, or its predecessor does not end.
    #[error("the journal's thread: {0}")]
    Thread(String),
}

impl JournalError {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source: Arc::new(source) }
    }

    /// The error as readers report it.
    #[must_use]
    pub fn into_io(self) -> std::io::Error {
        let kind = match &self {
            Self::Io { source, .. } => source.kind(),
            Self::Corrupt { .. } => std::io::ErrorKind::InvalidData,
            _ => std::io::ErrorKind::Other,
        };
        std::io::Error::new(kind, self)
    }
}
