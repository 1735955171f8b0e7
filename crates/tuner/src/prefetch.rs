//! What steps read, made ahead of time on a thread of its own.
//!
//! The thread hands over plain numbers, never arrays: MLX stays on the thread that trains. What a step reads depends on
//! its number alone, so how far ahead it was made shows nowhere.

use crate::batch::BatchData;
use crate::plan::{BatchPlan, MicroBatch};
use dataset::Split;
use std::ops::Range;
use std::sync::mpsc::sync_channel;

/// What one step reads.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StepData {
    pub(crate) batches: Vec<BatchData>,
    /// All row numbers.
    pub(crate) rows: Vec<u32>,
    /// How many epochs are over after it.
    pub(crate) epochs: f64,
}

/// Makes the data of one step after another.
pub(crate) struct Source<'a> {
    pub(crate) plan: &'a mut BatchPlan,
    pub(crate) split: &'a Split,
    /// Micro-batches a step.
    pub(crate) accumulation: usize,
    pub(crate) pad_to: usize,
    /// Factors of the weights of rows.
    pub(crate) factors: Option<&'a [f32]>,
    /// The steps to come, counted from 0.
    pub(crate) steps: Range<usize>,
}

impl Iterator for Source<'_> {
    type Item = StepData;

    fn next(&mut self) -> Option<StepData> {
        let first = self.steps.next()? * self.accumulation;
        let micro_batches: Vec<MicroBatch> =
            (first..first + self.accumulation).map(|index| self.plan.at(index)).collect();
        let of = |micro| BatchData::of_micro_batch(self.split, micro, self.pad_to, self.factors);
        let batches = micro_batches.iter().map(of).collect();
        let rows = micro_batches.iter().flat_map(MicroBatch::rows).collect();
        Some(StepData { batches, rows, epochs: self.plan.epochs_after(first + self.accumulation) })
    }
}

/// Calls `body` with a function that returns the data of the next step, of which up to `ahead` are made before they
/// are asked for; 0 makes each when it is asked for.
pub(crate) fn with_data<R>(
    mut source: Source<'_>,
    ahead: usize,
    body: impl FnOnce(&mut dyn FnMut() -> StepData) -> R,
) -> R {
    const ASKED: &str = "no more steps are asked for than there are";
    if ahead == 0 {
        return body(&mut || source.next().expect(ASKED));
    }
    std::thread::scope(|scope| {
        // One more waits to be handed over.
        let (sender, receiver) = sync_channel(ahead - 1);
        scope.spawn(move || source.try_for_each(|data| sender.send(data)));
        // The receiver goes with the function, and the thread ends.
        let mut next = move || receiver.recv().expect(ASKED);
        body(&mut next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Result;
    use dataset::SplitWriter;

    #[test]
    fn what_comes_does_not_depend_on_how_far_ahead_it_was_made() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("x.safetensors");
        let mut writer = SplitWriter::create(&path)?;
        for row in 0..23_u32 {
            let length = 3 + row as usize * 7 % 19;
            writer.push(&vec![row; length], &vec![1; length], 1.0, 1)?;
        }
        writer.finish()?;
        let split = Split::open(&path)?;
        let lengths: Vec<u32> = (0..split.len()).map(|row| split.row_length(row) as u32).collect();
        let factors: Vec<f32> = (0..23).map(|row| row as f32).collect();
        for packed in [false, true] {
            let made = |ahead: usize, first: usize, steps: usize| -> Result<Vec<StepData>> {
                let mut plan = if packed {
                    BatchPlan::packed(lengths.clone(), 1, 48, 5)?
                } else {
                    BatchPlan::new(lengths.clone(), 2, 5)?
                };
                let source = Source {
                    plan: &mut plan,
                    split: &split,
                    accumulation: 2,
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
