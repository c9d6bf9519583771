//! The kernels of `kernels/`, as a C++ compiler made them for the host: each with its buffers checked.
#![allow(unsafe_code)]

use crate::kem::{CIPHERTEXT_LEN, DECAPSULATION_KEY_LEN, ENCAPSULATION_KEY_LEN};
use crate::verify::{PUBLIC_KEY_LEN, SIGNATURE_LEN};

/// How a kernel is launched; the same struct stands in `host.cpp`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Launch {
    blocks: u32,
    lanes: u32,
    backwards: u32,
}

/// How many lanes take turns in a block, and in which order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Lanes of a block; where none, as many as the kernel is meant for.
    pub(super) lanes: Option<u32>,
    /// Whether the last lane goes first.
    pub(super) backwards: bool,
}

impl Shape {
    /// A block for each item.
    fn block_each(self, items: usize, lanes: u32) -> Launch {
        let lanes = self.lanes.unwrap_or(lanes);
        Launch { blocks: u32::try_from(items).expect("tests' batches"), lanes, backwards: self.backwards.into() }
    }

    /// A lane for each item.
    fn lane_each(self, items: usize) -> Launch {
        let lanes = self.lanes.unwrap_or(128);
        Launch { lanes, ..self.block_each(items.div_ceil(lanes as usize), lanes) }
    }
}

/// 32-bit words of an expanded key.
pub(super) const ENTRY: usize = 16 + 8 * 8 * 256;
/// Bytes of w1.
const COMMITTED: usize = 1_024;
/// What outputs hold before a launch: no kernel may rely on zeros or leave an output as it was.
pub(super) const POISON: u8 = 0xa5;

mod c {
    use super::Launch;

    unsafe extern "C" {
        pub(super) fn host_mldsa87_prepare(
            with: Launch,
            keys: *const u8,
            signatures: *const u8,
            messages: *const u8,
            offsets: *const u64,
            mu: *mut u8,
            challenges: *mut i8,
            count: u64,
        );
        pub(super) fn host_mldsa87_prepare_cached(
            with: Launch,
            table: *const u32,
            key_of: *const u32,
            entries: u32,
            signatures: *const u8,
            messages: *const u8,
            offsets: *const u64,
            mu: *mut u8,
            challenges: *mut i8,
            count: u64,
        );
        pub(super) fn host_mldsa87_rows(
            with: Launch,
            keys: *const u8,
            signatures: *const u8,
            challenges: *const i8,
            w1: *mut u8,
            well_formed: *mut u8,
        );
        pub(super) fn host_mldsa87_rows_cached(
            with: Launch,
            table: *const u32,
            key_of: *const u32,
            entries: u32,
            signatures: *const u8,
            challenges: *const i8,
            w1: *mut u8,
            well_formed: *mut u8,
        );
        pub(super) fn host_mldsa87_expand(with: Launch, keys: *const u8, table: *mut u32);
        pub(super) fn host_mldsa87_verdicts(
            with: Launch,
            signatures: *const u8,
            mu: *const u8,
            w1: *const u8,
            well_formed: *const u8,
            verdicts: *mut u8,
            count: u64,
        );
        pub(super) fn host_mlkem1024_keygen(with: Launch, d: *const u8, z: *const u8, ek: *mut u8, dk: *mut u8);
        pub(super) fn host_mlkem1024_encaps(
            with: Launch,
            ek: *const u8,
            m: *const u8,
            ciphertexts: *mut u8,
            secrets: *mut u8,
            good: *mut u8,
        );
        pub(super) fn host_mlkem1024_decaps(
            with: Launch,
            dk: *const u8,
            ciphertexts: *const u8,
            secrets: *mut u8,
            good: *mut u8,
        );
        pub(super) fn host_sha3_256_level(
            with: Launch,
            prefix: *const u8,
            prefix_len: u32,
            messages: *const u8,
            message_len: u64,
            out: *mut u8,
            count: u64,
        );
        pub(super) fn host_tally(
            with: Launch,
            voters: *const u32,
            choices: *const u32,
            verdicts: *const u8,
            stakes: *const u64,
            voter_count: u32,
            choice_count: u32,
            seen: *mut u32,
            totals: *mut u64,
            count: u64,
        );
    }
}

/// Signatures to check, side by side: message i, framed, ends at `offsets[i + 1]`.
pub(super) struct Signatures {
    pub(super) signatures: Vec<u8>,
    pub(super) messages: Vec<u8>,
    pub(super) offsets: Vec<u64>,
}

impl Signatures {
    fn check(&self) -> usize {
        let count = self.offsets.len() - 1;
        assert_eq!(self.signatures.len(), count * SIGNATURE_LEN);
        assert!(self.offsets.is_sorted());
        assert_eq!(self.offsets.last().copied(), Some(self.messages.len() as u64));
        count
    }
}

/// What the first two kernels leave to the others.
struct Middle {
    mu: Vec<u8>,
    challenges: Vec<i8>,
    w1: Vec<u8>,
    well_formed: Vec<u8>,
}

impl Middle {
    fn new(count: usize) -> Self {
        Self {
            mu: vec![POISON; 64 * count],
            challenges: vec![POISON.cast_signed(); 256 * count],
            w1: vec![POISON; COMMITTED * count],
            well_formed: vec![POISON; count],
        }
    }
}

/// A verdict for each signature, which has its own key.
pub(super) fn verify(shape: Shape, keys: &[u8], batch: &Signatures) -> Vec<u8> {
    let count = batch.check();
    assert_eq!(keys.len(), count * PUBLIC_KEY_LEN);
    let mut middle = Middle::new(count);
    // SAFETY: there are `count` keys, signatures and messages, as checked, and room for as many outputs; the kernels read
    // messages between their offsets alone, which ascend to the messages' end.
    unsafe {
        c::host_mldsa87_prepare(
            shape.lane_each(count),
            keys.as_ptr(),
            batch.signatures.as_ptr(),
            batch.messages.as_ptr(),
            batch.offsets.as_ptr(),
            middle.mu.as_mut_ptr(),
            middle.challenges.as_mut_ptr(),
            count as u64,
        );
        c::host_mldsa87_rows(
            shape.block_each(count, 64),
            keys.as_ptr(),
            batch.signatures.as_ptr(),
            middle.challenges.as_ptr(),
            middle.w1.as_mut_ptr(),
            middle.well_formed.as_mut_ptr(),
        );
    }
    verdicts(shape, batch, &middle)
}

/// The table of expanded keys.
pub(super) fn expand(shape: Shape, keys: &[u8]) -> Vec<u32> {
    let count = keys.len() / PUBLIC_KEY_LEN;
    let mut table = vec![u32::from_ne_bytes([POISON; 4]); count * ENTRY];
    // SAFETY: there are `count` whole keys, and room for as many entries; a u32 is aligned as the entry is.
    unsafe { c::host_mldsa87_expand(shape.block_each(count, 64), keys.as_ptr(), table.as_mut_ptr()) };
    table
}

/// A verdict for each signature, whose key is an entry of the table.
pub(super) fn verify_cached(shape: Shape, table: &[u32], key_of: &[u32], batch: &Signatures) -> Vec<u8> {
    let count = batch.check();
    assert_eq!(key_of.len(), count);
    let entries = u32::try_from(table.len() / ENTRY).expect("tests' tables");
    let mut middle = Middle::new(count);
    // SAFETY: as in `verify`; the table has `entries` whole entries, and the kernels read none behind them.
    unsafe {
        c::host_mldsa87_prepare_cached(
            shape.lane_each(count),
            table.as_ptr(),
            key_of.as_ptr(),
            entries,
            batch.signatures.as_ptr(),
            batch.messages.as_ptr(),
            batch.offsets.as_ptr(),
            middle.mu.as_mut_ptr(),
            middle.challenges.as_mut_ptr(),
            count as u64,
        );
        c::host_mldsa87_rows_cached(
            shape.block_each(count, 64),
            table.as_ptr(),
            key_of.as_ptr(),
            entries,
            batch.signatures.as_ptr(),
            middle.challenges.as_ptr(),
            middle.w1.as_mut_ptr(),
            middle.well_formed.as_mut_ptr(),
        );
    }
    verdicts(shape, batch, &middle)
}

fn verdicts(shape: Shape, batch: &Signatures, middle: &Middle) -> Vec<u8> {
    let count = middle.well_formed.len();
    let mut verdicts = vec![POISON; count];
    // SAFETY: `Middle` was made for as many signatures as there are, and there is room for as many verdicts.
    unsafe {
        c::host_mldsa87_verdicts(
            shape.lane_each(count),
            batch.signatures.as_ptr(),
            middle.mu.as_ptr(),
            middle.w1.as_ptr(),
            middle.well_formed.as_ptr(),
            verdicts.as_mut_ptr(),
            count as u64,
        );
    }
    verdicts
}

/// The keys of one pair of seeds.
pub(super) fn key_pair(shape: Shape, d: &[u8; 32], z: &[u8; 32], ek: &mut [u8], dk: &mut [u8]) {
    assert_eq!((ek.len(), dk.len()), (ENCAPSULATION_KEY_LEN, DECAPSULATION_KEY_LEN));
    // SAFETY: one block reads 32 bytes of each seed and writes one key of each kind, for which there is room.
    unsafe {
        c::host_mlkem1024_keygen(shape.block_each(1, 32), d.as_ptr(), z.as_ptr(), ek.as_mut_ptr(), dk.as_mut_ptr());
    }
}

/// Whether the key is one; the ciphertext and its secret.
pub(super) fn encapsulate(
    shape: Shape,
    ek: &[u8; ENCAPSULATION_KEY_LEN],
    m: &[u8; 32],
    ciphertext: &mut [u8; CIPHERTEXT_LEN],
    secret: &mut [u8; 32],
) -> u8 {
    let mut good = POISON;
    // SAFETY: one block reads one key and 32 bytes and writes one of each output.
    unsafe {
        c::host_mlkem1024_encaps(
            shape.block_each(1, 32),
            ek.as_ptr(),
            m.as_ptr(),
            ciphertext.as_mut_ptr(),
            secret.as_mut_ptr(),
            &raw mut good,
        );
    }
    good
}

/// Whether the key is one; the secret.
pub(super) fn decapsulate(
    shape: Shape,
    dk: &[u8; DECAPSULATION_KEY_LEN],
    ciphertext: &[u8; CIPHERTEXT_LEN],
    secret: &mut [u8; 32],
) -> u8 {
    let mut good = POISON;
    // SAFETY: one block reads one key and one ciphertext and writes one of each output.
    unsafe {
        c::host_mlkem1024_decaps(
            shape.block_each(1, 32),
            dk.as_ptr(),
            ciphertext.as_ptr(),
            secret.as_mut_ptr(),
            &raw mut good,
        );
    }
    good
}

/// H(prefix, message) of messages of one length into 32 bytes each.
pub(super) fn hash_level(shape: Shape, prefix: &[u8], messages: &[u8], message_len: usize, out: &mut [u8]) {
    let count = out.len() / 32;
    assert_eq!((messages.len(), out.len()), (count * message_len, 32 * count));
    // SAFETY: there are `count` messages of this length, and room for as many hashes; the prefix is as long as it is said
    // to be.
    unsafe {
        c::host_sha3_256_level(
            shape.lane_each(count),
            prefix.as_ptr(),
            u32::try_from(prefix.len()).expect("tags are short"),
            messages.as_ptr(),
            message_len as u64,
            out.as_mut_ptr(),
            count as u64,
        );
    }
}

/// The stake behind each choice.
pub(super) fn tally(
    shape: Shape,
    voters: &[u32],
    choices: &[u32],
    verdicts: &[u8],
    stakes: &[u64],
    choice_count: u32,
) -> Vec<u64> {
    let count = voters.len();
    assert_eq!((choices.len(), verdicts.len()), (count, count));
    let mut totals = vec![0; choice_count as usize];
    let mut seen = vec![0_u32; (stakes.len() * totals.len()).div_ceil(32)];
    // SAFETY: there are `count` votes; the kernel reads stakes and writes bits and totals of voters and choices below
    // these counts alone.
    unsafe {
        c::host_tally(
            shape.lane_each(count),
            voters.as_ptr(),
            choices.as_ptr(),
            verdicts.as_ptr(),
            stakes.as_ptr(),
            u32::try_from(stakes.len()).expect("a committee's size"),
            choice_count,
            seen.as_mut_ptr(),
            totals.as_mut_ptr(),
            count as u64,
        );
    }
    totals
}
