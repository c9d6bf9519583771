//! What the live tree says of an actor, and what happened to it.

use std::time::{Duration, SystemTime};

use crate::end::EndKind;

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
