//! The learning-rate finder: a short ramp of learning rates (arXiv:1506.01186), then short runs around its estimate.
//!
//! On the ramp the rate rises exponentially from step to step while the model trains as usual. At small rates nothing happens;
//! then the loss falls; then the steps become too long and it rises. What counts is the difference between the loss of a
//! step's rows and the loss of the same rows before training: rows are harder or easier than others by far more than a step
//! changes. How far a run at one rate gets is measured by the probes in [`crate::probes`].

use std::path::{Path, PathBuf};

use failure::{Error, Result};
use mlx_ext::Backend;
use serde_json::json;
use stage::StopFlag;
use tuner::{Batch, Step};

use crate::config::Config;
use crate::inputs::Inputs;
use crate::probes::{Prober, Probing};
use crate::subject::Subject;
use crate::suggestion::{Finding, Point, has_risen, smooth, suggest, two_digits};
use crate::{batch_order, curve, distrust};

/// Flags of the finder; they do not change any artifact.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Learning-rate finder")]
pub struct FinderArgs {
    /// Try learning rates on a short ramp and print a suggestion instead of training; the curve goes to --out (default:
    /// `build/learning-rate`)
    #[arg(long, conflicts_with = "plan")]
    pub find_learning_rate: bool,
    /// First learning rate of the ramp
    #[arg(long, value_name = "RATE", default_value_t = 1e-6, requires = "find_learning_rate")]
    pub from: f64,
    /// Last learning rate of the ramp
    #[arg(long, value_name = "RATE", default_value_t = 1.0, requires = "find_learning_rate")]
    pub to: f64,
    /// Number of steps of the ramp
    #[arg(long, value_name = "STEPS", default_value_t = 100, requires = "find_learning_rate")]
    pub find_steps: usize,
    /// Steps of each short run that tests a rate around the estimate of the ramp; 0 to print that estimate
    #[arg(long, value_name = "STEPS", default_value_t = 40, requires = "find_learning_rate")]
    pub probe_steps: usize,
}

/// Folder for the curve unless `--out` is given.
const DEFAULT_FOLDER: &str = "build/learning-rate";

/// The ramp ends when the smoothed loss has risen by this many times its fall, and is well above where it began.
const GIVE_UP: f64 = 4.0;

impl FinderArgs {
    /// Checks that the flags fit together.
    fn check(&self) -> Result<()> {
        if !(self.from > 0.0 && self.from < self.to && self.to.is_finite()) {
            return Err(Error::usage("`--from` must be above 0 and below `--to`"));
        }
        if self.find_steps < 10 {
            return Err(Error::usage("`--find-steps` must be at least 10"));
        }
        Ok(())
    }

    /// Returns the rate of a step, counted from 0.
    fn rate(&self, step: usize) -> f64 {
        let share = step as f64 / (self.find_steps - 1) as f64;
        (self.from.ln() + share * (self.to / self.from).ln()).exp()
    }
}

/// Runs the ramp and the probes, writes `curve.svg` and `curve.json` into `out`, and returns the suggested rate.
///
/// # Errors
///
/// Fails when an input does not fit the settings, when the loss never falls, and when `stop` is set.
pub fn find_learning_rate(
    inputs: &Inputs<'_>,
    config: &Config,
    backend: &Backend,
    args: &FinderArgs,
    out: Option<&Path>,
    stop: StopFlag,
) -> Result<f64> {
    args.check()?;
    let out = out.map_or_else(|| PathBuf::from(DEFAULT_FOLDER), Path::to_owned);
    let distrust = distrust::of_rows(inputs, config)?;
    let outcome = measure(Subject { inputs, config, backend, distrust: distrust.as_ref(), stop }, args)?;
    outcome.write(&out, args)?;
    outcome.log(args);
    outcome.finding.suggestion.ok_or_else(|| {
        let message =
            format!("the loss never fell clearly between rates {:.1e} and {:.1e}", args.from, args.to);
        Error::failed(message)
            .hinted("try more `--find-steps`, another range (`--from`, `--to`), or a larger `batch_size`")
    })
}

/// Runs the ramp, and probes around its estimate.
fn measure(subject: Subject<'_>, args: &FinderArgs) -> Result<Outcome> {
    let mut points = Vec::new();
    let ended = ramp(subject, args, &mut points)?;
    // If the loss became NaN, the next rate counts as the point of divergence.
    let is_broken = ended.as_ref().is_some_and(|ended| ended.is_broken);
    let mut finding = suggest(&points, is_broken.then(|| args.rate(points.len())));
    let estimate = finding.suggestion;
    let probing = match estimate {
        Some(estimate) if args.probe_steps > 0 => {
            Prober::new(subject, args.probe_steps)?.probe_around(estimate)?
        }
        _ => None,
    };
    if let Some(probing) = &probing {
        finding.suggestion = Some(two_digits(probing.corrected));
    }
    Ok(Outcome { points, finding, estimate, probing, ended: ended.map(|ended| ended.reason) })
}

/// Why a ramp ended early.
struct Ended {
    reason: String,
    /// Whether the loss became NaN or infinite.
    is_broken: bool,
}

/// Takes the steps of the ramp and collects their points.
fn ramp(subject: Subject<'_>, args: &FinderArgs, points: &mut Vec<Point>) -> Result<Option<Ended>> {
    let Subject { inputs, config, stop, .. } = subject;
    let train = inputs.open_split("train")?;
    let mut trainer = subject.trainer(&train)?;
    let mut order = batch_order::of_split(inputs, config, &train)?;
    let max_gradient_norm = config.max_gradient_norm();
    let bar = stage::progress_bar(args.find_steps as u64);
    let untrained = trainer.model()?;
    for step in 0..args.find_steps {
        stop.check()?;
        let indices = order.batches_of_step(step, config.accumulation);
        let batches: Vec<Batch> = indices.map(|index| subject.batch(&train, &order.at(index))).collect();
        let rate = args.rate(step);
        let untrained_loss = tuner::mean_loss(&untrained, &batches)?;
        let loss = match trainer.step(&batches, Step { max_gradient_norm, ..Step::new(step + 1, rate) }) {
            Ok(report) => report.mean_loss(),
            Err(tuner::Error::Diverged { reason, .. }) => {
                return Ok(Some(Ended { reason, is_broken: true }));
            }
            Err(error) => return Err(error.into()),
        };
        points.push(Point { step: step + 1, learning_rate: rate, loss, untrained_loss, smoothed_loss: loss });
        bar.inc(1);
        smooth(points);
        if has_risen(points, GIVE_UP) {
            let reason = "the loss has risen far above where it began".to_owned();
            return Ok(Some(Ended { reason, is_broken: false }));
        }
    }
    bar.finish_and_clear();
    Ok(None)
}

/// Everything that `curve.json` holds.
struct Outcome {
    points: Vec<Point>,
    finding: Finding,
    /// Suggestion of the ramp alone.
    estimate: Option<f64>,
    probing: Option<Probing>,
    /// Why the ramp ended early.
    ended: Option<String>,
}

impl Outcome {
    /// Writes `curve.json` and `curve.svg` into `out`.
    fn write(&self, out: &Path, args: &FinderArgs) -> Result<()> {
        let Self { points, finding, estimate, probing, ended } = self;
        let value = json!({
            "divergence": finding.divergence,
            "ended": ended,
            "estimate": estimate,
            "from": args.from,
            "half": finding.half,
            "lowest": finding.lowest,
            "points": points,
            "probing": probing,
            "steps": args.find_steps,
            "suggestion": finding.suggestion,
            "to": args.to,
        });
        let text = serde_json::to_string_pretty(&value).expect("numbers are always JSON");
        fs_err::create_dir_all(out)?;
        fs_err::write(out.join("curve.json"), text + "\n")?;
        fs_err::write(out.join("curve.svg"), curve::svg(points, finding))?;
        tracing::info!("wrote the curve to `{}`", out.join("curve.svg").display());
        Ok(())
    }

    /// Logs how the ramp ended, and what was found.
    fn log(&self, args: &FinderArgs) {
        let Self { points, finding, probing, ended, .. } = self;
        if let Some(reason) = ended {
            tracing::info!("the ramp ended after {} of {} steps: {reason}", points.len(), args.find_steps);
        }
        if finding.suggestion.is_none() {
            return;
        }
        let number = |rate: Option<f64>| rate.map_or("no rate".to_owned(), |rate| format!("{rate:.1e}"));
        tracing::info!(
            "half of the fall is done at rate {}, the loss is lowest at {} and diverges at {}",
            number(finding.half),
            number(finding.lowest),
            number(finding.divergence)
        );
        if let Some(probing) = probing {
            tracing::info!("{}", probing.describe());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_by_the_same_factor_from_end_to_end() {
        let args =
            FinderArgs { find_learning_rate: true, from: 1e-5, to: 1e-1, find_steps: 41, probe_steps: 0 };
        assert!((args.rate(0) / 1e-5 - 1.0).abs() < 1e-12);
        assert!((args.rate(40) / 1e-1 - 1.0).abs() < 1e-12);
        assert!((args.rate(10) / 1e-4 - 1.0).abs() < 1e-12);
        assert!(args.check().is_ok());
        assert!(FinderArgs { to: 1e-6, ..args.clone() }.check().is_err());
        assert!(FinderArgs { find_steps: 3, ..args }.check().is_err());
    }
}
