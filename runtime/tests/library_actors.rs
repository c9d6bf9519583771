//! Actors of libraries under our supervision.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aurigraph_runtime::{ActorState, ChildSpec, KillMode, Registry, Restart, Strategy, SupervisorSpec, Tree};
use ractor::{ActorCell, ActorProcessingErr, ActorRef, SpawnErr};
use support::{WITHIN, eventually, generation, reason, runs, unique_node};
use tokio::task::JoinHandle;

/// What a library's actor looks like: its own messages, its own state, no idea of ours.
struct Foreign;

enum ForeignMsg {
    Fail,
}

impl ractor::Message for ForeignMsg {}

impl ractor::Actor for Foreign {
    type Msg = ForeignMsg;
    type State = ();
    type Arguments = bool;

    async fn pre_start(&self, _myself: ActorRef<ForeignMsg>, fails: bool) -> Result<(), ActorProcessingErr> {
        if fails { Err("port taken".into()) } else { Ok(()) }
    }

    async fn handle(
        &self,
        _myself: ActorRef<ForeignMsg>,
        message: ForeignMsg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ForeignMsg::Fail => Err("foreign trouble".into()),
        }
    }
}

async fn linked(name: String, fails: bool, parent: ActorCell) -> Result<(ActorCell, JoinHandle<()>), SpawnErr> {
    let (actor, task) = ractor::Actor::spawn_linked(Some(name), Foreign, fails, parent).await?;
    Ok((actor.get_cell(), task))
}

async fn tree_of(child: ChildSpec) -> (Registry, Tree) {
    let registry = Registry::new(&unique_node());
    let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(child);
    let tree = Tree::start(registry.clone(), spec).await.unwrap();
    (registry, tree)
}

#[tokio::test]
async fn a_library_actor_comes_back_after_every_mode_and_the_reason_names_the_mode() {
    for mode in KillMode::ALL {
        let child = ChildSpec::raw("raw", |registry: Registry, _generation, parent| {
            linked(registry.name_of("raw"), false, parent)
        });
        let (registry, tree) = tree_of(child).await;
        assert!(registry.kill(&registry.name_of("raw"), mode));
        runs(&registry, &[("raw", 2)]).await;
        let expected = match mode {
            KillMode::Stop => "stopped: on purpose [stop]".to_owned(),
            KillMode::Abort => "aborted [abort]".to_owned(),
            other => format!("killed [{other}]"),
        };
        assert_eq!(reason(&registry, "raw"), expected);
        tree.shutdown(WITHIN).await.unwrap();
    }
}

#[tokio::test]
async fn its_own_hook_is_asked_first() {
    let start = |registry: Registry, _generation, parent| linked(registry.name_of("raw"), false, parent);
    let hook = |cell: &ActorCell, mode| {
        mode == KillMode::Error && ActorRef::<ForeignMsg>::from(cell.clone()).send_message(ForeignMsg::Fail).is_ok()
    };
    let (registry, tree) = tree_of(ChildSpec::raw_with_hook("raw", start, hook)).await;
    assert!(registry.kill(&registry.name_of("raw"), KillMode::Error));
    runs(&registry, &[("raw", 2)]).await;
    assert_eq!(reason(&registry, "raw"), "failed: foreign trouble [error]");
    assert!(registry.kill(&registry.name_of("raw"), KillMode::Panic));
    runs(&registry, &[("raw", 3)]).await;
    assert_eq!(reason(&registry, "raw"), "killed [panic]");
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test]
async fn an_actor_that_its_maker_forgot_to_link_is_supervised_all_the_same() {
    let child = ChildSpec::raw("raw", |registry: Registry, _generation, _parent| async move {
        let name = registry.name_of("raw");
        let (actor, task) = ractor::Actor::spawn(Some(name), Foreign, false).await?;
        Ok((actor.get_cell(), task))
    });
    let (registry, tree) = tree_of(child).await;
    assert!(registry.kill(&registry.name_of("raw"), KillMode::Kill));
    runs(&registry, &[("raw", 2)]).await;
    assert_eq!(reason(&registry, "raw"), "killed [kill]", "heard of through the link, not only through its task");
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test]
async fn an_actor_that_ended_before_it_could_be_linked_is_noticed_by_its_task() {
    let tries = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&tries);
    let child = ChildSpec::raw("raw", move |_registry: Registry, _generation, parent: ActorCell| {
        let first = counter.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            let (actor, task) = ractor::Actor::spawn(None, Foreign, false).await?;
            if first {
                actor.kill_and_wait(None).await.map_err(|error| SpawnErr::StartupFailed(error.into()))?;
            }
            drop(parent);
            Ok((actor.get_cell(), task))
        }
    });
    let (registry, tree) = tree_of(child).await;
    runs(&registry, &[("raw", 2)]).await;
    assert_eq!(reason(&registry, "raw"), "ended without saying why");
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test]
async fn an_end_that_is_heard_before_the_start_was_reported_keeps_its_reason() {
    let tries = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&tries);
    let child = ChildSpec::raw("raw", move |registry: Registry, _generation, parent: ActorCell| {
        let first = counter.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            let (cell, task) = linked(registry.name_of("raw"), false, parent).await?;
            if first {
                let sent = ActorRef::<ForeignMsg>::from(cell.clone()).send_message(ForeignMsg::Fail);
                sent.map_err(|_| SpawnErr::StartupFailed("not sent".into()))?;
                cell.wait(None).await.map_err(|_| SpawnErr::StartupFailed("not ended".into()))?;
                // The supervisor hears of the end while this start still runs.
                tokio::task::yield_now().await;
            }
            Ok((cell, task))
        }
    });
    let (registry, tree) = tree_of(child).await;
    runs(&registry, &[("raw", 2)]).await;
    assert_eq!(reason(&registry, "raw"), "failed: foreign trouble");
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test]
async fn a_failed_start_of_a_library_actor_is_tried_again() {
    let fails = Arc::new(AtomicBool::new(true));
    let failing = Arc::clone(&fails);
    let child = ChildSpec::raw("raw", move |registry: Registry, _generation, parent| {
        linked(registry.name_of("raw"), failing.swap(false, Ordering::Relaxed), parent)
    });
    let (registry, tree) = tree_of(child).await;
    assert_eq!((generation(&registry, "raw"), reason(&registry, "raw").contains("port taken")), (2, true));
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test]
async fn a_name_held_by_a_stranger_is_a_failed_start_until_the_stranger_has_left() {
    let registry = Registry::new(&unique_node());
    let stranger = ractor::Actor::spawn(Some(registry.name_of("raw")), Foreign, false).await.unwrap().0;
    let child =
        ChildSpec::raw("raw", |registry: Registry, _generation, parent| linked(registry.name_of("raw"), false, parent))
            .restart(Restart::Permanent);
    let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(child);
    let starting = tokio::spawn(Tree::start(registry.clone(), spec));
    eventually("the name is refused", || generation(&registry, "raw") > 1).await;
    assert!(reason(&registry, "raw").contains("already registered"), "{}", reason(&registry, "raw"));
    stranger.stop(None);
    let tree = starting.await.unwrap().unwrap();
    assert_eq!(registry.row(&registry.name_of("raw")).unwrap().state, ActorState::Running);
    tree.shutdown(WITHIN).await.unwrap();
}
