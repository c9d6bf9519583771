//! Tree hashing on the processor.

use aurigraph_ledger::{Hash, TreeHasher};
use aws_lc_rs::digest::{Context, SHA3_256};

/// H(tag, message) with SHA3-256: single messages by AWS-LC, levels of trees eight messages at once where the processor has
/// AVX-512 or AVX2.
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
        let done = eight_at_once(tag, messages, message_len, out);
        let (messages, out) = (&messages[done * message_len..], &mut out[done..]);
        let start = tagged(tag);
        for (message, out) in messages.chunks_exact(message_len).zip(out) {
            *out = finish(start.clone(), message);
        }
    }
}

/// Eight states permuted at once, by the widest vectors of this processor.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
enum Wide {
    Avx512(crate::mldsa::Avx512),
    Avx2(crate::mldsa::Avx2),
}

#[cfg(target_arch = "x86_64")]
impl Wide {
    fn detect() -> Option<Self> {
        crate::mldsa::Avx512::detect().map(Self::Avx512).or_else(|| crate::mldsa::Avx2::detect().map(Self::Avx2))
    }

    fn permute(self, states: &mut crate::keccak::Eight) {
        match self {
            Self::Avx512(avx512) => avx512.permute_eight(states),
            Self::Avx2(avx2) => avx2.permute_eight(states),
        }
    }

    /// From how many messages on eight states, some of them idle, cost less than as many single hashes.
    const fn worth_it_from(self) -> usize {
        match self {
            Self::Avx512(_) => 2,
            Self::Avx2(_) => 4,
        }
    }
}

/// Hashes eights of messages, the last one short if that is worth it, and returns how many messages that were.
#[cfg(target_arch = "x86_64")]
fn eight_at_once(tag: &str, messages: &[u8], message_len: usize, out: &mut [Hash]) -> usize {
    use crate::keccak::{Eight, RATE_256};
    let Some(wide) = Wide::detect().filter(|wide| out.len() >= wide.worth_it_from()) else { return 0 };
    // What is hashed but for the messages: the tag in front, and FIPS 202's padding behind.
    let start = 1 + tag.len();
    let mut padded = vec![0; (start + message_len) / RATE_256 * RATE_256 + RATE_256];
    padded[0] = u8::try_from(tag.len()).unwrap_or(u8::MAX);
    padded[1..start].copy_from_slice(tag.as_bytes());
    padded[start + message_len] = 0x06;
    padded.last_mut().into_iter().for_each(|last| *last |= 0x80);
    let blocks = padded.len() / RATE_256;
    let mut padded: [Vec<u8>; 8] = std::array::from_fn(|_| padded.clone());
    let mut done = 0;
    for (eight, out) in messages.chunks(8 * message_len).zip(out.chunks_mut(8)) {
        if out.len() < wide.worth_it_from() {
            break;
        }
        for (message, padded) in eight.chunks_exact(message_len).zip(&mut padded) {
            padded[start..start + message_len].copy_from_slice(message);
        }
        let mut states = Eight::new();
        for block in 0..blocks {
            states.absorb(padded.each_ref().map(|padded| &padded[block * RATE_256..(block + 1) * RATE_256]));
            wide.permute(&mut states);
        }
        // States behind the last message hashed something once more; nobody reads them.
        let mut hashes = [[0; 32]; 8];
        states.squeeze(hashes.each_mut().map(|hash| &mut hash[..]));
        for (out, hash) in out.iter_mut().zip(hashes) {
            out.0 = hash;
        }
        done += out.len();
    }
    done
}

#[cfg(not(target_arch = "x86_64"))]
fn eight_at_once(_tag: &str, _messages: &[u8], _message_len: usize, _out: &mut [Hash]) -> usize {
    0
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
        // Of every count of messages modulo eight.
        for count in 0..=17 {
            let (mut ours, mut plain) = (vec![Hash::ZERO; count], vec![Hash::ZERO; count]);
            CpuHasher.hash_level("node", &bytes[..64 * count], 64, &mut ours);
            PlainHasher.hash_level("node", &bytes[..64 * count], 64, &mut plain);
            assert_eq!(ours, plain, "{count} messages");
        }
        for len in [1, 64, 129, 130, 131, 136, 512, 1_000, 2_000] {
            let (mut ours, mut plain) = (vec![Hash::ZERO; 4_096 / len], vec![Hash::ZERO; 4_096 / len]);
            let whole = &bytes[..4_096 / len * len];
            CpuHasher.hash_level("level", whole, len, &mut ours);
            PlainHasher.hash_level("level", whole, len, &mut plain);
            assert_eq!(ours, plain, "messages of {len} bytes");
        }
    }
}
