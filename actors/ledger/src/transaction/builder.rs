//! Building transactions: for clients, tools and tests.
//!
//! The builder puts consecutive operations of one kind into one group and picks the shortest amount width. It signs
//! nothing: it hands out the message, and takes the signature.

use bytes::Bytes;

use super::groups::{TAG_TRANSFER_TO_ADDRESS, TAG_TRANSFER_TO_INDEX, Target, shortest_width};
use super::{FLAG_ATOMIC, SENDER_ADDRESS, SENDER_INDEX, SIGNING_MESSAGE_LEN, Transaction, VERSION, signing_message};
use crate::codec::{CodecError, Writer};
use crate::genesis::FeeSchedule;
use crate::hash::{Hash, blake3_digest, h};
use crate::identity::{self, IdentityOperation};
use crate::module::{GROUP_FORMATS, GroupFormat};
use crate::staking::{StakingOperation, write_operations};
use crate::types::{
    AccountIndex, Address, Amount, MAX_GROUPS, MAX_MEMO, MAX_OPERATIONS, PUBLIC_KEY_LEN, SIGNATURE_LEN,
};

/// Why a transaction cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// No operation, or more than allowed.
    #[error("a transaction has 1 to {MAX_OPERATIONS} operations, this has {0}")]
    Operations(usize),
    /// Operations of different kinds alternate too often.
    #[error("a transaction has at most {MAX_GROUPS} groups of operations of one kind, this has {0}")]
    Groups(usize),
    /// The memo is too long.
    #[error("a memo has at most {MAX_MEMO} bytes, this has {0}")]
    Memo(usize),
    /// The sender's key has a wrong length.
    #[error("a public key has {PUBLIC_KEY_LEN} bytes, this has {0}")]
    PublicKey(usize),
    /// The signature has a wrong length.
    #[error("a signature has {SIGNATURE_LEN} bytes, this has {0}")]
    Signature(usize),
    /// Operations of a module that are not in its format.
    #[error("the transaction would not decode: {0}")]
    Format(#[from] CodecError),
}

/// Who will sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SenderKey {
    /// An account whose key is registered.
    Index(AccountIndex),
    /// An account by its key, to register it or because its index is not known.
    PublicKey(Vec<u8>),
}

#[derive(Debug, Clone)]
enum Columns {
    Transfers { recipients: Vec<u8>, amounts: Vec<Amount> },
    Staking(Vec<StakingOperation>),
    Identity(Vec<IdentityOperation>),
    Module { count: usize, bytes: Vec<u8> },
}

/// Collects the parts of a transaction.
#[derive(Debug, Clone)]
pub struct TransactionBuilder {
    chain_id: Hash,
    sender: SenderKey,
    nonce: u64,
    expiry: u64,
    max_fee: Option<Amount>,
    fees: FeeSchedule,
    atomic: bool,
    memo: Vec<u8>,
    groups: Vec<(u8, Columns)>,
}

impl TransactionBuilder {
    /// Starts a transaction; it can be included up to and including height `expiry`.
    #[must_use]
    pub fn new(chain_id: Hash, sender: SenderKey, nonce: u64, expiry: u64) -> Self {
        let fees = FeeSchedule { base: 0, per_operation: 0, per_byte: 0, invalid_signature_fee: 0 };
        Self {
            chain_id,
            sender,
            nonce,
            expiry,
            max_fee: None,
            fees,
            atomic: false,
            memo: Vec::new(),
            groups: Vec::new(),
        }
    }

    /// The most the sender agrees to pay; overrides [`TransactionBuilder::fees`].
    #[must_use]
    pub const fn max_fee(mut self, max_fee: Amount) -> Self {
        self.max_fee = Some(max_fee);
        self
    }

    /// Agrees to exactly what the transaction costs under this schedule.
    #[must_use]
    pub const fn fees(mut self, fees: &FeeSchedule) -> Self {
        self.fees = *fees;
        self
    }

    /// Whether one failing operation undoes all.
    #[must_use]
    pub const fn atomic(mut self, atomic: bool) -> Self {
        self.atomic = atomic;
        self
    }

    /// A memo.
    #[must_use]
    pub fn memo(mut self, memo: &[u8]) -> Self {
        memo.clone_into(&mut self.memo);
        self
    }

    /// Adds a transfer.
    #[must_use]
    pub fn transfer(mut self, to: Target, amount: Amount) -> Self {
        self.push_transfer(to, amount);
        self
    }

    /// Adds a transfer to a builder that is held by reference.
    pub fn push_transfer(&mut self, to: Target, amount: Amount) {
        let tag = match to {
            Target::Index(_) => TAG_TRANSFER_TO_INDEX,
            Target::Address(_) => TAG_TRANSFER_TO_ADDRESS,
        };
        if self.groups.last().is_none_or(|(last, _)| *last != tag) {
            self.groups.push((tag, Columns::Transfers { recipients: Vec::new(), amounts: Vec::new() }));
        }
        if let Some((_, Columns::Transfers { recipients, amounts })) = self.groups.last_mut() {
            match to {
                Target::Index(index) => recipients.extend_from_slice(&index.0.to_le_bytes()),
                Target::Address(address) => recipients.extend_from_slice(address.as_bytes()),
            }
            amounts.push(amount);
        }
    }

    /// Adds an operation of staking.
    #[must_use]
    pub fn staking(mut self, operation: StakingOperation) -> Self {
        let tag = operation.tag();
        match self.groups.last_mut() {
            Some((last, Columns::Staking(operations))) if *last == tag => operations.push(operation),
            _ => self.groups.push((tag, Columns::Staking(vec![operation]))),
        }
        self
    }

    /// Adds an operation of identity.
    #[must_use]
    pub fn identity(mut self, operation: IdentityOperation) -> Self {
        let tag = operation.tag();
        match self.groups.last_mut() {
            Some((last, Columns::Identity(operations))) if *last == tag => operations.push(operation),
            _ => self.groups.push((tag, Columns::Identity(vec![operation]))),
        }
        self
    }

    /// Adds a group of a module's operations, already in the module's format.
    #[must_use]
    pub fn module_group(mut self, tag: u8, count: usize, bytes: Vec<u8>) -> Self {
        self.groups.push((tag, Columns::Module { count, bytes }));
        self
    }

    fn operation_count(&self) -> usize {
        self.groups.iter().map(|(_, columns)| columns.count()).sum()
    }

    fn check(&self) -> Result<(), BuildError> {
        let operations = self.operation_count();
        if !(1..=MAX_OPERATIONS).contains(&operations) {
            return Err(BuildError::Operations(operations));
        }
        if self.groups.len() > MAX_GROUPS {
            return Err(BuildError::Groups(self.groups.len()));
        }
        if self.memo.len() > MAX_MEMO {
            return Err(BuildError::Memo(self.memo.len()));
        }
        match &self.sender {
            SenderKey::PublicKey(key) if key.len() != PUBLIC_KEY_LEN => Err(BuildError::PublicKey(key.len())),
            _ => Ok(()),
        }
    }

    fn encode_groups(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.varint(self.groups.len() as u64);
        for (tag, columns) in &self.groups {
            w.u8(*tag);
            match columns {
                Columns::Transfers { recipients, amounts } => {
                    let width = shortest_width(amounts.iter().fold(0, |bits, amount| bits | amount));
                    #[allow(clippy::cast_possible_truncation)]
                    w.varint(amounts.len() as u64).raw(recipients).u8(width as u8);
                    for amount in amounts {
                        w.raw(&amount.to_le_bytes()[..width]);
                    }
                }
                Columns::Staking(operations) => {
                    w.varint(operations.len() as u64).raw(&write_operations(operations));
                }
                Columns::Identity(operations) => {
                    w.varint(operations.len() as u64).raw(&identity::write_operations(operations));
                }
                Columns::Module { count, bytes } => {
                    w.varint(*count as u64).raw(bytes);
                }
            }
        }
        w.into_bytes()
    }

    /// Everything of the body before the maximum fee.
    fn encode_start(&self) -> Writer {
        let mut w = Writer::new();
        w.u8(VERSION).hash(&self.chain_id);
        match &self.sender {
            SenderKey::Index(index) => w.u8(SENDER_INDEX).varint(index.0.into()),
            SenderKey::PublicKey(key) => w.u8(SENDER_ADDRESS).hash(&Address::of_public_key(key).0).raw(key),
        };
        w.u64(self.nonce).u64(self.expiry);
        w
    }

    /// Everything of the body after the maximum fee.
    fn encode_end(&self, groups: &[u8]) -> Writer {
        let mut w = Writer::new();
        w.u8(if self.atomic { FLAG_ATOMIC } else { 0 }).bytes(&self.memo).hash(&blake3_digest(groups));
        w
    }

    /// Fixes the transaction; only the signature is missing then.
    ///
    /// # Errors
    /// [`BuildError`] naming the limit that is exceeded.
    pub fn build(&self) -> Result<UnsignedTransaction, BuildError> {
        self.check()?;
        let groups = self.encode_groups();
        let (mut body, end) = (self.encode_start(), self.encode_end(&groups));
        let body_len = body.as_slice().len() + 16 + end.as_slice().len();
        let fee = self.fees.fee(self.operation_count(), body_len + groups.len() + SIGNATURE_LEN);
        body.u128(self.max_fee.unwrap_or(fee)).raw(end.as_slice());
        let id = h("tx", body.as_slice());
        body.raw(&groups);
        Ok(UnsignedTransaction { id, bytes: body.into_bytes() })
    }
}

impl Columns {
    const fn count(&self) -> usize {
        match self {
            Self::Transfers { amounts, .. } => amounts.len(),
            Self::Staking(operations) => operations.len(),
            Self::Identity(operations) => operations.len(),
            Self::Module { count, .. } => *count,
        }
    }
}

/// A transaction that lacks nothing but the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsignedTransaction {
    id: Hash,
    bytes: Vec<u8>,
}

impl UnsignedTransaction {
    /// The transaction's id.
    #[must_use]
    pub const fn id(&self) -> Hash {
        self.id
    }

    /// What has to be signed, with an empty context.
    #[must_use]
    pub fn signing_message(&self) -> [u8; SIGNING_MESSAGE_LEN] {
        signing_message(&self.id)
    }

    /// Puts the signature on.
    ///
    /// # Errors
    /// [`BuildError::Signature`] for a wrong length, [`BuildError::Format`] if a module's group is not in its format.
    pub fn with_signature(self, signature: &[u8]) -> Result<Transaction, BuildError> {
        self.with_signature_and_formats(signature, GROUP_FORMATS)
    }

    /// [`UnsignedTransaction::with_signature`] for other modules than this protocol version's.
    ///
    /// # Errors
    /// Those of [`UnsignedTransaction::with_signature`].
    pub fn with_signature_and_formats(
        mut self,
        signature: &[u8],
        formats: &[GroupFormat],
    ) -> Result<Transaction, BuildError> {
        if signature.len() != SIGNATURE_LEN {
            return Err(BuildError::Signature(signature.len()));
        }
        self.bytes.extend_from_slice(signature);
        Ok(Transaction::decode_with(Bytes::from(self.bytes), formats)?)
    }
}
