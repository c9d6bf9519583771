//! Every rule of admission, one by one.

use std::time::Duration;

use aurigraph_ledger::transaction::{SenderKey, TransactionBuilder};
use aurigraph_ledger::types::{MAX_EXPIRY, MAX_TRANSACTION_LEN, NONCE_WINDOW};
use aurigraph_ledger::{AccountIndex, CodecError, Hash};

use super::super::messages::{PendingState, RETRY_AFTER};
use super::super::refusal::Refusal;
use super::super::testing::{Account, CHAIN, FEE, FEES, View};
use super::*;

fn pool() -> Pool {
    Pool::new(Rules { chain_id: CHAIN, fees: FEES })
}

/// What admission says about a transaction of this builder, signed by the account.
fn refusal(pool: &mut Pool, view: &View, account: &Account, builder: &TransactionBuilder) -> Refusal {
    pool.admit(view, account.sign(builder).encode()).unwrap_err()
}

fn by_key(account: &Account) -> SenderKey {
    SenderKey::PublicKey(account.key.bytes.to_vec())
}

fn builder(chain: Hash, sender: SenderKey, expiry: u64) -> TransactionBuilder {
    let to = aurigraph_ledger::transaction::Target::Index(AccountIndex(1));
    TransactionBuilder::new(chain, sender, 0, expiry).fees(&FEES).transfer(to, 5)
}

#[test]
fn a_good_transaction_is_kept_with_its_senders_key() {
    let (alice, mut pool) = (Account::new(1), pool());
    let view = View::of(&[&alice], 1_000);
    let transaction = alice.pay(0);
    let check = pool.admit(&view, transaction.encode()).unwrap();
    assert_eq!(check.key.unwrap().hash, alice.key.hash);
    let status = pool.status(&transaction.id()).unwrap();
    assert_eq!((status.state, status.fee, status.expiry), (PendingState::Verifying, FEE, 100));
    assert_eq!((pool.len(), pool.bytes()), (1, transaction.encode().len()));
}

#[test]
fn bytes_that_are_no_transaction_are_refused() {
    let (alice, mut pool) = (Account::new(1), pool());
    let view = View::of(&[&alice], 1_000);
    assert!(matches!(pool.admit(&view, b""), Err(Refusal::Undecodable(CodecError::Truncated { .. }))));
    let longer = [alice.pay(0).encode(), &[0]].concat();
    assert!(matches!(pool.admit(&view, &longer), Err(Refusal::Undecodable(_))));
    let (len, max) = (MAX_TRANSACTION_LEN + 1, MAX_TRANSACTION_LEN);
    assert_eq!(pool.admit(&view, &vec![0; len]).unwrap_err(), Refusal::TooLarge { len, max });
}

#[test]
fn another_chain_and_a_wrong_expiry_are_refused() {
    let (alice, mut pool) = (Account::new(1), pool());
    let view = View::of(&[&alice], 1_000);
    let index = SenderKey::Index(alice.index);
    let other = Hash([1; 32]);
    let found = refusal(&mut pool, &view, &alice, &builder(other, index.clone(), 50));
    assert_eq!(found, Refusal::WrongChain { found: other, expected: CHAIN });
    let found = refusal(&mut pool, &view, &alice, &builder(CHAIN, index.clone(), 10));
    assert_eq!(found, Refusal::Expired { expiry: 10, height: 11 });
    let far = 11 + MAX_EXPIRY + 1;
    let found = refusal(&mut pool, &view, &alice, &builder(CHAIN, index.clone(), far));
    assert_eq!(found, Refusal::ExpiryTooFar { expiry: far, height: 11, max: MAX_EXPIRY });
    for (nonce, expiry) in [(0, 11), (1, 11 + MAX_EXPIRY)] {
        let to = aurigraph_ledger::transaction::Target::Index(AccountIndex(1));
        let edge = TransactionBuilder::new(CHAIN, index.clone(), nonce, expiry).fees(&FEES).transfer(to, 5);
        assert!(pool.admit(&view, alice.sign(&edge).encode()).is_ok(), "expiry {expiry}");
    }
}

#[test]
fn unknown_senders_and_missing_or_foreign_keys_are_refused() {
    let (alice, bob, mut pool) = (Account::new(1), Account::new(2), pool());
    let mut view = View::of(&[&alice], 1_000);
    let found = pool.admit(&view, bob.pay(0).encode()).unwrap_err();
    assert_eq!(found, Refusal::UnknownSender { sender: "2".to_owned() });
    let found = refusal(&mut pool, &view, &bob, &builder(CHAIN, by_key(&bob), 50));
    assert_eq!(found, Refusal::UnknownSender { sender: bob.address().to_string() });

    view.account_mut(&alice).key = None;
    let found = pool.admit(&view, alice.pay(0).encode()).unwrap_err();
    assert_eq!(found, Refusal::KeyNotRegistered { sender: 1 });
    let carried = alice.sign(&builder(CHAIN, by_key(&alice), 50));
    assert_eq!(pool.admit(&view, carried.encode()).unwrap().key.unwrap().hash, alice.key.hash);

    // Bob's key under Alice's address: the address stands right before the key.
    let mut bytes = bob.sign(&builder(CHAIN, by_key(&bob), 50)).encode().to_vec();
    let at = bytes.windows(32).position(|window| window == bob.key.hash.0).unwrap();
    bytes[at..at + 32].copy_from_slice(&alice.key.hash.0);
    let found = pool.admit(&view, &bytes).unwrap_err();
    assert_eq!(found, Refusal::WrongKey { address: alice.address(), belongs_to: bob.address() });
}

#[test]
fn used_and_far_nonces_are_refused() {
    let (alice, mut pool) = (Account::new(1), pool());
    let mut view = View::of(&[&alice], 1_000);
    view.account_mut(&alice).nonce_base = 5;
    view.used.insert((alice.index, 7));
    for nonce in [4, 7] {
        let found = pool.admit(&view, alice.pay(nonce).encode()).unwrap_err();
        assert_eq!(found, Refusal::NonceUsed { nonce, base: 5 });
    }
    let nonce = 5 + NONCE_WINDOW;
    let found = pool.admit(&view, alice.pay(nonce).encode()).unwrap_err();
    assert_eq!(found, Refusal::NonceOutOfWindow { nonce, base: 5, window: NONCE_WINDOW });
    assert!(pool.admit(&view, alice.pay(nonce - 1).encode()).is_ok());
}

#[test]
fn fees_that_are_not_allowed_or_not_covered_are_refused() {
    let (alice, mut pool) = (Account::new(1), pool());
    let view = View::of(&[&alice], 3 * FEE - 1);
    let found = refusal(&mut pool, &view, &alice, &alice.builder(0).max_fee(FEE - 1));
    assert_eq!(found, Refusal::MaxFeeTooLow { fee: FEE, max_fee: FEE - 1 });
    let first = alice.pay(0);
    for transaction in [&first, &alice.pay(1)] {
        assert!(pool.admit(&view, transaction.encode()).is_ok());
    }
    let found = pool.admit(&view, alice.pay(2).encode()).unwrap_err();
    assert_eq!(found, Refusal::CannotPayFee { fee: FEE, balance: 3 * FEE - 1, reserved: 2 * FEE });
    pool.remove(&first.id());
    assert!(pool.admit(&view, alice.pay(2).encode()).is_ok(), "a refused one reserves nothing");
}

#[test]
fn duplicates_and_a_nonce_that_is_pending_are_refused() {
    let (alice, mut pool) = (Account::new(1), pool());
    let view = View::of(&[&alice], 10_000);
    let transaction = alice.pay(3);
    pool.admit(&view, transaction.encode()).unwrap();
    let id = transaction.id();
    assert_eq!(pool.admit(&view, transaction.encode()).unwrap_err(), Refusal::Duplicate { id });
    let other = alice.sign(&alice.builder(3).memo(b"other"));
    let found = pool.admit(&view, other.encode()).unwrap_err();
    assert_eq!(found, Refusal::NoncePending { nonce: 3, pending: id });
}

#[test]
fn one_sender_cannot_fill_the_pool() {
    let (alice, bob, mut pool) = (Account::new(1), Account::new(2), pool());
    let view = View::of(&[&alice, &bob], u128::MAX);
    // Signatures are not checked here: one serves all.
    let signature = alice.pay(0).signature().to_vec();
    let quick = |account: &Account, nonce| account.builder(nonce).build().unwrap().with_signature(&signature).unwrap();
    let max = bounds::SENDER_TRANSACTIONS;
    for nonce in 0..max as u64 {
        pool.admit(&view, quick(&alice, nonce).encode()).unwrap();
    }
    let found = pool.admit(&view, quick(&alice, max as u64).encode()).unwrap_err();
    assert_eq!(found, Refusal::TooManyPending { pending: max, max });
    assert!(pool.admit(&view, quick(&bob, 0).encode()).is_ok());

    let mut pool = self::pool();
    let large = |nonce| {
        let mut builder = alice.builder(nonce);
        for at in 0..4_095_u128 {
            let to = aurigraph_ledger::transaction::Target::Address(alice.address());
            builder.push_transfer(to, u128::MAX - at);
        }
        builder.build().unwrap().with_signature(&signature).unwrap()
    };
    let overloaded = (0..).find_map(|nonce| pool.admit(&view, large(nonce).encode()).err()).unwrap();
    assert_eq!(overloaded, Refusal::Overloaded { what: "the sender's bytes", retry_after: RETRY_AFTER });
    assert!(pool.bytes() <= bounds::SENDER_BYTES);
    assert_eq!(overloaded.retry_after(), Some(Duration::from_secs(1)));
}

#[test]
fn the_pools_byte_bound_holds_until_batches_are_stored() {
    let accounts: Vec<_> = (1..=9).map(Account::new).collect();
    let view = View::of(&accounts.iter().collect::<Vec<_>>(), u128::MAX);
    let mut pool = pool();
    let signature = accounts[0].pay(0).signature().to_vec();
    let large = |account: &Account, nonce| {
        let mut builder = account.builder(nonce);
        for at in 0..4_095_u128 {
            builder.push_transfer(aurigraph_ledger::transaction::Target::Address(account.address()), u128::MAX - at);
        }
        builder.build().unwrap().with_signature(&signature).unwrap()
    };
    let mut admitted = Vec::new();
    let full =
        (0..).flat_map(|nonce| accounts.iter().map(move |account| (account, nonce))).find_map(|(account, nonce)| {
            let transaction = large(account, nonce);
            match pool.admit(&view, transaction.encode()) {
                Ok(_) => {
                    admitted.push(transaction.id());
                    assert!(pool.bytes() <= bounds::POOL_BYTES);
                    None
                }
                Err(refusal) => Some(refusal),
            }
        });
    assert_eq!(full, Some(Refusal::Overloaded { what: "the pool's bytes", retry_after: RETRY_AFTER }));
    admitted.iter().for_each(|id| pool.batched(id, Hash([1; 32])));
    assert_eq!((pool.bytes(), pool.len()), (0, admitted.len()));
    assert!(pool.admit(&view, large(&accounts[0], 600).encode()).is_ok());
    admitted.iter().for_each(|id| pool.remove(id));
    assert_eq!(pool.len(), 1);
}

#[test]
fn what_is_committed_or_expired_is_forgotten_and_frees_its_sender() {
    let (alice, mut pool) = (Account::new(1), pool());
    let mut view = View::of(&[&alice], 10_000);
    let all: Vec<_> = (0..3).map(|nonce| alice.pay(nonce)).collect();
    for transaction in &all {
        pool.admit(&view, transaction.encode()).unwrap();
    }
    assert!(pool.queue(&all[0]).is_some());
    pool.batched(&all[0].id(), Hash([4; 32]));
    assert_eq!(pool.status(&all[0].id()).unwrap().state, PendingState::Batched { batch: Hash([4; 32]) });
    view.used.insert((alice.index, 0));
    pool.published(&view);
    assert_eq!((pool.len(), pool.status(&all[0].id())), (2, None));
    assert_eq!(pool.queue(&all[0]), None, "it was overtaken");
    view.height = 99;
    pool.published(&view);
    assert_eq!(pool.len(), 2, "a transaction may still be in the block at its expiry");
    view.height = 100;
    pool.published(&view);
    assert_eq!((pool.len(), pool.bytes(), pool.senders.len()), (0, 0, 0));
}
