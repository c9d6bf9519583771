//! Nodes that come late: by certified ranges of commits, or by a snapshot of the state from their peers.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use aurigraph_actors::storage::snapshots::{self, FolderReader};
use aurigraph_testkit::load::Load;
use aurigraph_testkit::{Client, Cluster, Options, eventually};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
const OBSERVER: usize = 3;
/// Commits that the observer lacks when it starts: more than a node takes without certified ranges.
const BEHIND: u64 = 160;
const WITHIN: Duration = Duration::from_secs(120);
/// Blocks that a comparison looks back.
const COMPARED: u64 = 50;
const PRUNED_WITHIN: Duration = Duration::from_secs(240);

/// Three validators and an observer.
fn options() -> Options {
    let observer = ("name = \"v4\"\nvalidator = true\nstake = 1", "name = \"v4\"\nvalidator = false");
    Options { replace: vec![observer], ..Options::default() }
}

async fn commits(client: &Client) -> Option<u64> {
    let answer = client.get("/consensus/status").await;
    answer.body["executedCommitIndex"].as_u64()
}

/// Both show one block at the height that the follower has now.
async fn follows(cluster: &Cluster, leader: &Client, follower: &Client, least: u64) {
    let (height, found) = eventually("the follower has new blocks", WITHIN, || async {
        let height = follower.height().await.filter(|height| *height >= least)?;
        // The block of a snapshot is not in its index.
        Some((height, follower.block(height).await?))
    })
    .await;
    let expected = eventually("the leader has the block", WITHIN, || async { leader.block(height).await }).await;
    assert_eq!(found, expected, "at height {height} of {}", cluster.name(OBSERVER));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_that_starts_empty_follows_and_serves_blocks_and_proofs_of_what_it_missed() {
    let mut options = options();
    // Far more of them than a node keeps attestations for.
    options
        .replace
        .push(("# One table a node.\n", "[genesis.parameters]\ncheckpoint_interval_ms = 100\n\n# One table a node.\n"));
    let mut cluster = Cluster::prepare(BINARY, "four-validators.toml", options).await;
    (0..OBSERVER).for_each(|node| cluster.launch(node, true));
    cluster.wait_ready(0..OBSERVER).await;
    let (leader, follower) = (cluster.client(0), cluster.client(OBSERVER));
    let load = Load::start(cluster.wallets(4), &cluster.clients()[..OBSERVER]);
    eventually("the chain is far ahead", WITHIN, || async { commits(&leader).await.filter(|at| *at > BEHIND) }).await;
    let before = load.committed();

    // Under load, from nothing: by certified ranges.
    cluster.launch(OBSERVER, false);
    let target = leader.height().await.unwrap();
    follows(&cluster, &leader, &follower, target).await;
    drop(load.stop().await);
    // It saw no attestation of the first checkpoints: the next certificate speaks for them.
    let shown = cluster.prove(OBSERVER, &before[0]);
    assert_eq!(shown["final"], true, "{shown}");
}

/// Waits until each of these nodes has a snapshot of a commit above one.
async fn have_snapshots(cluster: &Cluster, nodes: std::ops::Range<usize>, above: u64) {
    eventually("snapshots are written", WITHIN, || async {
        let has = |node| {
            let newest = snapshots::list(&cluster.node_dir(node)).ok()?.into_iter().next()?;
            // It may be removed for a newer one meanwhile.
            let manifest = FolderReader::open(&newest.path).ok()?.manifest;
            (manifest.commit_index > above).then_some(())
        };
        nodes.clone().map(has).collect::<Option<Vec<()>>>()
    })
    .await;
}

fn count(cluster: &Cluster, line: &str) -> usize {
    cluster.log(OBSERVER).matches(line).count()
}

/// Runs the program; gives what it says.
fn run(args: &[&str], dir: &Path) -> Value {
    let run = Command::new(BINARY).args(args).args(["--json", "--data-dir"]).arg(dir).output().unwrap();
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(run.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&run.stderr));
    serde_json::from_str(&text).unwrap()
}

/// The last validator has signed, dies, and loses its directory.
async fn empty(cluster: &mut Cluster) {
    eventually("the last signs", WITHIN, || async { commits(&cluster.client(OBSERVER)).await.filter(|at| *at > 5) })
        .await;
    cluster.kill(OBSERVER);
    std::fs::remove_dir_all(cluster.node_dir(OBSERVER)).unwrap();
}

/// Once the others have pruned their logs, the emptied validator comes back by a snapshot and signs. Gives its client, and
/// a height that it has reached.
async fn joins_by_a_snapshot(cluster: &mut Cluster, leader: &Client) -> (Client, u64) {
    for node in 0..OBSERVER {
        let client = cluster.client(node);
        eventually("the log from the beginning is gone", PRUNED_WITHIN, || async {
            (client.metric("journal_oldest_commit", &[]).await > 1.0).then_some(())
        })
        .await;
    }

    cluster.rejoin(OBSERVER);
    let follower = cluster.client(OBSERVER);
    let target = leader.height().await.unwrap();
    follows(cluster, leader, &follower, target).await;
    assert!(count(cluster, "the node begins with a snapshot") > 0, "{}", cluster.log(OBSERVER));
    // Its log and its index begin after the snapshot; nothing before was executed.
    assert_eq!(follower.block(1).await, None);
    eventually("it signs", WITHIN, || async {
        let status = follower.get("/consensus/status").await.body;
        (status["signing"]["state"] == "signing").then_some(())
    })
    .await;
    (follower, target)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_validator_joins_by_a_snapshot_when_the_others_have_pruned_their_logs_and_signs_again() {
    let mut cluster = Cluster::start(BINARY, "four-validators.toml", Options::pruned()).await;
    let leader = cluster.client(0);
    let load = Load::start(cluster.wallets(8), &cluster.clients()[..OBSERVER]);
    empty(&mut cluster).await;

    let (_, target) = joins_by_a_snapshot(&mut cluster, &leader).await;
    cluster.wait_above(OBSERVER, target + COMPARED, WITHIN).await;
    drop(load.stop().await);
    cluster.wait_equal_tip(&[0, OBSERVER], WITHIN).await;
    // It goes on from its own disk like any other.
    cluster.kill(OBSERVER);
    cluster.restart(OBSERVER).await;
    cluster.wait_equal_tip(&[0, OBSERVER], WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_validator_joins_by_a_snapshot_of_a_later_epoch_and_signs_again() {
    let mut options = Options::pruned();
    // Long enough for an anchor, without which an epoch has no snapshot.
    options.replace.push(("# One table a node.\n", "[genesis.parameters]\nepoch_ms = 15000\n\n# One table a node.\n"));
    let mut cluster = Cluster::start(BINARY, "four-validators.toml", options).await;
    let leader = cluster.client(0);
    let load = Load::start(cluster.wallets(8), &cluster.clients()[..OBSERVER]);
    empty(&mut cluster).await;
    let ended = eventually("the others' first epoch is over", WITHIN, || async {
        let status = leader.get("/consensus/status").await.body;
        (status["epoch"].as_u64()? >= 1).then_some(status["executedCommitIndex"].as_u64()?)
    })
    .await;
    have_snapshots(&cluster, 0..OBSERVER, ended).await;
    let (follower, _) = joins_by_a_snapshot(&mut cluster, &leader).await;
    let epoch = leader.get("/consensus/status").await.body["epoch"].as_u64().unwrap();
    eventually("it follows into the next epoch", WITHIN, || async {
        (follower.get("/consensus/status").await.body["epoch"].as_u64()? > epoch).then_some(())
    })
    .await;
    drop(load.stop().await);
    cluster.wait_equal_tip(&[0, OBSERVER], WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_far_behind_joins_by_a_snapshot_and_once_more_by_one_that_an_operator_restores() {
    let mut options = options();
    options.replace.push(("snapshot_every_blocks = 10000", "snapshot_every_blocks = 25"));
    options.replace.push(("snapshot_sync_commits = 20000", "snapshot_sync_commits = 100"));
    let mut cluster = Cluster::prepare(BINARY, "four-validators.toml", options).await;
    (0..OBSERVER).for_each(|node| cluster.launch(node, true));
    cluster.wait_ready(0..OBSERVER).await;
    let (leader, follower) = (cluster.client(0), cluster.client(OBSERVER));
    let load = Load::start(cluster.wallets(4), &cluster.clients()[..OBSERVER]);
    have_snapshots(&cluster, 0..OBSERVER, BEHIND).await;

    cluster.launch(OBSERVER, false);
    let target = leader.height().await.unwrap();
    follows(&cluster, &leader, &follower, target).await;
    assert!(count(&cluster, "the node begins with a snapshot") > 0, "{}", cluster.log(OBSERVER));
    assert_eq!(follower.block(1).await, None);

    let taken = count(&cluster, "the node starts again from it");
    assert_eq!(cluster.stop(OBSERVER), Some(0));
    std::fs::remove_dir_all(cluster.node_dir(OBSERVER)).unwrap();
    let (config, from) = (cluster.config_file(0).to_owned(), cluster.node_dir(0));
    let made = run(&["snapshot", "create"], &from);
    let made = made["height"].as_u64().unwrap();
    let from = from.to_str().unwrap();
    let args = ["snapshot", "restore", "--from", from, "--genesis", config.to_str().unwrap()];
    let restored = run(&args, &cluster.node_dir(OBSERVER));
    assert!(restored["height"].as_u64().unwrap() >= made, "{restored}");
    // However far the others are by now: from here on it is the restored one or none.
    let own = cluster.config_file(OBSERVER);
    let text = std::fs::read_to_string(own).unwrap();
    let never = text.replace("snapshot_sync_commits = 100", "snapshot_sync_commits = 0");
    assert_ne!(text, never);
    std::fs::write(own, never).unwrap();
    let begun = count(&cluster, "the node begins with a snapshot");
    cluster.launch(OBSERVER, false);
    let target = leader.height().await.unwrap();
    follows(&cluster, &leader, &follower, target).await;
    assert_eq!(count(&cluster, "the node starts again from it"), taken, "none was taken from a peer");
    assert_eq!(count(&cluster, "the node begins with a snapshot"), begun + 1);
    cluster.wait_above(OBSERVER, target + COMPARED, WITHIN).await;
    drop(load.stop().await);
    cluster.wait_equal_tip(&[0, OBSERVER], WITHIN).await;
}
