//! The small types every other module speaks in, and the hard limits of the protocol.
//!
//! No behaviour beyond parsing, printing and range checks lives here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hash::{DIGEST_LEN, Hash, HashParseError, h};

/// An amount in base units; 10^18 base units are one AUR.
pub type Amount = u128;

/// A validator's position in the epoch's validator set.
pub type ValidatorIndex = u16;

/// Decimal places of one AUR.
pub const AUR_DECIMALS: usize = 18;
/// Base units of one AUR.
pub const AUR: Amount = 1_000_000_000_000_000_000;
/// Most operations in one transaction.
pub const MAX_OPERATIONS: usize = 4_096;
/// Most groups in one transaction.
pub const MAX_GROUPS: usize = 64;
/// Longest memo, in bytes.
pub const MAX_MEMO: usize = 256;
/// How far above its base a nonce may lie.
pub const NONCE_WINDOW: u64 = 1_024;
/// How far above the current height a transaction's expiry may lie.
pub const MAX_EXPIRY: u64 = 10_000;
/// Bytes of an ML-DSA-87 public key.
pub const PUBLIC_KEY_LEN: usize = 2_592;
/// Bytes of an ML-DSA-87 signature.
pub const SIGNATURE_LEN: usize = 4_627;
/// Most bytes of all operation groups of a transaction together: 4,096 transfers to addresses with 16-byte amounts,
/// the groups' own fields (tag, two-byte count, width) and the group count.
pub const MAX_OPERATION_BYTES: usize = MAX_OPERATIONS * (DIGEST_LEN + 16) + MAX_GROUPS * 4 + 1;
/// Longest encoding of a transaction: version, chain id, sender with address and key, nonce, expiry, maximum fee,
/// flags, memo, operations digest, operations, signature.
pub const MAX_TRANSACTION_LEN: usize = 1
    + DIGEST_LEN
    + (1 + DIGEST_LEN + PUBLIC_KEY_LEN)
    + 8
    + 8
    + 16
    + 1
    + (2 + MAX_MEMO)
    + DIGEST_LEN
    + MAX_OPERATION_BYTES
    + SIGNATURE_LEN;
/// What is signed is this text followed by the transaction's id.
pub const SIGNING_DOMAIN: &[u8] = b"aurigraph/tx/v1";

/// An account's address: H("address", public key).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Address(pub Hash);

impl Address {
    /// The address that belongs to a public key.
    #[must_use]
    pub fn of_public_key(public_key: &[u8]) -> Self {
        Self(h("address", public_key))
    }

    /// The address's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; DIGEST_LEN] {
        &self.0.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Address {
    type Err = HashParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// An account's number: assigned when its address is first credited, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccountIndex(pub u32);

impl AccountIndex {
    /// The account's position in the columns.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for AccountIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A public key of either kind, printed as `0x` and hex digits. The ledger never interprets it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(Vec<u8>);

impl PublicKey {
    /// Wraps key bytes; their length is checked where the key is used.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.len().min(8);
        write!(f, "PublicKey(0x{}.., {} bytes)", hex::encode(&self.0[..shown]), self.0.len())
    }
}

impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        hex_bytes::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        hex_bytes::deserialize(deserializer).map(Self)
    }
}

/// Why a text is not an amount of AUR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountParseError {
    /// Not digits with at most one point between or before digits.
    #[error("{0:?} is not a decimal number")]
    NotDecimal(String),
    /// More decimal places than a base unit can express.
    #[error("{0:?} has more than 18 decimal places")]
    TooPrecise(String),
    /// More than 2^128 - 1 base units.
    #[error("{0:?} is more than an amount can hold")]
    TooLarge(String),
}

/// Reads a decimal amount of AUR, such as `"1.5"`, into base units. No sign, no exponent, no separators.
///
/// # Errors
/// [`AmountParseError`] with the offending text.
pub fn parse_aur(text: &str) -> Result<Amount, AmountParseError> {
    let not_decimal = || AmountParseError::NotDecimal(text.to_owned());
    let too_large = || AmountParseError::TooLarge(text.to_owned());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err(not_decimal());
    }
    if fraction.len() > AUR_DECIMALS {
        return Err(AmountParseError::TooPrecise(text.to_owned()));
    }
    let whole: Amount = whole.parse().map_err(|_| too_large())?;
    let fraction: Amount = format!("{fraction:0<AUR_DECIMALS$}").parse().map_err(|_| not_decimal())?;
    whole.checked_mul(AUR).and_then(|units| units.checked_add(fraction)).ok_or_else(too_large)
}

/// Prints base units as decimal AUR, without trailing zeros: the inverse of [`parse_aur`].
#[must_use]
pub fn format_aur(amount: Amount) -> String {
    let (whole, fraction) = (amount / AUR, amount % AUR);
    if fraction == 0 {
        return whole.to_string();
    }
    format!("{whole}.{fraction:0>AUR_DECIMALS$}").trim_end_matches('0').to_owned()
}

/// Serde form of an amount: a decimal text in AUR, since TOML and JSON have no 128-bit integers.
pub mod aur {
    use super::{Amount, format_aur, parse_aur};

    /// Writes the decimal text.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: serde::Serializer>(amount: &Amount, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_aur(*amount))
    }

    /// Reads the decimal text.
    ///
    /// # Errors
    /// Those of the deserializer, and a text that is no amount.
    pub fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Amount, D::Error> {
        let text = <std::borrow::Cow<'_, str> as serde::Deserialize>::deserialize(deserializer)?;
        parse_aur(&text).map_err(serde::de::Error::custom)
    }
}

/// Serde form of raw bytes: `0x` and lower-case hex digits.
pub mod hex_bytes {
    /// Writes `0x` and hex digits.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("0x{}", hex::encode(bytes)))
    }

    /// Reads `0x` and hex digits.
    ///
    /// # Errors
    /// Those of the deserializer, and a text in another form.
    pub fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = <std::borrow::Cow<'_, str> as serde::Deserialize>::deserialize(deserializer)?;
        let digits = text.strip_prefix("0x").ok_or_else(|| serde::de::Error::custom("hex bytes start with 0x"))?;
        hex::decode(digits).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_print_and_parse_as_decimal_aur() {
        for (text, units) in [
            ("0", 0),
            ("1", AUR),
            ("1.5", AUR + AUR / 2),
            ("0.000000000000000001", 1),
            ("340282366920938463463.374607431768211455", u128::MAX),
        ] {
            assert_eq!(parse_aur(text), Ok(units));
            assert_eq!(format_aur(units), text);
        }
        assert_eq!(parse_aur("01.50"), Ok(AUR + AUR / 2));
    }

    #[test]
    fn texts_that_are_no_amounts_are_refused_by_kind() {
        for text in ["", ".", "1.", ".5", "-1", "+1", "1e3", "1.2.3", "1,5", " 1"] {
            assert_eq!(parse_aur(text), Err(AmountParseError::NotDecimal(text.to_owned())), "{text:?}");
        }
        let precise = "0.0000000000000000001";
        assert_eq!(parse_aur(precise), Err(AmountParseError::TooPrecise(precise.to_owned())));
        for text in ["340282366920938463463.374607431768211456", "999999999999999999999999999999999999999999"] {
            assert_eq!(parse_aur(text), Err(AmountParseError::TooLarge(text.to_owned())));
        }
    }
}
