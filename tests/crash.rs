//! Processes die: one, two, all of them, under load. What was reported committed stays, and nothing forks.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use aurigraph_testkit::{Cluster, Load, Options, eventually};

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
const WITHIN: Duration = Duration::from_secs(60);

async fn four() -> Cluster {
    Cluster::start(BINARY, "four-validators.toml", Options::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_leaves_the_others_committing_and_is_equal_after_thirty_seconds_away() {
    let mut cluster = four().await;
    let load = Load::start(cluster.wallets(6), &cluster.clients()[..3]);
    cluster.wait_above(0, 3, WITHIN).await;
    cluster.kill(3);
    let at_death = cluster.client(0).height().await.unwrap();
    let killed = tokio::time::Instant::now();
    cluster.wait_above(0, at_death + 5, WITHIN).await;
    tokio::time::sleep_until(killed + Duration::from_secs(30)).await;
    cluster.restart(3).await;
    load.stop().await;
    assert!(cluster.wait_equal(&[0, 1, 2, 3], WITHIN).await > at_death + 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_killed_nodes_stop_commits_without_a_fork_and_both_return() {
    let mut cluster = four().await;
    let load = Load::start(cluster.wallets(4), &cluster.clients()[..2]);
    cluster.wait_above(0, 3, WITHIN).await;
    cluster.kill(2);
    cluster.kill(3);
    // What both survivors already hold may still be committed; then the height must stand still.
    let client = cluster.client(0);
    let stopped = eventually("commits stop", WITHIN, || async {
        let before = client.height().await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        client.height().await.filter(|after| *after == before)
    })
    .await;
    cluster.launch(2, false);
    cluster.launch(3, false);
    cluster.wait_ready([2, 3]).await;
    cluster.wait_above(0, stopped + 3, WITHIN).await;
    load.stop().await;
    cluster.wait_equal(&[0, 1, 2, 3], WITHIN).await;
}

/// A path beside a node's store, once there is one that is wanted. Looked for often: what makes it goes on.
async fn beside_the_store(cluster: &Cluster, node: usize, wanted: impl Fn(&str) -> bool) -> std::path::PathBuf {
    let deadline = tokio::time::Instant::now() + 2 * WITHIN;
    loop {
        let entries = std::fs::read_dir(cluster.node_dir(node)).unwrap().flatten();
        let found = entries
            .map(|entry| entry.path())
            .find(|path| wanted(&path.file_name().unwrap_or_default().to_string_lossy()));
        if let Some(found) = found {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "the store is not rewritten: {}", cluster.log(node));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_amid_rewritings_of_its_store_keeps_it_and_what_was_reported_committed() {
    let replace = vec![
        ("rewrite_factor = 4", "rewrite_factor = 1"),
        ("rewrite_floor_mib = 256", "rewrite_floor_mib = 0"),
        ("checkpoint_every_ms = 30000", "checkpoint_every_ms = 1000"),
    ];
    let mut cluster = Cluster::start(BINARY, "four-validators.toml", Options { replace, ..Options::default() }).await;
    let load = Load::start(cluster.wallets(6), &cluster.clients());
    let a_copy = |name: &str| name.starts_with("store.rewrite-");

    let unfinished = beside_the_store(&cluster, 3, a_copy).await;
    cluster.kill(3);
    cluster.restart(3).await;
    assert!(!unfinished.exists(), "a copy that was begun is removed or has become the store");

    // The note is there: the copy counts, and the old one is being removed.
    beside_the_store(&cluster, 3, |name| name == "store.swap").await;
    cluster.kill(3);
    let counts = beside_the_store(&cluster, 3, a_copy).await;
    cluster.restart(3).await;
    assert!(!counts.exists(), "it was brought to its place");
    assert!(cluster.node_dir(3).join("store").exists() || cluster.node_dir(3).join("store.swap").exists());

    let reported = load.committed();
    load.stop().await;
    assert!(!reported.is_empty());
    let client = cluster.client(3);
    for hash in &reported {
        eventually(&format!("{hash} is committed"), WITHIN, || async {
            let body = client.get(&format!("/blockchain/transactions/{hash}")).await.body;
            (body["status"] == "committed").then_some(())
        })
        .await;
    }
    cluster.wait_equal(&[0, 1, 2, 3], WITHIN).await;
    let log = cluster.log(3);
    assert!(!log.contains("store_set_aside") && !log.contains("store_damaged"), "{log}");
}

/// Its round says that it signs again; no log of the others may hold a word against it.
#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_lost_its_directory_signs_again_above_a_proven_floor() {
    let mut cluster = four().await;
    let load = Load::start(cluster.wallets(4), &cluster.clients()[..3]);
    cluster.wait_above(0, 10, WITHIN).await;
    cluster.kill(3);
    std::fs::remove_dir_all(cluster.node_dir(3)).unwrap();
    cluster.launch(3, false);
    eventually("the empty directory is refused", WITHIN, || {
        let exited = cluster.exited(3);
        async move { exited }
    })
    .await;
    assert!(cluster.last_line(3).contains("--rejoin"), "{}", cluster.last_line(3));

    cluster.rejoin(3);
    let client = cluster.client(3);
    let floor = eventually("it signs above a proven floor", 2 * WITHIN, || async {
        let signing = client.get("/consensus/status").await.body["signing"].clone();
        signing["floor"].as_f64().filter(|floor| signing["state"] == "signing" && *floor > 0.0)
    })
    .await;
    let log = cluster.log(3);
    assert!(log.contains("SigningFloorUnknown") && log.contains("the signing floor is proven"), "{log}");
    eventually("the others accept what it signs", WITHIN, || async {
        let round = client.metric("consensus_own_round", &[]).await;
        (round > floor).then_some(())
    })
    .await;
    let height = cluster.client(0).height().await.unwrap();
    cluster.wait_above(0, height + 5, WITHIN).await;
    load.stop().await;
    cluster.wait_equal(&[0, 1, 2, 3], WITHIN).await;
    for node in 0..4 {
        assert!(!cluster.log(node).contains("cannot both be honest"), "{}", cluster.log(node));
    }
    // From now on it starts like any other.
    cluster.kill(3);
    cluster.restart(3).await;
    assert_eq!(cluster.client(3).read("/consensus/status").await["signing"]["state"], "signing");
    cluster.wait_equal(&[0, 1, 2, 3], WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_killed_under_load_lose_nothing_that_was_reported_committed() {
    let mut cluster = four().await;
    let load = Load::start(cluster.wallets(8), &cluster.clients());
    eventually("a hundred commits are reported", WITHIN, || async { (load.committed().len() > 100).then_some(()) })
        .await;
    for node in 0..4 {
        cluster.kill(node);
    }
    let mut reported = load.committed();
    load.stop().await;
    for node in 0..4 {
        cluster.launch(node, false);
    }
    cluster.wait_ready(0..4).await;
    all_are_committed(&cluster, &reported, 4).await;

    // Again, and only three come back. New accounts: what the first ones had under way is not known to them.
    let second = cluster.wallets(16).split_off(8);
    let load = Load::start(second, &cluster.clients());
    eventually("fifty commits are reported", WITHIN, || async { (load.committed().len() > 50).then_some(()) }).await;
    for node in 0..4 {
        cluster.kill(node);
    }
    reported.extend(load.committed());
    load.stop().await;
    for node in 0..3 {
        cluster.launch(node, false);
    }
    cluster.wait_ready(0..3).await;
    all_are_committed(&cluster, &reported, 3).await;
    let load = Load::start(cluster.wallets(20).split_off(16), &cluster.clients()[..3]);
    let height = cluster.client(0).height().await.unwrap();
    cluster.wait_above(0, height + 3, WITHIN).await;
    load.stop().await;
    cluster.wait_equal(&[0, 1, 2], WITHIN).await;
}

async fn all_are_committed(cluster: &Cluster, reported: &[String], nodes: usize) {
    for client in &cluster.clients()[..nodes] {
        for hash in reported {
            let what = format!("{hash} is still committed at {}", client.base());
            eventually(&what, WITHIN, || async {
                let body = client.get(&format!("/blockchain/transactions/{hash}")).await.body;
                (body["status"] == "committed").then_some(())
            })
            .await;
        }
    }
}
