//! What nodes say to each other about snapshots, on the bulk lane behind everything urgent.

use aurigraph_ledger::{CodecError, Hash, Reader, Writer};
use bytes::Bytes;

use crate::bounds::snapshots as bounds;
use crate::wire::{BULK_SNAPSHOT, framed};

/// A message about snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotMessage {
    /// Asks for a piece of a manifest.
    AskManifest {
        /// Digest of the manifest; zero for that of the newest snapshot.
        digest: Hash,
        /// Which piece, from 0.
        part: u32,
    },
    /// That piece; none if it is not there.
    Manifest(Option<ManifestPart>),
    /// Asks for a chunk.
    AskChunk {
        /// Height of the snapshot.
        height: u64,
        /// Which chunk, from 0.
        number: u32,
        /// Its digest: another snapshot of that height has other chunks.
        digest: Hash,
    },
    /// A chunk; none if it is not there.
    Chunk {
        /// Height of the snapshot.
        height: u64,
        /// Which chunk.
        number: u32,
        /// Its bytes.
        bytes: Option<Vec<u8>>,
    },
}

/// A piece of a manifest's canonical bytes. All but the last have [`bounds::CHUNK`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestPart {
    /// Digest of the manifest.
    pub digest: Hash,
    /// Bytes of the whole of it.
    pub total: u32,
    /// Which piece, from 0.
    pub part: u32,
    /// The piece.
    pub bytes: Vec<u8>,
}

impl ManifestPart {
    /// A piece of these bytes; none beyond the last.
    #[must_use]
    pub fn of(digest: Hash, manifest: &[u8], part: u32) -> Option<Self> {
        let bytes = manifest.chunks(bounds::CHUNK).nth(part as usize)?.to_vec();
        Some(Self { digest, total: u32::try_from(manifest.len()).ok()?, part, bytes })
    }
}

impl SnapshotMessage {
    /// The message as a frame of the bulk lane.
    #[must_use]
    pub fn frame(&self) -> Bytes {
        framed(BULK_SNAPSHOT, &self.encode())
    }

    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        match self {
            Self::AskManifest { digest, part } => {
                w.u8(1).hash(digest).u32(*part);
            }
            Self::Manifest(None) => {
                w.u8(2).u8(0);
            }
            Self::Manifest(Some(ManifestPart { digest, total, part, bytes })) => {
                w.u8(2).u8(1).hash(digest).u32(*total).u32(*part).bytes(bytes);
            }
            Self::AskChunk { height, number, digest } => {
                w.u8(3).u64(*height).u32(*number).hash(digest);
            }
            Self::Chunk { height, number, bytes } => {
                w.u8(4).u64(*height).u32(*number);
                match bytes {
                    None => w.u8(0),
                    Some(bytes) => w.u8(1).bytes(bytes),
                };
            }
        }
        w.into_bytes()
    }

    /// Takes a message from its canonical bytes.
    ///
    /// # Errors
    /// If the bytes are none, or exceed a maximum.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let message = match r.u8()? {
            1 => Self::AskManifest { digest: r.hash()?, part: r.u32()? },
            2 => Self::Manifest(read_option(&mut r, |r| {
                let (digest, total, part) = (r.hash()?, r.u32()?, r.u32()?);
                let bytes = r.bytes("bytes of a manifest", bounds::CHUNK)?.to_vec();
                Ok(ManifestPart { digest, total, part, bytes })
            })?),
            3 => Self::AskChunk { height: r.u64()?, number: r.u32()?, digest: r.hash()? },
            4 => {
                let (height, number) = (r.u64()?, r.u32()?);
                let bytes = read_option(&mut r, |r| Ok(r.bytes("bytes of a chunk", bounds::CHUNK)?.to_vec()))?;
                Self::Chunk { height, number, bytes }
            }
            tag => return Err(CodecError::Invalid { what: "snapshot message tag", value: tag.into() }),
        };
        r.finish()?;
        Ok(message)
    }
}

fn read_option<'a, T>(
    r: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, CodecError>,
) -> Result<Option<T>, CodecError> {
    match r.u8()? {
        0 => Ok(None),
        1 => read(r).map(Some),
        tag => Err(CodecError::Invalid { what: "option tag", value: tag.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_their_encoding_and_nothing_else_decodes() {
        let digest = Hash([7; 32]);
        for message in [
            SnapshotMessage::AskManifest { digest, part: 3 },
            SnapshotMessage::Manifest(None),
            SnapshotMessage::Manifest(ManifestPart::of(digest, &[1; 300], 0)),
            SnapshotMessage::AskChunk { height: 5, number: 6, digest },
            SnapshotMessage::Chunk { height: 5, number: 6, bytes: None },
            SnapshotMessage::Chunk { height: 5, number: 6, bytes: Some(vec![2; 300]) },
        ] {
            let bytes = message.encode();
            assert_eq!(SnapshotMessage::decode(&bytes).as_ref(), Ok(&message));
            for cut in 0..bytes.len() {
                assert!(SnapshotMessage::decode(&bytes[..cut]).is_err(), "{message:?} cut at {cut}");
            }
            assert!(SnapshotMessage::decode(&[bytes, vec![0]].concat()).is_err());
        }
        let long = SnapshotMessage::Chunk { height: 1, number: 1, bytes: Some(vec![0; bounds::CHUNK + 1]) };
        assert!(SnapshotMessage::decode(&long.encode()).is_err(), "a chunk is never longer than its bound");
    }

    #[test]
    fn the_first_bytes_of_the_protocol_are_these() {
        let ask = SnapshotMessage::AskChunk { height: 1, number: 2, digest: Hash([3; 32]) };
        let mut golden = vec![0x30, 3, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0];
        golden.extend([3; 32]);
        assert_eq!(ask.frame().as_ref(), golden);
    }

    #[test]
    fn a_long_manifest_goes_in_pieces() {
        let (digest, manifest) = (Hash([7; 32]), vec![5; 2 * bounds::CHUNK + 9]);
        let parts: Vec<_> = (0..4).filter_map(|part| ManifestPart::of(digest, &manifest, part)).collect();
        let lengths: Vec<_> = parts.iter().map(|part| part.bytes.len()).collect();
        assert_eq!(lengths, [bounds::CHUNK, bounds::CHUNK, 9]);
        assert!(parts.iter().all(|part| part.total as usize == manifest.len()));
    }
}
