//! What delivered blocks say of checkpoints: which digests a quorum agrees on, and whose statement is another (consensus.md
//! 8.1, from protocol version [`WRONG_ATTESTATIONS`](crate::config::WRONG_ATTESTATIONS) on).
//!
//! A function of the commits alone, so the same on all nodes and after every restart. What this node has executed plays no part: that
//! is the business of `checkpoint`.
//!
//! Bounds: what lies [`WINDOW`] below [`Agreement::head`] is forgotten. The head is where validators with a quorum of stake
//! have come to, so F of them do not move it beyond the others. Every author has places of its own, and loses the highest
//! first: who attests a lot, or what is far away, neither pushes out what others say nor what it has said of the
//! checkpoints whose turn comes first.

use std::collections::{BTreeMap, BTreeSet};

use aurigraph_ledger::codec::{CodecError, Reader, Writer};
use aurigraph_ledger::hash::Hash;

use crate::committee::{Committee, StakeSet};
use crate::config::MAX_VALIDATORS;
use crate::machine::highest_with;
use crate::types::{AuthorIdx, CkptRef};

/// Checkpoints that are followed at and below the head; above it there is no bound.
pub const WINDOW: u64 = 16;
/// Statements of one author that are kept: of an honest one, those at and below the head and as many above it.
pub const STATEMENTS: usize = 2 * WINDOW as usize;

/// What an author's delivered blocks attest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attested {
    /// The highest checkpoint.
    pub highest: u64,
    /// Checkpoints with their digests, where nothing is agreed yet. At most [`STATEMENTS`].
    pub open: BTreeSet<(u64, Hash)>,
}

/// An attestation that is not what a quorum attests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    /// Whose.
    pub author: AuthorIdx,
    /// What it attests.
    pub attested: CkptRef,
    /// The digest that a quorum attests.
    pub agreed: Hash,
}

/// What the delivered blocks of an epoch attest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Agreement {
    /// By author: those that have attested anything in this epoch.
    pub attested: BTreeMap<AuthorIdx, Attested>,
    /// Digests that delivered blocks of a quorum attest, by checkpoint. At most [`WINDOW`].
    pub agreed: BTreeMap<u64, Hash>,
    /// Whose wrong attestation a commit of this epoch has proven.
    pub wrong: BTreeSet<AuthorIdx>,
}

impl Agreement {
    /// The highest checkpoint that validators with a quorum of stake attest, or are past; 0 before.
    #[must_use]
    pub fn head(&self, committee: &Committee) -> u64 {
        let highest = self.attested.iter().map(|(author, attested)| (attested.highest, *author)).collect();
        highest_with(committee, highest, committee.quorum())
    }

    /// The lowest checkpoint that is followed.
    fn lowest(&self, committee: &Committee) -> u64 {
        self.head(committee).saturating_sub(WINDOW - 1)
    }

    /// Takes what a delivered block attests. Gives the wrong statements, this or earlier ones, that are proven by it: of
    /// each author one in an epoch.
    pub(crate) fn note(&mut self, committee: &Committee, author: AuthorIdx, attestation: CkptRef) -> Vec<Wrong> {
        let CkptRef { seq, digest } = attestation;
        if seq == 0 || !committee.contains(author) {
            return Vec::new();
        }
        if let Some(agreed) = self.agreed.get(&seq).copied() {
            self.reach(committee, author, seq);
            let wrong = agreed != digest && self.wrong.insert(author);
            return wrong.then_some(Wrong { author, attested: attestation, agreed }).into_iter().collect();
        }
        // Most blocks repeat what the one before says.
        if self.attested.get(&author).is_some_and(|attested| attested.open.contains(&(seq, digest))) {
            return Vec::new();
        }
        self.reach(committee, author, seq);
        if seq < self.lowest(committee) {
            return Vec::new();
        }
        let open = &mut self.attested.entry(author).or_default().open;
        open.insert((seq, digest));
        if open.len() > STATEMENTS {
            open.pop_last();
        }
        self.settle(committee, attestation)
    }

    /// An author's blocks have come to this checkpoint: the head may move.
    fn reach(&mut self, committee: &Committee, author: AuthorIdx, seq: u64) {
        let attested = self.attested.entry(author).or_default();
        if seq <= attested.highest {
            return;
        }
        attested.highest = seq;
        let lowest = self.lowest(committee);
        self.agreed = self.agreed.split_off(&lowest);
        for attested in self.attested.values_mut() {
            attested.open = attested.open.split_off(&(lowest, Hash::ZERO));
        }
    }

    /// If a quorum attests exactly this, it is agreed: who has said otherwise was wrong.
    fn settle(&mut self, committee: &Committee, at: CkptRef) -> Vec<Wrong> {
        let statement = (at.seq, at.digest);
        let same = self.attested.iter().filter(|(_, attested)| attested.open.contains(&statement));
        if StakeSet::of(committee, same.map(|(author, _)| *author)).stake() < committee.quorum() {
            return Vec::new();
        }
        self.agreed.insert(at.seq, at.digest);
        let mut found = Vec::new();
        for (author, attested) in &mut self.attested {
            let wrong = attested.open.iter().find(|(seq, digest)| *seq == at.seq && *digest != at.digest).copied();
            attested.open.retain(|(seq, _)| *seq != at.seq);
            if let Some((seq, digest)) = wrong.filter(|_| self.wrong.insert(*author)) {
                found.push(Wrong { author: *author, attested: CkptRef { seq, digest }, agreed: at.digest });
            }
        }
        found
    }

    /// Whether it can be one of this committee: what a state from elsewhere says is checked before it is used.
    #[must_use]
    pub fn fits(&self, committee: &Committee) -> bool {
        self.attested.keys().chain(&self.wrong).all(|author| committee.contains(*author))
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.varint(self.attested.len() as u64);
        for (author, attested) in &self.attested {
            w.u16(*author).u64(attested.highest).varint(attested.open.len() as u64);
            for (seq, digest) in &attested.open {
                w.u64(*seq).hash(digest);
            }
        }
        w.varint(self.agreed.len() as u64);
        for (seq, digest) in &self.agreed {
            w.u64(*seq).hash(digest);
        }
        w.varint(self.wrong.len() as u64);
        for author in &self.wrong {
            w.u16(*author);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let attested = |r: &mut Reader<'_>| {
            let (author, highest) = (r.u16()?, r.u64()?);
            let open = read_map(r, "open attestations", STATEMENTS, |r| Ok(((r.u64()?, r.hash()?), ())))?;
            Ok((author, Attested { highest, open: open.into_keys().collect() }))
        };
        let attested = read_map(r, "validators that attest", MAX_VALIDATORS, attested)?;
        let agreed = read_map(r, "agreed checkpoints", WINDOW as usize, |r| Ok((r.u64()?, r.hash()?)))?;
        let wrong = read_map(r, "wrong attestations", MAX_VALIDATORS, |r| Ok((r.u16()?, ())))?;
        Ok(Self { attested, agreed, wrong: wrong.into_keys().collect() })
    }
}

/// Entries whose keys ascend: one encoding for one map.
fn read_map<K: Ord, V>(
    r: &mut Reader<'_>,
    what: &'static str,
    most: usize,
    mut entry: impl FnMut(&mut Reader<'_>) -> Result<(K, V), CodecError>,
) -> Result<BTreeMap<K, V>, CodecError> {
    let mut map = BTreeMap::new();
    for at in 0..r.varint_max(what, most as u64)? {
        let (key, value) = entry(r)?;
        if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(CodecError::Invalid { what, value: at });
        }
        map.insert(key, value);
    }
    Ok(map)
}
