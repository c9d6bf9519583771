//! The kernels put together: from items to verdicts, from seeds to keys. The same for every machine that runs them.

use std::cell::RefCell;
use std::time::Duration;

use aurigraph_ledger::Hash;
use zeroize::Zeroizing;

use super::judge::SLICE;
use super::machine::{Argument, DeviceError, Kernel, Machine, POISON, Secret};
use super::table::Places;
use crate::kem::{CIPHERTEXT_LEN, DECAPSULATION_KEY_LEN, ENCAPSULATION_KEY_LEN, Encapsulated};
use crate::mldsa::KeyCacheCounts;

/// Keys in one pass; more are done in several. Some 500 MB of a device's memory at the most.
const PASS: usize = 1 << 16;

/// A vote whose signature was checked.
#[derive(Debug, Clone, Copy)]
pub struct Vote {
    /// Who votes: a place in the list of stakes.
    pub voter: u32,
    /// For what.
    pub choice: u32,
    /// Whether the signature is valid.
    pub valid: bool,
}

/// How the keys of a batch reach the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyUse {
    /// Each signature's key is expanded with it.
    Each,
    /// By the table of expanded keys, which stays on the device between batches. A key that it has no place for is
    /// expanded with its signature.
    Table,
}

/// Many key pairs, side by side.
pub struct KeyPairs {
    /// Encapsulation keys.
    pub encapsulation: Vec<u8>,
    /// Decapsulation keys. Wiped when dropped.
    pub decapsulation: Zeroizing<Vec<u8>>,
}

/// From one mark to another.
type Span<T> = (T, T);

/// The kernels on a machine with several streams, and the table of expanded keys that stays there.
pub(crate) struct Batches<M: Machine> {
    /// Signatures go over all of them, everything else over the first. Never empty.
    streams: Vec<M>,
    /// The table's memory and what lies where; none before its first use.
    pub(super) table: Option<(M::Buffer, Places)>,
    /// Bytes that the table may take.
    pub(super) table_bytes: usize,
    /// Signatures of a slice.
    pub(super) slice: usize,
    /// While kernels are timed: where they began and ended.
    marks: Option<RefCell<Vec<Span<M::Mark>>>>,
}

pub(super) fn count_u32(count: usize) -> Result<u32, DeviceError> {
    u32::try_from(count).map_err(|_| DeviceError::TooLarge(count))
}

pub(super) fn words(numbers: impl IntoIterator<Item = u32>) -> Vec<u8> {
    numbers.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// A buffer as a parameter.
pub(super) const fn b<B>(buffer: &B) -> Argument<'_, B> {
    Argument::Buffer(buffer)
}

/// Kernels get no pointers to nothing.
fn some(bytes: &[u8]) -> &[u8] {
    if bytes.is_empty() { &[0] } else { bytes }
}

impl<M: Machine> Batches<M> {
    /// Over these streams, one at least, with so many bytes for expanded keys.
    pub(crate) fn new(streams: Vec<M>, table_bytes: usize) -> Self {
        Self { streams, table: None, table_bytes, slice: SLICE, marks: None }
    }

    /// Those that signatures go over: while kernels are timed one alone, so that no two run at the same time.
    pub(super) fn streams(&self) -> &[M] {
        if self.is_timed() { &self.streams[..1] } else { &self.streams }
    }

    pub(super) const fn is_timed(&self) -> bool {
        self.marks.is_some()
    }

    /// From now on the time of kernels alone is taken, or no longer.
    pub(crate) fn time_kernels(&mut self, on: bool) {
        self.marks = on.then(RefCell::default);
    }

    /// The time of all kernels since the last call, copies not included; none if it is not taken.
    pub(crate) fn kernel_time(&self) -> Result<Option<Duration>, DeviceError> {
        let Some(marks) = &self.marks else { return Ok(None) };
        let mut sum = Duration::ZERO;
        for (start, end) in marks.take() {
            sum += self.streams[0].between(&start, &end)?;
        }
        Ok(Some(sum))
    }

    /// Launches between two marks, if kernels are timed.
    pub(super) fn timed(&self, m: &M, launch: impl FnOnce() -> Result<(), DeviceError>) -> Result<(), DeviceError> {
        let Some(marks) = &self.marks else { return launch() };
        let start = m.mark()?;
        launch()?;
        marks.borrow_mut().push((start, m.mark()?));
        Ok(())
    }

    /// Waits for everything; whatever fails is lost.
    pub(super) fn settle(&self) {
        for stream in &self.streams {
            if let Err(error) = stream.settle() {
                tracing::debug!(%error, "a stream did not end");
            }
        }
    }

    /// Bytes copied to and from the machine so far.
    pub(crate) fn moved(&self) -> u64 {
        self.streams.iter().map(Machine::moved).sum()
    }

    /// What the table of expanded keys did.
    pub(crate) fn table_counts(&self) -> KeyCacheCounts {
        self.table.as_ref().map(|(_, places)| places.counts()).unwrap_or_default()
    }

    pub(super) fn launch(
        &self,
        m: &M,
        kernel: Kernel,
        items: usize,
        arguments: &[Argument<'_, M::Buffer>],
    ) -> Result<(), DeviceError> {
        let (lanes, lane_each) = (m.lanes(kernel), kernel.shape().1);
        let blocks = if lane_each { items.div_ceil(lanes as usize) } else { items };
        m.launch(kernel, count_u32(blocks)?, lanes, arguments)
    }

    /// Key pairs of pairs of seeds (FIPS 203, algorithm 16), in the order of the seeds.
    pub(crate) fn key_pairs(&self, seeds: &[([u8; 32], [u8; 32])]) -> Result<KeyPairs, DeviceError> {
        // Made as large as they become: no smaller vector that held secrets is left behind.
        let mut keys = KeyPairs {
            encapsulation: Vec::with_capacity(ENCAPSULATION_KEY_LEN * seeds.len()),
            decapsulation: Zeroizing::new(Vec::with_capacity(DECAPSULATION_KEY_LEN * seeds.len())),
        };
        for seeds in seeds.chunks(PASS) {
            let (count, m) = (seeds.len(), &self.streams[0]);
            let d = Zeroizing::new(seeds.iter().flat_map(|(d, _)| *d).collect::<Vec<u8>>());
            let z = Zeroizing::new(seeds.iter().flat_map(|(_, z)| *z).collect::<Vec<u8>>());
            let (d, z) = (Secret::upload(m, &d)?, Secret::upload(m, &z)?);
            let ek = m.filled(ENCAPSULATION_KEY_LEN * count, POISON)?;
            let dk = Secret::room(m, DECAPSULATION_KEY_LEN * count)?;
            let arguments = [d.argument(), z.argument(), b(&ek), dk.argument()];
            self.timed(m, || self.launch(m, Kernel::KeyPair, count, &arguments))?;
            let start = keys.decapsulation.len();
            keys.decapsulation.resize(start + DECAPSULATION_KEY_LEN * count, POISON);
            dk.download(&mut keys.decapsulation[start..])?;
            let start = keys.encapsulation.len();
            keys.encapsulation.resize(start + ENCAPSULATION_KEY_LEN * count, POISON);
            m.download(&ek, &mut keys.encapsulation[start..])?;
        }
        Ok(keys)
    }

    /// A ciphertext and its secret for each key; none where FIPS 203's check refuses the key.
    pub(crate) fn encapsulate(
        &self,
        keys: &[[u8; ENCAPSULATION_KEY_LEN]],
        randomness: &[[u8; 32]],
    ) -> Result<Vec<Option<Encapsulated>>, DeviceError> {
        let mut all = Vec::with_capacity(keys.len());
        for (keys, randomness) in keys.chunks(PASS).zip(randomness.chunks(PASS)) {
            let (count, m) = (keys.len().min(randomness.len()), &self.streams[0]);
            let ek = m.upload(&[keys[..count].as_flattened()])?;
            let random = Secret::upload(m, randomness[..count].as_flattened())?;
            let (ciphertexts, good) = (m.filled(CIPHERTEXT_LEN * count, POISON)?, m.filled(count, POISON)?);
            let secrets = Secret::room(m, 32 * count)?;
            let arguments = [b(&ek), random.argument(), b(&ciphertexts), secrets.argument(), b(&good)];
            self.timed(m, || self.launch(m, Kernel::Encapsulate, count, &arguments))?;
            let mut bytes = vec![POISON; CIPHERTEXT_LEN * count];
            m.download(&ciphertexts, &mut bytes)?;
            let (secrets, good) = self.secrets(&secrets, &good, count, Kernel::Encapsulate)?;
            let ciphertexts = bytes.chunks_exact(CIPHERTEXT_LEN);
            all.extend(
                ciphertexts
                    .zip(secrets)
                    .zip(good)
                    .map(|((bytes, secret), good)| good.then(|| (bytes.to_vec(), secret))),
            );
        }
        Ok(all)
    }

    /// The secret of each ciphertext; none where the decapsulation key is none.
    pub(crate) fn decapsulate(
        &self,
        keys: &[[u8; DECAPSULATION_KEY_LEN]],
        ciphertexts: &[[u8; CIPHERTEXT_LEN]],
    ) -> Result<Vec<Option<Zeroizing<[u8; 32]>>>, DeviceError> {
        let mut all = Vec::with_capacity(keys.len());
        for (keys, ciphertexts) in keys.chunks(PASS).zip(ciphertexts.chunks(PASS)) {
            let (count, m) = (keys.len().min(ciphertexts.len()), &self.streams[0]);
            let dk = Secret::upload(m, keys[..count].as_flattened())?;
            let ciphertexts = m.upload(&[ciphertexts[..count].as_flattened()])?;
            let (secrets, good) = (Secret::room(m, 32 * count)?, m.filled(count, POISON)?);
            let arguments = [dk.argument(), b(&ciphertexts), secrets.argument(), b(&good)];
            self.timed(m, || self.launch(m, Kernel::Decapsulate, count, &arguments))?;
            let (secrets, good) = self.secrets(&secrets, &good, count, Kernel::Decapsulate)?;
            all.extend(secrets.zip(good).map(|(secret, good)| good.then_some(secret)));
        }
        Ok(all)
    }

    /// Secrets and whether each counts.
    fn secrets(
        &self,
        secrets: &Secret<'_, M>,
        good: &M::Buffer,
        count: usize,
        kernel: Kernel,
    ) -> Result<(impl Iterator<Item = Zeroizing<[u8; 32]>> + use<M>, Vec<bool>), DeviceError> {
        let (mut bytes, mut flags) = (Zeroizing::new(vec![POISON; 32 * count]), vec![POISON; count]);
        secrets.download(&mut bytes)?;
        self.streams[0].download(good, &mut flags)?;
        if flags.iter().any(|flag| *flag > 1) {
            return Err(DeviceError::NoAnswer(kernel.name()));
        }
        let each = (0..count).map(move |at| {
            let mut secret = Zeroizing::new([0; 32]);
            secret.copy_from_slice(&bytes[32 * at..32 * at + 32]);
            secret
        });
        Ok((each, flags.into_iter().map(|flag| flag == 1).collect()))
    }

    /// H(prefix, message) with SHA3-256 of messages of one length.
    pub(crate) fn hash_level(
        &self,
        prefix: &[u8],
        messages: &[u8],
        message_len: usize,
        out: &mut [Hash],
    ) -> Result<(), DeviceError> {
        let (count, m) = (out.len(), &self.streams[0]);
        if count == 0 {
            return Ok(());
        }
        if messages.len() != count * message_len {
            return Err(DeviceError::TooLarge(count));
        }
        let (prefix_len, prefix) = (count_u32(prefix.len())?, m.upload(&[some(prefix)])?);
        let (messages, hashes) = (m.upload(&[some(messages)])?, m.filled(32 * count, POISON)?);
        let arguments = [
            b(&prefix),
            Argument::U32(prefix_len),
            b(&messages),
            Argument::U64(message_len as u64),
            b(&hashes),
            Argument::U64(count as u64),
        ];
        self.timed(m, || self.launch(m, Kernel::HashLevel, count, &arguments))?;
        let mut bytes = vec![POISON; 32 * count];
        m.download(&hashes, &mut bytes)?;
        for (out, hash) in out.iter_mut().zip(bytes.as_chunks().0) {
            out.0 = *hash;
        }
        Ok(())
    }

    /// The stake behind each of `choices` choices. A voter counts once for a choice, an unknown one never.
    pub(crate) fn tally(&self, votes: &[Vote], stakes: &[u64], choices: u32) -> Result<Vec<u64>, DeviceError> {
        let (voters, choice_count, m) = (count_u32(stakes.len())?, choices as usize, &self.streams[0]);
        if votes.is_empty() || choices == 0 {
            return Ok(vec![0; choice_count]);
        }
        let stakes: Vec<u8> = stakes.iter().flat_map(|stake| stake.to_le_bytes()).collect();
        let voter_of = m.upload(&[&words(votes.iter().map(|vote| vote.voter))])?;
        let choice_of = m.upload(&[&words(votes.iter().map(|vote| vote.choice))])?;
        let valid = m.upload(&[&votes.iter().map(|vote| u8::from(vote.valid)).collect::<Vec<u8>>()])?;
        let stakes = m.upload(&[some(&stakes)])?;
        let seen = m.filled((voters as usize * choice_count).div_ceil(32).max(1) * 4, 0)?;
        let totals = m.filled(8 * choice_count, 0)?;
        self.launch(
            m,
            Kernel::Tally,
            votes.len(),
            &[
                b(&voter_of),
                b(&choice_of),
                b(&valid),
                b(&stakes),
                Argument::U32(voters),
                Argument::U32(choices),
                b(&seen),
                b(&totals),
                Argument::U64(votes.len() as u64),
            ],
        )?;
        let mut bytes = vec![POISON; 8 * choice_count];
        m.download(&totals, &mut bytes)?;
        Ok(bytes.as_chunks().0.iter().map(|total| u64::from_le_bytes(*total)).collect())
    }
}

impl<M: Machine> Drop for Batches<M> {
    fn drop(&mut self) {
        // The table belongs to one stream, and the others read it.
        self.settle();
    }
}
