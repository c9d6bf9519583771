//! Tests of rewriting the database: the same content before and after, a crash at every step, a copy that fails.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aurigraph_ledger::StateView;
use aurigraph_runtime::Reply;
use aurigraph_schema_upgrades::content;
use bytes::Bytes;

use super::actor::{StoreMsg, StoreWriter};
use super::layout::{BLOCKS, height_key};
use super::open::{Store, StoreOptions};
use super::rewrite::RewriteOptions;
use super::tests::{World, assert_indexed, block, consensus};
use crate::bounds::storage::{CHECKPOINT_FLUSH, REWRITE_SPARE};

const ALWAYS: RewriteOptions = RewriteOptions { factor: 1, floor: 0 };
/// A disk that others use may stand still for a minute.
const WITHIN: Duration = Duration::from_secs(300);

fn open(directory: &Path, rewrite: RewriteOptions) -> Store {
    Store::open(directory, "v1", StoreOptions { cache: 4 << 20, rewrite, ..StoreOptions::default() }).unwrap()
}

/// A node's writes to its store, and what must be found afterwards.
struct Life {
    world: World,
    newest: Option<StateView>,
    audited: u64,
    /// As the node that writes would say of itself.
    behind: bool,
}

impl Life {
    fn new() -> Self {
        Self { world: World::new(), newest: None, audited: 0, behind: false }
    }

    /// A block in the index.
    fn index(&mut self, writer: &mut StoreWriter<'_>) -> StateView {
        let view = self.world.pay(u32::try_from(self.audited * 7 % 5_000).unwrap() + 1);
        writer.apply(StoreMsg::WriteBlock { block: Box::new(block(view.height(), 40)), reply: None }).unwrap();
        view
    }

    /// A block, a checkpoint after it, and an audit row: durable when this returns.
    fn checkpoint(&mut self, writer: &mut StoreWriter<'_>) {
        let view = self.index(writer);
        let (reply, mut answer) = Reply::channel();
        let (sent, consensus, commit_index) = (view.clone(), consensus(&view), view.height());
        let behind = self.behind;
        writer.apply(StoreMsg::Checkpoint { view: sent, consensus, commit_index, behind, reply: Some(reply) }).unwrap();
        writer.finish_checkpoint().unwrap();
        assert_eq!(answer.try_recv().unwrap().unwrap().height, view.height());
        self.newest = Some(view);
        self.audit(writer);
    }

    fn audit(&mut self, writer: &mut StoreWriter<'_>) {
        self.audited += 1;
        let rows = vec![(self.audited, Bytes::from(format!("row {}", self.audited)))];
        writer.apply(StoreMsg::Audit { rows, reply: None }).unwrap();
    }

    /// More than may be left unsynced at the switch.
    fn audit_much(&mut self, writer: &mut StoreWriter<'_>) {
        let row = Bytes::from(vec![b'r'; 32 << 10]);
        for _ in 0..=CHECKPOINT_FLUSH / row.len() / 16 {
            let rows = self.audited + 1..=self.audited + 16;
            self.audited += 16;
            let rows = rows.map(|id| (id, row.clone())).collect();
            writer.apply(StoreMsg::Audit { rows, reply: None }).unwrap();
        }
    }

    fn assert_kept(&self, store: &Store, when: &str) {
        assert_eq!(store.set_aside(), None, "{when}");
        let (reader, newest) = (store.reader(), self.newest.as_ref().unwrap());
        let found = reader.latest_checkpoint().unwrap().expect(when);
        assert!(self.world.is(&found, newest), "{when}: height {} of {}", found.height, newest.height());
        for height in 1..=newest.height() {
            assert_indexed(store, &block(height, 40));
        }
        let rows: BTreeSet<u64> = reader.audit_rows(None, 10_000).unwrap().into_iter().map(|(id, _)| id).collect();
        assert!((1..=self.audited).all(|row| rows.contains(&row)), "{when}: {} of {}", rows.len(), self.audited);
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < WITHIN, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_rewritten_store_holds_the_same_and_what_is_written_meanwhile_and_is_smaller() {
    let directory = tempfile::tempdir().unwrap();
    let mut life = Life::new();
    {
        let store = open(directory.path(), ALWAYS);
        let mut writer = StoreWriter::new(&store).unwrap();
        // Enough for what sled takes for an almost empty database not to count.
        for _ in 0..40 {
            life.checkpoint(&mut writer);
        }
        let began = Instant::now();
        for round in 0_u64.. {
            assert!(began.elapsed() < WITHIN, "it is never rewritten");
            // What changes: behind the copy, before it, and after it.
            match round % 5 {
                0 if round < 200 => drop(life.index(&mut writer)),
                3 if round < 40 => life.checkpoint(&mut writer),
                _ => {}
            }
            let old = store.shared.database();
            if writer.rewrite().unwrap() {
                let new = store.shared.database();
                assert_ne!(old.path(), new.path());
                assert_eq!(content(&old).unwrap().digest, content(&new).unwrap().digest, "round {round}");
                let [before, after] = [old, new].map(|it| it.sled().size_on_disk().unwrap());
                assert!(after < before, "{after} of {before} in round {round}");
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        life.assert_kept(&store, "rewritten");
        // Its writer knows what stands in the slots of the new one.
        for _ in 0..3 {
            life.checkpoint(&mut writer);
        }
        life.assert_kept(&store, "written to");
        let one = |names: &[String]| names.iter().filter(|name| *name != "store.swap").count() == 1;
        wait("the old one is removed", || one(&names(directory.path())));
    }
    let store = open(directory.path(), RewriteOptions::NEVER);
    life.assert_kept(&store, "opened again");
    assert_eq!(names(directory.path()), ["store"]);
}

/// Copies a folder that others write to, as a kill would leave it.
fn image(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            image(&path, &to);
        } else {
            // What was removed meanwhile is not there.
            let _ = std::fs::copy(&path, &to);
        }
    }
}

#[test]
fn a_crash_at_every_step_leaves_the_old_or_the_new_store_whole() {
    let (mut adopted, mut at) = (None, 0_u64);
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), ALWAYS);
    let mut writer = StoreWriter::new(&store).unwrap();
    let mut life = Life::new();
    for _ in 0..3 {
        life.checkpoint(&mut writer);
    }
    let (mut unfinished, mut unsettled) = (0, 0);
    while adopted.is_none_or(|then| at < then + 4) {
        assert!(at < 240, "it is never rewritten");
        at += 1;
        let replaced = writer.rewrite().unwrap();
        if replaced {
            adopted = Some(at);
        }
        let crashed = tempfile::tempdir().unwrap();
        image(directory.path(), crashed.path());
        let left = names(crashed.path());
        let waits = left.contains(&"store.swap".to_owned());
        unsettled += u32::from(waits);
        unfinished += u32::from(!waits && left.len() > 1);
        let after = open(crashed.path(), RewriteOptions::NEVER);
        life.assert_kept(&after, &format!("crash after step {at}, with {left:?}"));
        assert_eq!(names(crashed.path()), ["store"], "after step {at}");
        drop(after);
        // The last promise before the copy counts is made after its last sync, most likely.
        match at % 3 {
            0 => life.checkpoint(&mut writer),
            _ => life.audit(&mut writer),
        }
    }
    assert!(unfinished > 2 && unsettled > 2, "{unfinished} unfinished, {unsettled} unsettled of {at}");
}

#[test]
fn a_crash_between_the_steps_of_settling_is_ended_by_the_next_start() {
    let source = tempfile::tempdir().unwrap();
    let mut life = Life::new();
    let store = open(source.path(), ALWAYS);
    let mut writer = StoreWriter::new(&store).unwrap();
    life.checkpoint(&mut writer);
    // Somebody reads the old one: it stays.
    let held = store.shared.database();
    wait("it is rewritten", || writer.rewrite().unwrap());
    life.checkpoint(&mut writer);
    for cut in ["noted", "set aside", "removed", "half removed"] {
        let crashed = tempfile::tempdir().unwrap();
        image(source.path(), crashed.path());
        let place = crashed.path().join("store");
        assert!(place.is_dir() && crashed.path().join("store.swap").exists());
        match cut {
            "set aside" => std::fs::rename(&place, crashed.path().join("store.rewritten-1795478400001")).unwrap(),
            "removed" => std::fs::remove_dir_all(&place).unwrap(),
            "half removed" => std::fs::remove_file(place.join("db")).unwrap(),
            _ => {}
        }
        life.assert_kept(&open(crashed.path(), RewriteOptions::NEVER), cut);
        assert_eq!(names(crashed.path()), ["store"], "{cut}");
    }
    drop(held);
}

#[test]
fn a_copy_that_fails_is_given_up_and_the_store_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), ALWAYS);
    let mut writer = StoreWriter::new(&store).unwrap();
    let mut life = Life::new();
    life.checkpoint(&mut writer);
    wait("there is a copy", || !writer.rewrite().unwrap() && writer.rewriter.break_copy());
    assert!(!writer.rewrite().unwrap());
    assert_eq!(writer.rewriter.due(), None);
    life.checkpoint(&mut writer);
    life.assert_kept(&store, "given up");
    wait("the copy is removed", || names(directory.path()) == ["store"]);
}

#[test]
fn a_copy_that_does_not_hold_the_same_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), ALWAYS);
    let mut writer = StoreWriter::new(&store).unwrap();
    let mut life = Life::new();
    life.checkpoint(&mut writer);
    wait("everything is copied", || {
        assert!(!writer.rewrite().unwrap());
        writer.rewriter.falsify_copy(BLOCKS, &height_key(1))
    });
    while writer.rewriter.due().is_some() {
        assert!(!writer.rewrite().unwrap(), "a copy without a block counts");
    }
    life.assert_kept(&store, "given up");
    wait("the copy is removed", || names(directory.path()) == ["store"]);
}

#[test]
fn a_store_is_left_alone_below_the_floor_and_the_factor_and_with_a_factor_of_zero() {
    let floor = 1 << 40;
    for options in [RewriteOptions { floor, ..ALWAYS }, RewriteOptions { factor: 900, ..ALWAYS }, RewriteOptions::NEVER]
    {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), options);
        let mut writer = StoreWriter::new(&store).unwrap();
        let mut life = Life::new();
        life.checkpoint(&mut writer);
        while writer.rewriter.due().is_some() {
            assert!(!writer.rewrite().unwrap(), "{options:?}");
        }
        assert_eq!(names(directory.path()), ["store"], "{options:?}");
    }
}

#[test]
fn a_node_that_is_behind_leaves_its_store_alone_until_it_is_level_or_the_store_very_large() {
    let size = |store: &Store| store.shared.database().sled().size_on_disk().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let floor = {
        let mut life = Life::new();
        let store = open(directory.path(), RewriteOptions::NEVER);
        life.checkpoint(&mut StoreWriter::new(&store).unwrap());
        size(&store)
    };
    for (floor, behind, begins) in [(floor / 2, true, false), (floor / 2, false, true), (floor / 100, true, true)] {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), RewriteOptions { floor, ..ALWAYS });
        let mut writer = StoreWriter::new(&store).unwrap();
        let mut life = Life { behind, ..Life::new() };
        life.checkpoint(&mut writer);
        assert!((floor..floor * 400).contains(&size(&store)));
        assert_eq!(writer.rewriter.due().is_some(), begins, "floor {floor}, behind {behind}");
    }
}

/// A writer whose disk has as much room as the test says.
fn with_room(store: &Store) -> (StoreWriter<'_>, Rc<Cell<u64>>) {
    let (mut writer, free) = (StoreWriter::new(store).unwrap(), Rc::new(Cell::new(0)));
    let said = Rc::clone(&free);
    writer.rewriter.set_free(move || said.get());
    (writer, free)
}

/// Whatever the rewriting does until it waits; true if it has replaced the store.
fn at_rest(writer: &mut StoreWriter<'_>) -> bool {
    let mut replaced = false;
    while writer.rewriter.due().is_some() {
        replaced |= writer.rewrite().unwrap();
    }
    replaced
}

#[test]
fn a_copy_begins_as_soon_as_the_disk_has_room_for_what_a_copy_may_take() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), ALWAYS);
    let (mut writer, free) = with_room(&store);
    let mut life = Life::new();
    for _ in 0..40 {
        life.checkpoint(&mut writer);
        at_rest(&mut writer);
    }
    // Three times the live data are not enough: copies were seen to take 3.4 times.
    free.set(REWRITE_SPARE + 3 * writer.rewriter.live());
    life.checkpoint(&mut writer);
    assert!(!at_rest(&mut writer));
    assert_eq!(names(directory.path()), ["store"]);
    // At the next checkpoint, unless the file has just grown by so much that it is looked into anew.
    for _ in 0..20 {
        free.set(REWRITE_SPARE + 5 * writer.rewriter.live());
        life.checkpoint(&mut writer);
        if writer.rewriter.is_copying() {
            break;
        }
        free.set(0);
        assert!(!at_rest(&mut writer));
    }
    assert!(writer.rewriter.is_copying(), "it waits for the file to grow");
    assert!(at_rest(&mut writer));
    life.assert_kept(&store, "rewritten");
}

#[test]
fn a_copy_that_leaves_too_little_room_is_given_up_and_not_begun_again_before_there_is_more() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), ALWAYS);
    let (mut writer, free) = with_room(&store);
    let mut life = Life::new();
    free.set(u64::MAX);
    life.checkpoint(&mut writer);
    wait("there is a copy", || !writer.rewrite().unwrap() && writer.rewriter.is_copying());
    free.set(REWRITE_SPARE - 1);
    assert!(!at_rest(&mut writer), "a copy counts that takes the last room");
    wait("the copy is removed", || names(directory.path()) == ["store"]);
    let needed = store.shared.rewrite_room.load(Ordering::Relaxed);
    assert!(needed > REWRITE_SPARE + store.shared.database().sled().size_on_disk().unwrap() / 4, "{needed}");

    // What the copy gave back is no more than it had, for this writer and the next.
    free.set(needed - 1);
    life.checkpoint(&mut writer);
    assert!(!at_rest(&mut writer) && !writer.rewriter.is_copying());
    drop(writer);
    let (mut writer, free) = with_room(&store);
    free.set(needed - 1);
    life.checkpoint(&mut writer);
    assert!(!at_rest(&mut writer));
    assert_eq!(names(directory.path()), ["store"]);
    free.set(u64::MAX);
    life.checkpoint(&mut writer);
    assert!(at_rest(&mut writer));
    life.assert_kept(&store, "rewritten");
}

#[test]
fn a_copy_whose_note_cannot_be_written_is_given_up_and_the_store_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), ALWAYS);
    let mut writer = StoreWriter::new(&store).unwrap();
    let mut life = Life::new();
    let in_the_way = directory.path().join("store.swap.part");
    std::fs::create_dir(&in_the_way).unwrap();
    life.checkpoint(&mut writer);
    assert!(!at_rest(&mut writer));
    life.checkpoint(&mut writer);
    life.assert_kept(&store, "given up");
    std::fs::remove_dir(&in_the_way).unwrap();
    wait("the copy is removed", || names(directory.path()) == ["store"]);
}

#[test]
fn a_start_gives_back_the_room_of_rewritings_before_it_opens_anything() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["store", "store.rewrite-1795478400001", "store.rewrite-1795478400002", "store.old-1"] {
        std::fs::create_dir(at(name)).unwrap();
        std::fs::write(at(name).join("db"), name).unwrap();
    }
    aurigraph_schema_upgrades::replace::adopt(&at("store"), &at("store.rewrite-1795478400001")).unwrap();
    Store::clear(directory.path(), "v1");
    assert_eq!(names(directory.path()), ["store", "store.old-1"]);
    assert_eq!(std::fs::read(at("store").join("db")).unwrap(), b"store.rewrite-1795478400001");
}

#[test]
fn a_store_that_is_examined_stays_where_it_is_also_if_a_note_waits() {
    let directory = tempfile::tempdir().unwrap();
    let mut life = Life::new();
    {
        let store = open(directory.path(), ALWAYS);
        let mut writer = StoreWriter::new(&store).unwrap();
        life.checkpoint(&mut writer);
        assert!(at_rest(&mut writer));
        life.checkpoint(&mut writer);
    }
    wait("the old one is removed", || names(directory.path()).len() == 2);
    let before = names(directory.path());
    let examined = || Store::examine(directory.path(), "v1", StoreOptions::default());
    wait("it is let go", || examined().is_ok());
    life.assert_kept(&examined().unwrap(), "examined");
    assert_eq!(names(directory.path()), before);
}

#[test]
fn what_is_written_beside_a_copy_is_synced_by_its_own_thread_but_for_a_little() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), ALWAYS);
    let mut writer = StoreWriter::new(&store).unwrap();
    let mut life = Life::new();
    life.checkpoint(&mut writer);
    wait("everything is copied", || {
        assert!(!writer.rewrite().unwrap());
        writer.rewriter.unsynced().is_some()
    });
    let synced = |writer: &mut StoreWriter<'_>| {
        let counted = writer.rewriter.unsynced().unwrap();
        assert!(counted >= CHECKPOINT_FLUSH, "only {counted} bytes were counted");
        wait("it is synced", || !writer.rewrite().unwrap() && writer.rewriter.unsynced().unwrap() < CHECKPOINT_FLUSH);
    };
    life.audit_much(&mut writer);
    // While a checkpoint is being written the copy waits to take the place.
    let view = life.index(&mut writer);
    let (sent, consensus, commit_index) = (view.clone(), consensus(&view), view.height());
    writer.apply(StoreMsg::Checkpoint { view: sent, consensus, commit_index, behind: false, reply: None }).unwrap();
    life.newest = Some(view);
    synced(&mut writer);
    wait("it is compared", || !writer.rewrite().unwrap() && writer.rewriter.is_compared());
    life.audit_much(&mut writer);
    synced(&mut writer);
    writer.finish_checkpoint().unwrap();
    let mut left = 0;
    while !writer.rewrite().unwrap() {
        left = writer.rewriter.unsynced().expect("it is not given up");
    }
    assert!(left < CHECKPOINT_FLUSH, "{left} bytes are synced at the switch");
    life.assert_kept(&store, "rewritten");
}
