//! Accounts, transactions and states for the tests of the mempool and of the verifiers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use aurigraph_gpu::{Seed, Signer};
use aurigraph_ledger::transaction::{Sender, SenderKey, Target, Transaction, TransactionBuilder};
use aurigraph_ledger::{AccountIndex, Address, Amount, FeeSchedule, Hash};
use bytes::Bytes;
use parking_lot::Mutex;

use super::chain_view::{AccountFacts, ChainView, Latest};
use crate::crypto::{KnownKey, TransactionCheck};

pub(crate) const CHAIN: Hash = Hash([9; 32]);
pub(crate) const FEES: FeeSchedule =
    FeeSchedule { base: 100, per_operation: 10, per_byte: 0, invalid_signature_fee: 0 };
/// What a transaction of one transfer costs.
pub(crate) const FEE: Amount = 110;

/// An account whose key the test holds.
pub(crate) struct Account {
    pub(crate) index: AccountIndex,
    pub(crate) key: KnownKey,
    signer: Signer,
}

impl Account {
    pub(crate) fn new(number: u32) -> Self {
        let mut seed = [7; 32];
        seed[..4].copy_from_slice(&number.to_le_bytes());
        let signer = Signer::from_seed(&Seed::new(seed)).unwrap();
        let key = KnownKey::of(Bytes::copy_from_slice(signer.public_key()));
        Self { index: AccountIndex(number), key, signer }
    }

    pub(crate) fn address(&self) -> Address {
        Address(self.key.hash)
    }

    pub(crate) fn builder(&self, nonce: u64) -> TransactionBuilder {
        Self::builder_for(SenderKey::Index(self.index), nonce)
    }

    pub(crate) fn builder_for(sender: SenderKey, nonce: u64) -> TransactionBuilder {
        TransactionBuilder::new(CHAIN, sender, nonce, 100).fees(&FEES).transfer(Target::Index(AccountIndex(1)), 5)
    }

    pub(crate) fn sign(&self, builder: &TransactionBuilder) -> Arc<Transaction> {
        let unsigned = builder.build().unwrap();
        let signature = self.signer.sign(&unsigned.signing_message()).unwrap();
        Arc::new(unsigned.with_signature(&signature).unwrap())
    }

    pub(crate) fn pay(&self, nonce: u64) -> Arc<Transaction> {
        self.sign(&self.builder(nonce))
    }

    pub(crate) fn check(&self, transaction: &Arc<Transaction>) -> TransactionCheck {
        TransactionCheck { transaction: Arc::clone(transaction), key: Some(self.key.clone()) }
    }
}

/// The same transaction with a signature that is not its sender's.
pub(crate) fn spoiled(transaction: &Transaction) -> Arc<Transaction> {
    let mut bytes = transaction.encode().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    Arc::new(Transaction::decode(&bytes).unwrap())
}

pub(crate) fn transactions(count: u64) -> Vec<Arc<Transaction>> {
    let account = Account::new(1);
    (0..count).map(|nonce| account.pay(nonce)).collect()
}

/// A state made by hand.
#[derive(Debug, Default, Clone)]
pub(crate) struct View {
    pub(crate) height: u64,
    pub(crate) accounts: HashMap<AccountIndex, AccountFacts>,
    pub(crate) used: HashSet<(AccountIndex, u64)>,
}

impl View {
    pub(crate) fn of(accounts: &[&Account], balance: Amount) -> Self {
        let mut view = Self { height: 10, ..Self::default() };
        for account in accounts {
            let (index, address, key) = (account.index, account.address(), Some(account.key.clone()));
            view.accounts.insert(index, AccountFacts { index, address, balance, nonce_base: 0, key });
        }
        view
    }

    pub(crate) fn account_mut(&mut self, account: &Account) -> &mut AccountFacts {
        self.accounts.get_mut(&account.index).unwrap()
    }
}

impl ChainView for View {
    fn height(&self) -> u64 {
        self.height
    }

    fn account(&self, sender: &Sender) -> Option<AccountFacts> {
        match sender {
            Sender::Index(index) => self.accounts.get(index).cloned(),
            Sender::Address(address) => self.accounts.values().find(|account| account.address == *address).cloned(),
        }
    }

    fn nonce_used(&self, account: AccountIndex, nonce: u64) -> bool {
        self.used.contains(&(account, nonce))
    }
}

/// A newest published state that the test can change.
pub(crate) fn latest(view: Option<View>) -> (Latest, Arc<Mutex<Option<View>>>) {
    let shared = Arc::new(Mutex::new(view));
    let reader = Arc::clone(&shared);
    let latest: Latest = Arc::new(move || reader.lock().clone().map(|view| Arc::new(view) as Arc<dyn ChainView>));
    (latest, shared)
}
