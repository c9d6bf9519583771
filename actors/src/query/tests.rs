//! The query actor over an archive that can be held up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aurigraph_runtime::{ChildSpec, Registry, Strategy, SupervisorSpec, Tree};
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::values::Timestamp;
use super::views::Page;
use super::{
    Archive, ArchivedBlock, ArchivedParties, ArchivedTransaction, EpochWork, NodePort, PortError, QueryActor,
    QueryError, Sources, ValidatorWatch,
};
use crate::audit::{AuditFilter, AuditPage, AuditSummary};
use crate::bounds::query as bounds;
use crate::config::ClusterConfig;
use crate::mempool::PreparedBatch;
use crate::published::{BlockSummary, Published, Totals};
use crate::settings::NodeSettings;
use aurigraph_ledger::ledger::Ledger;
use aurigraph_ledger::{
    CommitInput, EpochEnd, Fault, FaultKind, Hash, PROTOCOL_VERSION, PlainHasher, SignatureVerifier,
};

/// Holds reads up while it is shut.
#[derive(Default)]
struct Gate {
    shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn shut(&self) {
        *self.shut.lock() = true;
    }

    fn open(&self) {
        *self.shut.lock() = false;
        self.opened.notify_all();
    }

    fn pass(&self) {
        self.opened.wait_while(&mut self.shut.lock(), |shut| *shut);
    }
}

/// Opens the gate when a test ends, however it does: a runtime waits for the threads that stand before it.
struct Opened(Arc<Gate>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// An empty archive whose reads wait at a gate.
#[derive(Default)]
struct HeldArchive(Arc<Gate>);

impl Archive for HeldArchive {
    fn block(&self, _: u64) -> Result<Option<ArchivedBlock>, String> {
        Ok(None)
    }

    fn block_by_hash(&self, _: &Hash) -> Result<Option<ArchivedBlock>, String> {
        self.0.pass();
        Ok(None)
    }

    fn transaction(&self, _: &Hash) -> Result<Option<ArchivedTransaction>, String> {
        Err("the disk is gone".into())
    }

    fn transactions_of(&self, _: u64, _: u32, _: u32) -> Result<Vec<ArchivedTransaction>, String> {
        Ok(Vec::new())
    }

    fn transactions_by(&self, _: &[Vec<u8>], _: u64, _: Page) -> Result<ArchivedParties, String> {
        Err("the disk is gone".into())
    }

    fn batch(&self, _: &Hash) -> Result<Option<Arc<PreparedBatch>>, String> {
        Ok(None)
    }

    fn checkpoint(&self, _: u64) -> Result<Option<bytes::Bytes>, String> {
        Ok(None)
    }

    fn certificate(&self, _: u64) -> Result<Option<bytes::Bytes>, String> {
        Ok(None)
    }

    fn epoch_certificate(&self, _: u64) -> Result<Option<bytes::Bytes>, String> {
        Ok(None)
    }

    fn validator_set(&self, _: u64) -> Result<Option<bytes::Bytes>, String> {
        Ok(None)
    }

    fn ended_epoch(&self, _: u64) -> Result<Option<EpochWork>, String> {
        Ok(None)
    }

    fn newest_certified(&self) -> Option<u64> {
        None
    }

    fn audit_logs(&self, _: &AuditFilter, _: Page) -> Result<AuditPage, String> {
        Err("no log".into())
    }

    fn audit_summary(&self) -> Result<AuditSummary, String> {
        Err("no log".into())
    }
}

fn genesis_state(genesis: &aurigraph_ledger::Genesis) -> Arc<Published> {
    state_of(&mut Ledger::from_genesis(genesis, Arc::new(PlainHasher)).expect("a good genesis"))
}

fn state_of(ledger: &mut Ledger) -> Arc<Published> {
    let view = ledger.snapshot();
    let newest = Arc::new(BlockSummary {
        header: *view.header(),
        hash: view.header_hash(),
        bytes: 0,
        published_at_ms: 0,
        // One that was not measured is looked for in the archive.
        finalized_after_ms: Some(1),
    });
    Arc::new(Published {
        recent: Arc::new([Arc::clone(&newest)].into()),
        newest,
        view,
        proving: None,
        certified: None,
        executed_commit: 0,
        totals: Totals::default(),
        uptime: Duration::ZERO,
    })
}

const GENESIS: &str = "[genesis]\nmode = \"development\"\nseed = \"q\"\nnetwork = \"test\"\naccounts = 3\nsigners = 2\n\
                       signer_balance = \"1\"\nrecipient_balance = \"1\"\n";

/// For commits without transactions.
struct NobodySigned;

impl SignatureVerifier for NobodySigned {
    fn verify(&self, _: &[u8], _: &[u8], _: &[u8]) -> bool {
        false
    }
}

/// A node's table in a config.
fn table(name: &str, port: u16) -> String {
    format!(
        "[[node]]\nname = \"{name}\"\nvalidator = true\nstake = 1\nrest = \"127.0.0.1:{port}\"\n\
         listen = \"127.0.0.1:{}\"\n",
        port + 1
    )
}

fn settings(text: &str, name: &str) -> NodeSettings {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("cluster.toml");
    std::fs::write(&path, text).expect("written");
    let config = ClusterConfig::load(&path).expect("a good config");
    config.node_settings(name, folder.path(), true).expect("settings")
}

/// One query actor, its port, the archive's gate and the way to publish.
async fn actor(name: &str) -> (Tree, NodePort, Arc<Gate>, watch::Sender<Option<Arc<Published>>>, Arc<Published>) {
    let settings = settings(&format!("{GENESIS}{}", table(name, 1)), name);
    let state = genesis_state(&settings.genesis);
    let (tree, port, gate, publish) = actor_of(name, settings).await;
    (tree, port, gate, publish, state)
}

async fn actor_of(
    name: &str,
    settings: NodeSettings,
) -> (Tree, NodePort, Arc<Gate>, watch::Sender<Option<Arc<Published>>>) {
    let registry = Registry::new(name);
    let (publish, published) = watch::channel(None);
    let archive = HeldArchive::default();
    let gate = Arc::clone(&archive.0);
    let sources = Arc::new(Sources {
        chain_id: settings.genesis.chain_id(),
        members: {
            let members = Arc::new(crate::members::Members::of_genesis(&settings));
            Arc::new(move |_| Some(Arc::clone(&members)))
        },
        settings,
        registry: registry.clone(),
        published,
        consensus: watch::channel(None).1,
        archive: Arc::new(archive),
        links: Arc::new(Vec::new),
        schema_version: None,
        gpus: crate::crypto::Gpus::new(2, true),
        started_at: Timestamp(0),
        started: Instant::now(),
        validators: Mutex::new(ValidatorWatch::new(1)),
    });
    let query = ChildSpec::behaviour("query/0", bounds::MAILBOX, move || QueryActor::new(Arc::clone(&sources)));
    let root = SupervisorSpec::new("root", Strategy::OneForOne).child(query);
    let tree = Tree::start(registry.clone(), root).await.expect("it starts");
    (tree, NodePort::new(&registry, 1), gate, publish)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_anything_is_published_reads_say_so_and_health_answers() {
    let (tree, port, _gate, publish, state) = actor("early").await;
    let not_ready = PortError::Query(QueryError::NotReady);
    assert_eq!(port.balance(Hash::ZERO).await, Err(not_ready.clone()));
    assert_eq!(port.latest_blocks(5).await, Err(not_ready));
    assert!(!port.ready().await.expect("an answer").ready);
    assert_eq!(port.health().await.expect("an answer").status, "UP");
    let devices = port.info().await.expect("an answer").devices;
    assert_eq!(devices.iter().map(|device| device.device).collect::<Vec<_>>(), [0, 1]);
    assert!(devices.iter().all(|device| device.state == "starting" && device.reason.is_some()), "{devices:?}");
    publish.send_replace(Some(state));
    assert_eq!(port.balance(Hash::ZERO).await, Ok(None));
    assert_eq!(port.latest_blocks(5).await.expect("an answer").blocks.len(), 1);
    // A disk that fails is an error, never an unknown transaction.
    let failed = port.transaction(Hash::ZERO).await;
    assert!(matches!(failed, Err(PortError::Query(QueryError::Storage { .. }))), "{failed:?}");
    tree.shutdown(Duration::from_secs(60)).await.expect("an ordered stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_hangs_delays_neither_health_nor_memory_and_its_queue_is_bounded() {
    let (tree, port, gate, publish, state) = actor("hung").await;
    publish.send_replace(Some(state));
    let unknown = Hash([7; 32]);
    gate.shut();
    let _opened = Opened(Arc::clone(&gate));
    let full = Arc::new(AtomicBool::new(false));
    let ask = || {
        let (port, full) = (port.clone(), Arc::clone(&full));
        tokio::spawn(async move {
            let answer = port.block_by_hash(unknown).await;
            if answer == Err(PortError::Query(QueryError::Overloaded)) {
                full.store(true, Ordering::SeqCst);
            }
            answer
        })
    };
    let mut waiting: Vec<_> = (0..=bounds::READS_WAITING).map(|_| ask()).collect();
    // The queue is full once one more is refused. The mailbox before it may refuse some: others are asked.
    let began = Instant::now();
    while !full.load(Ordering::SeqCst) {
        assert!(began.elapsed() < Duration::from_secs(60), "the queue has no bound");
        waiting.push(ask());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Both while all places are taken and nothing leaves the archive; the mailbox may still be full of reads to refuse.
    while !port.health().await.is_ok_and(|health| health.status == "UP") {
        assert!(began.elapsed() < Duration::from_secs(90), "health waits for the archive");
    }
    assert_eq!(port.block_by_height(0).await.expect("an answer").expect("genesis").height, 0);
    gate.open();
    for read in waiting {
        let answer = read.await.expect("no panic");
        let refused = matches!(&answer, Err(PortError::Query(QueryError::Overloaded) | PortError::Call(_)));
        assert!(refused || answer == Ok(None), "{answer:?}");
    }
    let began = Instant::now();
    while port.block_by_hash(unknown).await != Ok(None) {
        assert!(began.elapsed() < Duration::from_secs(30), "no place came back");
    }
    tree.shutdown(Duration::from_secs(60)).await.expect("an ordered stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_often_a_validator_was_slashed_is_told_when_its_faults_are_forgotten() {
    const UNBONDING: &str = "[genesis.parameters.staking]\nunbonding_epochs = 1\n";
    let settings = settings(&format!("{GENESIS}{UNBONDING}{}{}", table("v1", 1), table("v2", 3)), "v1");
    let mut ledger = Ledger::from_genesis(&settings.genesis, Arc::new(PlainHasher)).expect("a good genesis");
    let (tree, port, _gate, publish) = actor_of("v1", settings).await;
    let fault = Fault { validator: 1, epoch: 0, kind: FaultKind::Equivocation, reporter: 0, digest: Hash([9; 32]) };
    let mut listed = Vec::new();
    for epoch in 0..3_u64 {
        let input = CommitInput {
            epoch,
            version: PROTOCOL_VERSION,
            commit_index: epoch + 1,
            commit_digest: Hash([7; 32]),
            timestamp_ms: epoch + 1,
            leader: 0,
            round: 1,
            consensus_state_digest: Hash::ZERO,
            batches: Vec::new(),
            faults: if epoch == 0 { vec![fault] } else { Vec::new() },
            epoch_end: Some(EpochEnd { delivered: vec![1; ledger.validators()] }),
        };
        ledger.execute(input, &NobodySigned).expect("the next commit");
        publish.send_replace(Some(state_of(&mut ledger)));
        let page = Page { number: 1, size: 10 };
        listed.push(port.slashing_events(page).await.expect("an answer").total);
        let guilty = port.validator("v2".into()).await.expect("an answer").expect("known").validator;
        assert_eq!(guilty.slashing_events, 1, "after epoch {epoch}");
        assert!(guilty.slashed_stake.0 > 0, "after epoch {epoch}");
        let innocent = port.validator("v1".into()).await.expect("an answer").expect("known").validator;
        assert_eq!((innocent.slashing_events, innocent.slashed_stake.0), (0, 0));
    }
    assert_eq!(listed, [1, 0, 0], "the fault is forgotten with the stakes that it could touch");
    tree.shutdown(Duration::from_secs(60)).await.expect("an ordered stop");
}
