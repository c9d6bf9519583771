//! Binary SHA3-256 trees over the transactions and the receipts of a block, and proofs of inclusion.
//!
//! A node is H("merkle-node", left ‖ right); the last node of an odd level moves up as it is. The root is
//! H("merkle-root", leaf count as u64 ‖ top), so that a proof fixes the leaf's position too. A transaction's leaf is
//! H("tx-leaf", id ‖ BLAKE3 of the signature): the id binds everything but the signature. A receipt's leaf is
//! H("receipt-leaf", its encoding).

use serde::{Deserialize, Serialize};

use crate::block::{ExecutedBlock, Receipt};
use crate::hash::{DIGEST_LEN, Hash, h, h_parts};
use crate::tree_hasher::TreeHasher;

const NODE_TAG: &str = "merkle-node";
const ROOT_TAG: &str = "merkle-root";
const TX_LEAF_TAG: &str = "tx-leaf";
const RECEIPT_LEAF_TAG: &str = "receipt-leaf";

/// A tree with all its levels.
#[derive(Debug, Clone)]
pub struct MerkleTree {
    levels: Vec<Vec<Hash>>,
    root: Hash,
}

fn root_of(count: usize, top: Option<&Hash>) -> Hash {
    h_parts(ROOT_TAG, &[&(count as u64).to_le_bytes(), top.map_or(&[][..], |top| &top.0[..])])
}

/// The level above: pairs hashed, an odd last node moved up.
fn level_above(level: &[Hash], hasher: &dyn TreeHasher) -> Vec<Hash> {
    let (pairs, last) = level.as_chunks::<2>();
    let mut messages = Vec::with_capacity(pairs.len() * 2 * DIGEST_LEN);
    for [left, right] in pairs {
        messages.extend_from_slice(&left.0);
        messages.extend_from_slice(&right.0);
    }
    let mut above = vec![Hash::ZERO; pairs.len()];
    hasher.hash_level(NODE_TAG, &messages, 2 * DIGEST_LEN, &mut above);
    above.extend_from_slice(last);
    above
}

impl MerkleTree {
    /// Builds the tree over leaves in order.
    #[must_use]
    pub fn build(leaves: Vec<Hash>, hasher: &dyn TreeHasher) -> Self {
        let count = leaves.len();
        let mut levels = vec![leaves];
        while let Some(level) = levels.last().filter(|level| level.len() > 1) {
            let above = level_above(level, hasher);
            levels.push(above);
        }
        let root = root_of(count, levels.last().and_then(|top| top.first()));
        Self { levels, root }
    }

    /// The root.
    #[must_use]
    pub const fn root(&self) -> Hash {
        self.root
    }

    /// The proof for the leaf at a position.
    #[must_use]
    pub fn proof(&self, position: usize) -> Option<MerkleProof> {
        let leaves = &self.levels[0];
        leaves.get(position)?;
        let mut at = position;
        let mut siblings = Vec::new();
        for level in &self.levels[..self.levels.len() - 1] {
            siblings.extend(level.get(at ^ 1));
            at /= 2;
        }
        Some(MerkleProof {
            position: u32::try_from(position).ok()?,
            count: u32::try_from(leaves.len()).ok()?,
            siblings,
        })
    }
}

/// A leaf's position and the nodes beside its path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MerkleProof {
    /// The leaf's position.
    pub position: u32,
    /// How many leaves the tree has.
    pub count: u32,
    /// The siblings from the leaf upwards; none where the path's node moved up as it was.
    pub siblings: Vec<Hash>,
}

impl MerkleProof {
    /// The root this proof leads to from a leaf; none if its shape is impossible.
    #[must_use]
    pub fn root(&self, leaf: Hash) -> Option<Hash> {
        if self.position >= self.count {
            return None;
        }
        let (mut at, mut size, mut node) = (self.position, self.count, leaf);
        let mut siblings = self.siblings.iter();
        while size > 1 {
            if at ^ 1 < size {
                let sibling = siblings.next()?;
                let (left, right) = if at & 1 == 0 { (&node, sibling) } else { (sibling, &node) };
                node = h_parts(NODE_TAG, &[&left.0, &right.0]);
            }
            at /= 2;
            size = size.div_ceil(2);
        }
        siblings.next().is_none().then(|| root_of(self.count as usize, Some(&node)))
    }

    /// Whether the leaf stands at this position under this root.
    #[must_use]
    pub fn verify(&self, leaf: Hash, root: &Hash) -> bool {
        self.root(leaf).as_ref() == Some(root)
    }
}

/// The leaf of a transaction.
#[must_use]
pub fn transaction_leaf(id: &Hash, signature_digest: &Hash) -> Hash {
    h_parts(TX_LEAF_TAG, &[&id.0, &signature_digest.0])
}

/// The leaf of a receipt.
#[must_use]
pub fn receipt_leaf(receipt: &Receipt) -> Hash {
    h(RECEIPT_LEAF_TAG, &receipt.encode())
}

/// The tree over transactions, each given by its id and signature digest.
#[must_use]
pub fn transaction_tree(transactions: impl IntoIterator<Item = (Hash, Hash)>, hasher: &dyn TreeHasher) -> MerkleTree {
    let messages: Vec<u8> =
        transactions.into_iter().flat_map(|(id, signature)| [id.0, signature.0]).flatten().collect();
    let mut leaves = vec![Hash::ZERO; messages.len() / (2 * DIGEST_LEN)];
    hasher.hash_level(TX_LEAF_TAG, &messages, 2 * DIGEST_LEN, &mut leaves);
    MerkleTree::build(leaves, hasher)
}

/// The tree over receipts.
#[must_use]
pub fn receipt_tree<'a>(receipts: impl IntoIterator<Item = &'a Receipt>, hasher: &dyn TreeHasher) -> MerkleTree {
    let leaves = receipts.into_iter().map(|receipt| hasher.hash_one(RECEIPT_LEAF_TAG, &receipt.encode())).collect();
    MerkleTree::build(leaves, hasher)
}

/// Proves that a transaction is in a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionProof {
    /// The transaction's id.
    pub id: Hash,
    /// BLAKE3 of its signature.
    pub signature_digest: Hash,
    /// Its path.
    pub path: MerkleProof,
}

impl TransactionProof {
    /// Whether it holds under a block header's `tx_root`.
    #[must_use]
    pub fn verify(&self, tx_root: &Hash) -> bool {
        self.path.verify(transaction_leaf(&self.id, &self.signature_digest), tx_root)
    }
}

/// Proves that a receipt is in a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptProof {
    /// The receipt.
    pub receipt: Receipt,
    /// Its path.
    pub path: MerkleProof,
}

impl ReceiptProof {
    /// Whether it holds under a block header's `receipts_root`.
    #[must_use]
    pub fn verify(&self, receipts_root: &Hash) -> bool {
        self.path.verify(receipt_leaf(&self.receipt), receipts_root)
    }
}

impl ExecutedBlock {
    /// The tree whose root is the header's `tx_root`.
    #[must_use]
    pub fn transaction_tree(&self, hasher: &dyn TreeHasher) -> MerkleTree {
        let leaves = self.transactions.iter().map(|tx| (tx.transaction.id(), tx.transaction.signature_digest()));
        transaction_tree(leaves, hasher)
    }

    /// The tree whose root is the header's `receipts_root`.
    #[must_use]
    pub fn receipt_tree(&self, hasher: &dyn TreeHasher) -> MerkleTree {
        receipt_tree(self.transactions.iter().map(|tx| &tx.receipt), hasher)
    }

    /// Proves the transaction and the receipt at a position of the block.
    #[must_use]
    pub fn proofs(&self, position: usize, hasher: &dyn TreeHasher) -> Option<(TransactionProof, ReceiptProof)> {
        let executed = self.transactions.get(position)?;
        let (id, signature_digest) = (executed.transaction.id(), executed.transaction.signature_digest());
        let transaction =
            TransactionProof { id, signature_digest, path: self.transaction_tree(hasher).proof(position)? };
        let receipt =
            ReceiptProof { receipt: executed.receipt.clone(), path: self.receipt_tree(hasher).proof(position)? };
        Some((transaction, receipt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree_hasher::PlainHasher;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|at| h("leaf", &at.to_le_bytes())).collect()
    }

    #[test]
    fn every_leaf_of_every_small_tree_is_proved_at_its_place_only() {
        for count in 1..=70 {
            let leaves = leaves(count);
            let tree = MerkleTree::build(leaves.clone(), &PlainHasher);
            for (at, leaf) in leaves.iter().enumerate() {
                let proof = tree.proof(at).expect("the leaf exists");
                assert!(proof.verify(*leaf, &tree.root()), "leaf {at} of {count}");
                assert!(!proof.verify(h("other", &[]), &tree.root()));
                for position in (0..count as u32).filter(|position| *position != proof.position) {
                    let moved = MerkleProof { position, ..proof.clone() };
                    assert!(!moved.verify(*leaf, &tree.root()), "leaf {at} of {count} at {position}");
                }
                let more = MerkleProof { count: proof.count + 1, ..proof.clone() };
                assert!(!more.verify(*leaf, &tree.root()));
                let mut longer = proof.clone();
                longer.siblings.push(*leaf);
                assert!(!longer.verify(*leaf, &tree.root()));
            }
            assert!(tree.proof(count).is_none());
        }
    }

    #[test]
    fn a_moved_up_leaf_does_not_make_two_lists_equal() {
        let three = leaves(3);
        let mut four = three.clone();
        four.push(three[2]);
        let root = |leaves| MerkleTree::build(leaves, &PlainHasher).root();
        assert_ne!(root(three), root(four));
        assert_ne!(root(Vec::new()), root(vec![Hash::ZERO]));
    }
}
