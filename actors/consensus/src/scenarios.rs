//! Whole-cluster behaviour: progress, pacing, restarts, catch-up, faults.

use crate::block::Block;
use crate::cluster::{Cluster, stub_signature};
use crate::event::Alarm;
use crate::message::encode_block;
use crate::status::Mode;
use crate::types::TimeMs;

#[test]
fn four_validators_commit_and_deliver_a_batch_quickly() {
    let mut c = Cluster::new(&[1; 4], 1);
    c.start_all();
    c.run_until(5_000, "first commits", |c| c.least() >= 3);
    c.run_for(2_000);
    let start = c.time;
    let batch = c.submit(2, "hello");
    c.run_until(1_000, "the batch", |c| (0..4).all(|node| c.has(node, &batch)));
    assert!(c.time - start <= 400, "took {} ms in an idle cluster", c.time - start);
}

#[test]
fn an_idle_cluster_builds_two_rounds_a_second_and_a_busy_one_nearly_twenty() {
    let mut c = Cluster::new(&[1; 4], 2);
    c.start_all();
    c.run_for(5_000);
    let (round, steps) = (c.status(0).round, c.steps);
    c.run_for(10_000);
    let idle = c.status(0).round - round;
    assert!((15..=22).contains(&idle), "{idle} idle rounds in 10 s");
    let per_node = (c.steps - steps) / 4;
    assert!(per_node < 1_200, "{per_node} steps of a node in 10 idle seconds");
    let round = c.status(0).round;
    for i in 0..500 {
        c.submit(i % 4, &format!("busy {i}"));
        c.run_for(20);
    }
    let busy = c.status(0).round - round;
    assert!((120..=210).contains(&busy), "{busy} busy rounds in 10 s");
}

#[test]
fn one_validator_alone_commits() {
    let mut c = Cluster::new(&[5], 3);
    c.start_all();
    let batch = c.submit(0, "alone");
    c.run_until(3_000, "the batch", |c| c.has(0, &batch));
    c.crash(0);
    c.restart(0);
    let batch = c.submit(0, "again");
    c.run_until(3_000, "the batch after a restart", |c| c.has(0, &batch));
}

#[test]
fn the_cluster_goes_on_without_one_of_four() {
    let mut c = Cluster::new(&[1; 4], 4);
    c.start_all();
    c.run_until(5_000, "first commits", |c| c.least() >= 3);
    c.crash(3);
    let before = c.least();
    for i in 0..20 {
        let batch = c.submit(i % 3, &format!("without {i}"));
        c.run_until(3_000, "a batch", |c| (0..3).all(|node| c.has(node, &batch)));
    }
    assert!(c.least() > before + 20);
}

#[test]
fn two_of_four_are_not_enough_and_nobody_signs_into_the_void() {
    let mut c = Cluster::new(&[1; 4], 5);
    c.start_all();
    c.run_until(5_000, "first commits", |c| c.least() >= 3);
    c.crash(2);
    c.crash(3);
    c.run_for(2_000);
    let round = c.status(0).own_round;
    c.run_for(10_000);
    assert_eq!(c.status(0).own_round, round);
    c.restart(2);
    let batch = c.submit(0, "back");
    c.run_until(5_000, "commits with three", |c| (0..3).all(|node| c.has(node, &batch)));
}

#[test]
fn a_restarted_validator_says_the_same_and_rejoins() {
    for seed in 0..10 {
        let mut c = Cluster::new(&[1; 4], 100 + seed);
        c.use_snapshots = seed % 2 == 0;
        c.start_all();
        for i in 0..12 {
            let node = i % 4;
            c.submit((node + 1) % 4, &format!("{seed}/{i}"));
            c.run_for(300);
            c.take_snapshot(node);
            let pause = c.rng.next() % 200;
            c.run_for(pause);
            c.crash(node);
            let down = c.rng.next() % 1_500;
            c.run_for(down);
            c.restart(node);
            c.run_until(8_000, "the restarted one signs", |c| {
                c.mode(node) == Some(Mode::Active) && c.status(node).own_round + 3 >= c.status((node + 1) % 4).round
            });
        }
        assert!(c.nodes.iter().all(|node| node.alarms.is_empty()), "seed {seed}");
    }
}

#[test]
fn a_whole_cluster_restarts_with_and_without_one_down() {
    for seed in 0..6 {
        let mut c = Cluster::new(&[1; 4], 200 + seed);
        c.start_all();
        c.submit(0, "before");
        c.run_for(3_000);
        (0..4).for_each(|node| c.crash(node));
        let up = if seed % 2 == 0 { 4 } else { 3 };
        (0..up).for_each(|node| c.restart(node));
        let batch = c.submit(1, "after");
        c.run_until(8_000, "commits after the restart", |c| (0..up).all(|node| c.has(node, &batch)));
        if up == 3 {
            c.restart(3);
            c.run_until(8_000, "the last one follows", |c| c.has(3, &batch));
        }
    }
}

#[test]
fn a_validator_that_missed_minutes_catches_up_and_signs_again() {
    let mut c = Cluster::new(&[1; 4], 6);
    c.start_all();
    c.run_for(2_000);
    c.crash(3);
    for i in 0..600 {
        c.submit(i % 3, &format!("missed {i}"));
        c.run_for(100);
    }
    let target = c.commits(0);
    assert!(target > 400, "{target} commits in a minute");
    c.restart(3);
    let start = c.time;
    c.run_until(20_000, "caught up", |c| c.commits(3) >= target);
    assert!(c.time - start < 8_000, "took {} ms", c.time - start);
    c.run_until(10_000, "signs again", |c| {
        c.mode(3) == Some(Mode::Active) && c.status(3).own_round + 3 >= c.status(0).round
    });
    assert_eq!(c.status(3).counters.catch_ups, 1);
    assert_eq!(c.status(3).last_commit.digest, c.agreed[&c.commits(3)]);
}

#[test]
fn a_validator_that_missed_a_few_seconds_needs_no_catch_up() {
    let mut c = Cluster::new(&[1; 4], 7);
    c.start_all();
    c.run_for(2_000);
    c.crash(3);
    for i in 0..50 {
        c.submit(i % 3, &format!("short {i}"));
        c.run_for(100);
    }
    c.restart(3);
    let start = c.time;
    c.run_until(10_000, "signs again", |c| {
        c.mode(3) == Some(Mode::Active) && c.status(3).own_round + 3 >= c.status(0).round
    });
    assert!(c.time - start < 5_000, "took {} ms", c.time - start);
    assert_eq!(c.status(3).counters.catch_ups, 0);
}

#[test]
fn a_cut_off_validator_rejoins_without_a_restart() {
    let mut c = Cluster::new(&[1; 4], 8);
    c.start_all();
    c.run_for(2_000);
    c.cut = [(0, 3), (1, 3), (2, 3)].into();
    for i in 0..400 {
        c.submit(i % 3, &format!("cut {i}"));
        c.run_for(100);
    }
    c.cut.clear();
    let late = c.submit(3, "from the cut off one");
    c.run_until(15_000, "its batch", |c| (0..4).all(|node| c.has(node, &late)));
}

#[test]
fn lossy_links_and_long_delays_only_cost_time() {
    for seed in 0..6 {
        let mut c = Cluster::new(&[2, 1, 1, 1, 2], 300 + seed);
        c.drop_percent = 20;
        c.latency = (1, 150);
        c.start_all();
        c.run_until(20_000, "first commits", |c| c.least() >= 3);
        for i in 0..10 {
            let batch = c.submit(i % 5, &format!("lossy {i}"));
            c.run_until(20_000, "a batch", |c| (0..5).all(|node| c.has(node, &batch)));
        }
    }
}

#[test]
fn ten_validators_commit_with_three_down() {
    let mut c = Cluster::new(&[1; 10], 9);
    c.start_all();
    c.run_for(2_000);
    [2, 5, 9].into_iter().for_each(|node| c.crash(node));
    let batch = c.submit(0, "seven");
    c.run_until(5_000, "a batch", |c| [0, 1, 3, 4, 6, 7, 8].iter().all(|node| c.has(*node, &batch)));
}

#[test]
fn a_second_block_in_a_slot_is_evidence_at_every_node_that_sees_it() {
    let mut c = Cluster::new(&[1; 4], 10);
    c.start_all();
    c.run_for(3_000);
    let machine = c.nodes[3].machine.as_ref().expect("up");
    let (_, newest) = machine.blocks().filter(|(r, _)| r.author == 3).last().expect("has blocks");
    let mut twin: Block = newest.clone();
    twin.core.timestamp_ms += 1;
    twin.signature = stub_signature(3, &twin.core.digest());
    for to in 0..3 {
        c.transmit(3, to, encode_block(&twin.encode()));
    }
    c.run_for(500);
    assert!((0..3).all(|node| c.nodes[node].evidence == 1));
    let batch = c.submit(0, "after");
    c.run_until(5_000, "goes on", |c| (0..4).all(|node| c.has(node, &batch)));
}

#[test]
fn a_rolled_back_disk_is_noticed_and_nothing_is_signed() {
    let mut c = Cluster::new(&[1; 4], 11);
    c.start_all();
    c.run_for(4_000);
    c.crash(3);
    c.roll_back(3);
    c.restart(3);
    c.run_for(3_000);
    assert_eq!(c.mode(3), Some(Mode::Observer));
    assert!(matches!(c.nodes[3].alarms[..], [Alarm::OwnBlockNotInLog { .. }, ..]), "{:?}", c.nodes[3].alarms);
    let batch = c.submit(0, "goes on");
    c.run_until(5_000, "the observer follows", |c| (0..4).all(|node| c.has(node, &batch)));
    c.crash(3);
    c.restart(3);
    c.run_for(3_000);
    assert_eq!(c.mode(3), Some(Mode::Observer), "and it stays one after another restart");
}

#[test]
fn an_empty_log_in_an_old_directory_signs_nothing() {
    let mut c = Cluster::new(&[1; 4], 12);
    c.start_all();
    c.run_for(4_000);
    c.crash(3);
    c.wipe(3);
    c.restart(3);
    c.run_for(5_000);
    assert_eq!(c.mode(3), Some(Mode::Observer));
    assert_eq!(c.nodes[3].alarms.first(), Some(&Alarm::SigningFloorUnknown));
    assert!(c.commits(3) + 3 >= c.commits(0), "it follows");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut c = Cluster::new(&[1; 4], seed);
        c.drop_percent = 5;
        c.start_all();
        for i in 0..20 {
            c.submit(i % 4, &format!("{i}"));
            c.run_for(150);
        }
        (c.steps, c.agreed.clone(), c.report())
    };
    assert_eq!(run(13), run(13));
}

#[test]
fn without_pipelining_own_payload_waits_for_execution() {
    let mut c = Cluster::new(&[1; 4], 14);
    c.config.pipelining = false;
    c.start_all();
    for i in 0..10 {
        let batch = c.submit(i % 4, &format!("{i}"));
        c.run_until(5_000, "a batch", |c| (0..4).all(|node| c.has(node, &batch)));
    }
}

#[test]
fn a_slow_link_to_one_validator_does_not_hold_up_the_rest() {
    let mut c = Cluster::new(&[1; 4], 15);
    c.start_all();
    c.run_for(3_000);
    c.cut = [(0, 3), (1, 3)].into();
    let start: TimeMs = c.time;
    let batch = c.submit(0, "half cut");
    c.run_until(3_000, "a batch", |c| (0..3).all(|node| c.has(node, &batch)));
    assert!(c.time - start < 2_000);
    c.run_until(5_000, "the half cut one follows", |c| c.has(3, &batch));
}
