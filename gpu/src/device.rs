//! What a device does for us, which devices this process can use, and why not more.

use std::time::Duration;

use aurigraph_ledger::Hash;

use crate::kem::{CIPHERTEXT_LEN, DECAPSULATION_KEY_LEN, ENCAPSULATION_KEY_LEN, Encapsulated, SharedSecret};
use crate::kernels::{DeviceError, KeyPairs, KeyUse, Vote};
use crate::mldsa::KeyCacheCounts;
use crate::verify::VerifyItem;

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number.
    pub index: usize,
    /// What it calls itself.
    pub name: String,
    /// Its compute capability.
    pub architecture: (i32, i32),
    /// Bytes of memory.
    pub memory: u64,
}

/// An accelerator with our kernels on it. It belongs to one thread; every call waits for its result.
pub trait Device {
    /// What it is.
    fn info(&self) -> DeviceInfo;

    /// One verdict an item.
    ///
    /// # Errors
    /// [`DeviceError`]: nothing is known of any item then.
    fn verify(&mut self, items: &[VerifyItem<'_>], keys: KeyUse) -> Result<Vec<bool>, DeviceError>;

    /// SHA3-256 over prefix and message, for messages of one length side by side.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn hash_level(
        &mut self,
        prefix: &[u8],
        messages: &[u8],
        message_len: usize,
        out: &mut [Hash],
    ) -> Result<(), DeviceError>;

    /// ML-KEM-1024 key pairs of pairs of seeds.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn key_pairs(&mut self, seeds: &[([u8; 32], [u8; 32])]) -> Result<KeyPairs, DeviceError>;

    /// A ciphertext and its secret for each key; none for what is no key.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn encapsulate(
        &mut self,
        keys: &[[u8; ENCAPSULATION_KEY_LEN]],
        randomness: &[[u8; 32]],
    ) -> Result<Vec<Option<Encapsulated>>, DeviceError>;

    /// The secret in each ciphertext; none where the key is none.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn decapsulate(
        &mut self,
        keys: &[[u8; DECAPSULATION_KEY_LEN]],
        ciphertexts: &[[u8; CIPHERTEXT_LEN]],
    ) -> Result<Vec<Option<SharedSecret>>, DeviceError>;

    /// The stake behind each of `choices` choices. A voter counts once for a choice, an unknown one never.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn tally(&mut self, votes: &[Vote], stakes: &[u64], choices: u32) -> Result<Vec<u64>, DeviceError>;

    /// Bytes copied to and from it so far.
    fn transferred(&self) -> u64;

    /// What its table of expanded keys did; nothing where it has none.
    fn table_counts(&self) -> KeyCacheCounts {
        KeyCacheCounts::default()
    }

    /// From now on kernels run one after the other and their time is taken, or no longer: for measuring, never for work.
    fn time_kernels(&mut self, _on: bool) {}

    /// The time of kernels alone, copies not included, since the last call; none where it is not taken.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn kernel_time(&mut self) -> Result<Option<Duration>, DeviceError> {
        Ok(None)
    }
}

/// Why there is no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoDevice {
    /// The driver's library is not on this machine.
    #[error("no CUDA device: no NVIDIA driver (libcuda) is installed")]
    NoDriver,
    /// The driver is here and fails.
    #[error("no CUDA device: the driver says {0}")]
    Driver(String),
    /// The driver is here and finds none.
    #[error("no CUDA device: the driver finds none")]
    None,
}

/// Looks for devices.
///
/// # Errors
/// [`NoDevice`] with the reason.
pub fn detect() -> Result<Vec<DeviceInfo>, NoDevice> {
    crate::cuda::detect()
}

/// How many devices this process can use; none of them is opened.
///
/// # Errors
/// [`NoDevice`] with the reason.
pub fn count_devices() -> Result<usize, NoDevice> {
    crate::cuda::count()
}

/// Shows a device what every back-end is shown at its start: good signatures, and ones broken in each part, by both ways
/// of its keys, and a level of a tree.
///
/// # Errors
/// [`DeviceError::SelfTest`] at the first wrong answer.
pub fn test_device(device: &mut dyn Device) -> Result<(), DeviceError> {
    let wrong = |what: &dyn std::fmt::Display| DeviceError::SelfTest(what.to_string());
    for keys in [KeyUse::Each, KeyUse::Table] {
        crate::choice::show_cases(|what, item, expected| match device.verify(&[item], keys)?.first() {
            Some(valid) if *valid == expected => Ok(()),
            other => Err(wrong(&format_args!("it calls {what} {other:?}"))),
        })
        .map_err(|error| match error {
            crate::choice::Shown::Device(error) => error,
            crate::choice::Shown::Sign(error) => wrong(&error),
        })?;
    }
    let messages: Vec<u8> = (0..64 * 33_u32).map(|at| (at % 251) as u8).collect();
    let (mut ours, mut expected) = ([Hash::ZERO; 33], [Hash::ZERO; 33]);
    device.hash_level(b"\x04node", &messages, 64, &mut ours)?;
    aurigraph_ledger::TreeHasher::hash_level(&crate::CpuHasher, "node", &messages, 64, &mut expected);
    if ours == expected { Ok(()) } else { Err(wrong(&"its hashes are wrong")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_device_says_why() {
        // On a machine that has one, there is nothing to say.
        if let Err(refusal) = detect() {
            assert!(refusal.to_string().contains("CUDA device"), "{refusal}");
        }
    }
}
