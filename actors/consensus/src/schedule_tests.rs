//! The leader schedule over DAGs: the vector of consensus.md 5.7, views and orders of random DAGs across switches, and
//! deliberate errors that must be noticed.

use std::collections::BTreeSet;

use aurigraph_ledger::hash::Hash;

use crate::cluster::Cluster;
use crate::committee::Committee;
use crate::committer::Decision;
use crate::config::Config;
use crate::event::{Effect, HaltReason};
use crate::fuzz::{oracle_of, random_dag, random_order, random_view, statuses};
use crate::machine::{Machine, RecoverError, Recovery};
use crate::oracle::Mutation;
use crate::oracle_schedule::Followed;
use crate::record::Record;
use crate::reputation::{Reputation, ScheduleRules, Table};
use crate::schedule::Schedule;
use crate::snapshot::ConsensusSnapshot;
use crate::status::Mode;
use crate::testing::{Dag, Rng, Runner};
use crate::types::{AuthorIdx, BlockRef, LeaderSlot, Now, Stake};

const EQUAL: [Stake; 4] = [1, 1, 1, 1];

fn follow(dag: &Dag, blocks: &[(BlockRef, Vec<BlockRef>)], leaders: u16, window: u32, mutation: Mutation) -> Followed {
    let schedule = Schedule::rotating(dag.committee.len(), leaders, window);
    let candidates = |round| schedule.candidates(&dag.committee, round);
    oracle_of(&dag.committee, blocks, mutation).follow(schedule.rules(), &candidates)
}

/// What the incremental committer has done must be what the oracle finds, the digests in the headers included.
fn compare(runner: &Runner, oracle: &Followed, what: &str) {
    let decided = oracle.decided.iter().map(|(slot, decision)| (*slot, Some(*decision)));
    let expected: Vec<(LeaderSlot, Option<Decision>)> = decided.chain(oracle.open.iter().copied()).collect();
    assert_eq!(statuses(runner), expected, "{what}");
    assert_eq!(runner.commits.len(), oracle.commits.len(), "{what}");
    for ((commit, header), expected) in runner.commits.iter().zip(&runner.headers).zip(&oracle.commits) {
        let mut blocks = commit.1.clone();
        blocks.sort_unstable();
        assert_eq!((commit.0, &blocks), (expected.leader, &expected.blocks), "{what}");
        assert_eq!(header.schedule_digest, expected.schedule_digest, "{what}: commit {}", header.index);
    }
    assert_eq!(runner.schedule.table(u32::MAX), oracle.tables.last().expect("never empty"), "{what}");
}

fn run(dag: &Dag, leaders: u16, window: u32) -> Runner {
    let mut runner = Runner::with_window(&dag.committee, leaders, 60, window);
    runner.accept_all(dag);
    compare(&runner, &follow(dag, &dag.blocks, leaders, window, Mutation::None), "vector");
    runner
}

/// D falls silent after round 1. In the first two commits B alone has voted for a leader; of the others the draw puts D
/// out, and from round 3 on B leads in its place.
const SWITCH: &str = "full 1\nfull 2..9 ABC";

#[test]
fn tv13_the_leaders_switch_after_commit_2() {
    let dag = Dag::parse(&EQUAL, SWITCH);
    let runner = run(&dag, 1, 2);
    assert_eq!(
        runner.slots(&dag),
        "1A COMMIT A1, 2B COMMIT B2, 3C COMMIT C3, 4B COMMIT B4, 5A COMMIT A5, 6B COMMIT B6, 7C COMMIT C7, \
         8B UNDECIDED, 9A UNDECIDED"
    );
}

#[test]
fn without_a_switch_the_silent_validator_keeps_its_slots() {
    let dag = Dag::parse(&EQUAL, SWITCH);
    assert!(run(&dag, 1, 300).slots(&dag).contains("4D SKIP"));
}

#[test]
fn the_incremental_committer_follows_the_schedule_like_the_oracle_on_every_prefix() {
    let mut switches = 0;
    for seed in 0..300 {
        let mut rng = Rng(seed ^ 0x5c4e);
        let dag = random_dag(&mut rng);
        let (leaders, window) =
            (1 + u16::try_from(seed % 2).expect("small"), 1 + u32::try_from(seed % 3).expect("small"));
        let mut runner = Runner::with_window(&dag.committee, leaders, 60, window);
        let mut seen = Vec::new();
        for (block, parents) in random_order(&dag.blocks, &mut rng) {
            runner.accept(block, &parents);
            seen.push((block, parents));
            let oracle = follow(&dag, &seen, leaders, window, Mutation::None);
            compare(&runner, &oracle, &format!("seed {seed} after {block:?}"));
        }
        switches += runner.commits.len() / usize::try_from(window).expect("small");
    }
    assert!(switches > 500, "only {switches} switches: the generator has lost its power");
}

/// Decided slots of five views of one DAG; how many of them contradict the longest list.
fn conflicts(seed: u64, leaders: u16, mutation: Mutation) -> usize {
    let mut rng = Rng(seed);
    let dag = random_dag(&mut rng);
    let window = 1 + u32::try_from(seed % 3).expect("small");
    let mut views: Vec<Vec<(LeaderSlot, Decision)>> = Vec::new();
    for view in 0..5 {
        let blocks = if view == 0 { dag.blocks.clone() } else { random_view(&dag, &mut rng) };
        views.push(follow(&dag, &blocks, leaders, window, mutation).decided);
    }
    let longest = views.iter().max_by_key(|view| view.len()).cloned().unwrap_or_default();
    views.iter().map(|view| view.iter().zip(&longest).filter(|(a, b)| a != b).count()).sum()
}

#[test]
fn views_of_random_dags_never_conflict_across_switches() {
    for seed in 0..4_000 {
        assert_eq!(conflicts(seed, 1 + u16::try_from(seed % 2).expect("small"), Mutation::None), 0, "seed {seed}");
    }
}

#[test]
fn keeping_what_old_leaders_decided_is_found_by_conflicting_views() {
    let found = |leaders, mutation| (0..20_000).find(|seed| conflicts(*seed, leaders, mutation) > 0);
    assert!(found(1, Mutation::KeepOldStatuses).is_some());
    assert!(found(2, Mutation::KeepOldAnchors).is_some());
}

#[test]
fn a_schedule_applied_one_commit_late_is_found() {
    let dag = Dag::parse(&EQUAL, SWITCH);
    let right = follow(&dag, &dag.blocks, 1, 2, Mutation::None);
    let late = follow(&dag, &dag.blocks, 1, 2, Mutation::ScheduleLate);
    assert_ne!(right.decided, late.decided);
    let digests = |f: &Followed| f.commits.iter().map(|commit| commit.schedule_digest).collect::<Vec<_>>();
    assert_ne!(digests(&right), digests(&late));
}

/// Every node takes the switch at the same place, however its blocks come in.
#[test]
fn two_orders_of_acceptance_switch_alike() {
    for seed in 0..300 {
        let mut rng = Rng(seed ^ 0x2d1f);
        let dag = random_dag(&mut rng);
        let mut digests = BTreeSet::new();
        for _ in 0..3 {
            let mut runner = Runner::with_window(&dag.committee, 1, 3, 2);
            for (block, parents) in random_order(&dag.blocks, &mut rng) {
                runner.accept(block, &parents);
            }
            digests.insert((runner.linearizer.last_ref(), runner.schedule.digest()));
        }
        assert_eq!(digests.len(), 1, "seed {seed}");
    }
}

fn cluster(window: u32, seed: u64) -> Cluster {
    let mut c = Cluster::new(&EQUAL, seed);
    c.config.params.schedule_window = window;
    c.start_all();
    c
}

/// Sui 17654 and 17712: recovery on the last commit of a window, and before the first table. The cluster itself holds
/// that the schedule after a slot is the same at all nodes in all their lives.
#[test]
fn a_restart_at_any_commit_of_a_window_goes_on_with_the_same_leaders() {
    for use_snapshots in [false, true] {
        let mut c = cluster(5, 61);
        c.use_snapshots = use_snapshots;
        let mut places = BTreeSet::new();
        for step in 0..40 {
            let before = c.commits(1);
            c.submit(0, &format!("{use_snapshots}/{step}"));
            c.run_until(8_000, "the next commit", |c| c.commits(1) > before);
            places.insert(c.commits(1) % 5);
            c.take_snapshot(1);
            let slot = c.status(1).last_decided;
            let table = c.status(1).schedule;
            c.crash(1);
            c.restart(1);
            let after = c.status(1);
            if after.last_decided == slot {
                assert_eq!(after.schedule, table, "step {step}");
            }
        }
        assert_eq!(places.len(), 5, "a restart at each commit of a window: {places:?}");
        c.run_for(3_000);
        (0..4).for_each(|node| c.check_oracle(node));
    }
}

#[test]
fn a_silent_validator_leads_no_more_and_comes_back_into_the_rotation() {
    let mut c = cluster(10, 62);
    c.run_until(20_000, "a first table", |c| c.status(0).schedule.updates >= 1);
    c.crash(3);
    let updates = c.status(0).schedule.updates;
    c.run_until(60_000, "a table after a silent window", |c| c.status(0).schedule.updates >= updates + 2);
    let schedule = c.status(0).schedule;
    assert_eq!(schedule.bad, [3]);
    let machine = c.nodes[0].machine.as_ref().expect("up");
    let rounds = schedule.from_round..schedule.from_round + 200;
    assert!(rounds.clone().all(|round| machine.leaders(round) != [3]));
    assert!(rounds.into_iter().any(|round| machine.schedule().candidates(machine.committee(), round)[0] == 3));
    c.restart(3);
    c.run_until(120_000, "the rotation with all", |c| !c.status(0).schedule.bad.contains(&3));
    (0..4).for_each(|node| c.check_oracle(node));
}

fn records(c: &Cluster, node: usize) -> Vec<Record> {
    c.nodes[node].log.iter().map(|bytes| Record::decode(bytes).expect("own records decode")).collect()
}

#[test]
fn a_log_written_under_another_schedule_halts_with_the_facts() {
    let mut c = cluster(3, 63);
    c.run_until(20_000, "two tables", |c| c.status(0).schedule.updates >= 2);
    let mut records = records(&c, 0);
    let other = Hash([9; 32]);
    let mut own = Hash::ZERO;
    for record in &mut records {
        if let Record::Commit(commit) = record
            && commit.header.index == 4
        {
            let mut changed = commit.as_ref().clone();
            own = std::mem::replace(&mut changed.header.schedule_digest, other);
            *commit = changed.into();
        }
    }
    let recovered = Machine::recover(c.config_of(0), Now::default(), Recovery::default(), records);
    let (machine, effects) = recovered.expect("recovers");
    let halt = effects.iter().find_map(|effect| match effect {
        Effect::Halt(reason) => Some(reason.as_ref()),
        _ => None,
    });
    let Some(HaltReason::ScheduleDiffers { index: 4, found, computed, bad, good, .. }) = halt else {
        panic!("{halt:?}")
    };
    assert_eq!((*found, *computed, bad.len(), good.len()), (other, own, 1, 1));
    assert_eq!(machine.mode(), Mode::Halted);
}

#[test]
fn a_snapshot_of_another_committee_or_version_is_refused() {
    let mut c = cluster(3, 64);
    c.run_until(20_000, "a table", |c| c.status(0).schedule.updates >= 1);
    let good = c.nodes[0].machine.as_ref().expect("up").snapshot();
    let recover = |snapshot: ConsensusSnapshot| {
        let recovery = Recovery { snapshot: Some(snapshot), ..Recovery::default() };
        Machine::recover(c.config_of(0), Now::default(), recovery, records(&c, 0)).err()
    };
    assert_eq!(recover(good.clone()), None);
    let mut bad = good.clone();
    bad.reputation.scores.push(0);
    assert_eq!(recover(bad), Some(RecoverError::Schedule { validators: 4, scores: 5 }));
    let mut bad = good.clone();
    bad.reputation.tables.clear();
    assert!(matches!(recover(bad), Some(RecoverError::Schedule { .. })));
    let mut bad = good.clone();
    bad.reputation.tables.last_mut().expect("a table").good = vec![77];
    assert!(matches!(recover(bad), Some(RecoverError::Schedule { .. })));
    let mut old = good.encode();
    old[0] = 1;
    let refused = ConsensusSnapshot::decode(&old).expect_err("version 1").to_string();
    assert!(refused.contains("version of the consensus snapshot"), "{refused}");
}

#[test]
fn no_table_takes_more_than_its_share_or_leaves_less_than_v() {
    for seed in 0..2_000 {
        let mut rng = Rng(seed);
        let n = 1 + rng.below(12);
        let stakes: Vec<Stake> = (0..n).map(|_| 1 + rng.next() % 9).collect();
        let committee = Committee::new(stakes).expect("valid");
        let rules = ScheduleRules { epoch_seed: Hash::ZERO, leaders_per_round: 1, window: 1, swap_percent: 20 };
        let mut state = Reputation::new(n);
        state.scores.iter_mut().for_each(|score| *score = rng.next() % 5);
        state.equivocators = committee.authors().filter(|_| rng.chance(20)).collect();
        let scores = state.scores.clone();
        state.turn(&committee, &rules, 7);
        let table = state.tables.last().expect("a table");
        let stake = |authors: &mut dyn Iterator<Item = AuthorIdx>| authors.map(|a| committee.stake(a)).sum::<Stake>();
        let out = stake(&mut table.bad.iter().copied());
        let swapped = stake(&mut table.bad.iter().copied().filter(|author| !state.equivocators.contains(author)));
        assert!(swapped <= committee.faulty(), "seed {seed}: {table:?}");
        assert!(committee.total() - out >= committee.validity(), "seed {seed}: {table:?}");
        assert_eq!(table.bad.is_empty(), table.good.is_empty(), "seed {seed}: {table:?}");
        assert!(table.good.iter().all(|author| !table.bad.contains(author)), "seed {seed}: {table:?}");
        if state.equivocators.iter().any(|author| !table.bad.contains(author)) {
            continue; // More stake than can be faulty has equivocated: some of it has to stay.
        }
        let score = |author: &AuthorIdx| scores[usize::from(*author)];
        let worst = table.bad.iter().filter(|author| !state.equivocators.contains(author)).map(score).max();
        let best = table.good.iter().map(score).min();
        assert!(worst.zip(best).is_none_or(|(worst, best)| worst <= best), "seed {seed}: {table:?}");
        assert!(state.fits(&committee) && state.scores.iter().all(|score| *score == 0), "seed {seed}");
    }
}

/// With tables that change all the time, the validators that stay in the rotation lead by stake.
#[test]
fn those_who_are_not_swapped_lead_as_often_as_their_stake_says() {
    let stakes: [Stake; 5] = [30, 30, 20, 10, 10];
    let config = Config::new(Hash([1; 32]), Hash([7; 32]), stakes.to_vec(), None);
    let committee = Committee::new(stakes.to_vec()).expect("valid");
    let mut state = Reputation::new(5);
    state.tables = vec![Table { from_round: 0, bad: [4].into(), good: vec![3] }];
    let mut schedule = Schedule::new(&config);
    assert!(schedule.restore(&committee, state));
    let mut count = [0_u32; 5];
    for round in 1..=20_000 {
        count[usize::from(schedule.leaders(&committee, round)[0])] += 1;
    }
    // Chi-square with 3 degrees of freedom: 16.3 is exceeded once in a thousand seeds, and the seed is fixed.
    let expected = [6_000.0, 6_000.0, 4_000.0, 4_000.0];
    let chi: f64 = expected.iter().zip(count).map(|(e, c)| (f64::from(c) - e).powi(2) / e).sum();
    assert!(count[4] == 0 && chi < 16.3, "counts {count:?}, chi-square {chi}");
}
