//! The base of a pruned log: one file that holds what outlives the segments that were removed.
//!
//! `base-000123.keep` says that the log begins with segment 123. It is made of frames like a segment: the init record,
//! a record that says what the file must hold, then the records that are kept, in log order. It is written beside and
//! renamed, so that a crash leaves the whole of it or the one before; only then are segments removed. The newest counts.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use aurigraph_ledger::Hash;
use aurigraph_ledger::codec::{CodecError, Reader, Writer};
use bytes::Bytes;

use super::error::JournalError;
use super::frame::{self, End, FrameReader, Next};
use super::index::Entry;
use super::segment;
use crate::storage::record::{Record, RecordKind};

/// Set in the number under which the index knows a base, so that no segment has it.
const BIT: u32 = 1 << 31;
const VERSION: u8 = 1;

/// What the index calls the base of a log that begins with this segment.
pub(super) const fn number(first: u32) -> u32 {
    BIT | first
}

/// The first segment of the log whose base has this number; none for the number of a segment.
pub(super) const fn first_of(number: u32) -> Option<u32> {
    if number & BIT == 0 { None } else { Some(number & !BIT) }
}

/// `base-000123.keep`.
pub(super) fn path(directory: &Path, first: u32) -> PathBuf {
    directory.join(format!("base-{first:06}.keep"))
}

/// The first segments that the bases in a directory name, ascending.
pub(super) fn list(directory: &Path) -> Result<Vec<u32>, JournalError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(JournalError::io("list", directory))? {
        let name = entry.map_err(JournalError::io("list", directory))?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix("base-")?.strip_suffix(".keep"));
        found.extend(digits.and_then(|digits| digits.parse::<u32>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// What a base must hold: said in its second record.
struct Content {
    first: u32,
    records: u64,
    digest: [u8; 32],
}

impl Content {
    fn encode(&self) -> Bytes {
        let mut w = Writer::new();
        w.u8(VERSION).u32(self.first).u64(self.records).raw(&self.digest);
        w.into_bytes().into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        match r.u8()? {
            VERSION => {}
            other => return Err(CodecError::Invalid { what: "version of a journal's base", value: other.into() }),
        }
        let content = Self { first: r.u32()?, records: r.u64()?, digest: r.array()? };
        r.finish()?;
        Ok(content)
    }
}

/// Writes the base of a log that begins with segment `first`, durably. Returns its index.
pub(super) fn write(directory: &Path, first: u32, init: &Bytes, kept: &[Record]) -> Result<Vec<Entry>, JournalError> {
    let mut frames = Vec::new();
    kept.iter().for_each(|record| frame::encode(record, &mut frames));
    let content = Content { first, records: kept.len() as u64, digest: *blake3::hash(&frames).as_bytes() };
    let mut bytes = Vec::with_capacity(frames.len() + 1_024);
    frame::encode(&Record::new(RecordKind::Init, Hash::ZERO, init.clone()), &mut bytes);
    frame::encode(&Record::new(RecordKind::Base, Hash::ZERO, content.encode()), &mut bytes);
    bytes.extend_from_slice(&frames);
    let path = path(directory, first);
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary).map_err(JournalError::io("create", &temporary))?;
    file.write_all(&bytes).map_err(JournalError::io("write", &temporary))?;
    file.sync_all().map_err(JournalError::io("sync", &temporary))?;
    std::fs::rename(&temporary, &path).map_err(JournalError::io("rename", &path))?;
    segment::sync_directory(directory)?;
    Ok(read(directory, first)?.entries)
}

/// A base that is what it says.
pub(super) struct Base {
    /// The body of the init record.
    pub init: Bytes,
    /// The records that are kept, in log order.
    pub entries: Vec<Entry>,
}

/// Reads and checks the base of a log that begins with segment `first`.
pub(super) fn read(directory: &Path, first: u32) -> Result<Base, JournalError> {
    let path = path(directory, first);
    let corrupt = |offset, what: String| JournalError::Corrupt { path: path.clone(), offset, what };
    let bytes = std::fs::read(&path).map_err(JournalError::io("read", &path))?;
    let mut frames = FrameReader::open(&path, 0)?;
    let mut next = || frames.next(|_| true).map_err(JournalError::io("read", &path));
    let init = match next()? {
        Next::Record(record, ..) if record.kind == RecordKind::Init => record.body,
        _ => return Err(corrupt(0, "the base of the log does not say whose it is".to_owned())),
    };
    let (content, begin) = match next()? {
        Next::Record(record, offset, length) if record.kind == RecordKind::Base => {
            let content = Content::decode(&record.body).map_err(|error| corrupt(offset, error.to_string()))?;
            (content, offset + length)
        }
        _ => return Err(corrupt(0, "the base of the log does not say what it holds".to_owned())),
    };
    let mut entries = Vec::new();
    loop {
        match next()? {
            Next::Record(record, offset, length) => {
                let (Ok(offset), Ok(length)) = (u32::try_from(offset), u32::try_from(length)) else {
                    return Err(corrupt(offset, "the base of the log exceeds 4 GiB".to_owned()));
                };
                entries.push(Entry { kind: record.kind, key: record.key, offset, length });
            }
            Next::End(End::Clean { more: false, .. }) => break,
            Next::End(End::Clean { offset, .. }) => return Err(corrupt(offset, "the base ends early".to_owned())),
            Next::End(End::Bad { offset, what }) => return Err(corrupt(offset, what)),
        }
    }
    let held = usize::try_from(begin).ok().and_then(|begin| bytes.get(begin..)).unwrap_or_default();
    let whole = *blake3::hash(held).as_bytes() == content.digest && entries.len() as u64 == content.records;
    if content.first != first || !whole {
        return Err(corrupt(begin, "the base of the log does not hold what it says".to_owned()));
    }
    Ok(Base { init, entries })
}

/// Removes what a base makes superfluous: segments before its first, older bases, and what was being written.
pub(super) fn sweep(directory: &Path, first: u32) -> Result<(), JournalError> {
    let mut removed = false;
    for entry in std::fs::read_dir(directory).map_err(JournalError::io("list", directory))? {
        let entry = entry.map_err(JournalError::io("list", directory))?;
        let name = entry.file_name();
        let Some((stem, extension)) = name.to_str().and_then(|name| name.rsplit_once('.')) else { continue };
        let before = |digits: &str| digits.parse::<u32>().is_ok_and(|number| number < first);
        let superfluous = match extension {
            "seg" | "idx" => before(stem),
            "keep" => stem.strip_prefix("base-").is_some_and(before),
            "tmp" => stem.starts_with("base-"),
            _ => false,
        };
        if superfluous {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(JournalError::io("remove", &path))?;
            removed = true;
        }
    }
    if removed { segment::sync_directory(directory) } else { Ok(()) }
}
