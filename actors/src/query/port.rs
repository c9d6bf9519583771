//! The facade through which the HTTP edge speaks to the node: one bounded message with a time-out per call.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aurigraph_ledger::staking::StakingOperation;
use aurigraph_ledger::{Amount, Hash, Transaction};
use aurigraph_runtime::{Address, CallError, KillMode, Registry, Reply};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::messages::{Answer, KillOutcome, QueryError, QueryMsg};
use super::signer::{SignerError, SignerMsg};
use super::values::Units;
use super::views::{
    AccountProofView, AccountTransactionPage, ActorTreeView, AuditFilters, AuditLogPage, AuditSummaryView, BalanceView,
    BlockFilters, BlockList, BlockPage, BlockView, ChainStats, CheckpointView, ConsensusView, EncryptionKeyView,
    EnvelopeView, HealthView, InfoView, NetworkStats, NodeView, Page, PerformanceView, ReadyView, SlashingEventPage,
    TopologyView, TransactionPage, TransactionStatus, TransactionView, ValidatorDetail, ValidatorMetrics,
    ValidatorPage,
};
use crate::audit::{AuditMsg, AuditRecord};
use crate::bounds::query as bounds;
use crate::events::{EventHubMsg, EventKind, Subscription, TransactionEnd};
use crate::mempool::{Accepted, AdmissionMsg, PendingStatus, Refusal, Source};

/// Why the node did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The actor could not be asked, or did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It answered that it cannot.
    #[error(transparent)]
    Query(#[from] QueryError),
}

/// A transaction's fate while a client waits for it.
pub type Fate = oneshot::Receiver<TransactionEnd>;

/// A transaction that the mempool took.
#[derive(Debug)]
pub struct Submitted {
    /// Its id.
    pub id: Hash,
    /// How it will end, if that was asked for and can be told.
    pub fate: Option<Fate>,
}

/// Addresses of everything that the HTTP edge speaks to; cheap to clone.
#[derive(Clone)]
pub struct NodePort {
    queries: Arc<[Address<QueryMsg>]>,
    next: Arc<AtomicUsize>,
    hub: Address<EventHubMsg>,
    admission: Address<AdmissionMsg>,
    signer: Address<SignerMsg>,
    audit: Address<AuditMsg>,
}

impl NodePort {
    /// The port of a node with this many query actors.
    #[must_use]
    pub fn new(registry: &Registry, query_actors: usize) -> Self {
        Self {
            queries: (0..query_actors.max(1)).map(|at| registry.role(&format!("query/{at}"))).collect(),
            next: Arc::default(),
            hub: registry.role("event-hub"),
            admission: registry.role("admission"),
            signer: registry.role("signer"),
            audit: registry.role("audit"),
        }
    }

    /// Asks the query actors in turn; one that is full or restarting is passed over.
    async fn query<T, F>(&self, request: F) -> Result<T, PortError>
    where
        T: Send + 'static,
        F: Fn(Answer<T>) -> QueryMsg,
    {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut refused = None;
        for at in 0..self.queries.len() {
            let actor = &self.queries[first.wrapping_add(at) % self.queries.len()];
            match actor.ask(&request) {
                Ok(answer) => return Ok(answered(actor.name(), answer).await??),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.unwrap_or_else(|| CallError::NotRunning("query".into())).into())
    }

    /// Sends one transaction to the mempool; with `wait` the answer brings its fate.
    ///
    /// # Errors
    /// [`PortError`] if the mempool did not answer; its refusal is the inner error.
    pub async fn submit(
        &self,
        transaction: Bytes,
        source: Source,
        wait: bool,
    ) -> Result<Result<Submitted, Refusal>, PortError> {
        let fate = self.fate_of(&transaction, wait);
        let ask = |reply| AdmissionMsg::Submit { transaction, source, reply };
        let answer = self.admission.call(bounds::ADMISSION_WITHIN, ask).await?;
        Ok(answer.map(|accepted| Submitted { id: accepted.id, fate }))
    }

    /// Sends many transactions to the mempool: one answer each, in order.
    ///
    /// # Errors
    /// [`PortError`] if the mempool did not answer.
    pub async fn submit_many(
        &self,
        transactions: Vec<Bytes>,
        source: Source,
        wait: bool,
    ) -> Result<Vec<Result<Submitted, Refusal>>, PortError> {
        let fates: Vec<_> = transactions.iter().map(|transaction| self.fate_of(transaction, wait)).collect();
        let ask = |reply| AdmissionMsg::SubmitMany { transactions, source, reply };
        let answers = self.admission.call(bounds::ADMISSION_WITHIN, ask).await?;
        let submitted =
            |(answer, fate): (Result<Accepted, Refusal>, _)| answer.map(|accepted| Submitted { id: accepted.id, fate });
        Ok(answers.into_iter().zip(fates).map(submitted).collect())
    }

    /// Registers to hear of a transaction's end, before it is submitted, so that the end is not missed. None for bytes
    /// that are no transaction, and if the event hub cannot be told now: then the client asks again later.
    fn fate_of(&self, transaction: &Bytes, wait: bool) -> Option<Fate> {
        if !wait {
            return None;
        }
        let hash = Transaction::decode_shared(transaction.clone()).ok()?.id();
        self.hub.ask(|reply| EventHubMsg::AwaitTransaction { hash, reply }).ok()
    }

    /// Signs a transaction for an account that this node holds, and submits it; with `wait` the answer brings its fate.
    ///
    /// # Errors
    /// [`PortError`] if the signer did not answer; its refusal is the inner error.
    pub async fn sign(&self, order: Order, wait: bool) -> Result<Result<Submitted, SignerError>, PortError> {
        let ask = |reply| SignerMsg::Sign { order: Box::new(order), wait, reply };
        Ok(self.signer.call(bounds::ADMISSION_WITHIN, ask).await?)
    }

    /// Reports something to the audit log; lost if that is full or restarting, which it counts itself.
    pub fn report(&self, record: AuditRecord) {
        let _ = self.audit.send(AuditMsg::Append(Box::new(record)));
    }

    /// Listens to events; none if too many listen.
    ///
    /// # Errors
    /// [`PortError`] if the event hub did not answer.
    pub async fn subscribe(
        &self,
        after: Option<u64>,
        kinds: Vec<EventKind>,
    ) -> Result<Option<Subscription>, PortError> {
        let ask = |reply: Reply<Option<Subscription>>| EventHubMsg::Subscribe { after, kinds, reply };
        Ok(self.hub.call(bounds::ANSWER_WITHIN, ask).await?)
    }

    /// A transaction: committed, else pending in this node's mempool, else recently refused when it was executed.
    ///
    /// # Errors
    /// [`PortError`] if an actor did not answer.
    pub async fn transaction(&self, hash: Hash) -> Result<Option<TransactionView>, PortError> {
        if let Some(view) = self.query(|reply| QueryMsg::Transaction { hash, reply }).await? {
            return Ok(Some(view));
        }
        let ask = |reply| AdmissionMsg::Pending { id: hash, reply };
        if let Some(pending) = self.admission.call(bounds::ANSWER_WITHIN, ask).await? {
            return Ok(Some(pending_view(hash, &pending)));
        }
        let ask = |reply| EventHubMsg::RecentlyDropped { hash, reply };
        let dropped = self.hub.call(bounds::ANSWER_WITHIN, ask).await?;
        Ok(dropped.map(|reason| TransactionView {
            error: Some(super::codes::exclusion(reason).to_owned()),
            ..TransactionView::unknown(hash, TransactionStatus::Failed)
        }))
    }
}

/// What a transaction that this node signs is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Transfer.
    Transfer {
        /// Who receives.
        recipient: Hash,
        /// How much.
        amount: Amount,
    },
    /// An operation of staking.
    Staking(StakingOperation),
}

/// A transaction that this node is to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The account that signs and pays.
    pub from: Hash,
    /// What for.
    pub action: Action,
    /// At most [`aurigraph_ledger::types::MAX_MEMO`] bytes.
    pub memo: Vec<u8>,
}

fn pending_view(hash: Hash, pending: &PendingStatus) -> TransactionView {
    TransactionView {
        expiry: Some(pending.expiry),
        fee: Some(Units(pending.fee)),
        ..TransactionView::unknown(hash, TransactionStatus::Pending)
    }
}

async fn answered<T>(name: &str, answer: oneshot::Receiver<T>) -> Result<T, CallError> {
    let after: Duration = bounds::ANSWER_WITHIN;
    match tokio::time::timeout(after, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) => Err(CallError::Dropped(name.to_owned())),
        Err(_) => Err(CallError::Timeout { name: name.to_owned(), after }),
    }
}

/// The plain reads: one query each.
macro_rules! reads {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) -> $view:ty = $variant:ident;)*) => {
        impl NodePort {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`PortError`] if no query actor answered.
                pub async fn $name(&self, $($arg: $type),*) -> Result<$view, PortError> {
                    self.query(|reply| QueryMsg::$variant { $($arg: $arg.clone(),)* reply }).await
                }
            )*
        }
    };
}

reads! {
    /// An account by address.
    balance(address: Hash) -> Option<BalanceView> = Balance;
    /// The proof of an account under the newest checkpoint.
    account_proof(address: Hash) -> Option<AccountProofView> = AccountProof;
    /// An account's encryption key.
    encryption_key(address: Hash) -> Option<EncryptionKeyView> = EncryptionKey;
    /// What an account has said of an envelope.
    envelope(sender: Hash, digest: Hash) -> Option<EnvelopeView> = SealedEnvelope;
    /// A block by height.
    block_by_height(height: u64) -> Option<BlockView> = BlockByHeight;
    /// A block by hash.
    block_by_hash(hash: Hash) -> Option<BlockView> = BlockByHash;
    /// The newest blocks.
    latest_blocks(limit: u64) -> BlockList = LatestBlocks;
    /// Blocks by filter.
    search_blocks(filters: BlockFilters, page: Page) -> BlockPage = SearchBlocks;
    /// Transactions in which an account takes part.
    account_transactions(address: Hash, page: Page) -> Option<AccountTransactionPage> = AccountTransactions;
    /// Transactions of a block.
    block_transactions(height: u64, page: Page) -> Option<TransactionPage> = BlockTransactions;
    /// The network.
    topology() -> TopologyView = Topology;
    /// One node.
    node(id: String) -> Option<NodeView> = Node;
    /// Traffic.
    network_stats() -> NetworkStats = NetworkStats;
    /// Validators.
    validators(page: Page) -> ValidatorPage = Validators;
    /// One validator.
    validator(id: String) -> Option<ValidatorDetail> = Validator;
    /// The validators in figures.
    validator_metrics() -> ValidatorMetrics = ValidatorMetrics;
    /// Punishments.
    slashing_events(page: Page) -> SlashingEventPage = SlashingEvents;
    /// The chain in figures.
    chain_stats() -> ChainStats = ChainStats;
    /// Where consensus stands.
    consensus() -> ConsensusView = Consensus;
    /// A checkpoint with its certificate; the newest certified one if no number is given.
    checkpoint(seq: Option<u64>, headers_from: Option<u64>, epochs_from: Option<u64>) -> Option<CheckpointView> = Checkpoint;
    /// Live figures.
    performance() -> PerformanceView = Performance;
    /// What runs here.
    info() -> InfoView = Info;
    /// Whether the node serves.
    ready() -> ReadyView = Ready;
    /// Whether the process answers.
    health() -> HealthView = Health;
    /// Entries of the audit log by filter.
    audit_logs(filters: AuditFilters, page: Page) -> AuditLogPage = AuditLogs;
    /// The audit log in figures.
    audit_summary() -> AuditSummaryView = AuditSummary;
    /// The live tree.
    actors() -> ActorTreeView = Actors;
    /// Ends an actor on purpose; none if nobody has this name.
    kill(name: String, mode: KillMode) -> Option<KillOutcome> = Kill;
}
