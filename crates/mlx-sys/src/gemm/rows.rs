//! Products with few rows whose right factor has contiguous rows: each row of it is read once, over many columns.

use rayon::prelude::*;

use crate::gemm::{Job, SUM_BLOCK, Source};

/// Rows up to which adding scaled rows is faster than filling panels.
pub(super) const MOST_ROWS: usize = 8;

/// Columns whose sums stay in the first cache.
const COLUMNS: usize = 512;

/// Rows of the right factor that are added at one time.
const AT_ONCE: usize = 4;

impl<S: Source> Job<'_, S> {
    /// Computes the whole product from the rows of the right factor.
    pub(super) fn add_scaled_rows(&self, parallel: bool) {
        let n = self.shape.n;
        if parallel {
            let width = n.div_ceil(rayon::current_num_threads()).next_multiple_of(16).min(COLUMNS);
            let pieces = n.div_ceil(width);
            (0..pieces)
                .into_par_iter()
                .for_each(|index| self.columns(index * width, width.min(n - index * width)));
        } else {
            (0..n).step_by(COLUMNS).for_each(|first| self.columns(first, COLUMNS.min(n - first)));
        }
    }

    /// Computes `columns` columns.
    fn columns(&self, first: usize, columns: usize) {
        let k = self.shape.k;
        for (block, start) in (0..k).step_by(SUM_BLOCK).enumerate() {
            let depth = SUM_BLOCK.min(k - start);
            let mut sums = [[0.0_f32; COLUMNS]; MOST_ROWS];
            let row = |term: usize| {
                let row =
                    self.right.row(start + term).expect("only a factor with contiguous rows comes here");
                &row[first..first + columns]
            };
            for term in (0..depth - depth % AT_ONCE).step_by(AT_ONCE) {
                let rows = [row(term), row(term + 1), row(term + 2), row(term + 3)];
                for (index, sums) in sums.iter_mut().enumerate().take(self.left_rows) {
                    let factors = &self.left_block(block, index)[term..term + AT_ONCE];
                    self.level.add_rows(factors, rows, &mut sums[..columns]);
                }
            }
            for term in depth - depth % AT_ONCE..depth {
                for (index, sums) in sums.iter_mut().enumerate().take(self.left_rows) {
                    self.level.add_row(self.left_block(block, index)[term], row(term), &mut sums[..columns]);
                }
            }
            for (index, sums) in sums.iter().enumerate().take(self.left_rows) {
                self.store(index, first, &sums[..columns], self.add || block > 0);
            }
        }
    }
}
