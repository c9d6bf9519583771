//! Eight coefficients at once: what the arithmetic needs of a machine, and the form that every machine has.

use crate::keccak::{Eight, permute_eight};

use super::ntt::{Q, Q_INVERSE};

/// A machine's vectors of eight 32-bit numbers.
pub(crate) trait Lanes: Copy {
    /// Name of the back-end over it.
    const NAME: &'static str;
    /// A vector.
    type V: Copy;
    /// A vector of eight sums of products, 64 bits each.
    type Sum: Copy;

    fn load(from: &[i32; 8]) -> Self::V;
    fn store(vector: Self::V, to: &mut [i32; 8]);
    fn splat(number: i32) -> Self::V;
    fn add(a: Self::V, b: Self::V) -> Self::V;
    fn sub(a: Self::V, b: Self::V) -> Self::V;
    fn min(a: Self::V, b: Self::V) -> Self::V;
    fn max(a: Self::V, b: Self::V) -> Self::V;
    /// a * b / R modulo q, below q in size; `b_over_q` is b / q mod R. Needs |a * b| < 2^31 q.
    fn multiply(a: Self::V, b: Self::V, b_over_q: Self::V) -> Self::V;
    fn no_sum() -> Self::Sum;
    /// `sum + a * b`, in full.
    fn accumulate(sum: Self::Sum, a: Self::V, b: Self::V) -> Self::Sum;
    /// sum / R modulo q, below q in size. Needs |sum| < 2^31 q.
    fn reduce(sum: Self::Sum) -> Self::V;
    /// The vectors as rows of a matrix, transposed.
    fn transpose(rows: [Self::V; 8]) -> [Self::V; 8];
    /// Eight numbers of 20 bits.
    fn unpack_20(bytes: &[u8; 20]) -> Self::V;
    /// Eight numbers of 23 bits, each in three bytes whose highest bit is ignored.
    fn unpack_23(bytes: &[u8; 24]) -> Self::V;
    /// Keccak-f[1600] of eight states.
    fn permute_eight(states: &mut Eight);
}

/// Plain Rust.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn each(f: impl Fn(usize) -> i32) -> [i32; 8] {
    std::array::from_fn(f)
}

/// Montgomery's reduction: `product` / R modulo q. The low halves of the two terms are equal and cancel.
#[inline(always)]
const fn montgomery(product: i64, quotient: i32) -> i32 {
    ((product - quotient as i64 * Q as i64) >> 32) as i32
}

impl Lanes for Portable {
    const NAME: &'static str = "native-portable";
    type V = [i32; 8];
    type Sum = [i64; 8];

    #[inline(always)]
    fn load(from: &[i32; 8]) -> [i32; 8] {
        *from
    }

    #[inline(always)]
    fn store(vector: [i32; 8], to: &mut [i32; 8]) {
        *to = vector;
    }

    #[inline(always)]
    fn splat(number: i32) -> [i32; 8] {
        [number; 8]
    }

    #[inline(always)]
    fn add(a: [i32; 8], b: [i32; 8]) -> [i32; 8] {
        each(|at| a[at] + b[at])
    }

    #[inline(always)]
    fn sub(a: [i32; 8], b: [i32; 8]) -> [i32; 8] {
        each(|at| a[at] - b[at])
    }

    #[inline(always)]
    fn min(a: [i32; 8], b: [i32; 8]) -> [i32; 8] {
        each(|at| a[at].min(b[at]))
    }

    #[inline(always)]
    fn max(a: [i32; 8], b: [i32; 8]) -> [i32; 8] {
        each(|at| a[at].max(b[at]))
    }

    #[inline(always)]
    fn multiply(a: [i32; 8], b: [i32; 8], b_over_q: [i32; 8]) -> [i32; 8] {
        each(|at| montgomery(i64::from(a[at]) * i64::from(b[at]), a[at].wrapping_mul(b_over_q[at])))
    }

    #[inline(always)]
    fn no_sum() -> [i64; 8] {
        [0; 8]
    }

    #[inline(always)]
    fn accumulate(sum: [i64; 8], a: [i32; 8], b: [i32; 8]) -> [i64; 8] {
        std::array::from_fn(|at| sum[at] + i64::from(a[at]) * i64::from(b[at]))
    }

    #[inline(always)]
    fn reduce(sum: [i64; 8]) -> [i32; 8] {
        each(|at| montgomery(sum[at], (sum[at] as i32).wrapping_mul(Q_INVERSE)))
    }

    #[inline(always)]
    fn transpose(rows: [[i32; 8]; 8]) -> [[i32; 8]; 8] {
        std::array::from_fn(|row| each(|column| rows[column][row]))
    }

    #[inline(always)]
    fn unpack_20(bytes: &[u8; 20]) -> [i32; 8] {
        each(|at| {
            let first = at / 2 * 5 + at % 2 * 2;
            let word = i32::from_le_bytes([bytes[first], bytes[first + 1], bytes[first + 2], 0]);
            word >> (at % 2 * 4) & 0xf_ffff
        })
    }

    #[inline(always)]
    fn unpack_23(bytes: &[u8; 24]) -> [i32; 8] {
        each(|at| i32::from_le_bytes([bytes[3 * at], bytes[3 * at + 1], bytes[3 * at + 2] & 0x7f, 0]))
    }

    #[inline(always)]
    fn permute_eight(states: &mut Eight) {
        permute_eight(states);
    }
}
