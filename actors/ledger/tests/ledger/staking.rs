//! What proven faults cost: slashing, standing, and the table's place in the state.

use std::sync::Arc;

use aurigraph_ledger::staking::{EVENT_FAULT, StakingTable, Standing, decode_event};
use aurigraph_ledger::{
    CommitOutcome, Event, EventKind, Fault, FaultKind, Hash, Ledger, ModuleId, PlainHasher, StoredPage,
};

use crate::world::{World, genesis};

const COLUMN: u8 = 16 + ModuleId::Staking as u8;

fn fault(validator: u16, epoch: u64, kind: FaultKind) -> Fault {
    Fault { validator, epoch, kind, reporter: 3, digest: Hash([9; 32]) }
}

/// Commits faults, far enough after the last commit for a checkpoint.
fn commit(world: &mut World, faults: &[Fault]) -> CommitOutcome {
    world.now += 2_000;
    let mut input = world.input(Vec::new());
    input.faults = faults.to_vec();
    world.ledger.execute(input, &world.verifier).expect("the commit is the next one")
}

fn table(world: &mut World) -> StakingTable {
    world.ledger.snapshot().staking().expect("a checkpoint").expect("a fault was executed")
}

/// Stake, slashed stake and slashes of a validator of 10,000, and its standing.
fn row(world: &mut World, validator: usize) -> (u64, u64, u32, Standing) {
    let table = table(world);
    for row in &table.validators {
        assert_eq!(row.stake + row.slashed, 10_000, "stake is neither made nor lost");
    }
    let row = table.validators[validator];
    (row.stake, row.slashed, row.slashes, row.standing)
}

fn world() -> World {
    let mut genesis = genesis();
    genesis.validators.iter_mut().for_each(|validator| validator.stake = 10_000);
    World::with(genesis)
}

#[test]
fn an_equivocator_loses_a_twentieth_and_is_removed_and_the_smaller_faults_cost_a_fifth_of_it() {
    let mut world = world();
    let supply = world.total();
    let faults = [
        fault(0, 0, FaultKind::Equivocation),
        fault(1, 0, FaultKind::ConflictingAttestation),
        fault(2, 0, FaultKind::ConflictingCommitVote),
    ];
    let block = commit(&mut world, &faults).block.expect("a fault makes a block");
    assert_eq!(row(&mut world, 0), (9_500, 500, 1, Standing::Removed));
    assert_eq!(row(&mut world, 1), (9_900, 100, 1, Standing::Jailed));
    assert_eq!(row(&mut world, 2), (9_900, 100, 1, Standing::Jailed));
    assert_eq!(row(&mut world, 3), (10_000, 0, 0, Standing::Active));
    assert_eq!(world.total(), supply);
    let told = block.events.iter().filter(|event| {
        let EventKind::Module { module, kind, data } = &event.kind else { return false };
        event.transaction == Event::SYSTEM && (*module, *kind, data.len()) == (ModuleId::Staking, EVENT_FAULT, 53)
    });
    assert_eq!(told.count(), 3);
}

#[test]
fn a_fault_counts_once_and_an_epoch_slashes_a_validator_once() {
    let mut world = world();
    let attestation = fault(1, 0, FaultKind::ConflictingAttestation);
    let again = Fault { reporter: 2, digest: Hash([1; 32]), ..attestation };
    assert_eq!(commit(&mut world, &[attestation, again]).block.expect("a block").events.len(), 1);
    let after = row(&mut world, 1);
    assert!(commit(&mut world, &[again]).block.expect("a block").events.is_empty());
    assert_eq!((row(&mut world, 1), after), (after, (9_900, 100, 1, Standing::Jailed)));
    commit(&mut world, &[fault(1, 0, FaultKind::Equivocation)]);
    assert_eq!(row(&mut world, 1), (9_900, 100, 1, Standing::Removed), "removed, not slashed again");
    commit(&mut world, &[fault(1, 1, FaultKind::ConflictingCommitVote)]);
    assert_eq!(row(&mut world, 1), (9_801, 199, 2, Standing::Removed), "a smaller fault does not let it back");
}

#[test]
fn downtime_jails_without_a_slash_and_again_only_after_the_validator_is_back() {
    let mut world = world();
    let absent = fault(1, 0, FaultKind::Downtime);
    let block = commit(&mut world, &[absent, absent]).block.expect("a block");
    assert_eq!(block.events.len(), 1, "what cannot propose is not absent");
    assert_eq!(row(&mut world, 1), (10_000, 0, 0, Standing::Jailed));
    assert!(commit(&mut world, &[absent]).block.expect("a block").events.is_empty());
    // It is no slash, so the first proven fault still is.
    commit(&mut world, &[fault(1, 0, FaultKind::Equivocation)]);
    assert_eq!(row(&mut world, 1), (9_500, 500, 1, Standing::Removed));
    let table = table(&mut world);
    let penalties: Vec<_> = table.faults().iter().map(|((_, _, kind), it)| (*kind, it.height, it.taken)).collect();
    assert_eq!(penalties, [(FaultKind::Equivocation, 3, 500), (FaultKind::Downtime, 1, 0)]);
}

#[test]
fn an_event_of_a_fault_decodes_and_nothing_else_does() {
    let mut world = world();
    let fault = fault(2, 0, FaultKind::ConflictingCommitVote);
    let block = commit(&mut world, &[fault]).block.expect("a block");
    let EventKind::Module { data, .. } = &block.events[0].kind else { panic!("the module's event") };
    assert_eq!(decode_event(data), Ok((fault, 100)));
    assert!((0..data.len()).all(|cut| decode_event(&data[..cut]).is_err()));
}

#[test]
fn no_fault_is_free_for_a_small_stake_and_none_overflows_a_large_one() {
    for (stake, left) in [(1, 0), (19, 18), (21, 19), (u64::MAX / 16, u64::MAX / 16 - (u64::MAX / 16).div_ceil(20))] {
        let mut genesis = genesis();
        genesis.validators[0].stake = stake;
        let mut world = World::with(genesis);
        commit(&mut world, &[fault(0, 0, FaultKind::Equivocation)]);
        let row = table(&mut world).validators[0];
        assert_eq!((row.stake, row.slashed), (left, stake - left), "of {stake}");
    }
}

#[test]
fn without_faults_the_state_is_that_of_a_ledger_without_the_module() {
    let mut world = world();
    let mut without =
        Ledger::from_genesis_with(&world.genesis, Arc::new(PlainHasher), Vec::new()).expect("a valid genesis");
    assert_eq!(world.root(), without.compute_state_root());
    assert!(world.ledger.snapshot().staking().expect("a checkpoint").is_none());
    commit(&mut world, &[fault(0, 0, FaultKind::Equivocation)]);
    let mut input = world.input(Vec::new());
    (input.commit_index, input.faults) = (1, vec![fault(0, 0, FaultKind::Equivocation)]);
    without.execute(input, &world.verifier).expect("the next commit");
    assert_ne!(world.root(), without.compute_state_root());
}

#[test]
fn the_table_is_stored_and_restored_before_and_after_the_first_fault() {
    let mut world = world();
    for faults in [Vec::new(), vec![fault(2, 0, FaultKind::Equivocation)]] {
        world.now += 10_000;
        commit(&mut world, &faults);
        let view = world.ledger.snapshot();
        let pages = view.export_pages(None).expect("a checkpoint");
        assert_eq!(pages.iter().any(|page| page.key.column == COLUMN), !faults.is_empty());
        let import = |pages: Vec<StoredPage>| Ledger::import(&world.genesis, Arc::new(PlainHasher), pages);
        let mut imported = import(pages.clone()).expect("the pages are whole");
        let mut resumed = Ledger::resume(&world.genesis, Arc::new(PlainHasher), &view).expect("a checkpoint");
        // Both go on as the ledger itself does, from the same table.
        let mut input = world.input(Vec::new());
        input.timestamp_ms += 2_000;
        input.faults = vec![fault(2, 0, FaultKind::Equivocation), fault(1, 0, FaultKind::ConflictingAttestation)];
        imported.execute(input.clone(), &world.verifier).expect("the next commit");
        resumed.execute(input.clone(), &world.verifier).expect("the next commit");
        let mut own = Ledger::resume(&world.genesis, Arc::new(PlainHasher), &view).expect("a checkpoint");
        own.execute(input, &world.verifier).expect("the next commit");
        assert_eq!(imported.compute_state_root(), own.compute_state_root());
        assert_eq!(resumed.checkpoint(), imported.checkpoint());
        if !faults.is_empty() {
            let without = pages.iter().filter(|page| page.key.column != COLUMN).cloned().collect();
            assert!(import(without).is_err(), "a column cannot be left out");
            let mut changed = pages;
            *changed.last_mut().expect("the table").bytes.last_mut().expect("bytes") ^= 1;
            assert!(import(changed).is_err(), "nor changed");
        }
    }
}

#[test]
fn the_tables_golden_bytes() {
    let mut world = world();
    commit(&mut world, &[fault(1, 0, FaultKind::Equivocation)]);
    let pages = world.ledger.snapshot().export_pages(None).expect("a checkpoint");
    // Behind the lengths of the group and of the page.
    let page = &pages.iter().rfind(|page| page.key.column == COLUMN).expect("the table is stored").bytes[8..];
    let rows = [("1027000000000000", "0000000000000000", "00000000", "00")].repeat(4);
    let mut rows: Vec<String> = rows.iter().map(|(a, b, c, d)| format!("{a}{b}{c}{d}")).collect();
    rows[1] = "1c25000000000000f4010000000000000100000002".into();
    let hex: String = page.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, format!("0204{}0100000000000000000100010100000000000000f401000000000000", rows.concat()));
    assert_eq!(StakingTable::decode(page).expect("own bytes decode"), table(&mut world));
    for cut in 0..page.len() {
        assert!(StakingTable::decode(&page[..cut]).is_err());
    }
}
