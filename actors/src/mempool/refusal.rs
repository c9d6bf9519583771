//! Why a transaction is not admitted.

use std::time::Duration;

use aurigraph_ledger::{Address, Amount, CodecError, Hash};

/// Why admission refuses a transaction; nothing of it is kept, nothing is charged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not the canonical encoding of a transaction.
    #[error("the bytes are no transaction: {0}")]
    Undecodable(CodecError),
    /// Too long for any batch.
    #[error("the transaction has {len} bytes, the limit is {max}")]
    TooLarge {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Signed for another chain.
    #[error("the transaction is for chain {found}, this is {expected}")]
    WrongChain {
        /// The transaction's.
        found: Hash,
        /// This node's.
        expected: Hash,
    },
    /// It can no longer be included.
    #[error("the transaction expired at height {expiry}, the next block is {height}")]
    Expired {
        /// The transaction's.
        expiry: u64,
        /// The height of the next block.
        height: u64,
    },
    /// Its expiry lies too far ahead.
    #[error("expiry {expiry} is more than {max} heights above {height}")]
    ExpiryTooFar {
        /// The transaction's.
        expiry: u64,
        /// The current height.
        height: u64,
        /// How far it may lie ahead.
        max: u64,
    },
    /// No such account.
    #[error("the sender {sender} is unknown")]
    UnknownSender {
        /// As the transaction names it.
        sender: String,
    },
    /// The account has no registered key; the first transaction names its address and carries the key.
    #[error("account {sender} has no registered key: name the sender by address and key")]
    KeyNotRegistered {
        /// The sender's index.
        sender: u32,
    },
    /// The key that it carries is not the address's.
    #[error("the key carried for {address} belongs to {belongs_to}")]
    WrongKey {
        /// The address named.
        address: Address,
        /// The key's address.
        belongs_to: Address,
    },
    /// The nonce was used.
    #[error("nonce {nonce} is used; the first unused one is {base}")]
    NonceUsed {
        /// The transaction's.
        nonce: u64,
        /// The first unused.
        base: u64,
    },
    /// The nonce lies outside the window.
    #[error("nonce {nonce} is not below {base} + {window}")]
    NonceOutOfWindow {
        /// The transaction's.
        nonce: u64,
        /// The first unused.
        base: u64,
        /// How many may be open.
        window: u64,
    },
    /// Another pending transaction of the sender has this nonce.
    #[error("nonce {nonce} is taken by the pending transaction {pending}")]
    NoncePending {
        /// The transaction's.
        nonce: u64,
        /// Who has it.
        pending: Hash,
    },
    /// The sender allows less than the fee.
    #[error("the fee is {fee}, the transaction allows {max_fee}")]
    MaxFeeTooLow {
        /// The fee.
        fee: Amount,
        /// What the sender agrees to.
        max_fee: Amount,
    },
    /// The balance, less the fees of the sender's pending transactions, does not cover the fee.
    #[error("the fee is {fee}; of a balance of {balance}, {reserved} are reserved by pending transactions")]
    CannotPayFee {
        /// The fee.
        fee: Amount,
        /// The balance.
        balance: Amount,
        /// Fees of pending transactions.
        reserved: Amount,
    },
    /// The signature is wrong.
    #[error("the signature of {id} is invalid")]
    InvalidSignature {
        /// The transaction.
        id: Hash,
    },
    /// The same transaction is pending here.
    #[error("the transaction {id} is pending already")]
    Duplicate {
        /// The transaction.
        id: Hash,
    },
    /// The sender has as many pending transactions as one may.
    #[error("the sender has {pending} pending transactions, the limit is {max}")]
    TooManyPending {
        /// Pending.
        pending: usize,
        /// The limit.
        max: usize,
    },
    /// The node cannot take more now.
    #[error("overloaded: {what}; try again in {retry_after:?}")]
    Overloaded {
        /// Which bound is reached.
        what: &'static str,
        /// When to try again.
        retry_after: Duration,
    },
    /// No state is published yet: the node is starting.
    #[error("the node is starting; try again in {retry_after:?}")]
    NotReady {
        /// When to try again.
        retry_after: Duration,
    },
}

impl Refusal {
    /// Whether a later state may take what this one does not: a node that is behind cannot say "never".
    #[must_use]
    pub const fn is_of_its_time(&self) -> bool {
        matches!(
            self,
            Self::ExpiryTooFar { .. }
                | Self::UnknownSender { .. }
                | Self::KeyNotRegistered { .. }
                | Self::NonceOutOfWindow { .. }
                | Self::CannotPayFee { .. }
        )
    }

    /// When trying again may help, and after how long: what the HTTP edge says as `Retry-After`.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after, .. } | Self::NotReady { retry_after } => Some(*retry_after),
            _ => None,
        }
    }

    /// For metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Undecodable(_) => "undecodable",
            Self::TooLarge { .. } => "too large",
            Self::WrongChain { .. } => "wrong chain",
            Self::Expired { .. } => "expired",
            Self::ExpiryTooFar { .. } => "expiry too far",
            Self::UnknownSender { .. } => "unknown sender",
            Self::KeyNotRegistered { .. } => "key not registered",
            Self::WrongKey { .. } => "wrong key",
            Self::NonceUsed { .. } => "nonce used",
            Self::NonceOutOfWindow { .. } => "nonce out of window",
            Self::NoncePending { .. } => "nonce pending",
            Self::MaxFeeTooLow { .. } => "maximum fee too low",
            Self::CannotPayFee { .. } => "cannot pay fee",
            Self::InvalidSignature { .. } => "invalid signature",
            Self::Duplicate { .. } => "duplicate",
            Self::TooManyPending { .. } => "too many pending",
            Self::Overloaded { .. } => "overloaded",
            Self::NotReady { .. } => "not ready",
        }
    }
}
