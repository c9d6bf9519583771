//! A fault of a validator that a commit proves, as it hands it to execution.
//!
//! Only data. How evidence is found and verified is consensus's business, what a fault costs is the staking module's.

use serde::{Deserialize, Serialize};

use crate::codec::CodecError;
use crate::hash::Hash;
use crate::types::ValidatorIndex;

/// What a validator is found to have done (consensus.md, 8.1 and 8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum FaultKind {
    /// Two blocks of one round.
    Equivocation = 1,
    /// Two digests for one checkpoint.
    ConflictingAttestation = 2,
    /// Two digests for one commit.
    ConflictingCommitVote = 3,
    /// It proposed too few of the delivered blocks for too long. No proof of a wrong: it may have been cut off.
    Downtime = 4,
    /// Another digest for a checkpoint than a quorum attests: a bug or bad hardware rather than a lie.
    WrongAttestation = 5,
}

impl FaultKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Equivocation,
        Self::ConflictingAttestation,
        Self::ConflictingCommitVote,
        Self::Downtime,
        Self::WrongAttestation,
    ];

    /// Whether it costs stake; otherwise it jails alone.
    #[must_use]
    pub const fn slashes(self) -> bool {
        !matches!(self, Self::Downtime | Self::WrongAttestation)
    }

    /// The kind with this number.
    ///
    /// # Errors
    /// [`CodecError`] if there is none.
    pub fn decode(byte: u8) -> Result<Self, CodecError> {
        let kind = Self::ALL.into_iter().find(|kind| *kind as u8 == byte);
        kind.ok_or(CodecError::Invalid { what: "fault kind", value: byte.into() })
    }
}

/// A fault whose evidence stands in a block of the commit. Acceptance does not check the signatures of evidence: whoever
/// makes the [`crate::CommitInput`] does, and leaves out what does not verify.
///
/// Faults are a function of the commits alone: all nodes derive the same ones in the same order. The same fault may
/// come again, from another reporter or in a later commit; execution counts the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Who is at fault: a position in the validator set of `epoch`.
    pub validator: ValidatorIndex,
    /// The epoch of the conflicting statements.
    pub epoch: u64,
    /// What it did.
    pub kind: FaultKind,
    /// A position in the set of the commit's epoch: the author of the first delivered block that carries the evidence; the validator at fault itself where the order of
    /// blocks is proof enough.
    pub reporter: ValidatorIndex,
    /// The evidence's digest, for events and for looking it up.
    pub digest: Hash,
}
