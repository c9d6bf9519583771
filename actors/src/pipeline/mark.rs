//! The record that a commit was executed and persisted: what a later execution of the same commit must come to.

use aurigraph_ledger::{CodecError, Hash, Reader, Writer};

/// Most invalid signatures in one mark: more than any commit can deliver.
const MAX_INVALID: u64 = 1 << 24;

/// What one commit came to on this node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mark {
    /// The commit.
    pub commit_index: u64,
    /// Height and hash of its ledger block, if it has one.
    pub block: Option<(u64, Hash)>,
    /// Number and digest of the checkpoint taken at it, or of the newest before.
    pub checkpoint: Option<(u64, Hash)>,
    /// Transactions whose signature was invalid. All others were checked and good, so executing this commit again
    /// need not check them.
    pub invalid: Vec<Hash>,
}

impl Mark {
    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(1).u64(self.commit_index);
        for pair in [&self.block, &self.checkpoint] {
            match pair {
                None => w.u8(0),
                Some((number, digest)) => w.u8(1).u64(*number).hash(digest),
            };
        }
        w.varint(self.invalid.len() as u64);
        for id in &self.invalid {
            w.hash(id);
        }
        w.into_bytes()
    }

    /// Takes a mark from its canonical bytes.
    ///
    /// # Errors
    /// If the bytes are no mark.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        match r.u8()? {
            1 => {}
            version => return Err(CodecError::Invalid { what: "mark version", value: version.into() }),
        }
        let commit_index = r.u64()?;
        let block = Self::pair(&mut r)?;
        let checkpoint = Self::pair(&mut r)?;
        let count = r.varint_max("invalid signatures", MAX_INVALID)?;
        let invalid = (0..count).map(|_| r.hash()).collect::<Result<_, _>>()?;
        r.finish()?;
        Ok(Self { commit_index, block, checkpoint, invalid })
    }

    fn pair(r: &mut Reader<'_>) -> Result<Option<(u64, Hash)>, CodecError> {
        match r.u8()? {
            0 => Ok(None),
            1 => Ok(Some((r.u64()?, r.hash()?))),
            tag => Err(CodecError::Invalid { what: "option tag", value: tag.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_their_encoding_and_nothing_else_decodes() {
        let hash = aurigraph_ledger::h("test", b"mark");
        for mark in [
            Mark::default(),
            Mark { commit_index: 7, block: Some((3, hash)), checkpoint: Some((2, hash)), invalid: vec![hash, hash] },
        ] {
            let bytes = mark.encode();
            assert_eq!(Mark::decode(&bytes), Ok(mark));
            for cut in 0..bytes.len() {
                assert!(Mark::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
            let mut longer = bytes.clone();
            longer.push(0);
            assert!(Mark::decode(&longer).is_err());
        }
    }
}
