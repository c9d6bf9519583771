//! The back-end that all verifiers of a process share, with its cache of expanded keys: a second one would only hold the
//! same keys again, and a restarted actor finds the cache warm.

use std::sync::{Arc, OnceLock};

use aurigraph_gpu::{BackEnd, BatchVerifier, ChoiceError, Chosen, KeyCacheCounts};

use crate::bounds::crypto as bounds;

static CHOSEN: OnceLock<Chosen> = OnceLock::new();

fn chosen() -> &'static Chosen {
    CHOSEN.get_or_init(|| aurigraph_gpu::fastest(bounds::EXPANDED_KEYS_BYTES))
}

/// Why the back-end that a node was told to use is not the process's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackEndError {
    /// It cannot be used here.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// The process checks with another one already.
    #[error("this process checks with {used} already, and cannot change to {asked}")]
    Late {
        /// In use.
        used: &'static str,
        /// Asked for.
        asked: &'static str,
    },
}

/// Chooses the process's back-end: to be called before anything is checked.
///
/// # Errors
/// If this machine does not have it, if it fails its self-test, or if the process uses another one already.
pub fn use_back_end(which: BackEnd) -> Result<(), BackEndError> {
    if which != BackEnd::Fastest {
        // A second caller's choice loses and is compared below.
        let _ = CHOSEN.set(aurigraph_gpu::choose(which, bounds::EXPANDED_KEYS_BYTES)?);
        let used = chosen().verifier.name();
        if used != which.name() {
            return Err(BackEndError::Late { used, asked: which.name() });
        }
    }
    Ok(())
}

/// Says once which back-end it is.
pub fn log_back_end() {
    let chosen = chosen();
    match &chosen.warning {
        Some(warning) => tracing::warn!(back_end = chosen.verifier.name(), "{warning}"),
        None => tracing::info!(back_end = chosen.verifier.name(), "signatures are checked on the processor"),
    }
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

    #[test]
    fn a_process_that_checks_already_cannot_change_its_back_end() {
        let used = cpu_back_end().name();
        assert_eq!(use_back_end(BackEnd::Fastest), Ok(()));
        assert_eq!(use_back_end(used.parse().unwrap()), Ok(()));
        assert_eq!(use_back_end(BackEnd::Fips204), Err(BackEndError::Late { used, asked: "fips204" }));
    }
}
