//! Tools for this crate's tests: a seeded generator, a small text language for DAGs, and a runner of the commit rule.
//!
//! The language, one statement a line:
//! ```text
//! full 3          every validator has a block in round 3 whose parents are all blocks of round 2
//! full 3..6       the same for rounds 3 to 6
//! full 2 ABC      only A, B and C
//! full 2 ABC from A1 B1 C1
//! D2': B1 C1 D1   one block; a prime marks another version of the slot
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use aurigraph_ledger::hash::{Hash, h};

use crate::block::{Block, BlockCore, Extras, genesis_ref, parents_root, payload_root};
use crate::cluster::stub_signature;
use crate::commit::{CommitHeader, genesis_commit};
use crate::committee::Committee;
use crate::committer::{Committer, Decided, Decision};
use crate::config::{BLOCK_VERSION, Config, FIRST_PROTOCOL_VERSION};

use crate::flush::{Lead, Linearizer};
use crate::schedule::Schedule;
use crate::store::Store;
use crate::types::{
    AuthorIdx, BatchRef, BlockRef, CkptRef, CommitRef, LeaderSlot, Round, SIGNATURE_LEN, Signature, Stake, TimeMs,
};

/// SplitMix64: all randomness of the tests comes from one printed seed.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).expect("small")).expect("small")
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

pub(crate) fn no_signature() -> Signature {
    Signature::from_slice(&[0; SIGNATURE_LEN]).expect("right length")
}

/// A block with these parents whose digest is whatever the caller says.
pub(crate) fn bare_block(
    signature: &Signature,
    reference: BlockRef,
    parents: Vec<BlockRef>,
    timestamp_ms: TimeMs,
) -> Block {
    let core = BlockCore {
        version: 1,
        supports: 1,
        chain_id: Hash::ZERO,
        epoch: 0,
        round: reference.round,
        author: reference.author,
        timestamp_ms,
        parents_root: Hash::ZERO,
        payload_root: Hash::ZERO,
        extras_root: Hash::ZERO,
        commit_vote: CommitRef { index: 0, digest: Hash::ZERO },
        attestation: CkptRef::default(),
    };
    Block { core, parents, batches: Vec::new(), extras: Extras::default(), signature: signature.clone() }
}

/// A block whose roots match its lists, signed with the tests' signature.
pub(crate) fn sealed_block(
    config: &Config,
    round: Round,
    author: AuthorIdx,
    parents: Vec<BlockRef>,
    batches: Vec<BatchRef>,
) -> Block {
    let core = BlockCore {
        version: BLOCK_VERSION,
        supports: BLOCK_VERSION,
        chain_id: config.chain_id,
        epoch: config.epoch,
        round,
        author,
        timestamp_ms: 1_000 + u64::from(round),
        parents_root: Hash::ZERO,
        payload_root: Hash::ZERO,
        extras_root: Hash::ZERO,
        commit_vote: genesis_commit(&config.chain_id, config.epoch, &config.epoch_seed, config.base),
        attestation: CkptRef::default(),
    };
    let extras = Extras::default();
    reseal(Block { core, parents, batches, extras, signature: no_signature() })
}

/// Makes the roots and the signature match after a change.
pub(crate) fn reseal(mut block: Block) -> Block {
    block.core.parents_root = parents_root(block.core.round, &block.parents);
    block.core.payload_root = payload_root(&block.batches);
    block.core.extras_root = block.extras.root();
    block.signature = stub_signature(block.core.author, &block.core.digest());
    block
}

pub(crate) fn genesis_of(config: &Config) -> Vec<BlockRef> {
    let n = u16::try_from(config.stakes.len()).expect("few");
    (0..n).map(|a| genesis_ref(&config.chain_id, config.epoch, &config.epoch_seed, a)).collect()
}

/// A DAG in the order its blocks were written down.
#[derive(Clone)]
pub(crate) struct Dag {
    pub(crate) committee: Committee,
    names: BTreeMap<String, BlockRef>,
    labels: BTreeMap<BlockRef, String>,
    pub(crate) blocks: Vec<(BlockRef, Vec<BlockRef>)>,
}

impl Dag {
    pub(crate) fn new(stakes: &[Stake]) -> Self {
        let committee = Committee::new(stakes.to_vec()).expect("valid stakes");
        let mut dag = Self { committee, names: BTreeMap::new(), labels: BTreeMap::new(), blocks: Vec::new() };
        for author in dag.committee.authors() {
            dag.name(&format!("{}0", letter(author)));
        }
        dag
    }

    pub(crate) fn parse(stakes: &[Stake], text: &str) -> Self {
        let mut dag = Self::new(stakes);
        dag.extend(text);
        dag
    }

    pub(crate) fn extend(&mut self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("full ") {
                self.full(rest);
            } else {
                let (name, parents) = line.split_once(':').expect("NAME: PARENTS");
                let parents: Vec<&str> = parents.split_whitespace().collect();
                self.add(name.trim(), &parents);
            }
        }
    }

    fn full(&mut self, rest: &str) {
        let (head, from) = rest.split_once(" from ").map_or((rest, None), |(head, from)| (head, Some(from)));
        let mut words = head.split_whitespace();
        let rounds = words.next().expect("rounds");
        let all: String = self.committee.authors().map(letter).collect();
        let authors = words.next().map_or(all, str::to_owned);
        let (low, high) = rounds.split_once("..").unwrap_or((rounds, rounds));
        for round in low.parse::<Round>().expect("round")..=high.parse().expect("round") {
            let before = round - 1;
            let parents: Vec<String> = match from {
                Some(names) => names.split_whitespace().map(str::to_owned).collect(),
                None => {
                    let at = |(r, label): (&BlockRef, &String)| (r.round == before).then(|| label.clone());
                    self.labels.iter().filter_map(at).collect()
                }
            };
            for author in authors.chars() {
                // A block has one parent per author: its own version of an equivocator's block.
                let mut chosen: BTreeMap<char, &str> = BTreeMap::new();
                for parent in &parents {
                    let first = parent.chars().next().expect("named");
                    let best = chosen.entry(first).or_insert(parent);
                    if parent.len() < best.len() {
                        *best = parent;
                    }
                }
                let name = format!("{author}{round}");
                self.add(&name, &chosen.into_values().collect::<Vec<_>>());
            }
        }
    }

    pub(crate) fn add(&mut self, name: &str, parents: &[&str]) {
        let reference = self.name(name);
        let parents = parents.iter().map(|p| *self.names.get(*p).unwrap_or_else(|| panic!("{p} of {name}"))).collect();
        self.push(reference, parents);
    }

    pub(crate) fn push(&mut self, reference: BlockRef, parents: Vec<BlockRef>) {
        let strong = parents.iter().filter(|p| p.round + 1 == reference.round).map(|p| p.author);
        let stake = crate::committee::StakeSet::of(&self.committee, strong).stake();
        assert!(stake >= self.committee.quorum(), "{reference:?} has no quorum of parents");
        assert!(parents.iter().any(|p| p.author == reference.author), "{reference:?} has no own parent");
        self.blocks.push((reference, parents));
    }

    pub(crate) fn name(&mut self, name: &str) -> BlockRef {
        let digits: String = name.chars().filter(char::is_ascii_digit).collect();
        let author = u16::from(name.as_bytes()[0] - b'A');
        let digest = h("test-block", name.as_bytes());
        let reference = BlockRef { round: digits.parse().expect("round"), author, digest };
        self.names.insert(name.to_owned(), reference);
        self.labels.insert(reference, name.to_owned());
        reference
    }

    pub(crate) fn label(&self, block: &BlockRef) -> &str {
        &self.labels[block]
    }

    pub(crate) fn labels<'a>(&'a self, blocks: impl Iterator<Item = &'a BlockRef>) -> String {
        let mut labels: Vec<_> = blocks.map(|b| (b.round, b.author, self.label(b))).collect();
        labels.sort_unstable();
        labels.into_iter().map(|(_, _, label)| label).collect::<Vec<_>>().join(" ")
    }
}

pub(crate) fn letter(author: AuthorIdx) -> char {
    char::from(b'A' + u8::try_from(author).expect("few validators"))
}

/// Store, committer and flush, fed with a DAG.
pub(crate) struct Runner {
    pub(crate) committee: Committee,
    pub(crate) schedule: Schedule,
    pub(crate) store: Store,
    pub(crate) committer: Committer,
    pub(crate) linearizer: Linearizer,
    pub(crate) decided: Vec<Decided>,
    /// Leader, blocks, and those whose payload is ignored.
    pub(crate) commits: Vec<(BlockRef, Vec<BlockRef>, Vec<BlockRef>)>,
    pub(crate) headers: Vec<CommitHeader>,
    signature: Signature,
}

impl Runner {
    pub(crate) fn new(committee: &Committee, leaders: u16, gc_depth: Round) -> Self {
        Self::with_window(committee, leaders, gc_depth, u32::MAX)
    }

    /// With a new leader table after every so many commits.
    pub(crate) fn with_window(committee: &Committee, leaders: u16, gc_depth: Round, window: u32) -> Self {
        let genesis = CommitRef { index: 0, digest: Hash::ZERO };
        Self {
            committee: committee.clone(),
            schedule: Schedule::rotating(committee.len(), leaders, window),
            store: Store::new(0),
            committer: Committer::new(LeaderSlot::default()),
            linearizer: Linearizer::new(0, FIRST_PROTOCOL_VERSION, gc_depth, genesis, 0),
            decided: Vec::new(),
            commits: Vec::new(),
            headers: Vec::new(),
            signature: no_signature(),
        }
    }

    /// Accepts a block (parents first), then decides and flushes.
    pub(crate) fn accept(&mut self, reference: BlockRef, parents: &[BlockRef]) {
        if reference.round <= self.store.gc_round() {
            return;
        }
        let block = Arc::new(bare_block(&self.signature, reference, parents.to_vec(), u64::from(reference.round)));
        self.store.insert(reference, block.clone(), Arc::from([].as_slice()));
        self.committer.on_accept(&self.committee, &self.schedule, reference, &block).expect("no two certified");
        loop {
            self.committer.decide(&self.store).expect("no two certified");
            let Some(decided) = self.committer.pop() else { return };
            self.decided.push(decided);
            if decided.decision == Decision::Skip {
                self.schedule.on_skip(decided.slot.author);
            }
            if let Decision::Commit(leader) = decided.decision {
                let digest = self.schedule.digest();
                let lead = Lead { slot: decided.slot, leader, schedule_digest: digest, certified_ms: None };
                let flush =
                    self.linearizer.apply(&self.committee, &self.store, lead, &|_| None).expect("complete history");
                if self.schedule.on_commit(&self.committee, &self.store, &flush).is_some() {
                    let changed = self.committer.reschedule(&self.committee, &self.schedule, &self.store, leader.round);
                    changed.expect("no two certified");
                }
                self.headers.push(flush.commit.header.clone());
                let blocks = flush.commit.blocks.iter().map(|b| b.block).collect();
                self.commits.push((leader, blocks, flush.twins));
                self.store.advance_gc(self.linearizer.gc_round());
            }
        }
    }

    pub(crate) fn accept_all(&mut self, dag: &Dag) {
        for (reference, parents) in &dag.blocks {
            self.accept(*reference, parents);
        }
    }

    /// `1A COMMIT A1, 2B SKIP, 3C UNDECIDED` with `!` for indirect ones.
    pub(crate) fn slots(&self, dag: &Dag) -> String {
        let name = |slot: LeaderSlot| format!("{}{}", slot.round, letter(slot.author));
        let text = |decision: Decision| match decision {
            Decision::Commit(x) => format!("COMMIT {}", dag.label(&x)),
            Decision::Skip => "SKIP".to_owned(),
        };
        let done = self
            .decided
            .iter()
            .map(|d| format!("{} {}{}", name(d.slot), text(d.decision), if d.direct { "" } else { "!" }));
        let open = self
            .committer
            .statuses()
            .map(|(slot, status)| format!("{} {}", name(slot), status.map_or_else(|| "UNDECIDED".to_owned(), text)));
        done.chain(open).collect::<Vec<_>>().join(", ")
    }

    /// `A1: A1 | B2: B1 C1 D1 B2`, with the blocks sorted by round and author, and `~X` for ignored payload.
    pub(crate) fn flushes(&self, dag: &Dag) -> String {
        let flush = |(leader, blocks, twins): &(BlockRef, Vec<BlockRef>, Vec<BlockRef>)| {
            let ignored: String = twins.iter().map(|t| format!(" ~{}", dag.label(t))).collect();
            format!("{}: {}{ignored}", dag.label(leader), dag.labels(blocks.iter()))
        };
        self.commits.iter().map(flush).collect::<Vec<_>>().join(" | ")
    }
}
