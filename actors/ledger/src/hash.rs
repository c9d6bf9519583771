//! 32-byte digests and the two hash functions of the protocol.
//!
//! `H(tag, x)` is SHA3-256 with a domain tag and is used for everything that has an identity: ids, addresses,
//! blocks, tree nodes. BLAKE3 digests bulk bodies (batches, pages, files), where SHA3 would cost many times as much.

use std::fmt;
use std::str::FromStr;

use sha3::{Digest as _, Sha3_256};

/// Bytes of a digest. A constant of the protocol version.
pub const DIGEST_LEN: usize = 32;

/// A 32-byte digest, printed as `0x` and 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash(pub [u8; DIGEST_LEN]);

impl Hash {
    /// The digest of nothing: 32 zero bytes, used where a chain has no predecessor.
    pub const ZERO: Self = Self([0; DIGEST_LEN]);

    /// The digest's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; DIGEST_LEN] {
        &self.0
    }
}

impl From<[u8; DIGEST_LEN]> for Hash {
    fn from(bytes: [u8; DIGEST_LEN]) -> Self {
        Self(bytes)
    }
}

impl AsRef<[u8]> for Hash {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashParseError {
    /// The text does not start with `0x`.
    #[error("a hash starts with 0x, this is {0:?}")]
    Prefix(String),
    /// The text has another length than 64 digits.
    #[error("a hash has 64 hex digits after 0x, this has {0}")]
    Length(usize),
    /// A digit is not one of 0-9, a-f, A-F.
    #[error("not a hex digit in {0:?}")]
    Digit(String),
}

impl FromStr for Hash {
    type Err = HashParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("0x").ok_or_else(|| HashParseError::Prefix(text.to_owned()))?;
        if digits.len() != 2 * DIGEST_LEN {
            return Err(HashParseError::Length(digits.len()));
        }
        let mut bytes = [0; DIGEST_LEN];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| HashParseError::Digit(text.to_owned()))?;
        Ok(Self(bytes))
    }
}

impl serde::Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// `H(tag, x)` of consensus.md 1.5: SHA3-256 over the tag's length in one byte, the tag, and the bytes.
///
/// # Panics
/// Never for the tags of this code base: they are literals of at most 255 bytes (checked by a debug assertion).
#[must_use]
pub fn h(tag: &str, bytes: &[u8]) -> Hash {
    h_parts(tag, &[bytes])
}

/// [`h`] over the concatenation of several parts, without copying them together.
#[must_use]
pub fn h_parts(tag: &str, parts: &[&[u8]]) -> Hash {
    #[cfg(feature = "digest-memo")]
    return crate::memo::digest(tag, parts, || sha3(tag, parts));
    #[cfg(not(feature = "digest-memo"))]
    sha3(tag, parts)
}

fn sha3(tag: &str, parts: &[&[u8]]) -> Hash {
    let mut hasher = TaggedHasher::new(tag);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finish()
}

/// [`h`] over bytes that come in pieces.
pub(crate) struct TaggedHasher(Sha3_256);

impl TaggedHasher {
    pub(crate) fn new(tag: &str) -> Self {
        debug_assert!(tag.len() <= usize::from(u8::MAX), "hash tags are short literals");
        let mut hasher = Sha3_256::new();
        #[allow(clippy::cast_possible_truncation)]
        hasher.update([tag.len() as u8]);
        hasher.update(tag.as_bytes());
        Self(hasher)
    }

    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    pub(crate) fn finish(self) -> Hash {
        Hash(self.0.finalize().into())
    }
}

/// BLAKE3 of a bulk body.
#[must_use]
pub fn blake3_digest(bytes: &[u8]) -> Hash {
    Hash(*blake3::hash(bytes).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_separates_domains() {
        assert_ne!(h("a", b"bc"), h("ab", b"c"));
        assert_eq!(h_parts("t", &[b"ab", b"c"]), h("t", b"abc"));
    }

    #[test]
    fn text_form_round_trips_and_bad_text_is_named() {
        let hash = h("text", b"x");
        assert_eq!(hash.to_string().parse::<Hash>(), Ok(hash));
        assert_eq!("12".parse::<Hash>(), Err(HashParseError::Prefix("12".into())));
        assert_eq!("0x12".parse::<Hash>(), Err(HashParseError::Length(2)));
        assert!(matches!(format!("0x{}", "zz".repeat(32)).parse::<Hash>(), Err(HashParseError::Digit(_))));
    }
}
