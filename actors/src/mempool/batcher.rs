//! A batcher: collects admitted transactions and seals them into batches.
//!
//! A batch is sealed when it is full, when its first transaction has waited long enough, or at once after a quiet spell.
//! One batch at a time is offered to the batch store, again and again until it is stored: when the flow control stops,
//! what waits stays here, the pool fills, and clients are refused.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aurigraph_consensus::{AuthorIdx, BatchRef, Epoch};
use aurigraph_ledger::Hash;
use aurigraph_ledger::transaction::Transaction;
use aurigraph_runtime::{ActorError, Address, Behaviour, Context};
use tokio::sync::oneshot;

use super::batch::{Batch, BatchHead};
use super::messages::{AdmissionMsg, BatchError, BatchStoreMsg, BatcherMsg};
use crate::bounds::mempool as bounds;

/// Bytes that a transaction's length takes in a batch at the most.
const LENGTH_PREFIX: usize = 3;

/// Tells the epoch, and this node's validator index in it.
pub type Seat = Arc<dyn Fn() -> (Epoch, AuthorIdx) + Send + Sync>;

/// What a batcher is made of.
#[derive(Clone)]
pub struct BatcherParts {
    /// The epoch, and this node's validator index in it. What is sealed under an older one the store seals anew.
    pub seat: Seat,
    /// Off: one transaction a batch.
    pub batching: bool,
    /// A batch is sealed before it exceeds this.
    pub batch_bytes: usize,
    /// How long a transaction waits for others at the most.
    pub delay: Duration,
}

/// The batcher actor.
pub struct Batcher {
    parts: BatcherParts,
}

impl Batcher {
    /// The actor of these parts.
    #[must_use]
    pub const fn new(parts: BatcherParts) -> Self {
        Self { parts }
    }
}

/// What a batcher's own tasks and timers report.
#[derive(Debug)]
pub enum Internal {
    /// The delay of the waiting transactions is over.
    Due,
    /// Time to offer the sealed batch again.
    Again,
    /// The store's answer; none: it ended, or took too long.
    Put(Option<Result<BatchRef, BatchError>>),
    /// The store's answer to a request for numbers.
    Sequences(Option<Result<Range<u64>, BatchError>>),
}

/// A sealed batch until it is stored.
struct Sealed {
    batch: Batch,
    transactions: Vec<Arc<Transaction>>,
}

/// What one incarnation holds.
pub struct BatcherState {
    store: Address<BatchStoreMsg>,
    admission: Address<AdmissionMsg>,
    waiting: VecDeque<Arc<Transaction>>,
    bytes: usize,
    /// Ids of what waits and of what is sealed and not stored.
    held: HashSet<Hash>,
    sequences: Range<u64>,
    reserving: bool,
    sealed: Option<Sealed>,
    putting: bool,
    last_seal: Option<Instant>,
    due_timer: bool,
    again_timer: bool,
}

impl Behaviour for Batcher {
    type Msg = BatcherMsg;
    type State = BatcherState;

    async fn start(&self, ctx: &Context<BatcherMsg>) -> Result<BatcherState, ActorError> {
        Ok(BatcherState {
            store: ctx.registry.role("batch-store"),
            admission: ctx.registry.role("admission"),
            waiting: VecDeque::new(),
            bytes: 0,
            held: HashSet::new(),
            sequences: 0..0,
            reserving: false,
            sealed: None,
            putting: false,
            last_seal: None,
            due_timer: false,
            again_timer: false,
        })
    }

    async fn handle(
        &self,
        ctx: &Context<BatcherMsg>,
        message: BatcherMsg,
        state: &mut BatcherState,
    ) -> Result<(), ActorError> {
        match message {
            BatcherMsg::Add { transactions } => transactions.into_iter().for_each(|one| state.add(one)),
            BatcherMsg::Flush => {
                state.last_seal = None;
                state.again_timer = false;
            }
            BatcherMsg::Internal(Internal::Due) => state.due_timer = false,
            BatcherMsg::Internal(Internal::Again) => state.again_timer = false,
            BatcherMsg::Internal(Internal::Put(answer)) => self.put_answered(ctx, state, answer),
            BatcherMsg::Internal(Internal::Sequences(answer)) => {
                state.reserving = false;
                match answer {
                    Some(Ok(range)) => state.sequences = range,
                    Some(Err(_)) | None => state.offer_again_later(ctx),
                }
            }
        }
        self.pump(ctx, state);
        metrics::gauge!("batcher_waiting", "actor" => ctx.name.clone()).set(state.held.len() as f64);
        Ok(())
    }
}

impl BatcherState {
    fn add(&mut self, transaction: Arc<Transaction>) {
        let len = transaction.encode().len();
        if self.bytes + len > bounds::BATCHER_BYTES {
            metrics::counter!("batcher_dropped_total").increment(1);
            return;
        }
        if self.held.insert(transaction.id()) {
            self.bytes += len;
            self.waiting.push_back(transaction);
        }
    }

    fn offer_again_later(&mut self, ctx: &Context<BatcherMsg>) {
        if !self.again_timer {
            self.again_timer = true;
            ctx.send_after(bounds::PUT_AGAIN, BatcherMsg::Internal(Internal::Again));
        }
    }
}

impl Batcher {
    /// Does what can be done now: offer the sealed batch, or seal the next one.
    fn pump(&self, ctx: &Context<BatcherMsg>, state: &mut BatcherState) {
        if state.sealed.is_none() {
            if state.waiting.is_empty() || !self.is_due(ctx, state) {
                return;
            }
            let Some(sequence) = state.sequences.next() else {
                return reserve(ctx, state);
            };
            state.last_seal = Some(Instant::now());
            state.sealed = Some(self.seal(state, sequence));
        }
        if !state.putting && !state.again_timer {
            put(ctx, state);
        }
    }

    /// Whether what waits is sealed now; if not, a timer says when.
    fn is_due(&self, ctx: &Context<BatcherMsg>, state: &mut BatcherState) -> bool {
        if !self.parts.batching || state.bytes >= self.parts.batch_bytes {
            return true;
        }
        let Some(since) = state.last_seal.map(|sealed| sealed.elapsed()) else { return true };
        if since >= self.parts.delay {
            return true;
        }
        if !state.due_timer {
            state.due_timer = true;
            ctx.send_after(self.parts.delay - since, BatcherMsg::Internal(Internal::Due));
        }
        false
    }

    /// Takes as many transactions as fit, at least one.
    fn seal(&self, state: &mut BatcherState, sequence: u64) -> Sealed {
        let mut transactions = Vec::new();
        let mut size = bounds::BATCH_HEAD;
        while let Some(next) = state.waiting.front() {
            let with_next = size + next.encode().len() + LENGTH_PREFIX;
            let enough = !self.parts.batching || with_next > self.parts.batch_bytes;
            if enough && !transactions.is_empty() {
                break;
            }
            size = with_next;
            transactions.extend(state.waiting.pop_front());
        }
        state.bytes -= transactions.iter().map(|transaction| transaction.encode().len()).sum::<usize>();
        let (epoch, author) = (self.parts.seat)();
        let head = BatchHead { epoch, author, sequence };
        let batch = Batch::seal(head, transactions.iter().map(|transaction| transaction.encode()), size);
        metrics::counter!("batches_sealed_total").increment(1);
        metrics::histogram!("batch_bytes").record(batch.bytes.len() as f64);
        Sealed { batch, transactions }
    }

    fn put_answered(
        &self,
        ctx: &Context<BatcherMsg>,
        state: &mut BatcherState,
        answer: Option<Result<BatchRef, BatchError>>,
    ) {
        state.putting = false;
        let stored = match answer {
            Some(Ok(reference)) => Some(reference.digest),
            // Cannot happen with one genesis for both; offering it again would never help.
            Some(Err(error @ BatchError::TooLarge { .. })) => {
                tracing::error!(%error, "a sealed batch is dropped");
                None
            }
            Some(Err(BatchError::FlowStopped { .. } | BatchError::NoValidator | BatchError::Journal(_))) | None => {
                return state.offer_again_later(ctx);
            }
        };
        let Some(sealed) = state.sealed.take() else { return };
        let ids: Vec<Hash> = sealed.transactions.iter().map(|transaction| transaction.id()).collect();
        ids.iter().for_each(|id| {
            state.held.remove(id);
        });
        if let Some(batch) = stored {
            // Admission may be restarting: it then knows nothing of these, and nothing is lost.
            let _ = state.admission.send(AdmissionMsg::Sealed { batch, ids });
        }
    }
}

fn put(ctx: &Context<BatcherMsg>, state: &mut BatcherState) {
    let Some(sealed) = &state.sealed else { return };
    let (batch, transactions) = (sealed.batch.clone(), sealed.transactions.clone());
    match state.store.ask(|reply| BatchStoreMsg::PutOwn { batch, transactions, reply }) {
        Ok(answer) => {
            state.putting = true;
            report(ctx, answer, Internal::Put);
        }
        Err(_) => state.offer_again_later(ctx),
    }
}

fn reserve(ctx: &Context<BatcherMsg>, state: &mut BatcherState) {
    if state.reserving || state.again_timer {
        return;
    }
    match state.store.ask(|reply| BatchStoreMsg::ReserveSequences { count: bounds::SEQUENCES, reply }) {
        Ok(answer) => {
            state.reserving = true;
            report(ctx, answer, Internal::Sequences);
        }
        Err(_) => state.offer_again_later(ctx),
    }
}

/// Waits for an answer of the store outside the batcher's loop. At most one of each kind is awaited.
fn report<T: Send + 'static>(ctx: &Context<BatcherMsg>, answer: oneshot::Receiver<T>, wrap: fn(Option<T>) -> Internal) {
    let mouth = ctx.mouth();
    tokio::spawn(async move {
        let answer = tokio::time::timeout(bounds::PUT_WITHIN, answer).await;
        mouth.send(BatcherMsg::Internal(wrap(answer.ok().and_then(Result::ok))));
    });
}
