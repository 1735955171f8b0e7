//! Matrix products of blocks, on the calling thread.

use gemm::Parallelism;

/// A matrix in memory: address of its first number, and distances between neighbours in a column and in a row.
#[derive(Clone, Copy)]
pub(super) struct Matrix<P> {
    pub(super) data: P,
    /// Distance from a row to the next.
    pub(super) down: isize,
    /// Distance from a column to the next.
    pub(super) across: isize,
}

impl<P> Matrix<P> {
    /// Describes a matrix whose rows are contiguous.
    pub(super) fn by_rows(data: P, stride: isize) -> Self {
        Self { data, down: stride, across: 1 }
    }

    /// Describes a matrix whose columns are contiguous.
    pub(super) fn by_columns(data: P, stride: isize) -> Self {
        Self { data, down: 1, across: stride }
    }
}

/// Extents of a product: `[rows, sums]` by `[sums, columns]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extents {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) sums: usize,
}

/// Writes left · right to `out`, or adds it there.
///
/// # Safety
///
/// The three matrices have these extents, the memory of `out` is not read or written elsewhere meanwhile, and that of the
/// factors is not written.
pub(super) unsafe fn multiply(
    extents: Extents,
    left: Matrix<*const f32>,
    right: Matrix<*const f32>,
    out: Matrix<*mut f32>,
    add: bool,
) {
    let Extents { rows, columns, sums } = extents;
    // SAFETY: the caller's promise.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            sums,
            out.data,
            out.across,
            out.down,
            add,
            left.data,
            left.across,
            left.down,
            right.data,
            right.across,
            right.down,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
