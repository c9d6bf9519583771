//! What the nodes did in the measured time, as figures.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::load::Load;
use super::watch::Watcher;
use crate::cli;
use crate::error::CliResult;
use crate::http::{NodeClient, number_field};
use crate::output::table;

/// Clock ticks a second in /proc: fixed at 100 for programs on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// A node's counters at one moment.
#[derive(Debug, Clone, Copy)]
pub struct NodeSample {
    /// When.
    pub at: Instant,
    /// Operations of executed receipts since the node started.
    pub operations: u64,
    /// Transactions likewise.
    pub transactions: u64,
    /// Seconds of CPU; none if the node cannot know.
    pub cpu_seconds: Option<f64>,
    /// Resident memory.
    pub resident_bytes: u64,
}

impl NodeSample {
    /// Asks a node.
    ///
    /// # Errors
    /// Unreachable, or an answer without the counters.
    pub async fn ask(client: &NodeClient) -> CliResult<Self> {
        let answer = client.get("/performance").await?;
        Ok(Self {
            at: Instant::now(),
            operations: number_field(&answer, "operations")?,
            transactions: number_field(&answer, "transactions")?,
            cpu_seconds: answer["cpuSeconds"].as_f64(),
            resident_bytes: answer["residentBytes"].as_u64().unwrap_or(0),
        })
    }
}

/// One node's share of the report.
struct NodeFigures {
    url: String,
    operations: u64,
    transactions: u64,
    seconds: f64,
    cpu_seconds: Option<f64>,
    peak_resident_bytes: u64,
}

/// The report.
pub struct Report {
    operations_per_signature: u16,
    rate: Option<u32>,
    nodes: Vec<NodeFigures>,
    generator_cpu_seconds: f64,
    ended_early: bool,
    latencies: Vec<Duration>,
    failed_operations: u64,
    requests: Value,
    pairs: Value,
}

impl Report {
    /// Compares counters before and after.
    pub fn new(
        args: &cli::Bench,
        clients: &[NodeClient],
        before: &[NodeSample],
        after: &[NodeSample],
        peaks: &[u64],
        generator_cpu_seconds: f64,
    ) -> Self {
        let pairs = clients.iter().zip(before.iter().zip(after)).zip(peaks);
        let nodes = pairs.map(|((client, (before, after)), peak)| NodeFigures {
            url: client.url().to_owned(),
            // A node that restarted meanwhile counts from zero again.
            operations: after.operations.saturating_sub(before.operations),
            transactions: after.transactions.saturating_sub(before.transactions),
            seconds: (after.at - before.at).as_secs_f64(),
            cpu_seconds: after.cpu_seconds.zip(before.cpu_seconds).map(|(after, before)| after - before),
            peak_resident_bytes: *peak,
        });
        Self {
            operations_per_signature: args.operations_per_signature,
            rate: args.rate,
            nodes: nodes.collect(),
            generator_cpu_seconds,
            ended_early: false,
            latencies: Vec::new(),
            failed_operations: 0,
            requests: Value::Null,
            pairs: Value::Null,
        }
    }

    /// Notes that all prepared transactions were sent before the time was over.
    pub const fn ended_early(mut self, early: bool) -> Self {
        self.ended_early = early;
        self
    }

    /// Adds what was heard and how the requests went.
    pub fn finish(mut self, watchers: Vec<Watcher>, load: &Load) -> Self {
        for watcher in watchers {
            let heard = watcher.finish();
            self.latencies.extend(heard.latencies);
            // Every node executes everything: their counts are the same, not parts of one sum.
            self.failed_operations = self.failed_operations.max(heard.failed_operations);
        }
        self.latencies.sort_unstable();
        let counters = &load.counters;
        self.requests = json!({
            "acceptedTransactions": counters.accepted.load(Ordering::Relaxed),
            "refusedTransactions": counters.refused.load(Ordering::Relaxed),
            "backOffs": counters.back_offs.load(Ordering::Relaxed),
            "errors": counters.errors.load(Ordering::Relaxed),
            "firstProblem": *counters.first_problem.lock().unwrap_or_else(PoisonError::into_inner),
        });
        self
    }

    /// Notes among whom the transfers were: what the plan says of it.
    pub fn pairs(mut self, pairs: Value) -> Self {
        self.pairs = pairs;
        self
    }

    /// The slowest node's figures: an operation counts when every node asked has executed it.
    fn slowest(&self) -> Option<&NodeFigures> {
        self.nodes.iter().min_by_key(|node| node.operations)
    }

    /// Operations that all nodes committed in the measured time.
    pub fn committed_operations(&self) -> u64 {
        self.slowest().map_or(0, |node| node.operations)
    }

    fn latency_ms(&self, share: f64) -> Value {
        if self.latencies.is_empty() {
            return Value::Null;
        }
        let rank = (self.latencies.len() as f64 * share).ceil() as usize;
        let latency = self.latencies[rank.clamp(1, self.latencies.len()) - 1];
        json!((latency.as_secs_f64() * 10_000.0).round() / 10.0)
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        let slowest = self.slowest();
        let seconds = slowest.map_or(0.0, |node| node.seconds);
        let per_second = |count: u64| if seconds > 0.0 { (count as f64 / seconds).round() } else { 0.0 };
        json!({
            "operationsPerSecond": per_second(self.committed_operations()),
            "signaturesPerSecond": per_second(slowest.map_or(0, |node| node.transactions)),
            "operationsPerSignature": self.operations_per_signature,
            "offeredSignaturesPerSecond": self.rate,
            "accounts": self.pairs["accounts"],
            "senders": self.pairs["senders"],
            "sendersDrawn": self.pairs["sendersDrawn"],
            "seconds": seconds,
            "endedEarly": self.ended_early,
            "committedOperations": self.committed_operations(),
            "failedOperations": self.failed_operations,
            "latencyMs": {
                "p50": self.latency_ms(0.5),
                "p95": self.latency_ms(0.95),
                "p99": self.latency_ms(0.99),
                "p999": self.latency_ms(0.999),
                "samples": self.latencies.len(),
            },
            "nodes": self.nodes.iter().map(NodeFigures::json).collect::<Vec<_>>(),
            "generator": { "cpuSeconds": self.generator_cpu_seconds, "requests": self.requests },
        })
    }

    /// As text.
    pub fn text(&self) -> String {
        let all = self.json();
        let heading = ["node", "operations", "CPU s", "CPU s / M operations", "peak MiB"];
        let rows: Vec<_> = self.nodes.iter().map(NodeFigures::row).collect();
        let latency = &all["latencyMs"];
        format!(
            "{} operations/s, {} signatures/s, {} operations a signature, over {:.1} s ({} operations failed)\n\
             {} senders ({} of them drawn), {} accounts\n\
             latency ms: p50 {}, p95 {}, p99 {} ({} samples)\n{}\ngenerator: {:.1} s CPU, {}",
            all["operationsPerSecond"],
            all["signaturesPerSecond"],
            self.operations_per_signature,
            self.slowest().map_or(0.0, |node| node.seconds),
            self.failed_operations,
            all["senders"],
            all["sendersDrawn"],
            all["accounts"],
            latency["p50"],
            latency["p95"],
            latency["p99"],
            self.latencies.len(),
            table(&heading, &rows),
            self.generator_cpu_seconds,
            self.requests
        )
    }
}

impl NodeFigures {
    fn cpu_per_million(&self) -> Option<f64> {
        let cpu = self.cpu_seconds.filter(|_| self.operations > 0)?;
        Some(cpu / (self.operations as f64 / 1e6))
    }

    fn json(&self) -> Value {
        json!({
            "url": self.url,
            "operations": self.operations,
            "signatures": self.transactions,
            "cpuSeconds": self.cpu_seconds,
            "cpuSecondsPerMillionOperations": self.cpu_per_million(),
            "peakResidentBytes": self.peak_resident_bytes,
        })
    }

    fn row(&self) -> Vec<String> {
        let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        vec![
            self.url.clone(),
            self.operations.to_string(),
            shown(self.cpu_seconds),
            shown(self.cpu_per_million()),
            (self.peak_resident_bytes >> 20).to_string(),
        ]
    }
}

/// Seconds of CPU that this process has used; 0 where /proc does not say.
pub fn own_cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name, in parentheses, may hold spaces: fields count from behind it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}
