//! The table of identity: rows by the hash of what they are about, in pages that split when they are full.
//!
//! A page holds all rows whose hash begins with its prefix. One that would be longer than [`MAX_PAGE`] is split into the
//! halves of its range until none is; the lower half keeps the page's number and the upper one gets the next free number,
//! so that a page that nothing was added to keeps its number and its bytes. Rows are replaced and never removed: the
//! ranges of the pages follow from the rows alone, their numbers from the order in which the rows came.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::operations::{ENCRYPTION_KEY_LEN, SignedEncryptionKey};
use crate::codec::{CodecError, Reader, Writer};
use crate::hash::{DIGEST_LEN, Hash, blake3_digest};
use crate::types::{AccountIndex, SIGNATURE_LEN};

const VERSION: u8 = 1;
/// Longest page of more than one row, bytes.
pub(super) const MAX_PAGE: usize = 16 * 1024;
/// Bytes of a page before its rows, at most.
const HEADER: usize = 1 + 2 + DIGEST_LEN + 5;
/// Bits of a row's hash; deeper than this no page is split.
const MAX_DEPTH: u16 = 255;
/// Most rows that there can ever be.
pub const MAX_ROWS: u64 = 1 << 28;
const KEY_ROW: u8 = 0;
const ENVELOPE_ROW: u8 = 1;

/// An account's encryption key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptionKey {
    /// Whose it is.
    pub account: AccountIndex,
    /// In which block it was registered.
    pub height: u64,
    /// The key, and the account's signature of it.
    pub signed: SignedEncryptionKey,
}

/// An envelope that an account says to have sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// Who says so.
    pub sender: AccountIndex,
    /// The envelope's digest.
    pub digest: Hash,
    /// In which block.
    pub height: u64,
    /// The block's time, in milliseconds since 1970.
    pub timestamp_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Row {
    Key(Arc<EncryptionKey>),
    Anchor(Anchor),
}

fn key_place(account: AccountIndex) -> Hash {
    let mut w = Writer::with_capacity(5);
    w.u8(KEY_ROW).u32(account.0);
    blake3_digest(w.as_slice())
}

fn anchor_place(sender: AccountIndex, digest: &Hash) -> Hash {
    let mut w = Writer::with_capacity(37);
    w.u8(ENVELOPE_ROW).u32(sender.0).hash(digest);
    blake3_digest(w.as_slice())
}

impl Row {
    fn place(&self) -> Hash {
        match self {
            Self::Key(key) => key_place(key.account),
            Self::Anchor(anchor) => anchor_place(anchor.sender, &anchor.digest),
        }
    }

    const fn len(&self) -> usize {
        match self {
            Self::Key(_) => 1 + 4 + 8 + 4 + ENCRYPTION_KEY_LEN + SIGNATURE_LEN,
            Self::Anchor(_) => 1 + 4 + DIGEST_LEN + 8 + 8,
        }
    }

    fn write(&self, w: &mut Writer) {
        match self {
            Self::Key(it) => {
                w.u8(KEY_ROW).u32(it.account.0).u64(it.height).u32(it.signed.number);
                w.raw(&it.signed.key).raw(&it.signed.signature);
            }
            Self::Anchor(it) => {
                w.u8(ENVELOPE_ROW).u32(it.sender.0).hash(&it.digest).u64(it.height).u64(it.timestamp_ms);
            }
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        match r.u8()? {
            KEY_ROW => {
                let (account, height, number) = (AccountIndex(r.u32()?), r.u64()?, r.u32()?);
                let (key, signature) = (r.raw(ENCRYPTION_KEY_LEN)?.to_vec(), r.raw(SIGNATURE_LEN)?.to_vec());
                let signed = SignedEncryptionKey { number, key, signature };
                Ok(Self::Key(Arc::new(EncryptionKey { account, height, signed })))
            }
            ENVELOPE_ROW => Ok(Self::Anchor(Anchor {
                sender: AccountIndex(r.u32()?),
                digest: r.hash()?,
                height: r.u64()?,
                timestamp_ms: r.u64()?,
            })),
            other => Err(CodecError::Invalid { what: "kind of an identity row", value: other.into() }),
        }
    }
}

/// The rows whose hashes begin with the first `depth` bits of `from`; all other bits of `from` are 0.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Page {
    depth: u16,
    from: Hash,
    rows: BTreeMap<Hash, Row>,
}

fn bit(hash: &Hash, at: u16) -> bool {
    hash.0[usize::from(at / 8)] >> (7 - at % 8) & 1 == 1
}

fn set_bit(hash: &mut Hash, at: u16) {
    hash.0[usize::from(at / 8)] |= 1 << (7 - at % 8);
}

impl Page {
    fn row_bytes(&self) -> usize {
        self.rows.values().map(Row::len).sum()
    }

    fn is_too_long(&self) -> bool {
        self.rows.len() > 1 && self.depth < MAX_DEPTH && HEADER + self.row_bytes() > MAX_PAGE
    }

    /// Takes the upper half of its range out of the page.
    fn split(&mut self) -> Self {
        let mut from = self.from;
        set_bit(&mut from, self.depth);
        self.depth += 1;
        let rows = self.rows.split_off(&from);
        Self { depth: self.depth, from, rows }
    }

    /// The last hash of its range.
    fn last(&self) -> Hash {
        let mut last = self.from;
        (self.depth..=MAX_DEPTH).for_each(|at| set_bit(&mut last, at));
        last
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(HEADER + self.row_bytes());
        w.u8(VERSION).u16(self.depth).hash(&self.from).varint(self.rows.len() as u64);
        self.rows.values().for_each(|row| row.write(&mut w));
        w.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(CodecError::Invalid { what: "version of the identity table", value: version.into() });
        }
        let (depth, from) = (r.u16()?, r.hash()?);
        if depth > MAX_DEPTH || (depth..=MAX_DEPTH).any(|at| bit(&from, at)) {
            return Err(CodecError::Invalid { what: "depth of an identity page", value: depth.into() });
        }
        let mut page = Self { depth, from, rows: BTreeMap::new() };
        let last = page.last();
        for at in 0..r.varint_max("rows of an identity page", MAX_ROWS)? {
            let row = Row::read(&mut r)?;
            let place = row.place();
            let ascends = page.rows.last_key_value().is_none_or(|(before, _)| *before < place);
            if !ascends || place < from || place > last {
                return Err(CodecError::Invalid { what: "place of an identity row", value: at });
            }
            page.rows.insert(place, row);
        }
        r.finish()?;
        if page.is_too_long() {
            return Err(CodecError::Invalid { what: "rows of an identity page", value: page.rows.len() as u64 });
        }
        Ok(page)
    }
}

/// Encryption keys and anchored envelopes. Copies share all pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityTable {
    pages: Arc<Vec<Arc<Page>>>,
    /// The number of the page that begins with a hash.
    index: Arc<BTreeMap<Hash, u32>>,
    keys: u64,
    anchors: u64,
}

impl Default for IdentityTable {
    fn default() -> Self {
        let index = Arc::new(BTreeMap::from([(Hash::ZERO, 0)]));
        Self { pages: Arc::new(vec![Arc::default()]), index, keys: 0, anchors: 0 }
    }
}

impl IdentityTable {
    fn page_of(&self, place: &Hash) -> usize {
        // The first page begins with zero, so that every hash has one.
        self.index.range(..=*place).next_back().map_or(0, |(_, number)| *number as usize)
    }

    fn row(&self, place: &Hash) -> Option<&Row> {
        self.pages.get(self.page_of(place))?.rows.get(place)
    }

    /// An account's encryption key.
    #[must_use]
    pub fn encryption_key(&self, account: AccountIndex) -> Option<&Arc<EncryptionKey>> {
        match self.row(&key_place(account))? {
            Row::Key(key) => Some(key),
            Row::Anchor(_) => None,
        }
    }

    /// What an account has said of an envelope.
    #[must_use]
    pub fn anchor(&self, sender: AccountIndex, digest: &Hash) -> Option<&Anchor> {
        match self.row(&anchor_place(sender, digest))? {
            Row::Anchor(anchor) => Some(anchor),
            Row::Key(_) => None,
        }
    }

    /// How many accounts have an encryption key.
    #[must_use]
    pub const fn key_count(&self) -> u64 {
        self.keys
    }

    /// How many envelopes are anchored.
    #[must_use]
    pub const fn anchor_count(&self) -> u64 {
        self.anchors
    }

    /// How many pages there are.
    #[must_use]
    pub fn page_count(&self) -> usize {
        self.pages.len()
    }

    pub(super) fn pages(&self) -> &[Arc<Page>] {
        &self.pages
    }

    /// Adds a row, or replaces the one about the same.
    pub(super) fn put(&mut self, row: Row) {
        let place = row.place();
        let number = self.page_of(&place);
        let counter = match &row {
            Row::Key(_) => &mut self.keys,
            Row::Anchor(_) => &mut self.anchors,
        };
        let pages = Arc::make_mut(&mut self.pages);
        let page = Arc::make_mut(&mut pages[number]);
        *counter += u64::from(page.rows.insert(place, row).is_none());
        // Of two halves at most one is too long, by one row: before the row came the page was not.
        let mut at = number;
        while pages[at].is_too_long() {
            let upper = Arc::make_mut(&mut pages[at]).split();
            let new = u32::try_from(pages.len()).unwrap_or(u32::MAX);
            Arc::make_mut(&mut self.index).insert(upper.from, new);
            pages.push(Arc::new(upper));
            at = if pages[at].is_too_long() { at } else { new as usize };
        }
    }

    /// Reads the table back from its pages.
    ///
    /// # Errors
    /// [`CodecError`] if they are not the pages of a table.
    pub(super) fn decode(pages: &[Vec<u8>]) -> Result<Self, CodecError> {
        let pages: Vec<Page> = pages.iter().map(|page| Page::decode(page)).collect::<Result<_, _>>()?;
        let (mut index, mut keys, mut anchors) = (BTreeMap::new(), 0, 0);
        for (number, page) in (0_u32..).zip(&pages) {
            index.insert(page.from, number);
            let of_keys = page.rows.values().filter(|row| matches!(row, Row::Key(_))).count() as u64;
            keys += of_keys;
            anchors += page.rows.len() as u64 - of_keys;
        }
        // The pages' ranges have to cover all hashes, each once.
        let mut next = Some(Hash::ZERO);
        for (from, number) in &index {
            if next != Some(*from) {
                return Err(CodecError::Invalid { what: "range of an identity page", value: (*number).into() });
            }
            next = after(pages[*number as usize].last());
        }
        if next.is_some() || index.len() != pages.len() {
            return Err(CodecError::Invalid { what: "number of identity pages", value: pages.len() as u64 });
        }
        Ok(Self { pages: Arc::new(pages.into_iter().map(Arc::new).collect()), index: Arc::new(index), keys, anchors })
    }
}

/// The hash after one; none after the last.
fn after(mut hash: Hash) -> Option<Hash> {
    for byte in hash.0.iter_mut().rev() {
        let (next, carried) = byte.overflowing_add(1);
        *byte = next;
        if !carried {
            return Some(hash);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(account: u32, number: u32) -> Row {
        let signed =
            SignedEncryptionKey { number, key: vec![7; ENCRYPTION_KEY_LEN], signature: vec![8; SIGNATURE_LEN] };
        Row::Key(Arc::new(EncryptionKey { account: AccountIndex(account), height: 5, signed }))
    }

    fn anchor(sender: u32, number: u32) -> Row {
        let digest = blake3_digest(&number.to_le_bytes());
        Row::Anchor(Anchor { sender: AccountIndex(sender), digest, height: 6, timestamp_ms: 7 })
    }

    fn encoded(table: &IdentityTable) -> Vec<Vec<u8>> {
        table.pages().iter().map(|page| page.encode()).collect()
    }

    fn filled() -> IdentityTable {
        let mut table = IdentityTable::default();
        for n in 0..40 {
            table.put(key(n, 0));
            (0..50).for_each(|m| table.put(anchor(n, m)));
        }
        table
    }

    #[test]
    fn rows_are_found_in_pages_that_split_and_come_back_from_their_bytes() {
        let mut table = filled();
        assert!(table.page_count() > 20, "{} pages", table.page_count());
        assert_eq!((table.key_count(), table.anchor_count()), (40, 2_000));
        for n in 0..40 {
            assert_eq!(table.encryption_key(AccountIndex(n)).map(|key| key.account), Some(AccountIndex(n)));
            let digest = blake3_digest(&n.to_le_bytes());
            assert_eq!(table.anchor(AccountIndex(n), &digest).map(|it| it.digest), Some(digest));
        }
        assert_eq!(table.encryption_key(AccountIndex(40)), None);
        assert!(encoded(&table).iter().all(|page| page.len() <= MAX_PAGE));
        assert_eq!(IdentityTable::decode(&encoded(&table)), Ok(table.clone()));
        table.put(key(3, 9));
        assert_eq!(table.key_count(), 40, "replaced");
        assert_eq!(table.encryption_key(AccountIndex(3)).map(|key| key.signed.number), Some(9));
    }

    #[test]
    fn a_row_changes_its_page_alone_and_numbers_of_pages_stay() {
        let before = filled();
        let mut table = before.clone();
        table.put(anchor(77, 1));
        let changed = before.pages().iter().zip(table.pages()).filter(|(old, new)| !Arc::ptr_eq(old, new)).count();
        assert_eq!(changed, 1);
        assert!(table.page_count() <= before.page_count() + 1);
    }

    #[test]
    fn ranges_of_pages_follow_from_the_rows_and_not_from_their_order() {
        let ranges = |table: &IdentityTable| {
            table.index.keys().map(|from| (*from, table.pages[table.page_of(from)].encode())).collect::<Vec<_>>()
        };
        let mut backwards = IdentityTable::default();
        for n in (0..40).rev() {
            (0..50).rev().for_each(|m| backwards.put(anchor(n, m)));
            backwards.put(key(n, 0));
        }
        assert_eq!(ranges(&backwards), ranges(&filled()));
    }

    #[test]
    fn pages_that_are_cut_missing_doubled_or_of_another_version_are_refused() {
        let pages = encoded(&filled());
        for at in 0..pages.len() {
            let mut missing = pages.clone();
            missing.remove(at);
            assert!(IdentityTable::decode(&missing).is_err(), "without page {at}");
        }
        let doubled = [pages.clone(), vec![pages[0].clone()]].concat();
        assert!(IdentityTable::decode(&doubled).is_err());
        for cut in (0..pages[0].len()).step_by(57) {
            let mut wrong = pages.clone();
            wrong[0].truncate(cut);
            assert!(IdentityTable::decode(&wrong).is_err(), "{cut} bytes");
        }
        let mut other = pages;
        other[0][0] = 2;
        assert!(IdentityTable::decode(&other).is_err());
        assert!(IdentityTable::decode(&[]).is_err());
    }

    #[test]
    fn the_pages_have_the_golden_digest() {
        let digest = blake3_digest(&encoded(&filled()).concat());
        assert_eq!(digest.to_string(), "0x86e8232653e7b78fb7bee61cf8b97437df6017d2af41d17e77de9162acce09fa");
    }
}
