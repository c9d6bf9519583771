//! Whole clusters over several epochs: the change itself, changing committees, crashes at every step of it, nodes that
//! slept, protocol versions. `cluster` asserts throughout that nobody signs in an epoch without the durable certificate of
//! the one before, that all come to the same certificates and commits, and that nobody signs two blocks of a round.

use aurigraph_ledger::hash::Hash;

use crate::cluster::Cluster;
use crate::event::Alarm;
use crate::record::Record;
use crate::status::{Doubt, Mode, SigningState};

fn with_epochs(nodes: usize, seed: u64, commits: u64) -> Cluster {
    let mut c = Cluster::new(&vec![1; nodes], seed);
    c.config.params.epoch_commits = commits;
    c.checkpoint_every = Some(10);
    c
}

fn all_in(c: &Cluster, nodes: usize, epoch: u64) -> bool {
    (0..nodes).all(|node| c.epoch(node) >= epoch)
}

/// Offers a batch every so often for a while; gives the batches.
fn load(c: &mut Cluster, nodes: usize, batches: usize, name: &str) -> Vec<Hash> {
    let mut offered = Vec::new();
    for i in 0..batches {
        let node = i % nodes;
        if c.nodes[node].machine.is_some() {
            offered.push(c.submit(node, &format!("{name} {i}")));
        }
        c.run_for(40);
    }
    offered
}

fn longest_pause(c: &Cluster, node: usize) -> u64 {
    let times: Vec<u64> = c.nodes[node].delivered.values().map(|commit| commit.header.timestamp_ms).collect();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

#[test]
fn epochs_follow_each_other_under_load_and_lose_nothing() {
    let mut c = with_epochs(4, 1, 25);
    c.start_all();
    let offered = load(&mut c, 4, 200, "load");
    c.run_until(10_000, "all batches", |c| offered.iter().all(|batch| (0..4).all(|node| c.has(node, batch))));
    assert!(all_in(&c, 4, 4), "{}", c.report());
    let ends: Vec<u64> = c.ends.values().map(|cert| cert.commit.index).collect();
    assert_eq!(ends[..4], [25, 50, 75, 100], "each has 25 commits, numbered on");
    for node in 0..4 {
        assert!(c.nodes[node].alarms.is_empty(), "{:?}", c.nodes[node].alarms);
        let indices: Vec<u64> = c.nodes[node].delivered.keys().copied().collect();
        assert!(indices.iter().zip(1..).all(|(found, expected)| *found == expected), "no gap");
        let end = c.nodes[node].delivered[&25].epoch_end.clone().expect("the last of its epoch");
        assert_eq!(end.delivered.len(), 4);
        assert!(end.delivered.iter().all(|count| (15..=40).contains(count)), "{end:?}");
        let pause = longest_pause(&c, node);
        assert!(pause <= 700, "{pause} ms between two commits under load");
    }
}

#[test]
fn an_epoch_ends_by_its_length_too() {
    let mut c = Cluster::new(&[1; 4], 2);
    c.config.params.epoch_ms = 2_000;
    c.start_all();
    c.run_until(12_000, "three epochs", |c| all_in(c, 4, 3));
    let commits: Vec<_> = c.nodes[0].delivered.values().collect();
    for cert in c.ends.values() {
        let of_epoch: Vec<_> = commits.iter().filter(|commit| commit.header.epoch == cert.epoch).collect();
        let (first, last) = (of_epoch[0].header.timestamp_ms, of_epoch[of_epoch.len() - 1].header.timestamp_ms);
        let before = of_epoch[of_epoch.len() - 2].header.timestamp_ms;
        assert!(last - first >= 2_000 && before - first < 2_000, "epoch {}", cert.epoch);
    }
}

#[test]
fn one_validator_alone_changes_epochs() {
    let mut c = with_epochs(1, 3, 5);
    c.start_all();
    c.run_until(20_000, "three epochs", |c| all_in(c, 1, 3));
    c.crash(0);
    c.restart(0);
    c.run_until(20_000, "two more after a restart", |c| all_in(c, 1, 5));
}

#[test]
fn validators_join_leave_and_change_their_stake() {
    let mut c = with_epochs(4, 4, 20);
    let joiner = c.add_observer();
    // The fifth joins, the first leaves, the second's stake grows: the order of the others moves, too.
    c.plan.insert(1, vec![(0, 1), (1, 1), (2, 1), (3, 1), (joiner, 1)]);
    c.plan.insert(2, vec![(joiner, 1), (3, 1), (2, 1), (1, 2)]);
    c.start_all();
    let offered = load(&mut c, 5, 150, "change");
    c.run_until(10_000, "epoch 3", |c| all_in(c, 5, 3));
    // The leaver follows as an observer; what it had not delivered before it left is lost to it, as a client knows.
    let kept: Vec<Hash> = offered.into_iter().filter(|batch| batch.as_bytes()[31] != 0).collect();
    c.run_until(10_000, "all batches", |c| kept.iter().all(|batch| (0..5).all(|node| c.has(node, batch))));
    assert_eq!(c.mode(0), Some(Mode::Observer));
    assert_eq!(c.mode(joiner), Some(Mode::Active));
    let led = |epoch: u64, author: u16| {
        c.nodes[1].delivered.values().any(|k| k.header.epoch == epoch && k.header.leader.author == author)
    };
    assert!(led(2, 0), "the joiner, first in the new order, leads");
    assert!(c.nodes.iter().all(|node| node.alarms.is_empty()));
}

#[test]
fn a_validator_that_crashes_at_any_step_of_the_change_says_and_delivers_the_same() {
    for seed in 0..12 {
        let mut c = with_epochs(4, 100 + seed, 12);
        c.use_snapshots = seed % 2 == 0;
        c.sync_ms = 1 + 20 * (seed % 3);
        c.start_all();
        let mut offered = Vec::new();
        for round in 0..6_u64 {
            let node = usize::try_from((round + seed) % 4).expect("few");
            let before = c.epoch(node);
            // Into the last commits of the epoch, and a random number of steps further.
            c.run_until(30_000, "the end is near", |c| c.commits(node) % 12 >= 10 || c.epoch(node) > before);
            offered.push(c.submit((node + 1) % 4, &format!("{seed}/{round}")));
            if c.epoch(node) == before {
                c.take_snapshot(node);
            }
            let further = c.rng.next() % 900;
            c.run_for(further);
            c.crash(node);
            let down = c.rng.next() % 1_500;
            c.run_for(down);
            c.start_or_restart(node);
            c.run_until(20_000, "it signs again", |c| {
                c.mode(node) == Some(Mode::Active) && c.epoch(node) == c.epoch((node + 1) % 4)
            });
        }
        c.run_until(20_000, "all batches", |c| offered.iter().all(|batch| (0..4).all(|node| c.has(node, batch))));
        assert!(c.nodes.iter().all(|node| node.alarms.is_empty()), "seed {seed}");
    }
}

#[test]
fn a_whole_cluster_that_stops_in_the_closing_phase_starts_the_next_epoch() {
    for seed in 0..8 {
        let mut c = with_epochs(4, 200 + seed, 10);
        c.start_all();
        c.run_until(30_000, "the last commit", |c| c.commits(0) >= 10);
        let further = c.rng.next() % 400;
        c.run_for(further);
        (0..4).for_each(|node| c.crash(node));
        (0..4).for_each(|node| c.restart(node));
        let batch = c.submit(1, "after");
        c.run_until(15_000, "commits after the restart", |c| (0..4).all(|node| c.has(node, &batch)));
        c.run_until(15_000, "epoch 1", |c| all_in(c, 4, 1));
    }
}

/// As one does that has executed the last commit, and lost it from its log in a crash (simulator seed 12349). It is needed:
/// another one is down.
#[test]
fn an_epoch_ends_with_a_validator_that_attests_its_last_checkpoint_before_it_votes_for_its_last_commit() {
    let mut c = with_epochs(4, 13, 15);
    c.abstainer = Some(2);
    c.start_all();
    c.run_until(20_000, "first commits", |c| c.least() >= 5);
    c.crash(3);
    let has_closed = |c: &Cluster, node: usize| c.status(node).epoch.last_commit.is_some();
    c.run_until(20_000, "the closing phase", |c| (0..3).all(|node| has_closed(c, node)));
    c.run_for(1_000);
    let last = c.status(0).checkpoint;
    assert!((0..3).all(|node| c.status(node).certified.map(|it| it.checkpoint) == Some(last)), "all three attest it");
    assert_eq!((0..3).map(|node| c.status(node).epoch.attesting).collect::<Vec<_>>(), [2, 2, 2]);
    c.abstainer = None;
    c.run_until(10_000, "epoch 1", |c| (0..3).all(|node| c.epoch(node) == 1));
    let voters = &c.ends[&0].cores;
    assert!(voters.iter().all(|signed| signed.core.commit_vote == c.ends[&0].commit) && voters.len() == 3);
}

#[test]
fn a_node_that_slept_over_the_ends_of_epochs_follows_and_signs_again() {
    for seed in 0..4 {
        let mut c = with_epochs(4, 300 + seed, 20);
        c.start_all();
        c.run_until(20_000, "first commits", |c| c.least() >= 5 + 5 * seed);
        c.crash(3);
        load(&mut c, 3, 150, "meanwhile");
        c.run_until(60_000, "epoch 3", |c| all_in(c, 3, 3));
        c.restart(3);
        c.run_until(60_000, "it follows", |c| c.epoch(3) == c.epoch(0) && c.mode(3) == Some(Mode::Active));
        let batch = c.submit(3, "back");
        c.run_until(10_000, "its batch", |c| (0..4).all(|node| c.has(node, &batch)));
        assert!(c.nodes.iter().all(|node| node.alarms.is_empty()));
    }
}

/// Nothing in the log tells of the epoch in which it signed last, and in its own epoch it may be the newest that anyone has.
#[test]
fn a_disk_of_an_older_epoch_that_looks_intact_is_noticed_in_the_epoch_that_it_signed_in() {
    for seed in 0..12 {
        let mut c = with_epochs(4, 900 + seed, 40);
        c.start_all();
        c.run_until(60_000, "epoch 1", |c| all_in(c, 4, 1));
        let signed = |c: &Cluster| c.nodes[3].sent_rounds.keys().filter(|(epoch, _)| *epoch == 1).count();
        c.run_until(20_000, "it signs there", |c| signed(c) > 4);
        let newest = c.nodes[3].sent_rounds.keys().map(|(_, round)| *round).next_back();
        let starts = |bytes: &Vec<u8>| matches!(Record::decode(bytes).expect("decodes"), Record::EpochStart(_));
        let start = c.nodes[3].log.iter().position(starts).expect("epoch 1 in the log");
        c.crash(3);
        // From the last record of epoch 0 to a third of it.
        c.roll_back_to(3, start - start * usize::try_from(seed).expect("small") / 18);
        c.restart(3);
        c.run_until(30_000, "the doubt", |c| c.epoch(3) == 1 && c.mode(3) == Some(Mode::Observer));
        // What is missing of epoch 0 was noticed there already, and the doubt goes on.
        assert!(c.nodes[3].alarms.iter().any(|alarm| matches!(alarm, Alarm::OwnBlockNotInLog { .. })), "seed {seed}");
        c.run_until(60_000, "it signs again", |c| {
            c.status(3).signing.state == SigningState::Signing
                && (c.epoch(3) > 1 || c.status(3).signing.floor >= newest)
        });
        let batch = c.submit(3, "back");
        c.run_until(20_000, "its batch", |c| (0..4).all(|node| c.has(node, &batch)));
    }
}

#[test]
fn a_node_that_slept_through_a_long_epoch_catches_up_to_its_end() {
    let mut c = with_epochs(4, 5, 300);
    c.start_all();
    c.run_until(20_000, "first commits", |c| c.least() >= 5);
    c.crash(3);
    load(&mut c, 3, 600, "meanwhile");
    c.run_until(60_000, "epoch 1", |c| c.epoch(0) == 1);
    c.restart(3);
    c.run_until(60_000, "it follows", |c| c.epoch(3) == 1 && c.mode(3) == Some(Mode::Active));
    assert!(c.status(3).counters.catch_ups >= 1);
}

/// Seed 80017 of the simulator: each epoch cost it two seconds, as peers had answered it a moment ago for the one before and
/// as blocks of the certificate were asked for a second after catch-up had ended. The others made an epoch a second.
#[test]
fn a_node_that_slept_through_many_short_epochs_follows_faster_than_the_others_make_them() {
    let mut c = with_epochs(4, 7, 10);
    (c.config.limits.catch_up_enter, c.config.limits.catch_up_leave) = (8, 4);
    c.start_all();
    c.run_until(20_000, "first commits", |c| c.least() >= 5);
    c.crash(3);
    load(&mut c, 3, 500, "meanwhile");
    let behind = c.epoch(0);
    assert!(behind >= 9, "{behind} epochs");
    c.restart(3);
    let began = c.now().mono_ms;
    for i in 0..500 {
        if c.epoch(3) == c.epoch(0) && c.mode(3) == Some(Mode::Active) {
            break;
        }
        load(&mut c, 3, 1, &format!("beside {i}"));
    }
    let each = (c.now().mono_ms - began) / behind;
    assert!(each < 700, "{each} ms for each of {behind} epochs; it is in {} of {}", c.epoch(3), c.epoch(0));
}

/// Its block waits with everybody for a batch that nobody can give, and its author attests nothing.
#[test]
fn h30_an_epoch_closes_although_a_batch_never_arrives_and_a_validator_is_gone() {
    let mut c = with_epochs(4, 12, 20);
    c.start_all();
    c.run_until(20_000, "the end is near", |c| c.least() >= 14);
    let waiting = |c: &Cluster| (0..3).any(|node| c.status(node).wanted_batches > 0);
    let mut lost = Vec::new();
    while !waiting(&c) {
        lost.push(c.submit(3, &format!("lost {}", lost.len())));
        c.run_for(30);
        // Nobody gives bodies any more once the only holder is down.
        if c.epoch(3) > 0 || lost.len() > 40 {
            break;
        }
    }
    c.crash(3);
    c.run_until(30_000, "two more epochs", |c| (0..3).all(|node| c.epoch(node) >= 2));
    let batch = c.submit(0, "after");
    c.run_until(10_000, "a batch", |c| (0..3).all(|node| c.has(node, &batch)));
}

#[test]
fn epochs_change_over_a_network_that_loses_a_tenth() {
    let mut c = with_epochs(4, 6, 15);
    c.drop_percent = 10;
    c.start_all();
    let offered = load(&mut c, 4, 120, "lossy");
    c.run_until(30_000, "epoch 3", |c| all_in(c, 4, 3));
    c.run_until(30_000, "all batches", |c| offered.iter().all(|batch| (0..4).all(|node| c.has(node, batch))));
}

#[test]
fn without_certificates_from_others_a_node_that_slept_stays_behind() {
    let mut c = with_epochs(4, 7, 15);
    c.start_all();
    c.run_until(20_000, "first commits", |c| c.least() >= 5);
    c.crash(3);
    c.run_until(30_000, "epoch 2", |c| all_in(c, 3, 2));
    c.lose_certs = true;
    c.restart(3);
    c.run_for(10_000);
    assert_eq!(c.epoch(3), 0);
    c.lose_certs = false;
    c.run_until(20_000, "it follows", |c| c.epoch(3) == c.epoch(0));
}

#[test]
fn a_validator_that_executes_wrongly_stays_in_the_epoch_and_the_others_go_on() {
    let mut c = with_epochs(4, 8, 20);
    c.corrupted.insert(2, 20);
    c.start_all();
    c.run_until(30_000, "epoch 2", |c| [0, 1, 3].into_iter().all(|node| c.epoch(node) >= 2));
    assert_eq!(c.epoch(2), 0);
    assert!(c.nodes[2].alarms.iter().any(|alarm| matches!(alarm, Alarm::Diverged(_))), "{:?}", c.nodes[2].alarms);
}

#[test]
fn when_no_digest_reaches_a_quorum_the_epoch_does_not_change() {
    let mut c = with_epochs(4, 9, 20);
    c.corrupted.extend([(1, 20), (2, 20)]);
    c.start_all();
    c.run_for(30_000);
    assert!(c.ends.is_empty() && (0..4).all(|node| c.epoch(node) == 0));
    for node in 0..4 {
        let stopped = |alarm: &Alarm| matches!(alarm, Alarm::Diverged(divergence) if divergence.network_wide);
        assert!(c.nodes[node].alarms.iter().any(stopped), "{node}: {:?}", c.nodes[node].alarms);
    }
}

#[test]
fn a_version_activates_when_a_quorum_supports_it_and_stops_who_cannot_run_it() {
    let mut c = with_epochs(4, 10, 20);
    c.supports.extend([(0, 2), (1, 2), (2, 1), (3, 1)]);
    c.start_all();
    c.run_until(30_000, "epoch 1", |c| all_in(c, 4, 1));
    assert_eq!(c.status(0).epoch.version, 1, "two of four are no quorum");
    // A third is upgraded.
    c.crash(3);
    c.supports.insert(3, 2);
    c.restart(3);
    c.may_halt = true;
    c.run_until(60_000, "version 2", |c| {
        [0, 1, 3].into_iter().all(|node| c.status(node).epoch.version == 2) && c.halted.contains_key(&2)
    });
    let reason = &c.halted[&2];
    assert!(reason.contains("version 2") && reason.contains("up to 1"), "{reason}");
    assert_eq!(c.halted.len(), 1);
    // Upgraded, the one that stopped goes on where it was.
    c.crash(2);
    c.supports.insert(2, 2);
    c.restart(2);
    c.run_until(30_000, "it follows", |c| c.epoch(2) == c.epoch(0) && c.mode(2) == Some(Mode::Active));
}

#[test]
fn a_wiped_validator_stays_doubtful_over_the_end_of_an_epoch_until_its_floor_is_proven() {
    let mut c = with_epochs(4, 11, 30);
    c.start_all();
    c.run_until(30_000, "epoch 1", |c| all_in(c, 4, 1));
    c.crash(3);
    c.wipe(3);
    c.restart(3);
    let doubt = c.status(3).signing.doubt;
    assert!(matches!(doubt, Some(Doubt::LogLost)), "{doubt:?}");
    c.run_until(60_000, "it signs", |c| c.status(3).signing.state == SigningState::Signing && c.epoch(3) >= 1);
    let batch = c.submit(3, "again");
    c.run_until(20_000, "its batch", |c| (0..4).all(|node| c.has(node, &batch)));
}
