//! Layers that several architectures use as they are: linear maps with or without an adapter, embeddings, norms.

use crate::weights::Loader;
use mlx_ext::{Quantization, QuantizationMode, Result};
use mlx_rs::{Array, Dtype, ops};
use std::collections::BTreeMap;

/// A part of a model that holds parameters, as [`Visit`] shows it.
pub enum Layer<'a> {
    /// A linear map; its parameters are `weight`, `bias` and the adapter's.
    Linear(&'a mut Linear),
    /// A token embedding; its parameter is `weight`.
    Embedding(&'a mut Embedding),
    /// The `weight` of a norm.
    Norm(&'a mut Array),
}

/// Shows every layer of a model under its checkpoint name, always in the same order.
pub trait Visit {
    /// Calls `visitor` on each layer; `path` is the name of `self`.
    fn visit(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Layer<'_>));
}

impl Visit for Linear {
    fn visit(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Layer<'_>)) {
        visitor(path, Layer::Linear(self));
    }
}

impl Visit for Embedding {
    fn visit(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Layer<'_>)) {
        visitor(path, Layer::Embedding(self));
    }
}

/// Joins two parts of a name.
pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Returns a scalar of the type of `like`: a plain `f32` one would turn all that follows into `f32`.
pub fn scalar(value: f32, like: &Array) -> Result<Array> {
    Ok(Array::from_f32(value).as_dtype(like.dtype())?)
}

/// A weight matrix `[out, in]`.
#[derive(Clone)]
pub enum Weight {
    /// Plain floats.
    Dense(Array),
    /// Packed in groups.
    Quantized(QuantizedWeight),
}

/// A packed weight matrix and, where packed products are slow, its dense twin.
#[derive(Clone)]
pub struct QuantizedWeight {
    /// The packed weights, `u32`.
    pub packed: Array,
    /// A scale a group.
    pub scales: Array,
    /// A bias a group (affine mode).
    pub biases: Option<Array>,
    /// Bits, group size and mode.
    pub quantization: Quantization,
    /// What they are when unpacked: the type of the model's other weights.
    dtype: Dtype,
    /// The same weights as floats. On a CPU a packed product takes a hundred times as long as a plain one, so
    /// there the weights are unpacked once; a GPU keeps only the packed ones.
    dense: Option<Array>,
}

impl Weight {
    /// Loads `path.weight` of shape `[rows, columns]`, packed or plain.
    pub fn load(
        loader: &Loader,
        path: &str,
        rows: i32,
        columns: i32,
        settings: &QuantizationSettings,
    ) -> Self {
        if !loader.has(&join(path, "scales")) {
            return Self::Dense(loader.take(&join(path, "weight"), &[rows, columns]));
        }
        match QuantizedWeight::load(loader, path, (rows, columns), settings) {
            Ok(weight) => Self::Quantized(weight),
            Err(problems) => {
                for problem in problems {
                    loader.problem(problem);
                }
                Self::Dense(ops::zeros::<f32>(&[rows, columns]).expect("zeros are lazy"))
            }
        }
    }

    /// The weights as plain floats, `[out, in]`.
    pub fn dense(&self, dtype: Dtype) -> Result<Array> {
        match self {
            Self::Dense(weight) => Ok(weight.clone()),
            Self::Quantized(QuantizedWeight { dense: Some(dense), .. }) => Ok(dense.clone()),
            Self::Quantized(q) => {
                mlx_ext::dequantize(&q.packed, &q.scales, q.biases.as_ref(), q.quantization, dtype)
            }
        }
    }

    /// Calls `visitor` on every stored array, by name.
    pub(crate) fn visit(&mut self, path: &str, visitor: &mut dyn FnMut(&str, &mut Array)) {
        match self {
            Self::Dense(weight) => visitor(&join(path, "weight"), weight),
            Self::Quantized(quantized) => {
                visitor(&join(path, "weight"), &mut quantized.packed);
                visitor(&join(path, "scales"), &mut quantized.scales);
                if let Some(biases) = &mut quantized.biases {
                    visitor(&join(path, "biases"), biases);
                }
            }
        }
    }

    /// `x [..., in]` times the transposed weight: `[..., out]`.
    pub fn project(&self, x: &Array) -> Result<Array> {
        match self {
            Self::Dense(weight) | Self::Quantized(QuantizedWeight { dense: Some(weight), .. }) => {
                Ok(x.matmul(weight.t())?)
            }
            Self::Quantized(q) => mlx_ext::quantized_matmul(x, q.parts(), true, q.quantization),
        }
    }

    /// `y [..., out]` times the weight: `[..., in]`, as the gradient of [`Self::project`] needs it.
    pub fn project_back(&self, y: &Array) -> Result<Array> {
        match self {
            Self::Dense(weight) | Self::Quantized(QuantizedWeight { dense: Some(weight), .. }) => {
                Ok(y.matmul(weight)?)
            }
            Self::Quantized(q) => mlx_ext::quantized_matmul(y, q.parts(), false, q.quantization),
        }
    }

    /// The rows `ids [...]` of the weight: `[..., in]`.
    pub fn rows(&self, ids: &Array) -> Result<Array> {
        match self {
            Self::Dense(weight) | Self::Quantized(QuantizedWeight { dense: Some(weight), .. }) => {
                Ok(weight.take_axis(ids, 0)?)
            }
            Self::Quantized(q) => {
                let packed = q.packed.take_axis(ids, 0)?;
                let scales = q.scales.take_axis(ids, 0)?;
                let biases = q.biases.as_ref().map(|biases| biases.take_axis(ids, 0)).transpose()?;
                mlx_ext::dequantize(&packed, &scales, biases.as_ref(), q.quantization, q.dtype)
            }
        }
    }
}

impl QuantizedWeight {
    /// Loads the parts of a weight of shape `[rows, columns]`, or says what is wrong with them.
    fn load(
        loader: &Loader,
        path: &str,
        (rows, columns): (i32, i32),
        settings: &QuantizationSettings,
    ) -> Result<Self, Vec<String>> {
        let take = |part: &str| loader.take_raw(&join(path, part)).ok_or_else(Vec::new);
        let (packed, scales) = (take("weight")?, take("scales")?);
        let quantization = settings
            .of(path, columns, &packed, &scales)
            .map_err(|reason| vec![format!("tensor `{}` {reason}", join(path, "weight"))])?;
        let affine = quantization.mode.has_biases();
        let biases = if affine { Some(take("biases")?) } else { None };
        let groups = [rows, columns / quantization.group_size];
        let wrong: Vec<String> = [
            ("weight", Some(&packed), [rows, columns * quantization.bits / 32]),
            ("scales", Some(&scales), groups),
            ("biases", biases.as_ref(), groups),
        ]
        .into_iter()
        .filter_map(|(part, array, expected)| {
            let shape = array.map(Array::shape).filter(|shape| *shape != expected)?;
            Some(format!("tensor `{}` has shape {shape:?}, expected {expected:?}", join(path, part)))
        })
        .collect();
        if !wrong.is_empty() {
            return Err(wrong);
        }
        // The scales of small floats are bytes of their own making.
        let (scales, biases) = if affine {
            (loader.cast(scales), biases.map(|biases| loader.cast(biases)))
        } else {
            (scales, None)
        };
        let dtype = if affine { scales.dtype() } else { loader.float_dtype() };
        let unpack = || mlx_ext::dequantize(&packed, &scales, biases.as_ref(), quantization, dtype);
        let dense =
            settings.unpack.then(unpack).transpose().map_err(|error| {
                vec![format!("tensor `{}` does not unpack: {error}", join(path, "weight"))]
            })?;
        Ok(Self { packed, scales, biases, quantization, dtype, dense })
    }

    fn parts(&self) -> (&Array, &Array, Option<&Array>) {
        (&self.packed, &self.scales, self.biases.as_ref())
    }
}

/// How the weights of a folder are quantized, from its `config.json`.
#[derive(Debug, Clone, Default)]
pub struct QuantizationSettings {
    /// For single layers, by path.
    pub overrides: BTreeMap<String, Quantization>,
    /// Whether to keep an unpacked twin of every packed weight (a CPU does).
    pub unpack: bool,
}

impl QuantizationSettings {
    /// The settings of one layer: those named for it, or else those that its tensors tell (one file may hold several
    /// widths and name only the most frequent); `columns` is the width of the unpacked weight.
    ///
    /// # Errors
    ///
    /// Says so when nothing fits.
    pub fn of(
        &self,
        path: &str,
        columns: i32,
        packed: &Array,
        scales: &Array,
    ) -> Result<Quantization, String> {
        if let Some(&named) = self.overrides.get(path) {
            return Ok(named);
        }
        let width = |array: &Array| array.shape().last().copied().unwrap_or_default();
        let group_size = columns / width(scales).max(1);
        let bits = i64::from(width(packed)) * 32 / i64::from(columns.max(1));
        let mode = match (scales.dtype() == Dtype::Uint8, bits, group_size) {
            (false, 2..=6 | 8, 32 | 64 | 128) => QuantizationMode::Affine,
            (true, 4, 16) => QuantizationMode::Nvfp4,
            (true, 4, 32) => QuantizationMode::Mxfp4,
            (true, 8, 32) => QuantizationMode::Mxfp8,
            _ => {
                return Err(format!(
                    "is packed with {bits} bits in groups of {group_size}, which no mode has"
                ));
            }
        };
        Ok(Quantization { bits: bits as i32, group_size, mode })
    }
}

/// The low-rank update of a linear map: y = Wx + scale · (dropout(x) a) b, and for DoRA the norm of each row of W.
#[derive(Clone)]
pub struct Adapter {
    /// `[in, rank]`, `f32`.
    pub a: Array,
    /// `[rank, out]`, `f32`.
    pub b: Array,
    /// alpha / rank.
    pub scale: f32,
    /// `[out]`, `f32`: DoRA's magnitudes; `None` for LoRA.
    pub magnitude: Option<Array>,
    /// Share of the inputs that is dropped, and the key that says which; `None` outside training.
    pub dropout: Option<(f32, Array)>,
}

impl Adapter {
    /// The update's contribution for `x [..., in]`, in the type of `x`: `[..., out]`.
    fn update(&self, x: &Array) -> Result<Array> {
        let x = self.dropped(x)?;
        // The masters stay `f32`; casting them costs little, casting every input would cost a copy of it.
        let (a, b) = (self.a.as_dtype(x.dtype())?, self.b.as_dtype(x.dtype())?);
        let update = x.matmul(a)?.matmul(b)?;
        Ok(update.multiply(scalar(self.scale, &update)?)?)
    }

    /// `x [..., in]` without what dropout takes, the rest scaled up. Each number is multiplied by 0 or 1/(1 − rate), so
    /// the gradient for `x` is this function of the gradient for its value.
    pub fn dropped(&self, x: &Array) -> Result<Array> {
        match &self.dropout {
            Some((rate, key)) => dropped(x, *rate, key),
            None => Ok(x.clone()),
        }
    }

    /// The update as a matrix `[out, in]`, `f32`.
    pub fn delta(&self) -> Result<Array> {
        let delta = self.b.t().matmul(self.a.t())?;
        Ok(delta.multiply(scalar(self.scale, &delta)?)?)
    }
}

fn dropped(x: &Array, rate: f32, key: &Array) -> Result<Array> {
    let keep = mlx_rs::random::bernoulli(&Array::from_f32(1.0 - rate), x.shape(), key)?;
    let kept = x.multiply(keep.as_dtype(x.dtype())?)?;
    Ok(kept.divide(scalar(1.0 - rate, x)?)?)
}

/// A linear map, maybe adapted.
#[derive(Clone)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Array>,
    /// The trained difference.
    pub adapter: Option<Adapter>,
    /// `in`.
    pub inputs: i32,
    /// `out`.
    pub outputs: i32,
}

impl Linear {
    /// Loads the map at `path`.
    pub fn load(
        loader: &Loader,
        path: &str,
        (inputs, outputs): (i32, i32),
        bias: bool,
        quantization: &QuantizationSettings,
    ) -> Self {
        let weight = Weight::load(loader, path, outputs, inputs, quantization);
        let bias = bias.then(|| loader.take(&join(path, "bias"), &[outputs]));
        Self { weight, bias, adapter: None, inputs, outputs }
    }

    /// `[..., in]` → `[..., out]`.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let mut y = self.weight.project(x)?;
        if let Some(adapter) = &self.adapter {
            let update = adapter.update(x)?;
            y = match &adapter.magnitude {
                None => y.add(&update)?,
                Some(magnitude) => {
                    let factor = self.dora_factor(adapter, magnitude)?.as_dtype(y.dtype())?;
                    y.add(&update)?.multiply(factor)?
                }
            };
        }
        match &self.bias {
            Some(bias) => Ok(y.add(bias)?),
            None => Ok(y),
        }
    }

    /// magnitude / ‖W + delta‖ a row, `[out]`; no gradient flows through the norm (DoRA, arXiv:2402.09353, 4.3).
    fn dora_factor(&self, adapter: &Adapter, magnitude: &Array) -> Result<Array> {
        let adapted = self.weight.dense(Dtype::Float32)?.as_dtype(Dtype::Float32)?.add(adapter.delta()?)?;
        let norm = adapted.square()?.sum_axis(1, false)?.sqrt()?;
        Ok(magnitude.divide(mlx_rs::stop_gradient(&norm)?)?)
    }

    /// The norm of each row of the base weight, `[out]`, `f32`: where DoRA's magnitudes start.
    pub fn row_norms(&self) -> Result<Array> {
        let weight = self.weight.dense(Dtype::Float32)?.as_dtype(Dtype::Float32)?;
        Ok(weight.square()?.sum_axis(1, false)?.sqrt()?)
    }

    /// The weight with the adapter worked in, `[out, in]`, in the type of the base weight.
    pub fn fused_weight(&self) -> Result<Array> {
        let dense = self.weight.dense(Dtype::Float32)?;
        let Some(adapter) = &self.adapter else { return Ok(dense) };
        let wide = dense.as_dtype(Dtype::Float32)?.add(adapter.delta()?)?;
        let fused = match &adapter.magnitude {
            None => wide,
            Some(magnitude) => {
                let factor = self.dora_factor(adapter, magnitude)?;
                wide.multiply(factor.expand_dims(1)?)?
            }
        };
        Ok(fused.as_dtype(dense.dtype())?)
    }
}

/// A token embedding, which a tied head reads as well.
#[derive(Clone)]
pub struct Embedding {
    /// `[V, D]`.
    pub weight: Weight,
}

impl Embedding {
    /// Loads the table at `path`.
    pub fn load(
        loader: &Loader,
        path: &str,
        vocabulary: i32,
        width: i32,
        settings: &QuantizationSettings,
    ) -> Self {
        Self { weight: Weight::load(loader, path, vocabulary, width, settings) }
    }

    /// Token ids `[B, L]` → rows `[B, L, D]`.
    pub fn forward(&self, tokens: &Array) -> Result<Array> {
        self.weight.rows(tokens)
    }

    /// Token ids `[B, L]` → rows times `scale`, `[B, L, D]`, as the Gemma family reads them.
    ///
    /// Rows packed as small floats are scaled in bfloat16 even when the model computes in more: the reference
    /// unpacks them to it.
    pub(crate) fn forward_scaled(&self, tokens: &Array, scale: f32) -> Result<Array> {
        let rows = self.forward(tokens)?;
        let dtype = rows.dtype();
        let packed_floats = matches!(&self.weight, Weight::Quantized(q) if !q.quantization.mode.has_biases());
        let rows = if packed_floats { rows.as_dtype(Dtype::Bfloat16)? } else { rows };
        Ok(rows.multiply(scalar(scale, &rows)?)?.as_dtype(dtype)?)
    }
}

/// x · σ(x), as SwiGLU's gate uses it.
pub(crate) fn silu(x: &Array) -> Result<Array> {
    Ok(x.multiply(ops::sigmoid(x)?)?)
}

/// The tanh approximation of GELU: ½x(1 + tanh(√(2/π)(x + 0.044715x³))).
pub(crate) fn gelu_tanh(x: &Array) -> Result<Array> {
    let cube = x.square()?.multiply(x)?;
    let inner = x.add(cube.multiply(scalar(0.044_715, x)?)?)?;
    let inner = inner.multiply(scalar((2.0 / std::f32::consts::PI).sqrt(), x)?)?;
    let gate = ops::tanh(inner)?.add(scalar(1.0, x)?)?;
    Ok(x.multiply(gate)?.multiply(scalar(0.5, x)?)?)
}

/// Root-mean-square norm over the last axis.
pub(crate) fn rms_norm(x: &Array, weight: &Array, eps: f32) -> Result<Array> {
    Ok(mlx_rs::fast::rms_norm(x, Some(weight), eps)?)
}

/// Norm over the last axis that takes the mean away first, without a bias.
pub(crate) fn layer_norm(x: &Array, weight: &Array, eps: f32) -> Result<Array> {
    Ok(mlx_rs::fast::layer_norm(x, weight, None, eps)?)
}

/// RMS norm that multiplies by 1 + weight, as the Gemma family has it.
pub(crate) fn rms_norm_above_one(x: &Array, weight: &Array, eps: f32) -> Result<Array> {
    let weight = weight.add(scalar(1.0, weight)?)?;
    Ok(mlx_rs::fast::rms_norm(x, Some(&weight), eps)?)
}
