//! Between the lanes and the actors: what arrives goes to the mailbox that its first byte names, what leaves goes to
//! the peer's lane. Decides nothing and keeps nothing.

use std::sync::Arc;

use aurigraph_runtime::cluster::{BulkPermit, Class, Inbound, PeerNet, PeerStatus};
use aurigraph_runtime::{Address, Registry};
use bytes::Bytes;

use crate::consensus::ValidatorMsg;
use crate::mempool::{BatchStoreMsg, Outbound};
use crate::seldom::Seldom;
use crate::storage::snapshots::SnapshotSyncMsg;
use crate::wire::{
    BULK_BATCH_PUSH, BULK_BATCH_REPLY, BULK_BATCH_REQUEST, BULK_CONSENSUS, BULK_SNAPSHOT, CONTROL_CONSENSUS,
};

/// The lanes to the other nodes; survives restarts of the cluster's actors.
#[derive(Clone)]
pub struct Links {
    net: PeerNet,
    peers: Arc<[String]>,
}

impl Links {
    /// Links to the named peers.
    #[must_use]
    pub fn new(net: PeerNet, peers: Vec<String>) -> Self {
        Self { net, peers: peers.into() }
    }

    /// Where the buffers of frames, and of what is copied out of them, come from.
    #[must_use]
    pub fn buffers(&self) -> aurigraph_runtime::Buffers {
        self.net.buffers()
    }

    /// Sends on the control lane. False if the message was refused: it is lost, and whoever needs it asks again.
    #[must_use]
    pub fn send_control(&self, peer: &str, message: Bytes) -> bool {
        self.net.send_control(peer, message).is_ok()
    }

    /// Sends on the bulk lane behind everything urgent: answers to peers that catch up.
    #[must_use]
    pub fn send_serving(&self, peer: &str, message: Bytes) -> bool {
        self.net.send_bulk(peer, message, Class::Serving).is_ok()
    }

    /// From now on these keys identify the peers, and no other; links under a key that is not listed any more end.
    pub fn follow_keys(&self, keys: &[(String, Bytes)]) {
        if let Err(error) = self.net.replace_keys(keys.iter().map(|(name, key)| (name.as_str(), key.as_ref()))) {
            tracing::error!(%error, "the network keys of this epoch cannot be used: those of the epoch before stay");
        }
    }

    /// Peers to which both lanes are up.
    #[must_use]
    pub fn connected(&self) -> Vec<String> {
        self.status().into_iter().filter(|peer| peer.up).map(|peer| peer.name).collect()
    }

    /// What is known of every peer.
    #[must_use]
    pub fn status(&self) -> Vec<PeerStatus> {
        self.net.peers()
    }
}

impl Outbound for Links {
    fn bulk(&self, peer: &str, message: Bytes) -> bool {
        self.net.send_bulk(peer, message, Class::Body).is_ok()
    }

    fn broadcast_bulk(&self, message: Bytes) -> usize {
        self.peers.iter().filter(|peer| self.bulk(peer, message.clone())).count()
    }
}

/// Takes what arrives to the mailboxes.
pub struct Router {
    validator: Address<ValidatorMsg>,
    batches: Address<BatchStoreMsg>,
    snapshots: Address<SnapshotSyncMsg>,
    strange: Seldom<String>,
}

impl Router {
    /// A router to the actors of a node.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let (validator, batches) = (registry.role("validator"), registry.role("batch-store"));
        Self { validator, batches, snapshots: registry.role("snapshot-sync"), strange: Seldom::default() }
    }

    fn to_validator(&self, peer: &str, bytes: Bytes) {
        // Who that is in the epoch is for the validator to know, when it comes to the message. A full or restarting validator loses it: blocks are pulled again by digest.
        let _ = self.validator.send(ValidatorMsg::Received { peer: peer.to_owned(), bytes });
    }

    fn unknown(&self, peer: &str, kind: Option<&u8>) {
        metrics::counter!("network_unknown_messages_total", "peer" => peer.to_owned()).increment(1);
        if let Some(times) = self.strange.due(peer.to_owned()) {
            tracing::warn!(peer, ?kind, times, "a peer sent a message of no known kind");
        }
    }
}

/// Bytes of a frame with its credit: the sender may send as much again once they are dropped.
struct Credited {
    bytes: Bytes,
    _permit: BulkPermit,
}

impl AsRef<[u8]> for Credited {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Inbound for Router {
    fn control(&self, peer: &str, mut bytes: Bytes) {
        match bytes.first() {
            Some(&CONTROL_CONSENSUS) => self.to_validator(peer, bytes.split_off(1)),
            kind => self.unknown(peer, kind),
        }
    }

    fn bulk(&self, peer: &str, bytes: Bytes, permit: BulkPermit) {
        let kind = bytes.first().copied();
        let mut bytes = Bytes::from_owner(Credited { bytes, _permit: permit });
        match kind {
            Some(BULK_CONSENSUS) => self.to_validator(peer, bytes.split_off(1)),
            Some(BULK_BATCH_PUSH | BULK_BATCH_REQUEST | BULK_BATCH_REPLY) => {
                // A refused body is fetched when a block names it.
                let _ = self.batches.send(BatchStoreMsg::Network { peer: peer.to_owned(), bytes });
            }
            Some(BULK_SNAPSHOT) => {
                // A refused request or chunk is asked for again.
                let bytes = bytes.split_off(1);
                let _ = self.snapshots.send(SnapshotSyncMsg::Network { peer: peer.to_owned(), bytes });
            }
            kind => self.unknown(peer, kind.as_ref()),
        }
    }

    fn up(&self, _peer: &str) {
        let _ = self.validator.send(ValidatorMsg::LinksChanged);
    }

    fn down(&self, _peer: &str) {
        let _ = self.validator.send(ValidatorMsg::LinksChanged);
    }
}
