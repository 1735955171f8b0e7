//! Kernels without vector instructions of their own.

use crate::gemm::ROW_STRIDE;
use crate::gemm::level::Tile;

/// Columns of a panel.
pub(super) const COLUMNS: usize = 16;

/// Tiles of 1 to 4 rows.
pub(super) const TILES: [Tile; 4] = [tile::<1>, tile::<2>, tile::<3>, tile::<4>];

/// Adds one term to a sum.
fn add_term(a: f32, b: f32, sum: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        a.mul_add(b, sum)
    } else {
        // Without the instruction a fused multiply-add is a slow call.
        a * b + sum
    }
}

unsafe fn tile<const R: usize>(
    depth: usize,
    left: *const f32,
    panel: *const f32,
    out: *mut f32,
    stride: usize,
    add: bool,
) {
    let mut sums = [[0.0_f32; COLUMNS]; R];
    for term in 0..depth {
        // SAFETY: the panel holds `depth` rows, each row of the left factor `depth` numbers (the caller's promise).
        let b = unsafe { &*panel.add(term * COLUMNS).cast::<[f32; COLUMNS]>() };
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let a = unsafe { *left.add(row * ROW_STRIDE + term) };
            sums.iter_mut().zip(b).for_each(|(sum, &b)| *sum = add_term(a, b, *sum));
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        // SAFETY: the tile lies inside the output (the caller's promise).
        let out = unsafe { &mut *out.add(row * stride).cast::<[f32; COLUMNS]>() };
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = if add { *out + sum } else { *sum });
    }
}

/// Adds four terms to each sum, in order.
pub(super) fn add_rows(factors: &[f32], [a, b, c, d]: [&[f32]; 4], sums: &mut [f32]) {
    let terms = a.iter().zip(b).zip(c.iter().zip(d));
    for (sum, ((a, b), (c, d))) in sums.iter_mut().zip(terms) {
        for (factor, term) in factors.iter().zip([a, b, c, d]) {
            *sum = add_term(*factor, *term, *sum);
        }
    }
}

/// Adds one term to each sum.
pub(super) fn add_row(factor: f32, row: &[f32], sums: &mut [f32]) {
    sums.iter_mut().zip(row).for_each(|(sum, term)| *sum = add_term(factor, *term, *sum));
}
