//! Products of `f32` matrices with sums in one fixed order.
//!
//! Each number of the result is summed in the same way whatever the shape of the product, the number of threads, the sizes
//! of the caches and the width of the vectors: its terms are taken in order, in blocks of [`SUM_BLOCK`]; inside a block
//! each is added by one fused multiply-add, and the sums of the blocks are added in order. So a row of the result does not
//! depend on how many other rows are computed with it, and processors with fused multiply-add agree to the last bit.
//!
//! The right factor comes from a [`Source`], which fills one panel of a few columns at a time. A weight that is stored
//! packed is thus unpacked straight into the panel, and a product with few rows reads its weight once.

#[cfg(target_arch = "x86_64")]
mod brain;
#[cfg(target_arch = "x86_64")]
mod columns;
mod dense;
mod level;
mod plain;
mod rows;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

pub use dense::{Strided, ask_for, transpose_words};
pub use level::Level;

/// Number of terms that are summed in one chain.
pub const SUM_BLOCK: usize = 256;

/// Largest number of columns of a panel.
pub const MAX_COLUMNS: usize = 32;

/// Distance between the rows of the left factor's copy: a block, and a cache line so that rows fall into different sets.
const ROW_STRIDE: usize = SUM_BLOCK + 16;

/// Rows of the left factor that are copied, and meet every panel, at one time: they fit into the second cache.
const ROWS_AT_ONCE: usize = 512;

/// Number of rows up to which a panel takes all its blocks in turn, so that the weight is read in the order of memory.
const FEW_ROWS: usize = 32;

/// Panels of one piece of work.
const PANELS_AT_ONCE: usize = 8;

/// Work below which a second thread does not pay: numbers of the right factor times rows, packing counted as rows.
const PARALLEL_FROM: usize = 1 << 22;

/// Rows that filling a panel costs about as much as.
const FILLING_ROWS: usize = 16;

/// The part of the right factor that fills one panel.
#[derive(Debug, Clone, Copy)]
pub struct Block {
    /// First row, an index into the summed dimension; a multiple of [`SUM_BLOCK`].
    pub row: usize,
    /// Number of rows, at most [`SUM_BLOCK`].
    pub depth: usize,
    /// First column; a multiple of the panel's columns.
    pub column: usize,
    /// Number of columns; those of the panel except at the right edge.
    pub columns: usize,
}

/// A right factor that can fill panels.
pub trait Source: Sync {
    /// Writes the numbers of `block` to `panel[row * level.columns() + column]`. Numbers beyond `block.columns` are
    /// ignored.
    fn fill(&self, level: Level, block: Block, panel: &mut [f32]);

    /// Returns a row if rows are contiguous plain numbers.
    fn row(&self, row: usize) -> Option<&[f32]> {
        let _ = row;
        None
    }

    /// Returns the matrix if columns are contiguous plain numbers.
    fn columns(&self) -> Option<&Strided<'_>> {
        None
    }
}

/// Where a product is written: rows of `columns` numbers at a distance of `stride`.
#[derive(Debug)]
pub struct Output<'a> {
    data: &'a mut [f32],
    stride: usize,
}

impl<'a> Output<'a> {
    /// Describes an output whose rows begin every `stride` numbers.
    pub fn new(data: &'a mut [f32], stride: usize) -> Self {
        Self { data, stride }
    }
}

/// Extents of a product: `[m, k]` times `[k, n]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows of the left factor and of the result.
    pub m: usize,
    /// Columns of the right factor and of the result.
    pub n: usize,
    /// The summed dimension.
    pub k: usize,
}

/// A panel on the stack of the thread that fills it.
#[repr(align(64))]
struct Panel([f32; SUM_BLOCK * MAX_COLUMNS]);

/// The start of the result, which threads write at disjoint places.
#[derive(Clone, Copy)]
struct Target {
    start: *mut f32,
    stride: usize,
}

// SAFETY: pieces of work write disjoint columns or rows.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

/// A piece of work: some rows of the copy times some panels.
#[derive(Clone, Copy)]
struct Piece {
    first_row: usize,
    rows: usize,
    first_panel: usize,
    panels: usize,
}

/// Arguments shared by all pieces.
struct Job<'a, S> {
    level: Level,
    factors: Factors,
    shape: Shape,
    /// Rows of the left factor: for each block of the summed dimension, all rows at a distance of [`ROW_STRIDE`].
    left: &'a [f32],
    /// Number of rows in `left`.
    left_rows: usize,
    right: &'a S,
    target: Target,
    /// Whether the result is added to what the target holds.
    add: bool,
}

/// Type to which the factors of a product are rounded. Sums are `f32` either way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Factors {
    /// As they are.
    #[default]
    Float32,
    /// Half as wide, about twice as fast. Only on a processor with AVX-512 and its `bfloat16` instructions.
    Bfloat16,
}

/// Whether [`product`] rounds factors to `bfloat16`.
static BFLOAT16: AtomicBool = AtomicBool::new(false);

impl Factors {
    /// Returns whether this processor can multiply such factors.
    pub fn is_available(self) -> bool {
        match self {
            Self::Float32 => true,
            #[cfg(target_arch = "x86_64")]
            Self::Bfloat16 => Level::detect() == Level::Avx512 && brain::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Bfloat16 => false,
        }
    }

    /// Makes every [`product`] of this process round its factors to this type from now on.
    ///
    /// # Panics
    ///
    /// Panics if the processor cannot; see [`Self::is_available`].
    pub fn use_for_products(self) {
        assert!(self.is_available(), "the processor multiplies {self:?}");
        BFLOAT16.store(self == Self::Bfloat16, Ordering::Relaxed);
    }

    /// Returns the type that products round their factors to.
    fn in_use() -> Self {
        if BFLOAT16.load(Ordering::Relaxed) { Self::Bfloat16 } else { Self::Float32 }
    }
}

/// Multiplications and additions of all products so far.
static OPERATIONS: AtomicU64 = AtomicU64::new(0);

/// Returns the number of multiplications and additions that products of this process have taken, 2 m n k each. Tests hold
/// the work of a step with it, because seconds depend on the machine.
pub fn operations() -> u64 {
    OPERATIONS.load(Ordering::Relaxed)
}

/// Computes `out = left · right`, or `out += left · right` if `add`.
///
/// # Panics
///
/// Panics if `left` is not `[m, k]` or `out` is too small for `[m, n]`.
pub fn product<S: Source>(shape: Shape, left: &Strided<'_>, right: &S, out: Output<'_>, add: bool) {
    product_with(Level::detect(), Factors::in_use(), shape, left, right, out, add);
}

/// As [`product`], with the vectors of `level` and factors as they are.
pub fn product_at<S: Source>(
    level: Level,
    shape: Shape,
    left: &Strided<'_>,
    right: &S,
    out: Output<'_>,
    add: bool,
) {
    product_with(level, Factors::Float32, shape, left, right, out, add);
}

fn product_with<S: Source>(
    level: Level,
    factors: Factors,
    shape: Shape,
    left: &Strided<'_>,
    right: &S,
    out: Output<'_>,
    add: bool,
) {
    let Shape { m, n, k } = shape;
    if m == 0 || n == 0 {
        return;
    }
    OPERATIONS.fetch_add(2 * (m * n * k) as u64, Ordering::Relaxed);
    assert!(out.stride >= n && out.data.len() >= (m - 1) * out.stride + n, "the output holds [m, n]");
    assert!(left.extents() == [m, k], "the left factor is [m, k]");
    if k == 0 {
        if !add {
            out.data.chunks_mut(out.stride).for_each(|row| row[..n].fill(0.0));
        }
        return;
    }
    let parallel = n * k * (m + FILLING_ROWS) >= PARALLEL_FROM;
    let rounds = m.div_ceil(ROWS_AT_ONCE);
    let mut first = 0;
    for round in 0..rounds {
        let rows = m / rounds + usize::from(round < m % rounds);
        let mut copy = Buffer::take(k.div_ceil(SUM_BLOCK) * rows * ROW_STRIDE);
        copy_rows(level, factors, left, first..first + rows, copy.numbers(), parallel);
        let target = Target { start: out.data[first * out.stride..].as_mut_ptr(), stride: out.stride };
        let job = Job { level, factors, shape, left: copy.numbers(), left_rows: rows, right, target, add };
        job.run(parallel);
        first += rows;
    }
}

/// Copies some rows of `left` block by block, as `factors`.
fn copy_rows(
    level: Level,
    factors: Factors,
    left: &Strided<'_>,
    rows: Range<usize>,
    copy: &mut [f32],
    parallel: bool,
) {
    let (count, depth) = (rows.len(), left.extents()[1]);
    let copy_block = |(index, block): (usize, &mut [f32])| {
        let terms = index * SUM_BLOCK..((index + 1) * SUM_BLOCK).min(depth);
        left.copy_rows(level, rows.clone(), terms.clone(), block, ROW_STRIDE);
        if factors == Factors::Bfloat16 {
            #[cfg(target_arch = "x86_64")]
            brain::pack_rows(block, terms.len());
        }
    };
    if parallel && count * depth > 1 << 16 {
        copy.par_chunks_mut(count * ROW_STRIDE).enumerate().for_each(copy_block);
    } else {
        copy.chunks_mut(count * ROW_STRIDE).enumerate().for_each(copy_block);
    }
}

impl<S: Source> Job<'_, S> {
    fn run(&self, parallel: bool) {
        let panels = self.shape.n.div_ceil(self.level.columns());
        let whole = self.factors == Factors::Float32;
        if whole && self.left_rows <= rows::MOST_ROWS && self.right.row(0).is_some() {
            self.add_scaled_rows(parallel);
            return;
        }
        if !parallel {
            self.compute(Piece { first_row: 0, rows: self.left_rows, first_panel: 0, panels });
            return;
        }
        let threads = rayon::current_num_threads();
        let at_once = (panels / (4 * threads)).clamp(1, PANELS_AT_ONCE);
        let across = panels.div_ceil(at_once);
        // Few columns: the rows are split as well.
        let down = (2 * threads).div_ceil(across).min(self.left_rows.div_ceil(2 * self.level.rows()));
        let rows = self.left_rows.div_ceil(down);
        (0..across * down).into_par_iter().with_max_len(1).for_each(|index| {
            let (first_panel, first_row) = ((index % across) * at_once, (index / across) * rows);
            let rows = rows.min(self.left_rows.saturating_sub(first_row));
            self.compute(Piece { first_row, rows, first_panel, panels: at_once.min(panels - first_panel) });
        });
    }

    /// Computes one piece.
    fn compute(&self, piece: Piece) {
        if piece.rows == 0 {
            return;
        }
        let mut panel = Panel([0.0; SUM_BLOCK * MAX_COLUMNS]);
        let panels = piece.first_panel..piece.first_panel + piece.panels;
        let blocks = 0..self.shape.k.div_ceil(SUM_BLOCK);
        if piece.rows <= FEW_ROWS {
            for index in panels {
                if !self.is_done_by_columns(piece, index) {
                    blocks.clone().for_each(|block| self.multiply(piece, index, block, &mut panel));
                }
            }
        } else {
            for block in blocks {
                panels.clone().for_each(|index| self.multiply(piece, index, block, &mut panel));
            }
        }
    }

    /// Computes some rows of one panel's columns without filling it, if that is possible, and returns whether it was.
    #[cfg(target_arch = "x86_64")]
    fn is_done_by_columns(&self, piece: Piece, index: usize) -> bool {
        let rows = piece.first_row..piece.first_row + piece.rows;
        let plain = self.level == Level::Avx512 && self.factors == Factors::Float32;
        plain && piece.rows <= columns::MOST_ROWS && self.multiply_columns(rows, index)
    }

    /// Returns false: only AVX-512 has kernels for it.
    #[cfg(not(target_arch = "x86_64"))]
    fn is_done_by_columns(&self, _piece: Piece, _index: usize) -> bool {
        false
    }

    /// Fills one panel with one block and multiplies the rows of the piece by it.
    fn multiply(&self, piece: Piece, index: usize, block: usize, panel: &mut Panel) {
        let (width, row) = (self.level.columns(), block * SUM_BLOCK);
        let depth = SUM_BLOCK.min(self.shape.k - row);
        let column = index * width;
        let columns = width.min(self.shape.n - column);
        let panel = &mut panel.0[..depth * width];
        self.right.fill(self.level, Block { row, depth, column, columns }, panel);
        if self.factors == Factors::Bfloat16 {
            #[cfg(target_arch = "x86_64")]
            brain::pack_panel(panel, depth);
        }
        let add = self.add || block > 0;
        let tiles = piece.rows.div_ceil(self.level.rows());
        let mut first = piece.first_row;
        for tile in 0..tiles {
            let rows = piece.rows / tiles + usize::from(tile < piece.rows % tiles);
            let left = self.left_block(block, first);
            // SAFETY: `first` and `column` are inside the result, whose extents were checked.
            let out = unsafe { self.target.start.add(first * self.target.stride + column) };
            if columns == width {
                // SAFETY: the left rows and the panel hold `depth` numbers; the tile lies inside the result.
                unsafe { self.tile(rows, depth, left, panel, out, self.target.stride, add) };
            } else {
                let mut edge = Panel([0.0; SUM_BLOCK * MAX_COLUMNS]);
                // SAFETY: as above, with a tile of its own.
                unsafe { self.tile(rows, depth, left, panel, edge.0.as_mut_ptr(), width, false) };
                for (row, sums) in edge.0.chunks(width).take(rows).enumerate() {
                    self.store(first + row, column, &sums[..columns], add);
                }
            }
            first += rows;
        }
    }
}

impl<S> Job<'_, S> {
    /// Multiplies `rows` rows of `left` by `panel`, `depth` terms each, and writes or adds the sums to `out`.
    ///
    /// # Safety
    ///
    /// As [`Level::tile`], with numbers or with pairs.
    #[expect(
        clippy::too_many_arguments,
        reason = "a tile has a left factor, a right one and a result, and their extents"
    )]
    unsafe fn tile(
        &self,
        rows: usize,
        depth: usize,
        left: &[f32],
        panel: &[f32],
        out: *mut f32,
        stride: usize,
        add: bool,
    ) {
        let (left, panel) = (left.as_ptr(), panel.as_ptr());
        // SAFETY: the caller's promise.
        unsafe {
            match self.factors {
                Factors::Float32 => self.level.tile(rows, depth, left, panel, out, stride, add),
                #[cfg(target_arch = "x86_64")]
                Factors::Bfloat16 => brain::TILES[rows - 1](depth.div_ceil(2), left, panel, out, stride, add),
                #[cfg(not(target_arch = "x86_64"))]
                Factors::Bfloat16 => unreachable!("no processor of this architecture has it"),
            }
        }
    }

    /// Returns the numbers of the left factor from one block of a row on.
    fn left_block(&self, block: usize, row: usize) -> &[f32] {
        &self.left[(block * self.left_rows + row) * ROW_STRIDE..]
    }

    /// Writes sums to a row of the result, from `column` on, or adds them.
    fn store(&self, row: usize, column: usize, sums: &[f32], add: bool) {
        debug_assert!(row < self.left_rows && column + sums.len() <= self.shape.n, "inside the result");
        // SAFETY: inside the result, and no other thread has this part.
        let out = unsafe {
            std::slice::from_raw_parts_mut(
                self.target.start.add(row * self.target.stride + column),
                sums.len(),
            )
        };
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = if add { *out + sum } else { *sum });
    }
}

/// A buffer that is kept for the next product.
struct Buffer {
    numbers: Vec<f32>,
    length: usize,
}

static BUFFERS: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

impl Buffer {
    /// Returns a buffer of `length` numbers of any value.
    fn take(length: usize) -> Self {
        let kept = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let numbers = kept.filter(|kept| kept.len() >= length).unwrap_or_else(|| vec![0.0; length]);
        Self { numbers, length }
    }

    fn numbers(&mut self) -> &mut [f32] {
        &mut self.numbers[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        BUFFERS.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.numbers));
    }
}
