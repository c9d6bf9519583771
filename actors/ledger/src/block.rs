//! What goes into execution and what comes out: commits, ledger headers, exclusions, events, checkpoints.
//!
//! Only data and its canonical encoding. How a commit becomes a block is `execute`'s business.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::{CodecError, Reader, Writer};
use crate::fault::Fault;
use crate::hash::{Hash, h};
use crate::module::ModuleId;
pub use crate::receipt::{FailureCode, OperationFailure, Receipt};
use crate::transaction::Transaction;
use crate::types::{AccountIndex, Address, ValidatorIndex};
use crate::validator_set::EpochEnd;

const VERSION: u8 = 1;

/// Newest version of the protocol that this program runs.
///
/// 2: a transfer to oneself of an amount that one has succeeds and moves nothing, so that it no longer undoes an atomic
/// transaction.
///
/// 3: blocks carry evidence of earlier epochs as well, for as long as stake answers for it; who attests another
/// checkpoint than a quorum is jailed.
pub const PROTOCOL_VERSION: u16 = 3;
/// The version of a chain's first epoch.
pub const FIRST_PROTOCOL_VERSION: u16 = 1;

/// Checks ML-DSA-87 signatures; injected, because no cryptography of keys lives in this crate.
pub trait SignatureVerifier {
    /// Whether the signature is valid for the message under the key, with an empty context. Never panics, whatever the
    /// lengths and contents.
    fn verify(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool;
}

/// The result of verifying a transaction's signature ahead of its execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The address of the key that was used, H("address", key).
    pub key_hash: Address,
    /// BLAKE3 of the signature that was checked.
    pub signature_digest: Hash,
    /// Whether it was valid.
    pub valid: bool,
}

impl Verdict {
    /// The verdict about a transaction under a key.
    #[must_use]
    pub fn new(transaction: &Transaction, public_key: &[u8], valid: bool) -> Self {
        let key_hash = Address::of_public_key(public_key);
        Self { key_hash, signature_digest: transaction.signature_digest(), valid }
    }
}

/// A decoded transaction, and what is known about its signature.
#[derive(Debug, Clone)]
pub struct PreparedTransaction {
    /// The transaction.
    pub transaction: Arc<Transaction>,
    /// The verdict, if it was verified ahead; without one, execution verifies.
    pub verdict: Option<Verdict>,
}

impl From<Transaction> for PreparedTransaction {
    fn from(transaction: Transaction) -> Self {
        Self { transaction: Arc::new(transaction), verdict: None }
    }
}

/// A batch as it is delivered by a commit.
#[derive(Debug, Clone)]
pub struct CommittedBatch {
    /// Who batched: pays for invalid signatures.
    pub proposer: ValidatorIndex,
    /// The batch's digest; a second delivery of the same digest does nothing.
    pub digest: Hash,
    /// The entries that are transactions, in order. An entry that does not parse delivers nothing and is left out.
    pub transactions: Vec<PreparedTransaction>,
}

impl CommittedBatch {
    /// Decodes a batch's entries in place and leaves out those that do not parse.
    #[must_use]
    pub fn decode(proposer: ValidatorIndex, digest: Hash, entries: impl IntoIterator<Item = Bytes>) -> Self {
        let decoded = entries.into_iter().filter_map(|entry| Transaction::decode_shared(entry).ok());
        Self { proposer, digest, transactions: decoded.map(PreparedTransaction::from).collect() }
    }
}

/// A commit, ready for execution.
#[derive(Debug, Clone)]
pub struct CommitInput {
    /// The epoch.
    pub epoch: u64,
    /// The protocol version that the epoch runs: from [`FIRST_PROTOCOL_VERSION`] to [`PROTOCOL_VERSION`].
    pub version: u16,
    /// The commit's index: one more than the last executed one's, across epochs.
    pub commit_index: u64,
    /// The commit's digest.
    pub commit_digest: Hash,
    /// The commit's time, in milliseconds; never decreases.
    pub timestamp_ms: u64,
    /// Whose block led the commit: a position in the set of the commit's epoch, as all validators here are.
    pub leader: ValidatorIndex,
    /// The leader's round.
    pub round: u32,
    /// Digest of the consensus state at this commit; enters a checkpoint as it is.
    pub consensus_state_digest: Hash,
    /// The batches in order.
    pub batches: Vec<CommittedBatch>,
    /// The faults that the commit's blocks prove, in the order of delivery; they execute before the batches.
    pub faults: Vec<Fault>,
    /// That the commit is its epoch's last. It always makes a ledger block and a checkpoint, which names the root of the
    /// next epoch's validator set; after it, [`crate::StateView::next_set`] has that set, and commits are of the next
    /// epoch. Indices and time run on.
    pub epoch_end: Option<EpochEnd>,
}

/// The header of a ledger block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerHeader {
    /// Height; genesis is 0.
    pub height: u64,
    /// The epoch.
    pub epoch: u64,
    /// The commit the block stands for; 0 at genesis.
    pub commit_index: u64,
    /// Its digest; the chain id at genesis.
    pub commit_digest: Hash,
    /// Its time, in milliseconds.
    pub timestamp_ms: u64,
    /// Whose block led the commit.
    pub leader: ValidatorIndex,
    /// The leader's round.
    pub round: u32,
    /// Hash of the header before; zero at genesis.
    pub parent: Hash,
    /// Root over the transactions.
    pub tx_root: Hash,
    /// Root over the receipts.
    pub receipts_root: Hash,
    /// Sequence number of the newest checkpoint at a lower height.
    pub checkpoint_seq: u64,
    /// The state root of that checkpoint; at genesis, the genesis state's own.
    pub state_root: Hash,
    /// How many transactions the block includes.
    pub transactions: u32,
    /// How many operations they hold.
    pub operations: u64,
}

impl LedgerHeader {
    /// The canonical encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(256);
        w.u8(VERSION).u64(self.height).u64(self.epoch).u64(self.commit_index).hash(&self.commit_digest);
        w.u64(self.timestamp_ms).u16(self.leader).u32(self.round).hash(&self.parent);
        w.hash(&self.tx_root).hash(&self.receipts_root).u64(self.checkpoint_seq).hash(&self.state_root);
        w.u32(self.transactions).u64(self.operations);
        w.into_bytes()
    }

    /// Reads the canonical encoding back; no other bytes decode.
    ///
    /// # Errors
    /// [`CodecError`] saying where and why.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        check_version(&mut r, "ledger header version")?;
        let header = Self {
            height: r.u64()?,
            epoch: r.u64()?,
            commit_index: r.u64()?,
            commit_digest: r.hash()?,
            timestamp_ms: r.u64()?,
            leader: r.u16()?,
            round: r.u32()?,
            parent: r.hash()?,
            tx_root: r.hash()?,
            receipts_root: r.hash()?,
            checkpoint_seq: r.u64()?,
            state_root: r.hash()?,
            transactions: r.u32()?,
            operations: r.u64()?,
        };
        r.finish()?;
        Ok(header)
    }

    /// H("ledger-header", encoding).
    #[must_use]
    pub fn hash(&self) -> Hash {
        h("ledger-header", &self.encode())
    }
}

fn check_version(r: &mut Reader<'_>, what: &'static str) -> Result<(), CodecError> {
    match r.u8()? {
        VERSION => Ok(()),
        other => Err(CodecError::Invalid { what, value: other.into() }),
    }
}

/// A checkpoint of the ledger (consensus.md, 12.2): what validators attest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The chain.
    pub chain_id: Hash,
    /// The epoch.
    pub epoch: u64,
    /// Sequence number; the genesis checkpoint is 0.
    pub seq: u64,
    /// Digest of the checkpoint before; zero at genesis.
    pub prev_digest: Hash,
    /// The commit after whose execution it was taken.
    pub commit_index: u64,
    /// That commit's digest.
    pub commit_digest: Hash,
    /// Height of the ledger block of that commit.
    pub ledger_height: u64,
    /// Hash of that block's header.
    pub ledger_header_digest: Hash,
    /// Root of the state after that block.
    pub state_root: Hash,
    /// Digest of the consensus state at that commit.
    pub consensus_state_digest: Hash,
    /// Root of the next validator set; only at the end of an epoch.
    pub next_set_root: Option<Hash>,
}

impl Checkpoint {
    /// The canonical encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(300);
        w.u8(VERSION).hash(&self.chain_id).u64(self.epoch).u64(self.seq).hash(&self.prev_digest);
        w.u64(self.commit_index).hash(&self.commit_digest).u64(self.ledger_height).hash(&self.ledger_header_digest);
        w.hash(&self.state_root).hash(&self.consensus_state_digest);
        match &self.next_set_root {
            Some(root) => w.u8(1).hash(root),
            None => w.u8(0),
        };
        w.into_bytes()
    }

    /// Reads the canonical encoding back; no other bytes decode.
    ///
    /// # Errors
    /// [`CodecError`] saying where and why.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        check_version(&mut r, "checkpoint version")?;
        let checkpoint = Self {
            chain_id: r.hash()?,
            epoch: r.u64()?,
            seq: r.u64()?,
            prev_digest: r.hash()?,
            commit_index: r.u64()?,
            commit_digest: r.hash()?,
            ledger_height: r.u64()?,
            ledger_header_digest: r.hash()?,
            state_root: r.hash()?,
            consensus_state_digest: r.hash()?,
            next_set_root: match r.u8()? {
                0 => None,
                1 => Some(r.hash()?),
                other => return Err(CodecError::Invalid { what: "next set root tag", value: other.into() }),
            },
        };
        r.finish()?;
        Ok(checkpoint)
    }

    /// H("checkpoint", encoding): what validators attest, and the digest of a snapshot.
    #[must_use]
    pub fn digest(&self) -> Hash {
        h("checkpoint", &self.encode())
    }
}

/// Why a transaction is not in the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExclusionReason {
    /// It is for another chain.
    WrongChain,
    /// Its expiry lies below the block's height.
    Expired,
    /// Its expiry lies too far above the block's height.
    ExpiryTooFar,
    /// Its sender has no account.
    UnknownSender,
    /// Its sender's account has no registered key, and the transaction brings none.
    NoKey,
    /// Its nonce is used: by another transaction, or because it is here a second time.
    NonceUsed,
    /// Its nonce lies beyond the window.
    NonceOutOfWindow,
    /// It costs more than the sender agreed to pay.
    MaxFeeTooLow,
    /// The sender cannot pay the fee.
    CannotPayFee,
    /// The signature or the key is wrong; the only case somebody is charged for: the validator that batched it.
    InvalidSignature,
}

/// A delivered transaction that is not in the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exclusion {
    /// The transaction's id.
    pub id: Hash,
    /// Who batched it.
    pub proposer: ValidatorIndex,
    /// The batch it came in.
    pub batch: Hash,
    /// Its position among the batch's transactions.
    pub position: u32,
    /// Why it is not included.
    pub reason: ExclusionReason,
}

/// An included transaction.
#[derive(Debug, Clone)]
pub struct ExecutedTransaction {
    /// The transaction.
    pub transaction: Arc<Transaction>,
    /// The account that signed it.
    pub sender: AccountIndex,
    /// The batch it came in.
    pub batch: Hash,
    /// Its position among the batch's transactions.
    pub position: u32,
    /// What became of it.
    pub receipt: Receipt,
}

/// Something that happened beside the plain effects that follow from transactions and receipts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The position in the block of the transaction that caused it, or [`Event::SYSTEM`].
    pub transaction: u32,
    /// What happened.
    pub kind: EventKind,
}

impl Event {
    /// Stands for the position where no transaction caused the event; no block has as many.
    pub const SYSTEM: u32 = u32::MAX;
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
#[non_exhaustive]
pub enum EventKind {
    /// An address was credited for the first time and has its index.
    AccountCreated {
        /// The new account's address.
        address: Address,
        /// Its index.
        index: AccountIndex,
    },
    /// An account's key was registered.
    KeyRegistered {
        /// The account.
        index: AccountIndex,
    },
    /// A module's own event.
    Module {
        /// The module.
        module: ModuleId,
        /// The module's own number for the kind.
        kind: u16,
        /// The module's own format.
        #[serde(with = "crate::types::hex_bytes")]
        data: Vec<u8>,
    },
}

/// A ledger block, executed.
#[derive(Debug, Clone)]
pub struct ExecutedBlock {
    /// The header.
    pub header: LedgerHeader,
    /// The header's hash.
    pub hash: Hash,
    /// The included transactions with their receipts, in order; leaves of the two roots.
    pub transactions: Vec<ExecutedTransaction>,
    /// Delivered transactions that are not included, in order.
    pub exclusions: Vec<Exclusion>,
    /// Events in order.
    pub events: Vec<Event>,
    /// How many encoded bytes the included transactions have.
    pub bytes: u64,
}

/// What a commit came to.
#[derive(Debug, Clone, Default)]
pub struct CommitOutcome {
    /// The ledger block, if the commit delivers a transaction or a fault, or the heartbeat is due.
    pub block: Option<ExecutedBlock>,
    /// The checkpoint, if one was due at the block. A snapshot taken now is one of this checkpoint.
    pub checkpoint: Option<Checkpoint>,
}

/// Why a commit cannot be executed. The ledger is unchanged. None of these is within the power of a peer: consensus
/// delivers commits in order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// A commit is missing or was executed before.
    #[error("commit {found} cannot be executed, the next is {expected}")]
    CommitOrder {
        /// The index that is due.
        expected: u64,
        /// The index that came.
        found: u64,
    },
    /// Commit time ran backwards.
    #[error("commit {commit_index} is at {found} ms, the one before at {last} ms")]
    TimeRanBackwards {
        /// The commit.
        commit_index: u64,
        /// The time of the one before.
        last: u64,
        /// The time it has.
        found: u64,
    },
    /// A protocol version that this program does not know.
    #[error(
        "commit {commit_index} is of protocol version {found}, this program knows {FIRST_PROTOCOL_VERSION} to {PROTOCOL_VERSION}"
    )]
    Version {
        /// The commit.
        commit_index: u64,
        /// Its epoch's version.
        found: u16,
    },
    /// A commit of another epoch than the one that runs.
    #[error("commit {commit_index} is of epoch {found}, epoch {expected} runs")]
    Epoch {
        /// The commit.
        commit_index: u64,
        /// The epoch that runs.
        expected: u64,
        /// The commit's.
        found: u64,
    },
    /// A validator that is not in the set.
    #[error("commit {commit_index} names validator {index}, there are {count}")]
    UnknownValidator {
        /// The commit.
        commit_index: u64,
        /// The index.
        index: ValidatorIndex,
        /// How many validators there are.
        count: usize,
    },
}
