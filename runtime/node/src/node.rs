//! `aurigraph node`: one node in the foreground, from its config to its last log line. A node whose disk is full waits here
//! and starts again.

use std::ffi::OsString;
use std::io::Read as _;
use std::time::Duration;

use aurigraph_actors::config::ClusterConfig;
use aurigraph_actors::crypto::use_back_end;
use aurigraph_actors::settings::{NodeSettings, OnFull};
use serde_json::json;
use tokio::sync::oneshot;

use crate::cli;
use crate::compose::{Frame, not_started};
use crate::error::{CliError, CliResult};
use crate::output::{Output, fields};
use crate::room::Want;
use crate::signals::Signals;
use crate::up::check_port;

/// How long the tree gets to stop in order: less than service managers wait before they kill. Hardly ever does it take a
/// second; `up`, which promises an end within five, does not wait for this.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Runs the node until a signal, the end of its tree, or (under `up`) the end of standard input.
///
/// # Errors
/// A config, port or data directory that cannot be used, or the reason why the tree ended.
pub async fn run(args: &cli::Node, output: Output) -> CliResult {
    let config = ClusterConfig::load(&args.config)?;
    let back_end = args.back_end.unwrap_or(config.crypto.back_end);
    use_back_end(back_end).map_err(|error| CliError::file(config.path(), error))?;
    let base = args.data_dir.clone().unwrap_or_else(|| config.default_data_dir());
    let mut settings = config.node_settings(&args.name, &base, args.init)?;
    settings.rejoin = args.rejoin;
    let name = settings.name.clone();
    check_port(&settings.name, "REST", settings.rest)?;
    check_port(&settings.name, "node", settings.listen)?;
    let mut signals = Signals::new()?;
    let mut orphaned = std::pin::pin!(watch_stdin(args.stop_with_stdin));
    let shown = started(&settings);
    let frame = Frame::set_up(&settings).await?;
    let want = Want::of(&settings);
    let ran = std::cell::Cell::new(false);
    let running = || {
        ran.set(true);
        output.print(&shown, fields);
    };
    let Some(next) = live(&frame, settings, &want, running, &mut signals, &mut orphaned).await? else { return Ok(()) };
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Next::Wait(reason) = next {
        let initialised = ran.get() || want.has_journal();
        if initialised {
            args = without_first_start(args);
        }
        tokio::select! {
            () = want.room(&frame, &reason, initialised) => {}
            () = signals.any() => return Ok(()),
            () = orphaned => return Ok(()),
        }
    }
    // What did not stop in order is gone with the process's image.
    Err(start_again(&name, args))
}

/// What comes after a node that is to start again.
enum Next {
    /// The start.
    Start,
    /// Room on the disk, for want of which it ended, and then the start.
    Wait(String),
}

/// The node's life, from the first look at its disk to the stop of its last actor. Returns none if it was told to end.
async fn live(
    frame: &Frame,
    settings: NodeSettings,
    want: &Want,
    running: impl FnOnce(),
    signals: &mut Signals,
    orphaned: &mut (impl Future<Output = ()> + Unpin),
) -> CliResult<Option<Next>> {
    let (name, waits) = (settings.name.clone(), settings.on_full == OnFull::Wait);
    // Before anything of the directory is opened: a start that is cut short by a full disk mends nothing.
    if let Some(no_room) = want.at_start().await {
        let reason = no_room.to_string();
        return if waits {
            Ok(Some(Next::Wait(reason)))
        } else {
            Err(CliError::failed(format!("node {name}: {reason}")))
        };
    }
    let node = match frame.start(settings).await {
        Ok(node) => node,
        Err(error) if waits && error.wants_room() => return Ok(Some(Next::Wait(error.to_string()))),
        Err(error) => return Err(not_started(&name, &error)),
    };
    running();
    let mut next = None;
    tokio::select! {
        reason = node.ended() => {
            next = if waits && node.wants_room() {
                Some(Next::Wait(reason))
            } else if node.starts_again() {
                Some(Next::Start)
            } else {
                return Err(CliError::failed(format!("node {name} ends: {reason}")));
            };
        }
        () = signals.any() => {}
        () = orphaned => {}
    }
    let stopped = node.shutdown(STOP_WITHIN).await;
    match next {
        Some(next) => Ok(Some(next)),
        None => stopped.map(|()| None).map_err(|error| CliError::failed(format!("node {name}: {error}"))),
    }
}

/// The command line without what is meant for a directory that has no journal yet: it has one now, and where that is gone
/// an operator decides.
fn without_first_start(args: Vec<OsString>) -> Vec<OsString> {
    args.into_iter().filter(|arg| arg != "--init" && arg != "--rejoin").collect()
}

/// Replaces this process by a new one with these arguments: same number, same standard streams, nothing else left.
/// Returns only if that fails.
fn start_again(name: &str, args: Vec<OsString>) -> CliError {
    use std::os::unix::process::CommandExt as _;
    let first = std::env::args_os().next().unwrap_or_else(|| "aurigraph".into());
    // The file may have been replaced by another version meanwhile: what runs goes on.
    let running = std::path::PathBuf::from("/proc/self/exe");
    let program = std::env::current_exe().ok().filter(|path| path.exists()).unwrap_or(running);
    let error = std::process::Command::new(program).arg0(first).args(args).exec();
    CliError::failed(format!("node {name} cannot start again: {error}"))
}

fn started(settings: &NodeSettings) -> serde_json::Value {
    json!({
        "node": settings.name,
        "pid": std::process::id(),
        "url": format!("http://{}", settings.rest),
        "dataDir": settings.data_dir,
        "chainId": settings.genesis.chain_id(),
    })
}

/// Completes when standard input ends; never, unless asked to watch it.
async fn watch_stdin(watch: bool) {
    if !watch {
        return std::future::pending().await;
    }
    let (ended, wait) = oneshot::channel::<()>();
    // A thread of its own: a blocking read in the runtime's pool would hold up the runtime's own end.
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while matches!(std::io::stdin().read(&mut buffer), Ok(read) if read > 0) {}
        drop(ended);
    });
    wait.await.unwrap_or(());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_starts_again_after_waiting_begins_no_journal() {
        let args = ["node", "--config", "c.toml", "--init", "--name", "v1", "--rejoin", "--data-dir", "d"];
        let left = without_first_start(args.iter().map(OsString::from).collect());
        assert_eq!(left, ["node", "--config", "c.toml", "--name", "v1", "--data-dir", "d"]);
    }
}
