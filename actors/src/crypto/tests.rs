//! The dispatcher with its verifiers, as actors.

use std::sync::Arc;
use std::time::Duration;

use aurigraph_gpu::{AwsLc, BatchVerifier};
use aurigraph_runtime::{ChildSpec, KillMode, Registry, Tree};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::testing::{ALL_MODES, Gated, Heard, SOON, node, probe, restart, tree, until};
use super::*;
use crate::bounds::crypto as bounds;
use crate::mempool::testing::{Account, spoiled};

type Verdicts = Result<Vec<Option<Verdict>>, DispatchError>;

fn dispatcher(workers: &[(&str, bool)], deadline: Duration) -> ChildSpec {
    let workers: Vec<_> =
        workers.iter().map(|(role, reserve)| Worker { role: (*role).to_owned(), device: absent(*reserve) }).collect();
    ChildSpec::behaviour("verify-dispatcher", bounds::DISPATCHER_MAILBOX, move || {
        VerifyDispatcher::new(workers.clone()).with_deadline(deadline)
    })
}

/// For a reserve: the device that is not there.
fn absent(reserve: bool) -> Option<Arc<GpuState>> {
    reserve.then(|| Arc::new(GpuState::new(0, false)))
}

fn verifier(role: &str, back_end: Arc<dyn BatchVerifier>) -> ChildSpec {
    ChildSpec::behaviour(role, bounds::VERIFIER_MAILBOX, move || Verifier::cpu(Arc::clone(&back_end)))
}

/// A node with one verifier on this back-end.
async fn one_verifier(back_end: Arc<dyn BatchVerifier>, deadline: Duration) -> (Registry, Tree) {
    let registry = node();
    let children = vec![verifier("cpu-verifier/0", back_end), dispatcher(&[("cpu-verifier/0", false)], deadline)];
    let tree = tree(&registry, children).await;
    (registry, tree)
}

fn ask(registry: &Registry, checks: Vec<TransactionCheck>, priority: Priority) -> oneshot::Receiver<Verdicts> {
    let dispatcher = registry.role::<DispatchMsg>("verify-dispatcher");
    dispatcher.ask(|reply| DispatchMsg::VerifyTransactions { checks, priority, reply: Some(reply) }).unwrap()
}

async fn verdicts(registry: &Registry, checks: Vec<TransactionCheck>) -> Vec<Option<bool>> {
    let answer = ask(registry, checks, Priority::Execution);
    let verdicts = tokio::time::timeout(SOON, answer).await.unwrap().unwrap().unwrap();
    verdicts.into_iter().map(|verdict| verdict.map(|verdict| verdict.valid)).collect()
}

#[tokio::test]
async fn every_item_gets_its_own_verdict_and_none_without_a_key() {
    let (registry, _tree) = one_verifier(Arc::new(AwsLc), SOON).await;
    let (alice, bob) = (Account::new(1), Account::new(2));
    let mut checks = Vec::new();
    let mut expected = Vec::new();
    for nonce in 0..40 {
        let transaction = alice.pay(nonce);
        match nonce % 4 {
            0 => checks.push(alice.check(&transaction)),
            1 => checks.push(alice.check(&spoiled(&transaction))),
            2 => checks.push(TransactionCheck { transaction, key: None }),
            _ => checks.push(bob.check(&transaction)),
        }
        expected.push([Some(true), Some(false), None, Some(false)][nonce as usize % 4]);
    }
    assert_eq!(verdicts(&registry, checks).await, expected);

    let carried = aurigraph_ledger::transaction::SenderKey::PublicKey(alice.key.bytes.to_vec());
    let transaction = alice.sign(&Account::builder_for(carried, 0));
    assert_eq!(verdicts(&registry, vec![TransactionCheck { transaction, key: None }]).await, [Some(true)]);

    let good = alice.pay(0);
    let message = Bytes::copy_from_slice(&good.signing_message());
    let check = |signature: &[u8]| {
        Check::of_message(alice.key.bytes.clone(), message.clone(), Bytes::copy_from_slice(signature))
    };
    let items = vec![check(good.signature()), check(b"short")];
    let dispatcher = registry.role::<DispatchMsg>("verify-dispatcher");
    let answer =
        dispatcher.call(SOON, |reply| DispatchMsg::Verify { items, priority: Priority::Consensus, reply }).await;
    assert_eq!(answer.unwrap().unwrap(), [true, false]);
}

#[tokio::test]
async fn a_verdict_is_remembered_for_its_key_alone() {
    let gate = Gated::opened();
    let (registry, _tree) = one_verifier(Arc::clone(&gate) as _, SOON).await;
    let (alice, bob) = (Account::new(1), Account::new(2));
    let transaction = alice.pay(0);
    assert_eq!(verdicts(&registry, vec![alice.check(&transaction)]).await, [Some(true)]);
    assert_eq!(verdicts(&registry, vec![bob.check(&transaction)]).await, [Some(false)]);
    assert_eq!(verdicts(&registry, vec![alice.check(&spoiled(&transaction))]).await, [Some(false)]);
    assert_eq!(gate.checked(), 3);
    let again = vec![alice.check(&transaction), bob.check(&transaction), alice.check(&spoiled(&transaction))];
    assert_eq!(verdicts(&registry, again).await, [Some(true), Some(false), Some(false)]);
    assert_eq!(gate.checked(), 3, "all three were remembered");
}

#[test]
fn a_job_is_two_milliseconds_of_whole_eights_within_its_bounds() {
    let items = [0.0, 9_999.0, 23_000.0, 60_000.0, 127_999.0, 128_000.0, 1e9].map(bounds::items_per_job);
    assert_eq!(items, [16, 16, 40, 120, 248, 256, 256]);
}

/// The items of the next job, and its reply.
async fn job(heard: &mut Heard<VerifierMsg>) -> (Arc<[Check]>, super::JobReply) {
    match heard.next().await {
        VerifierMsg::Job { items, reply } => (items, reply),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn blocks_overtake_transactions_and_senders_take_turns() {
    let registry = node();
    let (verifier, mut heard) = probe("cpu-verifier/0", 8);
    let _tree = tree(&registry, vec![verifier, dispatcher(&[("cpu-verifier/0", false)], SOON)]).await;
    let (flooder, other) = (Account::new(1), Account::new(2));
    let flood = (0..64).map(|nonce| flooder.check(&flooder.pay(nonce))).collect();
    let _flood = ask(&registry, flood, Priority::Admission);
    let (_, first) = job(&mut heard).await;
    let (_, second) = job(&mut heard).await;
    assert!(heard.nothing(), "a verifier holds two jobs");

    let _other = ask(&registry, vec![other.check(&other.pay(0))], Priority::Admission);
    let block = Check::of_message(Bytes::new(), Bytes::from_static(b"block"), Bytes::new());
    let dispatcher = registry.role::<DispatchMsg>("verify-dispatcher");
    let answer = dispatcher
        .ask(|reply| DispatchMsg::Verify { items: vec![block], priority: Priority::Consensus, reply })
        .unwrap();
    first.send(vec![true; bounds::items_per_job(0.0)]);
    let (items, reply) = job(&mut heard).await;
    assert_eq!((items.len(), items[0].message().bytes()), (1, &b"block"[..]), "the block comes next, alone");
    reply.send(vec![true]);
    assert_eq!(answer.await.unwrap().unwrap(), [true]);
    second.send(vec![true; bounds::items_per_job(0.0)]);
    let (items, _reply) = job(&mut heard).await;
    let from_other = items.iter().position(|item| item.public_key == other.key.bytes);
    assert!(from_other.is_some_and(|at| at < 2), "the other sender waits for one turn, not for the flood");
}

#[tokio::test]
async fn what_another_request_has_settled_meanwhile_is_not_checked_again() {
    let registry = node();
    let (verifier, mut heard) = probe("cpu-verifier/0", 8);
    let _tree = tree(&registry, vec![verifier, dispatcher(&[("cpu-verifier/0", false)], SOON)]).await;
    let alice = Account::new(1);
    let payments: Vec<_> = (0..48).map(|nonce| alice.check(&alice.pay(nonce))).collect();
    let urgent = ask(&registry, payments[..40].to_vec(), Priority::Execution);
    // Every other one is in the first request too, and waits for its turn behind it.
    let mixed = (0..8).flat_map(|at| [payments[at].clone(), payments[40 + at].clone()]).collect();
    let ahead = ask(&registry, mixed, Priority::Ahead);
    for items in [16, 16, 8] {
        let (checks, reply) = job(&mut heard).await;
        assert_eq!(checks.len(), items);
        // Verdicts of the first, third, fifth... are good.
        reply.send((0..items).map(|at| at % 2 == 0).collect());
    }
    let (checks, reply) = job(&mut heard).await;
    let mut waited = payments[40..].iter().map(|check| check.transaction.signature().to_vec()).collect::<Vec<_>>();
    waited.sort_unstable();
    let mut checked = checks.iter().map(|check| check.signature().to_vec()).collect::<Vec<_>>();
    checked.sort_unstable();
    assert!(checked == waited, "{} are checked, each of those that nobody has checked once", checked.len());
    let third = payments[42].transaction.signature();
    reply.send(checks.iter().map(|check| check.signature() == third).collect());
    let valid = |verdicts: Vec<Option<Verdict>>| -> Vec<bool> {
        verdicts.into_iter().map(|verdict| verdict.is_some_and(|verdict| verdict.valid)).collect()
    };
    let urgent = tokio::time::timeout(SOON, urgent).await.unwrap().unwrap().unwrap();
    assert_eq!(valid(urgent), (0..40).map(|at| at % 2 == 0).collect::<Vec<_>>());
    let ahead = tokio::time::timeout(SOON, ahead).await.unwrap().unwrap().unwrap();
    assert_eq!(valid(ahead), (0..8).flat_map(|at| [at % 2 == 0, at == 2]).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_job_of_a_killed_verifier_is_done_by_its_successor() {
    for mode in ALL_MODES {
        let gate = Arc::new(Gated::default());
        let (registry, _tree) = one_verifier(Arc::clone(&gate) as _, SOON).await;
        let alice = Account::new(1);
        let answer = ask(&registry, (0..40).map(|nonce| alice.check(&alice.pay(nonce))).collect(), Priority::Execution);
        until("the first signature is being checked", || gate.entered() > 0).await;
        restart::<VerifierMsg>(&registry, "cpu-verifier/0", mode).await;
        gate.set(true);
        let verdicts = tokio::time::timeout(SOON, answer).await.unwrap().unwrap().unwrap();
        assert_eq!(verdicts.len(), 40);
        assert!(verdicts.iter().all(|verdict| verdict.is_some_and(|verdict| verdict.valid)), "after {mode:?}");
    }
}

#[tokio::test]
async fn other_verifiers_take_over_and_the_reserve_only_when_none_is_left() {
    let registry = node();
    let (gate, reserve) = (Gated::opened(), Gated::opened());
    let (first, mut heard) = probe("cpu-verifier/0", 8);
    let children = vec![
        first,
        verifier("cpu-verifier/1", Arc::clone(&gate) as _),
        verifier("gpu-worker/0", Arc::clone(&reserve) as _),
        dispatcher(&[("cpu-verifier/0", false), ("cpu-verifier/1", false), ("gpu-worker/0", true)], SOON),
    ];
    let _tree = tree(&registry, children).await;
    let alice = Account::new(1);
    let answer = ask(&registry, (0..64).map(|nonce| alice.check(&alice.pay(nonce))).collect(), Priority::Execution);
    // The probe takes its two jobs and does nothing; when it lets go of them, the other one does them.
    drop(job(&mut heard).await);
    drop(job(&mut heard).await);
    let answer = tokio::time::timeout(SOON, answer).await.unwrap().unwrap().unwrap();
    assert_eq!(answer.len(), 64);
    assert_eq!((gate.checked(), reserve.checked()), (64, 0));
}

#[tokio::test]
async fn the_reserve_works_while_no_other_verifier_runs() {
    let registry = node();
    let reserve = Gated::opened();
    let children = vec![
        verifier("gpu-worker/0", Arc::clone(&reserve) as _),
        dispatcher(&[("cpu-verifier/0", false), ("gpu-worker/0", true)], SOON),
    ];
    let _tree = tree(&registry, children).await;
    let alice = Account::new(1);
    assert_eq!(verdicts(&registry, vec![alice.check(&alice.pay(0))]).await, [Some(true)]);
    assert_eq!(reserve.checked(), 1);
}

#[tokio::test]
async fn a_verifier_that_hangs_is_replaced() {
    let gate = Arc::new(Gated::default());
    let (registry, _tree) = one_verifier(Arc::clone(&gate) as _, Duration::from_millis(50)).await;
    let alice = Account::new(1);
    let answer = ask(&registry, vec![alice.check(&alice.pay(0))], Priority::Execution);
    let address = registry.role::<VerifierMsg>("cpu-verifier/0");
    until("a second incarnation checks", || gate.entered() >= 2 && address.generation() >= 2).await;
    gate.set(true);
    let verdicts = tokio::time::timeout(SOON, answer).await.unwrap().unwrap().unwrap();
    assert!(verdicts[0].unwrap().valid);
}

#[tokio::test]
async fn a_killed_dispatcher_drops_its_replies_and_its_successor_works() {
    for mode in ALL_MODES {
        let gate = Arc::new(Gated::default());
        let (registry, _tree) = one_verifier(Arc::clone(&gate) as _, SOON).await;
        let alice = Account::new(1);
        let answer = ask(&registry, vec![alice.check(&alice.pay(0))], Priority::Execution);
        until("the signature is being checked", || gate.entered() > 0).await;
        restart::<DispatchMsg>(&registry, "verify-dispatcher", mode).await;
        assert!(tokio::time::timeout(SOON, answer).await.unwrap().is_err(), "dropped after {mode:?}");
        gate.set(true);
        assert_eq!(verdicts(&registry, vec![alice.check(&alice.pay(1))]).await, [Some(true)]);
    }
}

#[tokio::test]
async fn a_full_class_refuses_and_others_go_on() {
    let registry = node();
    let _tree = tree(&registry, vec![dispatcher(&[("cpu-verifier/0", false)], SOON)]).await;
    let alice = Account::new(1);
    let check = alice.check(&alice.pay(0));
    let bound = bounds::queue(Priority::Ahead);
    let _waiting = ask(&registry, vec![check.clone(); bound], Priority::Ahead);
    let refused = ask(&registry, vec![check.clone()], Priority::Ahead).await.unwrap();
    let expected =
        DispatchError::Overloaded { queued: bound, bound, asked: 1, retry_after: crate::mempool::RETRY_AFTER };
    assert_eq!(refused, Err(expected));
    let mut accepted = ask(&registry, vec![check], Priority::Consensus);
    restart::<DispatchMsg>(&registry, "verify-dispatcher", KillMode::Kill).await;
    assert!(accepted.try_recv().is_err(), "it waited, and went with the dispatcher");
}
