//! Blocks: the signed core, the lists it commits to, evidence, and their one wire form.
//!
//! Decoding then encoding is the identity, or the bytes are refused: a block has one wire form. Rules that need the
//! validator set stand in `validity`.

use std::sync::Arc;

use aurigraph_ledger::codec::{CodecError, Reader, Writer};
use aurigraph_ledger::hash::{Hash, h, h_parts};

use crate::config::{CORE_LEN, MAX_BATCH_REFS, MAX_BLOCK_BYTES, MAX_EVIDENCE, MAX_VALIDATORS, SIGNED_CORE_LEN};
use crate::types::{AuthorIdx, BatchRef, BlockRef, CkptRef, CommitRef, Epoch, Round, Signature, TimeMs};

/// Domain of block signatures; part of the message, because not every verifier offers a context string.
pub const SIGNING_DOMAIN: &[u8] = b"aurigraph/block/v1";

/// The part of a block that is signed: fixed size, commits to the lists by their roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockCore {
    /// Version of this encoding.
    pub version: u16,
    /// Newest protocol version the author can run.
    pub supports: u16,
    /// The chain.
    pub chain_id: Hash,
    /// The epoch.
    pub epoch: Epoch,
    /// The round.
    pub round: Round,
    /// Who signs.
    pub author: AuthorIdx,
    /// The author's clock.
    pub timestamp_ms: TimeMs,
    /// Digest of the parents.
    pub parents_root: Hash,
    /// Digest of the batch references.
    pub payload_root: Hash,
    /// Digest of the extras.
    pub extras_root: Hash,
    /// Newest commit the author has computed.
    pub commit_vote: CommitRef,
    /// Newest checkpoint the author has executed and made durable.
    pub attestation: CkptRef,
}

impl BlockCore {
    /// The canonical bytes, always [`CORE_LEN`] of them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(CORE_LEN);
        self.write(&mut w);
        w.into_bytes()
    }

    /// Takes a core from its [`CORE_LEN`] bytes.
    ///
    /// # Errors
    /// If there are fewer or more.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let core = Self::read(&mut r)?;
        r.finish()?;
        Ok(core)
    }

    /// The block's digest: of the core alone.
    #[must_use]
    pub fn digest(&self) -> Hash {
        h("block", &self.encode())
    }

    /// The block's reference.
    #[must_use]
    pub fn reference(&self) -> BlockRef {
        BlockRef { round: self.round, author: self.author, digest: self.digest() }
    }

    /// What the author signs.
    #[must_use]
    pub fn signing_message(&self) -> Vec<u8> {
        signing_message(&self.chain_id, &self.digest())
    }

    fn write(&self, w: &mut Writer) {
        w.u16(self.version).u16(self.supports).hash(&self.chain_id).u64(self.epoch);
        w.u32(self.round).u16(self.author).u64(self.timestamp_ms);
        w.hash(&self.parents_root).hash(&self.payload_root).hash(&self.extras_root);
        self.commit_vote.write(w);
        self.attestation.write(w);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            version: r.u16()?,
            supports: r.u16()?,
            chain_id: r.hash()?,
            epoch: r.u64()?,
            round: r.u32()?,
            author: r.u16()?,
            timestamp_ms: r.u64()?,
            parents_root: r.hash()?,
            payload_root: r.hash()?,
            extras_root: r.hash()?,
            commit_vote: CommitRef::read(r)?,
            attestation: CkptRef::read(r)?,
        })
    }
}

/// The message of a block signature; the context string is empty.
#[must_use]
pub fn signing_message(chain_id: &Hash, block_digest: &Hash) -> Vec<u8> {
    [SIGNING_DOMAIN, chain_id.as_bytes(), block_digest.as_bytes()].concat()
}

/// A signed statement without its lists: evidence, certificates, proofs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCore {
    /// What is signed.
    pub core: BlockCore,
    /// The author's signature.
    pub signature: Signature,
}

impl SignedCore {
    /// The canonical bytes, always [`SIGNED_CORE_LEN`] of them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(SIGNED_CORE_LEN);
        self.write(&mut w);
        w.into_bytes()
    }

    /// Takes a signed core from its bytes. The signature is not checked.
    ///
    /// # Errors
    /// If there are fewer or more.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let signed = Self::read(&mut r)?;
        r.finish()?;
        Ok(signed)
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        self.core.write(w);
        w.raw(self.signature.as_bytes());
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { core: BlockCore::read(r)?, signature: Signature::read(r)? })
    }
}

/// What two signed statements of one author contradict each other in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EvidenceKind {
    /// Two blocks of one slot.
    Equivocation,
    /// Two digests for one checkpoint.
    ConflictingAttestation,
    /// Two digests for one commit.
    ConflictingCommitVote,
}

impl EvidenceKind {
    pub(crate) const fn tag(self) -> u8 {
        match self {
            Self::Equivocation => 0,
            Self::ConflictingAttestation => 1,
            Self::ConflictingCommitVote => 2,
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        match r.u8()? {
            0 => Ok(Self::Equivocation),
            1 => Ok(Self::ConflictingAttestation),
            2 => Ok(Self::ConflictingCommitVote),
            tag => Err(CodecError::Invalid { what: "evidence kind", value: u64::from(tag) }),
        }
    }
}

/// What a conflict of two statements with these digests is known by, whichever of them is named first.
#[must_use]
pub fn conflict_digest(kind: EvidenceKind, a: &Hash, b: &Hash) -> Hash {
    let (a, b) = if a <= b { (a, b) } else { (b, a) };
    h_parts("evidence", &[&[kind.tag()], a.as_bytes(), b.as_bytes()])
}

/// Whom evidence accuses of what: the epoch of the statements, the author's place in that epoch's committee, and in what
/// they contradict each other. Evidence counts once for these.
pub type Accusation = (Epoch, AuthorIdx, EvidenceKind);

/// Two signed statements of one author that cannot both be honest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// In what they contradict each other.
    pub kind: EvidenceKind,
    /// The one.
    pub a: SignedCore,
    /// The other.
    pub b: SignedCore,
}

impl Evidence {
    /// Whether the two cores contradict each other as the kind says. Signatures are not looked at.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        let (a, b) = (&self.a.core, &self.b.core);
        // In one order, so that one conflict has one encoding.
        if a.author != b.author || a.chain_id != b.chain_id || a.epoch != b.epoch || a.digest() >= b.digest() {
            return false;
        }
        match self.kind {
            EvidenceKind::Equivocation => a.round == b.round,
            EvidenceKind::ConflictingAttestation => {
                a.attestation.seq == b.attestation.seq && a.attestation.digest != b.attestation.digest
            }
            EvidenceKind::ConflictingCommitVote => {
                a.commit_vote.index == b.commit_vote.index && a.commit_vote.digest != b.commit_vote.digest
            }
        }
    }

    /// Evidence of two blocks in one slot, in the order that has one encoding.
    #[must_use]
    pub fn equivocation(a: SignedCore, b: SignedCore) -> Self {
        let (a, b) = if a.core.digest() <= b.core.digest() { (a, b) } else { (b, a) };
        Self { kind: EvidenceKind::Equivocation, a, b }
    }

    /// Evidence of two digests for one checkpoint, in the order that has one encoding.
    #[must_use]
    pub fn conflicting_attestation(a: SignedCore, b: SignedCore) -> Self {
        let kind = EvidenceKind::ConflictingAttestation;
        Self { kind, ..Self::equivocation(a, b) }
    }

    /// Evidence of two digests for one commit, in the order that has one encoding.
    #[must_use]
    pub fn conflicting_commit_vote(a: SignedCore, b: SignedCore) -> Self {
        Self { kind: EvidenceKind::ConflictingCommitVote, ..Self::equivocation(a, b) }
    }

    /// Who signed both statements in which epoch, and what contradicts itself in them.
    #[must_use]
    pub const fn accusation(&self) -> Accusation {
        (self.a.core.epoch, self.a.core.author, self.kind)
    }

    /// What the conflict is known by. Of the two statements alone: other signatures over the same are no other conflict.
    #[must_use]
    pub fn digest(&self) -> Hash {
        conflict_digest(self.kind, &self.a.core.digest(), &self.b.core.digest())
    }

    /// Digest of the bytes, signatures included: what a verdict on the signatures is kept under.
    #[must_use]
    pub fn proof_digest(&self) -> Hash {
        let mut w = Writer::with_capacity(1 + 2 * SIGNED_CORE_LEN);
        self.write(&mut w);
        h("evidence-proof", w.as_slice())
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.u8(self.kind.tag());
        self.a.write(w);
        self.b.write(w);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { kind: EvidenceKind::read(r)?, a: SignedCore::read(r)?, b: SignedCore::read(r)? })
    }
}

/// What a block carries beside parents and payload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extras {
    /// At most [`MAX_EVIDENCE`] items.
    pub evidence: Vec<Evidence>,
}

impl Extras {
    fn write(&self, w: &mut Writer) {
        w.varint(self.evidence.len() as u64);
        for item in &self.evidence {
            item.write(w);
        }
        w.u8(0);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let count = r.varint_max("evidence items", MAX_EVIDENCE as u64)?;
        let evidence = (0..count).map(|_| Evidence::read(r)).collect::<Result<_, _>>()?;
        match r.u8()? {
            0 => Ok(Self { evidence }),
            reserved => Err(CodecError::Invalid { what: "reserved extras", value: u64::from(reserved) }),
        }
    }

    /// Digest for the core.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut w = Writer::new();
        self.write(&mut w);
        h("extras", w.as_slice())
    }
}

/// A block: the signed core and the lists it commits to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The signed part.
    pub core: BlockCore,
    /// Own previous block first, then the others by author.
    pub parents: Vec<BlockRef>,
    /// The payload, by digest.
    pub batches: Vec<BatchRef>,
    /// Evidence.
    pub extras: Extras,
    /// The author's signature over the core.
    pub signature: Signature,
}

impl Block {
    /// The block's reference.
    #[must_use]
    pub fn reference(&self) -> BlockRef {
        self.core.reference()
    }

    /// The statement without its lists, in memory of its own: it may outlive the block.
    #[must_use]
    pub fn signed_core(&self) -> SignedCore {
        SignedCore { core: self.core.clone(), signature: self.signature.alone() }
    }

    /// The one wire form: core, signature, parents, batch references, extras.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(SIGNED_CORE_LEN + 64 * self.parents.len() + 40 * self.batches.len() + 64);
        self.core.write(&mut w);
        w.raw(self.signature.as_bytes());
        write_parents(&mut w, self.core.round, &self.parents);
        write_batches(&mut w, &self.batches);
        self.extras.write(&mut w);
        w.into_bytes()
    }

    /// Takes a block from its wire form.
    ///
    /// # Errors
    /// If the bytes are no block, or not its canonical form.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        Self::read(bytes, Signature::read)
    }

    /// [`Block::decode`] of bytes that are kept beside the block: its signature is a part of them, not a copy.
    ///
    /// # Errors
    /// Those of [`Block::decode`].
    pub fn decode_shared(bytes: &Arc<[u8]>) -> Result<Self, CodecError> {
        Self::read(bytes, |r| Signature::read_shared(bytes, r))
    }

    fn read(
        bytes: &[u8],
        signature: impl FnOnce(&mut Reader<'_>) -> Result<Signature, CodecError>,
    ) -> Result<Self, CodecError> {
        if bytes.len() > MAX_BLOCK_BYTES {
            return Err(CodecError::TooLarge {
                what: "block bytes",
                value: bytes.len() as u64,
                max: MAX_BLOCK_BYTES as u64,
            });
        }
        let mut r = Reader::new(bytes);
        let core = BlockCore::read(&mut r)?;
        let signature = signature(&mut r)?;
        let parents = read_parents(&mut r, core.round, core.author)?;
        let batches = read_batches(&mut r)?;
        let extras = Extras::read(&mut r)?;
        r.finish()?;
        Ok(Self { core, parents, batches, extras, signature })
    }
}

/// Digest of the parents of a block of this round.
#[must_use]
pub fn parents_root(round: Round, parents: &[BlockRef]) -> Hash {
    let mut w = Writer::with_capacity(64 + 48 * parents.len());
    write_parents(&mut w, round, parents);
    h("parents", w.as_slice())
}

/// Digest of a payload.
#[must_use]
pub fn payload_root(batches: &[BatchRef]) -> Hash {
    let mut w = Writer::with_capacity(8 + 48 * batches.len());
    write_batches(&mut w, batches);
    h("payload", w.as_slice())
}

/// The genesis block of an author: never sent, never stored, always present.
#[must_use]
pub fn genesis_ref(chain_id: &Hash, epoch: Epoch, epoch_seed: &Hash, author: AuthorIdx) -> BlockRef {
    let digest = h_parts(
        "genesis-block",
        &[chain_id.as_bytes(), &epoch.to_le_bytes(), epoch_seed.as_bytes(), &author.to_le_bytes()],
    );
    BlockRef { round: 0, author, digest }
}

/// Own parent; a bitmap of the authors at the previous round with their digests; the older ones, by author.
fn write_parents(w: &mut Writer, round: Round, parents: &[BlockRef]) {
    let Some((own, others)) = parents.split_first() else {
        w.u32(0).hash(&Hash::ZERO).varint(0).varint(0);
        return;
    };
    w.u32(own.round).hash(&own.digest);
    let is_strong = |p: &&BlockRef| p.round.checked_add(1) == Some(round);
    let strong: Vec<_> = others.iter().filter(is_strong).collect();
    let older: Vec<_> = others.iter().filter(|p| !is_strong(p)).collect();
    let mut bitmap = [0_u8; MAX_VALIDATORS / 8];
    let mut used = 0;
    for p in &strong {
        let byte = usize::from(p.author / 8);
        if let Some(bits) = bitmap.get_mut(byte) {
            *bits |= 1 << (p.author % 8);
            used = used.max(byte + 1);
        }
    }
    w.bytes(&bitmap[..used]);
    for p in &strong {
        w.hash(&p.digest);
    }
    w.varint(older.len() as u64);
    for p in &older {
        p.write(w);
    }
}

fn read_parents(r: &mut Reader<'_>, round: Round, author: AuthorIdx) -> Result<Vec<BlockRef>, CodecError> {
    let mut parents = vec![BlockRef { round: r.u32()?, author, digest: r.hash()? }];
    let bitmap = r.bytes("parent bitmap", MAX_VALIDATORS / 8)?;
    if bitmap.last() == Some(&0) {
        return Err(CodecError::Invalid { what: "parent bitmap's last byte", value: 0 });
    }
    let mut others = Vec::new();
    for (byte, bits) in (0_u16..).zip(bitmap) {
        for bit in (0..8).filter(|bit| bits & (1 << bit) != 0) {
            let Some(previous) = round.checked_sub(1) else {
                return Err(CodecError::Invalid { what: "parents at the round before", value: 0 });
            };
            others.push(BlockRef { round: previous, author: byte * 8 + bit, digest: r.hash()? });
        }
    }
    let count = r.varint_max("older parents", MAX_VALIDATORS as u64)?;
    let mut last = None;
    for _ in 0..count {
        let p = BlockRef::read(r)?;
        if last >= Some(p.author) || p.round.checked_add(1) == Some(round) {
            return Err(CodecError::Invalid { what: "order of older parents", value: u64::from(p.author) });
        }
        last = Some(p.author);
        others.push(p);
    }
    others.sort_by_key(|p| p.author);
    parents.extend(others);
    Ok(parents)
}

fn write_batches(w: &mut Writer, batches: &[BatchRef]) {
    w.varint(batches.len() as u64);
    for batch in batches {
        batch.write(w);
    }
}

fn read_batches(r: &mut Reader<'_>) -> Result<Vec<BatchRef>, CodecError> {
    let count = r.varint_max("batch references", MAX_BATCH_REFS as u64)?;
    (0..count).map(|_| BatchRef::read(r)).collect()
}
