//! An immutable view of the state: what readers, proofs and the store work on while execution goes on.
//!
//! A view is a set of shared pointers. It never changes and never blocks the ledger.

use std::sync::Arc;

use super::accounts::Accounts;
use super::column::Column;
use super::pages::{BalancePage, IdentityPage, KEYS_PER_PAGE, KeyPage, NO_KEY, NoncePage, NonceState, Page, ROWS};
use super::proof::{AccountProof, PageProof};
use super::system::SystemState;
use super::tree::WideTree;
use super::{Sealed, State};
use crate::block::{Checkpoint, ExclusionReason, LedgerHeader};
use crate::codec::CodecError;
use crate::execute::{AccountLookup, Rules, admission};
use crate::hash::Hash;
use crate::identity::IdentityTable;
use crate::module::Module;
use crate::staking::StakingTable;
use crate::state::index::AddressIndex;
use crate::transaction::{Sender, Transaction};
use crate::types::{AccountIndex, Address, Amount};
use crate::validator_set::ValidatorSet;

/// The view is not of a checkpoint: it has no root of its own to prove or store under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the view at height {height} is not of a checkpoint; only views taken right after one can prove or be stored")]
pub struct NotACheckpoint {
    /// The view's height.
    pub height: u64,
}

/// Why a ledger cannot go on from a view.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// The view has no root of its own.
    #[error(transparent)]
    NotACheckpoint(#[from] NotACheckpoint),
    /// The view is of another chain.
    #[error("the view is of chain {found}, this is chain {expected}")]
    Chain {
        /// The genesis's chain.
        expected: Hash,
        /// The view's.
        found: Hash,
    },
    /// What the view keeps encoded does not decode: it was changed in memory.
    #[error("the view does not decode: {0}")]
    Decode(CodecError),
    /// The view's columns do not have its checkpoint's root.
    #[error("the view's columns have state root {found}, checkpoint {seq} says {expected}")]
    StateRoot {
        /// The checkpoint.
        seq: u64,
        /// Its root.
        expected: Hash,
        /// The columns'.
        found: Hash,
    },
    /// Genesis itself is not valid.
    #[error(transparent)]
    Genesis(#[from] crate::genesis::GenesisError),
}

/// What an account looks like to readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountView {
    /// Its index.
    pub index: AccountIndex,
    /// Its address.
    pub address: Address,
    /// Its balance.
    pub balance: Amount,
    /// Its lowest unused nonce.
    pub nonce: u64,
    /// Whether its key is registered.
    pub has_key: bool,
}

/// The state after a commit. Cloning is one reference count.
#[derive(Clone)]
pub struct StateView(Arc<ViewParts>);

/// What a view is made of.
pub(crate) struct ViewParts {
    pub(super) balances: Vec<Arc<BalancePage>>,
    pub(super) nonces: Vec<Arc<NoncePage>>,
    pub(super) identities: Vec<Arc<IdentityPage>>,
    pub(super) keys: Vec<Arc<KeyPage>>,
    index: AddressIndex,
    account_count: u32,
    key_count: u32,
    fee_pool: Amount,
    invalid_signatures: Vec<u64>,
    staking: Option<StakingTable>,
    identity: Option<IdentityTable>,
    rules: Arc<Rules>,
    pub(super) header: LedgerHeader,
    header_hash: Hash,
    pub(super) checkpoint: Checkpoint,
    pub(super) sealed: Option<Arc<Sealed>>,
}

impl std::fmt::Debug for StateView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateView")
            .field("height", &self.height())
            .field("accounts", &self.account_count())
            .field("is_checkpoint", &self.is_checkpoint())
            .finish_non_exhaustive()
    }
}

impl ViewParts {
    /// Shares the state's pages, which must be published.
    pub(crate) fn share(
        state: &State,
        rules: Arc<Rules>,
        header: LedgerHeader,
        checkpoint: Checkpoint,
        sealed: Option<Arc<Sealed>>,
    ) -> Self {
        let accounts = &state.accounts;
        Self {
            balances: accounts.balance_pages.share_pages(),
            nonces: accounts.nonces.share_pages(),
            identities: accounts.identities.share_pages(),
            keys: accounts.keys.share_pages(),
            index: accounts.index.clone(),
            account_count: accounts.count(),
            key_count: accounts.key_count(),
            fee_pool: state.system.fee_pool,
            invalid_signatures: state.system.invalid_signatures.clone(),
            staking: state.modules.iter().find_map(|module| module.staking()).cloned(),
            identity: state.modules.iter().find_map(|module| module.identity()).cloned(),
            rules,
            header,
            header_hash: header.hash(),
            checkpoint,
            sealed,
        }
    }

    fn identity(&self, account: u32) -> Option<(&Address, u32)> {
        if account >= self.account_count {
            return None;
        }
        let (page, row) = (self.identities.get(account as usize / ROWS)?, account as usize % ROWS);
        Some((&page.addresses[row], page.keys[row]))
    }
}

#[allow(clippy::cast_possible_truncation)]
const fn row(account: u32) -> u8 {
    account as u8
}

impl AccountLookup for ViewParts {
    fn find(&self, address: &Address) -> Option<u32> {
        let identities = &self.identities;
        self.index.get(address, |account| &identities[account as usize / ROWS].addresses[account as usize % ROWS])
    }

    fn balance(&self, account: u32) -> Option<Amount> {
        (account < self.account_count).then(|| self.balances[account as usize / ROWS].0[account as usize % ROWS])
    }

    fn nonce_state(&self, account: u32, nonce: u64) -> NonceState {
        let page = self.nonces.get(account as usize / ROWS);
        page.map_or(NonceState::OutOfWindow, |page| page.state(row(account), nonce))
    }

    fn key(&self, account: u32) -> Option<&Arc<[u8]>> {
        let (_, at) = self.identity(account).filter(|(_, at)| *at != NO_KEY)?;
        self.keys.get(at as usize / KEYS_PER_PAGE)?.0.get(at as usize % KEYS_PER_PAGE)
    }
}

impl StateView {
    pub(crate) fn new(parts: ViewParts) -> Self {
        Self(Arc::new(parts))
    }

    pub(super) fn parts(&self) -> &ViewParts {
        &self.0
    }

    /// The chain.
    #[must_use]
    pub fn chain_id(&self) -> Hash {
        self.0.rules.chain_id
    }

    /// The rules' fee schedule.
    #[must_use]
    pub fn fees(&self) -> &crate::genesis::FeeSchedule {
        &self.0.rules.fees
    }

    /// The height of the newest block.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.0.header.height
    }

    /// The newest block's header.
    #[must_use]
    pub fn header(&self) -> &LedgerHeader {
        &self.0.header
    }

    /// Its hash.
    #[must_use]
    pub fn header_hash(&self) -> Hash {
        self.0.header_hash
    }

    /// The newest checkpoint; of this very state if [`StateView::is_checkpoint`].
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.0.checkpoint
    }

    /// Whether the view is the state of its checkpoint, and can prove and be stored.
    #[must_use]
    pub fn is_checkpoint(&self) -> bool {
        self.0.sealed.is_some()
    }

    /// How many accounts there are.
    #[must_use]
    pub fn account_count(&self) -> u32 {
        self.0.account_count
    }

    /// How many keys are registered.
    #[must_use]
    pub fn key_count(&self) -> u32 {
        self.0.key_count
    }

    /// Fees not yet shared out.
    #[must_use]
    pub fn fee_pool(&self) -> Amount {
        self.0.fee_pool
    }

    /// Per validator of the epoch that runs, how many invalid signatures it batched.
    #[must_use]
    pub fn invalid_signatures(&self) -> &[u64] {
        &self.0.invalid_signatures
    }

    /// The index of an address.
    #[must_use]
    pub fn find(&self, address: &Address) -> Option<AccountIndex> {
        AccountLookup::find(&*self.0, address).map(AccountIndex)
    }

    /// An account by its index.
    #[must_use]
    pub fn account(&self, index: AccountIndex) -> Option<AccountView> {
        let (address, key) = self.0.identity(index.0)?;
        Some(AccountView {
            index,
            address: *address,
            balance: self.balance(index)?,
            nonce: self.0.nonces.get(index.as_usize() / ROWS)?.base(row(index.0)),
            has_key: key != NO_KEY,
        })
    }

    /// An account's balance.
    #[must_use]
    pub fn balance(&self, index: AccountIndex) -> Option<Amount> {
        AccountLookup::balance(&*self.0, index.0)
    }

    /// Whether the account has used this nonce. One beyond the window is not used.
    #[must_use]
    pub fn nonce_used(&self, index: AccountIndex, nonce: u64) -> bool {
        matches!(AccountLookup::nonce_state(&*self.0, index.0, nonce), NonceState::Used)
    }

    /// An account's registered key.
    #[must_use]
    pub fn public_key(&self, index: AccountIndex) -> Option<Arc<[u8]>> {
        self.0.key(index.0).cloned()
    }

    /// The key to verify a transaction's signature with ahead of execution; none if the sender is not known or the key
    /// it brings is not its own. No key means no verdict, never an invalid one.
    #[must_use]
    pub fn verification_key(&self, transaction: &Transaction) -> Option<Arc<[u8]>> {
        match transaction.sender() {
            Sender::Index(index) => self.public_key(index),
            Sender::Address(address) => {
                let key = transaction.sender_key()?;
                (Address::of_public_key(key) == address).then(|| Arc::from(key))
            }
        }
    }

    /// Whether a transaction could be included in the next block, its signature apart; if so, what it would cost.
    ///
    /// # Errors
    /// The reason why it would be excluded.
    pub fn check(&self, transaction: &Transaction) -> Result<Amount, ExclusionReason> {
        admission(&self.0.rules, &*self.0, self.height() + 1, transaction).map(|admitted| admitted.fee)
    }

    /// Proves an account under the checkpoint's state root; nothing for an index that is not assigned.
    ///
    /// # Errors
    /// [`NotACheckpoint`] if the view is not of a checkpoint.
    pub fn account_proof(&self, index: AccountIndex) -> Result<Option<AccountProof>, NotACheckpoint> {
        let sealed = self.sealed()?;
        if index.0 >= self.0.account_count {
            return Ok(None);
        }
        let page = index.as_usize() / ROWS;
        let [balances, nonces, identities, _] = &sealed.trees;
        Ok(Some(AccountProof {
            index,
            columns: sealed.roots.clone(),
            balances: page_proof(&self.0.balances[page], balances, page),
            nonces: page_proof(&self.0.nonces[page], nonces, page),
            identities: page_proof(&self.0.identities[page], identities, page),
        }))
    }

    /// The table of validators and stakes; nothing in a ledger without the module.
    #[must_use]
    pub fn staking(&self) -> Option<&StakingTable> {
        self.0.staking.as_ref()
    }

    /// The table of encryption keys and anchored envelopes; nothing in a ledger without the module.
    #[must_use]
    pub fn identity(&self) -> Option<&IdentityTable> {
        self.0.identity.as_ref()
    }

    /// The validator set of an epoch: of the running one, of the next once its set is fixed, and of those before for as
    /// long as their faults count.
    #[must_use]
    pub fn set_of(&self, epoch: u64) -> Option<ValidatorSet> {
        self.staking()?.set_of(epoch)
    }

    /// The next epoch's validator set, once the last commit of this one is executed.
    #[must_use]
    pub fn next_set(&self) -> Option<ValidatorSet> {
        self.set_of(self.0.header.epoch + 1)
    }

    /// The state at this checkpoint, sharing the view's pages: they are copied only where the state changes.
    pub(crate) fn resume(&self, mut modules: Vec<Box<dyn Module>>) -> Result<(State, Sealed), ResumeError> {
        let sealed = self.sealed()?;
        let parts = &*self.0;
        let (system, count, key_count) = SystemState::decode(&sealed.system).map_err(ResumeError::Decode)?;
        for module in &mut modules {
            let found = sealed.modules.iter().find(|(id, _)| *id == module.id());
            if found.is_none() && module.is_untouched() {
                continue;
            }
            let pages = found.map_or(&[][..], |(_, pages)| pages);
            let pages: Vec<Vec<u8>> = pages.iter().map(|page| page.to_vec()).collect();
            module.restore(&pages).map_err(ResumeError::Decode)?;
        }
        let [balances, nonces, identities, keys] = sealed.trees.clone();
        let accounts = Accounts::from_shared(
            (count, key_count),
            Column::from_shared(parts.balances.clone(), balances),
            Column::from_shared(parts.nonces.clone(), nonces),
            Column::from_shared(parts.identities.clone(), identities),
            Column::from_shared(parts.keys.clone(), keys),
            parts.index.clone(),
        );
        Ok((State { accounts, system, modules }, sealed.clone()))
    }

    pub(super) fn sealed(&self) -> Result<&Sealed, NotACheckpoint> {
        self.0.sealed.as_deref().ok_or(NotACheckpoint { height: self.height() })
    }
}

fn page_proof<P: Page>(page: &Arc<P>, tree: &WideTree, number: usize) -> PageProof {
    let mut bytes = Vec::new();
    page.encode_into(&mut bytes);
    PageProof { page: bytes, path: tree.path(number) }
}
