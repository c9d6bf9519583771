//! The long form of `tests/power.rs`, with the release binary: many cuts of power over one validator or four, many
//! damages to one.
//!
//! ```sh
//! cargo build --release && cargo run --release -p aurigraph-testkit --example power -- cuts --rounds 200
//! ```

use std::time::{Duration, Instant};

use aurigraph_testkit::power::Plan;

const USAGE: &str =
    "power cuts|damages [--binary target/release/aurigraph] [--four true] [--rounds 200] [--recordings 8]
     [--seconds 5] [--operations 10] [--seed 1] [--accounts 1000] [--rewriting true]

  cuts      records nodes under load and cuts their power at --rounds random places of the recordings; see docs/adr/0037
  damages   puts one node under load, stops it, and damages a file of its store, snapshots or indices, --rounds times
  --four         four validators, all cut at once, instead of one
  --seconds      the load of each recording
  --operations   transfers in each transaction
  --accounts     1000 or 1000000: those of the genesis
  --rewriting    stores that are rewritten all the time

Ends with the first acknowledged transaction that is lost, or with the times from start to ready.";

struct Task {
    damages: bool,
    binary: String,
    plan: Plan,
}

fn read(mut words: impl Iterator<Item = String>) -> Option<Task> {
    let damages = match words.next()?.as_str() {
        "cuts" => false,
        "damages" => true,
        _ => return None,
    };
    let mut plan = Plan { recordings: 8, cuts: 200, operations: 10, ..Plan::short("single-validator.toml", 1) };
    plan.load = Duration::from_secs(5);
    let mut binary = "target/release/aurigraph".to_owned();
    while let Some(flag) = words.next() {
        let value = words.next()?;
        match (flag.as_str(), value.as_str()) {
            ("--binary", _) => binary = value,
            ("--four", "true") => plan.config = "four-validators.toml",
            ("--rewriting", "true") => plan = plan.rewriting(),
            ("--accounts", "1000") => {}
            ("--accounts", "1000000") => plan.replace[0].1 = "accounts = 1000000",
            ("--rounds", _) => plan.cuts = value.parse().ok()?,
            ("--recordings", _) => plan.recordings = value.parse().ok().filter(|count| *count > 0)?,
            ("--seconds", _) => plan.load = Duration::from_secs(value.parse().ok()?),
            ("--operations", _) => plan.operations = value.parse().ok().filter(|count| (1..=1_000).contains(count))?,
            ("--seed", _) => plan.seed = value.parse().ok()?,
            _ => return None,
        }
    }
    Some(Task { damages, binary, plan })
}

#[tokio::main]
async fn main() {
    let Some(Task { damages, binary, plan }) = read(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    let began = Instant::now();
    let hunt = if damages { plan.damages(&binary).await } else { plan.run(&binary).await };
    let seconds = began.elapsed().as_secs_f64();
    let (rounds, seed) = (hunt.cuts, plan.seed);
    if damages {
        println!("{rounds} damages to files of {}, seed {seed}, {seconds:.0} s", plan.config);
    } else {
        println!(
            "{rounds} cuts of {} ({} while it started), {} recordings of {} changes in all, seed {seed}, {seconds:.0} s; \
             at most {} KB were written and not synced",
            plan.config,
            hunt.during_start,
            plan.recordings,
            hunt.entries,
            hunt.most_unsafe >> 10
        );
    }
    println!(
        "nothing acknowledged is lost: {} were looked for; {} stores were set aside; {} rewritings in the recordings",
        hunt.looked_for, hunt.set_aside, hunt.rewritings
    );
    let [median, p95, slowest] = [50, 95, 100].map(|percent| hunt.percentile(percent).as_millis());
    println!("from start to ready: median {median} ms, p95 {p95} ms, slowest {slowest} ms");
}
