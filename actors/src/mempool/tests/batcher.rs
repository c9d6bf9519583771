//! A batcher; the batch store and admission are the test.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aurigraph_consensus::BatchRef;
use aurigraph_ledger::transaction::Transaction;
use aurigraph_runtime::{Address, ChildSpec, Registry, Reply, Tree};

use crate::bounds::mempool as bounds;
use crate::crypto::testing::{self, ALL_MODES, Heard, probe, restart, tree, until};
use crate::mempool::testing::transactions;
use crate::mempool::*;

struct Node {
    registry: Registry,
    _tree: Tree,
    store: Heard<BatchStoreMsg>,
    admission: Heard<AdmissionMsg>,
    batcher: Address<BatcherMsg>,
}

/// A put as the store sees it.
type Put = (Batch, Reply<Result<BatchRef, BatchError>>);

async fn node(batching: bool, batch_bytes: usize, delay: Duration) -> Node {
    let registry = testing::node();
    let (store_spec, store) = probe("batch-store", 64);
    let (admission_spec, admission) = probe("admission", 64);
    let parts = BatcherParts { seat: Arc::new(|| (0, 2)), batching, batch_bytes, delay };
    let batcher = ChildSpec::behaviour("batcher/0", bounds::BATCHER_MAILBOX, move || Batcher::new(parts.clone()));
    let tree = tree(&registry, vec![store_spec, admission_spec, batcher]).await;
    let batcher = registry.role("batcher/0");
    Node { registry, _tree: tree, store, admission, batcher }
}

impl Node {
    fn add(&self, transactions: &[Arc<Transaction>]) {
        self.batcher.send(BatcherMsg::Add { transactions: transactions.to_vec() }).unwrap();
    }

    async fn all_handled(&self) {
        until("everything sent was handled", || self.batcher.depth() == 0).await;
    }

    async fn give_sequences(&mut self, range: Range<u64>) {
        match self.store.next().await {
            BatchStoreMsg::ReserveSequences { count, reply } => {
                assert_eq!(count, bounds::SEQUENCES);
                reply.send(Ok(range));
            }
            other => panic!("{other:?}"),
        }
    }

    async fn put(&mut self) -> Put {
        match self.store.next().await {
            BatchStoreMsg::PutOwn { batch, transactions, reply } => {
                assert!(batch.transactions().eq(transactions.iter().map(|one| one.shared_bytes())));
                (batch, reply)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn sealed(&mut self) -> usize {
        match self.admission.next().await {
            AdmissionMsg::Sealed { ids, .. } => ids.len(),
            other => panic!("{other:?}"),
        }
    }
}

fn stored((batch, reply): Put) -> Batch {
    reply.send(Ok(batch.reference));
    batch
}

const LONG: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn an_idle_batcher_seals_at_once() {
    let mut node = node(true, 1 << 19, LONG).await;
    let all = transactions(3);
    node.add(&all[..1]);
    node.give_sequences(40..50).await;
    let batch = stored(node.put().await);
    assert_eq!((batch.head.author, batch.head.sequence, batch.reference.tx_count), (2, 40, 1));
    assert_eq!(node.sealed().await, 1);
    // Now it is busy: the next ones wait for the delay, or for an order.
    node.add(&all[1..]);
    node.batcher.send(BatcherMsg::Flush).unwrap();
    let batch = stored(node.put().await);
    assert_eq!((batch.head.sequence, batch.reference.tx_count), (41, 2));
    assert_eq!(node.sealed().await, 2);
}

#[tokio::test]
async fn a_busy_batcher_waits_for_the_delay_or_a_full_batch() {
    let mut node = node(true, 5_000 * 4, LONG).await;
    let all = transactions(12);
    node.add(&all[..1]);
    node.give_sequences(0..99).await;
    stored(node.put().await);
    node.sealed().await;
    node.add(&all[1..4]);
    node.all_handled().await;
    assert!(node.store.nothing(), "three wait");
    node.add(&all[4..]);
    let batch = stored(node.put().await);
    assert_eq!(batch.reference.tx_count, 4);
    assert!(batch.bytes.len() <= 20_000, "{} bytes", batch.bytes.len());
    let batch = stored(node.put().await);
    assert_eq!(batch.reference.tx_count, 4);
}

#[tokio::test]
async fn after_the_delay_what_waits_is_sealed() {
    let mut node = node(true, 1 << 19, Duration::from_millis(20)).await;
    let all = transactions(3);
    node.add(&all[..1]);
    node.give_sequences(0..99).await;
    stored(node.put().await);
    node.add(&all[1..]);
    let mut count = 0;
    while count < 2 {
        count += stored(node.put().await).reference.tx_count;
    }
    assert_eq!(count, 2);
}

#[tokio::test]
async fn without_batching_each_transaction_is_a_batch() {
    let mut node = node(false, 1 << 19, LONG).await;
    let all = transactions(5);
    node.add(&all);
    node.give_sequences(0..99).await;
    for transaction in &all {
        let batch = stored(node.put().await);
        assert!(batch.transactions().eq([transaction.shared_bytes()]));
        assert_eq!(node.sealed().await, 1);
    }
}

#[tokio::test]
async fn a_transaction_that_is_held_already_is_taken_once() {
    let mut node = node(true, 1 << 19, LONG).await;
    let all = transactions(2);
    node.add(&[all[0].clone(), all[0].clone(), all[1].clone()]);
    node.add(&all);
    node.give_sequences(0..99).await;
    assert_eq!(stored(node.put().await).reference.tx_count, 2);
    node.sealed().await;
    node.batcher.send(BatcherMsg::Flush).unwrap();
    node.add(&all[..1]);
    assert_eq!(stored(node.put().await).reference.tx_count, 1, "after it was stored it is another matter");
}

#[tokio::test]
async fn a_stopped_flow_stops_sealing_and_an_open_one_resumes_it() {
    let mut node = node(true, 5_000 * 2, LONG).await;
    let all = transactions(6);
    node.add(&all);
    node.give_sequences(0..99).await;
    let (first, reply) = node.put().await;
    reply.send(Err(BatchError::FlowStopped { count: 64, bytes: 1 }));
    // It offers the same batch again, by itself or when it is told.
    node.batcher.send(BatcherMsg::Flush).unwrap();
    let (again, reply) = node.put().await;
    assert_eq!(again.bytes, first.bytes);
    reply.send(Err(BatchError::FlowStopped { count: 64, bytes: 1 }));
    let again = stored(node.put().await);
    assert_eq!(again.bytes, first.bytes);
    let mut count = again.reference.tx_count;
    while count < 6 {
        node.batcher.send(BatcherMsg::Flush).unwrap();
        count += stored(node.put().await).reference.tx_count;
    }
    assert_eq!(count, 6, "none lost, none twice");
}

#[tokio::test]
async fn a_batch_is_offered_again_when_the_store_dies() {
    for mode in ALL_MODES {
        let mut node = node(true, 1 << 19, LONG).await;
        node.add(&transactions(2));
        node.give_sequences(0..99).await;
        let (first, reply) = node.put().await;
        restart::<BatchStoreMsg>(&node.registry, "batch-store", mode).await;
        drop(reply);
        let again = stored(node.put().await);
        assert_eq!(again.bytes, first.bytes, "after {mode:?}");
        assert_eq!(node.sealed().await, 2);
    }
}

#[tokio::test]
async fn a_stalled_store_never_makes_a_batcher_hold_more_than_its_bound() {
    let mut node = node(true, 1 << 19, LONG).await;
    let one = transactions(1)[0].encode().len();
    // The same few bytes under many ids would need many signatures; a batcher does not check them.
    let account = crate::mempool::testing::Account::new(1);
    let signature = account.pay(0).signature().to_vec();
    let limit = bounds::BATCHER_BYTES / one;
    for start in (0..limit as u64 + 500).step_by(500) {
        let some: Vec<_> = (start..start + 500)
            .map(|nonce| Arc::new(account.builder(nonce).build().unwrap().with_signature(&signature).unwrap()))
            .collect();
        node.add(&some);
    }
    node.give_sequences(0..1_000_000).await;
    let mut count = 0;
    while count < limit {
        node.batcher.send(BatcherMsg::Flush).unwrap();
        count += stored(node.put().await).reference.tx_count as usize;
    }
    assert_eq!(count, limit);
    node.batcher.send(BatcherMsg::Flush).unwrap();
    node.all_handled().await;
    assert!(node.store.nothing(), "the rest was dropped");
}
