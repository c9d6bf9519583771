//! The bound of a mailbox, and what a caller is told when there is no answer.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::Duration;

use aurigraph_runtime::{CallError, KillMode, Registry, SendError, Strategy, SupervisorSpec, Tree};
use support::{BOUND, Order, Probe, WITHIN, runs, unique_node};
use tokio::sync::oneshot;

async fn one(probe: &Probe) -> (Registry, Tree) {
    let registry = Registry::new(&unique_node());
    let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(probe.child("a"));
    let tree = Tree::start(registry.clone(), spec).await.unwrap();
    (registry, tree)
}

/// Fills the mailbox: one message in the handler, the rest behind it.
async fn fill(registry: &Registry) -> oneshot::Sender<()> {
    let address = registry.role::<Order>("a");
    let (release, held) = oneshot::channel();
    address.call(WITHIN, |reply| Order::Hold(reply, held)).await.unwrap();
    for place in 1..BOUND {
        address.send(Order::Note(format!("note {place}"))).unwrap();
    }
    release
}

#[tokio::test]
async fn a_full_mailbox_refuses_gives_the_message_back_and_takes_again_when_it_is_worked_off() {
    let probe = Probe::default();
    let (registry, tree) = one(&probe).await;
    let address = registry.role::<Order>("a");
    let release = fill(&registry).await;
    assert_eq!(address.depth(), BOUND);
    let row = registry.row(&registry.name_of("a")).unwrap();
    assert_eq!((row.mailbox_depth, row.mailbox_bound), (BOUND, BOUND));

    let refused = address.send(Order::Note("too many".into())).unwrap_err();
    assert!(refused.is_full(), "{refused}");
    assert_eq!(refused.to_string(), format!("the mailbox of {} is full (4 messages)", registry.name_of("a")));
    let Order::Note(note) = refused.into_message() else { panic!("another message came back") };
    assert_eq!(note, "too many");
    let call = address.call(WITHIN, Order::Ping).await;
    assert_eq!(call, Err(CallError::Full(registry.name_of("a"))));

    release.send(()).unwrap();
    support::eventually("the mailbox is empty", || address.depth() == 0).await;
    assert_eq!(address.call(WITHIN, Order::Ping).await, Ok(1));
    assert_eq!(probe.take(), ["+a", "note 1", "note 2", "note 3"]);
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test]
async fn the_places_of_a_full_mailbox_are_free_again_after_every_way_to_die() {
    // Panic and error take their turn in the queue, so they cannot reach a handler that holds on.
    for mode in [KillMode::Kill, KillMode::Abort] {
        let probe = Probe::default();
        let (registry, tree) = one(&probe).await;
        let address = registry.role::<Order>("a");
        let _release = fill(&registry).await;
        let waiting = tokio::spawn({
            let address = address.clone();
            async move { address.send_wait(Order::Note("waited".into())).await }
        });
        tokio::task::yield_now().await;
        assert!(registry.kill(&registry.name_of("a"), mode));
        let refused = waiting.await.unwrap().unwrap_err();
        assert!(matches!(refused, SendError::NotRunning { .. }), "{refused}");
        runs(&registry, &[("a", 2)]).await;
        assert_eq!(address.depth(), 0, "{mode}");
        for _ in 0..BOUND {
            address.send(Order::Note("again".into())).unwrap();
        }
        assert_eq!(probe.take_steps()[..2], ["+a", "+a"], "{mode}: no old message reached the new incarnation");
        tree.shutdown(WITHIN).await.unwrap();
    }
}

#[tokio::test]
async fn a_sender_that_waits_gets_the_first_free_place() {
    let probe = Probe::default();
    let (registry, tree) = one(&probe).await;
    let address = registry.role::<Order>("a");
    let release = fill(&registry).await;
    let waiting = tokio::spawn({
        let address = address.clone();
        async move { address.send_wait(Order::Note("waited".into())).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    release.send(()).unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(address.call(WITHIN, Order::Ping).await, Ok(1));
    assert!(probe.take().contains(&"waited".to_owned()));
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_caller_learns_why_there_is_no_answer() {
    let probe = Probe::default();
    let (registry, tree) = one(&probe).await;
    let (address, name) = (registry.role::<Order>("a"), registry.name_of("a"));

    assert_eq!(address.call(WITHIN, Order::Forget).await, Err(CallError::Dropped(name.clone())));

    let (release, held) = oneshot::channel();
    address.call(WITHIN, |reply| Order::Hold(reply, held)).await.unwrap();
    let after = Duration::from_secs(3);
    let late = address.call(after, Order::Ping).await;
    assert_eq!(late, Err(CallError::Timeout { name: name.clone(), after }));

    let waiting = address.ask(Order::Ping).unwrap();
    assert!(registry.kill(&name, KillMode::Kill));
    assert!(waiting.await.is_err(), "its asker is told at once");
    drop(release);

    runs(&registry, &[("a", 2)]).await;
    tree.shutdown(WITHIN).await.unwrap();
    assert_eq!(address.call(WITHIN, Order::Ping).await, Err(CallError::NotRunning(name.clone())));
    assert!(!address.is_running());
    let refused = address.send(Order::Note("nobody".into())).unwrap_err();
    assert_eq!(refused.to_string(), format!("{name} is not running"));
    let refused = address.send_wait(Order::Note("nobody".into())).await.unwrap_err();
    assert!(matches!(refused, SendError::NotRunning { .. }), "{refused}");
}

#[tokio::test]
async fn an_address_may_be_taken_before_the_first_start() {
    let registry = Registry::new(&unique_node());
    let address = registry.role::<Order>("a");
    assert_eq!((address.generation(), address.is_running(), address.depth()), (0, false, 0));
    let probe = Probe::default();
    let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(probe.child("a"));
    let tree = Tree::start(registry.clone(), spec).await.unwrap();
    assert_eq!(address.call(WITHIN, Order::Ping).await, Ok(1));
    assert_eq!(registry.row(&registry.name_of("a")).unwrap().messages, 1);
    tree.shutdown(WITHIN).await.unwrap();
}
