//! All trees of a database, in pieces of bounded size: for backups, copies and digests. Knows nothing of versions.

use std::path::PathBuf;

use crate::database::Database;
use crate::error::UpgradeError;
use crate::medium::Pairs;

/// Keys of one piece at most.
const PIECE_KEYS: usize = 1_000;
/// Bytes at which a piece is closed; one larger pair makes a larger piece.
pub(crate) const PIECE_BYTES: usize = 256 << 10;

/// What a database holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Content {
    /// Trees.
    pub trees: u64,
    /// Pairs of key and value.
    pub pairs: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Bytes of the largest piece that was held at once.
    pub largest_piece: u64,
    /// BLAKE3 over names, keys and values in order, in hex.
    pub digest: String,
}

/// One piece of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A tree begins.
    Tree(Vec<u8>),
    /// The next pairs of it, in order.
    Pairs(Pairs),
}

/// Sums pieces up.
pub(crate) struct Summing {
    hasher: blake3::Hasher,
    content: Content,
}

impl Summing {
    pub(crate) fn new() -> Self {
        let content = Content { trees: 0, pairs: 0, bytes: 0, largest_piece: 0, digest: String::new() };
        Self { hasher: blake3::Hasher::new(), content }
    }

    fn text(&mut self, kind: u8, bytes: &[u8]) {
        self.hasher.update(&[kind]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }

    pub(crate) fn add(&mut self, piece: &Piece) {
        match piece {
            Piece::Tree(name) => {
                self.content.trees += 1;
                self.text(0, name);
            }
            Piece::Pairs(pairs) => {
                let mut bytes = 0;
                for (key, value) in pairs {
                    bytes += (key.len() + value.len()) as u64;
                    self.text(1, key);
                    self.text(2, value);
                }
                self.content.pairs += pairs.len() as u64;
                self.content.bytes += bytes;
                self.content.largest_piece = self.content.largest_piece.max(bytes);
            }
        }
    }

    pub(crate) fn finish(mut self) -> Content {
        self.content.digest = self.hasher.finalize().to_hex().to_string();
        self.content
    }
}

/// Visits everything, trees by name. Nobody may write meanwhile: the lock sees to that.
pub(crate) fn walk(
    database: &Database,
    mut visit: impl FnMut(&Piece) -> Result<(), UpgradeError>,
) -> Result<Content, UpgradeError> {
    let sled = |source| UpgradeError::Sled { path: database.path().to_owned(), source };
    let mut summing = Summing::new();
    let mut visit = |piece: Piece| {
        summing.add(&piece);
        visit(&piece)
    };
    let mut names = database.sled().tree_names();
    names.sort();
    for name in names {
        let tree = database.sled().open_tree(&name).map_err(sled)?;
        visit(Piece::Tree(name.to_vec()))?;
        let (mut pairs, mut bytes) = (Pairs::new(), 0);
        for pair in &tree {
            let (key, value) = pair.map_err(sled)?;
            bytes += key.len() + value.len();
            pairs.push((key.to_vec(), value.to_vec()));
            if pairs.len() == PIECE_KEYS || bytes >= PIECE_BYTES {
                visit(Piece::Pairs(std::mem::take(&mut pairs)))?;
                bytes = 0;
            }
        }
        if !pairs.is_empty() {
            visit(Piece::Pairs(pairs))?;
        }
    }
    Ok(summing.finish())
}

/// What a database holds, read to its last byte.
///
/// # Errors
/// sled's.
pub fn content(database: &Database) -> Result<Content, UpgradeError> {
    walk(database, |_| Ok(()))
}

/// Fills an empty database with pieces.
pub(crate) struct Filling<'a> {
    database: &'a Database,
    tree: Option<sled::Tree>,
}

impl<'a> Filling<'a> {
    pub(crate) const fn new(database: &'a Database) -> Self {
        Self { database, tree: None }
    }

    pub(crate) fn add(&mut self, piece: &Piece) -> Result<(), UpgradeError> {
        let sled = |source| UpgradeError::Sled { path: self.database.path().to_owned(), source };
        match piece {
            Piece::Tree(name) => self.tree = Some(self.database.sled().open_tree(name).map_err(sled)?),
            Piece::Pairs(pairs) => {
                let mut batch = sled::Batch::default();
                for (key, value) in pairs {
                    batch.insert(key.as_slice(), value.as_slice());
                }
                // Pairs before any tree do not come from `walk`; the reader of backups refuses them.
                if let Some(tree) = &self.tree {
                    tree.apply_batch(batch).map_err(sled)?;
                }
            }
        }
        Ok(())
    }

    /// Makes it durable, and reads it back: it must hold what was put in.
    pub(crate) fn finish(self, expected: &Content) -> Result<(), UpgradeError> {
        self.database.sync()?;
        let found = content(self.database)?;
        if found.digest == expected.digest {
            return Ok(());
        }
        let path: PathBuf = self.database.path().to_owned();
        Err(UpgradeError::Panicked { path, text: format!("a copy holds {found:?} instead of {expected:?}") })
    }
}
