//! The consensus state at a commit, for a restart that need not replay the whole log.

use std::collections::{BTreeMap, BTreeSet};

use aurigraph_ledger::codec::{CodecError, Reader, Writer};
use aurigraph_ledger::hash::Hash;

use crate::agreement::Agreement;
use crate::anchor::Anchor;
use crate::block::{Accusation, Evidence, EvidenceKind};
use crate::commit::CommitHeader;
use crate::config::MAX_COMMIT_FAULTS;
use crate::epoch::EpochTally;
use crate::reputation::Reputation;
use crate::types::{BlockRef, Epoch, LeaderSlot, Round, Slot};

/// Most entries of each list in a snapshot: bounds the memory that a corrupt record can ask for.
const MAX_ENTRIES: u64 = 4_000_000;

/// Version of the encoding. Version 1 had no schedule state, version 2 knew of no epochs, version 3 of no evidence,
/// version 4 of no presence, version 5 of no anchors, version 6 of no evidence of earlier epochs, version 7 of no
/// attestations: such logs give other commits now, so they are refused.
const VERSION: u8 = 8;

/// Everything the machine needs besides the blocks above the garbage-collection round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsensusSnapshot {
    /// The chain.
    pub chain_id: Hash,
    /// The epoch.
    pub epoch: Epoch,
    /// The newest commit; `None` before the first.
    pub last_commit: Option<CommitHeader>,
    /// Blocks at or below can no longer be ordered.
    pub gc_round: Round,
    /// The newest decided leader slot (a skipped one may follow the newest commit's leader).
    pub last_decided: LeaderSlot,
    /// Committed blocks above `gc_round`.
    pub committed: BTreeSet<BlockRef>,
    /// Which block owns each delivered slot above `gc_round`.
    pub slots: BTreeMap<Slot, Hash>,
    /// Delivered batches with the leader round of the commit that delivered them.
    pub delivered: BTreeMap<Hash, Round>,
    /// The own newest block.
    pub own_last: Option<BlockRef>,
    /// Only rounds above may be signed; [`crate::SIGN_NOTHING`] if the log is not to be trusted.
    pub floor: Round,
    /// Highest round of a block in the log when the snapshot was taken.
    pub highest_round: Round,
    /// The leader schedule's state after `last_decided`.
    pub reputation: Reputation,
    /// What the epoch's commits say of its end.
    pub tally: EpochTally,
    /// Faults that commits of this epoch have proven.
    pub proven: BTreeSet<Accusation>,
    /// What their delivered blocks attest.
    pub agreement: Agreement,
    /// Evidence found here that no commit has proven.
    pub evidence: EvidenceState,
    /// The newest anchor, which the next commits name.
    pub anchor: Anchor,
}

/// The part of a snapshot that is about evidence.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EvidenceState {
    /// Found here, in this epoch or before, ascending by accusation.
    pub pending: Vec<Evidence>,
    /// Round of the own block that carries it.
    pub included: BTreeMap<Accusation, Round>,
    /// Verdicts on evidence in blocks above `gc_round`, by [`Evidence::proof_digest`], with the highest such round.
    pub verdicts: BTreeMap<Hash, (Round, bool)>,
}

impl EvidenceState {
    fn write(&self, w: &mut Writer) {
        w.varint(self.pending.len() as u64);
        self.pending.iter().for_each(|evidence| evidence.write(w));
        w.varint(self.included.len() as u64);
        for (accusation, round) in &self.included {
            write_accusation(w, accusation);
            w.u32(*round);
        }
        w.varint(self.verdicts.len() as u64);
        for (proof, (round, ok)) in &self.verdicts {
            w.hash(proof).u32(*round).u8(u8::from(*ok));
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let count = r.varint_max("pending evidence", MAX_COMMIT_FAULTS as u64)?;
        let pending = (0..count).map(|_| Evidence::read(r)).collect::<Result<Vec<_>, _>>()?;
        if let Some(at) = pending.windows(2).position(|pair| pair[0].accusation() >= pair[1].accusation()) {
            return Err(CodecError::Invalid { what: "pending evidence", value: at as u64 });
        }
        let included = read_ascending(r, "included evidence", |r| Ok((read_accusation(r)?, r.u32()?)))?;
        let verdicts = read_ascending(r, "verdicts", |r| Ok((r.hash()?, (r.u32()?, read_tag(r)?))))?;
        Ok(Self { pending, included: included.into_iter().collect(), verdicts: verdicts.into_iter().collect() })
    }
}

pub(crate) fn write_accusation(w: &mut Writer, (epoch, author, kind): &Accusation) {
    w.u64(*epoch).u16(*author).u8(kind.tag());
}

pub(crate) fn read_accusation(r: &mut Reader<'_>) -> Result<Accusation, CodecError> {
    Ok((r.u64()?, r.u16()?, EvidenceKind::read(r)?))
}

impl ConsensusSnapshot {
    /// Whether a replay from the log position of `earlier` finds every block that this snapshot needs.
    ///
    /// A block above this snapshot's `gc_round` was logged after the log's highest round was still at or below that
    /// round; so it was logged after `earlier` was taken.
    #[must_use]
    pub const fn can_replay_from(&self, earlier: &Self) -> bool {
        earlier.highest_round <= self.gc_round
    }

    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        self.write(&mut w);
        w.into_bytes()
    }

    /// Takes a snapshot from its canonical bytes.
    ///
    /// # Errors
    /// If the bytes are no snapshot.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let snapshot = Self::read(&mut r)?;
        r.finish()?;
        Ok(snapshot)
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.u8(VERSION).hash(&self.chain_id).u64(self.epoch);
        match &self.last_commit {
            None => {
                w.u8(0);
            }
            Some(header) => {
                w.u8(1);
                header.write(w);
            }
        }
        w.u32(self.gc_round);
        self.last_decided.write(w);
        w.varint(self.committed.len() as u64);
        for block in &self.committed {
            block.write(w);
        }
        w.varint(self.slots.len() as u64);
        for (slot, digest) in &self.slots {
            w.u32(slot.round).u16(slot.author).hash(digest);
        }
        w.varint(self.delivered.len() as u64);
        for (digest, round) in &self.delivered {
            w.hash(digest).u32(*round);
        }
        match &self.own_last {
            None => {
                w.u8(0);
            }
            Some(block) => {
                w.u8(1);
                block.write(w);
            }
        }
        w.u32(self.floor).u32(self.highest_round);
        self.reputation.write(w);
        self.tally.write(w);
        w.varint(self.proven.len() as u64);
        self.proven.iter().for_each(|accusation| write_accusation(w, accusation));
        self.agreement.write(w);
        self.evidence.write(w);
        w.u64(self.anchor.index).hash(&self.anchor.digest);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let version = r.u8()?;
        if version != VERSION {
            let what = "version of the consensus snapshot (this program reads version 8)";
            return Err(CodecError::Invalid { what, value: u64::from(version) });
        }
        let (chain_id, epoch) = (r.hash()?, r.u64()?);
        let last_commit = if read_tag(r)? { Some(CommitHeader::read(r)?) } else { None };
        let gc_round = r.u32()?;
        let last_decided = LeaderSlot::read(r)?;
        let committed = read_ascending(r, "committed blocks", BlockRef::read)?.into_iter().collect();
        let slots =
            read_ascending(r, "delivered slots", |r| Ok((Slot { round: r.u32()?, author: r.u16()? }, r.hash()?)))?;
        let delivered = read_ascending(r, "delivered batches", |r| Ok((r.hash()?, r.u32()?)))?;
        let own_last = if read_tag(r)? { Some(BlockRef::read(r)?) } else { None };
        let (floor, highest_round) = (r.u32()?, r.u32()?);
        let (reputation, tally) = (Reputation::read(r)?, EpochTally::read(r)?);
        let proven = read_ascending(r, "proven faults", read_accusation)?.into_iter().collect();
        let agreement = Agreement::read(r)?;
        let evidence = EvidenceState::read(r)?;
        let anchor = Anchor { index: r.u64()?, digest: r.hash()? };
        Ok(Self {
            chain_id,
            epoch,
            last_commit,
            gc_round,
            last_decided,
            committed,
            slots: slots.into_iter().collect(),
            delivered: delivered.into_iter().collect(),
            own_last,
            floor,
            highest_round,
            reputation,
            tally,
            proven,
            agreement,
            evidence,
            anchor,
        })
    }
}

fn read_tag(r: &mut Reader<'_>) -> Result<bool, CodecError> {
    match r.u8()? {
        flag @ 0..=1 => Ok(flag == 1),
        flag => Err(CodecError::Invalid { what: "option tag", value: u64::from(flag) }),
    }
}

pub(crate) fn read_ascending<T: Ord>(
    r: &mut Reader<'_>,
    what: &'static str,
    mut item: impl FnMut(&mut Reader<'_>) -> Result<T, CodecError>,
) -> Result<Vec<T>, CodecError> {
    let count = r.varint_max(what, MAX_ENTRIES)?;
    let mut items: Vec<T> = Vec::new();
    for _ in 0..count {
        let next = item(r)?;
        if items.last().is_some_and(|last| *last >= next) {
            return Err(CodecError::Invalid { what, value: items.len() as u64 });
        }
        items.push(next);
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::event::{Effect, Event};
    use crate::machine::Machine;
    use crate::record::Record;
    use crate::testing::no_signature;
    use crate::types::Now;

    /// Its record lies before the snapshot in the log: a replay from there would miss it, and take the own block that
    /// peers return for that of another instance.
    #[test]
    fn a_snapshot_counts_the_own_block_that_is_logged_but_not_accepted() {
        let config = Config::new(Hash([1; 32]), Hash([2; 32]), vec![1], Some(0));
        let (mut machine, mut effects) = Machine::new(config, Now::default()).expect("valid");
        for mono_ms in (0..10_000).step_by(10) {
            let signed = effects.into_iter().find_map(|effect| match effect {
                Effect::Sign { ticket, .. } => Some(Event::Signed { ticket, signature: no_signature() }),
                _ => None,
            });
            effects = machine.step(Now { mono_ms, wall_ms: mono_ms }, signed.unwrap_or(Event::Tick));
            let logged = |effect: &Effect| matches!(effect, Effect::Append { record: Record::OwnBlock(_), .. });
            if effects.iter().any(logged) {
                assert_eq!((machine.status().own_round, machine.snapshot().highest_round), (0, 1));
                return;
            }
        }
        panic!("no own block within 10 s");
    }
}
