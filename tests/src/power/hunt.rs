//! Records a cluster under load, cuts its power at random places of the recording, and starts what is left of it.
//!
//! All nodes log into one file, so that one place in it is one moment for all. After each cut all nodes are started with
//! what their disks hold; every transaction whose acknowledgement the client had before that moment must still be there,
//! once, at every node, and the cluster must go on. The next recording begins with what a cut left, so that recovery
//! itself is cut as well; the first begins with nothing, so that the making of a data directory is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aurigraph_ledger::transaction::Transaction;
use serde_json::Value;

use super::{Change, Disk, Recorder};
use crate::simulator::rng::Rng;
use crate::{Client, Cluster, Options, Wallet, eventually};

const WITHIN: Duration = Duration::from_secs(60);
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Transactions expire so many heights after the one that is known.
const EXPIRES_AFTER: u64 = 5_000;
/// Accounts that only receive: the one of a sender is so far behind it.
const TARGETS: u32 = 200;
/// Sends one transaction after every cut.
const PROBE: u32 = 63;
const MARK_READY: &str = "ready";

/// What to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The shipped config.
    pub config: &'static str,
    /// Texts of it to replace.
    pub replace: Vec<(&'static str, &'static str)>,
    /// Where all chance comes from, but for the nodes' own timing.
    pub seed: u64,
    /// How many recordings, each cut equally often.
    pub recordings: usize,
    /// How many cuts, over all recordings; or how many damages.
    pub cuts: usize,
    /// How long each recording is under load.
    pub load: Duration,
    /// Who sends: each waits for its transaction before the next.
    pub senders: u32,
    /// Transfers in each transaction.
    pub operations: u32,
}

/// What was found out, all of it being in order: a loss panics.
#[derive(Debug, Default)]
pub struct Hunt {
    /// Cuts made, or damages.
    pub cuts: usize,
    /// Acknowledged transactions looked for, over all cuts and nodes.
    pub looked_for: usize,
    /// Cuts of a cluster that had not yet been ready for the first time in its recording.
    pub during_start: usize,
    /// Entries of all recordings.
    pub entries: usize,
    /// The most bytes that were written and not synced at a cut.
    pub most_unsafe: usize,
    /// How often a node set its store aside.
    pub set_aside: usize,
    /// How often a node had rewritten its store to the end while it was recorded.
    pub rewritings: usize,
    /// From the start of all nodes after a cut until all were ready, ascending.
    pub starts: Vec<Duration>,
}

/// Acknowledged transactions: nonces by sender, and ids.
#[derive(Debug, Clone, Default)]
pub(super) struct Acknowledged {
    nonces: BTreeMap<u32, BTreeSet<u64>>,
    pub(super) ids: Vec<String>,
}

impl Acknowledged {
    pub(super) fn take(&mut self, mark: &str) {
        let words: Vec<&str> = mark.split(' ').collect();
        if let [sender, nonce, id] = words[..] {
            self.nonces.entry(sender.parse().unwrap()).or_default().insert(nonce.parse().unwrap());
            self.ids.push(id.to_owned());
        }
    }
}

/// How often the nodes have rewritten their stores since they were prepared.
fn rewritings(cluster: &Cluster) -> usize {
    (0..cluster.len()).map(|node| cluster.log(node).matches("the store is rewritten").count()).sum()
}

/// One account's nonces, as a node tells them.
async fn used_nonces(client: &Client, wallet: &Wallet) -> Option<(u64, BTreeSet<u64>)> {
    let answer = client.get(&format!("/gateway/balance/{}", wallet.address)).await.body;
    let above = answer["usedNonces"].as_array()?.iter().filter_map(Value::as_u64).collect();
    Some((answer["nonceBase"].as_u64()?, above))
}

fn transaction(wallet: &mut Wallet, operations: u32, height: u64) -> Transaction {
    wallet.expiry = height + EXPIRES_AFTER;
    let to = TARGETS + wallet.index;
    wallet.transfers((0..operations).map(|_| (to, 1)))
}

/// Sends until it is committed; false if told to stop before.
async fn commit(client: &Client, transaction: &Transaction, stopped: &AtomicBool) -> bool {
    while !stopped.load(Ordering::Relaxed) {
        let answer = client.post_bytes("/blockchain/transactions", transaction.shared_bytes()).await;
        match answer.status {
            200 => return true,
            202 | 409 => {
                let path = format!("/blockchain/transactions/{}", transaction.id());
                if client.get(&path).await.body["status"] == "committed" {
                    return true;
                }
            }
            _ => {}
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
    false
}

pub(super) struct Load {
    stopped: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    /// Starts senders at all nodes; what they are told is marked in the recording, right when they know.
    pub(super) fn start(wallets: Vec<Wallet>, clients: &[Client], operations: u32, recorder: &Recorder) -> Self {
        let (stopped, height) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let tasks = wallets.into_iter().enumerate().map(|(at, mut wallet)| {
            let (client, recorder) = (clients[at % clients.len()].clone(), recorder.clone());
            let (stopped, height) = (Arc::clone(&stopped), Arc::clone(&height));
            tokio::spawn(async move {
                while !stopped.load(Ordering::Relaxed) {
                    height.fetch_max(client.height().await.unwrap_or(0), Ordering::Relaxed);
                    let nonce = wallet.nonce;
                    let transaction = transaction(&mut wallet, operations, height.load(Ordering::Relaxed));
                    if commit(&client, &transaction, &stopped).await {
                        recorder.mark(&format!("{} {nonce} {}", wallet.index, transaction.id()));
                    }
                }
            })
        });
        Self { tasks: tasks.collect(), stopped }
    }

    pub(super) async fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

/// A recording: where it began, and where it can be cut.
struct Recording {
    recorder: Recorder,
    /// What stood on the disks at its beginning.
    disk: Disk,
    /// What was acknowledged before it.
    before: Acknowledged,
    /// Places of entries that change or sync something, before the cluster was ready and after, and behind marks.
    starting: Vec<usize>,
    running: Vec<usize>,
    marks: Vec<usize>,
    entries: usize,
}

impl Recording {
    fn survey(recorder: Recorder, disk: Disk, before: Acknowledged) -> Self {
        let (mut starting, mut running, mut marks, mut entries, mut ready) = (vec![], vec![], vec![], 0, false);
        for (at, entry) in recorder.tape().enumerate() {
            entries = at + 1;
            match entry.change {
                Change::Mark(text) if text == MARK_READY => ready = true,
                Change::Mark(_) => marks.push(entries),
                _ if ready => running.push(entries),
                _ => starting.push(entries),
            }
        }
        assert!(!starting.is_empty() && !running.is_empty(), "nothing was recorded");
        Self { recorder, disk, before, starting, running, marks, entries }
    }

    /// Where to cut, in order: while the nodes start, while they work, right after somebody was told something.
    fn places(&self, cuts: usize, dice: &mut Rng) -> BTreeSet<usize> {
        let kinds = [&self.starting, &self.running, &self.marks, &self.running];
        let room = self.starting.len() + self.running.len();
        let mut places = BTreeSet::new();
        while places.len() < cuts.min(room / 2) {
            let kind = kinds[dice.index(kinds.len())];
            places.extend(dice.pick(kind));
        }
        places
    }
}

impl Plan {
    /// A short hunt over a shipped config, with few accounts, and state and snapshots written often.
    #[must_use]
    pub fn short(config: &'static str, seed: u64) -> Self {
        let replace = vec![
            ("accounts = 100000", "accounts = 1000"),
            ("checkpoint_every_ms = 30000", "checkpoint_every_ms = 1000"),
            ("snapshot_every_blocks = 10000", "snapshot_every_blocks = 40"),
            ("segment_mib = 64", "segment_mib = 1"),
        ];
        let load = Duration::from_secs(3);
        Self { config, replace, seed, recordings: 1, cuts: 1, load, senders: 4, operations: 2 }
    }

    /// The same with stores that are rewritten all the time.
    #[must_use]
    pub fn rewriting(mut self) -> Self {
        self.replace.extend([
            ("rewrite_factor = 4", "rewrite_factor = 1"),
            ("rewrite_floor_mib = 256", "rewrite_floor_mib = 0"),
        ]);
        self
    }

    /// Records and cuts. Panics with what is wrong as soon as something is.
    pub async fn run(&self, binary: &str) -> Hunt {
        let mut dice = Rng::new(self.seed);
        let mut hunt = Hunt::default();
        let options = Options { replace: self.replace.clone(), ..Options::default() };
        let mut cluster = Cluster::prepare(binary, self.config, options).await;
        std::fs::create_dir_all(cluster.data_dir()).unwrap();
        let mut before = Acknowledged::default();
        for number in 0..self.recordings {
            let rewritten = rewritings(&cluster);
            let recording = self.record(&mut cluster, number, before.clone()).await;
            hunt.rewritings += rewritings(&cluster) - rewritten;
            let cuts = self.cuts * (number + 1) / self.recordings - self.cuts * number / self.recordings;
            before = self.cut_all(&mut cluster, recording, number == 0, cuts, &mut dice, &mut hunt).await;
        }
        hunt.starts.sort_unstable();
        hunt
    }

    async fn record(&self, cluster: &mut Cluster, number: usize, before: Acknowledged) -> Recording {
        let data = cluster.data_dir();
        let disk = Disk::load(&data);
        let recorder = Recorder::new(&data, &data.with_file_name(format!("recording-{number}")));
        let nodes: Vec<usize> = (0..cluster.len()).collect();
        for node in &nodes {
            cluster.launch_under(&recorder.wrapper(), *node, number == 0);
        }
        cluster.wait_ready(nodes.clone()).await;
        recorder.mark(MARK_READY);
        let mut wallets = cluster.wallets(self.senders);
        for wallet in &mut wallets {
            wallet.nonce = next_nonce(&cluster.client(0), wallet).await;
        }
        let load = Load::start(wallets, &cluster.clients(), self.operations, &recorder);
        tokio::time::sleep(self.load).await;
        load.stop().await;
        for node in nodes {
            assert_eq!(cluster.stop(node), Some(0), "{} ends in order:\n{}", cluster.name(node), cluster.log(node));
        }
        Recording::survey(recorder, disk, before)
    }

    /// Cuts a recording at so many places. Leaves the disks as one of the cuts did, and says what was acknowledged then.
    async fn cut_all(
        &self,
        cluster: &mut Cluster,
        mut recording: Recording,
        new: bool,
        cuts: usize,
        dice: &mut Rng,
        hunt: &mut Hunt,
    ) -> Acknowledged {
        let places = recording.places(cuts, dice);
        // A directory that is not yet made is no beginning for the next recording.
        let first = if new { recording.running[0] } else { 0 };
        let next = dice.pick(&places.range(first..).copied().collect::<Vec<_>>()).copied();
        let data = cluster.data_dir();
        let (kept, mut acknowledged, mut ready) = (data.with_file_name("kept"), recording.before.clone(), false);
        let mut goes_on = acknowledged.clone();
        hunt.entries += recording.entries;
        for (at, entry) in recording.recorder.tape().enumerate() {
            match &entry.change {
                Change::Mark(text) if text == MARK_READY => ready = true,
                Change::Mark(text) => acknowledged.take(text),
                _ => {}
            }
            recording.disk.play(entry);
            if !places.contains(&(at + 1)) {
                continue;
            }
            if Some(at + 1) == next {
                recording.disk.cut(&mut dice.clone(), &kept);
                goes_on = acknowledged.clone();
            }
            std::fs::remove_dir_all(&data).unwrap();
            recording.disk.cut(dice, &data);
            hunt.most_unsafe = hunt.most_unsafe.max(recording.disk.unsafe_bytes());
            hunt.during_start += usize::from(!ready);
            let what = format!("seed {}, cut {} at entry {}", self.seed, hunt.cuts, at + 1);
            println!("{what}, {} acknowledged", acknowledged.ids.len());
            self.start_and_look(cluster, &acknowledged, new && !ready, &what, hunt).await;
            hunt.cuts += 1;
        }
        std::fs::remove_dir_all(&data).unwrap();
        if next.is_some() {
            std::fs::rename(&kept, &data).unwrap();
        }
        goes_on
    }

    pub(super) async fn start_and_look(
        &self,
        cluster: &mut Cluster,
        acknowledged: &Acknowledged,
        initialise: bool,
        what: &str,
        hunt: &mut Hunt,
    ) {
        let nodes: Vec<usize> = (0..cluster.len()).collect();
        let aside = |data: PathBuf| count(&data, "store.bad-");
        let before = aside(cluster.data_dir());
        let began = Instant::now();
        for node in &nodes {
            cluster.launch(*node, initialise);
        }
        cluster.wait_ready(nodes.clone()).await;
        hunt.starts.push(began.elapsed());
        for client in cluster.clients() {
            self.look(cluster, &client, acknowledged, what).await;
            hunt.looked_for += acknowledged.ids.len();
        }
        let mut probe = cluster.wallets(PROBE + 1).pop().unwrap();
        let client = cluster.client(0);
        probe.nonce = next_nonce(&client, &probe).await;
        let transaction = transaction(&mut probe, 1, client.height().await.unwrap_or(0));
        let on = tokio::time::timeout(WITHIN, commit(&client, &transaction, &AtomicBool::new(false))).await;
        assert_eq!(on, Ok(true), "{what}: nothing commits any more");
        for node in nodes {
            let log = cluster.log(node);
            assert!(!log.contains("cannot both be honest"), "{what}: {}", cluster.name(node));
            cluster.kill(node);
        }
        hunt.set_aside += aside(cluster.data_dir()) - before;
    }

    /// Every acknowledged transaction is known and in effect, once.
    async fn look(&self, cluster: &Cluster, client: &Client, acknowledged: &Acknowledged, what: &str) {
        for wallet in cluster.wallets(self.senders) {
            let nonces = acknowledged.nonces.get(&wallet.index).cloned().unwrap_or_default();
            let account = &cluster.config.genesis.accounts[(TARGETS + wallet.index) as usize];
            let what =
                format!("{what}: nonces {nonces:?} of {} are used and paid once, at {}", wallet.index, client.base());
            // Others, not acknowledged, may still be on their way.
            eventually(&what, WITHIN, || async {
                let (base, above) = used_nonces(client, &wallet).await?;
                let there = nonces.iter().all(|nonce| *nonce < base || above.contains(nonce));
                let used = u128::from(base) + above.len() as u128;
                let target = client.get(&format!("/gateway/balance/{}", account.address)).await.body;
                let gained = target["balance"].as_str()?.parse::<u128>().ok()? - account.balance;
                (there && gained == used * u128::from(self.operations)).then_some(())
            })
            .await;
        }
        for id in &acknowledged.ids {
            eventually(&format!("{what}: {id} is committed at {}", client.base()), WITHIN, || async {
                let body = client.get(&format!("/blockchain/transactions/{id}")).await.body;
                (body["status"] == "committed").then_some(())
            })
            .await;
        }
    }
}

/// The first nonce that nobody has used.
pub(super) async fn next_nonce(client: &Client, wallet: &Wallet) -> u64 {
    eventually("the nonces are told", WITHIN, || async {
        let (base, above) = used_nonces(client, wallet).await?;
        Some(above.last().map_or(base, |last| last + 1))
    })
    .await
}

/// How many entries one level below the nodes' folders begin so.
fn count(data: &Path, name: &str) -> usize {
    let list = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    let named = list(data.to_owned()).flat_map(|node| list(node.path()));
    named.filter(|entry| entry.file_name().to_string_lossy().starts_with(name)).count()
}

impl Hunt {
    /// The start that so many in a hundred do not exceed.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let at = (self.starts.len() * percent / 100).min(self.starts.len().saturating_sub(1));
        self.starts.get(at).copied().unwrap_or_default()
    }
}
