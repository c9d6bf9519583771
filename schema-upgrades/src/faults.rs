//! Faults for the tests of steps: a medium that ends the world at a chosen write.

use std::cell::Cell;

use crate::medium::{Change, Medium, Pairs};

/// Whether the fatal write still happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process ends before the write.
    Before,
    /// The process ends after it.
    After,
}

/// Passes everything on until a chosen write; from there on every call fails.
pub struct Faulty<'a> {
    inner: &'a dyn Medium,
    left: Cell<u64>,
    fault: Fault,
    dead: Cell<bool>,
    writes: Cell<u64>,
}

impl<'a> Faulty<'a> {
    /// Dies at write number `at`, counted from 0.
    #[must_use]
    pub const fn new(inner: &'a dyn Medium, at: u64, fault: Fault) -> Self {
        Self { inner, left: Cell::new(at), fault, dead: Cell::new(false), writes: Cell::new(0) }
    }

    /// How many writes came through, the fatal one included.
    #[must_use]
    pub const fn writes(&self) -> u64 {
        self.writes.get()
    }

    /// True once the chosen write was reached.
    #[must_use]
    pub const fn is_dead(&self) -> bool {
        self.dead.get()
    }

    fn check(&self) -> Result<(), sled::Error> {
        if self.dead.get() { Err(fault()) } else { Ok(()) }
    }

    fn write(&self, write: impl FnOnce() -> Result<(), sled::Error>) -> Result<(), sled::Error> {
        self.check()?;
        self.writes.set(self.writes.get() + 1);
        if self.left.get() > 0 {
            self.left.set(self.left.get() - 1);
            return write();
        }
        self.dead.set(true);
        if self.fault == Fault::After {
            write()?;
        }
        Err(fault())
    }
}

fn fault() -> sled::Error {
    sled::Error::Io(std::io::Error::other("the world ended here"))
}

impl Medium for Faulty<'_> {
    fn ensure_tree(&self, tree: &str) -> Result<(), sled::Error> {
        self.write(|| self.inner.ensure_tree(tree))
    }

    fn drop_tree(&self, tree: &str) -> Result<(), sled::Error> {
        self.write(|| self.inner.drop_tree(tree))
    }

    fn last_key(&self, tree: &str) -> Result<Option<Vec<u8>>, sled::Error> {
        self.check()?;
        self.inner.last_key(tree)
    }

    fn trees(&self) -> Vec<String> {
        self.inner.trees()
    }

    fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, sled::Error> {
        self.check()?;
        self.inner.get(tree, key)
    }

    fn scan(&self, tree: &str, after: Option<&[u8]>, limit: usize) -> Result<Pairs, sled::Error> {
        self.check()?;
        self.inner.scan(tree, after, limit)
    }

    fn apply(&self, tree: &str, changes: &[Change]) -> Result<(), sled::Error> {
        self.write(|| self.inner.apply(tree, changes))
    }

    fn apply_each(&self, tree: &str, changes: &[Change]) -> Result<(), sled::Error> {
        changes.chunks(1).try_for_each(|change| self.write(|| self.inner.apply_each(tree, change)))
    }

    fn flush(&self) -> Result<(), sled::Error> {
        self.write(|| self.inner.flush())
    }
}
