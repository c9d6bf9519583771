//! The short form of the `endure` example: restarts in order and deaths at random, under a load whose every answer is
//! remembered. Times are the long form's, with a release binary on a quiet machine; here stands what must always hold.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use aurigraph_testkit::endurance::Endurance;
use aurigraph_testkit::steady::Shape;
use aurigraph_testkit::{Cluster, Options};

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
/// A test build on two shared cores.
const LOAD: Shape = Shape { per_second: 40, operations: 4 };
const WARM_UP: Duration = Duration::from_secs(3);
/// The contract says two seconds; a test build on a machine with others gets some more before it is called a stop.
const PAUSE: Duration = Duration::from_secs(20);

async fn loaded() -> Endurance {
    let cluster = Cluster::start(BINARY, "four-validators.toml", Options::default()).await;
    let nodes = cluster.len();
    Endurance::new(cluster, LOAD, nodes, WARM_UP).await
}

#[tokio::test(flavor = "multi_thread")]
async fn restarting_all_nodes_one_by_one_loses_nothing_and_hardly_stops_commits() {
    let mut endurance = loaded().await;
    for node in 0..endurance.nodes() {
        let (pause, _) = endurance.restart_in_order(node).await;
        assert!(pause < PAUSE, "no commit for {pause:?} while node {node} restarted");
    }
    assert!(endurance.close().await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_and_actors_that_die_at_random_lose_nothing_that_was_acknowledged() {
    let seed = 7;
    println!("seed {seed}");
    let mut endurance = loaded().await;
    let storm = endurance.storm(seed, Duration::from_secs(15), 3).await;
    println!("{storm:?}");
    assert!(endurance.close().await > 0);
}
