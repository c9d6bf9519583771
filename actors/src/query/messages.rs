//! What a query actor is asked. Every answer is a view; an unknown thing is `None`, never an error.

use aurigraph_ledger::Hash;
use aurigraph_runtime::{KillMode, Reply};

use super::views::{
    AccountProofView, AccountTransactionPage, ActorTreeView, AuditFilters, AuditLogPage, AuditSummaryView, BalanceView,
    BlockFilters, BlockList, BlockPage, BlockView, ChainStats, CheckpointView, ConsensusView, EncryptionKeyView,
    EnvelopeView, HealthView, InfoView, NetworkStats, NodeView, Page, PerformanceView, ReadyView, SlashingEventPage,
    TopologyView, TransactionPage, TransactionView, ValidatorDetail, ValidatorMetrics, ValidatorPage,
};

/// Why a query has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Nothing is published yet: the node is starting.
    #[error("the node has not published a state yet")]
    NotReady,
    /// As many reads of the archive wait as may.
    #[error("too many reads of the archive are waiting")]
    Overloaded,
    /// The node has taken no checkpoint since it started: there is no state to prove under yet.
    #[error("the node has not taken a checkpoint since it started")]
    NoCheckpoint,
    /// The store or the journal could not be read.
    #[error("reading {what} failed: {reason}")]
    Storage {
        /// What was looked for.
        what: &'static str,
        /// What went wrong.
        reason: String,
    },
}

/// Where an answer goes.
pub type Answer<T> = Reply<Result<T, QueryError>>;

/// What became of an order to end an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillOutcome {
    /// It was ended.
    Killed,
    /// It will be ended in a moment: the answer would not get out otherwise.
    Scheduled,
    /// It is known, and nothing of it runs.
    NotRunning,
}

/// What a query actor is asked.
#[derive(Debug)]
pub enum QueryMsg {
    /// An account by address.
    Balance {
        /// The address.
        address: Hash,
        /// The answer.
        reply: Answer<Option<BalanceView>>,
    },
    /// The proof of an account under the newest checkpoint.
    AccountProof {
        /// The address.
        address: Hash,
        /// The answer.
        reply: Answer<Option<AccountProofView>>,
    },
    /// An account's encryption key.
    EncryptionKey {
        /// The address.
        address: Hash,
        /// The answer.
        reply: Answer<Option<EncryptionKeyView>>,
    },
    /// What an account has said of an envelope.
    SealedEnvelope {
        /// The account's address.
        sender: Hash,
        /// The envelope's digest.
        digest: Hash,
        /// The answer.
        reply: Answer<Option<EnvelopeView>>,
    },
    /// Transactions in which an account takes part.
    AccountTransactions {
        /// The address.
        address: Hash,
        /// Which part.
        page: Page,
        /// The answer.
        reply: Answer<Option<AccountTransactionPage>>,
    },
    /// A committed transaction by id, with its proof.
    Transaction {
        /// The id.
        hash: Hash,
        /// The answer.
        reply: Answer<Option<TransactionView>>,
    },
    /// A block by height.
    BlockByHeight {
        /// The height.
        height: u64,
        /// The answer.
        reply: Answer<Option<BlockView>>,
    },
    /// A block by hash.
    BlockByHash {
        /// The hash.
        hash: Hash,
        /// The answer.
        reply: Answer<Option<BlockView>>,
    },
    /// The newest blocks.
    LatestBlocks {
        /// How many.
        limit: u64,
        /// The answer.
        reply: Answer<BlockList>,
    },
    /// Blocks by filter.
    SearchBlocks {
        /// Which.
        filters: BlockFilters,
        /// Which part.
        page: Page,
        /// The answer.
        reply: Answer<BlockPage>,
    },
    /// Transactions of a block.
    BlockTransactions {
        /// The block's height.
        height: u64,
        /// Which part.
        page: Page,
        /// The answer.
        reply: Answer<Option<TransactionPage>>,
    },
    /// The network.
    Topology {
        /// The answer.
        reply: Answer<TopologyView>,
    },
    /// One node.
    Node {
        /// Its id.
        id: String,
        /// The answer.
        reply: Answer<Option<NodeView>>,
    },
    /// Traffic.
    NetworkStats {
        /// The answer.
        reply: Answer<NetworkStats>,
    },
    /// Validators.
    Validators {
        /// Which part.
        page: Page,
        /// The answer.
        reply: Answer<ValidatorPage>,
    },
    /// One validator.
    Validator {
        /// Its id.
        id: String,
        /// The answer.
        reply: Answer<Option<ValidatorDetail>>,
    },
    /// The validators in figures.
    ValidatorMetrics {
        /// The answer.
        reply: Answer<ValidatorMetrics>,
    },
    /// Punishments.
    SlashingEvents {
        /// Which part.
        page: Page,
        /// The answer.
        reply: Answer<SlashingEventPage>,
    },
    /// The chain in figures.
    ChainStats {
        /// The answer.
        reply: Answer<ChainStats>,
    },
    /// Where consensus stands.
    Consensus {
        /// The answer.
        reply: Answer<ConsensusView>,
    },
    /// A checkpoint with its certificate.
    Checkpoint {
        /// Which; the newest certified one if none.
        seq: Option<u64>,
        /// Ledger headers from this height on, up to the checkpoint's.
        headers_from: Option<u64>,
        /// Add what leads from this epoch's validators to those of the checkpoint's.
        epochs_from: Option<u64>,
        /// The answer.
        reply: Answer<Option<CheckpointView>>,
    },
    /// Live figures.
    Performance {
        /// The answer.
        reply: Answer<PerformanceView>,
    },
    /// What runs here.
    Info {
        /// The answer.
        reply: Answer<InfoView>,
    },
    /// Whether the node serves.
    Ready {
        /// The answer.
        reply: Answer<ReadyView>,
    },
    /// Whether the process answers.
    Health {
        /// The answer.
        reply: Answer<HealthView>,
    },
    /// Entries of the audit log by filter.
    AuditLogs {
        /// Which.
        filters: AuditFilters,
        /// Which part.
        page: Page,
        /// The answer.
        reply: Answer<AuditLogPage>,
    },
    /// The audit log in figures.
    AuditSummary {
        /// The answer.
        reply: Answer<AuditSummaryView>,
    },
    /// The live tree.
    Actors {
        /// The answer.
        reply: Answer<ActorTreeView>,
    },
    /// End an actor on purpose.
    Kill {
        /// Its full name.
        name: String,
        /// How.
        mode: KillMode,
        /// The answer; none if nobody has this name.
        reply: Answer<Option<KillOutcome>>,
    },
}
