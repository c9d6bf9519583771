//! What the routes of one server incarnation share. No state of the node: limits, grants, the way to the actors.

use std::sync::Arc;

use aurigraph_actors::query::NodePort;
use aurigraph_actors::settings::{ApiLimits, TokenGrant};
use bytes::Bytes;
use tokio::sync::watch;

use crate::limiter::Limiter;

/// Renders all metrics in the Prometheus text format.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What the server is made of.
#[derive(Clone)]
pub struct ApiParts {
    /// The way to the actors.
    pub port: NodePort,
    /// Rates and sizes.
    pub limits: ApiLimits,
    /// Bearer tokens.
    pub tokens: Vec<TokenGrant>,
    /// May actors be killed through the admin route.
    pub chaos: bool,
    /// Renders the metrics.
    pub metrics: RenderMetrics,
}

/// What the routes share.
pub struct Edge {
    /// The way to the actors.
    pub port: NodePort,
    /// Rates and sizes.
    pub limits: ApiLimits,
    /// Bearer tokens.
    pub tokens: Vec<TokenGrant>,
    /// May actors be killed through the admin route.
    pub chaos: bool,
    /// Renders the metrics.
    pub metrics: RenderMetrics,
    /// Token buckets.
    pub limiter: Limiter,
    /// The OpenAPI document, generated once.
    pub document: Bytes,
    /// True once the server stops: event streams end then.
    pub stopping: watch::Sender<bool>,
}

impl Edge {
    /// What the routes of a new incarnation share.
    #[must_use]
    pub fn new(parts: ApiParts) -> Arc<Self> {
        let document = serde_json::to_vec(&crate::openapi::document()).unwrap_or_default();
        Arc::new(Self {
            limiter: Limiter::new(parts.limits.requests_per_second, parts.limits.burst),
            port: parts.port,
            limits: parts.limits,
            tokens: parts.tokens,
            chaos: parts.chaos,
            metrics: parts.metrics,
            document: document.into(),
            stopping: watch::Sender::new(false),
        })
    }
}
