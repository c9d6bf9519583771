//! A column of pages: shared with snapshots, hashed page by page, dirty ones only.

use std::mem::take;
use std::sync::Arc;

use super::accounts::PAGES_AT_LEAST;
use super::pages::Page;
use super::tree::WideTree;
use crate::hash::{Hash, blake3_digest};
use crate::parallel::ranges;
use crate::tree_hasher::TreeHasher;

/// Pages, which of them changed since the last root, and the tree over their digests.
#[derive(Debug)]
pub(crate) struct Column<P> {
    pages: Vec<Arc<P>>,
    changed: Vec<bool>,
    tree: Arc<WideTree>,
}

impl<P> Default for Column<P> {
    fn default() -> Self {
        Self { pages: Vec::new(), changed: Vec::new(), tree: Arc::default() }
    }
}

impl<P: Page> Column<P> {
    /// A column that goes on from pages and their tree, as both were shared: nothing is hashed or copied.
    pub(crate) fn from_shared(pages: Vec<Arc<P>>, tree: Arc<WideTree>) -> Self {
        Self { changed: vec![false; pages.len()], pages, tree }
    }

    /// A column of pages that were never hashed.
    pub(crate) fn from_pages(pages: Vec<Arc<P>>) -> Self {
        Self { changed: vec![true; pages.len()], pages, tree: Arc::default() }
    }

    /// The page with this number.
    pub(crate) fn page(&self, number: usize) -> Option<&P> {
        self.pages.get(number).map(Arc::as_ref)
    }

    /// The page with this number, to be changed; a snapshot that shares it keeps the old one.
    pub(crate) fn page_mut(&mut self, number: usize) -> Option<&mut P> {
        let page = self.pages.get_mut(number)?;
        self.changed[number] = true;
        Some(Arc::make_mut(page))
    }

    /// Replaces the page with this number, or appends it as the next.
    pub(crate) fn put(&mut self, number: usize, page: P) {
        debug_assert!(number <= self.pages.len(), "pages are appended in order");
        let page = Arc::new(page);
        match self.pages.get_mut(number) {
            Some(place) => *place = page,
            None => {
                self.pages.push(page);
                self.changed.push(true);
            }
        }
        self.changed[number] = true;
    }

    /// How many pages there are.
    pub(crate) const fn len(&self) -> usize {
        self.pages.len()
    }

    /// Drops pages from the end. They must not have been hashed: a root is never taken over accounts that are undone.
    pub(crate) fn truncate(&mut self, len: usize) {
        debug_assert!(len >= self.tree.leaf_count(), "hashed pages stay");
        self.pages.truncate(len);
        self.changed.truncate(len);
    }

    /// The root over all pages, hashing those that changed.
    pub(crate) fn root(&mut self, hasher: &dyn TreeHasher) -> Hash {
        let changed: Vec<usize> =
            self.changed.iter_mut().enumerate().filter_map(|(at, changed)| take(changed).then_some(at)).collect();
        let pages = &self.pages;
        let digests = ranges(changed.len(), PAGES_AT_LEAST, |range| {
            let mut bytes = Vec::new();
            let digest = |number: &usize| {
                bytes.clear();
                pages[*number].encode_into(&mut bytes);
                (*number, blake3_digest(&bytes))
            };
            changed[range].iter().map(digest).collect::<Vec<_>>()
        });
        let changes = digests.concat();
        if !changes.is_empty() {
            Arc::make_mut(&mut self.tree).update(self.pages.len(), &changes, hasher);
        }
        self.tree.root()
    }

    /// The pages, shared.
    pub(crate) fn share_pages(&self) -> Vec<Arc<P>> {
        self.pages.clone()
    }

    /// The tree of the last root, shared.
    pub(crate) fn share_tree(&self) -> Arc<WideTree> {
        self.tree.clone()
    }
}
