//! The canonical codec: for everything that is hashed, signed or a Merkle leaf.
//!
//! Little-endian integers, LEB128 varints in shortest form, length prefixes with hard maxima, no maps, no floats,
//! no optional field without a tag. `decode(encode(x)) == x`, and no other bytes decode to `x`.

use crate::hash::{DIGEST_LEN, Hash};

/// Why bytes are not the canonical encoding of a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end before the value does.
    #[error("needs {needed} more bytes at offset {offset}, {left} are left")]
    Truncated {
        /// Where the missing field starts.
        offset: usize,
        /// How many bytes the field needs.
        needed: usize,
        /// How many there are.
        left: usize,
    },
    /// Bytes are left after the value.
    #[error("{left} bytes are left after the value that ends at offset {offset}")]
    Trailing {
        /// Where the value ends.
        offset: usize,
        /// How many bytes follow.
        left: usize,
    },
    /// A varint is not in its shortest form, or does not fit 64 bits.
    #[error("varint at offset {offset} is not in shortest form or exceeds 64 bits")]
    Varint {
        /// Where the varint starts.
        offset: usize,
    },
    /// A length or count exceeds its maximum.
    #[error("{what} is {value}, the maximum is {max}")]
    TooLarge {
        /// Which field.
        what: &'static str,
        /// What it says.
        value: u64,
        /// What is allowed.
        max: u64,
    },
    /// A tag, flag or enum value is unknown, or a value breaks a rule of the format.
    #[error("{what}: {value} is not allowed")]
    Invalid {
        /// Which field.
        what: &'static str,
        /// The offending value.
        value: u64,
    },
}

/// Appends canonical fields to a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty writer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty writer with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }

    /// The bytes written so far.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The finished encoding.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes.push(value);
        self
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Sixteen bytes, little-endian.
    pub fn u128(&mut self, value: u128) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// A LEB128 varint in shortest form.
    pub fn varint(&mut self, mut value: u64) -> &mut Self {
        loop {
            #[allow(clippy::cast_possible_truncation)]
            let low = (value & 0x7f) as u8;
            value >>= 7;
            if value == 0 {
                self.bytes.push(low);
                return self;
            }
            self.bytes.push(low | 0x80);
        }
    }

    /// A digest, 32 bytes.
    pub fn hash(&mut self, value: &Hash) -> &mut Self {
        self.raw(&value.0)
    }

    /// Bytes without a length: the reader must know it.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Bytes behind a varint length.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.varint(bytes.len() as u64).raw(bytes)
    }
}

/// Takes canonical fields from a buffer; never panics on any input.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the start of the bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes have been taken.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.at
    }

    /// How many bytes are left.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Takes `n` bytes.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] if fewer are left.
    pub fn raw(&mut self, n: usize) -> Result<&'a [u8], CodecError> {
        if n > self.left() {
            return Err(CodecError::Truncated { offset: self.at, needed: n, left: self.left() });
        }
        let taken = &self.bytes[self.at..self.at + n];
        self.at += n;
        Ok(taken)
    }

    /// Takes `N` bytes as an array.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] if fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(N)?);
        Ok(array)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] at the end.
    pub fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes, little-endian.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] if fewer are left.
    pub fn u16(&mut self) -> Result<u16, CodecError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes, little-endian.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] if fewer are left.
    pub fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes, little-endian.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] if fewer are left.
    pub fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Sixteen bytes, little-endian.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] if fewer are left.
    pub fn u128(&mut self) -> Result<u128, CodecError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    /// A LEB128 varint; any form but the shortest is refused.
    ///
    /// # Errors
    /// [`CodecError::Varint`] for a longer form or more than 64 bits, [`CodecError::Truncated`] at the end.
    pub fn varint(&mut self) -> Result<u64, CodecError> {
        let offset = self.at;
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let low = u64::from(byte & 0x7f);
            if shift == 63 && low > 1 {
                return Err(CodecError::Varint { offset });
            }
            value |= low << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 { Err(CodecError::Varint { offset }) } else { Ok(value) };
            }
        }
        Err(CodecError::Varint { offset })
    }

    /// A varint that must not exceed `max`.
    ///
    /// # Errors
    /// [`CodecError::TooLarge`] with the field's name, and those of [`Reader::varint`].
    pub fn varint_max(&mut self, what: &'static str, max: u64) -> Result<u64, CodecError> {
        let value = self.varint()?;
        if value > max { Err(CodecError::TooLarge { what, value, max }) } else { Ok(value) }
    }

    /// A digest, 32 bytes.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] if fewer are left.
    pub fn hash(&mut self) -> Result<Hash, CodecError> {
        Ok(Hash(self.array::<DIGEST_LEN>()?))
    }

    /// Bytes behind a varint length of at most `max`.
    ///
    /// # Errors
    /// [`CodecError::TooLarge`] with the field's name, [`CodecError::Truncated`] if fewer bytes are left.
    pub fn bytes(&mut self, what: &'static str, max: usize) -> Result<&'a [u8], CodecError> {
        let length = self.varint_max(what, max as u64)?;
        #[allow(clippy::cast_possible_truncation)]
        self.raw(length as usize)
    }

    /// Ends the reading: nothing may be left.
    ///
    /// # Errors
    /// [`CodecError::Trailing`] if bytes are left.
    pub fn finish(self) -> Result<(), CodecError> {
        if self.left() == 0 { Ok(()) } else { Err(CodecError::Trailing { offset: self.at, left: self.left() }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_at_every_length() {
        for value in (0..64).flat_map(|bit| [1_u64 << bit, (1_u64 << bit) - 1]).chain([u64::MAX]) {
            let mut writer = Writer::new();
            writer.varint(value);
            let mut reader = Reader::new(writer.as_slice());
            assert_eq!(reader.varint(), Ok(value));
            assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn a_varint_in_a_longer_form_is_refused() {
        assert_eq!(Reader::new(&[0x80, 0x00]).varint(), Err(CodecError::Varint { offset: 0 }));
        assert_eq!(Reader::new(&[0xff; 11]).varint(), Err(CodecError::Varint { offset: 0 }));
        assert_eq!(
            Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]).varint(),
            Err(CodecError::Varint { offset: 0 })
        );
    }

    #[test]
    fn short_bytes_and_long_lengths_are_refused_with_the_facts() {
        assert_eq!(Reader::new(&[1, 2]).u32(), Err(CodecError::Truncated { offset: 0, needed: 4, left: 2 }));
        assert_eq!(Reader::new(&[9, 0]).bytes("memo", 8), Err(CodecError::TooLarge { what: "memo", value: 9, max: 8 }));
        assert_eq!(Reader::new(&[0]).finish(), Err(CodecError::Trailing { offset: 0, left: 1 }));
    }
}
