//! Rejoining from far behind (consensus.md 9.5): certified ranges of commits from one peer at a time, over the bulk
//! lane.
//!
//! A range carries commit votes of a quorum. Once their signatures are checked the commits stand: their blocks are taken
//! by their digests, and nothing is decided here. What is computed from the blocks all the same - order, payload,
//! garbage collection, the leader schedule - is compared, and a difference stops this node.
//!
//! A server that has no votes of a quorum gives the commits without: see `uncertified`.

use std::collections::{BTreeMap, BTreeSet};

use aurigraph_ledger::hash::Hash;

use crate::block::{Block, BlockCore, SignedCore};
use crate::config::{CORE_LEN, MAX_RANGE_COMMITS};
use crate::event::{HaltReason, Offence};
use crate::evidence::Statement;
use crate::machine::{Checking, Machine, highest_with};
use crate::message::{CommitRange, Message};
use crate::range::RangeError;
use crate::record::Record;
use crate::suspend::Incoming;
use crate::types::{AuthorIdx, BlockRef, CommitIndex, CommitRef, RequestId, Round, TimeMs};
use crate::uncertified::InHand;

/// A range that does not come within this time is asked of another peer.
const REQUEST_TIMEOUT_MS: TimeMs = 8_000;
/// A range whose blocks do not come in within this time is asked for again.
pub(crate) const STALLED_MS: TimeMs = 10_000;
/// When all peers have failed, the next attempt waits this long.
const ALL_FAILED_MS: TimeMs = 500;
/// When all peers have failed so often with nothing come in between, catch-up ends: the ordinary way may do better.
const VAIN_ROUNDS: u32 = 3;
/// After catch-up has ended it does not start again for this long.
const REST_MS: TimeMs = 2_000;
/// While catching up, the vote of one pushed block of each author is checked in this time.
const VOTE_EVERY_MS: TimeMs = 1_000;
/// How long catch-up waits for word of a snapshot.
const SNAPSHOT_WORD_MS: TimeMs = 10_000;
/// Signatures of certified blocks that are checked at a time, once catch-up has ended.
const LATE_CHECKS: usize = 32;

#[derive(Debug)]
struct Request {
    id: RequestId,
    peer: AuthorIdx,
    /// The own newest commit then: the range follows it.
    before: CommitRef,
    deadline_ms: TimeMs,
    /// The answer, while the signatures of its votes are checked, and how many are open.
    answer: Option<(CommitRange, usize)>,
}

/// The state of catch-up.
#[derive(Debug, Default)]
pub struct CatchUp {
    active: bool,
    request: Option<Request>,
    /// Blocks of the newest range that are not accepted yet.
    pending: BTreeSet<BlockRef>,
    /// Blocks of a range that nobody certifies.
    pub(crate) uncertified: Option<InHand>,
    pub(crate) progress_ms: TimeMs,
    tried: BTreeSet<AuthorIdx>,
    /// How often all peers have failed since something came in.
    vain: u32,
    last_peer: Option<AuthorIdx>,
    /// The peer that was asked last, the own newest commit then, and when.
    asked: Option<(AuthorIdx, CommitIndex, TimeMs)>,
    /// How long a commit took that came from a peer, in microseconds, by the last request; as long as can be if none came.
    pace: BTreeMap<AuthorIdx, TimeMs>,
    pause_until_ms: TimeMs,
    /// When the vote of a pushed block of an author was checked last.
    votes_ms: BTreeMap<AuthorIdx, TimeMs>,
    /// Until when it waits for a snapshot; none if it does not.
    snapshot_until_ms: Option<TimeMs>,
    /// An earlier snapshot than of this commit would not help.
    snapshot_least: CommitIndex,
    /// The first commit that a peer without the next ones has: the lowest that was said.
    oldest: Option<CommitIndex>,
    /// Signature checks of certified blocks in flight.
    late: usize,
    /// Certified blocks whose signatures are bad: good ones are asked for.
    spoilt: BTreeSet<BlockRef>,
}

impl CatchUp {
    pub(crate) const fn is_active(&self) -> bool {
        self.active
    }

    /// Whether what is needed now is needed by what a quorum certifies.
    pub(crate) const fn takes_certified(&self) -> bool {
        self.active && self.uncertified.is_none()
    }

    pub(crate) fn is_pending(&self, block: &BlockRef) -> bool {
        self.pending.contains(block)
    }

    /// A block was accepted.
    pub(crate) fn arrived(&mut self, block: &BlockRef, now_ms: TimeMs) {
        if self.pending.remove(block) {
            self.progress_ms = now_ms;
        }
    }

    pub(crate) fn advance_gc(&mut self, gc_round: Round, now_ms: TimeMs) {
        let before = self.pending.len();
        self.pending.retain(|block| block.round > gc_round);
        self.spoilt.retain(|block| block.round > gc_round);
        if self.pending.len() < before {
            self.progress_ms = now_ms;
        }
    }

    pub(crate) fn peer_down(&mut self, peer: AuthorIdx) {
        if self.request.as_ref().is_some_and(|request| request.peer == peer) {
            self.failed(peer);
        }
    }

    pub(crate) fn failed(&mut self, peer: AuthorIdx) {
        self.request = None;
        self.tried.insert(peer);
    }

    /// A range has brought commits.
    pub(crate) fn went_on(&mut self) {
        self.tried.clear();
        self.vain = 0;
        self.oldest = None;
    }

    /// What the last request has come to, when the own newest commit is this one.
    fn note_pace(&mut self, own: CommitIndex, now_ms: TimeMs) {
        let Some((peer, before, asked_ms)) = self.asked.take() else { return };
        let took_us = now_ms.saturating_sub(asked_ms).saturating_mul(1_000);
        self.pace.insert(peer, took_us.checked_div(own.saturating_sub(before)).unwrap_or(TimeMs::MAX));
    }

    /// Who is asked next: the quickest. One that was not asked yet may be the quickest of all; equals take turns.
    fn choose(&self, able: impl Iterator<Item = AuthorIdx>) -> Option<AuthorIdx> {
        let pace = |peer: &AuthorIdx| self.pace.get(peer).copied().unwrap_or(0);
        let had_its_turn = |peer: &AuthorIdx| self.last_peer.is_some_and(|last| *peer <= last);
        able.min_by_key(|peer| (pace(peer), had_its_turn(peer), *peer))
    }

    pub(crate) fn next_due_ms(&self) -> Option<TimeMs> {
        if !self.active {
            return None;
        }
        if self.snapshot_until_ms.is_some() {
            return self.snapshot_until_ms;
        }
        let stalled = self.progress_ms.saturating_add(STALLED_MS);
        Some(match &self.request {
            Some(request) => request.deadline_ms,
            None if self.pending.is_empty() && self.uncertified.is_none() => self.pause_until_ms,
            None => stalled,
        })
    }
}

impl Machine {
    /// The newest commit that a correct validator is known to have, going by what peers say of themselves.
    fn claimed_index(&self) -> CommitIndex {
        let own = self.linearizer.last_ref().index;
        let claim = |author: AuthorIdx| {
            if self.config.own == Some(author) { own } else { self.peers[usize::from(author)].claimed_commit }
        };
        let claims = self.ctx.committee.authors().map(|author| (claim(author), author)).collect();
        let claimed = highest_with(&self.ctx.committee, claims, self.ctx.committee.validity());
        // Commits of later epochs are none of this machine's.
        self.closing.last_commit().map_or(claimed, |last| claimed.min(last.index))
    }

    /// Starts, drives and ends catch-up.
    pub(crate) fn tend_catch_up(&mut self) {
        if self.halted {
            return;
        }
        let (own, target) = (self.linearizer.last_ref().index, self.claimed_index());
        let now = self.now.mono_ms;
        if self.closed_at().is_some() {
            if self.catch_up.active {
                self.leave_catch_up();
            }
            return;
        }
        if !self.catch_up.active {
            if self.is_far(own, target) && now >= self.catch_up.pause_until_ms {
                self.enter_catch_up();
            }
            return;
        }
        if own.saturating_add(self.config.limits.catch_up_leave) > target {
            self.leave_catch_up();
            return;
        }
        if self.catch_up.snapshot_until_ms.is_some_and(|until| until > now) {
            return;
        }
        self.catch_up.snapshot_until_ms = None;
        if let Some(late) = self.catch_up.request.as_ref().filter(|r| r.deadline_ms <= now).map(|r| r.peer) {
            self.catch_up.failed(late);
        }
        self.tend_uncertified();
        if self.catch_up.progress_ms.saturating_add(STALLED_MS) <= now && !self.catch_up.pending.is_empty() {
            self.catch_up.pending.clear();
            self.certified.clear();
        }
        // A node that has stopped executing for a divergence holds nothing back: it follows the order all the same.
        let unexecuted = if self.has_diverged() { 0 } else { own.saturating_sub(self.executed_index) };
        let idle = self.catch_up.request.is_none() && self.catch_up.pending.is_empty() && self.certified.is_empty();
        let idle = idle && self.catch_up.uncertified.is_none();
        if idle && now >= self.catch_up.pause_until_ms && unexecuted <= self.config.limits.max_unexecuted_catch_up {
            self.request_range(own, target);
        }
    }

    fn is_far(&self, own: CommitIndex, target: CommitIndex) -> bool {
        // When the others are in a later epoch nobody pushes what is missing of this one.
        let over = self.closing.last_commit().is_some();
        let limits = self.config.limits;
        target > own.saturating_add(if over { limits.catch_up_leave } else { limits.catch_up_enter })
    }

    fn enter_catch_up(&mut self) {
        self.counters.catch_ups += 1;
        let now = self.now.mono_ms;
        self.catch_up.active = true;
        self.catch_up.progress_ms = now;
        let behind = self.claimed_index().saturating_sub(self.linearizer.last_ref().index);
        let distance = self.config.limits.snapshot_distance;
        if distance > 0 && behind > distance {
            // One that is little newer than what is here costs more than it saves.
            self.await_snapshot(self.linearizer.last_ref().index.saturating_add(distance / 2));
        }
        self.append(Record::Mode { catching_up: true }, false);
        self.tend_catch_up();
    }

    fn await_snapshot(&mut self, least: CommitIndex) {
        self.catch_up.snapshot_until_ms = Some(self.now.mono_ms.saturating_add(SNAPSHOT_WORD_MS));
        self.catch_up.snapshot_least = least;
    }

    /// The least commit of a snapshot that helps.
    pub(crate) const fn snapshot_least(&self) -> CommitIndex {
        self.catch_up.snapshot_least
    }

    /// Whether catch-up waits for a snapshot of the state.
    pub(crate) const fn awaits_snapshot(&self) -> bool {
        self.catch_up.active && self.catch_up.snapshot_until_ms.is_some()
    }

    /// Word of the snapshot that catch-up waits for.
    pub(crate) fn on_snapshot_sync(&mut self, goes_on: bool) {
        if self.awaits_snapshot() {
            let until = self.now.mono_ms.saturating_add(SNAPSHOT_WORD_MS);
            self.catch_up.snapshot_until_ms = goes_on.then_some(until);
        }
    }

    fn leave_catch_up(&mut self) {
        let now = self.now.mono_ms;
        self.certified.clear();
        self.catch_up.active = false;
        self.catch_up.request = None;
        self.catch_up.snapshot_until_ms = None;
        self.catch_up.pending.clear();
        self.catch_up.uncertified = None;
        self.catch_up.went_on();
        self.catch_up.asked = None;
        self.catch_up.pace.clear();
        self.catch_up.votes_ms.clear();
        self.catch_up.pause_until_ms = now.saturating_add(REST_MS);
        self.append(Record::Mode { catching_up: false }, false);
        self.ask_soon();
        // J2: up to two rounds above the last committed leader may be skipped.
        let leader = self.linearizer.last().map_or(0, |header| header.leader.round);
        self.proposer.skip_to = leader.saturating_add(3);
        // What is here may decide more than was certified.
        self.try_commit();
    }

    fn request_range(&mut self, own: CommitIndex, target: CommitIndex) {
        let now = self.now.mono_ms;
        let (before, from) = (self.linearizer.last_ref(), own + 1);
        self.catch_up.note_pace(own, now);
        let able = |peer: &AuthorIdx| {
            self.peers[usize::from(*peer)].claimed_commit >= from && !self.catch_up.tried.contains(peer)
        };
        let Some(peer) = self.catch_up.choose(self.connected_peers().into_iter().filter(able)) else {
            // The others stand still, perhaps for want of this node, and what is left is near enough to be decided here;
            // or nobody has anything that goes into a range. Blocks that are pushed, and what they need, come in outside.
            // Where their logs do not go back as far, a snapshot does.
            let oldest = self.catch_up.oldest.take().filter(|_| self.config.limits.snapshot_distance > 0);
            if !self.catch_up.tried.is_empty() {
                self.catch_up.vain += u32::from(oldest.is_none());
                if !self.is_far(own, target) || self.catch_up.vain >= VAIN_ROUNDS {
                    return self.leave_catch_up();
                }
            }
            self.catch_up.tried.clear();
            self.catch_up.pause_until_ms = now.saturating_add(ALL_FAILED_MS);
            if let Some(oldest) = oldest {
                self.await_snapshot(oldest.saturating_sub(1));
            }
            return;
        };
        let id = self.fetcher.next_request();
        let deadline_ms = now.saturating_add(REQUEST_TIMEOUT_MS);
        self.catch_up.request = Some(Request { id, peer, before, deadline_ms, answer: None });
        self.catch_up.last_peer = Some(peer);
        self.catch_up.asked = Some((peer, own, now));
        let count = u16::try_from(MAX_RANGE_COMMITS).unwrap_or(u16::MAX);
        self.send(peer, &Message::CommitRangeRequest { request: id, from, count });
    }

    /// Checks everything of a range but its signatures, then those.
    pub(crate) fn on_range_reply(&mut self, peer: AuthorIdx, range: CommitRange) {
        let asked = |request: &Request| request.peer == peer && request.id == range.request && request.answer.is_none();
        let Some(before) = self.catch_up.request.as_ref().filter(|r| asked(r)).map(|r| r.before) else { return };
        let of_epoch = range.votes.iter().all(|signed| self.ctx.check_core(&signed.core).is_ok())
            && range.commits.iter().all(|commit| commit.header.epoch == self.config.epoch);
        let checked = range.check(before, &self.ctx.committee, self.closing.last_commit());
        if !of_epoch || checked.is_err() {
            // A server that lacks the votes gives what it has.
            if of_epoch && checked == Err(RangeError::Uncertified) {
                self.catch_up.request = None;
                return self.take_uncertified(peer, range);
            }
            // A server whose log ends here has nothing that is certified: no offence.
            if !matches!(checked, Err(RangeError::Empty | RangeError::Uncertified)) {
                self.charge(peer, Offence::BadRange);
            }
            if matches!(checked, Err(RangeError::Empty)) && range.oldest > before.index.saturating_add(1) {
                let oldest = self.catch_up.oldest.map_or(range.oldest, |oldest| oldest.min(range.oldest));
                self.catch_up.oldest = Some(oldest);
            }
            self.catch_up.failed(peer);
            return;
        }
        let votes = range.votes.clone();
        if let Some(request) = &mut self.catch_up.request {
            request.answer = Some((range, votes.len()));
            let request = request.id;
            if votes.is_empty() {
                self.take_answer();
            }
            for SignedCore { core, signature } in votes {
                self.verify(core.reference(), signature, Checking::RangeVote { request });
            }
        }
    }

    pub(crate) fn on_range_vote_checked(&mut self, id: RequestId, ok: bool) {
        let Some(request) = self.catch_up.request.as_mut().filter(|request| request.id == id) else { return };
        let peer = request.peer;
        if !ok {
            self.charge(peer, Offence::BadSignature);
            self.catch_up.failed(peer);
            return;
        }
        let Some((_, open)) = &mut request.answer else { return };
        *open = open.saturating_sub(1);
        if *open == 0 {
            self.take_answer();
        }
    }

    fn take_answer(&mut self) {
        let Some(Request { peer, answer: Some((range, _)), .. }) = self.catch_up.request.take() else { return };
        self.take_range(peer, range);
    }

    /// A range that a quorum certifies: its blocks are taken by their digests.
    fn take_range(&mut self, peer: AuthorIdx, range: CommitRange) {
        self.catch_up.went_on();
        self.catch_up.progress_ms = self.now.mono_ms;
        for commit in &range.commits {
            let certified = commit.header.reference();
            if let Some(own) = self.recent_commits.get(&certified.index).filter(|own| **own != certified.digest) {
                let own = *own;
                return self.certified_differs(certified, own, "the commit");
            }
        }
        let own = self.linearizer.last_ref().index;
        let (gc_round, store) = (self.store.gc_round(), &self.store);
        let refs: BTreeSet<BlockRef> = range.commits.iter().flat_map(|commit| commit.blocks.iter().copied()).collect();
        let missing = |block: &&BlockRef| block.round > gc_round && !store.contains(block);
        self.catch_up.pending = refs.iter().filter(missing).copied().collect();
        self.certified = range.commits.into_iter().map(|commit| commit.header).filter(|h| h.index > own).collect();
        for bytes in &range.blocks {
            let core = bytes.get(..CORE_LEN).and_then(|core| BlockCore::decode(core).ok());
            match core.map(|core| core.reference()) {
                Some(reference) if self.catch_up.is_pending(&reference) => self.on_requested_block(peer, bytes),
                Some(reference) if refs.contains(&reference) => {}
                _ => self.charge(peer, Offence::Unrequested),
            }
        }
        let now = self.now.mono_ms;
        let lacking: Vec<BlockRef> =
            self.catch_up.pending.iter().filter(|block| !self.is_known(block)).copied().collect();
        for block in lacking {
            let limit = self.config.limits.want_blocks;
            self.fetcher.want(block, &[peer], now, self.clock.round(), limit);
        }
    }

    /// A quorum has computed another commit than this node: more than the tolerated stake is faulty, or this program
    /// is wrong.
    pub(crate) fn certified_differs(&mut self, certified: CommitRef, computed: Hash, what: &'static str) {
        let CommitRef { index, digest: certified } = certified;
        self.halt(HaltReason::CertifiedDiffers { index, certified, computed, what });
    }

    /// A block that is pushed while catching up: now and then its vote is checked, and nothing of it is kept.
    pub(crate) fn check_vote_only(&mut self, peer: AuthorIdx, core: BlockCore, bytes: &[u8]) {
        let now = self.now.mono_ms;
        if self.catch_up.votes_ms.get(&peer).is_some_and(|last| last.saturating_add(VOTE_EVERY_MS) > now) {
            return;
        }
        self.catch_up.votes_ms.insert(peer, now);
        match Block::decode(bytes).ok().filter(|block| self.ctx.check(block).is_ok()) {
            Some(block) => self.verify(core.reference(), block.signature, Checking::Vote(Box::new(core))),
            None => self.charge(peer, Offence::InvalidBlock),
        }
    }

    /// After catching up: checks the signatures of the certified blocks that are still here, a few at a time.
    pub(crate) fn check_late(&mut self) {
        if self.catch_up.active || self.halted || self.replaying {
            return;
        }
        let free = LATE_CHECKS.saturating_sub(self.catch_up.late);
        if free == 0 || self.unchecked.len() == self.catch_up.spoilt.len() + self.catch_up.late {
            return;
        }
        let open = |block: &&BlockRef| !self.checking_refs.contains(block) && !self.catch_up.spoilt.contains(block);
        let next: Vec<BlockRef> = self.unchecked.iter().filter(open).take(free).copied().collect();
        for block in next {
            let Some(signature) = self.store.get(&block).map(|stored| stored.block.signature.clone()) else { continue };
            self.catch_up.late += 1;
            self.checking_refs.insert(block);
            self.verify(block, signature, Checking::Late(block));
        }
    }

    pub(crate) fn on_late_checked(&mut self, block: BlockRef, ok: bool) {
        self.catch_up.late = self.catch_up.late.saturating_sub(1);
        self.checking_refs.remove(&block);
        let Some(stored) = self.store.get(&block).filter(|_| self.unchecked.contains(&block)) else { return };
        if ok {
            let (reference, from) = (block, block.author);
            let (block, bytes) = (stored.block.clone(), stored.bytes.clone());
            self.signature_is_good(&Incoming { reference, block, bytes, from, checked: true });
        } else {
            // Whoever served it has spoilt it: the digest does not cover the signature. The block stays.
            self.catch_up.spoilt.insert(block);
            let (now, limit) = (self.now.mono_ms, self.config.limits.want_blocks);
            self.fetcher.want(block, &[block.author], now, self.clock.round(), limit);
        }
    }

    /// Whether a block is here, but for a good signature.
    pub(crate) fn wants_signature(&self, block: &BlockRef) -> bool {
        self.catch_up.spoilt.contains(block) && !self.checking_refs.contains(block)
    }

    /// A block that is here came again, with a good signature.
    pub(crate) fn heal_signature(&mut self, incoming: &Incoming) {
        self.catch_up.spoilt.remove(&incoming.reference);
        self.store.replace(&incoming.reference, incoming.block.clone(), incoming.bytes.clone());
        self.append(Record::Block(incoming.bytes.clone()), false);
        self.signature_is_good(incoming);
    }

    /// What the author of a certified block says counts from now on.
    fn signature_is_good(&mut self, incoming: &Incoming) {
        self.unchecked.remove(&incoming.reference);
        self.note_newest(incoming);
        self.note_statement(&Statement::Block(incoming.block.clone()));
        self.slot_is_logged(&incoming.reference);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::CommitHeader;
    use crate::config::Config;
    use crate::event::Effect;
    use crate::message::RangeCommit;
    use crate::types::{LeaderSlot, Now};

    /// One honest quorum cannot certify another commit than this node has computed: nothing may go on after that.
    #[test]
    fn a_certified_commit_that_differs_from_the_own_one_halts() {
        for differs in [false, true] {
            let config = Config::new(Hash([1; 32]), Hash([2; 32]), vec![1; 4], Some(0));
            let (mut machine, _) = Machine::new(config, Now::default()).expect("valid");
            let header = CommitHeader {
                epoch: 0,
                index: 1,
                prev_digest: Hash::ZERO,
                timestamp_ms: 5,
                leader: BlockRef { round: 3, author: 1, digest: Hash([3; 32]) },
                blocks_root: Hash::ZERO,
                block_count: 0,
                gc_round: 0,
                schedule_digest: Hash::ZERO,
                last_decided: LeaderSlot { round: 3, offset: 0, author: 1 },
            };
            let own = if differs { Hash([9; 32]) } else { header.digest() };
            machine.recent_commits.insert(1, own);
            let mut range = CommitRange::new(1, 1);
            range.commits.push(RangeCommit { header, blocks: Vec::new() });
            machine.take_range(1, range);
            let halt = machine.out.iter().any(|effect| {
                matches!(effect, Effect::Halt(reason)
                    if matches!(reason.as_ref(), HaltReason::CertifiedDiffers { index: 1, computed, .. } if *computed == own))
            });
            assert_eq!((machine.halted, halt), (differs, differs));
        }
    }
}
