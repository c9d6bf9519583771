//! Validators: what this node has seen of them, and how they stand in the ledger at the newest checkpoint.

use aurigraph_ledger::staking::{StakingTable, Standing};
use aurigraph_ledger::{Address, FaultKind};

use super::chain_reads::Read;
use super::node_reads::{NodeReads, float, mean};
use super::values::Timestamp;
use super::views::{
    Page, SlashingEventPage, SlashingEventView, ValidatorDetail, ValidatorMetrics, ValidatorPage, ValidatorStatus,
    ValidatorView,
};

/// The name of a fault's kind, as in events, the audit log and metrics.
#[must_use]
pub const fn fault_name(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Equivocation => "equivocation",
        FaultKind::ConflictingAttestation => "conflictingAttestation",
        FaultKind::ConflictingCommitVote => "conflictingCommitVote",
        FaultKind::Downtime => "downtime",
    }
}

impl NodeReads {
    /// The ledger's table at the newest checkpoint; none as long as it is as genesis made it.
    fn staking(&self) -> Option<StakingTable> {
        let published = self.newest().ok()?;
        match published.proving.as_ref()?.staking() {
            Ok(table) => table,
            Err(error) => {
                tracing::error!(%error, "the staking table of the newest checkpoint cannot be read");
                None
            }
        }
    }

    fn all_validators(&self, table: Option<&StakingTable>) -> Vec<ValidatorView> {
        let genesis = &self.sources.settings.genesis;
        let watch = self.sources.validators.lock().clone();
        let row = |index: u16| table.and_then(|table| table.validators.get(usize::from(index)));
        let stake = |index: u16, listed: u64| row(index).map_or(listed, |row| row.stake);
        let total: u64 = (0_u16..).zip(&genesis.validators).map(|(index, listed)| stake(index, listed.stake)).sum();
        let view = |(index, validator): (u16, &aurigraph_ledger::GenesisValidator)| {
            let (seen, row, stake) = (watch.of(index), row(index), stake(index, validator.stake));
            let out = row.is_some_and(|row| row.standing != Standing::Active);
            ValidatorView {
                id: validator.name.clone(),
                address: Address::of_public_key(validator.consensus_key.as_bytes()).0,
                name: validator.name.clone(),
                index,
                status: match seen.active {
                    _ if out => ValidatorStatus::Jailed,
                    true => ValidatorStatus::Active,
                    false => ValidatorStatus::Inactive,
                },
                stake: stake.to_string(),
                slashed_stake: row.map_or(0, |row| row.slashed).to_string(),
                removed: row.is_some_and(|row| row.standing == Standing::Removed),
                commission: None,
                uptime: watch.uptime(index),
                blocks_produced: Some(seen.led),
                missed_blocks: None,
                slashing_events: table.map_or(0, |table| faults_of(table, index).count() as u64),
                voting_power: if total == 0 { 0.0 } else { 100.0 * float(stake) / float(total) },
                delegators: None,
                rewards: None,
                joined_at: Timestamp(genesis.timestamp_ms),
                last_active_at: seen.last_active,
            }
        };
        (0_u16..).zip(&genesis.validators).map(view).collect()
    }

    pub(super) fn validators(&self, page: Page) -> ValidatorPage {
        let all = self.all_validators(self.staking().as_ref());
        let total = all.len() as u64;
        ValidatorPage { validators: page.of(all), total, page: page.number, page_size: page.size }
    }

    pub(super) fn validator(&self, id: &str) -> Option<ValidatorDetail> {
        let table = self.staking();
        let validator = self.all_validators(table.as_ref()).into_iter().find(|validator| validator.id == id)?;
        let events = table.map_or_else(Vec::new, |table| self.events(&table));
        let recent_slashing_events = events.into_iter().filter(|event| event.validator_id == id).collect();
        Some(ValidatorDetail { validator, recent_slashing_events, unbonding_queue: Vec::new() })
    }

    pub(super) fn validator_metrics(&self) -> Read<ValidatorMetrics> {
        let published = self.newest()?;
        let table = self.staking();
        let all = self.all_validators(table.as_ref());
        let count = |status| all.iter().filter(|validator| validator.status == status).count() as u64;
        let stakes = all.iter().filter_map(|validator| validator.stake.parse::<u128>().ok());
        Ok(ValidatorMetrics {
            total_validators: all.len() as u64,
            active_validators: count(ValidatorStatus::Active),
            jailed_validators: count(ValidatorStatus::Jailed),
            average_block_time: self.rates(&published).block_time,
            average_uptime: mean(all.iter().filter_map(|validator| validator.uptime)),
            total_slashing_events: table.map_or(0, |table| table.faults().len() as u64),
            total_stake: stakes.sum::<u128>().to_string(),
        })
    }

    pub(super) fn slashing_events(&self, page: Page) -> SlashingEventPage {
        let events = self.staking().map_or_else(Vec::new, |table| self.events(&table));
        let total = events.len() as u64;
        SlashingEventPage { events: page.of(events), total, page: page.number, page_size: page.size }
    }

    /// Newest first.
    fn events(&self, table: &StakingTable) -> Vec<SlashingEventView> {
        let mut faults: Vec<_> = table.faults().iter().collect();
        faults.sort_by_key(|(key, penalty)| (std::cmp::Reverse(penalty.height), **key));
        let view =
            |((epoch, validator, kind), penalty): (&(u64, u16, FaultKind), &aurigraph_ledger::staking::Penalty)| {
                SlashingEventView {
                    validator_id: self.sources.validator_name(*epoch, *validator).unwrap_or_default(),
                    height: penalty.height,
                    epoch: *epoch,
                    reason: fault_name(*kind).to_owned(),
                    amount: penalty.taken.to_string(),
                }
            };
        faults.into_iter().map(view).collect()
    }
}

fn faults_of(table: &StakingTable, validator: u16) -> impl Iterator<Item = FaultKind> + '_ {
    table.faults().keys().filter(move |(_, of, _)| *of == validator).map(|(_, _, kind)| *kind)
}
