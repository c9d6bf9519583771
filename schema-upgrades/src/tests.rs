//! Tests of the engine: every refusal, a crash at every write, every step applied twice.

use std::path::{Path, PathBuf};

use crate::faults::{Fault, Faulty};
use crate::history::{self, Direction, HISTORY, ProgressRow};
use crate::{Advance, Change, Database, Medium, Plan, PlanError, Presence, Step, StepError, UpgradeError};

mod blocks;
mod key_table;
mod node;
mod tools;

const ROWS: u32 = 25;
const CHUNK: usize = 4;

/// Version 1: rows exist, plain.
struct Rows;
/// Version 2: rows carry a mark in front, made in chunks.
struct Marked {
    note: &'static str,
}

impl Step for Rows {
    fn version(&self) -> u32 {
        1
    }
    fn name(&self) -> &'static str {
        "rows"
    }
    fn content(&self) -> &[&str] {
        &["rows: number -> text"]
    }
    fn presence(&self, medium: &dyn Medium) -> Result<Presence, StepError> {
        let filled = !medium.scan("rows", None, 1)?.is_empty();
        Ok(if filled { Presence::Complete } else { Presence::Absent })
    }
    fn advance(&self, medium: &dyn Medium, _from: Option<&[u8]>) -> Result<Advance, StepError> {
        let rows: Vec<Change> =
            (0..ROWS).map(|n| Change::put(&n.to_be_bytes(), format!("row {n}").as_bytes())).collect();
        medium.apply("rows", &rows)?;
        Ok(Advance::Done)
    }
}

impl Step for Marked {
    fn version(&self) -> u32 {
        2
    }
    fn name(&self) -> &'static str {
        "marked"
    }
    fn content(&self) -> &[&str] {
        std::slice::from_ref(&self.note)
    }
    fn advance(&self, medium: &dyn Medium, from: Option<&[u8]>) -> Result<Advance, StepError> {
        let chunk = medium.scan("rows", from, CHUNK)?;
        let plain = chunk.iter().filter(|(_, text)| !text.starts_with(b"#"));
        let changes: Vec<Change> =
            plain.map(|(key, text)| Change::put(key, &[b"#", text.as_slice()].concat())).collect();
        medium.apply("rows", &changes)?;
        Ok(chunk.last().map_or(Advance::Done, |(key, _)| Advance::More(key.clone())))
    }
    fn presence(&self, medium: &dyn Medium) -> Result<Presence, StepError> {
        let rows = medium.scan("rows", None, usize::MAX)?;
        let plain = rows.iter().filter(|(_, text)| !text.starts_with(b"#")).count();
        Ok(match rows.len() - plain {
            0 => Presence::Absent,
            _ if plain == 0 => Presence::Complete,
            _ => Presence::Partial(format!("{plain} rows have no mark")),
        })
    }
    fn source(&self) -> Option<&str> {
        Some("rows")
    }
    fn reversible(&self) -> bool {
        true
    }
    fn retreat(&self, medium: &dyn Medium, from: Option<&[u8]>) -> Result<Advance, StepError> {
        let chunk = medium.scan("rows", from, CHUNK)?;
        let marked = chunk.iter().filter_map(|(key, text)| Some((key, text.strip_prefix(b"#")?)));
        let changes: Vec<Change> = marked.map(|(key, text)| Change::put(key, text)).collect();
        medium.apply("rows", &changes)?;
        Ok(chunk.last().map_or(Advance::Done, |(key, _)| Advance::More(key.clone())))
    }
}

fn plan() -> Plan {
    plan_with("every row has a mark")
}

fn plan_with(note: &'static str) -> Plan {
    Plan::new(vec![Box::new(Rows), Box::new(Marked { note })]).unwrap()
}

fn open(path: &Path) -> Database {
    Database::open(sled::Config::new().path(path).flush_every_ms(None).cache_capacity(1 << 20)).unwrap()
}

fn fresh() -> (tempfile::TempDir, Database) {
    let directory = tempfile::tempdir().unwrap();
    let database = open(&directory.path().join("db"));
    (directory, database)
}

fn rows(medium: &dyn Medium) -> Vec<String> {
    let pairs = medium.scan("rows", None, usize::MAX).unwrap();
    pairs.into_iter().map(|(_, text)| String::from_utf8(text).unwrap()).collect()
}

fn wanted() -> Vec<String> {
    (0..ROWS).map(|n| format!("#row {n}")).collect()
}

#[test]
fn a_fresh_database_gets_every_step_once() {
    let (_directory, database) = fresh();
    assert_eq!(plan().status(&database).unwrap().pending, vec!["V001__rows", "V002__marked"]);
    let report = plan().upgrade(&database, None).unwrap();
    assert_eq!((report.from, report.to, report.applied), (0, 2, vec![1, 2]));
    assert_eq!(rows(&database), wanted());
    assert_eq!(plan().upgrade(&database, None).unwrap().applied, Vec::<u32>::new());
    let status = plan().status(&database).unwrap();
    assert_eq!((status.version, status.newest, status.pending.len(), status.interrupted), (2, 2, 0, None));
    plan().validate(&database).unwrap();
}

#[test]
fn history_survives_reopening_and_stepwise_equals_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    {
        let database = open(&path);
        assert_eq!(plan().upgrade(&database, Some(1)).unwrap().applied, vec![1]);
    }
    let database = open(&path);
    assert_eq!(plan().status(&database).unwrap().version, 1);
    assert_eq!(plan().upgrade(&database, None).unwrap().applied, vec![2]);
    assert_eq!(rows(&database), wanted());
}

#[test]
fn applying_each_step_twice_changes_nothing_more() {
    let (_directory, database) = fresh();
    plan().upgrade(&database, None).unwrap();
    let step = Marked { note: "" };
    let mut from = None;
    while let Advance::More(next) = step.advance(&database, from.as_deref()).unwrap() {
        from = Some(next);
    }
    assert_eq!(rows(&database), wanted());

    let (_directory, node) = fresh();
    let plan = crate::node::plan();
    plan.upgrade(&node, None).unwrap();
    let trees = node.trees();
    let first = crate::node::v001_first_layout::FirstLayout;
    assert_eq!(first.advance(&node, None).unwrap(), Advance::Done);
    assert_eq!(node.trees(), trees);
}

/// Ends the world at every write there is, before and after it, and then upgrades in peace.
fn survive_every_write(plan: &Plan, check: impl Fn(&Database)) -> u64 {
    let mut at = 0;
    loop {
        let mut reached = false;
        for fault in [Fault::Before, Fault::After] {
            let (_directory, database) = fresh();
            let faulty = Faulty::new(&database, at, fault);
            let result = plan.upgrade_on(&faulty, PathBuf::from("test"), None);
            assert_eq!(result.is_err(), faulty.is_dead(), "write {at} {fault:?}");
            reached |= faulty.is_dead();
            plan.upgrade(&database, None).unwrap_or_else(|error| panic!("write {at} {fault:?}: {error}"));
            check(&database);
            let status = plan.status(&database).unwrap();
            assert_eq!((status.version, status.interrupted), (plan.newest(), None), "write {at} {fault:?}");
            assert_eq!(history::progress(&database).unwrap().unwrap(), None, "write {at} {fault:?}");
        }
        if !reached {
            return at;
        }
        at += 1;
    }
}

#[test]
fn a_crash_at_every_write_is_resumed_to_the_same_result() {
    let writes = survive_every_write(&plan(), |database| assert_eq!(rows(database), wanted()));
    assert!(writes > 25, "only {writes} writes were tried");
}

#[test]
fn a_crash_at_every_write_of_the_nodes_own_steps_is_resumed() {
    let writes = survive_every_write(&crate::node::plan(), |database| {
        assert!(database.trees().contains(&crate::node::v001_first_layout::AUDIT.to_owned()));
    });
    assert!(writes > 10, "only {writes} writes were tried");
}

#[test]
fn an_interrupted_step_goes_on_at_its_chunk_and_status_says_so() {
    let (_directory, database) = fresh();
    plan().upgrade(&database, Some(1)).unwrap();
    let faulty = Faulty::new(&database, 9, Fault::Before);
    plan().upgrade_on(&faulty, PathBuf::from("test"), None).unwrap_err();
    let (version, chunks) = plan().status(&database).unwrap().interrupted.unwrap();
    assert_eq!(version, 2);
    assert!(chunks >= 2, "{chunks}");
    assert_eq!(plan().upgrade(&database, None).unwrap().resumed, Some(2));
    assert_eq!(rows(&database), wanted());
}

#[test]
fn progress_of_a_step_that_has_changed_since_is_not_used() {
    let (_directory, database) = fresh();
    plan().upgrade(&database, Some(1)).unwrap();
    let fresh = ProgressRow::new(2, "old".to_owned(), Direction::Up, None);
    let stale = ProgressRow { chunks: 6, from: Some(hex::encode([0xff; 4])), ..fresh };
    history::set_progress(&database, Some(&stale)).unwrap();
    assert_eq!(plan().upgrade(&database, None).unwrap().resumed, None);
    assert_eq!(rows(&database), wanted());
}

#[test]
fn an_altered_step_is_named_with_both_checksums() {
    let (_directory, database) = fresh();
    plan().upgrade(&database, None).unwrap();
    let error = plan_with("another text").validate(&database).unwrap_err();
    assert!(matches!(error, UpgradeError::Altered { version: 2, .. }), "{error}");
    assert!(error.to_string().starts_with("V002__marked was altered after it was applied"), "{error}");
}

#[test]
fn a_newer_database_is_refused() {
    let (_directory, database) = fresh();
    plan().upgrade(&database, None).unwrap();
    let older = Plan::new(vec![Box::new(Rows)]).unwrap();
    let error = older.upgrade(&database, None).unwrap_err();
    assert!(matches!(error, UpgradeError::UnknownFuture { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn a_missing_history_row_is_explained_and_a_baseline_mends_it_without_touching_content() {
    let (_directory, database) = fresh();
    plan().upgrade(&database, None).unwrap();
    database.apply(HISTORY, &[Change::remove(&1_u32.to_be_bytes())]).unwrap();
    let error = plan().validate(&database).unwrap_err();
    assert!(matches!(error, UpgradeError::Missing { version: 1, newest: 2, .. }), "{error}");
    plan().baseline(&database, 2).unwrap();
    plan().validate(&database).unwrap();
    assert_eq!(rows(&database), wanted());
}

#[test]
fn an_older_step_applied_after_a_newer_one_is_refused() {
    let (_directory, database) = fresh();
    plan().upgrade(&database, None).unwrap();
    let mut first = history::rows(&database).unwrap().unwrap().remove(0);
    first.sequence = 9;
    history::record(&database, &first).unwrap();
    let error = plan().validate(&database).unwrap_err();
    assert!(matches!(error, UpgradeError::OutOfOrder { version: 1, after: 2, .. }), "{error}");
}

#[test]
fn content_without_history_needs_a_baseline_and_nothing_is_wiped() {
    let (_directory, database) = fresh();
    database.apply("rows", &[Change::put(&7_u32.to_be_bytes(), b"old")]).unwrap();
    let error = plan().upgrade(&database, None).unwrap_err();
    assert!(matches!(&error, UpgradeError::Unversioned { trees } if trees == "rows"), "{error}");
    plan().baseline(&database, 1).unwrap();
    assert_eq!(plan().upgrade(&database, None).unwrap().applied, vec![2]);
    assert_eq!(rows(&database), vec!["#old"]);
    let behind = plan().baseline(&database, 1).unwrap_err();
    assert!(matches!(behind, UpgradeError::BaselineBehind { at: 2, version: 1 }), "{behind}");
}

#[test]
fn a_flipped_bit_in_the_history_is_damage() {
    let (_directory, database) = fresh();
    plan().upgrade(&database, None).unwrap();
    let key = 1_u32.to_be_bytes();
    let mut row = database.get(HISTORY, &key).unwrap().unwrap();
    row[40] ^= 1;
    database.apply(HISTORY, &[Change::put(&key, &row)]).unwrap();
    let error = plan().validate(&database).unwrap_err();
    assert!(matches!(error, UpgradeError::Damaged { what: "history", .. }), "{error}");
}

#[test]
fn a_second_opener_is_told_who_holds_the_database() {
    let (directory, _database) = fresh();
    let second = Database::open(sled::Config::new().path(directory.path().join("db"))).err().unwrap();
    let UpgradeError::InUse { holder, .. } = &second else { panic!("{second}") };
    assert_eq!(holder.as_ref().as_ref().unwrap().process, std::process::id());
}

/// sled's threads hold its files a moment longer than its last handle. A node that took this for damage would set a
/// good database aside.
#[test]
fn files_that_an_earlier_user_still_holds_are_waited_for_and_are_no_damage() {
    use fs2::FileExt as _;
    let (directory, database) = fresh();
    plan().upgrade(&database, None).unwrap();
    drop(database);
    let path = directory.path().join("db");
    let open = || Database::open(sled::Config::new().path(&path));
    drop(open().unwrap());
    let lock = || {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path.join("db")).unwrap();
        file.lock_exclusive().unwrap();
        file
    };
    let held = lock();
    let (started, waits) = std::sync::mpsc::channel();
    let (opened, refused) = std::thread::scope(|scope| {
        let opener = scope.spawn(|| {
            started.send(()).unwrap();
            open().map(|database| plan().validate(&database))
        });
        waits.recv().unwrap();
        drop(held);
        let opened = opener.join().unwrap();
        let _held = lock();
        (opened, open().err().unwrap())
    });
    opened.unwrap().unwrap();
    assert!(matches!(refused, UpgradeError::InUse { .. }) && !refused.is_damage(), "{refused}");
}

#[test]
fn plans_with_gaps_duplicates_or_odd_names_are_refused() {
    struct Named(u32, &'static str);
    impl Step for Named {
        fn version(&self) -> u32 {
            self.0
        }
        fn name(&self) -> &str {
            self.1
        }
        fn content(&self) -> &[&str] {
            &[]
        }
        fn advance(&self, _: &dyn Medium, _: Option<&[u8]>) -> Result<Advance, StepError> {
            Ok(Advance::Done)
        }
    }
    let refusal = |steps: Vec<Box<dyn Step>>| Plan::new(steps).err();
    let gap = refusal(vec![Box::new(Named(1, "a")), Box::new(Named(3, "c"))]);
    assert_eq!(gap, Some(PlanError::Version { expected: 2, found: "V003__c".to_owned() }));
    let twice = refusal(vec![Box::new(Named(1, "a")), Box::new(Named(1, "b"))]);
    assert_eq!(twice, Some(PlanError::Version { expected: 2, found: "V001__b".to_owned() }));
    let odd = refusal(vec![Box::new(Named(1, "A b"))]);
    assert_eq!(odd, Some(PlanError::Name { version: 1, name: "A b".to_owned() }));
    let (_directory, database) = fresh();
    let unknown = plan().upgrade(&database, Some(9)).unwrap_err();
    assert!(matches!(unknown, UpgradeError::NoSuchVersion { version: 9, newest: 2 }), "{unknown}");
}
