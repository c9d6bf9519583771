//! The accepted part of the DAG, in memory, bounded by garbage collection (consensus.md 3.2, 3.6).
//!
//! Holds only blocks whose history above the garbage-collection round is here too. Everything is keyed by the full
//! reference, so two versions of a slot live side by side. Nothing here panics on an index or round from a peer.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use aurigraph_ledger::hash::Hash;

use crate::block::Block;
use crate::types::{AuthorIdx, BlockRef, Round};

/// An accepted block.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The block.
    pub block: Arc<Block>,
    /// Its canonical bytes.
    pub bytes: Arc<[u8]>,
    /// Position in the order of acceptance.
    pub sequence: u64,
    /// Whether an own block has it in its history.
    pub in_own_cone: bool,
}

/// The accepted blocks above the garbage-collection round.
#[derive(Debug, Default)]
pub struct Store {
    rounds: BTreeMap<Round, BTreeMap<(AuthorIdx, Hash), Stored>>,
    gc_round: Round,
    accepted: u64,
    len: usize,
}

impl Store {
    /// An empty store that holds nothing at or below a round.
    #[must_use]
    pub fn new(gc_round: Round) -> Self {
        Self { gc_round, ..Self::default() }
    }

    /// The block, if it is here.
    #[must_use]
    pub fn get(&self, block: &BlockRef) -> Option<&Stored> {
        self.rounds.get(&block.round)?.get(&(block.author, block.digest))
    }

    /// Whether the block is here.
    #[must_use]
    pub fn contains(&self, block: &BlockRef) -> bool {
        self.get(block).is_some()
    }

    /// Whether a block's history holds at this parent: it is here, or below what is kept, or genesis.
    #[must_use]
    pub fn satisfies(&self, parent: &BlockRef) -> bool {
        parent.round == 0 || parent.round <= self.gc_round || self.contains(parent)
    }

    /// Adds a block whose parents are satisfied. Returns false if it is here already or too old.
    pub fn insert(&mut self, reference: BlockRef, block: Arc<Block>, bytes: Arc<[u8]>) -> bool {
        if reference.round <= self.gc_round || self.contains(&reference) {
            return false;
        }
        let stored = Stored { block, bytes, sequence: self.accepted, in_own_cone: false };
        self.accepted += 1;
        self.len += 1;
        self.rounds.entry(reference.round).or_default().insert((reference.author, reference.digest), stored);
        true
    }

    /// Puts the same block with another signature in a block's place.
    pub fn replace(&mut self, reference: &BlockRef, block: Arc<Block>, bytes: Arc<[u8]>) {
        let key = (reference.author, reference.digest);
        if let Some(stored) = self.rounds.get_mut(&reference.round).and_then(|blocks| blocks.get_mut(&key)) {
            stored.block = block;
            stored.bytes = bytes;
        }
    }

    /// All blocks of a round and above, by round.
    pub fn from_round(&self, round: Round) -> impl Iterator<Item = (BlockRef, &Stored)> + '_ {
        self.rounds.range(round..).flat_map(|(round, blocks)| {
            let named = |((author, digest), stored)| (BlockRef { round: *round, author, digest }, stored);
            blocks.iter().map(|((author, digest), stored)| ((*author, *digest), stored)).map(named)
        })
    }

    /// All blocks of a round, by author and digest.
    pub fn round(&self, round: Round) -> impl Iterator<Item = (BlockRef, &Stored)> + '_ {
        let blocks = self.rounds.get(&round).into_iter().flatten();
        blocks.map(move |((author, digest), stored)| (BlockRef { round, author: *author, digest: *digest }, stored))
    }

    /// All versions of a slot.
    pub fn slot(&self, round: Round, author: AuthorIdx) -> impl Iterator<Item = (BlockRef, &Stored)> + '_ {
        let range = (Bound::Included((author, Hash([0; 32]))), Bound::Included((author, Hash([0xff; 32]))));
        let blocks = self.rounds.get(&round).map(|blocks| blocks.range(range)).into_iter().flatten();
        blocks.map(move |((_, digest), stored)| (BlockRef { round, author, digest: *digest }, stored))
    }

    /// The version of a slot that was accepted first.
    #[must_use]
    pub fn first_of_slot(&self, round: Round, author: AuthorIdx) -> Option<BlockRef> {
        self.slot(round, author).min_by_key(|(_, stored)| stored.sequence).map(|(reference, _)| reference)
    }

    /// The newest block of an author in the rounds `from..below`, and there the version accepted first.
    #[must_use]
    pub fn last_by_author(&self, author: AuthorIdx, from: Round, below: Round) -> Option<BlockRef> {
        if from >= below {
            return None;
        }
        self.rounds.range(from..below).rev().find_map(|(round, _)| self.first_of_slot(*round, author))
    }

    /// The highest round with a block; the garbage-collection round if there is none.
    #[must_use]
    pub fn highest_round(&self) -> Round {
        self.rounds.last_key_value().map_or(self.gc_round, |(round, _)| *round)
    }

    /// All blocks, by round.
    pub fn iter(&self) -> impl Iterator<Item = (BlockRef, &Stored)> + '_ {
        self.rounds.keys().flat_map(|round| self.round(*round))
    }

    /// How many blocks are here.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Blocks at or below this round are gone.
    #[must_use]
    pub const fn gc_round(&self) -> Round {
        self.gc_round
    }

    /// Drops everything at or below a round and returns it. Going back does nothing.
    pub fn advance_gc(&mut self, round: Round) -> Vec<(BlockRef, Stored)> {
        if round <= self.gc_round {
            return Vec::new();
        }
        self.gc_round = round;
        let kept = self.rounds.split_off(&round.saturating_add(1));
        let gone = std::mem::replace(&mut self.rounds, kept);
        let mut dropped = Vec::new();
        for (round, blocks) in gone {
            for ((author, digest), stored) in blocks {
                dropped.push((BlockRef { round, author, digest }, stored));
            }
        }
        self.len -= dropped.len();
        dropped
    }

    /// Marks a block and its history as lying in an own block's history.
    pub fn mark_own_cone(&mut self, block: BlockRef) {
        let mut open = vec![block];
        while let Some(next) = open.pop() {
            let found = self.rounds.get_mut(&next.round).and_then(|b| b.get_mut(&(next.author, next.digest)));
            if let Some(stored) = found.filter(|stored| !stored.in_own_cone) {
                stored.in_own_cone = true;
                open.extend(stored.block.parents.iter().copied());
            }
        }
    }
}
