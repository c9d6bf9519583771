//! A public key in the form in which it verifies: FIPS 204's matrix A and t1 in the transform's domain, and tr.

use super::lanes::Lanes;
use super::ntt::{self, Poly, Q};
use super::{COLUMNS, ROWS};
use crate::keccak::{Eight, RATE_128, Shake256};
use crate::verify::PUBLIC_KEY_LEN;

/// Bytes of the seed rho, with which a public key begins.
const RHO: usize = 32;
/// Bits that a public key leaves out of t (FIPS 204's d).
const DROPPED: u32 = 13;
/// Blocks of SHAKE128 that nearly always hold 256 accepted coefficients: 280 candidates, one in a thousand refused.
const BLOCKS: usize = 5;

/// One row of A and, as its last column, -t1 * 2^d: the vectors of all columns at one place stand side by side.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Row(pub(crate) [[[i32; 8]; COLUMNS + 1]; 32]);

/// An expanded public key.
pub(crate) struct ExpandedKey {
    /// The key itself.
    pub(crate) public_key: [u8; PUBLIC_KEY_LEN],
    /// The key's hash, which every message representative begins with.
    tr: [u8; 64],
    pub(crate) rows: Box<[Row]>,
}

impl ExpandedKey {
    /// Bytes that one takes.
    pub(crate) const SIZE: usize = size_of::<Self>() + ROWS * size_of::<Row>();

    /// Algorithms 23 (decoding) and 32 (expanding A), and the transform of t1 (algorithm 8, steps 5 and 9).
    #[inline(always)]
    pub(crate) fn expand<L: Lanes>(public_key: &[u8; PUBLIC_KEY_LEN]) -> Self {
        let mut rows = vec![Row([[[0; 8]; COLUMNS + 1]; 32]); ROWS].into_boxed_slice();
        let mut rho = [0; RHO];
        rho.copy_from_slice(&public_key[..RHO]);
        for first in (0..ROWS * COLUMNS).step_by(8) {
            let mut polys = [Poly::ZERO; 8];
            sample_eight::<L>(&rho, first, &mut polys);
            for (at, poly) in (first..).zip(&mut polys) {
                ntt::reorder::<L>(poly);
                place(&mut rows[at / COLUMNS], at % COLUMNS, poly);
            }
        }
        for (row, packed) in rows.iter_mut().zip(public_key[RHO..].chunks_exact(320)) {
            let mut t1 = unpack_t1(packed);
            ntt::transform::<L>(&mut t1);
            place(row, COLUMNS, &t1);
        }
        Self { public_key: *public_key, tr: Shake256::digest(&[public_key]), rows }
    }

    /// Algorithm 3, step 4 and algorithm 8, step 7: the message representative mu.
    pub(crate) fn representative(&self, context: &[u8], message: &[u8]) -> [u8; 64] {
        Shake256::digest(&[&self.tr, &frame(context), context, message])
    }

    /// What the representative is the hash of.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn frame(&self, context: &[u8], message: &[u8], to: &mut Vec<u8>) {
        for part in [&self.tr[..], &frame(context), context, message] {
            to.extend_from_slice(part);
        }
    }
}

/// Callers have checked that the context is short enough; a longer one would be cut to a wrong length byte.
fn frame(context: &[u8]) -> [u8; 2] {
    [0, u8::try_from(context.len()).unwrap_or(u8::MAX)]
}

#[inline(always)]
fn place(row: &mut Row, column: usize, poly: &Poly) {
    for (to, from) in row.0.iter_mut().zip(&poly.0) {
        to[column] = *from;
    }
}

/// Algorithm 18 for t1's ten bits, times -2^d.
#[inline(always)]
fn unpack_t1(packed: &[u8]) -> Poly {
    let mut poly = Poly::ZERO;
    for (four, bytes) in poly.0.as_flattened_mut().as_chunks_mut::<4>().0.iter_mut().zip(packed.as_chunks::<5>().0) {
        let word = u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], 0, 0, 0]);
        for (at, coefficient) in four.iter_mut().enumerate() {
            *coefficient = -(((word >> (10 * at) & 0x3ff) as i32) << DROPPED);
        }
    }
    poly
}

/// Algorithm 30 for eight polynomials of A: those at `first` and behind, counted row by row.
#[inline(always)]
fn sample_eight<L: Lanes>(rho: &[u8; RHO], first: usize, polys: &mut [Poly; 8]) {
    let mut states = Eight::new();
    for (word, bytes) in states.0.iter_mut().zip(rho.as_chunks().0) {
        *word = [u64::from_le_bytes(*bytes); 8];
    }
    // Column and row, SHAKE's end mark behind them, and the end of the block.
    states.0[4] = std::array::from_fn(|at| {
        let (row, column) = ((first + at) / COLUMNS, (first + at) % COLUMNS);
        (column | row << 8 | 0x1f << 16) as u64
    });
    states.0[RATE_128 / 8 - 1] = [1 << 63; 8];
    let mut bytes = [[0_u8; BLOCKS * RATE_128]; 8];
    for block in 0..BLOCKS {
        L::permute_eight(&mut states);
        let range = block * RATE_128..(block + 1) * RATE_128;
        states.squeeze(bytes.each_mut().map(|bytes| &mut bytes[range.clone()]));
    }
    let mut filled = [0; 8];
    for ((poly, bytes), filled) in polys.iter_mut().zip(&bytes).zip(&mut filled) {
        *filled = accept::<L>(poly, 0, bytes);
    }
    while filled.iter().any(|filled| *filled < 256) {
        L::permute_eight(&mut states);
        let mut more = [[0_u8; RATE_128]; 8];
        states.squeeze(more.each_mut().map(|more| &mut more[..]));
        for ((poly, bytes), filled) in polys.iter_mut().zip(&more).zip(&mut filled) {
            *filled = accept::<L>(poly, *filled, bytes);
        }
    }
}

/// Appends the candidates that are below q (algorithm 14) and returns how many coefficients there are.
#[inline(always)]
fn accept<L: Lanes>(poly: &mut Poly, mut filled: usize, bytes: &[u8]) -> usize {
    let coefficients = poly.0.as_flattened_mut();
    for eight in bytes.as_chunks::<24>().0 {
        let mut candidates = [0; 8];
        L::store(L::unpack_23(eight), &mut candidates);
        // Mostly all eight are good: take them in one go.
        if let Some(room) = coefficients[filled..].first_chunk_mut()
            && candidates.iter().all(|candidate| *candidate < Q)
        {
            *room = candidates;
            filled += 8;
            continue;
        }
        for candidate in candidates {
            if candidate < Q && filled < 256 {
                coefficients[filled] = candidate;
                filled += 1;
            }
        }
    }
    filled
}
