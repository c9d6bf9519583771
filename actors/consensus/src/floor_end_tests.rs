//! The signing floor over the ends of epochs (ADR 0043). That no key says two things in a round is checked by the cluster
//! over everything that it ever sent.

use crate::cluster::Cluster;
use crate::event::Event;
use crate::second::Second;
use crate::status::{Doubt, SigningState};

/// Under load an epoch of 15 commits takes about a second, less than the silence that lets a doubtful validator sign.
const SHORT: u64 = 15;

fn with_epochs(seed: u64, commits: u64) -> Cluster {
    let mut c = Cluster::new(&[1; 4], seed);
    c.config.params.epoch_commits = commits;
    c.checkpoint_every = Some(10);
    c
}

/// Offers the first three nodes a batch every so often, until a condition holds.
fn load_until(c: &mut Cluster, most: u64, what: &str, done: impl Fn(&Cluster) -> bool) {
    let end = c.time + most;
    while !done(c) {
        assert!(c.time < end, "{what}: not within {most} ms: {}", c.report());
        let node = usize::try_from(c.time / 40 % 3).expect("few");
        c.submit(node, &format!("at {}", c.time));
        c.run_for(40);
    }
}

fn state(c: &Cluster, node: usize) -> SigningState {
    c.status(node).signing.state
}

#[test]
fn a_replaced_disk_signs_again_where_epochs_are_shorter_than_the_silence() {
    for seed in 0..4 {
        let mut c = with_epochs(seed, SHORT);
        c.start_all();
        let signed_in = |c: &Cluster| c.nodes[3].sent_rounds.last_key_value().map_or(0, |((epoch, _), _)| *epoch);
        load_until(&mut c, 30_000, "some epochs", |c| signed_in(c) >= 2);
        let pause = c.rng.next() % 1_000;
        let wait = c.time + pause;
        load_until(&mut c, 2_000, "somewhere in an epoch", |c| c.time >= wait);
        let (lost, at) = (signed_in(&c), c.time);
        c.crash(3);
        c.wipe(3);
        c.restart(3);
        assert_eq!(c.status(3).signing.doubt, Some(Doubt::LogLost));
        load_until(&mut c, 30_000, "it signs again", |c| state(c, 3) == SigningState::Signing);
        let (epoch, took) = (c.epoch(3), c.time - at);
        assert!(epoch > lost && took >= 3_000, "seed {seed}: in epoch {epoch} after {took} ms, lost in {lost}");
        assert!(took <= 9_000, "seed {seed}: {took} ms");
        let length = took / (epoch - lost);
        assert!(length < 2_500, "epochs of {length} ms would not have kept the doubt alive");
        load_until(&mut c, 10_000, "new blocks of it", |c| signed_in(c) > epoch);
    }
}

#[test]
fn a_second_process_stays_silent_over_the_ends_of_epochs_while_the_first_one_signs() {
    for seed in 20..22 {
        let mut c = with_epochs(seed, SHORT);
        c.start_all();
        load_until(&mut c, 30_000, "the first epoch's end", |c| c.epoch(3) >= 1);
        let pause = c.rng.next() % 1_000;
        c.run_for(pause);
        let mut second = Second::start(&mut c, vec![]);
        let beside = |c: &mut Cluster, second: &mut Second, ms: u64, look: &dyn Fn(&crate::machine::Machine)| {
            let end = c.time + ms;
            while c.time < end {
                let node = usize::try_from(c.time / 40 % 3).expect("few");
                c.submit(node, &format!("at {}", c.time));
                second.run(c, 40, look);
            }
        };
        let silent = |machine: &crate::machine::Machine| {
            assert_ne!(machine.status().signing.state, SigningState::Signing, "seed {seed}");
        };
        beside(&mut c, &mut second, 12_000, &silent);
        let status = second.machine.status();
        assert!(status.epoch.epoch + 1 >= c.epoch(0) && c.epoch(0) >= 8, "it follows: {status:?}");
        assert_eq!(state(&c, 3), SigningState::Signing, "the first one goes on");
        assert!(c.status(3).own_round > 0 || c.status(3).round <= 2);
        // When the first one is gone for good, the second takes over.
        c.crash(3);
        beside(&mut c, &mut second, 9_000, &|_| {});
        let status = second.machine.status();
        assert_eq!(status.signing.state, SigningState::Signing, "seed {seed}: {status:?}");
        let newest = c.nodes[3].sent_rounds.last_key_value().map_or(0, |((epoch, _), _)| *epoch);
        assert!(newest + 1 >= c.epoch(0), "its blocks leave");
    }
}

/// The answers came from validators that may have voted for the last commit: one of them may have seen the next epoch
/// begin, and an own block there.
#[test]
fn a_doubt_that_ended_after_the_last_commit_goes_on_in_the_next_epoch() {
    let mut c = with_epochs(40, 20);
    c.execution_stalls = true;
    c.start_all();
    c.run_until(30_000, "the last commit", |c| c.least() >= 20);
    c.crash(3);
    c.wipe(3);
    c.restart(3);
    c.run_until(30_000, "it signs in the closing phase", |c| state(c, 3) == SigningState::Signing);
    assert_eq!(c.epoch(3), 0);
    c.execution_stalls = false;
    for node in 0..4 {
        let commit = c.nodes[node].delivered[&20].clone();
        let checkpoint = c.executed(node, &commit);
        c.push(node, 1, Event::Executed { commit_index: 20, checkpoint });
    }
    c.run_until(10_000, "the next epoch", |c| c.epoch(3) == 1);
    assert_eq!(c.status(3).signing.doubt, Some(Doubt::Earlier));
    c.run_until(15_000, "it signs there, too", |c| state(c, 3) == SigningState::Signing);
}

/// It starts with the epochs before it joined, in which it has no floor to prove.
#[test]
fn a_validator_that_joined_later_and_lost_its_log_is_in_doubt_when_it_is_one_again() {
    let mut c = with_epochs(41, 60);
    let joiner = c.add_observer();
    c.plan.insert(1, vec![(0, 1), (1, 1), (2, 1), (3, 1), (joiner, 1)]);
    c.start_all();
    let signed = |c: &Cluster| c.nodes[joiner].sent_rounds.last_key_value().map_or(0, |((_, round), _)| *round);
    c.run_until(60_000, "it signs as a validator", |c| c.epoch(joiner) == 1 && signed(c) >= 10);
    c.crash(joiner);
    c.wipe(joiner);
    c.restart(joiner);
    assert_eq!((c.epoch(joiner), state(&c, joiner)), (0, SigningState::NoKey));
    c.run_until(20_000, "it is a validator", |c| c.epoch(joiner) == 1);
    let signing = c.status(joiner).signing;
    assert_eq!((signing.state, signing.doubt), (SigningState::Doubtful, Some(Doubt::Earlier)));
    let before = signed(&c);
    c.run_until(30_000, "it signs", |c| state(c, joiner) == SigningState::Signing);
    let status = c.status(joiner);
    assert!(status.epoch.epoch > 1 || status.signing.floor.is_some_and(|floor| floor >= before), "{status:?}");
}
