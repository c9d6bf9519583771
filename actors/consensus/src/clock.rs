//! The threshold clock (consensus.md 4.1): the round that may be built next.
//!
//! Fed with accepted blocks only, own ones included, never with merely received ones.

use crate::committee::{Committee, StakeSet};
use crate::store::Store;
use crate::types::{BlockRef, Round, TimeMs};

/// The threshold clock.
#[derive(Debug)]
pub struct ThresholdClock {
    round: Round,
    seen: StakeSet,
    entered_ms: TimeMs,
}

impl ThresholdClock {
    /// Round 1: all genesis blocks are present.
    #[must_use]
    pub fn new(now_ms: TimeMs) -> Self {
        Self { round: 1, seen: StakeSet::default(), entered_ms: now_ms }
    }

    /// The round that may be built next.
    #[must_use]
    pub const fn round(&self) -> Round {
        self.round
    }

    /// When this round was entered.
    #[must_use]
    pub const fn entered_ms(&self) -> TimeMs {
        self.entered_ms
    }

    /// Takes an accepted block, which is in the store already. Returns whether a new round was entered.
    pub fn on_accept(&mut self, committee: &Committee, store: &Store, block: BlockRef, now_ms: TimeMs) -> bool {
        let before = self.round;
        if block.round < self.round {
            return false;
        }
        if block.round > self.round {
            // An accepted block proves a quorum at the round before it.
            self.round = block.round;
            self.seen = StakeSet::default();
        }
        self.seen.add(committee, block.author);
        while self.seen.stake() >= committee.quorum() {
            let Some(next) = self.round.checked_add(1) else { break };
            self.round = next;
            // One cascade of released blocks may complete several rounds.
            self.seen = StakeSet::of(committee, store.round(next).map(|(reference, _)| reference.author));
        }
        if self.round > before {
            self.entered_ms = now_ms;
        }
        self.round > before
    }
}
