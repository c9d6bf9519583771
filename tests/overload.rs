//! A validator that stands still and clients that send as fast as they can: memory stays within the sum of the bounds,
//! clients are told to wait, commits go on, and the one that stood still catches up.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aurigraph_actors::bounds::{crypto, mempool, pipeline, storage};
use aurigraph_testkit::client::Answer;
use aurigraph_testkit::{Client, Cluster, Options, Wallet};
use tokio::time::Instant;

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
const LASTS: Duration = Duration::from_secs(20);
const WITHIN: Duration = Duration::from_secs(60);
const STALLED: usize = 3;

/// What the documented bounds let one node of four hold at once, in bytes: its pool; the same bytes again at a batcher;
/// own batches on their way, and bodies of three other authors that nothing names; decoded batches; commits between
/// order and publish; what waits for the journal and what it writes as one group; the store's cache; the cache of expanded keys. Between two
/// nodes: a bulk window (48 MiB) from each of three peers, and three classes of 64 MiB to each, most of all to the stalled one.
const BOUNDS: u64 = (mempool::POOL_BYTES
    + mempool::BATCHER_BYTES
    + mempool::OWN_BYTES
    + 3 * mempool::UNREFERENCED_BYTES
    + mempool::PREPARED_BYTES
    + pipeline::BYTES_UNDER_WAY
    + storage::JOURNAL_QUEUE_KIB as usize * 1_024
    + storage::JOURNAL_GROUP
    + crypto::EXPANDED_KEYS_BYTES) as u64
    + storage::STORE_CACHE
    + 3 * (48 << 20)
    + 3 * (64 << 20);

/// What clients were told.
#[derive(Default)]
struct Told {
    over: AtomicBool,
    accepted: AtomicU64,
    busy: AtomicU64,
}

impl Told {
    /// Counts an answer. True if the transaction is dealt with.
    fn note(&self, answer: &Answer) -> bool {
        match answer.status {
            200 | 202 | 409 => {
                self.accepted.fetch_add(1, Ordering::Relaxed);
                true
            }
            429 | 503 => {
                assert!(answer.retry_after.is_some_and(|seconds| seconds > 0), "no Retry-After: {}", answer.body);
                assert_eq!(answer.content_type, "application/problem+json", "{}", answer.body);
                assert!(answer.body["code"].is_string() && answer.body["detail"].is_string(), "{}", answer.body);
                self.busy.fetch_add(1, Ordering::Relaxed);
                false
            }
            // No answer in time, on a machine that is busy on purpose: neither a promise nor a refusal.
            0 | 504 => false,
            other => panic!("an overloaded node answered {other}: {}", answer.body),
        }
    }
}

/// Sends the largest bundles as fast as they are signed, and what is refused again at once.
async fn hammer(mut wallet: Wallet, client: Client, told: Arc<Told>) {
    while !told.over.load(Ordering::Relaxed) {
        let bundle = wallet.transfers((0..4_096).map(|at| (1_000 + at, 1)));
        while !told.over.load(Ordering::Relaxed) {
            let path = "/blockchain/transactions?wait=accepted";
            if told.note(&client.post_bytes(path, bundle.shared_bytes()).await) {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_stalled_peer_and_overloading_clients_memory_is_bounded_and_clients_are_told_to_wait() {
    // A rate that one client on a small machine can exceed.
    let replace = vec![("requests_per_second = 50000", "requests_per_second = 100"), ("burst = 100000", "burst = 200")];
    let cluster = Cluster::start(BINARY, "four-validators.toml", Options { replace, ..Options::default() }).await;
    let memory: Vec<u64> = (0..4).map(|node| cluster.memory(node)).collect();
    cluster.signal(STALLED, "STOP");
    let (told, began) = (Arc::<Told>::default(), Instant::now());
    let wallets = cluster.wallets(24).into_iter().enumerate();
    let clients: Vec<_> = wallets
        .map(|(at, wallet)| tokio::spawn(hammer(wallet, cluster.client(at % STALLED), Arc::clone(&told))))
        .collect();
    let mut most = [0; STALLED];
    while began.elapsed() < LASTS {
        for (node, most) in most.iter_mut().enumerate() {
            *most = cluster.memory(node).max(*most);
            let ceiling = memory[node] + BOUNDS;
            assert!(*most < ceiling, "{} holds {most} bytes, the bounds allow {ceiling}", cluster.name(node));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    told.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let (accepted, busy) = (told.accepted.load(Ordering::Relaxed), told.busy.load(Ordering::Relaxed));
    let mebibytes = most.map(|bytes| bytes >> 20);
    println!("{accepted} bundles taken, {busy} told to wait; at most {mebibytes:?} MiB of {} allowed", BOUNDS >> 20);
    assert!(accepted > 0 && busy > 0, "{accepted} taken, {busy} told to wait");

    cluster.signal(STALLED, "CONT");
    let again = Instant::now();
    // The edge's rate counts for this test's own questions, too.
    let height = told_height(&cluster, 0).await;
    assert!(height > 3, "commits went on: {height}");
    cluster.wait_above(STALLED, height - 1, WITHIN).await;
    println!("caught up to {height} after {:?}", again.elapsed());
    assert_eq!(block(&cluster, STALLED, height).await, block(&cluster, 0, height).await);
}

async fn told_height(cluster: &Cluster, node: usize) -> u64 {
    let client = cluster.client(node);
    aurigraph_testkit::eventually("the height is told", WITHIN, || client.height()).await
}

async fn block(cluster: &Cluster, node: usize, height: u64) -> (String, String) {
    let client = cluster.client(node);
    aurigraph_testkit::eventually("the block is told", WITHIN, || client.block(height)).await
}
