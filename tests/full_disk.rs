//! A node whose disk is full or read-only: it stops in order, says so to everybody who asks, and goes on by itself where it
//! was once there is room; the others commit on meanwhile. One whose files may not grow ends, since no room lifts that.
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
const SMALL_DISK_MIB: u32 = 256;
/// Small segments, so that a small disk has room for more than one.
const NEEDED: u64 = 48 << 20;

/// A node waits for 48 MiB; segments of the log are of 8.
fn small() -> Options {
    let replace = vec![("segment_mib = 64", "segment_mib = 8"), ("resume_free_mib = 256", "resume_free_mib = 48")];
    Options { replace, ..Options::default() }
}

/// Mounts a small disk over a node's folder; none, with the reason printed, where that is not permitted.
fn small_disk(cluster: &Cluster, node: usize) -> Option<SmallDisk> {
    let disk = SmallDisk::mount(&cluster.node_dir(node), SMALL_DISK_MIB);
    if disk.is_none() {
        println!("SKIPPED: this system permits no mount; how a node waits for room is not tested here");
    }
    disk
}

/// What the log must not hold: a full disk is no damage.
fn is_no_damage(cluster: &Cluster, node: usize) {
    let log = cluster.log(node);
    for words in ["panicked at", "store_damaged", "store_set_aside"] {
        assert!(!log.contains(words), "a full disk is no damage: {words} in\n{log}");
    }
}

/// The node has ended by itself and in order: its exit code and its last line say why.
async fn ends_with(cluster: &mut Cluster, node: usize, reasons: &[&str]) {
    let deadline = tokio::time::Instant::now() + WITHIN;
    let code = loop {
        if let Some(code) = cluster.exited(node) {
            break code;
        }
        assert!(tokio::time::Instant::now() < deadline, "the node goes on:\n{}", cluster.last_line(node));
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let last = cluster.last_line(node);
    println!("the last line: {last}");
    assert_eq!(code, FAILED, "a clean end, by no signal: {last}");
    let own = cluster.node_dir(node).display().to_string();
    for words in [own.as_str()].iter().chain(reasons) {
        assert!(last.contains(words), "the last line should say {words:?}: {last}");
    }
    is_no_damage(cluster, node);
}

/// The node runs and answers everybody with the reason why it serves nothing; its metrics say so, too.
async fn waits_for_room(cluster: &mut Cluster, node: usize, reason: &str) {
    let client = cluster.client(node);
    for path in ["/health", "/ready", "/consensus/status"] {
        let answer = eventually(&format!("{path} says that the node waits for room"), WITHIN, || async {
            Some(client.get(path).await).filter(|answer| answer.body["code"] == "no_room")
        })
        .await;
        println!("{path}: {}", answer.body);
        answer.is_problem(503, "no_room", path);
        assert!(answer.retry_after.is_some_and(|seconds| seconds > 0), "{path}");
        assert!(answer.body["detail"].as_str().unwrap().contains(reason), "{reason} in {}", answer.body);
        assert_eq!(answer.body["path"], cluster.node_dir(node).display().to_string());
        assert_eq!(answer.body["neededBytes"], NEEDED);
        assert!(answer.body["freeBytes"].is_u64(), "{}", answer.body);
    }
    assert!(client.metric("node_waiting_for_room", &[]).await > 0.0);
    assert_eq!(cluster.exited(node), None, "the process lives");
    is_no_damage(cluster, node);
}

/// Everybody else commits on. Returns a height that was not reached before.
async fn others_go_on(cluster: &Cluster) -> u64 {
    let height = cluster.client(0).height().await.unwrap();
    cluster.wait_above(0, height + 5, WITHIN).await
}

/// The victim is back or comes back: it catches up to above this height, and whatever was reported committed is known to it.
async fn it_returns(cluster: &mut Cluster, load: Load, height: u64) {
    cluster.wait_ready([VICTIM]).await;
    let reported = load.committed();
    load.stop().await;
    assert!(cluster.wait_equal(&[0, 1, 2, VICTIM], WITHIN).await >= height);
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
async fn a_node_on_a_full_disk_says_so_and_returns_by_itself_once_there_is_room() {
    let mut cluster = Cluster::prepare(BINARY, "four-validators.toml", small()).await;
    let Some(disk) = small_disk(&cluster, VICTIM) else { return };
    let load = under_load(&mut cluster, &disk.wrapper()).await;
    let pid = cluster.pid(VICTIM);
    disk.fill_but(1);
    waits_for_room(&mut cluster, VICTIM, "No space left on device").await;
    let height = others_go_on(&cluster).await;
    disk.make_room();
    it_returns(&mut cluster, load, height).await;
    assert_eq!((cluster.pid(VICTIM), cluster.exited(VICTIM)), (pid, None), "nobody has started it");
    assert_eq!(cluster.stop(VICTIM), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_full_or_read_only_disk_waits_for_room_or_ends_and_opens_nothing() {
    const NODE: usize = 0;
    let mut cluster = Cluster::prepare(BINARY, "single-validator.toml", small()).await;
    let Some(disk) = small_disk(&cluster, NODE) else { return };
    let wrapper = disk.wrapper();
    cluster.launch_under(&wrapper, NODE, true);
    cluster.wait_ready([NODE]).await;
    let height = cluster.wait_above(NODE, 1, WITHIN).await;
    let block = cluster.client(NODE).block(height).await;
    assert_eq!(cluster.stop(NODE), Some(0));

    disk.fill_but(1);
    cluster.launch_under(&wrapper, NODE, false);
    waits_for_room(&mut cluster, NODE, "no room in ").await;
    assert_eq!(cluster.stop(NODE), Some(0), "it ends in order while it waits");

    disk.make_room();
    disk.read_only(true);
    cluster.launch_under(&wrapper, NODE, false);
    waits_for_room(&mut cluster, NODE, "Read-only file system").await;
    disk.read_only(false);
    cluster.wait_ready([NODE]).await;
    assert_eq!((cluster.client(NODE).block(height).await, block.is_some()), (block, true), "the chain is the same");
    assert_eq!(cluster.stop(NODE), Some(0));

    let text = std::fs::read_to_string(cluster.config_file(NODE)).unwrap();
    std::fs::write(cluster.config_file(NODE), text.replace("on_full = \"wait\"", "on_full = \"stop\"")).unwrap();
    disk.fill_but(1);
    cluster.launch_under(&wrapper, NODE, false);
    ends_with(&mut cluster, NODE, &["error: node v1: no room in ", "are needed"]).await;
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
    ends_with(&mut cluster, VICTIM, &["error: node v4 ends: ", "File too large"]).await;
    let height = others_go_on(&cluster).await;
    cluster.launch(VICTIM, false);
    it_returns(&mut cluster, load, height).await;
}
