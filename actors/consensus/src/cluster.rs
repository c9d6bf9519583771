//! Whole clusters of machines in one thread of the tests: virtual time, a lossy network, disks that lose what was not
//! synced, one seed. Small on purpose: the simulator with the full fault model lives elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aurigraph_ledger::hash::{Hash, h, h_parts};

use crate::block::{Block, Evidence, EvidenceKind, SignedCore};
use crate::certificate::Certificate;
use crate::commit::{Commit, ProvenFault};
use crate::config::Config;
use crate::epoch::EpochCert;
use crate::event::{Alarm, Effect, Event, Offence};
use crate::machine::{Machine, Recovery};
use crate::message::{CommitRange, Lane, Message, encode_block};
use crate::oracle::{Mutation, Oracle};
use crate::range::{RangeBuilder, ServedBlock};
use crate::record::Record;
use crate::snapshot::ConsensusSnapshot;
use crate::status::Mode;
use crate::testing::Rng;
use crate::types::{AuthorIdx, BatchRef, BlockRef, CkptRef, Now, SIGNATURE_LEN, Signature, Stake, TimeMs};

const WALL_START: TimeMs = 1_700_000_000_000;

/// The tests' signature: a hash that names author and digest.
pub(crate) fn stub_signature(author: AuthorIdx, digest: &Hash) -> Signature {
    let mark = h_parts("stub-signature", &[&author.to_le_bytes(), digest.as_bytes()]);
    let mut bytes = [0; SIGNATURE_LEN];
    bytes[..32].copy_from_slice(mark.as_bytes());
    Signature::from_slice(&bytes).expect("right length")
}

fn is_signed(signed: &SignedCore) -> bool {
    signed.signature == stub_signature(signed.core.author, &signed.core.digest())
}

/// Whether a block of the log may be served as a single block.
fn is_served(block: &ServedBlock) -> bool {
    let signed = SignedCore::decode(&block.bytes[..crate::config::SIGNED_CORE_LEN]).expect("a block");
    block.checked || is_signed(&signed)
}

/// Something else than what was asked for, in one of the ways in which a range can be wrong.
fn spoil(range: &mut CommitRange, rng: &mut Rng) {
    if range.commits.is_empty() {
        return;
    }
    let at = rng.below(range.commits.len());
    match rng.below(8) {
        // Other bytes in a block's signature: nothing that the range's check can see.
        0 => range.blocks.iter_mut().for_each(|block| block[1_000] ^= 1),
        1 => range.votes.iter_mut().take(1).for_each(|vote| vote.signature = stub_signature(99, &Hash::ZERO)),
        2 => range.commits[at].header.timestamp_ms += 1,
        3 => {
            range.commits.remove(0);
        }
        4 => range.votes.truncate(1),
        5 => range.blocks.clear(),
        6 => {
            range.commits[at].blocks.pop();
        }
        _ => *range = CommitRange::new(range.request, range.commit_index),
    }
}

/// Another version of a pushed block, signed by the same author.
fn twin_of(pushed: &[u8]) -> Vec<u8> {
    let Ok(Message::Block(bytes)) = Message::decode(pushed) else { panic!("a pushed block") };
    let mut block = Block::decode(&bytes).expect("own blocks decode");
    block.core.timestamp_ms += 1;
    block.signature = stub_signature(block.core.author, &block.core.digest());
    encode_block(&block.encode())
}

/// An answer to a probe, or its proof, with a round that is far too high.
fn inflated(bytes: &[u8]) -> Vec<u8> {
    match Message::decode(bytes) {
        Ok(Message::ProbeReply { epoch, nonce, commit_index, round, newest }) => {
            Message::ProbeReply { epoch, nonce, commit_index, round: round.map(|round| round + 1_000), newest }.encode()
        }
        Ok(Message::ProofReply(mut proof)) => {
            proof.round += 1_000;
            Message::ProofReply(proof).encode()
        }
        _ => bytes.to_vec(),
    }
}

pub(crate) struct Node {
    pub(crate) machine: Option<Machine>,
    life: u32,
    pub(crate) log: Vec<Vec<u8>>,
    pub(crate) synced: usize,
    /// Length of the log that is safe once a sync has ended, by the append that asked for it.
    syncing: BTreeMap<u64, usize>,
    /// Where logged blocks are found again.
    blocks: BTreeMap<BlockRef, (Arc<[u8]>, bool)>,
    pub(crate) batches: BTreeMap<Hash, u32>,
    pub(crate) delivered: BTreeMap<u64, Arc<Commit>>,
    /// Delivered in this process life.
    life_delivered: Vec<u64>,
    pub(crate) executed: u64,
    pub(crate) alarms: Vec<Alarm>,
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) evidence: usize,
    pub(crate) sent_rounds: BTreeMap<(u64, u32), Hash>,
    pub(crate) snapshot: Option<(ConsensusSnapshot, usize)>,
}

/// What comes to a node.
enum Item {
    Event(Event),
    /// A message of a node, whose index is that in the epoch of the receiver when it comes.
    From(usize, Vec<u8>),
    Up(usize),
    Down(usize),
}

pub(crate) struct Cluster {
    pub(crate) config: Config,
    pub(crate) nodes: Vec<Node>,
    pub(crate) rng: Rng,
    pub(crate) time: TimeMs,
    pub(crate) drop_percent: u64,
    pub(crate) latency: (u64, u64),
    /// Longest time of a sync.
    pub(crate) sync_ms: TimeMs,
    /// Pairs that cannot talk.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    queue: BTreeMap<(TimeMs, u64), (usize, u32, Item)>,
    sequence: u64,
    /// Index to digest: what the first node that delivered it had.
    pub(crate) agreed: BTreeMap<u64, Hash>,
    /// What the first node that delivered a commit found proven in it.
    pub(crate) faults: BTreeMap<u64, Vec<ProvenFault>>,
    /// Digest of the order's state that each commit names, the same on all nodes.
    pub(crate) states: BTreeMap<u64, Hash>,
    pub(crate) steps: u64,
    /// Restarts use the newest snapshot.
    pub(crate) use_snapshots: bool,
    /// Sends another version of every own block to the upper half of the nodes.
    pub(crate) equivocator: Option<usize>,
    /// Sends own blocks to the next node alone.
    pub(crate) whisperer: Option<usize>,
    /// Says that it is in a far later round.
    pub(crate) liar: Option<usize>,
    /// Answers requests for ranges with something else.
    pub(crate) spoiler: Option<usize>,
    /// This node gives nobody a range of commits.
    pub(crate) mute: Option<usize>,
    /// Ranges that it was asked for.
    pub(crate) unanswered: usize,
    /// Votes for no commit.
    pub(crate) abstainer: Option<usize>,
    /// Spoils the signatures of all blocks in ranges.
    pub(crate) spoil_signatures: bool,
    /// What peers were charged with, by whom.
    pub(crate) charges: Vec<(usize, AuthorIdx, Offence)>,
    /// Nobody reports progress of execution.
    pub(crate) execution_stalls: bool,
    /// Digest of the leader schedule by decided slot: what the first node that got there had.
    schedules: BTreeMap<(u64, u32, u16), Hash>,
    /// Nodes and stakes of each epoch that was reached, by author.
    pub(crate) sets: BTreeMap<u64, Vec<(usize, Stake)>>,
    /// Sets that differ from the one before.
    pub(crate) plan: BTreeMap<u64, Vec<(usize, Stake)>>,
    /// What the first node that got there certified as the end of each epoch.
    pub(crate) ends: BTreeMap<u64, EpochCert>,
    /// The last commits of epochs.
    last_commits: BTreeSet<u64>,
    /// Newest protocol version of each node that is not of the default one.
    pub(crate) supports: BTreeMap<usize, u16>,
    /// Nodes that have stopped, with the reason.
    pub(crate) halted: BTreeMap<usize, String>,
    /// A node may halt.
    pub(crate) may_halt: bool,
    /// Own indices see no epoch certificates from peers.
    pub(crate) lose_certs: bool,
    /// Every so many commits are a checkpoint.
    pub(crate) checkpoint_every: Option<u64>,
    /// These nodes execute wrongly from this commit on.
    pub(crate) corrupted: BTreeMap<usize, u64>,
    /// Keep what is sent.
    pub(crate) record_traffic: bool,
    pub(crate) traffic: Vec<Vec<u8>>,
}

impl Cluster {
    pub(crate) fn new(stakes: &[Stake], seed: u64) -> Self {
        let mut config = Config::new(h("chain", b"test"), h("seed", b"test"), stakes.to_vec(), None);
        config.limits.max_unexecuted = 1_000_000;
        Self {
            config,
            nodes: stakes.iter().map(|_| Self::node()).collect(),
            rng: Rng(seed),
            time: 1_000,
            drop_percent: 0,
            latency: (1, 10),
            sync_ms: 3,
            cut: BTreeSet::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            agreed: BTreeMap::new(),
            faults: BTreeMap::new(),
            states: BTreeMap::new(),
            steps: 0,
            use_snapshots: false,
            equivocator: None,
            whisperer: None,
            liar: None,
            spoiler: None,
            mute: None,
            unanswered: 0,
            abstainer: None,
            spoil_signatures: false,
            charges: Vec::new(),
            execution_stalls: false,
            schedules: BTreeMap::new(),
            sets: BTreeMap::from([(0, stakes.iter().copied().enumerate().collect())]),
            plan: BTreeMap::new(),
            ends: BTreeMap::new(),
            last_commits: BTreeSet::new(),
            supports: BTreeMap::new(),
            halted: BTreeMap::new(),
            may_halt: false,
            lose_certs: false,
            checkpoint_every: None,
            corrupted: BTreeMap::new(),
            record_traffic: false,
            traffic: Vec::new(),
        }
    }

    fn node() -> Node {
        Node {
            machine: None,
            life: 0,
            log: Vec::new(),
            synced: 0,
            syncing: BTreeMap::new(),
            blocks: BTreeMap::new(),
            batches: BTreeMap::new(),
            delivered: BTreeMap::new(),
            life_delivered: Vec::new(),
            executed: 0,
            alarms: Vec::new(),
            certificates: Vec::new(),
            evidence: 0,
            sent_rounds: BTreeMap::new(),
            snapshot: None,
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now { mono_ms: self.time, wall_ms: WALL_START + self.time }
    }

    /// Of the first epoch.
    pub(crate) fn config_of(&self, node: usize) -> Config {
        let supports = self.supports.get(&node).copied().unwrap_or(self.config.supports);
        Config { own: self.own_of(0, node), supports, ..self.config.clone() }
    }

    /// A node that is no validator of the first epoch.
    pub(crate) fn add_observer(&mut self) -> usize {
        self.nodes.push(Self::node());
        self.nodes.len() - 1
    }

    pub(crate) fn set_of(&mut self, epoch: u64) -> Vec<(usize, Stake)> {
        if !self.sets.contains_key(&epoch) {
            let set = self.plan.get(&epoch).unwrap_or(&self.sets[&(epoch - 1)]).clone();
            self.sets.insert(epoch, set);
        }
        self.sets[&epoch].clone()
    }

    fn own_of(&self, epoch: u64, node: usize) -> Option<AuthorIdx> {
        let at = self.sets[&epoch].iter().position(|(member, _)| *member == node)?;
        Some(u16::try_from(at).expect("few"))
    }

    /// The epoch that a node's machine is in.
    pub(crate) fn epoch(&self, node: usize) -> u64 {
        self.nodes[node].machine.as_ref().map_or(0, |machine| machine.config().epoch)
    }

    /// How a node calls another: observers come after the validators.
    fn index_at(&self, node: usize, other: usize) -> AuthorIdx {
        let epoch = self.epoch(node);
        let observer = || u16::try_from(self.sets[&epoch].len() + other).expect("few");
        self.own_of(epoch, other).unwrap_or_else(observer)
    }

    fn node_at(&self, node: usize, index: AuthorIdx) -> usize {
        let set = &self.sets[&self.epoch(node)];
        set.get(usize::from(index)).map_or_else(|| usize::from(index) - set.len(), |(member, _)| *member)
    }

    /// Starts a node in a fresh directory.
    pub(crate) fn start(&mut self, node: usize) {
        let (machine, effects) = Machine::new(self.config_of(node), self.now()).expect("valid");
        self.install(node, machine, effects);
    }

    pub(crate) fn start_all(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.start(node));
    }

    /// Ends a process; a random part of what was not synced is lost.
    pub(crate) fn crash(&mut self, node: usize) {
        let keep = {
            let state = &self.nodes[node];
            let loose = state.log.len() - state.synced;
            state.synced + self.rng.below(loose + 1)
        };
        let state = &mut self.nodes[node];
        state.log.truncate(keep);
        state.synced = keep;
        state.syncing.clear();
        state.machine = None;
        state.life += 1;
        for other in 0..self.nodes.len() {
            if self.nodes[other].machine.is_some() {
                self.push_item(other, 0, Item::Down(node));
            }
        }
    }

    /// The disk is restored from a copy of some time ago.
    pub(crate) fn roll_back(&mut self, node: usize) {
        self.roll_back_to(node, self.nodes[node].log.len() / 2);
    }

    /// The disk is restored from a copy that was made when the log had so many records.
    pub(crate) fn roll_back_to(&mut self, node: usize, records: usize) {
        let state = &mut self.nodes[node];
        state.log.truncate(records);
        state.synced = state.log.len();
        state.snapshot = None;
        let last = |bytes: &Vec<u8>| match Record::decode(bytes).expect("decodes") {
            Record::Commit(commit) => Some(commit.header.index),
            _ => None,
        };
        state.executed = state.log.iter().filter_map(last).max().unwrap_or(0);
    }

    /// The disk is lost.
    pub(crate) fn wipe(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        state.log.clear();
        state.blocks.clear();
        state.delivered.clear();
        state.synced = 0;
        state.snapshot = None;
        state.executed = 0;
    }

    /// A log without its first record is that of a process that ended before it could sign anything.
    pub(crate) fn start_or_restart(&mut self, node: usize) {
        if self.nodes[node].log.is_empty() { self.start(node) } else { self.restart(node) }
    }

    /// Starts a node from its log.
    pub(crate) fn restart(&mut self, node: usize) {
        let now = self.now();
        let state = &self.nodes[node];
        let mut records: Vec<Record> =
            state.log.iter().map(|bytes| Record::decode(bytes).expect("own records decode")).collect();
        let used = self.use_snapshots.then(|| state.snapshot.clone()).flatten();
        let used = used.filter(|(_, position)| *position <= records.len());
        let mut config = self.config_of(node);
        let starts = |record: &Record| matches!(record, Record::EpochStart(_));
        if let Some(at) = records.iter().rposition(starts)
            && let Record::EpochStart(start) = &records[at]
        {
            let set = &self.sets[&start.epoch];
            config = config.at(start, set.iter().map(|(_, stake)| *stake).collect(), self.own_of(start.epoch, node));
            records.drain(..at);
        }
        let used = used.filter(|(snapshot, _)| snapshot.epoch == config.epoch);
        let recovery = Recovery {
            snapshot: used.map(|(snapshot, _)| snapshot),
            executed_index: state.executed,
            checkpoint: self.checkpoint_of(node, state.executed),
            ..Recovery::default()
        };
        let (machine, effects) = Machine::recover(config, now, recovery, records).expect("recovers");
        self.install(node, machine, effects);
    }

    fn install(&mut self, node: usize, machine: Machine, effects: Vec<Effect>) {
        let life = self.nodes[node].life;
        self.check_schedule(&machine);
        self.nodes[node].machine = Some(machine);
        self.nodes[node].life_delivered.clear();
        self.execute(node, effects);
        for other in 0..self.nodes.len() {
            if other != node && self.nodes[other].machine.is_some() {
                let other_life = self.nodes[other].life;
                self.push_life(node, life, 2, Item::Up(other));
                self.push_life(other, other_life, 2, Item::Up(node));
            }
        }
        self.tell_undelivered(node);
    }

    fn tell_undelivered(&mut self, node: usize) {
        // The driver tells again of own batches that are not delivered.
        let sealed: Vec<(Hash, u32)> = self.nodes[node].batches.iter().map(|(d, l)| (*d, *l)).collect();
        let done: BTreeSet<Hash> =
            self.nodes[node].delivered.values().flat_map(|c| c.batches().map(|(_, b)| b.digest)).collect();
        for (digest, len) in sealed {
            let own = digest.as_bytes()[31] == u8::try_from(node).expect("few");
            if own && !done.contains(&digest) {
                self.push(node, 3, Event::BatchSealed { batch: BatchRef { digest, len, tx_count: 1 } });
            }
        }
    }

    pub(crate) fn push(&mut self, node: usize, delay: TimeMs, event: Event) {
        self.push_item(node, delay, Item::Event(event));
    }

    fn push_item(&mut self, node: usize, delay: TimeMs, item: Item) {
        let life = self.nodes[node].life;
        self.push_life(node, life, delay, item);
    }

    fn push_life(&mut self, node: usize, life: u32, delay: TimeMs, item: Item) {
        self.sequence += 1;
        self.queue.insert((self.time + delay, self.sequence), (node, life, item));
    }

    /// A client's batch at a node; the body is at once with everybody who can be reached.
    pub(crate) fn submit(&mut self, node: usize, name: &str) -> Hash {
        let mut digest = h("batch", name.as_bytes());
        digest.0[31] = u8::try_from(node).expect("few");
        self.nodes[node].batches.insert(digest, 100);
        self.push(node, 0, Event::BatchSealed { batch: BatchRef { digest, len: 100, tx_count: 1 } });
        digest
    }

    pub(crate) fn run_for(&mut self, duration: TimeMs) {
        let end = self.time + duration;
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((time, _), (node, life, item)) = entry.remove_entry();
            self.time = time;
            self.deliver(node, life, item);
        }
        self.time = end;
    }

    /// Runs until a condition holds; panics when the time is up.
    pub(crate) fn run_until(&mut self, most: TimeMs, what: &str, done: impl Fn(&Self) -> bool) {
        let end = self.time + most;
        while !done(self) {
            assert!(self.time < end, "{what}: not within {most} ms: {}", self.report());
            self.run_for(20);
        }
    }

    pub(crate) fn report(&self) -> String {
        let line = |(i, node): (usize, &Node)| match &node.machine {
            None => format!("\n  {i}: down, {} delivered", node.delivered.len()),
            Some(machine) => format!("\n  {i}: {:?}", {
                let mut status = machine.status();
                status.peers.clear();
                status
            }),
        };
        self.nodes.iter().enumerate().map(line).collect()
    }

    fn deliver(&mut self, node: usize, life: u32, item: Item) {
        if self.nodes[node].life != life || self.nodes[node].machine.is_none() {
            return;
        }
        let event = match item {
            Item::Event(event) => event,
            Item::From(from, bytes) => Event::Received { peer: self.index_at(node, from), bytes },
            Item::Up(other) => Event::PeerUp { peer: self.index_at(node, other) },
            Item::Down(other) => Event::PeerDown { peer: self.index_at(node, other) },
        };
        self.steps += 1;
        if let Event::Durable { lsn } = &event {
            let state = &mut self.nodes[node];
            state.synced = state.synced.max(state.syncing.remove(lsn).unwrap_or(0));
        }
        let now = self.now();
        let Some(machine) = self.nodes[node].machine.as_mut() else { return };
        let effects = machine.step(now, event);
        let machine = self.nodes[node].machine.take().expect("just stepped");
        self.check_schedule(&machine);
        self.nodes[node].machine = Some(machine);
        self.execute(node, effects);
    }

    /// The schedule's state is a function of the decided slots, also after a restart.
    fn check_schedule(&mut self, machine: &Machine) {
        let (slot, digest) = (machine.last_decided().position(), machine.schedule().digest());
        let agreed = *self.schedules.entry((machine.config().epoch, slot.0, slot.1)).or_insert(digest);
        assert_eq!(agreed, digest, "{:?} has another leader schedule after {slot:?}", machine.config().own);
    }

    pub(crate) fn execute(&mut self, node: usize, effects: Vec<Effect>) {
        let mut ended = None;
        for effect in effects {
            match effect {
                Effect::EpochEnded(cert) => ended = Some(cert),
                other => self.execute_one(node, other),
            }
        }
        if let Some(cert) = ended {
            self.next_epoch(node, &cert);
        }
    }

    /// What a driver does at the end of an epoch.
    fn next_epoch(&mut self, node: usize, cert: &EpochCert) {
        let agreed = self.ends.entry(cert.epoch).or_insert_with(|| cert.clone());
        let same = (agreed.commit, agreed.checkpoint) == (cert.commit, cert.checkpoint);
        assert!(same, "node {node} has another end of epoch {}", cert.epoch);
        assert!(self.has_durable_cert(node, cert.epoch), "node {node} tells of a certificate that is not durable");
        assert!(self.last_commits.contains(&cert.commit.index));
        let set = self.set_of(cert.epoch + 1);
        let held: Vec<_> = self.nodes[node].machine.as_mut().expect("up").take_held();
        for (peer, bytes) in held {
            let from = self.node_at(node, peer);
            self.push_item(node, 0, Item::From(from, bytes));
        }
        let own = self.own_of(cert.epoch + 1, node);
        let machine = self.nodes[node].machine.as_ref().expect("up");
        let start = machine.next_start(vec![7; 3]).expect("has ended");
        let config = machine.config().at(&start, set.into_iter().map(|(_, stake)| stake).collect(), own);
        let (machine, effects) = machine.next_epoch(config, &start, self.now()).expect("the next epoch starts");
        self.nodes[node].machine = Some(machine);
        self.execute(node, effects);
        for other in 0..self.nodes.len() {
            if other != node && self.nodes[other].machine.is_some() {
                self.push_item(node, 0, Item::Up(other));
            }
        }
        self.tell_undelivered(node);
    }

    fn has_durable_cert(&self, node: usize, epoch: u64) -> bool {
        let state = &self.nodes[node];
        state.log[..state.synced]
            .iter()
            .any(|bytes| matches!(Record::decode(bytes), Ok(Record::EpochCert(cert)) if cert.epoch == epoch))
    }

    fn execute_one(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::VerifySig { ticket, author, digest, signature, .. } => {
                let ok = signature == stub_signature(author, &digest);
                let delay = self.rng.next() % 2;
                self.push(node, delay, Event::SigChecked { ticket, ok });
            }
            Effect::Sign { ticket, core } => {
                let before = core.epoch.checked_sub(1);
                assert!(before.is_none_or(|epoch| self.has_durable_cert(node, epoch)), "node {node} signs too early");
                assert_eq!(self.own_of(core.epoch, node), Some(core.author));
                let machine = self.nodes[node].machine.as_mut().filter(|_| self.abstainer == Some(node));
                let core = machine.map_or(*core, Machine::withhold_vote);
                let signature = stub_signature(core.author, &core.digest());
                self.push(node, 1, Event::Signed { ticket, signature });
            }
            Effect::Append { lsn, need_fsync, record } => {
                let state = &mut self.nodes[node];
                if let Some(bytes) = record.block() {
                    let reference = Block::decode(bytes).expect("own blocks decode").reference();
                    let checked = !matches!(record, Record::CertifiedBlock(_));
                    state.blocks.insert(reference, (bytes.clone(), checked));
                }
                state.log.push(record.encode());
                if need_fsync {
                    state.syncing.insert(lsn, state.log.len());
                    let delay = 1 + self.rng.next() % self.sync_ms;
                    self.push(node, delay, Event::Durable { lsn });
                }
            }
            Effect::Broadcast { block, bytes } => {
                let epoch = self.epoch(node);
                let before = self.nodes[node].sent_rounds.insert((epoch, block.round), block.digest);
                assert!(before.is_none_or(|digest| digest == block.digest), "node {node} equivocates at {block:?}");
                self.broadcast(node, &bytes);
            }
            Effect::Send { to, lane, bytes } => {
                assert!(lane == Lane::Bulk || bytes.len() <= 256 * 1024, "too large for the control lane");
                let bytes = if self.liar == Some(node) { inflated(&bytes) } else { bytes.to_vec() };
                self.transmit(node, self.node_at(node, to), bytes);
            }
            Effect::FetchBatches { batches, candidates } => self.fetch_batches(node, &batches, &candidates),
            Effect::ServeBlocks { to, request, commit_index, refs } => {
                let good = |block| self.logged_block(node, block).filter(is_served).map(|served| served.bytes);
                let blocks = refs.iter().filter_map(good).take(40).collect();
                let reply = Message::FetchReply { request, commit_index, blocks };
                self.transmit(node, self.node_at(node, to), reply.encode());
            }
            Effect::ServeCommits { .. } if self.mute == Some(node) => self.unanswered += 1,
            Effect::ServeCommits { to, request, commit_index, from, count, newest } => {
                let committee = self.nodes[node].machine.as_ref().expect("up").committee().clone();
                let mut range = RangeBuilder::new(request, commit_index, count, committee, newest, &is_signed);
                for index in from.. {
                    let Some(commit) = self.nodes[node].delivered.get(&index).cloned() else { break };
                    let block = |b: &crate::commit::CommittedBlock| {
                        self.logged_block(node, &b.block).expect("logged before its commit")
                    };
                    if !range.push(commit.header.clone(), commit.blocks.iter().map(block).collect()) {
                        break;
                    }
                }
                let mut range = range.finish();
                if self.spoil_signatures {
                    range.blocks.iter_mut().for_each(|block| block[1_000] ^= 1);
                }
                if self.spoiler == Some(node) {
                    spoil(&mut range, &mut self.rng);
                }
                self.transmit(node, self.node_at(node, to), Message::CommitRangeReply(range).encode());
            }
            Effect::ServeEpochCert { to, epoch } => {
                let logged = self.nodes[node].log.iter().find_map(|bytes| match Record::decode(bytes) {
                    Ok(Record::EpochCert(cert)) if cert.epoch == epoch => Some(cert),
                    _ => None,
                });
                if let Some(cert) = logged.filter(|_| !self.lose_certs) {
                    self.transmit(node, self.node_at(node, to), Message::EpochCert((*cert).clone()).encode());
                }
            }
            Effect::EpochEnded(_) => unreachable!("handled after the others"),
            Effect::Deliver { commit } => self.on_deliver(node, commit),
            Effect::SetTimer { at_mono_ms } => {
                let delay = at_mono_ms.saturating_sub(self.time);
                self.push(node, delay, Event::Tick);
            }
            Effect::Evidence(evidence) => {
                assert!(evidence.is_well_formed());
                let guilty = self.equivocator == Some(node);
                let own = self.own_of(evidence.a.core.epoch, node);
                assert!(guilty || Some(evidence.a.core.author) != own, "evidence against oneself");
                self.nodes[node].evidence += 1;
            }
            Effect::Charge { peer, offence } => {
                self.charges.push((node, peer, offence));
                assert!(
                    self.equivocator.is_some() || [self.liar, self.spoiler].contains(&Some(self.node_at(node, peer))),
                    "node {node} charges {peer} with {offence:?}"
                );
            }
            Effect::Alarm(alarm) => self.nodes[node].alarms.push(alarm),
            Effect::Certified(certificate) => self.nodes[node].certificates.push(*certificate),
            Effect::Halt(reason) => {
                assert!(self.may_halt, "node {node} halts: {reason}");
                self.halted.insert(node, reason.to_string());
            }
        }
    }

    pub(crate) fn broadcast(&mut self, node: usize, bytes: &[u8]) {
        let n = self.nodes.len();
        let twin = (self.equivocator == Some(node)).then(|| twin_of(bytes));
        for to in 0..n {
            let bytes = twin.as_ref().filter(|_| to >= n / 2).map_or(bytes, Vec::as_slice).to_vec();
            if self.whisperer != Some(node) || to == (node + 1) % n {
                self.transmit(node, to, bytes);
            }
        }
    }

    fn on_deliver(&mut self, node: usize, commit: Arc<Commit>) {
        let index = commit.header.index;
        let digest = commit.header.digest();
        assert_eq!(Commit::decode(&commit.encode()).expect("decodes"), *commit);
        let agreed = *self.agreed.entry(index).or_insert(digest);
        assert_eq!(agreed, digest, "node {node} disagrees at commit {index}");
        let faults = self.faults.entry(index).or_insert_with(|| commit.faults.clone());
        assert_eq!(*faults, commit.faults, "node {node} finds other faults in commit {index}");
        let named = *self.states.entry(index).or_insert(commit.state_digest);
        assert_eq!(named, commit.state_digest, "node {node} has another state of the order at commit {index}");
        let state = &mut self.nodes[node];
        let expected = state.life_delivered.last().copied().unwrap_or(state.executed) + 1;
        assert_eq!(index, expected, "node {node} delivers in order, once");
        state.life_delivered.push(index);
        let checkpoint = self.executed(node, &commit);
        let state = &mut self.nodes[node];
        if let Some(before) = state.delivered.insert(index, commit.clone()) {
            assert_eq!(before, commit, "delivered again with the same content");
        }
        for (_, batch) in commit.batches() {
            assert!(state.batches.contains_key(&batch.digest), "payload is here before its commit");
        }
        state.executed = index;
        if !self.execution_stalls {
            self.push(node, 1, Event::Executed { commit_index: index, checkpoint });
        }
    }

    /// The checkpoint that a node has come to with a commit.
    pub(crate) fn executed(&mut self, node: usize, commit: &Commit) -> Option<CkptRef> {
        if commit.epoch_end.is_some() {
            self.last_commits.insert(commit.header.index);
        }
        self.checkpoint_of(node, commit.header.index)
    }

    /// The newest checkpoint at a commit: a wrong state stays wrong, and differs from everybody else's.
    fn checkpoint_of(&self, node: usize, index: u64) -> Option<CkptRef> {
        let every = self.checkpoint_every.unwrap_or(u64::MAX);
        let ends = self.last_commits.range(..=index);
        let seq = index / every + u64::try_from(ends.clone().filter(|end| *end % every > 0).count()).expect("few");
        let at = ends.copied().max().unwrap_or(0).max(index / every * every);
        let wrong = self.corrupted.get(&node).is_some_and(|from| at >= *from);
        let name = format!("checkpoint {seq}{}", if wrong { format!(" of {node}") } else { String::new() });
        (seq > 0).then(|| CkptRef { seq, digest: h("checkpoint", name.as_bytes()) })
    }

    fn logged_block(&self, node: usize, wanted: &BlockRef) -> Option<ServedBlock> {
        let (bytes, checked) = self.nodes[node].blocks.get(wanted)?;
        Some(ServedBlock { reference: *wanted, bytes: bytes.to_vec(), checked: *checked })
    }

    fn fetch_batches(&mut self, node: usize, batches: &[BatchRef], candidates: &[AuthorIdx]) {
        for batch in batches {
            let own = self.nodes[node].batches.contains_key(&batch.digest);
            let holder = candidates.iter().map(|c| self.node_at(node, *c)).find(|c| {
                self.nodes[*c].machine.is_some()
                    && !self.is_cut(node, *c)
                    && self.nodes[*c].batches.contains_key(&batch.digest)
            });
            let digest = batch.digest;
            if own || holder.is_some() {
                self.nodes[node].batches.insert(digest, batch.len);
                self.push(node, if own { 0 } else { 5 }, Event::BatchStored { digest, len: batch.len });
            } else {
                self.push(node, 5, Event::BatchFetchFailed { digest });
            }
        }
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    pub(crate) fn transmit(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        let lost = self.rng.chance(self.drop_percent);
        if self.record_traffic {
            self.traffic.push(bytes.clone());
        }
        if from == to || self.nodes[to].machine.is_none() || self.is_cut(from, to) || lost {
            return;
        }
        let (low, high) = self.latency;
        let delay = low + self.rng.next() % (high - low + 1);
        self.push_item(to, delay, Item::From(from, bytes));
    }

    pub(crate) fn commits(&self, node: usize) -> u64 {
        self.nodes[node].delivered.last_key_value().map_or(0, |(index, _)| *index)
    }

    pub(crate) fn least(&self) -> u64 {
        let up = (0..self.nodes.len()).filter(|node| self.nodes[*node].machine.is_some());
        up.map(|node| self.commits(node)).min().unwrap_or(0)
    }

    pub(crate) fn has(&self, node: usize, batch: &Hash) -> bool {
        self.nodes[node].delivered.values().any(|commit| commit.batches().any(|(_, b)| b.digest == *batch))
    }

    /// The slow oracle, given the blocks that this node has logged, must see the same commits.
    pub(crate) fn check_oracle(&self, node: usize) {
        let machine = self.nodes[node].machine.as_ref().expect("up");
        let gc_depth = self.config.params.gc_depth;
        let base = machine.config().base.index;
        let mut oracle = Oracle::new(machine.committee().clone(), gc_depth, Mutation::None).after(base);
        for bytes in &self.nodes[node].log {
            if let Some(block) = Record::decode(bytes).expect("decodes").block() {
                let block = Block::decode(block).expect("decodes");
                if block.core.epoch == machine.config().epoch {
                    oracle.insert(block.reference(), &block.parents);
                }
                let here = |e: &Evidence| e.kind == EvidenceKind::Equivocation && e.a.core.epoch == block.core.epoch;
                let good = |e: &&Evidence| here(e) && is_signed(&e.a) && is_signed(&e.b);
                for evidence in block.extras.evidence.iter().filter(good) {
                    oracle.accuse(block.reference(), evidence.a.core.author);
                }
            }
        }
        let schedule = machine.schedule();
        let candidates = |round| schedule.candidates(machine.committee(), round);
        let expected = oracle.follow(schedule.rules(), &candidates).commits;
        let of_epoch = |commit: &&Arc<Commit>| commit.header.epoch == machine.config().epoch;
        let delivered: Vec<_> = self.nodes[node].delivered.values().filter(of_epoch).collect();
        // The blocks here may not decide yet what a quorum has certified.
        for commit in delivered.iter().skip(expected.len()) {
            let certified = self.nodes[node].blocks.get(&commit.header.leader).is_some_and(|(_, checked)| !checked);
            assert!(certified, "node {node} has more commits than the oracle");
        }
        for (commit, expected) in delivered.into_iter().zip(expected) {
            let mut blocks: Vec<BlockRef> = commit.blocks.iter().map(|b| b.block).collect();
            blocks.sort_unstable();
            assert_eq!((commit.header.leader, blocks), (expected.leader, expected.blocks), "node {node}");
            assert_eq!(commit.header.schedule_digest, expected.schedule_digest, "node {node}");
        }
    }

    pub(crate) fn mode(&self, node: usize) -> Option<Mode> {
        self.nodes[node].machine.as_ref().map(Machine::mode)
    }

    pub(crate) fn status(&self, node: usize) -> crate::status::Status {
        self.nodes[node].machine.as_ref().expect("up").status()
    }

    /// Takes a snapshot as a driver would, with the log position it belongs to.
    pub(crate) fn take_snapshot(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        let snapshot = state.machine.as_ref().expect("up").snapshot();
        assert_eq!(ConsensusSnapshot::decode(&snapshot.encode()).expect("decodes"), snapshot);
        state.log.push(Record::Snapshot(Box::new(snapshot.clone())).encode());
        state.snapshot = Some((snapshot, state.log.len()));
    }
}
