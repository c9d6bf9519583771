//! Batches that are missing: whom to ask, when to ask the next, when to give up.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use aurigraph_consensus::{AuthorIdx, BatchRef};
use aurigraph_ledger::Hash;

use crate::bounds::mempool as bounds;

/// A request for several batches: its number.
type RequestId = u64;

#[derive(Debug)]
struct Want {
    /// Its place among all wants: older ones are asked for first.
    number: u64,
    candidates: Vec<AuthorIdx>,
    asked: usize,
    /// Whose turn it is. None: the next one's.
    turn: Option<Turn>,
}

/// A candidate that is to give a batch.
#[derive(Debug, Clone, Copy)]
struct Turn {
    peer: AuthorIdx,
    /// Until when.
    until: Instant,
    /// In which request it was asked. None: it has enough to do, and was not asked yet.
    request: Option<RequestId>,
}

/// All fetches under way.
///
/// A peer serves few requests at a time and drops others, which would each cost the time that an answer may take. So it is
/// asked for no more than it serves, in requests as large as they may be.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    wants: HashMap<Hash, Want>,
    /// Requests under way by peer, with how many batches of each are outstanding.
    open: HashMap<AuthorIdx, HashMap<RequestId, usize>>,
    next: u64,
    /// Some request has ended since the last round.
    freed: bool,
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
        self.next += 1;
        let fresh = || Want { number: self.next, candidates: Vec::new(), asked: 0, turn: None };
        let want = self.wants.entry(batch.digest).or_insert_with(fresh);
        for candidate in candidates {
            if !want.candidates.contains(candidate) {
                want.candidates.push(*candidate);
            }
        }
        true
    }

    /// The batch is here, or its fetch has ended. True if it was wanted.
    pub fn take(&mut self, digest: &Hash) -> bool {
        let Some(want) = self.wants.remove(digest) else { return false };
        self.release(want.turn);
        true
    }

    /// One batch of a request is outstanding no more.
    fn release(&mut self, turn: Option<Turn>) {
        let Some((peer, request)) = turn.and_then(|turn| Some((turn.peer, turn.request?))) else { return };
        let Some(requests) = self.open.get_mut(&peer) else { return };
        let Some(outstanding) = requests.get_mut(&request) else { return };
        *outstanding -= 1;
        if *outstanding == 0 {
            requests.remove(&request);
            self.freed = true;
        }
    }

    /// Whether a peer has done with a request since the last round: it may be asked for more.
    pub const fn may_ask(&self) -> bool {
        self.freed
    }

    pub fn wants(&self, digest: &Hash) -> bool {
        self.wants.contains_key(digest)
    }

    pub fn is_empty(&self) -> bool {
        self.wants.is_empty()
    }

    /// This peer does not have it, or could not be asked: the next one is asked.
    pub fn absent(&mut self, digest: &Hash, peer: AuthorIdx) {
        let asked = |turn: &mut Turn| turn.peer == peer && turn.request.is_some();
        let ended = self.wants.get_mut(digest).and_then(|want| want.turn.take_if(asked));
        self.release(ended);
    }

    /// Asks for everything that nobody is being asked for, or whose time is up, as far as the peers may be asked.
    pub fn round(&mut self, now: Instant) -> Round {
        self.freed = false;
        let late = |want: &mut Want| want.turn.take_if(|turn| turn.until <= now);
        let ended: Vec<Turn> = self.wants.values_mut().filter_map(late).collect();
        ended.into_iter().for_each(|turn| self.release(Some(turn)));
        let mut failed = Vec::new();
        let mut queues: BTreeMap<AuthorIdx, Vec<(u64, Hash)>> = BTreeMap::new();
        for (digest, want) in &mut self.wants {
            let turn = match want.turn {
                Some(turn) => turn,
                None if want.asked >= bounds::FETCH_ROUNDS * want.candidates.len() => {
                    failed.push(*digest);
                    continue;
                }
                None => {
                    let peer = want.candidates[want.asked % want.candidates.len()];
                    want.asked += 1;
                    *want.turn.insert(Turn { peer, until: now + bounds::FETCH_WITHIN, request: None })
                }
            };
            if turn.request.is_none() {
                queues.entry(turn.peer).or_default().push((want.number, *digest));
            }
        }
        failed.iter().for_each(|digest| {
            self.wants.remove(digest);
        });
        let requests = queues.into_iter().flat_map(|(peer, queue)| self.requests(peer, queue, now)).collect();
        Round { requests, failed }
    }

    /// What a peer may be asked for now, the oldest wants first.
    fn requests(&mut self, peer: AuthorIdx, mut queue: Vec<(u64, Hash)>, now: Instant) -> Vec<(AuthorIdx, Vec<Hash>)> {
        let open = self.open.entry(peer).or_default();
        let room = bounds::ASKED_OF_PEER.saturating_sub(open.len());
        queue.sort_unstable();
        let mut requests = Vec::new();
        for part in queue.chunks(bounds::REQUEST_DIGESTS).take(room) {
            self.next += 1;
            open.insert(self.next, part.len());
            for (_, digest) in part {
                if let Some(want) = self.wants.get_mut(digest) {
                    want.turn = Some(Turn { peer, until: now + bounds::FETCH_WITHIN, request: Some(self.next) });
                }
            }
            requests.push((peer, part.iter().map(|(_, digest)| *digest).collect()));
        }
        requests
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

    #[test]
    fn a_peer_is_asked_for_as_much_as_it_serves_and_for_more_once_it_has_answered() {
        let mut fetches = Fetches::default();
        let mut now = Instant::now();
        let digests: Vec<Hash> = (0..200_u64).map(|at| aurigraph_ledger::h("test", &at.to_le_bytes())).collect();
        for digest in &digests {
            assert!(fetches.add(&BatchRef { digest: *digest, len: 1, tx_count: 1 }, &[1, 2]));
        }
        let (size, most) = (bounds::REQUEST_DIGESTS, bounds::ASKED_OF_PEER * bounds::REQUEST_DIGESTS);
        let expected = |range: std::ops::Range<usize>| digests[range].to_vec();
        assert_eq!(digests_of(&fetches.round(now).requests), expected(0..most), "the oldest, and no more");
        assert!(!fetches.may_ask());
        assert_eq!(fetches.round(now), Round::default());
        // One request is answered: there is room for one.
        for digest in &digests[..size] {
            assert!(!fetches.may_ask(), "not before all of it is here");
            fetches.take(digest);
        }
        assert!(fetches.may_ask());
        assert_eq!(fetches.round(now).requests, [(1, expected(most..most + size))]);
        // The peer falls silent: whatever it was to give, asked for or not, the next one is to give.
        now += bounds::FETCH_WITHIN;
        let asked = fetches.round(now).requests;
        assert!(asked.iter().all(|(peer, _)| *peer == 2), "{asked:?}");
        assert_eq!(digests_of(&asked), expected(size..size + most));
    }

    fn digests_of(requests: &[(AuthorIdx, Vec<Hash>)]) -> Vec<Hash> {
        requests.iter().flat_map(|(_, digests)| digests.clone()).collect()
    }
}
