//! Sealed envelopes: bytes for one account alone, by ML-KEM-1024 to its encryption key and AES-256-GCM.
//!
//! An envelope says from whom, for whom and on which chain it is; all of that and the key's ciphertext are bound to the
//! sealed bytes. It does not prove who sealed it: that is done by the transaction that anchors its digest, or by nobody.
//!
//! ```text
//! "AGRE" | version 2 | chain 32 | sender 32 | recipient 32 | number of the recipient's key 4 |
//! ciphertext of the key 1,568 | nonce 12 | sealed bytes, tag 16
//! ```

use aurigraph_ledger::{Hash, TreeHasher as _, h};
use zeroize::Zeroizing;

use crate::hash::CpuHasher;
use crate::kem::{CIPHERTEXT_LEN, Kem, KemError, KemKeys};
use crate::keys::Seed;
use crate::seal::{SEAL_OVERHEAD, SealError, seal, unseal};

const MAGIC: &[u8; 4] = b"AGRE";
const VERSION: u8 = 2;
const NONCE: usize = 12;
/// Bytes before those that are sealed.
pub const ENVELOPE_HEADER_LEN: usize = 4 + 1 + 3 * 32 + 4 + CIPHERTEXT_LEN + NONCE;

/// Whom an envelope is for, and where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvelopeParties {
    /// The chain's id.
    pub chain: Hash,
    /// The address of whoever sealed it, as they say.
    pub sender: Hash,
    /// The address of whoever may open it.
    pub recipient: Hash,
    /// To which of the recipient's encryption keys it is sealed.
    pub key_number: u32,
}

/// Why an envelope was not made or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Too short, or it begins with something else.
    #[error("not an envelope")]
    Form,
    /// Made by another version of this program.
    #[error("an envelope of version {0}; this program reads version {VERSION}")]
    Version(u8),
    /// The key is no key.
    #[error(transparent)]
    Kem(#[from] KemError),
    /// It is for somebody else, or was changed.
    #[error("the envelope was sealed to another key, or was changed")]
    Refused,
    /// The library failed.
    #[error("sealing failed")]
    Library,
}

/// H(tag, input) of something secret: AWS-LC wipes the states that it hashes in, other libraries do not.
fn secret_hash(tag: &str, input: &[u8]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(CpuHasher.hash_one(tag, input).0)
}

/// The encryption keys with a number that belong to an account's seed. They follow from it, so that one file holds all
/// of an account, and a new number gives new ones.
///
/// # Errors
/// If the library fails.
pub fn encryption_keys(kem: &dyn Kem, seed: &Seed, number: u32) -> Result<KemKeys, KemError> {
    let mut input = Zeroizing::new([0; 36]);
    input[..32].copy_from_slice(seed.expose());
    input[32..].copy_from_slice(&number.to_le_bytes());
    kem.key_pair(&secret_hash("encryption-key-d", &input[..]), &secret_hash("encryption-key-z", &input[..]))
}

/// The key of the cipher, from the secret and everything that stands before the nonce.
fn key(secret: &[u8; 32], header: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut input = Zeroizing::new(Vec::with_capacity(32 + header.len()));
    input.extend_from_slice(secret);
    input.extend_from_slice(header);
    secret_hash("envelope-key", &input)
}

/// Seals bytes to an encryption key. `m` and `nonce` are random and used once.
///
/// # Errors
/// [`EnvelopeError::Kem`] for what is no encryption key.
pub fn seal_envelope(
    kem: &dyn Kem,
    parties: &EnvelopeParties,
    encryption_key: &[u8],
    plain: &[u8],
    m: &[u8; 32],
    nonce: [u8; NONCE],
) -> Result<Vec<u8>, EnvelopeError> {
    let (ciphertext, secret) = kem.encapsulate(encryption_key, m)?;
    let mut envelope = Vec::with_capacity(ENVELOPE_HEADER_LEN + plain.len() + SEAL_OVERHEAD);
    envelope.extend_from_slice(MAGIC);
    envelope.push(VERSION);
    for hash in [parties.chain, parties.sender, parties.recipient] {
        envelope.extend_from_slice(&hash.0);
    }
    envelope.extend_from_slice(&parties.key_number.to_le_bytes());
    envelope.extend_from_slice(&ciphertext);
    let key = key(&secret, &envelope);
    envelope.extend_from_slice(&nonce);
    let sealed = seal(&key, nonce, &envelope, plain).map_err(|_| EnvelopeError::Library)?;
    envelope.extend_from_slice(&sealed);
    Ok(envelope)
}

/// What the outside of an envelope says.
///
/// # Errors
/// [`EnvelopeError::Form`] and [`EnvelopeError::Version`].
pub fn envelope_parties(envelope: &[u8]) -> Result<EnvelopeParties, EnvelopeError> {
    let rest = envelope.strip_prefix(MAGIC.as_slice()).ok_or(EnvelopeError::Form)?;
    let (version, rest) = rest.split_first().ok_or(EnvelopeError::Form)?;
    if *version != VERSION {
        return Err(EnvelopeError::Version(*version));
    }
    if envelope.len() < ENVELOPE_HEADER_LEN + SEAL_OVERHEAD {
        return Err(EnvelopeError::Form);
    }
    let hash = |at: usize| {
        let mut hash = Hash::ZERO;
        hash.0.copy_from_slice(&rest[32 * at..32 * at + 32]);
        hash
    };
    let mut number = [0; 4];
    number.copy_from_slice(&rest[96..100]);
    let key_number = u32::from_le_bytes(number);
    Ok(EnvelopeParties { chain: hash(0), sender: hash(1), recipient: hash(2), key_number })
}

/// Opens an envelope.
///
/// # Errors
/// [`EnvelopeError`]: not an envelope, no key, or not for this key.
pub fn open_envelope(
    kem: &dyn Kem,
    decapsulation_key: &[u8],
    envelope: &[u8],
) -> Result<(EnvelopeParties, Zeroizing<Vec<u8>>), EnvelopeError> {
    let parties = envelope_parties(envelope)?;
    let (header, sealed) = envelope.split_at(ENVELOPE_HEADER_LEN);
    let (before, nonce) = header.split_at(ENVELOPE_HEADER_LEN - NONCE);
    let ciphertext = &before[before.len() - CIPHERTEXT_LEN..];
    let secret = kem.decapsulate(decapsulation_key, ciphertext)?;
    let nonce = nonce.try_into().map_err(|_| EnvelopeError::Form)?;
    match unseal(&key(&secret, before), nonce, header, sealed) {
        Ok(plain) => Ok((parties, plain)),
        Err(SealError::Refused) => Err(EnvelopeError::Refused),
        Err(_) => Err(EnvelopeError::Library),
    }
}

/// The digest by which a transaction names an envelope.
#[must_use]
pub fn envelope_digest(envelope: &[u8]) -> Hash {
    h("envelope", envelope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AwsLc, Fips203};

    const PARTIES: EnvelopeParties =
        EnvelopeParties { chain: Hash([1; 32]), sender: Hash([2; 32]), recipient: Hash([3; 32]), key_number: 6 };

    fn keys(seed: u8) -> KemKeys {
        encryption_keys(&AwsLc, &Seed::new([seed; 32]), 6).unwrap()
    }

    fn sealed(plain: &[u8]) -> Vec<u8> {
        seal_envelope(&AwsLc, &PARTIES, &keys(9).encapsulation, plain, &[4; 32], [5; 12]).unwrap()
    }

    #[test]
    fn an_envelope_opens_with_its_key_and_says_whose_it_is() {
        for plain in [&b""[..], b"confidential", &[7; 100_000]] {
            let envelope = sealed(plain);
            assert_eq!(envelope.len(), ENVELOPE_HEADER_LEN + plain.len() + SEAL_OVERHEAD);
            for kem in [&AwsLc as &dyn Kem, &Fips203] {
                let (parties, opened) = open_envelope(kem, &keys(9).decapsulation, &envelope).unwrap();
                assert_eq!((parties, opened.as_slice()), (PARTIES, plain));
            }
            assert_eq!(open_envelope(&AwsLc, &keys(8).decapsulation, &envelope), Err(EnvelopeError::Refused));
        }
    }

    #[test]
    fn every_number_gives_other_keys() {
        let of = |number| encryption_keys(&AwsLc, &Seed::new([1; 32]), number).unwrap().encapsulation;
        assert_eq!(of(0), of(0));
        assert_ne!(of(0), of(1));
        assert_ne!(of(1), of(1 << 24));
    }

    #[test]
    fn every_changed_byte_of_an_envelope_is_refused() {
        let (envelope, keys) = (sealed(b"confidential"), keys(9));
        for at in (0..109).chain((109..ENVELOPE_HEADER_LEN).step_by(97)).chain(ENVELOPE_HEADER_LEN - 12..envelope.len())
        {
            let mut wrong = envelope.clone();
            wrong[at] ^= 1;
            let error = open_envelope(&AwsLc, &keys.decapsulation, &wrong).unwrap_err();
            let expected = match at {
                0..4 => EnvelopeError::Form,
                4 => EnvelopeError::Version(3),
                _ => EnvelopeError::Refused,
            };
            assert_eq!(error, expected, "byte {at}");
        }
        for len in [0, 3, 4, 5, 100, ENVELOPE_HEADER_LEN, ENVELOPE_HEADER_LEN + 15] {
            assert_eq!(open_envelope(&AwsLc, &keys.decapsulation, &envelope[..len]), Err(EnvelopeError::Form), "{len}");
        }
    }

    /// The format does not change by accident: another value here is another version.
    #[test]
    fn the_format_is_this_one() {
        let envelope = sealed(b"confidential");
        assert_eq!(&envelope[..5], b"AGRE\x02");
        assert_eq!(envelope_digest(&envelope).to_string(), GOLDEN);
    }

    const GOLDEN: &str = "0x7eb237554dfa0b9bc0c8e1cd551e0b8410af60e11301110321ad98edbef76260";
}
