//! A node with nothing above its network half: it records what comes in.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aurigraph_runtime::channel::{Channels, Identity, PeerKeys};
use aurigraph_runtime::cluster::{
    self, BulkPermit, ClusterSettings, DoorLimits, Inbound, LinkLimits, PeerNet, PeerSpec,
};
use aurigraph_runtime::{Registry, Strategy, SupervisorSpec, Tree};
use bytes::Bytes;
use parking_lot::Mutex;

/// No condition of a test takes longer, on a busy machine.
pub const BOUND: Duration = Duration::from_secs(30);
pub const SECRET: [u8; 32] = [7; 32];

/// One test at a time: each starts whole nodes and measures time, and the machine may be small.
pub async fn turn() -> tokio::sync::MutexGuard<'static, ()> {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    TURN.lock().await
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(BOUND, wait).await.is_ok(), "not within {BOUND:?}: {what}");
}

/// Fails if something takes too long.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(BOUND, work).await {
        Ok(value) => value,
        Err(_) => panic!("not within {BOUND:?}: {what}"),
    }
}

/// The seed of a node's identity.
pub fn seed(name: &str) -> [u8; 32] {
    let mut seed = [0; 32];
    for (to, from) in seed.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    seed
}

pub fn identity(name: &str) -> Identity {
    Identity::from_seed(&seed(name)).expect("a good seed")
}

pub fn public_key(name: &str) -> Vec<u8> {
    identity(name).public_key().to_vec()
}

/// Channels of a node called `own` that knows the given peers; for tests that speak below the cluster.
pub fn channels(own: &str, peers: &[&str]) -> Channels {
    let keys: Vec<_> = peers.iter().map(|peer| (*peer, public_key(peer))).collect();
    let keys = PeerKeys::new(keys.iter().map(|(name, key)| (*name, key.as_slice()))).expect("a good list");
    Channels::new(identity(own), keys, SECRET, BOUND).expect("good settings")
}

/// What came in.
#[derive(Default)]
pub struct Recorder {
    pub control: Mutex<Vec<(String, Bytes)>>,
    pub bulk: Mutex<Vec<(String, Bytes)>>,
    /// `+peer` and `-peer`.
    pub changes: Mutex<Vec<String>>,
    /// While set, permits are kept.
    pub stalled: AtomicBool,
    pub kept: Mutex<Vec<BulkPermit>>,
    pub bulk_bytes: AtomicUsize,
}

impl Recorder {
    pub fn has_control(&self, peer: &str, bytes: &[u8]) -> bool {
        self.control.lock().iter().any(|(from, message)| from == peer && message == bytes)
    }

    pub fn has_bulk(&self, peer: &str, bytes: &[u8]) -> bool {
        self.bulk.lock().iter().any(|(from, message)| from == peer && message == bytes)
    }

    pub fn release(&self) {
        self.stalled.store(false, Ordering::SeqCst);
        self.kept.lock().clear();
    }
}

impl Inbound for Recorder {
    fn control(&self, peer: &str, bytes: Bytes) {
        self.control.lock().push((peer.to_owned(), bytes));
    }

    fn bulk(&self, peer: &str, bytes: Bytes, permit: BulkPermit) {
        self.bulk_bytes.fetch_add(bytes.len(), Ordering::SeqCst);
        self.bulk.lock().push((peer.to_owned(), bytes));
        if self.stalled.load(Ordering::SeqCst) {
            self.kept.lock().push(permit);
        }
    }

    fn up(&self, peer: &str) {
        self.changes.lock().push(format!("+{peer}"));
    }

    fn down(&self, peer: &str) {
        self.changes.lock().push(format!("-{peer}"));
    }
}

pub struct Node {
    pub name: String,
    pub registry: Registry,
    pub tree: Tree,
    pub net: PeerNet,
    pub inbound: Arc<Recorder>,
}

impl Node {
    pub fn address(&self) -> String {
        self.net.local_address().expect("it listens").to_string()
    }

    pub async fn stop(&self) {
        within("an ordered stop", self.tree.shutdown(BOUND)).await.expect("stops in order");
    }
}

/// Settings of a node on a free loopback port.
pub fn settings(node: &str, peers: &[(&str, &str)]) -> ClusterSettings {
    let peers = peers.iter().map(|(name, address)| PeerSpec {
        name: (*name).to_owned(),
        address: (*address).to_owned(),
        public_key: public_key(name),
    });
    ClusterSettings {
        node: node.to_owned(),
        listen: "127.0.0.1:0".parse().expect("an address"),
        seed: seed(node),
        cluster_secret: SECRET,
        peers: peers.collect(),
        network_batching: true,
        buffers: aurigraph_runtime::Buffers::pooled(1 << 20),
        // A machine that does other things must not make a peer look dead, or a handshake too slow; tests of those have their own.
        links: LinkLimits { penalty: Duration::from_millis(300), dead_after: BOUND, ..LinkLimits::default() },
        door: DoorLimits { handshake_timeout: BOUND, ..DoorLimits::default() },
    }
}

pub async fn start(settings: ClusterSettings) -> Node {
    let name = settings.node.clone();
    let inbound = Arc::new(Recorder::default());
    let (spec, net) = cluster::spec(settings, Arc::clone(&inbound) as Arc<dyn Inbound>).expect("good settings");
    let registry = Registry::new(&name);
    let root = SupervisorSpec::new("root", Strategy::OneForOne).child(aurigraph_runtime::ChildSpec::supervisor(spec));
    let tree = within("the start", Tree::start(registry.clone(), root)).await.expect("starts");
    Node { name, registry, tree, net, inbound }
}

/// An address that nobody dials: peers with smaller names wait to be dialled.
pub const NOWHERE: &str = "127.0.0.1:9";

/// Two linked nodes, `<prefix>-a` and `<prefix>-b`; the second dials.
pub async fn pair_with(
    prefix: &str,
    change_a: impl FnOnce(&mut ClusterSettings),
    change_b: impl FnOnce(&mut ClusterSettings),
) -> (Node, Node) {
    let (a, b) = (format!("{prefix}-a"), format!("{prefix}-b"));
    let mut first = settings(&a, &[(&b, NOWHERE)]);
    change_a(&mut first);
    let first = start(first).await;
    let mut second = settings(&b, &[(&a, &first.address())]);
    change_b(&mut second);
    let second = start(second).await;
    linked(&first, &second).await;
    (first, second)
}

pub async fn pair(prefix: &str) -> (Node, Node) {
    pair_with(prefix, |_| {}, |_| {}).await
}

/// Waits until two nodes are up for each other.
pub async fn linked(first: &Node, second: &Node) {
    until(&format!("{} and {} are linked", first.name, second.name), || {
        first.net.is_up(&second.name) && second.net.is_up(&first.name)
    })
    .await;
}
