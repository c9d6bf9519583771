//! The worker with a device that works, fails, hangs, lies, vanishes and panics.

use aurigraph_gpu::AwsLc;
use aurigraph_runtime::{ChildSpec, Registry, Tree};

use super::*;
use crate::crypto::fake_device::{Bench, Mood, TUNING};
use crate::crypto::testing::{ALL_MODES, Gated, SOON, node, restart, tree, until};
use crate::crypto::{DispatchMsg, Priority, TransactionCheck, Verifier, VerifyDispatcher, Worker};
use crate::mempool::testing::{Account, spoiled};

struct Node {
    registry: Registry,
    _tree: Tree,
    bench: Arc<Bench>,
    state: Arc<GpuState>,
    cpu: Arc<Gated>,
}

/// A node with one verifier on the processor and the worker of a device in this mood.
async fn with_device(mood: Mood) -> Node {
    let (registry, bench, state, cpu) = (node(), Bench::new(mood), Arc::new(GpuState::new(0, true)), Gated::opened());
    let open = bench.opener();
    let workers = vec![
        Worker { role: "cpu-verifier/0".to_owned(), device: None },
        Worker { role: "gpu-worker/0".to_owned(), device: Some(Arc::clone(&state)) },
    ];
    let (of_worker, on_cpu) = (Arc::clone(&state), Arc::clone(&cpu));
    let deadline = if mood == Mood::Hangs { Duration::from_millis(300) } else { TUNING.deadline };
    let tuning = Tuning { deadline, ..TUNING };
    let children = vec![
        ChildSpec::behaviour("cpu-verifier/0", bounds::VERIFIER_MAILBOX, move || {
            Verifier::cpu(Arc::clone(&on_cpu) as _)
        }),
        ChildSpec::behaviour("gpu-worker/0", bounds::DEVICE_MAILBOX, move || {
            GpuWorker::new(Arc::clone(&of_worker), Arc::clone(&open), Arc::new(AwsLc), tuning)
        }),
        ChildSpec::behaviour("verify-dispatcher", bounds::DISPATCHER_MAILBOX, move || {
            VerifyDispatcher::new(workers.clone())
        }),
    ];
    let _tree = tree(&registry, children).await;
    Node { registry, _tree, bench, state, cpu }
}

impl Node {
    async fn ready(&self) {
        until("the device is tested", || self.state.ready().is_some()).await;
    }

    /// Asks for a hundred verdicts, every fourth of which is bad, and checks them.
    async fn hundred(&self, sender: u32) {
        let account = Account::new(sender);
        let checks: Vec<TransactionCheck> = (0..100)
            .map(|nonce| {
                let good = account.pay(nonce);
                account.check(&if nonce % 4 == 3 { spoiled(&good) } else { good })
            })
            .collect();
        let dispatcher = self.registry.role::<DispatchMsg>("verify-dispatcher");
        let answer = dispatcher
            .ask(|reply| DispatchMsg::VerifyTransactions { checks, priority: Priority::Admission, reply: Some(reply) })
            .unwrap();
        let verdicts = tokio::time::timeout(SOON, answer).await.unwrap().unwrap().unwrap();
        for (nonce, verdict) in verdicts.iter().enumerate() {
            assert_eq!(verdict.unwrap().valid, nonce % 4 != 3, "transaction {nonce}");
        }
    }

    fn why_not(&self) -> String {
        self.state.why_not().unwrap_or_default()
    }
}

#[tokio::test]
async fn a_device_that_works_gets_large_batches_and_small_requests_stay_on_the_processor() {
    let node = with_device(Mood::Works).await;
    node.ready().await;
    node.hundred(1).await;
    assert!(node.bench.largest.load(Ordering::SeqCst) >= TUNING.crossover.unwrap(), "the device did nothing");
    let before = (node.bench.checked(), node.cpu.checked());
    let account = Account::new(2);
    let checks = vec![account.check(&account.pay(0))];
    let dispatcher = node.registry.role::<DispatchMsg>("verify-dispatcher");
    let answer = dispatcher
        .ask(|reply| DispatchMsg::VerifyTransactions { checks, priority: Priority::Admission, reply: Some(reply) })
        .unwrap();
    assert!(answer.await.unwrap().unwrap()[0].unwrap().valid);
    assert_eq!((node.bench.checked(), node.cpu.checked()), (before.0, before.1 + 1));
}

#[tokio::test]
async fn a_device_is_given_what_waits_in_all_classes_together_but_few_blocks() {
    let node = with_device(Mood::Works).await;
    node.ready().await;
    node.cpu.set(false);
    let dispatcher = node.registry.role::<DispatchMsg>("verify-dispatcher");
    let account = Account::new(60);
    let ask = |nonces: std::ops::Range<u64>, priority| {
        let checks = nonces.map(|nonce| account.check(&account.pay(nonce))).collect();
        dispatcher.ask(|reply| DispatchMsg::VerifyTransactions { checks, priority, reply: Some(reply) }).unwrap()
    };
    // Two jobs that the processor does not end, a block behind them, and in no class as many as the device wants.
    let blocks = [ask(0..1, Priority::Consensus), ask(1..2, Priority::Consensus), ask(2..3, Priority::Consensus)];
    let few = ask(10..14, Priority::Admission);
    let others = ask(20..24, Priority::Ahead);
    for answer in [few, others] {
        let verdicts = tokio::time::timeout(SOON, answer).await.unwrap().unwrap().unwrap();
        assert!(verdicts.iter().all(|verdict| verdict.unwrap().valid));
    }
    assert_eq!((node.bench.checked(), node.cpu.checked()), (8, 0));
    node.cpu.set(true);
    for answer in blocks {
        assert!(tokio::time::timeout(SOON, answer).await.unwrap().unwrap().unwrap()[0].unwrap().valid);
    }
    assert_eq!((node.bench.checked(), node.cpu.checked()), (8, 3));
}

#[tokio::test]
async fn a_batch_that_the_device_fails_is_checked_on_the_processor_and_the_device_is_left_alone() {
    for mood in [Mood::Fails, Mood::Short] {
        let node = with_device(mood).await;
        node.ready().await;
        node.hundred(3).await;
        assert!(node.why_not().contains("until its worker is restarted"), "{mood:?}: {}", node.why_not());
        let seen = node.bench.checked();
        assert!(seen > 0);
        node.hundred(4).await;
        assert_eq!(node.bench.checked(), seen, "{mood:?}: it is not asked again");
    }
}

#[tokio::test]
async fn a_device_that_failed_is_opened_again_with_its_worker_and_not_for_ever() {
    let node = with_device(Mood::Fails).await;
    for time in 1..=3 {
        node.ready().await;
        assert_eq!(node.bench.opened.load(Ordering::SeqCst), time);
        node.hundred(10 + u32::try_from(time).unwrap()).await;
        assert!(node.state.ready().is_none());
        restart::<VerifierMsg>(&node.registry, "gpu-worker/0", aurigraph_runtime::KillMode::Error).await;
    }
    node.hundred(20).await;
    assert_eq!(node.bench.opened.load(Ordering::SeqCst), 3);
    assert!(node.why_not().contains("until the process ends"), "{}", node.why_not());
}

#[tokio::test]
async fn a_device_that_lies_is_found_out_and_never_believed_again() {
    let node = with_device(Mood::Lies).await;
    node.ready().await;
    // All signatures are bad, so that whichever places are checked show the lie, and the batch is checked again.
    let account = Account::new(5);
    for round in 0..50 {
        let bad = (0..64).map(|at| account.check(&spoiled(&account.pay(64 * round + at)))).collect();
        let dispatcher = node.registry.role::<DispatchMsg>("verify-dispatcher");
        let ask =
            |reply| DispatchMsg::VerifyTransactions { checks: bad, priority: Priority::Admission, reply: Some(reply) };
        let verdicts = dispatcher.call(SOON, ask).await.unwrap().unwrap();
        assert!(verdicts.iter().all(|verdict| !verdict.unwrap().valid), "a lie about a bad signature got through");
        if node.state.ready().is_none() {
            break;
        }
    }
    assert!(node.why_not().contains("called a signature true"), "{}", node.why_not());
    restart::<VerifierMsg>(&node.registry, "gpu-worker/0", aurigraph_runtime::KillMode::Error).await;
    node.bench.set(Mood::Works);
    node.hundred(6).await;
    assert_eq!(node.bench.opened.load(Ordering::SeqCst), 1, "not even when it would tell the truth");
}

#[tokio::test]
async fn a_device_that_lies_in_its_self_test_is_never_used() {
    let node = with_device(Mood::LiesInItsSelfTest).await;
    until("it is refused", || node.why_not().contains("self-test")).await;
    node.hundred(7).await;
}

#[tokio::test]
async fn a_device_that_hangs_is_given_up_and_its_batch_is_checked_on_the_processor() {
    let node = with_device(Mood::Hangs).await;
    node.ready().await;
    node.hundred(8).await;
    assert!(node.why_not().contains("was not done within"), "{}", node.why_not());
    until("the worker is restarted", || node.registry.role::<VerifierMsg>("gpu-worker/0").generation() >= 2).await;
    node.hundred(9).await;
    // Let the thread go, so that the test's process can end.
    node.bench.set(Mood::Works);
    assert_eq!(node.bench.opened.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_panic_in_a_devices_code_costs_the_device_and_no_verdict() {
    let node = with_device(Mood::Panics).await;
    node.ready().await;
    node.hundred(30).await;
    until("the worker is restarted", || node.registry.role::<VerifierMsg>("gpu-worker/0").generation() >= 2).await;
}

#[tokio::test]
async fn a_killed_worker_opens_its_device_again_and_loses_no_verdict() {
    for mode in ALL_MODES {
        let node = with_device(Mood::Works).await;
        node.ready().await;
        restart::<VerifierMsg>(&node.registry, "gpu-worker/0", mode).await;
        until("the device is opened again", || node.bench.opened.load(Ordering::SeqCst) == 2).await;
        node.ready().await;
        node.hundred(40).await;
    }
}

#[tokio::test]
async fn without_a_device_the_reason_is_told_and_the_processor_checks() {
    let (registry, state) = (node(), Arc::new(GpuState::new(0, true)));
    let open: Open = Arc::new(|| Err("no CUDA device: none".to_owned()));
    let (of_worker, worker) = (Arc::clone(&state), "gpu-worker/0");
    let workers = vec![Worker { role: worker.to_owned(), device: Some(Arc::clone(&state)) }];
    let children = vec![
        ChildSpec::behaviour(worker, bounds::DEVICE_MAILBOX, move || {
            GpuWorker::new(Arc::clone(&of_worker), Arc::clone(&open), Arc::new(AwsLc), TUNING)
        }),
        ChildSpec::behaviour("verify-dispatcher", bounds::DISPATCHER_MAILBOX, move || {
            VerifyDispatcher::new(workers.clone())
        }),
    ];
    let _tree = tree(&registry, children).await;
    until("it is known", || state.why_not().is_some_and(|why| why.starts_with("no CUDA device"))).await;
    let account = Account::new(50);
    let checks = vec![account.check(&spoiled(&account.pay(0)))];
    let dispatcher = registry.role::<DispatchMsg>("verify-dispatcher");
    let ask = |reply| DispatchMsg::VerifyTransactions { checks, priority: Priority::Admission, reply: Some(reply) };
    assert!(!dispatcher.call(SOON, ask).await.unwrap().unwrap()[0].unwrap().valid);
    assert_eq!(GpuState::new(0, false).why_not().as_deref(), Some("switched off in the config"));
}

#[test]
fn the_crossover_is_the_first_size_at_which_the_device_is_faster() {
    let (us, cpu) = (Duration::from_micros, Duration::from_micros(40));
    let times = [(64, us(8_000)), (256, us(12_000)), (1_024, us(16_000)), (4_096, us(32_000))];
    assert_eq!(crossover(&times, cpu), Some((1_024, 128_000.0)));
    assert_eq!(crossover(&times, us(1)), None);
    assert_eq!(crossover(&times, us(1_000)).unwrap().0, 64);
}
