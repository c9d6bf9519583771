//! A validator's execution: the real ledger, a queue of commits before it, a store of checkpoints behind it.

use std::collections::VecDeque;
use std::sync::Arc;

use aurigraph_consensus::{CkptRef, Commit};
use aurigraph_ledger::{
    CommitInput, CommitOutcome, CommittedBatch, EpochEnd, Foundation, Hash, Ledger, PlainHasher, PreparedTransaction,
    StateView, Verdict,
};
use bytes::Bytes;

use super::workload::{Entry, StubVerifier, Workload};

/// A checkpoint as the store holds it.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// Exported when a process starts from it; until then it is nothing that could change.
    view: StateView,
    pub(crate) commit_index: u64,
    pub(crate) checkpoint: CkptRef,
}

/// Execution of one validator.
#[derive(Debug)]
pub(crate) struct Executor {
    pub(crate) ledger: Ledger,
    pub(crate) queue: VecDeque<Arc<Commit>>,
    /// Execution is on its way.
    pub(crate) busy: bool,
    /// Nothing is executed before this time.
    pub(crate) stalled_until: u64,
    /// What survives the process.
    pub(crate) stored: Option<Stored>,
}

impl Executor {
    /// A ledger at genesis.
    pub(crate) fn new(genesis: &Foundation) -> Self {
        let ledger = Ledger::from_genesis(genesis, Arc::new(PlainHasher)).expect("a valid genesis");
        Self { ledger, queue: VecDeque::new(), busy: false, stalled_until: 0, stored: None }
    }

    /// After a crash: the ledger of the stored checkpoint.
    ///
    /// # Errors
    /// If the stored pages make no ledger, or not the one that was stored.
    pub(crate) fn restart(&mut self, genesis: &Foundation) -> Result<(), String> {
        let stored = self.stored.take();
        *self = Self::new(genesis);
        if let Some(stored) = stored {
            let pages = stored.view.export_pages(None).map_err(|error| error.to_string())?;
            self.ledger = Ledger::import(genesis, Arc::new(PlainHasher), pages)
                .map_err(|error| format!("a stored checkpoint does not import: {error}"))?;
            let found = self.ledger.checkpoint();
            if found.digest() != stored.checkpoint.digest || self.ledger.commit_index() != stored.commit_index {
                return Err(format!(
                    "stored {:?} at commit {}, imported {found:?}",
                    stored.checkpoint, stored.commit_index
                ));
            }
            self.stored = Some(stored);
        }
        Ok(())
    }

    pub(crate) fn stored_index(&self) -> u64 {
        self.stored.as_ref().map_or(0, |stored| stored.commit_index)
    }

    /// Executes a commit whose bodies these are. Validators learn their verdicts differently: early, late, or under a
    /// wrong key; it must make no difference.
    ///
    /// # Errors
    /// If the ledger refuses the commit.
    pub(crate) fn execute(
        &mut self,
        node: usize,
        commit: &Commit,
        bodies: &[Bytes],
        workload: &mut Workload,
        forgets: bool,
    ) -> Result<CommitOutcome, String> {
        let mut batches = Vec::with_capacity(bodies.len());
        for ((block, batch), body) in commit.batches().zip(bodies) {
            let decoded = workload.decode(&batch.digest, body);
            let prepare = |(at, entry): (usize, &Entry)| PreparedTransaction {
                transaction: entry.transaction.clone(),
                verdict: verdict(node + at, entry),
            };
            let skip = usize::from(forgets);
            let transactions = decoded.iter().enumerate().skip(skip).map(prepare).collect();
            batches.push(CommittedBatch { proposer: block.author, digest: batch.digest, transactions });
        }
        let header = &commit.header;
        let commit_digest = header.digest();
        let input = CommitInput {
            version: aurigraph_ledger::FIRST_PROTOCOL_VERSION,
            epoch: header.epoch,
            commit_index: header.index,
            commit_digest,
            timestamp_ms: header.timestamp_ms,
            leader: header.leader.author,
            round: header.leader.round,
            consensus_state_digest: commit.state_digest,
            batches,
            faults: Vec::new(),
            epoch_end: commit.epoch_end.as_ref().map(|end| EpochEnd { delivered: end.delivered.clone() }),
        };
        self.ledger.execute(input, &StubVerifier).map_err(|error| error.to_string())
    }

    /// What the store would hold, right after a checkpoint.
    ///
    /// # Errors
    /// If the ledger does not stand at a checkpoint.
    pub(crate) fn export(&mut self) -> Result<Stored, String> {
        let view = self.ledger.snapshot();
        if !view.is_checkpoint() {
            return Err(format!("the view at height {} is of no checkpoint", view.height()));
        }
        let checkpoint = view.checkpoint();
        let checkpoint = CkptRef { seq: checkpoint.seq, digest: checkpoint.digest() };
        Ok(Stored { view, commit_index: self.ledger.commit_index(), checkpoint })
    }

    /// All balances, the fee pool, and what the table of stakes holds.
    pub(crate) fn supply(&mut self) -> u128 {
        let view = self.ledger.snapshot();
        let balances =
            (0..view.account_count()).filter_map(|index| view.balance(aurigraph_ledger::AccountIndex(index)));
        balances.sum::<u128>() + view.fee_pool() + view.staking().map_or(0, |table| table.held())
    }

    pub(crate) fn state_root(&mut self) -> Hash {
        self.ledger.compute_state_root()
    }
}

/// Late, under a wrong key, or early.
fn verdict(salt: usize, entry: &Entry) -> Option<Verdict> {
    match salt % 3 {
        0 => None,
        1 => entry.strange.map(|verdict| Verdict { valid: salt.is_multiple_of(2), ..verdict }),
        _ => entry.right,
    }
}
