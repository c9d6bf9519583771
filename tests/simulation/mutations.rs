//! Deliberate errors of the state machine, one at a time: the suite notices each (consensus.md 13.3).
//! A release build has none of them, and so not this module.

use aurigraph_consensus::mutation::{Mutation, set};
use aurigraph_testkit::simulator::{Adversary, Behaviour, Fault, Property, Scenario, Violation, run};

/// Errors that are on until this is dropped.
struct Broken;

impl Broken {
    fn by(mutations: &[Mutation]) -> Self {
        set(mutations);
        Self
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        set(&[]);
    }
}

/// The first of so many seeds that notices.
fn noticed(mutation: Mutation, seeds: u64) -> Violation {
    noticed_in(mutation, seeds, Scenario::of_seed)
}

fn noticed_in(mutation: Mutation, seeds: u64, scenario: impl Fn(u64) -> Scenario) -> Violation {
    let _broken = Broken::by(&[mutation]);
    let found = (0..seeds).find_map(|seed| run(&scenario(seed)).err());
    let found = found.unwrap_or_else(|| panic!("{mutation:?}: none of {seeds} seeds notices"));
    println!("{mutation:?}: {found}");
    found
}

#[test]
fn anchors_too_near_are_noticed() {
    let property = noticed(Mutation::AnchorsFromTwo, 40).property;
    assert!(matches!(property, Property::Agreement | Property::Oracle | Property::Schedule), "{property:?}");
}

#[test]
fn committing_with_too_few_certificates_is_noticed() {
    let property = noticed(Mutation::CommitWithV, 40).property;
    assert!(matches!(property, Property::Agreement | Property::Oracle | Property::Schedule), "{property:?}");
}

#[test]
fn a_block_that_leaves_before_it_is_durable_is_noticed() {
    let property = noticed(Mutation::SendBeforeSync, 40).property;
    assert!(matches!(property, Property::NoEquivocation | Property::NoFalseEvidence), "{property:?}");
}

#[test]
fn collecting_garbage_by_the_clock_is_noticed() {
    let property = noticed(Mutation::GcByClock, 40).property;
    assert!(matches!(property, Property::Agreement | Property::NoFalseEvidence | Property::Schedule), "{property:?}");
}

#[test]
fn a_leader_table_that_comes_one_commit_late_is_noticed() {
    let property = noticed(Mutation::ScheduleLate, 10).property;
    assert!(matches!(property, Property::Schedule | Property::Oracle), "{property:?}");
}

/// Few of a round's blocks come in time, and one author has three in each: slots stay undecided, and the oracle looks often.
fn stormy(seed: u64) -> Scenario {
    let mut scenario = Scenario { least_ms: 12_000, least_rounds: 40, ..Scenario::calm(4, seed) };
    scenario.byzantine.insert(3, Behaviour::Cones);
    let links = &mut scenario.links;
    (links.jitter_ms, links.tail_permille, links.tail_ms, links.loss_permille) = (60, 300, 500, 50);
    scenario.min_delay_ms = (20, 40);
    scenario.leader_timeout_ms = Some(100);
    scenario.oracle_permille = 1_000;
    scenario
}

#[test]
fn going_past_undecided_slots_is_noticed() {
    let property = noticed_in(Mutation::WalkPastUndecided, 40, stormy).property;
    assert!(matches!(property, Property::Agreement | Property::Oracle | Property::Schedule), "{property:?}");
}

#[test]
fn counting_blocks_for_authors_is_noticed() {
    let property = noticed_in(Mutation::CountBlocks, 40, stormy).property;
    assert!(matches!(property, Property::Agreement | Property::Oracle | Property::Schedule), "{property:?}");
}

/// Four correct validators without faults, and an adversary who orders their messages within 300 ms.
fn attacked(seed: u64) -> Scenario {
    let mut scenario = Scenario { least_ms: 20_000, least_rounds: 30, ..Scenario::calm(4, seed) };
    scenario.adversary = Some(Adversary { from_ms: 0, delta_ms: 300 });
    scenario.leader_timeout_ms = Some(600);
    scenario
}

#[test]
fn whoever_orders_messages_empties_the_slots_of_validators_that_jump_rounds_and_of_no_others() {
    let passes = |seed| run(&attacked(seed)).unwrap_or_else(|violation| panic!("{violation}"));
    for seed in 0..3 {
        let right = passes(seed);
        let jumping = {
            let _broken = Broken::by(&[Mutation::JumpRounds, Mutation::NoCertificateWait]);
            passes(seed)
        };
        let told = format!(
            "{} commits in {} rounds, with jumps {} in {}",
            right.commits, right.rounds, jumping.commits, jumping.rounds
        );
        println!("seed {seed}: {told}");
        assert!(right.commits + 5 >= u64::from(right.rounds), "{told}");
        assert!(jumping.commits * 3 < u64::from(jumping.rounds) * 2, "{told}");
        assert!(jumping.commits * 2 < right.commits, "{told}");
    }
}

/// What is noticed above comes of the errors.
#[test]
fn without_errors_the_same_seeds_hold() {
    for seed in 0..3 {
        run(&Scenario::of_seed(seed)).unwrap_or_else(|violation| panic!("{violation}"));
        run(&stormy(seed)).unwrap_or_else(|violation| panic!("{violation}"));
    }
    let mut scenario = Scenario::calm(4, 1);
    scenario.faults.push((2_000, Fault::CrashAll { down_ms: 200, late: None }));
    scenario.quiet_ms = 3_000;
    run(&scenario).unwrap_or_else(|violation| panic!("{violation}"));
}
