//! Accounts and what they hold.

use aurigraph_ledger::Hash;
use aurigraph_ledger::state::AccountProof;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::query::values::{HexHash, Timestamp, Units};

/// What an account holds of one token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenBalance {
    /// The token's id.
    pub token_id: String,
    /// Its symbol.
    pub symbol: String,
    /// How much, in the token's base units.
    pub balance: Units,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BalanceView {
    /// Its address.
    #[schemars(with = "HexHash")]
    pub address: Hash,
    /// Its index: shorter than the address in transfers.
    pub index: u32,
    /// Its balance in base units.
    pub balance: Units,
    /// The first unused nonce.
    pub nonce_base: u64,
    /// Used nonces above the base.
    pub used_nonces: Vec<u64>,
    /// Whether its public key is known, so that its transactions may name it by index.
    pub key_registered: bool,
    /// The number of its registered encryption key, if it has one.
    pub encryption_key_number: Option<u32>,
    /// What it holds of other tokens.
    pub tokens: Vec<TokenBalance>,
    /// What it has staked: as a delegator, and as the operator of validators.
    pub stake: Units,
    /// With whom, as a delegator.
    pub delegations: Vec<DelegationView>,
    /// Stake on its way back to it.
    pub unbonding: Vec<AccountUnbondingView>,
    /// The height of the state that this was read from.
    pub height: u64,
}

/// The key to which others seal for an account. Its signature is checked under `publicKey`, of which the address is the
/// hash: who reads it need not trust the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionKeyView {
    /// The account's address.
    #[schemars(with = "HexHash")]
    pub address: Hash,
    /// The account's ML-DSA-87 key, `0x` hex.
    pub public_key: String,
    /// Which of the account's encryption keys it is; later ones have greater numbers.
    pub number: u32,
    /// The ML-KEM-1024 encapsulation key, `0x` hex.
    pub encryption_key: String,
    /// The account's signature of `aurigraph/encryption-key/2`, the number (four bytes, little-endian) and the key.
    pub signature: String,
    /// In which block it was registered.
    pub height: u64,
}

/// An envelope that an account says to have sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvelopeView {
    /// Who says so.
    #[schemars(with = "HexHash")]
    pub sender: Hash,
    /// The envelope's digest.
    #[schemars(with = "HexHash")]
    pub digest: Hash,
    /// In which block.
    pub height: u64,
    /// The block's time.
    pub timestamp: Timestamp,
}

/// What an account has delegated to a validator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DelegationView {
    /// The validator's id.
    pub validator_id: String,
    /// What it is worth now: with rewards, and without what faults have cost.
    pub amount: Units,
}

/// Stake on its way back to an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountUnbondingView {
    /// The validator's id.
    pub validator_id: String,
    /// How much.
    pub amount: Units,
    /// The first epoch in which it can be withdrawn.
    pub release_epoch: u64,
    /// Whether it can be withdrawn now.
    pub released: bool,
}

/// Proves an account under the state root of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountProofView {
    /// The account's address.
    #[schemars(with = "HexHash")]
    pub address: Hash,
    /// The root that the proof leads to.
    #[schemars(with = "HexHash")]
    pub state_root: Hash,
    /// The checkpoint's sequence number: block headers name it.
    pub checkpoint_sequence: u64,
    /// The height after which the checkpoint was taken.
    pub height: u64,
    /// The account's pages and their paths.
    #[schemars(with = "AccountProofForm")]
    pub proof: AccountProof,
}

/// How an account's proof is written: the ledger's own form.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "stands in the document only; the ledger's type writes the values")]
struct AccountProofForm {
    /// The account's index.
    index: u32,
    /// The roots of all columns, whose hash is the state root.
    columns: Vec<ColumnRootForm>,
    /// The page of balances.
    balances: PageProofForm,
    /// The page of nonces.
    nonces: PageProofForm,
    /// The page of addresses.
    identities: PageProofForm,
}

#[derive(JsonSchema)]
#[allow(dead_code, reason = "stands in the document only")]
struct ColumnRootForm {
    /// The column's number.
    column: u8,
    /// How many pages its tree has.
    pages: u64,
    /// Its root.
    root: HexHash,
}

#[derive(JsonSchema)]
#[allow(dead_code, reason = "stands in the document only")]
struct PageProofForm {
    /// The page's bytes, `0x` hex.
    page: String,
    /// For each level from the page upwards, the other children of the node above.
    path: Vec<Vec<HexHash>>,
}
