//! Attestations of checkpoints: collected from verified cores, made into certificates, compared with what this node
//! has executed (consensus.md 12.2, 12.3).
//!
//! Per author the newest [`WINDOW`] attestations are kept, the first for each checkpoint, or the first that votes for the
//! epoch's last commit as well. So a faulty validator fills its own places only.

use std::collections::{BTreeMap, BTreeSet};

use aurigraph_ledger::codec::{CodecError, Reader, Writer};
use aurigraph_ledger::hash::Hash;

use crate::block::{BlockCore, Evidence, SignedCore};
use crate::certificate::Certificate;
use crate::committee::{Committee, StakeSet};
use crate::event::{Alarm, Effect};
use crate::evidence::Statement;
use crate::machine::Machine;
use crate::types::{AuthorIdx, CkptRef, CommitRef, Stake};

/// Checkpoints of which an author's attestations are kept, and own checkpoints: some 80 KB an author.
pub const WINDOW: usize = 16;

/// A checkpoint with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certified {
    /// Which.
    pub checkpoint: CkptRef,
    /// Stake of the certificate's authors.
    pub stake: Stake,
}

/// What validators have executed is not the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Divergence {
    /// At which checkpoint.
    pub seq: u64,
    /// What this node came to; none if it has not executed so far.
    pub own: Option<Hash>,
    /// The other digest with most stake.
    pub other: Hash,
    /// That stake.
    pub stake: Stake,
    /// No digest can reach a quorum any more: everybody stops.
    pub network_wide: bool,
}

impl Divergence {
    /// The canonical bytes: a node that has stopped stays stopped after a restart.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(1).u64(self.seq);
        match &self.own {
            None => w.u8(0),
            Some(own) => w.u8(1).hash(own),
        };
        w.hash(&self.other).u64(self.stake).u8(u8::from(self.network_wide));
        w.into_bytes()
    }

    /// Takes a divergence from its canonical bytes.
    ///
    /// # Errors
    /// If the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let flag = |what, byte: u8| match byte {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(CodecError::Invalid { what, value: other.into() }),
        };
        let mut r = Reader::new(bytes);
        if r.u8()? != 1 {
            return Err(CodecError::Invalid { what: "divergence version", value: u64::from(bytes[0]) });
        }
        let seq = r.u64()?;
        let own = if flag("option tag", r.u8()?)? { Some(r.hash()?) } else { None };
        let (other, stake) = (r.hash()?, r.u64()?);
        let network_wide = flag("network-wide flag", r.u8()?)?;
        r.finish()?;
        Ok(Self { seq, own, other, stake, network_wide })
    }
}

/// What noting a core has shown of its author.
#[derive(Debug, PartialEq, Eq)]
enum Noted {
    Nothing,
    /// Two digests for one checkpoint.
    Conflict(Box<Evidence>),
    /// Another digest than the certified one.
    Wrong(CkptRef, Hash),
}

/// What is known of checkpoints.
#[derive(Debug, Default)]
pub struct Checkpoints {
    /// Own digests.
    own: BTreeMap<u64, Hash>,
    /// By author, then by checkpoint.
    attested: BTreeMap<AuthorIdx, BTreeMap<u64, SignedCore>>,
    certified: Option<Certified>,
    divergence: Option<Divergence>,
    /// Authors whose wrong attestation was told.
    told: BTreeSet<AuthorIdx>,
    /// Something was noted since the last judgement.
    changed: bool,
}

impl Checkpoints {
    /// The newest certified checkpoint.
    #[must_use]
    pub const fn certified(&self) -> Option<Certified> {
        self.certified
    }

    /// Whether, and where, execution was found to differ.
    #[must_use]
    pub const fn divergence(&self) -> Option<Divergence> {
        self.divergence
    }

    /// What an earlier process life has certified and found.
    pub(crate) fn resume(&mut self, certified: Option<Certified>, divergence: Option<Divergence>) {
        self.certified = self.certified.max_by_seq(certified);
        self.divergence = self.divergence.or(divergence);
    }

    /// The cores that attest this checkpoint, by author.
    pub(crate) fn attesting(&self, checkpoint: CkptRef) -> impl Iterator<Item = SignedCore> + '_ {
        let of = move |attested: &BTreeMap<u64, SignedCore>| attested.get(&checkpoint.seq).cloned();
        self.attested.values().filter_map(of).filter(move |signed| signed.core.attestation == checkpoint)
    }

    fn note_own(&mut self, checkpoint: CkptRef) {
        if checkpoint.seq == 0 || self.own.contains_key(&checkpoint.seq) {
            return;
        }
        self.own.insert(checkpoint.seq, checkpoint.digest);
        self.changed = true;
        if self.own.len() > WINDOW {
            self.own.pop_first();
        }
    }

    /// Takes the attestation of a core whose signature is good. `last` is the epoch's last commit, once it is known.
    ///
    /// What certifies the epoch's end attests its checkpoint and votes for its last commit. A validator that has executed
    /// this commit and lost it from its log in a crash does the one some blocks before the other: its first core is no
    /// part of that certificate, and must not keep a later one out of it.
    fn note(&mut self, signed: impl FnOnce() -> SignedCore, core: &BlockCore, last: Option<CommitRef>) -> Noted {
        let (author, attestation) = (core.author, core.attestation);
        if attestation.seq == 0 {
            return Noted::Nothing;
        }
        let of_author = self.attested.entry(author).or_default();
        if let Some(first) = of_author.get_mut(&attestation.seq) {
            if first.core.attestation.digest != attestation.digest {
                return Noted::Conflict(Box::new(Evidence::conflicting_attestation(first.clone(), signed())));
            }
            if last.is_some_and(|last| core.commit_vote == last && first.core.commit_vote != last) {
                *first = signed();
            }
            return Noted::Nothing;
        }
        of_author.insert(attestation.seq, signed());
        if of_author.len() > WINDOW {
            of_author.pop_first();
        }
        self.changed = true;
        let settled = self.certified.is_some_and(|certified| certified.checkpoint.seq >= attestation.seq);
        match self.own.get(&attestation.seq).filter(|own| settled && **own != attestation.digest) {
            Some(own) if self.divergence.is_none() && self.told.insert(author) => Noted::Wrong(attestation, *own),
            _ => Noted::Nothing,
        }
    }

    /// Stake behind each digest of each checkpoint.
    fn tally(&self, committee: &Committee) -> BTreeMap<u64, BTreeMap<Hash, Stake>> {
        let mut tally: BTreeMap<u64, BTreeMap<Hash, Stake>> = BTreeMap::new();
        for (author, attested) in &self.attested {
            for (seq, signed) in attested {
                let digests = tally.entry(*seq).or_default();
                *digests.entry(signed.core.attestation.digest).or_default() += committee.stake(*author);
            }
        }
        tally
    }

    /// Compares what others attest with what this node has executed. Gives a divergence that is news.
    fn judge(&mut self, committee: &Committee) -> Option<Divergence> {
        if self.divergence.is_some_and(|known| known.network_wide) {
            return None;
        }
        let mut found = None;
        for (seq, digests) in self.tally(committee) {
            let own = self.own.get(&seq).copied();
            let known: Stake = digests.values().sum();
            let most = digests.values().copied().max().unwrap_or(0);
            let others = digests.iter().filter(|(digest, _)| Some(**digest) != own);
            let Some((other, stake)) = others.max_by_key(|(_, stake)| **stake) else { continue };
            let divergence = Divergence { seq, own, other: *other, stake: *stake, network_wide: false };
            if committee.total() - known + most < committee.quorum() {
                self.divergence = Some(Divergence { network_wide: true, ..divergence });
                return self.divergence;
            }
            if own.is_some() && *stake >= committee.validity() {
                found = found.or(Some(divergence));
            }
        }
        if self.divergence.is_some() {
            return None;
        }
        self.divergence = found;
        found
    }

    /// Certificates that have become possible, oldest first. Exact attestations are preferred; one for a later own
    /// checkpoint speaks for all before it.
    fn certify(&mut self, committee: &Committee) -> Vec<Certificate> {
        let mut made = Vec::new();
        if self.divergence.is_some() {
            return made;
        }
        let last = self.certified.map_or(0, |certified| certified.checkpoint.seq);
        for (seq, digest) in self.own.range(last.saturating_add(1)..) {
            let checkpoint = CkptRef { seq: *seq, digest: *digest };
            let Some(certificate) = self.certificate(committee, checkpoint) else { break };
            made.push(certificate);
        }
        if let Some(newest) = made.last() {
            self.certified = Some(Certified { checkpoint: newest.checkpoint, stake: newest.stake(committee) });
        }
        made
    }

    fn certificate(&self, committee: &Committee, checkpoint: CkptRef) -> Option<Certificate> {
        // The attestation nearest to the checkpoint that stands on this node's own chain.
        let nearest = |attested: &BTreeMap<u64, SignedCore>| {
            let mut later = attested.range(checkpoint.seq..);
            let own = |seq: &u64, signed: &SignedCore| self.own.get(seq) == Some(&signed.core.attestation.digest);
            later.find(|(seq, signed)| own(seq, signed)).map(|(_, signed)| signed.clone())
        };
        let mut cores: Vec<SignedCore> = self.attested.values().filter_map(nearest).collect();
        cores.sort_by_key(|signed| (signed.core.attestation.seq, signed.core.author));
        let mut authors = StakeSet::default();
        let needed = cores.iter().position(|signed| {
            authors.add(committee, signed.core.author);
            authors.stake() >= committee.quorum()
        })?;
        cores.truncate(needed + 1);
        cores.sort_by_key(|signed| signed.core.author);
        Some(Certificate { checkpoint, cores })
    }

    /// Authors that attest another digest than the one certified just now.
    fn wrong(&mut self, checkpoint: CkptRef) -> Vec<(AuthorIdx, CkptRef)> {
        let mut wrong = Vec::new();
        for (author, attested) in &self.attested {
            let attestation = attested.get(&checkpoint.seq).map(|signed| signed.core.attestation);
            if let Some(differs) = attestation.filter(|it| it.digest != checkpoint.digest)
                && self.told.insert(*author)
            {
                wrong.push((*author, differs));
            }
        }
        wrong
    }
}

trait MaxBySeq {
    fn max_by_seq(self, other: Self) -> Self;
}

impl MaxBySeq for Option<Certified> {
    fn max_by_seq(self, other: Self) -> Self {
        [self, other].into_iter().flatten().max_by_key(|certified| certified.checkpoint.seq)
    }
}

impl Machine {
    /// What is known of checkpoints.
    #[must_use]
    pub const fn checkpoints(&self) -> &Checkpoints {
        &self.checkpoints
    }

    /// Tells a recovered machine, before its first step, which checkpoint was certified newest, and whether it had
    /// stopped for a divergence: then it stays stopped.
    pub fn resume_checkpoints(&mut self, certified: Option<Certified>, divergence: Option<Divergence>) {
        self.checkpoints.resume(certified, divergence);
    }

    /// Whether this node orders and executes no more payload because execution was found to differ.
    pub(crate) const fn has_diverged(&self) -> bool {
        self.checkpoints.divergence.is_some()
    }

    /// Takes the attestation of a checked statement.
    pub(crate) fn note_attestation(&mut self, statement: &Statement) {
        let (core, last) = (statement.core(), self.closed_at());
        match self.checkpoints.note(|| statement.signed(), core, last) {
            Noted::Conflict(evidence) => self.accuse(*evidence),
            Noted::Wrong(attested, certified) => {
                let author = core.author;
                self.out.push(Effect::Alarm(Alarm::WrongAttestation { author, attested, certified }));
            }
            Noted::Nothing => {}
        }
    }

    /// Judges and certifies what was noted since the last time.
    pub(crate) fn tend_checkpoints(&mut self) {
        if self.replaying || self.halted {
            return;
        }
        self.checkpoints.note_own(self.proposer.attestation);
        if !std::mem::take(&mut self.checkpoints.changed) {
            return;
        }
        if let Some(divergence) = self.checkpoints.judge(&self.ctx.committee) {
            self.out.push(Effect::Alarm(Alarm::Diverged(divergence)));
        }
        for certificate in self.checkpoints.certify(&self.ctx.committee) {
            let certified = certificate.checkpoint;
            for (author, attested) in self.checkpoints.wrong(certified) {
                let alarm = Alarm::WrongAttestation { author, attested, certified: certified.digest };
                self.out.push(Effect::Alarm(alarm));
            }
            self.out.push(Effect::Certified(Box::new(certificate)));
        }
    }
}

#[cfg(test)]
impl Checkpoints {
    /// Attestations in memory.
    pub(crate) fn attestations(&self) -> usize {
        self.attested.values().map(BTreeMap::len).sum()
    }
}

#[cfg(test)]
impl Machine {
    /// Notes an attestation without a block around it.
    pub(crate) fn note_attestation_of(&mut self, author: AuthorIdx, attestation: CkptRef) {
        let parents = vec![crate::testing::genesis_of(&self.config)[usize::from(author)]];
        let mut block = crate::testing::sealed_block(&self.config, 1, author, parents, Vec::new());
        block.core.attestation = attestation;
        self.note_attestation(&Statement::Block(std::sync::Arc::new(block)));
    }
}
