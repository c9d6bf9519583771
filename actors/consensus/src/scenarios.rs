//! Whole-cluster behaviour: progress, pacing, restarts, catch-up, faults.

use aurigraph_ledger::hash::h;

use crate::block::Block;
use crate::cluster::{Cluster, stub_signature};
use crate::config::Config;
use crate::event::{Effect, Event};
use crate::machine::Machine;
use crate::message::encode_block;
use crate::status::Mode;
use crate::testing::{genesis_of, sealed_block};
use crate::types::{BlockRef, Now, TimeMs};

#[test]
fn four_validators_commit_and_deliver_a_batch_quickly() {
    let mut c = Cluster::new(&[1; 4], 1);
    c.start_all();
    c.run_until(5_000, "first commits", |c| c.least() >= 3);
    c.run_for(2_000);
    for i in 0..10 {
        let start = c.time;
        let batch = c.submit(i % 4, &format!("hello {i}"));
        c.run_until(1_000, "the batch", |c| (0..4).all(|node| c.has(node, &batch)));
        assert!(c.time - start <= 320, "took {} ms in an idle cluster", c.time - start);
        let pause = 1_000 + c.rng.next() % 700;
        c.run_for(pause);
    }
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
    let rounds: Vec<u32> = c.nodes[3].sent_rounds.keys().map(|(_, round)| *round).collect();
    let skips = rounds.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count();
    assert_eq!(skips, 1, "rounds are skipped once: {rounds:?}");
    c.check_oracle(0);
    assert_eq!(c.status(3).last_commit.digest, c.agreed[&c.commits(3)]);
}

#[test]
fn a_validator_that_missed_a_few_seconds_needs_no_catch_up() {
    let mut c = Cluster::new(&[1; 4], 7);
    c.start_all();
    c.run_for(2_000);
    c.crash(3);
    for i in 0..25 {
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
    let rounds: Vec<u32> = c.nodes[3].sent_rounds.keys().map(|(_, round)| *round).collect();
    assert!(rounds.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a round was skipped: {rounds:?}");
}

#[test]
fn a_cut_off_validator_rejoins_without_a_restart() {
    let mut c = Cluster::new(&[1; 4], 8);
    c.start_all();
    c.run_for(2_000);
    let round = c.status(3).own_round;
    c.run_until(2_000, "a round", |c| c.status(3).own_round > round);
    c.run_for(100);
    c.cut = [(0, 3), (1, 3), (2, 3)].into();
    let stuck = c.submit(3, "proposed into the void");
    for i in 0..400 {
        c.submit(i % 3, &format!("cut {i}"));
        c.run_for(100);
    }
    assert_eq!(c.status(3).pending_batches, 0, "it is in a block that nobody will take");
    c.cut.clear();
    let late = c.submit(3, "from the cut off one");
    c.run_until(15_000, "its batches", |c| (0..4).all(|node| c.has(node, &late) && c.has(node, &stuck)));
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
        (0..5).for_each(|node| c.check_oracle(node));
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
fn an_equivocator_is_found_and_stops_nobody() {
    for seed in 0..4 {
        let mut c = Cluster::new(&[1; 4], 400 + seed);
        c.equivocator = Some(1);
        c.start_all();
        for i in 0..15 {
            let node = [0, 2, 3][i % 3];
            let batch = c.submit(node, &format!("{seed}/{i}"));
            c.run_until(6_000, "a batch", |c| [0, 2, 3].iter().all(|node| c.has(*node, &batch)));
        }
        let seen = [0, 2, 3].iter().filter(|node| c.nodes[**node].evidence == 1).count();
        assert!(seen >= 2, "seed {seed}: {seen} have evidence");
        [0, 2, 3].into_iter().for_each(|node| c.check_oracle(node));
    }
}

#[test]
fn blocks_given_to_one_peer_reach_the_others_by_fetching() {
    let mut c = Cluster::new(&[1; 4], 17);
    c.whisperer = Some(2);
    c.start_all();
    for i in 0..10 {
        let batch = c.submit(2, &format!("whispered {i}"));
        c.run_until(6_000, "a batch", |c| (0..4).all(|node| c.has(node, &batch)));
    }
    assert!((0..2).all(|node| c.status(node).counters.blocks_fetched > 0));
}

#[test]
fn thirteen_validators_with_two_leaders_a_round_commit_with_four_down() {
    let mut c = Cluster::new(&[1; 13], 18);
    assert_eq!(c.config.params.leaders_per_round, 2);
    c.start_all();
    c.run_for(2_000);
    [1, 4, 8, 12].into_iter().for_each(|node| c.crash(node));
    for i in 0..3 {
        let batch = c.submit(0, &format!("nine {i}"));
        c.run_until(8_000, "a batch", |c| [0, 2, 3, 5, 6, 7, 9, 10, 11].iter().all(|node| c.has(*node, &batch)));
    }
    c.check_oracle(0);
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
fn payload_pauses_while_execution_is_far_behind_and_headers_go_on() {
    let mut c = Cluster::new(&[1; 4], 19);
    c.config.limits.max_unexecuted = 5;
    c.execution_stalls = true;
    c.start_all();
    c.run_until(10_000, "some commits", |c| c.least() >= 8);
    let (batch, commits) = (c.submit(0, "waits"), c.least());
    c.run_for(3_000);
    assert!(!c.has(0, &batch) && c.least() > commits + 10);
    c.execution_stalls = false;
    for node in 0..4 {
        let commit_index = c.commits(node);
        c.push(node, 0, Event::Executed { commit_index, checkpoint: None });
    }
    c.run_until(2_000, "the batch", |c| (0..4).all(|node| c.has(node, &batch)));
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

#[test]
fn blocks_that_wait_for_a_collected_parent_are_released_and_ordered() {
    let mut config = Config::new(h("chain", b"test"), h("seed", b"test"), vec![1; 4], None);
    config.params.gc_depth = 3;
    let now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
    let (mut machine, _) = Machine::new(config.clone(), now).expect("valid");
    let mut delivered = Vec::new();
    let mut push = |machine: &mut Machine, block: &Block| {
        let bytes = encode_block(&block.encode());
        let mut effects = machine.step(now, Event::Received { peer: block.core.author, bytes });
        for ticket in 1..2_000 {
            effects.extend(machine.step(now, Event::SigChecked { ticket, ok: true }));
        }
        delivered.extend(effects.into_iter().filter_map(|e| match e {
            Effect::Deliver { commit } => Some(commit),
            _ => None,
        }));
    };
    let genesis = genesis_of(&config);
    let with_own_first = |own: BlockRef, others: &[BlockRef]| -> Vec<BlockRef> {
        [own].into_iter().chain(others.iter().copied().filter(|p| p.author != own.author)).collect()
    };
    let withheld = sealed_block(&config, 1, 3, with_own_first(genesis[3], &genesis), vec![]).reference();
    let mut previous = genesis;
    let mut late = None;
    for round in 1..=30 {
        let three: Vec<BlockRef> = previous.iter().copied().filter(|p| p.author < 3).collect();
        let mut made = Vec::new();
        for author in 0..3_u16 {
            let own = previous[usize::from(author)];
            let mut parents = with_own_first(own, if round == 1 { &previous } else { &three });
            // While they may, the others list the late block once it is accepted.
            if let Some(late) = late.filter(|b: &BlockRef| machine.block_bytes(b).is_some() && b.round + 3 >= round) {
                parents.push(late);
            }
            let block = sealed_block(&config, round, author, parents, vec![]);
            push(&mut machine, &block);
            made.push(block.reference());
        }
        if round == 4 {
            // Author 3 comes back with a block whose own parent nobody will ever send.
            let block = sealed_block(&config, 5, 3, with_own_first(withheld, &made), vec![]);
            push(&mut machine, &block);
            assert_eq!((machine.status().suspended, machine.status().wanted), (1, 1));
            late = Some(block.reference());
        }
        previous = made;
    }
    let late = late.expect("made");
    assert_eq!((machine.status().suspended, machine.status().wanted), (0, 0));
    let place = delivered.iter().position(|commit| commit.blocks.iter().any(|b| b.block == late));
    assert!(place.is_some(), "the late block is ordered: {:?}", machine.status());
    assert!(delivered.iter().all(|commit| commit.blocks.iter().all(|b| b.block != withheld)));
}

#[test]
fn crashes_in_the_middle_of_catching_up_only_cost_time() {
    let (start, seeds) = seed_range(6);
    for seed in start..start + seeds {
        let mut c = Cluster::new(&[1; 4], 500 + seed);
        c.config.params.gc_depth = 16;
        c.config.limits.ahead = 32;
        c.config.limits.catch_up_enter = 32;
        c.use_snapshots = seed.is_multiple_of(2);
        c.drop_percent = seed % 3 * 7;
        c.start_all();
        c.run_for(1_500);
        let mut caught = 0;
        for outage in 0..3 {
            c.take_snapshot(3);
            c.crash(3);
            for i in 0..100 {
                c.submit(i % 3, &format!("{outage}/{i}"));
                c.run_for(100);
            }
            c.restart(3);
            for _ in 0..c.rng.below(4) {
                let pause = c.rng.next() % 400;
                c.run_for(pause);
                caught += c.status(3).counters.catch_ups;
                if c.rng.chance(50) {
                    c.take_snapshot(3);
                }
                c.crash(3);
                c.restart(3);
            }
            let batch = c.submit(3, &format!("back {outage}"));
            // With one message of seven lost, four ranges in a row may fail, at eight seconds each.
            c.run_until(60_000, &format!("seed {seed}: its batch"), |c| (0..4).all(|node| c.has(node, &batch)));
            caught += c.status(3).counters.catch_ups;
        }
        assert!(caught >= 3 || c.drop_percent > 0, "seed {seed}: {caught} times in catch-up");
        assert!(c.nodes.iter().all(|node| node.alarms.is_empty()), "seed {seed}");
        c.run_until(10_000, "signs", |c| c.mode(3) == Some(Mode::Active));
        (0..4).for_each(|node| c.check_oracle(node));
    }
}

/// Which seeds to run: `CHAOS_START` and `CHAOS_SEEDS` widen a search by hand.
fn seed_range(usual: u64) -> (u64, u64) {
    let read = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    (read("CHAOS_START").unwrap_or(0), read("CHAOS_SEEDS").unwrap_or(usual))
}

/// Crashes, restarts, cut links and loss at random, then quiet: everybody must agree and go on.
fn chaos(seed: u64) {
    let n = [4, 5, 7][usize::try_from(seed % 3).expect("small")];
    let mut c = Cluster::new(&vec![1; n], seed);
    c.use_snapshots = seed.is_multiple_of(2);
    c.latency = [(1, 5), (1, 60), (20, 300)][usize::try_from(seed / 3 % 3).expect("small")];
    c.drop_percent = seed % 4 * 5;
    c.sync_ms = [3, 60][usize::try_from(seed / 2 % 2).expect("small")];
    c.start_all();
    for i in 0..60 {
        let node = c.rng.below(n);
        match c.rng.below(8) {
            0 | 1 if c.nodes[node].machine.is_some() => c.crash(node),
            0..=2 if c.nodes[node].machine.is_none() => c.start_or_restart(node),
            3 => {
                let other = c.rng.below(n);
                c.cut.insert((node.min(other), node.max(other)));
            }
            4 => c.cut.clear(),
            5 if c.nodes[node].machine.is_some() => c.take_snapshot(node),
            _ if c.nodes[node].machine.is_some() => {
                c.submit(node, &format!("{seed}/{i}"));
            }
            _ => {}
        }
        let pause = c.rng.next() % 1_500;
        c.run_for(pause);
    }
    c.cut.clear();
    c.drop_percent = 0;
    (0..n)
        .filter(|node| c.nodes[*node].machine.is_none())
        .collect::<Vec<_>>()
        .into_iter()
        .for_each(|n| c.start_or_restart(n));
    let last = c.submit(0, "the last one");
    c.run_until(60_000, &format!("seed {seed}"), |c| (0..n).all(|node| c.has(node, &last)));
    let own = |v: usize| c.nodes[v].batches.keys().filter(move |b| usize::from(b.0[31]) == v).copied();
    let all: Vec<_> = (0..n).flat_map(own).collect();
    c.run_until(30_000, &format!("seed {seed}: all batches"), |c| all.iter().all(|batch| c.has(0, batch)));
    c.run_until(30_000, &format!("seed {seed}: all sign"), |c| (0..n).all(|v| c.mode(v) == Some(Mode::Active)));
    let alarms: Vec<_> = c.nodes.iter().map(|node| (node.alarms.clone(), node.evidence)).collect();
    assert!(alarms.iter().all(|(alarms, evidence)| alarms.is_empty() && *evidence == 0), "seed {seed}: {alarms:?}");
    (0..n).for_each(|node| c.check_oracle(node));
}

#[test]
fn crashes_cuts_and_loss_break_neither_agreement_nor_progress() {
    let (start, seeds) = seed_range(18);
    (start..start + seeds).for_each(chaos);
}
