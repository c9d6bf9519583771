//! Two thousand seeds.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use aurigraph_testkit::simulator::{Coverage, Violation, run_seed};

/// How many; the example `simulate` runs any number.
const SEEDS: u64 = 2_000;
/// Every so many seeds one is run twice.
const TWICE_EVERY: u64 = 40;
const THREADS: usize = 2;

#[test]
fn two_thousand_seeds_violate_no_property_and_reach_every_mark() {
    let (next, started) = (AtomicU64::new(0), Instant::now());
    let results: Mutex<(Coverage, Vec<Violation>)> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    let result = run_seed(seed, seed.is_multiple_of(TWICE_EVERY));
                    let mut results = results.lock().expect("no panics while it is held");
                    match result {
                        Ok(outcome) => results.0.merge(&outcome.marks),
                        Err(violation) => results.1.push(violation),
                    }
                }
            });
        }
    });
    let (marks, violations) = results.into_inner().expect("no panics while it is held");
    println!("{SEEDS} seeds in {:.0} s\n{marks}", started.elapsed().as_secs_f64());
    let text: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "{} of {SEEDS} seeds:\n{}", violations.len(), text.join("\n"));
    assert!(marks.missing().is_empty(), "never reached: {:?}", marks.missing());
}
