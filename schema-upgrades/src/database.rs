//! An open database: sled, locked for this process, with syncs that reach the disk.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::UpgradeError;
use crate::lock::{self, Lock};
use crate::medium::{Change, Medium, Pairs};
use crate::swap;

/// An open database; cheap to clone. The lock is released with the last clone.
#[derive(Clone)]
pub struct Database {
    db: sled::Db,
    path: Arc<PathBuf>,
    lock: Arc<Lock>,
}

/// How long an earlier user's threads may take to let go of sled's files.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);
const TOOL_CACHE: u64 = 64 << 20;
const RELEASE_POLL: Duration = Duration::from_millis(5);

/// True if sled could not lock its files. It says so with a made-up error, which would pass for damage.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().starts_with("could not acquire lock"))
}

impl Database {
    /// Locks and opens the database that the config names. A panic of sled comes back as an error. Blocking, for up to
    /// five seconds if the database was closed a moment ago: sled's own threads release its files late.
    ///
    /// # Errors
    /// [`UpgradeError::InUse`], [`UpgradeError::Sled`], [`UpgradeError::Panicked`], [`UpgradeError::Io`].
    pub fn open(config: sled::Config) -> Result<Self, UpgradeError> {
        let path = config.get_path();
        swap::finish(&path)?;
        let lock = lock::take(&path)?;
        let began = Instant::now();
        loop {
            match catch_unwind(AssertUnwindSafe(|| config.open())) {
                Ok(Ok(db)) => return Ok(Self { db, path: Arc::new(path), lock: Arc::new(lock) }),
                Ok(Err(source)) if is_locked(&source) => {
                    if began.elapsed() >= RELEASE_WITHIN {
                        return Err(UpgradeError::InUse { directory: path, holder: Box::new(None) });
                    }
                    std::thread::sleep(RELEASE_POLL);
                }
                Ok(Err(source)) => return Err(UpgradeError::Sled { path, source }),
                Err(panic) => return Err(UpgradeError::Panicked { path, text: panic_text(panic.as_ref()) }),
            }
        }
    }

    /// [`Database::open`] with what suits a tool: no flushes of sled's own, a small cache.
    ///
    /// # Errors
    /// Those of [`Database::open`].
    pub fn open_at(path: &Path) -> Result<Self, UpgradeError> {
        Self::open(sled::Config::new().path(path).flush_every_ms(None).cache_capacity(TOOL_CACHE))
    }

    /// The database itself.
    #[must_use]
    pub const fn sled(&self) -> &sled::Db {
        &self.db
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True if no other clone is left: nobody can begin to read or write it.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        Arc::strong_count(&self.lock) == 1
    }

    /// Makes everything written so far durable: sled's flush, which on Linux tells neither the file system's metadata
    /// nor the device's cache, and then a sync of each of its files through descriptors of our own.
    ///
    /// # Errors
    /// [`UpgradeError::Sled`], [`UpgradeError::Io`].
    pub fn sync(&self) -> Result<(), UpgradeError> {
        self.db.flush().map_err(|source| UpgradeError::Sled { path: self.path().to_owned(), source })?;
        sync_files(&self.path).map_err(|source| UpgradeError::Io {
            doing: "sync",
            path: self.path().to_owned(),
            source,
        })
    }
}

/// As sled would report it: with the system's code, by which a full disk is told from a damaged one.
fn of_sync(error: UpgradeError) -> sled::Error {
    match error {
        UpgradeError::Sled { source, .. } => source,
        UpgradeError::Io { source, .. } => sled::Error::Io(source),
        other => sled::Error::Io(std::io::Error::other(other.to_string())),
    }
}

/// Syncs a directory's files, its sub-directories' (sled keeps blobs in one), and the directories.
fn sync_files(directory: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let result = match entry.file_type() {
            Ok(kind) if kind.is_dir() => sync_files(&entry.path()),
            Ok(_) => File::open(entry.path()).and_then(|file| file.sync_all()),
            Err(error) => Err(error),
        };
        match result {
            // sled removes old snapshots meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    File::open(directory)?.sync_all()
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned())
}

impl Medium for Database {
    fn ensure_tree(&self, tree: &str) -> Result<(), sled::Error> {
        self.db.open_tree(tree).map(|_| ())
    }

    fn drop_tree(&self, tree: &str) -> Result<(), sled::Error> {
        self.db.drop_tree(tree).map(|_| ())
    }

    fn last_key(&self, tree: &str) -> Result<Option<Vec<u8>>, sled::Error> {
        Ok(self.db.open_tree(tree)?.last()?.map(|(key, _)| key.to_vec()))
    }

    fn trees(&self) -> Vec<String> {
        let names = self.db.tree_names();
        names.into_iter().map(|name| String::from_utf8_lossy(&name).into_owned()).collect()
    }

    fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, sled::Error> {
        Ok(self.db.open_tree(tree)?.get(key)?.map(|value| value.to_vec()))
    }

    fn scan(&self, tree: &str, after: Option<&[u8]>, limit: usize) -> Result<Pairs, sled::Error> {
        use std::ops::Bound;
        let tree = self.db.open_tree(tree)?;
        let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.to_vec()));
        let pairs = tree.range((from, Bound::<Vec<u8>>::Unbounded)).take(limit);
        pairs.map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
    }

    fn apply(&self, tree: &str, changes: &[Change]) -> Result<(), sled::Error> {
        let mut batch = sled::Batch::default();
        for change in changes {
            match &change.value {
                Some(value) => batch.insert(change.key.as_slice(), value.as_slice()),
                None => batch.remove(change.key.as_slice()),
            }
        }
        self.db.open_tree(tree)?.apply_batch(batch)
    }

    fn apply_each(&self, tree: &str, changes: &[Change]) -> Result<(), sled::Error> {
        let tree = self.db.open_tree(tree)?;
        for change in changes {
            match &change.value {
                Some(value) => tree.insert(change.key.as_slice(), value.as_slice())?,
                None => tree.remove(change.key.as_slice())?,
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), sled::Error> {
        self.sync().map_err(of_sync)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::is_damage;
    use crate::faults::{Fault, Faulty};

    #[test]
    fn changes_made_one_by_one_come_in_their_order_and_end_where_one_fails() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open_at(directory.path()).unwrap();
        database.ensure_tree("rows").unwrap();
        let changes = [
            Change::put(b"a", b"first"),
            Change::put(b"b", b"first"),
            Change::put(b"a", b"second"),
            Change::remove(b"b"),
            Change::put(b"c", b"first"),
        ];
        let pairs = |it: &[(&[u8], &[u8])]| -> Vec<_> { it.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect() };
        let after: [&[(&[u8], &[u8])]; 4] = [
            &[(b"a", b"first")],
            &[(b"a", b"first"), (b"b", b"first")],
            &[(b"a", b"second"), (b"b", b"first")],
            &[(b"a", b"second")],
        ];
        for (at, wanted) in (1..).zip(after) {
            let faulty = Faulty::new(&database, at, Fault::Before);
            faulty.apply_each("rows", &changes).unwrap_err();
            assert_eq!(database.scan("rows", None, 9).unwrap(), pairs(wanted), "change {at}");
        }
        database.apply_each("rows", &changes).unwrap();
        assert_eq!(database.scan("rows", None, 9).unwrap(), pairs(&[(b"a", b"second"), (b"c", b"first")]));
    }

    #[test]
    fn a_sync_for_which_there_is_no_room_keeps_the_systems_code_and_is_no_damage() {
        let (disk_full, path) = (28, PathBuf::from("store"));
        let source = std::io::Error::from_raw_os_error(disk_full);
        let error = of_sync(UpgradeError::Io { doing: "sync", path: path.clone(), source });
        assert!(!is_damage(&error) && !is_damage(&error.clone()), "{error:?}");
        let sled::Error::Io(io) = &error else { panic!("{error:?}") };
        assert_eq!((io.raw_os_error(), io.kind()), (Some(disk_full), std::io::ErrorKind::StorageFull));
        let source = sled::Error::Corruption { at: None, bt: () };
        assert!(is_damage(&of_sync(UpgradeError::Sled { path, source })));
    }
}
