//! Every row of the supervision table of a live node is killed in every way, under load: service is normal again within
//! two seconds, nothing committed is lost or doubled, and the restart shows in the live tree, the metrics and the audit
//! log. One test a row; all rows share one running cluster, which the last test closes and checks.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aurigraph_testkit::healing::{Actor, MODES, NODE, Ward};
use aurigraph_testkit::steady::Shape;
use aurigraph_testkit::{Cluster, Options, eventually};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
/// What the contract gives a death.
const LIMIT: Duration = Duration::from_secs(2);
/// The machine is shared, and a turn of somebody else's can cost a death its two seconds. What is slow by itself is slow
/// every time.
const ATTEMPTS: usize = 3;
/// A test build on two shared cores: enough for every second to hold a sample of every node, far from saturation. Heavy
/// load is the `heal` example's.
const LOAD: Shape = Shape { per_second: 120, operations: 4 };
/// Until the caches and the adaptive time-outs have settled.
const WARM_UP: Duration = Duration::from_secs(4);
/// What is reported must be there after this.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);

/// A row: the role (`/i` and `/name` stand for any number or name), and whose child it is.
type Row = (&'static str, &'static str);

/// All rows, siblings apart from each other: they share a budget of restarts.
const ROWS: [Row; 37] = [
    ("journal", "storage"),
    ("cpu-verifier/i", "crypto"),
    ("node-server", "cluster"),
    ("admission", "mempool"),
    ("validator", "consensus"),
    ("order", "pipeline"),
    ("http-server", "api"),
    ("audit", "root"),
    ("peer/name", "peers"),
    ("store", "storage"),
    ("snapshots", "storage"),
    ("pruner", "storage"),
    ("gpu-worker/i", "crypto"),
    ("gateway", "cluster"),
    ("batcher/i", "mempool"),
    ("block-fetcher", "consensus"),
    ("verify", "pipeline"),
    ("query/i", "api"),
    ("telemetry", "root"),
    ("verify-dispatcher", "crypto"),
    ("listener", "cluster"),
    ("batch-store", "mempool"),
    ("commit-sync", "consensus"),
    ("execute", "pipeline"),
    ("event-hub", "api"),
    ("storage", "root"),
    ("peers", "cluster"),
    ("crypto", "root"),
    ("persist", "pipeline"),
    ("signer", "api"),
    ("snapshot-sync", "consensus"),
    ("mempool", "root"),
    ("consensus", "root"),
    ("publish", "pipeline"),
    ("cluster", "root"),
    ("pipeline", "root"),
    ("api", "root"),
];

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
static WARD: Mutex<Option<Ward>> = Mutex::const_new(None);
/// The cluster did not start, or was closed: the rows after that fail at once.
static GONE: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Clusters take turns, and the rows share one.
    arguments.test_threads = Some(1);
    let mut trials = vec![
        trial("a_used_up_budget_ends_the_process_with_a_clear_last_line", used_up_budget()),
        trial("killing_needs_the_admin_token_and_a_config_that_allows_it", needs_token()),
        trial("the_table_the_live_tree_and_the_tests_have_the_same_rows", same_rows()),
    ];
    trials.extend(ROWS.map(|row| trial(&format!("heals::{}", row.0), heals(row))));
    trials.push(trial("at_the_end_nothing_committed_is_lost_or_doubled", close()));
    let conclusion = libtest_mimic::run(&arguments, trials);
    // A filter may have left the last test out; what it checks holds for any row.
    let closed = std::panic::catch_unwind(|| RUNTIME.block_on(close()));
    if closed.is_err() || conclusion.has_failed() { ExitCode::from(101) } else { ExitCode::SUCCESS }
}

fn trial(name: &str, test: impl Future<Output = ()> + Send + 'static) -> Trial {
    Trial::test(name, move || {
        RUNTIME.block_on(test);
        Ok::<(), Failed>(())
    })
}

/// The cluster that the rows share, started by the first that needs it.
async fn open(slot: &mut Option<Ward>) -> &mut Ward {
    if slot.is_none() {
        assert!(!GONE.swap(true, Ordering::Relaxed), "the rows' cluster is gone");
        let options = Options { replace: vec![("verifier_threads = 0", "verifier_threads = 2")], ..Options::default() };
        let cluster = Cluster::start(BINARY, "four-validators.toml", options).await;
        *slot = Some(Ward::new(cluster, LOAD, WARM_UP).await);
        GONE.store(false, Ordering::Relaxed);
    }
    slot.as_mut().unwrap()
}

async fn close() {
    let Some(ward) = WARD.lock().await.take() else { return };
    GONE.store(true, Ordering::Relaxed);
    ward.close().await;
}

fn is_of(role: &str, row: &str) -> bool {
    match row.rsplit_once('/') {
        Some((kind, "i" | "name")) => role.rsplit_once('/').is_some_and(|(found, _)| found == kind),
        _ => role == row,
    }
}

async fn heals(row: Row) {
    let mut slot = WARD.lock().await;
    let ward = open(&mut slot).await;
    let actors: Vec<Actor> = ward.actors().await.into_iter().filter(|actor| is_of(actor.role(), row.0)).collect();
    assert!(!actors.is_empty(), "{} is not in the live tree", row.0);
    let before = Seen::of(ward).await;
    let (mut deaths, mut late) = (BTreeMap::<&str, u64>::new(), Vec::new());
    for mode in MODES {
        for actor in &actors {
            let (died, why) = dies(ward, &actor.name, mode).await;
            *deaths.entry(&actor.name).or_default() += died;
            late.extend(why);
        }
    }
    shows(ward, &before, &deaths).await;
    assert!(late.is_empty(), "not normal within {LIMIT:?} in {ATTEMPTS} attempts:\n{}", late.join("\n"));
}

/// Kills an actor until service is normal in time once. Returns how often it died, and what is to be said if that was
/// too late each time.
async fn dies(ward: &mut Ward, name: &str, mode: &str) -> (u64, Option<String>) {
    let mut said = Vec::new();
    for died in 1.. {
        let healed = ward.kill(name, mode).await;
        println!("{name} {mode}: {healed}");
        if healed.within(LIMIT) {
            return (died, None);
        }
        said.push(format!("{name} {mode}: {healed}"));
        if said.len() == ATTEMPTS {
            return (died, Some(said.join("\n")));
        }
        ward.rest().await;
    }
    unreachable!("the loop ends by itself")
}

/// Where a restart can be seen.
struct Seen {
    restarts: BTreeMap<String, u64>,
    counted: BTreeMap<String, u64>,
    audited: BTreeMap<String, u64>,
}

impl Seen {
    async fn of(ward: &Ward) -> Self {
        let restarts = ward.actors().await.into_iter().map(|actor| (actor.name, actor.restarts)).collect();
        let text = ward.client().text("/metrics").await;
        let counted = text.lines().filter_map(|line| {
            let (labels, value) = line.strip_prefix("actor_restarts_total{")?.rsplit_once("} ")?;
            let name = labels.split("actor=\"").nth(1)?.split('"').next()?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self { restarts, counted: counted.collect(), audited: audited(ward).await }
    }
}

/// Restarts in the audit log by actor.
async fn audited(ward: &Ward) -> BTreeMap<String, u64> {
    let (mut count, mut page) = (BTreeMap::new(), 1);
    loop {
        let body = json!({ "filters": { "eventType": "actor_restarted" }, "page": page, "pageSize": 200 });
        let answer = eventually("a search in the audit log", SHOWN_WITHIN, || async {
            let answer = ward.client().post("/audit/logs", Some(ward.token()), &body).await;
            (answer.status == 200).then_some(answer.body)
        })
        .await;
        let logs = answer["logs"].as_array().unwrap();
        for entry in logs {
            *count.entry(entry["resourceId"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        if logs.len() < 200 {
            return count;
        }
        page += 1;
    }
}

/// Waits until every death shows as a restart in the live tree, in the metrics and in the audit log.
async fn shows(ward: &Ward, before: &Seen, deaths: &BTreeMap<&str, u64>) {
    let deadline = Instant::now() + SHOWN_WITHIN;
    loop {
        let now = Seen::of(ward).await;
        let mut missing = Vec::new();
        for (name, died) in deaths {
            let of = |counts: &BTreeMap<String, u64>| counts.get(*name).copied().unwrap_or(0);
            let places = [
                ("/system/actors", of(&now.restarts) - of(&before.restarts)),
                ("actor_restarts_total", of(&now.counted) - of(&before.counted)),
                ("the audit log", of(&now.audited) - of(&before.audited)),
            ];
            let less = places.into_iter().filter(|(_, shown)| shown < died);
            missing.extend(less.map(|(place, shown)| format!("{name}: {died} deaths, {shown} restarts in {place}")));
        }
        if missing.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{}", missing.join("\n"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The rows of the table in the actors' README: of each actor with its supervisor, of each supervisor that is named so.
fn table() -> (BTreeSet<(String, String)>, BTreeSet<String>) {
    let text = include_str!("../actors/README.md");
    let (mut actors, mut supervisors) = (BTreeSet::new(), BTreeSet::new());
    for line in text.lines().filter(|line| line.starts_with("| `") && line.matches(" | ").count() == 3) {
        let mut cells = line.trim_matches('|').split(" | ");
        let (names, under) = (cells.next().unwrap(), cells.next().unwrap());
        let under = under.split_whitespace().next().unwrap();
        actors.extend(names.split('`').skip(1).step_by(2).map(|name| (name.to_owned(), under.to_owned())));
        supervisors.insert(under.to_owned());
    }
    // The root's end is the process's end: that is another test.
    supervisors.remove("root");
    (actors, supervisors)
}

async fn same_rows() {
    let (actors, supervisors) = table();
    let tested: BTreeSet<&str> = ROWS.iter().map(|(role, _)| *role).collect();
    let written = actors.iter().map(|(role, _)| role.as_str()).chain(supervisors.iter().map(String::as_str)).collect();
    assert_eq!(tested, written, "the tests (left) and the table (right)");
    for (role, under) in &actors {
        assert!(ROWS.contains(&(role.as_str(), under.as_str())), "{role} stands under {under} in the table");
    }
    let mut slot = WARD.lock().await;
    let ward = open(&mut slot).await;
    let (root, mut met) = (ward.cluster.name(NODE).to_owned(), BTreeSet::new());
    for actor in ward.actors().await {
        let Some(parent) = &actor.parent else { continue };
        let under = if *parent == root { "root" } else { parent.split_once('/').unwrap().1 };
        let row = ROWS.iter().find(|(role, _)| is_of(actor.role(), role));
        let row = row.unwrap_or_else(|| panic!("{} has neither a row nor a test", actor.name));
        assert_eq!(row.1, under, "who supervises {}", actor.name);
        met.insert(row.0);
    }
    assert_eq!(met, tested, "rows that the live tree has (left)");
}

fn kill_path(name: &str) -> String {
    format!("/system/actors/{}/kill", name.replace('/', "%2F"))
}

async fn used_up_budget() {
    let mut cluster = Cluster::start(BINARY, "single-validator.toml", Options::default()).await;
    let (client, token) = (cluster.client(0), cluster.admin_token());
    let path = kill_path("v1/audit");
    let deadline = Instant::now() + Duration::from_secs(60);
    let code = loop {
        if let Some(code) = cluster.exited(0) {
            break code;
        }
        assert!(Instant::now() < deadline, "the budget is never used up");
        client.post(&path, Some(&token), &json!({ "mode": "panic" })).await;
    };
    assert_eq!(code, 1);
    let log = cluster.log(0);
    let last = log.lines().last().unwrap();
    assert!(last.contains("v1") && last.contains("audit"), "the last line says why: {last}");
}

async fn needs_token() {
    let options = Options { replace: vec![("enabled = true", "enabled = false")], ..Options::default() };
    let cluster = Cluster::start(BINARY, "single-validator.toml", options).await;
    let (client, path) = (cluster.client(0), kill_path("v1/audit"));
    let body = json!({ "mode": "panic" });
    assert_eq!(client.post(&path, None, &body).await.status, 401);
    assert_eq!(client.post(&path, Some("wrong"), &body).await.status, 401);
    assert_eq!(client.post(&path, Some(&cluster.account_token()), &body).await.status, 403);
    let answer = client.post(&path, Some(&cluster.admin_token()), &body).await;
    assert_eq!((answer.status, answer.body["code"].as_str()), (403, Some("chaos_disabled")));
}
