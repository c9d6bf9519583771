//! What may be said to the event hub, and what it says.

use std::sync::{Arc, OnceLock};

use aurigraph_ledger::{ExclusionReason, ExecutedBlock, ExecutedTransaction, FailureCode, Hash};
use aurigraph_runtime::{ActorState, Reply};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::query::values::Timestamp;

/// The outcome of one transaction that is in a ledger block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TransactionOutcome {
    /// The transaction's id.
    pub hash: Hash,
    /// Its position in the block.
    pub index: u32,
    /// How many operations it has.
    pub operations: u32,
    /// How many of them failed (all of them if it was undone as a whole).
    pub failed_operations: u32,
    /// Why the first of them failed.
    pub first_failure: Option<FailureCode>,
}

impl TransactionOutcome {
    /// True if at least one operation took effect.
    #[must_use]
    pub const fn took_effect(&self) -> bool {
        self.failed_operations < self.operations
    }
}

/// A transaction that was ordered but is in no block: it left no trace in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DroppedTransaction {
    /// Its id.
    pub hash: Hash,
    /// Which rule it broke.
    pub reason: ExclusionReason,
}

/// What is told of one ledger block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockEvent {
    /// Its height.
    pub height: u64,
    /// Its hash.
    pub hash: Hash,
    /// Hash of the block before.
    pub parent_hash: Hash,
    /// Commit time.
    pub timestamp: Timestamp,
    /// The name of the leader whose block committed it.
    pub validator: String,
    /// Its position in the validator set.
    #[serde(skip)]
    pub leader: u16,
    /// The leader's round.
    pub round: u32,
    /// How many transactions it includes.
    pub transaction_count: u32,
    /// How many operations they hold.
    pub operation_count: u64,
    /// Outcomes in block order.
    #[serde(skip)]
    pub transactions: Vec<TransactionOutcome>,
    /// Transactions of the commit that are not in the block.
    #[serde(skip)]
    pub dropped: Vec<DroppedTransaction>,
}

impl BlockEvent {
    /// What is told of an executed block, led by the validator of this name.
    #[must_use]
    pub fn of(block: &ExecutedBlock, validator: &str) -> Self {
        let outcome = |(index, executed): (usize, &ExecutedTransaction)| {
            let (operations, applied) = (executed.receipt.operations, executed.receipt.applied_count());
            TransactionOutcome {
                hash: executed.receipt.id,
                index: u32::try_from(index).unwrap_or(u32::MAX),
                operations,
                failed_operations: operations.saturating_sub(u32::try_from(applied).unwrap_or(u32::MAX)),
                first_failure: executed.receipt.failures.first().map(|failure| failure.code),
            }
        };
        Self {
            height: block.header.height,
            hash: block.hash,
            parent_hash: block.header.parent,
            timestamp: Timestamp(block.header.timestamp_ms),
            validator: validator.to_owned(),
            leader: block.header.leader,
            round: block.header.round,
            transaction_count: block.header.transactions,
            operation_count: block.header.operations,
            transactions: block.transactions.iter().enumerate().map(outcome).collect(),
            dropped: block.exclusions.iter().map(|it| DroppedTransaction { hash: it.id, reason: it.reason }).collect(),
        }
    }
}

/// What an event is about; a client may ask for some kinds only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EventKind {
    /// A ledger block was published.
    Block,
    /// Outcomes of transactions of a block.
    Transaction,
    /// A validator appeared, vanished or changed.
    Validator,
    /// An actor of this node started, failed or stopped.
    Actor,
}

impl EventKind {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Transaction => "transaction",
            Self::Validator => "validator",
            Self::Actor => "actor",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Block, Self::Transaction, Self::Validator, Self::Actor].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Outcomes of some transactions of one block; long blocks are told in several of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TransactionsEvent {
    /// The block's height.
    pub block_height: u64,
    /// The outcomes, in block order.
    pub transactions: Vec<TransactionOutcome>,
}

/// A change of one validator as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ValidatorEvent {
    /// Its name.
    pub id: String,
    /// What it is now: `active`, `inactive` or `jailed`.
    pub status: String,
}

/// A change in the live tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ActorEvent {
    /// `node/role[/index]`.
    pub name: String,
    /// What it is doing now.
    pub state: ActorState,
    /// Incarnations after the first.
    pub restarts: u64,
    /// Why the last incarnation ended, if one did.
    pub last_failure: Option<String>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventBody {
    /// A ledger block.
    Block(Arc<BlockEvent>),
    /// Outcomes of transactions.
    Transactions(Arc<TransactionsEvent>),
    /// A validator.
    Validator(Arc<ValidatorEvent>),
    /// An actor.
    Actor(Arc<ActorEvent>),
}

impl Serialize for EventBody {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Block(event) => event.serialize(serializer),
            Self::Transactions(event) => event.serialize(serializer),
            Self::Validator(event) => event.serialize(serializer),
            Self::Actor(event) => event.serialize(serializer),
        }
    }
}

impl EventBody {
    /// What it is about.
    #[must_use]
    pub const fn kind(&self) -> EventKind {
        match self {
            Self::Block(_) => EventKind::Block,
            Self::Transactions(_) => EventKind::Transaction,
            Self::Validator(_) => EventKind::Validator,
            Self::Actor(_) => EventKind::Actor,
        }
    }
}

/// One event with its place in the node's stream of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Greater than that of every earlier event of this node, also across restarts.
    pub id: u64,
    /// What happened.
    pub body: EventBody,
}

/// A subscriber's end of the stream.
#[derive(Debug)]
pub struct Subscription {
    /// Events that were in the ring and are newer than the one asked for.
    pub backlog: Vec<Event>,
    /// True if events between the one asked for and the first of the backlog are no longer in the ring.
    pub gap: bool,
    /// Later events. It ends when the hub drops this subscriber or ends itself.
    pub events: mpsc::Receiver<Event>,
    /// Why the hub dropped this subscriber, once it did.
    pub dropped: Arc<OnceLock<&'static str>>,
}

/// How the wait for one transaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransactionEnd {
    /// It is in a block.
    Committed {
        /// The block's height.
        height: u64,
        /// Its outcome.
        outcome: TransactionOutcome,
    },
    /// It was ordered and refused: it is in no block and never will be in this form.
    Dropped {
        /// Which rule it broke.
        reason: ExclusionReason,
    },
}

/// What may be said to the event hub.
#[derive(Debug)]
pub enum EventHubMsg {
    /// A ledger block was executed and persisted. In height order; heights may be skipped after a restart.
    Block(Arc<BlockEvent>),
    /// A validator was jailed.
    Validator(Arc<ValidatorEvent>),
    /// Listen.
    Subscribe {
        /// Give the events after this id, as far as the ring holds them; none = only new events.
        after: Option<u64>,
        /// Only these kinds; empty = all.
        kinds: Vec<EventKind>,
        /// The stream, or none if there are too many subscribers.
        reply: Reply<Option<Subscription>>,
    },
    /// Answer when this transaction's fate is known. The reply is dropped if too many wait.
    AwaitTransaction {
        /// Its id.
        hash: Hash,
        /// How it ended.
        reply: Reply<TransactionEnd>,
    },
    /// Was this transaction ordered and refused a short while ago? Then it is in no block.
    RecentlyDropped {
        /// Its id.
        hash: Hash,
        /// Which rule it broke.
        reply: Reply<Option<ExclusionReason>>,
    },
    /// The hub's own timer: look at the live tree and the validators.
    Look,
}
