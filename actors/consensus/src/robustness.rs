//! No event, however wrong, makes a machine panic; and limits hold under floods.

use aurigraph_ledger::hash::{Hash, h};

use crate::block::Block;
use crate::cluster::{Cluster, stub_signature};
use crate::config::Config;
use crate::event::{Alarm, Effect, Event, HaltReason, Offence};
use crate::machine::{Machine, Recovery};
use crate::message::{Message, encode_block};
use crate::record::Record;
use crate::status::Mode;
use crate::testing::{Rng, genesis_of, no_signature, reseal, sealed_block};
use crate::types::{BatchRef, BlockRef, CkptRef, Now, Round};

fn config() -> Config {
    Config::new(h("chain", b"test"), h("seed", b"test"), vec![1; 4], Some(0))
}

/// Any event, with values from the edges and from the run so far.
fn random_event(rng: &mut Rng, seen: &[Vec<u8>]) -> Event {
    let edge = |rng: &mut Rng| [0, 1, 2, 3, 7, 200, u64::MAX][rng.below(7)];
    let digest = h("d", &rng.next().to_le_bytes()[..1]);
    match rng.below(13) {
        0..=5 => {
            let peer = u16::try_from(rng.below(6)).expect("few");
            let mut bytes = seen.get(rng.below(seen.len())).cloned().unwrap_or_default();
            for _ in 0..rng.below(3) {
                if !bytes.is_empty() {
                    let at = rng.below(bytes.len().min(400));
                    bytes[at] = u8::try_from(rng.next() % 256).expect("a byte");
                }
            }
            if rng.chance(10) {
                bytes.truncate(rng.below(bytes.len() + 1));
            }
            Event::Received { peer, bytes }
        }
        6 => Event::SigChecked { ticket: edge(rng), ok: rng.chance(50) },
        7 => Event::Signed { ticket: edge(rng), signature: no_signature() },
        8 => Event::Durable { lsn: edge(rng) },
        9 => Event::BatchSealed { batch: BatchRef { digest, len: 9, tx_count: 1 } },
        10 => Event::BatchStored { digest, len: u32::try_from(rng.below(20)).expect("small") },
        11 => Event::Executed { commit_index: edge(rng), checkpoint: Some(CkptRef { seq: edge(rng), digest }) },
        _ => [
            Event::PeerUp { peer: u16::try_from(rng.below(9)).expect("few") },
            Event::PeerDown { peer: u16::MAX },
            Event::Tick,
            Event::BatchFetchFailed { digest },
            Event::SignFailed { ticket: edge(rng) },
            Event::FetchesLost,
        ][rng.below(6)]
        .clone(),
    }
}

#[test]
fn arbitrary_events_never_panic() {
    let mut c = Cluster::new(&[1; 4], 21);
    c.record_traffic = true;
    c.start_all();
    for i in 0..20 {
        c.submit(i % 4, &format!("{i}"));
        c.run_for(100);
    }
    let seen = std::mem::take(&mut c.traffic);
    assert!(seen.len() > 100);
    for seed in 0..60 {
        let mut rng = Rng(seed);
        let mut now = Now { mono_ms: 1_000, wall_ms: 1_700_000_002_000 };
        let (mut machine, _) = Machine::new(config(), now).expect("valid");
        let mut answers: Vec<Event> = Vec::new();
        for _ in 0..600 {
            let event = if !answers.is_empty() && rng.chance(70) {
                answers.swap_remove(rng.below(answers.len()))
            } else {
                random_event(&mut rng, &seen)
            };
            now.mono_ms = now.mono_ms.wrapping_add([0, 1, 30, 600][rng.below(4)]);
            now.wall_ms = if rng.chance(2) { [0, u64::MAX][rng.below(2)] } else { now.wall_ms.wrapping_add(1) };
            for effect in machine.step(now, event) {
                match effect {
                    Effect::VerifySig { ticket, author, digest, signature, .. } => {
                        let ok = signature == stub_signature(author, &digest) || rng.chance(5);
                        answers.push(Event::SigChecked { ticket, ok });
                    }
                    Effect::Sign { ticket, core } => {
                        let signature = stub_signature(0, &core.digest());
                        answers.push(Event::Signed { ticket, signature });
                    }
                    Effect::Append { lsn, need_fsync: true, .. } => answers.push(Event::Durable { lsn }),
                    Effect::Append { record, .. } => {
                        assert_eq!(Record::decode(&record.encode()).as_ref(), Ok(&record));
                    }
                    Effect::FetchBatches { batches, .. } => {
                        let stored = |b: &BatchRef| Event::BatchStored { digest: b.digest, len: b.len };
                        answers.extend(batches.iter().map(stored));
                    }
                    _ => {}
                }
            }
            let _ = (machine.status(), machine.snapshot());
        }
    }
}

#[test]
fn arbitrary_records_never_panic_a_recovery() {
    let mut c = Cluster::new(&[1; 4], 22);
    c.start_all();
    c.run_for(4_000);
    let log = c.nodes[0].log.clone();
    for seed in 0..40 {
        let mut rng = Rng(seed);
        let mut records: Vec<Record> = Vec::new();
        for bytes in &log {
            let mut bytes = bytes.clone();
            if rng.chance(3) {
                let at = rng.below(bytes.len().min(300));
                bytes[at] ^= 1 << rng.below(8);
            }
            if !rng.chance(3) {
                records.extend(Record::decode(&bytes));
            }
        }
        if rng.chance(50) {
            let at = rng.below(records.len());
            records.rotate_left(at);
        }
        let now = Now { mono_ms: 5, wall_ms: 1_700_000_100_000 };
        if let Ok((mut machine, _)) = Machine::recover(c.config_of(0), now, Recovery::default(), records) {
            machine.step(now, Event::Tick);
        }
    }
}

/// Pushes a block to a machine and answers its signature check.
fn push(machine: &mut Machine, now: Now, block: &Block) -> Vec<Effect> {
    let bytes = encode_block(&block.encode());
    let mut effects = machine.step(now, Event::Received { peer: block.core.author, bytes });
    let tickets: Vec<u64> = effects
        .iter()
        .filter_map(|e| if let Effect::VerifySig { ticket, .. } = e { Some(*ticket) } else { None })
        .collect();
    for ticket in tickets {
        effects.extend(machine.step(now, Event::SigChecked { ticket, ok: true }));
    }
    effects
}

fn invented(round: Round, author: u16, salt: u64) -> BlockRef {
    BlockRef {
        round,
        author,
        digest: h("invented", &[author.to_le_bytes().to_vec(), salt.to_le_bytes().to_vec()].concat()),
    }
}

/// Rounds as far ahead as is let in, again and again: the work is bounded by the quota, not by the peer.
#[test]
fn a_peer_that_pushes_at_line_rate_has_no_more_checked_than_its_quota() {
    let config = config();
    let mut now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
    let (mut machine, _) = Machine::new(config.clone(), now).expect("valid");
    let mut charged = 0_u64;
    for salt in 0..2_000_u64 {
        now.mono_ms += 1;
        let round = 2 + u32::try_from(salt % 100).expect("small");
        let parents = [3, 0, 1, 2].map(|author| invented(round - 1, author, salt)).to_vec();
        let effects = push(&mut machine, now, &sealed_block(&config, round, 3, parents, vec![]));
        let over = |effect: &&Effect| matches!(effect, Effect::Charge { peer: 3, offence: Offence::Quota });
        charged += effects.iter().filter(over).count() as u64;
    }
    let checked = machine.status().counters.signatures_checked;
    let quota = u64::from(config.limits.pushed_burst + 2 * config.limits.pushed_per_second);
    assert!(checked <= quota + 1 && charged > 100, "{checked} checked, {charged} charged");
    // Another peer's block is checked at once.
    let mut parents = genesis_of(&config);
    parents.swap(0, 1);
    push(&mut machine, now, &sealed_block(&config, 1, 1, parents, vec![]));
    assert_eq!((machine.status().counters.signatures_checked, machine.status().blocks), (checked + 1, 1));
}

#[test]
fn a_flood_of_blocks_with_invented_parents_stays_within_the_limits() {
    let mut config = config();
    // The bounds of memory are to be met, not that of work.
    config.limits.pushed_burst = u32::MAX;
    let now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
    let (mut machine, _) = Machine::new(config.clone(), now).expect("valid");
    for salt in 0..3_000_u64 {
        let round = 2 + u32::try_from(salt % 400).expect("small");
        let parents = [3, 0, 1, 2].map(|author| invented(round - 1, author, salt)).to_vec();
        push(&mut machine, now, &sealed_block(&config, round, 3, parents, vec![]));
    }
    let status = machine.status();
    assert!(status.suspended <= config.limits.suspended_per_author, "{} suspended", status.suspended);
    assert!(status.wanted <= config.limits.want_blocks, "{} wanted", status.wanted);
    assert_eq!(status.round, 1, "nothing was accepted");
    let genesis = genesis_of(&config);
    for author in 1..4_u16 {
        let mut parents = genesis.clone();
        let own = parents.remove(usize::from(author));
        parents.insert(0, own);
        push(&mut machine, now, &sealed_block(&config, 1, author, parents, vec![]));
    }
    assert_eq!(machine.status().round, 2, "honest blocks still come in");
}

#[test]
fn a_corrupted_signature_does_not_poison_the_block() {
    let config = config();
    let now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
    let (mut machine, _) = Machine::new(config.clone(), now).expect("valid");
    let mut parents = genesis_of(&config);
    parents.swap(0, 1);
    let block = sealed_block(&config, 1, 1, parents, vec![]);
    let bytes = encode_block(&block.encode());
    let check = |machine: &mut Machine, ok: bool| {
        let effects = machine.step(now, Event::Received { peer: 1, bytes: bytes.clone() });
        let ticket =
            effects.iter().find_map(|e| if let Effect::VerifySig { ticket, .. } = e { Some(*ticket) } else { None });
        machine.step(now, Event::SigChecked { ticket: ticket.expect("is checked"), ok });
        machine.status().blocks
    };
    assert_eq!(check(&mut machine, false), 0);
    assert_eq!(check(&mut machine, true), 1);
}

#[test]
fn a_block_waits_for_its_batches_and_asks_for_them() {
    let config = config();
    let mut now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
    let (mut machine, _) = Machine::new(config.clone(), now).expect("valid");
    let mut parents = genesis_of(&config);
    parents.swap(0, 2);
    parents[1..].sort_by_key(|p| p.author);
    let batch = BatchRef { digest: Hash([8; 32]), len: 77, tx_count: 2 };
    push(&mut machine, now, &sealed_block(&config, 1, 2, parents, vec![batch]));
    assert_eq!((machine.status().blocks, machine.status().suspended, machine.status().wanted_batches), (0, 1, 1));
    now.mono_ms += 100;
    let effects = machine.step(now, Event::Tick);
    let asked = effects.iter().find_map(|e| {
        if let Effect::FetchBatches { batches, candidates } = e {
            Some((batches.clone(), candidates.clone()))
        } else {
            None
        }
    });
    assert_eq!(asked, Some((vec![batch], vec![2])));
    machine.step(now, Event::BatchStored { digest: batch.digest, len: 76 });
    assert_eq!(machine.status().blocks, 0, "another body");
    machine.step(now, Event::BatchStored { digest: batch.digest, len: 77 });
    assert_eq!((machine.status().blocks, machine.status().suspended), (0, 1), "one digest has one body");
}

#[test]
fn a_block_from_the_future_is_held_back_and_a_bad_one_is_charged() {
    let config = config();
    let mut now = Now { mono_ms: 1_000, wall_ms: 10_000 };
    let (mut machine, _) = Machine::new(config.clone(), now).expect("valid");
    let mut parents = genesis_of(&config);
    parents.swap(0, 1);
    let mut block = sealed_block(&config, 1, 1, parents, vec![]);
    block.core.timestamp_ms = 15_000;
    push(&mut machine, now, &reseal(block.clone()));
    assert_eq!(machine.status().blocks, 0);
    now.wall_ms = 14_000;
    machine.step(now, Event::Tick);
    assert_eq!(machine.status().blocks, 1);

    block.core.author = 3;
    let effects = push(&mut machine, now, &block);
    assert!(matches!(effects[..], [Effect::Charge { peer: 3, .. }]), "{effects:?}");
    let effects = machine.step(now, Event::Received { peer: 2, bytes: encode_block(&reseal(block).encode()) });
    assert!(matches!(effects[..], [Effect::Charge { peer: 2, .. }]), "pushed for another author: {effects:?}");
}

#[test]
fn requests_are_answered_within_the_frame_of_the_control_lane() {
    let mut c = Cluster::new(&[1; 4], 23);
    c.start_all();
    for i in 0..40 {
        c.submit(i % 4, &format!("{i}"));
        c.run_for(60);
    }
    let now = Now { mono_ms: c.time, wall_ms: 1_700_000_000_000 + c.time };
    let machine = c.nodes[0].machine.as_mut().expect("up");
    let refs: Vec<BlockRef> = machine.blocks().map(|(r, _)| r).collect();
    let newest = *refs.last().expect("has blocks");
    let request = Message::FetchRequest { epoch: 0, request: 5, ancestors_above: 0, refs: vec![newest] };
    let effects = machine.step(now, Event::Received { peer: 1, bytes: request.encode() });
    let sent =
        effects.iter().find_map(|e| if let Effect::Send { to: 1, bytes, .. } = e { Some(bytes.clone()) } else { None });
    let sent = sent.expect("answers");
    assert!(sent.len() <= 256 * 1024);
    let Ok(Message::FetchReply { request: 5, blocks, .. }) = Message::decode(&sent) else { panic!("no reply") };
    assert!(blocks.len() > 20, "ancestors come along: {}", blocks.len());
}

#[test]
fn validators_that_vote_for_another_chain_raise_an_alarm_and_then_stop_this_one() {
    let config = config();
    let now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
    let (mut machine, _) = Machine::new(config.clone(), now).expect("valid");
    let genesis = genesis_of(&config);
    let block = |author: u16| {
        let mut parents = genesis.clone();
        let own = parents.remove(usize::from(author));
        parents.insert(0, own);
        let mut block = sealed_block(&config, 1, author, parents, vec![]);
        block.core.commit_vote.digest = Hash([9; 32]);
        reseal(block)
    };
    let effects = push(&mut machine, now, &block(1));
    assert!(effects.iter().any(|e| matches!(e, Effect::Alarm(Alarm::CommitVoteDiffers { author: 1, .. }))));
    assert!(!effects.iter().any(|e| matches!(e, Effect::Halt(_))), "one may be faulty");
    let effects = push(&mut machine, now, &block(2));
    let halt = effects.iter().find_map(|e| if let Effect::Halt(reason) = e { Some(reason.clone()) } else { None });
    assert!(matches!(halt.as_deref(), Some(HaltReason::CommitDiffers { voters, .. }) if *voters == [1, 2]), "{halt:?}");
    assert_eq!(machine.mode(), Mode::Halted);
    assert!(push(&mut machine, now, &block(3)).is_empty(), "a halted machine does nothing");
}

/// The block was pushed and is from the far future; while its signature is checked another block comes that needs it, and
/// takes it for being on its way. Held back for ever, it would keep that one and all after it waiting for ever.
#[test]
fn a_block_from_the_future_that_is_needed_while_its_signature_is_checked_is_not_held_back() {
    let now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
    let (mut machine, _) = Machine::new(config(), now).expect("valid");
    let genesis = |author: usize| {
        let mut parents = genesis_of(&config());
        parents[..=author].rotate_right(1);
        parents
    };
    let first = |author: u16| sealed_block(&config(), 1, author, genesis(usize::from(author)), vec![]);
    let mut late = first(2);
    late.core.timestamp_ms = u64::MAX;
    let late = reseal(late);
    let refs = [first(1).reference(), late.reference(), first(3).reference()];
    let child = sealed_block(&config(), 2, 1, refs.to_vec(), vec![]);
    let mut push = |block: &Block| {
        let bytes = encode_block(&block.encode()).clone();
        let effects = machine.step(now, Event::Received { peer: block.core.author, bytes });
        let ticket = effects.iter().find_map(|effect| match effect {
            Effect::VerifySig { ticket, .. } => Some(*ticket),
            _ => None,
        });
        ticket.expect("a check")
    };
    let tickets = [&first(1), &first(3), &late, &child].map(&mut push);
    for at in [0, 1, 3, 2] {
        machine.step(now, Event::SigChecked { ticket: tickets[at], ok: true });
    }
    assert!(machine.store.contains(&child.reference()), "{:?}", machine.status());
}
