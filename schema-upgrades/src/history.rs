//! What was applied, and how far the current step is: rows in trees of the database itself, each with its checksum.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::UpgradeError;
use crate::lock::Holder;
use crate::medium::{Change, Medium};

/// The tree of applied steps.
pub(crate) const HISTORY: &str = "schema/history";
/// The tree with the step that is under way.
pub(crate) const PROGRESS: &str = "schema/progress";
/// The tree with the mark that ends the downgrade window.
pub(crate) const MARKS: &str = "schema/marks";
/// Rows that `repair` replaced, as they were.
pub(crate) const ASIDE: &str = "schema/aside";
const FINALISED: &[u8] = b"finalised";
pub(crate) const CURRENT: &[u8] = b"current";
const CHECKSUM: usize = 32;
const MAX_ROWS: usize = 100_000;

/// How a row came into the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The step ran to its end.
    Applied,
    /// An operator said that its result was there.
    Baseline,
    /// `repair` found its result in the database.
    Repaired,
}

/// One applied step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRow {
    /// Its version.
    pub version: u32,
    /// Its name.
    pub name: String,
    /// The checksum of its declared content, in hex.
    pub checksum: String,
    /// Its place in the order in which steps were recorded, from 1.
    pub sequence: u64,
    /// How it came here.
    pub origin: Origin,
    /// Chunks that it took, over all attempts.
    pub chunks: u64,
    /// When it was done, in milliseconds since 1970.
    pub done_ms: u64,
    /// Who did it.
    pub by: Holder,
    /// The backup taken before it, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<PathBuf>,
}

/// Which way a step goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the newer layout.
    #[default]
    Up,
    /// Back to the older one.
    Down,
}

/// The step under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProgressRow {
    pub version: u32,
    pub checksum: String,
    pub chunks: u64,
    /// Where the next chunk begins, in hex; none at the beginning.
    pub from: Option<String>,
    #[serde(default)]
    pub direction: Direction,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<PathBuf>,
}

impl ProgressRow {
    pub(crate) const fn new(version: u32, checksum: String, direction: Direction, backup: Option<PathBuf>) -> Self {
        Self { version, checksum, chunks: 0, from: None, direction, backup }
    }
}

/// Up to where there is no way back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FinalisedRow {
    pub version: u32,
    pub done_ms: u64,
    pub by: Holder,
}

fn seal<T: Serialize>(row: &T) -> Vec<u8> {
    let text = serde_json::to_vec(row).expect("rows have text keys and no failing fields");
    let mut bytes = blake3::hash(&text).as_bytes().to_vec();
    bytes.extend_from_slice(&text);
    bytes
}

fn unseal<T: DeserializeOwned>(what: &'static str, key: &[u8], bytes: &[u8]) -> Result<T, UpgradeError> {
    let row = bytes.split_at_checked(CHECKSUM).filter(|(sum, text)| blake3::hash(text).as_bytes() == *sum);
    row.and_then(|(_, text)| serde_json::from_slice(text).ok())
        .ok_or_else(|| UpgradeError::Damaged { what, key: hex::encode(key) })
}

/// All applied steps, in order.
pub(crate) fn rows(medium: &dyn Medium) -> Result<Result<Vec<HistoryRow>, UpgradeError>, sled::Error> {
    let pairs = medium.scan(HISTORY, None, MAX_ROWS)?;
    Ok(pairs.iter().map(|(key, value)| unseal("history", key, value)).collect())
}

pub(crate) fn record(medium: &dyn Medium, row: &HistoryRow) -> Result<(), sled::Error> {
    medium.apply(HISTORY, &[Change::put(&row.version.to_be_bytes(), &seal(row))])
}

pub(crate) fn progress(medium: &dyn Medium) -> Result<Result<Option<ProgressRow>, UpgradeError>, sled::Error> {
    let value = medium.get(PROGRESS, CURRENT)?;
    Ok(value.map(|value| unseal("progress", CURRENT, &value)).transpose())
}

pub(crate) fn set_progress(medium: &dyn Medium, row: Option<&ProgressRow>) -> Result<(), sled::Error> {
    let change = row.map_or_else(|| Change::remove(CURRENT), |row| Change::put(CURRENT, &seal(row)));
    medium.apply(PROGRESS, &[change])
}

pub(crate) fn forget(medium: &dyn Medium, version: u32) -> Result<(), sled::Error> {
    medium.apply(HISTORY, &[Change::remove(&version.to_be_bytes())])
}

/// The version up to which there is no way back; 0 if none.
pub(crate) fn finalised(medium: &dyn Medium) -> Result<Result<u32, UpgradeError>, sled::Error> {
    let Some(value) = medium.get(MARKS, FINALISED)? else { return Ok(Ok(0)) };
    Ok(unseal::<FinalisedRow>("finalised", FINALISED, &value).map(|row| row.version))
}

pub(crate) fn set_finalised(medium: &dyn Medium, row: &FinalisedRow) -> Result<(), sled::Error> {
    medium.apply(MARKS, &[Change::put(FINALISED, &seal(row))])
}

/// History rows by key; none where a row cannot be read.
pub(crate) type RawRows = Vec<(Vec<u8>, Option<HistoryRow>)>;

/// All history rows, each readable or not.
pub(crate) fn raw_rows(medium: &dyn Medium) -> Result<RawRows, sled::Error> {
    let pairs = medium.scan(HISTORY, None, MAX_ROWS)?;
    Ok(pairs
        .into_iter()
        .map(|(key, value)| {
            let row = unseal("history", &key, &value).ok();
            (key, row)
        })
        .collect())
}

/// Copies a row to where replaced rows are kept, before it is replaced.
pub(crate) fn keep_aside(medium: &dyn Medium, tree: &str, key: &[u8], at_ms: u64) -> Result<(), sled::Error> {
    let Some(value) = medium.get(tree, key)? else { return Ok(()) };
    let name = [tree.as_bytes(), b"/", key, b"/", &at_ms.to_be_bytes()].concat();
    medium.apply(ASIDE, &[Change::put(&name, &value)])
}
