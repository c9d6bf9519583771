//! The clustered actor runtime: behaviours, supervision, bounded mailboxes, post-quantum channels, peers, telemetry.
//!
//! Knows actors, nodes and bytes; must not know what a transaction or a block is.

pub mod behaviour;
pub mod mailbox;
pub mod registry;

pub use behaviour::{ActorError, Behaviour, Context, Envelope, KillMode, Mouth};
pub use mailbox::{Address, CallError, MailboxStats, Reply, SendError};
pub use registry::{ActorRow, ActorState, Failure, Registry};
