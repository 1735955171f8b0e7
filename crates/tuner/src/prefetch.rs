//! Preparing the rows of steps in advance on another thread.
//!
//! The thread hands over plain numbers, never arrays, so that MLX stays on the training thread. The data of a step depends
//! only on its number, so prefetching does not change the result.

use std::ops::Range;
use std::sync::mpsc::sync_channel;

use dataset::Split;

use crate::batch::BatchData;
use crate::batch_order::{BatchOrder, MicroBatch};

/// Data of one step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StepData {
    pub(crate) batches: Vec<BatchData>,
    /// Indices of all rows.
    pub(crate) rows: Vec<u32>,
    /// Epochs completed after the step, as a fraction of rows.
    pub(crate) epochs: f64,
}

/// Iterator over the data of steps.
pub(crate) struct Source<'a> {
    pub(crate) order: &'a mut BatchOrder,
    pub(crate) split: &'a Split,
    /// Micro-batches per step; the last step of an epoch may have fewer.
    pub(crate) accumulation: usize,
    /// Slices per micro-batch.
    pub(crate) slices: usize,
    pub(crate) pad_to: usize,
    /// Factors of the rows' weights.
    pub(crate) factors: Option<&'a [f32]>,
    /// Steps to take, counted from 0.
    pub(crate) steps: Range<usize>,
}

impl Iterator for Source<'_> {
    type Item = StepData;

    fn next(&mut self) -> Option<StepData> {
        let indices = self.order.batches_of_step(self.steps.next()?, self.accumulation);
        let micro_batches: Vec<MicroBatch> = indices.clone().map(|index| self.order.at(index)).collect();
        let batches = micro_batches.iter().enumerate().flat_map(|(index, micro)| {
            let rows_of_line: Vec<usize> = micro.lines.iter().map(Vec::len).collect();
            let whole = BatchData::of_micro_batch(self.split, micro, self.pad_to, self.factors);
            whole.sliced(index, self.slices, &rows_of_line, self.pad_to)
        });
        let batches = batches.collect();
        let rows = micro_batches.iter().flat_map(MicroBatch::rows).collect();
        Some(StepData { batches, rows, epochs: self.order.epochs_after(indices.end) })
    }
}

/// Calls `body` with a function that returns the data of the next step.
///
/// Another thread prepares up to `ahead` steps in advance; with 0, each is prepared when it is needed.
pub(crate) fn with_data<R>(
    mut source: Source<'_>,
    ahead: usize,
    body: impl FnOnce(&mut dyn FnMut() -> StepData) -> R,
) -> R {
    const IN_RANGE: &str = "the training loop stops at the last step";
    // The channel takes memory for every place.
    let ahead = ahead.min(source.steps.len());
    if ahead == 0 {
        return body(&mut || source.next().expect(IN_RANGE));
    }
    std::thread::scope(|scope| {
        // The thread itself holds one more, so the channel needs one place less.
        let (sender, receiver) = sync_channel(ahead - 1);
        scope.spawn(move || source.try_for_each(|data| sender.send(data)));
        // Dropping the function drops the receiver, which ends the thread.
        let mut next = move || receiver.recv().expect(IN_RANGE);
        body(&mut next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Batch;
    use crate::error::Result;
    use dataset::SplitWriter;

    /// Makes a split of rows of many lengths, and returns it with them.
    fn split_of(rows: u32) -> Result<(tempfile::TempDir, Split, Vec<u32>)> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("x.safetensors");
        let mut writer = SplitWriter::create(&path)?;
        for row in 0..rows {
            let length = 3 + row as usize * 7 % 19;
            writer.push(&vec![row; length], &vec![1; length], 1.0, 1)?;
        }
        writer.finish()?;
        let split = Split::open(&path)?;
        let lengths = (0..split.len()).map(|row| split.row_length(row) as u32).collect();
        Ok((folder, split, lengths))
    }

    #[test]
    fn lines_keep_the_dropout_of_the_unsliced_run() -> Result<()> {
        // Every epoch has two micro-batches of two rows and one of one row, in random order.
        let (_folder, split, lengths) = split_of(5)?;
        let keys = |slices: usize| -> Result<Vec<Vec<usize>>> {
            let source = Source {
                order: &mut BatchOrder::new(lengths.clone(), 2, 5)?,
                split: &split,
                accumulation: 3,
                slices,
                pad_to: 8,
                factors: None,
                steps: 0..20,
            };
            let keys_of_lines = |(place, data): (usize, BatchData)| {
                let batch = Batch::from(data);
                vec![batch.micro_batch.unwrap_or(place); batch.tokens.dim(0) as usize]
            };
            Ok(source
                .map(|step| step.batches.into_iter().enumerate().flat_map(keys_of_lines).collect())
                .collect())
        };
        let whole = keys(1)?;
        assert!(whole.contains(&vec![0, 0, 1, 2, 2]), "the single row is never in the middle");
        assert_eq!(keys(2)?, whole);
        assert_eq!(keys(3)?, whole);
        Ok(())
    }

    #[test]
    fn prefetching_does_not_change_the_data() -> Result<()> {
        let (_folder, split, lengths) = split_of(23)?;
        let factors: Vec<f32> = (0..23).map(|row| row as f32).collect();
        for packed in [false, true] {
            let made = |ahead: usize, first: usize, steps: usize| -> Result<Vec<StepData>> {
                let mut order = if packed {
                    BatchOrder::packed(lengths.clone(), 1, 48, 5)?
                } else {
                    BatchOrder::new(lengths.clone(), 2, 5)?
                };
                let source = Source {
                    order: &mut order,
                    split: &split,
                    accumulation: 2,
                    slices: 1 + usize::from(packed),
                    pad_to: 8,
                    factors: Some(&factors),
                    steps: first..40,
                };
                Ok(with_data(source, ahead, |next| (0..steps).map(|_| next()).collect()))
            };
            let plain = made(0, 0, 30)?;
            for ahead in [1, 2, 7, 100] {
                assert!(made(ahead, 0, 30)? == plain, "{ahead} ahead");
                assert!(made(ahead, 11, 4)? == plain[11..15], "{ahead} ahead, from step 11 on");
            }
        }
        Ok(())
    }
}
