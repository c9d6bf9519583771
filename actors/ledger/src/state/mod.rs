//! The state: account columns, the system column and the tables of modules, and the one root over all of them.
//!
//! What changes the state is `execute`'s business; this folder keeps it, hashes it, shares it and stores it.

mod accounts;
mod column;
mod export;
mod index;
mod pages;
mod proof;
mod system;
mod tree;
mod view;

pub(crate) use accounts::{Accounts, Balances};
pub use export::{ImportError, PageGroup, PageKey, StoredPage};
pub(crate) use export::{Imported, read_pages};
pub(crate) use pages::{NonceState, ROWS};
pub use proof::{AccountProof, ColumnRoot, PageProof, ProofError, ProvenAccount};
pub(crate) use system::SystemState;
pub(crate) use tree::WideTree;
pub(crate) use view::ViewParts;
pub use view::{AccountView, NotACheckpoint, ResumeError, StateView};

use std::sync::Arc;

use crate::hash::{DIGEST_LEN, Hash, blake3_digest, h_parts};
use crate::module::{Module, ModuleId};
use crate::tree_hasher::TreeHasher;

/// The most columns a state can have: one node of the tree over their roots.
const MAX_COLUMNS: usize = 16;
/// Numbers of modules' columns start here.
pub(crate) const MODULE_COLUMNS: u8 = 16;

/// The columns of the ledger itself, in the order of the state root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum ColumnId {
    /// Not hashed: the last header and checkpoint, which carry the root.
    Head = 0,
    System = 1,
    Balances = 2,
    Nonces = 3,
    Identities = 4,
    Keys = 5,
}

/// The whole state.
pub(crate) struct State {
    pub(crate) accounts: Accounts,
    pub(crate) system: SystemState,
    /// In the order of their numbers.
    pub(crate) modules: Vec<Box<dyn Module>>,
}

/// A state at rest: hashed, and complete for storing and proving.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    pub(crate) state_root: Hash,
    pub(crate) roots: Vec<ColumnRoot>,
    /// Trees of balances, nonces, identities and keys.
    pub(crate) trees: [Arc<WideTree>; 4],
    pub(crate) system: Arc<[u8]>,
    pub(crate) modules: Vec<(ModuleId, Vec<Arc<[u8]>>)>,
}

/// The root over columns' roots: H("state-root", sixteen leaves), a leaf being H("column", number ‖ pages ‖ root),
/// missing ones zero.
pub(crate) fn state_root(columns: &[ColumnRoot]) -> Hash {
    let mut leaves = [0; MAX_COLUMNS * DIGEST_LEN];
    for (column, place) in columns.iter().zip(leaves.chunks_exact_mut(DIGEST_LEN)) {
        let leaf = h_parts("column", &[&[column.column], &column.pages.to_le_bytes(), &column.root.0]);
        place.copy_from_slice(&leaf.0);
    }
    h_parts("state-root", &[&leaves])
}

impl State {
    /// Hashes what changed since the last time and returns the state at rest.
    pub(crate) fn seal(&mut self, hasher: &dyn TreeHasher) -> Sealed {
        self.accounts.publish();
        let system: Arc<[u8]> = self.system.encode(self.accounts.count(), self.accounts.key_count()).into();
        let mut roots = vec![ColumnRoot { column: ColumnId::System as u8, pages: 1, root: blake3_digest(&system) }];
        let ids = [ColumnId::Balances, ColumnId::Nonces, ColumnId::Identities, ColumnId::Keys];
        for (id, (pages, root)) in ids.into_iter().zip(self.accounts.roots(hasher)) {
            roots.push(ColumnRoot { column: id as u8, pages: pages as u64, root });
        }
        for module in self.modules.iter_mut().filter(|module| !module.is_untouched()) {
            roots.push(ColumnRoot { column: MODULE_COLUMNS + module.id() as u8, pages: 0, root: module.root(hasher) });
        }
        let accounts = &self.accounts;
        Sealed {
            state_root: state_root(&roots),
            roots,
            trees: [
                accounts.balance_pages.share_tree(),
                accounts.nonces.share_tree(),
                accounts.identities.share_tree(),
                accounts.keys.share_tree(),
            ],
            system,
            modules: self
                .modules
                .iter()
                .filter(|module| !module.is_untouched())
                .map(|module| (module.id(), module.pages()))
                .collect(),
        }
    }
}
