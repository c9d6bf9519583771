//! A correct validator: the state machine, its disk, what it finds in its log, its execution.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aurigraph_consensus::config::{CORE_LEN, SIGNED_CORE_LEN};
use aurigraph_consensus::{
    BatchRef, BlockCore, BlockRef, Commit, Committee, Config, ConsensusSnapshot, Effect, EvidenceState, LeaderSlot,
    Machine, Message, Now, RangeBuilder, Record, Recovery, ServedBlock, SignedCore,
};
use aurigraph_ledger::{Foundation, Hash};
use bytes::Bytes;

use super::Property;
use super::checks::Broken;
use super::coverage::{Coverage, Mark};
use super::disk::{Disk, Entry, LoggedBlock};
use super::executor::Executor;
use super::puppet::is_signed;
use super::rng::Rng;
use super::scenario::Scenario;

/// One validator with its process, if it runs.
pub(crate) struct Node {
    pub(crate) machine: Option<Machine>,
    /// Counts processes: what was meant for an earlier one is lost.
    pub(crate) life: u32,
    pub(crate) disk: Disk,
    /// Where logged things are found.
    pub(crate) bodies: BTreeMap<Hash, (Bytes, bool)>,
    /// And whether their signatures were checked.
    pub(crate) blocks: BTreeMap<BlockRef, (Arc<[u8]>, bool)>,
    pub(crate) commits: BTreeMap<u64, Arc<Commit>>,
    pub(crate) executor: Executor,
    pub(crate) timer_at: u64,
    /// The decided slot at which its leader schedule was checked last.
    pub(crate) seen: Option<LeaderSlot>,
    /// Who was out of the rotation of leaders when it was looked at last.
    pub(crate) out: BTreeSet<u16>,
    /// The process life and epoch that it was last seen to sign in.
    pub(crate) signs_in: Option<(u32, u64)>,
    /// How long its log was when each of its processes started.
    pub(crate) starts: Vec<usize>,
    /// Effects until it crashes, and for how long.
    pub(crate) crash_in: Option<(u32, Option<u64>)>,
    /// The same for the next process, from its start on.
    pub(crate) crash_at_start: Option<(u32, u64)>,
    /// The newest commit delivered in this process life, or executed before it.
    pub(crate) delivered: u64,
    pub(crate) skew_ms: i64,
    pub(crate) jump_ms: i64,
    /// At what time its wall clock stands still.
    pub(crate) frozen_ms: Option<u64>,
    /// How long the log was when the process ended between two events, and what it knew.
    pub(crate) before: Option<(usize, ConsensusSnapshot)>,
    /// An operator has put an empty directory in place of the lost one.
    after_loss: bool,
}

/// The core of an encoded block.
pub(crate) fn core_of(block: &[u8]) -> Option<BlockCore> {
    BlockCore::decode(block.get(..CORE_LEN)?).ok()
}

/// The block that a record holds, found by hashing its core.
fn logged_block(entry: &Entry) -> LoggedBlock {
    let Entry::Record(record) = entry else { return None };
    let core = core_of(record.block()?)?;
    Some((core.epoch, core.reference()))
}

impl Node {
    pub(crate) fn new(genesis: &Foundation, skew_ms: i64) -> Self {
        Self {
            starts: Vec::new(),
            machine: None,
            life: 0,
            disk: Disk::default(),
            bodies: BTreeMap::new(),
            blocks: BTreeMap::new(),
            commits: BTreeMap::new(),
            executor: Executor::new(genesis),
            timer_at: 0,
            seen: None,
            out: BTreeSet::new(),
            signs_in: None,
            crash_in: None,
            crash_at_start: None,
            delivered: 0,
            skew_ms,
            jump_ms: 0,
            frozen_ms: None,
            before: None,
            after_loss: false,
        }
    }

    pub(crate) fn last_commit(&self) -> u64 {
        self.machine.as_ref().map_or(0, |machine| machine.last_commit().index)
    }

    /// Appends to the log and notes where it is found.
    pub(crate) fn append(&mut self, entry: Entry) {
        let block = logged_block(&entry);
        self.index(&entry, block);
        self.disk.append(entry, block);
    }

    fn index(&mut self, entry: &Entry, block: LoggedBlock) {
        match entry {
            Entry::Body { digest, own, body } => {
                self.bodies.insert(*digest, (body.clone(), *own));
            }
            Entry::Record(Record::Commit(commit)) => {
                self.commits.insert(commit.header.index, commit.clone());
            }
            Entry::Record(record) => {
                let checked = !matches!(record, Record::CertifiedBlock(_));
                if let Some(bytes) = record.block()
                    && let Some((_, reference)) = block
                {
                    self.blocks.insert(reference, (bytes.clone(), checked));
                }
            }
        }
    }

    /// The process ends.
    pub(crate) fn crash(&mut self, rng: &mut Rng, lies: bool, marks: &mut Coverage) -> Result<(), String> {
        self.machine = None;
        self.life += 1;
        self.crash_in = None;
        self.timer_at = 0;
        self.disk.crash(rng, lies, marks)
    }

    /// While the process is down, its disk goes back to a part of what it holds; what it had executed is lost.
    pub(crate) fn lose(&mut self, kept_permille: usize, genesis: &Foundation, marks: &mut Coverage) {
        if self.disk.go_back(kept_permille) {
            marks.hit(Mark::OwnBlockLost);
        }
        self.executor = Executor::new(genesis);
        let record = |entry: &Entry| matches!(entry, Entry::Record(_));
        self.after_loss |= !self.disk.entries.iter().any(record);
    }

    /// The process starts from what the disk and the store hold.
    ///
    /// # Errors
    /// If the log or the store cannot be read back.
    pub(crate) fn start(
        &mut self,
        mut config: Config,
        now: Now,
        genesis: &Foundation,
        scenario: &Scenario,
        marks: &mut Coverage,
    ) -> Result<Vec<Effect>, Broken> {
        let broken = |detail: String| (Property::Survival, detail);
        let before = self.before.take();
        (self.bodies, self.blocks, self.commits) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        self.disk.read_back().map_err(broken)?;
        let logged = self.disk.entries.len();
        self.starts.retain(|start| *start < logged);
        self.starts.push(logged);
        let disk = std::mem::take(&mut self.disk);
        disk.entries.iter().zip(&disk.blocks).for_each(|(entry, block)| self.index(entry, *block));
        self.disk = disk;
        if self.executor.stored.is_some() {
            marks.hit(Mark::StoreImported);
        }
        self.executor.restart(genesis).map_err(broken)?;
        self.delivered = self.executor.stored_index();
        let logged = self.commits.last_key_value().map_or(0, |(index, _)| *index);
        if self.delivered > logged {
            marks.hit(Mark::StoreAheadOfLog);
        }
        let began = self.disk.epoch_start();
        if let Some((_, start)) = &began {
            marks.hit(Mark::RestartInLaterEpoch);
            config = config.at(start, scenario.stakes_in(start.epoch).to_vec(), config.own);
        }
        let base = config.base.index;
        if base > self.delivered {
            self.execute_again(base, marks).map_err(broken)?;
        }
        let first = began.as_ref().map_or(0, |(at, _)| *at);
        let snapshots = scenario.snapshot_ms.is_some();
        let (snapshot, from) = if snapshots { self.newest_snapshot(first) } else { (None, first) };
        let mut records = self.records(from.max(first));
        if let Some((at, start)) = began
            && from > at
        {
            records.insert(0, Record::EpochStart(start));
        }
        let (machine, effects) = if records.is_empty() && snapshot.is_none() && !self.after_loss {
            if self.life > 0 {
                marks.hit(Mark::RestartFresh);
            }
            Machine::new(config, now).map_err(|error| broken(error.to_string()))?
        } else {
            if snapshot.is_some() {
                marks.hit(Mark::RestartFromSnapshot);
            }
            let checkpoint = self.executor.stored.as_ref().map(|stored| stored.checkpoint);
            let recovery = Recovery { snapshot, executed_index: self.delivered, checkpoint, restored: false };
            let window = u64::from(config.params.schedule_window);
            let whole = if recovery.snapshot.is_some() { Some((config.clone(), recovery.clone())) } else { None };
            let recover = |config, recovery, records| {
                Machine::recover(config, now, recovery, records).map_err(|error| broken(error.to_string()))
            };
            let recovered = recover(config, recovery, records)?;
            if let Some((config, recovery)) = whole {
                marks.hit(Mark::RecoveredAlike);
                let recovery = Recovery { snapshot: None, ..recovery };
                let (other, _) = recover(config, recovery, self.records(first))?;
                equivalent("the whole log", &recovered.0.snapshot(), &other.snapshot())?;
            }
            if let Some((len, before)) = before
                && len == self.disk.entries.len()
                && before.epoch == recovered.0.config().epoch
            {
                let found = recovered.0.snapshot();
                // Batches that had come and were not told of yet may let it decide more.
                if found.last_decided == before.last_decided {
                    marks.hit(Mark::RecoveredAsBefore);
                    equivalent("the process before", &found, &before)?;
                } else if found.last_decided.position() < before.last_decided.position() {
                    let (found, before) = (found.last_decided, before.last_decided);
                    return Err((Property::Recovery, format!("recovered up to {found:?}, before {before:?}")));
                }
            }
            let index = recovered.0.last_commit().index;
            if index < window {
                marks.hit(Mark::RestartInFirstWindow);
            } else if index.is_multiple_of(window) {
                marks.hit(Mark::RestartAtTurn);
            }
            recovered
        };
        self.machine = Some(machine);
        Ok(effects)
    }

    /// The machine is in a later epoch than the ledger: commits of the log are executed that it no longer delivers.
    fn execute_again(&mut self, base: u64, marks: &mut Coverage) -> Result<(), String> {
        marks.hit(Mark::EpochsExecutedAgain);
        for index in self.delivered + 1..=base {
            let commit = self.commits.get(&index).ok_or_else(|| format!("commit {index} is not in the log"))?;
            self.executor.queue.push_back(commit.clone());
        }
        self.delivered = base;
        Ok(())
    }

    /// The log's records from a place on, which the disk has read back.
    fn records(&self, from: usize) -> Vec<Record> {
        let records = self.disk.entries[from..].iter().filter_map(|entry| match entry {
            Entry::Record(record) => Some(record.clone()),
            Entry::Body { .. } => None,
        });
        records.collect()
    }

    /// The newest snapshot of the epoch that starts at this place, and from where the log is replayed with it.
    fn newest_snapshot(&self, first: usize) -> (Option<ConsensusSnapshot>, usize) {
        let mut found: Vec<(usize, &ConsensusSnapshot)> = Vec::new();
        let mut first_open = None;
        for (at, entry) in self.disk.entries.iter().enumerate().skip(first) {
            match entry {
                Entry::Record(Record::Snapshot(snapshot)) => found.push((at, snapshot)),
                Entry::Record(Record::Commit(commit)) if commit.header.index == self.delivered + 1 => {
                    first_open = first_open.or(Some(at));
                }
                _ => {}
            }
        }
        let Some((_, newest)) = found.pop() else { return (None, first) };
        let earlier = found.iter().rev().find(|(_, earlier)| newest.can_replay_from(earlier));
        let from = earlier.map_or(first, |(at, _)| *at);
        (Some(newest.clone()), from.min(first_open.unwrap_or(from)))
    }

    /// Own batches in the log that no logged commit delivers.
    pub(crate) fn open_batches(&self) -> Vec<BatchRef> {
        let done: BTreeSet<Hash> = self.commits.values().flat_map(|c| c.batches().map(|(_, b)| b.digest)).collect();
        let own = self.bodies.iter().filter(|(digest, (_, own))| *own && !done.contains(digest));
        own.map(|(digest, (body, _))| BatchRef {
            digest: *digest,
            len: u32::try_from(body.len()).expect("small"),
            tx_count: 1,
        })
        .collect()
    }

    /// The answer to a request for blocks that only the log holds.
    pub(crate) fn serve_blocks(&self, request: u64, commit_index: u64, refs: &[BlockRef]) -> Message {
        let good = |(bytes, checked): &&(Arc<[u8]>, bool)| {
            *checked
                || bytes.get(..SIGNED_CORE_LEN).and_then(|b| SignedCore::decode(b).ok()).is_some_and(|s| signed(&s))
        };
        let found = refs.iter().filter_map(|block| self.blocks.get(block)).filter(good);
        let blocks = found.take(40).map(|(bytes, _)| bytes.to_vec()).collect();
        Message::FetchReply { request, commit_index, blocks }
    }

    /// The answer to a request for a range of commits.
    ///
    /// # Errors
    /// If a logged commit names a block that is not in the log.
    pub(crate) fn serve_commits(
        &self,
        request: u64,
        commit_index: u64,
        from: u64,
        count: u16,
        newest: Vec<SignedCore>,
        committee: Committee,
    ) -> Result<Message, String> {
        let mut range = RangeBuilder::new(request, commit_index, count, committee, newest, &signed);
        for index in from.. {
            let Some(commit) = self.commits.get(&index) else { break };
            let block = |reference: &BlockRef| {
                let (bytes, checked) =
                    self.blocks.get(reference).ok_or_else(|| format!("commit {index} names {reference}"))?;
                Ok(ServedBlock { reference: *reference, bytes: bytes.to_vec(), checked: *checked })
            };
            let blocks = commit.blocks.iter().map(|b| block(&b.block)).collect::<Result<Vec<_>, String>>()?;
            if !range.push(commit.header.clone(), blocks) {
                break;
            }
        }
        Ok(Message::CommitRangeReply(range.finish()))
    }
}

/// P17: the same accepted blocks give the same state, whichever way it was come by.
fn equivalent(what: &str, found: &ConsensusSnapshot, other: &ConsensusSnapshot) -> Result<(), Broken> {
    // The own block and what the log is doubted for are those of a process.
    let plain = |it: &ConsensusSnapshot| ConsensusSnapshot {
        own_last: None,
        floor: 0,
        highest_round: 0,
        evidence: EvidenceState::default(),
        ..it.clone()
    };
    if plain(found) == plain(other) {
        return Ok(());
    }
    Err((Property::Recovery, format!("recovered to another state than {what}: {found:?}, not {other:?}")))
}

fn signed(core: &SignedCore) -> bool {
    is_signed(core.core.author, &core.core.digest(), &core.signature)
}
