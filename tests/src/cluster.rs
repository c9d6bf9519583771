//! A cluster of real processes, started from a shipped config on free ports in a folder of its own.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aurigraph_actors::config::ClusterConfig;
use fs2::FileExt as _;

use crate::proxy::Proxy;
use crate::{Client, Wallet, ports};

/// How long a node may take to be ready on a machine that does other things too.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

/// How a cluster differs from its shipped config.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Texts of the config to replace.
    pub replace: Vec<(&'static str, &'static str)>,
    /// Put a relay between every two nodes, so that links can be cut.
    pub proxied: bool,
}

impl Options {
    /// Logs of small segments that are pruned as early as may be, with snapshots every 25 blocks.
    #[must_use]
    pub fn pruned() -> Self {
        Self {
            replace: vec![
                ("archive = true", "archive = false"),
                ("keep_seconds = 86400", "keep_seconds = 0"),
                ("keep_commits = 20000", "keep_commits = 256"),
                ("keep_mib = 1024", "keep_mib = 0"),
                ("segment_mib = 64", "segment_mib = 1"),
                ("snapshot_every_blocks = 10000", "snapshot_every_blocks = 25"),
                ("checkpoint_every_ms = 30000", "checkpoint_every_ms = 1000"),
            ],
            ..Self::default()
        }
    }
}

struct Node {
    name: String,
    rest: SocketAddr,
    config: PathBuf,
    child: Option<Child>,
}

/// A cluster.
pub struct Cluster {
    /// What its nodes were started with.
    pub config: ClusterConfig,
    pub(crate) binary: PathBuf,
    folder: tempfile::TempDir,
    nodes: Vec<Node>,
    /// Relays by (who dials, who is dialled).
    proxies: HashMap<(usize, usize), Proxy>,
    // One cluster at a time on this machine: two would measure each other.
    _turn: std::fs::File,
}

/// Waits until a condition holds.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    within: Duration,
    mut condition: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// The folder of the shipped configs.
#[must_use]
pub fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster-configs")
}

fn take_turn() -> std::fs::File {
    let path = std::env::temp_dir().join("aurigraph-testkit.lock");
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
    file.lock_exclusive().unwrap();
    file
}

impl Cluster {
    /// Starts all nodes of a shipped config and waits until they are ready.
    pub async fn start(binary: &str, config: &str, options: Options) -> Self {
        let mut cluster = Self::prepare(binary, config, options).await;
        for node in 0..cluster.len() {
            cluster.launch(node, true);
        }
        cluster.wait_ready(0..cluster.len()).await;
        cluster
    }

    /// Writes the configs and starts nothing.
    pub async fn prepare(binary: &str, config: &str, options: Options) -> Self {
        let turn = tokio::task::spawn_blocking(take_turn).await.unwrap();
        let mut text = std::fs::read_to_string(configs().join(config)).unwrap();
        for (from, to) in &options.replace {
            assert!(text.contains(from), "{config} does not contain {from:?}");
            text = text.replace(from, to);
        }
        let folder = tempfile::tempdir().unwrap();
        // The replaced text may list other nodes than the shipped one.
        let replaced = folder.path().join("replaced.toml");
        std::fs::write(&replaced, &text).unwrap();
        let shipped = ClusterConfig::load(&replaced).unwrap();
        let (mut nodes, mut listen) = (Vec::new(), Vec::new());
        for node in &shipped.nodes {
            let (rest, listener) = (ports::free(), ports::free());
            text = text.replace(&format!("\"{}\"", node.rest), &format!("\"{rest}\""));
            text = text.replace(&format!("\"{}\"", node.listen), &format!("\"{listener}\""));
            let config = folder.path().join(format!("{}.toml", node.name));
            nodes.push(Node { name: node.name.clone(), rest, config, child: None });
            listen.push(listener);
        }
        let mut proxies = HashMap::new();
        for from in 0..nodes.len() {
            let mut own = text.clone();
            for to in (0..nodes.len()).filter(|to| options.proxied && *to != from) {
                let proxy = Proxy::start(listen[to]).await;
                own = own.replace(&format!("\"{}\"", listen[to]), &format!("\"{}\"", proxy.address));
                proxies.insert((from, to), proxy);
            }
            std::fs::write(&nodes[from].config, own).unwrap();
        }
        let config = ClusterConfig::load(&nodes[0].config).unwrap();
        Self { config, binary: binary.into(), folder, nodes, proxies, _turn: turn }
    }

    /// How many nodes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// A cluster has nodes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A node's name.
    #[must_use]
    pub fn name(&self, node: usize) -> &str {
        &self.nodes[node].name
    }

    /// A node's config file.
    #[must_use]
    pub fn config_file(&self, node: usize) -> &Path {
        &self.nodes[node].config
    }

    /// The folder with one folder a node.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A node's own folder.
    #[must_use]
    pub fn node_dir(&self, node: usize) -> PathBuf {
        self.data_dir().join(self.name(node))
    }

    /// A client of a node.
    #[must_use]
    pub fn client(&self, node: usize) -> Client {
        Client::new(&format!("http://{}", self.nodes[node].rest))
    }

    /// Clients of all nodes.
    #[must_use]
    pub fn clients(&self) -> Vec<Client> {
        (0..self.len()).map(|node| self.client(node)).collect()
    }

    /// Wallets of the first accounts.
    #[must_use]
    pub fn wallets(&self, count: u32) -> Vec<Wallet> {
        (0..count).map(|index| Wallet::of(&self.config, index)).collect()
    }

    /// The admin token of a development cluster.
    #[must_use]
    pub fn admin_token(&self) -> String {
        self.config.development.as_ref().expect("a development config").admin_token()
    }

    /// The token that may sign for the first account.
    #[must_use]
    pub fn account_token(&self) -> String {
        self.config.development.as_ref().expect("a development config").account_token()
    }

    /// Starts a node's process.
    pub fn launch(&mut self, node: usize, initialise: bool) {
        self.launch_under(&[], node, initialise);
    }

    /// Starts a node's process with an empty directory in place of a lost one.
    pub fn rejoin(&mut self, node: usize) {
        let binary = self.binary.clone();
        self.launch_as(&[binary.as_path()], node, Some("--rejoin"));
    }

    /// Starts a node's process by way of a command that becomes it (such as `nsenter`).
    pub fn launch_under(&mut self, wrapper: &[String], node: usize, initialise: bool) {
        let binary = self.binary.clone();
        let words: Vec<&Path> = wrapper.iter().map(Path::new).chain([binary.as_path()]).collect();
        self.launch_as(&words, node, initialise.then_some("--init"));
    }

    fn launch_as(&mut self, words: &[&Path], node: usize, flag: Option<&str>) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file(node)).unwrap();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(["node", "--stop-with-stdin", "--name", &self.nodes[node].name]);
        command.arg("--config").arg(&self.nodes[node].config).arg("--data-dir").arg(self.data_dir());
        command.args(flag);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.nodes[node].child = Some(child);
    }

    fn log_file(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("{}.log", self.name(node)))
    }

    /// What a node has logged.
    #[must_use]
    pub fn log(&self, node: usize) -> String {
        std::fs::read_to_string(self.log_file(node)).unwrap_or_default()
    }

    /// The last line that a node has written: what an operator sees first.
    #[must_use]
    pub fn last_line(&self, node: usize) -> String {
        self.log(node).lines().next_back().unwrap_or_default().to_owned()
    }

    fn log_end(&self, node: usize) -> String {
        let log = self.log(node);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Ends a node's process as a power cut would (but for the page cache, which survives).
    pub fn kill(&mut self, node: usize) {
        let mut child = self.nodes[node].child.take().expect("the node runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends a node's process in order and gives its exit code.
    pub fn stop(&mut self, node: usize) -> Option<i32> {
        let mut child = self.nodes[node].child.take().expect("the node runs");
        drop(child.stdin.take());
        child.wait().unwrap().code()
    }

    /// The process id of a running node.
    #[must_use]
    pub fn pid(&self, node: usize) -> u32 {
        self.nodes[node].child.as_ref().expect("the node runs").id()
    }

    /// A node's exit code, if its process has ended.
    pub fn exited(&mut self, node: usize) -> Option<i32> {
        self.nodes[node].child.as_mut()?.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }

    /// Bytes that a running node holds in memory now.
    #[must_use]
    pub fn memory(&self, node: usize) -> u64 {
        self.memory_line(node, "VmRSS:")
    }

    /// The most bytes that a running node has held in memory.
    #[must_use]
    pub fn peak_memory(&self, node: usize) -> u64 {
        self.memory_line(node, "VmHWM:")
    }

    fn memory_line(&self, node: usize, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid(node))).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a running process");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
    }

    /// Sends a signal, by its name without SIG, to a node's process.
    pub fn signal(&self, node: usize, name: &str) {
        let pid = self.pid(node).to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success(), "kill -s {name} {pid}");
    }

    /// Starts a node again and waits until it is ready.
    pub async fn restart(&mut self, node: usize) {
        self.launch(node, false);
        self.wait_ready(node..=node).await;
    }

    /// Waits until nodes are ready.
    pub async fn wait_ready(&mut self, nodes: impl IntoIterator<Item = usize>) {
        for node in nodes {
            let (client, deadline) = (self.client(node), Instant::now() + READY_WITHIN);
            while client.get("/ready").await.status != 200 {
                if let Some(code) = self.exited(node) {
                    panic!("{} ended with {code}:\n{}", self.name(node), self.log_end(node));
                }
                if Instant::now() > deadline {
                    let ready = client.get("/ready").await.body;
                    panic!("{} is not ready: {ready}\n{}", self.name(node), self.log_end(node));
                }
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// Cuts or heals every link between two groups of nodes.
    pub fn partition(&self, left: &[usize], right: &[usize], cut: bool) {
        for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b))) {
            for pair in [(a, b), (b, a)] {
                let proxy = self.proxies.get(&pair).expect("the cluster is proxied");
                if cut { proxy.cut() } else { proxy.heal() }
            }
        }
    }

    /// Waits until a node's height is above `height`.
    pub async fn wait_above(&self, node: usize, height: u64, within: Duration) -> u64 {
        let client = self.client(node);
        let what = format!("{} is above height {height}", self.name(node));
        eventually(&what, within, || async { client.height().await.filter(|found| *found > height) }).await
    }

    /// Waits until all these nodes have the greatest height that any of them has now, then compares hash and state root
    /// at every height. Returns the height.
    pub async fn wait_equal(&self, nodes: &[usize], within: Duration) -> u64 {
        let target = self.wait_level(nodes, within).await;
        self.compare(nodes, 1..=target).await;
        target
    }

    /// As [`Self::wait_equal`], for chains too long to be compared block by block: a block's hash covers the one before,
    /// so the newest speak for all.
    pub async fn wait_equal_tip(&self, nodes: &[usize], within: Duration) -> u64 {
        const COMPARED: u64 = 50;
        let target = self.wait_level(nodes, within).await;
        self.compare(nodes, target.saturating_sub(COMPARED).max(1)..=target).await;
        target
    }

    async fn wait_level(&self, nodes: &[usize], within: Duration) -> u64 {
        let mut target = 0;
        for node in nodes {
            target = target.max(self.client(*node).height().await.unwrap_or(0));
        }
        for node in nodes {
            if target > 0 {
                self.wait_above(*node, target - 1, within).await;
            }
        }
        target
    }

    async fn compare(&self, nodes: &[usize], heights: RangeInclusive<u64>) {
        for height in heights {
            let first = self.client(nodes[0]).block(height).await;
            assert!(first.is_some(), "{} has no block {height}", self.name(nodes[0]));
            for node in &nodes[1..] {
                let other = self.client(*node).block(height).await;
                assert_eq!(other, first, "block {height} of {} and {}", self.name(*node), self.name(nodes[0]));
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in 0..self.nodes.len() {
            if let Some(mut child) = self.nodes[node].child.take() {
                // It may have ended by itself.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if std::thread::panicking() {
            let kept = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap()).keep();
            eprintln!("the nodes' files are kept in {}", kept.display());
        }
    }
}
