//! Certificates and divergence, in whole clusters of machines and alone.

use aurigraph_ledger::hash::{Hash, h};

use crate::block::{Evidence, EvidenceKind};
use crate::certificate::Certificate;
use crate::checkpoint::{Certified, Divergence, WINDOW};
use crate::cluster::Cluster;
use crate::config::Config;
use crate::event::{Alarm, Effect, Event};
use crate::machine::Machine;
use crate::message::encode_block;
use crate::status::Status;
use crate::testing::{genesis_of, reseal, sealed_block};
use crate::types::{AuthorIdx, BatchRef, CkptRef, Now};

const EVERY: u64 = 10;

fn cluster(seed: u64) -> Cluster {
    let mut c = Cluster::new(&[1; 4], seed);
    c.checkpoint_every = Some(EVERY);
    c.start_all();
    c
}

fn certified(c: &Cluster, node: usize) -> u64 {
    c.status(node).certified.map_or(0, |certified| certified.checkpoint.seq)
}

fn divergence(c: &Cluster, node: usize) -> Option<Divergence> {
    c.nodes[node].machine.as_ref().and_then(|machine| machine.status().divergence)
}

/// Keeps the cluster busy for a time.
fn load(c: &mut Cluster, times: usize, name: &str) {
    for i in 0..times {
        c.submit(i % 4, &format!("{name} {i}"));
        c.run_for(40);
    }
}

#[test]
fn every_checkpoint_gets_a_certificate_of_a_quorum_on_every_node_in_order() {
    let mut c = cluster(1);
    load(&mut c, 150, "batch");
    for node in 0..4 {
        let certificates = &c.nodes[node].certificates;
        assert!(certificates.len() >= 3, "{}", certificates.len());
        for (at, certificate) in certificates.iter().enumerate() {
            assert_eq!(certificate.checkpoint.seq, at as u64 + 1, "one each, in order");
            let digest = h("checkpoint", format!("checkpoint {}", certificate.checkpoint.seq).as_bytes());
            assert_eq!(certificate.checkpoint.digest, digest);
            let committee = c.nodes[node].machine.as_ref().expect("runs").committee();
            assert_eq!(certificate.stake(committee), 3, "a quorum and no more");
            assert!(certificate.cores.is_sorted_by(|a, b| a.core.author < b.core.author));
            assert!(certificate.cores.iter().all(|signed| signed.core.attestation == certificate.checkpoint), "exact");
            assert_eq!(Certificate::decode(&certificate.encode()).as_ref(), Ok(certificate));
        }
        assert!(divergence(&c, node).is_none() && c.nodes[node].alarms.is_empty());
        assert!(c.status(node).checkpoint.seq - certified(&c, node) <= 1, "certified a few rounds after execution");
    }
}

#[test]
fn an_executor_that_goes_wrong_is_found_within_two_checkpoints_and_stops_alone() {
    for seed in 0..20 {
        let mut c = cluster(seed);
        load(&mut c, 40, "before");
        let wrong_from = c.nodes[2].executed + 1;
        let first_wrong = wrong_from.div_ceil(EVERY);
        c.corrupted.insert(2, wrong_from);
        let mut at = 0;
        while divergence(&c, 2).is_none() {
            load(&mut c, 2, &format!("during {at}"));
            at += 1;
            assert!(at < 100, "seed {seed}: not found");
        }
        let found = divergence(&c, 2).expect("just seen");
        let own = c.status(2).checkpoint.seq;
        assert!(found.seq >= first_wrong && own <= first_wrong + 2, "seed {seed}: {found:?}, own {own}");
        assert!(found.stake >= 2 && !found.network_wide);
        // It orders and executes nothing more; the others do, and its blocks still carry theirs.
        c.run_for(1_000);
        let (stopped, round) = (c.nodes[2].executed, c.status(2).round);
        let (elsewhere, alone) = (c.submit(0, "elsewhere"), c.submit(2, "alone"));
        load(&mut c, 60, "after");
        assert!([0, 1, 3].iter().all(|node| c.has(*node, &elsewhere) && divergence(&c, *node).is_none()));
        assert!((0..4).all(|node| !c.has(node, &alone)), "seed {seed}: payload of the stopped node");
        assert_eq!((c.nodes[2].executed, c.status(2).checkpoint.seq), (stopped, own), "seed {seed}");
        assert!(c.status(2).round > round + 20 && certified(&c, 0) > own, "seed {seed}: the DAG goes on");
        let alarms = &c.nodes[2].alarms;
        assert_eq!(alarms.iter().filter(|alarm| matches!(alarm, Alarm::Diverged(_))).count(), 1, "{alarms:?}");
        // The others know who is wrong, and accuse nobody else.
        for node in [0, 1, 3] {
            let wrong = |alarm: &Alarm| matches!(alarm, Alarm::WrongAttestation { author: 2, .. });
            assert!(c.nodes[node].alarms.iter().all(wrong), "{:?}", c.nodes[node].alarms);
            assert_eq!(c.nodes[node].alarms.len(), 1);
        }
    }
}

#[test]
fn when_no_digest_can_reach_a_quorum_everybody_stops_payload_and_the_dag_goes_on() {
    let mut c = cluster(3);
    load(&mut c, 40, "before");
    let from = c.nodes.iter().map(|node| node.executed).max().expect("four") + 1;
    // Two against two of which each is alone: 1, 1 and 2.
    c.corrupted.extend([(1, from), (2, from)]);
    let mut at = 0;
    while (0..4).any(|node| divergence(&c, node).is_none_or(|it| !it.network_wide)) {
        load(&mut c, 2, &format!("during {at}"));
        at += 1;
        assert!(at < 100, "not found");
    }
    c.run_for(1_000);
    let (rounds, executed) = (c.status(0).round, c.nodes[0].executed);
    let late = c.submit(0, "late");
    c.run_for(5_000);
    assert!((0..4).all(|node| !c.has(node, &late)), "payload after the stop");
    assert!(c.status(0).round > rounds + 5, "the DAG goes on");
    assert_eq!(c.nodes[0].executed, executed);
}

/// A machine with three peers that only hear themselves through it.
struct Alone {
    config: Config,
    machine: Machine,
    now: u64,
}

impl Alone {
    fn new() -> Self {
        let config = Config::new(h("chain", b"test"), h("seed", b"test"), vec![1; 4], Some(0));
        let (machine, _) = Machine::new(config.clone(), Now { mono_ms: 0, wall_ms: 10_000 }).expect("valid");
        Self { config, machine, now: 0 }
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        self.now += 1;
        self.machine.step(Now { mono_ms: self.now, wall_ms: 10_000 + self.now }, event)
    }

    /// A block of round 1 that attests; its time makes it another version of its slot.
    fn attests(&mut self, author: AuthorIdx, version: u64, attestation: CkptRef) -> Vec<Effect> {
        let genesis = genesis_of(&self.config);
        let mut parents = vec![genesis[usize::from(author)]];
        parents.extend(genesis.iter().filter(|parent| parent.author != author));
        let mut block = sealed_block(&self.config, 1, author, parents, Vec::<BatchRef>::new());
        block.core.attestation = attestation;
        block.core.timestamp_ms += version;
        let bytes = encode_block(&reseal(block).encode());
        let mut effects = self.step(Event::Received { peer: author, bytes });
        let ticket = effects.iter().find_map(|effect| match effect {
            Effect::VerifySig { ticket, .. } => Some(*ticket),
            _ => None,
        });
        if let Some(ticket) = ticket {
            effects.extend(self.step(Event::SigChecked { ticket, ok: true }));
        }
        effects
    }

    fn executed(&mut self, checkpoint: CkptRef) -> Vec<Effect> {
        self.step(Event::Executed { commit_index: 0, checkpoint: Some(checkpoint) })
    }

    fn status(&self) -> Status {
        self.machine.status()
    }
}

fn ckpt(seq: u64, name: &str) -> CkptRef {
    CkptRef { seq, digest: h("ckpt", name.as_bytes()) }
}

#[test]
fn a_later_attestation_on_the_own_chain_certifies_what_comes_before() {
    let mut alone = Alone::new();
    alone.executed(ckpt(1, "one"));
    assert!(alone.attests(1, 0, ckpt(1, "one")).iter().all(|effect| !matches!(effect, Effect::Certified(_))));
    alone.attests(2, 0, ckpt(3, "three"));
    alone.attests(3, 0, ckpt(3, "three"));
    assert_eq!(alone.status().certified, None, "checkpoint 3 is not this node's own yet");
    alone.executed(ckpt(2, "two"));
    let effects = alone.executed(ckpt(3, "three"));
    let made = effects.iter().filter_map(|effect| match effect {
        Effect::Certified(certificate) => Some((certificate.checkpoint.seq, certificate.newest_attested())),
        _ => None,
    });
    assert_eq!(made.collect::<Vec<_>>(), [(1, 3)]);
    let certified = Certified { checkpoint: ckpt(1, "one"), stake: 3 };
    assert_eq!(alone.status().certified, Some(certified));
}

#[test]
fn a_validator_that_attests_two_digests_for_a_checkpoint_is_accused_once() {
    let mut alone = Alone::new();
    alone.attests(2, 0, ckpt(1, "one"));
    let effects = alone.attests(2, 1, ckpt(1, "another"));
    let evidence: Vec<&Evidence> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Evidence(evidence) => Some(&**evidence),
            _ => None,
        })
        .collect();
    let of_kind: Vec<_> = evidence.iter().filter(|it| it.kind == EvidenceKind::ConflictingAttestation).collect();
    assert_eq!(of_kind.len(), 1, "{evidence:?}");
    assert!(of_kind[0].is_well_formed());
    let effects = alone.attests(2, 2, ckpt(1, "a third"));
    assert!(effects.iter().all(|effect| !matches!(effect, Effect::Evidence(_))));
}

#[test]
fn a_wrong_attestation_told_of_silences_no_conflicting_one() {
    let mut alone = Alone::new();
    alone.executed(ckpt(1, "one"));
    alone.executed(ckpt(2, "two"));
    for author in 1..4 {
        alone.attests(author, 0, ckpt(2, "two"));
    }
    assert_eq!(alone.status().certified.map(|certified| certified.checkpoint.seq), Some(2));
    alone.machine.note_attestation_of(3, ckpt(1, "wrong"));
    alone.machine.note_attestation_of(3, ckpt(2, "wrong, too"));
    let effects = alone.step(Event::Tick);
    let wrong = |effect: &&Effect| matches!(effect, Effect::Alarm(Alarm::WrongAttestation { author: 3, .. }));
    assert_eq!(effects.iter().filter(wrong).count(), 1);
    let conflict =
        |effect: &&Effect| matches!(effect, Effect::Evidence(it) if it.kind == EvidenceKind::ConflictingAttestation);
    assert_eq!(effects.iter().filter(conflict).count(), 1);
}

#[test]
fn one_liar_stops_nobody_and_fills_its_own_places_only() {
    let mut alone = Alone::new();
    alone.executed(ckpt(1, "one"));
    for seq in 1..=2 * WINDOW as u64 {
        alone.machine.note_attestation_of(3, ckpt(u64::MAX - seq, "far"));
    }
    alone.attests(1, 0, ckpt(1, "one"));
    alone.attests(2, 0, ckpt(1, "wrong"));
    assert_eq!((alone.status().divergence, alone.status().certified), (None, None));
    assert!(alone.machine.checkpoints().attestations() <= 2 + WINDOW);
}

#[test]
fn a_divergence_survives_its_encoding_and_a_restart() {
    let (own, other) = (Some(h("own", &[])), h("other", &[]));
    let divergence = Divergence { seq: 9, own, other, stake: 3, network_wide: false };
    for divergence in [divergence, Divergence { own: None, network_wide: true, ..divergence }] {
        let bytes = divergence.encode();
        assert_eq!(Divergence::decode(&bytes), Ok(divergence));
        assert!((0..bytes.len()).all(|cut| Divergence::decode(&bytes[..cut]).is_err()));
    }
    let mut alone = Alone::new();
    let certified = Certified { checkpoint: ckpt(8, "eight"), stake: 3 };
    alone.machine.resume_checkpoints(Some(certified), Some(divergence));
    alone.executed(ckpt(10, "ten"));
    let status = alone.status();
    assert_eq!((status.certified, status.divergence), (Some(certified), Some(divergence)));
    assert_eq!(status.checkpoint, CkptRef { seq: 0, digest: Hash::ZERO }, "nothing new is attested");
}
