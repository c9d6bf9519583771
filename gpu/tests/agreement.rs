//! All back-ends give one verdict for every input: random, mutated, malformed.
#![allow(clippy::unwrap_used)]

mod common;

use aurigraph_gpu::{PUBLIC_KEY_LEN, SIGNATURE_LEN, Seed, Signer};
use common::{Case, Random, agreed, back_ends, mutate, signed};

#[test]
fn mutated_signatures_get_one_verdict_from_all_back_ends() {
    let (seed, back_ends) = (0x6175_7269, back_ends());
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    let (mut valid, mut invalid) = (0, 0);
    for _ in 0..40 {
        let case = signed(&mut random);
        assert!(agreed(&back_ends, &case));
        for _ in 0..25 {
            let mut mutated = case.clone();
            for _ in 0..=random.below(2) {
                mutate(&mut random, &mut mutated);
            }
            *if agreed(&back_ends, &mutated) { &mut valid } else { &mut invalid } += 1;
        }
    }
    // Mutations that change nothing (an equal hint byte) stay valid; both kinds must occur.
    assert!(valid > 0 && invalid > 500, "{valid} valid, {invalid} invalid");
}

#[test]
fn malformed_lengths_are_invalid_with_all_back_ends() {
    let (mut random, back_ends) = (Random(1), back_ends());
    let case = signed(&mut random);
    for len in [0, 1, PUBLIC_KEY_LEN - 1, PUBLIC_KEY_LEN + 1, 2 * PUBLIC_KEY_LEN] {
        let mut wrong = case.clone();
        wrong.public_key.resize(len, 0);
        assert!(!agreed(&back_ends, &wrong), "a public key of {len} bytes");
    }
    for len in [0, 1, SIGNATURE_LEN - 1, SIGNATURE_LEN + 1, 2 * SIGNATURE_LEN] {
        let mut wrong = case.clone();
        wrong.signature.resize(len, 0);
        assert!(!agreed(&back_ends, &wrong), "a signature of {len} bytes");
    }
    let mut wrong = case.clone();
    wrong.context = vec![0; 256];
    assert!(!agreed(&back_ends, &wrong), "a context of 256 bytes");
    wrong.public_key = random.bytes(PUBLIC_KEY_LEN);
    wrong.signature = random.bytes(SIGNATURE_LEN);
    wrong.context.clear();
    assert!(!agreed(&back_ends, &wrong), "random bytes of the right lengths");
}

/// FIPS 204 allows the bound's last value and refuses the next, in both directions; no back-end may be off by one. The
/// signatures are invalid all the same, so this only shows that nobody panics and that the verdicts are equal; `forged.rs`
/// has signatures that the bound alone refuses.
#[test]
fn coefficients_at_the_edges_of_their_range_get_one_verdict() {
    let (mut random, back_ends) = (Random(4), back_ends());
    let case = signed(&mut random);
    for place in [0, 1, 255, 256, 1_791] {
        for value in [0_u64, 119, 120, 121, 0x8_0000, 0xf_ffff - 119, 0xf_ffff - 118, 0xf_ffff] {
            let mut wrong = case.clone();
            let (at, shift) = (64 + place / 2 * 5, 20 * (place % 2));
            let mut word = [0; 8];
            word[..5].copy_from_slice(&wrong.signature[at..at + 5]);
            let word = u64::from_le_bytes(word) & !(0xf_ffff << shift) | value << shift;
            wrong.signature[at..at + 5].copy_from_slice(&word.to_le_bytes()[..5]);
            agreed(&back_ends, &wrong);
        }
    }
}

/// The library reads a key in X.509 form too; a key of a transaction has one form only.
#[test]
fn a_public_key_in_another_encoding_is_invalid() {
    let signer = Signer::from_seed(&Seed::new([3; 32])).unwrap();
    let mut public_key = hex::decode("30820a32300b060960864801650304031303820a2100").unwrap();
    public_key.extend_from_slice(signer.public_key());
    let signature = signer.sign(b"message").unwrap();
    let back_ends = back_ends();
    let case = Case { public_key, message: b"message".to_vec(), context: vec![], signature };
    assert!(!agreed(&back_ends, &case));
}

#[test]
fn a_batch_is_judged_item_by_item_and_missing_items_are_invalid() {
    let mut random = Random(2);
    let good = signed(&mut random);
    let mut bad = good.clone();
    bad.message.push(1);
    let items = [good.item(), bad.item(), good.item()];
    for back_end in back_ends() {
        let mut verdicts = [true; 4];
        back_end.verify_batch(&items, &mut verdicts);
        assert_eq!(verdicts, [true, false, true, false], "{}", back_end.name());
    }
}
