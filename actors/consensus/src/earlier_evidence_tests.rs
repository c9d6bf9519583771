//! Evidence that outlives the epoch of its statements: who carries it, whose keys it is checked with, how far back it
//! counts, and that it counts once.

use aurigraph_ledger::hash::Hash;

use crate::block::{Block, Evidence, EvidenceKind, SignedCore};
use crate::cluster::{Cluster, stub_signature};
use crate::commit::{FaultKind, ProvenFault};
use crate::config::{Config, EARLIER_EVIDENCE, MAX_CARRIED_EVIDENCE, MAX_VALIDATORS};
use crate::evidence::EvidencePool;
use crate::historic_tests::{EARLIER_KEYS, One, refs};
use crate::record::Record;
use crate::testing::{genesis_of, reseal, sealed_block};
use crate::types::{AuthorIdx, Epoch, Signature};
use crate::validity::Invalid;

/// Two statements of a round of an epoch, signed by this.
fn statements(config: &Config, epoch: Epoch, author: AuthorIdx, sign: impl Fn(&SignedCore) -> Signature) -> Evidence {
    let mut parents = genesis_of(config);
    parents.sort_by_key(|parent| (parent.author != author, parent.author));
    let block = sealed_block(config, 1, author, parents, vec![]);
    let [a, b] = [1, 2].map(|timestamp_ms| {
        let mut signed = block.signed_core();
        (signed.core.epoch, signed.core.timestamp_ms) = (epoch, timestamp_ms);
        signed.signature = sign(&signed);
        signed
    });
    Evidence::equivocation(a, b)
}

fn with_earlier_key(signed: &SignedCore) -> Signature {
    stub_signature(signed.core.author + EARLIER_KEYS, &signed.core.digest())
}

fn with_own_key(signed: &SignedCore) -> Signature {
    stub_signature(signed.core.author, &signed.core.digest())
}

fn carrying(block: &Block, evidence: Vec<Evidence>) -> Block {
    let mut block = block.clone();
    block.extras.evidence = evidence;
    reseal(block)
}

fn in_epoch(config: &mut Config, epoch: Epoch) {
    (config.epoch, config.version, config.params.evidence_epochs) = (epoch, EARLIER_EVIDENCE, 3);
}

#[test]
fn evidence_of_an_earlier_epoch_is_checked_with_that_epochs_keys_and_nobody_is_left_out_for_it() {
    let mut one = One::new(|config| {
        in_epoch(config, 5);
        config.params.schedule_window = 2;
    })
    .connect();
    let good = statements(&one.config, 3, 2, with_earlier_key);
    let forged = statements(&one.config, 4, 3, with_own_key);
    let mut made = one.round(1, &genesis_of(&one.config));
    made[0] = carrying(&made[0], vec![forged, good.clone()]);
    made.iter().for_each(|block| one.push(block));
    assert_eq!(one.machine.status().blocks, 4, "all are accepted");
    assert_eq!(one.machine.status().counters.evidence_refused, 1);
    let mut parents = refs(&made);
    for round in 2..=8 {
        parents.push(one.signed[&(round - 1)].reference());
        let made = one.round(round, &parents);
        made.iter().for_each(|block| one.push(block));
        one.wait(600);
        parents = refs(&made);
    }
    let proven: Vec<ProvenFault> = one
        .log
        .iter()
        .filter_map(|record| match record {
            Record::Commit(commit) => Some(commit.faults.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    let kind = FaultKind::Equivocation;
    assert_eq!(proven, [ProvenFault { epoch: 3, author: 2, kind, reporter: 1, digest: good.digest() }]);
    let status = one.machine.status();
    assert!(status.shunned.is_empty() && !status.schedule.bad.contains(&2), "index 2 may be another's now");
    assert!(one.machine.schedule().reputation().equivocators.is_empty(), "and leads like any other");
}

#[test]
fn a_block_may_carry_evidence_of_its_epoch_and_as_many_before_it_as_stake_answers_for() {
    let verdict = |epoch: Epoch, version: u16, of: Epoch, author: AuthorIdx| {
        let mut config = Config::new(Hash([1; 32]), Hash([2; 32]), vec![1; 4], None);
        in_epoch(&mut config, epoch);
        config.version = version;
        let committee = crate::committee::Committee::new(config.stakes.clone()).expect("valid");
        let ctx = crate::validity::EpochContext::new(&config, committee);
        let evidence = statements(&config, of, 0, with_own_key);
        let accuse = |mut signed: SignedCore| {
            signed.core.author = author;
            signed
        };
        let evidence = Evidence::equivocation(accuse(evidence.a), accuse(evidence.b));
        let block = sealed_block(&config, 1, 0, genesis_of(&config), vec![]);
        ctx.check(&carrying(&block, vec![evidence]))
    };
    let refused = Err(Invalid::Evidence(0));
    let now = EARLIER_EVIDENCE;
    for of in [6, 7, 8, 9] {
        assert_eq!(verdict(9, now, of, 3), Ok(()), "of epoch {of}");
        let own_alone = if of == 9 { Ok(()) } else { refused.clone() };
        assert_eq!(verdict(9, now - 1, of, 3), own_alone, "of epoch {of}, before the version");
    }
    assert_eq!(verdict(9, now, 5, 3), refused, "its stake may be gone");
    assert_eq!(verdict(9, now, 10, 3), refused, "of an epoch to come");
    assert_eq!(verdict(1, now, 0, 3), Ok(()), "there is none before the first");
    assert_eq!(verdict(9, now, 9, 4), refused);
    assert_eq!(verdict(9, now, 8, 4), Ok(()), "that epoch may have had more validators");
    assert_eq!(verdict(9, now, 8, u16::try_from(MAX_VALIDATORS).expect("few")), refused);
}

#[test]
fn what_goes_over_an_epochs_end_is_bounded_and_what_no_stake_answers_for_stays_behind() {
    let config = Config::new(Hash([1; 32]), Hash([2; 32]), vec![1; 4], None);
    let evidence = |epoch| statements(&config, epoch, 1, with_own_key);
    let mut pool = EvidencePool::default();
    pool.carry(&[evidence(2), evidence(3), evidence(4)]);
    assert_eq!(pool.carried(3), [evidence(3), evidence(4)]);
    let many: Vec<Evidence> = (10..11 + MAX_CARRIED_EVIDENCE as u64).map(evidence).collect();
    pool.carry(&many);
    assert_eq!(pool.carried(0), many[1..], "the newest");
}

/// One validator alone holds the evidence, the accused is in the next set no more, and the one holder may crash.
fn leave_one_unproven(seed: u64, crash: bool, supports: u16) -> (Cluster, Evidence) {
    let mut c = Cluster::new(&[1; 5], seed);
    c.config.supports = supports;
    c.config.params.epoch_commits = 20;
    c.config.params.evidence_epochs = 3;
    c.checkpoint_every = Some(10);
    c.use_snapshots = seed.is_multiple_of(2);
    c.plan.insert(1, vec![(2, 1), (0, 1), (3, 1), (4, 1)]);
    c.start_all();
    let until = |c: &mut Cluster, done: &dyn Fn(&Cluster) -> bool| {
        while !done(c) {
            assert!(c.time < 120_000, "seed {seed}: {}", c.report());
            c.run_for(1);
        }
    };
    until(&mut c, &|c| c.commits(0) >= 20);
    assert_eq!(c.epoch(0), 0, "seed {seed}: nobody has ended the epoch");
    let evidence = statements(&c.config, 0, 1, with_own_key);
    c.nodes[0].machine.as_mut().expect("up").accuse(evidence.clone());
    until(&mut c, &|c| c.epoch(0) == 1);
    if crash {
        c.crash(0);
        c.run_for(300);
        c.restart(0);
    }
    c.run_until(120_000, "two more epochs", |c| (0..5).all(|node| c.epoch(node) >= 3));
    (0..5).for_each(|node| c.check_oracle(node));
    (c, evidence)
}

#[test]
fn evidence_that_an_epoch_leaves_unproven_is_proven_in_the_next_by_whoever_held_it() {
    for seed in 0..6 {
        let (c, evidence) = leave_one_unproven(1_200 + seed, seed % 3 > 0, EARLIER_EVIDENCE);
        let proven: Vec<(u64, ProvenFault)> =
            c.faults.iter().flat_map(|(index, faults)| faults.iter().map(|fault| (*index, *fault))).collect();
        // Its holder is the second of the set of epoch 1.
        let kind = FaultKind::Equivocation;
        let expected = ProvenFault { epoch: 0, author: 1, kind, reporter: 1, digest: evidence.digest() };
        let [(index, found)] = proven[..] else { panic!("seed {seed}: {proven:?}") };
        assert_eq!(found, expected, "seed {seed}");
        assert!((21..=40).contains(&index), "seed {seed}: commit {index}");
        for node in 0..5 {
            assert_eq!(c.status(node).pending_evidence, 0, "seed {seed}, node {node}");
            assert!(c.status(node).shunned.is_empty(), "seed {seed}, node {node}");
        }
        assert_eq!(evidence.accusation(), (0, 1, EvidenceKind::Equivocation));
    }
}

#[test]
fn before_its_protocol_version_evidence_ends_with_its_epoch() {
    let (c, _) = leave_one_unproven(1_220, false, EARLIER_EVIDENCE - 1);
    assert_eq!(c.faults.values().flatten().count(), 0);
    assert!((0..5).all(|node| c.status(node).pending_evidence == 0));
}
