//! Bytes sealed under a passphrase (argon2id) or a key, with AES-256-GCM.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::{Zeroize as _, Zeroizing};

/// Bytes that a sealed text is longer than its plain one.
pub const SEAL_OVERHEAD: usize = 16;

/// What a passphrase costs to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassphraseCost {
    /// Memory, KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl PassphraseCost {
    /// RFC 9106's second recommended option: 64 MiB, three passes, four lanes.
    pub const RECOMMENDED: Self = Self { memory_kib: 65_536, passes: 3, lanes: 4 };
    /// The most that a file may ask for: a foreign file must not take all memory.
    pub const MOST: Self = Self { memory_kib: 1 << 20, passes: 16, lanes: 16 };

    /// Whether a file may ask for it.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        self.memory_kib >= 8 * self.lanes
            && self.memory_kib <= Self::MOST.memory_kib
            && self.passes >= 1
            && self.passes <= Self::MOST.passes
            && self.lanes >= 1
            && self.lanes <= Self::MOST.lanes
    }
}

/// Why something was not sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not what was sealed under this key, or changed since.
    #[error("the key is wrong or the bytes were changed")]
    Refused,
    /// A passphrase cannot cost that.
    #[error("a passphrase cost of {memory_kib} KiB, {passes} passes and {lanes} lanes is not allowed", memory_kib = .0.memory_kib, passes = .0.passes, lanes = .0.lanes)]
    Cost(PassphraseCost),
    /// The library failed.
    #[error("sealing failed")]
    Library,
}

/// The key that a passphrase gives with a salt (argon2id). Takes as long and as much memory as the cost says.
///
/// # Errors
/// [`SealError::Cost`].
pub fn key_of_passphrase(
    passphrase: &[u8],
    salt: &[u8; 16],
    cost: PassphraseCost,
) -> Result<Zeroizing<[u8; 32]>, SealError> {
    let refused = SealError::Cost(cost);
    if !cost.is_allowed() {
        return Err(refused);
    }
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(|_| refused)?;
    let mut key = Zeroizing::new([0; 32]);
    let mut memory = vec![Block::new(); params.block_count()];
    let done = Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into_with_memory(
        passphrase,
        salt,
        &mut key[..],
        &mut memory,
    );
    memory.iter_mut().for_each(|block| block.zeroize());
    done.map_err(|_| refused)?;
    Ok(key)
}

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, SealError> {
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).map_err(|_| SealError::Library)?))
}

/// Seals with AES-256-GCM. A nonce must never be used twice with one key.
///
/// # Errors
/// [`SealError::Library`], for a text of more than 64 GiB.
pub fn seal(key: &[u8; 32], nonce: [u8; NONCE_LEN], bound: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
    // Room for the tag from the start: a vector that grows would leave a copy of the plain text behind.
    let mut sealed = Vec::with_capacity(plain.len() + SEAL_OVERHEAD);
    sealed.extend_from_slice(plain);
    cipher(key)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound), &mut sealed)
        .map_err(|_| SealError::Library)?;
    Ok(sealed)
}

/// Opens what was sealed with this key, nonce and bound bytes.
///
/// # Errors
/// [`SealError::Refused`].
pub fn unseal(
    key: &[u8; 32],
    nonce: [u8; NONCE_LEN],
    bound: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let mut bytes = Zeroizing::new(sealed.to_vec());
    let len = cipher(key)?
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(bound), &mut bytes)
        .map_err(|_| SealError::Refused)?
        .len();
    bytes.truncate(len);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Few enough that tests do not wait.
    const CHEAP: PassphraseCost = PassphraseCost { memory_kib: 64, passes: 1, lanes: 1 };

    /// McGrew and Viega, The Galois/Counter Mode of Operation, test case 16 (AES-256, with bound bytes).
    #[test]
    fn the_cipher_is_aes_256_gcm_of_its_authors() {
        let hex = |text: &str| hex::decode(text).unwrap();
        let key: [u8; 32] = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308").try_into().unwrap();
        let nonce: [u8; 12] = hex("cafebabefacedbaddecaf888").try_into().unwrap();
        let plain =
            hex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525\
             b16aedf5aa0de657ba637b39");
        let bound = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let expected =
            hex("522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838\
             c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b");
        let sealed = seal(&key, nonce, &bound, &plain).unwrap();
        assert_eq!(sealed, expected);
        assert_eq!(*unseal(&key, nonce, &bound, &sealed).unwrap(), plain);
        for at in 0..sealed.len() {
            let mut wrong = sealed.clone();
            wrong[at] ^= 1;
            assert_eq!(unseal(&key, nonce, &bound, &wrong), Err(SealError::Refused));
        }
        assert_eq!(unseal(&key, nonce, &bound[1..], &sealed), Err(SealError::Refused));
        assert_eq!(unseal(&key, nonce, &bound, &sealed[..15]), Err(SealError::Refused));
    }

    #[test]
    fn a_passphrase_gives_one_key_and_every_part_of_the_cost_counts() {
        let key = |passphrase: &[u8], salt: &[u8; 16], cost| *key_of_passphrase(passphrase, salt, cost).unwrap();
        let first = key(b"password", b"somesaltsomesalt", CHEAP);
        assert_eq!(first, key(b"password", b"somesaltsomesalt", CHEAP));
        let others = [
            key(b"passwore", b"somesaltsomesalt", CHEAP),
            key(b"password", b"somesaltsomesalu", CHEAP),
            key(b"password", b"somesaltsomesalt", PassphraseCost { memory_kib: 72, ..CHEAP }),
            key(b"password", b"somesaltsomesalt", PassphraseCost { passes: 2, ..CHEAP }),
            key(b"password", b"somesaltsomesalt", PassphraseCost { lanes: 2, ..CHEAP }),
        ];
        assert!(others.iter().all(|other| *other != first));
    }

    #[test]
    fn a_file_cannot_ask_for_all_memory() {
        for cost in [
            PassphraseCost { memory_kib: u32::MAX, ..CHEAP },
            PassphraseCost { passes: 17, ..CHEAP },
            PassphraseCost { passes: 0, ..CHEAP },
            PassphraseCost { lanes: 0, ..CHEAP },
            PassphraseCost { lanes: 16, ..CHEAP },
        ] {
            assert_eq!(key_of_passphrase(b"", &[0; 16], cost), Err(SealError::Cost(cost)));
        }
        assert!(PassphraseCost::RECOMMENDED.is_allowed());
    }
}
