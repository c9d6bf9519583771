//! Behaviours that record what happens to them, and waiting for conditions.
#![allow(dead_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aurigraph_runtime::{ActorError, Behaviour, ChildSpec, Context, Reply};
use parking_lot::Mutex;

/// The bound of every wait: a failure, not a pace.
pub const WITHIN: Duration = Duration::from_secs(20);

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

/// What happened, in order: `+role` started, `-role` stopped in order.
#[derive(Clone, Default)]
pub struct Probe(Arc<Mutex<Vec<String>>>);

impl Probe {
    pub fn record(&self, what: impl Into<String>) {
        self.0.lock().push(what.into());
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }

    pub fn child(&self, role: &str) -> ChildSpec {
        let (probe, owned) = (self.clone(), role.to_owned());
        ChildSpec::behaviour(role, 4, move || Recorder { probe: probe.clone(), role: owned.clone() })
    }
}

pub struct Recorder {
    probe: Probe,
    role: String,
}

pub enum Order {
    Ping(Reply<u64>),
    Hold(Reply<()>, tokio::sync::oneshot::Receiver<()>),
    Forget(Reply<()>),
}

impl Behaviour for Recorder {
    type Msg = Order;
    type State = ();

    async fn start(&self, _ctx: &Context<Order>) -> Result<(), ActorError> {
        self.probe.record(format!("+{}", self.role));
        Ok(())
    }

    async fn handle(&self, ctx: &Context<Order>, order: Order, (): &mut ()) -> Result<(), ActorError> {
        match order {
            Order::Ping(reply) => reply.send(ctx.generation),
            Order::Hold(started, until) => {
                started.send(());
                let _ = until.await;
            }
            Order::Forget(reply) => drop(reply),
        }
        Ok(())
    }

    async fn stopped(&self, _ctx: &Context<Order>, (): &mut ()) {
        self.probe.record(format!("-{}", self.role));
    }
}
