//! Polynomials modulo q and X^256 + 1: the number-theoretic transform and its inverse (FIPS 204, algorithms 41 and 42),
//! over eight coefficients at once.
//!
//! Coefficients in the transform's domain stand in an order of our own (each block of 64 is transposed as an 8 by 8
//! matrix), which saves a transposition each way; products are taken place by place and do not care. Montgomery
//! arithmetic with R = 2^32.

use super::lanes::Lanes;

/// FIPS 204's q.
pub(crate) const Q: i32 = 8_380_417;
/// 1 / q mod 2^32, as a signed number.
pub(crate) const Q_INVERSE: i32 = 58_728_449;
/// FIPS 204's zeta, a 512th root of unity modulo q.
const ZETA: i64 = 1_753;
/// R^2 / 256 modulo q: takes back the factor 256 of the inverse transform and the 1 / R of products.
const SCALE: i32 = 41_978;

/// 256 coefficients, in vectors of eight.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Poly(pub(crate) [[i32; 8]; 32]);

impl Poly {
    pub(crate) const ZERO: Self = Self([[0; 8]; 32]);
}

/// What to multiply with: a number times R, and that times 1 / q mod 2^32, each centred.
#[derive(Clone, Copy)]
struct Factor<T> {
    value: T,
    over_q: T,
}

/// One vector level after the transposition has up to four factors; three levels have seven, for each block of 64.
struct Table {
    /// By FIPS 204's index m, for the levels on whole vectors.
    whole: [Factor<i32>; 32],
    inside: [[Factor<[i32; 8]>; 7]; 4],
}

const fn factor(number: i64) -> Factor<i32> {
    let q = Q as i64;
    let mut value = (number.rem_euclid(q) << 32) % q;
    if value > q / 2 {
        value -= q;
    }
    Factor { value: value as i32, over_q: (value as i32).wrapping_mul(Q_INVERSE) }
}

/// FIPS 204, appendix B: zeta to the power of m with its eight bits reversed.
const fn zeta(m: usize) -> i64 {
    let mut power = (m as u8).reverse_bits();
    let (mut result, mut square) = (1, ZETA);
    while power > 0 {
        if power & 1 == 1 {
            result = result * square % Q as i64;
        }
        square = square * square % Q as i64;
        power >>= 1;
    }
    result
}

/// The factor at index m, forwards or (its inverse) backwards: `-zeta[3 * 2^level - 1 - m]`, which is what algorithm 42
/// reaches by counting down.
const fn at(m: usize, inverse: bool) -> Factor<i32> {
    if !inverse {
        return factor(zeta(m));
    }
    let level = 1 << m.ilog2();
    factor(-zeta(3 * level - 1 - m))
}

const fn table(inverse: bool) -> Table {
    const NONE: Factor<i32> = Factor { value: 0, over_q: 0 };
    let mut table = Table { whole: [NONE; 32], inside: [[Factor { value: [0; 8], over_q: [0; 8] }; 7]; 4] };
    let mut m = 1;
    while m < 32 {
        table.whole[m] = at(m, inverse);
        m += 1;
    }
    let mut block = 0;
    while block < 4 {
        let mut slot = 0_usize;
        while slot < 7 {
            // Slot 0 is the level of distance 4, slots 1 and 2 that of distance 2, slots 3 to 6 that of distance 1.
            let groups = (slot + 1).ilog2();
            let group = slot + 1 - (1 << groups);
            let mut lane = 0;
            while lane < 8 {
                let one = at((32 << groups) + ((8 * block + lane) << groups) + group, inverse);
                table.inside[block][slot].value[lane] = one.value;
                table.inside[block][slot].over_q[lane] = one.over_q;
                lane += 1;
            }
            slot += 1;
        }
        block += 1;
    }
    table
}

static FORWARD: Table = table(false);
static INVERSE: Table = table(true);

#[inline(always)]
fn whole<L: Lanes>(table: &Table, m: usize) -> Factor<L::V> {
    let factor = table.whole[m];
    Factor { value: L::splat(factor.value), over_q: L::splat(factor.over_q) }
}

#[inline(always)]
fn inside<L: Lanes>(table: &Table, block: usize, slot: usize) -> Factor<L::V> {
    let factor = &table.inside[block][slot];
    Factor { value: L::load(&factor.value), over_q: L::load(&factor.over_q) }
}

/// (a, b) becomes (a + zb, a - zb). Grows a coefficient by less than q.
#[inline(always)]
fn cooley_tukey<L: Lanes>(v: &mut [L::V; 8], a: usize, b: usize, z: Factor<L::V>) {
    let product = L::multiply(v[b], z.value, z.over_q);
    v[b] = L::sub(v[a], product);
    v[a] = L::add(v[a], product);
}

/// (a, b) becomes (a + b, z(a - b)). Doubles a coefficient at most.
#[inline(always)]
fn gentleman_sande<L: Lanes>(v: &mut [L::V; 8], a: usize, b: usize, z: Factor<L::V>) {
    let difference = L::sub(v[a], v[b]);
    v[a] = L::add(v[a], v[b]);
    v[b] = L::multiply(difference, z.value, z.over_q);
}

macro_rules! over_pairs {
    ($v:ident, $butterfly:ident, $(($a:literal, $b:literal, $z:expr)),*) => {
        $($butterfly::<L>($v, $a, $b, $z);)*
    };
}

/// The level whose partners stand four vectors apart: one factor.
macro_rules! apart_4 {
    ($v:ident, $butterfly:ident, $z:expr) => {
        over_pairs!($v, $butterfly, (0, 4, $z), (1, 5, $z), (2, 6, $z), (3, 7, $z))
    };
}

/// Two vectors apart: two factors.
macro_rules! apart_2 {
    ($v:ident, $butterfly:ident, $z0:expr, $z1:expr) => {
        over_pairs!($v, $butterfly, (0, 2, $z0), (1, 3, $z0), (4, 6, $z1), (5, 7, $z1))
    };
}

/// Neighbours: four factors.
macro_rules! apart_1 {
    ($v:ident, $butterfly:ident, $z0:expr, $z1:expr, $z2:expr, $z3:expr) => {
        over_pairs!($v, $butterfly, (0, 1, $z0), (2, 3, $z1), (4, 5, $z2), (6, 7, $z3))
    };
}

#[inline(always)]
fn gather<L: Lanes>(poly: &Poly, first: usize, step: usize) -> [L::V; 8] {
    let mut v = [L::splat(0); 8];
    for (at, vector) in v.iter_mut().enumerate() {
        *vector = L::load(&poly.0[first + at * step]);
    }
    v
}

#[inline(always)]
fn scatter<L: Lanes>(poly: &mut Poly, first: usize, step: usize, v: [L::V; 8]) {
    for (at, vector) in v.into_iter().enumerate() {
        L::store(vector, &mut poly.0[first + at * step]);
    }
}

/// Algorithm 41. Of coefficients below q in size it makes some below 9q.
#[inline(always)]
pub(crate) fn transform<L: Lanes>(poly: &mut Poly) {
    let t = &FORWARD;
    for first in 0..4 {
        let v = &mut gather::<L>(poly, first, 4);
        apart_4!(v, cooley_tukey, whole::<L>(t, 1));
        apart_2!(v, cooley_tukey, whole::<L>(t, 2), whole::<L>(t, 3));
        apart_1!(v, cooley_tukey, whole::<L>(t, 4), whole::<L>(t, 5), whole::<L>(t, 6), whole::<L>(t, 7));
        scatter::<L>(poly, first, 4, *v);
    }
    for block in 0..4 {
        let v = &mut gather::<L>(poly, 8 * block, 1);
        apart_2!(v, cooley_tukey, whole::<L>(t, 8 + 2 * block), whole::<L>(t, 9 + 2 * block));
        let m = 16 + 4 * block;
        apart_1!(v, cooley_tukey, whole::<L>(t, m), whole::<L>(t, m + 1), whole::<L>(t, m + 2), whole::<L>(t, m + 3));
        let v = &mut L::transpose(*v);
        apart_4!(v, cooley_tukey, inside::<L>(t, block, 0));
        apart_2!(v, cooley_tukey, inside::<L>(t, block, 1), inside::<L>(t, block, 2));
        apart_1!(
            v,
            cooley_tukey,
            inside::<L>(t, block, 3),
            inside::<L>(t, block, 4),
            inside::<L>(t, block, 5),
            inside::<L>(t, block, 6)
        );
        scatter::<L>(poly, 8 * block, 1, *v);
    }
}

/// Algorithm 42, times R. Takes coefficients below q in size and returns such: 2^8 q is still below 2^31.
#[inline(always)]
pub(crate) fn inverse<L: Lanes>(poly: &mut Poly) {
    let t = &INVERSE;
    for block in 0..4 {
        let v = &mut gather::<L>(poly, 8 * block, 1);
        apart_1!(
            v,
            gentleman_sande,
            inside::<L>(t, block, 3),
            inside::<L>(t, block, 4),
            inside::<L>(t, block, 5),
            inside::<L>(t, block, 6)
        );
        apart_2!(v, gentleman_sande, inside::<L>(t, block, 1), inside::<L>(t, block, 2));
        apart_4!(v, gentleman_sande, inside::<L>(t, block, 0));
        let v = &mut L::transpose(*v);
        let m = 16 + 4 * block;
        apart_1!(
            v,
            gentleman_sande,
            whole::<L>(t, m),
            whole::<L>(t, m + 1),
            whole::<L>(t, m + 2),
            whole::<L>(t, m + 3)
        );
        apart_2!(v, gentleman_sande, whole::<L>(t, 8 + 2 * block), whole::<L>(t, 9 + 2 * block));
        scatter::<L>(poly, 8 * block, 1, *v);
    }
    let scale = (L::splat(SCALE), L::splat(SCALE.wrapping_mul(Q_INVERSE)));
    for first in 0..4 {
        let v = &mut gather::<L>(poly, first, 4);
        apart_1!(v, gentleman_sande, whole::<L>(t, 4), whole::<L>(t, 5), whole::<L>(t, 6), whole::<L>(t, 7));
        apart_2!(v, gentleman_sande, whole::<L>(t, 2), whole::<L>(t, 3));
        apart_4!(v, gentleman_sande, whole::<L>(t, 1));
        for vector in v.iter_mut() {
            *vector = L::multiply(*vector, scale.0, scale.1);
        }
        scatter::<L>(poly, first, 4, *v);
    }
}

/// Brings coefficients that were sampled in the standard's order of the transform's domain into ours.
#[inline(always)]
pub(crate) fn reorder<L: Lanes>(poly: &mut Poly) {
    for block in 0..4 {
        let v = L::transpose(gather::<L>(poly, 8 * block, 1));
        scatter::<L>(poly, 8 * block, 1, v);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mldsa::lanes::Portable;

    /// Algorithm 41 as it is written.
    fn plain_transform(w: &mut [i64; 256]) {
        let (mut m, mut len) = (0, 128);
        while len >= 1 {
            for start in (0..256).step_by(2 * len) {
                m += 1;
                for j in start..start + len {
                    let product = zeta(m) * w[j + len] % i64::from(Q);
                    w[j + len] = (w[j] - product) % i64::from(Q);
                    w[j] = (w[j] + product) % i64::from(Q);
                }
            }
            len /= 2;
        }
    }

    fn some(multiplier: i32) -> Poly {
        let mut poly = Poly::ZERO;
        for (at, c) in poly.0.as_flattened_mut().iter_mut().enumerate() {
            *c = (at as i32 + 3).wrapping_mul(multiplier) % Q;
        }
        poly
    }

    #[test]
    fn the_transform_is_that_of_the_standard_in_our_order() {
        let mut ours = some(7_654_321);
        let mut plain = [0; 256];
        plain.iter_mut().zip(ours.0.as_flattened()).for_each(|(to, from)| *to = i64::from(*from));
        transform::<Portable>(&mut ours);
        plain_transform(&mut plain);
        let mut expected = Poly::ZERO;
        expected.0.as_flattened_mut().iter_mut().zip(plain).for_each(|(to, from)| *to = from as i32);
        reorder::<Portable>(&mut expected);
        for (ours, expected) in ours.0.as_flattened().iter().zip(expected.0.as_flattened()) {
            assert!(ours.abs() < 9 * Q);
            assert_eq!(ours.rem_euclid(Q), expected.rem_euclid(Q));
        }
    }

    #[test]
    fn the_inverse_undoes_the_transform_and_multiplies_by_r() {
        let start = some(123_457);
        let mut poly = start;
        transform::<Portable>(&mut poly);
        poly.0.as_flattened_mut().iter_mut().for_each(|c| *c %= Q);
        inverse::<Portable>(&mut poly);
        for (before, after) in start.0.as_flattened().iter().zip(poly.0.as_flattened()) {
            assert!(after.abs() < Q);
            let expected = (i64::from(*before) << 32).rem_euclid(i64::from(Q));
            assert_eq!(i64::from(*after).rem_euclid(i64::from(Q)), expected);
        }
    }
}
