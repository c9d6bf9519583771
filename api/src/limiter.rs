//! Token buckets: one per bearer token, else one per client address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use aurigraph_ledger::Hash;

/// Buckets kept at once. At the bound those that are full again (their clients pause) are forgotten; if none is, new
/// clients share one bucket, so that an attacker with many addresses slows down other new clients, never known ones.
const BUCKETS: usize = 65_536;
/// How often full buckets are looked for at the bound: a look costs as much as all buckets, and newcomers that no look
/// helped would each pay for one.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Who is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Client {
    /// The holder of this bearer token, by its digest.
    Token(Hash),
    /// An address without a token.
    Address(IpAddr),
    /// All that find no bucket of their own.
    Others,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

/// The buckets of one server.
pub struct Limiter {
    rate: f64,
    burst: f64,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    buckets: HashMap<Client, Bucket>,
    swept: Option<Instant>,
}

impl Limiter {
    /// Buckets of `burst` requests that fill up at `rate` requests a second.
    #[must_use]
    pub fn new(rate: u32, burst: u32) -> Self {
        Self { rate: f64::from(rate.max(1)), burst: f64::from(burst.max(1)), kept: Mutex::default() }
    }

    /// Takes one request's place.
    ///
    /// # Errors
    /// How long to wait until there is one.
    pub fn take(&self, client: Client, now: Instant) -> Result<(), Duration> {
        // A panic while the lock is held is impossible: nothing in here panics.
        let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let client = self.admit(&mut kept, client, now);
        let bucket = kept.buckets.entry(client).or_insert(Bucket { tokens: self.burst, at: now });
        bucket.tokens = self.filled(bucket, now);
        bucket.at = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - bucket.tokens) / self.rate))
    }

    fn filled(&self, bucket: &Bucket, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        passed.mul_add(self.rate, bucket.tokens).min(self.burst)
    }

    fn admit(&self, kept: &mut Kept, client: Client, now: Instant) -> Client {
        let Kept { buckets, swept } = kept;
        if buckets.len() < BUCKETS || buckets.contains_key(&client) {
            return client;
        }
        if swept.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP_EVERY) {
            buckets.retain(|_, bucket| self.filled(bucket, now) < self.burst);
            *swept = Some(now);
        }
        if buckets.len() < BUCKETS { client } else { Client::Others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(at: u32) -> Client {
        Client::Address(IpAddr::V4(Ipv4Addr::from(at)))
    }

    #[test]
    fn a_burst_passes_then_the_rate_holds_and_the_wait_is_told() {
        let (limiter, start) = (Limiter::new(10, 3), Instant::now());
        for _ in 0..3 {
            assert_eq!(limiter.take(address(1), start), Ok(()));
        }
        let wait = limiter.take(address(1), start).expect_err("the bucket is empty");
        assert!((0.09..=0.11).contains(&wait.as_secs_f64()), "{wait:?}");
        assert_eq!(limiter.take(address(2), start), Ok(()), "others have their own bucket");
        assert_eq!(limiter.take(address(1), start + wait + Duration::from_millis(1)), Ok(()));
        assert!(limiter.take(address(1), start + wait + Duration::from_millis(2)).is_err());
    }

    #[test]
    fn buckets_are_bounded_and_paused_clients_make_room() {
        let (limiter, start) = (Limiter::new(1, 2), Instant::now());
        for at in 0..u32::try_from(BUCKETS).expect("small") {
            assert_eq!(limiter.take(address(at), start), Ok(()));
        }
        // Nobody's bucket is full again: newcomers share one.
        for at in 0..2 {
            assert_eq!(limiter.take(address(u32::MAX - at), start), Ok(()));
        }
        assert!(limiter.take(address(u32::MAX - 2), start).is_err());
        assert_eq!(limiter.take(address(7), start), Ok(()), "a known client keeps its bucket");
        let later = start + Duration::from_secs(5);
        assert_eq!(limiter.take(address(u32::MAX - 3), later), Ok(()));
        assert!(limiter.kept.lock().expect("not poisoned").buckets.len() < 10);
    }
}
