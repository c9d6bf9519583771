//! Snapshots on disk: writing one so that a crash leaves it whole or not at all, finding them, proving one. Blocking.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aurigraph_consensus::{Certificate, LightError, TrustedSet};
use aurigraph_gpu::{AwsLc, BatchVerifier as _, CpuHasher, VerifyItem};
use aurigraph_ledger::{
    Checkpoint, CodecError, Foundation, Hash, ImportError, Ledger, PageKey, Reader, SignatureVerifier, StateView,
    StoredPage, Writer,
};

use super::manifest::{Chunk, Manifest};
use crate::bounds::snapshots as bounds;

const MANIFEST: &str = "manifest";
const CHUNKS: &str = "chunks";
/// What is being written, and what a crash has left of it.
const UNFINISHED: &str = ".unfinished-";
/// Snapshots begun in this process.
static WRITTEN: AtomicU64 = AtomicU64::new(0);
/// Longest page value: the store's bound and its own length.
const MAX_VALUE: usize = 64 << 10;

/// Why a snapshot cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The manifest or a chunk does not decode.
    #[error("{}: {error}", path.display())]
    Decode {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: CodecError,
    },
    /// A chunk is not the one that the manifest names.
    #[error("chunk {number} of {} has digest {found}, the manifest names {expected}", path.display())]
    Chunk {
        /// The snapshot.
        path: PathBuf,
        /// Which.
        number: usize,
        /// In the manifest.
        expected: Hash,
        /// Of the bytes.
        found: Hash,
    },
    /// No quorum of the trusted validators has signed for the checkpoint.
    #[error("the checkpoint of {} is not certified: {error}", path.display())]
    Certificate {
        /// The snapshot.
        path: PathBuf,
        /// What does not hold.
        error: LightError,
    },
    /// The pages are not the checkpoint's state.
    #[error("{}: {error}", path.display())]
    State {
        /// The snapshot.
        path: PathBuf,
        /// Why.
        error: ImportError,
    },
    /// The manifest says something else than its own checkpoint.
    #[error("the manifest of {} gives {what} otherwise than its checkpoint", path.display())]
    Mismatch {
        /// The snapshot.
        path: PathBuf,
        /// What.
        what: &'static str,
    },
    /// The view to write is not of a checkpoint.
    #[error("only the state at a checkpoint makes a snapshot")]
    NotACheckpoint,
    /// There is none of that height.
    #[error("there is no snapshot {}", path.display())]
    None {
        /// Where it would be.
        path: PathBuf,
    },
}

fn io(path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_owned();
    |source| SnapshotError::Io { path, source }
}

/// A snapshot that stands in a folder; nothing of it but its name was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The height that its name says.
    pub height: u64,
    /// Its directory.
    pub path: PathBuf,
}

/// The folder of a node's snapshots.
fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("snapshots")
}

/// The snapshots of a node's data directory, the newest first. Readable while the node runs.
///
/// # Errors
/// If the folder cannot be read; one that does not exist holds none.
pub fn list(data_dir: &Path) -> Result<Vec<Found>, SnapshotError> {
    let folder = folder(data_dir);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(&folder)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io(&folder))?;
        if let Some(height) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.push(Found { height, path: entry.path() });
        }
    }
    found.sort_by_key(|found| std::cmp::Reverse(found.height));
    Ok(found)
}

/// Writes a snapshot of a checkpoint's state and its certificate; `followers` are the checkpoints after it, up to the
/// newest attested. One that is there already stays. Returns its directory and manifest.
///
/// # Errors
/// [`SnapshotError::Io`], or [`SnapshotError::NotACheckpoint`].
pub fn write(
    data_dir: &Path,
    view: &StateView,
    certificate: &Certificate,
    followers: &[Checkpoint],
) -> Result<(Found, Manifest), SnapshotError> {
    let pages = view.export_pages(None).map_err(|_| SnapshotError::NotACheckpoint)?;
    let (folder, height) = (folder(data_dir), view.height());
    let target = folder.join(height.to_string());
    // Its own name: the thread of a dead incarnation may still be writing the same.
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let unfinished = folder.join(format!("{UNFINISHED}{height}-{number}"));
    std::fs::create_dir_all(&folder).map_err(io(&folder))?;
    remove(&unfinished)?;
    std::fs::create_dir(&unfinished).map_err(io(&unfinished))?;
    let path = unfinished.join(CHUNKS);
    let mut file = create(&path)?;
    let mut chunks = Vec::new();
    let mut w = Writer::new();
    for page in pages {
        if !w.as_slice().is_empty() && w.as_slice().len() + page.bytes.len() + 16 > bounds::CHUNK {
            let bytes = std::mem::replace(&mut w, Writer::new()).into_bytes();
            file.write_all(&bytes).map_err(io(&path))?;
            chunks.push(Chunk::of(&bytes));
        }
        w.raw(&page.key.to_bytes()).bytes(&page.bytes);
    }
    let bytes = w.into_bytes();
    file.write_all(&bytes).map_err(io(&path))?;
    chunks.push(Chunk::of(&bytes));
    file.sync_all().map_err(io(&path))?;
    let manifest = Manifest::new(view.header(), view.checkpoint(), certificate, followers, chunks);
    let path = unfinished.join(MANIFEST);
    let mut file = create(&path)?;
    file.write_all(&manifest.encode()).map_err(io(&path))?;
    file.sync_all().map_err(io(&path))?;
    sync(&unfinished)?;
    match std::fs::rename(&unfinished, &target) {
        Ok(()) => {}
        Err(_) if target.join(MANIFEST).is_file() => remove(&unfinished)?,
        Err(error) => return Err(io(&target)(error)),
    }
    sync(&folder)?;
    Ok((Found { height, path: target }, manifest))
}

/// Removes what crashes have left, and all snapshots but the newest `keep`.
///
/// # Errors
/// [`SnapshotError::Io`].
pub(super) fn clean(data_dir: &Path, keep: usize) -> Result<Vec<Found>, SnapshotError> {
    let folder = folder(data_dir);
    if folder.is_dir() {
        for entry in std::fs::read_dir(&folder).map_err(io(&folder))? {
            let entry = entry.map_err(io(&folder))?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                remove(&entry.path())?;
            }
        }
    }
    let mut found = list(data_dir)?;
    for old in found.split_off(keep.min(found.len())) {
        // Its name goes first: a removal that is cut leaves no half of a snapshot.
        let gone = folder.join(format!("{UNFINISHED}{}", old.height));
        std::fs::rename(&old.path, &gone).map_err(io(&old.path))?;
        remove(&gone)?;
    }
    Ok(found)
}

fn remove(path: &Path) -> Result<(), SnapshotError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io(path)(error)),
        _ => Ok(()),
    }
}

fn create(path: &Path) -> Result<File, SnapshotError> {
    OpenOptions::new().write(true).create_new(true).open(path).map_err(io(path))
}

fn sync(folder: &Path) -> Result<(), SnapshotError> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(io(folder))
}

/// A snapshot's directory, opened for reading: its chunks by number.
#[derive(Debug)]
pub struct FolderReader {
    path: PathBuf,
    /// Its table of contents.
    pub manifest: Manifest,
    chunks: File,
    offsets: Vec<u64>,
}

impl FolderReader {
    /// Opens a snapshot.
    ///
    /// # Errors
    /// [`SnapshotError::Io`] and [`SnapshotError::Decode`].
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let file = path.join(MANIFEST);
        let mut bytes = Vec::new();
        let opened = File::open(&file).map_err(io(&file))?;
        opened.take(bounds::MANIFEST).read_to_end(&mut bytes).map_err(io(&file))?;
        let manifest = Manifest::decode(&bytes).map_err(|error| SnapshotError::Decode { path: file, error })?;
        let content = path.join(CHUNKS);
        let chunks = File::open(&content).map_err(io(&content))?;
        let mut offsets = Vec::with_capacity(manifest.chunks.len());
        let mut offset = 0;
        for chunk in &manifest.chunks {
            offsets.push(offset);
            offset += u64::from(chunk.len);
        }
        Ok(Self { path: path.to_owned(), manifest, chunks, offsets })
    }

    /// A chunk whose digest is the manifest's; none beyond the last.
    ///
    /// # Errors
    /// [`SnapshotError::Io`] and [`SnapshotError::Chunk`].
    pub fn chunk(&self, number: usize) -> Result<Option<Vec<u8>>, SnapshotError> {
        let (Some(chunk), Some(offset)) = (self.manifest.chunks.get(number), self.offsets.get(number)) else {
            return Ok(None);
        };
        let mut bytes = vec![0; chunk.len as usize];
        self.chunks.read_exact_at(&mut bytes, *offset).map_err(io(&self.path.join(CHUNKS)))?;
        let (expected, found) = (chunk.digest, Chunk::of(&bytes).digest);
        if expected != found {
            return Err(SnapshotError::Chunk { path: self.path.clone(), number, expected, found });
        }
        Ok(Some(bytes))
    }

    /// The ledger that the chunks make.
    fn ledger(&self, genesis: &Foundation) -> Result<Ledger, SnapshotError> {
        let path = &self.path;
        let mut pages = Vec::new();
        for number in 0..self.manifest.chunks.len() {
            let bytes = self.chunk(number)?.unwrap_or_default();
            read_pages(&bytes, &mut pages).map_err(|error| SnapshotError::Decode { path: path.join(CHUNKS), error })?;
        }
        Ledger::import(genesis, Arc::new(CpuHasher), pages)
            .map_err(|error| SnapshotError::State { path: path.clone(), error })
    }
}

/// A snapshot that has proved itself.
pub struct Snapshot {
    /// Its table of contents.
    pub manifest: Manifest,
    /// Stake that has signed for its checkpoint, and all stake.
    pub stake: (u64, u64),
    /// The ledger that it holds.
    pub ledger: Ledger,
}

/// Whether a snapshot is whole: every chunk has its digest. Neither signatures nor the state are looked at.
///
/// # Errors
/// [`SnapshotError`] naming the first part that is missing or damaged.
pub fn check(path: &Path) -> Result<Manifest, SnapshotError> {
    let reader = FolderReader::open(path)?;
    for number in 0..reader.manifest.chunks.len() {
        reader.chunk(number)?;
    }
    Ok(reader.manifest)
}

/// The state of a snapshot that this node wrote itself: the pages must make the state of the checkpoint that the manifest
/// names. Who signed for it is not looked at; the caller knows from its own log that it came to this block.
///
/// # Errors
/// [`SnapshotError`] naming the first part that does not hold.
pub fn load(path: &Path, genesis: &Foundation) -> Result<(Manifest, Ledger), SnapshotError> {
    let reader = FolderReader::open(path)?;
    let ledger = reader.ledger(genesis)?;
    let named = reader.manifest.proof.checkpoints.first().map(|bytes| Checkpoint::decode(bytes));
    let named = named.and_then(Result::ok).map(|checkpoint| checkpoint.digest());
    if named != Some(ledger.checkpoint().digest()) {
        return Err(SnapshotError::Mismatch { path: path.to_owned(), what: "the checkpoint" });
    }
    Ok((reader.manifest, ledger))
}

/// Proves a snapshot: every chunk has its digest, a quorum of the genesis' validators has signed for the checkpoint, and
/// the pages are that checkpoint's state.
///
/// # Errors
/// [`SnapshotError`] naming the first part that does not hold.
pub fn verify(path: &Path, genesis: &Foundation) -> Result<Snapshot, SnapshotError> {
    if !path.is_dir() {
        return Err(SnapshotError::None { path: path.to_owned() });
    }
    let reader = FolderReader::open(path)?;
    let wrong = |error| SnapshotError::Certificate { path: path.to_owned(), error };
    let trusted = TrustedSet::of_genesis(genesis)
        .map_err(|_| SnapshotError::Mismatch { path: path.to_owned(), what: "the validators" })?;
    // The signatures first: nothing of the content is worth reading without them.
    let finality = reader.manifest.proof.verify(&trusted, &Signatures).map_err(wrong)?;
    let ledger = reader.ledger(genesis)?;
    let manifest = &reader.manifest;
    let differs = [
        ("the checkpoint", ledger.checkpoint().digest() != finality.checkpoint.digest()),
        ("the height", manifest.height != finality.checkpoint.ledger_height),
        ("the commit", manifest.commit_index != finality.checkpoint.commit_index),
        ("the chain", manifest.chain_id != finality.checkpoint.chain_id),
    ];
    if let Some((what, _)) = differs.into_iter().find(|(_, differs)| *differs) {
        return Err(SnapshotError::Mismatch { path: path.to_owned(), what });
    }
    Ok(Snapshot { manifest: reader.manifest, stake: (finality.stake, finality.total), ledger })
}

fn read_pages(bytes: &[u8], pages: &mut Vec<StoredPage>) -> Result<(), CodecError> {
    let mut r = Reader::new(bytes);
    while r.left() > 0 {
        let key = PageKey::from_bytes(r.array()?);
        pages.push(StoredPage { key, bytes: r.bytes("bytes of a page", MAX_VALUE)?.to_vec() });
    }
    Ok(())
}

/// Checks the signatures of a certificate: a quorum's, on the thread that asks.
struct Signatures;

impl SignatureVerifier for Signatures {
    fn verify(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        AwsLc.verify(&VerifyItem::new(public_key, message, signature))
    }
}
