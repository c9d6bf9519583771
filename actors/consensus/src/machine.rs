//! The state machine: one event in, effects out.

use std::collections::{BTreeMap, BTreeSet};

use aurigraph_ledger::hash::Hash;

use crate::commit::genesis_commit;
use crate::committee::{self, Committee};
use crate::config::{Config, ConfigError};
use crate::event::{Effect, Event};
use crate::record::Record;
use crate::snapshot::ConsensusSnapshot;
use crate::status::{Counters, Mode, Status};
use crate::types::{CkptRef, CommitIndex, LeaderSlot, Now};

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
    /// A logged block does not decode or breaks a validity rule.
    #[error("record {position} of the log is no valid block: {reason}")]
    Block {
        /// Which record, counted from 0.
        position: usize,
        /// What is wrong.
        reason: String,
    },
}

/// The state machine.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    committee: Committee,
}

impl Machine {
    /// A machine in a directory that was just initialised for the chain. The effects append `Floor { round: 0 }`.
    ///
    /// # Errors
    /// If the configuration cannot run.
    pub fn new(config: Config, _now: Now) -> Result<(Self, Vec<Effect>), ConfigError> {
        let committee = committee::check(&config)?;
        Ok((Self { config, committee }, Vec::new()))
    }

    /// A machine from its log. `records` are those of the whole log, or those from the position that the snapshot
    /// needs; commit records after `executed_index` must be among them to be delivered again.
    ///
    /// # Errors
    /// If the configuration cannot run, or the log is not one that a machine has written.
    pub fn recover(
        config: Config,
        now: Now,
        _recovery: Recovery,
        _records: impl IntoIterator<Item = Record>,
    ) -> Result<(Self, Vec<Effect>), RecoverError> {
        Ok(Self::new(config, now)?)
    }

    /// Takes one event. Deterministic: the same events at the same times give the same effects.
    pub fn step(&mut self, _now: Now, _event: Event) -> Vec<Effect> {
        Vec::new()
    }

    /// The machine's state at a glance.
    #[must_use]
    pub fn status(&self) -> Status {
        let genesis = genesis_commit(&self.config.chain_id, self.config.epoch, &self.config.epoch_seed);
        Status {
            mode: Mode::Probing,
            round: 1,
            own_round: 0,
            floor: 0,
            last_commit: genesis,
            last_leader: None,
            last_commit_ms: 0,
            last_decided: LeaderSlot::default(),
            quorum_index: 0,
            executed_index: 0,
            gc_round: 0,
            undecided: 0,
            blocks: 0,
            suspended: 0,
            wanted: 0,
            wanted_batches: 0,
            pending_batches: 0,
            t_leader_ms: self.config.pacing.t_leader_initial_ms,
            peers: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// The consensus state between two steps, for a [`Record::Snapshot`] that the driver appends.
    #[must_use]
    pub fn snapshot(&self) -> ConsensusSnapshot {
        ConsensusSnapshot {
            chain_id: self.config.chain_id,
            epoch: self.config.epoch,
            last_commit: None,
            gc_round: 0,
            last_decided: LeaderSlot::default(),
            committed: BTreeSet::new(),
            slots: BTreeMap::new(),
            delivered: BTreeMap::new(),
            own_last: None,
            floor: 0,
            highest_round: 0,
        }
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Stakes and thresholds.
    #[must_use]
    pub const fn committee(&self) -> &Committee {
        &self.committee
    }
}
