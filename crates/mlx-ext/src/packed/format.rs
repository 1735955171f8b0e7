//! Conversion of the bits of one packed number into a float.

/// A format of packed numbers: its width, and what its bits mean before the scale.
pub(super) trait Format {
    /// Width of a number in bits.
    const BITS: usize;

    /// Kind of number.
    const KIND: Kind;

    /// Returns the number whose bits are `code`.
    fn value(code: u32) -> f32;
}

/// Kind of a packed number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Unsigned integer.
    Integer,
    /// 4-bit float.
    Float4,
    /// 8-bit float.
    Float8,
}

/// Unsigned integers of `BITS` bits, with a scale and a bias.
pub(super) struct Integers<const BITS: usize>;

/// 4-bit floats: a sign, two bits of exponent, one of mantissa.
pub(super) struct Floats4;

/// 8-bit floats: a sign, four bits of exponent, three of mantissa; no infinities, no NaN.
pub(super) struct Floats8;

impl<const BITS: usize> Format for Integers<BITS> {
    const BITS: usize = BITS;
    const KIND: Kind = Kind::Integer;

    #[inline(always)]
    fn value(code: u32) -> f32 {
        code as i32 as f32
    }
}

impl Format for Floats4 {
    const BITS: usize = 4;
    const KIND: Kind = Kind::Float4;

    #[inline(always)]
    fn value(code: u32) -> f32 {
        let (exponent, mantissa) = (code >> 1 & 3, code & 1);
        // Twice the number is an integer.
        let normal = (2 | mantissa) << exponent >> 1;
        let doubled = if exponent == 0 { mantissa } else { normal };
        let size = doubled as i32 as f32 * 0.5;
        f32::from_bits(size.to_bits() | (code & 8) << 28)
    }
}

impl Format for Floats8 {
    const BITS: usize = 8;
    const KIND: Kind = Kind::Float8;

    #[inline(always)]
    fn value(code: u32) -> f32 {
        let (exponent, mantissa) = (code >> 3 & 15, code & 7);
        let normal = f32::from_bits((exponent + 120) << 23 | mantissa << 20);
        let subnormal = mantissa as i32 as f32 * (1.0 / 512.0);
        let size = if exponent == 0 { subnormal } else { normal };
        f32::from_bits(size.to_bits() | (code & 128) << 24)
    }
}

/// Returns a power of two from its exponent byte.
pub(super) fn power_of_two(exponent: u8) -> f32 {
    f32::from_bits(if exponent == 0 { 1 << 22 } else { u32::from(exponent) << 23 })
}

/// Calls `$work::<F>(…)` with the format of a quantization.
macro_rules! with_format {
    ($quantization:expr, $work:ident ( $($argument:expr),* )) => {
        match ($quantization.mode, $quantization.bits) {
            (QuantizationMode::Affine, 2) => $work::<Integers<2>>($($argument),*),
            (QuantizationMode::Affine, 3) => $work::<Integers<3>>($($argument),*),
            (QuantizationMode::Affine, 4) => $work::<Integers<4>>($($argument),*),
            (QuantizationMode::Affine, 5) => $work::<Integers<5>>($($argument),*),
            (QuantizationMode::Affine, 6) => $work::<Integers<6>>($($argument),*),
            (QuantizationMode::Affine, 8) => $work::<Integers<8>>($($argument),*),
            (QuantizationMode::Mxfp4 | QuantizationMode::Nvfp4, _) => $work::<Floats4>($($argument),*),
            (QuantizationMode::Mxfp8, _) => $work::<Floats8>($($argument),*),
            (QuantizationMode::Affine, bits) => unreachable!("{bits} bits were refused"),
        }
    };
}
pub(super) use with_format;
