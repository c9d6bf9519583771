//! Up to where the log may be pruned. Reads the log: called from threads that may block.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::time::{Duration, SystemTime};

use aurigraph_consensus::anchor::ANCHOR_EVERY;
use aurigraph_consensus::{Block, Record as LogRecord};
use aurigraph_ledger::{Hash, LedgerHeader};
use aurigraph_runtime::ActorError;

use crate::bounds::pruning as bounds;
use crate::consensus::{decode_commit, replay_start};
use crate::context::NodeContext;
use crate::pipeline::Mark;
use crate::settings::Retention;
use crate::storage::snapshots::{self, Found};
use crate::storage::{Cursor, JournalReader, Record, RecordKind};

/// Segments before this one may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Horizon {
    /// The first that stays.
    pub segment: u32,
    /// What it is needed for.
    pub held_by: &'static str,
}

impl Horizon {
    fn hold(&mut self, segment: u32, held_by: &'static str) {
        if segment < self.segment {
            *self = Self { segment, held_by };
        }
    }
}

/// What was learned of the log so far: each record is read once.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Of each commit that stays: the first segment that it needs, with its blocks and their batches.
    commits: BTreeMap<u64, u32>,
    /// Blocks that name batches of earlier segments: the block's segment, the batches' first.
    blocks: Vec<(u32, u32)>,
    /// Where the search for such blocks goes on.
    read: Option<Cursor>,
    /// The newest snapshot that was found whole, and its commit.
    whole: Option<(Found, u64)>,
}

impl Known {
    /// Up to where the log may go, or why it cannot be said now.
    pub fn horizon(
        &mut self,
        node: &NodeContext,
        retention: Retention,
        undelivered: &[Hash],
    ) -> Result<Result<Horizon, &'static str>, ActorError> {
        let journal = &node.journal;
        let Some(snapshot) = self.snapshot_commit(node) else { return Ok(Err("there is no snapshot yet")) };
        let Some(stored) = node.store.oldest_checkpoint_commit()? else {
            return Ok(Err("the store holds no checkpoint yet"));
        };
        // Who begins with it goes on ordering from the anchor before it.
        let snapshot = snapshot.saturating_sub(ANCHOR_EVERY);
        let newest = journal.highest_commit().unwrap_or(0);
        let asked_for = newest.saturating_sub(retention.commits);
        let first = snapshot.min(stored).min(asked_for);
        if !self.read_commits(journal, first, newest)? {
            return Ok(Err("the log's commits are still being read"));
        }
        let replay = replay_start(node)?;
        self.read_blocks(journal, replay)?;

        let mut horizon = Horizon { segment: journal.end().segment, held_by: "the end of the log" };
        horizon.hold(replay.segment, "a restart of consensus");
        let needed = self.commits.values().min().copied();
        let by = if first == asked_for {
            "the commits that peers may ask for"
        } else if first == stored {
            "the store's checkpoint"
        } else {
            "the newest snapshot"
        };
        horizon.hold(needed.unwrap_or(horizon.segment), by);
        for (_, batches) in &self.blocks {
            horizon.hold(*batches, "batches of blocks that are not committed");
        }
        for digest in undelivered {
            let batch = journal.position(RecordKind::Batch, digest);
            horizon.hold(batch.map_or(horizon.segment, |at| at.segment), "own batches that are not delivered");
        }
        horizon.hold(aged(journal, retention, horizon.segment)?, "the age and size that are kept");
        Ok(Ok(horizon))
    }

    /// The commit of the newest snapshot that is whole and of which this node's log knows.
    fn snapshot_commit(&mut self, node: &NodeContext) -> Option<u64> {
        let found = snapshots::list(&node.settings.data_dir).ok()?;
        for found in found {
            if let Some((known, commit)) = &self.whole
                && *known == found
            {
                return Some(*commit);
            }
            match snapshots::check(&found.path) {
                Ok(manifest) if is_own(&node.journal, &manifest) => {
                    self.whole = Some((found, manifest.commit_index));
                    return Some(manifest.commit_index);
                }
                Ok(_) => tracing::debug!(path = %found.path.display(), "a snapshot is not of this log"),
                Err(error) => tracing::warn!(%error, "a snapshot is not whole: the log before it stays"),
            }
        }
        self.whole = None;
        None
    }

    /// Looks at the commits from one on that were not looked at yet; false if there are too many for one time.
    fn read_commits(&mut self, journal: &JournalReader, first: u64, newest: u64) -> Result<bool, ActorError> {
        let first = first.max(journal.oldest_commit());
        if self.commits.first_key_value().is_some_and(|(lowest, _)| first < *lowest) {
            // Further back than before: a snapshot or a checkpoint was lost.
            self.commits.clear();
        }
        self.commits = self.commits.split_off(&first);
        let next = self.commits.last_key_value().map_or(first, |(last, _)| last + 1).max(journal.oldest_commit());
        for index in (next..=newest).take(bounds::COMMITS_AT_ONCE) {
            let Some(body) = journal.commit(index)? else { continue };
            let commit = decode_commit(&body)?;
            let key = Record::index_key(index);
            let own = [(RecordKind::Commit, key), (RecordKind::Mark, key)];
            let blocks = commit.blocks.iter().map(|block| block.block.digest);
            let blocks = blocks.flat_map(|digest| [(RecordKind::Block, digest), (RecordKind::OwnBlock, digest)]);
            let batches = commit.batches().map(|(_, batch)| (RecordKind::Batch, batch.digest));
            let all = own.into_iter().chain(blocks).chain(batches);
            let segments = all.filter_map(|(kind, key)| journal.position(kind, &key)).map(|at| at.segment);
            self.commits.insert(index, segments.min().unwrap_or(u32::MAX));
        }
        Ok(next.saturating_add(bounds::COMMITS_AT_ONCE as u64) > newest)
    }

    /// Looks at the blocks that a restart would read, as far as they were not looked at yet.
    fn read_blocks(&mut self, journal: &JournalReader, replay: Cursor) -> Result<(), ActorError> {
        self.blocks.retain(|(block, _)| *block >= replay.segment);
        let from = self.read.map_or(replay, |read| read.max(replay));
        let mut found = Vec::new();
        let end = journal.replay(from, &[RecordKind::Block, RecordKind::OwnBlock], |kind, key, body| {
            let record = LogRecord::decode(&body).ok();
            let block = record.as_ref().and_then(LogRecord::block).and_then(|bytes| Block::decode(bytes).ok());
            let batches = block.iter().flat_map(|block| &block.batches);
            let places = batches.filter_map(|batch| journal.position(RecordKind::Batch, &batch.digest));
            if let (Some(first), Some(at)) = (places.map(|at| at.segment).min(), journal.position(kind, &key))
                && first < at.segment
            {
                found.push((at.segment, first));
            }
            ControlFlow::Continue(())
        })?;
        self.read = Some(end);
        self.blocks.append(&mut found);
        Ok(())
    }
}

/// Whether this node came to the state of a snapshot itself: its log says which block the commit led to.
pub(super) fn is_own(journal: &JournalReader, manifest: &snapshots::Manifest) -> bool {
    let mark = journal.mark(manifest.commit_index).ok().flatten().and_then(|body| Mark::decode(&body).ok());
    let header = manifest.proof.headers.first().and_then(|bytes| LedgerHeader::decode(bytes).ok());
    match (mark, header) {
        (Some(mark), Some(header)) => mark.block == Some((manifest.height, header.hash())),
        _ => false,
    }
}

/// The first segment that stays for its age or for the size of the log.
fn aged(journal: &JournalReader, retention: Retention, before: u32) -> std::io::Result<u32> {
    let (first, last) = (journal.first_segment(), journal.end().segment);
    let files = (first..last).map(|number| journal.segment_file(number)).collect::<std::io::Result<Vec<_>>>()?;
    let mut left: u64 = files.iter().flatten().map(|(bytes, _)| bytes).sum();
    let now = SystemTime::now();
    let mut stays = first;
    for (bytes, written) in files.into_iter().flatten() {
        left -= bytes;
        // A clock that was set back makes everything young, which keeps it.
        let old = now.duration_since(written).unwrap_or_default() >= Duration::from_secs(retention.seconds);
        if stays == before || !old || left < retention.bytes {
            break;
        }
        stays += 1;
    }
    Ok(stays)
}

/// Which records outlive their segments.
pub(crate) fn outlives(journal: &JournalReader) -> Result<impl Fn(RecordKind, &Hash) -> bool + use<>, ActorError> {
    // The checkpoint that ends an epoch leads to the next one's validators.
    let mut ends = HashSet::new();
    for epoch in 0..=journal.highest(RecordKind::EpochCert).unwrap_or(0) {
        let Some(body) = journal.get(RecordKind::EpochCert, &Record::index_key(epoch))? else { continue };
        if let LogRecord::EpochCert(cert) = LogRecord::decode(&body)? {
            ends.insert(Record::index_key(cert.checkpoint.seq));
        }
    }
    // The newest certificate is where a restart begins to attest.
    ends.extend(journal.highest(RecordKind::Certificate).map(Record::index_key));
    let floor = journal.highest(RecordKind::Floor).map(Record::index_key);
    Ok(move |kind, key: &Hash| match kind {
        RecordKind::Mode
        | RecordKind::Divergence
        | RecordKind::EpochCert
        | RecordKind::EpochStart
        | RecordKind::ValidatorSet => true,
        RecordKind::Floor => floor.as_ref() == Some(key),
        RecordKind::Checkpoint | RecordKind::Certificate => ends.contains(key),
        _ => false,
    })
}
