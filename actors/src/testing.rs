//! What the tests of the validator, the batch store and the pipeline share: a node's context without a tree, and
//! neighbours that hold back what they are told, or their own start, until the test lets them go.

use std::path::Path;
use std::sync::Arc;

use aurigraph_runtime::{ActorError, Address, Behaviour, ChildSpec, Context, KillMode, Registry, cluster};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::bounds::storage;
use crate::config::ClusterConfig;
use crate::context::{NodeContext, NodeParts};
use crate::crypto::Gpus;
use crate::crypto::testing::until;
use crate::fatal::Fatal;
use crate::network::{Links, Router};
use crate::settings::NodeSettings;
use crate::storage::{
    Journal, JournalActor, JournalIdentity, JournalMsg, JournalOptions, Record, RecordKind, Store, StoreOptions,
};
use crate::tree::cluster_settings;

/// Places in a stub's mailbox: more than any test fills.
pub(crate) const STUB_MAILBOX: usize = 1_024;

/// The context of the only validator of a development chain with three accounts (two of them sign), and what it reads
/// from. No actor runs: the test starts those that it is about, and plays the others.
pub(crate) fn lone_validator(
    registry: &Registry,
    directory: &Path,
    change: impl FnOnce(&mut NodeSettings),
) -> (Arc<NodeContext>, Journal, Store) {
    let path = directory.join("cluster.toml");
    let text = "[genesis]\nmode = \"development\"\nseed = \"lone\"\nnetwork = \"test\"\naccounts = 3\nsigners = 2\n\
                signer_balance = \"1000000\"\nrecipient_balance = \"1\"\n[[node]]\nname = \"v1\"\nvalidator = true\n\
                stake = 1\nrest = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"\n";
    std::fs::write(&path, text).unwrap();
    let mut settings = ClusterConfig::load(&path).unwrap().node_settings("v1", directory, true).unwrap();
    change(&mut settings);
    let fatal = Fatal::default();
    let identity = JournalIdentity::new(settings.genesis.chain_id(), &settings.name, None);
    let journal = Journal::open(directory, &identity, JournalOptions::default(), fatal.clone()).unwrap();
    let store = Store::open(directory, &settings.name, StoreOptions::default()).unwrap();
    let router = Arc::new(Router::new(registry));
    // The links are never started: every word to another node is refused.
    let (_, net) = cluster::spec(cluster_settings(&settings), router).unwrap();
    let (reader, blocks) = (journal.reader(), store.reader());
    let (registry, net) = (registry.clone(), Links::new(net, Vec::new()));
    let gpus = Gpus::new(1, false);
    let parts = NodeParts { settings, registry, journal: reader, store: blocks, net, fatal, gpus };
    (Arc::new(NodeContext::new(parts)), journal, store)
}

/// An actor whose start waits at a door and whose messages go to a function of the test.
struct Stub<M> {
    take: Arc<dyn Fn(M) + Send + Sync>,
    door: watch::Receiver<bool>,
}

impl<M: Send + 'static> Behaviour for Stub<M> {
    type Msg = M;
    type State = ();

    async fn start(&self, _: &Context<M>) -> Result<(), ActorError> {
        self.door.clone().wait_for(|open| *open).await?;
        Ok(())
    }

    async fn handle(&self, _: &Context<M>, message: M, (): &mut ()) -> Result<(), ActorError> {
        (self.take)(message);
        Ok(())
    }
}

/// The door before a stub's start; open unless the test shuts it. A stub that is killed while its door is shut stays
/// starting: not running, its successor's number not known to anyone yet.
pub(crate) struct Door(watch::Sender<bool>);

impl Door {
    pub(crate) fn shut(&self) {
        self.0.send_replace(false);
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }
}

/// A neighbour that the test plays.
pub(crate) fn stub<M: Send + 'static>(role: &str, take: impl Fn(M) + Send + Sync + 'static) -> (ChildSpec, Door) {
    let (sender, door) = watch::channel(true);
    let take: Arc<dyn Fn(M) + Send + Sync> = Arc::new(take);
    let make = move || Stub { take: Arc::clone(&take), door: door.clone() };
    (ChildSpec::behaviour(role, STUB_MAILBOX, make), Door(sender))
}

/// Ends an actor and waits until this incarnation of it is gone. The next one may be starting still, or running.
pub(crate) async fn end<M: Send + 'static>(registry: &Registry, role: &str) {
    let address = registry.role::<M>(role);
    let before = address.generation();
    assert!(registry.kill(address.name(), KillMode::Kill), "{role} is not running");
    until(&format!("{role} ends"), || address.generation() > before || !address.is_running()).await;
}

/// A journal that is slow on purpose: appends wait in it, in their order and across its own restarts, until the test
/// lets them on to the real one.
pub(crate) struct SlowJournal {
    below: Address<JournalMsg>,
    state: Mutex<Slow>,
}

#[derive(Default)]
struct Slow {
    hold: Option<fn(&Appended) -> bool>,
    held: Vec<JournalMsg>,
}

/// What a test looks at in a held append: its records, and whether it is to be synced.
pub(crate) type Appended = (Vec<Record>, bool);

/// An append of nothing that is synced: a barrier.
pub(crate) fn is_barrier((records, sync): &Appended) -> bool {
    records.is_empty() && *sync
}

/// An append of a record of this kind.
pub(crate) fn has(kind: RecordKind, (records, _): &Appended) -> bool {
    records.iter().any(|record| record.kind == kind)
}

fn look(message: &JournalMsg) -> Appended {
    match message {
        JournalMsg::Append { records, sync, .. } => (records.clone(), *sync),
        JournalMsg::Failed(error) => panic!("nobody but the journal's own thread sends this: {error}"),
    }
}

impl SlowJournal {
    /// The slow journal under the role `journal`, and the real one that it hands on to.
    pub(crate) fn before(registry: &Registry, journal: Journal) -> (Vec<ChildSpec>, Arc<Self>) {
        let slow = Arc::new(Self { below: registry.role("journal-below"), state: Mutex::default() });
        let real =
            ChildSpec::behaviour("journal-below", storage::JOURNAL_MAILBOX, move || JournalActor::new(journal.clone()));
        let taker = Arc::clone(&slow);
        let (spec, _) = stub("journal", move |message| taker.take(message));
        (vec![real, spec], slow)
    }

    fn take(&self, message: JournalMsg) {
        let mut state = self.state.lock();
        if !state.held.is_empty() || state.hold.is_some_and(|hold| hold(&look(&message))) {
            state.held.push(message);
        } else {
            self.below.send(message).unwrap();
        }
    }

    /// Holds the next append of which this is true, and all that come after it.
    pub(crate) fn hold_from(&self, hold: fn(&Appended) -> bool) {
        self.state.lock().hold = Some(hold);
    }

    /// Hands everything on.
    pub(crate) fn release(&self) {
        let mut state = self.state.lock();
        state.hold = None;
        for message in state.held.drain(..) {
            self.below.send(message).unwrap();
        }
    }

    pub(crate) fn held(&self) -> Vec<Appended> {
        self.state.lock().held.iter().map(look).collect()
    }
}
