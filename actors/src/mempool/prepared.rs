//! Batches as everyone after the batch store sees them: digest known, transactions decoded once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use aurigraph_consensus::{AuthorIdx, BatchRef, Epoch};
use aurigraph_ledger::Hash;
use aurigraph_ledger::transaction::Transaction;
use bytes::Bytes;

use super::batch::Batch;

/// A stored batch with its transactions decoded.
#[derive(Debug)]
pub struct PreparedBatch {
    /// Its digest, its true length and its true number of transactions.
    pub reference: BatchRef,
    /// The epoch that it says it belongs to.
    pub epoch: Epoch,
    /// Who it says made it.
    pub author: AuthorIdx,
    /// Its number in the author's count.
    pub sequence: u64,
    /// The transactions that decode, in order; the others are nothing to anyone.
    transactions: Vec<Arc<Transaction>>,
    /// The whole batch.
    bytes: Bytes,
}

impl PreparedBatch {
    /// Decodes a batch's transactions.
    #[must_use]
    pub fn new(batch: &Batch) -> Self {
        let decode = |bytes| Transaction::decode_shared(bytes).ok().map(Arc::new);
        Self::of(batch, batch.transactions().filter_map(decode).collect())
    }

    /// An own batch, whose transactions are decoded already.
    pub(super) fn of(batch: &Batch, transactions: Vec<Arc<Transaction>>) -> Self {
        Self {
            reference: batch.reference,
            epoch: batch.head.epoch,
            author: batch.head.author,
            sequence: batch.head.sequence,
            transactions,
            bytes: batch.bytes.clone(),
        }
    }

    /// What a block by `author` in `epoch` delivers when it names the batch by `named`: nothing if the batch is not what
    /// the block says. Every node computes the same.
    #[must_use]
    pub fn delivered_by(&self, epoch: Epoch, author: AuthorIdx, named: &BatchRef) -> &[Arc<Transaction>] {
        if *named == self.reference && epoch == self.epoch && author == self.author { &self.transactions } else { &[] }
    }

    /// All transactions that decode, whoever names the batch.
    #[must_use]
    pub fn transactions(&self) -> &[Arc<Transaction>] {
        &self.transactions
    }

    /// Bytes of the batch's encoding.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The batch's encoding.
    pub(super) fn encoded(&self) -> Bytes {
        self.bytes.clone()
    }
}

/// Prepared batches in memory, bounded by bytes; the oldest leave first.
#[derive(Debug)]
pub(super) struct PreparedCache {
    batches: HashMap<Hash, Arc<PreparedBatch>>,
    order: VecDeque<Hash>,
    bytes: usize,
    bound: usize,
}

impl PreparedCache {
    pub fn new(bound: usize) -> Self {
        Self { batches: HashMap::new(), order: VecDeque::new(), bytes: 0, bound }
    }

    pub fn get(&self, digest: &Hash) -> Option<Arc<PreparedBatch>> {
        self.batches.get(digest).cloned()
    }

    pub fn put(&mut self, batch: Arc<PreparedBatch>) {
        let digest = batch.reference.digest;
        if self.batches.contains_key(&digest) {
            return;
        }
        self.bytes += batch.bytes();
        self.order.push_back(digest);
        self.batches.insert(digest, batch);
        while self.bytes > self.bound
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.batches.remove(&oldest).map_or(0, |batch| batch.bytes());
        }
    }

    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mempool::batch::BatchHead;

    fn batch(sequence: u64, transactions: &[&[u8]]) -> Batch {
        Batch::seal(BatchHead { epoch: 0, author: 1, sequence }, transactions.iter().copied(), 0)
    }

    #[test]
    fn a_batch_named_by_another_author_epoch_or_size_delivers_nothing() {
        let prepared = PreparedBatch::new(&batch(1, &[b"no transaction"]));
        assert!(prepared.transactions().is_empty());
        let transactions = crate::mempool::testing::transactions(2);
        let bytes: Vec<_> = transactions.iter().map(|transaction| transaction.encode()).collect();
        let prepared = PreparedBatch::new(&batch(1, &[bytes[0], b"no transaction", bytes[1]]));
        let named = prepared.reference;
        assert_eq!(prepared.delivered_by(0, 1, &named), transactions);
        assert!(prepared.delivered_by(1, 1, &named).is_empty());
        assert!(prepared.delivered_by(0, 2, &named).is_empty());
        assert!(prepared.delivered_by(0, 1, &BatchRef { len: named.len + 1, ..named }).is_empty());
        assert!(prepared.delivered_by(0, 1, &BatchRef { tx_count: 2, ..named }).is_empty());
    }

    #[test]
    fn the_cache_holds_its_byte_bound_and_drops_the_oldest() {
        let mut cache = PreparedCache::new(10_000);
        for sequence in 0..50 {
            cache.put(Arc::new(PreparedBatch::new(&batch(sequence, &[&[0; 1_000]]))));
            assert!(cache.bytes() <= 10_000, "{} bytes", cache.bytes());
        }
        assert!(cache.get(&batch(0, &[&[0; 1_000]]).reference.digest).is_none());
        assert!(cache.get(&batch(49, &[&[0; 1_000]]).reference.digest).is_some());
    }
}
