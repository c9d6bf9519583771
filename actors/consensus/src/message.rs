//! What consensus says to its peers: canonical bytes with hard maxima, so that the driver only moves bytes.
//!
//! Every message belongs to one [`Lane`]. Blocks travel inside messages as their own canonical bytes.

use aurigraph_ledger::codec::{CodecError, Reader, Writer};

use crate::block::SignedCore;
use crate::commit::CommitHeader;
use crate::config::{
    MAX_BLOCK_BYTES, MAX_COMMIT_BLOCKS, MAX_FETCH_REFS, MAX_FETCH_REPLY_BYTES, MAX_RANGE_BLOCK_BYTES,
    MAX_RANGE_COMMITS, MAX_RANGE_HEADERS, MAX_VALIDATORS,
};
use crate::epoch::EpochCert;
use crate::types::{BlockRef, CommitIndex, Epoch, RequestId, Round};

/// Most cores of an epoch certificate that goes over the control lane: some 200 KB.
const MAX_CONTROL_CORES: usize = 40;

/// Which of the two connections to a peer carries a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Small and urgent; frames of at most 256 KiB.
    Control,
    /// Large; never delays the control lane.
    Bulk,
}

/// A commit as a peer serves it: the payload follows from the blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeCommit {
    /// The header.
    pub header: CommitHeader,
    /// The blocks in execution order.
    pub blocks: Vec<BlockRef>,
}

/// Encoded blocks.
pub type BlockBytes = Vec<u8>;

/// Anything one machine says to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The sender's own block.
    Block(BlockBytes),
    /// Asks for blocks.
    FetchRequest {
        /// The epoch that the blocks are of.
        epoch: Epoch,
        /// Comes back in the reply.
        request: RequestId,
        /// Ancestors above this round are welcome too, nearest first; `Round::MAX` for none.
        ancestors_above: Round,
        /// At most [`MAX_FETCH_REFS`].
        refs: Vec<BlockRef>,
    },
    /// Blocks that were asked for, children before the ancestors they link to.
    FetchReply {
        /// That of the request.
        request: RequestId,
        /// Index of the server's newest commit.
        commit_index: CommitIndex,
        /// At most [`MAX_FETCH_REPLY_BYTES`].
        blocks: Vec<BlockBytes>,
    },
    /// Asked at every process start: what do you hold of mine?
    ProbeRequest {
        /// The sender's epoch.
        epoch: Epoch,
        /// Comes back in the reply.
        nonce: u64,
    },
    /// Answer to a probe.
    ProbeReply {
        /// The sender's epoch.
        epoch: Epoch,
        /// That of the request.
        nonce: u64,
        /// Index of the sender's newest commit.
        commit_index: CommitIndex,
        /// The round that the sender can prove to be in, no lower than that of any block it has signed; none if it
        /// cannot.
        round: Option<Round>,
        /// The newest block of the asker that the sender holds.
        newest: Option<BlockBytes>,
    },
    /// Asks the sender of a probe's answer to prove its round.
    ProofRequest {
        /// That of the probe.
        nonce: u64,
    },
    /// The proof.
    ProofReply(RoundProof),
    /// Asks for a range of commits.
    CommitRangeRequest {
        /// Comes back in the reply.
        request: RequestId,
        /// First index.
        from: CommitIndex,
        /// How many, at most [`MAX_RANGE_COMMITS`].
        count: u16,
    },
    /// A range of commits.
    CommitRangeReply(CommitRange),
    /// Asks for the certificate of an epoch's end.
    EpochCertRequest {
        /// Which epoch.
        epoch: Epoch,
    },
    /// The certificate of an epoch's end.
    EpochCert(EpochCert),
}

/// That a quorum has signed blocks of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundProof {
    /// That of the request.
    pub nonce: u64,
    /// The round after the one of the cores.
    pub round: Round,
    /// Cores of different validators, a quorum of stake; at most [`MAX_VALIDATORS`].
    pub cores: Vec<SignedCore>,
}

impl RoundProof {
    fn write(&self, w: &mut Writer) {
        w.u64(self.nonce).u32(self.round).varint(self.cores.len() as u64);
        for core in &self.cores {
            core.write(w);
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let (nonce, round) = (r.u64()?, r.u32()?);
        let count = r.varint_max("cores of a proof", MAX_VALIDATORS as u64)?;
        let cores = (0..count).map(|_| SignedCore::read(r)).collect::<Result<_, _>>()?;
        Ok(Self { nonce, round, cores })
    }
}

/// A served range of commits, certified by votes of a quorum where the server has them. Commits are consecutive; `blocks` holds as many of their
/// blocks as fit, in order: what is missing is fetched by reference. Made by [`crate::RangeBuilder`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommitRange {
    /// That of the request.
    pub request: RequestId,
    /// Index of the server's newest commit.
    pub commit_index: CommitIndex,
    /// The first commit of which the server's log may hold everything: what is asked for from before it has to come from
    /// elsewhere. 0 if the server does not say.
    pub oldest: CommitIndex,
    /// The commits, at most [`MAX_RANGE_COMMITS`].
    pub commits: Vec<RangeCommit>,
    /// Blocks of these commits, at most [`MAX_RANGE_BLOCK_BYTES`].
    pub blocks: Vec<BlockBytes>,
    /// The headers that follow, up to the newest that `votes` name; at most [`MAX_RANGE_HEADERS`].
    pub headers: Vec<CommitHeader>,
    /// Cores of different validators, a quorum of stake, that vote for the last of the commits or for one of `headers`;
    /// at most [`MAX_VALIDATORS`]. None where nothing is certified.
    pub votes: Vec<SignedCore>,
}

impl CommitRange {
    /// An empty answer to a request.
    #[must_use]
    pub fn new(request: RequestId, commit_index: CommitIndex) -> Self {
        Self { request, commit_index, ..Self::default() }
    }

    /// Adds the next commit with its blocks' bytes in the commit's order. Returns false, and adds nothing, when the
    /// range is full or the commit is of another epoch than those before it; a first commit always fits, though perhaps not all its blocks.
    pub fn push(&mut self, header: CommitHeader, blocks: Vec<(BlockRef, BlockBytes)>) -> bool {
        let held: usize = self.blocks.iter().map(Vec::len).sum();
        let added: usize = blocks.iter().map(|(_, bytes)| bytes.len()).sum();
        let full = self.commits.len() >= MAX_RANGE_COMMITS || held + added > MAX_RANGE_BLOCK_BYTES;
        let other_epoch = self.commits.last().is_some_and(|last| last.header.epoch != header.epoch);
        if other_epoch || (full && !self.commits.is_empty()) {
            return false;
        }
        let mut left = MAX_RANGE_BLOCK_BYTES.saturating_sub(held);
        let mut refs = Vec::with_capacity(blocks.len());
        for (reference, bytes) in blocks {
            refs.push(reference);
            if bytes.len() <= left {
                left -= bytes.len();
                self.blocks.push(bytes);
            } else {
                left = 0;
            }
        }
        self.commits.push(RangeCommit { header, blocks: refs });
        true
    }

    fn write(&self, w: &mut Writer) {
        w.u64(self.request).u64(self.commit_index).u64(self.oldest).varint(self.commits.len() as u64);
        for commit in &self.commits {
            commit.header.write(w);
            w.varint(commit.blocks.len() as u64);
            for block in &commit.blocks {
                block.write(w);
            }
        }
        write_blocks(w, &self.blocks);
        w.varint(self.headers.len() as u64);
        for header in &self.headers {
            header.write(w);
        }
        w.varint(self.votes.len() as u64);
        for signed in &self.votes {
            signed.write(w);
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let (request, commit_index, oldest) = (r.u64()?, r.u64()?, r.u64()?);
        let count = r.varint_max("commits of a range", MAX_RANGE_COMMITS as u64)?;
        let mut commits = Vec::new();
        for _ in 0..count {
            let header = CommitHeader::read(r)?;
            let count = r.varint_max("blocks of a commit", MAX_COMMIT_BLOCKS as u64)?;
            let mut blocks = Vec::new();
            for _ in 0..count {
                blocks.push(BlockRef::read(r)?);
            }
            commits.push(RangeCommit { header, blocks });
        }
        let blocks = read_blocks(r, MAX_RANGE_BLOCK_BYTES)?;
        let count = r.varint_max("headers after a range", MAX_RANGE_HEADERS as u64)?;
        let headers = (0..count).map(|_| CommitHeader::read(r)).collect::<Result<_, _>>()?;
        let count = r.varint_max("votes for a range", MAX_VALIDATORS as u64)?;
        let votes = (0..count).map(|_| SignedCore::read(r)).collect::<Result<_, _>>()?;
        Ok(Self { request, commit_index, oldest, commits, blocks, headers, votes })
    }
}

impl Message {
    /// The lane that carries it.
    #[must_use]
    pub const fn lane(&self) -> Lane {
        match self {
            Self::EpochCert(cert) if cert.cores.len() > MAX_CONTROL_CORES => Lane::Bulk,
            Self::CommitRangeRequest { .. } | Self::CommitRangeReply(_) | Self::ProofReply(_) => Lane::Bulk,
            _ => Lane::Control,
        }
    }

    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        match self {
            Self::Block(bytes) => return encode_block(bytes),
            Self::FetchRequest { epoch, request, ancestors_above, refs } => {
                w.u8(2).u64(*epoch).u64(*request).u32(*ancestors_above).varint(refs.len() as u64);
                for block in refs {
                    block.write(&mut w);
                }
            }
            Self::FetchReply { request, commit_index, blocks } => {
                w.u8(3).u64(*request).u64(*commit_index);
                write_blocks(&mut w, blocks);
            }
            Self::ProbeRequest { epoch, nonce } => {
                w.u8(4).u64(*epoch).u64(*nonce);
            }
            Self::ProbeReply { epoch, nonce, commit_index, round, newest } => {
                w.u8(5).u64(*epoch).u64(*nonce).u64(*commit_index);
                match round {
                    None => w.u8(0),
                    Some(round) => w.u8(1).u32(*round),
                };
                match newest {
                    None => w.u8(0),
                    Some(bytes) => w.u8(1).bytes(bytes),
                };
            }
            Self::CommitRangeRequest { request, from, count } => {
                w.u8(6).u64(*request).u64(*from).u16(*count);
            }
            Self::CommitRangeReply(range) => {
                w.u8(7);
                range.write(&mut w);
            }
            Self::ProofRequest { nonce } => {
                w.u8(8).u64(*nonce);
            }
            Self::ProofReply(proof) => {
                w.u8(9);
                proof.write(&mut w);
            }
            Self::EpochCertRequest { epoch } => {
                w.u8(16).u64(*epoch);
            }
            Self::EpochCert(cert) => {
                w.u8(17);
                cert.write(&mut w);
            }
        }
        w.into_bytes()
    }

    /// Takes a message from its canonical bytes. Blocks inside are not decoded yet.
    ///
    /// # Errors
    /// If the bytes are no message, or exceed a maximum.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let message = match r.u8()? {
            1 => Self::Block(r.bytes("block bytes", MAX_BLOCK_BYTES)?.to_vec()),
            2 => Self::read_fetch_request(&mut r)?,
            3 => Self::FetchReply {
                request: r.u64()?,
                commit_index: r.u64()?,
                blocks: read_blocks(&mut r, MAX_FETCH_REPLY_BYTES)?,
            },
            4 => Self::ProbeRequest { epoch: r.u64()?, nonce: r.u64()? },
            5 => {
                let (epoch, nonce, commit_index) = (r.u64()?, r.u64()?, r.u64()?);
                let round = read_option(&mut r, Reader::u32)?;
                let newest = read_option(&mut r, |r| Ok(r.bytes("block bytes", MAX_BLOCK_BYTES)?.to_vec()))?;
                Self::ProbeReply { epoch, nonce, commit_index, round, newest }
            }
            6 => Self::CommitRangeRequest { request: r.u64()?, from: r.u64()?, count: r.u16()? },
            7 => Self::CommitRangeReply(CommitRange::read(&mut r)?),
            8 => Self::ProofRequest { nonce: r.u64()? },
            9 => Self::ProofReply(RoundProof::read(&mut r)?),
            16 => Self::EpochCertRequest { epoch: r.u64()? },
            17 => Self::EpochCert(EpochCert::read(&mut r)?),
            tag => return Err(CodecError::Invalid { what: "message tag", value: u64::from(tag) }),
        };
        r.finish()?;
        Ok(message)
    }

    fn read_fetch_request(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let (epoch, request, ancestors_above) = (r.u64()?, r.u64()?, r.u32()?);
        let count = r.varint_max("fetched references", MAX_FETCH_REFS as u64)?;
        let refs = (0..count).map(|_| BlockRef::read(r)).collect::<Result<_, _>>()?;
        Ok(Self::FetchRequest { epoch, request, ancestors_above, refs })
    }
}

/// [`Message::Block`] of these block bytes, without a copy of them first.
#[must_use]
pub fn encode_block(block: &[u8]) -> Vec<u8> {
    let mut w = Writer::with_capacity(block.len() + 4);
    w.u8(1).bytes(block);
    w.into_bytes()
}

/// The block inside an encoded [`Message::Block`], without a copy of it; `None` for all other bytes.
#[must_use]
pub fn pushed_block(message: &[u8]) -> Option<&[u8]> {
    let mut r = Reader::new(message);
    if r.u8() != Ok(1) {
        return None;
    }
    let block = r.bytes("block bytes", MAX_BLOCK_BYTES).ok()?;
    r.finish().ok().map(|()| block)
}

fn read_option<'a, T>(
    r: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, CodecError>,
) -> Result<Option<T>, CodecError> {
    match r.u8()? {
        0 => Ok(None),
        1 => read(r).map(Some),
        tag => Err(CodecError::Invalid { what: "option tag", value: u64::from(tag) }),
    }
}

fn write_blocks(w: &mut Writer, blocks: &[BlockBytes]) {
    w.varint(blocks.len() as u64);
    for block in blocks {
        w.bytes(block);
    }
}

fn read_blocks(r: &mut Reader<'_>, max_bytes: usize) -> Result<Vec<BlockBytes>, CodecError> {
    // A block has at least its core and signature, so a count bounded by the bytes bounds the memory too.
    let count = r.varint_max("blocks", (max_bytes / crate::config::SIGNED_CORE_LEN) as u64)?;
    let mut total = 0;
    let mut blocks = Vec::new();
    for _ in 0..count {
        let block = r.bytes("block bytes", MAX_BLOCK_BYTES)?;
        total += block.len();
        if total > max_bytes {
            return Err(CodecError::TooLarge { what: "bytes of blocks", value: total as u64, max: max_bytes as u64 });
        }
        blocks.push(block.to_vec());
    }
    Ok(blocks)
}
