//! Products whose factors are rounded to `bfloat16`, with sums in `f32`: about twice as fast where the processor has the
//! instruction.
//!
//! Two terms that follow each other share a word, in both factors: the first in the lower half. The instruction adds the product
//! of the upper halves to a sum, then that of the lower halves; each addition rounds once, and subnormal numbers count as zero. The
//! sums of blocks are added in order, as in [`crate::gemm`], so a row depends neither on the other rows nor on threads.

use std::arch::x86_64::{
    __m256i, __m512, __m512bh, __m512i, _mm256_storeu_si256, _mm512_add_ps, _mm512_cvtepu16_epi32,
    _mm512_cvtneps_pbh, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_maskz_loadu_ps, _mm512_or_si512,
    _mm512_set1_epi32, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_storeu_si512,
};

use crate::gemm::ROW_STRIDE;
use crate::gemm::level::Tile;
use crate::gemm::x86::{AVX512_COLUMNS, lanes};

/// Tiles of 1 to 14 rows, as those of AVX-512. Depths are numbers of pairs.
pub(super) const TILES: [Tile; 14] = [
    tile::<1>, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>, tile::<7>, tile::<8>, tile::<9>,
    tile::<10>, tile::<11>, tile::<12>, tile::<13>, tile::<14>,
];

/// Returns whether the processor has the instructions.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile<const R: usize>(
    pairs: usize,
    left: *const f32,
    panel: *const f32,
    out: *mut f32,
    stride: usize,
    add: bool,
) {
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    for pair in 0..pairs {
        // SAFETY: the panel holds `pairs` rows of words, each row of the left factor `pairs` words (the caller's promise).
        unsafe {
            let b = panel.add(pair * AVX512_COLUMNS);
            let (b0, b1) = (words(_mm512_loadu_ps(b)), words(_mm512_loadu_ps(b.add(16))));
            for (row, sums) in sums.iter_mut().enumerate() {
                let word = (*left.add(row * ROW_STRIDE + pair)).to_bits();
                let a: __m512bh = std::mem::transmute(_mm512_set1_epi32(word.cast_signed()));
                sums[0] = _mm512_dpbf16_ps(sums[0], a, b0);
                sums[1] = _mm512_dpbf16_ps(sums[1], a, b1);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (half, &sum) in sums.iter().enumerate() {
            // SAFETY: the tile lies inside the output (the caller's promise).
            unsafe {
                let out = out.add(row * stride + half * 16);
                let sum = if add { _mm512_add_ps(_mm512_loadu_ps(out), sum) } else { sum };
                _mm512_storeu_ps(out, sum);
            }
        }
    }
}

/// Views 16 words as pairs.
#[inline(always)]
fn words(vector: __m512) -> __m512bh {
    // SAFETY: both are 512 bits of any value.
    unsafe { std::mem::transmute(vector) }
}

/// Rounds the first `depth` numbers of rows at a distance of [`ROW_STRIDE`] to pairs at the start of each row. A missing last
/// number is zero.
///
/// # Panics
///
/// Panics if `block` does not hold whole rows, or `depth` is larger than a row.
pub(super) fn pack_rows(block: &mut [f32], depth: usize) {
    assert!(block.len().is_multiple_of(ROW_STRIDE) && depth.next_multiple_of(16) <= ROW_STRIDE, "whole rows");
    for row in block.chunks_mut(ROW_STRIDE) {
        // SAFETY: the setting that leads here is refused without the instructions; the row's length was checked.
        unsafe { pack_row(row.as_mut_ptr(), depth) };
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pack_row(row: *mut f32, depth: usize) {
    for first in (0..depth).step_by(16) {
        // SAFETY: inside the row (the caller's promise); numbers are read before halves are written over them.
        unsafe {
            let numbers = _mm512_maskz_loadu_ps(lanes(depth - first), row.add(first));
            let halves: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(numbers));
            _mm256_storeu_si256(row.cast::<u16>().add(first).cast(), halves);
        }
    }
}

/// Rounds the rows of a panel, `depth` rows of [`AVX512_COLUMNS`], to pairs of rows at its start.
///
/// # Panics
///
/// Panics if the panel is too short.
pub(super) fn pack_panel(panel: &mut [f32], depth: usize) {
    assert!(panel.len() >= depth * AVX512_COLUMNS, "the panel holds its rows");
    // SAFETY: the setting that leads here is refused without the instructions; the length was checked.
    unsafe { pack_panel_rows(panel.as_mut_ptr(), depth) };
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack_panel_rows(panel: *mut f32, depth: usize) {
    for pair in 0..depth.div_ceil(2) {
        for half in [0, 16] {
            // SAFETY: inside the panel; the row that is written is not read later.
            unsafe {
                let first = panel.add(2 * pair * AVX512_COLUMNS + half);
                let lower = rounded(_mm512_loadu_ps(first));
                let upper = if 2 * pair + 1 < depth {
                    rounded(_mm512_loadu_ps(first.add(AVX512_COLUMNS)))
                } else {
                    rounded(_mm512_setzero_ps())
                };
                let word = _mm512_or_si512(lower, _mm512_slli_epi32::<16>(upper));
                _mm512_storeu_si512(panel.add(pair * AVX512_COLUMNS + half).cast(), word);
            }
        }
    }
}

/// Returns 16 numbers as words with `bfloat16` in their lower halves.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn rounded(numbers: __m512) -> __m512i {
    // SAFETY: both are 256 bits of any value.
    let halves: __m256i = unsafe { std::mem::transmute(_mm512_cvtneps_pbh(numbers)) };
    _mm512_cvtepu16_epi32(halves)
}
