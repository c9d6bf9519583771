//! A batch's canonical bytes and its digest.
//!
//! epoch u64, author u16, sequence u64, number of transactions (varint), then each transaction behind its length
//! (varint). Digest = H("batch", epoch, author, sequence, tx_root); tx_root = BLAKE3 of the length-prefixed transactions.

use std::ops::Range;

use aurigraph_consensus::{AuthorIdx, BatchRef, Epoch};
use aurigraph_ledger::codec::{CodecError, Reader, Writer};
use aurigraph_ledger::types::MAX_TRANSACTION_LEN;
use aurigraph_ledger::{Hash, blake3_digest, h_parts};
use bytes::Bytes;

/// A transaction of the smallest kind has a signature, so no batch of a sane size holds more than this.
const MAX_TRANSACTIONS: u64 = 1 << 16;

/// What stands before the transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHead {
    /// The epoch.
    pub epoch: Epoch,
    /// Who made it.
    pub author: AuthorIdx,
    /// Its number in the author's count.
    pub sequence: u64,
}

impl BatchHead {
    /// Reads only the head of a batch.
    ///
    /// # Errors
    /// [`CodecError`] if the bytes are shorter.
    pub fn read(bytes: &[u8]) -> Result<Self, CodecError> {
        Self::take(&mut Reader::new(bytes))
    }

    /// Most bytes that the head and the number of transactions take.
    pub const MAX_WITH_COUNT: usize = 8 + 2 + 8 + 10;

    /// Reads only the head and the number of transactions.
    ///
    /// # Errors
    /// [`CodecError`] if the bytes are shorter, or the number has another form.
    pub fn read_with_count(bytes: &[u8]) -> Result<(Self, u64), CodecError> {
        let mut r = Reader::new(bytes);
        Ok((Self::take(&mut r)?, r.varint_max("transactions of the batch", MAX_TRANSACTIONS)?))
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { epoch: r.u64()?, author: r.u16()?, sequence: r.u64()? })
    }

    fn digest(&self, tx_root: &Hash) -> Hash {
        let (epoch, author, sequence) =
            (self.epoch.to_le_bytes(), self.author.to_le_bytes(), self.sequence.to_le_bytes());
        h_parts("batch", &[&epoch, &author, &sequence, &tx_root.0])
    }
}

/// A batch taken apart: its transactions are slices of its bytes and need not decode.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Its head.
    pub head: BatchHead,
    /// Its digest, length and number of transactions.
    pub reference: BatchRef,
    /// Its bytes.
    pub bytes: Bytes,
    transactions: Vec<Range<usize>>,
}

impl Batch {
    /// Seals transactions.
    #[must_use]
    pub fn seal<'a>(head: BatchHead, transactions: impl ExactSizeIterator<Item = &'a [u8]>, capacity: usize) -> Self {
        let mut w = Writer::with_capacity(capacity);
        w.u64(head.epoch).u16(head.author).u64(head.sequence).varint(transactions.len() as u64);
        let start = w.as_slice().len();
        let mut ranges = Vec::with_capacity(transactions.len());
        for transaction in transactions {
            w.bytes(transaction);
            let end = w.as_slice().len();
            ranges.push(end - transaction.len()..end);
        }
        let bytes = Bytes::from(w.into_bytes());
        Self { head, reference: reference(&head, &bytes, start, ranges.len()), bytes, transactions: ranges }
    }

    /// Takes a batch of at most `max` bytes apart and computes its digest.
    ///
    /// # Errors
    /// [`CodecError`] for anything but the canonical form.
    pub fn parse(bytes: Bytes, max: usize) -> Result<Self, CodecError> {
        if bytes.len() > max {
            return Err(CodecError::TooLarge {
                what: "length of the batch",
                value: bytes.len() as u64,
                max: max as u64,
            });
        }
        let mut r = Reader::new(&bytes);
        let head = BatchHead::take(&mut r)?;
        let count = r.varint_max("transactions of the batch", MAX_TRANSACTIONS)?;
        let start = r.offset();
        // Each needs a byte at least: the claimed count cannot make this reserve more than the bytes allow.
        let mut transactions = Vec::with_capacity(usize::try_from(count).unwrap_or(0).min(r.left()));
        for _ in 0..count {
            let len = r.bytes("length of a transaction", MAX_TRANSACTION_LEN)?.len();
            transactions.push(r.offset() - len..r.offset());
        }
        r.finish()?;
        Ok(Self { head, reference: reference(&head, &bytes, start, transactions.len()), bytes, transactions })
    }

    /// The transactions' bytes, in order.
    pub fn transactions(&self) -> impl ExactSizeIterator<Item = Bytes> + '_ {
        self.transactions.iter().map(|range| self.bytes.slice(range.clone()))
    }
}

/// Lengths and counts are bounded far below 2^32 by the limit on batches.
#[allow(clippy::cast_possible_truncation)]
fn reference(head: &BatchHead, bytes: &[u8], start: usize, count: usize) -> BatchRef {
    let digest = head.digest(&blake3_digest(&bytes[start..]));
    BatchRef { digest, len: bytes.len() as u32, tx_count: count as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1 << 20;

    fn sealed(transactions: &[&[u8]]) -> Batch {
        let head = BatchHead { epoch: 3, author: 2, sequence: 77 };
        Batch::seal(head, transactions.iter().copied(), 0)
    }

    #[test]
    fn a_batch_survives_its_encoding() {
        for transactions in [&[][..], &[b"one".as_slice()], &[b"one".as_slice(), b"", &[7; 300]]] {
            let batch = sealed(transactions);
            let parsed = Batch::parse(batch.bytes.clone(), MAX).unwrap();
            assert_eq!((parsed.head, parsed.reference), (batch.head, batch.reference));
            assert!(parsed.transactions().eq(transactions.iter().copied()));
            assert_eq!(BatchHead::read(&batch.bytes), Ok(batch.head));
            assert_eq!(parsed.reference.len as usize, batch.bytes.len());
        }
    }

    #[test]
    fn the_golden_bytes_of_a_batch_stand() {
        let batch = sealed(&[b"one", b"two!"]);
        assert_eq!(hex::encode(&batch.bytes), "030000000000000002004d0000000000000002036f6e650474776f21");
        let tx_root = blake3_digest(b"\x03one\x04two!");
        let head = hex::decode("030000000000000002004d00000000000000").unwrap();
        assert_eq!(batch.reference.digest, h_parts("batch", &[&head, &tx_root.0]));
    }

    #[test]
    fn every_cut_longer_or_non_canonical_form_is_refused() {
        let batch = sealed(&[b"one", b"two!"]);
        for len in 0..batch.bytes.len() {
            assert!(Batch::parse(batch.bytes.slice(..len), MAX).is_err(), "{len} bytes");
        }
        let longer = [&batch.bytes[..], &[0]].concat();
        assert!(matches!(Batch::parse(longer.into(), MAX), Err(CodecError::Trailing { left: 1, .. })));
        assert!(matches!(Batch::parse(batch.bytes.clone(), 10), Err(CodecError::TooLarge { .. })));
        let mut padded = batch.bytes.to_vec();
        padded.splice(18..19, [0x82, 0x00]);
        assert!(matches!(Batch::parse(padded.into(), MAX), Err(CodecError::Varint { offset: 18 })));
        let huge = [&batch.bytes[..18], &[0xff, 0xff, 0x03]].concat();
        assert!(matches!(Batch::parse(huge.into(), MAX), Err(CodecError::Truncated { .. })));
    }

    #[test]
    fn the_digest_depends_on_every_part() {
        let digest = |epoch, author, sequence, transactions: &[&[u8]]| {
            Batch::seal(BatchHead { epoch, author, sequence }, transactions.iter().copied(), 0).reference.digest
        };
        let digests = [
            digest(1, 1, 1, &[b"ab"]),
            digest(2, 1, 1, &[b"ab"]),
            digest(1, 2, 1, &[b"ab"]),
            digest(1, 1, 2, &[b"ab"]),
            digest(1, 1, 1, &[b"a", b"b"]),
            digest(1, 1, 1, &[]),
        ];
        let distinct: std::collections::BTreeSet<_> = digests.iter().collect();
        assert_eq!(distinct.len(), digests.len());
    }
}
