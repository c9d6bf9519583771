//! Puts a node together: telemetry, the actors' tree, and the HTTP edge as its last child.
//!
//! The only place that knows both the actors and the edge. Nothing is decided here.

use std::sync::Arc;
use std::time::Instant;

use aurigraph_actors::context::NodeContext;
use aurigraph_actors::mempool::{Batch, PreparedBatch};
use aurigraph_actors::query::values::Timestamp;
use aurigraph_actors::query::{Archive, ArchivedBlock, ArchivedTransaction, LinkFacts, Sources, ValidatorWatch};
use aurigraph_actors::settings::NodeSettings;
use aurigraph_actors::storage::{
    BlockRow, JournalError, JournalReader, RecordKind, StoreReader, TransactionLocation, TransactionRow,
};
use aurigraph_actors::tree::{RunningNode, StartNodeError, start_node};
use aurigraph_api::Port;
use aurigraph_ledger::Hash;
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
    let port = Port::bind(settings.rest).await;
    let port = port.map_err(|error| CliError::new(Exit::PortInUse, error.to_string()))?;
    let render = metrics.clone();
    let edge = move |context: &Arc<NodeContext>| {
        let sources = Arc::new(sources(context, started, started_at));
        vec![ChildSpec::supervisor(aurigraph_api::spec(&sources, &port, &(Arc::new(move || render.render()) as _)))]
    };
    let name = settings.name.clone();
    let node = start_node(settings, metrics, edge).await;
    node.map_err(|error| CliError::new(exit_of(&error), format!("node {name}: {error}")))
}

fn exit_of(error: &StartNodeError) -> Exit {
    match error {
        StartNodeError::Journal(JournalError::Io { .. } | JournalError::Thread(_)) => Exit::Failed,
        StartNodeError::Journal(_) | StartNodeError::Store(_) | StartNodeError::Directory { .. } => Exit::DataDirectory,
        StartNodeError::Cluster(_) | StartNodeError::Tree(_) => Exit::Failed,
    }
}

fn sources(context: &Arc<NodeContext>, started: Instant, started_at: Timestamp) -> Sources {
    let links = context.net.clone();
    let gpu = context.settings.features.gpu_acceleration;
    Sources {
        settings: context.settings.clone(),
        chain_id: context.chain_id,
        registry: context.registry.clone(),
        published: context.published.subscribe(),
        consensus: context.consensus_status.subscribe(),
        archive: Arc::new(NodeArchive { store: context.store.clone(), journal: context.journal.clone() }),
        links: Arc::new(move || links.status().into_iter().map(link_facts).collect()),
        schema_version: context.store.schema_version().ok().map(u64::from),
        no_gpu: if gpu { aurigraph_gpu::detect().err().map(|reason| reason.to_string()) } else { None },
        started_at,
        started,
        validators: parking_lot::Mutex::new(ValidatorWatch::new(context.settings.genesis.validators.len())),
    }
}

fn link_facts(peer: aurigraph_runtime::cluster::PeerStatus) -> LinkFacts {
    LinkFacts {
        name: peer.name,
        up: peer.up,
        since: peer.since,
        round_trip_ms: peer.rtt_ms,
        bytes_in: peer.bytes_in,
        bytes_out: peer.bytes_out,
        messages_in: peer.messages_in,
        messages_out: peer.messages_out,
    }
}

/// The store's index and the journal's bodies, as one archive.
struct NodeArchive {
    store: StoreReader,
    journal: JournalReader,
}

fn block_of(row: BlockRow) -> ArchivedBlock {
    ArchivedBlock { hash: row.hash, header: row.header }
}

fn transaction_of(row: TransactionRow) -> ArchivedTransaction {
    let TransactionLocation { height, index } = row.location;
    ArchivedTransaction { id: row.id, height, index, batch: row.batch, position: row.position, receipt: row.receipt }
}

impl Archive for NodeArchive {
    fn block(&self, height: u64) -> Result<Option<ArchivedBlock>, String> {
        let row = self.store.header_by_height(height).map_err(|error| error.to_string())?;
        Ok(row.map(block_of))
    }

    fn block_by_hash(&self, hash: &Hash) -> Result<Option<ArchivedBlock>, String> {
        let row = self.store.header_by_hash(hash).map_err(|error| error.to_string())?;
        Ok(row.map(block_of))
    }

    fn transaction(&self, id: &Hash) -> Result<Option<ArchivedTransaction>, String> {
        let Some(location) = self.store.transaction(id).map_err(|error| error.to_string())? else { return Ok(None) };
        let row = self.store.transaction_row(location).map_err(|error| error.to_string())?;
        Ok(row.map(transaction_of))
    }

    fn transactions_of(&self, height: u64, from: u32, count: u32) -> Result<Vec<ArchivedTransaction>, String> {
        let rows = self.store.block_transactions(height, from, count as usize).map_err(|error| error.to_string())?;
        Ok(rows.into_iter().map(transaction_of).collect())
    }

    fn batch(&self, digest: &Hash) -> Result<Option<Arc<PreparedBatch>>, String> {
        let body = self.journal.get(RecordKind::Batch, digest).map_err(|error| error.to_string())?;
        let Some(body) = body else { return Ok(None) };
        let max = body.len();
        let batch = Batch::parse(body, max).map_err(|error| error.to_string())?;
        Ok(Some(Arc::new(PreparedBatch::new(&batch))))
    }
}
