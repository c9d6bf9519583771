//! The batch store: every body that this node holds, own and others', from the log and from memory.
//!
//! A body is in the log before anyone hears of it. The log is the truth: after a restart what is in it is present, what
//! was on its way is not, and whoever waited for it sees its reply dropped. What a batch means is not decided here.

mod fetch;
mod own;
mod quota;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use aurigraph_consensus::{AuthorIdx, BatchRef, Epoch};
use aurigraph_ledger::Hash;
use aurigraph_runtime::{ActorError, Address, Behaviour, Context, Reply};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::batch::{Batch, BatchHead};
use super::chain_view::{ChainView, Latest};
use super::messages::{BatchError, BatchStoreMsg, BatcherMsg};
use super::ports::{Outbound, ValidatorPort};
use super::prepared::{PreparedBatch, PreparedCache};
use super::wire::BatchWire;
use crate::bounds::mempool as bounds;
use crate::crypto::{DispatchMsg, Priority, TransactionCheck};
use crate::storage::{JournalError, JournalMsg, JournalReader, Record, RecordKind};
use fetch::Fetches;
use own::{OwnBatches, Sequences};
use quota::Quotas;

/// What the batch store is made of.
pub struct BatchStoreParts {
    /// This node's validator index; none for an observer.
    pub own: Option<AuthorIdx>,
    /// The epoch whose batches are taken.
    pub epoch: Epoch,
    /// The validators' node names, by index.
    pub names: Vec<String>,
    /// How many batchers there are: `batcher/0` and so on.
    pub batchers: usize,
    /// Longest batch, from genesis.
    pub max_batch: usize,
    /// The log.
    pub journal: JournalReader,
    /// The bulk lanes.
    pub outbound: Arc<dyn Outbound>,
    /// The validator's mailbox.
    pub validator: Arc<dyn ValidatorPort>,
    /// The newest published state.
    pub latest: Latest,
}

/// The batch store actor.
pub struct BatchStore {
    parts: BatchStoreParts,
}

impl BatchStore {
    /// The actor of these parts.
    #[must_use]
    pub const fn new(parts: BatchStoreParts) -> Self {
        Self { parts }
    }
}

/// What the store's own tasks report.
#[derive(Debug)]
pub enum Internal {
    /// An append of a body ended; none: the journal ended first.
    Appended {
        /// The batch.
        digest: Hash,
        /// How.
        result: Option<Result<(), JournalError>>,
    },
    /// A range of sequence numbers was synced, or not.
    Reserved {
        /// The numbers.
        range: Range<u64>,
        /// How.
        result: Option<Result<(), JournalError>>,
        /// Who asked.
        reply: Reply<Result<Range<u64>, BatchError>>,
    },
    /// Bodies were read from the log.
    Loaded(Vec<Arc<PreparedBatch>>),
    /// A request of this peer was served.
    Served(String),
    /// Time to look at the fetches.
    Tick,
}

/// Why the store fails.
#[derive(Debug, thiserror::Error)]
enum StoreFailure {
    #[error("the journal ended before it stored batch {0}")]
    JournalLost(Hash),
    #[error("batch {digest} is not stored: {error}")]
    Journal { digest: Hash, error: JournalError },
    #[error("reading the log: {0}")]
    Log(#[from] io::Error),
}

/// Where a body that is being appended came from.
enum Origin {
    /// A batcher of this node; those who wait for it.
    Own(Vec<Reply<Result<BatchRef, BatchError>>>),
    /// A peer.
    Remote,
}

/// What one incarnation holds.
pub struct StoreState {
    journal: Address<JournalMsg>,
    dispatcher: Address<DispatchMsg>,
    batchers: Vec<Address<BatcherMsg>>,
    appending: HashMap<Hash, (Arc<PreparedBatch>, Origin)>,
    prepared: PreparedCache,
    own: OwnBatches,
    sequences: Sequences,
    quotas: Quotas,
    fetches: Fetches,
    ticking: bool,
    serving: HashMap<String, usize>,
    reads: Arc<Semaphore>,
    view: Option<Arc<dyn ChainView>>,
    /// Waits and reads under way; aborted with the incarnation.
    tasks: JoinSet<()>,
}

impl Behaviour for BatchStore {
    type Msg = BatchStoreMsg;
    type State = StoreState;

    async fn start(&self, ctx: &Context<BatchStoreMsg>) -> Result<StoreState, ActorError> {
        let (journal, own) = (self.parts.journal.clone(), self.parts.own);
        let (own, sequences) = tokio::task::spawn_blocking(move || {
            let own = own.map_or_else(|| Ok(OwnBatches::default()), |own| OwnBatches::rebuild(&journal, own))?;
            Ok::<_, io::Error>((own, Sequences::read(&journal)?))
        })
        .await?
        .map_err(StoreFailure::Log)?;
        Ok(StoreState {
            journal: ctx.registry.role("journal"),
            dispatcher: ctx.registry.role("verify-dispatcher"),
            batchers: (0..self.parts.batchers).map(|at| ctx.registry.role(&format!("batcher/{at}"))).collect(),
            appending: HashMap::new(),
            prepared: PreparedCache::new(bounds::PREPARED_BYTES),
            own,
            sequences,
            quotas: Quotas::default(),
            fetches: Fetches::default(),
            ticking: false,
            serving: HashMap::new(),
            reads: Arc::new(Semaphore::new(bounds::LOG_READS)),
            view: (self.parts.latest)(),
            tasks: JoinSet::new(),
        })
    }

    async fn handle(
        &self,
        ctx: &Context<BatchStoreMsg>,
        message: BatchStoreMsg,
        state: &mut StoreState,
    ) -> Result<(), ActorError> {
        while state.tasks.try_join_next().is_some() {}
        match message {
            BatchStoreMsg::ReserveSequences { count, reply } => reserve(ctx, state, count, reply),
            BatchStoreMsg::PutOwn { batch, transactions, reply } => {
                self.put_own(ctx, state, PreparedBatch::of(&batch, transactions), reply);
            }
            BatchStoreMsg::Network { peer, bytes } => self.network(ctx, state, peer, &bytes),
            BatchStoreMsg::Fetch { batches, candidates } => self.fetch(ctx, state, &batches, &candidates),
            BatchStoreMsg::Get { digests, reply } => self.get(ctx, state, digests, reply),
            BatchStoreMsg::Contains { digests, reply } => {
                reply.send(digests.iter().map(|digest| self.stored(digest)).collect());
            }
            BatchStoreMsg::Referenced { digests } => {
                digests.iter().for_each(|digest| state.quotas.referenced(digest));
            }
            BatchStoreMsg::Delivered { digests } => delivered(state, &digests),
            BatchStoreMsg::Undelivered { reply } => reply.send(state.own.list()),
            BatchStoreMsg::Published(view) => state.view = Some(view),
            BatchStoreMsg::Internal(Internal::Appended { digest, result }) => self.appended(state, digest, result)?,
            BatchStoreMsg::Internal(Internal::Reserved { range, result, reply }) => {
                reply.send(journal_result(result).map(|()| range));
            }
            BatchStoreMsg::Internal(Internal::Loaded(batches)) => {
                batches.into_iter().for_each(|batch| state.prepared.put(batch));
            }
            BatchStoreMsg::Internal(Internal::Served(peer)) => served(state, &peer),
            BatchStoreMsg::Internal(Internal::Tick) => {
                state.ticking = false;
                self.ask_peers(ctx, state);
            }
        }
        measure(state);
        Ok(())
    }
}

impl BatchStore {
    fn stored(&self, digest: &Hash) -> bool {
        self.parts.journal.contains(RecordKind::Batch, digest)
    }

    fn index_of(&self, peer: &str) -> Option<AuthorIdx> {
        self.parts.names.iter().position(|name| name == peer).and_then(|at| AuthorIdx::try_from(at).ok())
    }

    fn put_own(
        &self,
        ctx: &Context<BatchStoreMsg>,
        state: &mut StoreState,
        batch: PreparedBatch,
        reply: Reply<Result<BatchRef, BatchError>>,
    ) {
        let digest = batch.reference.digest;
        if self.stored(&digest) {
            return reply.send(Ok(batch.reference));
        }
        if let Some((_, Origin::Own(waiting))) = state.appending.get_mut(&digest) {
            return waiting.push(reply);
        }
        if batch.bytes() > self.parts.max_batch {
            return reply.send(Err(BatchError::TooLarge { len: batch.bytes(), max: self.parts.max_batch }));
        }
        if let Some(stopped) = state.own.stopped() {
            return reply.send(Err(stopped));
        }
        match append(ctx, state, &batch) {
            Ok(()) => {
                // Counted from here, so that no second batch slips past the bound while this one is being written.
                state.own.insert(batch.reference);
                state.appending.insert(digest, (Arc::new(batch), Origin::Own(vec![reply])));
            }
            Err(error) => reply.send(Err(error)),
        }
    }

    fn appended(
        &self,
        state: &mut StoreState,
        digest: Hash,
        result: Option<Result<(), JournalError>>,
    ) -> Result<(), ActorError> {
        match result {
            None => return Err(StoreFailure::JournalLost(digest).into()),
            Some(Err(error)) => return Err(StoreFailure::Journal { digest, error }.into()),
            Some(Ok(())) => {}
        }
        let Some((batch, origin)) = state.appending.remove(&digest) else { return Ok(()) };
        let reference = batch.reference;
        match origin {
            Origin::Own(waiting) => {
                self.parts.outbound.broadcast_bulk(BatchWire::Push(batch.encoded()).encode());
                // A validator that is not running asks for undelivered batches when it is back.
                self.parts.validator.batch_sealed(reference);
                waiting.into_iter().for_each(|reply| reply.send(Ok(reference)));
            }
            Origin::Remote => {
                self.parts.validator.batch_stored(digest, reference.len);
            }
        }
        state.prepared.put(batch);
        Ok(())
    }

    fn network(&self, ctx: &Context<BatchStoreMsg>, state: &mut StoreState, peer: String, bytes: &[u8]) {
        let refused = match BatchWire::decode(bytes) {
            Ok(BatchWire::Push(batch)) => self.pushed(ctx, state, &peer, batch).err(),
            Ok(BatchWire::Found(batch)) => self.found(ctx, state, batch).err(),
            Ok(BatchWire::Request(digests)) => {
                self.serve(ctx, state, peer.clone(), digests);
                None
            }
            Ok(BatchWire::Absent(digest)) => {
                if let Some(peer) = self.index_of(&peer) {
                    state.fetches.absent(&digest, peer);
                    self.ask_peers(ctx, state);
                }
                None
            }
            Err(_) => Some("malformed"),
        };
        if let Some(why) = refused {
            tracing::debug!(peer, why, "a batch message was dropped");
            metrics::counter!("batch_messages_refused_total", "peer" => peer, "why" => why).increment(1);
        }
    }

    /// A peer pushes a new batch of its own.
    fn pushed(
        &self,
        ctx: &Context<BatchStoreMsg>,
        state: &mut StoreState,
        peer: &str,
        bytes: bytes::Bytes,
    ) -> Result<(), &'static str> {
        let author = self.index_of(peer).ok_or("not a validator")?;
        let head = BatchHead::read(&bytes).map_err(|_| "malformed")?;
        if head.author != author || Some(author) == self.parts.own {
            return Err("another author's");
        }
        if head.epoch != self.parts.epoch {
            return Err("another epoch's");
        }
        let batch = Batch::parse(bytes, self.parts.max_batch).map_err(|_| "malformed")?;
        let digest = batch.reference.digest;
        if self.stored(&digest) || state.appending.contains_key(&digest) {
            return Ok(());
        }
        if state.appending.len() >= bounds::APPENDING {
            return Err("too many at once");
        }
        let wanted = state.fetches.wants(&digest);
        if !wanted && !state.quotas.admit(author, digest, batch.bytes.len(), Instant::now()) {
            return Err("over its share");
        }
        self.take_in(ctx, state, &batch)
    }

    /// A peer answers a fetch. Whatever the batch says inside, its digest is the wanted one: it counts as present.
    fn found(
        &self,
        ctx: &Context<BatchStoreMsg>,
        state: &mut StoreState,
        bytes: bytes::Bytes,
    ) -> Result<(), &'static str> {
        let batch = Batch::parse(bytes, self.parts.max_batch).map_err(|_| "malformed")?;
        if !state.fetches.wants(&batch.reference.digest) {
            return Err("not asked for");
        }
        self.take_in(ctx, state, &batch)
    }

    fn take_in(&self, ctx: &Context<BatchStoreMsg>, state: &mut StoreState, batch: &Batch) -> Result<(), &'static str> {
        let digest = batch.reference.digest;
        let prepared = PreparedBatch::new(batch);
        append(ctx, state, &prepared).map_err(|_| "the journal takes no more")?;
        state.fetches.take(&digest);
        verify_ahead(state, &prepared);
        state.appending.insert(digest, (Arc::new(prepared), Origin::Remote));
        Ok(())
    }

    fn fetch(
        &self,
        ctx: &Context<BatchStoreMsg>,
        state: &mut StoreState,
        batches: &[BatchRef],
        candidates: &[AuthorIdx],
    ) {
        let candidates: Vec<_> = candidates.iter().copied().filter(|peer| Some(*peer) != self.parts.own).collect();
        let mut here = Vec::new();
        for batch in batches {
            if let Some(prepared) = state.prepared.get(&batch.digest) {
                self.parts.validator.batch_stored(batch.digest, prepared.reference.len);
            } else if self.stored(&batch.digest) {
                here.push(batch.digest);
            } else if !state.appending.contains_key(&batch.digest) && !state.fetches.add(batch, &candidates) {
                self.parts.validator.batch_fetch_failed(batch.digest);
            }
        }
        if !here.is_empty() {
            self.announce_stored(ctx, state, here);
        }
        self.ask_peers(ctx, state);
    }

    /// Tells the validator of bodies that are in the log only: their lengths stand there.
    fn announce_stored(&self, ctx: &Context<BatchStoreMsg>, state: &mut StoreState, digests: Vec<Hash>) {
        let validator = Arc::clone(&self.parts.validator);
        self.load(ctx, state, digests, move |digests, loaded| {
            for (digest, batch) in digests.iter().zip(loaded) {
                match batch {
                    Some(batch) => validator.batch_stored(*digest, batch.reference.len),
                    None => validator.batch_fetch_failed(*digest),
                };
            }
        });
    }

    fn ask_peers(&self, ctx: &Context<BatchStoreMsg>, state: &mut StoreState) {
        let round = state.fetches.round(Instant::now());
        for digest in round.failed {
            self.parts.validator.batch_fetch_failed(digest);
        }
        for (peer, digests) in round.requests {
            let name = self.parts.names.get(usize::from(peer));
            let request = BatchWire::Request(digests.clone()).encode();
            if !name.is_some_and(|name| self.parts.outbound.bulk(name, request)) {
                digests.iter().for_each(|digest| state.fetches.absent(digest, peer));
            }
        }
        if !state.fetches.is_empty() && !state.ticking {
            state.ticking = true;
            ctx.send_after(bounds::FETCH_TICK, BatchStoreMsg::Internal(Internal::Tick));
        }
    }

    /// In memory, or on its way to the log.
    fn at_hand(state: &StoreState, digest: &Hash) -> Option<Arc<PreparedBatch>> {
        let appending = || state.appending.get(digest).map(|(batch, _)| Arc::clone(batch));
        state.prepared.get(digest).or_else(appending)
    }

    fn get(
        &self,
        ctx: &Context<BatchStoreMsg>,
        state: &mut StoreState,
        digests: Vec<Hash>,
        reply: Reply<Vec<Option<Arc<PreparedBatch>>>>,
    ) {
        let mut found: Vec<_> = digests.iter().map(|digest| Self::at_hand(state, digest)).collect();
        let missing: Vec<Hash> =
            digests.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(digest, _)| *digest).collect();
        if missing.is_empty() {
            return reply.send(found);
        }
        self.load(ctx, state, missing, move |_, loaded| {
            let empty = found.iter_mut().filter(|found| found.is_none());
            empty.zip(loaded).for_each(|(place, batch)| place.clone_from(batch));
            reply.send(found);
        });
    }

    /// Reads bodies from the log on a thread, hands them to `then` there, and keeps them in memory.
    fn load(
        &self,
        ctx: &Context<BatchStoreMsg>,
        state: &mut StoreState,
        digests: Vec<Hash>,
        then: impl FnOnce(&[Hash], &[Option<Arc<PreparedBatch>>]) + Send + 'static,
    ) {
        let (journal, max, mouth) = (self.parts.journal.clone(), self.parts.max_batch, ctx.mouth());
        let reads = Arc::clone(&state.reads);
        state.tasks.spawn(async move {
            let Ok(_permit) = reads.acquire_owned().await else { return };
            let loaded = tokio::task::spawn_blocking(move || {
                let loaded: Vec<_> = digests.iter().map(|digest| read(&journal, digest, max)).collect();
                then(&digests, &loaded);
                loaded
            });
            if let Ok(loaded) = loaded.await {
                mouth.send(BatchStoreMsg::Internal(Internal::Loaded(loaded.into_iter().flatten().collect())));
            }
        });
    }

    fn serve(&self, ctx: &Context<BatchStoreMsg>, state: &mut StoreState, peer: String, digests: Vec<Hash>) {
        let under_way = state.serving.entry(peer.clone()).or_default();
        if *under_way >= bounds::SERVING_PER_PEER {
            metrics::counter!("batch_messages_refused_total", "peer" => peer, "why" => "too many requests")
                .increment(1);
            return;
        }
        *under_way += 1;
        let found: Vec<_> = digests
            .into_iter()
            .map(|digest| (digest, Self::at_hand(state, &digest).map(|batch| batch.encoded())))
            .collect();
        let (journal, outbound, mouth) = (self.parts.journal.clone(), Arc::clone(&self.parts.outbound), ctx.mouth());
        let reads = Arc::clone(&state.reads);
        state.tasks.spawn(async move {
            let Ok(_permit) = reads.acquire_owned().await else { return };
            let asker = peer.clone();
            let sent = tokio::task::spawn_blocking(move || {
                for (digest, batch) in found {
                    let batch = batch.or_else(|| journal.get(RecordKind::Batch, &digest).ok().flatten());
                    let answer = batch.map_or(BatchWire::Absent(digest), BatchWire::Found);
                    // Over its credit: the peer asks again.
                    if !outbound.bulk(&asker, answer.encode()) {
                        return;
                    }
                }
            });
            // Its panic would be a fault of the journal, which the next read meets again.
            let _ = sent.await;
            mouth.send(BatchStoreMsg::Internal(Internal::Served(peer)));
        });
    }
}

fn read(journal: &JournalReader, digest: &Hash, max: usize) -> Option<Arc<PreparedBatch>> {
    let body = match journal.get(RecordKind::Batch, digest) {
        Ok(body) => body?,
        Err(error) => {
            tracing::error!(%digest, %error, "a stored batch cannot be read");
            return None;
        }
    };
    Batch::parse(body, max).ok().map(|batch| Arc::new(PreparedBatch::new(&batch)))
}

/// Appends a body and has the result reported. Not synced: an own block that names it, or a later one, syncs it too.
fn append(ctx: &Context<BatchStoreMsg>, state: &mut StoreState, batch: &PreparedBatch) -> Result<(), BatchError> {
    let digest = batch.reference.digest;
    let records = vec![Record::new(RecordKind::Batch, digest, batch.encoded())];
    let answer = state
        .journal
        .ask(|reply| JournalMsg::Append { records, sync: false, reply: Some(reply) })
        .map_err(|error| BatchError::Journal(error.to_string()))?;
    let mouth = ctx.mouth();
    state.tasks.spawn(async move {
        let result = answer.await.ok();
        mouth.send(BatchStoreMsg::Internal(Internal::Appended { digest, result }));
    });
    Ok(())
}

fn reserve(
    ctx: &Context<BatchStoreMsg>,
    state: &mut StoreState,
    count: u64,
    reply: Reply<Result<Range<u64>, BatchError>>,
) {
    let (range, record) = state.sequences.reserve(count);
    let asked = state.journal.ask(|reply| JournalMsg::Append { records: vec![record], sync: true, reply: Some(reply) });
    let mouth = ctx.mouth();
    match asked {
        Ok(answer) => {
            state.tasks.spawn(async move {
                let result = answer.await.ok();
                mouth.send(BatchStoreMsg::Internal(Internal::Reserved { range, result, reply }));
            });
        }
        Err(error) => reply.send(Err(BatchError::Journal(error.to_string()))),
    }
}

fn journal_result(result: Option<Result<(), JournalError>>) -> Result<(), BatchError> {
    match result {
        Some(result) => result.map_err(|error| BatchError::Journal(error.to_string())),
        None => Err(BatchError::Journal("it ended before it answered".to_owned())),
    }
}

/// Frees the flow control; batchers that were stopped go on.
fn delivered(state: &mut StoreState, digests: &[Hash]) {
    let was_stopped = state.own.stopped().is_some();
    for digest in digests {
        state.quotas.referenced(digest);
        state.own.delivered(digest);
    }
    if was_stopped && state.own.stopped().is_none() {
        for batcher in &state.batchers {
            // A batcher that is restarting or full offers its batch again by itself.
            let _ = batcher.send(BatcherMsg::Flush);
        }
    }
}

fn served(state: &mut StoreState, peer: &str) {
    if let Some(under_way) = state.serving.get_mut(peer) {
        *under_way -= 1;
        if *under_way == 0 {
            state.serving.remove(peer);
        }
    }
}

/// Has signatures checked before a block needs them, as far as the senders' keys are known. Nothing waits for it, and
/// nothing is concluded from a key that is not known.
fn verify_ahead(state: &StoreState, batch: &PreparedBatch) {
    let Some(view) = &state.view else { return };
    let check = |transaction: &Arc<aurigraph_ledger::transaction::Transaction>| {
        let key = view.account(&transaction.sender()).and_then(|account| account.key);
        let known = key.is_some() || transaction.sender_key().is_some();
        known.then(|| TransactionCheck { transaction: Arc::clone(transaction), key })
    };
    let checks: Vec<_> = batch.transactions().iter().filter_map(check).collect();
    if !checks.is_empty() {
        // Overload leaves them to the time when they are needed.
        let message = DispatchMsg::VerifyTransactions { checks, priority: Priority::Ahead, reply: None };
        let _ = state.dispatcher.send(message);
    }
}

fn measure(state: &StoreState) {
    metrics::gauge!("batches_own_undelivered").set(state.own.len() as f64);
    metrics::gauge!("batches_own_undelivered_bytes").set(state.own.bytes() as f64);
    metrics::gauge!("batches_prepared_bytes").set(state.prepared.bytes() as f64);
}
