//! Opening the store: at the right schema version, or anew beside what cannot be opened.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aurigraph_ledger::StateView;
use aurigraph_runtime::LeaseHolder;
use aurigraph_schema_upgrades::node::v004_address_index::Bodies;
use aurigraph_schema_upgrades::{Change, Database, Medium as _, UpgradeError, replace};
use parking_lot::{Mutex, RwLock};

use super::checkpoint;
use super::error::StoreError;
use super::layout::CHECKPOINTS;
use super::reader::StoreReader;
use super::redo;
use super::rewrite::{self, RewriteOptions};
use super::types::StoredCheckpoint;
use super::watch::Watch;
use crate::bounds::storage::{STORE_CACHE, STORE_DEADLINE};
use crate::release;
use crate::storage::journal::JournalReader;

/// What may differ between nodes and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOptions {
    /// sled's cache in bytes.
    pub cache: u64,
    /// Bring an older schema up by itself; without it, a store that is not new is refused with what to run.
    pub upgrade: bool,
    /// How long one piece of work may keep the store's thread.
    pub deadline: Duration,
    /// When the database is rewritten.
    pub rewrite: RewriteOptions,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { cache: STORE_CACHE, upgrade: true, deadline: STORE_DEADLINE, rewrite: RewriteOptions::NEVER }
    }
}

/// What the actor's incarnations and the readers share.
pub(super) struct Shared {
    pub database: RwLock<Database>,
    pub options: StoreOptions,
    pub node: String,
    /// The database's directory.
    pub path: PathBuf,
    /// Where word is left for the next start.
    suspect: PathBuf,
    /// Sequences of checkpoints that failed a check: never loaded again, the first to be overwritten.
    pub distrusted: Mutex<BTreeSet<u64>>,
    pub owner: LeaseHolder,
    /// Every block up to this height is indexed, without a hole. Written by the one writer, and kept here because the
    /// open database outlives it.
    pub indexed: AtomicU64,
    /// Since when the thread has been at its work.
    pub watch: Watch,
    /// Since when the syncing thread has been at a sync.
    pub syncing: Watch,
    /// Free bytes that the disk must have before the database is copied again, once there was too little for a copy.
    pub rewrite_room: AtomicU64,
    /// Keeps the next sync of the syncing thread until the sender is dropped.
    #[cfg(test)]
    pub held: Mutex<Option<std::sync::mpsc::Receiver<()>>>,
    /// The newest checkpoint as opening the store has read it, until it is asked for.
    pub first: Mutex<Option<StoredCheckpoint>>,
}

impl Shared {
    /// The database as it is now. Whoever reads it holds this: a database that was replaced is removed when nobody does.
    pub(super) fn database(&self) -> Database {
        self.database.read().clone()
    }

    /// An empty database beside the one in use.
    pub(super) fn open_beside(&self, place: &Path) -> Result<Database, StoreError> {
        let config = sled::Config::new().path(place).cache_capacity(self.options.cache).flush_every_ms(None);
        Ok(Database::open(config).map_err(Arc::new)?)
    }

    pub(super) fn distrusts(&self, sequence: u64) -> bool {
        self.distrusted.lock().contains(&sequence)
    }

    /// After a panic of sled, or a report of corruption: the next start sets this database aside. Restarts of the actor
    /// alone cannot help then, and once they are used up the process ends.
    pub(super) fn suspect(&self, reason: &str) {
        tracing::error!(alert = "store_damaged", node = self.node, reason, "the next start sets the store aside");
        if let Err(error) = std::fs::write(&self.suspect, reason) {
            tracing::error!(%error, path = %self.suspect.display(), "no word can be left for the next start");
        }
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
        Self::open_with(data_dir, node_name, options, None)
    }

    /// [`Store::open`] with the place of the transactions' bodies, which an upgrade of an older store may need.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn open_with(
        data_dir: &Path,
        node_name: &str,
        options: StoreOptions,
        bodies: Option<Arc<dyn Bodies>>,
    ) -> Result<Self, StoreError> {
        let path = data_dir.join("store");
        let suspect = data_dir.join(SUSPECT);
        // Also before a damaged one is set aside: it may not be in its place yet.
        replace::settle(&path).map_err(Arc::new)?;
        let (database, set_aside, first) = match open_whole(&path, &suspect, options, bodies.clone()) {
            Ok((database, first)) => (database, None, first),
            Err(Refusal::Damaged(reason)) => {
                let aside = set_aside(&path)?;
                tracing::error!(
                    alert = "store_set_aside", node = node_name, reason, kept = %aside.display(),
                    "the store is damaged; it is set aside and its content rebuilt from the journal"
                );
                match std::fs::remove_file(&suspect) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        tracing::warn!(%error, path = %suspect.display(), "the new store will be set aside as well");
                    }
                    _ => {}
                }
                (open_at(&path, options, bodies).map_err(Arc::new)?, Some(aside), None)
            }
            Err(Refusal::Other(error)) => return Err(error),
        };
        let store = Self::of(database, data_dir, node_name, options, set_aside);
        *store.shared.first.lock() = first;
        rewrite::clean(&store.shared.path, node_name);
        Ok(store)
    }

    /// Gives back the room that rewritings of `data_dir/store` still take, before anything is opened: a copy that counts comes
    /// to its place, unfinished copies and replaced databases go. What fails is told in the log alone. Blocking.
    pub fn clear(data_dir: &Path, node_name: &str) {
        rewrite::clear(&data_dir.join("store"), node_name);
    }

    /// Opens `data_dir/store` as it is: nothing is upgraded, mended, set aside or begun. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Schema`] if it is absent, in use, damaged, or of another schema version than this build's.
    pub fn examine(data_dir: &Path, node_name: &str, options: StoreOptions) -> Result<Self, StoreError> {
        // A rewritten one that waits for its place stays where it is.
        let path = replace::counting(&data_dir.join("store")).map_err(Arc::new)?;
        let absent = || UpgradeError::Io {
            doing: "open",
            path: path.clone(),
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        };
        if !path.is_dir() {
            return Err(Arc::new(absent()).into());
        }
        let config = sled::Config::new().path(&path).cache_capacity(options.cache).flush_every_ms(None);
        let database = Database::open(config).map_err(Arc::new)?;
        let look = || -> Result<(), UpgradeError> {
            let plan = release::schema_plan(None);
            plan.validate(&database)?;
            let status = plan.status(&database)?;
            if status.version < status.newest {
                return Err(UpgradeError::Pending { at: status.version, newest: status.newest });
            }
            Ok(())
        };
        catch_unwind(AssertUnwindSafe(look)).map_err(|_| StoreError::Panicked)?.map_err(Arc::new)?;
        Ok(Self::of(database, data_dir, node_name, options, None))
    }

    fn of(
        database: Database,
        data_dir: &Path,
        node_name: &str,
        options: StoreOptions,
        set_aside: Option<PathBuf>,
    ) -> Self {
        let (path, suspect) = (data_dir.join("store"), data_dir.join(SUSPECT));
        let (node, distrusted, owner) = (node_name.to_owned(), Mutex::default(), LeaseHolder::new());
        let indexed = AtomicU64::new(0);
        let (watch, syncing) = (Watch::new(options.deadline), Watch::new(options.deadline));
        let first = Mutex::default();
        let shared = Shared {
            database: RwLock::new(database),
            options,
            node,
            path,
            suspect,
            distrusted,
            owner,
            indexed,
            watch,
            syncing,
            rewrite_room: AtomicU64::new(0),
            #[cfg(test)]
            held: Mutex::default(),
            first,
        };
        Self { shared: Arc::new(shared), set_aside }
    }

    /// Writes a proven state into a store that holds none, or an older one, durably: execution goes on from there. Blocks
    /// before it stay out of the index. Before any actor runs.
    ///
    /// # Errors
    /// [`StoreError::NotEmpty`] if there is a state as new, or what the database says.
    pub fn install(&self, view: &StateView, commit_index: u64) -> Result<(), StoreError> {
        let database = &self.shared.database();
        let newest = checkpoint::headers(database)?.into_iter().flatten().max_by_key(|header| header.height);
        if let Some(there) = newest.filter(|there| there.height >= view.height()) {
            return Err(StoreError::NotEmpty { height: there.height });
        }
        // From an older one nothing would lead on: the log will begin with this state.
        database.apply(CHECKPOINTS, &checkpoint::SLOTS.map(|slot| Change::remove(&[slot])))?;
        database.flush()?;
        checkpoint::Checkpoints::default().write(
            database,
            &mut redo::Memory::default(),
            view,
            &[],
            commit_index,
            |_| false,
        )?;
        Ok(())
    }

    /// Completes the newest checkpoint from its redo record in the log, if a crash came between the two. Returns its height,
    /// if it did. Before any actor runs. Blocking.
    ///
    /// # Errors
    /// If sled fails, or the log cannot be read.
    pub fn complete(&self, journal: &JournalReader) -> Result<Option<u64>, StoreError> {
        let redo = redo::Logged { reader: journal.clone(), journal: None, syncer: None };
        let completed = redo::complete(&self.shared.database(), &redo)?;
        if let Some(height) = completed {
            tracing::info!(height, "a checkpoint that a crash had cut short is completed from the log");
        }
        Ok(completed)
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

/// Leaves word for the next start that this database made sled panic or report corruption: a file beside it.
pub const SUSPECT: &str = "store.suspect";

/// Why a database is not used.
enum Refusal {
    /// It is damaged: a new one helps.
    Damaged(String),
    /// Somebody else has it, or an operator is needed.
    Other(StoreError),
}

/// Opens the database and reads from every part of it that the node cannot start without.
fn open_whole(
    path: &Path,
    suspect: &Path,
    options: StoreOptions,
    bodies: Option<Arc<dyn Bodies>>,
) -> Result<(Database, Option<StoredCheckpoint>), Refusal> {
    if let Ok(reason) = std::fs::read_to_string(suspect) {
        return Err(Refusal::Damaged(format!("an earlier run found it damaged: {reason}")));
    }
    let database = open_at(path, options, bodies).map_err(|error| {
        if error.is_damage() { Refusal::Damaged(error.to_string()) } else { Refusal::Other(Arc::new(error).into()) }
    })?;
    match catch_unwind(AssertUnwindSafe(|| probe(&database))) {
        Ok(Ok(first)) => Ok((database, first)),
        Ok(Err(error)) if error.is_damage() => Err(Refusal::Damaged(error.to_string())),
        Ok(Err(error)) => Err(Refusal::Other(error)),
        Err(_) => Err(Refusal::Damaged("sled panicked while the store was read".to_owned())),
    }
}

fn open_at(path: &Path, options: StoreOptions, bodies: Option<Arc<dyn Bodies>>) -> Result<Database, UpgradeError> {
    let config = sled::Config::new().path(path).cache_capacity(options.cache).flush_every_ms(None);
    let database = Database::open(config)?;
    match catch_unwind(AssertUnwindSafe(|| bring_up(&database, options, bodies))) {
        Ok(result) => result.map(|()| database),
        Err(_) => {
            let text = "while its schema was read".to_owned();
            Err(UpgradeError::Panicked { path: path.to_owned(), text })
        }
    }
}

fn bring_up(database: &Database, options: StoreOptions, bodies: Option<Arc<dyn Bodies>>) -> Result<(), UpgradeError> {
    let plan = release::schema_plan(bodies);
    let status = plan.status(database)?;
    // A new store is no upgrade, and a newer or damaged one is refused by the upgrade itself.
    if !options.upgrade && (1..status.newest).contains(&status.version) {
        return Err(UpgradeError::Pending { at: status.version, newest: status.newest });
    }
    plan.upgrade(database, None).map(|_| ())
}

/// Reads both ends of every tree and the newest checkpoint, which it returns. What only fails its checksums is no reason
/// here: then the older checkpoint counts.
fn probe(database: &Database) -> Result<Option<StoredCheckpoint>, StoreError> {
    for name in database.trees() {
        let tree = database.sled().open_tree(name)?;
        tree.first()?;
        tree.last()?;
    }
    match checkpoint::candidates(database, |_| false)?.first() {
        Some((slot, header)) => checkpoint::load(database, *slot, header),
        None => Ok(None),
    }
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
