//! A node's network identity: one ML-DSA-87 key pair from a 32-byte seed.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

/// Length of a raw ML-DSA-87 public key.
pub const PUBLIC_KEY_BYTES: usize = 2_592;

/// DER in front of a raw ML-DSA-87 public key: together they are its SubjectPublicKeyInfo, which TLS carries where
/// others carry a certificate.
const SPKI_PREFIX: [u8; 22] = [
    0x30, 0x82, 0x0a, 0x32, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x13, 0x03, 0x82,
    0x0a, 0x21, 0x00,
];

/// DER in front of a 32-byte ML-DSA-87 seed: together they are its PKCS#8 form.
const SEED_PKCS8_PREFIX: [u8; 22] = [
    0x30, 0x34, 0x02, 0x01, 0x00, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x13, 0x04,
    0x22, 0x80, 0x20,
];

/// Why an identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The public key has the wrong length.
    #[error("the public key of {name} has {length} bytes instead of {PUBLIC_KEY_BYTES}")]
    KeyLength {
        /// Whose key.
        name: String,
        /// How long it is.
        length: usize,
    },
    /// Two names share one key, so a session could not be told apart.
    #[error("{first} and {second} have the same public key")]
    SharedKey {
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// The TLS library refuses the key or the settings.
    #[error("the TLS library refuses the identity: {0}")]
    Tls(#[from] rustls::Error),
    /// The library lacks an algorithm that we insist on.
    #[error("the TLS library has no {0}")]
    Missing(&'static str),
}

/// The SubjectPublicKeyInfo of a raw key.
pub(super) fn spki(public_key: &[u8]) -> Vec<u8> {
    [SPKI_PREFIX.as_slice(), public_key].concat()
}

/// The key pair that proves who this node is on its links. It signs nothing but TLS handshakes.
pub struct Identity {
    certified: Arc<CertifiedKey>,
    public_key: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({}..)", hex::encode(&self.public_key[..8]))
    }
}

impl Identity {
    /// Derives the key pair from its seed.
    ///
    /// # Errors
    /// [`IdentityError::Tls`] if the library refuses the key.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, IdentityError> {
        let pkcs8 = [SEED_PKCS8_PREFIX.as_slice(), seed].concat();
        let key = provider()?.key_provider.load_private_key(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8)))?;
        let info = key.public_key().ok_or(IdentityError::Missing("public key for raw-key authentication"))?;
        let certificate = CertificateDer::from(info.as_ref().to_vec());
        let public_key = info.as_ref().get(SPKI_PREFIX.len()..).unwrap_or_default().to_vec();
        if public_key.len() != PUBLIC_KEY_BYTES {
            return Err(IdentityError::KeyLength { name: "this node".into(), length: public_key.len() });
        }
        Ok(Self { certified: Arc::new(CertifiedKey::new(vec![certificate], key)), public_key })
    }

    /// The raw public key that the others list.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

/// The only cryptography offered: one key exchange, one cipher suite, one signature scheme.
pub(super) fn provider() -> Result<CryptoProvider, IdentityError> {
    use rustls::crypto::aws_lc_rs;
    Ok(CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::MLKEM1024],
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384],
        signature_verification_algorithms: super::verify::ml_dsa_87()?,
        ..aws_lc_rs::default_provider()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{KeyPair, ML_DSA_87, ML_DSA_87_SIGNING, PqdsaKeyPair, UnparsedPublicKey};
    use fips204::ml_dsa_87;
    use fips204::traits::{KeyGen, SerDes, Signer, Verifier};

    fn seeds() -> impl Iterator<Item = [u8; 32]> {
        (0_u8..4).map(|i| std::array::from_fn(|j| i.wrapping_mul(67).wrapping_add(u8::try_from(j).expect("below 32"))))
    }

    #[test]
    fn both_libraries_expand_one_seed_to_the_same_keys() {
        for seed in seeds() {
            let (public, private) = ml_dsa_87::KG::keygen_from_seed(&seed);
            let aws = PqdsaKeyPair::from_seed(&ML_DSA_87_SIGNING, &seed).expect("a 32-byte seed");
            let public = public.into_bytes();
            assert_eq!(public.as_slice(), aws.public_key().as_ref());
            let expanded = aws_lc_rs::encoding::AsRawBytes::as_raw_bytes(&aws.private_key()).expect("exportable");
            assert_eq!(private.into_bytes().as_slice(), expanded.as_ref());
            let identity = Identity::from_seed(&seed).expect("loads");
            assert_eq!(identity.public_key(), public.as_slice());
            assert_eq!(identity.certified().cert[0].as_ref(), spki(&public).as_slice());
        }
    }

    #[test]
    fn a_signature_of_one_library_is_valid_in_the_other() {
        let message = b"the links of a cluster";
        for seed in seeds() {
            let (public, private) = ml_dsa_87::KG::keygen_from_seed(&seed);
            let aws = PqdsaKeyPair::from_seed(&ML_DSA_87_SIGNING, &seed).expect("a 32-byte seed");
            let mut signature = [0_u8; 4_627];
            assert_eq!(aws.sign(message, &mut signature).expect("signs"), signature.len());
            assert!(public.verify(message, &signature, &[]));
            assert!(!public.verify(message, &signature, b"context"));
            let signature = private.try_sign(message, &[]).expect("signs");
            let aws_key = UnparsedPublicKey::new(&ML_DSA_87, aws.public_key().as_ref());
            assert!(aws_key.verify(message, &signature).is_ok());
            assert!(aws_key.verify(b"another message", &signature).is_err());
        }
    }
}
