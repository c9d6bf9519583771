//! The staking module: what validators and those who trust them have at stake, what it earns, what faults cost, and who
//! validates in the next epoch.
//!
//! The table starts as genesis lists the validators, and has no column of the state until something changes it: until
//! then a chain's roots are those of a ledger without the module. All money of the module stands in its table; it is
//! taken from accounts and goes back to accounts. The set that consensus works with is constant within an epoch, and
//! follows from the table when the epoch's last commit is executed.

mod arithmetic;
mod chunked;
mod epoch;
mod execute;
mod faults;
mod operations;
mod pages;
mod table;

use std::sync::Arc;

use crate::codec::{CodecError, Reader, Writer};
use crate::fault::Fault;
use crate::genesis::Genesis;
use crate::hash::Hash;
use crate::module::{BlockFacts, EpochMoney, Module, ModuleContext, ModuleId};
use crate::transaction::ModuleGroup;
use crate::tree_hasher::TreeHasher;
use crate::validator_set::EpochEnd;
pub use execute::{MAX_UNBONDING, StakingFailure};
pub use faults::FaultEvent;
pub use operations::{
    EVERYTHING, PROOF_DOMAIN, ProvenKeys, Registration, StakingOperation, TAGS, is_valid_name, proof_message,
};
pub(crate) use operations::{FORMAT, read as read_operations, write as write_operations};
pub use table::{Faults, Maintenance, Penalty, StakingTable, Standing, Unbonding, Validator, ValidatorKeys};

/// The number of the event of a fault that counted ([`FaultEvent`]).
pub const EVENT_FAULT: u16 = 1;
/// The number of the event of an epoch's end: the next epoch, and the root of its set.
pub const EVENT_EPOCH: u16 = 2;
/// The number of the event of a validator that joined: its row and its name.
pub const EVENT_JOINED: u16 = 3;

/// The module.
#[derive(Debug, Default)]
pub struct Staking {
    table: StakingTable,
    /// Whether anything has changed since genesis.
    touched: bool,
    pages: pages::Pages,
    /// An atomic transaction runs.
    atomic: bool,
    /// The table before its first change.
    saved: Option<(StakingTable, bool)>,
}

impl Staking {
    /// The table to change; remembers what it was if an atomic transaction may have to be undone.
    fn change(&mut self) -> &mut StakingTable {
        if self.atomic && self.saved.is_none() {
            self.saved = Some((self.table.clone(), self.touched));
        }
        self.touched = true;
        &mut self.table
    }
}

impl Module for Staking {
    fn id(&self) -> ModuleId {
        ModuleId::Staking
    }

    fn genesis(&mut self, genesis: &Genesis) {
        *self = Self { table: StakingTable::of_genesis(genesis), ..Self::default() };
    }

    fn is_untouched(&self) -> bool {
        !self.touched
    }

    fn faults(&mut self, block: &BlockFacts, faults: &[Fault], emit: &mut dyn FnMut(u16, Vec<u8>)) {
        for fault in faults {
            let reporter = self.table.row_of(block.epoch, fault.reporter).unwrap_or(u32::MAX);
            let touched = self.touched;
            let Some((validator, taken)) = self.change().apply(block, fault) else {
                self.touched = touched;
                continue;
            };
            let Fault { epoch, kind, digest, .. } = *fault;
            emit(EVENT_FAULT, FaultEvent { validator, epoch, kind, reporter, digest, taken }.encode());
        }
    }

    fn end_epoch(&mut self, end: &EpochEnd, mut money: EpochMoney<'_>, emit: &mut dyn FnMut(u16, Vec<u8>)) {
        let table = self.change();
        table.end_epoch(end, &mut money);
        let (next, root) = (table.epoch(), table.set_of(table.epoch()).map_or(Hash::ZERO, |set| set.root()));
        let mut w = Writer::with_capacity(40);
        w.u64(next).hash(&root);
        emit(EVENT_EPOCH, w.into_bytes());
    }

    fn staking(&self) -> Option<&StakingTable> {
        Some(&self.table)
    }

    fn execute(&mut self, group: ModuleGroup<'_>, atomic: bool, context: &mut dyn ModuleContext) {
        // A decoded group is in the format, so this gives all of its operations.
        let operations = operations::read(group.tag, group.count, &mut Reader::new(group.columns));
        for (at, operation) in operations.unwrap_or_default().iter().enumerate() {
            if let Err(failure) = execute::execute(self, operation, context) {
                context.fail(at, failure as u8);
                if atomic {
                    return;
                }
            }
        }
    }

    fn begin(&mut self) {
        (self.atomic, self.saved) = (true, None);
    }

    fn revert(&mut self) {
        if let Some((table, touched)) = self.saved.take() {
            (self.table, self.touched) = (table, touched);
        }
        self.atomic = false;
    }

    fn keep(&mut self) {
        (self.atomic, self.saved) = (false, None);
    }

    fn root(&mut self, hasher: &dyn TreeHasher) -> Hash {
        self.pages.follow(&self.table);
        self.pages.root(hasher)
    }

    fn pages(&self) -> Vec<Arc<[u8]>> {
        self.pages.shared()
    }

    fn restore(&mut self, pages: &[Vec<u8>]) -> Result<(), CodecError> {
        let table = pages::decode(self.table.parameters, pages)?;
        *self = Self { table, touched: true, ..Self::default() };
        Ok(())
    }
}
