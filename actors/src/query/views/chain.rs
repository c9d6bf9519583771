//! Blocks and transactions.

use aurigraph_ledger::Hash;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::query::values::{HexHash, Timestamp, Units};

/// Which part of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// From 1.
    pub number: u64,
    /// At most [`crate::bounds::query::PAGE_SIZE`].
    pub size: u64,
}

impl Page {
    /// How many entries come before it.
    #[must_use]
    pub const fn skip(self) -> u64 {
        self.number.saturating_sub(1).saturating_mul(self.size)
    }

    /// This part of a list that is in memory.
    pub fn of<T>(self, list: impl IntoIterator<Item = T>) -> Vec<T> {
        let skip = usize::try_from(self.skip()).unwrap_or(usize::MAX);
        list.into_iter().skip(skip).take(usize::try_from(self.size).unwrap_or(usize::MAX)).collect()
    }
}

/// A ledger block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockView {
    /// Its height.
    pub height: u64,
    /// Its hash.
    #[schemars(with = "HexHash")]
    pub hash: Hash,
    /// Hash of the block before.
    #[schemars(with = "HexHash")]
    pub parent_hash: Hash,
    /// Commit time.
    pub timestamp: Timestamp,
    /// How many transactions it includes.
    pub transaction_count: u32,
    /// How many operations they hold.
    pub operation_count: u64,
    /// Encoded bytes of its transactions; none where they are no longer at hand.
    pub size: Option<u64>,
    /// The leader whose block committed it; none at genesis.
    pub validator: Option<String>,
    /// Root of the newest checkpoint at a lower height.
    #[schemars(with = "HexHash")]
    pub state_root: Hash,
    /// Sequence number of that checkpoint.
    pub checkpoint_sequence: u64,
    /// Root over its transactions.
    #[schemars(with = "HexHash")]
    pub transactions_root: Hash,
    /// Root over its receipts.
    #[schemars(with = "HexHash")]
    pub receipts_root: Hash,
    /// Fuel used by contracts; none, because this protocol version has no contracts.
    pub gas_used: Option<u64>,
    /// The limit of that fuel.
    pub gas_limit: Option<u64>,
    /// The leader's round.
    pub round: u32,
    /// The epoch.
    pub epoch: u64,
    /// The commit that it stands for.
    pub commit_index: u64,
    /// From the commit's time to the moment this node had executed and stored it; none where it was not measured.
    pub finalized_after_ms: Option<u64>,
}

/// Newest blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockList {
    /// Newest first.
    pub blocks: Vec<BlockView>,
}

/// Found blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockPage {
    /// Newest first.
    pub blocks: Vec<BlockView>,
    /// How many match.
    pub total: u64,
    /// Which page this is, from 1.
    pub page: u64,
    /// How many a page holds.
    pub page_size: u64,
    /// True if the search read as many headers as one search may: then older matches are not counted.
    pub truncated: bool,
}

/// Which blocks to find. Every bound is inclusive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BlockFilters {
    /// Lowest height.
    pub height_from: Option<u64>,
    /// Greatest height.
    pub height_to: Option<u64>,
    /// Earliest commit time.
    pub date_from: Option<Timestamp>,
    /// Latest commit time.
    pub date_to: Option<Timestamp>,
    /// The leader's name.
    pub validator: Option<String>,
    /// Fewest transactions.
    pub min_transactions: Option<u32>,
    /// Most transactions.
    pub max_transactions: Option<u32>,
}

/// The body of a block search.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BlockSearch {
    /// Which blocks.
    #[serde(deserialize_with = "object")]
    pub filters: BlockFilters,
    /// Which page, from 1.
    #[schemars(range(min = 1))]
    pub page: Option<u64>,
    /// How many a page holds, 1 to 200.
    #[schemars(range(min = 1, max = 200))]
    pub page_size: Option<u64>,
}

/// Reads an object; serde alone would take an array too, field by field.
fn object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BlockFilters, D::Error> {
    let fields = serde_json::Map::deserialize(deserializer)?;
    serde_json::from_value(fields.into()).map_err(serde::de::Error::custom)
}

/// Whether one operation took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OperationStatus {
    /// It is not executed yet.
    Pending,
    /// It took effect.
    Applied,
    /// It had no effect.
    Failed,
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationView {
    /// Its position in the transaction.
    pub index: u32,
    /// `transfer`; one of staking: `bond`, `delegate`, `undelegate`, `unbond`, `withdraw`, `join`, `leave`, `commission`,
    /// `rotate`, `unjail`, `maintenance`; one of identity: `encryption_key`, `anchor_envelope`; or `module` for an operation that this version shows by its tag alone.
    #[serde(rename = "type")]
    pub kind: String,
    /// Who receives: an address, or an account index in decimal.
    pub to: Option<String>,
    /// How much; none where a delegator or operator takes back everything.
    pub amount: Option<Units>,
    /// The row of the validator that an operation of staking is about.
    pub validator: Option<u32>,
    /// The name of a validator that joins.
    pub name: Option<String>,
    /// The commission that is set, in hundredths of a percent.
    pub commission_basis_points: Option<u16>,
    /// How long a maintenance lasts.
    pub seconds: Option<u32>,
    /// Which of the sender's encryption keys is registered.
    pub key_number: Option<u32>,
    /// The digest of an envelope that is anchored.
    #[schemars(with = "Option<HexHash>")]
    pub digest: Option<Hash>,
    /// The tag of its group.
    pub tag: Option<u8>,
    /// Whether it took effect.
    pub status: OperationStatus,
    /// Why it had no effect.
    pub error: Option<String>,
}

/// Where a transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TransactionStatus {
    /// This node knows it, and no block includes it yet.
    Pending,
    /// A block includes it, and at least one operation took effect.
    Committed,
    /// A block includes it and no operation took effect, or it was refused when it was executed.
    Failed,
}

/// Proves that a transaction is in a block: `leaf` = H("tx-leaf", id ‖ signature digest), and the siblings lead from it
/// to the block's transactions root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProofView {
    /// BLAKE3 of the transaction's signature.
    #[schemars(with = "HexHash")]
    pub signature_digest: Hash,
    /// The leaf.
    #[schemars(with = "HexHash")]
    pub leaf: Hash,
    /// The leaf's position.
    pub position: u32,
    /// How many leaves the tree has.
    pub count: u32,
    /// The siblings from the leaf upwards; none at a level where the path's node moved up as it was.
    #[schemars(with = "Vec<HexHash>")]
    pub siblings: Vec<Hash>,
    /// What they lead to.
    #[schemars(with = "HexHash")]
    pub transactions_root: Hash,
    /// The block's canonical header, `0x` hex: H("ledger-header", header) is the block's hash.
    pub header: String,
    /// The block's hash.
    #[schemars(with = "HexHash")]
    pub block_hash: Hash,
}

/// A transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransactionView {
    /// Its id.
    #[schemars(with = "HexHash")]
    pub hash: Hash,
    /// Where it stands.
    pub status: TransactionStatus,
    /// The block that includes it.
    pub block_height: Option<u64>,
    /// Its position there.
    pub index: Option<u32>,
    /// The signer's address; none where the body is not at hand.
    #[schemars(with = "Option<HexHash>")]
    pub from: Option<Hash>,
    /// Its nonce.
    pub nonce: Option<u64>,
    /// The last height at which it could be included.
    pub expiry: Option<u64>,
    /// Whether one failing operation undoes all.
    pub atomic: Option<bool>,
    /// The memo, as text where it is UTF-8, else `0x` hex.
    pub memo: Option<String>,
    /// How many operations it holds.
    pub operation_count: Option<u32>,
    /// Its operations.
    pub operations: Vec<OperationView>,
    /// The fee: paid if committed, reserved if pending.
    pub fee: Option<Units>,
    /// Why it failed, or why its first failed operation did.
    pub error: Option<String>,
    /// Its inclusion proof.
    pub proof: Option<ProofView>,
}

impl TransactionView {
    /// A transaction of which only its id and where it stands is known.
    #[must_use]
    pub const fn unknown(hash: Hash, status: TransactionStatus) -> Self {
        Self {
            hash,
            status,
            block_height: None,
            index: None,
            from: None,
            nonce: None,
            expiry: None,
            atomic: None,
            memo: None,
            operation_count: None,
            operations: Vec::new(),
            fee: None,
            error: None,
            proof: None,
        }
    }
}

/// A transaction in a block's list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransactionSummary {
    /// Its id.
    #[schemars(with = "HexHash")]
    pub hash: Hash,
    /// Where it stands.
    pub status: TransactionStatus,
    /// Its block.
    pub block_height: u64,
    /// Its position there.
    pub index: u32,
    /// How many operations it holds.
    pub operation_count: u32,
    /// How many of them failed.
    pub failed_operations: u32,
    /// The fee that was paid.
    pub fee: Units,
}

/// Transactions of a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransactionPage {
    /// In block order.
    pub transactions: Vec<TransactionSummary>,
    /// How many the block includes.
    pub total: u64,
    /// Which page this is, from 1.
    pub page: u64,
    /// How many a page holds.
    pub page_size: u64,
}

/// What an account is in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AccountRole {
    /// It signed it.
    Sender,
    /// A transfer of it names the account.
    Receiver,
    /// Both.
    Both,
}

/// A transaction in an account's list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountTransaction {
    /// The transaction.
    #[serde(flatten)]
    pub transaction: TransactionSummary,
    /// What the account is in it.
    pub role: AccountRole,
}

/// Transactions of an account. One with more than 16 different receivers is in its sender's list alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountTransactionPage {
    /// Newest first.
    pub transactions: Vec<AccountTransaction>,
    /// How many there are.
    pub total: u64,
    /// Which page this is, from 1.
    pub page: u64,
    /// How many a page holds.
    pub page_size: u64,
    /// True if as many were counted as one listing may: then older ones are not counted.
    pub truncated: bool,
}

/// The chain at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChainStats {
    /// The chain's id.
    #[schemars(with = "HexHash")]
    pub chain_id: Hash,
    /// The network's name.
    pub network: String,
    /// Height of the newest block.
    pub height: u64,
    /// Its hash.
    #[schemars(with = "HexHash")]
    pub block_hash: Hash,
    /// Its commit time.
    pub timestamp: Timestamp,
    /// Accounts that exist.
    pub total_accounts: u64,
    /// Base units that exist.
    pub total_supply: Units,
    /// Fees that wait for their distribution.
    pub fee_pool: Units,
    /// Transactions committed since this node started.
    pub transactions_since_start: u64,
    /// Operations committed since this node started.
    pub operations_since_start: u64,
    /// Blocks published since this node started.
    pub blocks_since_start: u64,
    /// Committed transactions a second over the recent window; none before there are two blocks in it.
    pub transactions_per_second: Option<f64>,
    /// Committed operations a second over the recent window.
    pub operations_per_second: Option<f64>,
    /// Mean commit time between recent blocks, milliseconds.
    pub average_block_time: Option<f64>,
    /// Validators of the epoch.
    pub validators: u64,
}
