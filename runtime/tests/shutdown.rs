//! The ordered stop: reverse order, deadlines, and what is said when they pass.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::Duration;

use aurigraph_runtime::{ActorState, ChildSpec, KillMode, Registry, ShutdownError, Strategy, SupervisorSpec, Tree};
use support::{Gate, Order, Probe, Script, WITHIN, eventually, unique_node};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_tree_stops_in_the_reverse_order_of_its_start() {
    for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
        let (probe, registry) = (Probe::default(), Registry::new(&unique_node()));
        let mid = SupervisorSpec::new("mid", strategy).child(probe.child("x")).child(probe.child("y"));
        let spec = SupervisorSpec::new("root", strategy)
            .child(probe.child("a"))
            .child(ChildSpec::supervisor(mid))
            .child(probe.child("b"));
        let tree = Tree::start(registry.clone(), spec).await.unwrap();
        assert_eq!(probe.take(), ["+a", "+x", "+y", "+b"]);
        tree.shutdown(WITHIN).await.unwrap();
        assert_eq!(probe.take(), ["-b", "~b", "-y", "~y", "-x", "~x", "-a", "~a"], "{strategy:?}");
        for row in registry.tree() {
            assert_eq!(row.state, ActorState::Stopped, "{row:?}");
        }
        let end = tree.ended().await;
        assert!(end.orderly, "{end}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_child_that_ignores_its_stop_is_killed_after_its_own_deadline_and_the_rest_still_stops() {
    let (probe, registry) = (Probe::default(), Registry::new(&unique_node()));
    let deaf = Script { stop_gate: Some(Gate::default()), ..Script::default() };
    let spec = SupervisorSpec::new("root", Strategy::OneForOne)
        .child(probe.child("a"))
        .child(probe.child_with("deaf", deaf).shutdown(3 * SECOND))
        .child(probe.child("c"));
    let tree = Tree::start(registry.clone(), spec).await.unwrap();
    let began = tokio::time::Instant::now();
    tree.shutdown(WITHIN).await.unwrap();
    let took = began.elapsed();
    assert!((3 * SECOND..4 * SECOND).contains(&took), "{took:?}");
    assert_eq!(probe.take_steps(), ["+a", "+deaf", "+c", "-c", "-deaf", "-a"]);
}

#[tokio::test(start_paused = true)]
async fn a_group_restart_kills_a_sibling_that_ignores_its_stop() {
    let (probe, registry) = (Probe::default(), Registry::new(&unique_node()));
    let gate = Gate::default();
    let deaf = Script { stop_gate: Some(gate.clone()), ..Script::default() };
    let spec = SupervisorSpec::new("root", Strategy::RestForOne)
        .child(probe.child("a"))
        .child(probe.child_with("deaf", deaf).shutdown(3 * SECOND));
    let tree = Tree::start(registry.clone(), spec).await.unwrap();
    let began = tokio::time::Instant::now();
    assert!(registry.kill(&registry.name_of("a"), KillMode::Error));
    support::runs(&registry, &[("a", 2), ("deaf", 2)]).await;
    let took = began.elapsed();
    assert!((3 * SECOND..4 * SECOND).contains(&took), "{took:?}");
    assert_eq!(probe.twins(), [""; 0]);
    gate.open();
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_tree_that_takes_too_long_is_killed_and_the_error_names_who_was_running() {
    let (probe, registry) = (Probe::default(), Registry::new(&unique_node()));
    let deaf = Script { stop_gate: Some(Gate::default()), ..Script::default() };
    let mid = SupervisorSpec::new("mid", Strategy::OneForOne)
        .child(probe.child("x"))
        .child(probe.child_with("deaf", deaf).shutdown(3_600 * SECOND));
    let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(ChildSpec::supervisor(mid));
    let tree = Tree::start(registry.clone(), spec).await.unwrap();
    let error = tree.shutdown(2 * SECOND).await.unwrap_err();
    let ShutdownError::Killed { after, running } = error else { panic!("{error}") };
    assert_eq!(after, 2 * SECOND);
    let expected: Vec<String> = ["deaf", "mid", "root", "x"].map(|role| registry.name_of(role)).into();
    assert_eq!(running, expected);
    let steps = probe.take();
    assert!(steps.contains(&"~deaf".to_owned()) && steps.contains(&"~x".to_owned()), "{steps:?}");
}

#[tokio::test]
async fn a_stop_during_the_start_cancels_what_is_starting() {
    let (probe, registry) = (Probe::default(), Registry::new(&unique_node()));
    let slow = Script { start_gate: Some(Gate::default()), ..Script::default() };
    let spec = SupervisorSpec::new("root", Strategy::OneForOne)
        .child(probe.child("a"))
        .child(probe.child_with("slow", slow))
        .child(probe.child("never"));
    let starting = tokio::spawn(Tree::start(registry.clone(), spec));
    eventually("slow is starting", || probe.start_times("slow").len() == 1).await;
    assert!(registry.kill(&registry.name_of("root"), KillMode::Stop));
    let error = starting.await.unwrap().err().unwrap();
    assert!(error.to_string().contains("stopped"), "{error}");
    assert_eq!(probe.take(), ["+a", "-a", "~a"]);
}

#[tokio::test]
async fn a_stop_lets_the_current_message_finish_and_tells_the_askers_behind_it() {
    let (probe, registry) = (Probe::default(), Registry::new(&unique_node()));
    let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(probe.child("a").shutdown(WITHIN));
    let tree = Tree::start(registry.clone(), spec).await.unwrap();
    let address = registry.role::<Order>("a");
    let (release, held) = tokio::sync::oneshot::channel();
    address.call(WITHIN, |reply| Order::Hold(reply, held)).await.unwrap();
    let waiting = address.ask(Order::Ping).unwrap();
    let stopping = tokio::spawn(async move { tree.shutdown(WITHIN).await });
    tokio::task::yield_now().await;
    release.send(()).unwrap();
    stopping.await.unwrap().unwrap();
    assert!(waiting.await.is_err(), "a queued request is dropped, and its asker told");
    assert_eq!(probe.take(), ["+a", "-a", "~a"]);
}

#[tokio::test]
async fn an_actor_that_ends_while_the_tree_stops_is_not_restarted() {
    let (probe, registry) = (Probe::default(), Registry::new(&unique_node()));
    let gate = Gate::default();
    let slow = Script { stop_gate: Some(gate.clone()), ..Script::default() };
    let spec = SupervisorSpec::new("root", Strategy::OneForOne)
        .child(probe.child("a"))
        .child(probe.child_with("slow", slow).shutdown(WITHIN));
    let tree = Tree::start(registry.clone(), spec).await.unwrap();
    let stopping = tokio::spawn(async move { tree.shutdown(WITHIN).await });
    eventually("slow is stopping", || probe.take().contains(&"-slow".to_owned())).await;
    assert!(registry.kill(&registry.name_of("a"), KillMode::Kill));
    eventually("a is dead", || {
        !registry.role::<Order>("a").is_running()
            || registry.role::<Order>("a").send(Order::Note("nobody".into())).is_err()
    })
    .await;
    gate.open();
    stopping.await.unwrap().unwrap();
    assert!(!probe.take().contains(&"+a".to_owned()));
}

#[tokio::test]
async fn whoever_starts_first_under_a_stopped_supervisor_that_comes_back_waits_for_the_others() {
    let (probe, registry) = (Probe::default(), Registry::new(&unique_node()));
    let gate = Gate::default();
    gate.open();
    let slow = Script { start_gate: Some(gate.clone()), ..Script::default() };
    let group = SupervisorSpec::new("group", Strategy::OneForAll)
        .child(probe.child_with("first", slow))
        .child(probe.child("last"));
    let root = SupervisorSpec::new("root", Strategy::OneForOne).child(ChildSpec::supervisor(group));
    let tree = Tree::start(registry.clone(), root).await.unwrap();
    let (first, last) = (registry.role::<Order>("first"), registry.role::<Order>("last"));
    let before = first.generation();
    gate.shut();
    assert!(registry.kill(&registry.name_of("group"), KillMode::Stop));
    eventually("the last one has stopped", || !last.is_running()).await;
    let starts = || registry.row(first.name()).is_some_and(|row| row.state == ActorState::Starting);
    eventually("the first starts again", starts).await;
    assert!(!last.is_gone(), "it comes back, too");
    gate.open();
    eventually("both are back", || first.generation() > before && last.is_running()).await;
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test]
async fn an_address_says_who_is_gone_for_good_and_who_only_restarts() {
    let (probe, registry) = (Probe::default(), Registry::new(&unique_node()));
    let gate = Gate::default();
    let slow = Script { stop_gate: Some(gate.clone()), ..Script::default() };
    let spec = SupervisorSpec::new("root", Strategy::OneForOne)
        .child(probe.child_with("first", slow).shutdown(WITHIN))
        .child(probe.child("last"));
    let tree = Tree::start(registry.clone(), spec).await.unwrap();
    let (first, last) = (registry.role::<Order>("first"), registry.role::<Order>("last"));
    assert!(!first.is_gone() && !last.is_gone());
    let before = last.generation();
    assert!(registry.kill(last.name(), KillMode::Kill));
    eventually("it is back", || last.generation() > before && last.is_running()).await;
    assert!(!last.is_gone(), "a restart is no end");
    let stopping = tokio::spawn(async move { tree.shutdown(WITHIN).await });
    eventually("the last one is gone", || last.is_gone()).await;
    assert!(!first.is_gone(), "it is stopping still");
    gate.open();
    stopping.await.unwrap().unwrap();
    assert!(first.is_gone());
}
