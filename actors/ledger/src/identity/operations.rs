//! Operations of identity: what they are, and their columns in a group.
//!
//! | tag | operation | columns |
//! |---|---|---|
//! | 160 | register an encryption key | numbers u32, keys of 1,568 bytes, signatures |
//! | 161 | anchor an envelope | digests of 32 bytes |
//!
//! What an operation does stands in the module.

use std::ops::RangeInclusive;

use crate::codec::{CodecError, Reader, Writer};
use crate::hash::Hash;
use crate::module::GroupFormat;
use crate::types::SIGNATURE_LEN;

/// The tags of all operations.
pub const TAGS: RangeInclusive<u8> = 160..=161;
/// The format of their groups.
pub(crate) const FORMAT: GroupFormat =
    GroupFormat { tags: TAGS, read: |tag, count, r| read(tag, count, r).map(|_| ()) };
/// Bytes of an encryption key: an encapsulation key of ML-KEM-1024.
pub const ENCRYPTION_KEY_LEN: usize = 1_568;
/// What stands before an encryption key when its account signs it: [`encryption_key_message`].
pub const ENCRYPTION_KEY_DOMAIN: &[u8] = b"aurigraph/encryption-key/2";

const REGISTER: u8 = 160;
const ANCHOR: u8 = 161;

/// A key to which others seal for an account, signed by the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedEncryptionKey {
    /// Which of the account's keys it is; every key that replaces another has a greater number.
    pub number: u32,
    /// The encapsulation key, of [`ENCRYPTION_KEY_LEN`] bytes.
    pub key: Vec<u8>,
    /// The account's signature of [`encryption_key_message`], with an empty context.
    pub signature: Vec<u8>,
}

/// An operation of identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityOperation {
    /// The sender's encryption key is this one from now on.
    RegisterEncryptionKey(Box<SignedEncryptionKey>),
    /// The sender says that it sealed the envelope with this digest.
    AnchorEnvelope {
        /// H("envelope", its bytes).
        digest: Hash,
    },
}

/// What an account signs when it says that a key is its encryption key.
#[must_use]
pub fn encryption_key_message(number: u32, key: &[u8]) -> Vec<u8> {
    [ENCRYPTION_KEY_DOMAIN, &number.to_le_bytes(), key].concat()
}

/// Whether bytes are an encapsulation key of ML-KEM-1024: the length and the modulus check of FIPS 203, section 7.2.
#[must_use]
pub fn is_encryption_key(key: &[u8]) -> bool {
    const Q: u16 = 3_329;
    if key.len() != ENCRYPTION_KEY_LEN {
        return false;
    }
    // The last 32 bytes are the matrix' seed, of which every value is one.
    let (numbers, _) = key[..ENCRYPTION_KEY_LEN - 32].as_chunks::<3>();
    numbers.iter().all(|[a, b, c]| {
        let (first, second) = (u16::from(*a) | u16::from(b & 15) << 8, u16::from(b >> 4) | u16::from(*c) << 4);
        first < Q && second < Q
    })
}

impl IdentityOperation {
    /// The tag of its group.
    #[must_use]
    pub const fn tag(&self) -> u8 {
        match self {
            Self::RegisterEncryptionKey(_) => REGISTER,
            Self::AnchorEnvelope { .. } => ANCHOR,
        }
    }

    /// Its name, as interfaces show it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::RegisterEncryptionKey(_) => "encryption_key",
            Self::AnchorEnvelope { .. } => "anchor_envelope",
        }
    }
}

/// The columns of operations that all have one tag.
pub(crate) fn write(operations: &[IdentityOperation]) -> Vec<u8> {
    let mut w = Writer::new();
    let keys = || {
        operations.iter().filter_map(|operation| match operation {
            IdentityOperation::RegisterEncryptionKey(key) => Some(key),
            IdentityOperation::AnchorEnvelope { .. } => None,
        })
    };
    keys().for_each(|it| {
        w.u32(it.number);
    });
    keys().for_each(|it| {
        w.raw(&it.key);
    });
    keys().for_each(|it| {
        w.raw(&it.signature);
    });
    for operation in operations {
        if let IdentityOperation::AnchorEnvelope { digest } = operation {
            w.hash(digest);
        }
    }
    w.into_bytes()
}

fn read_list<T>(
    r: &mut Reader<'_>,
    count: usize,
    read: impl Fn(&mut Reader<'_>) -> Result<T, CodecError>,
) -> Result<Vec<T>, CodecError> {
    (0..count).map(|_| read(r)).collect()
}

/// Reads the columns of a group.
///
/// # Errors
/// [`CodecError`] if they are anything but what [`write`] gives.
pub(crate) fn read(tag: u8, count: usize, r: &mut Reader<'_>) -> Result<Vec<IdentityOperation>, CodecError> {
    match tag {
        REGISTER => {
            let numbers = read_list(r, count, |r| r.u32())?;
            let keys = read_list(r, count, |r| Ok(r.raw(ENCRYPTION_KEY_LEN)?.to_vec()))?;
            let signatures = read_list(r, count, |r| Ok(r.raw(SIGNATURE_LEN)?.to_vec()))?;
            let columns = numbers.into_iter().zip(keys).zip(signatures);
            let register = |((number, key), signature)| {
                IdentityOperation::RegisterEncryptionKey(Box::new(SignedEncryptionKey { number, key, signature }))
            };
            Ok(columns.map(register).collect())
        }
        ANCHOR => read_list(r, count, |r| Ok(IdentityOperation::AnchorEnvelope { digest: r.hash()? })),
        other => Err(CodecError::Invalid { what: "operation tag of identity", value: other.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_q_and_more_make_no_encryption_key() {
        let mut key = vec![0; ENCRYPTION_KEY_LEN];
        assert!(is_encryption_key(&key));
        // 3,328 in both places, then 3,329 in either.
        key[..3].copy_from_slice(&[0x00, 0x0d, 0xd0]);
        assert!(is_encryption_key(&key));
        for wrong in [[0x01, 0x0d, 0xd0], [0x00, 0x1d, 0xd0]] {
            key[1_533..1_536].copy_from_slice(&wrong);
            assert!(!is_encryption_key(&key), "{wrong:x?}");
        }
        key[1_533..].fill(0);
        key[1_536..].fill(0xff);
        assert!(is_encryption_key(&key), "the seed is free");
        assert!(!is_encryption_key(&key[1..]));
    }
}
