//! The redo record of a checkpoint: what it is going to write, in the log before the store is touched.
//!
//! The changes stand in parts, each one record; a seal behind them, synced, says how many there are, which slot they
//! are for and the header that closes it. From then on a crash amid the store's writes costs nothing: the next start
//! writes the parts again, which is the same whether none, some or all were written. The newest seal in the log counts.

use aurigraph_ledger::Hash;
use aurigraph_ledger::codec::{CodecError, Reader, Writer};
use aurigraph_runtime::{Address, CallError};
use aurigraph_schema_upgrades::{Change, Medium};
use bytes::Bytes;

use super::blocks::apply_all;
use super::checkpoint;
use super::error::StoreError;
use super::layout::{BLOCKS, CHECKPOINTS, KEYS, PAGES, SlotHeader, height_key};
use super::pending::{Pending, Syncer};
use crate::bounds::storage::{CHECKPOINT_FLUSH, JOURNAL_PAUSE, JOURNAL_PAUSES, STORE_VALUE};
use crate::storage::journal::{JournalMsg, JournalReader};
use crate::storage::record::{Record, RecordKind};

/// Longest key of a change: that of a page.
const MAX_KEY: usize = 64;
/// Longest value: a page with its digest.
const MAX_VALUE: usize = STORE_VALUE + 4_096;
/// Most changes in one part: a slice is half a megabyte, and a removal takes a few bytes.
const MAX_CHANGES: u64 = 1 << 20;
const MAX_HEADER: usize = 1_024;

/// The changes of one part, by tree.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub keys: Vec<Change>,
    pub pages: Vec<Change>,
}

impl Part {
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.pages.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.keys.iter().chain(&self.pages).filter_map(|change| change.value.as_ref()).map(Vec::len).sum()
    }

    pub fn encode(&self) -> Bytes {
        let mut w = Writer::with_capacity(self.bytes() + 64 * (self.keys.len() + self.pages.len()) + 16);
        for changes in [&self.keys, &self.pages] {
            w.varint(changes.len() as u64);
            for change in changes {
                w.bytes(&change.key);
                match &change.value {
                    Some(value) => w.u8(1).bytes(value),
                    None => w.u8(0),
                };
            }
        }
        w.into_bytes().into()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let mut read = || -> Result<Vec<Change>, CodecError> {
            let count = r.varint_max("changes", MAX_CHANGES)?;
            let change = |r: &mut Reader<'_>| {
                let key = r.bytes("key", MAX_KEY)?.to_vec();
                let value = match r.u8()? {
                    0 => None,
                    1 => Some(r.bytes("value", MAX_VALUE)?.to_vec()),
                    tag => return Err(CodecError::Invalid { what: "option tag", value: tag.into() }),
                };
                Ok(Change { key, value })
            };
            (0..count).map(|_| change(&mut r)).collect()
        };
        let part = Self { keys: read()?, pages: read()? };
        r.finish()?;
        Ok(part)
    }

    /// Writes the changes; writing them again changes nothing.
    pub fn apply(self, medium: &dyn Medium) -> Result<(), StoreError> {
        apply_all(medium, KEYS, self.keys.into_iter())?;
        apply_all(medium, PAGES, self.pages.into_iter())
    }
}

/// Says that a redo record is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seal {
    pub slot: u8,
    pub parts: u32,
    pub header: SlotHeader,
}

impl Seal {
    fn encode(&self) -> Bytes {
        let mut w = Writer::new();
        w.u8(1).u8(self.slot).u32(self.parts).bytes(&self.header.encode());
        w.into_bytes().into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let invalid = |what, value: u8| CodecError::Invalid { what, value: value.into() };
        let mut r = Reader::new(bytes);
        match r.u8()? {
            1 => {}
            version => return Err(invalid("version of a redo record", version)),
        }
        let (slot, parts) = (r.u8()?, r.u32()?);
        let header = SlotHeader::decode(r.bytes("slot header", MAX_HEADER)?);
        let header = header.ok_or_else(|| invalid("slot header", slot))?;
        r.finish()?;
        Ok(Self { slot, parts, header })
    }
}

/// Where redo records stand.
pub(super) trait Redo {
    /// Takes a part; readable when what this returns is done.
    fn put(&mut self, sequence: u64, number: u32, part: &Part) -> Result<Pending, StoreError>;
    /// Makes all parts durable, and says that they are whole.
    fn seal(&mut self, seal: &Seal) -> Result<Pending, StoreError>;
    /// A part; none if it is not there.
    fn part(&self, sequence: u64, number: u32) -> Result<Option<Part>, StoreError>;
    /// The newest seal.
    fn sealed(&self) -> Result<Option<Seal>, StoreError>;
    /// Makes the store durable, on another thread if there is one for it.
    fn sync(&mut self, medium: &dyn Medium) -> Result<Pending, StoreError>;
}

fn sync_by(syncer: Option<&Syncer>, medium: &dyn Medium) -> Result<Pending, StoreError> {
    match syncer {
        Some(syncer) => Ok(syncer.sync()),
        None => medium.flush().map(|()| Pending::Done).map_err(StoreError::from),
    }
}

/// In memory: where nothing is lost by starting again.
#[derive(Default)]
pub(super) struct Memory {
    parts: std::collections::BTreeMap<(u64, u32), Bytes>,
    seal: Option<Seal>,
    syncer: Option<Syncer>,
}

impl Memory {
    /// With syncs by another thread.
    pub fn synced_by(syncer: Option<Syncer>) -> Self {
        Self { syncer, ..Self::default() }
    }
}

impl Redo for Memory {
    fn put(&mut self, sequence: u64, number: u32, part: &Part) -> Result<Pending, StoreError> {
        self.parts.retain(|(of, _), _| *of == sequence);
        self.parts.insert((sequence, number), part.encode());
        Ok(Pending::Done)
    }

    fn seal(&mut self, seal: &Seal) -> Result<Pending, StoreError> {
        self.seal = Some(*seal);
        Ok(Pending::Done)
    }

    fn part(&self, sequence: u64, number: u32) -> Result<Option<Part>, StoreError> {
        self.parts.get(&(sequence, number)).map(|bytes| Part::decode(bytes).map_err(undecodable)).transpose()
    }

    fn sealed(&self) -> Result<Option<Seal>, StoreError> {
        Ok(self.seal)
    }

    fn sync(&mut self, medium: &dyn Medium) -> Result<Pending, StoreError> {
        sync_by(self.syncer.as_ref(), medium)
    }
}

/// In the log. Without the actor's address it can be read alone.
pub(super) struct Logged {
    pub reader: JournalReader,
    pub journal: Option<Address<JournalMsg>>,
    pub syncer: Option<Syncer>,
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Redo(error.to_string())
}

#[allow(clippy::needless_pass_by_value)]
fn undecodable(error: CodecError) -> StoreError {
    failed(format!("a record does not decode: {error}"))
}

impl Logged {
    fn key(sequence: u64, number: u32) -> Hash {
        let mut key = Record::index_key(sequence);
        key.0[8..12].copy_from_slice(&number.to_le_bytes());
        key
    }

    fn append(&self, record: &Record, sync: bool) -> Result<Pending, StoreError> {
        let journal = self.journal.as_ref().ok_or_else(|| failed("it is open for reading alone"))?;
        for _ in 0..JOURNAL_PAUSES {
            let records = vec![record.clone()];
            match journal.ask(|reply| JournalMsg::Append { records, sync, reply: Some(reply) }) {
                Ok(answer) => return Ok(Pending::Journal(answer)),
                Err(CallError::Full(_)) => std::thread::sleep(JOURNAL_PAUSE),
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed("the journal takes nothing"))
    }
}

impl Redo for Logged {
    fn put(&mut self, sequence: u64, number: u32, part: &Part) -> Result<Pending, StoreError> {
        self.append(&Record::new(RecordKind::Redo, Self::key(sequence, number), part.encode()), false)
    }

    fn seal(&mut self, seal: &Seal) -> Result<Pending, StoreError> {
        self.append(&Record::new(RecordKind::RedoSeal, Hash::ZERO, seal.encode()), true)
    }

    fn part(&self, sequence: u64, number: u32) -> Result<Option<Part>, StoreError> {
        let body = self.reader.get(RecordKind::Redo, &Self::key(sequence, number)).map_err(failed)?;
        body.map(|body| Part::decode(&body).map_err(undecodable)).transpose()
    }

    fn sealed(&self) -> Result<Option<Seal>, StoreError> {
        let body = self.reader.get(RecordKind::RedoSeal, &Hash::ZERO).map_err(failed)?;
        body.map(|body| Seal::decode(&body).map_err(undecodable)).transpose()
    }

    fn sync(&mut self, medium: &dyn Medium) -> Result<Pending, StoreError> {
        sync_by(self.syncer.as_ref(), medium)
    }
}

/// Completes the checkpoint whose redo record is the newest, if the store has none as new. Returns its height, if it did.
pub(super) fn complete(medium: &dyn Medium, redo: &dyn Redo) -> Result<Option<u64>, StoreError> {
    let Some(Seal { slot, parts, header }) = redo.sealed()? else { return Ok(None) };
    let headers = checkpoint::headers(medium)?;
    let older = |there: &SlotHeader| there.sequence < header.sequence && there.commit_index < header.commit_index;
    // Another store than the one that it was made for may hold anything; its newest checkpoint is never touched.
    if !headers.iter().flatten().all(older) || slot != checkpoint::target(&headers, |_| false) {
        return Ok(None);
    }
    // A state from which execution goes on, over an index that ends before it, would never be indexed up to there.
    if header.height > 0 && medium.get(BLOCKS, &height_key(header.height))?.is_none() {
        tracing::info!(height = header.height, "a redo record is left alone: the index does not reach its height");
        return Ok(None);
    }
    for number in 0..parts {
        if redo.part(header.sequence, number)?.is_none() {
            return Ok(None);
        }
    }
    medium.apply_each(CHECKPOINTS, &[Change::remove(&[slot])])?;
    medium.flush()?;
    let mut unflushed = 0;
    for number in 0..parts {
        let Some(part) = redo.part(header.sequence, number)? else { return Ok(None) };
        unflushed += part.bytes();
        part.apply(medium)?;
        if unflushed >= CHECKPOINT_FLUSH {
            medium.flush()?;
            unflushed = 0;
        }
    }
    medium.flush()?;
    // A redo record holds what changed: over another content of the slot it leads nowhere.
    if checkpoint::load(medium, slot, &header)?.is_none() {
        tracing::warn!(height = header.height, "a redo record does not lead to its checkpoint: an older one is used");
        return Ok(None);
    }
    medium.apply_each(CHECKPOINTS, &[Change::put(&[slot], &header.encode())])?;
    medium.flush()?;
    Ok(Some(header.height))
}
