//! Several devices, each with a worker of its own: they share what waits, and what one of them does costs only that one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aurigraph_gpu::AwsLc;
use aurigraph_runtime::{ChildSpec, KillMode, Registry, Tree};

use super::fake_device::{Bench, Mood, TUNING};
use super::testing::{ALL_MODES, Gated, SOON, node, restart, tree, until};
use super::*;
use crate::bounds::crypto as bounds;
use crate::mempool::testing::{Account, spoiled};

struct Fleet {
    registry: Registry,
    _tree: Tree,
    benches: Vec<Arc<Bench>>,
    gpus: Gpus,
    cpu: Arc<Gated>,
}

fn role(at: usize) -> String {
    format!("gpu-worker/{at}")
}

/// A node with one verifier on the processor and so many devices that work. A batch of one that is to hang must be done
/// soon; those of the others may take as long as a busy machine does.
async fn fleet(count: usize, hangs: Option<usize>) -> Fleet {
    let (registry, gpus, cpu) = (node(), Gpus::new(count, true), Gated::opened());
    let benches: Vec<_> = (0..count).map(|_| Bench::new(Mood::Works)).collect();
    let on_cpu = Arc::clone(&cpu);
    let mut workers = vec![Worker { role: "cpu-verifier/0".to_owned(), device: None }];
    let mut children = vec![ChildSpec::behaviour("cpu-verifier/0", bounds::VERIFIER_MAILBOX, move || {
        Verifier::cpu(Arc::clone(&on_cpu) as _)
    })];
    for (state, bench) in gpus.iter().zip(&benches) {
        let deadline = if hangs == Some(state.index()) { Duration::from_millis(300) } else { SOON };
        let (of_worker, open, tuning) = (Arc::clone(state), bench.opener(), Tuning { deadline, ..TUNING });
        workers.push(Worker { role: role(state.index()), device: Some(Arc::clone(state)) });
        children.push(ChildSpec::behaviour(role(state.index()), bounds::DEVICE_MAILBOX, move || {
            GpuWorker::new(Arc::clone(&of_worker), Arc::clone(&open), Arc::new(AwsLc), tuning)
        }));
    }
    children.push(ChildSpec::behaviour("verify-dispatcher", bounds::DISPATCHER_MAILBOX, move || {
        VerifyDispatcher::new(workers.clone())
    }));
    let _tree = tree(&registry, children).await;
    let fleet = Fleet { registry, _tree, benches, gpus, cpu };
    until("all devices are tested", || fleet.gpus.iter().all(|gpu| gpu.ready().is_some())).await;
    fleet
}

impl Fleet {
    fn state(&self, at: usize) -> &GpuState {
        self.gpus.iter().nth(at).unwrap()
    }

    fn why(&self, at: usize) -> String {
        self.state(at).why_not().unwrap_or_default()
    }

    /// Asks for so many verdicts, of which every so many-th is bad, and checks them.
    async fn ask(&self, sender: u32, count: u64, bad_each: u64) {
        let account = Account::new(sender);
        let checks: Vec<TransactionCheck> = (0..count)
            .map(|nonce| {
                let good = account.pay(nonce);
                account.check(&if nonce % bad_each == bad_each - 1 { spoiled(&good) } else { good })
            })
            .collect();
        let dispatcher = self.registry.role::<DispatchMsg>("verify-dispatcher");
        let ask = |reply| DispatchMsg::VerifyTransactions { checks, priority: Priority::Admission, reply: Some(reply) };
        let verdicts = dispatcher.call(SOON, ask).await.unwrap().unwrap();
        for (nonce, verdict) in (0_u64..).zip(&verdicts) {
            assert_eq!(verdict.unwrap().valid, nonce % bad_each != bad_each - 1, "transaction {nonce}");
        }
    }

    /// Asks until each of these devices has done something more.
    async fn all_work(&self, sender: u32, devices: &[usize]) {
        let before: Vec<_> = devices.iter().map(|at| self.benches[*at].checked()).collect();
        for round in 0..50 {
            self.ask(sender + round, 100, 4).await;
            if devices.iter().zip(&before).all(|(at, before)| self.benches[*at].checked() > *before) {
                return;
            }
        }
        panic!("devices {devices:?} are not all given work");
    }
}

#[tokio::test]
async fn devices_share_what_waits_among_each_other_and_with_the_processor() {
    let fleet = fleet(3, None).await;
    fleet.all_work(100, &[0, 1, 2]).await;
    assert!(fleet.cpu.checked() > 0);
}

#[tokio::test]
async fn when_one_hangs_one_lies_and_one_vanishes_the_others_go_on() {
    let fleet = fleet(5, Some(1)).await;
    fleet.benches[1].set(Mood::Hangs);
    fleet.benches[2].set(Mood::Lies);
    fleet.benches[3].set(Mood::Vanishes);
    // All signatures are bad: whichever the processor compares shows the lie, and the batch is checked again.
    for round in 0..50 {
        fleet.ask(200 + round, 100, 1).await;
        if (1..=3).all(|at| fleet.state(at).ready().is_none()) {
            break;
        }
    }
    assert!(fleet.why(1).contains("was not done within"), "{}", fleet.why(1));
    assert!(fleet.why(2).contains("called a signature true"), "{}", fleet.why(2));
    assert!(fleet.why(3).contains("until its worker is restarted"), "{}", fleet.why(3));
    until("the worker of the one that hangs is restarted", || {
        fleet.registry.role::<VerifierMsg>(&role(1)).generation() >= 2
    })
    .await;
    // The one that vanished is looked for again by a new worker, and is not there.
    restart::<VerifierMsg>(&fleet.registry, &role(3), KillMode::Error).await;
    until("it is known to be gone", || fleet.why(3).contains("it has vanished")).await;
    let left = [1, 2, 3].map(|at| fleet.benches[at].checked());
    fleet.all_work(300, &[0, 4]).await;
    assert!(fleet.state(0).ready().is_some() && fleet.state(4).ready().is_some());
    assert_eq!([1, 2, 3].map(|at| fleet.benches[at].checked()), left, "nobody asks the others any more");
    assert_eq!(fleet.gpus.why_none(), None);
    // Let the thread go, so that the test's process can end.
    fleet.benches[1].set(Mood::Works);
}

#[tokio::test]
async fn a_killed_worker_costs_the_other_devices_nothing() {
    let fleet = fleet(3, None).await;
    let mut opened = [1; 3];
    for (round, mode) in (0..).zip(ALL_MODES) {
        let at = round as usize % 3;
        restart::<VerifierMsg>(&fleet.registry, &role(at), mode).await;
        opened[at] += 1;
        until("its device is opened and tested again", || {
            fleet.benches[at].opened.load(Ordering::SeqCst) == opened[at] && fleet.state(at).ready().is_some()
        })
        .await;
        fleet.all_work(1_000 + 100 * round, &[0, 1, 2]).await;
    }
    let seen: Vec<_> = fleet.benches.iter().map(|bench| bench.opened.load(Ordering::SeqCst)).collect();
    assert_eq!(seen, opened, "a device is opened by its own worker alone");
}
