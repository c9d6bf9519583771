//! The steps of the Aurigraph node's store, one folder each under `steps/`.

use std::sync::Arc;

use crate::plan::Plan;
use crate::step::{Recognised, Step};
use v004_address_index::Bodies;

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

#[path = "../steps/V004__address_index/step.rs"]
pub mod v004_address_index;

#[path = "../steps/V005__block_measures/step.rs"]
pub mod v005_block_measures;

/// The node's plan, without the bodies of transactions: enough for all but an upgrade to version 4 of a store that has
/// blocks with transactions.
#[must_use]
pub fn plan() -> Plan {
    of(None)
}

/// The node's plan, with the place of the bodies.
#[must_use]
pub fn plan_with(bodies: Arc<dyn Bodies>) -> Plan {
    of(Some(bodies))
}

fn of(bodies: Option<Arc<dyn Bodies>>) -> Plan {
    let first = Recognised::new(v001_first_layout::FirstLayout, v001_first_layout::presence::presence);
    let steps: Vec<Box<dyn Step>> = vec![
        Box::new(first),
        Box::new(v002_audit_times::AuditTimes),
        Box::new(v003_key_table::KeyTable),
        Box::new(v004_address_index::AddressIndex::new(bodies)),
        Box::new(v005_block_measures::BlockMeasures),
    ];
    Plan::new(steps).expect("the steps above stand in order (tested)")
}
