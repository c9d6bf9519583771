//! All back-ends give one verdict for every input: random, mutated, malformed.
#![allow(clippy::unwrap_used)]

use aurigraph_gpu::{AwsLc, BatchVerifier, Fips204, PUBLIC_KEY_LEN, SIGNATURE_LEN, Seed, Signer, VerifyItem};
use fips204::ml_dsa_87;
use fips204::traits::{KeyGen, Signer as _};

/// SplitMix64: enough randomness for mutations, from one printed seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

#[derive(Clone)]
struct Case {
    public_key: Vec<u8>,
    message: Vec<u8>,
    context: Vec<u8>,
    signature: Vec<u8>,
}

impl Case {
    fn item(&self) -> VerifyItem<'_> {
        VerifyItem { context: &self.context, ..VerifyItem::new(&self.public_key, &self.message, &self.signature) }
    }
}

fn agreed(case: &Case) -> bool {
    let (reference, aws) = (Fips204.verify(&case.item()), AwsLc.verify(&case.item()));
    assert_eq!(reference, aws, "fips204 and AWS-LC disagree");
    reference
}

fn signed(random: &mut Random) -> Case {
    let seed: [u8; 32] = random.bytes(32).try_into().unwrap();
    let message_len = random.below(300);
    let message = random.bytes(message_len);
    let signer = Signer::from_seed(&Seed::new(seed)).unwrap();
    let public_key = signer.public_key().to_vec();
    if random.below(2) == 0 {
        let signature = signer.sign(&message).unwrap();
        return Case { public_key, message, context: vec![], signature };
    }
    let context_len = random.below(256);
    let context = random.bytes(context_len);
    let (_, secret) = ml_dsa_87::KG::keygen_from_seed(&seed);
    let signature = secret.try_sign(&message, &context).unwrap().to_vec();
    Case { public_key, message, context, signature }
}

fn flip(random: &mut Random, bytes: &mut [u8], from: usize) {
    if bytes.len() > from {
        let at = from + random.below(bytes.len() - from);
        bytes[at] ^= 1 << random.below(8);
    }
}

/// Changes something; the parts of a signature in which structure can be broken (the hint and its counts stand in the
/// last 83 bytes) are hit as often as the long rest.
fn mutate(random: &mut Random, case: &mut Case) {
    match random.below(10) {
        0 => flip(random, &mut case.public_key, 0),
        1 => flip(random, &mut case.message, 0),
        2 => flip(random, &mut case.context, 0),
        3 => flip(random, &mut case.signature, 0),
        4..=6 => flip(random, &mut case.signature, SIGNATURE_LEN - 83),
        7 => {
            // A hint byte repeated, or a count moved: non-canonical hints.
            let at = SIGNATURE_LEN - 83 + random.below(82);
            case.signature[at + 1] = case.signature[at];
        }
        8 => {
            let at = random.below(SIGNATURE_LEN - 83 - 64);
            case.signature[64 + at..].iter_mut().take(20).for_each(|byte| *byte = 0);
        }
        _ => case.context.push(0),
    }
}

#[test]
fn mutated_signatures_get_one_verdict_from_all_back_ends() {
    let seed = 0x6175_7269;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    let (mut valid, mut invalid) = (0, 0);
    for _ in 0..40 {
        let case = signed(&mut random);
        assert!(agreed(&case));
        for _ in 0..25 {
            let mut mutated = case.clone();
            for _ in 0..=random.below(2) {
                mutate(&mut random, &mut mutated);
            }
            *if agreed(&mutated) { &mut valid } else { &mut invalid } += 1;
        }
    }
    // Mutations that change nothing (an equal hint byte) stay valid; both kinds must occur.
    assert!(valid > 0 && invalid > 500, "{valid} valid, {invalid} invalid");
}

#[test]
fn malformed_lengths_are_invalid_with_all_back_ends() {
    let mut random = Random(1);
    let case = signed(&mut random);
    for len in [0, 1, PUBLIC_KEY_LEN - 1, PUBLIC_KEY_LEN + 1, 2 * PUBLIC_KEY_LEN] {
        let mut wrong = case.clone();
        wrong.public_key.resize(len, 0);
        assert!(!agreed(&wrong), "a public key of {len} bytes");
    }
    for len in [0, 1, SIGNATURE_LEN - 1, SIGNATURE_LEN + 1, 2 * SIGNATURE_LEN] {
        let mut wrong = case.clone();
        wrong.signature.resize(len, 0);
        assert!(!agreed(&wrong), "a signature of {len} bytes");
    }
    let mut wrong = case.clone();
    wrong.context = vec![0; 256];
    assert!(!agreed(&wrong), "a context of 256 bytes");
    wrong.public_key = random.bytes(PUBLIC_KEY_LEN);
    wrong.signature = random.bytes(SIGNATURE_LEN);
    wrong.context.clear();
    assert!(!agreed(&wrong), "random bytes of the right lengths");
}

/// The library reads a key in X.509 form too; a key of a transaction has one form only.
#[test]
fn a_public_key_in_another_encoding_is_invalid() {
    let signer = Signer::from_seed(&Seed::new([3; 32])).unwrap();
    let mut public_key = hex::decode("30820a32300b060960864801650304031303820a2100").unwrap();
    public_key.extend_from_slice(signer.public_key());
    let signature = signer.sign(b"message").unwrap();
    let case = Case { public_key, message: b"message".to_vec(), context: vec![], signature };
    assert!(!agreed(&case));
}

#[test]
fn a_batch_is_judged_item_by_item_and_missing_items_are_invalid() {
    let mut random = Random(2);
    let good = signed(&mut random);
    let mut bad = good.clone();
    bad.message.push(1);
    let items = [good.item(), bad.item(), good.item()];
    for back_end in [&Fips204 as &dyn BatchVerifier, &AwsLc] {
        let mut verdicts = [true; 4];
        back_end.verify_batch(&items, &mut verdicts);
        assert_eq!(verdicts, [true, false, true, false], "{}", back_end.name());
    }
}
