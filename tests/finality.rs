//! A proof that stands alone: made by a cluster, verified where there is none, with the genesis and nothing else.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use aurigraph_testkit::{Cluster, Options};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");

/// Runs the program in a folder: did it succeed, and what did it say?
fn aurigraph(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(BINARY).args(arguments).current_dir(folder).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

fn read(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// The last hex digit of a text is another one.
fn flip(value: &mut Value) {
    let mut text = value.as_str().unwrap().to_owned();
    let last = text.pop().unwrap();
    text.push(if last == '0' { '1' } else { '0' });
    *value = text.into();
}

/// At one commit all nodes name the same leader schedule.
async fn schedules_agree(cluster: &Cluster) {
    let mut seen = vec![BTreeMap::new(); cluster.len()];
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        for (node, seen) in seen.iter_mut().enumerate() {
            let status = cluster.client(node).read("/consensus/status").await;
            let digest = status["schedule"]["digest"].as_str().unwrap().to_owned();
            seen.insert(status["lastCommitIndex"].as_u64().unwrap(), digest);
        }
        let everywhere = seen[0].iter().find(|(commit, _)| seen.iter().all(|other| other.contains_key(commit)));
        if let Some((commit, digest)) = everywhere {
            assert!(seen.iter().all(|other| other[commit] == *digest), "at commit {commit}: {seen:?}");
            return;
        }
        assert!(Instant::now() < deadline, "no commit was seen at all nodes: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_and_an_account_are_proved_offline_from_the_genesis_alone() {
    let mut cluster = Cluster::start(BINARY, "four-validators.toml", Options::default()).await;
    let transaction = cluster.wallets(1)[0].transfers([(7, 5)]);
    let answer = cluster.client(0).post_bytes("/blockchain/transactions", transaction.shared_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let elsewhere = tempfile::tempdir().unwrap();
    let at = elsewhere.path();
    let url = cluster.client(2).base().to_owned();
    let address = cluster.config.genesis.accounts[0].address.to_string();
    let id = transaction.id().to_string();
    for (kind, of, file) in [("tx", &id, "tx.json"), ("account", &address, "account.json")] {
        let (code, text) = aurigraph(at, &["proof", kind, of, "--out", file, "--url", &url]);
        assert_eq!(code, Some(0), "{text}");
    }
    let status = cluster.client(1).read("/consensus/status").await;
    assert!(status["certifiedSequence"].as_u64().unwrap() >= 1, "{status}");
    assert_eq!((&status["certificateStake"], &status["quorumStake"]), (&json!("3"), &json!("3")));
    assert_eq!(status["divergence"], Value::Null);
    let certified = cluster.client(3).read("/consensus/checkpoints/latest").await;
    assert_eq!(certified["certificate"]["cores"].as_array().unwrap().len(), 3, "{certified}");

    // A restart still serves the certificates from before it.
    let seq = status["certifiedSequence"].as_u64().unwrap();
    let before = cluster.client(1).read(&format!("/consensus/checkpoints/{seq}")).await;
    assert_eq!(cluster.stop(1), Some(0));
    cluster.restart(1).await;
    // It proves accounts from its next checkpoint on: the program waits for that.
    let url = cluster.client(1).base().to_owned();
    let (code, text) = aurigraph(at, &["proof", "account", &address, "--out", "again.json", "--url", &url]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(cluster.client(1).read(&format!("/consensus/checkpoints/{seq}")).await, before);
    schedules_agree(&cluster).await;

    let genesis = cluster.config.genesis.genesis().clone();
    drop(cluster);
    std::fs::write(at.join("genesis.toml"), toml::to_string(&genesis).unwrap()).unwrap();
    for file in ["tx.json", "account.json", "again.json"] {
        let (code, text) = aurigraph(at, &["--json", "proof", "verify", file, "--genesis", "genesis.toml"]);
        assert_eq!(code, Some(0), "{text}");
        let shown: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&shown["final"], &shown["attestedStake"], &shown["totalStake"]),
            (&json!(true), &json!("3"), &json!("4"))
        );
    }
    tampered(at, &genesis);
}

/// Each change is refused, with its own words.
fn tampered(at: &Path, genesis: &aurigraph_ledger::Genesis) {
    let (tx, account) = (read(&at.join("tx.json")), read(&at.join("account.json")));
    let mut other = genesis.clone();
    other.network = "another".to_owned();
    std::fs::write(at.join("other.toml"), toml::to_string(&other).unwrap()).unwrap();
    let refused = |file: &Value, genesis: &str, words: &str| {
        std::fs::write(at.join("bad.json"), file.to_string()).unwrap();
        let (code, text) = aurigraph(at, &["proof", "verify", "bad.json", "--genesis", genesis]);
        assert_eq!(code, Some(7), "{words}: {text}");
        assert!(text.contains(words), "should say {words:?}: {text}");
    };
    refused(&tx, "other.toml", "is of chain");
    let change = |file: &Value, path: &str, change: &dyn Fn(&mut Value), words: &str| {
        let mut file = file.clone();
        change(file.pointer_mut(path).unwrap());
        refused(&file, "genesis.toml", words);
    };
    change(&tx, "/hash", &flip, "does not lead to the transactions root");
    change(&tx, "/blockHeight", &|height| *height = json!(999_999), "another block");
    change(&tx, "/finality/certificate/0", &flip, "signature of validator");
    change(&tx, "/finality/certificate", &|cores| drop(cores.as_array_mut().unwrap().pop()), "stake 2 of 4");
    let twice = |cores: &mut Value| {
        let cores = cores.as_array_mut().unwrap();
        cores[1] = cores[0].clone();
    };
    change(&tx, "/finality/certificate", &twice, "signs twice");
    change(&tx, "/finality/checkpoints/0", &|header| *header = json!("0x00"), "does not decode");
    let gone = |headers: &mut Value| headers.as_array_mut().unwrap().clear();
    change(&tx, "/finality/headers", &gone, "0 headers");
    change(&account, "/address", &flip, "not of");
    change(&account, "/stateRoot", &flip, "names state root");
    let again = |headers: &mut Value| {
        let headers = headers.as_array_mut().unwrap();
        headers.push(headers[0].clone());
    };
    change(&account, "/finality/headers", &again, "does not follow header");
    let mut old = tx.clone();
    old.as_object_mut().unwrap().remove("finality");
    old.as_object_mut().unwrap().remove("version");
    refused(&old, "genesis.toml", "no certificate");
    let root = tx["proof"]["blockHash"].as_str().unwrap();
    std::fs::write(at.join("old.json"), old.to_string()).unwrap();
    assert_eq!(aurigraph(at, &["proof", "verify", "old.json", "--root", root]).0, Some(0), "the first form is read");
    // Against nothing that is trusted it says so, whatever the certificate holds.
    let mut invented = tx.clone();
    invented["finality"]["certificate"] = json!([]);
    std::fs::write(at.join("bad.json"), invented.to_string()).unwrap();
    let (_, text) = aurigraph(at, &["--json", "proof", "verify", "bad.json"]);
    let shown: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&shown["final"], &shown["rootTrusted"]), (&json!(false), &json!(false)), "{shown}");
    assert!(shown["checkedAgainst"].as_str().unwrap().contains("give --genesis"), "{shown}");
}
