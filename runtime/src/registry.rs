//! The live tree of one node: who runs, under whom, how often it was restarted and why.
//!
//! Written by the supervisors and shells, read by `/system/actors`, the metrics and the chaos route. One registry per
//! node, so that several nodes of a test can live in one process. It only records: decisions are the supervisors'.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use tokio::sync::{broadcast, watch};

use crate::behaviour::{Envelope, KillMode};
use crate::end::{End, EndKind};
use crate::mailbox::{Address, MailboxStats, Slot, Withdraw};

/// How many events of the tree a slow reader may lag behind before it loses some (and is told how many): a restart of
/// a whole node is under a hundred events.
pub const EVENT_BOUND: usize = 1_024;

/// What an actor is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ActorState {
    /// `start` is running.
    Starting,
    /// It handles messages.
    Running,
    /// It ended and waits for its restart.
    BackingOff,
    /// It ended in order and will not come back.
    Stopped,
    /// It ended and its supervisor gave up, or may not restart it.
    Failed,
}

/// How and when an incarnation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When.
    pub at: SystemTime,
    /// `panic: …`, `error: …`, `killed`, `aborted`, `stopped: …`; in brackets the kill mode if it was ended on purpose.
    pub reason: String,
}

/// One row of the live tree.
#[derive(Debug, Clone)]
pub struct ActorRow {
    /// `node/role[/index]`.
    pub name: String,
    /// Its supervisor's name; none for the root.
    pub parent: Option<String>,
    /// True for supervisors.
    pub supervisor: bool,
    /// What it is doing.
    pub state: ActorState,
    /// The newest incarnation's number, from 1; 0 before the first start.
    pub generation: u64,
    /// Incarnations after the first.
    pub restarts: u64,
    /// Why the last incarnation ended, if one did.
    pub last_failure: Option<Failure>,
    /// When the current state began.
    pub since: SystemTime,
    /// Messages waiting or being handled.
    pub mailbox_depth: usize,
    /// The mailbox's bound; 0 for supervisors and library actors.
    pub mailbox_bound: usize,
    /// Messages handled since the process started.
    pub messages: u64,
}

/// Something that happened in the tree, for the audit log and the event stream.
#[derive(Debug, Clone)]
pub struct ActorEvent {
    /// Whom it happened to.
    pub name: String,
    /// What.
    pub kind: ActorEventKind,
    /// When.
    pub at: SystemTime,
}

/// What happened to an actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActorEventKind {
    /// An incarnation handles messages (a supervisor: all its children run).
    Started {
        /// Its number.
        generation: u64,
    },
    /// An incarnation ended.
    Ended {
        /// How.
        kind: EndKind,
        /// Why.
        reason: String,
    },
    /// Its supervisor will start it again.
    Restarting {
        /// The wait before.
        after: Duration,
    },
    /// A supervisor gave up.
    GaveUp {
        /// Why.
        reason: String,
    },
}

pub(crate) type Killer = Arc<dyn Fn(KillMode) -> bool + Send + Sync>;
type Gauge = Arc<dyn Fn() -> (usize, usize) + Send + Sync>;

/// The last incarnation of a name: whoever starts the next waits for its end.
#[derive(Clone)]
pub(crate) struct Occupant {
    pub(crate) cell: ractor::ActorCell,
    /// Closed when the incarnation's state was dropped. None for library actors.
    life: Option<watch::Receiver<()>>,
}

impl Occupant {
    /// Waits for its end: the name is free, the task is over and, if asked for, the state is dropped. False if that did
    /// not happen in time.
    ///
    /// ractor frees the name before `post_stop`, and hands the state of a killed actor to the supervisor's queue, so a
    /// free name says little, and a supervisor in its own `post_stop` may wait for [`Until::Over`] only.
    pub(crate) async fn ended(&self, until: Until, within: Duration) -> bool {
        let both = async {
            // The waiter itself has no deadline: the timeout around both has.
            let _ = self.cell.wait(None).await;
            if let (Until::Dropped, Some(mut life)) = (until, self.life.clone()) {
                while life.changed().await.is_ok() {}
            }
        };
        tokio::time::timeout(within, both).await.is_ok()
    }
}

/// What counts as the end of an incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Its task is over.
    Over,
    /// Its state was dropped, too.
    Dropped,
}

/// Held by an incarnation's state. Dropping it withdraws the mailbox and lets the next incarnation start.
pub(crate) struct Life {
    mailbox: Option<(Arc<dyn Withdraw>, u64)>,
    _open: watch::Sender<()>,
}

impl Drop for Life {
    fn drop(&mut self) {
        if let Some((slot, generation)) = self.mailbox.take() {
            slot.withdraw(generation);
        }
    }
}

struct Entry {
    parent: Option<String>,
    supervisor: bool,
    state: ActorState,
    generation: u64,
    last_failure: Option<Failure>,
    since: SystemTime,
    stats: MailboxStats,
    gauge: Option<Gauge>,
    killer: Option<Killer>,
    /// The mode of a kill on purpose whose effect was not recorded yet.
    ordered: Option<KillMode>,
    occupant: Option<Occupant>,
    meters: Option<Meters>,
}

impl Entry {
    fn new() -> Self {
        Self {
            parent: None,
            supervisor: false,
            state: ActorState::Starting,
            generation: 0,
            last_failure: None,
            since: SystemTime::now(),
            stats: MailboxStats::default(),
            gauge: None,
            killer: None,
            ordered: None,
            occupant: None,
            meters: None,
        }
    }

    fn set(&mut self, state: ActorState) {
        self.state = state;
        self.since = SystemTime::now();
    }

    const fn is_over(&self) -> bool {
        matches!(self.state, ActorState::BackingOff | ActorState::Stopped | ActorState::Failed)
    }
}

/// The sampled metrics of one actor; kept, because looking a series up by label allocates.
struct Meters {
    depth: metrics::Gauge,
    bound: metrics::Gauge,
    messages: metrics::Counter,
    busy_ms: metrics::Counter,
}

impl Meters {
    fn new(name: &str) -> Self {
        let actor = || [metrics::Label::new("actor", name.to_owned())].to_vec();
        Self {
            depth: metrics::gauge!("actor_mailbox_depth", actor()),
            bound: metrics::gauge!("actor_mailbox_bound", actor()),
            messages: metrics::counter!("actor_messages_total", actor()),
            busy_ms: metrics::counter!("actor_busy_milliseconds_total", actor()),
        }
    }
}

#[derive(Default)]
struct Inner {
    entries: BTreeMap<String, Entry>,
    slots: BTreeMap<String, Arc<dyn Any + Send + Sync>>,
}

/// The live tree of one node; cheap to clone.
#[derive(Clone)]
pub struct Registry {
    node: Arc<str>,
    inner: Arc<RwLock<Inner>>,
    events: broadcast::Sender<ActorEvent>,
}

impl Registry {
    /// An empty tree for the node of this name.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self { node: node.into(), inner: Arc::default(), events: broadcast::Sender::new(EVENT_BOUND) }
    }

    /// The node's name, the first part of every actor's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// `node/role`: the full name of a role of this node.
    #[must_use]
    pub fn name_of(&self, role: &str) -> String {
        format!("{}/{role}", self.node)
    }

    /// The address of an actor by its full name, also before its first start.
    ///
    /// # Panics
    /// If two parts of the program disagree about the message type of one name: a mistake in the wiring, seen at the
    /// first start.
    #[must_use]
    pub fn address<M: Send + 'static>(&self, name: &str) -> Address<M> {
        let known = self.inner.read().slots.get(name).cloned();
        let slot = known.unwrap_or_else(|| {
            let mut inner = self.inner.write();
            let slot = inner.slots.entry(name.to_owned());
            Arc::clone(slot.or_insert_with(|| Arc::new(Slot::<M>::new(name)) as Arc<dyn Any + Send + Sync>))
        });
        let slot = slot.downcast::<Slot<M>>();
        Address(slot.unwrap_or_else(|_| unreachable!("{name} is addressed with two message types")))
    }

    /// The address of a role of this node: `address("v1/journal")` for `role("journal")`.
    #[must_use]
    pub fn role<M: Send + 'static>(&self, role: &str) -> Address<M> {
        self.address(&self.name_of(role))
    }

    /// The counters of a name.
    #[must_use]
    pub fn stats(&self, name: &str) -> MailboxStats {
        let mut inner = self.inner.write();
        inner.entries.entry(name.to_owned()).or_insert_with(Entry::new).stats.clone()
    }

    /// The live tree, by name.
    #[must_use]
    pub fn tree(&self) -> Vec<ActorRow> {
        let inner = self.inner.read();
        inner.entries.iter().map(|(name, entry)| row(name, entry)).collect()
    }

    /// One row of the live tree.
    #[must_use]
    pub fn row(&self, name: &str) -> Option<ActorRow> {
        self.inner.read().entries.get(name).map(|entry| row(name, entry))
    }

    /// What happens in the tree from now on. A reader that lags more than [`EVENT_BOUND`] events behind loses the
    /// oldest and is told how many.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<ActorEvent> {
        self.events.subscribe()
    }

    /// Ends the current incarnation of a name on purpose. False if the name is unknown or nothing of it runs.
    ///
    /// An actor that is still in `start` has no handler to fail in: every mode kills it there. Library actors know no
    /// panic and no error from outside: these modes kill them, unless their spec brings its own hook; the recorded
    /// reason names the mode that was asked for.
    pub fn kill(&self, name: &str, mode: KillMode) -> bool {
        let killer = {
            let mut inner = self.inner.write();
            let Some(entry) = inner.entries.get_mut(name) else { return false };
            if entry.is_over() {
                return false;
            }
            entry.ordered = Some(mode);
            match (&entry.killer, &entry.occupant) {
                (Some(killer), _) => Arc::clone(killer),
                (None, Some(occupant)) => {
                    let cell = occupant.cell.clone();
                    Arc::new(move |_| {
                        cell.kill();
                        true
                    })
                }
                (None, None) => return false,
            }
        };
        killer(mode)
    }

    /// Exports depth, bound and counters of every actor. Called by the telemetry's upkeep, not per message.
    pub fn sample(&self) {
        let mut inner = self.inner.write();
        for (name, entry) in &mut inner.entries {
            let (depth, bound) = entry.gauge.as_ref().map_or((0, 0), |gauge| gauge());
            let meters = entry.meters.get_or_insert_with(|| Meters::new(name));
            // Depths and bounds are far below 2^52.
            #[allow(clippy::cast_precision_loss)]
            {
                meters.depth.set(depth as f64);
                meters.bound.set(bound as f64);
            }
            meters.messages.absolute(entry.stats.messages());
            meters.busy_ms.absolute(u64::try_from(entry.stats.busy().as_millis()).unwrap_or(u64::MAX));
        }
        let running = inner.entries.values().filter(|entry| entry.state == ActorState::Running).count();
        #[allow(clippy::cast_precision_loss)]
        metrics::gauge!("actors_running").set(running as f64);
    }

    /// Registers a name under its supervisor and returns the number of the incarnation that starts now.
    pub(crate) fn starting(&self, name: &str, parent: Option<&str>, supervisor: bool) -> u64 {
        let generation = {
            let mut inner = self.inner.write();
            let entry = inner.entries.entry(name.to_owned()).or_insert_with(Entry::new);
            entry.parent = parent.map(ToOwned::to_owned);
            entry.supervisor = supervisor;
            entry.generation += 1;
            entry.killer = None;
            entry.ordered = None;
            entry.set(ActorState::Starting);
            entry.generation
        };
        let restarts = metrics::counter!("actor_restarts_total", "actor" => name.to_owned());
        // The first start only makes the series exist, so that `increase` sees the first restart.
        restarts.increment(u64::from(generation > 1));
        generation
    }

    /// Records the newest incarnation of a name, before it runs anything of its own.
    pub(crate) fn occupy(&self, name: &str, cell: &ractor::ActorCell) -> Life {
        let (open, life) = watch::channel(());
        self.set_occupant(name, Occupant { cell: cell.clone(), life: Some(life) });
        Life { mailbox: None, _open: open }
    }

    /// The same for a library actor, whose state is not ours.
    pub(crate) fn occupy_raw(&self, name: &str, cell: &ractor::ActorCell) {
        self.set_occupant(name, Occupant { cell: cell.clone(), life: None });
    }

    fn set_occupant(&self, name: &str, occupant: Occupant) {
        let mut inner = self.inner.write();
        inner.entries.entry(name.to_owned()).or_insert_with(Entry::new).occupant = Some(occupant);
    }

    /// The newest incarnation of a name, dead or alive.
    pub(crate) fn occupant(&self, name: &str) -> Option<Occupant> {
        self.inner.read().entries.get(name)?.occupant.clone()
    }

    /// Publishes a started behaviour: its mailbox, its gauge and how to end it.
    pub(crate) fn running<M: Send + 'static>(
        &self,
        name: &str,
        generation: u64,
        bound: usize,
        cell: &ractor::ActorRef<Envelope<M>>,
        life: &mut Life,
        killer: Killer,
    ) {
        let slot = self.address::<M>(name).0;
        life.mailbox = Some((Arc::clone(&slot) as Arc<dyn Withdraw>, generation));
        let published = Arc::clone(&slot);
        let gauge: Gauge = Arc::new(move || (slot.depth(), *slot.bound.read()));
        self.set_killer(name, generation, Some(gauge), killer);
        published.publish(cell.clone(), generation, bound);
        self.started(name, generation);
    }

    /// Says how an incarnation can be ended on purpose.
    pub(crate) fn set_killer(&self, name: &str, generation: u64, gauge: Option<Gauge>, killer: Killer) {
        let mut inner = self.inner.write();
        if let Some(entry) = inner.entries.get_mut(name).filter(|entry| entry.generation == generation) {
            entry.gauge = gauge;
            entry.killer = Some(killer);
        }
    }

    /// Marks an incarnation as running. A late call of an old generation is ignored.
    pub(crate) fn started(&self, name: &str, generation: u64) {
        {
            let mut inner = self.inner.write();
            let entry = inner.entries.get_mut(name);
            let Some(entry) = entry.filter(|entry| entry.generation == generation && !entry.is_over()) else { return };
            entry.set(ActorState::Running);
        }
        self.event(name, ActorEventKind::Started { generation });
    }

    /// Records how an incarnation ended and what happens next. A late call of an old generation is ignored, and so is
    /// a second one for the same generation unless it says more about what happens next.
    pub(crate) fn ended(&self, name: &str, generation: u64, next: ActorState, end: &End) {
        let reason = {
            let mut inner = self.inner.write();
            let entry = inner.entries.get_mut(name);
            let Some(entry) = entry.filter(|entry| entry.generation == generation) else { return };
            let known = entry.is_over();
            entry.set(next);
            entry.killer = None;
            let ordered = entry.ordered.take();
            if known {
                return;
            }
            let reason = ordered.map_or_else(|| end.reason.clone(), |mode| format!("{} [{mode}]", end.reason));
            entry.last_failure = Some(Failure { at: SystemTime::now(), reason: reason.clone() });
            reason
        };
        if end.kind.is_abnormal() {
            let labels = [("actor", name.to_owned()), ("kind", end.kind.label().to_owned())];
            metrics::counter!("application_exceptions_total", &labels).increment(1);
            tracing::warn!(aurigraph.actor = name, generation, "actor ended: {reason}");
        } else {
            tracing::info!(aurigraph.actor = name, generation, "actor ended: {reason}");
        }
        self.event(name, ActorEventKind::Ended { kind: end.kind, reason });
    }

    /// Marks everything below a supervisor that died: ractor killed it along, and nobody was left to be told.
    pub(crate) fn orphaned(&self, supervisor: &str, next: ActorState) {
        for (name, generation) in self.descendants(supervisor) {
            self.ended(&name, generation, next, &End::new(EndKind::Killed, format!("killed with {supervisor}")));
        }
    }

    /// Waits for the end of everything below a supervisor; names the first that did not end in time.
    pub(crate) async fn descendants_ended(
        &self,
        supervisor: &str,
        until: Until,
        within: Duration,
    ) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + within;
        for (name, _) in self.descendants(supervisor) {
            if let Some(occupant) = self.occupant(&name) {
                let left = deadline.saturating_duration_since(tokio::time::Instant::now());
                if !occupant.ended(until, left).await {
                    return Err(name);
                }
            }
        }
        Ok(())
    }

    /// Everything below a supervisor, with the newest generations.
    fn descendants(&self, supervisor: &str) -> Vec<(String, u64)> {
        let inner = self.inner.read();
        let below = |name: &str| {
            let mut above = inner.entries.get(name).and_then(|entry| entry.parent.as_deref());
            while let Some(parent) = above {
                if parent == supervisor {
                    return true;
                }
                above = inner.entries.get(parent).and_then(|entry| entry.parent.as_deref());
            }
            false
        };
        let found = inner.entries.iter().filter(|(name, _)| below(name));
        found.map(|(name, entry)| (name.clone(), entry.generation)).collect()
    }

    pub(crate) fn event(&self, name: &str, kind: ActorEventKind) {
        // No reader is no error.
        let _ = self.events.send(ActorEvent { name: name.to_owned(), kind, at: SystemTime::now() });
    }
}

fn row(name: &str, entry: &Entry) -> ActorRow {
    let (mailbox_depth, mailbox_bound) = entry.gauge.as_ref().map_or((0, 0), |gauge| gauge());
    ActorRow {
        name: name.to_owned(),
        parent: entry.parent.clone(),
        supervisor: entry.supervisor,
        state: entry.state,
        generation: entry.generation,
        restarts: entry.generation.saturating_sub(1),
        last_failure: entry.last_failure.clone(),
        since: entry.since,
        mailbox_depth,
        mailbox_bound,
        messages: entry.stats.messages(),
    }
}
