//! Hostile peers at the node ports of a running cluster: strangers, and one with a validator's own key. Each is refused
//! for its own reason, and the nodes live, keep within their memory and commit on.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use aurigraph_ledger::{Hash, h};
use aurigraph_runtime::channel::{Channel, Channels, Identity, LaneKind, PeerKeys};
use aurigraph_testkit::rogue::{LANES, Raw, Rogue, bulk_frame, gateway_message, gets_in, session_frame, stranger};
use aurigraph_testkit::{Cluster, Load, Options, eventually};
use rustls::crypto::aws_lc_rs::kx_group::{MLKEM1024, SECP256R1, X25519, X25519MLKEM768};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
const WITHIN: Duration = Duration::from_secs(60);
/// What an attack may cost a node for good. A flooder may have its bulk window (48 MiB) unprocessed at the victim, and
/// 1,024 strangers their handshakes (tens of KiB each); the rest is what a node under load takes anyway.
const MEMORY: u64 = 256 << 20;

fn secret(cluster: &Cluster) -> [u8; 32] {
    let Hash(secret) = h("cluster", cluster.config.genesis.chain_id().as_ref());
    secret
}

fn network_seed(cluster: &Cluster, name: &str) -> [u8; 32] {
    cluster.config.development.as_ref().unwrap().node_secrets(name).network_seed
}

/// Channels with the key of this seed to all validators.
fn channels(cluster: &Cluster, seed: &[u8; 32]) -> Channels {
    let identity = Identity::from_seed(seed).unwrap();
    let validators = cluster.config.genesis.validators.iter();
    let others = validators.filter(|one| one.network_key.as_bytes() != identity.public_key());
    let keys = PeerKeys::new(others.map(|one| (one.name.as_str(), one.network_key.as_bytes()))).unwrap();
    Channels::new(identity, keys, secret(cluster), WITHIN).unwrap()
}

/// Waits until a node counts that many more handshakes refused for a reason.
async fn refused(cluster: &Cluster, reason: &str, at_least: f64) {
    let (client, label) = (cluster.client(0), format!("reason=\"{reason}\""));
    eventually(&format!("{at_least} connections are refused for {reason}"), WITHIN, || async {
        (client.metric("network_handshakes_refused_total", &[&label]).await >= at_least).then_some(())
    })
    .await;
}

/// Under load: commits go on, the memory is within its bound, all links between `nodes` stand.
async fn unharmed(cluster: &Cluster, load: &Load, memory_before: &[u64]) {
    let committed = load.committed().len();
    eventually("commits are reported", WITHIN, || async { (load.committed().len() > committed + 10).then_some(()) })
        .await;
    for (node, before) in memory_before.iter().enumerate() {
        let now = cluster.memory(node);
        println!("{} holds {} MiB, {} MiB before", cluster.name(node), now >> 20, before >> 20);
        assert!(now < before + MEMORY, "{} grew from {before} to {now}", cluster.name(node));
        assert!(!cluster.log(node).contains("panicked at"), "{}", cluster.log(node));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_for_what_they_are_and_cost_nothing() {
    let cluster = Cluster::start(BINARY, "four-validators.toml", Options::default()).await;
    let load = Load::start(cluster.wallets(4), &cluster.clients());
    cluster.wait_above(0, 2, WITHIN).await;
    let memory: Vec<u64> = (0..4).map(|node| cluster.memory(node)).collect();
    let door = cluster.config.nodes[0].listen;

    // Right in everything but the key.
    let unknown = channels(&cluster, &[9; 32]);
    for lane in LANES {
        let error = unknown.dial("v1", &door.to_string(), lane).await.expect_err("its key is not listed");
        println!("an unknown key: {error}");
    }
    refused(&cluster, "key", 2.0).await;

    // A validator's own key, but without the key exchange or the version that is wanted.
    let (key, lane): (_, &[&[u8]]) = (network_seed(&cluster, "v4"), &[LaneKind::Bulk.alpn()]);
    assert!(gets_in(door, &stranger(&key, vec![MLKEM1024], &[&TLS13], lane)).await, "the rest differs in one thing");
    for groups in [vec![X25519], vec![X25519, SECP256R1], vec![X25519MLKEM768]] {
        assert!(!gets_in(door, &stranger(&key, groups, &[&TLS13], lane)).await, "a classical hello");
    }
    assert!(!gets_in(door, &stranger(&key, vec![X25519], &[&TLS12], lane)).await, "TLS 1.2");
    assert!(!gets_in(door, &stranger(&key, vec![MLKEM1024], &[&TLS13], &[b"http/1.1"])).await, "no lane");
    for (reason, at_least) in [("classical", 3.0), ("alpn", 1.0)] {
        refused(&cluster, reason, at_least).await;
    }

    // No TLS at all.
    for garbage in [vec![0x55; 64 << 10], b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xff; 5]] {
        let mut stream = TcpStream::connect(door).await.unwrap();
        // The node may have closed it already.
        let _ = stream.write_all(&garbage).await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(WITHIN, stream.read_to_end(&mut answer)).await.expect("it is closed");
        assert!(answer.len() < 100, "a stranger got {} bytes", answer.len());
    }
    refused(&cluster, "tls", 2.0).await;

    // Hundreds that say nothing: more than one address may have open, so the oldest go; the rest run out of time.
    let mut crowd = Vec::new();
    for _ in 0..600 {
        crowd.push(TcpStream::connect(door).await.unwrap());
    }
    refused(&cluster, "crowded", 300.0).await;
    unharmed(&cluster, &load, &memory).await;
    refused(&cluster, "timeout", 200.0).await;
    drop(crowd);

    assert_eq!(cluster.client(0).read("/consensus/status").await["connectedValidators"], 4);
    load.stop().await;
    cluster.wait_equal(&[0, 1, 2, 3], WITHIN).await;
}

/// A grant of credit on the bulk lane: length, kind and a number.
const BULK_GRANT_BYTES: usize = 4 + 1 + 8;

/// A validator's place taken by somebody who has its key.
struct Usurper<'a> {
    cluster: &'a Cluster,
    victim: usize,
    channels: Channels,
}

impl Usurper<'_> {
    /// A channel, if the victim answers.
    async fn dial(&self, lane: LaneKind) -> Option<Channel> {
        let (name, door) = (self.cluster.name(self.victim), self.cluster.config.nodes[self.victim].listen.to_string());
        self.channels.dial(name, &door, lane).await.ok()
    }

    /// Breaks a rule until the victim charges v4 for it: while the penalty for the one before lasts, nobody is let in.
    /// The log says which rule it was.
    async fn provoke<T>(&self, with: &str, breach: impl AsyncFn() -> T) {
        let client = self.cluster.client(self.victim);
        let charges = async || client.metric("network_peer_charges_total", &["peer=\"v4\""]).await;
        let (before, deadline) = (charges().await, Instant::now() + WITHIN);
        loop {
            let _kept_open = breach().await;
            let look_until = Instant::now() + Duration::from_secs(2);
            while Instant::now() < look_until {
                if charges().await > before {
                    let log = self.cluster.log(self.victim);
                    let line = log.lines().rfind(|line| line.contains("peer dropped and charged"));
                    assert!(line.expect("a line in the log").contains(with), "{with}: {line:?}");
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert!(Instant::now() < deadline, "{} does not charge v4 for {with}", self.cluster.name(self.victim));
        }
    }

    /// A channel with these bytes in it. On the bulk lane they wait for the victim's first grant: without it, whatever
    /// is sent is a frame beyond its credit.
    async fn writes(&self, lane: LaneKind, bytes: &[u8], end: bool) -> Option<Channel> {
        let mut channel = self.dial(lane).await?;
        if lane == LaneKind::Bulk {
            channel.stream.read_exact(&mut [0; BULK_GRANT_BYTES]).await.ok()?;
        }
        channel.stream.write_all(bytes).await.ok()?;
        if end {
            channel.stream.shutdown().await.ok()?;
        }
        Some(channel)
    }

    /// A session that says something to the victim's gateway once it is ready, if it ever is.
    async fn session(&self, rogue: &Rogue, message: impl Fn([u8; 16]) -> Vec<u8>) -> Option<()> {
        let ready = rogue.ready();
        let tag = rogue.hand_over(self.dial(LaneKind::Control).await?, false);
        let until = Instant::now() + Duration::from_secs(3);
        while rogue.ready() == ready {
            if Instant::now() > until {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let gateway = rogue.remote(&format!("{}/gateway", self.cluster.name(self.victim))).await;
        gateway.cast(Raw(message(tag))).ok()
    }
}

async fn breaks_frames(usurper: Usurper<'_>) {
    usurper.provoke("a frame of 4294967295 bytes", || usurper.writes(LaneKind::Bulk, &[0xff; 5], false)).await;
    let huge = (1_u64 << 40).to_be_bytes();
    usurper.provoke("a frame of 1099511627776 bytes", || usurper.writes(LaneKind::Control, &huge, false)).await;
    // Under v3's name, with v4's key.
    let rogue = Rogue::new("v3", secret(usurper.cluster)).await;
    let claims = async || Some(rogue.hand_over(usurper.dial(LaneKind::Control).await?, false));
    usurper.provoke("it calls itself \\\"v3@v3\\\"", claims).await;
    assert_eq!(rogue.ready(), 0);
    rogue.stop();
}

async fn cuts_frames(usurper: Usurper<'_>) {
    let cut = &bulk_frame(0, &[1; 100])[..50];
    usurper.provoke("a frame was cut short", || usurper.writes(LaneKind::Bulk, cut, true)).await;
    let cut = &session_frame(&[10; 30])[..20];
    usurper.provoke("a frame was cut short", || usurper.writes(LaneKind::Control, cut, true)).await;
    let rogue = Rogue::new("v4", secret(usurper.cluster)).await;
    let means_nothing = |tag| gateway_message(tag, 9, b"hello").0;
    usurper.provoke("kind 9 with 5 bytes", || usurper.session(&rogue, means_nothing)).await;
    rogue.stop();
}

/// As many messages as it can in three seconds, of a kind that means nothing and of consensus but undecodable. What is too fast is charged; what is not
/// is dropped. Neither may fill the log.
async fn floods(usurper: Usurper<'_>) {
    let frames = [bulk_frame(0, &[0xee]), bulk_frame(0, &[0x20, 0xff])].concat().repeat(2_048);
    let (until, mut sent) = (Instant::now() + Duration::from_secs(3), 0_usize);
    while Instant::now() < until {
        let Some(mut channel) = usurper.dial(LaneKind::Bulk).await else { continue };
        while let Ok(Ok(())) = tokio::time::timeout_at(until, channel.stream.write_all(&frames)).await {
            sent += 4_096;
        }
    }
    let log = usurper.cluster.log(usurper.victim);
    println!("a flood of {sent} messages, a log of {} KiB", log.len() >> 10);
    assert!(sent > 10_000, "{sent}");
    assert!(log.len() < 1 << 20, "the log grew to {} bytes", log.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_peer_with_a_validators_key_that_breaks_the_rules_is_charged_and_the_others_commit_on() {
    let mut cluster = Cluster::prepare(BINARY, "four-validators.toml", Options::default()).await;
    for node in 0..3 {
        cluster.launch(node, true);
    }
    cluster.wait_ready(0..3).await;
    let load = Load::start(cluster.wallets(3), &cluster.clients()[..3]);
    cluster.wait_above(0, 2, WITHIN).await;
    let memory: Vec<u64> = (0..3).map(|node| cluster.memory(node)).collect();
    let seed = network_seed(&cluster, "v4");
    let usurper = |victim| Usurper { cluster: &cluster, victim, channels: channels(&cluster, &seed) };
    tokio::join!(breaks_frames(usurper(0)), cuts_frames(usurper(1)), floods(usurper(2)));
    unharmed(&cluster, &load, &memory).await;

    // The real v4 is let in once the last penalty is over, and becomes equal.
    cluster.launch(3, true);
    cluster.wait_ready([3]).await;
    load.stop().await;
    cluster.wait_equal(&[0, 1, 2, 3], WITHIN).await;
}
