//! The event stream: server-sent events, resumable by id.

use std::convert::Infallible;
use std::time::Duration;

use aurigraph_actors::events::{Event, EventKind, Subscription};
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::watch;
use warp::Reply as _;
use warp::sse;

use super::forms::{EventId, Kinds};
use crate::call::Call;
use crate::params::number;
use crate::problem::Problem;
use crate::route::{Parameter, Place, Route, schema_of};

/// The header with the id of the last event that a client saw.
const LAST_EVENT_ID: &str = "last-event-id";
/// A comment after so long without an event, so that dead connections are found.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long a client should wait before it reconnects.
const RECONNECT: Duration = Duration::from_secs(1);

/// The routes of this area.
#[must_use]
pub fn table() -> Vec<Route> {
    let resume = Parameter {
        name: "Last-Event-ID",
        place: Place::Header,
        description: "Go on after the event of this id. If events in between are gone, an event `gap` says so.",
        schema: schema_of::<EventId>,
    };
    vec![
        Route::get::<String>(
            "/events",
            "getEvents",
            "events",
            "Blocks, transactions, validators and actors as they change, as server-sent events.",
            |call| Box::pin(events(call)),
        )
        .text("text/event-stream")
        .query::<Kinds>("kinds", "Only these kinds.")
        .query::<EventId>("lastEventId", "As the header, for clients that cannot set one.")
        .parameter(resume),
    ]
}

fn kinds_of(call: &Call) -> Result<Vec<EventKind>, Problem> {
    let Some(text) = call.query.get("kinds") else { return Ok(Vec::new()) };
    let kind = |part: &str| {
        let detail = || format!("kinds: {part:?} is not one of block, transaction, validator, actor");
        EventKind::parse(part).ok_or_else(|| Problem::bad("malformed_parameter", detail()))
    };
    text.split(',').map(kind).collect()
}

fn resume_after(call: &Call) -> Result<Option<u64>, Problem> {
    let header = call.headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("not text"));
    let text = header.or_else(|| call.query.get("lastEventId"));
    text.map(|text| number("Last-Event-ID", text)).transpose()
}

async fn events(call: Call) -> Result<warp::reply::Response, Problem> {
    let (after, kinds) = (resume_after(&call)?, kinds_of(&call)?);
    let subscription = call.edge.port.subscribe(after, kinds).await?;
    let full = || Problem::unavailable("too_many_subscribers", "too many clients listen", Duration::from_secs(5));
    let subscription = subscription.ok_or_else(full)?;
    let events = until(events_of(subscription), call.edge.stopping.subscribe());
    Ok(sse::reply(sse::keep_alive().interval(KEEP_ALIVE).stream(events)).into_response())
}

fn sse_event(event: &Event) -> sse::Event {
    let data = serde_json::to_string(&event.body).unwrap_or_default();
    sse::Event::default().id(event.id.to_string()).event(event.body.kind().as_str()).data(data)
}

fn events_of(subscription: Subscription) -> impl Stream<Item = Result<sse::Event, Infallible>> + Send + Sync {
    let Subscription { backlog, gap, events, dropped } = subscription;
    let start = sse::Event::default().retry(RECONNECT).comment("connected");
    let gap = gap.then(|| sse::Event::default().event("gap").data("{\"reason\":\"older events are gone\"}"));
    let first = stream::iter(std::iter::once(start).chain(gap));
    let backlog = stream::iter(backlog).map(|event| sse_event(&event));
    let live = stream::unfold(events, |mut events| async move {
        let event = events.recv().await?;
        Some((sse_event(&event), events))
    });
    // Evaluated when the live part has ended: then the hub has dropped this subscriber, or ended itself.
    let end = stream::once(async move {
        let reason = dropped.get().copied().unwrap_or("the event hub restarts");
        sse::Event::default().event("closed").data(serde_json::json!({ "reason": reason }).to_string())
    });
    first.chain(backlog).chain(live).chain(end).map(Ok)
}

/// Ends a stream when the server stops.
fn until<E: Stream + Send + Sync>(
    events: E,
    mut stopping: watch::Receiver<bool>,
) -> impl Stream<Item = E::Item> + Send + Sync {
    let stopped = async move {
        // A sender that is gone means the same.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    events.take_until(Box::pin(stopped))
}
