//! What the mempool needs of its neighbours, as small traits: the validator's mailbox and the bulk lanes.

use aurigraph_consensus::BatchRef;
use aurigraph_ledger::Hash;
use bytes::Bytes;

/// Where the batch store reports to: the validator. False means that it did not take the message (it is not running, or
/// full). Sealed batches are then said again; whoever needs a stored one asks for it.
pub trait ValidatorPort: Send + Sync + 'static {
    /// An own batch is in the journal and may be proposed.
    fn batch_sealed(&self, batch: BatchRef) -> bool;
    /// A body is in the journal, and its digest fits.
    fn batch_stored(&self, digest: Hash, len: u32) -> bool;
    /// None of the candidates gave this batch.
    fn batch_fetch_failed(&self, digest: Hash) -> bool;
}

/// The bulk lanes to the other nodes. Never waits; a refused message is lost, and whoever needs it asks again.
pub trait Outbound: Send + Sync + 'static {
    /// Sends to one node. False if its link is down or over its credit.
    fn bulk(&self, peer: &str, message: Bytes) -> bool;
    /// Sends to every connected node; returns how many took it.
    fn broadcast_bulk(&self, message: Bytes) -> usize;
}
