//! Random deaths all over a tree: it heals, and no two incarnations of one name ever live at once.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::Duration;

use aurigraph_runtime::{Backoff, Budget, ChildSpec, KillMode, Registry, Strategy, SupervisorSpec, Tree};
use support::{Order, Probe, WITHIN, eventually, unique_node};

/// A small generator (splitmix64): the same seed gives the same kills, though not the same interleaving.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((value ^ (value >> 31)) % bound as u64).unwrap()
    }
}

const LEAVES: [&str; 7] = ["journal", "store", "gateway", "peer", "order", "verify", "query"];
const SUPERVISORS: [&str; 4] = ["storage", "cluster", "peers", "pipeline"];

fn patient(role: &str, strategy: Strategy) -> SupervisorSpec {
    let backoff = Backoff { first: Duration::from_millis(1), factor: 2, max: Duration::from_millis(8) };
    let budget = Budget { restarts: 1_000_000, window: Duration::from_secs(1) };
    SupervisorSpec::new(role, strategy).budget(budget).backoff(backoff)
}

fn spec(probe: &Probe) -> SupervisorSpec {
    let storage = patient("storage", Strategy::RestForOne).child(probe.child("journal")).child(probe.child("store"));
    let peers = patient("peers", Strategy::OneForOne).child(probe.child("peer"));
    let cluster =
        patient("cluster", Strategy::RestForOne).child(probe.child("gateway")).child(ChildSpec::supervisor(peers));
    let pipeline = patient("pipeline", Strategy::OneForAll).child(probe.child("order")).child(probe.child("verify"));
    patient("root", Strategy::OneForOne)
        .child(ChildSpec::supervisor(storage))
        .child(ChildSpec::supervisor(cluster))
        .child(ChildSpec::supervisor(pipeline))
        .child(probe.child("query"))
}

async fn heals_from(seed: u64, kills: usize) {
    println!("seed {seed}");
    let (probe, registry) = (Probe::default(), Registry::new(&unique_node()));
    let tree = Tree::start(registry.clone(), spec(&probe)).await.unwrap();
    let mut random = Random(seed);
    let mut died = 0;
    for _ in 0..kills {
        let roles = if random.below(4) == 0 { &SUPERVISORS[..] } else { &LEAVES[..] };
        let role = roles[random.below(roles.len())];
        let mode = KillMode::ALL[random.below(KillMode::ALL.len())];
        died += usize::from(registry.kill(&registry.name_of(role), mode));
        for _ in 0..random.below(40) {
            tokio::task::yield_now().await;
        }
        if random.below(8) == 0 {
            tokio::time::sleep(Duration::from_millis(random.below(6) as u64)).await;
        }
    }
    assert!(died > kills / 10, "only {died} of {kills} kills met anyone");
    for role in LEAVES {
        let address = registry.role::<Order>(role);
        let answers = async {
            while address.call(WITHIN, Order::Ping).await.is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let healed = tokio::time::timeout(WITHIN, answers).await.is_ok();
        assert!(healed, "seed {seed}: {role} does not answer in\n{:#?}", registry.tree());
    }
    let running =
        |role: &str| registry.row(&registry.name_of(role)).unwrap().state == aurigraph_runtime::ActorState::Running;
    eventually("all supervisors run", || SUPERVISORS.iter().all(|role| running(role))).await;
    assert_eq!(probe.twins(), [""; 0], "seed {seed}");
    tree.shutdown(WITHIN).await.unwrap();
    let steps = probe.take();
    let (births, deaths) =
        (steps.iter().filter(|step| step.starts_with('+')), steps.iter().filter(|s| s.starts_with('~')));
    assert_eq!(births.count(), deaths.count(), "seed {seed}: every state was dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_heals_from_random_deaths_on_several_threads() {
    for seed in 1..=4 {
        heals_from(seed, 300).await;
    }
}

#[tokio::test]
async fn a_tree_heals_from_random_deaths_on_one_thread() {
    for seed in 11..=14 {
        heals_from(seed, 300).await;
    }
}
