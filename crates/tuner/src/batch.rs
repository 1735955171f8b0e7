//! Batches: rows of tokens as arrays, with the targets that count.

use std::ops::Range;

use dataset::{Row, Split};
use mlx_rs::Array;
use models::Part;

use crate::batch_order::{MicroBatch, input_count};

/// The numbers of a [`Batch`] before they become arrays; any thread can make them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BatchData {
    shape: [i32; 2],
    tokens: Vec<i32>,
    segments: Option<Vec<i32>>,
    lengths: Vec<i32>,
    positions: Vec<i32>,
    targets: Vec<i32>,
    weights: Vec<f32>,
    targets_of_row: Vec<usize>,
    total_weight: f64,
    micro_batch: Option<usize>,
    slice: Option<Slice>,
}

/// Consecutive lines of a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Where the lines are among those of the micro-batch.
    pub lines: Part,
    /// Where the targets are among those of the micro-batch.
    pub targets: Part,
}

/// Rows as the model reads them, and their targets.
pub struct Batch {
    /// Tokens, `[B, L]`, `i32`, padded on the right.
    pub tokens: Array,
    /// Index of each token's row within its line, `[B, L]`, `i32`, −1 for padding; `None` with one row per line.
    pub segments: Option<Array>,
    /// Number of tokens of each line without its padding, `[B]`, `i32`.
    pub lengths: Array,
    /// Flat positions b · L + t whose next token is a target, `[N]`, `i32`, padded with positions of weight 0.
    pub positions: Array,
    /// The targets, `[N]`, `i32`.
    pub targets: Array,
    /// Weight of each target, `[N]`, `f32`.
    pub weights: Array,
    /// Number of targets per row, in the order of `positions`.
    pub targets_of_row: Vec<usize>,
    /// Sum of the weights.
    pub total_weight: f64,
    /// Index of the micro-batch in its step, which seeds its dropout; `None` if that is the place among the batches of the step.
    pub micro_batch: Option<usize>,
    /// Which part of a micro-batch this is; `None` for all of it.
    pub slice: Option<Slice>,
}

impl BatchData {
    /// Makes the numbers of one row per line.
    fn new(rows: &[Row<'_>], pad_to: usize) -> Self {
        let longest = rows.iter().map(|row| input_count(row.tokens.len())).max().unwrap_or(0);
        let length = longest.max(1).next_multiple_of(pad_to.max(1));
        let lines: Vec<&[Row<'_>]> = rows.chunks(1).collect();
        Self::of_lines(&lines, length, pad_to, false)
    }

    /// Makes the numbers of packed lines of `length` tokens.
    fn packed(lines: &[Vec<Row<'_>>], length: usize, pad_to: usize) -> Self {
        let lines: Vec<&[Row<'_>]> = lines.iter().map(Vec::as_slice).collect();
        Self::of_lines(&lines, length, pad_to, true)
    }

    /// Makes the numbers of a micro-batch; `factors` multiply the weights of rows.
    pub(crate) fn of_micro_batch(
        split: &Split,
        micro_batch: &MicroBatch,
        pad_to: usize,
        factors: Option<&[f32]>,
    ) -> Self {
        let weighted_line = |rows: &Vec<u32>| -> Vec<Row<'_>> {
            rows.iter().map(|&row| weighted_row(split, row, factors)).collect()
        };
        let lines: Vec<_> = micro_batch.lines.iter().map(weighted_line).collect();
        match micro_batch.length {
            Some(length) => Self::packed(&lines, length, pad_to),
            None => Self::new(&lines.concat(), pad_to),
        }
    }

    fn of_lines(lines: &[&[Row<'_>]], length: usize, pad_to: usize, packed: bool) -> Self {
        let shape = [lines.len() as i32, length as i32];
        let mut flat = vec![0_i32; lines.len() * length];
        let mut segments = vec![-1_i32; if packed { flat.len() } else { 0 }];
        let (mut positions, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let mut targets_of_row = Vec::new();
        let mut lengths = Vec::new();
        for (line, rows) in lines.iter().enumerate() {
            let mut start = line * length;
            for (segment, row) in rows.iter().enumerate() {
                let inputs = &row.tokens[..input_count(row.tokens.len())];
                let end = start + inputs.len();
                assert!(end <= (line + 1) * length, "the rows of a line fit");
                flat[start..end].iter_mut().zip(inputs).for_each(|(slot, &token)| *slot = token as i32);
                if packed {
                    segments[start..end].fill(segment as i32);
                }
                let before = positions.len();
                for t in (1..row.tokens.len()).filter(|&t| dataset::is_target(row.trained[t])) {
                    positions.push((start + t - 1) as i32);
                    targets.push(row.tokens[t] as i32);
                    weights.push(row.weight);
                }
                targets_of_row.push(positions.len() - before);
                start = end;
            }
            lengths.push((start - line * length) as i32);
        }
        let total_weight = weights.iter().map(|&weight| f64::from(weight)).sum();
        let count = positions.len().next_multiple_of(pad_to.max(1));
        positions.resize(count, 0);
        targets.resize(count, 0);
        weights.resize(count, 0.0);
        let segments = packed.then_some(segments);
        Self {
            shape,
            tokens: flat,
            segments,
            lengths,
            positions,
            targets,
            weights,
            targets_of_row,
            total_weight,
            micro_batch: None,
            slice: None,
        }
    }

    /// Cuts micro-batch `index` of a step into at most `count` slices of nearly as many lines. They keep the length of its lines,
    /// and the index of the micro-batch, which is no longer their place in the step.
    ///
    /// `rows_of_line` is the number of rows of each line.
    pub(crate) fn sliced(
        mut self,
        index: usize,
        count: usize,
        rows_of_line: &[usize],
        pad_to: usize,
    ) -> Vec<Self> {
        self.micro_batch = Some(index);
        let lines = rows_of_line.len();
        let count = count.min(lines);
        if count <= 1 {
            return vec![self];
        }
        let end_of = |slice: usize| slice * lines / count;
        (0..count).map(|slice| self.lines(end_of(slice)..end_of(slice + 1), rows_of_line, pad_to)).collect()
    }

    /// Returns the slice with the given lines.
    fn lines(&self, lines: Range<usize>, rows_of_line: &[usize], pad_to: usize) -> Self {
        let length = self.shape[1] as usize;
        let tokens = lines.start * length..lines.end * length;
        let first_row: usize = rows_of_line[..lines.start].iter().sum();
        let rows = first_row..first_row + rows_of_line[lines.clone()].iter().sum::<usize>();
        let first_target: usize = self.targets_of_row[..rows.start].iter().sum();
        let targets_of_row = self.targets_of_row[rows].to_vec();
        let targets = first_target..first_target + targets_of_row.iter().sum::<usize>();
        let count = targets.len().next_multiple_of(pad_to.max(1));
        let mut positions: Vec<i32> =
            self.positions[targets.clone()].iter().map(|position| position - tokens.start as i32).collect();
        let (mut of_targets, mut weights) =
            (self.targets[targets.clone()].to_vec(), self.weights[targets.clone()].to_vec());
        let total_weight = weights.iter().map(|&weight| f64::from(weight)).sum();
        positions.resize(count, 0);
        of_targets.resize(count, 0);
        weights.resize(count, 0.0);
        let part = |first: usize, whole: usize| Part { first: first as i32, whole: whole as i32 };
        Self {
            shape: [lines.len() as i32, self.shape[1]],
            tokens: self.tokens[tokens.clone()].to_vec(),
            segments: self.segments.as_ref().map(|segments| segments[tokens].to_vec()),
            lengths: self.lengths[lines.clone()].to_vec(),
            positions,
            targets: of_targets,
            weights,
            targets_of_row,
            total_weight,
            micro_batch: self.micro_batch,
            slice: Some(Slice {
                lines: part(lines.start, rows_of_line.len()),
                targets: part(first_target, self.positions.len()),
            }),
        }
    }
}

impl From<BatchData> for Batch {
    fn from(data: BatchData) -> Self {
        let count = [data.positions.len() as i32];
        Self {
            tokens: Array::from_slice(&data.tokens, &data.shape),
            segments: data.segments.map(|segments| Array::from_slice(&segments, &data.shape)),
            lengths: Array::from_slice(&data.lengths, &[data.lengths.len() as i32]),
            positions: Array::from_slice(&data.positions, &count),
            targets: Array::from_slice(&data.targets, &count),
            weights: Array::from_slice(&data.weights, &count),
            targets_of_row: data.targets_of_row,
            total_weight: data.total_weight,
            micro_batch: data.micro_batch,
            slice: data.slice,
        }
    }
}

impl Batch {
    /// Makes a batch with one row per line.
    ///
    /// Lines are padded to the longest row, rounded up to a multiple of `pad_to`, and so is the number of targets, so
    /// that few array shapes occur. The last token of a row is only a target and never an input.
    pub fn new(rows: &[Row<'_>], pad_to: usize) -> Self {
        BatchData::new(rows, pad_to).into()
    }

    /// Makes a batch of lines of `length` tokens, each with several rows that do not see each other.
    ///
    /// # Panics
    ///
    /// Panics if the rows of a line do not fit.
    pub fn packed(lines: &[Vec<Row<'_>>], length: usize, pad_to: usize) -> Self {
        BatchData::packed(lines, length, pad_to).into()
    }

    /// Makes a batch of the given rows of a split, one row per line.
    pub fn of_rows(split: &Split, rows: &[u32], pad_to: usize) -> Self {
        let rows: Vec<_> = rows.iter().map(|&row| split.row(row as usize)).collect();
        Self::new(&rows, pad_to)
    }

    /// Makes the batch of a micro-batch; `factors` multiply the weights of rows.
    pub fn of_micro_batch(
        split: &Split,
        micro_batch: &MicroBatch,
        pad_to: usize,
        factors: Option<&[f32]>,
    ) -> Self {
        BatchData::of_micro_batch(split, micro_batch, pad_to, factors).into()
    }

    /// Returns the number of targets.
    pub fn target_count(&self) -> usize {
        self.targets_of_row.iter().sum()
    }
}

/// Returns a row of `split` with its weight multiplied by its factor.
fn weighted_row<'a>(split: &'a Split, row: u32, factors: Option<&[f32]>) -> Row<'a> {
    let factor = factors.map_or(1.0, |factors| factors[row as usize]);
    let row = split.row(row as usize);
    Row { weight: row.weight * factor, ..row }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(tokens: &'a [u32], trained: &'a [u8], weight: f32) -> Row<'a> {
        Row { tokens, trained, weight, prompt_length: 0 }
    }

    #[test]
    fn targets_are_the_next_tokens_of_positions_that_count() {
        let rows = [row(&[5, 6, 7], &[0, 0, 1], 1.0), row(&[8, 9], &[0, 1], 2.0)];
        let batch = Batch::new(&rows, 1);
        assert_eq!(batch.tokens.as_slice::<i32>(), &[5, 6, 8, 0]);
        assert_eq!(batch.positions.as_slice::<i32>(), &[1, 2]);
        assert_eq!(batch.targets.as_slice::<i32>(), &[7, 9]);
        assert_eq!(batch.weights.as_slice::<f32>(), &[1.0, 2.0]);
        assert_eq!(batch.targets_of_row, [1, 1]);
        assert!((batch.total_weight - 3.0).abs() < 1e-12);
    }

    #[test]
    fn rows_of_a_line_have_own_segments_and_padding_has_no_weight() {
        let lines = [
            vec![row(&[5, 6, 7], &[0, 0, 1], 1.0), row(&[8, 9], &[0, 1], 2.0)],
            vec![row(&[3, 4], &[0, 1], 0.5)],
        ];
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

    #[test]
    fn slices_are_the_lines_of_the_batch() {
        let lines = [
            vec![row(&[5, 6, 7], &[0, 0, 1], 1.0), row(&[8, 9], &[0, 1], 2.0)],
            vec![row(&[3, 4], &[0, 1], 0.5)],
            vec![row(&[1, 2, 3], &[0, 1, 1], 1.0)],
        ];
        let whole = BatchData::packed(&lines, 4, 2);
        let slices = whole.clone().sliced(7, 2, &[2, 1, 1], 2);
        assert_eq!(slices.iter().map(|slice| slice.shape).collect::<Vec<_>>(), [[1, 4], [2, 4]]);
        let tokens: Vec<i32> = slices.iter().flat_map(|slice| slice.tokens.clone()).collect();
        assert_eq!(tokens, whole.tokens);
        assert_eq!(slices[0].positions, [1, 2]);
        assert_eq!(slices[1].positions, [0, 4, 5, 0]);
        assert_eq!(slices[1].targets, [4, 2, 3, 0]);
        assert_eq!(slices[1].weights, [0.5, 1.0, 1.0, 0.0]);
        assert_eq!(slices[1].targets_of_row, [1, 2]);
        let place = slices[1].slice.expect("a slice");
        assert_eq!((slices[1].micro_batch, place.lines), (Some(7), Part { first: 1, whole: 3 }));
        assert_eq!(place.targets, Part { first: 2, whole: 6 });
        // More slices than lines, and a whole batch.
        assert_eq!(whole.clone().sliced(0, 9, &[2, 1, 1], 2).len(), 3);
        assert_eq!(whole.clone().sliced(7, 1, &[2, 1, 1], 2), [BatchData { micro_batch: Some(7), ..whole }]);
    }
}
