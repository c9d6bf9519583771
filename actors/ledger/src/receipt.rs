//! Receipts: what became of an included transaction, operation by operation.
//!
//! Only data and its canonical encoding; a receipt is a leaf of a block's receipts tree.

use serde::{Deserialize, Serialize};

use crate::codec::{CodecError, Reader, Writer};
use crate::hash::Hash;
use crate::types::{Amount, MAX_OPERATIONS};

const VERSION: u8 = 1;

/// Why an operation had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureCode {
    /// The amount is zero.
    ZeroAmount,
    /// Sender and receiver are one account; in protocol version 1 alone.
    SelfTransfer,
    /// No account has the receiver's index.
    UnknownIndex,
    /// The sender has less than the amount.
    InsufficientBalance,
    /// The receiver's balance would exceed what an amount can hold.
    BalanceOverflow,
    /// No account index is left.
    NoIndexLeft,
    /// A module's own code.
    Module(u8),
}

impl FailureCode {
    const fn encode(self) -> [u8; 2] {
        match self {
            Self::ZeroAmount => [0, 0],
            Self::SelfTransfer => [0, 1],
            Self::UnknownIndex => [0, 2],
            Self::InsufficientBalance => [0, 3],
            Self::BalanceOverflow => [0, 4],
            Self::NoIndexLeft => [0, 5],
            Self::Module(code) => [1, code],
        }
    }

    fn decode(bytes: [u8; 2]) -> Result<Self, CodecError> {
        Ok(match bytes {
            [0, 0] => Self::ZeroAmount,
            [0, 1] => Self::SelfTransfer,
            [0, 2] => Self::UnknownIndex,
            [0, 3] => Self::InsufficientBalance,
            [0, 4] => Self::BalanceOverflow,
            [0, 5] => Self::NoIndexLeft,
            [1, code] => Self::Module(code),
            other => return Err(CodecError::Invalid { what: "failure code", value: u16::from_le_bytes(other).into() }),
        })
    }
}

/// A failed operation of an included transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationFailure {
    /// The operation's position in the transaction.
    pub position: u32,
    /// Why it failed.
    pub code: FailureCode,
}

/// What became of an included transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The transaction's id.
    pub id: Hash,
    /// The fee that was paid, in AUR when written as text.
    #[serde(with = "crate::types::aur")]
    pub fee: Amount,
    /// How many operations the transaction holds.
    pub operations: u32,
    /// Whether the transaction was atomic and one failure undid every operation; the list then names that failure.
    pub undone: bool,
    /// The failed operations, by ascending position.
    pub failures: Vec<OperationFailure>,
}

impl Receipt {
    /// Whether every operation had its effect.
    #[must_use]
    pub const fn all_applied(&self) -> bool {
        self.failures.is_empty()
    }

    /// How many operations had their effect.
    #[must_use]
    pub const fn applied_count(&self) -> usize {
        if self.undone { 0 } else { self.operations as usize - self.failures.len() }
    }

    /// One bit an operation, lowest first: whether it had its effect.
    #[must_use]
    pub fn result_bits(&self) -> Vec<u8> {
        let count = self.operations as usize;
        let mut bits = vec![if self.undone { 0 } else { 0xff }; count.div_ceil(8)];
        for failure in &self.failures {
            let at = failure.position as usize;
            if let Some(byte) = bits.get_mut(at / 8) {
                *byte &= !(1 << (at % 8));
            }
        }
        if let (Some(last), used @ 1..) = (bits.last_mut(), count % 8) {
            *last &= (1 << used) - 1;
        }
        bits
    }

    /// The canonical encoding: id, fee, operation count, whether undone, failures. The result bits follow from these.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(56 + 4 * self.failures.len());
        w.u8(VERSION).hash(&self.id).u128(self.fee).varint(self.operations.into()).u8(self.undone.into());
        w.varint(self.failures.len() as u64);
        for failure in &self.failures {
            w.varint(failure.position.into()).raw(&failure.code.encode());
        }
        w.into_bytes()
    }

    /// Reads the canonical encoding back; no other bytes decode.
    ///
    /// # Errors
    /// [`CodecError`] saying where and why.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        match r.u8()? {
            VERSION => {}
            other => return Err(CodecError::Invalid { what: "receipt version", value: other.into() }),
        }
        let (id, fee) = (r.hash()?, r.u128()?);
        let operations = r.varint_max("number of operations", MAX_OPERATIONS as u64)?;
        let undone = match r.u8()? {
            0 => false,
            1 => true,
            other => return Err(CodecError::Invalid { what: "undone flag", value: other.into() }),
        };
        let count = r.varint_max("number of failures", if undone { 1 } else { operations })?;
        if operations == 0 || (undone && count == 0) {
            return Err(CodecError::Invalid { what: "number of failures", value: count });
        }
        let mut failures: Vec<OperationFailure> = Vec::new();
        for _ in 0..count {
            #[allow(clippy::cast_possible_truncation)]
            let position = r.varint_max("position of a failure", operations - 1)? as u32;
            if failures.last().is_some_and(|last| last.position >= position) {
                return Err(CodecError::Invalid { what: "order of failures", value: position.into() });
            }
            failures.push(OperationFailure { position, code: FailureCode::decode(r.array()?)? });
        }
        r.finish()?;
        #[allow(clippy::cast_possible_truncation)]
        Ok(Self { id, fee, operations: operations as u32, undone, failures })
    }
}
