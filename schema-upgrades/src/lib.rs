//! Opens a sled database at the right schema version: ordered, checksummed, resumable upgrades.
//!
//! Stands alone: any program with a sled database can use it. It knows nothing of actors, networks or ledgers; the
//! steps of the Aurigraph node are ordinary steps, in [`node`].
//!
//! The README, below, has a use outside the node.
#![doc = include_str!("../README.md")]

pub mod backup;
mod content;
mod database;
mod dry_run;
mod error;
pub mod faults;
mod history;
mod lock;
mod medium;
pub mod node;
mod plan;
mod progress;
mod repair;
pub mod replace;
mod restore;
mod run;
mod step;
mod swap;

#[cfg(test)]
mod tests;

pub use content::{Content, content};
pub use database::Database;
pub use dry_run::{DryRun, Effect};
pub use error::{PlanError, UpgradeError, is_damage};
pub use history::{HistoryRow, Origin};
pub use lock::{Holder, rfc3339};
pub use medium::{Change, Medium, Pairs};
pub use plan::{Options, Plan, Report, Status};
pub use progress::Progress;
pub use repair::Finding;
pub use restore::{Restored, restore};
pub use step::{Advance, Presence, Recognise, Recognised, Step, StepError, checksum, label};
