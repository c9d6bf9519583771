//! Batches that are missing: whom to ask, when to ask the next, when to give up.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use aurigraph_consensus::{AuthorIdx, BatchRef};
use aurigraph_ledger::Hash;

use crate::bounds::mempool as bounds;

#[derive(Debug)]
struct Want {
    candidates: Vec<AuthorIdx>,
    asked: usize,
    /// Who was asked last, and until when it may answer. None: ask now.
    waiting: Option<(AuthorIdx, Instant)>,
}

/// All fetches under way.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    wants: HashMap<Hash, Want>,
}

/// What to do now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    /// Requests: whom, for what.
    pub requests: Vec<(AuthorIdx, Vec<Hash>)>,
    /// Nobody gave these.
    pub failed: Vec<Hash>,
}

impl Fetches {
    /// Wants a batch, or adds candidates to a want. False if there are too many wants.
    pub fn add(&mut self, batch: &BatchRef, candidates: &[AuthorIdx]) -> bool {
        if self.wants.len() >= bounds::WANTED && !self.wants.contains_key(&batch.digest) {
            return false;
        }
        let want =
            self.wants.entry(batch.digest).or_insert_with(|| Want { candidates: Vec::new(), asked: 0, waiting: None });
        for candidate in candidates {
            if !want.candidates.contains(candidate) {
                want.candidates.push(*candidate);
            }
        }
        true
    }

    /// The batch is here, or its fetch has ended. True if it was wanted.
    pub fn take(&mut self, digest: &Hash) -> bool {
        self.wants.remove(digest).is_some()
    }

    pub fn wants(&self, digest: &Hash) -> bool {
        self.wants.contains_key(digest)
    }

    pub fn is_empty(&self) -> bool {
        self.wants.is_empty()
    }

    /// This peer does not have it, or could not be asked: the next one is asked.
    pub fn absent(&mut self, digest: &Hash, peer: AuthorIdx) {
        if let Some(want) = self.wants.get_mut(digest)
            && want.waiting.is_some_and(|(asked, _)| asked == peer)
        {
            want.waiting = None;
        }
    }

    /// Asks for everything that nobody is being asked for, or whose time is up.
    pub fn round(&mut self, now: Instant) -> Round {
        let mut failed = Vec::new();
        let mut requests: BTreeMap<AuthorIdx, Vec<Hash>> = BTreeMap::new();
        for (digest, want) in &mut self.wants {
            if want.waiting.is_some_and(|(_, until)| now < until) {
                continue;
            }
            if want.asked >= bounds::FETCH_ROUNDS * want.candidates.len() {
                failed.push(*digest);
                continue;
            }
            let candidate = want.candidates[want.asked % want.candidates.len()];
            want.asked += 1;
            want.waiting = Some((candidate, now + bounds::FETCH_WITHIN));
            requests.entry(candidate).or_default().push(*digest);
        }
        failed.iter().for_each(|digest| {
            self.wants.remove(digest);
        });
        let split = |(peer, digests): (AuthorIdx, Vec<Hash>)| {
            digests.chunks(bounds::REQUEST_DIGESTS).map(|some| (peer, some.to_vec())).collect::<Vec<_>>()
        };
        Round { requests: requests.into_iter().flat_map(split).collect(), failed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(at: u8) -> BatchRef {
        BatchRef { digest: Hash([at; 32]), len: 1, tx_count: 1 }
    }

    #[test]
    fn candidates_are_asked_in_turn_and_then_the_fetch_fails() {
        let mut fetches = Fetches::default();
        let mut now = Instant::now();
        assert!(fetches.add(&batch(1), &[4, 2]));
        let digest = batch(1).digest;
        for expected in [4, 2, 4, 2] {
            assert_eq!(fetches.round(now).requests, vec![(expected, vec![digest])]);
            assert_eq!(fetches.round(now), Round::default(), "the peer has time");
            now += bounds::FETCH_WITHIN;
        }
        assert_eq!(fetches.round(now), Round { requests: vec![], failed: vec![digest] });
        assert!(fetches.is_empty());
    }

    #[test]
    fn a_peer_that_says_no_is_followed_by_the_next_at_once() {
        let mut fetches = Fetches::default();
        let now = Instant::now();
        fetches.add(&batch(1), &[4, 2]);
        fetches.round(now);
        fetches.absent(&batch(1).digest, 2);
        assert_eq!(fetches.round(now), Round::default(), "only the one that was asked can say no");
        fetches.absent(&batch(1).digest, 4);
        assert_eq!(fetches.round(now).requests, vec![(2, vec![batch(1).digest])]);
        assert!(fetches.take(&batch(1).digest));
        assert!(!fetches.take(&batch(1).digest));
    }

    #[test]
    fn a_fetch_without_candidates_fails_and_too_many_are_refused() {
        let mut fetches = Fetches::default();
        fetches.add(&batch(1), &[]);
        assert_eq!(fetches.round(Instant::now()).failed, vec![batch(1).digest]);
        for at in 0..bounds::WANTED {
            let digest = aurigraph_ledger::h("test", &at.to_le_bytes());
            assert!(fetches.add(&BatchRef { digest, len: 1, tx_count: 1 }, &[1]));
        }
        assert!(!fetches.add(&batch(1), &[1]));
        let round = fetches.round(Instant::now());
        assert!(round.requests.iter().all(|(_, digests)| digests.len() <= bounds::REQUEST_DIGESTS));
    }
}
