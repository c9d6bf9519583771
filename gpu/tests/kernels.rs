//! The device kernels as the host runs them (feature `host-kernels`): what the suite over all back-ends does not show.
#![cfg(feature = "host-kernels")]
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use aurigraph_gpu::{AwsLc, BatchVerifier, CpuHasher, Fips203, HostKernels, Kem, VerifyItem, Vote};
use aurigraph_ledger::{Hash, MerkleTree, PlainHasher, TreeHasher};
use common::{Case, Random, mutate, signed};

/// Blocks of sizes that divide nothing, and lanes in both orders.
fn shapes(kernels: HostKernels) -> [HostKernels; 4] {
    [kernels, kernels.backwards(64), kernels.backwards(37), kernels.backwards(1)]
}

fn verdicts(back_end: &dyn BatchVerifier, items: &[VerifyItem<'_>]) -> Vec<bool> {
    let mut verdicts = vec![true; items.len()];
    back_end.verify_batch(items, &mut verdicts);
    verdicts
}

#[test]
fn three_thousand_mutated_signatures_in_batches_get_the_verdicts_of_aws_lc() {
    let seed = 0x6375_6461;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    let originals: Vec<Case> = (0..20).map(|_| signed(&mut random)).collect();
    let (mut valid, mut total) = (0, 0);
    for _ in 0..10 {
        let mut cases = originals.clone();
        while cases.len() < 300 {
            let mut case = originals[random.below(originals.len())].clone();
            for _ in 0..=random.below(2) {
                mutate(&mut random, &mut case);
            }
            // Malformed items stand between the others.
            match random.below(30) {
                0 => case.signature.truncate(random.below(4_627)),
                1 => case.public_key.push(0),
                2 => case.context = vec![0; 254 + random.below(3)],
                _ => {}
            }
            cases.push(case);
        }
        let items: Vec<VerifyItem<'_>> = cases.iter().map(Case::item).collect();
        let expected = verdicts(&AwsLc, &items);
        for kernels in [HostKernels::uncached(), HostKernels::cached()] {
            let ours = verdicts(&kernels, &items);
            for ((ours, expected), case) in ours.iter().zip(&expected).zip(&cases) {
                assert_eq!(ours, expected, "{} about {case:02x?}", BatchVerifier::name(&kernels));
            }
        }
        valid += expected.iter().filter(|valid| **valid).count();
        total += items.len();
    }
    println!("{total} signatures, {valid} valid");
    assert!(total == 3_000 && (200..1_000).contains(&valid), "{valid} of {total} valid");
}

#[test]
fn verdicts_do_not_depend_on_the_size_of_blocks_and_the_order_of_lanes() {
    let mut random = Random(11);
    let mut cases: Vec<Case> = (0..6).map(|_| signed(&mut random)).collect();
    for at in 0..6 {
        let mut mutated = cases[at].clone();
        mutate(&mut random, &mut mutated);
        cases.push(mutated);
    }
    let items: Vec<VerifyItem<'_>> = cases.iter().map(Case::item).collect();
    let expected = verdicts(&AwsLc, &items);
    assert!(expected[..6].iter().all(|valid| *valid));
    for kernels in [HostKernels::uncached(), HostKernels::cached()].into_iter().flat_map(shapes) {
        assert_eq!(verdicts(&kernels, &items), expected, "{kernels:?}");
    }
}

#[test]
fn random_key_pairs_secrets_and_ciphertexts_are_those_of_both_libraries() {
    let mut random = Random(12);
    let mut seed = || <[u8; 32]>::try_from(random.bytes(32)).unwrap();
    for round in 0..200 {
        let (d, z, m) = (seed(), seed(), seed());
        let kernels = HostKernels::uncached();
        let keys = kernels.key_pair(&d, &z).unwrap();
        let expected = Fips203.key_pair(&d, &z).unwrap();
        assert_eq!((&keys.encapsulation, &*keys.decapsulation), (&expected.encapsulation, &*expected.decapsulation));
        let (mut ciphertext, secret) = kernels.encapsulate(&keys.encapsulation, &m).unwrap();
        assert_eq!((ciphertext.clone(), secret.clone()), AwsLc.encapsulate(&keys.encapsulation, &m).unwrap());
        assert_eq!(kernels.decapsulate(&keys.decapsulation, &ciphertext).unwrap(), secret);
        ciphertext[7 * round] ^= 0x10;
        let rejected = kernels.decapsulate(&keys.decapsulation, &ciphertext).unwrap();
        assert_ne!(rejected, secret);
        assert_eq!(rejected, AwsLc.decapsulate(&keys.decapsulation, &ciphertext).unwrap());
        assert_eq!(rejected, Fips203.decapsulate(&keys.decapsulation, &ciphertext).unwrap());
    }
}

#[test]
fn trees_and_hashes_equal_those_of_the_ledger() {
    let mut random = Random(13);
    let bytes = random.bytes(4_096);
    for kernels in shapes(HostKernels::uncached()) {
        for len in 0..300 {
            assert_eq!(kernels.hash_one("node", &bytes[..len]), PlainHasher.hash_one("node", &bytes[..len]), "{len}");
        }
        for len in [1, 64, 129, 130, 131, 136, 512, 1_000, 2_000] {
            let (mut ours, mut plain) = (vec![Hash::ZERO; 4_096 / len], vec![Hash::ZERO; 4_096 / len]);
            let whole = &bytes[..4_096 / len * len];
            kernels.hash_level("level", whole, len, &mut ours);
            PlainHasher.hash_level("level", whole, len, &mut plain);
            assert_eq!(ours, plain, "messages of {len} bytes");
        }
    }
    for leaves in [0, 1, 2, 3, 127, 128, 129, 1_000, 4_097] {
        let leaves: Vec<Hash> = (0..leaves).map(|at: u64| PlainHasher.hash_one("leaf", &at.to_le_bytes())).collect();
        let root = MerkleTree::build(leaves.clone(), &HostKernels::uncached()).root();
        assert_eq!(root, MerkleTree::build(leaves.clone(), &PlainHasher).root());
        assert_eq!(root, MerkleTree::build(leaves, &CpuHasher).root());
    }
}

#[test]
fn a_tally_counts_each_valid_voter_once_for_a_choice() {
    let mut random = Random(14);
    for round in 0..50 {
        let stakes: Vec<u64> = (0..random.below(100)).map(|_| random.next() >> 20).collect();
        let choices = u32::try_from(random.below(5)).unwrap();
        let mut below = |bound: usize| u32::try_from(random.below(bound)).unwrap();
        // Some voters and choices are unknown, and many vote twice.
        let votes: Vec<Vote> = (0..300)
            .map(|_| Vote { voter: below(stakes.len() + 3), choice: below(7), valid: below(4) > 0 })
            .chain([Vote { voter: u32::MAX, choice: 0, valid: true }, Vote { voter: 0, choice: u32::MAX, valid: true }])
            .collect();
        let counted: BTreeSet<(u32, u32)> =
            votes.iter().filter(|vote| vote.valid).map(|vote| (vote.choice, vote.voter)).collect();
        let mut expected = vec![0; choices as usize];
        for (choice, voter) in counted {
            if let (Some(total), Some(stake)) = (expected.get_mut(choice as usize), stakes.get(voter as usize)) {
                *total += stake;
            }
        }
        for kernels in shapes(HostKernels::uncached()) {
            assert_eq!(kernels.tally(&votes, &stakes, choices), expected, "round {round}, {kernels:?}");
        }
    }
}
