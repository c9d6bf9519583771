//! What the mempool asks of the newest published state.

use std::sync::Arc;

use aurigraph_ledger::transaction::Sender;
use aurigraph_ledger::{AccountIndex, Address, Amount};

use crate::crypto::KnownKey;

/// An account as admission sees it.
#[derive(Debug, Clone)]
pub struct AccountFacts {
    /// Its index.
    pub index: AccountIndex,
    /// Its address.
    pub address: Address,
    /// Its balance.
    pub balance: Amount,
    /// The first unused nonce.
    pub nonce_base: u64,
    /// Its registered key.
    pub key: Option<KnownKey>,
}

/// An immutable published state: answers at once, from memory or the key table.
pub trait ChainView: Send + Sync + std::fmt::Debug {
    /// Height of the newest executed block.
    fn height(&self) -> u64;

    /// The account that a transaction names as its sender, if it exists.
    fn account(&self, sender: &Sender) -> Option<AccountFacts>;

    /// Whether the account has used this nonce.
    fn nonce_used(&self, account: AccountIndex, nonce: u64) -> bool;
}

/// Gives the newest published state, if there is one: what an actor starts with.
pub type Latest = Arc<dyn Fn() -> Option<Arc<dyn ChainView>> + Send + Sync>;
