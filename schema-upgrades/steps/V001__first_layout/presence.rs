//! How the first layout is recognised. Beside `step.rs`, whose text is under the released checksum.

use super::step::{AUDIT, BLOCK_TRANSACTIONS, BLOCKS, CHECKPOINTS, HEIGHTS, PAGES, RECEIPTS, TRANSACTIONS};
use crate::medium::Medium;
use crate::step::{Presence, StepError};

/// All of its trees, some, or none.
///
/// # Errors
/// None.
pub fn presence(medium: &dyn Medium) -> Result<Presence, StepError> {
    let wanted = [BLOCKS, HEIGHTS, BLOCK_TRANSACTIONS, RECEIPTS, TRANSACTIONS, PAGES, CHECKPOINTS, AUDIT];
    let there = medium.trees();
    let missing: Vec<&str> = wanted.into_iter().filter(|name| there.iter().all(|tree| tree != name)).collect();
    Ok(match missing.len() {
        0 => Presence::Complete,
        count if count == wanted.len() => Presence::Absent,
        _ => Presence::Partial(format!("the trees {} are missing", missing.join(", "))),
    })
}
