//! V003: registered keys stand once, outside the checkpoint slots. See the note beside this file.

use crate::medium::{Change, Medium};
use crate::step::{Advance, Presence, Step, StepError};

/// Rows of the key table.
pub const KEYS: &str = "keys";

const PAGES: &str = "pages";
const CHECKPOINTS: &str = "checkpoints";
const SLOTS: u8 = 2;
/// Rows of a chunk: some 41 KB each.
const CHUNK: usize = 16;
/// The table's number in the keys of `pages`.
const TABLE: u8 = 5;
const DIGEST: usize = 32;
const KEY: usize = 2_592;
const KEYS_PER_ROW: u64 = 16;
/// Two lengths, of all and of the one page, before the keys of a row.
const LENGTHS: usize = 8;
/// Sequence, height, commit index and state root.
const COMMON: usize = 3 * 8 + 32;

const COPY: u8 = 0;
const HEADERS: u8 = 1;
const REMOVE: u8 = 2;

/// The step.
pub struct KeyTable;

fn digest(key: &[u8], content: &[u8]) -> [u8; DIGEST] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes()).update(key).update(content);
    *hasher.finalize().as_bytes()
}

/// The content of a value whose digest is right.
fn content<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (stored, content) = value.split_first_chunk::<DIGEST>()?;
    (digest(key, content) == *stored).then_some(content)
}

fn sealed(key: &[u8], content: &[u8]) -> Change {
    Change::put(key, &[&digest(key, content), content].concat())
}

fn keys_in(row: &[u8]) -> u64 {
    (row.len().saturating_sub(LENGTHS) / KEY) as u64
}

/// A row without what stands behind its first `keys` keys.
fn cut(row: &[u8], keys: u64) -> Vec<u8> {
    let length = usize::try_from(keys).map_or(row.len(), |keys| row.len().min(LENGTHS + keys * KEY));
    let mut row = row[..length].to_vec();
    let (all, page) = (row.len() as u32, row.len().saturating_sub(LENGTHS) as u32);
    row[..4].copy_from_slice(&all.to_le_bytes());
    row[4..LENGTHS].copy_from_slice(&page.to_le_bytes());
    row
}

/// What stands before the keys of a slot's rows.
const fn prefix(slot: u8) -> [u8; 3] {
    [slot, 0, TABLE]
}

/// A slot's values: all, or those that are not rows of keys.
#[derive(Default)]
struct Found {
    values: u64,
    all: blake3::Hasher,
    others: u64,
    without: blake3::Hasher,
    rows: u64,
    keys: u64,
}

fn survey(medium: &dyn Medium, slot: u8) -> Result<Found, StepError> {
    let mut found = Found::default();
    let mut after = vec![slot];
    loop {
        let chunk = medium.scan(PAGES, Some(&after), CHUNK)?;
        for (key, value) in chunk.iter().take_while(|(key, _)| key.first() == Some(&slot)) {
            let Some(content) = content(key, value) else { return Ok(Found::default()) };
            let stored = &value[..DIGEST];
            found.values += 1;
            found.all.update(&(key.len() as u64).to_le_bytes()).update(key).update(stored);
            if key.starts_with(&prefix(slot)) {
                found.rows += 1;
                found.keys += keys_in(content);
            } else {
                found.others += 1;
                found.without.update(&(key.len() as u64).to_le_bytes()).update(key).update(stored);
            }
        }
        match chunk.last() {
            Some((last, _)) if last.first() == Some(&slot) => after.clone_from(last),
            _ => return Ok(found),
        }
    }
}

/// A slot's header in a form, without form and checksum; none if it is damaged, missing or in another form.
fn header(medium: &dyn Medium, slot: u8, form: u8) -> Result<Option<Vec<u8>>, StepError> {
    let Some(bytes) = medium.get(CHECKPOINTS, &[slot])? else { return Ok(None) };
    let length = 1 + COMMON + usize::from(form - 1) * 8 + 8 + DIGEST;
    let whole = bytes.len() == length + DIGEST
        && bytes[0] == form
        && blake3::hash(&bytes[..length]).as_bytes() == &bytes[length..];
    Ok(whole.then(|| bytes[1..length].to_vec()))
}

fn put_header(medium: &dyn Medium, slot: u8, body: &[u8]) -> Result<(), StepError> {
    let checksum = blake3::hash(body);
    Ok(medium.apply(CHECKPOINTS, &[Change::put(&[slot], &[body, checksum.as_bytes()].concat())])?)
}

/// What a whole slot of form 1 has, with its header.
fn first_form(medium: &dyn Medium, slot: u8) -> Result<Option<(Vec<u8>, Found)>, StepError> {
    let Some(header) = header(medium, slot, 1)? else { return Ok(None) };
    let found = survey(medium, slot)?;
    let says = [found.values.to_le_bytes().as_slice(), found.all.finalize().as_bytes()].concat();
    Ok((header[COMMON..] == says).then_some((header, found)))
}

/// How many keys a header of form 2 names.
fn keys_of(header: &[u8]) -> u64 {
    header[COMMON..].first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn copy_up(medium: &dyn Medium, slot: u8, after: &[u8]) -> Result<Option<Vec<u8>>, StepError> {
    let after = if after.is_empty() { prefix(slot).to_vec() } else { after.to_vec() };
    let rows = medium.scan(PAGES, Some(&after), CHUNK)?;
    let mut changes = Vec::new();
    let mut last = None;
    for (key, value) in rows.iter().take_while(|(key, _)| key.starts_with(&prefix(slot))) {
        last = Some(key.clone());
        let (Some(row), to) = (content(key, value), &key[3..]) else { continue };
        let there = medium.get(KEYS, to)?;
        let there = there.as_deref().and_then(|value| content(to, value));
        if there.is_none_or(|there| there.len() < row.len()) {
            changes.push(sealed(to, row));
        }
    }
    if !changes.is_empty() {
        medium.apply(KEYS, &changes)?;
    }
    Ok(last)
}

fn copy_down(medium: &dyn Medium, slot: u8, after: &[u8]) -> Result<Option<Vec<u8>>, StepError> {
    let Some(header) = header(medium, slot, 2)? else { return Ok(None) };
    let keys = keys_of(&header);
    let rows = medium.scan(KEYS, (!after.is_empty()).then_some(after), CHUNK)?;
    let mut changes = Vec::new();
    let mut last = None;
    for (key, value) in &rows {
        let number = key.first_chunk::<4>().map_or(u64::MAX, |bytes| u64::from(u32::from_be_bytes(*bytes)));
        let own = keys.saturating_sub(number.saturating_mul(KEYS_PER_ROW)).min(KEYS_PER_ROW);
        if own == 0 {
            last = None;
            break;
        }
        last = Some(key.clone());
        if let Some(row) = content(key, value).filter(|row| row.len() >= LENGTHS) {
            changes.push(sealed(&[&prefix(slot), key.as_slice()].concat(), &cut(row, own)));
        }
    }
    if !changes.is_empty() {
        medium.apply(PAGES, &changes)?;
    }
    Ok(last)
}

fn header_up(medium: &dyn Medium, slot: u8) -> Result<(), StepError> {
    let Some((header, found)) = first_form(medium, slot)? else { return Ok(()) };
    let (keys, others) = (found.keys.to_le_bytes(), found.others.to_le_bytes());
    let body = [&[2], &header[..COMMON], &keys, &others, found.without.finalize().as_bytes()].concat();
    put_header(medium, slot, &body)
}

fn header_down(medium: &dyn Medium, slot: u8) -> Result<(), StepError> {
    let Some(header) = header(medium, slot, 2)? else { return Ok(()) };
    let found = survey(medium, slot)?;
    let says = [found.others.to_le_bytes().as_slice(), found.without.finalize().as_bytes()].concat();
    // A slot that is not whole stays without a header that the earlier release reads.
    if header[COMMON + 8..] != says || found.keys != keys_of(&header) {
        return Ok(());
    }
    let values = found.values.to_le_bytes();
    put_header(medium, slot, &[&[1], &header[..COMMON], &values, found.all.finalize().as_bytes()].concat())
}

fn has_keys(medium: &dyn Medium) -> bool {
    medium.trees().iter().any(|tree| tree == KEYS)
}

/// Copies rows of a slot behind a key; the last key, or none if there are no more.
type Copy = fn(&dyn Medium, u8, &[u8]) -> Result<Option<Vec<u8>>, StepError>;
/// Brings the header of a slot into the other form.
type Convert = fn(&dyn Medium, u8) -> Result<(), StepError>;
/// Removes rows where they are not wanted any more; the slot to go on with, or none.
type Remove = fn(&dyn Medium, u8) -> Result<Option<u8>, StepError>;

/// Runs the two phases that are alike in both directions, for one slot at a time; then the rest.
fn run(
    medium: &dyn Medium,
    from: Option<&[u8]>,
    copy: Copy,
    convert: Convert,
    remove: Remove,
) -> Result<Advance, StepError> {
    let at = from.unwrap_or(&[COPY, 0]);
    let (phase, slot) = (at.first().copied().unwrap_or(COPY), at.get(1).copied().unwrap_or(0));
    let next = |phase: u8, slot: u8| if slot + 1 < SLOTS { vec![phase, slot + 1] } else { vec![phase + 1, 0] };
    Ok(match phase {
        COPY => match copy(medium, slot, at.get(2..).unwrap_or(&[]))? {
            Some(last) => Advance::More([&[COPY, slot], last.as_slice()].concat()),
            None => Advance::More(next(COPY, slot)),
        },
        HEADERS => {
            convert(medium, slot)?;
            Advance::More(next(HEADERS, slot))
        }
        _ => match remove(medium, slot)? {
            Some(slot) => Advance::More(vec![REMOVE, slot]),
            None => Advance::Done,
        },
    })
}

fn remove_from_slots(medium: &dyn Medium, slot: u8) -> Result<Option<u8>, StepError> {
    let rows = medium.scan(PAGES, Some(&prefix(slot)), CHUNK)?;
    let own = rows.iter().take_while(|(key, _)| key.starts_with(&prefix(slot)));
    let changes: Vec<Change> = own.map(|(key, _)| Change::remove(key)).collect();
    if changes.is_empty() {
        return Ok((slot + 1 < SLOTS).then_some(slot + 1));
    }
    medium.apply(PAGES, &changes)?;
    Ok(Some(slot))
}

fn remove_table(medium: &dyn Medium, _: u8) -> Result<Option<u8>, StepError> {
    let rows = medium.scan(KEYS, None, CHUNK)?;
    if rows.is_empty() {
        medium.drop_tree(KEYS)?;
        return Ok(None);
    }
    let changes: Vec<Change> = rows.iter().map(|(key, _)| Change::remove(key)).collect();
    medium.apply(KEYS, &changes)?;
    Ok(Some(0))
}

impl Step for KeyTable {
    fn version(&self) -> u32 {
        3
    }

    fn name(&self) -> &'static str {
        "key_table"
    }

    fn content(&self) -> &[&str] {
        &[include_str!("NOTE.md"), include_str!("step.rs")]
    }

    fn advance(&self, medium: &dyn Medium, from: Option<&[u8]>) -> Result<Advance, StepError> {
        medium.ensure_tree(KEYS)?;
        run(medium, from, copy_up, header_up, remove_from_slots)
    }

    fn presence(&self, medium: &dyn Medium) -> Result<Presence, StepError> {
        if !has_keys(medium) {
            return Ok(Presence::Absent);
        }
        for slot in 0..SLOTS {
            let rows = medium.scan(PAGES, Some(&prefix(slot)), 1)?;
            if rows.iter().any(|(key, _)| key.starts_with(&prefix(slot))) {
                return Ok(Presence::Partial(format!("slot {slot} still holds keys")));
            }
            if first_form(medium, slot)?.is_some() {
                return Ok(Presence::Partial(format!("the header of slot {slot} has its first form")));
            }
        }
        Ok(Presence::Complete)
    }

    fn reversible(&self) -> bool {
        true
    }

    fn retreat(&self, medium: &dyn Medium, from: Option<&[u8]>) -> Result<Advance, StepError> {
        if !has_keys(medium) {
            return Ok(Advance::Done);
        }
        run(medium, from, copy_down, header_down, remove_table)
    }
}
