//! Runs any number of simulator seeds, goes on where it stopped, replays one, makes a failing one small.
//!
//! `cargo run --profile simulate -p aurigraph-testkit --no-default-features --example simulate -- --seeds 0..100000 --record F`

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use aurigraph_testkit::simulator::{Outcome, Part, Record, Scenario, Violation, run_aloud, run_seed, shrink};

/// A seed asks for memory some hundred thousand times, in one thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: simulate [--seeds FROM..TO] [--threads N] [--record FILE] [--code NAME] [--minutes M]
                [--traces FILE]
       simulate --replay SEED [--without PARTS]
       simulate --shrink SEED
       simulate --summary FILE

  --seeds FROM..TO  seeds to run, TO not included (default 0..1000)
  --threads N       threads (default 1)
  --record FILE     keeps what the seeds have come to in FILE; if it exists, goes on after its last seed and adds to it
  --code NAME       what the record calls the code that runs (default: what git says of the current directory)
  --minutes M       stops after this time; with --record the next call goes on
  --traces FILE     adds a line for each seed to FILE: the digest of its trace, its events, its rounds. Two states of
                    the code with the same lines have done the same, event by event
  --replay SEED     runs one seed and prints every event
  --without PARTS   leaves parts out, as --shrink names them, separated by commas
  --shrink SEED     leaves out of a failing seed what it does not need to fail
  --summary FILE    prints a record as tables in Markdown";
/// Seeds between two lines of progress, and between two writes of the record.
const CHUNK: u64 = 100;
const TWICE_EVERY: u64 = 16;

struct Arguments {
    seeds: Range<u64>,
    threads: u64,
    record: Option<PathBuf>,
    code: Option<String>,
    minutes: u64,
    traces: Option<PathBuf>,
    replay: Option<u64>,
    without: Vec<Part>,
    shrink: Option<u64>,
    summary: Option<PathBuf>,
}

fn arguments() -> Result<Arguments, String> {
    let mut parsed = Arguments {
        seeds: 0..1_000,
        threads: 1,
        record: None,
        code: None,
        minutes: u64::MAX / 60,
        traces: None,
        replay: None,
        without: Vec::new(),
        shrink: None,
        summary: None,
    };
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
            "--record" => parsed.record = Some(PathBuf::from(value)),
            "--code" => {
                let is_word = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
                parsed.code = Some(value).filter(|value| is_word(value));
            }
            "--minutes" => parsed.minutes = number(&value)?.min(u64::MAX / 60),
            "--traces" => parsed.traces = Some(PathBuf::from(value)),
            "--replay" => parsed.replay = Some(number(&value)?),
            "--without" => {
                parsed.without = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            "--shrink" => parsed.shrink = Some(number(&value)?),
            "--summary" => parsed.summary = Some(PathBuf::from(value)),
            _ => return Err(format!("unknown argument {name}\n{USAGE}")),
        }
    }
    Ok(parsed)
}

fn replay(seed: u64, without: &[Part]) -> Result<(), String> {
    let scenario = Scenario::of_seed(seed).without(without);
    println!("{scenario:#?}");
    let outcome = run_aloud(&scenario).map_err(|violation| violation.to_string())?;
    println!("{}", outcome.marks);
    println!("{} events, {} rounds, trace {:016x}", outcome.events, outcome.rounds, outcome.trace);
    Ok(())
}

/// What a run was, in one line.
fn trace_of(seed: u64, result: &Result<Outcome, Violation>) -> String {
    match result {
        Ok(outcome) => format!("{seed} {:016x} {} {}", outcome.trace, outcome.events, outcome.rounds),
        Err(violation) => format!("{seed} failed {} {:?}", violation.event, violation.property),
    }
}

/// Runs a chunk of seeds on all threads. `traces` gets a line for each.
fn chunk(seeds: &Range<u64>, threads: u64, traces: &Mutex<BTreeMap<u64, String>>) -> Record {
    let next = AtomicU64::new(seeds.start);
    let part = || {
        let mut record = Record::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return record;
            }
            let result = run_seed(seed, seed.is_multiple_of(TWICE_EVERY));
            traces.lock().expect("no panics while it is held").insert(seed, trace_of(seed, &result));
            record.add(&result);
        }
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(part)).collect();
        let mut record = Record::default();
        for handle in running {
            record.merge(handle.join().expect("a run returns what went wrong"));
        }
        record
    })
}

fn add_lines<'a>(file: &Path, lines: impl Iterator<Item = &'a String>) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    file.write_all(text.as_bytes())
}

/// The commit of the code that runs, as far as git knows; marked if something is changed.
fn code() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty=-changed", "--abbrev=12"]).output();
    let text = output.ok().filter(|found| found.status.success()).map(|found| found.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    if text.is_empty() { "unknown".to_owned() } else { text }
}

fn run_all(arguments: &Arguments) -> Result<u64, String> {
    let mut record = arguments.record.as_deref().map_or_else(|| Ok(Record::default()), Record::read)?;
    let (code, started) = (arguments.code.clone().unwrap_or_else(code), Instant::now());
    let mut next = record.next_seed().unwrap_or(arguments.seeds.start).max(arguments.seeds.start);
    while next < arguments.seeds.end && started.elapsed().as_secs() < arguments.minutes * 60 {
        let seeds = next..(next + CHUNK).min(arguments.seeds.end);
        let traces = Mutex::default();
        let more = chunk(&seeds, arguments.threads, &traces);
        if let Some(file) = &arguments.traces {
            let traces = traces.into_inner().map_err(|error| error.to_string())?;
            add_lines(file, traces.values()).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        for failure in &more.failures {
            println!("FAILED {failure}");
        }
        next = seeds.end;
        record.merge(more);
        record.done(&code, seeds);
        if let Some(file) = &arguments.record {
            record.write(file)?;
        }
        let (failed, seconds) = (record.failures.len(), started.elapsed().as_secs_f64());
        println!("{next} of {}, {failed} failed, {seconds:.0} s", arguments.seeds.end);
    }
    println!("{}", record.marks);
    for text in record.marks.missing() {
        println!("never reached: {text}");
    }
    Ok(record.failures.len() as u64)
}

fn act(arguments: &Arguments) -> Result<u64, String> {
    if let Some(file) = &arguments.summary {
        print!("{}", Record::read(file)?.summary());
        return Ok(0);
    }
    if let Some(seed) = arguments.shrink {
        let shrunk = shrink(&Scenario::of_seed(seed)).ok_or_else(|| format!("seed {seed} does not fail"))?;
        println!("{shrunk}");
        return Ok(1);
    }
    match arguments.replay {
        Some(seed) => replay(seed, &arguments.without).map(|()| 0),
        None => run_all(arguments),
    }
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| act(&arguments)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("{failed} failed");
            ExitCode::FAILURE
        }
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}
