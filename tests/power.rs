//! The power is cut: what was written and not synced is gone, in part or whole, from journal and store alike. What was
//! acknowledged is not. Nor is it when the files beside the journal are damaged. The short forms of the `power` example.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use aurigraph_testkit::power::Plan;

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_whose_power_is_cut_at_ten_moments_loses_nothing_that_it_acknowledged() {
    let plan = Plan { recordings: 2, cuts: 10, ..Plan::short("single-validator.toml", 1) };
    let hunt = plan.run(BINARY).await;
    println!("{hunt:?}");
    assert_eq!(hunt.cuts, 10);
    assert!(hunt.looked_for > 10, "{hunt:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn four_validators_whose_power_is_cut_at_once_lose_nothing_that_they_acknowledged() {
    let plan = Plan { recordings: 1, cuts: 3, load: Duration::from_secs(4), ..Plan::short("four-validators.toml", 2) };
    let hunt = plan.run(BINARY).await;
    println!("{hunt:?}");
    assert_eq!(hunt.cuts, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_whose_store_is_damaged_anywhere_mends_itself_and_loses_nothing_that_it_acknowledged() {
    let plan = Plan { cuts: 6, ..Plan::short("single-validator.toml", 3) };
    let hunt = plan.damages(BINARY).await;
    println!("{hunt:?}");
    assert_eq!(hunt.cuts, 6);
}
