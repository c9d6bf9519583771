//! Sending: several connections to each node take transactions from its queue, in order.
//!
//! With a rate, each transaction has its time and is sent then, whether earlier answers have come or not. Without one,
//! every connection sends its next request as soon as the node has accepted its last; 429 and 503 are waited out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aurigraph_ledger::Hash;
use aurigraph_ledger::transaction::Transaction;
use bytes::{BufMut as _, Bytes, BytesMut};
use hyper::{Method, StatusCode};

use crate::cli;
use crate::http::NodeClient;

/// Most transactions of one request.
const MAX_CHUNK: usize = 64;
/// A request is closed when it holds this many bytes: large enough that HTTP costs nothing an operation.
const CHUNK_BYTES: usize = 256 << 10;
/// The first wait after a refusal; it doubles up to what the node asked for.
const FIRST_BACK_OFF: Duration = Duration::from_millis(10);
/// Of this many transactions in a row, the latency of one is measured.
const SAMPLE_EVERY: usize = 4;

/// One node as the generator sees it.
pub struct Target {
    /// Its client.
    pub client: NodeClient,
    queue: Vec<Transaction>,
    next: AtomicUsize,
    submitted: Mutex<HashMap<Hash, Instant>>,
    measured_from: Mutex<Option<Instant>>,
}

impl Target {
    /// A node and what it is to be sent.
    pub fn new(client: NodeClient, queue: Vec<Transaction>) -> Self {
        Self { client, queue, next: AtomicUsize::new(0), submitted: Mutex::default(), measured_from: Mutex::default() }
    }

    /// Transactions due before now are not measured.
    pub fn measure_from_now(&self) {
        *self.measured_from.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// The time from when a transaction was due to now, if it is one that is measured.
    pub fn latency_of(&self, hash: &Hash) -> Option<Duration> {
        let due = self.submitted.lock().unwrap_or_else(PoisonError::into_inner).remove(hash)?;
        let from = *self.measured_from.lock().unwrap_or_else(PoisonError::into_inner);
        from.is_some_and(|from| due >= from).then(|| due.elapsed())
    }

    fn is_exhausted(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.queue.len()
    }

    /// Takes the next transactions, as one request body.
    fn take(&self, most: usize) -> Option<(usize, usize)> {
        let first = self.next.load(Ordering::Relaxed);
        let mut bytes = 0;
        let fits = |transaction: &&Transaction| {
            bytes += transaction.encode().len();
            bytes <= CHUNK_BYTES
        };
        let count = self.queue.get(first..)?.iter().take(most.min(MAX_CHUNK)).take_while(fits).count();
        let end = first + count.max(1);
        if first >= self.queue.len() {
            return None;
        }
        // Another connection was faster: the caller tries again.
        match self.next.compare_exchange(first, end, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Some((first, end)),
            Err(_) => self.take(most),
        }
    }

    fn remember(&self, range: std::ops::Range<usize>, due: impl Fn(usize) -> Instant) {
        let mut submitted = self.submitted.lock().unwrap_or_else(PoisonError::into_inner);
        for at in range.filter(|at| at % SAMPLE_EVERY == 0) {
            submitted.insert(self.queue[at].id(), due(at));
        }
    }

    fn body(&self, range: std::ops::Range<usize>) -> Bytes {
        let transactions = &self.queue[range];
        let mut body = BytesMut::with_capacity(transactions.iter().map(|it| it.encode().len() + 4).sum());
        for transaction in transactions {
            let bytes = transaction.encode();
            body.put_u32_le(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            body.put_slice(bytes);
        }
        body.freeze()
    }
}

/// What happened to the requests.
#[derive(Default)]
pub struct Counters {
    /// Transactions that a node accepted.
    pub accepted: AtomicU64,
    /// Transactions that a node refused for good.
    pub refused: AtomicU64,
    /// Requests that were told to come back later.
    pub back_offs: AtomicU64,
    /// Requests that failed otherwise.
    pub errors: AtomicU64,
    /// The first failure's words.
    pub first_problem: Mutex<Option<String>>,
}

impl Counters {
    fn problem(&self, text: String) {
        self.first_problem.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
    }
}

/// A running load.
pub struct Load {
    targets: Vec<Arc<Target>>,
    stopped: Arc<AtomicBool>,
    /// What happened so far.
    pub counters: Arc<Counters>,
}

impl Load {
    /// Starts all connections.
    pub fn start(targets: &[Arc<Target>], args: &cli::Bench) -> Self {
        let (stopped, counters) = (Arc::<AtomicBool>::default(), Arc::<Counters>::default());
        let rate = args.rate.map(|rate| f64::from(rate) / targets.len() as f64);
        let start = Instant::now();
        for target in targets {
            for _ in 0..args.connections {
                let connection = Connection {
                    target: Arc::clone(target),
                    stopped: Arc::clone(&stopped),
                    counters: Arc::clone(&counters),
                };
                tokio::spawn(async move {
                    match rate {
                        Some(rate) => connection.open_loop(start, rate).await,
                        None => connection.saturate().await,
                    }
                });
            }
        }
        Self { targets: targets.to_vec(), stopped, counters }
    }

    /// Has some node's queue run out, so that the load is no longer what was asked for.
    pub fn is_exhausted(&self) -> bool {
        self.targets.iter().any(|target| target.is_exhausted())
    }

    /// Ends all connections after their current request.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

struct Connection {
    target: Arc<Target>,
    stopped: Arc<AtomicBool>,
    counters: Arc<Counters>,
}

impl Connection {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    async fn saturate(&self) {
        while !self.is_stopped() {
            let Some((first, end)) = self.target.take(MAX_CHUNK) else { return };
            let now = Instant::now();
            self.target.remember(first..end, |_| now);
            self.deliver(first, end).await;
        }
    }

    async fn open_loop(&self, start: Instant, rate: f64) {
        let due = |at: usize| start + Duration::from_secs_f64(at as f64 / rate);
        while !self.is_stopped() {
            let first = self.target.next.load(Ordering::Relaxed);
            let wait = due(first).saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
                continue;
            }
            // All that is due by now goes out in one request.
            let due_count = (start.elapsed().as_secs_f64() * rate) as usize + 1;
            let Some((first, end)) = self.target.take(due_count.saturating_sub(first).max(1)) else { return };
            self.target.remember(first..end, due);
            self.deliver(first, end).await;
        }
    }

    async fn deliver(&self, first: usize, end: usize) {
        let body = self.target.body(first..end);
        let mut back_off = FIRST_BACK_OFF;
        while !self.is_stopped() {
            let path = "/blockchain/transactions/batch?wait=accepted";
            let sent = self.target.client.request(Method::POST, path, "application/octet-stream", body.clone()).await;
            match sent {
                Ok(answer) if answer.status.is_success() => return self.count(&answer.body, end - first),
                Ok(answer)
                    if matches!(answer.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) =>
                {
                    self.counters.back_offs.fetch_add(1, Ordering::Relaxed);
                    let most = Duration::from_secs(answer.retry_after.unwrap_or(1));
                    tokio::time::sleep(back_off.min(most)).await;
                    back_off *= 2;
                }
                Ok(answer) => {
                    self.counters.refused.fetch_add((end - first) as u64, Ordering::Relaxed);
                    return self.counters.problem(answer.problem());
                }
                Err(error) => {
                    self.counters.errors.fetch_add(1, Ordering::Relaxed);
                    self.counters.problem(error.message);
                    tokio::time::sleep(back_off).await;
                    back_off = (back_off * 2).min(Duration::from_secs(1));
                }
            }
        }
    }

    fn count(&self, body: &serde_json::Value, sent: usize) {
        let refused = body["refused"].as_u64().unwrap_or(0);
        self.counters.accepted.fetch_add(sent as u64 - refused.min(sent as u64), Ordering::Relaxed);
        self.counters.refused.fetch_add(refused, Ordering::Relaxed);
        if refused > 0 {
            self.counters.problem(format!("a batch was refused in part: {body}").chars().take(400).collect());
        }
    }
}
