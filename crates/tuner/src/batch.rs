//! Rows of tokens as arrays: what goes to the model, and the targets that count.

use crate::plan::MicroBatch;
use dataset::Split;
use mlx_rs::Array;

/// What a [`Batch`] holds before it becomes arrays: any thread can make it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BatchData {
    shape: [i32; 2],
    tokens: Vec<i32>,
    segments: Option<Vec<i32>>,
    positions: Vec<i32>,
    targets: Vec<i32>,
    weights: Vec<f32>,
    targets_of_row: Vec<usize>,
    total_weight: f64,
}

/// A row as it goes into a batch: its tokens, 1 where a token counts as a target, and the weight of its targets.
pub type Part<'a> = (&'a [u32], &'a [u8], f32);

/// Rows as the model reads them, and the targets that count.
pub struct Batch {
    /// `[B, L]`, `i32`, padded on the right.
    pub tokens: Array,
    /// `[B, L]`, `i32`: which row of its line a token belongs to, −1 for padding; `None` with one row a line.
    pub segments: Option<Array>,
    /// Flat positions b · L + t whose next token counts, `[N]`, `i32`, padded with positions of no weight.
    pub positions: Array,
    /// Those next tokens, `[N]`, `i32`.
    pub targets: Array,
    /// The weight of each, `[N]`, `f32`.
    pub weights: Array,
    /// How many targets each row has, in the order of `positions`.
    pub targets_of_row: Vec<usize>,
    /// Sum of the weights.
    pub total_weight: f64,
}

impl BatchData {
    /// One row a line.
    fn new(rows: &[Part<'_>], pad_to: usize) -> Self {
        let longest = rows.iter().map(|(tokens, _, _)| inputs_of(tokens.len())).max().unwrap_or(0);
        let length = longest.max(1).next_multiple_of(pad_to.max(1));
        let lines: Vec<&[Part<'_>]> = rows.chunks(1).collect();
        Self::of_lines(&lines, length, pad_to, false)
    }

    fn packed(lines: &[Vec<Part<'_>>], length: usize, pad_to: usize) -> Self {
        let lines: Vec<&[Part<'_>]> = lines.iter().map(Vec::as_slice).collect();
        Self::of_lines(&lines, length, pad_to, true)
    }

    /// What a planned micro-batch reads; `factors` multiply the weights of rows.
    pub(crate) fn of_micro_batch(
        split: &Split,
        micro: &MicroBatch,
        pad_to: usize,
        factors: Option<&[f32]>,
    ) -> Self {
        let line = |rows: &Vec<u32>| rows.iter().map(|&row| part(split, row, factors)).collect::<Vec<_>>();
        let lines: Vec<_> = micro.lines.iter().map(line).collect();
        match micro.length {
            Some(length) => Self::packed(&lines, length, pad_to),
            None => Self::new(&lines.concat(), pad_to),
        }
    }

    fn of_lines(lines: &[&[Part<'_>]], length: usize, pad_to: usize, packed: bool) -> Self {
        let shape = [lines.len() as i32, length as i32];
        let mut flat = vec![0_i32; lines.len() * length];
        let mut segments = vec![-1_i32; if packed { flat.len() } else { 0 }];
        let (mut positions, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let mut targets_of_row = Vec::new();
        for (line, rows) in lines.iter().enumerate() {
            let mut start = line * length;
            for (segment, (tokens, trained, weight)) in rows.iter().enumerate() {
                let inputs = &tokens[..inputs_of(tokens.len())];
                let end = start + inputs.len();
                assert!(end <= (line + 1) * length, "the rows of a line fit");
                flat[start..end].iter_mut().zip(inputs).for_each(|(slot, &token)| *slot = token as i32);
                if packed {
                    segments[start..end].fill(segment as i32);
                }
                let before = positions.len();
                for t in (1..tokens.len()).filter(|&t| trained[t] != 0) {
                    positions.push((start + t - 1) as i32);
                    targets.push(tokens[t] as i32);
                    weights.push(*weight);
                }
                targets_of_row.push(positions.len() - before);
                start = end;
            }
        }
        let total_weight = weights.iter().map(|&weight| f64::from(weight)).sum();
        let count = positions.len().next_multiple_of(pad_to.max(1));
        positions.resize(count, 0);
        targets.resize(count, 0);
        weights.resize(count, 0.0);
        let segments = packed.then_some(segments);
        Self { shape, tokens: flat, segments, positions, targets, weights, targets_of_row, total_weight }
    }
}

impl From<BatchData> for Batch {
    fn from(data: BatchData) -> Self {
        let count = [data.positions.len() as i32];
        Self {
            tokens: Array::from_slice(&data.tokens, &data.shape),
            segments: data.segments.map(|segments| Array::from_slice(&segments, &data.shape)),
            positions: Array::from_slice(&data.positions, &count),
            targets: Array::from_slice(&data.targets, &count),
            weights: Array::from_slice(&data.weights, &count),
            targets_of_row: data.targets_of_row,
            total_weight: data.total_weight,
        }
    }
}

impl Batch {
    /// Makes a batch of one row a line.
    ///
    /// Lines are padded to the longest, rounded up to `pad_to`, and so is the number of targets: few shapes of arrays
    /// come again and again. The last token of a row is never read: it is only a target.
    pub fn new(rows: &[Part<'_>], pad_to: usize) -> Self {
        BatchData::new(rows, pad_to).into()
    }

    /// Makes a batch of lines of `length` tokens, each of which holds one row after another; no row reads another.
    ///
    /// # Panics
    ///
    /// When the rows of a line do not fit.
    pub fn packed(lines: &[Vec<Part<'_>>], length: usize, pad_to: usize) -> Self {
        BatchData::packed(lines, length, pad_to).into()
    }

    /// Makes a batch of rows of a split, one a line.
    pub fn of_rows(split: &Split, rows: &[u32], pad_to: usize) -> Self {
        let parts: Vec<_> = rows.iter().map(|&row| part(split, row, None)).collect();
        Self::new(&parts, pad_to)
    }

    /// Makes the batch of a planned micro-batch; `factors` multiply the weights of rows.
    pub fn of_micro_batch(split: &Split, micro: &MicroBatch, pad_to: usize, factors: Option<&[f32]>) -> Self {
        BatchData::of_micro_batch(split, micro, pad_to, factors).into()
    }

    /// How many targets count.
    pub fn target_count(&self) -> usize {
        self.targets_of_row.iter().sum()
    }
}

/// Tokens of a row that are read.
fn inputs_of(tokens: usize) -> usize {
    tokens.saturating_sub(1)
}

fn part<'a>(split: &'a Split, row: u32, factors: Option<&[f32]>) -> Part<'a> {
    let factor = factors.map_or(1.0, |factors| factors[row as usize]);
    let row = split.row(row as usize);
    (row.tokens, row.trained, row.weight * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_next_tokens_of_positions_that_count() {
        let rows: [(&[u32], &[u8], f32); 2] = [(&[5, 6, 7], &[0, 0, 1], 1.0), (&[8, 9], &[0, 1], 2.0)];
        let batch = Batch::new(&rows, 1);
        assert_eq!(batch.tokens.as_slice::<i32>(), &[5, 6, 8, 0]);
        assert_eq!(batch.positions.as_slice::<i32>(), &[1, 2]);
        assert_eq!(batch.targets.as_slice::<i32>(), &[7, 9]);
        assert_eq!(batch.weights.as_slice::<f32>(), &[1.0, 2.0]);
        assert_eq!(batch.targets_of_row, [1, 1]);
        assert!((batch.total_weight - 3.0).abs() < 1e-12);
    }

    #[test]
    fn rows_of_a_line_keep_apart_and_padding_carries_no_weight() {
        let lines: [Vec<Part<'_>>; 2] =
            [vec![(&[5, 6, 7], &[0, 0, 1], 1.0), (&[8, 9], &[0, 1], 2.0)], vec![(&[3, 4], &[0, 1], 0.5)]];
        let batch = Batch::packed(&lines, 4, 4);
        assert_eq!(batch.tokens.as_slice::<i32>(), &[5, 6, 8, 0, 3, 0, 0, 0]);
        let segments = batch.segments.expect("packed");
        assert_eq!(segments.as_slice::<i32>(), &[0, 0, 1, -1, 0, -1, -1, -1]);
        assert_eq!(batch.positions.as_slice::<i32>(), &[1, 2, 4, 0]);
        assert_eq!(batch.targets.as_slice::<i32>(), &[7, 9, 4, 0]);
        assert_eq!(batch.weights.as_slice::<f32>(), &[1.0, 2.0, 0.5, 0.0]);
        assert_eq!(batch.targets_of_row, [1, 1, 1]);
        assert!((batch.total_weight - 3.5).abs() < 1e-12);
    }
}
