//! Epochs of a few seconds, under load: no commit is lost, nobody waits long, all agree; a node that was away over the end
//! of epochs follows, and proofs lead from the genesis' validators over all of them.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::Duration;

use aurigraph_testkit::{Cluster, Load, Options, eventually};

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
const WITHIN: Duration = Duration::from_secs(60);
/// The longest time between two ledger blocks under load: the closing phase and the first rounds of an epoch, on a machine
/// that does other things too.
const LONGEST_PAUSE_MS: u64 = 3_000;

const HEAD: &str = "# One table a node.\n";
const WITH_EPOCHS: &str = "[genesis.parameters]\nepoch_ms = 4000\n\n# One table a node.\n";
/// The same with a fifth node, which follows and may become a validator.
const WITH_CANDIDATE: &str = "[genesis.parameters]\nepoch_ms = 4000\n\n[[node]]\nname = \"v5\"\nvalidator = false\n\
                              candidate = true\nrest = \"127.0.0.1:9043\"\nlisten = \"127.0.0.1:9044\"\n";

async fn epoch(cluster: &Cluster, node: usize) -> Option<u64> {
    cluster.client(node).get("/consensus/status").await.body["epoch"].as_u64()
}

async fn wait_epoch(cluster: &Cluster, nodes: &[usize], at_least: u64) {
    for node in nodes {
        let what = format!("{} is in epoch {at_least}", cluster.name(*node));
        eventually(&what, WITHIN, || async { epoch(cluster, *node).await.filter(|found| *found >= at_least) }).await;
    }
}

/// The longest time between two blocks, in milliseconds of commit time.
async fn longest_pause(cluster: &Cluster, from: u64, to: u64) -> u64 {
    let client = cluster.client(0);
    let mut times = Vec::new();
    for height in from..=to {
        let block = client.read(&format!("/blockchain/blocks/{height}")).await;
        times.push(block["timestampMs"].as_u64().or_else(|| parse_ms(&block["timestamp"])).unwrap());
    }
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

fn parse_ms(value: &serde_json::Value) -> Option<u64> {
    if let Some(number) = value.as_u64() {
        return Some(number);
    }
    let text = value.as_str()?;
    let seconds_of_day = |text: &str| -> Option<f64> {
        let mut parts = text.trim_end_matches('Z').split(':');
        let (h, m, s) = (parts.next()?, parts.next()?, parts.next()?);
        Some(h.parse::<f64>().ok()? * 3_600.0 + m.parse::<f64>().ok()? * 60.0 + s.parse::<f64>().ok()?)
    };
    let (date, time) = text.split_once('T')?;
    let day: u64 = date.rsplit('-').next()?.parse().ok()?;
    Some(day * 86_400_000 + (seconds_of_day(time)? * 1_000.0).round() as u64)
}

/// A transaction's proof from one node, verified against the genesis alone.
fn prove(cluster: &Cluster, node: usize, hash: &str) -> String {
    let file = cluster.data_dir().join(format!("{hash}.json"));
    let fetched = Command::new(BINARY)
        .args(["proof", "tx", hash, "--url", cluster.client(node).base(), "--out"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    let verified = Command::new(BINARY)
        .args(["proof", "verify", "--json"])
        .arg(&file)
        .arg("--genesis")
        .arg(cluster.config_file(node))
        .output()
        .unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    String::from_utf8(verified.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn epochs_change_under_load_and_a_node_that_was_away_over_their_ends_follows() {
    let options = Options { replace: vec![(HEAD, WITH_CANDIDATE)], ..Options::default() };
    let mut cluster = Cluster::start(BINARY, "four-validators.toml", options).await;
    // The tables of the config are in the order of their lines: the candidate is the first.
    let (candidate, validators) = (0, [1, 2, 3, 4]);
    let clients: Vec<_> = validators.iter().map(|node| cluster.client(*node)).collect();
    let load = Load::start(cluster.wallets(6), &clients[..3]);
    wait_epoch(&cluster, &validators, 2).await;
    let quiet = cluster.client(1).height().await.unwrap();
    cluster.kill(4);
    let away_since = epoch(&cluster, 1).await.unwrap();
    wait_epoch(&cluster, &[1, 2, 3], away_since + 2).await;
    cluster.restart(4).await;
    wait_epoch(&cluster, &validators, away_since + 3).await;
    wait_epoch(&cluster, &[candidate], away_since + 3).await;
    let reported = load.committed();
    load.stop().await;
    let height = cluster.wait_equal(&[0, 1, 2, 3, 4], WITHIN).await;
    let pause = longest_pause(&cluster, 2, quiet).await;
    println!("{height} blocks, {} transactions, the longest pause over two ends of epochs {pause} ms", reported.len());
    assert!(pause <= LONGEST_PAUSE_MS, "{pause} ms without a block");
    for hash in &reported {
        for client in [&clients[0], &clients[3]] {
            let what = format!("{hash} is committed at {}", client.base());
            eventually(&what, WITHIN, || async {
                let body = client.get(&format!("/blockchain/transactions/{hash}")).await.body;
                (body["status"] == "confirmed" || body["status"] == "committed" || !body["blockHeight"].is_null())
                    .then_some(())
            })
            .await;
        }
    }
    let shown = prove(&cluster, 1, reported.last().unwrap());
    assert!(shown.contains("\"final\""), "{shown}");
    for node in validators {
        let signing = &cluster.client(node).read("/consensus/status").await["signing"]["state"];
        assert_eq!(signing, "signing", "{}", cluster.name(node));
        assert!(!cluster.log(node).contains("consensus alarm"), "{}", cluster.log(node));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_killed_as_a_whole_goes_on_in_its_epoch() {
    let options = Options { replace: vec![(HEAD, WITH_EPOCHS)], ..Options::default() };
    let mut cluster = Cluster::start(BINARY, "four-validators.toml", options).await;
    let load = Load::start(cluster.wallets(4), &cluster.clients());
    wait_epoch(&cluster, &[0, 1, 2, 3], 1).await;
    (0..4).for_each(|node| cluster.kill(node));
    load.stop().await;
    (0..4).for_each(|node| cluster.launch(node, false));
    cluster.wait_ready(0..4).await;
    let load = Load::start(cluster.wallets(8).split_off(4), &cluster.clients());
    wait_epoch(&cluster, &[0, 1, 2, 3], 3).await;
    load.stop().await;
    cluster.wait_equal(&[0, 1, 2, 3], WITHIN).await;
}
