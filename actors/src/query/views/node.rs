//! This node.

use aurigraph_ledger::Hash;
use aurigraph_runtime::ActorRow;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checkpoint::DivergenceView;
use crate::query::values::{HexHash, Timestamp};

/// The process answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthView {
    /// `UP`; `DIVERGED` on a node that has stopped executing because it came to another state than the others.
    pub status: String,
    /// The node's name.
    pub node: String,
    /// Seconds since the process started.
    pub uptime: u64,
}

/// One condition of readiness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadyCheck {
    /// Which.
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// The figures behind it.
    pub detail: String,
}

/// Whether the node serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadyView {
    /// All conditions hold.
    pub ready: bool,
    /// The conditions.
    pub checks: Vec<ReadyCheck>,
}

/// One of the five toggles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeatureView {
    /// Whether it is in effect.
    pub enabled: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// A device for signatures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceView {
    /// Its number, as the driver counts; the metrics' label `device`.
    pub device: u64,
    /// `off`, `starting`, `absent`, `ready` or `quarantined`.
    pub state: String,
    /// What it calls itself, while it is used.
    pub name: Option<String>,
    /// Why it is not used.
    pub reason: Option<String>,
    /// From how many signatures on a batch is faster there than on the processor.
    pub crossover: Option<u64>,
    /// Signatures a second, as measured at its start.
    pub signatures_per_second: Option<f64>,
}

/// What runs here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InfoView {
    /// The node's name.
    pub node: String,
    /// The software's version.
    pub version: String,
    /// Version of the store's schema; none before it is open.
    pub schema_version: Option<u64>,
    /// The chain's id.
    #[schemars(with = "HexHash")]
    pub chain_id: Hash,
    /// The network's name.
    pub network: String,
    /// `validator` or `observer`.
    pub role: String,
    /// When the process started.
    pub started_at: Timestamp,
    /// Whether actors may be killed through the admin route.
    pub chaos: bool,
    /// The toggles by name.
    pub features: std::collections::BTreeMap<String, FeatureView>,
    /// The devices for signatures, by number. Where there is none, one that says why.
    pub devices: Vec<DeviceView>,
}

/// Live figures of this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PerformanceView {
    /// When they were taken.
    pub timestamp: Timestamp,
    /// Committed operations a second over the recent window.
    pub operations_per_second: Option<f64>,
    /// Committed transactions (signatures) a second over the recent window.
    pub signatures_per_second: Option<f64>,
    /// Mean operations of a transaction over the recent window.
    pub operations_per_signature: Option<f64>,
    /// The window's length, milliseconds.
    pub window_ms: u64,
    /// Operations committed since the start.
    pub operations: u64,
    /// Transactions committed since the start.
    pub transactions: u64,
    /// Blocks published since the start.
    pub blocks: u64,
    /// Mean time from commit time to published over the recent window, milliseconds.
    pub average_finality_ms: Option<f64>,
    /// Mean commit time between recent blocks, milliseconds.
    pub average_block_time_ms: Option<f64>,
    /// CPU seconds used by the process.
    pub cpu_seconds: Option<f64>,
    /// Resident memory in bytes.
    pub resident_bytes: Option<u64>,
    /// Threads of the process.
    pub threads: Option<u64>,
    /// Open file descriptors.
    pub open_files: Option<u64>,
    /// Messages handled by all actors since the start.
    pub actor_messages: u64,
    /// Messages waiting in all mailboxes.
    pub mailbox_depth: u64,
    /// Actors that run.
    pub actors: u64,
}

/// Where consensus and execution stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsensusView {
    /// Height of the newest published block.
    pub height: u64,
    /// Its hash.
    #[schemars(with = "HexHash")]
    pub block_hash: Hash,
    /// The state root in its header.
    #[schemars(with = "HexHash")]
    pub state_root: Hash,
    /// Height of the newest ledger checkpoint.
    pub checkpoint_height: Option<u64>,
    /// The round that may be built next; none before consensus has reported.
    pub round: Option<u32>,
    /// Height up to which blocks are executed.
    pub executed_height: u64,
    /// The newest commit's leader.
    pub leader: Option<String>,
    /// The epoch.
    pub epoch: u64,
    /// The protocol version that it runs; none before consensus has reported.
    pub protocol_version: Option<u16>,
    /// Its first commit.
    pub epoch_first_commit: Option<u64>,
    /// Its last commit, once that is known: the epoch closes.
    pub epoch_last_commit: Option<u64>,
    /// Stake that attests its final checkpoint; as much as a certificate needs ends the epoch.
    pub epoch_attested_stake: Option<String>,
    /// The newest commit.
    pub last_commit_index: Option<u64>,
    /// The newest executed commit.
    pub executed_commit_index: u64,
    /// Number of the newest checkpoint that this node attests; none before consensus has reported.
    pub checkpoint_sequence: Option<u64>,
    /// Number of the newest checkpoint with a certificate.
    pub certified_sequence: Option<u64>,
    /// Its digest.
    #[schemars(with = "Option<HexHash>")]
    pub certified_digest: Option<Hash>,
    /// Stake of its certificate's signers.
    pub certificate_stake: Option<String>,
    /// Stake that a certificate needs.
    pub quorum_stake: String,
    /// Where execution was found to differ: this node has stopped executing. None on a sound node.
    pub divergence: Option<DivergenceView>,
    /// `probing`, `active`, `catch_up`, `observer` or `halted`.
    pub mode: Option<String>,
    /// Whether this validator signs, and why not; none before consensus has reported.
    pub signing: Option<SigningView>,
    /// Validators whose links are up, this one included.
    pub connected_validators: Option<u64>,
    /// Who leads; none before consensus has reported.
    pub schedule: Option<ScheduleView>,
}

/// The leader schedule: stake decides who leads, and who voted least for leaders in a window does not lead in the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleView {
    /// Digest of its state; equal on all validators that have decided the same leader slots.
    #[schemars(with = "HexHash")]
    pub digest: Hash,
    /// Tables made in this epoch.
    pub updates: u64,
    /// The first round of the newest table.
    pub from_round: u32,
    /// Validators out of the rotation.
    pub bad: Vec<String>,
    /// Validators that lead in their place, best first.
    pub good: Vec<String>,
}

/// What a validator may sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SigningView {
    /// `signing`; `waiting` for the answers that every start asks for; `doubtful` when the log does not say what was signed
    /// last; `proven` when the others have proved the floor and it is about to sign; `no_key` at an observer.
    pub state: String,
    /// Only rounds above may be signed; none if that is unknown.
    pub floor: Option<u32>,
    /// What makes the log doubtful.
    pub why: Option<String>,
}

/// One actor or supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActorRowView {
    /// `node/role[/index]`.
    pub name: String,
    /// Its supervisor.
    pub parent: Option<String>,
    /// Whether it is one itself.
    pub supervisor: bool,
    /// `starting`, `running`, `backingOff`, `stopped` or `failed`.
    pub state: String,
    /// When that began.
    pub since: Timestamp,
    /// Incarnations after the first.
    pub restarts: u64,
    /// Why the last incarnation ended, if one did.
    pub last_failure: Option<String>,
    /// When.
    pub last_failure_at: Option<Timestamp>,
    /// Messages waiting or being handled.
    pub mailbox_depth: u64,
    /// Most messages that may wait; 0 for supervisors.
    pub mailbox_bound: u64,
    /// Messages handled since the process started.
    pub messages: u64,
}

impl From<ActorRow> for ActorRowView {
    fn from(row: ActorRow) -> Self {
        let state = serde_json::to_value(row.state).ok().and_then(|value| value.as_str().map(ToOwned::to_owned));
        Self {
            name: row.name,
            parent: row.parent,
            supervisor: row.supervisor,
            state: state.unwrap_or_default(),
            since: row.since.into(),
            restarts: row.restarts,
            last_failure_at: row.last_failure.as_ref().map(|failure| failure.at.into()),
            last_failure: row.last_failure.map(|failure| failure.reason),
            mailbox_depth: row.mailbox_depth as u64,
            mailbox_bound: row.mailbox_bound as u64,
            messages: row.messages,
        }
    }
}

/// The live supervision tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActorTreeView {
    /// By name.
    pub actors: Vec<ActorRowView>,
    /// How many there are.
    pub total: u64,
}
