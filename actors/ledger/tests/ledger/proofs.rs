//! Proofs of transactions, receipts and accounts: they go through JSON, hold offline, and any change breaks them.

use aurigraph_ledger::types::AUR;
use aurigraph_ledger::{
    AccountIndex, AccountProof, ExecutedBlock, Hash, PlainHasher, ProofError, ReceiptProof, StateView, Target,
    TransactionProof,
};
use proptest::prelude::*;

use crate::world::{START_BALANCE, World, address, check, sign};

/// A block of transfers that ends at a checkpoint, with accounts on several pages.
fn checkpointed() -> (World, ExecutedBlock, StateView) {
    let mut world = World::new();
    let transactions = (0..7)
        .map(|nonce| {
            let mut builder = world.builder(0, nonce);
            for n in 0..100 {
                let to = u32::try_from(nonce).expect("small") * 100 + n + 100;
                builder.push_transfer(Target::Address(address(to)), u128::from(to));
            }
            sign(&builder, 0).into()
        })
        .collect();
    world.now += 1_000;
    let block = world.commit(transactions);
    let view = world.ledger.snapshot();
    assert!(view.is_checkpoint() && view.account_count() == 706);
    (world, block, view)
}

fn through_json<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).expect("proofs can be written")).expect("and read back")
}

#[test]
fn every_transaction_and_receipt_of_a_block_is_proved_under_its_header() {
    let (_, block, _) = checkpointed();
    for (at, executed) in block.transactions.iter().enumerate() {
        let (transaction, receipt) = block.proofs(at, &PlainHasher).expect("the position exists");
        let (transaction, receipt): (TransactionProof, ReceiptProof) =
            (through_json(&transaction), through_json(&receipt));
        assert_eq!((transaction.id, &receipt.receipt), (executed.transaction.id(), &executed.receipt));
        assert!(transaction.verify(&block.header.tx_root));
        assert!(receipt.verify(&block.header.receipts_root));
        assert!(!transaction.verify(&block.header.receipts_root));
        let other = TransactionProof { id: Hash::ZERO, ..transaction.clone() };
        assert!(!other.verify(&block.header.tx_root));
        let mut richer = receipt.clone();
        richer.receipt.fee += 1;
        assert!(!richer.verify(&block.header.receipts_root));
    }
    assert!(block.proofs(7, &PlainHasher).is_none());
}

#[test]
fn every_account_is_proved_under_the_checkpoint() {
    let (_, _, view) = checkpointed();
    let root = view.checkpoint().state_root;
    for index in (0..view.account_count()).map(AccountIndex) {
        let proof = view.account_proof(index).expect("the view is of a checkpoint").expect("the account exists");
        let proven = proof.verify(&root).expect("the proof holds");
        let account = view.account(index).expect("the account exists");
        assert_eq!((proven.address, proven.balance, proven.nonce), (account.address, account.balance, account.nonce));
    }
    let absent = view.account_proof(AccountIndex(view.account_count())).expect("the view is of a checkpoint");
    assert!(absent.is_none());
}

#[test]
fn an_account_proof_does_not_hold_for_another_index_root_or_free_place() {
    let (_, _, view) = checkpointed();
    let root = view.checkpoint().state_root;
    let proof = view.account_proof(AccountIndex(3)).expect("checkpoint").expect("account");
    let proof: AccountProof = through_json(&proof);
    assert_eq!(proof.verify(&root).map(|proven| proven.balance), Ok(START_BALANCE));
    assert!(matches!(proof.verify(&Hash::ZERO), Err(ProofError::StateRoot { .. })));
    let other_page = AccountProof { index: AccountIndex(300), ..proof.clone() };
    assert!(matches!(other_page.verify(&root), Err(ProofError::Page(_))));
    let last = view.account_proof(AccountIndex(705)).expect("checkpoint").expect("account");
    let free = AccountProof { index: AccountIndex(706), ..last };
    assert_eq!(free.verify(&root), Err(ProofError::NoAccount(AccountIndex(706))));
}

#[test]
fn any_changed_byte_breaks_an_account_proof() {
    let (_, _, view) = checkpointed();
    let root = view.checkpoint().state_root;
    let good = view.account_proof(AccountIndex(300)).expect("checkpoint").expect("account");
    check(500, (0..3_usize, any::<prop::sample::Index>(), 1..=255_u8, any::<bool>()), |(which, at, flip, in_path)| {
        let mut proof = good.clone();
        let part =
            [&mut proof.balances, &mut proof.nonces, &mut proof.identities].into_iter().nth(which).expect("three");
        if in_path {
            let sibling = at.index(part.path[0].len());
            part.path[0][sibling].0[usize::from(flip) % 32] ^= flip;
        } else {
            let at = at.index(part.page.len());
            part.page[at] ^= flip;
        }
        prop_assert!(proof.verify(&root).is_err());
        Ok(())
    });
    let mut forged = good.clone();
    forged.columns[1].root = Hash::ZERO;
    assert!(matches!(forged.verify(&root), Err(ProofError::StateRoot { .. })));
    let mut shorter = good;
    shorter.balances.path.clear();
    assert!(shorter.verify(&root).is_err());
}

#[test]
fn a_view_between_checkpoints_proves_nothing_and_an_old_view_still_does() {
    let (mut world, _, view) = checkpointed();
    let root = view.checkpoint().state_root;
    let tx = sign(&world.builder(0, 7).transfer(Target::Index(AccountIndex(1)), AUR), 0);
    world.commit(vec![tx.into()]);
    let later = world.ledger.snapshot();
    assert!(later.account_proof(AccountIndex(1)).is_err() && later.export_pages(None).is_err());
    assert_eq!(later.balance(AccountIndex(1)), Some(START_BALANCE + AUR));
    let proof = view.account_proof(AccountIndex(1)).expect("checkpoint").expect("account");
    assert_eq!(proof.verify(&root).map(|proven| proven.balance), Ok(START_BALANCE));
}
