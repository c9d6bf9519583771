//! What one node is started with. Built by the binary from a cluster config; the actors read it and change nothing.
//!
//! These values may differ between validators without harming safety. Whatever must be equal on all of them stands in
//! the genesis.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use aurigraph_ledger::Hash;
use zeroize::Zeroize as _;

use crate::storage::RewriteOptions;

/// The five toggles of the optimisation scenarios: local, without effect on agreement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Features {
    /// Off: one transaction a batch.
    pub transaction_batching: bool,
    /// Off: no own payload until the previous commit is executed and persisted.
    pub consensus_pipelining: bool,
    /// Off: a fresh buffer per frame and batch.
    pub memory_pooling: bool,
    /// Off: one frame per write, no compression.
    pub network_batching: bool,
    /// Off: CPU back-ends only.
    pub gpu_acceleration: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            transaction_batching: true,
            consensus_pipelining: true,
            memory_pooling: true,
            network_batching: true,
            gpu_acceleration: true,
        }
    }
}

/// One member of the cluster as this node sees it.
#[derive(Debug, Clone)]
pub struct PeerSettings {
    /// Its name, `v2`.
    pub name: String,
    /// Its index in the genesis validator list; none for an observer.
    pub validator: Option<u16>,
    /// Where its node listener is reached.
    pub address: SocketAddr,
    /// Where its REST server is reached, as far as this node's config says.
    pub rest: Option<SocketAddr>,
    /// Its network identity: a raw ML-DSA-87 public key (2,592 bytes).
    pub network_key: Vec<u8>,
}

/// The secret seeds of one node: ML-DSA-87 keys are generated from them.
#[derive(Clone)]
pub struct NodeSeeds {
    /// Signs blocks. None for an observer.
    pub consensus: Option<[u8; 32]>,
    /// Authenticates links.
    pub network: [u8; 32],
}

impl Drop for NodeSeeds {
    fn drop(&mut self) {
        self.consensus.zeroize();
        self.network.zeroize();
    }
}

impl std::fmt::Debug for NodeSeeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeSeeds(secret)")
    }
}

/// An account for which this node signs when its bearer token is shown.
#[derive(Clone)]
pub struct HeldAccount {
    /// Its address.
    pub address: Hash,
    /// The seed of its ML-DSA-87 key.
    pub seed: [u8; 32],
}

impl Drop for HeldAccount {
    fn drop(&mut self) {
        self.seed.zeroize();
    }
}

impl std::fmt::Debug for HeldAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HeldAccount({})", self.address)
    }
}

/// A bearer token and what it allows.
#[derive(Debug, Clone)]
pub struct TokenGrant {
    /// BLAKE3 of the token, so that the token itself is not kept.
    pub digest: Hash,
    /// The account that it may sign for.
    pub account: Option<Hash>,
    /// May it use the admin routes.
    pub admin: bool,
}

/// Rates and sizes at the HTTP edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiLimits {
    /// Connections held open at once; more are refused.
    pub max_connections: usize,
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// Requests a second and client before 429.
    pub requests_per_second: u32,
    /// Requests that may come at once.
    pub burst: u32,
}

impl Default for ApiLimits {
    fn default() -> Self {
        Self { max_connections: 4_096, max_body_bytes: 8 << 20, requests_per_second: 50_000, burst: 100_000 }
    }
}

/// Pacing of the local proposer; see consensus.md 4.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PacingSettings {
    /// Least time between two own blocks while there is payload, milliseconds.
    pub min_delay_busy_ms: u64,
    /// Least time between two own blocks while nothing is pending, milliseconds.
    pub min_delay_idle_ms: u64,
    /// First wait for a round's leader, milliseconds; adapts between 100 ms and 8 s.
    pub leader_timeout_ms: u64,
    /// Largest batch, bytes.
    pub batch_bytes: usize,
    /// Longest wait before a batch that is not full is sealed, milliseconds.
    pub batch_delay_ms: u64,
}

impl Default for PacingSettings {
    fn default() -> Self {
        Self {
            min_delay_busy_ms: 50,
            min_delay_idle_ms: 500,
            leader_timeout_ms: 300,
            batch_bytes: 512 * 1024,
            batch_delay_ms: 20,
        }
    }
}

/// How much of the log is kept for others, beyond what this node itself needs: whatever of the three keeps more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Segments written to within so many seconds stay.
    pub seconds: u64,
    /// The newest so many commits stay.
    pub commits: u64,
    /// So many bytes of sealed segments stay.
    pub bytes: u64,
}

/// What a node does whose disk is full or read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFull {
    /// It answers 503 with the reason and starts again once there is room.
    #[default]
    Wait,
    /// Its process ends.
    Stop,
}

/// Everything that one node is started with.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// The node's name, `v1`: first part of every actor's name.
    pub name: String,
    /// Its index in the genesis validator list; none for an observer.
    pub validator: Option<u16>,
    /// Where its files live.
    pub data_dir: PathBuf,
    /// Where the HTTP server listens.
    pub rest: SocketAddr,
    /// Where the node listener (both lanes) listens.
    pub listen: SocketAddr,
    /// All other members.
    pub peers: Vec<PeerSettings>,
    /// Its secrets.
    pub seeds: NodeSeeds,
    /// Its own network identity, raw public key.
    pub network_key: Vec<u8>,
    /// The genesis of the chain.
    pub genesis: aurigraph_ledger::Foundation,
    /// The toggles.
    pub features: Features,
    /// Pacing of the proposer.
    pub pacing: PacingSettings,
    /// Limits of the HTTP edge.
    pub api: ApiLimits,
    /// Bearer tokens.
    pub tokens: Vec<TokenGrant>,
    /// Accounts that the node signs for.
    pub accounts: Vec<HeldAccount>,
    /// May actors be killed through the admin route.
    pub chaos: bool,
    /// Batchers.
    pub batchers: usize,
    /// Verifier threads; 0 = one per core.
    pub verifier_threads: usize,
    /// Query actors.
    pub query_actors: usize,
    /// How often the state is written to the store at the least.
    pub checkpoint_every: Duration,
    /// A snapshot of the state is written every so many ledger blocks; 0 for never.
    pub snapshot_every_blocks: u64,
    /// What is kept of the log for others; none: all of it, for ever.
    pub retention: Option<Retention>,
    /// Size at which a segment of the log is sealed, bytes.
    pub segment_bytes: u64,
    /// What it does when its disk is full or read-only.
    pub on_full: OnFull,
    /// It starts again once so many bytes are free there.
    pub resume_free: u64,
    /// A node that is more commits behind than this takes a snapshot of a peer's; 0 for never.
    pub snapshot_sync_commits: u64,
    /// May the start bring an older schema of the store up by itself.
    pub upgrade_schema: bool,
    /// When the store is rewritten.
    pub rewrite: RewriteOptions,
    /// Data directories of validators are initialised once, by an explicit act: only then may this be true.
    pub initialise: bool,
    /// A validator whose directory was lost starts with an empty one: it observes until the others have proved which rounds
    /// it cannot have signed.
    pub rejoin: bool,
    /// The validator's keys were rotated: its log begins under keys that are not these.
    pub rotated: bool,
}
