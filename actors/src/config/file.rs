//! The config file's own shape, and the checks that turn it into a [`ClusterConfig`].

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use aurigraph_gpu::BackEnd;
use aurigraph_ledger::types::parse_aur;
use aurigraph_ledger::{FeeSchedule, Foundation, Genesis, ProtocolParameters};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::development::Development;
use super::secrets::{NodePublic, network_public_key, read_file};
use super::{ClusterConfig, ConfigError, NodeEntry, PassphraseSource};
use crate::settings::{ApiLimits, Features, OnFull, PacingSettings, Retention};
use crate::storage::RewriteOptions;

/// Durability of the queryable state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageSettings {
    /// How often the state is written to the store at the least, milliseconds.
    pub checkpoint_every_ms: u64,
    /// A snapshot of the state is written every so many ledger blocks; 0 for never. Two are kept.
    pub snapshot_every_blocks: u64,
    /// A node that is more commits behind than this takes a snapshot from a peer before the commits after it; 0 for never.
    pub snapshot_sync_commits: u64,
    /// May a start bring an older schema of the store up by itself. If not, it says what to run.
    pub upgrade_schema: bool,
    /// Keep the whole log for ever. If not, segments that neither this node nor, by the three fields below, others need
    /// are removed.
    pub archive: bool,
    /// Segments of the log that were written to within so many seconds stay.
    pub keep_seconds: u64,
    /// The newest so many commits stay in the log.
    pub keep_commits: u64,
    /// So many MiB of the log's sealed segments stay.
    pub keep_mib: u64,
    /// Size at which a segment of the log is sealed, MiB.
    pub segment_mib: u64,
    /// What the node does when its disk is full or read-only.
    pub on_full: OnFull,
    /// A node that waits for room starts again once so many MiB are free; two segments of the log at the least.
    pub resume_free_mib: u64,
    /// The store is rewritten in the background once it takes more than so many times its data on disk; 0 for never.
    pub rewrite_factor: u64,
    /// But not while it takes fewer MiB than this.
    pub rewrite_floor_mib: u64,
}

impl StorageSettings {
    /// When the store is rewritten.
    pub(super) const fn rewrite(&self) -> RewriteOptions {
        RewriteOptions { factor: self.rewrite_factor, floor: self.rewrite_floor_mib << 20 }
    }

    /// What is kept of the log for others; none for an archive.
    pub(super) fn retention(&self) -> Option<Retention> {
        let kept = Retention { seconds: self.keep_seconds, commits: self.keep_commits, bytes: self.keep_mib << 20 };
        (!self.archive).then_some(kept)
    }

    /// Bytes that must be free. A start gives the last segment its room again and soon needs another.
    pub(super) fn resume_free(&self) -> u64 {
        self.resume_free_mib.max(2 * self.segment_mib) << 20
    }
}

impl Default for StorageSettings {
    fn default() -> Self {
        Self {
            checkpoint_every_ms: 30_000,
            snapshot_every_blocks: 10_000,
            snapshot_sync_commits: 20_000,
            upgrade_schema: true,
            archive: true,
            keep_seconds: 86_400,
            keep_commits: 20_000,
            keep_mib: 1_024,
            segment_mib: 64,
            on_full: OnFull::Wait,
            resume_free_mib: 256,
            rewrite_factor: 4,
            rewrite_floor_mib: 256,
        }
    }
}

/// How many actors there are of the kinds that come in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ActorCounts {
    /// Batchers.
    pub batchers: usize,
    /// Verifier threads; 0 = one per core.
    pub verifier_threads: usize,
    /// Query actors.
    pub query_actors: usize,
}

impl Default for ActorCounts {
    fn default() -> Self {
        Self { batchers: 1, verifier_threads: 0, query_actors: 2 }
    }
}

/// What checks signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CryptoSettings {
    /// On the processor.
    pub back_end: BackEnd,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CryptoTable {
    back_end: Option<Spanned<String>>,
}

/// Killing actors on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChaosSettings {
    /// May actors be killed through the admin route.
    pub enabled: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GenesisTable {
    mode: Option<Spanned<String>>,
    file: Option<Spanned<PathBuf>>,
    seed: Option<Spanned<String>>,
    network: Option<Spanned<String>>,
    timestamp_ms: Option<Spanned<u64>>,
    accounts: Option<Spanned<usize>>,
    signers: Option<Spanned<usize>>,
    signer_balance: Option<Spanned<String>>,
    recipient_balance: Option<Spanned<String>>,
    #[serde(default)]
    fees: FeeSchedule,
    #[serde(default)]
    parameters: ProtocolParameters,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeTable {
    name: Spanned<String>,
    #[serde(default = "yes")]
    validator: bool,
    /// An observer with a consensus key, which may become a validator.
    #[serde(default)]
    candidate: bool,
    /// Its validator has rotated its keys: those of its secrets file are not the genesis' any more.
    #[serde(default)]
    rotated: bool,
    stake: Option<Spanned<u64>>,
    rest: Spanned<SocketAddr>,
    listen: Spanned<SocketAddr>,
    data_dir: Option<PathBuf>,
    secrets: Option<PathBuf>,
    passphrase_file: Option<PathBuf>,
    passphrase_env: Option<String>,
    public: Option<PathBuf>,
}

const fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tables {
    genesis: Spanned<GenesisTable>,
    #[serde(default)]
    node: Vec<NodeTable>,
    #[serde(default)]
    features: Features,
    #[serde(default)]
    pacing: PacingSettings,
    #[serde(default)]
    api: ApiLimits,
    #[serde(default)]
    storage: StorageSettings,
    #[serde(default)]
    actors: ActorCounts,
    #[serde(default)]
    crypto: CryptoTable,
    #[serde(default)]
    chaos: ChaosSettings,
}

/// A file that parsed but whose values are not yet checked.
pub(super) struct ConfigFile {
    path: PathBuf,
    text: String,
    tables: Tables,
}

/// Milliseconds since 1970 at which development chains start: fixed, so that every start gives the same chain.
const DEVELOPMENT_EPOCH_MS: u64 = 1_767_225_600_000;

impl ConfigFile {
    pub(super) fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read_file(path)?;
        let tables = toml::from_str(&text).map_err(|error| ConfigError::of_toml(path, &text, &error))?;
        Ok(Self { path: path.to_owned(), text, tables })
    }

    fn error<T>(&self, at: &Spanned<T>, problem: impl Into<String>) -> ConfigError {
        ConfigError::at(&self.path, &self.text, at.span(), problem)
    }

    /// An error of one field of a plain table, at the line where it is written.
    fn field_error(&self, table: &str, field: &str, problem: String) -> ConfigError {
        let mut current = "";
        let mut line = 0;
        for (index, text) in self.text.lines().map(str::trim).enumerate() {
            if text.starts_with('[') {
                current = text.trim_matches(['[', ']']);
            } else if current == table && text.split('=').next().is_some_and(|key| key.trim() == field) {
                line = index + 1;
            }
        }
        ConfigError::Invalid { path: self.path.clone(), line, field: format!("{table}.{field}"), problem }
    }

    /// A path of the config is relative to the config's folder.
    fn resolve(&self, path: &Path) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    pub(super) fn check(self) -> Result<ClusterConfig, ConfigError> {
        self.check_nodes()?;
        self.check_ranges()?;
        let crypto = self.crypto()?;
        let (genesis, development) = self.genesis()?;
        let genesis =
            Foundation::new(genesis).map_err(|source| ConfigError::Genesis { path: self.genesis_path(), source })?;
        let nodes = self.tables.node.iter().map(|node| self.entry(node, &genesis, development.as_ref()));
        let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
        Ok(ClusterConfig {
            path: self.path,
            genesis,
            development,
            nodes,
            features: self.tables.features,
            pacing: self.tables.pacing,
            api: self.tables.api,
            storage: self.tables.storage,
            actors: self.tables.actors,
            crypto,
            chaos: self.tables.chaos,
        })
    }

    fn genesis_path(&self) -> PathBuf {
        self.tables
            .genesis
            .get_ref()
            .file
            .as_ref()
            .map_or_else(|| self.path.clone(), |file| self.resolve(file.get_ref()))
    }

    fn check_nodes(&self) -> Result<(), ConfigError> {
        if self.tables.node.is_empty() {
            return Err(self.error(&self.tables.genesis, "the config has no [[node]]: a cluster has at least one"));
        }
        let mut names = HashMap::new();
        let mut addresses = HashMap::<SocketAddr, String>::new();
        for node in &self.tables.node {
            let name = node.name.get_ref();
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if name.is_empty() || name.len() > 32 || !name.chars().all(plain) {
                return Err(self.error(&node.name, format!("{name:?} is no node name: 1 to 32 of a-z A-Z 0-9 - _")));
            }
            if names.insert(name.clone(), ()).is_some() {
                return Err(self.error(&node.name, format!("{name:?} is the name of an earlier node")));
            }
            for address in [&node.rest, &node.listen] {
                if address.get_ref().port() == 0 {
                    return Err(self.error(address, "port 0 is no port that the others could reach"));
                }
                if let Some(other) = addresses.insert(*address.get_ref(), name.clone()) {
                    let taken = address.get_ref();
                    return Err(self.error(address, format!("{taken} is already used by node {other:?}")));
                }
            }
        }
        Ok(())
    }

    fn check_ranges(&self) -> Result<(), ConfigError> {
        let (pacing, api) = (&self.tables.pacing, &self.tables.api);
        let (storage, actors) = (&self.tables.storage, &self.tables.actors);
        let ranges = [
            ("pacing", "min_delay_busy_ms", pacing.min_delay_busy_ms, 1..=10_000),
            ("pacing", "min_delay_idle_ms", pacing.min_delay_idle_ms, pacing.min_delay_busy_ms..=10_000),
            ("pacing", "leader_timeout_ms", pacing.leader_timeout_ms, 20..=60_000),
            ("pacing", "batch_bytes", pacing.batch_bytes as u64, 1_024..=16 << 20),
            ("pacing", "batch_delay_ms", pacing.batch_delay_ms, 1..=10_000),
            ("api", "max_connections", api.max_connections as u64, 1..=1 << 20),
            ("api", "max_body_bytes", api.max_body_bytes as u64, 16 << 10..=256 << 20),
            ("api", "requests_per_second", api.requests_per_second.into(), 1..=u64::from(u32::MAX)),
            ("api", "burst", api.burst.into(), 1..=u64::from(u32::MAX)),
            ("storage", "checkpoint_every_ms", storage.checkpoint_every_ms, 1_000..=3_600_000),
            ("storage", "keep_seconds", storage.keep_seconds, 0..=315_360_000),
            ("storage", "keep_commits", storage.keep_commits, 256..=1_000_000),
            ("storage", "keep_mib", storage.keep_mib, 0..=1 << 24),
            ("storage", "segment_mib", storage.segment_mib, 1..=1_024),
            ("storage", "resume_free_mib", storage.resume_free_mib, 1..=1 << 24),
            ("storage", "rewrite_factor", storage.rewrite_factor, 0..=1_000),
            ("storage", "rewrite_floor_mib", storage.rewrite_floor_mib, 0..=1 << 24),
            ("actors", "batchers", actors.batchers as u64, 1..=64),
            ("actors", "verifier_threads", actors.verifier_threads as u64, 0..=1_024),
            ("actors", "query_actors", actors.query_actors as u64, 1..=256),
        ];
        for (table, field, value, allowed) in ranges {
            if !allowed.contains(&value) {
                let problem = format!("is {value}, allowed is {} to {}", allowed.start(), allowed.end());
                return Err(self.field_error(table, field, problem));
            }
        }
        if !storage.archive && storage.snapshot_every_blocks == 0 {
            let problem = "is false, but a log is pruned behind snapshots alone and storage.snapshot_every_blocks is 0";
            return Err(self.field_error("storage", "archive", problem.to_owned()));
        }
        Ok(())
    }

    fn crypto(&self) -> Result<CryptoSettings, ConfigError> {
        let Some(name) = &self.tables.crypto.back_end else { return Ok(CryptoSettings::default()) };
        let back_end = name.get_ref().parse().map_err(|problem: String| self.error(name, problem))?;
        Ok(CryptoSettings { back_end })
    }

    fn genesis(&self) -> Result<(Genesis, Option<Development>), ConfigError> {
        let table = self.tables.genesis.get_ref();
        match (&table.mode, &table.file) {
            (Some(mode), None) if mode.get_ref() == "development" => {
                let development = self.development(table)?;
                Ok((self.development_genesis(table, &development), Some(development)))
            }
            (Some(mode), None) => {
                Err(self.error(mode, format!("{:?} is no genesis mode; there is \"development\"", mode.get_ref())))
            }
            (None, Some(file)) => Ok((load_genesis(&self.resolve(file.get_ref()))?, None)),
            (Some(mode), Some(_)) => Err(self.error(mode, "give either a mode or a file")),
            (None, None) => {
                Err(self.error(&self.tables.genesis, "needs mode = \"development\" or file = \"genesis.toml\""))
            }
        }
    }

    fn development(&self, table: &GenesisTable) -> Result<Development, ConfigError> {
        for address in self.tables.node.iter().flat_map(|node| [&node.rest, &node.listen]) {
            if !address.get_ref().ip().is_loopback() {
                let problem = format!(
                    "{} is not a loopback address, and in development mode everybody who reads the config has the keys",
                    address.get_ref()
                );
                return Err(self.error(address, problem));
            }
        }
        let seed = table.seed.as_ref().map_or_else(|| "aurigraph".to_owned(), |seed| seed.get_ref().clone());
        let accounts = table.accounts.as_ref().map_or(1_000, |accounts| *accounts.get_ref());
        let signers = table.signers.as_ref().map_or(16.min(accounts), |signers| *signers.get_ref());
        if let Some(spanned) = table.signers.as_ref().filter(|_| !(1..=accounts.min(100_000)).contains(&signers)) {
            return Err(self.error(
                spanned,
                format!("is {signers}, allowed is 1 to {} (accounts, at most 100000)", accounts.min(100_000)),
            ));
        }
        Ok(Development {
            seed,
            accounts,
            signers,
            signer_balance: self.amount(table.signer_balance.as_ref(), "1000000")?,
            recipient_balance: self.amount(table.recipient_balance.as_ref(), "1")?,
        })
    }

    fn amount(&self, field: Option<&Spanned<String>>, default: &str) -> Result<u128, ConfigError> {
        let text = field.map_or(default, |spanned| spanned.get_ref().as_str());
        parse_aur(text).map_err(|error| match field {
            Some(spanned) => self.error(spanned, error.to_string()),
            None => self.error(&self.tables.genesis, error.to_string()),
        })
    }

    fn development_genesis(&self, table: &GenesisTable, development: &Development) -> Genesis {
        let network = table.network.as_ref().map_or("aurigraph-development", |name| name.get_ref());
        let timestamp = table.timestamp_ms.as_ref().map_or(DEVELOPMENT_EPOCH_MS, |time| *time.get_ref());
        let stake = |node: &NodeTable| node.stake.as_ref().map_or(1, |stake| *stake.get_ref());
        let validators = self.tables.node.iter().filter(|node| node.validator);
        let validators: Vec<_> = validators.map(|node| (node.name.get_ref().clone(), stake(node))).collect();
        development.genesis(network, timestamp, table.fees, table.parameters, &validators)
    }

    fn entry(
        &self,
        node: &NodeTable,
        genesis: &Genesis,
        development: Option<&Development>,
    ) -> Result<NodeEntry, ConfigError> {
        let name = node.name.get_ref();
        let validator = genesis.validator_index(name);
        if node.validator && validator.is_none() {
            return Err(self.error(&node.name, format!("{name:?} is to validate but is not in the genesis")));
        }
        if !node.validator && validator.is_some() {
            return Err(self.error(&node.name, format!("{name:?} is an observer here but a validator in the genesis")));
        }
        if let Some(stake) = &node.stake {
            let expected = validator.map_or(0, |index| genesis.validators[usize::from(index)].stake);
            if *stake.get_ref() != expected {
                return Err(self.error(stake, format!("is {}, but the genesis says {expected}", stake.get_ref())));
            }
        }
        Ok(NodeEntry {
            name: name.clone(),
            validator,
            candidate: node.candidate,
            rotated: node.rotated,
            rest: *node.rest.get_ref(),
            listen: *node.listen.get_ref(),
            network_key: self.network_key(node, validator, genesis, development)?,
            data_dir: node.data_dir.as_ref().map(|path| self.resolve(path)),
            secrets: node.secrets.as_ref().map(|path| self.resolve(path)),
            passphrase: PassphraseSource {
                file: node.passphrase_file.as_ref().map(|path| self.resolve(path)),
                variable: node.passphrase_env.clone(),
            },
        })
    }

    fn network_key(
        &self,
        node: &NodeTable,
        validator: Option<u16>,
        genesis: &Genesis,
        development: Option<&Development>,
    ) -> Result<Vec<u8>, ConfigError> {
        if let Some(index) = validator {
            return Ok(genesis.validators[usize::from(index)].network_key.as_bytes().to_vec());
        }
        if let Some(development) = development {
            return Ok(network_public_key(&development.node_secrets(node.name.get_ref()).network_seed));
        }
        let Some(public) = &node.public else {
            return Err(self.error(&node.name, "an observer outside the genesis needs public = \"NAME.pub.json\""));
        };
        Ok(NodePublic::load(&self.resolve(public))?.network_key.as_bytes().to_vec())
    }
}

/// Reads a genesis file.
///
/// # Errors
/// If it cannot be read, or is no genesis.
pub fn load_genesis(path: &Path) -> Result<Genesis, ConfigError> {
    let text = read_file(path)?;
    toml::from_str(&text).map_err(|error| ConfigError::of_toml(path, &text, &error))
}
