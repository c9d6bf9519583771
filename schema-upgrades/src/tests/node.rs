//! The node's own steps: fresh equals upgraded, there and back, for each pair of versions.

use super::tools::own_content;
use super::*;
use crate::node::v001_first_layout::AUDIT;
use crate::node::v002_audit_times::{AUDIT_TIMES, AuditTimes};

/// An audit entry as far as the steps read it.
fn entry(number: u64, time: u64) -> Vec<u8> {
    [&[1], number.to_le_bytes().as_slice(), &time.to_le_bytes(), b"the rest"].concat()
}

const ENTRIES: u64 = 2_345;

/// Times that go back now and then.
fn time(number: u64) -> u64 {
    1_700_000_000_000 + number * 10 - (number % 7) * 15
}

fn write_entries(database: &Database) {
    let numbers: Vec<u64> = (1..=ENTRIES).collect();
    for chunk in numbers.chunks(1_000) {
        let rows: Vec<Change> = chunk.iter().map(|n| Change::put(&n.to_be_bytes(), &entry(*n, time(*n)))).collect();
        database.apply(AUDIT, &rows).unwrap();
    }
    database.apply(AUDIT, &[Change::put(&(ENTRIES + 1).to_be_bytes(), b"damaged")]).unwrap();
}

fn index() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = (1..=ENTRIES).map(|n| [time(n).to_be_bytes(), n.to_be_bytes()].concat()).collect();
    keys.sort();
    keys
}

fn found(database: &Database) -> Vec<Vec<u8>> {
    database.scan(AUDIT_TIMES, None, usize::MAX).unwrap().into_iter().map(|(key, _)| key).collect()
}

fn first_released() -> (tempfile::TempDir, Database) {
    let (directory, database) = fresh();
    crate::node::plan().upgrade(&database, Some(1)).unwrap();
    write_entries(&database);
    (directory, database)
}

#[test]
fn the_released_steps_keep_their_checksums() {
    let sums: Vec<String> = crate::node::plan().steps.iter().map(|step| crate::run::declared(step.as_ref())).collect();
    let released = [
        "3e52833b0b565c31c8cf48cd4fc522d75c48908a4003f169dff26926a6b41e57",
        "7f251a38f233faac3f2467bc39a3b99cfd33553d8447565fcbaaecc887546c76",
        "0c3bbf7fe4575ec629fe4f5a0550b566e074a66161a9532e8a3bb774117bf91f",
        "35aabe20800b47c6ae590589e38e179bc2e0f752ea8681a0873114af922a8e9b",
        "9a47388a5140b4417c6a76620b636cf76c99046f322e2853aa3d98f3f5720d5a",
    ];
    assert_eq!(sums, released, "a released step was edited: put it back, and make a new step");
}

#[test]
fn every_audit_entry_gets_its_time_in_bounded_chunks_twice_over() {
    let (_directory, database) = first_released();
    let plan = crate::node::plan();
    let report = plan.upgrade(&database, Some(2)).unwrap();
    assert_eq!(report.applied, [2]);
    assert!(report.largest_chunk < 128 << 10, "{report:?}");
    assert_eq!(found(&database), index());
    assert_eq!(AuditTimes.presence(&database).unwrap(), Presence::Complete);
    let before = own_content(&database);
    let mut from = None;
    while let Advance::More(next) = AuditTimes.advance(&database, from.as_deref()).unwrap() {
        from = Some(next);
    }
    assert_eq!(own_content(&database), before);
}

#[test]
fn upgraded_equals_fresh_and_the_way_back_equals_the_first_release() {
    let plan = crate::node::plan();
    for first in 0..=plan.newest() {
        let (_directory, stepwise) = fresh();
        plan.upgrade(&stepwise, Some(first)).unwrap();
        plan.upgrade(&stepwise, None).unwrap();
        let (_other, fresh) = fresh();
        plan.upgrade(&fresh, None).unwrap();
        assert_eq!(own_content(&stepwise), own_content(&fresh), "from version {first}");
    }
    let (_directory, database) = first_released();
    let before = own_content(&database);
    plan.upgrade(&database, None).unwrap();
    plan.downgrade_on(&database, PathBuf::from("test"), 1).unwrap();
    assert_eq!(own_content(&database), before);
    plan.validate(&database).unwrap();
}

#[test]
fn a_crash_at_every_write_with_entries_in_the_log_is_resumed_up_and_down() {
    let plan = crate::node::plan();
    let to = Some(2);
    let (_directory, database) = first_released();
    let first = own_content(&database);
    let mut at = 0;
    loop {
        let mut reached = false;
        for fault in [Fault::Before, Fault::After] {
            let up = Faulty::new(&database, at, fault);
            let _ = plan.upgrade_on(&up, PathBuf::from("test"), to);
            plan.upgrade_on(&database, PathBuf::from("test"), to).unwrap();
            assert_eq!(found(&database), index(), "write {at} {fault:?}");
            plan.validate(&database).unwrap();
            let down = Faulty::new(&database, at, fault);
            let _ = plan.downgrade_on(&down, PathBuf::from("test"), 1);
            plan.downgrade_on(&database, PathBuf::from("test"), 1).unwrap();
            assert_eq!(own_content(&database), first, "write {at} {fault:?}");
            plan.validate(&database).unwrap();
            reached |= up.is_dead() || down.is_dead();
        }
        if !reached {
            break;
        }
        at += 1;
    }
    assert!(at > 12, "only {at} writes were tried");
}
