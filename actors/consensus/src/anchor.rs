//! The order's state at an anchor: every so many commits, the same bytes on every node.
//!
//! A checkpoint names the digest of the newest anchor at or before its commit, so the signatures under a checkpoint vouch
//! for it. Who has these bytes, and the blocks that they name, goes on ordering from there without the commits before
//! (consensus.md 9.6).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aurigraph_ledger::codec::{CodecError, Reader, Writer};
use aurigraph_ledger::hash::{Hash, h};

use crate::agreement::Agreement;
use crate::block::{Accusation, Block, EvidenceKind};
use crate::commit::CommitHeader;
use crate::committee::{self, Committee};
use crate::config::{Config, ConfigError, EARLIER_EVIDENCE, WRONG_ATTESTATIONS};
use crate::epoch::{EpochBase, EpochTally};
use crate::machine::Machine;
use crate::reputation::Reputation;
use crate::schedule::Schedule;
use crate::snapshot::{ConsensusSnapshot, EvidenceState, read_accusation, read_ascending, write_accusation};
use crate::types::{BlockRef, CommitIndex, Epoch, Round, Slot};
use crate::validity::EpochContext;

/// Commits from one anchor to the next, counted from the start of the epoch. Part of the protocol.
pub const ANCHOR_EVERY: u64 = 64;
/// Anchors whose states are kept in memory: a checkpoint is certified some seconds after its commit.
pub const ANCHORS_KEPT: usize = 6;
/// Version of the encoding: that of protocol versions whose commits prove faults of their own epoch alone, whose epoch it
/// does not repeat.
const OWN_EPOCH: u8 = 1;
/// From protocol version [`EARLIER_EVIDENCE`] on, which is [`WRONG_ATTESTATIONS`]: with the epochs of faults, and what is
/// attested. 2 had no attestations and is read no more.
const VERSION: u8 = 3;
const _: () = assert!(EARLIER_EVIDENCE == WRONG_ATTESTATIONS, "one encoding for both");

/// The newest anchor: what commits name. Zero before the first of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Anchor {
    /// Its commit.
    pub index: CommitIndex,
    /// Digest of the state after it.
    pub digest: Hash,
}

/// What ordering goes on from, but for the blocks above the garbage-collection round: a function of the commits alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderState {
    /// The chain.
    pub chain_id: Hash,
    /// The epoch.
    pub epoch: Epoch,
    /// Its seed.
    pub epoch_seed: Hash,
    /// Where its commits start.
    pub base: EpochBase,
    /// The protocol version that it runs.
    pub version: u16,
    /// The commit that it is the state after.
    pub last_commit: CommitHeader,
    /// Committed blocks above that commit's garbage-collection round.
    pub committed: BTreeSet<BlockRef>,
    /// Which block owns each delivered slot above that round.
    pub slots: BTreeMap<Slot, Hash>,
    /// Delivered batches in the window, with the leader round of the commit that delivered them.
    pub delivered: BTreeMap<Hash, Round>,
    /// The leader schedule's state.
    pub reputation: Reputation,
    /// What the epoch's commits say of its end.
    pub tally: EpochTally,
    /// Faults that commits of this epoch have proven.
    pub proven: BTreeSet<Accusation>,
    /// What the epoch's delivered blocks attest; empty before protocol version [`WRONG_ATTESTATIONS`].
    pub agreement: Agreement,
}

/// Why a state cannot be gone on from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderStateError {
    /// The configuration cannot run.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Of another chain or epoch than the configuration.
    #[error("the state is of chain {chain_id}, epoch {epoch}")]
    Elsewhere {
        /// In the state.
        chain_id: Hash,
        /// In the state.
        epoch: Epoch,
    },
    /// The leader schedule is none of this committee.
    #[error("the state's leader schedule is none of this committee")]
    Schedule,
    /// It names attestations of validators that there are not.
    #[error("the state's attestations are none of this committee's")]
    Attestations,
    /// Not the blocks that it names.
    #[error("the state names {named} blocks, {found} are given")]
    Count {
        /// In the state.
        named: usize,
        /// Beside it.
        found: usize,
    },
    /// A block that does not decode, breaks a rule, comes twice or is not named.
    #[error("block {at} beside the state: {reason}")]
    Block {
        /// Its place, from 0.
        at: usize,
        /// What is wrong.
        reason: String,
    },
}

impl OrderState {
    /// The digest that checkpoints carry.
    #[must_use]
    pub fn digest(&self) -> Hash {
        digest_of(&self.encode())
    }

    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        let format = format_of(self.version);
        w.u8(format).hash(&self.chain_id).u64(self.epoch).hash(&self.epoch_seed);
        w.u64(self.base.index).u64(self.base.timestamp_ms).u16(self.version);
        self.last_commit.write(&mut w);
        w.varint(self.committed.len() as u64);
        self.committed.iter().for_each(|block| block.write(&mut w));
        w.varint(self.slots.len() as u64);
        for (slot, digest) in &self.slots {
            w.u32(slot.round).u16(slot.author).hash(digest);
        }
        w.varint(self.delivered.len() as u64);
        for (digest, round) in &self.delivered {
            w.hash(digest).u32(*round);
        }
        self.reputation.write(&mut w);
        self.tally.write(&mut w);
        w.varint(self.proven.len() as u64);
        for accusation in &self.proven {
            match format {
                OWN_EPOCH => {
                    w.u16(accusation.1).u8(accusation.2.tag());
                }
                _ => write_accusation(&mut w, accusation),
            }
        }
        if format != OWN_EPOCH {
            self.agreement.write(&mut w);
        }
        w.into_bytes()
    }

    /// Takes a state from its canonical bytes. Nothing of what it says is checked but its form.
    ///
    /// # Errors
    /// If the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let format = r.u8()?;
        let (chain_id, epoch, epoch_seed) = (r.hash()?, r.u64()?, r.hash()?);
        let (base, version) = (EpochBase { index: r.u64()?, timestamp_ms: r.u64()? }, r.u16()?);
        if format != format_of(version) {
            return Err(CodecError::Invalid { what: "version of the order's state", value: format.into() });
        }
        let last_commit = CommitHeader::read(&mut r)?;
        let committed = read_ascending(&mut r, "committed blocks", BlockRef::read)?.into_iter().collect();
        let slots =
            read_ascending(&mut r, "delivered slots", |r| Ok((Slot { round: r.u32()?, author: r.u16()? }, r.hash()?)))?;
        let delivered = read_ascending(&mut r, "delivered batches", |r| Ok((r.hash()?, r.u32()?)))?;
        let (reputation, tally) = (Reputation::read(&mut r)?, EpochTally::read(&mut r)?);
        let accusation = |r: &mut Reader<'_>| match format {
            OWN_EPOCH => Ok((epoch, r.u16()?, EvidenceKind::read(r)?)),
            _ => read_accusation(r),
        };
        let proven = read_ascending(&mut r, "proven faults", accusation)?.into_iter().collect();
        let agreement = if format == OWN_EPOCH { Agreement::default() } else { Agreement::read(&mut r)? };
        r.finish()?;
        Ok(Self {
            chain_id,
            epoch,
            epoch_seed,
            base,
            version,
            last_commit,
            committed,
            slots: slots.into_iter().collect(),
            delivered: delivered.into_iter().collect(),
            reputation,
            tally,
            proven,
            agreement,
        })
    }

    /// Checks, before it is relied on, that a machine of this configuration can go on from the state and the canonical
    /// bytes of the blocks that it names. Signatures are not checked: the state vouches for each block by its digest.
    ///
    /// # Errors
    /// [`OrderStateError`] naming the first part that does not hold.
    pub fn check(&self, config: &Config, blocks: &[Arc<[u8]>]) -> Result<(), OrderStateError> {
        let committee: Committee = committee::check(config)?;
        let epoch = (self.epoch, self.epoch_seed, self.base, self.version);
        if self.chain_id != config.chain_id
            || epoch != (config.epoch, config.epoch_seed, config.base, config.version)
            || self.last_commit.epoch != config.epoch
        {
            return Err(OrderStateError::Elsewhere { chain_id: self.chain_id, epoch: self.epoch });
        }
        if !Schedule::new(config).restore(&committee, self.reputation.clone())
            || self.tally.delivered.len() != committee.len()
        {
            return Err(OrderStateError::Schedule);
        }
        if !self.agreement.fits(&committee) {
            return Err(OrderStateError::Attestations);
        }
        if blocks.len() != self.committed.len() {
            return Err(OrderStateError::Count { named: self.committed.len(), found: blocks.len() });
        }
        let ctx = EpochContext::new(config, committee);
        // In their order, so none comes twice.
        for ((at, bytes), named) in blocks.iter().enumerate().zip(&self.committed) {
            let bad = |reason: String| OrderStateError::Block { at, reason };
            let block = Block::decode(bytes).map_err(|error| bad(error.to_string()))?;
            ctx.check(&block).map_err(|error| bad(error.to_string()))?;
            if block.reference() != *named {
                return Err(bad(format!("it is {}, the state names {named}", block.reference())));
            }
        }
        Ok(())
    }

    /// What a machine is recovered from, with the named blocks as [`crate::Record::CertifiedBlock`] behind it in the log.
    /// `floor`: [`crate::SIGN_NOTHING`] for a validator, whose last signed round the state does not know.
    #[must_use]
    pub fn into_snapshot(self, floor: Round) -> ConsensusSnapshot {
        let anchor = Anchor { index: self.last_commit.index, digest: self.digest() };
        ConsensusSnapshot {
            chain_id: self.chain_id,
            epoch: self.epoch,
            gc_round: self.last_commit.gc_round,
            last_decided: self.last_commit.last_decided,
            own_last: None,
            floor,
            highest_round: self.last_commit.leader.round,
            last_commit: Some(self.last_commit),
            committed: self.committed,
            slots: self.slots,
            delivered: self.delivered,
            reputation: self.reputation,
            tally: self.tally,
            proven: self.proven,
            agreement: self.agreement,
            evidence: EvidenceState::default(),
            anchor,
        }
    }
}

/// The encoding of the state in an epoch of this protocol version: digests of it stand in checkpoints.
const fn format_of(version: u16) -> u8 {
    if version < EARLIER_EVIDENCE { OWN_EPOCH } else { VERSION }
}

/// The digest of a state's canonical bytes.
#[must_use]
pub fn digest_of(state: &[u8]) -> Hash {
    h("order-state", state)
}

impl Machine {
    /// The newest anchors with their states' canonical bytes, oldest first; after a restart those that the replayed log
    /// has passed.
    pub fn anchors(&self) -> impl ExactSizeIterator<Item = (CommitIndex, &Arc<[u8]>)> + '_ {
        self.anchors.iter().map(|(index, state)| (*index, state))
    }

    /// The newest anchor.
    #[must_use]
    pub const fn anchor(&self) -> Anchor {
        self.anchor
    }

    /// After a commit was counted for everything: takes the state if it is an anchor's.
    pub(crate) fn follow_anchor(&mut self, header: &CommitHeader) {
        if !header.index.saturating_sub(self.config.base.index).is_multiple_of(ANCHOR_EVERY) {
            return;
        }
        let state = OrderState {
            chain_id: self.config.chain_id,
            epoch: self.config.epoch,
            epoch_seed: self.config.epoch_seed,
            base: self.config.base,
            version: self.config.version,
            last_commit: header.clone(),
            committed: self.linearizer.committed().clone(),
            slots: self.linearizer.slots().clone(),
            delivered: self.linearizer.delivered().clone(),
            reputation: self.schedule.reputation().clone(),
            tally: self.tally.clone(),
            proven: self.linearizer.proven().clone(),
            agreement: self.linearizer.agreement().clone(),
        };
        let bytes: Arc<[u8]> = state.encode().into();
        self.anchor = Anchor { index: header.index, digest: digest_of(&bytes) };
        self.anchors.push_back((header.index, bytes));
        if self.anchors.len() > ANCHORS_KEPT {
            self.anchors.pop_front();
        }
    }
}
