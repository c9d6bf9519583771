//! The parts of a signature: the response z, the challenge c, the hint h.

use super::lanes::Lanes;
use super::ntt::Poly;
use super::{BETA, GAMMA_1, OMEGA, ROWS, TAU};
use crate::keccak::Shake256;

/// Algorithm 19 for z's 20 bits, with the check of algorithm 8, step 13: false if a coefficient is out of range.
#[inline(always)]
pub(crate) fn unpack_z<L: Lanes>(packed: &[u8], poly: &mut Poly) -> bool {
    let (mut lowest, mut highest) = (L::splat(GAMMA_1), L::splat(GAMMA_1));
    for (to, bytes) in poly.0.iter_mut().zip(packed.as_chunks::<20>().0) {
        let value = L::unpack_20(bytes);
        (lowest, highest) = (L::min(lowest, value), L::max(highest, value));
        L::store(L::sub(L::splat(GAMMA_1), value), to);
    }
    let (mut least, mut most) = ([0; 8], [0; 8]);
    L::store(lowest, &mut least);
    L::store(highest, &mut most);
    let bound = GAMMA_1 - BETA;
    least.iter().all(|value| GAMMA_1 - value < bound) && most.iter().all(|value| value - GAMMA_1 < bound)
}

/// Algorithm 29: the challenge, 60 coefficients of 1 or -1.
pub(crate) fn sample_in_ball(commitment: &[u8]) -> Poly {
    let mut hash = Shake256::new();
    hash.absorb(commitment);
    let mut stream = hash.finish();
    let mut signs = u64::from_le_bytes(std::array::from_fn(|_| stream.byte()));
    let mut poly = Poly::ZERO;
    let c = poly.0.as_flattened_mut();
    for at in 256 - TAU..256 {
        let place = loop {
            let place = usize::from(stream.byte());
            if place <= at {
                break place;
            }
        };
        c[at] = c[place];
        c[place] = 1 - 2 * (signs & 1) as i32;
        signs >>= 1;
    }
    poly
}

/// The hint: places of coefficients, ascending in each row.
pub(crate) struct Hint<'a> {
    places: &'a [u8],
    ends: &'a [u8],
}

impl<'a> Hint<'a> {
    /// Algorithm 21. There is one encoding of a hint; every other is refused.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (places, ends) = bytes.split_at_checked(OMEGA)?;
        let mut start = 0;
        for end in ends {
            let row = places.get(start..usize::from(*end))?;
            if !row.is_sorted_by(|one, next| one < next) {
                return None;
            }
            start = usize::from(*end);
        }
        let rest_is_zero = places[start..].iter().all(|byte| *byte == 0);
        (rest_is_zero && ends.len() == ROWS).then_some(Self { places, ends })
    }

    /// The places in one row.
    pub(crate) fn row(&self, row: usize) -> &'a [u8] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.places[usize::from(start)..usize::from(self.ends[row])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mldsa::lanes::Portable;

    fn hint(places: &[u8], ends: [u8; ROWS]) -> [u8; OMEGA + ROWS] {
        let mut bytes = [0; OMEGA + ROWS];
        bytes[..places.len()].copy_from_slice(places);
        bytes[OMEGA..].copy_from_slice(&ends);
        bytes
    }

    fn takes<L: Lanes>(place: usize, z: i32) -> bool {
        let mut packed = [0; 640];
        // Zeros are coefficients of 2^19, which is out of range: start from coefficients of 0.
        for pair in packed.as_chunks_mut::<5>().0 {
            *pair = [0, 0, 8, 0, 0x80];
        }
        let pair = &mut packed[place / 2 * 5..][..5];
        let mut word = [0; 8];
        word[..5].copy_from_slice(pair);
        let shift = place % 2 * 20;
        let value = (GAMMA_1 - z) as u64;
        let word = u64::from_le_bytes(word) & !(0xf_ffff << shift) | value << shift;
        pair.copy_from_slice(&word.to_le_bytes()[..5]);
        let mut poly = Poly::ZERO;
        let good = unpack_z::<L>(&packed, &mut poly);
        if good {
            let coefficients = poly.0.as_flattened();
            assert_eq!(coefficients[place], z);
            assert!(coefficients.iter().enumerate().all(|(at, c)| at == place || *c == 0));
        }
        good
    }

    #[test]
    fn coefficients_of_z_are_taken_up_to_the_bound_and_not_beyond() {
        let bound = GAMMA_1 - BETA;
        for place in (0..20).chain([254, 255]) {
            for (z, good) in
                [(bound - 1, true), (bound, false), (GAMMA_1, false), (1 - bound, true), (-bound, false), (5, true)]
            {
                assert_eq!(takes::<Portable>(place, z), good, "{z} at {place}");
                #[cfg(target_arch = "x86_64")]
                if crate::mldsa::Avx2::detect().is_some() {
                    assert_eq!(takes::<crate::mldsa::Avx2>(place, z), good, "{z} at {place} in AVX2");
                }
                #[cfg(target_arch = "x86_64")]
                if crate::mldsa::Avx512::detect().is_some() {
                    assert_eq!(takes::<crate::mldsa::Avx512>(place, z), good, "{z} at {place} in AVX-512");
                }
            }
        }
    }

    #[test]
    fn a_hint_has_one_encoding() {
        let good = hint(&[3, 9, 0, 255], [2, 2, 4, 4, 4, 4, 4, 4]);
        let decoded = Hint::decode(&good).unwrap();
        assert_eq!(
            [decoded.row(0), decoded.row(1), decoded.row(2), decoded.row(7)],
            [&[3, 9][..], &[], &[0, 255], &[]]
        );
        for (bad, why) in [
            (hint(&[9, 3], [2; ROWS]), "descending"),
            (hint(&[3, 3], [2; ROWS]), "twice"),
            (hint(&[3, 9], [2, 1, 2, 2, 2, 2, 2, 2]), "an end before its start"),
            (hint(&[3, 9], [76; ROWS]), "more than all places"),
            (hint(&[3, 9, 1], [2; ROWS]), "bytes behind the last place"),
        ] {
            assert!(Hint::decode(&bad).is_none(), "{why}");
        }
        assert!(Hint::decode(&good[..OMEGA]).is_none());
    }
}
