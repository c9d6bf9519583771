//! The network splits in halves: nothing is committed on either side, and after healing all go on as one.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use aurigraph_testkit::{Cluster, Load, Options, eventually};

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
const WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_split_in_halves_stops_commits_and_healing_resumes_them() {
    let options = Options { proxied: true, ..Options::default() };
    let cluster = Cluster::start(BINARY, "four-validators.toml", options).await;
    let load = Load::start(cluster.wallets(8), &cluster.clients());
    cluster.wait_above(0, 3, WITHIN).await;

    cluster.partition(&[0, 1], &[2, 3], true);
    let mut stopped = 0;
    for node in [0, 2] {
        let client = cluster.client(node);
        let height = eventually("commits stop on both sides", WITHIN, || async {
            let before = client.height().await?;
            tokio::time::sleep(Duration::from_secs(3)).await;
            client.height().await.filter(|after| *after == before)
        })
        .await;
        stopped = stopped.max(height);
    }
    // Both halves hold the same chain as far as both have it.
    let low = cluster.client(0).height().await.unwrap().min(cluster.client(2).height().await.unwrap());
    assert_eq!(cluster.client(0).block(low).await, cluster.client(2).block(low).await);

    cluster.partition(&[0, 1], &[2, 3], false);
    for node in 0..4 {
        cluster.wait_above(node, stopped + 3, WITHIN).await;
    }
    load.stop().await;
    cluster.wait_equal(&[0, 1, 2, 3], WITHIN).await;
}
