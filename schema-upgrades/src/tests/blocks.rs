//! V004 and V005: blocks as the releases before wrote them, there and back, with a crash at every write.

use std::sync::Arc;

use super::tools::own_content;
use super::*;
use crate::node::plan_with;
use crate::node::v001_first_layout::{BLOCK_TRANSACTIONS, BLOCKS};
use crate::node::v004_address_index::{
    AddressIndex, BY_ADDRESS, BY_INDEX, Bodies, MARK, PARTIES, Party, RECEIVER, SENDER, key,
};
use crate::node::v005_block_measures::{BlockMeasures, MEASURES};

/// Blocks of the test chain: more groups than one chunk takes.
const BLOCKS_MADE: u64 = 40;
/// One block has more transactions than one group holds.
const LARGE: (u64, u32) = (7, 1_200);

const fn transactions(height: u64) -> u32 {
    if height == LARGE.0 { LARGE.1 } else { (height % 3) as u32 }
}

/// Two batches a block, the first with two thirds of it.
fn batch(height: u64, ordinal: u16) -> [u8; 32] {
    *blake3::hash(&[&height.to_be_bytes()[..], &ordinal.to_be_bytes()].concat()).as_bytes()
}

fn place(height: u64, index: u32) -> (u16, u32) {
    let first = transactions(height) * 2 / 3;
    if index < first { (0, index) } else { (1, index - first) }
}

fn parties(batch: &[u8; 32], position: u32) -> Vec<Party> {
    let sender = Party { key: [&[BY_INDEX][..], &position.to_be_bytes()].concat(), role: SENDER };
    let receiver = Party { key: [&[BY_ADDRESS][..], batch].concat(), role: RECEIVER };
    if position.is_multiple_of(2) { vec![sender, receiver] } else { vec![sender] }
}

/// A journal that has lost the batches of one block.
struct Journal;

const LOST: u64 = 20;

impl Bodies for Journal {
    fn parties(&self, batch_of: &[u8; 32], positions: &[u32]) -> Result<Option<Vec<Vec<Party>>>, StepError> {
        if (0..2).any(|ordinal| batch(LOST, ordinal) == *batch_of) {
            return Ok(None);
        }
        Ok(Some(positions.iter().map(|position| parties(batch_of, *position)).collect()))
    }
}

fn node() -> Plan {
    plan_with(Arc::new(Journal))
}

/// A block row of the first form. Its header is longer than a varint of one byte can say.
fn row(height: u64) -> Vec<u8> {
    let header = vec![u8::try_from(height).unwrap(); 200];
    let batches = [batch(height, 0), batch(height, 1)].concat();
    [&[9; 32][..], &height.to_le_bytes(), &transactions(height).to_le_bytes(), &[2], &batches, &[200, 1], &header]
        .concat()
}

fn write_blocks(database: &Database) {
    for height in 0..=BLOCKS_MADE {
        let indices: Vec<u32> = (0..transactions(height)).collect();
        for group in indices.chunks(1_000) {
            let entry = |index: &u32| {
                let (ordinal, position) = place(height, *index);
                [&[3; 32][..], &ordinal.to_le_bytes(), &position.to_le_bytes()].concat()
            };
            let value: Vec<u8> = group.iter().flat_map(entry).collect();
            let key = [&height.to_be_bytes()[..], &group[0].to_be_bytes()].concat();
            database.apply(BLOCK_TRANSACTIONS, &[Change::put(&key, &value)]).unwrap();
        }
        database.apply(BLOCKS, &[Change::put(&height.to_be_bytes(), &row(height))]).unwrap();
    }
    // A block whose indexing was cut: its groups are there, its row is not.
    let cut = [&99_u64.to_be_bytes()[..], &0_u32.to_be_bytes()].concat();
    database.apply(BLOCK_TRANSACTIONS, &[Change::put(&cut, &[3; 38])]).unwrap();
}

fn at_version(version: u32) -> (tempfile::TempDir, Database) {
    let (directory, database) = fresh();
    node().upgrade(&database, Some(1)).unwrap();
    write_blocks(&database);
    node().upgrade_on(&database, PathBuf::from("test"), Some(version)).unwrap();
    (directory, database)
}

/// What the index must hold.
fn index() -> crate::Pairs {
    let mut rows: crate::Pairs = vec![(MARK.to_vec(), Vec::new())];
    for height in (0..=BLOCKS_MADE).filter(|height| *height != LOST) {
        for at in 0..transactions(height) {
            let (ordinal, position) = place(height, at);
            let parties = parties(&batch(height, ordinal), position);
            rows.extend(parties.into_iter().map(|party| (key(&party.key, height, at), vec![party.role])));
        }
    }
    rows.sort();
    rows
}

fn found(database: &Database) -> crate::Pairs {
    database.scan(PARTIES, None, usize::MAX).unwrap()
}

fn again(step: &dyn Step, database: &Database) {
    let mut from = None;
    while let Advance::More(next) = step.advance(database, from.as_deref()).unwrap() {
        from = Some(next);
    }
}

#[test]
fn every_transaction_is_found_by_its_parties_in_bounded_chunks_twice_over() {
    let (_directory, database) = at_version(3);
    let step = AddressIndex::new(Some(Arc::new(Journal)));
    assert_eq!(step.presence(&database).unwrap(), Presence::Absent);
    let report = node().upgrade(&database, Some(4)).unwrap();
    assert!(report.largest_chunk < 256 << 10, "{report:?}");
    assert_eq!(found(&database), index());
    assert_eq!(step.presence(&database).unwrap(), Presence::Complete);
    again(&step, &database);
    assert_eq!(found(&database), index());
    database.apply(PARTIES, &[Change::remove(&MARK)]).unwrap();
    assert!(matches!(step.presence(&database).unwrap(), Presence::Partial(_)));
}

#[test]
fn without_a_journal_an_index_of_transactions_is_refused_and_nothing_is_half_recorded() {
    let (_directory, database) = at_version(3);
    let refused = crate::node::plan().upgrade(&database, None).unwrap_err();
    assert!(refused.to_string().contains("no journal was handed in"), "{refused}");
    assert_eq!(node().status(&database).unwrap().version, 3);
    node().upgrade(&database, Some(4)).unwrap();
    assert_eq!(found(&database), index());
}

#[test]
fn every_block_row_gets_room_for_its_measures_and_keeps_those_it_has() {
    let (_directory, database) = at_version(4);
    assert_eq!(BlockMeasures.presence(&database).unwrap(), Presence::Absent);
    let measured = [&row(3)[..], &[1; MEASURES]].concat();
    database.apply(BLOCKS, &[Change::put(&3_u64.to_be_bytes(), &measured)]).unwrap();
    assert!(matches!(BlockMeasures.presence(&database).unwrap(), Presence::Partial(_)));
    node().upgrade(&database, Some(5)).unwrap();
    let rows = database.scan(BLOCKS, None, usize::MAX).unwrap();
    assert_eq!(rows.len() as u64, BLOCKS_MADE + 1);
    for (height, (_, found)) in (0..).zip(rows) {
        let wanted = if height == 3 { measured.clone() } else { [&row(height)[..], &[0; MEASURES]].concat() };
        assert_eq!(found, wanted, "block {height}");
    }
    assert_eq!(BlockMeasures.presence(&database).unwrap(), Presence::Complete);
    let before = own_content(&database);
    again(&BlockMeasures, &database);
    assert_eq!(own_content(&database), before);
}

#[test]
fn a_block_row_of_neither_form_stops_the_step_and_is_named() {
    let (_directory, database) = at_version(4);
    let broken = [&row(5)[..], b"!"].concat();
    database.apply(BLOCKS, &[Change::put(&5_u64.to_be_bytes(), &broken)]).unwrap();
    let refused = node().upgrade(&database, Some(5)).unwrap_err();
    assert!(refused.to_string().contains("0000000000000005"), "{refused}");
    assert_eq!(node().status(&database).unwrap().version, 4);
}

#[test]
fn between_each_pair_of_versions_stepwise_equals_at_once_and_back_equals_before() {
    let newest = node().newest();
    let contents: Vec<_> = (1..=newest).map(|version| own_content(&at_version(version).1)).collect();
    for from in 1..=newest {
        let (_directory, database) = at_version(from);
        for to in from..=newest {
            node().upgrade_on(&database, PathBuf::from("test"), Some(to)).unwrap();
            assert!(own_content(&database) == contents[to as usize - 1], "from {from} to {to}");
            node().validate(&database).unwrap();
            node().downgrade_on(&database, PathBuf::from("test"), from).unwrap();
            assert!(own_content(&database) == contents[from as usize - 1], "from {to} back to {from}");
            node().up_to(from).validate(&database).expect("the older release takes it");
        }
    }
}

#[test]
fn a_crash_at_every_write_of_both_steps_is_resumed_up_and_down() {
    let (_directory, database) = at_version(3);
    let (before, after) = (own_content(&database), own_content(&at_version(5).1));
    let mut at = 0;
    loop {
        // One kind of fault each time, in turn.
        let fault = if at % 2 == 0 { Fault::Before } else { Fault::After };
        let up = Faulty::new(&database, at, fault);
        let _ = node().upgrade_on(&up, PathBuf::from("test"), None);
        node().upgrade_on(&database, PathBuf::from("test"), None).unwrap();
        assert!(own_content(&database) == after, "write {at} {fault:?}");
        node().validate(&database).unwrap();
        let down = Faulty::new(&database, at, fault);
        let _ = node().downgrade_on(&down, PathBuf::from("test"), 3);
        node().downgrade_on(&database, PathBuf::from("test"), 3).unwrap();
        assert!(own_content(&database) == before, "write {at} {fault:?}");
        if !up.is_dead() && !down.is_dead() {
            break;
        }
        at += 1;
    }
    assert!(at > 20, "only {at} writes were tried");
}
