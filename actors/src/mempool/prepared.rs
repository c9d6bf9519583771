//! Batches as everyone after the batch store sees them: digest known, transactions decoded once.

use std::sync::Arc;

use aurigraph_consensus::{AuthorIdx, BatchRef, Epoch};
use aurigraph_ledger::transaction::Transaction;

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
    /// Bytes of the whole batch.
    bytes: usize,
}

impl PreparedBatch {
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
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}
