//! Asking a node over HTTP: JSON in, JSON out, problems turned into errors.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::error::{CliError, CliResult, Exit};

/// Largest answer that is read.
const MAX_ANSWER: usize = 64 << 20;

/// An answer of a node.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// Seconds after which to try again, if the node said so.
    pub retry_after: Option<u64>,
    /// The body as JSON; null if it is none.
    pub body: Value,
}

impl Answer {
    /// What the node said was wrong.
    pub fn problem(&self) -> String {
        let text = |name: &str| self.body.get(name).and_then(Value::as_str);
        match (text("code"), text("detail").or_else(|| text("title"))) {
            (Some(code), Some(detail)) => format!("{} {code}: {detail}", self.status.as_u16()),
            (None, Some(detail)) => format!("{}: {detail}", self.status.as_u16()),
            _ => self.status.to_string(),
        }
    }
}

/// A client of one node; keeps its connections.
#[derive(Clone)]
pub struct NodeClient {
    base: String,
    within: Duration,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl NodeClient {
    /// A client of the node at `http://host:port`.
    pub fn new(url: &str) -> Self {
        Self::with_timeout(url, Duration::from_secs(10))
    }

    /// A client that gives up on an answer after `within`.
    pub fn with_timeout(url: &str, within: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(3).min(within)));
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Self { base: url.trim_end_matches('/').to_owned(), within, client }
    }

    /// The node's address.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// One request; any status is an answer.
    ///
    /// # Errors
    /// Unreachable, no answer in time, or an answer that is no HTTP.
    pub async fn request(&self, method: Method, path: &str, content_type: &str, body: Bytes) -> CliResult<Answer> {
        let unreachable = |problem: String| CliError::new(Exit::Unreachable, format!("{}: {problem}", self.base));
        let request = Request::builder()
            .method(method)
            .uri(format!("{}/api/v11{path}", self.base))
            .header("content-type", content_type)
            .body(Full::new(body))
            .map_err(|error| CliError::failed(format!("{}{path}: {error}", self.base)))?;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| unreachable(root_cause(&error)))?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            let body = http_body_util::Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| unreachable(error.to_string()))?.to_bytes();
            let retry_after = headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
            Ok(Answer { status, retry_after, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
        };
        let timed_out = || unreachable(format!("no answer within {:?}", self.within));
        tokio::time::timeout(self.within, exchange).await.map_err(|_| timed_out())?
    }

    /// A read that must succeed.
    ///
    /// # Errors
    /// Those of [`NodeClient::request`], and any status but 2xx.
    pub async fn get(&self, path: &str) -> CliResult<Value> {
        let answer = self.request(Method::GET, path, "application/json", Bytes::new()).await?;
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        Err(CliError::new(exit_of(answer.status), format!("{}{path}: {}", self.base, answer.problem())))
    }
}

/// Which exit code a status means.
pub fn exit_of(status: StatusCode) -> Exit {
    match status.as_u16() {
        409 | 422 | 404 => Exit::Refused,
        429 | 500.. => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

/// The innermost cause: the outer ones say only that a request failed.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// A string field that the node must have given.
///
/// # Errors
/// If it is absent.
pub fn text_field<'a>(value: &'a Value, name: &str) -> CliResult<&'a str> {
    value[name].as_str().ok_or_else(|| CliError::failed(format!("the node's answer has no text field {name:?}")))
}

/// A whole-number field that the node must have given.
///
/// # Errors
/// If it is absent.
pub fn number_field(value: &Value, name: &str) -> CliResult<u64> {
    value[name].as_u64().ok_or_else(|| CliError::failed(format!("the node's answer has no number field {name:?}")))
}
