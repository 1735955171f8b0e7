//! Keys and values of earlier tokens, for generation.

use mlx_ext::Result;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::{Array, ops};

/// Keys and values of all layers for earlier tokens.
///
/// Layers with a sliding window keep all tokens and mask them: simpler, but larger than needed.
pub struct Cache {
    layers: Vec<Option<(Array, Array)>>,
    length: i32,
    padding: Option<Array>,
    /// Number of padding tokens of each row; empty if no row has any.
    padding_counts: Vec<i32>,
    /// Tokens in the cache, for models that rotate long rows differently.
    history: Option<History>,
}

/// Tokens that were read into a cache.
struct History {
    /// `[B, S]`.
    tokens: Array,
    /// Whether each row is beyond the trained context.
    is_beyond: Vec<bool>,
}

/// Tokens are read in pieces of this number, which bounds memory.
pub(crate) const PREFILL_TOKENS: usize = 512;

/// The cache grows by this number of tokens at a time.
const GROW_BY: i32 = 256;

impl Cache {
    /// Makes an empty cache for `layers` layers; `padding` is the number of padding tokens on the left of each row.
    pub fn new(layers: usize, padding: Option<&[i32]>) -> Self {
        let padding = padding.filter(|padding| padding.iter().any(|&tokens| tokens > 0));
        let padding_counts = padding.map(<[i32]>::to_vec).unwrap_or_default();
        let padding = padding.map(|padding| Array::from_slice(padding, &[padding.len() as i32]));
        Self { layers: vec![None; layers], length: 0, padding, padding_counts, history: None }
    }

    /// Records the next tokens, `[B, L]`, for a model that rotates all tokens of rows with more than `trained` tokens
    /// otherwise. If a row gets there with them, or was truncated to fewer, the cache is emptied.
    ///
    /// Returns the tokens to read: the given ones, or all.
    pub(crate) fn record(&mut self, tokens: &Array, trained: i32) -> Result<Array> {
        let all = match &self.history {
            Some(history) if self.length > 0 => {
                let past = history.tokens.try_index((.., 0..self.length))?;
                ops::concatenate(&[&past, tokens], 1)?
            }
            _ => tokens.clone(),
        };
        let length = all.dim(1);
        let padding = |row: i32| self.padding_counts.get(row as usize).copied().unwrap_or(0);
        let is_beyond: Vec<bool> = (0..all.dim(0)).map(|row| length - padding(row) > trained).collect();
        let is_same = self.history.as_ref().is_some_and(|history| history.is_beyond == is_beyond);
        let next = if self.length == 0 || is_same {
            tokens.clone()
        } else {
            self.layers.fill(None);
            self.length = 0;
            all.clone()
        };
        self.history = Some(History { tokens: all, is_beyond });
        Ok(next)
    }

    /// Returns the number of tokens in the cache, padding included.
    pub fn length(&self) -> i32 {
        self.length
    }

    /// Returns the number of tokens of the longest row after the next pass, which reads `next` tokens; of recorded tokens, those that
    /// later passes read count too.
    pub(crate) fn length_with(&self, next: i32) -> i32 {
        self.history.as_ref().map_or(self.length + next, |history| history.tokens.dim(1))
    }

    /// Returns the number of padding tokens on the left of each row, `[B]`, `i32`; `None` if no row has any.
    pub(crate) fn padding(&self) -> Option<&Array> {
        self.padding.as_ref()
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
    pub fn keep_rows(&mut self, indices: &[i32]) -> Result<()> {
        let rows = Array::from_slice(indices, &[indices.len() as i32]);
        for (keys, values) in self.layers.iter_mut().flatten() {
            (*keys, *values) = (keys.take_axis(&rows, 0)?, values.take_axis(&rows, 0)?);
        }
        if let Some(padding) = &mut self.padding {
            *padding = padding.take_axis(&rows, 0)?;
        }
        if let Some(history) = &mut self.history {
            history.tokens = history.tokens.take_axis(&rows, 0)?;
            history.is_beyond = kept(&history.is_beyond, indices);
        }
        self.padding_counts = kept(&self.padding_counts, indices);
        Ok(())
    }

    /// Returns all arrays, which must be evaluated once per step.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers.iter().flatten().flat_map(|(keys, values)| [keys, values])
    }
}

/// Returns the items at some indices; none of an empty list.
fn kept<T: Copy>(items: &[T], indices: &[i32]) -> Vec<T> {
    indices.iter().filter_map(|&index| items.get(index as usize).copied()).collect()
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

    #[test]
    fn a_token_is_written_in_place() -> Result<()> {
        const LENGTH: i32 = 5000;
        mlx_ext::init(&mlx_ext::Options::default())?;
        let heads = |tokens| Ok::<_, mlx_ext::Error>(ops::ones::<f32>(&[2, 8, tokens, 64])?);
        let mut cache = Cache::new(1, None);
        for tokens in [LENGTH, 1, 1, 1] {
            let before = mlx_rs::memory::active_memory()?;
            mlx_rs::memory::reset_peak_memory()?;
            let (keys, values) = cache.extend(0, &heads(tokens)?, &heads(tokens)?)?;
            cache.advance(tokens);
            let sums = [keys.sum(None)?, values.sum(None)?];
            mlx_rs::transforms::eval(cache.arrays().chain(&sums))?;
            drop((keys, values));
            let grown = mlx_rs::memory::peak_memory()? - before;
            assert!(tokens > 1 || grown < 1 << 20, "a token needs {grown} bytes");
        }
        Ok(())
    }
}
