//! A model of the commit rule, explored to the end: n = 4, f = 1, all that a leader slot can meet.
//!
//! A slot's fate hangs on three things alone (consensus.md 5): which version of the slot each block of the next round
//! votes for, which version each block of the round after certifies, and which of those certificates a later anchor has
//! in its history. So the model takes every assignment of votes to the blocks of round 2, the faulty validator's none
//! to three included; for every block of round 3 one representative of each thing that its possible parents can
//! certify; and every quorum of round-3 blocks as the parents of an anchor. The rule that is asked is the real one: the
//! reference model in `oracle`, and beside it the incremental committer.
//!
//! What must hold (5.6): if anybody can decide the slot by its own votes, then everybody who has seen more decides the
//! same, and so does every anchor that could ever be asked about it; and the two forms of the rule agree. That slots
//! above are decided alike is the induction of 5.6.4, which `vectors` and `fuzz` show by example.

use std::collections::{BTreeMap, BTreeSet};

use aurigraph_ledger::hash::h;

use crate::committee::Committee;
use crate::committer::Decision;
use crate::oracle::{Mutation, Oracle};
use crate::testing::Runner;
use crate::types::{AuthorIdx, BlockRef, LeaderSlot, Round};

/// Leads round 1.
const LEADER: AuthorIdx = 0;
const QUORUM: usize = 3;

type Blocks = Vec<(BlockRef, Vec<BlockRef>)>;

fn block(round: Round, author: AuthorIdx, version: u8) -> BlockRef {
    let [a, _] = author.to_le_bytes();
    BlockRef { round, author, digest: h("model", &[u8::try_from(round).expect("few rounds"), a, version]) }
}

/// The sets of up to three of these, the same one several times included: what an equivocator may make of its slot.
/// (Two do not show that blocks are counted where authors should be.)
fn up_to_three<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    let mut sets = vec![(0, Vec::new())];
    for size in 0..3 {
        let smaller: Vec<_> = sets.iter().filter(|(_, set)| set.len() == size).cloned().collect();
        for (lowest, set) in smaller {
            let larger = (lowest..items.len()).map(|i| (i, [set.as_slice(), &[items[i].clone()]].concat()));
            sets.extend(larger);
        }
    }
    sets.into_iter().map(|(_, set)| set).collect()
}

/// Every way to take one of each list, in order.
fn product<T: Clone>(lists: &[Vec<T>]) -> Vec<Vec<T>> {
    lists.iter().fold(vec![Vec::new()], |done, list| {
        done.iter()
            .flat_map(|head| list.iter().map(|item| [head.as_slice(), std::slice::from_ref(item)].concat()))
            .collect()
    })
}

/// Every choice of at most one block of each author, of a quorum of authors, with this one's among them if it is given.
fn quorums(layer: &[BlockRef], with: Option<AuthorIdx>) -> Vec<Vec<BlockRef>> {
    let mut by_author: BTreeMap<AuthorIdx, Vec<Option<BlockRef>>> = (0..4).map(|author| (author, vec![None])).collect();
    for block in layer {
        by_author.entry(block.author).or_default().push(Some(*block));
    }
    let lists: Vec<_> = by_author.into_values().collect();
    let chosen = product(&lists).into_iter().map(|choice| choice.into_iter().flatten().collect::<Vec<_>>());
    chosen.filter(|set| set.len() >= QUORUM && with.is_none_or(|own| set.iter().any(|b| b.author == own))).collect()
}

/// The version that a block with these parents certifies: what it is for the rule.
fn certifies(parents: &[BlockRef], votes: &BTreeMap<BlockRef, u8>) -> u8 {
    let count = |version: u8| parents.iter().filter(|p| votes.get(p) == Some(&version)).count();
    (1..=2).find(|version| count(*version) >= QUORUM).unwrap_or(0)
}

/// One set of parents for each outcome.
fn outcomes(sets: Vec<Vec<BlockRef>>, votes: &BTreeMap<BlockRef, u8>) -> Vec<Vec<BlockRef>> {
    let mut found = BTreeMap::new();
    for set in sets {
        found.entry(certifies(&set, votes)).or_insert(set);
    }
    found.into_values().collect()
}

/// The history of these blocks, in an order in which parents come first.
fn history(of: &[BlockRef], dag: &Blocks) -> Blocks {
    let mut keep: BTreeSet<BlockRef> = of.iter().copied().collect();
    for (block, parents) in dag.iter().rev() {
        if keep.contains(block) {
            keep.extend(parents.iter().copied());
        }
    }
    dag.iter().filter(|(block, _)| keep.contains(block)).cloned().collect()
}

/// What somebody who has seen these blocks makes of the slot, with an anchor above it or without.
fn decide(committee: &Committee, seen: &Blocks, anchor: Option<BlockRef>, mutation: Mutation) -> Option<Decision> {
    let mut oracle = Oracle::new(committee.clone(), 64, mutation);
    for (block, parents) in seen {
        oracle.insert(*block, parents);
    }
    if let Some(anchor) = anchor {
        let layer = |round: Round| (1..4).map(|author| block(round, author, 0)).collect::<Vec<_>>();
        let (votes, certificates) = (layer(anchor.round + 1), layer(anchor.round + 2));
        votes.iter().for_each(|vote| oracle.insert(*vote, &[anchor]));
        certificates.iter().for_each(|certificate| oracle.insert(*certificate, &votes));
    }
    let leaders = |round: Round| match anchor {
        _ if round == 1 => vec![LEADER],
        Some(anchor) if round == anchor.round => vec![anchor.author],
        _ => Vec::new(),
    };
    oracle.decide(&leaders, LeaderSlot::default()).first().and_then(|(_, decision)| *decision)
}

#[derive(Debug, Default)]
struct Explored {
    dags: usize,
    committed: usize,
    skipped: usize,
    views: usize,
    conflicts: usize,
}

/// Everything that can happen while this validator is faulty.
fn explore(faulty: AuthorIdx, mutation: Mutation) -> Explored {
    let committee = Committee::new(vec![1; 4]).expect("valid stakes");
    let versions: Vec<u8> = if faulty == LEADER { vec![1, 2] } else { vec![1] };
    let first: Vec<BlockRef> = (1..4).map(|author| block(1, author, 0)).collect();
    let leader = |version: u8| block(1, LEADER, version);
    let votes: Vec<u8> = std::iter::once(0).chain(versions.iter().copied()).collect();
    // What each validator can make of round 2: a correct one a single block, and the leader's votes for its own.
    let second: Vec<Vec<Vec<u8>>> = (0..4)
        .map(|author| match author {
            _ if author == faulty => up_to_three(&votes),
            LEADER => vec![vec![1]],
            _ => votes.iter().map(|vote| vec![*vote]).collect(),
        })
        .collect();
    let mut explored = Explored::default();
    for choice in product(&second) {
        let mut dag: Blocks = versions.iter().map(|v| (leader(*v), Vec::new())).collect();
        dag.extend(first.iter().map(|block| (*block, Vec::new())));
        let mut voted = BTreeMap::new();
        for (author, made) in (0..).zip(&choice) {
            for (version, vote) in (0..).zip(made) {
                let voter = block(2, author, version);
                voted.insert(voter, *vote);
                let mut parents: Vec<BlockRef> = first.clone();
                parents.extend((*vote > 0).then(|| leader(*vote)));
                dag.push((voter, parents));
            }
        }
        let layer: Vec<BlockRef> = voted.keys().copied().collect();
        let third: Vec<Vec<Vec<Vec<BlockRef>>>> = (0..4)
            .map(|author| {
                // The faulty one may hang its block on any older block of its own.
                let sets = outcomes(quorums(&layer, (author != faulty).then_some(author)), &voted);
                if author == faulty { up_to_three(&sets) } else { sets.into_iter().map(|set| vec![set]).collect() }
            })
            .collect();
        for choice in product(&third) {
            let mut dag = dag.clone();
            let mut layer = Vec::new();
            for (author, made) in (0..).zip(&choice) {
                for (version, parents) in (0..).zip(made) {
                    layer.push(block(3, author, version));
                    dag.push((block(3, author, version), parents.clone()));
                }
            }
            visit(&committee, &dag, &layer, mutation, &mut explored);
        }
    }
    explored
}

fn visit(committee: &Committee, dag: &Blocks, layer: &[BlockRef], mutation: Mutation, explored: &mut Explored) {
    let direct = decide(committee, dag, None, mutation);
    explored.dags += 1;
    match direct {
        Some(Decision::Commit(_)) => explored.committed += 1,
        Some(Decision::Skip) => explored.skipped += 1,
        None => {}
    }
    if mutation == Mutation::None {
        let mut runner = Runner::new(committee, 1, 64);
        dag.iter().for_each(|(block, parents)| runner.accept(*block, parents));
        let incremental = runner.decided.first().map(|decided| decided.decision);
        assert_eq!(incremental, direct, "the committer and the oracle: {dag:?}");
    }
    let mut check = |seen: &Blocks, anchor: Option<BlockRef>| {
        explored.views += 1;
        let found = decide(committee, seen, anchor, mutation);
        // Less knowledge may know less, never better; an anchor always knows.
        let wrong = match (found, direct) {
            (Some(found), Some(direct)) => found != direct,
            (None, Some(_)) => anchor.is_some_and(|anchor| anchor.round > 3),
            (Some(_), None) => anchor.is_none(),
            (None, None) => false,
        };
        explored.conflicts += usize::from(wrong);
    };
    for parents in quorums(layer, None) {
        let seen = history(&parents, dag);
        check(&seen, None);
        // An anchor in the first round that may be one, and a leader in the round before that may not.
        let anchor = block(4, 1, 0);
        let mut above = seen.clone();
        above.push((anchor, parents.clone()));
        check(&above, Some(anchor));
    }
    for early in layer.iter().filter(|block| block.author != LEADER) {
        check(&history(&[*early], dag), Some(*early));
    }
}

#[test]
fn every_anchor_decides_what_anybody_decided_by_the_votes_alone() {
    for faulty in [LEADER, 3] {
        let explored = explore(faulty, Mutation::None);
        println!("validator {faulty} faulty: {explored:?}");
        assert_eq!(explored.conflicts, 0, "{explored:?}");
        assert!(explored.committed > 0 && explored.skipped > 0, "{explored:?}");
        assert!(explored.dags > explored.committed + explored.skipped, "some are undecided: {explored:?}");
    }
}

#[test]
fn the_model_notices_each_error_that_a_single_slot_can_show() {
    let errors = [
        Mutation::AnchorsFromTwo,
        Mutation::CommitWithV,
        Mutation::CertifyWithV,
        Mutation::SkipWithV,
        Mutation::CountBlocks,
        Mutation::IndirectWithoutCertificate,
    ];
    for mutation in errors {
        let noticed = [3, LEADER].into_iter().any(|faulty| explore(faulty, mutation).conflicts > 0);
        assert!(noticed, "{mutation:?}");
    }
}
