//! The commit rule (consensus.md 5), decided incrementally as blocks are accepted.
//!
//! Keeps per undecided leader slot who voted for what and who certified what, so that the direct rule is a comparison.
//! Only a new direct decision can settle anything else, so nothing is walked before there is one. The slow
//! whole-DAG form of the same rule stands in `oracle`; tests hold the two together on every prefix.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aurigraph_ledger::hash::Hash;

use crate::block::Block;
use crate::committee::{Committee, StakeSet};
use crate::event::HaltReason;
use crate::mutation::{Mutation, has};
use crate::schedule::Schedule;
use crate::store::Store;
use crate::types::{BlockRef, LeaderSlot, Round};

/// What became of a leader slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// This block leads a commit.
    Commit(BlockRef),
    /// No block of this slot leads one.
    Skip,
}

/// A decided slot in its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided {
    /// The slot.
    pub slot: LeaderSlot,
    /// What became of it.
    pub decision: Decision,
    /// Whether its own votes decided, not a later leader.
    pub direct: bool,
}

/// What is known of a slot that is not output yet.
#[derive(Debug)]
struct SlotState {
    slot: LeaderSlot,
    versions: BTreeSet<Hash>,
    /// Authors with a block in the round after.
    voters: StakeSet,
    /// The version each block of the round after votes for.
    votes: BTreeMap<BlockRef, Option<Hash>>,
    /// Per version: authors with a block in the round after that does not vote for it.
    against: BTreeMap<Hash, StakeSet>,
    /// Per version: authors with a certificate, and the certificates, two rounds after.
    certified: BTreeMap<Hash, (StakeSet, BTreeSet<BlockRef>)>,
    decided: Option<(Decision, bool)>,
}

impl SlotState {
    fn new(slot: LeaderSlot) -> Self {
        Self {
            slot,
            versions: BTreeSet::new(),
            voters: StakeSet::default(),
            votes: BTreeMap::new(),
            against: BTreeMap::new(),
            certified: BTreeMap::new(),
            decided: None,
        }
    }

    fn reference(&self, version: Hash) -> BlockRef {
        BlockRef { round: self.slot.round, author: self.slot.author, digest: version }
    }

    fn add_version(&mut self, committee: &Committee, version: Hash) {
        if self.versions.insert(version) {
            let against = self.votes.iter().filter(|(_, vote)| **vote != Some(version));
            let against = StakeSet::of(committee, against.map(|(voter, _)| voter.author));
            self.against.insert(version, against);
        }
    }

    fn add_voter(&mut self, committee: &Committee, voter: BlockRef, parents: &[BlockRef]) {
        let slot = self.slot;
        let vote = parents.iter().find(|p| p.round == slot.round && p.author == slot.author).map(|p| p.digest);
        self.voters.add(committee, voter.author);
        self.votes.insert(voter, vote);
        for (version, against) in &mut self.against {
            if vote != Some(*version) {
                against.add(committee, voter.author);
            }
        }
    }

    fn add_certifier(&mut self, committee: &Committee, block: BlockRef, parents: &[BlockRef]) {
        let mut tally: BTreeMap<Hash, StakeSet> = BTreeMap::new();
        for parent in parents {
            if let Some(Some(version)) = self.votes.get(parent) {
                tally.entry(*version).or_default().add(committee, parent.author);
            }
        }
        for (version, votes) in tally {
            if votes.stake() >= committee.quorum() {
                let (authors, blocks) = self.certified.entry(version).or_default();
                authors.add(committee, block.author);
                blocks.insert(block);
            }
        }
    }

    /// The direct rule. Returns whether it has just decided the slot.
    fn decide_direct(&mut self, committee: &Committee) -> Result<bool, HaltReason> {
        let quorum = committee.quorum();
        let needed = if has(Mutation::CommitWithV) { committee.validity() } else { quorum };
        let weight = |(authors, blocks): &(StakeSet, BTreeSet<BlockRef>)| {
            let counted = || blocks.iter().map(|block| committee.stake(block.author)).sum();
            if has(Mutation::CountBlocks) { counted() } else { authors.stake() }
        };
        let mut certified = self.certified.iter().filter(|(_, found)| weight(found) >= needed);
        let first = certified.next().map(|(version, _)| *version);
        if let (Some(a), Some((b, _))) = (first, certified.next()) {
            return Err(HaltReason::TwoCertified { a: self.reference(a), b: self.reference(*b) });
        }
        if self.decided.is_some() {
            return Ok(false);
        }
        let skip = self.voters.stake() >= quorum && self.against.values().all(|a| a.stake() >= quorum);
        self.decided = match first {
            _ if skip => Some((Decision::Skip, true)),
            Some(version) => Some((Decision::Commit(self.reference(version)), true)),
            None => return Ok(false),
        };
        Ok(true)
    }

    /// The indirect rule with its anchor: the version that has a certificate in the anchor's history.
    fn decide_by_anchor(&self, store: &Store, anchor: BlockRef) -> Result<Decision, HaltReason> {
        let history = history_at(store, anchor, self.slot.round.saturating_add(2));
        let mut seen = self.certified.iter().filter(|(_, (_, blocks))| blocks.iter().any(|c| history.contains(c)));
        match (seen.next(), seen.next()) {
            (Some((a, _)), Some((b, _))) => {
                Err(HaltReason::TwoCertified { a: self.reference(*a), b: self.reference(*b) })
            }
            (Some((version, _)), None) => Ok(Decision::Commit(self.reference(*version))),
            (None, _) => Ok(Decision::Skip),
        }
    }
}

/// Blocks of one round in the history of a block, itself included.
fn history_at(store: &Store, from: BlockRef, round: Round) -> BTreeSet<BlockRef> {
    let mut seen = BTreeSet::from([from]);
    let mut open = vec![from];
    while let Some(next) = open.pop() {
        let parents = store.get(&next).map(|stored| stored.block.parents.as_slice()).unwrap_or_default();
        for parent in parents.iter().filter(|p| p.round >= round) {
            if seen.insert(*parent) {
                open.push(*parent);
            }
        }
    }
    seen.retain(|block| block.round == round);
    seen
}

/// What the walk for an anchor finds from some slot on.
#[derive(Clone, Copy)]
enum Walk {
    /// Only skipped slots, then this leader.
    Anchor(BlockRef),
    /// An undecided slot, or the end: the walk must stop.
    Undecided,
}

/// The incremental committer.
#[derive(Debug)]
pub struct Committer {
    last_decided: LeaderSlot,
    /// Consecutive slots after `last_decided`.
    slots: VecDeque<SlotState>,
    /// The first round without slots.
    next_round: Round,
    /// A slot was decided directly and the rest not looked at since.
    dirty: bool,
}

impl Committer {
    /// A committer that continues after a decided slot; the default slot for the beginning.
    #[must_use]
    pub fn new(last_decided: LeaderSlot) -> Self {
        let next_round = last_decided.round.max(1);
        Self { last_decided, slots: VecDeque::new(), next_round, dirty: false }
    }

    /// The newest slot that was output.
    #[must_use]
    pub const fn last_decided(&self) -> LeaderSlot {
        self.last_decided
    }

    /// How many slots are seen and not output.
    #[must_use]
    pub fn undecided(&self) -> usize {
        self.slots.len()
    }

    /// Takes an accepted block.
    ///
    /// # Errors
    /// If a slot has two certified versions.
    pub fn on_accept(
        &mut self,
        committee: &Committee,
        schedule: &Schedule,
        reference: BlockRef,
        block: &Block,
    ) -> Result<(), HaltReason> {
        self.open_rounds(committee, schedule, reference.round);
        let round = reference.round;
        let Some(first) = self.slots.front().map(|state| state.slot.round) else { return Ok(()) };
        let mut decided = false;
        for state in self.of_rounds(first, round.saturating_sub(2), round) {
            let slot = state.slot;
            if slot.round == round {
                if slot.author != reference.author {
                    continue;
                }
                state.add_version(committee, reference.digest);
            } else if slot.round + 1 == round {
                state.add_voter(committee, reference, &block.parents);
            } else {
                state.add_certifier(committee, reference, &block.parents);
            }
            decided |= state.decide_direct(committee)?;
        }
        self.dirty |= decided;
        Ok(())
    }

    /// Decides what can be decided, without output.
    ///
    /// # Errors
    /// If a slot has two certified versions.
    pub fn decide(&mut self, store: &Store) -> Result<(), HaltReason> {
        if !std::mem::take(&mut self.dirty) {
            return Ok(());
        }
        // What the walk finds when it starts with the first slot of a round.
        let mut from_round: BTreeMap<Round, Walk> = BTreeMap::new();
        let first = if has(Mutation::AnchorsFromTwo) { 2 } else { 3 };
        let mut end = self.slots.len();
        while let Some(round) = end.checked_sub(1).and_then(|last| self.slots.get(last)).map(|s| s.slot.round) {
            let start = self.slots.partition_point(|state| state.slot.round < round);
            let anchor = from_round.get(&round.saturating_add(first)).copied().unwrap_or(Walk::Undecided);
            for state in self.slots.range_mut(start..end) {
                if let (None, Walk::Anchor(anchor)) = (state.decided, anchor) {
                    state.decided = Some((state.decide_by_anchor(store, anchor)?, false));
                }
            }
            let mut walk = from_round.get(&round.saturating_add(1)).copied().unwrap_or(Walk::Undecided);
            for state in self.slots.range(start..end).rev() {
                walk = match state.decided {
                    None if has(Mutation::WalkPastUndecided) => walk,
                    None => Walk::Undecided,
                    Some((Decision::Skip, _)) => walk,
                    Some((Decision::Commit(leader), _)) => Walk::Anchor(leader),
                };
            }
            from_round.insert(round, walk);
            end = start;
        }
        Ok(())
    }

    /// The leaders of the rounds above `round` have changed: forgets what was decided under the old ones.
    ///
    /// That is every slot above the round, and what a later leader has decided in the round's remaining slots: that
    /// leader may be none now, and another node may decide these slots only after the change. Direct decisions there
    /// stand: they rest on the slot's own votes, and every later leader agrees with them.
    ///
    /// # Errors
    /// If a slot has two certified versions.
    pub fn reschedule(
        &mut self,
        committee: &Committee,
        schedule: &Schedule,
        store: &Store,
        round: Round,
    ) -> Result<(), HaltReason> {
        let kept = self.slots.partition_point(|state| state.slot.round <= round);
        self.slots.truncate(kept);
        for state in self.slots.iter_mut().filter(|state| matches!(state.decided, Some((_, false)))) {
            state.decided = None;
        }
        let first = round.saturating_add(1);
        self.next_round = self.next_round.min(first);
        for (reference, stored) in store.from_round(first) {
            self.on_accept(committee, schedule, reference, &stored.block)?;
        }
        self.dirty = true;
        Ok(())
    }

    /// Decides the slots up to this one as a quorum says it has decided them: all skipped but this one, which `leader`
    /// leads. Their blocks are here.
    ///
    /// # Errors
    /// If this node has decided one of them otherwise, or has other leaders.
    pub fn certify(&mut self, slot: LeaderSlot, leader: BlockRef) -> Result<(), &'static str> {
        let end = self.slots.partition_point(|state| state.slot.position() <= slot.position());
        let last = end.checked_sub(1).and_then(|last| self.slots.get(last)).map(|state| state.slot);
        if last != Some(slot) || leader.round != slot.round || leader.author != slot.author {
            return Err("the leader's slot");
        }
        for state in self.slots.range_mut(..end) {
            let decision = if state.slot == slot { Decision::Commit(leader) } else { Decision::Skip };
            if state.decided.is_some_and(|(decided, _)| decided != decision) {
                return Err("the decision of a slot");
            }
            state.decided = state.decided.or(Some((decision, false)));
        }
        Ok(())
    }

    /// The next slot in order, if it is decided.
    pub fn pop(&mut self) -> Option<Decided> {
        let (decision, direct) = self.slots.front()?.decided?;
        let state = self.slots.pop_front()?;
        self.last_decided = state.slot;
        Some(Decided { slot: state.slot, decision, direct })
    }

    /// What is known of every slot that is not output yet, in order.
    pub fn statuses(&self) -> impl Iterator<Item = (LeaderSlot, Option<Decision>)> + '_ {
        self.slots.iter().map(|state| (state.slot, state.decided.map(|(decision, _)| decision)))
    }

    fn open_rounds(&mut self, committee: &Committee, schedule: &Schedule, up_to: Round) {
        while self.next_round <= up_to {
            let round = self.next_round;
            for (offset, author) in (0_u16..).zip(schedule.leaders(committee, round)) {
                let slot = LeaderSlot { round, offset, author };
                let decided = self.last_decided.round > 0 && slot.position() <= self.last_decided.position();
                if !decided {
                    self.slots.push_back(SlotState::new(slot));
                }
            }
            let Some(next) = round.checked_add(1) else { return };
            self.next_round = next;
        }
    }

    /// The open slots of the rounds `low..=high`; `first` is the first open slot's round.
    fn of_rounds(&mut self, first: Round, low: Round, high: Round) -> impl Iterator<Item = &mut SlotState> {
        let low = low.max(first);
        let start = self.slots.partition_point(|state| state.slot.round < low);
        let end = self.slots.partition_point(|state| state.slot.round <= high);
        self.slots.range_mut(start..end.max(start))
    }
}
