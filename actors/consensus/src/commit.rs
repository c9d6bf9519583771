//! Commits: the ordered output of consensus, numbered and hash-chained.
//!
//! A stored [`Commit`] is enough to execute it again later without the DAG: it names the batches that count, in
//! order, with the blocks they came in.

use aurigraph_ledger::codec::{CodecError, Reader, Writer};
use aurigraph_ledger::hash::{Hash, h, h_parts};

use crate::agreement::Wrong;
use crate::block::EvidenceKind;
use crate::config::{MAX_BATCH_REFS, MAX_COMMIT_BLOCKS, MAX_COMMIT_FAULTS};
use crate::epoch::{EpochBase, EpochEnd};
use crate::types::{AuthorIdx, BatchRef, BlockRef, CommitIndex, CommitRef, Epoch, LeaderSlot, Round, TimeMs};

/// Room for an encoded header, so that writing one does not grow the buffer.
const HEADER_ROOM: usize = 320;

/// What a commit's digest covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitHeader {
    /// The epoch.
    pub epoch: Epoch,
    /// Its number; the first is 1.
    pub index: CommitIndex,
    /// Digest of the commit before it.
    pub prev_digest: Hash,
    /// Deterministic time: never decreases.
    pub timestamp_ms: TimeMs,
    /// The leader block whose history this is.
    pub leader: BlockRef,
    /// Digest of the list of blocks.
    pub blocks_root: Hash,
    /// How many blocks.
    pub block_count: u32,
    /// Blocks at or below this round can no longer be ordered.
    pub gc_round: Round,
    /// Digest of the leader schedule's state.
    pub schedule_digest: Hash,
    /// The leader slot decided last: that of `leader`.
    pub last_decided: LeaderSlot,
}

impl CommitHeader {
    /// The commit's digest.
    #[must_use]
    pub fn digest(&self) -> Hash {
        let mut w = Writer::with_capacity(HEADER_ROOM);
        self.write(&mut w);
        h("commit", w.as_slice())
    }

    /// Index and digest.
    #[must_use]
    pub fn reference(&self) -> CommitRef {
        CommitRef { index: self.index, digest: self.digest() }
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.u64(self.epoch).u64(self.index).hash(&self.prev_digest).u64(self.timestamp_ms);
        self.leader.write(w);
        w.hash(&self.blocks_root).u32(self.block_count).u32(self.gc_round).hash(&self.schedule_digest);
        self.last_decided.write(w);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            epoch: r.u64()?,
            index: r.u64()?,
            prev_digest: r.hash()?,
            timestamp_ms: r.u64()?,
            leader: BlockRef::read(r)?,
            blocks_root: r.hash()?,
            block_count: r.u32()?,
            gc_round: r.u32()?,
            schedule_digest: r.hash()?,
            last_decided: LeaderSlot::read(r)?,
        })
    }
}

/// One block of a commit with the batches that count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedBlock {
    /// The block.
    pub block: BlockRef,
    /// Its batches, without those delivered before; none for the second version of a slot.
    pub batches: Vec<BatchRef>,
}

/// What a validator is found to have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// Two blocks of one round.
    Equivocation,
    /// Two digests for one checkpoint.
    ConflictingAttestation,
    /// Two digests for one commit.
    ConflictingCommitVote,
    /// Too few delivered blocks in too many windows of the leader schedule in a row (consensus.md 8.3).
    Downtime,
    /// Another digest for a checkpoint than delivered blocks of a quorum attest.
    WrongAttestation,
}

impl From<EvidenceKind> for FaultKind {
    fn from(kind: EvidenceKind) -> Self {
        match kind {
            EvidenceKind::Equivocation => Self::Equivocation,
            EvidenceKind::ConflictingAttestation => Self::ConflictingAttestation,
            EvidenceKind::ConflictingCommitVote => Self::ConflictingCommitVote,
        }
    }
}

impl FaultKind {
    const fn tag(self) -> u8 {
        match self {
            Self::Equivocation => 0,
            Self::ConflictingAttestation => 1,
            Self::ConflictingCommitVote => 2,
            Self::Downtime => 3,
            Self::WrongAttestation => 4,
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        match r.u8()? {
            0 => Ok(Self::Equivocation),
            1 => Ok(Self::ConflictingAttestation),
            2 => Ok(Self::ConflictingCommitVote),
            3 => Ok(Self::Downtime),
            4 => Ok(Self::WrongAttestation),
            tag => Err(CodecError::Invalid { what: "fault kind", value: u64::from(tag) }),
        }
    }
}

/// A fault that a commit proves: a function of the commits, equal on all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProvenFault {
    /// The epoch of the fault: the commit's, or one before it.
    pub epoch: Epoch,
    /// Who is at fault: a place in that epoch's committee.
    pub author: AuthorIdx,
    /// What it did.
    pub kind: FaultKind,
    /// The author of the first delivered block that carries the evidence. The author at fault itself where no block
    /// needs to: what the order of blocks shows by itself is nobody's merit. A place in the committee of the commit's epoch.
    pub reporter: AuthorIdx,
    /// What the conflict is known by: [`crate::Evidence::digest`].
    pub digest: Hash,
}

impl ProvenFault {
    /// That a validator's downtime is found at this commit.
    #[must_use]
    pub fn downtime(epoch: Epoch, index: CommitIndex, author: AuthorIdx) -> Self {
        let parts: [&[u8]; 3] = [&epoch.to_le_bytes(), &index.to_le_bytes(), &author.to_le_bytes()];
        Self { epoch, author, kind: FaultKind::Downtime, reporter: author, digest: h_parts("downtime", &parts) }
    }

    /// That a validator's attestation is not what a quorum attests.
    #[must_use]
    pub fn wrong_attestation(epoch: Epoch, wrong: &Wrong) -> Self {
        let Wrong { author, attested, agreed } = wrong;
        let (epoch_bytes, author_bytes, seq) = (epoch.to_le_bytes(), author.to_le_bytes(), attested.seq.to_le_bytes());
        let parts: [&[u8]; 5] = [&epoch_bytes, &author_bytes, &seq, attested.digest.as_bytes(), agreed.as_bytes()];
        let digest = h_parts("wrong-attestation", &parts);
        Self { epoch, author: *author, kind: FaultKind::WrongAttestation, reporter: *author, digest }
    }
}

impl ProvenFault {
    fn write(&self, w: &mut Writer) {
        w.u64(self.epoch).u16(self.author).u8(self.kind.tag()).u16(self.reporter).hash(&self.digest);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let (epoch, author, kind) = (r.u64()?, r.u16()?, FaultKind::read(r)?);
        Ok(Self { epoch, author, kind, reporter: r.u16()?, digest: r.hash()? })
    }
}

/// A commit in execution order, with everything needed to execute it but the batch bodies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// What its digest covers.
    pub header: CommitHeader,
    /// The blocks in execution order; the leader is the last.
    pub blocks: Vec<CommittedBlock>,
    /// That it is its epoch's last. Not covered by the digest: it follows from the commits.
    pub epoch_end: Option<EpochEnd>,
    /// The faults that it proves, in the order of their blocks: each (epoch of the fault, author, kind) once in the commits
    /// of an epoch, but for downtime, which comes last and may come again. Execution counts each once for ever.
    pub faults: Vec<ProvenFault>,
    /// Digest of the order's state at the newest anchor, this commit or one before it; zero before the first of an epoch.
    /// Not covered by the digest: it follows from the commits, and checkpoints carry it.
    pub state_digest: Hash,
}

impl Commit {
    /// The batches to execute, in order, with the block each came in.
    pub fn batches(&self) -> impl Iterator<Item = (BlockRef, BatchRef)> + '_ {
        self.blocks.iter().flat_map(|b| b.batches.iter().map(move |batch| (b.block, *batch)))
    }

    /// Whether anything is delivered to execution.
    #[must_use]
    pub fn has_payload(&self) -> bool {
        self.blocks.iter().any(|b| !b.batches.is_empty())
    }

    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(HEADER_ROOM + 96 * self.blocks.len());
        self.write(&mut w);
        w.into_bytes()
    }

    /// Takes a commit from its canonical bytes.
    ///
    /// # Errors
    /// If the bytes are no commit, or the list is not the one the header names.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let commit = Self::read(&mut r)?;
        r.finish()?;
        Ok(commit)
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        self.header.write(w);
        w.varint(self.blocks.len() as u64);
        for b in &self.blocks {
            b.block.write(w);
            w.varint(b.batches.len() as u64);
            for batch in &b.batches {
                batch.write(w);
            }
        }
        match &self.epoch_end {
            None => {
                w.u8(0);
            }
            Some(end) => {
                w.u8(1);
                end.write(w);
            }
        }
        w.varint(self.faults.len() as u64);
        for fault in &self.faults {
            fault.write(w);
        }
        w.hash(&self.state_digest);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let header = CommitHeader::read(r)?;
        let count = r.varint_max("blocks of a commit", MAX_COMMIT_BLOCKS as u64)?;
        let mut blocks = Vec::new();
        for _ in 0..count {
            let block = BlockRef::read(r)?;
            let batches = r.varint_max("batch references", MAX_BATCH_REFS as u64)?;
            let batches = (0..batches).map(|_| BatchRef::read(r)).collect::<Result<_, _>>()?;
            blocks.push(CommittedBlock { block, batches });
        }
        if u64::from(header.block_count) != count || header.blocks_root != blocks_root(blocks.iter().map(|b| &b.block))
        {
            return Err(CodecError::Invalid { what: "blocks of a commit", value: count });
        }
        let epoch_end = match r.u8()? {
            0 => None,
            1 => Some(EpochEnd::read(r)?),
            tag => return Err(CodecError::Invalid { what: "epoch end tag", value: u64::from(tag) }),
        };
        let count = r.varint_max("faults of a commit", MAX_COMMIT_FAULTS as u64)?;
        let faults = (0..count).map(|_| ProvenFault::read(r)).collect::<Result<_, _>>()?;
        Ok(Self { header, blocks, epoch_end, faults, state_digest: r.hash()? })
    }
}

/// Digest of a commit's list of blocks.
#[must_use]
pub fn blocks_root<'a>(blocks: impl Iterator<Item = &'a BlockRef>) -> Hash {
    let mut w = Writer::with_capacity(HEADER_ROOM);
    for block in blocks {
        block.write(&mut w);
    }
    h("commit-blocks", w.as_slice())
}

/// What stands before the first commit of an epoch: the index of the last commit before it, and a digest that binds the
/// epoch and its seed.
#[must_use]
pub fn genesis_commit(chain_id: &Hash, epoch: Epoch, epoch_seed: &Hash, base: EpochBase) -> CommitRef {
    let digest = h_parts("genesis-commit", &[chain_id.as_bytes(), &epoch.to_le_bytes(), epoch_seed.as_bytes()]);
    CommitRef { index: base.index, digest }
}
