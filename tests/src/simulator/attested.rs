//! Wrong attestations, found anew: all that delivered blocks of an epoch attest is kept, and counted in the plainest way.
//! What is said of a checkpoint that a quorum has left far behind is nothing (ADR 0047).
//!
//! What a commit proves must be exactly this; that it is the same on all validators is compared elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use aurigraph_consensus::config::WRONG_ATTESTATIONS;
use aurigraph_consensus::{AuthorIdx, CkptRef, Committee, Stake};
use aurigraph_ledger::Hash;

/// Checkpoints that are followed, up to the highest that a quorum has come to.
const FOLLOWED: u64 = 16;

/// What delivered blocks attest.
#[derive(Debug, Default)]
pub(crate) struct Attested {
    epoch: u64,
    /// By checkpoint and digest.
    said: BTreeMap<u64, BTreeMap<Hash, BTreeSet<AuthorIdx>>>,
    highest: BTreeMap<AuthorIdx, u64>,
    wrong: BTreeSet<AuthorIdx>,
}

impl Attested {
    /// Who is found wrong by the blocks of a commit, and was not before.
    pub(crate) fn found(
        &mut self,
        epoch: u64,
        version: u16,
        committee: &Committee,
        blocks: &[(AuthorIdx, CkptRef)],
    ) -> BTreeSet<AuthorIdx> {
        if epoch != self.epoch {
            *self = Self { epoch, ..Self::default() };
        }
        if version < WRONG_ATTESTATIONS {
            return BTreeSet::new();
        }
        let mut found = BTreeSet::new();
        for (author, attested) in blocks.iter().filter(|(_, attested)| attested.seq > 0) {
            let highest = self.highest.entry(*author).or_default();
            *highest = attested.seq.max(*highest);
            if attested.seq.saturating_add(FOLLOWED) <= self.head(committee) {
                continue;
            }
            let digests = self.said.entry(attested.seq).or_default();
            if !digests.entry(attested.digest).or_default().insert(*author) {
                continue;
            }
            let stake = |authors: &BTreeSet<AuthorIdx>| authors.iter().map(|it| committee.stake(*it)).sum::<Stake>();
            let agreed = digests.iter().find(|(_, authors)| stake(authors) >= committee.quorum());
            let Some((agreed, _)) = agreed else { continue };
            for (_, authors) in digests.iter().filter(|(digest, _)| *digest != agreed) {
                found.extend(authors.iter().filter(|author| !self.wrong.contains(author)));
            }
        }
        self.wrong.extend(&found);
        found
    }

    /// The highest checkpoint that validators with a quorum of stake attest, or are past.
    fn head(&self, committee: &Committee) -> u64 {
        let stake = |seq: u64| {
            let past = self.highest.iter().filter(|(_, highest)| **highest >= seq);
            past.map(|(author, _)| committee.stake(*author)).sum::<Stake>()
        };
        self.highest.values().copied().filter(|seq| stake(*seq) >= committee.quorum()).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_checkpoint_far_behind_the_quorum_is_nothing() {
        let committee = Committee::new(vec![1; 4]).unwrap();
        let at = |seq: u64, digest: u8| CkptRef { seq, digest: Hash([digest; 32]) };
        for (seq, wrong) in [(1, false), (2, false), (3, true)] {
            let mut attested = Attested::default();
            // All have come to checkpoint 18, by way of the first three.
            for said in [1, 2, 3, 18] {
                let blocks: Vec<_> = (0..3).map(|author| (author, at(said, 1))).collect();
                assert!(attested.found(0, WRONG_ATTESTATIONS, &committee, &blocks).is_empty());
            }
            let found = attested.found(0, WRONG_ATTESTATIONS, &committee, &[(3, at(seq, 2))]);
            assert_eq!(found.contains(&3), wrong, "checkpoint {seq}");
        }
    }
}
