//! The network of a sentence encoder, and the rows it reads.

use mlx_ext::Result;
use mlx_ext::host::uses_host;
use mlx_ext::kernels::attend_rows;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, fast, ops};

/// A network that turns tokens into vectors.
pub(crate) trait Network {
    /// Returns the number of tokens that have an embedding, V.
    fn vocabulary(&self) -> i32;

    /// Returns the most tokens of a row.
    fn max_tokens(&self) -> usize;

    /// Returns a vector per token, `[T, D]`, in the order of `rows`.
    fn hidden(&self, rows: &Rows) -> Result<Array>;
}

/// Rows of a batch without padding: their tokens one after the other, short rows first.
pub(crate) struct Rows {
    tokens: Array,
    positions: Array,
    /// First token of every row, then the number of tokens, `[N + 1]`, `i32`.
    starts: Array,
    groups: Vec<Group>,
}

/// Rows of the same length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    /// Index of the first token.
    pub(crate) start: i32,
    /// Number of rows.
    pub(crate) rows: i32,
    /// Tokens per row.
    pub(crate) length: i32,
}

impl Rows {
    /// Joins rows, which are sorted by length.
    pub(crate) fn new(rows: &[&[u32]]) -> Self {
        let tokens: Vec<i32> = rows.iter().flat_map(|row| row.iter().map(|&token| token as i32)).collect();
        let positions: Vec<i32> = rows.iter().flat_map(|row| 0..row.len() as i32).collect();
        let mut groups: Vec<Group> = Vec::new();
        let mut starts = vec![0];
        let mut start = 0;
        for row in rows {
            let length = row.len() as i32;
            match groups.last_mut().filter(|group| group.length == length) {
                Some(group) => group.rows += 1,
                None => groups.push(Group { start, rows: 1, length }),
            }
            start += length;
            starts.push(start);
        }
        let shape = [tokens.len() as i32];
        Self {
            tokens: Array::from_slice(&tokens, &shape),
            positions: Array::from_slice(&positions, &shape),
            starts: Array::from_slice(&starts, &[starts.len() as i32]),
            groups,
        }
    }

    /// Returns the token ids, `[T]`, `i32`.
    pub(crate) fn tokens(&self) -> &Array {
        &self.tokens
    }

    /// Returns the position of every token in its row, `[T]`, `i32`.
    pub(crate) fn positions(&self) -> &Array {
        &self.positions
    }

    /// Lets the tokens of every row attend to each other, in both directions: queries, keys and values `[T, D]` → `[T, D]`.
    ///
    /// On a CPU, in `f32`, no matrix of all tokens by all tokens is made.
    pub(crate) fn attend(&self, projected: &[Array; 3], heads: i32) -> Result<Array> {
        let width = projected[0].dim(1);
        let head = width / heads;
        let scale = (head as f32).powf(-0.5);
        if projected.iter().all(uses_host) {
            return attend_rows(projected, &self.starts, heads as usize, scale);
        }
        let mut parts = Vec::new();
        for group in &self.groups {
            // Rows of the same length attend together: [T', D] → [N, H, L, d].
            let split = |all: &Array| -> Result<Array> {
                let part = all.try_index(group.start..group.start + group.rows * group.length)?;
                Ok(part.reshape(&[group.rows, group.length, heads, head])?.transpose_axes(&[0, 2, 1, 3])?)
            };
            let [queries, keys, values] = projected;
            let (queries, keys, values) = (split(queries)?, split(keys)?, split(values)?);
            let attended = fast::scaled_dot_product_attention(queries, keys, values, scale, None, None)?;
            parts.push(attended.transpose_axes(&[0, 2, 1, 3])?.reshape(&[group.rows * group.length, width])?);
        }
        Ok(ops::concatenate(&parts, 0)?)
    }

    /// Returns the groups of rows of the same length.
    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }
}
