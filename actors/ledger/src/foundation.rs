//! A genesis that was checked, with what follows from the whole of it: worked out once, shared from then on.
//!
//! A genesis may list millions of accounts. Checking it and hashing it for the chain's id take seconds then, and a copy
//! of it a gigabyte.

use std::ops::Deref;
use std::sync::Arc;

use crate::genesis::{Genesis, GenesisError};
use crate::hash::Hash;
use crate::types::Amount;

/// A valid genesis. Cloning it is one reference count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foundation(Arc<Founded>);

#[derive(Debug, PartialEq, Eq)]
struct Founded {
    genesis: Genesis,
    chain_id: Hash,
    supply: Amount,
}

impl Foundation {
    /// Checks a genesis.
    ///
    /// # Errors
    /// [`GenesisError`] naming the first rule that is broken.
    pub fn new(genesis: Genesis) -> Result<Self, GenesisError> {
        // Both read all accounts, and neither waits for the other.
        let (valid, chain_id) = if genesis.accounts.len() < LARGE {
            (genesis.validate(), genesis.chain_id())
        } else {
            std::thread::scope(|scope| {
                let id = scope.spawn(|| genesis.chain_id());
                let valid = genesis.validate();
                (valid, id.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            })
        };
        valid?;
        let supply = genesis.supply().unwrap_or(Amount::MAX);
        Ok(Self(Arc::new(Founded { genesis, chain_id, supply })))
    }

    /// [`Genesis::chain_id`], which is known here.
    #[must_use]
    pub fn chain_id(&self) -> Hash {
        self.0.chain_id
    }

    /// [`Genesis::supply`], which a valid genesis has.
    #[must_use]
    pub fn supply(&self) -> Amount {
        self.0.supply
    }

    /// The genesis itself.
    #[must_use]
    pub fn genesis(&self) -> &Genesis {
        &self.0.genesis
    }
}

/// From how many accounts on a second thread is worth its start.
const LARGE: usize = 10_000;

impl Deref for Foundation {
    type Target = Genesis;

    fn deref(&self) -> &Genesis {
        &self.0.genesis
    }
}

impl TryFrom<&Genesis> for Foundation {
    type Error = GenesisError;

    fn try_from(genesis: &Genesis) -> Result<Self, GenesisError> {
        Self::new(genesis.clone())
    }
}

impl TryFrom<&Self> for Foundation {
    type Error = GenesisError;

    fn try_from(checked: &Self) -> Result<Self, GenesisError> {
        Ok(checked.clone())
    }
}
