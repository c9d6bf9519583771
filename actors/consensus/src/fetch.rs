//! Getting missing blocks from peers (consensus.md 3.5): whom to ask, when to ask again.

use std::collections::{BTreeMap, BTreeSet};

use aurigraph_ledger::hash::Hash;

use crate::block::{Block, BlockCore, parents_root};
use crate::config::{CORE_LEN, MAX_FETCH_REFS};
use crate::event::{Effect, Offence};
use crate::machine::Machine;
use crate::message::Message;
use crate::types::{AuthorIdx, BlockRef, RequestId, Round, TimeMs};

/// First time-out of a request; grows by half when all peers were asked in vain.
const FIRST_TIMEOUT_MS: TimeMs = 500;
/// Last time-out of a request.
const LAST_TIMEOUT_MS: TimeMs = 4_000;
/// Requests in flight to one peer.
const PER_PEER: usize = 2;
/// A block that nobody had is asked for again after this long.
const ALL_TRIED_MS: TimeMs = 200;
/// Entries within this many rounds of the clock are never evicted.
const NEAR_ROUNDS: Round = 8;

#[derive(Debug)]
struct Want {
    /// Who should have it, best first.
    holders: Vec<AuthorIdx>,
    tried: BTreeSet<AuthorIdx>,
    in_flight: bool,
    due_ms: TimeMs,
    timeout_ms: TimeMs,
}

#[derive(Debug)]
struct Request {
    peer: AuthorIdx,
    refs: Vec<BlockRef>,
    deadline_ms: TimeMs,
}

/// A request to send: the peer, its id, and the references.
pub(crate) type Outgoing = (AuthorIdx, RequestId, Vec<BlockRef>);

/// What is looked for, and what was asked of whom.
#[derive(Debug, Default)]
pub struct Fetcher {
    wanted: BTreeMap<BlockRef, Want>,
    requests: BTreeMap<RequestId, Request>,
    next_request: RequestId,
    /// Nothing is due before this.
    due_ms: Option<TimeMs>,
}

impl Fetcher {
    pub(crate) fn wanted(&self) -> usize {
        self.wanted.len()
    }

    pub(crate) fn is_wanted(&self, block: &BlockRef) -> bool {
        self.wanted.contains_key(block)
    }

    pub(crate) fn next_due_ms(&self) -> Option<TimeMs> {
        self.due_ms
    }

    pub(crate) fn next_request(&mut self) -> RequestId {
        self.next_request += 1;
        self.next_request
    }

    /// Answers to requests of the machine before are not taken for answers to these.
    pub(crate) const fn skip_requests(&mut self, before: &Self) {
        self.next_request = before.next_request;
    }

    /// Looks for a block that these peers should have.
    pub(crate) fn want(&mut self, block: BlockRef, holders: &[AuthorIdx], due_ms: TimeMs, clock: Round, limit: usize) {
        let want = self.wanted.entry(block).or_insert_with(|| Want {
            holders: Vec::new(),
            tried: BTreeSet::new(),
            in_flight: false,
            due_ms,
            timeout_ms: FIRST_TIMEOUT_MS,
        });
        for holder in holders {
            if !want.holders.contains(holder) {
                want.holders.push(*holder);
            }
        }
        self.due_ms = Some(self.due_ms.map_or(due_ms, |due| due.min(due_ms)));
        // What lies farthest above goes first; evicting the lowest would let garbage push out what is needed now.
        while self.wanted.len() > limit {
            let Some((farthest, _)) = self.wanted.last_key_value() else { return };
            if farthest.round <= clock.saturating_add(NEAR_ROUNDS) {
                return;
            }
            self.wanted.pop_last();
        }
    }

    /// The block is here, or on its way in.
    pub(crate) fn arrived(&mut self, block: &BlockRef) {
        self.wanted.remove(block);
    }

    pub(crate) fn advance_gc(&mut self, gc_round: Round) {
        let above = BlockRef { round: gc_round.saturating_add(1), author: 0, digest: Hash([0; 32]) };
        self.wanted = self.wanted.split_off(&above);
    }

    pub(crate) fn peer_down(&mut self, peer: AuthorIdx, now_ms: TimeMs) {
        let lost: Vec<RequestId> =
            self.requests.iter().filter(|(_, request)| request.peer == peer).map(|(id, _)| *id).collect();
        for id in lost {
            self.close(id, now_ms);
        }
    }

    /// Ends the request that a peer has answered; `None` if it was not asked.
    pub(crate) fn answered(&mut self, peer: AuthorIdx, id: RequestId, now_ms: TimeMs) -> Option<Vec<BlockRef>> {
        self.requests.get(&id).filter(|request| request.peer == peer)?;
        self.close(id, now_ms)
    }

    /// Ends a request: what it did not bring is asked of the next peer.
    fn close(&mut self, id: RequestId, now_ms: TimeMs) -> Option<Vec<BlockRef>> {
        let request = self.requests.remove(&id)?;
        for block in &request.refs {
            if let Some(want) = self.wanted.get_mut(block) {
                want.in_flight = false;
                want.tried.insert(request.peer);
                want.due_ms = now_ms;
            }
        }
        self.due_ms = Some(now_ms);
        Some(request.refs)
    }

    /// Requests to send now. `connected` are the peers that can be asked.
    pub(crate) fn due(&mut self, now_ms: TimeMs, connected: &[AuthorIdx]) -> Vec<Outgoing> {
        if self.due_ms.is_none_or(|due| due > now_ms) {
            return Vec::new();
        }
        let late: Vec<RequestId> =
            self.requests.iter().filter(|(_, r)| r.deadline_ms <= now_ms).map(|(id, _)| *id).collect();
        for id in late {
            self.close(id, now_ms);
        }
        let mut load: BTreeMap<AuthorIdx, usize> = BTreeMap::new();
        for request in self.requests.values() {
            *load.entry(request.peer).or_default() += 1;
        }
        let mut batches: BTreeMap<AuthorIdx, Vec<BlockRef>> = BTreeMap::new();
        for (block, want) in self.wanted.iter_mut().filter(|(_, want)| !want.in_flight && want.due_ms <= now_ms) {
            let free = |peer: &AuthorIdx| {
                let asked = load.get(peer).copied().unwrap_or(0);
                let room = batches.get(peer).map_or(0, Vec::len) < MAX_FETCH_REFS * PER_PEER.saturating_sub(asked);
                connected.contains(peer) && room
            };
            match choose(block, want, connected, free) {
                Choice::Ask(peer) => batches.entry(peer).or_default().push(*block),
                Choice::Later => want.due_ms = now_ms.saturating_add(ALL_TRIED_MS),
            }
        }
        let mut outgoing = Vec::new();
        for (peer, refs) in batches {
            for chunk in refs.chunks(MAX_FETCH_REFS) {
                outgoing.push(self.open(peer, chunk.to_vec(), now_ms));
            }
        }
        let wants = self.wanted.values().filter(|want| !want.in_flight).map(|want| want.due_ms);
        self.due_ms = wants.chain(self.requests.values().map(|request| request.deadline_ms)).min();
        outgoing
    }

    fn open(&mut self, peer: AuthorIdx, refs: Vec<BlockRef>, now_ms: TimeMs) -> Outgoing {
        let mut timeout = FIRST_TIMEOUT_MS;
        for block in &refs {
            if let Some(want) = self.wanted.get_mut(block) {
                want.in_flight = true;
                timeout = timeout.max(want.timeout_ms);
            }
        }
        let id = self.next_request();
        let deadline_ms = now_ms.saturating_add(timeout);
        self.requests.insert(id, Request { peer, refs: refs.clone(), deadline_ms });
        (peer, id, refs)
    }
}

enum Choice {
    Ask(AuthorIdx),
    Later,
}

/// The introducer and the authors that reference the block, then its author, then the others in a rotation that
/// differs per block.
fn choose(block: &BlockRef, want: &mut Want, connected: &[AuthorIdx], free: impl Fn(&AuthorIdx) -> bool) -> Choice {
    let start = usize::from(block.digest.as_bytes()[0]);
    let rotation = (0..connected.len()).map(|i| connected[(start + i) % connected.len()]);
    let order = want.holders.iter().copied().chain([block.author]).chain(rotation);
    let mut untried = false;
    for peer in order.filter(|peer| connected.contains(peer) && !want.tried.contains(peer)) {
        if free(&peer) {
            return Choice::Ask(peer);
        }
        untried = true;
    }
    if !untried {
        // Patience grows with every round of all peers, not with every lost message.
        want.timeout_ms = (want.timeout_ms * 3 / 2).min(LAST_TIMEOUT_MS);
    }
    // Also when a peer that was not asked is busy: one that answers slowly must not keep the others, who may hold the
    // block by now, from being asked again.
    want.tried.clear();
    Choice::Later
}

impl Machine {
    pub(crate) fn tend_fetches(&mut self) {
        if self.halted {
            return;
        }
        let connected = self.connected_peers();
        let ancestors_above = self.store.gc_round().max(self.clock.round().saturating_sub(1));
        for (peer, request, refs) in self.fetcher.due(self.now.mono_ms, &connected) {
            self.counters.fetches += 1;
            let epoch = self.config.epoch;
            self.send(peer, &Message::FetchRequest { epoch, request, ancestors_above, refs });
        }
        for (batches, candidates) in self.batches.due(self.now.mono_ms, &connected) {
            self.out.push(Effect::FetchBatches { batches, candidates });
        }
    }

    /// Takes what was asked for, and ancestors that link to it by hash.
    pub(crate) fn on_fetch_reply(&mut self, peer: AuthorIdx, request: RequestId, blocks: &[Vec<u8>]) {
        // The request is closed after its blocks are noted as arrived, so that they are not asked for again.
        let Some(refs) = self.fetcher.requested_of(peer, request) else { return };
        let mut linked: BTreeSet<BlockRef> = refs.into_iter().collect();
        for bytes in blocks {
            let core = bytes.get(..CORE_LEN).and_then(|core| BlockCore::decode(core).ok());
            let Some(core) = core.filter(|core| linked.contains(&core.reference())) else {
                self.charge(peer, Offence::Unrequested);
                break;
            };
            if let Ok(block) = Block::decode(bytes)
                && core.parents_root == parents_root(core.round, &block.parents)
            {
                linked.extend(block.parents.iter().copied());
            }
            self.on_requested_block(peer, bytes);
        }
        self.fetcher.answered(peer, request, self.now.mono_ms);
    }
}

impl Fetcher {
    fn requested_of(&self, peer: AuthorIdx, id: RequestId) -> Option<Vec<BlockRef>> {
        self.requests.get(&id).filter(|request| request.peer == peer).map(|request| request.refs.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(number: u8) -> BlockRef {
        BlockRef { round: 5, author: 3, digest: Hash([number; 32]) }
    }

    #[test]
    fn a_busy_peer_does_not_keep_the_others_from_being_asked_again() {
        let connected = [1, 3];
        let mut fetcher = Fetcher::default();
        for number in 0..2 {
            fetcher.want(block(number), &[3], 0, 5, 100);
            assert_eq!(fetcher.due(0, &connected), [(3, u64::from(number) + 1, vec![block(number)])]);
        }
        // Peer 3 does not answer; peer 1 has not got the block yet.
        fetcher.want(block(9), &[3], 0, 5, 100);
        assert_eq!(fetcher.due(0, &connected), [(1, 3, vec![block(9)])]);
        fetcher.answered(1, 3, 10);
        assert_eq!(fetcher.due(10, &connected), []);
        assert_eq!(fetcher.due(10 + ALL_TRIED_MS, &connected), [(1, 4, vec![block(9)])]);
    }
}
