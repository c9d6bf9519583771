//! What operations of staking do. An operation that fails has no effect: every check stands before the first change.

use super::arithmetic::{mul_div, mul_div_up};
use super::operations::{EVERYTHING, ProvenKeys, Registration, StakingOperation, proof_message};
use super::pages::{MAX_KEYS, MAX_ROWS};
use super::table::{Maintenance, StakingTable, Standing, Unbonding, Validator, key_digest};
use super::{EVENT_JOINED, Staking};
use crate::codec::Writer;
use crate::module::ModuleContext;
use crate::types::{Amount, PUBLIC_KEY_LEN};

/// Amounts that an account can have unbonding at a time.
pub const MAX_UNBONDING: usize = 32;
/// A commission of everything, in basis points.
const MAX_COMMISSION: u16 = 10_000;

/// Why an operation of staking had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum StakingFailure {
    /// The amount or the duration is zero.
    Zero = 0,
    /// No validator has this row.
    UnknownValidator = 1,
    /// The sender is not the validator's operator.
    NotOperator = 2,
    /// The sender has less than the amount.
    InsufficientBalance = 3,
    /// Less than the least stake or delegation is, or would be left.
    TooSmall = 4,
    /// The validator was removed for an equivocation.
    Removed = 5,
    /// The validator has left, or leaves.
    Leaving = 6,
    /// The sender has less at stake there than the amount.
    InsufficientStake = 7,
    /// The sender has too many amounts unbonding.
    TooManyUnbonding = 8,
    /// Nothing has unbonded, and there are no rewards.
    NothingToWithdraw = 9,
    /// A validator has, or had, this name.
    NameTaken = 10,
    /// One of the keys is, or was, a validator's; or both are one.
    KeyUsed = 11,
    /// A key did not sign what it has to.
    BadProof = 12,
    /// The commission is above everything, or too far from what it is.
    CommissionOutOfBounds = 13,
    /// There is one in this epoch already: a rotation, or a maintenance.
    AlreadyThisEpoch = 14,
    /// The validator is not jailed.
    NotJailed = 15,
    /// The jail does not open yet.
    StillJailed = 16,
    /// The maintenance is longer than allowed.
    TooLong = 17,
    /// No row or no place for keys is left.
    TableFull = 18,
    /// All that was delegated is lost; nothing can be added to the shares of nothing.
    PoolEmpty = 19,
}

impl StakingFailure {
    /// Every failure, in the order of their codes.
    pub const ALL: [Self; 20] = [
        Self::Zero,
        Self::UnknownValidator,
        Self::NotOperator,
        Self::InsufficientBalance,
        Self::TooSmall,
        Self::Removed,
        Self::Leaving,
        Self::InsufficientStake,
        Self::TooManyUnbonding,
        Self::NothingToWithdraw,
        Self::NameTaken,
        Self::KeyUsed,
        Self::BadProof,
        Self::CommissionOutOfBounds,
        Self::AlreadyThisEpoch,
        Self::NotJailed,
        Self::StillJailed,
        Self::TooLong,
        Self::TableFull,
        Self::PoolEmpty,
    ];

    /// The failure with a receipt's code.
    #[must_use]
    pub fn of_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// Its name, as interfaces show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zero => "zero_amount",
            Self::UnknownValidator => "unknown_validator",
            Self::NotOperator => "not_operator",
            Self::InsufficientBalance => "insufficient_balance",
            Self::TooSmall => "stake_too_small",
            Self::Removed => "validator_removed",
            Self::Leaving => "validator_leaving",
            Self::InsufficientStake => "insufficient_stake",
            Self::TooManyUnbonding => "too_many_unbonding",
            Self::NothingToWithdraw => "nothing_to_withdraw",
            Self::NameTaken => "name_taken",
            Self::KeyUsed => "key_used",
            Self::BadProof => "bad_proof",
            Self::CommissionOutOfBounds => "commission_out_of_bounds",
            Self::AlreadyThisEpoch => "already_this_epoch",
            Self::NotJailed => "not_jailed",
            Self::StillJailed => "still_jailed",
            Self::TooLong => "too_long",
            Self::TableFull => "table_full",
            Self::PoolEmpty => "pool_empty",
        }
    }
}

type Outcome = Result<(), StakingFailure>;

/// One operation, the table it works on, and whoever sent it.
struct Run<'a> {
    staking: &'a mut Staking,
    context: &'a mut dyn ModuleContext,
}

/// Executes an operation.
///
/// # Errors
/// Why it had no effect.
pub(super) fn execute(staking: &mut Staking, operation: &StakingOperation, context: &mut dyn ModuleContext) -> Outcome {
    let mut run = Run { staking, context };
    match operation {
        StakingOperation::Bond { validator, amount } => run.bond(*validator, *amount),
        StakingOperation::Delegate { validator, amount } => run.delegate(*validator, *amount),
        StakingOperation::Undelegate { validator, amount } => run.undelegate(*validator, *amount),
        StakingOperation::Unbond { validator, amount } => run.unbond(*validator, *amount),
        StakingOperation::Withdraw { validator } => run.withdraw(*validator),
        StakingOperation::Join(registration) => run.join(registration),
        StakingOperation::Leave { validator } => run.leave(*validator),
        StakingOperation::SetCommission { validator, commission } => run.set_commission(*validator, *commission),
        StakingOperation::Rotate { validator, keys } => run.rotate(*validator, keys),
        StakingOperation::Unjail { validator } => run.unjail(*validator),
        StakingOperation::Maintenance { validator, seconds } => run.announce(*validator, *seconds),
    }
}

impl Run<'_> {
    fn table(&self) -> &StakingTable {
        &self.staking.table
    }

    fn row(&self, id: u32) -> Result<&Validator, StakingFailure> {
        self.table().validator(id).ok_or(StakingFailure::UnknownValidator)
    }

    /// The row to change.
    fn change(&mut self, id: u32) -> Result<&mut Validator, StakingFailure> {
        self.staking.change().row_mut(id).ok_or(StakingFailure::UnknownValidator)
    }

    /// The row, if the sender acts for it.
    fn own(&self, id: u32) -> Result<&Validator, StakingFailure> {
        let row = self.row(id)?;
        if row.operator == self.context.sender_address() { Ok(row) } else { Err(StakingFailure::NotOperator) }
    }

    /// The sender pays; nothing is done if it cannot.
    fn pay(&mut self, amount: Amount) -> Outcome {
        let sender = self.context.sender();
        if self.context.debit(sender, amount) { Ok(()) } else { Err(StakingFailure::InsufficientBalance) }
    }

    fn bond(&mut self, id: u32, amount: Amount) -> Outcome {
        stays(self.own(id)?)?;
        positive(amount)?;
        self.pay(amount)?;
        let row = self.change(id)?;
        row.self_stake = row.self_stake.saturating_add(amount);
        Ok(())
    }

    fn delegate(&mut self, id: u32, amount: Amount) -> Outcome {
        let row = self.row(id)?;
        stays(row)?;
        if amount < self.table().parameters.min_delegation {
            return Err(StakingFailure::TooSmall);
        }
        let (shares, account) = (shares_for(row, amount)?, self.context.sender().0);
        let all = row.shares.checked_add(shares).ok_or(StakingFailure::PoolEmpty)?;
        self.pay(amount)?;
        let mine = self.staking.change().bucket_mut(account).delegations.entry((account, id)).or_insert(0);
        let is_new = *mine == 0;
        // At most all shares, whose sum is checked.
        *mine = mine.saturating_add(shares);
        let row = self.change(id)?;
        row.shares = all;
        row.delegated = row.delegated.saturating_add(amount);
        row.delegators = row.delegators.saturating_add(is_new.into());
        Ok(())
    }

    fn undelegate(&mut self, id: u32, amount: Amount) -> Outcome {
        let row = self.row(id)?;
        positive(amount)?;
        let (account, epoch) = (self.context.sender().0, self.table().epoch);
        let held = self.table().bucket(account).delegations.get(&(account, id)).copied();
        let mine = held.ok_or(StakingFailure::InsufficientStake)?;
        let worth = self.table().worth(id, mine);
        let (taken, shares) = match amount {
            EVERYTHING => (worth, mine),
            amount if amount > worth => return Err(StakingFailure::InsufficientStake),
            // Rounded up: who takes in small pieces gains nothing over those who stay.
            amount => (amount, mul_div_up(amount, row.shares, row.delegated).map_or(mine, |shares| shares.min(mine))),
        };
        self.unbonding_room(account, taken)?;
        let table = self.staking.change();
        let delegations = &mut table.bucket_mut(account).delegations;
        let gone = mine == shares;
        if gone {
            delegations.remove(&(account, id));
        } else {
            delegations.insert((account, id), mine - shares);
        }
        let mut dust = 0;
        if let Some(row) = table.row_mut(id) {
            row.delegated = row.delegated.saturating_sub(taken);
            row.shares = row.shares.saturating_sub(shares);
            row.delegators = row.delegators.saturating_sub(gone.into());
            if row.shares == 0 {
                // Roundings that belong to nobody any more.
                dust = std::mem::take(&mut row.delegated);
            }
        }
        table.carried = table.carried.saturating_add(dust);
        table.start_unbonding(account, id, taken, epoch);
        Ok(())
    }

    fn unbond(&mut self, id: u32, amount: Amount) -> Outcome {
        let row = self.own(id)?;
        positive(amount)?;
        let amount = if amount == EVERYTHING { row.self_stake } else { amount };
        let left = row.self_stake.checked_sub(amount).ok_or(StakingFailure::InsufficientStake)?;
        let bound = row.standing == Standing::Active && !row.leaving;
        if bound && left < self.table().parameters.min_self_stake {
            return Err(StakingFailure::TooSmall);
        }
        let (account, epoch) = (self.context.sender().0, self.table().epoch);
        self.unbonding_room(account, amount)?;
        self.change(id)?.self_stake = left;
        self.staking.change().start_unbonding(account, id, amount, epoch);
        Ok(())
    }

    fn unbonding_room(&self, account: u32, amount: Amount) -> Outcome {
        let index = crate::types::AccountIndex(account);
        if amount > 0 && self.table().unbonding(index).count() >= MAX_UNBONDING {
            return Err(StakingFailure::TooManyUnbonding);
        }
        Ok(())
    }

    fn withdraw(&mut self, id: u32) -> Outcome {
        let row = self.row(id)?;
        let (sender, epoch) = (self.context.sender(), self.table().epoch);
        let rewards = if row.operator == self.context.sender_address() { row.rewards } else { 0 };
        let ready = |entry: &Unbonding| entry.validator == id && epoch >= entry.release;
        let account = (sender.0, 0)..=(sender.0, u64::MAX);
        let entries = self.table().bucket(sender.0).unbonding.range(account).filter(|(_, entry)| ready(entry));
        let ready: Vec<((u32, u64), Amount)> = entries.map(|(key, entry)| (*key, entry.amount)).collect();
        let amount = ready.iter().fold(rewards, |sum, (_, amount)| sum.saturating_add(*amount));
        if amount == 0 && ready.is_empty() {
            return Err(StakingFailure::NothingToWithdraw);
        }
        if !self.context.credit(sender, amount) {
            return Err(StakingFailure::InsufficientBalance);
        }
        if !ready.is_empty() {
            let unbonding = &mut self.staking.change().bucket_mut(sender.0).unbonding;
            for (key, _) in &ready {
                unbonding.remove(key);
            }
        }
        if rewards > 0 {
            self.change(id)?.rewards = 0;
        }
        Ok(())
    }

    fn join(&mut self, registration: &Registration) -> Outcome {
        let table = self.table();
        let Registration { name, self_stake, commission, keys } = registration;
        if *commission > MAX_COMMISSION {
            return Err(StakingFailure::CommissionOutOfBounds);
        }
        if *self_stake < table.parameters.min_self_stake {
            return Err(StakingFailure::TooSmall);
        }
        if table.validator_count() >= MAX_ROWS {
            return Err(StakingFailure::TableFull);
        }
        if table.find(name).is_some() {
            return Err(StakingFailure::NameTaken);
        }
        let (sender, operator) = (self.context.sender(), self.context.sender_address());
        // Before the signatures, which cost a hundred times as much as all else.
        if self.context.balance(sender).is_none_or(|balance| balance < *self_stake) {
            return Err(StakingFailure::InsufficientBalance);
        }
        self.check_keys(name, keys)?;
        self.pay(*self_stake)?;
        let joined_ms = self.context.timestamp_ms();
        let table = self.staking.change();
        let keys = table.push_keys(keys.keys.clone());
        let id = table.push_row(Validator {
            name: name.clone(),
            operator,
            keys,
            next_keys: None,
            self_stake: *self_stake,
            delegated: 0,
            shares: 0,
            delegators: 0,
            rewards: 0,
            earned: 0,
            slashed: 0,
            slashes: 0,
            standing: Standing::Active,
            jailed_until: 0,
            leaving: false,
            commission: *commission,
            next_commission: *commission,
            maintenance: None,
            joined_ms,
            joined_epoch: table.epoch,
        });
        let mut w = Writer::with_capacity(4 + name.len());
        w.u32(id).raw(name.as_bytes());
        self.context.emit(EVENT_JOINED, w.into_bytes());
        Ok(())
    }

    /// Keys that were never anybody's, and are held by who registers them.
    fn check_keys(&self, name: &str, proven: &ProvenKeys) -> Outcome {
        let (table, ProvenKeys { keys, consensus_proof, network_proof }) = (self.table(), proven);
        if table.keys.len() >= MAX_KEYS {
            return Err(StakingFailure::TableFull);
        }
        if [&keys.consensus, &keys.network].iter().any(|key| key.as_bytes().len() != PUBLIC_KEY_LEN) {
            return Err(StakingFailure::BadProof);
        }
        let digests = [key_digest(&keys.consensus), key_digest(&keys.network)];
        if digests[0] == digests[1] || digests.iter().any(|digest| table.used_keys.contains(digest)) {
            return Err(StakingFailure::KeyUsed);
        }
        let message = proof_message(&self.context.chain_id(), &self.context.sender_address(), name, keys);
        let holds = |key: &crate::PublicKey, proof: &[u8]| self.context.verify(key.as_bytes(), &message, proof);
        if holds(&keys.consensus, consensus_proof) && holds(&keys.network, network_proof) {
            Ok(())
        } else {
            Err(StakingFailure::BadProof)
        }
    }

    fn leave(&mut self, id: u32) -> Outcome {
        if self.own(id)?.leaving {
            return Err(StakingFailure::Leaving);
        }
        self.change(id)?.leaving = true;
        Ok(())
    }

    fn set_commission(&mut self, id: u32, commission: u16) -> Outcome {
        let row = self.own(id)?;
        stays(row)?;
        let step = row.commission.abs_diff(commission);
        if commission > MAX_COMMISSION || step > self.table().parameters.max_commission_change {
            return Err(StakingFailure::CommissionOutOfBounds);
        }
        self.change(id)?.next_commission = commission;
        Ok(())
    }

    fn rotate(&mut self, id: u32, keys: &ProvenKeys) -> Outcome {
        let row = self.own(id)?;
        stays(row)?;
        if row.next_keys.is_some() {
            return Err(StakingFailure::AlreadyThisEpoch);
        }
        self.check_keys(&row.name, keys)?;
        let at = self.staking.change().push_keys(keys.keys.clone());
        self.change(id)?.next_keys = Some(at);
        Ok(())
    }

    fn unjail(&mut self, id: u32) -> Outcome {
        let row = self.own(id)?;
        stays(row)?;
        if row.standing != Standing::Jailed {
            return Err(StakingFailure::NotJailed);
        }
        if self.table().epoch < row.jailed_until {
            return Err(StakingFailure::StillJailed);
        }
        if row.self_stake < self.table().parameters.min_self_stake {
            return Err(StakingFailure::TooSmall);
        }
        self.change(id)?.standing = Standing::Active;
        Ok(())
    }

    /// An absence counts as announced from the notice on, so that it cannot be announced when it is noticed; and once
    /// an epoch, so that it cannot go on for ever. It excuses nothing but absence.
    fn announce(&mut self, id: u32, seconds: u32) -> Outcome {
        let (row, table) = (self.own(id)?, self.table());
        stays(row)?;
        let (epoch, length) = (table.epoch, u64::from(seconds).saturating_mul(1_000));
        let earlier = row.maintenance;
        positive(length.into())?;
        if length > table.parameters.max_maintenance_ms {
            return Err(StakingFailure::TooLong);
        }
        if earlier.is_some_and(|it| it.epoch == epoch) {
            return Err(StakingFailure::AlreadyThisEpoch);
        }
        let from_ms = self.context.timestamp_ms().saturating_add(table.parameters.maintenance_notice_ms);
        let until_ms = from_ms.saturating_add(length);
        self.change(id)?.maintenance = Some(Maintenance { epoch, from_ms, until_ms });
        Ok(())
    }
}

impl StakingTable {
    fn push_row(&mut self, row: Validator) -> u32 {
        let id = u32::try_from(self.validators.len()).unwrap_or(u32::MAX);
        self.validators.push(row);
        id
    }

    /// Puts an amount on its way back. It voted in the epoch that runs, and stays liable for as long as evidence about that
    /// epoch counts.
    fn start_unbonding(&mut self, account: u32, validator: u32, amount: Amount, since: u64) {
        if amount == 0 {
            return;
        }
        let number = self.next_unbonding;
        self.next_unbonding += 1;
        let release = since.saturating_add(1).saturating_add(self.parameters.unbonding_epochs.into());
        let entry = Unbonding { validator, amount, since, release };
        self.bucket_mut(account).unbonding.insert((account, number), entry);
    }
}

const fn positive(amount: Amount) -> Outcome {
    if amount == 0 { Err(StakingFailure::Zero) } else { Ok(()) }
}

/// Whether a validator can be of a set again.
fn stays(row: &Validator) -> Outcome {
    match (row.standing, row.leaving) {
        (Standing::Removed, _) => Err(StakingFailure::Removed),
        (_, true) => Err(StakingFailure::Leaving),
        _ => Ok(()),
    }
}

/// The shares that an amount buys: at the price of the others', rounded down.
fn shares_for(row: &Validator, amount: Amount) -> Result<Amount, StakingFailure> {
    if row.shares == 0 {
        return Ok(amount);
    }
    if row.delegated == 0 {
        return Err(StakingFailure::PoolEmpty);
    }
    match mul_div(amount, row.shares, row.delegated) {
        Some(0) => Err(StakingFailure::TooSmall),
        Some(shares) => Ok(shares),
        None => Err(StakingFailure::PoolEmpty),
    }
}
