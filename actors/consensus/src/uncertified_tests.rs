//! Catching up where no quorum certifies commits: beside a validator that builds blocks and never votes, and served lies.

use aurigraph_ledger::hash::{Hash, h};

use crate::block::Block;
use crate::cluster::Cluster;
use crate::commit::{CommitHeader, blocks_root, genesis_commit};
use crate::config::Config;
use crate::historic_tests::{One, refs};
use crate::message::{CommitRange, Message, RangeCommit};
use crate::status::{Doubt, Mode, SigningState};
use crate::testing::{genesis_of, reseal};
use crate::types::{BlockRef, LeaderSlot, RequestId};

/// Four validators of which 3 votes for no commit. 2 cannot be reached for a while, and the others go on without it: what
/// it has missed lies below all that they keep in memory, and above all that is pushed to it. Returns their newest commit.
fn left_behind(seed: u64) -> (Cluster, u64) {
    let mut c = Cluster::new(&[1; 4], seed);
    c.config.params.gc_depth = 16;
    c.config.limits.ahead = 32;
    c.config.limits.catch_up_enter = 32;
    c.abstainer = Some(3);
    c.start_all();
    c.run_for(1_500);
    c.cut = [(0, 2), (1, 2), (2, 3)].into();
    for i in 0..250 {
        c.submit([0, 1, 3][i % 3], &format!("missed {i}"));
        c.run_for(100);
    }
    let target = c.commits(0);
    assert!(target > c.commits(2) + 100, "{}", c.report());
    c.cut.clear();
    (c, target)
}

#[test]
fn a_validator_whose_votes_alone_would_certify_what_it_lacks_catches_up_by_blocks() {
    let (mut c, target) = left_behind(1_500);
    c.run_until(20_000, "catches up", |c| c.commits(2) >= target && c.mode(2) == Some(Mode::Active));
    let counters = c.status(2).counters;
    assert!(counters.ranges_uncertified > 1, "{counters:?}");
    c.check_oracle(2);
    let late = c.submit(2, "from the one that was away");
    c.run_until(10_000, "its batch", |c| (0..4).all(|node| c.has(node, &late)));
    // Now its own votes certify the rest.
    c.run_until(10_000, "certified", |c| c.status(0).quorum_index > target);
    assert!(c.charges.is_empty(), "{:?}", c.charges);
}

/// The others need it for their blocks by then: waiting for certified commits it would have stopped everything for good.
#[test]
fn a_cluster_whose_abstainer_has_stopped_goes_on_with_the_one_that_was_left_behind() {
    for seed in 1_510..1_514 {
        let (mut c, target) = left_behind(seed);
        c.crash(3);
        c.run_until(40_000, "goes on", |c| c.commits(0) > target + 20 && c.commits(2) > target + 20);
        c.check_oracle(2);
        assert!(c.charges.is_empty(), "{:?}", c.charges);
    }
}

#[test]
fn a_server_of_spoilt_uncertified_ranges_costs_time_alone() {
    for seed in 1_520..1_526 {
        let (mut c, target) = left_behind(seed);
        c.spoiler = Some(1);
        c.run_until(60_000, "catches up", |c| c.commits(2) >= target && c.mode(2) == Some(Mode::Active));
        assert!(c.charges.iter().all(|(by, peer, _)| (*by, *peer) == (2, 1)), "{:?}", c.charges);
        c.check_oracle(2);
    }
}

/// Seed 60186 of the simulator: asked in turn with the others it cost its eight seconds after every few ranges, and the
/// cluster committed as fast as the one behind caught up.
#[test]
fn a_peer_that_gives_no_range_is_not_asked_again_while_another_gives_some() {
    for seed in 1_530..1_534 {
        let (mut c, target) = left_behind(seed);
        c.mute = Some(1);
        c.run_until(20_000, "catches up", |c| c.commits(2) >= target && c.mode(2) == Some(Mode::Active));
        let counters = c.status(2).counters;
        assert!(counters.ranges_uncertified > 2, "{counters:?}");
        assert!(c.unanswered <= 1, "asked {} times", c.unanswered);
        c.check_oracle(2);
    }
}

/// Validator 0 waits for a range, by this request.
fn waiting() -> (One, RequestId) {
    let mut one = One::new(|_| {}).connect();
    one.far_ahead(10_000);
    assert_eq!(one.machine.mode(), Mode::CatchUp);
    let asked = one.sent.iter().find_map(|(peer, message)| match message {
        Message::CommitRangeRequest { request, from: 1, .. } if *peer == 1 => Some(*request),
        _ => None,
    });
    (one, asked.expect("asks the first peer"))
}

/// These blocks as one commit that follows the genesis, without votes.
fn offered(config: &Config, request: RequestId, blocks: &[Block]) -> Message {
    let before = genesis_commit(&config.chain_id, config.epoch, &config.epoch_seed, config.base);
    let leader = blocks.last().expect("some").reference();
    let header = CommitHeader {
        epoch: 0,
        index: 1,
        prev_digest: before.digest,
        timestamp_ms: 1,
        leader,
        blocks_root: blocks_root(refs(blocks).iter()),
        block_count: u32::try_from(blocks.len()).expect("few"),
        gc_round: 0,
        schedule_digest: Hash::ZERO,
        last_decided: LeaderSlot { round: leader.round, offset: 0, author: leader.author },
    };
    let mut range = CommitRange::new(request, 10_000);
    range.commits.push(RangeCommit { header, blocks: refs(blocks) });
    range.blocks = blocks.iter().map(Block::encode).collect();
    Message::CommitRangeReply(range)
}

#[test]
fn blocks_of_an_uncertified_range_are_no_more_than_pushed_ones() {
    // One author's versions of a slot: two are kept, as of pushed ones.
    let (mut one, request) = waiting();
    let versions = (0..200).map(|i| {
        let mut block = one.block(1, 3, &genesis_of(&one.config));
        block.core.timestamp_ms += i;
        reseal(block)
    });
    let versions: Vec<Block> = versions.collect();
    one.receive(1, &offered(&one.config.clone(), request, &versions));
    assert_eq!(one.machine.store.slot(1, 3).count(), 2);
    assert_eq!(one.machine.last_commit().index, 0, "what the range says is not believed");

    // Parents that nobody has: they wait, and no more than may be on their way at a time.
    let (mut one, request) = waiting();
    let invented = |round, author: u16| BlockRef { round, author, digest: h("invented", &author.to_le_bytes()) };
    let waiting_for = |round: u32| one.block(round, 3, &[0, 1, 2, 3].map(|author| invented(round - 1, author)));
    let garbage: Vec<Block> = (2..120).map(waiting_for).collect();
    one.receive(1, &offered(&one.config.clone(), request, &garbage));
    let status = one.machine.status();
    assert!((1..=64).contains(&status.suspended), "{} suspended", status.suspended);
    assert!(status.wanted + status.deferred <= 256, "{status:?}");

    // A signature that does not hold.
    let (mut one, request) = waiting();
    let mut forged = one.block(1, 2, &genesis_of(&one.config));
    forged.core.timestamp_ms += 1;
    one.receive(1, &offered(&one.config.clone(), request, &[forged]));
    assert_eq!((one.machine.store.slot(1, 2).count(), one.charges), (0, 1));
}

/// The log has lost it, or another process has the key.
#[test]
fn an_own_block_in_an_uncertified_range_that_the_log_lacks_ends_signing() {
    let (mut one, request) = waiting();
    let genesis = genesis_of(&one.config);
    let mut blocks = one.round(1, &genesis);
    let mut parents = refs(&blocks);
    parents.push(genesis[0]);
    blocks.push(one.block(2, 0, &parents));
    one.receive(1, &offered(&one.config.clone(), request, &blocks));
    let signing = one.machine.status().signing;
    assert!(matches!(signing.doubt, Some(Doubt::OwnBlock(block)) if block.round == 2), "{signing:?}");
    assert_ne!(signing.state, SigningState::Signing);
}
