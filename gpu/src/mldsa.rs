//! Our own ML-DSA-87 verifier, written from FIPS 204, for senders that come again: their keys are kept expanded.
//!
//! One text for all machines, over [`lanes::Lanes`]. Verifies only; nothing here is secret, so nothing is constant-time.
//! Algorithm numbers in this module are those of FIPS 204.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod cache;
#[cfg(target_arch = "x86_64")]
mod eight;
mod expand;
mod lanes;
mod ntt;
mod signature;
mod verify;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub use cache::KeyCacheCounts;

use std::sync::Arc;

use cache::KeyCache;
use expand::ExpandedKey;
use lanes::{Lanes, Portable};

use crate::keccak::Shake256;
use crate::verify::{BatchVerifier, PUBLIC_KEY_LEN, SIGNATURE_LEN, VerifyItem};

// Table 1 of FIPS 204, the column of ML-DSA-87.
const ROWS: usize = 8;
const COLUMNS: usize = 7;
const TAU: usize = 60;
const BETA: i32 = 120;
const GAMMA_1: i32 = 1 << 19;
const GAMMA_2: i32 = (ntt::Q - 1) / 32;
const OMEGA: usize = 75;

#[derive(Debug, Clone, Copy)]
enum Machine {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// Keys and hashes in AVX-512, arithmetic in AVX2: processors that halve AVX-512's operations gain from its rotations
    /// and registers in Keccak, and nothing from its width in arithmetic.
    #[cfg(target_arch = "x86_64")]
    Mixed(Avx512, Avx2),
}

/// Our verifier with its cache of expanded keys.
pub struct Native {
    machine: Machine,
    cache: KeyCache,
}

impl Native {
    /// In plain Rust. Keeps expanded keys in at most `cache_bytes`; none at 0.
    #[must_use]
    pub fn portable(cache_bytes: usize) -> Self {
        Self { machine: Machine::Portable, cache: KeyCache::new(cache_bytes) }
    }

    /// In AVX2, where the processor has it.
    #[must_use]
    pub fn avx2(cache_bytes: usize) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return Avx2::detect().map(|avx2| Self { machine: Machine::Avx2(avx2), cache: KeyCache::new(cache_bytes) });
        #[cfg(not(target_arch = "x86_64"))]
        return None;
    }

    /// In AVX-512, where the processor has it.
    #[must_use]
    pub fn avx512(cache_bytes: usize) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return Avx512::detect()
            .map(|avx512| Self { machine: Machine::Avx512(avx512), cache: KeyCache::new(cache_bytes) });
        #[cfg(not(target_arch = "x86_64"))]
        return None;
    }

    /// Keys and hashes in AVX-512, arithmetic in AVX2, where the processor has both.
    #[must_use]
    pub fn mixed(cache_bytes: usize) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return Avx512::detect()
            .zip(Avx2::detect())
            .map(|(wide, narrow)| Self { machine: Machine::Mixed(wide, narrow), cache: KeyCache::new(cache_bytes) });
        #[cfg(not(target_arch = "x86_64"))]
        return None;
    }

    /// What the cache did so far.
    #[must_use]
    pub fn cache_counts(&self) -> KeyCacheCounts {
        self.cache.counts()
    }

    /// Whether the signature is valid for this message representative (FIPS 204's mu), which binds key, context and
    /// message: for callers that hash elsewhere.
    #[must_use]
    pub fn verify_representative(&self, public_key: &[u8], mu: &[u8; 64], signature: &[u8]) -> bool {
        let (Ok(public_key), Ok(signature)) = (public_key.try_into(), signature.try_into()) else { return false };
        self.verify_expanded(&self.expanded(public_key), mu, signature)
    }

    fn expanded(&self, public_key: &[u8; PUBLIC_KEY_LEN]) -> Arc<ExpandedKey> {
        self.cache.get(public_key, || match self.machine {
            Machine::Portable => ExpandedKey::expand::<Portable>(public_key),
            #[cfg(target_arch = "x86_64")]
            Machine::Avx2(avx2) => avx2.expand(public_key),
            #[cfg(target_arch = "x86_64")]
            Machine::Avx512(avx512) | Machine::Mixed(avx512, _) => avx512.expand(public_key),
        })
    }

    fn verify_expanded(&self, key: &ExpandedKey, mu: &[u8; 64], signature: &[u8; SIGNATURE_LEN]) -> bool {
        let mut w1 = [0; verify::W1];
        self.commitment(key, signature, &mut w1) && Shake256::digest(&[mu, &w1])[..] == signature[..verify::COMMITMENT]
    }

    fn commitment(&self, key: &ExpandedKey, signature: &[u8; SIGNATURE_LEN], w1: &mut [u8; verify::W1]) -> bool {
        match self.machine {
            Machine::Portable => verify::commitment::<Portable>(key, signature, w1),
            #[cfg(target_arch = "x86_64")]
            Machine::Avx2(avx2) | Machine::Mixed(_, avx2) => avx2.commitment(key, signature, w1),
            #[cfg(target_arch = "x86_64")]
            Machine::Avx512(avx512) => avx512.commitment(key, signature, w1),
        }
    }
}

impl BatchVerifier for Native {
    fn name(&self) -> &'static str {
        match self.machine {
            Machine::Portable => Portable::NAME,
            #[cfg(target_arch = "x86_64")]
            Machine::Avx2(_) => Avx2::NAME,
            #[cfg(target_arch = "x86_64")]
            Machine::Avx512(_) => Avx512::NAME,
            #[cfg(target_arch = "x86_64")]
            Machine::Mixed(..) => "native-mixed",
        }
    }

    fn verify(&self, item: &VerifyItem<'_>) -> bool {
        let (Ok(public_key), Ok(signature)) = (item.public_key.try_into(), item.signature.try_into()) else {
            return false;
        };
        if !item.well_formed() {
            return false;
        }
        let key = self.expanded(public_key);
        self.verify_expanded(&key, &key.representative(item.context, item.message), signature)
    }

    fn verify_batch(&self, items: &[VerifyItem<'_>], verdicts: &mut [bool]) {
        verdicts.fill(false);
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = eight::Wide::of(self.machine) {
            for (items, verdicts) in items.chunks(8).zip(verdicts.chunks_mut(8)) {
                // No more verdicts than places for them.
                self.verify_eight(wide, &items[..items.len().min(verdicts.len())], verdicts);
            }
            return;
        }
        for (item, verdict) in items.iter().zip(verdicts) {
            *verdict = self.verify(item);
        }
    }
}

impl std::fmt::Debug for Native {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Native").field("machine", &self.machine).field("cache", &self.cache_counts()).finish()
    }
}
