//! Checkpoints of the ledger state: two slots written in turn, each closed by a header that says what must be there.
//!
//! The slot that is being written has no header from before its first page until after its last, each durable in
//! between. So at every moment one slot holds a whole checkpoint, once there has been one.

use std::collections::BTreeMap;

use aurigraph_ledger::hash::DIGEST_LEN;
use aurigraph_ledger::{StateView, StoredPage};
use aurigraph_schema_upgrades::{Change, Medium};
use bytes::Bytes;

use super::blocks::apply_all;
use super::error::StoreError;
use super::layout::{CHECKPOINTS, PAGES, SlotHeader, SlotValue};
use super::types::StoredCheckpoint;
use crate::bounds::storage::{STORE_BATCH_KEYS, STORE_VALUE};

/// The two slots.
const SLOTS: [u8; 2] = [0, 1];
/// Values read at once while a slot is loaded.
const SCAN: usize = 64;

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
}

/// What one checkpoint wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    pub sequence: u64,
    pub values: usize,
    pub bytes: usize,
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
    /// Writes a checkpoint into the slot that does not hold the newest trusted one.
    pub(super) fn write(
        &mut self,
        medium: &dyn Medium,
        view: &StateView,
        consensus: &[u8],
        commit_index: u64,
        distrusted: impl Fn(u64) -> bool,
    ) -> Result<Written, StoreError> {
        let headers = headers(medium)?;
        let sequence = headers.iter().flatten().map(|header| header.sequence).max().unwrap_or(0) + 1;
        let slot = target(&headers, distrusted);
        let known = self.known[usize::from(slot)].take();
        let pages = view.export_pages(known.as_ref().map(|known| &known.view))?;

        medium.apply(CHECKPOINTS, &[Change::remove(&[slot])])?;
        medium.flush()?;
        let mut digests = match known {
            Some(known) => known.digests,
            None => {
                clear(medium, slot)?;
                BTreeMap::new()
            }
        };
        let changes = changes(slot, pages, consensus, &mut digests);
        let written = Written {
            sequence,
            values: changes.len(),
            bytes: changes.iter().filter_map(|change| change.value.as_ref()).map(Vec::len).sum(),
        };
        apply_all(medium, PAGES, changes.into_iter())?;
        medium.flush()?;
        let header = SlotHeader {
            sequence,
            height: view.height(),
            commit_index,
            state_root: view.checkpoint().state_root,
            values: digests.len() as u64,
            digest: whole(&digests),
        };
        medium.apply(CHECKPOINTS, &[Change::put(&[slot], &header.encode())])?;
        medium.flush()?;
        self.known[usize::from(slot)] = Some(Known { view: view.clone(), digests });
        Ok(written)
    }
}

/// The slot to overwrite: one without a trusted header, else the older.
fn target(headers: &[Option<SlotHeader>; 2], distrusted: impl Fn(u64) -> bool) -> u8 {
    let rank = |slot: u8| {
        let header = headers[usize::from(slot)].filter(|header| !distrusted(header.sequence));
        header.map_or(0, |header| header.sequence)
    };
    if rank(SLOTS[0]) <= rank(SLOTS[1]) { SLOTS[0] } else { SLOTS[1] }
}

/// What must change in a slot whose values have these digests; the digests follow.
fn changes(slot: u8, pages: Vec<StoredPage>, consensus: &[u8], digests: &mut BTreeMap<Vec<u8>, Digest>) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut put = |value: SlotValue, content: &[u8]| {
        let key = value.key(slot);
        let (digest, sealed) = seal(&key, content);
        if digests.get(&key) != Some(&digest) {
            digests.insert(key.clone(), digest);
            changes.push(Change { key, value: Some(sealed) });
        }
    };
    for page in pages {
        put(SlotValue::Page(page.key), &page.bytes);
    }
    let mut parts = 0_u32;
    for part in consensus.chunks(STORE_VALUE) {
        put(SlotValue::Consensus(parts), part);
        parts += 1;
    }
    let leftovers = digests.range(SlotValue::Consensus(parts).key(slot)..=SlotValue::Consensus(u32::MAX).key(slot));
    let leftovers: Vec<Vec<u8>> = leftovers.map(|(key, _)| key.clone()).collect();
    for key in leftovers {
        digests.remove(&key);
        changes.push(Change { key, value: None });
    }
    changes
}

fn whole(digests: &BTreeMap<Vec<u8>, Digest>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    digests.iter().for_each(|(key, digest)| fold(&mut hasher, key, digest));
    *hasher.finalize().as_bytes()
}

/// Removes every value of a slot: what an earlier process left there is not known.
fn clear(medium: &dyn Medium, slot: u8) -> Result<(), StoreError> {
    loop {
        let before = if slot == 0 { None } else { Some(vec![slot - 1, u8::MAX, u8::MAX]) };
        let values = medium.scan(PAGES, before.as_deref(), STORE_BATCH_KEYS.min(SCAN))?;
        let own: Vec<Change> = values
            .iter()
            .take_while(|(key, _)| key.first() == Some(&slot))
            .map(|(key, _)| Change::remove(key))
            .collect();
        if own.is_empty() {
            return Ok(());
        }
        medium.apply(PAGES, &own)?;
    }
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
    let SlotHeader { sequence, height, commit_index, state_root, .. } = *header;
    Ok(Some(StoredCheckpoint { sequence, height, commit_index, state_root, consensus: Bytes::from(consensus), pages }))
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
