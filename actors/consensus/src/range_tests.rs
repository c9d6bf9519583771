//! Certified ranges of commits in small clusters: far behind, beside servers that lie, and crashes in the middle.

use crate::cluster::{Cluster, stub_signature};
use crate::event::Offence;
use crate::status::Mode;

/// Validator 3 of four misses some hundred commits under load. Returns the newest commit of the others.
fn left_behind(seed: u64, seconds: u64) -> (Cluster, u64) {
    let mut c = Cluster::new(&[1; 4], seed);
    c.config.params.gc_depth = 16;
    c.config.limits.ahead = 32;
    c.config.limits.catch_up_enter = 32;
    c.start_all();
    c.run_for(1_500);
    c.crash(3);
    for i in 0..seconds * 10 {
        c.submit(usize::try_from(i % 3).expect("small"), &format!("missed {i}"));
        c.run_for(100);
    }
    let target = c.commits(0);
    assert!(target > 30 * seconds / 10, "{target} commits");
    (c, target)
}

#[test]
fn commits_of_a_certified_range_are_taken_without_checking_the_signatures_of_their_blocks() {
    let (mut c, target) = left_behind(1_400, 40);
    c.restart(3);
    c.run_until(8_000, "caught up", |c| c.commits(3) >= target);
    let status = c.status(3).counters;
    assert!(status.commits_certified > 250, "{status:?}");
    assert!(status.signatures_checked * 3 < status.blocks_accepted, "{status:?}");
    c.run_until(10_000, "signs again", |c| c.mode(3) == Some(Mode::Active));
    c.run_until(5_000, "checks what is left", |c| c.nodes[3].machine.as_ref().expect("up").unchecked.is_empty());
    c.check_oracle(3);
    assert!(c.charges.is_empty() && c.nodes[3].alarms.is_empty());
}

/// Wrong headers, too few or forged votes, other blocks, none, nothing at all: charged, and the next peer is asked.
#[test]
fn a_server_of_spoilt_ranges_costs_time_and_is_charged() {
    let mut charged = Vec::new();
    for seed in 0..10 {
        let (mut c, target) = left_behind(1_410 + seed, 25);
        c.spoiler = Some(1);
        c.restart(3);
        c.run_until(30_000, "caught up", |c| c.commits(3) >= target);
        c.run_until(10_000, "signs again", |c| c.mode(3) == Some(Mode::Active));
        c.run_until(20_000, "heals every signature", |c| c.nodes[3].machine.as_ref().expect("up").unchecked.is_empty());
        assert!(c.charges.iter().all(|(by, peer, _)| (*by, *peer) == (3, 1)), "{:?}", c.charges);
        charged.extend(c.charges.iter().map(|(_, _, offence)| *offence));
        c.check_oracle(3);
    }
    for offence in [Offence::BadRange, Offence::BadSignature] {
        assert!(charged.contains(&offence), "{charged:?}");
    }
}

/// A signature that the server has spoilt is fetched anew before the block is served or its author's word counts.
#[test]
fn a_spoilt_signature_of_a_certified_block_is_replaced() {
    let (mut c, target) = left_behind(1_430, 25);
    c.spoil_signatures = true;
    c.restart(3);
    c.run_until(30_000, "heals every signature", |c| {
        c.commits(3) >= target && c.nodes[3].machine.as_ref().expect("up").unchecked.is_empty()
    });
    let machine = c.nodes[3].machine.as_ref().expect("up");
    for (reference, block) in machine.blocks() {
        assert_eq!(block.signature, stub_signature(reference.author, &reference.digest), "{reference}");
    }
    assert!(machine.status().counters.commits_certified > 0);
}

/// The log ends in the middle of a certified range: its blocks alone decide less than was taken.
#[test]
fn a_crash_in_the_middle_of_a_certified_range_goes_on_where_it_was() {
    for seed in 0..4 {
        let (mut c, target) = left_behind(1_440 + seed, 25);
        c.use_snapshots = seed % 2 == 0;
        c.restart(3);
        let mut crashes = 0;
        while c.commits(3) < target {
            let before = c.commits(3);
            let pause = 5 + c.rng.next() % 40;
            c.run_for(pause);
            if c.commits(3) > before {
                c.crash(3);
                c.restart(3);
                crashes += 1;
            }
            assert!(c.time < 200_000, "{}", c.report());
        }
        assert!(crashes > 3, "{crashes} crashes");
        let logged = c.nodes[3].log.iter().filter(|bytes| bytes[0] == 11).count();
        assert!(logged > 100, "{logged} certified blocks in the log");
        c.run_until(20_000, "signs again", |c| c.mode(3) == Some(Mode::Active));
        c.check_oracle(3);
    }
}
