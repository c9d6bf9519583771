//! The door through which fast hashing is injected.
//!
//! Every tree of the ledger asks a [`TreeHasher`] for its nodes, so that vector and GPU implementations can be put in
//! by the node. Roots are equal under every implementation; nothing here decides a tree's shape.

use crate::hash::{Hash, h};

/// Computes H(tag, message) for one message or for a whole level of a tree.
pub trait TreeHasher: Send + Sync {
    /// H(tag, message).
    fn hash_one(&self, tag: &str, message: &[u8]) -> Hash;

    /// H(tag, m) for every message m of `message_len` bytes in `messages`, in order, into `out`.
    ///
    /// `messages.len() == message_len * out.len()`, and `message_len` is not zero. Binary trees ask with messages of
    /// 64 bytes, state trees with 512.
    fn hash_level(&self, tag: &str, messages: &[u8], message_len: usize, out: &mut [Hash]);
}

/// The plain implementation: one message after the other with the `sha3` crate.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainHasher;

impl TreeHasher for PlainHasher {
    fn hash_one(&self, tag: &str, message: &[u8]) -> Hash {
        h(tag, message)
    }

    fn hash_level(&self, tag: &str, messages: &[u8], message_len: usize, out: &mut [Hash]) {
        debug_assert_eq!(messages.len(), message_len * out.len());
        for (message, out) in messages.chunks_exact(message_len).zip(out) {
            *out = h(tag, message);
        }
    }
}
