//! Going on from an anchor's state: what it holds is enough, and what is altered is noticed before it is used.
//!
//! That all nodes come to the same states is asserted at every commit of every simulated cluster (`cluster`).

use std::sync::Arc;

use crate::anchor::{ANCHOR_EVERY, OrderState, OrderStateError, digest_of};
use crate::block::Block;
use crate::cluster::Cluster;
use crate::record::{Record, SIGN_NOTHING};
use crate::status::{Mode, SigningState};

/// Four validators with some hundred commits under load; the last one's disk is gone. The newest state but one of the
/// first, and the blocks that it names.
fn emptied(seed: u64) -> (Cluster, OrderState, Vec<Arc<[u8]>>) {
    let mut c = Cluster::new(&[1; 4], seed);
    c.config.params.gc_depth = 16;
    c.config.limits.ahead = 32;
    c.config.limits.catch_up_enter = 32;
    c.start_all();
    for i in 0..300_usize {
        c.submit(i % 4, &format!("before {i}"));
        c.run_for(100);
    }
    c.crash(3);
    c.wipe(3);
    let first = c.nodes[0].machine.as_ref().expect("up");
    let states: Vec<_> = first.anchors().map(|(index, state)| (index, state.clone())).collect();
    let (index, bytes) = states[states.len() - 2].clone();
    let state = OrderState::decode(&bytes).expect("decodes");
    assert_eq!((state.last_commit.index, state.encode().as_slice()), (index, bytes.as_ref()));
    assert_eq!(index % ANCHOR_EVERY, 0);
    assert_eq!(c.states[&index], digest_of(&bytes), "the anchor's own commit names it");
    let logged = |wanted| {
        let bytes = c.nodes[0].log.iter().rev().find_map(|bytes| {
            let record = Record::decode(bytes).expect("own records");
            let block = record.block()?;
            (Block::decode(block).expect("own blocks").reference() == wanted).then(|| block.clone())
        });
        bytes.expect("every committed block is in the log")
    };
    let blocks = state.committed.iter().map(|block| logged(*block)).collect();
    (c, state, blocks)
}

/// Starts the last validator on a state and its blocks.
fn begin_with(c: &mut Cluster, state: OrderState, blocks: Vec<Arc<[u8]>>) {
    let index = state.last_commit.index;
    c.use_snapshots = true;
    c.nodes[3].log = blocks.into_iter().map(|block| Record::CertifiedBlock(block).encode()).collect();
    c.nodes[3].synced = c.nodes[3].log.len();
    c.nodes[3].snapshot = Some((state.into_snapshot(SIGN_NOTHING), 0));
    c.nodes[3].executed = index;
    c.restart(3);
}

#[test]
fn an_emptied_validator_goes_on_from_an_anchors_state_and_signs_again() {
    for seed in 0..3 {
        let (mut c, state, blocks) = emptied(1_900 + seed);
        state.check(&c.config_of(3), &blocks).expect("whole");
        let (index, target) = (state.last_commit.index, c.commits(0));
        begin_with(&mut c, state, blocks);
        c.run_until(30_000, "follows", |c| c.commits(3) > target);
        let first = c.nodes[3].delivered.keys().next().copied();
        assert_eq!(first, Some(index + 1), "nothing before the state is delivered");
        c.run_until(60_000, "signs", |c| {
            c.mode(3) == Some(Mode::Active) && c.status(3).signing.state == SigningState::Signing
        });
        assert!(c.charges.is_empty() && c.nodes[3].alarms.iter().all(|a| !matches!(a, crate::Alarm::Diverged(_))));
        // And restarts from its own log.
        c.crash(3);
        c.restart(3);
        let target = c.commits(0);
        c.run_until(30_000, "follows again", |c| c.commits(3) > target + 3);
    }
}

/// What memory is freed by moves on with the commits after the state as well: there is no mark that stands still.
#[test]
fn h25_memory_does_not_grow_after_a_start_from_an_anchors_state() {
    let (mut c, state, blocks) = emptied(1_905);
    for i in 0..400_usize {
        c.submit(i % 3, &format!("meanwhile {i}"));
        c.run_for(100);
    }
    let (index, target) = (state.last_commit.index, c.commits(0));
    assert!(target > index + 200, "{target} commits");
    begin_with(&mut c, state, blocks);
    let mut most = 0;
    let mut looks = 0;
    while c.commits(3) < target {
        c.run_for(5);
        let status = c.status(3);
        most = most.max(status.blocks).max(status.suspended).max(status.wanted);
        looks += usize::from(c.mode(3) == Some(Mode::CatchUp));
        assert!(looks < 10_000, "{}", c.report());
    }
    // As in `h25_memory_does_not_grow_with_the_length_of_catch_up`.
    assert!(looks > 5 && most <= 4 * (16 + 2 * 64), "{most} at most in {looks} looks");
}

#[test]
fn a_state_with_other_blocks_than_it_names_is_refused() {
    let (c, state, blocks) = emptied(1_910);
    let config = c.config_of(3);
    let check = |blocks: &[Arc<[u8]>]| state.check(&config, blocks);
    assert_eq!(check(&blocks), Ok(()));
    assert!(matches!(check(&blocks[1..]), Err(OrderStateError::Count { .. })));
    let swapped = [&[blocks[1].clone(), blocks[0].clone()], &blocks[2..]].concat();
    assert!(matches!(check(&swapped), Err(OrderStateError::Block { at: 0, .. })));
    let doubled = [&[blocks[1].clone()], &blocks[1..]].concat();
    assert!(matches!(check(&doubled), Err(OrderStateError::Block { at: 0, .. })));
    // The block of the same core with other parents.
    let mut altered = Block::decode(&blocks[2]).expect("decodes");
    altered.parents.pop();
    let mut others = blocks.clone();
    others[2] = altered.encode().into();
    assert!(matches!(check(&others), Err(OrderStateError::Block { at: 2, .. })));
    let mut elsewhere = config.clone();
    elsewhere.epoch = 1;
    assert!(matches!(state.check(&elsewhere, &blocks), Err(OrderStateError::Elsewhere { .. })));
    let bytes = state.encode();
    for cut in (0..bytes.len()).step_by(97) {
        assert!(OrderState::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_validator_far_behind_waits_for_a_snapshot_until_none_comes() {
    let mut c = Cluster::new(&[1; 4], 1_920);
    c.config.limits.catch_up_enter = 32;
    c.config.limits.snapshot_distance = 60;
    c.start_all();
    c.run_for(1_500);
    c.crash(3);
    for i in 0..200_usize {
        c.submit(i % 3, &format!("missed {i}"));
        c.run_for(100);
    }
    let target = c.commits(0);
    c.restart(3);
    c.run_until(5_000, "waits", |c| c.status(3).awaits_snapshot);
    let before = c.status(3).last_commit.index;
    let tell = |c: &mut Cluster, goes_on| c.push(3, 1, crate::Event::SnapshotSync { goes_on });
    for _ in 0..6 {
        tell(&mut c, true);
        c.run_for(4_000);
        assert!(c.status(3).awaits_snapshot);
    }
    assert_eq!(c.status(3).last_commit.index, before, "no ranges meanwhile");
    tell(&mut c, false);
    c.run_until(8_000, "ranges instead", |c| c.commits(3) >= target);
    assert!(!c.status(3).awaits_snapshot);
    // Nobody has a word for it: it waits its time.
    c.crash(3);
    for i in 0..200_usize {
        c.submit(i % 3, &format!("missed again {i}"));
        c.run_for(100);
    }
    let target = c.commits(0);
    c.restart(3);
    c.run_until(30_000, "ranges without a word", |c| c.commits(3) >= target);
}
