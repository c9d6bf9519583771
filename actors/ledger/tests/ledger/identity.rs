//! Encryption keys and anchored envelopes: what their operations do, and the table's place in the state.

use std::collections::BTreeMap;
use std::sync::Arc;

use aurigraph_ledger::identity::{
    ENCRYPTION_KEY_LEN, IdentityFailure, IdentityOperation as Op, IdentityTable, SignedEncryptionKey,
    encryption_key_message,
};
use aurigraph_ledger::types::SIGNATURE_LEN;
use aurigraph_ledger::{
    AccountIndex, FailureCode, Hash, Ledger, ModuleId, Operation, PlainHasher, StoredPage, Target, Transaction, Writer,
    blake3_digest, h,
};
use proptest::prelude::*;

use crate::world::{KEYED, World, check, fake_signature, key, sign};

const COLUMN: u8 = 16 + ModuleId::Identity as u8;

/// A key that FIPS 203 takes: all of its numbers are below 256.
fn encryption_key(seed: u8) -> Vec<u8> {
    (0..ENCRYPTION_KEY_LEN).map(|at| if at % 3 == 0 { seed } else { 0 }).collect()
}

fn register(account: u32, number: u32, seed: u8) -> Op {
    let wanted = encryption_key(seed);
    let signature = fake_signature(&key(account), &encryption_key_message(number, &wanted));
    Op::RegisterEncryptionKey(Box::new(SignedEncryptionKey { number, key: wanted, signature }))
}

fn anchor(number: u64) -> Op {
    Op::AnchorEnvelope { digest: h("envelope", &number.to_le_bytes()) }
}

fn signed(world: &mut World, account: u32, operations: Vec<Op>, atomic: bool) -> Transaction {
    let nonce = world.nonce(account);
    let builder = operations.into_iter().fold(world.builder(account, nonce).atomic(atomic), |it, op| it.identity(op));
    sign(&builder, account)
}

fn commit(world: &mut World, account: u32, operations: Vec<Op>, atomic: bool) -> Vec<(u32, IdentityFailure)> {
    let tx = signed(world, account, operations, atomic);
    let block = world.commit(vec![tx.into()]);
    let receipt = &block.transactions.first().expect("the transaction is included").receipt;
    let failure = |code| match code {
        FailureCode::Module(code) => IdentityFailure::of_code(code).expect("a code of identity"),
        other => panic!("{other:?}"),
    };
    receipt.failures.iter().map(|it| (it.position, failure(it.code))).collect()
}

fn table(world: &mut World) -> IdentityTable {
    world.ledger.snapshot().identity().expect("the module").clone()
}

fn registered(world: &mut World, account: u32) -> Option<(u32, Vec<u8>)> {
    let table = table(world);
    table.encryption_key(AccountIndex(account)).map(|it| (it.signed.number, it.signed.key.clone()))
}

#[test]
fn operations_come_back_from_their_columns_and_no_cut_of_them_decodes() {
    let mut world = World::new();
    let operations = vec![register(0, 0, 1), register(0, 7, 2), anchor(1), anchor(2), register(0, 8, 3)];
    let tx = signed(&mut world, 0, operations.clone(), false);
    let back: Vec<Op> = tx
        .operations()
        .map(|operation| match operation {
            Operation::Identity(operation) => operation,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!((back, tx.operation_count()), (operations, 5));
    for cut in (0..tx.encode().len()).step_by(331) {
        assert!(Transaction::decode(&tx.encode()[..cut]).is_err());
    }
    for tag in 162..=175 {
        let unsigned = world.builder(0, 0).module_group(tag, 1, vec![0; 32]).build().expect("within the limits");
        assert!(unsigned.with_signature(&[0; SIGNATURE_LEN]).is_err(), "tag {tag}");
    }
}

#[test]
fn an_account_registers_and_rotates_its_own_key_and_never_goes_back() {
    let mut world = World::new();
    assert_eq!(registered(&mut world, 0), None);
    assert_eq!(commit(&mut world, 0, vec![register(0, 0, 1)], false), []);
    assert_eq!(registered(&mut world, 0), Some((0, encryption_key(1))));
    assert_eq!(commit(&mut world, 0, vec![register(0, 4, 2)], false), []);
    for number in [0, 3, 4] {
        assert_eq!(commit(&mut world, 0, vec![register(0, number, 3)], false), [(0, IdentityFailure::OldNumber)]);
    }
    // A key that another account signed, one that is none, and one under another number.
    assert_eq!(commit(&mut world, 1, vec![register(0, 5, 4)], false), [(0, IdentityFailure::BadSignature)]);
    let Op::RegisterEncryptionKey(good) = register(0, 5, 4) else { unreachable!() };
    let renumbered = Op::RegisterEncryptionKey(Box::new(SignedEncryptionKey { number: 6, ..*good }));
    assert_eq!(commit(&mut world, 0, vec![renumbered], false), [(0, IdentityFailure::BadSignature)]);
    let none = vec![0xff; ENCRYPTION_KEY_LEN];
    let signature = fake_signature(&key(0), &encryption_key_message(9, &none));
    let none = Op::RegisterEncryptionKey(Box::new(SignedEncryptionKey { number: 9, key: none, signature }));
    assert_eq!(commit(&mut world, 0, vec![none], false), [(0, IdentityFailure::NotAKey)]);
    assert_eq!(registered(&mut world, 0), Some((4, encryption_key(2))));
    assert_eq!((registered(&mut world, 1), table(&mut world).key_count()), (None, 1));
}

#[test]
fn an_envelope_is_anchored_once_by_each_account_with_height_and_time() {
    let mut world = World::new();
    let digest = h("envelope", &1_u64.to_le_bytes());
    assert_eq!(commit(&mut world, 0, vec![anchor(1), anchor(1)], false), [(1, IdentityFailure::AlreadyAnchored)]);
    let (height, now) = (world.ledger.height(), world.now);
    // Whoever sees a digest first cannot take it from the account that sealed the envelope.
    assert_eq!(commit(&mut world, 1, vec![anchor(1)], false), []);
    let table = table(&mut world);
    let found = table.anchor(AccountIndex(0), &digest).expect("anchored");
    assert_eq!((found.height, found.timestamp_ms), (height, now));
    assert_eq!(table.anchor(AccountIndex(1), &digest).expect("anchored").height, height + 1);
    assert_eq!((table.anchor(AccountIndex(2), &digest), table.anchor_count()), (None, 2));
}

#[test]
fn a_failing_operation_of_an_atomic_transaction_undoes_keys_and_anchors_before_it() {
    let mut world = World::new();
    let operations = vec![register(0, 1, 1), anchor(1), anchor(1)];
    assert_eq!(commit(&mut world, 0, operations, true), [(2, IdentityFailure::AlreadyAnchored)]);
    assert_eq!((registered(&mut world, 0), table(&mut world).anchor_count()), (None, 0));
    assert_eq!(commit(&mut world, 0, vec![register(0, 1, 1), anchor(1)], true), []);
    assert_eq!((table(&mut world).key_count(), table(&mut world).anchor_count()), (1, 1));
}

fn stored(world: &mut World) -> Vec<StoredPage> {
    world.ledger.snapshot().export_pages(None).expect("a checkpoint is due after a second")
}

/// Commits a transfer, far enough after the last commit for a checkpoint.
fn checkpoint(world: &mut World) {
    world.now += 2_000;
    let nonce = world.nonce(1);
    let tx = sign(&world.builder(1, nonce).transfer(Target::Index(AccountIndex(0)), 1), 1);
    world.commit(vec![tx.into()]);
}

fn has_column(pages: &[StoredPage]) -> bool {
    pages.iter().any(|page| page.key.column == COLUMN)
}

#[test]
fn the_table_is_a_column_from_the_first_row_on_and_comes_back_from_its_pages() {
    let mut world = World::new();
    checkpoint(&mut world);
    assert!(!has_column(&stored(&mut world)));
    for account in 0..KEYED {
        world.now += 2_000;
        assert_eq!(commit(&mut world, account, vec![register(account, 0, 1), anchor(account.into())], false), []);
    }
    let mut pages = stored(&mut world);
    assert!(has_column(&pages));
    let mut imported = Ledger::import(&world.genesis, Arc::new(PlainHasher), pages.clone()).expect("own pages");
    assert_eq!(imported.snapshot().identity(), Some(&table(&mut world)));
    assert_eq!(imported.snapshot().checkpoint().state_root, world.root());
    // The last page's last byte lies in a row.
    let last = pages.iter_mut().rfind(|page| page.key.column == COLUMN).expect("a page");
    *last.bytes.last_mut().expect("not empty") ^= 1;
    assert!(Ledger::import(&world.genesis, Arc::new(PlainHasher), pages).is_err());
}

#[test]
fn state_and_operations_have_the_golden_bytes() {
    let mut world = World::new();
    world.now += 1_000;
    let tx = signed(&mut world, 0, vec![register(0, 2, 1), anchor(1)], false);
    let id = tx.id();
    world.commit(vec![tx.clone().into()]);
    let mut w = Writer::new();
    w.hash(&id).hash(&blake3_digest(tx.encode())).hash(&world.root());
    for page in stored(&mut world).iter().filter(|page| page.key.column == COLUMN) {
        w.raw(&page.key.to_bytes()).hash(&blake3_digest(&page.bytes));
    }
    crate::codec::golden("identity", w.as_slice());
}

/// What the table has to hold, by rules that know nothing of pages.
#[derive(Default)]
struct Model {
    keys: BTreeMap<u32, (u32, u8)>,
    anchors: BTreeMap<(u32, u64), u64>,
}

#[derive(Debug, Clone)]
enum Step {
    Register { account: u32, number: u32, seed: u8 },
    Anchor { account: u32, number: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..KEYED, 0..6_u32, any::<u8>()).prop_map(|(account, number, seed)| Step::Register { account, number, seed }),
        (0..KEYED, 0..40_u64).prop_map(|(account, number)| Step::Anchor { account, number }),
    ]
}

#[test]
fn random_histories_agree_with_a_model_and_replay_to_one_root() {
    check(24, proptest::collection::vec((step(), any::<bool>()), 1..40), |steps| {
        let (mut world, mut model) = (World::new(), Model::default());
        for (step, doubled) in steps {
            let (account, operation, good) = match step {
                Step::Register { account, number, seed } => {
                    let good = model.keys.get(&account).is_none_or(|(known, _)| *known < number);
                    (account, register(account, number, seed), good)
                }
                Step::Anchor { account, number } => {
                    (account, anchor(number), !model.anchors.contains_key(&(account, number)))
                }
            };
            // Twice in one atomic transaction: the second fails and takes the first with it.
            let operations = if doubled { vec![operation.clone(), operation] } else { vec![operation] };
            let failures = commit(&mut world, account, operations, true);
            prop_assert_eq!(failures.is_empty(), good && !doubled);
            if good && !doubled {
                match step {
                    Step::Register { account, number, seed } => _ = model.keys.insert(account, (number, seed)),
                    Step::Anchor { account, number } => {
                        model.anchors.insert((account, number), world.ledger.height());
                    }
                }
            }
        }
        let table = table(&mut world);
        prop_assert_eq!(
            (table.key_count(), table.anchor_count()),
            (model.keys.len() as u64, model.anchors.len() as u64)
        );
        for account in 0..KEYED {
            let expected = model.keys.get(&account).map(|(number, seed)| (*number, encryption_key(*seed)));
            prop_assert_eq!(registered(&mut world, account), expected);
            for number in 0..40_u64 {
                let digest: Hash = h("envelope", &number.to_le_bytes());
                let found = table.anchor(AccountIndex(account), &digest).map(|anchor| anchor.height);
                prop_assert_eq!(found, model.anchors.get(&(account, number)).copied());
            }
        }
        checkpoint(&mut world);
        let (root, pages) = (world.root(), stored(&mut world));
        let mut imported = Ledger::import(&world.genesis, Arc::new(PlainHasher), pages).expect("own pages");
        prop_assert_eq!(imported.snapshot().checkpoint().state_root, root);
        Ok(())
    });
}
