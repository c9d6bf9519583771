//! Wire and log forms: decoding then encoding is the identity, other bytes are refused, and the bytes never change
//! between versions of this program.

use aurigraph_ledger::hash::{Hash, h};

use crate::agreement::{Agreement, Attested};
use crate::anchor::{Anchor, OrderState};
use crate::block::{Block, BlockCore, Evidence, EvidenceKind};
use crate::commit::{Commit, CommitHeader, CommittedBlock, FaultKind, ProvenFault, blocks_root};
use crate::config::{CORE_LEN, Config, EARLIER_EVIDENCE, MAX_BLOCK_BYTES, MAX_RANGE_BLOCK_BYTES, SIGNED_CORE_LEN};
use crate::epoch::{EpochBase, EpochCert, EpochEnd, EpochStart, EpochTally};
use crate::message::{CommitRange, Message, RoundProof};
use crate::record::Record;
use crate::reputation::{Reputation, Table};
use crate::snapshot::{ConsensusSnapshot, EvidenceState};
use crate::testing::{Rng, genesis_of, reseal, sealed_block};
use crate::types::{BatchRef, BlockRef, CkptRef, CommitRef, LeaderSlot, SIGNATURE_LEN, Slot};

fn config() -> Config {
    Config::new(Hash([1; 32]), Hash([2; 32]), vec![1; 4], None)
}

fn parent(round: u32, author: u16) -> BlockRef {
    BlockRef { round, author, digest: h("parent", &[u8::try_from(author).expect("few")]) }
}

fn block() -> Block {
    let parents = vec![parent(8, 1), parent(8, 0), parent(8, 2), parent(4, 3)];
    let batches = (0..3).map(|i| BatchRef { digest: Hash([i; 32]), len: 100 + u32::from(i), tx_count: 3 }).collect();
    let block = sealed_block(&config(), 9, 1, parents, batches);
    let mut twin = block.clone();
    twin.core.timestamp_ms += 1;
    let mut with = block.clone();
    with.extras.evidence = vec![Evidence::equivocation(block.signed_core(), reseal(twin).signed_core())];
    reseal(with)
}

fn commit() -> Commit {
    let blocks: Vec<CommittedBlock> = [parent(7, 1), parent(8, 0)]
        .into_iter()
        .map(|block| CommittedBlock { block, batches: vec![BatchRef { digest: Hash([7; 32]), len: 5, tx_count: 1 }] })
        .collect();
    let header = CommitHeader {
        epoch: 0,
        index: 5,
        prev_digest: Hash([4; 32]),
        timestamp_ms: 77,
        leader: parent(8, 0),
        blocks_root: blocks_root(blocks.iter().map(|b| &b.block)),
        block_count: 2,
        gc_round: 3,
        schedule_digest: Hash([6; 32]),
        last_decided: LeaderSlot { round: 8, offset: 0, author: 0 },
    };
    let fault = |author, kind| ProvenFault { epoch: 7, author, kind, reporter: 2, digest: Hash([5; 32]) };
    let faults = vec![
        ProvenFault { epoch: 6, ..fault(1, FaultKind::Equivocation) },
        fault(1, FaultKind::Equivocation),
        fault(1, FaultKind::ConflictingCommitVote),
        fault(3, FaultKind::Downtime),
        fault(0, FaultKind::WrongAttestation),
    ];
    let epoch_end = Some(EpochEnd { delivered: vec![5, 0, 1 << 40, 2], version: 2 });
    Commit { header, blocks, epoch_end, faults, state_digest: Hash([6; 32]) }
}

fn snapshot() -> ConsensusSnapshot {
    ConsensusSnapshot {
        chain_id: Hash([1; 32]),
        epoch: 0,
        last_commit: Some(commit().header),
        gc_round: 3,
        last_decided: LeaderSlot { round: 9, offset: 0, author: 2 },
        committed: [parent(7, 1), parent(8, 0)].into(),
        slots: [(Slot { round: 7, author: 1 }, Hash([3; 32]))].into(),
        delivered: [(Hash([7; 32]), 8)].into(),
        own_last: Some(parent(10, 2)),
        floor: 4,
        highest_round: 11,
        reputation: Reputation {
            tables: vec![Table::default(), Table { from_round: 5, bad: [2].into(), good: vec![0, 1] }],
            scores: vec![7, 3, 0],
            missed: vec![0, 1, 9],
            authored: vec![40, 41, 3],
            window_round: 2,
            absent: vec![0, 0, 2],
            equivocators: [1].into(),
            leaders: [BlockRef { round: 4, author: 1, digest: Hash([9; 32]) }].into(),
        },
        tally: EpochTally {
            first_ms: Some(12),
            delivered: vec![3, 0, 9],
            supports: vec![(7, 1), (0, 0), (8, 2)],
            end: Some(EpochEnd { delivered: vec![3, 0, 9], version: 1 }),
        },
        proven: [(0, 3, EvidenceKind::Equivocation), (1, 0, EvidenceKind::ConflictingAttestation)].into(),
        agreement: Agreement {
            attested: [
                (0, Attested { highest: 9, open: [(8, Hash([1; 32])), (8, Hash([2; 32]))].into() }),
                (2, Attested { highest: u64::MAX, ..Attested::default() }),
            ]
            .into(),
            agreed: [(6, Hash([3; 32])), (7, Hash([4; 32]))].into(),
            wrong: [2, 3].into(),
        },
        evidence: EvidenceState {
            pending: block().extras.evidence,
            included: [((0, 1, EvidenceKind::Equivocation), 8)].into(),
            verdicts: [(Hash([2; 32]), (8, true)), (Hash([3; 32]), (7, false))].into(),
        },
        anchor: Anchor { index: 4, digest: Hash([8; 32]) },
    }
}

/// The order's state in an epoch of this protocol version.
fn order_state(version: u16) -> OrderState {
    let ConsensusSnapshot { chain_id, last_commit, committed, slots, delivered, reputation, tally, .. } = snapshot();
    let (mut proven, mut agreement) = (snapshot().proven, snapshot().agreement);
    if version < EARLIER_EVIDENCE {
        proven = proven.into_iter().map(|(_, author, kind)| (7, author, kind)).collect();
        agreement = Agreement::default();
    }
    let last_commit = last_commit.expect("there is one");
    let (epoch, epoch_seed, base) = (7, Hash([4; 32]), EpochBase { index: 5, timestamp_ms: 900 });
    OrderState {
        chain_id,
        epoch,
        epoch_seed,
        base,
        version,
        last_commit,
        committed,
        slots,
        delivered,
        reputation,
        tally,
        proven,
        agreement,
    }
}

fn epoch_cert() -> EpochCert {
    let commit = CommitRef { index: 5, digest: Hash([3; 32]) };
    let checkpoint = CkptRef { seq: 2, digest: Hash([4; 32]) };
    EpochCert { epoch: 3, commit, checkpoint, cores: vec![block().signed_core(); 3] }
}

fn epoch_start() -> EpochStart {
    let base = EpochBase { index: 5, timestamp_ms: 900 };
    let evidence = block().extras.evidence;
    EpochStart { epoch: 4, seed: Hash([4; 32]), base, version: 1, floor: 0, set: vec![1, 2, 3], evidence }
}

fn messages() -> Vec<Message> {
    let bytes = block().encode();
    let mut range = CommitRange::new(9, 100);
    range.oldest = 17;
    assert!(range.push(commit().header, vec![(parent(7, 1), bytes.clone()), (parent(8, 0), bytes.clone())]));
    range.headers = vec![commit().header; 2];
    range.votes = vec![block().signed_core(); 3];
    vec![
        Message::Block(bytes.clone()),
        Message::FetchRequest { epoch: 0, request: 1, ancestors_above: 7, refs: vec![parent(3, 1), parent(3, 2)] },
        Message::FetchReply { request: 1, commit_index: 9, blocks: vec![bytes.clone(), bytes.clone()] },
        Message::ProbeRequest { epoch: 0, nonce: 3 },
        Message::ProbeReply { epoch: 0, nonce: 3, commit_index: 4, round: None, newest: None },
        Message::ProbeReply { epoch: 0, nonce: 3, commit_index: 4, round: Some(7), newest: Some(bytes) },
        Message::ProofRequest { nonce: 3 },
        Message::ProofReply(RoundProof { nonce: 3, round: 7, cores: vec![block().signed_core(); 2] }),
        Message::CommitRangeRequest { request: 2, from: 8, count: 64 },
        Message::CommitRangeReply(range),
        Message::EpochCertRequest { epoch: 6 },
        Message::EpochCert(epoch_cert()),
    ]
}

fn records() -> Vec<Record> {
    let bytes: std::sync::Arc<[u8]> = block().encode().into();
    vec![
        Record::Floor { round: 3 },
        Record::Block(bytes.clone()),
        Record::OwnBlock(bytes),
        Record::Commit(commit().into()),
        Record::Mode { catching_up: true },
        Record::Snapshot(Box::new(snapshot())),
        Record::EpochCert(epoch_cert().into()),
        Record::EpochStart(epoch_start().into()),
        Record::Evidence(Box::new(block().extras.evidence.remove(0))),
        Record::Verdict { proof: Hash([2; 32]), round: 8, ok: true },
        Record::Statement(Box::new(block().signed_core())),
        Record::CertifiedBlock(block().encode().into()),
    ]
}

/// Every mutation either is refused or decodes to something that encodes to exactly those bytes.
fn identity_under_mutation(seed: u64, bytes: &[u8], again: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    assert_eq!(again(bytes).as_deref(), Some(bytes));
    for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        assert_eq!(again(&bytes[..cut]), None, "cut to {cut}");
    }
    assert_eq!(again(&[bytes, &[0]].concat()), None, "a byte more");
    let mut rng = Rng(seed);
    for _ in 0..2_000 {
        let mut mutated = bytes.to_vec();
        for _ in 0..=rng.below(3) {
            // Most bytes are signatures, which carry no structure: aim at the rest.
            let at = rng.below(mutated.len());
            let at = if rng.chance(50) { at.saturating_sub(at % 7) % 300 % mutated.len() } else { at };
            mutated[at] = u8::try_from(rng.next() % 256).expect("a byte");
        }
        if let Some(encoded) = again(&mutated) {
            assert_eq!(encoded, mutated, "seed {seed}: two encodings of one value");
        }
    }
}

#[test]
fn blocks_have_one_wire_form() {
    let bytes = block().encode();
    identity_under_mutation(1, &bytes, |b| Block::decode(b).ok().map(|block| block.encode()));
    let tail = &bytes[SIGNED_CORE_LEN..];
    identity_under_mutation(2, tail, |t| {
        let whole = [&bytes[..SIGNED_CORE_LEN], t].concat();
        Block::decode(&whole).ok().map(|block| block.encode()[SIGNED_CORE_LEN..].to_vec())
    });
}

#[test]
fn commits_snapshots_messages_and_records_have_one_form() {
    identity_under_mutation(3, &commit().encode(), |b| Commit::decode(b).ok().map(|c| c.encode()));
    identity_under_mutation(4, &snapshot().encode(), |b| ConsensusSnapshot::decode(b).ok().map(|s| s.encode()));
    for version in [EARLIER_EVIDENCE - 1, EARLIER_EVIDENCE] {
        let state = order_state(version);
        assert_eq!(OrderState::decode(&state.encode()), Ok(state.clone()));
        identity_under_mutation(7, &state.encode(), |b| OrderState::decode(b).ok().map(|s| s.encode()));
    }
    for message in messages() {
        let bytes = message.encode();
        assert_eq!(Message::decode(&bytes), Ok(message));
        identity_under_mutation(5, &bytes, |b| Message::decode(b).ok().map(|m| m.encode()));
    }
    for record in records() {
        let bytes = record.encode();
        assert_eq!(Record::decode(&bytes), Ok(record));
        identity_under_mutation(6, &bytes, |b| Record::decode(b).ok().map(|r| r.encode()));
    }
}

#[test]
fn a_core_has_its_fixed_length_and_a_block_the_published_size() {
    let core = block().core;
    assert_eq!(core.encode().len(), CORE_LEN);
    assert_eq!(BlockCore::decode(&core.encode()), Ok(core));
    let plain = sealed_block(&config(), 1, 0, genesis_of(&config()), vec![]);
    // Core, signature, own parent, bitmap and three digests, no older parents, no batches, no extras.
    assert_eq!(plain.encode().len(), CORE_LEN + SIGNATURE_LEN + 36 + 2 + 3 * 32 + 1 + 1 + 2);
}

#[test]
fn strong_parents_may_not_hide_among_the_older_ones() {
    let block = sealed_block(&config(), 9, 1, vec![parent(8, 1), parent(4, 3)], vec![]);
    let bytes = block.encode();
    let at = bytes.len() - 3 - 38;
    assert_eq!(bytes[at..at + 4], 4_u32.to_le_bytes());
    let mut hidden = bytes;
    hidden[at..at + 4].copy_from_slice(&8_u32.to_le_bytes());
    assert!(Block::decode(&hidden).is_err());
}

#[test]
fn oversized_inputs_are_refused_before_they_cost_memory() {
    assert!(Block::decode(&vec![0; MAX_BLOCK_BYTES + 1]).is_err());
    let refs = vec![parent(1, 1); 129];
    assert!(
        Message::decode(&Message::FetchRequest { epoch: 0, request: 1, ancestors_above: 0, refs }.encode()).is_err()
    );
    let blocks = vec![vec![0; 60_000]; 4];
    assert!(Message::decode(&Message::FetchReply { request: 1, commit_index: 0, blocks }.encode()).is_err());
}

#[test]
fn a_range_takes_commits_until_it_is_full_and_always_the_first() {
    let mut range = CommitRange::new(1, 1);
    let big = vec![0; 60_000];
    let many: Vec<_> = (0..100).map(|_| (parent(8, 0), big.clone())).collect();
    assert!(range.push(commit().header, many.clone()));
    assert!(range.blocks.len() * 60_000 <= MAX_RANGE_BLOCK_BYTES && range.commits[0].blocks.len() == 100);
    assert!(!range.push(commit().header, many));
    let mut range = CommitRange::new(1, 1);
    (0..64).for_each(|_| assert!(range.push(commit().header, vec![])));
    assert!(!range.push(commit().header, vec![]));
}

#[test]
fn the_bytes_never_change_unnoticed() {
    let golden = |bytes: &[u8]| h("golden", bytes).to_string()[..18].to_owned();
    let mut found: Vec<String> = vec![golden(&block().core.encode()), golden(&block().encode())];
    found.push(golden(&commit().encode()));
    found.push(golden(&snapshot().encode()));
    found.extend(messages().iter().map(|m| golden(&m.encode())));
    found.extend(records().iter().map(|r| golden(&r.encode())));
    found.push(block().core.digest().to_string()[..18].to_owned());
    found.push(commit().header.digest().to_string()[..18].to_owned());
    found.push(golden(&order_state(EARLIER_EVIDENCE - 1).encode()));
    found.push(golden(&order_state(EARLIER_EVIDENCE).encode()));
    let expected = [
        "0x92c553655d5a40ad",
        "0xb139138058648b98",
        "0x50f5a039f8239292",
        "0x15483ec19faeb28b",
        "0x98d5be445e599054",
        "0x0ada7b3be7b56feb",
        "0x0b8f53f5f409a4fb",
        "0xa12a4756743c3fc7",
        "0xac89f25d5377662c",
        "0x327a13d07e80bdcf",
        "0x1b980f7daf72a54e",
        "0xfeaf3af6e597566f",
        "0x1b09d193abf0e577",
        "0x1473dbf1c76b5896",
        "0xfdf6c389b5d483f5",
        "0x2d45e44efb51ce2f",
        "0xacc05c27643e1931",
        "0x98d5be445e599054",
        "0xb19055f4281195cb",
        "0x21e1b5a19eb5d6e2",
        "0x2f7cedc7ba021e49",
        "0xfddbda974929abaa",
        "0x05874ad24b45c922",
        "0xa0862e7e4fb0a1a2",
        "0x296292a674e9985d",
        "0xb53b827a7c780334",
        "0xe3e4d4e9b576b7b3",
        "0x49a2f75a18084460",
        "0x936c8d901a00b6eb",
        "0x730a8a92101e6c06",
        "0xc332d661c8ac6516",
        "0xfe5f490622d899c1",
    ];
    assert_eq!(found, expected);
}
