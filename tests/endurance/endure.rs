//! The long form of `tests/endurance.rs`, with the release binary: restarts in order, deaths at random, a long absence.
//!
//! ```sh
//! cargo build --release && cargo run --release -p aurigraph-testkit --example endure -- storm --minutes 10
//! ```
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use aurigraph_testkit::endurance::Endurance;
use aurigraph_testkit::steady::Shape;
use aurigraph_testkit::{Cluster, Options};

const USAGE: &str = "endure rolling|storm|kills|outages|absence [--binary target/release/aurigraph] [--config four-validators.toml]
     [--per-second 200] [--operations 100] [--rounds 3] [--minutes 10] [--seed 1] [--commits 10000]

  rolling   stops each node in order until the others have gone on, and starts it, --rounds times: the longest pause of commits, the time to return
  storm     for --minutes, `kill -9` of processes and deaths of actors at random, chosen by --seed
  kills     --rounds times `kill -9` of one node at a random moment, and its start: the times to return
  outages   the same of all nodes at once
  absence   kills one node until the others are --commits ahead, starts it under the same load: time and memory
  --per-second, --operations   the load over all nodes, and the transfers in each transaction

Each ends with a check that nothing acknowledged is lost or doubled, that each is found by its id at another node, and
that all nodes have the same newest blocks. rolling fails if commits pause for more than 2 s, absence if the node needs
more than 60 s.";

/// What a rolling restart and a long absence may cost.
const ROLLING_PAUSE: Duration = Duration::from_secs(2);
const ABSENCE: Duration = Duration::from_secs(60);

struct Plan {
    what: String,
    binary: String,
    config: String,
    shape: Shape,
    rounds: usize,
    minutes: f64,
    seed: u64,
    commits: u64,
}

impl Plan {
    /// Reads the command line; none if it is not understood.
    fn read(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let mut plan = Self {
            what: words
                .next()
                .filter(|what| ["rolling", "storm", "kills", "outages", "absence"].contains(&what.as_str()))?,
            binary: "target/release/aurigraph".into(),
            config: "four-validators.toml".into(),
            shape: Shape { per_second: 200, operations: 100 },
            rounds: 3,
            minutes: 10.0,
            seed: 1,
            commits: 10_000,
        };
        while let Some(flag) = words.next() {
            let value = words.next()?;
            match flag.as_str() {
                "--binary" => plan.binary = value,
                "--config" => plan.config = value,
                "--per-second" => plan.shape.per_second = value.parse().ok()?,
                "--operations" => plan.shape.operations = value.parse().ok()?,
                "--rounds" => plan.rounds = value.parse().ok()?,
                "--minutes" => plan.minutes = value.parse().ok().filter(|minutes| *minutes > 0.0)?,
                "--seed" => plan.seed = value.parse().ok()?,
                "--commits" => plan.commits = value.parse().ok()?,
                _ => return None,
            }
        }
        Some(plan)
    }
}

#[tokio::main]
async fn main() {
    let Some(plan) = Plan::read(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    let cluster = Cluster::start(&plan.binary, &plan.config, Options::default()).await;
    println!("{}: {} transactions/s of {} transfers", plan.what, plan.shape.per_second, plan.shape.operations);
    // A client whose node is away for that long asks another: its transactions would expire.
    let through = if plan.what == "absence" { cluster.len() - 1 } else { cluster.len() };
    let mut endurance = Endurance::new(cluster, plan.shape, through, Duration::from_secs(10)).await;
    let mut broken = None;
    match plan.what.as_str() {
        "rolling" => {
            broken = above("longest pause of commits", rolling(&mut endurance, plan.rounds).await, ROLLING_PAUSE)
        }
        "storm" => storm(&mut endurance, plan.seed, Duration::from_secs_f64(plan.minutes * 60.0)).await,
        "kills" => kills(&mut endurance, &plan, false).await,
        "outages" => kills(&mut endurance, &plan, true).await,
        _ => broken = above("time until it was level", absence(&mut endurance, plan.commits).await, ABSENCE),
    }
    let checked = endurance.close().await;
    println!(
        "nothing of {checked} acknowledged transactions is lost or doubled; all nodes have the same newest blocks"
    );
    if let Some(broken) = broken {
        eprintln!("{broken}");
        std::process::exit(1);
    }
}

fn above(what: &str, found: Duration, bound: Duration) -> Option<String> {
    (found > bound).then(|| format!("{what}: {} ms, the contract allows {} ms", found.as_millis(), bound.as_millis()))
}

/// Gives the longest pause of commits, the time between two restarts included.
async fn rolling(endurance: &mut Endurance, rounds: usize) -> Duration {
    let mut worst = Duration::ZERO;
    for round in 1..=rounds {
        for node in 0..endurance.nodes() {
            let (pause, back) = endurance.restart_in_order(node).await;
            worst = worst.max(pause);
            println!(
                "round {round}, node {node}: longest pause {} ms, level again {} ms after its start",
                pause.as_millis(),
                back.as_millis()
            );
            tokio::time::sleep(Duration::from_secs(2)).await;
            worst = worst.max(endurance.longest_pause());
        }
    }
    println!("longest pause of commits: {} ms", worst.as_millis());
    worst
}

async fn kills(endurance: &mut Endurance, plan: &Plan, all: bool) {
    let (began, rounds) = (Instant::now(), plan.rounds);
    let told = |round: usize, back: Duration| {
        if round.is_multiple_of(20) {
            println!("round {round}: back after {} ms", back.as_millis());
        }
    };
    let storm = endurance.kills(plan.seed, rounds, all, told).await;
    println!(
        "{rounds} rounds, {} processes ended, seed {}, {:.0} s; {} acknowledged so far; longest pause of commits {} ms",
        storm.processes,
        plan.seed,
        began.elapsed().as_secs_f64(),
        endurance.acknowledged(),
        storm.longest_pause.as_millis()
    );
    let [least, median, p95, p99, slowest] = [0, 50, 95, 99, 100].map(|percent| storm.percentile(percent).as_millis());
    println!(
        "from start to ready and level: least {least} ms, median {median} ms, p95 {p95} ms, p99 {p99} ms, slowest {slowest} ms"
    );
}

async fn storm(endurance: &mut Endurance, seed: u64, lasts: Duration) {
    println!("seed {seed}, {:.1} minutes", lasts.as_secs_f64() / 60.0);
    let storm = endurance.storm(seed, lasts, 1).await;
    println!(
        "{} processes and {} actors died; {} acknowledged so far; longest pause of commits {} ms",
        storm.processes,
        storm.actors,
        endurance.acknowledged(),
        storm.longest_pause.as_millis()
    );
    let [median, p95, slowest] = [50, 95, 100].map(|percent| storm.percentile(percent).as_millis());
    println!("from start to level with the others: median {median} ms, p95 {p95} ms, slowest {slowest} ms");
    for death in &storm.ended {
        println!("ended its process: {death}");
    }
}

/// Gives the time until the node was level.
async fn absence(endurance: &mut Endurance, commits: u64) -> Duration {
    let node = endurance.nodes() - 1;
    endurance.kill(node);
    let (began, from) = (Instant::now(), endurance.newest());
    let mut told = Instant::now();
    while endurance.newest() < from + commits {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            let ahead = endurance.newest() - from;
            let rate = ahead as f64 / began.elapsed().as_secs_f64();
            println!("{ahead} of {commits} commits ahead, {rate:.1} a second");
        }
    }
    endurance.longest_pause();
    let back = endurance.start(node).await;
    println!(
        "{} commits behind at its start, level after {:.1} s, at most {} MB of memory; longest pause of commits {} ms",
        commits,
        back.as_secs_f64(),
        endurance.peak_memory(node) >> 20,
        endurance.longest_pause().as_millis()
    );
    back
}
