//! The back-end that all verifiers of a process share, with its cache of expanded keys: a second one would only hold the
//! same keys again, and a restarted actor finds the cache warm.

use std::sync::{Arc, OnceLock};

use aurigraph_gpu::{BatchVerifier, Chosen, KeyCacheCounts};

use crate::bounds::crypto as bounds;

static CHOSEN: OnceLock<Chosen> = OnceLock::new();

fn chosen() -> &'static Chosen {
    CHOSEN.get_or_init(|| {
        let chosen = aurigraph_gpu::fastest(bounds::EXPANDED_KEYS_BYTES);
        match &chosen.warning {
            Some(warning) => tracing::warn!(back_end = chosen.verifier.name(), "{warning}"),
            None => tracing::info!(back_end = chosen.verifier.name(), "signatures are checked on the processor"),
        }
        chosen
    })
}

/// The fastest back-end on this machine's processor that passed its self-test, which the first call makes.
#[must_use]
pub fn cpu_back_end() -> Arc<dyn BatchVerifier> {
    Arc::clone(&chosen().verifier)
}

/// Publishes what the cache of expanded keys did.
pub(super) fn measure() {
    // Without a choice nobody has checked anything with it yet.
    if let Some(KeyCacheCounts { hits, misses, evictions, entries, bytes }) =
        CHOSEN.get().and_then(Chosen::cache_counts)
    {
        metrics::counter!("expanded_key_hits_total").absolute(hits);
        metrics::counter!("expanded_key_misses_total").absolute(misses);
        metrics::counter!("expanded_key_evictions_total").absolute(evictions);
        metrics::gauge!("expanded_keys").set(entries as f64);
        metrics::gauge!("expanded_key_bytes").set(bytes as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_share_one_back_end_and_its_cache_holds_its_bound() {
        assert!(Arc::ptr_eq(&cpu_back_end(), &cpu_back_end()));
        assert!(chosen().cache_counts().is_none_or(|counts| counts.bytes <= bounds::EXPANDED_KEYS_BYTES as u64));
    }
}
