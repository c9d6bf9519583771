//! The state machine: one event in, effects out.
//!
//! Here stand the state, the dispatch of events, timers, and what the machine tells about itself. The parts of its
//! behaviour stand in `accept` (blocks in, commits out), `propose`, `serve`, `fetch`, `catchup`, `probe` and `recover`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use aurigraph_ledger::hash::Hash;

use crate::anchor::Anchor;
use crate::batches::Batches;
use crate::block::{Block, BlockCore};
use crate::catchup::CatchUp;
use crate::checkpoint::Checkpoints;
use crate::clock::ThresholdClock;
use crate::closing::Closing;
use crate::commit::{Commit, CommitHeader, genesis_commit};
use crate::committee::{self, Committee, StakeSet};
use crate::committer::Committer;
use crate::config::{Config, ConfigError};
use crate::epoch::EpochTally;
use crate::event::{Effect, Event, HaltReason, Offence};
use crate::evidence::EvidencePool;
use crate::fetch::Fetcher;
use crate::flush::Linearizer;
use crate::message::{Lane, Message, pushed_block};
use crate::novelty::Novelty;
use crate::probe::Probe;
use crate::propose::Proposer;
use crate::quota::Bucket;
use crate::record::Record;
use crate::schedule::Schedule;
use crate::snapshot::ConsensusSnapshot;
use crate::status::{Counters, Mode, PeerStatus, Status};
use crate::store::Store;
use crate::suspend::{Incoming, Suspended};
use crate::types::{
    AuthorIdx, BlockRef, CkptRef, CommitIndex, CommitRef, LeaderSlot, Lsn, Now, RequestId, Round, Ticket, TimeMs,
};
use crate::validity::EpochContext;

pub use crate::recover::{RecoverError, Recovery};

/// Digests of own commits that are kept to compare votes with.
const RECENT_COMMITS: usize = 1_024;

/// What is known of a validator.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) connected: bool,
    /// Newest round it has pushed or told of, checked or not.
    pub(crate) claimed_round: Round,
    /// Newest commit it has told of, checked or not.
    pub(crate) claimed_commit: CommitIndex,
    /// Newest checked commit vote.
    pub(crate) vote: CommitRef,
    /// Newest checked attestation.
    pub(crate) attestation: CkptRef,
    /// Its newest checked block with its bytes, also where garbage collection has passed it.
    pub(crate) newest: Option<(BlockRef, Arc<[u8]>)>,
    /// Requests served in the current second.
    pub(crate) served: u32,
    /// The second that `served` counts.
    pub(crate) served_second: TimeMs,
    /// What it may have checked.
    pub(crate) bucket: Bucket,
}

/// A signature check in flight.
#[derive(Debug)]
pub(crate) enum Checking {
    /// A block on its way in; `requested` if it is needed by a block that is here.
    Block { incoming: Incoming, requested: bool },
    /// An own block that a peer returned to the probe.
    Probe { peer: AuthorIdx, block: BlockRef },
    /// A block that is here already; its signature came in a certified range.
    Late(BlockRef),
    /// A block that was pushed while catching up: only what it says of its author counts.
    Vote(Box<BlockCore>),
    /// A vote for a range of commits.
    RangeVote { request: RequestId },
    /// A core of the proof that a peer is in this round.
    Proof { peer: AuthorIdx, nonce: u64, round: Round },
    /// A core of an epoch certificate that a peer sent.
    EpochCert { peer: AuthorIdx },
    /// One of the two statements of evidence in a block.
    Evidence { proof: Hash },
}

/// The state machine.
#[derive(Debug)]
pub struct Machine {
    pub(crate) config: Config,
    pub(crate) ctx: EpochContext,
    pub(crate) schedule: Schedule,
    pub(crate) store: Store,
    pub(crate) clock: ThresholdClock,
    pub(crate) committer: Committer,
    pub(crate) linearizer: Linearizer,
    pub(crate) tally: EpochTally,
    pub(crate) closing: Closing,
    pub(crate) suspended: Suspended,
    pub(crate) batches: Batches,
    pub(crate) fetcher: Fetcher,
    pub(crate) novelty: Novelty,
    pub(crate) catch_up: CatchUp,
    pub(crate) probe: Probe,
    pub(crate) proposer: Proposer,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) peers: Vec<Peer>,
    pub(crate) checking: BTreeMap<Ticket, Checking>,
    pub(crate) checking_refs: BTreeSet<BlockRef>,
    /// Blocks from the future, by the wall time at which they are due.
    pub(crate) held: BTreeMap<(TimeMs, BlockRef), Incoming>,
    pub(crate) evidence: EvidencePool,
    /// Authors whose watermarks fell.
    pub(crate) fallen: BTreeSet<AuthorIdx>,
    /// Accepted blocks with payload that no commit holds.
    pub(crate) open_payload: BTreeSet<BlockRef>,
    /// Digests of the newest own commits.
    pub(crate) recent_commits: BTreeMap<CommitIndex, Hash>,
    /// Commits after the newest own one that a quorum certifies, consecutive: they are taken, not decided.
    pub(crate) certified: VecDeque<CommitHeader>,
    /// Accepted blocks whose signatures were not checked.
    pub(crate) unchecked: BTreeSet<BlockRef>,
    /// When the first block of the newest rounds was accepted.
    pub(crate) first_seen: BTreeMap<Round, TimeMs>,
    /// The newest anchor, and the states of the newest ones.
    pub(crate) anchor: Anchor,
    pub(crate) anchors: VecDeque<(CommitIndex, Arc<[u8]>)>,
    pub(crate) executed_index: CommitIndex,
    /// Commits up to here were executed in an earlier process life: they are not delivered again.
    pub(crate) delivered_before: CommitIndex,
    pub(crate) last_payload_commit: CommitIndex,
    /// Authors whose commit votes differ from what this node has computed.
    pub(crate) dissenters: StakeSet,
    pub(crate) observer: bool,
    pub(crate) halted: bool,
    /// This process started in this epoch, from a log.
    pub(crate) is_recovered: bool,
    /// The log is being replayed: nothing is appended or sent.
    pub(crate) replaying: bool,
    pub(crate) replayed: VecDeque<Arc<Commit>>,
    pub(crate) counters: Counters,
    pub(crate) now: Now,
    pub(crate) out: Vec<Effect>,
    armed_ms: Option<TimeMs>,
    tickets: Ticket,
    lsn: Lsn,
}

impl Machine {
    /// A machine in a directory that was just initialised for the chain. The effects append `Floor { round: 0 }`.
    ///
    /// # Errors
    /// If the configuration cannot run.
    pub fn new(config: Config, now: Now) -> Result<(Self, Vec<Effect>), ConfigError> {
        let mut machine = Self::empty(config, now)?;
        machine.append(Record::Floor { round: 0 }, true);
        machine.start_probe();
        machine.settle();
        let effects = std::mem::take(&mut machine.out);
        Ok((machine, effects))
    }

    /// A machine that knows nothing but its configuration.
    pub(crate) fn empty(config: Config, now: Now) -> Result<Self, ConfigError> {
        let committee = committee::check(&config)?;
        let genesis = genesis_commit(&config.chain_id, config.epoch, &config.epoch_seed, config.base);
        let peer = Peer {
            connected: false,
            claimed_round: 0,
            claimed_commit: 0,
            vote: genesis,
            attestation: CkptRef::default(),
            newest: None,
            served: 0,
            served_second: 0,
            bucket: Bucket::default(),
        };
        let (peers, tally) = (vec![peer; committee.len()], EpochTally::new(committee.len()));
        Ok(Self {
            ctx: EpochContext::new(&config, committee),
            schedule: Schedule::new(&config),
            store: Store::new(0),
            clock: ThresholdClock::new(now.mono_ms),
            committer: Committer::new(LeaderSlot::default()),
            linearizer: Linearizer::new(
                config.epoch,
                config.version,
                config.params.gc_depth,
                genesis,
                config.base.timestamp_ms,
            ),
            tally,
            closing: Closing::default(),
            suspended: Suspended::default(),
            batches: Batches::new(config.limits.known_batches),
            fetcher: Fetcher::default(),
            novelty: Novelty::default(),
            catch_up: CatchUp::default(),
            probe: Probe::default(),
            proposer: Proposer::new(config.pacing, now.mono_ms),
            checkpoints: Checkpoints::default(),
            peers,
            checking: BTreeMap::new(),
            checking_refs: BTreeSet::new(),
            held: BTreeMap::new(),
            evidence: EvidencePool::default(),
            fallen: BTreeSet::new(),
            open_payload: BTreeSet::new(),
            recent_commits: BTreeMap::from([(genesis.index, genesis.digest)]),
            certified: VecDeque::new(),
            unchecked: BTreeSet::new(),
            first_seen: BTreeMap::new(),
            anchor: Anchor::default(),
            anchors: VecDeque::new(),
            executed_index: 0,
            delivered_before: 0,
            last_payload_commit: 0,
            dissenters: StakeSet::default(),
            observer: config.own.is_none(),
            halted: false,
            is_recovered: false,
            replaying: false,
            replayed: VecDeque::new(),
            counters: Counters::default(),
            now,
            out: Vec::new(),
            armed_ms: None,
            tickets: 0,
            lsn: 0,
            config,
        })
    }

    /// What runs on over epochs: numbers that answers still under way carry.
    pub(crate) fn carry_over(&mut self, before: &Self) {
        self.tickets = before.tickets;
        self.lsn = before.lsn;
        self.counters = before.counters;
        self.fetcher.skip_requests(&before.fetcher);
    }

    /// Takes one event. Deterministic: the same events at the same times give the same effects.
    pub fn step(&mut self, now: Now, event: Event) -> Vec<Effect> {
        self.stepped(now, |machine| machine.dispatch(event))
    }

    /// [`Machine::step`] with [`Event::Received`], for a driver that does not own the message's bytes.
    pub fn receive(&mut self, now: Now, peer: AuthorIdx, bytes: &[u8]) -> Vec<Effect> {
        self.stepped(now, |machine| machine.on_received(peer, bytes))
    }

    fn stepped(&mut self, now: Now, take: impl FnOnce(&mut Self)) -> Vec<Effect> {
        if self.halted {
            return Vec::new();
        }
        self.now = Now { mono_ms: now.mono_ms.max(self.now.mono_ms), wall_ms: now.wall_ms };
        take(self);
        self.settle();
        std::mem::take(&mut self.out)
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Received { peer, bytes } => self.on_received(peer, &bytes),
            Event::SigChecked { ticket, ok } => self.on_sig_checked(ticket, ok),
            Event::Signed { ticket, signature } => self.on_signed(ticket, signature),
            Event::SignFailed { ticket } => self.on_sign_failed(ticket),
            Event::Durable { lsn } => self.on_durable(lsn),
            Event::BatchSealed { batch } => self.on_batch_sealed(batch),
            Event::BatchStored { digest, len } => self.on_batch_stored(digest, len),
            Event::BatchFetchFailed { digest } => self.batches.failed(&digest, self.now.mono_ms),
            Event::FetchesLost => self.batches.ask_again(self.now.mono_ms),
            Event::Executed { commit_index, checkpoint } => {
                self.executed_index = self.executed_index.max(commit_index);
                if let Some(newer) =
                    checkpoint.filter(|c| c.seq > self.proposer.attestation.seq && !self.has_diverged())
                {
                    self.proposer.attestation = newer;
                }
            }
            Event::SnapshotSync { goes_on } => self.on_snapshot_sync(goes_on),
            Event::PeerUp { peer } => self.on_peer_up(peer),
            Event::PeerDown { peer } => self.on_peer_down(peer),
            // The driver's timer has gone off, perhaps a little early: it is set anew.
            Event::Tick => self.armed_ms = None,
        }
    }

    fn on_received(&mut self, peer: AuthorIdx, bytes: &[u8]) {
        if self.config.own == Some(peer) {
            return;
        }
        // Nearly all messages are blocks, and nearly all bytes: they are not copied to be looked at.
        if let Some(block) = pushed_block(bytes) {
            return self.on_pushed(peer, block);
        }
        let Ok(message) = Message::decode(bytes) else {
            return self.charge(peer, Offence::Malformed);
        };
        // Peers with an index beyond the committee's are observers, and validators of another epoch: they are served, and
        // tell of other epochs.
        let member = self.ctx.committee.contains(peer);
        match message {
            Message::Block(block) => self.on_pushed(peer, &block),
            Message::FetchRequest { epoch, request, ancestors_above, refs } => {
                self.on_fetch_request(peer, epoch, request, ancestors_above, refs);
            }
            Message::CommitRangeRequest { request, from, count } => self.on_range_request(peer, request, from, count),
            Message::EpochCertRequest { epoch } => self.on_cert_request(peer, epoch),
            Message::EpochCert(cert) => self.on_epoch_cert(peer, cert),
            Message::ProbeRequest { epoch, .. } if epoch != self.config.epoch => {
                self.on_other_epoch(peer, epoch, bytes);
            }
            other if member => self.on_member(peer, other),
            _ => {}
        }
    }

    /// What only validators of this epoch say.
    fn on_member(&mut self, peer: AuthorIdx, message: Message) {
        match message {
            Message::FetchReply { request, commit_index, blocks } => {
                self.note_claim(peer, 0, commit_index);
                self.on_fetch_reply(peer, request, &blocks);
            }
            Message::ProbeRequest { nonce, .. } => self.on_probe_request(peer, nonce),
            Message::ProbeReply { epoch, nonce, commit_index, round, newest } => {
                self.note_claim(peer, 0, commit_index);
                if epoch == self.config.epoch {
                    self.on_probe_reply(peer, nonce, round, newest.as_deref());
                }
            }
            Message::ProofRequest { nonce } => self.on_proof_request(peer, nonce),
            Message::ProofReply(proof) => self.on_proof_reply(peer, proof),
            Message::CommitRangeReply(range) => {
                self.note_claim(peer, 0, range.commit_index);
                self.on_range_reply(peer, range);
            }
            _ => {}
        }
    }

    fn on_peer_up(&mut self, peer: AuthorIdx) {
        let own = self.config.own;
        let Some(state) = self.peers.get_mut(usize::from(peer)).filter(|_| own != Some(peer)) else { return };
        state.connected = true;
        self.greet(peer);
        self.probe_peer(peer);
    }

    fn on_peer_down(&mut self, peer: AuthorIdx) {
        if let Some(state) = self.peers.get_mut(usize::from(peer)) {
            state.connected = false;
        }
        self.fetcher.peer_down(peer, self.now.mono_ms);
        self.catch_up.peer_down(peer);
    }

    /// Everything that may follow from any event: what time has brought, commits, an own block, requests, the timer.
    pub(crate) fn settle(&mut self) {
        self.release_held();
        self.try_commit();
        self.tend_checkpoints();
        self.tend_epoch();
        self.tend_catch_up();
        self.check_late();
        self.tend_probe();
        self.tend_proposal();
        self.tend_novelty();
        self.tend_fetches();
        self.set_timer();
    }

    fn set_timer(&mut self) {
        if self.halted {
            return;
        }
        let now = self.now.mono_ms;
        let held = self.held.keys().next().map(|(due, _)| now.saturating_add(due.saturating_sub(self.now.wall_ms)));
        let candidates = [
            self.proposal_deadline(),
            self.fetcher.next_due_ms(),
            self.novelty.next_due_ms(),
            self.batches.next_due_ms(),
            self.catch_up.next_due_ms(),
            self.probe.next_due_ms(),
            self.epoch_deadline(),
            held,
        ];
        // Something that is overdue and still not possible waits for an event, or for the next scan.
        let due = |at: TimeMs| if at > now { at } else { now.saturating_add(self.config.pacing.scan_ms) };
        let next = candidates.into_iter().flatten().map(due).min();
        let armed = self.armed_ms.filter(|at| *at > now);
        if let Some(at) = next.filter(|at| armed.is_none_or(|armed| *at < armed)) {
            self.armed_ms = Some(at);
            self.out.push(Effect::SetTimer { at_mono_ms: at });
        }
    }

    /// The newest commit: cheaper than [`Machine::status`].
    #[must_use]
    pub const fn last_commit(&self) -> CommitRef {
        self.linearizer.last_ref()
    }

    /// The newest decided leader slot.
    #[must_use]
    pub const fn last_decided(&self) -> LeaderSlot {
        self.committer.last_decided()
    }

    /// The machine's state at a glance.
    #[must_use]
    pub fn status(&self) -> Status {
        let last = self.linearizer.last();
        Status {
            mode: self.mode(),
            epoch: self.epoch_status(),
            round: self.clock.round(),
            own_round: self.proposer.own_round(),
            signing: self.signing(),
            last_commit: self.linearizer.last_ref(),
            last_leader: last.map(|header| header.leader),
            last_commit_ms: last.map_or(0, |header| header.timestamp_ms),
            last_decided: self.committer.last_decided(),
            quorum_index: self.quorum_index(),
            awaits_snapshot: self.awaits_snapshot(),
            snapshot_least: self.snapshot_least(),
            executed_index: self.executed_index,
            checkpoint: self.proposer.attestation,
            certified: self.checkpoints.certified(),
            divergence: self.checkpoints.divergence(),
            gc_round: self.store.gc_round(),
            undecided: self.committer.undecided(),
            blocks: self.store.len(),
            suspended: self.suspended.len(),
            wanted: self.fetcher.wanted(),
            deferred: self.novelty.len(),
            wanted_batches: self.batches.wanted(),
            pending_batches: self.proposer.pending.len(),
            pending_evidence: self.evidence.pending(),
            shunned: self.ctx.committee.authors().filter(|author| self.is_shunned(*author)).collect(),
            t_leader_ms: self.proposer.timeout.get(),
            schedule: self.schedule.status(self.linearizer.last_ref().index),
            delivered: self.tally.delivered.clone(),
            peers: self.ctx.committee.authors().map(|author| self.peer_status(author)).collect(),
            counters: self.counters,
        }
    }

    fn peer_status(&self, author: AuthorIdx) -> PeerStatus {
        let peer = &self.peers[usize::from(author)];
        let own = self.config.own == Some(author);
        let lowest = self.store.gc_round();
        PeerStatus {
            author,
            connected: own || peer.connected,
            accepted_round: self.store.last_by_author(author, lowest, Round::MAX).map_or(0, |block| block.round),
            claimed_round: if own { self.proposer.own_round() } else { peer.claimed_round },
            commit_vote: if own { self.linearizer.last_ref() } else { peer.vote },
        }
    }

    /// What the machine is doing.
    #[must_use]
    pub fn mode(&self) -> Mode {
        if self.halted {
            Mode::Halted
        } else if self.catch_up.is_active() {
            Mode::CatchUp
        } else if self.observer {
            Mode::Observer
        } else if self.probe.is_waiting() {
            Mode::Probing
        } else {
            Mode::Active
        }
    }

    /// The consensus state between two steps, for a [`Record::Snapshot`] that the driver appends.
    #[must_use]
    pub fn snapshot(&self) -> ConsensusSnapshot {
        ConsensusSnapshot {
            chain_id: self.config.chain_id,
            epoch: self.config.epoch,
            last_commit: self.linearizer.last().cloned(),
            gc_round: self.linearizer.gc_round(),
            last_decided: self.committer.last_decided(),
            committed: self.linearizer.committed().clone(),
            slots: self.linearizer.slots().clone(),
            delivered: self.linearizer.delivered().clone(),
            own_last: self.proposer.last,
            floor: self.proposer.floor,
            // The log holds an own block before the store does.
            highest_round: self.store.highest_round().max(self.proposer.appending_round()),
            reputation: self.schedule.reputation().clone(),
            tally: self.tally.clone(),
            proven: self.linearizer.proven().clone(),
            agreement: self.linearizer.agreement().clone(),
            evidence: self.evidence.state(),
            anchor: self.anchor,
        }
    }

    /// An accepted block that is still in memory: its canonical bytes.
    #[must_use]
    pub fn block_bytes(&self, block: &BlockRef) -> Option<Arc<[u8]>> {
        self.store.get(block).map(|stored| stored.bytes.clone())
    }

    /// The accepted blocks that are still in memory, by round.
    pub fn blocks(&self) -> impl Iterator<Item = (BlockRef, &Block)> + '_ {
        self.store.iter().map(|(reference, stored)| (reference, stored.block.as_ref()))
    }

    /// The leaders of a round.
    #[must_use]
    pub fn leaders(&self, round: Round) -> Vec<AuthorIdx> {
        self.schedule.leaders(&self.ctx.committee, round)
    }

    /// The leader schedule.
    #[must_use]
    pub const fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Stakes and thresholds.
    #[must_use]
    pub const fn committee(&self) -> &Committee {
        &self.ctx.committee
    }

    /// The newest commit that validators with a quorum of stake vote for.
    pub(crate) fn quorum_index(&self) -> CommitIndex {
        let own = self.linearizer.last_ref().index;
        let votes = self.ctx.committee.authors().map(|author| {
            let vote = if self.config.own == Some(author) { own } else { self.peers[usize::from(author)].vote.index };
            (vote, author)
        });
        highest_with(&self.ctx.committee, votes.collect(), self.ctx.committee.quorum())
    }

    pub(crate) fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        self.tickets
    }

    pub(crate) fn append(&mut self, record: Record, need_fsync: bool) -> Lsn {
        self.lsn += 1;
        if !self.replaying {
            self.out.push(Effect::Append { lsn: self.lsn, need_fsync, record });
        }
        self.lsn
    }

    pub(crate) fn send(&mut self, to: AuthorIdx, message: &Message) {
        let lane: Lane = message.lane();
        self.out.push(Effect::Send { to, lane, bytes: message.encode().into() });
    }

    pub(crate) fn charge(&mut self, peer: AuthorIdx, offence: Offence) {
        self.out.push(Effect::Charge { peer, offence });
    }

    pub(crate) fn halt(&mut self, reason: HaltReason) {
        if !self.halted {
            self.halted = true;
            self.out.push(Effect::Halt(Box::new(reason)));
        }
    }

    pub(crate) fn connected(&self, peer: AuthorIdx) -> bool {
        self.peers.get(usize::from(peer)).is_some_and(|state| state.connected)
    }

    /// Connected validators but this one, ascending.
    pub(crate) fn connected_peers(&self) -> Vec<AuthorIdx> {
        self.ctx.committee.authors().filter(|author| self.connected(*author)).collect()
    }

    pub(crate) fn note_recent_commit(&mut self, commit: CommitRef) {
        self.recent_commits.insert(commit.index, commit.digest);
        while self.recent_commits.len() > RECENT_COMMITS {
            self.recent_commits.pop_first();
        }
    }
}

/// The highest number that authors with this stake reach.
pub(crate) fn highest_with(committee: &Committee, mut values: Vec<(u64, AuthorIdx)>, needed: u64) -> u64 {
    values.sort_unstable_by(|a, b| b.cmp(a));
    let mut stake = 0;
    for (value, author) in values {
        stake += committee.stake(author);
        if stake >= needed {
            return value;
        }
    }
    0
}
