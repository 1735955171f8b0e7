//! Attention shared by all architectures: positions, masks, key-value cache, and the attention product.

use mlx_ext::Result;
use mlx_rs::fast::{self, ScaledDotProductAttentionMask};
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::{Array, Dtype, ops};

use crate::layers::scalar;

/// Positions of the tokens of a batch.
#[derive(Clone)]
pub enum Offset {
    /// Every row starts at this position.
    Same(i32),
    /// Each row starts at its own position, `[B]`, `i32`; rows padded on the left start below zero.
    PerRow(Array),
    /// Position of each token, `[B · L]`, `i32`: every packed row starts at zero.
    PerToken(Array),
}

/// Keys that a query may read.
#[derive(Clone)]
pub enum Mask {
    /// All keys: a single query without padding.
    None,
    /// Keys at or before the query.
    Causal,
    /// `[B or 1, 1, L, S]`, bool: true where the query may read the key.
    Array(Array),
}

/// Input of one forward pass.
pub struct Input<'a> {
    /// Token ids `[B, L]`, `i32`.
    pub tokens: &'a Array,
    /// Number of the packed row that each token belongs to, `[B, L]`, `i32`.
    pub segments: Option<&'a Array>,
    /// Keys and values of earlier tokens, when generating.
    pub cache: Option<&'a mut Cache>,
}

impl<'a> Input<'a> {
    /// Makes the input of plain rows, padded on the right.
    pub fn tokens(tokens: &'a Array) -> Self {
        Self { tokens, segments: None, cache: None }
    }

    /// Makes the input of the next tokens of rows whose earlier tokens are in `cache`.
    pub fn cached(tokens: &'a Array, cache: &'a mut Cache) -> Self {
        Self { tokens, segments: None, cache: Some(cache) }
    }

    /// Returns the positions of the tokens.
    pub fn offset(&self) -> Result<Offset> {
        if let Some(segments) = self.segments {
            return Ok(Offset::PerToken(positions_in(segments)?));
        }
        let Some(cache) = &self.cache else { return Ok(Offset::Same(0)) };
        match &cache.padding {
            None => Ok(Offset::Same(cache.length)),
            Some(padding) => Ok(Offset::PerRow(Array::from_int(cache.length).subtract(padding)?)),
        }
    }

    /// Returns the mask of a layer that sees the last `window` tokens, or all if `window` is `None`.
    pub fn mask(&self, window: Option<i32>) -> Result<Mask> {
        let length = self.tokens.dim(1);
        let past = self.cache.as_ref().map_or(0, |cache| cache.length);
        let padding = self.cache.as_ref().and_then(|cache| cache.padding.as_ref());
        let window = window.filter(|&window| window < past + length);
        if window.is_none() && padding.is_none() && self.segments.is_none() {
            return Ok(if length == 1 { Mask::None } else { Mask::Causal });
        }
        let queries = ops::arange::<_, i32>(past, past + length, None)?.reshape(&[1, 1, length, 1])?;
        let keys = ops::arange::<_, i32>(0, past + length, None)?.reshape(&[1, 1, 1, past + length])?;
        let mut mask = keys.le(&queries)?;
        if let Some(window) = window {
            let reach = keys.add(Array::from_int(window))?;
            mask = mask.logical_and(queries.lt(&reach)?)?;
        }
        if let Some(padding) = padding {
            mask = mask.logical_and(keys.ge(padding.reshape(&[-1, 1, 1, 1])?)?)?;
        }
        if let Some(segments) = self.segments {
            let of_query = segments.expand_dims_axes(&[1, 3])?;
            let of_key = segments.expand_dims_axes(&[1, 2])?;
            mask = mask.logical_and(of_query.eq(&of_key)?)?;
        }
        Ok(Mask::Array(mask))
    }
}

/// Returns the distance of each token from the first token of its segment: `[B, L]` → `[B · L]`, `i32`.
fn positions_in(segments: &Array) -> Result<Array> {
    let (lines, length) = (segments.dim(0), segments.dim(1));
    let first = Array::zeros::<i32>(&[lines, 1])?;
    if length < 2 {
        return Ok(first.reshape(&[-1])?);
    }
    let places = ops::arange::<_, i32>(0, length, None)?.reshape(&[1, length])?;
    let begins = segments.try_index((.., 1..))?.ne(segments.try_index((.., ..length - 1))?)?;
    let starts = begins.as_dtype(Dtype::Int32)?.multiply(places.try_index((.., 1..))?)?;
    let starts = ops::concatenate(&[&first, &starts], 1)?.cummax(1, None, None)?;
    Ok(places.subtract(starts)?.reshape(&[-1])?)
}

/// State shared by all blocks of one forward pass.
pub(crate) struct Context<'a> {
    /// Positions of the tokens.
    pub(crate) offset: Offset,
    global_mask: Mask,
    local_mask: Mask,
    cache: Option<&'a mut Cache>,
    length: i32,
}

impl<'a> Context<'a> {
    /// Starts a pass; local layers see the last `window` tokens.
    pub(crate) fn new(input: Input<'a>, window: Option<i32>) -> Result<Self> {
        Ok(Self {
            offset: input.offset()?,
            global_mask: input.mask(None)?,
            local_mask: input.mask(window)?,
            length: input.tokens.dim(1),
            cache: input.cache,
        })
    }

    /// Returns the mask of a local or global layer.
    pub(crate) fn mask(&self, is_local: bool) -> &Mask {
        if is_local { &self.local_mask } else { &self.global_mask }
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
        }
    }

    /// Ends the pass: advances the cache by its tokens.
    pub(crate) fn finish(self) {
        if let Some(cache) = self.cache {
            cache.advance(self.length);
        }
    }
}

/// Returns softmax(q kᵀ · scale + mask) v: `q [B, H, L, D]`, `k` and `v` `[B, K, S, D]` → `[B, H, L, D]`.
pub(crate) fn attend(
    queries: &Array,
    keys: &Array,
    values: &Array,
    scale: f32,
    mask: &Mask,
) -> Result<Array> {
    let mask = match mask {
        Mask::None => None,
        Mask::Causal => Some(ScaledDotProductAttentionMask::Causal),
        Mask::Array(mask) => Some(ScaledDotProductAttentionMask::Array(mask)),
    };
    Ok(fast::scaled_dot_product_attention(queries, keys, values, scale, mask, None)?)
}

/// As [`attend`], with scores → cap · tanh(scores / cap) before the mask, for which MLX has no fused kernel.
pub(crate) fn attend_capped(
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
    let mask = match mask {
        Mask::None => None,
        Mask::Causal => Some(causal_mask(seen - length, length)?),
        Mask::Array(mask) => Some(mask.clone()),
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

/// Returns a mask `[1, 1, L, S]`, true where the query at position `past` + row may read the key.
fn causal_mask(past: i32, length: i32) -> Result<Array> {
    let queries = ops::arange::<_, i32>(past, past + length, None)?.reshape(&[1, 1, length, 1])?;
    let keys = ops::arange::<_, i32>(0, past + length, None)?.reshape(&[1, 1, 1, past + length])?;
    Ok(keys.le(&queries)?)
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
pub(crate) fn join_heads(x: &Array) -> Result<Array> {
    let (batch, length) = (x.dim(0), x.dim(2));
    Ok(x.transpose_axes(&[0, 2, 1, 3])?.reshape(&[batch, length, -1])?)
}

/// Keys and values of all layers for earlier tokens.
///
/// Layers with a sliding window keep all tokens and mask them: simpler, but larger than needed.
pub struct Cache {
    layers: Vec<Option<(Array, Array)>>,
    length: i32,
    padding: Option<Array>,
}

/// The cache grows by this number of tokens at a time.
const GROW_BY: i32 = 256;

impl Cache {
    /// Makes an empty cache for `layers` layers; `padding` is the number of padding tokens on the left of each row.
    pub fn new(layers: usize, padding: Option<&[i32]>) -> Self {
        let padding = padding
            .filter(|padding| padding.iter().any(|&tokens| tokens > 0))
            .map(|padding| Array::from_slice(padding, &[padding.len() as i32]));
        Self { layers: vec![None; layers], length: 0, padding }
    }

    /// Returns the number of tokens in the cache, padding included.
    pub fn length(&self) -> i32 {
        self.length
    }

    /// Appends keys and values of `layer`, `[B, K, L, D]`, and returns all of them, `[B, K, S, D]`.
    pub fn extend(&mut self, layer: usize, keys: &Array, values: &Array) -> Result<(Array, Array)> {
        let end = self.length + keys.dim(2);
        let slot = &mut self.layers[layer];
        let (all_keys, all_values) = match slot.take() {
            Some((all_keys, all_values)) => (
                write_at(&all_keys, keys, self.length, end)?,
                write_at(&all_values, values, self.length, end)?,
            ),
            None => (with_room(keys, end)?, with_room(values, end)?),
        };
        let seen = (slice_to(&all_keys, end)?, slice_to(&all_values, end)?);
        *slot = Some((all_keys, all_values));
        Ok(seen)
    }

    /// Advances the length by `tokens`, after all layers have been extended.
    pub fn advance(&mut self, tokens: i32) {
        self.length += tokens;
    }

    /// Drops all but the first `tokens` tokens.
    pub fn truncate(&mut self, tokens: i32) {
        self.length = self.length.min(tokens);
    }

    /// Keeps only some rows of the batch, by index, in this order.
    pub fn keep_rows(&mut self, rows: &[i32]) -> Result<()> {
        let rows = Array::from_slice(rows, &[rows.len() as i32]);
        for (keys, values) in self.layers.iter_mut().flatten() {
            (*keys, *values) = (keys.take_axis(&rows, 0)?, values.take_axis(&rows, 0)?);
        }
        if let Some(padding) = &mut self.padding {
            *padding = padding.take_axis(&rows, 0)?;
        }
        Ok(())
    }

    /// Returns all arrays, which must be evaluated once per step.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers.iter().flatten().flat_map(|(keys, values)| [keys, values])
    }
}

fn slice_to(all: &Array, end: i32) -> Result<Array> {
    Ok(all.try_index((.., .., 0..end, ..))?)
}

fn with_room(new: &Array, end: i32) -> Result<Array> {
    let room = (end + GROW_BY - 1) / GROW_BY * GROW_BY - end;
    if room == 0 {
        return Ok(new.clone());
    }
    let empty = ops::zeros_dtype(&[new.dim(0), new.dim(1), room, new.dim(3)], new.dtype())?;
    Ok(ops::concatenate(&[new, &empty], 2)?)
}

fn write_at(all: &Array, new: &Array, start: i32, end: i32) -> Result<Array> {
    if end > all.dim(2) {
        return with_room(&ops::concatenate(&[&slice_to(all, start)?, new], 2)?, end);
    }
    let mut all = all.clone();
    all.try_index_mut((.., .., start..end, ..), new)?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask_of(input: &Input<'_>, window: Option<i32>) -> Vec<Vec<u8>> {
        let Mask::Array(mask) = input.mask(window).expect("a mask") else { panic!("an array was expected") };
        let width = mask.dim(3) as usize;
        let floats = mask.as_dtype(mlx_rs::Dtype::Float32).expect("a cast");
        floats.eval().expect("an evaluation");
        let rows = floats.as_slice::<f32>().chunks(width);
        rows.map(|row| row.iter().map(|&x| x as u8).collect()).collect()
    }

    #[test]
    fn a_window_hides_keys_that_are_too_far_back() {
        let tokens = Array::from_slice(&[1, 2, 3, 4], &[1, 4]);
        let mask = mask_of(&Input::tokens(&tokens), Some(2));
        assert_eq!(mask, [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]);
    }

    #[test]
    fn segments_do_not_see_each_other() {
        let tokens = Array::from_slice(&[1, 2, 3, 4], &[1, 4]);
        let segments = Array::from_slice(&[0, 0, 1, 1], &[1, 4]);
        let input = Input { tokens: &tokens, segments: Some(&segments), cache: None };
        assert_eq!(mask_of(&input, None), [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]);
    }

    #[test]
    fn positions_restart_with_every_segment() -> Result<()> {
        let segments = Array::from_slice(&[0, 0, 0, 1, 1, -1, 0, 1, 2, 2, 2, 2], &[2, 6]);
        let tokens = Array::zeros::<i32>(&[2, 6])?;
        let input = Input { tokens: &tokens, segments: Some(&segments), cache: None };
        let Offset::PerToken(positions) = input.offset()? else { panic!("tokens differ") };
        positions.eval()?;
        assert_eq!(positions.as_slice::<i32>(), &[0, 1, 2, 0, 1, 0, 0, 0, 0, 1, 2, 3]);
        assert_eq!(positions_in(&Array::from_slice(&[7, 8], &[2, 1]))?.as_slice::<i32>(), &[0, 0]);
        Ok(())
    }

    #[test]
    fn left_padding_is_never_read_and_positions_start_after_it() -> Result<()> {
        let tokens = Array::from_slice(&[0, 2, 3, 4], &[2, 2]);
        let mut cache = Cache::new(1, Some(&[1, 0]));
        let input = Input::cached(&tokens, &mut cache);
        assert_eq!(mask_of(&input, None), [[0, 0], [0, 1], [1, 0], [1, 1]]);
        let Offset::PerRow(offsets) = input.offset()? else { panic!("rows differ") };
        assert_eq!(offsets.as_slice::<i32>(), &[-1, 0]);
        Ok(())
    }

    #[test]
    fn a_cache_returns_all_entries_while_it_grows() -> Result<()> {
        let mut cache = Cache::new(1, None);
        let mut expected: Vec<f32> = Vec::new();
        for (step, tokens) in [(0, 250), (1, 10), (2, 1), (3, 300)] {
            let values: Vec<f32> = (0..tokens).map(|i| (step * 1000 + i) as f32).collect();
            expected.extend(&values);
            let new = Array::from_slice(&values, &[1, 1, tokens, 1]);
            let (keys, _) = cache.extend(0, &new, &new)?;
            cache.advance(tokens);
            let keys = keys.contiguous()?;
            keys.eval()?;
            assert_eq!(keys.as_slice::<f32>(), &expected[..]);
        }
        Ok(())
    }
}
