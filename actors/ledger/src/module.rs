//! The frame for state modules beyond accounts and transfers.
//!
//! Operation tags have a range per module and module ids are fixed, so that a later module changes no format. What a
//! module does stands with the module. Transfers (tags 0 to 15) are part of the ledger itself.

use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::codec::{CodecError, Reader};
use crate::fault::Fault;
use crate::genesis::Genesis;
use crate::hash::Hash;
use crate::identity::IdentityTable;
use crate::staking::StakingTable;
use crate::transaction::ModuleGroup;
use crate::tree_hasher::TreeHasher;
use crate::types::{AccountIndex, Address, Amount};
use crate::validator_set::EpochEnd;

/// A module's fixed number; roots enter the state root in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum ModuleId {
    /// Bonding, delegation, rewards, slashing.
    Staking = 1,
    /// Native fungible tokens.
    Tokens = 2,
    /// Real-world assets.
    Assets = 3,
    /// WebAssembly contracts.
    Contracts = 4,
    /// Parameters changed by stake.
    Governance = 5,
    /// Identities and claims.
    Identity = 6,
}

impl ModuleId {
    /// Every module, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Staking, Self::Tokens, Self::Assets, Self::Contracts, Self::Governance, Self::Identity];

    /// The operation tags that belong to the module.
    #[must_use]
    pub const fn tags(self) -> RangeInclusive<u8> {
        match self {
            Self::Staking => 16..=31,
            Self::Tokens => 32..=63,
            Self::Assets => 64..=127,
            Self::Contracts => 128..=143,
            Self::Governance => 144..=159,
            Self::Identity => 160..=175,
        }
    }

    /// The module a tag belongs to; none for transfers and tags outside every range.
    #[must_use]
    pub fn of_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|module| module.tags().contains(&tag))
    }
}

/// How the groups of a range of tags are read.
#[derive(Debug, Clone)]
pub struct GroupFormat {
    /// The tags this format is for; all within one module's range.
    pub tags: RangeInclusive<u8>,
    /// Takes the columns of `count` operations off the reader, and checks that they are canonical.
    pub read: fn(tag: u8, count: usize, reader: &mut Reader<'_>) -> Result<(), CodecError>,
}

/// The formats of this protocol version's modules. Tags outside all of them do not decode.
pub const GROUP_FORMATS: &[GroupFormat] = &[crate::staking::FORMAT, crate::identity::FORMAT];

/// What a module may see and do while it executes a group.
pub trait ModuleContext {
    /// The chain.
    fn chain_id(&self) -> Hash;
    /// Who signed.
    fn sender(&self) -> AccountIndex;
    /// The address of who signed.
    fn sender_address(&self) -> Address;
    /// The height being built.
    fn height(&self) -> u64;
    /// The commit's time, in milliseconds.
    fn timestamp_ms(&self) -> u64;
    /// The registered key of who signed; every sender of an included transaction has one.
    fn sender_key(&self) -> Option<Arc<[u8]>>;
    /// The index of an address, if it has an account.
    fn account(&self, address: &Address) -> Option<AccountIndex>;
    /// An account's balance; nothing for an index that is not assigned.
    fn balance(&self, account: AccountIndex) -> Option<Amount>;
    /// Moves an amount between existing accounts; false, and nothing done, if it cannot be.
    fn transfer(&mut self, from: AccountIndex, to: AccountIndex, amount: Amount) -> bool;
    /// Takes an amount from an existing account into the module's keeping; false, and nothing done, if it cannot be.
    fn debit(&mut self, account: AccountIndex, amount: Amount) -> bool;
    /// Gives an existing account an amount out of the module's keeping; false, and nothing done, if it cannot be.
    fn credit(&mut self, account: AccountIndex, amount: Amount) -> bool;
    /// Whether an ML-DSA-87 signature is valid for a message under a key, with an empty context.
    fn verify(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool;
    /// Notes that the operation at a position of the group failed with a code of the module's own.
    fn fail(&mut self, at: usize, code: u8);
    /// Emits an event in a format of the module's own.
    fn emit(&mut self, kind: u16, data: Vec<u8>);
}

/// The block that is being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockFacts {
    /// Its height.
    pub height: u64,
    /// Its commit's time, in milliseconds.
    pub timestamp_ms: u64,
    /// Its commit's epoch.
    pub epoch: u64,
    /// The protocol version of that epoch.
    pub version: u16,
}

/// The money outside of modules that the end of an epoch settles.
#[derive(Debug)]
pub struct EpochMoney<'a> {
    /// Fees not yet shared out. Who takes them leaves 0.
    pub fee_pool: &'a mut Amount,
    /// Per validator of the closing epoch, how many invalid signatures it batched; afterwards a 0 for each of the next.
    pub invalid_signatures: &'a mut Vec<u64>,
    /// What each of them costs.
    pub invalid_signature_fee: Amount,
    /// How much can be minted in the chain's life without any sum of money overflowing.
    pub mintable: Amount,
}

/// A state module: its own table, its own root, its own operations.
pub trait Module: Send + Sync {
    /// The module's number.
    fn id(&self) -> ModuleId;

    /// Sets up the table at genesis; called before [`Module::restore`], too.
    fn genesis(&mut self, genesis: &Genesis);

    /// Whether the table is still as genesis made it, and is to have no column for that long: neither pages nor a part
    /// of the state root. So a module can come to a running chain and change its roots with its first change only.
    fn is_untouched(&self) -> bool {
        false
    }

    /// Executes the faults a commit proves, before its transactions; hands out events in a format of the module's own.
    fn faults(&mut self, _block: &BlockFacts, _faults: &[Fault], _emit: &mut dyn FnMut(u16, Vec<u8>)) {}

    /// Settles an epoch after its last commit's transactions.
    fn end_epoch(&mut self, _end: &EpochEnd, _money: EpochMoney<'_>, _emit: &mut dyn FnMut(u16, Vec<u8>)) {}

    /// The table of validators and stakes, if the module is the one that has it.
    fn staking(&self) -> Option<&StakingTable> {
        None
    }

    /// The table of encryption keys and anchored envelopes, if the module is the one that has it.
    fn identity(&self) -> Option<&IdentityTable> {
        None
    }

    /// Executes a group's operations in order. A failed operation must have no effect. Execution may stop after the
    /// first failure if `atomic`: everything will be reverted.
    fn execute(&mut self, group: ModuleGroup<'_>, atomic: bool, context: &mut dyn ModuleContext);

    /// Starts remembering changes, at the start of an atomic transaction.
    fn begin(&mut self);

    /// Undoes every change since [`Module::begin`] and stops remembering.
    fn revert(&mut self);

    /// Keeps the changes since [`Module::begin`] and stops remembering.
    fn keep(&mut self);

    /// The root over the module's table.
    fn root(&mut self, hasher: &dyn TreeHasher) -> Hash;

    /// The table as immutable pages; a page that did not change keeps its pointer. Called after [`Module::root`].
    fn pages(&self) -> Vec<Arc<[u8]>>;

    /// Replaces the table by the one these pages were taken from.
    ///
    /// # Errors
    /// [`CodecError`] if the pages are not the canonical form of a table.
    fn restore(&mut self, pages: &[Vec<u8>]) -> Result<(), CodecError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_above_the_transfers_belongs_to_at_most_one_module() {
        for tag in 0..=u8::MAX {
            let owners = ModuleId::ALL.into_iter().filter(|module| module.tags().contains(&tag)).count();
            assert_eq!(owners, usize::from((16..=175).contains(&tag)), "tag {tag}");
        }
        assert_eq!(ModuleId::of_tag(15), None);
        assert_eq!(ModuleId::of_tag(64), Some(ModuleId::Assets));
    }
}
