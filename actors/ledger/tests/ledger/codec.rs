//! Canonical encodings: golden bytes of every type, and the refusal of every other form.
//!
//! A change of a golden file is a change of the wire. `AURIGRAPH_UPDATE_GOLDEN=1` writes the files anew.

use std::path::PathBuf;

use aurigraph_ledger::types::{MAX_GROUPS, MAX_OPERATIONS, MAX_TRANSACTION_LEN, PUBLIC_KEY_LEN, SIGNATURE_LEN};
use aurigraph_ledger::{
    AccountIndex, BuildError, Checkpoint, CodecError, FailureCode, Genesis, Group, Hash, LedgerHeader, Operation,
    OperationFailure, Receipt, Sender, SenderKey, Target, Transaction, TransactionBuilder, Writer, blake3_digest, h,
};
use proptest::prelude::*;

use crate::world::{World, address, check, genesis, key, sign};

pub fn golden(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"));
    if std::env::var_os("AURIGRAPH_UPDATE_GOLDEN").is_some() {
        let lines: Vec<_> = bytes.chunks(60).map(hex::encode).collect();
        std::fs::write(&path, lines.join("\n") + "\n").expect("the golden file can be written");
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let expected = hex::decode(text.split_whitespace().collect::<String>()).expect("golden files are hex");
    assert!(bytes == expected, "{name} is encoded otherwise than in {}", path.display());
}

fn by_index() -> Transaction {
    let sender = SenderKey::Index(AccountIndex(300));
    let builder = TransactionBuilder::new(h("chain", b""), sender, 7, 1_000).max_fee(5_000).memo(b"hello");
    let builder =
        builder.transfer(Target::Index(AccountIndex(1)), 1).transfer(Target::Index(AccountIndex(70_000)), 300);
    sign(&builder.atomic(true), 0)
}

fn by_address() -> Transaction {
    let sender = SenderKey::PublicKey(key(4));
    let builder = TransactionBuilder::new(h("chain", b""), sender, 0, 1_000).max_fee(u128::MAX);
    let builder = builder.transfer(Target::Address(address(1)), u128::MAX).transfer(Target::Address(address(2)), 0);
    sign(&builder.transfer(Target::Index(AccountIndex(3)), 1 << 40), 4)
}

fn header() -> LedgerHeader {
    LedgerHeader {
        height: 5,
        epoch: 1,
        commit_index: 9,
        commit_digest: h("commit", b"9"),
        timestamp_ms: 1_234_567,
        leader: 3,
        round: 12,
        parent: h("parent", b""),
        tx_root: h("tx", b""),
        receipts_root: h("receipts", b""),
        checkpoint_seq: 4,
        state_root: h("state", b""),
        transactions: 2,
        operations: 2_000,
    }
}

fn checkpoint(next_set_root: Option<Hash>) -> Checkpoint {
    Checkpoint {
        chain_id: h("chain", b""),
        epoch: 1,
        seq: 4,
        prev_digest: h("prev", b""),
        commit_index: 9,
        commit_digest: h("commit", b"9"),
        ledger_height: 5,
        ledger_header_digest: h("header", b""),
        state_root: h("state", b""),
        consensus_state_digest: h("consensus", b""),
        next_set_root,
    }
}

fn receipts() -> [Receipt; 3] {
    let failure = |position, code| OperationFailure { position, code };
    let failures = vec![failure(0, FailureCode::SelfTransfer), failure(999, FailureCode::Module(7))];
    let undone = vec![failure(3, FailureCode::InsufficientBalance)];
    [
        Receipt { id: h("tx", b"1"), fee: 77, operations: 1, undone: false, failures: Vec::new() },
        Receipt { id: h("tx", b"2"), fee: u128::MAX, operations: 1_000, undone: false, failures },
        Receipt { id: h("tx", b"3"), fee: 0, operations: 4_096, undone: true, failures: undone },
    ]
}

#[test]
fn every_type_has_the_golden_bytes_and_decodes_from_them() {
    golden("transaction-by-index", by_index().encode());
    golden("transaction-by-address", by_address().encode());
    golden("transaction-ids", &[by_index().id().0, by_address().id().0].concat());
    golden("genesis", &genesis().encode());
    golden("chain-id", &genesis().chain_id().0);
    golden("ledger-header", &header().encode());
    golden("ledger-header-hash", &header().hash().0);
    golden("checkpoint", &checkpoint(None).encode());
    golden("checkpoint-with-next-set", &checkpoint(Some(h("set", b""))).encode());
    golden("checkpoint-digest", &checkpoint(None).digest().0);
    for (name, receipt) in ["receipt-applied", "receipt-partial", "receipt-undone"].into_iter().zip(receipts()) {
        golden(name, &receipt.encode());
        assert_eq!(Receipt::decode(&receipt.encode()), Ok(receipt));
    }
    assert_eq!(Genesis::decode(&genesis().encode()), Ok(genesis()));
    assert_eq!(LedgerHeader::decode(&header().encode()), Ok(header()));
    for checkpoint in [checkpoint(None), checkpoint(Some(h("set", b"")))] {
        assert_eq!(Checkpoint::decode(&checkpoint.encode()), Ok(checkpoint));
    }
}

#[test]
fn the_state_has_the_golden_root_and_pages() {
    let mut world = World::new();
    let tx = sign(&world.builder_with_key(4, 3).transfer(Target::Address(address(50)), 12_345), 4);
    world.now += 1_000;
    world.commit(vec![tx.into()]);
    let view = world.ledger.snapshot();
    golden("state-root", &view.checkpoint().state_root.0);
    let mut pages = Writer::new();
    for page in view.export_pages(None).expect("a checkpoint is due after a second") {
        pages.raw(&page.key.to_bytes()).hash(&blake3_digest(&page.bytes));
    }
    golden("state-page-digests", pages.as_slice());
}

#[test]
fn a_transaction_gives_back_what_was_built() {
    let tx = by_address();
    assert_eq!(Transaction::decode(tx.encode()).as_ref(), Ok(&tx));
    assert_eq!((tx.sender(), tx.sender_key()), (Sender::Address(address(4)), Some(key(4).as_slice())));
    assert_eq!((tx.nonce(), tx.expiry(), tx.max_fee(), tx.is_atomic()), (0, 1_000, u128::MAX, false));
    let expected = [
        (Target::Address(address(1)), u128::MAX),
        (Target::Address(address(2)), 0),
        (Target::Index(AccountIndex(3)), 1 << 40),
    ];
    let expected = expected.map(|(to, amount)| Operation::Transfer { to, amount });
    assert_eq!(tx.operations().collect::<Vec<_>>(), expected);
    let tx = by_index();
    assert_eq!((tx.memo(), tx.is_atomic(), tx.operation_count()), (&b"hello"[..], true, 2));
    assert_eq!(tx.signing_message().strip_prefix(b"aurigraph/tx/v1"), Some(&tx.id().0[..]));
}

/// Cuts a transaction into body without digest, groups and signature.
fn cut(tx: &Transaction) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let bytes = tx.encode();
    let signature_at = bytes.len() - SIGNATURE_LEN;
    let groups_len = 1 + tx.groups().map(|group| encode_group(&group).len()).sum::<usize>();
    let groups_at = signature_at - groups_len;
    (bytes[..groups_at - 32].to_vec(), bytes[groups_at..signature_at].to_vec(), bytes[signature_at..].to_vec())
}

/// An encoder of its own, to hold what the decoder accepted against.
fn encode_group(group: &Group<'_>) -> Vec<u8> {
    let Group::Transfers(transfers) = group else { return encode_staking(group) };
    let operations: Vec<_> = (0..group.len()).filter_map(|at| transfers.get(at)).collect();
    let largest = operations.iter().map(|(_, amount)| *amount).max().expect("no group is empty");
    let width = [1, 2, 4, 8].into_iter().find(|width| largest >> (8 * width) == 0).unwrap_or(16);
    let mut w = Writer::new();
    w.u8(u8::from(matches!(operations[0].0, Target::Address(_)))).varint(operations.len() as u64);
    for (to, _) in &operations {
        match to {
            Target::Index(index) => w.u32(index.0),
            Target::Address(address) => w.hash(&address.0),
        };
    }
    w.u8(width as u8);
    for (_, amount) in &operations {
        w.raw(&amount.to_le_bytes()[..width]);
    }
    w.into_bytes()
}

/// What the builder makes of the operations that the decoder saw.
fn encode_staking(group: &Group<'_>) -> Vec<u8> {
    let start = TransactionBuilder::new(Hash::ZERO, SenderKey::Index(AccountIndex(0)), 0, 0);
    let builder = group.operations().fold(start, |builder, operation| match operation {
        Operation::Staking(operation) => builder.staking(operation),
        Operation::Identity(operation) => builder.identity(operation),
        other => panic!("{other:?} in a group of a module"),
    });
    let unsigned = builder.build().expect("within the limits");
    let tx = unsigned.with_signature(&[0; SIGNATURE_LEN]).expect("own bytes decode");
    let Some(Group::Module(group)) = tx.groups().next() else { panic!("a group of staking") };
    let mut w = Writer::new();
    w.u8(group.tag).varint(group.count as u64).raw(group.columns);
    w.into_bytes()
}

fn with_groups(tx: &Transaction, groups: &[u8]) -> Result<Transaction, CodecError> {
    let (mut bytes, _, signature) = cut(tx);
    bytes.extend_from_slice(&blake3_digest(groups).0);
    bytes.extend_from_slice(groups);
    bytes.extend_from_slice(&signature);
    Transaction::decode(&bytes)
}

#[test]
fn groups_in_any_other_form_are_refused() {
    let tx = by_index();
    let (_, groups, _) = cut(&tx);
    assert_eq!(with_groups(&tx, &groups), Ok(tx.clone()));
    let transfer =
        |tag: u8, count: &[u8], width: u8, amount: &[u8]| [&[1, tag], count, &[9, 0, 0, 0], &[width], amount].concat();
    assert!(with_groups(&tx, &transfer(0, &[1], 2, &[0, 1])).is_ok());
    let refused: [(&str, Vec<u8>); 10] = [
        ("a wider amount than needed", transfer(0, &[1], 2, &[255, 0])),
        ("a width of 3", transfer(0, &[1], 3, &[0, 0, 1])),
        ("a width of 0", transfer(0, &[1], 0, &[])),
        ("a longer varint", transfer(0, &[0x81, 0], 1, &[1])),
        ("an unknown transfer tag", transfer(2, &[1], 1, &[1])),
        ("a module's tag without a module", transfer(64, &[1], 1, &[1])),
        ("no group", vec![0]),
        ("an empty group", vec![1, 0, 0, 1]),
        ("a byte too few", transfer(0, &[1], 2, &[1])),
        ("a byte too many", transfer(0, &[1], 1, &[1, 1])),
    ];
    for (what, groups) in refused {
        assert!(with_groups(&tx, &groups).is_err(), "{what} is accepted");
    }
}

#[test]
fn groups_under_the_digest_of_other_groups_are_refused() {
    let tx = by_index();
    let (_, groups, _) = cut(&tx);
    let at = tx.encode().len() - SIGNATURE_LEN - groups.len();
    let mut bytes = tx.encode().to_vec();
    bytes[at + 3] ^= 1;
    let error = Transaction::decode(&bytes).expect_err("another recipient under the old digest");
    assert!(matches!(error, CodecError::Invalid { what: "operations digest", .. }), "{error}");
}

#[test]
fn receipts_with_failures_out_of_order_or_number_are_refused() {
    let [_, partial, undone] = receipts();
    let refused = |receipt: &Receipt| assert!(Receipt::decode(&receipt.encode()).is_err(), "{receipt:?}");
    let first = partial.failures[0];
    refused(&Receipt { failures: vec![first, first], ..partial.clone() });
    refused(&Receipt { failures: vec![partial.failures[1], first], ..partial.clone() });
    refused(&Receipt { failures: vec![OperationFailure { position: 1_000, ..first }], ..partial.clone() });
    refused(&Receipt { failures: Vec::new(), ..undone.clone() });
    refused(&Receipt { undone: true, ..partial.clone() });
    refused(&Receipt { operations: 0, failures: Vec::new(), ..partial });
}

#[test]
fn counts_above_the_maxima_are_refused() {
    let tx = by_index();
    let one = [0, 1, 9, 0, 0, 0, 1, 1];
    let groups = |count: usize| [&[count as u8], one.repeat(count).as_slice()].concat();
    assert_eq!(with_groups(&tx, &groups(MAX_GROUPS)).map(|tx| tx.operation_count()), Ok(MAX_GROUPS));
    assert!(matches!(with_groups(&tx, &groups(MAX_GROUPS + 1)), Err(CodecError::TooLarge { .. })));
    let wide = |count: usize| {
        let mut w = Writer::new();
        w.u8(2).u8(0).varint(count as u64).raw(&vec![0; 4 * count]).u8(1).raw(&vec![1; count]).raw(&one);
        w.into_bytes()
    };
    assert_eq!(with_groups(&tx, &wide(MAX_OPERATIONS - 1)).map(|tx| tx.operation_count()), Ok(MAX_OPERATIONS));
    assert!(matches!(with_groups(&tx, &wide(MAX_OPERATIONS)), Err(CodecError::TooLarge { max: 0, .. })));
    let long = vec![0; MAX_TRANSACTION_LEN + 1];
    assert!(matches!(Transaction::decode(&long), Err(CodecError::TooLarge { .. })));
}

#[test]
fn the_largest_transaction_has_exactly_the_maximal_length() {
    let mut builder = TransactionBuilder::new(Hash::ZERO, SenderKey::PublicKey(key(0)), 0, 0).memo(&[0; 256]);
    for n in 0..MAX_OPERATIONS {
        builder.push_transfer(Target::Address(address(1)), u128::MAX - n as u128);
    }
    let tx = sign(&builder, 0);
    // 63 groups fewer than allowed, each with a tag, a two-byte count and a width.
    assert_eq!(tx.encode().len(), MAX_TRANSACTION_LEN - 63 * 4);
}

#[test]
fn the_builder_names_the_limit_that_is_exceeded() {
    let builder = |sender| TransactionBuilder::new(Hash::ZERO, sender, 0, 0);
    let index = || builder(SenderKey::Index(AccountIndex(0)));
    let to = Target::Index(AccountIndex(1));
    assert_eq!(index().build(), Err(BuildError::Operations(0)));
    assert_eq!(index().transfer(to, 1).memo(&[0; 257]).build(), Err(BuildError::Memo(257)));
    let short_key = builder(SenderKey::PublicKey(vec![0; PUBLIC_KEY_LEN - 1])).transfer(to, 1).build();
    assert_eq!(short_key, Err(BuildError::PublicKey(PUBLIC_KEY_LEN - 1)));
    let unsigned = index().transfer(to, 1).build().expect("within the limits");
    assert_eq!(unsigned.with_signature(&[0; 5]), Err(BuildError::Signature(5)));
    let mut alternating = index();
    for at in 0..=MAX_GROUPS {
        alternating.push_transfer(if at % 2 == 0 { to } else { Target::Address(address(1)) }, 1);
    }
    assert_eq!(alternating.build(), Err(BuildError::Groups(MAX_GROUPS + 1)));
}

/// Whatever bytes decode are the encoding of what they decode to.
fn assert_canonical(tx: &Transaction) {
    let (body, groups, _) = cut(tx);
    let encoded: Vec<u8> = tx.groups().flat_map(|group| encode_group(&group)).collect();
    assert_eq!(groups[1..], encoded);
    let mut w = Writer::new();
    w.u8(1).hash(&tx.chain_id());
    match tx.sender() {
        Sender::Index(index) => w.u8(0).varint(index.0.into()),
        Sender::Address(address) => w.u8(1).hash(&address.0).raw(tx.sender_key().expect("it carries a key")),
    };
    w.u64(tx.nonce()).u64(tx.expiry()).u128(tx.max_fee()).u8(tx.is_atomic().into()).bytes(tx.memo());
    assert_eq!(body, w.into_bytes());
}

#[test]
fn mutated_transactions_are_refused_or_canonical() {
    let originals = [by_index(), by_address()];
    check(
        4_000,
        (0..2_usize, any::<prop::sample::Index>(), 1..=255_u8, any::<bool>()),
        |(which, at, flip, in_groups)| {
            let tx = &originals[which];
            let decoded = if in_groups {
                let (_, mut groups, _) = cut(tx);
                let at = at.index(groups.len());
                groups[at] ^= flip;
                with_groups(tx, &groups)
            } else {
                let mut bytes = tx.encode().to_vec();
                let end = bytes.len() - SIGNATURE_LEN + 1;
                bytes[at.index(end)] ^= flip;
                Transaction::decode(&bytes)
            };
            if let Ok(decoded) = decoded {
                assert_canonical(&decoded);
                prop_assert_ne!(&decoded, tx);
            }
            Ok(())
        },
    );
}

#[test]
fn cut_off_or_lengthened_encodings_are_refused() {
    let tx = by_index();
    let bytes = tx.encode();
    for len in (0..bytes.len()).filter(|len| *len < 400 || len % 97 == 0) {
        assert!(Transaction::decode(&bytes[..len]).is_err(), "{len} bytes");
    }
    assert!(Transaction::decode(&[bytes, &[0]].concat()).is_err());
    let encodings = [header().encode(), checkpoint(None).encode(), receipts()[1].encode(), genesis().encode()];
    let decoders: [fn(&[u8]) -> bool; 4] = [
        |bytes| LedgerHeader::decode(bytes).is_ok(),
        |bytes| Checkpoint::decode(bytes).is_ok(),
        |bytes| Receipt::decode(bytes).is_ok(),
        |bytes| Genesis::decode(bytes).is_ok(),
    ];
    for (bytes, decodes) in encodings.iter().zip(decoders) {
        assert!(decodes(bytes));
        assert!(!decodes(&[bytes.as_slice(), &[0]].concat()));
        for len in (0..bytes.len()).filter(|len| *len < 300 || len % 97 == 0) {
            assert!(!decodes(&bytes[..len]), "{len} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn mutated_headers_checkpoints_receipts_and_genesis_are_refused_or_canonical() {
    fn canonical<T>(bytes: &[u8], decode: fn(&[u8]) -> Result<T, CodecError>, encode: fn(&T) -> Vec<u8>) {
        if let Ok(value) = decode(bytes) {
            assert_eq!(encode(&value), bytes);
        }
    }
    let encodings = [
        header().encode(),
        checkpoint(Some(Hash::ZERO)).encode(),
        receipts()[1].encode(),
        receipts()[2].encode(),
        genesis().encode(),
    ];
    check(4_000, (0..5_usize, any::<prop::sample::Index>(), 1..=255_u8), |(which, at, flip)| {
        let mut bytes = encodings[which].clone();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        match which {
            0 => canonical(&bytes, LedgerHeader::decode, LedgerHeader::encode),
            1 => canonical(&bytes, Checkpoint::decode, Checkpoint::encode),
            2 | 3 => canonical(&bytes, Receipt::decode, Receipt::encode),
            _ => canonical(&bytes, Genesis::decode, Genesis::encode),
        }
        Ok(())
    });
}

#[test]
fn random_bytes_never_panic_a_decoder() {
    check(2_000, prop::collection::vec(any::<u8>(), 0..600), |mut bytes| {
        for first in [None, Some(1)] {
            if let (Some(first), Some(place)) = (first, bytes.first_mut()) {
                *place = first;
            }
            let _ = (Transaction::decode(&bytes), Receipt::decode(&bytes), Genesis::decode(&bytes));
            let _ = (LedgerHeader::decode(&bytes), Checkpoint::decode(&bytes));
        }
        Ok(())
    });
}

#[test]
fn genesis_goes_through_toml() {
    let text = toml::to_string(&genesis()).expect("a genesis can be written as TOML");
    assert_eq!(toml::from_str::<Genesis>(&text).expect("and read back"), genesis());
    assert!(text.contains("balance = \"100\""), "balances are written in AUR:\n{}", &text[..400]);
    assert!(toml::from_str::<Genesis>(&format!("surprise = 1\n{text}")).is_err());
}
