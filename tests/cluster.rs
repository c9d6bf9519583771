//! A whole cluster agrees: what is sent to different nodes is committed once, everywhere the same, and can be proved.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use aurigraph_ledger::transaction::Transaction;
use aurigraph_testkit::wallet::framed;
use aurigraph_testkit::{Cluster, Options, eventually};

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
const SENDERS: u32 = 16;
/// Recipients stand behind the senders.
const FIRST_RECIPIENT: u32 = 100;
const RECIPIENTS: u32 = 50;
const SINGLES: usize = 1_000;
const BUNDLES: usize = 10;
const BUNDLED: u32 = 100;

async fn balance(client: &aurigraph_testkit::Client, address: &aurigraph_ledger::Address) -> (u128, u64) {
    let body = client.read(&format!("/gateway/balance/{address}")).await;
    (body["balance"].as_str().unwrap().parse().unwrap(), body["nonceBase"].as_u64().unwrap())
}

/// 1,000 transfers alone and 1,000 in bundles; how much each recipient gets and each sender gives.
fn two_thousand_transfers(cluster: &Cluster) -> (Vec<Transaction>, HashMap<u32, u128>, u128) {
    let mut wallets = cluster.wallets(SENDERS);
    let (mut transactions, mut received, mut sent) = (Vec::new(), HashMap::new(), 0);
    let mut next = |at: u32| {
        let (to, amount) = (FIRST_RECIPIENT + at % RECIPIENTS, u128::from(1 + at));
        *received.entry(to).or_insert(0) += amount;
        sent += amount;
        (to, amount)
    };
    for at in 0..SINGLES {
        let transfer = next(u32::try_from(at).unwrap());
        transactions.push(wallets[at % SENDERS as usize].transfers([transfer]));
    }
    for at in 0..BUNDLES {
        let transfers: Vec<_> = (0..BUNDLED).map(&mut next).collect();
        transactions.push(wallets[at % SENDERS as usize].transfers(transfers));
    }
    (transactions, received, sent)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_transfers_commit_once_each_and_all_nodes_agree() {
    let cluster = Cluster::start(BINARY, "four-validators.toml", Options::default()).await;
    let clients = cluster.clients();
    let (transactions, received, sent) = two_thousand_transfers(&cluster);
    for (at, chunk) in transactions.chunks(40).enumerate() {
        // Every chunk goes to two nodes: the second copy must change nothing.
        for client in [&clients[at % 4], &clients[(at + 1) % 4]] {
            let answer = client.post_bytes("/blockchain/transactions/batch?wait=accepted", framed(chunk)).await;
            assert!(matches!(answer.status, 200 | 202), "{}: {}", answer.status, answer.body);
        }
    }
    let expected: u64 = transactions.len() as u64;
    for client in &clients {
        eventually("all transactions are committed", Duration::from_secs(60), || async {
            let done = client.read("/performance").await["transactions"].as_u64()?;
            (done >= expected).then_some(())
        })
        .await;
    }
    let nodes: Vec<_> = (0..4).collect();
    let height = cluster.wait_equal(&nodes, Duration::from_secs(60)).await;

    // Once each: the blocks hold as many transactions as were made.
    let mut included = 0;
    for height in 1..=height {
        let block = clients[0].read(&format!("/blockchain/blocks/{height}")).await;
        included += block["transactionCount"].as_u64().unwrap();
    }
    assert_eq!(included, expected);
    balances_add_up(&cluster, &received, sent).await;
    proofs_hold_offline(&cluster, &transactions);
}

/// What recipients gained and the fee pool is what senders lost, on every node.
async fn balances_add_up(cluster: &Cluster, received: &HashMap<u32, u128>, sent: u128) {
    let genesis = &cluster.config.genesis;
    for client in cluster.clients() {
        let mut lost = 0;
        for account in &genesis.accounts[..SENDERS as usize] {
            let (now, nonce) = balance(&client, &account.address).await;
            lost += account.balance - now;
            assert!(nonce >= 62, "every sender has sent: {nonce}");
        }
        for (index, gained) in received {
            let account = &genesis.accounts[*index as usize];
            assert_eq!(balance(&client, &account.address).await.0, account.balance + gained);
        }
        let stats = client.read("/blockchain/stats").await;
        let fees: u128 = stats["feePool"].as_str().unwrap().parse().unwrap();
        assert_eq!(lost, sent + fees);
        let supply: u128 = stats["totalSupply"].as_str().unwrap().parse().unwrap();
        assert_eq!(supply, genesis.supply());
    }
}

fn aurigraph(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(BINARY).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Proofs fetched from one node hold under the block hash that another node reports, with no node involved.
fn proofs_hold_offline(cluster: &Cluster, transactions: &[Transaction]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("proof.json");
    let file = file.to_str().unwrap();
    let url = cluster.client(1).base().to_owned();
    for transaction in [&transactions[0], &transactions[500], transactions.last().unwrap()] {
        let id = transaction.id().to_string();
        let (done, text) = aurigraph(&["proof", "tx", &id, "--out", file, "--url", &url]);
        assert!(done, "{text}");
        let proof: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let root = proof["proof"]["blockHash"].as_str().unwrap();
        let (holds, text) = aurigraph(&["proof", "verify", file, "--root", root]);
        assert!(holds, "{text}");
        let (holds, _) = aurigraph(&["proof", "verify", file, "--root", &format!("0x{}", "00".repeat(32))]);
        assert!(!holds, "a proof must not hold under another root");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_validator_commits_and_its_chain_verifies_on_disk() {
    let mut cluster = Cluster::start(BINARY, "single-validator.toml", Options::default()).await;
    let transaction = cluster.wallets(1)[0].transfers([(7, 5)]);
    let answer = cluster.client(0).post_bytes("/blockchain/transactions", transaction.shared_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(cluster.stop(0), Some(0));
    let dir = cluster.node_dir(0);
    let verify = ["chain", "verify", "--json", "--config", cluster.config_file(0).to_str().unwrap(), "--data-dir"];
    let (holds, text) = aurigraph(&[&verify[..], &[dir.to_str().unwrap()]].concat());
    assert!(holds, "{text}");
    assert!(text.contains("\"transactions\":1"), "{text}");

    // One flipped byte in the middle of the journal is found.
    let segment = std::fs::read_dir(dir.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    // Segments are allocated ahead: what counts is where their records end.
    let at = bytes.iter().rposition(|byte| *byte != 0).unwrap() / 3;
    bytes[at] ^= 0x10;
    std::fs::write(&segment, bytes).unwrap();
    let (holds, text) = aurigraph(&[&verify[..], &[dir.to_str().unwrap()]].concat());
    assert!(!holds, "a flipped byte went unnoticed: {text}");
}
