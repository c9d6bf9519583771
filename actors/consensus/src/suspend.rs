//! Verified blocks that wait for parents or batches (consensus.md 3.3), within bounds (3.4).
//!
//! When garbage collection passes a missing parent, the wait for it ends: a block whose other parents are here becomes
//! acceptable. Forgetting that would leave blocks waiting for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aurigraph_ledger::hash::Hash;

use crate::block::Block;
use crate::types::{AuthorIdx, BlockRef, Round};

/// A verified block on its way into the store.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// Its reference.
    pub reference: BlockRef,
    /// The block.
    pub block: Arc<Block>,
    /// Its canonical bytes.
    pub bytes: Arc<[u8]>,
    /// Who gave it to us.
    pub from: AuthorIdx,
    /// Whether its signature was checked; a certified range vouches for the digest alone.
    pub checked: bool,
}

#[derive(Debug)]
struct Waiting {
    incoming: Incoming,
    parents: BTreeSet<BlockRef>,
    batches: BTreeSet<Hash>,
}

impl Waiting {
    fn is_complete(&self) -> bool {
        self.parents.is_empty() && self.batches.is_empty()
    }
}

/// The waiting blocks.
#[derive(Debug, Default)]
pub struct Suspended {
    blocks: BTreeMap<BlockRef, Waiting>,
    by_parent: BTreeMap<BlockRef, BTreeSet<BlockRef>>,
    by_batch: BTreeMap<Hash, BTreeSet<BlockRef>>,
    per_author: BTreeMap<AuthorIdx, usize>,
    bytes_from: BTreeMap<AuthorIdx, usize>,
}

impl Suspended {
    /// How many blocks wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Whether this block waits.
    #[must_use]
    pub fn contains(&self, block: &BlockRef) -> bool {
        self.blocks.contains_key(block)
    }

    /// A waiting block.
    #[must_use]
    pub fn get(&self, block: &BlockRef) -> Option<&Incoming> {
        self.blocks.get(block).map(|waiting| &waiting.incoming)
    }

    /// Whether a waiting block needs this one as a parent.
    #[must_use]
    pub fn is_awaited(&self, block: &BlockRef) -> bool {
        self.by_parent.contains_key(block)
    }

    /// Whether a waiting block needs this batch.
    #[must_use]
    pub fn is_batch_awaited(&self, batch: &Hash) -> bool {
        self.by_batch.contains_key(batch)
    }

    /// Waiting versions of a slot.
    #[must_use]
    pub fn versions(&self, round: Round, author: AuthorIdx) -> usize {
        let low = BlockRef { round, author, digest: Hash([0; 32]) };
        let high = BlockRef { round, author, digest: Hash([0xff; 32]) };
        self.blocks.range(low..=high).count()
    }

    /// The newest waiting block of an author.
    #[must_use]
    pub fn newest_of(&self, author: AuthorIdx) -> Option<&Incoming> {
        self.blocks.values().rev().map(|waiting| &waiting.incoming).find(|i| i.reference.author == author)
    }

    /// What a waiting block pulls in: the unaccepted blocks below the pushed block that needs it, counted up to `most`, and
    /// the peer that introduced that one. Of several the cheapest.
    #[must_use]
    pub fn price(&self, block: &BlockRef, most: usize) -> (usize, AuthorIdx) {
        let above = self.reach(block, most, |at| self.by_parent.get(at).into_iter().flatten().copied().collect());
        let tops = above.iter().chain([block]).filter(|at| !self.is_awaited(at));
        let priced = tops.filter_map(|top| {
            let missing = |at: &BlockRef| match self.blocks.get(at) {
                Some(waiting) => waiting.parents.iter().copied().collect(),
                None => Vec::new(),
            };
            Some((self.reach(top, most, missing).len(), self.blocks.get(top)?.incoming.from))
        });
        // A walk that was cut short has found no top: as dear as can be.
        let introducer = self.blocks.get(block).map_or(block.author, |waiting| waiting.incoming.from);
        priced.min().unwrap_or((most, introducer))
    }

    /// Up to so many blocks that are reached from one by a step.
    fn reach(&self, from: &BlockRef, most: usize, step: impl Fn(&BlockRef) -> Vec<BlockRef>) -> BTreeSet<BlockRef> {
        let (mut seen, mut open) = (BTreeSet::new(), vec![*from]);
        while let Some(next) = open.pop() {
            for found in step(&next) {
                if seen.len() < most && seen.insert(found) {
                    open.push(found);
                }
            }
        }
        seen
    }

    /// Adds a block that waits for these parents and batches.
    pub fn insert(&mut self, incoming: Incoming, parents: BTreeSet<BlockRef>, batches: BTreeSet<Hash>) {
        let reference = incoming.reference;
        if self.blocks.contains_key(&reference) {
            return;
        }
        for parent in &parents {
            self.by_parent.entry(*parent).or_default().insert(reference);
        }
        for batch in &batches {
            self.by_batch.entry(*batch).or_default().insert(reference);
        }
        *self.per_author.entry(reference.author).or_default() += 1;
        *self.bytes_from.entry(incoming.from).or_default() += incoming.bytes.len();
        self.blocks.insert(reference, Waiting { incoming, parents, batches });
    }

    /// Keeps the bounds after an insert: the highest rounds of the author, then of the introducer, go first. Returns
    /// what had to go.
    pub fn evict(&mut self, newest: &Incoming, per_author: usize, bytes_per_peer: usize) -> Vec<BlockRef> {
        let mut gone = Vec::new();
        while self.per_author.get(&newest.reference.author).is_some_and(|count| *count > per_author) {
            let highest = self.blocks.keys().rev().find(|b| b.author == newest.reference.author).copied();
            let Some(block) = highest else { break };
            self.remove(&block);
            gone.push(block);
        }
        while self.bytes_from.get(&newest.from).is_some_and(|bytes| *bytes > bytes_per_peer) {
            let highest = self.blocks.values().rev().find(|w| w.incoming.from == newest.from);
            let Some(block) = highest.map(|w| w.incoming.reference) else { break };
            self.remove(&block);
            gone.push(block);
        }
        gone
    }

    /// A parent was accepted. Returns the blocks that wait for nothing any more, removed from here.
    pub fn parent_arrived(&mut self, parent: &BlockRef) -> Vec<Incoming> {
        let waiters = self.by_parent.remove(parent).unwrap_or_default();
        self.release(waiters, |waiting| {
            waiting.parents.remove(parent);
        })
    }

    /// A batch body is stored. Blocks that give another length for it keep waiting: they name no batch that exists.
    pub fn batch_arrived(&mut self, batch: &Hash, len: u32) -> Vec<Incoming> {
        let waiters = self.by_batch.remove(batch).unwrap_or_default();
        self.release(waiters, |waiting| {
            let named = waiting.incoming.block.batches.iter().find(|b| b.digest == *batch);
            if named.is_some_and(|b| b.len == len) {
                waiting.batches.remove(batch);
            }
        })
    }

    /// Garbage collection has passed a round: blocks at or below it go, waits for parents at or below it end. Returns
    /// the blocks that wait for nothing any more.
    pub fn advance_gc(&mut self, gc_round: Round) -> Vec<Incoming> {
        let above = BlockRef { round: gc_round.saturating_add(1), author: 0, digest: Hash([0; 32]) };
        let old: Vec<BlockRef> = self.blocks.range(..above).map(|(block, _)| *block).collect();
        for block in old {
            self.remove(&block);
        }
        let kept = self.by_parent.split_off(&above);
        let passed = std::mem::replace(&mut self.by_parent, kept);
        let mut free = Vec::new();
        for (parent, waiters) in passed {
            free.extend(self.release(waiters, |waiting| {
                waiting.parents.remove(&parent);
            }));
        }
        free
    }

    fn release(&mut self, waiters: BTreeSet<BlockRef>, mut note: impl FnMut(&mut Waiting)) -> Vec<Incoming> {
        let mut free = Vec::new();
        for block in waiters {
            if let Some(waiting) = self.blocks.get_mut(&block) {
                note(waiting);
                if waiting.is_complete() {
                    free.extend(self.remove(&block));
                }
            }
        }
        free
    }

    fn remove(&mut self, block: &BlockRef) -> Option<Incoming> {
        let waiting = self.blocks.remove(block)?;
        for parent in &waiting.parents {
            forget(&mut self.by_parent, parent, block);
        }
        for batch in &waiting.batches {
            forget(&mut self.by_batch, batch, block);
        }
        if let Some(count) = self.per_author.get_mut(&block.author) {
            *count = count.saturating_sub(1);
        }
        if let Some(bytes) = self.bytes_from.get_mut(&waiting.incoming.from) {
            *bytes = bytes.saturating_sub(waiting.incoming.bytes.len());
        }
        Some(waiting.incoming)
    }
}

fn forget<K: Ord>(index: &mut BTreeMap<K, BTreeSet<BlockRef>>, key: &K, block: &BlockRef) {
    if let Some(waiters) = index.get_mut(key) {
        waiters.remove(block);
        if waiters.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bare_block, no_signature};
    use crate::types::BatchRef;

    fn reference(round: Round, author: AuthorIdx) -> BlockRef {
        BlockRef { round, author, digest: Hash([u8::try_from(author).expect("few"); 32]) }
    }

    fn incoming(round: Round, author: AuthorIdx) -> Incoming {
        let reference = reference(round, author);
        let mut block = bare_block(&no_signature(), reference, vec![], 0);
        block.batches = vec![BatchRef { digest: Hash([7; 32]), len: 5, tx_count: 1 }];
        Incoming {
            reference,
            block: Arc::new(block),
            bytes: Arc::from([0; 100].as_slice()),
            from: author,
            checked: true,
        }
    }

    fn names(free: &[Incoming]) -> Vec<BlockRef> {
        free.iter().map(|i| i.reference).collect()
    }

    #[test]
    fn a_block_is_free_when_its_last_parent_and_batch_are_here() {
        let mut s = Suspended::default();
        let (p, q) = (reference(3, 1), reference(3, 2));
        s.insert(incoming(4, 0), [p, q].into(), [Hash([7; 32])].into());
        assert!(s.parent_arrived(&p).is_empty());
        assert!(s.parent_arrived(&q).is_empty());
        assert_eq!(names(&s.batch_arrived(&Hash([7; 32]), 5)), [reference(4, 0)]);
        assert!(s.is_empty() && !s.is_awaited(&p));
    }

    #[test]
    fn a_body_of_another_length_frees_nothing() {
        let mut s = Suspended::default();
        s.insert(incoming(4, 0), [].into(), [Hash([7; 32])].into());
        assert!(s.batch_arrived(&Hash([7; 32]), 6).is_empty());
        assert_eq!(s.len(), 1);
        assert!(s.advance_gc(4).is_empty());
        assert!(s.is_empty(), "garbage collection still ends it");
    }

    #[test]
    fn garbage_collection_ends_the_wait_for_what_it_passes() {
        let mut s = Suspended::default();
        let (old, recent) = (reference(3, 3), reference(5, 3));
        s.insert(incoming(6, 0), [old].into(), [].into());
        s.insert(incoming(6, 1), [old, recent].into(), [].into());
        s.insert(incoming(3, 2), [reference(2, 0)].into(), [].into());
        assert_eq!(names(&s.advance_gc(3)), [reference(6, 0)]);
        assert!(!s.contains(&reference(3, 2)), "too old itself");
        assert!(!s.is_awaited(&old) && s.is_awaited(&recent));
        assert_eq!(names(&s.parent_arrived(&recent)), [reference(6, 1)]);
    }

    #[test]
    fn the_highest_rounds_of_a_flooding_author_go_first() {
        let mut s = Suspended::default();
        let missing = reference(1, 3);
        let mut gone = Vec::new();
        for round in [9, 4, 6, 5] {
            let block = incoming(round, 0);
            s.insert(block.clone(), [missing].into(), [].into());
            gone.extend(s.evict(&block, 2, 1_000));
        }
        assert_eq!(gone, [reference(9, 0), reference(6, 0)]);
        let other = incoming(8, 1);
        s.insert(other.clone(), [missing].into(), [].into());
        assert_eq!(s.evict(&other, 2, 50), [reference(8, 1)]);
        assert_eq!(s.len(), 2);
    }
}
