//! How many restarts are too many, and how long to wait before each. Pure: time comes in from outside.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How many restarts within which sliding window a supervisor allows before it gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Restarts; one more is too many.
    pub restarts: usize,
    /// The window.
    pub window: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self { restarts: 20, window: Duration::from_secs(30) }
    }
}

/// The wait before a restart: `first`, then `factor` times longer with each failure in a row, up to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// How much longer each time.
    pub factor: u32,
    /// The longest.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(10), factor: 2, max: Duration::from_millis(200) }
    }
}

impl Backoff {
    /// The wait after this many failures in a row (from 1).
    #[must_use]
    pub fn delay(&self, failures: u32) -> Duration {
        let mut delay = self.first;
        for _ in 1..failures {
            if delay >= self.max {
                break;
            }
            delay = delay.saturating_mul(self.factor);
        }
        delay.min(self.max)
    }
}

/// The restarts of one supervisor in its window.
#[derive(Debug)]
pub(crate) struct Window {
    budget: Budget,
    restarts: VecDeque<Instant>,
}

impl Window {
    pub(crate) fn new(budget: Budget) -> Self {
        Self { budget, restarts: VecDeque::with_capacity(budget.restarts.min(1_024)) }
    }

    /// Counts one more restart. False if the budget is used up.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        while self.restarts.front().is_some_and(|at| now.duration_since(*at) >= self.budget.window) {
            self.restarts.pop_front();
        }
        if self.restarts.len() >= self.budget.restarts {
            return false;
        }
        self.restarts.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_maximum_and_never_overflows() {
        let backoff = Backoff::default();
        let waits: Vec<u128> = (1..=9).map(|failures| backoff.delay(failures).as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 200, 200, 200, 200]);
        assert_eq!(backoff.delay(u32::MAX), Duration::from_millis(200));
        let still = Backoff { first: Duration::from_millis(5), factor: 1, max: Duration::from_secs(1) };
        assert_eq!(still.delay(50), Duration::from_millis(5));
    }

    #[test]
    fn the_window_slides_so_that_old_restarts_are_forgotten_one_by_one() {
        let budget = Budget { restarts: 2, window: Duration::from_secs(10) };
        let mut window = Window::new(budget);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(window.allow(at(0)));
        assert!(window.allow(at(6)));
        assert!(!window.allow(at(9)), "two of two are used up");
        assert!(window.allow(at(10)), "the first is forgotten");
        assert!(!window.allow(at(15)));
        assert!(window.allow(at(16)));
    }

    #[test]
    fn a_budget_of_none_allows_no_restart() {
        let mut window = Window::new(Budget { restarts: 0, window: Duration::from_secs(1) });
        assert!(!window.allow(Instant::now()));
    }
}
