//! Work on all of a large state, shared out over the processor's cores. What comes out never depends on the sharing.

use std::num::NonZero;
use std::ops::Range;
use std::panic::resume_unwind;
use std::thread::{available_parallelism, scope};

/// Cuts `0..len` into ranges, none shorter than `least` but the only one, has each done on a thread of its own, and returns
/// what came out in the order of the ranges. With fewer than twice `least` everything is done on the calling thread.
pub(crate) fn ranges<T: Send>(len: usize, least: usize, work: impl Fn(Range<usize>) -> T + Sync) -> Vec<T> {
    let most = len / least.max(1);
    let threads = if most < 2 { 1 } else { available_parallelism().map_or(1, NonZero::get).min(most) };
    if threads == 1 {
        return vec![work(0..len)];
    }
    let share = len.div_ceil(threads);
    scope(|scope| {
        let work = &work;
        let starts = (0..threads).map(|at| (at * share).min(len));
        let running: Vec<_> = starts.map(|from| scope.spawn(move || work(from..(from + share).min(len)))).collect();
        let ended = running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        ended.collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_worked_on_once_and_results_come_in_order() {
        for (len, least) in [(0, 1), (1, 1), (7, 3), (1_000, 1), (1_001, 100), (64, 1_000), (5, 0)] {
            let parts = ranges(len, least, Iterator::collect::<Vec<_>>);
            let all: Vec<usize> = parts.into_iter().flatten().collect();
            assert_eq!(all, (0..len).collect::<Vec<_>>(), "{len} of at least {least}");
        }
    }
}
