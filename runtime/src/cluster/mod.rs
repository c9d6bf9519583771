//! The links between nodes: a control lane through the actor cluster and a bulk lane beside it, per peer.
//!
//! Here lives how nodes find each other, stay connected and are bounded. What a message means is the affair of the layer
//! above, which implements [`Inbound`] and sends through [`PeerNet`]. Nothing here is durable, and nothing is resent:
//! what is lost with a link is asked for again by whoever misses it.

mod bulk;
mod compress;
mod frames;
mod gateway;
mod guard;
mod listener;
mod peer;
mod peers;
mod quota;
mod session;
mod settings;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use bulk::BulkPermit;
pub(crate) use gateway::full_name;
pub use peers::{PeerNet, PeerStatus};
pub use settings::{Class, ClusterError, ClusterSettings, DoorLimits, LinkLimits, PeerSpec, SendRefused};

use crate::channel::{Channels, Identity, PeerKeys};
use crate::supervisor::{Backoff, Budget, ChildSpec, Strategy, SupervisorSpec};
use listener::Listener;
use peer::{PEER_MAILBOX, Peer};
use peers::Hub;

/// What the layer above does with what comes in. Called from the tasks of the links: it must not block, and a panic
/// ends the link's owner. Messages of a peer may arrive shortly before `up` and after `down`.
pub trait Inbound: Send + Sync + 'static {
    /// A control message.
    fn control(&self, peer: &str, bytes: Bytes);
    /// A bulk message. The peer may send that much more once the permit is dropped.
    fn bulk(&self, peer: &str, bytes: Bytes, permit: BulkPermit);
    /// Both lanes with the peer stand.
    fn up(&self, peer: &str);
    /// They do not any more.
    fn down(&self, peer: &str);
}

/// Aborts a task when the incarnation that owns it ends.
pub(crate) struct AbortOnDrop(pub(crate) tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) fn peer_role(peer: &str) -> String {
    format!("peer/{peer}")
}

/// The supervisor `cluster` of the network half, and the network as the layers above see it.
///
/// Its children in order, each restarted with those after it: the library's session server, the gateway, the listener,
/// the peers (one for one).
///
/// # Errors
/// [`ClusterError`] if the settings cannot work.
pub fn spec(settings: ClusterSettings, inbound: Arc<dyn Inbound>) -> Result<(SupervisorSpec, PeerNet), ClusterError> {
    settings.check()?;
    describe();
    let identity = Identity::from_seed(&settings.seed)?;
    let keys = PeerKeys::new(settings.peers.iter().map(|peer| (peer.name.as_str(), peer.public_key.as_slice())))?;
    let channels = Channels::new(identity, keys, settings.cluster_secret, settings.door.handshake_timeout)?;
    let hub = Arc::new(Hub::new(settings, channels, &inbound));
    // Killing actors is part of a node's life: the budget is for what no restart helps against.
    let budget = Budget { restarts: 100, window: Duration::from_secs(60) };
    // Peers count a node as gone after a second and a half, so waits are short.
    let backoff = Backoff { first: Duration::from_millis(10), factor: 2, max: Duration::from_millis(200) };
    let peers = hub.peers.values().map(|entry| {
        let (hub, entry) = (Arc::clone(&hub), Arc::clone(entry));
        let role = peer_role(&entry.name);
        ChildSpec::behaviour(role, PEER_MAILBOX, move || Peer::new(Arc::clone(&hub), Arc::clone(&entry)))
    });
    let peers = SupervisorSpec::new("peers", Strategy::OneForOne).budget(budget).backoff(backoff).children(peers);
    let (server, gate, door) = (Arc::clone(&hub), Arc::clone(&hub), Arc::clone(&hub));
    let cluster = SupervisorSpec::new("cluster", Strategy::RestForOne)
        .budget(budget)
        .backoff(backoff)
        .child(ChildSpec::raw("node-server", move |_, _, parent| {
            gateway::start_node_server(Arc::clone(&server), parent)
        }))
        .child(ChildSpec::raw_with_hook(
            "gateway",
            move |_, _, parent| gateway::start_gateway(Arc::clone(&gate), parent),
            gateway::fail_gateway,
        ))
        .child(ChildSpec::behaviour("listener", 1, move || Listener::new(Arc::clone(&door))))
        .child(ChildSpec::supervisor(peers));
    Ok((cluster, PeerNet(hub)))
}

fn describe() {
    use metrics::{describe_counter, describe_gauge};
    describe_counter!("network_bytes_total", "Bytes of messages exchanged with a peer");
    describe_counter!("network_messages_total", "Messages exchanged with a peer");
    describe_counter!("network_sessions_total", "Control sessions with a peer that became usable");
    describe_counter!("network_sends_refused_total", "Messages to a peer that were not taken");
    describe_counter!("network_bulk_refused_total", "Bulk messages not taken because their queue was full");
    describe_counter!("network_bulk_compressed_total", "Bulk messages that were sent compressed");
    describe_counter!("network_bulk_saved_bytes_total", "Bytes that compression saved on the way to a peer");
    describe_counter!("network_peer_charges_total", "Rules that a peer broke");
    describe_counter!("network_dials_failed_total", "Dialling a peer that came to nothing");
    describe_counter!("network_handshakes_refused_total", "Connections that did not become a channel");
    describe_counter!("network_gateway_dropped_total", "Messages of sessions that were closed already");
    describe_gauge!("network_peer_up", "1 while both lanes with a peer stand");
    describe_gauge!("network_queue_bytes", "Bytes on the way to a peer (control) or waiting for it (bulk)");
    describe_gauge!("blockchain_network_latency_ms", "Last round trip of a probe of a peer");
}
