//! ML-KEM-1024 (FIPS 203): the trait of all implementations, and the reference.
//!
//! The checks of inputs that FIPS 203, section 7, asks for are part of every call: whoever holds the result holds one
//! that came from well-formed keys. Randomness is given by the caller, so that vectors can be replayed; [`random_32`]
//! draws it.

use fips203::ml_kem_1024;
use fips203::traits::{Decaps, Encaps, KeyGen, SerDes};
use zeroize::Zeroizing;

/// Bytes of an encapsulation key.
pub const ENCAPSULATION_KEY_LEN: usize = 1_568;
/// Bytes of a decapsulation key.
pub const DECAPSULATION_KEY_LEN: usize = 3_168;
/// Bytes of a ciphertext.
pub const CIPHERTEXT_LEN: usize = 1_568;

/// A shared secret. Wiped when dropped.
pub type SharedSecret = Zeroizing<[u8; 32]>;

/// A ciphertext and the secret that it carries.
pub type Encapsulated = (Vec<u8>, SharedSecret);

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KemError {
    /// Bytes of another length.
    #[error("{what}: {len} bytes instead of {expected}")]
    Length {
        /// What was given.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The length of all such.
        expected: usize,
    },
    /// The right length, but FIPS 203's check of the key fails.
    #[error("{what}: not a key (its numbers or its hash are wrong)")]
    Key {
        /// Which key.
        what: &'static str,
    },
    /// The library failed, for want of memory.
    #[error("{0} failed")]
    Library(&'static str),
    /// The operating system has no randomness.
    #[error("no randomness")]
    Randomness,
}

/// A new key pair.
pub struct KemKeys {
    /// Whoever has it can encapsulate.
    pub encapsulation: Vec<u8>,
    /// The secret. Wiped when dropped.
    pub decapsulation: Zeroizing<Vec<u8>>,
}

/// ML-KEM-1024. All implementations give the same bytes and refuse the same inputs.
pub trait Kem: Send + Sync {
    /// Short name.
    fn name(&self) -> &'static str;

    /// The key pair of two secret seeds (FIPS 203, algorithm 16).
    ///
    /// # Errors
    /// [`KemError::Library`].
    fn key_pair(&self, d: &[u8; 32], z: &[u8; 32]) -> Result<KemKeys, KemError>;

    /// A ciphertext and the secret that it carries, from 32 secret random bytes (algorithms 20 and 17).
    ///
    /// # Errors
    /// [`KemError::Length`] and [`KemError::Key`] for what is no encapsulation key.
    fn encapsulate(&self, key: &[u8], m: &[u8; 32]) -> Result<(Vec<u8>, SharedSecret), KemError>;

    /// The secret in a ciphertext; of a wrong ciphertext one that nobody else has (algorithm 21, implicit rejection).
    ///
    /// # Errors
    /// [`KemError::Length`] and [`KemError::Key`] for what is no decapsulation key or no ciphertext.
    fn decapsulate(&self, key: &[u8], ciphertext: &[u8]) -> Result<SharedSecret, KemError>;
}

/// 32 bytes from the operating system.
///
/// # Errors
/// [`KemError::Randomness`] if it has none.
pub fn random_32() -> Result<Zeroizing<[u8; 32]>, KemError> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut bytes[..]).map_err(|_| KemError::Randomness)?;
    Ok(bytes)
}

pub(crate) const ENCAPSULATION_KEY: &str = "encapsulation key";
pub(crate) const DECAPSULATION_KEY: &str = "decapsulation key";
const CIPHERTEXT: &str = "ciphertext";

fn sized<const LEN: usize>(what: &'static str, bytes: &[u8]) -> Result<[u8; LEN], KemError> {
    bytes.try_into().map_err(|_| KemError::Length { what, len: bytes.len(), expected: LEN })
}

pub(crate) fn encapsulation_key(bytes: &[u8]) -> Result<[u8; ENCAPSULATION_KEY_LEN], KemError> {
    sized(ENCAPSULATION_KEY, bytes)
}

pub(crate) fn decapsulation_key(bytes: &[u8]) -> Result<Zeroizing<[u8; DECAPSULATION_KEY_LEN]>, KemError> {
    sized(DECAPSULATION_KEY, bytes).map(Zeroizing::new)
}

pub(crate) fn ciphertext(bytes: &[u8]) -> Result<[u8; CIPHERTEXT_LEN], KemError> {
    sized(CIPHERTEXT, bytes)
}

/// Whether all numbers of 12 bits are below FIPS 203's q, in the same time for all secrets.
pub(crate) fn below_q(packed: &[u8]) -> bool {
    const Q: u16 = 3_329;
    let mut beyond = 0;
    for [a, b, c] in packed.as_chunks().0 {
        let (first, second) = (u16::from(*a) | u16::from(b & 15) << 8, u16::from(b >> 4) | u16::from(*c) << 4);
        // The difference wraps, and so has its highest bit, exactly when the number is q or more.
        beyond |= (Q - 1).wrapping_sub(first) | (Q - 1).wrapping_sub(second);
    }
    beyond >> 15 == 0
}

/// The reference: fips203, pure Rust.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fips203;

impl Kem for Fips203 {
    fn name(&self) -> &'static str {
        "fips203"
    }

    fn key_pair(&self, d: &[u8; 32], z: &[u8; 32]) -> Result<KemKeys, KemError> {
        let (encapsulation, decapsulation) = ml_kem_1024::KG::keygen_from_seed(*d, *z);
        Ok(KemKeys {
            encapsulation: encapsulation.into_bytes().to_vec(),
            decapsulation: Zeroizing::new(Zeroizing::new(decapsulation.into_bytes()).to_vec()),
        })
    }

    fn encapsulate(&self, key: &[u8], m: &[u8; 32]) -> Result<(Vec<u8>, SharedSecret), KemError> {
        let key = ml_kem_1024::EncapsKey::try_from_bytes(encapsulation_key(key)?)
            .map_err(|_| KemError::Key { what: ENCAPSULATION_KEY })?;
        let (secret, ciphertext) = key.encaps_from_seed(m);
        Ok((ciphertext.into_bytes().to_vec(), Zeroizing::new(secret.into_bytes())))
    }

    fn decapsulate(&self, key: &[u8], bytes: &[u8]) -> Result<SharedSecret, KemError> {
        let bytes = ciphertext(bytes)?;
        let key = ml_kem_1024::DecapsKey::try_from_bytes(*decapsulation_key(key)?)
            .map_err(|_| KemError::Key { what: DECAPSULATION_KEY })?;
        let bytes = ml_kem_1024::CipherText::try_from_bytes(bytes).map_err(|_| KemError::Library("decapsulation"))?;
        let secret = key.try_decaps(&bytes).map_err(|_| KemError::Library("decapsulation"))?;
        Ok(Zeroizing::new(secret.into_bytes()))
    }
}
