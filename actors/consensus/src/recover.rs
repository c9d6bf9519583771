//! From the log back to a running machine (consensus.md 9.2, 9.3).
//!
//! Blocks are replayed in log order through the same acceptance and the same commit rule; what comes out is compared
//! with the logged commits. Signatures and payload are not checked again: the log is this node's own.

use std::collections::BTreeMap;
use std::sync::Arc;

use aurigraph_ledger::hash::Hash;

use crate::block::{Block, SignedCore};
use crate::commit::Commit;
use crate::committer::Committer;
use crate::config::{Config, ConfigError};
use crate::epoch::EpochStart;
use crate::event::{Effect, HaltReason};
use crate::evidence::Statement;
use crate::machine::Machine;
use crate::propose::OwnBlock;
use crate::record::{Record, SIGN_NOTHING};
use crate::snapshot::ConsensusSnapshot;
use crate::status::Doubt;
use crate::store::Store;
use crate::suspend::Incoming;
use crate::types::{BlockRef, CkptRef, CommitIndex, Now, Round};

/// What a machine is recovered from, beside the log's records.
#[derive(Debug, Clone, Default)]
pub struct Recovery {
    /// The newest usable snapshot, if any.
    pub snapshot: Option<ConsensusSnapshot>,
    /// The newest commit that execution has finished; commits after it are delivered again.
    pub executed_index: CommitIndex,
    /// The newest checkpoint that is executed and durable.
    pub checkpoint: Option<CkptRef>,
    /// The directory carries a mark that it was restored from a copy: what was signed last is doubtful.
    pub restored: bool,
}

/// Why a machine cannot be recovered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// The configuration cannot run.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A snapshot of another chain or epoch.
    #[error("the snapshot is of chain {found}, epoch {epoch}; this is chain {expected}")]
    OtherChain {
        /// In the snapshot.
        found: Hash,
        /// In the snapshot.
        epoch: u64,
        /// Of the configuration.
        expected: Hash,
    },
    /// A snapshot whose leader schedule names validators that this committee has not, or is none.
    #[error("the snapshot's leader schedule is none of the committee's {validators} validators: {scores} scores")]
    Schedule {
        /// In the committee.
        validators: usize,
        /// In the snapshot.
        scores: usize,
    },
    /// The log has started a later epoch than the configuration's, or another one of this number.
    #[error("record {position} of the log starts epoch {found}; the configuration is that of epoch {expected}")]
    OtherEpoch {
        /// Which record, counted from 0.
        position: usize,
        /// In the log.
        found: u64,
        /// Of the configuration.
        expected: u64,
    },
    /// A logged block does not decode or breaks a validity rule.
    #[error("record {position} of the log is no valid block: {reason}")]
    Block {
        /// Which record, counted from 0.
        position: usize,
        /// What is wrong.
        reason: String,
    },
}

/// How a logged block came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// It was built here.
    Own,
    /// From a peer, its signature checked.
    Peer,
    /// In a certified range, its signature not checked.
    Range,
}

/// What a replay has learned beside the machine's state.
#[derive(Debug, Default)]
struct Replay {
    /// The log is past the start of the machine's epoch: what stands before it belongs to earlier ones.
    in_epoch: bool,
    /// Digests of logged commits that the blocks have not given yet, and of the leader schedules they name.
    logged: BTreeMap<CommitIndex, (Hash, Hash)>,
    last_logged: CommitIndex,
    /// Commits before the snapshot that must be delivered again.
    earlier: Vec<Arc<Commit>>,
    /// The log says what was signed.
    floor_known: bool,
    /// The newest own block that this log's owner has not signed.
    foreign: Option<BlockRef>,
}

impl Machine {
    /// A machine from its log. `records` are those of the whole log, or those from the position that the snapshot
    /// needs ([`ConsensusSnapshot::can_replay_from`]); commit records after `executed_index` must be among them to be
    /// delivered again. The log is synced, and its torn tail is cut.
    ///
    /// # Errors
    /// If the configuration cannot run, or the log is not one that a machine has written.
    pub fn recover(
        config: Config,
        now: Now,
        recovery: Recovery,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<(Self, Vec<Effect>), RecoverError> {
        let mut machine = Self::empty(config, now)?;
        machine.replaying = true;
        machine.executed_index = recovery.executed_index;
        machine.delivered_before = recovery.executed_index;
        machine.proposer.attestation = recovery.checkpoint.unwrap_or_default();
        machine.is_recovered = true;
        let mut replay = Replay { in_epoch: machine.config.epoch == 0, ..Replay::default() };
        if let Some(snapshot) = recovery.snapshot {
            replay.floor_known = true;
            replay.in_epoch = true;
            machine.restore(snapshot)?;
        }
        let base = machine.linearizer.last_ref().index;
        for (position, record) in records.into_iter().enumerate() {
            machine.replay(&mut replay, base, position, record)?;
        }
        machine.finish_replay(replay, recovery.restored);
        let effects = std::mem::take(&mut machine.out);
        Ok((machine, effects))
    }

    fn restore(&mut self, snapshot: ConsensusSnapshot) -> Result<(), RecoverError> {
        if snapshot.chain_id != self.config.chain_id || snapshot.epoch != self.config.epoch {
            return Err(RecoverError::OtherChain {
                found: snapshot.chain_id,
                epoch: snapshot.epoch,
                expected: self.config.chain_id,
            });
        }
        let (validators, scores) = (self.ctx.committee.len(), snapshot.reputation.scores.len());
        if !self.schedule.restore(&self.ctx.committee, snapshot.reputation) {
            return Err(RecoverError::Schedule { validators, scores });
        }
        self.store = Store::new(snapshot.gc_round);
        self.committer = Committer::new(snapshot.last_decided);
        self.linearizer.restore(
            snapshot.last_commit,
            snapshot.gc_round,
            snapshot.committed,
            snapshot.slots,
            snapshot.delivered,
            (snapshot.proven, snapshot.agreement),
        );
        self.tally = snapshot.tally;
        self.evidence.restore(snapshot.evidence);
        self.anchor = snapshot.anchor;
        self.proposer.floor = snapshot.floor;
        self.proposer.last = snapshot.own_last;
        self.proposer.signed_round = self.proposer.own_round();
        self.note_recent_commit(self.linearizer.last_ref());
        Ok(())
    }

    fn replay(
        &mut self,
        replay: &mut Replay,
        base: CommitIndex,
        position: usize,
        record: Record,
    ) -> Result<(), RecoverError> {
        if let Record::EpochStart(start) = &record {
            return self.replay_start(replay, position, start);
        }
        if !replay.in_epoch {
            return Ok(());
        }
        match record {
            Record::Floor { round } => {
                replay.floor_known = true;
                self.replay_floor(round);
            }
            Record::Block(bytes) => self.replay_block(replay, position, bytes, Source::Peer)?,
            Record::OwnBlock(bytes) => self.replay_block(replay, position, bytes, Source::Own)?,
            Record::CertifiedBlock(bytes) => self.replay_block(replay, position, bytes, Source::Range)?,
            Record::Commit(commit) => self.replay_commit(replay, base, commit),
            Record::EpochCert(cert) => self.replay_cert(cert),
            Record::Evidence(evidence) => self.accuse(*evidence),
            Record::Verdict { proof, round, ok } => self.replay_verdict(proof, round, ok),
            Record::Statement(signed) => self.replay_statement(signed),
            Record::Mode { .. } | Record::Snapshot(_) | Record::EpochStart(_) => {}
        }
        Ok(())
    }

    /// Earlier epochs end here; a later one than the machine's is none of a log that it is recovered from.
    fn replay_start(&mut self, replay: &mut Replay, position: usize, start: &EpochStart) -> Result<(), RecoverError> {
        let expected = self.config.epoch;
        if start.epoch > expected || (start.epoch == expected && start.seed != self.config.epoch_seed) {
            return Err(RecoverError::OtherEpoch { position, found: start.epoch, expected });
        }
        if start.epoch == expected && !replay.in_epoch {
            replay.in_epoch = true;
            replay.floor_known = true;
            self.proposer.floor = start.floor;
            self.evidence.carry(&start.evidence);
        }
        Ok(())
    }

    /// The newest floor holds: a proven one ends the doubt before it.
    fn replay_floor(&mut self, round: Round) {
        let proposer = &mut self.proposer;
        let doubtful = proposer.floor == SIGN_NOTHING || round == SIGN_NOTHING;
        proposer.floor = if doubtful { round } else { proposer.floor.max(round) };
        if round == SIGN_NOTHING {
            proposer.withhold_last();
        }
    }

    /// A statement whose block did not come into the store before the log's next own block.
    fn replay_statement(&mut self, signed: Box<SignedCore>) {
        if self.ctx.check_core(&signed.core).is_ok() {
            let reference = signed.core.reference();
            self.note_statement(&Statement::Core(Arc::from(signed)));
            self.slot_is_logged(&reference);
        }
    }

    fn replay_block(
        &mut self,
        replay: &mut Replay,
        position: usize,
        bytes: Arc<[u8]>,
        source: Source,
    ) -> Result<(), RecoverError> {
        let bad = |reason: String| RecoverError::Block { position, reason };
        let block = Block::decode_shared(&bytes).map_err(|error| bad(error.to_string()))?;
        self.ctx.check(&block).map_err(|error| bad(error.to_string()))?;
        let reference = block.reference();
        let block = Arc::new(block);
        let own = source == Source::Own;
        if own {
            replay.floor_known = true;
            // An own block may say more than the marks of the log do: what was attested once is never taken back.
            if block.core.attestation.seq > self.proposer.attestation.seq {
                self.proposer.attestation = block.core.attestation;
            }
            if !self.linearizer.is_committed(&reference) && reference.round > self.store.gc_round() {
                self.proposer.note_proposed(&block.batches);
            }
            self.proposer.signed_round = self.proposer.signed_round.max(reference.round);
            self.note_reported(&block);
            if reference.round > self.proposer.own_round() || self.proposer.last == Some(reference) {
                self.proposer.last = Some(reference);
                self.proposer.own = Some(OwnBlock { reference, block: block.clone(), bytes: bytes.clone() });
            }
        } else if self.config.own == Some(reference.author) {
            replay.foreign = replay.foreign.max(Some(reference));
        }
        let checked = source != Source::Range;
        self.admit(Incoming { reference, block, bytes, from: reference.author, checked });
        if own {
            self.store.mark_own_cone(reference);
        }
        self.try_commit();
        self.check_replayed(replay);
        Ok(())
    }

    fn replay_commit(&mut self, replay: &mut Replay, base: CommitIndex, commit: Arc<Commit>) {
        let index = commit.header.index;
        replay.last_logged = replay.last_logged.max(index);
        if index > base {
            replay.logged.insert(index, (commit.header.digest(), commit.header.schedule_digest));
            // The blocks before it have not decided it: it was certified then, in the middle of catching up.
            if index == self.linearizer.last_ref().index + 1 && self.store.contains(&commit.header.leader) {
                self.certified = [commit.header.clone()].into();
                self.try_commit();
            }
            self.check_replayed(replay);
            let done = self.executed_index.min(replay.last_logged);
            while self.replayed.front().is_some_and(|commit| commit.header.index <= done) {
                self.replayed.pop_front();
            }
        } else if index > self.executed_index {
            replay.earlier.push(commit);
        }
    }

    /// Compares logged commits with those that the blocks have given.
    fn check_replayed(&mut self, replay: &mut Replay) {
        while let Some(entry) = replay.logged.first_entry() {
            let index = *entry.key();
            let Some(computed) = self.recent_commits.get(&index).copied() else { return };
            let (logged, schedule) = entry.remove();
            if logged != computed {
                let reason = self.logged_schedule_differs(index, schedule);
                self.halt(reason.unwrap_or(HaltReason::LoggedCommitDiffers { index, logged, computed }));
                return;
            }
        }
    }

    /// Whether it is the leader schedule in which a logged commit differs from the one just computed.
    fn logged_schedule_differs(&self, index: CommitIndex, found: Hash) -> Option<HaltReason> {
        let header = &self.replayed.iter().find(|commit| commit.header.index == index)?.header;
        let table = self.schedule.table(header.leader.round);
        (header.schedule_digest != found).then(|| HaltReason::ScheduleDiffers {
            index,
            found,
            computed: header.schedule_digest,
            from_round: table.from_round,
            bad: table.bad.iter().copied().collect(),
            good: table.good.clone(),
        })
    }

    /// Hands out what the replay has given, and goes to work.
    fn finish_replay(&mut self, replay: Replay, restored: bool) {
        self.replaying = false;
        self.certified.clear();
        self.counters = crate::status::Counters::default();
        // Effects of the replay itself (alarms and evidence of long ago) are not news.
        self.out.retain(|effect| matches!(effect, Effect::Halt(_)));
        if self.halted {
            return;
        }
        let doubt = self.doubt_after(&replay, restored);
        let replayed = std::mem::take(&mut self.replayed);
        for commit in replay.earlier.into_iter().chain(replayed) {
            let index = commit.header.index;
            if index > replay.last_logged {
                self.append(Record::Commit(commit.clone()), false);
            }
            if index > self.executed_index {
                self.out.push(Effect::Deliver { commit });
            }
        }
        self.resume_closing();
        self.resume_evidence();
        self.start_probe();
        match doubt {
            None => {}
            Some(doubt) if self.config.own.is_some() => {
                self.proposer.withhold_last();
                self.stop_signing(doubt);
            }
            // No validator in this epoch; it may have been one in a later one, of which this log knows nothing.
            Some(_) => self.doubt_later(),
        }
        self.broadcast_own();
        self.settle();
    }

    /// Keeps the doubt for the epoch in which this node is a validator.
    fn doubt_later(&mut self) {
        if self.proposer.floor != SIGN_NOTHING {
            self.proposer.floor = SIGN_NOTHING;
            self.append(Record::Floor { round: SIGN_NOTHING }, true);
        }
    }

    /// What makes the replayed log doubtful.
    fn doubt_after(&self, replay: &Replay, restored: bool) -> Option<Doubt> {
        let foreign = replay.foreign.filter(|block| block.round > self.proposer.floor);
        if !replay.floor_known {
            Some(Doubt::LogLost)
        } else if restored {
            Some(Doubt::Restored)
        } else if self.proposer.floor == SIGN_NOTHING {
            Some(Doubt::Earlier)
        } else {
            foreign.map(Doubt::OwnBlock)
        }
    }
}
