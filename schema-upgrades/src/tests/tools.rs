//! Backups, restores, dry runs, repairs, the way back: what an operator has in the hand.

use super::*;
use crate::history::{CURRENT, Origin, PROGRESS};
use crate::{Options, Progress, backup, content, restore};

/// Everything but the engine's own trees.
pub(super) fn own_content(database: &Database) -> Vec<(String, crate::Pairs)> {
    let mut trees = database.trees();
    trees.retain(|name| !name.starts_with("schema/"));
    trees.sort();
    trees.into_iter().map(|name| (name.clone(), database.scan(&name, None, usize::MAX).unwrap())).collect()
}

fn no_backup(observe: &mut dyn FnMut(&Progress)) -> Options<'_> {
    Options { backups: None, observe }
}

#[test]
fn an_upgrade_takes_a_verified_backup_first_and_the_history_names_it() {
    let (directory, database) = fresh();
    let first = plan().upgrade(&database, Some(1)).unwrap();
    assert_eq!(first.backup, None, "an empty database needs none");
    let before = content(&database).unwrap();
    let report = plan().upgrade(&database, None).unwrap();
    let file = report.backup.unwrap();
    assert!(file.starts_with(directory.path().join("db.backups")), "{}", file.display());
    let found = backup::verify(&file).unwrap();
    assert_eq!((found.head.version, &found.content), (1, &before));
    assert_eq!(plan().status(&database).unwrap().applied[1].backup.as_ref(), Some(&file));
    assert_eq!(plan().upgrade(&database, None).unwrap().backup, None, "nothing pending, nothing to save");
}

#[test]
fn a_resumed_upgrade_keeps_the_backup_from_before_the_first_attempt() {
    let (directory, database) = fresh();
    plan().upgrade(&database, Some(1)).unwrap();
    let file = directory.path().join("before.backup");
    plan().backup(&database, &file).unwrap();
    let row = ProgressRow::new(
        2,
        crate::run::declared(&Marked { note: "every row has a mark" }),
        Direction::Up,
        Some(file.clone()),
    );
    history::set_progress(&database, Some(&row)).unwrap();
    let report = plan().upgrade(&database, None).unwrap();
    assert_eq!((report.resumed, report.backup), (Some(2), Some(file)));
    assert!(!directory.path().join("db.backups").exists());
}

#[test]
fn a_restore_brings_everything_back_and_keeps_what_was_there() {
    let (directory, database) = fresh();
    plan().upgrade(&database, None).unwrap();
    let file = directory.path().join("a.backup");
    let made = plan().backup(&database, &file).unwrap();
    let path = directory.path().join("db");
    assert!(matches!(restore(&file, &path), Err(UpgradeError::InUse { .. })), "in use");
    database.apply("rows", &[Change::put(b"later", b"#written after the backup")]).unwrap();
    database.sync().unwrap();
    drop(database);
    let restored = restore(&file, &path).unwrap();
    let again = open(&path);
    assert_eq!(content(&again).unwrap(), made.content);
    assert_eq!(rows(&again), wanted());
    let aside = open(&restored.set_aside.unwrap());
    assert_eq!(aside.get("rows", b"later").unwrap().unwrap(), b"#written after the backup");
    assert!(matches!(plan().backup(&again, &file), Err(UpgradeError::Backup { .. })), "never overwritten");
}

#[test]
fn a_restore_that_was_cut_in_the_swap_is_ended_by_the_next_open() {
    use crate::swap::{Swap, begin};
    for renamed in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["db", "new"] {
            let database = open(&at(name));
            database.apply("who", &[Change::put(b"am i", name.as_bytes())]).unwrap();
            database.sync().unwrap();
        }
        begin(&at("db"), &Swap { new: at("new"), aside: Some(at("old")) }).unwrap();
        if renamed {
            std::fs::rename(at("db"), at("old")).unwrap();
        }
        let who = |name: &str| open(&at(name)).get("who", b"am i").unwrap().unwrap();
        assert_eq!((who("db"), who("old")), (b"new".to_vec(), b"db".to_vec()), "renamed {renamed}");
        assert!(!at("db.swap").exists());
    }
}

#[test]
fn a_copy_that_counts_comes_to_its_place_once_nobody_has_it_open_also_in_a_folder_that_was_moved() {
    use crate::replace::{adopt, counting, discard, is_unsettled, leftovers, place_for_copy, settle};
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("db");
    let make = |path: &Path, name: &str| {
        let database = open(path);
        database.apply("who", &[Change::put(b"am i", name.as_bytes())]).unwrap();
        database.sync().unwrap();
        database
    };
    let (old, unfinished) = (make(&place, "old"), place_for_copy(&place));
    drop(make(&unfinished, "unfinished"));
    let copy = place_for_copy(&place);
    let new = make(&copy, "new");
    assert_eq!(leftovers(&place), [unfinished.clone(), copy.clone()]);
    adopt(&place, &copy).unwrap();
    assert!(is_unsettled(&place) && leftovers(&place).is_empty(), "one of them counts");
    assert_eq!(counting(&place).unwrap(), copy);
    assert!(matches!(settle(&place), Err(UpgradeError::InUse { .. })), "its names may not change");
    assert!(matches!(discard(&copy, std::time::Duration::ZERO), Err(UpgradeError::InUse { .. })));
    drop((old, new));
    let moved = directory.path().join("elsewhere");
    std::fs::create_dir(&moved).unwrap();
    for path in [&place, &unfinished, &copy, &directory.path().join("db.swap")] {
        std::fs::rename(path, moved.join(path.file_name().unwrap())).unwrap();
    }
    let place = moved.join("db");
    assert_eq!(open(&place).get("who", b"am i").unwrap().unwrap(), b"new");
    let left = leftovers(&place);
    assert_eq!(left.len(), 2, "the old one and the unfinished one: {left:?}");
    for path in &left {
        assert!(discard(path, std::time::Duration::ZERO).unwrap() > 0);
    }
    assert!(leftovers(&place).is_empty());
    assert_eq!(std::fs::read_dir(&moved).unwrap().count(), 1);
}

#[test]
fn what_a_person_moved_aside_is_never_taken_for_a_leftover() {
    use crate::replace::leftovers;
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("db");
    for kept in
        ["old", "old-", "old-1", "old-20261129", "old-1795478400000", "rewritten", "rewritten-", "rewritten-20261129"]
    {
        std::fs::create_dir(directory.path().join(format!("db.{kept}"))).unwrap();
    }
    assert_eq!(leftovers(&place), [] as [PathBuf; 0]);
    for left in ["rewrite-1795478400000", "rewritten-0000000000007"] {
        std::fs::create_dir(directory.path().join(format!("db.{left}"))).unwrap();
    }
    assert_eq!(leftovers(&place).len(), 2);
}

#[test]
fn a_note_that_cannot_be_written_changes_nothing_of_what_counts() {
    use crate::replace::{NotNoted, adopt, counting, place_for_copy};
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("db");
    drop(open(&place));
    let first = place_for_copy(&place);
    drop(open(&first));
    let refused = || std::fs::create_dir(directory.path().join("db.swap.part")).unwrap();
    let permitted = || std::fs::remove_dir(directory.path().join("db.swap.part")).unwrap();
    refused();
    assert!(matches!(adopt(&place, &first), Err(NotNoted::Refused(UpgradeError::Io { .. }))));
    assert_eq!(counting(&place).unwrap(), place);
    permitted();
    adopt(&place, &first).unwrap();
    let second = place_for_copy(&place);
    drop(open(&second));
    refused();
    assert!(matches!(adopt(&place, &second), Err(NotNoted::Refused(_))));
    assert_eq!(counting(&place).unwrap(), first, "the earlier note stands");
}

#[test]
fn an_old_database_that_somebody_removes_meanwhile_is_not_renamed() {
    use crate::replace::{adopt, is_unsettled, place_for_copy, settle};
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("db");
    let removed = open(&place);
    let copy = place_for_copy(&place);
    drop(open(&copy));
    adopt(&place, &copy).unwrap();
    assert!(matches!(settle(&place), Err(UpgradeError::InUse { .. })));
    assert!(is_unsettled(&place) && place.is_dir() && copy.is_dir());
    drop(removed);
    settle(&place).unwrap();
    assert!(!is_unsettled(&place) && place.is_dir() && !copy.exists());
}

#[test]
fn a_backup_with_any_bit_flipped_or_cut_anywhere_is_refused() {
    let (directory, database) = fresh();
    plan().upgrade(&database, None).unwrap();
    let file = directory.path().join("a.backup");
    plan().backup(&database, &file).unwrap();
    let whole = std::fs::read(&file).unwrap();
    let bad = directory.path().join("bad.backup");
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(&bad, bytes).unwrap();
        assert!(matches!(backup::verify(&bad), Err(UpgradeError::Backup { .. })), "{what}");
    };
    for at in (0..whole.len()).step_by(7) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        refused(&flipped, &format!("bit of byte {at}"));
        refused(&whole[..at], &format!("cut at {at}"));
    }
    refused(&[whole.as_slice(), b"x"].concat(), "longer");
    drop(database);
    let path = directory.path().join("db");
    assert!(matches!(restore(&bad, &path), Err(UpgradeError::Backup { .. })));
    assert_eq!(rows(&open(&path)), wanted(), "a refused restore changes nothing");
}

#[test]
fn a_dry_run_says_what_each_step_would_change_and_changes_nothing() {
    let (directory, database) = fresh();
    plan().upgrade(&database, Some(1)).unwrap();
    let before = content(&database).unwrap();
    let dry = plan().dry_run(&database, None).unwrap();
    assert_eq!((dry.from, dry.to, dry.steps.len()), (1, 2, 1));
    let step = &dry.steps[0];
    assert_eq!((step.added, step.changed, step.removed, step.unchanged), (0, u64::from(ROWS), 0, 0));
    assert_eq!((step.bytes_grown, step.chunks), (i64::from(ROWS), 8));
    assert_eq!(content(&database).unwrap(), before);
    let left = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 1, "the copy is gone");
}

#[test]
fn the_way_back_keeps_what_was_written_since_until_it_is_finalised() {
    let (_directory, database) = fresh();
    plan().upgrade(&database, Some(1)).unwrap();
    let first = own_content(&database);
    plan().upgrade(&database, None).unwrap();
    assert_eq!(plan().status(&database).unwrap().downgrade_to, 1);
    let report = plan().downgrade(&database, 1, no_backup(&mut |_| {})).unwrap();
    assert_eq!((report.from, report.to, report.applied), (2, 1, vec![2]));
    assert_eq!(own_content(&database), first);
    Plan::new(vec![Box::new(Rows)]).unwrap().validate(&database).expect("the older program takes it");
    database.apply("rows", &[Change::put(b"since", b"new")]).unwrap();
    plan().upgrade(&database, None).unwrap();
    let to_nothing = plan().downgrade(&database, 0, no_backup(&mut |_| {})).unwrap_err();
    assert!(matches!(to_nothing, UpgradeError::NotReversible { version: 1, .. }), "{to_nothing}");

    assert_eq!(plan().finalise(&database).unwrap(), 2);
    let refused = plan().downgrade(&database, 1, no_backup(&mut |_| {})).unwrap_err();
    assert!(matches!(refused, UpgradeError::Finalised { finalised: 2, to: 1, .. }), "{refused}");
    assert!(refused.to_string().contains("schema restore"), "{refused}");
    assert_eq!(plan().status(&database).unwrap().downgrade_to, 2);
}

#[test]
fn a_crash_at_every_write_of_the_way_back_is_ended_or_taken_back() {
    let (_directory, database) = fresh();
    plan().upgrade(&database, Some(1)).unwrap();
    let (first, mut at) = (own_content(&database), 0);
    loop {
        let mut reached = false;
        for (fault, end_it) in
            [(Fault::Before, true), (Fault::Before, false), (Fault::After, true), (Fault::After, false)]
        {
            plan().upgrade_on(&database, PathBuf::from("test"), None).unwrap();
            let faulty = Faulty::new(&database, at, fault);
            let result = plan().downgrade_on(&faulty, PathBuf::from("test"), 1);
            assert_eq!(result.is_err(), faulty.is_dead(), "write {at} {fault:?}");
            reached |= faulty.is_dead();
            if end_it {
                plan().downgrade_on(&database, PathBuf::from("test"), 1).unwrap();
                assert_eq!(own_content(&database), first, "write {at} {fault:?}");
            } else {
                plan().upgrade_on(&database, PathBuf::from("test"), None).unwrap();
                assert_eq!(rows(&database), wanted(), "write {at} {fault:?}");
            }
            plan().validate(&database).unwrap_or_else(|error| panic!("write {at} {fault:?}: {error}"));
        }
        if !reached {
            break;
        }
        at += 1;
    }
    assert!(at > 10, "only {at} writes were tried");
}

/// What kept the first system from starting for days: the object was there, the history did not have it, and the way out
/// on record was to wipe the database.
#[test]
fn an_object_that_exists_without_its_history_row_stops_nothing_and_is_mended() {
    let (_directory, database) = fresh();
    plan().upgrade(&database, None).unwrap();
    let before = own_content(&database);
    history::forget(&database, 2).unwrap();
    let error = plan().validate(&database).unwrap_err();
    assert!(matches!(error, UpgradeError::Unrecorded { version: 2, .. }), "{error}");
    assert!(error.to_string().contains("schema repair"), "{error}");

    let findings = plan().repair(&database).unwrap();
    assert_eq!(
        findings.iter().map(|it| (it.kind, it.version, it.mended)).collect::<Vec<_>>(),
        [("unrecorded", Some(2), true)]
    );
    plan().validate(&database).unwrap();
    assert_eq!(plan().status(&database).unwrap().applied[1].origin, Origin::Repaired);
    assert_eq!(own_content(&database), before, "nothing is wiped");
    assert!(plan().repair(&database).unwrap().is_empty(), "nothing is left to mend");

    history::forget(&database, 2).unwrap();
    assert_eq!(plan().upgrade(&database, None).unwrap().applied, [2], "and an upgrade goes over it by itself");
    assert_eq!(own_content(&database), before);
}

#[test]
fn a_lost_history_and_a_hole_in_it_are_written_anew_from_what_is_there() {
    let (_directory, database) = fresh();
    plan().upgrade(&database, None).unwrap();
    let before = own_content(&database);
    history::forget(&database, 1).unwrap();
    assert!(matches!(plan().validate(&database), Err(UpgradeError::Missing { version: 1, .. })));
    assert_eq!(plan().repair(&database).unwrap()[0].kind, "missing");
    plan().validate(&database).unwrap();
    for version in [1, 2] {
        history::forget(&database, version).unwrap();
    }
    assert!(matches!(plan().validate(&database), Err(UpgradeError::Unversioned { .. })));
    let findings = plan().repair(&database).unwrap();
    assert_eq!(findings.iter().map(|it| it.mended).collect::<Vec<_>>(), [true, true]);
    plan().validate(&database).unwrap();
    assert_eq!(own_content(&database), before);
}

#[test]
fn an_altered_row_is_accepted_only_if_its_result_is_there() {
    let (_directory, database) = fresh();
    plan().upgrade(&database, None).unwrap();
    let other = plan_with("another text");
    database.apply("rows", &[Change::put(b"plain", b"no mark")]).unwrap();
    let findings = other.repair(&database).unwrap();
    assert!(findings[0].kind == "altered" && !findings[0].mended, "{findings:?}");
    assert!(findings[0].action.contains("1 rows have no mark"), "{findings:?}");
    assert!(matches!(other.validate(&database), Err(UpgradeError::Altered { .. })));
    database.apply("rows", &[Change::remove(b"plain")]).unwrap();
    assert!(other.repair(&database).unwrap()[0].mended);
    other.validate(&database).unwrap();
    assert_eq!(database.scan(history::ASIDE, None, 9).unwrap().len(), 1, "the old row is kept");
}

#[test]
fn damaged_rows_and_a_harmless_wrong_order_are_mended_and_kept_aside() {
    let (_directory, database) = fresh();
    plan().upgrade(&database, None).unwrap();
    let before = own_content(&database);
    let mut first = history::rows(&database).unwrap().unwrap().remove(0);
    first.sequence = 9;
    history::record(&database, &first).unwrap();
    assert_eq!(plan().repair(&database).unwrap()[0].kind, "outOfOrder");
    plan().validate(&database).unwrap();
    for (tree, key) in [(HISTORY, 2_u32.to_be_bytes().as_slice()), (PROGRESS, CURRENT)] {
        database.apply(tree, &[Change::put(key, &[7; 50])]).unwrap();
    }
    assert!(matches!(plan().validate(&database), Err(UpgradeError::Damaged { .. })));
    let kinds: Vec<_> = plan().repair(&database).unwrap().into_iter().map(|it| (it.kind, it.mended)).collect();
    assert_eq!(kinds, [("damagedProgress", true), ("damaged", true)]);
    plan().validate(&database).unwrap();
    assert_eq!(own_content(&database), before);
}

#[test]
fn a_repair_ends_an_interrupted_step_and_leaves_a_newer_database_alone() {
    let (_directory, database) = fresh();
    plan().upgrade(&database, Some(1)).unwrap();
    let faulty = Faulty::new(&database, 9, Fault::Before);
    plan().upgrade_on(&faulty, PathBuf::from("test"), None).unwrap_err();
    let findings = plan().repair(&database).unwrap();
    assert!(findings[0].kind == "interrupted" && findings[0].mended, "{findings:?}");
    assert_eq!(rows(&database), wanted());
    let older = Plan::new(vec![Box::new(Rows)]).unwrap();
    let before = content(&database).unwrap();
    let findings = older.repair(&database).unwrap();
    assert!(findings[0].kind == "unknownFuture" && !findings[0].mended, "{findings:?}");
    assert_eq!(content(&database).unwrap(), before);
}

#[test]
fn progress_says_how_far_how_fast_and_how_long_still() {
    let (_directory, database) = fresh();
    plan().upgrade(&database, Some(1)).unwrap();
    let mut seen = Vec::new();
    plan().upgrade_with(&database, None, no_backup(&mut |progress| seen.push(progress.clone()))).unwrap();
    let fractions: Vec<f64> = seen.iter().map(|it| it.fraction.unwrap()).collect();
    assert!(fractions.is_sorted() && fractions[0] > 0.0 && fractions[0] < 0.5, "{fractions:?}");
    assert!((fractions[fractions.len() - 1] - 1.0).abs() < 1e-9);
    assert!(seen[0].left.is_some() && seen.iter().all(|it| it.rate() > 0.0));
    assert!(seen[0].to_string().starts_with("V002__marked: 1 chunks, 8 keys, "), "{}", seen[0]);
}

#[test]
fn a_large_tree_goes_through_in_small_pieces() {
    let (directory, database) = fresh();
    let (pairs, value) = (40_000_u32, [b'x'; 200]);
    for first in (0..pairs).step_by(1_000) {
        let rows: Vec<Change> = (first..first + 1_000).map(|n| Change::put(&n.to_be_bytes(), &value)).collect();
        database.apply("rows", &rows).unwrap();
    }
    plan().baseline(&database, 1).unwrap();
    let made = plan().backup(&database, &directory.path().join("large.backup")).unwrap();
    assert!(made.content.bytes > 8_000_000, "{made:?}");
    assert!(made.content.largest_piece <= 256 << 10, "{made:?}");

    let large = Plan::new(vec![Box::new(Rows), Box::new(Wide)]).unwrap();
    let report = large.upgrade_with(&database, None, no_backup(&mut |_| {})).unwrap();
    assert!(report.largest_chunk < 512 << 10, "{report:?}");
    assert!(rows(&database).iter().all(|row| row.starts_with('#')));
}

/// [`Marked`] with chunks of 1,000 rows.
struct Wide;

impl Step for Wide {
    fn version(&self) -> u32 {
        2
    }
    fn name(&self) -> &'static str {
        "wide"
    }
    fn content(&self) -> &[&str] {
        &[]
    }
    fn advance(&self, medium: &dyn Medium, from: Option<&[u8]>) -> Result<Advance, StepError> {
        let chunk = medium.scan("rows", from, 1_000)?;
        let changes: Vec<Change> =
            chunk.iter().map(|(key, text)| Change::put(key, &[b"#", text.as_slice()].concat())).collect();
        medium.apply("rows", &changes)?;
        Ok(chunk.last().map_or(Advance::Done, |(key, _)| Advance::More(key.clone())))
    }
}

#[test]
fn a_way_back_that_was_cut_and_whose_taking_back_was_cut_too_can_still_be_gone() {
    let (_directory, database) = fresh();
    plan().upgrade(&database, Some(1)).unwrap();
    let (first, mut at) = (own_content(&database), 0);
    loop {
        plan().upgrade_on(&database, PathBuf::from("test"), None).unwrap();
        let down = Faulty::new(&database, 9, Fault::After);
        plan().downgrade_on(&down, PathBuf::from("test"), 1).unwrap_err();
        let up = Faulty::new(&database, at, Fault::Before);
        let _ = plan().upgrade_on(&up, PathBuf::from("test"), None);
        plan().downgrade_on(&database, PathBuf::from("test"), 1).unwrap();
        assert_eq!(own_content(&database), first, "write {at} of the way up");
        assert_eq!(plan().status(&database).unwrap().version, 1);
        plan().validate(&database).unwrap_or_else(|error| panic!("write {at}: {error}"));
        if !up.is_dead() {
            break;
        }
        at += 1;
    }
    assert!(at > 10, "only {at} writes were tried");
}
