//! The kernels put together: from items to verdicts, from seeds to keys. The same for every machine that runs them.

use std::collections::HashMap;

use aurigraph_ledger::Hash;
use zeroize::Zeroizing;

use super::machine::{Argument, DeviceError, Kernel, Machine, POISON, Secret};
use crate::kem::{CIPHERTEXT_LEN, DECAPSULATION_KEY_LEN, ENCAPSULATION_KEY_LEN, Encapsulated};
use crate::verify::VerifyItem;

/// Bytes of an expanded key in the table.
const ENTRY: usize = 64 + 8 * 8 * 256 * 4;
/// Bytes of w1 for one signature.
const COMMITTED: usize = 1_024;
/// Items in one pass; more are done in several. Some 500 MB of a device's memory at the most.
pub(crate) const PASS: usize = 1 << 16;

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
    /// Each different key of a batch is expanded once, into a table.
    Table,
    /// By a table if a key comes twice on average.
    Either,
}

/// Many key pairs, side by side.
pub struct KeyPairs {
    /// Encapsulation keys.
    pub encapsulation: Vec<u8>,
    /// Decapsulation keys. Wiped when dropped.
    pub decapsulation: Zeroizing<Vec<u8>>,
}

/// The kernels on one machine.
#[derive(Debug)]
pub(crate) struct Batches<M> {
    pub(crate) machine: M,
}

fn count_u32(count: usize) -> Result<u32, DeviceError> {
    u32::try_from(count).map_err(|_| DeviceError::TooLarge(count))
}

fn words(numbers: impl IntoIterator<Item = u32>) -> Vec<u8> {
    numbers.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// A buffer as a parameter.
const fn b<B>(buffer: &B) -> Argument<'_, B> {
    Argument::Buffer(buffer)
}

/// Kernels get no pointers to nothing.
fn some(bytes: &[u8]) -> &[u8] {
    if bytes.is_empty() { &[0] } else { bytes }
}

impl<M: Machine> Batches<M> {
    fn launch(&self, kernel: Kernel, items: usize, arguments: &[Argument<'_, M::Buffer>]) -> Result<(), DeviceError> {
        let (lanes, lane_each) = (self.machine.lanes(kernel), kernel.shape().1);
        let blocks = if lane_each { items.div_ceil(lanes as usize) } else { items };
        self.machine.launch(kernel, count_u32(blocks)?, lanes, arguments)
    }

    /// The verdicts. What is malformed in its lengths is invalid and not shown to the kernels.
    pub(crate) fn verify(&self, items: &[VerifyItem<'_>], keys: KeyUse) -> Result<Vec<bool>, DeviceError> {
        let mut verdicts = vec![false; items.len()];
        let places: Vec<usize> = (0..items.len()).filter(|at| items[*at].well_formed()).collect();
        for places in places.chunks(PASS) {
            let items: Vec<VerifyItem<'_>> = places.iter().map(|at| items[*at]).collect();
            for (place, verdict) in places.iter().zip(self.judge(&items, keys)?) {
                verdicts[*place] = match verdict {
                    0 => false,
                    1 => true,
                    _ => return Err(DeviceError::NoAnswer(Kernel::Verdicts.name())),
                };
            }
        }
        Ok(verdicts)
    }

    /// A byte for each well-formed item.
    fn judge(&self, items: &[VerifyItem<'_>], keys: KeyUse) -> Result<Vec<u8>, DeviceError> {
        let (mut signatures, mut messages, mut offsets) = (Vec::new(), Vec::new(), vec![0_u8; 8]);
        let (mut different, mut index, mut key_of) = (Vec::new(), HashMap::new(), Vec::new());
        for item in items {
            signatures.extend_from_slice(item.signature);
            // FIPS 204, algorithm 3, step 10: well-formed contexts have a length of one byte.
            messages.extend_from_slice(&[0, u8::try_from(item.context.len()).unwrap_or(u8::MAX)]);
            messages.extend_from_slice(item.context);
            messages.extend_from_slice(item.message);
            offsets.extend_from_slice(&(messages.len() as u64).to_le_bytes());
            let next = index.len();
            let at = *index.entry(item.public_key).or_insert_with(|| {
                different.extend_from_slice(item.public_key);
                next
            });
            key_of.push(count_u32(at)?);
        }
        let (count, m) = (items.len(), &self.machine);
        let (signatures, messages, offsets) = (m.upload(&signatures)?, m.upload(&messages)?, m.upload(&offsets)?);
        let (mu, challenges) = (m.filled(64 * count, POISON)?, m.filled(256 * count, POISON)?);
        let (w1, formed) = (m.filled(COMMITTED * count, POISON)?, m.filled(count, POISON)?);
        if keys == KeyUse::Table || keys == KeyUse::Either && 2 * index.len() <= count {
            let entries = index.len();
            let (keys, table) = (m.upload(&different)?, m.filled(entries * ENTRY, POISON)?);
            self.launch(Kernel::Expand, entries, &[b(&keys), b(&table)])?;
            let (key_of, n) = (m.upload(&words(key_of))?, Argument::U32(count_u32(entries)?));
            let arguments = [
                b(&table),
                b(&key_of),
                n,
                b(&signatures),
                b(&messages),
                b(&offsets),
                b(&mu),
                b(&challenges),
                Argument::U64(count as u64),
            ];
            self.launch(Kernel::PrepareCached, count, &arguments)?;
            let n = Argument::U32(count_u32(entries)?);
            let arguments = [b(&table), b(&key_of), n, b(&signatures), b(&challenges), b(&w1), b(&formed)];
            self.launch(Kernel::RowsCached, count, &arguments)?;
        } else {
            let keys: Vec<u8> = items.iter().flat_map(|item| item.public_key).copied().collect();
            let keys = m.upload(&keys)?;
            let end = Argument::U64(count as u64);
            let arguments = [b(&keys), b(&signatures), b(&messages), b(&offsets), b(&mu), b(&challenges), end];
            self.launch(Kernel::Prepare, count, &arguments)?;
            self.launch(Kernel::Rows, count, &[b(&keys), b(&signatures), b(&challenges), b(&w1), b(&formed)])?;
        }
        let verdicts = m.filled(count, POISON)?;
        let end = Argument::U64(count as u64);
        self.launch(Kernel::Verdicts, count, &[b(&signatures), b(&mu), b(&w1), b(&formed), b(&verdicts), end])?;
        let mut bytes = vec![POISON; count];
        m.download(&verdicts, &mut bytes)?;
        Ok(bytes)
    }

    /// Key pairs of pairs of seeds (FIPS 203, algorithm 16), in the order of the seeds.
    pub(crate) fn key_pairs(&self, seeds: &[([u8; 32], [u8; 32])]) -> Result<KeyPairs, DeviceError> {
        let mut keys = KeyPairs { encapsulation: Vec::new(), decapsulation: Zeroizing::new(Vec::new()) };
        for seeds in seeds.chunks(PASS) {
            let (count, m) = (seeds.len(), &self.machine);
            let d = Zeroizing::new(seeds.iter().flat_map(|(d, _)| *d).collect::<Vec<u8>>());
            let z = Zeroizing::new(seeds.iter().flat_map(|(_, z)| *z).collect::<Vec<u8>>());
            let (d, z) = (Secret::upload(m, &d)?, Secret::upload(m, &z)?);
            let ek = m.filled(ENCAPSULATION_KEY_LEN * count, POISON)?;
            let dk = Secret::room(m, DECAPSULATION_KEY_LEN * count)?;
            self.launch(Kernel::KeyPair, count, &[d.argument(), z.argument(), Argument::Buffer(&ek), dk.argument()])?;
            // Grown by copying: the smaller vectors that held secrets are wiped as well.
            let mut secrets = Zeroizing::new(vec![POISON; DECAPSULATION_KEY_LEN * count]);
            dk.download(&mut secrets)?;
            let mut all = Zeroizing::new(Vec::with_capacity(keys.decapsulation.len() + secrets.len()));
            all.extend_from_slice(&keys.decapsulation);
            all.extend_from_slice(&secrets);
            keys.decapsulation = all;
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
            let (count, m) = (keys.len().min(randomness.len()), &self.machine);
            let ek = m.upload(keys[..count].as_flattened())?;
            let random = Secret::upload(m, randomness[..count].as_flattened())?;
            let (ciphertexts, good) = (m.filled(CIPHERTEXT_LEN * count, POISON)?, m.filled(count, POISON)?);
            let secrets = Secret::room(m, 32 * count)?;
            let arguments = [b(&ek), random.argument(), b(&ciphertexts), secrets.argument(), b(&good)];
            self.launch(Kernel::Encapsulate, count, &arguments)?;
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
            let (count, m) = (keys.len().min(ciphertexts.len()), &self.machine);
            let dk = Secret::upload(m, keys[..count].as_flattened())?;
            let ciphertexts = m.upload(ciphertexts[..count].as_flattened())?;
            let (secrets, good) = (Secret::room(m, 32 * count)?, m.filled(count, POISON)?);
            self.launch(Kernel::Decapsulate, count, &[dk.argument(), b(&ciphertexts), secrets.argument(), b(&good)])?;
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
        self.machine.download(good, &mut flags)?;
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
        let (count, m) = (out.len(), &self.machine);
        if count == 0 {
            return Ok(());
        }
        if messages.len() != count * message_len {
            return Err(DeviceError::TooLarge(count));
        }
        let (prefix_len, prefix) = (count_u32(prefix.len())?, m.upload(some(prefix))?);
        let (messages, hashes) = (m.upload(some(messages))?, m.filled(32 * count, POISON)?);
        self.launch(
            Kernel::HashLevel,
            count,
            &[
                b(&prefix),
                Argument::U32(prefix_len),
                b(&messages),
                Argument::U64(message_len as u64),
                b(&hashes),
                Argument::U64(count as u64),
            ],
        )?;
        let mut bytes = vec![POISON; 32 * count];
        m.download(&hashes, &mut bytes)?;
        for (out, hash) in out.iter_mut().zip(bytes.as_chunks().0) {
            out.0 = *hash;
        }
        Ok(())
    }

    /// The stake behind each of `choices` choices. A voter counts once for a choice, an unknown one never.
    pub(crate) fn tally(&self, votes: &[Vote], stakes: &[u64], choices: u32) -> Result<Vec<u64>, DeviceError> {
        let (voters, choice_count, m) = (count_u32(stakes.len())?, choices as usize, &self.machine);
        if votes.is_empty() || choices == 0 {
            return Ok(vec![0; choice_count]);
        }
        let stakes: Vec<u8> = stakes.iter().flat_map(|stake| stake.to_le_bytes()).collect();
        let voter_of = m.upload(&words(votes.iter().map(|vote| vote.voter)))?;
        let choice_of = m.upload(&words(votes.iter().map(|vote| vote.choice)))?;
        let valid = m.upload(&votes.iter().map(|vote| u8::from(vote.valid)).collect::<Vec<u8>>())?;
        let stakes = m.upload(some(&stakes))?;
        let seen = m.filled((voters as usize * choice_count).div_ceil(32).max(1) * 4, 0)?;
        let totals = m.filled(8 * choice_count, 0)?;
        self.launch(
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

#[cfg(all(test, feature = "host-kernels"))]
mod tests {
    use super::*;
    use crate::kernels::host::Host;

    #[test]
    fn a_key_beyond_the_table_makes_a_signature_invalid() {
        let batches = Batches { machine: Host::default() };
        let m = &batches.machine;
        let (keys, table) = (m.upload(&[7; 2_592]).unwrap(), m.filled(ENTRY, POISON).unwrap());
        batches.launch(Kernel::Expand, 1, &[Argument::Buffer(&keys), Argument::Buffer(&table)]).unwrap();
        let key_of = m.upload(&words([1, u32::MAX])).unwrap();
        let (signatures, challenges) = (m.filled(2 * 4_627, 0).unwrap(), m.filled(2 * 256, 0).unwrap());
        let (w1, formed) = (m.filled(2 * COMMITTED, POISON).unwrap(), m.filled(2, POISON).unwrap());
        let arguments = [b(&table), b(&key_of), Argument::U32(1), b(&signatures), b(&challenges), b(&w1), b(&formed)];
        batches.launch(Kernel::RowsCached, 2, &arguments).unwrap();
        let mut flags = [POISON; 2];
        m.download(&formed, &mut flags).unwrap();
        assert_eq!(flags, [0, 0]);
    }

    #[test]
    fn everything_that_held_a_secret_is_wiped() {
        use crate::kernels::host::WIPED;
        use std::sync::atomic::Ordering::Relaxed;
        let batches = Batches { machine: Host::default() };
        // Other tests wipe at the same time: at least so many.
        let before = WIPED.load(Relaxed);
        let keys = batches.key_pairs(&[([1; 32], [2; 32])]).unwrap();
        let (after, ek) = (WIPED.load(Relaxed), keys.encapsulation.as_slice().try_into().unwrap());
        assert!(after >= before + 3, "two seeds and a key");
        let all = batches.encapsulate(&[ek], &[[3; 32]]).unwrap();
        assert!(WIPED.load(Relaxed) >= after + 2, "randomness and a secret");
        let (ciphertext, secret) = all.into_iter().next().flatten().unwrap();
        let dk = keys.decapsulation.as_slice().try_into().unwrap();
        let opened = batches.decapsulate(&[dk], &[ciphertext.try_into().unwrap()]).unwrap();
        assert_eq!(opened, [Some(secret)]);
    }
}
