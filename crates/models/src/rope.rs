//! Rotary positions, and their scaling to longer contexts.
//!
//! Papers: arXiv:2104.09864 (rotation), arXiv:2309.00071 (yarn), arXiv:2402.13753 (longrope). Checked against
//! `mlx_lm/models/rope_utils.py`: as there, longrope uses its long factors for rows of any length.

use std::sync::Arc;

use mlx_ext::Result;
use mlx_ext::host::uses_host;
use mlx_ext::kernels::{Positions, Rotation, rotate};
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, fast, ops};
use serde::Deserialize;

use crate::attention::Offset;

/// `rope_scaling` of a `config.json`; the `rope_parameters` of transformers 5 are converted to it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RopeScaling {
    /// Name of `rope_type` in older files; takes precedence.
    #[serde(rename = "type")]
    kind: Option<String>,
    rope_type: Option<String>,
    /// Ratio of the context to the trained context.
    factor: Option<f32>,
    /// llama3: wavelengths above this share of the trained context are stretched by `factor`.
    low_freq_factor: Option<f32>,
    /// llama3: wavelengths below this share are kept.
    high_freq_factor: Option<f32>,
    /// Trained context in tokens.
    original_max_position_embeddings: Option<f32>,
    /// Context after stretching, in tokens.
    max_position_embeddings: Option<f32>,
    /// yarn: pairs that turn more often than this in the trained context are kept.
    beta_fast: Option<f32>,
    /// yarn: pairs that turn less often than this are stretched by `factor`.
    beta_slow: Option<f32>,
    /// yarn: growth of queries and keys with the context.
    mscale: Option<f32>,
    /// yarn: divides the growth of `mscale`.
    mscale_all_dim: Option<f32>,
    /// longrope: factor of each wavelength.
    long_factor: Option<Vec<f32>>,
    /// yarn and longrope: factor of queries and keys, instead of the computed one.
    attention_factor: Option<f32>,
    /// Base of the rotation, in files that keep it here.
    pub(crate) rope_theta: Option<f32>,
}

impl RopeScaling {
    fn kind(&self) -> &str {
        self.kind.as_deref().or(self.rope_type.as_deref()).unwrap_or("default")
    }

    fn required<T>(&self, value: Option<T>, name: &str) -> Result<T, String> {
        value.ok_or_else(|| format!("rope scaling `{}` lacks `{name}`", self.kind()))
    }
}

/// Rotation of the first `dimensions` of a head, in pairs, by angles that grow with the position.
#[derive(Clone)]
pub(crate) struct Rope {
    dimensions: i32,
    base: f32,
    /// Factor of the positions.
    scale: f32,
    /// Whether a pair is two neighbours instead of one dimension of each half.
    interleaved: bool,
    /// Wavelengths / 2π, one per pair, if they do not follow from `base` alone.
    wavelengths: Option<Array>,
    /// Factor of the rotated dimensions.
    magnitude: Option<f32>,
    /// Angle per position of each pair, which follow from the fields above.
    frequencies: Arc<[f32]>,
}

impl Rope {
    /// Makes the rotation of the first `dimensions` of a head.
    ///
    /// # Errors
    ///
    /// Fails when the scaling is not supported or lacks a setting.
    pub(crate) fn new(dimensions: i32, base: f32, scaling: Option<&RopeScaling>) -> Result<Self, String> {
        let plain = Self {
            dimensions,
            base,
            scale: 1.0,
            interleaved: false,
            wavelengths: None,
            magnitude: None,
            frequencies: plain_frequencies(dimensions, base),
        };
        let Some(scaling) = scaling else { return Ok(plain) };
        let (wavelengths, magnitude) = match scaling.kind() {
            // mrope differs only for image tokens.
            "default" | "mrope" => return Ok(plain),
            "linear" => {
                return Ok(Self { scale: 1.0 / scaling.required(scaling.factor, "factor")?, ..plain });
            }
            "llama3" => (llama3_wavelengths(dimensions, base, scaling)?, None),
            "yarn" => (yarn_wavelengths(dimensions, base, scaling)?, Some(yarn_magnitude(scaling)?)),
            "longrope" | "su" => {
                (longrope_wavelengths(dimensions, base, scaling)?, Some(longrope_magnitude(scaling)?))
            }
            other => {
                let known = "default, linear, llama3, longrope, su, yarn";
                return Err(format!("rope scaling `{other}` is not supported (supported: {known})"));
            }
        };
        let frequencies = wavelengths.iter().map(|wavelength| 1.0 / wavelength).collect();
        let wavelengths = Array::from_slice(&wavelengths, &[dimensions / 2]);
        Ok(Self { wavelengths: Some(wavelengths), magnitude, frequencies, ..plain })
    }

    /// Returns the rotation with pairs of neighbours.
    pub(crate) fn interleaved(self) -> Self {
        Self { interleaved: true, ..self }
    }

    /// Rotates `x [B, H, L, D]` by the positions of its tokens.
    pub(crate) fn forward(&self, x: &Array, offset: &Offset) -> Result<Array> {
        if uses_host(x) {
            return rotate(x, &self.rotation(), &positions_of(offset));
        }
        if self.dimensions == x.dim(-1) || !mlx_ext::runs_on_gpu() {
            return self.rotate(x, offset);
        }
        // MLX 0.32.2 leaves the other dimensions undefined on CUDA when `x` is not contiguous.
        let rotated = self.rotate(&x.try_index((.., .., .., ..self.dimensions))?, offset)?;
        Ok(ops::concatenate(&[&rotated, &x.try_index((.., .., .., self.dimensions..))?], -1)?)
    }

    fn rotate(&self, x: &Array, offset: &Offset) -> Result<Array> {
        let base = self.wavelengths.is_none().then_some(self.base);
        let wavelengths = self.wavelengths.as_ref();
        let x = match self.magnitude {
            Some(magnitude) => x.multiply(self.magnitudes(magnitude, x)?)?,
            None => x.clone(),
        };
        let (dimensions, interleaved, scale) = (self.dimensions, self.interleaved, self.scale);
        Ok(match offset {
            Offset::Same(offset) => {
                fast::rope(x, dimensions, interleaved, base, scale, *offset, wavelengths)?
            }
            Offset::PerRow(offsets) => {
                fast::rope_dynamic(x, dimensions, interleaved, base, scale, offsets, wavelengths)?
            }
            Offset::PerToken(positions) => {
                // MLX takes one start position per row, so every token becomes a row.
                let (batch, heads, length, width) = (x.dim(0), x.dim(1), x.dim(2), x.dim(3));
                let tokens = x.transpose_axes(&[0, 2, 1, 3])?.reshape(&[batch * length, heads, 1, width])?;
                let tokens =
                    fast::rope_dynamic(tokens, dimensions, interleaved, base, scale, positions, wavelengths)?;
                tokens.reshape(&[batch, length, heads, width])?.transpose_axes(&[0, 2, 1, 3])?
            }
        })
    }

    /// Returns the same rotation for the kernel of a CPU.
    fn rotation(&self) -> Rotation {
        Rotation {
            frequencies: self.frequencies.clone(),
            interleaved: self.interleaved,
            scale: self.scale,
            magnitude: self.magnitude.unwrap_or(1.0),
        }
    }

    /// Returns the factor of each dimension, `[D]`, in the type of `x`: `magnitude` where rotated, else 1.
    fn magnitudes(&self, magnitude: f32, x: &Array) -> Result<Array> {
        let magnitudes: Vec<f32> = (0..x.dim(-1))
            .map(|dimension| if dimension < self.dimensions { magnitude } else { 1.0 })
            .collect();
        Ok(Array::from_slice(&magnitudes, &[x.dim(-1)]).as_dtype(x.dtype())?)
    }
}

fn positions_of(offset: &Offset) -> Positions {
    match offset {
        Offset::Same(start) => Positions::Same(*start),
        Offset::PerRow(starts) => Positions::PerRow(starts.clone()),
        Offset::PerToken(positions) => Positions::PerToken(positions.clone()),
    }
}

/// Returns base^(−2i/dimensions) for each pair i.
fn plain_frequencies(dimensions: i32, base: f32) -> Arc<[f32]> {
    let (base, half) = (f64::from(base), f64::from(dimensions / 2));
    (0..dimensions / 2).map(|pair| base.powf(-f64::from(pair) / half) as f32).collect()
}

fn plain_wavelengths(dimensions: i32, base: f32) -> impl Iterator<Item = f32> {
    (0..dimensions / 2).map(move |pair| base.powf(2.0 * pair as f32 / dimensions as f32))
}

/// Returns wavelengths for llama3: long ones grow by `factor`, short ones stay, those between are blended.
fn llama3_wavelengths(dimensions: i32, base: f32, scaling: &RopeScaling) -> Result<Vec<f32>, String> {
    let factor = scaling.required(scaling.factor, "factor")?;
    let low = scaling.low_freq_factor.unwrap_or(1.0);
    let high = scaling.high_freq_factor.unwrap_or(4.0);
    let context = scaling.original_max_position_embeddings.unwrap_or(8192.0);
    let stretch = |wavelength: f32| {
        let turns = context / (std::f32::consts::TAU * wavelength);
        if turns < low {
            wavelength * factor
        } else if turns > high {
            wavelength
        } else {
            let blend = (turns - low) / (high - low);
            wavelength / ((1.0 - blend) / factor + blend)
        }
    };
    Ok(plain_wavelengths(dimensions, base).map(stretch).collect())
}

/// Returns wavelengths for yarn: pairs that turn at most `beta_slow` times are stretched, those that turn at least
/// `beta_fast` times are kept, and the pairs between are interpolated linearly.
fn yarn_wavelengths(dimensions: i32, base: f32, scaling: &RopeScaling) -> Result<Vec<f32>, String> {
    let factor = scaling.required(scaling.factor, "factor")?;
    let context = scaling.original_max_position_embeddings.unwrap_or(4096.0);
    let pair_that_turns =
        |times: f32| dimensions as f32 * (context / (times * std::f32::consts::TAU)).ln() / (2.0 * base.ln());
    let first = pair_that_turns(scaling.beta_fast.unwrap_or(32.0)).floor().max(0.0);
    let last = pair_that_turns(scaling.beta_slow.unwrap_or(1.0)).ceil().min(dimensions as f32 - 1.0);
    // Both are integers.
    let width = if (last - first).abs() < 0.5 { 0.001 } else { last - first };
    let stretch = |(pair, wavelength): (usize, f32)| {
        let stretched = ((pair as f32 - first) / width).clamp(0.0, 1.0);
        // Frequencies are blended, not wavelengths.
        wavelength * factor / (factor * (1.0 - stretched) + stretched)
    };
    Ok(plain_wavelengths(dimensions, base).enumerate().map(stretch).collect())
}

fn yarn_magnitude(scaling: &RopeScaling) -> Result<f32, String> {
    if let Some(magnitude) = scaling.attention_factor {
        return Ok(magnitude);
    }
    let factor = scaling.required(scaling.factor, "factor")?;
    let raised = |by: f32| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
    Ok(raised(scaling.mscale.unwrap_or(1.0)) / raised(scaling.mscale_all_dim.unwrap_or(0.0)))
}

fn longrope_wavelengths(dimensions: i32, base: f32, scaling: &RopeScaling) -> Result<Vec<f32>, String> {
    let factors = scaling.required(scaling.long_factor.as_ref(), "long_factor")?;
    let pairs = (dimensions / 2) as usize;
    if factors.len() != pairs {
        return Err(format!("rope scaling: `long_factor` has {} numbers, expected {pairs}", factors.len()));
    }
    Ok(plain_wavelengths(dimensions, base)
        .zip(factors)
        .map(|(wavelength, factor)| wavelength * factor)
        .collect())
}

fn longrope_magnitude(scaling: &RopeScaling) -> Result<f32, String> {
    if let Some(magnitude) = scaling.attention_factor {
        return Ok(magnitude);
    }
    let trained = scaling.original_max_position_embeddings.unwrap_or(4096.0);
    let longer = scaling.required(scaling.max_position_embeddings, "max_position_embeddings")? / trained;
    Ok(if longer <= 1.0 { 1.0 } else { (1.0 + longer.ln() / trained.ln()).sqrt() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaling(json: &str) -> RopeScaling {
        serde_json::from_str(json).expect("valid settings")
    }

    #[test]
    fn packed_rows_rotate_as_rows_of_their_own() -> mlx_ext::Result<()> {
        let key = mlx_rs::random::key(3)?;
        let x = mlx_rs::random::normal::<f32>(&[2, 3, 5, 8], None, None, &key)?;
        let longrope = scaling(
            r#"{"type":"longrope","long_factor":[1.0,2.0,3.0],"original_max_position_embeddings":8,"max_position_embeddings":32}"#,
        );
        let ropes = [
            Rope::new(8, 10_000.0, None).expect("plain"),
            Rope::new(6, 10_000.0, None).expect("plain").interleaved(),
            Rope::new(6, 10_000.0, Some(&longrope)).expect("known"),
        ];
        for rope in ropes {
            // Two segments, of two and three tokens, in the first line; one of five in the second.
            let positions = Array::from_slice(&[0, 1, 0, 1, 2, 0, 1, 2, 3, 4], &[10]);
            let packed = rope.forward(&x, &Offset::PerToken(positions))?;
            let slice = |line: i32, from: i32, to: i32, of: &Array| {
                Ok::<_, mlx_ext::Error>(of.try_index((line..line + 1, .., from..to, ..))?)
            };
            for (line, from, to) in [(0, 0, 2), (0, 2, 5), (1, 0, 5)] {
                let alone = rope.forward(&slice(line, from, to, &x)?, &Offset::Same(0))?;
                let off = alone.subtract(slice(line, from, to, &packed)?)?.abs()?.max(None)?;
                assert!(off.item_exact::<f32>() < 1e-6, "line {line} from {from} to {to}");
            }
        }
        Ok(())
    }

    #[test]
    fn yarn_leaves_fast_pairs_and_stretches_slow_ones() -> Result<(), String> {
        let scaling = scaling(r#"{"rope_type":"yarn","factor":8.0,"original_max_position_embeddings":64}"#);
        let plain: Vec<f32> = plain_wavelengths(16, 10_000.0).collect();
        let stretched = yarn_wavelengths(16, 10_000.0, &scaling)?;
        assert!((stretched[0] - plain[0]).abs() < 1e-6);
        assert!((stretched[7] / plain[7] - 8.0).abs() < 1e-6);
        assert!(stretched.windows(2).all(|pair| pair[0] < pair[1]));
        Ok(())
    }

    #[test]
    fn type_takes_precedence_over_rope_type() {
        let scaling = scaling(r#"{"type":"mrope","rope_type":"default"}"#);
        assert_eq!(scaling.kind(), "mrope");
    }

    #[test]
    fn an_unknown_or_incomplete_scaling_is_refused() {
        let refused = |json: &str| Rope::new(8, 10_000.0, Some(&scaling(json))).err().unwrap_or_default();
        insta::assert_snapshot!(refused(r#"{"type":"dynamic","factor":2.0}"#), @"rope scaling `dynamic` is not supported (supported: default, linear, llama3, longrope, su, yarn)");
        insta::assert_snapshot!(refused(r#"{"type":"linear"}"#), @"rope scaling `linear` lacks `factor`");
        insta::assert_snapshot!(refused(r#"{"type":"longrope","long_factor":[1.0]}"#), @"rope scaling: `long_factor` has 1 numbers, expected 4");
    }

    #[test]
    fn longrope_magnitude_only_grows_beyond_the_trained_context() -> Result<(), String> {
        let mut settings =
            scaling(r#"{"original_max_position_embeddings":4096,"max_position_embeddings":4096}"#);
        assert!((longrope_magnitude(&settings)? - 1.0).abs() < 1e-6);
        settings.max_position_embeddings = Some(131_072.0);
        assert!((longrope_magnitude(&settings)? - 1.190_238).abs() < 1e-5);
        Ok(())
    }
}
