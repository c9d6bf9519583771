//! What survives a restart: the journal (the truth, one log), and the store (the queryable state, rebuilt at will).
//!
//! Each is a plain library with one owning thread and a thin actor before it. Readers are cheap clones that outlive
//! restarts of the actors. Nothing here knows what a block decides or a transaction does.

pub mod journal;
pub mod record;
pub mod room;
pub mod snapshots;
pub mod store;

#[cfg(test)]
pub(crate) mod testing;

pub use journal::{
    Journal, JournalActor, JournalError, JournalIdentity, JournalInspection, JournalMsg, JournalOptions, JournalReader,
    Pruned, barrier, inspect,
};
pub use record::{Cursor, Record, RecordKind};
pub use store::{
    BlockRow, CheckpointDone, Measures, PartyRow, RewriteOptions, SUSPECT, Store, StoreActor, StoreError, StoreMsg,
    StoreOptions, StoreReader, StoredBlock, StoredCheckpoint, StoredTransaction, TransactionLocation, TransactionRow,
};
