//! Eight coefficients in places of 64 bits, and eight Keccak states, in AVX-512's registers.
//!
//! A coefficient stands in the low half of its place and nobody looks at the high half: all eight products of a
//! multiplication come out of one instruction, and nothing has to be split into even and odd places and put together
//! again, as in AVX2.
//!
//! A value of [`Avx512`] is the proof that the processor has what the code needs; the vector operations are reached only
//! through the functions here that take one.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512i, _mm256_loadu_si256, _mm256_storeu_si256, _mm512_add_epi32, _mm512_add_epi64, _mm512_cvtepi32_epi64,
    _mm512_cvtepi64_epi32, _mm512_loadu_si512, _mm512_max_epi32, _mm512_min_epi32, _mm512_mul_epi32,
    _mm512_permutex2var_epi64, _mm512_rol_epi64, _mm512_set1_epi64, _mm512_setr_epi64, _mm512_setzero_si512,
    _mm512_shuffle_i64x2, _mm512_srli_epi64, _mm512_storeu_si512, _mm512_sub_epi32, _mm512_sub_epi64,
    _mm512_ternarylogic_epi64, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64, _mm512_xor_si512,
};

use super::avx2::Avx2;
use super::expand::ExpandedKey;
use super::lanes::Lanes;
use super::ntt::{Q, Q_INVERSE};
use super::verify;
use crate::keccak::{Eight, Word, permute_words};
use crate::verify::{PUBLIC_KEY_LEN, SIGNATURE_LEN};

/// Proof that this processor has AVX-512 with its byte, word and shorter forms, and AVX2.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        let found = Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        found.then_some(Self(()))
    }

    /// [`verify::commitment`] in AVX-512.
    pub(crate) fn commitment(
        self,
        key: &ExpandedKey,
        signature: &[u8; SIGNATURE_LEN],
        w1: &mut [u8; verify::W1],
    ) -> bool {
        // SAFETY: `self` exists, so the processor has the features.
        unsafe { commitment_avx512(key, signature, w1) }
    }

    /// [`ExpandedKey::expand`] in AVX-512.
    pub(crate) fn expand(self, public_key: &[u8; PUBLIC_KEY_LEN]) -> ExpandedKey {
        // SAFETY: `self` exists, so the processor has the features.
        unsafe { expand_avx512(public_key) }
    }

    /// Keccak-f[1600] of eight states.
    pub(crate) fn permute_eight(self, states: &mut Eight) {
        // SAFETY: `self` exists, so the processor has the features.
        unsafe { permute_eight_avx512(states) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2")]
fn commitment_avx512(key: &ExpandedKey, signature: &[u8; SIGNATURE_LEN], w1: &mut [u8; verify::W1]) -> bool {
    verify::commitment::<Avx512>(key, signature, w1)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2")]
fn expand_avx512(public_key: &[u8; PUBLIC_KEY_LEN]) -> ExpandedKey {
    ExpandedKey::expand::<Avx512>(public_key)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2")]
fn permute_eight_avx512(states: &mut Eight) {
    let mut words = [EightWords(_mm512_setzero_si512()); 25];
    for (word, from) in words.iter_mut().zip(&states.0) {
        // SAFETY: the pointer is that of 64 bytes.
        word.0 = unsafe { _mm512_loadu_si512(from.as_ptr().cast()) };
    }
    permute_words(&mut words);
    for (to, word) in states.0.iter_mut().zip(words) {
        // SAFETY: the pointer is that of 64 bytes.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), word.0) }
    }
}

/// Calls intrinsics. They become single instructions only where everything around them is inlined into one of the
/// functions above: what lies between takes no closures (`array::map`, `from_fn`) over vectors.
macro_rules! avx512 {
    ($($body:tt)*) => {
        // SAFETY: the processor has AVX-512, because the functions above are the only way in here and were called with
        // the proof of it; what is read and written through pointers are whole arrays behind references.
        unsafe { $($body)* }
    };
}

/// The same lane of eight states.
#[derive(Clone, Copy)]
struct EightWords(__m512i);

impl Word for EightWords {
    #[inline(always)]
    fn splat(word: u64) -> Self {
        avx512! { Self(_mm512_set1_epi64(word.cast_signed())) }
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        avx512! { Self(_mm512_xor_si512(self.0, other.0)) }
    }

    #[inline(always)]
    fn chi(self, not: Self, and: Self) -> Self {
        // The truth table of a ^ (!b & c).
        avx512! { Self(_mm512_ternarylogic_epi64::<0b1101_0010>(self.0, not.0, and.0)) }
    }

    #[inline(always)]
    fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self {
        avx512! { Self(_mm512_rol_epi64::<LEFT>(self.0)) }
    }
}

impl Lanes for Avx512 {
    const NAME: &'static str = "native-avx512";
    type V = __m512i;
    type Sum = __m512i;

    #[inline(always)]
    fn load(from: &[i32; 8]) -> __m512i {
        avx512! { _mm512_cvtepi32_epi64(_mm256_loadu_si256(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store(vector: __m512i, to: &mut [i32; 8]) {
        avx512! { _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_cvtepi64_epi32(vector)) }
    }

    #[inline(always)]
    fn splat(number: i32) -> __m512i {
        avx512! { _mm512_set1_epi64(i64::from(number)) }
    }

    #[inline(always)]
    fn add(a: __m512i, b: __m512i) -> __m512i {
        avx512! { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn sub(a: __m512i, b: __m512i) -> __m512i {
        avx512! { _mm512_sub_epi32(a, b) }
    }

    #[inline(always)]
    fn min(a: __m512i, b: __m512i) -> __m512i {
        avx512! { _mm512_min_epi32(a, b) }
    }

    #[inline(always)]
    fn max(a: __m512i, b: __m512i) -> __m512i {
        avx512! { _mm512_max_epi32(a, b) }
    }

    #[inline(always)]
    fn multiply(a: __m512i, b: __m512i, b_over_q: __m512i) -> __m512i {
        avx512! {
            let quotient = _mm512_mul_epi32(a, b_over_q);
            let multiple = _mm512_mul_epi32(quotient, _mm512_set1_epi64(Q as i64));
            _mm512_srli_epi64::<32>(_mm512_sub_epi64(_mm512_mul_epi32(a, b), multiple))
        }
    }

    #[inline(always)]
    fn no_sum() -> __m512i {
        avx512! { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn accumulate(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        avx512! { _mm512_add_epi64(sum, _mm512_mul_epi32(a, b)) }
    }

    #[inline(always)]
    fn reduce(sum: __m512i) -> __m512i {
        avx512! {
            let quotient = _mm512_mul_epi32(sum, _mm512_set1_epi64(Q_INVERSE as i64));
            let multiple = _mm512_mul_epi32(quotient, _mm512_set1_epi64(Q as i64));
            _mm512_srli_epi64::<32>(_mm512_sub_epi64(sum, multiple))
        }
    }

    #[inline(always)]
    fn transpose(rows: [__m512i; 8]) -> [__m512i; 8] {
        avx512! {
            let [r0, r1, r2, r3, r4, r5, r6, r7] = rows;
            let (a0, a1) = (_mm512_unpacklo_epi64(r0, r1), _mm512_unpackhi_epi64(r0, r1));
            let (a2, a3) = (_mm512_unpacklo_epi64(r2, r3), _mm512_unpackhi_epi64(r2, r3));
            let (a4, a5) = (_mm512_unpacklo_epi64(r4, r5), _mm512_unpackhi_epi64(r4, r5));
            let (a6, a7) = (_mm512_unpacklo_epi64(r6, r7), _mm512_unpackhi_epi64(r6, r7));
            // Pairs of places 0 and 4, and 2 and 6, of two vectors; then the halves of those.
            let low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
            let high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
            let (b0, b1) = (_mm512_permutex2var_epi64(a0, low, a2), _mm512_permutex2var_epi64(a1, low, a3));
            let (b2, b3) = (_mm512_permutex2var_epi64(a0, high, a2), _mm512_permutex2var_epi64(a1, high, a3));
            let (b4, b5) = (_mm512_permutex2var_epi64(a4, low, a6), _mm512_permutex2var_epi64(a5, low, a7));
            let (b6, b7) = (_mm512_permutex2var_epi64(a4, high, a6), _mm512_permutex2var_epi64(a5, high, a7));
            [
                _mm512_shuffle_i64x2::<0x44>(b0, b4),
                _mm512_shuffle_i64x2::<0x44>(b1, b5),
                _mm512_shuffle_i64x2::<0x44>(b2, b6),
                _mm512_shuffle_i64x2::<0x44>(b3, b7),
                _mm512_shuffle_i64x2::<0xee>(b0, b4),
                _mm512_shuffle_i64x2::<0xee>(b1, b5),
                _mm512_shuffle_i64x2::<0xee>(b2, b6),
                _mm512_shuffle_i64x2::<0xee>(b3, b7),
            ]
        }
    }

    #[inline(always)]
    fn unpack_20(bytes: &[u8; 20]) -> __m512i {
        avx512! { _mm512_cvtepi32_epi64(Avx2::unpack_20(bytes)) }
    }

    #[inline(always)]
    fn unpack_23(bytes: &[u8; 24]) -> __m512i {
        avx512! { _mm512_cvtepi32_epi64(Avx2::unpack_23(bytes)) }
    }

    #[inline(always)]
    fn permute_eight(states: &mut Eight) {
        avx512! { permute_eight_avx512(states) }
    }
}
