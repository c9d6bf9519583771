//! The live tree of one node: who runs, under whom, how often it was restarted and why.
//!
//! Written by the supervisors and shells, read by `/system/actors`, the metrics and the chaos route. One registry per
//! node, so that several nodes of a test can live in one process. It records and passes kills on; decisions are the
//! supervisors'.

mod meters;
mod occupant;
mod rows;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use tokio::sync::{broadcast, watch};

use crate::behaviour::{Envelope, KillMode};
use crate::end::{End, EndKind};
use crate::mailbox::{Address, MailboxStats, Slot, Withdraw};
use meters::Meters;
pub(crate) use occupant::{Life, Occupant, Until};
pub use rows::{ActorEvent, ActorEventKind, ActorRow, ActorState, Failure};

/// How many events of the tree a slow reader may lag behind before it loses some (and is told how many): a restart of
/// a whole node is under a hundred events.
pub const EVENT_BOUND: usize = 1_024;

pub(crate) type Killer = Arc<dyn Fn(KillMode) -> bool + Send + Sync>;
type Gauge = Arc<dyn Fn() -> (usize, usize) + Send + Sync>;

struct Entry {
    parent: Option<String>,
    supervisor: bool,
    state: ActorState,
    generation: u64,
    last_failure: Option<Failure>,
    since: SystemTime,
    stats: MailboxStats,
    gauge: Option<Gauge>,
    slot: Option<Arc<dyn Withdraw>>,
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
            slot: None,
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
    /// reason names the mode that was asked for. Panic and error take their turn in the mailbox: they need the handler.
    pub fn kill(&self, name: &str, mode: KillMode) -> bool {
        let killer = {
            let mut inner = self.inner.write();
            let Some(entry) = inner.entries.get_mut(name).filter(|entry| !entry.is_over()) else { return false };
            let killer = entry.killer.clone().or_else(|| {
                let occupant = entry.occupant.as_ref().filter(|known| known.generation == entry.generation)?;
                Some(start_killer(occupant.cell.clone()))
            });
            let Some(killer) = killer else { return false };
            // Noted before the deed: the end may be recorded before the killer returns.
            entry.ordered = Some(mode);
            killer
        };
        let told = killer(mode);
        if !told && let Some(entry) = self.inner.write().entries.get_mut(name) {
            entry.ordered = None;
        }
        told
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
    pub(crate) fn occupy(&self, name: &str, generation: u64, cell: &ractor::ActorCell) -> Life {
        let (open, life) = watch::channel(());
        self.set_occupant(name, Occupant { cell: cell.clone(), generation, life: Some(life) });
        Life { mailbox: None, _open: open }
    }

    /// The same for a library actor, whose state is not ours.
    pub(crate) fn occupy_raw(&self, name: &str, generation: u64, cell: &ractor::ActorCell) {
        self.set_occupant(name, Occupant { cell: cell.clone(), generation, life: None });
    }

    fn set_occupant(&self, name: &str, occupant: Occupant) {
        let mut inner = self.inner.write();
        let entry = inner.entries.entry(name.to_owned()).or_insert_with(Entry::new);
        // A cancelled start may still come this far; the newest incarnation is the one to wait for.
        if entry.occupant.as_ref().is_none_or(|known| known.generation <= occupant.generation) {
            entry.occupant = Some(occupant);
        }
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
        if let Some(entry) = self.inner.write().entries.get_mut(name) {
            entry.slot = Some(Arc::clone(&slot) as Arc<dyn Withdraw>);
        }
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
            if next == ActorState::Stopped
                && let Some(slot) = &entry.slot
            {
                slot.never_again(generation);
            }
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
            tracing::warn!(aurigraph.actor = name, aurigraph.generation = generation, "actor ended: {reason}");
        } else {
            tracing::info!(aurigraph.actor = name, aurigraph.generation = generation, "actor ended: {reason}");
        }
        self.event(name, ActorEventKind::Ended { kind: end.kind, reason });
    }

    /// A supervisor that was stopped in order starts again, and all below it with it: until they run they are to be waited
    /// for, by those among them that start first.
    pub(crate) fn coming_back(&self, supervisor: &str) {
        let names = self.descendants(supervisor);
        let inner = self.inner.read();
        let slots = names.iter().filter_map(|(name, _)| inner.entries.get(name)?.slot.as_ref());
        slots.for_each(|slot| slot.once_more());
    }

    /// Marks everything below a supervisor that died: ractor killed it along, and nobody was left to be told.
    pub(crate) fn orphaned(&self, supervisor: &str, next: ActorState) {
        for (name, generation) in self.descendants(supervisor) {
            self.ended(&name, generation, next, &End::new(EndKind::Killed, format!("killed with {supervisor}")));
        }
    }

    /// Kills what is left below a dead supervisor and waits for its end; names the first that did not end in time.
    ///
    /// ractor kills the children of a dying actor, but passes over those that are in their own `post_stop`, and all
    /// below them that are.
    pub(crate) async fn end_descendants(&self, supervisor: &str, until: Until, within: Duration) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + within;
        let names = self.descendants(supervisor).into_iter().map(|(name, _)| name);
        let left: Vec<_> = names.filter_map(|name| self.occupant(&name).map(|occupant| (name, occupant))).collect();
        for (_, occupant) in &left {
            occupant.cell.kill();
        }
        for (name, occupant) in left {
            if !occupant.ended(until, deadline.saturating_duration_since(tokio::time::Instant::now())).await {
                return Err(name);
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

/// An actor in `start` has no handler yet: it can only be killed.
fn start_killer(cell: ractor::ActorCell) -> Killer {
    Arc::new(move |_| {
        cell.kill();
        true
    })
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
