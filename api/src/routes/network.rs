//! Nodes, links and validators.

use aurigraph_actors::query::views::{
    NetworkStats, NodeView, SlashingEventPage, TopologyView, ValidatorDetail, ValidatorMetrics, ValidatorPage,
};

use crate::call::ok;
use crate::problem::Problem;
use crate::route::Route;

/// The routes of this area.
#[must_use]
pub fn table() -> Vec<Route> {
    let mut routes = network();
    routes.extend(validators());
    routes
}

fn network() -> Vec<Route> {
    const TAG: &str = "network";
    vec![
        Route::get::<TopologyView>(
            "/network/topology",
            "getTopology",
            TAG,
            "Nodes and links as this node sees them.",
            |call| Box::pin(async move { ok(&call.edge.port.topology().await?) }),
        ),
        Route::get::<NodeView>("/network/nodes/{nodeId}", "getNode", TAG, "One node.", |call| {
            Box::pin(async move {
                let id = call.param(0, "nodeId")?;
                let view = call.edge.port.node(id.clone()).await?;
                ok(&view.ok_or_else(|| Problem::unknown("node", id))?)
            })
        })
        .problems(&[404]),
        Route::get::<NetworkStats>("/network/stats", "getNetworkStats", TAG, "Traffic of this node.", |call| {
            Box::pin(async move { ok(&call.edge.port.network_stats().await?) })
        }),
    ]
}

fn validators() -> Vec<Route> {
    const TAG: &str = "validators";
    vec![
        Route::get::<ValidatorPage>("/validators", "getValidators", TAG, "Validators by index.", |call| {
            Box::pin(async move { ok(&call.edge.port.validators(call.query.page()?).await?) })
        })
        .paged(),
        Route::get::<ValidatorMetrics>(
            "/validators/metrics",
            "getValidatorMetrics",
            TAG,
            "The validators in figures.",
            |call| Box::pin(async move { ok(&call.edge.port.validator_metrics().await?) }),
        ),
        Route::get::<SlashingEventPage>(
            "/validators/slashing-events",
            "getSlashingEvents",
            TAG,
            "Punishments, newest first.",
            |call| Box::pin(async move { ok(&call.edge.port.slashing_events(call.query.page()?).await?) }),
        )
        .paged(),
        Route::get::<ValidatorDetail>("/validators/{id}", "getValidator", TAG, "One validator.", |call| {
            Box::pin(async move {
                let id = call.param(0, "id")?;
                let view = call.edge.port.validator(id.clone()).await?;
                ok(&view.ok_or_else(|| Problem::unknown("validator", id))?)
            })
        })
        .problems(&[404]),
    ]
}
