//! `aurigraph up`: every node of a config as a child process, watched until it is told to stop.

mod child;
mod dev_files;
mod view;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aurigraph_actors::config::ClusterConfig;
use serde_json::json;

use crate::cli;
use crate::error::{CliError, CliResult, Exit};
use crate::output::{Output, json_line};
use crate::signals::Signals;
use child::NodeProcess;
use view::View;

/// All nodes must answer ready within this; a cold start derives keys and opens the store first.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// Time that nodes get to stop in order before they are killed: the promise is five seconds in all.
const STOP_WITHIN: Duration = Duration::from_millis(4_500);
/// How often heights are asked for.
const REFRESH: Duration = Duration::from_secs(1);
/// How often readiness is asked for while starting.
const READY_POLL: Duration = Duration::from_millis(50);

/// Runs the command until a signal, or until every node has ended.
///
/// # Errors
/// A config, port or directory that cannot be used, or a node that ends before the cluster is ready.
pub async fn run(args: &cli::Up, output: Output) -> CliResult {
    let config = ClusterConfig::load(&args.config)?;
    let base = args.data_dir.clone().unwrap_or_else(|| config.default_data_dir());
    check_ports(&config)?;
    if args.fresh {
        remove_directories(&config, &base)?;
    }
    let initialise = must_initialise(&config, &base)?;
    let curl = dev_files::write(&config, &base)?;
    let mut signals = Signals::new()?;
    let mut nodes = Vec::new();
    for node in &config.nodes {
        nodes.push(NodeProcess::spawn(&args.config, &base, node, initialise)?);
    }
    write_nodes_file(&base, &nodes)?;
    let mut view = View::new(output);
    let started = tokio::select! {
        started = wait_ready(&mut nodes, &view) => started,
        () = signals.any() => { stop(nodes).await; return Ok(()) }
    };
    if let Err(error) = started {
        stop(nodes).await;
        return Err(error);
    }
    view.ready(&nodes, &base, curl.as_deref());
    watch(&mut nodes, &mut view, &mut signals, &args.config, &base).await;
    view.stopping();
    let all_dead = nodes.iter_mut().all(|node| !node.is_running());
    stop(nodes).await;
    if all_dead { Err(CliError::failed("every node has ended")) } else { Ok(()) }
}

/// Binds and frees every port, so that a taken one is named before anything is started.
fn check_ports(config: &ClusterConfig) -> CliResult {
    for node in &config.nodes {
        check_port(&node.name, "REST", node.rest)?;
        check_port(&node.name, "node", node.listen)?;
    }
    Ok(())
}

/// Names a port that cannot be listened on.
///
/// # Errors
/// [`Exit::PortInUse`], or that the address is none of this machine.
pub fn check_port(node: &str, what: &str, address: std::net::SocketAddr) -> CliResult {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let message = format!("{what} port {address} of node {node} is in use by another process");
            Err(CliError::new(Exit::PortInUse, message))
        }
        Err(error) => Err(CliError::failed(format!("{what} address {address} of node {node}: {error}"))),
    }
}

fn remove_directories(config: &ClusterConfig, base: &Path) -> CliResult {
    let own = config.nodes.iter().map(|node| config.node_dir(node, base));
    for dir in own.chain([base.join("dev"), base.join("logs")]) {
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(CliError::file(&dir, error)),
            _ => {}
        }
    }
    Ok(())
}

/// Does a node's directory hold a journal.
fn is_initialised(dir: &Path) -> bool {
    std::fs::read_dir(dir.join("journal")).is_ok_and(|mut entries| entries.next().is_some())
}

/// All directories are new: initialise them. All are known: do not. Anything else is a validator whose memory is gone.
fn must_initialise(config: &ClusterConfig, base: &Path) -> CliResult<bool> {
    let (known, new): (Vec<_>, Vec<_>) =
        config.nodes.iter().partition(|node| is_initialised(&config.node_dir(node, base)));
    match (known.first(), new.first()) {
        (Some(known), Some(new)) => Err(CliError::new(
            Exit::DataDirectory,
            format!(
                "{}: not initialised, while {} is. A validator without its journal cannot know what it signed; start it \
                 once with `aurigraph node --rejoin` beside the others, or start the chain anew with --fresh",
                config.node_dir(new, base).display(),
                config.node_dir(known, base).display()
            ),
        )),
        (known, _) => Ok(known.is_none()),
    }
}

/// For tools on this machine that want to know which process is which node.
fn write_nodes_file(base: &Path, nodes: &[NodeProcess]) -> CliResult {
    let path = nodes_file(base);
    let list: Vec<_> = nodes.iter().map(|node| json!({"name": node.name, "pid": node.pid, "url": node.url})).collect();
    std::fs::write(&path, json_line(&list)).map_err(|error| CliError::file(&path, error))
}

/// Where `up` writes which process is which node.
pub fn nodes_file(base: &Path) -> PathBuf {
    base.join("nodes.json")
}

async fn wait_ready(nodes: &mut [NodeProcess], view: &View) -> CliResult {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let mut waiting = Vec::new();
        for node in nodes.iter_mut() {
            if let Some(ended) = node.ended() {
                let message = format!("node {} ended before it was ready: {ended}", node.name);
                return Err(CliError::new(node.exit_meaning(), message));
            }
            if !node.is_ready().await {
                waiting.push(node.name.clone());
            }
        }
        view.progress(&waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let names = waiting.join(", ");
            return Err(CliError::new(Exit::Unreachable, format!("not ready after {READY_WITHIN:?}: {names}")));
        }
        tokio::time::sleep(READY_POLL).await;
    }
}

/// Shows the nodes until a signal comes or none is left.
async fn watch(nodes: &mut [NodeProcess], view: &mut View, signals: &mut Signals, config: &Path, base: &Path) {
    loop {
        tokio::select! {
            () = signals.any() => return,
            () = tokio::time::sleep(REFRESH) => {}
        }
        for node in nodes.iter_mut() {
            if let Some(ended) = node.newly_ended() {
                view.died(node, &ended, &bring_back(config, base, &node.name));
            }
        }
        if nodes.iter_mut().all(|node| !node.is_running()) {
            return;
        }
        if view.is_live() {
            for node in nodes.iter_mut() {
                node.refresh_height().await;
            }
            view.refresh(nodes);
        }
    }
}

fn bring_back(config: &Path, base: &Path, name: &str) -> String {
    format!("aurigraph node --config {} --data-dir {} --name {name}", config.display(), base.display())
}

/// Closes every child's standard input, which is its sign to stop in order, and kills what is left at the deadline.
async fn stop(mut nodes: Vec<NodeProcess>) {
    for node in &mut nodes {
        node.ask_to_stop();
    }
    let deadline = tokio::time::Instant::now() + STOP_WITHIN;
    for node in &mut nodes {
        node.wait_or_kill(deadline).await;
    }
}
