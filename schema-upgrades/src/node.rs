//! The steps of the Aurigraph node's store, one folder each under `steps/`.

use crate::plan::Plan;
use crate::step::{Recognised, Step};

#[path = "../steps/V001__first_layout"]
/// V001, with how its result is recognised.
pub mod v001_first_layout {
    pub use step::*;

    pub mod presence;
    mod step;
}

#[path = "../steps/V002__audit_times/step.rs"]
pub mod v002_audit_times;

#[path = "../steps/V003__key_table/step.rs"]
pub mod v003_key_table;

/// The node's plan.
#[must_use]
pub fn plan() -> Plan {
    let first = Recognised::new(v001_first_layout::FirstLayout, v001_first_layout::presence::presence);
    let steps: Vec<Box<dyn Step>> =
        vec![Box::new(first), Box::new(v002_audit_times::AuditTimes), Box::new(v003_key_table::KeyTable)];
    Plan::new(steps).expect("the steps above stand in order (tested)")
}
