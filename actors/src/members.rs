//! Who is who in an epoch: the validators by index, this node's own place, and the other nodes of the cluster config.
//!
//! An immutable snapshot that the validator replaces as a whole when it starts an epoch, so that no reader sees half of a
//! change. Peers that are no validators of the epoch have indices after the validators': they are served and nothing else.

use std::sync::Arc;

use aurigraph_consensus::{AuthorIdx, Epoch, EpochStart, Stake};
use aurigraph_ledger::{CodecError, ValidatorSet};
use bytes::Bytes;

use crate::config::public_key_of_seed;
use crate::settings::NodeSettings;

/// A validator as a genesis or a set lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What it registered as its name.
    pub name: String,
    /// Signs its blocks: a raw ML-DSA-87 key.
    pub consensus_key: Vec<u8>,
    /// Identifies its node: a raw ML-DSA-87 key.
    pub network_key: Vec<u8>,
    /// Its voting weight.
    pub stake: Stake,
}

/// A validator of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name of its node: that of the cluster config for its network key, else what it registered.
    pub name: String,
    /// Signs its blocks.
    pub consensus_key: Bytes,
    /// Its voting weight.
    pub stake: Stake,
}

/// One epoch's snapshot.
#[derive(Debug, Clone)]
pub struct Members {
    /// The epoch.
    pub epoch: Epoch,
    /// How the epoch starts; none for the first.
    pub start: Option<Arc<EpochStart>>,
    /// The validators by index.
    pub validators: Vec<Member>,
    /// This node's place among them.
    pub own: Option<AuthorIdx>,
    /// Peers of the cluster config that are no validators now.
    guests: Vec<String>,
}

impl Members {
    /// Those of the first epoch.
    #[must_use]
    pub fn of_genesis(settings: &NodeSettings) -> Self {
        let listed = |validator: &aurigraph_ledger::GenesisValidator| Listed {
            name: validator.name.clone(),
            consensus_key: validator.consensus_key.as_bytes().to_vec(),
            network_key: validator.network_key.as_bytes().to_vec(),
            stake: validator.stake,
        };
        let listed: Vec<_> = settings.genesis.validators.iter().map(listed).collect();
        let members = Self::of(settings, 0, None, &listed);
        Self { own: settings.validator, ..members }
    }

    /// Those of an epoch with these validators.
    #[must_use]
    pub fn of(settings: &NodeSettings, epoch: Epoch, start: Option<Arc<EpochStart>>, validators: &[Listed]) -> Self {
        let own_key = settings.seeds.consensus.map(|seed| public_key_of_seed(&seed));
        let own = own_key.and_then(|key| validators.iter().position(|validator| validator.consensus_key == key));
        let known = |key: &[u8]| settings.peers.iter().find(|peer| peer.network_key == key).map(|peer| &peer.name);
        let member = |(at, validator): (usize, &Listed)| Member {
            name: if Some(at) == own {
                settings.name.clone()
            } else {
                known(&validator.network_key).unwrap_or(&validator.name).clone()
            },
            consensus_key: Bytes::copy_from_slice(&validator.consensus_key),
            stake: validator.stake,
        };
        let validators: Vec<Member> = validators.iter().enumerate().map(member).collect();
        let is_guest = |name: &&String| validators.iter().all(|validator| validator.name != **name);
        let guests = settings.peers.iter().map(|peer| &peer.name).filter(is_guest).cloned().collect();
        Self { epoch, start, own: own.and_then(|at| AuthorIdx::try_from(at).ok()), guests, validators }
    }

    /// A validator's consensus key; empty (no signature is valid under it) for an index outside the set.
    #[must_use]
    pub fn consensus_key(&self, author: AuthorIdx) -> Bytes {
        self.validators.get(usize::from(author)).map(|validator| validator.consensus_key.clone()).unwrap_or_default()
    }

    /// The name of a validator, or of a peer with an index after theirs; empty (nobody is called so) for any other.
    #[must_use]
    pub fn name(&self, index: AuthorIdx) -> &str {
        let index = usize::from(index);
        match self.validators.get(index) {
            Some(validator) => &validator.name,
            None => self.guests.get(index - self.validators.len()).map_or("", String::as_str),
        }
    }

    /// The index of the validator of this name.
    #[must_use]
    pub fn validator(&self, name: &str) -> Option<AuthorIdx> {
        let at = self.validators.iter().position(|validator| validator.name == name)?;
        AuthorIdx::try_from(at).ok()
    }

    /// The index of the peer of this name, whether it validates or not.
    #[must_use]
    pub fn index(&self, name: &str) -> Option<AuthorIdx> {
        let guest = || self.guests.iter().position(|guest| guest == name).map(|at| self.validators.len() + at);
        self.validator(name).or_else(|| guest().and_then(|at| AuthorIdx::try_from(at).ok()))
    }

    /// Their stakes, by index.
    #[must_use]
    pub fn stakes(&self) -> Vec<Stake> {
        self.validators.iter().map(|validator| validator.stake).collect()
    }

    /// All names, by index.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.validators.iter().map(|validator| validator.name.clone()).collect()
    }
}

/// Tells of an epoch's members, by its number; of the epoch that runs now without one. None for an epoch that has not
/// started here. Reads the log for epochs that are over.
pub type MembersOf = Arc<dyn Fn(Option<Epoch>) -> Option<Arc<Members>> + Send + Sync>;

/// The validators of an encoded [`ValidatorSet`].
///
/// # Errors
/// If the bytes are none.
pub fn decode_set(bytes: &[u8]) -> Result<Vec<Listed>, CodecError> {
    let listed = |member: aurigraph_ledger::SetMember| Listed {
        name: member.name,
        consensus_key: member.consensus_key.as_bytes().to_vec(),
        network_key: member.network_key.as_bytes().to_vec(),
        stake: member.stake,
    };
    Ok(ValidatorSet::decode(bytes)?.validators.into_iter().map(listed).collect())
}

#[cfg(test)]
impl Members {
    /// Validators of these names, without keys, each with stake 1.
    pub(crate) fn named(epoch: Epoch, own: Option<AuthorIdx>, names: &[&str]) -> Self {
        let member = |name: &&str| Member { name: (*name).to_owned(), consensus_key: Bytes::new(), stake: 1 };
        Self { epoch, start: None, validators: names.iter().map(member).collect(), own, guests: Vec::new() }
    }
}
