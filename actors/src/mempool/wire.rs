//! What batch stores say to each other on the bulk lane.

use aurigraph_ledger::Hash;
use aurigraph_ledger::codec::{CodecError, Reader, Writer};
use aurigraph_runtime::Buffers;
use bytes::Bytes;

use crate::bounds::mempool::REQUEST_DIGESTS;
use crate::wire::{BULK_BATCH_PUSH, BULK_BATCH_REPLY, BULK_BATCH_REQUEST, framed};

const ABSENT: u8 = 0;
const FOUND: u8 = 1;

/// A message between batch stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BatchWire {
    /// A new batch of the sender.
    Push(Bytes),
    /// Send me these.
    Request(Vec<Hash>),
    /// One that you asked for.
    Found(Bytes),
    /// One that you asked for is not here.
    Absent(Hash),
}

impl BatchWire {
    /// The message with its kind byte.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Push(batch) => framed(BULK_BATCH_PUSH, batch),
            Self::Request(digests) => {
                let mut w = Writer::with_capacity(2 + digests.len() * 32);
                w.u8(BULK_BATCH_REQUEST).varint(digests.len() as u64);
                digests.iter().for_each(|digest| {
                    w.hash(digest);
                });
                w.into_bytes().into()
            }
            Self::Found(batch) => {
                let mut w = Writer::with_capacity(2 + batch.len());
                w.u8(BULK_BATCH_REPLY).u8(FOUND).raw(batch);
                w.into_bytes().into()
            }
            Self::Absent(digest) => {
                let mut w = Writer::new();
                w.u8(BULK_BATCH_REPLY).u8(ABSENT).hash(digest);
                w.into_bytes().into()
            }
        }
    }

    /// Reads a message. Bodies are copied out: a frame of the network holds its sender's credit for as long as any part
    /// of it lives, and batches live long.
    ///
    /// # Errors
    /// [`CodecError`] for anything that [`BatchWire::encode`] does not write.
    pub fn decode(message: &[u8], buffers: &Buffers) -> Result<Self, CodecError> {
        let mut r = Reader::new(message);
        match r.u8()? {
            BULK_BATCH_PUSH => Ok(Self::Push(rest(&mut r, buffers)?)),
            BULK_BATCH_REQUEST => {
                let count = r.varint_max("digests of the request", REQUEST_DIGESTS as u64)?;
                let digests = (0..count).map(|_| r.hash()).collect::<Result<_, _>>()?;
                r.finish()?;
                Ok(Self::Request(digests))
            }
            BULK_BATCH_REPLY => match r.u8()? {
                FOUND => Ok(Self::Found(rest(&mut r, buffers)?)),
                ABSENT => {
                    let digest = r.hash()?;
                    r.finish()?;
                    Ok(Self::Absent(digest))
                }
                other => Err(CodecError::Invalid { what: "batch reply tag", value: other.into() }),
            },
            other => Err(CodecError::Invalid { what: "batch message kind", value: other.into() }),
        }
    }
}

fn rest(r: &mut Reader<'_>, buffers: &Buffers) -> Result<Bytes, CodecError> {
    let body = r.raw(r.left())?;
    let mut copy = buffers.take(body.len());
    copy.extend_from_slice(body);
    Ok(copy.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_their_encoding() {
        for message in [
            BatchWire::Push(Bytes::from_static(b"batch")),
            BatchWire::Request(vec![]),
            BatchWire::Request(vec![Hash([1; 32]), Hash([2; 32])]),
            BatchWire::Found(Bytes::from_static(b"batch")),
            BatchWire::Absent(Hash([3; 32])),
        ] {
            assert_eq!(BatchWire::decode(&message.encode(), &Buffers::fresh()), Ok(message));
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        let many = BatchWire::Request(vec![Hash::ZERO; REQUEST_DIGESTS + 1]).encode();
        assert!(matches!(BatchWire::decode(&many, &Buffers::fresh()), Err(CodecError::TooLarge { .. })));
        let absent = BatchWire::Absent(Hash::ZERO).encode();
        assert!(BatchWire::decode(&absent[..20], &Buffers::fresh()).is_err());
        assert!(BatchWire::decode(&[&absent[..], &[0]].concat(), &Buffers::fresh()).is_err());
        for bytes in [&[][..], &[0x13], &[BULK_BATCH_REPLY], &[BULK_BATCH_REPLY, 9], &[BULK_BATCH_REQUEST, 0x80, 0]] {
            assert!(BatchWire::decode(bytes, &Buffers::fresh()).is_err(), "{bytes:?}");
        }
    }
}
