//! Whether the store's thread gets on: since when it has been at one piece of work.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Shared by the thread, which says when it begins and ends a piece of work, and the actor, which looks.
#[derive(Debug)]
pub(super) struct Watch {
    made: Instant,
    /// Milliseconds since `made` at which the piece under way began, and one more; 0 while there is none.
    since: AtomicU64,
    deadline: Duration,
}

impl Watch {
    pub(super) fn new(deadline: Duration) -> Self {
        Self { made: Instant::now(), since: AtomicU64::new(0), deadline }
    }

    /// How long a piece may take.
    pub(super) const fn deadline(&self) -> Duration {
        self.deadline
    }

    fn now(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    pub(super) fn begin(&self) {
        self.since.store(self.now() + 1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// How long the piece under way has taken.
    pub(super) fn busy(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis((self.now() + 1).saturating_sub(since)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_without_work_is_never_busy_and_one_at_work_is_from_its_beginning() {
        let watch = Watch { made: Instant::now() - Duration::from_secs(50), ..Watch::new(Duration::ZERO) };
        assert_eq!(watch.busy(), Duration::ZERO);
        watch.begin();
        assert!(watch.busy() < Duration::from_secs(40));
        watch.since.store(1, Ordering::Relaxed);
        assert!(watch.busy() >= Duration::from_secs(50));
        watch.end();
        assert_eq!(watch.busy(), Duration::ZERO);
    }
}
