//! What operators see of a node: its metrics and its log.
//!
//! - [`metrics`]: the Prometheus recorder, without a listener of its own: the HTTP layer serves [`Metrics::render`];
//! - [`process`]: what the kernel says about this process, read at each scrape;
//! - [`logs`]: one ECS JSON object a line, or plain text for a terminal;
//! - `outlet`: whole lines on standard error, and the last words;
//! - [`upkeep`]: the actor that keeps the recorder small and samples the tree.
//!
//! What a metric of another area means is that area's business: it describes and records it itself.

pub mod logs;
pub mod metrics;
mod outlet;
pub mod process;
pub mod upkeep;

pub use logs::{LogFormat, LogSettings};
pub use metrics::{Metrics, TelemetryError};
pub use outlet::last_words;
pub use upkeep::Upkeep;
