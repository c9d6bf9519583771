//! Answering peers: blocks from memory or the log, ranges of commits, probes.

use std::collections::{BTreeSet, VecDeque};

use crate::block::SignedCore;
use crate::config::{MAX_FETCH_REPLY_BYTES, MAX_RANGE_COMMITS, SIGNED_CORE_LEN};
use crate::event::{Effect, Offence};
use crate::machine::Machine;
use crate::message::Message;
use crate::types::{AuthorIdx, BlockRef, CommitIndex, Epoch, RequestId, Round, TimeMs};

/// Requests of one peer that are answered in a second.
const SERVED_PER_SECOND: u32 = 200;
/// Length prefixes and counts beside the blocks of a reply.
const BLOCK_OVERHEAD: usize = 8;

impl Machine {
    /// Whether this peer may be served another time in this second.
    pub(crate) fn may_serve(&mut self, peer: AuthorIdx) -> bool {
        let second: TimeMs = self.now.mono_ms / 1_000;
        let served = match self.peers.get_mut(usize::from(peer)) {
            None => self.closing.count_guest(peer, second),
            Some(state) => {
                if state.served_second != second {
                    state.served_second = second;
                    state.served = 0;
                }
                state.served += 1;
                state.served
            }
        };
        let ok = served <= SERVED_PER_SECOND;
        if !ok {
            self.charge(peer, Offence::Quota);
        }
        ok
    }

    pub(crate) fn on_fetch_request(
        &mut self,
        peer: AuthorIdx,
        epoch: Epoch,
        request: RequestId,
        ancestors_above: Round,
        refs: Vec<BlockRef>,
    ) {
        if !self.may_serve(peer) {
            return;
        }
        let commit_index = self.linearizer.last_ref().index;
        let earlier = epoch < self.config.epoch;
        // Also what is here with a signature that nobody has checked: who reads the log checks it.
        let in_log = |block: &BlockRef| {
            let logged = earlier || block.round <= self.store.gc_round();
            (logged && block.round > 0) || self.unchecked.contains(block)
        };
        if refs.iter().any(in_log) {
            self.out.push(Effect::ServeBlocks { to: peer, request, commit_index, refs });
            return;
        }
        let blocks = self.with_ancestors(&refs, ancestors_above);
        self.send(peer, &Message::FetchReply { request, commit_index, blocks });
    }

    /// The blocks that are here, then their ancestors above a round, nearest first, as many as fit.
    fn with_ancestors(&self, refs: &[BlockRef], above: Round) -> Vec<Vec<u8>> {
        let mut blocks = Vec::new();
        let mut left = MAX_FETCH_REPLY_BYTES;
        let mut seen: BTreeSet<BlockRef> = refs.iter().copied().collect();
        let mut open: VecDeque<BlockRef> = seen.iter().rev().copied().collect();
        while let Some(next) = open.pop_front() {
            if self.unchecked.contains(&next) {
                continue;
            }
            let stored = self.store.get(&next).map(|stored| (&stored.block, &stored.bytes));
            let waiting = self.suspended.get(&next).filter(|incoming| incoming.checked);
            let waiting = || waiting.map(|incoming| (&incoming.block, &incoming.bytes));
            let Some((block, bytes)) = stored.or_else(waiting) else { continue };
            if bytes.len() + BLOCK_OVERHEAD > left {
                break;
            }
            left -= bytes.len() + BLOCK_OVERHEAD;
            blocks.push(bytes.to_vec());
            for parent in block.parents.iter().filter(|parent| parent.round > above) {
                if seen.insert(*parent) {
                    open.push_back(*parent);
                }
            }
        }
        blocks
    }

    pub(crate) fn on_range_request(&mut self, peer: AuthorIdx, request: RequestId, from: CommitIndex, count: u16) {
        if !self.may_serve(peer) {
            return;
        }
        let commit_index = self.linearizer.last_ref().index;
        let most = u16::try_from(MAX_RANGE_COMMITS).unwrap_or(u16::MAX);
        if from == 0 || from > commit_index || count == 0 {
            self.send(peer, &Message::CommitRangeReply(crate::message::CommitRange::new(request, commit_index)));
        } else {
            let count = count.min(most);
            let newest = self.peers.iter().filter_map(|state| state.newest.as_ref());
            let newest = newest.filter_map(|(_, bytes)| SignedCore::decode(bytes.get(..SIGNED_CORE_LEN)?).ok());
            let newest = newest.collect();
            self.out.push(Effect::ServeCommits { to: peer, request, commit_index, from, count, newest });
        }
    }

    /// Tells a validator which of its blocks is the newest here, and in which round this node is.
    pub(crate) fn on_probe_request(&mut self, peer: AuthorIdx, nonce: u64) {
        if !self.may_serve(peer) {
            return;
        }
        let newest = self.peers.get(usize::from(peer)).and_then(|state| state.newest.as_ref());
        let newest = newest.map(|(_, bytes)| bytes.to_vec());
        let commit_index = self.linearizer.last_ref().index;
        let round = self.provable_round();
        let epoch = self.config.epoch;
        self.send(peer, &Message::ProbeReply { epoch, nonce, commit_index, round, newest });
    }

    /// Proves the round that the answer to a probe told of, or a later one.
    pub(crate) fn on_proof_request(&mut self, peer: AuthorIdx, nonce: u64) {
        if !self.may_serve(peer) {
            return;
        }
        if let Some(proof) = self.round_proof(nonce) {
            self.send(peer, &Message::ProofReply(proof));
        }
    }
}
