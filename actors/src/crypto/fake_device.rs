//! A device for tests: it works, fails, hangs, lies, vanishes or panics, as it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aurigraph_gpu::{
    AwsLc, BatchVerifier as _, CIPHERTEXT_LEN, CpuHasher, DECAPSULATION_KEY_LEN, Device, DeviceError, DeviceInfo,
    ENCAPSULATION_KEY_LEN, Encapsulated, KeyPairs, KeyUse, SharedSecret, VerifyItem, Vote,
};
use aurigraph_ledger::{Hash, TreeHasher as _};
use parking_lot::{Condvar, Mutex};

use super::gpu_worker::{Open, Tuning};
use super::testing::SOON;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Works,
    Fails,
    Hangs,
    Lies,
    Panics,
    LiesInItsSelfTest,
    Short,
    Vanishes,
}

/// What a test does to a device, and sees of it.
pub(super) struct Bench {
    mood: Mutex<Mood>,
    changed: Condvar,
    pub(super) opened: AtomicUsize,
    checked: AtomicUsize,
    pub(super) largest: AtomicUsize,
}

impl Bench {
    pub(super) fn new(mood: Mood) -> Arc<Self> {
        Arc::new(Self {
            mood: Mutex::new(mood),
            changed: Condvar::new(),
            opened: AtomicUsize::new(0),
            checked: AtomicUsize::new(0),
            largest: AtomicUsize::new(0),
        })
    }

    pub(super) fn set(&self, mood: Mood) {
        *self.mood.lock() = mood;
        self.changed.notify_all();
    }

    pub(super) fn checked(&self) -> usize {
        self.checked.load(Ordering::SeqCst)
    }

    /// What opens the device, unless it has vanished.
    pub(super) fn opener(self: &Arc<Self>) -> Open {
        let bench = Arc::clone(self);
        Arc::new(move || {
            if *bench.mood.lock() == Mood::Vanishes {
                return Err("no CUDA device: it has vanished".to_owned());
            }
            bench.opened.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new(Fake(Arc::clone(&bench))))
        })
    }
}

struct Fake(Arc<Bench>);

impl Device for Fake {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { index: 0, name: "fake".to_owned(), architecture: (9, 0), memory: 1 }
    }

    fn verify(&mut self, items: &[VerifyItem<'_>], _: KeyUse) -> Result<Vec<bool>, DeviceError> {
        let mut mood = self.0.mood.lock();
        // The self-test shows single signatures.
        let testing = items.len() == 1 && items[0].message != b"one" && *mood != Mood::LiesInItsSelfTest;
        while !testing && *mood == Mood::Hangs {
            self.0.changed.wait(&mut mood);
        }
        let mood = *mood;
        let mut verdicts: Vec<bool> = items.iter().map(|item| AwsLc.verify(item)).collect();
        if testing {
            return Ok(verdicts);
        }
        self.0.checked.fetch_add(items.len(), Ordering::SeqCst);
        self.0.largest.fetch_max(items.len(), Ordering::SeqCst);
        match mood {
            Mood::Fails | Mood::Vanishes => {
                return Err(DeviceError::Driver { what: "launching", error: "gone".to_owned() });
            }
            Mood::Panics => panic!("a device's code panics"),
            Mood::Lies | Mood::LiesInItsSelfTest => verdicts.iter_mut().for_each(|verdict| *verdict = true),
            Mood::Short => drop(verdicts.pop()),
            Mood::Works | Mood::Hangs => {}
        }
        Ok(verdicts)
    }

    fn hash_level(&mut self, _: &[u8], messages: &[u8], len: usize, out: &mut [Hash]) -> Result<(), DeviceError> {
        CpuHasher.hash_level("node", messages, len, out);
        Ok(())
    }

    fn key_pairs(&mut self, _: &[([u8; 32], [u8; 32])]) -> Result<KeyPairs, DeviceError> {
        Err(DeviceError::TooLarge(0))
    }

    fn encapsulate(
        &mut self,
        _: &[[u8; ENCAPSULATION_KEY_LEN]],
        _: &[[u8; 32]],
    ) -> Result<Vec<Option<Encapsulated>>, DeviceError> {
        Err(DeviceError::TooLarge(0))
    }

    fn decapsulate(
        &mut self,
        _: &[[u8; DECAPSULATION_KEY_LEN]],
        _: &[[u8; CIPHERTEXT_LEN]],
    ) -> Result<Vec<Option<SharedSecret>>, DeviceError> {
        Err(DeviceError::TooLarge(0))
    }

    fn tally(&mut self, _: &[Vote], _: &[u64], _: u32) -> Result<Vec<u64>, DeviceError> {
        Err(DeviceError::TooLarge(0))
    }

    fn transferred(&self) -> u64 {
        self.0.checked() as u64
    }
}

pub(super) const TUNING: Tuning = Tuning {
    batch: 64,
    wait: Duration::from_millis(2),
    // A machine that does other things must not make a device look hung.
    deadline: SOON,
    check_every: 8,
    crossover: Some(8),
};
