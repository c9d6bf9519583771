//! The cluster config: one TOML file that every node of a cluster is started with, and what one node makes of it.
//!
//! Reads, checks and explains; starts nothing. Every refusal names the file, the line and the field.

pub mod development;
mod error;
mod file;
mod sealed;
mod secrets;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aurigraph_ledger::{Foundation, Hash, blake3_digest};

pub use error::ConfigError;
pub use file::{ActorCounts, ChaosSettings, CryptoSettings, StorageSettings, load_genesis};
pub use sealed::{AskPassphrase, PassphraseSource, SealedFile, read_key_file, sealed_file};
pub use secrets::{NodePublic, NodeSecrets, network_public_key, public_key_of_seed, read_private_file};

use crate::settings::{
    ApiLimits, Features, HeldAccount, NodeSeeds, NodeSettings, PacingSettings, PeerSettings, TokenGrant,
};
use development::Development;
use file::ConfigFile;

/// One node of the cluster as the config describes it.
#[derive(Debug, Clone)]
pub struct NodeEntry {
    /// Its name.
    pub name: String,
    /// Its position in the genesis validator list; none for an observer.
    pub validator: Option<u16>,
    /// An observer that has a consensus key, and may become a validator.
    pub candidate: bool,
    /// Its validator has rotated its keys on the ledger: its secrets file holds the new ones.
    pub rotated: bool,
    /// Where its REST server listens.
    pub rest: SocketAddr,
    /// Where its node listener listens.
    pub listen: SocketAddr,
    /// Its network identity.
    pub network_key: Vec<u8>,
    data_dir: Option<PathBuf>,
    secrets: Option<PathBuf>,
    passphrase: PassphraseSource,
}

/// A cluster config that was read and checked.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    path: PathBuf,
    /// The genesis of the chain.
    pub genesis: Foundation,
    /// Present in development mode only.
    pub development: Option<Development>,
    /// All nodes, in the order of the file.
    pub nodes: Vec<NodeEntry>,
    /// The toggles.
    pub features: Features,
    /// Pacing of the proposers.
    pub pacing: PacingSettings,
    /// Limits of the HTTP edge.
    pub api: ApiLimits,
    /// Durability of the queryable state.
    pub storage: StorageSettings,
    /// How many actors of the kinds that come in numbers.
    pub actors: ActorCounts,
    /// What checks signatures.
    pub crypto: CryptoSettings,
    /// May actors be killed through the admin route.
    pub chaos: ChaosSettings,
}

impl ClusterConfig {
    /// Reads and checks a config and the files it names.
    ///
    /// # Errors
    /// [`ConfigError`] naming the file, and the line and field where there is one.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        ConfigFile::load(path)?.check()
    }

    /// The file that it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The config's name: its file name without the extension. Names the default data directory.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_stem().map_or_else(|| "cluster".to_owned(), |stem| stem.to_string_lossy().into_owned())
    }

    /// Where the nodes' directories stand unless the caller says otherwise.
    #[must_use]
    pub fn default_data_dir(&self) -> PathBuf {
        Path::new(".aurigraph").join(self.name())
    }

    /// One node's directory: its own `data_dir`, else the folder of its name under `base`.
    #[must_use]
    pub fn node_dir(&self, node: &NodeEntry, base: &Path) -> PathBuf {
        node.data_dir.clone().unwrap_or_else(|| base.join(&node.name))
    }

    /// The entry of this name.
    ///
    /// # Errors
    /// [`ConfigError::UnknownNode`] listing the names that exist.
    pub fn node(&self, name: &str) -> Result<&NodeEntry, ConfigError> {
        self.nodes.iter().find(|node| node.name == name).ok_or_else(|| ConfigError::UnknownNode {
            path: self.path.clone(),
            name: name.to_owned(),
            known: self.nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>().join(", "),
        })
    }

    /// What the node of this name is started with.
    ///
    /// # Errors
    /// An unknown name, or secrets that cannot be read or do not belong to the node.
    pub fn node_settings(&self, name: &str, base: &Path, initialise: bool) -> Result<NodeSettings, ConfigError> {
        let node = self.node(name)?;
        let secrets = self.secrets_of(node)?;
        let peers = self.nodes.iter().filter(|other| other.name != node.name).map(peer_settings).collect();
        Ok(NodeSettings {
            name: node.name.clone(),
            validator: node.validator,
            data_dir: self.node_dir(node, base),
            rest: node.rest,
            listen: node.listen,
            peers,
            seeds: NodeSeeds {
                consensus: secrets.consensus_seed.filter(|_| node.validator.is_some() || node.candidate),
                network: secrets.network_seed,
            },
            network_key: if node.rotated {
                network_public_key(&secrets.network_seed)
            } else {
                node.network_key.clone()
            },
            genesis: self.genesis.clone(),
            features: self.features,
            pacing: self.pacing,
            api: self.api,
            tokens: self.grants(&secrets),
            accounts: self.held_accounts(),
            chaos: self.chaos.enabled,
            batchers: self.actors.batchers,
            verifier_threads: self.actors.verifier_threads,
            query_actors: self.actors.query_actors,
            checkpoint_every: Duration::from_millis(self.storage.checkpoint_every_ms),
            snapshot_every_blocks: self.storage.snapshot_every_blocks,
            retention: self.storage.retention(),
            segment_bytes: self.storage.segment_mib << 20,
            on_full: self.storage.on_full,
            resume_free: self.storage.resume_free(),
            snapshot_sync_commits: self.storage.snapshot_sync_commits,
            upgrade_schema: self.storage.upgrade_schema,
            rewrite: self.storage.rewrite(),
            initialise,
            rejoin: false,
            rotated: node.rotated,
        })
    }

    /// The consensus key of a node, raw: that of the genesis, or that of a candidate; none for another observer.
    ///
    /// # Errors
    /// Secrets of a candidate that cannot be read or do not belong to the node.
    pub fn consensus_key(&self, node: &NodeEntry) -> Result<Option<Vec<u8>>, ConfigError> {
        if let Some(validator) = node.validator.and_then(|index| self.genesis.validators.get(usize::from(index))) {
            return Ok(Some(validator.consensus_key.as_bytes().to_vec()));
        }
        if !node.candidate {
            return Ok(None);
        }
        Ok(self.secrets_of(node)?.consensus_seed.map(|seed| public_key_of_seed(&seed)))
    }

    fn secrets_of(&self, node: &NodeEntry) -> Result<NodeSecrets, ConfigError> {
        if let Some(development) = self.development.as_ref().filter(|_| !node.rotated) {
            return Ok(development.node_secrets(&node.name));
        }
        let path = node
            .secrets
            .as_ref()
            .ok_or_else(|| ConfigError::NoSecrets { path: self.path.clone(), node: node.name.clone() })?;
        let ask = |_: &Path| {
            let none = "it is encrypted: name passphrase_file or passphrase_env in the node's table";
            node.passphrase.read()?.ok_or_else(|| none.to_owned())
        };
        let secrets = NodeSecrets::load(path, &ask)?;
        let wrong =
            |what: &'static str| ConfigError::ForeignSecrets { path: path.clone(), node: node.name.clone(), what };
        if node.rotated {
            // Which keys are in force the ledger says, and the node's log with it.
            return if secrets.consensus_seed.is_some() { Ok(secrets) } else { Err(wrong("consensus")) };
        }
        if network_public_key(&secrets.network_seed) != node.network_key {
            return Err(wrong("network"));
        }
        if node.candidate && secrets.consensus_seed.is_none() {
            return Err(wrong("consensus"));
        }
        if let Some(index) = node.validator {
            let seed = secrets.consensus_seed.ok_or_else(|| wrong("consensus"))?;
            if public_key_of_seed(&seed) != self.genesis.validators[usize::from(index)].consensus_key.as_bytes() {
                return Err(wrong("consensus"));
            }
        }
        Ok(secrets)
    }

    fn grants(&self, secrets: &NodeSecrets) -> Vec<TokenGrant> {
        let digest = |token: &str| blake3_digest(token.as_bytes());
        let admin =
            secrets.admin_token.as_ref().map(|token| TokenGrant { digest: digest(token), account: None, admin: true });
        let bound = self.development.as_ref().and_then(|development| {
            let account: Hash = self.genesis.accounts.first()?.address.0;
            Some(TokenGrant { digest: digest(&development.account_token()), account: Some(account), admin: false })
        });
        admin.into_iter().chain(bound).collect()
    }

    fn held_accounts(&self) -> Vec<HeldAccount> {
        let Some(development) = &self.development else { return Vec::new() };
        let first = self.genesis.accounts.first();
        first
            .map(|account| HeldAccount { address: account.address.0, seed: development.account_seed(0) })
            .into_iter()
            .collect()
    }
}

fn peer_settings(node: &NodeEntry) -> PeerSettings {
    PeerSettings {
        name: node.name.clone(),
        validator: node.validator,
        address: node.listen,
        rest: Some(node.rest),
        network_key: node.network_key.clone(),
    }
}

#[cfg(test)]
mod tests;
