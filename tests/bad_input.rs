//! Bad input at a node's edges: each is refused for its own reason, nothing is lost, and the node goes on committing.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use aurigraph_ledger::transaction::Target;
use aurigraph_ledger::{AccountIndex, Address, Hash};
use aurigraph_testkit::client::Answer;
use aurigraph_testkit::{Client, Cluster, Options, Wallet, eventually};
use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
const WAIT: &str = "/blockchain/transactions";

async fn one() -> Cluster {
    Cluster::start(BINARY, "single-validator.toml", Options::default()).await
}

fn to(index: u32) -> Target {
    Target::Index(AccountIndex(index))
}

async fn submit(client: &Client, bytes: impl Into<Bytes>) -> Answer {
    client.post_bytes(WAIT, bytes.into()).await
}

fn is(answer: &Answer, status: u16, what: &str) {
    assert_eq!(answer.status, status, "{what}: {}", answer.body);
    assert!(answer.body["code"].is_string(), "{what} has no code: {}", answer.body);
}

/// The node still takes a transfer and commits it.
async fn commits(client: &Client, wallet: &mut Wallet) {
    let transaction = wallet.transfers([(500, 1)]);
    let answer = submit(client, transaction.shared_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transaction_that_must_not_pass_is_refused_and_costs_nothing() {
    let cluster = one().await;
    let (client, mut wallets) = (cluster.client(0), cluster.wallets(3));
    let good = wallets[0].transfers([(7, 1)]);
    let bytes = good.encode();

    is(&submit(&client, vec![0xff; 100]).await, 400, "bytes that are no transaction");
    is(&submit(&client, Vec::new()).await, 400, "nothing");
    is(&submit(&client, [bytes, &[0]].concat()).await, 400, "one byte too many");
    is(&submit(&client, bytes[..bytes.len() - 1].to_vec()).await, 400, "one byte too few");

    let mut forged = bytes.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    is(&submit(&client, forged).await, 422, "a signature that is not valid");
    let foreign = wallets[2].builder(0).transfer(to(7), 1);
    is(&submit(&client, wallets[1].sign(&foreign).shared_bytes()).await, 422, "another account's signature");

    let balance = wallets[1].builder(0).transfer(to(7), u128::MAX);
    is(&submit(&client, wallets[1].sign(&balance).shared_bytes()).await, 422, "an overdraft");
    let zero = wallets[1].builder(1).transfer(to(7), 0);
    is(&submit(&client, wallets[1].sign(&zero).shared_bytes()).await, 422, "a transfer of nothing");
    let own = wallets[1].builder(2).transfer(to(wallets[1].index), 1);
    is(&submit(&client, wallets[1].sign(&own).shared_bytes()).await, 422, "a transfer to oneself");
    let poor = wallets[1].builder(3).max_fee(1).transfer(to(7), 1);
    is(&submit(&client, wallets[1].sign(&poor).shared_bytes()).await, 422, "a fee that is too low");

    let far = wallets[1].builder(5_000).transfer(to(7), 1);
    is(&submit(&client, wallets[1].sign(&far).shared_bytes()).await, 409, "a nonce outside the window");
    let expiry = wallets[2].expiry;
    wallets[2].expiry = 1_000_000;
    let late = wallets[2].builder(0).transfer(to(7), 1);
    is(&submit(&client, wallets[2].sign(&late).shared_bytes()).await, 422, "an expiry too far ahead");
    wallets[2].expiry = expiry;

    assert_eq!(submit(&client, good.shared_bytes()).await.status, 200);
    is(&submit(&client, good.shared_bytes()).await, 409, "the same transaction again");
    let again = wallets[0].builder(0).transfer(to(8), 1);
    is(&submit(&client, wallets[0].sign(&again).shared_bytes()).await, 409, "a nonce that is used");
    commits(&client, &mut wallets[2]).await;
}

/// Sends the same bytes in both forms, alone and in a batch, and expects the same refusal each time.
async fn refused_in_every_form(client: &Client, bytes: &Bytes, status: u16, code: &str, fact: &str) {
    let hex = format!("0x{}", hex::encode(bytes));
    let json = json!({"transaction": hex});
    let answers = [
        ("binary", submit(client, bytes.clone()).await),
        ("JSON", client.post(WAIT, None, &json).await),
        ("the gateway", client.post("/gateway/transfer", None, &json).await),
    ];
    for (form, answer) in answers {
        answer.is_problem(status, code, &format!("{fact} as {form}"));
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains(fact), "{form} should name {fact:?}: {detail}");
    }
    let many = client.post(&format!("{WAIT}/batch"), None, &json!({"transactions": [hex]})).await;
    assert_eq!(many.body["refused"], 1, "{}", many.body);
    let item = &many.body["results"][0];
    assert_eq!(item["code"], code, "{item}");
    assert!(item["detail"].as_str().unwrap().contains(fact), "{item}");
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_lengths_heights_and_nonces_out_of_bounds_are_named_in_every_form() {
    let cluster = one().await;
    let (client, mut wallets) = (cluster.client(0), cluster.wallets(3));
    let wallet = &mut wallets[0];
    // The same bytes within the bounds pass: the rest differs in one thing.
    assert_eq!(submit(&client, wallet.unchecked(0, 4_096, &[7; 256])).await.status, 200);
    let refused = async |bytes: &Bytes, status, code, fact| {
        refused_in_every_form(&client, bytes, status, code, fact).await;
    };
    refused(&wallet.unchecked(1, 0, &[]), 400, "malformed_transaction", "number of operation groups: 0 is not allowed")
        .await;
    refused(&wallet.unchecked(1, 4_097, &[]), 400, "malformed_transaction", "number of operations is 4097").await;
    refused(&wallet.unchecked(1, 1, &[7; 257]), 400, "malformed_transaction", "memo is 257, the maximum is 256").await;
    refused(&wallet.unchecked(1_025, 1, &[]), 409, "nonce_out_of_window", "nonce 1025 is not below 1 + 1024").await;
    refused(&wallet.unchecked(0, 1, &[]), 409, "nonce_used", "nonce 0 is used").await;
    let expiry = std::mem::replace(&mut wallet.expiry, 1);
    refused(&wallet.unchecked(1, 1, &[]), 422, "expired", "expired at height 1").await;
    wallet.expiry = u64::MAX;
    refused(&wallet.unchecked(1, 1, &[]), 422, "expiry_too_far", "heights above").await;
    wallet.expiry = expiry;
    let mut forged = wallet.unchecked(1, 1, &[]).to_vec();
    *forged.last_mut().unwrap() ^= 1;
    refused(&forged.into(), 422, "invalid_signature", "signature").await;
    refused(&Bytes::from_static(&[0xff; 64]), 400, "malformed_transaction", "the bytes are no transaction").await;
    // None of it used the nonce.
    assert_eq!(submit(&client, wallet.unchecked(1, 1, &[])).await.status, 200);
    commits(&client, &mut wallets[2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_address_and_another_chain_are_refused() {
    use aurigraph_ledger::transaction::{SenderKey, TransactionBuilder};
    let cluster = one().await;
    let (client, mut wallets) = (cluster.client(0), cluster.wallets(2));
    let other_chain = TransactionBuilder::new(Hash::ZERO, SenderKey::Index(AccountIndex(1)), 0, 100)
        .max_fee(1 << 60)
        .transfer(to(7), 1);
    is(&submit(&client, wallets[1].sign(&other_chain).shared_bytes()).await, 422, "another chain");

    // A key whose address nobody has credited: unknown sender.
    let stranger = TransactionBuilder::new(
        cluster.config.genesis.chain_id(),
        SenderKey::PublicKey(vec![7; aurigraph_ledger::types::PUBLIC_KEY_LEN]),
        0,
        100,
    );
    let stranger = wallets[1].sign(&stranger.max_fee(1 << 60).transfer(to(7), 1));
    is(&submit(&client, stranger.shared_bytes()).await, 422, "an unknown sender");

    // The same key beside another address: the bytes say both, and they do not belong together.
    let honest = Address::of_public_key(&[7; aurigraph_ledger::types::PUBLIC_KEY_LEN]);
    let mut bytes = stranger.encode().to_vec();
    let at = bytes.windows(32).position(|window| window == honest.as_bytes()).unwrap();
    bytes[at..at + 32].copy_from_slice(wallets[0].address.as_bytes());
    let answer = submit(&client, bytes).await;
    assert!(matches!(answer.status, 400 | 422), "a wrong key for an address: {} {}", answer.status, answer.body);
    commits(&client, &mut wallets[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_get_their_own_status() {
    let cluster = one().await;
    let (client, token) = (cluster.client(0), cluster.account_token());
    let recipient = cluster.config.genesis.accounts[5].address.to_string();
    let transfer = async |body: serde_json::Value| client.post("/gateway/transfer", Some(&token), &body).await;
    is(&client.post("/gateway/transfer", None, &json!({"recipient": recipient, "amount": "1"})).await, 401, "no token");
    for amount in [json!("-1"), json!("1.5"), json!("0x1"), json!(1.5), json!("")] {
        is(&transfer(json!({"recipient": recipient, "amount": amount})).await, 400, &format!("amount {amount}"));
    }
    is(&transfer(json!({"recipient": "0x12", "amount": "1"})).await, 400, "a short address");
    is(&transfer(json!({"recipient": recipient, "amount": "1", "more": 1})).await, 400, "an unknown field");
    for path in ["/gateway/balance/0x12", "/gateway/balance/xyz", "/blockchain/blocks/x", "/validators?page=0"] {
        is(&client.get(path).await, 400, path);
    }
    for path in ["/nothing", "/gateway/balance/0x0000000000000000000000000000000000000000000000000000000000000001"] {
        is(&client.get(path).await, 404, path);
    }
    let wrong_method = client.post("/info", None, &json!({})).await;
    assert_eq!(wrong_method.status, 405);
    let large = client.post_bytes("/blockchain/transactions/batch", vec![0; 10 << 20].into()).await;
    // The node may close the connection before all of it is sent.
    assert!(matches!(large.status, 413 | 0), "10 MiB: {}", large.status);
    commits(&client, &mut cluster.wallets(2)[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_idle_clients_hold_nothing_up() {
    let cluster = one().await;
    let client = cluster.client(0);
    let address = client.base().trim_start_matches("http://").to_owned();
    let mut idle = Vec::new();
    for _ in 0..2_000 {
        // Beyond the cap a connection is refused or closed: both are fine.
        idle.extend(TcpStream::connect(&address).await.ok());
    }
    let mut slow = TcpStream::connect(&address).await.unwrap();
    slow.write_all(b"GET /api/v11/info HTTP/1.1\r\nHost: x\r\nX-").await.unwrap();
    commits(&client, &mut cluster.wallets(2)[0]).await;
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(60), slow.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "a header that never ends must be cut off");
    drop(idle);
    commits(&client, &mut cluster.wallets(2)[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_at_the_node_port_get_nothing() {
    let cluster = Cluster::start(BINARY, "four-validators.toml", Options::default()).await;
    let port = cluster.config.nodes[0].listen;
    // A TLS 1.2 hello with classical suites, plain text, and a length that claims four gigabytes.
    let hello: &[u8] = b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbb\x00\x00\x04\xc0\x2f\xc0\x30\x01\x00";
    for bytes in [hello, b"GET / HTTP/1.1\r\n\r\n", &[0xff; 64], &[]] {
        let mut stream = TcpStream::connect(port).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "a stranger's connection must be closed");
        assert!(answer.len() < 100, "a stranger got {} bytes", answer.len());
    }
    let client = cluster.client(0);
    commits(&client, &mut cluster.wallets(1)[0]).await;
    assert_eq!(client.read("/consensus/status").await["connectedValidators"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_journal_tail_is_cut_and_the_node_goes_on() {
    let mut cluster = one().await;
    let mut wallets = cluster.wallets(2);
    commits(&cluster.client(0), &mut wallets[0]).await;
    cluster.kill(0);
    let segments = std::fs::read_dir(cluster.node_dir(0).join("journal")).unwrap();
    let last =
        segments.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|it| it == "seg"));
    let last = last.max().expect("a segment");
    let mut bytes = std::fs::read(&last).unwrap();
    bytes.extend_from_slice(&[0x2a, 0, 0, 0, 1, 2, 3]);
    std::fs::write(&last, bytes).unwrap();
    cluster.restart(0).await;
    commits(&cluster.client(0), &mut wallets[1]).await;
    let spent = wallets[0].nonce;
    let client = cluster.client(0);
    let path = format!("/gateway/balance/{}", wallets[0].address);
    let nonce = eventually("the old state is there", Duration::from_secs(60), || async {
        client.read(&path).await["nonceBase"].as_u64()
    })
    .await;
    assert_eq!(nonce, spent);
}
