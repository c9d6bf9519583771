//! Snapshots with real signatures: what is written proves itself, what is altered does not, a crash leaves whole ones.

use std::path::Path;
use std::sync::Arc;

use aurigraph_consensus::{BlockCore, Certificate, CkptRef, CommitRef, SignedCore};
use aurigraph_gpu::{Seed, Signer};
use aurigraph_ledger::{
    Checkpoint, CommitInput, FeeSchedule, Foundation, Genesis, GenesisValidator, Hash, Ledger, PlainHasher, PublicKey,
    SignatureVerifier, StateView, h,
};

use super::manifest::Manifest;
use super::{FolderReader, SnapshotError, files, list, verify, write};
use crate::storage::testing::Chance;
use crate::storage::{Store, StoreOptions};

struct Nobody;

impl SignatureVerifier for Nobody {
    fn verify(&self, _: &[u8], _: &[u8], _: &[u8]) -> bool {
        false
    }
}

fn signer(author: u8) -> Signer {
    Signer::from_seed(&Seed::new([author + 1; 32])).unwrap()
}

/// A chain of four validators with real keys, at checkpoints one after the other.
struct World {
    genesis: Foundation,
    ledger: Ledger,
}

impl World {
    fn new() -> Self {
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
        let genesis = Foundation::new(genesis).unwrap();
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
                consensus_state_digest: Hash::ZERO,
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
        let (found, manifest) = write(directory, &view, &certificate, &[]).unwrap();
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
    let (found, manifest) = write(directory.path(), &view, &certificate, &[*later.checkpoint()]).unwrap();
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
    let (found, _) = write(directory.path(), &view, &few, &[]).unwrap();
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
    let (found, _) = write(directory.path(), &newer, &certificate, &[]).unwrap();
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
    write(directory.path(), &view, &certificate, &[]).unwrap();
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
    let found = store.reader().latest_checkpoint().unwrap().unwrap();
    assert_eq!((found.height, found.state_root), (view.height(), view.checkpoint().state_root));
    assert!(store.install(&state, 1).is_err(), "only an empty store takes a state");
}
