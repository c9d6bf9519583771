//! The end of an epoch: its block and checkpoint, the next set, rewards.

use aurigraph_ledger::staking::Standing;
use aurigraph_ledger::types::AUR;
use aurigraph_ledger::{CommitOutcome, EpochEnd, FaultKind, LedgerError};

use crate::staking::fault;
use crate::world::{World, genesis};

/// Ends the running epoch with these delivered blocks.
pub fn end(world: &mut World, delivered: &[u64]) -> CommitOutcome {
    world.now += 10;
    let mut input = world.input(Vec::new());
    input.epoch_end = Some(EpochEnd { delivered: delivered.to_vec() });
    let outcome = world.ledger.execute(input, &world.verifier).expect("the commit is the next one");
    world.epoch += 1;
    outcome
}

#[test]
fn the_last_commit_of_an_epoch_makes_a_block_and_a_checkpoint_that_names_the_next_set() {
    let mut world = World::new();
    let before = world.ledger.snapshot();
    assert_eq!(before.set_of(0).map(|set| set.validators.len()), Some(4));
    assert!(before.next_set().is_none());
    let outcome = end(&mut world, &[1, 1, 1, 1]);
    let block = outcome.block.expect("a block without content");
    let checkpoint = outcome.checkpoint.expect("a checkpoint 10 ms after the last");
    assert_eq!((checkpoint.epoch, checkpoint.ledger_height), (0, block.header.height));
    let view = world.ledger.snapshot();
    let (this, next) = (view.set_of(0).expect("the set"), view.next_set().expect("the next set"));
    assert_eq!(checkpoint.next_set_root, Some(next.root()));
    assert_eq!((next.epoch, &next.validators), (1, &this.validators));
    assert_ne!(next.root(), this.root(), "the epoch is part of a set");
    // Only commits of the next epoch follow.
    let mut old = world.input(Vec::new());
    old.epoch = 0;
    let refused = world.ledger.execute(old, &world.verifier);
    assert_eq!(refused.err(), Some(LedgerError::Epoch { commit_index: 2, expected: 1, found: 0 }));
    let checkpoint = world.commit_batches(Vec::new()).checkpoint;
    assert!(checkpoint.is_none_or(|it| it.next_set_root.is_none()));
}

#[test]
fn who_is_at_fault_is_out_of_the_next_set_and_positions_follow_it() {
    let mut world = World::new();
    let mut input = world.input(Vec::new());
    input.faults = vec![fault(0, 0, FaultKind::Equivocation), fault(2, 0, FaultKind::ConflictingCommitVote)];
    world.ledger.execute(input, &world.verifier).expect("the next commit");
    assert_eq!(world.ledger.snapshot().set_of(0).map(|set| set.validators.len()), Some(4), "not at once");
    end(&mut world, &[1, 1, 1, 1]);
    let view = world.ledger.snapshot();
    let set = view.set_of(1).expect("the next set");
    assert_eq!(set.validators.iter().map(|member| member.id).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(view.invalid_signatures(), [0, 0]);
    // Position 1 is validator 3 now, and position 2 nobody.
    let mut input = world.input(Vec::new());
    input.faults = vec![fault(1, 1, FaultKind::ConflictingCommitVote)];
    input.faults[0].reporter = 0;
    world.ledger.execute(input.clone(), &world.verifier).expect("the next commit");
    let standing = |world: &mut World, id| {
        world.ledger.snapshot().staking().and_then(|table| table.validator(id)).map(|row| row.standing)
    };
    assert_eq!(standing(&mut world, 3), Some(Standing::Jailed));
    assert_eq!(standing(&mut world, 1), Some(Standing::Active));
    input.commit_index += 1;
    input.faults[0].validator = 2;
    let refused = world.ledger.execute(input, &world.verifier);
    assert_eq!(refused.err(), Some(LedgerError::UnknownValidator { commit_index: 4, index: 2, count: 2 }));
}

#[test]
fn a_set_is_never_empty() {
    let mut world = World::new();
    let mut input = world.input(Vec::new());
    input.faults = (0..4).map(|at| fault(at, 0, FaultKind::Equivocation)).collect();
    world.ledger.execute(input, &world.verifier).expect("the next commit");
    end(&mut world, &[1, 1, 1, 1]);
    let view = world.ledger.snapshot();
    assert_eq!(view.set_of(1).map(|set| set.validators), view.set_of(0).map(|set| set.validators));
}

#[test]
fn fees_and_what_is_minted_are_shared_out_by_stake_and_delivered_blocks() {
    let mut genesis = genesis();
    genesis.parameters.staking.reward_per_epoch = 10 * AUR;
    let mut world = World::with(genesis);
    let tx = crate::world::sign(
        &world.builder(0, 0).transfer(aurigraph_ledger::Target::Address(crate::world::address(1)), 5),
        0,
    );
    world.commit(vec![tx.into()]);
    let (total, fees) = (world.total(), world.ledger.fee_pool());
    assert!(fees > 0);
    // Nobody delivered anything: nothing is minted, the fees wait.
    end(&mut world, &[]);
    assert_eq!((world.total(), world.ledger.fee_pool()), (total, 0));
    end(&mut world, &[1, 2, 0, 0, 7]);
    assert_eq!(world.total(), total + 10 * AUR);
    let view = world.ledger.snapshot();
    let table = view.staking().expect("the module");
    let rewards: Vec<_> = (0..4).filter_map(|id| table.validator(id)).map(|row| row.rewards).collect();
    let pot = 10 * AUR + fees;
    assert_eq!(rewards, [pot / 3, pot * 2 / 3, 0, 0]);
    assert_eq!(rewards.iter().sum::<u128>() + table.carried(), pot, "the remainder is carried");
}

#[test]
fn sets_and_faults_are_forgotten_after_the_unbonding_period() {
    let mut genesis = genesis();
    genesis.parameters.staking.unbonding_epochs = 2;
    let mut world = World::with(genesis);
    for _ in 0..4 {
        end(&mut world, &[1, 1, 1, 1]);
    }
    let known = world.ledger.snapshot().staking().expect("the module").known_sets();
    assert_eq!(known, 2..=4);
    // A fault of a forgotten epoch costs nothing any more, one of a known epoch does.
    let mut input = world.input(Vec::new());
    input.faults = vec![fault(0, 1, FaultKind::Equivocation), fault(1, 2, FaultKind::Equivocation)];
    world.ledger.execute(input, &world.verifier).expect("the next commit");
    let view = world.ledger.snapshot();
    let table = view.staking().expect("the module");
    assert_eq!(table.validator(0).map(|row| row.standing), Some(Standing::Active));
    assert_eq!(table.validator(1).map(|row| row.standing), Some(Standing::Removed));
    for _ in 0..3 {
        end(&mut world, &[1, 1, 1]);
    }
    assert!(world.ledger.snapshot().staking().expect("the module").faults().is_empty());
}
