//! What the network half of a node is started with, and what it can refuse.

use std::net::SocketAddr;
use std::time::Duration;

use crate::buffers::Buffers;
use crate::channel::IdentityError;

/// One peer that this node keeps links with.
#[derive(Debug, Clone)]
pub struct PeerSpec {
    /// Its node name.
    pub name: String,
    /// `host:port` of its node listener.
    pub address: String,
    /// Its raw ML-DSA-87 public key.
    pub public_key: Vec<u8>,
}

/// Bounds of the links. Every node of a cluster should use the same: a sender obeys its own figures, a receiver
/// enforces its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkLimits {
    /// Largest control message. At most 256 KiB: one control frame.
    pub control_message_bytes: usize,
    /// Control bytes (64 more a message) that may be on the way to one peer and not yet processed there.
    pub control_window: u64,
    /// Largest bulk message.
    pub bulk_message_bytes: usize,
    /// Bulk bytes (64 more a message) that this node lets one peer have unprocessed here: the credit that it grants.
    /// At least one largest message.
    pub bulk_window: u64,
    /// Bytes that may wait per peer and class before `send_bulk` refuses.
    pub bulk_queue_bytes: usize,
    /// Control bytes a second from one peer before it is dropped and charged. A sender uses three quarters of it.
    pub control_bytes_per_second: u64,
    /// Control messages a second from one peer before it is dropped and charged.
    pub control_messages_per_second: u64,
    /// Bulk bytes a second, likewise.
    pub bulk_bytes_per_second: u64,
    /// Bulk messages a second, likewise.
    pub bulk_messages_per_second: u64,
    /// How long a charged peer stays out.
    pub penalty: Duration,
    /// How often a peer is probed.
    pub heartbeat: Duration,
    /// How long without an answer until a peer counts as dead.
    pub dead_after: Duration,
    /// First wait before dialling again.
    pub redial_first: Duration,
    /// Longest wait before dialling again.
    pub redial_max: Duration,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self {
            control_message_bytes: 256 * 1024,
            control_window: 8 << 20,
            bulk_message_bytes: 16 << 20,
            bulk_window: 48 << 20,
            bulk_queue_bytes: 64 << 20,
            control_bytes_per_second: 128 << 20,
            control_messages_per_second: 200_000,
            bulk_bytes_per_second: 1 << 30,
            bulk_messages_per_second: 200_000,
            penalty: Duration::from_secs(10),
            heartbeat: Duration::from_millis(250),
            dead_after: Duration::from_millis(1_500),
            redial_first: Duration::from_millis(50),
            redial_max: Duration::from_secs(2),
        }
    }
}

/// Bounds of the door: connections that have not yet proved who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoorLimits {
    /// Time for a whole handshake.
    pub handshake_timeout: Duration,
    /// Unproven connections at once. At the bound the oldest goes, so silent ones cannot keep others out.
    pub pending: usize,
    /// The same for one address. Addresses of configured peers have it, too.
    pub pending_per_address: usize,
    /// Handshakes at once; those beyond wait.
    pub handshakes: usize,
    /// New handshakes a second from one address; more are dropped.
    pub handshakes_per_second: u64,
}

impl Default for DoorLimits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(3),
            pending: 1_024,
            pending_per_address: 256,
            handshakes: 32,
            handshakes_per_second: 200,
        }
    }
}

/// Everything that the network half is started with.
#[derive(Clone)]
pub struct ClusterSettings {
    /// This node's name.
    pub node: String,
    /// Where its one node port listens. Port 0 takes a free one, which later incarnations keep.
    pub listen: SocketAddr,
    /// Seed of its network identity.
    pub seed: [u8; 32],
    /// Equal on all nodes of one cluster, for example derived from the chain's id: keeps clusters from mixing by
    /// mistake. It guards nothing: who a peer is, its key alone decides.
    pub cluster_secret: [u8; 32],
    /// The peers. Empty for a cluster of one.
    pub peers: Vec<PeerSpec>,
    /// Many bulk frames per write, compressed where the link holds back; off: one frame per write, as it is.
    pub network_batching: bool,
    /// Where the buffers of frames come from.
    pub buffers: Buffers,
    /// Bounds of the links.
    pub links: LinkLimits,
    /// Bounds of the door.
    pub door: DoorLimits,
}

impl std::fmt::Debug for ClusterSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let peers: Vec<&str> = self.peers.iter().map(|peer| peer.name.as_str()).collect();
        write!(f, "ClusterSettings({} at {}, peers {peers:?})", self.node, self.listen)
    }
}

/// Why the network half cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A key or the TLS settings.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A node cannot be its own peer.
    #[error("{0} is listed as its own peer")]
    OwnPeer(String),
    /// A peer is listed twice.
    #[error("{0} is listed twice")]
    Twice(String),
    /// A name that cannot be part of an actor's name.
    #[error("{0:?} is no node name: 1 to 64 letters, digits, '-', '_' or '.'")]
    Name(String),
    /// A bound that cannot work.
    #[error("{0}")]
    Limits(&'static str),
}

impl ClusterSettings {
    pub(super) fn check(&self) -> Result<(), ClusterError> {
        let good = |name: &str| {
            (1..=64).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        let mut seen = std::collections::BTreeSet::new();
        for name in std::iter::once(&self.node).chain(self.peers.iter().map(|peer| &peer.name)) {
            if !good(name) {
                return Err(ClusterError::Name(name.clone()));
            }
            if !seen.insert(name) {
                let own = *name == self.node;
                return Err(if own { ClusterError::OwnPeer(name.clone()) } else { ClusterError::Twice(name.clone()) });
            }
        }
        let links = &self.links;
        if links.control_message_bytes == 0 || links.control_message_bytes > 256 * 1024 {
            return Err(ClusterError::Limits("control messages must be allowed, and at most 256 KiB"));
        }
        if links.bulk_window < links.bulk_message_bytes as u64 + 64 {
            return Err(ClusterError::Limits("the bulk window must hold one largest bulk message"));
        }
        if links.dead_after <= links.heartbeat {
            return Err(ClusterError::Limits("a peer needs more than one heartbeat before it counts as dead"));
        }
        Ok(())
    }
}

/// What a bulk message is for: strict classes, the first always goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Bodies that somebody is blocked on.
    Urgent,
    /// Bodies in the ordinary course.
    Body,
    /// Serving others that catch up.
    Serving,
}

impl Class {
    pub(super) const ALL: [Self; 3] = [Self::Urgent, Self::Body, Self::Serving];

    pub(super) const fn index(self) -> usize {
        match self {
            Self::Urgent => 0,
            Self::Body => 1,
            Self::Serving => 2,
        }
    }

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Body => "body",
            Self::Serving => "serving",
        }
    }
}

/// Why a message was not taken. Nothing of it was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendRefused {
    /// No such peer is configured.
    #[error("{0} is not a peer of this node")]
    Unknown(String),
    /// There is no session with it now.
    #[error("no session with {0}")]
    Down(String),
    /// It has as much unprocessed as it may have: the caller keeps the message, or drops it because it is pulled again.
    #[error("{peer} is behind: {waiting} bytes wait already")]
    Full {
        /// Who.
        peer: String,
        /// Bytes on the way or queued.
        waiting: u64,
    },
    /// No link takes a message of this size.
    #[error("a message of {bytes} bytes to {peer}: at most {limit}")]
    TooLarge {
        /// Who.
        peer: String,
        /// How large.
        bytes: usize,
        /// How large it may be.
        limit: u64,
    },
}
