//! Attention shared by all architectures: inputs, positions, and the attention product.

use mlx_ext::kernels::Attention as Kernel;
use mlx_ext::{Result, host};
use mlx_rs::fast::{self, ScaledDotProductAttentionMask};
use mlx_rs::{Array, Dtype, ops};

use crate::cache::Cache;
use crate::layers::scalar;
use crate::mask::{Mask, PlainMask, places, starts_of, visible};

/// Positions of the tokens of a batch.
#[derive(Clone)]
pub(crate) enum Offset {
    /// Every row starts at this position.
    Same(i32),
    /// Each row starts at its own position, `[B]`, `i32`; rows padded on the left start below zero.
    PerRow(Array),
    /// Position of each token, `[B · L]`, `i32`: every packed row starts at zero.
    PerToken(Array),
}

/// Rows that are longer than a number of tokens.
pub(crate) enum Beyond {
    /// None of them.
    None,
    /// All of them.
    All,
    /// Those where `[B, 1, 1 or L, 1]`, bool, is true; a packed line has rows of several lengths.
    Some(Array),
}

/// Input of one forward pass.
pub struct Input<'a> {
    /// Token ids `[B, L]`, `i32`.
    pub tokens: &'a Array,
    /// Number of the packed row that each token belongs to, `[B, L]`, `i32`; tokens of a row are neighbours.
    pub segments: Option<&'a Array>,
    /// Number of tokens of each line without its padding on the right, `[B]`, `i32`; `None` if no line has any.
    pub lengths: Option<&'a Array>,
    /// Keys and values of earlier tokens, when generating.
    pub cache: Option<&'a mut Cache>,
}

impl<'a> Input<'a> {
    /// Makes the input of plain rows, padded on the right.
    pub fn tokens(tokens: &'a Array) -> Self {
        Self { tokens, segments: None, lengths: None, cache: None }
    }

    /// Makes the input of the next tokens of rows whose earlier tokens are in `cache`.
    pub fn cached(tokens: &'a Array, cache: &'a mut Cache) -> Self {
        Self { tokens, segments: None, lengths: None, cache: Some(cache) }
    }

    /// Returns the lengths of the rows, without the padding on either side.
    fn row_lengths(&self) -> Result<RowLengths> {
        let length = self.tokens.dim(1);
        if let Some(segments) = self.segments {
            return Ok(RowLengths { longest: length, each: Some(lengths_in(segments)?) });
        }
        let Some(cache) = &self.cache else {
            let each = self.lengths.map(|lengths| lengths.reshape(&[-1, 1, 1, 1])).transpose()?;
            return Ok(RowLengths { longest: length, each });
        };
        let longest = cache.length_with(length);
        let unpadded = |padding: &Array| Array::from_int(longest).subtract(padding)?.reshape(&[-1, 1, 1, 1]);
        Ok(RowLengths { longest, each: cache.padding().map(unpadded).transpose()? })
    }
}

/// Returns the length of the segment that each token belongs to: `[B, L]` → `[B, 1, L, 1]`, `i32`.
fn lengths_in(segments: &Array) -> Result<Array> {
    let is_same = segments.expand_dims(2)?.eq(segments.expand_dims(1)?)?;
    let lengths = is_same.as_dtype(Dtype::Int32)?.sum_axis(2, false)?;
    Ok(lengths.expand_dims_axes(&[1, 3])?)
}

/// State shared by all blocks of one forward pass.
pub(crate) struct Context<'a> {
    /// Positions of the tokens.
    pub(crate) offset: Offset,
    global_mask: Mask,
    local_mask: Mask,
    cache: Option<&'a mut Cache>,
    length: i32,
    rows: RowLengths,
}

/// Lengths of rows, as far as they are known.
#[derive(Clone)]
struct RowLengths {
    /// Length of the longest possible row, padding included.
    longest: i32,
    /// Lengths, `[B, 1, 1 or L, 1]`, `i32`; `None` if all rows have the longest length.
    each: Option<Array>,
}

impl<'a> Context<'a> {
    /// Starts a pass; local layers see the last `window` tokens.
    pub(crate) fn new(input: Input<'a>, window: Option<i32>) -> Result<Self> {
        let length = input.tokens.dim(1);
        let past = input.cache.as_ref().map_or(0, |cache| cache.length());
        let padding = input.cache.as_ref().and_then(|cache| cache.padding());
        let (offset, first) = match (input.segments, padding) {
            (Some(segments), _) => {
                let starts = starts_of(segments)?;
                let positions = places(length)?.subtract(&starts)?.reshape(&[-1])?;
                (Offset::PerToken(positions), Some(starts))
            }
            (None, Some(padding)) => {
                let offsets = Array::from_int(past).subtract(padding)?;
                (Offset::PerRow(offsets), Some(padding.reshape(&[-1, 1])?))
            }
            (None, None) => (Offset::Same(past), None),
        };
        Ok(Self {
            offset,
            global_mask: Mask::new(past, length, None, first.clone())?,
            local_mask: Mask::new(past, length, window, first)?,
            length,
            rows: input.row_lengths()?,
            cache: input.cache,
        })
    }

    /// Returns the mask of a local or global layer.
    pub(crate) fn mask(&self, is_local: bool) -> &Mask {
        if is_local { &self.local_mask } else { &self.global_mask }
    }

    /// Returns which rows have more than `tokens` tokens.
    pub(crate) fn beyond(&self, tokens: i32) -> Result<Beyond> {
        if self.rows.longest <= tokens {
            return Ok(Beyond::None);
        }
        Ok(match &self.rows.each {
            None => Beyond::All,
            Some(lengths) => Beyond::Some(lengths.gt(Array::from_int(tokens))?),
        })
    }

    /// Adds the new keys and values of `layer`, `[B, K, L, D]`, and returns those of all tokens so far, `[B, K, S, D]`.
    pub(crate) fn extend(&mut self, layer: usize, keys: Array, values: Array) -> Result<(Array, Array)> {
        match &mut self.cache {
            Some(cache) => cache.extend(layer, &keys, &values),
            None => Ok((keys, values)),
        }
    }

    /// Returns a copy without the cache, which may outlive the pass.
    pub(crate) fn without_cache(&self) -> Context<'static> {
        Context {
            offset: self.offset.clone(),
            global_mask: self.global_mask.clone(),
            local_mask: self.local_mask.clone(),
            cache: None,
            length: self.length,
            rows: self.rows.clone(),
        }
    }

    /// Ends the pass: advances the cache by its tokens.
    pub(crate) fn finish(self) {
        if let Some(cache) = self.cache {
            cache.advance(self.length);
        }
    }
}

/// Conversion of scores into weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scoring {
    /// Factor of the products of queries and keys.
    pub(crate) scale: f32,
    /// Scores → cap · tanh(scores / cap), before the mask.
    pub(crate) cap: Option<f32>,
}

/// Returns softmax(scores + mask) v with joined heads: `q [B, H, L, D]`, `k` and `v` `[B, K, S, D]` → `[B, L, H·D]`.
///
/// On a CPU, in `f32`, no matrix of all queries by all keys is made, neither here nor for the gradient.
pub(crate) fn attend(
    queries: &Array,
    keys: &Array,
    values: &Array,
    scoring: Scoring,
    mask: &Mask,
) -> Result<Array> {
    if [queries, keys, values].into_iter().all(host::uses_host) {
        let Scoring { scale, cap } = scoring;
        let window = mask.window.map(|window| window as usize);
        return Kernel { scale, cap, window, first: mask.first.clone() }.call(queries, keys, values);
    }
    join_heads(&attend_plainly(queries, keys, values, scoring, mask)?)
}

/// As [`attend`], by operations of MLX: → `[B, H, L, D]`.
fn attend_plainly(
    queries: &Array,
    keys: &Array,
    values: &Array,
    scoring: Scoring,
    mask: &Mask,
) -> Result<Array> {
    if let Some(cap) = scoring.cap {
        return attend_capped(queries, keys, values, scoring.scale, cap, mask);
    }
    let mask = match &mask.plain {
        PlainMask::None => None,
        PlainMask::Causal => Some(ScaledDotProductAttentionMask::Causal),
        PlainMask::Array(mask) => Some(ScaledDotProductAttentionMask::Array(mask)),
    };
    Ok(fast::scaled_dot_product_attention(queries, keys, values, scoring.scale, mask, None)?)
}

/// As [`attend_plainly`] with a cap, for which MLX has no fused kernel.
fn attend_capped(
    queries: &Array,
    keys: &Array,
    values: &Array,
    scale: f32,
    cap: f32,
    mask: &Mask,
) -> Result<Array> {
    let (batch, heads, length, width) = (queries.dim(0), queries.dim(1), queries.dim(2), queries.dim(3));
    let (key_value_heads, seen) = (keys.dim(1), keys.dim(2));
    let queries = queries.multiply(scalar(scale, queries)?)?;
    // [B, K, H/K, L, D] by [B, K, 1, D, S]
    let queries = queries.reshape(&[batch, key_value_heads, heads / key_value_heads, length, width])?;
    let scores = queries.matmul(keys.expand_dims(2)?.swap_axes(-1, -2)?)?;
    let cap = scalar(cap, &scores)?;
    let scores = ops::tanh(scores.divide(&cap)?)?.multiply(&cap)?;
    let mask = match &mask.plain {
        PlainMask::None => None,
        PlainMask::Causal => Some(visible(seen - length, length, None, None)?),
        PlainMask::Array(mask) => Some(mask.clone()),
    };
    let scores = match mask {
        // [B or 1, 1, L, S] → [B or 1, 1, 1, L, S]
        Some(mask) => {
            let hidden = scalar(lowest(scores.dtype()), &scores)?;
            ops::select(mask.expand_dims(1)?, &scores, hidden)?
        }
        None => scores,
    };
    let attended = ops::softmax_axis(&scores, -1, true)?.matmul(values.expand_dims(2)?)?;
    Ok(attended.reshape(&[batch, heads, length, -1])?)
}

/// Returns the lowest finite number of a float type.
fn lowest(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Float16 => -65_504.0,
        Dtype::Bfloat16 => half::bf16::MIN.to_f32(),
        _ => f32::MIN,
    }
}

/// Splits `x [B, L, H·D]` into heads: `[B, H, L, D]`.
pub(crate) fn split_heads(x: &Array, heads: i32) -> Result<Array> {
    let (batch, length) = (x.dim(0), x.dim(1));
    Ok(x.reshape(&[batch, length, heads, -1])?.transpose_axes(&[0, 2, 1, 3])?)
}

/// Joins the heads of `x [B, H, L, D]`: `[B, L, H·D]`.
fn join_heads(x: &Array) -> Result<Array> {
    let (batch, length) = (x.dim(0), x.dim(2));
    Ok(x.transpose_axes(&[0, 2, 1, 3])?.reshape(&[batch, length, -1])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(shape: &[i32], seed: i32) -> Array {
        let count = shape.iter().product::<i32>();
        Array::from_iter((0..count).map(|i| ((i * 7 + seed) % 23) as f32 / 11.0 - 1.0), shape)
    }

    fn context<'a>(
        tokens: &'a Array,
        segments: Option<&'a Array>,
        cache: Option<&'a mut Cache>,
    ) -> Context<'a> {
        Context::new(Input { tokens, segments, lengths: None, cache }, Some(5)).expect("a context")
    }

    #[test]
    fn left_padding_is_never_read_and_positions_start_after_it() {
        let tokens = Array::from_slice(&[0, 2, 3, 4], &[2, 2]);
        let mut cache = Cache::new(1, Some(&[1, 0]));
        let context = context(&tokens, None, Some(&mut cache));
        assert_eq!(context.mask(false).first.as_ref().expect("padding").as_slice::<i32>(), &[1, 0]);
        let Offset::PerRow(offsets) = &context.offset else { panic!("rows differ") };
        assert_eq!(offsets.as_slice::<i32>(), &[-1, 0]);
    }

    #[test]
    fn positions_restart_with_every_segment() {
        let segments = Array::from_slice(&[0, 0, 0, 1, 1, -1, 0, 1, 2, 2, 2, 2], &[2, 6]);
        let context = context(&segments, Some(&segments), None);
        let Offset::PerToken(positions) = &context.offset else { panic!("tokens differ") };
        positions.eval().expect("an evaluation");
        assert_eq!(positions.as_slice::<i32>(), &[0, 1, 2, 0, 1, 0, 0, 0, 0, 1, 2, 3]);
    }

    #[test]
    fn the_kernel_and_plain_mlx_agree_on_every_mask() -> Result<()> {
        mlx_ext::init(&mlx_ext::Options::default())?;
        let tokens = Array::zeros::<i32>(&[2, 12])?;
        let segments: Vec<i32> = (0..24).map(|token| token % 12 / 4).collect();
        let segments = Array::from_slice(&segments, &[2, 12]);
        let (mut padded, mut later) = (Cache::new(1, Some(&[0, 3])), Cache::new(1, None));
        later.advance(9);
        let contexts = [
            context(&tokens, None, None),
            context(&tokens, Some(&segments), None),
            context(&tokens, None, Some(&mut padded)),
            context(&tokens, None, Some(&mut later)),
        ];
        for (index, context) in contexts.iter().enumerate() {
            let past = if index == 3 { 9 } else { 0 };
            let queries = numbers(&[2, 4, 12, 8], 1);
            let (keys, values) = (numbers(&[2, 2, past + 12, 8], 2), numbers(&[2, 2, past + 12, 8], 5));
            for (is_local, cap) in [(false, None), (true, None), (false, Some(1.5)), (true, Some(1.5))] {
                let (scoring, mask) = (Scoring { scale: 0.5, cap }, context.mask(is_local));
                let found = attend(&queries, &keys, &values, scoring, mask)?;
                let plain = join_heads(&attend_plainly(&queries, &keys, &values, scoring, mask)?)?;
                let off = found.subtract(&plain)?.abs()?;
                // Padded queries see nothing; what they get is not read.
                let row = if index == 2 {
                    off.reshape(&[24, 32])?.take_axis(Array::from_slice(&[0, 11, 15, 23], &[4]), 0)?
                } else {
                    off
                };
                assert!(
                    row.max(None)?.item_exact::<f32>() < 1e-5,
                    "context {index}, local {is_local}, cap {cap:?}"
                );
            }
        }
        Ok(())
    }
}
