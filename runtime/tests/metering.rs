//! What the metrics say about a tree that lost an actor.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::Duration;

use aurigraph_runtime::telemetry::{Metrics, Upkeep, upkeep::UPKEEP_MAILBOX};
use aurigraph_runtime::{ChildSpec, KillMode, Registry, Strategy, SupervisorSpec, Tree};
use support::{BOUND, Order, Probe, WITHIN, eventually, runs, unique_node};

#[tokio::test(start_paused = true)]
async fn the_upkeep_exports_depth_messages_restarts_and_failures_of_every_actor() {
    let node = unique_node();
    let (metrics, recorder) = Metrics::detached(&node).unwrap();
    let _local = metrics::set_default_local_recorder(&recorder);
    let (probe, registry) = (Probe::default(), Registry::new(&node));
    let kept = metrics.clone();
    let spec = SupervisorSpec::new("root", Strategy::OneForOne)
        .child(ChildSpec::behaviour("telemetry", UPKEEP_MAILBOX, move || Upkeep::new(kept.clone())))
        .child(probe.child("a"));
    let tree = Tree::start(registry.clone(), spec).await.unwrap();
    let series = |name: &str| format!("{name}{{node=\"{node}\",actor=\"{node}/a\"");
    let shows = |line: String| metrics.render().lines().any(|shown| shown == line);
    assert!(shows(format!("{}}} 0", series("actor_restarts_total"))), "the series exists before the first restart");

    assert!(registry.kill(&registry.name_of("a"), KillMode::Panic));
    runs(&registry, &[("a", 2)]).await;
    let address = registry.role::<Order>("a");
    let (_release, held) = tokio::sync::oneshot::channel();
    address.call(WITHIN, |reply| Order::Hold(reply, held)).await.unwrap();
    for _ in 1..BOUND {
        address.send(Order::Note("waits".into())).unwrap();
    }
    assert!(address.send(Order::Note("refused".into())).is_err());

    // The upkeep's next tick samples the mailbox.
    eventually("the depth is sampled", || shows(format!("{}}} {BOUND}", series("actor_mailbox_depth")))).await;
    for line in [
        format!("{}}} {BOUND}", series("actor_mailbox_bound")),
        format!("{}}} 0", series("actor_messages_total")),
        format!("{}}} 1", series("actor_restarts_total")),
        format!("{}}} 1", series("actor_mailbox_refused_total")),
        format!("{},kind=\"panic\"}} 1", series("application_exceptions_total")),
        format!("actors_running{{node=\"{node}\"}} 3"),
    ] {
        assert!(shows(line.clone()), "{line} is missing in\n{}", metrics.render());
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(registry.row(&registry.name_of("telemetry")).unwrap().messages >= 3, "it keeps ticking");
    tree.shutdown(WITHIN).await.unwrap();
}
