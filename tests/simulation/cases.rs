//! Runs made by hand: what every seed builds on.

use aurigraph_consensus::{FIRST_PROTOCOL_VERSION, PROTOCOL_VERSION};
use aurigraph_testkit::simulator::{Behaviour, Fault, Mark, Outcome, Scenario, run, run_seed};

fn passes(scenario: &Scenario) -> Outcome {
    match run(scenario) {
        Ok(outcome) => outcome,
        Err(violation) => panic!("{violation}"),
    }
}

fn short(n: usize, seed: u64) -> Scenario {
    Scenario { least_ms: 5_000, least_rounds: 30, ..Scenario::calm(n, seed) }
}

#[test]
fn from_genesis_four_validators_commit_and_execute() {
    let outcome = passes(&Scenario::calm(4, 1));
    assert!(outcome.rounds >= 150 && outcome.commits >= 140, "{outcome:?}");
    assert!(outcome.height > 50, "{outcome:?}");
    let marks = &outcome.marks;
    assert!(marks.get(Mark::Transaction) > 100 && marks.get(Mark::Checkpoint) > 40, "{marks}");
    assert_eq!(marks.get(Mark::Skip), 0, "nobody is skipped when nothing goes wrong");
}

#[test]
fn a_single_validator_commits_alone_and_after_a_restart() {
    let mut scenario = short(1, 2);
    passes(&scenario);
    scenario.faults.push((2_000, Fault::Crash { node: 0, effects: 3, down_ms: Some(200) }));
    scenario.quiet_ms = 3_000;
    let outcome = passes(&scenario);
    assert_eq!(outcome.marks.get(Mark::Restart), 1);
}

#[test]
fn all_restart_and_go_on() {
    for seed in 10..20 {
        let mut scenario = short(4, seed);
        scenario.faults.push((2_000, Fault::CrashAll { down_ms: 300, late: None }));
        scenario.quiet_ms = 3_000;
        let outcome = passes(&scenario);
        assert_eq!(outcome.marks.get(Mark::Restart), 4);
    }
}

#[test]
fn all_restart_in_their_first_moments() {
    for at in 0..40 {
        let mut scenario = short(4, 100 + at);
        scenario.faults.push((at, Fault::CrashAll { down_ms: 100, late: None }));
        scenario.quiet_ms = 500;
        passes(&scenario);
    }
}

#[test]
fn a_process_that_ends_while_a_snapshot_is_loaded_comes_back() {
    let mut loaded = 0;
    for seed in 0..8 {
        let mut scenario = Scenario { snapshot_ms: Some(700), ..short(4, 300 + seed) };
        let effects = u32::try_from(seed % 4).expect("small");
        scenario.faults.push((2_500, Fault::CrashAtStart { node: 2, effects, down_ms: 300 }));
        scenario.quiet_ms = 3_500;
        let outcome = passes(&scenario);
        assert_eq!(outcome.marks.get(Mark::Restart), 2);
        loaded += outcome.marks.get(Mark::CrashAtSnapshot);
    }
    assert!(loaded > 0, "no process ended with a snapshot loaded and its effects open");
}

/// From a copy as it is, an older one, and an empty disk. That no round has two blocks is held against all that leaves.
#[test]
fn a_second_process_with_a_running_validators_key_never_says_another_thing() {
    for (seed, (kept_permille, mark)) in
        (320..).zip([(1_000, Mark::SecondOfCopy), (500, Mark::SecondOfOlder), (0, Mark::SecondEmpty)])
    {
        let mut scenario = short(4, seed);
        let fault = Fault::SecondProcess { node: 1, kept_permille, after_ms: 400, for_ms: 8_000 };
        scenario.faults.push((2_500, fault));
        scenario.quiet_ms = 11_500;
        let outcome = passes(&scenario);
        assert_eq!(outcome.marks.get(mark), 1, "it has started");
        assert_eq!(outcome.marks.get(Mark::SecondSawFirst), 1, "it has noticed the first one");
    }
}

#[test]
fn all_restart_but_one_and_go_on() {
    for seed in 20..30 {
        // No table takes the absent leader out before it has been missed.
        let mut scenario = Scenario { schedule_window: 1_000_000, ..short(4, seed) };
        let down = usize::try_from(seed % 4).unwrap_or(0);
        scenario.faults.push((2_000, Fault::CrashAll { down_ms: 300, late: Some((down, None)) }));
        scenario.quiet_ms = 3_000;
        let outcome = passes(&scenario);
        assert_eq!(outcome.marks.get(Mark::Restart), 3);
        assert!(outcome.marks.get(Mark::Skip) > 0, "the absent leader is skipped");
    }
}

#[test]
fn one_comes_back_after_minutes_by_catching_up() {
    let mut scenario = Scenario::calm(4, 40);
    scenario.faults.push((1_500, Fault::Crash { node: 2, effects: 0, down_ms: Some(60_000) }));
    scenario.quiet_ms = 62_000;
    scenario.least_ms = 64_000;
    let outcome = passes(&scenario);
    assert!(outcome.marks.get(Mark::CatchUp) > 0, "{}", outcome.marks);
}

#[test]
fn an_older_or_an_empty_disk_observes_and_signs_again_without_saying_two_things() {
    for seed in 60..80 {
        let mut scenario = short(4, seed);
        let node = usize::try_from(seed % 4).unwrap_or(0);
        let kept_permille = [0, 10, 500, 990][usize::try_from(seed / 4 % 4).unwrap_or(0)];
        scenario.faults.push((3_000, Fault::Loss { node, kept_permille, down_ms: 400 }));
        scenario.snapshot_ms = seed.is_multiple_of(2).then_some(700);
        scenario.quiet_ms = 8_000;
        scenario.least_ms = 15_000;
        let outcome = passes(&scenario);
        let marks = &outcome.marks;
        let doubted = marks.get(Mark::LogDoubted) > 0 && marks.get(Mark::FloorProven) > 0;
        assert_eq!(doubted, marks.get(Mark::OwnBlockLost) > 0, "seed {seed}: {marks}");
    }
}

#[test]
fn a_disk_that_is_lost_twice_and_among_restarts_of_all_is_made_good() {
    for seed in 80..90 {
        let mut scenario = short(4, seed);
        let lose = |kept_permille| Fault::Loss { node: 1, kept_permille, down_ms: 300 };
        scenario.faults.push((2_000, lose(0)));
        scenario.faults.push((3_500 + seed * 10, Fault::CrashAll { down_ms: 200, late: None }));
        scenario.faults.push((9_000 + seed * 10, lose(600)));
        scenario.faults.push((10_500, Fault::Crash { node: 1, effects: 4, down_ms: Some(200) }));
        scenario.quiet_ms = 16_000;
        scenario.least_ms = 20_000;
        let outcome = passes(&scenario);
        assert!(outcome.marks.get(Mark::FloorProven) > 0, "seed {seed}: {}", outcome.marks);
    }
}

#[test]
fn two_halves_stop_and_go_on_when_they_meet() {
    let mut scenario = short(4, 50);
    scenario.least_ms = 12_000;
    scenario.faults.push((2_000, Fault::Partition { side: vec![0, 3], for_ms: 6_000 }));
    scenario.quiet_ms = 8_500;
    let outcome = passes(&scenario);
    assert_eq!(outcome.marks.get(Mark::Heal), 1);
}

#[test]
fn a_silent_validator_is_swapped_out_and_comes_back_into_the_rotation() {
    let mut scenario = Scenario::calm(4, 60);
    scenario.faults.push((2_000, Fault::Crash { node: 2, effects: 0, down_ms: Some(10_000) }));
    scenario.quiet_ms = 13_000;
    scenario.least_ms = 25_000;
    let with = passes(&scenario);
    let marks = &with.marks;
    assert!(marks.get(Mark::SwappedOut) > 0 && marks.get(Mark::SwappedIn) > 0, "{marks}");
    scenario.schedule_window = 1_000_000;
    let without = passes(&scenario);
    let (skips, usual) = (marks.get(Mark::Skip), without.marks.get(Mark::Skip));
    assert!(skips * 2 < usual, "{skips} leader slots skipped, {usual} without reputation");
}

#[test]
fn a_validator_whose_executor_goes_wrong_stops_alone_and_within_two_checkpoints() {
    for seed in 0..8 {
        let mut scenario = Scenario::calm(if seed % 2 == 0 { 4 } else { 7 }, seed);
        scenario.corrupted = Some((usize::try_from(seed % 4).expect("small"), 4_000 + 300 * seed));
        let outcome = run(&scenario).unwrap_or_else(|violation| panic!("{violation}"));
        assert!(outcome.marks.get(Mark::Certificate) > 20, "seed {seed}: {}", outcome.marks.get(Mark::Certificate));
        assert_eq!(outcome.marks.get(Mark::WrongAttestation), 0, "seed {seed}: before its protocol version");
    }
}

/// Others crash before and after the proof, and come back from snapshots, too.
#[test]
fn a_validator_whose_executor_goes_wrong_is_proven_at_fault_for_what_it_attests() {
    for seed in 0..4 {
        let mut scenario = Scenario::calm(if seed % 2 == 0 { 4 } else { 7 }, 300 + seed);
        scenario.least_ms = 12_000;
        scenario.version = PROTOCOL_VERSION;
        scenario.snapshot_ms = (seed % 3 > 0).then_some(900);
        let (wrong, at) = (usize::try_from(seed % 4).expect("small"), 5_000 + 250 * seed);
        scenario.corrupted = Some((wrong, at));
        for (node, after) in [(wrong + 1, 200), (wrong + 2, 3_000)] {
            scenario.faults.push((at + after, Fault::Crash { node: node % 4, effects: 5, down_ms: Some(900) }));
        }
        scenario.quiet_ms = at + 5_000;
        let marks = run(&scenario).unwrap_or_else(|violation| panic!("{violation}")).marks;
        assert_eq!((marks.get(Mark::WrongAttestation), marks.get(Mark::FaultProven)), (1, 1), "seed {seed}");
    }
}

/// They contradict themselves as well, which is a fault of its own.
#[test]
fn faulty_validators_that_lie_about_checkpoints_are_proven_at_fault_and_stop_nobody() {
    for seed in 310..313 {
        let mut scenario = Scenario { lies_permille: 300, least_ms: 12_000, ..Scenario::calm(7, seed) };
        scenario.version = if seed == 310 { FIRST_PROTOCOL_VERSION } else { PROTOCOL_VERSION };
        scenario.byzantine.insert(1, Behaviour::Liar);
        scenario.byzantine.insert(4, Behaviour::Liar);
        let marks = passes(&scenario).marks;
        let expected = if scenario.version == PROTOCOL_VERSION { 2 } else { 0 };
        assert!(marks.get(Mark::LyingAttestation) > 50, "seed {seed}: {marks}");
        assert_eq!(marks.get(Mark::WrongAttestation), expected, "seed {seed}");
        assert!(marks.get(Mark::FaultProven) > expected, "seed {seed}: contradictions");
    }
}

/// Stakes move at every end, and a validator sleeps over some of them.
#[test]
fn epochs_follow_each_other_with_other_stakes_and_who_slept_follows() {
    for seed in 200..204 {
        let mut scenario = Scenario { epoch_commits: 20, ..Scenario::calm(4, seed) };
        scenario.other_stakes = vec![2, 3, 1, 1];
        scenario.faults.push((2_000, Fault::Crash { node: 2, effects: 3, down_ms: Some(9_000) }));
        scenario.quiet_ms = 12_000;
        let marks = passes(&scenario).marks;
        assert!(marks.get(Mark::StakesChanged) > 4 && marks.get(Mark::EpochEnded) > 16, "seed {seed}: {marks}");
        assert!(marks.get(Mark::EpochCertServed) > 0, "seed {seed}: {marks}");
    }
}

/// More than F come back without the last commit of the epoch in their logs, and one of them has executed it. All correct
/// validators are needed for a quorum.
#[test]
fn an_epoch_ends_with_a_validator_that_executed_its_last_commit_and_lost_it_from_its_log() {
    let marks = passes(&Scenario::of_seed(12_349)).marks;
    assert!(marks.get(Mark::EpochEnded) > 0 && marks.get(Mark::RestartOfSome) > 0, "{marks}");
}

/// The ledger begins anew and has to execute earlier epochs from the log; or the log, too, has to come from the others.
#[test]
fn a_disk_that_is_lost_in_a_later_epoch_comes_back_through_all_of_them() {
    for seed in 210..218 {
        let mut scenario = Scenario { epoch_commits: 60, ..Scenario::calm(4, seed) };
        let kept_permille = [0, 300, 700, 990][usize::try_from(seed % 4).unwrap_or(0)];
        scenario.faults.push((14_000, Fault::Loss { node: 1, kept_permille, down_ms: 500 }));
        scenario.quiet_ms = 22_000;
        passes(&scenario);
    }
}

#[test]
fn floods_of_requests_and_blocks_are_answered_within_the_quota() {
    for seed in 220..223 {
        let mut scenario = Scenario::calm(4, seed);
        scenario.byzantine.insert(2, Behaviour::Flood);
        let marks = passes(&scenario).marks;
        assert!(marks.get(Mark::Flooded) > 2 && marks.get(Mark::QuotaCharged) > 100, "seed {seed}: {marks}");
    }
}

#[test]
fn histories_that_double_every_round_cost_nobody_else_a_slot_for_long() {
    for seed in 230..233 {
        let mut scenario = Scenario::calm(4, seed);
        scenario.byzantine.insert(1, Behaviour::Cones);
        let marks = passes(&scenario).marks;
        assert!(marks.get(Mark::ConesSent) > 50 && marks.get(Mark::FaultProven) == 1, "seed {seed}: {marks}");
    }
}

/// Clocks that stand still, links that hardly carry the blocks, more than F down at once.
#[test]
fn narrow_links_and_clocks_that_stand_still_are_outlived() {
    for seed in 240..244 {
        let mut scenario = Scenario { timers_late_ms: 200, ..Scenario::calm(4, seed) };
        scenario.faults.push((2_000, Fault::Narrow { node: 0, bytes_per_ms: 60, for_ms: 3_000 }));
        scenario.faults.push((3_000, Fault::FrozenClock { node: 1, for_ms: 4_000 }));
        scenario.faults.push((8_000, Fault::CrashSome { nodes: vec![2, 3], down_ms: 1_000 }));
        scenario.quiet_ms = 9_500;
        let marks = passes(&scenario).marks;
        assert!(marks.get(Mark::NarrowLink) > 10 && marks.get(Mark::RestartOfSome) == 1, "seed {seed}: {marks}");
    }
}

/// Validator 1 is set back by a few records, among them its newest block. Those who had it crash before it is safe, but for
/// one, which is not back when the others answer: the log looks intact (ADR 0013).
#[test]
fn a_rollback_that_all_others_have_forgotten_ends_the_run() {
    let outcome = run_seed(62_530, true).expect("nothing is promised of what comes after");
    assert_eq!(outcome.marks.get(Mark::RollbackUntold), 1);
}

/// Two liars, all that the set bears: nobody certifies commits, and not every question for a range is answered.
#[test]
fn a_validator_catches_up_faster_than_the_others_commit_beside_a_peer_that_gives_no_range() {
    run_seed(60_186, false).expect("caught up in time");
}
