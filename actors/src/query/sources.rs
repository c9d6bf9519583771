//! Where query actors, the signer and the event hub read from: immutable facts, watches and readers, no actor's state.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use aurigraph_consensus::{Committee, Epoch, Status};
use aurigraph_ledger::Hash;
use aurigraph_runtime::Registry;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::validator_watch::ValidatorWatch;
use super::values::Timestamp;
use super::views::Page;
use crate::audit::{AuditFilter, AuditPage, AuditSummary};
use crate::crypto::Gpus;
use crate::members::{Members, MembersOf};
use crate::mempool::PreparedBatch;
use crate::published::Published;
use crate::settings::NodeSettings;
use crate::storage::Measures;

/// What was included where, as the store and the journal keep it. Its calls block.
pub trait Archive: Send + Sync + 'static {
    /// A block by height.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn block(&self, height: u64) -> Result<Option<ArchivedBlock>, String>;

    /// A block by hash.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn block_by_hash(&self, hash: &Hash) -> Result<Option<ArchivedBlock>, String>;

    /// A transaction by id.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn transaction(&self, id: &Hash) -> Result<Option<ArchivedTransaction>, String>;

    /// Up to `count` transactions of a block from the position `from` on.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn transactions_of(&self, height: u64, from: u32, count: u32) -> Result<Vec<ArchivedTransaction>, String>;

    /// A page of the transactions in which an account takes part, under any of its names in the index, of blocks up to a
    /// height, newest first.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn transactions_by(&self, names: &[Vec<u8>], height: u64, page: Page) -> Result<ArchivedParties, String>;

    /// A batch by digest, decoded.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn batch(&self, digest: &Hash) -> Result<Option<Arc<PreparedBatch>>, String>;

    /// The canonical header of a checkpoint.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn checkpoint(&self, seq: u64) -> Result<Option<bytes::Bytes>, String>;

    /// The canonical certificate of a checkpoint.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn certificate(&self, seq: u64) -> Result<Option<bytes::Bytes>, String>;

    /// The canonical certificate of an epoch's end.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn epoch_certificate(&self, epoch: u64) -> Result<Option<bytes::Bytes>, String>;

    /// The canonical validator set of an epoch; none for the first, which the genesis names.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn validator_set(&self, epoch: u64) -> Result<Option<bytes::Bytes>, String>;

    /// What the commits of an epoch that is over say of its validators' blocks; none where the log lacks its end.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn ended_epoch(&self, epoch: u64) -> Result<Option<EpochWork>, String>;

    /// The newest checkpoint with a certificate.
    fn newest_certified(&self) -> Option<u64>;

    /// A page of the audit log's entries that a filter accepts.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn audit_logs(&self, filter: &AuditFilter, page: Page) -> Result<AuditPage, String>;

    /// The audit log in figures.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn audit_summary(&self) -> Result<AuditSummary, String>;
}

/// What the commits of an epoch say of its validators' blocks: the same at every node that has the same commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochWork {
    /// The epoch.
    pub epoch: u64,
    /// Rounds whose blocks have had their time: those before the newest committed leader's.
    pub rounds: u64,
    /// Delivered blocks, by index in the epoch's set.
    pub delivered: Vec<u64>,
}

/// A block as it is kept.
#[derive(Debug, Clone)]
pub struct ArchivedBlock {
    /// Its hash.
    pub hash: Hash,
    /// Its canonical header.
    pub header: bytes::Bytes,
    /// What this node measured of it.
    pub measures: Measures,
}

/// Transactions in which an account takes part.
#[derive(Debug, Clone, Default)]
pub struct ArchivedParties {
    /// Those of the page, each with the account's role: bits as in `V004__address_index`.
    pub transactions: Vec<(ArchivedTransaction, u8)>,
    /// How many were found.
    pub total: u64,
    /// Whether the search ended at its bound.
    pub truncated: bool,
}

/// An included transaction as it is kept.
#[derive(Debug, Clone)]
pub struct ArchivedTransaction {
    /// Its id.
    pub id: Hash,
    /// Its block.
    pub height: u64,
    /// Its place in the block.
    pub index: u32,
    /// The batch that holds its body.
    pub batch: Hash,
    /// Its place in that batch.
    pub position: u32,
    /// Its canonical receipt.
    pub receipt: bytes::Bytes,
}

/// What is known of the links to another node.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkFacts {
    /// The node's name.
    pub name: String,
    /// Both lanes stand.
    pub up: bool,
    /// Since when they stand or do not.
    pub since: SystemTime,
    /// The last round trip of a probe, milliseconds.
    pub round_trip_ms: Option<f64>,
    /// Bytes received since the process started.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Messages received.
    pub messages_in: u64,
    /// Messages sent.
    pub messages_out: u64,
}

/// Tells of the links to all other nodes.
pub type Links = Arc<dyn Fn() -> Vec<LinkFacts> + Send + Sync>;

/// Everything that is read from; survives restarts of those who read.
pub struct Sources {
    /// What the node was started with.
    pub settings: NodeSettings,
    /// Hash of the genesis.
    pub chain_id: Hash,
    /// The validators of the epochs.
    pub members: MembersOf,
    /// The live tree.
    pub registry: Registry,
    /// The newest published state.
    pub published: watch::Receiver<Option<Arc<Published>>>,
    /// What the consensus machine last told.
    pub consensus: watch::Receiver<Option<Status>>,
    /// Blocks and transactions.
    pub archive: Arc<dyn Archive>,
    /// Links to the other nodes.
    pub links: Links,
    /// Version of the store's schema.
    pub schema_version: Option<u64>,
    /// Where the devices for signatures stand.
    pub gpus: Gpus,
    /// When the process started.
    pub started_at: Timestamp,
    /// The same on the monotonic clock.
    pub started: Instant,
    /// What the event hub saw of the validators.
    pub validators: Mutex<ValidatorWatch>,
}

impl Sources {
    /// The validators of the epoch that runs now.
    #[must_use]
    pub fn members(&self) -> Arc<Members> {
        // There are always such.
        (self.members)(None).unwrap_or_else(|| Arc::new(Members::of_genesis(&self.settings)))
    }

    /// A validator's name in an epoch; none for an index outside its set, and for an epoch that has not started here.
    #[must_use]
    pub fn validator_name(&self, epoch: Epoch, index: u16) -> Option<String> {
        let members = (self.members)(Some(epoch))?;
        members.validators.get(usize::from(index)).map(|validator| validator.name.clone())
    }

    /// The stake of an epoch's validators; none if it has not started here.
    #[must_use]
    pub fn committee(&self, epoch: Epoch) -> Option<Committee> {
        Committee::new((self.members)(Some(epoch))?.stakes()).ok()
    }

    /// The newest published state.
    #[must_use]
    pub fn newest(&self) -> Option<Arc<Published>> {
        self.published.borrow().clone()
    }

    /// What the consensus machine last told.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.consensus.borrow().clone()
    }

    /// Seconds since the process started.
    #[must_use]
    pub fn uptime(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}
