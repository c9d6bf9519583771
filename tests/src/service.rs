//! When service is normal: commits resumed, one second's throughput at least 90 % and p99 at most twice that of the ten
//! seconds before.

use std::time::Duration;

use crate::steady::{Record, Sample};

/// What is looked at.
pub const WINDOW: Duration = Duration::from_secs(1);
/// What it is compared with.
pub const BASELINE: Duration = Duration::from_secs(10);
/// Share of the throughput before.
const THROUGHPUT: f64 = 0.9;
/// Times the p99 before.
const LATENCY: u32 = 2;
/// A p99 below this counts as this: it is what the nodes must keep at half load anyway. Without a floor the comparison
/// would be with the luck of a quiet machine: a window of one second holds a few dozen transactions of one node, its p99
/// is one transaction, and one late turn of the machine's scheduler doubles that.
const GOOD_P99: Duration = Duration::from_millis(350);
/// Windows are tried at this distance.
const STEP: Duration = Duration::from_millis(20);

/// Whose service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One node's.
    Node(usize),
    /// All nodes' together.
    All,
}

/// Service over some time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Transactions that became final in a second.
    pub per_second: f64,
    /// Of the transactions that were due.
    pub p99: Duration,
}

impl Quality {
    /// Whether this is as good as it was before.
    #[must_use]
    pub fn is_normal(&self, before: &Self) -> bool {
        self.per_second >= THROUGHPUT * before.per_second && self.p99 <= before.slowest()
    }

    /// The greatest p99 that is normal after this.
    fn slowest(&self) -> Duration {
        LATENCY * self.p99.max(GOOD_P99)
    }
}

/// The p99. Of fewer than 200 values it is the second greatest: one of them alone is no percentile.
fn p99(mut latencies: Vec<Duration>) -> Duration {
    latencies.sort_unstable();
    let above = (latencies.len() / 100).max(1);
    latencies.len().checked_sub(above + 1).map_or(Duration::ZERO, |at| latencies[at])
}

/// What happened in a span of time: how many became final, and the latencies of those that were due.
#[derive(Default)]
struct Span {
    finals: usize,
    latencies: Vec<Duration>,
}

impl Span {
    fn add(&mut self, samples: &[Sample], from: Duration, to: Duration, now: Duration) {
        let within = |at: Duration| (from..to).contains(&at);
        self.finals += samples.iter().filter(|sample| sample.done.is_some_and(within)).count();
        // What is not final yet has taken at least until now.
        let due = samples.iter().filter(|sample| within(sample.due));
        self.latencies.extend(due.map(|sample| sample.done.unwrap_or(now).saturating_sub(sample.due)));
    }

    fn quality(self, length: Duration) -> Quality {
        Quality { per_second: self.finals as f64 / length.as_secs_f64(), p99: p99(self.latencies) }
    }
}

/// The transactions that a span can touch: none takes longer than this and is looked at.
const LONGEST: Duration = Duration::from_secs(30);

/// A copy of the newest transactions, to be looked at from several sides.
struct Recently {
    now: Duration,
    nodes: Vec<Vec<Sample>>,
}

impl Recently {
    fn of(record: &Record, from: Duration) -> Self {
        let from = from.saturating_sub(LONGEST);
        let now = record.now();
        Self { now, nodes: (0..record.nodes()).map(|node| record.since(node, from)).collect() }
    }

    fn span(&self, scope: Scope, from: Duration, to: Duration) -> Span {
        let mut span = Span::default();
        for (node, samples) in self.nodes.iter().enumerate() {
            if scope == Scope::All || scope == Scope::Node(node) {
                span.add(samples, from, to, self.now);
            }
        }
        span
    }

    /// Whether everything that was due in a span is final.
    fn is_settled(&self, scope: Scope, from: Duration, to: Duration) -> bool {
        let due = |sample: &&Sample| (from..to).contains(&sample.due);
        let settled = |samples: &Vec<Sample>| samples.iter().filter(due).all(|sample| sample.done.is_some());
        let of = |(node, samples)| (scope == Scope::All || scope == Scope::Node(node)) && !settled(samples);
        !self.nodes.iter().enumerate().any(of)
    }
}

/// Ten seconds of normal service: what comes after a fault is compared with them.
pub struct Calm {
    nodes: Vec<Quality>,
    all: Quality,
}

impl Calm {
    /// Takes the ten seconds that end now. Nothing may have disturbed them.
    #[must_use]
    pub fn new(record: &Record) -> Self {
        let to = record.now();
        let from = to.saturating_sub(BASELINE);
        let recently = Recently::of(record, from);
        let quality = |scope| {
            let span = recently.span(scope, from, to);
            // No more than was offered: who works off a backlog is faster for a while.
            let offered = span.latencies.len() as f64 / BASELINE.as_secs_f64();
            let quality = span.quality(BASELINE);
            Quality { per_second: quality.per_second.min(offered), ..quality }
        };
        Self { nodes: (0..record.nodes()).map(|node| quality(Scope::Node(node))).collect(), all: quality(Scope::All) }
    }

    /// Whether the p99 was what the nodes must keep anyway, or at most twice that.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.all.p99 <= LATENCY * GOOD_P99
    }

    /// How service was.
    #[must_use]
    pub fn quality(&self, scope: Scope) -> Quality {
        match scope {
            Scope::Node(node) => self.nodes[node],
            Scope::All => self.all,
        }
    }
}

/// The search for the first second of normal service after a fault.
pub struct Search {
    scope: Scope,
    before: Quality,
    fault: Duration,
    /// The next window to be looked at begins here.
    next: Duration,
}

impl Search {
    /// A search from a fault on.
    #[must_use]
    pub fn new(calm: &Calm, scope: Scope, fault: Duration) -> Self {
        Self { scope, before: calm.quality(scope), fault, next: fault }
    }

    /// What service is compared with.
    #[must_use]
    pub const fn before(&self) -> Quality {
        self.before
    }

    /// How long after the fault the first window of normal service began; none if there was none yet.
    pub fn look(&mut self, record: &Record) -> Option<Duration> {
        let recently = Recently::of(record, self.fault);
        while self.next + WINDOW <= recently.now {
            let (from, to) = (self.next, self.next + WINDOW);
            // What is under way may still become too late, unless it is so already.
            if !recently.is_settled(self.scope, from, to) && to + self.before.slowest() > recently.now {
                return None;
            }
            if recently.span(self.scope, from, to).quality(WINDOW).is_normal(&self.before) {
                return Some(from - self.fault);
            }
            self.next += STEP;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use aurigraph_ledger::Hash;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// One node, a transaction every 20 ms from the start on, each final after what `latency` says of when it was due.
    fn record(seconds: u32, latency: impl Fn(Duration) -> Duration) -> Recently {
        let due = (0..seconds * 50).map(|number| number * 20 * MS);
        let sample = |due| Sample { due, done: Some(due + latency(due)), sender: 0, nonce: 0, id: Hash::ZERO };
        Recently { now: Duration::from_secs(u64::from(seconds)), nodes: vec![due.map(sample).collect()] }
    }

    fn normal_from(recently: &Recently, before: &Quality) -> Option<Duration> {
        let mut from = Duration::from_secs(10);
        while from + WINDOW <= recently.now {
            if recently.span(Scope::All, from, from + WINDOW).quality(WINDOW).is_normal(before) {
                return Some(from - Duration::from_secs(10));
            }
            from += STEP;
        }
        None
    }

    #[test]
    fn a_pause_counts_until_the_first_second_that_is_as_fast_as_before() {
        let steady = record(20, |_| 100 * MS);
        let before = steady.span(Scope::All, Duration::ZERO, BASELINE).quality(BASELINE);
        assert!((before.per_second - 50.0).abs() < 1.0 && before.p99 == 100 * MS, "{before:?}");
        assert_eq!(normal_from(&steady, &before), Some(Duration::ZERO));
        // From the tenth second on nothing becomes final for three seconds.
        let (fault, back) = (Duration::from_secs(10), Duration::from_secs(13));
        let paused = record(20, |due| if due >= fault && due < back { back - due + 100 * MS } else { 100 * MS });
        let took = normal_from(&paused, &before).unwrap();
        // Who was due in the last 0.6 s of the pause waited no longer than a p99 of 700 ms allows.
        assert!((2_300 * MS..2_500 * MS).contains(&took), "{took:?}");
        let slow = record(20, |due| if due >= fault { 800 * MS } else { 100 * MS });
        assert_eq!(normal_from(&slow, &before), None, "all are served, none in time");
    }

    #[test]
    fn a_tenth_less_throughput_is_not_normal() {
        let before = Quality { per_second: 100.0, p99: 500 * MS };
        assert!(Quality { per_second: 90.0, p99: 1_000 * MS }.is_normal(&before));
        assert!(!Quality { per_second: 89.0, p99: 500 * MS }.is_normal(&before));
        assert!(!Quality { per_second: 100.0, p99: 1_001 * MS }.is_normal(&before));
    }
}
