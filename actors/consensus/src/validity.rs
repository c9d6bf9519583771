//! Validity: what every correct node computes identically for ever (consensus.md 2.3, V1 to V12).
//!
//! No clock, no load, no garbage collection, no opinion about payload or equivocation may enter here. V1's size and
//! canonical form are checked by decoding, V14 by the signature worker, and V13 is no reason to refuse a block.

use aurigraph_ledger::hash::Hash;

use crate::block::{Block, BlockCore, Evidence, genesis_ref, parents_root, payload_root};
use crate::committee::{Committee, StakeSet};
use crate::config::{BLOCK_VERSION, Config, MAX_BATCH_REFS, MAX_EVIDENCE, MAX_PAYLOAD_BYTES, MAX_VALIDATORS};
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
    /// The oldest epoch of which blocks may carry evidence.
    pub evidence_from: Epoch,
}

impl EpochContext {
    /// The context of a configuration.
    #[must_use]
    pub fn new(config: &Config, committee: Committee) -> Self {
        let genesis =
            committee.authors().map(|a| genesis_ref(&config.chain_id, config.epoch, &config.epoch_seed, a)).collect();
        Self {
            chain_id: config.chain_id,
            epoch: config.epoch,
            committee,
            gc_depth: config.params.gc_depth,
            genesis,
            evidence_from: config.evidence_from(),
        }
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
        if let Some(bad) = block.extras.evidence.iter().position(|e| !self.is_evidence(e)) {
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

    /// V11, without the signatures: two statements of a validator of this epoch, or of one before for whose faults stake
    /// still answers, that contradict each other. How many validators an earlier epoch had is not asked here: under the key
    /// of one that it had not, no signature is good.
    fn is_evidence(&self, evidence: &Evidence) -> bool {
        let core = &evidence.a.core;
        let is_validator = if core.epoch == self.epoch {
            self.committee.contains(core.author)
        } else {
            (self.evidence_from..self.epoch).contains(&core.epoch) && usize::from(core.author) < MAX_VALIDATORS
        };
        core.chain_id == self.chain_id && is_validator && evidence.is_well_formed()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::EvidenceKind;
    use crate::testing::{genesis_of, reseal, sealed_block};
    use crate::types::{BatchRef, CommitRef};

    fn config() -> Config {
        let mut config = Config::new(Hash([1; 32]), Hash([2; 32]), vec![1; 4], None);
        config.params.gc_depth = 5;
        config
    }

    fn context() -> EpochContext {
        let config = config();
        EpochContext::new(&config, Committee::new(config.stakes.clone()).expect("valid"))
    }

    fn parent(round: Round, author: AuthorIdx) -> BlockRef {
        BlockRef { round, author, digest: Hash([u8::try_from(author).expect("few") + 10; 32]) }
    }

    /// A valid block of round 9 by author 1: three strong parents, one older.
    fn valid() -> Block {
        let parents = vec![parent(8, 1), parent(8, 0), parent(8, 2), parent(4, 3)];
        let batch = BatchRef { digest: Hash([9; 32]), len: 100, tx_count: 3 };
        sealed_block(&config(), 9, 1, parents, vec![batch])
    }

    fn verdict(change: impl FnOnce(&mut Block)) -> Result<(), Invalid> {
        let mut block = valid();
        change(&mut block);
        context().check(&reseal(block))
    }

    #[test]
    fn a_valid_block_passes_and_its_own_parent_may_be_old() {
        assert_eq!(verdict(|_| {}), Ok(()));
        let old_self = |b: &mut Block| {
            b.parents = vec![parent(1, 1), parent(8, 0), parent(8, 2), parent(8, 3)];
        };
        assert_eq!(verdict(old_self), Ok(()));
        let config = config();
        let mut genesis = genesis_of(&config);
        genesis.swap(0, 1);
        assert_eq!(context().check(&sealed_block(&config, 1, 1, genesis, vec![])), Ok(()));
    }

    #[test]
    fn v1_to_v4_the_core() {
        assert_eq!(verdict(|b| b.core.version = 2), Err(Invalid::Version(2)));
        assert!(matches!(verdict(|b| b.core.chain_id = Hash::ZERO), Err(Invalid::Chain { .. })));
        assert!(matches!(verdict(|b| b.core.epoch = 1), Err(Invalid::Chain { epoch: 1, .. })));
        assert_eq!(verdict(|b| b.core.author = 4), Err(Invalid::Author(4)));
        assert_eq!(verdict(|b| b.core.author = u16::MAX), Err(Invalid::Author(u16::MAX)));
        assert_eq!(verdict(|b| b.core.round = 0), Err(Invalid::Round));
    }

    #[test]
    fn v3_a_parent_by_a_stranger() {
        assert_eq!(verdict(|b| b.parents[3].author = 77), Err(Invalid::Author(77)));
    }

    #[test]
    fn v5_number_and_authors_of_parents() {
        assert_eq!(verdict(|b| b.parents.clear()), Err(Invalid::ParentCount(0)));
        assert_eq!(verdict(|b| b.parents.push(parent(4, 3))), Err(Invalid::ParentCount(5)));
        assert_eq!(verdict(|b| b.parents[3] = parent(7, 2)), Err(Invalid::ParentAuthorTwice(2)));
    }

    #[test]
    fn v6_the_own_parent_comes_first_and_the_others_in_order() {
        assert_eq!(verdict(|b| b.parents.swap(0, 1)), Err(Invalid::SelfParent(0)));
        assert_eq!(verdict(|b| b.parents[3] = parent(7, 1)), Err(Invalid::ParentAuthorTwice(1)));
        assert_eq!(verdict(|b| b.parents.swap(1, 2)), Err(Invalid::ParentOrder(0)));
    }

    #[test]
    fn v7_rounds_of_parents() {
        let at = |round| move |b: &mut Block| b.parents[3].round = round;
        assert_eq!(verdict(at(9)), Err(Invalid::ParentRound { parent: 9, round: 9 }));
        assert_eq!(verdict(at(3)), Err(Invalid::ParentRound { parent: 3, round: 9 }));
        assert_eq!(verdict(at(4)), Ok(()));
    }

    #[test]
    fn v8_a_wrong_genesis() {
        let config = config();
        let mut genesis = genesis_of(&config);
        genesis[3].digest = Hash::ZERO;
        let block = sealed_block(&config, 1, 0, genesis.clone(), vec![]);
        assert_eq!(context().check(&block), Err(Invalid::Genesis(genesis[3])));
    }

    #[test]
    fn v9_no_quorum_at_the_round_before() {
        let weak = |b: &mut Block| b.parents[2].round = 7;
        assert_eq!(verdict(weak), Err(Invalid::Quorum { stake: 2, quorum: 3 }));
    }

    #[test]
    fn v10_payload_limits() {
        let batch = |i: u8, len| BatchRef { digest: Hash([i; 32]), len, tx_count: 1 };
        let many = (0..65).map(|i| batch(i, 1)).collect();
        assert_eq!(verdict(|b| b.batches = many), Err(Invalid::Payload { count: 65, bytes: 65 }));
        let large = vec![batch(1, 8 << 20), batch(2, 1)];
        assert_eq!(verdict(|b| b.batches = large), Err(Invalid::Payload { count: 2, bytes: (8 << 20) + 1 }));
        assert_eq!(
            verdict(|b| b.batches = vec![batch(1, 1), batch(2, 1), batch(1, 1)]),
            Err(Invalid::BatchTwice(Hash([1; 32])))
        );
    }

    #[test]
    fn v11_evidence_that_proves_nothing() {
        let same = valid().signed_core();
        let mut other = same.clone();
        other.core.timestamp_ms += 1;
        let proof = Evidence::equivocation(same.clone(), other.clone());
        assert_eq!(verdict(|b| b.extras.evidence = vec![proof.clone()]), Ok(()));
        let twice = Evidence { kind: EvidenceKind::Equivocation, a: same.clone(), b: same.clone() };
        assert_eq!(verdict(|b| b.extras.evidence = vec![proof.clone(), twice]), Err(Invalid::Evidence(1)));
        let swapped = Evidence { kind: proof.kind, a: proof.b.clone(), b: proof.a.clone() };
        assert_eq!(verdict(|b| b.extras.evidence = vec![swapped]), Err(Invalid::Evidence(0)));
        assert_eq!(verdict(|b| b.extras.evidence = vec![proof.clone(); 3]), Err(Invalid::Evidence(3)));
        other.core.commit_vote = CommitRef { index: same.core.commit_vote.index, digest: Hash([5; 32]) };
        let votes = Evidence::conflicting_commit_vote(same.clone(), other.clone());
        assert_eq!(verdict(|b| b.extras.evidence = vec![votes.clone()]), Ok(()));
        let swapped = Evidence { kind: votes.kind, a: votes.b, b: votes.a };
        assert_eq!(verdict(|b| b.extras.evidence = vec![swapped]), Err(Invalid::Evidence(0)));
        let both_are = |change: fn(&mut BlockCore)| {
            let (mut a, mut b) = (same.clone(), other.clone());
            change(&mut a.core);
            change(&mut b.core);
            Evidence::conflicting_commit_vote(a, b)
        };
        for stranger in [
            both_are(|core| core.author = 77),
            both_are(|core| core.epoch = 9),
            both_are(|core| core.chain_id = Hash::ZERO),
        ] {
            assert!(stranger.is_well_formed());
            assert_eq!(verdict(|b| b.extras.evidence = vec![stranger]), Err(Invalid::Evidence(0)));
        }
        other.core.author = 2;
        assert!(!Evidence::conflicting_commit_vote(same, other).is_well_formed());
    }

    #[test]
    fn v12_roots() {
        let check = |change: fn(&mut Block)| {
            let mut block = valid();
            change(&mut block);
            context().check(&block)
        };
        assert_eq!(check(|b| b.parents[3].digest = Hash::ZERO), Err(Invalid::Root("parents")));
        assert_eq!(check(|b| b.batches[0].tx_count += 1), Err(Invalid::Root("payload")));
        assert_eq!(check(|b| b.core.extras_root = Hash::ZERO), Err(Invalid::Root("extras")));
    }
}
