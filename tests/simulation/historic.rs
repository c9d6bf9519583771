//! Bugs that other consensus systems have had: those that need whole validators, with disks and executors. The table is
//! `docs/historic-bugs.md`; the simulator holds its properties all the time.

use aurigraph_testkit::simulator::{Fault, Mark, Outcome, Scenario, run};

fn passes(scenario: &Scenario) -> Outcome {
    run(scenario).unwrap_or_else(|violation| panic!("{violation}"))
}

fn short(seed: u64) -> Scenario {
    Scenario { least_ms: 5_000, least_rounds: 30, ..Scenario::calm(4, seed) }
}

/// The process ends after each of so many effects, and loses what was not synced.
#[test]
fn h08_a_crash_between_any_two_effects_breaks_no_property() {
    let mut amid = 0;
    for effects in 0..40 {
        let mut scenario = short(8_000 + u64::from(effects));
        let node = usize::try_from(effects % 4).expect("small");
        scenario.faults.push((2_000, Fault::Crash { node, effects, down_ms: Some(100) }));
        scenario.quiet_ms = 2_500;
        amid += passes(&scenario).marks.get(Mark::CrashAmidEffects);
    }
    assert!(amid > 10, "{amid} crashes between two effects of a step");
}

/// One clock is an hour behind for the whole run: nothing breaks, and its payload is delivered, too.
#[test]
fn h13_a_clock_that_is_an_hour_behind_breaks_no_property() {
    for seed in 8_100..8_103 {
        let mut scenario = short(seed);
        scenario.skew_ms[2] = -3_600_000;
        scenario.catch_up = (16, 4);
        passes(&scenario);
    }
}

/// A clock is an hour ahead for half a second: what its validator signs later is not held to that time.
#[test]
fn h13_a_clock_that_was_an_hour_ahead_for_a_moment_silences_nobody() {
    for seed in 8_110..8_113 {
        let mut scenario = short(seed);
        scenario.faults.push((2_000, Fault::ClockJump { node: 2, by_ms: 3_600_000, for_ms: 500 }));
        scenario.quiet_ms = 3_000;
        passes(&scenario);
    }
}
