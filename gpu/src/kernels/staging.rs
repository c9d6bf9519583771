//! Memory of the host through which bytes reach a device: a bounded stretch that is filled from its start and given back
//! as a whole once the device has read it. Pure bookkeeping: it knows ranges, no memory.

use std::cell::Cell;
use std::ops::Range;

/// What of a stretch of memory is in use.
#[derive(Debug)]
pub(crate) struct Arena {
    len: usize,
    used: Cell<usize>,
}

impl Arena {
    pub(crate) const fn new(len: usize) -> Self {
        Self { len, used: Cell::new(0) }
    }

    /// So many bytes, or as many as are left.
    pub(crate) fn take(&self, most: usize) -> Range<usize> {
        let start = self.used.get();
        let end = start + most.min(self.len - start);
        self.used.set(end);
        start..end
    }

    /// Gives everything back, and tells what was in use. Only once nothing reads or writes it any more.
    pub(crate) fn reset(&self) -> Range<usize> {
        0..self.used.replace(0)
    }

    pub(crate) fn is_used(&self) -> bool {
        self.used.get() > 0
    }
}

/// Memory of the host with a stream that copies from it.
pub(crate) trait Stage<E> {
    /// Its bookkeeping.
    fn arena(&self) -> &Arena;
    /// Writes bytes to a range that was taken and that no copy reads yet.
    fn write(&self, at: usize, bytes: &[u8]);
    /// Starts copying a range to the target, from its byte `to` on.
    fn copy(&self, range: Range<usize>, to: usize) -> Result<(), E>;
    /// Waits for all copies, and gives everything back.
    fn settle(&self) -> Result<(), E>;
}

/// Sends these bytes one after the other, in as many copies as the stretch's length needs.
pub(crate) fn stage<E>(through: &impl Stage<E>, parts: &[&[u8]]) -> Result<(), E> {
    let total: usize = parts.iter().map(|part| part.len()).sum();
    let mut parts = parts.iter().copied();
    let (mut rest, mut sent): (&[u8], usize) = (&[], 0);
    while sent < total {
        let range = through.arena().take(total - sent);
        if range.is_empty() {
            through.settle()?;
            continue;
        }
        let mut at = range.start;
        while at < range.end {
            if rest.is_empty() {
                // There are as many bytes as were counted.
                rest = parts.next().unwrap_or_default();
                continue;
            }
            let (now, later) = rest.split_at(rest.len().min(range.end - at));
            through.write(at, now);
            (at, rest) = (at + now.len(), later);
        }
        let len = range.len();
        through.copy(range, sent)?;
        sent += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// Copies late: at the latest when it has to, so that a range that is written too early shows.
    struct Late {
        arena: Arena,
        memory: RefCell<Vec<u8>>,
        waiting: RefCell<Vec<(Range<usize>, usize)>>,
        target: RefCell<Vec<u8>>,
        settled: Cell<usize>,
    }

    impl Stage<()> for Late {
        fn arena(&self) -> &Arena {
            &self.arena
        }

        fn write(&self, at: usize, bytes: &[u8]) {
            self.memory.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        }

        fn copy(&self, range: Range<usize>, to: usize) -> Result<(), ()> {
            self.waiting.borrow_mut().push((range, to));
            Ok(())
        }

        fn settle(&self) -> Result<(), ()> {
            for (range, to) in self.waiting.borrow_mut().drain(..) {
                let len = range.len();
                self.target.borrow_mut()[to..to + len].copy_from_slice(&self.memory.borrow()[range]);
            }
            self.arena.reset();
            self.settled.set(self.settled.get() + 1);
            Ok(())
        }
    }

    #[test]
    fn bytes_arrive_whole_however_short_the_stretch_and_however_they_are_cut() {
        let bytes: Vec<u8> = (0..200).collect();
        for room in [1, 7, 64, 199, 200, 1_000] {
            for cut in [1, 3, 50, 200] {
                let late = Late {
                    arena: Arena::new(room),
                    memory: RefCell::new(vec![0; room]),
                    waiting: RefCell::default(),
                    target: RefCell::new(vec![0; 200]),
                    settled: Cell::new(0),
                };
                let parts: Vec<&[u8]> = bytes.chunks(cut).chain([&[][..]]).collect();
                stage(&late, &parts).unwrap();
                let before = late.settled.get();
                assert_eq!(before, 200_usize.div_ceil(room) - 1, "it waits only when there is no room");
                late.settle().unwrap();
                assert_eq!(*late.target.borrow(), bytes, "room {room}, cut {cut}");
                assert!(!late.arena.is_used());
            }
        }
    }

    #[test]
    fn nothing_is_given_twice_before_all_is_given_back() {
        let arena = Arena::new(10);
        assert_eq!((arena.take(4), arena.take(4), arena.take(4), arena.take(4)), (0..4, 4..8, 8..10, 10..10));
        assert_eq!(arena.reset(), 0..10);
        assert_eq!(arena.take(3), 0..3);
    }
}
