//! The records of the journal and the places where they stand.

use aurigraph_ledger::Hash;
use bytes::Bytes;

/// What a record is. The number is part of the file format: never reused, never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// An accepted DAG block of another validator; key = its digest.
    Block = 1,
    /// An own DAG block with its signature, synced before it leaves the process; key = its digest.
    OwnBlock = 2,
    /// A batch of transactions; key = its digest.
    Batch = 3,
    /// A commit; key = its index.
    Commit = 4,
    /// A commit was executed and persisted; key = its index.
    Mark = 5,
    /// The consensus state at a commit; key = the commit's index.
    ConsensusSnapshot = 6,
    /// Only rounds above this may be signed; key = the round.
    Floor = 7,
    /// Whose directory this is; written once, first.
    Init = 8,
    /// Catch-up starts or ends.
    Mode = 9,
    /// The header of a ledger checkpoint; key = its sequence number.
    Checkpoint = 10,
    /// A checkpoint's certificate; key = the checkpoint's sequence number.
    Certificate = 11,
    /// Execution was found to differ: this node has stopped, and stays so; key = the checkpoint's sequence number.
    Divergence = 12,
    /// The certificate of an epoch's end; key = the epoch.
    EpochCert = 20,
    /// An epoch starts here; key = the epoch.
    EpochStart = 21,
    /// The validators of an epoch, known since the last commit of the one before was executed; key = the epoch.
    ValidatorSet = 22,
    /// A part of what a store checkpoint is going to write; key = the checkpoint's sequence and the part's number.
    Redo = 14,
    /// The redo record before it is whole; always the same key, so that the newest counts.
    RedoSeal = 15,
    /// What the base of a pruned log holds; in no segment.
    Base = 23,
    /// Evidence that was found, verdicts on what blocks carry, and statements that evidence may come of; key = a digest.
    Evidence = 13,
}

impl RecordKind {
    /// Every kind.
    pub const ALL: [Self; 19] = [
        Self::Block,
        Self::OwnBlock,
        Self::Batch,
        Self::Commit,
        Self::Mark,
        Self::ConsensusSnapshot,
        Self::Floor,
        Self::Init,
        Self::Mode,
        Self::Checkpoint,
        Self::Certificate,
        Self::Divergence,
        Self::EpochCert,
        Self::EpochStart,
        Self::ValidatorSet,
        Self::Evidence,
        Self::Base,
        Self::Redo,
        Self::RedoSeal,
    ];

    /// The kind with this number, if there is one.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// One record to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: RecordKind,
    /// What it is found by: a digest, or an index padded by [`Record::index_key`].
    pub key: Hash,
    /// Its content; the journal does not look inside.
    pub body: Bytes,
}

impl Record {
    /// A record that is found by a digest.
    #[must_use]
    pub const fn new(kind: RecordKind, key: Hash, body: Bytes) -> Self {
        Self { kind, key, body }
    }

    /// A record that is found by an index: commits, marks, snapshots.
    #[must_use]
    pub fn indexed(kind: RecordKind, index: u64, body: Bytes) -> Self {
        Self { kind, key: Self::index_key(index), body }
    }

    /// An index as a key: eight bytes little-endian, then zeros.
    #[must_use]
    pub fn index_key(index: u64) -> Hash {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&index.to_le_bytes());
        Hash(key)
    }

    /// The index in a key made by [`Record::index_key`].
    #[must_use]
    pub fn key_index(key: &Hash) -> u64 {
        let mut index = [0; 8];
        index.copy_from_slice(&key.0[..8]);
        u64::from_le_bytes(index)
    }
}

/// A place in the log, in log order. Places never move: nothing rewrites a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    /// The segment's number, from 1.
    pub segment: u32,
    /// The offset of a frame in it.
    pub offset: u64,
}

impl Cursor {
    /// The first record of a log that was never pruned; a replay from here begins with what there is.
    pub const START: Self = Self { segment: 1, offset: 0 };

    /// Twelve bytes, for keeping a place inside a record.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.segment.to_le_bytes());
        bytes[4..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    /// The place in bytes made by [`Cursor::to_bytes`]; none for another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (segment, offset) = bytes.split_first_chunk::<4>()?;
        Some(Self { segment: u32::from_le_bytes(*segment), offset: u64::from_le_bytes(offset.try_into().ok()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_and_places_survive_their_encodings() {
        for index in [0, 1, 255, 1 << 40, u64::MAX] {
            assert_eq!(Record::key_index(&Record::index_key(index)), index);
            let cursor = Cursor { segment: 7, offset: index };
            assert_eq!(Cursor::from_bytes(&cursor.to_bytes()), Some(cursor));
        }
        assert_eq!(Cursor::from_bytes(&[0; 11]), None);
        assert_eq!(Cursor::from_bytes(&[0; 13]), None);
    }

    #[test]
    fn every_kind_is_found_by_its_number_and_no_other_number_is_a_kind() {
        let known: Vec<u8> = (0..=255).filter(|byte| RecordKind::from_byte(*byte).is_some()).collect();
        assert_eq!(known, (1..=15).chain(20..=23).collect::<Vec<u8>>());
    }
}
