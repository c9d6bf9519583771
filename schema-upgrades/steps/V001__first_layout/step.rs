//! V001: the first layout of the node's store. See the note beside this file.

use crate::medium::Medium;
use crate::step::{Advance, Step, StepError};

/// Block rows by height.
pub const BLOCKS: &str = "blocks";
/// Heights by block hash.
pub const HEIGHTS: &str = "heights";
/// Transaction ids and places of bodies, in groups by height and first index.
pub const BLOCK_TRANSACTIONS: &str = "block_transactions";
/// Receipts, in groups by height and first index.
pub const RECEIPTS: &str = "receipts";
/// Places in the chain by transaction id.
pub const TRANSACTIONS: &str = "transactions";
/// Pages of the state checkpoints, under two alternating slots.
pub const PAGES: &str = "pages";
/// Headers of the state checkpoints, one a slot.
pub const CHECKPOINTS: &str = "checkpoints";
/// The audit log by entry number.
pub const AUDIT: &str = "audit";

const TREES: [&str; 8] = [BLOCKS, HEIGHTS, BLOCK_TRANSACTIONS, RECEIPTS, TRANSACTIONS, PAGES, CHECKPOINTS, AUDIT];

/// The step.
pub struct FirstLayout;

impl Step for FirstLayout {
    fn version(&self) -> u32 {
        1
    }

    fn name(&self) -> &'static str {
        "first_layout"
    }

    fn content(&self) -> &[&str] {
        &[include_str!("NOTE.md"), include_str!("step.rs")]
    }

    fn advance(&self, medium: &dyn Medium, _from: Option<&[u8]>) -> Result<Advance, StepError> {
        for tree in TREES {
            medium.ensure_tree(tree)?;
        }
        Ok(Advance::Done)
    }
}
