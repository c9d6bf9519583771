//! Behaviours that record what happens to them, and waiting for conditions.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aurigraph_runtime::{ActorError, ActorState, Behaviour, ChildSpec, Context, Fatal, Mouth, Registry, Reply};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The bound of every wait: a failure, not a pace.
pub const WITHIN: Duration = Duration::from_secs(20);

/// Places in each recorder's mailbox.
pub const BOUND: usize = 4;

/// ractor's names are process-global: each test has its own node.
pub fn unique_node() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("n{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Waits for a condition.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(WITHIN, wait).await.is_ok(), "not within {WITHIN:?}: {what}");
}

/// Waits until these roles run in these generations.
pub async fn runs(registry: &Registry, expected: &[(&str, u64)]) {
    let runs = |&(role, generation): &(&str, u64)| {
        let row = registry.row(&registry.name_of(role));
        row.is_some_and(|row| row.generation == generation && row.state == ActorState::Running)
    };
    let wait = async {
        while !expected.iter().all(runs) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let in_time = tokio::time::timeout(WITHIN, wait).await.is_ok();
    assert!(in_time, "not within {WITHIN:?}: {expected:?} in\n{:#?}", registry.tree());
}

/// The generation of a role.
pub fn generation(registry: &Registry, role: &str) -> u64 {
    registry.row(&registry.name_of(role)).map_or(0, |row| row.generation)
}

/// Why a role's last incarnation ended.
pub fn reason(registry: &Registry, role: &str) -> String {
    let row = registry.row(&registry.name_of(role)).unwrap();
    row.last_failure.map_or_else(String::new, |failure| failure.reason)
}

#[derive(Default)]
struct Records {
    log: Vec<String>,
    alive: BTreeMap<String, i64>,
    twins: Vec<String>,
    starts: Vec<(String, tokio::time::Duration)>,
    began: Option<tokio::time::Instant>,
}

/// What happened, in order: `+role` started, `-role` stopped in order, `~role` its state was dropped.
#[derive(Clone, Default)]
pub struct Probe(Arc<Mutex<Records>>);

impl Probe {
    pub fn record(&self, what: impl Into<String>) {
        self.0.lock().log.push(what.into());
    }

    /// Everything so far, and forgets it.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().log)
    }

    /// Starts and ordered stops so far, and forgets everything.
    pub fn take_steps(&self) -> Vec<String> {
        self.take().into_iter().filter(|step| !step.starts_with('~')).collect()
    }

    /// Roles of which two incarnations were alive at once.
    pub fn twins(&self) -> Vec<String> {
        self.0.lock().twins.clone()
    }

    /// When a role's starts were tried, since the first of all.
    pub fn start_times(&self, role: &str) -> Vec<u128> {
        let records = self.0.lock();
        records.starts.iter().filter(|(name, _)| name == role).map(|(_, at)| at.as_millis()).collect()
    }

    pub fn child(&self, role: &str) -> ChildSpec {
        self.child_with(role, Script::default())
    }

    pub fn child_with(&self, role: &str, script: Script) -> ChildSpec {
        let (probe, owned) = (self.clone(), role.to_owned());
        ChildSpec::behaviour(role, BOUND, move || Recorder {
            probe: probe.clone(),
            role: owned.clone(),
            script: script.clone(),
        })
    }

    fn start_tried(&self, role: &str) {
        let mut records = self.0.lock();
        let began = *records.began.get_or_insert_with(tokio::time::Instant::now);
        records.starts.push((role.to_owned(), began.elapsed()));
    }

    fn born(&self, role: &str) {
        let mut records = self.0.lock();
        records.log.push(format!("+{role}"));
        let alive = records.alive.entry(role.to_owned()).or_default();
        *alive += 1;
        if *alive > 1 {
            records.twins.push(role.to_owned());
        }
    }

    fn died(&self, role: &str) {
        let mut records = self.0.lock();
        records.log.push(format!("~{role}"));
        *records.alive.entry(role.to_owned()).or_default() -= 1;
    }
}

/// A gate that opens once.
#[derive(Clone)]
pub struct Gate(tokio::sync::watch::Sender<bool>);

impl Default for Gate {
    fn default() -> Self {
        Self(tokio::sync::watch::Sender::new(false))
    }
}

impl Gate {
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub fn shut(&self) {
        self.0.send_replace(false);
    }

    pub async fn passed(&self) {
        self.0.subscribe().wait_for(|open| *open).await.unwrap();
    }
}

/// What a recorder does differently.
#[derive(Clone, Default)]
pub struct Script {
    /// `start` waits for this.
    pub start_gate: Option<Gate>,
    /// So many starts fail.
    pub failing_starts: Arc<AtomicU64>,
    /// So many starts panic.
    pub panicking_starts: Arc<AtomicU64>,
    /// `start` returns a fatal error.
    pub fatal: bool,
    /// `stopped` waits for this.
    pub stop_gate: Option<Gate>,
    /// Dropping the state waits for a message from here.
    pub drop_gate: Option<Arc<Mutex<std::sync::mpsc::Receiver<()>>>>,
}

pub struct Recorder {
    probe: Probe,
    role: String,
    script: Script,
}

/// Dropped with the incarnation.
pub struct Alive {
    probe: Probe,
    role: String,
    drop_gate: Option<Arc<Mutex<std::sync::mpsc::Receiver<()>>>>,
}

impl Drop for Alive {
    fn drop(&mut self) {
        if let Some(gate) = self.drop_gate.take() {
            let _ = gate.lock().recv();
        }
        self.probe.died(&self.role);
    }
}

pub enum Order {
    /// Answers with the generation.
    Ping(Reply<u64>),
    /// Says when it begins and waits.
    Hold(Reply<()>, oneshot::Receiver<()>),
    /// Says when it begins and blocks its thread.
    Block(Reply<()>, std::sync::mpsc::Receiver<()>),
    /// Drops the reply.
    Forget(Reply<()>),
    /// Hands out a mouth of this incarnation.
    Mouth(Reply<Mouth<Order>>),
    /// Records a note.
    Note(String),
    /// Sends itself a note later.
    Later(Duration, String),
    /// Ends in order.
    Leave,
}

fn take_one(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

impl Behaviour for Recorder {
    type Msg = Order;
    type State = Alive;

    async fn start(&self, _ctx: &Context<Order>) -> Result<Alive, ActorError> {
        self.probe.start_tried(&self.role);
        if let Some(gate) = &self.script.start_gate {
            gate.passed().await;
        }
        if self.script.fatal {
            return Err(Fatal::new("foreign data directory").into());
        }
        if take_one(&self.script.failing_starts) {
            return Err("no disk".into());
        }
        assert!(!take_one(&self.script.panicking_starts), "start is broken");
        self.probe.born(&self.role);
        Ok(Alive { probe: self.probe.clone(), role: self.role.clone(), drop_gate: self.script.drop_gate.clone() })
    }

    async fn handle(&self, ctx: &Context<Order>, order: Order, _alive: &mut Alive) -> Result<(), ActorError> {
        match order {
            Order::Ping(reply) => reply.send(ctx.generation),
            Order::Hold(began, until) => {
                began.send(());
                let _ = until.await;
            }
            Order::Block(began, until) => {
                began.send(());
                let _ = until.recv();
            }
            Order::Forget(reply) => drop(reply),
            Order::Mouth(reply) => reply.send(ctx.mouth()),
            Order::Note(note) => self.probe.record(note),
            Order::Later(delay, note) => drop(ctx.send_after(delay, Order::Note(note))),
            Order::Leave => ctx.stop("done"),
        }
        Ok(())
    }

    async fn stopped(&self, _ctx: &Context<Order>, _alive: &mut Alive) {
        self.probe.record(format!("-{}", self.role));
        if let Some(gate) = &self.script.stop_gate {
            gate.passed().await;
        }
    }
}
