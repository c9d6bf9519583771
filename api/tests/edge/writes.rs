//! Submissions, transfers and the chaos route.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use serde_json::json;

use crate::node::{TestNode, WITHIN};

fn framed(parts: &[Bytes]) -> Bytes {
    let mut body = Vec::new();
    for part in parts {
        body.extend_from_slice(&u32::try_from(part.len()).expect("short").to_le_bytes());
        body.extend_from_slice(part);
    }
    body.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signed_transactions_are_committed_in_every_form() {
    let node = TestNode::start("submits", |_| {}).await;
    let one = "/blockchain/transactions";
    let answer = node.post_bytes(one, node.transaction(0, 0, &[(9, 1)]).shared_bytes()).await;
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("committed")), "{:?}", answer.body);
    let hex = format!("0x{}", hex::encode(node.transaction(0, 1, &[(9, 1)]).encode()));
    let answer = node.post(one, None, json!({ "transaction": hex })).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let answer = node.post("/gateway/transfer", None, json!({ "transaction": hex })).await;
    answer.is_problem(409, "nonce_used");

    let late = node.transaction(0, 2, &[(9, 1)]);
    let answer = node.post_bytes(&format!("{one}?wait=accepted"), late.shared_bytes()).await;
    assert_eq!((answer.status, &answer.json()["status"]), (202, &json!("pending")));
    until_status(&node, &late.id().to_string(), "committed").await;

    let batch = [node.transaction(1, 0, &[(9, 1)]), node.transaction(2, 0, &[(9, 1), (8, 1)])];
    let bytes: Vec<Bytes> = batch.iter().map(|transaction| transaction.shared_bytes()).collect();
    let answer = node.post_bytes(&format!("{one}/batch"), framed(&bytes)).await;
    let view = answer.json();
    assert_eq!((answer.status, &view["accepted"], &view["refused"]), (200, &json!(2), &json!(0)), "{view}");
    assert!(view["results"].as_array().expect("a list").iter().all(|item| item["status"] == "committed"), "{view}");
    // Some good, some not: each has its own answer.
    let mixed = json!({ "transactions": [
        format!("0x{}", hex::encode(node.transaction(1, 1, &[(9, 1)]).encode())),
        format!("0x{}", hex::encode(&bytes[0])),
    ] });
    let view = node.post(&format!("{one}/batch"), None, mixed).await.json();
    assert_eq!((&view["accepted"], &view["refused"]), (&json!(1), &json!(1)));
    assert_eq!(
        (&view["results"][0]["status"], &view["results"][1]["code"]),
        (&json!("committed"), &json!("nonce_used"))
    );
    let balance = node.good(&format!("/gateway/balance/{}", node.address_of(1))).await;
    assert_eq!(balance["nonceBase"], 2);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_for_a_commit_is_answered_when_the_node_stops() {
    // Once there is something to propose, the next round is far away: nothing is committed while this test runs.
    let node = Arc::new(TestNode::start("stops", |settings| settings.pacing.min_delay_busy_ms = 600_000).await);
    let transaction = node.transaction(0, 0, &[(9, 1)]);
    let path = format!("/blockchain/transactions/{}", transaction.id());
    let asked = Arc::clone(&node);
    let asking =
        tokio::spawn(async move { asked.post_bytes("/blockchain/transactions", transaction.shared_bytes()).await });
    let began = Instant::now();
    while node.get(&path).await.status != 200 {
        assert!(began.elapsed() < WITHIN, "the transaction did not arrive");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.node.shutdown(WITHIN).await.expect("an ordered stop");
    let answer = asking.await.expect("an answer");
    assert_eq!((answer.status, &answer.json()["status"]), (202, &json!("pending")), "{:?}", answer.body);
}

async fn until_status(node: &TestNode, hash: &str, status: &str) {
    let began = Instant::now();
    loop {
        let found = node.get(&format!("/blockchain/transactions/{hash}")).await;
        if found.status == 200 && found.json()["status"] == status {
            return;
        }
        assert!(began.elapsed() < WITHIN, "{hash} is not {status}: {:?}", found.body);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_submissions_are_refused_with_their_codes() {
    let node = TestNode::start("refuses", |_| {}).await;
    let (one, many) = ("/blockchain/transactions", "/blockchain/transactions/batch");
    node.post_bytes(one, "nonsense").await.is_problem(400, "malformed_transaction");
    node.post_bytes(one, "").await.is_problem(400, "malformed_transaction");
    node.post(one, None, json!({ "transaction": "0xzz" })).await.is_problem(400, "malformed_transaction");
    node.post(one, None, json!({ "transaction": 7 })).await.is_problem(400, "malformed_json");
    node.post(one, None, "{").await.is_problem(400, "malformed_json");
    node.post_bytes(&format!("{one}?wait=forever"), "x").await.is_problem(400, "malformed_parameter");
    node.ask(hyper::Method::POST, one, &[("content-type", "text/plain")], "x")
        .await
        .is_problem(415, "unsupported_media_type");
    node.post_bytes(many, "").await.is_problem(400, "malformed_batch");
    node.post_bytes(many, vec![9, 0, 0, 0, 1]).await.is_problem(400, "malformed_batch");
    node.post(many, None, json!({ "transactions": [] })).await.is_problem(400, "malformed_batch");
    let crowd = vec!["AA=="; 4_097];
    node.post(many, None, json!({ "transactions": crowd })).await.is_problem(413, "too_many_transactions");
    node.post_bytes(one, vec![0; 10 << 20]).await.is_problem(413, "body_too_large");

    let good = node.transaction(3, 0, &[(9, 1)]);
    let mut forged = good.encode().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    node.post_bytes(one, forged).await.is_problem(422, "invalid_signature");
    node.post_bytes(one, node.transaction(3, 5_000, &[(9, 1)]).shared_bytes())
        .await
        .is_problem(409, "nonce_out_of_window");
    // An overdraft is included and has no effect: the client hears why, and where it stands.
    let answer = node.post_bytes(one, node.transaction(3, 0, &[(9, u128::MAX)]).shared_bytes()).await;
    answer.is_problem(422, "insufficient_balance");
    let problem = answer.json();
    assert_eq!(problem["transactionStatus"], "failed");
    assert!(problem["hash"].is_string() && problem["blockHeight"].is_u64(), "{problem}");
    until_status(&node, problem["hash"].as_str().expect("a hash"), "failed").await;
    for (nonce, transfer, code) in
        [(1, (9, 0), "zero_amount"), (2, (3, 1), "self_transfer"), (3, (999, 1), "unknown_index")]
    {
        node.post_bytes(one, node.transaction(3, nonce, &[transfer]).shared_bytes()).await.is_problem(422, code);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_signs_for_its_account_and_concurrent_transfers_do_not_collide() {
    let node = TestNode::start("gateway", |_| {}).await;
    let (token, admin) = (node.development.account_token(), node.development.admin_token());
    let recipient = format!("0x{}", "77".repeat(32));
    let path = "/gateway/transfer";
    let body = json!({ "recipient": recipient, "amount": "1000", "memo": "hello" });
    node.post(path, None, &body).await.is_problem(401, "credentials_required");
    node.post(path, Some("wrong"), &body).await.is_problem(401, "bad_credentials");
    node.post(path, Some(&admin), &body).await.is_problem(403, "no_account");
    for bad in [
        json!({}),
        json!({ "recipient": recipient }),
        json!({ "recipient": recipient, "amount": "-1" }),
        json!({ "recipient": recipient, "amount": "1", "memo": "m".repeat(257) }),
        json!({ "transaction": "AA==", "amount": "1" }),
    ] {
        assert_eq!(node.post(path, Some(&token), &bad).await.status, 400, "{bad}");
    }
    node.post(path, Some(&token), json!({ "recipient": "0x1", "amount": "1" })).await.is_problem(400, "malformed_hash");

    let sends = (0..40).map(|_| node.post(path, Some(&token), &body));
    let answers = futures_util::future::join_all(sends).await;
    let mut hashes = std::collections::BTreeSet::new();
    for answer in answers {
        assert!(matches!(answer.status, 200 | 202), "{:?}", answer.body);
        let view = answer.json();
        for field in ["hash", "status", "blockHeight", "index"] {
            assert!(view.get(field).is_some(), "{field} in {view}");
        }
        hashes.insert(view["hash"].as_str().expect("a hash").to_owned());
    }
    assert_eq!(hashes.len(), 40, "each is a transaction of its own");
    for hash in &hashes {
        until_status(&node, hash, "committed").await;
    }
    let balance = node.good(&format!("/gateway/balance/{recipient}")).await;
    assert_eq!((&balance["balance"], &balance["keyRegistered"]), (&json!("40000"), &json!(false)));
    let hash = hashes.first().expect("some");
    assert_eq!(node.good(&format!("/gateway/transactions/{hash}")).await["memo"], "hello");
    // More than there is.
    let all = json!({ "recipient": recipient, "amount": u128::MAX.to_string() });
    node.post(path, Some(&token), all).await.is_problem(422, "insufficient_balance");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actors_are_killed_by_admins_only_and_come_back() {
    let node = TestNode::start("chaos", |_| {}).await;
    let (token, admin) = (node.development.account_token(), node.development.admin_token());
    let path = "/system/actors/chaos1%2Fsigner/kill";
    let body = json!({ "mode": "panic" });
    node.post(path, None, &body).await.is_problem(401, "credentials_required");
    node.post(path, Some(&token), &body).await.is_problem(403, "admin_required");
    node.post(path, Some(&admin), json!({ "mode": "gently" })).await.is_problem(400, "malformed_json");
    node.post("/system/actors/nobody/kill", Some(&admin), &body).await.is_problem(404, "not_found");
    let answer = node.post(path, Some(&admin), &body).await;
    assert_eq!((answer.status, &answer.json()["outcome"]), (200, &json!("killed")), "{:?}", answer.body);
    restarted(&node, "chaos1/signer").await;
    is_audited(&node).await;
    // The server itself: the answer gets out, and the port is served again.
    let answer = node.post("/system/actors/chaos1%2Fhttp-server/kill", Some(&admin), json!({ "mode": "kill" })).await;
    assert_eq!((answer.status, &answer.json()["outcome"]), (202, &json!("scheduled")), "{:?}", answer.body);
    restarted(&node, "chaos1/http-server").await;
    for mode in ["kill", "panic", "error", "stop", "abort"] {
        for role in ["query/0", "event-hub"] {
            let path = format!("/system/actors/{}/kill", format!("chaos1/{role}").replace('/', "%2F"));
            let answer = node.post(&path, Some(&admin), json!({ "mode": mode })).await;
            // A query actor that kills itself may end before its answer is out.
            assert!(matches!(answer.status, 200 | 409 | 503), "{mode} {role}: {:?}", answer.body);
        }
        assert_eq!(node.post_until_good().await, 200);
    }
    node.stop().await;
}

impl TestNode {
    /// Asks until the query actors answer again.
    async fn post_until_good(&self) -> u16 {
        let began = Instant::now();
        loop {
            let status = self.get("/consensus/status").await.status;
            if status == 200 || began.elapsed() > WITHIN {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Waits until an actor has been restarted and runs; asked past the server, which may be the actor itself.
async fn restarted(node: &TestNode, name: &str) {
    let began = Instant::now();
    let registry = &node.node.context().registry;
    let running = aurigraph_runtime::ActorState::Running;
    while !registry.row(name).is_some_and(|row| row.restarts >= 1 && row.state == running) {
        assert!(began.elapsed() < WITHIN, "{name} did not come back: {:?}", registry.row(name));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(registry.row(name).is_some_and(|row| row.last_failure.is_some()));
}

/// The order to kill is in the audit log, with who gave it from where, for admins to read.
async fn is_audited(node: &TestNode) {
    let (token, admin) = (node.development.account_token(), node.development.admin_token());
    let body =
        json!({ "filters": { "eventType": "admin_kill", "searchQuery": "CHAOS1/signer" }, "page": 1, "pageSize": 10 });
    node.post("/audit/logs", None, &body).await.is_problem(401, "credentials_required");
    node.post("/audit/logs", Some(&token), &body).await.is_problem(403, "admin_required");
    node.post("/audit/logs", Some(&admin), json!({ "filters": { "level": "loud" } }))
        .await
        .is_problem(400, "malformed_json");
    node.post("/audit/logs", Some(&admin), json!({ "page": 0 })).await.is_problem(400, "parameter_out_of_range");
    let began = Instant::now();
    loop {
        let found = node.post("/audit/logs", Some(&admin), &body).await.json();
        if let Some(entry) = found["logs"].as_array().and_then(|logs| logs.first()) {
            assert!(found["total"].as_u64() >= Some(1), "{found}");
            assert_eq!((&found["page"], &found["pageSize"]), (&json!(1), &json!(10)));
            assert_eq!((&entry["user"], &entry["ipAddress"]), (&json!("admin"), &json!("127.0.0.1")));
            assert_eq!((&entry["resourceId"], &entry["status"]), (&json!("chaos1/signer"), &json!("success")));
            break;
        }
        assert!(began.elapsed() < WITHIN, "no audit entry");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let bearer = format!("Bearer {admin}");
    let summary = node.ask(Method::GET, "/audit/summary", &[("authorization", &bearer)], "").await.json();
    assert_eq!(summary["chainVerified"], true, "{summary}");
    assert!(summary["byType"]["admin_kill"].as_u64() >= Some(1), "{summary}");
}
