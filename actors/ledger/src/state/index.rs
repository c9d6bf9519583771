//! From addresses to account indices: a persistent trie, so that a snapshot is one pointer.
//!
//! The trie holds numbers, not addresses: those stand once, in the identity column, and are looked up through a
//! closure. Addresses can be chosen freely by whoever sends a transfer; the depth is bounded by their 64 digits, so
//! chosen addresses cost a constant, however many share a prefix.

use std::sync::Arc;

use crate::hash::DIGEST_LEN;
use crate::parallel::ranges;
use crate::types::Address;

/// Entries a leaf holds before it splits.
const LEAF_MAX: usize = 32;
/// Hex digits of an address: the greatest depth.
const MAX_DEPTH: usize = 2 * DIGEST_LEN;

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The address's last bytes: most foreign entries differ here, without a look at the column.
    tag: u32,
    index: u32,
}

#[derive(Debug, Clone)]
enum Node {
    Leaf(Vec<Entry>),
    Branch(Box<[Option<Arc<Node>>; 16]>),
}

/// The trie. Cloning it is cheap; clones do not see each other's changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct AddressIndex {
    root: Option<Arc<Node>>,
}

fn digit(address: &Address, depth: usize) -> usize {
    let byte = address.as_bytes()[depth / 2];
    usize::from(if depth.is_multiple_of(2) { byte >> 4 } else { byte & 0x0f })
}

fn tag(address: &Address) -> u32 {
    u32::from_le_bytes(*address.as_bytes().last_chunk().expect("an address has 32 bytes"))
}

/// An entry with the first digits of its address, by which entries of many accounts are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Sorted {
    first: u64,
    tag: u32,
    index: u32,
}

/// Digits in [`Sorted::first`].
const FIRST_DIGITS: usize = 16;

/// The node over entries, which are sorted and share the digits above `depth`; none over no entries. It is the node that
/// inserting them one by one would make.
fn node_over<'a>(entries: &[Sorted], depth: usize, address_of: &impl Fn(u32) -> &'a Address) -> Option<Arc<Node>> {
    if entries.is_empty() {
        return None;
    }
    if entries.len() > LEAF_MAX && depth == FIRST_DIGITS {
        let mut node = None;
        for entry in entries {
            let Sorted { tag, index, .. } = *entry;
            insert_into(&mut node, address_of(index), Entry { tag, index }, depth, address_of);
        }
        return node;
    }
    if entries.len() <= LEAF_MAX {
        let leaf = entries.iter().map(|Sorted { tag, index, .. }| Entry { tag: *tag, index: *index });
        return Some(Arc::new(Node::Leaf(leaf.collect())));
    }
    let digit = |entry: &Sorted| (entry.first >> (4 * (FIRST_DIGITS - 1 - depth))) as usize & 0x0f;
    let mut children: Box<[Option<Arc<Node>>; 16]> = Box::default();
    for alike in entries.chunk_by(|a, b| digit(a) == digit(b)) {
        children[digit(&alike[0])] = node_over(alike, depth + 1, address_of);
    }
    Some(Arc::new(Node::Branch(children)))
}

/// From how many accounts on the first digit shares the work out.
const MANY: usize = 32_768;

impl AddressIndex {
    /// The index of accounts 0 to `count`, whose addresses differ: what inserting one after the other makes, in a tenth of
    /// the time.
    pub(crate) fn of_all<'a>(count: u32, address_of: impl Fn(u32) -> &'a Address + Sync) -> Self {
        let sorted = |wanted: &dyn Fn(&Address) -> bool| {
            let all = (0..count).map(|index| (index, address_of(index))).filter(|(_, address)| wanted(address));
            let first = |address: &Address| u64::from_be_bytes(*address.as_bytes().first_chunk().expect("32 bytes"));
            let mut entries: Vec<Sorted> =
                all.map(|(index, address)| Sorted { first: first(address), tag: tag(address), index }).collect();
            entries.sort_unstable();
            entries
        };
        if (count as usize) < MANY {
            return Self { root: node_over(&sorted(&|_| true), 0, &address_of) };
        }
        // Far more than a leaf holds: the root is a branch.
        let parts = ranges(16, 1, |digits| {
            digits
                .map(|wanted| node_over(&sorted(&|address| digit(address, 0) == wanted), 1, &address_of))
                .collect::<Vec<_>>()
        });
        let mut children: Box<[Option<Arc<Node>>; 16]> = Box::default();
        for (place, child) in children.iter_mut().zip(parts.into_iter().flatten()) {
            *place = child;
        }
        Self { root: Some(Arc::new(Node::Branch(children))) }
    }

    /// The index stored for an address.
    pub(crate) fn get<'a>(&self, address: &Address, address_of: impl Fn(u32) -> &'a Address) -> Option<u32> {
        let mut node = self.root.as_deref()?;
        for depth in 0..=MAX_DEPTH {
            match node {
                Node::Leaf(entries) => {
                    let tag = tag(address);
                    let found = entries.iter().find(|entry| entry.tag == tag && address_of(entry.index) == address);
                    return found.map(|entry| entry.index);
                }
                Node::Branch(children) => node = children[digit(address, depth)].as_deref()?,
            }
        }
        None
    }

    /// Stores the index of an address that is not yet stored.
    pub(crate) fn insert<'a>(&mut self, address: &Address, index: u32, address_of: impl Fn(u32) -> &'a Address) {
        let entry = Entry { tag: tag(address), index };
        insert_into(&mut self.root, address, entry, 0, &address_of);
    }

    /// Takes out the index of an address.
    pub(crate) fn remove(&mut self, address: &Address, index: u32) {
        let mut place = &mut self.root;
        for depth in 0..=MAX_DEPTH {
            let Some(node) = place else { return };
            match Arc::make_mut(node) {
                Node::Leaf(entries) => return entries.retain(|entry| entry.index != index),
                Node::Branch(children) => place = &mut children[digit(address, depth)],
            }
        }
    }
}

fn insert_into<'a>(
    place: &mut Option<Arc<Node>>,
    address: &Address,
    entry: Entry,
    depth: usize,
    address_of: &impl Fn(u32) -> &'a Address,
) {
    let node = Arc::make_mut(place.get_or_insert_with(|| Arc::new(Node::Leaf(Vec::new()))));
    match node {
        Node::Branch(children) => {
            insert_into(&mut children[digit(address, depth)], address, entry, depth + 1, address_of);
        }
        // At the greatest depth all addresses are equal, so a leaf there never fills.
        Node::Leaf(entries) if entries.len() < LEAF_MAX || depth == MAX_DEPTH => entries.push(entry),
        Node::Leaf(entries) => {
            let mut children: Box<[Option<Arc<Node>>; 16]> = Box::default();
            for old in std::mem::take(entries) {
                let old_address = address_of(old.index);
                insert_into(&mut children[digit(old_address, depth)], old_address, old, depth + 1, address_of);
            }
            insert_into(&mut children[digit(address, depth)], address, entry, depth + 1, address_of);
            *node = Node::Branch(children);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{Hash, h};

    fn check_all(index: &AddressIndex, addresses: &[Address], absent: &[Address]) {
        let address_of = |at: u32| &addresses[at as usize];
        for (at, address) in addresses.iter().enumerate() {
            assert_eq!(index.get(address, address_of), Some(at as u32));
        }
        for address in absent {
            assert_eq!(index.get(address, address_of), None);
        }
    }

    fn build(addresses: &[Address]) -> AddressIndex {
        let mut index = AddressIndex::default();
        for (at, address) in addresses.iter().enumerate() {
            index.insert(address, at as u32, |at| &addresses[at as usize]);
        }
        index
    }

    /// What a node looks like, its leaves' entries in order.
    fn shape(node: Option<&Arc<Node>>) -> String {
        match node.map(Arc::as_ref) {
            None => "-".to_owned(),
            Some(Node::Leaf(entries)) => {
                let mut indices: Vec<u32> = entries.iter().map(|entry| entry.index).collect();
                indices.sort_unstable();
                format!("{indices:?}")
            }
            Some(Node::Branch(children)) => {
                format!("({})", children.iter().map(|child| shape(child.as_ref())).collect::<String>())
            }
        }
    }

    #[test]
    fn an_index_made_at_once_is_that_of_single_insertions() {
        let mut addresses: Vec<_> = (0..40_000_u32).map(|n| Address(h("address", &n.to_le_bytes()))).collect();
        // Enough that share more digits than are sorted by.
        for n in 0..100_u8 {
            let mut bytes = [7; 32];
            bytes[9] = n;
            addresses.push(Address(Hash(bytes)));
        }
        for count in [0, 1, 32, 33, 1_000, addresses.len()] {
            let some = &addresses[addresses.len() - count..];
            let at_once = AddressIndex::of_all(count as u32, |at| &some[at as usize]);
            assert_eq!(shape(at_once.root.as_ref()), shape(build(some).root.as_ref()), "{count} addresses");
        }
    }

    #[test]
    fn thousands_of_addresses_are_found_and_others_are_not() {
        let all: Vec<_> = (0..6_000_u32).map(|n| Address(h("address", &n.to_le_bytes()))).collect();
        let (present, absent) = all.split_at(5_000);
        check_all(&build(present), present, absent);
    }

    #[test]
    fn addresses_chosen_to_share_all_but_the_last_digits_are_found() {
        let chosen = |n: u16| {
            let mut bytes = [7; 32];
            bytes[30..].copy_from_slice(&n.to_be_bytes());
            Address(Hash(bytes))
        };
        let present: Vec<_> = (0..1_000).map(chosen).collect();
        check_all(&build(&present), &present, &[chosen(1_000), Address::default()]);
    }

    #[test]
    fn a_clone_does_not_see_later_changes() {
        let addresses: Vec<_> = (0..200_u32).map(|n| Address(h("address", &n.to_le_bytes()))).collect();
        let address_of = |at: u32| &addresses[at as usize];
        let mut index = build(&addresses[..100]);
        let before = index.clone();
        for (at, address) in addresses.iter().enumerate().skip(100) {
            index.insert(address, at as u32, address_of);
        }
        index.remove(&addresses[5], 5);
        check_all(&before, &addresses[..100], &addresses[100..]);
        assert_eq!(index.get(&addresses[5], address_of), None);
        assert_eq!(index.get(&addresses[199], address_of), Some(199));
    }
}
