//! From decided leaders to commits (consensus.md 6): what a leader flushes, in which order, at what time.
//!
//! Everything here is a function of the sequence of leaders and their histories; nothing depends on when a block
//! arrived.

use std::collections::{BTreeMap, BTreeSet};

use aurigraph_ledger::hash::{Hash, h_parts};

use crate::agreement::Agreement;
use crate::block::{Accusation, Evidence, EvidenceKind, conflict_digest};
use crate::commit::{Commit, CommitHeader, CommittedBlock, ProvenFault, blocks_root};
use crate::committee::Committee;
use crate::config::WRONG_ATTESTATIONS;
use crate::event::HaltReason;
use crate::mutation::{Mutation, has};
use crate::store::Store;
use crate::types::{AuthorIdx, BatchRef, BlockRef, CommitRef, Epoch, LeaderSlot, Round, Slot, Stake, TimeMs};

/// Delivered batches are remembered for this many times the garbage-collection depth.
const DELIVERED_WINDOWS: Round = 2;

/// The state of the commit chain.
#[derive(Debug)]
pub struct Linearizer {
    epoch: Epoch,
    gc_depth: Round,
    /// Time of the last commit of the epoch before.
    base_ms: TimeMs,
    last: Option<CommitHeader>,
    last_ref: CommitRef,
    gc_round: Round,
    committed: BTreeSet<BlockRef>,
    slots: BTreeMap<Slot, Hash>,
    delivered: BTreeMap<Hash, Round>,
    proven: BTreeSet<Accusation>,
    /// The epoch's protocol version has commits prove wrong attestations.
    judges_attestations: bool,
    agreement: Agreement,
}

/// What makes a commit.
#[derive(Debug, Clone, Copy)]
pub struct Lead {
    /// The decided slot.
    pub slot: LeaderSlot,
    /// The block that leads.
    pub leader: BlockRef,
    /// Digest of the schedule that it leads under.
    pub schedule_digest: Hash,
    /// The time of a certified commit: it is not computed again from parents that need not be here.
    pub certified_ms: Option<TimeMs>,
}

/// What a flush gives beside the commit.
#[derive(Debug)]
pub struct Flush {
    /// The commit.
    pub commit: Commit,
    /// Committed blocks whose slot another version owns: they deliver nothing.
    pub twins: Vec<BlockRef>,
}

impl Linearizer {
    /// Before the first commit of an epoch that runs this protocol version.
    #[must_use]
    pub fn new(epoch: Epoch, version: u16, gc_depth: Round, genesis: CommitRef, base_ms: TimeMs) -> Self {
        Self {
            epoch,
            gc_depth,
            base_ms,
            last: None,
            last_ref: genesis,
            gc_round: 0,
            committed: BTreeSet::new(),
            slots: BTreeMap::new(),
            delivered: BTreeMap::new(),
            proven: BTreeSet::new(),
            judges_attestations: version >= WRONG_ATTESTATIONS,
            agreement: Agreement::default(),
        }
    }

    /// Takes over the state of a snapshot.
    pub fn restore(
        &mut self,
        last: Option<CommitHeader>,
        gc_round: Round,
        committed: BTreeSet<BlockRef>,
        slots: BTreeMap<Slot, Hash>,
        delivered: BTreeMap<Hash, Round>,
        (proven, agreement): (BTreeSet<Accusation>, Agreement),
    ) {
        if let Some(header) = &last {
            self.last_ref = header.reference();
        }
        self.last = last;
        self.gc_round = gc_round;
        self.committed = committed;
        self.slots = slots;
        self.delivered = delivered;
        self.proven = proven;
        self.agreement = agreement;
    }

    /// The newest commit.
    #[must_use]
    pub const fn last_ref(&self) -> CommitRef {
        self.last_ref
    }

    /// The newest commit's header; `None` before the first.
    #[must_use]
    pub const fn last(&self) -> Option<&CommitHeader> {
        self.last.as_ref()
    }

    /// Time of the newest commit, also of an earlier epoch's.
    #[must_use]
    pub fn last_ms(&self) -> TimeMs {
        self.last.as_ref().map_or(self.base_ms, |header| header.timestamp_ms)
    }

    /// Blocks at or below this round can no longer be ordered.
    #[must_use]
    pub const fn gc_round(&self) -> Round {
        self.gc_round
    }

    /// Whether a block above the garbage-collection round is in a commit.
    #[must_use]
    pub fn is_committed(&self, block: &BlockRef) -> bool {
        self.committed.contains(block)
    }

    /// Whether a batch was delivered lately.
    #[must_use]
    pub fn is_delivered(&self, batch: &Hash) -> bool {
        self.delivered.contains_key(batch)
    }

    /// Committed blocks above the garbage-collection round.
    #[must_use]
    pub const fn committed(&self) -> &BTreeSet<BlockRef> {
        &self.committed
    }

    /// Which block owns each delivered slot above the garbage-collection round.
    #[must_use]
    pub const fn slots(&self) -> &BTreeMap<Slot, Hash> {
        &self.slots
    }

    /// Delivered batches in the window, with the leader round of their commit.
    #[must_use]
    pub const fn delivered(&self) -> &BTreeMap<Hash, Round> {
        &self.delivered
    }

    /// The faults, of this epoch and earlier ones, that commits of this epoch prove: more evidence of one of them does
    /// nothing.
    #[must_use]
    pub const fn proven(&self) -> &BTreeSet<Accusation> {
        &self.proven
    }

    /// Whether a commit of this epoch proves this fault of it.
    #[must_use]
    pub fn has_proven(&self, author: AuthorIdx, kind: EvidenceKind) -> bool {
        self.proven.contains(&(self.epoch, author, kind))
    }

    /// What delivered blocks attest.
    #[must_use]
    pub const fn agreement(&self) -> &Agreement {
        &self.agreement
    }

    /// Makes the commit of a decided leader. `verdict` tells whether the signatures of carried evidence are good: a
    /// function of the evidence's bytes, known before a block that carries it is accepted.
    ///
    /// # Errors
    /// If the leader's history is not complete, or a verdict is not known: an error of this program.
    pub fn apply(
        &mut self,
        committee: &Committee,
        store: &Store,
        lead: Lead,
        verdict: &dyn Fn(&Evidence) -> Option<bool>,
    ) -> Result<Flush, HaltReason> {
        let Lead { slot, leader, schedule_digest, certified_ms } = lead;
        let refs = self.order(self.collect(store, leader)?);
        let timestamp_ms = match certified_ms {
            Some(time) => time,
            None => self.time(committee, store, leader)?,
        };
        let mut twins = Vec::new();
        let mut blocks = Vec::with_capacity(refs.len());
        let mut faults = Vec::new();
        for reference in &refs {
            let batches = self.deliver(store, leader.round, *reference);
            if batches.is_none() {
                twins.push(*reference);
                faults.extend(self.prove_twin(*reference));
            }
            self.prove_carried(store, *reference, verdict, &mut faults)?;
            faults.extend(self.prove_wrong(committee, store, *reference));
            blocks.push(CommittedBlock { block: *reference, batches: batches.unwrap_or_default() });
        }
        let newest = if has(Mutation::GcByClock) { store.highest_round() } else { leader.round };
        let header = CommitHeader {
            epoch: self.epoch,
            index: self.last_ref.index + 1,
            prev_digest: self.last_ref.digest,
            timestamp_ms,
            leader,
            blocks_root: blocks_root(refs.iter()),
            block_count: u32::try_from(refs.len()).unwrap_or(u32::MAX),
            gc_round: self.gc_round.max(newest.saturating_sub(self.gc_depth)),
            schedule_digest,
            last_decided: slot,
        };
        self.finish(&header, refs);
        Ok(Flush { commit: Commit { header, blocks, epoch_end: None, faults, state_digest: Hash::ZERO }, twins })
    }

    /// Two versions of a slot in the order: proof by itself, since only signed blocks are accepted.
    fn prove_twin(&mut self, twin: BlockRef) -> Option<ProvenFault> {
        let owner = self.slots.get(&twin.slot())?;
        let digest = conflict_digest(EvidenceKind::Equivocation, owner, &twin.digest);
        self.prove((self.epoch, twin.author, EvidenceKind::Equivocation), twin.author, digest)
    }

    /// What the evidence in a delivered block proves that was not proven before.
    fn prove_carried(
        &mut self,
        store: &Store,
        carrier: BlockRef,
        verdict: &dyn Fn(&Evidence) -> Option<bool>,
        faults: &mut Vec<ProvenFault>,
    ) -> Result<(), HaltReason> {
        let Some(stored) = store.get(&carrier) else { return Ok(()) };
        for evidence in &stored.block.extras.evidence {
            let accusation = evidence.accusation();
            if self.proven.contains(&accusation) {
                continue;
            }
            if verdict(evidence).ok_or(HaltReason::MissingVerdict { block: carrier })? {
                faults.extend(self.prove(accusation, carrier.author, evidence.digest()));
            }
        }
        Ok(())
    }

    /// Whose attestation, in this delivered block or one before it, is not what a quorum attests. A second version of a
    /// slot is signed as well, and counts.
    fn prove_wrong(&mut self, committee: &Committee, store: &Store, block: BlockRef) -> Vec<ProvenFault> {
        let Some(stored) = store.get(&block).filter(|_| self.judges_attestations) else { return Vec::new() };
        let wrong = self.agreement.note(committee, block.author, stored.block.core.attestation);
        wrong.iter().map(|wrong| ProvenFault::wrong_attestation(self.epoch, wrong)).collect()
    }

    fn prove(&mut self, accusation: Accusation, reporter: AuthorIdx, digest: Hash) -> Option<ProvenFault> {
        let (epoch, author, kind) = accusation;
        self.proven.insert(accusation).then(|| ProvenFault { epoch, author, kind: kind.into(), reporter, digest })
    }

    fn finish(&mut self, header: &CommitHeader, refs: Vec<BlockRef>) {
        self.last_ref = header.reference();
        self.gc_round = header.gc_round;
        self.committed.extend(refs);
        let above = BlockRef { round: self.gc_round.saturating_add(1), author: 0, digest: Hash::ZERO };
        self.committed = self.committed.split_off(&above);
        self.slots = self.slots.split_off(&above.slot());
        let window = DELIVERED_WINDOWS.saturating_mul(self.gc_depth);
        let oldest = header.leader.round.saturating_sub(window);
        self.delivered.retain(|_, round| *round >= oldest);
        self.last = Some(header.clone());
    }

    /// The leader's history that no commit holds yet, above the garbage-collection round.
    fn collect(&self, store: &Store, leader: BlockRef) -> Result<Vec<BlockRef>, HaltReason> {
        let mut seen = BTreeSet::from([leader]);
        let mut open = vec![leader];
        while let Some(next) = open.pop() {
            let Some(stored) = store.get(&next) else {
                return Err(HaltReason::MissingHistory { block: next, round: leader.round });
            };
            for parent in &stored.block.parents {
                let new = parent.round > self.gc_round && parent.round > 0 && !self.committed.contains(parent);
                if new && seen.insert(*parent) {
                    open.push(*parent);
                }
            }
        }
        Ok(seen.into_iter().collect())
    }

    /// By round; within it by a permutation of the authors that no author can choose; then by digest.
    fn order(&self, mut refs: Vec<BlockRef>) -> Vec<BlockRef> {
        let previous = self.last_ref.digest;
        refs.sort_by_cached_key(|block| {
            let parts: [&[u8]; 3] = [previous.as_bytes(), &block.round.to_le_bytes(), &block.author.to_le_bytes()];
            (block.round, h_parts("order", &parts), block.digest)
        });
        refs
    }

    /// The stake-weighted median of the strong parents' timestamps, never before the previous commit.
    fn time(&self, committee: &Committee, store: &Store, leader: BlockRef) -> Result<TimeMs, HaltReason> {
        let missing = |block| HaltReason::MissingHistory { block, round: leader.round };
        let block = &store.get(&leader).ok_or_else(|| missing(leader))?.block;
        let previous = self.last_ms();
        let mut times: Vec<(TimeMs, Stake)> = Vec::new();
        for parent in block.parents.iter().filter(|p| p.round > 0 && p.round + 1 == leader.round) {
            let stored = store.get(parent).ok_or_else(|| missing(*parent))?;
            times.push((stored.block.core.timestamp_ms, committee.stake(parent.author)));
        }
        Ok(previous.max(median(times).unwrap_or(block.core.timestamp_ms)))
    }

    /// The batches of a block that count; `None` if another version owns its slot.
    fn deliver(&mut self, store: &Store, leader_round: Round, reference: BlockRef) -> Option<Vec<BatchRef>> {
        let owner = *self.slots.entry(reference.slot()).or_insert(reference.digest);
        if owner != reference.digest {
            return None;
        }
        let block = &store.get(&reference)?.block;
        let mut batches = Vec::new();
        for batch in &block.batches {
            if let std::collections::btree_map::Entry::Vacant(entry) = self.delivered.entry(batch.digest) {
                entry.insert(leader_round);
                batches.push(*batch);
            }
        }
        Some(batches)
    }
}

/// The smallest time whose cumulative stake reaches half of the total, plus one. `None` for no times: the leader of round 1, whose
/// parents are genesis.
fn median(mut times: Vec<(TimeMs, Stake)>) -> Option<TimeMs> {
    times.sort_unstable();
    let half = times.iter().map(|(_, stake)| stake).sum::<Stake>() / 2 + 1;
    let mut sum = 0;
    times.into_iter().find_map(|(time, stake)| {
        sum += stake;
        (sum >= half).then_some(time)
    })
}
