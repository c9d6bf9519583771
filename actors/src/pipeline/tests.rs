//! Single stages between neighbours that the test plays: a store that takes its time, and an executor that is starting.

use std::sync::Arc;
use std::time::Duration;

use aurigraph_consensus::{BatchRef, BlockRef, Commit, CommitHeader, CommittedBlock, LeaderSlot};
use aurigraph_gpu::CpuHasher;
use aurigraph_ledger::transaction::{SenderKey, Target, TransactionBuilder};
use aurigraph_ledger::types::SIGNATURE_LEN;
use aurigraph_ledger::{
    AccountIndex, CommitInput, CommitOutcome, CommittedBatch, Hash, Ledger, SignatureVerifier, StateView,
};
use aurigraph_runtime::{Address, ChildSpec, Registry, Tree};
use parking_lot::Mutex;

use super::*;
use crate::context::NodeContext;
use crate::crypto::testing::{Heard, probe, tree, until};
use crate::mempool::{Batch, BatchHead, BatchStoreMsg, PreparedBatch};
use crate::storage::{JournalMsg, StoreError, StoreMsg};
use crate::testing::{Door, STUB_MAILBOX, end, lone_validator, stub};

/// Far more than anything here takes, and less than a stage waits for a neighbour that is starting.
const PATIENCE: Duration = Duration::from_secs(10);

/// A node without a tree of its own; `execute` is a stub whose start the test can hold up.
struct Node {
    _directory: tempfile::TempDir,
    registry: Registry,
    context: Arc<NodeContext>,
    executing: Arc<Mutex<Vec<u64>>>,
    execute: Door,
    execute_spec: Option<ChildSpec>,
}

fn node() -> Node {
    let (directory, registry) = (tempfile::tempdir().unwrap(), crate::crypto::testing::node());
    let (context, _, _) = lone_validator(&registry, directory.path(), |_| {});
    let executing = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&executing);
    let (execute_spec, execute) = stub("execute", move |message| {
        if let ExecuteMsg::Commit(commit) = message {
            heard.lock().push(commit.stream);
        }
    });
    Node { _directory: directory, registry, context, executing, execute, execute_spec: Some(execute_spec) }
}

impl Node {
    /// Starts the executor and these actors.
    async fn start(&mut self, children: Vec<ChildSpec>) -> Tree {
        tree(&self.registry, self.execute_spec.take().into_iter().chain(children).collect()).await
    }

    /// The executor's next incarnation is starting: it has asked for its stream already, and nobody knows its number.
    async fn execute_is_starting(&self) {
        self.execute.shut();
        end::<ExecuteMsg>(&self.registry, "execute").await;
        let execute = self.registry.role::<ExecuteMsg>("execute");
        assert!(execute.generation() == 1 && !execute.is_running());
    }

    async fn execute_has_started(&self) {
        self.execute.open();
        let execute = self.registry.role::<ExecuteMsg>("execute");
        until("the executor runs", || execute.is_running()).await;
        assert_eq!(execute.generation(), 2);
    }

    fn publish(&self) -> ChildSpec {
        let node = Arc::clone(&self.context);
        ChildSpec::behaviour("publish", STUB_MAILBOX, move || {
            Publish::new(Arc::clone(&node), std::time::Instant::now())
        })
    }

    fn persist(&self) -> ChildSpec {
        let node = Arc::clone(&self.context);
        ChildSpec::behaviour("persist", STUB_MAILBOX, move || Persist::new(Arc::clone(&node))).shutdown(PATIENCE)
    }
}

struct Believing;

impl SignatureVerifier for Believing {
    fn verify(&self, _: &[u8], _: &[u8], _: &[u8]) -> bool {
        true
    }
}

/// The first commit of the chain with one transfer, executed.
fn executed(node: &NodeContext, stream: u64) -> Box<ExecutedCommit> {
    let genesis = &node.settings.genesis;
    let mut ledger = Ledger::from_genesis(genesis, Arc::new(CpuHasher)).unwrap();
    let builder = TransactionBuilder::new(node.chain_id, SenderKey::Index(AccountIndex(0)), 0, 100)
        .fees(&genesis.fees)
        .transfer(Target::Index(AccountIndex(2)), 5);
    let transaction = builder.build().unwrap().with_signature(&[0; SIGNATURE_LEN]).unwrap();
    let input = CommitInput {
        version: aurigraph_ledger::FIRST_PROTOCOL_VERSION,
        epoch: 0,
        commit_index: 1,
        commit_digest: Hash([1; 32]),
        timestamp_ms: genesis.timestamp_ms + 1,
        leader: 0,
        round: 1,
        consensus_state_digest: Hash([1; 32]),
        batches: vec![CommittedBatch { proposer: 0, digest: Hash([2; 32]), transactions: vec![transaction.into()] }],
        faults: Vec::new(),
        epoch_end: None,
    };
    let outcome = ledger.execute(input, &Believing).unwrap();
    assert_eq!(outcome.block.as_ref().unwrap().transactions.len(), 1);
    Box::new(ExecutedCommit {
        stream,
        commit_index: 1,
        outcome,
        view: Some(ledger.snapshot()),
        mark: None,
        finalized_after_ms: None,
    })
}

/// A commit that made no block.
fn empty(stream: u64, commit_index: u64) -> Box<ExecutedCommit> {
    Box::new(ExecutedCommit {
        stream,
        commit_index,
        outcome: CommitOutcome::default(),
        view: None,
        mark: None,
        finalized_after_ms: None,
    })
}

fn genesis_view(node: &NodeContext) -> StateView {
    Ledger::from_genesis(&node.settings.genesis, Arc::new(CpuHasher)).unwrap().snapshot()
}

fn commit(index: u64, batches: Vec<BatchRef>) -> Arc<Commit> {
    let leader = BlockRef { round: 1, author: 0, digest: Hash([1; 32]) };
    let header = CommitHeader {
        epoch: 0,
        index,
        prev_digest: Hash::ZERO,
        timestamp_ms: 1,
        leader,
        blocks_root: Hash::ZERO,
        block_count: 1,
        gc_round: 0,
        schedule_digest: Hash::ZERO,
        last_decided: LeaderSlot { round: 1, offset: 0, author: 0 },
    };
    let blocks = vec![CommittedBlock { block: leader, batches }];
    Arc::new(Commit { header, blocks, epoch_end: None, faults: Vec::new(), state_digest: Hash::ZERO })
}

fn ordered(stream: u64, index: u64) -> OrderedCommit {
    OrderedCommit { stream, commit: commit(index, Vec::new()), batches: Vec::new(), mark: None }
}

/// Persist between a journal and a publish stage that listen, and a store that keeps what it is told.
async fn persist_over_a_slow_store() -> (Node, Tree, Address<PersistMsg>, Heard<PublishMsg>, Arc<Mutex<Vec<StoreMsg>>>)
{
    let mut node = node();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let store = Arc::clone(&kept);
    let (store, _) = stub("store", move |message| store.lock().push(message));
    let (journal, _) = probe::<JournalMsg>("journal", STUB_MAILBOX);
    let (publish, published) = probe("publish", STUB_MAILBOX);
    let persist = node.persist();
    let tree = node.start(vec![store, journal, persist, publish]).await;
    let persist = node.registry.role("persist");
    (node, tree, persist, published, kept)
}

/// Lets everything that can run on this thread run until it waits for something else.
async fn all_wait() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_block_is_published_only_once_readers_find_it() {
    let (node, _tree, persist, mut published, kept) = persist_over_a_slow_store().await;
    persist.send(PersistMsg::Executed(executed(&node.context, 1))).unwrap();
    until("the store is told", || !kept.lock().is_empty()).await;
    all_wait().await;
    assert!(published.nothing(), "a client would be told of a block that the index does not have yet");
    let Some(StoreMsg::WriteBlock { block, reply: Some(reply) }) = kept.lock().pop() else { panic!("no block") };
    assert_eq!((block.height, block.transactions.len()), (1, 1));
    reply.send(Ok(()));
    assert!(matches!(published.next().await, PublishMsg::Persisted(executed) if executed.commit_index == 1));
}

#[tokio::test]
async fn a_block_that_the_store_did_not_index_is_not_published() {
    let (node, _tree, persist, mut published, kept) = persist_over_a_slow_store().await;
    for refused in [None, Some(StoreError::Panicked)] {
        let before = persist.generation();
        persist.send(PersistMsg::Executed(executed(&node.context, 1))).unwrap();
        until("the store is told", || !kept.lock().is_empty()).await;
        let Some(StoreMsg::WriteBlock { reply: Some(reply), .. }) = kept.lock().pop() else { panic!("no block") };
        match refused {
            // It died with the block in its queue.
            None => drop(reply),
            Some(error) => reply.send(Err(error)),
        }
        until("the stage fails", || persist.generation() > before).await;
        assert!(published.nothing());
    }
}

#[tokio::test]
async fn a_stage_stops_at_once_when_the_one_after_it_has_stopped_already() {
    let (node, tree, persist, published, kept) = persist_over_a_slow_store().await;
    persist.send(PersistMsg::Executed(executed(&node.context, 1))).unwrap();
    until("the store is told", || !kept.lock().is_empty()).await;
    let stopping = tokio::spawn(async move { tree.shutdown(PATIENCE).await });
    let publish = node.registry.role::<PublishMsg>("publish");
    until("the stage after it has stopped", || publish.is_gone()).await;
    let Some(StoreMsg::WriteBlock { reply: Some(reply), .. }) = kept.lock().pop() else { panic!("no block") };
    reply.send(Ok(()));
    stopping.await.unwrap().expect("an ordered stop");
    drop(published);
}

#[tokio::test]
async fn verify_keeps_the_first_commit_of_an_executor_that_is_still_starting() {
    let mut node = node();
    let context = Arc::clone(&node.context);
    let verify = ChildSpec::behaviour("verify", STUB_MAILBOX, move || Verify::new(Arc::clone(&context)));
    let _tree = node.start(vec![verify]).await;
    let verify = node.registry.role("verify");
    node.execute_is_starting().await;
    verify.send(VerifyMsg::Commit(ordered(2, 1))).unwrap();
    all_wait().await;
    node.execute_has_started().await;
    until("the commit arrives", || node.executing.lock().as_slice() == [2]).await;
    // What is left of the stream before is nobody's any more.
    verify.send(VerifyMsg::Commit(ordered(1, 7))).unwrap();
    verify.send(VerifyMsg::Commit(ordered(2, 2))).unwrap();
    until("the next commit arrives", || node.executing.lock().len() > 1).await;
    assert_eq!(*node.executing.lock(), [2, 2]);
}

#[tokio::test]
async fn persist_keeps_what_comes_of_an_executor_that_is_still_starting() {
    let (node, _tree, persist, mut published, _) = persist_over_a_slow_store().await;
    node.execute_is_starting().await;
    persist.send(PersistMsg::Executed(empty(2, 5))).unwrap();
    let stream = |message| match message {
        PublishMsg::Persisted(executed) => executed.stream,
        PublishMsg::Loaded(loaded) => panic!("stream {} was not loaded", loaded.stream),
    };
    assert_eq!(stream(published.next().await), 2);
    node.execute_has_started().await;
    persist.send(PersistMsg::Executed(empty(1, 9))).unwrap();
    persist.send(PersistMsg::Executed(empty(2, 6))).unwrap();
    assert_eq!(stream(published.next().await), 2, "the stream before was not dropped");
}

#[tokio::test]
async fn publish_keeps_what_comes_of_an_executor_that_is_still_starting() {
    let mut node = node();
    let (order, mut done) = probe("order", STUB_MAILBOX);
    let publish = node.publish();
    let _tree = node.start(vec![order, publish]).await;
    let publish = node.registry.role("publish");
    node.execute_is_starting().await;
    let loaded = |stream| Box::new(Loaded { stream, commit_index: 0, view: genesis_view(&node.context) });
    publish.send(PublishMsg::Loaded(loaded(2))).unwrap();
    until("the state is published", || node.context.published.borrow().is_some()).await;
    publish.send(PublishMsg::Persisted(executed(&node.context, 2))).unwrap();
    assert!(matches!(done.next().await, OrderMsg::Done { stream: 2, index: 1 }));
    assert_eq!(node.context.published.borrow().as_ref().map(|state| state.height()), Some(1));
    node.execute_has_started().await;
    publish.send(PublishMsg::Persisted(empty(1, 9))).unwrap();
    publish.send(PublishMsg::Persisted(empty(2, 2))).unwrap();
    assert!(matches!(done.next().await, OrderMsg::Done { stream: 2, index: 2 }), "the stream before was not dropped");
}

#[tokio::test]
async fn a_commit_that_is_larger_than_what_the_batch_store_gives_at_once_comes_through_in_portions() {
    let node = node();
    let sealed =
        |sequence| Batch::seal(BatchHead { epoch: 0, author: 0, sequence }, std::iter::once([0_u8; 9].as_slice()), 0);
    let bodies: Vec<_> = (0..10).map(|sequence| Arc::new(PreparedBatch::new(&sealed(sequence)))).collect();
    // They say that they are long: two of them are asked for at once.
    let len = u32::try_from(crate::bounds::pipeline::BODIES_ASKED / 2).unwrap();
    let mut named: Vec<_> = bodies.iter().map(|body| BatchRef { len, ..body.reference }).collect();
    named.push(named[3]);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (held, told) = (bodies.clone(), Arc::clone(&asked));
    // It has one body at hand, the first that it is asked for: the others were driven out of its memory.
    let (store, _) = stub("batch-store", move |message| {
        let BatchStoreMsg::Get { digests, reply } = message else { return };
        let found = |digest: &Hash| held.iter().find(|body| body.reference.digest == *digest).map(Arc::clone);
        reply.send(digests.iter().enumerate().map(|(at, digest)| found(digest).filter(|_| at == 0)).collect());
        told.lock().push(digests.len());
    });
    let (verify, mut verified) = probe("verify", STUB_MAILBOX);
    let context = Arc::clone(&node.context);
    let order = ChildSpec::behaviour("order", STUB_MAILBOX, move || Order::new(Arc::clone(&context)));
    let _tree = tree(&node.registry, vec![store, verify, order]).await;
    let order = node.registry.role("order");
    order.send(OrderMsg::StreamFrom { stream: 1, index: 1 }).unwrap();
    order.send(OrderMsg::Committed(commit(1, named.clone()))).unwrap();
    let VerifyMsg::Commit(ordered) = verified.next().await;
    let given: Vec<_> = ordered.batches.iter().map(|(_, named, body)| (*named, body.reference.digest)).collect();
    assert_eq!(given, named.iter().map(|named| (*named, named.digest)).collect::<Vec<_>>());
    assert!(asked.lock().iter().all(|count| *count <= 2), "asked for at once: {:?}", asked.lock());
}
