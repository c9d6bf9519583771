//! What a snapshot consists of, and why its checkpoint may be believed. Pure data with its one encoding.

use aurigraph_consensus::config::{MAX_VALIDATORS, SIGNED_CORE_LEN};
use aurigraph_consensus::{Certificate, FinalityProof};
use aurigraph_ledger::{Checkpoint, CodecError, Hash, LedgerHeader, Reader, Writer, h};

use crate::bounds::snapshots as bounds;

/// Version of the encoding.
const VERSION: u8 = 1;
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
        chunks: Vec<Chunk>,
    ) -> Self {
        let checkpoints = std::iter::once(checkpoint).chain(followers).map(Checkpoint::encode).collect();
        let cores = certificate.cores.iter().map(aurigraph_consensus::SignedCore::encode).collect();
        Self {
            chain_id: checkpoint.chain_id,
            height: checkpoint.ledger_height,
            commit_index: checkpoint.commit_index,
            proof: FinalityProof { headers: vec![header.encode()], checkpoints, cores },
            chunks,
        }
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
        w.varint(self.chunks.len() as u64);
        for chunk in &self.chunks {
            w.u32(chunk.len).hash(&chunk.digest);
        }
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
        Ok(Self { chain_id, height, commit_index, proof: FinalityProof { headers, checkpoints, cores }, chunks })
    }
}

fn read_parts(r: &mut Reader<'_>, most: usize, len: usize) -> Result<Vec<Vec<u8>>, CodecError> {
    let count = r.varint_max("parts of a snapshot's proof", most as u64)?;
    (0..count).map(|_| Ok(r.bytes("bytes of a part", len)?.to_vec())).collect()
}
