//! Bugs that other consensus systems have had, continued: those that need a cluster to show. The table is
//! `docs/historic-bugs.md`; the cluster itself holds agreement, order, and that no node signs two blocks of a round.

use std::collections::BTreeSet;

use crate::cluster::Cluster;
use crate::event::Event;
use crate::machine::Machine;
use crate::status::Mode;

fn machine(c: &Cluster, node: usize) -> &Machine {
    c.nodes[node].machine.as_ref().expect("up")
}

fn signs(c: &Cluster, node: usize) -> bool {
    c.mode(node) == Some(Mode::Active) && c.status(node).own_round + 3 >= c.status((node + 1) % 4).round
}

/// Runs with payload at the first nodes, so that rounds follow each other quickly.
fn busy(c: &mut Cluster, nodes: usize, duration: u64) {
    let end = c.time + duration;
    while c.time < end {
        let name = format!("busy {}", c.time);
        let node = usize::try_from(c.time).expect("small") % nodes;
        c.submit(node, &name);
        c.run_for(70);
    }
}

/// Short windows, so that a short absence is a long one.
fn short_memory(n: usize, seed: u64) -> Cluster {
    let mut c = Cluster::new(&vec![1; n], seed);
    c.config.params.gc_depth = 16;
    c.config.limits.ahead = 32;
    c.config.limits.catch_up_enter = 32;
    c
}

/// The rule that keeps the published attack from working: however far behind, nobody leaves out a round.
#[test]
fn h01_no_round_is_jumped_over_however_messages_are_delayed() {
    for seed in 0..4 {
        let mut c = Cluster::new(&[1; 4], 910 + seed);
        c.latency = (1, 500);
        c.drop_percent = 10;
        c.start_all();
        busy(&mut c, 4, 20_000);
        assert!(c.least() > 10, "{}", c.report());
        let filled: u64 = (0..4).map(|node| c.status(node).counters.blocks_filled).sum();
        assert!(filled > 0, "nobody was ever behind");
        for node in 0..4 {
            assert_eq!(c.status(node).counters.catch_ups, 0);
            let rounds: Vec<u32> = c.nodes[node].sent_rounds.keys().map(|(_, round)| *round).collect();
            assert!(rounds.windows(2).all(|pair| pair[0] + 1 == pair[1]), "seed {seed}, {node}: {rounds:?}");
        }
    }
}

/// Whoever is gone for good, every eight rounds bring a commit.
#[test]
fn h02_one_crashed_for_ever_never_stops_commits() {
    for down in 0..4 {
        let mut c = Cluster::new(&[1; 4], 920);
        c.start_all();
        c.run_until(5_000, "first commits", |c| c.least() >= 3);
        c.crash(down);
        let up = (down + 1) % 4;
        for _ in 0..20 {
            let (round, commits) = (c.status(up).round, c.commits(up));
            c.run_until(20_000, "eight rounds", |c| c.status(up).round >= round + 8);
            assert!(c.commits(up) > commits, "without {down}: {}", c.report());
        }
    }
}

/// The range to catch up with is full of second versions of slots, on which other blocks build.
#[test]
fn h09_catch_up_takes_the_versions_of_an_equivocator_that_others_build_on() {
    for seed in 0..3 {
        let mut c = short_memory(7, 930 + seed);
        c.start_all();
        c.run_for(1_500);
        c.crash(6);
        // Only now: once it is known, nobody builds on what it signs any more.
        c.equivocator = Some(1);
        let from = c.commits(6);
        busy(&mut c, 6, 10_000);
        let target = c.commits(0);
        assert!(target > from + 60, "{target} commits");
        c.restart(6);
        c.run_until(10_000, "caught up", |c| c.commits(6) >= target);
        assert!(c.status(6).counters.catch_ups > 0);
        let blocks = c.nodes[6].delivered.range(from + 1..=target).flat_map(|(_, commit)| commit.blocks.iter());
        let refs: Vec<_> = blocks.map(|committed| committed.block).collect();
        let slots: BTreeSet<_> = refs.iter().map(|block| block.slot()).collect();
        assert!(refs.len() > slots.len(), "{} blocks in {} slots", refs.len(), slots.len());
        c.run_until(10_000, "signs", |c| c.mode(6) == Some(Mode::Active));
        c.check_oracle(6);
    }
}

/// Commits are fetched no faster than they are executed, and fetched further when execution goes on.
#[test]
fn h11_catch_up_waits_for_a_slow_executor() {
    let mut c = short_memory(4, 940);
    c.config.limits.max_unexecuted_catch_up = 8;
    c.start_all();
    c.run_for(1_500);
    c.crash(3);
    let from = c.commits(3);
    busy(&mut c, 3, 30_000);
    let target = c.commits(0);
    assert!(target > from + 300, "{target} commits");
    c.execution_stalls = true;
    c.restart(3);
    c.run_for(15_000);
    // What was allowed, one range that was asked for before it was used up, and what lies beyond the last commit.
    let reached = c.commits(3);
    assert!((from + 8..=from + 8 + 2 * 64).contains(&reached), "from {from} to {reached} of {target}");
    assert_eq!(c.mode(3), Some(Mode::CatchUp));
    c.execution_stalls = false;
    for node in 0..4 {
        let commit_index = c.commits(node);
        c.push(node, 0, Event::Executed { commit_index, checkpoint: None });
    }
    c.run_until(20_000, "caught up", |c| c.commits(3) >= target);
}

/// Its newest block reached nobody before it ended; it proposes again, and the payload of that block arrives.
#[test]
fn h15_a_restarted_validator_whose_last_block_reached_nobody_proposes_again() {
    for seed in 0..5 {
        let mut c = Cluster::new(&[1; 4], 960 + seed);
        c.start_all();
        c.run_for(3_000);
        c.cut = [(0, 3), (1, 3), (2, 3)].into();
        let before = c.status(3).own_round;
        let unheard = c.submit(3, "in a block that nobody has");
        c.run_until(2_000, "a block into the void", |c| c.status(3).own_round > before);
        c.crash(3);
        busy(&mut c, 3, 1_500);
        c.cut.clear();
        c.restart(3);
        let round = c.status(0).round;
        c.run_until(5_000, "it proposes", |c| signs(c, 3) && c.status(3).own_round > round);
        c.run_until(5_000, "its payload", |c| (0..4).all(|node| c.has(node, &unheard)));
    }
}

/// A block that came too late for the next round is linked later: nothing that was accepted stays out for ever.
#[test]
fn h16_every_accepted_block_comes_into_the_own_history() {
    for seed in 0..4 {
        let mut c = Cluster::new(&[1; 5], 970 + seed);
        c.latency = (1, 350);
        c.drop_percent = 10;
        c.start_all();
        busy(&mut c, 5, 10_000);
        c.latency = (1, 5);
        c.drop_percent = 0;
        busy(&mut c, 5, 1_500);
        let mut late = 0;
        for node in 0..5 {
            let machine = machine(&c, node);
            let own = machine.proposer.own_round();
            for (reference, stored) in machine.store.iter().filter(|(reference, _)| reference.round + 3 <= own) {
                assert!(stored.in_own_cone, "seed {seed}: {reference} is not in the history of {node}");
                late += stored.block.parents.iter().skip(1).filter(|p| p.round + 1 < reference.round).count();
            }
        }
        assert!(late > 0, "seed {seed}: nothing ever came too late");
    }
}

/// However little is taken of a validator at a time, two versions of a slot are found, once, by everybody.
#[test]
fn h21_caps_do_not_hide_an_equivocation() {
    for seed in 0..4 {
        let mut c = Cluster::new(&[1; 4], 980 + seed);
        c.config.limits.verify_per_author = 1;
        c.config.limits.suspended_per_author = 2;
        c.equivocator = Some(1);
        c.start_all();
        busy(&mut c, 4, 3_000);
        let evidence: Vec<usize> = [0, 2, 3].map(|node| c.nodes[node].evidence).to_vec();
        assert_eq!(evidence, [1, 1, 1], "seed {seed}");
    }
}

/// However far behind: what is kept depends on the window, not on the distance.
#[test]
fn h25_memory_does_not_grow_with_the_length_of_catch_up() {
    let mut c = short_memory(4, 985);
    c.start_all();
    c.run_for(1_500);
    c.crash(3);
    busy(&mut c, 3, 40_000);
    let (from, target) = (c.commits(3), c.commits(0));
    assert!(target > from + 500, "{target} commits");
    c.restart(3);
    let mut most = 0;
    let mut looks = 0;
    while c.commits(3) < target {
        c.run_for(5);
        let status = c.status(3);
        let seen = machine(&c, 3).evidence.slots();
        most = most.max(status.blocks).max(status.suspended).max(status.wanted).max(seen);
        looks += usize::from(c.mode(3) == Some(Mode::CatchUp));
        assert!(looks < 10_000, "{}", c.report());
    }
    // 16 rounds of garbage collection, 64 commits of a range with a slot skipped now and then, for four validators.
    assert!(looks > 20 && most <= 4 * (16 + 2 * 64), "{most} at most in {looks} looks");
}

/// Nobody has the newest blocks of anybody, and f+1, or all, start again.
#[test]
fn h31_after_a_restart_last_blocks_are_sent_again() {
    for (seed, restarted) in (990..).zip([vec![2, 3], vec![0, 3], vec![0, 1, 2, 3], vec![1, 2]]) {
        let mut c = Cluster::new(&[1; 4], seed);
        // Rounds that everybody has, then messages are lost that nobody but a restart would send again.
        c.config.pacing.rebroadcast_ms = 3_600_000;
        c.start_all();
        c.run_for(3_000);
        c.drop_percent = 100;
        c.run_for(2_000);
        let stuck = c.status(0).round;
        restarted.iter().for_each(|node| c.crash(*node));
        c.run_for(50);
        c.drop_percent = 0;
        restarted.iter().for_each(|node| c.restart(*node));
        c.run_until(8_000, "all go on", |c| (0..4).all(|node| c.status(node).own_round > stuck + 5));
    }
}
