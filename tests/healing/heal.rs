//! The long form of `tests/chaos.rs`: kills every actor of one node of a release cluster in every mode under a load of
//! bundles, and prints how long it takes until service is normal again.
//!
//! ```sh
//! cargo build --release && cargo run --release -p aurigraph-testkit --example heal -- --per-second 300 --operations 100
//! ```
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use aurigraph_testkit::healing::{Healed, MODES, Ward};
use aurigraph_testkit::steady::Shape;
use aurigraph_testkit::{Cluster, Options};

/// What the contract gives a death.
const LIMIT: Duration = Duration::from_secs(2);
const USAGE: &str = "heal [--binary target/release/aurigraph] [--config four-validators.toml] [--per-second 300]
     [--operations 100] [--warm-up 20] [--modes kill,panic,error,stop,abort] [--only NAME,NAME,...] [--repeat 1]
     [--rest late]

  --per-second   transactions a second over all nodes     --operations  transfers in each, at most 1,000
  --warm-up      seconds of that load before the first death: the longer, the larger the logs
  --only         roles whose name begins with one of these (`validator`, `peer/`), else all but the root
  --repeat       deaths for each row and mode; the slowest counts
  --rest         ten undisturbed seconds to compare with are taken once and after every late return (`late`), or
                 before every death (`always`: the contract's definition to the letter, 12 s a death)";

struct Plan {
    binary: String,
    config: String,
    shape: Shape,
    warm_up: Duration,
    modes: Vec<&'static str>,
    only: Vec<String>,
    repeat: usize,
    always_rest: bool,
}

impl Plan {
    /// Reads the command line; none if it is not understood.
    fn read(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let mut plan = Self {
            binary: "target/release/aurigraph".into(),
            config: "four-validators.toml".into(),
            shape: Shape { per_second: 300, operations: 100 },
            warm_up: Duration::from_secs(20),
            modes: MODES.into(),
            only: Vec::new(),
            repeat: 1,
            always_rest: false,
        };
        while let Some(flag) = words.next() {
            let value = words.next()?;
            match flag.as_str() {
                "--binary" => plan.binary = value,
                "--config" => plan.config = value,
                "--per-second" => plan.shape.per_second = value.parse().ok()?,
                "--operations" => plan.shape.operations = value.parse().ok()?,
                "--warm-up" => plan.warm_up = Duration::from_secs(value.parse().ok()?),
                "--modes" => {
                    let mode = |word: &str| MODES.into_iter().find(|mode| *mode == word);
                    plan.modes = value.split(',').map(mode).collect::<Option<_>>()?;
                }
                "--only" => plan.only = value.split(',').map(str::to_owned).collect(),
                "--repeat" => plan.repeat = value.parse().ok()?,
                "--rest" if value == "late" || value == "always" => plan.always_rest = value == "always",
                _ => return None,
            }
        }
        Some(plan)
    }
}

/// The slowest return by role, then by mode.
type Table = BTreeMap<String, BTreeMap<&'static str, Healed>>;

#[tokio::main]
async fn main() {
    let Some(plan) = Plan::read(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    let cluster = Cluster::start(&plan.binary, &plan.config, Options::default()).await;
    println!("{} transactions/s of {} transfers", plan.shape.per_second, plan.shape.operations);
    let mut ward = Ward::new(cluster, plan.shape, plan.warm_up).await;
    let mut table = Table::new();
    let actors = ward.actors().await;
    let chosen = |role: &str| plan.only.is_empty() || plan.only.iter().any(|name| role.starts_with(name.as_str()));
    // By mode first, so that one supervisor's deaths are spread.
    for mode in plan.modes.iter().flat_map(|mode| std::iter::repeat_n(*mode, plan.repeat)) {
        for actor in actors.iter().filter(|actor| actor.parent.is_some() && chosen(actor.role())) {
            if plan.always_rest {
                ward.rest().await;
            }
            let healed = ward.kill(&actor.name, mode).await;
            if !healed.within(LIMIT) && !plan.always_rest {
                ward.rest().await;
            }
            println!("{} {mode}: {healed}", actor.role());
            let slowest = table.entry(actor.role().to_owned()).or_default().entry(mode).or_insert(healed);
            if slowest.took().is_some_and(|slowest| healed.took().is_none_or(|took| took > slowest)) {
                *slowest = healed;
            }
        }
    }
    print_table(&table, &plan.modes);
    ward.close().await;
    println!("nothing committed is lost or doubled; all nodes have the same newest blocks");
}

fn print_table(table: &Table, modes: &[&'static str]) {
    let shown = |healed: &Healed| healed.took().map_or("-".to_owned(), |took| format!("{:.2}", took.as_secs_f64()));
    println!("\nSeconds to normal service, the slower of the node's and the cluster's:\n");
    println!("| actor | {} |\n|---|{}", modes.join(" | "), "---|".repeat(modes.len()));
    for (role, row) in table {
        let cells: Vec<_> = modes.iter().map(|mode| row.get(mode).map_or("".to_owned(), shown)).collect();
        println!("| {role} | {} |", cells.join(" | "));
    }
    let mut all: Vec<_> = table.values().flat_map(BTreeMap::values).filter_map(Healed::took).collect();
    all.sort_unstable();
    let deaths = table.values().map(BTreeMap::len).sum::<usize>();
    let late = deaths - all.iter().filter(|took| **took <= LIMIT).count();
    let middle = all.get(all.len() / 2).copied().unwrap_or_default();
    println!("\n{deaths} deaths, median {:.2} s, {late} beyond 2 s", middle.as_secs_f64());
}
