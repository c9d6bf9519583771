//! Opening a journal: the lock, the torn tail, the index, and whose directory it is.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aurigraph_ledger::codec::{CodecError, Reader, Writer};
use aurigraph_ledger::hash::DIGEST_LEN;
use aurigraph_ledger::{Hash, blake3_digest};
use aurigraph_runtime::LeaseHolder;
use bytes::Bytes;
use fs2::FileExt as _;
use parking_lot::{Mutex, RwLock};

use super::base;
use super::error::JournalError;
use super::frame::{End, FrameReader, Next};
use super::index::{Entry, Index, read_sidecar, write_sidecar};
use super::reader::JournalReader;
use super::segment;
use super::writer::Writer as LogWriter;
use crate::bounds::storage as bounds;
use crate::fatal::Fatal;
use crate::storage::record::{Cursor, Record, RecordKind};

/// Whose directory it is: written once into the first record, compared at every start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalIdentity {
    /// The chain.
    pub chain_id: Hash,
    /// The node's name.
    pub node: String,
    /// BLAKE3 of the validator's consensus key; none for an observer.
    pub validator_key: Option<Hash>,
}

/// Logs of versions 1 and 2 hold commits made under leaders without reputation: replaying them gives other commits. Those of
/// versions 3 and 4 know of no epochs, those of 5 and 6 of no evidence, those of 7 and 8 of no
/// anchors, those of 9 and 10 of no evidence of earlier epochs, those of 11 and 12 of no attestations.
const INIT_VERSION: u8 = 13;
/// That of a directory that takes the place of a lost one.
const INIT_AFTER_LOSS: u8 = 14;
const MAX_NODE_NAME: usize = 256;
/// No first frame is longer: nothing but zeros stands behind this place in a log that has not begun.
const INIT_FRAME: u64 = 512;

impl JournalIdentity {
    /// The identity of a node whose consensus key, if it has one, is given as raw bytes.
    #[must_use]
    pub fn new(chain_id: Hash, node: &str, consensus_key: Option<&[u8]>) -> Self {
        Self { chain_id, node: node.to_owned(), validator_key: consensus_key.map(blake3_digest) }
    }

    /// Whether the other is this node's with another validator key in place of its own.
    fn is_rotated_to(&self, other: &Self) -> bool {
        let keys = self.validator_key.is_some() && other.validator_key.is_some();
        keys && self.chain_id == other.chain_id && self.node == other.node
    }

    fn encode(&self, salt: &Hash, after_loss: bool) -> Bytes {
        let mut w = Writer::new();
        w.u8(if after_loss { INIT_AFTER_LOSS } else { INIT_VERSION }).hash(&self.chain_id).bytes(self.node.as_bytes());
        match &self.validator_key {
            Some(key) => w.u8(1).hash(key),
            None => w.u8(0),
        };
        w.hash(salt);
        w.into_bytes().into()
    }

    /// What the first record says.
    fn decode(bytes: &[u8]) -> Result<Owner, CodecError> {
        let invalid = |what, value: u8| CodecError::Invalid { what, value: u64::from(value) };
        let mut r = Reader::new(bytes);
        let after_loss = match r.u8()? {
            INIT_VERSION => false,
            INIT_AFTER_LOSS => true,
            other => {
                return Err(invalid(
                    "version of the journal (this program reads 13 and 14; move the data directory away and start empty)",
                    other,
                ));
            }
        };
        let chain_id = r.hash()?;
        let node = String::from_utf8_lossy(r.bytes("node name", MAX_NODE_NAME)?).into_owned();
        let validator_key = match r.u8()? {
            0 => None,
            1 => Some(r.hash()?),
            other => return Err(invalid("validator key flag", other)),
        };
        let salt = r.hash()?;
        r.finish()?;
        Ok(Owner { identity: Self { chain_id, node, validator_key }, salt, after_loss })
    }
}

/// What a log's first record says.
pub(super) struct Owner {
    pub identity: JournalIdentity,
    pub salt: Hash,
    after_loss: bool,
}

impl std::fmt::Display for JournalIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node {} of chain {}", self.node, self.chain_id)?;
        match &self.validator_key {
            Some(key) => write!(f, " with validator key {key}"),
            None => f.write_str(" without a validator key"),
        }
    }
}

/// What may differ between nodes and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalOptions {
    /// Size at which a segment is sealed.
    pub segment_bytes: u64,
    /// May a validator's empty directory be given its first record: an explicit act, once in its life.
    pub initialise: bool,
    /// May it be given one that says that an earlier directory was lost: what was signed before is unknown.
    pub rejoin: bool,
    /// May it be one that this node began under another validator key. The caller makes sure that the key was rotated.
    pub rotated: bool,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self { segment_bytes: bounds::JOURNAL_SEGMENT, initialise: false, rejoin: false, rotated: false }
    }
}

/// What the writer, the readers and the actor's incarnations share.
pub(super) struct Shared {
    pub directory: PathBuf,
    pub node: String,
    pub segment_bytes: u64,
    /// Random, from the first record: what its sync marks are known by.
    pub salt: Hash,
    /// Whether this directory takes the place of a lost one.
    pub after_loss: bool,
    /// Whether it was begun under another validator key.
    pub under_another_key: bool,
    /// Whether it is one of a validator's.
    pub has_validator_key: bool,
    pub index: RwLock<Index>,
    /// One pruning at a time.
    pub pruning: Mutex<()>,
    /// Why nothing may be written any more.
    pub failed: Mutex<Option<JournalError>>,
    pub fatal: Fatal,
    /// One writer at a time: the lease lives in the owning thread.
    pub owner: LeaseHolder,
    pub handles: RwLock<HashMap<u32, Arc<File>>>,
    /// Held, never read: its lock says that the directory is ours.
    _lock: File,
}

/// An open journal; cheap to clone. Made once per process and directory, before the actors.
#[derive(Clone)]
pub struct Journal(pub(super) Arc<Shared>);

impl Journal {
    /// Opens the journal in `data_dir/journal`, or begins it, and makes sure that it is this node's.
    ///
    /// # Errors
    /// [`JournalError`]: in use, foreign, never initialised, corrupt, or refused by the operating system.
    pub fn open(
        data_dir: &Path,
        identity: &JournalIdentity,
        options: JournalOptions,
        fatal: Fatal,
    ) -> Result<Self, JournalError> {
        let directory = data_dir.join("journal");
        std::fs::create_dir_all(&directory).map_err(JournalError::io("create", &directory))?;
        let lock = lock(data_dir)?;
        let owner = owner(data_dir, &directory)?;
        let (salt, after_loss) = match &owner {
            Some(owner) if owner.identity == *identity => (owner.salt, owner.after_loss),
            Some(owner) if options.rotated && owner.identity.is_rotated_to(identity) => (owner.salt, owner.after_loss),
            Some(owner) => {
                let (found, expected) = (owner.identity.to_string(), identity.to_string());
                return Err(JournalError::Foreign { directory: data_dir.to_owned(), found, expected });
            }
            None if identity.validator_key.is_some() && !options.initialise && !options.rejoin => {
                let node = identity.node.clone();
                return Err(JournalError::Uninitialised { directory: data_dir.to_owned(), node });
            }
            None => (fresh_salt(&directory)?, options.rejoin),
        };
        // What a pruning that was cut short has left; the owner is known by now.
        if let Some(first) = base::list(&directory)?.last() {
            base::sweep(&directory, *first)?;
        }
        let journal = Self(Arc::new(Shared {
            index: RwLock::new(load(&directory)?),
            directory,
            node: identity.node.clone(),
            segment_bytes: options.segment_bytes,
            salt,
            after_loss,
            pruning: Mutex::new(()),
            under_another_key: owner.as_ref().is_some_and(|owner| owner.identity != *identity),
            has_validator_key: identity.validator_key.is_some(),
            failed: Mutex::new(None),
            fatal,
            owner: LeaseHolder::new(),
            handles: RwLock::default(),
            _lock: lock,
        }));
        let mut writer = LogWriter::open(Arc::clone(&journal.0))?;
        if owner.is_none() {
            // Else a cut of power could take the log's folder with all that was synced in it.
            segment::sync_above(&journal.0.directory)?;
            writer.append(&[Record::new(RecordKind::Init, Hash::ZERO, identity.encode(&salt, after_loss))])?;
            writer.sync()?;
        }
        Ok(journal)
    }

    /// Opens the journal in `data_dir/journal`, whosever it is: for tools that look things up in a stopped node's.
    ///
    /// # Errors
    /// Those of [`Journal::open`]; also if there is none.
    pub fn open_as_found(data_dir: &Path, fatal: Fatal) -> Result<Self, JournalError> {
        let directory = data_dir.join("journal");
        let found = if directory.is_dir() { owner(data_dir, &directory)? } else { None };
        let absent = || JournalError::io("open", &directory)(std::io::Error::from(std::io::ErrorKind::NotFound));
        let owner = found.ok_or_else(absent)?;
        Self::open(data_dir, &owner.identity, JournalOptions::default(), fatal)
    }

    /// Appends records from the beginning of a segment of their own on and syncs them, where no actor runs yet.
    ///
    /// # Errors
    /// What the system refuses.
    pub(crate) fn append_apart(&self, records: &[Record]) -> Result<(), JournalError> {
        let mut writer = LogWriter::open(Arc::clone(&self.0))?;
        writer.begin_segment()?;
        writer.append(records)?;
        writer.sync()
    }

    /// Whether the directory is one of a validator's.
    pub(crate) fn has_validator_key(&self) -> bool {
        self.0.has_validator_key
    }

    /// A reader; it outlives every incarnation of the journal actor.
    #[must_use]
    pub fn reader(&self) -> JournalReader {
        JournalReader::new(Arc::clone(&self.0))
    }
}

/// What the first record says. None for a log that has not begun: empty, or torn in its very
/// first write. Changes nothing, so that a foreign directory stays as it is.
pub(super) fn owner(data_dir: &Path, directory: &Path) -> Result<Option<Owner>, JournalError> {
    let Some(first) = segment::list(directory)?.first().copied() else { return Ok(None) };
    if base::list(directory)?.contains(&first) {
        let (path, init) = (base::path(directory, first), base::read(directory, first)?.init);
        return JournalIdentity::decode(&init).map(Some).map_err(|error| {
            let what = format!("the init record: {error}");
            JournalError::Corrupt { path, offset: 0, what }
        });
    }
    let path = segment::path(directory, first);
    let corrupt = |what: String| JournalError::Corrupt { path: path.clone(), offset: 0, what };
    let mut frames = FrameReader::open(&path, Cursor::START.offset)?;
    match frames.next(|_| true).map_err(JournalError::io("read", &path))? {
        Next::Record(record, ..) if record.kind == RecordKind::Init => JournalIdentity::decode(&record.body)
            .map(Some)
            .map_err(|error| corrupt(format!("the init record: {error}"))),
        Next::Record(..) => Err(JournalError::NoOwner { directory: data_dir.to_owned() }),
        Next::End(end) => {
            let mut rest = Vec::new();
            let mut file = File::open(&path).map_err(JournalError::io("open", &path))?;
            file.seek(SeekFrom::Start(INIT_FRAME)).map_err(JournalError::io("seek", &path))?;
            file.read_to_end(&mut rest).map_err(JournalError::io("read", &path))?;
            match end {
                // More than a first record was written: the log had begun.
                End::Bad { what, .. } if rest.iter().any(|byte| *byte != 0) => {
                    Err(corrupt(format!("the init record: {what}")))
                }
                End::Clean { .. } if rest.iter().any(|byte| *byte != 0) => {
                    Err(corrupt("the init record is gone".to_owned()))
                }
                _ => Ok(None),
            }
        }
    }
}

fn fresh_salt(directory: &Path) -> Result<Hash, JournalError> {
    let mut salt = [0; DIGEST_LEN];
    getrandom::fill(&mut salt)
        .map_err(|error| JournalError::io("draw a salt for", directory)(std::io::Error::other(error)))?;
    Ok(Hash(salt))
}

/// Takes the directory's lock and leaves the holder's process id in it.
fn lock(data_dir: &Path) -> Result<File, JournalError> {
    let path = data_dir.join("LOCK");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(JournalError::io("open", &path))?;
    if let Err(error) = file.try_lock_exclusive() {
        if error.kind() != fs2::lock_contended_error().kind() {
            return Err(JournalError::io("lock", &path)(error));
        }
        return Err(JournalError::InUse { directory: data_dir.to_owned(), holder: lock_holder(&mut file) });
    }
    file.set_len(0).map_err(JournalError::io("write", &path))?;
    file.rewind().map_err(JournalError::io("write", &path))?;
    writeln!(file, "{}", std::process::id()).map_err(JournalError::io("write", &path))?;
    Ok(file)
}

/// What a lock file says of its holder.
pub(super) fn lock_holder(file: &mut File) -> String {
    let mut holder = String::new();
    // Without a readable holder the lock still says what matters.
    let _ = file.read_to_string(&mut holder);
    if holder.trim().is_empty() { "unknown".to_owned() } else { holder.trim().to_owned() }
}

/// Builds the index: from the base of a pruned log, and the sidecars of the sealed segments. The last segment is the writer's to scan.
fn load(directory: &Path) -> Result<Index, JournalError> {
    let mut index = Index::default();
    let numbers = segment::list(directory)?;
    if let Some(first) = base::list(directory)?.last().copied() {
        index.first = first;
        for entry in base::read(directory, first)?.entries {
            index.insert(base::number(first), &entry);
        }
    }
    let sealed = numbers.len().saturating_sub(1);
    for number in &numbers[..sealed] {
        for entry in sealed_entries(directory, *number)? {
            index.insert(*number, &entry);
        }
    }
    Ok(index)
}

/// A sealed segment's index: its sidecar's, or made from its frames, all of which must be whole.
pub(super) fn sealed_entries(directory: &Path, number: u32) -> Result<Vec<Entry>, JournalError> {
    let path = segment::path(directory, number);
    let size = std::fs::metadata(&path).map_err(JournalError::io("stat", &path))?.len();
    let sidecar = segment::sidecar_path(directory, number);
    if let Some(entries) = read_sidecar(&sidecar, size) {
        return Ok(entries);
    }
    tracing::warn!(segment = %path.display(), "the segment's index is missing or damaged and is made again");
    let (entries, end) = scan(&path)?;
    match end {
        End::Clean { more: false, .. } => {}
        End::Clean { offset, .. } => {
            return Err(JournalError::Corrupt { path, offset, what: "a sealed segment ends early".to_owned() });
        }
        End::Bad { offset, what } => return Err(JournalError::Corrupt { path, offset, what }),
    }
    write_sidecar(&sidecar, size, &entries)?;
    Ok(entries)
}

/// All frames of a segment, and how they end.
pub(super) fn scan(path: &Path) -> Result<(Vec<Entry>, End), JournalError> {
    let mut frames = FrameReader::open(path, Cursor::START.offset)?;
    let mut entries = Vec::new();
    loop {
        match frames.next(|_| true).map_err(JournalError::io("read", path))? {
            Next::Record(record, offset, length) => {
                let too_far = |_| JournalError::Corrupt {
                    path: path.to_owned(),
                    offset,
                    what: "the segment exceeds 4 GiB".to_owned(),
                };
                let offset = u32::try_from(offset).map_err(too_far)?;
                let length = u32::try_from(length).map_err(too_far)?;
                entries.push(Entry { kind: record.kind, key: record.key, offset, length });
            }
            Next::End(end) => return Ok((entries, end)),
        }
    }
}
