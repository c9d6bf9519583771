//! Checkpoints and their certificates.

use aurigraph_consensus::Divergence;
use aurigraph_ledger::Hash;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::query::values::HexHash;

/// A validator's signed statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignedCoreView {
    /// The validator's name.
    pub validator: String,
    /// Its index.
    pub author: u16,
    /// The round of its block.
    pub round: u32,
    /// The checkpoint that it attests: this one, or a later one that follows it.
    pub attested_sequence: u64,
    /// The block's core and the signature over it, in the form that is signed: 0x and hex digits.
    pub bytes: String,
}

/// Shows that a quorum attests a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateView {
    /// Stake of the signers.
    pub stake: String,
    /// Stake that is needed.
    pub quorum_stake: String,
    /// All stake.
    pub total_stake: String,
    /// One for each signer.
    pub cores: Vec<SignedCoreView>,
    /// Headers of the checkpoints after this one, up to the newest attested: 0x and hex digits. Mostly none; many on a node
    /// that was far behind when this one was attested.
    pub followers: Vec<String>,
}

/// A checkpoint of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointView {
    /// Its number.
    pub sequence: u64,
    /// Its epoch.
    pub epoch: u64,
    /// Its digest: what validators attest.
    #[schemars(with = "HexHash")]
    pub digest: Hash,
    /// Height of the block after which it was taken.
    pub height: u64,
    /// The commit of that block.
    pub commit_index: u64,
    /// Hash of that block.
    #[schemars(with = "HexHash")]
    pub block_hash: Hash,
    /// Root of the state.
    #[schemars(with = "HexHash")]
    pub state_root: Hash,
    /// Digest of the checkpoint before.
    #[schemars(with = "HexHash")]
    pub previous_digest: Hash,
    /// The header, from which all of this follows: 0x and hex digits.
    pub header: String,
    /// Its certificate, or the next one of its epoch, which speaks for it by its followers; none while this node has not
    /// seen a quorum attest either.
    pub certificate: Option<CertificateView>,
    /// Headers of ledger blocks from the asked height to the checkpoint's: 0x and hex digits. Empty if none was asked.
    pub ledger_headers: Vec<String>,
    /// From the validators of the asked epoch to those of the checkpoint's, one step an epoch. Empty if none was asked.
    pub epoch_hops: Vec<EpochHopView>,
}

/// From the validators of an epoch to those of the next: 0x and hex digits each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EpochHopView {
    /// The epoch that ends.
    pub epoch: u64,
    /// Its certificate.
    pub certificate: String,
    /// Its final checkpoint.
    pub checkpoint: String,
    /// The next validator set.
    pub validators: String,
}

/// Where this node's execution was found to differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DivergenceView {
    /// At which checkpoint.
    pub sequence: u64,
    /// What this node came to; none if it had not executed so far.
    #[schemars(with = "Option<HexHash>")]
    pub own_digest: Option<Hash>,
    /// What others came to.
    #[schemars(with = "HexHash")]
    pub other_digest: Hash,
    /// Stake of those.
    pub other_stake: String,
    /// No digest can reach a quorum: every node has stopped.
    pub network_wide: bool,
}

impl From<Divergence> for DivergenceView {
    fn from(divergence: Divergence) -> Self {
        Self {
            sequence: divergence.seq,
            own_digest: divergence.own,
            other_digest: divergence.other,
            other_stake: divergence.stake.to_string(),
            network_wide: divergence.network_wide,
        }
    }
}
