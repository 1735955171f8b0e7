//! Masks: the keys that a query may read.

use mlx_ext::Result;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype, ops};

/// Keys that the queries of a pass may read: a run of keys for each query, which ends with its own.
///
/// Kernels for a CPU follow the rule; MLX's need an array with an element for every query and key.
#[derive(Clone)]
pub(crate) struct Mask {
    /// Number of keys that a query sees at most; `None` if it sees all.
    pub(crate) window: Option<i32>,
    /// First key that a query may read, `[B or 1, L or 1]`, `i32`: that of its segment, or the first behind the padding.
    pub(crate) first: Option<Array>,
    /// The same rule for MLX; an array is not computed unless it is used.
    pub(crate) plain: PlainMask,
}

/// A mask as MLX reads it.
#[derive(Clone)]
pub(crate) enum PlainMask {
    /// All keys: a single query that sees them all.
    None,
    /// Keys at or before the query.
    Causal,
    /// `[B or 1, 1, L, S]`, bool: true where the query may read the key.
    Array(Array),
}

impl Mask {
    /// Makes the mask of `length` queries after `past` tokens; a query sees `window` keys at most.
    pub(crate) fn new(past: i32, length: i32, window: Option<i32>, first: Option<Array>) -> Result<Self> {
        let window = window.filter(|&window| window < past + length);
        let plain = match (window, &first) {
            (None, None) if length == 1 => PlainMask::None,
            (None, None) => PlainMask::Causal,
            _ => PlainMask::Array(visible(past, length, window, first.as_ref())?),
        };
        Ok(Self { window, first, plain })
    }
}

/// Returns a mask `[B or 1, 1, L, S]`, true where the query at position `past` + row may read the key.
pub(crate) fn visible(past: i32, length: i32, window: Option<i32>, first: Option<&Array>) -> Result<Array> {
    let queries = ops::arange::<_, i32>(past, past + length, None)?.reshape(&[1, 1, length, 1])?;
    let keys = ops::arange::<_, i32>(0, past + length, None)?.reshape(&[1, 1, 1, past + length])?;
    let mut mask = keys.le(&queries)?;
    if let Some(window) = window {
        let reach = keys.add(Array::from_int(window))?;
        mask = mask.logical_and(queries.lt(&reach)?)?;
    }
    if let Some(first) = first {
        mask = mask.logical_and(keys.ge(first.expand_dims_axes(&[1, 3])?)?)?;
    }
    Ok(mask)
}

/// Returns the place of the first token of each token's segment: `[B, L]` → `[B, L]`, `i32`.
pub(crate) fn starts_of(segments: &Array) -> Result<Array> {
    let (lines, length) = (segments.dim(0), segments.dim(1));
    let first = Array::zeros::<i32>(&[lines, 1])?;
    if length < 2 {
        return Ok(first);
    }
    let begins = segments.try_index((.., 1..))?.ne(segments.try_index((.., ..length - 1))?)?;
    let starts = begins.as_dtype(Dtype::Int32)?.multiply(places(length)?.try_index((.., 1..))?)?;
    Ok(ops::concatenate(&[&first, &starts], 1)?.cummax(1, None, None)?)
}

/// Returns 0, 1, …, `length` − 1: `[1, L]`, `i32`.
pub(crate) fn places(length: i32) -> Result<Array> {
    Ok(ops::arange::<_, i32>(0, length, None)?.reshape(&[1, length])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows_of(mask: &Mask) -> Vec<Vec<u8>> {
        let PlainMask::Array(mask) = &mask.plain else { panic!("an array was expected") };
        let width = mask.dim(3) as usize;
        let floats = mask.as_dtype(Dtype::Float32).expect("a cast");
        floats.eval().expect("an evaluation");
        let rows = floats.as_slice::<f32>().chunks(width);
        rows.map(|row| row.iter().map(|&x| x as u8).collect()).collect()
    }

    #[test]
    fn a_window_hides_keys_that_are_too_far_back() -> Result<()> {
        let mask = Mask::new(0, 4, Some(2), None)?;
        assert_eq!(rows_of(&mask), [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]);
        assert!(matches!(Mask::new(0, 4, Some(4), None)?.plain, PlainMask::Causal));
        assert!(matches!(Mask::new(3, 1, Some(4), None)?.plain, PlainMask::None));
        Ok(())
    }

    #[test]
    fn segments_do_not_see_each_other() -> Result<()> {
        let segments = Array::from_slice(&[0, 0, 1, 1], &[1, 4]);
        let mask = Mask::new(0, 4, None, Some(starts_of(&segments)?))?;
        assert_eq!(rows_of(&mask), [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]);
        Ok(())
    }

    #[test]
    fn every_token_knows_where_its_segment_starts() -> Result<()> {
        let segments = Array::from_slice(&[0, 0, 0, 1, 1, -1, 0, 1, 2, 2, 2, 2], &[2, 6]);
        assert_eq!(starts_of(&segments)?.as_slice::<i32>(), &[0, 0, 0, 3, 3, 5, 0, 1, 2, 2, 2, 2]);
        assert_eq!(starts_of(&Array::from_slice(&[7, 8], &[2, 1]))?.as_slice::<i32>(), &[0, 0]);
        Ok(())
    }
}
