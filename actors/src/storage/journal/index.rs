//! Where each record stands: kept in memory, and beside every sealed segment as a checksummed sidecar.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::Path;

use aurigraph_ledger::Hash;
use aurigraph_ledger::hash::DIGEST_LEN;

use super::error::JournalError;
use crate::storage::record::{Cursor, Record, RecordKind};

/// Where a whole frame stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub segment: u32,
    pub offset: u32,
    pub length: u32,
}

/// One line of a segment's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub kind: RecordKind,
    pub key: Hash,
    pub offset: u32,
    pub length: u32,
}

/// All records of the log. Of records with one kind and key the newest counts.
#[derive(Debug)]
pub(super) struct Index {
    by_key: HashMap<(RecordKind, Hash), Position>,
    /// Commits, marks and snapshots by their index.
    by_index: BTreeMap<(RecordKind, u64), Position>,
    /// The first segment that was not pruned.
    pub first: u32,
    /// Where the next frame will stand.
    pub end: Option<Cursor>,
    /// The records of the segment that `end` is in, in log order: its sidecar in the making.
    pub active: Vec<Entry>,
}

impl Default for Index {
    fn default() -> Self {
        Self { by_key: HashMap::new(), by_index: BTreeMap::new(), first: 1, end: None, active: Vec::new() }
    }
}

const fn is_indexed(kind: RecordKind) -> bool {
    matches!(
        kind,
        RecordKind::Commit
            | RecordKind::Mark
            | RecordKind::ConsensusSnapshot
            | RecordKind::Floor
            | RecordKind::Checkpoint
            | RecordKind::Certificate
            | RecordKind::Divergence
            | RecordKind::EpochCert
            | RecordKind::EpochStart
            | RecordKind::ValidatorSet
    )
}

impl Index {
    pub(super) fn insert(&mut self, segment: u32, entry: &Entry) {
        let position = Position { segment, offset: entry.offset, length: entry.length };
        if is_indexed(entry.kind) {
            self.by_index.insert((entry.kind, Record::key_index(&entry.key)), position);
        } else {
            self.by_key.insert((entry.kind, entry.key), position);
        }
    }

    pub(super) fn get(&self, kind: RecordKind, key: &Hash) -> Option<Position> {
        if is_indexed(kind) {
            self.by_index.get(&(kind, Record::key_index(key))).copied()
        } else {
            self.by_key.get(&(kind, *key)).copied()
        }
    }

    /// Forgets a record, if it stands in this segment.
    pub(super) fn forget(&mut self, segment: u32, entry: &Entry) {
        let here = |at: Option<Position>| at.is_some_and(|at| (at.segment, at.offset) == (segment, entry.offset));
        if !here(self.get(entry.kind, &entry.key)) {
            return;
        }
        if is_indexed(entry.kind) {
            self.by_index.remove(&(entry.kind, Record::key_index(&entry.key)));
        } else {
            self.by_key.remove(&(entry.kind, entry.key));
        }
    }

    /// The lowest index among the records of a kind.
    pub(super) fn lowest(&self, kind: RecordKind) -> Option<u64> {
        self.by_index.range((kind, 0)..=(kind, u64::MAX)).next().map(|((_, index), _)| *index)
    }

    /// The record of a kind with the highest index.
    pub(super) fn highest(&self, kind: RecordKind) -> Option<(u64, Position)> {
        self.by_index.range((kind, 0)..=(kind, u64::MAX)).next_back().map(|((_, index), position)| (*index, *position))
    }
}

const MAGIC: &[u8; 8] = b"AGJIDX01";
const ENTRY: usize = 1 + DIGEST_LEN + 4 + 4;
const CHECKSUM: usize = 32;

/// Writes a sealed segment's sidecar: magic, the segment's size, the entries, BLAKE3 over all of it. Written beside and
/// renamed, so that a crash leaves the whole or none of it.
pub(super) fn write_sidecar(path: &Path, size: u64, entries: &[Entry]) -> Result<(), JournalError> {
    let mut bytes = Vec::with_capacity(MAGIC.len() + 8 + entries.len() * ENTRY + CHECKSUM);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&size.to_le_bytes());
    for entry in entries {
        bytes.push(entry.kind as u8);
        bytes.extend_from_slice(&entry.key.0);
        bytes.extend_from_slice(&entry.offset.to_le_bytes());
        bytes.extend_from_slice(&entry.length.to_le_bytes());
    }
    let checksum = blake3::hash(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    let temporary = path.with_extension("idx.tmp");
    let mut file = File::create(&temporary).map_err(JournalError::io("create", &temporary))?;
    file.write_all(&bytes).map_err(JournalError::io("write", &temporary))?;
    file.sync_all().map_err(JournalError::io("sync", &temporary))?;
    std::fs::rename(&temporary, path).map_err(JournalError::io("rename", path))
}

/// Reads a sidecar. None if it is missing, altered, or of a segment of another size: then it is made anew.
pub(super) fn read_sidecar(path: &Path, size: u64) -> Option<Vec<Entry>> {
    let bytes = std::fs::read(path).ok()?;
    let body = bytes.len().checked_sub(CHECKSUM)?;
    let (body, checksum) = bytes.split_at(body);
    if blake3::hash(body).as_bytes() != checksum {
        return None;
    }
    let rest = body.strip_prefix(MAGIC)?;
    let (stored, rest) = rest.split_first_chunk::<8>()?;
    if u64::from_le_bytes(*stored) != size || rest.len() % ENTRY != 0 {
        return None;
    }
    rest.chunks_exact(ENTRY).map(read_entry).collect()
}

fn read_entry(bytes: &[u8]) -> Option<Entry> {
    let kind = RecordKind::from_byte(*bytes.first()?)?;
    let (key, rest) = bytes[1..].split_first_chunk::<DIGEST_LEN>()?;
    let (offset, rest) = rest.split_first_chunk::<4>()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    Some(Entry { kind, key: Hash(*key), offset: u32::from_le_bytes(*offset), length: u32::from_le_bytes(*length) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: RecordKind, index: u64, offset: u32) -> Entry {
        Entry { kind, key: Record::index_key(index), offset, length: 50 }
    }

    #[test]
    fn a_sidecar_with_any_flipped_bit_or_for_another_size_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("000001.idx");
        let entries = vec![entry(RecordKind::Commit, 3, 0), entry(RecordKind::Batch, 9, 50)];
        write_sidecar(&path, 100, &entries).unwrap();
        assert_eq!(read_sidecar(&path, 100), Some(entries));
        assert_eq!(read_sidecar(&path, 101), None);
        let good = std::fs::read(&path).unwrap();
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            assert_eq!(read_sidecar(&path, 100), None, "byte {byte}");
        }
        assert_eq!(read_sidecar(&directory.path().join("missing.idx"), 100), None);
    }

    #[test]
    fn the_newest_record_of_a_key_counts_and_the_highest_index_is_found_per_kind() {
        let mut index = Index::default();
        index.insert(1, &entry(RecordKind::Commit, 300, 0));
        index.insert(1, &entry(RecordKind::Mark, 900, 50));
        index.insert(2, &entry(RecordKind::Commit, 7, 0));
        index.insert(2, &entry(RecordKind::Batch, 1, 50));
        index.insert(3, &entry(RecordKind::Batch, 1, 0));
        assert_eq!(index.highest(RecordKind::Commit).map(|(commit, _)| commit), Some(300));
        assert_eq!(index.highest(RecordKind::ConsensusSnapshot), None);
        let batch = index.get(RecordKind::Batch, &Record::index_key(1)).unwrap();
        assert_eq!(batch.segment, 3);
    }
}
