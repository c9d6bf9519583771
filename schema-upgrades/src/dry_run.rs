//! What an upgrade would change: the steps are applied to a copy, and every write is compared with what was there.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::backup::check_space;
use crate::content::{Content, Filling, walk};
use crate::database::Database;
use crate::error::UpgradeError;
use crate::lock::now_ms;
use crate::medium::{Change, Medium, Pairs};
use crate::plan::Plan;
use crate::run::{OWN, Run};
use crate::swap;

/// What an upgrade would do.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct DryRun {
    /// The version before.
    pub from: u32,
    /// The version after.
    pub to: u32,
    /// What was copied.
    pub content: Content,
    /// One entry a step.
    pub steps: Vec<Effect>,
}

/// What one step would do. Keys and bytes as written: a key that is written twice counts twice.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub struct Effect {
    /// The version.
    pub version: u32,
    /// The name.
    pub name: String,
    /// New trees.
    pub new_trees: Vec<String>,
    /// Trees that go.
    pub dropped_trees: Vec<String>,
    /// Keys that were not there.
    pub added: u64,
    /// Keys that get another value.
    pub changed: u64,
    /// Keys that go.
    pub removed: u64,
    /// Keys that are written as they are.
    pub unchanged: u64,
    /// Bytes of keys and values more than before; below zero: fewer.
    pub bytes_grown: i64,
    /// Chunks.
    pub chunks: u64,
    /// The most bytes that one chunk read and wrote.
    pub largest_chunk: u64,
    /// How long it took on the copy.
    pub took: Duration,
}

/// Removes the copy, also after an error.
struct Copy(PathBuf);

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "the copy of a dry run is left behind");
        }
    }
}

pub(crate) fn run(plan: &Plan, database: &Database, to: u32) -> Result<DryRun, UpgradeError> {
    let place = swap::free(database.path(), "dry-run", now_ms());
    check_space(database, place.parent().unwrap_or(database.path()))?;
    let copy = Copy(place.clone());
    let copied = Database::open_at(&place)?;
    let mut filling = Filling::new(&copied);
    let content = walk(database, |piece| filling.add(piece))?;
    filling.finish(&content)?;
    let from = Run { plan, medium: &copied, path: place.clone() }.validate()?;
    let mut steps = Vec::new();
    for step in plan.steps.iter().filter(|step| step.version() > from && step.version() <= to) {
        let counting = Counting { inner: &copied, effect: RefCell::default() };
        let (began, mut chunks) = (Instant::now(), 0);
        let run = Run { plan, medium: &counting, path: place.clone() };
        let report = run.upgrade(step.version(), &|_| Ok(None), &mut |progress| chunks = progress.chunks)?;
        steps.push(Effect {
            version: step.version(),
            name: step.name().to_owned(),
            chunks,
            largest_chunk: report.largest_chunk,
            took: began.elapsed(),
            ..counting.effect.into_inner()
        });
    }
    drop(copied);
    drop(copy);
    Ok(DryRun { from, to: steps.last().map_or(from, |step| step.version), content, steps })
}

struct Counting<'a> {
    inner: &'a dyn Medium,
    effect: RefCell<Effect>,
}

impl Counting<'_> {
    fn note_all(&self, tree: &str, changes: &[Change]) -> Result<(), sled::Error> {
        if OWN.contains(&tree) { Ok(()) } else { changes.iter().try_for_each(|change| self.note(tree, change)) }
    }

    fn note(&self, tree: &str, change: &Change) -> Result<(), sled::Error> {
        let before = self.inner.get(tree, &change.key)?;
        let mut effect = self.effect.borrow_mut();
        let size = |value: &Vec<u8>| (change.key.len() + value.len()) as i64;
        effect.bytes_grown += change.value.as_ref().map_or(0, size) - before.as_ref().map_or(0, size);
        match (&before, &change.value) {
            (None, Some(_)) => effect.added += 1,
            (Some(old), Some(new)) if old != new => effect.changed += 1,
            (Some(_), None) => effect.removed += 1,
            _ => effect.unchanged += 1,
        }
        Ok(())
    }
}

impl Medium for Counting<'_> {
    fn ensure_tree(&self, tree: &str) -> Result<(), sled::Error> {
        if !self.inner.trees().iter().any(|name| name == tree) {
            self.effect.borrow_mut().new_trees.push(tree.to_owned());
        }
        self.inner.ensure_tree(tree)
    }

    fn drop_tree(&self, tree: &str) -> Result<(), sled::Error> {
        self.effect.borrow_mut().dropped_trees.push(tree.to_owned());
        self.inner.drop_tree(tree)
    }

    fn last_key(&self, tree: &str) -> Result<Option<Vec<u8>>, sled::Error> {
        self.inner.last_key(tree)
    }

    fn trees(&self) -> Vec<String> {
        self.inner.trees()
    }

    fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, sled::Error> {
        self.inner.get(tree, key)
    }

    fn scan(&self, tree: &str, after: Option<&[u8]>, limit: usize) -> Result<Pairs, sled::Error> {
        self.inner.scan(tree, after, limit)
    }

    fn apply(&self, tree: &str, changes: &[Change]) -> Result<(), sled::Error> {
        self.note_all(tree, changes)?;
        self.inner.apply(tree, changes)
    }

    fn apply_each(&self, tree: &str, changes: &[Change]) -> Result<(), sled::Error> {
        self.note_all(tree, changes)?;
        self.inner.apply_each(tree, changes)
    }

    fn flush(&self) -> Result<(), sled::Error> {
        self.inner.flush()
    }
}
