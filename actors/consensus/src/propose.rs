//! Own blocks: when to build one, on which parents, with which payload, and its way to the network (consensus.md 4,
//! 9.1).
//!
//! Built -> signed -> in the log -> durable -> in the own store and on its way to the peers. One at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use aurigraph_ledger::hash::Hash;

use crate::block::{Block, BlockCore, Extras, parents_root, payload_root};
use crate::closing::CLOSING_DELAY_MS;
use crate::committee::StakeSet;
use crate::config::{BLOCK_VERSION, MAX_BATCH_REFS, MAX_PAYLOAD_BYTES, Pacing};
use crate::event::Effect;
use crate::machine::Machine;
use crate::message::{Lane, encode_block};
use crate::mutation::{Mutation, has};
use crate::pacing::LeaderTimeout;
use crate::record::Record;
use crate::suspend::Incoming;
use crate::types::{AuthorIdx, BatchRef, BlockRef, CkptRef, CommitRef, Lsn, Round, Signature, Ticket, TimeMs};

/// A signer that failed is asked again after this long.
const SIGN_RETRY_MS: TimeMs = 200;

/// Rounds whose leaders are remembered, besides the newest.
const KNOWN_ROUNDS: usize = 4;

/// A durable own block.
#[derive(Debug, Clone)]
pub(crate) struct OwnBlock {
    pub(crate) reference: BlockRef,
    pub(crate) block: Arc<Block>,
    pub(crate) bytes: Arc<[u8]>,
}

/// An own block on its way to being durable.
#[derive(Debug)]
enum InFlight {
    Signing { ticket: Ticket, unsigned: Box<Unsigned>, retry_ms: Option<TimeMs> },
    Appending { lsn: Lsn, own: OwnBlock },
}

#[derive(Debug)]
struct Unsigned {
    core: BlockCore,
    parents: Vec<BlockRef>,
    batches: Vec<BatchRef>,
    extras: Extras,
}

/// What makes a block be built now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// The round is behind the clock: build without waiting.
    Fill,
    /// Leader and certificates are here.
    Ready,
    /// The leader time-out has expired.
    Timeout,
}

/// Leaders that were waited for lately: whoever waits asks with every event, and each answer is some hashes.
#[derive(Debug, Default)]
struct KnownLeaders {
    /// [`Schedule::turns`](crate::schedule::Schedule::turns) when they were drawn.
    turns: u64,
    rounds: BTreeMap<Round, Vec<AuthorIdx>>,
}

/// The state of proposing.
#[derive(Debug)]
pub struct Proposer {
    /// The newest durable own block.
    pub(crate) last: Option<BlockRef>,
    /// The same with its bytes, unless it lies too far back in the log.
    pub(crate) own: Option<OwnBlock>,
    /// Only rounds above may be signed.
    pub(crate) floor: Round,
    /// The highest round of an own block that was given to the log.
    pub(crate) signed_round: Round,
    /// Own blocks of the log that perhaps never left, and must not any more.
    pub(crate) withheld: BTreeSet<BlockRef>,
    /// Rounds below may be skipped: catch-up has just passed them.
    pub(crate) skip_to: Round,
    pub(crate) pending: VecDeque<BatchRef>,
    pub(crate) attestation: CkptRef,
    pub(crate) timeout: LeaderTimeout,
    pending_digests: BTreeSet<Hash>,
    /// Own batches in own blocks that are not delivered yet.
    proposed: BTreeSet<Hash>,
    in_flight: Option<InFlight>,
    leaders: KnownLeaders,
    /// When the newest block that filled no gap was built.
    built_ms: Option<TimeMs>,
    sent_ms: TimeMs,
}

impl Proposer {
    pub(crate) fn new(pacing: Pacing, now_ms: TimeMs) -> Self {
        Self {
            last: None,
            own: None,
            floor: 0,
            signed_round: 0,
            withheld: BTreeSet::new(),
            skip_to: 0,
            pending: VecDeque::new(),
            attestation: CkptRef::default(),
            timeout: LeaderTimeout::new(pacing),
            pending_digests: BTreeSet::new(),
            proposed: BTreeSet::new(),
            in_flight: None,
            leaders: KnownLeaders::default(),
            built_ms: None,
            sent_ms: now_ms,
        }
    }

    /// Round of the newest durable own block; 0 before the first.
    pub(crate) fn own_round(&self) -> Round {
        self.last.map_or(0, |last| last.round)
    }

    pub(crate) fn is_in_flight(&self, block: &BlockRef) -> bool {
        matches!(&self.in_flight, Some(InFlight::Appending { own, .. }) if own.reference == *block)
    }

    /// Round of the own block that is in the log but not yet in the store; 0 if there is none.
    pub(crate) fn appending_round(&self) -> Round {
        match &self.in_flight {
            Some(InFlight::Appending { own, .. }) => own.reference.round,
            _ => 0,
        }
    }

    /// The newest own block of the log perhaps never left, and another process may have signed its round: it does not
    /// leave now, and no block builds on it.
    pub(crate) fn withhold_last(&mut self) {
        self.withheld.extend(self.last.take());
        self.own = None;
    }

    /// What is on its way stays here: the log became doubtful. Its payload goes into a later block.
    pub(crate) fn drop_in_flight(&mut self) {
        let batches = match self.in_flight.take() {
            Some(InFlight::Signing { unsigned, .. }) => unsigned.batches,
            Some(InFlight::Appending { own, .. }) => own.block.batches.clone(),
            None => return,
        };
        self.requeue(&batches);
    }

    /// A batch was delivered: it needs no block any more.
    pub(crate) fn delivered(&mut self, batch: &Hash) {
        self.proposed.remove(batch);
        if self.pending_digests.remove(batch) {
            self.pending.retain(|pending| pending.digest != *batch);
        }
    }

    /// An own block fell below garbage collection: what it carried and nobody delivered is proposed again, first.
    pub(crate) fn requeue(&mut self, batches: &[BatchRef]) {
        for batch in batches.iter().rev() {
            if self.proposed.remove(&batch.digest) && self.pending_digests.insert(batch.digest) {
                self.pending.push_front(*batch);
            }
        }
    }

    /// An own block from the log carries these batches.
    pub(crate) fn note_proposed(&mut self, batches: &[BatchRef]) {
        self.proposed.extend(batches.iter().map(|batch| batch.digest));
    }

    fn seal(&mut self, batch: BatchRef) {
        if !self.proposed.contains(&batch.digest) && self.pending_digests.insert(batch.digest) {
            self.pending.push_back(batch);
        }
    }

    /// The next payload, within the limits of a block.
    fn take_payload(&mut self) -> Vec<BatchRef> {
        let mut taken: Vec<BatchRef> = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.pending.front().copied() {
            bytes += u64::from(next.len);
            if taken.len() == MAX_BATCH_REFS || bytes > MAX_PAYLOAD_BYTES {
                break;
            }
            self.pending.pop_front();
            self.pending_digests.remove(&next.digest);
            self.proposed.insert(next.digest);
            taken.push(next);
        }
        taken
    }
}

impl Machine {
    pub(crate) fn on_batch_sealed(&mut self, batch: BatchRef) {
        self.on_batch_stored(batch.digest, batch.len);
        let fits = u64::from(batch.len) <= MAX_PAYLOAD_BYTES;
        if fits && self.config.own.is_some() && !self.linearizer.is_delivered(&batch.digest) {
            self.proposer.seal(batch);
        }
    }

    /// Sends the own newest block to a peer whose links have just come up.
    pub(crate) fn greet(&mut self, peer: AuthorIdx) {
        if let Some(own) = &self.proposer.own {
            let bytes = encode_block(&own.bytes).into();
            self.out.push(Effect::Send { to: peer, lane: Lane::Control, bytes });
        }
    }

    /// Builds, retries or sends again, as time and the DAG allow.
    pub(crate) fn tend_proposal(&mut self) {
        if self.halted {
            return;
        }
        self.retry_signing();
        if let Some((round, reason)) = self.ready() {
            self.build(round, reason);
        }
        let again = self.proposer.sent_ms.saturating_add(self.config.pacing.rebroadcast_ms);
        if self.now.mono_ms >= again && self.proposer.own.is_some() {
            self.broadcast_own();
        }
    }

    pub(crate) fn broadcast_own(&mut self) {
        self.proposer.sent_ms = self.now.mono_ms;
        if let Some(own) = self.proposer.own.as_ref().filter(|_| self.peers.len() > 1) {
            let bytes = encode_block(&own.bytes).into();
            self.out.push(Effect::Broadcast { block: own.reference, bytes });
        }
    }

    /// When `tend_proposal` may have something to do next.
    pub(crate) fn proposal_deadline(&self) -> Option<TimeMs> {
        let mut deadlines = Vec::new();
        if self.proposer.own.is_some() && self.peers.len() > 1 {
            deadlines.push(self.proposer.sent_ms.saturating_add(self.config.pacing.rebroadcast_ms));
        }
        match &self.proposer.in_flight {
            Some(InFlight::Signing { retry_ms, .. }) => deadlines.extend(*retry_ms),
            Some(InFlight::Appending { .. }) => {}
            None if self.may_sign() => {
                let waited = self.clock.entered_ms();
                let timeout = self.proposer.timeout.get();
                let delay = self.proposer.built_ms.map(|built| built.saturating_add(self.min_delay()));
                let half = (self.config.params.leaders_per_round > 1).then(|| waited.saturating_add(timeout / 2));
                let times = [Some(waited.saturating_add(timeout)), half, delay];
                deadlines.extend(times.into_iter().flatten().filter(|at| *at > self.now.mono_ms));
            }
            None => {}
        }
        deadlines.into_iter().min()
    }

    /// Whether this node may sign at all now.
    fn may_sign(&self) -> bool {
        let own = self.config.own.filter(|_| !self.observer && !self.halted && !self.has_ended());
        let Some(own) = own.filter(|_| !self.catch_up.is_active() && !self.probe.is_waiting()) else { return false };
        let mut stake = self.ctx.committee.stake(own);
        stake += self.connected_peers().into_iter().map(|peer| self.ctx.committee.stake(peer)).sum::<u64>();
        stake >= self.ctx.committee.quorum()
    }

    /// The round to build now, if any (consensus.md 4.2, 4.3).
    fn ready(&mut self) -> Option<(Round, Reason)> {
        if self.proposer.in_flight.is_some() || !self.may_sign() {
            return None;
        }
        let clock = self.clock.round();
        // Strict form of J2: rounds are skipped after catch-up and up to the floor only, and never above the clock. Rounds
        // whose parents are collected cannot be built, and nothing could order or count them any more.
        let collected = if self.store.gc_round() == 0 { 0 } else { self.store.gc_round().saturating_add(2) };
        let skip_to = if has(Mutation::JumpRounds) { clock } else { self.proposer.skip_to.min(clock) };
        let skipped = skip_to.max(collected);
        let floor = self.proposer.floor.checked_add(1)?;
        let round = self.proposer.own_round().checked_add(1)?.max(skipped).max(floor);
        if round > clock {
            return None;
        }
        if self.closed_at().is_some() {
            return self.ready_to_close(clock);
        }
        if round < clock {
            return Some((round, Reason::Fill));
        }
        let now = self.now.mono_ms;
        if self.proposer.built_ms.is_some_and(|built| now < built.saturating_add(self.min_delay())) {
            return None;
        }
        let waited = now.saturating_sub(self.clock.entered_ms());
        let timeout = self.proposer.timeout.get();
        if self.leaders_satisfied(round, waited >= timeout / 2) {
            return Some((round, Reason::Ready));
        }
        (waited >= timeout).then_some((round, Reason::Timeout))
    }

    /// After the last commit blocks go on at a fixed rate, to carry the final attestation: what this node has come to goes
    /// out at once.
    fn ready_to_close(&self, clock: Round) -> Option<(Round, Reason)> {
        let due = self.proposer.built_ms.is_none_or(|built| built.saturating_add(CLOSING_DELAY_MS) <= self.now.mono_ms);
        (due || self.owes_final_attestation()).then_some((clock, Reason::Ready))
    }

    /// Busy while there is payload to order, own or other; otherwise idle. Seeing is entering (J3): when another has
    /// built the round already, idling is over. So idle validators move together at the pace of the first, and one
    /// that gets a batch need not wait for the others to wake up.
    fn min_delay(&self) -> TimeMs {
        if self.closed_at().is_some() {
            return CLOSING_DELAY_MS;
        }
        let others = |reference: BlockRef| Some(reference.author) != self.config.own;
        let busy = !self.proposer.pending.is_empty()
            || self.evidence.pending() > 0
            || !self.open_payload.is_empty()
            || self.store.round(self.clock.round()).any(|(reference, _)| others(reference));
        if busy { self.config.pacing.min_delay_busy_ms } else { self.config.pacing.min_delay_idle_ms }
    }

    /// L(r-1) and C(r-2) of consensus.md 4.3; after half of the time-out for the first leader alone. An author that own
    /// blocks leave out is not waited for.
    fn leaders_satisfied(&mut self, round: Round, first_only: bool) -> bool {
        let taken = if first_only { 1 } else { usize::MAX };
        if round >= 2 {
            let leaders = self.leaders_of(round - 1);
            let here =
                |leader: &AuthorIdx| self.store.slot(round - 1, *leader).next().is_some() || self.is_shunned(*leader);
            if !leaders.iter().take(taken).all(here) {
                return false;
            }
        }
        if round < 3 || has(Mutation::NoCertificateWait) {
            return true;
        }
        self.leaders_of(round - 2).iter().take(taken).all(|leader| self.certified(round, *leader))
    }

    /// The leaders of a round that is waited for.
    fn leaders_of(&mut self, round: Round) -> Vec<AuthorIdx> {
        let (known, turns) = (&mut self.proposer.leaders, self.schedule.turns());
        if known.turns != turns {
            *known = KnownLeaders { turns, rounds: BTreeMap::new() };
        }
        if known.rounds.len() > KNOWN_ROUNDS {
            known.rounds.pop_first();
        }
        let draw = || self.schedule.leaders(&self.ctx.committee, round);
        known.rounds.entry(round).or_insert_with(draw).clone()
    }

    /// Whether the version of the leader's slot two rounds before that has most votes is certified by the blocks of the
    /// round before, or cannot be any more.
    fn certified(&self, round: Round, leader: AuthorIdx) -> bool {
        let committee = &self.ctx.committee;
        let mut votes: BTreeMap<Hash, StakeSet> = BTreeMap::new();
        let mut ballots: Vec<(AuthorIdx, Option<Hash>)> = Vec::new();
        for (voter, stored) in self.store.round(round - 1) {
            let parents = &stored.block.parents;
            let vote = parents.iter().find(|p| p.round == round - 2 && p.author == leader).map(|p| p.digest);
            if let Some(version) = vote {
                votes.entry(version).or_default().add(committee, voter.author);
            }
            ballots.push((voter.author, vote));
        }
        let Some((version, best)) = votes.iter().max_by_key(|(_, set)| set.stake()) else { return true };
        let against = ballots.iter().filter(|(_, vote)| *vote != Some(*version)).map(|(author, _)| *author);
        let against = StakeSet::of(committee, against).stake();
        best.stake() >= committee.quorum() || committee.total() - against < committee.quorum()
    }

    fn build(&mut self, round: Round, reason: Reason) {
        let Some(author) = self.config.own else { return };
        let parents = self.choose_parents(author, round);
        let strong = parents.iter().filter(|parent| parent.round + 1 == round).map(|parent| parent.author);
        if StakeSet::of(&self.ctx.committee, strong).stake() < self.ctx.committee.quorum() {
            return;
        }
        let carries = self.may_carry_payload(round);
        let batches = if carries { self.proposer.take_payload() } else { Vec::new() };
        let (commit_vote, attestation) = self.watermarks(parents.first());
        let extras = Extras { evidence: self.evidence.to_report() };
        let core = BlockCore {
            version: BLOCK_VERSION,
            supports: self.config.supports,
            chain_id: self.config.chain_id,
            epoch: self.config.epoch,
            round,
            author,
            timestamp_ms: self.block_time(),
            parents_root: parents_root(round, &parents),
            payload_root: payload_root(&batches),
            extras_root: extras.root(),
            commit_vote,
            attestation,
        };
        match reason {
            Reason::Fill => self.counters.blocks_filled += 1,
            Reason::Ready | Reason::Timeout => {
                let by_timer = reason == Reason::Timeout;
                self.counters.leader_timeouts += u64::from(by_timer);
                self.proposer.timeout.on_round(by_timer);
                self.proposer.built_ms = Some(self.now.mono_ms);
            }
        }
        self.ask_signature(Box::new(Unsigned { core, parents, batches, extras }));
    }

    /// The wall clock, which does not go back by a little. A clock that was far ahead for a moment is not kept to: others
    /// hold blocks back until their time, and this validator would be mute until then.
    fn block_time(&self) -> TimeMs {
        let wall = self.now.wall_ms;
        let before = self.proposer.own.as_ref().map_or(0, |own| own.block.core.timestamp_ms);
        if before > wall.saturating_add(self.config.pacing.max_drift_ms) { wall } else { wall.max(before) }
    }

    /// Newest commit and checkpoint of this node; what the own block before said already is never taken back, also where
    /// the log that it came from is lost.
    fn watermarks(&self, before: Option<&BlockRef>) -> (CommitRef, CkptRef) {
        let (mut vote, mut attestation) = (self.linearizer.last_ref(), self.proposer.attestation);
        if let Some(stored) = before.and_then(|own| self.store.get(own)) {
            let core = &stored.block.core;
            vote = if core.commit_vote.index > vote.index { core.commit_vote } else { vote };
            attestation = if core.attestation.seq > attestation.seq { core.attestation } else { attestation };
        }
        (vote, attestation)
    }

    fn ask_signature(&mut self, unsigned: Box<Unsigned>) {
        let ticket = self.ticket();
        self.out.push(Effect::Sign { ticket, core: Box::new(unsigned.core.clone()) });
        self.proposer.in_flight = Some(InFlight::Signing { ticket, unsigned, retry_ms: None });
        // Rounds are skipped once, right after catch-up.
        self.proposer.skip_to = 0;
    }

    /// Whether an own block of this round may reference batches: not far behind, not while execution or decisions lag.
    fn may_carry_payload(&self, round: Round) -> bool {
        let last = self.linearizer.last_ref().index;
        let unexecuted = last.saturating_sub(self.executed_index);
        let undecided = self.clock.round().saturating_sub(self.committer.last_decided().round);
        // A validator that is a little slower than the others builds every round just after the clock has left it; its
        // payload must not starve.
        !self.has_diverged()
            && self.closed_at().is_none()
            && round.saturating_add(1) >= self.clock.round()
            && unexecuted <= self.config.limits.max_unexecuted
            && undecided <= self.config.params.gc_depth.saturating_mul(2)
            && (self.config.pipelining || self.executed_index >= self.last_payload_commit)
    }

    /// Own block first; every author's block of the round before; the newest unreferenced older block of the others.
    /// Equivocators are left out. If the others are no quorum, as can be only with more than F of stake faulty or down,
    /// they are waited for as long as a leader is, and then built on as well: shunning must not stop the chain.
    fn choose_parents(&self, own: AuthorIdx, round: Round) -> Vec<BlockRef> {
        let mut parents = self.known_parents(own, round);
        let shunned = |parent: &BlockRef| parent.author != own && self.is_shunned(parent.author);
        let strong = parents.iter().filter(|parent| parent.round + 1 == round && !shunned(parent));
        let enough = StakeSet::of(&self.ctx.committee, strong.map(|parent| parent.author)).stake()
            >= self.ctx.committee.quorum();
        let waited = self.now.mono_ms.saturating_sub(self.clock.entered_ms());
        if enough || waited < self.proposer.timeout.get() {
            parents.retain(|parent| !shunned(parent));
        }
        parents
    }

    fn known_parents(&self, own: AuthorIdx, round: Round) -> Vec<BlockRef> {
        let genesis = self.ctx.genesis[usize::from(own)];
        let before = self.proposer.last.or_else(|| self.own_before_loss(own, round));
        let mut parents = vec![before.unwrap_or(genesis)];
        let oldest = round.saturating_sub(self.ctx.gc_depth).max(self.store.gc_round().saturating_add(1));
        for author in self.ctx.committee.authors().filter(|author| *author != own) {
            let strong = if round == 1 {
                self.ctx.genesis.get(usize::from(author)).copied()
            } else {
                self.store.first_of_slot(round - 1, author)
            };
            let weak = || {
                let newest = self.store.last_by_author(author, oldest, round - 1)?;
                self.store.get(&newest).filter(|stored| !stored.in_own_cone).map(|_| newest)
            };
            parents.extend(strong.or_else(weak));
        }
        parents
    }

    /// The newest own block that others may have, when the log does not say it.
    fn own_before_loss(&self, own: AuthorIdx, round: Round) -> Option<BlockRef> {
        let mut below = round;
        while let Some(newest) = self.store.last_by_author(own, self.store.gc_round(), below) {
            if !self.proposer.withheld.contains(&newest) {
                return Some(newest);
            }
            below = newest.round;
        }
        None
    }

    pub(crate) fn on_signed(&mut self, ticket: Ticket, signature: Signature) {
        let Some(InFlight::Signing { ticket: asked, unsigned, .. }) = self
            .proposer
            .in_flight
            .take_if(|state| matches!(state, InFlight::Signing { ticket: asked, .. } if *asked == ticket))
        else {
            return;
        };
        debug_assert_eq!(asked, ticket, "taken only if equal");
        let Unsigned { core, parents, batches, extras } = *unsigned;
        let reference = core.reference();
        let block = Block { core, parents, batches, extras, signature };
        self.log_statements();
        // Found here, so checked here.
        for evidence in &block.extras.evidence {
            self.settle_verdict(evidence.proof_digest(), reference.round, true);
        }
        let bytes: Arc<[u8]> = block.encode().into();
        if has(Mutation::SendBeforeSync) {
            self.out.push(Effect::Broadcast { block: reference, bytes: encode_block(&bytes).into() });
        }
        let lsn = self.append(Record::OwnBlock(bytes.clone()), true);
        self.proposer.signed_round = self.proposer.signed_round.max(reference.round);
        let own = OwnBlock { reference, block: Arc::new(block), bytes };
        self.proposer.in_flight = Some(InFlight::Appending { lsn, own });
    }

    pub(crate) fn on_sign_failed(&mut self, failed: Ticket) {
        if let Some(InFlight::Signing { ticket, retry_ms, .. }) = &mut self.proposer.in_flight
            && *ticket == failed
        {
            *retry_ms = Some(self.now.mono_ms.saturating_add(SIGN_RETRY_MS));
        }
    }

    fn retry_signing(&mut self) {
        let now = self.now.mono_ms;
        let due = |state: &mut InFlight| matches!(state, InFlight::Signing { retry_ms: Some(at), .. } if *at <= now);
        if let Some(InFlight::Signing { unsigned, .. }) = self.proposer.in_flight.take_if(due) {
            self.ask_signature(unsigned);
        }
    }

    /// Only now does the own block count for anything, and leave.
    pub(crate) fn on_durable(&mut self, durable: Lsn) {
        self.on_floor_durable(durable);
        self.on_cert_durable(durable);
        let Some(InFlight::Appending { lsn, own }) = &self.proposer.in_flight else { return };
        if *lsn > durable {
            return;
        }
        let own = own.clone();
        let from = own.reference.author;
        self.note_reported(&own.block);
        let (reference, block, bytes) = (own.reference, own.block.clone(), own.bytes.clone());
        self.accept(Incoming { reference, block, bytes, from, checked: true });
        self.proposer.in_flight = None;
        self.counters.blocks_proposed += 1;
        if !self.store.contains(&own.reference) {
            // Garbage collection has passed the block on its way: nobody will order it.
            self.proposer.requeue(&own.block.batches);
        }
        self.store.mark_own_cone(own.reference);
        self.proposer.last = Some(own.reference);
        self.proposer.own = Some(own);
        self.broadcast_own();
    }
}

#[cfg(test)]
impl Machine {
    /// The block that waits for its signature votes for no commit.
    pub(crate) fn withhold_vote(&mut self) -> BlockCore {
        let crate::config::Config { chain_id, epoch, epoch_seed, base, .. } = &self.config;
        let vote = crate::commit::genesis_commit(chain_id, *epoch, epoch_seed, *base);
        let Some(InFlight::Signing { unsigned, .. }) = &mut self.proposer.in_flight else { panic!("nothing waits") };
        unsigned.core.commit_vote = vote;
        unsigned.core.clone()
    }
}
