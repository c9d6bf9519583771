//! The Prometheus recorder: every histogram has real buckets, every series carries the node's name.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::process;

/// For seconds: from 50 µs (a verdict from a cache) to 30 s (beyond every time-out of ours).
const SECONDS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];
/// For milliseconds: from 50 µs to the 60 s at which a consensus round raises an alert, and beyond it.
const MILLISECONDS: [f64; 20] = [
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 200.0, 350.0, 500.0, 1_000.0, 2_500.0, 5_000.0,
    15_000.0, 60_000.0, 120_000.0,
];
/// For bytes: from a vote to the largest batch range.
const BYTES: [f64; 11] = [
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
];
/// For shares and scores between 0 and 1.
const SHARES: [f64; 12] = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0];
/// For everything else, which counts things: powers of four.
const COUNTS: [f64; 12] =
    [1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0];

/// Name endings and their buckets. The first that fits counts.
const BUCKETS: [(&str, &[f64]); 6] = [
    ("_seconds", &SECONDS),
    ("_ms", &MILLISECONDS),
    ("_bytes", &BYTES),
    ("_score", &SHARES),
    ("_ratio", &SHARES),
    ("_share", &SHARES),
];

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The metrics recorder.
    #[error("cannot set the metrics recorder up: {0}")]
    Metrics(#[from] BuildError),
    /// The log filter.
    #[error("the log filter {filter:?} is not valid: {reason}")]
    Filter {
        /// What was asked for.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A log was installed before.
    #[error("cannot install the log: {0}")]
    Log(String),
}

/// The process's metrics; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    node: String,
    handle: PrometheusHandle,
}

impl Metrics {
    /// Installs the recorder of this process. Call it before anything registers a metric: handles made earlier record
    /// nothing.
    ///
    /// # Errors
    /// [`TelemetryError::Metrics`], also if a recorder was installed before.
    pub fn install(node: &str) -> Result<Self, TelemetryError> {
        let handle = builder(node)?.install_recorder()?;
        describe();
        Ok(Self { node: node.to_owned(), handle })
    }

    /// A recorder that is not the process's own, for `metrics::with_local_recorder` in tests.
    ///
    /// # Errors
    /// [`TelemetryError::Metrics`].
    pub fn detached(node: &str) -> Result<(Self, PrometheusRecorder), TelemetryError> {
        let recorder = builder(node)?.build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, describe);
        Ok((Self { node: node.to_owned(), handle }, recorder))
    }

    /// The metrics in Prometheus text form, the process's own included.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = self.handle.render();
        if let Some(stats) = process::ProcessStats::read() {
            stats.render(&self.node, &mut text);
        }
        process::render_runtime(&self.node, &mut text);
        text
    }

    /// Moves recorded histogram samples into their buckets; without it they pile up between scrapes.
    pub fn run_upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn builder(node: &str) -> Result<PrometheusBuilder, BuildError> {
    // Buckets for all first: a histogram without buckets would be exported as a summary.
    let mut builder = PrometheusBuilder::new().add_global_label("node", node).set_buckets(&COUNTS)?;
    for (suffix, buckets) in BUCKETS {
        builder = builder.set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), buckets)?;
    }
    Ok(builder)
}

/// Help texts of the runtime's own metrics.
fn describe() {
    use metrics::{describe_counter, describe_gauge};
    describe_counter!("actor_restarts_total", "Incarnations of an actor after its first");
    describe_counter!("actor_messages_total", "Messages that an actor handled");
    describe_counter!("actor_busy_milliseconds_total", "Time that an actor spent in its handler, waits included");
    describe_counter!("actor_mailbox_refused_total", "Messages refused because the actor's mailbox was full");
    describe_counter!("actor_supervisor_gave_up_total", "Supervisors that used up their restart budget");
    describe_counter!("application_exceptions_total", "Abnormal ends of actors: error, panic, killed, aborted");
    describe_gauge!("actor_mailbox_depth", "Messages waiting in an actor's mailbox or being handled");
    describe_gauge!("actor_mailbox_bound", "Places in an actor's mailbox");
    describe_gauge!("actors_running", "Actors that run, supervisors included");
    describe_gauge!("actor_edge_used", "Credit in use on an edge between actors");
    describe_gauge!("actor_edge_capacity", "Credit that an edge between actors has");
    describe_counter!("actor_edge_refused_total", "Messages refused because an edge had no credit left");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    #[test]
    fn every_histogram_has_buckets_and_none_is_a_summary() {
        let (metrics, recorder) = Metrics::detached("v1").unwrap();
        let names = [
            "http_request_duration_seconds",
            "blockchain_consensus_round_duration_ms",
            "batch_bytes",
            "ai_prediction_confidence_score",
            "wire_compression_ratio",
            "pool_hit_share",
            "batch_transactions",
            "anything",
        ];
        metrics::with_local_recorder(&recorder, || {
            for name in names {
                metrics::histogram!(name).record(0.5);
            }
        });
        metrics.run_upkeep();
        let text = metrics.render();
        for name in names {
            assert!(text.contains(&format!("# TYPE {name} histogram\n")), "{name} in\n{text}");
            assert!(text.contains(&format!("{name}_bucket{{node=\"v1\",le=\"+Inf\"}} 1\n")), "{name} in\n{text}");
        }
        assert!(!text.contains("quantile=") && !text.contains(" summary\n"), "{text}");
    }

    #[test]
    fn every_series_carries_the_node_and_every_metric_of_ours_a_help_text() {
        let (metrics, recorder) = Metrics::detached("v7").unwrap();
        metrics::with_local_recorder(&recorder, || {
            let registry = Registry::new("v7");
            registry.starting("v7/a", None, false);
            registry.sample();
            let _edge = crate::edge::Edge::new("bulk", 10);
        });
        let text = metrics.render();
        let series = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        for line in series {
            assert!(line.contains("node=\"v7\""), "{line}");
        }
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help in\n{text}");
        }
        for name in ["actor_restarts_total", "actor_mailbox_depth", "process_resident_memory_bytes", "actor_edge_used"]
        {
            assert!(text.contains(&format!("{name}{{")), "{name} in\n{text}");
        }
    }

    #[test]
    fn buckets_rise() {
        for (name, buckets) in BUCKETS.iter().copied().chain([("", &COUNTS[..])]) {
            assert!(buckets.windows(2).all(|pair| pair[0] < pair[1]), "{name}");
        }
    }
}
