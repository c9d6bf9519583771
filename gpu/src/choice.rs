//! Which back-ends this machine has, and which of them checks for the node.

use std::sync::Arc;

use crate::keys::{Seed, SignError, Signer, sign_with_context};
use crate::verify::{BatchVerifier, SIGNATURE_LEN, VerifyItem};
use crate::{AwsLc, Fips204, KeyCacheCounts, Native};

/// Every back-end that this machine has, the reference first. Ours keep expanded keys in `cache_bytes` each.
#[must_use]
pub fn back_ends(cache_bytes: usize) -> Vec<Arc<dyn BatchVerifier>> {
    let mut all: Vec<Arc<dyn BatchVerifier>> =
        vec![Arc::new(Fips204), Arc::new(AwsLc), Arc::new(Native::portable(cache_bytes))];
    all.extend(Native::avx2(cache_bytes).map(|native| Arc::new(native) as _));
    all
}

/// Why a back-end must not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelfTestError {
    /// It disagrees with what is known.
    #[error("{back_end} calls {what} {verdict}", verdict = if *.valid { "valid" } else { "invalid" })]
    Wrong {
        /// The back-end.
        back_end: &'static str,
        /// What it was shown.
        what: &'static str,
        /// Its verdict.
        valid: bool,
    },
    /// There was nothing to test with.
    #[error("no signature to test with: {0}")]
    Sign(#[from] SignError),
}

/// Shows a back-end valid signatures and ones broken in each part.
///
/// # Errors
/// The first wrong verdict.
pub fn self_test(back_end: &dyn BatchVerifier) -> Result<(), SelfTestError> {
    let seed = Seed::new([0x5e; 32]);
    let signer = Signer::from_seed(&seed)?;
    let check = |what, item: VerifyItem<'_>, expected: bool| match back_end.verify(&item) {
        valid if valid != expected => Err(SelfTestError::Wrong { back_end: back_end.name(), what, valid }),
        _ => Ok(()),
    };
    for round in 0..4_u8 {
        let message = vec![round; 100 * usize::from(round)];
        let signature = signer.sign(&message)?;
        let item = VerifyItem::new(signer.public_key(), &message, &signature);
        // Twice: with a key that is new, and with one that is known.
        check("a good signature", item, true)?;
        check("a good signature seen again", item, true)?;
        check("a signature of another message", VerifyItem { message: b"another", ..item }, false)?;
        check("a signature under another context", VerifyItem { context: b"context", ..item }, false)?;
        for (what, at) in [
            ("a changed commitment", 0),
            ("a changed response", 64 + 1_000 * usize::from(round)),
            ("a changed hint", SIGNATURE_LEN - 83),
            ("a changed count of hints", SIGNATURE_LEN - 1),
        ] {
            let mut wrong = signature.clone();
            wrong[at] ^= 0x10;
            check(what, VerifyItem { signature: &wrong, ..item }, false)?;
        }
    }
    let signature = sign_with_context(&seed, b"message", b"context")?;
    let item = VerifyItem { context: b"context", ..VerifyItem::new(signer.public_key(), b"message", &signature) };
    check("a good signature with a context", item, true)
}

/// The back-end that a node uses.
#[derive(Clone)]
pub struct Chosen {
    /// What checks signatures.
    pub verifier: Arc<dyn BatchVerifier>,
    /// Why it is not the fastest one.
    pub warning: Option<String>,
    native: Option<Arc<Native>>,
}

impl Chosen {
    /// What the cache of expanded keys did, if there is one.
    #[must_use]
    pub fn cache_counts(&self) -> Option<KeyCacheCounts> {
        self.native.as_ref().map(|native| native.cache_counts())
    }
}

/// The fastest back-end of this machine's processor that passes its self-test (5 ms); AWS-LC where ours does not.
/// Expanded keys take at most `cache_bytes`.
#[must_use]
pub fn fastest(cache_bytes: usize) -> Chosen {
    let aws = |warning| Chosen { verifier: Arc::new(AwsLc), warning, native: None };
    // Without vectors ours is faster for senders that come again only, and far slower for new ones.
    let Some(native) = Native::avx2(cache_bytes).map(Arc::new) else { return aws(None) };
    match self_test(&*native) {
        Ok(()) => Chosen { verifier: Arc::clone(&native) as _, warning: None, native: Some(native) },
        Err(error) => aws(Some(format!("the self-test of {} failed, aws-lc takes its place: {error}", native.name()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Says(bool);

    impl BatchVerifier for Says {
        fn name(&self) -> &'static str {
            "liar"
        }

        fn verify(&self, _: &VerifyItem<'_>) -> bool {
            self.0
        }
    }

    #[test]
    fn every_back_end_passes_the_self_test_and_a_liar_does_not() {
        for back_end in back_ends(1 << 20) {
            assert_eq!(self_test(&*back_end), Ok(()));
        }
        for says in [false, true] {
            let error = self_test(&Says(says)).unwrap_err();
            assert!(matches!(error, SelfTestError::Wrong { back_end: "liar", valid, .. } if valid == says), "{error}");
        }
    }

    #[test]
    fn the_fastest_back_end_is_ours_where_the_processor_has_vectors() {
        let chosen = fastest(1 << 20);
        assert_eq!(chosen.warning, None);
        match Native::avx2(0) {
            Some(native) => {
                assert_eq!(chosen.verifier.name(), native.name());
                assert!(chosen.cache_counts().is_some_and(|counts| counts.hits > 0 && counts.entries == 1));
            }
            None => assert_eq!(chosen.verifier.name(), "aws-lc"),
        }
    }
}
