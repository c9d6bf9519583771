//! The first byte of every message between nodes: who handles it. What follows belongs to the handler's own codec.

/// A control message of the consensus machine (blocks, fetches, probes).
pub const CONTROL_CONSENSUS: u8 = 0x01;

/// A batch, pushed ahead of the block that names it.
pub const BULK_BATCH_PUSH: u8 = 0x10;
/// Asks for batches by digest.
pub const BULK_BATCH_REQUEST: u8 = 0x11;
/// Answers with batches.
pub const BULK_BATCH_REPLY: u8 = 0x12;
/// A bulk message of the consensus machine (commit ranges, large block fetches).
pub const BULK_CONSENSUS: u8 = 0x20;

/// What nodes say to each other about snapshots of the state.
pub const BULK_SNAPSHOT: u8 = 0x30;

/// Puts the kind in front of a body.
#[must_use]
pub fn framed(kind: u8, body: &[u8]) -> bytes::Bytes {
    let mut frame = Vec::with_capacity(body.len() + 1);
    frame.push(kind);
    frame.extend_from_slice(body);
    frame.into()
}
