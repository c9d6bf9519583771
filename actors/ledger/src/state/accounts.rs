//! The accounts as columns: balances, nonces, identities, and the table of registered keys.
//!
//! Balances live twice: flat, where execution works, and in shared pages, which follow whenever a root or a snapshot is
//! taken. A flat column costs execution one indexing per operation and no reference counting; the pages would be
//! copied anyhow once a snapshot shares them.

use std::sync::Arc;

use super::column::Column;
use super::index::AddressIndex;
use super::pages::{BalancePage, IdentityPage, KEYS_PER_PAGE, KeyPage, NO_KEY, NoncePage, NonceState, ROWS};
use crate::genesis::GenesisAccount;
use crate::hash::Hash;
use crate::parallel::ranges;
use crate::tree_hasher::TreeHasher;
use crate::types::{Address, Amount};

/// All accounts.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    balances: Vec<Amount>,
    /// One flag a page: whether the shared page is behind the flat balances.
    behind: Vec<bool>,
    pub(super) balance_pages: Column<BalancePage>,
    pub(super) nonces: Column<NoncePage>,
    pub(super) identities: Column<IdentityPage>,
    pub(super) keys: Column<KeyPage>,
    key_count: u32,
    pub(super) index: AddressIndex,
}

/// The balances as execution sees them.
pub(crate) struct Balances<'a> {
    pub(crate) amounts: &'a mut [Amount],
    /// Must be set for the page (256 accounts) of every balance that is changed.
    pub(crate) behind: &'a mut [bool],
}

/// Page and row of an account.
const fn place(account: u32) -> (usize, u8) {
    #[allow(clippy::cast_possible_truncation)]
    (account as usize / ROWS, account as u8)
}

fn address_in(identities: &Column<IdentityPage>, account: u32) -> &Address {
    let (page, row) = place(account);
    &identities.page(page).expect("every account has an identity page").addresses[usize::from(row)]
}

impl Accounts {
    /// How many accounts there are; their indices are below.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.balances.len()).expect("accounts are created up to 2^32 - 1")
    }

    /// How many keys are registered.
    pub(crate) const fn key_count(&self) -> u32 {
        self.key_count
    }

    pub(crate) fn balance(&self, account: u32) -> Option<Amount> {
        self.balances.get(account as usize).copied()
    }

    pub(crate) fn set_balance(&mut self, account: u32, balance: Amount) {
        self.balances[account as usize] = balance;
        self.behind[account as usize / ROWS] = true;
    }

    pub(crate) fn balances_mut(&mut self) -> Balances<'_> {
        Balances { amounts: &mut self.balances, behind: &mut self.behind }
    }

    /// The account of an address.
    pub(crate) fn find(&self, address: &Address) -> Option<u32> {
        self.index.get(address, |account| address_in(&self.identities, account))
    }

    /// The address of an account.
    pub(crate) fn address(&self, account: u32) -> Option<&Address> {
        (account < self.count()).then(|| address_in(&self.identities, account))
    }

    /// Creates the account of an address that has none, with an empty balance; none if no index is left.
    pub(crate) fn create(&mut self, address: &Address) -> Option<u32> {
        let account = u32::try_from(self.balances.len()).ok().filter(|account| *account != u32::MAX)?;
        let (page, row) = place(account);
        if row == 0 {
            self.behind.push(true);
            self.nonces.put(page, NoncePage::default());
            self.identities.put(page, IdentityPage::default());
        }
        self.balances.push(0);
        self.behind[page] = true;
        let identities = self.identities.page_mut(page).expect("the page was put when its first row was used");
        identities.addresses[usize::from(row)] = *address;
        let identities = &self.identities;
        self.index.insert(address, account, |account| address_in(identities, account));
        Some(account)
    }

    /// Takes back the creation of every account from `count` on, newest first.
    pub(crate) fn uncreate(&mut self, count: u32) {
        while self.count() > count {
            let account = self.count() - 1;
            let (page, row) = place(account);
            let address = *address_in(&self.identities, account);
            self.index.remove(&address, account);
            self.balances.pop();
            self.behind[page] = true;
            let identities = self.identities.page_mut(page).expect("every account has an identity page");
            identities.addresses[usize::from(row)] = Address::default();
            if row == 0 {
                self.behind.pop();
                self.nonces.truncate(page);
                self.identities.truncate(page);
            }
        }
    }

    /// The registered key of an account.
    pub(crate) fn key(&self, account: u32) -> Option<&Arc<[u8]>> {
        let (page, row) = place(account);
        let at = self.identities.page(page)?.keys[usize::from(row)];
        key_at(&self.keys, at)
    }

    /// Registers the key of an account that has none.
    pub(crate) fn register_key(&mut self, account: u32, key: &[u8]) {
        let (page, row) = place(account);
        let (at, key_page) = (self.key_count, self.key_count as usize / KEYS_PER_PAGE);
        if self.keys.len() == key_page {
            self.keys.put(key_page, KeyPage::default());
        }
        self.keys.page_mut(key_page).expect("the page was put when its first key came").0.push(Arc::from(key));
        let identities = self.identities.page_mut(page).expect("every account has an identity page");
        identities.keys[usize::from(row)] = at;
        self.key_count += 1;
    }

    /// Whether an account may use a nonce.
    pub(crate) fn nonce_state(&self, account: u32, nonce: u64) -> NonceState {
        let (page, row) = place(account);
        self.nonces.page(page).map_or(NonceState::OutOfWindow, |page| page.state(row, nonce))
    }

    /// Uses a nonce that is unused.
    pub(crate) fn use_nonce(&mut self, account: u32, nonce: u64) {
        let (page, row) = place(account);
        self.nonces.page_mut(page).expect("every account has a nonce page").consume(row, nonce);
    }

    /// Brings the shared balance pages up to date with the flat balances.
    pub(crate) fn publish(&mut self) {
        for (number, behind) in self.behind.iter_mut().enumerate().filter(|(_, behind)| **behind) {
            *behind = false;
            let rows = &self.balances[number * ROWS..self.balances.len().min((number + 1) * ROWS)];
            let mut page = BalancePage([0; ROWS]);
            page.0[..rows.len()].copy_from_slice(rows);
            self.balance_pages.put(number, page);
        }
    }

    /// The roots of the four columns, after [`Accounts::publish`]: balances, nonces, identities, keys.
    pub(crate) fn roots(&mut self, hasher: &dyn TreeHasher) -> [(usize, Hash); 4] {
        [
            (self.balance_pages.len(), self.balance_pages.root(hasher)),
            (self.nonces.len(), self.nonces.root(hasher)),
            (self.identities.len(), self.identities.root(hasher)),
            (self.keys.len(), self.keys.root(hasher)),
        ]
    }

    /// Accounts that go on from shared columns, their index and their counts.
    pub(super) fn from_shared(
        (count, key_count): (u32, u32),
        balance_pages: Column<BalancePage>,
        nonces: Column<NoncePage>,
        identities: Column<IdentityPage>,
        keys: Column<KeyPage>,
        index: AddressIndex,
    ) -> Self {
        let balances = flat(&balance_pages, count);
        let behind = vec![false; balance_pages.len()];
        Self { balances, behind, balance_pages, nonces, identities, keys, key_count, index }
    }

    /// Accounts from their pages: the inverse of sharing them. The pages' numbers must fit the counts.
    pub(crate) fn from_pages(
        count: u32,
        key_count: u32,
        balances: Vec<Arc<BalancePage>>,
        nonces: Vec<Arc<NoncePage>>,
        identities: Vec<Arc<IdentityPage>>,
        keys: Vec<Arc<KeyPage>>,
    ) -> Self {
        let (balance_pages, identities) = (Column::from_pages(balances), Column::from_pages(identities));
        let index = AddressIndex::of_all(count, |account| address_in(&identities, account));
        Self {
            balances: flat(&balance_pages, count),
            behind: vec![false; balance_pages.len()],
            balance_pages,
            nonces: Column::from_pages(nonces),
            identities,
            keys: Column::from_pages(keys),
            key_count,
            index,
        }
    }

    /// The accounts of a genesis, in its order. Their addresses must differ.
    pub(crate) fn of_genesis(listed: &[GenesisAccount]) -> Self {
        let count = u32::try_from(listed.len()).expect("a genesis lists far fewer than 2^32 accounts");
        let made = ranges(listed.len().div_ceil(ROWS), PAGES_AT_LEAST, |pages| {
            let rows = &listed[pages.start * ROWS..listed.len().min(pages.end * ROWS)];
            rows.chunks(ROWS).map(first_pages).collect::<Vec<_>>()
        });
        let (mut balances, mut identities) = (Vec::new(), Vec::new());
        for (balance, identity) in made.into_iter().flatten() {
            balances.push(balance);
            identities.push(identity);
        }
        let nonces = ranges(balances.len(), PAGES_AT_LEAST, |pages| pages.map(|_| Arc::default()).collect::<Vec<_>>());
        let nonces = nonces.into_iter().flatten().collect();
        let mut accounts = Self::from_pages(count, 0, balances, nonces, identities, Vec::new());
        for (account, listed) in (0..).zip(listed) {
            if let Some(key) = &listed.public_key {
                accounts.register_key(account, key.as_bytes());
            }
        }
        accounts
    }
}

/// Pages that are worth a thread's start: 16,384 accounts.
pub(super) const PAGES_AT_LEAST: usize = 64;

/// Balances and identities of a page's accounts at genesis.
fn first_pages(listed: &[GenesisAccount]) -> (Arc<BalancePage>, Arc<IdentityPage>) {
    let (mut balances, mut identities) = (BalancePage([0; ROWS]), IdentityPage::default());
    for (row, listed) in listed.iter().enumerate() {
        balances.0[row] = listed.balance;
        identities.addresses[row] = listed.address;
    }
    (Arc::new(balances), Arc::new(identities))
}

/// The balances of the first `count` accounts, in a row.
fn flat(pages: &Column<BalancePage>, count: u32) -> Vec<Amount> {
    let mut balances = Vec::with_capacity(pages.len() * ROWS);
    for page in (0..pages.len()).filter_map(|number| pages.page(number)) {
        balances.extend_from_slice(&page.0);
    }
    balances.truncate(count as usize);
    balances
}

fn key_at(keys: &Column<KeyPage>, at: u32) -> Option<&Arc<[u8]>> {
    if at == NO_KEY {
        return None;
    }
    keys.page(at as usize / KEYS_PER_PAGE)?.0.get(at as usize % KEYS_PER_PAGE)
}
