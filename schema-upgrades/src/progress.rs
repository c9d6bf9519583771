//! How far a step is: what it read and wrote, how fast, and how long it may still take.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::medium::{Change, Medium, Pairs};

/// A report after each chunk.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// The version.
    pub version: u32,
    /// The name.
    pub name: String,
    /// True on the way back.
    pub down: bool,
    /// Finished chunks, over all attempts.
    pub chunks: u64,
    /// Keys read and written in this attempt.
    pub keys: u64,
    /// The most bytes that one chunk read and wrote: what has to be in memory at once.
    pub largest_chunk: u64,
    /// Time since this attempt began.
    pub elapsed: Duration,
    /// How much of the walked tree is done, 0 to 1, if the step says which one it walks.
    pub fraction: Option<f64>,
    /// How long the rest takes if it goes on like this.
    pub left: Option<Duration>,
}

impl Progress {
    /// Keys a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.keys as f64 / self.elapsed.as_secs_f64().max(1e-6)
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (label, back) = (crate::label(self.version, &self.name), if self.down { " back" } else { "" });
        write!(f, "{label}{back}: {} chunks, {} keys, {:.0} keys/s", self.chunks, self.keys, self.rate())?;
        let Some(fraction) = self.fraction else { return Ok(()) };
        write!(f, ", {:.0} %", fraction * 100.0)?;
        self.left.map_or(Ok(()), |left| write!(f, ", {:.0} s left", left.as_secs_f64()))
    }
}

/// Counts what goes through a medium.
pub(crate) struct Metered<'a> {
    inner: &'a dyn Medium,
    keys: Cell<u64>,
    bytes: Cell<u64>,
}

impl<'a> Metered<'a> {
    pub(crate) const fn new(inner: &'a dyn Medium) -> Self {
        Self { inner, keys: Cell::new(0), bytes: Cell::new(0) }
    }

    fn count(&self, keys: usize, bytes: usize) {
        self.keys.set(self.keys.get() + keys as u64);
        self.bytes.set(self.bytes.get() + bytes as u64);
    }
}

fn size(changes: &[Change]) -> usize {
    changes.iter().map(|change| change.key.len() + change.value.as_ref().map_or(0, Vec::len)).sum()
}

impl Medium for Metered<'_> {
    fn ensure_tree(&self, tree: &str) -> Result<(), sled::Error> {
        self.inner.ensure_tree(tree)
    }

    fn drop_tree(&self, tree: &str) -> Result<(), sled::Error> {
        self.inner.drop_tree(tree)
    }

    fn last_key(&self, tree: &str) -> Result<Option<Vec<u8>>, sled::Error> {
        self.inner.last_key(tree)
    }

    fn trees(&self) -> Vec<String> {
        self.inner.trees()
    }

    fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, sled::Error> {
        let value = self.inner.get(tree, key)?;
        self.count(1, key.len() + value.as_ref().map_or(0, Vec::len));
        Ok(value)
    }

    fn scan(&self, tree: &str, after: Option<&[u8]>, limit: usize) -> Result<Pairs, sled::Error> {
        let pairs = self.inner.scan(tree, after, limit)?;
        self.count(pairs.len(), pairs.iter().map(|(key, value)| key.len() + value.len()).sum());
        Ok(pairs)
    }

    fn apply(&self, tree: &str, changes: &[Change]) -> Result<(), sled::Error> {
        self.count(changes.len(), size(changes));
        self.inner.apply(tree, changes)
    }

    fn apply_each(&self, tree: &str, changes: &[Change]) -> Result<(), sled::Error> {
        self.count(changes.len(), size(changes));
        self.inner.apply_each(tree, changes)
    }

    fn flush(&self) -> Result<(), sled::Error> {
        self.inner.flush()
    }
}

/// Follows one attempt of one step.
pub(crate) struct Meter<'a> {
    pub medium: Metered<'a>,
    began: Instant,
    largest: u64,
    before: u64,
    /// The first and the last key of the walked tree.
    ends: Option<(Vec<u8>, Vec<u8>)>,
    /// How far an earlier attempt was: what it did took none of this one's time.
    begun: f64,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(medium: &'a dyn Medium, source: Option<&str>, from: Option<&[u8]>) -> Result<Self, sled::Error> {
        let ends = match source.filter(|tree| medium.trees().iter().any(|name| name == tree)) {
            Some(tree) => {
                let first = medium.scan(tree, None, 1)?.pop().map(|(key, _)| key);
                first.zip(medium.last_key(tree)?)
            }
            None => None,
        };
        let begun = from.zip(ends.as_ref()).map_or(0.0, |(key, (first, last))| between(first, last, key));
        Ok(Self { medium: Metered::new(medium), began: Instant::now(), largest: 0, before: 0, ends, begun })
    }

    /// After a chunk that ended at a key.
    pub(crate) fn chunk(
        &mut self,
        (version, name): (u32, &str),
        down: bool,
        chunks: u64,
        at: Option<&[u8]>,
    ) -> Progress {
        let bytes = self.medium.bytes.get();
        self.largest = self.largest.max(bytes - self.before);
        self.before = bytes;
        let elapsed = self.began.elapsed();
        let fraction = match at {
            None => Some(1.0),
            Some(key) => self.ends.as_ref().map(|(first, last)| between(first, last, key)),
        };
        let left = fraction.and_then(|now| {
            let done = now - self.begun;
            (done > 0.0).then(|| Duration::try_from_secs_f64(elapsed.as_secs_f64() * (1.0 - now) / done).ok()).flatten()
        });
        let (keys, largest_chunk) = (self.medium.keys.get(), self.largest);
        Progress { version, name: name.to_owned(), down, chunks, keys, largest_chunk, elapsed, fraction, left }
    }
}

/// Where a key lies between two others, 0 to 1, by the eight bytes behind what the two have in common.
fn between(first: &[u8], last: &[u8], key: &[u8]) -> f64 {
    let common = first.iter().zip(last).take_while(|(a, b)| a == b).count();
    let number = |key: &[u8]| {
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(key.iter().skip(common)) {
            *to = *from;
        }
        u64::from_be_bytes(bytes) as f64
    };
    let (low, high) = (number(first), number(last));
    if high > low { ((number(key) - low) / (high - low)).clamp(0.0, 1.0) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::between;

    #[test]
    fn a_key_lies_where_its_bytes_say() {
        let key = |n: u32| [b"row".as_slice(), &n.to_be_bytes()].concat();
        assert!((between(&key(0), &key(1_000), &key(250)) - 0.25).abs() < 1e-6);
        assert!((between(&key(0), &key(1_000), &key(2_000)) - 1.0).abs() < 1e-6);
        assert!((between(b"a", b"a", b"a") - 1.0).abs() < 1e-6);
    }
}
