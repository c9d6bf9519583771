//! The batch store over a real journal; the network and the validator are recorders, or other stores.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aurigraph_consensus::{AuthorIdx, BatchRef, BlockRef, Commit, CommitHeader, CommittedBlock, LeaderSlot};
use aurigraph_ledger::Hash;
use aurigraph_ledger::transaction::Transaction;
use aurigraph_runtime::{Address, ChildSpec, KillMode, Registry, Tree};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::bounds::{mempool as bounds, storage};
use crate::crypto::testing::{self, ALL_MODES, Heard, SOON, probe, restart, tree, until};
use crate::crypto::{DispatchMsg, Priority};
use crate::fatal::Fatal;
use crate::members::Members;
use crate::mempool::testing::{Account, View, latest, transactions};
use crate::mempool::wire::BatchWire;
use crate::mempool::*;
use crate::storage::{
    Journal, JournalActor, JournalIdentity, JournalMsg, JournalOptions, JournalReader, Record, RecordKind,
};

pub(super) const OWN: AuthorIdx = 0;

/// What the validator was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Sealed(BatchRef),
    Stored(Hash, u32),
    Failed(Hash),
}

#[derive(Default)]
pub(super) struct Validator(pub(super) Mutex<Vec<Told>>, pub(super) AtomicBool);

impl Validator {
    pub(super) fn heard(&self, told: Told) -> bool {
        self.0.lock().contains(&told)
    }
}

impl ValidatorPort for Validator {
    fn batch_sealed(&self, batch: BatchRef) -> bool {
        if self.1.load(Ordering::SeqCst) {
            return false;
        }
        self.0.lock().push(Told::Sealed(batch));
        true
    }

    fn batch_stored(&self, digest: Hash, len: u32) -> bool {
        self.0.lock().push(Told::Stored(digest, len));
        true
    }

    fn batch_fetch_failed(&self, digest: Hash) -> bool {
        self.0.lock().push(Told::Failed(digest));
        true
    }
}

/// The bulk lanes: records, and refuses peers that are down.
#[derive(Default)]
pub(super) struct Lanes {
    sent: Mutex<Vec<(String, Bytes)>>,
    down: Mutex<Vec<String>>,
}

impl Lanes {
    fn sent_to(&self, peer: &str, message: &BatchWire) -> usize {
        let message = message.encode();
        self.sent.lock().iter().filter(|(to, sent)| to == peer && *sent == message).count()
    }
}

impl Outbound for Lanes {
    fn bulk(&self, peer: &str, message: Bytes) -> bool {
        if self.down.lock().iter().any(|down| down == peer) {
            return false;
        }
        self.sent.lock().push((peer.to_owned(), message));
        true
    }

    fn broadcast_bulk(&self, message: Bytes) -> usize {
        ["v2", "v3"].iter().filter(|peer| self.bulk(peer, message.clone())).count()
    }
}

pub(super) struct Node {
    pub(super) registry: Registry,
    _tree: Tree,
    pub(super) journal: JournalReader,
    pub(super) validator: Arc<Validator>,
    lanes: Arc<Lanes>,
    dispatcher: Heard<DispatchMsg>,
    batcher: Heard<BatcherMsg>,
    pub(super) store: Address<BatchStoreMsg>,
    /// The epoch's members, once they are not the first's.
    members: Arc<Mutex<Option<Arc<Members>>>>,
}

pub(super) fn open(directory: &Path) -> Journal {
    let identity = JournalIdentity::new(Hash::ZERO, "v1", None);
    Journal::open(directory, &identity, JournalOptions::default(), Fatal::default()).unwrap()
}

async fn node(directory: &Path, view: Option<View>) -> Node {
    let journal = open(directory);
    let reader = journal.reader();
    let journal_actor = move || JournalActor::new(journal.clone());
    let journal = vec![ChildSpec::behaviour("journal", storage::JOURNAL_MAILBOX, journal_actor)];
    node_over(testing::node(), reader, journal, view).await
}

/// A batch store over a journal whose actors, `journal` among them, the caller brings.
pub(super) async fn node_over(
    registry: Registry,
    reader: JournalReader,
    journal: Vec<ChildSpec>,
    view: Option<View>,
) -> Node {
    let (validator, lanes) = (Arc::new(Validator::default()), Arc::new(Lanes::default()));
    let (latest, _) = latest(view);
    let members = Arc::new(Mutex::new(None));
    let make = {
        let now = Arc::clone(&members);
        let (journal, outbound, validator) = (reader.clone(), Arc::clone(&lanes), Arc::clone(&validator));
        move || {
            BatchStore::new(BatchStoreParts {
                members: {
                    let now = Arc::clone(&now);
                    let first = || Members::named(0, Some(OWN), &["v1", "v2", "v3"]);
                    Arc::new(move |epoch| match epoch {
                        Some(0) => Some(Arc::new(first())),
                        _ => Some(now.lock().clone().unwrap_or_else(|| Arc::new(first()))),
                    })
                },
                batchers: 1,
                max_batch: 1 << 20,
                buffers: aurigraph_runtime::Buffers::pooled(1 << 20),
                journal: journal.clone(),
                outbound: Arc::clone(&outbound) as _,
                validator: Arc::clone(&validator) as _,
                latest: Arc::clone(&latest),
            })
        }
    };
    let (dispatcher_spec, dispatcher) = probe("verify-dispatcher", 64);
    let (batcher_spec, batcher) = probe("batcher/0", 64);
    let mut children = journal;
    children.extend([dispatcher_spec, batcher_spec, ChildSpec::behaviour("batch-store", bounds::STORE_MAILBOX, make)]);
    let tree = tree(&registry, children).await;
    let store = registry.role("batch-store");
    Node { registry, _tree: tree, journal: reader, validator, lanes, dispatcher, batcher, store, members }
}

pub(super) fn sealed(author: AuthorIdx, epoch: u64, sequence: u64, transactions: &[Arc<Transaction>]) -> Batch {
    let head = BatchHead { epoch, author, sequence };
    Batch::seal(head, transactions.iter().map(|transaction| transaction.encode()), 0)
}

impl Node {
    pub(super) async fn put(&self, batch: &Batch, transactions: &[Arc<Transaction>]) -> Result<BatchRef, BatchError> {
        let (batch, transactions) = (batch.clone(), transactions.to_vec());
        self.store.call(SOON, |reply| BatchStoreMsg::PutOwn { batch, transactions, reply }).await.unwrap()
    }

    fn receive(&self, peer: &str, message: &BatchWire) {
        self.store.send(BatchStoreMsg::Network { peer: peer.to_owned(), bytes: message.encode() }).unwrap();
    }

    async fn contains(&self, batch: &Batch) -> bool {
        let digests = vec![batch.reference.digest];
        self.store.call(SOON, |reply| BatchStoreMsg::Contains { digests, reply }).await.unwrap()[0]
    }

    async fn get(&self, digests: Vec<Hash>) -> Vec<Option<Arc<PreparedBatch>>> {
        self.store.call(SOON, |reply| BatchStoreMsg::Get { digests, reply }).await.unwrap()
    }

    pub(super) async fn undelivered(&self) -> Vec<BatchRef> {
        self.store.call(SOON, |reply| BatchStoreMsg::Undelivered { reply }).await.unwrap()
    }

    pub(super) async fn told(&self, told: Told) {
        until(&format!("the validator hears {told:?}"), || self.validator.heard(told)).await;
    }

    pub(super) async fn sequences(&self, count: u64) -> std::ops::Range<u64> {
        let reserved = self.store.call(SOON, |reply| BatchStoreMsg::ReserveSequences { count, reply }).await;
        reserved.unwrap().unwrap()
    }

    /// The validator has logged a commit that delivers these.
    async fn log_commit(&self, index: u64, batches: Vec<BatchRef>) {
        let record = aurigraph_consensus::Record::Commit(Arc::new(commit(index, batches)));
        let records = vec![Record::indexed(RecordKind::Commit, index, record.encode().into())];
        let journal = self.registry.role::<JournalMsg>("journal");
        let appended = journal.call(SOON, |reply| JournalMsg::Append { records, sync: true, reply: Some(reply) }).await;
        appended.unwrap().unwrap();
    }

    fn fetch(&self, batch: &Batch, candidates: &[AuthorIdx]) {
        let (batches, candidates) = (vec![batch.reference], candidates.to_vec());
        self.store.send(BatchStoreMsg::Fetch { batches, candidates }).unwrap();
    }
}

fn stored(batch: &Batch) -> Told {
    Told::Stored(batch.reference.digest, batch.reference.len)
}

#[tokio::test]
async fn an_own_batch_is_in_the_log_before_anyone_hears_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(directory.path(), None).await;
    let all = transactions(2);
    let batch = sealed(OWN, 0, 1, &all);
    assert_eq!(node.put(&batch, &all).await, Ok(batch.reference));
    let body = node.journal.get(RecordKind::Batch, &batch.reference.digest).unwrap().unwrap();
    assert_eq!(body, batch.bytes);
    assert!(node.validator.heard(Told::Sealed(batch.reference)));
    let push = BatchWire::Push(batch.bytes.clone());
    assert_eq!((node.lanes.sent_to("v2", &push), node.lanes.sent_to("v3", &push)), (1, 1));
    assert_eq!(node.put(&batch, &all).await, Ok(batch.reference), "saying it twice is harmless");
    assert_eq!((node.lanes.sent_to("v2", &push), node.undelivered().await), (1, vec![batch.reference]));
    let found = node.get(vec![batch.reference.digest, Hash::ZERO]).await;
    assert_eq!(found[0].as_ref().unwrap().transactions(), all);
    assert!(found[1].is_none());
}

#[tokio::test]
async fn a_validator_that_was_too_busy_hears_of_an_own_batch_later() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(directory.path(), None).await;
    node.validator.1.store(true, Ordering::SeqCst);
    let all = transactions(1);
    let batch = sealed(OWN, 0, 1, &all);
    assert_eq!(node.put(&batch, &all).await, Ok(batch.reference));
    assert!(!node.validator.heard(Told::Sealed(batch.reference)));
    node.validator.1.store(false, Ordering::SeqCst);
    node.told(Told::Sealed(batch.reference)).await;
}

#[tokio::test]
async fn a_pushed_batch_is_taken_from_its_author_alone() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(directory.path(), None).await;
    let all = transactions(2);
    let good = sealed(1, 0, 1, &all);
    let refused = [
        ("v2", sealed(2, 0, 1, &all), "another author's"),
        ("v2", sealed(OWN, 0, 1, &all), "our own"),
        ("v2", sealed(1, 1, 1, &all), "another epoch's"),
        ("observer", sealed(1, 0, 2, &all), "from nobody we know"),
    ];
    for (peer, batch, what) in &refused {
        node.receive(peer, &BatchWire::Push(batch.bytes.clone()));
        assert!(!node.contains(batch).await, "{what}");
    }
    node.receive("v2", &BatchWire::Push(good.bytes.slice(..30)));
    node.receive("v2", &BatchWire::Push(Bytes::from(vec![0; 2 << 20])));
    node.store.send(BatchStoreMsg::Network { peer: "v2".to_owned(), bytes: Bytes::new() }).unwrap();
    node.receive("v2", &BatchWire::Push(good.bytes.clone()));
    node.told(stored(&good)).await;
    assert_eq!(node.validator.0.lock().len(), 1, "nothing else was stored");
    for (_, batch, what) in &refused {
        assert!(!node.contains(batch).await, "{what}");
    }
    assert_eq!(node.get(vec![good.reference.digest]).await[0].as_ref().unwrap().transactions(), all);
}

#[tokio::test]
async fn signatures_of_known_senders_are_checked_ahead() {
    let directory = tempfile::tempdir().unwrap();
    let (alice, bob, carol) = (Account::new(1), Account::new(2), Account::new(3));
    let mut view = View::of(&[&alice, &carol], 1_000);
    view.account_mut(&carol).key = None;
    let mut node = node(directory.path(), Some(view)).await;
    let all = vec![alice.pay(0), bob.pay(0), carol.pay(0)];
    let batch = sealed(1, 0, 1, &all);
    node.receive("v2", &BatchWire::Push(batch.bytes.clone()));
    match node.dispatcher.next().await {
        DispatchMsg::VerifyTransactions { checks, priority, reply } => {
            assert_eq!((priority, reply.is_none(), checks.len()), (Priority::Ahead, true, 1));
            assert_eq!(checks[0].transaction.id(), all[0].id());
            assert_eq!(checks[0].key.as_ref().unwrap().hash, alice.key.hash);
        }
        other => panic!("{other:?}"),
    }
    node.told(stored(&batch)).await;
}

#[tokio::test]
async fn an_author_over_its_share_is_stopped_until_its_batches_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(directory.path(), None).await;
    let large = |sequence| {
        let junk = vec![0; 200_000];
        let head = BatchHead { epoch: 0, author: 1, sequence };
        Batch::seal(head, [&junk[..]; 5].into_iter(), 0)
    };
    let fit = bounds::UNREFERENCED_BYTES as u64 / u64::from(large(0).reference.len);
    for sequence in 0..fit {
        node.receive("v2", &BatchWire::Push(large(sequence).bytes));
        node.told(stored(&large(sequence))).await;
    }
    node.receive("v2", &BatchWire::Push(large(fit).bytes));
    assert!(!node.contains(&large(fit)).await);
    node.store.send(BatchStoreMsg::Referenced { digests: vec![large(0).reference.digest] }).unwrap();
    node.receive("v2", &BatchWire::Push(large(fit + 1).bytes));
    node.told(stored(&large(fit + 1))).await;
    assert!(!node.validator.heard(stored(&large(fit))));
}

#[tokio::test]
async fn a_missing_batch_is_asked_of_one_candidate_after_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(directory.path(), None).await;
    let batch = sealed(1, 0, 1, &transactions(1));
    let digest = batch.reference.digest;
    let request = BatchWire::Request(vec![digest]);
    node.fetch(&batch, &[2, OWN, 1]);
    until("v3 is asked", || node.lanes.sent_to("v3", &request) == 1).await;
    assert_eq!(node.lanes.sent_to("v2", &request), 0);
    node.receive("v2", &BatchWire::Absent(digest));
    node.receive("v3", &BatchWire::Absent(digest));
    until("v2 is asked at once", || node.lanes.sent_to("v2", &request) == 1).await;
    until("v3 is asked again when v2 is silent", || node.lanes.sent_to("v3", &request) == 2).await;
    assert_eq!(node.lanes.sent_to("v1", &request), 0);
    let other = sealed(1, 0, 2, &transactions(1));
    node.receive("v3", &BatchWire::Found(other.bytes.clone()));
    node.receive("v3", &BatchWire::Found(batch.bytes.clone()));
    node.told(stored(&batch)).await;
    assert!(!node.contains(&other).await, "nobody asked for it");
}

#[tokio::test]
async fn a_fetch_that_nobody_answers_fails() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(directory.path(), None).await;
    node.lanes.down.lock().push("v2".to_owned());
    let batch = sealed(1, 0, 1, &transactions(1));
    node.fetch(&batch, &[1]);
    node.told(Told::Failed(batch.reference.digest)).await;
    assert!(node.lanes.sent.lock().is_empty());
}

#[tokio::test]
async fn a_fetched_batch_of_another_author_is_present_and_delivers_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(directory.path(), None).await;
    let all = transactions(1);
    let batch = sealed(2, 5, 1, &all);
    node.fetch(&batch, &[1]);
    node.receive("v2", &BatchWire::Found(batch.bytes.clone()));
    node.told(stored(&batch)).await;
    let prepared = node.get(vec![batch.reference.digest]).await.remove(0).unwrap();
    assert!(prepared.delivered_by(0, 1, &batch.reference).is_empty());
    assert_eq!(prepared.delivered_by(5, 2, &batch.reference), all);
}

#[tokio::test]
async fn requests_are_served_from_memory_and_from_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(directory.path(), None).await;
    let all = transactions(2);
    let batch = sealed(OWN, 0, 1, &all);
    node.put(&batch, &all).await.unwrap();
    let absent = Hash([3; 32]);
    for round in 1..=2 {
        node.receive("v3", &BatchWire::Request(vec![batch.reference.digest, absent]));
        until("v3 gets the batch", || node.lanes.sent_to("v3", &BatchWire::Found(batch.bytes.clone())) == round).await;
        until("and hears what is not here", || node.lanes.sent_to("v3", &BatchWire::Absent(absent)) == round).await;
        // Nothing is in memory any more in the second round.
        restart::<BatchStoreMsg>(&node.registry, "batch-store", KillMode::Kill).await;
    }
}

#[tokio::test]
async fn what_is_in_the_log_is_present_after_any_end() {
    for mode in ALL_MODES {
        let directory = tempfile::tempdir().unwrap();
        let node = node(directory.path(), None).await;
        let all = transactions(2);
        let (own, remote) = (sealed(OWN, 0, 1, &all), sealed(1, 0, 1, &all));
        node.put(&own, &all).await.unwrap();
        node.receive("v2", &BatchWire::Push(remote.bytes.clone()));
        node.told(stored(&remote)).await;
        restart::<BatchStoreMsg>(&node.registry, "batch-store", mode).await;
        let found = node.get(vec![remote.reference.digest, own.reference.digest]).await;
        assert!(found.iter().all(|batch| batch.as_ref().unwrap().transactions() == all), "after {mode:?}");
        assert_eq!(node.undelivered().await, vec![own.reference], "after {mode:?}");
        node.validator.0.lock().clear();
        node.fetch(&remote, &[1]);
        node.told(stored(&remote)).await;
        assert!(node.lanes.sent.lock().iter().all(|(_, sent)| sent[0] == crate::wire::BULK_BATCH_PUSH));
    }
}

fn commit(index: u64, batches: Vec<BatchRef>) -> Commit {
    let leader = BlockRef { round: 1, author: 0, digest: Hash([1; 32]) };
    let blocks = vec![CommittedBlock { block: leader, batches }];
    let mut header = CommitHeader {
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
    header.blocks_root = aurigraph_consensus::commit::blocks_root(blocks.iter().map(|block| &block.block));
    Commit { header, blocks, epoch_end: None, faults: Vec::new(), state_digest: Hash::ZERO }
}

#[tokio::test]
async fn a_restart_forgets_own_batches_that_a_commit_delivered() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(directory.path(), None).await;
    let all = transactions(2);
    let (first, second) = (sealed(OWN, 0, 1, &all), sealed(OWN, 0, 2, &all));
    for batch in [&first, &second] {
        node.put(batch, &all).await.unwrap();
    }
    node.log_commit(1, vec![first.reference]).await;
    restart::<BatchStoreMsg>(&node.registry, "batch-store", KillMode::Kill).await;
    assert_eq!(node.undelivered().await, vec![second.reference]);
}

#[tokio::test]
async fn own_batches_that_an_epoch_did_not_deliver_are_sealed_anew_once() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(directory.path(), None).await;
    let all = transactions(1);
    let (first, second) = (sealed(OWN, 0, 1, &all), sealed(OWN, 0, 2, &all));
    for batch in [&first, &second] {
        node.put(batch, &all).await.unwrap();
    }
    node.store.send(BatchStoreMsg::Delivered { digests: vec![first.reference.digest] }).unwrap();
    node.log_commit(1, vec![first.reference]).await;
    *node.members.lock() = Some(Arc::new(Members::named(1, Some(2), &["v2", "v3", "v1"])));
    node.store.send(BatchStoreMsg::EpochStarted).unwrap();
    let anew = sealed(2, 1, 2, &all).reference;
    node.told(Told::Sealed(anew)).await;
    assert_eq!(node.undelivered().await, vec![anew]);
    // A batcher that had not heard of the epoch.
    let late = node.put(&sealed(OWN, 0, 3, &all), &all).await.unwrap();
    assert_eq!(late, sealed(2, 1, 3, &all).reference);
    let body = node.get(vec![late.digest]).await.remove(0).unwrap();
    assert_eq!(body.delivered_by(1, 2, &late), all);
    // What was sealed anew before a restart is not sealed a second time.
    restart::<BatchStoreMsg>(&node.registry, "batch-store", KillMode::Kill).await;
    assert_eq!(node.undelivered().await, vec![anew, late]);
    // Who left the committee takes no more.
    *node.members.lock() = Some(Arc::new(Members::named(2, None, &["v2", "v3"])));
    node.store.send(BatchStoreMsg::EpochStarted).unwrap();
    assert_eq!(node.put(&sealed(2, 1, 9, &all), &all).await, Err(BatchError::NoValidator));
}

#[tokio::test]
async fn sequence_numbers_are_never_given_twice() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(directory.path(), None).await;
    assert_eq!(node.sequences(10).await, 0..10);
    assert_eq!(node.sequences(5).await, 10..15);
    restart::<BatchStoreMsg>(&node.registry, "batch-store", KillMode::Abort).await;
    assert_eq!(node.sequences(1).await, 15..16);
}

#[tokio::test]
async fn the_flow_control_stops_own_batches_and_a_delivery_opens_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = node(directory.path(), None).await;
    let all = transactions(1);
    let batches: Vec<_> = (0..=bounds::OWN_BATCHES as u64).map(|sequence| sealed(OWN, 0, sequence, &all)).collect();
    let (last, first) = batches.split_last().unwrap();
    for batch in first {
        node.put(batch, &all).await.unwrap();
    }
    assert!(matches!(node.put(last, &all).await, Err(BatchError::FlowStopped { count: bounds::OWN_BATCHES, .. })));
    assert!(node.batcher.nothing());
    node.store.send(BatchStoreMsg::Delivered { digests: vec![first[3].reference.digest] }).unwrap();
    assert!(matches!(node.batcher.next().await, BatcherMsg::Flush));
    assert_eq!(node.put(last, &all).await, Ok(last.reference));
}

#[tokio::test]
async fn a_store_that_loses_its_journal_fails_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(directory.path(), None).await;
    let all = transactions(1);
    for (sequence, mode) in ALL_MODES.into_iter().enumerate() {
        let batch = sealed(OWN, 0, sequence as u64, &all);
        restart::<JournalMsg>(&node.registry, "journal", mode).await;
        let mut stored = Err(BatchError::Journal(String::new()));
        let began = std::time::Instant::now();
        // A put on its way when the journal dies is dropped, as for a batcher, which offers the batch again.
        while stored.is_err() && began.elapsed() < Duration::from_secs(20) {
            let (batch, transactions) = (batch.clone(), all.clone());
            let put = |reply| BatchStoreMsg::PutOwn { batch, transactions, reply };
            stored =
                node.store.call(SOON, put).await.unwrap_or_else(|error| Err(BatchError::Journal(error.to_string())));
        }
        assert_eq!(stored, Ok(batch.reference), "after {mode:?}");
    }
}
