//! Snapshots of the ledger's state: files that prove themselves, so that a state need not be executed again from genesis.
//!
//! A snapshot is a directory `snapshots/<height>` of two files. `chunks` holds, in pieces of bounded size, the pages of a
//! certified checkpoint and what ordering goes on from; `manifest` names each piece by its digest, and holds the checkpoint
//! with the signatures of a quorum. The pages have the checkpoint's state root, and the order's state has the digest in it,
//! so nothing else has to be believed. It comes into being under another name, synced, and is renamed: a crash leaves a
//! whole one or none.
//!
//! `actor` writes them, `sync` gives them to peers and takes them from peers, `install` has a start begin with one.

mod actor;
mod fetch;
mod files;
mod install;
mod manifest;
mod shelf;
mod sync;
mod wire;

#[cfg(test)]
mod sync_testing;
#[cfg(test)]
mod tests;

pub use actor::{Outcome, Snapshots, SnapshotsMsg};
pub use files::{
    FolderReader, Found, OrderPart, Snapshot, SnapshotError, adopt, check, is_wanted, list, load, unwant, verify, want,
    write,
};
pub(crate) use install::run as install_requested;
pub use install::{InstallError, request, requested};
pub use manifest::{Chunk, Manifest};
pub use sync::{Finished, SnapshotSync, SnapshotSyncMsg};
pub use wire::{ManifestPart, SnapshotMessage};
