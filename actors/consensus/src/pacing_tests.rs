//! When one machine proposes: leader wait, certificate wait, fill blocks, idle and busy, the probe before the first
//! signature, and the order of sign, sync and send.

use std::collections::BTreeMap;

use aurigraph_ledger::hash::{Hash, h};

use crate::block::{Block, BlockCore};
use crate::cluster::stub_signature;
use crate::config::Config;
use crate::event::{Effect, Event};
use crate::machine::Machine;
use crate::message::{Message, encode_block};
use crate::record::Record;
use crate::status::Mode;
use crate::testing::{genesis_of, sealed_block};
use crate::types::{AuthorIdx, BatchRef, BlockRef, Now, TimeMs};

/// Machine 0 of four; validator 3 leads round 1 and validator 1 leads round 2.
struct Lone {
    config: Config,
    machine: Machine,
    now: Now,
    /// What it has asked to sign, by round.
    signed: BTreeMap<u32, BlockCore>,
    /// Answer `Sign` and `Append` at once.
    answer: bool,
    log: Vec<String>,
}

impl Lone {
    fn new() -> Self {
        let config = (0..=255_u8)
            .map(|k| Config::new(h("chain", b"test"), h("seed", &[k]), vec![1; 4], Some(0)))
            .find(|config| {
                let (machine, _) = Machine::new(config.clone(), Now::default()).expect("valid");
                machine.leaders(1) == [3] && machine.leaders(2) == [1]
            })
            .expect("some seed has these leaders");
        let now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
        let (machine, effects) = Machine::new(config.clone(), now).expect("valid");
        let mut lone = Self { config, machine, now, signed: BTreeMap::new(), answer: true, log: Vec::new() };
        lone.execute(effects);
        lone
    }

    /// With all links up and all probes answered.
    fn ready() -> Self {
        let mut lone = Self::new();
        (1..4).for_each(|peer| lone.event(Event::PeerUp { peer }));
        lone
    }

    fn event(&mut self, event: Event) {
        let effects = self.machine.step(self.now, event);
        self.execute(effects);
    }

    fn execute(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::VerifySig { ticket, .. } => self.event(Event::SigChecked { ticket, ok: true }),
                Effect::Sign { ticket, core } => {
                    self.log.push(format!("sign {}", core.round));
                    let signature = stub_signature(0, &core.digest());
                    self.signed.insert(core.round, *core);
                    if self.answer {
                        self.event(Event::Signed { ticket, signature });
                    }
                }
                Effect::Append { lsn, need_fsync: true, record: Record::OwnBlock(_) } => {
                    self.log.push(format!("append {lsn}"));
                    if self.answer {
                        self.event(Event::Durable { lsn });
                    }
                }
                Effect::Broadcast { block, .. } => self.log.push(format!("send {}", block.round)),
                Effect::Send { to, bytes, .. } => {
                    if let Ok(Message::ProbeRequest { epoch, nonce }) = Message::decode(&bytes)
                        && self.answer
                    {
                        let reply = Message::ProbeReply { epoch, nonce, commit_index: 0, round: Some(1), newest: None };
                        self.event(Event::Received { peer: to, bytes: reply.encode() });
                    }
                }
                _ => {}
            }
        }
    }

    fn wait(&mut self, ms: TimeMs) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        self.event(Event::Tick);
    }

    fn own(&self, round: u32) -> BlockRef {
        self.signed[&round].reference()
    }

    /// A block of another validator arrives.
    fn feed(&mut self, round: u32, author: AuthorIdx, own: BlockRef, others: &[BlockRef]) -> BlockRef {
        let mut others: Vec<BlockRef> = others.iter().copied().filter(|p| p.author != author).collect();
        others.sort_by_key(|p| p.author);
        let parents = [own].into_iter().chain(others).collect();
        let block: Block = sealed_block(&self.config, round, author, parents, vec![]);
        self.event(Event::Received { peer: author, bytes: encode_block(&block.encode()) });
        block.reference()
    }

    fn genesis_block(&mut self, author: AuthorIdx) -> BlockRef {
        let genesis = genesis_of(&self.config);
        self.feed(1, author, genesis[usize::from(author)], &genesis)
    }

    fn seal(&mut self, k: u8) {
        self.event(Event::BatchSealed { batch: BatchRef { digest: Hash([k; 32]), len: 10, tx_count: 1 } });
    }
}

#[test]
fn nothing_is_signed_before_enough_others_have_answered_the_probe() {
    let mut lone = Lone::new();
    lone.answer = false;
    (1..4).for_each(|peer| lone.event(Event::PeerUp { peer }));
    lone.wait(10_000);
    assert_eq!(lone.machine.mode(), Mode::Probing);
    lone.answer = true;
    lone.event(Event::PeerDown { peer: 3 });
    lone.event(Event::PeerDown { peer: 2 });
    lone.wait(2_000);
    assert!(lone.signed.is_empty(), "one answer is not enough");
    lone.event(Event::PeerUp { peer: 2 });
    assert_eq!(lone.signed.keys().copied().collect::<Vec<_>>(), [1], "two others and itself are a quorum");
}

#[test]
fn a_block_is_sent_only_after_its_record_is_durable() {
    let mut lone = Lone::new();
    (1..4).for_each(|peer| lone.event(Event::PeerUp { peer }));
    assert_eq!(lone.log, ["sign 1", "append 2", "send 1"]);
    let mut lone = Lone::new();
    lone.event(Event::PeerUp { peer: 1 });
    lone.answer = false;
    lone.machine.probe = crate::probe::Probe::default();
    lone.event(Event::PeerUp { peer: 2 });
    let signature = stub_signature(0, &lone.signed[&1].digest());
    let effects =
        (1..20).flat_map(|ticket| lone.machine.step(lone.now, Event::Signed { ticket, signature: signature.clone() }));
    let effects: Vec<Effect> = effects.collect();
    assert!(effects.iter().any(|e| matches!(e, Effect::Append { need_fsync: true, .. })));
    assert!(!effects.iter().any(|e| matches!(e, Effect::Broadcast { .. })), "not before the sync");
    assert_eq!(lone.machine.status().blocks, 0, "nor does it count for the own clock");
    let effects = lone.machine.step(lone.now, Event::Durable { lsn: 2 });
    assert!(effects.iter().any(|e| matches!(e, Effect::Broadcast { .. })));
    assert_eq!(lone.machine.status().blocks, 1);
}

#[test]
fn a_round_waits_for_its_leader_until_the_timeout() {
    let mut lone = Lone::ready();
    lone.seal(1);
    lone.genesis_block(1);
    lone.genesis_block(2);
    lone.wait(60);
    assert_eq!(lone.machine.status().round, 2);
    assert!(!lone.signed.contains_key(&2), "the leader of round 1 is missing");
    lone.genesis_block(3);
    assert!(lone.signed.contains_key(&2), "the leader is here");

    let mut lone = Lone::ready();
    lone.seal(1);
    lone.genesis_block(1);
    lone.genesis_block(2);
    lone.wait(299);
    assert!(!lone.signed.contains_key(&2));
    lone.wait(1);
    assert!(lone.signed.contains_key(&2), "the time-out has expired");
    assert_eq!(lone.machine.status().counters.leader_timeouts, 1);
}

/// Rounds 1 and 2 with all leaders present; `voters` of 1, 2, 3 list the leader of round 1 in round 2.
fn second_round(lone: &mut Lone, present: &[AuthorIdx], voters: &[AuthorIdx]) -> Vec<BlockRef> {
    let mut first = vec![lone.own(1)];
    first.extend((1..4).map(|author| lone.genesis_block(author)));
    lone.seal(1);
    lone.wait(60);
    assert!(lone.signed.contains_key(&2));
    let mut second = vec![lone.own(2)];
    for author in present {
        let parents: Vec<BlockRef> =
            first.iter().copied().filter(|p| p.author != 3 || voters.contains(author)).collect();
        second.push(lone.feed(2, *author, first[usize::from(*author)], &parents));
    }
    second
}

#[test]
fn a_round_waits_while_its_block_may_still_become_a_certificate() {
    let mut lone = Lone::ready();
    let first = second_round(&mut lone, &[1, 2], &[1]);
    lone.wait(60);
    assert_eq!((lone.machine.status().round, lone.signed.contains_key(&3)), (3, false), "two of three votes");
    let _ = first;
    let mut lone = Lone::ready();
    second_round(&mut lone, &[1, 2, 3], &[1, 3]);
    lone.wait(60);
    assert!(lone.signed.contains_key(&3), "the third vote is here");
}

#[test]
fn a_round_does_not_wait_for_a_certificate_that_cannot_come() {
    let mut lone = Lone::ready();
    second_round(&mut lone, &[1, 2], &[]);
    lone.wait(60);
    assert!(lone.signed.contains_key(&3), "two blocks without the vote: no quorum is left");
}

#[test]
fn rounds_behind_the_clock_are_filled_one_by_one_without_waiting() {
    let mut lone = Lone::new();
    lone.answer = false;
    (1..4).for_each(|peer| lone.event(Event::PeerUp { peer }));
    let mut previous: Vec<BlockRef> = (1..4).map(|author| lone.genesis_block(author)).collect();
    for round in 2..=9 {
        let parents = previous.clone();
        previous = (1..4).map(|a| lone.feed(round, a, parents[usize::from(a) - 1], &parents)).collect();
    }
    (1..5).for_each(|k| lone.seal(k));
    assert!(lone.signed.is_empty());
    lone.answer = true;
    lone.wait(2_000);
    assert_eq!(lone.signed.keys().copied().collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    let empty = crate::block::payload_root(&[]);
    assert!((2..9).all(|round| lone.signed[&round].payload_root == empty), "fill blocks are empty");
    assert!(lone.signed.values().any(|core| core.payload_root != empty));
}

#[test]
fn an_idle_validator_wakes_up_for_a_batch() {
    let mut lone = Lone::ready();
    (1..4).for_each(|author| {
        lone.genesis_block(author);
    });
    lone.wait(400);
    assert!(!lone.signed.contains_key(&2), "idle: half a second between blocks");
    lone.seal(1);
    assert!(lone.signed.contains_key(&2), "at once");
    let mut lone = Lone::ready();
    (1..4).for_each(|author| {
        lone.genesis_block(author);
    });
    lone.wait(499);
    assert!(!lone.signed.contains_key(&2));
    lone.wait(1);
    assert!(lone.signed.contains_key(&2));
}

#[test]
fn a_failed_signer_is_asked_again_for_the_same_core() {
    let mut lone = Lone::new();
    (1..4).for_each(|peer| {
        lone.answer = peer < 3;
        lone.event(Event::PeerUp { peer });
    });
    let before = lone.log.iter().filter(|line| line.starts_with("sign")).count();
    assert_eq!(before, 1);
    let mut lone = Lone::new();
    lone.machine.probe = crate::probe::Probe::default();
    lone.answer = false;
    (1..3).for_each(|peer| lone.event(Event::PeerUp { peer }));
    let core = lone.signed[&1].clone();
    (1..20).for_each(|ticket| lone.event(Event::SignFailed { ticket }));
    lone.signed.clear();
    lone.wait(199);
    assert!(lone.signed.is_empty());
    lone.wait(1);
    assert_eq!(lone.signed.get(&1), Some(&core));
}
