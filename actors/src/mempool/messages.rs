//! What admission, the batchers and the batch store are told, and what they answer.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aurigraph_consensus::{AuthorIdx, BatchRef};
use aurigraph_ledger::transaction::Transaction;
use aurigraph_ledger::{Amount, Hash};
use aurigraph_runtime::Reply;
use bytes::Bytes;

use super::batch::Batch;
use super::chain_view::ChainView;
use super::prepared::PreparedBatch;
use super::refusal::Refusal;

/// Where a transaction came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A client over HTTP.
    Client(IpAddr),
    /// This node, which signed for an account that it holds.
    Node,
}

impl Source {
    /// For metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Client(_) => "client",
            Self::Node => "node",
        }
    }
}

/// The transaction is valid against the newest published state, its signature is good, and it waits for a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The transaction's id.
    pub id: Hash,
}

/// How far a transaction has come that is not yet committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PendingState {
    /// Its signature is being checked.
    Verifying,
    /// It waits for a batch.
    Queued,
    /// It is in this stored batch.
    Batched {
        /// The batch's digest.
        batch: Hash,
    },
}

/// What a client asks about a transaction that it sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingStatus {
    /// How far it has come.
    pub state: PendingState,
    /// The last height at which it can be included.
    pub expiry: u64,
    /// The fee it reserves.
    pub fee: Amount,
}

/// What admission is told.
#[derive(Debug)]
pub enum AdmissionMsg {
    /// One transaction.
    Submit {
        /// Its canonical bytes.
        transaction: Bytes,
        /// Where it came from.
        source: Source,
        /// Once it is queued or refused.
        reply: Reply<Result<Accepted, Refusal>>,
    },
    /// Many transactions in one message.
    SubmitMany {
        /// Their canonical bytes.
        transactions: Vec<Bytes>,
        /// Where they came from.
        source: Source,
        /// One answer each, in order, once all are queued or refused.
        reply: Reply<Vec<Result<Accepted, Refusal>>>,
    },
    /// A newer state was published.
    Published(Arc<dyn ChainView>),
    /// How far is this transaction? None: not pending here (never seen, expired, or committed).
    Pending {
        /// The transaction's id.
        id: Hash,
        /// The answer.
        reply: Reply<Option<PendingStatus>>,
    },
    /// A batch with these transactions is in the journal.
    Sealed {
        /// The batch's digest.
        batch: Hash,
        /// The transactions' ids.
        ids: Vec<Hash>,
    },
    /// For admission itself.
    Internal(super::admission::Internal),
}

/// What a batcher is told.
#[derive(Debug)]
pub enum BatcherMsg {
    /// Transactions that passed admission. Those that it already holds are ignored.
    Add {
        /// The transactions.
        transactions: Vec<Arc<Transaction>>,
    },
    /// Seal what waits now.
    Flush,
    /// For the batcher itself.
    Internal(super::batcher::Internal),
}

/// Why the batch store could not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Own batches that are not delivered yet reach the bound.
    #[error("{count} own batches of {bytes} bytes are not delivered yet")]
    FlowStopped {
        /// Undelivered own batches.
        count: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// The batch is longer or has more transactions than any batch may.
    #[error("a batch of {len} bytes, the limit is {max}")]
    TooLarge {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// This node is no validator now.
    #[error("this node is no validator in this epoch")]
    NoValidator,
    /// The journal refused.
    #[error("the journal: {0}")]
    Journal(String),
}

/// What the batch store is told.
#[derive(Debug)]
pub enum BatchStoreMsg {
    /// The validator has started an epoch: own batches that are not delivered are sealed anew.
    EpochStarted,
    /// Reserve sequence numbers for own batches, durably, before any is used.
    ReserveSequences {
        /// How many.
        count: u64,
        /// The numbers.
        reply: Reply<Result<Range<u64>, BatchError>>,
    },
    /// Store an own batch, push it to the peers, tell the validator. Saying it twice is harmless.
    PutOwn {
        /// The sealed batch.
        batch: Batch,
        /// Its transactions, decoded already.
        transactions: Vec<Arc<Transaction>>,
        /// Once it is in the journal.
        reply: Reply<Result<BatchRef, BatchError>>,
    },
    /// A bulk message from a peer whose first byte is one of the batch kinds of [`crate::wire`].
    Network {
        /// The peer's node name.
        peer: String,
        /// The message, kind byte included.
        bytes: Bytes,
    },
    /// Get these batches: from the journal at once, else from the candidates, best first. Each is answered to the
    /// validator ([`super::ValidatorPort`]).
    Fetch {
        /// Which.
        batches: Vec<BatchRef>,
        /// Validator indices of the peers that may have them.
        candidates: Vec<AuthorIdx>,
    },
    /// Bodies for the pipeline: from memory, else from the journal. None: not stored.
    Get {
        /// Which.
        digests: Vec<Hash>,
        /// One per digest, in order.
        reply: Reply<Vec<Option<Arc<PreparedBatch>>>>,
    },
    /// Which of these are stored?
    Contains {
        /// Which.
        digests: Vec<Hash>,
        /// One per digest, in order.
        reply: Reply<Vec<bool>>,
    },
    /// An accepted block names these: they no longer count against their authors.
    Referenced {
        /// Which.
        digests: Vec<Hash>,
    },
    /// A commit delivered these: own ones no longer count in the flow control.
    Delivered {
        /// Which.
        digests: Vec<Hash>,
    },
    /// Own batches in the journal that no [`BatchStoreMsg::Delivered`] named yet, oldest first: after a restart the
    /// validator proposes them again.
    Undelivered {
        /// The batches.
        reply: Reply<Vec<BatchRef>>,
    },
    /// A newer state was published: its keys allow more signatures to be checked ahead.
    Published(Arc<dyn ChainView>),
    /// For the batch store itself.
    Internal(super::store::Internal),
}

/// How long a refused client should wait at the least.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
