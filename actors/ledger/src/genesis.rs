//! The genesis of a network: who validates, who owns what, what it costs, and the constants of the protocol.
//!
//! Its canonical encoding's hash is the chain id. Reading it from a file is the caller's business.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::codec::{CodecError, Reader, Writer};
use crate::hash::{Hash, TaggedHasher};
use crate::types::{
    AUR, Address, Amount, MAX_OPERATIONS, MAX_TRANSACTION_LEN, PUBLIC_KEY_LEN, PublicKey, ValidatorIndex, aur,
};

/// Most validators of an epoch.
pub const MAX_VALIDATORS: usize = 128;
/// Most accounts a genesis may list.
pub const MAX_GENESIS_ACCOUNTS: usize = 1 << 24;
/// Longest network or validator name, in bytes.
pub const MAX_NAME: usize = 64;
/// Longest network identity key, in bytes.
pub const MAX_NETWORK_KEY: usize = 4_096;
/// No fee of the schedule may exceed this; it keeps every fee computation far from overflow.
pub const MAX_FEE_RATE: Amount = 1 << 96;
/// Most that a fault may cost, in basis points.
const MAX_SLASH: u32 = 5_000;
/// All stakes together stay at or below this, so that stake arithmetic in 64 bits cannot overflow.
/// Consensus accepts no set above it.
pub const MAX_TOTAL_STAKE: u64 = 1 << 60;

const VERSION: u8 = 2;
/// Accounts of one piece of the encoding: some 50 KB.
const PIECE: usize = 1_024;

/// One validator of the first epoch; its position in the list is its [`ValidatorIndex`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisValidator {
    /// Node name, `v1` to `vN`.
    pub name: String,
    /// The ML-DSA-87 key that signs DAG blocks.
    pub consensus_key: PublicKey,
    /// The key that identifies the node on its channels.
    pub network_key: PublicKey,
    /// Voting weight. So many units of stake ([`StakingParameters::stake_unit`]) are its own stake from the start.
    pub stake: u64,
    /// The account that acts for it: bonds, withdraws, takes it out of jail. Without one, that of its consensus key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<Address>,
}

impl GenesisValidator {
    /// The account that acts for it.
    #[must_use]
    pub fn operator(&self) -> Address {
        self.operator.unwrap_or_else(|| Address::of_public_key(self.consensus_key.as_bytes()))
    }
}

/// One account that exists from the start; its position in the list is its account index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisAccount {
    /// The account's address.
    pub address: Address,
    /// Its first balance, in AUR when written as text.
    #[serde(with = "aur")]
    pub balance: Amount,
    /// Its ML-DSA-87 key, if it is to be registered from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<PublicKey>,
}

/// What a transaction costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeeSchedule {
    /// For the transaction itself.
    #[serde(with = "aur")]
    pub base: Amount,
    /// For each operation.
    #[serde(with = "aur")]
    pub per_operation: Amount,
    /// For each encoded byte, signature included.
    #[serde(with = "aur")]
    pub per_byte: Amount,
    /// What a validator owes for each invalid signature it batched.
    #[serde(with = "aur")]
    pub invalid_signature_fee: Amount,
}

impl FeeSchedule {
    /// The fee of a transaction; cannot overflow under a validated schedule, and saturates under any other.
    #[must_use]
    pub const fn fee(&self, operations: usize, bytes: usize) -> Amount {
        self.base
            .saturating_add(self.per_operation.saturating_mul(operations as Amount))
            .saturating_add(self.per_byte.saturating_mul(bytes as Amount))
    }
}

impl Default for FeeSchedule {
    /// 0.00001 AUR a transaction, a thousandth of that for an operation and for ten bytes; 0.01 AUR for a bad signature.
    fn default() -> Self {
        Self {
            base: 10_000_000_000_000,
            per_operation: 10_000_000_000,
            per_byte: 1_000_000_000,
            invalid_signature_fee: 10_000_000_000_000_000,
        }
    }
}

/// Protocol parameters that are constant within an epoch (consensus.md, section 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProtocolParameters {
    /// Commit time between checkpoints, in milliseconds.
    pub checkpoint_interval_ms: u64,
    /// Commit time after which a commit without content becomes a ledger block, in milliseconds.
    pub heartbeat_ms: u64,
    /// Rounds kept below a committed leader.
    pub gc_depth: u32,
    /// Leaders a round.
    pub leaders_per_round: u16,
    /// Commits of a leader schedule window.
    pub schedule_window: u32,
    /// Share of stake that a schedule change may swap, in percent.
    pub schedule_swap_percent: u8,
    /// Most bytes of a batch body.
    pub max_batch_bytes: u32,
    /// Most batch references of a DAG block.
    pub max_batch_refs: u16,
    /// An epoch ends with the first commit this many milliseconds of commit time after its first one; 0 for never.
    pub epoch_ms: u64,
    /// An epoch ends with this many commits at the latest; 0 for no bound. With both at 0 there is one endless epoch: the
    /// validators never change, nothing is rewarded, and nothing that unbonds is ever released.
    pub epoch_commits: u64,
    /// What staking costs, earns and takes.
    pub staking: StakingParameters,
}

/// Parameters of staking. Epochs are counted from the one in which something happens, which runs to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StakingParameters {
    /// How much stake is one vote.
    #[serde(with = "aur")]
    pub stake_unit: Amount,
    /// The least own stake with which a validator is of a set.
    #[serde(with = "aur")]
    pub min_self_stake: Amount,
    /// The least that can be delegated at once.
    #[serde(with = "aur")]
    pub min_delegation: Amount,
    /// How many epochs after the one in which it was asked for an amount stays liable before it is released; for as long
    /// evidence of faults counts, and the sets of epochs are known.
    pub unbonding_epochs: u32,
    /// What an equivocator and its delegators lose, in basis points.
    pub equivocation_slash: u16,
    /// What conflicting attestations or commit votes cost, in basis points.
    pub conflict_slash: u16,
    /// How many epochs after the one of the fault a validator stays jailed at least.
    pub jail_epochs: u32,
    /// What an epoch mints for its validators, beside the fees.
    #[serde(with = "aur")]
    pub reward_per_epoch: Amount,
    /// By how much a commission may change from one epoch to the next, in basis points.
    pub max_commission_change: u16,
    /// Most validators of a set.
    pub max_validators: u16,
    /// How long a maintenance may last, in milliseconds.
    pub max_maintenance_ms: u64,
    /// How long before its start a maintenance has to be announced, in milliseconds. Longer than it takes to be found
    /// absent, so that nobody can announce afterwards.
    pub maintenance_notice_ms: u64,
}

impl Default for StakingParameters {
    /// 1 AUR is a vote and the least stake; 21 epochs to unbond; slashes of 5 % and 1 %; nothing minted.
    fn default() -> Self {
        Self {
            stake_unit: AUR,
            min_self_stake: AUR,
            min_delegation: AUR,
            unbonding_epochs: 21,
            equivocation_slash: 500,
            conflict_slash: 100,
            jail_epochs: 1,
            reward_per_epoch: 0,
            max_commission_change: 100,
            max_validators: 128,
            max_maintenance_ms: 2 * 3_600_000,
            maintenance_notice_ms: 600_000,
        }
    }
}

impl Default for ProtocolParameters {
    fn default() -> Self {
        Self {
            checkpoint_interval_ms: 1_000,
            heartbeat_ms: 10_000,
            gc_depth: 64,
            leaders_per_round: 1,
            schedule_window: 300,
            schedule_swap_percent: 20,
            max_batch_bytes: 512 * 1024,
            max_batch_refs: 64,
            epoch_ms: 24 * 3_600_000,
            epoch_commits: 0,
            staking: StakingParameters::default(),
        }
    }
}

/// The genesis of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// The network's name.
    pub network: String,
    /// When commit time starts, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// What transactions cost.
    pub fees: FeeSchedule,
    /// Constants of the protocol.
    #[serde(default)]
    pub parameters: ProtocolParameters,
    /// The first epoch's validators.
    pub validators: Vec<GenesisValidator>,
    /// The accounts that exist from the start.
    #[serde(default)]
    pub accounts: Vec<GenesisAccount>,
}

/// Why a genesis cannot start a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// A list or text is too long, too short or a number is out of range.
    #[error("{what} is {value}, allowed is {min} to {max}")]
    OutOfRange {
        /// Which field.
        what: &'static str,
        /// What it says.
        value: u128,
        /// The smallest allowed value.
        min: u128,
        /// The largest allowed value.
        max: u128,
    },
    /// Two validators share a name or a key.
    #[error("validator {name:?} repeats the {what} of an earlier validator")]
    DuplicateValidator {
        /// The later validator's name.
        name: String,
        /// What they share.
        what: &'static str,
    },
    /// An address is listed twice.
    #[error("account {0} is listed twice")]
    DuplicateAccount(Address),
    /// A public key does not belong to the address it stands beside.
    #[error("the public key of account {address} belongs to address {key_address}")]
    ForeignKey {
        /// The account's address.
        address: Address,
        /// The address of its key.
        key_address: Address,
    },
    /// The balances exceed what an amount can hold.
    #[error("the balances add up to more than 2^128 - 1 base units")]
    SupplyOverflow,
    /// The stakes exceed what stake arithmetic allows.
    #[error("the stakes add up to more than {MAX_TOTAL_STAKE}")]
    StakeOverflow,
}

/// An address that is listed twice.
fn repeated(accounts: &[GenesisAccount]) -> Option<Address> {
    // Sorted by first bytes with places beside them: a fraction of the time and memory of a set of addresses.
    let first =
        |account: &GenesisAccount| u64::from_be_bytes(*account.address.as_bytes().first_chunk().expect("32 bytes"));
    let mut places: Vec<(u64, u32)> = accounts.iter().map(first).zip(0..).collect();
    places.sort_unstable();
    for alike in places.chunk_by(|a, b| a.0 == b.0).filter(|alike| alike.len() > 1) {
        let mut addresses: Vec<Address> = alike.iter().map(|(_, at)| accounts[*at as usize].address).collect();
        addresses.sort_unstable();
        if let Some(twice) = addresses.windows(2).find(|pair| pair[0] == pair[1]) {
            return Some(twice[0]);
        }
    }
    None
}

fn check_range(
    what: &'static str,
    value: impl Into<u128>,
    min: impl Into<u128>,
    max: impl Into<u128>,
) -> Result<(), GenesisError> {
    let (value, min, max) = (value.into(), min.into(), max.into());
    if (min..=max).contains(&value) { Ok(()) } else { Err(GenesisError::OutOfRange { what, value, min, max }) }
}

fn check_len(what: &'static str, len: usize, min: usize, max: usize) -> Result<(), GenesisError> {
    check_range(what, len as u64, min as u64, max as u64)
}

impl Genesis {
    /// The chain id: H("genesis", canonical encoding).
    #[must_use]
    pub fn chain_id(&self) -> Hash {
        let mut hasher = TaggedHasher::new("genesis");
        self.encode_to(|piece| hasher.update(piece));
        hasher.finish()
    }

    /// The sum of all balances. What validators have at stake comes on top ([`Genesis::staked`]).
    #[must_use]
    pub fn supply(&self) -> Option<Amount> {
        self.accounts.iter().try_fold(0_u128, |sum, account| sum.checked_add(account.balance))
    }

    /// What validators have at stake from the start. Balances and this are all money there is, until an epoch mints more.
    #[must_use]
    pub fn staked(&self) -> Option<Amount> {
        let unit = self.parameters.staking.stake_unit;
        let stakes = self.validators.iter().map(|validator| unit.checked_mul(validator.stake.into()));
        stakes.into_iter().try_fold(0_u128, |sum, stake| sum.checked_add(stake?))
    }

    /// The position of the validator with this name.
    #[must_use]
    pub fn validator_index(&self, name: &str) -> Option<ValidatorIndex> {
        self.validators.iter().position(|validator| validator.name == name).and_then(|at| at.try_into().ok())
    }

    /// Checks every limit, and that keys, names and addresses are unique.
    ///
    /// # Errors
    /// [`GenesisError`] naming the first rule that is broken.
    pub fn validate(&self) -> Result<(), GenesisError> {
        check_len("length of the network name", self.network.len(), 1, MAX_NAME)?;
        self.validate_rates()?;
        self.validate_validators()?;
        self.validate_accounts()
    }

    fn validate_rates(&self) -> Result<(), GenesisError> {
        let p = &self.parameters;
        check_range("checkpoint_interval_ms", p.checkpoint_interval_ms, 1_u64, 3_600_000_u64)?;
        check_range("heartbeat_ms", p.heartbeat_ms, 1_u64, 3_600_000_u64)?;
        check_range("gc_depth", p.gc_depth, 4_u32, 10_000_u32)?;
        check_range("leaders_per_round", p.leaders_per_round, 1_u32, 16_u32)?;
        check_range("schedule_window", p.schedule_window, 1_u32, 1_000_000_u32)?;
        check_range("schedule_swap_percent", p.schedule_swap_percent, 0_u32, 33_u32)?;
        check_range("max_batch_bytes", p.max_batch_bytes, MAX_TRANSACTION_LEN as u64 + 1_024, 16_u64 << 20)?;
        check_range("max_batch_refs", p.max_batch_refs, 1_u32, 1_024_u32)?;
        check_range("epoch_ms", p.epoch_ms, 0_u64, 366_u64 * 24 * 3_600_000)?;
        p.staking.validate()?;
        check_range("fees.base", self.fees.base, 0_u32, MAX_FEE_RATE)?;
        check_range("fees.per_operation", self.fees.per_operation, 0_u32, MAX_FEE_RATE)?;
        check_range("fees.per_byte", self.fees.per_byte, 0_u32, MAX_FEE_RATE)?;
        check_range("fees.invalid_signature_fee", self.fees.invalid_signature_fee, 0_u32, MAX_FEE_RATE)
    }

    fn validate_validators(&self) -> Result<(), GenesisError> {
        check_len("number of validators", self.validators.len(), 1, MAX_VALIDATORS)?;
        let (mut names, mut keys, mut network_keys) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut total = 0_u64;
        for validator in &self.validators {
            check_len("length of a validator name", validator.name.len(), 1, MAX_NAME)?;
            check_len(
                "length of a consensus key",
                validator.consensus_key.as_bytes().len(),
                PUBLIC_KEY_LEN,
                PUBLIC_KEY_LEN,
            )?;
            check_len("length of a network key", validator.network_key.as_bytes().len(), 1, MAX_NETWORK_KEY)?;
            check_range("stake", validator.stake, 1_u64, MAX_TOTAL_STAKE)?;
            let duplicate = |what| GenesisError::DuplicateValidator { name: validator.name.clone(), what };
            if !names.insert(&validator.name) {
                return Err(duplicate("name"));
            }
            if !keys.insert(&validator.consensus_key) {
                return Err(duplicate("consensus key"));
            }
            if !network_keys.insert(&validator.network_key) {
                return Err(duplicate("network key"));
            }
            total = total.checked_add(validator.stake).ok_or(GenesisError::StakeOverflow)?;
        }
        if total > MAX_TOTAL_STAKE { Err(GenesisError::StakeOverflow) } else { Ok(()) }
    }

    fn validate_accounts(&self) -> Result<(), GenesisError> {
        check_len("number of accounts", self.accounts.len(), 0, MAX_GENESIS_ACCOUNTS)?;
        if let Some(address) = repeated(&self.accounts) {
            return Err(GenesisError::DuplicateAccount(address));
        }
        for account in &self.accounts {
            if let Some(key) = &account.public_key {
                check_len("length of an account key", key.as_bytes().len(), PUBLIC_KEY_LEN, PUBLIC_KEY_LEN)?;
                let key_address = Address::of_public_key(key.as_bytes());
                if key_address != account.address {
                    return Err(GenesisError::ForeignKey { address: account.address, key_address });
                }
            }
        }
        let all = self.supply().zip(self.staked()).and_then(|(supply, staked)| supply.checked_add(staked));
        all.map(|_| ()).ok_or(GenesisError::SupplyOverflow)
    }

    /// The canonical encoding, whose hash is the chain id.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode_to(|piece| bytes.extend_from_slice(piece));
        bytes
    }

    /// Hands out the canonical encoding in pieces: that of millions of accounts is half a gigabyte.
    fn encode_to(&self, mut take: impl FnMut(&[u8])) {
        let mut w = Writer::new();
        w.u8(VERSION).bytes(self.network.as_bytes()).u64(self.timestamp_ms);
        let f = &self.fees;
        w.u128(f.base).u128(f.per_operation).u128(f.per_byte).u128(f.invalid_signature_fee);
        let p = &self.parameters;
        w.u64(p.checkpoint_interval_ms).u64(p.heartbeat_ms).u32(p.gc_depth).u16(p.leaders_per_round);
        w.u32(p.schedule_window).u8(p.schedule_swap_percent).u32(p.max_batch_bytes).u16(p.max_batch_refs);
        w.u64(p.epoch_ms).u64(p.epoch_commits);
        p.staking.write(&mut w);
        w.varint(self.validators.len() as u64);
        for v in &self.validators {
            w.bytes(v.name.as_bytes()).bytes(v.consensus_key.as_bytes());
            w.bytes(v.network_key.as_bytes()).u64(v.stake);
            match &v.operator {
                Some(operator) => w.u8(1).hash(&operator.0),
                None => w.u8(0),
            };
        }
        w.varint(self.accounts.len() as u64);
        take(&w.into_bytes());
        for accounts in self.accounts.chunks(PIECE) {
            let mut w = Writer::with_capacity(PIECE * 49);
            for a in accounts {
                w.hash(&a.address.0).u128(a.balance);
                match &a.public_key {
                    Some(key) => w.u8(1).bytes(key.as_bytes()),
                    None => w.u8(0),
                };
            }
            take(&w.into_bytes());
        }
    }

    /// Reads the canonical encoding back; no other bytes decode. Rules beyond the format are [`Genesis::validate`]'s.
    ///
    /// # Errors
    /// [`CodecError`] saying where and why.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(CodecError::Invalid { what: "genesis version", value: version.into() });
        }
        let genesis = Self {
            network: read_text(&mut r, "length of the network name")?,
            timestamp_ms: r.u64()?,
            fees: read_fees(&mut r)?,
            parameters: read_parameters(&mut r)?,
            validators: read_list(&mut r, "number of validators", MAX_VALIDATORS, read_validator)?,
            accounts: read_list(&mut r, "number of accounts", MAX_GENESIS_ACCOUNTS, read_account)?,
        };
        r.finish()?;
        Ok(genesis)
    }
}

fn read_text(r: &mut Reader<'_>, what: &'static str) -> Result<String, CodecError> {
    let bytes = r.bytes(what, MAX_NAME)?;
    let text =
        std::str::from_utf8(bytes).map_err(|error| CodecError::Invalid { what, value: error.valid_up_to() as u64 });
    text.map(str::to_owned)
}

fn read_fees(r: &mut Reader<'_>) -> Result<FeeSchedule, CodecError> {
    Ok(FeeSchedule { base: r.u128()?, per_operation: r.u128()?, per_byte: r.u128()?, invalid_signature_fee: r.u128()? })
}

fn read_parameters(r: &mut Reader<'_>) -> Result<ProtocolParameters, CodecError> {
    Ok(ProtocolParameters {
        checkpoint_interval_ms: r.u64()?,
        heartbeat_ms: r.u64()?,
        gc_depth: r.u32()?,
        leaders_per_round: r.u16()?,
        schedule_window: r.u32()?,
        schedule_swap_percent: r.u8()?,
        max_batch_bytes: r.u32()?,
        max_batch_refs: r.u16()?,
        epoch_ms: r.u64()?,
        epoch_commits: r.u64()?,
        staking: StakingParameters::read(r)?,
    })
}

impl StakingParameters {
    fn validate(&self) -> Result<(), GenesisError> {
        check_range("staking.stake_unit", self.stake_unit, 1_u32, MAX_FEE_RATE)?;
        check_range("staking.min_self_stake", self.min_self_stake, 1_u32, MAX_FEE_RATE)?;
        check_range("staking.min_delegation", self.min_delegation, 1_u32, MAX_FEE_RATE)?;
        check_range("staking.unbonding_epochs", self.unbonding_epochs, 1_u32, 10_000_u32)?;
        check_range("staking.equivocation_slash", self.equivocation_slash, 0_u32, MAX_SLASH)?;
        check_range("staking.conflict_slash", self.conflict_slash, 0_u32, MAX_SLASH)?;
        check_range("staking.jail_epochs", self.jail_epochs, 0_u32, 10_000_u32)?;
        check_range("staking.reward_per_epoch", self.reward_per_epoch, 0_u32, MAX_FEE_RATE)?;
        check_range("staking.max_commission_change", self.max_commission_change, 0_u32, 10_000_u32)?;
        check_range("staking.max_validators", self.max_validators, 1_u32, MAX_VALIDATORS as u64)?;
        check_range("staking.max_maintenance_ms", self.max_maintenance_ms, 0_u64, 7_u64 * 24 * 3_600_000)?;
        check_range("staking.maintenance_notice_ms", self.maintenance_notice_ms, 0_u64, 7_u64 * 24 * 3_600_000)
    }

    fn write(&self, w: &mut Writer) {
        w.u128(self.stake_unit).u128(self.min_self_stake).u128(self.min_delegation).u32(self.unbonding_epochs);
        w.u16(self.equivocation_slash).u16(self.conflict_slash).u32(self.jail_epochs).u128(self.reward_per_epoch);
        w.u16(self.max_commission_change).u16(self.max_validators);
        w.u64(self.max_maintenance_ms).u64(self.maintenance_notice_ms);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            stake_unit: r.u128()?,
            min_self_stake: r.u128()?,
            min_delegation: r.u128()?,
            unbonding_epochs: r.u32()?,
            equivocation_slash: r.u16()?,
            conflict_slash: r.u16()?,
            jail_epochs: r.u32()?,
            reward_per_epoch: r.u128()?,
            max_commission_change: r.u16()?,
            max_validators: r.u16()?,
            max_maintenance_ms: r.u64()?,
            maintenance_notice_ms: r.u64()?,
        })
    }
}

fn read_list<T>(
    r: &mut Reader<'_>,
    what: &'static str,
    max: usize,
    read: fn(&mut Reader<'_>) -> Result<T, CodecError>,
) -> Result<Vec<T>, CodecError> {
    // No capacity up front: the count is the sender's claim, the bytes behind it are not yet seen.
    (0..r.varint_max(what, max as u64)?).map(|_| read(r)).collect()
}

fn read_validator(r: &mut Reader<'_>) -> Result<GenesisValidator, CodecError> {
    Ok(GenesisValidator {
        name: read_text(r, "length of a validator name")?,
        consensus_key: PublicKey::new(r.bytes("length of a consensus key", PUBLIC_KEY_LEN)?.to_vec()),
        network_key: PublicKey::new(r.bytes("length of a network key", MAX_NETWORK_KEY)?.to_vec()),
        stake: r.u64()?,
        operator: match r.u8()? {
            0 => None,
            1 => Some(Address(r.hash()?)),
            other => return Err(CodecError::Invalid { what: "operator tag", value: other.into() }),
        },
    })
}

fn read_account(r: &mut Reader<'_>) -> Result<GenesisAccount, CodecError> {
    let (address, balance) = (Address(r.hash()?), r.u128()?);
    let public_key = match r.u8()? {
        0 => None,
        1 => Some(PublicKey::new(r.bytes("length of an account key", PUBLIC_KEY_LEN)?.to_vec())),
        other => return Err(CodecError::Invalid { what: "public key tag", value: other.into() }),
    };
    Ok(GenesisAccount { address, balance, public_key })
}

/// The fee of the largest transaction under the largest rates fits an amount.
const _: () = assert!(MAX_FEE_RATE.checked_mul((1 + MAX_OPERATIONS + MAX_TRANSACTION_LEN) as u128).is_some());
