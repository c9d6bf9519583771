//! Wrong attestations in delivered blocks: who is proven at fault, who is not, and that every way to the same commits
//! proves the same.

use std::collections::{BTreeMap, BTreeSet};

use aurigraph_ledger::codec::{Reader, Writer};
use aurigraph_ledger::hash::h;

use crate::agreement::{Agreement, STATEMENTS, WINDOW, Wrong};
use crate::anchor::OrderState;
use crate::cluster::Cluster;
use crate::commit::{FaultKind, ProvenFault};
use crate::committee::Committee;
use crate::config::WRONG_ATTESTATIONS;
use crate::event::Effect;
use crate::machine::{Machine, Recovery};
use crate::record::{Record, SIGN_NOTHING};
use crate::snapshot::ConsensusSnapshot;
use crate::types::{AuthorIdx, CkptRef, Stake};

fn ckpt(seq: u64, name: &str) -> CkptRef {
    CkptRef { seq, digest: h("ckpt", format!("{name} {seq}").as_bytes()) }
}

fn right(seq: u64) -> CkptRef {
    ckpt(seq, "right")
}

fn wrong(seq: u64) -> CkptRef {
    ckpt(seq, "wrong")
}

/// A committee's delivered attestations; every one also after its encoding.
struct Noted {
    committee: Committee,
    agreement: Agreement,
}

impl Noted {
    fn new(stakes: &[Stake]) -> Self {
        let committee = Committee::new(stakes.to_vec()).expect("valid");
        Self { committee, agreement: Agreement::default() }
    }

    fn note(&mut self, author: AuthorIdx, attestation: CkptRef) -> Vec<Wrong> {
        let mut w = Writer::new();
        self.agreement.write(&mut w);
        let bytes = w.into_bytes();
        let mut r = Reader::new(&bytes);
        let mut decoded = Agreement::read(&mut r).expect("own bytes");
        r.finish().expect("nothing behind");
        assert_eq!(decoded, self.agreement);
        let found = self.agreement.note(&self.committee, author, attestation);
        assert_eq!(decoded.note(&self.committee, author, attestation), found);
        assert!(self.agreement.fits(&self.committee));
        found
    }

    /// Who is proven wrong by this.
    fn accused(&mut self, author: AuthorIdx, attestation: CkptRef) -> Vec<AuthorIdx> {
        self.note(author, attestation).into_iter().map(|wrong| wrong.author).collect()
    }

    fn open(&self, author: AuthorIdx) -> usize {
        self.agreement.attested.get(&author).map_or(0, |attested| attested.open.len())
    }
}

#[test]
fn a_wrong_attestation_is_proven_whether_it_comes_before_the_quorums_or_after() {
    for before in [true, false] {
        let mut noted = Noted::new(&[1; 4]);
        let mut found = Vec::new();
        let order: [AuthorIdx; 4] = if before { [3, 0, 1, 2] } else { [0, 1, 2, 3] };
        for author in order {
            let attests = if author == 3 { wrong(7) } else { right(7) };
            found.push(noted.note(author, attests));
            found.push(noted.note(author, attests));
        }
        let expected = Wrong { author: 3, attested: wrong(7), agreed: right(7).digest };
        assert_eq!(found.iter().position(|wrong| !wrong.is_empty()), Some(6), "with the last one: {found:?}");
        assert_eq!(found.concat(), [expected]);
        assert_eq!((noted.accused(3, wrong(7)), noted.accused(3, ckpt(7, "third"))), (vec![], vec![]), "once");
        for author in 0..3 {
            assert_eq!(noted.accused(author, right(8)), []);
        }
        assert_eq!(noted.accused(3, wrong(8)), [], "once in an epoch");
        assert_eq!(noted.agreement.wrong, BTreeSet::from([3]));
    }
}

#[test]
fn nobody_is_accused_by_less_than_a_quorum() {
    // 10 of stake: a quorum is 7.
    let mut noted = Noted::new(&[4, 2, 3, 1]);
    for (author, attests) in [(0, right(5)), (1, right(5)), (3, wrong(5)), (2, ckpt(5, "another")), (0, right(5))] {
        assert_eq!(noted.accused(author, attests), [], "6 of 10 agree");
    }
    assert!(noted.agreement.agreed.is_empty());
    // Authors outside the committee, and no attestation at all.
    assert_eq!((noted.accused(4, right(5)), noted.accused(3, CkptRef::default())), (vec![], vec![]));
    // One that says both is wrong in the one, and counts for the other.
    assert_eq!(noted.accused(3, right(5)), [2, 3]);
    // A statement of a later checkpoint says nothing of the ones before.
    assert_eq!(
        (noted.accused(0, right(6)), noted.accused(2, right(7)), noted.accused(1, wrong(6))),
        (vec![], vec![], vec![])
    );
}

#[test]
fn who_attests_a_lot_and_far_away_fills_its_own_places_and_hides_nothing() {
    let mut noted = Noted::new(&[1; 4]);
    // Before anybody else has attested anything, so before there is a head.
    for seq in 0..200 {
        assert_eq!(noted.accused(3, ckpt(u64::MAX - seq, "far")), []);
    }
    assert_eq!(noted.open(3), STATEMENTS);
    assert_eq!(noted.accused(3, wrong(1_000)), []);
    let flood = |noted: &mut Noted, from: u64| {
        let long_ago = noted.agreement.head(&noted.committee).saturating_sub(WINDOW);
        for at in 0..300 {
            let far = [ckpt(u64::MAX - at, "far"), ckpt(from + at, &format!("lie {at}"))];
            for attests in far.into_iter().chain((at < long_ago).then(|| ckpt(long_ago - at, "long ago"))) {
                assert!(noted.accused(3, attests).iter().all(|author| *author == 3));
            }
            assert!(noted.open(3) <= STATEMENTS, "bounded");
        }
    };
    flood(&mut noted, 1_001);
    let mut found = Vec::new();
    for seq in 1_000..1_050 {
        for author in 0..3 {
            found.extend(noted.note(author, right(seq)));
        }
        flood(&mut noted, seq + 1);
        assert_eq!(noted.agreement.agreed.get(&seq), Some(&right(seq).digest), "the others agree as ever");
        assert_eq!(noted.agreement.head(&noted.committee), seq, "the head is where a quorum is");
        assert!(noted.agreement.agreed.len() as u64 <= WINDOW);
        assert!((0..3).all(|author| noted.open(author) == 0), "what is agreed takes no places");
    }
    assert_eq!(found, [Wrong { author: 3, attested: wrong(1_000), agreed: right(1_000).digest }]);
}

#[test]
fn the_window_moves_on_where_no_quorum_attests_the_same_checkpoints() {
    let mut noted = Noted::new(&[1; 4]);
    for seq in 1..500_u64 {
        // Each attests every fourth checkpoint.
        let author = AuthorIdx::try_from(seq % 4).expect("small");
        assert_eq!(noted.accused(author, if author == 3 { wrong(seq) } else { right(seq) }), []);
        assert!(noted.open(author) as u64 <= WINDOW);
    }
    assert!(noted.agreement.agreed.is_empty());
    // And goes on with a leap.
    for author in 0..3 {
        assert_eq!(noted.accused(author, right(600)), []);
    }
    assert_eq!(noted.accused(3, wrong(600)), [3]);
    // What is below the window says nothing any more.
    let mut late = Noted::new(&[1; 4]);
    for author in 0..3 {
        assert_eq!(late.accused(author, right(600)), []);
    }
    assert_eq!((late.accused(3, wrong(600 - WINDOW)), late.open(3)), (vec![], 0));
    assert_eq!((late.accused(3, wrong(600 - WINDOW + 1)), late.open(3)), (vec![], 1));
    assert_eq!((late.accused(3, wrong(600 + WINDOW)), late.open(3)), (vec![], 2));
}

#[test]
fn bytes_beyond_the_bounds_are_refused() {
    let decode = |write: &dyn Fn(&mut Writer)| {
        let mut w = Writer::new();
        write(&mut w);
        let bytes = w.into_bytes();
        Agreement::read(&mut Reader::new(&bytes)).is_ok()
    };
    let digest = right(1).digest;
    let statements = |count: u64| {
        decode(&|w| {
            w.varint(1).u16(0).u64(9).varint(count);
            (0..count).for_each(|seq| {
                w.u64(seq).hash(&digest);
            });
            w.varint(0).varint(0);
        })
    };
    assert!(statements(STATEMENTS as u64) && !statements(STATEMENTS as u64 + 1));
    assert!(!decode(&|w| {
        w.varint(129);
    }));
    let agreed = |seqs: &[u64]| {
        decode(&|w| {
            w.varint(0).varint(seqs.len() as u64);
            seqs.iter().for_each(|seq| {
                w.u64(*seq).hash(&digest);
            });
            w.varint(0);
        })
    };
    assert!(agreed(&[1, 2]) && !agreed(&[2, 1]) && !agreed(&[1, 1]));
    let stranger = Agreement { wrong: [4].into(), ..Agreement::default() };
    assert!(!stranger.fits(&Committee::new(vec![1; 4]).expect("valid")));
}

/// Four validators, of which the third executes wrongly after a while.
fn corrupted(seed: u64, version: u16) -> Cluster {
    let mut c = Cluster::new(&[1; 4], seed);
    c.config.version = version;
    c.config.params.gc_depth = 16;
    c.checkpoint_every = Some(10);
    c.use_snapshots = seed.is_multiple_of(2);
    c.start_all();
    let load = |c: &mut Cluster, times: usize, name: &str| {
        for i in 0..times {
            c.submit(i % 4, &format!("{name} {i}"));
            c.run_for(40);
        }
    };
    load(&mut c, 40, "before");
    c.corrupted.insert(2, c.nodes[2].executed + 1);
    load(&mut c, 60, "during");
    c.take_snapshot(1);
    load(&mut c, 20, "later");
    // From a snapshot or the whole log; the cluster compares what is delivered again.
    for node in [1, 3] {
        c.crash(node);
        c.run_for(100);
        c.restart(node);
    }
    load(&mut c, 60, "after");
    c
}

fn proven(c: &Cluster) -> Vec<(u64, ProvenFault)> {
    c.faults.iter().flat_map(|(index, faults)| faults.iter().map(|fault| (*index, *fault))).collect()
}

#[test]
fn a_validator_that_executes_wrongly_is_proven_at_fault_on_all_nodes_alike_and_nobody_else() {
    for seed in 0..6 {
        let c = corrupted(2_100 + seed, WRONG_ATTESTATIONS);
        let [(index, fault)] = proven(&c)[..] else { panic!("seed {seed}: {:?}", proven(&c)) };
        let expected = ProvenFault { epoch: 0, author: 2, kind: FaultKind::WrongAttestation, reporter: 2, ..fault };
        assert_eq!(fault, expected, "seed {seed}");
        for node in [0, 1, 3] {
            assert_eq!(c.nodes[node].delivered[&index].faults, [fault], "seed {seed}, node {node}");
            assert!(c.status(node).shunned.is_empty() && c.status(node).pending_evidence == 0, "seed {seed}");
            assert!(c.commits(node) > index + 10, "seed {seed}: the others go on");
        }
        c.check_oracle(0);
    }
}

#[test]
fn before_its_protocol_version_nobody_is_at_fault_for_an_attestation() {
    let c = corrupted(2_110, WRONG_ATTESTATIONS - 1);
    assert_eq!(proven(&c), []);
    let snapshot = c.nodes[0].machine.as_ref().expect("up").snapshot();
    assert_eq!(snapshot.agreement, Agreement::default());
}

/// Blocks that attest the last checkpoint of an epoch are in no commit; who is wrong there does not come into the next one.
#[test]
fn a_fault_is_of_the_epoch_of_its_blocks_and_the_last_checkpoint_of_an_epoch_proves_none() {
    for (seed, wrong_from, of_epoch) in [(2_130, 15, None), (2_131, 25, Some(1)), (2_132, 41, Some(2))] {
        let mut c = Cluster::new(&[1; 4], seed);
        c.config.version = WRONG_ATTESTATIONS;
        c.config.params.epoch_commits = 20;
        c.checkpoint_every = Some(10);
        c.corrupted.insert(2, wrong_from);
        c.start_all();
        c.run_until(180_000, "the others go on", |c| [0, 1, 3].iter().all(|node| c.epoch(*node) >= 4));
        let kind = FaultKind::WrongAttestation;
        let found: Vec<_> = proven(&c).into_iter().map(|(_, it)| it).collect();
        let told: Vec<_> = found.iter().map(|it| (it.epoch, it.author, it.kind)).collect();
        let expected: Vec<_> = of_epoch.map(|epoch| (epoch, 2, kind)).into_iter().collect();
        let downtime = |it: &&(u64, u16, FaultKind)| it.2 == FaultKind::Downtime && it.1 == 2;
        assert_eq!(told.iter().filter(|it| !downtime(it)).copied().collect::<Vec<_>>(), expected, "seed {seed}");
        assert_eq!(c.epoch(2), of_epoch.unwrap_or(0), "seed {seed}: it stays where it went wrong");
    }
}

/// The faults of the commits that a machine delivers when it starts.
fn faults_after(c: &Cluster, snapshot: Option<ConsensusSnapshot>, log: &[Record]) -> BTreeMap<u64, Vec<ProvenFault>> {
    let base = snapshot.as_ref().and_then(|it| it.last_commit.as_ref()).map_or(0, |header| header.index);
    let recovery = Recovery { snapshot, executed_index: base, ..Recovery::default() };
    let (_, effects) = Machine::recover(c.config_of(0), c.now(), recovery, log.to_vec()).expect("recovers");
    let delivered = effects.into_iter().filter_map(|effect| match effect {
        Effect::Deliver { commit } => Some((commit.header.index, commit.faults.clone())),
        _ => None,
    });
    delivered.collect()
}

/// The order's state that the snapshot of a commit says.
fn order_state(c: &Cluster, snapshot: &ConsensusSnapshot) -> OrderState {
    let it = snapshot.clone();
    OrderState {
        chain_id: it.chain_id,
        epoch: it.epoch,
        epoch_seed: c.config.epoch_seed,
        base: c.config.base,
        version: c.config.version,
        last_commit: it.last_commit.expect("a commit"),
        committed: it.committed,
        slots: it.slots,
        delivered: it.delivered,
        reputation: it.reputation,
        tally: it.tally,
        proven: it.proven,
        agreement: it.agreement,
    }
}

/// From the whole log, from a snapshot and from an anchor's state just before the proof, and around it.
#[test]
fn every_way_to_the_same_commits_proves_the_same_faults() {
    for seed in 0..3 {
        let c = corrupted(2_120 + seed, WRONG_ATTESTATIONS);
        let [(index, _)] = proven(&c)[..] else { panic!("seed {seed}: {:?}", proven(&c)) };
        let log: Vec<Record> = c.nodes[0].log.iter().map(|bytes| Record::decode(bytes).expect("own")).collect();
        let whole = faults_after(&c, None, &log);
        let expected: BTreeMap<_, _> = whole.keys().map(|index| (*index, c.faults[index].clone())).collect();
        assert!(whole.contains_key(&index), "seed {seed}");
        assert_eq!(whole, expected, "seed {seed}: from the whole log");
        let mut half = 0;
        for at in index - 8..index + 2 {
            let is_it = |record: &Record| matches!(record, Record::Commit(commit) if commit.header.index == at);
            let end = log.iter().position(is_it).expect("logged") + 1;
            let (machine, _) =
                Machine::recover(c.config_of(0), c.now(), Recovery::default(), log[..end].to_vec()).expect("recovers");
            let snapshot = machine.snapshot();
            let base = machine.last_commit().index;
            let said = &snapshot.agreement.attested;
            half += usize::from(base < index && said.values().any(|attested| !attested.open.is_empty()));
            let expected: BTreeMap<_, _> = whole.clone().into_iter().filter(|(index, _)| *index > base).collect();
            let decoded = ConsensusSnapshot::decode(&snapshot.encode()).expect("own");
            assert_eq!(faults_after(&c, Some(decoded), &log), expected, "seed {seed}: from a snapshot at {base}");
            let state = order_state(&c, &snapshot);
            let state = OrderState::decode(&state.encode()).expect("own");
            assert_eq!(state, order_state(&c, &snapshot));
            let began = faults_after(&c, Some(state.into_snapshot(SIGN_NOTHING)), &log);
            assert_eq!(began, expected, "seed {seed}: from a state at {base}");
        }
        assert!(half > 0, "seed {seed}: none of the states holds a statement that is not settled");
    }
}
