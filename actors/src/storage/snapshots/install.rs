//! Beginning with a snapshot: a mark in the data directory names one, and the next start installs it before any actor runs.
//!
//! Once the snapshot has proved itself the mark says that it is being installed. Then its state goes into the store, what
//! ordering goes on from into a segment of its own of the journal, the mark of its commit last; the segments before that
//! go, so that the log begins there; then the mark goes. A start that finds the mark does what is left of it. So a crash at
//! any point ends in a node that has begun with the snapshot, or in one that has not touched anything.

use std::io;
use std::path::{Path, PathBuf};

use aurigraph_consensus::{EpochCert, Record as LogRecord, SIGN_NOTHING};
use aurigraph_ledger::{Checkpoint, Foundation};
use aurigraph_runtime::ActorError;
use bytes::Bytes;

use super::files::{self, Snapshot, SnapshotError};
use super::manifest::Manifest;
use crate::pipeline::Mark;
use crate::pruning::outlives;
use crate::storage::{Journal, JournalError, JournalReader, Record, RecordKind, Store, StoreError};

/// Names the snapshot to begin with.
const MARK: &str = "snapshot.install";
/// Behind the height in the mark: parts of it may be installed.
const BEGUN: &str = " begun";

/// Why a snapshot cannot be begun with.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It proved itself, was installed in part, and does not prove itself any more.
    #[error(
        "the snapshot of height {height} that this node was beginning with has been damaged since: {error}; move the \
         data directory away and start an empty one with --rejoin"
    )]
    Damaged {
        /// Its height.
        height: u64,
        /// What is wrong with it.
        error: Box<SnapshotError>,
    },
    /// What it holds does not decode.
    #[error(transparent)]
    Snapshot(Box<SnapshotError>),
    /// The store refuses its state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal refuses the order's state.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The mark cannot be read, written or removed.
    #[error("{}: {source}", path.display())]
    Mark {
        /// The mark.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The journal cannot be read.
    #[error("cannot read the journal: {0}")]
    Read(#[from] io::Error),
    /// What the journal holds cannot be made sense of.
    #[error("cannot read the journal: {0}")]
    Log(String),
}

impl From<SnapshotError> for InstallError {
    fn from(error: SnapshotError) -> Self {
        Self::Snapshot(Box::new(error))
    }
}

impl From<ActorError> for InstallError {
    fn from(error: ActorError) -> Self {
        Self::Log(error.to_string())
    }
}

fn at_mark(path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    |source| InstallError::Mark { path, source }
}

/// Has the next start begin with the snapshot of this height in the node's folder. Durable when it returns.
///
/// # Errors
/// [`InstallError::Mark`].
pub fn request(data_dir: &Path, height: u64) -> Result<(), InstallError> {
    write_mark(data_dir, &height.to_string())
}

fn write_mark(data_dir: &Path, text: &str) -> Result<(), InstallError> {
    let (path, new) = (data_dir.join(MARK), data_dir.join(format!("{MARK}.new")));
    let write = || -> io::Result<()> {
        std::fs::write(&new, text)?;
        std::fs::File::open(&new)?.sync_all()?;
        std::fs::rename(&new, &path)?;
        std::fs::File::open(data_dir)?.sync_all()
    };
    write().map_err(at_mark(&path))
}

/// What the mark says: the height, and whether installing it has begun.
fn read_mark(data_dir: &Path) -> Result<Option<(u64, bool)>, InstallError> {
    let path = data_dir.join(MARK);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let height = text.strip_suffix(BEGUN);
            let wrong = |error| at_mark(&path)(io::Error::new(io::ErrorKind::InvalidData, error));
            Ok(Some((height.unwrap_or(&text).trim().parse().map_err(wrong)?, height.is_some())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at_mark(&path)(error)),
    }
}

/// The height of the snapshot that the next start begins with.
///
/// # Errors
/// [`InstallError::Mark`].
pub fn requested(data_dir: &Path) -> Result<Option<u64>, InstallError> {
    Ok(read_mark(data_dir)?.map(|(height, _)| height))
}

fn done(data_dir: &Path) -> Result<(), InstallError> {
    let path = data_dir.join(MARK);
    std::fs::remove_file(&path).and_then(|()| std::fs::File::open(data_dir)?.sync_all()).map_err(at_mark(&path))
}

/// Installs the snapshot that the mark names, if there is a mark. One that does not prove itself is told and not used: the
/// node goes on with what it has.
///
/// # Errors
/// What the store, the journal or the system refuses; [`InstallError::Damaged`].
pub(crate) fn run(data_dir: &Path, genesis: &Foundation, journal: &Journal, store: &Store) -> Result<(), InstallError> {
    run_in_steps(data_dir, genesis, journal, store, &mut |_| Ok(()))
}

/// [`run`] with a word after each step that a crash could follow; a word that fails is such a crash.
pub(super) fn run_in_steps(
    data_dir: &Path,
    genesis: &Foundation,
    journal: &Journal,
    store: &Store,
    step: &mut dyn FnMut(&'static str) -> Result<(), InstallError>,
) -> Result<(), InstallError> {
    let Some((height, begun)) = read_mark(data_dir)? else { return Ok(()) };
    match files::verify(&files::path_of(data_dir, height), genesis) {
        Ok(snapshot) if leads_nowhere(&journal.reader(), snapshot.manifest.commit_index) => {
            let oldest = journal.reader().oldest_commit();
            tracing::error!(
                alert = "snapshot_refused",
                height,
                oldest,
                "the log begins after the snapshot to begin with"
            );
        }
        Ok(snapshot) => {
            let commit = snapshot.manifest.commit_index;
            write_mark(data_dir, &format!("{height}{BEGUN}"))?;
            step("begun")?;
            install(snapshot, journal, store, step)?;
            tracing::info!(height, commit, "the node begins with a snapshot");
        }
        Err(error) if begun => return Err(InstallError::Damaged { height, error: Box::new(error) }),
        Err(error) => {
            tracing::error!(alert = "snapshot_refused", %error, height, "the snapshot to begin with cannot be used");
        }
    }
    done(data_dir)
}

/// The state into the store, then what ordering goes on from into the journal, then what was before it goes.
fn install(
    mut snapshot: Snapshot,
    journal: &Journal,
    store: &Store,
    step: &mut dyn FnMut(&'static str) -> Result<(), InstallError>,
) -> Result<(), InstallError> {
    let (commit, height) = (snapshot.manifest.commit_index, snapshot.manifest.height);
    let (anchor, reader) = (snapshot.order.last_commit.index, journal.reader());
    let there = store.reader().latest_checkpoint()?;
    if there.is_none_or(|there| there.height < height) {
        store.install(&snapshot.ledger.snapshot(), commit)?;
    }
    step("store")?;
    if !reaches(&reader, commit)? {
        let records = records(snapshot, journal.has_validator_key())?;
        // As a crash may leave it, without the last record.
        #[cfg(test)]
        if step("torn").is_err() {
            journal.append_apart(&records[..records.len() - 1])?;
            return Err(InstallError::Log("torn".to_owned()));
        }
        journal.append_apart(&records)?;
        step("journal")?;
    }
    if let Some(begins) = begins_with(&reader, anchor)? {
        journal.prune(begins, &outlives(&reader)?)?;
        step("pruned")?;
    }
    Ok(())
}

/// Whether the log leads beyond this commit. The mark is the last of the records below.
fn reaches(log: &JournalReader, commit: u64) -> Result<bool, InstallError> {
    let executed = log.highest_mark().is_some_and(|marked| marked >= commit);
    Ok(executed || log.highest_commit().is_some_and(|newest| newest >= commit) && log.commit(commit)?.is_some())
}

/// Whether the log is beyond this commit, and begins only after it.
fn leads_nowhere(log: &JournalReader, commit: u64) -> bool {
    log.highest_mark().is_some_and(|marked| marked > commit) && log.oldest_commit() > commit + 1
}

/// The segment of the records below, if the log is to begin there. Their consensus snapshot is replayed from its own place;
/// those that a validator writes are from an earlier one's.
fn begins_with(log: &JournalReader, anchor: u64) -> Result<Option<u32>, InstallError> {
    let key = Record::index_key(anchor);
    let Some(body) = log.get(RecordKind::ConsensusSnapshot, &key)? else { return Ok(None) };
    let installed = body.first_chunk::<8>().is_some_and(|from| u64::from_le_bytes(*from) == anchor);
    let place = log.position(RecordKind::ConsensusSnapshot, &key).filter(|_| installed);
    Ok(place.map(|place| place.segment))
}

/// The order's state as a log that begins there: what a restart reads.
fn records(snapshot: Snapshot, signs: bool) -> Result<Vec<Record>, InstallError> {
    let Snapshot { manifest, ledger, order, blocks, .. } = snapshot;
    // What this key has signed so far is not in the log (consensus.md 9.4).
    let floor = if signs { SIGN_NOTHING } else { 0 };
    let mut records = ends_of_epochs(&manifest)?;
    if let Some(set) = manifest.next_set().map_err(undecodable("a validator set"))? {
        let start = LogRecord::EpochStart(files::start_of(&order, floor, &set).into());
        records.push(Record::indexed(RecordKind::EpochStart, order.epoch, Bytes::from(start.encode())));
    }
    let anchor = order.last_commit.index;
    let state = order.into_snapshot(floor);
    // A replay begins at the record itself, the named blocks behind it.
    let mut body = anchor.to_le_bytes().to_vec();
    body.extend_from_slice(&state.encode());
    records.push(Record::indexed(RecordKind::ConsensusSnapshot, anchor, Bytes::from(body)));
    for (block, bytes) in state.committed.iter().zip(blocks) {
        let body = LogRecord::CertifiedBlock(bytes).encode();
        records.push(Record::new(RecordKind::Block, block.digest, Bytes::from(body)));
    }
    // Certified, so they are those that execution will come to; proofs are made of them.
    for bytes in &manifest.proof.checkpoints {
        let certified = Checkpoint::decode(bytes).map_err(undecodable("a checkpoint"))?;
        records.push(Record::indexed(RecordKind::Checkpoint, certified.seq, Bytes::copy_from_slice(bytes)));
    }
    let checkpoint = ledger.checkpoint();
    let mark = Mark {
        commit_index: manifest.commit_index,
        block: Some((manifest.height, checkpoint.ledger_header_digest)),
        checkpoint: Some((checkpoint.seq, checkpoint.digest())),
        invalid: Vec::new(),
    };
    records.push(Record::indexed(RecordKind::Mark, mark.commit_index, Bytes::from(mark.encode())));
    Ok(records)
}

/// What leads from the genesis' validators to those of the snapshot's epoch.
fn ends_of_epochs(manifest: &Manifest) -> Result<Vec<Record>, InstallError> {
    let mut records = Vec::new();
    for (hop, epoch) in manifest.hops.iter().zip(0_u64..) {
        let cert = EpochCert::decode(&hop.certificate).map_err(undecodable("a certificate"))?;
        let seq = cert.checkpoint.seq;
        let body = LogRecord::EpochCert(cert.into()).encode();
        records.push(Record::indexed(RecordKind::ValidatorSet, epoch + 1, Bytes::copy_from_slice(&hop.validators)));
        records.push(Record::indexed(RecordKind::Checkpoint, seq, Bytes::copy_from_slice(&hop.checkpoint)));
        records.push(Record::indexed(RecordKind::EpochCert, epoch, Bytes::from(body)));
    }
    Ok(records)
}

fn undecodable(what: &str) -> impl FnOnce(aurigraph_ledger::CodecError) -> SnapshotError {
    let path = PathBuf::from(what);
    move |error| SnapshotError::Decode { path, error }
}
