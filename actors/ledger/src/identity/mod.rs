//! The identity module: keys to which others seal for an account, and envelopes that an account says to have sealed.
//!
//! An encryption key is signed by its account, and that signature is kept with it: whoever reads the key from a node can
//! check it against the account's address and need not trust the node. The table has no column of the state until the
//! first row comes.

mod operations;
mod table;

use std::sync::Arc;

use crate::codec::{CodecError, Reader, Writer};
use crate::genesis::Genesis;
use crate::hash::{Hash, blake3_digest};
use crate::module::{Module, ModuleContext, ModuleId};
use crate::state::WideTree;
use crate::transaction::ModuleGroup;
use crate::tree_hasher::TreeHasher;
pub use operations::{
    ENCRYPTION_KEY_DOMAIN, ENCRYPTION_KEY_LEN, IdentityOperation, SignedEncryptionKey, TAGS, encryption_key_message,
    is_encryption_key,
};
pub(crate) use operations::{FORMAT, read as read_operations, write as write_operations};
pub use table::{Anchor, EncryptionKey, IdentityTable, MAX_ROWS};
use table::{Page, Row};

/// Why an operation of identity had no effect. The codes begin behind those of staking: receipts name no module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum IdentityFailure {
    /// Not an encapsulation key of ML-KEM-1024.
    NotAKey = 64,
    /// The sender's key did not sign the encryption key.
    BadSignature = 65,
    /// The number is not above that of the key that is registered.
    OldNumber = 66,
    /// The sender has anchored this envelope before.
    AlreadyAnchored = 67,
    /// No row is left.
    TableFull = 68,
}

impl IdentityFailure {
    /// Every failure, in the order of their codes.
    pub const ALL: [Self; 5] =
        [Self::NotAKey, Self::BadSignature, Self::OldNumber, Self::AlreadyAnchored, Self::TableFull];

    /// The failure with a receipt's code.
    #[must_use]
    pub fn of_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|failure| *failure as u8 == code)
    }

    /// Its name, as interfaces show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotAKey => "not_an_encryption_key",
            Self::BadSignature => "encryption_key_not_signed",
            Self::OldNumber => "encryption_key_number_too_low",
            Self::AlreadyAnchored => "envelope_already_anchored",
            Self::TableFull => "table_full",
        }
    }
}

/// A page's bytes with their digest, and the page that they are of.
#[derive(Debug)]
struct Cached {
    of: Arc<Page>,
    bytes: Arc<[u8]>,
    digest: Hash,
}

impl Cached {
    fn new(of: &Arc<Page>) -> Self {
        let bytes: Arc<[u8]> = of.encode().into();
        Self { of: Arc::clone(of), digest: blake3_digest(&bytes), bytes }
    }
}

/// The module.
#[derive(Debug, Default)]
pub struct Identity {
    table: IdentityTable,
    /// The pages as of the last time that the root was asked for, and the tree over their digests.
    cached: Vec<Cached>,
    tree: WideTree,
    /// An atomic transaction runs.
    atomic: bool,
    /// The table before its first change.
    saved: Option<IdentityTable>,
}

impl Identity {
    fn put(&mut self, row: Row) {
        if self.atomic && self.saved.is_none() {
            self.saved = Some(self.table.clone());
        }
        self.table.put(row);
    }

    fn apply(&mut self, operation: IdentityOperation, context: &dyn ModuleContext) -> Result<(), IdentityFailure> {
        let (sender, height) = (context.sender(), context.height());
        let is_full = self.table.key_count() + self.table.anchor_count() >= MAX_ROWS;
        match operation {
            IdentityOperation::RegisterEncryptionKey(signed) => {
                let known = self.table.encryption_key(sender);
                if known.is_some_and(|known| known.signed.number >= signed.number) {
                    return Err(IdentityFailure::OldNumber);
                }
                if known.is_none() && is_full {
                    return Err(IdentityFailure::TableFull);
                }
                if !is_encryption_key(&signed.key) {
                    return Err(IdentityFailure::NotAKey);
                }
                let message = encryption_key_message(signed.number, &signed.key);
                let signs = |key: Arc<[u8]>| context.verify(&key, &message, &signed.signature);
                if !context.sender_key().is_some_and(signs) {
                    return Err(IdentityFailure::BadSignature);
                }
                self.put(Row::Key(Arc::new(EncryptionKey { account: sender, height, signed: *signed })));
            }
            IdentityOperation::AnchorEnvelope { digest } => {
                if self.table.anchor(sender, &digest).is_some() {
                    return Err(IdentityFailure::AlreadyAnchored);
                }
                if is_full {
                    return Err(IdentityFailure::TableFull);
                }
                self.put(Row::Anchor(Anchor { sender, digest, height, timestamp_ms: context.timestamp_ms() }));
            }
        }
        Ok(())
    }
}

impl Module for Identity {
    fn id(&self) -> ModuleId {
        ModuleId::Identity
    }

    fn genesis(&mut self, _genesis: &Genesis) {
        *self = Self::default();
    }

    fn is_untouched(&self) -> bool {
        self.table.key_count() == 0 && self.table.anchor_count() == 0
    }

    fn identity(&self) -> Option<&IdentityTable> {
        Some(&self.table)
    }

    fn execute(&mut self, group: ModuleGroup<'_>, atomic: bool, context: &mut dyn ModuleContext) {
        // A decoded group is in the format, so this gives all of its operations.
        let operations = operations::read(group.tag, group.count, &mut Reader::new(group.columns));
        for (at, operation) in operations.unwrap_or_default().into_iter().enumerate() {
            if let Err(failure) = self.apply(operation, context) {
                context.fail(at, failure as u8);
                if atomic {
                    return;
                }
            }
        }
    }

    fn begin(&mut self) {
        (self.atomic, self.saved) = (true, None);
    }

    fn revert(&mut self) {
        if let Some(table) = self.saved.take() {
            self.table = table;
        }
        self.atomic = false;
    }

    fn keep(&mut self) {
        (self.atomic, self.saved) = (false, None);
    }

    fn root(&mut self, hasher: &dyn TreeHasher) -> Hash {
        let mut changes = Vec::new();
        for (at, page) in self.table.pages().iter().enumerate() {
            match self.cached.get_mut(at) {
                Some(cached) if Arc::ptr_eq(&cached.of, page) => continue,
                Some(cached) => *cached = Cached::new(page),
                None => self.cached.push(Cached::new(page)),
            }
            changes.push((at, self.cached[at].digest));
        }
        self.tree.update(self.cached.len(), &changes, hasher);
        let mut w = Writer::with_capacity(40);
        w.u64(self.cached.len() as u64).hash(&self.tree.root());
        hasher.hash_one("identity", w.as_slice())
    }

    fn pages(&self) -> Vec<Arc<[u8]>> {
        self.cached.iter().map(|cached| Arc::clone(&cached.bytes)).collect()
    }

    fn restore(&mut self, pages: &[Vec<u8>]) -> Result<(), CodecError> {
        *self = Self { table: IdentityTable::decode(pages)?, ..Self::default() };
        Ok(())
    }
}
