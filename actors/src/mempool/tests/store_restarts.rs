//! What a restarted batch store must know of the one before: what that one still had on its way to the log, and what
//! the validator never heard.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use aurigraph_runtime::KillMode;

use super::store::{Node, OWN, Told, node_over, open, sealed};
use crate::crypto::testing::{self, SOON, restart, until};
use crate::mempool::testing::transactions;
use crate::mempool::*;
use crate::storage::RecordKind;
use crate::testing::{Appended, SlowJournal, end, has, is_barrier};

async fn node(directory: &tempfile::TempDir) -> (Node, Arc<SlowJournal>) {
    let (registry, journal) = (testing::node(), open(directory.path()));
    let reader = journal.reader();
    let (actors, slow) = SlowJournal::before(&registry, journal);
    (node_over(registry, reader, actors, None).await, slow)
}

fn a_batch(append: &Appended) -> bool {
    has(RecordKind::Batch, append)
}

/// Kills the store while an append of it is held, waits until the next one asks for what is on its way (or, were it
/// wrong, runs without asking), and lets the journal go on.
async fn restart_behind_the_held(node: &Node, journal: &SlowJournal) {
    end::<BatchStoreMsg>(&node.registry, "batch-store").await;
    let asked = || journal.held().iter().any(is_barrier);
    until("the next store has a word", || asked() || node.store.is_running()).await;
    journal.release();
    until("the store is back", || node.store.is_running()).await;
}

#[tokio::test]
async fn a_restarted_store_announces_an_own_batch_that_was_still_on_its_way_to_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let (node, journal) = node(&directory).await;
    let all = transactions(1);
    let batch = sealed(OWN, 0, 1, &all);
    journal.hold_from(a_batch);
    let (sent, transactions) = (batch.clone(), all.clone());
    let put = node.store.ask(|reply| BatchStoreMsg::PutOwn { batch: sent, transactions, reply }).unwrap();
    until("the batch is on its way", || journal.held().iter().any(a_batch)).await;
    restart_behind_the_held(&node, &journal).await;
    assert!(put.await.is_err(), "the batcher was told nothing, and offers it again");
    until("it is written all the same", || node.journal.contains(RecordKind::Batch, &batch.reference.digest)).await;
    assert_eq!(node.put(&batch, &all).await, Ok(batch.reference));
    // Stored and not announced, it would never be proposed, and its transactions would never be committed.
    node.told(Told::Sealed(batch.reference)).await;
    assert_eq!(node.undelivered().await, vec![batch.reference]);
}

#[tokio::test]
async fn sequence_numbers_whose_reservation_was_still_on_its_way_to_the_log_are_not_given_again() {
    let directory = tempfile::tempdir().unwrap();
    let (node, journal) = node(&directory).await;
    assert_eq!(node.sequences(10).await, 0..10);
    journal.hold_from(|append| has(RecordKind::Mode, append));
    let lost = node.store.ask(|reply| BatchStoreMsg::ReserveSequences { count: 5, reply }).unwrap();
    until("the reservation is on its way", || !journal.held().is_empty()).await;
    restart_behind_the_held(&node, &journal).await;
    assert!(lost.await.is_err());
    assert_eq!(node.sequences(1).await, 15..16);
}

#[tokio::test]
async fn a_restarted_store_announces_own_batches_of_which_the_validator_never_heard() {
    let directory = tempfile::tempdir().unwrap();
    let (node, _journal) = node(&directory).await;
    let all = transactions(1);
    let batches = [sealed(OWN, 0, 1, &all), sealed(OWN, 0, 2, &all)];
    node.validator.1.store(true, Ordering::SeqCst);
    for batch in &batches {
        assert_eq!(node.put(batch, &all).await, Ok(batch.reference));
    }
    restart::<BatchStoreMsg>(&node.registry, "batch-store", KillMode::Kill).await;
    assert!(node.validator.0.lock().is_empty());
    node.validator.1.store(false, Ordering::SeqCst);
    for batch in &batches {
        node.told(Told::Sealed(batch.reference)).await;
    }
}

#[tokio::test]
async fn a_batch_that_is_still_being_written_is_not_among_those_to_be_proposed() {
    let directory = tempfile::tempdir().unwrap();
    let (node, journal) = node(&directory).await;
    let all = transactions(1);
    let batch = sealed(OWN, 0, 1, &all);
    journal.hold_from(a_batch);
    let (sent, transactions) = (batch.clone(), all.clone());
    let put = node.store.ask(|reply| BatchStoreMsg::PutOwn { batch: sent, transactions, reply }).unwrap();
    assert!(node.undelivered().await.is_empty(), "it could be lost yet, with the block that names it on its way");
    assert!(!node.validator.heard(Told::Sealed(batch.reference)));
    journal.release();
    let stored = tokio::time::timeout(SOON, put).await.unwrap().unwrap();
    assert_eq!(stored, Ok(batch.reference));
    assert_eq!(node.undelivered().await, vec![batch.reference]);
}
