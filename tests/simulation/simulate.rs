//! Runs any number of simulator seeds, resumes where it stopped, replays one.
//!
//! `cargo run --release -p aurigraph-testkit --no-default-features --example simulate -- --seeds 0..100000 --resume F`

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use aurigraph_testkit::simulator::{Coverage, Scenario, Violation, run_aloud, run_seed};

const USAGE: &str = "usage: simulate [--seeds FROM..TO] [--threads N] [--resume FILE] | --replay SEED

  --seeds FROM..TO  seeds to run, TO not included (default 0..1000)
  --threads N       threads (default 1)
  --resume FILE     keeps the next seed in FILE, and starts there if it exists; remove it to start anew
  --replay SEED     runs one seed and prints every event";
/// Seeds between two lines of progress, and between two notes for resuming.
const CHUNK: u64 = 100;
const TWICE_EVERY: u64 = 16;

struct Arguments {
    seeds: Range<u64>,
    threads: u64,
    resume: Option<PathBuf>,
    replay: Option<u64>,
}

fn arguments() -> Result<Arguments, String> {
    let mut parsed = Arguments { seeds: 0..1_000, threads: 1, resume: None, replay: None };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let value = given.next().ok_or_else(|| format!("{name} needs a value\n{USAGE}"))?;
        let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{name} {value}: {error}\n{USAGE}"));
        match name.as_str() {
            "--seeds" => {
                let (from, to) = value.split_once("..").ok_or_else(|| format!("--seeds {value}: not FROM..TO"))?;
                parsed.seeds = number(from)?..number(to)?;
            }
            "--threads" => parsed.threads = number(&value)?.clamp(1, 256),
            "--resume" => parsed.resume = Some(PathBuf::from(value)),
            "--replay" => parsed.replay = Some(number(&value)?),
            _ => return Err(format!("unknown argument {name}\n{USAGE}")),
        }
    }
    Ok(parsed)
}

fn replay(seed: u64) -> Result<(), String> {
    let scenario = Scenario::of_seed(seed);
    println!("{scenario:#?}");
    let outcome = run_aloud(&scenario).map_err(|violation| violation.to_string())?;
    println!("{}", outcome.marks);
    println!("{} events, {} rounds, trace {:016x}", outcome.events, outcome.rounds, outcome.trace);
    Ok(())
}

/// Runs a chunk of seeds, some on each thread.
fn chunk(seeds: Range<u64>, threads: u64) -> (Coverage, Vec<Violation>) {
    let part = |thread: u64| {
        let (mut marks, mut violations) = (Coverage::default(), Vec::new());
        for seed in seeds.clone().filter(|seed| seed % threads == thread) {
            match run_seed(seed, seed.is_multiple_of(TWICE_EVERY)) {
                Ok(outcome) => marks.merge(&outcome.marks),
                Err(violation) => violations.push(violation),
            }
        }
        (marks, violations)
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || part(thread))).collect();
        let (mut marks, mut violations) = (Coverage::default(), Vec::new());
        for handle in running {
            let (more, found) = handle.join().expect("a property is an error, not a panic");
            marks.merge(&more);
            violations.extend(found);
        }
        (marks, violations)
    })
}

fn run_all(arguments: &Arguments) -> Result<u64, String> {
    let noted = arguments.resume.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
    let from = match noted {
        Some(text) => text.trim().parse().map_err(|error| format!("the file to resume from: {error}"))?,
        None => arguments.seeds.start,
    };
    let (mut next, mut marks, mut failed, started) = (from, Coverage::default(), 0, Instant::now());
    while next < arguments.seeds.end {
        let end = (next + CHUNK).min(arguments.seeds.end);
        let (more, violations) = chunk(next..end, arguments.threads);
        marks.merge(&more);
        failed += violations.len() as u64;
        for violation in violations {
            println!("FAILED {violation}");
        }
        next = end;
        if let Some(file) = &arguments.resume {
            std::fs::write(file, next.to_string()).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        println!("{next} of {}, {failed} failed, {:.0} s", arguments.seeds.end, started.elapsed().as_secs_f64());
    }
    println!("{marks}");
    for text in marks.missing() {
        println!("never reached: {text}");
    }
    Ok(failed)
}

fn main() -> ExitCode {
    let result = arguments().and_then(|arguments| match arguments.replay {
        Some(seed) => replay(seed).map(|()| 0),
        None => run_all(&arguments),
    });
    match result {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("{failed} seeds failed");
            ExitCode::FAILURE
        }
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}
