//! The clustered actor runtime: behaviours, supervision, bounded mailboxes, post-quantum channels, peers, telemetry.
//!
//! Knows actors, nodes and bytes; must not know what a transaction or a block is.

pub mod behaviour;
pub mod buffers;
pub mod channel;
pub mod cluster;
pub mod edge;
pub mod end;
pub mod lease;
pub mod mailbox;
pub mod registry;
pub mod supervisor;
pub mod telemetry;

pub use behaviour::{ActorError, Behaviour, Context, Envelope, KillMode, Mouth};
pub use buffers::{Buffer, Buffers};
pub use edge::{Edge, EdgeError, EdgePermit};
pub use end::{EndKind, Fatal, GaveUp};
pub use lease::{Lease, LeaseError, LeaseHolder};
pub use mailbox::{Address, CallError, MailboxStats, Reply, SendError};
pub use registry::{ActorEvent, ActorEventKind, ActorRow, ActorState, Failure, Registry};
pub use supervisor::{
    Backoff, Budget, ChildSpec, Restart, ShutdownError, StartError, Strategy, SupervisorSpec, Tree, TreeEnd,
};
pub use telemetry::Metrics;
