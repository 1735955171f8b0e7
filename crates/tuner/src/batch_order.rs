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
        if let Some(row) = lengths.iter().position(|&tokens| input_count(tokens) > length) {
            return Err(Error::settings(
                format!(
                    "row {row} of the training split has {} tokens, but a packed line only {length}",
                    input_count(lengths[row])
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
            return epochs * self.lengths.len().div_ceil(self.batch_size);
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
            return epochs * self.batches_in(1).div_ceil(accumulation);
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
        first..(first + accumulation).min(self.batches_in(epoch + 1))
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
            let room = input_count(self.lengths[row as usize]);
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
fn input_count(tokens: u32) -> usize {
    tokens.saturating_sub(1) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dataset::MixtureComponent;
    use proptest::prelude::*;

    use super::*;

    /// Computes an epoch literally as documented, without saving memory.
    fn plain_epoch(order: &BatchOrder, epoch: u64) -> Vec<Vec<Vec<u32>>> {
        let rows = permutation(order.seed, "rows", epoch, order.lengths.len());
        let lines: Vec<Vec<u32>> = if let Some(length) = order.length {
            let (mut lines, mut open) = (Vec::<Vec<u32>>::new(), Vec::<(usize, usize)>::new());
            for row in rows {
                let room = input_count(order.lengths[row as usize]);
                if let Some(index) = open.iter().position(|&(_, left)| left >= room) {
                    lines[open[index].0].push(row);
                    open[index].1 -= room;
                    if open[index].1 == 0 {
                        open.remove(index);
                    }
                } else {
                    if open.len() == OPEN_LINES {
                        open.remove(0);
                    }
                    open.push((lines.len(), length - room));
                    lines.push(vec![row]);
                }
            }
            lines
        } else {
            let pools = rows.chunks(order.batch_size * BATCHES_PER_POOL).map(|pool| {
                let mut pool = pool.to_vec();
                pool.sort_by_key(|&row| order.lengths[row as usize]);
                pool
            });
            pools.flatten().map(|row| vec![row]).collect()
        };
        let batches: Vec<_> = lines.chunks(order.batch_size).map(<[_]>::to_vec).collect();
        let shuffled = permutation(order.seed, "micro-batches", epoch, batches.len());
        shuffled.iter().map(|&index| batches[index as usize].clone()).collect()
    }

    fn all_of_epoch(order: &mut BatchOrder, epoch: usize) -> Vec<MicroBatch> {
        let range = order.batches_in(epoch)..order.batches_in(epoch + 1);
        range.map(|index| order.at(index)).collect()
    }

    proptest! {
        #[test]
        fn the_order_equals_its_literal_definition(
            lengths in proptest::collection::vec(1u32..40, 1..300), batch_size in 1usize..9, packed: bool, seed: u64,
        ) {
            let mut order = if packed {
                BatchOrder::packed(lengths, batch_size, 39, seed).expect("rows fit")
            } else {
                BatchOrder::new(lengths, batch_size, seed).expect("there are rows")
            };
            for epoch in [1, 0] {
                let flat: Vec<_> =
                    all_of_epoch(&mut order, epoch).into_iter().map(|micro| micro.lines).collect();
                prop_assert_eq!(flat, plain_epoch(&order, epoch as u64));
            }
        }

        #[test]
        fn a_curriculum_orders_rows_from_easy_to_hard_with_each_row_once(
            lengths in proptest::collection::vec(1u32..12, 1..120), batch_size in 1usize..6, packed: bool, seed: u64,
        ) {
            let plain = if packed {
                BatchOrder::packed(lengths.clone(), batch_size, 24, seed).expect("rows fit")
            } else {
                BatchOrder::new(lengths.clone(), batch_size, seed).expect("there are rows")
            };
            let hardness: Vec<f32> = lengths.iter().map(|&length| length as f32).collect();
            let mut order = plain.in_order(Curriculum { hardness, epochs: 2 });
            for epoch in 0..3 {
                let rows: Vec<u32> =
                    all_of_epoch(&mut order, epoch).iter().flat_map(MicroBatch::rows).collect();
                let mut sorted = rows.clone();
                sorted.sort_unstable();
                prop_assert_eq!(sorted, (0..lengths.len() as u32).collect::<Vec<_>>());
                let rises = rows.windows(2).all(|pair| lengths[pair[0] as usize] <= lengths[pair[1] as usize]);
                // A packed line may include a few harder rows.
                prop_assert!(rises || packed || epoch == 2);
            }
        }

        #[test]
        fn first_rows_of_packed_lines_are_ordered_from_easy_to_hard(
            lengths in proptest::collection::vec(1u32..12, 1..120), seed: u64,
        ) {
            let hardness: Vec<f32> = lengths.iter().map(|&length| -(length as f32)).collect();
            let order = BatchOrder::packed(lengths.clone(), 2, 24, seed).expect("rows fit");
            let mut order = order.in_order(Curriculum { hardness, epochs: 0 });
            let micros = all_of_epoch(&mut order, 3);
            let firsts = micros.iter().flat_map(|micro| micro.lines.iter().map(|line| lengths[line[0] as usize]));
            prop_assert!(firsts.is_sorted_by(|a, b| a >= b));
        }

        #[test]
        fn a_mixture_keeps_its_shares_packed_or_not_and_in_a_curriculum(
            components in proptest::collection::vec((2usize..40, 0.1f64..5.0), 2..5),
            batch_size in 1usize..6, packed: bool, ordered: bool, seed: u64,
        ) {
            let sizes: usize = components.iter().map(|(rows, _)| rows).sum();
            let lengths: Vec<u32> = (0..sizes as u32).map(|row| row * 7 % 20 + 2).collect();
            let weights: BTreeMap<String, f64> =
                components.iter().enumerate().map(|(index, &(_, weight))| (index.to_string(), weight)).collect();
            let named = components.iter().enumerate().map(|(index, &(rows, _))| MixtureComponent { name: index.to_string(), rows });
            let mixture = Mixture::new(named.collect(), &weights, seed).expect("the weights are valid");
            let mut order = if packed {
                BatchOrder::packed(lengths.clone(), batch_size, 64, seed).expect("rows fit").mixed(mixture)
            } else {
                BatchOrder::new(lengths.clone(), batch_size, seed).expect("there are rows").mixed(mixture)
            };
            if ordered {
                let hardness = lengths.iter().map(|&length| length as f32).collect();
                order = order.in_order(Curriculum { hardness, epochs: 1 });
            }
            let total: f64 = weights.values().sum();
            let mut counts = vec![0usize; components.len()];
            for epoch in 0..3 {
                for row in all_of_epoch(&mut order, epoch).iter().flat_map(MicroBatch::rows) {
                    let mut end = 0;
                    let index = components.iter().position(|&(rows, _)| { end += rows; (row as usize) < end });
                    counts[index.expect("a row of the split")] += 1;
                }
                for (&count, &(_, weight)) in counts.iter().zip(&components) {
                    let share = ((epoch + 1) * sizes) as f64 * weight / total;
                    prop_assert!((count as f64 - share).abs() < 1.0, "{count}, not {share}");
                }
            }
        }
    }

    #[test]
    fn ordered_and_mixed_orders_give_the_same_micro_batch_from_any_position() -> Result<()> {
        let components = vec![
            MixtureComponent { name: "a".into(), rows: 12 },
            MixtureComponent { name: "b".into(), rows: 8 },
        ];
        let weights = BTreeMap::from([("a".to_owned(), 1.0), ("b".to_owned(), 3.0)]);
        let order = |packed: bool| -> Result<BatchOrder> {
            let lengths: Vec<u32> = (1..=20).collect();
            let hardness = lengths.iter().map(|&length| (length % 7) as f32).collect();
            let order =
                if packed { BatchOrder::packed(lengths, 3, 24, 9)? } else { BatchOrder::new(lengths, 3, 9)? };
            let order = order.mixed(Mixture::new(components.clone(), &weights, 9)?);
            Ok(order.in_order(Curriculum { hardness, epochs: 1 }))
        };
        for packed in [false, true] {
            let all: Vec<MicroBatch> =
                (0..30).map(|index| order(packed).map(|mut order| order.at(index))).collect::<Result<_>>()?;
            let mut order = order(packed)?;
            assert!((0..30).rev().all(|index| order.at(index) == all[index]));
        }
        Ok(())
    }

    fn lengths(rows: u32) -> Vec<u32> {
        (0..rows).map(|row| (row * 7919) % 50 + 1).collect()
    }

    #[test]
    fn an_epoch_sees_each_row_once_and_epochs_differ() -> Result<()> {
        for (rows, batch_size) in [(1, 4), (7, 2), (100, 8), (1000, 7)] {
            let orders = [
                BatchOrder::new(lengths(rows), batch_size, 3)?,
                BatchOrder::packed(lengths(rows), batch_size, 64, 3)?,
            ];
            for mut order in orders {
                let mut epochs = Vec::new();
                for epoch in 0..3 {
                    let range = order.batches_in(epoch)..order.batches_in(epoch + 1);
                    let mut seen = Vec::new();
                    for index in range {
                        let micro = order.at(index);
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

    proptest! {
        #[test]
        fn the_steps_of_an_epoch_train_each_row_once(
            lengths in proptest::collection::vec(1u32..40, 1..300), batch_size in 1usize..9,
            accumulation in 1usize..12, packed: bool, seed: u64,
        ) {
            let rows = lengths.len();
            let mut order = if packed {
                BatchOrder::packed(lengths, batch_size, 39, seed).expect("rows fit")
            } else {
                BatchOrder::new(lengths, batch_size, seed).expect("there are rows")
            };
            for epoch in [2, 0, 1] {
                let steps = order.steps_in(epoch, accumulation)..order.steps_in(epoch + 1, accumulation);
                let mut seen = Vec::new();
                for step in steps.clone() {
                    let batches = order.batches_of_step(step, accumulation);
                    prop_assert!(batches.len() == accumulation || step + 1 == steps.end);
                    prop_assert!(!batches.is_empty() && batches.len() <= accumulation);
                    let end = batches.end;
                    seen.extend(batches.flat_map(|index| order.at(index).rows().collect::<Vec<_>>()));
                    let epochs = epoch as f64 + seen.len() as f64 / rows as f64;
                    prop_assert!((order.epochs_after(end) - epochs).abs() < 1e-12);
                }
                seen.sort_unstable();
                prop_assert_eq!(seen, (0..rows as u32).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn an_order_gives_the_same_micro_batch_from_any_position() -> Result<()> {
        for length in [None, Some(24)] {
            let order = || match length {
                None => BatchOrder::new((1..=20).collect(), 3, 9),
                Some(length) => BatchOrder::packed((1..=20).collect(), 3, length, 9),
            };
            let all: Vec<MicroBatch> =
                (0..30).map(|index| order().map(|mut order| order.at(index))).collect::<Result<_>>()?;
            let mut order = order()?;
            assert!((0..30).rev().all(|index| order.at(index) == all[index]));
            let share = order.epochs_after(30);
            assert!(share >= all[29].epoch as f64 && share <= all[29].epoch as f64 + 1.0);
        }
        Ok(())
    }

    #[test]
    fn rows_of_a_micro_batch_have_similar_lengths() -> Result<()> {
        let lengths: Vec<u32> = (0..256).map(|row| (row * 97) % 256 + 1).collect();
        let mut order = BatchOrder::new(lengths.clone(), 8, 1)?;
        let padded: u32 = (0..order.batches_in(1))
            .map(|index| {
                let micro = order.at(index);
                micro.rows().map(|row| lengths[row as usize]).max().unwrap_or(0) * micro.lines.len() as u32
            })
            .sum();
        let real: u32 = lengths.iter().sum();
        assert!(f64::from(padded) < 1.05 * f64::from(real), "{padded} positions for {real} tokens");
        Ok(())
    }

    #[test]
    fn packed_lines_are_nearly_full_and_never_overflow() -> Result<()> {
        let lengths = lengths(2000);
        let mut order = BatchOrder::packed(lengths.clone(), 4, 128, 1)?;
        let (mut real, mut lines) = (0, 0);
        for index in 0..order.batches_in(1) {
            for line in order.at(index).lines {
                let filled: usize = line.iter().map(|&row| input_count(lengths[row as usize])).sum();
                assert!(filled <= 128);
                real += filled;
                lines += 1;
            }
        }
        assert!(real as f64 > 0.95 * f64::from(lines * 128), "{real} tokens in {lines} lines");
        Ok(())
    }

    #[test]
    fn a_row_longer_than_a_line_is_an_error() {
        let error = BatchOrder::packed(vec![3, 40], 1, 16, 0).err().expect("it does not fit");
        assert!(error.to_string().contains("row 1"), "{error}");
    }
}
