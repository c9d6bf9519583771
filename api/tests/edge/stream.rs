//! The event stream: kinds, resuming, the end at shutdown.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Response};
use serde_json::Value;

use crate::node::{TestNode, WITHIN};

/// One server-sent event.
#[derive(Debug, Clone, PartialEq)]
struct Sent {
    id: Option<u64>,
    kind: String,
    data: Value,
}

/// Reads a stream event by event.
struct Reader {
    response: Response<Incoming>,
    text: String,
}

impl Reader {
    async fn open(node: &TestNode, query: &str, last: Option<u64>) -> Self {
        let last = last.map(|id| id.to_string());
        let headers: Vec<(&str, &str)> = last.as_deref().map(|id| ("last-event-id", id)).into_iter().collect();
        let response = node.send(Method::GET, &format!("/events{query}"), &headers, bytes::Bytes::new()).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// The next event; comments are passed over. None at the end of the stream.
    async fn next(&mut self) -> Option<Sent> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| {
                    block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
                };
                if let Some(data) = field("data") {
                    let id = field("id").map(|id| id.parse().expect("a number"));
                    let data = serde_json::from_str(data).expect("data is JSON");
                    return Some(Sent { id, kind: field("event").expect("a kind").to_owned(), data });
                }
            }
            let frame = tokio::time::timeout(WITHIN, self.response.body_mut().frame()).await.expect("in time")?;
            let data = frame.ok()?.into_data().expect("data");
            self.text.push_str(std::str::from_utf8(&data).expect("text"));
        }
    }

    async fn next_of(&mut self, kind: &str) -> Sent {
        loop {
            let event = self.next().await.expect("the stream goes on");
            if event.kind == kind {
                return event;
            }
        }
    }
}

async fn commit(node: &TestNode, nonce: u64) -> String {
    let transaction = node.transaction(0, nonce, &[(9, 1)]);
    let answer = node.post_bytes("/blockchain/transactions", transaction.shared_bytes()).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    transaction.id().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_tells_of_commits_and_resumes_where_it_broke_off() {
    let node = TestNode::start("stream", |_| {}).await;
    let mut reader = Reader::open(&node, "?kinds=block,transaction", None).await;
    let first = commit(&node, 0).await;
    let event = reader.next_of("transaction").await;
    assert_eq!(event.data["transactions"][0]["hash"], first);
    let seen = event.id.expect("events have ids");
    drop(reader);
    // Missed while nobody listened.
    let second = commit(&node, 1).await;
    let mut reader = Reader::open(&node, "?kinds=transaction", Some(seen)).await;
    let event = reader.next().await.expect("the backlog");
    assert_eq!((event.kind.as_str(), &event.data["transactions"][0]["hash"]), ("transaction", &Value::from(second)));
    assert!(event.id.expect("an id") > seen);
    let third = commit(&node, 2).await;
    assert_eq!(reader.next().await.expect("live").data["transactions"][0]["hash"], third);
    // An id that this stream never gave.
    let mut reader = Reader::open(&node, "?lastEventId=1", None).await;
    assert_eq!(reader.next().await.expect("an event").kind, "gap");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_when_the_node_stops_and_nobody_waits_for_them() {
    let node = TestNode::start("ends", |_| {}).await;
    let mut reader = Reader::open(&node, "", None).await;
    reader.next_of("block").await;
    let began = std::time::Instant::now();
    node.stop().await;
    while reader.next().await.is_some() {}
    assert!(began.elapsed() < WITHIN, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_dies_closes_its_streams_with_a_reason_and_later_ids_are_greater() {
    let node = TestNode::start("hubdies", |_| {}).await;
    let mut reader = Reader::open(&node, "?kinds=transaction", None).await;
    commit(&node, 0).await;
    let seen = reader.next().await.expect("an event").id.expect("an id");
    let registry = &node.node.context().registry;
    assert!(registry.kill("hubdies1/event-hub", aurigraph_runtime::KillMode::Kill));
    let end = reader.next().await.expect("the last event");
    assert_eq!(end.kind, "closed");
    assert!(end.data["reason"].is_string());
    assert_eq!(reader.next().await, None);
    let began = std::time::Instant::now();
    while registry.row("hubdies1/event-hub").is_none_or(|row| row.restarts == 0 || row.mailbox_bound == 0)
        || node.send(Method::GET, "/events", &[], bytes::Bytes::new()).await.status() != 200
    {
        assert!(began.elapsed() < WITHIN, "the hub did not come back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut reader = Reader::open(&node, "?kinds=transaction", Some(seen)).await;
    assert_eq!(reader.next().await.expect("an event").kind, "gap");
    commit(&node, 1).await;
    assert!(reader.next_of("transaction").await.id.expect("an id") > seen);
    node.stop().await;
}
