//! ML-DSA-87 keys from 32-byte seeds, and signing with them.

use aws_lc_rs::signature::{KeyPair, ML_DSA_87_SIGNING, PqdsaKeyPair};
use fips204::ml_dsa_87;
use fips204::traits::{KeyGen, Signer as _};
use zeroize::Zeroizing;

use crate::verify::{MAX_CONTEXT, PUBLIC_KEY_LEN, SIGNATURE_LEN};

/// The secret from which a key pair is generated (FIPS 204's xi). Wiped when dropped, never printed.
#[derive(Clone)]
pub struct Seed(Zeroizing<[u8; 32]>);

impl Seed {
    /// Wraps a seed that was kept elsewhere.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Draws a new one from the operating system.
    ///
    /// # Errors
    /// [`SignError::Randomness`] if the system has none.
    pub fn generate() -> Result<Self, SignError> {
        let mut seed = Self::new([0; 32]);
        getrandom::fill(&mut seed.0[..]).map_err(|error| SignError::Randomness(error.to_string()))?;
        Ok(seed)
    }

    /// The bytes, for writing a key file.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Seed {
    fn from(bytes: [u8; 32]) -> Self {
        Self::new(bytes)
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(secret)")
    }
}

/// Why a key could not be made or used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The library refused the seed.
    #[error("no key pair from this seed: {0}")]
    Key(String),
    /// The library failed to sign, for want of memory or randomness.
    #[error("signing a message of {message_len} bytes failed")]
    Sign {
        /// Length of the message.
        message_len: usize,
    },
    /// FIPS 204 knows no such context.
    #[error("a context of {len} bytes; 255 are the most")]
    Context {
        /// Length of the context.
        len: usize,
    },
    /// The operating system has no randomness.
    #[error("no randomness: {0}")]
    Randomness(String),
}

/// Signs with one ML-DSA-87 key, empty context, randomised. The expanded key stays inside the library, which wipes it.
pub struct Signer {
    pair: PqdsaKeyPair,
}

impl Signer {
    /// Expands the key (65 µs).
    ///
    /// # Errors
    /// [`SignError::Key`] if the library refuses, which no 32-byte seed causes.
    pub fn from_seed(seed: &Seed) -> Result<Self, SignError> {
        PqdsaKeyPair::from_seed(&ML_DSA_87_SIGNING, seed.expose())
            .map(|pair| Self { pair })
            .map_err(|error| SignError::Key(error.to_string()))
    }

    /// The raw public key, [`PUBLIC_KEY_LEN`] bytes.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// Signs a message (160 µs); the signature has [`SIGNATURE_LEN`] bytes.
    ///
    /// # Errors
    /// [`SignError::Sign`] if the library fails.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let mut signature = vec![0; SIGNATURE_LEN];
        match self.pair.sign(message, &mut signature) {
            Ok(SIGNATURE_LEN) => Ok(signature),
            _ => Err(SignError::Sign { message_len: message.len() }),
        }
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(secret)")
    }
}

/// The public key that belongs to a seed.
///
/// # Errors
/// Those of [`Signer::from_seed`].
pub fn public_key_of(seed: &Seed) -> Result<Vec<u8>, SignError> {
    let key = Signer::from_seed(seed)?.public_key().to_vec();
    debug_assert_eq!(key.len(), PUBLIC_KEY_LEN);
    Ok(key)
}

/// Signs with a context string, which AWS-LC's Rust crate does not offer: the reference does it, expanding the key each
/// time (0.6 ms).
///
/// # Errors
/// [`SignError::Context`] for a context that is too long, [`SignError::Sign`] if the library fails.
pub fn sign_with_context(seed: &Seed, message: &[u8], context: &[u8]) -> Result<Vec<u8>, SignError> {
    if context.len() > MAX_CONTEXT {
        return Err(SignError::Context { len: context.len() });
    }
    let (_, secret) = ml_dsa_87::KG::keygen_from_seed(seed.expose());
    let signature = secret.try_sign(message, context);
    signature.map(Into::into).map_err(|_| SignError::Sign { message_len: message.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AwsLc, BatchVerifier, Fips204, VerifyItem};
    use fips204::traits::SerDes;

    #[test]
    fn a_seed_gives_the_same_key_as_the_reference() {
        for byte in 0..8 {
            let seed = [byte; 32];
            let (reference, _) = ml_dsa_87::KG::keygen_from_seed(&seed);
            assert_eq!(public_key_of(&seed.into()).unwrap(), reference.into_bytes());
        }
    }

    #[test]
    fn either_library_takes_the_signatures_of_the_other() {
        let seed = [7; 32];
        let signer = Signer::from_seed(&seed.into()).unwrap();
        let (_, secret) = ml_dsa_87::KG::keygen_from_seed(&seed);
        let signatures = [signer.sign(b"message").unwrap(), secret.try_sign(b"message", &[]).unwrap().to_vec()];
        for signature in signatures {
            let item = VerifyItem::new(signer.public_key(), b"message", &signature);
            assert!(AwsLc.verify(&item) && Fips204.verify(&item));
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let seed = Seed::new([0xab; 32]);
        assert_eq!(format!("{seed:?}"), "Seed(secret)");
        assert_eq!(format!("{:?}", Signer::from_seed(&seed).unwrap()), "Signer(secret)");
        assert_ne!(Seed::generate().unwrap().expose(), Seed::generate().unwrap().expose());
    }
}
