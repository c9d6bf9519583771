//! The signing floor: lost, restored and doubled logs. That no key says two things in a round is checked by the cluster
//! over everything that it ever sent.

use crate::block::Block;
use crate::cluster::{Cluster, stub_signature};
use crate::event::Alarm;
use crate::machine::Machine;
use crate::message::RoundProof;
use crate::record::{Record, SIGN_NOTHING};
use crate::second::Second;
use crate::status::{Doubt, Mode, SigningState, Status};
use crate::testing::sealed_block;
use crate::types::BlockRef;

fn running(seed: u64) -> Cluster {
    let mut c = Cluster::new(&[1; 4], seed);
    c.start_all();
    c.run_for(4_000);
    c
}

fn signs(c: &Cluster, node: usize) -> bool {
    c.mode(node) == Some(Mode::Active) && c.status(node).own_round + 3 >= c.status((node + 1) % 4).round
}

fn state(c: &Cluster, node: usize) -> SigningState {
    c.status(node).signing.state
}

#[test]
fn a_rolled_back_disk_is_noticed_and_signs_again_above_the_proven_floor() {
    for seed in 0..20 {
        let mut c = running(seed);
        let newest = c.nodes[3].sent_rounds.last_key_value().map_or(0, |((_, round), _)| *round);
        c.crash(3);
        c.roll_back(3);
        c.restart(3);
        c.run_until(2_000, "the doubt", |c| c.mode(3) == Some(Mode::Observer));
        assert!(matches!(c.nodes[3].alarms[..], [Alarm::OwnBlockNotInLog { .. }, ..]), "{:?}", c.nodes[3].alarms);
        assert!(matches!(c.status(3).signing.doubt, Some(Doubt::OwnBlock(_))));
        c.run_until(15_000, "it signs again", |c| signs(c, 3));
        let floor = c.status(3).signing.floor.expect("known");
        assert!(floor >= newest, "seed {seed}: floor {floor}, signed up to {newest}");
        assert_eq!(c.nodes[3].alarms.last(), Some(&Alarm::SigningFloorProven { floor }));
        let batch = c.submit(3, "from the one that came back");
        c.run_until(8_000, "its batch", |c| (0..4).all(|node| c.has(node, &batch)));
        (0..4).for_each(|node| c.check_oracle(node));
    }
}

#[test]
fn a_lost_log_observes_and_signs_again_also_after_restarts() {
    for seed in 20..40 {
        let mut c = running(seed);
        c.use_snapshots = seed % 2 == 0;
        c.crash(3);
        c.wipe(3);
        c.restart(3);
        assert_eq!(c.nodes[3].alarms.first(), Some(&Alarm::SigningFloorUnknown));
        assert_eq!(c.status(3).signing.doubt, Some(Doubt::LogLost));
        for _ in 0..2 {
            let pause = c.rng.next() % 2_000;
            c.run_for(pause);
            assert_eq!(c.mode(3), Some(Mode::Observer), "seed {seed}: too early");
            c.take_snapshot(3);
            c.crash(3);
            c.restart(3);
        }
        c.run_until(15_000, "it signs again", |c| signs(c, 3));
        for _ in 0..2 {
            let alarms = c.nodes[3].alarms.len();
            c.take_snapshot(3);
            c.crash(3);
            c.restart(3);
            c.run_until(8_000, "and after a restart", |c| signs(c, 3));
            assert_eq!(c.nodes[3].alarms.len(), alarms, "a proven floor ends the doubt");
        }
        (0..4).for_each(|node| c.check_oracle(node));
    }
}

#[test]
fn a_lost_log_observes_for_as_long_as_the_others_are_too_few() {
    let mut c = Cluster::new(&[1; 7], 41);
    c.start_all();
    c.run_for(4_000);
    [3, 4, 5, 6].into_iter().for_each(|node| c.crash(node));
    c.wipe(3);
    c.restart(3);
    c.run_for(60_000);
    assert_eq!((c.mode(3), state(&c, 3)), (Some(Mode::Observer), SigningState::Doubtful));
    // Others with a quorum but for the own stake: the floor is proven, but nobody goes past it.
    c.restart(4);
    c.run_for(20_000);
    assert_eq!(c.mode(3), Some(Mode::Observer));
    // F - s down: the others go on, and so does it.
    c.restart(5);
    c.run_until(20_000, "it signs", |c| signs(c, 3));
    assert_eq!(c.mode(6), None);
}

#[test]
fn a_validator_that_is_a_quorum_alone_and_lost_its_log_signs_nothing() {
    let mut c = Cluster::new(&[1], 42);
    c.start_all();
    c.run_for(2_000);
    c.crash(0);
    c.wipe(0);
    c.restart(0);
    c.run_for(30_000);
    assert_eq!((c.mode(0), state(&c, 0)), (Some(Mode::Observer), SigningState::Doubtful));
}

/// The chain has gone far past the newest block of the one that comes back: those that hold it still say so.
#[test]
fn a_disk_restored_after_garbage_collection_has_passed_is_noticed() {
    let mut c = running(43);
    c.crash(3);
    let gone = c.status(0).round;
    c.run_until(60_000, "far ahead", |c| c.status(0).gc_round > gone);
    c.roll_back(3);
    c.restart(3);
    c.run_until(2_000, "the doubt", |c| c.mode(3) == Some(Mode::Observer));
    c.run_until(20_000, "it signs again", |c| signs(c, 3));
}

/// A second process with an older half of the log.
fn older_copy(c: &mut Cluster) -> Second {
    let records = c.nodes[3].log.iter().take(c.nodes[3].log.len() / 2);
    let records = records.map(|bytes| Record::decode(bytes).expect("decodes")).collect();
    Second::start(c, records)
}

#[test]
fn a_second_process_with_the_key_stays_silent_while_the_first_one_signs() {
    let mut c = running(44);
    let mut second = older_copy(&mut c);
    second.run(&mut c, 20_000, |machine| assert_ne!(machine.status().signing.state, SigningState::Signing));
    let status = second.machine.status();
    assert!(matches!(status.signing.doubt, Some(Doubt::OwnBlock(_))), "{status:?}");
    assert!(status.round + 5 >= c.status(0).round, "it follows");
    assert!(signs(&c, 3), "the first one goes on");
    // When the first one is gone for good, the second takes over.
    c.crash(3);
    second.run(&mut c, 15_000, |_| {});
    let status = second.machine.status();
    assert_eq!(status.signing.state, SigningState::Signing);
    assert!(status.own_round + 3 >= c.status(0).round, "{status:?}");
}

/// Lets both processes go on until the cluster is above a floor that the second has proven.
fn run_to_a_floor(c: &mut Cluster, second: &mut Second) {
    let end = c.time + 20_000;
    loop {
        assert!(c.time < end, "no floor is passed: {:?}", second.machine.status());
        second.run(c, 5, |_| {});
        let Status { round, signing, .. } = second.machine.status();
        if signing.state == SigningState::Proven && signing.floor.is_some_and(|floor| round > floor) {
            return;
        }
    }
}

fn stays_silent(machine: &Machine) {
    assert_ne!(machine.status().signing.state, SigningState::Signing);
}

/// What the first one has signed stands in nobody's block then, for as long as it takes.
#[test]
fn a_second_process_stays_silent_while_nobody_builds_on_what_the_first_one_signed() {
    for seed in 60..64 {
        let mut c = running(seed);
        let mut second = older_copy(&mut c);
        for _ in 0..3 {
            run_to_a_floor(&mut c, &mut second);
            c.cut = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)].into();
            second.run(&mut c, 10_000, stays_silent);
            // One round more, after a long time, is no more to go by.
            let round = c.status(0).round;
            c.cut.clear();
            c.run_until(10_000, "a round", |c| c.status(0).round > round);
            second.run(&mut c, 500, stays_silent);
        }
    }
}

/// The first one is gone, and the epoch ends before the second has heard the others without it for long enough: no block of
/// the epoch comes any more, and its time goes on.
#[test]
fn a_second_process_stays_silent_in_an_epoch_that_the_others_have_left() {
    let mut tried = 0;
    for seed in 70..78 {
        let mut c = Cluster::new(&[1; 4], seed);
        c.config.params.epoch_commits = 30;
        c.checkpoint_every = Some(10);
        c.start_all();
        c.run_for(2_000);
        let mut second = older_copy(&mut c);
        second.executes = false;
        while c.commits(0) < 26 {
            run_to_a_floor(&mut c, &mut second);
        }
        if c.commits(0) >= 30 {
            continue;
        }
        c.crash(3);
        let end = c.time + 30_000;
        while c.epoch(0) == 0 {
            assert!(c.time < end, "{}", c.report());
            second.run(&mut c, 20, stays_silent);
        }
        second.run(&mut c, 8_000, stays_silent);
        tried += usize::from(second.machine.status().signing.state == SigningState::Proven);
    }
    assert!(tried > 3, "without a floor there is no silence to keep: {tried}");
}

/// A block that another process has signed with this key.
fn foreign_block(c: &Cluster) -> Block {
    let machine = c.nodes[3].machine.as_ref().expect("up");
    let round = machine.proposer.own_round();
    let mut parents: Vec<BlockRef> = machine.store.round(round).map(|(reference, _)| reference).collect();
    parents.sort_by_key(|parent| (parent.author != 3, parent.author));
    let mut block = sealed_block(&c.config, round + 1, 3, parents, vec![]);
    block.signature = stub_signature(3, &block.core.digest());
    block
}

#[test]
fn a_key_that_signs_elsewhere_stops_this_process_at_once() {
    let mut c = running(45);
    c.run_until(1_000, "a full round", |c| {
        let machine = c.nodes[3].machine.as_ref().expect("up");
        machine.store.round(machine.proposer.own_round()).count() == 4
    });
    let block = foreign_block(&c);
    let machine = c.nodes[3].machine.as_mut().expect("up");
    machine.on_requested_block(0, &block.encode());
    let effects = std::mem::take(&mut machine.out);
    c.execute(3, effects);
    c.run_for(2);
    assert_eq!(c.mode(3), Some(Mode::Observer));
    assert!(matches!(c.nodes[3].alarms[..], [Alarm::OwnBlockNotInLog { .. }, ..]), "{:?}", c.nodes[3].alarms);
    let stopped = c.nodes[3].log.iter().rev().find_map(|bytes| match Record::decode(bytes) {
        Ok(Record::Floor { round }) => Some(round),
        _ => None,
    });
    assert_eq!(stopped, Some(SIGN_NOTHING), "so it stays stopped after a restart");
    c.run_until(15_000, "it signs again", |c| signs(c, 3));
    assert!(c.status(3).signing.floor.is_some_and(|floor| floor >= block.core.round));
}

#[test]
fn an_inflated_round_needs_signatures_of_a_quorum() {
    let mut c = running(46);
    c.liar = Some(1);
    c.crash(3);
    c.wipe(3);
    c.restart(3);
    c.run_until(20_000, "the others are believed", |c| signs(c, 3));
    let floor = c.status(3).signing.floor.expect("known");
    assert!(floor <= c.status(0).round, "floor {floor}");
}

#[test]
fn proofs_with_too_little_stake_or_one_author_twice_or_of_another_round_are_refused() {
    let c = running(47);
    let round = c.status(0).round;
    let proof = c.nodes[0].machine.as_ref().and_then(|machine| machine.round_proof(1)).expect("provable");
    assert_eq!((proof.round, proof.cores.len()), (round, 3));
    let check = |change: &dyn Fn(&mut RoundProof)| {
        let mut proof = proof.clone();
        change(&mut proof);
        c.nodes[2].machine.as_ref().is_some_and(|machine| machine.is_quorum_before(&proof))
    };
    assert!(check(&|_| {}));
    assert!(!check(&|proof| drop(proof.cores.pop())));
    assert!(!check(&|proof| proof.cores[1] = proof.cores[0].clone()));
    assert!(!check(&|proof| proof.round += 1));
    assert!(!check(&|proof| proof.cores[0].core.author = 9));
    assert!(!check(&|proof| proof.cores[0].core.chain_id.0[0] ^= 1));
}
