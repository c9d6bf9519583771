//! The batch store: every body that this node holds, own and others', from the log and from memory.
//!
//! A body is in the log before anyone hears of it. The log is the truth: after a restart what is in it is present, what
//! was on its way is not, and whoever waited for it sees its reply dropped. What a batch means is not decided here.

mod epochs;
mod fetch;
mod own;
mod peers;
mod quota;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use aurigraph_consensus::BatchRef;
use aurigraph_ledger::Hash;
use aurigraph_runtime::{ActorError, Address, Behaviour, Buffers, Context, Reply};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::batch::Batch;
use super::chain_view::{ChainView, Latest};
use super::messages::{BatchError, BatchStoreMsg, BatcherMsg};
use super::ports::{Outbound, ValidatorPort};
use super::prepared::{PreparedBatch, PreparedCache};
use super::wire::BatchWire;
use crate::bounds::mempool as bounds;
use crate::crypto::DispatchMsg;
use crate::members::{Members, MembersOf};
use crate::storage::{JournalError, JournalMsg, JournalReader, Record, RecordKind, barrier};
use fetch::Fetches;
use own::{OwnBatches, Sequences};
use quota::Quotas;

/// What the batch store is made of.
pub struct BatchStoreParts {
    /// The validators of the epochs, and this node's place among them.
    pub members: MembersOf,
    /// How many batchers there are: `batcher/0` and so on.
    pub batchers: usize,
    /// Longest batch, from genesis.
    pub max_batch: usize,
    /// Where the copies of received bodies come from.
    pub buffers: Buffers,
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
    /// Own batches of an earlier epoch were read from the log.
    Stale(Vec<Arc<PreparedBatch>>),
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
    /// Own batches of which the validator has not heard, because its mailbox was full.
    unheard: Vec<BatchRef>,
    /// The epoch whose batches are taken.
    members: Arc<Members>,
    /// Own undelivered batches of the epoch before: they are sealed anew.
    stale: Vec<BatchRef>,
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
        // The one before may have appends on their way: read the log only behind them.
        barrier(&ctx.registry.role("journal"), bounds::LOG_BARRIER).await?;
        let members = (self.parts.members)(None).ok_or("the members of the epoch are not known")?;
        let (journal, now, of) = (self.parts.journal.clone(), Arc::clone(&members), Arc::clone(&self.parts.members));
        let ((own, stale), sequences) = tokio::task::spawn_blocking(move || {
            let own_in = |members: &Members| members.own.map(|own| (members.epoch, own));
            let before = now.epoch.checked_sub(1).and_then(|epoch| of(Some(epoch)));
            let before = before.and_then(|members| own_in(&members));
            let own = own_in(&now).map_or_else(|| Ok(Default::default()), |own| own::rebuild(&journal, own, before))?;
            Ok::<_, io::Error>((own, Sequences::read(&journal)?))
        })
        .await?
        .map_err(StoreFailure::Log)?;
        // The validator may not have heard of these from the one before; hearing twice does no harm.
        let unheard = own.list();
        ctx.send_self(BatchStoreMsg::Internal(Internal::Tick));
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
            unheard,
            members,
            stale,
            ticking: true,
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
            BatchStoreMsg::Undelivered { reply } => {
                // One that is still being written is announced when it is in the log.
                let written = |batch: &BatchRef| !state.appending.contains_key(&batch.digest);
                reply.send(state.own.list().into_iter().filter(written).collect());
            }
            BatchStoreMsg::Published(view) => state.view = Some(view),
            BatchStoreMsg::EpochStarted => self.enter_epoch(ctx, state),
            BatchStoreMsg::Internal(Internal::Stale(batches)) => self.seal_anew(ctx, state, batches),
            BatchStoreMsg::Internal(Internal::Appended { digest, result }) => {
                self.appended(ctx, state, digest, result)?;
            }
            BatchStoreMsg::Internal(Internal::Reserved { range, result, reply }) => {
                reply.send(journal_result(result).map(|()| range));
            }
            BatchStoreMsg::Internal(Internal::Loaded(batches)) => {
                batches.into_iter().for_each(|batch| state.prepared.put(batch));
            }
            BatchStoreMsg::Internal(Internal::Served(peer)) => peers::served(state, &peer),
            BatchStoreMsg::Internal(Internal::Tick) => {
                state.ticking = false;
                self.announce_sealed(ctx, state);
                self.ask_peers(ctx, state);
                self.load_stale(ctx, state);
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

    fn put_own(
        &self,
        ctx: &Context<BatchStoreMsg>,
        state: &mut StoreState,
        batch: PreparedBatch,
        reply: Reply<Result<BatchRef, BatchError>>,
    ) {
        let Some(own) = state.members.own else { return reply.send(Err(BatchError::NoValidator)) };
        // A batcher may have sealed it just before the epoch began.
        let batch = epochs::in_epoch(batch, state.members.epoch, own, self.parts.max_batch);
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
        ctx: &Context<BatchStoreMsg>,
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
            Origin::Own(waiting) if batch.epoch != state.members.epoch => {
                waiting.into_iter().for_each(|reply| reply.send(Ok(reference)));
                self.seal_anew(ctx, state, vec![Arc::clone(&batch)]);
            }
            Origin::Own(waiting) => {
                self.parts.outbound.broadcast_bulk(BatchWire::Push(batch.encoded()).encode());
                state.unheard.push(reference);
                self.announce_sealed(ctx, state);
                waiting.into_iter().for_each(|reply| reply.send(Ok(reference)));
            }
            Origin::Remote => {
                self.parts.validator.batch_stored(digest, reference.len);
            }
        }
        state.prepared.put(batch);
        Ok(())
    }

    /// Tells the validator of own batches, again and again until it hears: one that is not proposed is not delivered,
    /// and would hold its place in the flow control for ever.
    fn announce_sealed(&self, ctx: &Context<BatchStoreMsg>, state: &mut StoreState) {
        let validator = &self.parts.validator;
        state.unheard.retain(|batch| !validator.batch_sealed(*batch));
        if !state.unheard.is_empty() {
            tick(ctx, state);
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
}

fn tick(ctx: &Context<BatchStoreMsg>, state: &mut StoreState) {
    if !state.ticking {
        state.ticking = true;
        ctx.send_after(bounds::FETCH_TICK, BatchStoreMsg::Internal(Internal::Tick));
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

fn measure(state: &StoreState) {
    metrics::gauge!("batches_own_undelivered").set(state.own.len() as f64);
    metrics::gauge!("batches_own_undelivered_bytes").set(state.own.bytes() as f64);
    metrics::gauge!("batches_prepared_bytes").set(state.prepared.bytes() as f64);
}
