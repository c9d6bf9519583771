//! Rebuilding the machine from the journal, and the snapshots that keep that short.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aurigraph_consensus::{
    BatchRef, CkptRef, ConsensusSnapshot, Effect, Epoch, Machine, Now, Record as LogRecord, Recovery,
};
use aurigraph_runtime::{ActorError, Address};
use bytes::Bytes;

use super::{attestation, epochs};
use crate::context::NodeContext;
use crate::members::Members;
use crate::mempool::BatchStoreMsg;
use crate::pipeline::Mark;
use crate::storage::{Cursor, JournalReader, Record, RecordKind};

/// How long a starting validator waits for the actors that it stands on.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How often it looks.
const START_POLL: Duration = Duration::from_millis(5);

/// A machine with the effects that its driver executes first.
pub(super) struct Recovered {
    pub machine: Machine,
    pub members: Arc<Members>,
    pub effects: Vec<Effect>,
    pub snapshots: Snapshots,
}

/// Waits until an actor runs. An error if it does not in time, and at once if it is gone for good.
pub(crate) async fn wait_until_running<M: Send + 'static>(
    address: &Address<M>,
    within: Duration,
) -> Result<(), ActorError> {
    let wait = async {
        while !address.is_running() && !address.is_gone() {
            tokio::time::sleep(START_POLL).await;
        }
    };
    tokio::time::timeout(within, wait)
        .await
        .map_err(|_| format!("{} did not start within {within:?}", address.name()))?;
    if address.is_gone() { Err(format!("{} has stopped for good", address.name()).into()) } else { Ok(()) }
}

/// Own batches that are in the journal and not delivered yet.
pub(super) async fn undelivered(batches: &Address<BatchStoreMsg>) -> Result<Vec<BatchRef>, ActorError> {
    Ok(batches.call(START_TIMEOUT, |reply| BatchStoreMsg::Undelivered { reply }).await?)
}

/// Builds the machine from the journal, on a thread of its own: the log may be long.
pub(super) async fn recover(node: &Arc<NodeContext>, now: Now) -> Result<Recovered, ActorError> {
    let node = Arc::clone(node);
    tokio::task::spawn_blocking(move || read_log(&node, now))
        .await
        .map_err(|error| format!("the recovery thread ended: {error}"))?
}

fn read_log(node: &NodeContext, now: Now) -> Result<Recovered, ActorError> {
    let journal = &node.journal;
    let members = epochs::newest(node)?;
    let snapshots = Snapshots::newest(journal, &members)?;
    let (snapshot, from) = match &snapshots.newest {
        Some(stored) => (Some(stored.snapshot.clone()), stored.replay_from),
        None => (None, start_of(journal, members.epoch)?),
    };
    let marked = newest_mark(journal)?;
    let recovery = Recovery {
        snapshot,
        // The marks', also where the snapshot is ahead of them: what is not executed yet holds payload back. Commits between
        // the two that are not read again here are Order's to find in the log.
        executed_index: marked.as_ref().map_or(0, |mark| mark.commit_index),
        checkpoint: marked.and_then(|mark| mark.checkpoint).map(|(seq, digest)| CkptRef { seq, digest }),
        restored: restored_mark(&node.settings.data_dir).exists(),
    };
    let mut records = Vec::new();
    let mut bad = None;
    journal.replay(
        from,
        &[
            RecordKind::Block,
            RecordKind::OwnBlock,
            RecordKind::Commit,
            RecordKind::Floor,
            RecordKind::Mode,
            RecordKind::Evidence,
            RecordKind::EpochCert,
            RecordKind::EpochStart,
        ],
        |kind, key, body| {
            match LogRecord::decode(&body) {
                Ok(record) => records.push(record),
                // Reserved sequence numbers share the kind; they are the batch store's.
                Err(_) if kind == RecordKind::Mode => {}
                Err(error) => {
                    bad = Some(format!("{kind:?} record {key} does not decode: {error}"));
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        },
    )?;
    if let Some(bad) = bad {
        return Err(bad.into());
    }
    let config = node.consensus_config(&members);
    // The journal refuses a validator's directory that was not initialised by an explicit act, and says whether that act
    // replaced a lost one. Otherwise a log that holds nothing of consensus is a fresh one: an own block is in the log
    // before it leaves the process.
    let fresh = records.is_empty() && snapshots.newest.is_none() && !journal.is_after_loss() && !recovery.restored;
    let (mut machine, effects) =
        if fresh { Machine::new(config, now)? } else { Machine::recover(config, now, recovery, records)? };
    let (certified, divergence) = attestation::recall(node, &members)?;
    machine.resume_checkpoints(certified, divergence);
    let members = node.enter(members);
    Ok(Recovered { machine, members, effects, snapshots })
}

/// The file that an operator leaves in a directory restored from a copy.
pub(super) fn restored_mark(data_dir: &Path) -> PathBuf {
    data_dir.join("RESTORED")
}

fn newest_mark(journal: &JournalReader) -> Result<Option<Mark>, ActorError> {
    let Some(index) = journal.highest_mark() else {
        return Ok(None);
    };
    let Some(body) = journal.mark(index)? else {
        return Ok(None);
    };
    Ok(Some(Mark::decode(&body).map_err(|error| format!("mark {index} does not decode: {error}"))?))
}

/// From where a restart would replay the log.
pub(crate) fn replay_start(node: &NodeContext) -> Result<Cursor, ActorError> {
    let members = epochs::newest(node)?;
    match Snapshots::newest(&node.journal, &members)?.newest {
        Some(stored) => Ok(stored.replay_from),
        None => start_of(&node.journal, members.epoch),
    }
}

/// Where an epoch's records begin.
fn start_of(journal: &JournalReader, epoch: Epoch) -> Result<Cursor, ActorError> {
    if epoch == 0 {
        return Ok(Cursor::START);
    }
    let position = journal.position(RecordKind::EpochStart, &Record::index_key(epoch));
    position.ok_or_else(|| format!("the start of epoch {epoch} is not in the log").into())
}

/// A snapshot record: from which earlier snapshot's place the log is replayed, then the snapshot.
struct Stored {
    index: u64,
    snapshot: ConsensusSnapshot,
    replay_from: Cursor,
}

/// The snapshots of the log that matter for the next one.
pub(super) struct Snapshots {
    newest: Option<Stored>,
    /// Commit index and highest round of earlier snapshots, oldest first; a few, since garbage collection moves on.
    earlier: Vec<(u64, ConsensusSnapshot)>,
    /// Their epoch, and the index of the last commit before it.
    epoch: Epoch,
    base: u64,
}

impl Snapshots {
    /// Before the first snapshot of an epoch.
    pub(super) const fn of_epoch(epoch: Epoch, base: u64) -> Self {
        Self { newest: None, earlier: Vec::new(), epoch, base }
    }

    fn newest(journal: &JournalReader, members: &Members) -> Result<Self, ActorError> {
        let (epoch, base) = (members.epoch, members.start.as_ref().map_or(0, |start| start.base.index));
        let Some((body, _)) = journal.latest_snapshot()? else {
            return Ok(Self::of_epoch(epoch, base));
        };
        let (replay_index, bytes) =
            body.split_first_chunk::<8>().ok_or("a snapshot record is shorter than its head")?;
        let replay_index = u64::from_le_bytes(*replay_index);
        let snapshot =
            ConsensusSnapshot::decode(bytes).map_err(|error| format!("a snapshot does not decode: {error}"))?;
        if snapshot.epoch != epoch {
            return Ok(Self::of_epoch(epoch, base));
        }
        let replay_from = match replay_index {
            0 => start_of(journal, epoch)?,
            index => journal
                .position(RecordKind::ConsensusSnapshot, &Record::index_key(index))
                .ok_or_else(|| format!("snapshot {index} is not in the log"))?,
        };
        let index = snapshot.last_commit.as_ref().map_or(0, |header| header.index);
        let earlier = vec![(index, snapshot.clone())];
        Ok(Self { earlier, newest: Some(Stored { index, snapshot, replay_from }), epoch, base })
    }

    /// The commit index of the newest snapshot; 0 without one.
    pub(super) fn last_index(&self) -> u64 {
        let newest = || self.newest.as_ref().map_or(self.base, |stored| stored.index);
        self.earlier.last().map_or_else(newest, |(index, _)| *index)
    }

    /// Takes a snapshot of the machine as a journal record.
    pub(super) fn take(&mut self, machine: &Machine, commit: u64) -> Record {
        let snapshot = machine.snapshot();
        debug_assert_eq!(snapshot.epoch, self.epoch, "snapshots of one epoch");
        let replay_from = self.earlier.iter().rposition(|(_, earlier)| snapshot.can_replay_from(earlier));
        let replay_index = replay_from.map_or(0, |at| self.earlier[at].0);
        // Older ones can serve no later snapshot better than the one found now.
        if let Some(at) = replay_from {
            self.earlier.drain(..at);
        }
        let mut body = replay_index.to_le_bytes().to_vec();
        body.extend_from_slice(&snapshot.encode());
        self.earlier.push((commit, snapshot));
        Record::indexed(RecordKind::ConsensusSnapshot, commit, Bytes::from(body))
    }
}
