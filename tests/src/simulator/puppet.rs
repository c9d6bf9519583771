//! A faulty validator: a key, what it has seen of the DAG, and tricks. It runs no state machine.
//!
//! Its blocks are as valid as a trick needs them: parents that others really built, signatures that hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use aurigraph_consensus::block::{genesis_ref, parents_root, payload_root};
use aurigraph_consensus::commit::genesis_commit;
use aurigraph_consensus::config::{BLOCK_VERSION, CORE_LEN};
use aurigraph_consensus::message::{encode_block, pushed_block};
use aurigraph_consensus::{
    AuthorIdx, BatchRef, Block, BlockCore, BlockRef, CkptRef, CommitRange, CommitRef, Committee, Config, Extras,
    Message, Round, Signature, StakeSet,
};
use aurigraph_ledger::{Hash, h};
use bytes::Bytes;

use super::coverage::{Coverage, Mark};
use super::lies::Lies;
use super::node::core_of;
use super::rng::Rng;
use super::scenario::{Behaviour, Ms};
use super::workload::Workload;

/// Rounds of the DAG that are remembered.
const REMEMBERED: Round = 40;

/// Tricks that stand beside those of [`Behaviour::Mixed`].
const CONES: u64 = 100;
const FLOOD: u64 = 101;
const PLAIN: u64 = 102;
/// A flood comes every so many rounds, with so many requests.
const FLOOD_EVERY: Round = 40;
const FLOOD_OF: u64 = 600;

/// What stands at the beginning of a signature: the digest and whose key it was. Nobody in the simulator forges; a hash
/// here would be a tenth of a run.
fn mark(author: AuthorIdx, digest: &Hash) -> [u8; 34] {
    let mut mark = [0; 34];
    mark[..32].copy_from_slice(digest.as_bytes());
    mark[32..].copy_from_slice(&(!author).to_le_bytes());
    mark
}

/// The simulator's block signatures.
pub(crate) fn sign(author: AuthorIdx, digest: &Hash) -> Signature {
    let mut bytes = [0; aurigraph_consensus::types::SIGNATURE_LEN];
    bytes[..34].copy_from_slice(&mark(author, digest));
    Signature::from_slice(&bytes).expect("the right length")
}

/// Whether it is the author's signature.
pub(crate) fn is_signed(author: AuthorIdx, digest: &Hash, signature: &Signature) -> bool {
    signature.as_bytes()[..34] == mark(author, digest)
}

/// Something a faulty validator sends.
pub(crate) enum Act {
    /// A message, after a while.
    Message { to: usize, bytes: Arc<[u8]>, after_ms: Ms },
    /// A batch body.
    Body { to: usize, digest: Hash },
}

/// A faulty validator.
pub(crate) struct Puppet {
    author: AuthorIdx,
    behaviour: Behaviour,
    config: Config,
    committee: Committee,
    rng: Rng,
    seen: BTreeMap<Round, BTreeMap<AuthorIdx, Vec<BlockRef>>>,
    /// The newest own round and its versions.
    own: (Round, Vec<BlockRef>),
    blocks: BTreeMap<BlockRef, Arc<[u8]>>,
    /// Newest blocks of the others, as they came.
    relayed: BTreeMap<BlockRef, Vec<u8>>,
    pub(crate) bodies: BTreeMap<Hash, Bytes>,
    foreign_batches: Vec<BatchRef>,
    lies: Lies,
    /// Who is shown the first version.
    side: Vec<bool>,
    /// A proposal is on its way.
    pub(crate) scheduled: bool,
}

/// What a block of one round is made of.
struct Draft {
    round: Round,
    parents: Vec<BlockRef>,
    batches: Vec<BatchRef>,
    timestamp_ms: u64,
    vote: CommitRef,
    attestation: CkptRef,
}

impl Puppet {
    pub(crate) fn new(author: AuthorIdx, behaviour: Behaviour, lies: Lies, config: Config, mut rng: Rng) -> Self {
        let committee = Committee::new(config.stakes.clone()).expect("valid stakes");
        let side = (0..committee.len()).map(|_| rng.chance(500)).collect();
        let mut puppet = Self {
            author,
            behaviour,
            committee,
            rng,
            seen: BTreeMap::new(),
            own: (0, Vec::new()),
            blocks: BTreeMap::new(),
            relayed: BTreeMap::new(),
            bodies: BTreeMap::new(),
            foreign_batches: Vec::new(),
            lies,
            side,
            scheduled: false,
            config: config.clone(),
        };
        puppet.enter(config);
        puppet
    }

    /// Takes a message; gives back what it answers at once.
    pub(crate) fn receive(&mut self, from: usize, bytes: &[u8], configs: &[Config], marks: &mut Coverage) -> Vec<Act> {
        let reply = |message: Message| vec![Act::Message { to: from, bytes: message.encode().into(), after_ms: 1 }];
        if let Some(block) = pushed_block(bytes) {
            self.follow(block, configs);
            self.observe(block);
            return Vec::new();
        }
        match Message::decode(bytes) {
            Ok(Message::FetchRequest { request, refs, .. }) if self.rng.chance(700) => {
                let mut blocks: Vec<Vec<u8>> =
                    refs.iter().filter_map(|block| self.blocks.get(block)).map(|b| b.to_vec()).collect();
                for block in refs.iter().filter_map(|block| self.relayed.get(block)) {
                    blocks.push(block.clone());
                    if self.behaviour == Behaviour::Mixed && self.rng.chance(400) {
                        marks.hit(Mark::SpoiltRelay);
                        spoil(&mut blocks);
                    }
                }
                reply(Message::FetchReply { request, commit_index: self.claim(), blocks })
            }
            Ok(Message::CommitRangeRequest { request, .. }) if self.rng.chance(700) => {
                reply(Message::CommitRangeReply(CommitRange::new(request, self.claim())))
            }
            Ok(Message::ProbeRequest { epoch, nonce }) if self.rng.chance(700) => {
                let seen = self.seen.last_key_value().map_or(0, |(round, _)| *round);
                let round = if self.rng.chance(300) { seen + 100_000 } else { seen };
                let round = self.rng.chance(800).then_some(round);
                reply(Message::ProbeReply { epoch, nonce, commit_index: self.claim(), round, newest: None })
            }
            _ => Vec::new(),
        }
    }

    /// A lie about the newest commit, now and then.
    fn claim(&mut self) -> u64 {
        if self.rng.chance(300) { 1_000_000 } else { 0 }
    }

    /// A block of a later epoch takes it there.
    fn follow(&mut self, block: &[u8], configs: &[Config]) {
        let epoch = core_of(block).map_or(0, |core| core.epoch);
        let known = usize::try_from(epoch).ok().and_then(|epoch| configs.get(epoch));
        if let Some(config) = known.filter(|_| epoch > self.config.epoch) {
            self.enter(config.clone());
        }
    }

    fn enter(&mut self, config: Config) {
        self.committee = Committee::new(config.stakes.clone()).expect("valid stakes");
        self.config = config;
        self.seen = BTreeMap::new();
        for author in self.committee.authors() {
            let Config { chain_id, epoch, epoch_seed, .. } = &self.config;
            let genesis = genesis_ref(chain_id, *epoch, epoch_seed, author);
            self.seen.entry(0).or_default().insert(author, vec![genesis]);
            if author == self.author {
                self.own = (0, vec![genesis]);
            }
        }
    }

    fn observe(&mut self, bytes: &[u8]) {
        let Some(core) = core_of(bytes).filter(|core| core.epoch == self.config.epoch) else { return };
        let reference = core.reference();
        let authors = self.seen.get(&reference.round);
        if authors.and_then(|it| it.get(&reference.author)).is_some_and(|versions| versions.contains(&reference)) {
            return;
        }
        let Ok(block) = Block::decode(bytes) else { return };
        self.lies.hear(&block.core);
        let versions = self.seen.entry(reference.round).or_default().entry(reference.author).or_default();
        versions.push(reference);
        self.relayed.insert(reference, bytes.to_vec());
        self.foreign_batches = block.batches;
        let oldest = self.seen.last_key_value().map_or(0, |(round, _)| round.saturating_sub(REMEMBERED));
        while self.seen.first_key_value().is_some_and(|(round, _)| *round < oldest) {
            self.seen.pop_first();
        }
        while self.relayed.first_key_value().is_some_and(|(block, _)| block.round < oldest) {
            self.relayed.pop_first();
        }
    }

    /// The highest round that it can build a valid block for, if it has not yet.
    pub(crate) fn buildable(&self) -> Option<Round> {
        let full = |authors: &BTreeMap<AuthorIdx, Vec<BlockRef>>| {
            StakeSet::of(&self.committee, authors.keys().copied()).stake() >= self.committee.quorum()
        };
        let (round, _) = self.seen.iter().rev().find(|(_, authors)| full(authors))?;
        (self.behaviour != Behaviour::Silent && *round + 1 > self.own.0).then_some(round + 1)
    }

    /// Builds for the next round, by one of its tricks.
    pub(crate) fn propose(&mut self, wall_ms: u64, workload: &mut Workload, marks: &mut Coverage) -> Vec<Act> {
        let Some(round) = self.buildable() else { return Vec::new() };
        let trick = match self.behaviour {
            Behaviour::Twins => 0,
            Behaviour::Cones => CONES,
            Behaviour::Flood => FLOOD,
            Behaviour::Liar => PLAIN,
            Behaviour::Mixed | Behaviour::Silent => self.rng.below(10),
        };
        let mut acts = Vec::new();
        let mut versions = Vec::new();
        let count = match trick {
            0..=2 => 2 + usize::from(self.rng.chance(150)),
            CONES => 3,
            _ => 1,
        };
        for version in 0..count {
            let mut draft = self.draft(round, wall_ms, workload, marks, &mut acts);
            if trick == CONES {
                draft.parents[0] = self.own.1[version % self.own.1.len()];
            }
            versions.push(self.build(draft));
        }
        match trick {
            0..=2 => self.send_twins(&versions, marks, &mut acts),
            3..=4 => {
                marks.hit(Mark::Withheld);
                let few = 1 + self.rng.index(self.committee.len().div_ceil(2));
                let mut others = self.others();
                self.rng.shuffle(&mut others);
                others.truncate(few);
                push(&mut acts, &versions[0], &others, 0);
            }
            5 => {
                marks.hit(Mark::LateBlock);
                let after = self.rng.between(200, 3_000);
                push(&mut acts, &versions[0], &self.others(), after);
            }
            6..=7 => {
                marks.hit(Mark::Garbage);
                push(&mut acts, &versions[0], &self.others(), 0);
                self.garbage(&versions[0], &mut acts);
                marks.hit(Mark::WrongPlace);
                self.misplaced(&versions[0], &mut acts);
            }
            CONES => {
                marks.hit(Mark::ConesSent);
                versions.iter().for_each(|version| push(&mut acts, version, &self.others(), 0));
            }
            FLOOD => {
                push(&mut acts, &versions[0], &self.others(), 0);
                if round % FLOOD_EVERY == 1 {
                    marks.hit(Mark::Flooded);
                    self.flood(&versions[0], &mut acts);
                }
            }
            _ => push(&mut acts, &versions[0], &self.others(), 0),
        }
        if self.rng.chance(100) {
            self.side = (0..self.committee.len()).map(|_| self.rng.chance(500)).collect();
        }
        let references: Vec<BlockRef> = versions.iter().map(Block::reference).collect();
        for (reference, block) in references.iter().zip(&versions) {
            self.blocks.insert(*reference, block.encode().into());
        }
        self.seen.entry(round).or_default().insert(self.author, references.clone());
        self.own = (round, references);
        acts
    }

    fn others(&self) -> Vec<usize> {
        (0..self.committee.len()).filter(|other| *other != usize::from(self.author)).collect()
    }

    fn send_twins(&self, versions: &[Block], marks: &mut Coverage, acts: &mut Vec<Act>) {
        marks.hit(Mark::TwinsSent);
        for to in self.others() {
            // A third version, if there is one, is shown to nobody but those who ask.
            let version = &versions[usize::from(self.side[to])];
            push(acts, version, &[to], 0);
        }
    }

    fn draft(
        &mut self,
        round: Round,
        wall_ms: u64,
        workload: &mut Workload,
        marks: &mut Coverage,
        acts: &mut Vec<Act>,
    ) -> Draft {
        let parents = self.parents(round);
        let mut batches = Vec::new();
        if self.rng.chance(300) {
            batches.push(self.own_batch(u64::from(round), workload, acts));
        }
        if self.rng.chance(150) {
            batches.extend(self.foreign_batches.first().copied());
        }
        let timestamp_ms = match self.rng.below(20) {
            0 => 0,
            1 => u64::MAX,
            2 => wall_ms + 3_000,
            _ => wall_ms + self.rng.below(5),
        };
        let config = &self.config;
        let mut vote = genesis_commit(&config.chain_id, config.epoch, &config.epoch_seed, config.base);
        if self.behaviour == Behaviour::Mixed && self.rng.chance(100) {
            marks.hit(Mark::LyingVote);
            vote = CommitRef { index: self.rng.below(400), digest: h("invented", &self.rng.next().to_le_bytes()) };
        }
        let attestation = self.lies.attest(self.author, marks);
        Draft { round, parents, batches, timestamp_ms, vote, attestation }
    }

    /// The own parent, then one version of each of a random quorum.
    fn parents(&mut self, round: Round) -> Vec<BlockRef> {
        let own = *self.rng.pick(&self.own.1).expect("genesis at least");
        let mut parents = vec![own];
        let Some(before) = self.seen.get(&(round - 1)) else { return parents };
        let mut rest: Vec<AuthorIdx> = before.keys().copied().filter(|author| *author != self.author).collect();
        let mut strong = StakeSet::default();
        if own.round + 1 == round {
            strong.add(&self.committee, self.author);
        }
        self.rng.shuffle(&mut rest);
        for author in rest {
            let enough = strong.stake() >= self.committee.quorum();
            if !enough || self.rng.chance(600) {
                strong.add(&self.committee, author);
                parents.push(*self.rng.pick(&before[&author]).expect("a version"));
            }
        }
        parents[1..].sort_by_key(|parent| parent.author);
        parents
    }

    /// A batch whose body goes to all, to some, or to nobody who does not ask.
    fn own_batch(&mut self, height: u64, workload: &mut Workload, acts: &mut Vec<Act>) -> BatchRef {
        let (batch, body) = workload.batch(self.author, height, true);
        self.bodies.insert(batch.digest, body);
        let share = *self.rng.pick(&[1_000, 1_000, 500, 0]).expect("not empty");
        for to in self.others() {
            if self.rng.chance(share) {
                acts.push(Act::Body { to, digest: batch.digest });
            }
        }
        batch
    }

    fn build(&self, draft: Draft) -> Block {
        let Draft { round, parents, batches, timestamp_ms, vote, attestation } = draft;
        let extras = Extras::default();
        let core = BlockCore {
            version: BLOCK_VERSION,
            supports: BLOCK_VERSION,
            chain_id: self.config.chain_id,
            epoch: self.config.epoch,
            round,
            author: self.author,
            timestamp_ms,
            parents_root: parents_root(round, &parents),
            payload_root: payload_root(&batches),
            extras_root: extras.root(),
            commit_vote: vote,
            attestation,
        };
        let signature = sign(self.author, &core.digest());
        Block { core, parents, batches, extras, signature }
    }

    /// Blocks and bytes that nobody may take.
    fn garbage(&mut self, block: &Block, acts: &mut Vec<Act>) {
        let others = self.others();
        let mut unsigned = block.clone();
        unsigned.core.timestamp_ms ^= 2;
        push(acts, &unsigned, &others, 0);
        let mut weak = block.clone();
        weak.parents.truncate(1);
        push(acts, &self.reseal(weak), &others, 0);
        let mut future = block.clone();
        let invented =
            |parent: &BlockRef| BlockRef { round: parent.round + 50, digest: h("invented", b"parent"), ..*parent };
        future.core.round += 50;
        future.parents = block.parents.iter().map(invented).collect();
        push(acts, &self.reseal(future), &others, 0);
        let noise: Vec<u8> = (0..self.rng.between(1, 200)).map(|_| self.rng.next().to_le_bytes()[0]).collect();
        let refs = vec![block.reference(); 3];
        let request = Message::FetchRequest { epoch: 0, request: 7, ancestors_above: 0, refs };
        let unasked = Message::FetchReply { request: 7, commit_index: self.claim(), blocks: vec![block.encode()] };
        for bytes in [noise, request.encode(), unasked.encode()] {
            let to = *self.rng.pick(&others).expect("others");
            acts.push(Act::Message { to, bytes: bytes.into(), after_ms: 0 });
        }
    }

    /// Blocks of another epoch, of another chain, of an author that there is not, in another's name.
    fn misplaced(&self, block: &Block, acts: &mut Vec<Act>) {
        let others = self.others();
        for epoch in [1, 2, 1_000] {
            let mut later = block.clone();
            later.core.epoch += epoch;
            push(acts, &self.reseal(later), &others, 0);
        }
        let mut earlier = block.clone();
        earlier.core.epoch = block.core.epoch.saturating_sub(1);
        earlier.core.timestamp_ms ^= 4;
        if earlier.core.epoch != block.core.epoch {
            push(acts, &self.reseal(earlier), &others, 0);
        }
        let mut foreign = block.clone();
        foreign.core.chain_id = h("another", b"chain");
        push(acts, &self.reseal(foreign), &others, 0);
        let members = u16::try_from(self.committee.len()).unwrap_or(u16::MAX);
        for author in [members, u16::MAX, (self.author + 1) % members] {
            let mut named = block.clone();
            named.core.author = author;
            if let Some(own) = named.parents.first_mut() {
                own.author = author;
            }
            push(acts, &self.reseal(named), &others, 0);
        }
    }

    /// Hundreds of requests and of blocks to one validator, at once.
    fn flood(&mut self, block: &Block, acts: &mut Vec<Act>) {
        let to = *self.rng.pick(&self.others()).expect("others");
        let epoch = self.config.epoch;
        let mut send = |bytes: Vec<u8>| acts.push(Act::Message { to, bytes: bytes.into(), after_ms: 1 });
        for request in 0..FLOOD_OF {
            send(Message::FetchRequest { epoch, request, ancestors_above: 0, refs: vec![block.parents[0]] }.encode());
            if request % 3 == 0 {
                send(Message::CommitRangeRequest { request, from: 1, count: 1 }.encode());
                send(Message::ProbeRequest { epoch, nonce: request }.encode());
            }
        }
        for ahead in 1..FLOOD_OF / 2 {
            let mut more = block.clone();
            let ahead = Round::try_from(ahead).unwrap_or(1);
            more.core.round += ahead % 100;
            more.core.timestamp_ms = more.core.timestamp_ms.wrapping_add(u64::from(ahead));
            for parent in more.parents.iter_mut() {
                parent.round += ahead % 100;
            }
            send(encode_block(&self.reseal(more).encode()));
        }
    }

    fn reseal(&self, mut block: Block) -> Block {
        block.core.parents_root = parents_root(block.core.round, &block.parents);
        block.signature = sign(self.author, &block.core.digest());
        block
    }
}

/// The newest block of an answer gets a signature that is not its author's.
fn spoil(blocks: &mut [Vec<u8>]) {
    if let Some(byte) = blocks.last_mut().and_then(|block| block.get_mut(CORE_LEN + 3)) {
        *byte ^= 1;
    }
}

fn push(acts: &mut Vec<Act>, block: &Block, to: &[usize], after_ms: Ms) {
    let bytes: Arc<[u8]> = encode_block(&block.encode()).into();
    acts.extend(to.iter().map(|to| Act::Message { to: *to, bytes: bytes.clone(), after_ms }));
}
