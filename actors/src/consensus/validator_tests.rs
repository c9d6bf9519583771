//! The validator between a journal that can be slow and neighbours that the test plays: what it may conclude from an
//! append, across deaths of its own, of the journal and of the batch store.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use aurigraph_consensus::{BatchRef, Block, CkptRef, Record as LogRecord, Status};
use aurigraph_ledger::Hash;
use aurigraph_runtime::{Address, ChildSpec, KillMode, Registry, Tree};
use parking_lot::Mutex;

use super::{Validator, ValidatorMsg};
use crate::bounds;
use crate::context::NodeContext;
use crate::crypto::testing::{Heard, SOON, probe, restart, tree, until};
use crate::mempool::BatchStoreMsg;
use crate::pipeline::OrderMsg;
use crate::storage::testing::eventually;
use crate::storage::{Cursor, JournalMsg, RecordKind};
use crate::testing::{Appended, Door, STUB_MAILBOX, SlowJournal, end, has, is_barrier, lone_validator, stub};

/// What the played batch store knows and has heard.
#[derive(Default)]
struct Batches {
    undelivered: Mutex<Vec<BatchRef>>,
    delivered: Mutex<Vec<Hash>>,
}

struct Node {
    _directory: tempfile::TempDir,
    registry: Registry,
    _tree: Tree,
    context: Arc<NodeContext>,
    journal: Arc<SlowJournal>,
    batches: Arc<Batches>,
    batch_store: Door,
    order: Heard<OrderMsg>,
    validator: Address<ValidatorMsg>,
}

const BATCH: BatchRef = BatchRef { digest: Hash([5; 32]), len: 100, tx_count: 1 };
/// Longer than any test: nothing is built for the time's sake.
const NEVER_MS: u64 = 3_600_000;

/// Whether an append holds an own block.
fn own_block(append: &Appended) -> bool {
    has(RecordKind::OwnBlock, append)
}

fn kinds((records, _): &Appended) -> Vec<RecordKind> {
    records.iter().map(|record| record.kind).collect()
}

/// A lone validator, which commits by itself. `idle_ms`: how long it waits between two blocks without payload.
async fn node(idle_ms: u64, hold: Option<fn(&Appended) -> bool>) -> Node {
    let directory = tempfile::tempdir().unwrap();
    let registry = crate::crypto::testing::node();
    let (context, journal, _) = lone_validator(&registry, directory.path(), |settings| {
        settings.pacing.min_delay_busy_ms = 5;
        settings.pacing.min_delay_idle_ms = idle_ms;
    });
    let (mut children, journal) = SlowJournal::before(&registry, journal);
    if let Some(hold) = hold {
        journal.hold_from(hold);
    }
    let batches = Arc::new(Batches::default());
    let told = Arc::clone(&batches);
    let (batch_spec, batch_store) = stub("batch-store", move |message| match message {
        BatchStoreMsg::Undelivered { reply } => reply.send(told.undelivered.lock().clone()),
        BatchStoreMsg::Delivered { digests } => told.delivered.lock().extend(digests),
        _ => {}
    });
    let (order_spec, order) = probe("order", STUB_MAILBOX);
    children.extend([batch_spec, order_spec]);
    let node = Arc::clone(&context);
    children.push(ChildSpec::behaviour("validator", bounds::consensus::VALIDATOR_MAILBOX, move || {
        Validator::new(Arc::clone(&node))
    }));
    let tree = tree(&registry, children).await;
    let validator = registry.role("validator");
    Node { _directory: directory, registry, _tree: tree, context, journal, batches, batch_store, order, validator }
}

impl Node {
    /// The own blocks of the log: for each round, the digests of all that were signed for it.
    fn own_blocks(&self) -> BTreeMap<u32, Vec<Hash>> {
        let mut found: BTreeMap<u32, Vec<Hash>> = BTreeMap::new();
        for block in self.signed() {
            let reference = block.reference();
            found.entry(reference.round).or_default().push(reference.digest);
        }
        found
    }

    /// The own blocks of the log in its order.
    fn signed(&self) -> Vec<Block> {
        let mut found = Vec::new();
        let replayed = self.context.journal.replay(Cursor::START, &[RecordKind::OwnBlock], |_, _, body| {
            let Ok(LogRecord::OwnBlock(bytes)) = LogRecord::decode(&body) else { panic!("no own block") };
            found.push(Block::decode(&bytes).unwrap());
            ControlFlow::Continue(())
        });
        replayed.unwrap();
        found
    }

    async fn status(&self) -> Status {
        self.validator.call(SOON, ValidatorMsg::Status).await.unwrap()
    }

    async fn until_round(&self, round: u32) {
        let began = std::time::Instant::now();
        while self.status().await.own_round < round {
            assert!(began.elapsed() < SOON, "no own block of round {round}");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_restarted_validator_signs_no_round_again_whose_block_was_still_on_its_way_to_the_log() {
    let node = node(5, None).await;
    until("the first blocks", || node.own_blocks().len() > 2).await;
    node.journal.hold_from(own_block);
    until("a block is on its way", || node.journal.held().iter().any(own_block)).await;
    // Another payload: a second block of the round would be another one.
    node.batches.undelivered.lock().push(BATCH);
    end::<ValidatorMsg>(&node.registry, "validator").await;
    // The next incarnation asks for what is on its way, or, were it wrong, signs the round again.
    let after = |append: &Appended| is_barrier(append) || own_block(append);
    until("its word to the journal", || node.journal.held().iter().skip(1).any(after)).await;
    let last = *node.own_blocks().last_key_value().unwrap().0;
    node.journal.release();
    until("rounds go on", || *node.own_blocks().last_key_value().unwrap().0 > last + 2).await;
    for (round, blocks) in node.own_blocks() {
        assert_eq!(blocks.len(), 1, "blocks signed for round {round}");
    }
}

#[tokio::test]
async fn an_append_that_was_answered_across_a_restart_of_the_journal_is_not_taken_as_durable() {
    let node = node(NEVER_MS, Some(own_block)).await;
    until("the first own block is on its way", || node.journal.held().iter().any(own_block)).await;
    let before = node.validator.generation();
    restart::<JournalMsg>(&node.registry, "journal", KillMode::Kill).await;
    assert_eq!(node.validator.generation(), before, "it has not heard yet");
    // Written after all. But whether everything before it was written, too, is unknown.
    node.journal.release();
    until("the validator rebuilds itself from the log", || node.validator.generation() > before).await;
    node.until_round(1).await;
    assert!(node.own_blocks().values().all(|blocks| blocks.len() == 1), "{:?}", node.own_blocks());
}

#[tokio::test]
async fn a_validator_appends_nothing_to_another_incarnation_of_the_journal_than_it_was_rebuilt_from() {
    let node = node(NEVER_MS, None).await;
    node.until_round(1).await;
    restart::<JournalMsg>(&node.registry, "journal", KillMode::Kill).await;
    node.journal.hold_from(|_| true);
    let before = node.validator.generation();
    node.batches.undelivered.lock().push(BATCH);
    node.validator.send(ValidatorMsg::BatchSealed(BATCH)).unwrap();
    until("a word to the journal", || !node.journal.held().is_empty()).await;
    let first = &node.journal.held()[0];
    assert!(is_barrier(first), "the journal was told {:?} before it was asked what it has", kinds(first));
    node.journal.release();
    until("the validator is back", || node.validator.generation() > before).await;
    node.until_round(2).await;
}

#[tokio::test]
async fn a_batch_store_that_was_down_hears_later_what_was_delivered() {
    let mut node = node(5, None).await;
    node.batch_store.shut();
    end::<BatchStoreMsg>(&node.registry, "batch-store").await;
    node.validator.send(ValidatorMsg::BatchSealed(BATCH)).unwrap();
    loop {
        // Order is told of a commit after the batch store.
        if let OrderMsg::Committed(commit) = node.order.next().await
            && commit.batches().any(|(_, batch)| batch == BATCH)
        {
            break;
        }
    }
    assert!(node.batches.delivered.lock().is_empty());
    node.batch_store.open();
    until("the batch store hears of the delivery", || node.batches.delivered.lock().contains(&BATCH.digest)).await;
}

#[tokio::test]
async fn a_restarted_validator_takes_no_attestation_back_whose_mark_the_log_lacks() {
    let node = node(5, None).await;
    let checkpoint = CkptRef { seq: 7, digest: Hash([7; 32]) };
    let executed = ValidatorMsg::Executed { commit_index: 1, checkpoint: Some(checkpoint) };
    node.validator.send(executed).unwrap();
    let attested = || node.signed().iter().filter(|block| block.core.attestation == checkpoint).count();
    until("it is attested", || attested() > 0).await;
    end::<ValidatorMsg>(&node.registry, "validator").await;
    let before = node.signed().len();
    until("further blocks", || node.signed().len() > before + 2).await;
    let attestations: Vec<u64> = node.signed().iter().map(|block| block.core.attestation.seq).collect();
    assert!(attestations.is_sorted(), "{attestations:?}");
}

#[tokio::test]
async fn a_restarted_validator_knows_how_far_execution_is_behind_its_snapshot() {
    let node = node(1, None).await;
    eventually("a snapshot is in the log", || node.context.journal.latest_snapshot().unwrap().is_some()).await;
    end::<ValidatorMsg>(&node.registry, "validator").await;
    until("the validator is back", || node.validator.is_running()).await;
    let status = node.status().await;
    assert!(status.last_commit.index > 0);
    assert_eq!(status.executed_index, 0, "nothing was executed: the log has no mark");
}
