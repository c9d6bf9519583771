//! Eight coefficients and twice four Keccak states in AVX2's registers.
//!
//! A value of [`Avx2`] is the proof that the processor has what the code needs; the vector operations are reached only
//! through the functions here that take one.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_add_epi32, _mm256_add_epi64, _mm256_and_si256, _mm256_andnot_si256,
    _mm256_blend_epi32, _mm256_loadu_si256, _mm256_max_epi32, _mm256_min_epi32, _mm256_mul_epi32, _mm256_or_si256,
    _mm256_permute2x128_si256, _mm256_set_m128i, _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_setr_epi8,
    _mm256_setr_epi32, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi64, _mm256_srli_epi64,
    _mm256_srlv_epi32, _mm256_storeu_si256, _mm256_sub_epi32, _mm256_sub_epi64, _mm256_unpackhi_epi32,
    _mm256_unpackhi_epi64, _mm256_unpacklo_epi32, _mm256_unpacklo_epi64, _mm256_xor_si256,
};

use super::expand::ExpandedKey;
use super::lanes::Lanes;
use super::ntt::{Q, Q_INVERSE};
use super::verify;
use crate::keccak::{Eight, Word, permute_words};
use crate::verify::{PUBLIC_KEY_LEN, SIGNATURE_LEN};

/// Proof that this processor has AVX2 and the bit instructions that came with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        let found =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2");
        found.then_some(Self(()))
    }

    /// [`verify::commitment`] in AVX2.
    pub(crate) fn commitment(
        self,
        key: &ExpandedKey,
        signature: &[u8; SIGNATURE_LEN],
        w1: &mut [u8; verify::W1],
    ) -> bool {
        // SAFETY: `self` exists, so the processor has the features.
        unsafe { commitment_avx2(key, signature, w1) }
    }

    /// [`ExpandedKey::expand`] in AVX2.
    pub(crate) fn expand(self, public_key: &[u8; PUBLIC_KEY_LEN]) -> ExpandedKey {
        // SAFETY: `self` exists, so the processor has the features.
        unsafe { expand_avx2(public_key) }
    }

    /// Keccak-f[1600] of eight states.
    pub(crate) fn permute_eight(self, states: &mut Eight) {
        // SAFETY: `self` exists, so the processor has the features.
        unsafe { permute_eight_avx2(states) }
    }
}

#[target_feature(enable = "avx2,bmi1,bmi2")]
fn commitment_avx2(key: &ExpandedKey, signature: &[u8; SIGNATURE_LEN], w1: &mut [u8; verify::W1]) -> bool {
    verify::commitment::<Avx2>(key, signature, w1)
}

#[target_feature(enable = "avx2,bmi1,bmi2")]
fn expand_avx2(public_key: &[u8; PUBLIC_KEY_LEN]) -> ExpandedKey {
    ExpandedKey::expand::<Avx2>(public_key)
}

#[target_feature(enable = "avx2,bmi1,bmi2")]
fn permute_eight_avx2(states: &mut Eight) {
    for first in [0, 4] {
        let mut words = [FourWords(_mm256_setzero_si256()); 25];
        for (word, from) in words.iter_mut().zip(&states.0) {
            // SAFETY: the pointer is that of 32 bytes.
            word.0 = unsafe { _mm256_loadu_si256(from[first..first + 4].as_ptr().cast()) };
        }
        permute_words(&mut words);
        for (to, word) in states.0.iter_mut().zip(words) {
            // SAFETY: the pointer is that of 32 bytes.
            unsafe { _mm256_storeu_si256(to[first..first + 4].as_mut_ptr().cast(), word.0) }
        }
    }
}

/// Calls intrinsics. They become single instructions only where everything around them is inlined into one of the
/// functions above: what lies between takes no closures (`array::map`, `from_fn`) over vectors.
macro_rules! avx2 {
    ($($body:tt)*) => {
        // SAFETY: the processor has AVX2, because the functions above are the only way in here and were called with
        // the proof of it; what is read and written through pointers are whole arrays behind references.
        unsafe { $($body)* }
    };
}

/// The same lane of four states.
#[derive(Clone, Copy)]
struct FourWords(__m256i);

impl Word for FourWords {
    #[inline(always)]
    fn splat(word: u64) -> Self {
        avx2! { Self(_mm256_set1_epi64x(word.cast_signed())) }
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        avx2! { Self(_mm256_xor_si256(self.0, other.0)) }
    }

    #[inline(always)]
    fn chi(self, not: Self, and: Self) -> Self {
        avx2! { Self(_mm256_xor_si256(self.0, _mm256_andnot_si256(not.0, and.0))) }
    }

    #[inline(always)]
    fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self {
        avx2! { Self(_mm256_or_si256(_mm256_slli_epi64::<LEFT>(self.0), _mm256_srli_epi64::<RIGHT>(self.0))) }
    }
}

/// The odd numbers in the places of the even ones.
#[inline(always)]
fn odd(a: __m256i) -> __m256i {
    avx2! { _mm256_srli_epi64::<32>(a) }
}

/// The high halves of products of even and of odd numbers, in their places.
#[inline(always)]
fn high(of_even: __m256i, of_odd: __m256i) -> __m256i {
    avx2! { _mm256_blend_epi32::<0b1010_1010>(odd(of_even), of_odd) }
}

impl Lanes for Avx2 {
    const NAME: &'static str = "native-avx2";
    type V = __m256i;
    /// The even places and the odd ones.
    type Sum = [__m256i; 2];

    #[inline(always)]
    fn load(from: &[i32; 8]) -> __m256i {
        avx2! { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(vector: __m256i, to: &mut [i32; 8]) {
        avx2! { _mm256_storeu_si256(to.as_mut_ptr().cast(), vector) }
    }

    #[inline(always)]
    fn splat(number: i32) -> __m256i {
        avx2! { _mm256_set1_epi32(number) }
    }

    #[inline(always)]
    fn add(a: __m256i, b: __m256i) -> __m256i {
        avx2! { _mm256_add_epi32(a, b) }
    }

    #[inline(always)]
    fn sub(a: __m256i, b: __m256i) -> __m256i {
        avx2! { _mm256_sub_epi32(a, b) }
    }

    #[inline(always)]
    fn min(a: __m256i, b: __m256i) -> __m256i {
        avx2! { _mm256_min_epi32(a, b) }
    }

    #[inline(always)]
    fn max(a: __m256i, b: __m256i) -> __m256i {
        avx2! { _mm256_max_epi32(a, b) }
    }

    #[inline(always)]
    fn multiply(a: __m256i, b: __m256i, b_over_q: __m256i) -> __m256i {
        avx2! {
            let q = _mm256_set1_epi32(Q);
            let (a_odd, b_odd, quotient_odd) = (odd(a), odd(b), odd(b_over_q));
            let product = high(_mm256_mul_epi32(a, b), _mm256_mul_epi32(a_odd, b_odd));
            let even = _mm256_mul_epi32(_mm256_mul_epi32(a, b_over_q), q);
            let odd = _mm256_mul_epi32(_mm256_mul_epi32(a_odd, quotient_odd), q);
            // The low halves are equal, so the high halves can be subtracted alone.
            _mm256_sub_epi32(product, high(even, odd))
        }
    }

    #[inline(always)]
    fn no_sum() -> [__m256i; 2] {
        avx2! { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    fn accumulate(sum: [__m256i; 2], a: __m256i, b: __m256i) -> [__m256i; 2] {
        avx2! {
            [
                _mm256_add_epi64(sum[0], _mm256_mul_epi32(a, b)),
                _mm256_add_epi64(sum[1], _mm256_mul_epi32(odd(a), odd(b))),
            ]
        }
    }

    #[inline(always)]
    fn reduce(sum: [__m256i; 2]) -> __m256i {
        avx2! {
            let (q, q_inverse) = (_mm256_set1_epi32(Q), _mm256_set1_epi32(Q_INVERSE));
            let even = _mm256_mul_epi32(_mm256_mul_epi32(sum[0], q_inverse), q);
            let odd = _mm256_mul_epi32(_mm256_mul_epi32(sum[1], q_inverse), q);
            high(_mm256_sub_epi64(sum[0], even), _mm256_sub_epi64(sum[1], odd))
        }
    }

    #[inline(always)]
    fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
        avx2! {
            let [r0, r1, r2, r3, r4, r5, r6, r7] = rows;
            let (a0, a1) = (_mm256_unpacklo_epi32(r0, r1), _mm256_unpackhi_epi32(r0, r1));
            let (a2, a3) = (_mm256_unpacklo_epi32(r2, r3), _mm256_unpackhi_epi32(r2, r3));
            let (a4, a5) = (_mm256_unpacklo_epi32(r4, r5), _mm256_unpackhi_epi32(r4, r5));
            let (a6, a7) = (_mm256_unpacklo_epi32(r6, r7), _mm256_unpackhi_epi32(r6, r7));
            let (b0, b1) = (_mm256_unpacklo_epi64(a0, a2), _mm256_unpackhi_epi64(a0, a2));
            let (b2, b3) = (_mm256_unpacklo_epi64(a1, a3), _mm256_unpackhi_epi64(a1, a3));
            let (b4, b5) = (_mm256_unpacklo_epi64(a4, a6), _mm256_unpackhi_epi64(a4, a6));
            let (b6, b7) = (_mm256_unpacklo_epi64(a5, a7), _mm256_unpackhi_epi64(a5, a7));
            [
                _mm256_permute2x128_si256::<0x20>(b0, b4),
                _mm256_permute2x128_si256::<0x20>(b1, b5),
                _mm256_permute2x128_si256::<0x20>(b2, b6),
                _mm256_permute2x128_si256::<0x20>(b3, b7),
                _mm256_permute2x128_si256::<0x31>(b0, b4),
                _mm256_permute2x128_si256::<0x31>(b1, b5),
                _mm256_permute2x128_si256::<0x31>(b2, b6),
                _mm256_permute2x128_si256::<0x31>(b3, b7),
            ]
        }
    }

    #[inline(always)]
    fn unpack_20(bytes: &[u8; 20]) -> __m256i {
        avx2! {
            // Numbers 0 to 3 stand in bytes 0 to 9, numbers 4 to 7 in bytes 10 to 19, which are 6 to 15 from byte 4 on.
            let halves = _mm256_set_m128i(
                _mm_loadu_si128(bytes[4..].as_ptr().cast()),
                _mm_loadu_si128(bytes.as_ptr().cast()),
            );
            let words = _mm256_shuffle_epi8(halves, _mm256_setr_epi8(
                0, 1, 2, -1, 2, 3, 4, -1, 5, 6, 7, -1, 7, 8, 9, -1,
                6, 7, 8, -1, 8, 9, 10, -1, 11, 12, 13, -1, 13, 14, 15, -1,
            ));
            let shifted = _mm256_srlv_epi32(words, _mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4));
            _mm256_and_si256(shifted, _mm256_set1_epi32(0xf_ffff))
        }
    }

    #[inline(always)]
    fn unpack_23(bytes: &[u8; 24]) -> __m256i {
        avx2! {
            // Numbers 0 to 3 stand in bytes 0 to 11, numbers 4 to 7 in bytes 12 to 23, which are 4 to 15 from byte 8 on.
            let halves = _mm256_set_m128i(
                _mm_loadu_si128(bytes[8..].as_ptr().cast()),
                _mm_loadu_si128(bytes.as_ptr().cast()),
            );
            let words = _mm256_shuffle_epi8(halves, _mm256_setr_epi8(
                0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1,
                4, 5, 6, -1, 7, 8, 9, -1, 10, 11, 12, -1, 13, 14, 15, -1,
            ));
            _mm256_and_si256(words, _mm256_set1_epi32(0x7f_ffff))
        }
    }

    #[inline(always)]
    fn permute_eight(states: &mut Eight) {
        avx2! { permute_eight_avx2(states) }
    }
}
