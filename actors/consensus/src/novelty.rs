//! The novelty budget (consensus.md 3.4): how many unknown blocks one pushed block may pull in at once.
//!
//! Equivocators that collude can show cones that grow without end. What is missing below a pushed block is its price; up
//! to the budget it is fetched at once, beyond at a pace of one budget an interval for the peer that pushed it, cheapest
//! first. Nothing is refused: a correct validator that comes back from a long absence of others is delayed, not lost.

use std::collections::BTreeMap;

use aurigraph_ledger::hash::Hash;

use crate::machine::Machine;
use crate::types::{AuthorIdx, BlockRef, Round, TimeMs};

/// Deferred blocks are looked at this often: about a round of a busy cluster.
const INTERVAL_MS: TimeMs = 50;

/// A missing block whose fetch was put off.
#[derive(Debug)]
struct Deferred {
    /// Who should have it.
    holders: Vec<AuthorIdx>,
    /// Who pushed the block that pulls it in.
    introducer: AuthorIdx,
    /// What that block still lacks.
    price: usize,
}

/// What was put off.
#[derive(Debug, Default)]
pub(crate) struct Novelty {
    deferred: BTreeMap<BlockRef, Deferred>,
    due_ms: Option<TimeMs>,
}

impl Novelty {
    pub(crate) fn len(&self) -> usize {
        self.deferred.len()
    }

    pub(crate) fn next_due_ms(&self) -> Option<TimeMs> {
        self.due_ms.filter(|_| !self.deferred.is_empty())
    }

    pub(crate) fn advance_gc(&mut self, gc_round: Round) {
        let above = BlockRef { round: gc_round.saturating_add(1), author: 0, digest: Hash::ZERO };
        self.deferred = self.deferred.split_off(&above);
    }

    fn put_off(&mut self, block: BlockRef, deferred: Deferred, due_ms: TimeMs, limit: usize) {
        self.due_ms.get_or_insert(due_ms);
        self.deferred.entry(block).or_insert(deferred);
        // As of wanted blocks, what lies farthest above goes first. Whoever needs it names it again.
        while self.deferred.len() > limit {
            self.deferred.pop_last();
        }
    }

    /// What may be fetched now: of each introducer the cheapest, up to the budget; the lowest rounds first.
    fn take(&mut self, budget: usize) -> Vec<(BlockRef, Vec<AuthorIdx>)> {
        let mut order: Vec<(AuthorIdx, usize, BlockRef)> =
            self.deferred.iter().map(|(block, it)| (it.introducer, it.price, *block)).collect();
        order.sort_unstable();
        let (mut taken, mut spent) = (Vec::new(), (None, 0));
        for (introducer, _, block) in order {
            spent = if spent.0 == Some(introducer) { (spent.0, spent.1 + 1) } else { (Some(introducer), 1) };
            if spent.1 <= budget
                && let Some(it) = self.deferred.remove(&block)
            {
                taken.push((block, it.holders));
            }
        }
        taken
    }
}

impl Machine {
    /// T: twice the validators.
    fn budget(&self) -> usize {
        2 * self.ctx.committee.len()
    }

    /// Looks for the missing parents of a waiting block: now, or later if what pulls them in costs more than the budget.
    pub(crate) fn want_parents(&mut self, child: BlockRef, unknown: Vec<BlockRef>, holders: &[AuthorIdx]) {
        let (budget, now, limit) = (self.budget(), self.now.mono_ms, self.config.limits.want_blocks);
        // What catch-up or another block needs at a low price is not put off.
        let (price, introducer) = self.suspended.price(&child, 4 * budget);
        for parent in unknown {
            if price > budget && !self.catch_up.takes_certified() && !self.fetcher.is_wanted(&parent) {
                self.counters.blocks_deferred += 1;
                let deferred = Deferred { holders: holders.to_vec(), introducer, price };
                self.novelty.put_off(parent, deferred, now.saturating_add(INTERVAL_MS), limit);
                continue;
            }
            let recent = parent.round.saturating_add(2) >= self.clock.round();
            let grace = if recent { self.config.pacing.fetch_grace_ms } else { 0 };
            self.fetcher.want(parent, holders, now.saturating_add(grace), self.clock.round(), limit);
        }
    }

    /// Lets the next deferred blocks be fetched.
    pub(crate) fn tend_novelty(&mut self) {
        let now = self.now.mono_ms;
        if self.novelty.next_due_ms().is_none_or(|due| due > now) {
            return;
        }
        self.novelty.due_ms = Some(now.saturating_add(INTERVAL_MS));
        for (block, holders) in self.novelty.take(self.budget()) {
            if self.suspended.is_awaited(&block) && !self.is_known(&block) {
                self.fetcher.want(block, &holders, now, self.clock.round(), self.config.limits.want_blocks);
            }
        }
        if self.novelty.deferred.is_empty() {
            self.novelty.due_ms = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_introducer_has_its_own_budget_and_the_cheapest_come_first() {
        let block = |round: Round, author: AuthorIdx| BlockRef { round, author, digest: Hash([1; 32]) };
        let mut novelty = Novelty::default();
        for round in 1..=20 {
            let price = if round == 9 { 10 } else { 40 };
            novelty.put_off(block(round, 3), Deferred { holders: vec![3], introducer: 3, price }, 50, 100);
        }
        novelty.put_off(block(30, 2), Deferred { holders: vec![1], introducer: 1, price: 9 }, 50, 100);
        let taken: Vec<BlockRef> = novelty.take(3).into_iter().map(|(block, _)| block).collect();
        assert_eq!(taken, [block(30, 2), block(9, 3), block(1, 3), block(2, 3)]);
        assert_eq!(novelty.len(), 17);
        novelty.put_off(block(40, 0), Deferred { holders: vec![], introducer: 0, price: 9 }, 50, 17);
        assert!(!novelty.deferred.contains_key(&block(40, 0)), "the farthest goes first");
        novelty.advance_gc(20);
        assert_eq!((novelty.len(), novelty.next_due_ms()), (0, None));
    }
}
