//! Reading the store, beside the actor that writes it.

use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use aurigraph_ledger::Hash;
use aurigraph_schema_upgrades::Medium as _;
use bytes::Bytes;

use super::checkpoint;
use super::error::StoreError;
use super::layout::{
    AUDIT, AUDIT_TIMES, BLOCK_TRANSACTIONS, BLOCKS, ENTRY, HEIGHTS, PARTIES, RECEIPTS, TRANSACTIONS, audit_time_key,
    damaged, decode_block, decode_entry, decode_location, decode_receipts, group_first, group_key, height_key,
    height_of, party_key, party_place, time_key,
};
use super::open::Shared;
use super::types::{BlockRow, PartyRow, StoredCheckpoint, TransactionLocation, TransactionRow};
use crate::release;

fn party_row(pair: sled::Result<(sled::IVec, sled::IVec)>) -> Result<PartyRow, StoreError> {
    let (key, value) = pair?;
    let place = party_place(&key).zip(value.first().copied());
    place.map(|(location, role)| PartyRow { location, role }).ok_or_else(|| damaged("party", &key))
}

/// Reads the store; cheap to clone, valid across restarts of the store actor. Blocking: scans belong on a thread.
#[derive(Clone)]
pub struct StoreReader {
    shared: Arc<Shared>,
}

impl StoreReader {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.shared.database().get(tree, key)?)
    }

    /// The block at a height.
    ///
    /// # Errors
    /// If sled fails or the row is damaged.
    pub fn header_by_height(&self, height: u64) -> Result<Option<BlockRow>, StoreError> {
        let key = height_key(height);
        let row = self.get(BLOCKS, &key)?;
        row.map(|bytes| decode_block(height, &bytes).map_err(|_| damaged("block row", &key))).transpose()
    }

    /// The block with a hash.
    ///
    /// # Errors
    /// Those of [`StoreReader::header_by_height`].
    pub fn header_by_hash(&self, hash: &Hash) -> Result<Option<BlockRow>, StoreError> {
        let Some(value) = self.get(HEIGHTS, &hash.0)? else { return Ok(None) };
        let height = <[u8; 8]>::try_from(value.as_slice()).map_err(|_| damaged("height", &hash.0))?;
        self.header_by_height(u64::from_le_bytes(height))
    }

    /// Blocks below a height (or from the newest), newest first.
    ///
    /// # Errors
    /// Those of [`StoreReader::header_by_height`].
    pub fn headers_below(&self, height: Option<u64>, limit: usize) -> Result<Vec<BlockRow>, StoreError> {
        let database = self.shared.database();
        let tree = database.sled().open_tree(BLOCKS)?;
        let end = height.map_or(Bound::Unbounded, |height| Bound::Excluded(height_key(height)));
        let rows = tree.range((Bound::<[u8; 8]>::Unbounded, end)).rev().take(limit);
        rows.map(|row| {
            let (key, bytes) = row?;
            let height = height_of(&key).ok_or_else(|| damaged("block key", &key))?;
            decode_block(height, &bytes).map_err(|_| damaged("block row", &key))
        })
        .collect()
    }

    /// The highest indexed block: indexing goes on above it after a restart.
    ///
    /// # Errors
    /// If sled fails.
    pub fn highest_indexed_height(&self) -> Result<Option<u64>, StoreError> {
        let database = self.shared.database();
        let last = database.sled().open_tree(BLOCKS)?.last()?;
        last.map(|(key, _)| height_of(&key).ok_or_else(|| damaged("block key", &key))).transpose()
    }

    /// Where a transaction stands in the chain.
    ///
    /// # Errors
    /// If sled fails or the row is damaged.
    pub fn transaction(&self, id: &Hash) -> Result<Option<TransactionLocation>, StoreError> {
        let value = self.get(TRANSACTIONS, &id.0)?;
        let found =
            value.map(|bytes| decode_location(&bytes).map_err(|_| damaged("transaction", &id.0))).transpose()?;
        // A place in a block whose own row is not there yet is not in the chain yet.
        Ok(match found {
            Some(location) if self.get(BLOCKS, &height_key(location.height))?.is_some() => Some(location),
            _ => None,
        })
    }

    /// A transaction with its receipt and the place of its body.
    ///
    /// # Errors
    /// If sled fails or a row is damaged.
    pub fn transaction_row(&self, location: TransactionLocation) -> Result<Option<TransactionRow>, StoreError> {
        Ok(self.block_transactions(location.height, location.index, 1)?.pop())
    }

    /// Transactions of a block from an index on, in order.
    ///
    /// # Errors
    /// If sled fails or a row is damaged.
    pub fn block_transactions(&self, height: u64, from: u32, limit: usize) -> Result<Vec<TransactionRow>, StoreError> {
        let Some(block) = self.header_by_height(height)? else { return Ok(Vec::new()) };
        let take = u32::try_from(limit).unwrap_or(u32::MAX).min(block.transactions.saturating_sub(from));
        if take == 0 {
            return Ok(Vec::new());
        }
        let to = from + take;
        let entries = self.entries(height, from, to)?;
        let receipts = self.receipts(height, from, to)?;
        if entries.len() != take as usize || receipts.len() != take as usize {
            return Err(damaged("transaction list", &height_key(height)));
        }
        let rows = (from..to).zip(entries).zip(receipts).map(|((index, (id, batch, position)), receipt)| {
            let batch = block.batches.get(usize::from(batch)).copied();
            let batch = batch.ok_or_else(|| damaged("batch ordinal", &group_key(height, index)))?;
            let location = TransactionLocation { height, index };
            Ok(TransactionRow { location, id, batch, position, receipt })
        });
        rows.collect()
    }

    fn entries(&self, height: u64, from: u32, to: u32) -> Result<Vec<(Hash, u16, u32)>, StoreError> {
        let mut entries = Vec::new();
        self.groups(BLOCK_TRANSACTIONS, height, from, to, |key, first, bytes| {
            for (index, entry) in (first..).zip(bytes.chunks(ENTRY)) {
                if (from..to).contains(&index) {
                    entries.push(decode_entry(entry).map_err(|_| damaged("transaction list", key))?);
                }
            }
            Ok(())
        })?;
        Ok(entries)
    }

    fn receipts(&self, height: u64, from: u32, to: u32) -> Result<Vec<Bytes>, StoreError> {
        let mut receipts = Vec::new();
        self.groups(RECEIPTS, height, from, to, |key, first, bytes| {
            let group = decode_receipts(bytes).map_err(|_| damaged("receipts", key))?;
            receipts.extend((first..).zip(group).filter(|(index, _)| (from..to).contains(index)).map(|(_, one)| one));
            Ok(())
        })?;
        Ok(receipts)
    }

    /// Visits the groups that hold the indices `from..to` of a block.
    fn groups(
        &self,
        tree: &str,
        height: u64,
        from: u32,
        to: u32,
        mut visit: impl FnMut(&[u8], u32, &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let database = self.shared.database();
        let tree = database.sled().open_tree(tree)?;
        let holder = tree.range(group_key(height, 0)..=group_key(height, from)).next_back().transpose()?;
        let Some((start, _)) = holder else { return Ok(()) };
        for group in tree.range(start.as_ref()..group_key(height, to).as_slice()) {
            let (key, bytes) = group?;
            let first = group_first(&key).ok_or_else(|| damaged("group key", &key))?;
            visit(&key, first, &bytes)?;
        }
        Ok(())
    }

    /// Transactions in which one account takes part, under any of the names that the index has for it, newest first: up to
    /// `limit` of them after the first `skip`, of blocks up to `height`. Reads at the most `most` rows; also says how many
    /// it found, and whether it stopped there.
    ///
    /// # Errors
    /// If sled fails or a row of the index is damaged.
    pub fn party_transactions(
        &self,
        names: &[Vec<u8>],
        height: u64,
        (skip, limit): (usize, usize),
        most: usize,
    ) -> Result<(Vec<PartyRow>, usize, bool), StoreError> {
        let database = self.shared.database();
        let tree = database.sled().open_tree(PARTIES)?;
        let rows = |name: &Vec<u8>| {
            let range = tree.range(party_key(name, 0, 0)..=party_key(name, height, u32::MAX));
            range.rev().map(party_row).peekable()
        };
        let mut sources: Vec<_> = names.iter().map(rows).collect();
        let (mut page, mut found) = (Vec::new(), 0);
        loop {
            // The names' rows are merged: a transaction that names the account both ways counts once.
            let mut next: Option<TransactionLocation> = None;
            for source in &mut sources {
                match source.peek() {
                    Some(Ok(row)) => next = next.max(Some(row.location)),
                    Some(Err(_)) => drop(source.next().transpose()?),
                    None => {}
                }
            }
            let Some(location) = next else { return Ok((page, found, false)) };
            if found == most {
                return Ok((page, found, true));
            }
            let mut role = 0;
            for source in &mut sources {
                let same = |row: &Result<PartyRow, StoreError>| row.as_ref().is_ok_and(|row| row.location == location);
                role |= source.next_if(same).transpose()?.map_or(0, |row| row.role);
            }
            if found >= skip && page.len() < limit {
                page.push(PartyRow { location, role });
            }
            found += 1;
        }
    }

    /// The newest checkpoint whose checksums hold. One that fails them is distrusted, and the other slot's is tried. After
    /// an error the state is rebuilt from the journal.
    ///
    /// # Errors
    /// If sled fails or panics; the next start of the process then begins a new database.
    pub fn latest_checkpoint(&self) -> Result<Option<StoredCheckpoint>, StoreError> {
        let found = catch_unwind(AssertUnwindSafe(|| self.newest_whole())).unwrap_or(Err(StoreError::Panicked));
        if let Some(error) = found.as_ref().err().filter(|error| error.is_damage()) {
            self.shared.suspect(&error.to_string());
        }
        found
    }

    fn newest_whole(&self) -> Result<Option<StoredCheckpoint>, StoreError> {
        let database = &self.shared.database();
        let mut first = self.shared.first.lock().take();
        for (slot, header) in checkpoint::candidates(database, |sequence| self.shared.distrusts(sequence))? {
            if let Some(first) = first.take_if(|first| first.sequence == header.sequence) {
                return Ok(Some(first));
            }
            if let Some(found) = checkpoint::load(database, slot, &header)? {
                return Ok(Some(found));
            }
            tracing::error!(
                alert = "checkpoint_damaged", sequence = header.sequence, height = header.height,
                root = %header.state_root, "a checkpoint fails its checksums"
            );
            self.distrust(header.sequence);
        }
        Ok(None)
    }

    /// The last commit in the older of the two checkpoints, or in the only one; none without any. Looks at their headers
    /// alone.
    ///
    /// # Errors
    /// If sled fails.
    pub fn oldest_checkpoint_commit(&self) -> Result<Option<u64>, StoreError> {
        let whole = checkpoint::candidates(&self.shared.database(), |sequence| self.shared.distrusts(sequence))?;
        Ok(whole.iter().map(|(_, header)| header.commit_index).min())
    }

    /// Leaves word that the next start is to set this database aside: its checkpoints cannot be used.
    pub fn give_up(&self, reason: &str) {
        self.shared.suspect(reason);
    }

    /// Says that a checkpoint is not to be used again, because its pages do not have its root.
    pub fn distrust(&self, sequence: u64) {
        self.shared.distrusted.lock().insert(sequence);
    }

    /// Audit rows below an entry number (or from the newest), newest first.
    ///
    /// # Errors
    /// If sled fails.
    pub fn audit_rows(&self, below: Option<u64>, limit: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let database = self.shared.database();
        let tree = database.sled().open_tree(AUDIT)?;
        let end = below.map_or(Bound::Unbounded, |id| Bound::Excluded(height_key(id)));
        let rows = tree.range((Bound::<[u8; 8]>::Unbounded, end)).rev().take(limit);
        rows.map(|row| {
            let (key, bytes) = row?;
            let id = height_of(&key).ok_or_else(|| damaged("audit key", &key))?;
            Ok((id, Bytes::copy_from_slice(&bytes)))
        })
        .collect()
    }

    /// Audit rows with times from `from_ms` to `to_ms`, both included, newest first; `before` is the time and number of the
    /// last row of the page before.
    ///
    /// # Errors
    /// If sled fails or a key of the index is damaged.
    pub fn audit_rows_between(
        &self,
        (from_ms, to_ms): (u64, u64),
        before: Option<(u64, u64)>,
        limit: usize,
    ) -> Result<Vec<(u64, u64, Bytes)>, StoreError> {
        let database = self.shared.database();
        let tree = database.sled().open_tree(AUDIT_TIMES)?;
        let start = Bound::Included(time_key(from_ms, 0));
        let end = match before {
            Some((time, id)) => Bound::Excluded(time_key(time, id)),
            None => Bound::Included(time_key(to_ms, u64::MAX)),
        };
        let mut rows = Vec::new();
        if from_ms > to_ms || before.is_some_and(|before| before <= (from_ms, 0)) {
            return Ok(rows);
        }
        for pair in tree.range((start, end)).rev() {
            let (key, _) = pair?;
            let parts = key.split_first_chunk::<8>().and_then(|(time, id)| Some((time, id.first_chunk::<8>()?)));
            let (time, id) = parts.ok_or_else(|| damaged("audit time key", &key))?;
            let (time, id) = (u64::from_be_bytes(*time), u64::from_be_bytes(*id));
            // An index key without its entry, or of a number that was given again, is what a crash left.
            let entry =
                self.get(AUDIT, &height_key(id))?.filter(|it| audit_time_key(id, it) == Some(time_key(time, id)));
            rows.extend(entry.map(|entry| (time, id, Bytes::from(entry))));
            if rows.len() == limit {
                break;
            }
        }
        Ok(rows)
    }

    /// The schema version that the store is at.
    ///
    /// # Errors
    /// If sled fails or the history is damaged.
    pub fn schema_version(&self) -> Result<u32, StoreError> {
        Ok(release::schema_plan(None).status(&self.shared.database()).map_err(Arc::new)?.version)
    }

    /// Bytes of all keys and values that the store holds: what has to be there. Reads every one of them.
    ///
    /// # Errors
    /// If sled fails.
    pub fn live_bytes(&self) -> Result<u64, StoreError> {
        let (mut bytes, database) = (0, self.shared.database());
        for name in database.trees() {
            for pair in &database.sled().open_tree(name)? {
                let (key, value) = pair?;
                bytes += (key.len() + value.len()) as u64;
            }
        }
        Ok(bytes)
    }

    /// Bytes that the store takes on disk.
    ///
    /// # Errors
    /// If sled fails.
    pub fn size_on_disk(&self) -> Result<u64, StoreError> {
        Ok(self.shared.database().sled().size_on_disk()?)
    }
}
