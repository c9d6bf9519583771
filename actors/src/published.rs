//! The state that readers see: an immutable snapshot, handed out after each ledger block.
//!
//! Publish builds it; query actors, admission and the batch store answer from it. Nobody writes it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use aurigraph_consensus::Certified;
use aurigraph_ledger::transaction::Sender;
use aurigraph_ledger::{AccountIndex, Checkpoint, Hash, LedgerHeader, StateView};
use bytes::Bytes;

use crate::crypto::KnownKey;
use crate::mempool::{AccountFacts, ChainView};

/// Blocks whose summaries are kept in memory for rates, stats and the newest-blocks route.
pub const RECENT_BLOCKS: usize = 256;

/// A ledger block at a glance.
#[derive(Debug, Clone)]
pub struct BlockSummary {
    /// Its header.
    pub header: LedgerHeader,
    /// Its hash.
    pub hash: Hash,
    /// Encoded bytes of its transactions.
    pub bytes: u64,
    /// When this node published it, milliseconds of the wall clock.
    pub published_at_ms: u64,
    /// From the commit's time to the moment that this node had executed and stored it, milliseconds; none if it was executed
    /// before, or the clocks disagree.
    pub finalized_after_ms: Option<u64>,
}

/// Counts of this node since its process started; what was executed again after an actor's restart counts once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Ledger blocks.
    pub blocks: u64,
    /// Included transactions.
    pub transactions: u64,
    /// Operations of included transactions.
    pub operations: u64,
    /// Operations that had their effect.
    pub operations_applied: u64,
    /// Delivered transactions that are in no block.
    pub excluded: u64,
    /// Encoded bytes of included transactions.
    pub bytes: u64,
}

/// An immutable snapshot of the executed chain.
#[derive(Clone)]
pub struct Published {
    /// The newest block.
    pub newest: Arc<BlockSummary>,
    /// The state after it.
    pub view: StateView,
    /// The state at the newest checkpoint since the executor started: proves accounts. None until then.
    pub proving: Option<StateView>,
    /// The newest checkpoint with a certificate, as far as consensus has told.
    pub certified: Option<Certified>,
    /// The newest executed commit: may be past the newest block's.
    pub executed_commit: u64,
    /// Recent blocks, oldest first; the newest included.
    pub recent: Arc<VecDeque<Arc<BlockSummary>>>,
    /// Counts since the process started.
    pub totals: Totals,
    /// For how long the node has run when this was published.
    pub uptime: Duration,
}

impl Published {
    /// Height of the newest block.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.newest.header.height
    }

    /// The newest checkpoint.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        self.view.checkpoint()
    }
}

impl std::fmt::Debug for Published {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Published")
            .field("height", &self.height())
            .field("executed_commit", &self.executed_commit)
            .finish_non_exhaustive()
    }
}

impl ChainView for Published {
    fn height(&self) -> u64 {
        self.newest.header.height
    }

    fn account(&self, sender: &Sender) -> Option<AccountFacts> {
        let index = match sender {
            Sender::Index(index) => *index,
            Sender::Address(address) => self.view.find(address)?,
        };
        let account = self.view.account(index)?;
        let key =
            self.view.public_key(index).map(|key| KnownKey { hash: account.address.0, bytes: Bytes::from_owner(key) });
        Some(AccountFacts { index, address: account.address, balance: account.balance, nonce_base: account.nonce, key })
    }

    fn nonce_used(&self, account: AccountIndex, nonce: u64) -> bool {
        self.view.nonce_used(account, nonce)
    }
}
