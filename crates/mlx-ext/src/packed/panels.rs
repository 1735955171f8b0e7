//! A packed weight in its two orientations as the right factor of a product.

use mlx_sys::gemm::{Block, Level, Source};
use rayon::prelude::*;

use crate::packed::matrix::PackedMatrix;
use crate::packed::unpack;

/// Unpacks all rows of `matrix` to `out` `[rows, columns]`, by several threads.
pub(crate) fn unpack_all(level: Level, matrix: &PackedMatrix<'_>, out: &mut [f32]) {
    const ROWS_AT_ONCE: usize = 64;
    out.par_chunks_mut((ROWS_AT_ONCE * matrix.columns).max(1)).enumerate().for_each(|(index, out)| {
        unpack::rows(level, matrix, index * ROWS_AT_ONCE, out);
    });
}

/// The transposed weight, `[columns, rows]`: the right factor of y = x · Wᵀ.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forward<'a>(pub(crate) PackedMatrix<'a>);

/// The weight, `[rows, columns]`: the right factor of dx = dy · W.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backward<'a>(pub(crate) PackedMatrix<'a>);

impl Source for Forward<'_> {
    fn fill(&self, level: Level, block: Block, panel: &mut [f32]) {
        unpack::across(level, &self.0, block, panel);
    }
}

impl Source for Backward<'_> {
    fn fill(&self, level: Level, block: Block, panel: &mut [f32]) {
        unpack::along(level, &self.0, block, panel);
    }
}
