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
    /// Identifies its node.
    pub network_key: Bytes,
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
        Self::of(settings, 0, None, &listed)
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
            network_key: Bytes::copy_from_slice(&validator.network_key),
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

    /// The network keys of the other nodes, by name: what the ledger says of validators of this epoch and the one before,
    /// what the cluster config says of all others. A validator whose key changes has both for an epoch, in which its node
    /// is started with the new one.
    #[must_use]
    pub fn network_keys(&self, settings: &NodeSettings, before: Option<&Self>) -> Vec<(String, Bytes)> {
        let mut keys: Vec<(String, Bytes)> = Vec::new();
        for peer in &settings.peers {
            let listed = [Some(self), before].into_iter().flatten().flat_map(|members| &members.validators);
            let own = listed.filter(|validator| validator.name == peer.name && !validator.network_key.is_empty());
            let mut of_peer: Vec<Bytes> = own.map(|validator| validator.network_key.clone()).collect();
            if of_peer.is_empty() {
                of_peer.push(Bytes::copy_from_slice(&peer.network_key));
            }
            for key in of_peer {
                // One key is never two nodes': the list as a whole would be refused.
                if keys.iter().all(|(_, known)| *known != key) {
                    keys.push((peer.name.clone(), key));
                }
            }
        }
        keys
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
        let member = |name: &&str| Member {
            name: (*name).to_owned(),
            consensus_key: Bytes::new(),
            network_key: Bytes::new(),
            stake: 1,
        };
        Self { epoch, start: None, validators: names.iter().map(member).collect(), own, guests: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterConfig;

    fn settings(directory: &std::path::Path) -> NodeSettings {
        let node = |at: u16, more: &str| {
            let (name, port) = (format!("v{at}"), 2 * at);
            format!(
                "[[node]]\nname = \"{name}\"\nrest = \"127.0.0.1:{port}\"\nlisten = \"127.0.0.1:{}\"\n{more}",
                port + 1
            )
        };
        let genesis = "[genesis]\nmode = \"development\"\naccounts = 2\nsigners = 1\n".to_owned();
        let text = [genesis, node(1, ""), node(2, ""), node(3, "validator = false\n")].concat();
        let path = directory.join("cluster.toml");
        std::fs::write(&path, text).unwrap();
        ClusterConfig::load(&path).unwrap().node_settings("v1", directory, true).unwrap()
    }

    #[test]
    fn a_rotated_network_key_holds_beside_the_old_one_for_an_epoch_and_alone_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        let genesis = Members::of_genesis(&settings);
        let config_key = |name: &str| {
            let peer = settings.peers.iter().find(|peer| peer.name == name).unwrap();
            Bytes::copy_from_slice(&peer.network_key)
        };
        let old = (("v2".to_owned(), config_key("v2")), ("v3".to_owned(), config_key("v3")));
        assert_eq!(genesis.network_keys(&settings, None), [old.0.clone(), old.1.clone()]);
        let listed = |name: &str, key: u8| Listed {
            name: name.to_owned(),
            consensus_key: vec![key; 3],
            network_key: vec![key; 4],
            stake: 1,
        };
        let rotated = Members::of(&settings, 1, None, &[listed("v2", 9)]);
        assert_eq!(rotated.name(0), "v2", "found by its name, the key being new");
        let new = ("v2".to_owned(), Bytes::from_static(&[9; 4]));
        assert_eq!(rotated.network_keys(&settings, Some(&genesis)), [new.clone(), old.0.clone(), old.1.clone()]);
        assert_eq!(rotated.network_keys(&settings, Some(&rotated)), [new, old.1.clone()]);
        // Nobody gets a name by registering the key of another's.
        let thief = Listed { network_key: config_key("v3").to_vec(), ..listed("v2", 9) };
        let keys = Members::of(&settings, 1, None, &[thief]).network_keys(&settings, None);
        assert_eq!(keys.iter().filter(|(_, key)| *key == config_key("v3")).count(), 1, "a key stands for one name");
    }
}
