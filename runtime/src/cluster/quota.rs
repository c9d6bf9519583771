//! Token buckets over tokio's clock.

use std::time::Duration;

use tokio::time::Instant;

use super::wire::MESSAGE_OVERHEAD;

/// So many units a second, and at most so many at once. What is taken may exceed what is there as long as anything is
/// there: the bucket is then in debt, so that one large unit never waits for ever.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: f64,
    capacity: f64,
    tokens: f64,
    last: Instant,
}

impl Bucket {
    /// A full bucket with room for one second's worth.
    pub(crate) fn new(per_second: u64) -> Self {
        Self::with_capacity(per_second, per_second)
    }

    /// A full bucket.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn with_capacity(per_second: u64, capacity: u64) -> Self {
        let capacity = capacity.max(1) as f64;
        Self { rate: per_second.max(1) as f64, capacity, tokens: capacity, last: Instant::now() }
    }

    /// Takes, or says how long until something may be taken.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn take(&mut self, units: u64) -> Result<(), Duration> {
        let now = Instant::now();
        self.tokens = (self.tokens + self.rate * now.duration_since(self.last).as_secs_f64()).min(self.capacity);
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
    pub(crate) fn is_full(&self) -> bool {
        self.tokens + self.rate * self.last.elapsed().as_secs_f64() >= self.capacity
    }
}

/// Bytes and messages together.
///
/// A sender that keeps to its quota never breaks the receiver's, whatever delays bunch its messages up: in any span it
/// sends at most its burst and three quarters of the rate, and what was on the way before is at most the window; the
/// receiver's bucket holds a second's worth and the window.
#[derive(Debug)]
pub(crate) struct Quota {
    bytes: Bucket,
    messages: Bucket,
}

impl Quota {
    /// What a receiver enforces on a lane with this window.
    pub(crate) fn for_receiver(bytes_per_second: u64, messages_per_second: u64, window: u64) -> Self {
        let messages = messages_per_second + window / MESSAGE_OVERHEAD;
        Self {
            bytes: Bucket::with_capacity(bytes_per_second, bytes_per_second + window),
            messages: Bucket::with_capacity(messages_per_second, messages),
        }
    }

    /// What a sender allows itself.
    pub(crate) fn for_sender(bytes_per_second: u64, messages_per_second: u64) -> Self {
        let bucket = |per_second: u64| Bucket::with_capacity(per_second / 4 * 3, per_second / 4);
        Self { bytes: bucket(bytes_per_second), messages: bucket(messages_per_second) }
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

    #[tokio::test(start_paused = true)]
    async fn no_delay_makes_an_honest_sender_break_its_receivers_quota() {
        let (rate, window) = (1_000, 640 * MESSAGE_OVERHEAD);
        let mut sender = Quota::for_sender(rate * MESSAGE_OVERHEAD, rate);
        let mut receiver = Quota::for_receiver(rate * MESSAGE_OVERHEAD, rate, window);
        let (mut outstanding, mut waits) = (0, 0);
        for step in 0..20_000_u32 {
            tokio::time::advance(Duration::from_millis(1)).await;
            // As much as the window and the quota allow, at once.
            while (outstanding + 1) * MESSAGE_OVERHEAD <= window && sender.take(MESSAGE_OVERHEAD).is_ok() {
                outstanding += 1;
            }
            // The receiver stands still most of the time and then takes everything at once, twice over.
            if step % 4_000 > 3_900 {
                for _ in 0..outstanding {
                    waits += u32::from(receiver.take(MESSAGE_OVERHEAD).is_err());
                }
                outstanding = 0;
            }
        }
        assert_eq!(waits, 0);
    }
}
