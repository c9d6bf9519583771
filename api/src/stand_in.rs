//! What answers in a node's place while it cannot serve: the same problem for everything, and the metrics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::header::{CONTENT_TYPE, HeaderValue};
use warp::http::{Method, Response};
use warp::path::FullPath;

use crate::edge::RenderMetrics;
use crate::mount::record;
use crate::problem::Problem;
use crate::routes::node::PROMETHEUS_TEXT;
use crate::server::{Port, listen};

/// The label of its requests in the metrics.
const LABEL: &str = "stand-in";
/// How long it waits for the server before it to let go of the port.
const PORT_WITHIN: Duration = Duration::from_secs(5);

/// What every request is told at this moment.
pub type SayWhy = Arc<dyn Fn() -> Problem + Send + Sync>;

/// Answers every request on a port with a problem, but those for metrics, until the future is dropped. If the server
/// before it does not let go of the port, nobody answers.
pub async fn stand_in(port: &Port, why: SayWhy, metrics: RenderMetrics, max_connections: usize) {
    let Some(listener) = port.take(PORT_WITHIN).await else {
        tracing::warn!(address = %port.address(), "an earlier server still holds the port: nobody is told why the node waits");
        return std::future::pending().await;
    };
    listen(listener, filter(why, metrics), max_connections, &watch::Sender::new(false)).await;
}

fn filter(why: SayWhy, metrics: RenderMetrics) -> BoxedFilter<(warp::reply::Response,)> {
    let answer = move |method: Method, path: FullPath| {
        let (began, path) = (Instant::now(), path.as_str());
        let response = if path.ends_with("/metrics") && method == Method::GET {
            let mut response = Response::new(metrics().into());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROMETHEUS_TEXT));
            response
        } else {
            why().into_response(path)
        };
        record(LABEL, &method, &response, began);
        response
    };
    warp::method().and(warp::path::full()).map(answer).boxed()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn ask(port: &Port, method: &str, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(port.address()).await.unwrap();
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn everything_is_told_why_but_who_asks_for_metrics() {
        let port = Port::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let why = || Problem::unavailable("no_room", "the disk is full", Duration::from_secs(5)).with("freeBytes", 17);
        let (answering, metrics) = (port.clone(), Arc::new(|| "a_metric 1\n".to_owned()));
        let task = tokio::spawn(async move { stand_in(&answering, Arc::new(why), metrics, 16).await });
        for (method, path) in [
            ("GET", "/health"),
            ("GET", "/api/v11/ready"),
            ("POST", "/api/v11/transactions"),
            ("POST", "/metrics"),
            ("GET", "/"),
        ] {
            let answer = ask(&port, method, path).await;
            let said = answer.to_lowercase();
            assert!(
                said.starts_with("http/1.1 503 ") && said.contains("\r\nretry-after: 5\r\n"),
                "{method} {path}: {answer}"
            );
            let body: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
            assert_eq!((&body["code"], &body["freeBytes"]), (&"no_room".into(), &17.into()), "{answer}");
        }
        for path in ["/metrics", "/q/metrics", "/api/v11/metrics"] {
            let answer = ask(&port, "GET", path).await;
            assert!(
                answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\na_metric 1\n"),
                "{path}: {answer}"
            );
        }
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(port.take(PORT_WITHIN).await.is_some(), "the port is free for the next");
    }
}
