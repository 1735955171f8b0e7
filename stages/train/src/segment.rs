//! Segments: a run can stop on purpose, and a later run resumes from its artifact to the same bytes.
//!
//! A segment has the outputs of a finished run (`checkpoints`, `metrics.jsonl`, `state`, `summary.json`), one folder deeper.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use failure::Result;
use outputs::{Document as _, Summary};
use stage::Segment;
use tuner::{Observer, StepReport};

use crate::{earlier, layout};

/// Step at which a run stops on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopAt {
    /// After this step.
    Step(usize),
    /// After the first `number` of `of` parts of nearly equal length.
    Part {
        /// Number of the part, counted from 1.
        number: usize,
        /// Number of parts.
        of: usize,
    },
}

impl StopAt {
    /// Returns the step after which a run of `steps` steps stops.
    pub fn step(self, steps: usize) -> usize {
        match self {
            Self::Step(step) => step.min(steps),
            // In 128 bits, so that the product does not overflow.
            Self::Part { number, of } => (steps as u128 * number as u128).div_ceil(of as u128) as usize,
        }
    }
}

impl FromStr for StopAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let positive = |text: &str| text.parse::<usize>().ok().filter(|&number| number > 0);
        let parsed = match text.split_once('/') {
            None => positive(text).map(Self::Step),
            Some((number, of)) => positive(number)
                .zip(positive(of))
                .filter(|(number, of)| number <= of)
                .map(|(number, of)| Self::Part { number, of }),
        };
        parsed.ok_or_else(|| "expected a step, such as `500`, or a part, such as `2/4`".to_owned())
    }
}

impl fmt::Display for StopAt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(step) => write!(formatter, "{step}"),
            Self::Part { number, of } => write!(formatter, "{number}/{of}"),
        }
    }
}

/// Copies the resume state of a segment into `work`, unless a killed run left one there; returns the segment's summary.
///
/// Fails, and leaves no resume state in `work`, if the segment has changed since it was opened.
pub(crate) fn adopt(segment: &Segment, work: &Path) -> Result<Summary> {
    let summary = Summary::read(&segment.path().join(outputs::SUMMARY))?;
    if !earlier::has_state(work) {
        let steps = summary.steps as usize;
        layout::adopt_outputs(segment.path(), steps, work, &|| segment.check_unchanged())?;
        earlier::record(work, segment.artifact(), steps)?;
    }
    Ok(summary)
}

/// An observer that interrupts a run at its [`StopAt`], and otherwise forwards to another one.
pub(crate) struct StopAtObserver<'a> {
    inner: &'a mut dyn Observer,
    stop_at: Option<StopAt>,
    last: Option<usize>,
    step: usize,
    /// Whether the validation after the last step was interrupted.
    lacks_validation: bool,
}

impl<'a> StopAtObserver<'a> {
    pub(crate) fn new(inner: &'a mut dyn Observer, stop_at: Option<StopAt>) -> Self {
        Self { inner, stop_at, last: None, step: 0, lacks_validation: false }
    }

    /// Returns whether the run has reached its [`StopAt`] and done everything that is due there.
    pub(crate) fn is_reached(&self) -> bool {
        self.last.is_some_and(|last| self.step >= last) && !self.lacks_validation
    }
}

impl Observer for StopAtObserver<'_> {
    fn started(&mut self, step: usize, steps: usize) {
        self.step = step;
        self.last = self.stop_at.map(|stop_at| stop_at.step(steps));
        self.inner.started(step, steps);
    }

    fn stepping(&mut self) {
        self.inner.stepping();
    }

    fn stepped(&mut self, step: usize, report: &StepReport, learning_rate: f64) {
        self.step = step;
        self.inner.stepped(step, report, learning_rate);
    }

    fn reported(&mut self, step: usize, train_loss: f64) {
        self.inner.reported(step, train_loss);
    }

    fn validating(&mut self) {
        self.inner.validating();
    }

    fn validated(&mut self, step: usize, loss: f64) {
        self.inner.validated(step, loss);
    }

    fn waited(&mut self, waited: usize, patience: usize) {
        self.inner.waited(waited, patience);
    }

    fn checkpointed(&mut self, step: usize) {
        self.inner.checkpointed(step);
    }

    fn signal(&self) -> i32 {
        self.inner.signal()
    }

    fn told_to_stop(&mut self, signal: i32) {
        self.inner.told_to_stop(signal);
    }

    fn wants_group_norms(&self) -> bool {
        self.inner.wants_group_norms()
    }

    fn interrupted(&self) -> bool {
        self.is_reached() || self.inner.interrupted()
    }

    fn interrupts_validation(&mut self) -> bool {
        self.lacks_validation = self.inner.interrupts_validation();
        self.lacks_validation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_are_parsed_and_printed() {
        for text in ["1", "500", "1/1", "2/4"] {
            assert_eq!(text.parse::<StopAt>().map(|stop_at| stop_at.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "0", "-1", "0/4", "5/4", "1/0", "1/2/3", "a", "1/", "/2"] {
            assert!(text.parse::<StopAt>().is_err(), "{text}");
        }
    }

    #[test]
    fn parts_end_in_order_and_the_last_at_the_last_step() {
        for steps in [1, 2, 3, 7, 100, usize::MAX] {
            for of in [1, 2, 3, 7, 12] {
                let ends: Vec<usize> =
                    (1..=of).map(|number| StopAt::Part { number, of }.step(steps)).collect();
                assert!(ends.is_sorted() && ends[0] > 0 && ends.last() == Some(&steps), "{steps} {ends:?}");
            }
        }
        assert_eq!((StopAt::Step(5).step(9), StopAt::Step(9).step(5)), (5, 5));
    }
}
