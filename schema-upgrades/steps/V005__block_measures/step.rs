//! V005: blocks keep what this node measured of them. See the note beside this file.

use crate::medium::{Change, Medium};
use crate::step::{Advance, Presence, Step, StepError};

/// Bytes behind a block row's header.
pub const MEASURES: usize = 1 + 8 + 8;

const BLOCKS: &str = "blocks";
const CHUNK: usize = 200;
const DIGEST: usize = 32;
/// Hash, commit index and count, before the batches of a block row.
const BATCHES_AT: usize = DIGEST + 8 + 4;

/// The step.
pub struct BlockMeasures;

fn varint(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut value = 0_usize;
    for (more, byte) in bytes.get(at..)?.iter().enumerate().take(4) {
        value |= usize::from(byte & 0x7f) << (7 * more);
        if byte & 0x80 == 0 {
            return Some((value, at + more + 1));
        }
    }
    None
}

/// Where a row's header ends.
fn header_end(row: &[u8]) -> Option<usize> {
    let (count, at) = varint(row, BATCHES_AT)?;
    let (length, at) = varint(row, at.checked_add(count.checked_mul(DIGEST)?)?)?;
    at.checked_add(length).filter(|end| *end <= row.len())
}

/// Whether a row has measures; an error for a row of neither form.
fn has_measures(key: &[u8], row: &[u8]) -> Result<bool, StepError> {
    match header_end(row).map(|end| row.len() - end) {
        Some(0) => Ok(false),
        Some(MEASURES) => Ok(true),
        _ => Err(format!("the block row {} does not decode", hex::encode(key)).into()),
    }
}

/// Brings a chunk of rows into one of the forms.
fn convert(
    medium: &dyn Medium,
    from: Option<&[u8]>,
    wanted: bool,
    change: impl Fn(&[u8]) -> Vec<u8>,
) -> Result<Advance, StepError> {
    let rows = medium.scan(BLOCKS, from, CHUNK)?;
    let mut changes = Vec::new();
    for (key, row) in &rows {
        if has_measures(key, row)? != wanted {
            changes.push(Change::put(key, &change(row)));
        }
    }
    if !changes.is_empty() {
        medium.apply(BLOCKS, &changes)?;
    }
    Ok(match rows.last() {
        Some((key, _)) if rows.len() == CHUNK => Advance::More(key.clone()),
        _ => Advance::Done,
    })
}

impl Step for BlockMeasures {
    fn version(&self) -> u32 {
        5
    }

    fn name(&self) -> &'static str {
        "block_measures"
    }

    fn content(&self) -> &[&str] {
        &[include_str!("NOTE.md"), include_str!("step.rs")]
    }

    fn advance(&self, medium: &dyn Medium, from: Option<&[u8]>) -> Result<Advance, StepError> {
        convert(medium, from, true, |row| [row, &[0; MEASURES]].concat())
    }

    /// A store without blocks shows nothing.
    fn presence(&self, medium: &dyn Medium) -> Result<Presence, StepError> {
        let (mut from, mut with, mut without) = (None, 0_u64, 0_u64);
        loop {
            let rows = medium.scan(BLOCKS, from.as_deref(), CHUNK)?;
            for (key, row) in &rows {
                let count = if has_measures(key, row)? { &mut with } else { &mut without };
                *count += 1;
            }
            let Some((key, _)) = rows.last() else { break };
            from = Some(key.clone());
        }
        Ok(match (with, without) {
            (0, _) => Presence::Absent,
            (_, 0) => Presence::Complete,
            (_, without) => Presence::Partial(format!("{without} block rows have no measures")),
        })
    }

    fn source(&self) -> Option<&str> {
        Some(BLOCKS)
    }

    fn reversible(&self) -> bool {
        true
    }

    fn retreat(&self, medium: &dyn Medium, from: Option<&[u8]>) -> Result<Advance, StepError> {
        convert(medium, from, false, |row| row[..row.len() - MEASURES].to_vec())
    }
}
