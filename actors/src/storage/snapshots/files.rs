//! Snapshots on disk: writing one so that a crash leaves it whole or not at all, finding them, proving one. Blocking.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aurigraph_consensus::anchor::digest_of;
use aurigraph_consensus::config::MAX_BLOCK_BYTES;
use aurigraph_consensus::{
    Certificate, Config, EpochHop, EpochStart, LightError, OrderState, OrderStateError, TrustedSet,
};
use aurigraph_gpu::{AwsLc, BatchVerifier as _, CpuHasher, VerifyItem};
use aurigraph_ledger::{
    Checkpoint, CodecError, Foundation, Hash, ImportError, Ledger, PageKey, Reader, SignatureVerifier, StateView,
    StoredPage, ValidatorSet, Writer,
};

use super::manifest::{Chunk, Manifest};
use crate::bounds::snapshots as bounds;

const MANIFEST: &str = "manifest";
const CHUNKS: &str = "chunks";
/// What is being written, and what a crash has left of it.
const UNFINISHED: &str = ".unfinished-";
/// What comes from peers.
const INCOMING: &str = ".incoming-";
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
    /// Ordering cannot go on from it.
    #[error("{}: {error}", path.display())]
    Order {
        /// The snapshot.
        path: PathBuf,
        /// Why.
        error: OrderStateError,
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

/// A file by which a tool on the same host has a running node write a snapshot: removed once it is written.
fn wanted(data_dir: &Path) -> PathBuf {
    folder(data_dir).join("wanted")
}

/// Has the node that runs with this data directory write a snapshot of its newest certified state. [`is_wanted`] tells
/// when it has.
///
/// # Errors
/// [`SnapshotError::Io`].
pub fn want(data_dir: &Path) -> Result<(), SnapshotError> {
    let folder = folder(data_dir);
    std::fs::create_dir_all(&folder).map_err(io(&folder))?;
    let path = wanted(data_dir);
    std::fs::write(&path, b"").map_err(io(&path))
}

/// Whether the snapshot that was asked for is still to be written.
#[must_use]
pub fn is_wanted(data_dir: &Path) -> bool {
    wanted(data_dir).exists()
}

/// Takes the wish back.
///
/// # Errors
/// [`SnapshotError::Io`].
pub fn unwant(data_dir: &Path) -> Result<(), SnapshotError> {
    let path = wanted(data_dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io(&path)(error)),
        _ => Ok(()),
    }
}

/// Where a node's snapshot of this height stands.
pub(super) fn path_of(data_dir: &Path, height: u64) -> PathBuf {
    folder(data_dir).join(height.to_string())
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
    order: &OrderPart,
) -> Result<(Found, Manifest), SnapshotError> {
    let not = |_| SnapshotError::NotACheckpoint;
    let groups = view.changed_groups(None).map_err(not)?;
    let (folder, height) = (folder(data_dir), view.height());
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
    for group in groups {
        for page in view.export_group(group).map_err(not)? {
            if !w.as_slice().is_empty() && w.as_slice().len() + page.bytes.len() + 16 > bounds::CHUNK {
                let bytes = std::mem::replace(&mut w, Writer::new()).into_bytes();
                file.write_all(&bytes).map_err(io(&path))?;
                chunks.push(Chunk::of(&bytes));
            }
            w.raw(&page.key.to_bytes()).bytes(&page.bytes);
        }
    }
    let bytes = w.into_bytes();
    file.write_all(&bytes).map_err(io(&path))?;
    chunks.push(Chunk::of(&bytes));
    let pages = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
    for bytes in order.encode().chunks(bounds::CHUNK) {
        file.write_all(bytes).map_err(io(&path))?;
        chunks.push(Chunk::of(bytes));
    }
    file.sync_all().map_err(io(&path))?;
    let (header, checkpoint) = (view.header(), view.checkpoint());
    let manifest = Manifest::new(header, checkpoint, certificate, followers, order.hops.clone(), (pages, chunks));
    let path = finish(data_dir, &unfinished, &manifest)?;
    Ok((Found { height, path }, manifest))
}

/// The last step of a snapshot whose chunks stand in a folder of another name: its manifest, and its name. One that is
/// there already stays.
pub(super) fn finish(data_dir: &Path, unfinished: &Path, manifest: &Manifest) -> Result<PathBuf, SnapshotError> {
    let folder = folder(data_dir);
    let target = folder.join(manifest.height.to_string());
    let path = unfinished.join(MANIFEST);
    let mut file = create(&path)?;
    file.write_all(&manifest.encode()).map_err(io(&path))?;
    file.sync_all().map_err(io(&path))?;
    sync(unfinished)?;
    match std::fs::rename(unfinished, &target) {
        Ok(()) => {}
        Err(_) if target.join(MANIFEST).is_file() => remove(unfinished)?,
        Err(error) => return Err(io(&target)(error)),
    }
    sync(&folder)?;
    Ok(target)
}

/// Begins the folder of a snapshot whose chunks come from elsewhere. Gives the folder and the file for the chunks.
pub(super) fn begin(data_dir: &Path) -> Result<(PathBuf, File), SnapshotError> {
    let folder = folder(data_dir);
    std::fs::create_dir_all(&folder).map_err(io(&folder))?;
    // Its own name: the thread of a dead incarnation may still be at another.
    let incoming = folder.join(format!("{INCOMING}{}", WRITTEN.fetch_add(1, Ordering::Relaxed)));
    remove(&incoming)?;
    std::fs::create_dir(&incoming).map_err(io(&incoming))?;
    let file = create(&incoming.join(CHUNKS))?;
    Ok((incoming, file))
}

/// Removes whatever [`begin`] has begun.
pub(super) fn abandon(data_dir: &Path) -> Result<(), SnapshotError> {
    remove_named(&folder(data_dir), INCOMING)
}

fn remove_named(folder: &Path, prefix: &str) -> Result<(), SnapshotError> {
    if folder.is_dir() {
        for entry in std::fs::read_dir(folder).map_err(io(folder))? {
            let entry = entry.map_err(io(folder))?;
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                remove(&entry.path())?;
            }
        }
    }
    Ok(())
}

/// Copies a snapshot that was proven into a node's folder, unless it is there.
///
/// # Errors
/// [`SnapshotError::Io`].
pub fn adopt(data_dir: &Path, path: &Path, manifest: &Manifest) -> Result<(), SnapshotError> {
    if folder(data_dir).join(manifest.height.to_string()).join(MANIFEST).is_file() {
        return Ok(());
    }
    let (incoming, mut file) = begin(data_dir)?;
    let content = path.join(CHUNKS);
    let mut from = File::open(&content).map_err(io(&content))?;
    io::copy(&mut from, &mut file).map_err(io(&content))?;
    file.sync_all().map_err(io(&incoming))?;
    finish(data_dir, &incoming, manifest).map(drop)
}

/// The part of a snapshot from which ordering goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderPart {
    /// Canonical bytes of the [`OrderState`] at the newest anchor that the checkpoint names.
    pub state: Arc<[u8]>,
    /// Canonical bytes of the blocks that it names, in their order.
    pub blocks: Vec<Arc<[u8]>>,
    /// From the genesis' validators to those of its epoch. They stand in the manifest.
    pub hops: Vec<EpochHop>,
}

/// Canonical bytes of blocks.
type Blocks = Vec<Arc<[u8]>>;

impl OrderPart {
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(&self.state).varint(self.blocks.len() as u64);
        self.blocks.iter().for_each(|block| {
            w.bytes(block);
        });
        w.into_bytes()
    }

    /// The state and its blocks.
    fn decode(bytes: &[u8]) -> Result<(Vec<u8>, Blocks), CodecError> {
        let mut r = Reader::new(bytes);
        let state = r.bytes("the order's state", bounds::ORDER)?.to_vec();
        let count = r.varint_max("blocks of a snapshot", bounds::BLOCKS)?;
        let blocks =
            (0..count).map(|_| Ok(r.bytes("block bytes", MAX_BLOCK_BYTES)?.into())).collect::<Result<_, _>>()?;
        r.finish()?;
        Ok((state, blocks))
    }
}

/// Removes what crashes have left, and all snapshots but the newest `keep`.
///
/// # Errors
/// [`SnapshotError::Io`].
pub(super) fn clean(data_dir: &Path, keep: usize) -> Result<Vec<Found>, SnapshotError> {
    let folder = folder(data_dir);
    remove_named(&folder, UNFINISHED)?;
    let mut found = list(data_dir)?;
    for old in found.split_off(keep.min(found.len())) {
        // Its name goes first: a removal that is cut leaves no half of a snapshot.
        let gone = folder.join(format!("{UNFINISHED}{}", old.height));
        std::fs::rename(&old.path, &gone).map_err(io(&old.path))?;
        remove(&gone)?;
    }
    Ok(found)
}

pub(super) fn remove(path: &Path) -> Result<(), SnapshotError> {
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
        for number in 0..self.manifest.pages as usize {
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
    /// The order's state at the newest anchor before it.
    pub order: OrderState,
    /// The blocks that it names.
    pub blocks: Vec<Arc<[u8]>>,
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
    let finality = reader.manifest.prove(&trusted, &Signatures).map_err(wrong)?;
    let (order, blocks) = order(&reader, genesis, &finality.checkpoint)?;
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
    let stake = (finality.stake, finality.total);
    Ok(Snapshot { manifest: reader.manifest, stake, ledger, order, blocks })
}

/// The order's state of a certified checkpoint, with its blocks.
fn order(
    reader: &FolderReader,
    genesis: &Foundation,
    checkpoint: &Checkpoint,
) -> Result<(OrderState, Blocks), SnapshotError> {
    let path = &reader.path;
    let undecodable = |error| SnapshotError::Decode { path: path.join(CHUNKS), error };
    // Nothing vouches for its length before all of it was read.
    let len = reader.manifest.order_bytes();
    if len > bounds::ORDER_PART {
        return Err(undecodable(CodecError::Invalid { what: "bytes of the order's part", value: len }));
    }
    let mut bytes = Vec::new();
    for number in reader.manifest.pages as usize..reader.manifest.chunks.len() {
        bytes.extend(reader.chunk(number)?.unwrap_or_default());
    }
    let (state, blocks) = OrderPart::decode(&bytes).map_err(undecodable)?;
    let mismatch = |what| SnapshotError::Mismatch { path: path.clone(), what };
    if digest_of(&state) != checkpoint.consensus_state_digest {
        return Err(mismatch("the order's state"));
    }
    let state = OrderState::decode(&state).map_err(undecodable)?;
    if state.last_commit.index > checkpoint.commit_index || state.epoch != checkpoint.epoch {
        return Err(mismatch("the anchor"));
    }
    let set = reader.manifest.next_set().map_err(undecodable)?;
    let config = config_at(genesis, &state, set.as_ref());
    state.check(&config, &blocks).map_err(|error| SnapshotError::Order { path: path.clone(), error })?;
    Ok((state, blocks))
}

/// What a machine of the state's epoch is configured with, but for what is a node's own. The state's seed, start and
/// version are those that its digest vouches for.
fn config_at(genesis: &Foundation, state: &OrderState, set: Option<&ValidatorSet>) -> Config {
    let mut config = crate::context::genesis_config(genesis, None);
    if let Some(set) = set {
        let stakes = set.validators.iter().map(|validator| validator.stake).collect();
        config = config.at(&start_of(state, 0, set), stakes, None);
    }
    config
}

/// The first record of the state's epoch.
pub(super) fn start_of(state: &OrderState, floor: u32, set: &ValidatorSet) -> EpochStart {
    let OrderState { epoch, epoch_seed: seed, base, version, .. } = *state;
    EpochStart { epoch, seed, base, version, floor, set: set.encode(), evidence: Vec::new() }
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
pub(super) struct Signatures;

impl SignatureVerifier for Signatures {
    fn verify(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        AwsLc.verify(&VerifyItem::new(public_key, message, signature))
    }
}
