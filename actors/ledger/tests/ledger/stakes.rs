//! Operations of staking: what each does, what each refuses, and that no history makes or loses money.

use std::sync::Arc;

use aurigraph_ledger::staking::{
    EVERYTHING, MAX_UNBONDING, ProvenKeys, Registration, StakingFailure, StakingOperation as Op, StakingTable,
    Standing, Validator, ValidatorKeys, proof_message,
};
use aurigraph_ledger::types::AUR;
use aurigraph_ledger::{
    AccountIndex, Amount, FailureCode, Fault, FaultKind, Genesis, Ledger, Operation, PlainHasher, PublicKey,
    Transaction,
};
use proptest::prelude::*;

use crate::epochs::end;
use crate::staking::fault;
use crate::world::{ACCOUNTS, KEYED, World, address, check, corrupt, fake_signature, genesis, key, sign};

/// Validator n of genesis, with 10 votes, belongs to account n.
fn operated() -> Genesis {
    let mut genesis = genesis();
    for (account, validator) in (0..).zip(&mut genesis.validators) {
        (validator.stake, validator.operator) = (10, Some(address(account)));
    }
    genesis.parameters.staking.unbonding_epochs = 2;
    genesis.parameters.staking.reward_per_epoch = AUR;
    genesis
}

fn world() -> World {
    World::with(operated())
}

fn signed(world: &mut World, account: u32, operations: Vec<Op>, atomic: bool) -> Transaction {
    let nonce = world.nonce(account);
    let builder = operations.into_iter().fold(world.builder(account, nonce).atomic(atomic), |it, op| it.staking(op));
    sign(&builder, account)
}

/// Commits operations of an account; why each that failed did.
fn run(world: &mut World, account: u32, operations: Vec<Op>) -> Vec<(u32, StakingFailure)> {
    let tx = signed(world, account, operations, false);
    let block = world.commit(vec![tx.into()]);
    let receipt = &block.transactions.first().expect("the transaction is included").receipt;
    let failure = |code| match code {
        FailureCode::Module(code) => StakingFailure::of_code(code).expect("a code of staking"),
        other => panic!("{other:?}"),
    };
    receipt.failures.iter().map(|it| (it.position, failure(it.code))).collect()
}

fn ok(world: &mut World, account: u32, operation: Op) {
    assert_eq!(run(world, account, vec![operation.clone()]), [], "{operation:?}");
}

fn refused(world: &mut World, account: u32, operation: Op) -> StakingFailure {
    let before = table(world);
    let failures = run(world, account, vec![operation.clone()]);
    assert_eq!(table(world), before, "{operation:?}");
    failures.first().unwrap_or_else(|| panic!("{operation:?} took effect")).1
}

fn table(world: &mut World) -> StakingTable {
    world.ledger.snapshot().staking().expect("the module").clone()
}

fn row(world: &mut World, id: u32) -> Validator {
    table(world).validator(id).expect("a row").clone()
}

fn unbonding(world: &mut World, account: u32) -> Vec<Amount> {
    table(world).unbonding(AccountIndex(account)).map(|entry| entry.amount).collect()
}

fn proven(world: &World, operator: u32, name: &str, seed: u32) -> ProvenKeys {
    let (consensus, network) = (key(1_000 + 2 * seed), key(1_001 + 2 * seed));
    let keys = ValidatorKeys { consensus: PublicKey::new(consensus.clone()), network: PublicKey::new(network.clone()) };
    let message = proof_message(&world.ledger.chain_id(), &address(operator), name, &keys);
    let (consensus_proof, network_proof) = (fake_signature(&consensus, &message), fake_signature(&network, &message));
    ProvenKeys { keys, consensus_proof, network_proof }
}

fn join(world: &World, operator: u32, name: &str, seed: u32, self_stake: Amount) -> Op {
    let keys = proven(world, operator, name, seed);
    Op::Join(Box::new(Registration { name: name.to_owned(), self_stake, commission: 500, keys }))
}

fn votes(world: &mut World) -> Vec<(u32, u64)> {
    let view = world.ledger.snapshot();
    let set = view.set_of(view.staking().expect("the module").epoch()).expect("a set");
    set.validators.iter().map(|member| (member.id, member.stake)).collect()
}

/// Bonded and unbonded, with all columns, of every kind.
fn every_operation(world: &World) -> Vec<Op> {
    let keys = || Box::new(proven(world, 0, "v1", 9));
    vec![
        Op::Bond { validator: 0, amount: 3 },
        Op::Bond { validator: 1, amount: 1 << 70 },
        Op::Delegate { validator: 2, amount: AUR },
        Op::Undelegate { validator: 2, amount: EVERYTHING },
        Op::Unbond { validator: 0, amount: 300 },
        Op::Withdraw { validator: 7 },
        join(world, 0, "new-1", 1, 5 * AUR),
        join(world, 0, "new_2.x", 2, AUR),
        Op::Leave { validator: 0 },
        Op::SetCommission { validator: 0, commission: 77 },
        Op::SetCommission { validator: 1, commission: 9_999 },
        Op::Rotate { validator: 0, keys: keys() },
        Op::Unjail { validator: 3 },
        Op::Maintenance { validator: 3, seconds: 60 },
    ]
}

#[test]
fn every_operation_comes_back_from_its_columns_and_no_cut_of_them_decodes() {
    let mut world = world();
    let operations = every_operation(&world);
    let tx = signed(&mut world, 0, operations.clone(), false);
    let back: Vec<Op> = tx
        .operations()
        .map(|operation| match operation {
            Operation::Staking(operation) => operation,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(back, operations);
    assert_eq!(tx.operation_count(), operations.len());
    for cut in (0..tx.encode().len()).step_by(331) {
        assert!(Transaction::decode(&tx.encode()[..cut]).is_err());
    }
    for tag in 27..=31 {
        let unsigned = world.builder(0, 0).module_group(tag, 1, vec![0; 4]).build().expect("within the limits");
        assert!(unsigned.with_signature(&[0; 4_627]).is_err(), "tag {tag}");
    }
}

#[test]
fn names_that_no_path_of_the_interface_takes_do_not_decode() {
    let world = world();
    for name in ["", "V1", "a b", "é", &"x".repeat(65), "a/b"] {
        let unsigned = world.builder(0, 0).staking(join(&world, 0, name, 1, AUR)).build().expect("within the limits");
        assert!(unsigned.with_signature(&[0; 4_627]).is_err(), "{name:?}");
    }
}

#[test]
fn bonded_and_delegated_stake_votes_from_the_next_epoch_on() {
    let mut world = world();
    let total = world.total();
    ok(&mut world, 0, Op::Bond { validator: 0, amount: 5 * AUR });
    ok(&mut world, 1, Op::Delegate { validator: 0, amount: 7 * AUR + AUR / 2 });
    ok(&mut world, 1, Op::Delegate { validator: 0, amount: AUR });
    assert_eq!(votes(&mut world), [(0, 10), (1, 10), (2, 10), (3, 10)], "constant within an epoch");
    let before = row(&mut world, 0);
    assert_eq!((before.self_stake, before.delegated, before.delegators), (15 * AUR, 8 * AUR + AUR / 2, 1));
    end(&mut world, &[]);
    assert_eq!(votes(&mut world), [(0, 23), (1, 10), (2, 10), (3, 10)]);
    assert_eq!(world.total(), total);
}

#[test]
fn what_is_not_ones_own_or_not_there_cannot_be_staked() {
    let mut world = world();
    let bond = |validator, amount| Op::Bond { validator, amount };
    let delegate = |validator, amount| Op::Delegate { validator, amount };
    assert_eq!(refused(&mut world, 1, bond(0, AUR)), StakingFailure::NotOperator);
    assert_eq!(refused(&mut world, 0, bond(9, AUR)), StakingFailure::UnknownValidator);
    assert_eq!(refused(&mut world, 0, bond(0, 0)), StakingFailure::Zero);
    assert_eq!(refused(&mut world, 0, bond(0, 101 * AUR)), StakingFailure::InsufficientBalance);
    assert_eq!(refused(&mut world, 0, delegate(1, 101 * AUR)), StakingFailure::InsufficientBalance);
    assert_eq!(refused(&mut world, 0, delegate(1, AUR - 1)), StakingFailure::TooSmall);
    let undelegate = |validator, amount| Op::Undelegate { validator, amount };
    assert_eq!(refused(&mut world, 0, undelegate(1, 1)), StakingFailure::InsufficientStake);
    ok(&mut world, 0, delegate(1, 2 * AUR));
    assert_eq!(refused(&mut world, 0, undelegate(1, 2 * AUR + 1)), StakingFailure::InsufficientStake);
    assert_eq!(refused(&mut world, 0, Op::Withdraw { validator: 1 }), StakingFailure::NothingToWithdraw);
    assert_eq!(refused(&mut world, 0, Op::Unbond { validator: 0, amount: 9 * AUR + 1 }), StakingFailure::TooSmall);
    assert_eq!(
        refused(&mut world, 0, Op::Unbond { validator: 0, amount: 11 * AUR }),
        StakingFailure::InsufficientStake
    );
    for _ in 0..MAX_UNBONDING {
        ok(&mut world, 0, undelegate(1, 1));
    }
    assert_eq!(refused(&mut world, 0, undelegate(1, 1)), StakingFailure::TooManyUnbonding);
}

#[test]
fn stake_comes_back_after_the_unbonding_period_and_not_before() {
    let mut world = world();
    ok(&mut world, 1, Op::Delegate { validator: 0, amount: 4 * AUR });
    ok(&mut world, 1, Op::Undelegate { validator: 0, amount: AUR });
    ok(&mut world, 1, Op::Undelegate { validator: 0, amount: EVERYTHING });
    assert_eq!(unbonding(&mut world, 1), [AUR, 3 * AUR]);
    assert_eq!((row(&mut world, 0).delegated, row(&mut world, 0).delegators), (0, 0));
    for _ in 0..3 {
        let failure = refused(&mut world, 1, Op::Withdraw { validator: 0 });
        assert_eq!(failure, StakingFailure::NothingToWithdraw);
        end(&mut world, &[]);
    }
    let before = world.balance(1);
    let fee = {
        let tx = signed(&mut world, 1, vec![Op::Withdraw { validator: 0 }], false);
        world.commit(vec![tx.into()]).transactions[0].receipt.fee
    };
    assert_eq!(world.balance(1), before - fee + 4 * AUR);
    assert_eq!(unbonding(&mut world, 1), []);
}

#[test]
fn a_fault_costs_delegators_and_those_who_left_since_but_not_those_who_left_before() {
    let mut world = world();
    ok(&mut world, 1, Op::Delegate { validator: 0, amount: 20 * AUR });
    ok(&mut world, 1, Op::Undelegate { validator: 0, amount: 4 * AUR });
    end(&mut world, &[]);
    ok(&mut world, 1, Op::Undelegate { validator: 0, amount: 6 * AUR });
    let mut input = world.input(Vec::new());
    input.faults = vec![fault(0, 1, FaultKind::Equivocation)];
    world.ledger.execute(input, &world.verifier).expect("the next commit");
    assert_eq!(unbonding(&mut world, 1), [4 * AUR, 6 * AUR - 6 * AUR / 20]);
    let row = row(&mut world, 0);
    assert_eq!((row.self_stake, row.delegated), (10 * AUR - AUR / 2, 10 * AUR - AUR / 2));
    assert_eq!(row.slashed, AUR + 6 * AUR / 20);
    assert_eq!(table(&mut world).burnt(), row.slashed);
    // What is left can be taken back by its owner.
    ok(&mut world, 1, Op::Undelegate { validator: 0, amount: EVERYTHING });
    assert_eq!(refused(&mut world, 2, Op::Delegate { validator: 0, amount: AUR }), StakingFailure::Removed);
    assert_eq!(refused(&mut world, 0, Op::Bond { validator: 0, amount: AUR }), StakingFailure::Removed);
    ok(&mut world, 0, Op::Unbond { validator: 0, amount: EVERYTHING });
}

/// In an epoch of the unbonding period, after it, by several reporters, and as another kind: one slash for an epoch.
#[test]
fn the_same_fault_told_again_in_every_later_epoch_costs_once_also_what_is_on_its_way_out() {
    let mut world = world();
    ok(&mut world, 1, Op::Delegate { validator: 0, amount: 20 * AUR });
    ok(&mut world, 1, Op::Undelegate { validator: 0, amount: 4 * AUR });
    let mut after = Vec::new();
    for at in 0..5_u64 {
        end(&mut world, &[]);
        for kind in [FaultKind::Equivocation, FaultKind::ConflictingCommitVote] {
            let mut input = world.input(Vec::new());
            input.faults = [1, 2].map(|reporter| Fault { reporter, ..fault(0, 0, kind) }).to_vec();
            world.ledger.execute(input, &world.verifier).expect("the next commit");
        }
        let row = row(&mut world, 0);
        after.push((row.slashes, row.slashed, table(&mut world).burnt()));
        assert_eq!(after[0].0, 1, "told in the epoch after its own");
        assert_eq!(after.last(), after.first(), "told again {at} epochs later");
    }
    // A twentieth of what it had, of what others had with it, and of what was leaving since.
    assert_eq!(after[0].1, (10 + 16 + 4) * AUR / 20);
}

#[test]
fn a_fault_first_told_when_no_stake_answers_for_it_any_more_costs_nothing() {
    let mut world = world();
    for _ in 0..3 {
        end(&mut world, &[]);
    }
    let mut input = world.input(Vec::new());
    input.faults = vec![fault(0, 0, FaultKind::Equivocation), fault(1, 1, FaultKind::Equivocation)];
    world.ledger.execute(input, &world.verifier).expect("the next commit");
    let slashes = [0, 1].map(|validator| row(&mut world, validator).slashes);
    assert_eq!(slashes, [0, 1], "epoch 0 is three epochs back, epoch 1 two");
}

#[test]
fn rewards_go_to_delegators_by_stake_less_the_commission_and_the_operator_withdraws_the_rest() {
    let mut genesis = operated();
    genesis.fees = aurigraph_ledger::FeeSchedule { base: 0, per_operation: 0, per_byte: 0, invalid_signature_fee: 0 };
    genesis.parameters.staking.max_commission_change = 1_000;
    let mut world = World::with(genesis);
    ok(&mut world, 0, Op::SetCommission { validator: 0, commission: 1_000 });
    ok(&mut world, 1, Op::Delegate { validator: 0, amount: 30 * AUR });
    end(&mut world, &[]);
    // A vote and a block of one in four: 0.25 AUR were it alone; here only validator 0 works.
    end(&mut world, &[5]);
    let after = row(&mut world, 0);
    let gross = AUR * 3 / 4;
    assert_eq!(after.delegated, 30 * AUR + gross - gross / 10);
    assert_eq!(after.rewards, AUR - (gross - gross / 10));
    assert_eq!(after.earned, AUR);
    let before = world.balance(0);
    ok(&mut world, 0, Op::Withdraw { validator: 0 });
    assert_eq!(world.balance(0), before + after.rewards);
    assert_eq!(table(&mut world).delegations(AccountIndex(1)).map(|it| it.2).collect::<Vec<_>>(), [after.delegated]);
}

#[test]
fn who_batches_invalid_signatures_pays_for_them_out_of_its_rewards() {
    let mut world = world();
    let tx = corrupt(&signed(&mut world, 0, vec![Op::Bond { validator: 0, amount: AUR }], false));
    let batch = world.batch(2, vec![tx.into()]);
    world.commit_batches(vec![batch]);
    end(&mut world, &[1, 1, 1, 1]);
    let rewards: Vec<_> = (0..4).map(|id| row(&mut world, id).rewards).collect();
    assert_eq!(rewards, [AUR / 4, AUR / 4, AUR / 4 - 5_000, AUR / 4]);
    assert_eq!(table(&mut world).carried(), 5_000);
}

#[test]
fn a_validator_joins_with_keys_that_it_holds_and_nobody_ever_had() {
    let mut world = world();
    let good = join(&world, 3, "new", 1, 20 * AUR);
    let with = |change: fn(&mut Registration)| {
        let Op::Join(mut registration) = good.clone() else { panic!("a registration") };
        change(&mut registration);
        Op::Join(registration)
    };
    let failures = [
        (with(|it| it.self_stake = AUR - 1), StakingFailure::TooSmall),
        (with(|it| it.self_stake = 101 * AUR), StakingFailure::InsufficientBalance),
        (with(|it| it.commission = 10_001), StakingFailure::CommissionOutOfBounds),
        (with(|it| it.name = "v2".into()), StakingFailure::NameTaken),
        (with(|it| it.name = "other".into()), StakingFailure::BadProof),
        (with(|it| it.keys.consensus_proof[9] ^= 1), StakingFailure::BadProof),
        (with(|it| it.keys.network_proof[9] ^= 1), StakingFailure::BadProof),
        (with(|it| it.keys.keys.network = it.keys.keys.consensus.clone()), StakingFailure::KeyUsed),
        (with(|it| it.keys.keys.consensus = PublicKey::new(vec![1; 2_592])), StakingFailure::KeyUsed),
    ];
    for (operation, failure) in failures {
        assert_eq!(refused(&mut world, 3, operation.clone()), failure, "{operation:?}");
    }
    assert_eq!(refused(&mut world, 2, good.clone()), StakingFailure::BadProof, "another operator");
    ok(&mut world, 3, good.clone());
    assert_eq!(refused(&mut world, 3, good), StakingFailure::NameTaken);
    let again = join(&world, 3, "newer", 1, AUR);
    assert_eq!(refused(&mut world, 3, again), StakingFailure::KeyUsed);
    end(&mut world, &[]);
    assert_eq!(votes(&mut world), [(0, 10), (1, 10), (2, 10), (3, 10), (4, 20)]);
    let set = world.ledger.snapshot().set_of(1).expect("the set");
    assert_eq!((set.validators[4].name.as_str(), set.validators[4].address), ("new", address(3)));
    assert_eq!(set.validators[4].consensus_key.as_bytes(), key(1_002));
    // Its position can be named from its first epoch on, and it can be at fault.
    let mut input = world.input(Vec::new());
    input.faults = vec![Fault { reporter: 4, ..fault(4, 1, FaultKind::Equivocation) }];
    world.ledger.execute(input, &world.verifier).expect("the next commit");
    assert_eq!(row(&mut world, 4).self_stake, 19 * AUR);
}

#[test]
fn the_largest_stakes_are_the_set_and_who_leaves_is_out_for_good() {
    let mut genesis = operated();
    genesis.parameters.staking.max_validators = 3;
    let mut world = World::with(genesis);
    ok(&mut world, 3, Op::Bond { validator: 3, amount: AUR });
    end(&mut world, &[]);
    assert_eq!(votes(&mut world), [(0, 10), (1, 10), (3, 11)], "the older first among equals");
    ok(&mut world, 1, Op::Leave { validator: 1 });
    assert_eq!(refused(&mut world, 1, Op::Leave { validator: 1 }), StakingFailure::Leaving);
    assert_eq!(refused(&mut world, 1, Op::Bond { validator: 1, amount: AUR }), StakingFailure::Leaving);
    ok(&mut world, 1, Op::Unbond { validator: 1, amount: EVERYTHING });
    end(&mut world, &[]);
    assert_eq!(votes(&mut world), [(0, 10), (2, 10), (3, 11)]);
}

#[test]
fn a_commission_changes_with_the_next_epoch_and_in_small_steps() {
    let mut world = world();
    let set = |commission| Op::SetCommission { validator: 2, commission };
    assert_eq!(refused(&mut world, 2, set(101)), StakingFailure::CommissionOutOfBounds);
    ok(&mut world, 2, set(100));
    assert_eq!(refused(&mut world, 2, set(200)), StakingFailure::CommissionOutOfBounds, "two steps in one epoch");
    assert_eq!(row(&mut world, 2).commission, 0);
    end(&mut world, &[]);
    assert_eq!(row(&mut world, 2).commission, 100);
    ok(&mut world, 2, set(200));
}

#[test]
fn keys_rotate_with_the_next_epoch_and_the_old_ones_stay_known_for_the_old_sets() {
    let mut world = world();
    let rotate = |world: &World, seed| Op::Rotate { validator: 1, keys: Box::new(proven(world, 1, "v2", seed)) };
    let first = rotate(&world, 1);
    assert_eq!(refused(&mut world, 0, first.clone()), StakingFailure::NotOperator);
    ok(&mut world, 1, first);
    let second = rotate(&world, 2);
    assert_eq!(refused(&mut world, 1, second.clone()), StakingFailure::AlreadyThisEpoch);
    let old = world.ledger.snapshot().set_of(0).expect("the set").validators[1].clone();
    end(&mut world, &[]);
    let view = world.ledger.snapshot();
    let new = view.set_of(1).expect("the set").validators[1].clone();
    assert_eq!((new.id, new.consensus_key.as_bytes(), new.network_key.as_bytes()), (1, &*key(1_002), &*key(1_003)));
    assert_eq!(view.set_of(0).expect("the set").validators[1], old);
    ok(&mut world, 1, second);
}

#[test]
fn a_jailed_validator_comes_back_after_its_time_and_a_removed_one_never() {
    let mut world = world();
    let mut input = world.input(Vec::new());
    input.faults = vec![fault(0, 0, FaultKind::Equivocation), fault(1, 0, FaultKind::Downtime)];
    world.ledger.execute(input, &world.verifier).expect("the next commit");
    let unjail = |validator| Op::Unjail { validator };
    assert_eq!(refused(&mut world, 1, unjail(1)), StakingFailure::StillJailed);
    end(&mut world, &[]);
    assert_eq!(refused(&mut world, 1, unjail(1)), StakingFailure::StillJailed);
    end(&mut world, &[]);
    assert_eq!(votes(&mut world), [(2, 10), (3, 10)]);
    assert_eq!(refused(&mut world, 2, unjail(1)), StakingFailure::NotOperator);
    assert_eq!(refused(&mut world, 2, unjail(2)), StakingFailure::NotJailed);
    assert_eq!(refused(&mut world, 0, unjail(0)), StakingFailure::Removed);
    ok(&mut world, 1, unjail(1));
    assert_eq!(votes(&mut world), [(2, 10), (3, 10)], "with the next epoch");
    end(&mut world, &[]);
    assert_eq!(votes(&mut world), [(1, 10), (2, 10), (3, 10)]);
}

#[test]
fn maintenance_excuses_an_absence_that_was_announced_in_time_and_nothing_else() {
    let mut world = world();
    let announce = |seconds| Op::Maintenance { validator: 1, seconds };
    assert_eq!(refused(&mut world, 1, announce(7_201)), StakingFailure::TooLong);
    assert_eq!(refused(&mut world, 1, announce(0)), StakingFailure::Zero);
    ok(&mut world, 1, announce(3_600));
    assert_eq!(refused(&mut world, 1, announce(60)), StakingFailure::AlreadyThisEpoch);
    let announced = row(&mut world, 1).maintenance.expect("announced");
    world.now += 10_000;
    world.commit_batches(Vec::new()).checkpoint.expect("a heartbeat");
    let standing_after = |world: &mut World, at: u64, kind| {
        let view = world.ledger.snapshot();
        let mut ledger = Ledger::resume(&world.genesis, Arc::new(PlainHasher), &view).expect("a checkpoint");
        let mut input = world.input(Vec::new());
        (input.timestamp_ms, input.faults) = (at, vec![fault(1, 0, kind)]);
        ledger.execute(input, &world.verifier).expect("the next commit");
        ledger.snapshot().staking().expect("the module").validator(1).expect("a row").standing
    };
    let cases = [
        (announced.from_ms - 1, FaultKind::Downtime, Standing::Jailed),
        (announced.from_ms, FaultKind::Downtime, Standing::Active),
        (announced.until_ms, FaultKind::Downtime, Standing::Active),
        (announced.until_ms + 1, FaultKind::Downtime, Standing::Jailed),
        (announced.from_ms, FaultKind::ConflictingAttestation, Standing::Jailed),
        (announced.from_ms, FaultKind::WrongAttestation, Standing::Jailed),
    ];
    for (at, kind, standing) in cases {
        assert_eq!(standing_after(&mut world, at, kind), standing, "{kind:?} at {at}");
    }
}

#[test]
fn a_failure_undoes_all_of_an_atomic_transaction_stakes_and_balances_alike() {
    let mut world = world();
    let (before, balance) = (table(&mut world), world.balance(0));
    let operations = vec![
        Op::Bond { validator: 0, amount: AUR },
        Op::Delegate { validator: 1, amount: AUR },
        join(&world, 0, "new", 1, AUR),
        Op::Unbond { validator: 0, amount: 2 * AUR },
        Op::Bond { validator: 3, amount: AUR },
    ];
    let tx = signed(&mut world, 0, operations.clone(), true);
    let block = world.commit(vec![tx.into()]);
    let receipt = &block.transactions[0].receipt;
    assert!(receipt.undone);
    assert_eq!(receipt.failures[0].position, 4);
    assert_eq!((table(&mut world), world.balance(0)), (before, balance - receipt.fee));
    let mut kept = operations;
    kept.pop();
    let tx = signed(&mut world, 0, kept, true);
    assert!(world.commit(vec![tx.into()]).transactions[0].receipt.all_applied());
    assert_eq!(table(&mut world).validator_count(), 5);
}

#[derive(Debug, Clone)]
enum Step {
    Operation(u32, u8, u32, u128, bool),
    Fault(u16, u64, usize),
    End(Vec<u64>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let operation = (0..KEYED, 0_u8..11, 0_u32..6, 0_u128..40 * AUR, any::<bool>())
        .prop_map(|(account, kind, validator, amount, all)| Step::Operation(account, kind, validator, amount, all));
    let fault = (0_u16..4, 0_u64..3, 0..FaultKind::ALL.len()).prop_map(|(at, back, kind)| Step::Fault(at, back, kind));
    let end = proptest::collection::vec(0_u64..50, 0..6).prop_map(Step::End);
    proptest::collection::vec(prop_oneof![8 => operation, 1 => fault, 2 => end], 1..60)
}

fn operation_of(world: &World, account: u32, kind: u8, validator: u32, amount: u128, all: bool, seed: u32) -> Op {
    let most = if all { EVERYTHING } else { amount };
    match kind {
        0 => Op::Bond { validator, amount },
        1 | 2 => Op::Delegate { validator, amount },
        3 => Op::Undelegate { validator, amount: most },
        4 => Op::Unbond { validator, amount: most },
        5 | 6 => Op::Withdraw { validator },
        7 => join(world, account, &format!("new{seed}"), seed, amount),
        8 if all => Op::Leave { validator },
        8 | 9 => Op::Unjail { validator },
        _ => Op::SetCommission { validator, commission: 100 },
    }
}

fn checks(world: &mut World, total: Amount) -> Result<(), TestCaseError> {
    let table = table(world);
    prop_assert_eq!(world.total(), total + table.minted(), "money is neither made nor lost");
    for (id, row) in table.validators() {
        let shares = (0..ACCOUNTS).flat_map(|account| table.delegations(AccountIndex(account)).collect::<Vec<_>>());
        let of_row: Vec<_> = shares.filter(|(of, ..)| *of == id).collect();
        prop_assert_eq!(of_row.iter().map(|(_, shares, _)| shares).sum::<u128>(), row.shares);
        prop_assert!(of_row.iter().map(|(.., worth)| worth).sum::<u128>() <= row.delegated);
        prop_assert_eq!(of_row.len(), row.delegators as usize);
        prop_assert!(row.shares > 0 || row.delegated == 0);
    }
    let set = table.set_of(table.epoch()).expect("a set");
    prop_assert!(!set.validators.is_empty() && set.total_stake() > 0);
    Ok(())
}

#[test]
fn no_history_makes_or_loses_money_and_replaying_importing_and_resuming_give_one_root() {
    check(40, steps(), |steps| {
        let (mut world, mut inputs) = (world(), Vec::new());
        let total = world.total();
        let minted_a_step = world.genesis.parameters.staking.reward_per_epoch;
        for (seed, step) in (1..).zip(steps) {
            world.now += 700;
            let mut input = world.input(Vec::new());
            match step {
                Step::Operation(account, kind, validator, amount, all) => {
                    let operation = operation_of(&world, account, kind, validator, amount, all, seed);
                    let tx = signed(&mut world, account, vec![operation], seed % 3 == 0);
                    input.batches = vec![world.batch(0, vec![tx.into()])];
                }
                Step::Fault(at, back, kind) => {
                    let epoch = world.epoch.saturating_sub(back);
                    input.faults = vec![Fault { reporter: 0, ..fault(at, epoch, FaultKind::ALL[kind]) }];
                }
                Step::End(delivered) => {
                    input.epoch_end = Some(aurigraph_ledger::EpochEnd { delivered });
                }
            }
            input.leader = 0;
            let ends = input.epoch_end.is_some();
            let minted = table(&mut world).minted();
            if world.ledger.execute(input.clone(), &world.verifier).is_err() {
                // A position beyond the set.
                prop_assert!(!input.faults.is_empty());
                continue;
            }
            inputs.push(input);
            world.epoch += u64::from(ends);
            let now = table(&mut world).minted();
            let allowed = if ends { minted_a_step } else { 0 };
            prop_assert!(now - minted <= allowed);
            checks(&mut world, total)?;
        }
        let root = world.root();
        let mut fresh = Ledger::from_genesis(&world.genesis, Arc::new(PlainHasher)).expect("a valid genesis");
        for input in inputs {
            let outcome = fresh.execute(input, &world.verifier).expect("it was executed before");
            if outcome.checkpoint.is_some() && fresh.height().is_multiple_of(3) {
                let view = fresh.snapshot();
                fresh = if fresh.height().is_multiple_of(2) {
                    let pages = view.export_pages(None).expect("a checkpoint");
                    Ledger::import(&world.genesis, Arc::new(PlainHasher), pages).expect("own pages")
                } else {
                    Ledger::resume(&world.genesis, Arc::new(PlainHasher), &view).expect("own view")
                };
            }
        }
        prop_assert_eq!(fresh.compute_state_root(), root);
        let (own, replayed) = (world.ledger.snapshot(), fresh.snapshot());
        prop_assert_eq!(replayed.staking(), own.staking());
        Ok(())
    });
}
