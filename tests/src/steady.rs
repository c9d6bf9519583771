//! A steady load: transactions fall due at a constant rate, whether earlier ones are answered or not, and each is sent
//! to one node until that node says that it is committed. A [`Record`] remembers when each was due and when it was final.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aurigraph_ledger::Hash;
use aurigraph_ledger::transaction::Transaction;
use tokio::task::{JoinHandle, JoinSet};

use crate::{Client, Wallet};

/// The wait after a node refused or did not answer, and between two looks at a transaction's fate.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Transactions expire this many heights after the one known when they are signed.
const EXPIRES_AFTER: u64 = 5_000;
/// How often the height is asked for.
const HEIGHT_EVERY: Duration = Duration::from_millis(500);
/// What is still under way at the end is waited for this long.
const LAST_WITHIN: Duration = Duration::from_secs(60);
/// The first account that only receives: senders have the indices below it.
const FIRST_TARGET: u32 = 1_000;

/// What is offered.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Transactions a second, over all nodes.
    pub per_second: u32,
    /// Transfers under one signature, at most 1,000.
    pub operations: u32,
}

/// One transaction of the load.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// When it was due, since the record's start.
    pub due: Duration,
    /// When its node said that it is committed.
    pub done: Option<Duration>,
    /// Its sender's account.
    pub sender: u32,
    /// Its nonce.
    pub nonce: u64,
    /// Its id.
    pub id: Hash,
}

/// What became of all transactions, by the node that each was sent to.
pub struct Record {
    start: Instant,
    nodes: Vec<Mutex<Vec<Sample>>>,
    refused: Mutex<Vec<String>>,
}

impl Record {
    fn new(nodes: usize) -> Arc<Self> {
        let nodes = (0..nodes).map(|_| Mutex::default()).collect();
        Arc::new(Self { start: Instant::now(), nodes, refused: Mutex::default() })
    }

    /// How many nodes take part.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The time since the record's start.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// A node's transactions that were due at or after a time.
    #[must_use]
    pub fn since(&self, node: usize, from: Duration) -> Vec<Sample> {
        let samples = self.nodes[node].lock().unwrap();
        samples[samples.partition_point(|sample| sample.due < from)..].to_vec()
    }

    /// What nodes refused for good: this load sends nothing that may be refused.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        self.refused.lock().unwrap().clone()
    }

    /// Nonces that a node said are committed, by their sender's account.
    #[must_use]
    pub fn committed(&self) -> BTreeMap<u32, Vec<u64>> {
        let mut nonces = BTreeMap::<u32, Vec<u64>>::new();
        for node in 0..self.nodes() {
            for sample in self.since(node, Duration::ZERO).iter().filter(|sample| sample.done.is_some()) {
                nonces.entry(sample.sender).or_default().push(sample.nonce);
            }
        }
        nonces
    }

    /// How many transactions no node has said to be committed yet.
    #[must_use]
    pub fn undecided(&self) -> usize {
        let of = |node| self.since(node, Duration::ZERO).iter().filter(|sample| sample.done.is_none()).count();
        (0..self.nodes()).map(of).sum()
    }

    fn add(&self, node: usize, sample: Sample) -> usize {
        let mut samples = self.nodes[node].lock().unwrap();
        samples.push(sample);
        samples.len() - 1
    }

    fn done(&self, node: usize, at: usize) {
        let now = self.now();
        self.nodes[node].lock().unwrap()[at].done = Some(now);
    }
}

/// The account that the k-th transfer of each of a sender's transactions goes to: one unit each time, and from nobody
/// else, so that its gain tells how often that sender's transactions took effect.
#[must_use]
pub fn target(sender: u32, k: u32) -> u32 {
    FIRST_TARGET + sender * 1_000 + k
}

/// A running load.
pub struct SteadyLoad {
    /// What became of its transactions.
    pub record: Arc<Record>,
    stopped: Arc<AtomicBool>,
    senders: Vec<JoinHandle<Vec<Wallet>>>,
}

impl SteadyLoad {
    /// Starts it: wallets and rate are shared out over the nodes evenly.
    #[must_use]
    pub fn start(wallets: Vec<Wallet>, clients: &[Client], shape: Shape) -> Self {
        assert!((1..=1_000).contains(&shape.operations), "{shape:?}");
        let record = Record::new(clients.len());
        let (stopped, height) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        tokio::spawn(follow(clients[0].clone(), Arc::clone(&height), Arc::clone(&stopped)));
        let mut shares: Vec<Vec<Wallet>> = clients.iter().map(|_| Vec::new()).collect();
        for (at, wallet) in wallets.into_iter().enumerate() {
            shares[at % clients.len()].push(wallet);
        }
        let start = |(node, wallets): (usize, Vec<Wallet>)| {
            let sender = Sender {
                node,
                client: clients[node].clone(),
                record: Arc::clone(&record),
                stopped: Arc::clone(&stopped),
                height: Arc::clone(&height),
            };
            tokio::spawn(sender.run(wallets, shape))
        };
        let senders = shares.into_iter().enumerate().map(start).collect();
        Self { record, stopped, senders }
    }

    /// Ends it, waits for what is under way, and gives the wallets back.
    pub async fn stop(self) -> Vec<Wallet> {
        self.stopped.store(true, Ordering::Relaxed);
        let mut wallets = Vec::new();
        for sender in self.senders {
            wallets.extend(sender.await.unwrap());
        }
        wallets
    }
}

/// Keeps the height that expiries are counted from.
async fn follow(client: Client, height: Arc<AtomicU64>, stopped: Arc<AtomicBool>) {
    while !stopped.load(Ordering::Relaxed) {
        if let Some(found) = client.height().await {
            height.fetch_max(found, Ordering::Relaxed);
        }
        tokio::time::sleep(HEIGHT_EVERY).await;
    }
}

/// Sends one node's share.
struct Sender {
    node: usize,
    client: Client,
    record: Arc<Record>,
    stopped: Arc<AtomicBool>,
    height: Arc<AtomicU64>,
}

impl Sender {
    async fn run(self, mut wallets: Vec<Wallet>, shape: Shape) -> Vec<Wallet> {
        let nodes = self.record.nodes() as f64;
        let between = Duration::from_secs_f64(nodes / f64::from(shape.per_second));
        // The nodes' shares fall due one after another, not at once.
        let mut due = self.record.now() + between.mul_f64(self.node as f64 / nodes);
        let (mut under_way, mut number) = (JoinSet::new(), 0);
        while !self.stopped.load(Ordering::Relaxed) {
            tokio::time::sleep(due.saturating_sub(self.record.now())).await;
            let count = wallets.len();
            let wallet = &mut wallets[number % count];
            wallet.expiry = self.height.load(Ordering::Relaxed) + EXPIRES_AFTER;
            let (sender, nonce) = (wallet.index, wallet.nonce);
            let transaction = wallet.transfers((0..shape.operations).map(|k| (target(sender, k), 1)));
            let at = self.record.add(self.node, Sample { due, done: None, sender, nonce, id: transaction.id() });
            let (client, record, node) = (self.client.clone(), Arc::clone(&self.record), self.node);
            under_way.spawn(async move {
                match commit(&client, &transaction).await {
                    Ok(()) => record.done(node, at),
                    Err(refusal) => record.refused.lock().unwrap().push(refusal),
                }
            });
            while under_way.try_join_next().is_some() {}
            number += 1;
            due += between;
        }
        let last = async { while under_way.join_next().await.is_some() {} };
        // What is undecided after that shows in the record.
        let _ = tokio::time::timeout(LAST_WITHIN, last).await;
        wallets
    }
}

/// Sends a transaction until its node says that it is committed.
async fn commit(client: &Client, transaction: &Transaction) -> Result<(), String> {
    let path = format!("/blockchain/transactions/{}", transaction.id());
    loop {
        let answer = client.post_bytes("/blockchain/transactions", transaction.shared_bytes()).await;
        match answer.status {
            200 => return Ok(()),
            // Not decided yet, or known from an attempt whose answer was lost.
            202 | 409 => {
                if committed(client, &path).await {
                    return Ok(());
                }
            }
            // Restarting, overloaded, or gone in the middle.
            0 | 429 | 500..=599 => {}
            // A node that replays its log takes what the others would take for too far in the future.
            422 if answer.body["code"] == "expiry_too_far" => {}
            _ => return Err(format!("{}: {}", answer.status, answer.body)),
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// Whether a transaction commits; false as soon as its node does not know it.
async fn committed(client: &Client, path: &str) -> bool {
    loop {
        let answer = client.get(path).await;
        match answer.body["status"].as_str() {
            Some("committed") => return true,
            Some("pending") => tokio::time::sleep(AGAIN_AFTER).await,
            _ => return false,
        }
    }
}
