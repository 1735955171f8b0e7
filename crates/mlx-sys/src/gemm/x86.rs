//! Kernels for AVX2 and AVX-512.

use std::arch::x86_64::{
    __m256, __m512, _MM_HINT_T0, _mm_prefetch, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_permute2f128_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_storeu_ps,
    _mm256_unpackhi_ps, _mm256_unpacklo_ps, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4,
    _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

use crate::gemm::ROW_STRIDE;
use crate::gemm::level::Tile;

/// Columns of a panel: two vectors.
pub(super) const AVX512_COLUMNS: usize = 32;

/// Columns of a panel: two vectors.
pub(super) const AVX2_COLUMNS: usize = 16;

/// Tiles of 1 to 14 rows: 28 sums, two vectors of the panel, one number of the left factor.
pub(super) const AVX512_TILES: [Tile; 14] = [
    tile_avx512::<1>,
    tile_avx512::<2>,
    tile_avx512::<3>,
    tile_avx512::<4>,
    tile_avx512::<5>,
    tile_avx512::<6>,
    tile_avx512::<7>,
    tile_avx512::<8>,
    tile_avx512::<9>,
    tile_avx512::<10>,
    tile_avx512::<11>,
    tile_avx512::<12>,
    tile_avx512::<13>,
    tile_avx512::<14>,
];

/// Tiles of 1 to 6 rows: 12 sums, two vectors of the panel, one number of the left factor.
pub(super) const AVX2_TILES: [Tile; 6] =
    [tile_avx2::<1>, tile_avx2::<2>, tile_avx2::<3>, tile_avx2::<4>, tile_avx2::<5>, tile_avx2::<6>];

#[target_feature(enable = "avx512f")]
unsafe fn tile_avx512<const R: usize>(
    depth: usize,
    left: *const f32,
    panel: *const f32,
    out: *mut f32,
    stride: usize,
    add: bool,
) {
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    for term in 0..depth {
        // SAFETY: the panel holds `depth` rows, each row of the left factor `depth` numbers (the caller's promise).
        unsafe {
            let b = panel.add(term * AVX512_COLUMNS);
            let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_ps(*left.add(row * ROW_STRIDE + term));
                sums[0] = _mm512_fmadd_ps(a, b0, sums[0]);
                sums[1] = _mm512_fmadd_ps(a, b1, sums[1]);
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

#[target_feature(enable = "avx2,fma")]
unsafe fn tile_avx2<const R: usize>(
    depth: usize,
    left: *const f32,
    panel: *const f32,
    out: *mut f32,
    stride: usize,
    add: bool,
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    for term in 0..depth {
        // SAFETY: the panel holds `depth` rows, each row of the left factor `depth` numbers (the caller's promise).
        unsafe {
            let b = panel.add(term * AVX2_COLUMNS);
            let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = _mm256_set1_ps(*left.add(row * ROW_STRIDE + term));
                sums[0] = _mm256_fmadd_ps(a, b0, sums[0]);
                sums[1] = _mm256_fmadd_ps(a, b1, sums[1]);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (half, &sum) in sums.iter().enumerate() {
            // SAFETY: the tile lies inside the output (the caller's promise).
            unsafe {
                let out = out.add(row * stride + half * 8);
                let sum = if add { _mm256_add_ps(_mm256_loadu_ps(out), sum) } else { sum };
                _mm256_storeu_ps(out, sum);
            }
        }
    }
}

/// Transposes 16 rows of 16 numbers, at distances of `from_stride` and `to_stride`, and asks for as many rows
/// from `ahead` on.
///
/// # Safety
///
/// The processor has AVX-512; both sides hold 16 rows of 16 numbers.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose_avx512(
    from: *const f32,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
    ahead: *const f32,
) {
    let mut rows = [_mm512_setzero_ps(); 16];
    for (index, row) in rows.iter_mut().enumerate() {
        // SAFETY: the caller's promise; a prefetch may name any address.
        unsafe {
            let at = from.add(index * from_stride);
            *row = _mm512_loadu_ps(at);
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(index * from_stride).cast());
        }
    }
    let columns = transposed_avx512(rows);
    for (index, column) in columns.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(to.add(index * to_stride), column) };
    }
}

/// Transposes 16 vectors: pairs of numbers, of pairs, and of quarters are exchanged in turn.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn transposed_avx512(rows: [__m512; 16]) -> [__m512; 16] {
    let mut out = [_mm512_setzero_ps(); 16];
    let mut fours = [_mm512_setzero_ps(); 16];
    for group in 0..4 {
        let r = &rows[4 * group..4 * group + 4];
        let low =
            [_mm512_unpacklo_ps(r[0], r[1]), _mm512_unpacklo_ps(r[2], r[3])].map(|v| _mm512_castps_pd(v));
        let high =
            [_mm512_unpackhi_ps(r[0], r[1]), _mm512_unpackhi_ps(r[2], r[3])].map(|v| _mm512_castps_pd(v));
        // fours[4 * group + j]: column j (and 4 + j, 8 + j, 12 + j) of the group's four rows.
        fours[4 * group] = _mm512_castpd_ps(_mm512_unpacklo_pd(low[0], low[1]));
        fours[4 * group + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low[0], low[1]));
        fours[4 * group + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high[0], high[1]));
        fours[4 * group + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high[0], high[1]));
    }
    for j in 0..4 {
        let a = _mm512_shuffle_f32x4::<0b10_00_10_00>(fours[j], fours[4 + j]);
        let b = _mm512_shuffle_f32x4::<0b11_01_11_01>(fours[j], fours[4 + j]);
        let c = _mm512_shuffle_f32x4::<0b10_00_10_00>(fours[8 + j], fours[12 + j]);
        let d = _mm512_shuffle_f32x4::<0b11_01_11_01>(fours[8 + j], fours[12 + j]);
        out[j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, c);
        out[4 + j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(b, d);
        out[8 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, c);
        out[12 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(b, d);
    }
    out
}

/// Transposes 16 rows of 16 numbers as four squares; see [`transpose_avx512`].
///
/// # Safety
///
/// The processor has AVX2; both sides hold 16 rows of 16 numbers.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn transpose_avx2(
    from: *const f32,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
    ahead: *const f32,
) {
    for (down, across) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
        let mut rows = [_mm256_setzero_ps(); 8];
        for (index, row) in rows.iter_mut().enumerate() {
            // SAFETY: the caller's promise; a prefetch may name any address.
            unsafe {
                let at = from.add((down + index) * from_stride + across);
                *row = _mm256_loadu_ps(at);
                if across == 0 {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add((down + index) * from_stride).cast());
                }
            }
        }
        let columns = transposed_avx2(rows);
        for (index, column) in columns.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { _mm256_storeu_ps(to.add((across + index) * to_stride + down), column) };
        }
    }
}

/// Transposes 8 vectors.
#[target_feature(enable = "avx2")]
#[inline]
fn transposed_avx2(rows: [__m256; 8]) -> [__m256; 8] {
    let mut out = [_mm256_setzero_ps(); 8];
    let mut fours = [_mm256_setzero_ps(); 8];
    for group in 0..2 {
        let r = &rows[4 * group..4 * group + 4];
        let (a, b) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpacklo_ps(r[2], r[3]));
        let (c, d) = (_mm256_unpackhi_ps(r[0], r[1]), _mm256_unpackhi_ps(r[2], r[3]));
        fours[4 * group] = _mm256_shuffle_ps::<0b01_00_01_00>(a, b);
        fours[4 * group + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(a, b);
        fours[4 * group + 2] = _mm256_shuffle_ps::<0b01_00_01_00>(c, d);
        fours[4 * group + 3] = _mm256_shuffle_ps::<0b11_10_11_10>(c, d);
    }
    for j in 0..4 {
        out[j] = _mm256_permute2f128_ps::<0x20>(fours[j], fours[4 + j]);
        out[4 + j] = _mm256_permute2f128_ps::<0x31>(fours[j], fours[4 + j]);
    }
    out
}

/// See [`crate::gemm::rows::add_rows`].
///
/// # Safety
///
/// The processor has AVX-512.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn add_rows_avx512(factors: &[f32], rows: [&[f32]; 4], sums: &mut [f32]) {
    add_rows(factors, rows, sums);
}

/// See [`crate::gemm::rows::add_rows`].
///
/// # Safety
///
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn add_rows_avx2(factors: &[f32], rows: [&[f32]; 4], sums: &mut [f32]) {
    add_rows(factors, rows, sums);
}

/// Adds four terms to each sum, in order, by fused multiply-add.
#[inline(always)]
fn add_rows(factors: &[f32], [a, b, c, d]: [&[f32]; 4], sums: &mut [f32]) {
    let [p, q, r, s] = [factors[0], factors[1], factors[2], factors[3]];
    let terms = a.iter().zip(b).zip(c.iter().zip(d));
    for (sum, ((a, b), (c, d))) in sums.iter_mut().zip(terms) {
        *sum = s.mul_add(*d, r.mul_add(*c, q.mul_add(*b, p.mul_add(*a, *sum))));
    }
}

/// Adds one term to each sum.
///
/// # Safety
///
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn add_row(factor: f32, row: &[f32], sums: &mut [f32]) {
    sums.iter_mut().zip(row).for_each(|(sum, term)| *sum = factor.mul_add(*term, *sum));
}

/// Returns a mask of the first `count` lanes of 16.
pub(super) fn lanes(count: usize) -> u16 {
    if count >= 16 { u16::MAX } else { (1 << count) - 1 }
}
