//! A packed weight as slices, and its two orientations as the right factor of a product.

use crate::packed::format::{Floats8, Format, power_of_two};
use crate::quantized::Quantization;

/// Scales or biases as they are stored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scales<'a> {
    /// Plain floats.
    Single(&'a [f32]),
    /// The upper halves of floats.
    Bfloat16(&'a [u16]),
    /// Exponents of powers of two.
    Exponents(&'a [u8]),
    /// 8-bit floats.
    Floats8(&'a [u8]),
}

impl Scales<'_> {
    /// Returns one of them.
    #[inline(always)]
    pub(super) fn get(self, index: usize) -> f32 {
        match self {
            Self::Single(scales) => scales[index],
            Self::Bfloat16(scales) => f32::from_bits(u32::from(scales[index]) << 16),
            Self::Exponents(scales) => power_of_two(scales[index]),
            Self::Floats8(scales) => Floats8::value(u32::from(scales[index])),
        }
    }

    /// Writes the scales of some rows, one lane per row: `lanes[i][lane]` is number `first + i` of row `row + lane`.
    #[inline(always)]
    pub(super) fn to_lanes(self, row: usize, row_length: usize, first: usize, lanes: Lanes<'_>) {
        match self {
            Self::Single(scales) => turn(scales, row, row_length, first, lanes, |scale| scale),
            Self::Bfloat16(scales) => {
                turn(scales, row, row_length, first, lanes, |bits| f32::from_bits(u32::from(bits) << 16));
            }
            Self::Exponents(scales) => turn(scales, row, row_length, first, lanes, power_of_two),
            Self::Floats8(scales) => {
                turn(scales, row, row_length, first, lanes, |code| Floats8::value(u32::from(code)));
            }
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Single(scales) => scales.len(),
            Self::Bfloat16(scales) => scales.len(),
            Self::Exponents(scales) | Self::Floats8(scales) => scales.len(),
        }
    }
}

/// Where the scales of up to 16 rows are written.
pub(super) struct Lanes<'a> {
    /// One vector per group.
    pub(super) groups: &'a mut [[f32; 16]],
    /// Number of rows.
    pub(super) rows: usize,
}

#[inline(always)]
fn turn<T: Copy>(
    scales: &[T],
    row: usize,
    row_length: usize,
    first: usize,
    lanes: Lanes<'_>,
    value: impl Fn(T) -> f32,
) {
    for lane in 0..lanes.rows {
        let start = (row + lane) * row_length + first;
        let scales = &scales[start..start + lanes.groups.len()];
        for (group, &scale) in lanes.groups.iter_mut().zip(scales) {
            group[lane] = value(scale);
        }
    }
}

/// A packed weight `[rows, columns]`: groups of numbers along the rows share a scale.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackedMatrix<'a> {
    pub(super) words: &'a [u32],
    pub(super) scales: Scales<'a>,
    /// Only in affine mode.
    pub(super) biases: Option<Scales<'a>>,
    pub(super) columns: usize,
    pub(super) quantization: Quantization,
}

impl<'a> PackedMatrix<'a> {
    /// Views a packed weight; `None` if the parts do not fit each other.
    pub(crate) fn new(
        words: &'a [u32],
        scales: Scales<'a>,
        biases: Option<Scales<'a>>,
        [rows, columns]: [usize; 2],
        quantization: Quantization,
    ) -> Option<Self> {
        let group = quantization.group_size as usize;
        let fits = quantization.is_known()
            && columns.is_multiple_of(group)
            && words.len() == rows * columns * quantization.bits as usize / 32
            && scales.len() == rows * (columns / group)
            && biases.is_some() == quantization.mode.has_biases()
            && biases.is_none_or(|biases| biases.len() == scales.len());
        fits.then_some(Self { words, scales, biases, columns, quantization })
    }

    /// Returns the words of a row.
    pub(super) fn row_words(&self) -> usize {
        self.columns * self.quantization.bits as usize / 32
    }

    /// Returns the groups of a row.
    pub(super) fn row_groups(&self) -> usize {
        self.columns / self.quantization.group_size as usize
    }
}
