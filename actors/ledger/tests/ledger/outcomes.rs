//! Every row of the outcome table, and the rules about verdicts, senders and indices.

use aurigraph_ledger::types::{AUR, MAX_EXPIRY, NONCE_WINDOW, PUBLIC_KEY_LEN};
use aurigraph_ledger::{
    AccountIndex, Address, Amount, CommittedBatch, EventKind, ExclusionReason, FailureCode, Hash, OperationFailure,
    Receipt, SenderKey, Target, Transaction, TransactionBuilder, Verdict, h,
};

use crate::world::{FakeVerifier, START_BALANCE, World, address, corrupt, key, sign, sign_again, with_verdict};

const fn to(index: u32) -> Target {
    Target::Index(AccountIndex(index))
}

fn transfer(world: &World, sender: u32, nonce: u64) -> Transaction {
    sign(&world.builder(sender, nonce).transfer(to(1), AUR), sender)
}

fn fee(world: &World, tx: &Transaction) -> Amount {
    world.genesis.fees.fee(tx.operation_count(), tx.encode().len())
}

#[test]
fn a_transfer_moves_the_amount_and_pays_the_fee() {
    let mut world = World::new();
    let tx = transfer(&world, 0, 0);
    let fee = fee(&world, &tx);
    assert_eq!(tx.max_fee(), fee, "the builder agrees to exactly the fee");
    let block = world.commit(vec![tx.clone().into()]);
    let expected = Receipt { id: tx.id(), fee, operations: 1, undone: false, failures: Vec::new() };
    assert_eq!(block.transactions[0].receipt, expected);
    assert_eq!(block.transactions[0].sender, AccountIndex(0));
    assert_eq!(world.balance(0), START_BALANCE - AUR - fee);
    assert_eq!(world.balance(1), START_BALANCE + AUR);
    assert_eq!((world.nonce(0), world.ledger.fee_pool()), (1, fee));
    assert_eq!((block.header.transactions, block.header.operations), (1, 1));
    assert_eq!(block.bytes, tx.encode().len() as u64);
}

/// Commits a transaction that must be excluded, and checks that nothing at all changed.
fn assert_excluded_without_effect(world: &mut World, tx: Transaction, expected: ExclusionReason) {
    world.root();
    let before = world.ledger.snapshot();
    assert_eq!(world.excluded(tx), expected);
    let after = world.ledger.snapshot();
    assert_eq!(after.account_count(), before.account_count());
    for account in 0..before.account_count() {
        assert_eq!(after.account(AccountIndex(account)), before.account(AccountIndex(account)));
    }
    assert_eq!(after.fee_pool(), before.fee_pool());
    assert_eq!(after.invalid_signatures(), before.invalid_signatures(), "nobody is charged");
}

#[test]
fn an_entry_that_does_not_parse_delivers_nothing() {
    let mut world = World::new();
    let good = transfer(&world, 0, 0);
    let entries = [vec![1, 2, 3], good.encode().to_vec(), good.encode()[..good.encode().len() - 1].to_vec()];
    let batch = CommittedBatch::decode(0, h("b", b""), entries.map(Into::into));
    assert_eq!(batch.transactions.len(), 1);
    let block = world.commit_batches(vec![batch]).block.expect("one entry parses");
    assert_eq!((block.transactions.len(), block.exclusions.len()), (1, 0));
    let nothing = CommittedBatch::decode(0, h("c", b""), [vec![1, 2, 3].into()]);
    assert!(world.commit_batches(vec![nothing]).block.is_none(), "no entry parses, so there is no block");
}

#[test]
fn a_transaction_for_another_chain_is_excluded() {
    let mut world = World::new();
    let sender = SenderKey::Index(AccountIndex(0));
    let tx = TransactionBuilder::new(h("other", b""), sender, 0, 10).max_fee(AUR).transfer(to(1), 1);
    assert_excluded_without_effect(&mut world, sign(&tx, 0), ExclusionReason::WrongChain);
}

#[test]
fn a_transaction_is_included_up_to_its_expiry_and_excluded_after_it() {
    let mut world = World::new();
    let chain = world.ledger.chain_id();
    let expiring = |nonce, expiry| {
        let builder = TransactionBuilder::new(chain, SenderKey::Index(AccountIndex(0)), nonce, expiry);
        sign(&builder.max_fee(AUR).transfer(to(1), 1), 0)
    };
    assert_eq!(world.commit(vec![expiring(0, 1).into()]).transactions.len(), 1, "the block has height 1");
    assert_excluded_without_effect(&mut world, expiring(1, 1), ExclusionReason::Expired);
    assert_excluded_without_effect(&mut world, expiring(1, 3 + MAX_EXPIRY + 1), ExclusionReason::ExpiryTooFar);
    assert_eq!(world.commit(vec![expiring(1, 4 + MAX_EXPIRY).into()]).transactions.len(), 1);
    assert_excluded_without_effect(&mut world, expiring(2, u64::MAX), ExclusionReason::ExpiryTooFar);
}

#[test]
fn a_used_nonce_is_excluded_and_so_is_one_beyond_the_window() {
    let mut world = World::new();
    let (used, far) = (transfer(&world, 0, 5), transfer(&world, 0, NONCE_WINDOW));
    assert_eq!(world.commit(vec![used.into()]).transactions.len(), 1, "nonces need no order");
    let other = sign(&world.builder(0, 5).transfer(to(2), 7), 0);
    assert_excluded_without_effect(&mut world, other, ExclusionReason::NonceUsed);
    assert_excluded_without_effect(&mut world, far, ExclusionReason::NonceOutOfWindow);
    let last = transfer(&world, 0, NONCE_WINDOW - 1);
    assert_eq!(world.commit(vec![last.into()]).transactions.len(), 1);
}

#[test]
fn a_fee_above_the_agreed_maximum_or_the_balance_excludes() {
    let mut world = World::new();
    let cheap = sign(&world.builder(0, 0).transfer(to(1), 1), 0);
    let too_little = sign(&world.builder(0, 0).max_fee(fee(&world, &cheap) - 1).transfer(to(1), 1), 0);
    assert_excluded_without_effect(&mut world, too_little, ExclusionReason::MaxFeeTooLow);
    // Account 1 gives all away but a rest below any fee.
    let draft = sign(&world.builder(1, 0).transfer(to(2), START_BALANCE - 6_000), 1);
    let rest = 3;
    let all = START_BALANCE - fee(&world, &draft) - rest;
    let empties = sign(&world.builder(1, 0).transfer(to(2), all), 1);
    assert_eq!(fee(&world, &draft), fee(&world, &empties));
    assert!(world.commit(vec![empties.into()]).transactions[0].receipt.all_applied());
    assert_eq!(world.balance(1), rest);
    let poor = transfer(&world, 1, 1);
    assert_excluded_without_effect(&mut world, poor, ExclusionReason::CannotPayFee);
}

#[test]
fn an_invalid_signature_is_charged_to_the_validator_that_batched_it() {
    let mut world = World::new();
    let bad = corrupt(&transfer(&world, 0, 0));
    let (first, second) = (world.batch(3, vec![bad.clone().into()]), world.batch(1, vec![bad.into()]));
    let block = world.commit_batches(vec![first, second]).block.expect("the commit has content");
    assert!(block.transactions.is_empty());
    let reasons: Vec<_> = block.exclusions.iter().map(|excluded| (excluded.proposer, excluded.reason)).collect();
    assert_eq!(reasons, [(3, ExclusionReason::InvalidSignature), (1, ExclusionReason::InvalidSignature)]);
    let view = world.ledger.snapshot();
    assert_eq!(view.invalid_signatures(), [0, 1, 0, 1]);
    assert_eq!((world.balance(0), world.nonce(0)), (START_BALANCE, 0), "the sender pays nothing and keeps the nonce");
    let good = transfer(&world, 0, 0);
    assert_eq!(world.commit(vec![good.into()]).transactions.len(), 1);
}

#[test]
fn a_foreign_key_beside_an_address_is_an_invalid_signature() {
    let mut world = World::new();
    let own = sign(&world.builder_with_key(4, 0).transfer(to(1), 1), 4);
    // Everything as account 4 would send it, but with the key of account 5, which signs.
    let start = own.encode().windows(PUBLIC_KEY_LEN).position(|bytes| bytes == key(4)).expect("it carries the key");
    let mut bytes = own.encode().to_vec();
    bytes[start..start + PUBLIC_KEY_LEN].copy_from_slice(&key(5));
    let foreign = Transaction::decode(&bytes).expect("any key bytes decode");
    let foreign = sign_again(&foreign, 5);
    assert_eq!(world.ledger.snapshot().verification_key(&foreign), None);
    // The signature is valid under the key it carries, and a verdict may say so: the key is not the address's.
    let block = world.commit(vec![foreign.clone().into(), with_verdict(foreign, 5, true)]);
    let reasons: Vec<_> = block.exclusions.iter().map(|excluded| excluded.reason).collect();
    assert_eq!(reasons, [ExclusionReason::InvalidSignature; 2]);
    assert_eq!(world.ledger.snapshot().invalid_signatures(), [0, 0, 2, 0]);
}

#[test]
fn failed_operations_have_no_effect_and_the_others_do() {
    let mut world = World::new();
    let builder = world
        .builder(0, 0)
        .transfer(to(1), 0)
        .transfer(to(0), 1)
        .transfer(to(99), 1)
        .transfer(to(1), START_BALANCE)
        .transfer(to(1), Amount::MAX)
        .transfer(to(2), AUR)
        .transfer(Target::Address(address(0)), 1)
        .transfer(Target::Address(address(77)), START_BALANCE)
        .transfer(Target::Address(address(78)), 0)
        .transfer(Target::Address(address(3)), 2 * AUR);
    let tx = sign(&builder, 0);
    let fee = fee(&world, &tx);
    let block = world.commit(vec![tx.into()]);
    let receipt = &block.transactions[0].receipt;
    let expected = [
        (0, FailureCode::ZeroAmount),
        (1, FailureCode::SelfTransfer),
        (2, FailureCode::UnknownIndex),
        (3, FailureCode::InsufficientBalance),
        (4, FailureCode::InsufficientBalance),
        (6, FailureCode::SelfTransfer),
        (7, FailureCode::InsufficientBalance),
        (8, FailureCode::ZeroAmount),
    ];
    let expected = expected.map(|(position, code)| OperationFailure { position, code });
    assert_eq!((receipt.failures.as_slice(), receipt.undone), (&expected[..], false));
    assert_eq!(receipt.result_bits(), [0b0010_0000, 0b10]);
    assert_eq!(receipt.applied_count(), 2);
    let after = [0, 1, 2, 3].map(|account| world.balance(account));
    let start = START_BALANCE;
    assert_eq!(after, [start - 3 * AUR - fee, start, start + AUR, start + 2 * AUR]);
    assert_eq!(world.ledger.snapshot().account_count(), 6, "a failed credit creates no account");
}

#[test]
fn a_failure_in_an_atomic_transaction_undoes_every_operation_but_not_the_fee() {
    let mut world = World::new();
    let builder = world
        .builder(0, 0)
        .atomic(true)
        .transfer(to(1), AUR)
        .transfer(Target::Address(address(50)), AUR)
        .transfer(Target::Address(address(51)), AUR)
        .transfer(to(2), AUR)
        .transfer(to(1_000), AUR)
        .transfer(to(1_001), AUR);
    let tx = sign(&builder, 0);
    let fee = fee(&world, &tx);
    let block = world.commit(vec![tx.into()]);
    let receipt = &block.transactions[0].receipt;
    assert!(receipt.undone);
    assert_eq!(receipt.failures, [OperationFailure { position: 4, code: FailureCode::UnknownIndex }]);
    assert_eq!((receipt.applied_count(), receipt.result_bits()), (0, vec![0]));
    assert_eq!(world.balance(0), START_BALANCE - fee);
    assert_eq!((world.balance(1), world.balance(2)), (START_BALANCE, START_BALANCE));
    assert_eq!((world.nonce(0), world.ledger.fee_pool()), (1, fee));
    let view = world.ledger.snapshot();
    assert_eq!((view.account_count(), view.find(&address(50))), (6, None));
    assert!(block.events.is_empty(), "{:?}", block.events);
    // The undone indices are given to whoever is credited next.
    let again = sign(&world.builder(0, 1).transfer(Target::Address(address(51)), AUR), 0);
    world.commit(vec![again.into()]);
    assert_eq!(world.ledger.snapshot().find(&address(51)), Some(AccountIndex(6)));
}

#[test]
fn undone_accounts_leave_no_trace_on_any_page() {
    let failing = |world: &World, credits_first: bool| {
        let mut builder = world.builder(0, 0).atomic(true);
        if !credits_first {
            builder.push_transfer(to(9_999), AUR);
        }
        for n in 0..600 {
            builder.push_transfer(Target::Address(address(100 + n)), 1);
        }
        if credits_first {
            builder.push_transfer(to(9_999), AUR);
        }
        sign(&builder, 0)
    };
    let (mut undone, mut never) = (World::new(), World::new());
    for (world, credits_first, position) in [(&mut undone, true, 600), (&mut never, false, 0)] {
        let tx = failing(world, credits_first);
        let receipt = world.commit(vec![tx.into()]).transactions.remove(0).receipt;
        assert_eq!(receipt.failures, [OperationFailure { position, code: FailureCode::UnknownIndex }]);
    }
    assert_eq!(undone.root(), never.root());
    for world in [&mut undone, &mut never] {
        let mut builder = world.builder(0, 1);
        for n in (0..600).rev() {
            builder.push_transfer(Target::Address(address(100 + n)), 1);
        }
        let tx = sign(&builder, 0);
        assert!(world.commit(vec![tx.into()]).transactions[0].receipt.all_applied());
        assert_eq!(world.ledger.snapshot().find(&address(100)), Some(AccountIndex(605)));
    }
    assert_eq!(undone.root(), never.root());
}

#[test]
fn an_atomic_transaction_without_failure_has_every_effect() {
    let mut world = World::new();
    let builder = world.builder(0, 0).atomic(true).transfer(to(1), AUR);
    let tx = sign(&builder.transfer(Target::Address(address(50)), AUR), 0);
    let block = world.commit(vec![tx.into()]);
    assert!(block.transactions[0].receipt.all_applied() && !block.transactions[0].receipt.undone);
    assert_eq!((world.balance(1), world.balance(6)), (START_BALANCE + AUR, AUR));
}

#[test]
fn the_same_transaction_again_does_nothing_and_charges_nobody() {
    let mut world = World::new();
    let tx = transfer(&world, 0, 0);
    let (first, second) = (world.batch(0, vec![tx.clone().into()]), world.batch(1, vec![tx.clone().into()]));
    let block = world.commit_batches(vec![first, second]).block.expect("the commit has content");
    assert_eq!((block.transactions.len(), block.exclusions.len()), (1, 1));
    assert_eq!(block.exclusions[0].reason, ExclusionReason::NonceUsed);
    assert_excluded_without_effect(&mut world, tx.clone(), ExclusionReason::NonceUsed);
    assert_excluded_without_effect(&mut world, corrupt(&tx), ExclusionReason::NonceUsed);
}

#[test]
fn the_same_batch_again_is_not_even_looked_at() {
    let mut world = World::new();
    let bad = corrupt(&transfer(&world, 0, 0));
    let batch = world.batch(3, vec![bad.into()]);
    let first = world.commit_batches(vec![batch.clone(), batch.clone()]).block.expect("the commit has content");
    assert_eq!(first.exclusions.len(), 1);
    assert!(world.commit_batches(vec![batch]).block.is_none());
    assert_eq!(world.ledger.snapshot().invalid_signatures(), [0, 0, 0, 1]);
}

#[test]
fn a_sender_without_account_or_key_is_excluded_and_nobody_charged() {
    let mut world = World::new();
    let nobody = sign(&world.builder(60, 0).transfer(to(1), 1), 60);
    assert_excluded_without_effect(&mut world, nobody, ExclusionReason::UnknownSender);
    let stranger = sign(&world.builder_with_key(60, 0).transfer(to(1), 1), 60);
    assert_excluded_without_effect(&mut world, stranger, ExclusionReason::UnknownSender);
    let keyless = sign(&world.builder(4, 0).transfer(to(1), 1), 4);
    assert_excluded_without_effect(&mut world, keyless, ExclusionReason::NoKey);
}

#[test]
fn a_sender_by_address_registers_its_key_once_and_can_use_its_index_at_once() {
    let mut world = World::new();
    let first = sign(&world.builder_with_key(4, 0).transfer(to(1), 1), 4);
    let second = sign(&world.builder(4, 1).transfer(to(1), 1), 4);
    let third = sign(&world.builder_with_key(4, 2).transfer(to(1), 1), 4);
    let block = world.commit(vec![first.into(), second.into(), third.into()]);
    assert_eq!(block.transactions.len(), 3);
    let registered: Vec<_> = block.events.iter().map(|event| (event.transaction, event.kind.clone())).collect();
    assert_eq!(registered, [(0, EventKind::KeyRegistered { index: AccountIndex(4) })]);
    let view = world.ledger.snapshot();
    assert_eq!(view.public_key(AccountIndex(4)).as_deref(), Some(key(4).as_slice()));
    assert_eq!((view.key_count(), view.public_key(AccountIndex(5))), (5, None));
}

#[test]
fn an_address_has_its_index_within_the_commit_that_credits_it_first() {
    let mut world = World::new();
    let credit = sign(&world.builder(0, 0).transfer(Target::Address(address(50)), AUR).transfer(to(6), AUR), 0);
    let spend = sign(&world.builder_with_key(50, 0).transfer(to(0), AUR), 50);
    let block = world.commit(vec![credit.into(), spend.into()]);
    assert_eq!(block.transactions.len(), 2);
    assert!(block.transactions.iter().all(|tx| tx.receipt.all_applied()), "index 6 is known to the second transfer");
    let created = EventKind::AccountCreated { address: address(50), index: AccountIndex(6) };
    assert_eq!(block.events[0].kind, created);
}

#[test]
fn a_transfer_to_an_account_on_another_page_shows_in_views_and_roots() {
    let mut world = World::new();
    let mut builder = world.builder(0, 0);
    for n in 0..600 {
        builder.push_transfer(Target::Address(address(100 + n)), 1);
    }
    world.commit(vec![sign(&builder, 0).into()]);
    let (root, before) = (world.root(), world.ledger.snapshot());
    let far = sign(&world.builder(0, 1).transfer(to(599), AUR), 0);
    let mut without = World::new();
    let near = sign(&without.builder(0, 1).transfer(to(1), AUR), 0);
    without.commit(vec![sign(&builder, 0).into()]);
    world.commit(vec![far.into()]);
    without.commit(vec![near.into()]);
    assert_eq!((before.balance(AccountIndex(599)), world.balance(599)), (Some(1), AUR + 1));
    assert!(world.root() != root && world.root() != without.root());
}

#[test]
fn a_verdict_counts_only_for_this_signature_and_this_key() {
    let wrong_key = |tx: &Transaction| Verdict { key_hash: Address(h("other", b"")), ..good_verdict(tx) };
    let wrong_signature = |tx: &Transaction| Verdict { signature_digest: Hash::ZERO, ..good_verdict(tx) };
    fn good_verdict(tx: &Transaction) -> Verdict {
        Verdict::new(tx, &key(0), true)
    }
    type Judge<'a> = &'a dyn Fn(&Transaction) -> Option<Verdict>;
    let cases: [(Judge<'_>, usize); 4] = [
        (&|tx| Some(good_verdict(tx)), 0),
        (&|tx| Some(wrong_key(tx)), 1),
        (&|tx| Some(wrong_signature(tx)), 1),
        (&|_| None, 1),
    ];
    for (at, (verdict, asked)) in cases.into_iter().enumerate() {
        let mut world = World::new();
        let tx = transfer(&world, 0, 0);
        let mut prepared: aurigraph_ledger::PreparedTransaction = tx.into();
        prepared.verdict = verdict(&prepared.transaction);
        assert_eq!(world.commit(vec![prepared]).transactions.len(), 1, "case {at}");
        assert_eq!(world.verifier.asked.get(), asked, "case {at}");
    }
}

#[test]
fn a_forged_verdict_about_another_key_does_not_let_a_bad_signature_in() {
    let mut world = World::new();
    let bad = corrupt(&transfer(&world, 0, 0));
    let block = world.commit(vec![with_verdict(bad, 3, true)]);
    assert_eq!(block.exclusions[0].reason, ExclusionReason::InvalidSignature);
    let negative = with_verdict(transfer(&world, 0, 0), 0, false);
    assert_eq!(world.commit(vec![negative]).exclusions[0].reason, ExclusionReason::InvalidSignature);
}

#[test]
fn a_view_foretells_what_the_next_block_does() {
    let mut world = World::new();
    let (good, late) = (transfer(&world, 0, 0), transfer(&world, 0, NONCE_WINDOW));
    let view = world.ledger.snapshot();
    assert_eq!(view.check(&good), Ok(fee(&world, &good)));
    assert_eq!(view.check(&late), Err(ExclusionReason::NonceOutOfWindow));
    let expiring = |expiry| {
        let builder = TransactionBuilder::new(view.chain_id(), SenderKey::Index(AccountIndex(0)), 0, expiry);
        view.check(&sign(&builder.fees(view.fees()).transfer(to(1), 1), 0)).err()
    };
    assert_eq!((expiring(0), expiring(1)), (Some(ExclusionReason::Expired), None), "the next block has height 1");
    assert_eq!(view.verification_key(&good).as_deref(), Some(key(0).as_slice()));
    let registering = sign(&world.builder_with_key(4, 0).transfer(to(1), 1), 4);
    assert_eq!(view.verification_key(&registering).as_deref(), Some(key(4).as_slice()));
    assert_eq!(view.verification_key(&sign(&world.builder(4, 0).transfer(to(1), 1), 4)), None);
    world.commit(vec![good.clone().into()]);
    assert_eq!(view.check(&good), Ok(fee(&world, &good)), "a view does not change");
    assert_eq!(world.ledger.snapshot().check(&good), Err(ExclusionReason::NonceUsed));
    let _: FakeVerifier = world.verifier;
}
