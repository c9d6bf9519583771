//! Snapshots that peers are given: opened once, and kept open for a while, so that one which is removed meanwhile can be
//! taken to its end. Blocking.

use std::path::Path;
use std::time::Instant;

use aurigraph_ledger::Hash;

use super::files::{self, FolderReader};
use super::wire::{ManifestPart, SnapshotMessage};
use crate::bounds::snapshots as bounds;

/// The open snapshots, at most as many as are kept on disk.
#[derive(Default)]
pub(super) struct Shelf {
    open: Vec<Open>,
}

struct Open {
    height: u64,
    reader: FolderReader,
    /// Canonical bytes of its manifest, and their digest.
    manifest: Vec<u8>,
    digest: Hash,
    used: Instant,
}

impl Shelf {
    /// Closes what nobody has asked for in a while.
    pub fn tidy(&mut self, now: Instant) {
        self.open.retain(|open| now.duration_since(open.used) < bounds::SERVED_OPEN);
    }

    /// The answer to a request, from the snapshots on disk.
    pub fn answer(&mut self, data_dir: &Path, message: &SnapshotMessage, now: Instant) -> SnapshotMessage {
        match message {
            SnapshotMessage::AskChunk { height, number, digest } => {
                let place = *number as usize;
                let open = self.at(data_dir, *height, now);
                let named = |open: &&mut Open| {
                    open.reader.manifest.chunks.get(place).is_some_and(|chunk| chunk.digest == *digest)
                };
                let bytes = open.filter(named).and_then(|open| open.reader.chunk(place).ok().flatten());
                SnapshotMessage::Chunk { height: *height, number: *number, bytes }
            }
            SnapshotMessage::AskManifest { digest, part } => {
                let open = if *digest == Hash::ZERO {
                    let newest = files::list(data_dir).ok().and_then(|found| found.into_iter().next());
                    newest.and_then(|found| self.at(data_dir, found.height, now))
                } else {
                    self.open.iter_mut().find(|open| open.digest == *digest)
                };
                SnapshotMessage::Manifest(open.and_then(|open| {
                    open.used = now;
                    ManifestPart::of(open.digest, &open.manifest, *part)
                }))
            }
            // Answers are not answered.
            SnapshotMessage::Manifest(_) | SnapshotMessage::Chunk { .. } => SnapshotMessage::Manifest(None),
        }
    }

    fn at(&mut self, data_dir: &Path, height: u64, now: Instant) -> Option<&mut Open> {
        if !self.open.iter().any(|open| open.height == height) {
            let reader = FolderReader::open(&files::path_of(data_dir, height)).ok()?;
            if self.open.len() >= bounds::KEPT {
                let oldest = (0..self.open.len()).min_by_key(|at| self.open[*at].used)?;
                self.open.swap_remove(oldest);
            }
            let (manifest, digest) = (reader.manifest.encode(), reader.manifest.digest());
            self.open.push(Open { height, reader, manifest, digest, used: now });
        }
        let open = self.open.iter_mut().find(|open| open.height == height)?;
        open.used = now;
        Some(open)
    }
}
