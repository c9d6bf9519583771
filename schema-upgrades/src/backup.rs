//! Backups: one file with everything that a database holds, checksummed piece by piece and as a whole.
//!
//! Layout: `SLEDBAK1`, then frames of kind u8, length u32 (little-endian), body, BLAKE3 of all three. First the head
//! (JSON: when, by whom, at which version), then trees and pairs in order, then the end (JSON: [`Content`]). A file
//! without its end is no backup. Written beside its final name, read back, and only then renamed.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::content::{Content, Piece, Summing, walk};
use crate::database::Database;
use crate::error::UpgradeError;
use crate::lock::{Holder, now_ms};
use crate::medium::Pairs;

const MAGIC: &[u8; 8] = b"SLEDBAK1";
const CHECKSUM: usize = 32;
const HEAD: u8 = 1;
const TREE: u8 = 2;
const PAIRS: u8 = 3;
const END: u8 = 4;

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The schema version that the database was at.
    pub version: u32,
    /// The database's directory.
    pub database: PathBuf,
    /// When it was begun, in milliseconds since 1970.
    pub made_ms: u64,
    /// By whom.
    pub by: Holder,
}

/// A backup that was read to its end, every checksum compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Backup {
    /// The file.
    pub file: PathBuf,
    /// Its length in bytes.
    pub file_bytes: u64,
    /// What it says of itself.
    #[serde(flatten)]
    pub head: Head,
    /// What it holds.
    pub content: Content,
}

/// Where `upgrade` puts the backups of a database unless told otherwise: `<database>.backups` beside it.
#[must_use]
pub fn default_folder(database: &Path) -> PathBuf {
    let mut name = database.file_name().unwrap_or_default().to_owned();
    name.push(".backups");
    database.with_file_name(name)
}

/// A new file's name in [`default_folder`], with a word in it.
#[must_use]
pub fn new_file(database: &Path, word: &str) -> PathBuf {
    free_name(&default_folder(database), word)
}

/// A name that is not taken yet.
pub(crate) fn free_name(folder: &Path, stem: &str) -> PathBuf {
    let mut names = (now_ms()..).map(|at| folder.join(format!("{stem}-{at}.backup")));
    names.find(|path| !path.exists()).unwrap_or_else(|| folder.join(stem))
}

fn io(doing: &'static str, path: &Path) -> impl Fn(std::io::Error) -> UpgradeError {
    move |source| UpgradeError::Io { doing, path: path.to_owned(), source }
}

/// Refuses to begin a copy that cannot fit.
pub(crate) fn check_space(database: &Database, folder: &Path) -> Result<(), UpgradeError> {
    let path = database.path().to_owned();
    let needed = database.sled().size_on_disk().map_err(|source| UpgradeError::Sled { path, source })?;
    let free = fs2::available_space(folder).map_err(io("ask for the free space of", folder))?;
    if free >= needed { Ok(()) } else { Err(UpgradeError::NoSpace { path: folder.to_owned(), needed, free }) }
}

/// Writes a backup to a file that does not exist yet, and verifies it.
///
/// # Errors
/// [`UpgradeError::NoSpace`], [`UpgradeError::Io`], [`UpgradeError::Sled`], [`UpgradeError::Backup`] if it exists or what
/// was written does not read back.
pub fn write(database: &Database, version: u32, file: &Path) -> Result<Backup, UpgradeError> {
    if file.exists() {
        let problem = "it exists already, and backups are never overwritten".to_owned();
        return Err(UpgradeError::Backup { path: file.to_owned(), problem });
    }
    let folder = file.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(io("create", folder))?;
    check_space(database, folder)?;
    let part = file.with_extension("part");
    let result = write_part(database, version, &part).and_then(|written| {
        let backup = verify(&part)?;
        if backup.content.digest != written.digest {
            let problem = format!("it holds {} instead of {}", backup.content.digest, written.digest);
            return Err(UpgradeError::Backup { path: part.clone(), problem });
        }
        std::fs::rename(&part, file).map_err(io("rename", &part))?;
        File::open(folder).and_then(|it| it.sync_all()).map_err(io("sync", folder))?;
        Ok(Backup { file: file.to_owned(), ..backup })
    });
    if result.is_err() {
        // Half a backup is of no use to anybody; the reason for it is what counts.
        let _ = std::fs::remove_file(&part);
    }
    result
}

fn write_part(database: &Database, version: u32, part: &Path) -> Result<Content, UpgradeError> {
    let error = io("write", part);
    let file = File::create(part).map_err(&error)?;
    let mut out = BufWriter::new(file);
    out.write_all(MAGIC).map_err(&error)?;
    let head = Head { version, database: database.path().to_owned(), made_ms: now_ms(), by: Holder::this() };
    frame(&mut out, HEAD, &json(&head)).map_err(&error)?;
    let content = walk(database, |piece| {
        let written = match piece {
            Piece::Tree(name) => frame(&mut out, TREE, name),
            Piece::Pairs(pairs) => frame(&mut out, PAIRS, &encode(pairs)),
        };
        written.map_err(&error)
    })?;
    frame(&mut out, END, &json(&content)).map_err(&error)?;
    out.into_inner().map_err(|failed| error(failed.into_error()))?.sync_all().map_err(&error)?;
    Ok(content)
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("heads and contents have text keys and no failing fields")
}

fn encode(pairs: &Pairs) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in pairs {
        for part in [key, value] {
            body.extend_from_slice(&(part.len() as u64).to_le_bytes());
            body.extend_from_slice(part);
        }
    }
    body
}

fn decode(mut body: &[u8]) -> Option<Pairs> {
    fn part(body: &mut &[u8]) -> Option<Vec<u8>> {
        let (len, rest) = body.split_first_chunk::<8>()?;
        let (part, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        *body = rest;
        Some(part.to_vec())
    }
    let mut pairs = Pairs::new();
    while !body.is_empty() {
        pairs.push((part(&mut body)?, part(&mut body)?));
    }
    Some(pairs)
}

fn frame(out: &mut impl Write, kind: u8, body: &[u8]) -> std::io::Result<()> {
    let len = u32::try_from(body.len()).map_err(|_| std::io::Error::other("a pair of more than 4 GiB"))?;
    let mut head = [kind, 0, 0, 0, 0];
    head[1..].copy_from_slice(&len.to_le_bytes());
    out.write_all(&head)?;
    out.write_all(body)?;
    out.write_all(blake3::Hasher::new().update(&head).update(body).finalize().as_bytes())
}

/// Reads the frames of a backup, one at a time.
struct Frames {
    input: BufReader<File>,
    path: PathBuf,
    number: u64,
}

impl Frames {
    fn open(path: &Path) -> Result<Self, UpgradeError> {
        let input = BufReader::new(File::open(path).map_err(io("open", path))?);
        let mut frames = Self { input, path: path.to_owned(), number: 0 };
        let mut magic = [0; 8];
        match frames.input.read_exact(&mut magic) {
            Ok(()) if &magic == MAGIC => Ok(frames),
            _ => Err(frames.bad("it does not begin like a backup")),
        }
    }

    fn bad(&self, problem: impl Into<String>) -> UpgradeError {
        UpgradeError::Backup { path: self.path.clone(), problem: problem.into() }
    }

    fn next(&mut self) -> Result<(u8, Vec<u8>), UpgradeError> {
        self.number += 1;
        let cut = format!("it ends in frame {}: it was cut", self.number);
        let mut head = [0; 5];
        self.input.read_exact(&mut head).map_err(|_| self.bad(cut.as_str()))?;
        let [kind, len @ ..] = head;
        let len = u64::from(u32::from_le_bytes(len));
        let mut body = Vec::new();
        // Grows with what is there, not with what a damaged length claims.
        let read = (&mut self.input).take(len).read_to_end(&mut body);
        let read = read.map_err(io("read", &self.path))?;
        let mut checksum = [0; CHECKSUM];
        let checked = self.input.read_exact(&mut checksum);
        if read as u64 != len || checked.is_err() {
            return Err(self.bad(cut));
        }
        if blake3::Hasher::new().update(&head).update(&body).finalize().as_bytes() != &checksum {
            return Err(self.bad(format!("frame {} fails its checksum", self.number)));
        }
        Ok((kind, body))
    }

    fn parse<'a, T: Deserialize<'a>>(&self, body: &'a [u8]) -> Result<T, UpgradeError> {
        serde_json::from_slice(body).map_err(|error| self.bad(format!("frame {}: {error}", self.number)))
    }
}

/// Reads a backup to its end, comparing every checksum, and hands its pieces on.
pub(crate) fn read(
    path: &Path,
    mut visit: impl FnMut(&Piece) -> Result<(), UpgradeError>,
) -> Result<Backup, UpgradeError> {
    let mut frames = Frames::open(path)?;
    let (HEAD, body) = frames.next()? else { return Err(frames.bad("its head is missing")) };
    let head: Head = frames.parse(&body)?;
    let (mut summing, mut inside) = (Summing::new(), false);
    let declared: Content = loop {
        let (kind, body) = frames.next()?;
        let piece = match kind {
            TREE => Piece::Tree(body),
            PAIRS if inside => Piece::Pairs(decode(&body).ok_or_else(|| frames.bad("pairs that do not decode"))?),
            END => break frames.parse(&body)?,
            other => return Err(frames.bad(format!("frame {} of kind {other} has no place there", frames.number))),
        };
        inside = true;
        summing.add(&piece);
        visit(&piece)?;
    };
    let content = summing.finish();
    if content != declared {
        return Err(frames.bad(format!("it holds {content:?}, its end says {declared:?}")));
    }
    if frames.input.read(&mut [0]).map_err(io("read", path))? != 0 {
        return Err(frames.bad("there is more behind its end"));
    }
    let file_bytes = std::fs::metadata(path).map_err(io("read", path))?.len();
    Ok(Backup { file: path.to_owned(), file_bytes, head, content })
}

/// Reads a backup to its end, comparing every checksum.
///
/// # Errors
/// [`UpgradeError::Backup`] naming what is wrong, [`UpgradeError::Io`].
pub fn verify(file: &Path) -> Result<Backup, UpgradeError> {
    read(file, |_| Ok(()))
}
