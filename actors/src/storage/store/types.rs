//! What goes into the store and what comes out.

use aurigraph_ledger::{Hash, StoredPage};
use aurigraph_schema_upgrades::node::v004_address_index::Party;
use bytes::Bytes;

/// A ledger block as it is indexed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlock {
    /// Its height.
    pub height: u64,
    /// Its hash.
    pub hash: Hash,
    /// The commit that it stands for.
    pub commit_index: u64,
    /// The canonical header.
    pub header: Bytes,
    /// Digests of the delivered batches, in order: where the transactions' bodies stand in the journal.
    pub batches: Vec<Hash>,
    /// The included transactions, in order.
    pub transactions: Vec<StoredTransaction>,
    /// Encoded bytes of the transactions.
    pub bytes: u64,
}

/// What this node measured of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measures {
    /// From the commit's time to the moment this node had executed and stored it for the first time, milliseconds.
    pub finalized_after_ms: Option<u64>,
    /// Encoded bytes of its transactions.
    pub bytes: Option<u64>,
}

/// An included transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTransaction {
    /// Its id.
    pub id: Hash,
    /// The place of its batch in [`StoredBlock::batches`].
    pub batch: u16,
    /// Its place in that batch.
    pub position: u32,
    /// Its canonical receipt.
    pub receipt: Bytes,
    /// Who takes part in it.
    pub parties: Vec<Party>,
}

/// A block as the store gives it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRow {
    /// Its height.
    pub height: u64,
    /// Its hash.
    pub hash: Hash,
    /// The commit that it stands for.
    pub commit_index: u64,
    /// The canonical header.
    pub header: Bytes,
    /// Digests of the delivered batches, in order.
    pub batches: Vec<Hash>,
    /// How many transactions it includes.
    pub transactions: u32,
    /// What this node measured of it.
    pub measures: Measures,
}

/// A transaction as the store gives it back, without its body: that stands in the batch in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionRow {
    /// Where it is.
    pub location: TransactionLocation,
    /// Its id.
    pub id: Hash,
    /// Digest of the batch that holds its body.
    pub batch: Hash,
    /// Its place in that batch.
    pub position: u32,
    /// Its canonical receipt.
    pub receipt: Bytes,
}

/// A transaction's place in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransactionLocation {
    /// The block.
    pub height: u64,
    /// Its place among the block's transactions.
    pub index: u32,
}

/// A transaction in which an account takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartyRow {
    /// Where it is.
    pub location: TransactionLocation,
    /// What the account is in it: bits as in `V004__address_index`.
    pub role: u8,
}

/// A checkpoint that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointDone {
    /// Counts the checkpoints of this store.
    pub sequence: u64,
    /// Height of the last block in it.
    pub height: u64,
    /// Values that had changed since this slot was last written.
    pub written: usize,
    /// Bytes of them.
    pub bytes: usize,
    /// How long it took.
    pub took: std::time::Duration,
}

/// A checkpoint whose checksums hold.
#[derive(Debug, Clone)]
pub struct StoredCheckpoint {
    /// Counts the checkpoints of this store.
    pub sequence: u64,
    /// Height of the last block in it.
    pub height: u64,
    /// The last commit in it: execution goes on with the next one.
    pub commit_index: u64,
    /// The state root; `Ledger::import` compares it with that of the pages.
    pub state_root: Hash,
    /// The consensus state, as it was given.
    pub consensus: Bytes,
    /// Every page, in ascending order of keys: what `Ledger::import` takes.
    pub pages: Vec<StoredPage>,
}
