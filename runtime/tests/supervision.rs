//! Supervision as the rest of the node relies on it: every strategy, every way to die, orders, deadlines, budgets.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use aurigraph_runtime::{ActorState, KillMode, Registry, Strategy, SupervisorSpec, Tree};
use support::{Probe, WITHIN, eventually, unique_node};

/// The smallest tree: three probes under the root.
fn trio(strategy: Strategy, probes: &Probe) -> SupervisorSpec {
    SupervisorSpec::new("root", strategy).children(["a", "b", "c"].map(|role| probes.child(role)))
}

#[tokio::test]
async fn a_killed_child_is_restarted_in_every_mode() {
    for mode in KillMode::ALL {
        let registry = Registry::new(&unique_node());
        let probes = Probe::default();
        let tree = Tree::start(registry.clone(), trio(Strategy::OneForOne, &probes)).await.unwrap();
        assert!(registry.kill(&registry.name_of("b"), mode), "{mode}");
        eventually("b runs again", || {
            let row = registry.row(&registry.name_of("b")).unwrap();
            row.generation == 2 && row.state == ActorState::Running
        })
        .await;
        assert_eq!(registry.row(&registry.name_of("a")).unwrap().generation, 1, "{mode}: a was left alone");
        assert_eq!(registry.row(&registry.name_of("c")).unwrap().generation, 1, "{mode}: c was left alone");
        tree.shutdown(WITHIN).await.unwrap();
    }
}
