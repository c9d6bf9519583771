//! Certificates: signed statements of a quorum that a checkpoint is the state everybody executed (consensus.md 12.2).
//!
//! Only the data and its one encoding. How they are collected stands in `checkpoint`, how they are checked without a
//! node in `light`.

use aurigraph_ledger::codec::{CodecError, Reader, Writer};

use crate::block::SignedCore;
use crate::committee::{Committee, StakeSet};
use crate::config::MAX_VALIDATORS;
use crate::types::{CkptRef, Stake};

const VERSION: u8 = 1;

/// The signed cores of validators of a quorum, one each, that attest this checkpoint or a later one that follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// What they certify.
    pub checkpoint: CkptRef,
    /// By author.
    pub cores: Vec<SignedCore>,
}

impl Certificate {
    /// The newest checkpoint that one of the cores attests: the chain up to it belongs to the proof.
    #[must_use]
    pub fn newest_attested(&self) -> u64 {
        self.cores.iter().map(|signed| signed.core.attestation.seq).max().unwrap_or(self.checkpoint.seq)
    }

    /// Stake of the authors, each counted once.
    #[must_use]
    pub fn stake(&self, committee: &Committee) -> Stake {
        StakeSet::of(committee, self.cores.iter().map(|signed| signed.core.author)).stake()
    }

    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(VERSION);
        self.checkpoint.write(&mut w);
        w.varint(self.cores.len() as u64);
        for signed in &self.cores {
            signed.write(&mut w);
        }
        w.into_bytes()
    }

    /// Takes a certificate from its canonical bytes. Nothing of what it claims is checked.
    ///
    /// # Errors
    /// If the bytes are no certificate.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        match r.u8()? {
            VERSION => {}
            other => return Err(CodecError::Invalid { what: "certificate version", value: other.into() }),
        }
        let checkpoint = CkptRef::read(&mut r)?;
        let count = r.varint_max("cores of a certificate", MAX_VALIDATORS as u64)?;
        let cores = (0..count).map(|_| SignedCore::read(&mut r)).collect::<Result<_, _>>()?;
        r.finish()?;
        Ok(Self { checkpoint, cores })
    }
}
