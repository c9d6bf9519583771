//! Rejoining by blocks, where commits cannot be certified (ADR 0041).
//!
//! A validator that builds blocks and votes for no commit lets the others go on without a slow one, and without that one's
//! votes no quorum certifies what they commit. A server then gives the commits of its log without votes. Nothing that such
//! a range says is believed: its blocks are taken like pushed ones, with their signatures checked and within the bounds of
//! the pushed, and what they commit is decided here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::accept::VERSIONS_PER_SLOT;
use crate::catchup::STALLED_MS;
use crate::event::Offence;
use crate::machine::Machine;
use crate::message::{BlockBytes, CommitRange};
use crate::types::{AuthorIdx, BlockRef, CommitIndex};

/// Blocks of a range that are on their way in at a time.
const MOST_OPEN: usize = 64;

/// Blocks of one uncertified range: no more than a range holds, and gone with the next.
#[derive(Debug)]
pub(crate) struct InHand {
    /// Who gave them.
    peer: AuthorIdx,
    /// The own newest commit when they came.
    before: CommitIndex,
    /// Not looked at yet; parents come first.
    blocks: VecDeque<(BlockRef, BlockBytes)>,
    /// More versions of a slot than are taken unasked: needed if another block names them.
    spare: BTreeMap<BlockRef, BlockBytes>,
    /// On their way into the store.
    open: BTreeSet<BlockRef>,
}

impl Machine {
    /// A range that nobody certifies, whose commits follow the own ones if they are what the server says.
    pub(crate) fn take_uncertified(&mut self, peer: AuthorIdx, range: CommitRange) {
        self.counters.ranges_uncertified += 1;
        let listed: BTreeSet<BlockRef> =
            range.commits.iter().flat_map(|commit| commit.blocks.iter().copied()).collect();
        let mut blocks = VecDeque::new();
        for bytes in range.blocks {
            let Some(core) = self.parse_core(peer, &bytes) else { break };
            let reference = core.reference();
            if !listed.contains(&reference) {
                self.charge(peer, Offence::Unrequested);
                break;
            }
            if self.is_lacking(&reference) {
                blocks.push_back((reference, bytes));
            }
        }
        let before = self.linearizer.last_ref().index;
        let (spare, open) = (BTreeMap::new(), BTreeSet::new());
        self.catch_up.progress_ms = self.now.mono_ms;
        self.catch_up.uncertified = Some(InHand { peer, before, blocks, spare, open });
    }

    /// Takes as many blocks in as may be on their way, and says what has become of the range when none is left.
    pub(crate) fn tend_uncertified(&mut self) {
        let Some(mut hand) = self.catch_up.uncertified.take() else { return };
        let now = self.now.mono_ms;
        let open = hand.open.len();
        hand.open.retain(|block| self.is_on_its_way(block));
        if hand.open.len() < open {
            self.catch_up.progress_ms = now;
        }
        let wanted: Vec<BlockRef> = hand.spare.keys().filter(|block| self.fetcher.is_wanted(block)).copied().collect();
        for reference in wanted {
            if let Some(bytes) = hand.spare.remove(&reference) {
                self.take_in(&mut hand, reference, &bytes);
            }
        }
        let limit = self.config.limits.ahead;
        while hand.open.len() < MOST_OPEN {
            let highest = self.clock.round().saturating_add(limit);
            let near = hand.blocks.front().is_some_and(|(block, _)| block.round <= highest);
            let Some((reference, bytes)) = near.then(|| hand.blocks.pop_front()).flatten() else { break };
            if !self.fetcher.is_wanted(&reference) && self.versions_of_slot(&reference) >= VERSIONS_PER_SLOT {
                hand.spare.insert(reference, bytes);
            } else {
                self.take_in(&mut hand, reference, &bytes);
            }
        }
        // What is too far ahead when nothing comes in any more is none of the blocks that are needed.
        let stalled = self.catch_up.progress_ms.saturating_add(STALLED_MS) <= now;
        if !hand.open.is_empty() && !stalled {
            self.catch_up.uncertified = Some(hand);
        } else if self.linearizer.last_ref().index > hand.before {
            self.catch_up.went_on();
        } else {
            self.catch_up.failed(hand.peer);
        }
    }

    fn take_in(&mut self, hand: &mut InHand, reference: BlockRef, bytes: &[u8]) {
        if !self.is_lacking(&reference) {
            return;
        }
        self.counters.blocks_fetched += 1;
        let wanted = self.fetcher.is_wanted(&reference);
        self.check_block(hand.peer, reference, bytes, wanted);
        if self.is_on_its_way(&reference) {
            hand.open.insert(reference);
        }
    }

    fn is_lacking(&self, block: &BlockRef) -> bool {
        block.round > self.store.gc_round() && !self.is_known(block)
    }

    fn is_on_its_way(&self, block: &BlockRef) -> bool {
        block.round > self.store.gc_round() && self.is_known(block) && !self.store.contains(block)
    }

    /// Versions of a slot that are here, wait, or are being checked.
    fn versions_of_slot(&self, block: &BlockRef) -> usize {
        let checked = self.checking_refs.iter().filter(|other| other.slot() == block.slot()).count();
        self.versions(block) + checked
    }
}
