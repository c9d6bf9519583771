//! Looks at everybody during a run, and the end of it: who has caught up, and whether the state is the same.

use std::collections::{BTreeMap, BTreeSet};

use aurigraph_consensus::schedule::Schedule;
use aurigraph_consensus::{Committee, Counters};
use aurigraph_ledger::Hash;

use super::Property;
use super::checks::{Broken, against_oracle, broken};
use super::coverage::{Coverage, Mark};
use super::executor::Executor;
use super::node::Node;
use super::scenario::Ms;
use super::world::{Happening, LOOK_MS, World};

/// After the last fault everybody must have caught up within this time.
const SETTLE_MS: Ms = 40_000;
/// From then on everybody must execute another commit within this time, whatever faulty validators do.
const PROGRESS_MS: Ms = 15_000;
/// Commits after the last fault that everybody must reach.
const SETTLE_COMMITS: u64 = 5;

impl World<'_> {
    pub(super) fn is_quiet(&self) -> bool {
        self.time >= self.scenario.quiet_ms + 1_000
    }

    /// Bounds of what waits, coverage that only a look shows.
    pub(super) fn look(&mut self) -> Result<(), Broken> {
        self.push(LOOK_MS, Happening::Look);
        let n = self.scenario.stakes.len();
        let quiet = self.is_quiet();
        for (number, state) in &mut self.nodes {
            let Some(machine) = &state.machine else { continue };
            let status = machine.status();
            if quiet {
                self.checks.accountable(*number, &status)?;
            }
            note_rotation(&mut self.marks, &mut state.out, machine.schedule());
            let limits = machine.config().limits;
            if status.suspended > n * limits.suspended_per_author || status.wanted > limits.want_blocks {
                let detail = format!("{number}: {} suspended, {} wanted", status.suspended, status.wanted);
                return broken(Property::BoundedMemory, detail);
            }
            if status.suspended > 0 {
                self.marks.hit(Mark::Suspended);
            }
        }
        let number = self.rng.index(n);
        if self.rng.chance(self.scenario.oracle_permille)
            && let Some(state) = self.nodes.get(&number)
        {
            against_oracle(&self.checks, number, state)?;
            self.marks.hit(Mark::OracleChecked);
        }
        Ok(())
    }

    pub(super) fn is_over(&mut self) -> Result<bool, Broken> {
        if !self.is_quiet() {
            self.least.1 = self.time;
            return Ok(false);
        }
        let elapsed = self.time - 1_000;
        let executed = |state: &Node| state.executor.ledger.commit_index();
        let up = || self.sound().filter(|state| state.machine.is_some());
        let least = up().map(executed).min().unwrap_or(0);
        let newest = up().map(Node::last_commit).max().unwrap_or(0);
        let target = *self.target.get_or_insert(newest.max(self.checks.commits()) + SETTLE_COMMITS);
        let long = elapsed >= self.scenario.least_ms && self.checks.round() >= self.scenario.least_rounds;
        let late = elapsed > self.scenario.quiet_ms.max(self.scenario.least_ms) + SETTLE_MS;
        let settled = (long || late) && least >= target && self.open_batches().is_empty();
        if least > self.least.0 {
            self.least = (least, self.time);
        }
        if (late && !settled) || self.time > self.least.1 + PROGRESS_MS {
            return broken(Property::Liveness, self.report());
        }
        Ok(settled && long)
    }

    /// Whether a validator signs a round anew whose first block a rollback took from its log and that so few others hold
    /// that those whose answers it waits for may all be without. Its log looks intact then, and the second block is the
    /// fault of who set the disk back: nothing is promised of such a run (ADR 0013).
    pub(super) fn need_not_be_told(&self) -> bool {
        let Some((epoch, block)) = self.checks.signed_again else { return false };
        let author = usize::from(block.author);
        let Ok(committee) = Committee::new(self.scenario.stakes_in(epoch).to_vec()) else { return false };
        let holds = |state: &Node| state.disk.blocks.contains(&Some((epoch, block)));
        let holders = self.nodes.iter().filter(|(number, state)| **number != author && holds(state));
        let held: u64 = holders.map(|(number, _)| self.scenario.stakes_in(epoch)[*number]).sum();
        self.checks.lost.contains(&author) && held <= committee.total() - committee.quorum()
    }

    /// Validators whose executors are right.
    fn sound(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|(number, _)| !self.checks.corruption.is(**number)).map(|(_, state)| state)
    }

    /// Batches of running correct validators that were not delivered.
    fn open_batches(&self) -> BTreeSet<Hash> {
        let up = self.sound().filter(|state| state.machine.is_some());
        up.flat_map(Node::open_batches).map(|b| b.digest).filter(|b| !self.checks.batches.contains_key(b)).collect()
    }

    pub(super) fn last_look(&mut self) -> Result<(), Broken> {
        let supply = Executor::new(&self.genesis).supply();
        self.checks.corruption.ended()?;
        let mut roots: BTreeMap<u64, Hash> = BTreeMap::new();
        for (number, state) in &mut self.nodes {
            let Some(machine) = &state.machine else { continue };
            count(&mut self.marks, &machine.status().counters);
            against_oracle(&self.checks, *number, state)?;
            self.marks.hit(Mark::OracleChecked);
            let found = state.executor.supply();
            if found != supply {
                return broken(Property::Conservation, format!("{number} has {found}, genesis had {supply}"));
            }
            if self.checks.corruption.is(*number) {
                continue;
            }
            let (height, root) = (state.executor.ledger.commit_index(), state.executor.state_root());
            if *roots.entry(height).or_insert(root) != root {
                return broken(Property::Agreement, format!("{number} has state {root} after commit {height}"));
            }
        }
        Ok(())
    }

    fn report(&self) -> String {
        let mut text = format!("target {:?}, open batches {}", self.target, self.open_batches().len());
        for (number, state) in &self.nodes {
            let status = state.machine.as_ref().map(|machine| {
                let mut status = machine.status();
                status.peers.clear();
                status
            });
            text += &format!("\n  {number}: executed {}, {status:?}", state.executor.ledger.commit_index());
        }
        text
    }
}

/// Notes who has left the rotation of leaders since the last look, and who is back in it.
fn note_rotation(marks: &mut Coverage, out: &mut BTreeSet<u16>, schedule: &Schedule) {
    let table = schedule.table(u32::MAX);
    if table.from_round > 0 {
        marks.hit(Mark::LeaderTable);
    }
    if !table.bad.is_disjoint(&schedule.reputation().equivocators) {
        marks.hit(Mark::EquivocatorOut);
    }
    marks.add(Mark::SwappedOut, table.bad.difference(out).count() as u64);
    marks.add(Mark::SwappedIn, out.difference(&table.bad).count() as u64);
    out.clone_from(&table.bad);
}

/// Adds a process's counters to the marks.
pub(super) fn count(marks: &mut Coverage, counters: &Counters) {
    marks.add(Mark::DirectCommit, counters.slots_direct);
    marks.add(Mark::IndirectCommit, counters.slots_indirect);
    marks.add(Mark::Skip, counters.slots_skipped);
    marks.add(Mark::LeaderTimeout, counters.leader_timeouts);
    marks.add(Mark::CatchUp, counters.catch_ups);
    marks.add(Mark::Fetch, counters.fetches);
    marks.add(Mark::BlockFetched, counters.blocks_fetched);
    marks.add(Mark::BlockInvalid, counters.blocks_invalid);
    marks.add(Mark::BlockDropped, counters.blocks_dropped);
    marks.add(Mark::Equivocation, counters.equivocations);
    marks.add(Mark::RangeUncertified, counters.ranges_uncertified);
}

#[cfg(test)]
mod tests {
    use aurigraph_consensus::BlockRef;

    use super::*;
    use crate::simulator::scenario::Scenario;

    #[test]
    fn only_a_rollback_that_no_answer_need_tell_of_excuses_a_second_block() {
        // Of six validators with one stake each, one waits for answers of four: one may be left out.
        let scenario = Scenario::calm(6, 1);
        let mut world = World::new(&scenario, false);
        let block = BlockRef { round: 41, author: 1, digest: Hash([7; 32]) };
        let told = |world: &World<'_>| !world.need_not_be_told();
        world.checks.lost.insert(1);
        assert!(told(&world), "nothing was signed twice");
        world.checks.signed_again = Some((0, block));
        for (holder, must_be_told) in [(1, false), (2, false), (4, true)] {
            world.nodes.get_mut(&holder).unwrap().disk.blocks.push(Some((0, block)));
            assert_eq!(told(&world), must_be_told, "held by {holder}, too");
        }
        world.checks.lost.clear();
        world.nodes.values_mut().for_each(|state| state.disk.blocks.clear());
        assert!(told(&world), "its log was never set back");
    }
}
