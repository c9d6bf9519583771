//! A store that has lost its state while the beginning of the log is gone: it begins again with an own snapshot.

use std::path::Path;

use aurigraph_ledger::{Foundation, Ledger};

use super::horizon::is_own;
use crate::storage::snapshots::{self, Manifest, SnapshotError};
use crate::storage::{JournalReader, Store, StoreError};

/// Why such a store cannot begin again.
#[derive(Debug, thiserror::Error)]
pub enum RefillError {
    /// The folder of snapshots cannot be read.
    #[error(transparent)]
    Snapshots(Box<SnapshotError>),
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No snapshot leads to what is left of the log.
    #[error(
        "the store holds no state, the log begins with commit {oldest} and no snapshot of this node leads there: copy a \
         snapshot of another node into its folder (aurigraph snapshot restore), or start an empty directory with --rejoin"
    )]
    NoState {
        /// The first commit in the log.
        oldest: u64,
    },
}

impl From<SnapshotError> for RefillError {
    fn from(error: SnapshotError) -> Self {
        Self::Snapshots(Box::new(error))
    }
}

/// Gives a store without a state that of the newest usable snapshot, if the log no longer begins with the chain. Returns
/// the height, if it did. Before any actor runs. Blocking.
///
/// # Errors
/// [`RefillError`].
pub fn refill(
    data_dir: &Path,
    genesis: &Foundation,
    journal: &JournalReader,
    store: &Store,
) -> Result<Option<u64>, RefillError> {
    let oldest = journal.oldest_commit();
    if oldest <= 1 || store.reader().oldest_checkpoint_commit()?.is_some() {
        return Ok(None);
    }
    let (manifest, mut ledger) = own_snapshot(data_dir, genesis, journal, Which::Newest)?;
    store.install(&ledger.snapshot(), manifest.commit_index)?;
    tracing::warn!(
        alert = "store_refilled",
        height = manifest.height,
        "the store begins again with an own snapshot; blocks up to its height are not in the index"
    );
    Ok(Some(manifest.height))
}

/// Which of several snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The newest: least is left to be executed.
    Newest,
    /// The oldest: most of the log is gone through again.
    Oldest,
}

/// A snapshot that this node's log vouches for and from which the log leads on. Blocking.
///
/// # Errors
/// [`RefillError::NoState`], or what the system says.
pub fn own_snapshot(
    data_dir: &Path,
    genesis: &Foundation,
    journal: &JournalReader,
    which: Which,
) -> Result<(Manifest, Ledger), RefillError> {
    let oldest = journal.oldest_commit();
    let mut found = snapshots::list(data_dir)?;
    if which == Which::Oldest {
        found.reverse();
    }
    for found in found {
        match snapshots::load(&found.path, genesis) {
            Ok((manifest, ledger)) if manifest.commit_index + 1 >= oldest && is_own(journal, &manifest) => {
                return Ok((manifest, ledger));
            }
            Ok((manifest, _)) => {
                tracing::warn!(height = manifest.height, oldest, "a snapshot does not lead to what is left of the log");
            }
            Err(error) => tracing::error!(%error, "a snapshot cannot be used"),
        }
    }
    Err(RefillError::NoState { oldest })
}
