//! Keys and values of the trees that the notes of the schema's steps describe.

use aurigraph_ledger::codec::{CodecError, Reader, Writer};
use aurigraph_ledger::hash::DIGEST_LEN;
use aurigraph_ledger::{Hash, PageKey};
use bytes::Bytes;

use super::error::StoreError;
use super::types::{BlockRow, Measures, StoredBlock, StoredTransaction, TransactionLocation};
use crate::release::keeps_measures;

pub(super) use aurigraph_schema_upgrades::node::v001_first_layout::{
    AUDIT, BLOCK_TRANSACTIONS, BLOCKS, CHECKPOINTS, HEIGHTS, PAGES, RECEIPTS, TRANSACTIONS,
};

pub(super) use aurigraph_schema_upgrades::node::v002_audit_times::AUDIT_TIMES;
pub(super) use aurigraph_schema_upgrades::node::v003_key_table::KEYS;
pub(super) use aurigraph_schema_upgrades::node::v004_address_index::{PARTIES, key as party_key};
pub(super) use aurigraph_schema_upgrades::node::v005_block_measures::MEASURES;

/// Transactions in one group of `block_transactions`: 38 KB.
pub(super) const GROUP: usize = 1_000;
/// Where a group of receipts is closed.
pub(super) const RECEIPT_GROUP_BYTES: usize = 32 << 10;
const MAX_BATCHES: u64 = 1 << 16;
const MAX_HEADER: usize = 64 << 10;
/// Longest receipt of 4,096 operations, with much to spare.
const MAX_RECEIPT: usize = 1 << 20;
/// Bytes of one entry of `block_transactions`.
pub(super) const ENTRY: usize = DIGEST_LEN + 2 + 4;

/// A value that does not decode.
pub(super) fn damaged(what: &'static str, key: &[u8]) -> StoreError {
    StoreError::Damaged { what, key: hex::encode(key) }
}

pub(super) const fn height_key(height: u64) -> [u8; 8] {
    height.to_be_bytes()
}

pub(super) fn height_of(key: &[u8]) -> Option<u64> {
    key.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The key of `audit_times` for an entry, as `V002__audit_times` makes it; none for an entry of another form.
pub(super) fn audit_time_key(id: u64, entry: &[u8]) -> Option<[u8; 16]> {
    let time = entry.get(9..)?.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))?;
    (entry.first() == Some(&1)).then(|| time_key(time, id))
}

/// The key of `audit_times` for a time and an entry number.
pub(super) fn time_key(time: u64, id: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&time.to_be_bytes());
    key[8..].copy_from_slice(&id.to_be_bytes());
    key
}

/// The key of the group that begins with this transaction.
pub(super) fn group_key(height: u64, first: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&height.to_be_bytes());
    key[8..].copy_from_slice(&first.to_be_bytes());
    key
}

/// Height and index at the end of a key of `parties`.
pub(super) fn party_place(key: &[u8]) -> Option<TransactionLocation> {
    let place = key.get(key.len().checked_sub(12)?..)?;
    let height = u64::from_be_bytes(*place.first_chunk::<8>()?);
    Some(TransactionLocation { height, index: group_first(place)? })
}

pub(super) fn group_first(key: &[u8]) -> Option<u32> {
    key.get(8..)?.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))
}

pub(super) fn encode_block(block: &StoredBlock, transactions: u32, measures: Measures) -> Vec<u8> {
    let mut w = Writer::with_capacity(128 + block.header.len() + block.batches.len() * DIGEST_LEN);
    w.hash(&block.hash).u64(block.commit_index).u32(transactions).varint(block.batches.len() as u64);
    for batch in &block.batches {
        w.hash(batch);
    }
    w.bytes(&block.header);
    if keeps_measures() {
        w.raw(&encode_measures(measures));
    }
    w.into_bytes()
}

/// The end of a block row, as `V005__block_measures` says.
pub(super) fn encode_measures(measures: Measures) -> [u8; MEASURES] {
    let Measures { finalized_after_ms: finality, bytes } = measures;
    let mut end = [0; MEASURES];
    end[0] = u8::from(finality.is_some()) | u8::from(bytes.is_some()) << 1;
    end[1..9].copy_from_slice(&finality.unwrap_or(0).to_le_bytes());
    end[9..].copy_from_slice(&bytes.unwrap_or(0).to_le_bytes());
    end
}

fn decode_measures(r: &mut Reader<'_>) -> Result<Measures, CodecError> {
    let (known, finality, bytes) = (r.u8()?, r.u64()?, r.u64()?);
    let figure = |bit: u8, value: u64| match known & bit {
        0 if value == 0 => Ok(None),
        0 => Err(CodecError::Invalid { what: "figure of a block that is not known", value }),
        _ => Ok(Some(value)),
    };
    if known > 3 {
        return Err(CodecError::Invalid { what: "figures of a block", value: known.into() });
    }
    Ok(Measures { finalized_after_ms: figure(1, finality)?, bytes: figure(2, bytes)? })
}

pub(super) fn decode_block(height: u64, bytes: &[u8]) -> Result<BlockRow, CodecError> {
    let mut r = Reader::new(bytes);
    let (hash, commit_index, transactions) = (r.hash()?, r.u64()?, r.u32()?);
    let count = r.varint_max("batches", MAX_BATCHES)?;
    let batches = (0..count).map(|_| r.hash()).collect::<Result<_, _>>()?;
    let header = Bytes::copy_from_slice(r.bytes("header", MAX_HEADER)?);
    let measures = if keeps_measures() { decode_measures(&mut r)? } else { Measures::default() };
    r.finish()?;
    Ok(BlockRow { height, hash, commit_index, header, batches, transactions, measures })
}

pub(super) fn encode_entry(transaction: &StoredTransaction, into: &mut Vec<u8>) {
    into.extend_from_slice(&transaction.id.0);
    into.extend_from_slice(&transaction.batch.to_le_bytes());
    into.extend_from_slice(&transaction.position.to_le_bytes());
}

/// Id, batch ordinal and position of a group's entry.
pub(super) fn decode_entry(bytes: &[u8]) -> Result<(Hash, u16, u32), CodecError> {
    let mut r = Reader::new(bytes);
    let entry = (r.hash()?, r.u16()?, r.u32()?);
    r.finish()?;
    Ok(entry)
}

pub(super) fn encode_location(location: TransactionLocation) -> [u8; 12] {
    let mut value = [0; 12];
    value[..8].copy_from_slice(&location.height.to_le_bytes());
    value[8..].copy_from_slice(&location.index.to_le_bytes());
    value
}

pub(super) fn decode_location(bytes: &[u8]) -> Result<TransactionLocation, CodecError> {
    let mut r = Reader::new(bytes);
    let location = TransactionLocation { height: r.u64()?, index: r.u32()? };
    r.finish()?;
    Ok(location)
}

/// The receipts of a group.
pub(super) fn decode_receipts(bytes: &[u8]) -> Result<Vec<Bytes>, CodecError> {
    let mut r = Reader::new(bytes);
    let mut receipts = Vec::new();
    while r.left() > 0 {
        receipts.push(Bytes::copy_from_slice(r.bytes("receipt", MAX_RECEIPT)?));
    }
    Ok(receipts)
}

/// What a value of a checkpoint slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotValue {
    Page(PageKey),
    Consensus(u32),
}

impl SlotValue {
    pub(super) fn key(self, slot: u8) -> Vec<u8> {
        let mut key = vec![slot];
        match self {
            Self::Page(page) => {
                key.push(0);
                key.extend_from_slice(&page.to_bytes());
            }
            Self::Consensus(part) => {
                key.push(1);
                key.extend_from_slice(&part.to_be_bytes());
            }
        }
        key
    }

    /// The value and its slot, from a key.
    pub(super) fn parse(key: &[u8]) -> Option<(u8, Self)> {
        match key {
            [slot, 0, page @ ..] => Some((*slot, Self::Page(PageKey::from_bytes(page.try_into().ok()?)))),
            [slot, 1, part @ ..] => Some((*slot, Self::Consensus(u32::from_be_bytes(part.try_into().ok()?)))),
            _ => None,
        }
    }
}

/// The key of a row of the key table.
pub(super) fn key_row_key(row: u32) -> [u8; 6] {
    let mut key = [0; 6];
    key[..4].copy_from_slice(&row.to_be_bytes());
    key
}

/// The header of a checkpoint slot: written last, says what must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlotHeader {
    pub sequence: u64,
    pub height: u64,
    pub commit_index: u64,
    pub state_root: Hash,
    /// How many keys from the beginning of the key table belong to it.
    pub keys: u64,
    /// How many values the slot has.
    pub values: u64,
    /// BLAKE3 over keys and value digests in order.
    pub digest: [u8; DIGEST_LEN],
}

/// As `V003__key_table` makes it.
const HEADER_VERSION: u8 = 2;

impl SlotHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(HEADER_VERSION).u64(self.sequence).u64(self.height).u64(self.commit_index).hash(&self.state_root);
        w.u64(self.keys).u64(self.values).raw(&self.digest);
        let checksum = blake3::hash(w.as_slice());
        w.raw(checksum.as_bytes());
        w.into_bytes()
    }

    /// None if it is damaged or of another version.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST_LEN)?)?;
        if blake3::hash(body).as_bytes() != checksum {
            return None;
        }
        let mut r = Reader::new(body);
        if r.u8().ok()? != HEADER_VERSION {
            return None;
        }
        let header = Self {
            sequence: r.u64().ok()?,
            height: r.u64().ok()?,
            commit_index: r.u64().ok()?,
            state_root: r.hash().ok()?,
            keys: r.u64().ok()?,
            values: r.u64().ok()?,
            digest: r.array().ok()?,
        };
        r.finish().ok()?;
        Some(header)
    }
}
