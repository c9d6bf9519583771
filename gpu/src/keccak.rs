//! Keccak-f[1600] of FIPS 202, for one state and for eight at once, and the sponges over it that ML-DSA and trees use.
//!
//! The permutation is written once, over words: a `u64` gives one state, a vector of many gives many. Knows no
//! signatures and no trees.

/// Bytes that SHAKE256 and SHA3-256 take in per permutation.
pub(crate) const RATE_256: usize = 136;
/// Bytes that SHAKE128 gives per permutation.
pub(crate) const RATE_128: usize = 168;

/// FIPS 202, algorithm 5: the round constants.
const ROUNDS: [u64; 24] = [
    0x0000_0000_0000_0001,
    0x0000_0000_0000_8082,
    0x8000_0000_0000_808a,
    0x8000_0000_8000_8000,
    0x0000_0000_0000_808b,
    0x0000_0000_8000_0001,
    0x8000_0000_8000_8081,
    0x8000_0000_0000_8009,
    0x0000_0000_0000_008a,
    0x0000_0000_0000_0088,
    0x0000_0000_8000_8009,
    0x0000_0000_8000_000a,
    0x0000_0000_8000_808b,
    0x8000_0000_0000_008b,
    0x8000_0000_0000_8089,
    0x8000_0000_0000_8003,
    0x8000_0000_0000_8002,
    0x8000_0000_0000_0080,
    0x0000_0000_0000_800a,
    0x8000_0000_8000_000a,
    0x8000_0000_8000_8081,
    0x8000_0000_0000_8080,
    0x0000_0000_8000_0001,
    0x8000_0000_8000_8008,
];

/// One lane of the state, of one or of several states side by side.
pub(crate) trait Word: Copy {
    /// The same constant in every state.
    fn splat(word: u64) -> Self;
    /// `self ^ other`.
    fn xor(self, other: Self) -> Self;
    /// `self ^ (!not & and)`.
    fn chi(self, not: Self, and: Self) -> Self;
    /// Rotated by `LEFT` bits to the left; `RIGHT` is `64 - LEFT`.
    fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self;
}

impl Word for u64 {
    #[inline(always)]
    fn splat(word: u64) -> Self {
        word
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        self ^ other
    }

    #[inline(always)]
    fn chi(self, not: Self, and: Self) -> Self {
        self ^ (!not & and)
    }

    #[inline(always)]
    fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self {
        self << LEFT | self >> RIGHT
    }
}

/// One row after theta, rho and pi, and chi over it: five lanes of the old state, each with its column and rotation.
macro_rules! row {
    ($a:ident, $d:ident, $e:ident, $y:literal: $(($at:literal, $x:literal, $l:literal)),*) => {
        let b = [$($a[$at].xor($d[$x]).rotate::<$l, { 64 - $l }>()),*];
        $e[5 * $y] = b[0].chi(b[1], b[2]);
        $e[5 * $y + 1] = b[1].chi(b[2], b[3]);
        $e[5 * $y + 2] = b[2].chi(b[3], b[4]);
        $e[5 * $y + 3] = b[3].chi(b[4], b[0]);
        $e[5 * $y + 4] = b[4].chi(b[0], b[1]);
    };
}

#[inline(always)]
fn column<W: Word>(a: &[W; 25], x: usize) -> W {
    a[x].xor(a[x + 5]).xor(a[x + 10]).xor(a[x + 15]).xor(a[x + 20])
}

/// FIPS 202, section 3.2: one round. Lane (x, y) stands at `x + 5 * y`.
#[inline(always)]
fn round<W: Word>(a: &[W; 25], constant: u64) -> [W; 25] {
    let c = [column(a, 0), column(a, 1), column(a, 2), column(a, 3), column(a, 4)];
    let d = [
        c[4].xor(c[1].rotate::<1, 63>()),
        c[0].xor(c[2].rotate::<1, 63>()),
        c[1].xor(c[3].rotate::<1, 63>()),
        c[2].xor(c[4].rotate::<1, 63>()),
        c[3].xor(c[0].rotate::<1, 63>()),
    ];
    let mut e = *a;
    let b = [
        a[0].xor(d[0]),
        a[6].xor(d[1]).rotate::<44, 20>(),
        a[12].xor(d[2]).rotate::<43, 21>(),
        a[18].xor(d[3]).rotate::<21, 43>(),
        a[24].xor(d[4]).rotate::<14, 50>(),
    ];
    e[0] = b[0].chi(b[1], b[2]).xor(W::splat(constant));
    e[1] = b[1].chi(b[2], b[3]);
    e[2] = b[2].chi(b[3], b[4]);
    e[3] = b[3].chi(b[4], b[0]);
    e[4] = b[4].chi(b[0], b[1]);
    row!(a, d, e, 1: (3, 3, 28), (9, 4, 20), (10, 0, 3), (16, 1, 45), (22, 2, 61));
    row!(a, d, e, 2: (1, 1, 1), (7, 2, 6), (13, 3, 25), (19, 4, 8), (20, 0, 18));
    row!(a, d, e, 3: (4, 4, 27), (5, 0, 36), (11, 1, 10), (17, 2, 15), (23, 3, 56));
    row!(a, d, e, 4: (2, 2, 62), (8, 3, 55), (14, 4, 39), (15, 0, 41), (21, 1, 2));
    e
}

/// Keccak-f[1600].
#[inline(always)]
pub(crate) fn permute_words<W: Word>(state: &mut [W; 25]) {
    for constant in ROUNDS {
        *state = round(state, constant);
    }
}

/// Keccak-f[1600] of one state.
#[inline(never)]
pub(crate) fn permute(state: &mut [u64; 25]) {
    permute_words(state);
}

/// Eight states: word `w` of state `s` is `.0[w][s]`.
#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct Eight(pub(crate) [[u64; 8]; 25]);

impl Eight {
    pub(crate) const fn new() -> Self {
        Self([[0; 8]; 25])
    }

    /// Takes one block of each of eight messages in, without permuting.
    pub(crate) fn absorb(&mut self, blocks: [&[u8]; 8]) {
        for (state, block) in blocks.into_iter().enumerate() {
            for (word, bytes) in self.0.iter_mut().zip(block.as_chunks().0) {
                word[state] ^= u64::from_le_bytes(*bytes);
            }
        }
    }

    /// Writes the first words of each state.
    pub(crate) fn squeeze(&self, out: [&mut [u8]; 8]) {
        for (state, out) in out.into_iter().enumerate() {
            for (word, bytes) in self.0.iter().zip(out.as_chunks_mut().0) {
                *bytes = word[state].to_le_bytes();
            }
        }
    }
}

/// Keccak-f[1600] of eight states, one after the other.
pub(crate) fn permute_eight(states: &mut Eight) {
    for state in 0..8 {
        let mut words = states.0.map(|word| word[state]);
        permute(&mut words);
        for (word, new) in states.0.iter_mut().zip(words) {
            word[state] = new;
        }
    }
}

/// SHAKE256 over parts.
#[derive(Clone)]
pub(crate) struct Shake256 {
    state: [u64; 25],
    /// Bytes of the current block that were taken in.
    at: usize,
}

impl Shake256 {
    pub(crate) const fn new() -> Self {
        Self { state: [0; 25], at: 0 }
    }

    pub(crate) fn absorb(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            match bytes.split_first_chunk() {
                Some((chunk, rest)) if self.at.is_multiple_of(8) => {
                    self.state[self.at / 8] ^= u64::from_le_bytes(*chunk);
                    self.at += 8;
                    bytes = rest;
                }
                _ => {
                    self.state[self.at / 8] ^= u64::from(*first) << (8 * (self.at % 8));
                    self.at += 1;
                    bytes = rest;
                }
            }
            if self.at == RATE_256 {
                permute(&mut self.state);
                self.at = 0;
            }
        }
    }

    /// Ends the input. The first block of output can be read.
    pub(crate) fn finish(mut self) -> Squeeze {
        self.state[self.at / 8] ^= 0x1f << (8 * (self.at % 8));
        self.state[RATE_256 / 8 - 1] ^= 1 << 63;
        permute(&mut self.state);
        Squeeze { state: self.state, at: 0 }
    }

    /// The first 64 bytes of output over these parts.
    pub(crate) fn digest(parts: &[&[u8]]) -> [u8; 64] {
        let mut hash = Self::new();
        for part in parts {
            hash.absorb(part);
        }
        hash.finish().first()
    }
}

/// The output of SHAKE256.
pub(crate) struct Squeeze {
    state: [u64; 25],
    at: usize,
}

impl Squeeze {
    /// The next byte.
    pub(crate) fn byte(&mut self) -> u8 {
        if self.at == RATE_256 {
            permute(&mut self.state);
            self.at = 0;
        }
        let byte = self.state[self.at / 8].to_le_bytes()[self.at % 8];
        self.at += 1;
        byte
    }

    /// The first 64 bytes.
    pub(crate) fn first(&self) -> [u8; 64] {
        let mut out = [0; 64];
        for (bytes, word) in out.as_chunks_mut().0.iter_mut().zip(self.state) {
            *bytes = word.to_le_bytes();
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha3::digest::{ExtendableOutput, Update, XofReader};

    #[test]
    fn shake256_equals_the_plain_implementation_for_all_lengths_around_a_block() {
        let bytes: Vec<u8> = (0..600_u32).map(|at| (at * 7 % 251) as u8).collect();
        for len in (0..300).chain([407, 408, 409, 600]) {
            let cut = len / 3;
            let mut plain = sha3::Shake256::default();
            plain.update(&bytes[..len]);
            let mut expected = [0; 300];
            plain.finalize_xof().read(&mut expected);
            assert_eq!(Shake256::digest(&[&bytes[..cut], &bytes[cut..len]]), expected[..64], "{len} bytes");
            let mut hash = Shake256::new();
            hash.absorb(&bytes[..len]);
            let mut output = hash.finish();
            assert!(expected.iter().all(|byte| output.byte() == *byte), "{len} bytes");
        }
    }

    #[test]
    fn eight_states_are_permuted_like_one() {
        let mut eight = Eight::new();
        for (at, word) in eight.0.iter_mut().enumerate() {
            let other = 0x0123_4567_89ab_cdef ^ at as u64;
            *word = [at as u64, 1 << at, !0 >> at, other, !other, other << at, 0, !0];
        }
        let mut expected: [_; 8] = std::array::from_fn(|state| eight.0.map(|word| word[state]));
        expected.iter_mut().for_each(permute);
        let mut others = vec![eight.clone()];
        permute_eight(&mut others[0]);
        #[cfg(target_arch = "x86_64")]
        {
            use crate::mldsa::{Avx2, Avx512};
            if let Some(avx2) = Avx2::detect() {
                others.push(eight.clone());
                others.last_mut().into_iter().for_each(|states| avx2.permute_eight(states));
            }
            if let Some(avx512) = Avx512::detect() {
                others.push(eight.clone());
                others.last_mut().into_iter().for_each(|states| avx512.permute_eight(states));
            }
        }
        for states in others {
            for (state, expected) in expected.iter().enumerate() {
                assert_eq!(states.0.map(|word| word[state]), *expected);
            }
        }
    }
}
