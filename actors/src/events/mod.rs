//! Events of the node for those who listen: a bounded ring of recent events, bounded queues for subscribers, and
//! clients that wait for one transaction.
//!
//! Nothing here decides anything: the pipeline says what was published, the live tree says what happened to actors.
//! How an event reaches a client is not known here.

mod hub;
mod messages;
mod ring;

pub use hub::EventHub;
pub use messages::{
    ActorEvent, BlockEvent, DroppedTransaction, Event, EventBody, EventHubMsg, EventKind, Subscription, TransactionEnd,
    TransactionOutcome, TransactionsEvent, ValidatorEvent,
};
