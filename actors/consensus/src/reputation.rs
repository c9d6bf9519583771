//! What the leader schedule remembers of the delivered blocks (consensus.md 7): plain data with its codec, its digest
//! and the ranking that makes the next table.
//!
//! Everything here is a function of the decided leader slots, so all validators hold the same at the same slot. Who
//! leads a round stands in `schedule`.

use std::collections::BTreeSet;

use aurigraph_ledger::codec::{CodecError, Reader, Writer};
use aurigraph_ledger::hash::{Hash, h, h_parts};

use crate::committee::Committee;
use crate::config::{EpochParams, MAX_VALIDATORS};
use crate::types::{AuthorIdx, BlockRef, Round, Stake};

/// Tables that are kept: rounds below the oldest are long decided.
pub const KEPT_TABLES: usize = 3;
/// Windows in a row after which a validator counts as down.
pub const ABSENT_WINDOWS: u8 = 3;
/// Most leaders that are remembered: bounds the memory that a corrupt record can ask for.
const MAX_LEADERS: u64 = 4_000_000;

/// What the schedule of an epoch is made from, beside the stakes: equal on all validators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleRules {
    /// Seeds the draws.
    pub epoch_seed: Hash,
    /// Leader slots of a round.
    pub leaders_per_round: u16,
    /// Commits between two tables.
    pub window: u32,
    /// Stake that a table may take out of the rotation, in percent; 0 for none ever.
    pub swap_percent: u8,
}

impl ScheduleRules {
    /// The rules of an epoch.
    #[must_use]
    pub const fn new(epoch_seed: Hash, params: &EpochParams) -> Self {
        Self {
            epoch_seed,
            leaders_per_round: params.leaders_per_round,
            window: params.schedule_window,
            swap_percent: params.schedule_swap_percent,
        }
    }
}

/// Who does not lead, and who leads instead, from a round on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// The first round it holds for.
    pub from_round: Round,
    /// Out of the rotation.
    pub bad: BTreeSet<AuthorIdx>,
    /// Their stand-ins, best first; empty only if nobody is out.
    pub good: Vec<AuthorIdx>,
}

/// The schedule's state: part of every snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reputation {
    /// The newest tables, oldest first; never empty.
    pub tables: Vec<Table>,
    /// Committed leaders that each validator's delivered blocks voted for, in this window.
    pub scores: Vec<u64>,
    /// Leader slots of each validator that were skipped, in this window.
    pub missed: Vec<u64>,
    /// Delivered blocks of each validator, in this window.
    pub authored: Vec<u64>,
    /// The leader round in which the window began.
    pub window_round: Round,
    /// Windows in a row in which each validator had delivered blocks in less than half of the rounds.
    pub absent: Vec<u8>,
    /// Validators whose equivocation a commit of this epoch has proven: out of the rotation for the rest of it.
    pub equivocators: BTreeSet<AuthorIdx>,
    /// Committed leaders that a block still to be delivered may have voted for.
    pub leaders: BTreeSet<BlockRef>,
}

impl Reputation {
    /// The state at the start of an epoch of `n` validators.
    #[must_use]
    pub fn new(n: usize) -> Self {
        Self {
            tables: vec![Table::default()],
            scores: vec![0; n],
            missed: vec![0; n],
            authored: vec![0; n],
            window_round: 0,
            absent: vec![0; n],
            equivocators: BTreeSet::new(),
            leaders: BTreeSet::new(),
        }
    }

    /// Digest of tables, scores and missed slots under these rules: what the next leaders are made from. Delivered blocks
    /// and the remembered leaders stand in the commits and are left out.
    #[must_use]
    pub fn digest(&self, rules: &ScheduleRules) -> Hash {
        let mut w = Writer::with_capacity(512);
        w.hash(&rules.epoch_seed).u16(rules.leaders_per_round).u32(rules.window).u8(rules.swap_percent);
        self.write_ranked(&mut w);
        h("schedule", w.as_slice())
    }

    /// Ends a window of presence at a leader round: the validators that were absent for [`ABSENT_WINDOWS`] in a row. From
    /// delivered blocks alone, so equal everywhere. A block that comes late is delivered late, and counts.
    pub fn count_presence(&mut self, round: Round) -> Vec<AuthorIdx> {
        let span = u64::from(round.saturating_sub(self.window_round));
        let mut found = Vec::new();
        for ((author, authored), absent) in (0..).zip(&mut self.authored).zip(&mut self.absent) {
            let present = std::mem::take(authored).saturating_mul(2) >= span;
            *absent = if present { 0 } else { absent.saturating_add(1) };
            if *absent == ABSENT_WINDOWS {
                *absent = 0;
                found.push(author);
            }
        }
        self.window_round = round;
        found
    }

    /// Makes the next table, which holds for the rounds above `round`, and starts a new window.
    pub fn turn(&mut self, committee: &Committee, rules: &ScheduleRules, round: Round) {
        let table = self.next_table(committee, rules, round);
        // Two leaders of one round may both end a window: the later one's table takes the place of the other's.
        self.tables.retain(|before| before.from_round < table.from_round);
        self.tables.push(table);
        let surplus = self.tables.len().saturating_sub(KEPT_TABLES);
        self.tables.drain(..surplus);
        self.scores.fill(0);
        self.missed.fill(0);
    }

    fn next_table(&self, committee: &Committee, rules: &ScheduleRules, round: Round) -> Table {
        let ranked = self.ranked(committee, rules);
        let bad = self.worst(committee, rules, &ranked);
        let out: Stake = bad.iter().map(|author| committee.stake(*author)).sum();
        let mut good = Vec::new();
        let mut stake: Stake = 0;
        for author in ranked.into_iter().rev().filter(|author| !bad.contains(author)) {
            stake += committee.stake(author);
            // Somebody must stand in, also where the best validator has more stake than all that are out.
            if bad.is_empty() || (stake > out && !good.is_empty()) {
                break;
            }
            good.push(author);
        }
        Table { from_round: round.saturating_add(1), bad, good }
    }

    /// All validators, worst first. Nobody can choose where an equal score puts them.
    fn ranked(&self, committee: &Committee, rules: &ScheduleRules) -> Vec<AuthorIdx> {
        let digest = self.digest(rules);
        let mut ranked: Vec<AuthorIdx> = committee.authors().collect();
        ranked.sort_by_cached_key(|author| {
            let score = self.scores.get(usize::from(*author)).copied().unwrap_or(0);
            (score, h_parts("schedule-rank", &[digest.as_bytes(), &author.to_le_bytes()]))
        });
        ranked
    }

    /// Equivocators, then the lowest scores within the share of stake that may be out. The first of these may exceed
    /// the share, as one of four equal validators does, but never F; and V of stake stay in the rotation.
    fn worst(&self, committee: &Committee, rules: &ScheduleRules, ranked: &[AuthorIdx]) -> BTreeSet<AuthorIdx> {
        let mut bad = BTreeSet::new();
        let mut left = committee.total();
        for author in &self.equivocators {
            if left - committee.stake(*author) >= committee.validity() {
                left -= committee.stake(*author);
                bad.insert(*author);
            }
        }
        let share = u128::from(committee.total()) * u128::from(rules.swap_percent) / 100;
        let share = Stake::try_from(share).unwrap_or(Stake::MAX).min(committee.faulty());
        let mut out: Stake = 0;
        for author in ranked.iter().filter(|author| !self.equivocators.contains(author)) {
            let stake = committee.stake(*author);
            let most = if out == 0 && rules.swap_percent > 0 { committee.faulty() } else { share };
            if out + stake > most || left - stake < committee.validity() {
                break;
            }
            out += stake;
            left -= stake;
            bad.insert(*author);
        }
        bad
    }

    /// Whether the state can be one of this committee: what a snapshot says is checked before it is used.
    #[must_use]
    pub fn fits(&self, committee: &Committee) -> bool {
        let n = committee.len();
        let known = |author: &AuthorIdx| committee.contains(*author);
        let whole = |table: &Table| {
            table.bad.iter().chain(&table.good).all(known)
                && table.good.iter().all(|author| !table.bad.contains(author))
                && table.bad.is_empty() == table.good.is_empty()
        };
        let counts = [self.scores.len(), self.missed.len(), self.authored.len(), self.absent.len()];
        counts == [n; 4]
            && (1..=KEPT_TABLES).contains(&self.tables.len())
            && self.tables.windows(2).all(|pair| pair[0].from_round < pair[1].from_round)
            && self.tables.iter().all(whole)
            && self.equivocators.iter().all(known)
            && self.leaders.iter().all(|leader| known(&leader.author))
    }

    fn write_ranked(&self, w: &mut Writer) {
        w.varint(self.tables.len() as u64);
        for table in &self.tables {
            w.u32(table.from_round);
            write_authors(w, table.bad.iter());
            write_authors(w, table.good.iter());
        }
        for counts in [&self.scores, &self.missed] {
            w.varint(counts.len() as u64);
            counts.iter().for_each(|count| {
                w.u64(*count);
            });
        }
        write_authors(w, self.equivocators.iter());
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        self.write_ranked(w);
        w.varint(self.leaders.len() as u64);
        self.leaders.iter().for_each(|leader| leader.write(w));
        w.varint(self.authored.len() as u64);
        for (authored, absent) in self.authored.iter().zip(&self.absent) {
            w.u64(*authored).u8(*absent);
        }
        w.u32(self.window_round);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let count = r.varint_max("leader tables", KEPT_TABLES as u64)?;
        let mut tables = Vec::new();
        for _ in 0..count {
            let from_round = r.u32()?;
            let bad = ascending("authors out of the rotation", read_authors(r)?)?;
            tables.push(Table { from_round, bad, good: read_authors(r)? });
        }
        let scores = read_counts(r)?;
        let missed = read_counts(r)?;
        let equivocators = ascending("equivocators", read_authors(r)?)?;
        let count = r.varint_max("remembered leaders", MAX_LEADERS)?;
        let leaders = (0..count).map(|_| BlockRef::read(r)).collect::<Result<Vec<_>, _>>()?;
        let leaders = ascending("remembered leaders", leaders)?;
        let (mut authored, mut absent) = (Vec::new(), Vec::new());
        for _ in 0..r.varint_max("validators' presence", MAX_VALIDATORS as u64)? {
            authored.push(r.u64()?);
            absent.push(r.u8()?);
        }
        let window_round = r.u32()?;
        Ok(Self { tables, scores, missed, authored, window_round, absent, equivocators, leaders })
    }
}

fn write_authors<'a>(w: &mut Writer, authors: impl ExactSizeIterator<Item = &'a AuthorIdx>) {
    w.varint(authors.len() as u64);
    for author in authors {
        w.u16(*author);
    }
}

fn read_authors(r: &mut Reader<'_>) -> Result<Vec<AuthorIdx>, CodecError> {
    let count = r.varint_max("authors of a leader table", MAX_VALIDATORS as u64)?;
    (0..count).map(|_| r.u16()).collect()
}

fn read_counts(r: &mut Reader<'_>) -> Result<Vec<u64>, CodecError> {
    let count = r.varint_max("scores", MAX_VALIDATORS as u64)?;
    (0..count).map(|_| r.u64()).collect()
}

/// One encoding for one set: the items must be in order.
fn ascending<T: Ord>(what: &'static str, items: Vec<T>) -> Result<BTreeSet<T>, CodecError> {
    if items.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(CodecError::Invalid { what, value: items.len() as u64 });
    }
    Ok(items.into_iter().collect())
}

/// Which of `len` stand-ins leads for the author at a place of a round's permutation.
#[must_use]
pub(crate) fn stand_in(epoch_seed: &Hash, round: Round, position: u16, len: usize) -> usize {
    let parts: [&[u8]; 3] = [epoch_seed.as_bytes(), &round.to_le_bytes(), &position.to_le_bytes()];
    let hash = h_parts("leader-swap", &parts);
    let mut low = [0; 16];
    low.copy_from_slice(&hash.as_bytes()[..16]);
    usize::try_from(u128::from_le_bytes(low) % u128::from(len.max(1) as u64)).unwrap_or(0)
}

/// How many of the committed leaders `leaders` a block's parents vote for.
#[must_use]
pub(crate) fn votes(round: Round, parents: &[BlockRef], leaders: &BTreeSet<BlockRef>) -> u64 {
    parents.iter().filter(|parent| parent.round.checked_add(1) == Some(round) && leaders.contains(parent)).count()
        as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_rounds_are_enough_and_windows_must_follow_each_other() {
        let mut state = Reputation::new(3);
        let mut window = |authored: [u64; 3], round| {
            state.authored = authored.to_vec();
            state.count_presence(round)
        };
        // Ten rounds each: all, half, and one less than half.
        assert_eq!(window([10, 5, 4], 10), []);
        assert_eq!(window([10, 5, 4], 20), []);
        assert_eq!(window([0, 5, 4], 30), [2]);
        assert_eq!(window([0, 4, 0], 40), [], "counted anew");
        assert_eq!(window([10, 4, 0], 50), [], "one good window ends the row");
        assert_eq!(window([0, 4, 0], 60), [1, 2]);
        // Eleven rounds: five are less than half.
        assert_eq!((window([6, 5, 5], 71), window([6, 5, 6], 82), window([6, 5, 5], 93)), (vec![], vec![], vec![1]));
        assert_eq!(state.authored, [0, 0, 0]);
    }
}
