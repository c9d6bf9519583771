//! Which back-ends this machine has, and which of them checks for the node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::kernels::DeviceError;
use crate::keys::{Seed, SignError, Signer, sign_with_context};
use crate::verify::{BatchVerifier, SIGNATURE_LEN, VerifyItem};
use crate::{AwsLc, Fips204, KeyCacheCounts, Native};

/// Every back-end that this machine has, the reference first. Ours keep expanded keys in `cache_bytes` each.
#[must_use]
pub fn back_ends(cache_bytes: usize) -> Vec<Arc<dyn BatchVerifier>> {
    let mut all: Vec<Arc<dyn BatchVerifier>> =
        vec![Arc::new(Fips204), Arc::new(AwsLc), Arc::new(Native::portable(cache_bytes))];
    let wide = [Native::avx2(cache_bytes), Native::avx512(cache_bytes), Native::mixed(cache_bytes)];
    all.extend(wide.into_iter().flatten().map(|native| Arc::new(native) as _));
    all
}

/// Which back-end of the processor a node is told to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackEnd {
    /// Whatever is fastest here.
    #[default]
    Fastest,
    /// The reference.
    Fips204,
    /// AWS-LC.
    AwsLc,
    /// Ours in plain Rust.
    NativePortable,
    /// Ours in AVX2.
    NativeAvx2,
    /// Ours in AVX-512.
    NativeAvx512,
    /// Ours with keys and hashes in AVX-512 and arithmetic in AVX2.
    NativeMixed,
}

impl BackEnd {
    /// All that can be asked for.
    pub const ALL: [Self; 7] = [
        Self::Fastest,
        Self::Fips204,
        Self::AwsLc,
        Self::NativePortable,
        Self::NativeAvx2,
        Self::NativeAvx512,
        Self::NativeMixed,
    ];

    /// Its name in configs and on the command line; that of the back-end itself, where one is meant.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fastest => "fastest",
            Self::Fips204 => "fips204",
            Self::AwsLc => "aws-lc",
            Self::NativePortable => "native-portable",
            Self::NativeAvx2 => "native-avx2",
            Self::NativeAvx512 => "native-avx512",
            Self::NativeMixed => "native-mixed",
        }
    }
}

impl std::str::FromStr for BackEnd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|back_end| back_end.name() == text)
            .ok_or_else(|| format!("{text:?} is no back-end; there are {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// Why a back-end that was asked for is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// The processor lacks its instructions.
    #[error("the back-end {0} needs instructions that this processor does not have")]
    NotHere(&'static str),
    /// It is here and wrong.
    #[error("the self-test of the back-end {0} failed: {1}")]
    Wrong(&'static str, SelfTestError),
}

/// The back-end that is asked for, once it has passed its self-test (5 ms). Expanded keys take at most `cache_bytes`.
///
/// # Errors
/// [`ChoiceError`] if this machine does not have it or it is wrong. [`BackEnd::Fastest`] is always there.
pub fn choose(which: BackEnd, cache_bytes: usize) -> Result<Chosen, ChoiceError> {
    let ours = |native: Option<Native>| {
        let native = Arc::new(native.ok_or(ChoiceError::NotHere(which.name()))?);
        Ok(Chosen { verifier: Arc::clone(&native) as _, warning: None, native: Some(native) })
    };
    let library = |verifier| Ok(Chosen { verifier, warning: None, native: None });
    let chosen = match which {
        BackEnd::Fastest => return Ok(fastest(cache_bytes)),
        BackEnd::Fips204 => library(Arc::new(Fips204)),
        BackEnd::AwsLc => library(Arc::new(AwsLc)),
        BackEnd::NativePortable => ours(Some(Native::portable(cache_bytes))),
        BackEnd::NativeAvx2 => ours(Native::avx2(cache_bytes)),
        BackEnd::NativeAvx512 => ours(Native::avx512(cache_bytes)),
        BackEnd::NativeMixed => ours(Native::mixed(cache_bytes)),
    }?;
    self_test(&*chosen.verifier).map_err(|error| ChoiceError::Wrong(which.name(), error))?;
    Ok(chosen)
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

/// Why a case could not be shown, or was judged wrongly.
pub(crate) enum Shown {
    Device(DeviceError),
    Sign(SignError),
}

impl From<SignError> for Shown {
    fn from(error: SignError) -> Self {
        Self::Sign(error)
    }
}

impl From<DeviceError> for Shown {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

/// Shows valid signatures and ones broken in each part, with what they are and whether they are valid.
pub(crate) fn show_cases<E: From<SignError>, F: Into<E>>(
    mut check: impl FnMut(&'static str, VerifyItem<'_>, bool) -> Result<(), F>,
) -> Result<(), E> {
    let seed = Seed::new([0x5e; 32]);
    let signer = Signer::from_seed(&seed)?;
    let mut check = |what, item: VerifyItem<'_>, expected| check(what, item, expected).map_err(Into::into);
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

/// Shows a back-end valid signatures and ones broken in each part.
///
/// # Errors
/// The first wrong verdict.
pub fn self_test(back_end: &dyn BatchVerifier) -> Result<(), SelfTestError> {
    show_cases(|what, item, expected| match back_end.verify(&item) {
        valid if valid != expected => Err(SelfTestError::Wrong { back_end: back_end.name(), what, valid }),
        _ => Ok(()),
    })
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

/// The fastest back-end of this machine's processor that passes its self-test (5 ms each): of ours with vectors the one that
/// checks eight signatures under a known key in the least time, as measured here (10 ms), else AWS-LC. Expanded keys take at
/// most `cache_bytes`.
#[must_use]
pub fn fastest(cache_bytes: usize) -> Chosen {
    // Without vectors ours is faster for senders that come again only, and far slower for new ones.
    let ours = [Native::mixed(cache_bytes), Native::avx512(cache_bytes), Native::avx2(cache_bytes)];
    let mut ours: Vec<_> = ours.into_iter().flatten().map(|native| (Duration::MAX, Arc::new(native))).collect();
    time_eights(&mut ours);
    ours.sort_by_key(|(time, _)| *time);
    first_right(ours.into_iter().map(|(_, native)| (Arc::clone(&native) as _, Some(native))))
}

/// How long each takes for eight signatures under a known key: the least of some rounds in turn, so that whatever else the
/// machine does meets all of them. Unchanged where there is no key to sign with; the order then stays.
fn time_eights(all: &mut [(Duration, Arc<Native>)]) {
    const ROUNDS: usize = 24;
    let Ok(signer) = Signer::from_seed(&Seed::new([0x5f; 32])) else { return };
    let Ok(signature) = signer.sign(b"which is fastest") else { return };
    let items = [VerifyItem::new(signer.public_key(), b"which is fastest", &signature); 8];
    for _ in 0..ROUNDS {
        for (least, native) in &mut *all {
            let start = Instant::now();
            native.verify_batch(&items, &mut [false; 8]);
            *least = start.elapsed().min(*least);
        }
    }
}

/// The first that passes its self-test; AWS-LC if none does.
fn first_right(all: impl Iterator<Item = (Arc<dyn BatchVerifier>, Option<Arc<Native>>)>) -> Chosen {
    let mut warning = None;
    for (verifier, native) in all {
        match self_test(&*verifier) {
            Ok(()) => return Chosen { verifier, warning, native },
            Err(error) => warning = Some(format!("the self-test of {} failed: {error}", verifier.name())),
        }
    }
    Chosen { verifier: Arc::new(AwsLc), warning, native: None }
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
            Some(_) => {
                assert!(chosen.verifier.name().starts_with("native-"), "{}", chosen.verifier.name());
                // The key that it was timed with and that of the self-test.
                assert!(chosen.cache_counts().is_some_and(|counts| counts.hits > 0 && counts.entries == 2));
            }
            None => assert_eq!(chosen.verifier.name(), "aws-lc"),
        }
    }

    #[test]
    fn a_back_end_that_lies_is_passed_over_with_a_warning() {
        let liar = || (Arc::new(Says(true)) as Arc<dyn BatchVerifier>, None);
        let right = (Arc::new(Fips204) as Arc<dyn BatchVerifier>, None);
        let chosen = first_right([liar(), right].into_iter());
        assert_eq!(chosen.verifier.name(), "fips204");
        assert!(chosen.warning.is_some_and(|warning| warning.contains("liar")));
        assert_eq!(first_right([liar()].into_iter()).verifier.name(), "aws-lc");
    }

    #[test]
    fn every_back_end_of_this_machine_can_be_asked_for_by_its_name() {
        for back_end in back_ends(0) {
            let which: BackEnd = back_end.name().parse().unwrap();
            assert_eq!(choose(which, 0).unwrap().verifier.name(), back_end.name());
        }
        assert_eq!("fastest".parse(), Ok(BackEnd::Fastest));
        assert!("sha1".parse::<BackEnd>().unwrap_err().contains("native-avx512"));
        if Native::avx512(0).is_none() {
            assert_eq!(choose(BackEnd::NativeAvx512, 0).err(), Some(ChoiceError::NotHere("native-avx512")));
        }
    }
}
