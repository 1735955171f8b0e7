//! The order of batches: which rows each step trains on, as a pure function of the step.

use std::ops::Range;

use dataset::order::permutation;

use crate::error::{Error, Result};
use crate::mixture::Mixture;

/// Rows of one forward and backward pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicroBatch {
    /// Indices of the rows of each line.
    pub lines: Vec<Vec<u32>>,
    /// Tokens per packed line; `None` with one row per line.
    pub length: Option<usize>,
    /// Epoch, counted from 0.
    pub epoch: u64,
}

impl MicroBatch {
    /// Iterates over the indices of all rows.
    pub fn rows(&self) -> impl Iterator<Item = u32> {
        self.lines.iter().flatten().copied()
    }
}

/// A curriculum: rows from easy to hard.
#[derive(Debug, Clone, PartialEq)]
pub struct Curriculum {
    /// Hardness of each row; low values come first.
    pub hardness: Vec<f32>,
    /// Number of epochs in this order; later ones are shuffled. 0 for all.
    pub epochs: usize,
}

/// Micro-batches in a pool that is sorted by length: enough for little padding, few enough to stay random.
const BATCHES_PER_POOL: usize = 32;

/// Number of lines that packing keeps open; the oldest is closed first.
const OPEN_LINES: usize = 64;

/// The order of all rows over all epochs.
///
/// An epoch shuffles the rows, cuts them into micro-batches and shuffles those. Each row occurs once per epoch, unless a
/// [`Mixture`] decides otherwise. With one row per line, pools of rows are sorted by length before the cut, and the last
/// micro-batch of an epoch may be smaller. With packing, each row goes to the first open line with enough room, and all
/// lines have the same length. In the epochs of a [`Curriculum`], rows and micro-batches keep its order; rows of equal
/// hardness are in random order.
///
/// An epoch takes 8 to 16 bytes per row, and only one is in memory.
pub struct BatchOrder {
    lengths: Vec<u32>,
    batch_size: usize,
    seed: u64,
    /// Tokens per packed line.
    length: Option<usize>,
    mixture: Option<Mixture>,
    curriculum: Option<Curriculum>,
    /// Index of the first micro-batch of each epoch reached so far; packed epochs differ in length.
    starts: Vec<usize>,
    epoch: Option<(u64, Epoch)>,
}

/// Micro-batches of an epoch in flat arrays.
struct Epoch {
    rows: Vec<u32>,
    /// Index in `rows` where each line starts, and the end of the last; `None` with one row per line.
    lines: Option<Vec<u32>>,
    /// First and end line of each micro-batch, in the order of the steps.
    batches: Vec<(u32, u32)>,
}

impl Epoch {
    /// Returns the rows of each line of a micro-batch.
    fn micro_batch(&self, index: usize) -> Vec<Vec<u32>> {
        let (first, end) = self.batches[index];
        (first..end).map(|line| self.rows[self.line(line as usize)].to_vec()).collect()
    }

    /// Returns the number of rows in the first `count` micro-batches.
    fn rows_in(&self, count: usize) -> usize {
        let rows_of = |&(first, end): &(u32, u32)| match &self.lines {
            Some(starts) => starts[end as usize] - starts[first as usize],
            None => end - first,
        };
        self.batches[..count].iter().map(|batch| rows_of(batch) as usize).sum()
    }

    /// Returns the range of a line in `rows`.
    fn line(&self, line: usize) -> Range<usize> {
        match &self.lines {
            Some(starts) => starts[line] as usize..starts[line + 1] as usize,
            None => line..line + 1,
        }
    }
}

impl BatchOrder {
    /// Orders rows of the given lengths, `batch_size` rows per micro-batch.
    ///
    /// # Errors
    ///
    /// Fails without rows.
    pub fn new(lengths: Vec<u32>, batch_size: usize, seed: u64) -> Result<Self> {
        if lengths.is_empty() {
            return Err(Error::NoTargets { split: "train".to_owned() });
        }
        Ok(Self {
            lengths,
            batch_size: batch_size.max(1),
            seed,
            length: None,
            mixture: None,
            curriculum: None,
            starts: vec![0],
            epoch: None,
        })
    }

    /// Orders rows packed into lines of `length` tokens, `batch_size` lines per micro-batch.
    ///
    /// # Errors
    ///
    /// Fails without rows, and when a row is longer than a line.
    pub fn packed(lengths: Vec<u32>, batch_size: usize, length: usize, seed: u64) -> Result<Self> {
        if let Some(row) = lengths.iter().position(|&tokens| input_count(tokens as usize) > length) {
            return Err(Error::settings(
                format!(
                    "row {row} of the training split has {} tokens, but a packed line only {length}",
                    input_count(lengths[row] as usize)
                ),
                "raise `pack_tokens`, or lower `max_tokens` of prepare-data",
            ));
        }
        Ok(Self { length: Some(length), ..Self::new(lengths, batch_size, seed)? })
    }

    /// Draws the rows of every epoch from a mixture.
    ///
    /// # Panics
    ///
    /// Panics if the components have another number of rows in total.
    #[must_use]
    pub fn mixed(self, mixture: Mixture) -> Self {
        assert_eq!(mixture.rows(), self.lengths.len(), "the components contain all rows");
        Self { mixture: Some(mixture), starts: vec![0], epoch: None, ..self }
    }

    /// Orders rows by a curriculum.
    ///
    /// # Panics
    ///
    /// Panics if the number of rows differs.
    #[must_use]
    pub fn in_order(self, curriculum: Curriculum) -> Self {
        assert_eq!(curriculum.hardness.len(), self.lengths.len(), "every row has a hardness");
        Self { curriculum: Some(curriculum), starts: vec![0], epoch: None, ..self }
    }

    /// Returns the number of micro-batches in the first `epochs` epochs.
    pub fn batches_in(&mut self, epochs: usize) -> usize {
        if self.length.is_none() {
            return epochs.saturating_mul(self.lengths.len().div_ceil(self.batch_size));
        }
        while self.starts.len() <= epochs {
            let epoch = self.starts.len() as u64 - 1;
            let count = self.load_epoch(epoch).batches.len();
            self.starts.push(self.starts[epoch as usize] + count);
        }
        self.starts[epochs]
    }

    /// Returns the micro-batch at `index`, counted from 0 over all epochs.
    pub fn at(&mut self, index: usize) -> MicroBatch {
        let epoch = self.epoch_of(index);
        let start = self.batches_in(epoch);
        let lines = self.load_epoch(epoch as u64).micro_batch(index - start);
        MicroBatch { lines, length: self.length, epoch: epoch as u64 }
    }

    /// Returns the number of steps in the first `epochs` epochs, with at most `accumulation` micro-batches per step.
    ///
    /// No step spans two epochs: the last step of an epoch takes the micro-batches that are left.
    pub fn steps_in(&mut self, epochs: usize, accumulation: usize) -> usize {
        if self.length.is_none() {
            return epochs.saturating_mul(self.batches_in(1).div_ceil(accumulation));
        }
        self.batches_in(epochs);
        self.starts[..=epochs].windows(2).map(|pair| (pair[1] - pair[0]).div_ceil(accumulation)).sum()
    }

    /// Returns the micro-batches of `step`, counted from 0; see [`BatchOrder::steps_in`].
    pub fn batches_of_step(&mut self, step: usize, accumulation: usize) -> Range<usize> {
        let (mut epoch, mut first_step) = (0, 0);
        if self.length.is_none() {
            let steps = self.steps_in(1, accumulation);
            epoch = step / steps;
            first_step = epoch * steps;
        } else {
            loop {
                let steps = (self.batches_in(epoch + 1) - self.batches_in(epoch)).div_ceil(accumulation);
                if first_step + steps > step {
                    break;
                }
                first_step += steps;
                epoch += 1;
            }
        }
        let first = self.batches_in(epoch) + (step - first_step) * accumulation;
        first..first.saturating_add(accumulation).min(self.batches_in(epoch + 1))
    }

    /// Returns the number of epochs that the first `batches` micro-batches make, as a fraction of rows.
    pub fn epochs_after(&mut self, batches: usize) -> f64 {
        let epoch = self.epoch_of(batches);
        let taken = batches - self.batches_in(epoch);
        if taken == 0 {
            return epoch as f64;
        }
        let rows = self.load_epoch(epoch as u64);
        epoch as f64 + rows.rows_in(taken) as f64 / rows.rows.len() as f64
    }

    /// Returns the epoch that the micro-batch at `index` belongs to.
    fn epoch_of(&mut self, index: usize) -> usize {
        if self.length.is_none() {
            return index / self.batches_in(1);
        }
        while *self.starts.last().expect("the first epoch is always known") <= index {
            self.batches_in(self.starts.len());
        }
        self.starts.partition_point(|&start| start <= index) - 1
    }

    /// Returns an epoch, made now unless it is the one in memory.
    fn load_epoch(&mut self, epoch: u64) -> &Epoch {
        if self.epoch.as_ref().is_none_or(|(made, _)| *made != epoch) {
            // The old one is dropped first, so that two are never in memory.
            self.epoch = None;
            self.epoch = Some((epoch, self.make_epoch(epoch)));
        }
        &self.epoch.as_ref().expect("made above").1
    }

    fn make_epoch(&mut self, epoch: u64) -> Epoch {
        let mut rows = match &mut self.mixture {
            Some(mixture) => mixture.rows_of(epoch),
            None => permutation(self.seed, "rows", epoch, self.lengths.len()),
        };
        let curriculum = self.curriculum.as_ref().filter(|c| c.epochs == 0 || epoch < c.epochs as u64);
        if let Some(Curriculum { hardness, .. }) = curriculum {
            rows.sort_by(|&a, &b| hardness[a as usize].total_cmp(&hardness[b as usize]));
        }
        let in_order = curriculum.is_some();
        let (rows, lines) = match self.length {
            Some(length) => {
                let (rows, lines) = self.pack(&rows, length);
                (rows, Some(lines))
            }
            None if in_order => (rows, None),
            None => (self.sort_pools(rows), None),
        };
        let line_count = lines.as_ref().map_or(rows.len(), |starts| starts.len() - 1) as u32;
        let size = self.batch_size.min(u32::MAX as usize) as u32;
        let cut = |batch: u32| (batch * size, (batch * size).saturating_add(size).min(line_count));
        let count = line_count.div_ceil(size);
        let batches = if in_order {
            (0..count).map(cut).collect()
        } else {
            permutation(self.seed, "micro-batches", epoch, count as usize).into_iter().map(cut).collect()
        };
        Epoch { rows, lines, batches }
    }

    /// Sorts pools of rows by length.
    fn sort_pools(&self, mut rows: Vec<u32>) -> Vec<u32> {
        for pool in rows.chunks_mut(self.batch_size.saturating_mul(BATCHES_PER_POOL)) {
            pool.sort_by_key(|&row| self.lengths[row as usize]);
        }
        rows
    }

    /// Packs rows into lines by first fit over a bounded number of open lines; returns the rows line by line and the index of
    /// the start of each line.
    fn pack(&self, rows: &[u32], length: usize) -> (Vec<u32>, Vec<u32>) {
        let mut line_of = Vec::with_capacity(rows.len());
        let mut open: Vec<(u32, usize)> = Vec::new();
        let mut sizes: Vec<u32> = Vec::new();
        for &row in rows {
            let room = input_count(self.lengths[row as usize] as usize);
            if let Some(index) = open.iter().position(|&(_, left)| left >= room) {
                let (line, left) = &mut open[index];
                *left -= room;
                sizes[*line as usize] += 1;
                line_of.push(*line);
                if *left == 0 {
                    open.remove(index);
                }
                continue;
            }
            if open.len() == OPEN_LINES {
                open.remove(0);
            }
            open.push((sizes.len() as u32, length - room));
            line_of.push(sizes.len() as u32);
            sizes.push(1);
        }
        sizes.push(0);
        let mut starts = sizes;
        let mut next = 0;
        for start in &mut starts {
            next += std::mem::replace(start, next);
        }
        let mut packed = vec![0; rows.len()];
        let mut free = starts.clone();
        for (&row, line) in rows.iter().zip(line_of) {
            packed[free[line as usize] as usize] = row;
            free[line as usize] += 1;
        }
        (packed, starts)
    }
}

/// Returns the number of tokens of a row that the model reads: all but the last.
pub(crate) fn input_count(tokens: usize) -> usize {
    tokens.saturating_sub(1)
}

#[cfg(test)]
mod tests;
