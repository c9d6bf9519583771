//! The journal actor: hands appends to the thread that owns the end of the log.

use std::sync::Arc;
use std::time::Duration;

use aurigraph_runtime::{ActorError, Address, Behaviour, Context, Fatal, Mouth, Reply};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::error::JournalError;
use super::open::Journal;
use super::writer::Writer;
use crate::bounds::storage as bounds;
use crate::storage::record::Record;
use crate::storage::room::is_want_of_room;

/// What the journal actor takes.
#[derive(Debug)]
pub enum JournalMsg {
    /// Appends records, in order and next to each other.
    Append {
        /// The records.
        records: Vec<Record>,
        /// Answer only when they, and all before them, are on stable storage.
        sync: bool,
        /// Answered after the write, or after the sync. Dropped if the journal fails first.
        reply: Option<Reply<Result<(), JournalError>>>,
    },
    /// From the owning thread: it cannot go on.
    Failed(JournalError),
}

/// Waits until everything that was sent to the journal before is written and synced. What an actor reads from the log
/// after this holds all that its predecessor appended; without it, an append may still wait in the mailbox.
///
/// # Errors
/// If the journal does not run or answer in time, or fails.
pub async fn barrier(journal: &Address<JournalMsg>, within: Duration) -> Result<(), ActorError> {
    let running = async {
        while !journal.is_running() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(within, running).await.map_err(|_| format!("the journal did not start within {within:?}"))?;
    let empty = |reply| JournalMsg::Append { records: Vec::new(), sync: true, reply: Some(reply) };
    Ok(journal.call(within, empty).await??)
}

/// One append on its way to the thread, with its share of the byte bound.
pub(super) struct Work {
    records: Vec<Record>,
    sync: bool,
    reply: Option<Reply<Result<(), JournalError>>>,
    _credit: OwnedSemaphorePermit,
}

impl Work {
    pub(super) const fn new(
        records: Vec<Record>,
        sync: bool,
        reply: Option<Reply<Result<(), JournalError>>>,
        credit: OwnedSemaphorePermit,
    ) -> Self {
        Self { records, sync, reply, _credit: credit }
    }
}

/// Appends to the log; one per node.
pub struct JournalActor {
    journal: Journal,
}

impl JournalActor {
    /// The actor of an open journal.
    #[must_use]
    pub const fn new(journal: Journal) -> Self {
        Self { journal }
    }
}

/// What one incarnation holds: its thread ends when this is dropped.
pub struct JournalState {
    queue: mpsc::Sender<Work>,
    credit: Arc<Semaphore>,
}

impl Behaviour for JournalActor {
    type Msg = JournalMsg;
    type State = JournalState;

    async fn start(&self, ctx: &Context<JournalMsg>) -> Result<JournalState, ActorError> {
        let lease = self.journal.0.owner.acquire(bounds::OWNER_RELEASE).await?;
        let (queue, work) = mpsc::channel(bounds::JOURNAL_QUEUE);
        let (opened, ready) = oneshot::channel();
        let (journal, mouth) = (self.journal.clone(), ctx.mouth());
        std::thread::Builder::new().name("journal".to_owned()).spawn(move || {
            own_the_log(&journal, work, opened, &mouth);
            drop(lease);
        })?;
        let opened = ready.await.map_err(|_| JournalError::Thread("it ended while it opened the log".to_owned()))?;
        if let Err(error @ JournalError::Poisoned(_)) = &opened {
            return Err(Fatal::new(error.to_string()).into());
        }
        if let Err(error) = &opened
            && is_want_of_room(error)
        {
            // The end of the log was cut to be given room again. More attempts would find the disk as full.
            let reason = format!("the journal cannot be opened: {error}");
            self.journal.0.fatal.raise_for(error, reason.clone());
            return Err(Fatal::new(reason).into());
        }
        opened?;
        Ok(JournalState { queue, credit: Arc::new(Semaphore::new(bounds::JOURNAL_QUEUE_KIB as usize)) })
    }

    async fn handle(
        &self,
        ctx: &Context<JournalMsg>,
        message: JournalMsg,
        state: &mut JournalState,
    ) -> Result<(), ActorError> {
        match message {
            JournalMsg::Append { records, sync, reply } => {
                let bytes: usize = records.iter().map(|record| record.body.len()).sum();
                let share = u32::try_from(bytes / 1_024 + 1).unwrap_or(u32::MAX).min(bounds::JOURNAL_QUEUE_KIB);
                let credit = Arc::clone(&state.credit).acquire_many_owned(share).await?;
                let work = Work::new(records, sync, reply, credit);
                let sent = state.queue.send(work).await;
                metrics::gauge!("journal_queue", "node" => ctx.registry.node().to_owned())
                    .set((state.queue.max_capacity() - state.queue.capacity()) as f64);
                sent.map_err(|_| JournalError::Thread("it has ended".to_owned()).into())
            }
            // After a failed write or sync no restart helps, and none is allowed.
            JournalMsg::Failed(error) => Err(Fatal::new(error.to_string()).into()),
        }
    }
}

/// The owning thread: takes what waits, writes it at once, syncs once if anything asked for it.
fn own_the_log(
    journal: &Journal,
    mut work: mpsc::Receiver<Work>,
    opened: oneshot::Sender<Result<(), JournalError>>,
    mouth: &Mouth<JournalMsg>,
) {
    let mut writer = match Writer::open(Arc::clone(&journal.0)) {
        Ok(writer) => writer,
        Err(error) => {
            // A start that nobody waits for any more needs no answer.
            let _ = opened.send(Err(error));
            return;
        }
    };
    if opened.send(Ok(())).is_err() {
        return;
    }
    let mut group = Vec::new();
    while let Some(first) = work.blocking_recv() {
        let mut bytes = size(&first);
        group.push(first);
        while bytes < bounds::JOURNAL_GROUP {
            let Ok(next) = work.try_recv() else { break };
            bytes += size(&next);
            group.push(next);
        }
        if let Err(error) = write_group(&mut writer, &mut group) {
            mouth.send(JournalMsg::Failed(error));
            return;
        }
    }
}

fn size(work: &Work) -> usize {
    work.records.iter().map(|record| record.body.len()).sum()
}

/// One write and at most one sync for the whole group. A record that is too large is its sender's error alone.
pub(super) fn write_group(writer: &mut Writer, group: &mut Vec<Work>) -> Result<(), JournalError> {
    let mut waiting = Vec::new();
    let mut sync = false;
    let mut written = Ok(());
    for work in group.drain(..) {
        let result = match &written {
            Ok(()) => writer.append(&work.records),
            Err(error) => Err(JournalError::clone(error)),
        };
        match result {
            Ok(()) => {
                sync |= work.sync;
                waiting.push((work.sync, work.reply));
            }
            Err(error) => {
                if !matches!(error, JournalError::TooLarge { .. }) {
                    written = Err(error.clone());
                }
                answer(work.reply, Err(error));
            }
        }
    }
    let written = written.and_then(|()| writer.write());
    let (syncing, done): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(sync, _)| *sync);
    done.into_iter().for_each(|(_, reply)| answer(reply, written.clone()));
    let synced = written.and_then(|()| if sync { writer.sync() } else { Ok(()) });
    syncing.into_iter().for_each(|(_, reply)| answer(reply, synced.clone()));
    synced
}

fn answer(reply: Option<Reply<Result<(), JournalError>>>, result: Result<(), JournalError>) {
    if let Some(reply) = reply {
        reply.send(result);
    }
}
