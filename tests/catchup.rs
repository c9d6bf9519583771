//! Nodes that come late: an observer that starts empty beside a chain that is far ahead.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use aurigraph_testkit::load::Load;
use aurigraph_testkit::{Client, Cluster, Options, eventually};

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
const OBSERVER: usize = 3;
/// Commits that the observer lacks when it starts: more than a node takes without certified ranges.
const BEHIND: u64 = 160;
const WITHIN: Duration = Duration::from_secs(120);

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
    let height = eventually("the observer follows", WITHIN, || async {
        follower.height().await.filter(|height| *height >= least)
    })
    .await;
    let found = follower.block(height).await.unwrap();
    let expected = eventually("the leader has the block", WITHIN, || async { leader.block(height).await }).await;
    assert_eq!(found, expected, "at height {height} of {}", cluster.name(OBSERVER));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_that_starts_empty_follows_and_serves_blocks() {
    let mut cluster = Cluster::prepare(BINARY, "four-validators.toml", options()).await;
    (0..OBSERVER).for_each(|node| cluster.launch(node, true));
    cluster.wait_ready(0..OBSERVER).await;
    let (leader, follower) = (cluster.client(0), cluster.client(OBSERVER));
    let load = Load::start(cluster.wallets(4), &cluster.clients()[..OBSERVER]);
    eventually("the chain is far ahead", WITHIN, || async { commits(&leader).await.filter(|at| *at > BEHIND) }).await;

    // Under load, from nothing: by certified ranges.
    cluster.launch(OBSERVER, false);
    let target = leader.height().await.unwrap();
    follows(&cluster, &leader, &follower, target).await;
    drop(load.stop().await);
}
