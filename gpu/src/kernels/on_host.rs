//! The device kernels, run by the host: so that their text, and what puts them together, is held to the vectors and to
//! the other back-ends where no device is.

use aurigraph_ledger::{Hash, TreeHasher};

use super::batch::{Batches, KeyUse, Vote};
use super::host::{Host, Stream, WIPED};
use super::table::ENTRY;
use crate::kem::{
    DECAPSULATION_KEY, ENCAPSULATION_KEY, Kem, KemError, KemKeys, SharedSecret, ciphertext, decapsulation_key,
    encapsulation_key,
};
use crate::verify::{BatchVerifier, VerifyItem};

/// The kernels as back-ends of everything that they do.
#[derive(Debug, Clone, Copy)]
pub struct HostKernels {
    cached: bool,
    host: Host,
}

impl HostKernels {
    /// The kernels that expand the key of every signature.
    #[must_use]
    pub const fn uncached() -> Self {
        Self { cached: false, host: Host { lanes: None, backwards: false } }
    }

    /// The kernels that read a table of expanded keys, here a new one for each batch.
    #[must_use]
    pub const fn cached() -> Self {
        Self { cached: true, ..Self::uncached() }
    }

    /// The same with blocks of another size, whose lanes take turns backwards: results must not depend on either.
    #[must_use]
    pub const fn backwards(self, lanes: u32) -> Self {
        Self { host: Host { lanes: Some(lanes), backwards: true }, ..self }
    }

    /// The stake behind each of `choices` choices. A voter counts once for a choice, an unknown one never.
    ///
    /// # Panics
    /// Where a device would answer with an error.
    #[must_use]
    pub fn tally(&self, votes: &[Vote], stakes: &[u64], choices: u32) -> Vec<u64> {
        self.batches().tally(votes, stakes, choices).expect("the host has no driver that fails")
    }

    /// Buffers that held secrets and were wiped so far, in the whole process.
    #[must_use]
    pub fn wiped() -> usize {
        WIPED.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Three streams, slices of a few signatures, and a table of fewer keys than some batches have.
    fn batches(&self) -> Batches<Stream> {
        let mut batches = Batches::new(self.host.streams(3), 50 * ENTRY);
        batches.slice = 16;
        batches
    }
}

impl BatchVerifier for HostKernels {
    fn name(&self) -> &'static str {
        if self.cached { "host-kernels-cached" } else { "host-kernels" }
    }

    fn verify(&self, item: &VerifyItem<'_>) -> bool {
        let mut verdict = [false];
        self.verify_batch(&[*item], &mut verdict);
        verdict[0]
    }

    fn verify_batch(&self, items: &[VerifyItem<'_>], verdicts: &mut [bool]) {
        let keys = if self.cached { KeyUse::Table } else { KeyUse::Each };
        verdicts.fill(false);
        let judged = self.batches().verify(items, keys).expect("the kernels wrote all verdicts");
        for (verdict, judged) in verdicts.iter_mut().zip(judged) {
            *verdict = judged;
        }
    }
}

impl Kem for HostKernels {
    fn name(&self) -> &'static str {
        "host-kernels"
    }

    fn key_pair(&self, d: &[u8; 32], z: &[u8; 32]) -> Result<KemKeys, KemError> {
        let keys = self.batches().key_pairs(&[(*d, *z)]).expect("the host has no driver that fails");
        Ok(KemKeys { encapsulation: keys.encapsulation, decapsulation: keys.decapsulation })
    }

    fn encapsulate(&self, key: &[u8], m: &[u8; 32]) -> Result<(Vec<u8>, SharedSecret), KemError> {
        let all = self.batches().encapsulate(&[encapsulation_key(key)?], &[*m]).expect("the kernel answers");
        all.into_iter().next().flatten().ok_or(KemError::Key { what: ENCAPSULATION_KEY })
    }

    fn decapsulate(&self, key: &[u8], bytes: &[u8]) -> Result<SharedSecret, KemError> {
        let (bytes, key) = (ciphertext(bytes)?, decapsulation_key(key)?);
        let all = self.batches().decapsulate(&[*key], &[bytes]).expect("the kernel answers");
        all.into_iter().next().flatten().ok_or(KemError::Key { what: DECAPSULATION_KEY })
    }
}

impl TreeHasher for HostKernels {
    fn hash_one(&self, tag: &str, message: &[u8]) -> Hash {
        let mut hash = [Hash::ZERO];
        self.hash_level(tag, message, message.len(), &mut hash);
        hash[0]
    }

    fn hash_level(&self, tag: &str, messages: &[u8], message_len: usize, out: &mut [Hash]) {
        let mut prefix = vec![u8::try_from(tag.len()).unwrap_or(u8::MAX)];
        prefix.extend_from_slice(tag.as_bytes());
        self.batches().hash_level(&prefix, messages, message_len, out).expect("the host has no driver that fails");
    }
}
