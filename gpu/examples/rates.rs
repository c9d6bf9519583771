//! What every back-end does on one core, side by side: `cargo run --release -p aurigraph-gpu --example rates`.
//!
//! Rounds alternate between the back-ends, so that what else runs on the machine meets all of them; the best round of
//! each counts.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use aurigraph_gpu::{AwsLc, BatchVerifier, CpuHasher, Native, Seed, Signer, VerifyItem};
use aurigraph_ledger::{Hash, PlainHasher, TreeHasher};

const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(100);
const CACHE: usize = 64 << 20;

/// Microseconds a call.
fn time(mut work: impl FnMut()) -> f64 {
    let (start, mut calls) = (Instant::now(), 0);
    while start.elapsed() < ROUND {
        work();
        calls += 1;
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
}

fn main() {
    let signer = Signer::from_seed(&Seed::new([1; 32])).unwrap();
    let message = [7; 200];
    let signatures: Vec<_> = (0..64).map(|_| signer.sign(&message).unwrap()).collect();
    let nodes: Vec<u8> = (0..64_u32 * 1_024).map(|at| (at % 251) as u8).collect();
    let mut hashes = vec![Hash::ZERO; 1_024];
    let mut back_ends: Vec<(&str, Box<dyn BatchVerifier>)> = vec![
        ("", Box::new(AwsLc)),
        ("uncached", Box::new(Native::portable(0))),
        ("cached", Box::new(Native::portable(CACHE))),
    ];
    for (what, cache_bytes) in [("uncached", 0), ("cached", CACHE)] {
        let wide = [Native::avx2(cache_bytes), Native::avx512(cache_bytes), Native::mixed(cache_bytes)];
        back_ends.extend(wide.into_iter().flatten().map(|native| (what, Box::new(native) as _)));
    }
    let mut best = vec![f64::MAX; back_ends.len() + 2];
    for _ in 0..ROUNDS {
        for ((_, back_end), best) in back_ends.iter().zip(&mut best) {
            let mut at = signatures.iter().cycle();
            *best = best.min(time(|| {
                let item = VerifyItem::new(signer.public_key(), &message, at.next().unwrap());
                assert!(back_end.verify(&item));
            }));
        }
        for (hasher, best) in
            [&PlainHasher as &dyn TreeHasher, &CpuHasher].into_iter().zip(&mut best[back_ends.len()..])
        {
            *best = best.min(time(|| hasher.hash_level("node", &nodes, 64, &mut hashes)) / hashes.len() as f64);
        }
    }
    for ((what, back_end), best) in back_ends.iter().zip(&best) {
        println!("ML-DSA-87 verify, {} {what}: {best:.1} us", back_end.name());
    }
    for (name, best) in ["one after the other (sha3 crate)", "eight at once"].iter().zip(&best[back_ends.len()..]) {
        println!("SHA3-256 tree node of 64 bytes, {name}: {:.0} ns", best * 1e3);
    }
}
