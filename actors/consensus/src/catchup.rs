//! Rejoining from far behind, in its first and simple form: ranges of commits from one peer at a time, over the bulk
//! lane.
//!
//! Nothing a peer says is believed: the blocks of a range go through the same checks as any other, signatures
//! included, and this node decides every commit itself. A range only tells which blocks to take next. Certified
//! application (consensus.md 9.5) can replace this later without changing what is sent.

use std::collections::{BTreeMap, BTreeSet};

use aurigraph_ledger::hash::Hash;

use crate::block::BlockCore;
use crate::commit::{CommitHeader, blocks_root};
use crate::config::{CORE_LEN, MAX_RANGE_COMMITS};
use crate::event::{Alarm, Effect, Offence};
use crate::machine::{Machine, highest_with};
use crate::message::{CommitRange, Message, RangeCommit};
use crate::record::Record;
use crate::types::{AuthorIdx, BlockRef, CommitIndex, RequestId, Round, TimeMs};

/// A range that does not come within this time is asked of another peer.
const REQUEST_TIMEOUT_MS: TimeMs = 8_000;
/// A range whose blocks do not come in within this time is asked for again.
const STALLED_MS: TimeMs = 10_000;
/// When all peers have failed, the next attempt waits this long.
const ALL_FAILED_MS: TimeMs = 500;
/// After catch-up has ended it does not start again for this long.
const REST_MS: TimeMs = 2_000;

#[derive(Debug)]
struct Request {
    id: RequestId,
    peer: AuthorIdx,
    from: CommitIndex,
    deadline_ms: TimeMs,
}

/// The state of catch-up.
#[derive(Debug, Default)]
pub struct CatchUp {
    active: bool,
    request: Option<Request>,
    /// First commit of the next range; 0 to start after the own newest commit.
    next_from: CommitIndex,
    /// Blocks of the newest range that are not accepted yet.
    pending: BTreeSet<BlockRef>,
    /// Commits of the newest range that are not decided here yet: digest, and that of the leader schedule.
    claims: BTreeMap<CommitIndex, (AuthorIdx, Hash, Hash)>,
    progress_ms: TimeMs,
    tried: BTreeSet<AuthorIdx>,
    last_peer: Option<AuthorIdx>,
    pause_until_ms: TimeMs,
}

impl CatchUp {
    pub(crate) const fn is_active(&self) -> bool {
        self.active
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
        if self.pending.len() < before {
            self.progress_ms = now_ms;
        }
    }

    pub(crate) fn peer_down(&mut self, peer: AuthorIdx) {
        if self.request.as_ref().is_some_and(|request| request.peer == peer) {
            self.failed(peer);
        }
    }

    fn failed(&mut self, peer: AuthorIdx) {
        self.request = None;
        self.tried.insert(peer);
    }

    pub(crate) fn next_due_ms(&self) -> Option<TimeMs> {
        if !self.active {
            return None;
        }
        let stalled = self.progress_ms.saturating_add(STALLED_MS);
        Some(match &self.request {
            Some(request) => request.deadline_ms,
            None if self.pending.is_empty() => self.pause_until_ms,
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
            // When the others are in a later epoch nobody pushes what is missing of this one.
            let over = self.closing.last_commit().is_some();
            let limits = self.config.limits;
            let far = target > own.saturating_add(if over { limits.catch_up_leave } else { limits.catch_up_enter });
            if far && now >= self.catch_up.pause_until_ms {
                self.enter_catch_up();
            }
            return;
        }
        let leave = self.config.limits.catch_up_leave;
        let fetched = self.catch_up.pending.is_empty() && self.catch_up.request.is_none();
        if own.saturating_add(leave) > target || (fetched && self.catch_up.next_from.saturating_add(leave) > target) {
            self.leave_catch_up();
            return;
        }
        if let Some(late) = self.catch_up.request.as_ref().filter(|r| r.deadline_ms <= now).map(|r| r.peer) {
            self.catch_up.failed(late);
        }
        if self.catch_up.progress_ms.saturating_add(STALLED_MS) <= now && !self.catch_up.pending.is_empty() {
            self.catch_up.pending.clear();
            self.catch_up.next_from = 0;
        }
        // A node that has stopped executing for a divergence holds nothing back: it follows the order all the same.
        let unexecuted = if self.has_diverged() { 0 } else { own.saturating_sub(self.executed_index) };
        let idle = self.catch_up.request.is_none() && self.catch_up.pending.is_empty();
        if idle && now >= self.catch_up.pause_until_ms && unexecuted <= self.config.limits.max_unexecuted_catch_up {
            self.request_range(own);
        }
    }

    fn enter_catch_up(&mut self) {
        self.counters.catch_ups += 1;
        let now = self.now.mono_ms;
        self.catch_up =
            CatchUp { active: true, progress_ms: now, last_peer: self.catch_up.last_peer, ..CatchUp::default() };
        self.append(Record::Mode { catching_up: true }, false);
        self.tend_catch_up();
    }

    fn leave_catch_up(&mut self) {
        let pause_until_ms = self.now.mono_ms.saturating_add(REST_MS);
        self.catch_up = CatchUp { pause_until_ms, last_peer: self.catch_up.last_peer, ..CatchUp::default() };
        self.append(Record::Mode { catching_up: false }, false);
        // J2: up to two rounds above the last committed leader may be skipped.
        let leader = self.linearizer.last().map_or(0, |header| header.leader.round);
        self.proposer.skip_to = leader.saturating_add(3);
    }

    fn request_range(&mut self, own: CommitIndex) {
        let now = self.now.mono_ms;
        let from = if self.catch_up.next_from == 0 { own + 1 } else { self.catch_up.next_from };
        let able = |peer: &AuthorIdx| {
            self.peers[usize::from(*peer)].claimed_commit >= from && !self.catch_up.tried.contains(peer)
        };
        let able: Vec<AuthorIdx> = self.connected_peers().into_iter().filter(able).collect();
        let after = |peer: &&AuthorIdx| self.catch_up.last_peer.is_none_or(|last| **peer > last);
        let Some(peer) = able.iter().find(after).or(able.first()).copied() else {
            self.catch_up.tried.clear();
            self.catch_up.next_from = 0;
            self.catch_up.pause_until_ms = now.saturating_add(ALL_FAILED_MS);
            return;
        };
        let id = self.fetcher.next_request();
        let deadline_ms = now.saturating_add(REQUEST_TIMEOUT_MS);
        self.catch_up.request = Some(Request { id, peer, from, deadline_ms });
        self.catch_up.last_peer = Some(peer);
        let count = u16::try_from(MAX_RANGE_COMMITS).unwrap_or(u16::MAX);
        self.send(peer, &Message::CommitRangeRequest { request: id, from, count });
    }

    pub(crate) fn on_range_reply(&mut self, peer: AuthorIdx, range: &CommitRange) {
        let asked = self.catch_up.request.take_if(|request| request.peer == peer && request.id == range.request);
        let Some(request) = asked else { return };
        if range.commits.is_empty() {
            self.catch_up.failed(peer);
            return;
        }
        if !self.is_chain(request.from, &range.commits) {
            self.charge(peer, Offence::InvalidBlock);
            self.catch_up.failed(peer);
            return;
        }
        self.catch_up.tried.clear();
        self.catch_up.progress_ms = self.now.mono_ms;
        let own = self.linearizer.last_ref().index;
        let open = range.commits.iter().map(|commit| &commit.header).filter(|header| header.index > own);
        self.catch_up.claims =
            open.map(|header| (header.index, (peer, header.digest(), header.schedule_digest))).collect();
        self.catch_up.next_from = request.from.saturating_add(range.commits.len() as u64);
        let refs: Vec<BlockRef> = range.commits.iter().flat_map(|commit| commit.blocks.iter().copied()).collect();
        let missing = |block: &&BlockRef| block.round > self.store.gc_round() && !self.store.contains(block);
        self.catch_up.pending = refs.iter().filter(missing).copied().collect();
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

    /// Compares an own commit with what a peer has said of it in a range. The header is not signed, but the channel names
    /// the peer: validators that say so count as if they had voted for it, and one alone stops nobody.
    pub(crate) fn compare_range(&mut self, header: &CommitHeader) {
        let Some((author, digest, found)) = self.catch_up.claims.remove(&header.index) else { return };
        let own = header.reference();
        if digest != own.digest && !self.dissenters.contains(author) {
            let (index, computed) = (header.index, header.schedule_digest);
            self.out.push(Effect::Alarm(Alarm::CommitRangeDiffers { author, index, found, computed }));
            self.note_dissent(author, own);
        }
    }

    /// Whether these are consecutive commits of one chain with the blocks their headers name, and the own chain's if
    /// it reaches that far.
    fn is_chain(&self, from: CommitIndex, commits: &[RangeCommit]) -> bool {
        let mut previous = self.recent_commits.get(&(from.saturating_sub(1))).copied();
        for (index, commit) in (from..).zip(commits) {
            let header = &commit.header;
            let listed = usize::try_from(header.block_count).is_ok_and(|count| count == commit.blocks.len());
            if header.index != index
                || header.epoch != self.config.epoch
                || previous.is_some_and(|digest| digest != header.prev_digest)
                || !listed
                || header.blocks_root != blocks_root(commit.blocks.iter())
            {
                return false;
            }
            previous = Some(header.digest());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::event::HaltReason;
    use crate::types::{LeaderSlot, Now};

    /// One peer that serves another commit is reported and believed by nobody; V of stake stop this node.
    #[test]
    fn a_range_with_another_schedule_raises_an_alarm_and_from_enough_peers_halts() {
        let config = Config::new(Hash([1; 32]), Hash([2; 32]), vec![1; 4], Some(0));
        let (mut machine, _) = Machine::new(config, Now::default()).expect("valid");
        let header = |index, schedule_digest| CommitHeader {
            epoch: 0,
            index,
            prev_digest: Hash::ZERO,
            timestamp_ms: 5,
            leader: BlockRef { round: 3, author: 1, digest: Hash([3; 32]) },
            blocks_root: Hash::ZERO,
            block_count: 1,
            gc_round: 0,
            schedule_digest,
            last_decided: LeaderSlot { round: 3, offset: 0, author: 1 },
        };
        let other = header(1, Hash([8; 32]));
        for (peer, halts) in [(1, false), (1, false), (2, true)] {
            machine.catch_up.claims.insert(1, (peer, other.digest(), other.schedule_digest));
            machine.compare_range(&header(1, Hash([7; 32])));
            assert_eq!(machine.halted, halts, "peer {peer}");
        }
        let alarms = machine.out.iter().filter(|effect| {
            matches!(effect, Effect::Alarm(Alarm::CommitRangeDiffers { index: 1, found, computed, .. })
                if (*found, *computed) == (Hash([8; 32]), Hash([7; 32])))
        });
        assert_eq!(alarms.count(), 2);
        let halt = machine.out.iter().any(|effect| {
            matches!(effect, Effect::Halt(reason)
                if matches!(reason.as_ref(), HaltReason::CommitDiffers { voters, .. } if *voters == [1, 2]))
        });
        assert!(halt);
    }
}
