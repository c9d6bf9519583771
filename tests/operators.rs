//! What operators do with their validators, by the command line and on processes: absences that are announced and others
//! that are not, the way back out of jail, new keys.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use aurigraph_testkit::{Client, Cluster, Load, Options, eventually};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
/// A test build on two shared cores that do other things, too.
const WITHIN: Duration = Duration::from_secs(120);

const HEAD: &str = "# One table a node.\n";
/// Who is absent for three windows of 15 commits is found down; an epoch has room for that.
const HASTY: &str = "[genesis.parameters]\nschedule_window = 15\nepoch_commits = 70\n[genesis.parameters.staking]\n\
                     maintenance_notice_ms = 1\njail_epochs = 0\n\n# One table a node.\n";
const FOUND_DOWN_AFTER: u64 = 3 * 15;
const SHORT_EPOCHS: &str = "[genesis.parameters]\nepoch_commits = 40\n\n# One table a node.\n";

/// `aurigraph stake <command>` for a validator, by its operator, at the first node.
fn stake(cluster: &Cluster, command: &str, validator: usize, more: &[&str]) {
    let key = cluster.account_key(validator);
    let name = cluster.name(validator);
    let start = ["stake", command, "--key", key.to_str().unwrap(), "--validator", name, "--wait", "--url"];
    let client = cluster.client(0);
    let sent = cluster.aurigraph(&[&start[..], &[client.base()], more].concat());
    assert_eq!(sent["status"], "committed", "{sent}");
}

async fn number(client: &Client, field: &str) -> u64 {
    let body = client.get("/consensus/status").await.body;
    body[field].as_u64().unwrap_or_default()
}

async fn wait_number(cluster: &Cluster, node: usize, field: &str, at_least: u64) {
    let (client, what) = (cluster.client(node), format!("{field} of {} is {at_least}", cluster.name(node)));
    eventually(&what, WITHIN, || async { (number(&client, field).await >= at_least).then_some(()) }).await;
}

/// What a node says of a validator, once it is so.
async fn validator(cluster: &Cluster, node: usize, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let client = cluster.client(node);
    let what = format!("{} says that {name} {what}", cluster.name(node));
    eventually(&what, WITHIN, || async {
        let answer = client.get(&format!("/validators/{name}")).await;
        (answer.status == 200 && holds(&answer.body)).then_some(answer.body)
    })
    .await
}

async fn signs(cluster: &Cluster, node: usize) {
    let client = cluster.client(node);
    let what = format!("{} signs", cluster.name(node));
    eventually(&what, WITHIN, || async {
        (client.get("/consensus/status").await.body["signing"]["state"] == "signing").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absence_that_was_announced_costs_nothing_and_another_one_a_stay_in_jail() {
    let options = Options { replace: vec![(HEAD, HASTY)], ..Options::default() };
    let mut cluster = Cluster::start(BINARY, "four-validators.toml", options).await;
    let (third, fourth, stayers) = (2, 3, [0, 1]);
    let load = Load::start(cluster.wallets(14).split_off(10), &[cluster.client(0), cluster.client(1)]);

    stake(&cluster, "maintenance", fourth, &["--minutes", "30"]);
    cluster.kill(fourth);
    let since = number(&cluster.client(0), "lastCommitIndex").await;
    // It is absent for so long in one epoch, whenever that began.
    wait_number(&cluster, 0, "lastCommitIndex", since + 2 * FOUND_DOWN_AFTER + 15).await;
    for node in stayers {
        let absent = validator(&cluster, node, "v4", "is known", |_| true).await;
        assert!(absent["status"] != "jailed" && absent["slashingEvents"] == 0, "{absent}");
        assert!(absent["index"].is_u64(), "it is of the set: {absent}");
        // Its absence shows, from the commits: all nodes say the same.
        let missed = |view: &Value| view["missedBlocks"].as_u64() > Some(0) && view["uptime"].is_f64();
        validator(&cluster, node, "v4", "missed blocks", missed).await;
        let present = validator(&cluster, node, "v1", "takes part", |view| view["uptime"].as_f64() > Some(50.0)).await;
        assert!(present["blocksProduced"].as_u64() > Some(0), "{present}");
    }
    cluster.restart(fourth).await;
    signs(&cluster, fourth).await;

    cluster.kill(third);
    for node in [0, 1, 3] {
        let jailed = validator(&cluster, node, "v3", "is jailed", |view| view["status"] == "jailed").await;
        let event = &jailed["recentSlashingEvents"][0];
        assert_eq!((&event["reason"], &event["amount"]), (&"downtime".into(), &"0".into()), "{jailed}");
        assert_eq!(jailed["removed"], false, "{jailed}");
    }
    // Out of the next set, whose three go on by themselves; it follows them.
    let mut shown = Vec::new();
    for node in [0, 1, 3] {
        let out = validator(&cluster, node, "v3", "is not of the set", |view| view["index"].is_null()).await;
        // The next set is known before its epoch begins: until then rounds are counted.
        let last = out["recentSlashingEvents"][0]["epoch"].as_u64().unwrap();
        wait_number(&cluster, node, "epoch", last + 1).await;
        let out = validator(&cluster, node, "v3", "is known", |_| true).await;
        // What it did in the last epoch that it validated is still told, and by all alike.
        assert!(out["uptime"].as_f64().is_some_and(|uptime| uptime < 100.0), "{out}");
        assert_eq!(out["uptimeEpoch"], out["recentSlashingEvents"][0]["epoch"], "{out}");
        shown.push(["uptime", "uptimeEpoch", "blocksProduced", "missedBlocks"].map(|field| out[field].clone()));
    }
    assert!(shown.iter().all(|one| *one == shown[0]), "{shown:?}");
    cluster.restart(third).await;
    let client = cluster.client(third);
    eventually("v3 observes", WITHIN, || async {
        (client.get("/consensus/status").await.body["mode"] == "observer").then_some(())
    })
    .await;
    stake(&cluster, "unjail", third, &[]);
    signs(&cluster, third).await;
    for node in [0, 1, 3] {
        let back = |view: &Value| view["status"] == "active" && view["index"].is_u64();
        validator(&cluster, node, "v3", "is back", back).await;
    }
    load.stop().await;
    cluster.wait_equal_tip(&[0, 1, 2, 3], WITHIN).await;
    let spared = validator(&cluster, 0, "v4", "is known", |_| true).await;
    assert_eq!(spared["slashingEvents"], 0, "{spared}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_goes_on_under_new_keys_once_they_are_in_force_and_not_before() {
    let options = Options { replace: vec![(HEAD, SHORT_EPOCHS)], ..Options::default() };
    let mut cluster = Cluster::start(BINARY, "four-validators.toml", options).await;
    let second = 1;
    let load = Load::start(cluster.wallets(14).split_off(10), &[cluster.client(0), cluster.client(2)]);
    let keys = cluster.data_dir().join("new.key.json");
    let _ = cluster.aurigraph(&["keys", "new", "node", "--name", "v2", "--out", keys.to_str().unwrap()]);
    let before = std::fs::read_to_string(cluster.config_file(second)).unwrap();
    let table = "name = \"v2\"\n";
    let rotated = before.replace(table, &format!("{table}rotated = true\nsecrets = \"{}\"\n", keys.display()));
    assert_ne!(rotated, before);

    // Nobody knows of the new keys yet.
    assert_eq!(cluster.stop(second), Some(0));
    std::fs::write(cluster.config_file(second), &rotated).unwrap();
    cluster.launch(second, false);
    let what = "the start is refused";
    let refused = std::time::Instant::now();
    while cluster.exited(second).is_none() {
        assert!(refused.elapsed() < WITHIN, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let line = cluster.last_line(second);
    assert!(line.contains("names the new one in no validator set"), "{line}");
    std::fs::write(cluster.config_file(second), &before).unwrap();
    cluster.restart(second).await;
    signs(&cluster, second).await;

    stake(&cluster, "rotate", second, &["--node-keys", keys.to_str().unwrap()]);
    let epoch = number(&cluster.client(0), "epoch").await;
    // Under its old keys it follows into the next epoch, and signs nothing there.
    wait_number(&cluster, second, "epoch", epoch + 1).await;
    let client = cluster.client(second);
    eventually("v2 observes", WITHIN, || async {
        (client.get("/consensus/status").await.body["mode"] == "observer").then_some(())
    })
    .await;
    assert_eq!(cluster.stop(second), Some(0));
    std::fs::write(cluster.config_file(second), &rotated).unwrap();
    cluster.restart(second).await;
    signs(&cluster, second).await;
    // From the epoch after on the old network key opens nothing; restarts find the new one, too.
    let now = number(&cluster.client(0), "epoch").await;
    wait_number(&cluster, second, "epoch", now + 2).await;
    assert_eq!(cluster.stop(second), Some(0));
    cluster.restart(second).await;
    signs(&cluster, second).await;
    let present = validator(&cluster, 0, "v2", "takes part", |view| view["status"] == "active").await;
    assert_eq!(present["slashingEvents"], 0, "{present}");
    load.stop().await;
    cluster.wait_equal_tip(&[0, 1, 2, 3], WITHIN).await;
    for node in 0..4 {
        assert!(!cluster.log(node).contains("consensus alarm"), "{}", cluster.log(node));
    }
}
