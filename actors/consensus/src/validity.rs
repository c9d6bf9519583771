//! Validity: what every correct node computes identically for ever (consensus.md 2.3, V1 to V12).
//!
//! No clock, no load, no garbage collection, no opinion about payload or equivocation may enter here. V1's size and
//! canonical form are checked by decoding, V14 by the signature worker, and V13 is no reason to refuse a block.

use aurigraph_ledger::hash::Hash;

use crate::block::{Block, BlockCore, genesis_ref, parents_root, payload_root};
use crate::committee::{Committee, StakeSet};
use crate::config::{BLOCK_VERSION, Config, MAX_BATCH_REFS, MAX_EVIDENCE, MAX_PAYLOAD_BYTES};
use crate::types::{AuthorIdx, BlockRef, Epoch, Round, Stake};

/// Why a block is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// V1.
    #[error("block version {0} is not supported")]
    Version(u16),
    /// V2.
    #[error("chain {chain}, epoch {epoch} is not this one")]
    Chain {
        /// The block's chain.
        chain: Hash,
        /// The block's epoch.
        epoch: Epoch,
    },
    /// V3.
    #[error("author {0} is no validator")]
    Author(AuthorIdx),
    /// V4.
    #[error("round 0 is genesis")]
    Round,
    /// V5.
    #[error("{0} parents")]
    ParentCount(usize),
    /// V5.
    #[error("two parents by author {0}")]
    ParentAuthorTwice(AuthorIdx),
    /// V6.
    #[error("the first parent is by {0}, not by the author")]
    SelfParent(AuthorIdx),
    /// V6.
    #[error("the parent by {0} is not in order")]
    ParentOrder(AuthorIdx),
    /// V7.
    #[error("a parent of round {parent} in a block of round {round}")]
    ParentRound {
        /// The parent's round.
        parent: Round,
        /// The block's round.
        round: Round,
    },
    /// V8.
    #[error("{0} is no genesis block")]
    Genesis(BlockRef),
    /// V9.
    #[error("parents of the round before have stake {stake}, a quorum is {quorum}")]
    Quorum {
        /// Their stake.
        stake: Stake,
        /// What is needed.
        quorum: Stake,
    },
    /// V10.
    #[error("{count} batches with {bytes} bytes")]
    Payload {
        /// How many.
        count: usize,
        /// Bytes of their bodies.
        bytes: u64,
    },
    /// V10.
    #[error("batch {0} is named twice")]
    BatchTwice(Hash),
    /// V11.
    #[error("evidence item {0} is not well formed")]
    Evidence(usize),
    /// V12.
    #[error("the {0} root does not match")]
    Root(&'static str),
}

/// What validity depends on: constants of an epoch.
#[derive(Debug, Clone)]
pub struct EpochContext {
    /// The chain.
    pub chain_id: Hash,
    /// The epoch.
    pub epoch: Epoch,
    /// Stakes and thresholds.
    pub committee: Committee,
    /// Garbage-collection depth.
    pub gc_depth: Round,
    /// The genesis block of each validator.
    pub genesis: Vec<BlockRef>,
}

impl EpochContext {
    /// The context of a configuration.
    #[must_use]
    pub fn new(config: &Config, committee: Committee) -> Self {
        let genesis =
            committee.authors().map(|a| genesis_ref(&config.chain_id, config.epoch, &config.epoch_seed, a)).collect();
        Self { chain_id: config.chain_id, epoch: config.epoch, committee, gc_depth: config.params.gc_depth, genesis }
    }

    /// V1 (version) to V4: needs the core alone.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check_core(&self, core: &BlockCore) -> Result<(), Invalid> {
        if core.version != BLOCK_VERSION {
            return Err(Invalid::Version(core.version));
        }
        if core.chain_id != self.chain_id || core.epoch != self.epoch {
            return Err(Invalid::Chain { chain: core.chain_id, epoch: core.epoch });
        }
        if !self.committee.contains(core.author) {
            return Err(Invalid::Author(core.author));
        }
        if core.round == 0 { Err(Invalid::Round) } else { Ok(()) }
    }

    /// V1 to V12.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self, block: &Block) -> Result<(), Invalid> {
        self.check_core(&block.core)?;
        self.check_parents(&block.core, &block.parents)?;
        check_payload(block)?;
        if block.extras.evidence.len() > MAX_EVIDENCE {
            return Err(Invalid::Evidence(block.extras.evidence.len()));
        }
        if let Some(bad) = block.extras.evidence.iter().position(|e| !e.is_well_formed()) {
            return Err(Invalid::Evidence(bad));
        }
        if block.core.parents_root != parents_root(block.core.round, &block.parents) {
            return Err(Invalid::Root("parents"));
        }
        if block.core.payload_root != payload_root(&block.batches) {
            return Err(Invalid::Root("payload"));
        }
        if block.core.extras_root != block.extras.root() {
            return Err(Invalid::Root("extras"));
        }
        Ok(())
    }

    /// V3 and V5 to V9.
    fn check_parents(&self, core: &BlockCore, parents: &[BlockRef]) -> Result<(), Invalid> {
        let Some((own, others)) = parents.split_first().filter(|_| parents.len() <= self.committee.len()) else {
            return Err(Invalid::ParentCount(parents.len()));
        };
        if own.author != core.author {
            return Err(Invalid::SelfParent(own.author));
        }
        let mut strong = StakeSet::default();
        let mut last = None;
        for (position, parent) in parents.iter().enumerate() {
            if !self.committee.contains(parent.author) {
                return Err(Invalid::Author(parent.author));
            }
            let oldest = if position == 0 { 0 } else { core.round.saturating_sub(self.gc_depth) };
            if parent.round >= core.round || parent.round < oldest {
                return Err(Invalid::ParentRound { parent: parent.round, round: core.round });
            }
            if parent.round == 0 && self.genesis.get(usize::from(parent.author)) != Some(parent) {
                return Err(Invalid::Genesis(*parent));
            }
            if parent.round == core.round - 1 {
                strong.add(&self.committee, parent.author);
            }
        }
        for parent in others {
            if parent.author == core.author || last == Some(parent.author) {
                return Err(Invalid::ParentAuthorTwice(parent.author));
            }
            if last > Some(parent.author) {
                return Err(Invalid::ParentOrder(parent.author));
            }
            last = Some(parent.author);
        }
        let quorum = self.committee.quorum();
        if strong.stake() < quorum { Err(Invalid::Quorum { stake: strong.stake(), quorum }) } else { Ok(()) }
    }
}

/// V10.
fn check_payload(block: &Block) -> Result<(), Invalid> {
    let bytes = block.batches.iter().map(|b| u64::from(b.len)).sum();
    let count = block.batches.len();
    if count > MAX_BATCH_REFS || bytes > MAX_PAYLOAD_BYTES {
        return Err(Invalid::Payload { count, bytes });
    }
    let mut digests: Vec<Hash> = block.batches.iter().map(|b| b.digest).collect();
    digests.sort_unstable();
    match digests.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Invalid::BatchTwice(pair[0])),
        None => Ok(()),
    }
}
