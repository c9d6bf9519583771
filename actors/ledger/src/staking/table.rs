//! The tables of the module: validators, their keys, delegations, what is unbonding, the sets of epochs, faults.
//!
//! Copies share everything and are some reference counts; a change copies what it touches. Only data and what follows
//! from it: operations, faults and ends of epochs have files of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::chunked::Chunked;
use crate::codec::CodecError;
use crate::fault::FaultKind;
use crate::genesis::{Genesis, ProtocolParameters, StakingParameters};
use crate::hash::{Hash, blake3_digest};
use crate::types::{AccountIndex, Address, Amount, PublicKey};
use crate::validator_set::{SetMember, ValidatorSet};

/// Rows of a page of validators.
pub(super) const ROW_PAGE: usize = 64;
/// Pairs of keys of a page: some 42 KB.
pub(super) const KEY_PAGE: usize = 8;
/// Pages that delegations and unbonding amounts are spread over, by the account's index.
pub(super) const BUCKETS: usize = 64;

/// How a validator stands; it never gets better without an operation of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Standing {
    /// Nothing is held against it.
    Active = 0,
    /// Signed conflicting statements, or proposed too little: not of the next set until it asks back in.
    Jailed = 1,
    /// Equivocated: never of a set again.
    Removed = 2,
}

impl Standing {
    pub(super) const fn after(kind: FaultKind) -> Self {
        match kind {
            FaultKind::Equivocation => Self::Removed,
            FaultKind::ConflictingAttestation
            | FaultKind::ConflictingCommitVote
            | FaultKind::Downtime
            | FaultKind::WrongAttestation => Self::Jailed,
        }
    }

    pub(super) const fn decode(byte: u8) -> Result<Self, CodecError> {
        match byte {
            0 => Ok(Self::Active),
            1 => Ok(Self::Jailed),
            2 => Ok(Self::Removed),
            other => Err(CodecError::Invalid { what: "standing of a validator", value: other as u64 }),
        }
    }
}

/// When a validator may be absent without being jailed for it, in commit time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maintenance {
    /// The epoch in which it was announced: one announcement an epoch.
    pub epoch: u64,
    /// From when on.
    pub from_ms: u64,
    /// Until when.
    pub until_ms: u64,
}

/// A validator's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validator {
    /// Its name.
    pub name: String,
    /// The account that acts for it.
    pub operator: Address,
    /// Its keys now: a position in the key table.
    pub(super) keys: u32,
    /// Its keys from the next epoch on, if they change.
    pub(super) next_keys: Option<u32>,
    /// What its operator has at stake.
    pub self_stake: Amount,
    /// What others have at stake with it. Rewards add to it, slashes take from it.
    pub delegated: Amount,
    /// How many shares of that there are, over all delegators.
    pub shares: Amount,
    /// How many delegators there are.
    pub delegators: u32,
    /// The operator's rewards that it has not withdrawn: commission, and what its own stake earned.
    pub rewards: Amount,
    /// All rewards ever: the operator's and the delegators'.
    pub earned: Amount,
    /// All that it and its delegators lost. Nobody gets it.
    pub slashed: Amount,
    /// How often it was slashed.
    pub slashes: u32,
    /// How it stands.
    pub standing: Standing,
    /// The first epoch in which it may ask back in, if it is jailed.
    pub jailed_until: u64,
    /// It has left, or leaves with this epoch's end. For good.
    pub leaving: bool,
    /// The operator's part of its delegators' rewards, in basis points.
    pub commission: u16,
    /// The same from the next epoch on.
    pub next_commission: u16,
    /// The newest maintenance that it announced.
    pub maintenance: Option<Maintenance>,
    /// When it joined, in milliseconds since 1970.
    pub joined_ms: u64,
    /// In which epoch it joined; it can be of the next set at the earliest.
    pub joined_epoch: u64,
}

impl Validator {
    /// All that votes with it.
    #[must_use]
    pub const fn stake(&self) -> Amount {
        self.self_stake.saturating_add(self.delegated)
    }
}

/// The two keys of a validator; no key is ever used again, by nobody and in neither role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatorKeys {
    /// Signs DAG blocks.
    pub consensus: PublicKey,
    /// Identifies the node.
    pub network: PublicKey,
}

/// An amount on its way back to an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unbonding {
    /// Whose stake it was part of: for that one's faults it can still be slashed.
    pub validator: u32,
    /// What is left of it.
    pub amount: Amount,
    /// The epoch in which it was asked for. It voted in that epoch.
    pub since: u64,
    /// The first epoch in which it can be withdrawn.
    pub release: u64,
}

/// Some accounts' delegations and unbonding amounts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Bucket {
    /// Shares, by account and validator. Never 0.
    pub(super) delegations: BTreeMap<(u32, u32), Amount>,
    /// By account and number.
    pub(super) unbonding: BTreeMap<(u32, u64), Unbonding>,
}

/// A place in an epoch's set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) id: u32,
    pub(super) keys: u32,
    pub(super) stake: u64,
}

/// What a fault that counted came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Penalty {
    /// In which block.
    pub height: u64,
    /// What it took; nothing of a validator that was slashed for this epoch before, and for downtime.
    pub taken: Amount,
}

/// By epoch of the fault, row and kind; of downtime the newest.
pub type Faults = BTreeMap<(u64, u32, FaultKind), Penalty>;

/// The whole of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StakingTable {
    pub(super) parameters: StakingParameters,
    /// The epoch of the newest set that is in use, or about to be.
    pub(super) epoch: u64,
    pub(super) minted: Amount,
    pub(super) burnt: Amount,
    /// Rewards that could not be shared out yet.
    pub(super) carried: Amount,
    /// The number of the next amount that unbonds.
    pub(super) next_unbonding: u64,
    pub(super) validators: Chunked<Validator, ROW_PAGE>,
    pub(super) keys: Chunked<ValidatorKeys, KEY_PAGE>,
    /// Digests of all keys of the key table.
    pub(super) used_keys: Arc<BTreeSet<Hash>>,
    pub(super) buckets: Arc<Vec<Arc<Bucket>>>,
    pub(super) sets: Arc<BTreeMap<u64, Vec<Seat>>>,
    pub(super) faults: Arc<Faults>,
}

impl Default for StakingTable {
    fn default() -> Self {
        Self {
            parameters: StakingParameters::default(),
            epoch: 0,
            minted: 0,
            burnt: 0,
            carried: 0,
            next_unbonding: 0,
            validators: Chunked::default(),
            keys: Chunked::default(),
            used_keys: Arc::default(),
            buckets: Arc::new(vec![Arc::default(); BUCKETS]),
            sets: Arc::default(),
            faults: Arc::default(),
        }
    }
}

/// The digest by which a key is known to have been used.
pub(super) fn key_digest(key: &PublicKey) -> Hash {
    blake3_digest(key.as_bytes())
}

impl StakingTable {
    pub(super) fn of_genesis(genesis: &Genesis) -> Self {
        let mut table = Self::with(&genesis.parameters);
        let mut seats = Vec::new();
        for (id, listed) in (0..).zip(&genesis.validators) {
            let pair = ValidatorKeys { consensus: listed.consensus_key.clone(), network: listed.network_key.clone() };
            let keys = table.push_keys(pair);
            table.validators.push(Validator {
                name: listed.name.clone(),
                operator: listed.operator(),
                keys,
                next_keys: None,
                self_stake: Amount::from(listed.stake).saturating_mul(table.parameters.stake_unit),
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
                commission: 0,
                next_commission: 0,
                maintenance: None,
                joined_ms: genesis.timestamp_ms,
                joined_epoch: 0,
            });
            seats.push(Seat { id, keys, stake: listed.stake });
        }
        Arc::make_mut(&mut table.sets).insert(0, seats);
        table
    }

    pub(super) fn with(parameters: &ProtocolParameters) -> Self {
        Self { parameters: parameters.staking, ..Self::default() }
    }

    /// Adds a pair of keys; its position.
    pub(super) fn push_keys(&mut self, pair: ValidatorKeys) -> u32 {
        let at = u32::try_from(self.keys.len()).unwrap_or(u32::MAX);
        let used = Arc::make_mut(&mut self.used_keys);
        used.insert(key_digest(&pair.consensus));
        used.insert(key_digest(&pair.network));
        self.keys.push(pair);
        at
    }

    pub(super) fn bucket_of(account: u32) -> usize {
        account as usize % BUCKETS
    }

    pub(super) fn bucket(&self, account: u32) -> &Bucket {
        &self.buckets[Self::bucket_of(account)]
    }

    pub(super) fn bucket_mut(&mut self, account: u32) -> &mut Bucket {
        Arc::make_mut(&mut Arc::make_mut(&mut self.buckets)[Self::bucket_of(account)])
    }

    pub(super) fn row_mut(&mut self, id: u32) -> Option<&mut Validator> {
        self.validators.get_mut(id as usize)
    }

    /// The genesis' parameters of staking.
    #[must_use]
    pub const fn parameters(&self) -> &StakingParameters {
        &self.parameters
    }

    /// The epoch that runs; after the last commit of one, the next.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many rows there are.
    #[must_use]
    pub fn validator_count(&self) -> usize {
        self.validators.len()
    }

    /// A validator by its row.
    #[must_use]
    pub fn validator(&self, id: u32) -> Option<&Validator> {
        self.validators.get(id as usize)
    }

    /// All validators that ever were, with their rows.
    pub fn validators(&self) -> impl Iterator<Item = (u32, &Validator)> {
        (0..).zip(self.validators.iter())
    }

    /// The row of a name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<u32> {
        self.validators().find(|(_, row)| row.name == name).map(|(id, _)| id)
    }

    /// A validator's keys as of the epoch that runs.
    #[must_use]
    pub fn keys_of(&self, id: u32) -> Option<&ValidatorKeys> {
        self.keys.get(self.validator(id)?.keys as usize)
    }

    /// The faults that counted and are remembered: those for which evidence still counts.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The set of an epoch: the running one, the next once its set is fixed, and those before it for as long as their
    /// faults count.
    #[must_use]
    pub fn set_of(&self, epoch: u64) -> Option<ValidatorSet> {
        let member = |seat: &Seat| {
            let (row, keys) = (self.validator(seat.id)?, self.keys.get(seat.keys as usize)?);
            Some(SetMember {
                id: seat.id,
                name: row.name.clone(),
                address: row.operator,
                consensus_key: keys.consensus.clone(),
                network_key: keys.network.clone(),
                stake: seat.stake,
            })
        };
        let validators = self.sets.get(&epoch)?.iter().map(member).collect::<Option<_>>()?;
        Some(ValidatorSet { epoch, validators })
    }

    /// The epochs whose sets are known.
    #[must_use]
    pub fn known_sets(&self) -> RangeInclusive<u64> {
        let first = self.sets.first_key_value().map_or(0, |(epoch, _)| *epoch);
        first..=self.sets.last_key_value().map_or(first, |(epoch, _)| *epoch)
    }

    /// The row of an index in an epoch's set, if that set is known.
    #[must_use]
    pub fn row_of(&self, epoch: u64, index: u16) -> Option<u32> {
        self.sets.get(&epoch)?.get(usize::from(index)).map(|seat| seat.id)
    }

    /// How many validators an epoch's set has, if it is known.
    pub(crate) fn set_len(&self, epoch: u64) -> Option<usize> {
        self.sets.get(&epoch).map(Vec::len)
    }

    /// What an account has with validators: the row, its shares, and what they are worth now, rounded down.
    pub fn delegations(&self, account: AccountIndex) -> impl Iterator<Item = (u32, Amount, Amount)> + '_ {
        let mine = self.bucket(account.0).delegations.range((account.0, 0)..=(account.0, u32::MAX));
        mine.map(|((_, id), shares)| (*id, *shares, self.worth(*id, *shares)))
    }

    pub(super) fn worth(&self, id: u32, shares: Amount) -> Amount {
        let row = self.validator(id);
        row.and_then(|row| super::arithmetic::mul_div(shares, row.delegated, row.shares)).unwrap_or(0)
    }

    /// The amounts on their way back to an account, oldest first.
    pub fn unbonding(&self, account: AccountIndex) -> impl Iterator<Item = &Unbonding> {
        self.bucket(account.0).unbonding.range((account.0, 0)..=(account.0, u64::MAX)).map(|(_, entry)| entry)
    }

    /// The amounts that leave a validator, with the accounts that they go to; in no particular order.
    pub fn unbonding_from(&self, id: u32) -> impl Iterator<Item = (AccountIndex, &Unbonding)> {
        let all = self.buckets.iter().flat_map(|bucket| bucket.unbonding.iter());
        all.filter(move |(_, entry)| entry.validator == id).map(|((account, _), entry)| (AccountIndex(*account), entry))
    }

    /// All that was ever minted for rewards.
    #[must_use]
    pub const fn minted(&self) -> Amount {
        self.minted
    }

    /// All that was ever slashed, and is gone.
    #[must_use]
    pub const fn burnt(&self) -> Amount {
        self.burnt
    }

    /// Rewards that wait for an epoch in which somebody worked.
    #[must_use]
    pub const fn carried(&self) -> Amount {
        self.carried
    }

    /// All money that the module holds: stakes, delegations, rewards, what unbonds, what is carried.
    #[must_use]
    pub fn held(&self) -> Amount {
        let rows = self.validators.iter().map(|row| row.stake().saturating_add(row.rewards));
        let unbonding = self.buckets.iter().flat_map(|bucket| bucket.unbonding.values()).map(|entry| entry.amount);
        rows.chain(unbonding).fold(self.carried, Amount::saturating_add)
    }
}
