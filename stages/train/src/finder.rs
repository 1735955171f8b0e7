//! The learning-rate finder: a short ramp over many sizes of steps, and what its losses suggest (arXiv:1506.01186).
//!
//! The rate rises exponentially from step to step while the model trains as it would. As long as the rate is too small
//! nothing happens; then the loss falls, faster and faster; then steps are too long and it rises. The suggestion is the
//! rate at which the smoothed loss falls most steeply, but at most a tenth of the one at which it diverges.

use crate::curve;
use crate::{Config, Inputs};
use anyhow::{Context, Result, bail};
use dataset::Split;
use mlx_ext::Backend;
use serde::Serialize;
use serde_json::json;
use std::path::{Path, PathBuf};
use tuner::{Batch, BatchOrder, Trainer};

/// Flags of the finder: they change no artifact.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Learning-rate finder")]
pub struct FinderArgs {
    /// Try learning rates on a short ramp, print one, and make no artifact; the curve goes to --out
    /// (`build/learning-rate` unless given)
    #[arg(long)]
    pub find_learning_rate: bool,
    /// First rate of the ramp
    #[arg(long, value_name = "RATE", default_value_t = 1e-6, requires = "find_learning_rate")]
    pub from: f64,
    /// Last rate of the ramp
    #[arg(long, value_name = "RATE", default_value_t = 1.0, requires = "find_learning_rate")]
    pub to: f64,
    /// Steps of the ramp
    #[arg(long, value_name = "STEPS", default_value_t = 100, requires = "find_learning_rate")]
    pub find_steps: usize,
}

/// Where the curve goes unless a folder is given.
const DEFAULT_FOLDER: &str = "build/learning-rate";

/// The weight of what came before in the smoothed loss.
const SMOOTHING: f64 = 0.9;

/// The ramp ends when the smoothed loss is so many times its lowest, and has diverged.
const GIVE_UP: f64 = 2.0;

/// The loss has diverged when it has risen by this share of its fall.
const DIVERGED: f64 = 0.5;

/// The slope at a step is taken over so many steps to either side.
const SLOPE_REACH: usize = 3;

/// One step of the ramp.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Counted from 1.
    pub step: usize,
    /// The rate of the step.
    pub learning_rate: f64,
    /// Mean loss of its targets, before it.
    pub loss: f64,
    /// Exponential mean of the losses so far, corrected for its start.
    pub smoothed_loss: f64,
}

/// What a ramp came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The rate to train with; none when the loss never fell.
    pub suggestion: Option<f64>,
    /// Where the smoothed loss falls most steeply.
    pub steepest: Option<f64>,
    /// Where it is lowest.
    pub lowest: Option<f64>,
    /// Where it diverges.
    pub divergence: Option<f64>,
}

impl FinderArgs {
    /// Reports flags that do not fit together.
    fn check(&self) -> Result<()> {
        if !(self.from > 0.0 && self.from < self.to && self.to.is_finite()) {
            return Err(stage::usage("`--from` must be above 0 and below `--to`"));
        }
        if self.find_steps < 10 {
            return Err(stage::usage("`--find-steps` must be at least 10"));
        }
        Ok(())
    }

    /// The rate of a step, counted from 0.
    fn rate(&self, step: usize) -> f64 {
        let share = step as f64 / (self.find_steps - 1) as f64;
        (self.from.ln() + share * (self.to / self.from).ln()).exp()
    }
}

/// Runs the ramp, writes `curve.svg` and `curve.json` into `out`, and returns the suggestion.
///
/// # Errors
///
/// Fails when an input does not fit the settings, when the loss never falls, and when `stop` was asked for.
pub fn find_learning_rate(
    inputs: &Inputs<'_>,
    config: &Config,
    backend: &Backend,
    args: &FinderArgs,
    out: Option<&Path>,
    stop: stage::StopFlag,
) -> Result<f64> {
    args.check()?;
    let out = out.map_or_else(|| PathBuf::from(DEFAULT_FOLDER), Path::to_owned);
    let mut points = Vec::new();
    let ended = ramp(inputs, config, backend, args, stop, &mut points)?;
    // After a loss that is no number, the next rate is one too many.
    let broken = ended.as_ref().filter(|ended| ended.is_broken).map(|_| args.rate(points.len()));
    let finding = suggest(&points, broken);
    let ended = ended.map(|ended| ended.reason);
    fs_err::create_dir_all(&out)?;
    write_curve(&out, args, &points, &finding, ended.as_deref())?;
    tracing::info!("the curve is in `{}`", out.join("curve.svg").display());
    if let Some(reason) = ended {
        tracing::info!("the ramp ended after {} of {} steps: {reason}", points.len(), args.find_steps);
    }
    match finding.suggestion {
        Some(rate) => {
            tell(&finding);
            Ok(rate)
        }
        None => bail!(
            "the loss never fell clearly between {:.1e} and {:.1e}\nhint: try more `--find-steps`, another range (`--from`, `--to`), or a larger `batch_size`",
            args.from,
            args.to
        ),
    }
}

fn tell(finding: &Finding) {
    let steepest = finding.steepest.unwrap_or_default();
    let end =
        finding.divergence.map_or("does not diverge".to_owned(), |rate| format!("diverges at {rate:.1e}"));
    tracing::info!("the loss falls most steeply at {steepest:.1e} and {end}");
}

/// Why a ramp ended early.
struct Ended {
    reason: String,
    /// The loss is no longer a number.
    is_broken: bool,
}

/// Takes the steps.
fn ramp(
    inputs: &Inputs<'_>,
    config: &Config,
    backend: &Backend,
    args: &FinderArgs,
    stop: stage::StopFlag,
    points: &mut Vec<Point>,
) -> Result<Option<Ended>> {
    let train = crate::open_split(inputs.tokens, "train")?;
    let (mut trainer, mut plan) = start(inputs, config, backend, &train)?;
    let limit = Some(config.max_gradient_norm as f32).filter(|&norm| norm > 0.0);
    let bar = stage::progress_bar(args.find_steps as u64);
    let mut smooth = Smooth::default();
    let mut lowest = f64::INFINITY;
    for step in 0..args.find_steps {
        stop.check()?;
        let micro_batches: Vec<_> =
            (0..config.accumulation).map(|k| plan.at(step * config.accumulation + k)).collect();
        let batches: Vec<Batch> = micro_batches
            .iter()
            .map(|micro| Batch::of_micro_batch(&train, micro, config.pad_to, None))
            .collect();
        let rate = args.rate(step);
        let loss = match trainer.step(&batches, rate, limit, (step + 1, &[])) {
            Ok(report) => report.mean_loss(),
            Err(tuner::Error::Diverged { reason, .. }) => {
                return Ok(Some(Ended { reason, is_broken: true }));
            }
            Err(error) => return Err(error.into()),
        };
        let smoothed_loss = smooth.take(loss);
        points.push(Point { step: step + 1, learning_rate: rate, loss, smoothed_loss });
        bar.inc(1);
        lowest = lowest.min(smoothed_loss);
        let risen = smoothed_loss - lowest;
        if smoothed_loss > GIVE_UP * lowest && risen > DIVERGED * (loss_before(points) - lowest) {
            return Ok(Some(Ended { reason: "the loss is twice its lowest".to_owned(), is_broken: false }));
        }
    }
    bar.finish_and_clear();
    Ok(None)
}

/// Model, adapters and order as a run has them.
fn start(
    inputs: &Inputs<'_>,
    config: &Config,
    backend: &Backend,
    train: &Split,
) -> Result<(Trainer, BatchOrder)> {
    let mut model = crate::load(inputs.model, config, backend)?;
    tuner::check_vocabulary(&model, train, "train")
        .with_context(|| format!("checking `{}`", inputs.tokens.display()))?;
    let settings = config.adapter();
    let trainable = tuner::attach(&mut model, &settings, config.seed)?;
    let mut trainer = Trainer::new(model, trainable, config.optimizer(), config.seed)?;
    trainer.set_dropout(settings.dropout);
    trainer.set_gradient_checkpointing(config.gradient_checkpointing);
    Ok((trainer, crate::order::plan(inputs, config, train)?))
}

/// An exponential mean that does not lean to zero at its start.
#[derive(Debug, Default)]
struct Smooth {
    sum: f64,
    weight: f64,
}

impl Smooth {
    fn take(&mut self, value: f64) -> f64 {
        self.sum = SMOOTHING * self.sum + (1.0 - SMOOTHING) * value;
        self.weight = SMOOTHING * self.weight + (1.0 - SMOOTHING);
        self.sum / self.weight
    }
}

/// Reads a suggestion off the curve.
///
/// The loss diverges where, after its lowest, it has risen by half of its fall before; a fall of less than 1 % of the
/// loss is none. At the rate `broken` the loss was no number.
pub fn suggest(points: &[Point], broken: Option<f64>) -> Finding {
    let none = Finding { suggestion: None, steepest: None, lowest: None, divergence: None };
    let Some((bottom, lowest)) =
        points.iter().enumerate().min_by(|(_, a), (_, b)| a.smoothed_loss.total_cmp(&b.smoothed_loss))
    else {
        return none;
    };
    let before = loss_before(points);
    let fall = before - lowest.smoothed_loss;
    if fall < 0.01 * before.abs() {
        return none;
    }
    let diverged = |point: &&Point| point.smoothed_loss > lowest.smoothed_loss + DIVERGED * fall;
    let divergence = points[bottom..].iter().find(diverged).map(|point| point.learning_rate).or(broken);
    let slopes = (0..=bottom).map(|index| (slope(points, index), index));
    let steepest = slopes
        .filter(|(slope, _)| slope.is_finite())
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, index)| points[index].learning_rate);
    let suggestion = steepest.map(|rate| divergence.map_or(rate, |divergence| rate.min(divergence / 10.0)));
    Finding {
        suggestion: suggestion.map(two_digits),
        steepest,
        lowest: Some(lowest.learning_rate),
        divergence,
    }
}

/// Mean of the first losses, before anything has happened.
fn loss_before(points: &[Point]) -> f64 {
    let first = &points[..points.len().min(5)];
    first.iter().map(|point| point.loss).sum::<f64>() / first.len() as f64
}

/// Change of the smoothed loss a decade, by least squares around a point.
fn slope(points: &[Point], index: usize) -> f64 {
    let near = &points[index.saturating_sub(SLOPE_REACH)..(index + SLOPE_REACH + 1).min(points.len())];
    let count = near.len() as f64;
    let x = |point: &Point| point.learning_rate.log10();
    let mean_x = near.iter().map(x).sum::<f64>() / count;
    let mean_y = near.iter().map(|point| point.smoothed_loss).sum::<f64>() / count;
    let covariance: f64 = near.iter().map(|point| (x(point) - mean_x) * (point.smoothed_loss - mean_y)).sum();
    let variance: f64 = near.iter().map(|point| (x(point) - mean_x).powi(2)).sum();
    covariance / variance
}

/// The curve knows no more digits.
fn two_digits(rate: f64) -> f64 {
    format!("{rate:.1e}").parse().expect("a number was printed")
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
    let text = serde_json::to_string_pretty(&value).expect("plain numbers");
    fs_err::write(out.join("curve.json"), text + "\n")?;
    fs_err::write(out.join("curve.svg"), curve::svg(points, finding))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ramp of 101 steps from 1e-6 to 1 whose loss is `loss` of the decade, noise aside.
    fn points(loss: impl Fn(f64) -> f64) -> Vec<Point> {
        let mut smooth = Smooth::default();
        (0..=100)
            .map(|step| {
                let decade = -6.0 + 0.06 * f64::from(step);
                let loss = loss(decade);
                Point {
                    step: step as usize + 1,
                    learning_rate: 10_f64.powf(decade),
                    loss,
                    smoothed_loss: smooth.take(loss),
                }
            })
            .collect()
    }

    /// Falls by 1 around 10^`at`, and rises steeply above 10^`end`.
    fn valley(decade: f64, at: f64, end: f64) -> f64 {
        3.0 - 1.0 / (1.0 + (-6.0 * (decade - at)).exp()) + (decade - end).max(0.0) * 8.0
    }

    #[test]
    fn the_suggestion_is_where_the_loss_falls_most_steeply() {
        let finding = suggest(&points(|decade| valley(decade, -3.5, -0.5)), None);
        let rate = finding.suggestion.expect("the loss falls").log10();
        // Smoothing looks back, so the curve lags by a few steps.
        assert!((-3.5..-2.9).contains(&rate), "10^{rate}");
        assert!(finding.divergence.expect("it diverges") > 0.3);
    }

    #[test]
    fn the_suggestion_stays_a_decade_below_divergence() {
        let finding = suggest(&points(|decade| valley(decade, -2.0, -1.8)), None);
        let (rate, divergence) =
            (finding.suggestion.expect("it falls"), finding.divergence.expect("and rises"));
        assert!(rate <= divergence / 9.0, "{rate} and {divergence}");
        assert!(finding.steepest.expect("it falls") > rate);
    }

    #[test]
    fn a_loss_that_breaks_off_counts_as_divergence() {
        let finding = suggest(&points(|decade| valley(decade, -0.5, 1.0)), Some(1.1));
        assert_eq!((finding.divergence, finding.suggestion), (Some(1.1), Some(0.11)));
    }

    #[test]
    fn a_loss_that_does_not_fall_suggests_nothing() {
        assert_eq!(suggest(&points(|_| 2.0), None).suggestion, None);
        assert_eq!(suggest(&points(|decade| 2.0 + (decade + 3.0).max(0.0)), None).suggestion, None);
        assert_eq!(suggest(&[], None).suggestion, None);
    }

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
