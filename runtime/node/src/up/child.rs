//! One node as a child process: started with a pipe to its standard input, so that it stops when the pipe closes,
//! whatever happened to this process.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use aurigraph_actors::config::NodeEntry;
use tokio::process::{Child, ChildStdin, Command};

use crate::error::{CliError, CliResult, Exit};
use crate::http::NodeClient;

/// How long one question to a node may take while its state is shown.
const ASK_WITHIN: Duration = Duration::from_millis(800);
/// How much of a log's end is read to find its last line.
const LOG_TAIL: u64 = 16 << 10;

/// One node's process.
pub struct NodeProcess {
    /// The node's name.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// Where it answers.
    pub url: String,
    /// Its height when last asked; none if it does not answer.
    pub height: Option<u64>,
    log: PathBuf,
    child: Child,
    stdin: Option<ChildStdin>,
    client: NodeClient,
    exit: Option<ExitStatus>,
    reported: bool,
}

impl NodeProcess {
    /// Starts it.
    ///
    /// # Errors
    /// If its log cannot be opened or the process not be started.
    pub fn spawn(config: &Path, base: &Path, node: &NodeEntry, initialise: bool) -> CliResult<Self> {
        let logs = base.join("logs");
        let log = logs.join(format!("{}.log", node.name));
        let opened = std::fs::create_dir_all(&logs)
            .and_then(|()| std::fs::OpenOptions::new().create(true).append(true).open(&log))
            .and_then(|file| Ok((file.try_clone()?, file)));
        let (out, err) = opened.map_err(|error| CliError::file(&log, error))?;
        let program = std::env::current_exe().map_err(|error| CliError::failed(format!("own program: {error}")))?;
        let mut command = Command::new(program);
        command.arg("node").arg("--config").arg(config).arg("--name").arg(&node.name);
        command.arg("--data-dir").arg(base).arg("--stop-with-stdin");
        if initialise {
            command.arg("--init");
        }
        // A group of its own: Ctrl-C reaches this process alone, which then stops the nodes in order.
        command.stdin(Stdio::piped()).stdout(out).stderr(err).process_group(0).kill_on_drop(true);
        let failed = |error: std::io::Error| CliError::failed(format!("node {} cannot be started: {error}", node.name));
        let mut child = command.spawn().map_err(failed)?;
        let url = format!("http://{}", node.rest);
        Ok(Self {
            name: node.name.clone(),
            pid: child.id().unwrap_or(0),
            height: None,
            log,
            stdin: child.stdin.take(),
            child,
            client: NodeClient::with_timeout(&url, ASK_WITHIN),
            url,
            exit: None,
            reported: false,
        })
    }

    /// Does its process run.
    pub fn is_running(&mut self) -> bool {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().ok().flatten();
        }
        self.exit.is_none()
    }

    /// How it ended and what it said last; none while it runs.
    pub fn ended(&mut self) -> Option<String> {
        if self.is_running() {
            return None;
        }
        let status = self.exit.map_or_else(String::new, |status| status.to_string());
        Some(format!("{status}: {}", last_line(&self.log)))
    }

    /// [`NodeProcess::ended`], once.
    pub fn newly_ended(&mut self) -> Option<String> {
        let ended = self.ended().filter(|_| !self.reported)?;
        self.reported = true;
        Some(ended)
    }

    /// Which of the exit codes its end stands for.
    pub fn exit_meaning(&self) -> Exit {
        match self.exit.and_then(|status| status.code()) {
            Some(3) => Exit::BadFile,
            Some(4) => Exit::PortInUse,
            Some(5) => Exit::DataDirectory,
            _ => Exit::Failed,
        }
    }

    /// Is it caught up and does it reach a quorum. Remembers the height.
    pub async fn is_ready(&mut self) -> bool {
        if self.height.is_none() && self.client.get("/ready").await.is_ok() {
            self.refresh_height().await;
        }
        self.height.is_some()
    }

    /// Asks for the height.
    pub async fn refresh_height(&mut self) {
        let status = self.client.get("/consensus/status").await;
        self.height = status.ok().and_then(|status| status["height"].as_u64());
    }

    /// What the table says of it.
    pub fn state(&mut self) -> &'static str {
        match (self.is_running(), self.height.is_some()) {
            (true, true) => "running",
            (true, false) => "not answering",
            // Somebody ran `aurigraph node` for it.
            (false, true) => "running elsewhere",
            (false, false) => "dead",
        }
    }

    /// Closes its standard input.
    pub fn ask_to_stop(&mut self) {
        self.stdin = None;
    }

    /// Waits for its end; kills it at the deadline.
    pub async fn wait_or_kill(&mut self, deadline: tokio::time::Instant) {
        if tokio::time::timeout_at(deadline, self.child.wait()).await.is_err() {
            eprintln!("node {} did not stop in time and is killed", self.name);
            // It fails only for a process that has ended meanwhile.
            self.child.kill().await.ok();
        }
    }
}

/// The last line of a log; the message alone if the line is a JSON record.
fn last_line(log: &Path) -> String {
    let tail = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(log)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = tail().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("(it logged nothing)").trim();
    let record = serde_json::from_str::<serde_json::Value>(line).ok();
    record.and_then(|record| record["message"].as_str().map(str::to_owned)).unwrap_or_else(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_log_line_is_found_in_text_and_json() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("v1.log");
        assert_eq!(last_line(&log), "(it logged nothing)");
        std::fs::write(&log, "first\nport taken\n\n").unwrap();
        assert_eq!(last_line(&log), "port taken");
        std::fs::write(&log, "first\n{\"message\":\"disk full\",\"log.level\":\"ERROR\"}\n").unwrap();
        assert_eq!(last_line(&log), "disk full");
    }
}
