//! Parts of a run: one may stop on the way and hand all it left to the next, which goes on to the same bytes.
//!
//! A part holds what a finished run would (`checkpoints`, `metrics.jsonl`, `state`, `summary.json`), one folder deeper.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, Result};
use tuner::{Observer, StepReport, Stop, Summary};

use crate::reuse;

/// Where a part of a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopAt {
    /// After so many steps.
    Step(usize),
    /// After the first `number` of `of` parts, as equal as can be.
    Part {
        /// This part, from 1.
        number: usize,
        /// How many there are.
        of: usize,
    },
}

impl StopAt {
    /// Returns the last step of this part of a run of `steps` steps.
    pub fn step(self, steps: usize) -> usize {
        match self {
            Self::Step(step) => step.min(steps),
            // In 128 bits, so that nothing overflows.
            Self::Part { number, of } => (steps as u128 * number as u128).div_ceil(of as u128) as usize,
        }
    }
}

impl FromStr for StopAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<usize>().ok().filter(|&number| number > 0);
        let parsed = match text.split_once('/') {
            None => number(text).map(Self::Step),
            Some((part, of)) => number(part)
                .zip(number(of))
                .filter(|(part, of)| part <= of)
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

/// Puts what a part left into `work`, unless a run that was killed left something there already; returns what the part
/// came to.
pub(crate) fn take_up(part: &Path, work: &Path) -> Result<Summary> {
    let summary = read_summary(part)?;
    if !work.join("state").exists() {
        reuse::take(part, summary.step, work)?;
    }
    Ok(summary)
}

/// Reads what a part came to.
pub(crate) fn read_summary(part: &Path) -> Result<Summary> {
    let path = part.join("summary.json");
    let text = fs_err::read_to_string(&path)?;
    let read = || {
        let value: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(Summary {
            step: value["steps"].as_u64()? as usize,
            trained_tokens: value["trained_tokens"].as_u64()?,
            stop: match value["stop"]["kind"].as_str()? {
                "finished" => Stop::Finished,
                "interrupted" => Stop::Interrupted,
                "early" => Stop::Early(value["stop"]["reason"].as_str()?.to_owned()),
                _ => return None,
            },
        })
    };
    read().with_context(|| format!("`{}` does not say what the part came to", path.display()))
}

/// An observer that ends the run where its part ends.
pub(crate) struct Until<'a> {
    inner: &'a mut dyn Observer,
    stop_at: Option<StopAt>,
    last: Option<usize>,
    step: usize,
}

impl<'a> Until<'a> {
    pub(crate) fn new(inner: &'a mut dyn Observer, stop_at: Option<StopAt>) -> Self {
        Self { inner, stop_at, last: None, step: 0 }
    }

    /// Tells whether the part is complete.
    pub(crate) fn is_reached(&self) -> bool {
        self.last.is_some_and(|last| self.step >= last)
    }
}

impl Observer for Until<'_> {
    fn started(&mut self, step: usize, steps: usize) {
        (self.step, self.last) = (step, self.stop_at.map(|stop_at| stop_at.step(steps)));
        self.inner.started(step, steps);
    }

    fn stepped(&mut self, step: usize, report: &StepReport, learning_rate: f64) {
        self.step = step;
        self.inner.stepped(step, report, learning_rate);
    }

    fn reported(&mut self, step: usize, train_loss: f64) {
        self.inner.reported(step, train_loss);
    }

    fn validated(&mut self, step: usize, loss: f64) {
        self.inner.validated(step, loss);
    }

    fn checkpointed(&mut self, step: usize) {
        self.inner.checkpointed(step);
    }

    fn wants_group_norms(&self) -> bool {
        self.inner.wants_group_norms()
    }

    fn interrupted(&self) -> bool {
        self.is_reached() || self.inner.interrupted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_parsed_and_written_back() {
        for text in ["1", "500", "1/1", "2/4"] {
            assert_eq!(text.parse::<StopAt>().map(|stop_at| stop_at.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "0", "-1", "0/4", "5/4", "1/0", "1/2/3", "a", "1/", "/2"] {
            assert!(text.parse::<StopAt>().is_err(), "{text}");
        }
    }

    #[test]
    fn parts_end_in_order_and_the_last_at_the_end() {
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
