//! Matrices of plain floats.

use std::ops::Range;

use crate::gemm::{Block, Level, SUM_BLOCK, Source};

/// Squares of a transposed block whose numbers are asked for before they are read: about the latency of memory.
const SQUARES_AHEAD: usize = 6;

/// A matrix of floats with one unit stride: rows or columns are contiguous.
#[derive(Debug, Clone, Copy)]
pub struct Strided<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    stride: usize,
    /// Whether columns are contiguous instead of rows.
    transposed: bool,
}

impl<'a> Strided<'a> {
    /// Describes a matrix `[rows, columns]` whose rows (or columns, if `transposed`) begin every `stride` numbers.
    ///
    /// # Panics
    ///
    /// Panics if the data is too short.
    pub fn new(data: &'a [f32], [rows, columns]: [usize; 2], stride: usize, transposed: bool) -> Self {
        let (lines, length) = if transposed { (columns, rows) } else { (rows, columns) };
        if lines > 0 && length > 0 {
            assert!(stride >= length || lines == 1, "lines do not overlap");
            assert!(data.len() >= (lines - 1) * stride + length, "the data holds the matrix");
        }
        Self { data, rows, columns, stride, transposed }
    }

    /// Returns the number of rows and of columns.
    pub fn extents(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// Returns the distance between rows, or between columns if they are contiguous.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Returns the numbers from the start of a row on, or of a column if columns are contiguous.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn lines_from(&self, line: usize) -> &[f32] {
        &self.data[line * self.stride..]
    }

    /// Copies a part to rows at a distance of `stride` in `to`.
    pub(super) fn copy_rows(
        &self,
        level: Level,
        rows: Range<usize>,
        columns: Range<usize>,
        to: &mut [f32],
        stride: usize,
    ) {
        if self.transposed {
            let from = &self.data[columns.start * self.stride + rows.start..];
            transpose(level, from, self.stride, [columns.len(), rows.len()], to, stride, 0);
        } else {
            for (row, to) in rows.zip(to.chunks_mut(stride)) {
                let from = &self.data[row * self.stride..];
                to[..columns.len()].copy_from_slice(&from[columns.clone()]);
            }
        }
    }
}

impl Strided<'_> {
    /// Returns the distance from a block's first number to that of the block which is read after it: the following one of
    /// the same lines, or the first one of the next panel's.
    fn distance_to_next(&self, level: Level, block: Block) -> isize {
        let is_last = block.row + block.depth == self.rows;
        if is_last {
            (level.columns() * self.stride) as isize - block.row as isize
        } else {
            SUM_BLOCK as isize
        }
    }
}

impl Source for Strided<'_> {
    fn row(&self, row: usize) -> Option<&[f32]> {
        (!self.transposed).then(|| &self.data[row * self.stride..][..self.columns])
    }

    fn columns(&self) -> Option<&Strided<'_>> {
        self.transposed.then_some(self)
    }

    fn fill(&self, level: Level, block: Block, panel: &mut [f32]) {
        let width = level.columns();
        if self.transposed {
            let from = &self.data[block.column * self.stride + block.row..];
            let next = self.distance_to_next(level, block);
            transpose(level, from, self.stride, [block.columns, block.depth], panel, width, next);
        } else {
            for (row, to) in panel.chunks_mut(width).enumerate() {
                let from = &self.data[(block.row + row) * self.stride + block.column..];
                if block.columns == width {
                    to.copy_from_slice(&from[..width]);
                } else {
                    to[..block.columns].copy_from_slice(&from[..block.columns]);
                }
            }
        }
    }
}

/// Writes the transposed of `from` `[rows, columns]` to `to`; asks for numbers before they are read, also those of the next
/// block.
///
/// # Panics
///
/// Panics if a slice is too short.
fn transpose(
    level: Level,
    from: &[f32],
    from_stride: usize,
    [rows, columns]: [usize; 2],
    to: &mut [f32],
    to_stride: usize,
    distance_to_next: isize,
) {
    const SIDE: usize = 16;
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(from.len() >= (rows - 1) * from_stride + columns, "the source holds the matrix");
    assert!(to.len() >= (columns - 1) * to_stride + rows, "the target holds the matrix");
    let [squares_down, squares_across] = match level {
        Level::Plain => [0, 0],
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::Avx512 => [rows / SIDE, columns / SIDE],
    };
    let squares = squares_down * squares_across;
    for index in 0..squares {
        let (down, across) = (index / squares_across * SIDE, index % squares_across * SIDE);
        let soon = index + SQUARES_AHEAD;
        let (block, soon) = (soon / squares, soon % squares);
        let (soon_down, soon_across) = (soon / squares_across * SIDE, soon % squares_across * SIDE);
        let soon = block as isize * distance_to_next + (soon_down * from_stride + soon_across) as isize;
        let ahead = from.as_ptr().wrapping_offset(soon);
        square(
            level,
            &from[down * from_stride + across..],
            from_stride,
            &mut to[across * to_stride + down..],
            to_stride,
            ahead,
        );
    }
    let mut single = |down: Range<usize>, across: Range<usize>| {
        for row in down {
            for column in across.clone() {
                to[column * to_stride + row] = from[row * from_stride + column];
            }
        }
    };
    single(0..squares_down * SIDE, squares_across * SIDE..columns);
    single(squares_down * SIDE..rows, 0..columns);
}

/// Asks memory for `data[index]`, which will be read soon. An index beyond the data does nothing useful, and no harm.
#[inline(always)]
pub fn ask_for<T>(data: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch may name any address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(data.as_ptr().wrapping_add(index).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (data, index);
}

/// Writes the transposed of `from` `[rows, columns]` to `to`; lines begin every `from_stride` and `to_stride` words. Asks
/// memory for the words that follow in each line.
///
/// # Panics
///
/// Panics if a slice is too short.
pub fn transpose_words(
    level: Level,
    from: &[u32],
    from_stride: usize,
    extents: [usize; 2],
    to: &mut [u32],
    to_stride: usize,
) {
    let numbers = |words: *const u32, count: usize| -> &[f32] {
        // SAFETY: the same memory: every word is a float, and floats are only moved.
        unsafe { std::slice::from_raw_parts(words.cast(), count) }
    };
    // SAFETY: as above, and borrowed for writing.
    let to = unsafe { std::slice::from_raw_parts_mut(to.as_mut_ptr().cast(), to.len()) };
    transpose(
        level,
        numbers(from.as_ptr(), from.len()),
        from_stride,
        extents,
        to,
        to_stride,
        extents[1] as isize,
    );
}

/// Transposes 16 rows of 16 numbers.
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "no kernel of its own"))]
fn square(
    level: Level,
    from: &[f32],
    from_stride: usize,
    to: &mut [f32],
    to_stride: usize,
    ahead: *const f32,
) {
    match level {
        Level::Plain => unreachable!("there are no squares"),
        // SAFETY: `transpose` checked the extents; a level exists only on a processor that has it.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe {
            crate::gemm::x86::transpose_avx2(from.as_ptr(), from_stride, to.as_mut_ptr(), to_stride, ahead);
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe {
            crate::gemm::x86::transpose_avx512(from.as_ptr(), from_stride, to.as_mut_ptr(), to_stride, ahead);
        },
    }
}
