//! Own batches between the log and their delivery: the flow control, and what a restart finds again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::ops::{ControlFlow, Range};

use aurigraph_consensus::{AuthorIdx, BatchRef, Epoch, Record as LogRecord};
use aurigraph_ledger::{Hash, h};
use bytes::Bytes;

use crate::bounds::mempool as bounds;
use crate::mempool::batch::BatchHead;
use crate::mempool::messages::BatchError;
use crate::storage::{Cursor, JournalReader, Record, RecordKind};

/// Own batches that are stored and not delivered, in the order in which they were stored.
#[derive(Debug, Default)]
pub(super) struct OwnBatches {
    by_number: BTreeMap<u64, BatchRef>,
    numbers: HashMap<Hash, u64>,
    bytes: usize,
    next: u64,
}

impl OwnBatches {
    pub fn insert(&mut self, batch: BatchRef) {
        if self.numbers.contains_key(&batch.digest) {
            return;
        }
        self.next += 1;
        self.numbers.insert(batch.digest, self.next);
        self.by_number.insert(self.next, batch);
        self.bytes += batch.len as usize;
    }

    /// True if the batch was one of ours.
    pub fn delivered(&mut self, digest: &Hash) -> bool {
        let removed = self.numbers.remove(digest).and_then(|number| self.by_number.remove(&number));
        self.bytes -= removed.map_or(0, |batch| batch.len as usize);
        removed.is_some()
    }

    /// Why no further batch may be sealed, if so.
    pub fn stopped(&self) -> Option<BatchError> {
        let (count, bytes) = (self.by_number.len(), self.bytes);
        (count >= bounds::OWN_BATCHES || bytes >= bounds::OWN_BYTES).then_some(BatchError::FlowStopped { count, bytes })
    }

    pub fn list(&self) -> Vec<BatchRef> {
        self.by_number.values().copied().collect()
    }

    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Finds own batches in the log that no commit in it delivered: those of the epoch, and those of the one before that were not
/// sealed anew yet. `now` and `before` are the epochs with this node's index in them. Looks back some segments further than
/// the newest consensus snapshot needs, for batches that were waiting when it was taken.
pub(super) fn rebuild(
    journal: &JournalReader,
    now: (Epoch, AuthorIdx),
    before: Option<(Epoch, AuthorIdx)>,
) -> io::Result<(OwnBatches, Vec<BatchRef>)> {
    let from = journal.latest_snapshot()?.map_or(Cursor::START, |(_, cursor)| Cursor {
        segment: cursor.segment.saturating_sub(bounds::OWN_LOOK_BACK).max(1),
        offset: 0,
    });
    let (mut found, mut delivered) = (Vec::new(), HashSet::new());
    // A second of load is a segment: bodies are not read.
    journal.replay_heads(from, RecordKind::Batch, BatchHead::MAX_WITH_COUNT, |digest, head, len| {
        found.extend(reference(digest, head, len));
        ControlFlow::Continue(())
    })?;
    journal.replay(from, &[RecordKind::Commit], |_, _, body| {
        if let Ok(LogRecord::Commit(commit)) = LogRecord::decode(&body) {
            delivered.extend(commit.batches().map(|(_, batch)| batch.digest));
        }
        ControlFlow::Continue(())
    })?;
    let of = |seat: (Epoch, AuthorIdx)| found.iter().filter(move |(head, _)| (head.epoch, head.author) == seat);
    let open = |(_, batch): &&(BatchHead, BatchRef)| !delivered.contains(&batch.digest);
    let again: HashSet<u64> = of(now).map(|(head, _)| head.sequence).collect();
    let mut own = OwnBatches::default();
    of(now).filter(open).for_each(|(_, batch)| own.insert(*batch));
    let stale = before.into_iter().flat_map(of).filter(open).filter(|(head, _)| !again.contains(&head.sequence));
    Ok((own, stale.map(|(_, batch)| *batch).collect()))
}

/// The log holds nothing under the batch kind but what parsed when it was stored.
fn reference(digest: Hash, head: &[u8], len: usize) -> Option<(BatchHead, BatchRef)> {
    let (head, count) = BatchHead::read_with_count(head).ok()?;
    let (len, tx_count) = (u32::try_from(len).ok()?, u32::try_from(count).ok()?);
    Some((head, BatchRef { digest, len, tx_count }))
}

/// The allocator of sequence numbers: a range is in the log, synced, before any of it is used.
#[derive(Debug)]
pub(super) struct Sequences {
    next: u64,
}

/// First byte of the record, so that nobody takes it for a record of consensus.
const SEQUENCES_TAG: u8 = 0xff;

impl Sequences {
    fn key() -> Hash {
        h("journal key", b"batch sequences")
    }

    pub fn read(journal: &JournalReader) -> io::Result<Self> {
        let Some(body) = journal.get(RecordKind::Mode, &Self::key())? else {
            return Ok(Self { next: 0 });
        };
        match body.split_first_chunk::<9>() {
            Some((record, [])) if record[0] == SEQUENCES_TAG => {
                let mut next = [0; 8];
                next.copy_from_slice(&record[1..]);
                Ok(Self { next: u64::from_le_bytes(next) })
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the record of batch sequences has another form")),
        }
    }

    /// Takes the next numbers, and the record that must be synced before they are used.
    pub fn reserve(&mut self, count: u64) -> (Range<u64>, Record) {
        let range = self.next..self.next + count;
        self.next = range.end;
        let mut body = vec![SEQUENCES_TAG];
        body.extend_from_slice(&self.next.to_le_bytes());
        (range, Record::new(RecordKind::Mode, Self::key(), Bytes::from(body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(at: u8, len: u32) -> BatchRef {
        BatchRef { digest: Hash([at; 32]), len, tx_count: 1 }
    }

    #[test]
    fn sealing_stops_at_the_count_and_at_the_bytes_and_goes_on_after_a_delivery() {
        let mut own = OwnBatches::default();
        for at in 0..bounds::OWN_BATCHES {
            assert_eq!(own.stopped(), None);
            own.insert(batch(at as u8, 10));
        }
        assert_eq!(own.stopped(), Some(BatchError::FlowStopped { count: 64, bytes: 640 }));
        assert!(own.delivered(&Hash([5; 32])) && !own.delivered(&Hash([5; 32])));
        assert_eq!(own.stopped(), None);
        assert_eq!((own.len(), own.bytes()), (63, 630));
        let mut own = OwnBatches::default();
        own.insert(batch(1, u32::try_from(bounds::OWN_BYTES).unwrap()));
        assert!(own.stopped().is_some());
    }

    #[test]
    fn undelivered_batches_keep_their_order_and_count_once() {
        let mut own = OwnBatches::default();
        for at in [3, 1, 2, 1] {
            own.insert(batch(at, 1));
        }
        own.delivered(&Hash([1; 32]));
        assert_eq!(own.list(), vec![batch(3, 1), batch(2, 1)]);
    }

    #[test]
    fn a_record_of_sequences_is_no_record_of_consensus() {
        let (range, record) = Sequences { next: 3 }.reserve(4);
        assert_eq!(range, 3..7);
        assert!(LogRecord::decode(&record.body).is_err());
    }
}
