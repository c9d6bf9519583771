//! The pure ledger: types, canonical encoding, transactions, execution, Merkle trees, genesis.
//!
//! Knows no tokio, ractor, sled or warp, reads no clock and draws no randomness: the same commits give the same
//! state root on every machine. Signature checks and fast hashing are injected through small traits.

pub mod codec;
pub mod hash;

pub use codec::{CodecError, Reader, Writer};
pub use hash::{Hash, HashParseError, blake3_digest, h, h_parts};
