//! Token buckets over tokio's clock.

use std::time::Duration;

use tokio::time::Instant;

/// So many units a second, and at most one second's worth at once. What is taken may exceed what is there as long as
/// anything is there: the bucket is then in debt, so that one large unit never waits for ever.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: f64,
    tokens: f64,
    last: Instant,
}

impl Bucket {
    /// A full bucket.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn new(per_second: u64) -> Self {
        let rate = per_second.max(1) as f64;
        Self { rate, tokens: rate, last: Instant::now() }
    }

    /// Takes, or says how long until something may be taken.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn take(&mut self, units: u64) -> Result<(), Duration> {
        let now = Instant::now();
        self.tokens = (self.tokens + self.rate * now.duration_since(self.last).as_secs_f64()).min(self.rate);
        self.last = now;
        if self.tokens <= 0.0 {
            // At least a millisecond, so that a waiter does not spin.
            return Err(Duration::from_secs_f64((1.0 - self.tokens) / self.rate).max(Duration::from_millis(1)));
        }
        self.tokens -= units as f64;
        Ok(())
    }
}

impl Bucket {
    /// True if nothing was taken lately.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn is_full(&self, per_second: u64) -> bool {
        self.tokens + self.rate * self.last.elapsed().as_secs_f64() >= per_second as f64
    }
}

/// Bytes and messages together.
#[derive(Debug)]
pub(crate) struct Quota {
    bytes: Bucket,
    messages: Bucket,
}

impl Quota {
    pub(crate) fn new(bytes_per_second: u64, messages_per_second: u64) -> Self {
        Self { bytes: Bucket::new(bytes_per_second), messages: Bucket::new(messages_per_second) }
    }

    /// What a sender allows itself: less than what the receiver enforces, so that delays on the way, which bunch
    /// messages up, never make an honest sender look like a flooding one.
    pub(crate) fn for_sender(bytes_per_second: u64, messages_per_second: u64) -> Self {
        Self::new(bytes_per_second / 4 * 3, messages_per_second / 4 * 3)
    }

    /// Takes one message of so many bytes.
    pub(crate) fn take(&mut self, bytes: u64) -> Result<(), Duration> {
        self.messages.take(1)?;
        self.bytes.take(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_lends_once_and_fills_with_time() {
        let mut bucket = Bucket::new(100);
        assert_eq!(bucket.take(60), Ok(()));
        assert_eq!(bucket.take(90), Ok(()), "some were left, so the rest is lent");
        let wait = bucket.take(1).expect_err("in debt");
        assert!(wait >= Duration::from_millis(500), "{wait:?}");
        tokio::time::advance(wait).await;
        assert_eq!(bucket.take(1), Ok(()));
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(bucket.take(100), Ok(()));
        assert!(bucket.take(1).is_err(), "never more than a second's worth");
    }
}
