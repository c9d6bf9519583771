//! Opening the store: at the right schema version, or anew beside what cannot be opened.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aurigraph_runtime::LeaseHolder;
use aurigraph_schema_upgrades::{Database, UpgradeError, node};
use parking_lot::Mutex;

use super::error::StoreError;
use super::reader::StoreReader;
use crate::bounds::storage::STORE_CACHE;

/// What may differ between nodes and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOptions {
    /// sled's cache in bytes.
    pub cache: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { cache: STORE_CACHE }
    }
}

/// What the actor's incarnations and the readers share.
pub(super) struct Shared {
    pub database: Database,
    pub node: String,
    /// Sequences of checkpoints that failed a check: never loaded again, the first to be overwritten.
    pub distrusted: Mutex<BTreeSet<u64>>,
    pub owner: LeaseHolder,
}

impl Shared {
    pub(super) fn distrusts(&self, sequence: u64) -> bool {
        self.distrusted.lock().contains(&sequence)
    }
}

/// An open store; cheap to clone. Made once per process and directory, before the actors.
#[derive(Clone)]
pub struct Store {
    pub(super) shared: Arc<Shared>,
    set_aside: Option<PathBuf>,
}

impl Store {
    /// Opens `data_dir/store` and brings it to this build's schema version. A database that is damaged is renamed to
    /// `store.bad-<seconds>` and a new one begun: its content is rebuilt from the journal. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Schema`] if another process has it, or if its schema needs an operator; [`StoreError::SetAside`].
    pub fn open(data_dir: &Path, node_name: &str, options: StoreOptions) -> Result<Self, StoreError> {
        let path = data_dir.join("store");
        let (database, set_aside) = match open_at(&path, options) {
            Ok(database) => (database, None),
            Err(error) if error.is_damage() => {
                let aside = set_aside(&path)?;
                tracing::error!(
                    alert = "store_set_aside", node = node_name, reason = %error, kept = %aside.display(),
                    "the store is damaged; it is set aside and its content rebuilt from the journal"
                );
                (open_at(&path, options).map_err(Arc::new)?, Some(aside))
            }
            Err(error) => return Err(Arc::new(error).into()),
        };
        let (node, distrusted, owner) = (node_name.to_owned(), Mutex::default(), LeaseHolder::new());
        Ok(Self { shared: Arc::new(Shared { database, node, distrusted, owner }), set_aside })
    }

    /// A reader; it outlives every incarnation of the store actor.
    #[must_use]
    pub fn reader(&self) -> StoreReader {
        StoreReader::new(Arc::clone(&self.shared))
    }

    /// Where the damaged database was put, if this start found one: reason for an audit entry and an alert.
    #[must_use]
    pub fn set_aside(&self) -> Option<&Path> {
        self.set_aside.as_deref()
    }
}

fn open_at(path: &Path, options: StoreOptions) -> Result<Database, UpgradeError> {
    let config = sled::Config::new().path(path).cache_capacity(options.cache).flush_every_ms(None);
    let database = Database::open(config)?;
    node::plan().upgrade(&database, None)?;
    Ok(database)
}

fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let free = (seconds..).map(|at| path.with_file_name(format!("store.bad-{at}"))).find(|aside| !aside.exists());
    let aside = free.unwrap_or_else(|| path.with_extension("bad"));
    match std::fs::rename(path, &aside) {
        Ok(()) => Ok(aside),
        Err(source) => Err(StoreError::SetAside { path: path.to_owned(), source: Arc::new(source) }),
    }
}
