//! The frame around a record, and the reading of a segment frame by frame.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use aurigraph_ledger::Hash;
use aurigraph_ledger::hash::DIGEST_LEN;
use bytes::Bytes;

use super::error::JournalError;
use crate::bounds::storage::JOURNAL_MAX_BODY;
use crate::storage::record::{Cursor, Record, RecordKind};

/// Length and checksum.
const PREFIX: usize = 8;
/// What the length counts besides the body: kind and key.
const NAMED: usize = 1 + DIGEST_LEN;
/// Bytes of a frame besides its body.
pub(super) const OVERHEAD: usize = PREFIX + NAMED;
/// How much of a segment is read at once.
const READ_AHEAD: usize = 1 << 20;

/// Appends a record's frame to a buffer.
pub(super) fn encode(record: &Record, into: &mut Vec<u8>) {
    encode_parts(record.kind as u8, &record.key, &record.body, into);
}

fn encode_parts(kind: u8, key: &Hash, body: &[u8], into: &mut Vec<u8>) {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[kind]);
    crc.update(&key.0);
    crc.update(body);
    // The body's size was checked against JOURNAL_MAX_BODY before it came here.
    #[allow(clippy::cast_possible_truncation)]
    let length = (NAMED + body.len()) as u32;
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(&crc.finalize().to_le_bytes());
    into.push(kind);
    into.extend_from_slice(&key.0);
    into.extend_from_slice(body);
}

/// How the search for sync marks passes over zeros.
const BLOCK: usize = 4_096;
const ZEROS: [u8; BLOCK] = [0; BLOCK];
/// The kind of a sync mark: no record, readers pass over it.
const MARK: u8 = u8::MAX;
/// Bytes of a sync mark's frame.
pub(super) const MARK_SIZE: usize = OVERHEAD + 12;

/// Appends a sync mark: everything before this place was on stable storage when the mark was written. Its key is the
/// log's own random salt, so that nobody can send a batch that looks like a mark.
pub(super) fn encode_mark(salt: &Hash, synced: Cursor, into: &mut Vec<u8>) {
    encode_parts(MARK, salt, &synced.to_bytes(), into);
}

/// The salt and the place of a sync mark, if the bytes begin with one.
fn decode_mark(bytes: &[u8]) -> Option<(&[u8], Cursor)> {
    let frame = bytes.get(..MARK_SIZE)?;
    let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    if length != MARK_SIZE - PREFIX || frame[PREFIX] != MARK {
        return None;
    }
    let stored = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]);
    if stored != crc32fast::hash(&frame[PREFIX..]) {
        return None;
    }
    Some((&frame[PREFIX + 1..OVERHEAD], Cursor::from_bytes(&frame[OVERHEAD..])?))
}

/// Looks behind the end of a segment's frames for a mark that says that this very place had been synced: then what is
/// there was damaged later, and is no torn tail.
pub(super) fn synced_beyond(path: &Path, salt: &Hash, end: Cursor) -> Result<Option<Cursor>, JournalError> {
    let mut file = File::open(path).map_err(JournalError::io("open", path))?;
    file.seek(SeekFrom::Start(end.offset)).map_err(JournalError::io("seek", path))?;
    let mut window = Vec::with_capacity(READ_AHEAD + MARK_SIZE);
    loop {
        let read =
            file.by_ref().take(READ_AHEAD as u64).read_to_end(&mut window).map_err(JournalError::io("read", path))?;
        // Nearly all of it is preallocated and zero: compared by blocks, it costs next to nothing.
        let blocks = window.chunks(BLOCK).enumerate().filter(|(_, block)| **block != ZEROS[..block.len()]);
        let places = blocks.flat_map(|(number, block)| number * BLOCK..number * BLOCK + block.len());
        let marks = places.filter_map(|at| decode_mark(&window[at..]));
        let marks = marks.filter(|(key, _)| *key == salt.as_ref()).map(|(_, synced)| synced);
        if let Some(synced) = marks.filter(|synced| *synced > end).max() {
            return Ok(Some(synced));
        }
        if read == 0 {
            return Ok(None);
        }
        let keep = window.len().saturating_sub(MARK_SIZE - 1);
        window.drain(..keep);
    }
}

/// Takes one whole frame apart.
///
/// # Errors
/// A text saying what is wrong with it.
pub(super) fn decode(frame: &Bytes) -> Result<Record, String> {
    if frame.len() < OVERHEAD {
        return Err(format!("a frame of {} bytes is shorter than its header", frame.len()));
    }
    let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    if length != frame.len() - PREFIX {
        return Err(format!("the frame says {length} bytes, its place has {}", frame.len() - PREFIX));
    }
    let stored = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]);
    let computed = crc32fast::hash(&frame[PREFIX..]);
    if stored != computed {
        return Err(format!("checksum {computed:08x} instead of {stored:08x}"));
    }
    let kind = RecordKind::from_byte(frame[PREFIX]).ok_or_else(|| format!("unknown record kind {}", frame[PREFIX]))?;
    let mut key = [0; DIGEST_LEN];
    key.copy_from_slice(&frame[PREFIX + 1..OVERHEAD]);
    Ok(Record { kind, key: Hash(key), body: frame.slice(OVERHEAD..) })
}

/// How the frames of a segment end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// At the end of the file, or at a zero length.
    Clean {
        /// Where.
        offset: u64,
        /// True if the file has bytes after it.
        more: bool,
    },
    /// At a frame that is not whole.
    Bad {
        /// Where it begins.
        offset: u64,
        /// What is wrong.
        what: String,
    },
}

/// Reads a segment's frames in order.
pub(super) struct FrameReader {
    input: BufReader<File>,
    offset: u64,
    size: u64,
}

/// What stands at the reader's place.
pub(super) enum Next {
    /// A whole record, the offset of its frame, and the frame's size.
    Record(Record, u64, u64),
    /// No further frame.
    End(End),
}

impl FrameReader {
    pub(super) fn open(path: &Path, offset: u64) -> Result<Self, JournalError> {
        let mut file = File::open(path).map_err(JournalError::io("open", path))?;
        let size = file.metadata().map_err(JournalError::io("stat", path))?.len();
        file.seek(SeekFrom::Start(offset)).map_err(JournalError::io("seek", path))?;
        Ok(Self { input: BufReader::with_capacity(READ_AHEAD, file), offset, size })
    }

    /// The next record, or the end. Bodies of kinds that `wanted` refuses are skipped unread and unchecked; such
    /// records come back empty.
    pub(super) fn next(&mut self, wanted: impl Fn(RecordKind) -> bool) -> std::io::Result<Next> {
        loop {
            if let Some(next) = self.frame(&wanted)? {
                return Ok(next);
            }
        }
    }

    /// The next frame; none if it is a sync mark.
    fn frame(&mut self, wanted: impl Fn(RecordKind) -> bool) -> std::io::Result<Option<Next>> {
        let (offset, left) = (self.offset, self.size.saturating_sub(self.offset));
        if left < PREFIX as u64 {
            return Ok(Some(Next::End(self.short_end(left)?)));
        }
        let mut head = [0; PREFIX];
        self.input.read_exact(&mut head)?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if length == 0 {
            return Ok(Some(Next::End(End::Clean { offset, more: true })));
        }
        let bad = |what: String| Ok(Some(Next::End(End::Bad { offset, what })));
        if !(NAMED..=NAMED + JOURNAL_MAX_BODY).contains(&length) {
            return bad(format!("a frame length of {length}"));
        }
        if (length as u64) > left - PREFIX as u64 {
            return bad(format!("the frame needs {length} bytes, {} are left", left - PREFIX as u64));
        }
        let mut kind = [0];
        self.input.read_exact(&mut kind)?;
        let step = (PREFIX + length) as u64;
        if let Some(kind) = RecordKind::from_byte(kind[0]).filter(|kind| !wanted(*kind)) {
            let record = self.skip(kind, length)?;
            self.offset += step;
            return Ok(Some(Next::Record(record, offset, step)));
        }
        let frame = self.rest(head, kind[0], length)?;
        if decode_mark(&frame).is_some() {
            self.offset += step;
            return Ok(None);
        }
        match decode(&frame) {
            Ok(record) => {
                self.offset += step;
                Ok(Some(Next::Record(record, offset, step)))
            }
            Err(what) => bad(what),
        }
    }

    /// Fewer bytes than a prefix: nothing, zeros, or a torn one.
    fn short_end(&mut self, left: u64) -> std::io::Result<End> {
        let mut tail = Vec::new();
        self.input.by_ref().take(left).read_to_end(&mut tail)?;
        let offset = self.offset;
        if tail.iter().all(|byte| *byte == 0) {
            Ok(End::Clean { offset, more: left > 0 })
        } else {
            Ok(End::Bad { offset, what: format!("{left} bytes are no frame") })
        }
    }

    fn skip(&mut self, kind: RecordKind, length: usize) -> std::io::Result<Record> {
        let mut key = [0; DIGEST_LEN];
        self.input.read_exact(&mut key)?;
        self.input.seek_relative(i64::try_from(length - NAMED).unwrap_or(i64::MAX))?;
        Ok(Record { kind, key: Hash(key), body: Bytes::new() })
    }

    fn rest(&mut self, head: [u8; PREFIX], kind: u8, length: usize) -> std::io::Result<Bytes> {
        let mut frame = Vec::with_capacity(PREFIX + length);
        frame.extend_from_slice(&head);
        frame.push(kind);
        frame.resize(PREFIX + length, 0);
        self.input.read_exact(&mut frame[PREFIX + 1..])?;
        Ok(Bytes::from(frame))
    }
}
