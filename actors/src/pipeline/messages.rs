//! What flows through the pipeline.

use std::sync::Arc;

use aurigraph_consensus::{BatchRef, BlockRef, Commit};
use aurigraph_ledger::{CommitInput, CommitOutcome, StateView};

use super::mark::Mark;
use crate::mempool::PreparedBatch;

/// A commit with the bodies of its batches.
#[derive(Debug)]
pub struct OrderedCommit {
    /// The stream it belongs to: the incarnation of Execute that asked for it.
    pub stream: u64,
    /// The commit.
    pub commit: Arc<Commit>,
    /// Its batches in order, each with the block that names it.
    pub batches: Vec<(BlockRef, BatchRef, Arc<PreparedBatch>)>,
    /// What this node has executed it to before, if it has.
    pub mark: Option<Mark>,
}

/// A commit whose signatures are checked as far as they can be ahead of execution.
#[derive(Debug)]
pub struct VerifiedCommit {
    /// The stream.
    pub stream: u64,
    /// What the ledger executes.
    pub input: CommitInput,
    /// What this node has executed it to before, if it has.
    pub mark: Option<Mark>,
}

/// A commit after its execution.
pub struct ExecutedCommit {
    /// The stream.
    pub stream: u64,
    /// The commit's index.
    pub commit_index: u64,
    /// What it came to.
    pub outcome: CommitOutcome,
    /// The state after it; none if it made no block.
    pub view: Option<StateView>,
    /// What this node has executed it to before, if it has.
    pub mark: Option<Mark>,
    /// From the commit's time to the moment that its block was stored, milliseconds, once it is; none if it was executed
    /// before, or the clocks disagree.
    pub finalized_after_ms: Option<u64>,
}

/// The state that a stream starts from.
pub struct Loaded {
    /// The stream.
    pub stream: u64,
    /// The last commit in it.
    pub commit_index: u64,
    /// The state.
    pub view: StateView,
}

/// What Order is told.
#[derive(Debug)]
pub enum OrderMsg {
    /// The validator has a new commit; its record goes into the journal ahead of this.
    Committed(Arc<Commit>),
    /// Execute has started: stream the commits from this one on.
    StreamFrom {
        /// The stream's number.
        stream: u64,
        /// The first commit.
        index: u64,
    },
    /// A commit of the stream has left the pipeline.
    Done {
        /// The stream.
        stream: u64,
        /// The commit.
        index: u64,
    },
    /// Look again: a body was not there the last time.
    Retry,
    /// Its own timer: look whether the journal has a commit of which nobody told.
    Look,
}

/// What Verify is told.
#[derive(Debug)]
pub enum VerifyMsg {
    /// The next commit.
    Commit(OrderedCommit),
}

/// What Execute is told.
pub enum ExecuteMsg {
    /// The next commit.
    Commit(Box<VerifiedCommit>),
    /// From its own thread: the state that execution starts from.
    Loaded(Box<Loaded>),
    /// From its own thread: a commit is executed.
    Executed(Box<ExecutedCommit>),
    /// From its own thread: execution failed.
    Failed(String),
}

/// What Persist is told.
pub enum PersistMsg {
    /// The state that a stream starts from.
    Loaded(Box<Loaded>),
    /// The next executed commit.
    Executed(Box<ExecutedCommit>),
    /// A checkpoint is in the store, or could not be written.
    Checkpointed(Result<u64, String>),
}

/// What Publish is told.
pub enum PublishMsg {
    /// The state that a stream starts from.
    Loaded(Box<Loaded>),
    /// The next persisted commit.
    Persisted(Box<ExecutedCommit>),
}
