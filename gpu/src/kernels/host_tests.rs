//! What puts the kernels together, over streams of the host that do everything as late as they may.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering::Relaxed;

use super::batch::{Batches, KeyUse, b, words};
use super::host::{GUARDED, Host, LAUNCHED, Stream, WIPED};
use super::machine::{Argument, Kernel, Machine as _, POISON};
use super::table::ENTRY;
use crate::keys::{Seed, Signer};
use crate::verify::VerifyItem;

fn batches(streams: usize, entries: usize, slice: usize) -> Batches<Stream> {
    let mut batches = Batches::new(Host::default().streams(streams), entries * ENTRY);
    batches.slice = slice;
    batches
}

/// Signatures of so many senders in turn, of which every third is bad.
struct Signed(Vec<(Signer, Vec<u8>, Vec<u8>)>);

impl Signed {
    fn by(senders: std::ops::Range<u8>) -> Self {
        let signed = senders.map(|sender| {
            let signer = Signer::from_seed(&Seed::new([sender; 32])).unwrap();
            let message = vec![sender; usize::from(sender) % 40];
            let mut signature = signer.sign(&message).unwrap();
            signature[2_000] ^= u8::from(sender % 3 == 2);
            (signer, message, signature)
        });
        Self(signed.collect())
    }

    fn items(&self, count: usize) -> (Vec<VerifyItem<'_>>, Vec<bool>) {
        let item = |at: usize| {
            let (signer, message, signature) = &self.0[at % self.0.len()];
            (VerifyItem::new(signer.public_key(), message, signature), message.first().unwrap_or(&0) % 3 != 2)
        };
        (0..count).map(item).unzip()
    }
}

fn launched(kernel: Kernel) -> usize {
    LAUNCHED.with_borrow(|launched| launched.get(kernel.name()).copied().unwrap_or(0))
}

#[test]
fn a_key_is_expanded_once_for_all_batches_and_read_by_every_stream() {
    let mut batches = batches(3, 8, 4);
    let signed = Signed::by(1..6);
    let (items, expected) = signed.items(23);
    let mut moved = vec![0];
    for _ in 0..3 {
        assert_eq!(batches.verify(&items, KeyUse::Table).unwrap(), expected);
        moved.push(batches.moved());
    }
    let keys = 5 * (2_592 + 4);
    assert_eq!([moved[1] - keys, moved[3] - moved[2]], [moved[2] - moved[1]; 2], "keys are copied once");
    assert_eq!((launched(Kernel::Expand), launched(Kernel::RowsCached)), (5, 3 * 23));
    let counts = batches.table_counts();
    assert_eq!((counts.hits, counts.misses, counts.entries), (3 * 23 - 5, 5, 5));
    assert_eq!(batches.verify(&items, KeyUse::Each).unwrap(), expected);
    assert_eq!((launched(Kernel::Rows), batches.table_counts()), (23, counts), "strangers leave the table alone");
}

#[test]
fn keys_that_take_each_others_places_never_lend_each_other_a_verdict() {
    let mut batches = batches(2, 3, 2);
    for first in [1, 4, 2, 1, 7, 3] {
        let signed = Signed::by(first..first + 5);
        let (items, expected) = signed.items(11);
        assert_eq!(batches.verify(&items, KeyUse::Table).unwrap(), expected, "senders from {first} on");
        assert!(batches.table_counts().entries <= 3);
    }
    assert!(batches.table_counts().evictions > 0 && launched(Kernel::Rows) > 0, "some found no place");
}

#[test]
fn slices_and_streams_change_no_verdict() {
    let signed = Signed::by(10..17);
    for (streams, slice) in [(1, 1), (1, 100), (2, 3), (4, 1), (5, 7)] {
        for count in [0, 1, 2, 12, 13] {
            let (items, expected) = signed.items(count);
            for keys in [KeyUse::Each, KeyUse::Table] {
                assert_eq!(
                    batches(streams, 4, slice).verify(&items, keys).unwrap(),
                    expected,
                    "{streams} {slice} {count}"
                );
            }
        }
    }
}

#[test]
fn while_kernels_are_timed_the_verdicts_are_the_same_and_there_is_a_time() {
    let mut batches = batches(3, 4, 2);
    let signed = Signed::by(20..25);
    let (items, expected) = signed.items(9);
    assert_eq!(batches.kernel_time().unwrap(), None);
    batches.time_kernels(true);
    assert_eq!(batches.verify(&items, KeyUse::Table).unwrap(), expected);
    assert!(batches.kernel_time().unwrap().is_some());
    batches.time_kernels(false);
    assert_eq!(batches.verify(&items, KeyUse::Table).unwrap(), expected);
    assert_eq!(batches.kernel_time().unwrap(), None);
}

#[test]
fn a_key_beyond_the_table_makes_a_signature_invalid() {
    let batches = batches(1, 1, 4);
    let m = &batches.streams()[0];
    let (keys, table) = (m.upload(&[&[7; 2_592]]).unwrap(), m.filled(ENTRY, POISON).unwrap());
    let slots = m.upload(&[&words([0])]).unwrap();
    batches.launch(m, Kernel::Expand, 1, &[b(&keys), b(&slots), b(&table)]).unwrap();
    let key_of = m.upload(&[&words([1, u32::MAX])]).unwrap();
    let (signatures, challenges) = (m.filled(2 * 4_627, 0).unwrap(), m.filled(2 * 256, 0).unwrap());
    let (w1, formed) = (m.filled(2 * 1_024, POISON).unwrap(), m.filled(2, POISON).unwrap());
    let arguments = [b(&table), b(&key_of), Argument::U32(1), b(&signatures), b(&challenges), b(&w1), b(&formed)];
    batches.launch(m, Kernel::RowsCached, 2, &arguments).unwrap();
    let mut flags = [POISON; 2];
    m.download(&formed, &mut flags).unwrap();
    assert_eq!(flags, [0, 0]);
}

#[test]
fn everything_that_held_a_secret_is_wiped() {
    let batches = batches(1, 1, 4);
    // Other tests wipe at the same time: at least so many.
    let (before, guarded) = (WIPED.load(Relaxed), GUARDED.load(Relaxed));
    let keys = batches.key_pairs(&[([1; 32], [2; 32])]).unwrap();
    let (after, ek) = (WIPED.load(Relaxed), keys.encapsulation.as_slice().try_into().unwrap());
    assert!(after >= before + 3, "two seeds and a key");
    assert!(GUARDED.load(Relaxed) >= guarded + 3, "nothing of them stays on the way");
    let all = batches.encapsulate(&[ek], &[[3; 32]]).unwrap();
    assert!(WIPED.load(Relaxed) >= after + 2, "randomness and a secret");
    let (ciphertext, secret) = all.into_iter().next().flatten().unwrap();
    let dk = keys.decapsulation.as_slice().try_into().unwrap();
    let opened = batches.decapsulate(&[dk], &[ciphertext.try_into().unwrap()]).unwrap();
    assert_eq!(opened, [Some(secret)]);
}
