//! The tables as pages: their canonical encoding, the root over it, and reading them back.
//!
//! Pages: the head; faults and sets; the validators, 64 a page; the keys, 8 a page; 64 pages of delegations and unbonding
//! amounts. A page that did not change keeps its pointer and its digest. The root is H("staking", digests of all pages).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::chunked::Chunked;
use super::table::{
    BUCKETS, Bucket, Faults, Maintenance, Penalty, Seat, StakingTable, Standing, Unbonding, Validator, ValidatorKeys,
    key_digest,
};
use crate::codec::{CodecError, Reader, Writer};
use crate::fault::FaultKind;
use crate::genesis::{MAX_NETWORK_KEY, MAX_VALIDATORS, StakingParameters};
use crate::hash::{Hash, blake3_digest};
use crate::tree_hasher::TreeHasher;
use crate::types::{Address, PUBLIC_KEY_LEN, PublicKey};
use crate::validator_set::read_name;

const VERSION: u8 = 3;
/// Most validators that can ever be, those that have left among them.
pub(super) const MAX_ROWS: usize = 1 << 16;
/// Most pairs of keys that can ever be.
pub(super) const MAX_KEYS: usize = 1 << 20;
/// Most entries of a map of a page; a bound for decoding only.
const MAX_ENTRIES: u64 = 1 << 28;
/// Most sets that are kept; a bound for decoding only: those of the longest unbonding period.
const MAX_SETS: u64 = 1 << 16;

/// A part of the tables that is one page.
trait Part {
    fn write(&self, w: &mut Writer);
}

impl Part for Vec<Validator> {
    fn write(&self, w: &mut Writer) {
        w.varint(self.len() as u64);
        self.iter().for_each(|row| write_row(row, w));
    }
}

impl Part for Vec<ValidatorKeys> {
    fn write(&self, w: &mut Writer) {
        w.varint(self.len() as u64);
        for pair in self {
            w.bytes(pair.consensus.as_bytes()).bytes(pair.network.as_bytes());
        }
    }
}

impl Part for Bucket {
    fn write(&self, w: &mut Writer) {
        w.varint(self.delegations.len() as u64);
        for ((account, id), shares) in &self.delegations {
            w.u32(*account).u32(*id).u128(*shares);
        }
        w.varint(self.unbonding.len() as u64);
        for ((account, number), entry) in &self.unbonding {
            w.u32(*account).u64(*number).u32(entry.validator).u128(entry.amount).u64(entry.since).u64(entry.release);
        }
    }
}

fn write_row(row: &Validator, w: &mut Writer) {
    w.bytes(row.name.as_bytes()).hash(&row.operator.0).u32(row.keys);
    write_option(row.next_keys, w, |w, keys| {
        w.u32(keys);
    });
    w.u128(row.self_stake).u128(row.delegated).u128(row.shares).u32(row.delegators);
    w.u128(row.rewards).u128(row.earned).u128(row.slashed).u32(row.slashes);
    w.u8(row.standing as u8).u64(row.jailed_until).u8(row.leaving.into());
    w.u16(row.commission).u16(row.next_commission);
    write_option(row.maintenance, w, |w, it| {
        w.u64(it.epoch).u64(it.from_ms).u64(it.until_ms);
    });
    w.u64(row.joined_ms).u64(row.joined_epoch);
}

fn write_option<T>(value: Option<T>, w: &mut Writer, write: impl FnOnce(&mut Writer, T)) {
    match value {
        None => {
            w.u8(0);
        }
        Some(value) => {
            w.u8(1);
            write(w, value);
        }
    }
}

fn read_flag(r: &mut Reader<'_>, what: &'static str) -> Result<bool, CodecError> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(CodecError::Invalid { what, value: other.into() }),
    }
}

fn read_row(r: &mut Reader<'_>) -> Result<Validator, CodecError> {
    let (name, operator, keys) = (read_name(r)?, Address(r.hash()?), r.u32()?);
    let next_keys = if read_flag(r, "tag of next keys")? { Some(r.u32()?) } else { None };
    let (self_stake, delegated, shares, delegators) = (r.u128()?, r.u128()?, r.u128()?, r.u32()?);
    let (rewards, earned, slashed, slashes) = (r.u128()?, r.u128()?, r.u128()?, r.u32()?);
    let (standing, jailed_until) = (Standing::decode(r.u8()?)?, r.u64()?);
    let leaving = read_flag(r, "whether a validator leaves")?;
    let (commission, next_commission) = (r.u16()?, r.u16()?);
    let maintenance = if read_flag(r, "tag of a maintenance")? {
        Some(Maintenance { epoch: r.u64()?, from_ms: r.u64()?, until_ms: r.u64()? })
    } else {
        None
    };
    let (joined_ms, joined_epoch) = (r.u64()?, r.u64()?);
    Ok(Validator {
        name,
        operator,
        keys,
        next_keys,
        self_stake,
        delegated,
        shares,
        delegators,
        rewards,
        earned,
        slashed,
        slashes,
        standing,
        jailed_until,
        leaving,
        commission,
        next_commission,
        maintenance,
        joined_ms,
        joined_epoch,
    })
}

fn read_keys(r: &mut Reader<'_>) -> Result<ValidatorKeys, CodecError> {
    Ok(ValidatorKeys {
        consensus: PublicKey::new(r.bytes("length of a consensus key", PUBLIC_KEY_LEN)?.to_vec()),
        network: PublicKey::new(r.bytes("length of a network key", MAX_NETWORK_KEY)?.to_vec()),
    })
}

/// A map whose keys ascend, in the form of [`Part::write`].
fn read_map<K: Ord, V>(
    r: &mut Reader<'_>,
    what: &'static str,
    max: u64,
    mut read: impl FnMut(&mut Reader<'_>) -> Result<(K, V), CodecError>,
) -> Result<BTreeMap<K, V>, CodecError> {
    let mut map = BTreeMap::new();
    for at in 0..r.varint_max(what, max)? {
        let (key, value) = read(r)?;
        if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(CodecError::Invalid { what, value: at });
        }
        map.insert(key, value);
    }
    Ok(map)
}

fn read_bucket(r: &mut Reader<'_>, number: usize) -> Result<Bucket, CodecError> {
    let belongs = |account: u32, what| {
        let wrong = CodecError::Invalid { what, value: account.into() };
        if StakingTable::bucket_of(account) == number { Ok(account) } else { Err(wrong) }
    };
    let delegations = read_map(r, "delegations", MAX_ENTRIES, |r| {
        let key = (belongs(r.u32()?, "account of a delegation")?, r.u32()?);
        match r.u128()? {
            0 => Err(CodecError::Invalid { what: "shares of a delegation, of account", value: key.0.into() }),
            shares => Ok((key, shares)),
        }
    })?;
    let unbonding = read_map(r, "unbonding amounts", MAX_ENTRIES, |r| {
        let key = (belongs(r.u32()?, "account of an unbonding amount")?, r.u64()?);
        let entry = Unbonding { validator: r.u32()?, amount: r.u128()?, since: r.u64()?, release: r.u64()? };
        Ok((key, entry))
    })?;
    Ok(Bucket { delegations, unbonding })
}

fn write_sets(sets: &BTreeMap<u64, Vec<Seat>>, w: &mut Writer) {
    w.varint(sets.len() as u64);
    for (epoch, seats) in sets {
        w.u64(*epoch).varint(seats.len() as u64);
        for seat in seats {
            w.u32(seat.id).u32(seat.keys).u64(seat.stake);
        }
    }
}

fn read_sets(r: &mut Reader<'_>) -> Result<BTreeMap<u64, Vec<Seat>>, CodecError> {
    read_map(r, "sets of epochs", MAX_SETS, |r| {
        let epoch = r.u64()?;
        let count = r.varint_max("number of validators", MAX_VALIDATORS as u64)?;
        let seats = (0..count).map(|_| Ok(Seat { id: r.u32()?, keys: r.u32()?, stake: r.u64()? }));
        Ok((epoch, seats.collect::<Result<_, CodecError>>()?))
    })
}

fn write_faults(faults: &Faults, w: &mut Writer) {
    w.varint(faults.len() as u64);
    for ((epoch, id, kind), penalty) in faults {
        w.u64(*epoch).u32(*id).u8(*kind as u8).u64(penalty.height).u128(penalty.taken);
    }
}

fn read_faults(r: &mut Reader<'_>) -> Result<Faults, CodecError> {
    read_map(r, "faults", MAX_ENTRIES, |r| {
        let key = (r.u64()?, r.u32()?, FaultKind::decode(r.u8()?)?);
        Ok((key, Penalty { height: r.u64()?, taken: r.u128()? }))
    })
}

fn write_head(table: &StakingTable) -> Vec<u8> {
    let mut w = Writer::with_capacity(128);
    w.u8(VERSION).u64(table.epoch).u128(table.minted).u128(table.burnt).u128(table.carried).u64(table.next_unbonding);
    w.varint(table.validators.len() as u64).varint(table.keys.len() as u64);
    w.into_bytes()
}

/// A page with its digest, and the part that it is of.
#[derive(Debug)]
struct Cached<T> {
    of: Arc<T>,
    page: Arc<[u8]>,
    digest: Hash,
}

impl<T: Part> Cached<T> {
    fn new(of: &Arc<T>) -> Self {
        let mut w = Writer::new();
        of.write(&mut w);
        let page: Arc<[u8]> = w.into_bytes().into();
        Self { of: Arc::clone(of), digest: blake3_digest(&page), page }
    }

    fn follow(pages: &mut Vec<Self>, parts: &[Arc<T>]) {
        pages.truncate(parts.len());
        for (at, part) in parts.iter().enumerate() {
            match pages.get_mut(at) {
                Some(page) if Arc::ptr_eq(&page.of, part) => {}
                Some(page) => *page = Self::new(part),
                None => pages.push(Self::new(part)),
            }
        }
    }
}

/// The pages as of the last time that they were asked for.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// The head, and the page of faults and sets; small, and changed by nearly everything.
    heads: Vec<(Arc<[u8]>, Hash)>,
    validators: Vec<Cached<Vec<Validator>>>,
    keys: Vec<Cached<Vec<ValidatorKeys>>>,
    buckets: Vec<Cached<Bucket>>,
}

impl Pages {
    /// Encodes what changed.
    pub(super) fn follow(&mut self, table: &StakingTable) {
        let mut second = Writer::new();
        write_faults(&table.faults, &mut second);
        write_sets(&table.sets, &mut second);
        let heads = [write_head(table), second.into_bytes()];
        self.heads.resize_with(heads.len(), || (Arc::from([]), Hash::ZERO));
        for (kept, bytes) in self.heads.iter_mut().zip(heads) {
            if *kept.0 != *bytes || kept.1 == Hash::ZERO {
                *kept = (bytes.into(), Hash::ZERO);
                kept.1 = blake3_digest(&kept.0);
            }
        }
        Cached::follow(&mut self.validators, table.validators.chunks());
        Cached::follow(&mut self.keys, table.keys.chunks());
        Cached::follow(&mut self.buckets, &table.buckets);
    }

    fn all(&self) -> impl Iterator<Item = (&Arc<[u8]>, &Hash)> {
        let heads = self.heads.iter().map(|(page, digest)| (page, digest));
        let validators = self.validators.iter().map(|it| (&it.page, &it.digest));
        let keys = self.keys.iter().map(|it| (&it.page, &it.digest));
        heads.chain(validators).chain(keys).chain(self.buckets.iter().map(|it| (&it.page, &it.digest)))
    }

    pub(super) fn root(&self, hasher: &dyn TreeHasher) -> Hash {
        let digests: Vec<u8> = self.all().flat_map(|(_, digest)| digest.0).collect();
        hasher.hash_one("staking", &digests)
    }

    pub(super) fn shared(&self) -> Vec<Arc<[u8]>> {
        self.all().map(|(page, _)| Arc::clone(page)).collect()
    }
}

fn missing(what: &'static str, value: usize) -> CodecError {
    CodecError::Invalid { what, value: value as u64 }
}

/// Reads one page to its end.
fn whole<T>(
    page: Option<&Vec<u8>>,
    at: usize,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, CodecError>,
) -> Result<T, CodecError> {
    let mut r = Reader::new(page.ok_or(missing("missing staking page", at))?);
    let value = read(&mut r)?;
    r.finish()?;
    Ok(value)
}

/// Reads the tables back from their pages; no other pages are read.
///
/// # Errors
/// [`CodecError`] saying where and why.
pub(super) fn decode(parameters: StakingParameters, pages: &[Vec<u8>]) -> Result<StakingTable, CodecError> {
    let mut table = StakingTable { parameters, ..StakingTable::default() };
    let (rows, keys) = whole(pages.first(), 0, |r| {
        let version = r.u8()?;
        if version != VERSION {
            return Err(CodecError::Invalid { what: "version of the staking table", value: version.into() });
        }
        (table.epoch, table.minted, table.burnt) = (r.u64()?, r.u128()?, r.u128()?);
        (table.carried, table.next_unbonding) = (r.u128()?, r.u64()?);
        let rows = r.varint_max("number of validators", MAX_ROWS as u64)?;
        Ok((rows, r.varint_max("number of keys", MAX_KEYS as u64)?))
    })?;
    #[allow(clippy::cast_possible_truncation)]
    let (rows, keys) = (rows as usize, keys as usize);
    let (faults, sets) = whole(pages.get(1), 1, |r| Ok((read_faults(r)?, read_sets(r)?)))?;
    (table.faults, table.sets) = (Arc::new(faults), Arc::new(sets));
    let mut at = 2;
    table.validators = read_chunks(pages, &mut at, rows, "validators of a page", read_row)?;
    table.keys = read_chunks(pages, &mut at, keys, "keys of a page", read_keys)?;
    let used: BTreeSet<Hash> =
        table.keys.iter().flat_map(|pair| [key_digest(&pair.consensus), key_digest(&pair.network)]).collect();
    table.used_keys = Arc::new(used);
    let buckets =
        (0..BUCKETS).map(|number| whole(pages.get(at + number), at + number, |r| read_bucket(r, number)).map(Arc::new));
    table.buckets = Arc::new(buckets.collect::<Result<_, _>>()?);
    if pages.len() != at + BUCKETS {
        return Err(missing("number of staking pages", pages.len()));
    }
    check_references(&table)?;
    Ok(table)
}

fn read_chunks<T: Clone, const N: usize>(
    pages: &[Vec<u8>],
    at: &mut usize,
    count: usize,
    what: &'static str,
    read: fn(&mut Reader<'_>) -> Result<T, CodecError>,
) -> Result<Chunked<T, N>, CodecError> {
    let mut list = Chunked::default();
    while list.len() < count {
        let expected = N.min(count - list.len());
        whole(pages.get(*at), *at, |r| {
            if r.varint()? != expected as u64 {
                return Err(missing(what, expected));
            }
            (0..expected).try_for_each(|_| {
                list.push(read(r)?);
                Ok(())
            })
        })?;
        *at += 1;
    }
    Ok(list)
}

/// Every position that stands in a row or a seat is one of the tables.
fn check_references(table: &StakingTable) -> Result<(), CodecError> {
    let keys = |at: u32| {
        let wrong = CodecError::Invalid { what: "position of keys", value: at.into() };
        table.keys.get(at as usize).map(|_| ()).ok_or(wrong)
    };
    for row in table.validators.iter() {
        keys(row.keys)?;
        row.next_keys.map_or(Ok(()), keys)?;
    }
    for seat in table.sets.values().flatten() {
        keys(seat.keys)?;
        table.validator(seat.id).ok_or(CodecError::Invalid { what: "row of a set", value: seat.id.into() })?;
    }
    Ok(())
}
