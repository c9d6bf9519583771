//! V003: checkpoints as the release before wrote them, there and back, with a crash at every write.

use super::tools::own_content;
use super::*;
use crate::node::v001_first_layout::{CHECKPOINTS, PAGES};
use crate::node::v003_key_table::{KEYS, KeyTable};

const KEY: usize = 2_592;

fn digest(key: &[u8], content: &[u8]) -> [u8; 32] {
    *blake3::hash(&[&(key.len() as u64).to_le_bytes(), key, content].concat()).as_bytes()
}

fn sealed(key: &[u8], content: &[u8]) -> Vec<u8> {
    [&digest(key, content), content].concat()
}

/// A row of keys as the ledger gives it to the store.
fn row(numbers: std::ops::Range<usize>) -> Vec<u8> {
    let keys: Vec<u8> = numbers.flat_map(|number| vec![u8::try_from(number % 251).unwrap(); KEY]).collect();
    let (page, all) = (u32::try_from(keys.len()).unwrap(), u32::try_from(keys.len() + 8).unwrap());
    [&all.to_le_bytes(), &page.to_le_bytes(), keys.as_slice()].concat()
}

fn rows(keys: usize) -> impl Iterator<Item = (u32, Vec<u8>)> {
    (0_u32..).zip((0..keys).step_by(16)).map(move |(number, first)| (number, row(first..keys.min(first + 16))))
}

fn slot_key(slot: u8, table: u8, group: u32) -> Vec<u8> {
    [&[slot, 0, table], group.to_be_bytes().as_slice(), &[0, 0]].concat()
}

/// A checkpoint of the first form with so many keys, and values of other tables before and behind them.
fn write_slot(database: &Database, slot: u8, keys: usize) {
    let mut values: Vec<(Vec<u8>, Vec<u8>)> = [0, 1, 2, 18]
        .map(|table| (slot_key(slot, table, 0), format!("table {table} at {keys} keys").into_bytes()))
        .into();
    values.extend(rows(keys).map(|(number, row)| (slot_key(slot, 5, number), row)));
    values.push((vec![slot, 1, 0, 0, 0, 0], b"consensus".to_vec()));
    values.sort();
    let mut hasher = blake3::Hasher::new();
    for (key, content) in &values {
        database.apply(PAGES, &[Change::put(key, &sealed(key, content))]).unwrap();
        hasher.update(&(key.len() as u64).to_le_bytes()).update(key).update(&digest(key, content));
    }
    let common: Vec<u8> = [keys as u64, 70, 71].into_iter().flat_map(u64::to_le_bytes).chain([7; 32]).collect();
    let count = (values.len() as u64).to_le_bytes();
    let body = [&[1], common.as_slice(), &count, hasher.finalize().as_bytes()].concat();
    let header = [body.as_slice(), blake3::hash(&body).as_bytes()].concat();
    database.apply(CHECKPOINTS, &[Change::put(&[slot], &header)]).unwrap();
}

/// A store of version 2 whose older slot has 250 keys and whose newer one has 277.
fn second_released() -> (tempfile::TempDir, Database) {
    let (directory, database) = fresh();
    crate::node::plan().upgrade(&database, Some(2)).unwrap();
    write_slot(&database, 0, 277);
    write_slot(&database, 1, 250);
    (directory, database)
}

fn check(database: &Database, context: &str) {
    let found: Vec<(Vec<u8>, Vec<u8>)> = database.scan(KEYS, None, usize::MAX).unwrap();
    let wanted: Vec<(Vec<u8>, Vec<u8>)> = rows(277)
        .map(|(number, row)| {
            let key = [number.to_be_bytes().as_slice(), &[0, 0]].concat();
            let value = sealed(&key, &row);
            (key, value)
        })
        .collect();
    assert!(found == wanted, "{context}: {} rows", found.len());
    for (slot, keys) in [(0_u8, 277_u64), (1, 250)] {
        let values = database.scan(PAGES, Some(&[slot]), usize::MAX).unwrap();
        let own: Vec<_> = values.into_iter().filter(|(key, _)| key[0] == slot).collect();
        assert_eq!(own.len(), 5, "{context}: no keys in slot {slot}");
        let mut hasher = blake3::Hasher::new();
        own.iter().for_each(|(key, value)| {
            hasher.update(&(key.len() as u64).to_le_bytes()).update(key).update(&value[..32]);
        });
        let header = database.get(CHECKPOINTS, &[slot]).unwrap().unwrap();
        let (body, checksum) = header.split_at(header.len() - 32);
        assert_eq!(blake3::hash(body).as_bytes(), checksum, "{context}");
        assert_eq!((body[0], &body[57..65], &body[65..73]), (2, &keys.to_le_bytes()[..], &5_u64.to_le_bytes()[..]));
        assert_eq!(&body[73..], hasher.finalize().as_bytes(), "{context}");
    }
}

#[test]
fn keys_of_both_slots_become_one_table_and_the_way_back_gives_each_slot_its_own() {
    let plan = crate::node::plan();
    let (_directory, database) = second_released();
    let before = own_content(&database);
    assert_eq!(KeyTable.presence(&database).unwrap(), Presence::Absent);
    let report = plan.upgrade(&database, Some(3)).unwrap();
    assert!(report.largest_chunk < 2 << 20, "{report:?}");
    check(&database, "upgraded");
    assert_eq!(KeyTable.presence(&database).unwrap(), Presence::Complete);
    let after = own_content(&database);
    let mut from = None;
    while let Advance::More(next) = KeyTable.advance(&database, from.as_deref()).unwrap() {
        from = Some(next);
    }
    assert_eq!(own_content(&database), after, "applied twice");
    plan.downgrade_on(&database, PathBuf::from("test"), 2).unwrap();
    assert_eq!(own_content(&database), before);
}

#[test]
fn a_slot_that_is_not_whole_keeps_its_header_and_the_other_becomes_readable() {
    let plan = crate::node::plan();
    let (_directory, database) = second_released();
    let key = slot_key(1, 2, 0);
    database.apply(PAGES, &[Change::put(&key, b"not what was sealed, but as long as a digest")]).unwrap();
    plan.upgrade(&database, Some(3)).unwrap();
    let form = |slot: u8| database.get(CHECKPOINTS, &[slot]).unwrap().unwrap()[0];
    assert_eq!((form(0), form(1)), (2, 1));
    plan.validate(&database).unwrap();
}

#[test]
fn a_crash_at_every_write_of_the_key_table_is_resumed_up_and_down() {
    let plan = crate::node::plan();
    let (_directory, database) = second_released();
    let before = own_content(&database);
    let mut at = 0;
    loop {
        let mut reached = false;
        // One kind of fault each time, in turn: a pass costs a hundred syncs.
        let fault = if at % 2 == 0 { Fault::Before } else { Fault::After };
        let up = Faulty::new(&database, at, fault);
        let _ = plan.upgrade_on(&up, PathBuf::from("test"), Some(3));
        plan.upgrade_on(&database, PathBuf::from("test"), Some(3)).unwrap();
        check(&database, &format!("write {at} {fault:?}"));
        plan.validate(&database).unwrap();
        let down = Faulty::new(&database, at, fault);
        let _ = plan.downgrade_on(&down, PathBuf::from("test"), 2);
        plan.downgrade_on(&database, PathBuf::from("test"), 2).unwrap();
        assert!(own_content(&database) == before, "write {at} {fault:?}");
        reached |= up.is_dead() || down.is_dead();
        if !reached {
            break;
        }
        at += 1;
    }
    assert!(at > 20, "only {at} writes were tried");
}
