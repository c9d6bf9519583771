//! The audit log: searches and the summary. It names people and their doings, so only an admin reads it.

use aurigraph_actors::query::views::{AuditLogPage, AuditSearch, AuditSummaryView};

use crate::call::{Call, ok};
use crate::params::page_of;
use crate::problem::Problem;
use crate::route::{Access, Route};

const TAG: &str = "audit";

/// The routes of this area.
#[must_use]
pub fn table() -> Vec<Route> {
    vec![
        Route::post::<AuditSearch, AuditLogPage>(
            "/audit/logs",
            "searchAuditLogs",
            TAG,
            "Entries of the audit log by time, level, kind, user, thing, outcome and text, newest first.",
            |call| Box::pin(search(call)),
        )
        .access(Access::Admin)
        .problems(&[401, 403]),
        Route::get::<AuditSummaryView>(
            "/audit/summary",
            "getAuditSummary",
            TAG,
            "The audit log in figures, and whether its chain holds.",
            |call| {
                Box::pin(async move {
                    call.admin()?;
                    ok(&call.edge.port.audit_summary().await?)
                })
            },
        )
        .access(Access::Admin)
        .problems(&[401, 403]),
    ]
}

async fn search(mut call: Call) -> Result<warp::reply::Response, Problem> {
    call.admin()?;
    let search: AuditSearch = call.json().await?;
    let page = page_of(search.page, search.page_size)?;
    ok(&call.edge.port.audit_logs(search.filters, page).await?)
}
