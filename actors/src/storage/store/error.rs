//! Why the store refuses or fails.

use std::path::PathBuf;

/// Why the store could not be opened, read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The schema is not one this build works with.
    #[error(transparent)]
    Schema(#[from] std::sync::Arc<aurigraph_schema_upgrades::UpgradeError>),
    /// sled failed.
    #[error("the store failed: {0}")]
    Sled(#[from] sled::Error),
    /// sled panicked, as it does on some damaged files.
    #[error("sled panicked on the store")]
    Panicked,
    /// The damaged database could not be set aside.
    #[error("the damaged store {} cannot be set aside: {source}", .path.display())]
    SetAside {
        /// The database's directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::sync::Arc<std::io::Error>,
    },
    /// A value does not have the form that it was written in.
    #[error("the store holds a damaged {what} (key {key})")]
    Damaged {
        /// Which kind of value.
        what: &'static str,
        /// Its key, in hex.
        key: String,
    },
    /// The view is not of a checkpoint.
    #[error(transparent)]
    NotACheckpoint(#[from] aurigraph_ledger::NotACheckpoint),
    /// A checkpoint ahead of the block index: after a crash the blocks between would be missing for ever.
    #[error("a checkpoint at height {height} while blocks are indexed without a hole up to {indexed}")]
    NotIndexed {
        /// The checkpoint's height.
        height: u64,
        /// The height up to which no block is missing.
        indexed: u64,
    },
    /// A state is installed into an empty store only.
    #[error("the store holds the state after block {height}")]
    NotEmpty {
        /// The newest one's height.
        height: u64,
    },
    /// The redo record cannot be written to the log or read from it.
    #[error("the redo record of a checkpoint: {0}")]
    Redo(String),
    /// The copy of a database that was being rewritten does not hold the same.
    #[error("the copy's tree {tree} does not hold the same")]
    Differs {
        /// The tree's name.
        tree: String,
    },
    /// The copy of a database that was being rewritten would leave too little on the disk.
    #[error("{free} bytes are free on the disk, and {spare} are to be left there")]
    LittleRoom {
        /// Bytes that are free.
        free: u64,
        /// Bytes that are to stay free.
        spare: u64,
    },
    /// Whether a rewritten database counts from now on is not known; it holds the same as the old one.
    #[error("the rewritten store may or may not be in its place: {0}")]
    Undecided(#[source] std::sync::Arc<aurigraph_schema_upgrades::UpgradeError>),
    /// The owning thread has ended, or its predecessor does not end.
    #[error("the store's thread: {0}")]
    Thread(String),
}

impl StoreError {
    /// True if only the request was wrong, not the store.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::NotACheckpoint(_) | Self::NotIndexed { .. } | Self::NotEmpty { .. })
    }

    /// True if the operating system refused to read or write: a full disk, a failing device. Neither a restart of the
    /// actor nor another database helps.
    #[must_use]
    pub fn is_of_the_system(&self) -> bool {
        match self {
            Self::Sled(error @ sled::Error::Io(_)) => !aurigraph_schema_upgrades::is_damage(error),
            Self::Undecided(_) => true,
            _ => false,
        }
    }

    /// True if the database itself is damaged: a new one helps, a restart does not.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Panicked | Self::Damaged { .. } => true,
            Self::Sled(error) => aurigraph_schema_upgrades::is_damage(error),
            _ => false,
        }
    }
}
