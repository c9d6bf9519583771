//! What is known of each peer across restarts of the actors: its links, counters, charges, and whether it is up.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use ractor::ActorRef;
use ractor_cluster::NodeServerMessage;
use tokio::time::Instant;

use super::Inbound;
use super::bulk::BulkLane;
use super::peer::PeerMsg;
use super::session::Session;
use super::settings::{Class, ClusterSettings, SendRefused};
use crate::behaviour::Mouth;
use crate::channel::{Channels, IdentityError, SessionTag};

/// Counters of one direction.
#[derive(Default)]
pub(crate) struct Traffic {
    pub(crate) bytes: AtomicU64,
    pub(crate) messages: AtomicU64,
}

impl Traffic {
    pub(crate) fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.messages.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::Relaxed), self.messages.load(Ordering::Relaxed))
    }
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) control_in: Traffic,
    pub(crate) control_out: Traffic,
    pub(crate) bulk_in: Traffic,
    pub(crate) bulk_out: Traffic,
    pub(crate) refused: AtomicU64,
    pub(crate) charges: AtomicU64,
    pub(crate) sessions: AtomicU64,
    /// Microseconds; 0 = not measured.
    pub(crate) rtt: AtomicU64,
}

/// One configured peer.
pub(crate) struct PeerEntry {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) counters: Counters,
    pub(crate) penalty: Duration,
    inbound: Arc<dyn Inbound>,
    /// Present until the library has forgotten it, also after it was closed.
    session: Mutex<Option<Arc<Session>>>,
    bulk: RwLock<Option<Arc<BulkLane>>>,
    up: AtomicBool,
    /// Held while the layer above is told, so that it hears ups and downs in turn.
    telling: Mutex<()>,
    since: Mutex<SystemTime>,
    last_failure: Mutex<Option<String>>,
    penalty_until: Mutex<Option<Instant>>,
    owner: Mutex<Option<Mouth<PeerMsg>>>,
    poked: AtomicBool,
}

impl PeerEntry {
    fn new(name: String, address: String, penalty: Duration, inbound: Arc<dyn Inbound>) -> Self {
        Self {
            name,
            address,
            counters: Counters::default(),
            penalty,
            inbound,
            session: Mutex::new(None),
            bulk: RwLock::new(None),
            up: AtomicBool::new(false),
            telling: Mutex::new(()),
            since: Mutex::new(SystemTime::now()),
            last_failure: Mutex::new(None),
            penalty_until: Mutex::new(None),
            owner: Mutex::new(None),
            poked: AtomicBool::new(false),
        }
    }

    /// A peer whose messages go nowhere.
    #[cfg(test)]
    pub(crate) fn for_test(name: &str) -> Arc<Self> {
        struct Nowhere;
        impl Inbound for Nowhere {
            fn control(&self, _peer: &str, _bytes: Bytes) {}
            fn bulk(&self, _peer: &str, _bytes: Bytes, _permit: super::BulkPermit) {}
            fn up(&self, _peer: &str) {}
            fn down(&self, _peer: &str) {}
        }
        Arc::new(Self::new(name.to_owned(), String::new(), Duration::ZERO, Arc::new(Nowhere)))
    }

    /// A new incarnation of the peer's actor takes over, or the old one leaves. Nothing of the links survives.
    pub(crate) fn owned_by(&self, owner: Option<Mouth<PeerMsg>>) {
        let reason = if owner.is_some() { "its actor was restarted" } else { "its actor ended" };
        *self.owner.lock() = owner;
        self.poked.store(false, Ordering::Release);
        self.close(reason);
        self.tell(false);
    }

    /// Makes the peer's actor look at its links again. Any number of pokes are one until it has looked.
    pub(crate) fn poke(&self) {
        if !self.poked.swap(true, Ordering::AcqRel)
            && let Some(owner) = self.owner.lock().as_ref()
        {
            owner.send(PeerMsg::Look);
        }
    }

    pub(crate) fn looked(&self) {
        self.poked.store(false, Ordering::Release);
    }

    pub(crate) fn session(&self) -> Option<Arc<Session>> {
        self.session.lock().clone()
    }

    pub(crate) fn set_session(&self, session: Option<Arc<Session>>) {
        *self.session.lock() = session;
    }

    pub(crate) fn bulk(&self) -> Option<Arc<BulkLane>> {
        self.bulk.read().clone()
    }

    pub(crate) fn set_bulk(&self, lane: Option<Arc<BulkLane>>) {
        let old = std::mem::replace(&mut *self.bulk.write(), lane);
        if let Some(old) = old {
            old.close("replaced");
        }
    }

    /// Closes both lanes.
    pub(crate) fn close(&self, reason: &str) {
        if let Some(session) = self.session() {
            session.close(reason);
        }
        if let Some(lane) = self.bulk() {
            lane.close(reason);
        }
    }

    /// Drops a peer that broke a rule, and keeps it out for a while.
    pub(crate) fn charge(&self, rule: &'static str, detail: &str) {
        tracing::warn!(peer = %self.name, rule, detail, "peer dropped and charged");
        metrics::counter!("network_peer_charges_total", "peer" => self.name.clone(), "rule" => rule).increment(1);
        *self.penalty_until.lock() = Some(Instant::now() + self.penalty);
        self.failed(format!("charged: {rule}: {detail}"));
        // After what goes with it: whoever sees the count sees the reason, too.
        self.counters.charges.fetch_add(1, Ordering::Release);
        self.close(detail);
        self.poke();
    }

    /// How long the peer still stays out.
    pub(crate) fn penalty_left(&self) -> Option<Duration> {
        let until = (*self.penalty_until.lock())?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    pub(crate) fn failed(&self, reason: String) {
        *self.last_failure.lock() = Some(reason);
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Tells the layer above that the peer is up or down, if that is news.
    pub(crate) fn tell(&self, up: bool) {
        let _in_turn = self.telling.lock();
        if self.up.swap(up, Ordering::AcqRel) == up {
            return;
        }
        *self.since.lock() = SystemTime::now();
        tracing::info!(peer = %self.name, up, "peer");
        if up {
            self.inbound.up(&self.name);
        } else {
            self.inbound.down(&self.name);
        }
    }

    pub(crate) fn inbound(&self) -> &dyn Inbound {
        &*self.inbound
    }

    fn status(&self) -> PeerStatus {
        let counters = &self.counters;
        let sum = |a: &Traffic, b: &Traffic| {
            let ((bytes, messages), (more_bytes, more_messages)) = (a.read(), b.read());
            (bytes + more_bytes, messages + more_messages)
        };
        let (bytes_in, messages_in) = sum(&counters.control_in, &counters.bulk_in);
        let (bytes_out, messages_out) = sum(&counters.control_out, &counters.bulk_out);
        let rtt = counters.rtt.load(Ordering::Relaxed);
        PeerStatus {
            name: self.name.clone(),
            address: self.address.clone(),
            up: self.is_up(),
            since: *self.since.lock(),
            #[allow(clippy::cast_precision_loss)]
            rtt_ms: (rtt > 0).then_some(rtt as f64 / 1_000.0),
            bytes_in,
            bytes_out,
            messages_in,
            messages_out,
            control_waiting: self.session().filter(|_| self.is_up()).map_or(0, |session| session.waiting()),
            bulk_queued: self.bulk().map_or(0, |lane| lane.queued()),
            sends_refused: counters.refused.load(Ordering::Relaxed),
            sessions: counters.sessions.load(Ordering::Relaxed),
            charges: counters.charges.load(Ordering::Acquire),
            penalty_left: self.penalty_left(),
            last_failure: self.last_failure.lock().clone(),
        }
    }

    /// Publishes the peer's figures.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn publish(&self) {
        let peer = &self.name;
        let counters = &self.counters;
        for (lane, direction, traffic) in [
            ("control", "in", &counters.control_in),
            ("control", "out", &counters.control_out),
            ("bulk", "in", &counters.bulk_in),
            ("bulk", "out", &counters.bulk_out),
        ] {
            let labels = [("peer", peer.clone()), ("lane", lane.to_owned()), ("direction", direction.to_owned())];
            let (bytes, messages) = traffic.read();
            metrics::counter!("network_bytes_total", &labels).absolute(bytes);
            metrics::counter!("network_messages_total", &labels).absolute(messages);
        }
        let status = self.status();
        if let Some(rtt) = status.rtt_ms {
            metrics::gauge!("blockchain_network_latency_ms", "peer" => peer.clone()).set(rtt);
        }
        metrics::gauge!("network_peer_up", "peer" => peer.clone()).set(f64::from(u8::from(status.up)));
        metrics::gauge!("network_queue_bytes", "peer" => peer.clone(), "lane" => "control")
            .set(status.control_waiting as f64);
        metrics::gauge!("network_queue_bytes", "peer" => peer.clone(), "lane" => "bulk").set(status.bulk_queued as f64);
        metrics::counter!("network_sends_refused_total", "peer" => peer.clone()).absolute(status.sends_refused);
        metrics::counter!("network_sessions_total", "peer" => peer.clone()).absolute(status.sessions);
    }
}

/// What this node knows of a peer.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Where its node port is.
    pub address: String,
    /// True while both lanes stand.
    pub up: bool,
    /// Since when it is up or down.
    pub since: SystemTime,
    /// The last round trip of a probe.
    pub rtt_ms: Option<f64>,
    /// Bytes of messages received since the process started, both lanes.
    pub bytes_in: u64,
    /// Bytes of messages sent.
    pub bytes_out: u64,
    /// Messages received.
    pub messages_in: u64,
    /// Messages sent.
    pub messages_out: u64,
    /// Weight of the control messages that it has not yet processed.
    pub control_waiting: u64,
    /// Bytes that wait in the bulk queues.
    pub bulk_queued: u64,
    /// Messages that were not taken.
    pub sends_refused: u64,
    /// Control sessions that became usable.
    pub sessions: u64,
    /// How often it broke a rule.
    pub charges: u64,
    /// How long it still stays out after the last of them.
    pub penalty_left: Option<Duration>,
    /// Why the last link ended or did not come to be.
    pub last_failure: Option<String>,
}

/// Shared by all parts of the network half; survives restarts of its actors.
pub(crate) struct Hub {
    pub(crate) settings: ClusterSettings,
    pub(crate) channels: Channels,
    pub(crate) peers: BTreeMap<String, Arc<PeerEntry>>,
    pub(crate) node_server: RwLock<Option<ActorRef<NodeServerMessage>>>,
    pub(crate) gateway_pid: AtomicU64,
    /// Where the node port is bound, once it was: later incarnations of the listener keep it.
    pub(crate) bound: Mutex<Option<SocketAddr>>,
    sessions: RwLock<HashMap<SessionTag, Arc<Session>>>,
}

impl Hub {
    pub(crate) fn new(settings: ClusterSettings, channels: Channels, inbound: &Arc<dyn Inbound>) -> Self {
        let penalty = settings.links.penalty;
        let entry = |name: &str, address: &str| {
            Arc::new(PeerEntry::new(name.to_owned(), address.to_owned(), penalty, Arc::clone(inbound)))
        };
        let peers = settings.peers.iter().map(|peer| (peer.name.clone(), entry(&peer.name, &peer.address))).collect();
        Self {
            settings,
            channels,
            peers,
            node_server: RwLock::new(None),
            gateway_pid: AtomicU64::new(u64::MAX),
            bound: Mutex::new(None),
            sessions: RwLock::new(HashMap::new()),
        }
    }

    pub(crate) fn add_session(&self, session: &Arc<Session>) {
        self.sessions.write().insert(session.tag, Arc::clone(session));
    }

    pub(crate) fn remove_session(&self, tag: &SessionTag) {
        self.sessions.write().remove(tag);
    }

    pub(crate) fn session(&self, tag: &SessionTag) -> Option<Arc<Session>> {
        self.sessions.read().get(tag).cloned()
    }

    /// All sessions died with the library's server.
    pub(crate) fn forget_sessions(&self, reason: &str) {
        let sessions = std::mem::take(&mut *self.sessions.write());
        for session in sessions.into_values() {
            session.close(reason);
            session.gone.store(true, Ordering::Release);
            if let Some(peer) = session.peer.upgrade() {
                peer.poke();
            }
        }
    }
}

/// The network as the layers above see it. Cheap to clone; valid across restarts of every actor.
#[derive(Clone)]
pub struct PeerNet(pub(crate) Arc<Hub>);

impl PeerNet {
    /// Where the buffers of frames come from.
    #[must_use]
    pub fn buffers(&self) -> crate::buffers::Buffers {
        self.0.settings.buffers.clone()
    }

    fn entry(&self, peer: &str) -> Result<&Arc<PeerEntry>, SendRefused> {
        self.0.peers.get(peer).ok_or_else(|| SendRefused::Unknown(peer.to_owned()))
    }

    /// Sends a small message now, or refuses: never waits. Order is kept within one session with a peer; what is on the
    /// way when a session ends is lost.
    ///
    /// # Errors
    /// [`SendRefused`].
    pub fn send_control(&self, peer: &str, bytes: Bytes) -> Result<(), SendRefused> {
        let entry = self.entry(peer)?;
        let limit = self.0.settings.links.control_message_bytes;
        let length = bytes.len();
        let sent = if length == 0 || length > limit {
            Err(SendRefused::TooLarge { peer: peer.to_owned(), bytes: length, limit: limit as u64 })
        } else {
            match entry.session() {
                Some(session) if entry.is_up() && !session.is_closed() => session.send(peer, bytes),
                _ => Err(SendRefused::Down(peer.to_owned())),
            }
        };
        match &sent {
            Ok(()) => entry.counters.control_out.count(length),
            Err(_) => _ = entry.counters.refused.fetch_add(1, Ordering::Relaxed),
        }
        sent
    }

    /// Queues a large message, or refuses: never waits. A class goes only while no earlier class waits; within a class
    /// order is kept within one link. What is queued when a link ends is lost.
    ///
    /// # Errors
    /// [`SendRefused`].
    pub fn send_bulk(&self, peer: &str, bytes: Bytes, class: Class) -> Result<(), SendRefused> {
        let entry = self.entry(peer)?;
        let sent = match entry.bulk() {
            Some(lane) if entry.is_up() => lane.send(peer, bytes, class),
            _ => Err(SendRefused::Down(peer.to_owned())),
        };
        if sent.is_err() {
            entry.counters.refused.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    /// All peers, by name.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.0.peers.values().map(|entry| entry.status()).collect()
    }

    /// One peer.
    #[must_use]
    pub fn peer(&self, name: &str) -> Option<PeerStatus> {
        self.0.peers.get(name).map(|entry| entry.status())
    }

    /// True while both lanes to the peer stand.
    #[must_use]
    pub fn is_up(&self, peer: &str) -> bool {
        self.0.peers.get(peer).is_some_and(|entry| entry.is_up())
    }

    /// Drops a peer for breaking a rule of the layer above, and keeps it out for the penalty.
    pub fn charge(&self, peer: &str, rule: &'static str, detail: &str) {
        if let Some(entry) = self.0.peers.get(peer) {
            entry.charge(rule, detail);
        }
    }

    /// Replaces the list of keys (names that are no peers of this node are of no use in it; a name may have several), and
    /// ends the links of peers that have lost a key.
    ///
    /// # Errors
    /// [`IdentityError`]; then nothing has changed.
    pub fn replace_keys<'a>(&self, keys: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<(), IdentityError> {
        let listed = self.0.channels.keys();
        let before: Vec<_> = self.0.peers.keys().map(|name| (name, listed.infos_of(name))).collect();
        listed.replace(keys)?;
        for (name, infos) in before {
            if infos.iter().any(|info| !listed.lists(name, info))
                && let Some(entry) = self.0.peers.get(name)
            {
                entry.close("its key was changed");
                entry.poke();
            }
        }
        Ok(())
    }

    /// Where the node port is bound; none before the listener's first start.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        *self.0.bound.lock()
    }
}
