//! What a snapshot consists of, and why its checkpoint may be believed. Pure data with its one encoding.

use aurigraph_consensus::config::{MAX_VALIDATORS, SIGNED_CORE_LEN};
use aurigraph_consensus::{Certificate, EpochHop, Finality, FinalityProof, LightError, TrustedSet};
use aurigraph_ledger::{
    Checkpoint, CodecError, Hash, LedgerHeader, Reader, SignatureVerifier, ValidatorSet, Writer, h,
};

use crate::bounds::snapshots as bounds;

/// Version of the encoding. Version 1 had no state of the order.
const VERSION: u8 = 2;
const MAGIC: &[u8; 8] = b"AGSNAP01";
/// Longest header or checkpoint.
const MAX_PART: usize = 1_024;

/// One piece of a snapshot's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Its bytes, at most [`bounds::CHUNK`].
    pub len: u32,
    /// Digest of its bytes.
    pub digest: Hash,
}

impl Chunk {
    /// The chunk of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { len: u32::try_from(bytes.len()).unwrap_or(u32::MAX), digest: h("snapshot-chunk", bytes) }
    }
}

/// A snapshot's table of contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The chain.
    pub chain_id: Hash,
    /// Height of the ledger block that the state is after.
    pub height: u64,
    /// The last commit in it.
    pub commit_index: u64,
    /// That block's header, the checkpoint with those after it, and the signatures of a quorum.
    pub proof: FinalityProof,
    /// From the genesis' validators to those of the checkpoint's epoch.
    pub hops: Vec<EpochHop>,
    /// How many chunks hold the ledger's pages; those after them hold the order's state.
    pub pages: u32,
    /// The content, in order.
    pub chunks: Vec<Chunk>,
}

impl Manifest {
    /// The manifest of a checkpoint's pages. `followers` are the checkpoints after it, up to the newest that the
    /// certificate attests.
    #[must_use]
    pub fn new(
        header: &LedgerHeader,
        checkpoint: &Checkpoint,
        certificate: &Certificate,
        followers: &[Checkpoint],
        hops: Vec<EpochHop>,
        (pages, chunks): (u32, Vec<Chunk>),
    ) -> Self {
        let checkpoints = std::iter::once(checkpoint).chain(followers).map(Checkpoint::encode).collect();
        let cores = certificate.cores.iter().map(aurigraph_consensus::SignedCore::encode).collect();
        Self {
            chain_id: checkpoint.chain_id,
            height: checkpoint.ledger_height,
            commit_index: checkpoint.commit_index,
            proof: FinalityProof { headers: vec![header.encode()], checkpoints, cores },
            hops,
            pages,
            chunks,
        }
    }

    /// Digest of the content: equal in the snapshots that different nodes have of one checkpoint.
    #[must_use]
    pub fn content(&self) -> Hash {
        let mut w = Writer::new();
        w.hash(&self.chain_id).u64(self.height).u32(self.pages);
        self.write_chunks(&mut w);
        h("snapshot-content", w.as_slice())
    }

    fn write_chunks(&self, w: &mut Writer) {
        w.varint(self.chunks.len() as u64);
        for chunk in &self.chunks {
            w.u32(chunk.len).hash(&chunk.digest);
        }
    }

    /// The validators of the checkpoint's epoch, as the last hop names them; none in the first epoch.
    ///
    /// # Errors
    /// If they do not decode.
    pub fn next_set(&self) -> Result<Option<ValidatorSet>, CodecError> {
        self.hops.last().map(|hop| ValidatorSet::decode(&hop.validators)).transpose()
    }

    /// What the checkpoint's quorum shows, going by the validators of the genesis alone. Says nothing of the chunks.
    ///
    /// # Errors
    /// [`LightError`] naming the first part that does not hold.
    pub fn prove(&self, genesis: &TrustedSet, verifier: &dyn SignatureVerifier) -> Result<Finality, LightError> {
        self.proof.verify(&genesis.hop_all(&self.hops, verifier)?, verifier)
    }

    /// Digest of the whole: names the snapshot.
    #[must_use]
    pub fn digest(&self) -> Hash {
        h("snapshot", &self.encode())
    }

    /// Bytes of the content.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.len)).sum()
    }

    /// Bytes of the chunks that hold the order's state.
    #[must_use]
    pub fn order_bytes(&self) -> u64 {
        self.chunks.iter().skip(self.pages as usize).map(|chunk| u64::from(chunk.len)).sum()
    }

    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(MAGIC).u8(VERSION).hash(&self.chain_id).u64(self.height).u64(self.commit_index);
        for parts in [&self.proof.headers, &self.proof.checkpoints, &self.proof.cores] {
            w.varint(parts.len() as u64);
            for part in parts {
                w.bytes(part);
            }
        }
        w.varint(self.hops.len() as u64);
        for hop in &self.hops {
            w.bytes(&hop.certificate).bytes(&hop.checkpoint).bytes(&hop.validators);
        }
        w.u32(self.pages);
        self.write_chunks(&mut w);
        w.into_bytes()
    }

    /// Takes a manifest from its canonical bytes. Nothing of what it claims is checked but its bounds.
    ///
    /// # Errors
    /// If the bytes are no manifest, or exceed a maximum.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        if r.raw(MAGIC.len())? != MAGIC {
            return Err(CodecError::Invalid { what: "first bytes of a snapshot", value: 0 });
        }
        match r.u8()? {
            VERSION => {}
            version => return Err(CodecError::Invalid { what: "version of a snapshot", value: version.into() }),
        }
        let (chain_id, height, commit_index) = (r.hash()?, r.u64()?, r.u64()?);
        let headers = read_parts(&mut r, 1, MAX_PART)?;
        let checkpoints = read_parts(&mut r, bounds::FOLLOWERS + 1, MAX_PART)?;
        let cores = read_parts(&mut r, MAX_VALIDATORS, SIGNED_CORE_LEN)?;
        let count = r.varint_max("epochs before a snapshot", bounds::HOPS)?;
        let mut hops = Vec::new();
        for _ in 0..count {
            let certificate = r.bytes("an epoch's certificate", bounds::HOP)?.to_vec();
            let checkpoint = r.bytes("an epoch's last checkpoint", MAX_PART)?.to_vec();
            hops.push(EpochHop { certificate, checkpoint, validators: r.bytes("a set", bounds::HOP)?.to_vec() });
        }
        let pages = r.u32()?;
        let count = r.varint_max("chunks of a snapshot", bounds::CHUNKS)?;
        let mut chunks = Vec::new();
        for _ in 0..count {
            let chunk = Chunk { len: r.u32()?, digest: r.hash()? };
            if chunk.len == 0 || chunk.len as usize > bounds::CHUNK {
                return Err(CodecError::Invalid { what: "bytes of a chunk", value: chunk.len.into() });
            }
            chunks.push(chunk);
        }
        r.finish()?;
        if pages == 0 || u64::from(pages) >= chunks.len() as u64 {
            return Err(CodecError::Invalid { what: "chunks of pages", value: pages.into() });
        }
        let proof = FinalityProof { headers, checkpoints, cores };
        Ok(Self { chain_id, height, commit_index, proof, hops, pages, chunks })
    }
}

fn read_parts(r: &mut Reader<'_>, most: usize, len: usize) -> Result<Vec<Vec<u8>>, CodecError> {
    let count = r.varint_max("parts of a snapshot's proof", most as u64)?;
    (0..count).map(|_| Ok(r.bytes("bytes of a part", len)?.to_vec())).collect()
}
