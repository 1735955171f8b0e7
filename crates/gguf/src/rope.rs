//! Rotary positions: settings of `config.json` from keys and tensors of GGUF.

use std::fmt::Display;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::metadata::{Metadata, missing, shortest};

/// Keys below the architecture's name that are followed here.
pub(crate) const KEYS: [&str; 6] = [
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
];
/// Default base of the rotation, as in llama.cpp.
pub(crate) const DEFAULT_BASE: f64 = 10_000.0;
/// Divisors of the frequencies under the scaling of Llama 3.
const FREQUENCIES: &str = "rope_freqs.weight";
/// Divisors of the frequencies of Phi for rows beyond and within the original context.
const LONG_FACTORS: &str = "rope_factors_long.weight";
const SHORT_FACTORS: &str = "rope_factors_short.weight";
/// Tensors that become settings.
pub(crate) const TENSORS: [&str; 3] = [FREQUENCIES, LONG_FACTORS, SHORT_FACTORS];

/// Constants of the published Llama 3.1, 3.2 and 3.3 models, which GGUF does not store.
const LOW_FREQUENCY_FACTOR: f64 = 1.0;
const HIGH_FREQUENCY_FACTOR: f64 = 4.0;
const ORIGINAL_CONTEXT: u32 = 8192;

/// Kind of context scaling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Linear,
    Yarn,
    Longrope,
}

/// Inputs of the rotation beside its own keys.
pub(crate) struct Rope<'a> {
    pub(crate) metadata: Metadata<'a>,
    /// Name of the architecture, with which its keys start.
    pub(crate) architecture: &'a str,
    pub(crate) head_dim: u64,
    /// Whether the rotation may cover a part of each head.
    pub(crate) is_partial: bool,
    /// Whether some layers have a rotation of their own, to which llama.cpp applies the factor of the scores as well.
    pub(crate) has_local_layers: bool,
    /// The small tensors that become settings.
    pub(crate) factors: Factors,
}

/// The small tensors that become settings, where the file has them.
#[derive(Debug, Default)]
pub struct Factors {
    frequencies: Option<Vec<f32>>,
    long: Option<Vec<f32>>,
    short: Option<Vec<f32>>,
}

impl Factors {
    /// Reads the tensors; `read` returns the values of a tensor if there is one.
    ///
    /// # Errors
    ///
    /// Fails as `read` does.
    pub fn new<E>(mut read: impl FnMut(&str) -> Result<Option<Vec<f32>>, E>) -> Result<Self, E> {
        Ok(Self { frequencies: read(FREQUENCIES)?, long: read(LONG_FACTORS)?, short: read(SHORT_FACTORS)? })
    }
}

impl Rope<'_> {
    /// Returns the settings of `config.json`.
    pub(crate) fn config(&self) -> Result<Map<String, Value>> {
        let mut config = Map::new();
        let base = self.float("rope.freq_base")?.unwrap_or(DEFAULT_BASE);
        config.insert("rope_theta".to_owned(), shortest(base));
        let dimensions = self.integer("rope.dimension_count")?.unwrap_or(self.head_dim);
        if dimensions != self.head_dim {
            if !self.is_partial || dimensions > self.head_dim {
                let reason =
                    format!("rotating {dimensions} of {} numbers of a head is not supported", self.head_dim);
                return Err(Error::Unsupported(reason));
            }
            let share = dimensions as f64 / self.head_dim as f64;
            config.insert("partial_rotary_factor".to_owned(), share.into());
        }
        if !dimensions.is_multiple_of(2) {
            let reason =
                format!("{dimensions} numbers of a head are rotated in pairs, expected an even number");
            return Err(Error::Content(reason));
        }
        config.extend(self.scaling(base, dimensions)?);
        Ok(config)
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn integer(&self, key: &str) -> Result<Option<u64>> {
        self.metadata.integer(&self.key(key))
    }

    fn float(&self, key: &str) -> Result<Option<f64>> {
        self.metadata.float(&self.key(key))
    }

    /// Returns the settings of the scaling, if there is one.
    fn scaling(&self, base: f64, dimensions: u64) -> Result<Map<String, Value>> {
        let kind = self.kind()?;
        let factor = self.factor(kind)?;
        self.check_combination(kind, factor)?;
        let original = self.integer("rope.scaling.original_context_length")?;
        let attention_factor = self.float("rope.scaling.attn_factor")?;
        if kind != Kind::Yarn || self.has_local_layers {
            self.check_attention_factor(attention_factor, original)?;
        }
        let original = || original.ok_or_else(|| missing(&self.key("rope.scaling.original_context_length")));
        let mut config = Map::new();
        let scaling = match (&self.factors, kind) {
            (Factors { long: Some(long), short: Some(short), .. }, _) => {
                check_divisors(LONG_FACTORS, long, dimensions)?;
                check_divisors(SHORT_FACTORS, short, dimensions)?;
                config.insert("original_max_position_embeddings".to_owned(), original()?.into());
                json!({ "type": "longrope", "long_factor": numbers(long), "short_factor": numbers(short) })
            }
            (Factors { frequencies: Some(divisors), .. }, _) => llama3(divisors, base, dimensions)?,
            (_, Kind::Yarn) => {
                let factor = factor.ok_or_else(|| missing(&self.key("rope.scaling.factor")))?;
                yarn(factor, original()?, attention_factor)
            }
            (_, Kind::None | Kind::Linear | Kind::Longrope) => {
                match factor.filter(|&factor| is_change(factor)) {
                    None => return Ok(config),
                    Some(factor) => json!({ "rope_type": "linear", "factor": shortest(factor) }),
                }
            }
        };
        config.insert("rope_scaling".to_owned(), scaling);
        Ok(config)
    }

    /// Returns the kind of scaling: linear if the file names none, as in llama.cpp.
    fn kind(&self) -> Result<Kind> {
        Ok(match self.metadata.text(&self.key("rope.scaling.type"))? {
            Some("none") => Kind::None,
            None | Some("linear") => Kind::Linear,
            Some("yarn") => Kind::Yarn,
            Some("longrope") => Kind::Longrope,
            Some(other) => return Err(Error::Unsupported(format!("the rope scaling is `{other}`"))),
        })
    }

    /// Returns the scaling factor, if there is one. The newer of two keys takes precedence; 0 and the kind `none` mean no scaling.
    fn factor(&self, kind: Kind) -> Result<Option<f64>> {
        let factor = match self.float("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.float("rope.scale_linear")?,
        };
        Ok(factor.filter(|&factor| kind != Kind::None && factor != 0.0))
    }

    /// Checks that there is at most one kind of scaling: `config.json` can describe one, while llama.cpp multiplies them.
    fn check_combination(&self, kind: Kind, factor: Option<f64>) -> Result<()> {
        let refused = |reason: String| Err(Error::Unsupported(reason));
        let tensor = match &self.factors {
            Factors { frequencies: None, long: None, short: None } if kind == Kind::Longrope => {
                let kind = self.key("rope.scaling.type");
                return refused(format!("`{kind}` is `longrope`, but there is no tensor `{LONG_FACTORS}`"));
            }
            Factors { frequencies: None, long: None, short: None } => return Ok(()),
            Factors { frequencies: Some(_), long: None, short: None } => FREQUENCIES,
            Factors { frequencies: None, long: Some(_), short: Some(_) } => LONG_FACTORS,
            Factors { frequencies: Some(_), long, .. } => {
                let other = if long.is_some() { LONG_FACTORS } else { SHORT_FACTORS };
                return refused(format!("the tensors `{FREQUENCIES}` and `{other}` exclude each other"));
            }
            Factors { long: Some(_), .. } => return refused(alone(LONG_FACTORS, SHORT_FACTORS)),
            Factors { short: Some(_), .. } => return refused(alone(SHORT_FACTORS, LONG_FACTORS)),
        };
        let both = |key: &str, value: &dyn Display| {
            let key = self.key(key);
            refused(format!("`{key}` {value} beside the tensor `{tensor}` is not supported"))
        };
        match factor.filter(|&factor| is_change(factor)) {
            _ if kind == Kind::Yarn => both("rope.scaling.type", &"`yarn`"),
            _ if kind == Kind::Longrope && tensor == FREQUENCIES => both("rope.scaling.type", &"`longrope`"),
            Some(factor) => both("rope.scaling.factor", &factor),
            None => Ok(()),
        }
    }

    /// Checks that the factor of the scores is the one that follows from the other settings, as in published models.
    fn check_attention_factor(&self, found: Option<f64>, original: Option<u64>) -> Result<()> {
        let Some(found) = found else { return Ok(()) };
        let expected = match (&self.factors.long, original, self.integer("context_length")?) {
            (Some(_), Some(original), Some(longest)) if longest > original && original > 1 => {
                let scale = longest as f64 / original as f64;
                (1.0 + scale.ln() / (original as f64).ln()).sqrt()
            }
            _ => 1.0,
        };
        if (found - expected).abs() > 1e-4 * expected {
            let key = self.key("rope.scaling.attn_factor");
            return Err(Error::Unsupported(format!("`{key}` is {found}, which is not supported here")));
        }
        Ok(())
    }
}

/// Checks the divisors of the frequencies of `dimensions` rotated numbers.
fn check_divisors(name: &str, values: &[f32], dimensions: u64) -> Result<()> {
    if values.len() as u64 * 2 != dimensions {
        let reason = format!("the tensor `{name}` has {} values, expected {}", values.len(), dimensions / 2);
        return Err(Error::Content(reason));
    }
    match values.iter().find(|value| !(value.is_finite() && **value > 0.0)) {
        Some(value) => {
            Err(Error::Content(format!("the tensor `{name}` contains {value}, expected numbers above 0")))
        }
        None => Ok(()),
    }
}

/// Returns whether a factor of the context scales anything.
fn is_change(factor: f64) -> bool {
    (factor - 1.0).abs() > f64::EPSILON
}

/// Returns the message for one of two tensors without the other.
fn alone(found: &str, missing: &str) -> String {
    format!("there is the tensor `{found}`, but no tensor `{missing}`")
}

fn yarn(factor: f64, original: u64, attention_factor: Option<f64>) -> Value {
    let mut table = json!({
        "rope_type": "yarn",
        "factor": shortest(factor),
        "original_max_position_embeddings": original,
    });
    // A factor of the usual one, which `config.json` does without.
    if let Some(share) = attention_factor.filter(|&share| is_change(share)) {
        let usual = if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 };
        table["attention_factor"] = shortest(f64::from((share * usual) as f32));
    }
    table
}

fn numbers(values: &[f32]) -> Vec<Value> {
    values.iter().map(|&value| shortest(value.into())).collect()
}

/// Returns Llama 3's divisor of a frequency. `wave` is its wavelength and `original` the original context, both in tokens; `factor` is
/// the scaling factor, and the last argument holds `low_freq_factor` and `high_freq_factor`.
pub fn llama3_divisor(wave: f64, original: f64, factor: f64, [low, high]: [f64; 2]) -> f64 {
    if wave < original / high {
        1.0
    } else if wave > original / low {
        factor
    } else {
        let smooth = (original / wave - low) / (high - low);
        1.0 / ((1.0 - smooth) / factor + smooth)
    }
}

/// Returns the settings of Llama 3's scaling whose divisors these are. The largest divisor is the factor.
fn llama3(divisors: &[f32], base: f64, dimensions: u64) -> Result<Value> {
    let factor = f64::from(divisors.iter().copied().fold(1.0, f32::max));
    let wave = |index: usize| std::f64::consts::TAU * base.powf((2 * index) as f64 / dimensions as f64);
    let expected = |index: usize, high: f64, original: f64| {
        llama3_divisor(wave(index), original, factor, [LOW_FREQUENCY_FACTOR, high])
    };
    let fits = |&(high, original): &(f64, f64)| {
        divisors.len() as u64 * 2 == dimensions
            && divisors.iter().enumerate().all(|(index, &divisor)| {
                let expected = expected(index, high, original);
                (f64::from(divisor) - expected).abs() <= 1e-5 * expected
            })
    };
    // The file does not store the original context, but it shows in the divisors.
    let powers = (4..24).map(|power| 1_u32 << power);
    let published = std::iter::once(ORIGINAL_CONTEXT).chain(powers);
    let published = published.map(|original| (HIGH_FREQUENCY_FACTOR, f64::from(original)));
    let Some((high, original)) = published.chain(blended(divisors, factor, wave)).find(fits) else {
        return Err(Error::Unsupported(format!(
            "the tensor `{FREQUENCIES}` does not have the scaling of a Llama 3 model"
        )));
    };
    Ok(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW_FREQUENCY_FACTOR,
        "high_freq_factor": high,
        "original_max_position_embeddings": whole(original),
    }))
}

/// Returns a number of tokens, without a fraction if it has none.
fn whole(tokens: f64) -> Value {
    if tokens.fract() == 0.0 && tokens <= f64::from(u32::MAX) { json!(tokens as u64) } else { json!(tokens) }
}

/// Returns the `high_freq_factor` and the original context that follow from the blended divisors, for a `low_freq_factor`
/// of 1: only the ratios of the three numbers show in the divisors.
fn blended(divisors: &[f32], factor: f64, wave: impl Fn(usize) -> f64) -> Option<(f64, f64)> {
    // The share of the plain frequency grows linearly with it.
    let share = |divisor: f64| (1.0 / divisor - 1.0 / factor) / (1.0 - 1.0 / factor);
    let points = divisors.iter().enumerate().map(|(index, &divisor)| (1.0 / wave(index), f64::from(divisor)));
    let points = points.filter(|(_, divisor)| *divisor > 1.0 && *divisor < factor);
    let points: Vec<(f64, f64)> = points.map(|(frequency, divisor)| (frequency, share(divisor))).collect();
    let (first, last) = (points.first()?, points.last()?);
    let (high, original) = if points.len() == 1 {
        let high = HIGH_FREQUENCY_FACTOR;
        (high, (first.1 * (high - LOW_FREQUENCY_FACTOR) + LOW_FREQUENCY_FACTOR) / first.0)
    } else {
        let slope = (first.1 - last.1) / (first.0 - last.0);
        let at_zero = first.1 - slope * first.0;
        let high = LOW_FREQUENCY_FACTOR - LOW_FREQUENCY_FACTOR / at_zero;
        (high, slope * (high - LOW_FREQUENCY_FACTOR))
    };
    (high.is_finite() && original.is_finite() && original > 0.0).then_some((high, original))
}
