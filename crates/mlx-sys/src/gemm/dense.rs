//! Matrices of plain floats.

use std::ops::Range;

use crate::gemm::{Block, Level, SUM_BLOCK, Source};

/// Bytes of a panel up to which the next one is asked for while one is read: a part of the second cache.
const NEXT_PANEL_BYTES: usize = 1 << 19;

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
            transpose(level, from, self.stride, [columns.len(), rows.len()], to, stride, Ahead::Nothing);
        } else {
            for (row, to) in rows.zip(to.chunks_mut(stride)) {
                let from = &self.data[row * self.stride..];
                to[..columns.len()].copy_from_slice(&from[columns.clone()]);
            }
        }
    }
}

/// What to ask memory for while a matrix is transposed.
#[derive(Clone, Copy)]
enum Ahead {
    /// Nothing.
    Nothing,
    /// For each line, the numbers this far behind those that are read.
    Behind(usize),
    /// Lines of the cache in the order of memory, from this one on.
    InOrder(*const f32),
}

impl Strided<'_> {
    /// Returns what the fill after this one reads.
    fn ahead(&self, level: Level, block: Block) -> Ahead {
        let panel = level.columns() * self.stride;
        let is_small = panel * size_of::<f32>() <= NEXT_PANEL_BYTES;
        if self.stride == self.rows && is_small {
            // The next panel follows in memory: as many lines as this block has, so that all of it is asked for in turn.
            let start = block.column * self.stride + panel + level.columns() * block.row;
            return self.data.get(start..).map_or(Ahead::Nothing, |next| Ahead::InOrder(next.as_ptr()));
        }
        let is_last = block.row + block.depth == self.rows;
        Ahead::Behind(if is_last { panel - block.row } else { SUM_BLOCK })
    }
}

impl Source for Strided<'_> {
    fn row(&self, row: usize) -> Option<&[f32]> {
        (!self.transposed).then(|| &self.data[row * self.stride..][..self.columns])
    }

    fn fill(&self, level: Level, block: Block, panel: &mut [f32]) {
        let width = level.columns();
        if self.transposed {
            let from = &self.data[block.column * self.stride + block.row..];
            let ahead = self.ahead(level, block);
            transpose(level, from, self.stride, [block.columns, block.depth], panel, width, ahead);
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

/// Writes the transposed of `from` `[rows, columns]` to `to`; asks for the numbers that lie `ahead`.
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
    ahead: Ahead,
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
    for down in (0..squares_down * SIDE).step_by(SIDE) {
        for across in (0..squares_across * SIDE).step_by(SIDE) {
            let from = &from[down * from_stride + across..];
            let to = &mut to[across * to_stride + down..];
            let (next, step) = match ahead {
                Ahead::Nothing => (from.as_ptr(), 0),
                Ahead::Behind(distance) => (from.as_ptr().wrapping_add(distance), from_stride),
                Ahead::InOrder(start) => (start.wrapping_add(down * columns + across * SIDE), SIDE),
            };
            square(level, from, from_stride, to, to_stride, next, step);
        }
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
    let ahead = Ahead::Behind(extents[1]);
    transpose(level, numbers(from.as_ptr(), from.len()), from_stride, extents, to, to_stride, ahead);
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
    step: usize,
) {
    match level {
        Level::Plain => unreachable!("there are no squares"),
        // SAFETY: `transpose` checked the extents; a level exists only on a processor that has it.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe {
            crate::gemm::x86::transpose_avx2(
                from.as_ptr(),
                from_stride,
                to.as_mut_ptr(),
                to_stride,
                ahead,
                step,
            );
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe {
            crate::gemm::x86::transpose_avx512(
                from.as_ptr(),
                from_stride,
                to.as_mut_ptr(),
                to_stride,
                ahead,
                step,
            );
        },
    }
}
