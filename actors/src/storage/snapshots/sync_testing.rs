//! A manifest that nobody has signed, for tests of what comes before the proof.

use aurigraph_ledger::Hash;

use super::manifest::{Chunk, Manifest};

pub(super) fn manifest(height: u64, chunks: &[Vec<u8>]) -> Manifest {
    Manifest {
        chain_id: Hash([1; 32]),
        height,
        commit_index: height * 2,
        proof: aurigraph_consensus::FinalityProof::default(),
        hops: Vec::new(),
        pages: 1,
        chunks: chunks.iter().map(|bytes| Chunk::of(bytes)).collect(),
    }
}

pub(super) fn content() -> Vec<Vec<u8>> {
    (0..10_u8).map(|number| vec![number; 100]).collect()
}
