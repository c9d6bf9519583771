//! Why a config cannot be used, in words that say where to look.

use std::ops::Range;
use std::path::{Path, PathBuf};

use aurigraph_ledger::GenesisError;

/// Why a config, a genesis or a secrets file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No such file.
    #[error("{path}: there is no such file", path = .0.display())]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("{path}: cannot be read: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A field is unknown, missing or has a value that is not allowed.
    #[error("{path}:{line}: {field}: {problem}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The field, with its table: `node[2].stake`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The genesis breaks a rule.
    #[error("{path}: {source}", path = path.display())]
    Genesis {
        /// The file that the genesis comes from.
        path: PathBuf,
        /// The rule.
        source: GenesisError,
    },
    /// No node of this name.
    #[error("{path}: there is no node {name:?}; the config has {known}", path = path.display())]
    UnknownNode {
        /// The config.
        path: PathBuf,
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A node outside development mode has no secrets file.
    #[error("{path}: node {node:?} names no secrets file, and outside development mode its keys come from one", path = path.display())]
    NoSecrets {
        /// The config.
        path: PathBuf,
        /// The node.
        node: String,
    },
    /// The secrets are not those of the node's public keys.
    #[error("{path}: the {what} key in it is not the one that genesis or config give for node {node:?}", path = path.display())]
    ForeignSecrets {
        /// The secrets file.
        path: PathBuf,
        /// The node.
        node: String,
        /// Which key.
        what: &'static str,
    },
    /// A key file is encrypted and cannot be opened.
    #[error("{path}: {problem}", path = path.display())]
    Sealed {
        /// The file.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// A file with secrets is open to others.
    #[error("{path}: holds secrets but others may read it (mode {mode:o}); run: chmod 600 {path}", path = path.display())]
    OpenSecrets {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl ConfigError {
    /// An error at a byte range of a TOML text.
    pub(super) fn at(path: &Path, text: &str, span: Range<usize>, problem: impl Into<String>) -> Self {
        let (line, field) = locate(text, span.start);
        Self::Invalid { path: path.to_owned(), line, field, problem: problem.into() }
    }

    /// What the TOML reader found.
    pub(super) fn of_toml(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let (line, mut field) = locate(text, error.span().map_or(0, |span| span.start));
        // A missing field has no line of its own: the reader points at its table, and only the message names it.
        if let Some(missing) = error.message().strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
            // The reader points at the file's first table when a whole table is missing.
            field = if TABLES.contains(&missing) || field == WHOLE {
                missing.to_owned()
            } else {
                format!("{field}.{missing}")
            };
        }
        Self::Invalid { path: path.to_owned(), line, field, problem: error.message().trim().replace('\n', "; ") }
    }
}

const WHOLE: &str = "config";
/// Tables that a config must have; no field inside a table is called so.
const TABLES: [&str; 2] = ["genesis", "node"];

/// The line (from 1) of a position, and the field that stands there with the table around it.
fn locate(text: &str, position: usize) -> (usize, String) {
    let position = position.min(text.len());
    let before = text.as_bytes()[..position].iter().filter(|byte| **byte == b'\n').count();
    let mut table = String::new();
    let mut repeats = std::collections::BTreeMap::<String, usize>::new();
    let mut field = String::new();
    for line in text.lines().take(before + 1) {
        let line = line.trim();
        field.clear();
        if let Some(name) = line.strip_prefix("[[").and_then(|rest| rest.split("]]").next()) {
            let count = repeats.entry(name.trim().to_owned()).or_default();
            *count += 1;
            table = format!("{}[{count}]", name.trim());
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            name.trim().clone_into(&mut table);
        } else if let Some((key, _)) = line.split_once('=') {
            key.trim().clone_into(&mut field);
        }
    }
    let place = match (table.is_empty(), field.is_empty()) {
        (true, true) => WHOLE.to_owned(),
        (true, false) => field,
        (false, true) => table,
        (false, false) => format!("{table}.{field}"),
    };
    (before + 1, place)
}
