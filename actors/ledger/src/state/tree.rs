//! The tree over page digests: SHA3-256, fixed fan-out of 16, recomputed along dirty paths only.
//!
//! Leaves are page digests; a node is H("tree16", sixteen children), missing children being zero. There is always at
//! least one node above the leaves, and no leaves have the zero root.

use crate::hash::{DIGEST_LEN, Hash};
use crate::tree_hasher::TreeHasher;

/// Children of a node.
pub(crate) const FANOUT: usize = 16;
/// Bytes of a node's message.
const NODE_LEN: usize = FANOUT * DIGEST_LEN;
/// Levels above the leaves that a tree can have with 32-bit leaf numbers.
pub(crate) const MAX_DEPTH: usize = 8;
const TAG: &str = "tree16";

/// A tree over page digests; level 0 holds the leaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct WideTree {
    levels: Vec<Vec<Hash>>,
}

/// How many nodes the levels above `leaves` leaves have, from the lowest to the root.
fn level_sizes(leaves: usize) -> impl Iterator<Item = usize> {
    let mut size = leaves;
    let mut first = true;
    std::iter::from_fn(move || {
        if size == 0 || (size == 1 && !first) {
            return None;
        }
        first = false;
        size = size.div_ceil(FANOUT);
        Some(size)
    })
}

impl WideTree {
    /// The root; zero without leaves.
    pub(crate) fn root(&self) -> Hash {
        self.levels.last().and_then(|level| level.first()).copied().unwrap_or(Hash::ZERO)
    }

    /// How many leaves there are.
    pub(crate) fn leaf_count(&self) -> usize {
        self.levels.first().map_or(0, Vec::len)
    }

    /// Grows to `leaf_count` leaves, sets the given ones and recomputes the nodes above them.
    ///
    /// Every new leaf must be among the changes, which come with ascending positions.
    pub(crate) fn update(&mut self, leaf_count: usize, changes: &[(usize, Hash)], hasher: &dyn TreeHasher) {
        debug_assert!(leaf_count >= self.leaf_count(), "a tree never shrinks");
        if leaf_count == 0 {
            return;
        }
        let sizes: Vec<usize> = level_sizes(leaf_count).collect();
        self.levels.resize_with(sizes.len() + 1, Vec::new);
        self.levels[0].resize(leaf_count, Hash::ZERO);
        let mut dirty: Vec<usize> = Vec::with_capacity(changes.len());
        for (at, leaf) in changes {
            self.levels[0][*at] = *leaf;
            dirty.push(*at);
        }
        for (above, size) in sizes.into_iter().enumerate() {
            for at in &mut dirty {
                *at /= FANOUT;
            }
            dirty.dedup();
            self.update_level(above + 1, size, &dirty, hasher);
        }
    }

    fn update_level(&mut self, level: usize, size: usize, dirty: &[usize], hasher: &dyn TreeHasher) {
        let mut messages = vec![0; dirty.len() * NODE_LEN];
        for (at, message) in dirty.iter().zip(messages.chunks_exact_mut(NODE_LEN)) {
            let children = self.levels[level - 1].iter().skip(at * FANOUT).take(FANOUT);
            for (child, place) in children.zip(message.chunks_exact_mut(DIGEST_LEN)) {
                place.copy_from_slice(&child.0);
            }
        }
        let mut nodes = vec![Hash::ZERO; dirty.len()];
        hasher.hash_level(TAG, &messages, NODE_LEN, &mut nodes);
        self.levels[level].resize(size, Hash::ZERO);
        for (at, node) in dirty.iter().zip(nodes) {
            self.levels[level][*at] = node;
        }
    }

    /// For each level, the other children of the node above the leaf.
    pub(crate) fn path(&self, leaf: usize) -> Vec<Vec<Hash>> {
        let mut at = leaf;
        let below_root = self.levels.iter().take(self.levels.len().saturating_sub(1));
        below_root
            .map(|level| {
                let first = at / FANOUT * FANOUT;
                let children = level.iter().enumerate().skip(first).take(FANOUT);
                let others = children.filter(|(position, _)| *position != at).map(|(_, child)| *child).collect();
                at /= FANOUT;
                others
            })
            .collect()
    }
}

/// The root that a leaf and its path lead to in a tree of `leaf_count` leaves; none if the path has another shape.
pub(crate) fn climb(leaf: usize, digest: Hash, leaf_count: usize, path: &[Vec<Hash>]) -> Option<Hash> {
    let sizes: Vec<usize> = std::iter::once(leaf_count).chain(level_sizes(leaf_count)).collect();
    if leaf >= leaf_count || path.len() > MAX_DEPTH || path.len() + 1 != sizes.len() {
        return None;
    }
    let (mut at, mut node) = (leaf, digest);
    for (others, size) in path.iter().zip(sizes) {
        let children = FANOUT.min(size - at / FANOUT * FANOUT);
        if others.len() + 1 != children {
            return None;
        }
        let mut message = [0; NODE_LEN];
        let (before, after) = others.split_at(at % FANOUT);
        let all = before.iter().chain(std::iter::once(&node)).chain(after);
        for (child, place) in all.zip(message.chunks_exact_mut(DIGEST_LEN)) {
            place.copy_from_slice(&child.0);
        }
        node = crate::hash::h(TAG, &message);
        at /= FANOUT;
    }
    Some(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::h;
    use crate::tree_hasher::PlainHasher;

    fn leaves(count: usize) -> Vec<(usize, Hash)> {
        (0..count).map(|at| (at, h("leaf", &at.to_le_bytes()))).collect()
    }

    fn whole(count: usize) -> WideTree {
        let mut tree = WideTree::default();
        tree.update(count, &leaves(count), &PlainHasher);
        tree
    }

    #[test]
    fn growing_leaf_by_leaf_gives_the_root_of_the_whole() {
        let mut tree = WideTree::default();
        for count in 1..=300 {
            tree.update(count, &leaves(count)[count - 1..], &PlainHasher);
            assert_eq!(tree.root(), whole(count).root(), "{count} leaves");
        }
    }

    #[test]
    fn changing_leaves_gives_the_root_of_the_changed_whole() {
        let mut changed = leaves(4_100);
        let changes: Vec<_> = [0, 15, 16, 255, 256, 4_099].map(|at| (at, h("other", &[1]))).to_vec();
        for (at, leaf) in &changes {
            changed[*at].1 = *leaf;
        }
        let (mut tree, mut expected) = (whole(4_100), WideTree::default());
        tree.update(4_100, &changes, &PlainHasher);
        expected.update(4_100, &changed, &PlainHasher);
        assert_eq!(tree.root(), expected.root());
    }

    #[test]
    fn every_path_leads_to_the_root_and_no_other_leaf_does() {
        for count in [1, 2, 15, 16, 17, 255, 256, 257, 300] {
            let tree = whole(count);
            for (at, leaf) in leaves(count) {
                let path = tree.path(at);
                assert_eq!(climb(at, leaf, count, &path), Some(tree.root()), "leaf {at} of {count}");
                assert_ne!(climb(at, h("other", &[]), count, &path), Some(tree.root()));
                assert_ne!(climb(at + 1, leaf, count, &path), Some(tree.root()), "leaf {at} of {count}, moved");
            }
        }
        assert_eq!(climb(0, Hash::ZERO, 0, &[]), None);
    }

    #[test]
    fn a_path_with_more_or_fewer_siblings_leads_nowhere() {
        let (tree, (at, leaf)) = (whole(300), leaves(300)[270]);
        let path = tree.path(at);
        for level in 0..path.len() {
            let (mut longer, mut shorter) = (path.clone(), path.clone());
            longer[level].push(Hash::ZERO);
            shorter[level].clear();
            assert_eq!(climb(at, leaf, 300, &longer), None, "level {level}");
            assert_eq!(climb(at, leaf, 300, &shorter), None, "level {level}");
        }
        assert_eq!(climb(at, leaf, 300, &path[1..]), None);
        assert_eq!(climb(at, leaf, 300, &path), Some(tree.root()));
    }

    #[test]
    fn one_leaf_is_not_its_own_root() {
        let (at, leaf) = leaves(1)[0];
        assert_ne!(whole(1).root(), leaf);
        assert_eq!(climb(at, leaf, 1, &whole(1).path(0)), Some(whole(1).root()));
        assert_eq!(WideTree::default().root(), Hash::ZERO);
    }
}
