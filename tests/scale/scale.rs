//! What many accounts cost one validator: its starts, its memory, its disk, and what checkpoints hold up.
//!
//! ```sh
//! cargo build --release && cargo run --release -p aurigraph-testkit --example scale -- --accounts 10000000
//! ```
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use aurigraph_testkit::{Client, Cluster, Options, eventually};

const USAGE: &str = "scale --accounts 100000|1000000|10000000 [--binary target/release/aurigraph] [--rate 20] [--seconds 40]

Starts one validator with so many accounts in its genesis, puts it under `aurigraph bench` (--rate signatures a second of
1,000 transfers to accounts drawn from all), stops it, and starts it again: from its store, and once more after `kill -9`.";

/// What an account is, without any structure around it: identity 32, balance 16, nonces 16 bytes.
const RAW: u64 = 64;
const WITHIN: Duration = Duration::from_secs(300);
/// A replacement of the config's line has to live as long as the program.
const SIZES: [(u64, &str); 3] =
    [(100_000, "accounts = 100000"), (1_000_000, "accounts = 1000000"), (10_000_000, "accounts = 10000000")];

struct Task {
    accounts: (u64, &'static str),
    binary: String,
    rate: u32,
    seconds: u32,
}

fn read(mut words: impl Iterator<Item = String>) -> Option<Task> {
    let mut task = Task { accounts: SIZES[0], binary: "target/release/aurigraph".to_owned(), rate: 20, seconds: 40 };
    while let Some(flag) = words.next() {
        let value = words.next()?;
        match flag.as_str() {
            "--accounts" => task.accounts = *SIZES.iter().find(|(count, _)| count.to_string() == value)?,
            "--binary" => task.binary = value,
            "--rate" => task.rate = value.parse().ok()?,
            "--seconds" => task.seconds = value.parse().ok()?,
            _ => return None,
        }
    }
    Some(task)
}

/// Bytes that a folder's files take on disk.
fn taken(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let of = |path: &Path| if path.is_dir() { taken(path) } else { path.metadata().map_or(0, |it| it.blocks() * 512) };
    entries.map(|entry| of(&entry.path())).sum()
}

/// Launches the node and says how long it took to be ready.
async fn start(cluster: &mut Cluster, new: bool) -> Duration {
    let began = Instant::now();
    cluster.launch(0, new);
    let client = cluster.client(0);
    eventually("the node is ready", WITHIN, || {
        assert_eq!(cluster.exited(0), None, "{}", cluster.last_line(0));
        let client = client.clone();
        async move { (client.get("/ready").await.status == 200).then_some(()) }
    })
    .await;
    began.elapsed()
}

/// Count of a histogram, and the buckets' bounds that half, 99 in a hundred and all of its values do not exceed.
async fn histogram(client: &Client, name: &str) -> (u64, [String; 3]) {
    let text = client.text("/metrics").await;
    let head = format!("{name}_bucket{{");
    let buckets: Vec<(String, u64)> = text
        .lines()
        .filter(|line| line.starts_with(&head))
        .filter_map(|line| {
            let bound = line.split("le=\"").nth(1)?.split('"').next()?.to_owned();
            Some((bound, line.rsplit(' ').next()?.parse().ok()?))
        })
        .collect();
    let all = buckets.last().map_or(0, |(_, count)| *count);
    let below = |share: f64| {
        let found = buckets.iter().find(|(_, count)| *count as f64 >= all as f64 * share);
        found.map_or_else(|| "-".to_owned(), |(bound, _)| bound.clone())
    };
    (all, [below(0.5), below(0.99), below(1.0)])
}

#[tokio::main]
async fn main() {
    let Some(task) = read(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    let (accounts, line) = task.accounts;
    let replace = vec![("accounts = 100000", line), ("checkpoint_every_ms = 30000", "checkpoint_every_ms = 10000")];
    let options = Options { replace, ..Options::default() };
    let mut cluster = Cluster::prepare(&task.binary, "single-validator.toml", options).await;
    let each = |bytes: u64| bytes as f64 / accounts as f64;
    println!("{accounts} accounts");

    let took = start(&mut cluster, true).await;
    let (now, peak) = (cluster.memory(0), cluster.peak_memory(0));
    println!(
        "from genesis: ready after {:.1} s; {} MB resident, {:.0} bytes an account, at most {} MB",
        took.as_secs_f64(),
        now >> 20,
        each(now),
        peak >> 20
    );

    let client = cluster.client(0);
    let bench = Command::new(&task.binary)
        .args(["bench", "--senders", "64", "--operations-per-signature", "1000", "--warm-up", "2s"])
        .args(["--rate", &task.rate.to_string(), "--duration", &format!("{}s", task.seconds)])
        .arg("--config")
        .arg(cluster.config_file(0))
        .output()
        .unwrap();
    println!("{}{}", String::from_utf8_lossy(&bench.stdout), String::from_utf8_lossy(&bench.stderr));
    eventually("the state is in the store", WITHIN, || async {
        (histogram(&client, "store_checkpoint_seconds").await.0 > 0).then_some(())
    })
    .await;
    let names = ["store_slice_seconds", "store_block_seconds", "store_checkpoint_seconds", "pipeline_execute_seconds"];
    for name in names.into_iter().chain(["journal_sync_seconds", "blockchain_finality_ms"]) {
        let (count, [half, most, all]) = histogram(&client, name).await;
        println!("{name}: {count} values, half up to {half}, 99 in a hundred up to {most}, all up to {all}");
    }
    println!("under load: {} MB resident, at most {} MB", cluster.memory(0) >> 20, cluster.peak_memory(0) >> 20);

    assert_eq!(cluster.stop(0), Some(0));
    let (store, all) = (taken(&cluster.node_dir(0).join("store")), taken(&cluster.node_dir(0)));
    println!(
        "store: {} MB on disk, {:.0} bytes an account, {:.2} of the raw {RAW}; the whole folder {} MB",
        store >> 20,
        each(store),
        each(store) / RAW as f64,
        all >> 20
    );
    // How many commits a start executes again is told, since that may be what one takes longer for than another.
    let kinds =
        [("stopped amid the load", true), ("stopped", false), ("killed", true), ("stopped", false), ("killed", true)];
    for (how, next_in_order) in kinds {
        let took = start(&mut cluster, false).await;
        let (now, peak) = (cluster.memory(0), cluster.peak_memory(0));
        let (again, _) = histogram(&cluster.client(0), "pipeline_execute_seconds").await;
        println!(
            "{how} before: ready after {:.1} s, {again} commits executed by then; {} MB resident, {:.0} bytes an account, \
             at most {} MB",
            took.as_secs_f64(),
            now >> 20,
            each(now),
            peak >> 20
        );
        if next_in_order {
            assert_eq!(cluster.stop(0), Some(0));
        } else {
            cluster.kill(0);
        }
    }
}
