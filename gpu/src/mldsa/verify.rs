//! Verification under an expanded key (FIPS 204, algorithm 8).

use super::expand::{ExpandedKey, Row};
use super::lanes::Lanes;
use super::ntt::{self, Poly, Q};
use super::signature::{Hint, sample_in_ball, unpack_z};
use super::{COLUMNS, GAMMA_2, OMEGA, ROWS};
use crate::verify::SIGNATURE_LEN;

/// Bytes of the commitment's hash, with which a signature begins.
pub(super) const COMMITMENT: usize = 64;
/// Bytes of w1, packed: what is hashed behind the message representative.
pub(super) const W1: usize = ROWS * 128;
/// Bytes of one packed polynomial of z.
const PACKED_Z: usize = 640;

/// The w1 that a signature stands for; false if it stands for none. It is valid for a message representative if hashing
/// that and w1 gives the [`COMMITMENT`] that the signature begins with.
#[inline(always)]
pub(crate) fn commitment<L: Lanes>(key: &ExpandedKey, signature: &[u8; SIGNATURE_LEN], w1: &mut [u8; W1]) -> bool {
    let (commitment, rest) = signature.split_at(COMMITMENT);
    let (packed_z, packed_hint) = rest.split_at(COLUMNS * PACKED_Z);
    debug_assert_eq!(packed_hint.len(), OMEGA + ROWS);
    let Some(hint) = Hint::decode(packed_hint) else { return false };
    // z, and the challenge as the factor of -t1.
    let mut factors = [Poly::ZERO; COLUMNS + 1];
    for (factor, packed) in factors.iter_mut().zip(packed_z.chunks_exact(PACKED_Z)) {
        if !unpack_z::<L>(packed, factor) {
            return false;
        }
    }
    factors[COLUMNS] = sample_in_ball(commitment);
    for factor in &mut factors {
        ntt::transform::<L>(factor);
    }
    for ((at, row), packed) in key.rows.iter().enumerate().zip(w1.as_chunks_mut().0) {
        let mut w = product::<L>(row, &factors);
        ntt::inverse::<L>(&mut w);
        *packed = high_bits(&mut w, hint.row(at));
    }
    true
}

/// One row of Az - ct1 * 2^d, times 1 / R, in the transform's domain. Factors are below 9q in size, A's coefficients
/// below q and t1's below 9q, so that a sum stays below 7 * 9q^2 + 81q^2 < 2^31 q.
#[inline(always)]
fn product<L: Lanes>(row: &Row, factors: &[Poly; COLUMNS + 1]) -> Poly {
    let mut w = Poly::ZERO;
    for (at, (to, columns)) in w.0.iter_mut().zip(&row.0).enumerate() {
        let mut sum = L::no_sum();
        for (column, factor) in columns.iter().zip(factors) {
            sum = L::accumulate(sum, L::load(column), L::load(&factor.0[at]));
        }
        L::store(L::reduce(sum), to);
    }
    w
}

/// Algorithms 40 and 28 over one row: w1, packed in four bits a coefficient.
///
/// Without a hint w1 is the r1 of algorithm 36, which is (r + gamma2 - 1) / 2gamma2 rounded down, 16 being 0 again. As
/// 2gamma2 is 512 * 1023 and the quotient small, two shifts and a product give it. A hint moves it by one, up if r0 is
/// positive.
#[inline(always)]
fn high_bits(w: &mut Poly, hints: &[u8]) -> [u8; 128] {
    const _: () = assert!(2 * GAMMA_2 == 512 * 1_023);
    let r = w.0.as_flattened_mut();
    let mut high = [0; 256];
    for (r, high) in r.iter_mut().zip(&mut high) {
        *r += (*r >> 31) & Q;
        *high = ((((*r + GAMMA_2 - 1) >> 9) + 1) * 1_025) >> 20;
    }
    for place in hints {
        let place = usize::from(*place);
        let r0 = r[place] - high[place] * 2 * GAMMA_2;
        high[place] += if r0 > 0 { 1 } else { -1 };
    }
    let mut packed = [0; 128];
    for (packed, [low, high]) in packed.iter_mut().zip(high.as_chunks().0) {
        *packed = (low & 15 | (high & 15) << 4) as u8;
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Algorithm 36 as it is written.
    fn decompose(r: i32) -> (i32, i32) {
        let mut r0 = r % (2 * GAMMA_2);
        if r0 > GAMMA_2 {
            r0 -= 2 * GAMMA_2;
        }
        if r - r0 == Q - 1 { (0, r0 - 1) } else { ((r - r0) / (2 * GAMMA_2), r0) }
    }

    #[test]
    fn high_bits_and_hints_are_those_of_the_standard_around_every_edge() {
        let edges = (0..=16).flat_map(|k| [k * 2 * GAMMA_2, k * 2 * GAMMA_2 + GAMMA_2]);
        let all: Vec<i32> = edges.flat_map(|edge| edge - 700..=edge + 700).filter(|r| (0..Q).contains(r)).collect();
        for some in all.chunks(256) {
            let mut w = Poly::ZERO;
            w.0.as_flattened_mut().iter_mut().zip(some).for_each(|(to, r)| *to = *r);
            let every: Vec<u8> = (0..=255).collect();
            let (plain, hinted) = (high_bits(&mut w.clone(), &[]), high_bits(&mut w, &every));
            for (at, r) in some.iter().enumerate() {
                let (r1, r0) = decompose(*r);
                let nibble = |packed: &[u8; 128]| i32::from(packed[at / 2] >> (at % 2 * 4) & 15);
                assert_eq!(nibble(&plain), r1, "r = {r}");
                let moved = if r0 > 0 { r1 + 1 } else { r1 - 1 };
                assert_eq!(nibble(&hinted), moved.rem_euclid(16), "r = {r}, hinted");
            }
        }
    }
}
