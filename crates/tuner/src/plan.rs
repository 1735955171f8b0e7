//! Which rows make a step: an order of all rows over all epochs, as a function of the position alone.

use crate::error::{Error, Result};

/// The rows of one forward and backward pass, and the epoch they belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicroBatch {
    /// Row numbers, line by line.
    pub lines: Vec<Vec<u32>>,
    /// Tokens of a packed line; `None` with one row a line.
    pub length: Option<usize>,
    /// Counted from 0.
    pub epoch: u64,
}

impl MicroBatch {
    /// All row numbers.
    pub fn rows(&self) -> impl Iterator<Item = u32> {
        self.lines.iter().flatten().copied()
    }
}

/// How many micro-batches are sorted by length together: enough for tight buckets, few enough to stay random.
const BATCHES_PER_POOL: usize = 32;

/// Lines that are tried for a row before the oldest is closed.
const OPEN_LINES: usize = 64;

/// The order of all rows over all epochs.
///
/// An epoch shuffles the rows, cuts them into micro-batches and shuffles those; each row comes exactly once an epoch.
/// One row a line, pools of rows are sorted by length before the cut, and the last micro-batch of an epoch may be
/// smaller. Packed, each row goes to the first open line with room for it, and all lines are equally long.
pub struct BatchPlan {
    lengths: Vec<u32>,
    batch_size: usize,
    seed: u64,
    /// Tokens of a packed line.
    length: Option<usize>,
    /// Where each epoch begins, as far as that is known; packed epochs differ in length.
    starts: Vec<usize>,
    epoch: Option<(u64, Vec<Vec<Vec<u32>>>)>,
}

impl BatchPlan {
    /// Plans over rows of the given lengths, `batch_size` rows at a time.
    ///
    /// # Errors
    ///
    /// Fails when there is no row.
    pub fn new(lengths: Vec<u32>, batch_size: usize, seed: u64) -> Result<Self> {
        if lengths.is_empty() {
            return Err(Error::NothingToLearn { split: "train".to_owned() });
        }
        Ok(Self { lengths, batch_size: batch_size.max(1), seed, length: None, starts: vec![0], epoch: None })
    }

    /// Plans over rows packed into lines of `length` tokens, `batch_size` lines at a time.
    ///
    /// # Errors
    ///
    /// Fails when there is no row, or one that does not fit.
    pub fn packed(lengths: Vec<u32>, batch_size: usize, length: usize, seed: u64) -> Result<Self> {
        if let Some(row) = lengths.iter().position(|&tokens| room_of(tokens) > length) {
            return Err(Error::Settings(format!(
                "row {row} of the training split has {} tokens, more than a packed line of {length} holds\n\
                 hint: raise `pack_tokens`, or lower `max_tokens` of prepare-data",
                room_of(lengths[row])
            )));
        }
        Ok(Self { length: Some(length), ..Self::new(lengths, batch_size, seed)? })
    }

    /// Micro-batches in the first `epochs` epochs.
    pub fn batches_in(&mut self, epochs: usize) -> usize {
        if self.length.is_none() {
            return epochs * self.lengths.len().div_ceil(self.batch_size);
        }
        while self.starts.len() <= epochs {
            let epoch = self.starts.len() as u64 - 1;
            let count = self.of_epoch(epoch).len();
            self.starts.push(self.starts[epoch as usize] + count);
        }
        self.starts[epochs]
    }

    /// The micro-batch at `index`, counted from 0 over all epochs.
    pub fn at(&mut self, index: usize) -> MicroBatch {
        let epoch = self.epoch_of(index);
        let start = self.batches_in(epoch);
        let lines = self.of_epoch(epoch as u64)[index - start].clone();
        MicroBatch { lines, length: self.length, epoch: epoch as u64 }
    }

    /// How many epochs the first `batches` micro-batches are.
    pub fn epochs_after(&mut self, batches: usize) -> f64 {
        let epoch = self.epoch_of(batches);
        let (start, end) = (self.batches_in(epoch), self.batches_in(epoch + 1));
        epoch as f64 + (batches - start) as f64 / (end - start) as f64
    }

    fn epoch_of(&mut self, index: usize) -> usize {
        if self.length.is_none() {
            return index / self.batches_in(1);
        }
        while *self.starts.last().expect("begins with 0") <= index {
            self.batches_in(self.starts.len());
        }
        self.starts.partition_point(|&start| start <= index) - 1
    }

    fn of_epoch(&mut self, epoch: u64) -> &[Vec<Vec<u32>>] {
        if self.epoch.as_ref().is_none_or(|(made, _)| *made != epoch) {
            self.epoch = Some((epoch, self.make_epoch(epoch)));
        }
        &self.epoch.as_ref().expect("made above").1
    }

    fn make_epoch(&self, epoch: u64) -> Vec<Vec<Vec<u32>>> {
        let rows = dataset::order::permutation(self.seed, "rows", epoch, self.lengths.len());
        let mut batches: Vec<Vec<Vec<u32>>> = match self.length {
            Some(length) => {
                self.pack(&rows, length).chunks(self.batch_size).map(<[Vec<u32>]>::to_vec).collect()
            }
            None => self.buckets(&rows),
        };
        let order = dataset::order::permutation(self.seed, "micro-batches", epoch, batches.len());
        order.iter().map(|&index| std::mem::take(&mut batches[index as usize])).collect()
    }

    fn buckets(&self, rows: &[u32]) -> Vec<Vec<Vec<u32>>> {
        let mut batches = Vec::new();
        for pool in rows.chunks(self.batch_size * BATCHES_PER_POOL) {
            let mut pool = pool.to_vec();
            pool.sort_by_key(|&row| self.lengths[row as usize]);
            batches
                .extend(pool.chunks(self.batch_size).map(|rows| rows.iter().map(|&row| vec![row]).collect()));
        }
        batches
    }

    /// First fit, over a bounded number of open lines.
    fn pack(&self, rows: &[u32], length: usize) -> Vec<Vec<u32>> {
        let mut lines: Vec<Vec<u32>> = Vec::new();
        let mut open: Vec<(usize, usize)> = Vec::new();
        for &row in rows {
            let room = room_of(self.lengths[row as usize]);
            if let Some(index) = open.iter().position(|&(_, left)| left >= room) {
                let (line, left) = &mut open[index];
                lines[*line].push(row);
                *left -= room;
                if *left == 0 {
                    open.remove(index);
                }
                continue;
            }
            if open.len() == OPEN_LINES {
                open.remove(0);
            }
            open.push((lines.len(), length - room));
            lines.push(vec![row]);
        }
        lines
    }
}

/// Tokens of a row that are read: the last is only a target.
fn room_of(tokens: u32) -> usize {
    tokens.saturating_sub(1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(rows: u32) -> Vec<u32> {
        (0..rows).map(|row| (row * 7919) % 50 + 1).collect()
    }

    #[test]
    fn an_epoch_sees_each_row_once_and_epochs_differ() -> Result<()> {
        for (rows, batch_size) in [(1, 4), (7, 2), (100, 8), (1000, 7)] {
            let plans = [
                BatchPlan::new(lengths(rows), batch_size, 3)?,
                BatchPlan::packed(lengths(rows), batch_size, 64, 3)?,
            ];
            for mut plan in plans {
                let mut epochs = Vec::new();
                for epoch in 0..3 {
                    let range = plan.batches_in(epoch)..plan.batches_in(epoch + 1);
                    let mut seen = Vec::new();
                    for index in range {
                        let micro = plan.at(index);
                        assert_eq!(micro.epoch, epoch as u64);
                        assert!(micro.lines.len() <= batch_size);
                        seen.extend(micro.rows());
                    }
                    epochs.push(seen.clone());
                    seen.sort_unstable();
                    assert_eq!(seen, (0..rows).collect::<Vec<_>>());
                }
                assert!(rows < 7 || epochs[0] != epochs[1]);
            }
        }
        Ok(())
    }

    #[test]
    fn a_plan_can_be_entered_anywhere() -> Result<()> {
        for length in [None, Some(24)] {
            let plan = || match length {
                None => BatchPlan::new((1..=20).collect(), 3, 9),
                Some(length) => BatchPlan::packed((1..=20).collect(), 3, length, 9),
            };
            let all: Vec<MicroBatch> =
                (0..30).map(|index| plan().map(|mut plan| plan.at(index))).collect::<Result<_>>()?;
            let mut plan = plan()?;
            assert!((0..30).rev().all(|index| plan.at(index) == all[index]));
            let share = plan.epochs_after(30);
            assert!(share >= all[29].epoch as f64 && share <= all[29].epoch as f64 + 1.0);
        }
        Ok(())
    }

    #[test]
    fn rows_of_a_micro_batch_are_of_like_length() -> Result<()> {
        let lengths: Vec<u32> = (0..256).map(|row| (row * 97) % 256 + 1).collect();
        let mut plan = BatchPlan::new(lengths.clone(), 8, 1)?;
        let padded: u32 = (0..plan.batches_in(1))
            .map(|index| {
                let micro = plan.at(index);
                micro.rows().map(|row| lengths[row as usize]).max().unwrap_or(0) * micro.lines.len() as u32
            })
            .sum();
        let real: u32 = lengths.iter().sum();
        assert!(f64::from(padded) < 1.05 * f64::from(real), "{padded} positions for {real} tokens");
        Ok(())
    }

    #[test]
    fn packed_lines_are_nearly_full_and_never_too_full() -> Result<()> {
        let lengths = lengths(2000);
        let mut plan = BatchPlan::packed(lengths.clone(), 4, 128, 1)?;
        let (mut real, mut lines) = (0, 0);
        for index in 0..plan.batches_in(1) {
            for line in plan.at(index).lines {
                let filled: usize = line.iter().map(|&row| room_of(lengths[row as usize])).sum();
                assert!(filled <= 128);
                real += filled;
                lines += 1;
            }
        }
        assert!(real as f64 > 0.95 * f64::from(lines * 128), "{real} tokens in {lines} lines");
        Ok(())
    }

    #[test]
    fn a_row_that_fits_no_line_is_an_error() {
        let error = BatchPlan::packed(vec![3, 40], 1, 16, 0).err().expect("it does not fit");
        assert!(error.to_string().contains("row 1"), "{error}");
    }
}
