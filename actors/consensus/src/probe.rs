//! The signing floor (consensus.md 9.3, 9.4): from which round on this node may sign.
//!
//! Every process start asks the others what they hold of this node's, and in which round they are. With an intact log
//! their answers end the wait. If they hold an own block that the log lacks, or the log was lost or restored, nobody
//! here knows what was signed last: this node observes until the highest round that the others tell of is proved by
//! the signatures of a quorum at the round before. Rounds above it cannot have been signed: whoever signs round R has
//! seen a quorum at R-1, and among others with stake Q minus the own one was there and says so. Time never ends this.
//!
//! The same answers tell of the next epoch (ADR 0043): whoever signed there has seen a quorum vote for this epoch's last
//! commit, in rounds not below its leader's. If others with stake Q minus the own say that they are below, nobody had.

use std::collections::{BTreeMap, BTreeSet};

use crate::block::{Block, BlockCore, SignedCore};
use crate::committee::StakeSet;
use crate::event::{Alarm, Effect, Offence};
use crate::machine::{Checking, Machine};
use crate::message::{Message, RoundProof};
use crate::record::{Record, SIGN_NOTHING};
use crate::status::{Doubt, Signing, SigningState};
use crate::types::{AuthorIdx, BlockRef, Lsn, Now, Round, Stake, TimeMs};

/// Peers that have not answered are asked again after this long.
const RETRY_MS: TimeMs = 1_000;
/// A peer that does not prove its round within this time counts as not having answered.
const PROOF_TIMEOUT_MS: TimeMs = 4_000;
/// A proven floor is used when the cluster has passed it and was heard for this long without an own block above it: another
/// process with this key would have built one.
const QUIET_MS: TimeMs = 3_000;
/// No round counts for more than this in it. What another process signed stands in the others' blocks of the next round:
/// while they stand still, or have left the epoch, nothing tells of it.
const ROUND_MS: TimeMs = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    /// Nothing is asked: the floor is known, or this node has no key.
    #[default]
    Done,
    /// Waits for answers, and for a proof if the log is doubtful.
    Asking,
    /// The floor is proven; up to when the cluster, above it, was heard without a foreign own block.
    Proven { floor: Round, heard_to: Option<TimeMs> },
    /// The floor's record is on its way to the disk.
    Persisting { floor: Round, lsn: Lsn },
}

/// A proof that was asked for.
#[derive(Debug)]
struct Asked {
    peer: AuthorIdx,
    deadline_ms: TimeMs,
    /// Signatures that are being checked.
    unchecked: usize,
}

/// The state of the probe.
#[derive(Debug, Default)]
pub struct Probe {
    phase: Phase,
    doubt: Option<Doubt>,
    nonce: u64,
    /// In which round the peers say they are.
    claims: BTreeMap<AuthorIdx, Round>,
    /// Peers that could not prove it.
    failed: BTreeSet<AuthorIdx>,
    proof: Option<Asked>,
    /// The newest own block that is not from this log.
    foreign: Round,
    /// No process before this one has signed in this epoch: so the epoch before has told.
    fresh: bool,
    /// How long the cluster was heard without one, round by round, in the epochs before, too.
    heard_ms: TimeMs,
    next_ms: TimeMs,
}

/// What a doubtful validator knows of the next epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fresh {
    doubt: Doubt,
    /// How long the cluster was heard without an own block of another process.
    heard_ms: TimeMs,
}

impl Probe {
    /// Whether nothing may be signed yet.
    pub(crate) fn is_waiting(&self) -> bool {
        self.phase != Phase::Done
    }

    pub(crate) fn next_due_ms(&self) -> Option<TimeMs> {
        match self.phase {
            Phase::Asking => Some(self.next_ms),
            // The silence ends with a round of the others, not with a time.
            Phase::Done | Phase::Proven { .. } | Phase::Persisting { .. } => None,
        }
    }

    /// Answers to another process, or to an earlier epoch's machine, are none to this one.
    pub(crate) fn seed_nonce(&mut self, now: Now) {
        self.nonce = now.wall_ms.rotate_left(20) ^ now.mono_ms;
    }

    /// Forgets all answers and asks anew.
    fn ask_all(&mut self, now_ms: TimeMs) {
        self.phase = Phase::Asking;
        self.nonce = self.nonce.wrapping_add(1);
        self.claims.clear();
        self.failed.clear();
        self.proof = None;
        self.fresh = false;
        self.heard_ms = 0;
        self.next_ms = now_ms;
    }

    /// Those whose answers count, with their rounds.
    fn counted(&self) -> impl Iterator<Item = (AuthorIdx, Round)> + '_ {
        self.claims.iter().map(|(peer, round)| (*peer, *round)).filter(|(peer, _)| !self.failed.contains(peer))
    }
}

impl Machine {
    pub(crate) fn start_probe(&mut self) {
        if self.config.own.is_some() {
            self.probe.seed_nonce(self.now);
            self.probe.ask_all(self.now.mono_ms);
        }
    }

    /// What this validator may sign, and why not.
    pub(crate) fn signing(&self) -> Signing {
        let state = match (self.config.own, &self.probe.doubt, self.probe.phase) {
            (None, ..) => SigningState::NoKey,
            (_, None, Phase::Done) => SigningState::Signing,
            (_, None, _) => SigningState::Waiting,
            (_, Some(_), Phase::Proven { .. } | Phase::Persisting { .. }) => SigningState::Proven,
            (_, Some(_), _) => SigningState::Doubtful,
        };
        let floor = match self.probe.phase {
            Phase::Proven { floor, .. } | Phase::Persisting { floor, .. } => floor,
            Phase::Done | Phase::Asking => self.proposer.floor,
        };
        Signing { state, floor: (floor != SIGN_NOTHING).then_some(floor), doubt: self.probe.doubt }
    }

    /// Stake of others that must answer.
    fn answers_needed(&self, own: AuthorIdx) -> Stake {
        let committee = &self.ctx.committee;
        committee.quorum().saturating_sub(committee.stake(own))
    }

    /// Ends the probe when enough have answered; asks again those that have not.
    pub(crate) fn tend_probe(&mut self) {
        let Some(own) = self.config.own.filter(|_| !self.halted) else { return };
        match self.probe.phase {
            Phase::Done | Phase::Persisting { .. } => {}
            Phase::Proven { floor, heard_to } => self.tend_quiet(floor, heard_to),
            Phase::Asking => {
                let needed = self.answers_needed(own);
                let counted = self.probe.counted().map(|(peer, _)| peer);
                let enough = StakeSet::of(&self.ctx.committee, counted).stake() >= needed;
                if enough && self.probe.doubt.is_none() {
                    self.probe.phase = Phase::Done;
                    return;
                }
                // A validator that is a quorum alone has nobody who could tell it what it signed.
                if enough && needed > 0 {
                    self.tend_proof();
                }
                if self.now.mono_ms >= self.probe.next_ms {
                    self.ask_again(needed);
                }
            }
        }
    }

    fn ask_again(&mut self, needed: Stake) {
        let now = self.now.mono_ms;
        if let Some(late) = self.probe.proof.as_ref().filter(|asked| asked.deadline_ms <= now).map(|asked| asked.peer) {
            self.probe_failed(late);
        }
        let stake = |peers: Vec<AuthorIdx>| StakeSet::of(&self.ctx.committee, peers).stake();
        let lacking = stake(self.probe.counted().map(|(peer, _)| peer).collect()) < needed;
        if lacking && stake(self.probe.claims.keys().copied().collect()) >= needed {
            // Those that failed are needed: perhaps they were only slow.
            self.probe.ask_all(now);
        }
        self.probe.next_ms = now.saturating_add(RETRY_MS);
        for peer in self.connected_peers() {
            self.probe_peer(peer);
        }
    }

    pub(crate) fn probe_peer(&mut self, peer: AuthorIdx) {
        if self.probe.phase == Phase::Asking && !self.probe.claims.contains_key(&peer) {
            let nonce = self.probe.nonce;
            let epoch = self.config.epoch;
            self.send(peer, &Message::ProbeRequest { epoch, nonce });
        }
    }

    pub(crate) fn on_probe_reply(&mut self, peer: AuthorIdx, nonce: u64, round: Option<Round>, newest: Option<&[u8]>) {
        let Some(own) = self.config.own.filter(|own| nonce == self.probe.nonce && *own != peer) else { return };
        if self.probe.phase != Phase::Asking {
            return;
        }
        if let Some(bytes) = newest {
            let block = Block::decode(bytes).ok().filter(|block| self.ctx.check(block).is_ok());
            let Some(block) = block.filter(|block| block.core.author == own) else {
                self.charge(peer, Offence::InvalidBlock);
                return;
            };
            let reference = block.reference();
            if !self.is_own_logged(&block.core, &reference) {
                if self.probe.doubt.is_none() {
                    // Until its signature is checked this is no answer: if it is good, all are asked anew.
                    self.verify(reference, block.signature, Checking::Probe { peer, block: reference });
                    return;
                }
                if reference.round <= self.clock.round().saturating_add(self.config.limits.ahead) {
                    // The parent of the next own block, if it comes in.
                    self.on_requested_block(peer, bytes);
                } else {
                    self.verify(reference, block.signature, Checking::Probe { peer, block: reference });
                }
            }
        }
        // One that does not know its own round counts as faulty.
        if let Some(round) = round {
            self.probe.claims.insert(peer, round);
        }
    }

    /// Whether the log has this own block, has passed the time at which it could still be known, or need not have it.
    fn is_own_logged(&self, core: &BlockCore, reference: &BlockRef) -> bool {
        let passed = core.round <= self.store.gc_round() && core.round <= self.proposer.own_round();
        let below = self.proposer.floor != SIGN_NOTHING && core.round <= self.proposer.floor;
        let newest = self.proposer.last == Some(*reference);
        passed || below || newest || self.store.contains(reference) || self.proposer.is_in_flight(reference)
    }

    pub(crate) fn on_probe_checked(&mut self, peer: AuthorIdx, block: BlockRef, ok: bool) {
        if ok {
            self.distrust_log(block);
        } else {
            self.charge(peer, Offence::BadSignature);
        }
    }

    /// Asks the peer with the highest claim to prove it: that it holds for the lower ones follows.
    fn tend_proof(&mut self) {
        if self.probe.proof.is_some() {
            return;
        }
        let Some((peer, round)) = self.probe.counted().max_by_key(|(_, round)| *round) else { return };
        if round <= 1 {
            // Everybody is at genesis, which proves itself.
            self.floor_proven(round);
            return;
        }
        let deadline_ms = self.now.mono_ms.saturating_add(PROOF_TIMEOUT_MS);
        self.probe.proof = Some(Asked { peer, deadline_ms, unchecked: 0 });
        let nonce = self.probe.nonce;
        self.send(peer, &Message::ProofRequest { nonce });
    }

    pub(crate) fn on_proof_reply(&mut self, peer: AuthorIdx, proof: RoundProof) {
        let claimed = self.probe.claims.get(&peer).copied();
        let fits = |asked: &Asked| asked.peer == peer && asked.unchecked == 0;
        let asked = self.probe.proof.as_ref().is_some_and(fits) && proof.nonce == self.probe.nonce;
        let Some(claimed) = claimed.filter(|_| asked) else { return };
        if proof.round < claimed || !self.is_quorum_before(&proof) {
            self.charge(peer, Offence::InvalidBlock);
            self.probe_failed(peer);
            return;
        }
        if let Some(asked) = self.probe.proof.as_mut() {
            asked.unchecked = proof.cores.len();
        }
        for SignedCore { core, signature } in proof.cores {
            let checking = Checking::Proof { peer, nonce: proof.nonce, round: proof.round };
            self.verify(core.reference(), signature, checking);
        }
    }

    /// Whether these are cores of different validators with a quorum of stake, all at the round before.
    pub(crate) fn is_quorum_before(&self, proof: &RoundProof) -> bool {
        let before = |signed: &SignedCore| signed.core.round.checked_add(1) == Some(proof.round);
        let valid = |signed: &SignedCore| self.ctx.check_core(&signed.core).is_ok() && before(signed);
        let authors = StakeSet::of(&self.ctx.committee, proof.cores.iter().map(|signed| signed.core.author));
        proof.cores.iter().all(valid)
            && authors.authors().count() == proof.cores.len()
            && authors.stake() >= self.ctx.committee.quorum()
    }

    pub(crate) fn on_proof_checked(&mut self, peer: AuthorIdx, nonce: u64, round: Round, ok: bool) {
        if !ok {
            self.charge(peer, Offence::BadSignature);
        }
        let current = nonce == self.probe.nonce;
        let Some(asked) = self.probe.proof.as_mut().filter(|asked| asked.peer == peer && current) else { return };
        asked.unchecked = asked.unchecked.saturating_sub(1);
        if !ok {
            self.probe_failed(peer);
        } else if asked.unchecked == 0 {
            self.floor_proven(round);
        }
    }

    fn probe_failed(&mut self, peer: AuthorIdx) {
        self.probe.failed.insert(peer);
        self.probe.proof = None;
    }

    fn floor_proven(&mut self, round: Round) {
        let floor = round.saturating_add(1).max(self.probe.foreign).max(self.proposer.signed_round);
        self.probe.proof = None;
        self.probe.phase = Phase::Proven { floor, heard_to: None };
    }

    /// Uses the floor when everything up to it is here and the others were heard for long enough without a block above it
    /// of another process. Time in which they enter no round says nothing: its newest block stands in none of theirs then,
    /// as at the end of an epoch, when they stand still, or when they cannot be reached (ADR 0013). In an epoch in which
    /// nothing was signed before, they have to be past its first round.
    fn tend_quiet(&mut self, floor: Round, heard_to: Option<TimeMs>) {
        if self.catch_up.is_active() {
            self.probe.heard_ms = 0;
        }
        let above = self.clock.round() > floor.max(1) && !self.catch_up.is_active();
        let heard_to = above.then(|| {
            let from = heard_to.unwrap_or(self.now.mono_ms);
            let to = self.clock.entered_ms().max(from);
            self.probe.heard_ms = self.probe.heard_ms.saturating_add((to - from).min(ROUND_MS));
            to
        });
        self.probe.phase = if above && self.probe.heard_ms >= QUIET_MS {
            let lsn = self.append(Record::Floor { round: floor }, true);
            Phase::Persisting { floor, lsn }
        } else {
            Phase::Proven { floor, heard_to }
        };
    }

    /// What the first record of the next epoch says of its signing floor. A doubt that goes on is written down as one, and
    /// so is one that was ended by what others said when they may have voted for the last commit already.
    pub(crate) fn next_floor(&self) -> Round {
        if self.proposer.floor > self.last_leader_round() { SIGN_NOTHING } else { 0 }
    }

    /// Whether nothing was signed in the next epoch before this process, in doubt of its log, began to ask (ADR 0043).
    pub(crate) fn next_is_fresh(&self) -> Option<Fresh> {
        let own = self.config.own?;
        let doubt = self.probe.doubt.filter(|_| self.closed_at().is_some())?;
        let below = self.probe.counted().filter(|(_, round)| *round < self.last_leader_round());
        let told = StakeSet::of(&self.ctx.committee, below.map(|(peer, _)| peer)).stake();
        let needed = self.answers_needed(own);
        if !self.probe.fresh && (needed == 0 || told < needed) {
            return None;
        }
        Some(Fresh { doubt, heard_ms: self.probe.heard_ms })
    }

    /// Round of the newest commit's leader: below it, no correct validator votes for that commit.
    fn last_leader_round(&self) -> Round {
        self.linearizer.last().map_or(0, |header| header.leader.round)
    }

    /// The doubt is over with the epoch before; another process that runs with this key still is to be heard.
    pub(crate) fn listen(&mut self, fresh: Fresh) {
        self.observer = true;
        self.probe.doubt = Some(fresh.doubt);
        self.probe.fresh = true;
        self.probe.heard_ms = fresh.heard_ms;
        self.probe.phase = Phase::Proven { floor: 0, heard_to: None };
    }

    /// Signs again, once the floor is on the disk.
    pub(crate) fn on_floor_durable(&mut self, durable: Lsn) {
        if let Phase::Persisting { floor, lsn } = self.probe.phase
            && lsn <= durable
        {
            self.probe.phase = Phase::Done;
            self.probe.doubt = None;
            self.proposer.floor = floor;
            self.observer = false;
            self.out.push(Effect::Alarm(Alarm::SigningFloorProven { floor }));
        }
    }

    /// A validly signed own block that is not in the log. Above the floor it shows another instance, or a disk that
    /// went back in time.
    pub(crate) fn distrust_log(&mut self, block: BlockRef) {
        self.probe.foreign = self.probe.foreign.max(block.round);
        match (self.probe.doubt, self.probe.phase) {
            (None, _) if block.round <= self.proposer.floor => {}
            (None, _) => self.stop_signing(Doubt::OwnBlock(block)),
            (Some(_), Phase::Proven { floor, .. } | Phase::Persisting { floor, .. }) if block.round > floor => {
                if matches!(self.probe.phase, Phase::Persisting { .. }) {
                    self.append(Record::Floor { round: SIGN_NOTHING }, true);
                }
                self.probe.doubt = Some(Doubt::OwnBlock(block));
                self.out.push(Effect::Alarm(Alarm::OwnBlockNotInLog { block }));
                self.probe.ask_all(self.now.mono_ms);
            }
            (Some(_), _) => {}
        }
    }

    /// Observes until the floor is proven, also after every restart: what was signed last is unknown.
    pub(crate) fn stop_signing(&mut self, doubt: Doubt) {
        self.observer = true;
        self.probe.doubt = Some(doubt);
        self.proposer.drop_in_flight();
        self.proposer.last = None;
        if self.proposer.floor != SIGN_NOTHING {
            self.proposer.floor = SIGN_NOTHING;
            self.append(Record::Floor { round: SIGN_NOTHING }, true);
        }
        self.out.push(Effect::Alarm(match doubt {
            Doubt::OwnBlock(block) => Alarm::OwnBlockNotInLog { block },
            Doubt::LogLost | Doubt::Restored | Doubt::Earlier => Alarm::SigningFloorUnknown,
        }));
        self.probe.ask_all(self.now.mono_ms);
    }

    /// The round that this node can prove to be in: at or above that of every block it has signed. None if it does not
    /// know what it signed.
    pub(crate) fn provable_round(&self) -> Option<Round> {
        let round = self.clock.round();
        let authors = self.store.round(round.saturating_sub(1)).map(|(reference, _)| reference.author);
        let proven = round <= 1 || StakeSet::of(&self.ctx.committee, authors).stake() >= self.ctx.committee.quorum();
        (proven && !self.observer && self.proposer.signed_round <= round).then_some(round)
    }

    /// The cores of a quorum at the round before the provable one.
    pub(crate) fn round_proof(&self, nonce: u64) -> Option<RoundProof> {
        let round = self.provable_round().filter(|round| *round > 1)?;
        let mut stake = StakeSet::default();
        let mut cores = Vec::new();
        for (reference, stored) in self.store.round(round - 1).filter(|(block, _)| !self.unchecked.contains(block)) {
            if stake.stake() < self.ctx.committee.quorum() && !stake.contains(reference.author) {
                stake.add(&self.ctx.committee, reference.author);
                cores.push(stored.block.signed_core());
            }
        }
        (stake.stake() >= self.ctx.committee.quorum()).then_some(RoundProof { nonce, round, cores })
    }
}
