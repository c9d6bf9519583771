//! Executing one ledger block: which delivered transactions are included, and what they do.
//!
//! One sequential pass in delivered order. The rows of the outcome table (transactions.md) are decided here, the
//! cheap checks before the signature. Operations are `operations`'s; commits, checkpoints and headers are `ledger`'s.

mod operations;

use std::sync::Arc;

use crate::block::{
    CommittedBatch, Event, EventKind, Exclusion, ExclusionReason, ExecutedTransaction, PreparedTransaction, Receipt,
    SignatureVerifier, Verdict,
};
use crate::fault::Fault;
use crate::genesis::{FeeSchedule, ProtocolParameters};
use crate::hash::Hash;
use crate::module::{BlockFacts, EpochMoney};
use crate::state::{Accounts, NonceState, State};
use crate::transaction::{Sender, Transaction};
use crate::types::{AccountIndex, Address, Amount, MAX_EXPIRY};
use crate::validator_set::EpochEnd;
use operations::{Operations, Scratch};

/// What genesis fixes for execution.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) chain_id: Hash,
    pub(crate) fees: FeeSchedule,
    pub(crate) parameters: ProtocolParameters,
    /// See [`EpochMoney::mintable`].
    pub(crate) mintable: Amount,
}

/// What the cheap checks need to know of accounts: execution asks the state, admission asks a view.
pub(crate) trait AccountLookup {
    fn find(&self, address: &Address) -> Option<u32>;
    fn balance(&self, account: u32) -> Option<Amount>;
    fn nonce_state(&self, account: u32, nonce: u64) -> NonceState;
    fn key(&self, account: u32) -> Option<&Arc<[u8]>>;
}

impl AccountLookup for Accounts {
    fn find(&self, address: &Address) -> Option<u32> {
        Self::find(self, address)
    }

    fn balance(&self, account: u32) -> Option<Amount> {
        Self::balance(self, account)
    }

    fn nonce_state(&self, account: u32, nonce: u64) -> NonceState {
        Self::nonce_state(self, account, nonce)
    }

    fn key(&self, account: u32) -> Option<&Arc<[u8]>> {
        Self::key(self, account)
    }
}

/// A transaction that passed the cheap checks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admitted {
    pub(crate) sender: u32,
    pub(crate) balance: Amount,
    pub(crate) fee: Amount,
}

/// Every check but the signature's, for inclusion at a height.
pub(crate) fn admission(
    rules: &Rules,
    accounts: &impl AccountLookup,
    height: u64,
    tx: &Transaction,
) -> Result<Admitted, ExclusionReason> {
    if tx.chain_id() != rules.chain_id {
        return Err(ExclusionReason::WrongChain);
    }
    if tx.expiry() < height {
        return Err(ExclusionReason::Expired);
    }
    if tx.expiry() - height > MAX_EXPIRY {
        return Err(ExclusionReason::ExpiryTooFar);
    }
    let sender = match tx.sender() {
        Sender::Index(index) => index.0,
        Sender::Address(address) => accounts.find(&address).ok_or(ExclusionReason::UnknownSender)?,
    };
    let balance = accounts.balance(sender).ok_or(ExclusionReason::UnknownSender)?;
    match accounts.nonce_state(sender, tx.nonce()) {
        NonceState::Unused => {}
        NonceState::Used => return Err(ExclusionReason::NonceUsed),
        NonceState::OutOfWindow => return Err(ExclusionReason::NonceOutOfWindow),
    }
    let fee = rules.fees.fee(tx.operation_count(), tx.encode().len());
    if fee > tx.max_fee() {
        return Err(ExclusionReason::MaxFeeTooLow);
    }
    if fee > balance {
        return Err(ExclusionReason::CannotPayFee);
    }
    if tx.sender_key().is_none() && accounts.key(sender).is_none() {
        return Err(ExclusionReason::NoKey);
    }
    Ok(Admitted { sender, balance, fee })
}

/// What a block's execution collects.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    pub(crate) transactions: Vec<ExecutedTransaction>,
    pub(crate) exclusions: Vec<Exclusion>,
    pub(crate) events: Vec<Event>,
    pub(crate) operations: u64,
    pub(crate) bytes: u64,
}

/// The execution of one block.
pub(crate) struct BlockExecution<'a> {
    pub(crate) state: &'a mut State,
    rules: &'a Rules,
    facts: BlockFacts,
    verifier: &'a dyn SignatureVerifier,
    scratch: Scratch,
    out: Collected,
}

impl<'a> BlockExecution<'a> {
    pub(crate) fn new(
        state: &'a mut State,
        rules: &'a Rules,
        facts: BlockFacts,
        verifier: &'a dyn SignatureVerifier,
    ) -> Self {
        Self { state, rules, facts, verifier, scratch: Scratch::default(), out: Collected::default() }
    }

    /// Executes the faults that the commit proves.
    pub(crate) fn faults(&mut self, faults: &[Fault]) {
        if faults.is_empty() {
            return;
        }
        for module in &mut self.state.modules {
            let (module_id, events) = (module.id(), &mut self.out.events);
            module.faults(&self.facts, faults, &mut |kind, data| {
                let kind = EventKind::Module { module: module_id, kind, data };
                events.push(Event { transaction: Event::SYSTEM, kind });
            });
        }
    }

    /// Settles the epoch whose last commit this is.
    pub(crate) fn end_epoch(&mut self, end: &EpochEnd) {
        let State { system, modules, .. } = &mut *self.state;
        for module in modules {
            let (module_id, events) = (module.id(), &mut self.out.events);
            let money = EpochMoney {
                fee_pool: &mut system.fee_pool,
                invalid_signatures: &mut system.invalid_signatures,
                invalid_signature_fee: self.rules.fees.invalid_signature_fee,
                mintable: self.rules.mintable,
            };
            module.end_epoch(end, money, &mut |kind, data| {
                let kind = EventKind::Module { module: module_id, kind, data };
                events.push(Event { transaction: Event::SYSTEM, kind });
            });
        }
    }

    /// Executes a batch's transactions in order.
    pub(crate) fn batch(&mut self, batch: &CommittedBatch) {
        for (position, prepared) in batch.transactions.iter().enumerate() {
            let position = u32::try_from(position).expect("a batch has fewer than 2^32 transactions");
            match self.admit(prepared) {
                Ok(admitted) => self.include(&prepared.transaction, admitted, batch.digest, position),
                Err(reason) => {
                    if reason == ExclusionReason::InvalidSignature {
                        self.state.system.charge(batch.proposer);
                    }
                    let (id, proposer) = (prepared.transaction.id(), batch.proposer);
                    self.out.exclusions.push(Exclusion { id, proposer, batch: batch.digest, position, reason });
                }
            }
        }
    }

    /// What was collected.
    pub(crate) fn finish(self) -> Collected {
        self.out
    }

    fn admit(&self, prepared: &PreparedTransaction) -> Result<Admitted, ExclusionReason> {
        let tx = &*prepared.transaction;
        let admitted = admission(self.rules, &self.state.accounts, self.facts.height, tx)?;
        if self.signature_is_valid(tx, admitted.sender, prepared.verdict.as_ref()) {
            Ok(admitted)
        } else {
            Err(ExclusionReason::InvalidSignature)
        }
    }

    /// A verdict counts only if it is about this signature and the sender's own key; otherwise it is verified here.
    fn signature_is_valid(&self, tx: &Transaction, sender: u32, verdict: Option<&Verdict>) -> bool {
        let accounts = &self.state.accounts;
        let Some(address) = accounts.address(sender) else { return false };
        let about_this =
            |verdict: &&Verdict| verdict.key_hash == *address && verdict.signature_digest == tx.signature_digest();
        let key = match tx.sender_key() {
            Some(key) => {
                if Address::of_public_key(key) != *address {
                    return false;
                }
                key
            }
            None => match accounts.key(sender) {
                Some(key) => key,
                None => return false,
            },
        };
        match verdict.filter(about_this) {
            Some(verdict) => verdict.valid,
            None => self.verifier.verify(key, &tx.signing_message(), tx.signature()),
        }
    }

    fn include(&mut self, transaction: &Arc<Transaction>, admitted: Admitted, batch: Hash, position: u32) {
        let tx = &**transaction;
        let Admitted { sender, balance, fee } = admitted;
        let in_block = u32::try_from(self.out.transactions.len()).expect("a block has fewer than 2^32 transactions");
        let State { accounts, system, modules } = &mut *self.state;
        accounts.set_balance(sender, balance - fee);
        system.fee_pool = system.fee_pool.saturating_add(fee);
        accounts.use_nonce(sender, tx.nonce());
        if let Some(key) = tx.sender_key().filter(|_| accounts.key(sender).is_none()) {
            accounts.register_key(sender, key);
            let kind = EventKind::KeyRegistered { index: AccountIndex(sender) };
            self.out.events.push(Event { transaction: in_block, kind });
        }
        let mut operations = Operations {
            accounts,
            modules,
            events: &mut self.out.events,
            verifier: self.verifier,
            chain_id: self.rules.chain_id,
            scratch: &mut self.scratch,
            transaction: in_block,
            sender,
            height: self.facts.height,
            timestamp_ms: self.facts.timestamp_ms,
            atomic: tx.is_atomic(),
            to_oneself: self.facts.version >= 2,
        };
        let (failures, undone) = operations.run(tx);
        let count = u32::try_from(tx.operation_count()).expect("a transaction has at most 4,096 operations");
        self.out.operations += u64::from(count);
        self.out.bytes += tx.encode().len() as u64;
        let receipt = Receipt { id: tx.id(), fee, operations: count, undone, failures };
        let sender = AccountIndex(sender);
        self.out.transactions.push(ExecutedTransaction {
            transaction: transaction.clone(),
            sender,
            batch,
            position,
            receipt,
        });
    }
}
