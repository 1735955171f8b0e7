//! The learning-rate finder: a short ramp of learning rates and a suggestion (arXiv:1506.01186).
//!
//! The rate rises exponentially from step to step while the model trains as usual. At small rates nothing happens; then
//! the loss falls, faster and faster; then the steps become too long and it rises. The suggestion is the rate at which the
//! smoothed loss falls most steeply, but at most a tenth of the rate at which it diverges.

use std::path::{Path, PathBuf};

use failure::{Error, Result};
use mlx_ext::Backend;
use serde_json::json;
use stage::StopFlag;
use tuner::{Batch, Step};

use crate::config::Config;
use crate::inputs::Inputs;
use crate::suggestion::{DIVERGED, Finding, Point, Smoothing, initial_loss, suggest};
use crate::{batch_order, curve};

/// Flags of the finder; they do not change any artifact.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Learning-rate finder")]
pub struct FinderArgs {
    /// Try learning rates on a short ramp and print a suggestion instead of training; the curve goes to --out (default:
    /// `build/learning-rate`)
    #[arg(long)]
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
}

/// Folder for the curve unless `--out` is given.
const DEFAULT_FOLDER: &str = "build/learning-rate";

/// The ramp ends when the loss has diverged and the smoothed loss is this many times its minimum.
const GIVE_UP: f64 = 2.0;

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

/// Runs the ramp, writes `curve.svg` and `curve.json` into `out`, and returns the suggested rate.
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
    let mut points = Vec::new();
    let ended = ramp(inputs, config, backend, args, stop, &mut points)?;
    // If the loss became NaN, the next rate counts as the point of divergence.
    let is_broken = ended.as_ref().is_some_and(|ended| ended.is_broken);
    let finding = suggest(&points, is_broken.then(|| args.rate(points.len())));
    let ended = ended.map(|ended| ended.reason);
    fs_err::create_dir_all(&out)?;
    write_curve(&out, args, &points, &finding, ended.as_deref())?;
    tracing::info!("wrote the curve to `{}`", out.join("curve.svg").display());
    if let Some(reason) = ended {
        tracing::info!("the ramp ended after {} of {} steps: {reason}", points.len(), args.find_steps);
    }
    let Some(rate) = finding.suggestion else {
        let message =
            format!("the loss never fell clearly between rates {:.1e} and {:.1e}", args.from, args.to);
        return Err(Error::failed(message)
            .hinted("try more `--find-steps`, another range (`--from`, `--to`), or a larger `batch_size`"));
    };
    let steepest = finding.steepest.unwrap_or_default();
    let end =
        finding.divergence.map_or("does not diverge".to_owned(), |rate| format!("diverges at {rate:.1e}"));
    tracing::info!("the loss falls most steeply at rate {steepest:.1e} and {end}");
    Ok(rate)
}

/// Why a ramp ended early.
struct Ended {
    reason: String,
    /// Whether the loss became NaN or infinite.
    is_broken: bool,
}

/// Takes the steps of the ramp and collects their points.
fn ramp(
    inputs: &Inputs<'_>,
    config: &Config,
    backend: &Backend,
    args: &FinderArgs,
    stop: StopFlag,
    points: &mut Vec<Point>,
) -> Result<Option<Ended>> {
    let train = inputs.open_split("train")?;
    let mut trainer = inputs.trainer(config, backend, &[("train", &train)])?;
    let mut order = batch_order::of_split(inputs, config, &train)?;
    let max_gradient_norm = config.max_gradient_norm();
    let bar = stage::progress_bar(args.find_steps as u64);
    let mut smoothing = Smoothing::default();
    let mut lowest = f64::INFINITY;
    for step in 0..args.find_steps {
        stop.check()?;
        let micro_batches: Vec<_> =
            (0..config.accumulation).map(|k| order.at(step * config.accumulation + k)).collect();
        let batches: Vec<Batch> = micro_batches
            .iter()
            .map(|micro_batch| Batch::of_micro_batch(&train, micro_batch, config.pad_to(), None))
            .collect();
        let rate = args.rate(step);
        let loss = match trainer.step(&batches, Step { max_gradient_norm, ..Step::new(step + 1, rate) }) {
            Ok(report) => report.mean_loss(),
            Err(tuner::Error::Diverged { reason, .. }) => {
                return Ok(Some(Ended { reason, is_broken: true }));
            }
            Err(error) => return Err(error.into()),
        };
        let smoothed_loss = smoothing.add(loss);
        points.push(Point { step: step + 1, learning_rate: rate, loss, smoothed_loss });
        bar.inc(1);
        lowest = lowest.min(smoothed_loss);
        let fall = initial_loss(points) - lowest;
        if smoothed_loss > GIVE_UP * lowest && smoothed_loss - lowest > DIVERGED * fall {
            let reason = "the loss is twice its minimum".to_owned();
            return Ok(Some(Ended { reason, is_broken: false }));
        }
    }
    bar.finish_and_clear();
    Ok(None)
}

fn write_curve(
    out: &Path,
    args: &FinderArgs,
    points: &[Point],
    finding: &Finding,
    ended: Option<&str>,
) -> Result<()> {
    let value = json!({
        "divergence": finding.divergence,
        "ended": ended,
        "from": args.from,
        "lowest": finding.lowest,
        "points": points,
        "steepest": finding.steepest,
        "steps": args.find_steps,
        "suggestion": finding.suggestion,
        "to": args.to,
    });
    let text = serde_json::to_string_pretty(&value).expect("numbers are always JSON");
    fs_err::write(out.join("curve.json"), text + "\n")?;
    fs_err::write(out.join("curve.svg"), curve::svg(points, finding))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_by_the_same_factor_from_end_to_end() {
        let args = FinderArgs { find_learning_rate: true, from: 1e-5, to: 1e-1, find_steps: 41 };
        assert!((args.rate(0) / 1e-5 - 1.0).abs() < 1e-12);
        assert!((args.rate(40) / 1e-1 - 1.0).abs() < 1e-12);
        assert!((args.rate(10) / 1e-4 - 1.0).abs() < 1e-12);
        assert!(args.check().is_ok());
        assert!(FinderArgs { to: 1e-6, ..args.clone() }.check().is_err());
        assert!(FinderArgs { find_steps: 3, ..args }.check().is_err());
    }
}
