//! A snapshot on its way from peers: whom to ask for which chunk, and what came. Its bytes go to disk as they come.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use aurigraph_ledger::Foundation;

use super::files::{self, SnapshotError};
use super::install::{self, InstallError};
use super::manifest::{Chunk, Manifest};
use crate::bounds::snapshots as bounds;

/// A peer that has the snapshot.
#[derive(Debug)]
struct Holder {
    name: String,
    failures: u32,
    /// Chunks asked of it in the current second, and when that began: half of what it answers.
    asked: u32,
    since: Instant,
}

impl Holder {
    fn may_be_asked(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since).as_secs() >= 1 {
            (self.since, self.asked) = (now, 0);
        }
        self.asked < bounds::SERVED_PER_SECOND / 2
    }
}

/// What a peer gave for a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Got {
    /// The chunk; it is written.
    Written,
    /// Something else than the manifest names.
    Wrong,
    /// Nothing.
    Nothing,
}

/// Where a fetch is after a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    All,
}

/// Why a snapshot that was taken whole is none.
#[derive(Debug)]
pub(super) enum Unfinished {
    /// What was taken does not prove itself: those who gave it lied.
    False(String),
    /// This node cannot keep it.
    Here(String),
}

impl From<InstallError> for Unfinished {
    fn from(error: InstallError) -> Self {
        Self::Here(error.to_string())
    }
}

impl From<SnapshotError> for Unfinished {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Io { .. } => Self::Here(error.to_string()),
            error => Self::False(error.to_string()),
        }
    }
}

/// Where chunks go.
#[derive(Debug, Clone)]
pub(super) struct Place {
    file: Arc<File>,
    chunk: Chunk,
    offset: u64,
}

impl Place {
    /// Writes the bytes if they are the chunk. Blocking.
    pub fn put(&self, bytes: &[u8]) -> io::Result<Got> {
        if Chunk::of(bytes) != self.chunk {
            return Ok(Got::Wrong);
        }
        self.file.write_all_at(bytes, self.offset).map(|()| Got::Written)
    }
}

/// A snapshot on its way.
pub(super) struct Fetch {
    pub manifest: Manifest,
    holders: Vec<Holder>,
    /// The next chunk that was never asked for, and those to ask for again.
    next: usize,
    again: Vec<usize>,
    pending: BTreeMap<usize, (String, Instant)>,
    /// Chunks that are here, and their bytes.
    taken: usize,
    bytes: u64,
    offsets: Vec<u64>,
    folder: PathBuf,
    file: Arc<File>,
    /// When progress was told last, and the bytes then.
    told: (Instant, u64),
}

impl Fetch {
    /// Begins the folder of a snapshot that these peers have. Blocking.
    pub fn begin(data_dir: &Path, manifest: Manifest, holders: Vec<String>) -> Result<Self, SnapshotError> {
        let (folder, file) = files::begin(data_dir)?;
        let now = Instant::now();
        let mut offset = 0;
        let offsets = manifest.chunks.iter().map(|chunk| {
            let at = offset;
            offset += u64::from(chunk.len);
            at
        });
        Ok(Self {
            offsets: offsets.collect(),
            holders: holders.into_iter().map(|name| Holder { name, failures: 0, asked: 0, since: now }).collect(),
            manifest,
            next: 0,
            again: Vec::new(),
            pending: BTreeMap::new(),
            taken: 0,
            bytes: 0,
            folder,
            file: Arc::new(file),
            told: (now, 0),
        })
    }

    /// Peers that still give it.
    pub fn holders(&self) -> Vec<String> {
        self.holders.iter().map(|holder| holder.name.clone()).collect()
    }

    /// Where its bytes lie until it is whole.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Chunks that are to be asked for now, with whom to ask.
    pub fn due(&mut self, now: Instant) -> Vec<(String, usize)> {
        let mut due = Vec::new();
        for holder in &mut self.holders {
            let mut open = self.pending.values().filter(|(peer, _)| *peer == holder.name).count();
            while open < bounds::ASKED_AT_ONCE && holder.may_be_asked(now) {
                let number = match self.again.pop() {
                    Some(number) => number,
                    None if self.next < self.manifest.chunks.len() => {
                        self.next += 1;
                        self.next - 1
                    }
                    None => return due,
                };
                holder.asked += 1;
                self.pending.insert(number, (holder.name.clone(), now));
                due.push((holder.name.clone(), number));
                open += 1;
            }
        }
        due
    }

    /// Where a chunk goes, if this peer was asked for it.
    pub fn expects(&self, peer: &str, number: usize) -> Option<Place> {
        self.pending.get(&number).filter(|(asked, _)| asked == peer)?;
        let (chunk, offset) = (*self.manifest.chunks.get(number)?, *self.offsets.get(number)?);
        Some(Place { file: Arc::clone(&self.file), chunk, offset })
    }

    /// Notes what a peer gave for a chunk that it was asked for.
    pub fn settle(&mut self, peer: &str, number: usize, got: Got) -> Progress {
        if self.expects(peer, number).is_none() {
            return Progress::More;
        }
        self.pending.remove(&number);
        let failures = match got {
            Got::Written => {
                self.taken += 1;
                self.bytes += u64::from(self.manifest.chunks[number].len);
                metrics::counter!("snapshot_sync_bytes_total").increment(self.manifest.chunks[number].len.into());
                return if self.taken == self.manifest.chunks.len() { Progress::All } else { Progress::More };
            }
            Got::Nothing => 1,
            // Whoever lies once is believed no more.
            Got::Wrong => bounds::FAILURES,
        };
        self.again.push(number);
        self.failed(peer, failures);
        Progress::More
    }

    /// What has not come in time is asked of somebody else.
    pub fn expire(&mut self, now: Instant) {
        let late = |(_, since): &(String, Instant)| now.duration_since(*since) >= bounds::CHUNK_WITHIN;
        let expired: Vec<usize> =
            self.pending.iter().filter(|(_, asked)| late(asked)).map(|(number, _)| *number).collect();
        for number in expired {
            if let Some((peer, _)) = self.pending.remove(&number) {
                self.again.push(number);
                self.failed(&peer, 1);
            }
        }
    }

    fn failed(&mut self, peer: &str, times: u32) {
        if let Some(holder) = self.holders.iter_mut().find(|holder| holder.name == peer) {
            holder.failures += times;
        }
        self.holders.retain(|holder| holder.failures < bounds::FAILURES);
        if self.holders.iter().all(|holder| holder.name != peer) {
            let theirs = self.pending.iter().filter(|(_, (asked, _))| asked == peer).map(|(number, _)| *number);
            self.again.extend(theirs.collect::<Vec<_>>());
            self.pending.retain(|_, (asked, _)| asked != peer);
        }
    }

    /// Tells progress, now and then.
    #[allow(clippy::cast_precision_loss)]
    pub fn tell(&mut self, now: Instant) {
        metrics::gauge!("snapshot_sync_parts").set(self.manifest.chunks.len() as f64);
        metrics::gauge!("snapshot_sync_parts_taken").set(self.taken as f64);
        let (since, before) = self.told;
        let elapsed = now.duration_since(since);
        if elapsed >= bounds::PROGRESS_EVERY {
            let rate = (self.bytes - before) as f64 / elapsed.as_secs_f64();
            self.told = (now, self.bytes);
            tracing::info!(
                parts = self.taken,
                of_parts = self.manifest.chunks.len(),
                bytes = self.bytes,
                of_bytes = self.manifest.content_bytes(),
                bytes_per_second = rate.round(),
                peers = self.holders.len(),
                "takes a snapshot from peers"
            );
        }
    }

    /// The whole snapshot, proven and marked to be begun with. What is wrong is removed. Blocking.
    pub fn finish(self, data_dir: &Path, genesis: &Foundation) -> Result<u64, Unfinished> {
        self.file.sync_all().map_err(|error| Unfinished::Here(error.to_string()))?;
        let path = files::finish(data_dir, &self.folder, &self.manifest)?;
        if let Err(error) = files::verify(&path, genesis) {
            files::remove(&path)?;
            return Err(error.into());
        }
        install::request(data_dir, self.manifest.height)?;
        Ok(self.manifest.height)
    }
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
