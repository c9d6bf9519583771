//! Verdicts that were reached once and need not be reached again.

use std::hash::BuildHasher;

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

/// Places in one set.
const WAYS: usize = 7;

/// Which verdicts one set holds, in 16 bytes: what is not there, as most that is asked for, is not found without a look at
/// the verdicts themselves.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(16))]
struct Set {
    /// Sixteen bits of the hash of what stands in each place; 0 in an empty one.
    tags: [u16; WAYS],
    /// The place in a full set that the next verdict gets.
    hand: u8,
}

impl Set {
    fn next_place(&mut self) -> usize {
        if let Some(empty) = self.tags.iter().position(|tag| *tag == 0) {
            return empty;
        }
        let place = usize::from(self.hand);
        self.hand = (self.hand + 1) % WAYS as u8;
        place
    }
}

/// A bounded table of sets of seven verdicts. In a full set they make room in turn. To have been asked for keeps none: what
/// execution has asked for is worth nothing afterwards, and is taken out.
#[derive(Debug)]
pub(super) struct VerdictCache {
    hasher: RandomState,
    sets: Box<[Set]>,
    verdicts: Box<[(VerdictKey, bool)]>,
    len: usize,
}

impl VerdictCache {
    /// A cache of at most `bound` verdicts, and of seven at least.
    pub fn new(bound: usize) -> Self {
        let sets = (bound / WAYS).max(1);
        let nothing = (VerdictKey { id: Hash([0; 32]), signature: Hash([0; 32]), key: Hash([0; 32]) }, false);
        let verdicts = vec![nothing; sets * WAYS].into();
        Self { hasher: RandomState::default(), sets: vec![Set::default(); sets].into(), verdicts, len: 0 }
    }

    /// The set of a key, and its tag.
    #[inline]
    fn place_of(&self, key: &VerdictKey) -> (usize, u16) {
        let hash = self.hasher.hash_one(key);
        let set = (u128::from(hash) * self.sets.len() as u128) >> 64;
        (set as usize, (hash as u16).max(1))
    }

    #[inline]
    fn find(&self, set: usize, tag: u16, key: &VerdictKey) -> Option<usize> {
        let tags = &self.sets[set].tags;
        // Without a branch for each place: the next look-up starts while this one still waits for memory.
        let mut alike = (0..WAYS).fold(0_u32, |alike, way| alike | u32::from(tags[way] == tag) << way);
        while alike != 0 {
            let way = alike.trailing_zeros() as usize;
            if self.verdicts[set * WAYS + way].0 == *key {
                return Some(way);
            }
            alike &= alike - 1;
        }
        None
    }

    pub fn get(&self, key: &VerdictKey) -> Option<bool> {
        let (set, tag) = self.place_of(key);
        self.find(set, tag, key).map(|way| self.verdicts[set * WAYS + way].1)
    }

    /// Gives a verdict for the last time.
    pub fn take(&mut self, key: &VerdictKey) -> Option<bool> {
        let (set, tag) = self.place_of(key);
        let way = self.find(set, tag, key)?;
        self.sets[set].tags[way] = 0;
        self.len -= 1;
        Some(self.verdicts[set * WAYS + way].1)
    }

    pub fn put(&mut self, key: VerdictKey, valid: bool) {
        let (set, tag) = self.place_of(&key);
        let way = self.find(set, tag, &key).unwrap_or_else(|| {
            let set = &mut self.sets[set];
            let way = set.next_place();
            self.len += usize::from(set.tags[way] == 0);
            set.tags[way] = tag;
            way
        });
        self.verdicts[set * WAYS + way] = (key, valid);
    }

    pub const fn len(&self) -> usize {
        self.len
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
    fn the_bound_holds_and_the_oldest_go_first_however_often_they_were_asked_for() {
        let mut cache = VerdictCache::new(8);
        for at in 0..=200 {
            cache.put(key(at, 0, 0), true);
            assert!(cache.len() <= 8, "{} verdicts", cache.len());
            for other in 0..=200 {
                assert_eq!(cache.get(&key(other, 0, 0)).is_some(), other <= at && other + 7 > at, "{other} after {at}");
            }
        }
    }

    #[test]
    fn what_is_taken_is_gone_and_makes_room() {
        let mut cache = VerdictCache::new(7);
        (0..7).for_each(|at| cache.put(key(at, 0, 0), true));
        assert_eq!((cache.take(&key(3, 0, 0)), cache.take(&key(3, 0, 0)), cache.len()), (Some(true), None, 6));
        cache.put(key(9, 0, 0), false);
        assert_eq!(cache.get(&key(9, 0, 0)), Some(false));
        assert!((0..7).filter(|at| *at != 3).all(|at| cache.get(&key(at, 0, 0)).is_some()), "nobody else had to go");
    }

    /// A node's way: each verdict is asked for when its transaction is executed.
    #[test]
    fn verdicts_are_there_when_transactions_are_executed_seconds_later() {
        for (seconds, least) in [(2, 99), (4, 90)] {
            let scale = 16;
            let mut cache = VerdictCache::new(crate::bounds::crypto::VERDICTS / scale);
            let late = (30_000 * seconds / scale) as u64;
            let (all, mut kept) = (late * 8, 0);
            for number in 0..all {
                cache.put(numbered(number), true);
                let Some(executed) = number.checked_sub(late) else { continue };
                kept += u64::from(cache.take(&numbered(executed)).is_some());
            }
            let asked = all - late;
            assert!(kept * 100 >= asked * least, "{kept} of {asked} after {seconds} s");
        }
    }

    fn numbered(number: u64) -> VerdictKey {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_le_bytes());
        VerdictKey { id: Hash(hash), signature: Hash([1; 32]), key: Hash([2; 32]) }
    }

    #[test]
    fn a_full_cache_still_has_nearly_all_of_its_newer_half() {
        let bound = 7 * 1_024;
        let mut cache = VerdictCache::new(bound);
        // So many that no set is left with one of the first: their places are drawn.
        let all = 8 * bound as u64;
        for number in 0..all {
            cache.put(numbered(number), number % 2 == 0);
            cache.put(numbered(number), number % 2 == 0);
            assert!(cache.len() <= bound);
        }
        assert_eq!(cache.len(), bound);
        let newer = all - bound as u64 / 2..all;
        let kept = newer.clone().filter(|number| cache.get(&numbered(*number)) == Some(number % 2 == 0)).count();
        // Sets fill unevenly: one in thirty has seven newer ones or more.
        assert!(kept >= bound / 2 * 9 / 10, "{kept} of {}", bound / 2);
        assert!(newer.clone().all(|number| cache.get(&numbered(number)) != Some(number % 2 != 0)));
        assert_eq!((0..bound as u64).filter(|number| cache.get(&numbered(*number)).is_some()).count(), 0);
    }
}
