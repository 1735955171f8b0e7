//! Which rows make a step: an order of all rows over all epochs, as a function of the position alone.

use crate::error::{Error, Result};
use crate::mixture::Mixture;
use dataset::order::permutation;
use std::ops::Range;

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

/// An order from easy to hard.
#[derive(Debug, Clone, PartialEq)]
pub struct Curriculum {
    /// How hard each row is; the lowest come first.
    pub hardness: Vec<f32>,
    /// Epochs that keep to it, the later ones are shuffled; 0 for all.
    pub epochs: usize,
}

/// How many micro-batches are sorted by length together: enough for tight buckets, few enough to stay random.
const BATCHES_PER_POOL: usize = 32;

/// Lines that are tried for a row before the oldest is closed.
const OPEN_LINES: usize = 64;

/// The order of all rows over all epochs.
///
/// An epoch shuffles the rows, cuts them into micro-batches and shuffles those; each row comes exactly once an epoch,
/// unless a [`Mixture`] says how often. One row a line, pools of rows are sorted by length before the cut, and the last
/// micro-batch of an epoch may be smaller. Packed, each row goes to the first open line with room for it, and all lines
/// are equally long. In the epochs of a [`Curriculum`], rows are cut into micro-batches in its order, rows that are
/// equally hard in a random one, and micro-batches stay where they are.
///
/// An epoch takes 8 to 16 bytes a row, and only one is held.
pub struct BatchPlan {
    lengths: Vec<u32>,
    batch_size: usize,
    seed: u64,
    /// Tokens of a packed line.
    length: Option<usize>,
    mixture: Option<Mixture>,
    curriculum: Option<Curriculum>,
    /// Where each epoch begins, as far as that is known; packed epochs differ in length.
    starts: Vec<usize>,
    epoch: Option<(u64, Epoch)>,
}

/// The micro-batches of an epoch, flat.
struct Epoch {
    rows: Vec<u32>,
    /// Where in `rows` each line begins, and the last ends; `None` with one row a line.
    lines: Option<Vec<u32>>,
    /// The lines of each micro-batch, in the order of the steps.
    batches: Vec<(u32, u32)>,
}

impl Epoch {
    fn micro_batch(&self, index: usize) -> Vec<Vec<u32>> {
        let (first, end) = self.batches[index];
        let line = |line: u32| -> Range<usize> {
            let line = line as usize;
            self.lines
                .as_ref()
                .map_or(line..line + 1, |starts| starts[line] as usize..starts[line + 1] as usize)
        };
        (first..end).map(|number| self.rows[line(number)].to_vec()).collect()
    }
}

impl BatchPlan {
    /// Plans over rows of the given lengths, `batch_size` rows at a time.
    ///
    /// # Errors
    ///
    /// Fails when there is no row.
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

    /// Plans over rows packed into lines of `length` tokens, `batch_size` lines at a time.
    ///
    /// # Errors
    ///
    /// Fails when there is no row, or one that does not fit.
    pub fn packed(lengths: Vec<u32>, batch_size: usize, length: usize, seed: u64) -> Result<Self> {
        if let Some(row) = lengths.iter().position(|&tokens| room_of(tokens) > length) {
            return Err(Error::settings(
                format!(
                    "row {row} of the training split has {} tokens, but a packed line only {length}",
                    room_of(lengths[row])
                ),
                "raise `pack_tokens`, or lower `max_tokens` of prepare-data",
            ));
        }
        Ok(Self { length: Some(length), ..Self::new(lengths, batch_size, seed)? })
    }

    /// Draws the rows of every epoch from a mixture, as many as there are rows.
    ///
    /// # Panics
    ///
    /// When the mixture is one of another number of rows.
    #[must_use]
    pub fn mixed(self, mixture: Mixture) -> Self {
        assert_eq!(mixture.rows(), self.lengths.len(), "the parts of the mixture are the rows");
        Self { mixture: Some(mixture), starts: vec![0], epoch: None, ..self }
    }

    /// Goes from easy rows to hard ones.
    ///
    /// # Panics
    ///
    /// When not every row has its hardness.
    #[must_use]
    pub fn in_order(self, curriculum: Curriculum) -> Self {
        assert_eq!(curriculum.hardness.len(), self.lengths.len(), "every row has its hardness");
        Self { curriculum: Some(curriculum), starts: vec![0], epoch: None, ..self }
    }

    /// Micro-batches in the first `epochs` epochs.
    pub fn batches_in(&mut self, epochs: usize) -> usize {
        if self.length.is_none() {
            return epochs * self.lengths.len().div_ceil(self.batch_size);
        }
        while self.starts.len() <= epochs {
            let epoch = self.starts.len() as u64 - 1;
            let count = self.of_epoch(epoch).batches.len();
            self.starts.push(self.starts[epoch as usize] + count);
        }
        self.starts[epochs]
    }

    /// The micro-batch at `index`, counted from 0 over all epochs.
    pub fn at(&mut self, index: usize) -> MicroBatch {
        let epoch = self.epoch_of(index);
        let start = self.batches_in(epoch);
        let lines = self.of_epoch(epoch as u64).micro_batch(index - start);
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

    fn of_epoch(&mut self, epoch: u64) -> &Epoch {
        if self.epoch.as_ref().is_none_or(|(made, _)| *made != epoch) {
            // The old one goes first: never are two in memory.
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

    fn sort_pools(&self, mut rows: Vec<u32>) -> Vec<u32> {
        for pool in rows.chunks_mut(self.batch_size.saturating_mul(BATCHES_PER_POOL)) {
            pool.sort_by_key(|&row| self.lengths[row as usize]);
        }
        rows
    }

    /// First fit, over a bounded number of open lines: the rows line by line, and where each line begins.
    fn pack(&self, rows: &[u32], length: usize) -> (Vec<u32>, Vec<u32>) {
        let mut line_of = Vec::with_capacity(rows.len());
        let mut open: Vec<(u32, usize)> = Vec::new();
        let mut sizes: Vec<u32> = Vec::new();
        for &row in rows {
            let room = room_of(self.lengths[row as usize]);
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

/// Tokens of a row that are read: the last is only a target.
fn room_of(tokens: u32) -> usize {
    tokens.saturating_sub(1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mixture::Part;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// The order of an epoch as its description says, without a thought for memory.
    fn plain_epoch(plan: &BatchPlan, epoch: u64) -> Vec<Vec<Vec<u32>>> {
        let rows = permutation(plan.seed, "rows", epoch, plan.lengths.len());
        let lines: Vec<Vec<u32>> = if let Some(length) = plan.length {
            let (mut lines, mut open) = (Vec::<Vec<u32>>::new(), Vec::<(usize, usize)>::new());
            for row in rows {
                let room = room_of(plan.lengths[row as usize]);
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
            let pools = rows.chunks(plan.batch_size * BATCHES_PER_POOL).map(|pool| {
                let mut pool = pool.to_vec();
                pool.sort_by_key(|&row| plan.lengths[row as usize]);
                pool
            });
            pools.flatten().map(|row| vec![row]).collect()
        };
        let batches: Vec<_> = lines.chunks(plan.batch_size).map(<[_]>::to_vec).collect();
        let order = permutation(plan.seed, "micro-batches", epoch, batches.len());
        order.iter().map(|&index| batches[index as usize].clone()).collect()
    }

    fn all_of_epoch(plan: &mut BatchPlan, epoch: usize) -> Vec<MicroBatch> {
        let range = plan.batches_in(epoch)..plan.batches_in(epoch + 1);
        range.map(|index| plan.at(index)).collect()
    }

    proptest! {
        #[test]
        fn the_flat_order_is_the_plain_one(
            lengths in proptest::collection::vec(1u32..40, 1..300), batch_size in 1usize..9, packed: bool, seed: u64,
        ) {
            let mut plan = if packed {
                BatchPlan::packed(lengths, batch_size, 39, seed).expect("rows fit")
            } else {
                BatchPlan::new(lengths, batch_size, seed).expect("there are rows")
            };
            for epoch in [1, 0] {
                let flat: Vec<_> =
                    all_of_epoch(&mut plan, epoch).into_iter().map(|micro| micro.lines).collect();
                prop_assert_eq!(flat, plain_epoch(&plan, epoch as u64));
            }
        }

        #[test]
        fn a_curriculum_goes_from_easy_to_hard_with_each_row_once(
            lengths in proptest::collection::vec(1u32..12, 1..120), batch_size in 1usize..6, packed: bool, seed: u64,
        ) {
            let plain = if packed {
                BatchPlan::packed(lengths.clone(), batch_size, 24, seed).expect("rows fit")
            } else {
                BatchPlan::new(lengths.clone(), batch_size, seed).expect("there are rows")
            };
            let hardness: Vec<f32> = lengths.iter().map(|&length| length as f32).collect();
            let mut plan = plain.in_order(Curriculum { hardness, epochs: 2 });
            for epoch in 0..3 {
                let rows: Vec<u32> =
                    all_of_epoch(&mut plan, epoch).iter().flat_map(MicroBatch::rows).collect();
                let mut sorted = rows.clone();
                sorted.sort_unstable();
                prop_assert_eq!(sorted, (0..lengths.len() as u32).collect::<Vec<_>>());
                let rises = rows.windows(2).all(|pair| lengths[pair[0] as usize] <= lengths[pair[1] as usize]);
                // A packed line takes up a few harder rows.
                prop_assert!(rises || packed || epoch == 2);
            }
        }

        #[test]
        fn packed_lines_of_a_curriculum_begin_from_easy_to_hard(
            lengths in proptest::collection::vec(1u32..12, 1..120), seed: u64,
        ) {
            let hardness: Vec<f32> = lengths.iter().map(|&length| -(length as f32)).collect();
            let plan = BatchPlan::packed(lengths.clone(), 2, 24, seed).expect("rows fit");
            let mut plan = plan.in_order(Curriculum { hardness, epochs: 0 });
            let micros = all_of_epoch(&mut plan, 3);
            let firsts = micros.iter().flat_map(|micro| micro.lines.iter().map(|line| lengths[line[0] as usize]));
            prop_assert!(firsts.is_sorted_by(|a, b| a >= b));
        }

        #[test]
        fn a_mixture_keeps_its_shares_packed_or_not_and_in_a_curriculum(
            parts in proptest::collection::vec((2usize..40, 0.1f64..5.0), 2..5),
            batch_size in 1usize..6, packed: bool, ordered: bool, seed: u64,
        ) {
            let sizes: usize = parts.iter().map(|(rows, _)| rows).sum();
            let lengths: Vec<u32> = (0..sizes as u32).map(|row| row * 7 % 20 + 2).collect();
            let weights: BTreeMap<String, f64> =
                parts.iter().enumerate().map(|(index, &(_, weight))| (index.to_string(), weight)).collect();
            let named = parts.iter().enumerate().map(|(index, &(rows, _))| Part { name: index.to_string(), rows });
            let mixture = Mixture::new(named.collect(), &weights, seed).expect("fine weights");
            let mut plan = if packed {
                BatchPlan::packed(lengths.clone(), batch_size, 64, seed).expect("rows fit").mixed(mixture)
            } else {
                BatchPlan::new(lengths.clone(), batch_size, seed).expect("there are rows").mixed(mixture)
            };
            if ordered {
                let hardness = lengths.iter().map(|&length| length as f32).collect();
                plan = plan.in_order(Curriculum { hardness, epochs: 1 });
            }
            let total: f64 = weights.values().sum();
            let mut counts = vec![0usize; parts.len()];
            for epoch in 0..3 {
                for row in all_of_epoch(&mut plan, epoch).iter().flat_map(MicroBatch::rows) {
                    let mut end = 0;
                    let part = parts.iter().position(|&(rows, _)| { end += rows; (row as usize) < end });
                    counts[part.expect("a row of the split")] += 1;
                }
                for (&count, &(_, weight)) in counts.iter().zip(&parts) {
                    let share = ((epoch + 1) * sizes) as f64 * weight / total;
                    prop_assert!((count as f64 - share).abs() < 1.0, "{count}, not {share}");
                }
            }
        }
    }

    #[test]
    fn ordered_and_mixed_plans_can_be_entered_anywhere() -> Result<()> {
        let parts = vec![Part { name: "a".into(), rows: 12 }, Part { name: "b".into(), rows: 8 }];
        let weights = BTreeMap::from([("a".to_owned(), 1.0), ("b".to_owned(), 3.0)]);
        let plan = |packed: bool| -> Result<BatchPlan> {
            let lengths: Vec<u32> = (1..=20).collect();
            let hardness = lengths.iter().map(|&length| (length % 7) as f32).collect();
            let plan =
                if packed { BatchPlan::packed(lengths, 3, 24, 9)? } else { BatchPlan::new(lengths, 3, 9)? };
            let plan = plan.mixed(Mixture::new(parts.clone(), &weights, 9)?);
            Ok(plan.in_order(Curriculum { hardness, epochs: 1 }))
        };
        for packed in [false, true] {
            let all: Vec<MicroBatch> =
                (0..30).map(|index| plan(packed).map(|mut plan| plan.at(index))).collect::<Result<_>>()?;
            let mut plan = plan(packed)?;
            assert!((0..30).rev().all(|index| plan.at(index) == all[index]));
        }
        Ok(())
    }

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
