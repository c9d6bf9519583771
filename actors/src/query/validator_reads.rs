//! Validators: what this node has seen of them, and how they stand in the ledger now.

use std::sync::Arc;

use aurigraph_consensus::Status;
use aurigraph_ledger::staking::{StakingTable, Standing, Unbonding};
use aurigraph_ledger::{AccountView, FaultKind, StateView, ValidatorSet};

use super::chain_reads::{ChainReads, Read, storage};
use super::node_reads::{float, mean, rates_now};
use super::sources::EpochWork;
use super::values::{Timestamp, Units};
use super::views::{
    AccountUnbondingView, DelegationView, Page, SlashingEventPage, SlashingEventView, UnbondingView, ValidatorDetail,
    ValidatorMetrics, ValidatorPage, ValidatorStatus, ValidatorView,
};
use crate::published::Published;

/// Unbonding amounts that one answer lists at most, the soonest first.
const MAX_UNBONDING: usize = 1_000;
/// So many epochs are looked at, the running one included, for the newest that had a validator in its set.
const EPOCHS_BACK: usize = 32;

/// The name of a fault's kind, as in events, the audit log and metrics.
#[must_use]
pub const fn fault_name(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Equivocation => "equivocation",
        FaultKind::ConflictingAttestation => "conflictingAttestation",
        FaultKind::ConflictingCommitVote => "conflictingCommitVote",
        FaultKind::Downtime => "downtime",
        FaultKind::WrongAttestation => "wrongAttestation",
    }
}

/// What the commits of an epoch say of one validator's blocks.
struct Presence {
    epoch: u64,
    /// Rounds whose blocks have had their time.
    rounds: u64,
    /// Delivered blocks.
    produced: u64,
}

impl Presence {
    const fn missed(&self) -> u64 {
        self.rounds.saturating_sub(self.produced)
    }

    /// In percent; none before the first round.
    fn uptime(&self) -> Option<f64> {
        (self.rounds > 0).then(|| percent(self.produced.min(self.rounds), self.rounds))
    }
}

/// The newest epochs, the running one first, read from the log as they are asked for.
struct Epochs<'a> {
    reads: &'a ChainReads,
    table: &'a StakingTable,
    known: Vec<Option<(ValidatorSet, EpochWork)>>,
}

impl<'a> Epochs<'a> {
    const fn new(reads: &'a ChainReads, table: &'a StakingTable) -> Self {
        Self { reads, table, known: Vec::new() }
    }

    fn read(&self, back: u64) -> Read<Option<(ValidatorSet, EpochWork)>> {
        let epoch = self.table.epoch().checked_sub(back);
        let Some(set) = epoch.and_then(|epoch| self.table.set_of(epoch)) else { return Ok(None) };
        let epoch = set.epoch;
        // The set of an epoch is known before the epoch starts: the one that runs may be the one before.
        let work = match self.reads.sources().status().map(|status| so_far(&status)) {
            Some(work) if work.epoch == epoch => Some(work),
            _ => self.reads.archive().ended_epoch(epoch).map_err(storage("the end of an epoch"))?,
        };
        Ok(work.map(|work| (set, work)))
    }

    /// What the newest epoch with this validator in its set says of it; if that has had no round yet, the one before.
    fn presence(&mut self, id: u32) -> Read<Option<Presence>> {
        let mut none_yet = None;
        for back in 0..EPOCHS_BACK {
            if self.known.len() <= back {
                let read = self.read(back as u64)?;
                self.known.push(read);
            }
            let Some((set, work)) = &self.known[back] else { continue };
            let Some(index) = set.index_of(id) else { continue };
            let produced = work.delivered.get(usize::from(index)).copied().unwrap_or(0);
            let found = Presence { epoch: work.epoch, rounds: work.rounds, produced };
            if found.rounds > 0 {
                return Ok(Some(found));
            }
            none_yet = none_yet.or(Some(found));
        }
        Ok(none_yet)
    }
}

/// What the running epoch's commits say, up to the newest.
fn so_far(status: &Status) -> EpochWork {
    let rounds = status.last_leader.map_or(0, |leader| u64::from(leader.round).saturating_sub(1));
    EpochWork { epoch: status.epoch.epoch, rounds, delivered: status.delivered.clone() }
}

/// A state with a table of validators.
struct Standings {
    published: Arc<Published>,
    table: StakingTable,
    /// The set that validates now.
    set: ValidatorSet,
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * float(part) / float(whole) }
}

impl ChainReads {
    /// The newest state's table; none before the first block.
    fn standings(&self) -> Option<Standings> {
        let published = self.newest().ok()?;
        let table = published.view.staking()?.clone();
        let set = table.set_of(table.epoch())?;
        Some(Standings { published, table, set })
    }

    /// Everyone who ever was a validator and is not gone with nothing left, by row.
    fn all_validators(&self) -> Read<Vec<ValidatorView>> {
        let Some(Standings { table, set, .. }) = self.standings() else { return Ok(self.listed_validators()) };
        let watch = self.sources().validators.lock().clone();
        let mut epochs = Epochs::new(self, &table);
        let total = set.total_stake();
        let rows = table
            .validators()
            .filter(|(id, row)| !row.leaving || row.stake() > 0 || row.rewards > 0 || set.index_of(*id).is_some());
        rows.map(|(id, row)| {
            let index = set.index_of(id);
            let votes = index.and_then(|at| set.validators.get(usize::from(at))).map_or(0, |member| member.stake);
            let seen = index.map(|index| watch.of(index));
            let presence = epochs.presence(id)?;
            Ok(ValidatorView {
                id: row.name.clone(),
                address: row.operator.0,
                name: row.name.clone(),
                index,
                row: id,
                status: match (row.standing, seen.as_ref().is_some_and(|seen| seen.active)) {
                    (Standing::Jailed | Standing::Removed, _) => ValidatorStatus::Jailed,
                    (Standing::Active, true) => ValidatorStatus::Active,
                    (Standing::Active, false) => ValidatorStatus::Inactive,
                },
                stake: Units(row.stake()),
                votes,
                self_stake: Units(row.self_stake),
                delegated_stake: Units(row.delegated),
                slashed_stake: Units(row.slashed),
                removed: row.standing == Standing::Removed,
                leaving: row.leaving,
                jailed_until_epoch: (row.standing == Standing::Jailed).then_some(row.jailed_until),
                commission: f64::from(row.commission) / 10_000.0,
                uptime: presence.as_ref().and_then(Presence::uptime),
                blocks_produced: presence.as_ref().map(|presence| presence.produced),
                missed_blocks: presence.as_ref().map(Presence::missed),
                uptime_epoch: presence.as_ref().map(|presence| presence.epoch),
                // Faults are forgotten once their stake has been paid out; how often it was slashed is not.
                slashing_events: (faults_of(&table, id).count() as u64).max(row.slashes.into()),
                voting_power: percent(votes, total),
                delegators: row.delegators.into(),
                rewards: Units(row.earned),
                joined_at: Timestamp(row.joined_ms),
                last_active_at: seen.and_then(|seen| seen.last_active),
            })
        })
        .collect()
    }

    /// Genesis' validators, for as long as no state is published.
    fn listed_validators(&self) -> Vec<ValidatorView> {
        let genesis = &self.sources().settings.genesis;
        let total: u64 = genesis.validators.iter().map(|listed| listed.stake).sum();
        let unit = genesis.parameters.staking.stake_unit;
        let view = |(index, listed): (u16, &aurigraph_ledger::GenesisValidator)| ValidatorView {
            id: listed.name.clone(),
            address: listed.operator().0,
            name: listed.name.clone(),
            index: Some(index),
            row: index.into(),
            status: ValidatorStatus::Inactive,
            stake: Units(unit.saturating_mul(listed.stake.into())),
            votes: listed.stake,
            self_stake: Units(unit.saturating_mul(listed.stake.into())),
            delegated_stake: Units(0),
            slashed_stake: Units(0),
            removed: false,
            leaving: false,
            jailed_until_epoch: None,
            commission: 0.0,
            uptime: None,
            blocks_produced: None,
            missed_blocks: None,
            uptime_epoch: None,
            slashing_events: 0,
            voting_power: percent(listed.stake, total),
            delegators: 0,
            rewards: Units(0),
            joined_at: Timestamp(genesis.timestamp_ms),
            last_active_at: None,
        };
        (0_u16..).zip(&genesis.validators).map(view).collect()
    }

    pub(super) fn validators(&self, page: Page) -> Read<ValidatorPage> {
        let all = self.all_validators()?;
        let total = all.len() as u64;
        Ok(ValidatorPage { validators: page.of(all), total, page: page.number, page_size: page.size })
    }

    pub(super) fn validator(&self, id: &str) -> Read<Option<ValidatorDetail>> {
        let Some(validator) = self.all_validators()?.into_iter().find(|validator| validator.id == id) else {
            return Ok(None);
        };
        let (mut recent_slashing_events, mut unbonding_queue) = (Vec::new(), Vec::new());
        if let Some(Standings { published, table, .. }) = self.standings() {
            recent_slashing_events = events(&table);
            recent_slashing_events.retain(|event| event.validator_id == id);
            let mut queue: Vec<_> = table.unbonding_from(validator.row).collect();
            queue.sort_by_key(|(account, entry)| (entry.release, *account));
            let view = |(account, entry): (aurigraph_ledger::AccountIndex, &Unbonding)| UnbondingView {
                account: published.view.account(account).map(|account| account.address.0),
                amount: Units(entry.amount),
                since_epoch: entry.since,
                release_epoch: entry.release,
                released: table.epoch() >= entry.release,
            };
            unbonding_queue = queue.into_iter().take(MAX_UNBONDING).map(view).collect();
        }
        Ok(Some(ValidatorDetail { validator, recent_slashing_events, unbonding_queue }))
    }

    pub(super) fn validator_metrics(&self) -> Read<ValidatorMetrics> {
        let published = self.newest()?;
        let all = self.all_validators()?;
        let count = |status| all.iter().filter(|validator| validator.status == status).count() as u64;
        Ok(ValidatorMetrics {
            total_validators: all.len() as u64,
            active_validators: count(ValidatorStatus::Active),
            jailed_validators: count(ValidatorStatus::Jailed),
            average_block_time: rates_now(self.sources(), &published).block_time,
            average_uptime: mean(all.iter().filter_map(|validator| validator.uptime)),
            total_slashing_events: all.iter().map(|validator| validator.slashing_events).sum(),
            total_stake: Units(all.iter().fold(0, |sum, validator| validator.stake.0.saturating_add(sum))),
        })
    }

    pub(super) fn slashing_events(&self, page: Page) -> SlashingEventPage {
        let events = self.standings().map_or_else(Vec::new, |it| events(&it.table));
        let total = events.len() as u64;
        SlashingEventPage { events: page.of(events), total, page: page.number, page_size: page.size }
    }
}

/// What an account has at stake, as delegator and operator; with whom, as a delegator; and what is on its way back.
pub(super) fn stakes_of(
    view: &StateView,
    account: &AccountView,
) -> (Units, Vec<DelegationView>, Vec<AccountUnbondingView>) {
    let Some(table) = view.staking() else { return (Units(0), Vec::new(), Vec::new()) };
    let name = |id| table.validator(id).map(|row| row.name.clone()).unwrap_or_default();
    let delegations: Vec<_> = table
        .delegations(account.index)
        .map(|(id, _, worth)| DelegationView { validator_id: name(id), amount: Units(worth) })
        .collect();
    let unbonding = table.unbonding(account.index).map(|entry| AccountUnbondingView {
        validator_id: name(entry.validator),
        amount: Units(entry.amount),
        release_epoch: entry.release,
        released: table.epoch() >= entry.release,
    });
    let own = table.validators().filter(|(_, row)| row.operator == account.address).map(|(_, row)| row.self_stake);
    let all = own.chain(delegations.iter().map(|it| it.amount.0)).fold(0, u128::saturating_add);
    (Units(all), delegations, unbonding.collect())
}

/// Newest first.
fn events(table: &StakingTable) -> Vec<SlashingEventView> {
    let mut faults: Vec<_> = table.faults().iter().collect();
    faults.sort_by_key(|(key, penalty)| (std::cmp::Reverse(penalty.height), **key));
    let view = |((epoch, id, kind), penalty): (&(u64, u32, FaultKind), &aurigraph_ledger::staking::Penalty)| {
        SlashingEventView {
            validator_id: table.validator(*id).map(|row| row.name.clone()).unwrap_or_default(),
            height: penalty.height,
            epoch: *epoch,
            reason: fault_name(*kind).to_owned(),
            amount: Units(penalty.taken),
        }
    };
    faults.into_iter().map(view).collect()
}

fn faults_of(table: &StakingTable, id: u32) -> impl Iterator<Item = FaultKind> + '_ {
    table.faults().keys().filter(move |(_, of, _)| *of == id).map(|(_, _, kind)| *kind)
}
