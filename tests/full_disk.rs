//! A node whose disk is full, or whose files may not grow: it stops in order and says so, the others commit on, and once
//! there is room it goes on where it was.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::Duration;

use aurigraph_testkit::disk::SmallDisk;
use aurigraph_testkit::{Cluster, Load, Options, eventually};

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
const WITHIN: Duration = Duration::from_secs(60);
/// `aurigraph --help`: anything without a code of its own.
const FAILED: i32 = 1;
const VICTIM: usize = 3;
/// 1 MiB: the journal reaches it soon under load, and the node's log, a file under the same limit, never does.
const FILE_LIMIT: &str = "--fsize=1048576";

/// The victim has ended by itself and in order: its exit code and its last line say why.
async fn ends_with(cluster: &mut Cluster, reason: &str) {
    let deadline = tokio::time::Instant::now() + WITHIN;
    let code = loop {
        if let Some(code) = cluster.exited(VICTIM) {
            break code;
        }
        assert!(tokio::time::Instant::now() < deadline, "the node goes on:\n{}", cluster.last_line(VICTIM));
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let (last, log) = (cluster.last_line(VICTIM), cluster.log(VICTIM));
    println!("the last line: {last}");
    assert_eq!(code, FAILED, "a clean end, by no signal: {last}");
    let own = cluster.node_dir(VICTIM);
    for words in ["error: node v4 ends: ", own.to_str().unwrap(), reason] {
        assert!(last.contains(words), "the last line should say {words:?}: {last}");
    }
    for words in ["panicked at", "store_damaged", "store_set_aside"] {
        assert!(!log.contains(words), "a full disk is no damage: {words} in\n{log}");
    }
}

/// Everybody else commits on, and what was reported committed is known to the victim once it is back.
async fn others_go_on_and_it_returns(cluster: &mut Cluster, load: Load, wrapper: &[String]) {
    let height = cluster.client(0).height().await.unwrap();
    cluster.wait_above(0, height + 5, WITHIN).await;
    cluster.launch_under(wrapper, VICTIM, false);
    cluster.wait_ready([VICTIM]).await;
    let reported = load.committed();
    load.stop().await;
    assert!(cluster.wait_equal(&[0, 1, 2, VICTIM], WITHIN).await > height + 5);
    assert!(!cluster.log(VICTIM).contains("store_set_aside"), "its store was whole");
    let client = cluster.client(VICTIM);
    assert!(!reported.is_empty());
    for hash in &reported {
        eventually(&format!("{hash} is committed at the victim"), WITHIN, || async {
            let body = client.get(&format!("/blockchain/transactions/{hash}")).await.body;
            (body["status"] == "committed").then_some(())
        })
        .await;
    }
}

/// Starts four nodes, the last by way of `wrapper`, and a load on all of them.
async fn under_load(cluster: &mut Cluster, wrapper: &[String]) -> Load {
    for node in 0..VICTIM {
        cluster.launch(node, true);
    }
    cluster.launch_under(wrapper, VICTIM, true);
    cluster.wait_ready(0..4).await;
    let load = Load::start(cluster.wallets(8), &cluster.clients());
    cluster.wait_above(VICTIM, 3, WITHIN).await;
    load
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_a_full_disk_stops_and_says_so_and_returns_once_there_is_room() {
    let mut cluster = Cluster::prepare(BINARY, "four-validators.toml", Options::default()).await;
    let Some(disk) = SmallDisk::mount(&cluster.node_dir(VICTIM), 256) else {
        println!("SKIPPED: this system permits no mount; the test with a limit on file sizes stands for it");
        return;
    };
    println!("on a memory file system of 256 MiB");
    let wrapper = disk.wrapper();
    let load = under_load(&mut cluster, &wrapper).await;
    disk.fill_but(1);
    ends_with(&mut cluster, "No space left on device").await;
    disk.make_room();
    others_go_on_and_it_returns(&mut cluster, load, &wrapper).await;
}

/// Needs no privilege: a limit on the size of its files makes the kernel refuse a node's writes, and send SIGXFSZ, of
/// which the node must not die.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_files_may_not_grow_stops_and_says_so_and_returns_without_the_limit() {
    let mut cluster = Cluster::prepare(BINARY, "four-validators.toml", Options::default()).await;
    let load = under_load(&mut cluster, &[]).await;
    let pid = cluster.pid(VICTIM).to_string();
    let limited = Command::new("prlimit").args(["--pid", &pid, FILE_LIMIT]).status().unwrap();
    assert!(limited.success(), "prlimit");
    ends_with(&mut cluster, "File too large").await;
    others_go_on_and_it_returns(&mut cluster, load, &[]).await;
}
