//! Epochs of a few seconds, under load: no commit is lost, nobody waits long, all agree; a node that was away over the end
//! of epochs follows, and proofs lead from the genesis' validators over all of them.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::Duration;

use aurigraph_actors::config::{network_public_key, public_key_of_seed};
use aurigraph_actors::query::values::Timestamp;
use aurigraph_gpu::{Seed, Signer};
use aurigraph_ledger::PublicKey;
use aurigraph_ledger::staking::{ProvenKeys, Registration, StakingOperation, ValidatorKeys, proof_message};
use aurigraph_testkit::{Client, Cluster, Load, Options, Wallet, eventually};

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
const WITHIN: Duration = Duration::from_secs(60);
/// The longest time between two ledger blocks under load: the closing phase and the first rounds of an epoch. A second or two;
/// a machine that does other things, too, gets more before it is called a gap.
const LONGEST_PAUSE_MS: u64 = 20_000;

const HEAD: &str = "# One table a node.\n";
const WITH_EPOCHS: &str = "[genesis.parameters]\nepoch_ms = 4000\n\n# One table a node.\n";
/// The same with a fifth node, which follows and may become a validator.
const WITH_CANDIDATE: &str = "[genesis.parameters]\nepoch_ms = 4000\n\n[[node]]\nname = \"v5\"\nvalidator = false\n\
                              candidate = true\nrest = \"127.0.0.1:9043\"\nlisten = \"127.0.0.1:9044\"\n";

async fn epoch(cluster: &Cluster, node: usize) -> Option<u64> {
    cluster.client(node).get("/consensus/status").await.body["epoch"].as_u64()
}

async fn wait_epoch(cluster: &Cluster, nodes: &[usize], at_least: u64) {
    for node in nodes {
        let what = format!("{} is in epoch {at_least}", cluster.name(*node));
        eventually(&what, WITHIN, || async { epoch(cluster, *node).await.filter(|found| *found >= at_least) }).await;
    }
}

/// The longest time between two blocks, in milliseconds of commit time.
async fn longest_pause(cluster: &Cluster, from: u64, to: u64) -> u64 {
    let client = cluster.client(0);
    let mut times = Vec::new();
    for height in from..=to {
        let block = client.read(&format!("/blockchain/blocks/{height}")).await;
        times.push(Timestamp::parse(block["timestamp"].as_str().unwrap()).unwrap().0);
    }
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

/// A transaction's proof from one node, verified against the genesis alone.
fn prove(cluster: &Cluster, node: usize, hash: &str) -> String {
    let file = cluster.data_dir().join(format!("{hash}.json"));
    let fetched = Command::new(BINARY)
        .args(["proof", "tx", hash, "--url", cluster.client(node).base(), "--out"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    let verified = Command::new(BINARY)
        .args(["proof", "verify", "--json"])
        .arg(&file)
        .arg("--genesis")
        .arg(cluster.config_file(node))
        .output()
        .unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    String::from_utf8(verified.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn epochs_change_under_load_and_a_node_that_was_away_over_their_ends_follows() {
    let options = Options { replace: vec![(HEAD, WITH_CANDIDATE)], ..Options::default() };
    let mut cluster = Cluster::start(BINARY, "four-validators.toml", options).await;
    // The tables of the config are in the order of their lines: the candidate is the first.
    let (candidate, validators) = (0, [1, 2, 3, 4]);
    let clients: Vec<_> = validators.iter().map(|node| cluster.client(*node)).collect();
    let load = Load::start(cluster.wallets(6), &clients[..3]);
    wait_epoch(&cluster, &validators, 2).await;
    let quiet = cluster.client(1).height().await.unwrap();
    cluster.kill(4);
    let away_since = epoch(&cluster, 1).await.unwrap();
    wait_epoch(&cluster, &[1, 2, 3], away_since + 2).await;
    cluster.restart(4).await;
    wait_epoch(&cluster, &validators, away_since + 3).await;
    wait_epoch(&cluster, &[candidate], away_since + 3).await;
    let reported = load.committed();
    load.stop().await;
    let height = cluster.wait_equal(&[0, 1, 2, 3, 4], WITHIN).await;
    let pause = longest_pause(&cluster, 2, quiet).await;
    println!("{height} blocks, {} transactions, the longest pause over two ends of epochs {pause} ms", reported.len());
    assert!(pause <= LONGEST_PAUSE_MS, "{pause} ms without a block");
    for hash in &reported {
        for client in [&clients[0], &clients[3]] {
            let what = format!("{hash} is committed at {}", client.base());
            eventually(&what, WITHIN, || async {
                let body = client.get(&format!("/blockchain/transactions/{hash}")).await.body;
                (body["status"] == "committed").then_some(())
            })
            .await;
        }
    }
    let shown = prove(&cluster, 1, reported.last().unwrap());
    assert!(shown.contains("\"final\""), "{shown}");
    for node in validators {
        let signing = &cluster.client(node).read("/consensus/status").await["signing"]["state"];
        assert_eq!(signing, "signing", "{}", cluster.name(node));
        assert!(!cluster.log(node).contains("consensus alarm"), "{}", cluster.log(node));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_killed_as_a_whole_goes_on_in_its_epoch() {
    let options = Options { replace: vec![(HEAD, WITH_EPOCHS)], ..Options::default() };
    let mut cluster = Cluster::start(BINARY, "four-validators.toml", options).await;
    let load = Load::start(cluster.wallets(4), &cluster.clients());
    wait_epoch(&cluster, &[0, 1, 2, 3], 1).await;
    (0..4).for_each(|node| cluster.kill(node));
    load.stop().await;
    (0..4).for_each(|node| cluster.launch(node, false));
    cluster.wait_ready(0..4).await;
    let load = Load::start(cluster.wallets(8).split_off(4), &cluster.clients());
    wait_epoch(&cluster, &[0, 1, 2, 3], 3).await;
    load.stop().await;
    cluster.wait_equal(&[0, 1, 2, 3], WITHIN).await;
}

/// The registration of a node that is no validator yet, by this operator.
fn join(cluster: &Cluster, name: &str, operator: &Wallet) -> StakingOperation {
    let secrets = cluster.config.development.as_ref().unwrap().node_secrets(name);
    let (consensus_seed, network_seed) = (secrets.consensus_seed.unwrap(), secrets.network_seed);
    let keys = ValidatorKeys {
        consensus: PublicKey::new(public_key_of_seed(&consensus_seed)),
        network: PublicKey::new(network_public_key(&network_seed)),
    };
    let message = proof_message(&cluster.config.genesis.chain_id(), &operator.address, name, &keys);
    let proof = |seed| Signer::from_seed(&Seed::new(seed)).unwrap().sign(&message).unwrap().to_vec();
    let keys = ProvenKeys { keys, consensus_proof: proof(consensus_seed), network_proof: proof(network_seed) };
    let self_stake = cluster.config.genesis.parameters.staking.stake_unit;
    StakingOperation::Join(Box::new(Registration { name: name.to_owned(), self_stake, commission: 500, keys }))
}

async fn commit(client: &Client, wallet: &Wallet, operation: StakingOperation) {
    let transaction = wallet.sign(&wallet.builder(0).staking(operation));
    let answer = client.post_bytes("/blockchain/transactions", transaction.shared_bytes()).await;
    assert_eq!(answer.body["status"], "committed", "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_joins_as_the_fifth_validator_and_another_leaves_under_load() {
    let options = Options { replace: vec![(HEAD, WITH_CANDIDATE)], ..Options::default() };
    let cluster = Cluster::start(BINARY, "four-validators.toml", options).await;
    let (joiner, leaver, stayers) = (0, 4, [1, 2, 3]);
    let clients: Vec<_> = stayers.iter().map(|node| cluster.client(*node)).collect();
    let mut wallets = cluster.wallets(26);
    let load = Load::start(wallets.split_off(20), &clients);
    wait_epoch(&cluster, &stayers, 1).await;
    let quiet = cluster.client(1).height().await.unwrap();
    // The operators of a development genesis' validators are the first accounts.
    commit(&clients[0], &wallets[10], join(&cluster, "v5", &wallets[10])).await;
    commit(&clients[0], &wallets[3], StakingOperation::Leave { validator: 3 }).await;
    let signs = |node, expected: &'static str| {
        let client = cluster.client(node);
        move || {
            let client = client.clone();
            async move {
                let body = client.get("/consensus/status").await.body;
                (body["signing"]["state"] == expected || body["mode"] == expected).then_some(())
            }
        }
    };
    eventually("the fifth signs", WITHIN, signs(joiner, "signing")).await;
    eventually("the one that left observes", WITHIN, signs(leaver, "observer")).await;
    let joined = epoch(&cluster, joiner).await.unwrap();
    wait_epoch(&cluster, &[0, 1, 2, 3, 4], joined + 2).await;
    // What the new one takes from a client is delivered by the new committee.
    let mut wallet = wallets.remove(12);
    let answer =
        cluster.client(joiner).post_bytes("/blockchain/transactions", wallet.transfers([(7, 1)]).shared_bytes()).await;
    assert_eq!(answer.body["status"], "committed", "{}", answer.body);
    let to = cluster.client(1).height().await.unwrap();
    let reported = load.committed();
    load.stop().await;
    let height = cluster.wait_equal(&[0, 1, 2, 3, 4], WITHIN).await;
    let pause = longest_pause(&cluster, quiet, to).await;
    println!("{height} blocks, {} transactions, the longest pause over the change {pause} ms", reported.len());
    assert!(pause <= LONGEST_PAUSE_MS, "{pause} ms without a block");
    for hash in &reported {
        let what = format!("{hash} is committed at the new validator");
        eventually(&what, WITHIN, || async {
            let body = cluster.client(joiner).get(&format!("/blockchain/transactions/{hash}")).await.body;
            (body["status"] == "committed").then_some(())
        })
        .await;
    }
    // The proof's signers are of a committee that the genesis does not name.
    let shown = prove(&cluster, 1, reported.last().unwrap());
    assert!(shown.contains("\"final\""), "{shown}");
    for node in 0..5 {
        assert!(!cluster.log(node).contains("consensus alarm"), "{}", cluster.log(node));
    }
}
