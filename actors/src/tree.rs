//! The supervision tree of one node: which actors there are, under whom, in which order.
//!
//! The only place where the actors meet. The binary adds the subtree of the HTTP edge as the last child.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aurigraph_ledger::{Hash, h};
use aurigraph_runtime::cluster::{self, ClusterError, ClusterSettings, DoorLimits, LinkLimits, PeerSpec};
use aurigraph_runtime::telemetry::{Metrics, Upkeep, upkeep::UPKEEP_MAILBOX};
use aurigraph_runtime::{Buffers, ChildSpec, Registry, StartError, Strategy, SupervisorSpec, Tree};

use crate::audit::{AuditActor, AuditLevel, AuditReader, AuditRecord};
use crate::bounds;
use crate::config::public_key_of_seed;
use crate::consensus::{BlockFetcher, CommitSync, Validator, ValidatorMailbox, epochs};
use crate::context::{NodeContext, NodeParts};
use crate::crypto::{GpuWorker, Gpus, Verifier, VerifyDispatcher, Worker, describe_metrics};
use crate::fatal::Fatal;
use crate::mempool::{
    Admission, AdmissionParts, BatchStore, BatchStoreParts, Batcher, BatcherParts, Behind, ChainView, Latest,
};
use crate::network::{Links, Router};
use crate::parties::InJournal;
use crate::pipeline::{Execute, Order, Persist, Publish, Verify};
use crate::pruning::{Pruner, RefillError, refill};
use crate::settings::NodeSettings;
use crate::storage::room::is_want_of_room;
use crate::storage::snapshots::{self, InstallError, SnapshotSync, Snapshots};
use crate::storage::{
    Journal, JournalActor, JournalError, JournalIdentity, JournalOptions, Store, StoreActor, StoreError, StoreOptions,
};

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartNodeError {
    /// The data directory cannot be created.
    #[error("cannot create {path}: {source}")]
    Directory {
        /// The directory.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store has lost its state, and what is left of the log does not lead to it.
    #[error(transparent)]
    Refill(#[from] RefillError),
    /// The log knows no epoch in which this validator has this key.
    #[error(
        "data directory {directory} belongs to this node under another validator key, and its log names the new one in no \
         validator set: the new keys come into force with the epoch after the rotation"
    )]
    NotInForce {
        /// The directory.
        directory: String,
    },
    /// What the log says of validators cannot be read.
    #[error("the validators in the log: {0}")]
    Sets(String),
    /// The snapshot to begin with.
    #[error(transparent)]
    Snapshot(#[from] InstallError),
    /// The links.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// An actor did not start.
    #[error(transparent)]
    Tree(#[from] StartError),
    /// A write that an actor made at its start found no room.
    #[error("{0}")]
    NoRoom(String),
}

impl StartNodeError {
    /// Whether there is no room on the disk: the node starts once there is.
    #[must_use]
    pub fn wants_room(&self) -> bool {
        matches!(self, Self::NoRoom(_)) || is_want_of_room(self)
    }
}

/// A node whose actors run.
pub struct RunningNode {
    tree: Tree,
    context: Arc<NodeContext>,
}

impl RunningNode {
    /// Whether the node is to start again, because a snapshot was taken.
    #[must_use]
    pub fn starts_again(&self) -> bool {
        snapshots::requested(&self.context.settings.data_dir).is_ok_and(|height| height.is_some())
    }

    /// Whether it ends because there is no room on the disk, and can go on once there is.
    #[must_use]
    pub fn wants_room(&self) -> bool {
        self.context.fatal.wants_room()
    }

    /// What its actors share.
    #[must_use]
    pub const fn context(&self) -> &Arc<NodeContext> {
        &self.context
    }

    /// Waits until the node cannot go on, and says why: a fatal condition, or a budget of restarts that is used up.
    pub async fn ended(&self) -> String {
        tokio::select! {
            end = self.tree.ended() => self.context.fatal.reason().unwrap_or(end.reason),
            reason = self.context.fatal.raised() => reason,
        }
    }

    /// Stops all actors in order; what has not stopped by the deadline is killed. The data directory is free for another
    /// node of this process a moment later: actors are dropped after they have stopped.
    ///
    /// # Errors
    /// What did not stop in order.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), aurigraph_runtime::ShutdownError> {
        self.tree.shutdown(deadline).await
    }
}

/// Opens a node's data directory and starts its tree; returns when every actor runs. `edge` builds the subtrees that
/// this crate does not know (the HTTP edge); they start last.
///
/// # Errors
/// [`StartNodeError`] with the facts an operator needs.
pub async fn start_node<F>(settings: NodeSettings, metrics: Metrics, edge: F) -> Result<RunningNode, StartNodeError>
where
    F: FnOnce(&Arc<NodeContext>) -> Vec<ChildSpec>,
{
    let started = Instant::now();
    let fatal = Fatal::default();
    let (journal, store) = open(&settings, &fatal).await?;
    let set_aside = store.set_aside().map(|path| path.display().to_string());
    let registry = Registry::new(&settings.name);
    let (links_spec, net) = cluster::spec(cluster_settings(&settings), Arc::new(Router::new(&registry)))?;
    let peers = settings.peers.iter().map(|peer| peer.name.clone()).collect();
    let gpus = if settings.features.gpu_acceleration { Gpus::found().await } else { Gpus::new(1, false) };
    describe_metrics();
    let context = Arc::new(NodeContext::new(NodeParts {
        settings,
        registry: registry.clone(),
        journal: journal.reader(),
        store: store.reader(),
        net: Links::new(net, peers),
        fatal,
        gpus,
    }));
    let mut root = SupervisorSpec::new("root", Strategy::OneForOne)
        .child(ChildSpec::supervisor(storage(journal, store, &context)))
        .child(ChildSpec::supervisor(crypto(&context)))
        .child(ChildSpec::supervisor(links_spec))
        .child(ChildSpec::supervisor(mempool(&context)))
        .child(ChildSpec::supervisor(consensus(&context)))
        .child(ChildSpec::supervisor(pipeline(&context, started)))
        .child(audit(&context, set_aside))
        .child(ChildSpec::behaviour("telemetry", UPKEEP_MAILBOX, move || Upkeep::new(metrics.clone())));
    for child in edge(&context) {
        root = root.child(child);
    }
    let tree = Tree::start(registry, root).await.map_err(|error| match context.fatal.reason() {
        Some(reason) if context.fatal.wants_room() => StartNodeError::NoRoom(reason),
        _ => error.into(),
    })?;
    Ok(RunningNode { tree, context })
}

async fn open(settings: &NodeSettings, fatal: &Fatal) -> Result<(Journal, Store), StartNodeError> {
    let directory = settings.data_dir.clone();
    std::fs::create_dir_all(&directory)
        .map_err(|source| StartNodeError::Directory { path: directory.display().to_string(), source })?;
    // Also that of a node which is to become a validator: nobody else could know what it signed.
    let key = settings.seeds.consensus.map(|seed| public_key_of_seed(&seed));
    let identity = JournalIdentity::new(settings.genesis.chain_id(), &settings.name, key.as_deref());
    let options = JournalOptions {
        initialise: settings.initialise,
        rejoin: settings.rejoin,
        segment_bytes: settings.segment_bytes,
        rotated: settings.rotated,
    };
    let (fatal, name) = (fatal.clone(), settings.name.clone());
    let (upgrade, rewrite) = (settings.upgrade_schema, settings.rewrite);
    let genesis = settings.genesis.clone();
    let opened = tokio::task::spawn_blocking(move || {
        // The journal holds the directory's lock, so it comes first.
        let journal = Journal::open(&directory, &identity, options, fatal)?;
        if journal.reader().is_under_another_key() {
            let is_named = epochs::names_key(&journal.reader(), key.as_deref().unwrap_or_default());
            if !is_named.map_err(|error| StartNodeError::Sets(error.to_string()))? {
                return Err(StartNodeError::NotInForce { directory: directory.display().to_string() });
            }
        }
        let bodies = Arc::new(InJournal(journal.reader()));
        let options = StoreOptions { upgrade, rewrite, ..StoreOptions::default() };
        let store = Store::open_with(&directory, &name, options, Some(bodies))?;
        store.complete(&journal.reader())?;
        snapshots::install_requested(&directory, &genesis, &journal, &store)?;
        refill(&directory, &genesis, &journal.reader(), &store)?;
        Ok((journal, store))
    });
    match opened.await {
        Ok(result) => result,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

pub(crate) fn cluster_settings(settings: &NodeSettings) -> ClusterSettings {
    let peers = settings.peers.iter().map(|peer| PeerSpec {
        name: peer.name.clone(),
        address: peer.address.to_string(),
        public_key: peer.network_key.clone(),
    });
    let Hash(cluster_secret) = h("cluster", settings.genesis.chain_id().as_ref());
    ClusterSettings {
        node: settings.name.clone(),
        listen: settings.listen,
        seed: settings.seeds.network,
        cluster_secret,
        peers: peers.collect(),
        network_batching: settings.features.network_batching,
        buffers: if settings.features.memory_pooling {
            Buffers::pooled(bounds::buffers::IDLE_BYTES)
        } else {
            Buffers::fresh()
        },
        links: LinkLimits::default(),
        door: DoorLimits::default(),
    }
}

fn storage(journal: Journal, store: Store, context: &Arc<NodeContext>) -> SupervisorSpec {
    let (snapshots, node, log) = (Arc::clone(context), Arc::clone(context), journal.clone());
    let (reader, fatal) = (journal.reader(), context.fatal.clone());
    SupervisorSpec::new("storage", Strategy::RestForOne)
        .child(ChildSpec::behaviour("journal", bounds::storage::JOURNAL_MAILBOX, move || {
            JournalActor::new(journal.clone())
        }))
        .child(ChildSpec::behaviour("store", bounds::storage::STORE_MAILBOX, move || {
            StoreActor::with_redo(store.clone(), reader.clone(), fatal.clone())
        }))
        .child(ChildSpec::behaviour("snapshots", bounds::snapshots::MAILBOX, move || {
            Snapshots::new(Arc::clone(&snapshots))
        }))
        .child(ChildSpec::behaviour("pruner", bounds::pruning::MAILBOX, move || {
            Pruner::new(Arc::clone(&node), log.clone())
        }))
}

fn crypto(context: &Arc<NodeContext>) -> SupervisorSpec {
    let threads = match context.settings.verifier_threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        threads => threads,
    };
    let on_processor = (0..threads).map(|at| Worker { role: format!("cpu-verifier/{at}"), device: None });
    let on_devices = context
        .gpus
        .iter()
        .map(|gpu| Worker { role: format!("gpu-worker/{}", gpu.index()), device: Some(Arc::clone(gpu)) });
    let workers: Vec<Worker> = on_processor.chain(on_devices).collect();
    let verifiers: Vec<ChildSpec> = workers
        .iter()
        .map(|worker| match worker.device.clone() {
            None => ChildSpec::behaviour(worker.role.clone(), bounds::crypto::VERIFIER_MAILBOX, || {
                Verifier::cpu(crate::crypto::cpu_back_end())
            }),
            Some(gpu) => ChildSpec::behaviour(worker.role.clone(), bounds::crypto::DEVICE_MAILBOX, move || {
                GpuWorker::cuda(Arc::clone(&gpu))
            }),
        })
        .collect();
    SupervisorSpec::new("crypto", Strategy::OneForOne).children(verifiers).child(ChildSpec::behaviour(
        "verify-dispatcher",
        bounds::crypto::DISPATCHER_MAILBOX,
        move || VerifyDispatcher::new(workers.clone()),
    ))
}

/// The newest published state, for actors that start in the middle of a node's life.
fn latest(context: &Arc<NodeContext>) -> Latest {
    let context = Arc::clone(context);
    Arc::new(move || context.published.borrow().clone().map(|published| published as Arc<dyn ChainView>))
}

fn behind(context: &Arc<NodeContext>) -> Behind {
    let context = Arc::clone(context);
    Arc::new(move || context.is_behind())
}

fn consensus(context: &Arc<NodeContext>) -> SupervisorSpec {
    let [validator, blocks, commits, snapshots] = std::array::from_fn(|_| Arc::clone(context));
    SupervisorSpec::new("consensus", Strategy::RestForOne)
        .child(ChildSpec::behaviour("validator", bounds::consensus::VALIDATOR_MAILBOX, move || {
            Validator::new(Arc::clone(&validator))
        }))
        .child(ChildSpec::behaviour("block-fetcher", bounds::consensus::BLOCKS_MAILBOX, move || {
            BlockFetcher(Arc::clone(&blocks))
        }))
        .child(ChildSpec::behaviour("commit-sync", bounds::consensus::COMMITS_MAILBOX, move || {
            CommitSync(Arc::clone(&commits))
        }))
        .child(ChildSpec::behaviour("snapshot-sync", bounds::snapshots::SYNC_MAILBOX, move || {
            SnapshotSync(Arc::clone(&snapshots))
        }))
}

fn pipeline(context: &Arc<NodeContext>, started: Instant) -> SupervisorSpec {
    let [order, verify, execute, persist, publish] = std::array::from_fn(|_| Arc::clone(context));
    let bound = bounds::pipeline::STAGE_MAILBOX;
    SupervisorSpec::new("pipeline", Strategy::OneForAll)
        .child(ChildSpec::behaviour("order", bounds::pipeline::ORDER_MAILBOX, move || Order::new(Arc::clone(&order))))
        .child(ChildSpec::behaviour("verify", bound, move || Verify::new(Arc::clone(&verify))))
        .child(ChildSpec::behaviour("execute", bound, move || Execute::new(Arc::clone(&execute))))
        .child(ChildSpec::behaviour("persist", bound, move || Persist::new(Arc::clone(&persist))))
        .child(ChildSpec::behaviour("publish", bound, move || Publish::new(Arc::clone(&publish), started)))
}

fn mempool(context: &Arc<NodeContext>) -> SupervisorSpec {
    let batchers = context.settings.batchers.max(1);
    let (store, admission) = (Arc::clone(context), Arc::clone(context));
    let mut spec = SupervisorSpec::new("mempool", Strategy::OneForOne).child(ChildSpec::behaviour(
        "batch-store",
        bounds::mempool::STORE_MAILBOX,
        move || batch_store(&store, batchers),
    ));
    // A node without a consensus key never proposes, so it takes no transactions either.
    let may_propose = context.settings.seeds.consensus.is_some();
    if may_propose {
        for at in 0..batchers {
            let node = Arc::clone(context);
            spec = spec.child(ChildSpec::behaviour(
                format!("batcher/{at}"),
                bounds::mempool::BATCHER_MAILBOX,
                move || batcher(&node),
            ));
        }
    }
    spec.child(ChildSpec::behaviour("admission", bounds::mempool::ADMISSION_MAILBOX, move || {
        Admission::new(AdmissionParts {
            chain_id: admission.chain_id,
            fees: admission.settings.genesis.fees,
            batchers: if may_propose { batchers } else { 0 },
            proposes: proposes(&admission),
            latest: latest(&admission),
            behind: behind(&admission),
        })
    }))
}

fn batch_store(node: &Arc<NodeContext>, batchers: usize) -> BatchStore {
    BatchStore::new(BatchStoreParts {
        members: node.members_reader(),
        batchers,
        max_batch: max_batch(node),
        buffers: node.net.buffers(),
        journal: node.journal.clone(),
        outbound: Arc::new(node.net.clone()),
        validator: Arc::new(ValidatorMailbox(node.registry.role("validator"))),
        latest: latest(node),
    })
}

fn proposes(node: &Arc<NodeContext>) -> Arc<dyn Fn() -> bool + Send + Sync> {
    let node = Arc::clone(node);
    Arc::new(move || node.members().own.is_some())
}

fn batcher(node: &Arc<NodeContext>) -> Batcher {
    let members = Arc::clone(node);
    Batcher::new(BatcherParts {
        seat: Arc::new(move || {
            let members = members.members();
            (members.epoch, members.own.unwrap_or_default())
        }),
        batching: node.settings.features.transaction_batching,
        batch_bytes: node.settings.pacing.batch_bytes.min(max_batch(node)),
        delay: Duration::from_millis(node.settings.pacing.batch_delay_ms),
    })
}

fn max_batch(node: &NodeContext) -> usize {
    node.settings.genesis.parameters.max_batch_bytes as usize
}

/// The audit actor; what the start itself has to report is its first record.
fn audit(context: &Arc<NodeContext>, set_aside: Option<String>) -> ChildSpec {
    let context = Arc::clone(context);
    let first: Vec<AuditRecord> = set_aside
        .iter()
        .map(|path| AuditRecord::system(AuditLevel::Error, "store_set_aside", "set aside", "store", path))
        .collect();
    ChildSpec::behaviour("audit", bounds::audit::MAILBOX, move || {
        AuditActor::new(AuditReader::new(context.store.clone()), first.clone())
    })
}
