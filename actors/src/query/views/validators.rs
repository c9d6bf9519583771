//! Validators.

use aurigraph_ledger::Hash;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::query::values::{HexHash, Timestamp, Units};

/// Whether a validator takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ValidatorStatus {
    /// Its blocks are being accepted.
    Active,
    /// Its blocks are not being seen.
    Inactive,
    /// For a fault that a commit proves it is not of the next validator set.
    Jailed,
}

/// A validator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValidatorView {
    /// Its id: its name.
    pub id: String,
    /// The account that acts for it.
    #[schemars(with = "HexHash")]
    pub address: Hash,
    /// Its name.
    pub name: String,
    /// Its position in the running epoch's validator set; none if it is not of it.
    pub index: Option<u16>,
    /// Its row in the ledger's table, which operations name it by: the same for ever.
    pub row: u32,
    /// Whether it takes part.
    pub status: ValidatorStatus,
    /// All that is at stake with it.
    pub stake: Units,
    /// Its votes in the running epoch.
    pub votes: u64,
    /// What its operator has at stake.
    pub self_stake: Units,
    /// What others have at stake with it.
    pub delegated_stake: Units,
    /// What faults have cost it and its delegators.
    pub slashed_stake: Units,
    /// Jailed for an equivocation: it cannot come back under this key.
    pub removed: bool,
    /// It has left, or leaves with this epoch's end.
    pub leaving: bool,
    /// The first epoch in which it may ask back in, if it is jailed and not removed.
    pub jailed_until_epoch: Option<u64>,
    /// Its commission, 0 to 1.
    pub commission: f64,
    /// Percent of an epoch's rounds of which the commits deliver a block of it: the same at every node. The epoch is
    /// `uptimeEpoch`. None for one that was of no set of the last 32 epochs, and before the first round of its first epoch.
    pub uptime: Option<f64>,
    /// Blocks of it that the commits of that epoch deliver.
    pub blocks_produced: Option<u64>,
    /// Rounds of that epoch of which no block of it was delivered.
    pub missed_blocks: Option<u64>,
    /// The running epoch for who validates; for others the last in which they did, as far as the log reaches back.
    pub uptime_epoch: Option<u64>,
    /// How often it was punished, as of the newest block: jailings that cost nothing are forgotten with the unbonding
    /// period, slashes never.
    pub slashing_events: u64,
    /// Its share of the stake in percent.
    pub voting_power: f64,
    /// How many delegate to it.
    pub delegators: u64,
    /// All that it and its delegators have earned.
    pub rewards: Units,
    /// When it joined: genesis time for those of the genesis.
    pub joined_at: Timestamp,
    /// When this node last accepted a block of it; none if never since the start.
    pub last_active_at: Option<Timestamp>,
}

/// Validators by index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValidatorPage {
    /// The validators.
    pub validators: Vec<ValidatorView>,
    /// How many there are.
    pub total: u64,
    /// Which page this is, from 1.
    pub page: u64,
    /// How many a page holds.
    pub page_size: u64,
}

/// A punishment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlashingEventView {
    /// Whose.
    pub validator_id: String,
    /// In which block.
    pub height: u64,
    /// In which epoch the fault lies.
    pub epoch: u64,
    /// What for: `equivocation`, `conflictingAttestation`, `conflictingCommitVote`, `downtime` or `wrongAttestation`.
    pub reason: String,
    /// How much stake it cost: 0 if it jailed alone.
    pub amount: Units,
}

/// Punishments of faults within the unbonding period, newest first: older faults cost nothing any more and are forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlashingEventPage {
    /// The events.
    pub events: Vec<SlashingEventView>,
    /// How many there are.
    pub total: u64,
    /// Which page this is, from 1.
    pub page: u64,
    /// How many a page holds.
    pub page_size: u64,
}

/// Stake on its way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnbondingView {
    /// Whom it goes to.
    #[schemars(with = "Option<HexHash>")]
    pub account: Option<Hash>,
    /// How much.
    pub amount: Units,
    /// The epoch in which it was asked for.
    pub since_epoch: u64,
    /// The first epoch in which it can be withdrawn.
    pub release_epoch: u64,
    /// Whether it can be withdrawn now.
    pub released: bool,
}

/// A validator with its history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValidatorDetail {
    /// The validator.
    #[serde(flatten)]
    pub validator: ValidatorView,
    /// Its punishments of faults within the unbonding period, newest first.
    pub recent_slashing_events: Vec<SlashingEventView>,
    /// Stake on its way out.
    pub unbonding_queue: Vec<UnbondingView>,
}

/// The validators in figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValidatorMetrics {
    /// All.
    pub total_validators: u64,
    /// Those that take part.
    pub active_validators: u64,
    /// Those excluded for an offence.
    pub jailed_validators: u64,
    /// Mean commit time between recent blocks, milliseconds.
    pub average_block_time: Option<f64>,
    /// Mean of the validators' uptimes, percent.
    pub average_uptime: Option<f64>,
    /// Sum of the validators' `slashingEvents`.
    pub total_slashing_events: u64,
    /// All that is at stake with them.
    pub total_stake: Units,
}
