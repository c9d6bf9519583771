//! Digests that a thread has computed before, for tests that run many validators in one thread (ADR 0033).
//!
//! A simulated cluster computes each digest once per validator and per check; that was a third of its time. The table
//! keeps the whole input beside its digest and compares it, so that no answer ever depends on it. Off until a thread
//! asks for it; a build without the feature `digest-memo` has nothing of this.

use std::cell::RefCell;

use crate::hash::Hash;

/// Slots of the table: a power of two. A digest takes the slot of the one before it there.
const SLOTS: usize = 1 << 14;
/// Longer inputs are not kept.
const MAX_INPUT: usize = 8 * 1024;
const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;

/// An input, its tag and then all its parts, with its digest.
#[derive(Debug, Default)]
struct Known {
    key: u64,
    tag_len: usize,
    input: Vec<u8>,
    digest: Hash,
}

thread_local! {
    static TABLE: RefCell<Vec<Known>> = const { RefCell::new(Vec::new()) };
}

/// From now on this thread looks digests up, beginning with an empty table.
pub fn start() {
    TABLE.with_borrow_mut(|table| {
        table.clear();
        table.resize_with(SLOTS, Known::default);
    });
}

/// From now on this thread computes every digest.
pub fn stop() {
    TABLE.with_borrow_mut(|table| *table = Vec::new());
}

/// The digest of an input, computed only if the table does not know it.
pub(crate) fn digest(tag: &str, parts: &[&[u8]], compute: impl FnOnce() -> Hash) -> Hash {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    if len > MAX_INPUT {
        return compute();
    }
    TABLE.with_borrow_mut(|table| {
        if table.is_empty() {
            return compute();
        }
        let key = key(tag, parts);
        let at = usize::try_from(key >> 32).unwrap_or(0) % table.len();
        let known = &mut table[at];
        if known.key == key && known.tag_len == tag.len() && is_input(&known.input, tag, parts) {
            return known.digest;
        }
        known.key = key;
        known.tag_len = tag.len();
        known.input.clear();
        known.input.extend_from_slice(tag.as_bytes());
        parts.iter().for_each(|part| known.input.extend_from_slice(part));
        known.digest = compute();
        known.digest
    })
}

fn is_input(known: &[u8], tag: &str, parts: &[&[u8]]) -> bool {
    let Some(mut rest) = known.strip_prefix(tag.as_bytes()) else { return false };
    for part in parts {
        let Some((head, tail)) = rest.split_at_checked(part.len()) else { return false };
        if head != *part {
            return false;
        }
        rest = tail;
    }
    rest.is_empty()
}

/// Spreads inputs over the table. Where parts end makes a difference; that costs a second slot at most.
fn key(tag: &str, parts: &[&[u8]]) -> u64 {
    let mut lanes = [tag.len() as u64, PRIME, !PRIME, 7];
    let mut fold = |lane: usize, word: u64| {
        let mixed = (lanes[lane] ^ word).wrapping_mul(PRIME);
        lanes[lane] = mixed ^ (mixed >> 29);
    };
    let word = |bytes: &[u8]| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    };
    for part in parts {
        let (blocks, rest) = part.as_chunks::<32>();
        for block in blocks {
            for lane in 0..4 {
                fold(lane, word(&block[8 * lane..8 * lane + 8]));
            }
        }
        for piece in rest.chunks(8) {
            fold(0, word(piece));
        }
        fold(1, part.len() as u64);
    }
    for piece in tag.as_bytes().chunks(8) {
        fold(2, word(piece));
    }
    let [a, b, c, d] = lanes;
    let mixed = (a ^ b.rotate_left(17) ^ c.rotate_left(31) ^ d.rotate_left(47)).wrapping_mul(PRIME);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{h, h_parts};

    /// Every input is asked for three times, in a table that has to give up most of what it takes.
    #[test]
    fn digests_that_are_looked_up_are_those_that_are_computed() {
        let input = |number: u64| number.to_le_bytes().repeat(usize::try_from(number % 40).unwrap_or(0));
        let computed: Vec<Hash> = (0..40_000).map(|number| h("memo", &input(number))).collect();
        start();
        for _ in 0..3 {
            for (number, expected) in (0..).zip(&computed) {
                assert_eq!(h("memo", &input(number)), *expected, "{number}");
            }
        }
        stop();
    }

    #[test]
    fn neither_the_tag_nor_where_parts_end_is_mistaken() {
        let all =
            || [h("a", b"bc"), h("ab", b"c"), h_parts("a", &[b"b", b"c"]), h_parts("a", &[b"", b"bc"]), h("a", b"b")];
        let computed = all();
        start();
        assert_eq!([all(), all()], [computed, computed]);
        stop();
        assert_eq!(computed[0], computed[2]);
    }
}
