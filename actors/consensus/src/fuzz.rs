//! Random DAGs with an equivocating validator: no two views of one DAG may decide a slot differently, and the
//! incremental committer must agree with the oracle on every prefix of every order of acceptance.

use std::collections::{BTreeMap, BTreeSet};

use crate::committee::Committee;
use crate::committer::Decision;
use crate::oracle::{Mutation, Oracle};
use crate::schedule::Schedule;
use crate::testing::{Dag, Rng, Runner, letter};
use crate::types::{AuthorIdx, BlockRef, LeaderSlot, Round};

const ROUNDS: Round = 12;
const BYZANTINE: AuthorIdx = 3;

/// Three correct validators and one that makes zero to three blocks a round.
pub(crate) fn random_dag(rng: &mut Rng) -> Dag {
    let mut dag = Dag::new(&[1; 4]);
    let genesis: Vec<BlockRef> = (0..4).map(|a| dag.name(&format!("{}0", letter(a)))).collect();
    let mut own = genesis.clone();
    let mut byzantine = vec![genesis[3]];
    let mut previous = genesis;
    for round in 1..=ROUNDS {
        let mut by_author: BTreeMap<AuthorIdx, Vec<BlockRef>> = BTreeMap::new();
        for block in &previous {
            by_author.entry(block.author).or_default().push(*block);
        }
        let mut made: Vec<(String, AuthorIdx, Vec<BlockRef>)> = Vec::new();
        for author in 0..3 {
            let mut others: Vec<AuthorIdx> = by_author.keys().copied().filter(|a| *a != author).collect();
            rng.shuffle(&mut others);
            others.truncate(if rng.below(3) == 2 { 3 } else { 2 });
            if others.len() < 2 {
                continue;
            }
            let mut parents = vec![own[usize::from(author)]];
            parents.extend(others.iter().map(|a| by_author[a][rng.below(by_author[a].len())]));
            made.push((format!("{}{round}", letter(author)), author, parents));
        }
        for version in 0..[0, 1, 1, 2, 2, 3][rng.below(6)] {
            let mut others: Vec<AuthorIdx> = by_author.keys().copied().filter(|a| *a != BYZANTINE).collect();
            rng.shuffle(&mut others);
            let base = match by_author.get(&BYZANTINE) {
                Some(blocks) => {
                    others.truncate(2 + rng.below(2));
                    blocks[rng.below(blocks.len())]
                }
                None => byzantine[rng.below(byzantine.len())],
            };
            let strong = others.len() + usize::from(base.round + 1 == round);
            if strong >= 3 {
                let mut parents = vec![base];
                parents.extend(others.iter().map(|a| by_author[a][rng.below(by_author[a].len())]));
                made.push((format!("D{round}{}", "'".repeat(version)), BYZANTINE, parents));
            }
        }
        previous.clear();
        for (name, author, parents) in made {
            let block = dag.name(&name);
            dag.push(block, parents);
            previous.push(block);
            if author == BYZANTINE {
                byzantine.push(block);
            } else {
                own[usize::from(author)] = block;
            }
        }
        if previous.iter().map(|b| b.author).collect::<BTreeSet<_>>().len() < 3 {
            break;
        }
    }
    dag
}

/// The history of some blocks: what one node may have seen.
pub(crate) fn random_view(dag: &Dag, rng: &mut Rng) -> Vec<(BlockRef, Vec<BlockRef>)> {
    let mut keep = BTreeSet::new();
    for (block, parents) in dag.blocks.iter().rev() {
        if keep.contains(block) || rng.chance(15) {
            keep.insert(*block);
            keep.extend(parents.iter().copied());
        }
    }
    dag.blocks.iter().filter(|(block, _)| keep.contains(block)).cloned().collect()
}

/// The same blocks in another order in which parents still come first.
pub(crate) fn random_order(blocks: &[(BlockRef, Vec<BlockRef>)], rng: &mut Rng) -> Vec<(BlockRef, Vec<BlockRef>)> {
    let mut open: Vec<_> = blocks.to_vec();
    let mut done = BTreeSet::new();
    let mut order = Vec::with_capacity(open.len());
    while !open.is_empty() {
        let ready: Vec<usize> =
            (0..open.len()).filter(|i| open[*i].1.iter().all(|p| p.round == 0 || done.contains(p))).take(4).collect();
        let next = open.remove(ready[rng.below(ready.len())]);
        done.insert(next.0);
        order.push(next);
    }
    order
}

pub(crate) fn oracle_of(committee: &Committee, blocks: &[(BlockRef, Vec<BlockRef>)], mutation: Mutation) -> Oracle {
    let mut oracle = Oracle::new(committee.clone(), 60, mutation);
    for (block, parents) in blocks {
        oracle.insert(*block, parents);
    }
    oracle
}

/// Slot decisions over a DAG and four views of it; how many of them contradict an earlier one.
fn conflicts(seed: u64, mutation: Mutation) -> (usize, usize) {
    let mut rng = Rng(seed);
    let dag = random_dag(&mut rng);
    let schedule = Schedule::rotating(4, if seed.is_multiple_of(2) { 2 } else { 1 }, u32::MAX);
    let lead = |round| schedule.leaders(&dag.committee, round);
    let mut seen: BTreeMap<LeaderSlot, Decision> = BTreeMap::new();
    let (mut decisions, mut conflicts) = (0, 0);
    for view in 0..5 {
        let blocks = if view == 0 { dag.blocks.clone() } else { random_view(&dag, &mut rng) };
        for (slot, decided) in oracle_of(&dag.committee, &blocks, mutation).decide(&lead, LeaderSlot::default()) {
            if let Some(decision) = decided {
                decisions += 1;
                conflicts += usize::from(*seen.entry(slot).or_insert(decision) != decision);
            }
        }
    }
    (decisions, conflicts)
}

/// What the incremental committer knows of every slot.
pub(crate) fn statuses(runner: &Runner) -> Vec<(LeaderSlot, Option<Decision>)> {
    runner.decided.iter().map(|d| (d.slot, Some(d.decision))).chain(runner.committer.statuses()).collect()
}

#[test]
fn views_of_ten_thousand_random_dags_never_conflict() {
    let (mut decisions, mut bad) = (0, 0);
    for seed in 0..10_000 {
        let (made, wrong) = conflicts(seed, Mutation::None);
        assert_eq!(wrong, 0, "seed {seed}");
        decisions += made;
        bad += wrong;
    }
    assert_eq!(bad, 0);
    assert!(decisions > 400_000, "only {decisions} decisions: the generator has lost its power");
}

#[test]
fn the_incremental_committer_equals_the_oracle_on_ten_thousand_random_dags() {
    for seed in 0..10_000 {
        let mut rng = Rng(seed ^ 0x5eed);
        let dag = random_dag(&mut rng);
        let leaders = if seed.is_multiple_of(2) { 2 } else { 1 };
        let blocks = random_order(&random_view(&dag, &mut rng), &mut rng);
        let mut runner = Runner::new(&dag.committee, leaders, 60);
        for (block, parents) in &blocks {
            runner.accept(*block, parents);
        }
        let oracle = oracle_of(&dag.committee, &blocks, Mutation::None);
        let lead = |round| runner.schedule.leaders(&dag.committee, round);
        assert_eq!(statuses(&runner), oracle.decide(&lead, LeaderSlot::default()), "seed {seed}");
    }
}

#[test]
fn the_incremental_committer_equals_the_oracle_on_every_prefix() {
    for seed in 0..300 {
        let mut rng = Rng(seed ^ 0xabcd);
        let dag = random_dag(&mut rng);
        let gc_depth = if seed.is_multiple_of(3) { 3 } else { 60 };
        let leaders = if seed.is_multiple_of(2) { 2 } else { 1 };
        let mut runner = Runner::new(&dag.committee, leaders, gc_depth);
        let mut oracle = Oracle::new(dag.committee.clone(), gc_depth, Mutation::None);
        let schedule = runner.schedule.clone();
        let lead = |round| schedule.leaders(&dag.committee, round);
        for (block, parents) in random_order(&dag.blocks, &mut rng) {
            runner.accept(block, &parents);
            oracle.insert(block, &parents);
            let expected = oracle.decide(&lead, LeaderSlot::default());
            if gc_depth == 60 {
                assert_eq!(statuses(&runner), expected, "seed {seed} after {block:?}");
            }
            let commits: Vec<_> = oracle.commits(&lead).into_iter().map(|c| (c.leader, c.blocks)).collect();
            let own = runner.commits.iter().map(|(leader, blocks, _)| {
                let mut sorted = blocks.clone();
                sorted.sort_unstable();
                (*leader, sorted)
            });
            assert_eq!(own.collect::<Vec<_>>(), commits, "seed {seed} after {block:?}");
        }
    }
}

#[test]
fn two_orders_of_acceptance_flush_the_same_bytes() {
    for seed in 0..300 {
        let mut rng = Rng(seed ^ 0x0bde);
        let dag = random_dag(&mut rng);
        let mut first = Runner::new(&dag.committee, 1, 3);
        first.accept_all(&dag);
        let mut second = Runner::new(&dag.committee, 1, 3);
        for (block, parents) in random_order(&dag.blocks, &mut rng) {
            second.accept(block, &parents);
        }
        assert_eq!(first.commits, second.commits, "seed {seed}");
        assert_eq!(first.linearizer.last_ref(), second.linearizer.last_ref(), "seed {seed}");
    }
}

#[test]
fn errors_in_the_rule_that_break_safety_are_found_by_conflicting_views() {
    for mutation in [
        Mutation::AnchorsFromTwo,
        Mutation::WalkPastUndecided,
        Mutation::CommitWithV,
        Mutation::CertifyWithV,
        Mutation::SkipWithV,
        Mutation::CountBlocks,
        Mutation::IndirectWithoutCertificate,
    ] {
        let found = (0..5_000).find(|seed| conflicts(*seed, mutation).1 > 0);
        assert!(found.is_some(), "{mutation:?} went unnoticed");
    }
}

#[test]
fn errors_in_the_rule_that_break_liveness_or_order_are_found_by_vectors() {
    let lead = |committee: &Committee, round| Schedule::rotating(4, 1, u32::MAX).leaders(committee, round);
    let split = "full 1\nA1': A0 B0 C0 D0\nA2: A1 B1 C1 D1\nB2: A1' B1 C1 D1\nC2: B1 C1 D1\nD2: B1 C1 D1";
    let dag = Dag::parse(&[1; 4], split);
    let decide = |mutation| {
        let oracle = oracle_of(&dag.committee, &dag.blocks, mutation);
        oracle.decide(&|round| lead(&dag.committee, round), LeaderSlot::default())[0].1
    };
    assert_eq!(decide(Mutation::None), Some(Decision::Skip));
    assert_eq!(decide(Mutation::SkipOnlyUnreferenced), None);

    let late = "full 1\nfull 2 ABC from A1 B1 C1\nfull 3..5 ABC\nD2: D1 A1 B1 C1\nD3: D2 A2 B2 C2\n\
                A6: A5 B5 C5 D3\nB6: A5 B5 C5\nC6: A5 B5 C5\nfull 7..10 ABC";
    let dag = Dag::parse(&[1; 4], late);
    let last = |mutation| {
        let mut oracle = Oracle::new(dag.committee.clone(), 3, mutation);
        for (block, parents) in &dag.blocks {
            oracle.insert(*block, parents);
        }
        oracle.commits(&|round| lead(&dag.committee, round)).last().expect("commits").blocks.len()
    };
    assert_eq!((last(Mutation::None), last(Mutation::FlushWithoutGc)), (3, 6));
}
