//! Accountability: what is found, what survives a restart, what a commit proves, and who is left out for it.

use aurigraph_ledger::hash::h;

use crate::block::{Block, Evidence, EvidenceKind};
use crate::cluster::Cluster;
use crate::commit::{FaultKind, ProvenFault};
use crate::historic_tests::{One, refs};
use crate::message::Message;
use crate::record::Record;
use crate::testing::{genesis_of, no_signature, reseal};
use crate::types::{BlockRef, CommitRef};

/// Another version of a block, signed by its author.
fn twin_of(block: &Block) -> Block {
    let mut twin = block.clone();
    twin.core.timestamp_ms += 1;
    reseal(twin)
}

/// Against validator 2 in round 1.
fn equivocation(one: &One) -> Evidence {
    let block = one.block(1, 2, &genesis_of(&one.config));
    Evidence::equivocation(block.signed_core(), twin_of(&block).signed_core())
}

fn carrying(block: Block, evidence: Vec<Evidence>) -> Block {
    let mut with = block;
    with.extras.evidence = evidence;
    reseal(with)
}

/// What the own blocks in the log carry, oldest first.
fn reported(one: &One) -> Vec<Evidence> {
    let own = |record: &Record| match record {
        Record::OwnBlock(bytes) => Some(Block::decode(bytes).expect("decodes").extras.evidence),
        _ => None,
    };
    one.log.iter().filter_map(own).flatten().collect()
}

fn faults(one: &One) -> Vec<ProvenFault> {
    let of_commit = |record: &Record| match record {
        Record::Commit(commit) => Some(commit.faults.clone()),
        _ => None,
    };
    one.log.iter().filter_map(of_commit).flatten().collect()
}

/// Rounds from this one on, each by the three others on everything of the round before, the own block included.
fn go_on(one: &mut One, from: u32, to: u32, mut parents: Vec<BlockRef>) {
    for round in from..=to {
        let made = one.round(round, &parents);
        made.iter().for_each(|block| one.push(block));
        one.wait(600);
        parents = refs(&made);
        parents.push(one.signed[&round].reference());
    }
}

#[test]
fn a_version_that_waited_when_the_process_ended_is_not_forgotten() {
    let mut one = One::new(|_| {}).connect();
    let made = one.round(1, &genesis_of(&one.config));
    made[..2].iter().for_each(|block| one.push(block));
    // On a block of validator 3 that nobody has.
    let waiting = one.block(2, 2, &refs(&made));
    one.push(&waiting);
    assert_eq!((one.machine.status().suspended, one.evidence), (1, 0));
    one.wait(600);
    assert!(one.signed.contains_key(&2), "the next own block takes it into the log");
    let kept = one.log.iter().filter(|record| matches!(record, Record::Statement(_))).count();
    assert_eq!(kept, 1, "and nothing that the log has anyway");
    one.restart(false);
    assert_eq!((one.machine.status().suspended, one.evidence), (0, 0));
    one.push(&twin_of(&waiting));
    assert_eq!(one.evidence, 1);
}

#[test]
fn evidence_outlives_a_restart_and_is_told_and_reported_until_a_commit_proves_it() {
    let mut one = One::new(|_| {}).connect();
    let first = one.block(1, 2, &genesis_of(&one.config));
    one.push(&first);
    one.push(&twin_of(&first));
    assert_eq!((one.evidence, one.machine.status().pending_evidence), (1, 1));
    one.evidence = 0;
    one.restart(true);
    assert_eq!(one.evidence, 1, "told again");
    one.push(&first);
    assert_eq!(one.evidence, 1, "once in a life");
    one.connect_all();
    let made = one.round(1, &genesis_of(&one.config));
    made.iter().for_each(|block| one.push(block));
    one.wait(600);
    assert_eq!(reported(&one), [equivocation(&one)]);
    // What the own block carries was synced with it.
    one.evidence = 0;
    one.restart(false);
    assert_eq!((one.evidence, one.machine.status().shunned), (1, vec![2]));
}

/// The second version waits for a parent that nobody has, and is in no log.
#[test]
fn evidence_outlives_the_block_that_it_comes_of() {
    let mut one = One::new(|_| {}).connect();
    let made = one.round(1, &genesis_of(&one.config));
    made.iter().for_each(|block| one.push(block));
    let mut strange = made[1].reference();
    strange.digest = h("strange", &[]);
    let first = one.block(2, 1, &refs(&made));
    one.push(&first);
    let parents = [made[0].reference(), strange, made[2].reference()];
    let second = one.block(2, 1, &parents);
    one.push(&second);
    assert_eq!((one.evidence, one.machine.status().suspended), (1, 1));
    one.evidence = 0;
    one.restart(true);
    assert_eq!((one.evidence, one.machine.status().pending_evidence), (1, 1));
}

#[test]
fn the_next_own_block_reports_evidence_once_and_later_ones_leave_the_author_out() {
    let mut one = One::new(|_| {}).connect();
    let made = one.round(1, &genesis_of(&one.config));
    made.iter().for_each(|block| one.push(block));
    one.push(&twin_of(&made[1]));
    assert_eq!(one.machine.status().shunned, [0_u16; 0], "nobody can know yet");
    one.wait(60);
    assert_eq!(one.signed.keys().copied().max(), Some(2), "evidence ends idling");
    assert_eq!(reported(&one), [equivocation(&one)]);
    assert_eq!(one.machine.status().shunned, [2]);
    let mut parents = refs(&made);
    parents.push(one.signed[&1].reference());
    go_on(&mut one, 2, 2, parents);
    let last = one.log.iter().rev().find_map(|record| match record {
        Record::OwnBlock(bytes) => Some(Block::decode(bytes).expect("decodes")),
        _ => None,
    });
    let last = last.expect("an own block");
    assert_eq!(last.core.round, 3);
    assert!(last.parents.iter().all(|parent| parent.author != 2), "{:?}", last.parents);
    assert_eq!(reported(&one).len(), 1, "once");
    let shunned = one.machine.status().shunned;
    one.restart(true);
    assert_eq!(one.machine.status().shunned, shunned, "also after a restart");
}

#[test]
fn nobody_accuses_itself_when_another_process_signs_with_its_key() {
    let mut one = One::new(|_| {}).connect();
    one.wait(600);
    assert!(one.signed.contains_key(&1));
    let genesis = genesis_of(&one.config);
    let foreign = one.block(1, 0, &genesis);
    let made = one.round(1, &genesis);
    made.iter().for_each(|block| one.push(block));
    let mut parents = refs(&made);
    parents.push(foreign.reference());
    let child = one.block(2, 1, &parents);
    one.push(&child);
    one.wait(600);
    let asked = one.sent.iter().rev().find_map(|(peer, message)| match message {
        Message::FetchRequest { request, refs, .. } if refs.contains(&foreign.reference()) => Some((*peer, *request)),
        _ => None,
    });
    let (peer, request) = asked.expect("the parent is asked for");
    one.receive(peer, &Message::FetchReply { request, commit_index: 0, blocks: vec![foreign.encode()] });
    assert!(one.machine.status().signing.doubt.is_some(), "it came in");
    assert_eq!((one.evidence, one.machine.status().pending_evidence), (0, 0));
    one.restart(true);
    assert_eq!((one.evidence, one.machine.status().pending_evidence), (0, 0));
}

#[test]
fn two_votes_for_one_commit_are_evidence() {
    let mut one = One::new(|_| {}).connect();
    let votes = |name: &[u8]| CommitRef { index: 9, digest: h("vote", name) };
    let mut made = one.round(1, &genesis_of(&one.config));
    made[1].core.commit_vote = votes(b"one");
    made[1] = reseal(made[1].clone());
    made.iter().for_each(|block| one.push(block));
    let mut second = one.block(2, 2, &refs(&made));
    second.core.commit_vote = votes(b"another");
    let second = reseal(second);
    one.push(&second);
    assert_eq!(one.evidence, 1);
    one.wait(600);
    one.wait(600);
    let expected = Evidence::conflicting_commit_vote(made[1].signed_core(), second.signed_core());
    assert_eq!(reported(&one), [expected]);
    assert_eq!(one.machine.status().shunned, [0_u16; 0], "only equivocators are left out");
}

/// Signatures are looked at before a block is accepted, delay it, and never make it invalid.
#[test]
fn a_commit_proves_what_is_signed_and_nothing_else_and_names_the_first_carrier() {
    let mut one = One::new(|_| {}).connect();
    let good = equivocation(&one);
    let mut forged = Evidence::equivocation(
        one.block(1, 3, &genesis_of(&one.config)).signed_core(),
        twin_of(&one.block(1, 3, &genesis_of(&one.config))).signed_core(),
    );
    forged.b.signature = no_signature();
    let made = one.round(1, &genesis_of(&one.config));
    let made = [
        carrying(made[0].clone(), vec![forged.clone(), good.clone()]),
        made[1].clone(),
        carrying(made[2].clone(), vec![good.clone()]),
    ];
    made.iter().for_each(|block| one.push(block));
    assert_eq!(one.machine.status().blocks, 4, "all are accepted");
    assert_eq!(one.machine.status().counters.evidence_refused, 1);
    let mut parents = refs(&made);
    parents.push(one.signed[&1].reference());
    go_on(&mut one, 2, 8, parents);
    let found = faults(&one);
    let first = |block: &Block| {
        let blocks = one.log.iter().filter_map(|record| match record {
            Record::Commit(commit) => Some(commit.blocks.clone()),
            _ => None,
        });
        blocks.flatten().position(|committed| committed.block == block.reference()).expect("ordered")
    };
    let reporter = if first(&made[0]) < first(&made[2]) { 1 } else { 3 };
    let expected = ProvenFault { epoch: 0, author: 2, kind: FaultKind::Equivocation, reporter, digest: good.digest() };
    assert_eq!(found, [expected]);
    assert_eq!(one.machine.status().shunned, [2]);
    // The verdicts are in the log, before the blocks that need them: a replay comes to the same.
    let verdicts: Vec<bool> = one
        .log
        .iter()
        .filter_map(|record| match record {
            Record::Verdict { ok, .. } => Some(*ok),
            _ => None,
        })
        .collect();
    assert_eq!(verdicts, [false, true]);
    one.restart(true);
    assert_eq!(one.machine.status().shunned, [2]);
    assert_eq!(one.machine.linearizer.proven().len(), 1);
}

#[test]
fn an_equivocator_is_proven_once_in_one_commit_everywhere_and_left_out() {
    for seed in 0..4 {
        let mut c = Cluster::new(&[1; 4], 1_100 + seed);
        c.start_all();
        c.run_for(2_000);
        c.equivocator = Some(1);
        let others = [0, 2, 3];
        c.run_until(3_000, "proven", |c| others.iter().all(|node| c.status(*node).shunned == [1]));
        c.run_until(1_000, "delivered", |c| others.iter().all(|node| c.status(*node).pending_evidence == 0));
        let round = c.status(0).round + 2;
        let batch = c.submit(2, "after");
        c.run_until(5_000, "goes on", |c| others.iter().all(|node| c.has(*node, &batch)));
        c.run_for(2_000);
        let proven: Vec<_> = c.faults.values().flatten().collect();
        assert_eq!(proven.len(), 1, "{proven:?}");
        assert_eq!((proven[0].author, proven[0].kind), (1, FaultKind::Equivocation));
        for node in others {
            let machine = c.nodes[node].machine.as_ref().expect("up");
            let mut looked = 0;
            for (reference, block) in machine.blocks().filter(|(r, _)| r.round > round && r.author != 1) {
                looked += 1;
                assert!(block.parents.iter().all(|parent| parent.author != 1), "{reference} builds on it");
            }
            assert!(looked > 0, "seed {seed}: nothing to look at");
            c.check_oracle(node);
        }
    }
}

/// `Cluster` holds all nodes, in all their lives, to the same faults in the same commits.
#[test]
fn restarts_from_snapshots_find_the_same_faults() {
    for seed in 0..4 {
        let mut c = Cluster::new(&[1; 7], 1_120 + seed);
        c.config.params.gc_depth = 16;
        c.use_snapshots = true;
        c.start_all();
        c.run_for(1_500);
        c.equivocator = Some(1);
        for i in 0..40 {
            c.submit(0, &format!("{seed}/{i}"));
            c.run_for(50);
            let node = [3, 4, 5, 6][i % 4];
            c.take_snapshot(node);
            if i % 3 == 0 {
                c.crash(node);
                c.run_for(30);
                c.restart(node);
            }
        }
        c.run_until(10_000, "proven", |c| [0, 2, 3, 4, 5, 6].iter().all(|node| c.status(*node).shunned == [1]));
        assert_eq!(c.faults.values().flatten().count(), 1, "seed {seed}");
        // What a crash has taken from a log is back.
        c.run_for(3_000);
        (2..7).for_each(|node| c.check_oracle(node));
    }
}

/// Windows of ten commits: whoever is gone for three in a row is down, once, and again only after three more.
#[test]
fn who_is_absent_for_three_windows_is_down_in_the_same_commit_everywhere() {
    for seed in 0..3 {
        let mut c = Cluster::new(&[1; 4], 1_140 + seed);
        c.config.params.schedule_window = 10;
        c.start_all();
        c.run_for(3_000);
        c.crash(2);
        let (from, load) = (c.commits(0), |c: &mut Cluster, commits: u64| {
            let until = c.commits(0) + commits;
            while c.commits(0) < until {
                c.submit(0, &format!("{}", c.time));
                c.run_for(60);
            }
        });
        load(&mut c, 75);
        let of = |c: &Cluster| -> Vec<(u64, u16)> {
            let down = |(index, faults): (&u64, &Vec<ProvenFault>)| {
                assert!(faults.iter().all(|fault| fault.kind == FaultKind::Downtime && fault.reporter == fault.author));
                faults.iter().map(|fault| (*index, fault.author)).collect::<Vec<_>>()
            };
            c.faults.iter().flat_map(down).collect()
        };
        let found = of(&c);
        assert_eq!(found.iter().map(|(_, author)| *author).collect::<Vec<_>>(), [2, 2], "seed {seed}: {found:?}");
        assert!(found[0].0 > from + 20 && found[0].0.is_multiple_of(10) && found[1].0 == found[0].0 + 30, "{found:?}");
        c.restart(2);
        load(&mut c, 60);
        let late = of(&c).len() - found.len();
        assert!(late <= 1, "seed {seed}: present again, and still down");
        c.run_until(10_000, "all hear of it", |c| c.commits(2) >= found[1].0);
    }
}

/// The own block that carried it was never ordered: another one does.
#[test]
fn evidence_in_an_own_block_that_is_collected_unordered_is_reported_again() {
    let one = One::new(|_| {});
    let mut machine = one.machine;
    let block = crate::testing::sealed_block(&one.config, 1, 2, genesis_by(&one.config, 2), vec![]);
    machine.accuse(Evidence::equivocation(block.signed_core(), twin_of(&block).signed_core()));
    let fresh = machine.evidence.to_report();
    assert_eq!(fresh.len(), 1);
    let own = crate::testing::sealed_block(&one.config, 5, 0, genesis_by(&one.config, 0), vec![]);
    machine.note_reported(&carrying(own, fresh.clone()));
    assert!(machine.evidence.to_report().is_empty() && machine.is_shunned(2));
    machine.evidence.advance_gc(4);
    assert!(machine.evidence.to_report().is_empty());
    machine.evidence.advance_gc(5);
    assert_eq!(machine.evidence.to_report(), fresh);
    assert_eq!(fresh[0].accusation(), (0, 2, EvidenceKind::Equivocation));
}

fn genesis_by(config: &crate::config::Config, author: u16) -> Vec<BlockRef> {
    let mut parents = genesis_of(config);
    parents.sort_by_key(|parent| (parent.author != author, parent.author));
    parents
}
