//! Unpacking of one group of 16 rows with vector instructions: each lane is a row.

use std::arch::x86_64::{
    __m256, __m256i, __m512, __m512i, _mm_cvtsi32_si128, _mm256_add_epi32, _mm256_add_ps, _mm256_and_si256,
    _mm256_blendv_ps, _mm256_castps_si256, _mm256_castsi256_ps, _mm256_cmpeq_epi32, _mm256_cvtepi32_ps,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_mul_ps, _mm256_or_ps, _mm256_or_si256,
    _mm256_permutevar8x32_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_ps, _mm256_setzero_si256,
    _mm256_sll_epi32, _mm256_slli_epi32, _mm256_srl_epi32, _mm256_srli_epi32, _mm256_storeu_ps,
    _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_cmpeq_epi32_mask, _mm512_cvtepi32_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_blend_ps,
    _mm512_mul_ps, _mm512_or_si512, _mm512_permutexvar_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setr_ps,
    _mm512_setzero_si512, _mm512_sll_epi32, _mm512_slli_epi32, _mm512_srl_epi32, _mm512_srli_epi32,
    _mm512_storeu_ps,
};

use crate::packed::format::{Format, Kind};
use crate::packed::group::Group;

/// Unpacks `group` with 512-bit vectors.
///
/// # Safety
///
/// The processor has AVX-512.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn unpack_avx512<F: Format>(group: &mut Group<'_>) {
    check::<F>(group);
    let mask = _mm512_set1_epi32((1 << F::BITS) - 1);
    // SAFETY: references to 16 numbers.
    let scale = unsafe { _mm512_loadu_ps(group.scales.as_ptr()) };
    // SAFETY: as above.
    let bias = group.biases.map(|biases| unsafe { _mm512_loadu_ps(biases.as_ptr()) });
    let unit = unit::<F>();
    for first in (0..group.count).step_by(unit) {
        let words = group.words[first * F::BITS / 32..].as_ptr();
        for number in 0..unit {
            let (word, shift) = (number * F::BITS / 32, number * F::BITS % 32);
            // SAFETY: `check` found the words and the panel large enough.
            unsafe {
                let low = _mm512_loadu_si512(words.add(word).cast());
                let mut code = _mm512_srl_epi32(low, _mm_cvtsi32_si128(shift as i32));
                if shift + F::BITS > 32 {
                    let high = _mm512_loadu_si512(words.add(word + 1).cast());
                    code =
                        _mm512_or_si512(code, _mm512_sll_epi32(high, _mm_cvtsi32_si128(32 - shift as i32)));
                }
                let value = value_avx512(F::KIND, _mm512_and_si512(code, mask));
                let product = _mm512_mul_ps(scale, value);
                let number_at = group.panel.as_mut_ptr().add((first + number) * group.width);
                _mm512_storeu_ps(number_at, bias.map_or(product, |bias| _mm512_add_ps(product, bias)));
            }
        }
    }
}

/// Unpacks `group` with 256-bit vectors.
///
/// # Safety
///
/// The processor has AVX2.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn unpack_avx2<F: Format>(group: &mut Group<'_>) {
    check::<F>(group);
    let mask = _mm256_set1_epi32((1 << F::BITS) - 1);
    let unit = unit::<F>();
    for half in [0, 8] {
        // SAFETY: references to 16 numbers.
        let scale = unsafe { _mm256_loadu_ps(group.scales.as_ptr().add(half)) };
        // SAFETY: as above.
        let bias = group.biases.map(|biases| unsafe { _mm256_loadu_ps(biases.as_ptr().add(half)) });
        for first in (0..group.count).step_by(unit) {
            let words = group.words[first * F::BITS / 32..].as_ptr();
            for number in 0..unit {
                let (word, shift) = (number * F::BITS / 32, number * F::BITS % 32);
                // SAFETY: `check` found the words and the panel large enough.
                unsafe {
                    let low = _mm256_loadu_si256(words.add(word).cast::<u32>().add(half).cast());
                    let mut code = _mm256_srl_epi32(low, _mm_cvtsi32_si128(shift as i32));
                    if shift + F::BITS > 32 {
                        let high = _mm256_loadu_si256(words.add(word + 1).cast::<u32>().add(half).cast());
                        code = _mm256_or_si256(
                            code,
                            _mm256_sll_epi32(high, _mm_cvtsi32_si128(32 - shift as i32)),
                        );
                    }
                    let value = value_avx2(F::KIND, _mm256_and_si256(code, mask));
                    let product = _mm256_mul_ps(scale, value);
                    let number_at = group.panel.as_mut_ptr().add((first + number) * group.width + half);
                    _mm256_storeu_ps(number_at, bias.map_or(product, |bias| _mm256_add_ps(product, bias)));
                }
            }
        }
    }
}

/// Returns a number of packed numbers that fill whole words.
fn unit<F: Format>() -> usize {
    if F::BITS.is_multiple_of(2) { 16 } else { 32 }
}

/// Checks that a group is complete.
fn check<F: Format>(group: &Group<'_>) {
    assert!(group.count > 0 && group.count.is_multiple_of(unit::<F>()), "whole words");
    assert!(group.words.len() >= group.count * F::BITS / 32, "the words hold the group");
    assert!(group.panel.len() >= (group.count - 1) * group.width + 16, "the panel holds the group");
}

/// Magnitudes of 4-bit floats.
const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn value_avx512(kind: Kind, code: __m512i) -> __m512 {
    match kind {
        Kind::Integer => _mm512_cvtepi32_ps(code),
        Kind::Float4 => {
            let [a, b, c, d, e, f, g, h] = MAGNITUDES;
            let table = _mm512_setr_ps(a, b, c, d, e, f, g, h, -a, -b, -c, -d, -e, -f, -g, -h);
            _mm512_permutexvar_ps(code, table)
        }
        Kind::Float8 => {
            let exponent = _mm512_and_si512(_mm512_srli_epi32::<3>(code), _mm512_set1_epi32(15));
            let mantissa = _mm512_and_si512(code, _mm512_set1_epi32(7));
            let biased = _mm512_slli_epi32::<23>(_mm512_add_epi32(exponent, _mm512_set1_epi32(120)));
            let normal = _mm512_castsi512_ps(_mm512_or_si512(biased, _mm512_slli_epi32::<20>(mantissa)));
            let subnormal = _mm512_mul_ps(_mm512_cvtepi32_ps(mantissa), _mm512_set1_ps(1.0 / 512.0));
            let is_subnormal = _mm512_cmpeq_epi32_mask(exponent, _mm512_setzero_si512());
            let size = _mm512_castps_si512(_mm512_mask_blend_ps(is_subnormal, normal, subnormal));
            let sign = _mm512_slli_epi32::<24>(_mm512_and_si512(code, _mm512_set1_epi32(128)));
            _mm512_castsi512_ps(_mm512_or_si512(size, sign))
        }
    }
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn value_avx2(kind: Kind, code: __m256i) -> __m256 {
    match kind {
        Kind::Integer => _mm256_cvtepi32_ps(code),
        Kind::Float4 => {
            let [a, b, c, d, e, f, g, h] = MAGNITUDES;
            let size = _mm256_permutevar8x32_ps(_mm256_setr_ps(a, b, c, d, e, f, g, h), code);
            let sign = _mm256_slli_epi32::<28>(_mm256_and_si256(code, _mm256_set1_epi32(8)));
            _mm256_or_ps(size, _mm256_castsi256_ps(sign))
        }
        Kind::Float8 => {
            let exponent = _mm256_and_si256(_mm256_srli_epi32::<3>(code), _mm256_set1_epi32(15));
            let mantissa = _mm256_and_si256(code, _mm256_set1_epi32(7));
            let biased = _mm256_slli_epi32::<23>(_mm256_add_epi32(exponent, _mm256_set1_epi32(120)));
            let normal = _mm256_castsi256_ps(_mm256_or_si256(biased, _mm256_slli_epi32::<20>(mantissa)));
            let subnormal = _mm256_mul_ps(_mm256_cvtepi32_ps(mantissa), _mm256_set1_ps(1.0 / 512.0));
            let is_subnormal = _mm256_castsi256_ps(_mm256_cmpeq_epi32(exponent, _mm256_setzero_si256()));
            let size = _mm256_castps_si256(_mm256_blendv_ps(normal, subnormal, is_subnormal));
            let sign = _mm256_slli_epi32::<24>(_mm256_and_si256(code, _mm256_set1_epi32(128)));
            _mm256_castsi256_ps(_mm256_or_si256(size, sign))
        }
    }
}
