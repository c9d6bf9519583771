//! Killing actors of one node under load, and taking the time until service is normal again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aurigraph_ledger::Hash;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::service::{BASELINE, Calm, Quality, Scope, Search};
use crate::steady::{Record, Shape, SteadyLoad, target};
use crate::{Client, Cluster, Wallet, eventually};

/// Every way for an actor to end.
pub const MODES: [&str; 5] = ["kill", "panic", "error", "stop", "abort"];
/// The node whose actors are killed. Not the first: that one is asked for heights.
pub const NODE: usize = 1;
/// A node's part is given up on after this.
const WITHIN: Duration = Duration::from_secs(20);
/// What a late return left undone is worked off in this time, before the ten seconds that count as undisturbed.
const BACKLOG: Duration = Duration::from_secs(2);
/// Most rests in a row.
const RESTS: usize = 3;
/// How often service is looked at.
const LOOK: Duration = Duration::from_millis(40);
/// Deaths under one supervisor in [`BUDGET_WINDOW`]. The budget is 20 restarts in 30 s; some deaths take others along.
const DEATHS: usize = 13;
const BUDGET_WINDOW: Duration = Duration::from_secs(31);
/// Requests under way at a node at the end, when every transaction is asked for.
const ASKERS: usize = 8;

/// An actor of the live tree.
#[derive(Debug, Clone)]
pub struct Actor {
    /// Its full name.
    pub name: String,
    /// Its supervisor's name; none for the root.
    pub parent: Option<String>,
    /// What it is doing.
    pub state: String,
    /// Incarnations after its first.
    pub restarts: u64,
}

impl Actor {
    fn of(row: &Value) -> Option<Self> {
        Some(Self {
            name: row["name"].as_str()?.to_owned(),
            parent: row["parent"].as_str().map(str::to_owned),
            state: row["state"].as_str()?.to_owned(),
            restarts: row["restarts"].as_u64()?,
        })
    }

    /// Its name without the node's.
    #[must_use]
    pub fn role(&self) -> &str {
        self.name.split_once('/').map_or("", |(_, role)| role)
    }
}

/// How one death went.
#[derive(Debug, Clone, Copy)]
pub struct Healed {
    /// From the death to normal service at the node; none if it did not come in [`WITHIN`].
    pub at_node: Option<Duration>,
    /// The same for all nodes together.
    pub overall: Option<Duration>,
    /// Service at the node before.
    pub node_before: Quality,
    /// Service of all nodes before.
    pub before: Quality,
}

impl Healed {
    /// Until service was normal both ways; none if it did not become so.
    #[must_use]
    pub fn took(&self) -> Option<Duration> {
        Some(self.at_node?.max(self.overall?))
    }

    /// Whether service was normal again within this time.
    #[must_use]
    pub fn within(&self, limit: Duration) -> bool {
        self.took().is_some_and(|took| took <= limit)
    }
}

impl std::fmt::Display for Healed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = |time: Option<Duration>| match time {
            Some(time) => format!("{:.2} s", time.as_secs_f64()),
            None => format!("not in {} s", WITHIN.as_secs()),
        };
        let (rate, p99) = (self.node_before.per_second, self.node_before.p99.as_millis());
        let (all_rate, all_p99) = (self.before.per_second, self.before.p99.as_millis());
        write!(f, "normal at the node after {}, overall after {}", seconds(self.at_node), seconds(self.overall))?;
        write!(f, " (before: {rate:.0}/s p99 {p99} ms at the node, {all_rate:.0}/s p99 {all_p99} ms overall)")
    }
}

/// A cluster under load, one node of which suffers.
pub struct Ward {
    /// The cluster.
    pub cluster: Cluster,
    load: SteadyLoad,
    client: Client,
    token: String,
    calm: Calm,
    shape: Shape,
    /// When actors died under each supervisor: budgets are there for accidents, and this is more than that.
    deaths: HashMap<String, Vec<Instant>>,
}

impl Ward {
    /// Puts a ready cluster under load and waits until there is something to compare with.
    pub async fn new(cluster: Cluster, shape: Shape, warm_up: Duration) -> Self {
        let wallets = cluster.config.development.as_ref().map_or(0, |it| u32::try_from(it.signers).unwrap());
        let load = SteadyLoad::start(cluster.wallets(wallets), &cluster.clients(), shape);
        tokio::time::sleep(warm_up + BASELINE).await;
        let calm = Calm::new(&load.record);
        let (client, token) = (cluster.client(NODE), cluster.admin_token());
        Self { cluster, load, client, token, calm, shape, deaths: HashMap::new() }
    }

    /// A client of the node.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// The admin's token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The node's live tree.
    pub async fn actors(&self) -> Vec<Actor> {
        eventually("the live tree", WITHIN, || async {
            let answer = self.client.get("/system/actors").await;
            answer.body["actors"].as_array()?.iter().map(Actor::of).collect()
        })
        .await
    }

    /// Waits until an actor runs and has had so many restarts.
    pub async fn runs(&self, name: &str, restarts: u64) -> Actor {
        eventually(&format!("{name} runs, restarted at least {restarts} times"), WITHIN, || async {
            let actor = self.actors().await.into_iter().find(|actor| actor.name == name)?;
            (actor.state == "running" && actor.restarts >= restarts).then_some(actor)
        })
        .await
    }

    /// Leaves the node alone until there are ten new seconds to compare with. While the machine is so busy with others
    /// that even an undisturbed cluster is slow, it waits on for a while: a death would tell nothing then.
    pub async fn rest(&mut self) {
        for _ in 0..RESTS {
            tokio::time::sleep(BACKLOG + BASELINE).await;
            self.calm = Calm::new(&self.load.record);
            if self.calm.is_good() {
                return;
            }
        }
    }

    /// Kills an actor and takes the time until service is normal.
    pub async fn kill(&mut self, name: &str, mode: &str) -> Healed {
        let actor = self.runs(name, 0).await;
        self.spare_the_budget(actor.parent.as_deref().unwrap_or_default()).await;
        let fault = self.strike(name, mode).await;
        let record = &self.load.record;
        let mut node = Search::new(&self.calm, Scope::Node(NODE), fault);
        let mut all = Search::new(&self.calm, Scope::All, fault);
        let (mut at_node, mut overall) = (None, None);
        while record.now() < fault + WITHIN {
            at_node = at_node.or_else(|| node.look(record));
            overall = overall.or_else(|| all.look(record));
            if at_node.is_some() && overall.is_some() {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        assert_eq!(self.cluster.exited(NODE), None, "{name} {mode} ended the process");
        let healed = Healed { at_node, overall, node_before: node.before(), before: all.before() };
        self.runs(name, actor.restarts + 1).await;
        healed
    }

    /// Kills an actor; says when.
    async fn strike(&self, name: &str, mode: &str) -> Duration {
        let path = format!("/system/actors/{}/kill", name.replace('/', "%2F"));
        eventually(&format!("{name} is killed ({mode})"), WITHIN, || async {
            let now = self.load.record.now();
            let answer = self.client.post(&path, Some(&self.token), &json!({ "mode": mode })).await;
            // No answer: it died with what would have carried the answer. The others: it is just being restarted.
            assert!(matches!(answer.status, 0 | 200 | 202 | 409 | 503 | 504), "{name} {mode}: {}", answer.body);
            matches!(answer.status, 0 | 200 | 202).then_some(now)
        })
        .await
    }

    /// Waits until one more death under a supervisor is within its budget.
    async fn spare_the_budget(&mut self, parent: &str) {
        let times = self.deaths.entry(parent.to_owned()).or_default();
        loop {
            times.retain(|at| at.elapsed() < BUDGET_WINDOW);
            if times.len() < DEATHS {
                return times.push(Instant::now());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends the load and checks that nothing committed is lost or doubled, and that all nodes have the same blocks.
    pub async fn close(self) -> Cluster {
        let record = std::sync::Arc::clone(&self.load.record);
        let wallets = self.load.stop().await;
        audit(&self.cluster, &self.client, &record, &wallets, self.shape.operations).await;
        self.cluster
    }
}

/// Checks, once a load has ended, that every transaction was decided, that nothing committed is lost or doubled, that each
/// is found by its id at another node than the one that reported it, and that all nodes have the same blocks.
pub(crate) async fn audit(cluster: &Cluster, client: &Client, record: &Record, wallets: &[Wallet], operations: u32) {
    assert_eq!(record.refused(), Vec::<String>::new());
    assert_eq!(record.undecided(), 0, "transactions are neither committed nor refused");
    let nodes: Vec<usize> = (0..cluster.len()).collect();
    cluster.wait_equal_tip(&nodes, Duration::from_secs(30)).await;
    let committed = record.committed();
    for wallet in wallets {
        let nonces = committed.get(&wallet.index).map_or(&[][..], Vec::as_slice);
        nothing_lost_or_doubled(cluster, client, wallet, nonces, operations).await;
    }
    known_elsewhere(cluster, record).await;
}

/// Every transaction that a node reported committed is found by its id, as committed, at another node.
async fn known_elsewhere(cluster: &Cluster, record: &Record) {
    let mut askers = JoinSet::new();
    for node in 0..record.nodes() {
        let samples = record.since(node, Duration::ZERO);
        let ids: Vec<Hash> = samples.iter().filter(|sample| sample.done.is_some()).map(|sample| sample.id).collect();
        for part in ids.chunks(ids.len().div_ceil(ASKERS).max(1)) {
            let (client, part) = (cluster.client((node + 1) % cluster.len()), part.to_vec());
            askers.spawn(async move {
                for id in part {
                    let what = format!("{id}, reported committed, is so at {}", client.base());
                    let path = format!("/blockchain/transactions/{id}");
                    let known = || async { (client.get(&path).await.body["status"] == "committed").then_some(()) };
                    eventually(&what, WITHIN, known).await;
                }
            });
        }
    }
    while let Some(asked) = askers.join_next().await {
        asked.unwrap();
    }
}

/// Every nonce that was reported committed is used, and every account that a wallet pays holds one unit a used nonce.
async fn nothing_lost_or_doubled(cluster: &Cluster, client: &Client, wallet: &Wallet, nonces: &[u64], operations: u32) {
    let sender = client.read(&format!("/gateway/balance/{}", wallet.address)).await;
    let base = sender["nonceBase"].as_u64().unwrap();
    let above: Vec<u64> = sender["usedNonces"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
    for nonce in nonces {
        let used = *nonce < base || above.contains(nonce);
        assert!(used, "nonce {nonce} of {} was reported committed and is not used", wallet.address);
    }
    let used = u128::from(base) + above.len() as u128;
    for k in [0, operations / 2, operations - 1] {
        let account = &cluster.config.genesis.accounts[target(wallet.index, k) as usize];
        let target = client.read(&format!("/gateway/balance/{}", account.address)).await;
        let gained = target["balance"].as_str().unwrap().parse::<u128>().unwrap() - account.balance;
        assert_eq!(gained, used, "account {} is paid once for each of its sender's nonces", account.address);
    }
}
