//! What a tree is made of: supervisors with their strategy, children with their restart rule.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::launch::{self, Hook, Launcher};
use super::restarts::{Backoff, Budget};
use crate::behaviour::{Behaviour, KillMode};
use crate::registry::Registry;

/// How long a behaviour may take to stop before it is killed, unless its spec says otherwise.
const SHUTDOWN: Duration = Duration::from_secs(2);
/// What a supervisor may take beyond its children's own times.
const SUPERVISOR_SLACK: Duration = Duration::from_secs(1);
/// How long a child must have run for its earlier failures to be forgotten by the backoff.
const HEALTHY: Duration = Duration::from_secs(10);

/// Who is restarted when a child ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The child alone.
    OneForOne,
    /// All children.
    OneForAll,
    /// The child and those started after it.
    RestForOne,
}

/// When a child is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restart {
    /// Always, even after an ordered stop.
    #[default]
    Permanent,
    /// After an abnormal end only; a kill and an abort are abnormal.
    Transient,
    /// Never; nor when its group is restarted.
    Temporary,
}

/// One child of a supervisor.
#[derive(Clone)]
pub struct ChildSpec {
    pub(crate) role: String,
    pub(crate) restart: Restart,
    pub(crate) shutdown: Duration,
    pub(crate) kind: ChildKind,
}

/// What a child is.
#[derive(Clone)]
pub(crate) enum ChildKind {
    /// A behaviour of ours, started by this function.
    Behaviour(Launcher),
    /// A library's actor, likewise.
    Library(Launcher),
    /// A supervisor with its own children.
    Supervisor(Arc<SupervisorSpec>),
}

impl ChildSpec {
    /// A behaviour: `make` builds it anew for each incarnation; its mailbox has `bound` places.
    pub fn behaviour<B, F>(role: impl Into<String>, bound: usize, make: F) -> Self
    where
        B: Behaviour,
        F: Fn() -> B + Send + Sync + 'static,
    {
        Self::actor(role.into(), ChildKind::Behaviour(launch::behaviour(bound, make)))
    }

    /// A supervisor below this one.
    #[must_use]
    pub fn supervisor(spec: SupervisorSpec) -> Self {
        Self {
            role: spec.role.clone(),
            restart: Restart::Permanent,
            shutdown: spec.shutdown_time(),
            kind: ChildKind::Supervisor(Arc::new(spec)),
        }
    }

    /// A library actor. `start` gets the node's tree, the number of the incarnation and the supervisor to link to.
    pub fn raw<F, R>(role: impl Into<String>, start: F) -> Self
    where
        F: Fn(Registry, u64, ractor::ActorCell) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(ractor::ActorCell, JoinHandle<()>), ractor::SpawnErr>> + Send + 'static,
    {
        Self::actor(role.into(), ChildKind::Library(launch::raw(start, None)))
    }

    /// A library actor that knows how to fail on purpose: `hook` returns false for modes that it leaves to the runtime.
    pub fn raw_with_hook<F, R, H>(role: impl Into<String>, start: F, hook: H) -> Self
    where
        F: Fn(Registry, u64, ractor::ActorCell) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(ractor::ActorCell, JoinHandle<()>), ractor::SpawnErr>> + Send + 'static,
        H: Fn(&ractor::ActorCell, KillMode) -> bool + Send + Sync + 'static,
    {
        Self::actor(role.into(), ChildKind::Library(launch::raw(start, Some(Arc::new(hook) as Hook))))
    }

    const fn actor(role: String, kind: ChildKind) -> Self {
        Self { role, restart: Restart::Permanent, shutdown: SHUTDOWN, kind }
    }

    /// When it is started again.
    #[must_use]
    pub const fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// How long it may take to stop in order before it is killed.
    #[must_use]
    pub const fn shutdown(mut self, within: Duration) -> Self {
        self.shutdown = within;
        self
    }
}

/// A supervisor and its children, in starting order.
#[derive(Clone)]
pub struct SupervisorSpec {
    pub(crate) role: String,
    pub(crate) strategy: Strategy,
    pub(crate) budget: Budget,
    pub(crate) backoff: Backoff,
    pub(crate) healthy: Duration,
    pub(crate) children: Vec<ChildSpec>,
}

impl SupervisorSpec {
    /// A supervisor without children yet.
    pub fn new(role: impl Into<String>, strategy: Strategy) -> Self {
        Self {
            role: role.into(),
            strategy,
            budget: Budget::default(),
            backoff: Backoff::default(),
            healthy: HEALTHY,
            children: Vec::new(),
        }
    }

    /// Adds a child after those that are there.
    #[must_use]
    pub fn child(mut self, child: ChildSpec) -> Self {
        self.children.push(child);
        self
    }

    /// Adds several children.
    #[must_use]
    pub fn children(mut self, children: impl IntoIterator<Item = ChildSpec>) -> Self {
        self.children.extend(children);
        self
    }

    /// How many restarts it allows.
    #[must_use]
    pub const fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// How long it waits before a restart.
    #[must_use]
    pub const fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How long a child must have run for its earlier failures to be forgotten by the backoff (10 s unless set).
    #[must_use]
    pub const fn healthy_after(mut self, healthy: Duration) -> Self {
        self.healthy = healthy;
        self
    }

    /// What its ordered stop may take: its children stop one after the other.
    fn shutdown_time(&self) -> Duration {
        let children: Duration = self.children.iter().map(|child| child.shutdown).sum();
        children.saturating_add(SUPERVISOR_SLACK)
    }

    /// The first role that stands twice in the tree, if one does.
    pub(crate) fn duplicate(&self) -> Option<String> {
        let mut seen = BTreeSet::new();
        self.find_duplicate(&mut seen)
    }

    fn find_duplicate(&self, seen: &mut BTreeSet<String>) -> Option<String> {
        if !seen.insert(self.role.clone()) {
            return Some(self.role.clone());
        }
        self.children.iter().find_map(|child| match &child.kind {
            ChildKind::Supervisor(spec) => spec.find_duplicate(seen),
            ChildKind::Behaviour(_) | ChildKind::Library(_) => {
                (!seen.insert(child.role.clone())).then(|| child.role.clone())
            }
        })
    }
}
