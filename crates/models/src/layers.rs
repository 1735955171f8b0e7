//! Layers that hold parameters: linear maps with or without an adapter, embeddings and norms.

use mlx_ext::Result;
use mlx_ext::host::uses_host;
use mlx_ext::kernels::{self, Gate};
use mlx_rs::{Array, Dtype, fast, ops, random, stop_gradient};

use crate::builder::{Builder, join};
use crate::lora::{self, Adapted};
use crate::weight::Weight;

/// A layer that holds parameters.
#[derive(Clone, Copy)]
pub enum Layer<'a> {
    /// A linear map, with the parameters `weight`, `bias` and those of its adapter.
    Linear(&'a Linear),
    /// A token embedding, with the parameter `weight`.
    Embedding(&'a Embedding),
    /// A norm, with the parameter `weight`.
    Norm(&'a Norm),
}

/// A layer that holds parameters, for changing.
pub enum LayerMut<'a> {
    /// A linear map.
    Linear(&'a mut Linear),
    /// A token embedding.
    Embedding(&'a mut Embedding),
    /// A norm.
    Norm(&'a mut Norm),
}

impl<'a> Layer<'a> {
    /// Returns every array of the layer at `path` by name: weights, biases and adapters.
    pub(crate) fn arrays(self, path: &str) -> Vec<(String, &'a Array)> {
        match self {
            Self::Norm(norm) => vec![(join(path, "weight"), &norm.weight)],
            Self::Embedding(embedding) => embedding.weight.arrays(path),
            Self::Linear(linear) => {
                let mut arrays = linear.weight.arrays(path);
                arrays.extend(linear.bias.as_ref().map(|bias| (join(path, "bias"), bias)));
                if let Some(adapter) = &linear.adapter {
                    arrays.extend([(join(path, "lora_a"), &adapter.a), (join(path, "lora_b"), &adapter.b)]);
                    arrays.extend(adapter.magnitude.as_ref().map(|magnitude| (join(path, "m"), magnitude)));
                }
                arrays
            }
        }
    }

    /// Returns the bytes that the layer occupies in memory, the unpacked copy of a packed weight included.
    pub fn bytes(self) -> usize {
        let arrays = self.arrays("").iter().map(|(_, array)| array.nbytes()).sum::<usize>();
        arrays
            + match self {
                Self::Linear(Linear { weight, .. }) | Self::Embedding(Embedding { weight }) => {
                    weight.copy_bytes()
                }
                Self::Norm(_) => 0,
            }
    }
}

impl<'a> LayerMut<'a> {
    /// Returns every array of the layer at `path` by name, as [`Layer::arrays`].
    pub(crate) fn arrays(self, path: &str) -> Vec<(String, &'a mut Array)> {
        match self {
            Self::Norm(norm) => vec![(join(path, "weight"), &mut norm.weight)],
            Self::Embedding(embedding) => embedding.weight.arrays_mut(path),
            Self::Linear(linear) => {
                let mut arrays = linear.weight.arrays_mut(path);
                arrays.extend(linear.bias.as_mut().map(|bias| (join(path, "bias"), bias)));
                if let Some(adapter) = &mut linear.adapter {
                    let matrices =
                        [(join(path, "lora_a"), &mut adapter.a), (join(path, "lora_b"), &mut adapter.b)];
                    arrays.extend(matrices);
                    arrays.extend(adapter.magnitude.as_mut().map(|magnitude| (join(path, "m"), magnitude)));
                }
                arrays
            }
        }
    }

    /// Returns the arrays of the layer that fine-tuning may train: those of its adapter, else its plain weights.
    pub(crate) fn trainable_arrays(self) -> Vec<&'a mut Array> {
        match self {
            Self::Norm(norm) => vec![&mut norm.weight],
            Self::Embedding(Embedding { weight: Weight::Dense(weight) }) => vec![weight],
            Self::Embedding(Embedding { weight: Weight::Quantized(_) }) => Vec::new(),
            Self::Linear(linear) => match (&mut linear.adapter, &mut linear.weight) {
                (Some(adapter), _) => {
                    [&mut adapter.a, &mut adapter.b].into_iter().chain(&mut adapter.magnitude).collect()
                }
                (None, Weight::Dense(weight)) => [weight].into_iter().chain(&mut linear.bias).collect(),
                (None, Weight::Quantized(_)) => Vec::new(),
            },
        }
    }
}

/// Returns a scalar of the type of `like`, because a plain `f32` would turn the results into `f32`.
pub fn scalar(value: f32, like: &Array) -> Result<Array> {
    Ok(Array::from_f32(value).as_dtype(like.dtype())?)
}

/// Low-rank update of a linear map: y = Wx + scale · (dropout(x) a) b, and for DoRA the norm of each row of W.
#[derive(Clone)]
pub struct Adapter {
    /// `[in, rank]`, `f32`.
    pub a: Array,
    /// `[rank, out]`, `f32`.
    pub b: Array,
    /// alpha / rank.
    pub scale: f32,
    /// DoRA's magnitudes, `[out]`, `f32`; `None` for LoRA.
    pub magnitude: Option<Array>,
    /// Norms of the rows of the adapted weight, `[out]`, `f32`, that DoRA divides by; `None` computes them in every pass.
    pub norms: Option<Array>,
    /// Dropout of the inputs; `None` outside training.
    pub dropout: Option<Dropout>,
}

/// Dropout with an explicit random key.
#[derive(Clone)]
pub struct Dropout {
    /// Share of the inputs that is dropped.
    pub rate: f32,
    /// Random key of the mask.
    pub key: Array,
    /// Where the inputs are in those that the mask is made for; `None` if they are all.
    pub part: Option<Part>,
}

/// Consecutive rows (of the first axis) of a larger array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Index of the first row.
    pub first: i32,
    /// Number of rows of the larger array.
    pub whole: i32,
}

impl Adapter {
    /// Returns the update for `x [..., in]`, in the type of `x`: `[..., out]`.
    fn update(&self, x: &Array) -> Result<Array> {
        let x = self.dropped(x)?;
        // The masters stay `f32`; casting them is cheap, casting every input would copy it.
        let (a, b) = (self.a.as_dtype(x.dtype())?, self.b.as_dtype(x.dtype())?);
        let update = x.matmul(a)?.matmul(b)?;
        Ok(update.multiply(scalar(self.scale, &update)?)?)
    }

    /// Applies dropout to `x [..., in]`. Each number is multiplied by 0 or 1/(1 − rate), so applying this function to the
    /// gradient of the result gives the gradient of `x`.
    pub fn dropped(&self, x: &Array) -> Result<Array> {
        match &self.dropout {
            Some(dropout) => dropout.apply(x),
            None => Ok(x.clone()),
        }
    }

    /// Returns the norm of each row of W + s (a b)ᵀ, `[out]`, `f32`, from the `squares` of the rows of the
    /// weight W, without making
    /// that matrix: ‖w + s d‖² = ‖w‖² + 2 s w·d + s² ‖d‖², where w·d = (W a)·b and ‖d‖² = b·(aᵀa b), row by row.
    pub fn adapted_norms(&self, weight: &Weight, squares: &Array) -> Result<Array> {
        let (a, b) = (&self.a, &self.b);
        let sum_with_b = |x: &Array| x.as_dtype(Dtype::Float32)?.multiply(b)?.sum_axis(0, false);
        let cross = sum_with_b(&weight.project(&a.t())?)?;
        let own = sum_with_b(&a.t().matmul(a)?.matmul(b)?)?;
        let scale = Array::from_f32(self.scale);
        let change = cross.multiply(Array::from_f32(2.0))?.add(own.multiply(&scale)?)?.multiply(&scale)?;
        // Rounding can leave the square of a tiny norm below zero.
        Ok(ops::maximum(squares.add(change)?, Array::from_f32(0.0))?.sqrt()?)
    }

    /// Returns the update as a matrix `[out, in]`, `f32`.
    pub fn delta(&self) -> Result<Array> {
        let delta = self.b.t().matmul(self.a.t())?;
        Ok(delta.multiply(scalar(self.scale, &delta)?)?)
    }
}

impl Dropout {
    fn apply(&self, x: &Array) -> Result<Array> {
        let keep = self.mask(x)?;
        let kept = x.multiply(keep.as_dtype(x.dtype())?)?;
        Ok(kept.divide(scalar(1.0 - self.rate, x)?)?)
    }

    /// Returns which numbers of `x` are kept. Rows of a [`Part`] beyond the larger array, which are padding, repeat its last.
    fn mask(&self, x: &Array) -> Result<Array> {
        let share = Array::from_f32(1.0 - self.rate);
        let Some(part) = self.part else { return Ok(random::bernoulli(&share, x.shape(), &self.key)?) };
        let mut shape = x.shape().to_vec();
        let count = std::mem::replace(&mut shape[0], part.whole);
        let whole = random::bernoulli(&share, &shape[..], &self.key)?;
        let rows: Vec<i32> = (part.first..part.first + count).map(|row| row.min(part.whole - 1)).collect();
        Ok(whole.take_axis(Array::from_slice(&rows, &[count]), 0)?)
    }
}

/// A linear map, with or without an adapter.
#[derive(Clone)]
pub struct Linear {
    /// Weight, `[out, in]`.
    pub weight: Weight,
    /// Bias, `[out]`.
    pub bias: Option<Array>,
    /// Trained low-rank update.
    pub adapter: Option<Adapter>,
    /// Width of the input.
    pub inputs: i32,
    /// Width of the output.
    pub outputs: i32,
}

impl Linear {
    /// Loads the map at the builder's path.
    pub(crate) fn new(at: &Builder<'_>, inputs: i32, outputs: i32, has_bias: bool) -> Self {
        let weight = Weight::new(at, outputs, inputs);
        let bias = has_bias.then(|| at.take("bias", &[outputs]));
        Self { weight, bias, adapter: None, inputs, outputs }
    }

    /// Applies the map and its adapter: `x [..., in]` → `[..., out]`.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        if let Some(adapted) = self.adapted_on_host(x) {
            return self.with_bias(lora::project(x, &[adapted])?.swap_remove(0));
        }
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
        self.with_bias(y)
    }

    /// Applies the map to activation(gate) · up, both `[..., in]`: `[..., out]`.
    pub(crate) fn forward_gated(&self, gate: &Array, up: &Array, activation: Gate) -> Result<Array> {
        match self.adapted_on_host(gate) {
            Some(adapted) => self.with_bias(lora::project_gated(gate, up, activation, &adapted)?),
            None => self.forward(&gated(gate, up, activation)?),
        }
    }

    /// Returns the weight and the adapter, if a CPU computes both as one function: LoRA without dropout.
    fn adapted_on_host(&self, x: &Array) -> Option<Adapted<'_>> {
        let adapter = self.adapter.as_ref().filter(|_| uses_host(x))?;
        let is_plain = adapter.magnitude.is_none() && adapter.dropout.is_none();
        let Adapter { a, b, scale, .. } = adapter;
        is_plain.then_some(Adapted { weight: &self.weight, a, b, scale: *scale })
    }

    /// Adds the bias, if there is one: `y [..., out]`.
    fn with_bias(&self, y: Array) -> Result<Array> {
        match &self.bias {
            Some(bias) => Ok(y.add(bias)?),
            None => Ok(y),
        }
    }

    /// Returns magnitude / ‖W + delta‖ per row, `[out]`. The norm counts as a constant in gradients (DoRA,
    /// arXiv:2402.09353, section 4.3).
    fn dora_factor(&self, adapter: &Adapter, magnitude: &Array) -> Result<Array> {
        let norms = match &adapter.norms {
            Some(norms) => norms.clone(),
            None => adapter.adapted_norms(&self.weight, &self.row_squares()?)?,
        };
        Ok(magnitude.divide(stop_gradient(&norms)?)?)
    }

    /// Returns whether the map has a DoRA adapter.
    pub(crate) fn has_magnitude(&self) -> bool {
        self.adapter.as_ref().is_some_and(|adapter| adapter.magnitude.is_some())
    }

    /// Returns the sum of squares of each row of the base weight, `[out]`, `f32`.
    pub fn row_squares(&self) -> Result<Array> {
        self.weight.row_squares(self.outputs, self.inputs)
    }

    /// Returns the norm of each row of the base weight, `[out]`, `f32`: the initial magnitudes of DoRA.
    pub fn row_norms(&self) -> Result<Array> {
        Ok(self.row_squares()?.sqrt()?)
    }

    /// Returns the weight with the adapter merged into it, `[out, in]`, in the type of the base weight.
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

/// Applies maps to the same input `x [..., in]`: one result `[..., out]` per map, as [`Linear::forward`] gives it.
pub(crate) fn project_all<const N: usize>(x: &Array, maps: [&Linear; N]) -> Result<[Array; N]> {
    let adapted: Option<Vec<Adapted<'_>>> = maps.iter().map(|map| map.adapted_on_host(x)).collect();
    let results = match adapted {
        Some(adapted) => {
            let results = lora::project(x, &adapted)?.into_iter().zip(maps);
            results.map(|(y, map)| map.with_bias(y)).collect::<Result<Vec<_>>>()?
        }
        None => maps.iter().map(|map| map.forward(x)).collect::<Result<_>>()?,
    };
    Ok(results.try_into().unwrap_or_else(|_| unreachable!("one result per map")))
}

/// A token embedding, which a tied head reads as well.
#[derive(Clone)]
pub struct Embedding {
    /// `[V, D]`.
    pub weight: Weight,
}

impl Embedding {
    /// Loads the table at the builder's path, of `vocabulary` rows.
    pub(crate) fn new(at: &Builder<'_>, vocabulary: i32, width: i32) -> Self {
        Self { weight: Weight::new(at, vocabulary, width) }
    }

    /// Looks up token ids `[B, L]`: `[B, L, D]`.
    pub fn forward(&self, tokens: &Array) -> Result<Array> {
        self.weight.rows(tokens)
    }

    /// Looks up token ids `[B, L]` and multiplies the rows by `scale`, `[B, L, D]`, as the Gemma family does.
    ///
    /// Rows packed as small floats are scaled in `bfloat16` even when the model computes in a wider type, because the
    /// reference unpacks them to `bfloat16`.
    pub(crate) fn forward_scaled(&self, tokens: &Array, scale: f32) -> Result<Array> {
        let rows = self.forward(tokens)?;
        let dtype = rows.dtype();
        let packed_floats = matches!(&self.weight, Weight::Quantized(q) if !q.quantization.mode.has_biases());
        let rows = if packed_floats { rows.as_dtype(Dtype::Bfloat16)? } else { rows };
        Ok(rows.multiply(scalar(scale, &rows)?)?.as_dtype(dtype)?)
    }
}

/// A norm over the last axis.
#[derive(Clone)]
pub struct Norm {
    /// Weight, `[D]`; `[H, D]` for [`NormKind::LayerPerHead`].
    pub weight: Array,
    kind: NormKind,
    eps: f32,
}

/// Kind of a norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NormKind {
    /// Root mean square, times the weight.
    Rms,
    /// Root mean square, times 1 + weight, as in the Gemma family.
    RmsAboveOne,
    /// Mean and variance, times the weight, without a bias.
    Layer,
    /// The same for `x [B, H, L, D]`, with one row of the weight per head.
    LayerPerHead,
}

impl NormKind {
    fn is_rms(self) -> bool {
        matches!(self, Self::Rms | Self::RmsAboveOne)
    }
}

impl Norm {
    /// Loads the norm at the builder's path; `shape` is that of its weight.
    pub(crate) fn new(at: &Builder<'_>, kind: NormKind, shape: &[i32], eps: f32) -> Self {
        Self { weight: at.take("weight", shape), kind, eps }
    }

    /// Normalizes `x [..., D]` over its last axis.
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        let above = if self.kind == NormKind::RmsAboveOne { 1.0 } else { 0.0 };
        if uses_host(x) && uses_host(&self.weight) && self.kind.is_rms() {
            return kernels::rms_norm(x, &self.weight, self.eps, above);
        }
        Ok(match self.kind {
            NormKind::Rms => fast::rms_norm(x, Some(&self.weight), self.eps)?,
            NormKind::RmsAboveOne => {
                let weight = self.weight.add(scalar(above, &self.weight)?)?;
                fast::rms_norm(x, Some(&weight), self.eps)?
            }
            NormKind::Layer => fast::layer_norm(x, Some(&self.weight), None, self.eps)?,
            NormKind::LayerPerHead => {
                fast::layer_norm(x, None, None, self.eps)?.multiply(self.weight.expand_dims(1)?)?
            }
        })
    }

    /// Returns the weight with which the norm scales nothing.
    pub(crate) fn neutral_weight(&self) -> f32 {
        if self.kind == NormKind::RmsAboveOne { 0.0 } else { 1.0 }
    }
}

/// Returns activation(gate) · up, both `[..., F]`.
pub(crate) fn gated(gate: &Array, up: &Array, activation: Gate) -> Result<Array> {
    if uses_host(gate) {
        return kernels::gated(gate, up, activation);
    }
    let gate = match activation {
        Gate::Silu => gate.multiply(ops::sigmoid(gate)?)?,
        Gate::GeluTanh => gelu_tanh(gate)?,
    };
    Ok(gate.multiply(up)?)
}

/// Returns the tanh approximation of GELU: ½x(1 + tanh(√(2/π)(x + 0.044715x³))).
pub(crate) fn gelu_tanh(x: &Array) -> Result<Array> {
    let cube = x.square()?.multiply(x)?;
    let inner = x.add(cube.multiply(scalar(0.044_715, x)?)?)?;
    let inner = inner.multiply(scalar((2.0 / std::f32::consts::PI).sqrt(), x)?)?;
    let gate = ops::tanh(inner)?.add(scalar(1.0, x)?)?;
    Ok(x.multiply(gate)?.multiply(scalar(0.5, x)?)?)
}

#[cfg(test)]
mod tests {
    use mlx_rs::ops::indexing::IndexOp as _;

    use super::*;
    use crate::{LayerMut, LoadOptions, Model};

    #[test]
    fn a_part_is_dropped_as_in_the_whole() -> Result<()> {
        let key = random::key(3)?;
        let x = random::normal::<f32>(&[5, 3, 4], None, None, &random::key(4)?)?;
        let whole = Dropout { rate: 0.4, key: key.clone(), part: None }.apply(&x)?;
        for (first, end) in [(0, 2), (2, 3), (3, 5)] {
            let part = Dropout { rate: 0.4, key: key.clone(), part: Some(Part { first, whole: 5 }) };
            let rows = part.apply(&x.index(first..end))?;
            let difference: f32 = rows.subtract(whole.index(first..end))?.abs()?.max(None)?.item_exact();
            assert!(difference < f32::MIN_POSITIVE, "rows {first} to {end}: {difference}");
        }
        // Padding after the last row.
        let padded = Dropout { rate: 0.4, key, part: Some(Part { first: 4, whole: 5 }) };
        assert_eq!(padded.apply(&x.index(3..5))?.shape(), [2, 3, 4]);
        Ok(())
    }

    #[test]
    fn norms_from_products_are_those_of_the_adapted_matrix() {
        mlx_ext::init(&mlx_ext::Options::default()).expect("MLX starts");
        for case in ["llama", "llama-q4", "qwen3-q8"] {
            let options = LoadOptions { dtype: Some(Dtype::Float32), ..LoadOptions::default() };
            let mut model = Model::load(&testutil::golden(case), &options).expect("a golden model");
            for (index, (path, layer)) in model.layers_mut().into_iter().enumerate() {
                let LayerMut::Linear(linear) = layer else { continue };
                let draw = |shape: &[i32], seed: u64| {
                    let key = random::key(seed).expect("a key");
                    random::normal::<f32>(shape, None, Some(0.1), &key).expect("numbers")
                };
                let a = draw(&[linear.inputs, 4], index as u64);
                let b = draw(&[4, linear.outputs], 1000 + index as u64);
                let adapter = Adapter { a, b, scale: 2.0, magnitude: None, norms: None, dropout: None };
                let wide = linear.weight.dense(Dtype::Float32).expect("numbers");
                let adapted = wide.add(adapter.delta().expect("a matrix")).expect("a sum");
                let plain = adapted.square().and_then(|x| x.sum_axis(1, false)).and_then(|x| x.sqrt());
                let plain = plain.expect("norms");
                let squares = linear.row_squares().expect("squares");
                let norms = adapter.adapted_norms(&linear.weight, &squares).expect("norms");
                let off = norms.subtract(&plain).and_then(|x| x.abs()?.divide(&plain)?.max(None));
                let off = off.expect("a number").item_exact::<f32>();
                assert!(off < 1e-5, "{case}, `{path}`: {off}, {:?} and {:?}", norms.index(0), plain.index(0));
            }
        }
    }
}
