//! The leader time-out and how it adapts (consensus.md 4.5). Local; nothing here is consensus.

use std::collections::VecDeque;

use crate::config::Pacing;
use crate::types::TimeMs;

/// Own rounds without a direct commit after which the time-out doubles.
const STALLED_ROUNDS: u32 = 8;
/// Arrival spreads that are remembered.
const SPREADS: usize = 128;

/// The adaptive leader time-out.
#[derive(Debug)]
pub struct LeaderTimeout {
    bounds: Pacing,
    value_ms: TimeMs,
    rounds_without_commit: u32,
    timed_out: bool,
    spreads: VecDeque<TimeMs>,
}

impl LeaderTimeout {
    /// Starts with the configured time-out.
    #[must_use]
    pub const fn new(bounds: Pacing) -> Self {
        Self {
            bounds,
            value_ms: bounds.t_leader_initial_ms,
            rounds_without_commit: 0,
            timed_out: false,
            spreads: VecDeque::new(),
        }
    }

    /// The time-out now.
    #[must_use]
    pub const fn get(&self) -> TimeMs {
        self.value_ms
    }

    /// An own block was built; `by_timer` if the leader was not waited for to the end.
    pub fn on_round(&mut self, by_timer: bool) {
        self.rounds_without_commit += 1;
        self.timed_out |= by_timer;
        if self.rounds_without_commit >= STALLED_ROUNDS && self.timed_out {
            self.value_ms = self.value_ms.saturating_mul(2).min(self.bounds.t_leader_max_ms);
            self.rounds_without_commit = 0;
            self.timed_out = false;
        }
    }

    /// A leader was committed directly.
    pub fn on_direct_commit(&mut self) {
        self.rounds_without_commit = 0;
        self.timed_out = false;
        self.value_ms = (self.value_ms * 95 / 100).max(self.floor());
    }

    /// A block of the current round came this long after the first one.
    pub fn on_arrival(&mut self, spread_ms: TimeMs) {
        if self.spreads.len() == SPREADS {
            self.spreads.pop_front();
        }
        self.spreads.push_back(spread_ms);
    }

    /// Twice the 95th percentile of the spread. A validator that is always late must not hold the others up, so the
    /// floor never exceeds what the time-out started with.
    fn floor(&self) -> TimeMs {
        let mut sorted: Vec<TimeMs> = self.spreads.iter().copied().collect();
        sorted.sort_unstable();
        let p95 = sorted.get(sorted.len() * 95 / 100).copied().unwrap_or(0);
        let least = self.bounds.t_leader_min_ms;
        p95.saturating_mul(2).clamp(least, self.bounds.t_leader_initial_ms.max(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use aurigraph_ledger::hash::Hash;

    fn timeout() -> LeaderTimeout {
        LeaderTimeout::new(Config::new(Hash::ZERO, Hash::ZERO, vec![1; 4], None).pacing)
    }

    #[test]
    fn the_timeout_doubles_when_timers_bring_no_commit_and_shrinks_slowly() {
        let mut t = timeout();
        (0..8).for_each(|_| t.on_round(true));
        assert_eq!(t.get(), 600);
        (0..64).for_each(|_| t.on_round(true));
        assert_eq!(t.get(), 8_000, "bounded above");
        t.on_direct_commit();
        assert_eq!(t.get(), 7_600);
        (0..200).for_each(|_| t.on_direct_commit());
        assert_eq!(t.get(), 100, "bounded below");
    }

    #[test]
    fn rounds_that_waited_for_their_leaders_do_not_raise_it() {
        let mut t = timeout();
        (0..100).for_each(|_| t.on_round(false));
        assert_eq!(t.get(), 300);
    }

    #[test]
    fn late_blocks_raise_the_floor_but_not_beyond_the_start() {
        let mut t = timeout();
        (0..128).for_each(|_| t.on_arrival(80));
        (0..200).for_each(|_| t.on_direct_commit());
        assert_eq!(t.get(), 160);
        (0..128).for_each(|_| t.on_arrival(5_000));
        (0..200).for_each(|_| t.on_direct_commit());
        assert_eq!(t.get(), 300);
    }
}
