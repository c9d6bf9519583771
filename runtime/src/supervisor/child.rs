//! One child as its supervisor sees it.

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::spec::{ChildKind, ChildSpec, Restart};
use crate::end::End;
use crate::registry::Registry;

/// Where a child stands.
pub(super) enum Phase {
    /// Not running; to be started.
    Down,
    /// Its start runs in a task; dropping the sender cancels it.
    Starting { cancel: oneshot::Sender<()>, task: JoinHandle<()> },
    /// Its start was cancelled.
    Cancelling { task: JoinHandle<()> },
    /// A supervisor whose children are still being started.
    Launching(ractor::ActorCell),
    /// Running.
    Up(ractor::ActorCell),
    /// Told to stop.
    Stopping(ractor::ActorCell),
    /// Over for good.
    Done,
}

pub(super) struct Child {
    pub(super) spec: ChildSpec,
    pub(super) name: String,
    pub(super) phase: Phase,
    pub(super) generation: u64,
    /// To be stopped, because its group is restarted.
    pub(super) condemned: bool,
    /// Failures in a row, for the backoff.
    pub(super) failures: u32,
    pub(super) up_since: Option<Instant>,
    pub(super) resume_at: Option<Instant>,
}

impl Child {
    pub(super) fn new(registry: &Registry, spec: ChildSpec) -> Self {
        let name = registry.name_of(&spec.role);
        Self {
            spec,
            name,
            phase: Phase::Down,
            generation: 0,
            condemned: false,
            failures: 0,
            up_since: None,
            resume_at: None,
        }
    }

    pub(super) const fn is_supervisor(&self) -> bool {
        matches!(self.spec.kind, ChildKind::Supervisor(_))
    }

    pub(super) fn cell(&self) -> Option<&ractor::ActorCell> {
        match &self.phase {
            Phase::Launching(cell) | Phase::Up(cell) | Phase::Stopping(cell) => Some(cell),
            _ => None,
        }
    }

    pub(super) const fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. } | Phase::Launching(_) | Phase::Up(_))
    }

    pub(super) const fn may_restart(&self, end: &End) -> bool {
        match self.spec.restart {
            Restart::Permanent => true,
            Restart::Transient => end.kind.is_abnormal(),
            Restart::Temporary => false,
        }
    }
}
