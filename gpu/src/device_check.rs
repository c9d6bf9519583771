//! Everything that a device does, held to the processor: for `aurigraph gpu selftest` and for tests. And the processor as
//! a device, for tests of what uses devices.

use aurigraph_ledger::{Hash, TreeHasher as _};
use zeroize::Zeroizing;

use crate::device::{Device, DeviceInfo, test_device};
use crate::kem::{CIPHERTEXT_LEN, DECAPSULATION_KEY_LEN, ENCAPSULATION_KEY_LEN, Encapsulated, Kem as _, SharedSecret};
use crate::kernels::{DeviceError, KeyPairs, KeyUse, Vote};
use crate::keys::{Seed, Signer};
use crate::verify::{BatchVerifier as _, VerifyItem};
use crate::{AwsLc, CpuHasher};

/// What was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceReport {
    /// Signatures, in both ways of their keys.
    pub signatures: usize,
    /// Of those, how many are valid.
    pub valid: usize,
    /// Key pairs, each of which was encapsulated to and decapsulated with.
    pub key_pairs: usize,
    /// Hashes of a tree's level.
    pub hashes: usize,
}

fn wrong(what: impl std::fmt::Display) -> DeviceError {
    DeviceError::SelfTest(what.to_string())
}

/// SplitMix64, from a seed that is told.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }

    fn bytes<const LEN: usize>(&mut self) -> [u8; LEN] {
        std::array::from_fn(|_| self.next().to_le_bytes()[0])
    }
}

/// Compares everything with the processor: the start's self-test, random good and broken signatures, key encapsulation
/// with good and broken ciphertexts, a tree's level, a tally.
///
/// # Errors
/// [`DeviceError::SelfTest`] at the first difference.
pub fn check_device(device: &mut dyn Device, signatures: usize, seed: u64) -> Result<DeviceReport, DeviceError> {
    test_device(device)?;
    let mut random = Random(seed);
    let valid = check_signatures(device, signatures, &mut random)?;
    let pairs = (signatures / 16).clamp(4, 1_024);
    check_kem(device, pairs, &mut random)?;
    let hashes = 3_001;
    let messages: Vec<u8> = (0..64 * hashes).map(|_| random.next().to_le_bytes()[0]).collect();
    let (mut ours, mut expected) = (vec![Hash::ZERO; hashes], vec![Hash::ZERO; hashes]);
    device.hash_level(b"\x04node", &messages, 64, &mut ours)?;
    CpuHasher.hash_level("node", &messages, 64, &mut expected);
    if ours != expected {
        return Err(wrong("hashes of a level differ"));
    }
    let stakes: Vec<u64> = (0..100).map(|_| random.next() >> 20).collect();
    let votes: Vec<Vote> = (0..1_000)
        .map(|_| Vote { voter: random.below(103) as u32, choice: random.below(5) as u32, valid: random.below(4) > 0 })
        .collect();
    if device.tally(&votes, &stakes, 3)? != tally(&votes, &stakes, 3) {
        return Err(wrong("a tally differs"));
    }
    Ok(DeviceReport { signatures, valid, key_pairs: pairs, hashes })
}

fn check_signatures(device: &mut dyn Device, count: usize, random: &mut Random) -> Result<usize, DeviceError> {
    let signers: Vec<Signer> =
        (0..8).map(|_| Signer::from_seed(&Seed::new(random.bytes()))).collect::<Result<_, _>>().map_err(wrong)?;
    let mut cases = Vec::with_capacity(count);
    for at in 0..count {
        let message: [u8; 40] = random.bytes();
        let signer = &signers[at % signers.len()];
        let mut signature = signer.sign(&message[..random.below(41)]).map_err(wrong)?;
        let good = message[..random.below(41)].to_vec();
        // Most of them signed what is shown; the others signed something else, or are broken by a bit.
        let message = if random.below(8) == 0 { good } else { message.to_vec() };
        if random.below(8) > 0 {
            signature = signer.sign(&message).map_err(wrong)?;
        }
        if random.below(2) == 0 {
            let place = random.below(signature.len());
            signature[place] ^= 1 << random.below(8);
        }
        cases.push((signer.public_key(), message, signature));
    }
    let items: Vec<VerifyItem<'_>> =
        cases.iter().map(|(key, message, signature)| VerifyItem::new(key, message, signature)).collect();
    let expected: Vec<bool> = items.iter().map(|item| AwsLc.verify(item)).collect();
    // The table twice: made, and found there.
    for keys in [KeyUse::Each, KeyUse::Table, KeyUse::Table] {
        let verdicts = device.verify(&items, keys)?;
        if let Some(at) = (0..count).find(|at| verdicts.get(*at) != expected.get(*at)) {
            return Err(wrong(format_args!("signature {at} is {}, by {keys:?} {:?}", expected[at], verdicts.get(at))));
        }
    }
    Ok(expected.iter().filter(|valid| **valid).count())
}

fn check_kem(device: &mut dyn Device, count: usize, random: &mut Random) -> Result<(), DeviceError> {
    let seeds: Vec<([u8; 32], [u8; 32])> = (0..count).map(|_| (random.bytes(), random.bytes())).collect();
    let keys = device.key_pairs(&seeds)?;
    let public: Vec<[u8; ENCAPSULATION_KEY_LEN]> = keys.encapsulation.as_chunks().0.to_vec();
    let secret: Vec<[u8; DECAPSULATION_KEY_LEN]> = keys.decapsulation.as_chunks().0.to_vec();
    let randomness: Vec<[u8; 32]> = (0..count).map(|_| random.bytes()).collect();
    let encapsulated = device.encapsulate(&public, &randomness)?;
    let mut ciphertexts = Vec::with_capacity(count);
    for at in 0..count {
        let (d, z) = &seeds[at];
        let expected = AwsLc.key_pair(d, z).map_err(wrong)?;
        if public.get(at).map(|key| &key[..]) != Some(&expected.encapsulation[..])
            || secret.get(at).map(|key| &key[..]) != Some(&expected.decapsulation[..])
        {
            return Err(wrong(format_args!("key pair {at} differs")));
        }
        let expected = AwsLc.encapsulate(&public[at], &randomness[at]).map_err(wrong)?;
        if encapsulated.get(at) != Some(&Some(expected.clone())) {
            return Err(wrong(format_args!("encapsulation {at} differs")));
        }
        let mut ciphertext = expected.0;
        if at % 2 == 1 {
            // Implicit rejection: another secret, the same on both.
            let place = random.below(CIPHERTEXT_LEN);
            ciphertext[place] ^= 1;
        }
        ciphertexts.push(ciphertext.try_into().map_err(|_| wrong("a ciphertext's length"))?);
    }
    let secrets = device.decapsulate(&secret, &ciphertexts)?;
    for at in 0..count {
        let expected = AwsLc.decapsulate(&secret[at], &ciphertexts[at]).map_err(wrong)?;
        if secrets.get(at) != Some(&Some(expected)) {
            return Err(wrong(format_args!("decapsulation {at} differs")));
        }
    }
    Ok(())
}

fn tally(votes: &[Vote], stakes: &[u64], choices: u32) -> Vec<u64> {
    let counted: std::collections::BTreeSet<(u32, u32)> =
        votes.iter().filter(|vote| vote.valid).map(|vote| (vote.choice, vote.voter)).collect();
    let mut totals = vec![0; choices as usize];
    for (choice, voter) in counted {
        if let (Some(total), Some(stake)) = (totals.get_mut(choice as usize), stakes.get(voter as usize)) {
            *total += stake;
        }
    }
    totals
}

/// The processor as a device: for tests of what uses devices, never for a node.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessorDevice;

impl Device for ProcessorDevice {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { index: 0, name: "the processor".to_owned(), architecture: (0, 0), memory: 0 }
    }

    fn verify(&mut self, items: &[VerifyItem<'_>], _: KeyUse) -> Result<Vec<bool>, DeviceError> {
        Ok(items.iter().map(|item| AwsLc.verify(item)).collect())
    }

    fn hash_level(
        &mut self,
        prefix: &[u8],
        messages: &[u8],
        message_len: usize,
        out: &mut [Hash],
    ) -> Result<(), DeviceError> {
        let tag = prefix.get(1..).and_then(|tag| std::str::from_utf8(tag).ok()).ok_or_else(|| wrong("no tag"))?;
        CpuHasher.hash_level(tag, messages, message_len, out);
        Ok(())
    }

    fn key_pairs(&mut self, seeds: &[([u8; 32], [u8; 32])]) -> Result<KeyPairs, DeviceError> {
        let mut all = KeyPairs { encapsulation: Vec::new(), decapsulation: Zeroizing::new(Vec::new()) };
        for (d, z) in seeds {
            let keys = AwsLc.key_pair(d, z).map_err(wrong)?;
            all.encapsulation.extend_from_slice(&keys.encapsulation);
            all.decapsulation.extend_from_slice(&keys.decapsulation);
        }
        Ok(all)
    }

    fn encapsulate(
        &mut self,
        keys: &[[u8; ENCAPSULATION_KEY_LEN]],
        randomness: &[[u8; 32]],
    ) -> Result<Vec<Option<Encapsulated>>, DeviceError> {
        Ok(keys.iter().zip(randomness).map(|(key, m)| AwsLc.encapsulate(key, m).ok()).collect())
    }

    fn decapsulate(
        &mut self,
        keys: &[[u8; DECAPSULATION_KEY_LEN]],
        ciphertexts: &[[u8; CIPHERTEXT_LEN]],
    ) -> Result<Vec<Option<SharedSecret>>, DeviceError> {
        Ok(keys.iter().zip(ciphertexts).map(|(key, ciphertext)| AwsLc.decapsulate(key, ciphertext).ok()).collect())
    }

    fn tally(&mut self, votes: &[Vote], stakes: &[u64], choices: u32) -> Result<Vec<u64>, DeviceError> {
        Ok(tally(votes, stakes, choices))
    }

    fn transferred(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_device_passes_and_good_and_broken_signatures_are_shown() {
        let report = check_device(&mut ProcessorDevice, 200, 1).unwrap();
        assert!((20..180).contains(&report.valid), "{report:?}");
    }

    /// Wrong in one place each.
    struct Wrong(ProcessorDevice, &'static str);

    impl Device for Wrong {
        fn info(&self) -> DeviceInfo {
            self.0.info()
        }

        fn verify(&mut self, items: &[VerifyItem<'_>], keys: KeyUse) -> Result<Vec<bool>, DeviceError> {
            let mut verdicts = self.0.verify(items, keys)?;
            if self.1 == "verify" && items.len() > 1 {
                verdicts[items.len() / 2] ^= true;
            }
            Ok(verdicts)
        }

        fn hash_level(&mut self, p: &[u8], m: &[u8], len: usize, out: &mut [Hash]) -> Result<(), DeviceError> {
            self.0.hash_level(p, m, len, out)?;
            if self.1 == "hash" && out.len() > 33 {
                out[2_999].0[0] ^= 1;
            }
            Ok(())
        }

        fn key_pairs(&mut self, seeds: &[([u8; 32], [u8; 32])]) -> Result<KeyPairs, DeviceError> {
            let mut keys = self.0.key_pairs(seeds)?;
            if self.1 == "keys" {
                keys.decapsulation[DECAPSULATION_KEY_LEN - 1] ^= 1;
            }
            Ok(keys)
        }

        fn encapsulate(
            &mut self,
            keys: &[[u8; ENCAPSULATION_KEY_LEN]],
            m: &[[u8; 32]],
        ) -> Result<Vec<Option<Encapsulated>>, DeviceError> {
            let mut all = self.0.encapsulate(keys, m)?;
            if self.1 == "encapsulate" {
                all[1] = None;
            }
            Ok(all)
        }

        fn decapsulate(
            &mut self,
            keys: &[[u8; DECAPSULATION_KEY_LEN]],
            ciphertexts: &[[u8; CIPHERTEXT_LEN]],
        ) -> Result<Vec<Option<SharedSecret>>, DeviceError> {
            let mut all = self.0.decapsulate(keys, ciphertexts)?;
            if self.1 == "decapsulate" {
                all.swap(0, 1);
            }
            Ok(all)
        }

        fn tally(&mut self, votes: &[Vote], stakes: &[u64], choices: u32) -> Result<Vec<u64>, DeviceError> {
            let mut totals = self.0.tally(votes, stakes, choices)?;
            totals[0] += u64::from(self.1 == "tally");
            Ok(totals)
        }

        fn transferred(&self) -> u64 {
            0
        }
    }

    #[test]
    fn a_device_that_is_wrong_in_one_thing_fails() {
        for what in ["verify", "hash", "keys", "encapsulate", "decapsulate", "tally"] {
            let error = check_device(&mut Wrong(ProcessorDevice, what), 64, 3).unwrap_err();
            assert!(matches!(error, DeviceError::SelfTest(_)), "{what}: {error}");
        }
        assert!(check_device(&mut Wrong(ProcessorDevice, "nothing"), 64, 3).is_ok());
    }
}
