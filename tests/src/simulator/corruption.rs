//! P15: a validator whose execution goes wrong is found within two checkpoints, and only that one stops.

use std::collections::BTreeMap;

use aurigraph_consensus::{AuthorIdx, Divergence};
use aurigraph_ledger::{CommitOutcome, Hash};

use super::Property;
use super::checks::{Broken, broken};

/// Checkpoints after the first wrong one that may pass before the validator has stopped.
const FOUND_WITHIN: u64 = 2;

/// What is known of the validator whose executor is corrupted on purpose.
#[derive(Debug, Default)]
pub(crate) struct Corruption {
    pub(crate) node: Option<usize>,
    own: BTreeMap<u64, Hash>,
    /// At which checkpoint it was found.
    pub(crate) found: Option<u64>,
}

impl Corruption {
    pub(crate) fn is(&self, node: usize) -> bool {
        self.node == Some(node)
    }

    /// It has executed a commit.
    pub(crate) fn executed(&mut self, outcome: &CommitOutcome, agreed: &BTreeMap<u64, Hash>) -> Result<(), Broken> {
        let Some(checkpoint) = &outcome.checkpoint else { return Ok(()) };
        self.own.insert(checkpoint.seq, checkpoint.digest());
        let differs = |(seq, digest): &(&u64, &Hash)| agreed.get(seq).is_some_and(|agreed| agreed != *digest);
        let Some((first, _)) = self.own.iter().find(differs) else { return Ok(()) };
        if self.found.is_none() && checkpoint.seq > first + FOUND_WITHIN {
            let detail = format!("wrong since checkpoint {first}, and at {} nobody has noticed", checkpoint.seq);
            return broken(Property::Checkpoint, detail);
        }
        Ok(())
    }

    /// A validator stops itself.
    pub(crate) fn noticed(&mut self, number: usize, divergence: &Divergence) -> Result<(), Broken> {
        if !self.is(number) || divergence.network_wide || self.found.is_some() {
            return broken(Property::Checkpoint, format!("{number} stops: {divergence:?}, found {:?}", self.found));
        }
        self.found = Some(divergence.seq);
        Ok(())
    }

    /// A validator says of another that it attests what is not certified.
    pub(crate) fn accused(&self, number: usize, author: AuthorIdx, seq: u64) -> Result<(), Broken> {
        if self.is(usize::from(author)) {
            return Ok(());
        }
        broken(Property::NoFalseEvidence, format!("{number} says that {author} attests a wrong checkpoint {seq}"))
    }

    /// The run is over.
    pub(crate) fn ended(&self) -> Result<(), Broken> {
        match (self.node, self.found) {
            (Some(node), None) => broken(Property::Checkpoint, format!("{node} was never found to be wrong")),
            _ => Ok(()),
        }
    }
}
