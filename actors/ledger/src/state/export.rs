//! Between views and a store: pages grouped into values of some 16 to 48 KiB, and a state rebuilt from them.
//!
//! What a store is, and how it keeps values, is not decided here. Only views of checkpoints are stored.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::accounts::{Accounts, PAGES_AT_LEAST};
use super::pages::{BalancePage, IdentityPage, KEYS_PER_PAGE, KeyPage, NoncePage, Page, ROWS};
use super::system::SystemState;
use super::view::{NotACheckpoint, StateView};
use super::{ColumnId, MODULE_COLUMNS, State};
use crate::block::{Checkpoint, LedgerHeader};
use crate::codec::{CodecError, Reader, Writer};
use crate::hash::Hash;
use crate::module::Module;
use crate::parallel::ranges;

/// Longest value handed to a store: stores leak with values above 64 KiB.
const MAX_PART: usize = 48 * 1024;
/// Longest page; a bound for decoding.
const MAX_PAGE: usize = 1 << 30;

/// Names a stored value. Keys sort by column, group and part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageKey {
    /// The column's number.
    pub column: u8,
    /// Which group of the column's pages.
    pub group: u32,
    /// Which part of the group's bytes.
    pub part: u16,
}

impl PageKey {
    /// Bytes of a key.
    pub const LEN: usize = 7;

    /// The key's bytes, which sort as the keys do.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let ([a, b, c, d], [e, f]) = (self.group.to_be_bytes(), self.part.to_be_bytes());
        [self.column, a, b, c, d, e, f]
    }

    /// The key with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let [column, a, b, c, d, e, f] = bytes;
        Self { column, group: u32::from_be_bytes([a, b, c, d]), part: u16::from_be_bytes([e, f]) }
    }
}

impl PageKey {
    /// The column of the key table, which only grows: a state takes as many keys from its beginning as it has, so that
    /// states of different heights can share one stored table. Its rows are one part each.
    pub const KEY_TABLE: u8 = ColumnId::Keys as u8;
    /// Keys in a full row of the key table.
    pub const KEYS_PER_ROW: u32 = KEYS_PER_PAGE as u32;
}

/// Names the pages that are stored together, as one or more values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageGroup {
    /// The column's number.
    pub column: u8,
    /// Which group of the column's pages.
    pub group: u32,
}

/// A value to be stored under its key, replacing what stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPage {
    /// The key.
    pub key: PageKey,
    /// The value, at most 48 KiB and a few bytes.
    pub bytes: Vec<u8>,
}

/// Why stored pages do not make a ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// A value is missing.
    #[error("part {} of group {} of column {} is missing or cut short", key.part, key.group, key.column)]
    Missing {
        /// Its key.
        key: PageKey,
    },
    /// A value does not decode.
    #[error("column {column} does not decode: {error}")]
    Decode {
        /// The column.
        column: u8,
        /// Why.
        error: CodecError,
    },
    /// The pages are those of another chain.
    #[error("the pages are of chain {found}, this is chain {expected}")]
    Chain {
        /// The genesis's chain.
        expected: Hash,
        /// The pages' chain.
        found: Hash,
    },
    /// The pages do not have the root of their checkpoint.
    #[error("the pages have state root {found}, checkpoint {seq} says {expected}")]
    StateRoot {
        /// The checkpoint.
        seq: u64,
        /// Its root.
        expected: Hash,
        /// The pages' root.
        found: Hash,
    },
    /// The checkpoint is damaged.
    #[error("checkpoint {seq} has digest {found}, it was stored with {expected}")]
    Checkpoint {
        /// The checkpoint.
        seq: u64,
        /// The digest it was stored with.
        expected: Hash,
        /// Its digest now.
        found: Hash,
    },
    /// The header is not the checkpoint's.
    #[error("the header has hash {found}, checkpoint {seq} says {expected}")]
    Header {
        /// The checkpoint.
        seq: u64,
        /// The hash it names.
        expected: Hash,
        /// The header's.
        found: Hash,
    },
    /// A column has too many or too few rows.
    #[error("column {column} has {found} rows or pages, expected {expected}")]
    Count {
        /// The column.
        column: u8,
        /// How many it should have.
        expected: usize,
        /// How many it has.
        found: usize,
    },
    /// Genesis itself is not valid.
    #[error(transparent)]
    Genesis(#[from] crate::genesis::GenesisError),
}

/// What pages give back.
pub(crate) struct Imported {
    pub(crate) state: State,
    pub(crate) header: LedgerHeader,
    pub(crate) checkpoint: Checkpoint,
}

/// Splits a group's pages into parts: a total length, then each page behind its own length.
fn push_group<'a>(column: u8, group: usize, pages: impl Iterator<Item = &'a [u8]>, out: &mut Vec<StoredPage>) {
    let mut bytes = vec![0; 4];
    for page in pages {
        bytes.extend_from_slice(&u32::try_from(page.len()).expect("pages are far below 4 GiB").to_le_bytes());
        bytes.extend_from_slice(page);
    }
    let total = u32::try_from(bytes.len()).expect("groups of pages are far below 4 GiB");
    bytes[..4].copy_from_slice(&total.to_le_bytes());
    for (part, bytes) in bytes.chunks(MAX_PART).enumerate() {
        let group = u32::try_from(group).expect("columns have fewer than 2^32 pages");
        let part = u16::try_from(part).expect("groups have fewer than 2^16 parts");
        out.push(StoredPage { key: PageKey { column, group, part }, bytes: bytes.to_vec() });
    }
}

/// Groups of a column in which a page is another one than before.
fn changed_in<P: Page>(id: ColumnId, pages: &[Arc<P>], previous: &[Arc<P>], out: &mut Vec<PageGroup>) {
    for (group, pages) in (0..).zip(pages.chunks(P::GROUP)) {
        let old = previous.chunks(P::GROUP).nth(group as usize).unwrap_or(&[]);
        if pages.len() != old.len() || pages.iter().zip(old).any(|(page, old)| !Arc::ptr_eq(page, old)) {
            out.push(PageGroup { column: id as u8, group });
        }
    }
}

/// One group of a column.
fn push_pages<P: Page>(id: ColumnId, pages: &[Arc<P>], group: u32, out: &mut Vec<StoredPage>) {
    let Some(pages) = pages.chunks(P::GROUP).nth(group as usize) else { return };
    let encoded: Vec<Vec<u8>> = pages
        .iter()
        .map(|page| {
            let mut bytes = Vec::new();
            page.encode_into(&mut bytes);
            bytes
        })
        .collect();
    push_group(id as u8, group as usize, encoded.iter().map(Vec::as_slice), out);
}

impl StateView {
    /// The values a store needs to hold this checkpoint: all of them, or, given the view that was stored before, those
    /// whose pages are other pages (by pointer) than that view's.
    ///
    /// # Errors
    /// [`NotACheckpoint`] if the view is not of a checkpoint.
    pub fn export_pages(&self, previous: Option<&Self>) -> Result<Vec<StoredPage>, NotACheckpoint> {
        let mut out = Vec::new();
        for group in self.changed_groups(previous)? {
            out.extend(self.export_group(group)?);
        }
        Ok(out)
    }

    /// The groups that [`StateView::export_pages`] would give, in the order of their keys, for a store that takes them
    /// one by one.
    ///
    /// # Errors
    /// [`NotACheckpoint`] if the view is not of a checkpoint.
    pub fn changed_groups(&self, previous: Option<&Self>) -> Result<Vec<PageGroup>, NotACheckpoint> {
        let (sealed, parts) = (self.sealed()?, self.parts());
        let old = previous.map(Self::parts);
        let single = |id: ColumnId| PageGroup { column: id as u8, group: 0 };
        let mut out = vec![single(ColumnId::Head), single(ColumnId::System)];
        changed_in(ColumnId::Balances, &parts.balances, old.map_or(&[], |old| &old.balances), &mut out);
        changed_in(ColumnId::Nonces, &parts.nonces, old.map_or(&[], |old| &old.nonces), &mut out);
        changed_in(ColumnId::Identities, &parts.identities, old.map_or(&[], |old| &old.identities), &mut out);
        changed_in(ColumnId::Keys, &parts.keys, old.map_or(&[], |old| &old.keys), &mut out);
        let old_sealed = old.and_then(|old| old.sealed.as_deref());
        for (module, pages) in &sealed.modules {
            let old = old_sealed.and_then(|old| old.modules.iter().find(|(id, _)| id == module));
            let (column, old) = (MODULE_COLUMNS + *module as u8, old.map_or(&[][..], |(_, pages)| pages));
            out.push(PageGroup { column, group: 0 });
            let changed = (0_u32..)
                .zip(pages)
                .filter(|(number, page)| old.get(*number as usize).is_none_or(|old| !Arc::ptr_eq(page, old)));
            out.extend(changed.map(|(number, _)| PageGroup { column, group: number + 1 }));
        }
        Ok(out)
    }

    /// The values of one group; none if there is no such group.
    ///
    /// # Errors
    /// [`NotACheckpoint`] if the view is not of a checkpoint.
    pub fn export_group(&self, PageGroup { column, group }: PageGroup) -> Result<Vec<StoredPage>, NotACheckpoint> {
        const HEAD: u8 = ColumnId::Head as u8;
        const SYSTEM: u8 = ColumnId::System as u8;
        const BALANCES: u8 = ColumnId::Balances as u8;
        const NONCES: u8 = ColumnId::Nonces as u8;
        const IDENTITIES: u8 = ColumnId::Identities as u8;
        const KEYS: u8 = ColumnId::Keys as u8;
        let (sealed, parts) = (self.sealed()?, self.parts());
        let mut out = Vec::new();
        match column {
            HEAD => {
                let head = encode_head(&parts.header, &parts.checkpoint);
                push_group(column, 0, [head.as_slice()].into_iter(), &mut out);
            }
            SYSTEM => push_group(column, 0, [&*sealed.system].into_iter(), &mut out),
            BALANCES => push_pages(ColumnId::Balances, &parts.balances, group, &mut out),
            NONCES => push_pages(ColumnId::Nonces, &parts.nonces, group, &mut out),
            IDENTITIES => push_pages(ColumnId::Identities, &parts.identities, group, &mut out),
            KEYS => push_pages(ColumnId::Keys, &parts.keys, group, &mut out),
            module => {
                let found = sealed.modules.iter().find(|(id, _)| MODULE_COLUMNS + *id as u8 == module);
                if let Some((_, pages)) = found {
                    push_module(column, pages, group, &mut out);
                }
            }
        }
        Ok(out)
    }
}

/// A module's table: group 0 holds how many pages there are, page n is group n + 1.
fn push_module(column: u8, pages: &[Arc<[u8]>], group: u32, out: &mut Vec<StoredPage>) {
    match group.checked_sub(1) {
        None => push_group(column, 0, [(pages.len() as u64).to_le_bytes().as_slice()].into_iter(), out),
        Some(number) => {
            if let Some(page) = pages.get(number as usize) {
                push_group(column, group as usize, [&**page].into_iter(), out);
            }
        }
    }
}

fn encode_head(header: &LedgerHeader, checkpoint: &Checkpoint) -> Vec<u8> {
    let mut w = Writer::new();
    w.bytes(&header.encode()).bytes(&checkpoint.encode()).hash(&checkpoint.digest());
    w.into_bytes()
}

/// The header, the checkpoint, and the digest the checkpoint should have.
fn decode_head(bytes: &[u8]) -> Result<(LedgerHeader, Checkpoint, Hash), CodecError> {
    let mut r = Reader::new(bytes);
    let header = LedgerHeader::decode(r.bytes("length of the header", 1_024)?)?;
    let checkpoint = Checkpoint::decode(r.bytes("length of the checkpoint", 1_024)?)?;
    let digest = r.hash()?;
    r.finish()?;
    Ok((header, checkpoint, digest))
}

/// Stored values by key.
struct Stored(BTreeMap<PageKey, Vec<u8>>);

impl Stored {
    /// What a group's pages come to, its parts put together. Parts beyond the group's length are leftovers of a longer one.
    fn group<T>(
        &self,
        column: u8,
        group: u32,
        mut page: impl FnMut(&[u8]) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, ImportError> {
        let key = |part| PageKey { column, group, part };
        let first = self.0.get(&key(0)).ok_or(ImportError::Missing { key: key(0) })?;
        let decode = |error| ImportError::Decode { column, error };
        let total = Reader::new(first).u32().map_err(decode)? as usize;
        let mut bytes = Cow::Borrowed(first.as_slice());
        for part in 1..=u16::MAX {
            if bytes.len() >= total {
                break;
            }
            let next = self.0.get(&key(part)).ok_or(ImportError::Missing { key: key(part) })?;
            bytes.to_mut().extend_from_slice(next);
        }
        let mut r = Reader::new(&bytes[4..total.clamp(4, bytes.len())]);
        let mut pages = Vec::new();
        while r.left() > 0 {
            let len = r.u32().map_err(decode)? as usize;
            if len > MAX_PAGE {
                return Err(ImportError::Missing { key: key(0) });
            }
            pages.push(r.raw(len).and_then(&mut page).map_err(decode)?);
        }
        Ok(pages)
    }

    /// The pages of a group as they are.
    fn plain(&self, column: u8, group: u32) -> Result<Vec<Vec<u8>>, ImportError> {
        self.group(column, group, |page| Ok(page.to_vec()))
    }

    fn single(&self, id: ColumnId) -> Result<Vec<u8>, ImportError> {
        let mut pages = self.plain(id as u8, 0)?;
        let found = pages.len();
        match (pages.pop(), found) {
            (Some(page), 1) => Ok(page),
            _ => Err(ImportError::Count { column: id as u8, expected: 1, found }),
        }
    }

    /// The pages of a column that has to have exactly `expected` of them.
    fn column<P: Page>(&self, id: ColumnId, expected: usize) -> Result<Vec<Arc<P>>, ImportError> {
        let parts = ranges(expected.div_ceil(P::GROUP), PAGES_AT_LEAST / P::GROUP, |groups| {
            let mut pages = Vec::new();
            for group in groups {
                #[allow(clippy::cast_possible_truncation)]
                pages.extend(self.group(id as u8, group as u32, |bytes| P::decode(bytes).map(Arc::new))?);
            }
            Ok(pages)
        });
        let parts: Vec<Vec<_>> = parts.into_iter().collect::<Result<_, ImportError>>()?;
        let pages = parts.concat();
        if pages.len() != expected {
            return Err(ImportError::Count { column: id as u8, expected, found: pages.len() });
        }
        Ok(pages)
    }

    fn module(&self, module: &mut dyn Module) -> Result<(), ImportError> {
        let column = MODULE_COLUMNS + module.id() as u8;
        if module.is_untouched() && !self.0.keys().any(|key| key.column == column) {
            // No column, no change since genesis; the state root tells if one was left out.
            return Ok(());
        }
        let count = self.plain(column, 0)?;
        let decode = |error| ImportError::Decode { column, error };
        let count = count.first().map_or(Ok(0), |bytes| Reader::new(bytes).u64()).map_err(decode)?;
        let mut pages = Vec::new();
        for number in 1..=count {
            let group =
                u32::try_from(number).map_err(|_| decode(CodecError::Invalid { what: "pages", value: count }))?;
            pages.extend(self.plain(column, group)?);
        }
        module.restore(&pages).map_err(decode)
    }
}

/// Rebuilds the state from stored values; the caller compares its root with the checkpoint's.
pub(crate) fn read_pages(
    pages: impl IntoIterator<Item = StoredPage>,
    mut modules: Vec<Box<dyn Module>>,
) -> Result<Imported, ImportError> {
    let stored = Stored(pages.into_iter().map(|page| (page.key, page.bytes)).collect());
    let head = ColumnId::Head as u8;
    let (header, checkpoint, expected) =
        decode_head(&stored.single(ColumnId::Head)?).map_err(|error| ImportError::Decode { column: head, error })?;
    let (seq, found) = (checkpoint.seq, checkpoint.digest());
    if expected != found {
        return Err(ImportError::Checkpoint { seq, expected, found });
    }
    let (system, count, key_count) = SystemState::decode(&stored.single(ColumnId::System)?)
        .map_err(|error| ImportError::Decode { column: ColumnId::System as u8, error })?;
    let account_pages = (count as usize).div_ceil(ROWS);
    let key_pages = (key_count as usize).div_ceil(KEYS_PER_PAGE);
    let mut keys: Vec<Arc<KeyPage>> = stored.column(ColumnId::Keys, key_pages)?;
    if let Some(last) = keys.last_mut() {
        // What later states added to the table's last page is not this one's; the state root tells whether it fits.
        Arc::make_mut(last).0.truncate(key_count as usize - (key_pages - 1) * KEYS_PER_PAGE);
    }
    let found = keys.iter().map(|page| page.0.len()).sum();
    if found != key_count as usize {
        return Err(ImportError::Count { column: ColumnId::Keys as u8, expected: key_count as usize, found });
    }
    let balances: Vec<Arc<BalancePage>> = stored.column(ColumnId::Balances, account_pages)?;
    let nonces: Vec<Arc<NoncePage>> = stored.column(ColumnId::Nonces, account_pages)?;
    let identities: Vec<Arc<IdentityPage>> = stored.column(ColumnId::Identities, account_pages)?;
    for module in &mut modules {
        stored.module(module.as_mut())?;
    }
    let accounts = Accounts::from_pages(count, key_count, balances, nonces, identities, keys);
    Ok(Imported { state: State { accounts, system, modules }, header, checkpoint })
}
