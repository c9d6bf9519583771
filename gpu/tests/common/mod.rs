//! What the tests of all back-ends share: the back-ends themselves, seeded randomness, signed and mutated cases.
#![allow(dead_code, clippy::unwrap_used)]

use aurigraph_gpu::{AwsLc, BatchVerifier, Fips204, Native, SIGNATURE_LEN, Seed, Signer, VerifyItem};
use fips204::ml_dsa_87;
use fips204::traits::{KeyGen, Signer as _};

/// Where an expanded key of ours may stay: in a small cache that must evict, or nowhere.
const FEW_KEYS: usize = 4 << 16;

/// The reference first, then every back-end that this machine has.
pub fn back_ends() -> Vec<Box<dyn BatchVerifier>> {
    let mut all: Vec<Box<dyn BatchVerifier>> =
        vec![Box::new(Fips204), Box::new(AwsLc), Box::new(Native::portable(FEW_KEYS))];
    for cache_bytes in [0, FEW_KEYS] {
        let wide = [Native::avx2(cache_bytes), Native::avx512(cache_bytes), Native::mixed(cache_bytes)];
        all.extend(wide.into_iter().flatten().map(|native| Box::new(native) as _));
    }
    #[cfg(feature = "host-kernels")]
    for kernels in [aurigraph_gpu::HostKernels::uncached(), aurigraph_gpu::HostKernels::cached()] {
        all.push(Box::new(kernels));
    }
    all
}

/// SplitMix64: enough randomness for mutations, from one printed seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

#[derive(Clone, Debug)]
pub struct Case {
    pub public_key: Vec<u8>,
    pub message: Vec<u8>,
    pub context: Vec<u8>,
    pub signature: Vec<u8>,
}

impl Case {
    pub fn item(&self) -> VerifyItem<'_> {
        VerifyItem { context: &self.context, ..VerifyItem::new(&self.public_key, &self.message, &self.signature) }
    }
}

/// The verdict of all back-ends.
pub fn agreed(back_ends: &[Box<dyn BatchVerifier>], case: &Case) -> bool {
    let reference = back_ends[0].verify(&case.item());
    for other in &back_ends[1..] {
        let verdict = other.verify(&case.item());
        assert_eq!(verdict, reference, "{} disagrees with {} about {case:02x?}", other.name(), back_ends[0].name());
    }
    reference
}

/// A valid signature under a new key, with or without a context.
pub fn signed(random: &mut Random) -> Case {
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
pub fn mutate(random: &mut Random, case: &mut Case) {
    match random.below(11) {
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
            // A coefficient of z at the edge of its range: 20 bits that stand for more or less than 2^19 - 120.
            let at = 64 + 5 * random.below((SIGNATURE_LEN - 83 - 64) / 5);
            let edge = [119_u64, 120, 121, (1 << 20) - 119, (1 << 20) - 120, (1 << 20) - 121][random.below(6)];
            let mut word = [0; 8];
            word[..5].copy_from_slice(&case.signature[at..at + 5]);
            let mut word = u64::from_le_bytes(word);
            let shift = 20 * random.below(2);
            word = word & !(0xf_ffff << shift) | edge << shift;
            case.signature[at..at + 5].copy_from_slice(&word.to_le_bytes()[..5]);
        }
        9 => {
            let at = random.below(SIGNATURE_LEN - 83 - 64);
            case.signature[64 + at..].iter_mut().take(20).for_each(|byte| *byte = 0);
        }
        _ => case.context.push(0),
    }
}
