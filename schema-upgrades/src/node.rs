//! The steps of the Aurigraph node's store, one folder each under `steps/`.

use crate::plan::Plan;
use crate::step::Step;

#[path = "../steps/V001__first_layout/step.rs"]
pub mod v001_first_layout;

/// The node's plan.
#[must_use]
pub fn plan() -> Plan {
    let steps: Vec<Box<dyn Step>> = vec![Box::new(v001_first_layout::FirstLayout)];
    Plan::new(steps).expect("the steps above stand in order (tested)")
}
