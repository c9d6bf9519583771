//! Reads, paths and methods, the document.

use std::collections::BTreeSet;

use aurigraph_api::openapi::document;
use aurigraph_ledger::merkle::{MerkleProof, TransactionProof};
use aurigraph_ledger::{Hash, LedgerHeader};
use hyper::Method;
use serde_json::{Value, json};

use crate::node::{TestNode, WITHIN};

/// Whether an object has every one of these fields.
#[track_caller]
fn has(value: &Value, fields: &str) {
    let object = value.as_object().unwrap_or_else(|| panic!("an object, not {value}"));
    for field in fields.split_whitespace() {
        assert!(object.contains_key(field), "{field} in {value}");
    }
}

/// Commits one transfer and returns its hash.
async fn committed(node: &TestNode, nonce: u64) -> String {
    let answer =
        node.post_bytes("/blockchain/transactions", node.transaction(0, nonce, &[(9, 5)]).shared_bytes()).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    answer.json()["hash"].as_str().expect("a hash").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_read_answers_with_the_contracts_fields() {
    let node = TestNode::start("reads", |_| {}).await;
    let hash = committed(&node, 0).await;
    chain_reads(&node, &hash).await;
    network_reads(&node).await;
    node_reads(&node).await;
    every_documented_get_answers_as_documented(&node, &hash).await;
    node.stop().await;
}

async fn chain_reads(node: &TestNode, hash: &str) {
    let found = node.good(&format!("/blockchain/transactions/{hash}")).await;
    assert_eq!(found, node.good(&format!("/gateway/transactions/{hash}")).await);
    has(&found, "hash status blockHeight index from nonce operations fee error proof");
    assert_eq!((&found["status"], &found["nonce"]), (&json!("committed"), &json!(0)));
    assert_eq!(found["from"], node.address_of(0).to_string());
    assert_eq!(
        found["operations"],
        json!([{
            "index": 0, "type": "transfer", "to": "9", "amount": "5", "tag": null, "status": "applied", "error": null,
            "validator": null, "name": null, "seconds": null, "commissionBasisPoints": null, "keyNumber": null,
            "digest": null
        }])
    );
    proof_holds(&found);

    let height = found["blockHeight"].as_u64().expect("a height");
    let block = node.good(&format!("/blockchain/blocks/{height}")).await;
    has(
        &block,
        "height hash parentHash timestamp transactionCount size validator stateRoot transactionsRoot receiptsRoot \
         gasUsed gasLimit round finalizedAfterMs",
    );
    assert_eq!((&block["transactionCount"], &block["validator"]), (&json!(1), &json!("reads1")));
    assert_eq!(block["hash"], found["proof"]["blockHash"]);
    let by_hash = node.good(&format!("/blockchain/blocks/hash/{}", block["hash"].as_str().expect("text"))).await;
    assert_eq!(by_hash, block);
    let listed = node.good(&format!("/blockchain/blocks/{height}/transactions?pageSize=1")).await;
    assert_eq!((&listed["total"], &listed["page"], &listed["pageSize"]), (&json!(1), &json!(1), &json!(1)));
    assert_eq!(listed["transactions"][0]["hash"], hash);
    let past = node.good(&format!("/blockchain/blocks/{height}/transactions?page=9")).await;
    assert_eq!((&past["total"], &past["transactions"]), (&json!(1), &json!([])));
    assert_eq!((block["size"].is_u64(), block["finalizedAfterMs"].is_u64()), (true, true), "{block}");
    let sent = node.good(&format!("/gateway/accounts/{}/transactions", node.address_of(0))).await;
    assert_eq!((&sent["total"], &sent["truncated"], &sent["page"]), (&json!(1), &json!(false), &json!(1)));
    assert_eq!((&sent["transactions"][0]["hash"], &sent["transactions"][0]["role"]), (&json!(hash), &json!("sender")));
    let received = node.good(&format!("/gateway/accounts/{}/transactions?pageSize=1", node.listed_address(9))).await;
    assert_eq!(
        (&received["transactions"][0]["hash"], &received["transactions"][0]["role"]),
        (&json!(hash), &json!("receiver"))
    );
    let past = node.good(&format!("/gateway/accounts/{}/transactions?page=2", node.listed_address(9))).await;
    assert_eq!((&past["total"], &past["transactions"]), (&json!(1), &json!([])));
    let latest = node.good("/blockchain/blocks/latest?limit=200").await;
    let heights: Vec<u64> =
        latest["blocks"].as_array().expect("a list").iter().filter_map(|block| block["height"].as_u64()).collect();
    assert!(heights.is_sorted_by(|a, b| a > b) && heights.contains(&height), "{heights:?}");
    searches(node, height).await;

    let balance = node.good(&format!("/gateway/balance/{}", node.address_of(0))).await;
    has(&balance, "address index balance nonceBase keyRegistered encryptionKeyNumber tokens stake");
    assert_eq!((&balance["index"], &balance["nonceBase"]), (&json!(0), &json!(1)));
    has(&node.good("/blockchain/stats").await, "chainId height totalSupply transactionsPerSecond");
}

async fn searches(node: &TestNode, height: u64) {
    let search = async |filters: Value| {
        let answer = node.post("/blockchain/blocks/search", None, json!({ "filters": filters, "pageSize": 200 })).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        let page = answer.json();
        let blocks = page["blocks"].as_array().expect("a list");
        let heights: Vec<u64> = blocks.iter().filter_map(|block| block["height"].as_u64()).collect();
        assert_eq!(page["total"].as_u64(), Some(heights.len() as u64), "few blocks: one page holds all");
        heights
    };
    assert_eq!(search(json!({ "minTransactions": 1 })).await, [height]);
    assert_eq!(search(json!({ "minTransactions": 2 })).await, [0_u64; 0]);
    assert_eq!(search(json!({ "heightFrom": height, "heightTo": height })).await, [height]);
    assert_eq!(search(json!({ "heightFrom": height + 1, "heightTo": height })).await, [0_u64; 0]);
    assert!(search(json!({ "validator": "reads1" })).await.contains(&height));
    assert_eq!(search(json!({ "validator": "nobody" })).await, [0_u64; 0]);
    let time = node.good(&format!("/blockchain/blocks/{height}")).await["timestamp"].clone();
    assert!(search(json!({ "dateFrom": time, "dateTo": time })).await.contains(&height));
    assert_eq!(search(json!({ "dateTo": "1999-01-01T00:00:00Z" })).await, [0_u64; 0]);
    assert_eq!(search(json!({ "dateFrom": "9999-01-01T00:00:00Z" })).await, [0_u64; 0]);
}

/// Checks the proof as a client without the node would.
fn proof_holds(transaction: &Value) {
    let proof = &transaction["proof"];
    let hash = |value: &Value| value.as_str().expect("text").parse::<Hash>().expect("a hash");
    let path = TransactionProof {
        id: hash(&transaction["hash"]),
        signature_digest: hash(&proof["signatureDigest"]),
        path: MerkleProof {
            position: serde_json::from_value(proof["position"].clone()).expect("a number"),
            count: serde_json::from_value(proof["count"].clone()).expect("a number"),
            siblings: proof["siblings"].as_array().expect("a list").iter().map(hash).collect(),
        },
    };
    let header = hex::decode(&proof["header"].as_str().expect("text")[2..]).expect("hex");
    let header = LedgerHeader::decode(&header).expect("a header");
    assert!(path.verify(&header.tx_root));
    assert_eq!(header.hash(), hash(&proof["blockHash"]));
    assert_eq!(header.tx_root, hash(&proof["transactionsRoot"]));
}

async fn network_reads(node: &TestNode) {
    let topology = node.good("/network/topology").await;
    has(&topology["summary"], "totalNodes activeNodes totalConnections averageLatency networkHealth");
    assert_eq!(topology["edges"], json!([]));
    let own = &topology["nodes"][0];
    has(own, "id name type status ipAddress port region uptime connections lastSeen version stake performance");
    has(&own["performance"], "tps latency errorRate");
    assert_eq!((&own["type"], &own["status"], &own["stake"]), (&json!("validator"), &json!("active"), &json!("1")));
    assert_eq!(node.good("/network/nodes/reads1").await["id"], "reads1");
    has(
        &node.good("/network/stats").await,
        "totalNodes activeNodes totalConnections avgLatency networkHealth bytesIn bytesOut messagesIn messagesOut",
    );
    let validators = node.good("/validators").await;
    assert_eq!(validators["total"], 1);
    has(
        &validators["validators"][0],
        "id address name status stake commission uptime blocksProduced missedBlocks slashingEvents votingPower delegators \
         rewards joinedAt lastActiveAt",
    );
    // From the commits of its epoch, of which it misses none.
    let began = std::time::Instant::now();
    loop {
        let validator = node.good("/validators/reads1").await;
        if validator["uptime"] == 100.0 && validator["blocksProduced"].as_u64() > Some(0) {
            assert_eq!(validator["missedBlocks"], 0, "{validator}");
            break;
        }
        assert!(began.elapsed() < WITHIN, "{validator}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    has(&node.good("/validators/reads1").await, "id recentSlashingEvents unbondingQueue");
    has(
        &node.good("/validators/metrics").await,
        "totalValidators activeValidators jailedValidators averageBlockTime averageUptime totalSlashingEvents totalStake",
    );
    assert_eq!(node.good("/validators/slashing-events").await["events"], json!([]));
}

async fn node_reads(node: &TestNode) {
    let status = node.good("/consensus/status").await;
    has(&status, "height blockHash stateRoot checkpointHeight round executedHeight leader epoch");
    has(&status, "checkpointSequence certifiedSequence certifiedDigest certificateStake quorumStake divergence");
    assert_eq!(status["mode"], "active");
    has(&status["schedule"], "digest updates fromRound bad good");
    assert_eq!(status["schedule"]["digest"].as_str().map(str::len), Some(66), "{status}");
    let info = node.good("/info").await;
    assert_eq!(info["features"]["transactionBatching"], json!({ "enabled": true, "reason": null }));
    assert_eq!(info["features"]["gpuAcceleration"]["enabled"], false);
    assert!(info["features"]["gpuAcceleration"]["reason"].is_string());
    assert_eq!(info["devices"][0]["device"], 0);
    assert!(info["devices"][0]["reason"].is_string(), "{info}");
    has(&node.good("/performance").await, "operationsPerSecond signaturesPerSecond residentBytes cpuSeconds");
    let actors = node.good("/system/actors").await;
    let rows = actors["actors"].as_array().expect("a list");
    let server = rows.iter().find(|row| row["name"] == "reads1/http-server").expect("the server is an actor");
    has(server, "name parent state restarts lastFailure mailboxDepth");
    assert_eq!((&server["parent"], &server["state"]), (&json!("reads1/api"), &json!("running")));
    for path in ["/health", "//health", "/q/health", "//q/health"] {
        assert_eq!(node.good(path).await["status"], "UP", "{path}");
    }
    for path in ["/metrics", "//metrics", "/q/metrics", "//q/metrics"] {
        let answer = node.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.headers["content-type"].to_str().expect("text").starts_with("text/plain"));
    }
    assert_eq!(node.good("/openapi.json").await, document());
}

/// Every GET of the document is mounted, and answers with a documented status and content type.
async fn every_documented_get_answers_as_documented(node: &TestNode, hash: &str) {
    let document = document();
    for (template, methods) in document["paths"].as_object().expect("paths") {
        let path = template
            .replace("{height}", "1")
            .replace("{seq}", "latest")
            .replace("{hash}", hash)
            .replace("{txHash}", hash)
            .replace("{address}", &node.address_of(0).to_string())
            .replace("{nodeId}", "reads1")
            .replace("{id}", "reads1")
            .replace("{name}", "reads1%2Fsigner");
        let path = format!("/{path}");
        let documented: BTreeSet<&str> = methods.as_object().expect("methods").keys().map(String::as_str).collect();
        for method in ["get", "post", "put", "delete", "patch", "head", "options"] {
            let verb = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
            if documented.contains(method) && (method == "post" || template.ends_with("/events")) {
                continue;
            }
            let answer = node.ask(verb, &path, &[], "").await;
            if documented.contains(method) {
                let responses = &methods[method]["responses"];
                let content = &responses[answer.status.to_string()]["content"];
                let media = answer.headers["content-type"].to_str().expect("text");
                assert!(content.get(media).is_some(), "{method} {path}: {} {media}", answer.status);
            } else {
                assert_eq!(answer.status, 405, "{method} {path}");
                let allow: BTreeSet<String> =
                    answer.headers["allow"].to_str().expect("text").split(", ").map(str::to_lowercase).collect();
                assert_eq!(allow, documented.iter().map(ToString::to_string).collect(), "{path}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_paths_parameters_and_bodies_are_refused_with_their_codes() {
    let node = TestNode::start("badreads", |_| {}).await;
    let unknown_hash = format!("0x{}", "ab".repeat(32));
    for path in ["/", "/nothing", "//", "//nothing", "//api", "//api/v12/health", "/blockchain", "/validators/a/b"] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            node.ask(method, path, &[], "").await.is_problem(404, "unknown_path");
        }
    }
    for (path, status, code) in [
        ("/blockchain/blocks/x", 400, "malformed_parameter"),
        ("/blockchain/blocks/-1", 400, "malformed_parameter"),
        ("/blockchain/blocks/18446744073709551616", 400, "malformed_parameter"),
        ("/blockchain/blocks/999999999", 404, "not_found"),
        ("/consensus/checkpoints/999999999", 404, "not_found"),
        ("/consensus/checkpoints/newest", 400, "malformed_parameter"),
        ("/consensus/checkpoints/latest?headersFrom=x", 400, "malformed_parameter"),
        ("/blockchain/blocks/hash/0x12", 400, "malformed_hash"),
        (&format!("/blockchain/blocks/hash/{unknown_hash}"), 404, "not_found"),
        ("/blockchain/blocks/latest?limit=0", 400, "parameter_out_of_range"),
        ("/blockchain/blocks/latest?limit=201", 400, "parameter_out_of_range"),
        ("/blockchain/blocks/999999999/transactions", 404, "not_found"),
        ("/blockchain/blocks/1/transactions?page=0", 400, "parameter_out_of_range"),
        ("/blockchain/transactions/zz", 400, "malformed_hash"),
        (&format!("/gateway/transactions/{unknown_hash}"), 404, "not_found"),
        (&format!("/gateway/balance/{unknown_hash}"), 404, "not_found"),
        (&format!("/gateway/encryption-keys/{unknown_hash}"), 404, "not_found"),
        ("/gateway/encryption-keys/0x12", 400, "malformed_hash"),
        (&format!("/gateway/envelopes/{unknown_hash}/{unknown_hash}"), 404, "not_found"),
        (&format!("/gateway/envelopes/{unknown_hash}/7"), 400, "malformed_hash"),
        ("/gateway/balance/0x", 400, "malformed_hash"),
        (&format!("/gateway/accounts/{unknown_hash}/transactions"), 404, "not_found"),
        ("/gateway/accounts/0x/transactions", 400, "malformed_hash"),
        ("/gateway/balance/0x%ff", 400, "malformed_parameter"),
        ("/validators?page=0", 400, "parameter_out_of_range"),
        ("/validators?pageSize=201", 400, "parameter_out_of_range"),
        ("/validators?pageSize=two", 400, "malformed_parameter"),
        ("/validators/nobody", 404, "not_found"),
        ("/network/nodes/nobody", 404, "not_found"),
        ("/events?kinds=gossip", 400, "malformed_parameter"),
        ("/events?lastEventId=x", 400, "malformed_parameter"),
    ] {
        node.get(path).await.is_problem(status, code);
    }
    assert_eq!(node.good("/validators?page=7").await["validators"], json!([]));
    let search = "/blockchain/blocks/search";
    for body in [
        "",
        "{",
        "[]",
        "nul",
        "{\"filters\":[]}",
        "{\"filters\":{\"heightFrom\":-1}}",
        "{\"filters\":{\"heightFrm\":1}}",
    ] {
        node.post(search, None, body).await.is_problem(400, "malformed_json");
    }
    node.post(search, None, json!({ "page": 0 })).await.is_problem(400, "parameter_out_of_range");
    node.post(search, None, json!({ "pageSize": 201 })).await.is_problem(400, "parameter_out_of_range");
    node.post_bytes(search, "{}").await.is_problem(415, "unsupported_media_type");
    node.get(search).await.is_problem(405, "method_not_allowed");
    let bearer = [("authorization", "Bearer nobody")];
    node.ask(Method::GET, "/info", &bearer, "").await.is_problem(401, "bad_credentials");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_over_its_rate_gets_429_and_another_token_its_own_bucket() {
    let node = TestNode::start("limits", |settings| {
        // So few that the slowest machine asks for more.
        settings.api.requests_per_second = 20;
        settings.api.burst = 200;
    })
    .await;
    let mut refused = None;
    for _ in 0..20_000 {
        let answer = node.get("/nothing-known").await;
        assert_eq!(answer.status, 404, "unknown paths cost nobody a place");
        let answer = node.get("/validators/slashing-events").await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
        // One request at a time may never exceed the rate: ask many at once.
        let many = (0..200).map(|_| node.get("/validators/slashing-events"));
        refused = futures_util::future::join_all(many).await.into_iter().find(|answer| answer.status != 200);
        if refused.is_some() {
            break;
        }
    }
    refused.expect("the limit is reached").is_problem(429, "rate_limited");
    let bearer = format!("Bearer {}", node.development.account_token());
    let answer = node.ask(Method::GET, "/info", &[("authorization", &bearer)], "").await;
    assert_eq!(answer.status, 200);
    node.stop().await;
}
