//! Supervisors below supervisors: they are killed and healed like any other actor, and their giving up ends the tree.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use aurigraph_runtime::{
    ActorEventKind, ActorState, Budget, ChildSpec, KillMode, Registry, StartError, Strategy, SupervisorSpec, Tree,
};
use parking_lot::Mutex;
use support::{Gate, Order, Probe, Script, WITHIN, eventually, generation, reason, runs, unique_node};

const SECOND: Duration = Duration::from_secs(1);

/// root (rest-for-one) of `first`, `mid` (rest-for-one) of `x`, `inner` (one-for-one) of `y`, and `last`.
fn nested(probe: &Probe) -> SupervisorSpec {
    let inner = SupervisorSpec::new("inner", Strategy::OneForOne).child(probe.child("y"));
    let mid =
        SupervisorSpec::new("mid", Strategy::RestForOne).child(probe.child("x")).child(ChildSpec::supervisor(inner));
    SupervisorSpec::new("root", Strategy::RestForOne)
        .child(probe.child("first"))
        .child(ChildSpec::supervisor(mid))
        .child(probe.child("last"))
}

fn kill(registry: &Registry, role: &str, mode: KillMode) {
    assert!(registry.kill(&registry.name_of(role), mode), "{role} cannot be ended by {mode}");
}

#[tokio::test]
async fn a_supervisor_that_dies_in_any_way_comes_back_with_all_its_children() {
    for mode in KillMode::ALL {
        let (probe, registry) = (Probe::default(), Registry::new(&unique_node()));
        let tree = Tree::start(registry.clone(), nested(&probe)).await.unwrap();
        assert_eq!(probe.take(), ["+first", "+x", "+y", "+last"]);
        kill(&registry, "mid", mode);
        runs(&registry, &[("mid", 2), ("x", 2), ("inner", 2), ("y", 2), ("last", 2), ("first", 1)]).await;
        let steps = probe.take();
        let births = steps.iter().position(|step| step.starts_with('+')).unwrap();
        for old in ["~x", "~y", "~last"] {
            let death = steps.iter().position(|step| step == old).unwrap();
            assert!(death < births, "{mode}: {old} came after a new start: {steps:?}");
        }
        assert_eq!(&steps[births..], ["+x", "+y", "+last"], "{mode}");
        let ordered = steps.contains(&"-x".to_owned());
        assert_eq!(ordered, mode == KillMode::Stop, "{mode}: children stop in order with an ordered stop only");
        assert_eq!(probe.twins(), [""; 0], "{mode}");
        tree.shutdown(WITHIN).await.unwrap();
    }
}

#[tokio::test]
async fn what_dies_with_its_supervisor_is_recorded_and_no_longer_addressed() {
    let (probe, gate, registry) = (Probe::default(), Gate::default(), Registry::new(&unique_node()));
    let script = Script { start_gate: Some(gate.clone()), ..Script::default() };
    gate.open();
    let mid = SupervisorSpec::new("mid", Strategy::OneForOne).child(probe.child_with("x", script));
    let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(ChildSpec::supervisor(mid));
    let tree = Tree::start(registry.clone(), spec).await.unwrap();
    let mut events = registry.events();
    kill(&registry, "mid", KillMode::Kill);
    runs(&registry, &[("mid", 2), ("x", 2)]).await;
    assert_eq!(reason(&registry, "x"), format!("killed with {}", registry.name_of("mid")));
    let ended = events.recv().await.unwrap();
    assert_eq!(ended.name, registry.name_of("x"));
    assert!(matches!(ended.kind, ActorEventKind::Ended { .. }));
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test]
async fn a_supervisor_can_die_while_its_children_start() {
    for mode in KillMode::ALL {
        let (probe, gate, registry) = (Probe::default(), Gate::default(), Registry::new(&unique_node()));
        let script = Script { start_gate: Some(gate.clone()), ..Script::default() };
        let mid = SupervisorSpec::new("mid", Strategy::OneForAll)
            .child(probe.child("x"))
            .child(probe.child_with("y", script));
        let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(ChildSpec::supervisor(mid));
        let starting = tokio::spawn(Tree::start(registry.clone(), spec));
        eventually("y is starting", || probe.start_times("y").len() == 1).await;
        kill(&registry, "mid", mode);
        eventually("y is starting again", || probe.start_times("y").len() == 2).await;
        gate.open();
        let tree = starting.await.unwrap().unwrap();
        runs(&registry, &[("mid", 2), ("x", 2), ("y", 2)]).await;
        assert_eq!(probe.twins(), [""; 0], "{mode}");
        tree.shutdown(WITHIN).await.unwrap();
    }
}

#[tokio::test]
async fn a_budget_used_up_two_levels_down_ends_the_tree_with_a_reason_that_names_it() {
    let (probe, registry) = (Probe::default(), Registry::new(&unique_node()));
    let budget = Budget { restarts: 2, window: 3_600 * SECOND };
    let inner = SupervisorSpec::new("inner", Strategy::OneForOne).child(probe.child("y")).budget(budget);
    let mid = SupervisorSpec::new("mid", Strategy::OneForOne).child(ChildSpec::supervisor(inner));
    let spec =
        SupervisorSpec::new("root", Strategy::OneForOne).child(probe.child("a")).child(ChildSpec::supervisor(mid));
    let tree = Tree::start(registry.clone(), spec).await.unwrap();
    let mut events = registry.events();
    for generation in 2..=3 {
        kill(&registry, "y", KillMode::Kill);
        runs(&registry, &[("y", generation)]).await;
    }
    kill(&registry, "y", KillMode::Panic);
    let end = tokio::time::timeout(WITHIN, tree.ended()).await.unwrap();
    let (node, reason) = (registry.node(), &end.reason);
    let expected = format!(
        "{node}/inner gave up: {node}/y ended (panic: told to panic) and the budget of 2 restarts within 3600s is used up"
    );
    assert_eq!((reason, end.orderly), (&expected, false));
    for row in registry.tree() {
        assert!(!matches!(row.state, ActorState::Running | ActorState::Starting), "{row:?}");
    }
    let state = |role: &str| registry.row(&registry.name_of(role)).unwrap().state;
    for role in ["y", "inner", "mid", "root"] {
        assert_eq!(state(role), ActorState::Failed, "{role}");
    }
    let mut gave_up = Vec::new();
    while let Ok(event) = events.try_recv() {
        if matches!(event.kind, ActorEventKind::GaveUp { .. }) {
            gave_up.push(event.name);
        }
    }
    assert_eq!(gave_up, [format!("{node}/inner")], "said once, by the one that did");
    assert_eq!(probe.twins(), [""; 0]);
}

#[tokio::test]
async fn a_fatal_error_ends_the_tree_at_once() {
    let (probe, registry) = (Probe::default(), Registry::new(&unique_node()));
    let script = Script { fatal: true, ..Script::default() };
    let mid = SupervisorSpec::new("mid", Strategy::OneForOne).child(probe.child_with("x", script));
    let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(ChildSpec::supervisor(mid));
    let error = Tree::start(registry.clone(), spec).await.err().unwrap();
    let StartError::Ended(end) = error else { panic!("{error}") };
    let node = registry.node();
    let expected = format!("{node}/mid gave up: {node}/x cannot go on (start: error: foreign data directory)");
    assert_eq!(end.reason, expected);
    assert_eq!(generation(&registry, "x"), 1, "it is not tried again");
}

#[tokio::test]
async fn the_end_of_the_root_is_the_end_of_the_tree_in_every_mode() {
    for mode in KillMode::ALL {
        let (probe, registry) = (Probe::default(), Registry::new(&unique_node()));
        let tree = Tree::start(registry.clone(), nested(&probe)).await.unwrap();
        kill(&registry, "root", mode);
        let end = tokio::time::timeout(WITHIN, tree.ended()).await.unwrap();
        assert!(end.reason.starts_with(&registry.name_of("root")), "{end}");
        assert_eq!(end.orderly, mode == KillMode::Stop, "{mode}: {end}");
        let steps = probe.take();
        for role in ["~first", "~x", "~y", "~last"] {
            assert!(steps.contains(&role.to_owned()), "{mode}: {role} is missing in {steps:?}");
        }
    }
}

#[tokio::test]
async fn a_tree_with_one_name_twice_does_not_start() {
    let probe = Probe::default();
    let mid = SupervisorSpec::new("mid", Strategy::OneForOne).child(probe.child("x"));
    let spec =
        SupervisorSpec::new("root", Strategy::OneForOne).child(probe.child("x")).child(ChildSpec::supervisor(mid));
    let error = Tree::start(Registry::new("twice"), spec).await.err().unwrap();
    assert!(matches!(&error, StartError::DuplicateRole(name) if name == "twice/x"), "{error}");
    assert_eq!(probe.take(), [""; 0]);
}

/// A state whose drop waits: what a blocked thread or a slow unmapping does to a restart.
fn held_back(probe: &Probe) -> (ChildSpec, std::sync::mpsc::Sender<()>) {
    let (release, held) = std::sync::mpsc::channel();
    let script = Script { drop_gate: Some(Arc::new(Mutex::new(held))), ..Script::default() };
    (probe.child_with("x", script), release)
}

/// Paused time stands still while a thread blocks, so it is moved by hand until the condition holds.
async fn by_hand(step: Duration, condition: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !condition() {
        assert!(began.elapsed() < WITHIN, "not within {WITHIN:?}");
        tokio::time::advance(step).await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_incarnation_waits_for_the_old_state_to_be_dropped() {
    let (probe, registry) = (Probe::default(), Registry::new(&unique_node()));
    let (child, release) = held_back(&probe);
    let tree =
        Tree::start(registry.clone(), SupervisorSpec::new("root", Strategy::OneForOne).child(child)).await.unwrap();
    kill(&registry, "x", KillMode::Kill);
    let starting = || registry.row(&registry.name_of("x")).unwrap().state == ActorState::Starting;
    by_hand(Duration::from_millis(1), starting).await;
    assert_eq!(probe.take(), ["+x"], "the second start is held back");
    release.send(()).unwrap();
    by_hand(Duration::ZERO, || generation(&registry, "x") == 2 && !starting()).await;
    assert_eq!(probe.take(), ["~x", "+x"]);
    assert_eq!(probe.twins(), [""; 0]);
    drop(release);
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_old_incarnation_that_never_ends_ends_the_tree_instead() {
    let (probe, registry) = (Probe::default(), Registry::new(&unique_node()));
    let (child, release) = held_back(&probe);
    let tree =
        Tree::start(registry.clone(), SupervisorSpec::new("root", Strategy::OneForOne).child(child)).await.unwrap();
    kill(&registry, "x", KillMode::Kill);
    let ended = tokio::spawn(async move { tree.ended().await });
    by_hand(Duration::from_millis(100), || ended.is_finished()).await;
    let end = ended.await.unwrap();
    assert!(end.reason.contains(&format!("{} did not end within 5s", registry.name_of("x"))), "{end}");
    assert_eq!(probe.twins(), [""; 0]);
    drop(release);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_restarted_supervisor_waits_for_children_that_still_block_a_thread() {
    let (probe, registry) = (Probe::default(), Registry::new(&unique_node()));
    let tree = Tree::start(registry.clone(), nested(&probe)).await.unwrap();
    let (release, held) = std::sync::mpsc::channel();
    registry.role::<Order>("y").call(WITHIN, |reply| Order::Block(reply, held)).await.unwrap();
    assert_eq!(probe.take(), ["+first", "+x", "+y", "+last"]);
    kill(&registry, "mid", KillMode::Abort);
    eventually("mid is starting again", || {
        let row = registry.row(&registry.name_of("mid")).unwrap();
        row.generation == 2 && row.state == ActorState::Starting
    })
    .await;
    // The rest of the tree goes on, and long enough for a hasty supervisor to start x.
    for _ in 0..200 {
        assert_eq!(registry.role::<Order>("first").call(WITHIN, Order::Ping).await, Ok(1));
    }
    let steps = probe.take();
    assert!(!steps.iter().any(|step| step.starts_with('+')), "started before all old children had ended: {steps:?}");
    release.send(()).unwrap();
    runs(&registry, &[("mid", 2), ("x", 2), ("inner", 2), ("y", 2), ("last", 2)]).await;
    assert_eq!(probe.take(), ["~y", "+x", "+y", "+last"]);
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test]
async fn failed_starts_at_the_very_first_start_are_tried_again_below_a_nested_supervisor() {
    let (probe, registry) = (Probe::default(), Registry::new(&unique_node()));
    let script = Script { failing_starts: Arc::new(AtomicU64::new(3)), ..Script::default() };
    let mid = SupervisorSpec::new("mid", Strategy::RestForOne)
        .child(probe.child("x"))
        .child(probe.child_with("y", script))
        .child(probe.child("z"));
    let spec =
        SupervisorSpec::new("root", Strategy::OneForOne).child(ChildSpec::supervisor(mid)).child(probe.child("last"));
    let tree = Tree::start(registry.clone(), spec).await.unwrap();
    assert_eq!(probe.take(), ["+x", "+y", "+z", "+last"]);
    assert_eq!((generation(&registry, "y"), generation(&registry, "mid")), (4, 1));
    tree.shutdown(WITHIN).await.unwrap();
}
