//! What this build knows: the newest version of the store's schema, the newest of the protocol.
//!
//! A build for tests can take the place of the release before, so that a cluster of both can be run, and begin a chain with
//! the newest protocol version. A release has no such code: it is compiled with debug assertions alone.

use std::sync::Arc;

use aurigraph_schema_upgrades::Plan;
use aurigraph_schema_upgrades::node::{self, v004_address_index::Bodies};

/// Whether this process takes the place of the release before.
#[cfg(debug_assertions)]
fn is_older() -> bool {
    use std::sync::OnceLock;
    static OLDER: OnceLock<bool> = OnceLock::new();
    *OLDER.get_or_init(|| std::env::var_os("AURIGRAPH_OLDER_RELEASE").is_some())
}

#[cfg(not(debug_assertions))]
const fn is_older() -> bool {
    false
}

/// The steps of the store's schema, up to the newest that this build knows.
#[must_use]
pub fn schema_plan(bodies: Option<Arc<dyn Bodies>>) -> Plan {
    let plan = match bodies {
        Some(bodies) => node::plan_with(bodies),
        None => node::plan(),
    };
    if is_older() { plan.up_to(OLDER_SCHEMA) } else { plan }
}

/// The newest protocol version that this build runs, which its blocks advertise.
pub(crate) fn supports() -> u16 {
    if is_older() { OLDER_PROTOCOL } else { aurigraph_consensus::PROTOCOL_VERSION }
}

/// The protocol version that the first epoch of a chain runs. A build for tests can begin with the newest: what a version
/// changes is then seen without waiting for an epoch's end.
#[cfg(debug_assertions)]
pub(crate) fn first_protocol() -> u16 {
    use std::sync::OnceLock;
    static NEWEST: OnceLock<bool> = OnceLock::new();
    let newest = *NEWEST.get_or_init(|| std::env::var_os("AURIGRAPH_NEWEST_PROTOCOL").is_some());
    if newest { supports() } else { aurigraph_consensus::FIRST_PROTOCOL_VERSION }
}

#[cfg(not(debug_assertions))]
pub(crate) const fn first_protocol() -> u16 {
    aurigraph_consensus::FIRST_PROTOCOL_VERSION
}

/// The newest protocol version of the release before.
const OLDER_PROTOCOL: u16 = 1;
/// The newest schema version of the release before.
const OLDER_SCHEMA: u32 = 4;

/// Whether this build's block rows end in what was measured (`V005__block_measures`).
pub(crate) fn keeps_measures() -> bool {
    !is_older()
}
