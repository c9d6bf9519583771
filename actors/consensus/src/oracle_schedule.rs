//! The leader schedule again, slow and literal: tables made anew from the whole list of commits and decided slots.
//!
//! Shares with `schedule` only the draw without swaps, the digest and the hash that picks a stand-in. What the commit
//! rule decides comes from the oracle.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use aurigraph_ledger::hash::{Hash, h_parts};

use crate::committer::Decision;
use crate::oracle::{Flushed, Mutation, Oracle};
use crate::reputation::{KEPT_TABLES, Reputation, ScheduleRules, Table, stand_in};
use crate::types::{AuthorIdx, BlockRef, LeaderSlot, Round, Slot, Stake};

/// One commit of an oracle that follows the schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduledCommit {
    /// The leader.
    pub leader: BlockRef,
    /// Its newly ordered history, sorted by reference.
    pub blocks: Vec<BlockRef>,
    /// Digest of the schedule's state that the header must name.
    pub schedule_digest: Hash,
}

/// What an oracle that follows the schedule has found.
#[derive(Debug)]
pub struct Followed {
    /// The decided slots in order.
    pub decided: Vec<(LeaderSlot, Decision)>,
    /// The later slots, under the newest table.
    pub open: Vec<(LeaderSlot, Option<Decision>)>,
    /// The commits.
    pub commits: Vec<ScheduledCommit>,
    /// All tables, oldest first.
    pub tables: Vec<Table>,
}

/// What the delivered blocks tell of their authors.
#[derive(Debug, Default)]
struct Tally {
    /// The first delivered block of each slot.
    owners: BTreeMap<Slot, BlockRef>,
    equivocators: BTreeSet<AuthorIdx>,
    leaders: BTreeSet<BlockRef>,
    /// Votes for committed leaders, by commit and author.
    votes: Vec<Vec<u64>>,
}

impl Oracle {
    /// Decides, orders and makes leader tables until nothing more follows. `candidates` are all validators in the order
    /// in which they would lead a round if nobody were swapped.
    ///
    /// # Panics
    /// If two versions of a slot are certified.
    #[must_use]
    pub fn follow(&self, rules: &ScheduleRules, candidates: &dyn Fn(Round) -> Vec<AuthorIdx>) -> Followed {
        let mut found =
            Followed { decided: Vec::new(), open: Vec::new(), commits: Vec::new(), tables: vec![Table::default()] };
        let (mut flushed, mut direct, mut tally) = (Flushed::default(), BTreeMap::new(), Tally::default());
        // Where the window began: decided slots and commits before it.
        let mut window = (0, 0);
        let mut kept: BTreeMap<LeaderSlot, Decision> = BTreeMap::new();
        // Leaders under each table, by the round from which it holds: they are asked for again for every commit.
        let led: RefCell<BTreeMap<(Round, Round), Vec<AuthorIdx>>> = RefCell::default();
        'tables: loop {
            let last = found.decided.last().map_or(LeaderSlot::default(), |(slot, _)| *slot);
            let lead = |round| {
                let table = holding(&found.tables, round);
                let mut led = led.borrow_mut();
                let leaders = || swapped(table, rules, round, &candidates(round));
                led.entry((table.from_round, round)).or_insert_with(leaders).clone()
            };
            let statuses = self.decide_knowing(&lead, last, &mut direct);
            let mut turned = false;
            for (at, (slot, decision)) in statuses.iter().enumerate() {
                let Some(decision) = kept.get(slot).copied().or(*decision) else {
                    if turned {
                        continue 'tables;
                    }
                    found.open = statuses[at..].to_vec();
                    return found;
                };
                found.decided.push((*slot, decision));
                let Decision::Commit(leader) = decision else { continue };
                // A slot that was skipped since the last commit counts for this header, the commit itself for the next.
                let schedule_digest = self.state(&found, &tally, window).digest(rules);
                let blocks = self.flush(leader, &mut flushed);
                self.count(leader, &blocks, &mut tally);
                found.commits.push(ScheduledCommit { leader, blocks, schedule_digest });
                let late = u64::from(self.mutation == Mutation::ScheduleLate);
                let counted = (self.base + found.commits.len() as u64).saturating_sub(late);
                if counted == 0 || !counted.is_multiple_of(u64::from(rules.window)) {
                    continue;
                }
                let state = self.state(&found, &tally, window);
                let table = self.next_table(rules, &state, leader.round);
                found.tables.retain(|before| before.from_round < table.from_round);
                drop(led.borrow_mut().split_off(&(table.from_round, 0)));
                found.tables.push(table);
                window = (found.decided.len(), found.commits.len());
                match self.mutation {
                    Mutation::KeepOldStatuses => turned = true,
                    Mutation::KeepOldAnchors => {
                        let same = statuses[at + 1..].iter().filter(|(later, _)| later.round == slot.round);
                        kept = same.filter_map(|(slot, decision)| Some((*slot, (*decision)?))).collect();
                        continue 'tables;
                    }
                    _ => continue 'tables,
                }
            }
            if !turned {
                return found;
            }
        }
    }

    /// Who voted for which committed leader in the blocks of a new commit. A leader that a delivered block can vote for
    /// was committed before: its round is below that of the block's own commit.
    fn count(&self, leader: BlockRef, blocks: &[BlockRef], tally: &mut Tally) {
        let mut votes = vec![0; self.committee.len()];
        for block in blocks {
            tally.equivocators.extend(self.accused.get(block).into_iter().flatten());
            if *tally.owners.entry(block.slot()).or_insert(*block) != *block {
                tally.equivocators.insert(block.author);
                continue;
            }
            let parents = self.parents[self.index[block]].iter().map(|id| self.names[*id]);
            let voted = parents.filter(|p| p.round + 1 == block.round && tally.leaders.contains(p));
            votes[usize::from(block.author)] += voted.count() as u64;
        }
        tally.votes.push(votes);
        tally.leaders.insert(leader);
    }

    /// The schedule's state after what is found; the window began after so many decided slots and commits.
    fn state(&self, found: &Followed, tally: &Tally, (slots, commits): (usize, usize)) -> Reputation {
        let mut state = Reputation::new(self.committee.len());
        state.tables = found.tables[found.tables.len().saturating_sub(KEPT_TABLES)..].to_vec();
        state.equivocators.clone_from(&tally.equivocators);
        for (slot, _) in found.decided[slots..].iter().filter(|(_, decision)| *decision == Decision::Skip) {
            state.missed[usize::from(slot.author)] += 1;
        }
        for votes in &tally.votes[commits..] {
            state.scores.iter_mut().zip(votes).for_each(|(sum, more)| *sum += more);
        }
        state
    }

    fn next_table(&self, rules: &ScheduleRules, state: &Reputation, round: Round) -> Table {
        let digest = state.digest(rules);
        let mut ranked: Vec<(u64, Hash, AuthorIdx)> = Vec::new();
        for author in self.committee.authors() {
            let key = h_parts("schedule-rank", &[digest.as_bytes(), &author.to_le_bytes()]);
            ranked.push((state.scores[usize::from(author)], key, author));
        }
        ranked.sort_unstable();
        let stake = |author: AuthorIdx| self.committee.stake(author);
        let mut bad: BTreeSet<AuthorIdx> = BTreeSet::new();
        let total = |authors: &BTreeSet<AuthorIdx>| authors.iter().map(|a| stake(*a)).sum::<Stake>();
        let rotates = |bad: &BTreeSet<AuthorIdx>, more: AuthorIdx| {
            self.committee.total() - total(bad) - stake(more) >= self.committee.validity()
        };
        for author in &state.equivocators {
            if rotates(&bad, *author) {
                bad.insert(*author);
            }
        }
        let mut low: BTreeSet<AuthorIdx> = BTreeSet::new();
        for (_, _, author) in ranked.iter().filter(|(_, _, author)| !state.equivocators.contains(author)) {
            let sum = total(&low) + stake(*author);
            let in_share = u128::from(sum) * 100 <= u128::from(self.committee.total()) * u128::from(rules.swap_percent);
            let first = low.is_empty() && rules.swap_percent > 0;
            if sum > self.committee.faulty() || !(in_share || first) || !rotates(&bad, *author) {
                break;
            }
            low.insert(*author);
            bad.insert(*author);
        }
        let mut good = Vec::new();
        for (_, _, author) in ranked.iter().rev().filter(|(_, _, author)| !bad.contains(author)) {
            let sum: Stake = good.iter().chain([author]).map(|a| stake(*a)).sum();
            if bad.is_empty() || (!good.is_empty() && sum > total(&bad)) {
                break;
            }
            good.push(*author);
        }
        Table { from_round: round + 1, bad, good }
    }
}

/// The table that holds for a round.
fn holding(tables: &[Table], round: Round) -> &Table {
    let table = tables.iter().filter(|table| table.from_round <= round).max_by_key(|table| table.from_round);
    table.expect("the first table holds from round 0 on")
}

/// The leaders of a round under this table.
fn swapped(table: &Table, rules: &ScheduleRules, round: Round, candidates: &[AuthorIdx]) -> Vec<AuthorIdx> {
    let mut leaders: Vec<AuthorIdx> = Vec::new();
    for (position, author) in (0_u16..).zip(candidates) {
        let leads = if table.bad.contains(author) {
            table.good[stand_in(&rules.epoch_seed, round, position, table.good.len())]
        } else {
            *author
        };
        if !leaders.contains(&leads) {
            leaders.push(leads);
        }
    }
    leaders.truncate(usize::from(rules.leaders_per_round));
    leaders
}
