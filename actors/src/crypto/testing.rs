//! What the tests of the verifiers and of the mempool share: trees, actors that only listen, back-ends that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aurigraph_gpu::{AwsLc, BatchVerifier, VerifyItem};
use aurigraph_runtime::{
    ActorError, Behaviour, Budget, ChildSpec, Context, KillMode, Registry, Strategy, SupervisorSpec, Tree,
};
use parking_lot::{Condvar, Mutex};
use tokio::sync::mpsc;

pub(crate) const ALL_MODES: [KillMode; 5] =
    [KillMode::Kill, KillMode::Panic, KillMode::Error, KillMode::Stop, KillMode::Abort];

/// Longest wait for anything.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The live tree of a node whose name no other test of this process uses: actors' names are global.
pub(crate) fn node() -> Registry {
    static NODES: AtomicUsize = AtomicUsize::new(0);
    Registry::new(&format!("t{}", NODES.fetch_add(1, Ordering::Relaxed)))
}

/// Starts actors under one supervisor that never gives up.
pub(crate) async fn tree(registry: &Registry, children: Vec<ChildSpec>) -> Tree {
    let budget = Budget { restarts: 1_000, window: Duration::from_secs(1) };
    let spec = SupervisorSpec::new("root", Strategy::OneForOne).budget(budget).children(children);
    Tree::start(registry.clone(), spec).await.unwrap()
}

/// Waits for something to become true.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, wait).await.is_ok(), "it never came to be that {what}");
}

/// Kills an actor and waits for its next incarnation.
pub(crate) async fn restart<M: Send + 'static>(registry: &Registry, role: &str, mode: KillMode) {
    let address = registry.role::<M>(role);
    let before = address.generation();
    assert!(registry.kill(&registry.name_of(role), mode), "{role} is not running");
    until(&format!("{role} is back after {mode:?}"), || address.generation() > before && address.is_running()).await;
}

/// An actor that hands everything to the test.
pub(crate) struct Probe<M: Send + 'static>(mpsc::UnboundedSender<M>);

impl<M: Send + 'static> Behaviour for Probe<M> {
    type Msg = M;
    type State = ();

    async fn start(&self, _: &Context<M>) -> Result<(), ActorError> {
        Ok(())
    }

    async fn handle(&self, _: &Context<M>, message: M, (): &mut ()) -> Result<(), ActorError> {
        // A test that has seen enough no longer listens.
        let _ = self.0.send(message);
        Ok(())
    }
}

/// What a probe heard.
pub(crate) struct Heard<M>(mpsc::UnboundedReceiver<M>);

impl<M> Heard<M> {
    pub(crate) async fn next(&mut self) -> M {
        tokio::time::timeout(SOON, self.0.recv()).await.expect("nothing was heard").expect("the probe has ended")
    }

    pub(crate) fn nothing(&mut self) -> bool {
        self.0.try_recv().is_err()
    }
}

/// A probe under a role, and what it hears.
pub(crate) fn probe<M: Send + 'static>(role: &str, bound: usize) -> (ChildSpec, Heard<M>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (ChildSpec::behaviour(role, bound, move || Probe(sender.clone())), Heard(receiver))
}

/// A back-end behind a gate, which counts.
#[derive(Default)]
pub(crate) struct Gated {
    open: Mutex<bool>,
    opened: Condvar,
    pub(crate) entered: AtomicUsize,
    pub(crate) checked: AtomicUsize,
}

impl Gated {
    pub(crate) fn opened() -> Arc<Self> {
        let gate = Arc::new(Self::default());
        gate.set(true);
        gate
    }

    pub(crate) fn set(&self, open: bool) {
        *self.open.lock() = open;
        self.opened.notify_all();
    }

    pub(crate) fn checked(&self) -> usize {
        self.checked.load(Ordering::SeqCst)
    }

    pub(crate) fn entered(&self) -> usize {
        self.entered.load(Ordering::SeqCst)
    }
}

impl BatchVerifier for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn verify(&self, item: &VerifyItem<'_>) -> bool {
        self.entered.fetch_add(1, Ordering::SeqCst);
        let mut open = self.open.lock();
        while !*open {
            self.opened.wait(&mut open);
        }
        drop(open);
        self.checked.fetch_add(1, Ordering::SeqCst);
        AwsLc.verify(item)
    }
}
