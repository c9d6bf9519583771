//! The audit actor: makes entries of records, in order, and sees to it that the store has them.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use aurigraph_ledger::Hash;
use aurigraph_runtime::{ActorError, ActorEvent, ActorEventKind, Address, Behaviour, Context};
use bytes::Bytes;
use tokio::sync::broadcast::error::RecvError;

use super::entry::{AuditEntry, AuditLevel, AuditRecord};
use super::reader::AuditReader;
use crate::bounds::audit as bounds;
use crate::storage::StoreMsg;

/// What the audit actor takes.
#[derive(Debug)]
pub enum AuditMsg {
    /// Something to be kept. No answer: nobody's work depends on it.
    Append(Box<AuditRecord>),
    /// Something happened in the live tree.
    Event(Box<ActorEvent>),
    /// Events of the live tree came faster than they were taken.
    Missed(u64),
    /// The store has everything up to this entry, or did not say so.
    Stored(Option<u64>),
    /// Send what waits to the store.
    Flush,
}

/// Keeps the audit log; one per node.
pub struct AuditActor {
    reader: AuditReader,
    first: Vec<AuditRecord>,
}

impl AuditActor {
    /// The actor over the node's store. `first` is recorded at its first start: what the node's own start has to report,
    /// such as a store that was set aside.
    #[must_use]
    pub const fn new(reader: AuditReader, first: Vec<AuditRecord>) -> Self {
        Self { reader, first }
    }
}

/// What one incarnation holds.
pub struct AuditState {
    store: Address<StoreMsg>,
    next: u64,
    head: Hash,
    /// Entries that the store has not confirmed.
    pending: VecDeque<(u64, Bytes)>,
    dropped: u64,
    /// True from a message to the store until its answer.
    asking: bool,
    _listener: Listener,
}

/// The task that listens to the live tree; ends with the incarnation.
struct Listener(tokio::task::JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Behaviour for AuditActor {
    type Msg = AuditMsg;
    type State = AuditState;

    async fn start(&self, ctx: &Context<AuditMsg>) -> Result<AuditState, ActorError> {
        let listener = listen(ctx);
        let store = ctx.registry.role::<StoreMsg>("store");
        // A store that is just being restarted is waited for: failing here would only use up restarts.
        let up = async { store.generations().wait_for(|_| store.is_running()).await.is_ok() };
        tokio::time::timeout(bounds::STORE_WITHIN, up).await?;
        // Rows of the incarnation before may still be on their way: they are in the store once this is answered.
        store.call(bounds::STORE_WITHIN, |reply| StoreMsg::Sync { reply }).await??;
        let reader = self.reader.clone();
        let tail = tokio::task::spawn_blocking(move || reader.tail(bounds::VERIFY_AT_START)).await??;
        let (next, head) = tail.newest.as_ref().map_or((1, Hash::ZERO), |newest| (newest.id + 1, newest.hash));
        let pending = VecDeque::new();
        let mut state = AuditState { store, next, head, pending, dropped: 0, asking: false, _listener: listener };
        if !tail.verified {
            tracing::error!(alert = "audit_chain_broken", newest = next - 1, "the audit log was changed");
            let text = format!("the newest {} entries do not chain", bounds::VERIFY_AT_START);
            state.add(AuditRecord::system(AuditLevel::Critical, "audit_chain_broken", "verify", &ctx.name, &text));
        }
        if ctx.generation == 1 {
            self.first.iter().cloned().for_each(|record| state.add(record));
        }
        state.send(ctx);
        Ok(state)
    }

    async fn handle(
        &self,
        ctx: &Context<AuditMsg>,
        message: AuditMsg,
        state: &mut AuditState,
    ) -> Result<(), ActorError> {
        match message {
            AuditMsg::Append(record) => state.add(*record),
            AuditMsg::Event(event) => {
                if let Some(record) = record_of(&event) {
                    state.add(record);
                }
            }
            AuditMsg::Missed(count) => {
                let text = format!("{count} events of the live tree were missed");
                state.add(AuditRecord::system(AuditLevel::Warning, "events_missed", "listen", &ctx.name, &text));
            }
            AuditMsg::Stored(Some(up_to)) => {
                state.asking = false;
                while state.pending.front().is_some_and(|(id, _)| *id <= up_to) {
                    state.pending.pop_front();
                }
            }
            AuditMsg::Stored(None) => {
                state.asking = false;
                ctx.send_after(bounds::RETRY_AFTER, AuditMsg::Flush);
                return Ok(());
            }
            AuditMsg::Flush => {}
        }
        state.send(ctx);
        Ok(())
    }
}

impl AuditState {
    /// Chains an entry on. Without room the record is dropped and counted; the count becomes an entry later.
    fn add(&mut self, record: AuditRecord) {
        if self.pending.len() >= bounds::PENDING {
            self.dropped += 1;
            metrics::counter!("audit_dropped_total").increment(1);
            return;
        }
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            let text = format!("{dropped} records were dropped while the store did not take entries");
            self.chain(AuditRecord::system(AuditLevel::Warning, "records_dropped", "append", "audit", &text));
        }
        self.chain(record);
    }

    fn chain(&mut self, record: AuditRecord) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let entry = AuditEntry::new(self.next, now, self.head, record);
        (self.next, self.head) = (entry.id + 1, entry.hash);
        self.pending.push_back((entry.id, entry.encode().into()));
    }

    /// Sends the oldest entries to the store, one message at a time; they stay here until it confirms them.
    fn send(&mut self, ctx: &Context<AuditMsg>) {
        if self.asking || self.pending.is_empty() {
            return;
        }
        let rows: Vec<_> = self.pending.iter().take(bounds::GROUP).cloned().collect();
        let last = rows.last().map(|(id, _)| *id);
        let asked = self.store.ask(|reply| StoreMsg::Audit { rows, reply: Some(reply) });
        self.asking = true;
        let mouth = ctx.mouth();
        tokio::spawn(async move {
            let stored = match asked {
                Ok(answer) => matches!(tokio::time::timeout(bounds::STORE_WITHIN, answer).await, Ok(Ok(Ok(())))),
                Err(_) => false,
            };
            mouth.send(AuditMsg::Stored(last.filter(|_| stored)));
        });
    }
}

/// Passes the live tree's events on, within the mailbox's bound.
fn listen(ctx: &Context<AuditMsg>) -> Listener {
    let (mut events, own) = (ctx.registry.events(), ctx.address());
    Listener(tokio::spawn(async move {
        loop {
            let message = match events.recv().await {
                Ok(event) => AuditMsg::Event(Box::new(event)),
                Err(RecvError::Lagged(missed)) => AuditMsg::Missed(missed),
                Err(RecvError::Closed) => return,
            };
            // Refused while this actor starts or is full: the refusal is counted, the event has its log line.
            let _ = own.send(message);
        }
    }))
}

/// What of the live tree belongs into the log: failures, restarts, and supervisors that gave up.
fn record_of(event: &ActorEvent) -> Option<AuditRecord> {
    let record = |level, kind, action, text: &str| Some(AuditRecord::system(level, kind, action, &event.name, text));
    match &event.kind {
        ActorEventKind::Started { generation } if *generation > 1 => {
            record(AuditLevel::Info, "actor_restarted", "start", &format!("incarnation {generation}"))
        }
        ActorEventKind::Ended { kind, reason } if kind.is_abnormal() => {
            record(AuditLevel::Error, "actor_failure", "end", reason)
        }
        ActorEventKind::GaveUp { reason } => record(AuditLevel::Critical, "supervisor_gave_up", "end", reason),
        ActorEventKind::Started { .. } | ActorEventKind::Ended { .. } | ActorEventKind::Restarting { .. } => None,
    }
}
