//! The end of an epoch: rewards for its work, then what was asked for in it, then the next set (consensus.md, 10).
//!
//! All of it is a function of the table, the fees, and what consensus counted; in integers, and what cannot be shared out
//! is carried over.

use std::sync::Arc;

use super::arithmetic::mul_div;
use super::table::{Seat, StakingTable, Standing};
use crate::genesis::{MAX_TOTAL_STAKE, MAX_VALIDATORS};
use crate::module::EpochMoney;
use crate::types::Amount;
use crate::validator_set::EpochEnd;

const WHOLE: Amount = 10_000;
/// Blocks of an epoch beyond this count no more; keeps weights far from overflow.
const MAX_DELIVERED: u64 = u32::MAX as u64;

impl StakingTable {
    /// Closes an epoch; the next one's set is known afterwards.
    pub(super) fn end_epoch(&mut self, end: &EpochEnd, money: &mut EpochMoney<'_>) {
        let epoch = self.epoch;
        let owed = self.share_out(end, money);
        self.collect(epoch, &owed);
        self.turn_over();
        let seats = self.elect();
        self.epoch = epoch + 1;
        money.invalid_signatures.clear();
        money.invalid_signatures.resize(seats.len(), 0);
        let oldest = self.epoch.saturating_sub(self.parameters.unbonding_epochs.into());
        let sets = Arc::make_mut(&mut self.sets);
        sets.insert(self.epoch, seats);
        sets.retain(|epoch, _| *epoch >= oldest);
        if self.faults.keys().any(|(epoch, ..)| *epoch < oldest) {
            Arc::make_mut(&mut self.faults).retain(|(epoch, ..), _| *epoch >= oldest);
        }
    }

    /// Shares the fees, what was carried over and what the epoch mints out by stake and delivered blocks. Who equivocated
    /// gets nothing. If nobody has anything to get, the fees are carried and nothing is minted.
    ///
    /// Gives what each validator of the set owes for invalid signatures.
    fn share_out(&mut self, end: &EpochEnd, money: &mut EpochMoney<'_>) -> Vec<Amount> {
        let seats = self.sets.get(&self.epoch).cloned().unwrap_or_default();
        let weight = |(at, seat): (usize, &Seat)| {
            let removed = self.validator(seat.id).is_none_or(|row| row.standing == Standing::Removed);
            let delivered = end.delivered.get(at).map_or(0, |count| *count.min(&MAX_DELIVERED));
            if removed { 0 } else { Amount::from(seat.stake) * Amount::from(delivered) }
        };
        let weights: Vec<Amount> = seats.iter().enumerate().map(weight).collect();
        let total: Amount = weights.iter().sum();
        let mut left = self.carried.saturating_add(std::mem::take(money.fee_pool));
        if total > 0 {
            let minted = self.parameters.reward_per_epoch.min(money.mintable.saturating_sub(self.minted));
            self.minted = self.minted.saturating_add(minted);
            left = left.saturating_add(minted);
            let pot = left;
            for (seat, weight) in seats.iter().zip(weights) {
                let part = mul_div(pot, weight, total).unwrap_or(0);
                left -= part;
                self.reward(seat.id, part);
            }
        }
        self.carried = left;
        let fee = money.invalid_signature_fee;
        let counts = (0..seats.len()).map(|at| money.invalid_signatures.get(at).copied().unwrap_or(0));
        counts.map(|count| fee.saturating_mul(count.into())).collect()
    }

    /// Gives a validator its part: the delegators theirs by stake, less the commission; the operator the rest.
    fn reward(&mut self, id: u32, part: Amount) {
        let Some(row) = self.row_mut(id) else { return };
        let gross = if row.shares == 0 { 0 } else { mul_div(part, row.delegated, row.stake()).unwrap_or(0) };
        let commission = mul_div(gross, row.commission.into(), WHOLE).unwrap_or(0).min(gross);
        let delegators = gross - commission;
        row.delegated = row.delegated.saturating_add(delegators);
        row.rewards = row.rewards.saturating_add(part - delegators);
        row.earned = row.earned.saturating_add(part);
    }

    /// Takes what validators owe out of their operators' rewards, as far as they go, and carries it.
    fn collect(&mut self, epoch: u64, owed: &[Amount]) {
        for (at, owed) in (0_u16..).zip(owed).filter(|(_, owed)| **owed > 0) {
            let Some(row) = self.row_of(epoch, at).and_then(|id| self.row_mut(id)) else { continue };
            let paid = (*owed).min(row.rewards);
            row.rewards -= paid;
            self.carried = self.carried.saturating_add(paid);
        }
    }

    /// New keys and commissions come into force.
    fn turn_over(&mut self) {
        let changes = |row: &super::Validator| row.next_keys.is_some() || row.next_commission != row.commission;
        let changed: Vec<u32> = self.validators().filter(|(_, row)| changes(row)).map(|(id, _)| id).collect();
        for id in changed {
            if let Some(row) = self.row_mut(id) {
                row.commission = row.next_commission;
                row.keys = row.next_keys.take().unwrap_or(row.keys);
            }
        }
    }

    /// Whether a validator may be of a set.
    fn is_candidate(&self, id: u32) -> bool {
        self.validator(id).is_some_and(|row| {
            row.standing == Standing::Active && !row.leaving && row.self_stake >= self.parameters.min_self_stake
        })
    }

    /// The next set: of the validators that stand well, have not left and have the least own stake, those with the most
    /// stake, older ones first among equals. One unit of stake is one vote; should all together exceed 2^60 votes,
    /// every stake is halved until they do not.
    ///
    /// A set is never empty: if no candidate has a vote, the closing epoch's set stays as it was, whatever is held
    /// against it. Somebody has to order the transaction that makes it better.
    fn elect(&self) -> Vec<Seat> {
        let candidates = self.validators().filter(|(id, _)| self.is_candidate(*id));
        let mut by_stake: Vec<(Amount, u32)> =
            candidates.map(|(id, row)| (row.stake() / self.parameters.stake_unit.max(1), id)).collect();
        by_stake.sort_unstable_by(|(a, x), (b, y)| b.cmp(a).then(x.cmp(y)));
        by_stake.truncate(usize::from(self.parameters.max_validators).min(MAX_VALIDATORS));
        let total = |shift: u32| by_stake.iter().fold(0_u128, |sum, (stake, _)| sum.saturating_add(stake >> shift));
        let shift = (0..128).find(|shift| total(*shift) <= MAX_TOTAL_STAKE.into()).unwrap_or(127);
        let seat = |(stake, id): (Amount, u32)| {
            let stake = u64::try_from(stake >> shift).ok().filter(|stake| *stake > 0)?;
            Some(Seat { id, keys: self.validator(id)?.keys, stake })
        };
        let mut seats: Vec<Seat> = by_stake.iter().copied().filter_map(seat).collect();
        seats.sort_unstable_by_key(|seat| seat.id);
        if seats.is_empty() { self.sets.get(&self.epoch).cloned().unwrap_or_default() } else { seats }
    }
}
