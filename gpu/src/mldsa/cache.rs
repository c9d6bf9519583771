//! Expanded keys of senders that come again, in a bounded number of bytes.
//!
//! Several shards, so that many threads find keys at once; in each a clock decides which key goes: one that was used
//! since the hand last passed stays for another round. Hashing of keys is seeded, so that nobody can aim at one shard: by a fast
//! hash, as a key is 2.6 KB. A collision costs an expansion and nothing else.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use foldhash::quality::RandomState;

use super::expand::ExpandedKey;
use crate::verify::PUBLIC_KEY_LEN;

/// More than the cores of any machine that we know, so that writers seldom meet.
const SHARDS: usize = 64;

/// What a cache did since it was made, and what it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyCacheCounts {
    /// Keys that were found.
    pub hits: u64,
    /// Keys that had to be expanded.
    pub misses: u64,
    /// Keys that made room for another.
    pub evictions: u64,
    /// Keys held now.
    pub entries: u64,
    /// Bytes that they take.
    pub bytes: u64,
}

struct Slot {
    hash: u64,
    key: Arc<ExpandedKey>,
    used: AtomicBool,
}

#[derive(Default)]
struct Shard {
    /// By the key's hash, which of the slots.
    index: HashMap<u64, usize, RandomState>,
    slots: Vec<Slot>,
    /// Where the clock's hand stands.
    hand: usize,
}

pub(super) struct KeyCache {
    seed: RandomState,
    shards: Vec<RwLock<Shard>>,
    /// Keys in one shard at most.
    bound: usize,
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
    entries: AtomicU64,
}

impl KeyCache {
    /// A cache of at most `bytes`, in fewer shards where they would not hold a few keys each.
    pub(super) fn new(bytes: usize) -> Self {
        let keys = bytes / ExpandedKey::SIZE;
        let shards = (keys / 8).clamp(1, SHARDS);
        Self {
            seed: RandomState::default(),
            shards: (0..shards).map(|_| RwLock::default()).collect(),
            bound: keys / shards,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            entries: AtomicU64::new(0),
        }
    }

    /// The expanded key, from the cache or by `expand`. Two threads that miss the same key both expand it; neither
    /// waits for the other.
    pub(super) fn get(
        &self,
        public_key: &[u8; PUBLIC_KEY_LEN],
        expand: impl FnOnce() -> ExpandedKey,
    ) -> Arc<ExpandedKey> {
        let hash = self.seed.hash_one(public_key);
        // The index uses the low bits of the hash, so the shard is chosen by others.
        let shard = &self.shards[(hash >> 48) as usize % self.shards.len()];
        if let Some(key) = shard.read().unwrap_or_else(PoisonError::into_inner).find(hash, public_key) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return key;
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let key = Arc::new(expand());
        if self.bound > 0 {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            match shard.put(hash, Arc::clone(&key), self.bound) {
                Put::Added => self.entries.fetch_add(1, Ordering::Relaxed),
                Put::Evicted => self.evictions.fetch_add(1, Ordering::Relaxed),
                Put::Replaced => 0,
            };
        }
        key
    }

    pub(super) fn counts(&self) -> KeyCacheCounts {
        let entries = self.entries.load(Ordering::Relaxed);
        KeyCacheCounts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            evictions: self.evictions.load(Ordering::Relaxed),
            entries,
            bytes: entries * ExpandedKey::SIZE as u64,
        }
    }
}

enum Put {
    Added,
    Evicted,
    Replaced,
}

impl Shard {
    fn find(&self, hash: u64, public_key: &[u8; PUBLIC_KEY_LEN]) -> Option<Arc<ExpandedKey>> {
        let slot = &self.slots[*self.index.get(&hash)?];
        if slot.key.public_key != *public_key {
            return None;
        }
        if !slot.used.load(Ordering::Relaxed) {
            slot.used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(&slot.key))
    }

    /// A new key counts as unused until it is found once: keys that come only once go before those that came again.
    fn put(&mut self, hash: u64, key: Arc<ExpandedKey>, bound: usize) -> Put {
        let slot = Slot { hash, key, used: AtomicBool::new(false) };
        if let Some(at) = self.index.get(&hash) {
            // Another thread was faster, or (once in 2^64) two keys share a hash: the newer one stays.
            self.slots[*at] = slot;
            return Put::Replaced;
        }
        if self.slots.len() < bound {
            self.index.insert(hash, self.slots.len());
            self.slots.push(slot);
            return Put::Added;
        }
        while self.slots[self.hand].used.swap(false, Ordering::Relaxed) {
            self.hand = (self.hand + 1) % self.slots.len();
        }
        self.index.remove(&self.slots[self.hand].hash);
        self.index.insert(hash, self.hand);
        self.slots[self.hand] = slot;
        self.hand = (self.hand + 1) % self.slots.len();
        Put::Evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mldsa::lanes::Portable;

    fn key(number: u8) -> [u8; PUBLIC_KEY_LEN] {
        let mut key = [7; PUBLIC_KEY_LEN];
        // Keys that share their seed rho are other keys.
        key[PUBLIC_KEY_LEN - 1] = number;
        key
    }

    fn get(cache: &KeyCache, number: u8) -> bool {
        let mut expanded = false;
        let found = cache.get(&key(number), || {
            expanded = true;
            ExpandedKey::expand::<Portable>(&key(number))
        });
        assert_eq!(found.public_key, key(number));
        !expanded
    }

    #[test]
    fn the_bound_holds_what_is_used_stays_and_everything_is_counted() {
        let cache = KeyCache::new(4 * ExpandedKey::SIZE + 1);
        assert!(!get(&cache, 0) && get(&cache, 0));
        for number in 1..40 {
            assert!(!get(&cache, number), "key {number}");
            assert!(get(&cache, 0), "after key {number}");
        }
        assert!(!get(&cache, 1), "an old key that was used once is gone");
        let size = ExpandedKey::SIZE as u64;
        let expected = KeyCacheCounts { hits: 40, misses: 41, evictions: 37, entries: 4, bytes: 4 * size };
        assert_eq!(cache.counts(), expected);
    }

    #[test]
    fn a_cache_without_room_holds_nothing() {
        let cache = KeyCache::new(ExpandedKey::SIZE - 1);
        assert!(!get(&cache, 0) && !get(&cache, 0));
        assert_eq!(cache.counts(), KeyCacheCounts { misses: 2, ..KeyCacheCounts::default() });
    }

    #[test]
    fn many_threads_find_their_keys() {
        let cache = KeyCache::new(16 * ExpandedKey::SIZE);
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let cache = &cache;
                scope.spawn(move || {
                    for at in 0..60 {
                        get(cache, at * (thread + 1) % 24);
                    }
                });
            }
        });
        let counts = cache.counts();
        assert_eq!(counts.hits + counts.misses, 240);
        assert!(counts.entries <= 16, "{counts:?}");
    }
}
