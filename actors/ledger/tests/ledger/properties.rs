//! What holds for any commits: conservation, replay, independence of when signatures are verified and who hashes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aurigraph_ledger::types::AUR;
use aurigraph_ledger::{
    AccountIndex, Checkpoint, CommitInput, Hash, Ledger, PlainHasher, PreparedTransaction, SenderKey, Target,
    Transaction, TransactionBuilder, TreeHasher, Verdict, h,
};
use proptest::prelude::*;

use crate::world::{FakeVerifier, World, check, corrupt, genesis, key, sign};

/// A drawn transaction; numbers are chosen to hit every row of the outcome table now and then.
#[derive(Debug, Clone)]
struct Draft {
    sender: u32,
    with_key: bool,
    nonce: u64,
    max_fee: Option<u128>,
    expiry: u64,
    atomic: bool,
    corrupt: bool,
    repeat: bool,
    transfers: Vec<(bool, u32, u128)>,
}

fn drafts() -> impl Strategy<Value = Vec<Vec<Draft>>> {
    let amount = prop_oneof![Just(0), 1..1_000_u128, 1..AUR, (30 * AUR)..(120 * AUR), Just(u128::MAX)];
    let transfers = prop::collection::vec((any::<bool>(), 0..12_u32, amount), 1..8);
    let flags =
        (prop::bool::weighted(0.4), prop::bool::weighted(0.3), prop::bool::weighted(0.1), prop::bool::weighted(0.2));
    let nonce = prop_oneof![4 => 0..6_u64, 1 => 1_020..1_030_u64];
    let max_fee = prop_oneof![9 => Just(None), 1 => (0..9_000_u128).prop_map(Some)];
    let draft = (0..9_u32, nonce, max_fee, prop_oneof![9 => Just(100), 1 => 0..4_u64], flags, transfers).prop_map(
        |(sender, nonce, max_fee, expiry, (with_key, atomic, corrupt, repeat), transfers)| Draft {
            sender,
            with_key,
            nonce,
            max_fee,
            expiry,
            atomic,
            corrupt,
            repeat,
            transfers,
        },
    );
    prop::collection::vec(prop::collection::vec(draft, 0..6), 1..6)
}

fn transaction(chain: Hash, draft: &Draft) -> Transaction {
    let sender = match draft.with_key {
        true => SenderKey::PublicKey(key(draft.sender)),
        false => SenderKey::Index(AccountIndex(draft.sender)),
    };
    let mut builder = TransactionBuilder::new(chain, sender, draft.nonce, draft.expiry).atomic(draft.atomic);
    builder = match draft.max_fee {
        Some(max_fee) => builder.max_fee(max_fee),
        None => builder.fees(&genesis().fees),
    };
    for (by_address, to, amount) in &draft.transfers {
        let to = match by_address {
            true => Target::Address(crate::world::address(*to)),
            false => Target::Index(AccountIndex(*to)),
        };
        builder.push_transfer(to, *amount);
    }
    let tx = sign(&builder, draft.sender);
    if draft.corrupt { corrupt(&tx) } else { tx }
}

/// The commits of drafts: one batch each, some transactions twice.
fn inputs(commits: &[Vec<Draft>]) -> Vec<CommitInput> {
    let mut world = World::new();
    let chain = world.ledger.chain_id();
    let mut inputs = Vec::new();
    for (at, drafts) in commits.iter().enumerate() {
        let mut transactions: Vec<PreparedTransaction> = Vec::new();
        for draft in drafts {
            let tx = transaction(chain, draft);
            let copies = if draft.repeat { 2 } else { 1 };
            transactions.extend(std::iter::repeat_n(PreparedTransaction::from(tx), copies));
        }
        let batch = world.batch(at as u16 % 4, transactions);
        world.now += 600;
        let mut input = world.input(vec![batch]);
        input.commit_index = at as u64 + 1;
        inputs.push(input);
    }
    inputs
}

struct Run {
    roots: Vec<Hash>,
    headers: Vec<Hash>,
    checkpoints: Vec<Checkpoint>,
    asked: usize,
}

fn run(inputs: &[CommitInput], hasher: Arc<dyn TreeHasher>, mut prepare: impl FnMut(&mut PreparedTransaction)) -> Run {
    let mut ledger = Ledger::from_genesis(&genesis(), hasher).expect("the genesis is valid");
    let verifier = FakeVerifier::default();
    let mut run = Run { roots: Vec::new(), headers: Vec::new(), checkpoints: Vec::new(), asked: 0 };
    for input in inputs {
        let mut input = input.clone();
        input.batches.iter_mut().flat_map(|batch| &mut batch.transactions).for_each(&mut prepare);
        let outcome = ledger.execute(input, &verifier).expect("commits come in order");
        run.checkpoints.extend(outcome.checkpoint);
        run.roots.push(ledger.compute_state_root());
        run.headers.push(ledger.header_hash());
    }
    run.asked = verifier.asked.get();
    run
}

fn plain(inputs: &[CommitInput]) -> Run {
    run(inputs, Arc::new(PlainHasher), |_| {})
}

fn same(a: &Run, b: &Run) -> Result<(), TestCaseError> {
    prop_assert_eq!(&a.roots, &b.roots);
    prop_assert_eq!(&a.headers, &b.headers);
    prop_assert_eq!(&a.checkpoints, &b.checkpoints);
    Ok(())
}

#[test]
fn balances_and_fee_pool_always_add_up_to_the_supply() {
    let supply = genesis().supply().expect("the supply does not overflow");
    check(200, drafts(), |commits| {
        let mut world = World::new();
        for input in inputs(&commits) {
            let outcome = world.ledger.execute(input, &world.verifier).expect("commits come in order");
            prop_assert_eq!(world.total(), supply);
            let fees: u128 = outcome.block.iter().flat_map(|block| &block.transactions).map(|tx| tx.receipt.fee).sum();
            prop_assert!(world.ledger.fee_pool() >= fees);
        }
        Ok(())
    });
}

#[test]
fn the_same_commits_give_the_same_roots_and_headers() {
    check(60, drafts(), |commits| {
        let inputs = inputs(&commits);
        same(&plain(&inputs), &plain(&inputs))
    });
}

/// The right verdict about a transaction under the key it will be checked with, if that is known ahead.
fn judge(prepared: &mut PreparedTransaction, view: &aurigraph_ledger::StateView) {
    let tx = &prepared.transaction;
    prepared.verdict = view.verification_key(tx).map(|key| {
        let valid = aurigraph_ledger::SignatureVerifier::verify(
            &FakeVerifier::default(),
            &key,
            &tx.signing_message(),
            tx.signature(),
        );
        Verdict::new(tx, &key, valid)
    });
}

#[test]
fn verifying_early_late_or_never_ahead_gives_one_root() {
    check(100, drafts(), |commits| {
        let inputs = inputs(&commits);
        let never = plain(&inputs);
        let view = World::new().ledger.snapshot();
        let early = run(&inputs, Arc::new(PlainHasher), |prepared| judge(prepared, &view));
        let mut turn = 0;
        let mixed = run(&inputs, Arc::new(PlainHasher), |prepared| {
            turn += 1;
            if turn % 2 == 0 {
                judge(prepared, &view);
            }
        });
        let useless = run(&inputs, Arc::new(PlainHasher), |prepared| {
            judge(prepared, &view);
            if let Some(verdict) = &mut prepared.verdict {
                verdict.key_hash = aurigraph_ledger::Address(h("wrong", b""));
                verdict.valid = !verdict.valid;
            }
        });
        prop_assert!(early.asked <= mixed.asked && mixed.asked <= never.asked);
        prop_assert_eq!(useless.asked, never.asked);
        same(&never, &early)?;
        same(&never, &mixed)?;
        same(&never, &useless)
    });
}

/// Hashes a level from its end, in another way than the plain one, and counts.
#[derive(Default)]
struct BackwardHasher {
    levels: AtomicUsize,
}

impl TreeHasher for BackwardHasher {
    fn hash_one(&self, tag: &str, message: &[u8]) -> Hash {
        aurigraph_ledger::h_parts(tag, &message.chunks(7).collect::<Vec<_>>())
    }

    fn hash_level(&self, tag: &str, messages: &[u8], message_len: usize, out: &mut [Hash]) {
        self.levels.fetch_add(1, Ordering::Relaxed);
        assert_eq!(messages.len(), message_len * out.len());
        for (message, out) in messages.chunks_exact(message_len).zip(out).rev() {
            *out = self.hash_one(tag, message);
        }
    }
}

#[test]
fn an_injected_hasher_gives_the_same_roots() {
    check(30, drafts(), |commits| {
        let inputs = inputs(&commits);
        let hasher = Arc::new(BackwardHasher::default());
        let injected = run(&inputs, hasher.clone(), |_| {});
        prop_assert!(hasher.levels.load(Ordering::Relaxed) > 0);
        same(&plain(&inputs), &injected)
    });
}

#[test]
fn import_of_export_goes_on_the_same_after_any_commits() {
    check(60, drafts(), |commits| {
        let inputs = inputs(&commits);
        let verifier = FakeVerifier::default();
        let mut ledger = Ledger::from_genesis(&genesis(), Arc::new(PlainHasher)).expect("the genesis is valid");
        for input in inputs {
            let expected = ledger.execute(input.clone(), &verifier).expect("commits come in order");
            let view = ledger.snapshot();
            if view.is_checkpoint() {
                let pages = view.export_pages(None).expect("a checkpoint");
                let mut imported =
                    Ledger::import(&genesis(), Arc::new(PlainHasher), pages).expect("the pages are whole");
                prop_assert_eq!(imported.compute_state_root(), ledger.compute_state_root());
                prop_assert_eq!(imported.header(), ledger.header());
                prop_assert_eq!(Some(*imported.checkpoint()), expected.checkpoint);
                ledger = imported;
            }
        }
        Ok(())
    });
}

#[test]
fn a_ledger_resumed_from_a_view_goes_on_the_same_and_leaves_the_view_alone() {
    check(60, drafts(), |commits| {
        let verifier = FakeVerifier::default();
        let mut ledger = Ledger::from_genesis(&genesis(), Arc::new(PlainHasher)).expect("the genesis is valid");
        let mut resumed: Option<Ledger> = None;
        for input in inputs(&commits) {
            let expected = ledger.execute(input.clone(), &verifier).expect("commits come in order");
            if let Some(resumed) = &mut resumed {
                let found = resumed.execute(input, &verifier).expect("commits come in order");
                prop_assert_eq!(found.block.map(|block| block.hash), expected.block.map(|block| block.hash));
                prop_assert_eq!(found.checkpoint, expected.checkpoint);
            }
            let view = ledger.snapshot();
            if view.is_checkpoint() {
                let before = view.export_pages(None).expect("a checkpoint");
                let next = Ledger::resume(&genesis(), Arc::new(PlainHasher), &view).expect("a checkpoint");
                let mut twin = Ledger::resume(&genesis(), Arc::new(PlainHasher), &view).expect("a checkpoint");
                prop_assert_eq!(twin.compute_state_root(), ledger.compute_state_root());
                prop_assert_eq!((next.header(), next.checkpoint()), (ledger.header(), ledger.checkpoint()));
                resumed = Some(next);
                prop_assert_eq!(view.export_pages(None).expect("a checkpoint"), before);
            } else {
                prop_assert!(Ledger::resume(&genesis(), Arc::new(PlainHasher), &view).is_err());
            }
        }
        if let Some(mut resumed) = resumed {
            prop_assert_eq!(resumed.compute_state_root(), ledger.compute_state_root());
        }
        Ok(())
    });
}

#[test]
fn the_drafts_reach_every_row_of_the_outcome_table() {
    let seen = std::cell::RefCell::new(std::collections::BTreeMap::<String, usize>::new());
    check(200, drafts(), |commits| {
        let mut world = World::new();
        for input in inputs(&commits) {
            let outcome = world.ledger.execute(input, &world.verifier).expect("commits come in order");
            let mut seen = seen.borrow_mut();
            if let Some(block) = outcome.block {
                for exclusion in &block.exclusions {
                    *seen.entry(format!("{:?}", exclusion.reason)).or_default() += 1;
                }
                for tx in &block.transactions {
                    let name = match (tx.receipt.undone, tx.receipt.all_applied()) {
                        (true, _) => "undone",
                        (_, true) => "applied",
                        _ => "partly",
                    };
                    *seen.entry(name.to_owned()).or_default() += 1;
                }
            }
        }
        Ok(())
    });
    let seen = seen.into_inner();
    println!("{seen:?}");
    let expected = [
        "applied",
        "partly",
        "undone",
        "Expired",
        "UnknownSender",
        "NoKey",
        "NonceUsed",
        "NonceOutOfWindow",
        "MaxFeeTooLow",
        "InvalidSignature",
    ];
    for row in expected {
        assert!(seen.contains_key(row), "no draft was {row}: {seen:?}");
    }
}
