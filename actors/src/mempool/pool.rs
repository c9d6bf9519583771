//! Transactions between admission and their commit: every rule of admission that needs no actor.

use std::collections::HashMap;
use std::sync::Arc;

use aurigraph_ledger::transaction::{Sender, Transaction};
use aurigraph_ledger::types::{MAX_EXPIRY, MAX_TRANSACTION_LEN, NONCE_WINDOW};
use aurigraph_ledger::{AccountIndex, Amount, FeeSchedule, Hash};
use bytes::Bytes;

use super::chain_view::{AccountFacts, ChainView};
use super::messages::{PendingState, PendingStatus, RETRY_AFTER};
use super::refusal::Refusal;
use crate::bounds::mempool as bounds;
use crate::crypto::{KnownKey, TransactionCheck};

/// What the rules need besides the state.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub chain_id: Hash,
    pub fees: FeeSchedule,
}

#[derive(Debug)]
enum Stage {
    Verifying,
    /// Kept until a stored batch holds it, for a batcher that dies.
    Queued(Arc<Transaction>),
    Batched(Hash),
}

#[derive(Debug)]
struct Entry {
    account: AccountIndex,
    nonce: u64,
    expiry: u64,
    fee: Amount,
    len: usize,
    /// Order of arrival.
    number: u64,
    stage: Stage,
}

/// One sender's pending transactions.
#[derive(Debug, Default)]
struct SenderPending {
    nonces: HashMap<u64, Hash>,
    fees: Amount,
    /// Of those that no stored batch holds.
    bytes: usize,
}

/// All pending transactions.
#[derive(Debug)]
pub(super) struct Pool {
    rules: Rules,
    entries: HashMap<Hash, Entry>,
    senders: HashMap<AccountIndex, SenderPending>,
    /// Of those that no stored batch holds.
    bytes: usize,
    next: u64,
}

impl Pool {
    pub fn new(rules: Rules) -> Self {
        Self { rules, entries: HashMap::new(), senders: HashMap::new(), bytes: 0, next: 0 }
    }

    /// Checks a transaction against the state and the pool, all but its signature, and keeps it as being verified.
    pub fn admit(&mut self, view: &dyn ChainView, bytes: &[u8]) -> Result<TransactionCheck, Refusal> {
        self.room(bytes.len())?;
        let transaction = decode(bytes)?;
        let id = transaction.id();
        if self.entries.contains_key(&id) {
            return Err(Refusal::Duplicate { id });
        }
        self.check_chain(view, &transaction)?;
        let (account, key) = sender(view, &transaction)?;
        check_nonce(view, &account, transaction.nonce())?;
        let fee = self.check_fee(&transaction)?;
        self.check_sender(&account, &transaction, fee)?;
        self.insert(id, &account, &transaction, fee);
        Ok(TransactionCheck { transaction: Arc::new(transaction), key: Some(key) })
    }

    fn room(&self, len: usize) -> Result<(), Refusal> {
        if len > MAX_TRANSACTION_LEN {
            return Err(Refusal::TooLarge { len, max: MAX_TRANSACTION_LEN });
        }
        if self.bytes + len > bounds::POOL_BYTES {
            return Err(Refusal::Overloaded { what: "the pool's bytes", retry_after: RETRY_AFTER });
        }
        if self.entries.len() >= bounds::POOL_TRANSACTIONS {
            return Err(Refusal::Overloaded { what: "the pool's transactions", retry_after: RETRY_AFTER });
        }
        Ok(())
    }

    fn check_chain(&self, view: &dyn ChainView, transaction: &Transaction) -> Result<(), Refusal> {
        let (found, expected) = (transaction.chain_id(), self.rules.chain_id);
        if found != expected {
            return Err(Refusal::WrongChain { found, expected });
        }
        let (expiry, height) = (transaction.expiry(), view.height() + 1);
        if expiry < height {
            return Err(Refusal::Expired { expiry, height });
        }
        if expiry - height > MAX_EXPIRY {
            return Err(Refusal::ExpiryTooFar { expiry, height, max: MAX_EXPIRY });
        }
        Ok(())
    }

    fn check_fee(&self, transaction: &Transaction) -> Result<Amount, Refusal> {
        let fee = self.rules.fees.fee(transaction.operation_count(), transaction.encode().len());
        let max_fee = transaction.max_fee();
        if fee > max_fee { Err(Refusal::MaxFeeTooLow { fee, max_fee }) } else { Ok(fee) }
    }

    /// What the sender has pending already leaves room for one more.
    fn check_sender(&self, account: &AccountFacts, transaction: &Transaction, fee: Amount) -> Result<(), Refusal> {
        let none = SenderPending::default();
        let pending = self.senders.get(&account.index).unwrap_or(&none);
        if let Some(other) = pending.nonces.get(&transaction.nonce()) {
            return Err(Refusal::NoncePending { nonce: transaction.nonce(), pending: *other });
        }
        if pending.nonces.len() >= bounds::SENDER_TRANSACTIONS {
            return Err(Refusal::TooManyPending { pending: pending.nonces.len(), max: bounds::SENDER_TRANSACTIONS });
        }
        if pending.bytes + transaction.encode().len() > bounds::SENDER_BYTES {
            return Err(Refusal::Overloaded { what: "the sender's bytes", retry_after: RETRY_AFTER });
        }
        let (balance, reserved) = (account.balance, pending.fees);
        if reserved.checked_add(fee).is_none_or(|all| all > balance) {
            return Err(Refusal::CannotPayFee { fee, balance, reserved });
        }
        Ok(())
    }

    fn insert(&mut self, id: Hash, account: &AccountFacts, transaction: &Transaction, fee: Amount) {
        let (nonce, len) = (transaction.nonce(), transaction.encode().len());
        self.next += 1;
        self.bytes += len;
        let sender = self.senders.entry(account.index).or_default();
        sender.nonces.insert(nonce, id);
        sender.fees += fee;
        sender.bytes += len;
        let (expiry, number) = (transaction.expiry(), self.next);
        let entry = Entry { account: account.index, nonce, expiry, fee, len, number, stage: Stage::Verifying };
        self.entries.insert(id, entry);
    }

    /// Its signature is valid: it may be handed to a batcher. None if it is no longer pending.
    pub fn queue(&mut self, transaction: &Arc<Transaction>) -> Option<AccountIndex> {
        let entry = self.entries.get_mut(&transaction.id())?;
        entry.stage = Stage::Queued(Arc::clone(transaction));
        Some(entry.account)
    }

    /// A stored batch holds it.
    pub fn batched(&mut self, id: &Hash, batch: Hash) {
        if let Some(entry) = self.entries.get_mut(id)
            && !matches!(entry.stage, Stage::Batched(_))
        {
            entry.stage = Stage::Batched(batch);
            self.bytes -= entry.len;
            if let Some(sender) = self.senders.get_mut(&entry.account) {
                sender.bytes -= entry.len;
            }
        }
    }

    /// Forgets a transaction.
    pub fn remove(&mut self, id: &Hash) {
        let Some(entry) = self.entries.remove(id) else { return };
        let unstored = if matches!(entry.stage, Stage::Batched(_)) { 0 } else { entry.len };
        self.bytes -= unstored;
        if let Some(sender) = self.senders.get_mut(&entry.account) {
            sender.nonces.remove(&entry.nonce);
            sender.fees -= entry.fee;
            sender.bytes -= unstored;
            if sender.nonces.is_empty() {
                self.senders.remove(&entry.account);
            }
        }
    }

    /// Forgets what is committed (its nonce is used) and what can no longer be.
    pub fn published(&mut self, view: &dyn ChainView) {
        let next = view.height() + 1;
        let over = |entry: &Entry| entry.expiry < next || view.nonce_used(entry.account, entry.nonce);
        let over: Vec<Hash> = self.entries.iter().filter(|(_, entry)| over(entry)).map(|(id, _)| *id).collect();
        over.iter().for_each(|id| self.remove(id));
    }

    /// Queued transactions of some accounts, in order of arrival.
    pub fn queued(&self, of: impl Fn(AccountIndex) -> bool) -> Vec<Arc<Transaction>> {
        let mut queued: Vec<_> = self
            .entries
            .values()
            .filter_map(|entry| match &entry.stage {
                Stage::Queued(transaction) if of(entry.account) => Some((entry.number, transaction)),
                _ => None,
            })
            .collect();
        queued.sort_by_key(|(number, _)| *number);
        queued.into_iter().map(|(_, transaction)| Arc::clone(transaction)).collect()
    }

    pub fn status(&self, id: &Hash) -> Option<PendingStatus> {
        let entry = self.entries.get(id)?;
        let state = match &entry.stage {
            Stage::Verifying => PendingState::Verifying,
            Stage::Queued(_) => PendingState::Queued,
            Stage::Batched(batch) => PendingState::Batched { batch: *batch },
        };
        Some(PendingStatus { state, expiry: entry.expiry, fee: entry.fee })
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Copies the bytes: a request's body must not live as long as one small transaction in it.
fn decode(bytes: &[u8]) -> Result<Transaction, Refusal> {
    Transaction::decode_shared(Bytes::copy_from_slice(bytes)).map_err(Refusal::Undecodable)
}

/// The sender's account, and the key that its signature must be valid under.
fn sender(view: &dyn ChainView, transaction: &Transaction) -> Result<(AccountFacts, KnownKey), Refusal> {
    let sender = transaction.sender();
    let unknown = || Refusal::UnknownSender {
        sender: match sender {
            Sender::Index(index) => index.to_string(),
            Sender::Address(address) => address.to_string(),
        },
    };
    let key = match sender {
        Sender::Index(_) => None,
        Sender::Address(address) => {
            let carried = transaction.sender_key().unwrap_or_default();
            let key = KnownKey::of(transaction.shared_bytes().slice_ref(carried));
            if key.hash != address.0 {
                return Err(Refusal::WrongKey { address, belongs_to: aurigraph_ledger::Address(key.hash) });
            }
            Some(key)
        }
    };
    let account = view.account(&sender).ok_or_else(unknown)?;
    match key.or_else(|| account.key.clone()) {
        Some(key) => Ok((account, key)),
        None => Err(Refusal::KeyNotRegistered { sender: account.index.0 }),
    }
}

fn check_nonce(view: &dyn ChainView, account: &AccountFacts, nonce: u64) -> Result<(), Refusal> {
    let base = account.nonce_base;
    if nonce < base || view.nonce_used(account.index, nonce) {
        return Err(Refusal::NonceUsed { nonce, base });
    }
    if nonce - base >= NONCE_WINDOW {
        return Err(Refusal::NonceOutOfWindow { nonce, base, window: NONCE_WINDOW });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
