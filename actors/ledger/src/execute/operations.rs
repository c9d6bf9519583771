//! What an included transaction's operations do.
//!
//! Transfers run over columns, without allocation or hashing per operation. In an atomic transaction the first failure
//! ends the run, and everything since its start is undone.

use std::sync::Arc;

use crate::block::{Event, EventKind, FailureCode, OperationFailure, SignatureVerifier};
use crate::hash::{DIGEST_LEN, Hash};
use crate::module::{Module, ModuleContext, ModuleId};
use crate::state::{Accounts, Balances, ROWS};
use crate::transaction::{Group, ModuleGroup, RecipientColumn, Transaction, TransferGroup};
use crate::types::{AccountIndex, Address, Amount};

/// Buffers that are reused from transaction to transaction.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Balances before a change, oldest first; kept in atomic transactions only.
    undo: Vec<(u32, Amount)>,
    failures: Vec<OperationFailure>,
}

/// The operations of one transaction, and what they may change.
pub(super) struct Operations<'a> {
    pub(super) accounts: &'a mut Accounts,
    pub(super) modules: &'a mut [Box<dyn Module>],
    pub(super) events: &'a mut Vec<Event>,
    pub(super) verifier: &'a dyn SignatureVerifier,
    pub(super) chain_id: Hash,
    pub(super) scratch: &'a mut Scratch,
    /// The transaction's position in the block.
    pub(super) transaction: u32,
    pub(super) sender: u32,
    pub(super) height: u64,
    pub(super) timestamp_ms: u64,
    pub(super) atomic: bool,
    /// Whether a transfer to oneself succeeds, as from protocol version 2 on.
    pub(super) to_oneself: bool,
}

fn read<const N: usize>(bytes: [u8; N]) -> Amount {
    let mut wide = [0; 16];
    wide[..N].copy_from_slice(&bytes);
    Amount::from_le_bytes(wide)
}

impl Operations<'_> {
    /// Runs the groups in order; returns the failures, and whether they undid everything.
    pub(super) fn run(&mut self, tx: &Transaction) -> (Vec<OperationFailure>, bool) {
        self.scratch.undo.clear();
        self.scratch.failures.clear();
        let (accounts_before, events_before) = (self.accounts.count(), self.events.len());
        if self.atomic {
            self.modules.iter_mut().for_each(|module| module.begin());
        }
        let mut start = 0;
        for group in tx.groups() {
            match group {
                Group::Transfers(group) => self.transfers(group, start),
                Group::Module(group) => self.module_group(group, start),
            }
            start += u32::try_from(group.len()).expect("a group has at most 4,096 operations");
            if self.atomic && !self.scratch.failures.is_empty() {
                break;
            }
        }
        let undone = self.atomic && !self.scratch.failures.is_empty();
        if undone {
            self.scratch.failures.truncate(1);
            self.undo(accounts_before);
            self.events.truncate(events_before);
        } else if self.atomic {
            self.modules.iter_mut().for_each(|module| module.keep());
        }
        // The common case, no failure, allocates nothing.
        (self.scratch.failures.to_vec(), undone)
    }

    fn undo(&mut self, accounts_before: u32) {
        while let Some((account, balance)) = self.scratch.undo.pop() {
            self.accounts.set_balance(account, balance);
        }
        self.accounts.uncreate(accounts_before);
        self.modules.iter_mut().for_each(|module| module.revert());
    }

    fn transfers(&mut self, group: TransferGroup<'_>, start: u32) {
        match (group.recipients, group.amount_width) {
            (RecipientColumn::Indices(column), 1) => self.credit_indices::<1>(column, group.amounts, start),
            (RecipientColumn::Indices(column), 2) => self.credit_indices::<2>(column, group.amounts, start),
            (RecipientColumn::Indices(column), 4) => self.credit_indices::<4>(column, group.amounts, start),
            (RecipientColumn::Indices(column), 8) => self.credit_indices::<8>(column, group.amounts, start),
            (RecipientColumn::Indices(column), _) => self.credit_indices::<16>(column, group.amounts, start),
            (RecipientColumn::Addresses(column), _) => self.credit_addresses(column, group, start),
        }
    }

    fn credit_indices<const WIDTH: usize>(&mut self, recipients: &[u8], amounts: &[u8], start: u32) {
        let blocks = recipients.as_chunks::<4>().0.chunks(BLOCK).zip(amounts.as_chunks::<WIDTH>().0.chunks(BLOCK));
        let sender = self.sender as usize;
        let Scratch { undo, failures } = &mut *self.scratch;
        let balances = self.accounts.balances_mut();
        let funds = balances.amounts[sender];
        if self.atomic {
            undo.push((self.sender, funds));
        }
        let mut run = IndexRun {
            balances,
            sender: self.sender,
            funds,
            atomic: self.atomic,
            to_oneself: self.to_oneself,
            undo,
            failures,
        };
        let mut position = start;
        for (recipients, amounts) in blocks {
            if !run.block(recipients, amounts, position) {
                break;
            }
            position += BLOCK as u32;
        }
        let IndexRun { balances, funds, .. } = run;
        balances.amounts[sender] = funds;
        balances.behind[sender / ROWS] = true;
    }

    fn credit_addresses(&mut self, recipients: &[u8], group: TransferGroup<'_>, start: u32) {
        let amounts = group.amounts.chunks_exact(group.amount_width);
        for (at, (to, amount)) in recipients.as_chunks::<DIGEST_LEN>().0.iter().zip(amounts).enumerate() {
            let mut wide = [0; 16];
            wide[..amount.len()].copy_from_slice(amount);
            if let Err(code) = self.credit_address(Address(Hash(*to)), Amount::from_le_bytes(wide)) {
                #[allow(clippy::cast_possible_truncation)]
                self.scratch.failures.push(OperationFailure { position: start + at as u32, code });
                if self.atomic {
                    return;
                }
            }
        }
    }

    fn credit_address(&mut self, to: Address, amount: Amount) -> Result<(), FailureCode> {
        let (sender, funds) = (self.sender, self.accounts.balance(self.sender).unwrap_or(0));
        let known = self.accounts.find(&to);
        match known {
            _ if amount == 0 => return Err(FailureCode::ZeroAmount),
            Some(to) if to == sender => return transfer_to_oneself(self.to_oneself, funds, amount),
            // Before the account is created: a failed operation must leave nothing behind.
            _ if amount > funds => return Err(FailureCode::InsufficientBalance),
            _ => {}
        }
        let index = match known {
            Some(index) => index,
            None => self.create(&to).ok_or(FailureCode::NoIndexLeft)?,
        };
        self.move_amount(sender, index, amount)
    }

    fn create(&mut self, address: &Address) -> Option<u32> {
        let index = self.accounts.create(address)?;
        let kind = EventKind::AccountCreated { address: *address, index: AccountIndex(index) };
        self.events.push(Event { transaction: self.transaction, kind });
        Some(index)
    }

    /// Moves an amount between two accounts, remembering the balances before in atomic transactions.
    fn move_amount(&mut self, from: u32, to: u32, amount: Amount) -> Result<(), FailureCode> {
        let funds = self.accounts.balance(from).ok_or(FailureCode::UnknownIndex)?;
        let balance = self.accounts.balance(to).ok_or(FailureCode::UnknownIndex)?;
        if from == to {
            return Err(FailureCode::SelfTransfer);
        }
        let left = funds.checked_sub(amount).ok_or(FailureCode::InsufficientBalance)?;
        let credited = balance.checked_add(amount).ok_or(FailureCode::BalanceOverflow)?;
        if self.atomic {
            self.scratch.undo.extend([(from, funds), (to, balance)]);
        }
        self.accounts.set_balance(from, left);
        self.accounts.set_balance(to, credited);
        Ok(())
    }

    /// Sets an existing account's balance, remembering the one before in atomic transactions.
    fn set_balance(&mut self, account: u32, balance: Amount) -> bool {
        let Some(before) = self.accounts.balance(account) else { return false };
        if self.atomic {
            self.scratch.undo.push((account, before));
        }
        self.accounts.set_balance(account, balance);
        true
    }

    fn module_group(&mut self, group: ModuleGroup<'_>, start: u32) {
        let Some(id) = ModuleId::of_tag(group.tag) else { return };
        // Taken out of the list for the call, so that the module and its context do not share a borrow.
        let Some(at) = self.modules.iter().position(|module| module.id() == id) else { return };
        let modules = std::mem::take(&mut self.modules);
        let atomic = self.atomic;
        modules[at].execute(group, atomic, &mut GroupContext { operations: self, module: id, start });
        self.modules = modules;
    }
}

/// Transfers that are looked at together before they are made.
const BLOCK: usize = 32;

/// A run of transfers to indices: the hot loop, with the sender's balance in a register.
struct IndexRun<'a> {
    balances: Balances<'a>,
    sender: u32,
    funds: Amount,
    atomic: bool,
    to_oneself: bool,
    undo: &'a mut Vec<(u32, Amount)>,
    failures: &'a mut Vec<OperationFailure>,
}

impl IndexRun<'_> {
    /// Makes a block of transfers; false if the transaction is atomic and one failed.
    fn block<const WIDTH: usize>(&mut self, recipients: &[[u8; 4]], amounts: &[[u8; WIDTH]], start: u32) -> bool {
        self.touch(recipients);
        for ((to, amount), position) in recipients.iter().zip(amounts).zip(start..) {
            let (to, amount) = (u32::from_le_bytes(*to), read(*amount));
            match transfer_to_index(self.balances.amounts, self.sender, self.funds, to, amount) {
                Ok(credited) => self.credit(to, credited, amount),
                Err(code) => {
                    let code = match code {
                        FailureCode::SelfTransfer => match transfer_to_oneself(self.to_oneself, self.funds, amount) {
                            Ok(()) => continue,
                            Err(code) => code,
                        },
                        code => code,
                    };
                    self.failures.push(OperationFailure { position, code });
                    if self.atomic {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Loads every receiver's balance once. These loads do not wait for each other, so the cache misses of a block
    /// overlap; with a million accounts that halves the time of an operation.
    fn touch(&self, recipients: &[[u8; 4]]) {
        let touched = recipients.iter().fold(0, |sum: Amount, to| {
            sum ^ self.balances.amounts.get(u32::from_le_bytes(*to) as usize).copied().unwrap_or(0)
        });
        // Without a use of the result the loads would be left out.
        std::hint::black_box(touched);
    }

    #[inline]
    fn credit(&mut self, to: u32, credited: Amount, amount: Amount) {
        let place = &mut self.balances.amounts[to as usize];
        if self.atomic {
            self.undo.push((to, *place));
        }
        *place = credited;
        self.balances.behind[to as usize / ROWS] = true;
        self.funds -= amount;
    }
}

/// A transfer of a sender to itself, which moves nothing.
const fn transfer_to_oneself(allowed: bool, funds: Amount, amount: Amount) -> Result<(), FailureCode> {
    match (allowed, amount <= funds) {
        (false, _) => Err(FailureCode::SelfTransfer),
        (true, false) => Err(FailureCode::InsufficientBalance),
        (true, true) => Ok(()),
    }
}

/// Checks a transfer to an index in the order of the failure codes; gives the receiver's new balance.
#[inline]
fn transfer_to_index(
    balances: &[Amount],
    sender: u32,
    funds: Amount,
    to: u32,
    amount: Amount,
) -> Result<Amount, FailureCode> {
    if amount == 0 {
        return Err(FailureCode::ZeroAmount);
    }
    if to == sender {
        return Err(FailureCode::SelfTransfer);
    }
    let balance = balances.get(to as usize).ok_or(FailureCode::UnknownIndex)?;
    if amount > funds {
        return Err(FailureCode::InsufficientBalance);
    }
    balance.checked_add(amount).ok_or(FailureCode::BalanceOverflow)
}

/// What a module sees while it executes a group.
struct GroupContext<'a, 'b> {
    operations: &'a mut Operations<'b>,
    module: ModuleId,
    /// The position in the transaction of the group's first operation.
    start: u32,
}

impl ModuleContext for GroupContext<'_, '_> {
    fn chain_id(&self) -> Hash {
        self.operations.chain_id
    }

    fn sender_address(&self) -> Address {
        self.operations.accounts.address(self.operations.sender).copied().unwrap_or_default()
    }

    fn debit(&mut self, account: AccountIndex, amount: Amount) -> bool {
        let left = self.balance(account).and_then(|balance| balance.checked_sub(amount));
        left.is_some_and(|left| self.operations.set_balance(account.0, left))
    }

    fn credit(&mut self, account: AccountIndex, amount: Amount) -> bool {
        let credited = self.balance(account).and_then(|balance| balance.checked_add(amount));
        credited.is_some_and(|credited| self.operations.set_balance(account.0, credited))
    }

    fn verify(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        self.operations.verifier.verify(public_key, message, signature)
    }

    fn sender_key(&self) -> Option<Arc<[u8]>> {
        self.operations.accounts.key(self.operations.sender).cloned()
    }

    fn sender(&self) -> AccountIndex {
        AccountIndex(self.operations.sender)
    }

    fn height(&self) -> u64 {
        self.operations.height
    }

    fn timestamp_ms(&self) -> u64 {
        self.operations.timestamp_ms
    }

    fn account(&self, address: &Address) -> Option<AccountIndex> {
        self.operations.accounts.find(address).map(AccountIndex)
    }

    fn balance(&self, account: AccountIndex) -> Option<Amount> {
        self.operations.accounts.balance(account.0)
    }

    fn transfer(&mut self, from: AccountIndex, to: AccountIndex, amount: Amount) -> bool {
        self.operations.move_amount(from.0, to.0, amount).is_ok()
    }

    fn fail(&mut self, at: usize, code: u8) {
        #[allow(clippy::cast_possible_truncation)]
        let failure = OperationFailure { position: self.start + at as u32, code: FailureCode::Module(code) };
        self.operations.scratch.failures.push(failure);
    }

    fn emit(&mut self, kind: u16, data: Vec<u8>) {
        let kind = EventKind::Module { module: self.module, kind, data };
        self.operations.events.push(Event { transaction: self.operations.transaction, kind });
    }
}
