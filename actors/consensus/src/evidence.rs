//! Accountability (consensus.md 8): signed statements that contradict each other are found, kept until a commit proves
//! them, and put into own blocks; what blocks carry is judged before they are accepted.
//!
//! A verdict is about bytes that the block's digest covers, so it is the same on every node; waiting for it delays a
//! block and never refuses it. What a commit proves is decided in `flush`, from the verdicts (ADR 0015).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aurigraph_ledger::hash::Hash;

use crate::block::{Accusation, Block, BlockCore, Evidence, EvidenceKind, SignedCore};
use crate::commit::{FaultKind, ProvenFault};
use crate::config::{MAX_CARRIED_EVIDENCE, MAX_EVIDENCE};
use crate::event::Effect;
use crate::machine::{Checking, Machine};
use crate::record::Record;
use crate::snapshot::EvidenceState;
use crate::suspend::Incoming;
use crate::types::{AuthorIdx, BlockRef, CommitIndex, Epoch, Round, Slot};

/// Commits for which an author's votes are remembered.
const VOTES: usize = 32;

/// A checked statement, shared with the block it stands in if that is in memory.
#[derive(Debug, Clone)]
pub(crate) enum Statement {
    /// A whole block.
    Block(Arc<Block>),
    /// All that the log has kept of one.
    Core(Arc<SignedCore>),
}

impl Statement {
    pub(crate) fn core(&self) -> &BlockCore {
        match self {
            Self::Block(block) => &block.core,
            Self::Core(signed) => &signed.core,
        }
    }

    pub(crate) fn signed(&self) -> SignedCore {
        match self {
            Self::Block(block) => block.signed_core(),
            Self::Core(signed) => (**signed).clone(),
        }
    }
}

/// Signature checks of one piece of evidence.
#[derive(Debug)]
struct Judging {
    left: u8,
    round: Round,
}

/// What is known of contradictions in this epoch, and of unproven ones in those before. Bounded by validators and kinds, by
/// [`MAX_CARRIED_EVIDENCE`], and by the blocks above garbage collection.
#[derive(Debug, Default)]
pub(crate) struct EvidencePool {
    /// First checked statement of each slot above the garbage-collection round.
    slots: BTreeMap<Slot, Statement>,
    /// Slots whose statement is not in the log.
    unlogged: BTreeSet<Slot>,
    /// Slots with two statements.
    twins: BTreeSet<Slot>,
    /// First checked statement with each commit vote: by author, then by commit.
    votes: BTreeMap<AuthorIdx, BTreeMap<CommitIndex, Statement>>,
    /// Found here, in this epoch or before, and not proven yet.
    pending: BTreeMap<Accusation, Evidence>,
    /// Round of the own block that carries it.
    included: BTreeMap<Accusation, Round>,
    /// By the digest of the proof, with the highest round of a block that carries it.
    verdicts: BTreeMap<Hash, (Round, bool)>,
    judging: BTreeMap<Hash, Judging>,
    /// Blocks that wait for verdicts.
    unjudged: BTreeMap<BlockRef, Incoming>,
}

impl EvidencePool {
    /// Whether the block waits for a verdict.
    pub(crate) fn is_unjudged(&self, block: &BlockRef) -> bool {
        self.unjudged.contains_key(block)
    }

    /// Blocks of an author that wait for verdicts.
    pub(crate) fn unjudged_of(&self, author: AuthorIdx) -> usize {
        self.unjudged.keys().filter(|block| block.author == author).count()
    }

    /// Evidence that no commit has proven yet.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn verdict(&self, evidence: &Evidence) -> Option<bool> {
        self.verdicts.get(&evidence.proof_digest()).map(|(_, ok)| *ok)
    }

    /// What the next own block carries.
    pub(crate) fn to_report(&self) -> Vec<Evidence> {
        let fresh = self.pending.iter().filter(|(accusation, _)| !self.included.contains_key(*accusation));
        fresh.take(MAX_EVIDENCE).map(|(_, evidence)| evidence.clone()).collect()
    }

    /// A commit has proven it.
    pub(crate) fn proven_fault(&mut self, fault: &ProvenFault) {
        let settled = |(epoch, author, kind): &Accusation| {
            (*epoch, *author) == (fault.epoch, fault.author) && FaultKind::from(*kind) == fault.kind
        };
        self.pending.retain(|accusation, _| !settled(accusation));
        self.included.retain(|accusation, _| !settled(accusation));
    }

    /// An own block carries an equivocation of this author in this epoch.
    fn has_reported(&self, epoch: Epoch, author: AuthorIdx) -> bool {
        self.included.contains_key(&(epoch, author, EvidenceKind::Equivocation))
    }

    /// What goes over the end of the epoch: all that no commit has proven and that still counts, the newest if it is too
    /// much. Ascending by accusation.
    pub(crate) fn carried(&self, from: Epoch) -> Vec<Evidence> {
        let open = self.pending.values().filter(|evidence| evidence.a.core.epoch >= from);
        let excess = open.clone().count().saturating_sub(MAX_CARRIED_EVIDENCE);
        open.skip(excess).cloned().collect()
    }

    /// Takes over what an epoch's first record carries.
    pub(crate) fn carry(&mut self, evidence: &[Evidence]) {
        self.pending.extend(evidence.iter().map(|evidence| (evidence.accusation(), evidence.clone())));
    }

    pub(crate) fn advance_gc(&mut self, gc_round: Round) {
        let above = BlockRef { round: gc_round.saturating_add(1), author: 0, digest: Hash::ZERO };
        self.slots = self.slots.split_off(&above.slot());
        self.unlogged = self.unlogged.split_off(&above.slot());
        self.twins = self.twins.split_off(&above.slot());
        self.unjudged = self.unjudged.split_off(&above);
        self.verdicts.retain(|_, (round, _)| *round > gc_round);
        self.judging.retain(|_, judging| judging.round > gc_round);
        // The own block was never ordered: another one carries it.
        self.included.retain(|_, round| *round > gc_round);
    }

    pub(crate) fn state(&self) -> EvidenceState {
        EvidenceState {
            pending: self.pending.values().cloned().collect(),
            included: self.included.clone(),
            verdicts: self.verdicts.clone(),
        }
    }

    pub(crate) fn restore(&mut self, state: EvidenceState) {
        self.pending = state.pending.into_iter().map(|evidence| (evidence.accusation(), evidence)).collect();
        self.included = state.included;
        self.verdicts = state.verdicts;
    }

    #[cfg(test)]
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }
}

impl Machine {
    /// Two checked statements for one slot are evidence, whatever becomes of their blocks.
    pub(crate) fn note_slot(&mut self, statement: &Statement) {
        let core = statement.core();
        let slot = Slot { round: core.round, author: core.author };
        if slot.round <= self.store.gc_round() {
            return;
        }
        let Some(first) = self.evidence.slots.get(&slot) else {
            self.evidence.slots.insert(slot, statement.clone());
            self.evidence.unlogged.insert(slot);
            return;
        };
        if first.core() == core {
            return;
        }
        if self.evidence.twins.insert(slot) {
            self.counters.equivocations += 1;
        }
        if self.is_news(slot.author, EvidenceKind::Equivocation) {
            self.accuse(Evidence::equivocation(first.signed(), statement.signed()));
        }
    }

    /// Two checked votes for one commit are evidence.
    pub(crate) fn note_vote_of(&mut self, statement: &Statement) {
        let (author, vote) = (statement.core().author, statement.core().commit_vote);
        let votes = self.evidence.votes.entry(author).or_default();
        let Some(first) = votes.get(&vote.index) else {
            votes.insert(vote.index, statement.clone());
            if votes.len() > VOTES {
                votes.pop_first();
            }
            return;
        };
        if first.core().commit_vote.digest != vote.digest {
            let first = first.clone();
            if self.is_news(author, EvidenceKind::ConflictingCommitVote) {
                self.accuse(Evidence::conflicting_commit_vote(first.signed(), statement.signed()));
            }
        }
    }

    /// Whether evidence of this is worth making. Nobody accuses itself: an own statement that is not in the log is another
    /// process's or a disk's (consensus.md 9.3).
    pub(crate) fn is_news(&self, author: AuthorIdx, kind: EvidenceKind) -> bool {
        let known = self.evidence.pending.contains_key(&(self.config.epoch, author, kind));
        self.config.own != Some(author) && !known && !self.linearizer.has_proven(author, kind)
    }

    /// Keeps evidence of this epoch until a commit proves it, also one of a later epoch. Both signatures are good.
    pub(crate) fn accuse(&mut self, evidence: Evidence) {
        let (_, author, kind) = evidence.accusation();
        if !self.is_news(author, kind) {
            return;
        }
        self.evidence.pending.insert(evidence.accusation(), evidence.clone());
        if !self.replaying {
            self.append(Record::Evidence(Box::new(evidence.clone())), false);
            self.out.push(Effect::Evidence(Box::new(evidence)));
        }
    }

    /// An own block in the log carries this; from now on own blocks leave the equivocators among them out.
    pub(crate) fn note_reported(&mut self, own: &Block) {
        for evidence in &own.extras.evidence {
            let accusation = evidence.accusation();
            if own.core.round > self.store.gc_round() && !self.linearizer.proven().contains(&accusation) {
                self.evidence.included.insert(accusation, own.core.round);
            }
        }
    }

    /// The log holds this slot's first statement.
    pub(crate) fn slot_is_logged(&mut self, block: &BlockRef) {
        let slot = block.slot();
        if self.evidence.slots.get(&slot).is_some_and(|first| first.core().digest() == block.digest) {
            self.evidence.unlogged.remove(&slot);
        }
    }

    /// Statements whose blocks still wait go into the log with the own block, so that a restart does not forget them.
    pub(crate) fn log_statements(&mut self) {
        for slot in std::mem::take(&mut self.evidence.unlogged) {
            if let Some(statement) = self.evidence.slots.get(&slot) {
                let record = Record::Statement(Box::new(statement.signed()));
                self.append(record, false);
            }
        }
    }

    /// Whether all that the block carries is judged, or proven already. Otherwise it waits here until it is.
    pub(crate) fn is_judged(&mut self, incoming: &Incoming) -> bool {
        let mut open = Vec::new();
        let round = incoming.reference.round;
        for evidence in &incoming.block.extras.evidence {
            if self.linearizer.proven().contains(&evidence.accusation()) {
                continue;
            }
            match self.evidence.verdicts.get_mut(&evidence.proof_digest()) {
                Some((newest, _)) => *newest = round.max(*newest),
                None => open.push(evidence.clone()),
            }
        }
        if open.is_empty() {
            return true;
        }
        self.evidence.unjudged.insert(incoming.reference, incoming.clone());
        if !self.replaying {
            open.into_iter().for_each(|evidence| self.judge(&evidence, round, incoming.from));
        }
        false
    }

    fn judge(&mut self, evidence: &Evidence, round: Round, from: AuthorIdx) {
        let proof = evidence.proof_digest();
        if let Some(judging) = self.evidence.judging.get_mut(&proof) {
            judging.round = judging.round.max(round);
            return;
        }
        self.evidence.judging.insert(proof, Judging { left: 2, round });
        let (now, rate) = (self.now.mono_ms, self.config.limits.pushed_per_second);
        if let Some(peer) = self.peers.get_mut(usize::from(from)) {
            peer.bucket.owe(now, 2, rate);
        }
        for signed in [&evidence.a, &evidence.b] {
            let (block, signature) = (signed.core.reference(), signed.signature.clone());
            self.verify_of(signed.core.epoch, block, signature, Checking::Evidence { proof });
        }
    }

    pub(crate) fn on_evidence_checked(&mut self, proof: Hash, ok: bool) {
        let Some(judging) = self.evidence.judging.get_mut(&proof) else { return };
        judging.left -= 1;
        if ok && judging.left > 0 {
            return;
        }
        let round = judging.round;
        self.evidence.judging.remove(&proof);
        if !ok {
            self.counters.evidence_refused += 1;
        }
        self.settle_verdict(proof, round, ok);
        for incoming in std::mem::take(&mut self.evidence.unjudged).into_values() {
            self.admit(incoming);
        }
    }

    /// Notes a verdict, ahead of the block that needs it.
    pub(crate) fn settle_verdict(&mut self, proof: Hash, round: Round, ok: bool) {
        self.append(Record::Verdict { proof, round, ok }, false);
        self.evidence.verdicts.insert(proof, (round, ok));
    }

    pub(crate) fn replay_verdict(&mut self, proof: Hash, round: Round, ok: bool) {
        self.evidence.verdicts.insert(proof, (round, ok));
    }

    /// After a replay: blocks whose verdicts the log has lost are judged now, and what is pending is told again.
    pub(crate) fn resume_evidence(&mut self) {
        for incoming in std::mem::take(&mut self.evidence.unjudged).into_values() {
            self.admit(incoming);
        }
        let pending: Vec<Evidence> = self.evidence.pending.values().cloned().collect();
        self.out.extend(pending.into_iter().map(|evidence| Effect::Evidence(Box::new(evidence))));
    }

    /// Whether own blocks leave this author's blocks out (consensus.md 3.4): its equivocation is proven, or stands in an
    /// own block, from which the others learn of it.
    pub(crate) fn is_shunned(&self, author: AuthorIdx) -> bool {
        let kind = EvidenceKind::Equivocation;
        self.evidence.has_reported(self.config.epoch, author) || self.linearizer.has_proven(author, kind)
    }
}
