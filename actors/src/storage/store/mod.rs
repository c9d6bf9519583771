//! The store: the queryable state in sled, never the only copy of anything.
//!
//! Block headers, the transaction index, checkpoints of the ledger state, the audit log. All of it but the audit log can
//! be rebuilt from the journal, so a database that sled cannot open, or that fails its checksums, is set aside and made
//! anew. Rules for sled 0.34: batches of at most 1,000 keys, values of 16 to 64 KiB for pages, no blobs, own syncs.

mod actor;
mod blocks;
mod checkpoint;
mod error;
mod layout;
mod open;
mod pending;
mod reader;
mod redo;
mod rewrite;
mod types;
mod watch;

#[cfg(test)]
mod rewrite_tests;
#[cfg(test)]
mod tests;

pub use actor::{StoreActor, StoreMsg};
pub use error::StoreError;
pub use open::{SUSPECT, Store, StoreOptions};
pub use reader::StoreReader;
pub use rewrite::RewriteOptions;
pub use types::{
    BlockRow, CheckpointDone, Measures, PartyRow, StoredBlock, StoredCheckpoint, StoredTransaction,
    TransactionLocation, TransactionRow,
};
