//! Whole nodes in one process: from a submitted transaction to an executed block, without HTTP.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aurigraph_actors::config::ClusterConfig;
use aurigraph_actors::mempool::{AdmissionMsg, Source};
use aurigraph_actors::tree::{RunningNode, start_node};
use aurigraph_gpu::{Seed, Signer};
use aurigraph_ledger::transaction::{SenderKey, Target, TransactionBuilder};
use aurigraph_ledger::{AccountIndex, Hash, Transaction};
use aurigraph_runtime::{ActorState, KillMode, Metrics};

/// Longest wait for anything; generous, because tests share the machine.
const WITHIN: Duration = Duration::from_secs(60);

struct Cluster {
    config: ClusterConfig,
    data: tempfile::TempDir,
    seed: String,
}

impl Cluster {
    /// A development cluster on free loopback ports, of nodes whose names no other test of this process uses.
    fn new(prefix: &str, nodes: usize) -> Self {
        let held: Vec<TcpListener> =
            (0..2 * nodes).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let port = |at: usize| held[at].local_addr().expect("bound").port();
        let mut text = format!(
            "[genesis]\nmode = \"development\"\nseed = \"{prefix}\"\nnetwork = \"test\"\naccounts = 200\nsigners = 4\n\
             signer_balance = \"1000\"\nrecipient_balance = \"1\"\n"
        );
        for at in 0..nodes {
            let (rest, listen) = (port(2 * at), port(2 * at + 1));
            write!(
                text,
                "[[node]]\nname = \"{prefix}{}\"\nvalidator = true\nstake = 1\nrest = \"127.0.0.1:{rest}\"\n\
                 listen = \"127.0.0.1:{listen}\"\n",
                at + 1
            )
            .expect("a string takes everything");
        }
        let data = tempfile::tempdir().expect("a temporary directory");
        let path = data.path().join("cluster.toml");
        std::fs::write(&path, text).expect("the config is written");
        let config = ClusterConfig::load(&path).expect("the config is good");
        Self { config, data, seed: prefix.to_owned() }
    }

    /// Starts a node, again if need be until an earlier one of this process has let go of the directory.
    async fn start(&self, name: &str, initialise: bool) -> RunningNode {
        let began = Instant::now();
        loop {
            let settings = self.config.node_settings(name, self.data.path(), initialise).expect("settings");
            let (metrics, _) = Metrics::detached(name).expect("metrics");
            match start_node(settings, metrics, |_| Vec::new()).await {
                Ok(node) => return node,
                Err(error) => {
                    let waits = began.elapsed() < WITHIN && error.to_string().contains(" is used by ");
                    assert!(waits, "the node does not start: {error}");
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn signer(&self, index: usize) -> Signer {
        let development = self.config.development.as_ref().expect("a development config");
        assert_eq!(development.seed, self.seed);
        Signer::from_seed(&Seed::new(development.account_seed(index))).expect("a key")
    }
}

fn transfer(node: &RunningNode, signer: &Signer, from: u32, nonce: u64, to: u32, count: usize) -> Transaction {
    let genesis = &node.context().settings.genesis;
    let mut builder =
        TransactionBuilder::new(node.context().chain_id, SenderKey::Index(AccountIndex(from)), nonce, 5_000)
            .fees(&genesis.fees);
    for _ in 0..count {
        builder.push_transfer(Target::Index(AccountIndex(to)), 1);
    }
    let unsigned = builder.build().expect("a transaction");
    let signature = signer.sign(&unsigned.signing_message()).expect("a signature");
    unsigned.with_signature(&signature).expect("signed")
}

async fn until<F: Fn() -> bool>(what: &str, condition: F) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < WITHIN, "{what} did not happen within {WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn submit(node: &RunningNode, transaction: &Transaction) -> Hash {
    let admission = node.context().registry.role::<AdmissionMsg>("admission");
    let bytes = transaction.shared_bytes();
    admission
        .call(WITHIN, |reply| AdmissionMsg::Submit { transaction: bytes, source: Source::Node, reply })
        .await
        .expect("admission answers")
        .expect("the transaction is taken")
        .id
}

fn height_of(node: &RunningNode, id: &Hash) -> Option<u64> {
    node.context().store.transaction(id).expect("the store reads").map(|location| location.height)
}

fn published(node: &RunningNode) -> Option<Arc<aurigraph_actors::published::Published>> {
    node.context().published.borrow().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_validator_commits_a_transfer_and_has_it_after_a_restart() {
    let cluster = Cluster::new("solo", 1);
    let node = cluster.start("solo1", true).await;
    until("the first state", || published(&node).is_some()).await;
    let id = submit(&node, &transfer(&node, &cluster.signer(0), 0, 0, 9, 3)).await;
    until("the commit", || height_of(&node, &id).is_some()).await;
    let balance = || published(&node).and_then(|state| state.view.balance(AccountIndex(9)));
    until("the published state", || balance() == Some(1_000_000_000_000_000_003)).await;
    let before = published(&node).expect("published");
    let (height, hash) = (height_of(&node, &id), before.newest.hash);
    node.shutdown(WITHIN).await.expect("an ordered stop");
    drop(node);
    let node = cluster.start("solo1", false).await;
    until("the replay", || published(&node).is_some_and(|state| state.height() >= before.height())).await;
    assert_eq!(height_of(&node, &id), height);
    let row = node.context().store.header_by_height(before.height()).expect("reads").expect("indexed");
    assert_eq!(row.hash, hash);
    node.shutdown(WITHIN).await.expect("an ordered stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_validators_commit_transfers_sent_to_each_and_agree() {
    let cluster = Cluster::new("quad", 4);
    let mut nodes = Vec::new();
    for at in 1..=4 {
        nodes.push(cluster.start(&format!("quad{at}"), true).await);
    }
    until("the first states", || nodes.iter().all(|node| published(node).is_some())).await;
    let mut ids = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        let from = u32::try_from(at).expect("small");
        ids.push(submit(node, &transfer(node, &cluster.signer(at), from, 0, 100, 5)).await);
    }
    until("the commits", || nodes.iter().all(|node| ids.iter().all(|id| height_of(node, id).is_some()))).await;
    let lowest = nodes.iter().map(|node| published(node).expect("published").height()).min().expect("four nodes");
    let hash_at =
        |node: &RunningNode| node.context().store.header_by_height(lowest).expect("reads").map(|row| row.hash);
    until("the index", || nodes.iter().all(|node| hash_at(node).is_some())).await;
    assert!(nodes.iter().all(|node| hash_at(node) == hash_at(&nodes[0])), "one chain on all nodes");
    // The index is written before the state is published.
    let balance = |node: &RunningNode| published(node).and_then(|state| state.view.balance(AccountIndex(100)));
    until("the published states", || nodes.iter().all(|node| balance(node) == Some(1_000_000_000_000_000_020))).await;
    for node in nodes {
        node.shutdown(WITHIN).await.expect("an ordered stop");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_commits_after_every_death_of_every_stage_and_of_what_it_stands_on() {
    let cluster = Cluster::new("heal", 1);
    let node = cluster.start("heal1", true).await;
    until("the first state", || published(&node).is_some()).await;
    let (signer, registry) = (cluster.signer(0), node.context().registry.clone());
    let roles = ["order", "verify", "execute", "persist", "publish", "pipeline", "store", "journal", "validator"];
    let modes = [KillMode::Kill, KillMode::Panic, KillMode::Error, KillMode::Stop, KillMode::Abort];
    // Stays inside the window of open nonces and the restart budgets: one mode a role, another role each time.
    for (nonce, role) in (0_u64..).zip(roles.iter().cycle().take(2 * roles.len())) {
        let (name, mode) = (registry.name_of(role), modes[usize::try_from(nonce).expect("small") % modes.len()]);
        let before = registry.row(&name).expect("in the tree").restarts;
        until(&format!("{name} can be killed"), || registry.kill(&name, mode)).await;
        until(&format!("{name} is back after {mode:?}"), || {
            registry.row(&name).is_some_and(|row| row.restarts > before && row.state == ActorState::Running)
        })
        .await;
        let admission = registry.role::<AdmissionMsg>("admission");
        until("admission runs", || admission.is_running()).await;
        let id = submit(&node, &transfer(&node, &signer, 0, nonce, 9, 1)).await;
        until(&format!("the commit after {mode:?} of {name}"), || height_of(&node, &id).is_some()).await;
    }
    let balance = || published(&node).and_then(|state| state.view.balance(AccountIndex(9)));
    let once_each = 1_000_000_000_000_000_000 + 2 * roles.len() as u128;
    until("each transfer to take effect", || balance() >= Some(once_each)).await;
    assert_eq!(balance(), Some(once_each), "each transfer took effect once");
    node.shutdown(WITHIN).await.expect("an ordered stop");
}
