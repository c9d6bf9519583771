//! Epochs of a few seconds, under load: no commit is lost, nobody waits long, all agree; a node that was away over the end
//! of epochs follows, and proofs lead from the genesis' validators over all of them.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use aurigraph_actors::query::values::Timestamp;
use aurigraph_ledger::Checkpoint;
use aurigraph_ledger::staking::StakingOperation;
use aurigraph_testkit::cli::private;
use aurigraph_testkit::{Client, Cluster, Load, Options, Wallet, eventually};

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
const WITHIN: Duration = Duration::from_secs(60);
/// The longest time between two ledger blocks under load: the closing phase and the first rounds of an epoch. A second or two;
/// a test build on a machine that does other things, too, gets more before it is called a gap.
const LONGEST_PAUSE_MS: u64 = if cfg!(debug_assertions) { 20_000 } else { 2_000 };

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

/// The commit that an epoch begins with follows the one that its predecessor's final checkpoint covers.
async fn no_commit_is_missing_between_epochs(client: &Client) {
    let (first, last) = eventually("the end of the epoch before this one is certified", WITHIN, || async {
        let status = client.read("/consensus/status").await;
        let before = status["epoch"].as_u64()?.checked_sub(1)?;
        let latest = client.get(&format!("/consensus/checkpoints/latest?epochsFrom={before}")).await.body;
        let hop = latest["epochHops"].as_array()?.iter().find(|hop| hop["epoch"] == before)?;
        let bytes = hex::decode(hop["checkpoint"].as_str()?.strip_prefix("0x")?).unwrap();
        Some((status["epochFirstCommit"].as_u64()?, Checkpoint::decode(&bytes).unwrap().commit_index))
    })
    .await;
    assert_eq!(first, last + 1);
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
    let shown = cluster.prove(1, reported.last().unwrap());
    assert_eq!(shown["final"], true, "{shown}");
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

/// Registers a candidate of the config with its own keys, as an account's validator, by the command line.
fn join(cluster: &Cluster, name: &str, account: usize) {
    let secrets = cluster.config.development.as_ref().unwrap().node_secrets(name);
    let keys = cluster.data_dir().join(format!("{name}.node.json"));
    private(&keys, &serde_json::to_string(&secrets).unwrap());
    let (operator, client) = (cluster.account_key(account), cluster.client(1));
    let stake = (cluster.config.genesis.parameters.staking.stake_unit / 10_u128.pow(18)).to_string();
    let start = ["stake", "join", "--key", operator.to_str().unwrap(), "--node-keys", keys.to_str().unwrap()];
    let more = ["--name", name, "--amount", &stake, "--commission", "5", "--wait", "--url", client.base()];
    let sent = cluster.aurigraph(&[&start[..], &more].concat());
    assert_eq!(sent["status"], "committed", "{sent}");
}

async fn commit(client: &Client, wallet: &Wallet, operation: StakingOperation) {
    let transaction = wallet.sign(&wallet.builder(0).staking(operation));
    let answer = client.post_bytes("/blockchain/transactions", transaction.shared_bytes()).await;
    assert_eq!(answer.body["status"], "committed", "{}", answer.body);
}

/// Epochs after it left, a validator's figures are those of the last epoch that it validated, at every node.
async fn the_one_that_left_is_told_by_its_last_epoch(cluster: &Cluster, joined: u64) {
    let mut told = Vec::new();
    for node in 0..5 {
        let view = cluster.client(node).read("/validators/v4").await;
        assert!(view["index"].is_null() && view["leaving"] == true, "{view}");
        assert!(view["uptimeEpoch"].as_u64().is_some_and(|last| last <= joined), "{view}");
        assert!(view["uptime"].as_f64() > Some(50.0), "it took part to its end: {view}");
        told.push(["uptime", "uptimeEpoch", "blocksProduced", "missedBlocks"].map(|field| view[field].clone()));
    }
    assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
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
    join(&cluster, "v5", 10);
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
    the_one_that_left_is_told_by_its_last_epoch(&cluster, joined).await;
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
    for node in [1, joiner] {
        no_commit_is_missing_between_epochs(&cluster.client(node)).await;
    }
    for hash in &reported {
        let what = format!("{hash} is committed at the new validator");
        eventually(&what, WITHIN, || async {
            let body = cluster.client(joiner).get(&format!("/blockchain/transactions/{hash}")).await.body;
            (body["status"] == "committed").then_some(())
        })
        .await;
    }
    // The proof's signers are of a committee that the genesis does not name.
    let shown = cluster.prove(1, reported.last().unwrap());
    assert_eq!(shown["final"], true, "{shown}");
    for node in 0..5 {
        assert!(!cluster.log(node).contains("consensus alarm"), "{}", cluster.log(node));
    }
}
