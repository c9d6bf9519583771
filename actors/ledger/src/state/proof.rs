//! Proofs of accounts, checked without the ledger: the account's pages and their paths to the state root.

use serde::{Deserialize, Serialize};

use super::pages::{BalancePage, IdentityPage, NoncePage, Page, ROWS};
use super::tree::climb;
use super::{ColumnId, state_root};
use crate::hash::{Hash, blake3_digest};
use crate::types::{AccountIndex, Address, Amount};

/// The root of one column of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnRoot {
    /// The column's number.
    pub column: u8,
    /// How many pages its tree has.
    pub pages: u64,
    /// Its root.
    pub root: Hash,
}

/// A page and the nodes beside its path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageProof {
    /// The page's bytes.
    #[serde(with = "crate::types::hex_bytes")]
    pub page: Vec<u8>,
    /// For each level from the page upwards, the other children of the node above.
    pub path: Vec<Vec<Hash>>,
}

/// Proves an account's address, balance and nonce under a checkpoint's state root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountProof {
    /// The account.
    pub index: AccountIndex,
    /// The roots of all columns, whose hash is the state root.
    pub columns: Vec<ColumnRoot>,
    /// The page of balances.
    pub balances: PageProof,
    /// The page of nonces.
    pub nonces: PageProof,
    /// The page of addresses.
    pub identities: PageProof,
}

/// What a valid proof shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenAccount {
    /// The account.
    pub index: AccountIndex,
    /// Its address.
    pub address: Address,
    /// Its balance, in AUR when written as text.
    #[serde(with = "crate::types::aur")]
    pub balance: Amount,
    /// Its lowest unused nonce.
    pub nonce: u64,
}

/// Why a proof does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The columns' roots are not those under the state root.
    #[error("the columns' roots lead to state root {found}, not {expected}")]
    StateRoot {
        /// The root it has to hold under.
        expected: Hash,
        /// The root it leads to.
        found: Hash,
    },
    /// A column is missing, or its page does not stand at the account's place under the column's root.
    #[error("the page of column {0} does not lead to the column's root")]
    Page(u8),
    /// A page is not canonical.
    #[error("the page of column {column} does not decode: {error}")]
    Decode {
        /// The column.
        column: u8,
        /// Why.
        error: crate::codec::CodecError,
    },
    /// No account has this index.
    #[error("no account has index {0}")]
    NoAccount(AccountIndex),
}

impl AccountProof {
    /// Checks the proof against a checkpoint's state root and takes the account out of it.
    ///
    /// # Errors
    /// [`ProofError`] naming the part that does not hold.
    pub fn verify(&self, expected: &Hash) -> Result<ProvenAccount, ProofError> {
        let found = state_root(&self.columns);
        if self.columns.len() > super::MAX_COLUMNS || found != *expected {
            return Err(ProofError::StateRoot { expected: *expected, found });
        }
        let balances: BalancePage = self.page(ColumnId::Balances, &self.balances)?;
        let nonces: NoncePage = self.page(ColumnId::Nonces, &self.nonces)?;
        let identities: IdentityPage = self.page(ColumnId::Identities, &self.identities)?;
        #[allow(clippy::cast_possible_truncation)]
        let row = self.index.0 as u8;
        let address = identities.addresses[usize::from(row)];
        if address == Address::default() {
            return Err(ProofError::NoAccount(self.index));
        }
        let (balance, nonce) = (balances.0[usize::from(row)], nonces.base(row));
        Ok(ProvenAccount { index: self.index, address, balance, nonce })
    }

    fn page<P: Page>(&self, id: ColumnId, proof: &PageProof) -> Result<P, ProofError> {
        let column = id as u8;
        let root = self.columns.iter().find(|root| root.column == column).ok_or(ProofError::Page(column))?;
        let pages = usize::try_from(root.pages).map_err(|_| ProofError::Page(column))?;
        let leaf = self.index.as_usize() / ROWS;
        if climb(leaf, blake3_digest(&proof.page), pages, &proof.path) != Some(root.root) {
            return Err(ProofError::Page(column));
        }
        P::decode(&proof.page).map_err(|error| ProofError::Decode { column, error })
    }
}
