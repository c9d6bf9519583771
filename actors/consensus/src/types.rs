//! The small values everything else is made of: indices, references, digests of things, and their canonical codec.
//!
//! No rule of the protocol lives here.

use std::fmt;
use std::sync::Arc;

use aurigraph_ledger::codec::{CodecError, Reader, Writer};
use aurigraph_ledger::hash::Hash;

/// A round of the DAG. Round 0 is genesis.
pub type Round = u32;
/// An epoch: one fixed validator set.
pub type Epoch = u64;
/// A validator's place in the epoch's validator list.
pub type AuthorIdx = u16;
/// Stake, in the ledger's smallest unit.
pub type Stake = u64;
/// Milliseconds since the Unix epoch, or of a monotonic clock where the name says so.
pub type TimeMs = u64;
/// The number of a commit; the first one is 1.
pub type CommitIndex = u64;
/// Names one outstanding request to the driver (a signature to check, a block to sign). Never reused in one process life.
pub type Ticket = u64;
/// Names one append to the log, ascending in the order of the appends of one process life.
pub type Lsn = u64;
/// Names one request to a peer.
pub type RequestId = u64;

/// What the driver's clocks say when an event happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now {
    /// A monotonic clock: all timers and delays.
    pub mono_ms: TimeMs,
    /// The wall clock: block timestamps only.
    pub wall_ms: TimeMs,
}

/// Names one block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockRef {
    /// The block's round.
    pub round: Round,
    /// Who signed it.
    pub author: AuthorIdx,
    /// Digest of its core.
    pub digest: Hash,
}

impl fmt::Debug for BlockRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for BlockRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let d = self.digest.as_bytes();
        write!(f, "B{}({},{:02x}{:02x}{:02x}{:02x})", self.round, self.author, d[0], d[1], d[2], d[3])
    }
}

impl BlockRef {
    /// The slot this block fills.
    #[must_use]
    pub const fn slot(&self) -> Slot {
        Slot { round: self.round, author: self.author }
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.u32(self.round).u16(self.author).hash(&self.digest);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { round: r.u32()?, author: r.u16()?, digest: r.hash()? })
    }
}

/// A place for one block: an honest author fills it once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// The round.
    pub round: Round,
    /// The author.
    pub author: AuthorIdx,
}

/// A place in the sequence of leaders, ordered by round, then offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LeaderSlot {
    /// The round.
    pub round: Round,
    /// Which of the round's leaders.
    pub offset: u16,
    /// Who leads.
    pub author: AuthorIdx,
}

impl LeaderSlot {
    /// Where the slot stands in the sequence.
    #[must_use]
    pub const fn position(&self) -> (Round, u16) {
        (self.round, self.offset)
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.u32(self.round).u16(self.offset).u16(self.author);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { round: r.u32()?, offset: r.u16()?, author: r.u16()? })
    }
}

/// Names a batch of transactions; the body is the batch store's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchRef {
    /// The batch's digest.
    pub digest: Hash,
    /// Bytes of its body.
    pub len: u32,
    /// Transactions in it.
    pub tx_count: u32,
}

impl BatchRef {
    pub(crate) fn write(&self, w: &mut Writer) {
        w.hash(&self.digest).u32(self.len).u32(self.tx_count);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { digest: r.hash()?, len: r.u32()?, tx_count: r.u32()? })
    }
}

/// The newest commit a validator has computed. Commits are chained, so this speaks for all lower ones too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitRef {
    /// The commit's index; 0 before the first.
    pub index: CommitIndex,
    /// Its digest.
    pub digest: Hash,
}

impl CommitRef {
    pub(crate) fn write(&self, w: &mut Writer) {
        w.u64(self.index).hash(&self.digest);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { index: r.u64()?, digest: r.hash()? })
    }
}

/// The newest checkpoint a validator has executed and made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CkptRef {
    /// The checkpoint's number; 0 before the first.
    pub seq: u64,
    /// Its digest.
    pub digest: Hash,
}

impl CkptRef {
    pub(crate) fn write(&self, w: &mut Writer) {
        w.u64(self.seq).hash(&self.digest);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { seq: r.u64()?, digest: r.hash()? })
    }
}

/// Bytes of an ML-DSA-87 signature.
pub const SIGNATURE_LEN: usize = 4_627;

/// A signature. Not part of a block's digest: signing may be randomised. Shares the memory of the bytes that it came
/// in: most of a block is its signature.
#[derive(Clone)]
pub struct Signature {
    bytes: Arc<[u8]>,
    /// Where it stands in them; [`SIGNATURE_LEN`] bytes follow.
    at: usize,
}

impl Signature {
    /// Takes the bytes if there are exactly [`SIGNATURE_LEN`] of them.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == SIGNATURE_LEN).then(|| Self { bytes: bytes.into(), at: 0 })
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; SIGNATURE_LEN] {
        self.bytes[self.at..].first_chunk().unwrap_or(&[0; SIGNATURE_LEN])
    }

    /// The same in memory of its own, for what outlives the block it stands in.
    #[must_use]
    pub fn alone(&self) -> Self {
        if self.bytes.len() == SIGNATURE_LEN { self.clone() } else { Self { bytes: self.as_bytes()[..].into(), at: 0 } }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { bytes: r.raw(SIGNATURE_LEN)?.into(), at: 0 })
    }

    /// The same where the reader reads these bytes from their beginning.
    pub(crate) fn read_shared(bytes: &Arc<[u8]>, r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let at = r.offset();
        r.raw(SIGNATURE_LEN)?;
        Ok(Self { bytes: bytes.clone(), at })
    }
}

impl PartialEq for Signature {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Signature {}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({:02x}{:02x}..)", self.as_bytes()[0], self.as_bytes()[1])
    }
}
