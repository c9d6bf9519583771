//! What proven faults cost (consensus.md, 8.1).

use std::sync::Arc;

use super::arithmetic::mul_div_up;
use super::table::{Penalty, StakingTable, Standing, Validator};
use crate::codec::{CodecError, Reader, Writer};
use crate::fault::{Fault, FaultKind};
use crate::hash::Hash;
use crate::module::BlockFacts;
use crate::types::Amount;

const WHOLE: Amount = 10_000;

/// A share in basis points, rounded up: no fault is free for a small stake.
fn share_of(amount: Amount, basis_points: u16) -> Amount {
    mul_div_up(amount, basis_points.into(), WHOLE).map_or(amount, |taken| taken.min(amount))
}

/// Whether a maintenance that was announced in time runs.
fn is_excused(row: &Validator, block: &BlockFacts) -> bool {
    row.maintenance.is_some_and(|it| (it.from_ms..=it.until_ms).contains(&block.timestamp_ms))
}

impl StakingTable {
    /// Applies a fault; the row and what it took, or nothing if it does not count: it was counted before, names nobody,
    /// is older than the unbonding period, or a maintenance excuses it.
    ///
    /// There is at most one slash for each (epoch, validator), that of its first fault in delivered order; a further
    /// fault of another kind can only worsen the standing.
    pub(super) fn apply(&mut self, block: &BlockFacts, fault: &Fault) -> Option<(u32, Amount)> {
        let id = self.row_of(fault.epoch, fault.validator)?;
        let key = |kind| (fault.epoch, id, kind);
        let counted = match fault.kind {
            // Once it is out it cannot propose: that is no further fault. Back in, it can be absent again.
            FaultKind::Downtime => {
                self.validator(id).is_none_or(|row| row.standing != Standing::Active || is_excused(row, block))
            }
            kind => self.faults.contains_key(&key(kind)),
        };
        if counted {
            return None;
        }
        let mut slashing = FaultKind::ALL.into_iter().filter(|kind| kind.slashes());
        let slashed_before = slashing.any(|kind| self.faults.contains_key(&key(kind)));
        let share = match fault.kind {
            _ if slashed_before => None,
            FaultKind::Equivocation => Some(self.parameters.equivocation_slash),
            FaultKind::ConflictingAttestation | FaultKind::ConflictingCommitVote => {
                Some(self.parameters.conflict_slash)
            }
            FaultKind::Downtime | FaultKind::WrongAttestation => None,
        };
        let jailed_until = self.epoch.saturating_add(1).saturating_add(self.parameters.jail_epochs.into());
        let row = self.row_mut(id)?;
        row.standing = row.standing.max(Standing::after(fault.kind));
        row.jailed_until = row.jailed_until.max(jailed_until);
        let taken = share.map_or(0, |share| self.slash(id, fault.epoch, share));
        Arc::make_mut(&mut self.faults).insert(key(fault.kind), Penalty { height: block.height, taken });
        Some((id, taken))
    }

    /// Burns a share of all that answers for a validator's faults of an epoch: its own stake, what is delegated to it,
    /// and what has left it since. What left it in that epoch voted in it.
    fn slash(&mut self, id: u32, epoch: u64, share: u16) -> Amount {
        let Some(row) = self.row_mut(id) else { return 0 };
        let (own, delegated) = (share_of(row.self_stake, share), share_of(row.delegated, share));
        row.self_stake -= own;
        row.delegated -= delegated;
        let mut taken = own.saturating_add(delegated);
        for bucket in Arc::make_mut(&mut self.buckets) {
            let answers = |entry: &super::Unbonding| entry.validator == id && entry.since >= epoch;
            if !bucket.unbonding.values().any(answers) {
                continue;
            }
            for entry in Arc::make_mut(bucket).unbonding.values_mut().filter(|entry| answers(entry)) {
                let lost = share_of(entry.amount, share);
                entry.amount -= lost;
                taken = taken.saturating_add(lost);
            }
        }
        if let Some(row) = self.row_mut(id) {
            row.slashed = row.slashed.saturating_add(taken);
            row.slashes = row.slashes.saturating_add(1);
        }
        self.burnt = self.burnt.saturating_add(taken);
        taken
    }
}

/// A fault that counted, as its event tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultEvent {
    /// Whose fault: its row.
    pub validator: u32,
    /// The epoch of the fault.
    pub epoch: u64,
    /// What it did.
    pub kind: FaultKind,
    /// The row of the author of the first delivered block that carries the evidence.
    pub reporter: u32,
    /// The evidence's digest.
    pub digest: Hash,
    /// What it cost.
    pub taken: Amount,
}

impl FaultEvent {
    /// The event's data.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(65);
        w.u32(self.validator).u64(self.epoch).u8(self.kind as u8).u32(self.reporter);
        w.hash(&self.digest).u128(self.taken);
        w.into_bytes()
    }

    /// Reads the data of an event back.
    ///
    /// # Errors
    /// [`CodecError`] if it is not that of a fault.
    pub fn decode(data: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(data);
        let (validator, epoch, kind) = (r.u32()?, r.u64()?, FaultKind::decode(r.u8()?)?);
        let event = Self { validator, epoch, kind, reporter: r.u32()?, digest: r.hash()?, taken: r.u128()? };
        r.finish()?;
        Ok(event)
    }
}
