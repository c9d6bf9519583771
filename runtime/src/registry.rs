//! The live tree of one node: who runs, under whom, how often it was restarted and why.
//!
//! Written by the supervisors and shells, read by `/system/actors`, the metrics and the chaos route. One registry per
//! node, so that several nodes of a test can live in one process.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;

use crate::behaviour::{Envelope, KillMode};
use crate::mailbox::{Address, MailboxStats, Slot};

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
    /// It ended and its supervisor gave up.
    Failed,
}

/// How and when an incarnation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When.
    pub at: SystemTime,
    /// `panic: …`, `error: …`, `killed`, `aborted`, `stopped`.
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
    /// Incarnations after the first.
    pub restarts: u64,
    /// Why the last incarnation ended, if one did.
    pub last_failure: Option<Failure>,
    /// When the current state began.
    pub since: SystemTime,
    /// Messages waiting or being handled.
    pub mailbox_depth: usize,
    /// The mailbox's bound; 0 for supervisors.
    pub mailbox_bound: usize,
    /// Messages handled since the process started.
    pub messages: u64,
}

type Killer = Arc<dyn Fn(KillMode) -> bool + Send + Sync>;
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
    killer: Option<Killer>,
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
}

impl Registry {
    /// An empty tree for the node of this name.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self { node: node.into(), inner: Arc::default() }
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
        let mut inner = self.inner.write();
        let slot = inner
            .slots
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Slot::<M>::new(name)) as Arc<dyn Any + Send + Sync>);
        let slot = Arc::clone(slot).downcast::<Slot<M>>();
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

    /// Ends the current incarnation of a name on purpose. False if the name is unknown or nothing of it runs.
    pub fn kill(&self, name: &str, mode: KillMode) -> bool {
        let killer = self.inner.read().entries.get(name).and_then(|entry| entry.killer.clone());
        killer.is_some_and(|kill| kill(mode))
    }

    /// Registers a name under its supervisor and returns the number of the incarnation that starts now.
    pub(crate) fn starting(&self, name: &str, parent: Option<&str>, supervisor: bool) -> u64 {
        let mut inner = self.inner.write();
        let entry = inner.entries.entry(name.to_owned()).or_insert_with(Entry::new);
        entry.parent = parent.map(ToOwned::to_owned);
        entry.supervisor = supervisor;
        entry.generation += 1;
        entry.set(ActorState::Starting);
        entry.generation
    }

    /// Publishes a started behaviour: its mailbox, its gauge and how to end it.
    pub(crate) fn running<M: Send + 'static>(
        &self,
        name: &str,
        generation: u64,
        bound: usize,
        cell: &ractor::ActorRef<Envelope<M>>,
        killer: Killer,
    ) {
        let address = self.address::<M>(name);
        address.0.publish(cell.clone(), generation, bound);
        let slot = address.0;
        let gauge: Gauge = Arc::new(move || (slot.depth(), *slot.bound.read()));
        self.running_raw(name, Some(gauge), killer);
    }

    /// Marks an actor without a bounded mailbox of ours (supervisors, library actors) as running.
    pub(crate) fn running_raw(&self, name: &str, gauge: Option<Gauge>, killer: Killer) {
        let mut inner = self.inner.write();
        let entry = inner.entries.entry(name.to_owned()).or_insert_with(Entry::new);
        entry.gauge = gauge;
        entry.killer = Some(killer);
        entry.set(ActorState::Running);
    }

    /// Records how an incarnation ended and what happens next.
    pub(crate) fn ended(&self, name: &str, next: ActorState, reason: Option<&str>) {
        let mut inner = self.inner.write();
        if let Some(entry) = inner.entries.get_mut(name) {
            entry.set(next);
            entry.killer = None;
            if let Some(reason) = reason {
                entry.last_failure = Some(Failure { at: SystemTime::now(), reason: reason.to_owned() });
            }
        }
    }
}

impl Entry {
    fn set(&mut self, state: ActorState) {
        self.state = state;
        self.since = SystemTime::now();
    }
}

fn row(name: &str, entry: &Entry) -> ActorRow {
    let (mailbox_depth, mailbox_bound) = entry.gauge.as_ref().map_or((0, 0), |gauge| gauge());
    ActorRow {
        name: name.to_owned(),
        parent: entry.parent.clone(),
        supervisor: entry.supervisor,
        state: entry.state,
        restarts: entry.generation.saturating_sub(1),
        last_failure: entry.last_failure.clone(),
        since: entry.since,
        mailbox_depth,
        mailbox_bound,
        messages: entry.stats.messages(),
    }
}
