//! Listening to a node's event stream: when its transactions were committed, and how many operations failed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aurigraph_ledger::Hash;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;

use super::load::Target;

/// The wait before a broken stream is asked for again.
const RETRY: Duration = Duration::from_millis(200);

/// What was heard of one node.
#[derive(Debug, Default, Clone)]
pub struct Heard {
    /// Latencies of measured transactions, in the order of their commits.
    pub latencies: Vec<Duration>,
    /// Operations that were executed and failed.
    pub failed_operations: u64,
}

/// A task that listens to one node.
pub struct Watcher {
    heard: Arc<Mutex<Heard>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Transactions {
    transactions: Vec<Outcome>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    hash: Hash,
    failed_operations: u64,
}

impl Watcher {
    /// Starts listening.
    pub fn start(target: Arc<Target>) -> Self {
        let heard = Arc::<Mutex<Heard>>::default();
        let into = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
            let mut last_id = None;
            loop {
                // A stream that breaks is asked for again from its last event on.
                listen(&client, &target, &into, &mut last_id).await.unwrap_or_default();
                tokio::time::sleep(RETRY).await;
            }
        });
        Self { heard, task }
    }

    /// Stops listening and gives what was heard.
    pub fn finish(self) -> Heard {
        self.task.abort();
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn listen(
    client: &Client<HttpConnector, Empty<Bytes>>,
    target: &Target,
    into: &Mutex<Heard>,
    last_id: &mut Option<String>,
) -> Option<()> {
    let mut request = hyper::Request::get(format!("{}/api/v11/events?kinds=transaction", target.client.url()));
    if let Some(id) = last_id {
        request = request.header("last-event-id", id.as_str());
    }
    let answer = client.request(request.body(Empty::new()).ok()?).await.ok()?;
    let mut body = answer.into_body();
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.ok()?.into_data() else { continue };
        pending.extend_from_slice(&data);
        let Some(end) = pending.iter().rposition(|byte| *byte == b'\n') else { continue };
        for line in pending[..end].split(|byte| *byte == b'\n') {
            take_line(line, target, into, last_id);
        }
        pending.drain(..=end);
    }
    Some(())
}

fn take_line(line: &[u8], target: &Target, into: &Mutex<Heard>, last_id: &mut Option<String>) {
    if let Some(id) = line.strip_prefix(b"id:") {
        *last_id = Some(String::from_utf8_lossy(id).trim().to_owned());
    } else if let Some(data) = line.strip_prefix(b"data:") {
        let Ok(event) = serde_json::from_slice::<Transactions>(data) else { return };
        let mut heard = into.lock().unwrap_or_else(PoisonError::into_inner);
        for outcome in event.transactions {
            heard.failed_operations += outcome.failed_operations;
            heard.latencies.extend(target.latency_of(&outcome.hash));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::NodeClient;

    #[test]
    fn event_lines_are_understood_and_others_passed_over() {
        let target = Target::new(NodeClient::new("http://127.0.0.1:1"), Vec::new());
        let (into, mut id) = (Mutex::default(), None);
        let hash = Hash::ZERO;
        let data = format!(
            "data:{{\"blockHeight\":3,\"transactions\":[{{\"hash\":\"{hash}\",\"index\":0,\"operations\":5,\"failedOperations\":2}}]}}"
        );
        for line in ["event: transaction", "id: 17", data.as_str(), ": keep-alive", "data: {}", ""] {
            take_line(line.as_bytes(), &target, &into, &mut id);
        }
        assert_eq!(into.lock().unwrap().failed_operations, 2);
        assert_eq!(id.as_deref(), Some("17"));
    }
}
