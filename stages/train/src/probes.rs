//! Short runs at fixed rates around the ramp's estimate: the second stage of the finder.
//!
//! A ramp measures every rate for one step, so it finds where the loss falls and where it diverges, but not how far a whole run
//! at one rate gets. Probes measure that: each starts from the same parameters, reads the same rows under the schedule of the
//! settings, and is judged by its loss on rows that it has not seen.

use dataset::Split;
use failure::Result;
use serde::Serialize;
use tuner::{Batch, BatchOrder, ScheduleSettings, Step, TrainingSettings};

use crate::batch_order;
use crate::config::Config;
use crate::subject::Subject;

/// Decades between neighbouring probes.
const SPACING: f64 = 0.5;

/// Largest number of probes: from an estimate that is wrong by two decades, the search still arrives.
const MOST_PROBES: usize = 8;

/// Number of rows that a probe is scored on.
const HELD_OUT_ROWS: usize = 128;

/// The best rate falls with this power of the number of steps (arXiv:2409.19913).
const HORIZON_EXPONENT: f64 = 0.32;

/// A short run at one rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Probe {
    /// Highest learning rate of its schedule.
    pub(crate) learning_rate: f64,
    /// Loss on held-out rows at its end, in nats per target; `None` if it diverged.
    pub(crate) loss: Option<f64>,
}

/// Rates measured by short runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Probing {
    /// Steps of each run.
    pub(crate) steps: usize,
    /// The runs, by rate.
    pub(crate) probes: Vec<Probe>,
    /// Rate with the lowest loss, between the probes.
    pub(crate) lowest: f64,
    /// `lowest`, corrected for the length of the whole run.
    pub(crate) corrected: f64,
}

impl Probing {
    /// Describes the runs in one line.
    pub(crate) fn describe(&self) -> String {
        let loss = |probe: &Probe| probe.loss.map_or("diverged".to_owned(), |loss| format!("{loss:.4}"));
        let probe = |probe: &Probe| format!("{:.1e}: {}", probe.learning_rate, loss(probe));
        let probes: Vec<String> = self.probes.iter().map(probe).collect();
        format!(
            "held-out losses after {} steps at fixed rates: {}; lowest near {:.1e}",
            self.steps,
            probes.join(", "),
            self.lowest
        )
    }
}

/// Measures rates around `center` and returns what it found; `None` if every run diverged.
///
/// # Errors
///
/// Fails as `measure` does.
fn search(center: f64, mut measure: impl FnMut(f64) -> Result<Option<f64>>) -> Result<Option<Search>> {
    // From below: above the best rates a model may collapse to a plateau whose losses differ by chance only.
    let mut search = Search { center, offset: -2, losses: Vec::new() };
    for index in -2..=0 {
        let loss = measure(search.rate(index))?;
        search.losses.push(loss.unwrap_or(f64::INFINITY));
    }
    while search.losses.len() < MOST_PROBES {
        let lowest = search.lowest();
        let last = search.losses.len() - 1;
        let is_finite = search.losses[lowest].is_finite();
        if lowest == 0 || !is_finite {
            let loss = measure(search.rate(search.offset - 1))?;
            search.losses.insert(0, loss.unwrap_or(f64::INFINITY));
            search.offset -= 1;
        } else if lowest == last {
            let loss = measure(search.rate(search.offset + search.losses.len() as i32))?;
            search.losses.push(loss.unwrap_or(f64::INFINITY));
        } else {
            break;
        }
    }
    Ok(Some(search).filter(|search| search.losses[search.lowest()].is_finite()))
}

/// Losses at rates that are [`SPACING`] apart.
struct Search {
    center: f64,
    /// Number of the first rate; the center is 0.
    offset: i32,
    /// Infinite where the run diverged.
    losses: Vec<f64>,
}

impl Search {
    fn rate(&self, number: i32) -> f64 {
        self.center * 10_f64.powf(SPACING * f64::from(number))
    }

    /// Returns the index of the lowest loss; the higher rate of two equal ones, since low rates change nothing.
    fn lowest(&self) -> usize {
        let mut lowest = 0;
        for (index, loss) in self.losses.iter().enumerate() {
            if loss.total_cmp(&self.losses[lowest]).is_le() {
                lowest = index;
            }
        }
        lowest
    }

    /// Returns the runs, by rate.
    fn probes(&self) -> Vec<Probe> {
        let probe = |(index, &loss): (usize, &f64)| Probe {
            learning_rate: self.rate(self.offset + index as i32),
            loss: Some(loss).filter(|loss| loss.is_finite()),
        };
        self.losses.iter().enumerate().map(probe).collect()
    }

    /// Returns the rate at the lowest point of the parabola, over the logarithm of the rate, through the lowest loss and its
    /// neighbours.
    fn best(&self) -> f64 {
        let lowest = self.lowest();
        let number = f64::from(self.offset) + lowest as f64;
        let shift = match (lowest.checked_sub(1), self.losses.get(lowest + 1)) {
            (Some(before), Some(&after)) => vertex(self.losses[before], self.losses[lowest], after),
            _ => 0.0,
        };
        self.center * 10_f64.powf(SPACING * (number + shift))
    }
}

/// Returns where the parabola through (-1, `before`), (0, `lowest`) and (1, `after`) is lowest: from -0.5 to 0.5.
fn vertex(before: f64, lowest: f64, after: f64) -> f64 {
    let (left, right) = (before - lowest, after - lowest);
    match (left.is_finite(), right.is_finite()) {
        (true, true) if left + right > 0.0 => 0.5 * (left - right) / (left + right),
        (true, false) => -0.5,
        (false, true) => 0.5,
        _ => 0.0,
    }
}

/// Corrects the best rate of runs of `steps` steps for a run of `whole` steps.
fn corrected(rate: f64, steps: usize, whole: usize) -> f64 {
    if whole <= steps { rate } else { rate * (steps as f64 / whole as f64).powf(HORIZON_EXPONENT) }
}

/// Returns the schedule of a run, compressed to `steps` steps with the highest rate `peak`: a probe sees the same share of the warmup
/// and as many cycles.
fn compressed(whole: ScheduleSettings, peak: f64, steps: usize) -> ScheduleSettings {
    // In 128 bits, so that the product does not overflow.
    let scaled = |count: usize| (count as u128 * steps as u128 / whole.steps.max(1) as u128) as usize;
    ScheduleSettings {
        peak,
        minimum: whole.minimum.min(peak),
        warmup_steps: scaled(whole.warmup_steps).min(steps.saturating_sub(1)),
        cycle_steps: scaled(whole.cycle_steps).max(1),
        steps,
        ..whole
    }
}

/// Takes probes with the settings of a run.
pub(crate) struct Prober<'a> {
    subject: Subject<'a>,
    train: Split,
    order: BatchOrder,
    held_out: Vec<Batch>,
    settings: TrainingSettings,
    /// Steps of a probe.
    steps: usize,
}

impl<'a> Prober<'a> {
    /// Opens the rows of probes of at most `steps` steps.
    ///
    /// # Errors
    ///
    /// Fails when a split cannot be read or does not fit the settings.
    pub(crate) fn new(subject: Subject<'a>, steps: usize) -> Result<Self> {
        let Subject { inputs, config, .. } = subject;
        let train = inputs.open_split("train")?;
        let mut order = batch_order::of_split(inputs, config, &train)?;
        let settings = config.training_settings(&mut order, None);
        let steps = steps.min(settings.steps);
        let validation = inputs.open_split("validation")?;
        let mut prober = Self { subject, train, order, held_out: Vec::new(), settings, steps };
        prober.held_out =
            if validation.is_empty() { prober.later_batches() } else { prober.batches_of(&validation) };
        Ok(prober)
    }

    /// Measures rates around `estimate`; `None` if every run diverged.
    ///
    /// # Errors
    ///
    /// Fails when the model cannot be loaded or run, and when the program is asked to stop.
    pub(crate) fn probe_around(&mut self, estimate: f64) -> Result<Option<Probing>> {
        let Some(search) = search(estimate, |rate| self.loss(rate))? else { return Ok(None) };
        let lowest = search.best();
        Ok(Some(Probing {
            steps: self.steps,
            probes: search.probes(),
            lowest,
            corrected: corrected(lowest, self.steps, self.settings.steps),
        }))
    }

    /// Returns rows from all over a split.
    fn batches_of(&self, split: &Split) -> Vec<Batch> {
        let count = split.len().min(HELD_OUT_ROWS);
        let mut rows: Vec<u32> = (0..count).map(|index| (index * split.len() / count) as u32).collect();
        rows.sort_by_key(|&row| (split.row_length(row as usize), row));
        let Config { batch_size, .. } = *self.subject.config;
        let pad_to = self.subject.config.pad_to();
        rows.chunks(batch_size).map(|rows| Batch::of_rows(split, rows, pad_to)).collect()
    }

    /// Returns the training rows that follow those of a probe; without validation rows, nothing else is held out.
    fn later_batches(&mut self) -> Vec<Batch> {
        let Config { accumulation, batch_size, .. } = *self.subject.config;
        let first = self.order.batches_of_step(self.steps, accumulation).start;
        let count = HELD_OUT_ROWS.div_ceil(batch_size);
        let pad_to = self.subject.config.pad_to();
        let batch = |index| Batch::of_micro_batch(&self.train, &self.order.at(index), pad_to, None);
        (first..first + count).map(batch).collect()
    }

    /// Trains for the steps of a probe at `rate` and returns the loss on the held-out rows; `None` if it diverges.
    fn loss(&mut self, rate: f64) -> Result<Option<f64>> {
        let Self { subject, train, order, settings, .. } = self;
        let mut trainer = subject.trainer(train)?;
        let schedule = compressed(settings.schedule, rate, self.steps);
        for index in 0..self.steps {
            subject.stop.check()?;
            let micro_batches = order.batches_of_step(index, settings.accumulation);
            let batches: Vec<Batch> =
                micro_batches.map(|batch| subject.batch(train, &order.at(batch))).collect();
            let max_gradient_norm = settings.max_gradient_norm;
            let step = Step { max_gradient_norm, ..Step::new(index + 1, schedule.rate(index)) };
            match trainer.step(&batches, step) {
                Ok(_) => {}
                Err(tuner::Error::Diverged { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        let loss = tuner::mean_loss(&trainer.model()?, &self.held_out)?;
        Ok(Some(loss).filter(|loss| loss.is_finite()))
    }
}

#[cfg(test)]
mod tests {
    use tuner::ScheduleName;

    use super::*;

    /// Searches a curve of losses over the decimal logarithm of the rate; `None` above `end`. Returns the best rate's logarithm
    /// and the number of runs.
    fn found(center: f64, end: f64, loss: impl Fn(f64) -> f64) -> (f64, usize) {
        let measure = |rate: f64| Ok(Some(loss(rate.log10())).filter(|_| rate.log10() < end));
        let search = search(10_f64.powf(center), measure).unwrap().unwrap();
        (search.best().log10(), search.probes().len())
    }

    #[test]
    fn the_lowest_point_is_found_from_a_wrong_estimate() {
        for best in [-5.0, -3.7, -3.0, -1.2] {
            for wrong in [-1.5, -0.7, -0.2, 0.0, 0.4, 1.0, 1.6] {
                let valley = |decade: f64| 4.0 + (decade - best).powi(2);
                let (rate, probes) = found(best + wrong, 9.0, valley);
                assert!((rate - best).abs() < 1e-6 && (3..=MOST_PROBES).contains(&probes), "{best} {wrong}");
            }
        }
    }

    #[test]
    fn a_steep_wall_above_the_valley_does_not_move_the_rate_into_it() {
        // The loss falls slowly, then every run diverges.
        for center in [-4.0, -3.0, -2.2, -1.5, -0.8] {
            let (rate, _) = found(center, -2.0, |decade| 4.0 - 0.1 * decade);
            assert!((-3.0..-2.0).contains(&rate), "{center}: {rate}");
        }
    }

    #[test]
    fn runs_that_all_diverge_give_no_rate() {
        let mut count = 0;
        let search = search(1.0, |_| {
            count += 1;
            Ok(None)
        });
        assert!(search.unwrap().is_none());
        assert_eq!(count, MOST_PROBES);
    }

    #[test]
    fn a_probe_sees_as_many_cycles_as_the_run() {
        for name in [ScheduleName::CosineRestarts, ScheduleName::Cyclic] {
            let whole = ScheduleSettings {
                name,
                peak: 1.0,
                minimum: 0.1,
                warmup_steps: 40,
                cycle_steps: 100,
                steps: 400,
            };
            let probe = compressed(whole, 0.5, 40);
            assert_eq!((probe.warmup_steps, probe.cycle_steps, probe.steps), (4, 10, 40), "{name:?}");
            for step in 4..40 {
                let (found, expected) = (probe.rate(step), whole.rate(10 * step));
                // The minimum is absolute, and the peak is that of the probe.
                let height = (expected - 0.1) / 0.9 * 0.4 + 0.1;
                assert!((found - height).abs() < 1e-9, "{name:?} {step}: {found}, expected {height}");
            }
        }
        let long =
            ScheduleSettings { cycle_steps: usize::MAX, warmup_steps: usize::MAX, ..Default::default() };
        let probe = compressed(ScheduleSettings { steps: usize::MAX, ..long }, 1.0, 40);
        assert_eq!((probe.warmup_steps, probe.cycle_steps), (39, 40));
        assert_eq!(
            compressed(ScheduleSettings { cycle_steps: 5, steps: 400, ..long }, 1.0, 40).cycle_steps,
            1
        );
    }

    #[test]
    fn a_longer_run_has_a_lower_rate_and_a_shorter_one_the_same() {
        assert!(
            (corrected(1e-3, 40, 40) - 1e-3).abs() < 1e-15 && (corrected(1e-3, 40, 20) - 1e-3).abs() < 1e-15
        );
        let tenfold = corrected(1e-3, 40, 400) / 1e-3;
        assert!((0.47..0.49).contains(&tenfold), "{tenfold}");
    }
}
