//! Admission with a real dispatcher and verifier; the batchers are the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aurigraph_gpu::BatchVerifier;
use aurigraph_ledger::Hash;
use aurigraph_ledger::transaction::{SenderKey, Target, TransactionBuilder};
use aurigraph_runtime::{Address, ChildSpec, KillMode, Registry, Tree};
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::bounds::{crypto as crypto_bounds, mempool as bounds};
use crate::crypto::testing::{self, ALL_MODES, Gated, Heard, SOON, probe, restart, tree, until};
use crate::crypto::{DispatchMsg, Verifier, VerifyDispatcher, Worker};
use crate::mempool::testing::{Account, CHAIN, FEES, View, latest, spoiled};
use crate::mempool::*;

struct Node {
    registry: Registry,
    _tree: Tree,
    gate: Arc<Gated>,
    batcher: Heard<BatcherMsg>,
    admission: Address<AdmissionMsg>,
}

fn crypto(gate: &Arc<Gated>) -> Vec<ChildSpec> {
    let back_end: Arc<dyn BatchVerifier> = Arc::clone(gate) as _;
    let worker = Worker { role: "cpu-verifier/0".to_owned(), device: None };
    vec![
        ChildSpec::behaviour("cpu-verifier/0", 8, move || Verifier::cpu(Arc::clone(&back_end))),
        ChildSpec::behaviour("verify-dispatcher", crypto_bounds::DISPATCHER_MAILBOX, move || {
            VerifyDispatcher::new(vec![worker.clone()])
        }),
    ]
}

async fn node(view: Option<View>, gate: Arc<Gated>, batcher_mailbox: usize) -> Node {
    node_with(view, gate, batcher_mailbox, 1).await
}

async fn node_with(view: Option<View>, gate: Arc<Gated>, batcher_mailbox: usize, batchers: usize) -> Node {
    node_behind(view, gate, batcher_mailbox, batchers, Arc::default()).await
}

async fn node_behind(
    view: Option<View>,
    gate: Arc<Gated>,
    batcher_mailbox: usize,
    batchers: usize,
    behind: Arc<AtomicBool>,
) -> Node {
    let registry = testing::node();
    let (batcher, heard) = probe("batcher/0", batcher_mailbox);
    let (latest, _) = latest(view);
    let mut children = crypto(&gate);
    children.push(batcher);
    children.push(ChildSpec::behaviour("admission", bounds::ADMISSION_MAILBOX, move || {
        let (latest, behind) = (Arc::clone(&latest), Arc::clone(&behind));
        let behind: Behind = Arc::new(move || behind.load(Ordering::Relaxed));
        Admission::new(AdmissionParts {
            chain_id: CHAIN,
            fees: FEES,
            batchers,
            proposes: Arc::new(|| true),
            latest,
            behind,
        })
    }));
    let tree = tree(&registry, children).await;
    let admission = registry.role("admission");
    Node { registry, _tree: tree, gate, batcher: heard, admission }
}

type Outcome = Result<Accepted, Refusal>;

impl Node {
    fn submit(&self, transaction: &[u8]) -> oneshot::Receiver<Outcome> {
        let transaction = Bytes::copy_from_slice(transaction);
        let source = Source::Node;
        self.admission.ask(|reply| AdmissionMsg::Submit { transaction, source, reply }).unwrap()
    }

    async fn outcome(&self, transaction: &[u8]) -> Outcome {
        tokio::time::timeout(SOON, self.submit(transaction)).await.unwrap().unwrap()
    }

    async fn status(&self, id: Hash) -> Option<PendingState> {
        let status = self.admission.call(SOON, |reply| AdmissionMsg::Pending { id, reply }).await.unwrap();
        status.map(|status| status.state)
    }

    async fn added(&mut self) -> Vec<Hash> {
        match self.batcher.next().await {
            BatcherMsg::Add { transactions } => transactions.iter().map(|transaction| transaction.id()).collect(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_valid_transaction_is_accepted_when_a_batcher_has_it() {
    let alice = Account::new(1);
    let mut node = node(Some(View::of(&[&alice], 10_000)), Gated::opened(), 8).await;
    let transaction = alice.pay(0);
    let id = transaction.id();
    assert_eq!(node.outcome(transaction.encode()).await, Ok(Accepted { id }));
    assert_eq!(node.added().await, [id]);
    assert_eq!(node.status(id).await, Some(PendingState::Queued));
    let batch = Hash([5; 32]);
    node.admission.send(AdmissionMsg::Sealed { batch, ids: vec![id] }).unwrap();
    assert_eq!(node.status(id).await, Some(PendingState::Batched { batch }));
    let mut view = View::of(&[&alice], 10_000);
    view.used.insert((alice.index, 0));
    node.admission.send(AdmissionMsg::Published(Arc::new(view))).unwrap();
    assert_eq!(node.status(id).await, None, "committed");
}

#[tokio::test]
async fn an_invalid_signature_is_refused_and_leaves_nothing() {
    let alice = Account::new(1);
    let mut node = node(Some(View::of(&[&alice], 10_000)), Gated::opened(), 8).await;
    let (transaction, wrong) = (alice.pay(0), spoiled(&alice.pay(0)));
    let id = wrong.id();
    assert_eq!(node.outcome(wrong.encode()).await, Err(Refusal::InvalidSignature { id }));
    assert_eq!(node.status(id).await, None);
    assert!(node.batcher.nothing());
    assert!(node.outcome(transaction.encode()).await.is_ok(), "the same transaction, well signed, is welcome");
}

#[tokio::test]
async fn many_transactions_get_one_answer_each_in_order() {
    let alice = Account::new(1);
    let mut node = node(Some(View::of(&[&alice], 10_000)), Gated::opened(), 8).await;
    let (good, wrong, other) = (alice.pay(0), spoiled(&alice.pay(1)), alice.pay(2));
    let transactions = vec![
        good.shared_bytes(),
        wrong.shared_bytes(),
        Bytes::from_static(b"?"),
        good.shared_bytes(),
        other.shared_bytes(),
    ];
    let source = Source::Node;
    let outcomes =
        node.admission.call(SOON, |reply| AdmissionMsg::SubmitMany { transactions, source, reply }).await.unwrap();
    assert_eq!(outcomes[0], Ok(Accepted { id: good.id() }));
    assert_eq!(outcomes[1], Err(Refusal::InvalidSignature { id: wrong.id() }));
    assert!(matches!(outcomes[2], Err(Refusal::Undecodable(_))));
    assert_eq!(outcomes[3], Err(Refusal::Duplicate { id: good.id() }));
    assert_eq!(outcomes[4], Ok(Accepted { id: other.id() }));
    assert_eq!(node.added().await, [good.id(), other.id()], "in one message");
}

/// Its height is an old one: what is too far ahead for it may be right for the others.
#[tokio::test]
async fn a_node_that_is_behind_refuses_nothing_for_good_that_a_later_state_may_take() {
    let (alice, stranger) = (Account::new(1), Account::new(2));
    let behind = Arc::new(AtomicBool::new(true));
    let view = View::of(&[&alice], 10_000);
    let node = node_behind(Some(view), Gated::opened(), 8, 1, Arc::clone(&behind)).await;
    let far = alice.sign(
        &TransactionBuilder::new(CHAIN, SenderKey::Index(alice.index), 0, 1 << 40)
            .fees(&FEES)
            .transfer(Target::Index(alice.index), 5),
    );
    let not_ready = Err(Refusal::NotReady { retry_after: RETRY_AFTER });
    for transaction in [&far, &stranger.pay(0), &alice.pay(1 << 40)] {
        assert_eq!(node.outcome(transaction.encode()).await, not_ready);
    }
    assert!(matches!(node.outcome(b"nothing").await, Err(Refusal::Undecodable(_))), "no state would take this");
    behind.store(false, Ordering::Relaxed);
    assert!(matches!(node.outcome(far.encode()).await, Err(Refusal::ExpiryTooFar { .. })));
    behind.store(true, Ordering::Relaxed);
    assert!(node.outcome(alice.pay(0).encode()).await.is_ok());
}

#[tokio::test]
async fn without_a_published_state_nothing_is_admitted() {
    let alice = Account::new(1);
    let node = node(None, Gated::opened(), 8).await;
    let refusal = node.outcome(alice.pay(0).encode()).await.unwrap_err();
    assert_eq!(refusal, Refusal::NotReady { retry_after: RETRY_AFTER });
    assert_eq!(refusal.retry_after(), Some(Duration::from_secs(1)));
    node.admission.send(AdmissionMsg::Published(Arc::new(View::of(&[&alice], 10_000)))).unwrap();
    assert!(node.outcome(alice.pay(0).encode()).await.is_ok());
}

#[tokio::test]
async fn the_loop_goes_on_while_signatures_are_checked() {
    let alice = Account::new(1);
    let node = node(Some(View::of(&[&alice], 10_000)), Arc::new(Gated::default()), 8).await;
    let transaction = alice.pay(0);
    let outcome = node.submit(transaction.encode());
    assert_eq!(node.status(transaction.id()).await, Some(PendingState::Verifying));
    let duplicate = node.outcome(transaction.encode()).await;
    assert_eq!(duplicate, Err(Refusal::Duplicate { id: transaction.id() }));
    node.gate.set(true);
    assert!(tokio::time::timeout(SOON, outcome).await.unwrap().unwrap().is_ok());
}

#[tokio::test]
async fn a_transaction_overtaken_while_it_is_checked_is_refused() {
    let alice = Account::new(1);
    let mut node = node(Some(View::of(&[&alice], 10_000)), Arc::new(Gated::default()), 8).await;
    let outcome = node.submit(alice.pay(0).encode());
    let mut view = View::of(&[&alice], 10_000);
    view.account_mut(&alice).nonce_base = 1;
    view.used.insert((alice.index, 0));
    node.admission.send(AdmissionMsg::Published(Arc::new(view))).unwrap();
    node.gate.set(true);
    let outcome = tokio::time::timeout(SOON, outcome).await.unwrap().unwrap();
    assert_eq!(outcome, Err(Refusal::NonceUsed { nonce: 0, base: 1 }));
    assert!(node.batcher.nothing());
}

#[tokio::test]
async fn a_killed_dispatcher_costs_a_client_nothing() {
    for mode in ALL_MODES {
        let alice = Account::new(1);
        let node = node(Some(View::of(&[&alice], 10_000)), Arc::new(Gated::default()), 8).await;
        let outcome = node.submit(alice.pay(0).encode());
        until("the signature is being checked", || node.gate.entered() > 0).await;
        restart::<DispatchMsg>(&node.registry, "verify-dispatcher", mode).await;
        node.gate.set(true);
        let outcome = tokio::time::timeout(SOON, outcome).await.unwrap().unwrap();
        assert!(outcome.is_ok(), "{outcome:?} after {mode:?}");
    }
}

#[tokio::test]
async fn a_new_batcher_gets_what_the_one_before_had_not_sealed() {
    for mode in ALL_MODES {
        let alice = Account::new(1);
        let mut node = node(Some(View::of(&[&alice], 10_000)), Gated::opened(), 8).await;
        let all: Vec<_> = (0..3).map(|nonce| alice.pay(nonce)).collect();
        for transaction in &all {
            node.outcome(transaction.encode()).await.unwrap();
            node.added().await;
        }
        let batch = Hash([5; 32]);
        node.admission.send(AdmissionMsg::Sealed { batch, ids: vec![all[0].id()] }).unwrap();
        assert!(node.status(all[0].id()).await.is_some());
        restart::<BatcherMsg>(&node.registry, "batcher/0", mode).await;
        assert_eq!(node.added().await, [all[1].id(), all[2].id()], "after {mode:?}");
    }
}

#[tokio::test]
async fn a_killed_admission_drops_its_replies_and_starts_empty_from_the_newest_state() {
    for mode in ALL_MODES {
        let alice = Account::new(1);
        let node = node(Some(View::of(&[&alice], 10_000)), Arc::new(Gated::default()), 8).await;
        let outcome = node.submit(alice.pay(0).encode());
        until("the signature is being checked", || node.gate.entered() > 0).await;
        restart::<AdmissionMsg>(&node.registry, "admission", mode).await;
        assert!(tokio::time::timeout(SOON, outcome).await.unwrap().is_err(), "dropped after {mode:?}");
        node.gate.set(true);
        assert!(node.outcome(alice.pay(0).encode()).await.is_ok(), "after {mode:?}");
    }
}

#[tokio::test]
async fn a_stalled_verifier_fills_the_bounds_and_no_more() {
    let accounts: Vec<_> = (1..=3).map(Account::new).collect();
    let view = View::of(&accounts.iter().collect::<Vec<_>>(), u128::MAX);
    let node = node(Some(view), Arc::new(Gated::default()), 8).await;
    let signature = accounts[0].pay(0).signature().to_vec();
    let mut waiting = Vec::new();
    let mut refused = 0;
    for account in &accounts {
        for nonce in 0..bounds::SENDER_TRANSACTIONS as u64 + 3 {
            let transaction = account.builder(nonce).build().unwrap().with_signature(&signature).unwrap();
            let mut outcome = node.submit(transaction.encode());
            node.status(transaction.id()).await;
            match outcome.try_recv() {
                Ok(Err(Refusal::TooManyPending { max, .. })) if max == bounds::SENDER_TRANSACTIONS => refused += 1,
                Ok(other) => panic!("{other:?}"),
                Err(_) => waiting.push(outcome),
            }
        }
    }
    assert_eq!((waiting.len(), refused), (3 * bounds::SENDER_TRANSACTIONS, 9));
    node.gate.set(true);
}

#[tokio::test]
async fn a_full_batcher_refuses_the_client() {
    let alice = Account::new(1);
    let node = node(Some(View::of(&[&alice], 10_000)), Gated::opened(), 0).await;
    let transaction = alice.pay(0);
    let refusal = node.outcome(transaction.encode()).await.unwrap_err();
    assert!(refusal.retry_after().is_some(), "{refusal:?}");
    assert_eq!(node.status(transaction.id()).await, None);
    restart::<BatcherMsg>(&node.registry, "batcher/0", KillMode::Kill).await;
}

#[tokio::test]
async fn a_node_that_makes_no_batches_takes_no_transactions() {
    let alice = Account::new(1);
    let node = node_with(Some(View::of(&[&alice], 10_000)), Gated::opened(), 8, 0).await;
    let transaction = alice.pay(0);
    let refusal = node.outcome(transaction.encode()).await.unwrap_err();
    assert!(refusal.to_string().contains("observer"), "{refusal}");
    assert_eq!(node.status(transaction.id()).await, None);
}
