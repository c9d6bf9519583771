//! Which expanded keys lie where in a device's memory between batches. Pure bookkeeping: it knows keys and places, no
//! memory and no device.
//!
//! A clock decides which key makes room: one that was used since the hand last passed stays for another round. What the
//! running batch uses never goes; a key that finds no place is expanded with its signature, as a stranger's.

use std::collections::HashMap;
use std::sync::Arc;

use crate::mldsa::KeyCacheCounts;

/// Bytes of an entry: tr, then the matrix and the last column, 32 bits a coefficient.
pub(crate) const ENTRY: usize = 64 + 8 * 8 * 256 * 4;

#[derive(Debug)]
struct Slot {
    key: Arc<[u8]>,
    used: bool,
    /// The batch that used it last.
    batch: u64,
}

/// The places of a table. Takes the host 2.6 KB for each of its keys.
#[derive(Debug)]
pub(crate) struct Places {
    /// By the whole key: hashing is seeded, and nobody can aim at another's place.
    index: HashMap<Arc<[u8]>, u32>,
    slots: Vec<Slot>,
    bound: usize,
    hand: usize,
    batch: u64,
    /// Slots that the running batch uses.
    held: usize,
    hits: u64,
    misses: u64,
    evictions: u64,
}

/// Where the keys of a batch are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Placed {
    /// For each item its key's place; none where the table has no room for it.
    pub(crate) slots: Vec<Option<u32>>,
    /// Places that are to be filled before the batch is checked: each with the item whose key goes there.
    pub(crate) fill: Vec<(u32, usize)>,
}

impl Places {
    /// For a table of so many entries.
    pub(crate) fn new(entries: usize) -> Self {
        Self {
            index: HashMap::new(),
            slots: Vec::new(),
            // Places are 32 bits in the kernels.
            bound: entries.min(u32::MAX as usize),
            hand: 0,
            batch: 0,
            held: 0,
            hits: 0,
            misses: 0,
            evictions: 0,
        }
    }

    pub(crate) fn entries(&self) -> usize {
        self.bound
    }

    /// Places for the keys of a batch. Nothing may read the table while its new places are filled.
    pub(crate) fn place<'k>(&mut self, keys: impl IntoIterator<Item = &'k [u8]>) -> Placed {
        self.batch += 1;
        self.held = 0;
        let mut placed = Placed::default();
        for (item, key) in keys.into_iter().enumerate() {
            let found = self.index.get(key).copied();
            let slot = match found {
                Some(at) => {
                    self.hits += 1;
                    let slot = &mut self.slots[at as usize];
                    slot.used = true;
                    if slot.batch != self.batch {
                        slot.batch = self.batch;
                        self.held += 1;
                    }
                    Some(at)
                }
                None => {
                    self.misses += 1;
                    let at = self.take(key);
                    placed.fill.extend(at.map(|at| (at, item)));
                    at
                }
            };
            placed.slots.push(slot);
        }
        placed
    }

    /// A place for a new key, which counts as unused until it is found once: keys that come once go before those that
    /// came again.
    fn take(&mut self, key: &[u8]) -> Option<u32> {
        let key: Arc<[u8]> = key.into();
        let slot = Slot { key: Arc::clone(&key), used: false, batch: self.batch };
        let at = if self.slots.len() < self.bound {
            self.slots.push(slot);
            self.slots.len() - 1
        } else {
            // In two rounds at most, over a whole batch, it meets every place that may go.
            if self.held == self.slots.len() {
                return None;
            }
            loop {
                let at = self.hand;
                self.hand = (self.hand + 1) % self.slots.len();
                let old = &mut self.slots[at];
                if old.batch != self.batch && !std::mem::take(&mut old.used) {
                    self.index.remove(&old.key);
                    *old = slot;
                    self.evictions += 1;
                    break at;
                }
            }
        };
        self.held += 1;
        let at = u32::try_from(at).ok()?;
        self.index.insert(key, at);
        Some(at)
    }

    /// Nothing is known of the table's content any more.
    pub(crate) fn forget(&mut self) {
        self.index.clear();
        self.slots.clear();
        (self.hand, self.held) = (0, 0);
    }

    pub(crate) fn counts(&self) -> KeyCacheCounts {
        let entries = self.slots.len() as u64;
        let (hits, misses, evictions) = (self.hits, self.misses, self.evictions);
        KeyCacheCounts { hits, misses, evictions, entries, bytes: entries * ENTRY as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(places: &mut Places, keys: &[u8]) -> Placed {
        places.place(keys.chunks(1))
    }

    #[test]
    fn a_key_is_filled_once_and_found_by_every_later_batch() {
        let mut places = Places::new(4);
        let first = place(&mut places, b"aba");
        assert_eq!(first, Placed { slots: vec![Some(0), Some(1), Some(0)], fill: vec![(0, 0), (1, 1)] });
        assert_eq!(place(&mut places, b"bca"), Placed { slots: vec![Some(1), Some(2), Some(0)], fill: vec![(2, 1)] });
        let counts = places.counts();
        assert_eq!((counts.hits, counts.misses, counts.evictions, counts.entries), (3, 3, 0, 3));
        assert_eq!(counts.bytes, 3 * ENTRY as u64);
    }

    #[test]
    fn what_came_once_makes_room_before_what_came_again() {
        let mut places = Places::new(3);
        place(&mut places, b"abc");
        place(&mut places, b"ac");
        assert_eq!(place(&mut places, b"d").fill, [(1, 0)], "b goes");
        assert_eq!(place(&mut places, b"ac").fill, []);
        assert_eq!(places.counts().evictions, 1);
    }

    #[test]
    fn what_the_batch_itself_uses_stays_and_what_finds_no_place_is_told() {
        let mut places = Places::new(2);
        place(&mut places, b"xy");
        let placed = place(&mut places, b"abcab");
        assert_eq!(placed.slots, [Some(0), Some(1), None, Some(0), Some(1)]);
        assert_eq!(placed.fill, [(0, 0), (1, 1)]);
        assert_eq!(places.counts().entries, 2);
        let placed = place(&mut places, b"bcd");
        assert_eq!(placed.slots, [Some(1), Some(0), None]);
    }

    #[test]
    fn a_table_without_room_or_that_was_forgotten_knows_nothing() {
        let mut places = Places::new(0);
        assert_eq!(place(&mut places, b"aa"), Placed { slots: vec![None, None], fill: vec![] });
        let mut places = Places::new(2);
        place(&mut places, b"ab");
        places.forget();
        assert_eq!(place(&mut places, b"b").fill, [(0, 0)]);
        assert_eq!(places.counts().entries, 1);
    }

    /// Against a plain model: a key found in the table is the key that was put there, by however many batches.
    #[test]
    fn a_place_always_holds_the_key_that_it_is_said_to_hold() {
        let (mut places, mut table) = (Places::new(7), vec![None; 7]);
        let mut random = 0x7ab1e_u64;
        for _ in 0..2_000 {
            let keys: Vec<u8> = (0..11)
                .map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (random >> 59) as u8
                })
                .collect();
            let placed = place(&mut places, &keys);
            for (slot, item) in &placed.fill {
                table[*slot as usize] = Some(keys[*item]);
            }
            for (key, slot) in keys.iter().zip(&placed.slots) {
                assert!(slot.is_none_or(|slot| table[slot as usize] == Some(*key)), "{key}");
            }
            assert!(placed.slots.iter().flatten().count() >= 7, "all places are used");
        }
    }
}
