//! Vector instructions of the processor.

use std::sync::OnceLock;

use crate::gemm::plain;
#[cfg(target_arch = "x86_64")]
use crate::gemm::x86;

/// Vector instructions that the kernels use. All levels but [`Level::Plain`] on x86-64 give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Whatever the compiler's target has. Without fused multiply-add, sums round twice per term.
    Plain,
    /// 256-bit vectors with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 512-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// Returns the best level of this processor.
    pub fn detect() -> Self {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        *LEVEL.get_or_init(|| Self::available()[0])
    }

    /// Returns the levels of this processor, the best first.
    pub fn available() -> Vec<Self> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if has_avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                levels.push(Self::Avx512);
            }
            if has_avx2 {
                levels.push(Self::Avx2);
            }
        }
        levels.push(Self::Plain);
        levels
    }

    /// Returns the number of columns of a panel, a multiple of 16.
    pub fn columns(self) -> usize {
        match self {
            Self::Plain => plain::COLUMNS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::AVX2_COLUMNS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => x86::AVX512_COLUMNS,
        }
    }

    /// Returns the largest number of rows of a tile.
    pub(super) fn rows(self) -> usize {
        match self {
            Self::Plain => plain::TILES.len(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::AVX2_TILES.len(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => x86::AVX512_TILES.len(),
        }
    }

    /// Multiplies `rows` rows of `left` by `panel`, and writes or adds the sums to `out`.
    ///
    /// # Safety
    ///
    /// `left` holds `rows` rows of `depth` numbers, `panel` `depth` rows of [`Self::columns`], `out` `rows` rows of
    /// [`Self::columns`] at a distance of `stride`; `rows` is at most [`Self::rows`] and not 0; the processor has the level.
    #[expect(clippy::too_many_arguments, reason = "the loop over tiles calls it, and nobody else")]
    pub(super) unsafe fn tile(
        self,
        rows: usize,
        depth: usize,
        left: *const f32,
        panel: *const f32,
        out: *mut f32,
        stride: usize,
        add: bool,
    ) {
        let tiles: &[Tile] = match self {
            Self::Plain => &plain::TILES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => &x86::AVX2_TILES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => &x86::AVX512_TILES,
        };
        // SAFETY: the caller's promise.
        unsafe { tiles[rows - 1](depth, left, panel, out, stride, add) };
    }
}

impl Level {
    /// Adds four terms to each of `sums`, in order: `factors[i] * rows[i]`.
    pub(super) fn add_rows(self, factors: &[f32], rows: [&[f32]; 4], sums: &mut [f32]) {
        match self {
            Self::Plain => plain::add_rows(factors, rows, sums),
            // SAFETY: a level exists only on a processor that has it.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86::add_rows_avx2(factors, rows, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { x86::add_rows_avx512(factors, rows, sums) },
        }
    }

    /// Adds `factor * row` to `sums`.
    pub(super) fn add_row(self, factor: f32, row: &[f32], sums: &mut [f32]) {
        match self {
            Self::Plain => plain::add_row(factor, row, sums),
            // SAFETY: a level exists only on a processor that has it.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::Avx512 => unsafe { x86::add_row(factor, row, sums) },
        }
    }
}

/// Multiplies a fixed number of rows by a panel: depth, left rows, panel, output, its stride, whether to add.
pub(super) type Tile = unsafe fn(usize, *const f32, *const f32, *mut f32, usize, bool);
