//! Checkpoints of the ledger state: two slots written in turn, each closed by a header that says what must be there.
//!
//! What a checkpoint changes goes into its redo record first. Then the slot loses its header, durably, gets the changes
//! from the redo record, and its header last. So at every moment one slot holds a whole checkpoint, once there has been
//! one, and a crash between is made good from the redo record. Registered keys stand outside the slots, once: their
//! table only grows, and a header says how many of them are its own.
//!
//! A checkpoint is written in slices, so that its thread can do other work in between.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use aurigraph_ledger::hash::DIGEST_LEN;
use aurigraph_ledger::{PageGroup, PageKey, StateView, StoredPage};
use aurigraph_schema_upgrades::{Change, Medium};
use bytes::Bytes;

use super::error::StoreError;
use super::layout::{CHECKPOINTS, KEYS, PAGES, SlotHeader, SlotValue, key_row_key};
use super::pending::Pending;
use super::redo::{Part, Redo, Seal};
use super::types::StoredCheckpoint;
use crate::bounds::storage::{CHECKPOINT_FLUSH, CHECKPOINT_SHRINK, CHECKPOINT_SLICE, SLICE_WANTED, STORE_VALUE};

/// The two slots.
pub(super) const SLOTS: [u8; 2] = [0, 1];
/// Values read at once while a slot is loaded or swept.
const SCAN: usize = 64;
/// Groups looked at in one slice, however little of them is written.
const SLICE_GROUPS: usize = 64;

type Digest = [u8; DIGEST_LEN];

/// What this process last wrote into a slot: what need not be written again.
struct Known {
    /// The view. Its pages stay in memory as long as they are the slot's: up to two states besides the newest.
    view: StateView,
    /// Digests of the slot's values by key.
    digests: BTreeMap<Vec<u8>, Digest>,
}

/// The writing side.
#[derive(Default)]
pub(super) struct Checkpoints {
    known: [Option<Known>; 2],
    /// Bytes of a slice, as the checkpoint before found them right.
    slice: Option<usize>,
    /// The state whose keys are all in the key table, written or found there by this process.
    keys: Option<StateView>,
}

/// What one checkpoint wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    pub sequence: u64,
    pub values: usize,
    pub bytes: usize,
}

/// Half of a size if it took longer than wanted, twice the size if it took far less.
fn adapted(size: usize, took: Duration, wanted: Duration, most: usize) -> usize {
    match took {
        took if took > wanted => (size / 2).max(most / CHECKPOINT_SHRINK),
        took if took < wanted / 4 => (size * 2).min(most),
        _ => size,
    }
}

/// What is left to be done of a checkpoint.
enum Left {
    /// What was written before is made durable.
    Begin,
    /// Groups of pages, then the consensus state, into the redo record.
    Groups,
    /// What an earlier process left in the slot behind this key and does not belong there.
    Sweep(Vec<u8>),
    /// The redo record's end.
    Seal,
    /// The slot's header goes.
    Open,
    /// From this part on the redo record goes into the store.
    Apply(u32),
    /// The pages are made durable, then the header is written, and is durable in the end.
    Pages,
    Header,
    Done,
}

/// A checkpoint that is being written. Dropped before its end, it leaves its slot without a header.
pub(super) struct Underway {
    slot: u8,
    view: StateView,
    consensus: Bytes,
    commit_index: u64,
    digests: BTreeMap<Vec<u8>, Digest>,
    /// Whether an earlier process wrote the slot last: what stands there is compared, not known.
    fresh: bool,
    left: Left,
    /// Groups of pages that have to be looked at.
    groups: VecDeque<PageGroup>,
    /// What the next slice has to wait for.
    pub(super) pending: Pending,
    /// Bytes of a slice: fewer where they take long.
    slice: usize,
    /// Parts of the redo record.
    parts: u32,
    /// Bytes written since the last flush.
    unflushed: usize,
    written: Written,
}

/// Changes of one slice, by tree.
#[derive(Default)]
struct Slice {
    part: Part,
    /// Bytes written, and read for a comparison.
    bytes: usize,
}

/// Value digest in front, over key and content, so that a value under another key is damage too.
fn seal(key: &[u8], content: &[u8]) -> (Digest, Vec<u8>) {
    let digest = value_digest(key, content);
    let mut value = Vec::with_capacity(DIGEST_LEN + content.len());
    value.extend_from_slice(&digest);
    value.extend_from_slice(content);
    (digest, value)
}

fn value_digest(key: &[u8], content: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes()).update(key).update(content);
    *hasher.finalize().as_bytes()
}

fn fold(hasher: &mut blake3::Hasher, key: &[u8], digest: &Digest) {
    hasher.update(&(key.len() as u64).to_le_bytes()).update(key).update(digest);
}

/// Headers of both slots; none where there is no whole one.
pub(super) fn headers(medium: &dyn Medium) -> Result<[Option<SlotHeader>; 2], StoreError> {
    let read = |slot: u8| -> Result<_, StoreError> {
        Ok(medium.get(CHECKPOINTS, &[slot])?.and_then(|bytes| SlotHeader::decode(&bytes)))
    };
    Ok([read(SLOTS[0])?, read(SLOTS[1])?])
}

impl Checkpoints {
    /// Begins a checkpoint in the slot that does not hold the newest trusted one. Its first slice makes durable what was
    /// written before, the index of the blocks up to it above all: once its redo record is whole, they are not indexed again.
    pub(super) fn begin(
        &mut self,
        medium: &dyn Medium,
        view: &StateView,
        consensus: Bytes,
        commit_index: u64,
        distrusted: impl Fn(u64) -> bool,
    ) -> Result<Underway, StoreError> {
        let headers = headers(medium)?;
        let sequence = headers.iter().flatten().map(|header| header.sequence).max().unwrap_or(0) + 1;
        let slot = target(&headers, distrusted);
        let known = self.known[usize::from(slot)].take();
        let mut groups: VecDeque<PageGroup> = view.changed_groups(known.as_ref().map(|known| &known.view))?.into();
        groups.retain(|group| group.column != PageKey::KEY_TABLE);
        let keys = view.changed_groups(self.keys.as_ref())?.into_iter();
        groups.extend(keys.filter(|group| group.column == PageKey::KEY_TABLE));

        Ok(Underway {
            slot,
            view: view.clone(),
            consensus,
            commit_index,
            fresh: known.is_none(),
            digests: known.map_or_else(BTreeMap::new, |known| known.digests),
            left: Left::Begin,
            groups,
            pending: Pending::Done,
            slice: self.slice.unwrap_or(CHECKPOINT_SLICE),
            parts: 0,
            unflushed: 0,
            written: Written { sequence, values: 0, bytes: 0 },
        })
    }

    /// Remembers what a checkpoint wrote, once its last slice is done.
    pub(super) fn finish(&mut self, done: Underway) -> Written {
        self.keys = Some(done.view.clone());
        self.slice = Some(done.slice);
        self.known[usize::from(done.slot)] = Some(Known { view: done.view, digests: done.digests });
        done.written
    }

    /// A checkpoint in one go, where nobody waits for other work.
    pub(super) fn write(
        &mut self,
        medium: &dyn Medium,
        redo: &mut dyn Redo,
        view: &StateView,
        consensus: &[u8],
        commit_index: u64,
        distrusted: impl Fn(u64) -> bool,
    ) -> Result<Written, StoreError> {
        let mut underway = self.begin(medium, view, Bytes::copy_from_slice(consensus), commit_index, distrusted)?;
        while !underway.slice(medium, redo)? {}
        Ok(self.finish(underway))
    }
}

impl Underway {
    /// Height of the last block in it.
    pub(super) fn height(&self) -> u64 {
        self.view.height()
    }

    /// Does the next slice, after what it has to wait for; true after the last, when the checkpoint is durable. What the
    /// next one has to wait for is in `pending` then.
    pub(super) fn slice(&mut self, medium: &dyn Medium, redo: &mut dyn Redo) -> Result<bool, StoreError> {
        self.pending.block()?;
        let began = Instant::now();
        let done = self.step(medium, redo)?;
        self.slice = adapted(self.slice, began.elapsed(), SLICE_WANTED, CHECKPOINT_SLICE);
        Ok(done)
    }

    fn step(&mut self, medium: &dyn Medium, redo: &mut dyn Redo) -> Result<bool, StoreError> {
        let mut slice = Slice::default();
        let next = match &mut self.left {
            Left::Begin => {
                self.pending = redo.sync(medium)?;
                self.left = Left::Groups;
                return Ok(false);
            }
            Left::Groups => {
                self.take_groups(medium, &mut slice)?;
                if self.groups.is_empty() {
                    self.add_consensus(medium, &mut slice)?;
                    Some(if self.fresh { Left::Sweep(vec![self.slot]) } else { Left::Seal })
                } else {
                    None
                }
            }
            Left::Sweep(after) => {
                let values = medium.scan(PAGES, Some(after), SCAN)?;
                let own: Vec<_> = values.into_iter().take_while(|(key, _)| key.first() == Some(&self.slot)).collect();
                if let Some((last, _)) = own.last() {
                    after.clone_from(last);
                }
                let more = !own.is_empty();
                let stale = own.into_iter().filter(|(key, _)| !self.digests.contains_key(key));
                slice.part.pages.extend(stale.map(|(key, _)| Change { key, value: None }));
                (!more).then_some(Left::Seal)
            }
            Left::Seal => {
                self.pending = redo.seal(&Seal { slot: self.slot, parts: self.parts, header: self.header() })?;
                Some(Left::Open)
            }
            Left::Open => {
                medium.apply_each(CHECKPOINTS, &[Change::remove(&[self.slot])])?;
                self.pending = redo.sync(medium)?;
                Some(Left::Apply(0))
            }
            Left::Apply(number) if *number == self.parts => Some(Left::Pages),
            Left::Apply(number) => {
                let found = redo.part(self.written.sequence, *number)?;
                let missing = || StoreError::Redo(format!("part {number} is not there"));
                let part = found.ok_or_else(missing)?;
                *number += 1;
                self.apply(medium, redo, part)?;
                return Ok(false);
            }
            Left::Pages => {
                self.pending = redo.sync(medium)?;
                Some(Left::Header)
            }
            Left::Header => {
                medium.apply_each(CHECKPOINTS, &[Change::put(&[self.slot], &self.header().encode())])?;
                self.pending = redo.sync(medium)?;
                Some(Left::Done)
            }
            Left::Done => return Ok(true),
        };
        if !slice.part.is_empty() {
            self.pending = redo.put(self.written.sequence, self.parts, &slice.part)?;
            self.parts += 1;
        }
        if let Some(next) = next {
            self.left = next;
        }
        Ok(false)
    }

    /// Takes pages of the next groups into a slice until it is full.
    fn take_groups(&mut self, medium: &dyn Medium, slice: &mut Slice) -> Result<(), StoreError> {
        for _ in 0..SLICE_GROUPS {
            if slice.bytes >= self.slice {
                break;
            }
            let Some(group) = self.groups.pop_front() else { break };
            for page in self.view.export_group(group)? {
                if page.key.column == PageKey::KEY_TABLE {
                    add_key_row(medium, &page, slice)?;
                } else {
                    let value = SlotValue::Page(page.key);
                    add(medium, self.fresh, &mut self.digests, value.key(self.slot), &page.bytes, slice)?;
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, medium: &dyn Medium, redo: &mut dyn Redo, part: Part) -> Result<(), StoreError> {
        let bytes = part.bytes();
        self.written.values += part.keys.len() + part.pages.len();
        self.written.bytes += bytes;
        self.unflushed += bytes;
        part.apply(medium)?;
        // Not all at the end: a sync of hundreds of megabytes would take seconds.
        if self.unflushed >= CHECKPOINT_FLUSH {
            self.pending = redo.sync(medium)?;
            self.unflushed = 0;
        }
        Ok(())
    }

    fn add_consensus(&mut self, medium: &dyn Medium, slice: &mut Slice) -> Result<(), StoreError> {
        let mut parts = 0_u32;
        for part in self.consensus.chunks(STORE_VALUE) {
            let key = SlotValue::Consensus(parts).key(self.slot);
            add(medium, self.fresh, &mut self.digests, key, part, slice)?;
            parts += 1;
        }
        let (from, to) = (SlotValue::Consensus(parts), SlotValue::Consensus(u32::MAX));
        let leftovers: Vec<Vec<u8>> =
            self.digests.range(from.key(self.slot)..=to.key(self.slot)).map(|(key, _)| key.clone()).collect();
        for key in leftovers {
            self.digests.remove(&key);
            slice.part.pages.push(Change { key, value: None });
        }
        Ok(())
    }

    fn header(&self) -> SlotHeader {
        SlotHeader {
            sequence: self.written.sequence,
            height: self.view.height(),
            commit_index: self.commit_index,
            state_root: self.view.checkpoint().state_root,
            keys: u64::from(self.view.key_count()),
            values: self.digests.len() as u64,
            digest: whole(&self.digests),
        }
    }
}

/// Adds a value of a slot to a slice, unless it stands there already.
fn add(
    medium: &dyn Medium,
    fresh: bool,
    digests: &mut BTreeMap<Vec<u8>, Digest>,
    key: Vec<u8>,
    content: &[u8],
    slice: &mut Slice,
) -> Result<(), StoreError> {
    let (digest, sealed) = seal(&key, content);
    if digests.get(&key) == Some(&digest) {
        return Ok(());
    }
    digests.insert(key.clone(), digest);
    slice.bytes += sealed.len();
    // What the process before wrote is mostly what is wanted now.
    if fresh && medium.get(PAGES, &key)?.as_deref() == Some(&sealed) {
        return Ok(());
    }
    slice.part.pages.push(Change { key, value: Some(sealed) });
    Ok(())
}

/// Adds a row of the key table to a slice, unless it stands there with these keys, and perhaps more: a row is never made
/// shorter, since the other slot may need what follows.
fn add_key_row(medium: &dyn Medium, page: &StoredPage, slice: &mut Slice) -> Result<(), StoreError> {
    if page.key.part != 0 {
        return Err(StoreError::Damaged { what: "row of keys of several parts", key: page.key.group.to_string() });
    }
    let key = key_row_key(page.key.group);
    slice.bytes += page.bytes.len();
    let there = medium.get(KEYS, &key)?;
    if there.as_deref().and_then(|value| content(&key, value)).is_some_and(|there| extends(there, &page.bytes)) {
        return Ok(());
    }
    slice.part.keys.push(Change::put(&key, &seal(&key, &page.bytes).1));
    Ok(())
}

/// Whether a stored row has the keys of another, or more: both have two lengths in front.
fn extends(there: &[u8], row: &[u8]) -> bool {
    const LENGTHS: usize = 8;
    matches!((there.get(LENGTHS..), row.get(LENGTHS..)), (Some(there), Some(row)) if there.starts_with(row))
}

/// The content of a value whose digest is right.
fn content<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (stored, content) = value.split_first_chunk::<DIGEST_LEN>()?;
    (value_digest(key, content) == *stored).then_some(content)
}

/// The slot to overwrite: one without a trusted header, else the older.
pub(super) fn target(headers: &[Option<SlotHeader>; 2], distrusted: impl Fn(u64) -> bool) -> u8 {
    let rank = |slot: u8| {
        let header = headers[usize::from(slot)].filter(|header| !distrusted(header.sequence));
        header.map_or(0, |header| header.sequence)
    };
    if rank(SLOTS[0]) <= rank(SLOTS[1]) { SLOTS[0] } else { SLOTS[1] }
}

fn whole(digests: &BTreeMap<Vec<u8>, Digest>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    digests.iter().for_each(|(key, digest)| fold(&mut hasher, key, digest));
    *hasher.finalize().as_bytes()
}

/// Loads the checkpoint of a slot, if everything that its header names is there and whole.
pub(super) fn load(medium: &dyn Medium, slot: u8, header: &SlotHeader) -> Result<Option<StoredCheckpoint>, StoreError> {
    let mut hasher = blake3::Hasher::new();
    let (mut pages, mut consensus, mut values) = (Vec::new(), Vec::new(), 0);
    let mut after = if slot == 0 { None } else { Some(vec![slot - 1, u8::MAX, u8::MAX]) };
    loop {
        let chunk = medium.scan(PAGES, after.as_deref(), SCAN)?;
        let Some((last, _)) = chunk.last() else { break };
        after = Some(last.clone());
        let ends = last.first() != Some(&slot);
        for (key, value) in chunk {
            let Some((of, what)) = SlotValue::parse(&key) else { return Ok(None) };
            if of != slot {
                break;
            }
            let Some((stored, content)) = value.split_first_chunk::<DIGEST_LEN>() else { return Ok(None) };
            if value_digest(&key, content) != *stored {
                return Ok(None);
            }
            fold(&mut hasher, &key, stored);
            values += 1;
            match what {
                SlotValue::Page(key) => pages.push(StoredPage { key, bytes: content.to_vec() }),
                SlotValue::Consensus(_) => consensus.extend_from_slice(content),
            }
        }
        if ends {
            break;
        }
    }
    if values != header.values || *hasher.finalize().as_bytes() != header.digest {
        return Ok(None);
    }
    if !load_keys(medium, header.keys, &mut pages)? {
        return Ok(None);
    }
    let SlotHeader { sequence, height, commit_index, state_root, .. } = *header;
    Ok(Some(StoredCheckpoint { sequence, height, commit_index, state_root, consensus: Bytes::from(consensus), pages }))
}

/// Adds the rows of the key table that hold the first `keys` keys; false if one is missing or damaged.
fn load_keys(medium: &dyn Medium, keys: u64, pages: &mut Vec<StoredPage>) -> Result<bool, StoreError> {
    let rows = keys.div_ceil(u64::from(PageKey::KEYS_PER_ROW));
    let (mut row, mut after) = (0_u32, None);
    while u64::from(row) < rows {
        let chunk = medium.scan(KEYS, after.as_ref().map(|key: &[u8; 6]| key.as_slice()), SCAN)?;
        if chunk.is_empty() {
            return Ok(false);
        }
        for (key, value) in chunk.iter().take(usize::try_from(rows - u64::from(row)).unwrap_or(SCAN)) {
            let wanted = key_row_key(row);
            let Some(content) = content(key, value).filter(|_| key.as_slice() == wanted) else { return Ok(false) };
            let key = PageKey { column: PageKey::KEY_TABLE, group: row, part: 0 };
            pages.push(StoredPage { key, bytes: content.to_vec() });
            after = Some(wanted);
            row += 1;
        }
    }
    Ok(true)
}

/// Slots with a trusted header, the newest first.
pub(super) fn candidates(
    medium: &dyn Medium,
    distrusted: impl Fn(u64) -> bool,
) -> Result<Vec<(u8, SlotHeader)>, StoreError> {
    let mut found: Vec<(u8, SlotHeader)> = SLOTS
        .into_iter()
        .zip(headers(medium)?)
        .filter_map(|(slot, header)| Some((slot, header?)))
        .filter(|(_, header)| !distrusted(header.sequence))
        .collect();
    found.sort_by_key(|(_, header)| std::cmp::Reverse(header.sequence));
    Ok(found)
}
