//! Snapshots with real signatures: what is written proves itself, what is altered does not, a crash leaves whole ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use aurigraph_consensus::anchor::digest_of;
use aurigraph_consensus::{
    BlockCore, BlockRef, Certificate, CkptRef, CommitHeader, CommitRef, EpochBase, EpochTally, LeaderSlot, OrderState,
    Reputation, SignedCore,
};
use aurigraph_gpu::{Seed, Signer};
use aurigraph_ledger::{
    Checkpoint, CommitInput, FeeSchedule, Foundation, Genesis, GenesisValidator, Hash, Ledger, PlainHasher, PublicKey,
    SignatureVerifier, StateView, h,
};

use super::install::run_in_steps;
use super::manifest::Manifest;
use super::shelf::Shelf;
use super::{
    FolderReader, InstallError, OrderPart, SnapshotError, SnapshotMessage, adopt, files, install_requested, list,
    request, requested, verify, write,
};
use crate::fatal::Fatal;
use crate::pipeline::Mark;
use crate::pruning::{Which, own_snapshot};
use crate::storage::testing::Chance;
use crate::storage::{Cursor, Journal, JournalIdentity, JournalOptions, Record, RecordKind, Store, StoreOptions};

struct Nobody;

impl SignatureVerifier for Nobody {
    fn verify(&self, _: &[u8], _: &[u8], _: &[u8]) -> bool {
        false
    }
}

fn signer(author: u8) -> Signer {
    Signer::from_seed(&Seed::new([author + 1; 32])).unwrap()
}

/// A genesis of four validators with real keys.
pub(super) fn genesis() -> Foundation {
    let validator = |author: u8| GenesisValidator {
        name: format!("v{}", author + 1),
        consensus_key: PublicKey::new(signer(author).public_key().to_vec()),
        network_key: PublicKey::new(vec![author; 40]),
        stake: 1,
        operator: None,
    };
    let mut genesis = Genesis {
        network: "test".into(),
        timestamp_ms: 0,
        fees: FeeSchedule::default(),
        parameters: aurigraph_ledger::ProtocolParameters::default(),
        validators: (0..4).map(validator).collect(),
        accounts: Vec::new(),
    };
    genesis.parameters.heartbeat_ms = 400;
    let account = |n: u32| aurigraph_ledger::GenesisAccount {
        address: aurigraph_ledger::Address(h("owner", &n.to_le_bytes())),
        balance: 1_000 + u128::from(n),
        public_key: None,
    };
    genesis.accounts = (0..60_000).map(account).collect();
    Foundation::new(genesis).unwrap()
}

/// The order's state at a commit that no block is left of.
fn order() -> OrderPart {
    let genesis = genesis();
    let (chain_id, epoch) = (genesis.chain_id(), 0);
    let leader = BlockRef { round: 1, author: 0, digest: Hash([3; 32]) };
    let last_commit = CommitHeader {
        epoch,
        index: 1,
        prev_digest: Hash::ZERO,
        timestamp_ms: 1,
        leader,
        blocks_root: Hash::ZERO,
        block_count: 1,
        gc_round: 1,
        schedule_digest: Hash::ZERO,
        last_decided: LeaderSlot { round: 1, offset: 0, author: 0 },
    };
    let state = OrderState {
        chain_id,
        epoch,
        epoch_seed: chain_id,
        base: EpochBase::default(),
        version: 1,
        last_commit,
        committed: BTreeSet::new(),
        slots: BTreeMap::new(),
        delivered: BTreeMap::from([(Hash([5; 32]), 1)]),
        reputation: Reputation::new(4),
        tally: EpochTally { delivered: vec![1; 4], supports: vec![(1, 1); 4], ..EpochTally::default() },
        proven: BTreeSet::new(),
        agreement: aurigraph_consensus::Agreement::default(),
    };
    OrderPart { state: state.encode().into(), blocks: Vec::new(), hops: Vec::new() }
}

/// A chain of four validators with real keys, at checkpoints one after the other.
struct World {
    genesis: Foundation,
    ledger: Ledger,
}

impl World {
    fn new() -> Self {
        let genesis = genesis();
        let ledger = Ledger::from_genesis(&genesis, Arc::new(PlainHasher)).unwrap();
        Self { genesis, ledger }
    }

    /// The state at the next checkpoint.
    fn next(&mut self) -> StateView {
        loop {
            let index = self.ledger.commit_index() + 1;
            let input = CommitInput {
                version: aurigraph_ledger::FIRST_PROTOCOL_VERSION,
                epoch: 0,
                commit_index: index,
                commit_digest: h("commit", &index.to_le_bytes()),
                timestamp_ms: index * 400,
                leader: 0,
                round: u32::try_from(index).unwrap(),
                consensus_state_digest: digest_of(&order().state),
                batches: Vec::new(),
                faults: Vec::new(),
                epoch_end: None,
            };
            if self.ledger.execute(input, &Nobody).unwrap().checkpoint.is_some() {
                return self.ledger.snapshot();
            }
        }
    }

    /// That these validators attest `attested`, for `checkpoint`.
    fn certificate(&self, checkpoint: &Checkpoint, attested: &Checkpoint, authors: &[u8]) -> Certificate {
        let reference = |checkpoint: &Checkpoint| CkptRef { seq: checkpoint.seq, digest: checkpoint.digest() };
        let core = |author: &u8| {
            let core = BlockCore {
                version: 1,
                supports: 1,
                chain_id: self.genesis.chain_id(),
                epoch: 0,
                round: 9,
                author: u16::from(*author),
                timestamp_ms: 5,
                parents_root: Hash::ZERO,
                payload_root: Hash::ZERO,
                extras_root: Hash::ZERO,
                commit_vote: CommitRef { index: 0, digest: Hash::ZERO },
                attestation: reference(attested),
            };
            let signature = signer(*author).sign(&core.signing_message()).unwrap();
            SignedCore { core, signature: aurigraph_consensus::Signature::from_slice(&signature).unwrap() }
        };
        Certificate { checkpoint: reference(checkpoint), cores: authors.iter().map(core).collect() }
    }

    fn written(&mut self, directory: &Path) -> (StateView, Manifest) {
        let view = self.next();
        let certificate = self.certificate(view.checkpoint(), view.checkpoint(), &[0, 1, 3]);
        let (found, manifest) = write(directory, &view, &certificate, &[], &order()).unwrap();
        assert_eq!(found.height, view.height());
        (view, manifest)
    }
}

#[test]
fn a_snapshot_proves_itself_and_gives_the_ledger_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let view = world.next();
    let later = world.next();
    let certificate = world.certificate(view.checkpoint(), later.checkpoint(), &[1, 2, 3]);
    let (found, manifest) = write(directory.path(), &view, &certificate, &[*later.checkpoint()], &order()).unwrap();
    assert!(manifest.chunks.len() > 2, "{} chunks", manifest.chunks.len());
    assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
    let snapshot = verify(&found.path, &world.genesis).unwrap();
    assert_eq!((snapshot.manifest, snapshot.stake), (manifest, (3, 4)));
    assert_eq!(snapshot.ledger.checkpoint().digest(), view.checkpoint().digest());
    assert_eq!((snapshot.ledger.height(), snapshot.ledger.commit_index()), (view.height(), view.header().commit_index));
}

#[test]
fn what_is_altered_or_signed_by_too_few_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let view = world.next();
    let few = world.certificate(view.checkpoint(), view.checkpoint(), &[0, 1]);
    let (found, _) = write(directory.path(), &view, &few, &[], &order()).unwrap();
    assert!(matches!(verify(&found.path, &world.genesis), Err(SnapshotError::Certificate { .. })));

    let (view, manifest) = world.written(directory.path());
    let path = directory.path().join("snapshots").join(view.height().to_string());
    verify(&path, &world.genesis).unwrap();
    let mut chance = Chance::printed("what_is_altered_or_signed_by_too_few_is_refused");
    for name in ["chunks", "manifest"] {
        let whole = std::fs::read(path.join(name)).unwrap();
        for _ in 0..12 {
            let mut altered = whole.clone();
            let at = usize::try_from(chance.below(whole.len() as u64)).unwrap();
            altered[at] ^= 1 << chance.below(8);
            std::fs::write(path.join(name), &altered).unwrap();
            assert!(verify(&path, &world.genesis).is_err(), "byte {at} of {name}");
        }
        std::fs::write(path.join(name), &whole[..whole.len() - 1]).unwrap();
        assert!(verify(&path, &world.genesis).is_err(), "{name} cut short");
        std::fs::write(path.join(name), whole).unwrap();
    }
    verify(&path, &world.genesis).unwrap();
    let other = Genesis { network: "another".into(), ..world.genesis.genesis().clone() };
    assert!(verify(&path, &Foundation::new(other).unwrap()).is_err());
    // Chunks of another state under a certificate that is good.
    let newer = world.next();
    let certificate = world.certificate(view.checkpoint(), view.checkpoint(), &[0, 1, 2]);
    let (found, _) = write(directory.path(), &newer, &certificate, &[], &order()).unwrap();
    let reader = FolderReader::open(&found.path).unwrap();
    let mixed = Manifest { proof: manifest.proof, ..reader.manifest };
    std::fs::write(found.path.join("manifest"), mixed.encode()).unwrap();
    assert!(matches!(verify(&found.path, &world.genesis), Err(SnapshotError::Mismatch { what: "the checkpoint", .. })));
}

#[test]
fn what_a_crash_has_left_is_no_snapshot_and_two_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let heights: Vec<u64> = (0..3).map(|_| world.written(directory.path()).0.height()).collect();
    let folder = directory.path().join("snapshots");
    std::fs::create_dir(folder.join(".unfinished-99")).unwrap();
    std::fs::write(folder.join(".unfinished-99/chunks"), b"half").unwrap();
    let found: Vec<u64> = list(directory.path()).unwrap().iter().map(|found| found.height).collect();
    assert_eq!(found, [heights[2], heights[1], heights[0]]);
    let kept: Vec<u64> = files::clean(directory.path(), 2).unwrap().iter().map(|found| found.height).collect();
    assert_eq!(kept, [heights[2], heights[1]]);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "nothing else is left");
    // Written again, it stays.
    let view = world.ledger.snapshot();
    let certificate = world.certificate(view.checkpoint(), view.checkpoint(), &[0, 1, 2]);
    write(directory.path(), &view, &certificate, &[], &order()).unwrap();
    assert_eq!(list(directory.path()).unwrap().len(), 2);
}

#[test]
fn a_store_begins_with_the_state_of_a_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let (view, _) = world.written(directory.path());
    let path = list(directory.path()).unwrap().remove(0).path;
    let mut snapshot = verify(&path, &world.genesis).unwrap();
    let state = snapshot.ledger.snapshot();
    let store =
        Store::open(directory.path(), "v1", StoreOptions { cache: 4 << 20, ..StoreOptions::default() }).unwrap();
    store.install(&state, snapshot.manifest.commit_index).unwrap();
    assert_eq!(snapshot.order.delivered.len(), 1);
    let found = store.reader().latest_checkpoint().unwrap().unwrap();
    assert_eq!((found.height, found.state_root), (view.height(), view.checkpoint().state_root));
    assert!(store.install(&state, 1).is_err(), "a state as new is there");
}

/// A node's own folder with a snapshot of another's, and what a start opens.
struct Joiner {
    folder: tempfile::TempDir,
    world: World,
    view: StateView,
    manifest: Manifest,
    journal: Journal,
    store: Store,
}

impl Joiner {
    fn new() -> Self {
        let (from, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut world = World::new();
        let (view, manifest) = world.written(from.path());
        let found = list(from.path()).unwrap().remove(0);
        adopt(folder.path(), &found.path, &manifest).unwrap();
        let (journal, store) = open(folder.path(), &world.genesis);
        Self { folder, world, view, manifest, journal, store }
    }

    fn run(&self) -> Result<(), InstallError> {
        install_requested(self.folder.path(), &self.world.genesis, &self.journal, &self.store)
    }

    /// Everything in memory goes, as with the process.
    fn restart(self) -> Self {
        let Self { folder, world, view, manifest, journal, store } = self;
        drop((journal, store));
        let (journal, store) = open(folder.path(), &world.genesis);
        Self { folder, world, view, manifest, journal, store }
    }

    /// The node has begun with the snapshot, once.
    fn assert_begun(&self) {
        let path = self.folder.path();
        assert_eq!(requested(path).unwrap(), None);
        let stored = self.store.reader().latest_checkpoint().unwrap().unwrap();
        assert_eq!((stored.height, stored.state_root), (self.view.height(), self.view.checkpoint().state_root));
        let log = self.journal.reader();
        assert_eq!(log.highest_mark(), Some(self.manifest.commit_index));
        let (body, _) = log.latest_snapshot().unwrap().unwrap();
        let order = aurigraph_consensus::ConsensusSnapshot::decode(&body[8..]).unwrap();
        assert_eq!((order.floor, order.last_commit.unwrap().index), (aurigraph_consensus::SIGN_NOTHING, 1));
        assert!(log.first_segment() > 1, "the log begins with it");
        assert_eq!(log.oldest_commit(), 2, "the first after the anchor");
        let mut count = 0;
        log.replay(Cursor::START, &[RecordKind::ConsensusSnapshot], |_, _, _| {
            count += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(count, 1);
        // A store that is lost afterwards begins with it again.
        let own = own_snapshot(path, &self.world.genesis, &log, Which::Newest).unwrap();
        assert_eq!(own.0.height, self.view.height());
    }
}

fn open(path: &Path, genesis: &Foundation) -> (Journal, Store) {
    let key = signer(0).public_key().to_vec();
    let identity = JournalIdentity::new(genesis.chain_id(), "v1", Some(&key));
    let options = JournalOptions { initialise: true, ..JournalOptions::default() };
    let journal = Journal::open(path, &identity, options, Fatal::default()).unwrap();
    let store = Store::open(path, "v1", StoreOptions { cache: 4 << 20, ..StoreOptions::default() }).unwrap();
    (journal, store)
}

#[test]
fn a_start_begins_with_the_marked_snapshot_once_and_keeps_what_it_has_without_a_good_one() {
    let joiner = Joiner::new();
    let path = joiner.folder.path();
    joiner.run().unwrap();
    assert!(joiner.store.reader().latest_checkpoint().unwrap().is_none(), "nothing was asked for");
    // A height of which there is no snapshot is told, and nothing else happens.
    request(path, joiner.view.height() + 1).unwrap();
    joiner.run().unwrap();
    assert_eq!((requested(path).unwrap(), joiner.journal.reader().highest_mark()), (None, None));
    let chunks = path.join(format!("snapshots/{}/chunks", joiner.view.height()));
    let good = std::fs::read(&chunks).unwrap();
    request(path, joiner.view.height()).unwrap();
    std::fs::write(&chunks, b"damaged").unwrap();
    joiner.run().unwrap();
    assert_eq!((requested(path).unwrap(), joiner.journal.reader().highest_mark()), (None, None));
    assert!(joiner.store.reader().latest_checkpoint().unwrap().is_none());
    std::fs::write(&chunks, good).unwrap();
    for _ in 0..2 {
        request(path, joiner.view.height()).unwrap();
        assert_eq!(requested(path).unwrap(), Some(joiner.view.height()));
        joiner.run().unwrap();
        joiner.assert_begun();
    }
}

/// An aborted fast sync made others' nodes crash for ever, or run on half of it.
#[test]
fn h24_a_crash_between_any_two_steps_of_an_installation_is_made_good_by_the_next_start() {
    let mut crashed = BTreeSet::new();
    for crash in ["begun", "store", "torn", "journal", "pruned"] {
        let mut joiner = Joiner::new();
        request(joiner.folder.path(), joiner.view.height()).unwrap();
        // Twice at the same place, then through.
        for _ in 0..2 {
            let mut step = |at: &'static str| {
                if at == crash {
                    crashed.insert(at);
                    return Err(InstallError::Log(format!("a crash after {at}")));
                }
                Ok(())
            };
            let run =
                run_in_steps(joiner.folder.path(), &joiner.world.genesis, &joiner.journal, &joiner.store, &mut step);
            assert!(crash == "journal" || run.is_err(), "after {crash}");
            if run.is_err() {
                assert!(requested(joiner.folder.path()).unwrap().is_some(), "after {crash}");
            }
            joiner = joiner.restart();
        }
        joiner.run().unwrap();
        joiner.assert_begun();
        joiner.restart().assert_begun();
    }
    assert_eq!(crashed.len(), 5, "{crashed:?}");
}

#[test]
fn a_snapshot_that_is_damaged_while_it_is_installed_stops_the_node_with_words() {
    let joiner = Joiner::new();
    let path = joiner.folder.path();
    request(path, joiner.view.height()).unwrap();
    let mut step = |at: &'static str| match at {
        "store" => Err(InstallError::Log("a crash".to_owned())),
        _ => Ok(()),
    };
    run_in_steps(path, &joiner.world.genesis, &joiner.journal, &joiner.store, &mut step).unwrap_err();
    std::fs::write(path.join(format!("snapshots/{}/chunks", joiner.view.height())), b"damaged").unwrap();
    let joiner = joiner.restart();
    for _ in 0..2 {
        let error = joiner.run().unwrap_err();
        assert!(matches!(error, InstallError::Damaged { .. }) && error.to_string().contains("--rejoin"), "{error}");
    }
}

#[test]
fn a_log_of_its_own_goes_on_where_it_reaches_the_snapshot_and_begins_anew_where_it_does_not() {
    for reaches in [true, false] {
        let joiner = Joiner::new();
        let at = joiner.manifest.commit_index;
        let mark = |index| {
            let mark = Mark { commit_index: index, block: None, checkpoint: None, invalid: Vec::new() };
            Record::indexed(RecordKind::Mark, index, mark.encode().into())
        };
        joiner.journal.append_apart(&[mark(if reaches { at + 5 } else { at - 1 })]).unwrap();
        request(joiner.folder.path(), joiner.view.height()).unwrap();
        joiner.run().unwrap();
        assert_eq!(requested(joiner.folder.path()).unwrap(), None);
        if reaches {
            let log = joiner.journal.reader();
            assert_eq!((log.highest_mark(), log.first_segment()), (Some(at + 5), 1));
            assert!(log.latest_snapshot().unwrap().is_none());
        } else {
            joiner.assert_begun();
        }
    }
}

#[test]
fn peers_are_given_a_snapshot_to_its_end_also_when_it_is_removed_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let (view, manifest) = world.written(directory.path());
    let (mut shelf, now) = (Shelf::default(), std::time::Instant::now());
    let mut ask = |message: &SnapshotMessage, now| shelf.answer(directory.path(), message, now);
    let newest = SnapshotMessage::AskManifest { digest: Hash::ZERO, part: 0 };
    let SnapshotMessage::Manifest(Some(part)) = ask(&newest, now) else { panic!("a manifest") };
    assert_eq!((part.digest, Manifest::decode(&part.bytes).unwrap()), (manifest.digest(), manifest.clone()));
    let beyond = SnapshotMessage::AskManifest { digest: part.digest, part: 1 };
    assert_eq!(ask(&beyond, now), SnapshotMessage::Manifest(None));
    files::remove(&files::path_of(directory.path(), view.height())).unwrap();
    let height = view.height();
    let chunk = |number: u32, digest| SnapshotMessage::AskChunk { height, number, digest };
    for (number, named) in (0..).zip(&manifest.chunks) {
        let SnapshotMessage::Chunk { bytes: Some(bytes), .. } = ask(&chunk(number, named.digest), now) else {
            panic!("chunk {number}")
        };
        assert_eq!(super::Chunk::of(&bytes), *named);
    }
    let none = |answer| matches!(answer, SnapshotMessage::Chunk { bytes: None, .. });
    assert!(none(ask(&chunk(0, Hash::ZERO), now)), "of another snapshot");
    assert!(none(ask(&chunk(9_999, Hash::ZERO), now)));
    let later = now + crate::bounds::snapshots::SERVED_OPEN;
    shelf.tidy(later);
    assert!(none(shelf.answer(directory.path(), &chunk(0, manifest.chunks[0].digest), later)), "it is closed");
}
