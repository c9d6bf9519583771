//! The frame for modules, exercised by a small one: a counter for each account, in the range of governance.

use std::collections::BTreeMap;
use std::sync::Arc;

use aurigraph_ledger::module::GroupFormat;
use aurigraph_ledger::types::{AUR, SIGNATURE_LEN};
use aurigraph_ledger::{
    AccountIndex, CodecError, EventKind, FailureCode, Genesis, Hash, Ledger, Module, ModuleContext, ModuleId,
    OperationFailure, PlainHasher, Reader, Target, Transaction, TreeHasher, Verdict, Writer,
};

use crate::world::{World, genesis, key};

const TAG: u8 = 144;
const FORMATS: &[GroupFormat] =
    &[GroupFormat { tags: TAG..=TAG, read: |_, count, reader| reader.raw(count).map(|_| ()) }];

/// Adds each operation's byte to the sender's counter; a zero fails, a 200 also moves 1 AUR to account 1.
#[derive(Default)]
struct Counters {
    table: BTreeMap<u32, u64>,
    saved: Option<BTreeMap<u32, u64>>,
}

impl Module for Counters {
    fn id(&self) -> ModuleId {
        ModuleId::Governance
    }

    fn genesis(&mut self, genesis: &Genesis) {
        self.table.insert(u32::MAX, genesis.timestamp_ms);
    }

    fn execute(
        &mut self,
        group: aurigraph_ledger::transaction::ModuleGroup<'_>,
        _atomic: bool,
        context: &mut dyn ModuleContext,
    ) {
        for (at, step) in group.columns.iter().enumerate() {
            let moved = *step != 200 || context.transfer(context.sender(), AccountIndex(1), AUR);
            if *step == 0 || !moved {
                // It could stop here if atomic, and need not.
                context.fail(at, *step);
                continue;
            }
            *self.table.entry(context.sender().0).or_default() += u64::from(*step);
            context.emit(u16::from(*step), vec![*step]);
        }
    }

    fn begin(&mut self) {
        self.saved = Some(self.table.clone());
    }

    fn revert(&mut self) {
        self.table = self.saved.take().expect("revert follows begin");
    }

    fn keep(&mut self) {
        self.saved = None;
    }

    fn root(&mut self, hasher: &dyn TreeHasher) -> Hash {
        hasher.hash_one("test-counters", &self.pages()[0])
    }

    fn pages(&self) -> Vec<Arc<[u8]>> {
        let mut w = Writer::new();
        for (account, count) in &self.table {
            w.u32(*account).u64(*count);
        }
        vec![w.into_bytes().into()]
    }

    fn restore(&mut self, pages: &[Vec<u8>]) -> Result<(), CodecError> {
        let mut r = Reader::new(&pages[0]);
        self.table.clear();
        while r.left() > 0 {
            self.table.insert(r.u32()?, r.u64()?);
        }
        Ok(())
    }
}

fn world() -> World {
    let mut world = World::new();
    let modules: Vec<Box<dyn Module>> = vec![Box::<Counters>::default()];
    world.ledger = Ledger::from_genesis_with(&genesis(), Arc::new(PlainHasher), modules).expect("a valid genesis");
    world
}

fn prepared(world: &World, nonce: u64, atomic: bool, steps: &[u8]) -> aurigraph_ledger::PreparedTransaction {
    let builder = world.builder(0, nonce).transfer(Target::Index(AccountIndex(2)), AUR).atomic(atomic);
    let unsigned = builder.module_group(TAG, steps.len(), steps.to_vec()).build().expect("within the limits");
    let tx = unsigned.with_signature_and_formats(&[0; SIGNATURE_LEN], FORMATS).expect("in the module's format");
    assert!(Transaction::decode(tx.encode()).is_err(), "the tag is not one of this protocol version");
    let verdict = Some(Verdict::new(&tx, &key(0), true));
    aurigraph_ledger::PreparedTransaction { transaction: Arc::new(tx), verdict }
}

#[test]
fn a_module_executes_its_groups_beside_transfers() {
    let mut world = world();
    let before = (world.root(), world.total());
    let tx = prepared(&world, 0, false, &[5, 0, 200]);
    let block = world.commit(vec![tx]);
    let failure = OperationFailure { position: 2, code: FailureCode::Module(0) };
    assert_eq!(block.transactions[0].receipt.failures, [failure]);
    let kinds: Vec<_> = block.events.iter().map(|event| event.kind.clone()).collect();
    let event = |step: u8| EventKind::Module { module: ModuleId::Governance, kind: step.into(), data: vec![step] };
    assert_eq!(kinds, [event(5), event(200)]);
    assert_eq!(world.balance(1), crate::world::START_BALANCE + AUR);
    assert_ne!(world.root(), before.0);
    assert_eq!(world.total(), before.1);
}

#[test]
fn a_module_is_undone_with_the_rest_of_an_atomic_transaction() {
    let mut failed = world();
    let tx = prepared(&failed, 0, true, &[5, 200, 0, 7, 0]);
    let block = failed.commit(vec![tx]);
    assert!(block.transactions[0].receipt.undone && block.events.is_empty());
    let first = OperationFailure { position: 3, code: FailureCode::Module(0) };
    assert_eq!(block.transactions[0].receipt.failures, [first]);
    assert_eq!((failed.balance(1), failed.balance(2)), (crate::world::START_BALANCE, crate::world::START_BALANCE));
    // The counters are as if nothing had been tried: the next step leads to the same table.
    let view = |world: &mut World| {
        world.now += 2_000;
        let tx = prepared(world, 1, true, &[9]);
        world.commit(vec![tx]);
        let pages = world.ledger.snapshot().export_pages(None).expect("a checkpoint");
        pages.into_iter().filter(|page| page.key.column >= 16).collect::<Vec<_>>()
    };
    assert_eq!(view(&mut failed), view(&mut world()));
}

#[test]
fn a_modules_table_is_stored_and_restored_under_the_state_root() {
    let mut world = world();
    world.now += 2_000;
    let tx = prepared(&world, 0, false, &[5]);
    world.commit(vec![tx]);
    let view = world.ledger.snapshot();
    let pages = view.export_pages(None).expect("a checkpoint");
    let import = |pages| {
        let modules: Vec<Box<dyn Module>> = vec![Box::<Counters>::default()];
        Ledger::import_with(&genesis(), Arc::new(PlainHasher), pages, modules)
    };
    assert_eq!(import(pages.clone()).expect("the pages are whole").checkpoint(), view.checkpoint());
    let modules: Vec<Box<dyn Module>> = vec![Box::<Counters>::default()];
    let mut resumed = Ledger::resume_with(&genesis(), Arc::new(PlainHasher), &view, modules).expect("a checkpoint");
    assert_eq!(resumed.compute_state_root(), view.checkpoint().state_root);
    let mut changed = pages;
    let table = changed.iter_mut().rfind(|page| page.key.column >= 16).expect("the table is stored");
    *table.bytes.last_mut().expect("it has bytes") ^= 1;
    assert!(import(changed).is_err());
}
