//! The store actor: hands writes to the thread that owns the store's writing side.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aurigraph_ledger::StateView;
use aurigraph_runtime::{ActorError, Behaviour, Context, Fatal, Mouth, Reply};
use aurigraph_schema_upgrades::{Change, Medium as _};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::blocks::{apply_all, write_block, write_finality};
use super::checkpoint::{self, Checkpoints, Underway};
use super::error::StoreError;
use super::layout::{AUDIT, AUDIT_TIMES, audit_time_key, height_key};
use super::open::Store;
use super::pending::Syncer;
use super::redo::{Logged, Memory, Redo};
use super::rewrite::Rewriter;
use super::types::{CheckpointDone, StoredBlock};
use crate::bounds::storage as bounds;
use crate::storage::journal::JournalReader;

/// What the store actor takes. Messages are applied in order.
#[derive(Debug)]
pub enum StoreMsg {
    /// Indexes a block: header, transactions, receipts. Idempotent by height. Durable with the next checkpoint; what a
    /// crash loses in between is fed again from `StoreReader::highest_indexed_height`.
    WriteBlock {
        /// The block.
        block: Box<StoredBlock>,
        /// Answered once readers see it.
        reply: Option<Reply<Result<(), StoreError>>>,
    },
    /// Notes how long an indexed block took until it was final here. Lost with a crash before the next checkpoint.
    Finality {
        /// The block.
        height: u64,
        /// From the commit's time to the moment that this node had executed and stored it, milliseconds.
        finalized_after_ms: u64,
    },
    /// Writes the ledger state at a checkpoint, durably. Every block up to its height must be indexed, by this process or
    /// below an earlier checkpoint, else it is refused with [`StoreError::NotIndexed`].
    Checkpoint {
        /// The view, taken right after the ledger's checkpoint.
        view: StateView,
        /// The consensus state that belongs to it; given back as it is.
        consensus: Bytes,
        /// The last commit in the view.
        commit_index: u64,
        /// Whether the node is far behind the others: then the store is rewritten later, unless it has become very large.
        behind: bool,
        /// Answered when it is durable.
        reply: Option<Reply<Result<CheckpointDone, StoreError>>>,
    },
    /// Appends audit rows. Durable soon after, and before the reply.
    Audit {
        /// Entry numbers and entries.
        rows: Vec<(u64, Bytes)>,
        /// Answered when they are durable.
        reply: Option<Reply<Result<(), StoreError>>>,
    },
    /// Makes everything sent before durable.
    Sync {
        /// Answered then.
        reply: Reply<Result<(), StoreError>>,
    },
    /// From the owning thread: it cannot go on.
    Failed(StoreError),
    /// Time to look whether the owning thread gets on.
    Look,
    /// Keeps the owning thread until the sender is dropped.
    #[cfg(test)]
    Hold(std::sync::mpsc::Receiver<()>),
}

/// Writes the store; one per node.
pub struct StoreActor {
    store: Store,
    /// Where redo records go; without one, a crash amid a checkpoint leaves the one before.
    log: Option<JournalReader>,
    /// Told when the disk refuses.
    fatal: Option<crate::fatal::Fatal>,
}

impl StoreActor {
    /// The actor of an open store.
    #[must_use]
    pub const fn new(store: Store) -> Self {
        Self { store, log: None, fatal: None }
    }

    /// The same, with redo records in the log of the actor `journal`, and the way to say why the node must end.
    #[must_use]
    pub const fn with_redo(store: Store, log: JournalReader, fatal: crate::fatal::Fatal) -> Self {
        Self { store, log: Some(log), fatal: Some(fatal) }
    }
}

/// What one incarnation holds: its thread ends when this is dropped.
pub struct StoreState {
    queue: mpsc::Sender<StoreMsg>,
}

impl Behaviour for StoreActor {
    type Msg = StoreMsg;
    type State = StoreState;

    async fn start(&self, ctx: &Context<StoreMsg>) -> Result<StoreState, ActorError> {
        let lease = self.store.shared.owner.acquire(bounds::OWNER_RELEASE).await?;
        let (queue, work) = mpsc::channel(bounds::STORE_QUEUE);
        let (store, mouth, runtime) = (self.store.clone(), ctx.mouth(), Handle::current());
        let syncer = Some(Syncer::start(&self.store.shared)?);
        let redo: Box<dyn Redo + Send> = match &self.log {
            Some(log) => Box::new(Logged { reader: log.clone(), journal: Some(ctx.registry.role("journal")), syncer }),
            None => Box::new(Memory::synced_by(syncer)),
        };
        std::thread::Builder::new().name("store".to_owned()).spawn(move || {
            // Its end waits for the syncing thread's: until then nobody else may write.
            own_the_store(&store, redo, work, &mouth, &runtime);
            drop(lease);
        })?;
        drop(ctx.send_after(self.look_every(), StoreMsg::Look));
        Ok(StoreState { queue })
    }

    async fn handle(
        &self,
        ctx: &Context<StoreMsg>,
        message: StoreMsg,
        state: &mut StoreState,
    ) -> Result<(), ActorError> {
        if matches!(message, StoreMsg::Look) {
            self.look(ctx)?;
            drop(ctx.send_after(self.look_every(), StoreMsg::Look));
            return Ok(());
        }
        if let StoreMsg::Failed(error) = message {
            if error.is_of_the_system() {
                let path = self.store.shared.path.display();
                let reason = format!("the store in {path} cannot be written: {error}");
                match &self.fatal {
                    // A start finds out which database counts; until then its disk may never have room again.
                    Some(fatal) if matches!(error, StoreError::Undecided(_)) => fatal.raise(reason.clone()),
                    Some(fatal) => fatal.raise_for(&error, reason.clone()),
                    None => {}
                }
                return Err(Fatal::new(reason).into());
            }
            return Err(error.into());
        }
        // Behind a thread that stands still, the looks would wait in the mailbox.
        let deadline = self.store.shared.watch.deadline();
        let Ok(sent) = tokio::time::timeout(deadline, state.queue.send(message)).await else {
            return Err(self.stuck(ctx, deadline));
        };
        metrics::gauge!("store_queue", "node" => ctx.registry.node().to_owned())
            .set((state.queue.max_capacity() - state.queue.capacity()) as f64);
        sent.map_err(|_| StoreError::Thread("it has ended".to_owned()).into())
    }
}

impl StoreActor {
    fn look_every(&self) -> Duration {
        bounds::STORE_LOOK.min(self.store.shared.watch.deadline() / 2)
    }

    /// Fails if the owning thread has been at one piece of work beyond the deadline. The next incarnation waits for the
    /// thread to let go; if it never does, restarts are used up and the process ends, which is what helps then.
    fn look(&self, ctx: &Context<StoreMsg>) -> Result<(), ActorError> {
        let (watch, syncing) = (&self.store.shared.watch, &self.store.shared.syncing);
        let busy = watch.busy().max(syncing.busy());
        metrics::gauge!("store_busy_seconds", "node" => ctx.registry.node().to_owned()).set(busy.as_secs_f64());
        if busy > watch.deadline() { Err(self.stuck(ctx, busy)) } else { Ok(()) }
    }

    fn stuck(&self, ctx: &Context<StoreMsg>, busy: Duration) -> ActorError {
        metrics::counter!("store_stuck_total", "node" => ctx.registry.node().to_owned()).increment(1);
        tracing::error!(
            alert = "store_stuck", node = ctx.registry.node(), ?busy, path = %self.store.shared.path.display(),
            "the store does not answer"
        );
        StoreError::Thread(format!("it has not answered for {busy:?}")).into()
    }
}

/// What the owning thread does next.
enum Next {
    Message(StoreMsg),
    /// A slice of the checkpoint under way.
    Slice,
    /// A slice of rewriting the database.
    Rewrite,
    /// What the checkpoint waited for is done, or has failed.
    Ready(Result<(), StoreError>),
    /// The incarnation is gone. Its checkpoint is begun anew by the next, the other slot is whole.
    End,
}

/// The next message; while a checkpoint is under way and waits for nothing, a slice between the messages.
fn next(writer: &mut StoreWriter<'_>, work: &mut mpsc::Receiver<StoreMsg>, runtime: &Handle) -> Next {
    if let Some(message) = writer.waiting.take() {
        return Next::Message(message);
    }
    let due = writer.rewriter.due();
    if due.is_some_and(|due| due <= Instant::now()) {
        return Next::Rewrite;
    }
    let Some(begun) = &mut writer.underway else {
        return match due {
            Some(due) => until(due, work),
            None => work.blocking_recv().map_or(Next::End, Next::Message),
        };
    };
    let pending = &mut begun.work.pending;
    if !pending.is_done() {
        return runtime.block_on(async {
            tokio::select! {
                message = work.recv() => message.map_or(Next::End, Next::Message),
                done = pending.wait() => Next::Ready(done),
            }
        });
    }
    match work.try_recv() {
        Ok(message) if writer.since_slice < bounds::MESSAGES_BETWEEN_SLICES => Next::Message(message),
        Ok(message) => {
            writer.waiting = Some(message);
            Next::Slice
        }
        Err(mpsc::error::TryRecvError::Empty) => Next::Slice,
        Err(mpsc::error::TryRecvError::Disconnected) => Next::End,
    }
}

/// The next message before a slice of rewriting is due. Sleeps instead of waiting with the runtime's clock, which may have
/// ended before this thread.
fn until(due: Instant, work: &mut mpsc::Receiver<StoreMsg>) -> Next {
    loop {
        match work.try_recv() {
            Ok(message) => return Next::Message(message),
            Err(mpsc::error::TryRecvError::Disconnected) => return Next::End,
            Err(mpsc::error::TryRecvError::Empty) => {}
        }
        match due.checked_duration_since(Instant::now()) {
            None => return Next::Rewrite,
            Some(left) => std::thread::sleep(left.min(bounds::REWRITE_POLL)),
        }
    }
}

/// The owning thread. sled panics on some damage; that ends this incarnation like an error.
fn own_the_store(
    store: &Store,
    redo: Box<dyn Redo + Send>,
    mut work: mpsc::Receiver<StoreMsg>,
    mouth: &Mouth<StoreMsg>,
    runtime: &Handle,
) {
    let mut writer = match StoreWriter::new(store) {
        Ok(writer) => StoreWriter { redo, ..writer },
        Err(error) => {
            mouth.send(StoreMsg::Failed(error));
            return;
        }
    };
    let watch = &store.shared.watch;
    loop {
        let next = next(&mut writer, &mut work, runtime);
        watch.begin();
        let result = catch_unwind(AssertUnwindSafe(|| match next {
            Next::Message(message) => writer.apply(message).map(|()| true),
            Next::Slice | Next::Ready(Ok(())) => writer.slice().map(|()| true),
            Next::Rewrite => writer.rewrite().map(|_| true),
            Next::Ready(Err(error)) => writer.give_up(error).map(|()| true),
            Next::End => Ok(false),
        }));
        watch.end();
        let failed = match result {
            Ok(Ok(true)) => continue,
            Ok(Ok(false)) => return,
            Ok(Err(error)) => error,
            Err(_) => StoreError::Panicked,
        };
        if failed.is_damage() {
            store.shared.suspect(&failed.to_string());
        }
        mouth.send(StoreMsg::Failed(failed));
        return;
    }
}

/// The writing side of the store.
pub(super) struct StoreWriter<'a> {
    store: &'a Store,
    checkpoints: Checkpoints,
    redo: Box<dyn Redo + Send>,
    /// The checkpoint that is being written, in slices between the messages.
    underway: Option<Begun>,
    pub(super) rewriter: Rewriter,
    /// Messages taken since its last slice.
    since_slice: usize,
    /// A message whose turn comes after the next slice.
    waiting: Option<StoreMsg>,
}

/// A checkpoint under way.
struct Begun {
    work: Underway,
    began: Instant,
    behind: bool,
    reply: Option<Reply<Result<CheckpointDone, StoreError>>>,
}

impl<'a> StoreWriter<'a> {
    pub(super) fn new(store: &'a Store) -> Result<Self, StoreError> {
        let headers = checkpoint::headers(&store.shared.database())?;
        // Below a checkpoint nothing is missing; above it, what this process has indexed in a row.
        let checkpointed = headers.iter().flatten().map(|header| header.height).max().unwrap_or(0);
        store.shared.indexed.fetch_max(checkpointed, Ordering::Relaxed);
        let redo = Box::new(Memory::default());
        let rewriter = Rewriter::new(store.shared.options.rewrite);
        let checkpoints = Checkpoints::default();
        Ok(Self { store, checkpoints, redo, underway: None, rewriter, since_slice: 0, waiting: None })
    }

    /// Applies a message. An error of the store ends the incarnation; a refusal is the sender's alone.
    pub(super) fn apply(&mut self, message: StoreMsg) -> Result<(), StoreError> {
        self.since_slice += 1;
        match message {
            StoreMsg::WriteBlock { block, reply } => answer(reply, self.write_block(&block)),
            StoreMsg::Finality { height, finalized_after_ms } => {
                write_finality(&self.rewriter.both(&self.store.shared), height, finalized_after_ms)
            }
            StoreMsg::Checkpoint { view, consensus, commit_index, behind, reply } => {
                // Two at once would write into both slots. The pipeline never asks for a second one meanwhile.
                self.finish_checkpoint()?;
                match self.begin_checkpoint(&view, consensus, commit_index) {
                    Ok(work) => {
                        self.underway = Some(Begun { work, began: Instant::now(), behind, reply });
                        Ok(())
                    }
                    Err(error) => answer(reply, Err(error)),
                }
            }
            StoreMsg::Audit { rows, reply } => answer(reply, self.audit(&rows)),
            StoreMsg::Sync { reply } => {
                self.rewriter.promised();
                let result = self.store.shared.database().flush().map_err(StoreError::from);
                answer(Some(reply), result)
            }
            StoreMsg::Failed(error) => Err(error),
            StoreMsg::Look => Ok(()),
            #[cfg(test)]
            StoreMsg::Hold(until) => {
                let _ = until.recv();
                Ok(())
            }
        }
    }

    /// Does a slice of the checkpoint under way, if there is one.
    pub(super) fn slice(&mut self) -> Result<(), StoreError> {
        self.since_slice = 0;
        let Some(mut begun) = self.underway.take() else { return Ok(()) };
        let began = Instant::now();
        let done = begun.work.slice(&self.rewriter.both(&self.store.shared), &mut *self.redo);
        self.record("store_slice_seconds", began);
        match done {
            Ok(false) => {
                self.underway = Some(begun);
                Ok(())
            }
            Ok(true) => {
                self.record("store_checkpoint_seconds", begun.began);
                let height = begun.work.height();
                let written = self.checkpoints.finish(begun.work);
                self.rewriter.promised();
                self.rewriter.look(&self.store.shared, begun.behind)?;
                let done = CheckpointDone {
                    sequence: written.sequence,
                    height,
                    written: written.values,
                    bytes: written.bytes,
                    took: begun.began.elapsed(),
                };
                answer(begun.reply, Ok(done))
            }
            Err(error) => answer(begun.reply, Err(error)),
        }
    }

    /// Does a slice of rewriting the database, if there is something to do. True once a copy has taken its place.
    pub(super) fn rewrite(&mut self) -> Result<bool, StoreError> {
        self.rewriter.slice(&self.store.shared, self.underway.is_none())
    }

    /// What the checkpoint under way waited for has failed, and it with it.
    fn give_up(&mut self, error: StoreError) -> Result<(), StoreError> {
        answer(self.underway.take().and_then(|begun| begun.reply), Err(error))
    }

    /// Writes what is left of the checkpoint under way.
    pub(super) fn finish_checkpoint(&mut self) -> Result<(), StoreError> {
        while self.underway.is_some() {
            self.slice()?;
        }
        Ok(())
    }

    fn write_block(&mut self, block: &StoredBlock) -> Result<(), StoreError> {
        let began = Instant::now();
        write_block(&self.rewriter.both(&self.store.shared), block)?;
        let indexed = &self.store.shared.indexed;
        // The writer's lease makes it the only one that changes this.
        if block.height == indexed.load(Ordering::Relaxed) + 1 {
            indexed.store(block.height, Ordering::Relaxed);
        }
        self.record("store_block_seconds", began);
        Ok(())
    }

    fn begin_checkpoint(
        &mut self,
        view: &StateView,
        consensus: Bytes,
        commit_index: u64,
    ) -> Result<Underway, StoreError> {
        let height = view.height();
        let indexed = self.store.shared.indexed.load(Ordering::Relaxed);
        if height > indexed {
            return Err(StoreError::NotIndexed { height, indexed });
        }
        let shared = &self.store.shared;
        let distrusted = |sequence| shared.distrusts(sequence);
        self.checkpoints.begin(&self.rewriter.both(shared), view, consensus, commit_index, distrusted)
    }

    fn audit(&mut self, rows: &[(u64, Bytes)]) -> Result<(), StoreError> {
        self.rewriter.promised();
        let database = &self.rewriter.both(&self.store.shared);
        // The index first: what a crash leaves of it points nowhere, which readers skip; an entry without it stays unfound.
        let times = rows.iter().filter_map(|(id, entry)| audit_time_key(*id, entry));
        apply_all(database, AUDIT_TIMES, times.map(|key| Change::put(&key, &[])))?;
        apply_all(database, AUDIT, rows.iter().map(|(id, entry)| Change::put(&height_key(*id), entry)))?;
        Ok(database.flush()?)
    }

    fn record(&self, name: &'static str, began: Instant) {
        metrics::histogram!(name, "node" => self.store.shared.node.clone()).record(began.elapsed().as_secs_f64());
    }
}

/// Answers, and says whether the incarnation can go on.
fn answer<T>(reply: Option<Reply<Result<T, StoreError>>>, result: Result<T, StoreError>) -> Result<(), StoreError> {
    let fatal = result.as_ref().err().filter(|error| !error.is_refusal()).cloned();
    if let Some(reply) = reply {
        reply.send(result);
    }
    fatal.map_or(Ok(()), Err)
}
