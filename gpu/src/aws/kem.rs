//! ML-KEM-1024 with given randomness: AWS-LC offers that in C only.
//!
//! Nothing leaves this module but bytes; every object is freed where it was made. Freed keys are wiped by the library.
#![allow(unsafe_code)]

use std::ptr::null_mut;

use aws_lc_sys::{
    EVP_PKEY, EVP_PKEY_CTX, EVP_PKEY_CTX_free, EVP_PKEY_CTX_kem_set_params, EVP_PKEY_CTX_new, EVP_PKEY_CTX_new_id,
    EVP_PKEY_KEM, EVP_PKEY_decapsulate, EVP_PKEY_encapsulate_deterministic, EVP_PKEY_free,
    EVP_PKEY_get_raw_private_key, EVP_PKEY_get_raw_public_key, EVP_PKEY_kem_new_raw_public_key,
    EVP_PKEY_kem_new_raw_secret_key, EVP_PKEY_keygen_deterministic, EVP_PKEY_keygen_init, NID_MLKEM1024,
};
use zeroize::Zeroizing;

use super::context::{Owned, forget_errors};
use crate::kem::{
    CIPHERTEXT_LEN, DECAPSULATION_KEY, DECAPSULATION_KEY_LEN, ENCAPSULATION_KEY, ENCAPSULATION_KEY_LEN, Kem, KemError,
    KemKeys, SharedSecret, below_q, ciphertext, decapsulation_key, encapsulation_key,
};

/// Bytes of the packed vectors in keys, whose numbers must be below q: four polynomials.
const VECTOR: usize = 1_536;

impl Kem for super::AwsLc {
    fn name(&self) -> &'static str {
        "aws-lc"
    }

    fn key_pair(&self, d: &[u8; 32], z: &[u8; 32]) -> Result<KemKeys, KemError> {
        let mut seed = Zeroizing::new([0; 64]);
        seed[..32].copy_from_slice(d);
        seed[32..].copy_from_slice(z);
        let keys = key_pair(&seed);
        forget_errors(None);
        keys.ok_or(KemError::Library("key generation"))
    }

    fn encapsulate(&self, key: &[u8], m: &[u8; 32]) -> Result<(Vec<u8>, SharedSecret), KemError> {
        let key = encapsulation_key(key)?;
        if !below_q(&key[..VECTOR]) {
            return Err(KemError::Key { what: ENCAPSULATION_KEY });
        }
        let result = encapsulate(&key, m);
        forget_errors(None);
        result.ok_or(KemError::Key { what: ENCAPSULATION_KEY })
    }

    fn decapsulate(&self, key: &[u8], bytes: &[u8]) -> Result<SharedSecret, KemError> {
        let bytes = ciphertext(bytes)?;
        let key = decapsulation_key(key)?;
        // The library checks the hash of the public key within; its numbers and the secret's are checked here.
        if !below_q(&key[..VECTOR]) || !below_q(&key[VECTOR..2 * VECTOR]) {
            return Err(KemError::Key { what: DECAPSULATION_KEY });
        }
        let result = decapsulate(&key[..], &bytes);
        forget_errors(None);
        result.ok_or(KemError::Key { what: DECAPSULATION_KEY })
    }
}

fn context_of(key: &Owned<EVP_PKEY>) -> Option<Owned<EVP_PKEY_CTX>> {
    // SAFETY: the key is alive, and the context holds it from here on; null asks for no engine.
    Owned::new(unsafe { EVP_PKEY_CTX_new(key.get(), null_mut()) }, EVP_PKEY_CTX_free)
}

fn key_pair(seed: &[u8; 64]) -> Option<KemKeys> {
    // SAFETY: no memory is passed; null asks for no engine.
    let context = Owned::new(unsafe { EVP_PKEY_CTX_new_id(EVP_PKEY_KEM, null_mut()) }, EVP_PKEY_CTX_free)?;
    let (mut made, mut seed_len) = (null_mut(), seed.len());
    // SAFETY: the context is alive; `made` is null, so that the library makes a key; the seed has the given length.
    let done = unsafe {
        EVP_PKEY_CTX_kem_set_params(context.get(), NID_MLKEM1024) == 1
            && EVP_PKEY_keygen_init(context.get()) == 1
            && EVP_PKEY_keygen_deterministic(context.get(), &raw mut made, seed.as_ptr(), &raw mut seed_len) == 1
    };
    let key = Owned::<EVP_PKEY>::new(made, EVP_PKEY_free)?;
    let mut encapsulation = vec![0; ENCAPSULATION_KEY_LEN];
    let mut decapsulation = Zeroizing::new(vec![0; DECAPSULATION_KEY_LEN]);
    let (mut public_len, mut secret_len) = (encapsulation.len(), decapsulation.len());
    // SAFETY: the key is alive; each buffer has the length that is passed with it, and the library writes no more.
    let read = done
        && unsafe {
            EVP_PKEY_get_raw_public_key(key.get(), encapsulation.as_mut_ptr(), &raw mut public_len) == 1
                && EVP_PKEY_get_raw_private_key(key.get(), decapsulation.as_mut_ptr(), &raw mut secret_len) == 1
        };
    (read && public_len == ENCAPSULATION_KEY_LEN && secret_len == DECAPSULATION_KEY_LEN)
        .then_some(KemKeys { encapsulation, decapsulation })
}

fn encapsulate(key: &[u8; ENCAPSULATION_KEY_LEN], m: &[u8; 32]) -> Option<(Vec<u8>, SharedSecret)> {
    // SAFETY: pointer and length describe the array; the library copies it.
    let key = unsafe { EVP_PKEY_kem_new_raw_public_key(NID_MLKEM1024, key.as_ptr(), key.len()) };
    let context = context_of(&Owned::new(key, EVP_PKEY_free)?)?;
    let (mut ciphertext, mut secret) = (vec![0; CIPHERTEXT_LEN], Zeroizing::new([0; 32]));
    let (mut ciphertext_len, mut secret_len, mut seed_len) = (ciphertext.len(), secret.len(), m.len());
    // SAFETY: the context is alive; each buffer has the length that is passed with it, and the library writes no more.
    let done = unsafe {
        EVP_PKEY_encapsulate_deterministic(
            context.get(),
            ciphertext.as_mut_ptr(),
            &raw mut ciphertext_len,
            secret.as_mut_ptr(),
            &raw mut secret_len,
            m.as_ptr(),
            &raw mut seed_len,
        )
    };
    (done == 1 && ciphertext_len == CIPHERTEXT_LEN && secret_len == 32).then_some((ciphertext, secret))
}

fn decapsulate(key: &[u8], ciphertext: &[u8; CIPHERTEXT_LEN]) -> Option<SharedSecret> {
    // SAFETY: pointer and length describe the slice; the library copies it.
    let key = unsafe { EVP_PKEY_kem_new_raw_secret_key(NID_MLKEM1024, key.as_ptr(), key.len()) };
    let context = context_of(&Owned::new(key, EVP_PKEY_free)?)?;
    let mut secret = Zeroizing::new([0; 32]);
    let mut secret_len = secret.len();
    // SAFETY: the context is alive; the secret has the length that is passed with it; the ciphertext is only read.
    let done = unsafe {
        EVP_PKEY_decapsulate(
            context.get(),
            secret.as_mut_ptr(),
            &raw mut secret_len,
            ciphertext.as_ptr().cast_mut(),
            ciphertext.len(),
        )
    };
    (done == 1 && secret_len == 32).then_some(secret)
}
