//! From raw bytes to stored batches: admission, the batchers and the batch store.
//!
//! Knows transactions and batches; knows nothing of blocks, rounds or execution, which it meets through
//! [`ValidatorPort`], [`ChainView`] and [`Outbound`].

mod admission;
mod batch;
mod batcher;
mod chain_view;
mod messages;
mod pool;
mod ports;
mod prepared;
mod refusal;
mod store;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod wire;

pub use admission::{Admission, AdmissionParts, AdmissionState, Behind};
pub use batch::{Batch, BatchHead};
pub use batcher::{Batcher, BatcherParts, BatcherState};
pub use chain_view::{AccountFacts, ChainView, Latest};
pub use messages::{
    Accepted, AdmissionMsg, BatchError, BatchStoreMsg, BatcherMsg, PendingState, PendingStatus, RETRY_AFTER, Source,
};
pub use ports::{Outbound, ValidatorPort};
pub use prepared::PreparedBatch;
pub use refusal::Refusal;
pub use store::{BatchStore, BatchStoreParts, StoreState};
