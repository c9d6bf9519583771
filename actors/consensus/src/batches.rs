//! Which batch bodies are stored, and which are looked for. The bodies themselves are the driver's.

use std::collections::{BTreeMap, VecDeque};

use aurigraph_ledger::hash::Hash;

use crate::types::{AuthorIdx, BatchRef, Round, TimeMs};

/// A request for a body is repeated after this long without an answer.
const RETRY_MS: TimeMs = 3_000;
/// A request for a body is repeated this long after all candidates failed.
const FAILED_RETRY_MS: TimeMs = 500;

#[derive(Debug)]
struct Want {
    batch: BatchRef,
    /// Newest round that needs it.
    round: Round,
    candidates: Vec<AuthorIdx>,
    due_ms: TimeMs,
    attempts: usize,
}

/// Stored and wanted batches.
#[derive(Debug)]
pub struct Batches {
    present: BTreeMap<Hash, u32>,
    order: VecDeque<Hash>,
    capacity: usize,
    wanted: BTreeMap<Hash, Want>,
}

/// Batches to fetch now, and from whom.
pub type BatchFetch = (Vec<BatchRef>, Vec<AuthorIdx>);

impl Batches {
    /// Remembers this many stored batches.
    #[must_use]
    pub const fn new(capacity: usize) -> Self {
        Self { present: BTreeMap::new(), order: VecDeque::new(), capacity, wanted: BTreeMap::new() }
    }

    /// Whether the body that a reference names is stored.
    #[must_use]
    pub fn is_present(&self, batch: &BatchRef) -> bool {
        self.present.get(&batch.digest) == Some(&batch.len)
    }

    /// How many bodies are looked for.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.wanted.len()
    }

    /// A body is stored. A forgotten one is asked for again, and the driver answers at once from its store.
    pub fn stored(&mut self, digest: Hash, len: u32) {
        self.wanted.remove(&digest);
        if self.present.insert(digest, len).is_none() {
            self.order.push_back(digest);
        }
        while self.order.len() > self.capacity {
            if let Some(oldest) = self.order.pop_front() {
                self.present.remove(&oldest);
            }
        }
    }

    /// A block of this round needs the batch. A body that is stored with another length is not looked for: no body
    /// matches that reference.
    pub fn want(&mut self, batch: BatchRef, round: Round, candidates: &[AuthorIdx], due_ms: TimeMs) {
        if self.present.contains_key(&batch.digest) {
            return;
        }
        let want = self.wanted.entry(batch.digest).or_insert(Want {
            batch,
            round,
            candidates: Vec::new(),
            due_ms,
            attempts: 0,
        });
        want.round = want.round.max(round);
        for candidate in candidates {
            if !want.candidates.contains(candidate) {
                want.candidates.push(*candidate);
            }
        }
    }

    /// No candidate had the body.
    pub fn failed(&mut self, digest: &Hash, now_ms: TimeMs) {
        if let Some(want) = self.wanted.get_mut(digest) {
            want.due_ms = now_ms.saturating_add(FAILED_RETRY_MS);
        }
    }

    /// Nobody looks for what was asked for.
    pub fn ask_again(&mut self, now_ms: TimeMs) {
        for want in self.wanted.values_mut().filter(|want| want.attempts > 0) {
            want.due_ms = now_ms;
        }
    }

    /// Garbage collection has passed a round; `needed` tells whether a block above still needs a batch.
    pub fn advance_gc(&mut self, gc_round: Round, needed: impl Fn(&Hash) -> bool) {
        self.wanted.retain(|digest, want| want.round > gc_round && needed(digest));
    }

    /// What to fetch now, grouped by candidates. `others` are asked after the known holders.
    pub fn due(&mut self, now_ms: TimeMs, others: &[AuthorIdx]) -> Vec<BatchFetch> {
        let mut groups: BTreeMap<Vec<AuthorIdx>, Vec<BatchRef>> = BTreeMap::new();
        for want in self.wanted.values_mut().filter(|want| want.due_ms <= now_ms) {
            let mut candidates = want.candidates.clone();
            candidates.extend(others.iter().filter(|o| !want.candidates.contains(o)));
            let shift = want.attempts % candidates.len().max(1);
            candidates.rotate_left(shift);
            want.attempts += 1;
            want.due_ms = now_ms.saturating_add(RETRY_MS);
            groups.entry(candidates).or_default().push(want.batch);
        }
        groups.into_iter().map(|(candidates, batches)| (batches, candidates)).collect()
    }

    /// When something is due next.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<TimeMs> {
        self.wanted.values().map(|want| want.due_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_asked_again_at_once_when_its_fetcher_is_lost() {
        let batch = |at: u8| BatchRef { digest: Hash([at; 32]), len: 9, tx_count: 1 };
        let mut batches = Batches::new(8);
        batches.want(batch(1), 5, &[2], 100);
        batches.want(batch(2), 5, &[2], 400);
        assert_eq!(batches.due(100, &[]), [(vec![batch(1)], vec![2])]);
        assert_eq!(batches.next_due_ms(), Some(400));
        batches.ask_again(150);
        assert_eq!(batches.due(150, &[]), [(vec![batch(1)], vec![2])], "the other one's time has not come");
        batches.stored(batch(1).digest, 9);
        batches.ask_again(160);
        assert!(batches.due(160, &[]).is_empty());
    }
}
