//! Tests of the store: the block index, checkpoints under a crash at every write, damage, its actor's five deaths.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aurigraph_ledger::types::{AUR, PUBLIC_KEY_LEN, SIGNATURE_LEN};
use aurigraph_ledger::{
    AccountIndex, Address, CommitInput, CommittedBatch, FeeSchedule, Genesis, GenesisAccount, GenesisValidator, Hash,
    Ledger, PageKey, PlainHasher, PreparedTransaction, ProtocolParameters, PublicKey, SenderKey, SignatureVerifier,
    StateView, Target, TransactionBuilder, blake3_digest,
};
use aurigraph_runtime::supervisor::{Backoff, Budget, ChildSpec, Strategy, SupervisorSpec, Tree};
use aurigraph_runtime::{KillMode, Registry};
use aurigraph_schema_upgrades::faults::{Fault, Faulty};
use aurigraph_schema_upgrades::node::plan_with;
use aurigraph_schema_upgrades::node::v004_address_index::{self, Party, RECEIVER, SENDER};
use aurigraph_schema_upgrades::{Change, Medium, StepError};
use bytes::Bytes;

use super::actor::{StoreActor, StoreMsg, StoreWriter};
use super::blocks::{write_block, write_finality};
use super::checkpoint::{self, Checkpoints};
use super::error::StoreError;
use super::layout::{AUDIT_TIMES, BLOCKS, KEYS, PAGES, PARTIES, SlotValue, time_key};
use super::open::{Store, StoreOptions};
use super::redo::{self, Memory, Redo as _};
use super::types::{
    CheckpointDone, Measures, PartyRow, StoredBlock, StoredCheckpoint, StoredTransaction, TransactionLocation,
};
use crate::bounds::storage::STORE_MAILBOX;
use crate::storage::testing::{Chance, eventually};

const LONG: Duration = Duration::from_secs(60);
const ACCOUNTS: u32 = 6_000;

struct AnySignature;

impl SignatureVerifier for AnySignature {
    fn verify(&self, _public_key: &[u8], _message: &[u8], _signature: &[u8]) -> bool {
        true
    }
}

/// A ledger that goes on by transfers, with a checkpoint at each.
pub(super) struct World {
    genesis: Genesis,
    ledger: Ledger,
    now: u64,
    /// Accounts that have registered their keys by transactions.
    registered: u32,
}

fn key_of(number: u32) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(PUBLIC_KEY_LEN).collect()
}

impl World {
    pub(super) fn new() -> Self {
        let key = PublicKey::new(vec![3; PUBLIC_KEY_LEN]);
        let account = |n: u32| GenesisAccount {
            address: if n == 0 {
                Address::of_public_key(&[3; PUBLIC_KEY_LEN])
            } else {
                Address::of_public_key(&key_of(n))
            },
            balance: AUR,
            public_key: (n == 0).then(|| key.clone()),
        };
        let validator = GenesisValidator {
            name: "v1".into(),
            consensus_key: key.clone(),
            network_key: PublicKey::new(vec![1; 40]),
            stake: 1,
            operator: None,
        };
        let genesis = Genesis {
            network: "test".into(),
            timestamp_ms: 1_000,
            fees: FeeSchedule { base: 1, per_operation: 1, per_byte: 0, invalid_signature_fee: 1 },
            parameters: ProtocolParameters::default(),
            validators: vec![validator],
            accounts: (0..ACCOUNTS).map(account).collect(),
        };
        let ledger = Ledger::from_genesis(&genesis, Arc::new(PlainHasher)).unwrap();
        Self { genesis, ledger, now: 1_000, registered: 0 }
    }

    /// A transfer to an account, in a block with a checkpoint of its own.
    pub(super) fn pay(&mut self, to: u32) -> StateView {
        let (index, expiry) = (self.ledger.commit_index() + 1, self.ledger.height() + 10);
        let sender = SenderKey::Index(AccountIndex(0));
        let builder = TransactionBuilder::new(self.ledger.chain_id(), sender, index - 1, expiry)
            .fees(&self.genesis.fees)
            .transfer(Target::Index(AccountIndex(to)), 7);
        let transaction = builder.build().unwrap().with_signature(&[0; SIGNATURE_LEN]).unwrap();
        self.commit(index, vec![transaction.into()], 1)
    }

    fn commit(&mut self, index: u64, transactions: Vec<PreparedTransaction>, included: usize) -> StateView {
        let digest = blake3_digest(&index.to_le_bytes());
        let batch = CommittedBatch { proposer: 0, digest, transactions };
        self.now += 2_000;
        let input = CommitInput {
            version: aurigraph_ledger::FIRST_PROTOCOL_VERSION,
            epoch: 0,
            commit_index: index,
            commit_digest: digest,
            timestamp_ms: self.now,
            leader: 0,
            round: u32::try_from(index).unwrap() + 2,
            consensus_state_digest: digest,
            batches: vec![batch],
            faults: Vec::new(),
            epoch_end: None,
        };
        let outcome = self.ledger.execute(input, &AnySignature).unwrap();
        assert_eq!(outcome.block.unwrap().transactions.len(), included);
        assert!(outcome.checkpoint.is_some());
        self.ledger.snapshot()
    }

    /// Payments by that many accounts that register their keys with them, in one block.
    fn register(&mut self, count: u32) -> StateView {
        let (index, expiry) = (self.ledger.commit_index() + 1, self.ledger.height() + 10);
        let from = self.registered + 1;
        self.registered += count;
        let payments = (from..from + count).map(|number| {
            let sender = SenderKey::PublicKey(key_of(number));
            let builder = TransactionBuilder::new(self.ledger.chain_id(), sender, 0, expiry)
                .fees(&self.genesis.fees)
                .transfer(Target::Index(AccountIndex(0)), 7);
            builder.build().unwrap().with_signature(&[0; SIGNATURE_LEN]).unwrap().into()
        });
        let transactions = payments.collect();
        self.commit(index, transactions, count as usize)
    }

    /// True if the pages make a ledger with the root of the view.
    pub(super) fn is(&self, found: &StoredCheckpoint, view: &StateView) -> bool {
        let ledger = Ledger::import(&self.genesis, Arc::new(PlainHasher), found.pages.clone()).unwrap();
        found.state_root == view.checkpoint().state_root
            && found.height == view.height()
            && ledger.height() == view.height()
            && found.consensus == consensus(view)
    }
}

/// Several parts of consensus state, of a size that changes.
pub(super) fn consensus(view: &StateView) -> Bytes {
    let size = if view.height().is_multiple_of(2) { 10 } else { 150_000 };
    vec![u8::try_from(view.height()).unwrap(); size].into()
}

fn open(directory: &Path) -> Store {
    Store::open(directory, "v1", StoreOptions { cache: 4 << 20, ..StoreOptions::default() }).unwrap()
}

fn write(store: &Store, checkpoints: &mut Checkpoints, view: &StateView) -> checkpoint::Written {
    let shared = &store.shared;
    let distrusted = |sequence| shared.distrusts(sequence);
    let mut redo = Memory::default();
    checkpoints.write(&shared.database(), &mut redo, view, &consensus(view), view.height(), distrusted).unwrap()
}

/// Two accounts, each under both of its names now and then.
fn parties(batch: u16, position: u32) -> Vec<Party> {
    let (one, other) = (AccountIndex(position % 5), Address(Hash([u8::try_from(batch).unwrap(); 32])));
    let sender = Party { key: crate::parties::by_index(one), role: SENDER };
    let receiver = Party { key: crate::parties::by_address(&other), role: RECEIVER };
    vec![sender, receiver]
}

/// What the journal would say of [`block`]'s transactions.
struct Bodies;

impl v004_address_index::Bodies for Bodies {
    fn parties(&self, batch: &[u8; 32], positions: &[u32]) -> Result<Option<Vec<Vec<Party>>>, StepError> {
        Ok(Some(positions.iter().map(|position| parties(u16::from(batch[0] - 1), *position)).collect()))
    }
}

pub(super) fn block(height: u64, transactions: u32) -> StoredBlock {
    let id = |index: u32| blake3_digest(&[height.to_le_bytes().as_slice(), &index.to_le_bytes()].concat());
    let transaction = |index: u32| StoredTransaction {
        id: id(index),
        batch: u16::try_from(index % 3).unwrap(),
        position: index / 3,
        receipt: vec![u8::try_from(index % 251).unwrap(); 20 + (index as usize * 37) % 900].into(),
        parties: parties(u16::try_from(index % 3).unwrap(), index / 3),
    };
    StoredBlock {
        height,
        hash: blake3_digest(&height.to_le_bytes()),
        commit_index: height + 100,
        header: vec![9; 200].into(),
        batches: vec![Hash([1; 32]), Hash([2; 32]), Hash([3; 32])],
        transactions: (0..transactions).map(transaction).collect(),
        bytes: u64::from(transactions) * 100,
    }
}

pub(super) fn assert_indexed(store: &Store, block: &StoredBlock) {
    let reader = store.reader();
    let row = reader.header_by_height(block.height).unwrap().unwrap();
    assert_eq!(reader.header_by_hash(&block.hash).unwrap().as_ref(), Some(&row));
    assert_eq!((row.hash, row.commit_index, row.header), (block.hash, block.commit_index, block.header.clone()));
    assert_eq!(row.transactions as usize, block.transactions.len());
    let mut read = Vec::new();
    while read.len() < block.transactions.len() {
        let from = u32::try_from(read.len()).unwrap();
        read.extend(reader.block_transactions(block.height, from, 77).unwrap());
    }
    for ((index, wanted), found) in (0..).zip(&block.transactions).zip(read) {
        let location = TransactionLocation { height: block.height, index };
        assert_eq!(reader.transaction(&wanted.id).unwrap(), Some(location));
        assert_eq!((found.location, found.id, found.position), (location, wanted.id, wanted.position));
        assert_eq!(found.batch, block.batches[usize::from(wanted.batch)]);
        assert_eq!(found.receipt, wanted.receipt);
    }
}

#[test]
fn a_block_is_found_by_height_by_hash_and_by_each_of_its_transactions() {
    let directory = tempfile::tempdir().unwrap();
    let blocks = [block(1, 0), block(2, 1), block(3, 2_345), block(4, 1_000)];
    {
        let store = open(directory.path());
        for block in &blocks {
            write_block(&store.shared.database(), block).unwrap();
            assert_indexed(&store, block);
        }
        // Again changes nothing.
        write_block(&store.shared.database(), &blocks[2]).unwrap();
        store.shared.database().flush().unwrap();
    }
    let store = open(directory.path());
    blocks.iter().for_each(|block| assert_indexed(&store, block));
    let reader = store.reader();
    assert_eq!(reader.schema_version().unwrap(), aurigraph_schema_upgrades::node::plan().newest());
    assert_eq!(reader.highest_indexed_height().unwrap(), Some(4));
    let heights = |below, limit| -> Vec<u64> {
        reader.headers_below(below, limit).unwrap().iter().map(|row| row.height).collect()
    };
    assert_eq!(heights(None, 3), vec![4, 3, 2]);
    assert_eq!(heights(Some(3), 9), vec![2, 1]);
    assert_eq!(reader.header_by_height(5).unwrap(), None);
    assert_eq!(reader.header_by_hash(&Hash::ZERO).unwrap(), None);
    assert_eq!(reader.transaction(&Hash::ZERO).unwrap(), None);
    assert_eq!(reader.block_transactions(3, 2_345, 10).unwrap(), vec![]);
    let last = reader.transaction_row(TransactionLocation { height: 3, index: 2_344 }).unwrap().unwrap();
    assert_eq!(last.id, blocks[2].transactions[2_344].id);
}

#[test]
fn a_crash_at_any_write_of_a_block_leaves_it_out_or_in_and_writing_it_again_completes_it() {
    // Each write of a small block, and some of one with several groups.
    for (transactions, step) in [(20, 1), (1_700, 97)] {
        let block = block(1, transactions);
        for at in (0..).step_by(step) {
            let directory = tempfile::tempdir().unwrap();
            let store = open(directory.path());
            let database = store.shared.database();
            let faulty = Faulty::new(&database, at, Fault::Before);
            let result = write_block(&faulty, &block);
            assert_eq!(result.is_err(), faulty.is_dead());
            if !faulty.is_dead() {
                assert!(at > u64::from(transactions), "only {at} writes");
                break;
            }
            assert_eq!(store.reader().header_by_hash(&block.hash).unwrap(), None, "write {at}");
            assert_eq!(store.reader().transaction(&block.transactions[0].id).unwrap(), None, "write {at}");
            write_block(&store.shared.database(), &block).unwrap();
            assert_indexed(&store, &block);
        }
    }
}

#[test]
fn checkpoints_alternate_and_only_what_changed_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let views: Vec<StateView> = (0..6).map(|n| world.pay(n * 999 + 1)).collect();
    let whole = {
        let store = open(directory.path());
        assert!(store.reader().latest_checkpoint().unwrap().is_none());
        let mut checkpoints = Checkpoints::default();
        let written: Vec<_> = views.iter().map(|view| write(&store, &mut checkpoints, view)).collect();
        let sequences: Vec<u64> = written.iter().map(|written| written.sequence).collect();
        assert_eq!(sequences, vec![1, 2, 3, 4, 5, 6]);
        assert!(written[0].bytes > 300_000, "{written:?}");
        assert!(written[2].bytes * 2 < written[0].bytes, "{written:?}");
        assert!(written[5].values < written[0].values, "{written:?}");
        let latest = store.reader().latest_checkpoint().unwrap().unwrap();
        assert!(world.is(&latest, &views[5]));
        written[0].bytes
    };
    let store = open(directory.path());
    let latest = store.reader().latest_checkpoint().unwrap().unwrap();
    assert_eq!((latest.sequence, latest.commit_index), (6, 6));
    assert!(world.is(&latest, &views[5]));
    // The first of a new process compares with what stands in its slot, whatever that is.
    let next = world.pay(5_000);
    let slot = checkpoint::candidates(&store.shared.database(), |_| false).unwrap()[1].0;
    let stray =
        [SlotValue::Consensus(70).key(slot), SlotValue::Page(PageKey { column: 99, group: 1, part: 0 }).key(slot)];
    let stray = stray.map(|key| Change::put(&key, b"what an earlier process left"));
    store.shared.database().apply(PAGES, &stray).unwrap();
    let written = write(&store, &mut Checkpoints::default(), &next);
    assert_eq!(written.sequence, 7);
    assert!(written.bytes * 5 < whole * 4, "{written:?} of {whole}");
    assert!(world.is(&store.reader().latest_checkpoint().unwrap().unwrap(), &next));
}

fn rows_of_keys(store: &Store) -> usize {
    store.shared.database().scan(KEYS, None, usize::MAX).unwrap().len()
}

#[test]
fn a_key_is_written_once_and_each_checkpoint_takes_its_own_from_the_one_table() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (mut world, mut checkpoints) = (World::new(), Checkpoints::default());
    let first = world.register(40);
    let written = write(&store, &mut checkpoints, &first);
    assert_eq!(rows_of_keys(&store), 3);
    let second = world.register(4);
    let again = write(&store, &mut checkpoints, &second);
    assert_eq!(rows_of_keys(&store), 3, "45 keys, 16 a row");
    // Row 2 alone: the rows that are full are not written for the second slot.
    assert!(again.bytes + 2 * 16 * PUBLIC_KEY_LEN < written.bytes, "{written:?} {again:?}");
    assert!(world.is(&store.reader().latest_checkpoint().unwrap().unwrap(), &second));
    // The older slot's state ends within a row that has grown since.
    store.reader().distrust(2);
    assert!(world.is(&store.reader().latest_checkpoint().unwrap().unwrap(), &first));
    // An older state, written by another process, leaves the newer one its keys.
    let (other, third) = (open_again(store, directory.path()), world.register(20));
    write(&other, &mut Checkpoints::default(), &third);
    let sequence = other.reader().latest_checkpoint().unwrap().unwrap().sequence;
    write(&other, &mut Checkpoints::default(), &first);
    other.reader().distrust(sequence + 1);
    assert!(world.is(&other.reader().latest_checkpoint().unwrap().unwrap(), &third));
}

fn open_again(store: Store, directory: &Path) -> Store {
    drop(store);
    open(directory)
}

#[test]
fn a_damaged_row_of_keys_is_noticed_and_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut world = World::new();
    let view = world.register(40);
    write(&store, &mut Checkpoints::default(), &view);
    let database = &store.shared.database();
    let (key, value) = database.scan(KEYS, None, 2).unwrap().remove(1);
    let mut bad = value.clone();
    bad[500] ^= 4;
    for damage in [Change::put(&key, &bad), Change::remove(&key)] {
        database.apply(KEYS, &[damage]).unwrap();
        assert!(store.reader().latest_checkpoint().unwrap().is_none());
        store.shared.distrusted.lock().clear();
        write(&store, &mut Checkpoints::default(), &view);
        assert!(world.is(&store.reader().latest_checkpoint().unwrap().unwrap(), &view));
    }
}

#[test]
fn a_block_is_indexed_between_two_slices_of_a_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let (store, mut world) = (open(directory.path()), World::new());
    let view = world.register(400);
    let mut writer = StoreWriter::new(&store).unwrap();
    let index = |writer: &mut StoreWriter<'_>, height| {
        let (reply, mut answer) = aurigraph_runtime::Reply::channel();
        writer.apply(StoreMsg::WriteBlock { block: Box::new(block(height, 2)), reply: Some(reply) }).unwrap();
        answer.try_recv().unwrap().unwrap();
    };
    index(&mut writer, 1);
    let (reply, mut answer) = aurigraph_runtime::Reply::channel();
    let (sent, consensus, commit_index) = (view.clone(), consensus(&view), view.height());
    writer
        .apply(StoreMsg::Checkpoint { view: sent, consensus, commit_index, behind: false, reply: Some(reply) })
        .unwrap();
    let mut height = 1;
    let done = loop {
        match answer.try_recv() {
            Ok(done) => break done.unwrap(),
            Err(_) => {
                height += 1;
                index(&mut writer, height);
                writer.slice().unwrap();
            }
        }
    };
    assert!(height > 4, "{height} blocks beside a checkpoint of {} bytes", done.bytes);
    assert!(done.bytes > 2 * crate::bounds::storage::CHECKPOINT_SLICE, "{done:?}");
    assert!(world.is(&store.reader().latest_checkpoint().unwrap().unwrap(), &view));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_does_not_answer_in_time_is_restarted_and_goes_on_once_its_thread_lets_go() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { cache: 4 << 20, deadline: Duration::from_millis(100), ..StoreOptions::default() };
    let store = Store::open(directory.path(), "v1", options).unwrap();
    let registry = Registry::new("s1");
    let spec = SupervisorSpec::new("storage", Strategy::OneForOne)
        .budget(Budget { restarts: 1_000, window: LONG })
        .backoff(Backoff { first: Duration::from_millis(1), factor: 1, max: Duration::from_millis(1) })
        .child(ChildSpec::behaviour("store", STORE_MAILBOX, move || StoreActor::new(store.clone())));
    let tree = Tree::start(registry.clone(), spec).await.unwrap();
    let address = registry.role::<StoreMsg>("store");
    let before = address.generation();
    let (release, hold) = std::sync::mpsc::channel();
    address.send(StoreMsg::Hold(hold)).unwrap();
    eventually("the actor gives the thread up", || !address.is_running() || address.generation() > before).await;
    drop(release);
    eventually("it is restarted", || address.generation() > before && address.is_running()).await;
    let indexed = address.call(LONG, |reply| StoreMsg::WriteBlock { block: Box::new(block(1, 3)), reply: Some(reply) });
    indexed.await.unwrap().unwrap();
    tree.shutdown(LONG).await.unwrap();
}

/// Completes the checkpoint from its redo record, after a crash at each write of just that.
fn crash_and_complete(store: &Store, redo: &Memory) -> Option<u64> {
    for at in 0.. {
        let database = store.shared.database();
        let faulty = Faulty::new(&database, at, Fault::After);
        match redo::complete(&faulty, redo) {
            Ok(completed) => return completed,
            Err(_) => assert!(faulty.is_dead()),
        }
        // The header may have been the last write.
        if checkpoint::headers(&store.shared.database()).unwrap().iter().flatten().any(|header| header.sequence == 3) {
            return Some(0);
        }
    }
    None
}

/// Says that the index reaches a height.
fn index_up_to(store: &Store, height: u64) {
    store.shared.database().apply(BLOCKS, &[Change::put(&height.to_be_bytes(), b"a row")]).unwrap();
}

/// A cut of power can take the index and leave the log: what the record leads to would never be indexed again.
#[test]
fn a_redo_record_above_the_end_of_the_index_is_left_alone() {
    let mut world = World::new();
    let view = world.pay(1_499);
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut redo = Memory::default();
    // The log has it, the store nothing: the crash came right behind the seal.
    let at = (0..).find(|at| {
        redo = Memory::default();
        let database = store.shared.database();
        let faulty = Faulty::new(&database, *at, Fault::Before);
        let result = Checkpoints::default().write(&faulty, &mut redo, &view, &[], view.height(), |_| false);
        assert!(result.is_err(), "a checkpoint has more writes");
        redo.sealed().unwrap().is_some()
    });
    assert!(at.is_some());
    assert_eq!(redo::complete(&store.shared.database(), &redo).unwrap(), None);
    assert!(store.reader().latest_checkpoint().unwrap().is_none());
    index_up_to(&store, view.height());
    assert_eq!(redo::complete(&store.shared.database(), &redo).unwrap(), Some(view.height()));
}

#[test]
fn a_redo_record_is_not_written_over_the_newest_checkpoint_of_another_store() {
    let mut world = World::new();
    let views: Vec<StateView> = (0..4).map(|n| world.pay(n * 1_499 + 1)).collect();
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (mut checkpoints, mut redo) = (Checkpoints::default(), Memory::default());
    for view in &views {
        let shared = &store.shared;
        checkpoints.write(&shared.database(), &mut redo, view, &[], view.height(), |_| false).unwrap();
    }
    // Its last redo record holds what changed since the second checkpoint, of which the other store knows nothing.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = open(elsewhere.path());
    index_up_to(&other, views[3].height());
    for view in &views[..2] {
        write(&other, &mut Checkpoints::default(), view);
        assert_eq!(redo::complete(&other.shared.database(), &redo).unwrap(), None);
        assert!(world.is(&other.reader().latest_checkpoint().unwrap().unwrap(), view));
    }
}

#[test]
fn redo_records_survive_their_encoding_and_nothing_else_decodes() {
    let part = redo::Part {
        keys: vec![Change::put(&[1; 6], &[2; 50])],
        pages: vec![Change { key: vec![0, 0, 7], value: None }, Change::put(&[3; 8], &[])],
    };
    let bytes = part.encode();
    assert_eq!(redo::Part::decode(&bytes).unwrap(), part);
    for cut in 0..bytes.len() {
        assert!(redo::Part::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_crash_at_any_write_of_a_checkpoint_leaves_the_one_before_or_the_new_one_whole() {
    let mut world = World::new();
    let views: Vec<StateView> = (0..4).map(|n| world.pay(n * 1_499 + 1)).collect();
    let mut at = 0;
    loop {
        let mut reached = false;
        for fault in [Fault::Before, Fault::After] {
            for (same_process, redone) in [(false, false), (true, false), (false, true), (true, true)] {
                let directory = tempfile::tempdir().unwrap();
                let store = open(directory.path());
                let mut checkpoints = Checkpoints::default();
                write(&store, &mut checkpoints, &views[0]);
                write(&store, &mut checkpoints, &views[1]);
                index_up_to(&store, views[2].height());
                if !same_process {
                    checkpoints = Checkpoints::default();
                }
                let database = store.shared.database();
                let faulty = Faulty::new(&database, at, fault);
                let (view, mut redo) = (&views[2], Memory::default());
                let result = checkpoints.write(&faulty, &mut redo, view, &consensus(view), view.height(), |_| false);
                assert_eq!(result.is_err(), faulty.is_dead());
                reached |= faulty.is_dead();
                drop((checkpoints, store, database));

                let store = open(directory.path());
                // Without its redo record the checkpoint before counts, with it the new one.
                if redone {
                    let sealed = redo.sealed().unwrap().is_some();
                    let there = store.reader().latest_checkpoint().unwrap().unwrap().sequence == 3;
                    let completed = crash_and_complete(&store, &redo);
                    assert_eq!(completed.is_some(), sealed && !there, "write {at} {fault:?}");
                    assert_eq!(store.reader().latest_checkpoint().unwrap().unwrap().sequence == 3, sealed || there);
                }
                let found = store.reader().latest_checkpoint().unwrap().unwrap();
                let expected = if found.sequence == 3 { &views[2] } else { &views[1] };
                assert!(world.is(&found, expected), "write {at} {fault:?}");
                assert!(found.sequence == 3 || result.is_err(), "write {at} {fault:?}");
                write(&store, &mut Checkpoints::default(), &views[3]);
                assert!(world.is(&store.reader().latest_checkpoint().unwrap().unwrap(), &views[3]));
            }
        }
        if !reached {
            break;
        }
        at += 1;
    }
    assert!(at >= 6, "only {at} writes were tried");
}

#[test]
fn a_damaged_or_distrusted_checkpoint_gives_way_to_the_older_one_and_is_overwritten_first() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let views: Vec<StateView> = (0..4).map(|n| world.pay(n + 1)).collect();
    let store = open(directory.path());
    let mut checkpoints = Checkpoints::default();
    write(&store, &mut checkpoints, &views[0]);
    write(&store, &mut checkpoints, &views[1]);

    // One bit of one page of the newest.
    let database = &store.shared.database();
    let pages = database.scan(PAGES, None, 10_000).unwrap();
    let slot = checkpoint::candidates(database, |_| false).unwrap()[0].0;
    let of_slot = |(key, _): &&(Vec<u8>, Vec<u8>)| SlotValue::parse(key).unwrap().0 == slot;
    let (key, mut value) = pages.iter().filter(of_slot).nth(3).cloned().unwrap();
    value[100] ^= 2;
    database.apply(PAGES, &[Change::put(&key, &value)]).unwrap();
    let found = store.reader().latest_checkpoint().unwrap().unwrap();
    assert_eq!(found.sequence, 1);
    assert!(world.is(&found, &views[0]));

    // The damaged slot is written next, so that the good one stays.
    write(&store, &mut Checkpoints::default(), &views[2]);
    let sequences = |store: &Store| -> Vec<u64> {
        let headers = checkpoint::headers(&store.shared.database()).unwrap();
        headers.iter().flatten().map(|header| header.sequence).collect()
    };
    let mut left = sequences(&store);
    left.sort_unstable();
    assert_eq!(left, vec![1, 3]);

    // A root that does not match: the caller says so.
    store.reader().distrust(3);
    assert_eq!(store.reader().latest_checkpoint().unwrap().unwrap().sequence, 1);
    write(&store, &mut Checkpoints::default(), &views[3]);
    let mut left = sequences(&store);
    left.sort_unstable();
    assert_eq!(left, vec![1, 4]);
    assert!(world.is(&store.reader().latest_checkpoint().unwrap().unwrap(), &views[3]));
}

#[test]
fn a_missing_page_or_a_page_under_another_key_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let view = world.pay(1);
    let store = open(directory.path());
    write(&store, &mut Checkpoints::default(), &view);
    let database = &store.shared.database();
    let (slot, header) = checkpoint::candidates(database, |_| false).unwrap()[0];
    let pages = database.scan(PAGES, None, 10_000).unwrap();
    assert!(checkpoint::load(database, slot, &header).unwrap().is_some());
    let (key, value) = &pages[2];
    database.apply(PAGES, &[Change::remove(key)]).unwrap();
    assert!(checkpoint::load(database, slot, &header).unwrap().is_none());
    database.apply(PAGES, &[Change::put(key, &pages[3].1)]).unwrap();
    assert!(checkpoint::load(database, slot, &header).unwrap().is_none());
    database.apply(PAGES, &[Change::put(key, value)]).unwrap();
    assert!(checkpoint::load(database, slot, &header).unwrap().is_some());
}

#[test]
fn a_database_that_does_not_open_is_set_aside_and_a_new_one_begun() {
    let mut chance = Chance::printed("a_database_that_does_not_open");
    let directory = tempfile::tempdir().unwrap();
    {
        let store = open(directory.path());
        write_block(&store.shared.database(), &block(1, 500)).unwrap();
        store.shared.database().flush().unwrap();
        assert_eq!(store.set_aside(), None);
    }
    let conf = directory.path().join("store/conf");
    let noise = chance.bytes(std::fs::metadata(&conf).unwrap().len() as usize);
    std::fs::write(&conf, &noise).unwrap();
    let store = open(directory.path());
    let aside = store.set_aside().unwrap().to_owned();
    assert!(aside.file_name().unwrap().to_str().unwrap().starts_with("store.bad-"));
    assert_eq!(std::fs::read(aside.join("conf")).unwrap(), noise, "nothing of it is lost");
    assert_eq!(store.reader().highest_indexed_height().unwrap(), None);
    write_block(&store.shared.database(), &block(1, 5)).unwrap();
    assert_indexed(&store, &block(1, 5));
}

/// Whatever stands in the files, the store opens: as it was, in part, or anew. It never ends the process.
#[test]
fn random_damage_to_the_files_never_ends_the_process() {
    let mut chance = Chance::printed("random_damage_to_the_files");
    let source = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let views = [world.pay(1), world.pay(2)];
    {
        let store = open(source.path());
        let mut checkpoints = Checkpoints::default();
        views.iter().for_each(|view| {
            write(&store, &mut checkpoints, view);
        });
    }
    let mut anew = 0;
    for round in 0..25 {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("store")).unwrap();
        for entry in std::fs::read_dir(source.path().join("store")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), directory.path().join("store").join(entry.file_name())).unwrap();
            }
        }
        let path = directory.path().join("store/db");
        let mut bytes = std::fs::read(&path).unwrap();
        if round % 3 == 0 {
            bytes.truncate(chance.below(bytes.len() as u64) as usize);
        } else {
            for _ in 0..1 + chance.below(8) {
                let at = chance.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << chance.below(8);
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        let path = directory.path().to_owned();
        let store = open(&path);
        if let Ok(Some(found)) = store.reader().latest_checkpoint() {
            assert!(views.iter().any(|view| world.is(&found, view)), "round {round}");
        }
        anew += usize::from(store.set_aside().is_some());
        // Whatever came of it, the node can go on.
        write_block(&store.shared.database(), &block(1, 30)).unwrap();
        write(&store, &mut Checkpoints::default(), &views[0]);
        assert!(store.reader().latest_checkpoint().unwrap().is_some(), "round {round}");
    }
    println!("{anew} of 25 were begun anew");
}

#[test]
fn a_database_that_an_earlier_run_found_damaged_is_set_aside_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    {
        let store = open(directory.path());
        write_block(&store.shared.database(), &block(1, 5)).unwrap();
        store.shared.suspect("sled panicked on the store");
    }
    let store = open(directory.path());
    assert!(store.set_aside().is_some());
    assert_eq!(store.reader().highest_indexed_height().unwrap(), None);
    drop(store);
    assert_eq!(open(directory.path()).set_aside(), None, "once is enough");
}

#[test]
fn a_store_in_use_is_refused_and_not_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let held = open(directory.path());
    let error = Store::open(directory.path(), "v1", StoreOptions::default()).err().unwrap();
    assert!(matches!(error, StoreError::Schema(_)), "{error}");
    assert!(error.to_string().contains(&format!("is used by process {}", std::process::id())), "{error}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    drop(held);
}

#[test]
fn a_checkpoint_above_a_hole_in_the_index_is_refused_and_the_store_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let views: Vec<StateView> = (0..3).map(|n| world.pay(n + 1)).collect();
    let store = open(directory.path());
    let mut writer = StoreWriter::new(&store).unwrap();
    let checkpoint = |writer: &mut StoreWriter<'_>, view: &StateView| -> Result<CheckpointDone, StoreError> {
        let (reply, mut answer) = aurigraph_runtime::Reply::channel();
        let (view, consensus, commit_index) = (view.clone(), consensus(view), view.height());
        writer
            .apply(StoreMsg::Checkpoint { view, consensus, commit_index, behind: false, reply: Some(reply) })
            .unwrap();
        writer.finish_checkpoint().unwrap();
        answer.try_recv().unwrap()
    };
    let index = |writer: &mut StoreWriter<'_>, height| {
        writer.apply(StoreMsg::WriteBlock { block: Box::new(block(height, 2)), reply: None }).unwrap();
    };
    index(&mut writer, 1);
    index(&mut writer, 3);
    let refused = checkpoint(&mut writer, &views[2]).unwrap_err();
    assert!(matches!(refused, StoreError::NotIndexed { height: 3, indexed: 1 }), "{refused}");
    assert_eq!(checkpoint(&mut writer, &views[0]).unwrap().height, 1);
    index(&mut writer, 2);
    index(&mut writer, 3);
    assert_eq!(checkpoint(&mut writer, &views[2]).unwrap().sequence, 2);
    // A new incarnation knows the newest checkpoint, and below it nothing is missing.
    let mut later = StoreWriter::new(&store).unwrap();
    assert_eq!(checkpoint(&mut later, &views[1]).unwrap().height, 2);
}

#[test]
fn a_new_writer_knows_what_the_one_before_indexed() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let views: Vec<StateView> = (0..3).map(|n| world.pay(n + 1)).collect();
    let store = open(directory.path());
    let index = |height| {
        let block = Box::new(block(height, 2));
        StoreWriter::new(&store).unwrap().apply(StoreMsg::WriteBlock { block, reply: None }).unwrap();
    };
    (1..=3).for_each(index);
    let (reply, mut answer) = aurigraph_runtime::Reply::channel();
    let (view, consensus) = (views[2].clone(), consensus(&views[2]));
    let message = StoreMsg::Checkpoint { view, consensus, commit_index: 3, behind: false, reply: Some(reply) };
    let mut writer = StoreWriter::new(&store).unwrap();
    writer.apply(message).unwrap();
    writer.finish_checkpoint().unwrap();
    assert_eq!(answer.try_recv().unwrap().unwrap().height, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_are_indexed_while_a_checkpoint_waits_for_its_sync() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (release, held) = std::sync::mpsc::channel::<()>();
    *store.shared.held.lock() = Some(held);
    let registry = Registry::new("s1");
    let (made, mut world) = (store.clone(), World::new());
    let spec = SupervisorSpec::new("storage", Strategy::OneForOne).child(ChildSpec::behaviour(
        "store",
        STORE_MAILBOX,
        move || StoreActor::new(made.clone()),
    ));
    let tree = Tree::start(registry.clone(), spec).await.unwrap();
    let address = registry.role::<StoreMsg>("store");
    let index = async |height| {
        let block = Box::new(block(height, 3));
        address.call(LONG, |reply| StoreMsg::WriteBlock { block, reply: Some(reply) }).await.unwrap().unwrap();
    };
    index(1).await;
    let view = world.pay(1);
    let (sent, consensus, commit_index) = (view.clone(), consensus(&view), view.height());
    let asked = address.ask(|reply| StoreMsg::Checkpoint {
        view: sent,
        consensus,
        commit_index,
        behind: false,
        reply: Some(reply),
    });
    let mut done = asked.unwrap();
    for height in 2..=100 {
        index(height).await;
    }
    assert!(done.try_recv().is_err(), "the checkpoint waits");
    assert_eq!(store.reader().highest_indexed_height().unwrap(), Some(100));
    drop(release);
    assert_eq!(done.await.unwrap().unwrap().height, 1);
    assert!(world.is(&store.reader().latest_checkpoint().unwrap().unwrap(), &view));
    tree.shutdown(LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_deaths_lose_no_acknowledged_block_checkpoint_or_audit_row() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let registry = Registry::new("s1");
    let (made, mut world) = (store.clone(), World::new());
    let spec = SupervisorSpec::new("storage", Strategy::OneForOne)
        .budget(Budget { restarts: 1_000, window: LONG })
        .backoff(Backoff { first: Duration::from_millis(1), factor: 1, max: Duration::from_millis(1) })
        .child(ChildSpec::behaviour("store", STORE_MAILBOX, move || StoreActor::new(made.clone())));
    let tree = Tree::start(registry.clone(), spec).await.unwrap();
    let address = registry.role::<StoreMsg>("store");
    let deaths = [KillMode::Kill, KillMode::Panic, KillMode::Error, KillMode::Stop, KillMode::Abort];
    let (mut newest, mut rows) = (None, Vec::new());
    let mut height = 0;
    for (death, row) in deaths.into_iter().cycle().zip(1..=15_u64) {
        let view = world.pay(u32::try_from(row).unwrap());
        for missing in height + 1..=view.height() {
            let block = Box::new(block(missing, 3));
            let written = address.call(LONG, |reply| StoreMsg::WriteBlock { block, reply: Some(reply) }).await;
            written.unwrap().unwrap();
        }
        let (sent, consensus, commit_index) = (view.clone(), consensus(&view), view.height());
        let done = address.call(LONG, |reply| StoreMsg::Checkpoint {
            view: sent,
            consensus,
            commit_index,
            behind: false,
            reply: Some(reply),
        });
        assert_eq!(done.await.unwrap().unwrap().height, view.height());
        (height, newest) = (view.height(), Some(view));
        let text = Bytes::from(format!("row {row}"));
        rows.push((row, text.clone()));
        let audit = address.call(LONG, |reply| StoreMsg::Audit { rows: vec![(row, text)], reply: Some(reply) });
        audit.await.unwrap().unwrap();
        // Work under way when it dies: lost or done, never half.
        for extra in 1..4 {
            let block = Box::new(block(height + extra, 1_200));
            address.send(StoreMsg::WriteBlock { block, reply: None }).unwrap();
        }
        let before = address.generation();
        assert!(registry.kill("s1/store", death));
        eventually("it is restarted", || address.generation() > before && address.is_running()).await;
    }
    tree.shutdown(LONG).await.unwrap();
    eventually("the thread has let go", || !store.shared.owner.is_held()).await;
    let reader = store.reader();
    assert!(world.is(&reader.latest_checkpoint().unwrap().unwrap(), &newest.unwrap()));
    rows.reverse();
    assert_eq!(reader.audit_rows(None, 100).unwrap(), rows);
    assert_eq!(reader.audit_rows(Some(3), 1).unwrap(), vec![(2, Bytes::from("row 2"))]);
    for found in 1..=height {
        assert_eq!(reader.header_by_height(found).unwrap().unwrap().hash, block(found, 3).hash);
    }
}

/// Audit rows as the audit actor makes them, with times that go back now and then.
fn audit_rows(ids: std::ops::RangeInclusive<u64>) -> Vec<(u64, Bytes)> {
    use crate::audit::{AuditEntry, AuditLevel, AuditRecord};
    let record = || AuditRecord::system(AuditLevel::Info, "test", "was written", "store", "");
    ids.map(|id| (id, AuditEntry::new(id, audit_time(id), Hash::ZERO, record()).encode().into())).collect()
}

const fn audit_time(id: u64) -> u64 {
    1_000 + id * 10 - (id % 4) * 12
}

fn write_audit(store: &Store, ids: std::ops::RangeInclusive<u64>) {
    StoreWriter::new(store).unwrap().apply(StoreMsg::Audit { rows: audit_rows(ids), reply: None }).unwrap();
}

#[test]
fn audit_entries_are_indexed_by_time_as_the_upgrade_does_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    write_audit(&store, 1..=1_200);
    let database = &store.shared.database();
    let index = || database.scan(AUDIT_TIMES, None, usize::MAX).unwrap();
    let written = index();
    assert_eq!(written.len(), 1_200);
    let (plan, name) = (aurigraph_schema_upgrades::node::plan(), || "test".into());
    plan.downgrade_on(database, name(), 1).unwrap();
    assert!(!database.trees().contains(&AUDIT_TIMES.to_owned()));
    plan.upgrade_on(database, name(), None).unwrap();
    assert_eq!(index(), written);
}

#[test]
fn audit_rows_are_found_between_two_times_page_by_page() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    write_audit(&store, 1..=100);
    let reader = store.reader();
    let between = |range, before, limit| reader.audit_rows_between(range, before, limit).unwrap();
    let ids = |rows: &[(u64, u64, Bytes)]| rows.iter().map(|(_, id, _)| *id).collect::<Vec<_>>();
    let (from, to) = (1_200, 1_400);
    let mut wanted: Vec<u64> = (1..=100).filter(|id| (from..=to).contains(&audit_time(*id))).collect();
    wanted.sort_by_key(|id| std::cmp::Reverse((audit_time(*id), *id)));
    let all = between((from, to), None, 100);
    assert_eq!(ids(&all), wanted);
    let first = between((from, to), None, 5);
    let rest = between((from, to), Some((first[4].0, first[4].1)), 100);
    assert_eq!([ids(&first), ids(&rest)].concat(), wanted);
    assert!(between((to, from), None, 9).is_empty() && between((0, 900), None, 9).is_empty());
    let oldest = all.last().unwrap();
    assert!(between((oldest.0, to), Some((oldest.0, oldest.1)), 9).is_empty());

    // What a crash leaves: an index key whose entry was never written, and one of a number that was given again.
    let stray = [(1_300, 999), (1_300, 30)].map(|(time, id)| Change::put(&time_key(time, id), &[]));
    store.shared.database().apply(AUDIT_TIMES, &stray).unwrap();
    assert_eq!(ids(&between((from, to), None, 100)), wanted);
}

#[test]
fn an_older_store_is_upgraded_after_a_backup_if_that_is_allowed_and_else_says_what_to_run() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    write_audit(&store, 1..=10);
    aurigraph_schema_upgrades::node::plan().downgrade_on(&store.shared.database(), "test".into(), 1).unwrap();
    store.shared.database().sync().unwrap();
    drop(store);
    let manual = StoreOptions { upgrade: false, cache: 4 << 20, ..StoreOptions::default() };
    let refused = Store::open(directory.path(), "v1", manual).err().unwrap().to_string();
    assert!(refused.contains("version 1") && refused.contains("`schema upgrade`"), "{refused}");
    assert!(!directory.path().join("store.backups").exists());
    let store = open(directory.path());
    assert_eq!(
        (store.set_aside(), store.reader().schema_version().unwrap()),
        (None, aurigraph_schema_upgrades::node::plan().newest())
    );
    assert_eq!(store.reader().audit_rows_between((0, u64::MAX), None, 99).unwrap().len(), 10);
    assert_eq!(std::fs::read_dir(directory.path().join("store.backups")).unwrap().count(), 1);
    drop(store);
    assert!(Store::open(directory.path(), "v1", manual).is_ok(), "nothing is pending any more");
    let new = tempfile::tempdir().unwrap();
    assert!(Store::open(new.path(), "v1", manual).is_ok(), "a new store is no upgrade");
}

#[test]
fn what_is_written_going_forward_is_what_an_upgrade_of_the_same_blocks_gives() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let database = &store.shared.database();
    for (height, transactions) in [(1, 0), (2, 40), (3, 1_100)] {
        write_block(database, &block(height, transactions)).unwrap();
    }
    let content = |tree: &str| database.scan(tree, None, usize::MAX).unwrap();
    let (index, rows) = (content(PARTIES), content(BLOCKS));
    assert_eq!(index.len(), 1 + 2 * 1_140);
    let (plan, name) = (plan_with(Arc::new(Bodies)), || "test".into());
    plan.downgrade_on(database, name(), 3).unwrap();
    assert!(!database.trees().contains(&PARTIES.to_owned()));
    plan.upgrade_on(database, name(), None).unwrap();
    assert_eq!(content(PARTIES), index);
    // Nobody has measured what was there before; indexed again, it is all there.
    assert!(store.reader().header_by_height(3).unwrap().unwrap().measures == Measures::default());
    write_block(database, &block(1, 0)).unwrap();
    write_block(database, &block(2, 40)).unwrap();
    write_block(database, &block(3, 1_100)).unwrap();
    assert_eq!(content(BLOCKS), rows);
}

#[test]
fn a_block_keeps_the_finality_of_its_first_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (database, reader) = (&store.shared.database(), store.reader());
    let measures = || reader.header_by_height(5).unwrap().unwrap().measures;
    write_finality(database, 5, 9).unwrap();
    assert!(reader.header_by_height(5).unwrap().is_none());
    write_block(database, &block(5, 3)).unwrap();
    assert_eq!(measures(), Measures { finalized_after_ms: None, bytes: Some(300) });
    write_finality(database, 5, 120).unwrap();
    write_finality(database, 5, 7_000).unwrap();
    write_block(database, &block(5, 3)).unwrap();
    assert_eq!(measures(), Measures { finalized_after_ms: Some(120), bytes: Some(300) });
    let other = StoredBlock { hash: Hash([8; 32]), ..block(5, 3) };
    write_block(database, &other).unwrap();
    assert_eq!(measures().finalized_after_ms, None, "another block");
}

#[test]
fn an_accounts_transactions_are_found_newest_first_page_by_page_under_both_of_its_names() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let heights = 1..=30_u64;
    for height in heights.clone() {
        write_block(&store.shared.database(), &block(height, 12)).unwrap();
    }
    let names = [crate::parties::by_index(AccountIndex(2)), crate::parties::by_address(&Address(Hash([1; 32])))];
    let mut wanted = Vec::new();
    for height in heights.rev() {
        for index in (0..12_u32).rev() {
            let sender = if index / 3 % 5 == 2 { SENDER } else { 0 };
            let receiver = if index % 3 == 1 { RECEIVER } else { 0 };
            let role = sender | receiver;
            wanted.extend((role > 0).then_some(PartyRow { location: TransactionLocation { height, index }, role }));
        }
    }
    assert!(wanted.iter().any(|row| row.role == SENDER | RECEIVER), "some under both");
    let find = |height, range, most| store.reader().party_transactions(&names, height, range, most).unwrap();
    assert_eq!(find(u64::MAX, (0, usize::MAX), 1_000), (wanted.clone(), wanted.len(), false));
    let page = find(u64::MAX, (10, 7), 1_000);
    assert_eq!((page.0.as_slice(), page.1), (&wanted[10..17], wanted.len()));
    let older: Vec<_> = wanted.iter().copied().filter(|row| row.location.height <= 4).collect();
    assert_eq!(find(4, (0, 1_000), 1_000), (older.clone(), older.len(), false));
    assert_eq!(find(4, (0, 1_000), 3), (older[..3].to_vec(), 3, true));
    assert_eq!(find(u64::MAX, (1_000, 7), 10_000), (Vec::new(), wanted.len(), false));
}
