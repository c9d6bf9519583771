//! Rewriting the database, since sled never gives space back (ADR 0045).
//!
//! All of it happens on the writing thread, in slices between its other work, so nothing is written behind the copy's
//! back: while there is a copy, every write goes to both. First the live data is measured; if the file is larger than so
//! many times that, everything is copied, the copy made durable by a thread of its own, and compared with the database.
//! Between two checkpoints a note says that the copy counts, and from then on it is the database. The old one is removed
//! once nobody reads it any more.

use std::cell::Cell;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use aurigraph_schema_upgrades::replace::{self, NotNoted};
use aurigraph_schema_upgrades::{Change, Database, Medium, Pairs};

use super::error::StoreError;
use super::open::Shared;
use crate::bounds::storage as bounds;
use crate::storage::room::is_want_of_room;

/// When a database is rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RewriteOptions {
    /// Once it takes more than so many times its keys and values on disk; 0 for never.
    pub factor: u64,
    /// Never while it takes fewer bytes than this.
    pub floor: u64,
}

impl RewriteOptions {
    /// Not at all.
    pub const NEVER: Self = Self { factor: 0, floor: 0 };
}

/// What the writing thread writes to: the database, and its copy while there is one.
pub(super) struct Both<'a> {
    database: Database,
    copy: Option<&'a Copying>,
}

impl Medium for Both<'_> {
    fn ensure_tree(&self, tree: &str) -> Result<(), sled::Error> {
        self.database.ensure_tree(tree)?;
        self.mirror(|copy| copy.ensure_tree(tree));
        Ok(())
    }

    fn drop_tree(&self, tree: &str) -> Result<(), sled::Error> {
        self.database.drop_tree(tree)?;
        self.mirror(|copy| copy.drop_tree(tree));
        Ok(())
    }

    fn last_key(&self, tree: &str) -> Result<Option<Vec<u8>>, sled::Error> {
        self.database.last_key(tree)
    }

    fn trees(&self) -> Vec<String> {
        self.database.trees()
    }

    fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, sled::Error> {
        self.database.get(tree, key)
    }

    fn scan(&self, tree: &str, after: Option<&[u8]>, limit: usize) -> Result<Pairs, sled::Error> {
        self.database.scan(tree, after, limit)
    }

    /// Also where the copy has not come to yet: what it finds there later is the same.
    fn apply(&self, tree: &str, changes: &[Change]) -> Result<(), sled::Error> {
        self.database.apply(tree, changes)?;
        self.count(changes);
        self.mirror(|copy| copy.apply(tree, changes));
        Ok(())
    }

    fn apply_each(&self, tree: &str, changes: &[Change]) -> Result<(), sled::Error> {
        self.database.apply_each(tree, changes)?;
        self.count(changes);
        self.mirror(|copy| copy.apply_each(tree, changes));
        Ok(())
    }

    /// The copy is made durable at its end.
    fn flush(&self) -> Result<(), sled::Error> {
        self.database.flush()
    }
}

impl Both<'_> {
    /// Counts what the copy's next sync will have to write.
    fn count(&self, changes: &[Change]) {
        if let Some(copying) = self.copy {
            let bytes: usize = changes.iter().map(|it| it.key.len() + it.value.as_ref().map_or(0, Vec::len)).sum();
            copying.unsynced.set(copying.unsynced.get() + bytes);
        }
    }

    /// A copy that fails is given up; the database goes on.
    fn mirror(&self, write: impl FnOnce(&Database) -> Result<(), sled::Error>) {
        if let Some(copying) = self.copy {
            copying.guarded(write);
        }
    }
}

/// How far the rewriting is.
enum Work {
    Idle,
    /// The live data is measured.
    Measure(Walk),
    /// The copy's database is being made.
    Open(Helper, Receiver<Result<Database, StoreError>>),
    Copy(Box<Copying>),
}

/// A walk over all trees.
struct Walk {
    trees: Vec<String>,
    at: usize,
    after: Option<Vec<u8>>,
    /// Bytes of keys and values so far.
    bytes: u64,
}

impl Walk {
    fn new(database: &Database) -> Self {
        Self { trees: database.trees(), at: 0, after: None, bytes: 0 }
    }

    /// The next pairs of one tree: few enough for a slice. None at the end of all.
    fn next(&mut self, database: &Database) -> Result<Option<Piece>, StoreError> {
        let Some(name) = self.trees.get(self.at).cloned() else { return Ok(None) };
        let tree = database.sled().open_tree(&name)?;
        let after = self.after.take();
        let from = after.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let (began, mut bytes, mut pairs, mut end) = (Instant::now(), 0, Vec::new(), true);
        for pair in tree.range((from, Bound::<Vec<u8>>::Unbounded)) {
            let (key, value) = pair?;
            bytes += key.len() + value.len();
            pairs.push(Change::put(&key, &value));
            if pairs.len() == bounds::STORE_BATCH_KEYS
                || bytes >= bounds::CHECKPOINT_SLICE
                || began.elapsed() >= bounds::SLICE_WANTED
            {
                end = false;
                break;
            }
        }
        self.bytes += bytes as u64;
        // Not one slice more for what is appended meanwhile: it might never end.
        if end {
            self.at += 1;
        } else {
            self.after = pairs.last().map(|last| last.key.clone());
        }
        Ok(Some(Piece { tree: name, after, pairs, end, bytes }))
    }
}

/// Successive pairs of a tree.
struct Piece {
    tree: String,
    /// The key before the first.
    after: Option<Vec<u8>>,
    pairs: Vec<Change>,
    /// There are no others behind them.
    end: bool,
    /// Of keys and values.
    bytes: usize,
}

impl Piece {
    /// True if a database has the same pairs there.
    fn is_in(&self, database: &Database) -> Result<bool, sled::Error> {
        let from = self.after.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let last = self.pairs.last().filter(|_| !self.end);
        let to = last.map_or(Bound::Unbounded, |last| Bound::Included(last.key.clone()));
        let mut wanted = self.pairs.iter();
        for pair in database.sled().open_tree(&self.tree)?.range((from, to)) {
            let (key, value) = pair?;
            if !wanted.next().is_some_and(|it| it.key == *key && it.value.as_deref() == Some(&*value)) {
                return Ok(false);
            }
        }
        Ok(wanted.next().is_none())
    }
}

/// The database that takes the old one's place.
struct Copying {
    database: Database,
    walk: Walk,
    began: Instant,
    /// Bytes copied, and written besides, since the last sync was asked for.
    unsynced: Cell<usize>,
    /// A sync under way.
    syncing: Option<Receiver<Result<(), StoreError>>>,
    /// Everything is copied, and the last sync asked for; the walk is the one that compares.
    last: bool,
    /// Something was promised to be durable after the last sync was asked for.
    promised: bool,
    /// Syncs asked for since the copy could take the old one's place.
    ending: u32,
    broken: Cell<Option<StoreError>>,
    helper: Helper,
}

impl Copying {
    /// Has everything written so far made durable, if the disk has room for more. Whoever writes there besides, a node needs
    /// the rest.
    fn sync(&mut self, free: u64) -> Result<(), StoreError> {
        if free < bounds::REWRITE_SPARE {
            return Err(StoreError::LittleRoom { free, spare: bounds::REWRITE_SPARE });
        }
        self.unsynced.set(0);
        self.promised = false;
        self.syncing = Some(self.helper.sync());
        Ok(())
    }

    fn guarded<T>(&self, work: impl FnOnce(&Database) -> Result<T, sled::Error>) -> Option<T> {
        let done = catch_unwind(AssertUnwindSafe(|| work(&self.database)));
        match done.map_or(Err(StoreError::Panicked), |done| done.map_err(StoreError::from)) {
            Ok(done) => Some(done),
            Err(error) => {
                self.broken.set(Some(error));
                None
            }
        }
    }
}

/// What the copy's own thread does.
enum Order {
    Sync(SyncSender<Result<(), StoreError>>),
    /// The copy counts; this one is removed.
    Adopted(Database),
    /// Whether the copy counts is not known: nothing is removed.
    Undecided,
}

/// The copy's own thread: makes its database, syncs it, and removes what is not wanted in the end: the copy, or the old
/// database once the copy has taken its place. It touches nothing that counts, so nobody waits for its end.
struct Helper(SyncSender<Order>);

impl Helper {
    fn start(
        shared: &Arc<Shared>,
        place: PathBuf,
    ) -> Result<(Self, Receiver<Result<Database, StoreError>>), StoreError> {
        // An order is given once the one before is done: nobody waits for a place.
        let (orders, ordered) = sync_channel(1);
        let (made, making) = sync_channel(1);
        let shared = Arc::clone(shared);
        let thread = std::thread::Builder::new().name("store-rewrite".to_owned());
        let run = move || {
            let opened = shared.open_beside(&place);
            let copy = opened.as_ref().ok().cloned();
            let _ = made.send(opened);
            let Some(copy) = copy else {
                remove(&place, &shared.node);
                return;
            };
            let unwanted = loop {
                match ordered.recv() {
                    Ok(Order::Sync(answer)) => {
                        let done = catch_unwind(AssertUnwindSafe(|| copy.flush()));
                        let _ = answer.send(done.map_or(Err(StoreError::Panicked), |done| Ok(done?)));
                    }
                    Ok(Order::Adopted(old)) => {
                        drop(copy);
                        break old;
                    }
                    Ok(Order::Undecided) => return,
                    Err(_) => break copy,
                }
            };
            let (path, node) = (unwanted.path().to_owned(), shared.node.clone());
            drop(shared);
            let began = Instant::now();
            while !unwanted.is_alone() {
                if began.elapsed() > bounds::REWRITE_READERS {
                    tracing::warn!(node, path = %path.display(), "still read from: the next start removes it");
                    return;
                }
                std::thread::sleep(bounds::REWRITE_POLL);
            }
            drop(unwanted);
            remove(&path, &node);
        };
        thread.spawn(run).map_err(|error| StoreError::Thread(error.to_string()))?;
        Ok((Self(orders), making))
    }

    fn sync(&self) -> Receiver<Result<(), StoreError>> {
        let (answer, receiver) = sync_channel(1);
        // Without the thread the receiver says so.
        let _ = self.0.send(Order::Sync(answer));
        receiver
    }
}

fn remove(path: &Path, node: &str) {
    match replace::discard(path, bounds::REWRITE_PAUSE) {
        Ok(bytes) => tracing::info!(node, bytes, path = %path.display(), "a database that is not wanted is removed"),
        Err(error) => tracing::warn!(node, %error, path = %path.display(), "left for the next start to remove"),
    }
}

/// Decides about the rewriting, and does it.
pub(super) struct Rewriter {
    options: RewriteOptions,
    work: Work,
    /// When the next slice is due.
    due: Instant,
    /// Size on disk when the live data was last measured, or a copy given up.
    measured: u64,
    /// Size on disk after the last rewriting.
    rewritten: u64,
    /// Bytes of keys and values when they were last measured.
    live: u64,
    /// A copy is wanted as soon as the disk has room for it.
    waits: bool,
    /// Free bytes on the disk of a folder.
    free: Box<dyn Fn(&Path) -> u64>,
}

fn available(folder: &Path) -> u64 {
    fs2::available_space(folder).unwrap_or(u64::MAX)
}

impl Rewriter {
    pub(super) fn new(options: RewriteOptions) -> Self {
        let (work, due, free) = (Work::Idle, Instant::now(), Box::new(available));
        Self { options, work, due, measured: 0, rewritten: 0, live: 0, waits: false, free }
    }

    /// When the next slice is due, if there is something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        (!matches!(self.work, Work::Idle)).then_some(self.due)
    }

    /// Where to write.
    pub(super) fn both(&self, shared: &Shared) -> Both<'_> {
        let copy = if let Work::Copy(copying) = &self.work { Some(&**copying) } else { None };
        Both { database: shared.database(), copy }
    }

    /// Something that was written is promised to be durable: it is to be so in the copy, too, before that counts.
    pub(super) fn promised(&mut self) {
        if let Work::Copy(copying) = &mut self.work {
            copying.promised = true;
        }
    }

    /// The copy under way loses a key, once everything is copied.
    #[cfg(test)]
    pub(super) fn falsify_copy(&mut self, tree: &str, key: &[u8]) -> bool {
        let Work::Copy(copying) = &self.work else { return false };
        copying.last && copying.database.sled().open_tree(tree).unwrap().remove(key).unwrap().is_some()
    }

    /// Lets a test say how much is free.
    #[cfg(test)]
    pub(super) fn set_free(&mut self, free: impl Fn() -> u64 + 'static) {
        self.free = Box::new(move |_| free());
    }

    /// Bytes of keys and values when they were last measured.
    #[cfg(test)]
    pub(super) const fn live(&self) -> u64 {
        self.live
    }

    /// There is a copy, or it is being made.
    #[cfg(test)]
    pub(super) const fn is_copying(&self) -> bool {
        matches!(self.work, Work::Open(..) | Work::Copy(_))
    }

    /// Everything is copied: bytes in the copy that were not synced.
    #[cfg(test)]
    pub(super) fn unsynced(&self) -> Option<usize> {
        let Work::Copy(copying) = &self.work else { return None };
        copying.last.then(|| copying.unsynced.get())
    }

    /// The copy is the same, and synced at least once since it was made.
    #[cfg(test)]
    pub(super) fn is_compared(&self) -> bool {
        let Work::Copy(copying) = &self.work else { return false };
        copying.last && copying.syncing.is_none() && copying.walk.at == copying.walk.trees.len()
    }

    /// The copy under way fails.
    #[cfg(test)]
    pub(super) fn break_copy(&mut self) -> bool {
        let Work::Copy(copying) = &self.work else { return false };
        copying.broken.set(Some(StoreError::Panicked));
        true
    }

    /// Looks at the size, after a checkpoint. A node that is `behind` has other things to do, up to a larger size: while a
    /// copy is made, everything is written twice.
    pub(super) fn look(&mut self, shared: &Arc<Shared>, behind: bool) -> Result<(), StoreError> {
        let database = shared.database();
        let size = database.sled().size_on_disk()?;
        metrics::gauge!("store_disk_bytes", "node" => shared.node.clone()).set(size as f64);
        if self.options.factor == 0 || size < self.options.floor || !matches!(self.work, Work::Idle) {
            return Ok(());
        }
        if behind && size < self.options.floor.max(self.measured).saturating_mul(bounds::REWRITE_BEHIND) {
            return Ok(());
        }
        if size >= (self.measured / 4 * 5).max(self.rewritten / 2 * 3) {
            (self.measured, self.waits) = (size, false);
            self.work = Work::Measure(Walk::new(&database));
            self.due = Instant::now();
        } else if self.waits {
            self.decide(shared)?;
        }
        Ok(())
    }

    /// Does a slice; `between` says that no checkpoint is being written. True if the copy has taken the old one's place.
    pub(super) fn slice(&mut self, shared: &Arc<Shared>, between: bool) -> Result<bool, StoreError> {
        let began = Instant::now();
        let adopted = self.step(shared, between);
        let took = began.elapsed();
        metrics::histogram!("store_rewrite_slice_seconds", "node" => shared.node.clone()).record(took.as_secs_f64());
        self.due = Instant::now() + (took * bounds::REWRITE_REST).max(bounds::REWRITE_POLL);
        adopted
    }

    fn step(&mut self, shared: &Arc<Shared>, between: bool) -> Result<bool, StoreError> {
        match std::mem::replace(&mut self.work, Work::Idle) {
            Work::Idle => {}
            Work::Measure(mut walk) => {
                if walk.next(&shared.database())?.is_some() {
                    self.work = Work::Measure(walk);
                } else {
                    self.live = walk.bytes;
                    metrics::gauge!("store_live_bytes", "node" => shared.node.clone()).set(self.live as f64);
                    self.decide(shared)?;
                }
            }
            Work::Open(helper, making) => match making.try_recv() {
                Ok(Ok(database)) => self.work = Work::Copy(Box::new(begin(shared, database, helper))),
                Ok(Err(error)) => self.give_up(shared, &error, 0),
                Err(TryRecvError::Empty) => self.work = Work::Open(helper, making),
                Err(TryRecvError::Disconnected) => self.give_up(shared, &StoreError::Panicked, 0),
            },
            Work::Copy(mut copying) => {
                let free = || (self.free)(folder(shared));
                match copy(&mut copying, shared, between, free)? {
                    Err(error) => self.give_up(shared, &error, size_of(&copying)),
                    Ok(true) => return self.adopt(shared, *copying),
                    Ok(false) => self.work = Work::Copy(copying),
                }
            }
        }
        Ok(false)
    }

    /// After the live data was measured: begins the copy, if it is worth it and there is room.
    fn decide(&mut self, shared: &Arc<Shared>) -> Result<(), StoreError> {
        let size = shared.database().sled().size_on_disk()?;
        let (RewriteOptions { factor, .. }, live) = (self.options, self.live);
        if size <= live.saturating_mul(factor) {
            tracing::debug!(node = shared.node, size, live, factor, "the store is not rewritten");
            self.waits = false;
            return Ok(());
        }
        let copy = live.saturating_mul(factor.max(bounds::REWRITE_ROOM));
        let wanted = copy.saturating_add(bounds::REWRITE_SPARE).max(shared.rewrite_room.load(Ordering::Relaxed));
        let free = (self.free)(folder(shared));
        if free < wanted {
            // Said once, and then looked at after each checkpoint.
            if !std::mem::replace(&mut self.waits, true) {
                tracing::warn!(node = shared.node, size, live, free, wanted, "no room to rewrite the store");
            }
            return Ok(());
        }
        self.waits = false;
        let place = replace::place_for_copy(&shared.path);
        tracing::info!(node = shared.node, size, live, factor, copy = %place.display(), "the store is being rewritten");
        let (helper, making) = Helper::start(shared, place)?;
        self.work = Work::Open(helper, making);
        self.due = Instant::now();
        Ok(())
    }

    /// Gives up a copy that took so many bytes. After one for which there was no room the next has to find more: also in
    /// another incarnation of the actor, but not in another process, which may try once.
    fn give_up(&mut self, shared: &Shared, error: &StoreError, copied: u64) {
        if matches!(error, StoreError::LittleRoom { .. }) || is_want_of_room(error) {
            let room = (copied / 4 * 5).saturating_add(bounds::REWRITE_SPARE);
            shared.rewrite_room.fetch_max(room, Ordering::Relaxed);
            self.waits = true;
        }
        metrics::counter!("store_rewrites_given_up_total", "node" => shared.node.clone()).increment(1);
        tracing::warn!(node = shared.node, copied, %error, "the store's copy is given up; the store goes on as it is");
    }

    /// The copy takes the old one's place: first for the next start, then for this process.
    fn adopt(&mut self, shared: &Shared, copying: Copying) -> Result<bool, StoreError> {
        let new = &copying.database;
        let ready = catch_unwind(AssertUnwindSafe(|| {
            if copying.promised {
                new.flush()?;
            }
            new.sled().size_on_disk()
        }));
        let size = match ready.map_or(Err(StoreError::Panicked), |ready| ready.map_err(StoreError::from)) {
            Ok(size) => size,
            Err(error) => {
                self.give_up(shared, &error, size_of(&copying));
                return Ok(false);
            }
        };
        match replace::adopt(&shared.path, new.path()) {
            Ok(()) => {}
            Err(NotNoted::Refused(error)) => {
                self.give_up(shared, &Arc::new(error).into(), size);
                return Ok(false);
            }
            Err(NotNoted::Undecided(error)) => {
                let _ = copying.helper.0.send(Order::Undecided);
                return Err(StoreError::Undecided(Arc::new(error)));
            }
        }
        let Copying { database: new, began, helper, .. } = copying;
        let old = std::mem::replace(&mut *shared.database.write(), new);
        let before = old.sled().size_on_disk().unwrap_or(0);
        // Without its thread, the next start removes it.
        let _ = helper.0.send(Order::Adopted(old));
        (self.measured, self.rewritten) = (size, size);
        let took = began.elapsed();
        metrics::gauge!("store_disk_bytes", "node" => shared.node.clone()).set(size as f64);
        metrics::histogram!("store_rewrite_seconds", "node" => shared.node.clone()).record(took.as_secs_f64());
        metrics::counter!("store_rewrites_total", "node" => shared.node.clone()).increment(1);
        tracing::info!(node = shared.node, before, after = size, ?took, "the store is rewritten");
        Ok(true)
    }
}

/// Where the databases lie.
fn folder(shared: &Shared) -> &Path {
    shared.path.parent().unwrap_or(Path::new("."))
}

/// Bytes of a copy on disk, as far as it can say.
fn size_of(copying: &Copying) -> u64 {
    copying.guarded(|copy| copy.sled().size_on_disk()).unwrap_or(0)
}

fn begin(shared: &Shared, database: Database, helper: Helper) -> Copying {
    let walk = Walk::new(&shared.database());
    Copying {
        database,
        walk,
        began: Instant::now(),
        unsynced: Cell::new(0),
        syncing: None,
        last: false,
        promised: false,
        ending: 0,
        broken: Cell::new(None),
        helper,
    }
}

/// Copies a slice, or compares one. The outer error is the database's, the inner one the copy's; true once all of it is
/// durable, but for a little, and the same, and no checkpoint is being written.
fn copy(
    copying: &mut Copying,
    shared: &Shared,
    between: bool,
    free: impl Fn() -> u64,
) -> Result<Result<bool, StoreError>, StoreError> {
    if let Some(error) = copying.broken.take() {
        return Ok(Err(error));
    }
    if let Some(syncing) = &copying.syncing {
        match syncing.try_recv() {
            Ok(Ok(())) => copying.syncing = None,
            Ok(Err(error)) => return Ok(Err(error)),
            Err(TryRecvError::Empty) => return Ok(Ok(false)),
            Err(TryRecvError::Disconnected) => {
                return Ok(Err(StoreError::Thread("the copy's thread has ended".to_owned())));
            }
        }
    }
    // What is written besides counts as well: the rest is synced at the switch, where everything waits.
    let unsynced = copying.unsynced.get();
    let database = shared.database();
    let Some(piece) = copying.walk.next(&database)? else {
        if !copying.last {
            copying.last = true;
            copying.walk = Walk::new(&database);
            return Ok(copying.sync(free()).map(|()| false));
        }
        // More each time: where the disk is slower than what is written, the end is to come all the same.
        if unsynced >= bounds::CHECKPOINT_FLUSH << copying.ending {
            copying.ending += u32::from(between && copying.ending < bounds::REWRITE_LAST_SYNCS);
            return Ok(copying.sync(free()).map(|()| false));
        }
        return Ok(Ok(between));
    };
    if copying.last {
        let same = copying.guarded(|copy| piece.is_in(copy));
        if same == Some(false) {
            return Ok(Err(StoreError::Differs { tree: piece.tree }));
        }
    } else {
        // A tree without a pair is there as well.
        copying.guarded(|copy| copy.ensure_tree(&piece.tree));
        copying.unsynced.set(unsynced + piece.bytes);
        copying.guarded(|copy| copy.apply(&piece.tree, &piece.pairs));
    }
    if copying.unsynced.get() >= bounds::CHECKPOINT_FLUSH {
        return Ok(copying.sync(free()).map(|()| false));
    }
    Ok(Ok(false))
}

/// Ends what earlier processes began and removes what they left of rewritings, so that nothing waits for the room that this
/// gives back. What somebody else has open stays. Blocking.
pub(super) fn clear(place: &Path, node: &str) {
    if let Err(error) = replace::settle(place) {
        tracing::warn!(node, %error, path = %place.display(), "a rewritten store does not come to its place yet");
    }
    clean(place, node);
}

/// Removes what earlier processes left of rewritings. After the store is open: a note that waited is done then.
pub(super) fn clean(place: &Path, node: &str) {
    for path in replace::leftovers(place) {
        match replace::discard(&path, Duration::ZERO) {
            Ok(bytes) => tracing::info!(node, bytes, path = %path.display(), "what a rewriting left is removed"),
            Err(error) => tracing::warn!(node, %error, path = %path.display(), "what a rewriting left stays"),
        }
    }
}
