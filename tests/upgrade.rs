//! Two releases in one cluster: they differ by a version of the schema and one of the protocol. Debug builds alone can take
//! the place of the release before.
#![cfg(debug_assertions)]
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use aurigraph_testkit::{Cluster, Load, Options, Wallet, eventually};

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
const OLDER: &str = "AURIGRAPH_OLDER_RELEASE=1";
const WITHIN: Duration = Duration::from_secs(90);
const HEAD: &str = "# One table a node.\n";
const WITH_EPOCHS: &str = "[genesis.parameters]\nepoch_ms = 4000\n\n# One table a node.\n";
/// The node that nobody upgrades in time.
const LATE: usize = 3;

fn older() -> [String; 2] {
    ["env".to_owned(), OLDER.to_owned()]
}

/// Epoch and protocol version that a node runs.
async fn runs(cluster: &Cluster, node: usize) -> (u64, u64) {
    let body = cluster.client(node).get("/consensus/status").await.body;
    (body["epoch"].as_u64().unwrap_or(0), body["protocolVersion"].as_u64().unwrap_or(0))
}

async fn schema(cluster: &Cluster, node: usize) -> u64 {
    cluster.client(node).read("/info").await["schemaVersion"].as_u64().unwrap()
}

async fn wait_epoch(cluster: &Cluster, node: usize, at_least: u64) {
    let what = format!("{} is in epoch {at_least}", cluster.name(node));
    eventually(&what, WITHIN, || async { (runs(cluster, node).await.0 >= at_least).then_some(()) }).await;
}

/// A transfer of an account to itself: the newer protocol version makes it, the older one has it fail. Gives the epoch of its
/// block and its status.
async fn to_itself(cluster: &Cluster, node: usize, wallet: &mut Wallet) -> (u64, String) {
    let transaction = wallet.transfers([(wallet.index, 1)]);
    let client = cluster.client(node);
    client.post_bytes("/blockchain/transactions", transaction.shared_bytes()).await;
    let found = eventually("the transfer is in a block", WITHIN, || async {
        let found = client.get(&format!("/blockchain/transactions/{}", transaction.id())).await.body;
        found["blockHeight"].is_u64().then_some(found)
    })
    .await;
    let block = client.read(&format!("/blockchain/blocks/{}", found["blockHeight"])).await;
    (block["epoch"].as_u64().unwrap(), found["status"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_releases_run_mixed_and_the_newer_rules_begin_for_all_at_once_or_not_at_all() {
    let options = Options { replace: vec![(HEAD, WITH_EPOCHS)], ..Options::default() };
    let mut cluster = Cluster::prepare(BINARY, "four-validators.toml", options).await;
    for node in 0..4 {
        cluster.launch_under(&older(), node, true);
    }
    cluster.wait_ready(0..4).await;
    let mut wallets = cluster.wallets(5);
    let mut wallet = wallets.remove(0);
    let load = Load::start(wallets, &cluster.clients()[..3]);
    wait_epoch(&cluster, LATE, 1).await;
    let before = schema(&cluster, 0).await;
    assert_eq!((runs(&cluster, 0).await.1, to_itself(&cluster, 0, &mut wallet).await.1.as_str()), (1, "failed"));

    // Node by node, and the others go on meanwhile.
    for node in 0..LATE {
        assert_eq!(cluster.stop(node), Some(0));
        let witness = (node + 1) % 3;
        let height = cluster.client(witness).height().await.unwrap();
        cluster.wait_above(witness, height + 2, WITHIN).await;
        if node == 2 {
            // Two of four run the newer release for a whole epoch: that is no quorum.
            let now = runs(&cluster, 0).await.0;
            cluster.launch_under(&older(), node, false);
            cluster.wait_ready([node]).await;
            wait_epoch(&cluster, 0, now + 2).await;
            assert_eq!(runs(&cluster, 0).await.1, 1);
            assert_eq!(to_itself(&cluster, 0, &mut wallet).await.1, "failed");
            cluster.wait_equal(&[0, 1, 2, LATE], WITHIN).await;
            assert_eq!(cluster.stop(node), Some(0));
        }
        cluster.restart(node).await;
        assert_eq!(schema(&cluster, node).await, before + 1, "the store is upgraded by its start");
    }

    // The third makes the quorum: the next epoch runs the newer version, and the one that cannot stops before it.
    eventually("the newer version runs", WITHIN, || async { (runs(&cluster, 0).await.1 == 3).then_some(()) }).await;
    eventually("the late one ends", WITHIN, || {
        let ended = cluster.exited(LATE);
        async move { ended }
    })
    .await;
    let said = cluster.last_line(LATE);
    assert!(
        said.contains("protocol version 3") && said.contains("up to 1") && said.contains("needs an upgrade"),
        "{said}"
    );
    let (first, _) = runs(&cluster, 0).await;
    let (epoch, status) = to_itself(&cluster, 1, &mut wallet).await;
    assert_eq!((epoch >= first, status.as_str()), (true, "committed"));

    // Started again as it was it says the same; upgraded, it follows. All have the same blocks, those of both versions.
    cluster.launch_under(&older(), LATE, false);
    eventually("it ends again", WITHIN, || {
        let ended = cluster.exited(LATE);
        async move { ended }
    })
    .await;
    assert!(cluster.last_line(LATE).contains("needs an upgrade"), "{}", cluster.last_line(LATE));
    cluster.restart(LATE).await;
    let now = runs(&cluster, 0).await.0;
    wait_epoch(&cluster, LATE, now + 1).await;
    assert_eq!((runs(&cluster, LATE).await.1, schema(&cluster, LATE).await), (3, before + 1));
    let reported = load.committed();
    load.stop().await;
    let height = cluster.wait_equal(&[0, 1, 2, LATE], WITHIN).await;
    println!("{height} blocks, {} transactions over the upgrade", reported.len());
    assert!(!reported.is_empty());
    for hash in &reported {
        let body = cluster.client(LATE).get(&format!("/blockchain/transactions/{hash}")).await.body;
        assert_eq!(body["status"], "committed", "{hash}");
    }
}
