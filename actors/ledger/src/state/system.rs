//! The part of the state that is neither an account's nor a module's: fee pool, debts of validators, delivered batches.

use std::collections::{BTreeSet, VecDeque};

use crate::codec::{CodecError, Reader, Writer};
use crate::genesis::MAX_VALIDATORS;
use crate::hash::Hash;
use crate::types::{Amount, ValidatorIndex};

const VERSION: u8 = 1;
/// Most batches that are remembered; a bound for decoding only, far above what a window can deliver.
const MAX_REMEMBERED: u64 = 1 << 24;

/// The digests of recently delivered batches: a second delivery does nothing (consensus.md, 6.5).
#[derive(Debug, Clone, Default)]
pub(crate) struct DeliveredBatches {
    in_order: VecDeque<(u32, Hash)>,
    digests: BTreeSet<Hash>,
}

impl DeliveredBatches {
    /// Notes a delivery in a round; false if the batch was delivered before.
    pub(crate) fn insert(&mut self, round: u32, digest: Hash) -> bool {
        let new = self.digests.insert(digest);
        if new {
            self.in_order.push_back((round, digest));
        }
        new
    }

    /// Forgets what was delivered before a round.
    pub(crate) fn forget_before(&mut self, round: u32) {
        while let Some((_, digest)) = self.in_order.front().filter(|(old, _)| *old < round) {
            self.digests.remove(digest);
            self.in_order.pop_front();
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Everything of the state that stands in the system column.
#[derive(Debug, Clone, Default)]
pub(crate) struct SystemState {
    pub(crate) chain_id: Hash,
    pub(crate) epoch: u64,
    pub(crate) fee_pool: Amount,
    /// Per validator of the epoch that runs: how many invalid signatures it batched. Settled at its end.
    pub(crate) invalid_signatures: Vec<u64>,
    pub(crate) delivered: DeliveredBatches,
}

impl SystemState {
    /// Counts an invalid signature against the validator that batched it.
    pub(crate) fn charge(&mut self, proposer: ValidatorIndex) {
        if let Some(count) = self.invalid_signatures.get_mut(usize::from(proposer)) {
            *count = count.saturating_add(1);
        }
    }

    /// The system column's bytes, which also fix how many accounts and keys there are.
    pub(crate) fn encode(&self, accounts: u32, keys: u32) -> Vec<u8> {
        let mut w = Writer::with_capacity(128 + self.delivered.in_order.len() * 36);
        w.u8(VERSION).hash(&self.chain_id).u64(self.epoch).u32(accounts).u32(keys).u128(self.fee_pool);
        w.varint(self.invalid_signatures.len() as u64);
        for count in &self.invalid_signatures {
            w.u64(*count);
        }
        w.varint(self.delivered.in_order.len() as u64);
        for (round, digest) in &self.delivered.in_order {
            w.u32(*round).hash(digest);
        }
        w.into_bytes()
    }

    /// Reads the system column back, with the numbers of accounts and keys.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, u32, u32), CodecError> {
        let mut r = Reader::new(bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(CodecError::Invalid { what: "version of the system column", value: version.into() });
        }
        let (chain_id, epoch) = (r.hash()?, r.u64()?);
        let (accounts, keys, fee_pool) = (r.u32()?, r.u32()?, r.u128()?);
        let validators = r.varint_max("number of validators", MAX_VALIDATORS as u64)?;
        let invalid_signatures = (0..validators).map(|_| r.u64()).collect::<Result<_, _>>()?;
        let mut delivered = DeliveredBatches::default();
        for _ in 0..r.varint_max("number of delivered batches", MAX_REMEMBERED)? {
            let (round, digest) = (r.u32()?, r.hash()?);
            if !delivered.insert(round, digest) {
                return Err(CodecError::Invalid { what: "delivered batch of round", value: round.into() });
            }
        }
        r.finish()?;
        Ok((Self { chain_id, epoch, fee_pool, invalid_signatures, delivered }, accounts, keys))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::h;

    #[test]
    fn a_batch_is_remembered_until_its_round_is_forgotten() {
        let mut delivered = DeliveredBatches::default();
        let batch = h("batch", b"1");
        assert!(delivered.insert(5, batch));
        assert!(!delivered.insert(6, batch));
        delivered.forget_before(5);
        assert!(!delivered.insert(6, batch));
        delivered.forget_before(6);
        assert!(delivered.insert(6, batch));
    }

    #[test]
    fn the_system_column_round_trips() {
        let mut system = SystemState { chain_id: h("chain", b""), epoch: 3, fee_pool: 17, ..SystemState::default() };
        system.invalid_signatures = vec![0, 2];
        system.delivered.insert(4, h("batch", b"1"));
        system.delivered.insert(4, h("batch", b"2"));
        system.charge(1);
        system.charge(9);
        let bytes = system.encode(10, 3);
        let (back, accounts, keys) = SystemState::decode(&bytes).expect("own bytes decode");
        assert_eq!((accounts, keys), (10, 3));
        assert_eq!(back.invalid_signatures, [0, 3]);
        assert_eq!(back.encode(accounts, keys), bytes);
    }
}
