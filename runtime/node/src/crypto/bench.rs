//! `aurigraph crypto bench`: raw rates, nothing around them.
//!
//! Rounds alternate between the works, so that what else runs on the machine meets all of them alike; the best round of
//! each counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aurigraph_gpu::{
    AwsLc, BatchVerifier, CpuHasher, Fips203, Fips204, Kem, Native, Seed, SignError, Signer, VerifyItem,
};
use aurigraph_ledger::{Hash, PlainHasher, TreeHasher};
use serde::Serialize;
use serde_json::json;

use super::args::Bench;
use super::refused;
use crate::error::CliResult;
use crate::output::{Output, table};

const ROUNDS: usize = 3;
/// Room for the few keys that are measured.
const CACHE_BYTES: usize = 4 << 20;
const MESSAGE: [u8; 200] = [7; 200];
/// Tree nodes hashed in one call.
const NODES: usize = 256;

/// Something to be timed; a call does so many operations.
struct Work {
    what: &'static str,
    back_end: &'static str,
    operations: u64,
    call: Box<dyn Fn() + Send + Sync>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rate {
    work: &'static str,
    back_end: &'static str,
    per_core: u64,
    all_cores: u64,
    microseconds: f64,
}

/// Runs it.
///
/// # Errors
/// A library that cannot make keys.
pub fn run(args: &Bench, output: Output) -> CliResult {
    let (round, cores) =
        (Duration::from_millis(args.round_ms), std::thread::available_parallelism().map_or(1, usize::from));
    let works: Vec<Work> =
        [verifications().map_err(refused)?, signing().map_err(refused)?, encapsulation()?, hashing()]
            .into_iter()
            .flatten()
            .collect();
    let mut best = vec![(0_f64, 0_f64); works.len()];
    for _ in 0..ROUNDS {
        for (work, best) in works.iter().zip(&mut best) {
            *best = (best.0.max(rate(work, 1, round)), best.1.max(rate(work, cores, round)));
        }
    }
    let rates: Vec<Rate> = works
        .iter()
        .zip(best)
        .map(|(work, (one, all))| Rate {
            work: work.what,
            back_end: work.back_end,
            per_core: one as u64,
            all_cores: all as u64,
            microseconds: (1e8 / one).round() / 100.0,
        })
        .collect();
    output.print(&json!({ "cores": cores, "roundMs": args.round_ms, "rounds": ROUNDS, "rates": rates }), |_| {
        let rows: Vec<_> = rates
            .iter()
            .map(|rate| {
                let numbers = [rate.per_core.to_string(), rate.all_cores.to_string(), rate.microseconds.to_string()];
                [vec![rate.work.to_owned(), rate.back_end.to_owned()], numbers.to_vec()].concat()
            })
            .collect();
        table(&["work", "back-end", "per second, one core", &format!("{cores} cores"), "µs on one core"], &rows)
    });
    Ok(())
}

/// Operations a second by so many threads.
fn rate(work: &Work, threads: usize, round: Duration) -> f64 {
    let (calls, start) = (AtomicU64::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut mine = 0;
                while start.elapsed() < round {
                    (work.call)();
                    mine += 1;
                }
                calls.fetch_add(mine, Ordering::Relaxed);
            });
        }
    });
    (calls.into_inner() * work.operations) as f64 / start.elapsed().as_secs_f64()
}

fn verifications() -> Result<Vec<Work>, SignError> {
    let signer = Signer::from_seed(&Seed::new([1; 32]))?;
    let signature = signer.sign(&MESSAGE)?;
    let mut back_ends: Vec<(&'static str, Arc<dyn BatchVerifier>)> = vec![
        ("verify ML-DSA-87", Arc::new(Fips204)),
        ("verify ML-DSA-87", Arc::new(AwsLc)),
        ("verify ML-DSA-87", Arc::new(Native::portable(0))),
        ("verify ML-DSA-87, known key", Arc::new(Native::portable(CACHE_BYTES))),
    ];
    for (what, cache_bytes) in [("verify ML-DSA-87", 0), ("verify ML-DSA-87, known key", CACHE_BYTES)] {
        let wide = [Native::avx2(cache_bytes), Native::avx512(cache_bytes), Native::mixed(cache_bytes)];
        back_ends.extend(wide.into_iter().flatten().map(|native| (what, Arc::new(native) as _)));
    }
    let works = back_ends.into_iter().map(|(what, verifier)| {
        let (public_key, signature) = (signer.public_key().to_vec(), signature.clone());
        let back_end = verifier.name();
        let call = Box::new(move || {
            // A wrong verdict would be a wrong figure: it ends the program.
            assert!(verifier.verify(&VerifyItem::new(&public_key, &MESSAGE, &signature)), "{back_end} refuses");
        });
        Work { what, back_end, operations: 1, call }
    });
    let mut works: Vec<Work> = works.collect();
    for native in
        [Native::avx2(CACHE_BYTES), Native::avx512(CACHE_BYTES), Native::mixed(CACHE_BYTES)].into_iter().flatten()
    {
        let (public_key, signature) = (signer.public_key().to_vec(), signature.clone());
        let back_end = native.name();
        let call = Box::new(move || {
            let mut verdicts = [false; 8];
            native.verify_batch(&[VerifyItem::new(&public_key, &MESSAGE, &signature); 8], &mut verdicts);
            assert!(verdicts == [true; 8], "{back_end} refuses");
        });
        works.push(Work { what: "verify ML-DSA-87, known key, eights", back_end, operations: 8, call });
    }
    Ok(works)
}

fn signing() -> Result<Vec<Work>, SignError> {
    let signer = Signer::from_seed(&Seed::new([2; 32]))?;
    let work = |what, call| Work { what, back_end: "aws-lc", operations: 1, call };
    Ok(vec![
        work("key pair ML-DSA-87", Box::new(|| drop(std::hint::black_box(Signer::from_seed(&Seed::new([3; 32])))))),
        work("sign ML-DSA-87", Box::new(move || drop(std::hint::black_box(signer.sign(&MESSAGE))))),
    ])
}

fn encapsulation() -> CliResult<Vec<Work>> {
    let keys = Arc::new(AwsLc.key_pair(&[4; 32], &[5; 32]).map_err(refused)?);
    let (ciphertext, _) = AwsLc.encapsulate(&keys.encapsulation, &[6; 32]).map_err(refused)?;
    let all: [Arc<dyn Kem>; 2] = [Arc::new(Fips203), Arc::new(AwsLc)];
    let mut works = Vec::new();
    for kem in all {
        let work = |what, call| Work { what, back_end: kem.name(), operations: 1, call };
        let (a, b, c) = (Arc::clone(&kem), Arc::clone(&kem), Arc::clone(&kem));
        let (public, secret, ciphertext) = (Arc::clone(&keys), Arc::clone(&keys), ciphertext.clone());
        works.push(work("key pair ML-KEM-1024", Box::new(move || drop(a.key_pair(&[4; 32], &[5; 32])))));
        works.push(work(
            "encapsulate ML-KEM-1024",
            Box::new(move || drop(b.encapsulate(&public.encapsulation, &[6; 32]))),
        ));
        works.push(work(
            "decapsulate ML-KEM-1024",
            Box::new(move || drop(c.decapsulate(&secret.decapsulation, &ciphertext))),
        ));
    }
    Ok(works)
}

fn hashing() -> Vec<Work> {
    let all: [(&'static str, Arc<dyn TreeHasher>); 2] = [("sha3", Arc::new(PlainHasher)), ("cpu", Arc::new(CpuHasher))];
    let works = all.into_iter().map(|(back_end, hasher)| {
        let nodes: Vec<u8> = (0..64 * NODES).map(|at| (at % 251) as u8).collect();
        let call = Box::new(move || {
            let mut hashes = [Hash::ZERO; NODES];
            hasher.hash_level("node", &nodes, 64, &mut hashes);
            std::hint::black_box(hashes);
        });
        Work { what: "tree node SHA3-256", back_end, operations: NODES as u64, call }
    });
    works.collect()
}
