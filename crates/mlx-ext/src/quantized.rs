//! Quantized weights in every mode of MLX (mlx-rs knows the affine one only).

use crate::error::{Result, check, install_handler};
use mlx_rs::{Array, Dtype, Stream};
use std::ffi::CStr;

/// How a group of weights shares its scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantizationMode {
    /// Integers with a scale and a bias a group.
    Affine,
    /// 4-bit floats, groups of 32 with a power-of-two scale.
    Mxfp4,
    /// 8-bit floats, groups of 32 with a power-of-two scale.
    Mxfp8,
    /// 4-bit floats, groups of 16 with an 8-bit float scale.
    Nvfp4,
}

impl QuantizationMode {
    /// Reads the name used in `config.json`.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Affine, Self::Mxfp4, Self::Mxfp8, Self::Nvfp4].into_iter().find(|mode| mode.name() == name)
    }

    /// The name used in `config.json`.
    pub fn name(self) -> &'static str {
        self.as_c_str().to_str().expect("plain ASCII")
    }

    /// Whether a group has a bias beside its scale.
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

/// The settings under which a weight was quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantization {
    /// Bits a weight.
    pub bits: i32,
    /// Weights that share a scale.
    pub group_size: i32,
    /// How they share it.
    pub mode: QuantizationMode,
}

impl Quantization {
    fn group_size(self) -> mlx_sys::mlx_optional_int {
        mlx_sys::mlx_optional_int { value: self.group_size, has_value: true }
    }

    fn bits(self) -> mlx_sys::mlx_optional_int {
        mlx_sys::mlx_optional_int { value: self.bits, has_value: true }
    }
}

/// Returns the dense weight, `[out, in]` in `dtype`, of a packed one.
pub fn dequantize(
    weight: &Array,
    scales: &Array,
    biases: Option<&Array>,
    quantization: Quantization,
    dtype: Dtype,
) -> Result<Array> {
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
            weight.as_ptr(),
            scales.as_ptr(),
            biases.map_or(empty, Array::as_ptr),
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

/// Returns packed weight, scales and, in affine mode, biases of a dense weight `[out, in]`.
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
        let arrays = check(status).and_then(|()| crate::transforms::borrowed(parts));
        mlx_sys::mlx_vector_array_free(parts);
        arrays
    }
}

/// Returns `x` times a packed weight `[out, in]`: transposed, `[…, in]` gives `[…, out]`; as it stands, `[…, out]`
/// gives `[…, in]`.
pub fn quantized_matmul(
    x: &Array,
    (weight, scales, biases): (&Array, &Array, Option<&Array>),
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
            weight.as_ptr(),
            scales.as_ptr(),
            biases.map_or(empty, Array::as_ptr),
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
            let back = dequantize(&parts[0], &parts[1], parts.get(2), quantization, Dtype::Float32)?;
            let worst = back.subtract(&weight)?.abs()?.max(None)?.item_exact::<f32>();
            assert!(worst <= tolerance, "{quantization:?}: {worst}");
            let x = Array::ones::<f32>(&[3, 64])?;
            let fast = quantized_matmul(&x, (&parts[0], &parts[1], parts.get(2)), true, quantization)?;
            let plain = x.matmul(back.t())?;
            let worst = fast.subtract(&plain)?.abs()?.max(None)?.item_exact::<f32>();
            assert!(worst < 1e-3, "{quantization:?}: {worst}");
        }
        Ok(())
    }
}
