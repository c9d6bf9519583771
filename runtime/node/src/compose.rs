//! Puts a node together: telemetry, the actors' tree, and the HTTP edge as its last child.
//!
//! The only place that knows both the actors and the edge. Nothing is decided here.

use std::sync::Arc;
use std::time::Instant;

use aurigraph_actors::context::NodeContext;
use aurigraph_actors::query::Sources;
use aurigraph_actors::query::values::Timestamp;
use aurigraph_actors::settings::NodeSettings;
use aurigraph_actors::storage::JournalError;
use aurigraph_actors::tree::{RunningNode, StartNodeError, start_node};
use aurigraph_api::{Port, RenderMetrics};
use aurigraph_runtime::ChildSpec;
use aurigraph_runtime::telemetry::logs::install;
use aurigraph_runtime::telemetry::{LogFormat, LogSettings, Metrics};

use crate::error::{CliError, CliResult, Exit};

/// What a process has whether or not its node runs: log, metrics and the bound REST port.
pub struct Frame {
    started: Instant,
    started_at: Timestamp,
    /// Of this process.
    pub metrics: Metrics,
    /// Where clients ask.
    pub port: Port,
}

impl Frame {
    /// Sets up log and metrics and binds the port; once a process.
    ///
    /// # Errors
    /// A port that is taken.
    pub async fn set_up(settings: &NodeSettings) -> CliResult<Self> {
        let (started, started_at) = (Instant::now(), Timestamp::now());
        let failed = |error: &dyn std::fmt::Display| CliError::failed(error.to_string());
        let metrics = Metrics::install(&settings.name).map_err(|error| failed(&error))?;
        let log = LogSettings { node: settings.name.clone(), format: LogFormat::Auto, filter: None };
        install(&log).map_err(|error| failed(&error))?;
        aurigraph_actors::crypto::log_back_end();
        let port = Port::bind(settings.rest).await;
        let port = port.map_err(|error| CliError::new(Exit::PortInUse, error.to_string()))?;
        Ok(Self { started, started_at, metrics, port })
    }

    /// Renders the metrics for whoever asks over HTTP.
    pub fn render(&self) -> RenderMetrics {
        let metrics = self.metrics.clone();
        Arc::new(move || metrics.render())
    }

    /// Starts the node; returns when every actor runs.
    ///
    /// # Errors
    /// A data directory that must not be used, or an actor that does not start.
    pub async fn start(&self, settings: NodeSettings) -> Result<RunningNode, StartNodeError> {
        let (started, started_at, port, render) = (self.started, self.started_at, self.port.clone(), self.render());
        let edge = move |context: &Arc<NodeContext>| {
            let sources = Arc::new(Sources::of(context, started, started_at));
            vec![ChildSpec::supervisor(aurigraph_api::spec(&sources, &port, &render))]
        };
        start_node(settings, self.metrics.clone(), edge).await
    }
}

/// Why a node did not start, as the process says it.
pub fn not_started(name: &str, error: &StartNodeError) -> CliError {
    CliError::new(exit_of(error), format!("node {name}: {error}"))
}

fn exit_of(error: &StartNodeError) -> Exit {
    match error {
        _ if error.wants_room() => Exit::Failed,
        StartNodeError::Journal(JournalError::Io { .. } | JournalError::Thread(_)) => Exit::Failed,
        StartNodeError::Journal(_)
        | StartNodeError::Store(_)
        | StartNodeError::Refill(_)
        | StartNodeError::NotInForce { .. }
        | StartNodeError::Sets(_)
        | StartNodeError::Directory { .. } => Exit::DataDirectory,
        StartNodeError::Snapshot(_)
        | StartNodeError::Cluster(_)
        | StartNodeError::Tree(_)
        | StartNodeError::NoRoom(_) => Exit::Failed,
    }
}
