//! What the validator and the two log servers are told.

use aurigraph_consensus::{BatchRef, BlockRef, CkptRef, CommitIndex, RequestId, Signature, SignedCore, Status, Ticket};
use aurigraph_ledger::Hash;
use aurigraph_runtime::Reply;
use bytes::Bytes;

/// What the validator is told.
#[derive(Debug)]
pub enum ValidatorMsg {
    /// A consensus message of a peer, without the kind byte.
    Received {
        /// The peer's name: its index is another in each epoch.
        peer: String,
        /// The message.
        bytes: Bytes,
    },
    /// An own batch is in the journal and may be proposed.
    BatchSealed(BatchRef),
    /// A batch body is in the journal.
    BatchStored {
        /// The batch's digest.
        digest: Hash,
        /// Bytes of its body.
        len: u32,
    },
    /// Nobody gave this batch.
    BatchFetchFailed(Hash),
    /// The pipeline has persisted this commit and all before it.
    Executed {
        /// The commit.
        commit_index: CommitIndex,
        /// The newest durable checkpoint.
        checkpoint: Option<CkptRef>,
    },
    /// Whether the snapshot that catch-up waits for is on its way.
    SnapshotSync {
        /// It is.
        goes_on: bool,
    },
    /// The lanes to a peer came up or went down.
    LinksChanged,
    /// The machine's state at a glance.
    Status(Reply<Status>),
    /// For the validator itself.
    Internal(Internal),
}

/// What the validator's own tasks report back.
#[derive(Debug)]
pub enum Internal {
    /// A signature was checked.
    SigChecked(Ticket, bool),
    /// A core was signed.
    Signed(Ticket, Signature),
    /// The signer failed.
    SignFailed(Ticket),
    /// A synced append is on the disk.
    Durable(u64),
    /// A synced append was lost: the journal ended before it answered, or refused.
    JournalLost(String),
    /// The batch store was restarted.
    BatchStoreRestarted,
    /// The timer with this number has expired.
    Timer(u64),
}

/// What the block fetcher is told: it answers peers' requests for blocks that left the machine's memory.
#[derive(Debug)]
pub struct ServeBlocks {
    /// Who asks.
    pub to: String,
    /// For the reply.
    pub request: RequestId,
    /// For the reply.
    pub commit_index: CommitIndex,
    /// The blocks.
    pub refs: Vec<BlockRef>,
}

/// What commit sync is told: it answers peers that catch up.
#[derive(Debug)]
pub struct ServeCommits {
    /// Who asks.
    pub to: String,
    /// For the reply.
    pub request: RequestId,
    /// For the reply.
    pub commit_index: CommitIndex,
    /// First index.
    pub from: CommitIndex,
    /// How many at most.
    pub count: u16,
    /// The newest checked core of each validator.
    pub newest: Vec<SignedCore>,
}
