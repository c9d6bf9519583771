//! Indexing a block: change by change, its row last, so that a block is indexed as a whole or not yet.

use aurigraph_ledger::codec::Writer;
use aurigraph_schema_upgrades::{Change, Medium};

use super::error::StoreError;
use super::layout::{
    BLOCK_TRANSACTIONS, BLOCKS, GROUP, HEIGHTS, MEASURES, PARTIES, RECEIPT_GROUP_BYTES, RECEIPTS, TRANSACTIONS,
    decode_block, encode_block, encode_entry, encode_location, encode_measures, group_key, height_key, party_key,
};
use super::types::{BlockRow, Measures, StoredBlock, StoredTransaction, TransactionLocation};
use crate::bounds::storage::STORE_PIECE;
use crate::release::keeps_measures;

/// Indexes a block. Again for the same block changes nothing.
pub(super) fn write_block(medium: &dyn Medium, block: &StoredBlock) -> Result<(), StoreError> {
    let transactions = u32::try_from(block.transactions.len()).unwrap_or(u32::MAX);
    let height = block.height;
    let locations = (0_u32..).zip(&block.transactions).map(|(index, transaction)| {
        Change::put(&transaction.id.0, &encode_location(TransactionLocation { height, index }))
    });
    apply_all(medium, TRANSACTIONS, locations)?;
    let groups = (0_u32..).step_by(GROUP).zip(block.transactions.chunks(GROUP)).map(|(first, group)| {
        let mut value = Vec::with_capacity(group.len() * super::layout::ENTRY);
        group.iter().for_each(|transaction| encode_entry(transaction, &mut value));
        Change { key: group_key(height, first).to_vec(), value: Some(value) }
    });
    apply_all(medium, BLOCK_TRANSACTIONS, groups)?;
    apply_all(medium, RECEIPTS, receipt_groups(height, &block.transactions).into_iter())?;
    medium.apply_each(HEIGHTS, &[Change::put(&block.hash.0, &height.to_le_bytes())])?;
    let parties = (0_u32..).zip(&block.transactions).flat_map(|(index, transaction)| {
        transaction.parties.iter().map(move |party| Change::put(&party_key(&party.key, height, index), &[party.role]))
    });
    apply_all(medium, PARTIES, parties)?;
    // Executed again, the block keeps the figure of its first time.
    let there = row(medium, height)?.filter(|(there, _)| there.hash == block.hash);
    let finalized_after_ms = there.and_then(|(there, _)| there.measures.finalized_after_ms);
    let measures = Measures { finalized_after_ms, bytes: Some(block.bytes) };
    medium.apply_each(BLOCKS, &[Change::put(&height_key(height), &encode_block(block, transactions, measures))])?;
    Ok(())
}

/// A block's row, as it is and in its bytes; none if there is none or it does not decode.
fn row(medium: &dyn Medium, height: u64) -> Result<Option<(BlockRow, Vec<u8>)>, StoreError> {
    let bytes = medium.get(BLOCKS, &height_key(height))?;
    Ok(bytes.and_then(|bytes| Some((decode_block(height, &bytes).ok()?, bytes))))
}

/// Notes how long a block took until it was final here, unless that is known.
pub(super) fn write_finality(medium: &dyn Medium, height: u64, finalized_after_ms: u64) -> Result<(), StoreError> {
    let Some((block, mut bytes)) = row(medium, height)? else { return Ok(()) };
    if !keeps_measures() || block.measures.finalized_after_ms.is_some() {
        return Ok(());
    }
    let measures = Measures { finalized_after_ms: Some(finalized_after_ms), ..block.measures };
    bytes.truncate(bytes.len() - MEASURES);
    bytes.extend_from_slice(&encode_measures(measures));
    medium.apply_each(BLOCKS, &[Change::put(&height_key(height), &bytes)])?;
    Ok(())
}

fn receipt_groups(height: u64, transactions: &[StoredTransaction]) -> Vec<Change> {
    let mut groups = Vec::new();
    let (mut first, mut w) = (0, Writer::new());
    for (index, transaction) in (0_u32..).zip(transactions) {
        if !w.as_slice().is_empty() && w.as_slice().len() + transaction.receipt.len() > RECEIPT_GROUP_BYTES {
            groups.push(Change { key: group_key(height, first).to_vec(), value: Some(w.into_bytes()) });
            (first, w) = (index, Writer::new());
        }
        w.bytes(&transaction.receipt);
    }
    if !w.as_slice().is_empty() {
        groups.push(Change { key: group_key(height, first).to_vec(), value: Some(w.into_bytes()) });
    }
    groups
}

/// Applies any number of changes, one after the other; a batch of sled's would cost two writes to the disk.
pub(super) fn apply_all(
    medium: &dyn Medium,
    tree: &str,
    changes: impl Iterator<Item = Change>,
) -> Result<(), StoreError> {
    let mut changes = changes.peekable();
    while changes.peek().is_some() {
        let piece: Vec<Change> = changes.by_ref().take(STORE_PIECE).collect();
        medium.apply_each(tree, &piece)?;
    }
    Ok(())
}
