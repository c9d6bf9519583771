//! Who is restarted, after what, how often and how soon.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use aurigraph_runtime::{
    ActorEventKind, ActorState, Backoff, Budget, ChildSpec, EndKind, KillMode, Registry, Restart, Strategy,
    SupervisorSpec, Tree,
};
use support::{Gate, Order, Probe, Script, WITHIN, eventually, generation, reason, runs, unique_node};

const SECOND: Duration = Duration::from_secs(1);

/// Three recorders under the root.
fn trio(strategy: Strategy, probe: &Probe) -> SupervisorSpec {
    SupervisorSpec::new("root", strategy).children(["a", "b", "c"].map(|role| probe.child(role)))
}

async fn start(spec: SupervisorSpec) -> (Registry, Tree) {
    let registry = Registry::new(&unique_node());
    let tree = Tree::start(registry.clone(), spec).await.unwrap();
    (registry, tree)
}

fn kill(registry: &Registry, role: &str, mode: KillMode) {
    assert!(registry.kill(&registry.name_of(role), mode), "{role} cannot be ended by {mode}");
}

#[tokio::test]
async fn each_strategy_restarts_its_own_set_after_every_way_to_die() {
    let cases: [(Strategy, [u64; 3], &[&str]); 3] = [
        (Strategy::OneForOne, [1, 2, 1], &["+b"]),
        (Strategy::OneForAll, [2, 2, 2], &["-c", "-a", "+a", "+b", "+c"]),
        (Strategy::RestForOne, [1, 2, 2], &["-c", "+b", "+c"]),
    ];
    for (strategy, [a, b, c], steps) in cases {
        for mode in KillMode::ALL {
            let probe = Probe::default();
            let (registry, tree) = start(trio(strategy, &probe)).await;
            assert_eq!(probe.take(), ["+a", "+b", "+c"]);
            kill(&registry, "b", mode);
            runs(&registry, &[("a", a), ("b", b), ("c", c)]).await;
            let own_stop = if mode == KillMode::Stop { vec!["-b"] } else { vec![] };
            assert_eq!(probe.take_steps(), [&own_stop[..], steps].concat(), "{strategy:?} after {mode}");
            assert_eq!(probe.twins(), [""; 0], "{strategy:?} after {mode}");
            tree.shutdown(WITHIN).await.unwrap();
        }
    }
}

/// A child that is started, but not yet published, would refuse what the next one sends it in its own start.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tree_that_has_started_takes_messages_at_once() {
    for _ in 0..300 {
        let probe = Probe::default();
        let (registry, tree) = start(trio(Strategy::RestForOne, &probe)).await;
        for role in ["a", "b", "c"] {
            registry.role::<Order>(role).send(Order::Note("hello".to_owned())).unwrap();
        }
        tree.shutdown(WITHIN).await.unwrap();
    }
}

#[tokio::test]
async fn the_recorded_reason_tells_the_five_ways_apart() {
    let expected = [
        (KillMode::Kill, "killed [kill]"),
        (KillMode::Panic, "panic: told to panic [panic]"),
        (KillMode::Error, "error: told to fail [error]"),
        (KillMode::Stop, "stopped: on purpose [stop]"),
        (KillMode::Abort, "aborted [abort]"),
    ];
    for (mode, text) in expected {
        let (registry, tree) = start(trio(Strategy::OneForOne, &Probe::default())).await;
        kill(&registry, "b", mode);
        runs(&registry, &[("b", 2)]).await;
        assert_eq!(reason(&registry, "b"), text);
        tree.shutdown(WITHIN).await.unwrap();
    }
}

#[tokio::test]
async fn a_transient_child_comes_back_after_abnormal_ends_only_and_a_temporary_one_never() {
    for mode in KillMode::ALL {
        let probe = Probe::default();
        let spec = SupervisorSpec::new("root", Strategy::OneForOne)
            .child(probe.child("transient").restart(Restart::Transient))
            .child(probe.child("temporary").restart(Restart::Temporary));
        let (registry, tree) = start(spec).await;
        kill(&registry, "transient", mode);
        kill(&registry, "temporary", mode);
        let over = if mode == KillMode::Stop { ActorState::Stopped } else { ActorState::Failed };
        let state = |role: &str| registry.row(&registry.name_of(role)).unwrap().state;
        eventually("the temporary child is over", || state("temporary") == over).await;
        if mode == KillMode::Stop {
            eventually("the transient child is over", || state("transient") == over).await;
            assert_eq!(generation(&registry, "transient"), 1);
        } else {
            runs(&registry, &[("transient", 2)]).await;
        }
        assert_eq!(generation(&registry, "temporary"), 1, "{mode}");
        assert!(!registry.kill(&registry.name_of("temporary"), KillMode::Kill), "nothing of it runs");
        tree.shutdown(WITHIN).await.unwrap();
    }
}

#[tokio::test]
async fn a_group_restart_leaves_out_temporary_and_completed_children() {
    let probe = Probe::default();
    let spec = SupervisorSpec::new("root", Strategy::OneForAll)
        .child(probe.child("a"))
        .child(probe.child("temporary").restart(Restart::Temporary))
        .child(probe.child("transient").restart(Restart::Transient));
    let (registry, tree) = start(spec).await;
    registry.role::<Order>("transient").send(Order::Leave).unwrap();
    let state = |role: &str| registry.row(&registry.name_of(role)).unwrap().state;
    eventually("the transient child has completed", || state("transient") == ActorState::Stopped).await;
    kill(&registry, "a", KillMode::Kill);
    runs(&registry, &[("a", 2)]).await;
    assert_eq!((state("temporary"), state("transient")), (ActorState::Stopped, ActorState::Stopped));
    assert_eq!((generation(&registry, "temporary"), generation(&registry, "transient")), (1, 1));
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test]
async fn simultaneous_failures_become_one_group_restart() {
    for strategy in [Strategy::OneForAll, Strategy::RestForOne] {
        let probe = Probe::default();
        // A second restart would be one too many.
        let spec = trio(strategy, &probe).budget(Budget { restarts: 1, window: 3_600 * SECOND });
        let (registry, tree) = start(spec).await;
        // One thread: all three are dead before the supervisor runs.
        for role in ["c", "a", "b"] {
            kill(&registry, role, KillMode::Abort);
        }
        runs(&registry, &[("a", 2), ("b", 2), ("c", 2)]).await;
        tree.shutdown(WITHIN).await.unwrap();
    }
}

#[tokio::test]
async fn a_failure_during_the_stops_of_a_group_restart_joins_it() {
    let probe = Probe::default();
    let gate = Gate::default();
    let slow = Script { stop_gate: Some(gate.clone()), ..Script::default() };
    let spec = SupervisorSpec::new("root", Strategy::OneForAll)
        .children([probe.child("a"), probe.child("b"), probe.child_with("c", slow).shutdown(WITHIN)])
        .budget(Budget { restarts: 1, window: 3_600 * SECOND });
    let (registry, tree) = start(spec).await;
    kill(&registry, "b", KillMode::Kill);
    eventually("c is stopping", || probe.take().contains(&"-c".to_owned())).await;
    kill(&registry, "a", KillMode::Panic);
    eventually("a is down", || reason(&registry, "a").starts_with("panic")).await;
    gate.open();
    runs(&registry, &[("a", 2), ("b", 2), ("c", 2)]).await;
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_counts_as_a_restart_and_the_wait_before_the_next_doubles() {
    let probe = Probe::default();
    let script = Script { failing_starts: Arc::new(AtomicU64::new(4)), ..Script::default() };
    let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(probe.child_with("a", script));
    let (registry, tree) = start(spec).await;
    assert_eq!(generation(&registry, "a"), 5);
    assert_eq!(reason(&registry, "a"), "start: error: no disk");
    let times = probe.start_times("a");
    for (pair, wait) in times.windows(2).zip([10, 20, 40, 80]) {
        let waited = pair[1] - pair[0];
        assert!((wait..wait + 3).contains(&waited), "{waited} ms instead of {wait} in {times:?}");
    }
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_healthy_period_forgets_the_earlier_failures() {
    let probe = Probe::default();
    let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(probe.child("a")).healthy_after(5 * SECOND);
    let (registry, tree) = start(spec).await;
    let mut events = registry.events();
    let mut waits = Vec::new();
    for (generation, healthy) in [(2, false), (3, false), (4, true), (5, false)] {
        if healthy {
            tokio::time::sleep(6 * SECOND).await;
        }
        kill(&registry, "a", KillMode::Kill);
        runs(&registry, &[("a", generation)]).await;
    }
    while let Ok(event) = events.try_recv() {
        if let ActorEventKind::Restarting { after } = event.kind {
            waits.push(after.as_millis());
        }
    }
    assert_eq!(waits, [10, 20, 10, 20]);
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test]
async fn a_panic_in_start_is_a_failed_start_like_any_other() {
    let probe = Probe::default();
    let script = Script { panicking_starts: Arc::new(AtomicU64::new(1)), ..Script::default() };
    let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(probe.child_with("a", script));
    let (registry, tree) = start(spec).await;
    assert_eq!(generation(&registry, "a"), 2);
    assert_eq!(reason(&registry, "a"), "start: panic: start is broken");
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test]
async fn a_panic_of_the_function_that_makes_the_behaviour_does_not_hang_its_supervisor() {
    let (probe, tries) = (Probe::default(), Arc::new(AtomicU64::new(0)));
    let counter = Arc::clone(&tries);
    let broken = ChildSpec::behaviour("broken", 1, move || -> aurigraph_runtime::telemetry::Upkeep {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        panic!("no behaviour today")
    });
    let budget = Budget { restarts: 2, window: 3_600 * SECOND };
    let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(probe.child("a")).child(broken).budget(budget);
    let error = Tree::start(Registry::new(&unique_node()), spec).await.err().unwrap();
    assert!(error.to_string().contains("start: panic: no behaviour today"), "{error}");
    assert_eq!(tries.load(std::sync::atomic::Ordering::Relaxed), 3);
}

#[tokio::test]
async fn an_actor_can_be_killed_while_it_starts_in_every_mode() {
    for mode in KillMode::ALL {
        let (probe, gate) = (Probe::default(), Gate::default());
        let script = Script { start_gate: Some(gate.clone()), ..Script::default() };
        let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(probe.child_with("a", script));
        let registry = Registry::new(&unique_node());
        let starting = tokio::spawn(Tree::start(registry.clone(), spec));
        eventually("a is starting", || probe.start_times("a").len() == 1).await;
        kill(&registry, "a", mode);
        eventually("a is starting again", || probe.start_times("a").len() == 2).await;
        assert_eq!(reason(&registry, "a"), format!("killed during start [{mode}]"));
        gate.open();
        starting.await.unwrap().unwrap().shutdown(WITHIN).await.unwrap();
    }
}

#[tokio::test]
async fn a_start_that_its_group_has_overtaken_is_cancelled() {
    let (probe, gate) = (Probe::default(), Gate::default());
    let script = Script { start_gate: Some(gate.clone()), ..Script::default() };
    let spec =
        SupervisorSpec::new("root", Strategy::RestForOne).child(probe.child("a")).child(probe.child_with("b", script));
    let registry = Registry::new(&unique_node());
    let starting = tokio::spawn(Tree::start(registry.clone(), spec));
    eventually("b is starting", || probe.start_times("b").len() == 1).await;
    kill(&registry, "a", KillMode::Error);
    eventually("b is starting again", || probe.start_times("b").len() == 2).await;
    assert_eq!(probe.take_steps(), ["+a", "+a"], "the first start of b came to nothing");
    gate.open();
    let tree = starting.await.unwrap().unwrap();
    runs(&registry, &[("a", 2), ("b", 2)]).await;
    assert_eq!(probe.take_steps(), ["+b"]);
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test]
async fn an_address_outlives_restarts_and_tells_the_generation() {
    let (registry, tree) = start(trio(Strategy::OneForOne, &Probe::default())).await;
    let address = registry.role::<Order>("b");
    let mut generations = address.generations();
    assert_eq!((address.generation(), address.call(WITHIN, Order::Ping).await), (1, Ok(1)));
    generations.mark_unchanged();
    kill(&registry, "b", KillMode::Kill);
    assert_eq!(*generations.wait_for(|now| *now == 2).await.unwrap(), 2);
    assert_eq!((address.generation(), address.call(WITHIN, Order::Ping).await), (2, Ok(2)));
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn results_and_timers_of_a_dead_incarnation_never_reach_the_next() {
    let probe = Probe::default();
    let (registry, tree) = start(trio(Strategy::OneForOne, &probe)).await;
    let address = registry.role::<Order>("b");
    let mouth = address.call(WITHIN, Order::Mouth).await.unwrap();
    assert!(mouth.send(Order::Note("in time".into())));
    address.send(Order::Later(SECOND, "late timer".into())).unwrap();
    assert_eq!(address.call(WITHIN, Order::Ping).await, Ok(1));
    kill(&registry, "b", KillMode::Kill);
    runs(&registry, &[("b", 2)]).await;
    assert!(!mouth.send(Order::Note("late result".into())));
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(address.call(WITHIN, Order::Ping).await, Ok(2));
    let notes = probe.take();
    assert!(notes.contains(&"in time".to_owned()), "{notes:?}");
    assert!(!notes.iter().any(|note| note.starts_with("late")), "{notes:?}");
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test]
async fn the_event_stream_tells_a_restart_from_its_end_to_the_next_start() {
    let (registry, tree) = start(trio(Strategy::OneForOne, &Probe::default())).await;
    let mut events = registry.events();
    kill(&registry, "b", KillMode::Error);
    runs(&registry, &[("b", 2)]).await;
    let name = registry.name_of("b");
    let expected = [
        ActorEventKind::Ended { kind: EndKind::Error, reason: "error: told to fail [error]".into() },
        ActorEventKind::Restarting { after: Backoff::default().first },
        ActorEventKind::Started { generation: 2 },
    ];
    for kind in expected {
        let event = events.recv().await.unwrap();
        assert_eq!((event.name, event.kind), (name.clone(), kind));
    }
    tree.shutdown(WITHIN).await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_of_events_is_told_how_many_it_lost() {
    let spec = trio(Strategy::OneForOne, &Probe::default())
        .backoff(Backoff { first: Duration::ZERO, factor: 1, max: Duration::ZERO })
        .budget(Budget { restarts: 10_000, window: SECOND });
    let (registry, tree) = start(spec).await;
    let mut events = registry.events();
    let rounds = aurigraph_runtime::registry::EVENT_BOUND as u64 / 3 + 10;
    for generation in 2..rounds {
        kill(&registry, "b", KillMode::Kill);
        runs(&registry, &[("b", generation)]).await;
    }
    let lagged = events.recv().await.unwrap_err();
    assert!(matches!(lagged, tokio::sync::broadcast::error::RecvError::Lagged(lost) if lost > 0), "{lagged}");
    tree.shutdown(WITHIN).await.unwrap();
}
