//! The supervision subtree of the HTTP edge.

use std::sync::Arc;
use std::time::Duration;

use aurigraph_actors::bounds::{events as event_bounds, query as bounds};
use aurigraph_actors::events::EventHub;
use aurigraph_actors::query::{NodePort, QueryActor, Signer, Sources};
use aurigraph_runtime::{ActorError, Behaviour, ChildSpec, Context, Strategy, SupervisorSpec};
use tokio::task::JoinHandle;

use crate::edge::{ApiParts, Edge, RenderMetrics};
use crate::server::{Port, STOP_WITHIN, serve};

/// The server tells itself one thing only; nobody else speaks to it.
const SERVER_MAILBOX: usize = 4;
/// How long a new incarnation waits for the port.
const PORT_WITHIN: Duration = Duration::from_secs(5);

/// The HTTP server as an actor: its tasks end with its incarnation.
pub struct HttpServer {
    port: Port,
    parts: ApiParts,
}

impl HttpServer {
    /// A server on a bound port.
    #[must_use]
    pub const fn new(port: Port, parts: ApiParts) -> Self {
        Self { port, parts }
    }
}

/// Says what the edge's metrics mean.
fn describe() {
    metrics::describe_counter!("http_requests_total", "Requests answered, by route, method and status.");
    metrics::describe_histogram!("http_request_duration_seconds", "From a request's head to its answer's, by route.");
    metrics::describe_gauge!("http_connections", "Connections held open.");
    metrics::describe_counter!("http_connections_refused_total", "Connections refused beyond the cap.");
    metrics::describe_gauge!("event_subscribers", "Clients that listen to the event stream.");
    metrics::describe_counter!("event_subscribers_dropped_total", "Listeners dropped for reading too slowly.");
    metrics::describe_gauge!("event_waiting_clients", "Clients that wait for the end of a transaction.");
}

/// What the server tells itself.
#[derive(Debug)]
pub enum ServerMsg {
    /// The accept loop has ended, which it does only by a panic.
    LoopEnded,
}

/// What one incarnation holds. Dropping it aborts the loop and with it every connection.
pub struct ServerState {
    edge: Arc<Edge>,
    task: JoinHandle<()>,
}

impl Drop for ServerState {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Behaviour for HttpServer {
    type Msg = ServerMsg;
    type State = ServerState;

    async fn start(&self, ctx: &Context<ServerMsg>) -> Result<ServerState, ActorError> {
        describe();
        let listener = self.port.take(PORT_WITHIN).await;
        let listener = listener.ok_or_else(|| format!("an earlier server still holds {}", self.port.address()))?;
        let (edge, mouth) = (Edge::new(self.parts.clone()), ctx.mouth());
        tracing::info!(address = %self.port.address(), "the HTTP server listens");
        let served = tokio::spawn(serve(listener, Arc::clone(&edge)));
        let task = tokio::spawn(async move {
            let mut served = AbortOnDrop(served);
            let _ = (&mut served.0).await;
            mouth.send(ServerMsg::LoopEnded);
        });
        Ok(ServerState { edge, task })
    }

    async fn handle(&self, _: &Context<ServerMsg>, _: ServerMsg, _: &mut ServerState) -> Result<(), ActorError> {
        Err("the accept loop ended".into())
    }

    async fn stopped(&self, _: &Context<ServerMsg>, state: &mut ServerState) {
        state.edge.stopping.send_replace(true);
        // The loop keeps its own deadline.
        let _ = tokio::time::timeout(STOP_WITHIN + Duration::from_millis(100), &mut state.task).await;
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The subtree: the server, the query actors, the event hub and the signer.
#[must_use]
pub fn spec(sources: &Arc<Sources>, port: &Port, metrics: &RenderMetrics) -> SupervisorSpec {
    let settings = &sources.settings;
    let query_actors = settings.query_actors.max(1);
    let parts = ApiParts {
        port: NodePort::new(&sources.registry, query_actors),
        limits: settings.api,
        tokens: settings.tokens.clone(),
        chaos: settings.chaos,
        metrics: Arc::clone(metrics),
    };
    let (hub, signer, port) = (Arc::clone(sources), Arc::clone(sources), port.clone());
    let queries = (0..query_actors).map(|at| {
        let sources = Arc::clone(sources);
        ChildSpec::behaviour(format!("query/{at}"), bounds::MAILBOX, move || QueryActor::new(Arc::clone(&sources)))
    });
    let server =
        ChildSpec::behaviour("http-server", SERVER_MAILBOX, move || HttpServer::new(port.clone(), parts.clone()));
    SupervisorSpec::new("api", Strategy::OneForOne)
        .child(ChildSpec::behaviour("event-hub", event_bounds::HUB_MAILBOX, move || EventHub::new(Arc::clone(&hub))))
        .children(queries)
        .child(ChildSpec::behaviour("signer", bounds::SIGNER_MAILBOX, move || Signer::new(Arc::clone(&signer))))
        .child(server.shutdown(STOP_WITHIN + Duration::from_millis(500)))
}
