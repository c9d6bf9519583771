//! Signed transactions: their canonical encoding, read in place.
//!
//! Encoding: version u8, chain id, sender, nonce u64, expiry u64, maximum fee u128, flags u8, memo, operations digest
//! ("the body without the groups", whose hash is the id), the operation groups, the signature. The sender is
//! {0, varint index} or {1, address, public key}. A decoded transaction keeps its bytes and knows where its columns
//! lie; nothing is copied out operation by operation. What a transaction does is not decided here.

mod builder;
mod groups;

pub use builder::{BuildError, SenderKey, TransactionBuilder, UnsignedTransaction};
pub use groups::{
    Group, ModuleGroup, Operation, RecipientColumn, TAG_TRANSFER_TO_ADDRESS, TAG_TRANSFER_TO_INDEX, Target,
    TransferGroup,
};
pub(crate) use groups::{read_amounts, shortest_width};

use std::ops::Range;

use bytes::Bytes;

use crate::codec::{CodecError, Reader};
use crate::hash::{Hash, blake3_digest, h};
use crate::module::{GROUP_FORMATS, GroupFormat};
use crate::types::{
    AccountIndex, Address, Amount, MAX_MEMO, MAX_TRANSACTION_LEN, PUBLIC_KEY_LEN, SIGNATURE_LEN, SIGNING_DOMAIN,
};
use groups::GroupLayout;

const VERSION: u8 = 1;
const SENDER_INDEX: u8 = 0;
const SENDER_ADDRESS: u8 = 1;
const FLAG_ATOMIC: u8 = 1;

/// Who signs a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// An account whose key is registered.
    Index(AccountIndex),
    /// An account by its address; the transaction carries the key ([`Transaction::sender_key`]) and registers it.
    Address(Address),
}

/// A decoded transaction.
#[derive(Clone)]
pub struct Transaction {
    bytes: Bytes,
    id: Hash,
    signature_digest: Hash,
    chain_id: Hash,
    sender: Sender,
    sender_key: Range<usize>,
    nonce: u64,
    expiry: u64,
    max_fee: Amount,
    atomic: bool,
    memo: Range<usize>,
    groups: Vec<GroupLayout>,
    operations: usize,
}

impl std::fmt::Debug for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction")
            .field("id", &self.id)
            .field("sender", &self.sender)
            .field("nonce", &self.nonce)
            .field("operations", &self.operations)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Transaction {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Transaction {}

fn read_range(r: &mut Reader<'_>, len: usize) -> Result<Range<usize>, CodecError> {
    let start = r.offset();
    r.raw(len)?;
    Ok(start..r.offset())
}

fn read_sender(r: &mut Reader<'_>) -> Result<(Sender, Range<usize>), CodecError> {
    match r.u8()? {
        SENDER_INDEX => {
            #[allow(clippy::cast_possible_truncation)]
            let index = r.varint_max("sender index", u32::MAX.into())? as u32;
            Ok((Sender::Index(AccountIndex(index)), 0..0))
        }
        SENDER_ADDRESS => {
            let address = Address(r.hash()?);
            Ok((Sender::Address(address), read_range(r, PUBLIC_KEY_LEN)?))
        }
        other => Err(CodecError::Invalid { what: "sender tag", value: other.into() }),
    }
}

fn read_flags(r: &mut Reader<'_>) -> Result<bool, CodecError> {
    match r.u8()? {
        0 => Ok(false),
        FLAG_ATOMIC => Ok(true),
        other => Err(CodecError::Invalid { what: "transaction flags", value: other.into() }),
    }
}

fn read_memo(r: &mut Reader<'_>) -> Result<Range<usize>, CodecError> {
    let len = r.bytes("length of the memo", MAX_MEMO)?.len();
    Ok(r.offset() - len..r.offset())
}

impl Transaction {
    /// Reads a transaction from a copy of the bytes.
    ///
    /// # Errors
    /// [`CodecError`] if the bytes are anything but the canonical encoding of a transaction of this protocol version.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        Self::check_len(bytes.len())?;
        Self::decode_shared(Bytes::copy_from_slice(bytes))
    }

    /// Reads a transaction in place: it keeps the buffer alive that the bytes are a slice of.
    ///
    /// # Errors
    /// [`CodecError`] if the bytes are anything but the canonical encoding of a transaction of this protocol version.
    pub fn decode_shared(bytes: Bytes) -> Result<Self, CodecError> {
        Self::decode_with(bytes, GROUP_FORMATS)
    }

    fn check_len(len: usize) -> Result<(), CodecError> {
        let max = MAX_TRANSACTION_LEN as u64;
        if len as u64 > max {
            return Err(CodecError::TooLarge { what: "length of the transaction", value: len as u64, max });
        }
        Ok(())
    }

    /// [`Transaction::decode_shared`] with the formats of other modules than this protocol version's.
    ///
    /// # Errors
    /// Those of [`Transaction::decode`].
    pub fn decode_with(bytes: Bytes, formats: &[GroupFormat]) -> Result<Self, CodecError> {
        Self::check_len(bytes.len())?;
        let mut r = Reader::new(&bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(CodecError::Invalid { what: "transaction version", value: version.into() });
        }
        let chain_id = r.hash()?;
        let (sender, sender_key) = read_sender(&mut r)?;
        let (nonce, expiry, max_fee) = (r.u64()?, r.u64()?, r.u128()?);
        let atomic = read_flags(&mut r)?;
        let memo = read_memo(&mut r)?;
        let operations_digest = r.hash()?;
        let body_end = r.offset();
        let groups = groups::read_groups(&mut r, formats)?;
        let groups_end = r.offset();
        let signature = r.raw(SIGNATURE_LEN)?;
        r.finish()?;
        if blake3_digest(&bytes[body_end..groups_end]) != operations_digest {
            let value = u64::from_le_bytes(*operations_digest.0.first_chunk().expect("a digest has 32 bytes"));
            return Err(CodecError::Invalid { what: "operations digest", value });
        }
        let (id, signature_digest) = (h("tx", &bytes[..body_end]), blake3_digest(signature));
        let operations = groups.iter().map(GroupLayout::count).sum();
        Ok(Self {
            id,
            signature_digest,
            chain_id,
            sender,
            sender_key,
            nonce,
            expiry,
            max_fee,
            atomic,
            memo,
            groups,
            operations,
            bytes,
        })
    }

    /// The canonical encoding.
    #[must_use]
    pub fn encode(&self) -> &[u8] {
        &self.bytes
    }

    /// The canonical encoding, sharing the buffer.
    #[must_use]
    pub fn shared_bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// H("tx", body without the groups); binds the groups through their digest, not the signature.
    #[must_use]
    pub const fn id(&self) -> Hash {
        self.id
    }

    /// What the sender signed: [`SIGNING_DOMAIN`] and the id.
    #[must_use]
    pub fn signing_message(&self) -> [u8; SIGNING_MESSAGE_LEN] {
        signing_message(&self.id)
    }

    /// The signature's bytes.
    #[must_use]
    pub fn signature(&self) -> &[u8] {
        &self.bytes[self.bytes.len() - SIGNATURE_LEN..]
    }

    /// BLAKE3 of the signature: part of a verdict's key, because signing is randomised.
    #[must_use]
    pub const fn signature_digest(&self) -> Hash {
        self.signature_digest
    }

    /// The chain the transaction is for.
    #[must_use]
    pub const fn chain_id(&self) -> Hash {
        self.chain_id
    }

    /// Who signs.
    #[must_use]
    pub const fn sender(&self) -> Sender {
        self.sender
    }

    /// The public key the transaction carries, if its sender is given by address.
    #[must_use]
    pub fn sender_key(&self) -> Option<&[u8]> {
        (!self.sender_key.is_empty()).then(|| &self.bytes[self.sender_key.clone()])
    }

    /// The nonce.
    #[must_use]
    pub const fn nonce(&self) -> u64 {
        self.nonce
    }

    /// The last height at which the transaction may be included.
    #[must_use]
    pub const fn expiry(&self) -> u64 {
        self.expiry
    }

    /// The most the sender agrees to pay.
    #[must_use]
    pub const fn max_fee(&self) -> Amount {
        self.max_fee
    }

    /// Whether one failing operation undoes all.
    #[must_use]
    pub const fn is_atomic(&self) -> bool {
        self.atomic
    }

    /// The memo; the ledger never interprets it.
    #[must_use]
    pub fn memo(&self) -> &[u8] {
        &self.bytes[self.memo.clone()]
    }

    /// How many operations the transaction holds.
    #[must_use]
    pub const fn operation_count(&self) -> usize {
        self.operations
    }

    /// The groups in order, read in place.
    pub fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.groups.iter().map(|group| group.view(&self.bytes))
    }

    /// Every operation in order, taken out of its columns: for display and indexing.
    pub fn operations(&self) -> impl Iterator<Item = Operation> + '_ {
        self.groups().flat_map(|group| group.operations().collect::<Vec<_>>())
    }
}

/// Bytes of a signing message.
pub const SIGNING_MESSAGE_LEN: usize = SIGNING_DOMAIN.len() + crate::hash::DIGEST_LEN;

/// What is signed for a transaction with this id.
#[must_use]
pub fn signing_message(id: &Hash) -> [u8; SIGNING_MESSAGE_LEN] {
    let mut message = [0; SIGNING_MESSAGE_LEN];
    let (domain, rest) = message.split_at_mut(SIGNING_DOMAIN.len());
    domain.copy_from_slice(SIGNING_DOMAIN);
    rest.copy_from_slice(&id.0);
    message
}
