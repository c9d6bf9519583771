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
use aurigraph_api::Port;
use aurigraph_runtime::ChildSpec;
use aurigraph_runtime::telemetry::logs::install;
use aurigraph_runtime::telemetry::{LogFormat, LogSettings, Metrics};

use crate::error::{CliError, CliResult, Exit};

/// Starts the node; returns when every actor runs.
///
/// # Errors
/// A port that is taken, a data directory that must not be used, or an actor that does not start.
pub async fn start(settings: NodeSettings) -> CliResult<RunningNode> {
    let (started, started_at) = (Instant::now(), Timestamp::now());
    let failed = |error: &dyn std::fmt::Display| CliError::failed(error.to_string());
    let metrics = Metrics::install(&settings.name).map_err(|error| failed(&error))?;
    let log = LogSettings { node: settings.name.clone(), format: LogFormat::Auto, filter: None };
    install(&log).map_err(|error| failed(&error))?;
    aurigraph_actors::crypto::log_back_end();
    let port = Port::bind(settings.rest).await;
    let port = port.map_err(|error| CliError::new(Exit::PortInUse, error.to_string()))?;
    let render = metrics.clone();
    let edge = move |context: &Arc<NodeContext>| {
        let sources = Arc::new(Sources::of(context, started, started_at));
        vec![ChildSpec::supervisor(aurigraph_api::spec(&sources, &port, &(Arc::new(move || render.render()) as _)))]
    };
    let name = settings.name.clone();
    let node = start_node(settings, metrics, edge).await;
    node.map_err(|error| CliError::new(exit_of(&error), format!("node {name}: {error}")))
}

fn exit_of(error: &StartNodeError) -> Exit {
    match error {
        StartNodeError::Journal(JournalError::Io { .. } | JournalError::Thread(_)) => Exit::Failed,
        StartNodeError::Journal(_)
        | StartNodeError::Store(_)
        | StartNodeError::Refill(_)
        | StartNodeError::NotInForce { .. }
        | StartNodeError::Sets(_)
        | StartNodeError::Directory { .. } => Exit::DataDirectory,
        StartNodeError::Snapshot(_) | StartNodeError::Cluster(_) | StartNodeError::Tree(_) => Exit::Failed,
    }
}
