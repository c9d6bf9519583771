//! Signatures that only one rule of the verifier refuses.
//!
//! A public key whose t1 is zero verifies without its secret: w = Az does not depend on the challenge, so the commitment
//! can be hashed after z and the hints are chosen. No key generation gives such a key, but every verifier takes it, and so
//! rules that a changed signature breaks only together with its hash can be seen alone. Written from FIPS 204 as it
//! stands, without a word of the verifiers under test.
#![allow(clippy::unwrap_used)]

mod common;

use aurigraph_gpu::{PUBLIC_KEY_LEN, SIGNATURE_LEN};
use common::{Case, agreed, back_ends};
use sha3::digest::{ExtendableOutput as _, Update as _, XofReader as _};
use sha3::{Shake128, Shake256};

const Q: i64 = 8_380_417;
const GAMMA_1: i64 = 1 << 19;
const GAMMA_2: i64 = (Q - 1) / 32;
const BETA: i64 = 120;
const OMEGA: usize = 75;
const ROWS: usize = 8;
const COLUMNS: usize = 7;

type Poly = [i64; 256];

fn shake256(parts: &[&[u8]]) -> [u8; 64] {
    let mut hash = Shake256::default();
    parts.iter().for_each(|part| hash.update(part));
    let mut out = [0; 64];
    hash.finalize_xof().read(&mut out);
    out
}

/// 1753 to the power of the index with its bits reversed.
fn zeta(index: usize) -> i64 {
    let power = u8::try_from(index).unwrap().reverse_bits();
    (0..power).fold(1, |value, _| value * 1_753 % Q)
}

/// Algorithm 41.
fn ntt(w: &mut Poly) {
    let (mut m, mut len) = (0, 128);
    while len > 0 {
        for start in (0..256).step_by(2 * len) {
            m += 1;
            let z = zeta(m);
            for j in start..start + len {
                let t = z * w[j + len] % Q;
                (w[j], w[j + len]) = ((w[j] + t) % Q, (w[j] - t) % Q);
            }
        }
        len /= 2;
    }
}

/// Algorithm 42, into 0..Q.
fn inverse_ntt(w: &mut Poly) {
    let (mut m, mut len) = (256, 1);
    while len < 256 {
        for start in (0..256).step_by(2 * len) {
            m -= 1;
            let z = -zeta(m);
            for j in start..start + len {
                let t = w[j];
                (w[j], w[j + len]) = ((t + w[j + len]) % Q, z * ((t - w[j + len]) % Q) % Q);
            }
        }
        len *= 2;
    }
    w.iter_mut().for_each(|w| *w = (*w * 8_347_681 % Q).rem_euclid(Q));
}

/// Algorithm 30.
fn element_of_a(rho: &[u8], row: usize, column: usize) -> Poly {
    let mut hash = Shake128::default();
    hash.update(rho);
    hash.update(&[u8::try_from(column).unwrap(), u8::try_from(row).unwrap()]);
    let (mut reader, mut poly, mut at) = (hash.finalize_xof(), [0; 256], 0);
    while at < 256 {
        let mut bytes = [0; 3];
        reader.read(&mut bytes);
        let value = i64::from(bytes[0]) | i64::from(bytes[1]) << 8 | i64::from(bytes[2] & 0x7f) << 16;
        if value < Q {
            poly[at] = value;
            at += 1;
        }
    }
    poly
}

/// Algorithms 36 and 40.
fn high_bits(r: i64, hint: bool) -> u8 {
    let mut r0 = r % (2 * GAMMA_2);
    if r0 > GAMMA_2 {
        r0 -= 2 * GAMMA_2;
    }
    let (r1, r0) = if r - r0 == Q - 1 { (0, r0 - 1) } else { ((r - r0) / (2 * GAMMA_2), r0) };
    let moved = if r0 > 0 { r1 + 1 } else { r1 - 1 };
    u8::try_from(if hint { moved.rem_euclid(16) } else { r1 }).unwrap()
}

/// A signature of these coefficients of z and these hints, under a key whose t1 is zero.
fn forge(z: &[Poly; COLUMNS], hints: &[(usize, u8)]) -> Case {
    let mut public_key = vec![0; PUBLIC_KEY_LEN];
    public_key[..32].copy_from_slice(&[0x5a; 32]);
    let message = b"only one rule refuses this".to_vec();
    let mu = shake256(&[&shake256(&[&public_key]), &[0, 0], &message]);
    let mut transformed = *z;
    transformed.iter_mut().for_each(ntt);
    let mut w1 = Vec::new();
    for row in 0..ROWS {
        let mut w = [0; 256];
        for (column, z) in transformed.iter().enumerate() {
            let a = element_of_a(&public_key[..32], row, column);
            w.iter_mut().zip(a.iter().zip(z)).for_each(|(w, (a, z))| *w = (*w + a * z) % Q);
        }
        inverse_ntt(&mut w);
        let high = |at: usize| high_bits(w[at], hints.contains(&(row, u8::try_from(at).unwrap())));
        w1.extend((0..128).map(|pair| high(2 * pair) | high(2 * pair + 1) << 4));
    }
    let mut signature = shake256(&[&mu, &w1]).to_vec();
    for pair in z.as_flattened().chunks(2) {
        let word = (GAMMA_1 - pair[0]) | (GAMMA_1 - pair[1]) << 20;
        signature.extend_from_slice(&word.to_le_bytes()[..5]);
    }
    signature.resize(SIGNATURE_LEN, 0);
    let encoded = &mut signature[SIGNATURE_LEN - OMEGA - ROWS..];
    for (at, (_, place)) in hints.iter().enumerate() {
        encoded[at] = *place;
    }
    for row in 0..ROWS {
        encoded[OMEGA + row] = u8::try_from(hints.iter().filter(|(of, _)| *of <= row).count()).unwrap();
    }
    Case { public_key, message, context: Vec::new(), signature }
}

fn small() -> [Poly; COLUMNS] {
    let mut z = [[0; 256]; COLUMNS];
    z.as_flattened_mut().iter_mut().enumerate().for_each(|(at, z)| *z = (at as i64 * 7_919) % 200_001 - 100_000);
    z
}

#[test]
fn z_is_refused_from_its_bound_on_in_both_directions() {
    let back_ends = back_ends();
    const BOUND: i64 = GAMMA_1 - BETA;
    for (poly, place) in [(0, 0), (3, 77), (6, 255)] {
        for (value, valid) in [
            (BOUND - 1, true),
            (1 - BOUND, true),
            (BOUND, false),
            (-BOUND, false),
            (GAMMA_1, false),
            (1 - GAMMA_1, false),
        ] {
            let mut z = small();
            z[poly][place] = value;
            assert_eq!(agreed(&back_ends, &forge(&z, &[])), valid, "{value} at {place} of polynomial {poly}");
        }
    }
}

/// Two encodings of one hint would be two signatures of one message by anybody who holds one of them.
#[test]
fn a_hint_has_one_encoding() {
    let back_ends = back_ends();
    let hints = [(0, 5), (0, 9), (2, 250)];
    let good = forge(&small(), &hints);
    assert!(agreed(&back_ends, &good));
    let from = SIGNATURE_LEN - OMEGA - ROWS;
    let refused = |what: &str, change: &dyn Fn(&mut [u8])| {
        let mut other = good.clone();
        change(&mut other.signature[from..]);
        assert_ne!(other.signature, good.signature);
        assert!(!agreed(&back_ends, &other), "{what}");
    };
    refused("places in another order", &|hint| hint.swap(0, 1));
    refused("an empty row that ends before it starts", &|hint| hint[OMEGA + 1] = 1);
    refused("something behind the last place", &|hint| hint[3] = 1);
    refused("something at the end of the places", &|hint| hint[OMEGA - 1] = 1);
    refused("an end beyond the places", &|hint| hint[OMEGA + 7] = 76);
    let mut twice = forge(&small(), &[(0, 5), (0, 5), (2, 250)]);
    assert!(!agreed(&back_ends, &twice), "a place that is named twice");
    twice.signature[from + 1] = 9;
    assert!(!agreed(&back_ends, &twice), "another place than was hashed");
    let all: Vec<(usize, u8)> = (0..75).map(|at| (7, at)).collect();
    assert!(agreed(&back_ends, &forge(&small(), &all)), "as many places as there may be");
}
