//! A node whose executor goes wrong stops itself, and the others go on and jail it. Debug builds alone have an executor
//! that goes wrong when it is told to, and begin a chain with the newest protocol version.
#![cfg(debug_assertions)]
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use aurigraph_testkit::{Cluster, Options, eventually};

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
const WRONG: usize = 2;
/// Its execution is wrong from this height on.
const FROM: &str = "AURIGRAPH_CORRUPT_EXECUTOR=3";
/// Wrong attestations are proven from protocol version 3 on.
const NEWEST: &str = "AURIGRAPH_NEWEST_PROTOCOL=1";
const WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_corrupted_executor_stops_itself_and_the_others_go_on_and_jail_it() {
    let mut cluster = Cluster::prepare(BINARY, "four-validators.toml", Options::default()).await;
    for node in 0..cluster.len() {
        let from = (node == WRONG).then(|| FROM.to_owned());
        let wrapper: Vec<String> = ["env", NEWEST].map(str::to_owned).into_iter().chain(from).collect();
        cluster.launch_under(&wrapper, node, true);
    }
    cluster.wait_ready(0..4).await;
    let mut wallet = cluster.wallets(1).remove(0);
    let clients = cluster.clients();
    let (others, wrong) = ([0, 1, 3], clients[WRONG].clone());
    // Transfers until it has noticed.
    eventually("the wrong node stops", WITHIN, || {
        let transaction = wallet.transfers([(7, 5)]);
        let (client, wrong) = (clients[0].clone(), wrong.clone());
        async move {
            let answer = client.post_bytes("/blockchain/transactions", transaction.shared_bytes()).await;
            assert!(matches!(answer.status, 200 | 202), "{}", answer.body);
            let status = wrong.get("/consensus/status").await;
            status.body["divergence"].is_object().then_some(())
        }
    })
    .await;
    // The others agree, are ready, and go on; the wrong node's height stands still.
    let height = clients[0].height().await.unwrap();
    let answer = clients[1].post_bytes("/blockchain/transactions", wallet.transfers([(8, 5)]).shared_bytes()).await;
    assert_eq!(answer.status, 200, "the others commit: {}", answer.body);
    for node in others {
        cluster.wait_above(node, height, WITHIN).await;
        assert_eq!(clients[node].get("/ready").await.status, 200);
        assert!(clients[node].read("/consensus/status").await["divergence"].is_null());
    }
    cluster.wait_equal(&others, WITHIN).await;
    jailed_alike(&cluster, &others).await;
    // What was on its way when it noticed may still have been published; from here on it stands still.
    let stopped = stopped_state(&clients[WRONG]).await;
    let height = clients[0].height().await.unwrap();
    let answer = clients[1].post_bytes("/blockchain/transactions", wallet.transfers([(9, 5)]).shared_bytes()).await;
    assert_eq!(answer.status, 200, "the others commit: {}", answer.body);
    cluster.wait_above(0, height, WITHIN).await;
    assert_eq!(stopped_state(&clients[WRONG]).await, stopped, "it executes no more");
    assert!(cluster.log(WRONG).contains("execution differs"), "the alarm is in the log");

    // A restart, with an executor that is right again, does not make it forget.
    assert_eq!(cluster.stop(WRONG), Some(0));
    cluster.launch_under(&["env", NEWEST].map(str::to_owned), WRONG, false);
    eventually("it is up again and stands still", WITHIN, || async {
        let ready = wrong.get("/ready").await;
        (ready.status == 503 && ready.body.to_string().contains("this node has stopped")).then_some(())
    })
    .await;
    assert_eq!(cluster.exited(WRONG), None, "its data can be looked at");
}

/// What it attests is proven wrong in one block on all others: it is jailed and not slashed, and nobody else is.
async fn jailed_alike(cluster: &Cluster, others: &[usize]) {
    let mut heights = Vec::new();
    for node in others {
        let client = cluster.client(*node);
        let wrong = eventually(&format!("{} holds v3 jailed", cluster.name(*node)), WITHIN, || async {
            let answer = client.get("/validators/v3").await;
            (answer.status == 200 && answer.body["status"] == "jailed").then_some(answer.body)
        })
        .await;
        assert_eq!((&wrong["slashedStake"], &wrong["removed"]), (&"0".into(), &false.into()), "{wrong}");
        let events = client.read("/validators/slashing-events").await;
        let event = &events["events"][0];
        assert_eq!((&events["total"], &event["validatorId"]), (&1.into(), &"v3".into()), "{events}");
        assert_eq!((&event["reason"], &event["amount"]), (&"wrongAttestation".into(), &"0".into()), "{events}");
        heights.push(event["height"].as_u64().unwrap());
    }
    assert!(heights.iter().all(|height| *height == heights[0]), "one block on all: {heights:?}");
}

/// Height and divergence of the node that has stopped.
async fn stopped_state(client: &aurigraph_testkit::Client) -> (u64, serde_json::Value) {
    let ready = client.get("/ready").await;
    assert!(ready.status == 503 && ready.body.to_string().contains("this node has stopped"), "{}", ready.body);
    let status = client.read("/consensus/status").await;
    assert_eq!(client.read("/health").await["status"], "DIVERGED");
    (status["height"].as_u64().unwrap(), status["divergence"].clone())
}
