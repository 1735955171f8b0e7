//! Products of a few rows with a right factor whose columns are contiguous, such as a weight during decoding. Each column is
//! read once, in squares that are transposed in registers and never written to a panel.

use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _mm_prefetch, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use crate::gemm::x86::{AVX512_COLUMNS, lanes, transposed_avx512};
use crate::gemm::{Job, ROW_STRIDE, SUM_BLOCK, Source};

/// Rows up to which the sums stay in registers beside a square.
pub(super) const MOST_ROWS: usize = 8;

/// Columns that are summed at one time, and terms of a square.
const SIDE: usize = 16;

/// Largest group of columns, in numbers, that is prefetched whole: more would leave the L2 cache before it is read.
const FAR: usize = 1 << 16;

/// Multiplies a fixed number of rows by [`SIDE`] columns.
type Kernel = unsafe fn(&Columns);

const KERNELS: [Kernel; MOST_ROWS] = [
    multiply::<1>,
    multiply::<2>,
    multiply::<3>,
    multiply::<4>,
    multiply::<5>,
    multiply::<6>,
    multiply::<7>,
    multiply::<8>,
];

/// [`SIDE`] columns of the right factor, the left factor and the place of the result.
struct Columns {
    /// First number of the first column.
    from: *const f32,
    /// Distance between columns.
    stride: usize,
    /// Numbers of a column.
    depth: usize,
    /// First row of the left factor's first block.
    left: *const f32,
    /// Distance between blocks of the left factor.
    left_block: usize,
    out: *mut f32,
    out_stride: usize,
    add: bool,
}

impl<S: Source> Job<'_, S> {
    /// Computes some rows of one panel's columns, and returns true; or returns false if the columns are not contiguous or the panel
    /// is not whole.
    pub(super) fn multiply_columns(&self, rows: std::ops::Range<usize>, panel: usize) -> bool {
        let first = panel * AVX512_COLUMNS;
        let Some(columns) = self.right.columns().filter(|_| first + AVX512_COLUMNS <= self.shape.n) else {
            return false;
        };
        for first in [first, first + SIDE] {
            let lines = columns.lines_from(first);
            assert!(
                lines.len() >= (SIDE - 1) * columns.stride() + self.shape.k,
                "the factor holds the columns"
            );
            // SAFETY: inside the result, whose extents were checked.
            let out = unsafe { self.target.start.add(rows.start * self.target.stride + first) };
            let task = Columns {
                from: lines.as_ptr(),
                stride: columns.stride(),
                depth: self.shape.k,
                left: self.left_block(0, rows.start).as_ptr(),
                left_block: self.left_rows * ROW_STRIDE,
                out,
                out_stride: self.target.stride,
                add: self.add,
            };
            // SAFETY: only a job with AVX-512 comes here; the columns, the rows and the result were checked.
            unsafe { KERNELS[rows.len() - 1](&task) };
        }
        true
    }
}

/// Sums each block of [`SUM_BLOCK`] terms in order, and writes or adds the sums.
///
/// # Safety
///
/// The processor has AVX-512. The task's columns hold `depth` numbers, the left factor has `R` rows at a distance of
/// [`ROW_STRIDE`] in each block, and the result has `R` rows of [`SIDE`] numbers.
#[target_feature(enable = "avx512f")]
unsafe fn multiply<const R: usize>(task: &Columns) {
    for (block, start) in (0..task.depth).step_by(SUM_BLOCK).enumerate() {
        let depth = SUM_BLOCK.min(task.depth - start);
        // SAFETY: the caller's promise.
        let (from, left) = unsafe { (task.from.add(start), task.left.add(block * task.left_block)) };
        let mut sums = [_mm512_setzero_ps(); R];
        for first in (0..depth).step_by(SIDE) {
            let terms = SIDE.min(depth - first);
            // SAFETY: the caller's promise: `terms` more numbers in each column and each row.
            unsafe {
                if terms == SIDE {
                    let square = whole_square(from.add(first), task.stride);
                    square.iter().enumerate().for_each(|(term, square)| {
                        add_term::<R>(left.add(first + term), *square, &mut sums);
                    });
                } else {
                    let square = narrow_square(from.add(first), task.stride, terms);
                    square.iter().take(terms).enumerate().for_each(|(term, square)| {
                        add_term::<R>(left.add(first + term), *square, &mut sums);
                    });
                }
            }
        }
        for (row, &sum) in sums.iter().enumerate() {
            // SAFETY: the result has the row (the caller's promise).
            unsafe {
                let out = task.out.add(row * task.out_stride);
                let add = task.add || block > 0;
                let sum = if add { _mm512_add_ps(_mm512_loadu_ps(out), sum) } else { sum };
                _mm512_storeu_ps(out, sum);
            }
        }
    }
}

/// Adds one term to the sums of each row: `left` is the first row's number.
///
/// # Safety
///
/// The left factor has `R` rows.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn add_term<const R: usize>(left: *const f32, square: __m512, sums: &mut [__m512; R]) {
    for (row, sum) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let factor = _mm512_set1_ps(unsafe { *left.add(row * ROW_STRIDE) });
        *sum = _mm512_fmadd_ps(factor, square, *sum);
    }
}

/// Returns the transpose of [`SIDE`] numbers of [`SIDE`] columns, and prefetches numbers that are read later.
///
/// # Safety
///
/// The columns hold the numbers.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn whole_square(from: *const f32, stride: usize) -> [__m512; SIDE] {
    // Prefetch the next group of columns or, if that does not fit into the cache, further terms of these columns.
    let ahead = if SIDE * stride <= FAR { SIDE * stride } else { 8 * SIDE };
    let mut lines = [_mm512_setzero_ps(); SIDE];
    for (index, line) in lines.iter_mut().enumerate() {
        // SAFETY: the caller's promise; a prefetch may name any address.
        unsafe {
            let at = from.add(index * stride);
            *line = _mm512_loadu_ps(at);
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(ahead).cast());
        }
    }
    transposed_avx512(lines)
}

/// Returns the transpose of `terms` numbers of [`SIDE`] columns, padded with zeros.
///
/// # Safety
///
/// The columns hold the numbers.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn narrow_square(from: *const f32, stride: usize, terms: usize) -> [__m512; SIDE] {
    let mut lines = [_mm512_setzero_ps(); SIDE];
    for (index, line) in lines.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *line = unsafe { _mm512_maskz_loadu_ps(lanes(terms), from.add(index * stride)) };
    }
    transposed_avx512(lines)
}
