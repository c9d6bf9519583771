//! What the machine writes to the log, and reads back from it after a restart.

use std::sync::Arc;

use aurigraph_ledger::codec::{CodecError, Reader, Writer};
use aurigraph_ledger::hash::Hash;

use crate::block::{Evidence, SignedCore};
use crate::commit::Commit;
use crate::config::MAX_BLOCK_BYTES;
use crate::epoch::{EpochCert, EpochStart};
use crate::snapshot::ConsensusSnapshot;
use crate::types::Round;

/// A floor that no round exceeds: what was signed last is unknown, so nothing is signed, also after a restart.
pub const SIGN_NOTHING: Round = Round::MAX;

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Only rounds above this one may be signed. The first record of a fresh directory is `Floor { round: 0 }`;
    /// [`SIGN_NOTHING`] marks a log that is not to be trusted.
    Floor {
        /// The round.
        round: Round,
    },
    /// An accepted block of another validator: canonical bytes.
    Block(Arc<[u8]>),
    /// An own block: canonical bytes with the signature. Durable before it leaves the process.
    OwnBlock(Arc<[u8]>),
    /// A commit.
    Commit(Arc<Commit>),
    /// Catch-up starts or ends.
    Mode {
        /// Whether catch-up is on from here.
        catching_up: bool,
    },
    /// The certificate of the epoch's end: durable before anything of the next epoch.
    EpochCert(Arc<EpochCert>),
    /// An epoch starts. What stands before it in the log belongs to earlier ones.
    EpochStart(Arc<EpochStart>),
    /// A snapshot of the consensus state, taken by the driver between two steps.
    Snapshot(Box<ConsensusSnapshot>),
    /// Evidence found here, to be put into own blocks until a commit proves it.
    Evidence(Box<Evidence>),
    /// Whether the signatures of evidence in a block are good. Stands before the block.
    Verdict {
        /// [`Evidence::proof_digest`].
        proof: Hash,
        /// Round of the block.
        round: Round,
        /// The verdict.
        ok: bool,
    },
    /// A checked statement whose block is not accepted yet: with another version of it, evidence.
    Statement(Box<SignedCore>),
    /// An accepted block that a certified range vouches for by its digest: canonical bytes whose signature was not
    /// checked. It is served in ranges only, unless the signature turns out to be good.
    CertifiedBlock(Arc<[u8]>),
}

impl Record {
    /// The canonical bytes of the block, if the record is one.
    #[must_use]
    pub const fn block(&self) -> Option<&Arc<[u8]>> {
        match self {
            Self::Block(bytes) | Self::OwnBlock(bytes) | Self::CertifiedBlock(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The canonical bytes, starting with a tag.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(self.block().map_or(64, |bytes| bytes.len() + 8));
        match self {
            Self::Floor { round } => {
                w.u8(0).u32(*round);
            }
            Self::Block(bytes) => {
                w.u8(1).bytes(bytes);
            }
            Self::OwnBlock(bytes) => {
                w.u8(2).bytes(bytes);
            }
            Self::Commit(commit) => {
                w.u8(3);
                commit.write(&mut w);
            }
            Self::Mode { catching_up } => {
                w.u8(4).u8(u8::from(*catching_up));
            }
            Self::Snapshot(snapshot) => {
                w.u8(5);
                snapshot.write(&mut w);
            }
            Self::EpochCert(cert) => {
                w.u8(6);
                cert.write(&mut w);
            }
            Self::EpochStart(start) => {
                w.u8(7);
                start.write(&mut w);
            }
            Self::Evidence(evidence) => {
                w.u8(8);
                evidence.write(&mut w);
            }
            Self::Verdict { proof, round, ok } => {
                w.u8(9).hash(proof).u32(*round).u8(u8::from(*ok));
            }
            Self::Statement(signed) => {
                w.u8(10);
                signed.write(&mut w);
            }
            Self::CertifiedBlock(bytes) => {
                w.u8(11).bytes(bytes);
            }
        }
        w.into_bytes()
    }

    /// Takes a record from its canonical bytes. Blocks inside are not decoded yet.
    ///
    /// # Errors
    /// If the bytes are no record.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let record = match r.u8()? {
            0 => Self::Floor { round: r.u32()? },
            1 => Self::Block(r.bytes("block bytes", MAX_BLOCK_BYTES)?.into()),
            2 => Self::OwnBlock(r.bytes("block bytes", MAX_BLOCK_BYTES)?.into()),
            3 => Self::Commit(Arc::new(Commit::read(&mut r)?)),
            4 => match r.u8()? {
                flag @ 0..=1 => Self::Mode { catching_up: flag == 1 },
                flag => return Err(CodecError::Invalid { what: "mode flag", value: u64::from(flag) }),
            },
            5 => Self::Snapshot(Box::new(ConsensusSnapshot::read(&mut r)?)),
            6 => Self::EpochCert(Arc::new(EpochCert::read(&mut r)?)),
            7 => Self::EpochStart(Arc::new(EpochStart::read(&mut r)?)),
            8 => Self::Evidence(Box::new(Evidence::read(&mut r)?)),
            9 => {
                let (proof, round) = (r.hash()?, r.u32()?);
                match r.u8()? {
                    flag @ 0..=1 => Self::Verdict { proof, round, ok: flag == 1 },
                    flag => return Err(CodecError::Invalid { what: "verdict", value: u64::from(flag) }),
                }
            }
            10 => Self::Statement(Box::new(SignedCore::read(&mut r)?)),
            11 => Self::CertifiedBlock(r.bytes("block bytes", MAX_BLOCK_BYTES)?.into()),
            tag => return Err(CodecError::Invalid { what: "record tag", value: u64::from(tag) }),
        };
        r.finish()?;
        Ok(record)
    }
}
