//! What proven faults cost: slashing, standing, and the table's place in the state.

use std::sync::Arc;

use aurigraph_ledger::staking::{EVENT_FAULT, FaultEvent, StakingTable, Standing};
use aurigraph_ledger::types::AUR;
use aurigraph_ledger::{
    Amount, CommitOutcome, Event, EventKind, Fault, FaultKind, Hash, Ledger, ModuleId, PlainHasher, StoredPage,
};

use crate::world::{World, genesis};

const COLUMN: u8 = 16 + ModuleId::Staking as u8;

pub fn fault(validator: u16, epoch: u64, kind: FaultKind) -> Fault {
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
    world.ledger.snapshot().staking().expect("the module is there").clone()
}

/// Own stake and slashed stake in units, slashes, and standing, of a validator of 10,000 units.
fn row(world: &mut World, validator: u32) -> (Amount, Amount, u32, Standing) {
    let table = table(world);
    for (_, row) in table.validators() {
        assert_eq!(row.stake() + row.slashed, 10_000 * AUR, "stake is neither made nor lost");
    }
    let row = table.validator(validator).expect("a validator of genesis");
    (row.self_stake / AUR, row.slashed / AUR, row.slashes, row.standing)
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
    assert_eq!(world.total(), supply, "what is slashed counts as burnt");
    assert_eq!(table(&mut world).burnt(), 700 * AUR);
    let told = block.events.iter().filter(|event| {
        let EventKind::Module { module, kind, .. } = &event.kind else { return false };
        event.transaction == Event::SYSTEM && (*module, *kind) == (ModuleId::Staking, EVENT_FAULT)
    });
    assert_eq!(told.count(), 3);
}

#[test]
fn the_shares_that_a_fault_costs_are_those_of_genesis() {
    let mut genesis = genesis();
    genesis.validators.iter_mut().for_each(|validator| validator.stake = 10_000);
    genesis.parameters.staking.equivocation_slash = 1_000;
    genesis.parameters.staking.conflict_slash = 0;
    let mut world = World::with(genesis);
    commit(&mut world, &[fault(0, 0, FaultKind::Equivocation), fault(1, 0, FaultKind::ConflictingCommitVote)]);
    assert_eq!(row(&mut world, 0), (9_000, 1_000, 1, Standing::Removed));
    assert_eq!(row(&mut world, 1), (10_000, 0, 1, Standing::Jailed));
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
    assert_eq!(penalties, [(FaultKind::Equivocation, 3, 500 * AUR), (FaultKind::Downtime, 1, 0)]);
}

#[test]
fn a_wrong_attestation_jails_once_without_a_slash_and_hides_no_fault_that_slashes() {
    let mut world = world();
    let supply = world.total();
    let wrong = fault(1, 0, FaultKind::WrongAttestation);
    let block = commit(&mut world, &[wrong, Fault { digest: Hash([1; 32]), ..wrong }]).block.expect("a block");
    let [event] = &block.events[..] else { panic!("{:?}", block.events) };
    let EventKind::Module { data, .. } = &event.kind else { panic!("the module's event") };
    let told = FaultEvent::decode(data).expect("a fault");
    assert_eq!((told.validator, told.kind, told.taken), (1, FaultKind::WrongAttestation, 0));
    assert_eq!(row(&mut world, 1), (10_000, 0, 0, Standing::Jailed));
    assert_eq!((world.total(), table(&mut world).burnt()), (supply, 0));
    // As long as any other stay in jail.
    let until = |world: &mut World, validator| table(world).validator(validator).expect("a row").jailed_until;
    commit(&mut world, &[fault(2, 0, FaultKind::ConflictingAttestation)]);
    assert_eq!(until(&mut world, 1), until(&mut world, 2));
    assert!(until(&mut world, 1) > 0);
    // Each slashes as if nothing had been.
    commit(&mut world, &[wrong, fault(1, 0, FaultKind::ConflictingAttestation)]);
    assert_eq!(row(&mut world, 1), (9_900, 100, 1, Standing::Jailed));
    commit(&mut world, &[fault(2, 0, FaultKind::WrongAttestation)]);
    assert_eq!(row(&mut world, 2), (9_900, 100, 1, Standing::Jailed));
    let kinds = table(&mut world).faults().keys().map(|(_, row, kind)| (*row, *kind)).collect::<Vec<_>>();
    let (conflicting, wrong) = (FaultKind::ConflictingAttestation, FaultKind::WrongAttestation);
    assert_eq!(kinds, [(1, conflicting), (1, wrong), (2, conflicting), (2, wrong)]);
    // What is stored of it is read back.
    let view = world.ledger.snapshot();
    let pages = view.export_pages(None).expect("a checkpoint");
    let imported = Ledger::import(&world.genesis, Arc::new(PlainHasher), pages).expect("own pages");
    assert_eq!(imported.checkpoint(), world.ledger.checkpoint());
}

#[test]
fn an_event_of_a_fault_decodes_and_nothing_else_does() {
    let mut world = world();
    let fault = fault(2, 0, FaultKind::ConflictingCommitVote);
    let block = commit(&mut world, &[fault]).block.expect("a block");
    let EventKind::Module { data, .. } = &block.events[0].kind else { panic!("the module's event") };
    let expected =
        FaultEvent { validator: 2, epoch: 0, kind: fault.kind, reporter: 3, digest: fault.digest, taken: 100 * AUR };
    assert_eq!(FaultEvent::decode(data), Ok(expected));
    assert!((0..data.len()).all(|cut| FaultEvent::decode(&data[..cut]).is_err()));
}

#[test]
fn no_fault_is_free_for_a_small_stake() {
    for (stake, left) in [(1, 0), (19, 18), (21, 19)] {
        let mut genesis = genesis();
        genesis.parameters.staking.stake_unit = 1;
        genesis.validators[0].stake = stake;
        let mut world = World::with(genesis);
        commit(&mut world, &[fault(0, 0, FaultKind::Equivocation)]);
        let table = table(&mut world);
        let row = table.validator(0).expect("a validator of genesis");
        assert_eq!((row.self_stake, row.slashed), (left, Amount::from(stake) - left), "of {stake}");
    }
}

#[test]
fn without_faults_the_state_is_that_of_a_ledger_without_the_module() {
    let mut world = world();
    let mut without =
        Ledger::from_genesis_with(&world.genesis, Arc::new(PlainHasher), Vec::new()).expect("a valid genesis");
    assert_eq!(world.root(), without.compute_state_root());
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
        assert_eq!(imported.snapshot().staking(), own.snapshot().staking());
        if !faults.is_empty() {
            let without = pages.iter().filter(|page| page.key.column != COLUMN).cloned().collect();
            assert!(import(without).is_err(), "a column cannot be left out");
            for at in (0..pages.len()).filter(|at| pages[*at].key.column == COLUMN) {
                let mut changed = pages.clone();
                *changed[at].bytes.last_mut().expect("bytes") ^= 1;
                assert!(import(changed).is_err(), "nor changed, page {at}");
            }
        }
    }
}

#[test]
fn the_tables_golden_bytes() {
    let mut world = world();
    commit(&mut world, &[fault(1, 0, FaultKind::Equivocation)]);
    let pages = world.ledger.snapshot().export_pages(None).expect("a checkpoint");
    let pages: Vec<_> = pages.iter().filter(|page| page.key.column == COLUMN).collect();
    // The number of pages; head, faults and sets, one page of validators, one of keys, 64 of accounts.
    assert_eq!(pages.iter().filter(|page| page.key.part == 0).count(), 1 + 2 + 1 + 1 + 64);
    // Behind the lengths of the group and of the page.
    let hex = |at: usize| hex::encode(&pages[at].bytes[8..]);
    let money = hex::encode((500 * AUR).to_le_bytes());
    let zero = "00".repeat(16);
    assert_eq!(hex(1), format!("030000000000000000{zero}{money}{zero}00000000000000000404"));
    let seats: Vec<String> = (0..4_u8).map(|at| format!("{at:02x}000000{at:02x}0000001027000000000000")).collect();
    let faults = format!("01000000000000000001000000010100000000000000{money}");
    assert_eq!(hex(2), format!("{faults}01000000000000000004{}", seats.concat()));
}
