//! Opens a sled database at the right schema version: ordered, checksummed, resumable upgrades.
//!
//! Stands alone: any program with a sled database can use it. It knows nothing of actors, networks or ledgers; the
//! steps of the Aurigraph node are ordinary steps, in [`node`].
//!
//! ```
//! use aurigraph_schema_upgrades::{Advance, Change, Database, Medium, Plan, Step, StepError};
//!
//! /// Every user has a greeting.
//! struct Greetings;
//!
//! impl Step for Greetings {
//!     fn version(&self) -> u32 { 1 }
//!     fn name(&self) -> &str { "greetings" }
//!     fn content(&self) -> &[&str] { &["users: name -> greeting; a missing greeting is \"hello\""] }
//!     fn advance(&self, medium: &dyn Medium, from: Option<&[u8]>) -> Result<Advance, StepError> {
//!         // A wanted result, in chunks: running it twice changes nothing more.
//!         let chunk = medium.scan("users", from, 1_000)?;
//!         let missing = chunk.iter().filter(|(_, greeting)| greeting.is_empty());
//!         let changes: Vec<Change> = missing.map(|(name, _)| Change::put(name, b"hello")).collect();
//!         medium.apply("users", &changes)?;
//!         Ok(chunk.last().map_or(Advance::Done, |(name, _)| Advance::More(name.clone())))
//!     }
//! }
//!
//! let directory = tempfile::tempdir()?;
//! let plan = Plan::new(vec![Box::new(Greetings)])?;
//! let database = Database::open(sled::Config::new().path(directory.path().join("db")))?;
//! let report = plan.upgrade(&database, None)?;
//! assert_eq!(report.applied, vec![1]);
//! assert!(plan.status(&database)?.pending.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod database;
mod error;
pub mod faults;
mod history;
mod lock;
mod medium;
pub mod node;
mod plan;
mod step;

#[cfg(test)]
mod tests;

pub use database::Database;
pub use error::{PlanError, UpgradeError, is_damage};
pub use history::{HistoryRow, Origin};
pub use lock::Holder;
pub use medium::{Change, Medium, Pairs};
pub use plan::{Plan, Report, Status};
pub use step::{Advance, Step, StepError, checksum, label};
