//! Snapshots of the ledger's state: files that prove themselves, so that a state need not be executed again from genesis.
//!
//! A snapshot is a directory `snapshots/<height>` of two files. `chunks` holds the pages of a certified checkpoint in
//! pieces of bounded size; `manifest` names each piece by its digest, and holds the checkpoint with the signatures of a
//! quorum. The pages have the checkpoint's state root, so nothing else has to be believed. It comes into being under
//! another name, synced, and is renamed: a crash leaves a whole one or none.

mod actor;
mod files;
mod manifest;

#[cfg(test)]
mod tests;

pub use actor::{Snapshots, SnapshotsMsg};
pub use files::{FolderReader, Found, Snapshot, SnapshotError, check, list, load, verify, write};
pub use manifest::{Chunk, Manifest};
