//! Verdicts that were reached once and need not be reached again.

use std::collections::HashMap;

use aurigraph_ledger::Hash;
use foldhash::fast::RandomState;

/// What a verdict is about: the same transaction signed again, or judged under another key, is another matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VerdictKey {
    /// The transaction's id.
    pub id: Hash,
    /// BLAKE3 of the signature.
    pub signature: Hash,
    /// H("address", key) of the key used.
    pub key: Hash,
}

impl std::hash::Hash for VerdictKey {
    /// A part of each: they are hashes themselves, and what they stand beside is seeded.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        for part in [&self.id, &self.signature, &self.key] {
            state.write_u64(part.0.first_chunk().map_or(0, |first| u64::from_le_bytes(*first)));
        }
    }
}

/// A bounded map in two generations: when the young one is full it becomes the old one, and the old one is forgotten.
/// What is used moves to the young one, so what is used stays.
#[derive(Debug)]
pub(super) struct VerdictCache {
    young: HashMap<VerdictKey, bool, RandomState>,
    old: HashMap<VerdictKey, bool, RandomState>,
    half: usize,
}

impl VerdictCache {
    /// A cache of at most `bound` verdicts.
    pub fn new(bound: usize) -> Self {
        let half = (bound / 2).max(1);
        let room = || HashMap::with_capacity_and_hasher(half, RandomState::default());
        Self { young: room(), old: room(), half }
    }

    pub fn get(&mut self, key: &VerdictKey) -> Option<bool> {
        if let Some(valid) = self.young.get(key) {
            return Some(*valid);
        }
        let valid = self.old.remove(key)?;
        self.put(*key, valid);
        Some(valid)
    }

    pub fn put(&mut self, key: VerdictKey, valid: bool) {
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            // The room of the old one is used again.
            std::mem::swap(&mut self.old, &mut self.young);
            self.young.clear();
        }
        self.young.insert(key, valid);
    }

    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u8, signature: u8, key: u8) -> VerdictKey {
        VerdictKey { id: Hash([id; 32]), signature: Hash([signature; 32]), key: Hash([key; 32]) }
    }

    #[test]
    fn a_verdict_for_another_signature_or_key_is_not_found() {
        let mut cache = VerdictCache::new(8);
        cache.put(key(1, 1, 1), true);
        assert_eq!(cache.get(&key(1, 1, 1)), Some(true));
        assert_eq!(cache.get(&key(1, 1, 2)), None);
        assert_eq!(cache.get(&key(1, 2, 1)), None);
        assert_eq!(cache.get(&key(2, 1, 1)), None);
    }

    #[test]
    fn the_bound_holds_and_what_is_used_stays() {
        let mut cache = VerdictCache::new(8);
        cache.put(key(0, 0, 0), false);
        for at in 1..=200 {
            cache.put(key(at, 0, 0), true);
            assert!(cache.len() <= 8, "{} verdicts", cache.len());
            assert_eq!(cache.get(&key(0, 0, 0)), Some(false), "after {at} others");
        }
        assert_eq!(cache.get(&key(1, 0, 0)), None);
    }
}
