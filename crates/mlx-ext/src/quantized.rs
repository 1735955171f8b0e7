//! Quantized weights in every mode of MLX (mlx-rs supports only the affine one).

use std::ffi::CStr;

use mlx_rs::{Array, Dtype, Stream};

use crate::error::{Result, check, install_handler};
use crate::transforms::borrowed;

/// Format of a group of weights and its scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantizationMode {
    /// Integers with a scale and a bias per group.
    Affine,
    /// 4-bit floats, groups of 32 with a power-of-two scale.
    Mxfp4,
    /// 8-bit floats, groups of 32 with a power-of-two scale.
    Mxfp8,
    /// 4-bit floats, groups of 16 with an 8-bit float scale.
    Nvfp4,
}

impl QuantizationMode {
    /// Returns the mode that `config.json` calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Affine, Self::Mxfp4, Self::Mxfp8, Self::Nvfp4].into_iter().find(|mode| mode.name() == name)
    }

    /// Returns the name used in `config.json`.
    pub fn name(self) -> &'static str {
        self.as_c_str().to_str().expect("plain ASCII")
    }

    /// Returns whether a group has a bias beside its scale.
    pub fn has_biases(self) -> bool {
        self == Self::Affine
    }

    fn as_c_str(self) -> &'static CStr {
        match self {
            Self::Affine => c"affine",
            Self::Mxfp4 => c"mxfp4",
            Self::Mxfp8 => c"mxfp8",
            Self::Nvfp4 => c"nvfp4",
        }
    }
}

/// Settings of a quantized weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantization {
    /// Bits per weight.
    pub bits: i32,
    /// Number of weights that share a scale.
    pub group_size: i32,
    /// Format of a group.
    pub mode: QuantizationMode,
}

impl Quantization {
    /// Returns whether the mode has these bits and groups.
    pub fn is_known(self) -> bool {
        let Self { bits, group_size, mode } = self;
        match mode {
            QuantizationMode::Affine => matches!((bits, group_size), (2..=6 | 8, 32 | 64 | 128)),
            QuantizationMode::Mxfp4 => (bits, group_size) == (4, 32),
            QuantizationMode::Mxfp8 => (bits, group_size) == (8, 32),
            QuantizationMode::Nvfp4 => (bits, group_size) == (4, 16),
        }
    }

    fn group_size(self) -> mlx_sys::mlx_optional_int {
        mlx_sys::mlx_optional_int { value: self.group_size, has_value: true }
    }

    fn bits(self) -> mlx_sys::mlx_optional_int {
        mlx_sys::mlx_optional_int { value: self.bits, has_value: true }
    }
}

/// The arrays of a packed weight `[out, in]`.
#[derive(Debug, Clone, Copy)]
pub struct PackedWeight<'a> {
    /// Packed weights, `u32`, `[out, in · bits / 32]`.
    pub weight: &'a Array,
    /// Scales, `[out, in / group size]`.
    pub scales: &'a Array,
    /// Biases (affine mode), of the shape of the scales.
    pub biases: Option<&'a Array>,
}

/// Returns the dense weight `[out, in]` of a packed one, in `dtype`.
///
/// # Errors
///
/// Fails when the shapes do not match the quantization.
pub fn dequantize(packed: PackedWeight<'_>, quantization: Quantization, dtype: Dtype) -> Result<Array> {
    install_handler();
    let stream = Stream::thread_local_or_default();
    let dtype =
        mlx_sys::mlx_optional_dtype { value: u32::from(dtype) as mlx_sys::mlx_dtype, has_value: true };
    // SAFETY: live handles; the empty ones stand for absent arguments; the result becomes ours.
    unsafe {
        let empty = mlx_sys::mlx_array_new();
        let mut out = mlx_sys::mlx_array_new();
        let status = mlx_sys::mlx_dequantize(
            &raw mut out,
            packed.weight.as_ptr(),
            packed.scales.as_ptr(),
            packed.biases.map_or(empty, Array::as_ptr),
            quantization.group_size(),
            quantization.bits(),
            quantization.mode.as_c_str().as_ptr(),
            empty,
            dtype,
            stream.as_ptr(),
        );
        let out = Array::from_ptr(out);
        check(status).map(|()| out)
    }
}

/// Packs a dense weight `[out, in]`; returns the packed weight, its scales and, in affine mode, its biases.
///
/// # Errors
///
/// Fails when the width is not a multiple of the group size.
pub fn quantize(weight: &Array, quantization: Quantization) -> Result<Vec<Array>> {
    install_handler();
    let stream = Stream::thread_local_or_default();
    // SAFETY: live handles; the vector is made, read and freed here, its elements become ours.
    unsafe {
        let empty = mlx_sys::mlx_array_new();
        let mut parts = mlx_sys::mlx_vector_array_new();
        let status = mlx_sys::mlx_quantize(
            &raw mut parts,
            weight.as_ptr(),
            quantization.group_size(),
            quantization.bits(),
            quantization.mode.as_c_str().as_ptr(),
            empty,
            stream.as_ptr(),
        );
        let arrays = check(status).and_then(|()| borrowed(parts));
        mlx_sys::mlx_vector_array_free(parts);
        arrays
    }
}

/// Multiplies `x` by a packed weight `[out, in]`: with `transposed`, `[..., in]` → `[..., out]`, else `[..., out]` →
/// `[..., in]`.
///
/// # Errors
///
/// Fails when the shapes do not match.
pub fn quantized_matmul(
    x: &Array,
    packed: PackedWeight<'_>,
    transposed: bool,
    quantization: Quantization,
) -> Result<Array> {
    install_handler();
    let stream = Stream::thread_local_or_default();
    // SAFETY: live handles; the empty one stands for absent biases; the result becomes ours.
    unsafe {
        let empty = mlx_sys::mlx_array_new();
        let mut out = mlx_sys::mlx_array_new();
        let status = mlx_sys::mlx_quantized_matmul(
            &raw mut out,
            x.as_ptr(),
            packed.weight.as_ptr(),
            packed.scales.as_ptr(),
            packed.biases.map_or(empty, Array::as_ptr),
            transposed,
            quantization.group_size(),
            quantization.bits(),
            quantization.mode.as_c_str().as_ptr(),
            stream.as_ptr(),
        );
        let out = Array::from_ptr(out);
        check(status).map(|()| out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_makes_the_round_trip() -> Result<()> {
        let key = mlx_rs::random::key(1)?;
        let weight = mlx_rs::random::uniform::<_, f32>(-1.0_f32, 1.0_f32, &[8, 64], &key)?;
        let affine = |bits| Quantization { bits, group_size: 32, mode: QuantizationMode::Affine };
        let cases = [
            (affine(2), 0.7),
            (affine(3), 0.3),
            (affine(4), 0.15),
            (affine(5), 0.07),
            (affine(6), 0.035),
            (affine(8), 0.01),
            (Quantization { bits: 4, group_size: 32, mode: QuantizationMode::Mxfp4 }, 0.3),
            (Quantization { bits: 8, group_size: 32, mode: QuantizationMode::Mxfp8 }, 0.1),
            (Quantization { bits: 4, group_size: 16, mode: QuantizationMode::Nvfp4 }, 0.3),
        ];
        for (quantization, tolerance) in cases {
            let parts = quantize(&weight, quantization)?;
            assert_eq!(parts.len(), 2 + usize::from(quantization.mode.has_biases()));
            let packed = PackedWeight { weight: &parts[0], scales: &parts[1], biases: parts.get(2) };
            let back = dequantize(packed, quantization, Dtype::Float32)?;
            let worst = back.subtract(&weight)?.abs()?.max(None)?.item_exact::<f32>();
            assert!(worst <= tolerance, "{quantization:?}: {worst}");
            let x = Array::ones::<f32>(&[3, 64])?;
            let fast = quantized_matmul(&x, packed, true, quantization)?;
            let plain = x.matmul(back.t())?;
            let worst = fast.subtract(&plain)?.abs()?.max(None)?.item_exact::<f32>();
            assert!(worst < 1e-3, "{quantization:?}: {worst}");
        }
        Ok(())
    }
}
