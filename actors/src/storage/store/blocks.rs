//! Indexing a block: in small batches, its row last, so that a block is indexed as a whole or not yet.

use aurigraph_ledger::codec::Writer;
use aurigraph_schema_upgrades::{Change, Medium};

use super::error::StoreError;
use super::layout::{
    BLOCK_TRANSACTIONS, BLOCKS, GROUP, HEIGHTS, RECEIPT_GROUP_BYTES, RECEIPTS, TRANSACTIONS, encode_block,
    encode_entry, encode_location, group_key, height_key,
};
use super::types::{StoredBlock, StoredTransaction, TransactionLocation};
use crate::bounds::storage::{STORE_BATCH_BYTES, STORE_BATCH_KEYS};

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
    medium.apply(HEIGHTS, &[Change::put(&block.hash.0, &height.to_le_bytes())])?;
    medium.apply(BLOCKS, &[Change::put(&height_key(height), &encode_block(block, transactions))])?;
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

/// Applies any number of changes in batches that sled digests well.
pub(super) fn apply_all(
    medium: &dyn Medium,
    tree: &str,
    changes: impl Iterator<Item = Change>,
) -> Result<(), StoreError> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    for change in changes {
        bytes += change.key.len() + change.value.as_ref().map_or(0, Vec::len);
        batch.push(change);
        if batch.len() == STORE_BATCH_KEYS || bytes >= STORE_BATCH_BYTES {
            medium.apply(tree, &batch)?;
            batch.clear();
            bytes = 0;
        }
    }
    if !batch.is_empty() {
        medium.apply(tree, &batch)?;
    }
    Ok(())
}
