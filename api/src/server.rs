//! The HTTP server: warp's service on a hyper loop with what warp's own server lacks: a header time-out, a connection
//! cap, a deadline for stopping, and a clear error for a taken port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use crate::edge::Edge;
use crate::mount::{PeerAddress, filter};
use crate::write_deadline::WriteDeadline;

/// A client has this long to send a request's head; it bounds idle connections too.
pub const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// After a stop, running requests have this long.
pub const STOP_WITHIN: Duration = Duration::from_secs(3);
/// The longest head, in bytes.
const HEAD_BYTES: usize = 16 * 1024;
/// The most headers.
const HEADERS: usize = 64;
/// A client that takes not one byte of an answer for so long has gone.
pub const WRITE_WITHIN: Duration = Duration::from_secs(20);
/// A pause after an error of accepting (no file descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP server cannot listen on {address}: {source}{}", hint(.source))]
pub struct BindError {
    /// Where.
    pub address: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another process has this port: stop it, or choose another in the config)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 want a privilege: choose another in the config)",
        _ => "",
    }
}

/// A bound port. It outlives restarts of the server, so that clients that connect meanwhile wait instead of being
/// refused. One incarnation at a time holds it.
#[derive(Clone)]
pub struct Port {
    address: SocketAddr,
    listener: Arc<tokio::sync::Mutex<TcpListener>>,
}

impl Port {
    /// Binds an address.
    ///
    /// # Errors
    /// [`BindError`] naming the address and, if another process has it, saying so.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let listener = TcpListener::bind(address).await.map_err(|source| BindError { address, source })?;
        let address = listener.local_addr().map_err(|source| BindError { address, source })?;
        Ok(Self { address, listener: Arc::new(tokio::sync::Mutex::new(listener)) })
    }

    /// Where it listens: the real port, if any was asked for.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes the listener once an earlier incarnation has let go.
    pub(crate) async fn take(&self, within: Duration) -> Option<OwnedMutexGuard<TcpListener>> {
        tokio::time::timeout(within, Arc::clone(&self.listener).lock_owned()).await.ok()
    }
}

/// Adds the peer's address to each request.
#[derive(Clone)]
struct Service<S> {
    inner: S,
    peer: PeerAddress,
}

impl<S: hyper::service::Service<hyper::Request<Incoming>>> hyper::service::Service<hyper::Request<Incoming>>
    for Service<S>
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: hyper::Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        self.inner.call(request)
    }
}

/// Resolves once the server stops; a sender that is gone means the same.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Serves until `edge.stopping` says so, then until all requests are answered or the deadline has passed. Dropping the
/// future ends everything at once.
pub(crate) async fn serve(listener: OwnedMutexGuard<TcpListener>, edge: Arc<Edge>) {
    listen(listener, filter(&edge), edge.limits.max_connections, &edge.stopping).await;
}

/// [`serve`] for whatever answers.
pub(crate) async fn listen(
    listener: OwnedMutexGuard<TcpListener>,
    filter: BoxedFilter<(Response,)>,
    max_connections: usize,
    stop: &watch::Sender<bool>,
) {
    let service = TowerToHyperService::new(warp::service(filter));
    let places = Arc::new(Semaphore::new(max_connections));
    let mut stopping = stop.subscribe();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stopping) => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                note(ended);
                gauge(&connections);
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                        refuse(stream);
                        continue;
                    };
                    let service = Service { inner: service.clone(), peer: PeerAddress(peer) };
                    connections.spawn(connection(stream, service, stop.subscribe(), place));
                    gauge(&connections);
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let ended = tokio::time::timeout(STOP_WITHIN, async {
        while let Some(ended) = connections.join_next().await {
            note(ended);
        }
    });
    if ended.await.is_err() {
        tracing::warn!(connections = connections.len(), "connections were cut off at the stop deadline");
    }
}

fn gauge(connections: &JoinSet<()>) {
    #[allow(clippy::cast_precision_loss)]
    metrics::gauge!("http_connections").set(connections.len() as f64);
}

fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        metrics::counter!("application_exceptions_total", "actor" => "http-connection", "kind" => "panic").increment(1);
        tracing::error!(%error, "a request handler panicked");
    }
}

/// Says why, as far as it can be said without waiting.
fn refuse(stream: TcpStream) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n\
        connection: close\r\n\r\n";
    metrics::counter!("http_connections_refused_total").increment(1);
    // A fresh socket's buffer is empty, so this fits or the client is gone.
    let _ = stream.try_write(ANSWER);
}

async fn connection<S>(
    stream: TcpStream,
    service: Service<S>,
    mut stopping: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) where
    S: hyper::service::Service<hyper::Request<Incoming>, Response = Response, Error = std::convert::Infallible>,
{
    // Without it small answers wait for acknowledgements; failing that they are only slower.
    let _ = stream.set_nodelay(true);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(HEAD_BYTES * 4).max_headers(HEADERS);
    let mut connection =
        std::pin::pin!(builder.serve_connection(TokioIo::new(WriteDeadline::new(stream, WRITE_WITHIN)), service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopped(&mut stopping) => {
            // Finishes the running request, takes no other; the caller's deadline cuts it off.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // Clients that vanish, trickle or send nonsense: no fault of the node.
        tracing::debug!(%error, "a connection ended");
    }
}
