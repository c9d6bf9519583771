//! A validator that signs two blocks of one round is slashed and jailed in every node's ledger, and the others go on.
//!
//! The equivocator is this test: it has v4's keys, opens v4's bulk lane to the others and pushes two versions of v4's
//! first block. No binary has to be built for it.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use aurigraph_actors::wire::BULK_CONSENSUS;
use aurigraph_consensus::block::{genesis_ref, parents_root, payload_root};
use aurigraph_consensus::commit::genesis_commit;
use aurigraph_consensus::config::BLOCK_VERSION;
use aurigraph_consensus::{Block, BlockCore, BlockRef, CkptRef, Extras, Message, Signature};
use aurigraph_gpu::{Seed, Signer};
use aurigraph_ledger::{Hash, h};
use aurigraph_runtime::channel::{Channels, Identity, LaneKind, PeerKeys};
use aurigraph_testkit::rogue::bulk_frame;
use aurigraph_testkit::{Cluster, Options, eventually};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
const WITHIN: Duration = Duration::from_secs(60);
/// Its place in the validator set and in the cluster.
const GUILTY: u16 = 3;
/// A grant of credit on the bulk lane: length, kind and a number.
const BULK_GRANT_BYTES: usize = 4 + 1 + 8;

/// Two versions of v4's block of round 1, signed with its key.
fn twins(cluster: &Cluster, signer: &Signer) -> [Vec<u8>; 2] {
    let genesis = &cluster.config.genesis;
    let chain_id = genesis.chain_id();
    let count = u16::try_from(genesis.validators.len()).unwrap();
    let mut parents: Vec<BlockRef> = (0..count).map(|author| genesis_ref(&chain_id, 0, &chain_id, author)).collect();
    parents.sort_by_key(|parent| (parent.author != GUILTY, parent.author));
    let extras = Extras::default();
    [1, 2].map(|timestamp_ms| {
        let core = BlockCore {
            version: BLOCK_VERSION,
            supports: BLOCK_VERSION,
            chain_id,
            epoch: 0,
            round: 1,
            author: GUILTY,
            timestamp_ms,
            parents_root: parents_root(1, &parents),
            payload_root: payload_root(&[]),
            extras_root: extras.root(),
            commit_vote: genesis_commit(&chain_id, 0, &chain_id, aurigraph_consensus::epoch::EpochBase::default()),
            attestation: CkptRef::default(),
        };
        let signature = signer.sign(&core.signing_message()).unwrap();
        let signature = Signature::from_slice(&signature).unwrap();
        let (parents, batches) = (parents.clone(), Vec::new());
        let block = Block { core, parents, batches, extras: extras.clone(), signature };
        [&[BULK_CONSENSUS], Message::Block(block.encode()).encode().as_slice()].concat()
    })
}

/// Pushes both versions to a node as v4 would. A node that is not up yet, or has lost the channel, is tried again.
async fn push(cluster: &Cluster, channels: &Channels, node: usize, twins: &[Vec<u8>; 2]) -> Option<()> {
    let door = cluster.config.nodes[node].listen.to_string();
    let mut channel = channels.dial(cluster.name(node), &door, LaneKind::Bulk).await.ok()?;
    channel.stream.read_exact(&mut [0; BULK_GRANT_BYTES]).await.ok()?;
    for twin in twins {
        channel.stream.write_all(&bulk_frame(0, twin)).await.ok()?;
    }
    channel.stream.flush().await.ok()?;
    // Kept open until the node has seen what it means.
    let client = cluster.client(node);
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        if client.metric("consensus_evidence_total", &[]).await >= 1.0 {
            return Some(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    None
}

fn amount(value: &Value) -> u128 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is no amount"))
}

/// What a node says of v4, once it is jailed.
async fn jailed(cluster: &Cluster, node: usize) -> Value {
    let client = cluster.client(node);
    eventually(&format!("{} holds v4 jailed", cluster.name(node)), WITHIN, || async {
        let answer = client.get("/validators/v4").await;
        (answer.status == 200 && answer.body["status"] == "jailed").then_some(answer.body)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_equivocating_validator_is_slashed_and_jailed_by_all_and_the_others_commit() {
    let mut cluster = Cluster::prepare(BINARY, "four-validators.toml", Options::default()).await;
    let secrets = cluster.config.development.as_ref().unwrap().node_secrets("v4");
    let signer = Signer::from_seed(&Seed::new(secrets.consensus_seed.unwrap())).unwrap();
    let identity = Identity::from_seed(&secrets.network_seed).unwrap();
    let others = cluster.config.genesis.validators.iter().filter(|one| one.name != "v4");
    let keys = PeerKeys::new(others.map(|one| (one.name.as_str(), one.network_key.as_bytes()))).unwrap();
    let Hash(secret) = h("cluster", cluster.config.genesis.chain_id().as_ref());
    let channels = Channels::new(identity, keys, secret, WITHIN).unwrap();
    let twins = twins(&cluster, &signer);
    for node in 0..3 {
        cluster.launch(node, true);
    }
    // In their first rounds, while garbage collection has not passed round 1.
    eventually("v1 holds both versions", WITHIN, || push(&cluster, &channels, 0, &twins)).await;
    cluster.wait_ready(0..3).await;

    let mut heights = Vec::new();
    for node in 0..3 {
        let v4 = jailed(&cluster, node).await;
        let (left, taken) = (amount(&v4["stake"]), amount(&v4["slashedStake"]));
        assert!(taken > 0 && 20 * taken == left + taken, "a twentieth: {v4}");
        assert_eq!((&v4["slashingEvents"], &v4["removed"]), (&1.into(), &true.into()));
        let events = cluster.client(node).read("/validators/slashing-events").await;
        let event = &events["events"][0];
        assert_eq!((&events["total"], &event["validatorId"]), (&1.into(), &"v4".into()));
        assert_eq!((&event["reason"], amount(&event["amount"])), (&"equivocation".into(), taken));
        heights.push(event["height"].as_u64().unwrap());
        let metrics = cluster.client(node).read("/validators/metrics").await;
        assert_eq!((&metrics["jailedValidators"], &metrics["totalSlashingEvents"]), (&1.into(), &1.into()));
        // Told after the state is there for those who read.
        eventually("the metric tells of one fault", WITHIN, || async {
            let told = cluster.client(node).metric("ledger_faults_total", &["kind=\"equivocation\""]).await;
            (told >= 1.0).then(|| assert!(told < 2.0, "{told} faults"))
        })
        .await;
        let honest = cluster.client(node).read("/validators/v1").await;
        assert!(honest["status"] != "jailed" && honest["slashingEvents"] == 0, "{honest}");
    }
    assert!(heights.iter().all(|height| *height == heights[0]), "one block on all: {heights:?}");

    // The three go on, and v4's own process, which has not signed that, learns of it.
    let mut wallet = cluster.wallets(1).remove(0);
    let answer =
        cluster.client(1).post_bytes("/blockchain/transactions", wallet.transfers([(7, 5)]).shared_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    cluster.launch(3, true);
    let v4 = jailed(&cluster, 3).await;
    assert!(amount(&v4["slashedStake"]) > 0, "{v4}");
    cluster.wait_equal(&[0, 1, 2, 3], WITHIN).await;
}
