//! What one peer may make this node check (consensus.md 2.4, 3.4): a bucket of tokens for each, so that the work that a
//! faulty peer causes has a bound per second, and never touches the others'.
//!
//! A pushed block costs a token, the evidence in it one a signature. What is pushed beyond is dropped before anything is
//! checked; a block that the DAG needs is asked for, and what is asked for is bounded by the requests.

use crate::types::TimeMs;

/// Tokens are counted in thousandths.
const TOKEN: u64 = 1_000;

/// A peer's tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Spent and not refilled yet, in thousandths of a token; may exceed the bucket: a debt.
    spent: u64,
    refilled_ms: TimeMs,
}

impl Bucket {
    /// Takes one token, if there is one.
    pub(crate) fn take(&mut self, now_ms: TimeMs, burst: u32, per_second: u32) -> bool {
        self.refill(now_ms, per_second);
        let ok = self.spent + TOKEN <= u64::from(burst) * TOKEN;
        if ok {
            self.spent += TOKEN;
        }
        ok
    }

    /// Takes tokens for work that is done in any case; later work waits for them.
    pub(crate) fn owe(&mut self, now_ms: TimeMs, tokens: u32, per_second: u32) {
        self.refill(now_ms, per_second);
        self.spent = self.spent.saturating_add(u64::from(tokens) * TOKEN);
    }

    /// A token a second is a thousandth of one a millisecond.
    fn refill(&mut self, now_ms: TimeMs, per_second: u32) {
        let elapsed = now_ms.saturating_sub(self.refilled_ms);
        self.refilled_ms = now_ms.max(self.refilled_ms);
        self.spent = self.spent.saturating_sub(elapsed.saturating_mul(u64::from(per_second)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate_and_debts_are_paid_first() {
        let mut bucket = Bucket::default();
        let taken = |bucket: &mut Bucket, now| (0..100).filter(|_| bucket.take(now, 10, 4)).count();
        assert_eq!(taken(&mut bucket, 5_000), 10);
        assert_eq!(taken(&mut bucket, 5_249), 0);
        assert_eq!(taken(&mut bucket, 5_250), 1);
        assert_eq!(taken(&mut bucket, 6_250), 4);
        assert_eq!(taken(&mut bucket, 1_000), 0, "time does not go back");
        bucket.owe(6_250, 8, 4);
        assert_eq!(taken(&mut bucket, 8_250), 0);
        assert_eq!(taken(&mut bucket, 8_500), 1);
        assert_eq!(taken(&mut bucket, 1_000_000), 10, "and no more than a burst");
    }
}
