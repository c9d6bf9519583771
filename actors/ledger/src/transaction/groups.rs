//! Operation groups: operations of one kind stand together, as columns.
//!
//! A group is {tag, count, columns}. What a group does when executed is not decided here.

use crate::codec::{CodecError, Reader};
use crate::hash::{DIGEST_LEN, Hash};
use crate::identity::{self, IdentityOperation};
use crate::module::GroupFormat;
use crate::staking::{self, StakingOperation};
use crate::types::{AccountIndex, Address, Amount, MAX_GROUPS, MAX_OPERATIONS};

/// Tag of a group of transfers to account indices.
pub const TAG_TRANSFER_TO_INDEX: u8 = 0;
/// Tag of a group of transfers to addresses.
pub const TAG_TRANSFER_TO_ADDRESS: u8 = 1;

/// Who receives a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// An existing account, by its number.
    Index(AccountIndex),
    /// An account by its address; it comes into being with its first credit.
    Address(Address),
}

/// One operation, taken out of its columns: for display and indexing, never for execution.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Move an amount to another account.
    Transfer {
        /// The receiver.
        to: Target,
        /// How much.
        amount: Amount,
    },
    /// An operation of staking.
    Staking(StakingOperation),
    /// An operation of identity.
    Identity(IdentityOperation),
    /// An operation of another module, known here by its tag alone.
    Module {
        /// The tag of its group.
        tag: u8,
    },
}

/// Where a group's columns lie in the transaction's bytes.
#[derive(Debug, Clone)]
pub(super) struct GroupLayout {
    tag: u8,
    count: usize,
    /// Start of the columns.
    columns_at: usize,
    /// End of the columns.
    end: usize,
    /// Bytes of one amount; 0 in groups of modules.
    width: usize,
}

/// The recipients of a transfer group.
#[derive(Debug, Clone, Copy)]
pub enum RecipientColumn<'a> {
    /// Four bytes each, little-endian.
    Indices(&'a [u8]),
    /// Thirty-two bytes each.
    Addresses(&'a [u8]),
}

/// A group of transfers, read in place.
#[derive(Debug, Clone, Copy)]
pub struct TransferGroup<'a> {
    /// Who receives.
    pub recipients: RecipientColumn<'a>,
    /// Bytes of one amount: 1, 2, 4, 8 or 16.
    pub amount_width: usize,
    /// The amounts, little-endian.
    pub amounts: &'a [u8],
}

impl TransferGroup<'_> {
    /// How many transfers the group holds.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.amounts.len() / self.amount_width
    }

    /// Whether the group is empty; a decoded group never is.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.amounts.is_empty()
    }

    /// The transfer at a position of the group.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<(Target, Amount)> {
        let amount = self.amounts.get(at * self.amount_width..(at + 1) * self.amount_width)?;
        let to = match self.recipients {
            RecipientColumn::Indices(column) => Target::Index(index_at(column, at)?),
            RecipientColumn::Addresses(column) => Target::Address(address_at(column, at)?),
        };
        Some((to, wide(amount)))
    }
}

fn index_at(column: &[u8], at: usize) -> Option<AccountIndex> {
    let bytes = column.get(at * 4..at * 4 + 4)?;
    bytes.try_into().ok().map(|bytes| AccountIndex(u32::from_le_bytes(bytes)))
}

fn address_at(column: &[u8], at: usize) -> Option<Address> {
    let bytes = column.get(at * DIGEST_LEN..(at + 1) * DIGEST_LEN)?;
    bytes.try_into().ok().map(|bytes| Address(Hash(bytes)))
}

/// A little-endian amount of any width up to 16 bytes.
fn wide(bytes: &[u8]) -> Amount {
    let mut array = [0; 16];
    array[..bytes.len()].copy_from_slice(bytes);
    Amount::from_le_bytes(array)
}

/// A group of a module, read in place.
#[derive(Debug, Clone, Copy)]
pub struct ModuleGroup<'a> {
    /// The group's tag; its range names the module.
    pub tag: u8,
    /// How many operations it holds.
    pub count: usize,
    /// Its columns, already checked by the module's format.
    pub columns: &'a [u8],
}

/// A group of either kind.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Group<'a> {
    /// Transfers.
    Transfers(TransferGroup<'a>),
    /// Operations of a module.
    Module(ModuleGroup<'a>),
}

impl Group<'_> {
    /// How many operations the group holds.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Group::Transfers(group) => group.len(),
            Group::Module(group) => group.count,
        }
    }

    /// Whether the group is empty; a decoded group never is.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The operation at a position of the group.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<Operation> {
        self.operations().nth(at)
    }

    /// The operations in order.
    pub fn operations(&self) -> impl Iterator<Item = Operation> + use<'_> {
        let known: Vec<Operation> = match self {
            Group::Module(group) if staking::TAGS.contains(&group.tag) => {
                let read = staking::read_operations(group.tag, group.count, &mut Reader::new(group.columns));
                read.unwrap_or_default().into_iter().map(Operation::Staking).collect()
            }
            Group::Module(group) if identity::TAGS.contains(&group.tag) => {
                let read = identity::read_operations(group.tag, group.count, &mut Reader::new(group.columns));
                read.unwrap_or_default().into_iter().map(Operation::Identity).collect()
            }
            _ => Vec::new(),
        };
        let others = if known.is_empty() { 0..self.len() } else { 0..0 };
        let other = |at| match self {
            Group::Transfers(group) => group.get(at).map(|(to, amount)| Operation::Transfer { to, amount }),
            Group::Module(group) => Some(Operation::Module { tag: group.tag }),
        };
        known.into_iter().chain(others.filter_map(other))
    }
}

impl GroupLayout {
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// The group over the bytes it was read from.
    pub(super) fn view<'a>(&self, bytes: &'a [u8]) -> Group<'a> {
        let columns = &bytes[self.columns_at..self.end];
        let recipient_len = match self.tag {
            TAG_TRANSFER_TO_INDEX => 4,
            TAG_TRANSFER_TO_ADDRESS => DIGEST_LEN,
            tag => return Group::Module(ModuleGroup { tag, count: self.count, columns }),
        };
        // The width stands between the two columns.
        let (recipients, rest) = columns.split_at(self.count * recipient_len);
        Group::Transfers(TransferGroup {
            recipients: match self.tag {
                TAG_TRANSFER_TO_INDEX => RecipientColumn::Indices(recipients),
                _ => RecipientColumn::Addresses(recipients),
            },
            amount_width: self.width,
            amounts: &rest[1..],
        })
    }
}

/// The fewest bytes of 1, 2, 4, 8, 16 that hold every bit of `bits`.
pub(crate) const fn shortest_width(bits: Amount) -> usize {
    match 128 - bits.leading_zeros() {
        0..=8 => 1,
        9..=16 => 2,
        17..=32 => 4,
        33..=64 => 8,
        _ => 16,
    }
}

/// All bits that occur in the column's amounts; it decides the shortest width as the largest amount would.
fn bits_used(amounts: &[u8], width: usize) -> Amount {
    fn fold<const N: usize>(amounts: &[u8], read: fn([u8; N]) -> u64) -> Amount {
        let (chunks, _) = amounts.as_chunks::<N>();
        chunks.iter().fold(0, |bits, chunk| bits | read(*chunk)).into()
    }
    match width {
        1 => fold::<1>(amounts, |bytes| bytes[0].into()),
        2 => fold::<2>(amounts, |bytes| u16::from_le_bytes(bytes).into()),
        4 => fold::<4>(amounts, |bytes| u32::from_le_bytes(bytes).into()),
        8 => fold::<8>(amounts, u64::from_le_bytes),
        _ => amounts.as_chunks::<16>().0.iter().fold(0, |bits, chunk| bits | Amount::from_le_bytes(*chunk)),
    }
}

fn read_transfers(r: &mut Reader<'_>, count: usize, recipient_len: usize) -> Result<usize, CodecError> {
    r.raw(count * recipient_len)?;
    amount_column(r, count).map(|(width, _)| width)
}

/// A column of amounts behind its width.
pub(crate) fn read_amounts(r: &mut Reader<'_>, count: usize) -> Result<Vec<Amount>, CodecError> {
    let (width, column) = amount_column(r, count)?;
    Ok(column.chunks_exact(width).map(wide).collect())
}

fn amount_column<'a>(r: &mut Reader<'a>, count: usize) -> Result<(usize, &'a [u8]), CodecError> {
    let width = r.u8()?;
    if !matches!(width, 1 | 2 | 4 | 8 | 16) {
        return Err(CodecError::Invalid { what: "amount width", value: width.into() });
    }
    let width = usize::from(width);
    let amounts = r.raw(count * width)?;
    if shortest_width(bits_used(amounts, width)) != width {
        return Err(CodecError::Invalid { what: "amount width that is not the shortest", value: width as u64 });
    }
    Ok((width, amounts))
}

fn read_group(r: &mut Reader<'_>, room: usize, formats: &[GroupFormat]) -> Result<GroupLayout, CodecError> {
    let tag = r.u8()?;
    #[allow(clippy::cast_possible_truncation)]
    let count = r.varint_max("number of operations", room as u64)? as usize;
    if count == 0 {
        return Err(CodecError::Invalid { what: "empty operation group", value: tag.into() });
    }
    let columns_at = r.offset();
    let width = match tag {
        TAG_TRANSFER_TO_INDEX => read_transfers(r, count, 4)?,
        TAG_TRANSFER_TO_ADDRESS => read_transfers(r, count, DIGEST_LEN)?,
        tag => {
            let format = formats.iter().find(|format| format.tags.contains(&tag));
            let format = format.ok_or(CodecError::Invalid { what: "operation tag", value: tag.into() })?;
            (format.read)(tag, count, r)?;
            0
        }
    };
    Ok(GroupLayout { tag, count, columns_at, end: r.offset(), width })
}

/// Reads the group count and the groups; 1 to [`MAX_OPERATIONS`] operations in all.
pub(super) fn read_groups(r: &mut Reader<'_>, formats: &[GroupFormat]) -> Result<Vec<GroupLayout>, CodecError> {
    let count = r.varint_max("number of operation groups", MAX_GROUPS as u64)?;
    if count == 0 {
        return Err(CodecError::Invalid { what: "number of operation groups", value: 0 });
    }
    let mut room = MAX_OPERATIONS;
    (0..count)
        .map(|_| {
            let group = read_group(r, room, formats)?;
            room -= group.count;
            Ok(group)
        })
        .collect()
}
