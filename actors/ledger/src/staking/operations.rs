//! Operations of staking: what they are, and their columns in a group.
//!
//! Tags 16 to 26. Columns of a group of n operations, in this order, little-endian; amounts have one width for the group:
//!
//! | tag | operation | columns |
//! |---|---|---|
//! | 16 | bond | validators u32, width u8, amounts |
//! | 17 | delegate | validators, width, amounts |
//! | 18 | undelegate | validators, width, amounts |
//! | 19 | unbond | validators, width, amounts |
//! | 20 | withdraw | validators |
//! | 21 | join | names (length u8, bytes), width, amounts, commissions u16, keys, proofs |
//! | 22 | leave | validators |
//! | 23 | commission | validators, commissions u16 |
//! | 24 | rotate | validators, keys, proofs |
//! | 25 | unjail | validators |
//! | 26 | maintenance | validators, seconds u32 |
//!
//! Keys are the consensus keys of all, then the network keys of all; proofs the signatures by the consensus keys, then
//! those by the network keys. What an operation does stands in `execute`.

use std::ops::RangeInclusive;

use super::table::ValidatorKeys;
use crate::codec::{CodecError, Reader, Writer};
use crate::genesis::MAX_NAME;
use crate::hash::{Hash, h_parts};
use crate::module::GroupFormat;
use crate::transaction::{read_amounts, shortest_width};
use crate::types::{Address, Amount, PUBLIC_KEY_LEN, PublicKey, SIGNATURE_LEN};

/// The tags of all operations.
pub const TAGS: RangeInclusive<u8> = 16..=26;
/// The format of their groups.
pub(crate) const FORMAT: GroupFormat =
    GroupFormat { tags: TAGS, read: |tag, count, r| read(tag, count, r).map(|_| ()) };
/// As an amount: all that there is.
pub const EVERYTHING: Amount = Amount::MAX;
/// What a validator's keys sign to prove that they are held is this text followed by a digest: [`proof_message`].
pub const PROOF_DOMAIN: &[u8] = b"aurigraph/validator/v1";

const BOND: u8 = 16;
const DELEGATE: u8 = 17;
const UNDELEGATE: u8 = 18;
const UNBOND: u8 = 19;
const WITHDRAW: u8 = 20;
const JOIN: u8 = 21;
const LEAVE: u8 = 22;
const COMMISSION: u8 = 23;
const ROTATE: u8 = 24;
const UNJAIL: u8 = 25;
const MAINTENANCE: u8 = 26;

/// A validator's keys, and the proof that who registers them holds both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenKeys {
    /// The keys, of [`PUBLIC_KEY_LEN`] bytes each.
    pub keys: ValidatorKeys,
    /// The signature of [`proof_message`] by the consensus key.
    pub consensus_proof: Vec<u8>,
    /// The signature of the same by the network key.
    pub network_proof: Vec<u8>,
}

/// A new validator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its name: 1 to 64 of a-z, 0-9, `-`, `_` and `.`.
    pub name: String,
    /// Its own stake, from the sender's balance.
    pub self_stake: Amount,
    /// Its commission in basis points.
    pub commission: u16,
    /// Its keys.
    pub keys: ProvenKeys,
}

/// An operation of staking. Validators are named by their rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StakingOperation {
    /// The operator adds to its own stake.
    Bond {
        /// Whose stake.
        validator: u32,
        /// How much.
        amount: Amount,
    },
    /// Anybody adds to what is delegated.
    Delegate {
        /// To whom.
        validator: u32,
        /// How much.
        amount: Amount,
    },
    /// A delegator takes some of its stake back, or [`EVERYTHING`]; it unbonds.
    Undelegate {
        /// From whom.
        validator: u32,
        /// How much.
        amount: Amount,
    },
    /// The operator takes some of its own stake back, or [`EVERYTHING`]; it unbonds.
    Unbond {
        /// Whose stake.
        validator: u32,
        /// How much.
        amount: Amount,
    },
    /// Pays out what of the sender has unbonded from a validator, and the rewards to its operator.
    Withdraw {
        /// From whom.
        validator: u32,
    },
    /// Registers a validator, whose operator is the sender.
    Join(Box<Registration>),
    /// The operator takes its validator out of all sets to come.
    Leave {
        /// Who leaves.
        validator: u32,
    },
    /// The operator sets the commission from the next epoch on.
    SetCommission {
        /// Whose.
        validator: u32,
        /// In basis points.
        commission: u16,
    },
    /// The operator gives its validator new keys from the next epoch on.
    Rotate {
        /// Whose.
        validator: u32,
        /// The keys.
        keys: Box<ProvenKeys>,
    },
    /// The operator takes its validator out of jail.
    Unjail {
        /// Who is jailed.
        validator: u32,
    },
    /// The operator announces an absence.
    Maintenance {
        /// Who will be absent.
        validator: u32,
        /// For how long.
        seconds: u32,
    },
}

/// What the two keys of a validator sign: they are held by who registers them, on this chain, under this name, by this
/// operator, together.
#[must_use]
pub fn proof_message(chain_id: &Hash, operator: &Address, name: &str, keys: &ValidatorKeys) -> Vec<u8> {
    let (consensus, network) = (keys.consensus.as_bytes(), keys.network.as_bytes());
    let lengths = [name.len(), consensus.len(), network.len()].map(|len| (len as u64).to_le_bytes()).concat();
    let parts = [&chain_id.0, operator.as_bytes(), lengths.as_slice(), name.as_bytes(), consensus, network];
    let digest = h_parts("validator-keys", &parts);
    [PROOF_DOMAIN, &digest.0].concat()
}

/// Whether a validator may join under this name.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

impl StakingOperation {
    /// The tag of its group.
    #[must_use]
    pub const fn tag(&self) -> u8 {
        match self {
            Self::Bond { .. } => BOND,
            Self::Delegate { .. } => DELEGATE,
            Self::Undelegate { .. } => UNDELEGATE,
            Self::Unbond { .. } => UNBOND,
            Self::Withdraw { .. } => WITHDRAW,
            Self::Join(_) => JOIN,
            Self::Leave { .. } => LEAVE,
            Self::SetCommission { .. } => COMMISSION,
            Self::Rotate { .. } => ROTATE,
            Self::Unjail { .. } => UNJAIL,
            Self::Maintenance { .. } => MAINTENANCE,
        }
    }

    /// Its name, as interfaces show it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Bond { .. } => "bond",
            Self::Delegate { .. } => "delegate",
            Self::Undelegate { .. } => "undelegate",
            Self::Unbond { .. } => "unbond",
            Self::Withdraw { .. } => "withdraw",
            Self::Join(_) => "join",
            Self::Leave { .. } => "leave",
            Self::SetCommission { .. } => "commission",
            Self::Rotate { .. } => "rotate",
            Self::Unjail { .. } => "unjail",
            Self::Maintenance { .. } => "maintenance",
        }
    }

    /// The row of the validator; none for one that joins.
    #[must_use]
    pub const fn validator(&self) -> Option<u32> {
        match self {
            Self::Bond { validator, .. }
            | Self::Delegate { validator, .. }
            | Self::Undelegate { validator, .. }
            | Self::Unbond { validator, .. }
            | Self::Withdraw { validator }
            | Self::Leave { validator }
            | Self::SetCommission { validator, .. }
            | Self::Rotate { validator, .. }
            | Self::Unjail { validator }
            | Self::Maintenance { validator, .. } => Some(*validator),
            Self::Join(_) => None,
        }
    }

    /// The amount that it moves, if it names one.
    #[must_use]
    pub fn amount(&self) -> Option<Amount> {
        match self {
            Self::Bond { amount, .. }
            | Self::Delegate { amount, .. }
            | Self::Undelegate { amount, .. }
            | Self::Unbond { amount, .. } => Some(*amount),
            Self::Join(registration) => Some(registration.self_stake),
            _ => None,
        }
    }

    fn proven_keys(&self) -> Option<&ProvenKeys> {
        match self {
            Self::Join(registration) => Some(&registration.keys),
            Self::Rotate { keys, .. } => Some(keys),
            _ => None,
        }
    }
}

/// The columns of operations that all have one tag.
pub(crate) fn write(operations: &[StakingOperation]) -> Vec<u8> {
    let mut w = Writer::new();
    for operation in operations {
        match operation {
            #[allow(clippy::cast_possible_truncation)]
            StakingOperation::Join(it) => {
                w.u8(it.name.len() as u8).raw(it.name.as_bytes());
            }
            other => {
                w.u32(other.validator().unwrap_or(0));
            }
        }
    }
    let amounts: Vec<Amount> = operations.iter().filter_map(StakingOperation::amount).collect();
    if !amounts.is_empty() {
        let width = shortest_width(amounts.iter().fold(0, |bits, amount| bits | amount));
        #[allow(clippy::cast_possible_truncation)]
        w.u8(width as u8);
        for amount in amounts {
            w.raw(&amount.to_le_bytes()[..width]);
        }
    }
    for operation in operations {
        match operation {
            StakingOperation::Join(it) => {
                w.u16(it.commission);
            }
            StakingOperation::SetCommission { commission, .. } => {
                w.u16(*commission);
            }
            StakingOperation::Maintenance { seconds, .. } => {
                w.u32(*seconds);
            }
            _ => {}
        }
    }
    let proven = || operations.iter().filter_map(StakingOperation::proven_keys);
    proven().for_each(|it| {
        w.raw(it.keys.consensus.as_bytes());
    });
    proven().for_each(|it| {
        w.raw(it.keys.network.as_bytes());
    });
    proven().for_each(|it| {
        w.raw(&it.consensus_proof);
    });
    proven().for_each(|it| {
        w.raw(&it.network_proof);
    });
    w.into_bytes()
}

fn read_list<T>(
    r: &mut Reader<'_>,
    count: usize,
    read: impl Fn(&mut Reader<'_>) -> Result<T, CodecError>,
) -> Result<Vec<T>, CodecError> {
    (0..count).map(|_| read(r)).collect()
}

fn read_name(r: &mut Reader<'_>) -> Result<String, CodecError> {
    let len = usize::from(r.u8()?);
    let bytes = r.raw(len)?;
    let name = std::str::from_utf8(bytes).ok().filter(|name| is_valid_name(name));
    name.map(str::to_owned).ok_or(CodecError::Invalid { what: "validator name of length", value: len as u64 })
}

fn read_proven_keys(r: &mut Reader<'_>, count: usize) -> Result<Vec<ProvenKeys>, CodecError> {
    let key = |r: &mut Reader<'_>| Ok(PublicKey::new(r.raw(PUBLIC_KEY_LEN)?.to_vec()));
    let proof = |r: &mut Reader<'_>| Ok(r.raw(SIGNATURE_LEN)?.to_vec());
    let (consensus, network) = (read_list(r, count, key)?, read_list(r, count, key)?);
    let (consensus_proofs, network_proofs) = (read_list(r, count, proof)?, read_list(r, count, proof)?);
    let keys = consensus.into_iter().zip(network).map(|(consensus, network)| ValidatorKeys { consensus, network });
    let proofs = consensus_proofs.into_iter().zip(network_proofs);
    let proven = |(keys, (consensus_proof, network_proof))| ProvenKeys { keys, consensus_proof, network_proof };
    Ok(keys.zip(proofs).map(proven).collect())
}

/// Reads the columns of a group.
///
/// # Errors
/// [`CodecError`] if they are anything but what [`write`] gives.
pub(crate) fn read(tag: u8, count: usize, r: &mut Reader<'_>) -> Result<Vec<StakingOperation>, CodecError> {
    use StakingOperation as O;
    if tag == JOIN {
        let names = read_list(r, count, read_name)?;
        let (amounts, commissions) = (read_amounts(r, count)?, read_list(r, count, |r| r.u16())?);
        let columns = names.into_iter().zip(amounts).zip(commissions).zip(read_proven_keys(r, count)?);
        let join = |(((name, self_stake), commission), keys)| {
            O::Join(Box::new(Registration { name, self_stake, commission, keys }))
        };
        return Ok(columns.map(join).collect());
    }
    let rows = read_list(r, count, |r| r.u32())?.into_iter();
    Ok(match tag {
        BOND | DELEGATE | UNDELEGATE | UNBOND => {
            let make = |(validator, amount)| match tag {
                BOND => O::Bond { validator, amount },
                DELEGATE => O::Delegate { validator, amount },
                UNDELEGATE => O::Undelegate { validator, amount },
                _ => O::Unbond { validator, amount },
            };
            rows.zip(read_amounts(r, count)?).map(make).collect()
        }
        WITHDRAW => rows.map(|validator| O::Withdraw { validator }).collect(),
        LEAVE => rows.map(|validator| O::Leave { validator }).collect(),
        UNJAIL => rows.map(|validator| O::Unjail { validator }).collect(),
        COMMISSION => {
            let commissions = read_list(r, count, |r| r.u16())?;
            rows.zip(commissions).map(|(validator, commission)| O::SetCommission { validator, commission }).collect()
        }
        MAINTENANCE => {
            let seconds = read_list(r, count, |r| r.u32())?;
            rows.zip(seconds).map(|(validator, seconds)| O::Maintenance { validator, seconds }).collect()
        }
        ROTATE => {
            let keys = read_proven_keys(r, count)?;
            rows.zip(keys).map(|(validator, keys)| O::Rotate { validator, keys: Box::new(keys) }).collect()
        }
        other => return Err(CodecError::Invalid { what: "operation tag of staking", value: other.into() }),
    })
}
