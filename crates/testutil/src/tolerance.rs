//! Tolerances: distances within which two results count as equal. Tests take their tolerances from here only.

/// Logits of a plain model and of the reference, absolute, in `f32`.
pub const LOGITS: f32 = 1e-4;
/// Logits of a quantized model and of the reference, absolute, in `f32`.
pub const QUANTIZED_LOGITS: f32 = 1e-3;
/// Logits computed in `bfloat16` and those of the `f32` reference, relative to the largest.
pub const BFLOAT16_LOGITS: f32 = 0.1;
/// Logits computed in `float16` and those of the `f32` reference, relative to the largest.
pub const FLOAT16_LOGITS: f32 = 0.02;
/// The largest rounding error in 16 bits, as a multiple of that of transformers.
pub const HALF_LARGEST: f32 = 3.0;
/// The mean rounding error in 16 bits (root of the mean square), as a multiple of that of transformers.
pub const HALF_MEAN: f32 = 2.0;
/// A mean loss and that of the reference, in nats per target.
pub const LOSS: f64 = 1e-4;
/// Trained weights and gradients, and those of the reference, absolute.
pub const WEIGHTS: f32 = 1e-4;

/// Losses of the same weights on two code paths, in nats per target, or relative for sums.
pub const SAME_LOSS: f64 = 1e-4;
/// Losses of an adapter and of the fused model, in nats per target.
pub const FUSED_LOSS: f64 = 1e-5;
/// Logits of a quantized model and of the same model dequantized, absolute, in `f32`.
pub const DEQUANTIZED_LOGITS: f32 = 1e-5;
/// The same loss summed in another order, relative.
pub const SUMMED_LOSS: f64 = 1e-5;
/// The same gradient summed in another order, relative to its largest element.
pub const GRADIENT: f32 = 1e-4;
/// Gradients of the training head and of the plain head, absolute.
pub const HEAD_GRADIENT: f32 = 1e-5;
/// A norm put together from the norms of parts, relative.
pub const NORM: f64 = 1e-5;
/// A directional derivative and the difference quotient of the loss, relative.
pub const SLOPE: f64 = 1e-2;
/// A gradient computed in `bfloat16`, relative to its largest element.
pub const BFLOAT16: f32 = 0.1;
/// The norm of the error of a gradient computed in `bfloat16`, relative to the norm of the gradient.
pub const BFLOAT16_NORM: f32 = 0.05;
/// Parameters after a few optimizer steps and MLX's own, absolute.
pub const OPTIMIZER: f32 = 2e-6;
/// Parameters moved by Muon, whose iteration amplifies rounding, absolute.
pub const MUON: f32 = 2e-5;
/// The distrust loss and weight of a row and the published values, relative.
pub const DISTRUST: f64 = 1e-6;
