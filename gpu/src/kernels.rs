//! The device kernels, run by the host: so that their text is held to the vectors and to the other back-ends where no
//! device is.
//!
//! For tests alone (feature `host-kernels`); slow, and not constant-time for secrets once a C++ compiler made it.

mod host;

use std::collections::HashMap;

use aurigraph_ledger::{Hash, TreeHasher};
use zeroize::Zeroizing;

use crate::kem::{
    CIPHERTEXT_LEN, DECAPSULATION_KEY, DECAPSULATION_KEY_LEN, ENCAPSULATION_KEY, ENCAPSULATION_KEY_LEN, Kem, KemError,
    KemKeys, SharedSecret, ciphertext, decapsulation_key, encapsulation_key,
};
use crate::verify::{BatchVerifier, VerifyItem};
use host::{POISON, Shape, Signatures};

/// The kernels as back-ends of everything that they do.
#[derive(Debug, Clone, Copy)]
pub struct HostKernels {
    cached: bool,
    shape: Shape,
}

/// A vote whose signature was checked.
#[derive(Debug, Clone, Copy)]
pub struct Vote {
    /// Who votes: a place in the list of stakes.
    pub voter: u32,
    /// For what.
    pub choice: u32,
    /// Whether the signature is valid.
    pub valid: bool,
}

impl HostKernels {
    /// The kernels that expand the key of every signature.
    #[must_use]
    pub const fn uncached() -> Self {
        Self { cached: false, shape: Shape { lanes: None, backwards: false } }
    }

    /// The kernels that read a table of expanded keys, which is made for each batch.
    #[must_use]
    pub const fn cached() -> Self {
        Self { cached: true, ..Self::uncached() }
    }

    /// The same with blocks of another size, whose lanes take turns backwards: results must not depend on either.
    #[must_use]
    pub const fn backwards(self, lanes: u32) -> Self {
        Self { shape: Shape { lanes: Some(lanes), backwards: true }, ..self }
    }

    /// The stake behind each of `choices` choices. A voter counts once for a choice, an unknown one never.
    #[must_use]
    pub fn tally(&self, votes: &[Vote], stakes: &[u64], choices: u32) -> Vec<u64> {
        let voters: Vec<u32> = votes.iter().map(|vote| vote.voter).collect();
        let choice_of: Vec<u32> = votes.iter().map(|vote| vote.choice).collect();
        let verdicts: Vec<u8> = votes.iter().map(|vote| vote.valid.into()).collect();
        host::tally(self.shape, &voters, &choice_of, &verdicts, stakes, choices)
    }

    /// The verdicts of well-formed items.
    fn judge(&self, items: &[VerifyItem<'_>]) -> Vec<u8> {
        let mut batch = Signatures { signatures: vec![], messages: vec![], offsets: vec![0] };
        for item in items {
            batch.signatures.extend_from_slice(item.signature);
            // FIPS 204, algorithm 3, step 10: well-formed contexts have a length of one byte.
            batch.messages.extend_from_slice(&[0, u8::try_from(item.context.len()).unwrap_or(u8::MAX)]);
            batch.messages.extend_from_slice(item.context);
            batch.messages.extend_from_slice(item.message);
            batch.offsets.push(batch.messages.len() as u64);
        }
        if !self.cached {
            let keys: Vec<u8> = items.iter().flat_map(|item| item.public_key).copied().collect();
            return host::verify(self.shape, &keys, &batch);
        }
        let (mut keys, mut index, mut key_of) = (vec![], HashMap::new(), vec![]);
        for item in items {
            let next = u32::try_from(index.len()).expect("tests' batches");
            key_of.push(*index.entry(item.public_key).or_insert_with(|| {
                keys.extend_from_slice(item.public_key);
                next
            }));
        }
        host::verify_cached(self.shape, &host::expand(self.shape, &keys), &key_of, &batch)
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
        verdicts.fill(false);
        let places: Vec<usize> = (0..items.len().min(verdicts.len())).filter(|at| items[*at].well_formed()).collect();
        let items: Vec<VerifyItem<'_>> = places.iter().map(|at| items[*at]).collect();
        for (place, verdict) in places.into_iter().zip(self.judge(&items)) {
            assert!(verdict < 2, "the kernels wrote no verdict");
            verdicts[place] = verdict == 1;
        }
    }
}

fn checked(good: u8, what: &'static str) -> Result<(), KemError> {
    assert!(good < 2, "the kernel wrote no answer");
    if good == 1 { Ok(()) } else { Err(KemError::Key { what }) }
}

impl Kem for HostKernels {
    fn name(&self) -> &'static str {
        "host-kernels"
    }

    fn key_pair(&self, d: &[u8; 32], z: &[u8; 32]) -> Result<KemKeys, KemError> {
        let mut encapsulation = vec![POISON; ENCAPSULATION_KEY_LEN];
        let mut decapsulation = Zeroizing::new(vec![POISON; DECAPSULATION_KEY_LEN]);
        host::key_pair(self.shape, d, z, &mut encapsulation, &mut decapsulation);
        Ok(KemKeys { encapsulation, decapsulation })
    }

    fn encapsulate(&self, key: &[u8], m: &[u8; 32]) -> Result<(Vec<u8>, SharedSecret), KemError> {
        let (mut ciphertext, mut secret) = ([POISON; CIPHERTEXT_LEN], Zeroizing::new([POISON; 32]));
        let good = host::encapsulate(self.shape, &encapsulation_key(key)?, m, &mut ciphertext, &mut secret);
        checked(good, ENCAPSULATION_KEY)?;
        Ok((ciphertext.to_vec(), secret))
    }

    fn decapsulate(&self, key: &[u8], bytes: &[u8]) -> Result<SharedSecret, KemError> {
        let bytes = ciphertext(bytes)?;
        let mut secret = Zeroizing::new([POISON; 32]);
        let key = decapsulation_key(key)?;
        checked(host::decapsulate(self.shape, &key, &bytes, &mut secret), DECAPSULATION_KEY)?;
        Ok(secret)
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
        let mut hashes = vec![POISON; 32 * out.len()];
        host::hash_level(self.shape, &prefix, messages, message_len, &mut hashes);
        for (out, hash) in out.iter_mut().zip(hashes.as_chunks().0) {
            out.0 = *hash;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::PUBLIC_KEY_LEN;

    #[test]
    fn a_key_beyond_the_table_makes_a_signature_invalid() {
        let shape = HostKernels::cached().shape;
        let table = host::expand(shape, &[7; PUBLIC_KEY_LEN]);
        let batch = Signatures { signatures: vec![0; 2 * 4_627], messages: vec![0; 4], offsets: vec![0, 2, 4] };
        assert_eq!(host::verify_cached(shape, &table, &[1, u32::MAX], &batch), [0, 0]);
    }
}
