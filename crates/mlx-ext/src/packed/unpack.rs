//! Kernels that unpack a panel: lanes are rows of the weight ([`across`]) or numbers of one row ([`along`]).

use mlx_sys::gemm::{Block, Level, SUM_BLOCK, ask_for, transpose_words};

use crate::packed::format::{Floats4, Floats8, Format, Integers, with_format};
use crate::packed::group::Group;
use crate::packed::matrix::{Lanes, PackedMatrix};
#[cfg(target_arch = "x86_64")]
use crate::packed::vectors;
use crate::quantized::QuantizationMode;

/// Rows that are unpacked together.
const LANES: usize = 16;

/// Words of a block's row at most: 8 bits.
const MOST_WORDS: usize = SUM_BLOCK / 4;

/// Groups of a block's row at most.
const MOST_GROUPS: usize = SUM_BLOCK / 16;

/// Rows whose words are asked for before they are unpacked.
const ROWS_AHEAD: usize = 16;

/// Defines a function that runs `$kernel` with the vectors of a level.
macro_rules! at_every_level {
    ($(#[$doc:meta])* $name:ident = $kernel:ident($($argument:ident: $type:ty),*)) => {
        $(#[$doc])*
        pub(super) fn $name(level: Level, $($argument: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw")]
            fn avx512($($argument: $type),*) {
                $kernel(Level::Avx512, $($argument),*);
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($argument: $type),*) {
                $kernel(Level::Avx2, $($argument),*);
            }
            match level {
                Level::Plain => $kernel(level, $($argument),*),
                // SAFETY: a level exists only on a processor that has it.
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => unsafe { avx2($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => unsafe { avx512($($argument),*) },
            }
        }
    };
}

at_every_level! {
    /// Fills a panel of the transposed weight: `panel[i * columns + j]` is number `block.row + i` of row
    /// `block.column + j`.
    across = across_rows(matrix: &PackedMatrix<'_>, block: Block, panel: &mut [f32])
}

at_every_level! {
    /// Fills a panel of the weight: `panel[i * columns + j]` is number `block.column + j` of row `block.row + i`.
    along = along_rows(matrix: &PackedMatrix<'_>, block: Block, panel: &mut [f32])
}

at_every_level! {
    /// Unpacks whole rows, from `first` on.
    rows = whole_rows(matrix: &PackedMatrix<'_>, first: usize, out: &mut [f32])
}

#[inline(always)]
fn across_rows(level: Level, matrix: &PackedMatrix<'_>, block: Block, panel: &mut [f32]) {
    with_format!(matrix.quantization, across_rows_of(level, matrix, block, panel));
}

#[inline(always)]
fn along_rows(level: Level, matrix: &PackedMatrix<'_>, block: Block, panel: &mut [f32]) {
    with_format!(matrix.quantization, along_rows_of(level, matrix, block, panel));
}

#[inline(always)]
fn across_rows_of<F: Format>(level: Level, matrix: &PackedMatrix<'_>, block: Block, panel: &mut [f32]) {
    let width = level.columns();
    let group = matrix.quantization.group_size as usize;
    let (first_group, groups) = (block.row / group, block.depth / group);
    let mut words = [[0_u32; LANES]; MOST_WORDS];
    let (mut scales, mut biases) = ([[0.0_f32; LANES]; MOST_GROUPS], [[0.0_f32; LANES]; MOST_GROUPS]);
    for lane in (0..block.columns).step_by(LANES) {
        let rows = LANES.min(block.columns - lane);
        let first = block.column + lane;
        let count = block.depth * F::BITS / 32;
        let stride = matrix.row_words();
        let start = first * stride + block.row * F::BITS / 32;
        transpose_words(
            level,
            &matrix.words[start..],
            stride,
            [rows, count],
            words.as_flattened_mut(),
            LANES,
        );
        let lanes = |groups| Lanes { groups, rows };
        matrix.scales.to_lanes(first, matrix.row_groups(), first_group, lanes(&mut scales[..groups]));
        if let Some(stored) = matrix.biases {
            stored.to_lanes(first, matrix.row_groups(), first_group, lanes(&mut biases[..groups]));
        }
        for index in 0..groups {
            let start = index * group;
            unpack_group::<F>(
                level,
                Group {
                    words: &words[start * F::BITS / 32..],
                    count: group,
                    scales: &scales[index],
                    biases: matrix.biases.map(|_| &biases[index]),
                    panel: &mut panel[start * width + lane..],
                    width,
                },
            );
        }
    }
}

/// Unpacks one group of up to 16 rows, whose words are in lanes.
#[inline(always)]
fn unpack_group<F: Format>(level: Level, mut group: Group<'_>) {
    match level {
        Level::Plain => unpack_plainly::<F>(&mut group),
        // SAFETY: a level exists only on a processor that has it.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { vectors::unpack_avx2::<F>(&mut group) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { vectors::unpack_avx512::<F>(&mut group) },
    }
}

fn unpack_plainly<F: Format>(group: &mut Group<'_>) {
    for number in 0..group.count {
        let (word, shift) = (number * F::BITS / 32, number * F::BITS % 32);
        let out = &mut group.panel[number * group.width..][..LANES];
        for lane in 0..LANES {
            let mut code = group.words[word][lane] >> shift;
            if shift + F::BITS > 32 {
                code |= group.words[word + 1][lane] << (32 - shift);
            }
            let value = F::value(code & ((1 << F::BITS) - 1));
            let bias = group.biases.map_or(0.0, |biases| biases[lane]);
            out[lane] = scaled(value, group.scales[lane], bias, group.biases.is_some());
        }
    }
}

/// Applies a scale and a bias, rounding after each, as MLX does.
#[inline(always)]
fn scaled(value: f32, scale: f32, bias: f32, has_bias: bool) -> f32 {
    let product = scale * value;
    if has_bias { product + bias } else { product }
}

#[inline(always)]
fn along_rows_of<F: Format>(level: Level, matrix: &PackedMatrix<'_>, block: Block, panel: &mut [f32]) {
    let width = level.columns();
    for first in (0..block.columns).step_by(LANES) {
        let column = block.column + first;
        let group = column / matrix.quantization.group_size as usize;
        for (index, panel) in panel.chunks_exact_mut(width).enumerate() {
            let row = block.row + index;
            if first == 0 {
                ask_for(matrix.words, (row + ROWS_AHEAD) * matrix.row_words() + column * F::BITS / 32);
            }
            let codes = codes_of::<F>(matrix, row, column);
            let at = row * matrix.row_groups() + group;
            let scale = matrix.scales.get(at);
            let bias = matrix.biases.map_or(0.0, |biases| biases.get(at));
            let out: &mut [f32] = &mut panel[first..first + LANES];
            for lane in 0..LANES {
                out[lane] = scaled(F::value(codes[lane]), scale, bias, matrix.biases.is_some());
            }
        }
    }
}

/// Returns the codes of 16 numbers of a row from `column`, a multiple of 16, on.
#[inline(always)]
fn codes_of<F: Format>(matrix: &PackedMatrix<'_>, row: usize, column: usize) -> [u32; LANES] {
    let mask = (1_u32 << F::BITS) - 1;
    let mut codes = [0_u32; LANES];
    if F::BITS.is_multiple_of(2) {
        // 16 numbers fill `BITS / 2` words.
        let start = row * matrix.row_words() + column * F::BITS / 32;
        let words = &matrix.words[start..start + F::BITS / 2];
        for (lane, code) in codes.iter_mut().enumerate() {
            let (word, shift) = (lane * F::BITS / 32, lane * F::BITS % 32);
            let mut bits = words[word] >> shift;
            if shift + F::BITS > 32 {
                bits |= words[word + 1] << (32 - shift);
            }
            *code = bits & mask;
        }
    } else {
        // They begin at a word or in its middle; eight numbers are a whole number of bytes.
        let bit = column * F::BITS;
        let start = row * matrix.row_words() + bit / 32;
        let words = &matrix.words[start..(start + 3).min(matrix.words.len())];
        let window =
            words.iter().rev().fold(0_u128, |window, &word| window << 32 | u128::from(word)) >> (bit % 32);
        for half in 0..2 {
            let eight = (window >> (half * 8 * F::BITS)) as u64;
            for lane in 0..8 {
                codes[half * 8 + lane] = (eight >> (lane * F::BITS)) as u32 & mask;
            }
        }
    }
    codes
}

#[inline(always)]
fn whole_rows(_: Level, matrix: &PackedMatrix<'_>, first: usize, out: &mut [f32]) {
    for (index, out) in out.chunks_exact_mut(matrix.columns).enumerate() {
        with_format!(matrix.quantization, row_of(matrix, first + index, out));
    }
}

#[inline(always)]
fn row_of<F: Format>(matrix: &PackedMatrix<'_>, row: usize, out: &mut [f32]) {
    let group = matrix.quantization.group_size as usize;
    for (index, out) in out.chunks_exact_mut(LANES).enumerate() {
        let column = index * LANES;
        let at = row * matrix.row_groups() + column / group;
        let (scale, bias) = (matrix.scales.get(at), matrix.biases.map_or(0.0, |biases| biases.get(at)));
        let codes = codes_of::<F>(matrix, row, column);
        for lane in 0..LANES {
            out[lane] = scaled(F::value(codes[lane]), scale, bias, matrix.biases.is_some());
        }
    }
}
