//! The node itself: health, what runs here, live figures, the actor tree, metrics, the document.

use aurigraph_actors::audit::{AuditLevel, AuditRecord, AuditStatus};
use aurigraph_actors::query::KillOutcome;
use aurigraph_actors::query::views::{
    ActorTreeView, CheckpointView, ConsensusView, HealthView, InfoView, PerformanceView, ReadyView,
};
use aurigraph_runtime::KillMode;
use warp::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use warp::http::{Response, StatusCode};

use super::forms::{Height, KillBody, KillModeForm, KillView};
use crate::call::{json, ok};
use crate::problem::Problem;
use crate::route::{Access, Handler, Route};

const TAG: &str = "node";

/// The media type of Prometheus' text format.
pub const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4";

/// The routes of this area.
#[must_use]
pub fn table() -> Vec<Route> {
    let mut routes = probes();
    routes.extend(figures());
    routes.extend(actors());
    routes
}

fn probes() -> Vec<Route> {
    let health: Handler = |call| Box::pin(async move { ok(&call.edge.port.health().await?) });
    let metrics: Handler = |call| {
        Box::pin(async move {
            let mut response = Response::new((call.edge.metrics)().into());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROMETHEUS_TEXT));
            Ok(response)
        })
    };
    vec![
        Route::get::<HealthView>("/health", "getHealth", TAG, "The process answers.", health).at_root(),
        Route::get::<HealthView>("/q/health", "getHealthAlias", TAG, "As /health, for older probes.", health).at_root(),
        Route::get::<ReadyView>("/ready", "getReady", TAG, "Caught up, and a quorum is reachable.", |call| {
            Box::pin(async move {
                let view = call.edge.port.ready().await?;
                let mut response =
                    json(if view.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &view)?;
                if !view.ready {
                    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                }
                Ok(response)
            })
        })
        .also(503, "Not ready: the checks say why.")
        .at_root(),
        Route::get::<String>("/metrics", "getMetrics", TAG, "Metrics in Prometheus' text format.", metrics)
            .text(PROMETHEUS_TEXT)
            .at_root(),
        Route::get::<String>("/q/metrics", "getMetricsAlias", TAG, "As /metrics, for older scrapers.", metrics)
            .text(PROMETHEUS_TEXT)
            .at_root(),
    ]
}

fn figures() -> Vec<Route> {
    vec![
        Route::get::<InfoView>("/info", "getInfo", TAG, "What runs here.", |call| {
            Box::pin(async move { ok(&call.edge.port.info().await?) })
        }),
        Route::get::<PerformanceView>("/performance", "getPerformance", TAG, "Live figures of this node.", |call| {
            Box::pin(async move { ok(&call.edge.port.performance().await?) })
        }),
        Route::get::<ConsensusView>(
            "/consensus/status",
            "getConsensusStatus",
            "consensus",
            "Where consensus and execution stand.",
            |call| Box::pin(async move { ok(&call.edge.port.consensus().await?) }),
        ),
        Route::get::<CheckpointView>(
            "/consensus/checkpoints/{seq}",
            "getCheckpoint",
            "consensus",
            "A checkpoint with its certificate, to be verified without this node.",
            |call| Box::pin(checkpoint(call)),
        )
        .query::<Height>("headersFrom", "Add the ledger headers from this height to the checkpoint's.")
        .query::<Height>("epochsFrom", "Add what leads from this epoch's validators to the checkpoint's.")
        .problems(&[404]),
        Route::get::<serde_json::Value>("/openapi.json", "getOpenApi", TAG, "This document.", |call| {
            Box::pin(async move {
                let mut response = Response::new(call.edge.document.clone().into());
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                Ok(response)
            })
        }),
    ]
}

async fn checkpoint(call: crate::call::Call) -> Result<warp::reply::Response, Problem> {
    let text = call.param(0, "seq")?;
    let seq = if text == "latest" { None } else { Some(call.number_param(0, "seq")?) };
    let headers_from = call.query.number("headersFrom", 0, u64::MAX)?;
    let epochs_from = call.query.number("epochsFrom", 0, u64::MAX)?;
    let view = call.edge.port.checkpoint(seq, headers_from, epochs_from).await?;
    ok(&view.ok_or_else(|| Problem::unknown("checkpoint", text))?)
}

fn actors() -> Vec<Route> {
    vec![
        Route::get::<ActorTreeView>("/system/actors", "getActors", "system", "The live supervision tree.", |call| {
            Box::pin(async move { ok(&call.edge.port.actors().await?) })
        }),
        Route::post::<KillBody, KillView>(
            "/system/actors/{name}/kill",
            "killActor",
            "system",
            "Ends an actor on purpose, where the config allows it.",
            |call| Box::pin(kill(call)),
        )
        .also(202, "It ends in a moment.")
        .access(Access::Admin)
        .problems(&[401, 403, 404, 409]),
    ]
}

const fn mode_of(form: KillModeForm) -> (KillMode, &'static str) {
    match form {
        KillModeForm::Kill => (KillMode::Kill, "kill"),
        KillModeForm::Panic => (KillMode::Panic, "panic"),
        KillModeForm::Error => (KillMode::Error, "error"),
        KillModeForm::Stop => (KillMode::Stop, "stop"),
        KillModeForm::Abort => (KillMode::Abort, "abort"),
    }
}

async fn kill(mut call: crate::call::Call) -> Result<warp::reply::Response, Problem> {
    call.admin()?;
    if !call.edge.chaos {
        let detail = "killing actors is off: the config does not say `[chaos] enabled = true`";
        return Err(Problem::new(StatusCode::FORBIDDEN, "chaos_disabled", detail));
    }
    let name = call.param(0, "name")?;
    let body: KillBody = call.json().await?;
    let (mode, mode_name) = mode_of(body.mode);
    let outcome = call.edge.port.kill(name.clone(), mode).await;
    let done = matches!(outcome, Ok(Some(KillOutcome::Killed | KillOutcome::Scheduled)));
    call.edge.port.report(AuditRecord {
        user: "admin".to_owned(),
        ip: call.client.to_string(),
        status: if done { AuditStatus::Success } else { AuditStatus::Failure },
        ..AuditRecord::system(AuditLevel::Warning, "admin_kill", "kill", &name, mode_name)
    });
    let outcome = outcome?;
    let view = |outcome: &str| KillView { name: name.clone(), mode: mode_name.into(), outcome: outcome.into() };
    match outcome {
        None => Err(Problem::unknown("actor", name)),
        Some(KillOutcome::Killed) => ok(&view("killed")),
        Some(KillOutcome::Scheduled) => json(StatusCode::ACCEPTED, &view("scheduled")),
        Some(KillOutcome::NotRunning) => {
            Err(Problem::new(StatusCode::CONFLICT, "not_running", format!("{name} is not running now")))
        }
    }
}
