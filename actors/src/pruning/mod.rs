//! Pruning of the log: which segments nobody needs any more, and the actor that has them removed.
//!
//! The journal removes segments and does not know what they mean; here it is known. A segment goes when all of these
//! are past it:
//!
//! - the store's older checkpoint and the newest snapshot whose chunks are whole: from either, execution goes on with
//!   the commits behind it, their batches and their blocks;
//! - the place from which a restart replays the consensus state, and the batches that blocks behind it name;
//! - own batches that are not delivered;
//! - what peers are to find here: an age, a number of commits and a number of bytes, all three.
//!
//! What outlives its segment goes into the log's base: epochs with what certifies them, the newest floors and modes.

mod actor;
mod horizon;
mod refill;

pub use actor::{Pruner, PrunerMsg};
pub(crate) use horizon::outlives;
pub use refill::{RefillError, Which, own_snapshot, refill};
