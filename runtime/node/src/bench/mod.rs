//! `aurigraph bench`: pre-signs transfers, drives them over HTTP, and reports what the nodes executed.
//!
//! Figures come from the nodes' own counters of executed receipts; nothing is counted because it was sent.

mod draw;
mod load;
mod parallel;
mod plan;
mod report;
mod senders;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aurigraph_actors::config::ClusterConfig;

use crate::cli;
use crate::error::{CliError, CliResult, Exit};
use crate::http::NodeClient;
use crate::output::Output;
use load::{Load, Target};
use plan::Plan;
use report::{NodeSample, Report};
use watch::Watcher;

/// How often memory is looked at.
const SAMPLE: Duration = Duration::from_secs(1);

/// Runs the command.
///
/// # Errors
/// A config without development accounts, unreachable nodes, or a load that committed nothing.
pub async fn run(args: &cli::Bench, output: Output) -> CliResult {
    let config = ClusterConfig::load(&args.config)?;
    let clients = clients(args, &config);
    let note = |text: &str| {
        if output == Output::Text {
            eprintln!("{text}");
        }
    };
    let plan = Plan::new(args, &config, &clients, &note).await?;
    note(&format!("signing {} transactions of {} transfers", plan.transactions(), args.operations_per_signature));
    let signing = Instant::now();
    let signed = tokio::task::block_in_place(|| plan.sign())?;
    note(&format!("signed in {:.1} s; loading", signing.elapsed().as_secs_f64()));

    let targets: Vec<Arc<Target>> =
        clients.iter().zip(signed).map(|(client, queue)| Arc::new(Target::new(client.clone(), queue))).collect();
    let watchers: Vec<Watcher> = targets.iter().map(|target| Watcher::start(Arc::clone(target))).collect();
    let load = Load::start(&targets, args);
    tokio::time::sleep(args.warm_up).await;
    let report = measure(args, &clients, &targets, &load).await?;
    load.stop();
    let report = report.finish(watchers, &load).pairs(plan.pairs());
    output.print(&report.json(), |_| report.text());
    if report.committed_operations() == 0 {
        return Err(CliError::new(Exit::Failed, "no operation was committed in the measured time"));
    }
    Ok(())
}

fn clients(args: &cli::Bench, config: &ClusterConfig) -> Vec<NodeClient> {
    if args.urls.is_empty() {
        return config.nodes.iter().map(|node| NodeClient::new(&format!("http://{}", node.rest))).collect();
    }
    args.urls.iter().map(|url| NodeClient::new(url)).collect()
}

/// Takes every node's counters before and after the measured time, and its memory meanwhile.
async fn measure(args: &cli::Bench, clients: &[NodeClient], targets: &[Arc<Target>], load: &Load) -> CliResult<Report> {
    for target in targets {
        target.measure_from_now();
    }
    let before = sample_all(clients).await?;
    let (own_cpu, start) = (report::own_cpu_seconds(), Instant::now());
    let mut peaks: Vec<u64> = before.iter().map(|sample| sample.resident_bytes).collect();
    while start.elapsed() < args.duration && !load.is_exhausted() {
        tokio::time::sleep(SAMPLE.min(args.duration.saturating_sub(start.elapsed()))).await;
        for (peak, sample) in peaks.iter_mut().zip(sample_all(clients).await?) {
            *peak = (*peak).max(sample.resident_bytes);
        }
    }
    let after = sample_all(clients).await?;
    let cpu = report::own_cpu_seconds() - own_cpu;
    Ok(Report::new(args, clients, &before, &after, &peaks, cpu).ended_early(load.is_exhausted()))
}

async fn sample_all(clients: &[NodeClient]) -> CliResult<Vec<NodeSample>> {
    let mut samples = Vec::with_capacity(clients.len());
    for client in clients {
        samples.push(NodeSample::ask(client).await?);
    }
    Ok(samples)
}
