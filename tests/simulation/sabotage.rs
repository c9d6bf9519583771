//! Deliberate errors: a check that never fails checks nothing.

use aurigraph_testkit::simulator::{Behaviour, Fault, Part, Property, Sabotage, Scenario, run, shrink};

/// The properties that some seeds find violated.
fn found(change: impl Fn(&mut Scenario)) -> Vec<Property> {
    let violated = (0..6).filter_map(|seed| {
        let mut scenario = Scenario::calm(4, seed);
        change(&mut scenario);
        run(&scenario).err().map(|violation| violation.property)
    });
    violated.collect()
}

#[test]
fn a_disk_that_lies_about_syncs_is_noticed() {
    let found = found(|scenario| {
        scenario.sabotage = Some(Sabotage::SyncLies);
        for at in [3_000, 5_000, 7_000] {
            scenario.faults.push((at, Fault::CrashAll { down_ms: 200, late: None }));
        }
        scenario.quiet_ms = 8_000;
    });
    assert!(!found.is_empty(), "no seed noticed");
}

#[test]
fn an_executor_that_forgets_a_transaction_is_noticed() {
    let found = found(|scenario| scenario.sabotage = Some(Sabotage::ExecutorForgets));
    assert_eq!(found, [Property::Agreement; 6]);
}

#[test]
fn two_blocks_signed_for_one_round_are_noticed() {
    let found = found(|scenario| {
        scenario.byzantine.insert(3, Behaviour::Twins);
        scenario.sabotage = Some(Sabotage::TwinsCountAsCorrect);
    });
    assert_eq!(found, [Property::NoEquivocation; 6]);
}

#[test]
fn a_partition_that_never_heals_is_noticed() {
    let found = found(|scenario| {
        scenario.faults.push((2_000, Fault::Partition { side: vec![0, 1], for_ms: 1_000 }));
        scenario.quiet_ms = 3_500;
        scenario.sabotage = Some(Sabotage::NeverHeals);
    });
    assert_eq!(found, [Property::Liveness; 6]);
}

#[test]
fn a_failing_run_is_made_small_and_fails_the_same_way() {
    let mut scenario = Scenario { client_ms: 100, least_ms: 8_000, ..Scenario::calm(4, 5) };
    scenario.byzantine.insert(3, Behaviour::Mixed);
    scenario.links.loss_permille = 2;
    scenario.snapshot_ms = Some(900);
    for (at, node) in [(1_500, 0), (2_000, 1), (3_000, 2)] {
        scenario.faults.push((at, Fault::Crash { node, effects: 5, down_ms: Some(200) }));
    }
    scenario.faults.push((3_500, Fault::Partition { side: vec![0, 1], for_ms: 500 }));
    scenario.faults.push((4_200, Fault::ClockJump { node: 1, by_ms: 2_000, for_ms: 700 }));
    scenario.quiet_ms = 5_500;
    scenario.sabotage = Some(Sabotage::NeverHeals);
    let shrunk = shrink(&scenario).expect("it fails");
    println!("{shrunk}");
    assert_eq!(shrunk.violation.property, Property::Liveness);
    let left: Vec<&Fault> = shrunk.scenario.faults.iter().map(|(_, fault)| fault).collect();
    assert_eq!(left, [&Fault::Partition { side: vec![0, 1], for_ms: 500 }]);
    assert!(shrunk.scenario.byzantine.is_empty() && shrunk.without.contains(&Part::Byzantine(3)));
    let text: Vec<String> = shrunk.without.iter().map(ToString::to_string).collect();
    let parts: Vec<Part> = text.iter().map(|part| part.parse().expect("its own name")).collect();
    let again = run(&scenario.without(&parts)).expect_err("it fails again");
    assert_eq!(again, shrunk.violation);
}
