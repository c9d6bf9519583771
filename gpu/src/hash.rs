//! Tree hashing on the processor.

use aurigraph_ledger::{Hash, TreeHasher};
use aws_lc_rs::digest::{Context, SHA3_256};

/// H(tag, message) with the SHA3-256 of AWS-LC, one message after the other.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuHasher;

/// A context that has taken in the tag already: cloning it is cheaper than starting anew.
fn tagged(tag: &str) -> Context {
    let mut context = Context::new(&SHA3_256);
    // Tags are literals of a few letters; the ledger's own h() has the same limit.
    context.update(&[u8::try_from(tag.len()).unwrap_or(u8::MAX)]);
    context.update(tag.as_bytes());
    context
}

fn finish(mut context: Context, message: &[u8]) -> Hash {
    context.update(message);
    let mut hash = Hash::ZERO;
    hash.0.copy_from_slice(context.finish().as_ref());
    hash
}

impl TreeHasher for CpuHasher {
    fn hash_one(&self, tag: &str, message: &[u8]) -> Hash {
        finish(tagged(tag), message)
    }

    fn hash_level(&self, tag: &str, messages: &[u8], message_len: usize, out: &mut [Hash]) {
        let start = tagged(tag);
        for (message, out) in messages.chunks_exact(message_len).zip(out) {
            *out = finish(start.clone(), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aurigraph_ledger::PlainHasher;

    #[test]
    fn hashes_equal_those_of_the_plain_implementation() {
        let bytes: Vec<u8> = (0..4_096_u32).map(|at| (at % 251) as u8).collect();
        for len in [0, 1, 63, 64, 130, 131, 136, 512, 4_096] {
            assert_eq!(CpuHasher.hash_one("node", &bytes[..len]), PlainHasher.hash_one("node", &bytes[..len]));
        }
        for len in [64, 512] {
            let (mut ours, mut plain) = (vec![Hash::ZERO; 4_096 / len], vec![Hash::ZERO; 4_096 / len]);
            CpuHasher.hash_level("level", &bytes, len, &mut ours);
            PlainHasher.hash_level("level", &bytes, len, &mut plain);
            assert_eq!(ours, plain);
        }
    }
}
