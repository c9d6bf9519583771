//! A model of the signing floor (consensus.md 9.3, 9.4), explored to the end: one of four validators loses its process or
//! its disk, at any moment, and again; the other three go on as they like. No two of its blocks of one round may ever
//! leave it.
//!
//! This is the rule, not `probe`: rounds, what is on the disk, who holds which own block, who has answered. Left out are
//! what a peer forgets when it restarts itself, and a second process with the same key (`floor_tests` has that).

use std::collections::{BTreeSet, VecDeque};

/// Enough for a round below the newest one, that one, and the first above its floor.
const ROUNDS: usize = 3;
const PEERS: usize = 3;
/// Of all four.
const QUORUM: usize = 3;

/// What the model may do, and the rule itself with its numbers.
#[derive(Debug, Clone, Copy)]
struct Rule {
    /// Answers of others that are awaited: a quorum's stake less the own.
    answers: usize,
    /// How far above the highest claim the floor is.
    above: usize,
    /// A disk may go back in time although nobody left the mark.
    unmarked_restore: bool,
}

const RULE: Rule = Rule { answers: QUORUM - 1, above: 1, unmarked_restore: false };

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Asks for answers; the newest own block and the highest round in those that came.
    Asking { doubt: bool, own: usize, claim: usize },
    /// Signs rounds above the floor.
    Active,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Peer {
    /// Its newest round.
    made: usize,
    /// Of which rounds it holds the validator's block, a bit each.
    held: u8,
    /// Whether it has answered since the validator's last start.
    answered: bool,
}

impl Peer {
    const fn holds(self, round: usize) -> bool {
        self.held & (1 << round) != 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    /// Sorted: which of them is which makes no difference.
    peers: [Peer; PEERS],
    /// Blocks of each round that left the validator.
    left: [u8; ROUNDS + 1],
    /// Its newest round on its disk.
    logged: usize,
    /// The floor on its disk.
    floor: usize,
    /// The disk says that what was signed last is not known.
    doubtful: bool,
    phase: Phase,
    crashes: u8,
}

impl State {
    const fn start() -> Self {
        Self {
            peers: [Peer { made: 0, held: 0, answered: false }; PEERS],
            left: [0; ROUNDS + 1],
            logged: 0,
            floor: 0,
            doubtful: false,
            phase: Phase::Active,
            crashes: 0,
        }
    }

    fn peers_at(&self, round: usize) -> usize {
        self.peers.iter().filter(|peer| peer.made >= round).count()
    }

    fn is_violated(&self) -> bool {
        self.left.iter().any(|blocks| *blocks > 1)
    }

    /// Starts again with what is on the disk.
    fn restarted(mut self) -> Self {
        self.phase = Phase::Asking { doubt: self.doubtful, own: 0, claim: 0 };
        self.crashes += 1;
        self.forget_answers()
    }

    fn forget_answers(mut self) -> Self {
        for peer in &mut self.peers {
            peer.answered = false;
        }
        self
    }

    /// Starts again with an older disk, or an empty one; marked so, or not.
    fn restored(mut self, logged: usize, marked: bool) -> Self {
        self.logged = logged;
        self.floor = 0;
        self.doubtful = marked;
        self.restarted()
    }

    fn successors(&self, rule: Rule) -> Vec<Self> {
        let mut next = Vec::new();
        for (index, peer) in self.peers.iter().enumerate() {
            let round = peer.made + 1;
            // The validator's block counts for those that hold it; genesis is everybody's.
            let others = round == 1 || peer.holds(round - 1);
            if round <= ROUNDS && self.peers_at(round - 1) + usize::from(others) >= QUORUM {
                let mut state = *self;
                state.peers[index].made = round;
                next.push(state);
            }
            // A block that left arrives, or does not.
            for round in (1..=ROUNDS).filter(|round| self.left[*round] > 0 && !peer.holds(*round)) {
                let mut state = *self;
                state.peers[index].held |= 1 << round;
                next.push(state);
            }
        }
        match self.phase {
            Phase::Active => next.extend(self.signings()),
            Phase::Asking { .. } => next.extend(self.answers(rule)),
        }
        if self.crashes < 2 {
            next.push(self.restarted());
            next.push(self.restored(0, true));
            for older in 0..self.logged {
                next.push(self.restored(older, true));
                next.extend(rule.unmarked_restore.then(|| self.restored(older, false)));
            }
        }
        next
    }

    /// The next own block: the round after the newest one, or any above a floor that is beyond it. It is durable, then it
    /// leaves; a crash before that leaves nothing behind.
    fn signings(&self) -> Vec<Self> {
        let rounds = if self.floor > self.logged { self.floor + 1..=ROUNDS } else { self.logged + 1..=self.logged + 1 };
        let possible = |round: &usize| {
            let own = *round == 1 || self.logged == round - 1;
            *round <= ROUNDS && self.peers_at(round - 1) + usize::from(own) >= QUORUM
        };
        let sign = |round: usize| {
            let mut state = *self;
            state.left[round] += 1;
            state.logged = round;
            state
        };
        rounds.filter(possible).map(sign).collect()
    }

    fn answers(&self, rule: Rule) -> Vec<Self> {
        let Phase::Asking { doubt, own, claim } = self.phase else { return Vec::new() };
        let mut next = Vec::new();
        for (index, peer) in self.peers.iter().enumerate().filter(|(_, peer)| !peer.answered) {
            let own = (1..=ROUNDS).filter(|round| peer.holds(*round)).max().unwrap_or(0).max(own);
            // A block that the log lacks makes it doubtful.
            let doubt = doubt || own > self.logged;
            let mut state = *self;
            state.peers[index].answered = true;
            state.phase = Phase::Asking { doubt, own, claim: claim.max(peer.made) };
            state.doubtful = doubt;
            next.push(state);
        }
        if self.peers.iter().filter(|peer| peer.answered).count() >= rule.answers {
            // Only ever up: an older floor on the disk holds, too.
            let proven = if doubt { own.max(claim + rule.above) } else { self.logged };
            let floor = self.floor.max(proven);
            next.push(Self { phase: Phase::Active, floor, doubtful: false, ..self.forget_answers() });
        }
        next
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
fn no_two_blocks_of_a_round_leave_whatever_the_disk_has_lost() {
    let (states, violation) = explore(RULE);
    println!("{states} states");
    assert_eq!(violation, None);
    assert!(states > 10_000, "{states}");
}

#[test]
fn fewer_answers_or_a_lower_floor_would_let_them() {
    assert!(explore(Rule { answers: QUORUM - 2, ..RULE }).1.is_some());
    assert!(explore(Rule { above: 0, ..RULE }).1.is_some());
}

/// Why `RESTORED` has to be left: the only peer that holds the newest block need not be among those that answer.
#[test]
fn an_old_disk_without_the_mark_can_sign_a_round_again() {
    let (_, violation) = explore(Rule { unmarked_restore: true, ..RULE });
    let violation = violation.expect("the probe alone does not notice every old disk");
    let round = violation.left.iter().position(|blocks| *blocks > 1).expect("violated");
    assert!(
        violation.peers.iter().filter(|peer| peer.holds(round)).count() < 2,
        "a quorum of answers would have told: {violation:?}"
    );
}
