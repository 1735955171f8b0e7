//! Rotary positions, and their scaling to longer contexts.
//!
//! Papers: arXiv:2104.09864 (rotation), arXiv:2309.00071 (yarn), arXiv:2402.13753 (longrope). Checked against
//! `modeling_rope_utils.py` of transformers. As there, longrope uses its short factors for rows within the trained
//! context, and its long factors for every token of a longer row; mlx-lm uses the long ones always.

use std::sync::Arc;

use mlx_ext::Result;
use mlx_ext::host::uses_host;
use mlx_ext::kernels::{Positions, Rotation, rotate};
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, fast, ops};
use serde::Deserialize;
use serde_json::Value;

use crate::attention::{Beyond, Context, Offset};
use crate::config::normalized;
use crate::keys::KINDS;

/// `rope_scaling` of a `config.json`; the `rope_parameters` of transformers 5 are converted to it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RopeScaling {
    /// Name of `rope_type` in older files.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Takes precedence over `type`.
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
    /// yarn: whether the borders between kept and stretched pairs are rounded.
    truncate: Option<bool>,
    /// longrope: factor of each wavelength in rows beyond the trained context.
    long_factor: Option<Vec<f32>>,
    /// longrope: factor of each wavelength in rows within the trained context.
    short_factor: Option<Vec<f32>>,
    /// yarn and longrope: factor of queries and keys, instead of the computed one.
    attention_factor: Option<f32>,
    /// Base of the rotation, in files that keep it here.
    pub(crate) rope_theta: Option<f32>,
    /// Share of each head that is rotated, in files that keep it here.
    pub(crate) partial_rotary_factor: Option<f32>,
}

impl RopeScaling {
    /// Checks that no number is one that a model cannot have: some lead to angles that are not finite, others to nonsense.
    fn check(&self) -> Result<(), String> {
        const FACTORS: (f32, f32) = (0.001, 1e6);
        const COUNTS: (f32, f32) = (1.0, 2e9);
        // Zero means the default of some of them.
        const OTHERS: (f32, f32) = (0.0, 1e6);
        let numbers = [
            ("factor", self.factor, FACTORS),
            ("attention_factor", self.attention_factor, FACTORS),
            ("original_max_position_embeddings", self.original_max_position_embeddings, COUNTS),
            ("max_position_embeddings", self.max_position_embeddings, COUNTS),
            ("low_freq_factor", self.low_freq_factor, OTHERS),
            ("high_freq_factor", self.high_freq_factor, OTHERS),
            ("beta_fast", self.beta_fast, OTHERS),
            ("beta_slow", self.beta_slow, OTHERS),
            ("mscale", self.mscale, OTHERS),
            ("mscale_all_dim", self.mscale_all_dim, OTHERS),
        ];
        let lists = [("long_factor", &self.long_factor), ("short_factor", &self.short_factor)];
        let listed = lists
            .into_iter()
            .flat_map(|(name, list)| list.iter().flatten().map(move |&number| (name, Some(number), FACTORS)));
        let wrong = numbers.into_iter().chain(listed).find_map(|(name, number, (least, most))| {
            let number = number.filter(|number| !(least..=most).contains(number))?;
            Some(format!("rope scaling: `{name}` is {number:?}, expected a number from {least} to {most}"))
        });
        wrong.map_or(Ok(()), Err)
    }

    fn kind(&self) -> &str {
        self.rope_type.as_deref().or(self.kind.as_deref()).unwrap_or("default")
    }

    /// Returns the scaling as Phi 3 reads it: the names of older files, `su` and `yarn`, mean longrope, and the trained
    /// context is the one beside the table, else 4,096 tokens.
    pub(crate) fn of_phi3(&self, trained: Option<f32>) -> Self {
        let kind = if matches!(self.kind(), "su" | "yarn") { "longrope" } else { self.kind() };
        Self {
            rope_type: Some(kind.to_owned()),
            original_max_position_embeddings: Some(trained.unwrap_or(4096.0)),
            ..self.clone()
        }
    }

    /// Returns the trained context in tokens: the whole context if the file does not say otherwise.
    fn trained_context(&self) -> Result<f32, String> {
        let context = self.original_max_position_embeddings.or(self.max_position_embeddings);
        self.required(context, "original_max_position_embeddings")
    }

    /// Returns `factor`, else the ratio of the context to the trained context.
    fn factor_or_ratio(&self) -> Result<f32, String> {
        let ratio = || Some(self.max_position_embeddings? / self.original_max_position_embeddings?);
        self.required(self.factor.or_else(ratio), "factor")
    }

    fn required<T>(&self, value: Option<T>, name: &str) -> Result<T, String> {
        value.ok_or_else(|| format!("rope scaling `{}` lacks `{name}`", self.kind()))
    }

    fn llama3(&self) -> Result<Llama3, String> {
        Ok(Llama3 {
            factor: self.required(self.factor, "factor")?,
            low_freq_factor: self.required(self.low_freq_factor, "low_freq_factor")?,
            high_freq_factor: self.required(self.high_freq_factor, "high_freq_factor")?,
            trained_context: self.trained_context()?,
        })
    }

    fn yarn(&self) -> Result<Yarn, String> {
        // As in transformers, zero means the default.
        let turns = |value: Option<f32>, default: f32| value.filter(|turns| *turns != 0.0).unwrap_or(default);
        Ok(Yarn {
            factor: self.factor_or_ratio()?,
            trained_context: self.trained_context()?,
            beta_fast: turns(self.beta_fast, Yarn::BETA_FAST),
            beta_slow: turns(self.beta_slow, Yarn::BETA_SLOW),
            truncate: self.truncate.unwrap_or(true),
            magnitude: yarn_magnitude(self)?,
        })
    }
}

/// Difference between the frequencies of a rotation and the plain ones, with the defaults of its kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scaling {
    /// No difference.
    None,
    /// All frequencies are divided by this factor.
    Linear(f32),
    /// Low frequencies are divided.
    Llama3(Llama3),
    /// Low frequencies are divided, and queries and keys are multiplied.
    Yarn(Yarn),
    /// Each frequency has a divisor, and another one in rows beyond the trained context.
    Longrope,
}

/// Settings of Llama 3's scaling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Llama3 {
    /// Factor of long wavelengths.
    pub factor: f32,
    /// Pairs that turn less often than this in the trained context are stretched by `factor`.
    pub low_freq_factor: f32,
    /// Pairs that turn more often than this are kept.
    pub high_freq_factor: f32,
    /// Trained context in tokens.
    pub trained_context: f32,
}

/// Settings of yarn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// Factor of long wavelengths.
    pub factor: f32,
    /// Trained context in tokens.
    pub trained_context: f32,
    /// Pairs that turn more often than this in the trained context are kept.
    pub beta_fast: f32,
    /// Pairs that turn less often than this are stretched by `factor`.
    pub beta_slow: f32,
    /// Whether the borders between kept and stretched pairs are rounded.
    pub truncate: bool,
    /// Factor of queries and keys.
    pub magnitude: f32,
}

impl Yarn {
    /// `beta_fast` of a file that does not set it.
    pub const BETA_FAST: f32 = 32.0;
    /// `beta_slow` of a file that does not set it.
    pub const BETA_SLOW: f32 = 1.0;

    /// Returns the factor of queries and keys that follows from `factor` if a file sets nothing else.
    pub fn usual_magnitude(&self) -> f32 {
        raised_magnitude(self.factor, 1.0)
    }
}

fn raised_magnitude(factor: f32, by: f32) -> f32 {
    if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 }
}

/// Rotation of queries and keys, with everything that changes its angles.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// Numbers of a head that are rotated.
    pub dimensions: i32,
    /// Base of the wavelengths.
    pub base: f32,
    /// Whether a pair is two neighbours instead of one number of each half.
    pub interleaved: bool,
    /// Difference from the plain frequencies.
    pub scaling: Scaling,
    /// Angle per position of each pair, within the trained context.
    pub frequencies: Vec<f32>,
    /// Factor of queries and keys.
    pub magnitude: f32,
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
    /// Wavelengths for rows beyond the trained context, if they differ.
    long: Option<LongContext>,
    /// Settings that the wavelengths and the magnitude follow from.
    scaling: Scaling,
}

/// Wavelengths of longrope for long rows.
#[derive(Clone)]
struct LongContext {
    /// Wavelengths / 2π, one per pair.
    wavelengths: Array,
    /// Angle per position of each pair.
    frequencies: Arc<[f32]>,
    /// Trained context in tokens.
    trained: i32,
}

impl Rope {
    /// Makes the rotation of the first `dimensions` of a head.
    ///
    /// # Errors
    ///
    /// Fails when the scaling is not supported or lacks a setting, and when the base or a number of the scaling is absurd.
    pub(crate) fn new(dimensions: i32, base: f32, scaling: Option<&RopeScaling>) -> Result<Self, String> {
        if dimensions < 2 || dimensions % 2 != 0 {
            return Err(format!("{dimensions} dimensions of each head are rotated, expected an even number"));
        }
        if !(1.0..=f32::MAX).contains(&base) {
            return Err(format!("`rope_theta` is {base:?}, expected a number from 1"));
        }
        let plain = Self {
            dimensions,
            base,
            scale: 1.0,
            interleaved: false,
            wavelengths: None,
            magnitude: None,
            frequencies: plain_frequencies(dimensions, base),
            long: None,
            scaling: Scaling::None,
        };
        let Some(scaling) = scaling else { return Ok(plain) };
        // mrope differs only for image tokens.
        if matches!(scaling.kind(), "default" | "mrope") {
            return Ok(plain);
        }
        scaling.check()?;
        let (wavelengths, magnitude, scaling) = match scaling.kind() {
            "linear" => {
                let factor = scaling.required(scaling.factor, "factor")?;
                return Ok(Self { scale: 1.0 / factor, scaling: Scaling::Linear(factor), ..plain });
            }
            "llama3" => {
                let settings = scaling.llama3()?;
                (llama3_wavelengths(dimensions, base, &settings), None, Scaling::Llama3(settings))
            }
            "yarn" => {
                let settings = scaling.yarn()?;
                let wavelengths = yarn_wavelengths(dimensions, base, &settings);
                (wavelengths, Some(settings.magnitude), Scaling::Yarn(settings))
            }
            "longrope" | "su" => return plain.with_longrope(scaling),
            other => {
                let known = KINDS.join(", ");
                return Err(format!("rope scaling `{other}` is not supported (supported: {known})"));
            }
        };
        if !wavelengths.iter().chain(&magnitude).all(|number| number.is_finite() && *number > 0.0) {
            return Err("rope scaling: its numbers lead to wavelengths that are not finite".to_owned());
        }
        let frequencies = wavelengths.iter().map(|wavelength| 1.0 / wavelength).collect();
        let wavelengths = Array::from_slice(&wavelengths, &[dimensions / 2]);
        Ok(Self { wavelengths: Some(wavelengths), magnitude, frequencies, scaling, ..plain })
    }

    /// Returns the description of the rotation.
    pub(crate) fn rotary(&self) -> Rotary {
        Rotary {
            dimensions: self.dimensions,
            base: self.base,
            interleaved: self.interleaved,
            scaling: self.scaling,
            frequencies: self.frequencies.iter().map(|frequency| frequency * self.scale).collect(),
            magnitude: self.magnitude.unwrap_or(1.0),
        }
    }

    /// Adds longrope's wavelengths, for short and for long rows.
    fn with_longrope(self, scaling: &RopeScaling) -> Result<Self, String> {
        let (dimensions, base) = (self.dimensions, self.base);
        let wavelengths = |name: &str, factors: Option<&Vec<f32>>| {
            longrope_wavelengths(dimensions, base, name, scaling.required(factors, name)?)
        };
        let short = wavelengths("short_factor", scaling.short_factor.as_ref())?;
        let long = wavelengths("long_factor", scaling.long_factor.as_ref())?;
        let array = |wavelengths: &[f32]| Array::from_slice(wavelengths, &[dimensions / 2]);
        let angles = |wavelengths: &[f32]| wavelengths.iter().map(|wavelength| 1.0 / wavelength).collect();
        let trained = scaling.trained_context()? as i32;
        Ok(Self {
            wavelengths: Some(array(&short)),
            frequencies: angles(&short),
            magnitude: Some(longrope_magnitude(scaling)?),
            long: Some(LongContext { wavelengths: array(&long), frequencies: angles(&long), trained }),
            scaling: Scaling::Longrope,
            ..self
        })
    }

    /// Rotates `x [B, H, L, D]` as [`Rope::forward`], with the wavelengths that fit the length of each row.
    pub(crate) fn forward_in(&self, x: &Array, context: &Context<'_>) -> Result<Array> {
        let short = || self.forward(x, &context.offset);
        let Some(long) = &self.long else { return short() };
        let stretched = Self {
            wavelengths: Some(long.wavelengths.clone()),
            frequencies: long.frequencies.clone(),
            long: None,
            ..self.clone()
        };
        match context.beyond(long.trained)? {
            Beyond::None => short(),
            Beyond::All => stretched.forward(x, &context.offset),
            Beyond::Some(is_beyond) => {
                Ok(ops::select(is_beyond, stretched.forward(x, &context.offset)?, short()?)?)
            }
        }
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

/// Returns the number of tokens above which a model rotates all tokens of a row differently: longrope's trained context.
///
/// `config` is the table that describes the text model.
pub(crate) fn switching_context(config: &Value) -> Option<i32> {
    let table = normalized(config);
    let scaling: RopeScaling = serde_json::from_value(table.get("rope_scaling")?.clone()).ok()?;
    let is_phi3 = table["model_type"] == "phi3";
    let trained = table["original_max_position_embeddings"].as_f64().map(|tokens| tokens as f32);
    let scaling = if is_phi3 { scaling.of_phi3(trained) } else { scaling };
    let is_longrope = matches!(scaling.kind(), "longrope" | "su");
    is_longrope.then(|| scaling.trained_context().ok()).flatten().map(|tokens| tokens as i32)
}

fn plain_wavelengths(dimensions: i32, base: f32) -> impl Iterator<Item = f32> {
    (0..dimensions / 2).map(move |pair| base.powf(2.0 * pair as f32 / dimensions as f32))
}

/// Returns wavelengths for llama3: long ones grow by `factor`, short ones stay, those between are blended.
fn llama3_wavelengths(dimensions: i32, base: f32, settings: &Llama3) -> Vec<f32> {
    let Llama3 { factor, low_freq_factor: low, high_freq_factor: high, trained_context: context } = *settings;
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
    plain_wavelengths(dimensions, base).map(stretch).collect()
}

/// Returns wavelengths for yarn: pairs that turn at most `beta_slow` times are stretched, those that turn at least
/// `beta_fast` times are kept, and the pairs between are interpolated linearly.
fn yarn_wavelengths(dimensions: i32, base: f32, settings: &Yarn) -> Vec<f32> {
    let Yarn { factor, trained_context: context, .. } = *settings;
    let pair_that_turns =
        |times: f32| dimensions as f32 * (context / (times * std::f32::consts::TAU)).ln() / (2.0 * base.ln());
    let mut first = pair_that_turns(settings.beta_fast);
    let mut last = pair_that_turns(settings.beta_slow);
    if settings.truncate {
        (first, last) = (first.floor(), last.ceil());
    }
    let (first, last) = (first.max(0.0), last.min(dimensions as f32 - 1.0));
    let width = if (last - first).abs() < 1e-6 { 0.001 } else { last - first };
    let stretch = |(pair, wavelength): (usize, f32)| {
        let stretched = ((pair as f32 - first) / width).clamp(0.0, 1.0);
        // Frequencies are blended, not wavelengths.
        wavelength * factor / (factor * (1.0 - stretched) + stretched)
    };
    plain_wavelengths(dimensions, base).enumerate().map(stretch).collect()
}

fn yarn_magnitude(scaling: &RopeScaling) -> Result<f32, String> {
    if let Some(magnitude) = scaling.attention_factor {
        return Ok(magnitude);
    }
    let factor = scaling.factor_or_ratio()?;
    let raised = |by: f32| raised_magnitude(factor, by);
    let set = |value: Option<f32>| value.filter(|value| *value != 0.0);
    Ok(match (set(scaling.mscale), set(scaling.mscale_all_dim)) {
        (Some(above), Some(below)) => raised(above) / raised(below),
        // As in transformers, one of them alone means nothing.
        _ => raised(1.0),
    })
}

fn longrope_wavelengths(dimensions: i32, base: f32, name: &str, factors: &[f32]) -> Result<Vec<f32>, String> {
    let pairs = (dimensions / 2) as usize;
    if factors.len() != pairs {
        return Err(format!("rope scaling: `{name}` has {} numbers, expected {pairs}", factors.len()));
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
    let trained = scaling.trained_context()?;
    let ratio = scaling.max_position_embeddings.map(|context| context / trained);
    let longer = match (scaling.factor, ratio) {
        // Versions of transformers differ in which of the two they take.
        (Some(factor), Some(ratio)) if (factor - ratio).abs() > 1e-3 * ratio => {
            return Err(format!(
                "rope scaling: `factor` is {factor}, but the contexts have the ratio {ratio}; set `attention_factor`"
            ));
        }
        (factor, ratio) => scaling.required(factor.or(ratio), "factor")?,
    };
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
            r#"{"type":"longrope","short_factor":[1.0,2.0,3.0],"long_factor":[1.0,2.0,3.0],"original_max_position_embeddings":8,"max_position_embeddings":32}"#,
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
        let stretched = yarn_wavelengths(16, 10_000.0, &scaling.yarn()?);
        assert!((stretched[0] - plain[0]).abs() < 1e-6);
        assert!((stretched[7] / plain[7] - 8.0).abs() < 1e-6);
        assert!(stretched.windows(2).all(|pair| pair[0] < pair[1]));
        Ok(())
    }

    #[test]
    fn rope_type_takes_precedence_over_type() {
        let scaling = scaling(r#"{"type":"mrope","rope_type":"default"}"#);
        assert_eq!(scaling.kind(), "default");
    }

    #[test]
    fn one_mscale_alone_means_nothing() -> Result<(), String> {
        let magnitude = |rest: &str| {
            let both = r#"{"rope_type":"yarn","factor":8.0,"original_max_position_embeddings":64"#;
            yarn_magnitude(&scaling(&format!("{both}{rest}}}")))
        };
        let plain = magnitude("")?;
        assert!((plain - (0.1 * 8.0_f32.ln() + 1.0)).abs() < 1e-6);
        assert!((magnitude(r#","mscale":0.5"#)? - plain).abs() < 1e-6);
        assert!(magnitude(r#","mscale":0.5,"mscale_all_dim":1.0"#)? < 1.0);
        assert!((magnitude(r#","attention_factor":1.25,"mscale":0.5"#)? - 1.25).abs() < 1e-6);
        Ok(())
    }

    #[test]
    fn phi3_reads_older_names_as_longrope_and_its_own_trained_context() {
        let old = scaling(r#"{"type":"su","original_max_position_embeddings":8}"#);
        let read = old.of_phi3(Some(32.0));
        assert_eq!((read.kind(), read.original_max_position_embeddings), ("longrope", Some(32.0)));
        assert_eq!(old.of_phi3(None).original_max_position_embeddings, Some(4096.0));
    }

    #[test]
    fn an_unknown_or_incomplete_scaling_is_refused() {
        let refused = |json: &str| Rope::new(8, 10_000.0, Some(&scaling(json))).err().unwrap_or_default();
        insta::assert_snapshot!(refused(r#"{"type":"dynamic","factor":2.0}"#), @"rope scaling `dynamic` is not supported (supported: default, linear, llama3, longrope, mrope, su, yarn)");
        insta::assert_snapshot!(refused(r#"{"type":"linear"}"#), @"rope scaling `linear` lacks `factor`");
        insta::assert_snapshot!(refused(r#"{"type":"longrope","short_factor":[1.0]}"#), @"rope scaling: `short_factor` has 1 numbers, expected 4");
        insta::assert_snapshot!(refused(r#"{"type":"longrope","long_factor":[1.0]}"#), @"rope scaling `longrope` lacks `short_factor`");
    }

    #[test]
    fn an_absurd_number_is_refused_by_its_name() {
        let refused =
            |base: f32, json: &str| Rope::new(8, base, Some(&scaling(json))).err().unwrap_or_default();
        for (json, part) in [
            (
                r#"{"type":"linear","factor":1e-300}"#,
                "`factor` is 0.0, expected a number from 0.001 to 1000000",
            ),
            (r#"{"type":"linear","factor":-2}"#, "`factor` is -2"),
            (
                r#"{"type":"yarn","factor":1e30,"original_max_position_embeddings":64}"#,
                "`factor` is 1e30, expected",
            ),
            (
                r#"{"type":"yarn","factor":2,"original_max_position_embeddings":0}"#,
                "`original_max_position_embeddings` is 0",
            ),
            (
                r#"{"type":"yarn","factor":2,"original_max_position_embeddings":64,"attention_factor":0}"#,
                "`attention_factor` is 0",
            ),
            (
                r#"{"type":"yarn","factor":2,"original_max_position_embeddings":64,"beta_fast":-1}"#,
                "`beta_fast` is -1",
            ),
            (
                r#"{"type":"longrope","short_factor":[1,1,0,1],"long_factor":[1,1,1,1]}"#,
                "`short_factor` is 0",
            ),
            (
                r#"{"type":"llama3","factor":8,"low_freq_factor":1e7,"high_freq_factor":4,"original_max_position_embeddings":64}"#,
                "`low_freq_factor` is 10000000.0",
            ),
        ] {
            let error = refused(10_000.0, json);
            assert!(error.contains(part), "{json}: {error}");
        }
        for base in [0.0, -1.0, f32::INFINITY, f32::NAN] {
            assert!(refused(base, r#"{"type":"default"}"#).contains("`rope_theta` is "), "{base}");
        }
        assert_eq!(refused(1.0, r#"{"type":"default","factor":0}"#), "");
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
