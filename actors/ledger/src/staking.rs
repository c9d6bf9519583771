//! The staking module: what validators have at stake, and what proven faults cost them.
//!
//! The table starts as genesis lists the validators, and has no column of the state until the first fault changes it:
//! until then a chain's roots are those of a ledger without the module. The validator set that consensus works with is
//! not touched here: it is constant within an epoch. Operations (tags 16 to 31) have no format yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::codec::{CodecError, Reader, Writer};
use crate::fault::{Fault, FaultKind};
use crate::genesis::{Genesis, MAX_VALIDATORS};
use crate::hash::Hash;
use crate::module::{Module, ModuleContext, ModuleId};
use crate::transaction::ModuleGroup;
use crate::tree_hasher::TreeHasher;
use crate::types::ValidatorIndex;

/// What an equivocator loses, in basis points of its stake.
pub const EQUIVOCATION_SLASH: u64 = 500;
/// What conflicting attestations or commit votes cost: a fifth of it.
pub const CONFLICT_SLASH: u64 = EQUIVOCATION_SLASH / 5;
/// The number of the event of a fault that counted.
pub const EVENT_FAULT: u16 = 1;

const VERSION: u8 = 2;
const WHOLE: u64 = 10_000;
/// Most faults that are remembered; a bound for decoding only: four kinds for each validator and epoch.
const MAX_FAULTS: u64 = 1 << 24;

/// How a validator stands; it never gets better without an operation of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Standing {
    /// Nothing is held against it.
    Active = 0,
    /// Signed conflicting statements, or proposed too little: not of the next set until it asks back in.
    Jailed = 1,
    /// Equivocated: never of a set again under this key.
    Removed = 2,
}

impl Standing {
    const fn after(kind: FaultKind) -> Self {
        match kind {
            FaultKind::Equivocation => Self::Removed,
            FaultKind::ConflictingAttestation | FaultKind::ConflictingCommitVote | FaultKind::Downtime => Self::Jailed,
        }
    }

    const fn decode(byte: u8) -> Result<Self, CodecError> {
        match byte {
            0 => Ok(Self::Active),
            1 => Ok(Self::Jailed),
            2 => Ok(Self::Removed),
            other => Err(CodecError::Invalid { what: "standing of a validator", value: other as u64 }),
        }
    }
}

/// A validator's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValidatorStake {
    /// What it has at stake now.
    pub stake: u64,
    /// What it lost; stake and this are always what genesis gave it. Slashed stake is burnt: nobody gets it.
    pub slashed: u64,
    /// How often it was slashed.
    pub slashes: u32,
    /// How it stands.
    pub standing: Standing,
}

/// The module's table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StakingTable {
    /// A row for each validator, by its index.
    pub validators: Vec<ValidatorStake>,
    /// The faults that counted, by (epoch, validator, kind): another report of one does nothing. Of downtime the newest.
    faults: BTreeMap<(u64, ValidatorIndex, FaultKind), Penalty>,
}

/// What a fault that counted came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Penalty {
    /// In which block.
    pub height: u64,
    /// The stake that it took; none of a validator that was slashed in this epoch before, and for downtime.
    pub taken: u64,
}

impl StakingTable {
    fn of_genesis(genesis: &Genesis) -> Self {
        let row = |stake| ValidatorStake { stake, slashed: 0, slashes: 0, standing: Standing::Active };
        let validators = genesis.validators.iter().map(|validator| row(validator.stake)).collect();
        Self { validators, faults: BTreeMap::new() }
    }

    /// The faults that counted, by (epoch, validator, kind).
    #[must_use]
    pub const fn faults(&self) -> &BTreeMap<(u64, ValidatorIndex, FaultKind), Penalty> {
        &self.faults
    }

    /// Applies a fault; what it took, or nothing if it was counted before or names nobody.
    ///
    /// There is at most one slash for each (epoch, validator), that of its first fault in delivered order; a further
    /// fault of another kind can only worsen the standing.
    fn apply(&mut self, height: u64, fault: &Fault) -> Option<u64> {
        let row = self.validators.get_mut(usize::from(fault.validator))?;
        let key = |kind| (fault.epoch, fault.validator, kind);
        let counted = match fault.kind {
            // Once it is out it cannot propose: that is no further fault. Back in, it can be absent again.
            FaultKind::Downtime => row.standing != Standing::Active,
            kind => self.faults.contains_key(&key(kind)),
        };
        if counted {
            return None;
        }
        let slashing = FaultKind::ALL.into_iter().filter(|kind| *kind != FaultKind::Downtime);
        let slashed_before = slashing.into_iter().any(|kind| self.faults.contains_key(&key(kind)));
        row.standing = row.standing.max(Standing::after(fault.kind));
        let share = match fault.kind {
            _ if slashed_before => None,
            FaultKind::Equivocation => Some(EQUIVOCATION_SLASH),
            FaultKind::ConflictingAttestation | FaultKind::ConflictingCommitVote => Some(CONFLICT_SLASH),
            FaultKind::Downtime => None,
        };
        let taken = share.map_or(0, |share| slash_of(row.stake, share));
        if share.is_some() {
            row.stake -= taken;
            row.slashed += taken;
            row.slashes = row.slashes.saturating_add(1);
        }
        self.faults.insert(key(fault.kind), Penalty { height, taken });
        Some(taken)
    }

    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(16 + self.validators.len() * 21 + self.faults.len() * 27);
        w.u8(VERSION).varint(self.validators.len() as u64);
        for row in &self.validators {
            w.u64(row.stake).u64(row.slashed).u32(row.slashes).u8(row.standing as u8);
        }
        w.varint(self.faults.len() as u64);
        for ((epoch, validator, kind), penalty) in &self.faults {
            w.u64(*epoch).u16(*validator).u8(*kind as u8).u64(penalty.height).u64(penalty.taken);
        }
        w.into_bytes()
    }

    /// Reads the table's one page back; no other bytes decode.
    ///
    /// # Errors
    /// [`CodecError`] saying where and why.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(CodecError::Invalid { what: "version of the staking table", value: version.into() });
        }
        let mut table = Self::default();
        for _ in 0..r.varint_max("number of validators", MAX_VALIDATORS as u64)? {
            let (stake, slashed, slashes) = (r.u64()?, r.u64()?, r.u32()?);
            let standing = Standing::decode(r.u8()?)?;
            table.validators.push(ValidatorStake { stake, slashed, slashes, standing });
        }
        for _ in 0..r.varint_max("number of faults", MAX_FAULTS)? {
            let fault = (r.u64()?, r.u16()?, FaultKind::decode(r.u8()?)?);
            if table.faults.last_key_value().is_some_and(|(last, _)| *last >= fault) {
                return Err(CodecError::Invalid { what: "fault out of order, of validator", value: fault.1.into() });
            }
            table.faults.insert(fault, Penalty { height: r.u64()?, taken: r.u64()? });
        }
        r.finish()?;
        Ok(table)
    }
}

/// A share of a stake in basis points, rounded up: no fault is free for a small stake.
fn slash_of(stake: u64, share: u64) -> u64 {
    let taken = (u128::from(stake) * u128::from(share)).div_ceil(WHOLE.into());
    u64::try_from(taken).unwrap_or(stake).min(stake)
}

/// The data of an [`EVENT_FAULT`]: validator, epoch, kind, reporter, digest of the evidence, stake taken.
fn event_of(fault: &Fault, taken: u64) -> Vec<u8> {
    let mut w = Writer::with_capacity(64);
    w.u16(fault.validator).u64(fault.epoch).u8(fault.kind as u8).u16(fault.reporter).hash(&fault.digest).u64(taken);
    w.into_bytes()
}

/// Takes a fault that counted, and the stake that it took, from the data of an [`EVENT_FAULT`].
///
/// # Errors
/// [`CodecError`] if it is none.
pub fn decode_event(data: &[u8]) -> Result<(Fault, u64), CodecError> {
    let mut r = Reader::new(data);
    let (validator, epoch, kind) = (r.u16()?, r.u64()?, FaultKind::decode(r.u8()?)?);
    let fault = Fault { validator, epoch, kind, reporter: r.u16()?, digest: r.hash()? };
    let taken = r.u64()?;
    r.finish()?;
    Ok((fault, taken))
}

/// The module.
#[derive(Debug, Default)]
pub struct Staking {
    table: StakingTable,
    /// The table's bytes since its last change; faults come between transactions, never inside one.
    page: Option<Arc<[u8]>>,
}

impl Staking {
    fn encoded(&self) -> Arc<[u8]> {
        self.page.clone().unwrap_or_else(|| self.table.encode().into())
    }
}

impl Module for Staking {
    fn id(&self) -> ModuleId {
        ModuleId::Staking
    }

    fn genesis(&mut self, genesis: &Genesis) {
        *self = Self { table: StakingTable::of_genesis(genesis), page: None };
    }

    fn is_untouched(&self) -> bool {
        self.table.faults.is_empty()
    }

    fn faults(&mut self, height: u64, faults: &[Fault], emit: &mut dyn FnMut(u16, Vec<u8>)) {
        for fault in faults {
            if let Some(taken) = self.table.apply(height, fault) {
                self.page = None;
                emit(EVENT_FAULT, event_of(fault, taken));
            }
        }
    }

    fn execute(&mut self, group: ModuleGroup<'_>, _atomic: bool, context: &mut dyn ModuleContext) {
        // No format decodes to such a group yet.
        (0..group.count).for_each(|at| context.fail(at, 0));
    }

    // No operation changes the table, so a transaction has nothing to undo.
    fn begin(&mut self) {}

    fn revert(&mut self) {}

    fn keep(&mut self) {}

    fn root(&mut self, hasher: &dyn TreeHasher) -> Hash {
        let page = self.encoded();
        let root = hasher.hash_one("staking", &page);
        self.page = Some(page);
        root
    }

    fn pages(&self) -> Vec<Arc<[u8]>> {
        vec![self.encoded()]
    }

    fn restore(&mut self, pages: &[Vec<u8>]) -> Result<(), CodecError> {
        let [page] = pages else {
            return Err(CodecError::Invalid { what: "number of staking pages", value: pages.len() as u64 });
        };
        let table = StakingTable::decode(page)?;
        if table.validators.len() != self.table.validators.len() || table.faults.is_empty() {
            let value = table.validators.len() as u64;
            return Err(CodecError::Invalid { what: "staking table that no fault of this chain made, rows", value });
        }
        *self = Self { table, page: Some(page.as_slice().into()) };
        Ok(())
    }
}
