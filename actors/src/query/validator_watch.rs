//! What this node has seen of the validators since it started: looked at twice a second by the event hub.

use aurigraph_consensus::{Mode, Status};

use super::values::Timestamp;

/// A validator whose newest accepted block is more rounds behind than this does not take part.
const ROUNDS_BEHIND: u32 = 20;

/// One validator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// It takes part now.
    pub active: bool,
    /// Its newest accepted block's round.
    pub round: u32,
    /// When that last grew.
    pub last_active: Option<Timestamp>,
}

/// All validators.
#[derive(Debug, Clone, Default)]
pub struct ValidatorWatch {
    /// The epoch whose validators these are.
    epoch: u64,
    looks: u64,
    seen: Vec<Seen>,
}

impl ValidatorWatch {
    /// Nothing seen yet of this many validators.
    #[must_use]
    pub fn new(validators: usize) -> Self {
        Self { epoch: 0, looks: 0, seen: vec![Seen::default(); validators] }
    }

    /// Takes a look; returns the validators whose state changed, with what they are now. The first look tells nothing:
    /// there is nothing to compare it with.
    pub fn look(&mut self, status: &Status, own: Option<u16>, now: Timestamp) -> Vec<(u16, bool)> {
        if status.epoch.epoch != self.epoch {
            // Other validators may have these indices now.
            *self = Self { epoch: status.epoch.epoch, ..Self::new(status.peers.len()) };
        }
        let first = self.looks == 0;
        self.looks += 1;
        let mut changed = Vec::new();
        for peer in &status.peers {
            let Some(seen) = self.seen.get_mut(usize::from(peer.author)) else { continue };
            let is_own = own == Some(peer.author);
            let round = if is_own { status.own_round } else { peer.accepted_round };
            let active = if is_own {
                status.mode == Mode::Active
            } else {
                peer.connected && round.saturating_add(ROUNDS_BEHIND) >= status.round
            };
            if round > seen.round {
                seen.last_active = Some(now);
            }
            if active != seen.active && !first {
                changed.push((peer.author, active));
            }
            seen.round = round;
            seen.active = active;
        }
        changed
    }

    /// What was seen of one.
    #[must_use]
    pub fn of(&self, validator: u16) -> Seen {
        self.seen.get(usize::from(validator)).copied().unwrap_or_default()
    }
}
