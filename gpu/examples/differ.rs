//! Differential fuzzing of all verification back-ends, one verdict for every input:
//! `cargo run --release -p aurigraph-gpu --example differ -- [COUNT [FIRST [SEED [BACK-ENDS]]]]`.
//!
//! BACK-ENDS are names with commas between, the first being the reference; all without them. Those in vectors are asked
//! for single signatures and for batches.
//! Case N depends on SEED and N alone, so a run goes on where another ended and can be split over machines. Every
//! 1,000th case is a new key and signature; the others are mutations of one. Ends with an error at the first
//! disagreement, which it prints.
#![allow(clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use aurigraph_gpu::BatchVerifier;
use common::{Case, Random, agreed, mutate, signed};

/// Cases over one signature.
const GROUP: u64 = 1_000;

fn argument(at: usize, default: u64) -> u64 {
    std::env::args().nth(at).map_or(default, |text| text.parse().unwrap())
}

/// The chosen back-ends, in the order of their names on the command line.
fn back_ends() -> Vec<Box<dyn BatchVerifier>> {
    let all = common::back_ends();
    let Some(chosen) = std::env::args().nth(4) else { return all };
    let place = |name: &str| chosen.split(',').position(|wanted| wanted == name);
    for wanted in chosen.split(',') {
        assert!(all.iter().any(|back_end| back_end.name() == wanted), "there is no back-end {wanted} here");
    }
    let mut chosen: Vec<_> = all.into_iter().filter(|back_end| place(back_end.name()).is_some()).collect();
    chosen.sort_by_key(|back_end| place(back_end.name()));
    chosen
}

fn main() {
    let (count, first, seed) = (argument(1, 100_000), argument(2, 0), argument(3, 1));
    let end = (first + count).next_multiple_of(GROUP);
    let next = AtomicU64::new(first / GROUP);
    let (valid, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let back_ends = back_ends();
                while let group = next.fetch_add(1, Ordering::Relaxed)
                    && group * GROUP < end
                {
                    valid.fetch_add(check_group(&back_ends, seed, group), Ordering::Relaxed);
                    let done = done.fetch_add(GROUP, Ordering::Relaxed) + GROUP;
                    if done.is_multiple_of(100 * GROUP) {
                        println!("{done} cases, none in dispute, {:.0} s", start.elapsed().as_secs_f64());
                    }
                }
            });
        }
    });
    println!(
        "seed {seed}, cases {} to {end}: {} valid, {} invalid, none in dispute between {} back-ends, {:.0} s",
        first / GROUP * GROUP,
        valid.load(Ordering::Relaxed),
        done.load(Ordering::Relaxed) - valid.load(Ordering::Relaxed),
        back_ends().iter().map(|back_end| back_end.name()).collect::<std::collections::BTreeSet<_>>().len(),
        start.elapsed().as_secs_f64()
    );
}

/// How many of the group's cases are valid.
fn check_group(back_ends: &[Box<dyn BatchVerifier>], seed: u64, group: u64) -> u64 {
    let mut random = Random(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ group << 20);
    let case = signed(&mut random);
    assert!(agreed(back_ends, &case));
    let mut valid = 1;
    let mut left = GROUP - 1;
    while left > 0 {
        // Of every length modulo eight, so that short batches come up.
        let cases: Vec<Case> = (0..left.min(1 + random.below(40) as u64))
            .map(|_| {
                let mut mutated = case.clone();
                for _ in 0..=random.below(2) {
                    mutate(&mut random, &mut mutated);
                }
                mutated
            })
            .collect();
        left -= cases.len() as u64;
        let verdicts: Vec<bool> = cases.iter().map(|case| agreed(back_ends, case)).collect();
        let items: Vec<_> = cases.iter().map(Case::item).collect();
        for back_end in back_ends.iter().filter(|back_end| back_end.name().starts_with("native-avx")) {
            let mut batch = vec![false; items.len()];
            back_end.verify_batch(&items, &mut batch);
            if let Some(at) = verdicts.iter().zip(&batch).position(|(one, other)| one != other) {
                panic!("{} disagrees in a batch about {:02x?}", back_end.name(), cases[at]);
            }
        }
        valid += verdicts.iter().filter(|valid| **valid).count() as u64;
    }
    valid
}
