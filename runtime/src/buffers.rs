//! Large byte buffers that are used again: frames of the bulk lane and what is copied out of them.
//!
//! What lies idle is bounded in bytes; a buffer that comes back at the bound is freed. Small buffers are left to the
//! allocator, which is as good at them.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Smaller buffers are not kept.
const SMALLEST: usize = 4 << 10;

#[derive(Default)]
struct Idle {
    by_capacity: BTreeMap<usize, Vec<Vec<u8>>>,
    bytes: usize,
}

struct Pool {
    bound: usize,
    idle: Mutex<Idle>,
}

/// Where buffers come from. Clones share one pool.
#[derive(Clone, Default)]
pub struct Buffers(Option<Arc<Pool>>);

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.0.as_ref().map(|pool| pool.idle.lock().bytes);
        f.debug_tuple("Buffers").field(&bytes).finish()
    }
}

impl Buffers {
    /// Keeps up to `bound` bytes of buffers that are not in use.
    #[must_use]
    pub fn pooled(bound: usize) -> Self {
        metrics::describe_counter!("buffer_pool_hits_total", "Large buffers that were used again");
        metrics::describe_counter!("buffer_pool_misses_total", "Large buffers that had to be allocated");
        metrics::describe_gauge!("buffer_pool_idle_bytes", "Bytes of buffers that wait to be used again");
        Self(Some(Arc::new(Pool { bound, idle: Mutex::default() })))
    }

    /// Every buffer is a fresh one.
    #[must_use]
    pub const fn fresh() -> Self {
        Self(None)
    }

    /// Whether buffers are used again.
    #[must_use]
    pub const fn are_pooled(&self) -> bool {
        self.0.is_some()
    }

    /// An empty buffer with room for `size` bytes.
    #[must_use]
    pub fn take(&self, size: usize) -> Buffer {
        let Some(pool) = self.0.as_ref().filter(|_| size >= SMALLEST) else {
            return Buffer { bytes: Vec::with_capacity(size), home: None };
        };
        let bytes = if let Some(bytes) = pool.take(size) {
            metrics::counter!("buffer_pool_hits_total").increment(1);
            bytes
        } else {
            metrics::counter!("buffer_pool_misses_total").increment(1);
            Vec::with_capacity(rounded(size))
        };
        Buffer { bytes, home: Some(Arc::clone(pool)) }
    }
}

/// Up to the next quarter of a power of two, so that sizes that differ a little share buffers.
const fn rounded(size: usize) -> usize {
    let step = 1 << (size.ilog2().saturating_sub(2));
    size.div_ceil(step) * step
}

impl Pool {
    /// The smallest that fits and is not half as large again: a small message must not hold a large buffer.
    fn take(&self, size: usize) -> Option<Vec<u8>> {
        let mut idle = self.idle.lock();
        let capacity = *idle.by_capacity.range(size..=size + size / 2).next()?.0;
        let buffers = idle.by_capacity.get_mut(&capacity)?;
        let bytes = buffers.pop();
        if buffers.is_empty() {
            idle.by_capacity.remove(&capacity);
        }
        idle.bytes -= bytes.as_ref().map_or(0, Vec::capacity);
        metrics::gauge!("buffer_pool_idle_bytes").set(idle.bytes as f64);
        bytes
    }

    fn put(&self, mut bytes: Vec<u8>) {
        let mut idle = self.idle.lock();
        let capacity = bytes.capacity();
        if capacity >= SMALLEST && idle.bytes + capacity <= self.bound {
            bytes.clear();
            idle.bytes += capacity;
            idle.by_capacity.entry(capacity).or_default().push(bytes);
            metrics::gauge!("buffer_pool_idle_bytes").set(idle.bytes as f64);
        }
    }
}

/// A buffer; it goes back to its pool when it, or the last of the [`Bytes`] made of it, is dropped.
pub struct Buffer {
    bytes: Vec<u8>,
    home: Option<Arc<Pool>>,
}

impl Buffer {
    /// Makes its content shareable.
    #[must_use]
    pub fn freeze(mut self) -> Bytes {
        if self.home.is_some() { Bytes::from_owner(self) } else { std::mem::take(&mut self.bytes).into() }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.put(std::mem::take(&mut self.bytes));
        }
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(buffers: &Buffers) -> usize {
        buffers.0.as_ref().map_or(0, |pool| pool.idle.lock().bytes)
    }

    #[test]
    fn a_buffer_comes_back_with_the_last_of_its_bytes_and_empty() {
        let buffers = Buffers::pooled(1 << 20);
        let mut buffer = buffers.take(10_000);
        buffer.extend_from_slice(&[7; 10_000]);
        let (place, bytes) = (buffer.as_ptr(), buffer.freeze());
        let slice = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(idle(&buffers), 0, "a part of it lives");
        assert_eq!(slice, [7; 10][..]);
        drop(slice);
        assert!(idle(&buffers) >= 10_000);
        let again = buffers.take(9_990);
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        assert_eq!(idle(&buffers), 0);
    }

    #[test]
    fn idle_buffers_are_bounded_and_a_small_need_takes_no_large_one() {
        let buffers = Buffers::pooled(100_000);
        let taken: Vec<Buffer> = (0..10).map(|_| buffers.take(40_000)).collect();
        drop(taken);
        assert!((80_000..=100_000).contains(&idle(&buffers)), "{}", idle(&buffers));
        let before = idle(&buffers);
        drop(buffers.take(100));
        let small = buffers.take(5_000);
        assert_eq!(idle(&buffers), before);
        assert!(small.capacity() < 7_000);
    }

    #[test]
    fn without_a_pool_nothing_is_kept() {
        let buffers = Buffers::fresh();
        assert!(!buffers.are_pooled());
        let mut buffer = buffers.take(10_000);
        buffer.push(1);
        assert_eq!(buffer.freeze(), [1][..]);
        assert_eq!(idle(&buffers), 0);
    }
}
