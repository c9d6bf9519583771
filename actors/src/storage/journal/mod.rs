//! The journal: one log of framed records in segment files, the truth from which everything else is rebuilt.
//!
//! - A frame is `length u32 | crc32 u32 | kind u8 | key [32] | body`; the length counts kind, key and body, the checksum
//!   covers them. A zero length ends a segment, because segments are preallocated.
//! - A segment is sealed before the next one begins: synced, cut to its records, with a sidecar of its index. Only the
//!   last segment may have a torn tail; it is cut at the first bad frame when the journal is opened. A bad frame
//!   anywhere else is corruption, and the node refuses to start on it.
//! - The first group after a sync begins with a mark that says how far the log was synced. A bad frame with such a mark
//!   behind it is no torn tail but damage to what was once safe, and the node refuses to start on that too.
//! - Appends are grouped: what waits is written at once and synced once. A failed write or sync is final for the
//!   process: after a failed sync nobody knows what the disk holds.
//! - Places never move. Whole segments at the beginning may be pruned; what must outlive them stands in the log's base.
//!   Readers use their own handles and take no lock for reading. Writes are buffered; direct I/O into recycled segments is the known next gain.

mod actor;
mod base;
mod error;
mod frame;
mod index;
mod inspect;
mod open;
mod prune;
mod reader;
mod segment;
mod writer;

#[cfg(test)]
mod actor_tests;
#[cfg(test)]
mod prune_tests;
#[cfg(test)]
mod tests;

pub use actor::{JournalActor, JournalMsg, barrier};
pub use error::JournalError;
pub use inspect::{JournalInspection, inspect};
pub use open::{Journal, JournalIdentity, JournalOptions};
pub use prune::Pruned;
pub use reader::JournalReader;
