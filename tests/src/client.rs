//! Asking one node over HTTP.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// How long one answer may take.
const WITHIN: Duration = Duration::from_secs(10);

/// A client of one node; keeps its connections.
#[derive(Clone)]
pub struct Client {
    base: String,
    http: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
}

/// A node's answer; status 0 = it did not answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status, or 0.
    pub status: u16,
    /// The body as JSON, or null.
    pub body: Value,
    /// The media type, or nothing.
    pub content_type: String,
    /// Seconds after which the node wants to be asked again, if it said so.
    pub retry_after: Option<u64>,
}

impl Answer {
    /// Fails unless this is an RFC 9457 problem of this status and code.
    #[track_caller]
    pub fn is_problem(&self, status: u16, code: &str, what: &str) {
        assert_eq!((self.status, self.body["code"].as_str()), (status, Some(code)), "{what}: {}", self.body);
        assert_eq!(self.content_type, "application/problem+json", "{what}");
    }
}

impl Client {
    /// A client of the node at `http://host:port`.
    #[must_use]
    pub fn new(base: &str) -> Self {
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
        Self { base: base.to_owned(), http }
    }

    /// The node's address.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// One request to a path under `/api/v11`.
    pub async fn request(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("{}/api/v11{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).expect("a well-formed request");
        let exchange = async {
            let answer = self.http.request(request).await.ok()?;
            let status = answer.status().as_u16();
            let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
            let (content_type, retry_after) =
                (header("content-type").unwrap_or_default().to_owned(), header("retry-after"));
            let retry_after = retry_after.and_then(|seconds| seconds.parse().ok());
            let body = answer.into_body().collect().await.ok()?.to_bytes();
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            Some(Answer { status, body, content_type, retry_after })
        };
        let none = Answer { status: 0, body: Value::Null, content_type: String::new(), retry_after: None };
        tokio::time::timeout(WITHIN, exchange).await.ok().flatten().unwrap_or(none)
    }

    /// A read, whatever its answer.
    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, &[], Bytes::new()).await
    }

    /// A read of a text; empty if the node does not answer.
    pub async fn text(&self, path: &str) -> String {
        let Ok(uri) = format!("{}/api/v11{path}", self.base).parse() else { return String::new() };
        let exchange = async {
            let body = self.http.get(uri).await.ok()?.into_body().collect().await.ok()?.to_bytes();
            Some(String::from_utf8_lossy(&body).into_owned())
        };
        tokio::time::timeout(WITHIN, exchange).await.ok().flatten().unwrap_or_default()
    }

    /// A read that must succeed.
    pub async fn read(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "GET {}{path}: {}", self.base, answer.body);
        answer.body
    }

    /// Posts JSON, with a bearer token if one is given.
    pub async fn post(&self, path: &str, token: Option<&str>, body: &Value) -> Answer {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        self.request(Method::POST, path, &headers, body.to_string().into()).await
    }

    /// Posts bytes.
    pub async fn post_bytes(&self, path: &str, body: Bytes) -> Answer {
        self.request(Method::POST, path, &[("content-type", "application/octet-stream")], body).await
    }

    /// The sum of a metric over its series that carry all these labels (each as `name="value"`); 0 if there is none.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let uri = format!("{}/api/v11/metrics", self.base).parse().expect("a well-formed address");
        let exchange = async {
            let body = self.http.get(uri).await.ok()?.into_body().collect().await.ok()?.to_bytes();
            String::from_utf8(body.to_vec()).ok()
        };
        let text = tokio::time::timeout(WITHIN, exchange).await.ok().flatten().unwrap_or_default();
        let series = text.lines().filter_map(|line| {
            let (head, value) = line.rsplit_once(' ')?;
            let own = head.split('{').next() == Some(name) && labels.iter().all(|label| head.contains(label));
            own.then(|| value.parse::<f64>().ok()).flatten()
        });
        series.sum()
    }

    /// The height of the newest published block; none if the node does not answer.
    pub async fn height(&self) -> Option<u64> {
        self.get("/consensus/status").await.body["height"].as_u64()
    }

    /// Hash and state root of the block at a height; none if the node has none there.
    pub async fn block(&self, height: u64) -> Option<(String, String)> {
        let body = self.get(&format!("/blockchain/blocks/{height}")).await.body;
        Some((body["hash"].as_str()?.to_owned(), body["stateRoot"].as_str()?.to_owned()))
    }
}
