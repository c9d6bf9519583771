//! Every actor and every supervisor of a live node is killed in every way, under load: service is back within seconds,
//! nothing committed is lost or doubled, and the restart can be seen.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aurigraph_testkit::{Client, Cluster, Load, Options, eventually};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
const MODES: [&str; 5] = ["kill", "panic", "error", "stop", "abort"];
/// The contract says two seconds; the rest is for a test build on a machine that is shared.
const BACK_WITHIN: Duration = Duration::from_secs(10);

async fn rows(client: &Client) -> Option<Vec<Value>> {
    client.get("/system/actors").await.body["actors"].as_array().cloned()
}

async fn row(client: &Client, name: &str) -> Option<Value> {
    rows(client).await?.into_iter().find(|row| row["name"] == name)
}

fn encoded(name: &str) -> String {
    name.replace('/', "%2F")
}

/// Kills one actor and waits until it runs again. Returns how long that took.
async fn kill_and_heal(client: &Client, token: &str, name: &str, mode: &str) -> Duration {
    // An earlier kill elsewhere may still be restarting it.
    let before = eventually(&format!("{name} runs before it is killed"), BACK_WITHIN, || async {
        row(client, name).await.filter(|row| row["state"] == "running")
    })
    .await;
    let restarts = before["restarts"].as_u64().unwrap();
    let path = format!("/system/actors/{}/kill", encoded(name));
    let began = Instant::now();
    eventually(&format!("{name} is killed ({mode})"), BACK_WITHIN, || async {
        let answer = client.post(&path, Some(token), &json!({ "mode": mode })).await;
        assert!(matches!(answer.status, 0 | 200 | 202 | 409 | 503 | 504), "{name} {mode}: {}", answer.body);
        matches!(answer.status, 200 | 202 | 0).then_some(())
    })
    .await;
    eventually(&format!("{name} runs again after {mode}"), BACK_WITHIN, || async {
        let row = row(client, name).await?;
        (row["state"] == "running" && row["restarts"].as_u64()? > restarts).then_some(())
    })
    .await;
    began.elapsed()
}

/// One way for one actor to die.
struct Death {
    name: String,
    parent: String,
    mode: &'static str,
}

/// By mode first, so that one actor's deaths are spread over the test.
fn every_death(rows: &[Value]) -> Vec<Death> {
    // The root's end is the process's end: that is another test.
    let children = || rows.iter().filter_map(|row| Some((row["name"].as_str()?, row["parent"].as_str()?)));
    let of = |mode| children().map(move |(name, parent)| Death { name: name.into(), parent: parent.into(), mode });
    MODES.into_iter().flat_map(of).collect()
}

/// Deaths under each supervisor: its budget is there for accidents, and this test is more than that.
#[derive(Default)]
struct Recent(HashMap<String, Vec<Instant>>);

impl Recent {
    /// 20 restarts in 30 s are the budget; some deaths take dependents along.
    fn allows(&self, parent: &str) -> bool {
        let recent = |at: &&Instant| at.elapsed() < Duration::from_secs(31);
        self.0.get(parent).is_none_or(|times| times.iter().filter(recent).count() < 13)
    }

    fn note(&mut self, parent: &str) {
        self.0.entry(parent.to_owned()).or_default().push(Instant::now());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_actor_and_supervisor_heals_from_every_way_to_die() {
    let mut cluster = Cluster::start(BINARY, "four-validators.toml", Options::default()).await;
    let (client, token) = (cluster.client(1), cluster.admin_token());
    let load = Load::start(cluster.wallets(3), &cluster.clients());
    let mut deaths = every_death(&rows(&client).await.unwrap());
    let count = deaths.len();
    assert!(count >= 25 * MODES.len(), "the tree is there: {count} deaths");
    let (mut slowest, mut recent) = ((Duration::ZERO, String::new()), Recent::default());
    while !deaths.is_empty() {
        // The next one whose supervisor can take it; a wait only if none can.
        let Some(at) = deaths.iter().position(|death| recent.allows(&death.parent)) else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let Death { name, parent, mode } = deaths.remove(at);
        recent.note(&parent);
        let took = kill_and_heal(&client, &token, &name, mode).await;
        if took > slowest.0 {
            slowest = (took, format!("{name} {mode}"));
        }
        assert_eq!(cluster.exited(1), None, "{name} {mode} ended the process");
    }
    println!("{count} deaths; the slowest return took {:?} ({})", slowest.0, slowest.1);
    serves_again(&cluster).await;
    let committed = load.committed();
    let wallets = load.stop().await;
    cluster.wait_equal(&[0, 1, 2, 3], Duration::from_secs(30)).await;
    nothing_lost_or_doubled(&cluster, &committed, &wallets).await;
}

/// The node that was killed so often takes a transaction and commits it.
async fn serves_again(cluster: &Cluster) {
    let mut wallet = cluster.wallets(10).pop().unwrap();
    let transaction = wallet.transfers([(300, 1)]);
    eventually("the node commits", Duration::from_secs(10), || async {
        let answer = cluster.client(1).post_bytes("/blockchain/transactions", transaction.shared_bytes()).await;
        matches!(answer.status, 200 | 409).then_some(())
    })
    .await;
}

/// Each load wallet sent one unit per nonce to one account of its own: the account holds exactly one unit a nonce.
async fn nothing_lost_or_doubled(cluster: &Cluster, committed: &[String], wallets: &[aurigraph_testkit::Wallet]) {
    let client = cluster.client(1);
    for hash in committed {
        let body = client.read(&format!("/blockchain/transactions/{hash}")).await;
        assert_eq!(body["status"], "committed", "{hash}");
    }
    for wallet in wallets {
        let sender = client.read(&format!("/gateway/balance/{}", wallet.address)).await;
        let account = &cluster.config.genesis.accounts[200 + wallet.index as usize];
        let target = client.read(&format!("/gateway/balance/{}", account.address)).await;
        let gained = target["balance"].as_str().unwrap().parse::<u128>().unwrap() - account.balance;
        let used = sender["nonceBase"].as_u64().unwrap() + sender["usedNonces"].as_array().unwrap().len() as u64;
        assert_eq!(gained, u128::from(used));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_budget_ends_the_process_with_a_clear_last_line() {
    let mut cluster = Cluster::start(BINARY, "single-validator.toml", Options::default()).await;
    let (client, token) = (cluster.client(0), cluster.admin_token());
    let path = format!("/system/actors/{}/kill", encoded("v1/audit"));
    let deadline = Instant::now() + Duration::from_secs(60);
    let code = loop {
        if let Some(code) = cluster.exited(0) {
            break code;
        }
        assert!(Instant::now() < deadline, "the budget is never used up");
        client.post(&path, Some(&token), &json!({ "mode": "panic" })).await;
    };
    assert_eq!(code, 1);
    let log = cluster.log(0);
    let last = log.lines().last().unwrap();
    assert!(last.contains("v1") && last.contains("audit"), "the last line says why: {last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_needs_the_admin_token_and_a_config_that_allows_it() {
    let options = Options { replace: vec![("enabled = true", "enabled = false")], ..Options::default() };
    let cluster = Cluster::start(BINARY, "single-validator.toml", options).await;
    let (client, path) = (cluster.client(0), format!("/system/actors/{}/kill", encoded("v1/audit")));
    let body = json!({ "mode": "panic" });
    assert_eq!(client.post(&path, None, &body).await.status, 401);
    assert_eq!(client.post(&path, Some("wrong"), &body).await.status, 401);
    assert_eq!(client.post(&path, Some(&cluster.account_token()), &body).await.status, 403);
    let answer = client.post(&path, Some(&cluster.admin_token()), &body).await;
    assert_eq!((answer.status, answer.body["code"].as_str()), (403, Some("chaos_disabled")));
}
