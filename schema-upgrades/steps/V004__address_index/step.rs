//! V004: transactions can be found by who takes part in them. See the note beside this file.

use std::sync::Arc;

use crate::medium::{Change, Medium};
use crate::step::{Advance, Presence, Step, StepError};

/// Who takes part in which transactions.
pub const PARTIES: &str = "parties";
/// The key that says that nothing is missing.
pub const MARK: [u8; 1] = [0xff];
/// The first byte of a party that is an account's number.
pub const BY_INDEX: u8 = 0;
/// The first byte of a party that is an address.
pub const BY_ADDRESS: u8 = 1;
/// The role of who signed.
pub const SENDER: u8 = 1;
/// The role of who is credited.
pub const RECEIVER: u8 = 2;
/// Transactions with more different receivers are listed for their sender alone.
pub const MOST_RECEIVERS: usize = 16;

const BLOCKS: &str = "blocks";
const BLOCK_TRANSACTIONS: &str = "block_transactions";
const DIGEST: usize = 32;
/// An entry of a group: id, batch ordinal, position.
const ENTRY: usize = DIGEST + 2 + 4;
/// Hash, commit index and count, before the batches of a block row.
const BATCHES_AT: usize = DIGEST + 8 + 4;
const GROUPS: usize = 32;
const TRANSACTIONS: usize = 1_000;
const KEYS: usize = 1_000;

/// A party of a transaction, as the key of its row begins, and its role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// [`BY_INDEX`] or [`BY_ADDRESS`], and which.
    pub key: Vec<u8>,
    /// [`SENDER`], [`RECEIVER`], or both bits.
    pub role: u8,
}

/// The bodies of transactions, which are not in the database.
pub trait Bodies: Send + Sync {
    /// The parties of the transactions at these positions of a batch, in their order; none if the batch is not kept any more.
    ///
    /// # Errors
    /// Whatever keeps them from being read.
    fn parties(&self, batch: &[u8; 32], positions: &[u32]) -> Result<Option<Vec<Vec<Party>>>, StepError>;
}

/// The key of a row.
#[must_use]
pub fn key(party: &[u8], height: u64, index: u32) -> Vec<u8> {
    [party, &height.to_be_bytes(), &index.to_be_bytes()].concat()
}

/// The step.
pub struct AddressIndex {
    bodies: Option<Arc<dyn Bodies>>,
}

impl AddressIndex {
    /// With the place of the bodies. Without one it can be applied where no block holds a transaction.
    #[must_use]
    pub const fn new(bodies: Option<Arc<dyn Bodies>>) -> Self {
        Self { bodies }
    }
}

fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_usize;
    for (at, byte) in bytes.iter().enumerate().take(4) {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

/// The digests of a block row's batches.
fn batches(row: &[u8]) -> Option<&[[u8; DIGEST]]> {
    let (count, rest) = varint(row.get(BATCHES_AT..)?)?;
    Some(rest.get(..count.checked_mul(DIGEST)?)?.as_chunks().0)
}

/// Batch ordinal and position of an entry.
fn place(entry: &[u8]) -> Option<(usize, u32)> {
    let ordinal = entry.get(DIGEST..)?.first_chunk::<2>()?;
    let position = entry.get(DIGEST + 2..)?.first_chunk::<4>()?;
    Some((usize::from(u16::from_le_bytes(*ordinal)), u32::from_le_bytes(*position)))
}

/// Where a chunk's rows are collected.
struct Rows<'a> {
    medium: &'a dyn Medium,
    changes: Vec<Change>,
}

impl Rows<'_> {
    fn put(&mut self, key: &[u8], role: u8) -> Result<(), StepError> {
        self.changes.push(Change::put(key, &[role]));
        if self.changes.len() == KEYS { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), StepError> {
        if !self.changes.is_empty() {
            self.medium.apply(PARTIES, &self.changes)?;
            self.changes.clear();
        }
        Ok(())
    }
}

/// Writes the rows of a group's transactions; how many there are.
fn group(rows: &mut Rows<'_>, bodies: &dyn Bodies, key_of_group: &[u8], value: &[u8]) -> Result<usize, StepError> {
    let split =
        key_of_group.split_first_chunk::<8>().and_then(|(height, first)| Some((height, first.first_chunk::<4>()?)));
    let (height, first) = split.ok_or_else(|| format!("the group {} has no place", hex::encode(key_of_group)))?;
    let Some(row) = rows.medium.get(BLOCKS, height)? else { return Ok(0) };
    let height = u64::from_be_bytes(*height);
    let damaged = || format!("the row or a group of block {height} does not decode");
    let batches = batches(&row).ok_or_else(damaged)?;
    let entries: Vec<(usize, u32)> =
        value.chunks(ENTRY).map(|entry| place(entry).ok_or_else(damaged)).collect::<Result<_, _>>()?;
    let mut index = u32::from_be_bytes(*first);
    // Transactions of one batch stand together: each batch is read once a group.
    for together in entries.chunk_by(|a, b| a.0 == b.0) {
        let batch = together.first().and_then(|(ordinal, _)| batches.get(*ordinal)).ok_or_else(damaged)?;
        let positions: Vec<u32> = together.iter().map(|(_, position)| *position).collect();
        let found = bodies.parties(batch, &positions)?.unwrap_or_default();
        for (at, parties) in (index..).zip(&found) {
            for party in parties {
                rows.put(&key(&party.key, height, at), party.role)?;
            }
        }
        index += u32::try_from(together.len()).unwrap_or(u32::MAX);
    }
    Ok(entries.len())
}

impl Step for AddressIndex {
    fn version(&self) -> u32 {
        4
    }

    fn name(&self) -> &'static str {
        "address_index"
    }

    fn content(&self) -> &[&str] {
        &[include_str!("NOTE.md"), include_str!("step.rs")]
    }

    fn advance(&self, medium: &dyn Medium, from: Option<&[u8]>) -> Result<Advance, StepError> {
        medium.ensure_tree(PARTIES)?;
        let groups = medium.scan(BLOCK_TRANSACTIONS, from, GROUPS)?;
        let mut rows = Rows { medium, changes: Vec::new() };
        let mut transactions = 0;
        for (key, value) in &groups {
            let bodies =
                self.bodies.as_deref().ok_or("it needs the bodies of transactions, and no journal was handed in")?;
            transactions += group(&mut rows, bodies, key, value)?;
            if transactions >= TRANSACTIONS {
                rows.write()?;
                return Ok(Advance::More(key.clone()));
            }
        }
        rows.write()?;
        if let Some((key, _)) = groups.last().filter(|_| groups.len() == GROUPS) {
            return Ok(Advance::More(key.clone()));
        }
        medium.flush()?;
        medium.apply(PARTIES, &[Change::put(&MARK, &[])])?;
        Ok(Advance::Done)
    }

    fn presence(&self, medium: &dyn Medium) -> Result<Presence, StepError> {
        if medium.trees().iter().all(|tree| tree != PARTIES) {
            return Ok(Presence::Absent);
        }
        Ok(match medium.get(PARTIES, &MARK)? {
            Some(_) => Presence::Complete,
            None => Presence::Partial("the index has no mark at its end".to_owned()),
        })
    }

    fn source(&self) -> Option<&str> {
        Some(BLOCK_TRANSACTIONS)
    }

    fn reversible(&self) -> bool {
        true
    }

    fn retreat(&self, medium: &dyn Medium, _from: Option<&[u8]>) -> Result<Advance, StepError> {
        if medium.trees().iter().all(|tree| tree != PARTIES) {
            return Ok(Advance::Done);
        }
        if medium.get(PARTIES, &MARK)?.is_some() {
            medium.apply(PARTIES, &[Change::remove(&MARK)])?;
            return Ok(Advance::More(MARK.to_vec()));
        }
        let keys = medium.scan(PARTIES, None, KEYS)?;
        if let Some((last, _)) = keys.last() {
            let changes: Vec<Change> = keys.iter().map(|(key, _)| Change::remove(key)).collect();
            medium.apply(PARTIES, &changes)?;
            return Ok(Advance::More(last.clone()));
        }
        medium.drop_tree(PARTIES)?;
        Ok(Advance::Done)
    }
}
