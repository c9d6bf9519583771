//! Deliberate errors: a check that never fails checks nothing.

use aurigraph_testkit::simulator::{Behaviour, Fault, Property, Sabotage, Scenario, run};

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
