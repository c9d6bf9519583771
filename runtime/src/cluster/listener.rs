//! The node port: accepts connections, finds out who they are, and hands channels to the peers' actors.
//!
//! Whoever has not proved who it is costs as little as possible and keeps nobody out: a client that says nothing holds a
//! place among the pending, where the oldest goes when there are too many; handshakes are limited in number and rate.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use super::AbortOnDrop;
use super::peer::PeerMsg;
use super::peers::Hub;
use super::quota::Bucket;
use crate::behaviour::{ActorError, Behaviour, Context};
use crate::channel::{Channel, HandshakeError};
use crate::end::Fatal;
use crate::registry::Registry;

/// Addresses whose handshakes are counted one by one; the rest share one count.
const ADDRESSES_COUNTED: usize = 1_024;
/// How long a new incarnation waits for the port that the last one held.
const REBIND: Duration = Duration::from_secs(2);
const REBIND_STEP: Duration = Duration::from_millis(10);
/// Wait after the system refused to accept (no descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Why a connection that was accepted did not become a channel.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("too many handshakes from {0}")]
    Rate(IpAddr),
    #[error("{0} is kept out")]
    Penalty(String),
    #[error("{0} does not take it")]
    Busy(String),
}

impl Refusal {
    fn reason(&self) -> &'static str {
        match self {
            Self::Handshake(error) => error.reason(),
            Self::Rate(_) => "rate",
            Self::Penalty(_) => "penalty",
            Self::Busy(_) => "busy",
        }
    }
}

/// The listener's actor.
pub(crate) struct Listener(Arc<Hub>);

impl Listener {
    pub(crate) const fn new(hub: Arc<Hub>) -> Self {
        Self(hub)
    }

    async fn bind(&self, generation: u64) -> Result<TcpListener, ActorError> {
        let wanted = self.0.bound.lock().unwrap_or(self.0.settings.listen);
        let until = tokio::time::Instant::now() + REBIND;
        loop {
            match TcpListener::bind(wanted).await {
                Ok(listener) => {
                    *self.0.bound.lock() = Some(listener.local_addr()?);
                    return Ok(listener);
                }
                // The last incarnation's socket closes with its task, which may take a moment.
                Err(_) if generation > 1 && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(REBIND_STEP).await;
                }
                Err(error) => {
                    let text = format!("cannot listen for nodes on {wanted}: {error}");
                    return Err(if generation == 1 { Box::new(Fatal::new(text)) } else { text.into() });
                }
            }
        }
    }
}

impl Behaviour for Listener {
    type Msg = ();
    type State = AbortOnDrop;

    async fn start(&self, ctx: &Context<()>) -> Result<AbortOnDrop, ActorError> {
        let listener = self.bind(ctx.generation).await?;
        let door = Door::new(Arc::clone(&self.0), ctx.registry.clone());
        let address = listener.local_addr()?;
        tracing::info!(%address, "listening for nodes");
        // A loop that ends takes the actor with it, so that the supervisor starts both anew.
        let mouth = ctx.mouth();
        Ok(AbortOnDrop(tokio::spawn(async move {
            door.accept_all(listener).await;
            mouth.send(());
        })))
    }

    async fn handle(&self, _ctx: &Context<()>, (): (), _state: &mut AbortOnDrop) -> Result<(), ActorError> {
        Err("the accept loop ended".into())
    }
}

struct Door {
    hub: Arc<Hub>,
    registry: Registry,
    handshakes: Arc<Semaphore>,
    rates: Arc<Mutex<Rates>>,
}

/// New handshakes per address.
struct Rates {
    per_second: u64,
    counted: HashMap<IpAddr, Bucket>,
    rest: Bucket,
}

impl Rates {
    fn take(&mut self, address: IpAddr) -> bool {
        if !self.counted.contains_key(&address) && self.counted.len() == ADDRESSES_COUNTED {
            // Addresses that have been quiet for a second start with a full bucket anyway.
            self.counted.retain(|_, bucket| !bucket.is_full());
        }
        let room = self.counted.len() < ADDRESSES_COUNTED;
        let per_second = self.per_second;
        let bucket = match self.counted.get_mut(&address) {
            Some(bucket) => bucket,
            None if room => self.counted.entry(address).or_insert_with(|| Bucket::new(per_second)),
            None => &mut self.rest,
        };
        bucket.take(1).is_ok()
    }
}

/// A connection that has not proved who it is.
struct Visitor {
    from: IpAddr,
    /// Has it sent anything?
    speaks: Arc<AtomicBool>,
    task: AbortHandle,
}

/// All of them, oldest first.
#[derive(Default)]
struct Pending {
    next: u64,
    all: BTreeMap<u64, Visitor>,
    per_address: HashMap<IpAddr, usize>,
}

impl Pending {
    fn remove(&mut self, id: u64) -> Option<Visitor> {
        let visitor = self.all.remove(&id)?;
        if let Some(count) = self.per_address.get_mut(&visitor.from) {
            *count -= 1;
            if *count == 0 {
                self.per_address.remove(&visitor.from);
            }
        }
        Some(visitor)
    }

    /// Forgets a visitor whose task ended without saying who it was.
    fn remove_task(&mut self, task: tokio::task::Id) {
        let id = self.all.iter().find(|(_, visitor)| visitor.task.id() == task).map(|(id, _)| *id);
        id.and_then(|id| self.remove(id));
    }

    /// Makes room for one more from this address: of those that are too many, the oldest that is silent goes, and only
    /// if all speak the oldest.
    fn make_room(&mut self, address: IpAddr, total: usize, per_address: usize) {
        let crowded = self.per_address.get(&address).is_some_and(|count| *count >= per_address);
        if !crowded && self.all.len() < total {
            return;
        }
        let concerned = || self.all.iter().filter(|(_, visitor)| !crowded || visitor.from == address);
        let silent = concerned().find(|(_, visitor)| !visitor.speaks.load(Ordering::Relaxed));
        let victim = silent.or_else(|| concerned().next()).map(|(id, _)| *id);
        if let Some(visitor) = victim.and_then(|id| self.remove(id)) {
            visitor.task.abort();
            metrics::counter!("network_handshakes_refused_total", "reason" => "crowded").increment(1);
        }
    }

    fn add(&mut self, visitor: Visitor) {
        *self.per_address.entry(visitor.from).or_default() += 1;
        self.all.insert(self.next, visitor);
        self.next += 1;
    }
}

impl Door {
    fn new(hub: Arc<Hub>, registry: Registry) -> Self {
        let limits = hub.settings.door;
        let rates = Rates {
            per_second: limits.handshakes_per_second,
            counted: HashMap::new(),
            rest: Bucket::new(limits.handshakes_per_second),
        };
        let handshakes = Arc::new(Semaphore::new(limits.handshakes.max(1)));
        Self { hub, registry, handshakes, rates: Arc::new(Mutex::new(rates)) }
    }

    async fn accept_all(&self, listener: TcpListener) {
        let limits = self.hub.settings.door;
        let mut tasks: JoinSet<u64> = JoinSet::new();
        let mut pending = Pending::default();
        loop {
            tokio::select! {
                Some(done) = tasks.join_next() => match done {
                    Ok(id) => _ = pending.remove(id),
                    Err(error) => pending.remove_task(error.id()),
                },
                accepted = listener.accept() => match accepted {
                    Ok((tcp, from)) => {
                        pending.make_room(from.ip(), limits.pending.max(1), limits.pending_per_address.max(1));
                        let speaks = Arc::<AtomicBool>::default();
                        let task = tasks.spawn(self.visitor(pending.next, tcp, from, Arc::clone(&speaks)));
                        pending.add(Visitor { from: from.ip(), speaks, task });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accepting a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    fn visitor(
        &self,
        id: u64,
        tcp: TcpStream,
        from: SocketAddr,
        speaks: Arc<AtomicBool>,
    ) -> impl Future<Output = u64> + Send + 'static {
        let (hub, registry) = (Arc::clone(&self.hub), self.registry.clone());
        let (handshakes, rates) = (Arc::clone(&self.handshakes), Arc::clone(&self.rates));
        async move {
            let visit = async {
                // Being told readable is not enough: that may be a false alarm.
                tcp.peek(&mut [0]).await.map_err(HandshakeError::Tls)?;
                speaks.store(true, Ordering::Relaxed);
                let channel = introduce(&hub, tcp, from, &handshakes, &rates).await?;
                hand_over(&hub, &registry, channel)
            };
            let limit = hub.settings.door.handshake_timeout;
            // Waiting for a first byte and for a place counts, too.
            let done = tokio::time::timeout(limit, visit).await;
            if let Err(refusal) = done.unwrap_or(Err(HandshakeError::Timeout(limit).into())) {
                tracing::debug!(%from, %refusal, "connection refused");
                let reason = refusal.reason();
                metrics::counter!("network_handshakes_refused_total", "reason" => reason).increment(1);
            }
            id
        }
    }
}

/// Finds out who is there.
async fn introduce(
    hub: &Hub,
    tcp: TcpStream,
    from: SocketAddr,
    handshakes: &Semaphore,
    rates: &Mutex<Rates>,
) -> Result<Channel, Refusal> {
    if !rates.lock().take(from.ip()) {
        return Err(Refusal::Rate(from.ip()));
    }
    let _place = handshakes.acquire().await.map_err(|error| HandshakeError::Tls(io::Error::other(error)))?;
    Ok(hub.channels.accept(tcp).await?)
}

fn hand_over(hub: &Hub, registry: &Registry, channel: Channel) -> Result<(), Refusal> {
    let Some(peer) = hub.peers.get(&channel.peer) else {
        return Err(HandshakeError::NotListed(channel.peer.clone()).into());
    };
    if peer.penalty_left().is_some() {
        return Err(Refusal::Penalty(channel.peer));
    }
    let address = registry.role::<PeerMsg>(&super::peer_role(&channel.peer));
    address.send(PeerMsg::Accepted(Box::new(channel))).map_err(|_| Refusal::Busy(peer.name.clone()))
}
