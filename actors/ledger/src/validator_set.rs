//! The validator set of an epoch, as the ledger hands it to consensus, and what consensus says of an epoch's end.
//!
//! Only data and its canonical encoding. Who is in a set is the staking module's business.

use serde::{Deserialize, Serialize};

use crate::codec::{CodecError, Reader, Writer};
use crate::genesis::{MAX_NAME, MAX_NETWORK_KEY, MAX_VALIDATORS};
use crate::hash::{Hash, h};
use crate::types::{Address, PUBLIC_KEY_LEN, PublicKey, ValidatorIndex};

const VERSION: u8 = 1;

/// That a commit is its epoch's last, and what consensus counted in the epoch. A function of the epoch's commits alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochEnd {
    /// Delivered blocks of each validator of the closing epoch, by its index in that epoch's set. Missing ones count as 0.
    pub delivered: Vec<u64>,
}

/// A validator of a set. Its position in the set is its [`ValidatorIndex`] for that epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetMember {
    /// Its row in the staking table: the same in every epoch, never another validator's. Genesis' validators have their
    /// positions there.
    pub id: u32,
    /// Its name: unique for ever.
    pub name: String,
    /// The account that acts for it.
    pub address: Address,
    /// The ML-DSA-87 key that signs its DAG blocks in this epoch.
    pub consensus_key: PublicKey,
    /// The key that identifies its node in this epoch.
    pub network_key: PublicKey,
    /// Its voting weight in this epoch; never 0.
    pub stake: u64,
}

/// The validators of an epoch, by ascending row. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidatorSet {
    /// The epoch.
    pub epoch: u64,
    /// The validators.
    pub validators: Vec<SetMember>,
}

impl ValidatorSet {
    /// Voting weight of all together: at most 2^60.
    #[must_use]
    pub fn total_stake(&self) -> u64 {
        self.validators.iter().fold(0, |sum, member| sum.saturating_add(member.stake))
    }

    /// The index in this set of a row of the staking table.
    #[must_use]
    pub fn index_of(&self, id: u32) -> Option<ValidatorIndex> {
        let at = self.validators.binary_search_by_key(&id, |member| member.id).ok()?;
        ValidatorIndex::try_from(at).ok()
    }

    /// The canonical encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(VERSION).u64(self.epoch).varint(self.validators.len() as u64);
        for member in &self.validators {
            w.u32(member.id).bytes(member.name.as_bytes()).hash(&member.address.0);
            w.bytes(member.consensus_key.as_bytes()).bytes(member.network_key.as_bytes()).u64(member.stake);
        }
        w.into_bytes()
    }

    /// Reads the canonical encoding back; no other bytes decode.
    ///
    /// # Errors
    /// [`CodecError`] saying where and why; also for an empty set and for rows that do not ascend.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(CodecError::Invalid { what: "version of the validator set", value: version.into() });
        }
        let epoch = r.u64()?;
        let mut validators: Vec<SetMember> = Vec::new();
        for _ in 0..r.varint_max("number of validators", MAX_VALIDATORS as u64)? {
            let id = r.u32()?;
            if validators.last().is_some_and(|last| last.id >= id) {
                return Err(CodecError::Invalid { what: "order of validators, row", value: id.into() });
            }
            let member = SetMember {
                id,
                name: read_name(&mut r)?,
                address: Address(r.hash()?),
                consensus_key: PublicKey::new(r.bytes("length of a consensus key", PUBLIC_KEY_LEN)?.to_vec()),
                network_key: PublicKey::new(r.bytes("length of a network key", MAX_NETWORK_KEY)?.to_vec()),
                stake: r.u64()?,
            };
            if member.stake == 0 {
                return Err(CodecError::Invalid { what: "stake of validator without any, row", value: id.into() });
            }
            validators.push(member);
        }
        r.finish()?;
        if validators.is_empty() {
            return Err(CodecError::Invalid { what: "number of validators", value: 0 });
        }
        Ok(Self { epoch, validators })
    }

    /// H("validator-set", encoding): what the checkpoint at the end of the epoch before names.
    #[must_use]
    pub fn root(&self) -> Hash {
        h("validator-set", &self.encode())
    }
}

/// A validator's name off the reader: UTF-8 of at most [`MAX_NAME`] bytes.
pub(crate) fn read_name(r: &mut Reader<'_>) -> Result<String, CodecError> {
    let what = "length of a validator name";
    let bytes = r.bytes(what, MAX_NAME)?;
    let text = std::str::from_utf8(bytes);
    text.map(str::to_owned).map_err(|error| CodecError::Invalid { what, value: error.valid_up_to() as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> ValidatorSet {
        let member = |id: u32| SetMember {
            id,
            name: format!("v{id}"),
            address: Address(h("operator", &id.to_le_bytes())),
            consensus_key: PublicKey::new(vec![1; PUBLIC_KEY_LEN]),
            network_key: PublicKey::new(vec![2; 40]),
            stake: u64::from(id) + 1,
        };
        ValidatorSet { epoch: 3, validators: vec![member(0), member(2), member(7)] }
    }

    #[test]
    fn a_set_decodes_from_its_own_bytes_alone() {
        let bytes = set().encode();
        assert_eq!(ValidatorSet::decode(&bytes), Ok(set()));
        assert!((0..bytes.len()).step_by(97).all(|cut| ValidatorSet::decode(&bytes[..cut]).is_err()));
        let mut unordered = set();
        unordered.validators.swap(0, 1);
        assert!(ValidatorSet::decode(&unordered.encode()).is_err());
        assert!(ValidatorSet::decode(&ValidatorSet { epoch: 3, validators: Vec::new() }.encode()).is_err());
    }

    #[test]
    fn a_row_has_its_place_in_the_set_and_the_root_covers_everything() {
        let set = set();
        assert_eq!((set.index_of(2), set.index_of(3), set.total_stake()), (Some(1), None, 12));
        let mut other = set.clone();
        other.validators[1].stake += 1;
        assert_ne!(set.root(), other.root());
    }
}
