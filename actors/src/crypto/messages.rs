//! What the verifiers and the dispatcher are told, and what they answer.

use std::sync::Arc;
use std::time::Duration;

use aurigraph_gpu::VerifyItem;
use aurigraph_ledger::Hash;
use aurigraph_ledger::transaction::{SIGNING_MESSAGE_LEN, Transaction};
use aurigraph_runtime::Reply;
use bytes::Bytes;

use super::job_reply::JobReply;

/// One signature to check: ML-DSA-87 with the empty context.
#[derive(Debug, Clone)]
pub struct Check {
    /// The raw public key, 2,592 bytes. Any other length makes the signature invalid.
    pub public_key: Bytes,
    /// What was signed, and the signature.
    pub signed: Signed,
}

/// A message with its signature.
#[derive(Debug, Clone)]
pub enum Signed {
    /// A transaction: whoever checks it makes its message, and nobody copies or counts its parts on the way.
    Transaction(Arc<Transaction>),
    /// Anything else: what was signed, domain included, and the signature, 4,627 bytes. Any other length is invalid.
    Message(Arc<(Bytes, Bytes)>),
}

/// What was signed, in full.
pub(super) enum Message<'check> {
    Made([u8; SIGNING_MESSAGE_LEN]),
    Whole(&'check [u8]),
}

impl Message<'_> {
    pub(super) const fn bytes(&self) -> &[u8] {
        match self {
            Self::Made(bytes) => bytes,
            Self::Whole(bytes) => bytes,
        }
    }
}

impl Check {
    /// A check of anything but a transaction.
    #[must_use]
    pub fn of_message(public_key: Bytes, message: Bytes, signature: Bytes) -> Self {
        Self { public_key, signed: Signed::Message(Arc::new((message, signature))) }
    }

    pub(super) fn message(&self) -> Message<'_> {
        match &self.signed {
            Signed::Transaction(transaction) => Message::Made(transaction.signing_message()),
            Signed::Message(parts) => Message::Whole(&parts.0),
        }
    }

    pub(super) fn signature(&self) -> &[u8] {
        match &self.signed {
            Signed::Transaction(transaction) => transaction.signature(),
            Signed::Message(parts) => &parts.1,
        }
    }
}

/// Checks as a back-end takes them, with the messages that they made.
pub(super) fn items<'all>(
    checks: impl IntoIterator<Item = &'all Check>,
    messages: &'all [Message<'all>],
) -> Vec<VerifyItem<'all>> {
    let item = |(check, message): (&'all Check, &'all Message<'all>)| {
        VerifyItem::new(&check.public_key, message.bytes(), check.signature())
    };
    checks.into_iter().zip(messages).map(item).collect()
}

/// A public key with the hash by which verdicts name it: H("address", key), as the ledger keeps it per account.
#[derive(Debug, Clone)]
pub struct KnownKey {
    /// H("address", key).
    pub hash: Hash,
    /// The raw key.
    pub bytes: Bytes,
}

impl KnownKey {
    /// Hashes a raw key.
    #[must_use]
    pub fn of(bytes: Bytes) -> Self {
        Self { hash: aurigraph_ledger::Address::of_public_key(&bytes).0, bytes }
    }
}

/// A transaction whose signature is to be checked.
#[derive(Debug, Clone)]
pub struct TransactionCheck {
    /// The transaction.
    pub transaction: Arc<Transaction>,
    /// The key of its sender in the state that the asker knows. None lets the dispatcher use the key that the
    /// transaction carries; without either there is no verdict.
    pub key: Option<KnownKey>,
}

/// A judgement about one signature under one key. Whoever uses it compares the key with the sender's: a verdict for
/// another key says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// H("address", key) of the key that was used.
    pub key_hash: Hash,
    /// Whether the signature is valid under it.
    pub valid: bool,
}

/// Why the dispatcher did not check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DispatchError {
    /// The queue of this class is full.
    #[error("{queued} signature checks wait, {bound} may; {asked} more were asked")]
    Overloaded {
        /// Waiting in the class.
        queued: usize,
        /// The class's bound.
        bound: usize,
        /// In this request.
        asked: usize,
        /// When to try again.
        retry_after: Duration,
    },
}

/// Who waits for a check; a higher class is always served first, and each has a queue of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Blocks of consensus.
    Consensus,
    /// Committed transactions that wait for execution.
    Execution,
    /// New transactions of clients.
    Admission,
    /// Transactions of stored batches that no commit has named yet.
    Ahead,
}

impl Priority {
    /// Every class, the most urgent first.
    pub const ALL: [Self; 4] = [Self::Consensus, Self::Execution, Self::Admission, Self::Ahead];

    /// For metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Consensus => "consensus",
            Self::Execution => "execution",
            Self::Admission => "admission",
            Self::Ahead => "ahead",
        }
    }
}

/// What the verify-dispatcher is told. A dropped reply means that it ended: ask again.
#[derive(Debug)]
pub enum DispatchMsg {
    /// Check signatures without the cache: blocks, votes, anything that is no transaction.
    Verify {
        /// What to check.
        items: Vec<Check>,
        /// How urgent.
        priority: Priority,
        /// One verdict per item, in order.
        reply: Reply<Result<Vec<bool>, DispatchError>>,
    },
    /// Check transactions, from the cache where it has them.
    VerifyTransactions {
        /// What to check.
        checks: Vec<TransactionCheck>,
        /// How urgent.
        priority: Priority,
        /// One verdict per transaction, in order; none where no key is known. Without a reply only the cache is filled.
        reply: Option<Reply<Result<Vec<Option<Verdict>>, DispatchError>>>,
    },
    /// For the dispatcher itself.
    Internal(super::dispatcher::Internal),
}

/// What a verifier is told.
#[derive(Debug)]
pub enum VerifierMsg {
    /// Check these; a reply that is dropped was not checked.
    Job {
        /// What to check.
        items: Arc<[Check]>,
        /// One verdict per item, in order.
        reply: JobReply,
    },
    /// The verifier's thread has ended.
    ThreadEnded,
    /// For the worker of a device itself.
    Device(super::gpu_worker::DeviceMsg),
    /// This incarnation did not finish a job in time: fail, so that a new one with a new thread takes over.
    GiveUp {
        /// Which incarnation.
        generation: u64,
    },
}
