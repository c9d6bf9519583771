//! `aurigraph doctor`: what is wrong with a stopped node's data directory, and what mends it.
//!
//! Looks at each part by itself and goes on after a finding, so that one run tells all. Changes nothing: what a start
//! would cut, upgrade, put in its place or set aside is said, not done. (Opening the store takes its lock and has sled write
//! what it writes at each opening; if it panics, word is left for the next start.)

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aurigraph_actors::config::ClusterConfig;
use aurigraph_actors::storage::{JournalError, JournalInspection, SUSPECT, Store, StoreError, StoreOptions, inspect};
use aurigraph_gpu::CpuHasher;
use aurigraph_ledger::{Foundation, Ledger};
use aurigraph_schema_upgrades::replace;
use serde::Serialize;

use crate::chain::{identity_of, node_of};
use crate::cli;
use crate::error::{CliError, CliResult, Exit};
use crate::output::{Output, table};

/// Below this a node that is loaded fills the disk within minutes.
const LITTLE_SPACE: u64 = 4 << 30;
/// Two journal segments and what the store writes besides: below this a start fails soon.
const NO_SPACE: u64 = 256 << 20;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Good,
    /// Worth knowing; a node starts all the same.
    Remark,
    /// A start fails, or something is lost.
    Wrong,
    /// Not looked at, because of another finding.
    Skipped,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    found: String,
    /// What to run or do.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    data_dir: String,
    healthy: bool,
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, check: &'static str, state: State, found: impl Into<String>, mend: Option<String>) {
        self.findings.push(Finding { check, state, found: found.into(), mend });
    }

    fn good(&mut self, check: &'static str, found: impl Into<String>) {
        self.add(check, State::Good, found, None);
    }

    fn text(&self) -> String {
        let state = |finding: &Finding| format!("{:?}", finding.state).to_lowercase();
        let rows: Vec<Vec<String>> =
            self.findings.iter().map(|it| vec![it.check.to_owned(), state(it), it.found.clone()]).collect();
        let mut lines = vec![table(&["check", "state", "found"], &rows)];
        lines
            .extend(self.findings.iter().filter_map(|it| Some(format!("to mend {}: {}", it.check, it.mend.as_ref()?))));
        lines.join("\n")
    }
}

/// Runs the command.
///
/// # Errors
/// [`Exit::BadFile`] for a config that cannot be read, [`Exit::DataDirectory`] if something is wrong.
pub fn run(args: &cli::ChainVerify, output: Output) -> CliResult {
    let config = ClusterConfig::load(&args.config)?;
    let dir = &args.data_dir;
    let mut report = Report { data_dir: dir.display().to_string(), healthy: true, findings: Vec::new() };
    report.good("config", format!("{} is valid, chain {}", args.config.display(), config.genesis.chain_id()));
    if directory(dir, &mut report) {
        let node = node_of(&config, dir).and_then(|node| Ok((identity_of(&config, &node)?.to_string(), node)));
        let node = match node {
            Ok(node) => Some(node),
            Err(problem) => {
                let mend = "give --config the cluster config that this node was started with".to_owned();
                report.add("node", State::Wrong, problem, Some(mend));
                None
            }
        };
        marks(dir, &mut report);
        let journal = journal(dir, node.as_ref().map(|(owner, _)| owner.as_str()), &mut report);
        let name = node.map_or_else(|| "doctor".to_owned(), |(_, node)| node.name);
        store(dir, &name, &config.genesis, journal, &mut report);
    }
    let wrong = report.findings.iter().filter(|finding| finding.state == State::Wrong).count();
    report.healthy = wrong == 0;
    output.print(&report, Report::text);
    match wrong {
        0 => Ok(()),
        _ => Err(CliError::new(Exit::DataDirectory, format!("{}: {wrong} of the checks found a fault", dir.display()))),
    }
}

/// The directory itself; false if there is nothing to look at.
fn directory(dir: &Path, report: &mut Report) -> bool {
    let metadata = match std::fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => {
            report.add("directory", State::Wrong, "it is not a directory", Some("give the node's own folder".into()));
            return false;
        }
        Err(error) => {
            let mend = "give the node's own folder; a new validator is started once with --init".to_owned();
            report.add("directory", State::Wrong, error.to_string(), Some(mend));
            return false;
        }
    };
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
    let path = dir.display();
    if mode & 0o200 == 0 {
        let found = format!("its owner may not write to it (mode {:o})", mode & 0o777);
        report.add("directory", State::Wrong, found, Some(format!("chmod u+rwx {path}")));
    } else if mode & 0o002 != 0 {
        let found = format!("everybody may write to it (mode {:o})", mode & 0o777);
        report.add("directory", State::Remark, found, Some(format!("chmod o-w {path}")));
    } else {
        report.good("directory", format!("mode {:o}", mode & 0o777));
    }
    match fs2::available_space(dir) {
        Ok(free) => {
            let found = format!("{} MiB are free", free >> 20);
            let mend =
                "make room, or move the directory to a larger disk; store.bad-* and store.backups may go".to_owned();
            match free {
                ..NO_SPACE => report.add("space", State::Wrong, found, Some(mend)),
                NO_SPACE..LITTLE_SPACE => report.add("space", State::Remark, found, Some(mend)),
                _ => report.good("space", found),
            }
        }
        Err(error) => report.add("space", State::Remark, error.to_string(), None),
    }
    true
}

/// What earlier runs and operators left beside the journal and the store.
fn marks(dir: &Path, report: &mut Report) {
    if let Ok(reason) = std::fs::read_to_string(dir.join(SUSPECT)) {
        let found = format!("an earlier run found the store damaged ({}): the next start sets it aside", reason.trim());
        let mend = "start the node: its store is rebuilt from the journal, the old one kept".to_owned();
        report.add("marks", State::Remark, found, Some(mend));
    }
    if dir.join("RESTORED").exists() {
        let found = "RESTORED: the validator signs again once its peers prove what it signed last";
        report.add("marks", State::Remark, found, None);
    }
    let names = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let kept: Vec<String> = names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("store.bad") || name.starts_with("store.before-restore"))
        .collect();
    if !kept.is_empty() {
        let mend = "remove them once nobody wants to look at them".to_owned();
        report.add("marks", State::Remark, format!("stores that were set aside: {}", kept.join(", ")), Some(mend));
    }
    let place = dir.join("store");
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let left: Vec<String> = replace::leftovers(&place).iter().map(name).collect();
    if replace::is_unsettled(&place) {
        let found = "the store was rewritten, and is not in its place yet: the next start puts it there";
        report.add("marks", State::Remark, found, None);
    } else if !left.is_empty() {
        let found = format!("what a rewriting of the store left: {}", left.join(", "));
        report.add("marks", State::Remark, found, Some("start the node: it removes them".to_owned()));
    }
}

fn journal(dir: &Path, expected: Option<&str>, report: &mut Report) -> Option<JournalInspection> {
    if !dir.join("journal").is_dir() {
        let mend = "a new validator is started once with --init, one whose directory was lost with --rejoin".to_owned();
        report.add("journal", State::Wrong, "there is no journal in it", Some(mend));
        return None;
    }
    let found = match inspect(dir) {
        Ok(found) => found,
        Err(error) => {
            let mend = match &error {
                JournalError::InUse { .. } => "stop the node first",
                JournalError::Corrupt { .. } => {
                    "restore the directory from a copy and leave a file RESTORED in it, or move it away and start \
                     the node with --rejoin"
                }
                JournalError::NoOwner { .. } => "give the node's own folder",
                _ => "mend what the operating system refuses, then look again",
            };
            report.add("journal", State::Wrong, error.to_string(), Some(mend.to_owned()));
            return None;
        }
    };
    match (&found.owner, expected) {
        (None, _) => {
            let mend = "start the validator once with --init, or with --rejoin if its directory was lost".to_owned();
            report.add("owner", State::Wrong, "the log has not begun", Some(mend));
        }
        (Some(owner), Some(expected)) if owner != expected => {
            let found = format!("it belongs to {owner}; the config says {expected}");
            report.add("owner", State::Wrong, found, Some("give the config and the folder of one node".into()));
        }
        (Some(owner), _) => report.good("owner", owner.clone()),
    }
    let (records, segments, mib) = (found.records, found.segments, found.bytes >> 20);
    report.good("journal", format!("{records} records in {segments} segments, {mib} MiB, every frame whole"));
    if let (Some(first), Some(commit)) = (found.pruned_before, found.lowest_commit) {
        report.good(
            "pruned",
            format!("the log begins with segment {first} and commit {commit}; what must outlive that is kept"),
        );
    }
    if let Some((path, offset, what)) = &found.torn {
        let found = format!("{} ends torn at offset {offset} ({what})", path.display());
        let mend = "start the node: the tail was never acknowledged and is cut".to_owned();
        report.add("tail", State::Remark, found, Some(mend));
    } else {
        report.good("tail", "clean");
    }
    let (commit, mark) = (found.highest_commit.unwrap_or(0), found.highest_mark.unwrap_or(0));
    let snapshot =
        found.highest_snapshot.map_or("no consensus snapshot".into(), |at| format!("snapshot at commit {at}"));
    report.good("log", format!("commits up to {commit}, executed up to {mark}, {snapshot}"));
    Some(found)
}

fn store(dir: &Path, name: &str, genesis: &Foundation, journal: Option<JournalInspection>, report: &mut Report) {
    let Some(journal) = journal else {
        report.add("store", State::Skipped, "the journal has to be in order first", None);
        return;
    };
    if !dir.join("store").is_dir() && !replace::is_unsettled(&dir.join("store")) {
        let mend = "start the node: the store is rebuilt from the journal".to_owned();
        report.add("store", State::Remark, "there is no store", Some(mend));
        return;
    }
    let store = match Store::examine(dir, name, StoreOptions { upgrade: false, ..StoreOptions::default() }) {
        Ok(store) => store,
        Err(error) => {
            let damaged = error.is_damage() || matches!(&error, StoreError::Schema(error) if error.is_damage());
            // Every other refusal of the schema names the command that mends it.
            let mend = damaged.then(|| "start the node: it sets the store aside and rebuilds it".to_owned());
            report.add("store", State::Wrong, error.to_string(), mend);
            return;
        }
    };
    let reader = store.reader();
    let version = reader.schema_version().map_or_else(|error| error.to_string(), |version| version.to_string());
    report.good("schema", format!("version {version}, the newest"));
    let mend = || Some("start the node: the state is rebuilt from the journal".to_owned());
    match reader.latest_checkpoint() {
        Ok(None) => {
            let found = "no state is stored yet, or none whose checksums hold: a start executes the log from genesis";
            report.add("state", State::Remark, found, None);
        }
        Ok(Some(stored)) => {
            let (height, index, root) = (stored.height, stored.commit_index, stored.state_root);
            match Ledger::import(genesis, Arc::new(CpuHasher), stored.pages) {
                Ok(_) => {
                    let behind = journal.highest_commit.unwrap_or(0).saturating_sub(index);
                    report.good("state", format!("height {height}, root {root} holds; {behind} commits to execute"));
                }
                Err(error) => report.add("state", State::Wrong, format!("height {height}: {error}"), mend()),
            }
        }
        Err(error) => report.add("state", State::Wrong, error.to_string(), mend()),
    }
}
