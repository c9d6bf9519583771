//! Wrong attestations, found anew: all that delivered blocks of an epoch attest is kept, and counted in the plainest way.
//!
//! What a commit proves must be exactly this; that it is the same on all validators is compared elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use aurigraph_consensus::config::WRONG_ATTESTATIONS;
use aurigraph_consensus::{AuthorIdx, CkptRef, Committee, Stake};
use aurigraph_ledger::Hash;

/// What delivered blocks attest.
#[derive(Debug, Default)]
pub(crate) struct Attested {
    epoch: u64,
    /// By checkpoint and digest.
    said: BTreeMap<u64, BTreeMap<Hash, BTreeSet<AuthorIdx>>>,
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
}
