//! The pages of the account columns and of the key table: 256 accounts or 16 keys each.
//!
//! A page is what is hashed, shared with snapshots and stored. Its bytes are canonical; columns of pages are
//! `column`'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::codec::{CodecError, Reader};
use crate::hash::{DIGEST_LEN, Hash};
use crate::types::{Address, Amount, NONCE_WINDOW, PUBLIC_KEY_LEN};

/// Accounts of a page.
pub(crate) const ROWS: usize = 256;
/// Keys of a page of the key table.
pub(crate) const KEYS_PER_PAGE: usize = 16;
/// Words of the set of used nonces above an account's base.
const WINDOW_WORDS: usize = NONCE_WINDOW as usize / 64;
/// The key position of an account without a registered key.
pub(crate) const NO_KEY: u32 = u32::MAX;

/// What columns need of a page.
pub(crate) trait Page: Clone + Send + Sync {
    /// Pages that are stored together, so that a stored value has some 16 to 48 KiB.
    const GROUP: usize;

    /// Appends the canonical bytes.
    fn encode_into(&self, out: &mut Vec<u8>);

    /// Reads the canonical bytes back.
    fn decode(bytes: &[u8]) -> Result<Self, CodecError>;
}

/// Balances, 4 KiB.
#[derive(Debug, Clone)]
pub(crate) struct BalancePage(pub(crate) [Amount; ROWS]);

impl Page for BalancePage {
    const GROUP: usize = 8;

    fn encode_into(&self, out: &mut Vec<u8>) {
        out.reserve(ROWS * 16);
        for balance in &self.0 {
            out.extend_from_slice(&balance.to_le_bytes());
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let mut page = Self([0; ROWS]);
        for balance in &mut page.0 {
            *balance = r.u128()?;
        }
        r.finish()?;
        Ok(page)
    }
}

/// Nonce state: the lowest unused nonce of each account, and the used ones above it where there are any.
#[derive(Debug, Clone)]
pub(crate) struct NoncePage {
    bases: [u64; ROWS],
    /// Bit n of a set stands for base + n; bit 0 is never set, and no empty set is kept.
    open: BTreeMap<u8, [u64; WINDOW_WORDS]>,
}

impl Default for NoncePage {
    fn default() -> Self {
        Self { bases: [0; ROWS], open: BTreeMap::new() }
    }
}

/// Whether a nonce can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NonceState {
    Unused,
    Used,
    OutOfWindow,
}

/// Shifts a set down by up to its length.
fn shift_down(set: &mut [u64; WINDOW_WORDS], by: usize) {
    let (words, bits) = (by / 64, by % 64);
    let word = |at: usize| set.get(at).copied().unwrap_or(0);
    *set = std::array::from_fn(|at| {
        let low = word(at + words) >> bits;
        if bits == 0 { low } else { low | word(at + words + 1) << (64 - bits) }
    });
}

/// The lowest position not in the set.
fn first_absent(set: &[u64; WINDOW_WORDS]) -> usize {
    let full = set.iter().take_while(|word| **word == u64::MAX).count();
    full * 64 + set.get(full).map_or(0, |word| word.trailing_ones() as usize)
}

impl NoncePage {
    /// The lowest unused nonce of an account.
    pub(crate) const fn base(&self, row: u8) -> u64 {
        self.bases[row as usize]
    }

    /// Whether an account may use a nonce.
    pub(crate) fn state(&self, row: u8, nonce: u64) -> NonceState {
        let Some(above) = nonce.checked_sub(self.base(row)) else { return NonceState::Used };
        if above >= NONCE_WINDOW || nonce == u64::MAX {
            return NonceState::OutOfWindow;
        }
        let used = self.open.get(&row).is_some_and(|set| set[above as usize / 64] >> (above % 64) & 1 == 1);
        if used { NonceState::Used } else { NonceState::Unused }
    }

    /// Uses an unused nonce; the base slides to the first unused one.
    pub(crate) fn consume(&mut self, row: u8, nonce: u64) {
        debug_assert_eq!(self.state(row, nonce), NonceState::Unused);
        let above = (nonce - self.base(row)) as usize;
        if above == 0 && !self.open.contains_key(&row) {
            self.bases[row as usize] += 1;
            return;
        }
        let set = self.open.entry(row).or_default();
        set[above / 64] |= 1 << (above % 64);
        let slide = first_absent(set);
        shift_down(set, slide);
        if set.iter().all(|word| *word == 0) {
            self.open.remove(&row);
        }
        self.bases[row as usize] += slide as u64;
    }
}

impl Page for NoncePage {
    const GROUP: usize = 16;

    fn encode_into(&self, out: &mut Vec<u8>) {
        for base in &self.bases {
            out.extend_from_slice(&base.to_le_bytes());
        }
        #[allow(clippy::cast_possible_truncation)]
        out.extend_from_slice(&(self.open.len() as u16).to_le_bytes());
        for (row, set) in &self.open {
            out.push(*row);
            for word in set {
                out.extend_from_slice(&word.to_le_bytes());
            }
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let mut page = Self::default();
        for base in &mut page.bases {
            *base = r.u64()?;
        }
        for _ in 0..r.u16()? {
            let row = r.u8()?;
            let mut set = [0; WINDOW_WORDS];
            for word in &mut set {
                *word = r.u64()?;
            }
            let in_order = page.open.last_key_value().is_none_or(|(last, _)| *last < row);
            if !in_order || set[0] & 1 == 1 || set.iter().all(|word| *word == 0) {
                return Err(CodecError::Invalid { what: "set of used nonces", value: row.into() });
            }
            page.open.insert(row, set);
        }
        r.finish()?;
        Ok(page)
    }
}

/// Who the accounts are: addresses, and where their keys stand in the key table.
#[derive(Debug, Clone)]
pub(crate) struct IdentityPage {
    pub(crate) addresses: [Address; ROWS],
    pub(crate) keys: [u32; ROWS],
}

impl Default for IdentityPage {
    fn default() -> Self {
        Self { addresses: [Address::default(); ROWS], keys: [NO_KEY; ROWS] }
    }
}

impl Page for IdentityPage {
    const GROUP: usize = 4;

    fn encode_into(&self, out: &mut Vec<u8>) {
        out.reserve(ROWS * (DIGEST_LEN + 4));
        for address in &self.addresses {
            out.extend_from_slice(address.as_bytes());
        }
        for key in &self.keys {
            out.extend_from_slice(&key.to_le_bytes());
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let mut page = Self::default();
        for address in &mut page.addresses {
            *address = Address(Hash(r.array()?));
        }
        for key in &mut page.keys {
            *key = r.u32()?;
        }
        r.finish()?;
        Ok(page)
    }
}

/// Registered public keys, in the order of their registration.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyPage(pub(crate) Vec<Arc<[u8]>>);

impl Page for KeyPage {
    const GROUP: usize = 1;

    fn encode_into(&self, out: &mut Vec<u8>) {
        out.reserve(self.0.len() * PUBLIC_KEY_LEN);
        for key in &self.0 {
            out.extend_from_slice(key);
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let count = bytes.len() / PUBLIC_KEY_LEN;
        if count == 0 || count > KEYS_PER_PAGE || !bytes.len().is_multiple_of(PUBLIC_KEY_LEN) {
            return Err(CodecError::Invalid { what: "length of a page of keys", value: bytes.len() as u64 });
        }
        Ok(Self(bytes.chunks_exact(PUBLIC_KEY_LEN).map(Arc::from).collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_base_slides_to_the_first_unused_nonce() {
        let mut page = NoncePage::default();
        for nonce in [2, 1, 4] {
            page.consume(7, nonce);
            assert_eq!(page.base(7), 0);
        }
        page.consume(7, 0);
        assert_eq!(page.base(7), 3);
        assert_eq!(page.state(7, 2), NonceState::Used);
        assert_eq!(page.state(7, 4), NonceState::Used);
        page.consume(7, 3);
        assert_eq!((page.base(7), page.open.len()), (5, 0));
        assert_eq!(page.base(8), 0);
    }

    #[test]
    fn the_window_ends_1023_above_the_base() {
        let mut page = NoncePage::default();
        assert_eq!(page.state(0, 1_023), NonceState::Unused);
        assert_eq!(page.state(0, 1_024), NonceState::OutOfWindow);
        assert_eq!(page.state(0, u64::MAX), NonceState::OutOfWindow);
        for nonce in (0..1_024).rev() {
            page.consume(0, nonce);
        }
        assert_eq!((page.base(0), page.open.len()), (1_024, 0));
    }

    proptest! {
        #[test]
        fn nonces_follow_a_plain_set(offsets in proptest::collection::vec(0_u64..1_100, 1..400)) {
            let (mut page, mut used, mut base) = (NoncePage::default(), BTreeSet::new(), 0_u64);
            for offset in offsets {
                let nonce = base.saturating_sub(20) + offset;
                let expected = if nonce < base || used.contains(&nonce) {
                    NonceState::Used
                } else if nonce >= base + NONCE_WINDOW {
                    NonceState::OutOfWindow
                } else {
                    NonceState::Unused
                };
                prop_assert_eq!(page.state(3, nonce), expected);
                if expected == NonceState::Unused {
                    page.consume(3, nonce);
                    used.insert(nonce);
                    while used.contains(&base) {
                        base += 1;
                    }
                }
                prop_assert_eq!(page.base(3), base);
            }
            let mut bytes = Vec::new();
            page.encode_into(&mut bytes);
            let back = NoncePage::decode(&bytes).expect("own bytes decode");
            prop_assert_eq!((back.bases, back.open), (page.bases, page.open));
        }
    }

    #[test]
    fn nonce_pages_in_another_form_are_refused() {
        let mut page = NoncePage::default();
        page.consume(4, 9);
        let mut bytes = Vec::new();
        page.encode_into(&mut bytes);
        let sets_at = ROWS * 8 + 2;
        for (at, value) in [(sets_at + 1, 1_u8), (sets_at + 2, 0)] {
            let mut other = bytes.clone();
            other[at] = value;
            assert!(NoncePage::decode(&other).is_err(), "byte {at}");
        }
        assert!(NoncePage::decode(&bytes).is_ok());
    }
}
