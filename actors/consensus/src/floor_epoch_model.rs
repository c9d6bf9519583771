//! A model of the signing floor over the end of an epoch (ADR 0043), explored to the end: one of four validators loses its
//! disk, at any moment, and again, also in the next epoch before the others have come there. No two of its blocks of one
//! round may ever leave it.
//!
//! Two epochs in one line of rounds: [`LAST`] is that of the last commit's leader, and who has built it votes for that
//! commit; the next epoch's first round comes after it. Left out are what peers forget when they restart themselves,
//! longer epochs, a third one, and a second process that runs with the same key (`floor_end_tests` has that): the silence
//! that is for it takes no time here.

use std::collections::{BTreeSet, VecDeque};

/// Round of the last commit's leader; rounds above it are the next epoch's.
const LAST: usize = 2;
const ROUNDS: usize = LAST + 1;
const PEERS: usize = 3;
/// Of all four.
const QUORUM: usize = 3;

/// The rule with its numbers.
#[derive(Debug, Clone, Copy)]
struct Rule {
    /// Answers of others that are awaited, for a floor and for the next epoch: a quorum's stake less the own.
    answers: usize,
    /// How many of them have to be below `below` for the next epoch to be fresh.
    low_answers: usize,
    below: usize,
    /// A floor above this one, proven in an epoch, says nothing of the next.
    highest_floor: usize,
}

const RULE: Rule = Rule { answers: QUORUM - 1, low_answers: QUORUM - 1, below: LAST, highest_floor: LAST };

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// In doubt: the highest round in the answers, how many there were, and how many of them below `Rule::below`.
    Asking { claim: usize, answers: usize, low: usize },
    /// Signs rounds above the floor.
    Active,
}

const ASKING: Phase = Phase::Asking { claim: 0, answers: 0, low: 0 };

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Peer {
    /// The rounds that it has built, and of which it holds the validator's block: a bit each.
    made: u8,
    held: u8,
    /// Whether it has come to the next epoch.
    next: bool,
    /// Whether it has answered since the validator began to ask.
    answered: bool,
}

impl Peer {
    const fn has_made(self, round: usize) -> bool {
        self.made & (1 << round) != 0
    }

    const fn holds(self, round: usize) -> bool {
        self.held & (1 << round) != 0
    }

    /// Its newest round in its epoch.
    fn newest(self) -> usize {
        rounds_of(self.next).rev().find(|round| self.has_made(*round)).unwrap_or(before(self.next))
    }
}

const fn rounds_of(next: bool) -> std::ops::RangeInclusive<usize> {
    if next { LAST + 1..=ROUNDS } else { 1..=LAST }
}

/// The place of an epoch's genesis.
const fn before(next: bool) -> usize {
    if next { LAST } else { 0 }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    /// Sorted: which of them is which makes no difference.
    peers: [Peer; PEERS],
    /// Blocks of each round that left the validator.
    left: [u8; ROUNDS + 1],
    /// On the disk: whether it is in the next epoch, its newest round, the floor, and whether it is in doubt.
    next: bool,
    logged: usize,
    floor: usize,
    doubtful: bool,
    phase: Phase,
    losses: u8,
}

impl State {
    const fn start() -> Self {
        Self {
            peers: [Peer { made: 0, held: 0, next: false, answered: false }; PEERS],
            left: [0; ROUNDS + 1],
            next: false,
            logged: 0,
            floor: 0,
            doubtful: false,
            phase: Phase::Active,
            losses: 0,
        }
    }

    fn is_violated(&self) -> bool {
        self.left.iter().any(|blocks| *blocks > 1)
    }

    /// Whether a round can be built on the one before; `own` if the validator's block of that is at hand.
    fn can_build(&self, round: usize, own: bool) -> bool {
        let at = |peer: &&Peer| peer.has_made(round - 1);
        round == 1 || round == LAST + 1 || self.peers.iter().filter(at).count() + usize::from(own) >= QUORUM
    }

    /// Whether a quorum has voted for the last commit: what they have signed can reach anybody.
    fn is_over(&self) -> bool {
        let votes = self.peers.iter().filter(|peer| peer.has_made(LAST)).count();
        votes + usize::from(self.left[LAST] > 0) >= QUORUM
    }

    fn asking(mut self) -> Self {
        for peer in &mut self.peers {
            peer.answered = false;
        }
        Self { phase: ASKING, doubtful: true, ..self }
    }

    fn active(self, floor: usize) -> Self {
        Self { phase: Phase::Active, floor, doubtful: false, ..self.asking() }
    }

    fn successors(&self, rule: Rule) -> Vec<Self> {
        let mut next = self.of_peers();
        match self.phase {
            Phase::Active => next.extend(self.signed()),
            Phase::Asking { claim, answers, low } => next.extend(self.answers(rule, claim, answers, low)),
        }
        if self.is_over() && !self.next {
            next.extend(self.entered(rule));
        }
        if self.losses < 2 {
            next.extend(self.restarted());
        }
        next
    }

    fn of_peers(&self) -> Vec<Self> {
        let mut next = Vec::new();
        let mut change = |index: usize, change: &dyn Fn(&mut Peer)| {
            let mut state = *self;
            change(&mut state.peers[index]);
            next.push(state);
        };
        for (index, peer) in self.peers.iter().enumerate() {
            if !peer.next && self.is_over() {
                change(index, &|peer| peer.next = true);
            }
            let round = peer.newest() + 1;
            if rounds_of(peer.next).contains(&round) && self.can_build(round, peer.holds(round - 1)) {
                change(index, &|peer| peer.made |= 1 << round);
            }
            // A block that left arrives, or does not.
            for round in (1..=ROUNDS).filter(|round| self.left[*round] > 0 && !peer.holds(*round)) {
                change(index, &|peer| peer.held |= 1 << round);
            }
        }
        next
    }

    fn signed(&self) -> Vec<Self> {
        let from = self.logged.max(before(self.next)).max(self.floor) + 1;
        // Rounds are skipped up to the floor alone; above a floor the next one need not be the first.
        let last = if self.floor > self.logged { *rounds_of(self.next).end() } else { from };
        let possible =
            |round: &usize| rounds_of(self.next).contains(round) && self.can_build(*round, self.logged + 1 == *round);
        let sign = |round: usize| {
            let mut state = *self;
            state.left[round] += 1;
            state.logged = round;
            state
        };
        (from..=last).filter(possible).map(sign).collect()
    }

    /// Those of the same epoch answer; when enough have, the floor is proven.
    fn answers(&self, rule: Rule, claim: usize, answers: usize, low: usize) -> Vec<Self> {
        let mut next = Vec::new();
        for (index, peer) in self.peers.iter().enumerate() {
            if peer.answered || peer.next != self.next {
                continue;
            }
            let own = rounds_of(self.next).rev().find(|round| peer.holds(*round)).unwrap_or(0);
            let low = low + usize::from(peer.newest() < rule.below);
            let mut state = *self;
            state.peers[index].answered = true;
            state.logged = state.logged.max(own);
            state.phase = Phase::Asking { claim: claim.max(peer.newest()), answers: answers + 1, low };
            next.push(state);
        }
        if answers >= rule.answers {
            next.push(self.active(self.floor.max(claim + 1)));
        }
        next
    }

    /// Comes to the next epoch with its certificate.
    fn entered(&self, rule: Rule) -> Vec<Self> {
        let there = Self { next: true, floor: LAST, ..*self };
        match self.phase {
            Phase::Active if self.floor <= rule.highest_floor => vec![there.active(LAST)],
            Phase::Active => vec![there.asking()],
            // The floor of a fresh epoch may be on the disk, or not yet.
            Phase::Asking { low, .. } if low >= rule.low_answers => vec![there.active(LAST), there.asking()],
            Phase::Asking { .. } => vec![there.asking()],
        }
    }

    /// Starts again with what is on the disk, or with an older or an empty one that is marked so.
    fn restarted(&self) -> Vec<Self> {
        let state = Self { losses: self.losses + 1, ..*self };
        let mut next = vec![if self.doubtful { state.asking() } else { state.active(state.floor) }];
        for logged in 0..=self.logged {
            next.extend((logged <= LAST).then(|| state.older(false, logged)));
            next.extend(self.next.then(|| state.older(true, logged)));
        }
        next
    }

    fn older(self, next: bool, logged: usize) -> Self {
        Self { next, logged, floor: before(next), ..self }.asking()
    }
}

/// All states that can be reached, and the first in which two blocks of a round have left.
fn explore(rule: Rule) -> (usize, Option<State>) {
    let mut seen = BTreeSet::from([State::start()]);
    let mut open = VecDeque::from([State::start()]);
    while let Some(state) = open.pop_front() {
        if state.is_violated() {
            return (seen.len(), Some(state));
        }
        for mut next in state.successors(rule) {
            next.peers.sort_unstable();
            if seen.insert(next) {
                open.push_back(next);
            }
        }
    }
    (seen.len(), None)
}

#[test]
fn no_two_blocks_of_a_round_leave_over_the_end_of_an_epoch() {
    let (states, violation) = explore(RULE);
    println!("{states} states");
    assert_eq!(violation, None);
    assert!(states > 10_000, "{states}");
}

#[test]
fn fewer_or_later_answers_would_let_them() {
    assert!(explore(Rule { low_answers: QUORUM - 2, ..RULE }).1.is_some());
    assert!(explore(Rule { below: LAST + 1, ..RULE }).1.is_some());
}

/// Why a floor that was proven late in an epoch is none in the next: the validator may have been there before, alone.
#[test]
fn a_floor_proven_after_the_votes_for_the_last_commit_says_nothing_of_the_next_epoch() {
    let violation = explore(Rule { highest_floor: ROUNDS, ..RULE }).1.expect("two blocks of a round");
    assert_eq!(violation.left[LAST + 1], 2, "{violation:?}");
}
