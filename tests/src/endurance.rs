//! Nodes that die, again and again, under a load whose every answer is remembered: rolling restarts, deaths at random,
//! and a node that stays away for long. What they have in common is measured here: the longest time without a commit
//! anywhere, the time from a start to readiness, and that nothing acknowledged is lost or doubled.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;

use crate::healing::{MODES, audit};
use crate::simulator::rng::Rng;
use crate::steady::{Shape, SteadyLoad};
use crate::{Client, Cluster, eventually};

/// How often commits are looked for.
const LOOK: Duration = Duration::from_millis(20);
/// One look at one node may take this long; a node that is down answers at once.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// A node that was started must be ready, and level with the others, within this time; how long it took is told, so this is
/// only the end of all patience.
const BACK_WITHIN: Duration = Duration::from_secs(600);
/// Commits by which the others must go on without a node that is stopped, and the time for them.
const GO_ON: u64 = 20;
const GO_ON_WITHIN: Duration = Duration::from_secs(30);
/// Commits that a node may be behind the others and yet be called level with them.
const LEVEL: u64 = 10;

/// The newest commit of any node, and the longest time that it stood still.
#[derive(Debug)]
struct Pulse {
    newest: u64,
    since: Instant,
    longest: Duration,
}

/// A cluster under load whose nodes die.
pub struct Endurance {
    cluster: Cluster,
    load: SteadyLoad,
    shape: Shape,
    pulse: Arc<Mutex<Pulse>>,
    stopped: Arc<AtomicBool>,
    watchers: Vec<JoinHandle<()>>,
}

/// Newest commit that a node has executed; none if it does not answer.
async fn commits(client: &Client) -> Option<u64> {
    tokio::time::timeout(ANSWER_WITHIN, client.get("/consensus/status")).await.ok()?.body["executedCommitIndex"]
        .as_u64()
}

async fn watch(client: Client, pulse: Arc<Mutex<Pulse>>, stopped: Arc<AtomicBool>) {
    while !stopped.load(Ordering::Relaxed) {
        let found = commits(&client).await;
        {
            let mut pulse = pulse.lock().unwrap();
            pulse.longest = pulse.longest.max(pulse.since.elapsed());
            if found.is_some_and(|found| found > pulse.newest) {
                pulse.newest = found.unwrap_or_default();
                pulse.since = Instant::now();
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Endurance {
    /// Puts a ready cluster under load, through the first so many of its nodes.
    pub async fn new(cluster: Cluster, shape: Shape, through: usize, warm_up: Duration) -> Self {
        let wallets = cluster.config.development.as_ref().map_or(0, |it| u32::try_from(it.signers).unwrap());
        let load = SteadyLoad::start(cluster.wallets(wallets), &cluster.clients()[..through], shape);
        let pulse = Pulse { newest: 0, since: Instant::now(), longest: Duration::ZERO };
        let (pulse, stopped) = (Arc::new(Mutex::new(pulse)), Arc::<AtomicBool>::default());
        let watch = |client| tokio::spawn(watch(client, Arc::clone(&pulse), Arc::clone(&stopped)));
        let watchers = cluster.clients().into_iter().map(watch).collect();
        tokio::time::sleep(warm_up).await;
        pulse.lock().unwrap().longest = Duration::ZERO;
        Self { cluster, load, shape, pulse, stopped, watchers }
    }

    /// The longest time without a new commit at any node, since this was asked last.
    pub fn longest_pause(&self) -> Duration {
        let mut pulse = self.pulse.lock().unwrap();
        let longest = pulse.longest.max(pulse.since.elapsed());
        pulse.longest = Duration::ZERO;
        longest
    }

    /// The newest commit of any node.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.pulse.lock().unwrap().newest
    }

    /// Transactions that a node said are committed, so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.load.record.committed().values().map(Vec::len).sum()
    }

    /// How many nodes there are.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.cluster.len()
    }

    /// Stops a node in order, leaves it down until the others have gone on without it, and starts it again: the longest
    /// pause of commits, and the time until it was level again.
    pub async fn restart_in_order(&mut self, node: usize) -> (Duration, Duration) {
        self.longest_pause();
        assert_eq!(self.cluster.stop(node), Some(0), "{} did not end in order", self.cluster.name(node));
        let (stopped, what) = (self.newest(), format!("the others go on without {}", self.cluster.name(node)));
        eventually(&what, GO_ON_WITHIN, || async { (self.newest() > stopped + GO_ON).then_some(()) }).await;
        let back = self.start(node).await;
        (self.longest_pause(), back)
    }

    /// Starts a node and waits until it is ready and level with the others; says how long that took.
    pub async fn start(&mut self, node: usize) -> Duration {
        let started = Instant::now();
        self.cluster.launch(node, false);
        self.level(node).await;
        self.cluster.wait_ready(node..=node).await;
        started.elapsed()
    }

    /// Waits until a node has nearly all commits.
    pub async fn level(&self, node: usize) {
        let client = self.cluster.client(node);
        let what = format!("{} is level with the others", self.cluster.name(node));
        eventually(&what, BACK_WITHIN, || async { (commits(&client).await? + LEVEL >= self.newest()).then_some(()) })
            .await;
    }

    /// Ends a node's process at once.
    pub fn kill(&mut self, node: usize) {
        self.cluster.kill(node);
    }

    /// The most memory that a node's process has held, in bytes.
    #[must_use]
    pub fn peak_memory(&self, node: usize) -> u64 {
        self.cluster.peak_memory(node)
    }

    /// For some time, ends processes and actors at random: one process, sometimes two, seldom all, for up to three
    /// seconds; and between those deaths actors of running nodes. Goes on beyond that time until there were so many deaths of
    /// each kind. At the end everybody runs.
    pub async fn storm(&mut self, seed: u64, lasts: Duration, least: usize) -> Storm {
        let mut dice = Rng::new(seed);
        let (end, mut storm) = (Instant::now() + lasts, Storm::default());
        self.longest_pause();
        while Instant::now() < end || storm.processes < least || storm.actors < least {
            let down = match dice.below(20) {
                0 => self.nodes(),
                1..=3 => 2,
                4..=10 => 1,
                _ => 0,
            };
            if down == 0 {
                storm.actors += usize::from(self.strike(&mut dice, &mut storm).await);
            } else {
                self.fell(down, &mut dice, &mut storm).await;
            }
            storm.longest_pause = storm.longest_pause.max(self.longest_pause());
            tokio::time::sleep(Duration::from_millis(200 + dice.below(1_500))).await;
        }
        for node in 0..self.nodes() {
            if self.cluster.exited(node).is_some() {
                self.cluster.launch(node, false);
                self.cluster.wait_ready(node..=node).await;
            }
            self.level(node).await;
        }
        storm.returns.sort_unstable();
        storm
    }

    /// `kill -9` of one node, or of all at once, at a random moment, and a start at once without any other step; so often.
    /// Each round waits until all are ready and level before it ends.
    pub async fn kills(&mut self, seed: u64, rounds: usize, all: bool, mut told: impl FnMut(usize, Duration)) -> Storm {
        let (mut dice, mut storm) = (Rng::new(seed), Storm::default());
        self.longest_pause();
        for round in 1..=rounds {
            tokio::time::sleep(Duration::from_millis(dice.below(1_500))).await;
            let first = dice.index(self.nodes());
            let nodes: Vec<usize> = if all { (0..self.nodes()).collect() } else { vec![first] };
            for node in &nodes {
                self.cluster.kill(*node);
            }
            let started = Instant::now();
            for node in &nodes {
                self.cluster.launch(*node, false);
            }
            for node in &nodes {
                self.cluster.wait_ready(*node..=*node).await;
                self.level(*node).await;
            }
            storm.processes += nodes.len();
            storm.returns.push(started.elapsed());
            told(round, started.elapsed());
        }
        storm.longest_pause = self.longest_pause();
        storm.returns.sort_unstable();
        storm
    }

    /// Ends so many processes and starts them again one by one.
    async fn fell(&mut self, down: usize, dice: &mut Rng, storm: &mut Storm) {
        let first = dice.index(self.nodes());
        let nodes: Vec<usize> = (0..down).map(|more| (first + more) % self.nodes()).collect();
        for node in &nodes {
            // It may have ended by itself with an actor that has used up its restarts.
            self.cluster.kill(*node);
        }
        storm.processes += down;
        tokio::time::sleep(Duration::from_millis(dice.below(3_000))).await;
        let started = Instant::now();
        for node in &nodes {
            self.cluster.launch(*node, false);
        }
        for node in nodes {
            self.cluster.wait_ready(node..=node).await;
            self.level(node).await;
            storm.returns.push(started.elapsed());
        }
    }

    /// Kills an actor of a running node; false if the node would not.
    async fn strike(&mut self, dice: &mut Rng, storm: &mut Storm) -> bool {
        let node = dice.index(self.nodes());
        let client = self.cluster.client(node);
        let actors = client.get("/system/actors").await.body;
        let actors = actors["actors"].as_array().cloned().unwrap_or_default();
        // The root's death is the process's, which has its own turn.
        let children: Vec<&str> =
            actors.iter().filter(|row| row["parent"].is_string()).filter_map(|row| row["name"].as_str()).collect();
        if children.is_empty() {
            return false;
        }
        let (name, mode) = (children[dice.index(children.len())], MODES[dice.index(MODES.len())]);
        let path = format!("/system/actors/{}/kill", name.replace('/', "%2F"));
        let token = self.cluster.admin_token();
        let answer = client.post(&path, Some(&token), &json!({ "mode": mode })).await;
        if self.cluster.exited(node).is_some() {
            storm.ended.push(format!("{name} {mode}"));
            self.cluster.launch(node, false);
            self.cluster.wait_ready(node..=node).await;
        }
        matches!(answer.status, 0 | 200 | 202)
    }

    /// Ends the load and checks that nothing acknowledged is lost or doubled, and that all nodes have the same blocks.
    /// Says how many transactions that was checked for.
    pub async fn close(self) -> usize {
        let record = Arc::clone(&self.load.record);
        let wallets = self.load.stop().await;
        self.stopped.store(true, Ordering::Relaxed);
        for watcher in self.watchers {
            watcher.await.unwrap();
        }
        audit(&self.cluster, &self.cluster.client(0), &record, &wallets, self.shape.operations).await;
        record.committed().values().map(Vec::len).sum()
    }
}

/// What a storm did.
#[derive(Debug, Default)]
pub struct Storm {
    /// Processes that were ended.
    pub processes: usize,
    /// Actors that were killed.
    pub actors: usize,
    /// Deaths of actors that ended their process.
    pub ended: Vec<String>,
    /// From the start of a process to readiness and level with the others, ascending.
    pub returns: Vec<Duration>,
    /// The longest time without a commit anywhere; with two of four nodes down there can be none.
    pub longest_pause: Duration,
}

impl Storm {
    /// The return that so many in a hundred do not exceed.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let at = (self.returns.len() * percent / 100).min(self.returns.len().saturating_sub(1));
        self.returns.get(at).copied().unwrap_or_default()
    }
}
