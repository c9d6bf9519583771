//! The commit rule again, slow and literal: the specification's reference model over a whole DAG.
//!
//! Shares nothing with `committer` but the names of things. Simulations run it beside every machine; tests break it on
//! purpose, one [`Mutation`] at a time, to show that the suite would notice.

use std::collections::{BTreeMap, BTreeSet};

use crate::committee::{Committee, StakeSet};
use crate::committer::Decision;
use crate::types::{AuthorIdx, BlockRef, CommitIndex, LeaderSlot, Round, Stake};

/// A deliberate error in the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// None: the rule of the specification.
    None,
    /// Anchors are looked for from the round r+2 on.
    AnchorsFromTwo,
    /// The walk for an anchor goes past undecided slots.
    WalkPastUndecided,
    /// V certificates commit, not Q.
    CommitWithV,
    /// V votes certify, not Q.
    CertifyWithV,
    /// V blames skip, not Q.
    SkipWithV,
    /// Blocks are counted, not authors.
    CountBlocks,
    /// The indirect rule commits whatever version is in the anchor's history, certified or not.
    IndirectWithoutCertificate,
    /// A slot is skipped when a quorum references no version of it, instead of per version.
    SkipOnlyUnreferenced,
    /// Garbage collection is not part of the flush.
    FlushWithoutGc,
    /// A new leader table is applied one commit late.
    ScheduleLate,
    /// What was decided under the old leaders beyond the last commit of a window is still output.
    KeepOldStatuses,
    /// What later leaders of the old table decided in the other slots of the round that ends a window is kept.
    KeepOldAnchors,
}

/// A whole DAG.
#[derive(Debug, Clone)]
pub struct Oracle {
    pub(crate) committee: Committee,
    pub(crate) mutation: Mutation,
    gc_depth: Round,
    /// Commits of earlier epochs: windows count on over them.
    pub(crate) base: CommitIndex,
    pub(crate) names: Vec<BlockRef>,
    pub(crate) parents: Vec<Vec<usize>>,
    pub(crate) index: BTreeMap<BlockRef, usize>,
    rounds: BTreeMap<Round, Vec<usize>>,
    /// Whose equivocation the evidence in a block proves.
    pub(crate) accused: BTreeMap<BlockRef, BTreeSet<AuthorIdx>>,
}

/// One commit of the oracle: the leader and its newly ordered history, by round and author.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OracleCommit {
    /// The leader.
    pub leader: BlockRef,
    /// The blocks, sorted by reference.
    pub blocks: Vec<BlockRef>,
}

/// What is ordered already.
#[derive(Debug, Default)]
pub(crate) struct Flushed {
    committed: BTreeSet<usize>,
    gc_round: Round,
}

impl Oracle {
    /// An empty DAG.
    #[must_use]
    pub const fn new(committee: Committee, gc_depth: Round, mutation: Mutation) -> Self {
        Self {
            committee,
            mutation,
            gc_depth,
            base: 0,
            names: Vec::new(),
            parents: Vec::new(),
            index: BTreeMap::new(),
            rounds: BTreeMap::new(),
            accused: BTreeMap::new(),
        }
    }

    /// The same in an epoch that starts after so many commits.
    #[must_use]
    pub fn after(mut self, base: CommitIndex) -> Self {
        self.base = base;
        self
    }

    /// Adds a block. Parents that are not in the DAG (genesis, or garbage-collected) are left out.
    pub fn insert(&mut self, block: BlockRef, parents: &[BlockRef]) {
        if self.index.contains_key(&block) {
            return;
        }
        let parents = parents.iter().filter_map(|p| self.index.get(p).copied()).collect();
        let id = self.names.len();
        self.names.push(block);
        self.parents.push(parents);
        self.index.insert(block, id);
        self.rounds.entry(block.round).or_default().push(id);
    }

    /// A block carries good evidence of this author's equivocation.
    pub fn accuse(&mut self, block: BlockRef, author: AuthorIdx) {
        self.accused.entry(block).or_default().insert(author);
    }

    /// Decides every slot after `last` that can be decided, in order; `None` for the undecided ones.
    ///
    /// # Panics
    /// If two versions of a slot are certified.
    #[must_use]
    pub fn decide(
        &self,
        leaders: &dyn Fn(Round) -> Vec<AuthorIdx>,
        last: LeaderSlot,
    ) -> Vec<(LeaderSlot, Option<Decision>)> {
        self.decide_knowing(leaders, last, &mut BTreeMap::new())
    }

    /// The same. `direct` holds what was found directly before, by round and author: that depends on the DAG alone.
    pub(crate) fn decide_knowing(
        &self,
        leaders: &dyn Fn(Round) -> Vec<AuthorIdx>,
        last: LeaderSlot,
        direct: &mut BTreeMap<(Round, AuthorIdx), Option<Decision>>,
    ) -> Vec<(LeaderSlot, Option<Decision>)> {
        let highest = self.rounds.last_key_value().map_or(0, |(round, _)| *round);
        let mut slots = Vec::new();
        for round in last.round.max(1)..=highest {
            for (offset, author) in (0_u16..).zip(leaders(round)) {
                if last.round == 0 || (round, offset) > last.position() {
                    slots.push(LeaderSlot { round, offset, author });
                }
            }
        }
        let mut status: Vec<Option<Decision>> = vec![None; slots.len()];
        for position in (0..slots.len()).rev() {
            let slot = slots[position];
            let own = *direct.entry((slot.round, slot.author)).or_insert_with(|| self.direct(slot));
            status[position] = own.or_else(|| self.indirect(slot, &slots, &status));
        }
        slots.into_iter().zip(status).collect()
    }

    /// The commits of the longest decided prefix, under leaders that never change.
    #[must_use]
    pub fn commits(&self, leaders: &dyn Fn(Round) -> Vec<AuthorIdx>) -> Vec<OracleCommit> {
        let mut flushed = Flushed::default();
        let decided = self.decide(leaders, LeaderSlot::default());
        let prefix = decided.into_iter().map_while(|(_, decision)| decision);
        let leaders = prefix.filter_map(|decision| match decision {
            Decision::Commit(leader) => Some(leader),
            Decision::Skip => None,
        });
        leaders.map(|leader| OracleCommit { leader, blocks: self.flush(leader, &mut flushed) }).collect()
    }

    /// The history of a leader that no commit holds yet, sorted.
    pub(crate) fn flush(&self, leader: BlockRef, flushed: &mut Flushed) -> Vec<BlockRef> {
        let floor = if self.mutation == Mutation::FlushWithoutGc { 0 } else { flushed.gc_round };
        let mut seen = BTreeSet::from([self.index[&leader]]);
        let mut open = vec![self.index[&leader]];
        while let Some(next) = open.pop() {
            for parent in &self.parents[next] {
                let new = self.names[*parent].round > floor && !flushed.committed.contains(parent);
                if new && seen.insert(*parent) {
                    open.push(*parent);
                }
            }
        }
        flushed.committed.extend(seen.iter().copied());
        flushed.gc_round = flushed.gc_round.max(leader.round.saturating_sub(self.gc_depth));
        let mut blocks: Vec<BlockRef> = seen.iter().map(|id| self.names[*id]).collect();
        blocks.sort_unstable();
        blocks
    }

    fn at(&self, round: Round) -> &[usize] {
        self.rounds.get(&round).map(Vec::as_slice).unwrap_or_default()
    }

    fn versions(&self, slot: LeaderSlot) -> Vec<usize> {
        self.at(slot.round).iter().copied().filter(|id| self.names[*id].author == slot.author).collect()
    }

    fn weight(&self, blocks: impl Iterator<Item = usize>) -> Stake {
        let authors = blocks.map(|id| self.names[id].author);
        if self.mutation == Mutation::CountBlocks {
            authors.map(|author| self.committee.stake(author)).sum()
        } else {
            StakeSet::of(&self.committee, authors).stake()
        }
    }

    fn votes(&self, voter: usize, leader: usize) -> bool {
        self.parents[voter].contains(&leader)
    }

    fn certifies(&self, block: usize, leader: usize) -> bool {
        let round = self.names[leader].round + 1;
        let voters = self.parents[block].iter().copied();
        let votes = voters.filter(|p| self.names[*p].round == round && self.votes(*p, leader));
        let needed =
            if self.mutation == Mutation::CertifyWithV { self.committee.validity() } else { self.committee.quorum() };
        self.weight(votes) >= needed
    }

    fn direct(&self, slot: LeaderSlot) -> Option<Decision> {
        let quorum = self.committee.quorum();
        let versions = self.versions(slot);
        let voters = self.at(slot.round + 1);
        let skip_needs = if self.mutation == Mutation::SkipWithV { self.committee.validity() } else { quorum };
        let skipped = if self.mutation == Mutation::SkipOnlyUnreferenced {
            let blaming = voters.iter().copied().filter(|v| !versions.iter().any(|x| self.votes(*v, *x)));
            self.weight(blaming) >= quorum
        } else {
            self.weight(voters.iter().copied()) >= quorum
                && versions
                    .iter()
                    .all(|x| self.weight(voters.iter().copied().filter(|v| !self.votes(*v, *x))) >= skip_needs)
        };
        if skipped {
            return Some(Decision::Skip);
        }
        let needed = if self.mutation == Mutation::CommitWithV { self.committee.validity() } else { quorum };
        let mut certified = versions.iter().filter(|x| {
            let certificates = self.at(slot.round + 2).iter().copied().filter(|c| self.certifies(*c, **x));
            self.weight(certificates) >= needed
        });
        let found = certified.next().map(|x| Decision::Commit(self.names[*x]));
        assert!(self.mutation != Mutation::None || certified.next().is_none(), "two certified versions in {slot:?}");
        found
    }

    fn indirect(&self, slot: LeaderSlot, slots: &[LeaderSlot], status: &[Option<Decision>]) -> Option<Decision> {
        let first = slot.round + if self.mutation == Mutation::AnchorsFromTwo { 2 } else { 3 };
        for (later, decided) in slots.iter().zip(status) {
            if later.round < first {
                continue;
            }
            match decided {
                Some(Decision::Skip) => {}
                None if self.mutation == Mutation::WalkPastUndecided => {}
                None => return None,
                Some(Decision::Commit(anchor)) => {
                    let history = self.history(self.index[anchor], slot.round);
                    let mut seen = self.versions(slot).into_iter().filter(|x| {
                        if self.mutation == Mutation::IndirectWithoutCertificate {
                            return history.contains(x);
                        }
                        let at = |c: &&usize| self.names[**c].round == slot.round + 2;
                        history.iter().filter(at).any(|c| self.certifies(*c, *x))
                    });
                    let found = seen.next();
                    assert!(self.mutation != Mutation::None || seen.next().is_none(), "two versions in {slot:?}");
                    return Some(found.map_or(Decision::Skip, |x| Decision::Commit(self.names[x])));
                }
            }
        }
        None
    }

    /// The history of a block, itself included, down to a round: parents are of lower rounds, so nothing above is missed.
    fn history(&self, from: usize, lowest: Round) -> BTreeSet<usize> {
        let mut seen = BTreeSet::from([from]);
        let mut open = vec![from];
        while let Some(next) = open.pop() {
            for parent in &self.parents[next] {
                if self.names[*parent].round >= lowest && seen.insert(*parent) {
                    open.push(*parent);
                }
            }
        }
        seen
    }
}
