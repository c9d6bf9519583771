//! Four nodes that prune their logs under load: what was reported committed stays, a node that was killed comes back on its
//! pruned log, one whose store is gone comes back from its own snapshot, and what is left verifies.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use aurigraph_testkit::{Cluster, Load, Options, eventually};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
const WITHIN: Duration = Duration::from_secs(240);
const VICTIM: usize = 3;
/// Segments of 1 MiB: what the pruner leaves is what consensus and two snapshots need, and redo records, a few of them.
const MOST_MIB: u64 = 40;

fn journal_mib(cluster: &Cluster, node: usize) -> u64 {
    let entries = std::fs::read_dir(cluster.node_dir(node).join("journal")).unwrap();
    // A file may go while it is counted.
    entries.filter_map(|entry| entry.unwrap().metadata().ok()).map(|file| file.len()).sum::<u64>() >> 20
}

async fn oldest_commit(cluster: &Cluster, node: usize) -> f64 {
    cluster.client(node).metric("journal_oldest_commit", &[]).await
}

async fn prunes_beyond(cluster: &Cluster, node: usize, commit: f64) -> f64 {
    eventually(&format!("node {node} prunes beyond commit {commit}"), WITHIN, || async move {
        let oldest = oldest_commit(cluster, node).await;
        (oldest > commit).then_some(oldest)
    })
    .await
}

async fn knows(cluster: &Cluster, node: usize, hashes: &[String]) {
    let client = cluster.client(node);
    for hash in hashes {
        eventually(&format!("{hash} is committed at node {node}"), WITHIN, || async {
            let body = client.get(&format!("/blockchain/transactions/{hash}")).await.body;
            (body["status"] == "committed").then_some(())
        })
        .await;
    }
}

fn json(cluster: &Cluster, args: &[&str], dir: &Path) -> Value {
    let config = cluster.config_file(VICTIM).to_str().unwrap();
    let run =
        Command::new(BINARY).args(args).args(["--config", config, "--json", "--data-dir"]).arg(dir).output().unwrap();
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(run.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&run.stderr));
    serde_json::from_str(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_prunes_under_load_and_a_killed_node_and_one_without_its_store_come_back() {
    let mut cluster = Cluster::start(BINARY, "four-validators.toml", Options::pruned()).await;
    let load = Load::start(cluster.wallets(8), &cluster.clients());
    for node in 0..4 {
        prunes_beyond(&cluster, node, 1.0).await;
    }
    let early = load.committed();
    assert!(!early.is_empty());

    cluster.kill(VICTIM);
    cluster.launch(VICTIM, false);
    cluster.wait_ready([VICTIM]).await;
    let pruned = oldest_commit(&cluster, VICTIM).await;
    prunes_beyond(&cluster, VICTIM, pruned.max(1.0)).await;
    for node in 0..4 {
        let mib = journal_mib(&cluster, node);
        assert!(mib <= MOST_MIB, "node {node} keeps {mib} MiB");
    }
    let reported = load.committed();
    load.stop().await;
    knows(&cluster, VICTIM, &reported).await;
    knows(&cluster, 0, &early).await;
    cluster.wait_equal(&[0, 1, 2, VICTIM], WITHIN).await;
    let height = cluster.client(VICTIM).height().await.unwrap();

    assert_eq!(cluster.stop(VICTIM), Some(0));
    let dir = cluster.node_dir(VICTIM);
    let verified = json(&cluster, &["chain", "verify"], &dir);
    assert!(verified["fromHeight"].as_u64().unwrap() > 0, "{verified}");
    assert!(verified["height"].as_u64().unwrap() >= height, "{verified}");
    let doctor = json(&cluster, &["doctor"], &dir);
    assert!(doctor.to_string().contains("the log begins with segment"), "{doctor}");

    std::fs::remove_dir_all(dir.join("store")).unwrap();
    cluster.launch(VICTIM, false);
    cluster.wait_ready([VICTIM]).await;
    assert!(cluster.log(VICTIM).contains("store_refilled"), "{}", cluster.log(VICTIM));
    // Blocks up to its snapshot are not in its index; the next one's hash covers them.
    let next = cluster.client(0).height().await.unwrap() + 1;
    for node in [0, VICTIM] {
        cluster.wait_above(node, next - 1, WITHIN).await;
    }
    let block = cluster.client(VICTIM).block(next).await;
    assert!(block.is_some());
    assert_eq!(block, cluster.client(0).block(next).await);
}
