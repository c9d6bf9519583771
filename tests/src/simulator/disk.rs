//! A disk with one log: records and batch bodies in the order they came, safe only once a sync has ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use aurigraph_consensus::{BlockRef, EpochCert, EpochStart, Lsn, Record};
use aurigraph_ledger::Hash;
use bytes::Bytes;

use super::coverage::{Coverage, Mark};
use super::rng::Rng;

/// One entry of the log.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Record(Record),
    Body { digest: Hash, own: bool, body: Bytes },
}

/// The epoch and the name of the block in a record, if it holds one.
pub(crate) type LoggedBlock = Option<(u64, BlockRef)>;

/// The log of one validator.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) entries: Vec<Entry>,
    /// The block in each of them: a digest is worth keeping.
    pub(crate) blocks: Vec<LoggedBlock>,
    synced: usize,
    /// So many of the entries have been through their encoding and back.
    read: usize,
    /// How long the log was when a sync was asked for.
    syncing: BTreeMap<Lsn, usize>,
}

impl Disk {
    pub(crate) fn append(&mut self, entry: Entry, block: LoggedBlock) {
        self.entries.push(entry);
        self.blocks.push(block);
    }

    /// The newest epoch that the log has started, and where; none in the first epoch.
    pub(crate) fn epoch_start(&self) -> Option<(usize, Arc<EpochStart>)> {
        self.entries.iter().enumerate().rev().find_map(|(at, entry)| match entry {
            Entry::Record(Record::EpochStart(start)) => Some((at, start.clone())),
            _ => None,
        })
    }

    /// The certificate of an epoch's end, if it is safe.
    pub(crate) fn epoch_cert(&self, epoch: u64) -> Option<Arc<EpochCert>> {
        self.entries[..self.synced].iter().rev().find_map(|entry| match entry {
            Entry::Record(Record::EpochCert(cert)) if cert.epoch == epoch => Some(cert.clone()),
            _ => None,
        })
    }

    /// Replaces what was appended since the last time by what its encoding decodes to: a process that starts finds
    /// bytes, not values. Once for each record, for they do not change.
    ///
    /// # Errors
    /// If a record's encoding does not decode.
    pub(crate) fn read_back(&mut self) -> Result<(), String> {
        for entry in &mut self.entries[self.read..] {
            if let Entry::Record(record) = entry {
                *record = Record::decode(&record.encode()).map_err(|error| error.to_string())?;
            }
        }
        self.read = self.entries.len();
        Ok(())
    }

    /// What another disk holds when this one's files are copied to it.
    pub(crate) fn copy(&self) -> Self {
        let (entries, blocks) = (self.entries.clone(), self.blocks.clone());
        Self { synced: entries.len(), read: self.read, entries, blocks, syncing: BTreeMap::new() }
    }

    fn cut(&mut self, len: usize) {
        self.entries.truncate(len);
        self.blocks.truncate(len);
        self.synced = len;
        self.read = self.read.min(len);
    }

    pub(crate) fn start_sync(&mut self, lsn: Lsn) {
        self.syncing.insert(lsn, self.entries.len());
    }

    pub(crate) fn end_sync(&mut self, lsn: Lsn) {
        let up_to = self.syncing.remove(&lsn).unwrap_or(0);
        self.synced = self.synced.max(up_to);
    }

    /// The disk comes back as it was when it held this part of what it holds now. True if it lost an own block.
    pub(crate) fn go_back(&mut self, permille: usize) -> bool {
        let kept = self.entries.len() * permille / 1_000;
        let lost = self.entries[kept..].iter().any(|entry| matches!(entry, Entry::Record(Record::OwnBlock(_))));
        self.cut(kept);
        lost
    }

    /// A random part of what was not synced survives; the record after it may be torn.
    ///
    /// # Errors
    /// If a torn record decodes.
    pub(crate) fn crash(&mut self, rng: &mut Rng, lies: bool, marks: &mut Coverage) -> Result<(), String> {
        if lies {
            self.synced -= rng.index(self.synced.min(40) + 1);
        }
        let loose = self.entries.len() - self.synced;
        let kept = self.synced + rng.index(loose + 1);
        if kept > self.synced {
            marks.hit(Mark::KeptUnsynced);
        }
        let torn = rng.chance(500);
        if let Some(lost) = self.entries.get(kept) {
            marks.hit(Mark::LostRecords);
            if let Entry::Record(record) = lost
                && torn
            {
                marks.hit(Mark::TornRecord);
                let bytes = record.encode();
                let cut = rng.index(bytes.len());
                if Record::decode(&bytes[..cut]).is_ok() {
                    return Err(format!("{cut} of {} bytes of a record decode", bytes.len()));
                }
            }
        }
        self.cut(kept);
        self.syncing.clear();
        Ok(())
    }
}
