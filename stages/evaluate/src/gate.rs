//! The verdict: better on the task beyond noise, and not worse on the guard set.

use failure::{Error, Result};
use metrics::{LossSum, paired_losses};
use outputs::{Comparison, Difference, Direction, Gate, Guard, RowLoss, Scores, Verdict};

use crate::config::{Config, GateSettings};
use crate::guard::GuardSet;
use crate::statistics::{difference, units};

/// Names of the two models that a gate compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contest {
    pub(crate) model: String,
    pub(crate) against: String,
}

impl Contest {
    /// Returns the model of the settings, or else `fused`, or else the last, against the first.
    ///
    /// # Errors
    ///
    /// Fails when there is no such model, or no other to compare it with.
    pub(crate) fn new(settings: &GateSettings, names: &[&str]) -> Result<Self> {
        let (Some(first), Some(last)) = (names.first(), names.last().filter(|_| names.len() > 1)) else {
            return Err(Error::usage("a gate needs two models").hinted("give the base model first"));
        };
        let asked = settings.model.as_str();
        let model = match (asked, names.contains(&"fused")) {
            ("", true) if *first != "fused" => "fused",
            ("", _) => last,
            _ => asked,
        };
        if model == *first || !names.contains(&model) {
            return Err(Error::usage(format!(
                "`gate.model` is `{model}`, which is not one of {}",
                names[1..].join(", ")
            )));
        }
        Ok(Self { model: model.to_owned(), against: (*first).to_owned() })
    }
}

/// Losses of both models on the guard set.
pub(crate) struct GuardLosses<'a> {
    pub(crate) model: &'a [RowLoss],
    pub(crate) against: &'a [RowLoss],
}

/// Compares the losses on the guard set.
///
/// # Errors
///
/// Fails when a setting of the bootstrap is out of range.
pub(crate) fn guard(
    set: &GuardSet,
    losses: &GuardLosses<'_>,
    settings: &GateSettings,
    config: &Config,
) -> Result<Guard> {
    let sums =
        |rows: &[RowLoss]| rows.iter().map(|row| LossSum::new(row.loss, row.tokens)).collect::<Vec<_>>();
    let (model, against) = (sums(losses.model), sums(losses.against));
    let rows: Vec<usize> = (0..model.len()).collect();
    let drawn = units(&rows, &set.groups, config.unit);
    let interval = paired_losses(&against, &model, &drawn, &config.bootstrap())?;
    let mean = |rows: &[LossSum]| rows.iter().copied().sum::<LossSum>().mean().unwrap_or_default();
    let of_rows =
        |rows: &[LossSum]| rows.iter().map(|row| row.mean().unwrap_or_default()).collect::<Vec<_>>();
    let rise = difference(interval, [&of_rows(&model), &of_rows(&against)], Direction::Lower);
    Ok(Guard {
        name: set.name.clone(),
        rows: model.len() as u64,
        tokens: model.iter().map(|row| row.tokens).sum(),
        max_loss: settings.max_loss,
        against_loss: mean(&against),
        loss: mean(&model),
        rise,
    })
}

/// Decides.
///
/// # Errors
///
/// Fails when the models have no score of that name, or one without a better direction.
pub(crate) fn decide(
    settings: &GateSettings,
    contest: &Contest,
    scores: &Scores,
    guard: Option<Guard>,
) -> Result<Gate> {
    let (pair, gain) = gain(&settings.metric, contest, scores)?;
    let title = &scores.metrics[&settings.metric].title;
    let reasons: Vec<String> = [
        pair.identical.then(|| nothing_changed(contest)),
        too_small(title, &gain, settings.min_gain),
        guard.as_ref().and_then(forgotten),
    ]
    .into_iter()
    .flatten()
    .collect();
    Ok(Gate {
        passed: reasons.is_empty(),
        model: contest.model.clone(),
        against: contest.against.clone(),
        metric: settings.metric.clone(),
        min_gain: settings.min_gain,
        gain,
        changed: !pair.identical,
        guard,
        reasons,
    })
}

/// Returns the comparison of the two models, and the gain in `metric`: positive is better.
fn gain<'a>(metric: &str, contest: &Contest, scores: &'a Scores) -> Result<(&'a Comparison, Difference)> {
    let is_pair = |pair: &&Comparison| pair.model == contest.model && pair.against == contest.against;
    let pair = scores.comparisons.iter().find(is_pair);
    let Some((pair, change)) = pair.and_then(|pair| Some((pair, *pair.metrics.get(metric)?))) else {
        let known: Vec<_> = scores.metrics.keys().map(String::as_str).collect();
        let message = format!("`gate.metric` is `{metric}`, which both models do not have");
        return Err(Error::usage(message).hinted(format!("choose one of {}", known.join(", "))));
    };
    match scores.metrics[metric].better {
        Direction::Higher => Ok((pair, change)),
        Direction::Lower => {
            let [value, low, high] = [-change.value, -change.high, -change.low];
            Ok((pair, Difference { value, low, high, ..change }))
        }
        Direction::Neither => {
            let message = format!("`gate.metric` is `{metric}`, of which neither direction is better");
            Err(Error::usage(message).hinted(match crate::known::known_info(metric) {
                Some(_) => "choose another metric".to_owned(),
                None => format!("say which one is: `--set 'evaluate.lower_is_better=[\"{metric}\"]'`, or `higher_is_better`"),
            }))
        }
    }
}

/// Describes that the model is the one it is compared with.
fn nothing_changed(contest: &Contest) -> String {
    let Contest { model, against } = contest;
    format!("training changed nothing: `{model}` gives the answers and losses of `{against}`")
}

/// Describes a gain that is within noise or below `min_gain`; `None` if it is enough.
fn too_small(title: &str, gain: &Difference, min_gain: f64) -> Option<String> {
    let printed = printed(gain);
    match gain.verdict {
        Some(Verdict::Better) if gain.value >= min_gain => None,
        Some(Verdict::Better) => Some(format!("{title} gains {printed}, less than `min_gain` ({min_gain})")),
        Some(Verdict::Worse) => Some(format!("{title} is worse: a gain of {printed}")),
        _ => Some(format!("{title} is not better beyond noise: a gain of {printed}")),
    }
}

/// Describes a loss on the guard set that rises too much; `None` if it does not.
fn forgotten(guard: &Guard) -> Option<String> {
    let (name, rise, max_loss) = (&guard.name, printed(&guard.rise), guard.max_loss);
    (guard.rise.value > max_loss).then(|| {
        format!("the loss on `{name}` rises by {rise} nats per target, more than `max_loss` ({max_loss})")
    })
}

fn printed(difference: &Difference) -> String {
    format!("{:+.4} [{:.4}, {:.4}]", difference.value, difference.low, difference.high)
}

#[cfg(test)]
mod tests {
    use outputs::MetricInfo;

    use super::*;

    fn scores(change: Difference, better: Direction, identical: bool) -> Scores {
        let info = MetricInfo { title: "Loss".to_owned(), better, ..MetricInfo::default() };
        let pair = Comparison {
            model: "fused".to_owned(),
            against: "base".to_owned(),
            identical,
            metrics: [("loss".to_owned(), change)].into(),
        };
        Scores { metrics: [("loss".to_owned(), info)].into(), comparisons: vec![pair], ..Scores::default() }
    }

    fn verdict(change: Difference, settings: &GateSettings, rise: Option<f64>) -> Gate {
        let guard = rise.map(|value| Guard {
            max_loss: settings.max_loss,
            rise: Difference { value, ..Difference::default() },
            ..Guard::default()
        });
        let contest = Contest::new(settings, &["base", "fused"]).unwrap();
        decide(settings, &contest, &scores(change, Direction::Lower, false), guard).unwrap()
    }

    const GOOD: Difference = Difference {
        value: -0.5,
        low: -0.7,
        high: -0.3,
        wins: 9,
        ties: 0,
        losses: 1,
        verdict: Some(Verdict::Better),
    };

    #[test]
    fn a_good_run_passes_and_a_raised_guard_fails() {
        let settings = GateSettings::default();
        let good = verdict(GOOD, &settings, Some(0.05));
        assert!(good.passed && good.changed && (good.gain.low - 0.3).abs() < 1e-12, "{good:?}");
        let forgot = verdict(GOOD, &settings, Some(0.2));
        assert!(!forgot.passed && forgot.reasons[0].contains("nats per target, more than"), "{forgot:?}");
        let small = verdict(GOOD, &GateSettings { min_gain: 0.6, ..settings.clone() }, None);
        assert!(small.reasons[0].contains("less than `min_gain`"), "{small:?}");
        let noise = Difference { verdict: Some(Verdict::WithinNoise), ..GOOD };
        assert!(verdict(noise, &settings, None).reasons[0].contains("not better beyond noise"));
    }

    #[test]
    fn nothing_changed_is_named() {
        let settings = GateSettings::default();
        let contest = Contest::new(&settings, &["base", "fused"]).unwrap();
        let none = Difference { verdict: Some(Verdict::WithinNoise), ..Difference::default() };
        let gate = decide(&settings, &contest, &scores(none, Direction::Lower, true), None).unwrap();
        assert!(
            !gate.passed && !gate.changed && gate.reasons[0].starts_with("training changed nothing"),
            "{gate:?}"
        );
    }

    #[test]
    fn unknown_models_and_metrics_are_refused() {
        let settings = GateSettings { model: "other".to_owned(), ..GateSettings::default() };
        assert!(Contest::new(&settings, &["base", "fused"]).is_err());
        assert!(Contest::new(&GateSettings::default(), &["base"]).is_err());
        let last = Contest::new(&GateSettings::default(), &["base", "a", "b"]).unwrap();
        assert_eq!(last.model, "b");
        let unknown = GateSettings { metric: "chrf".to_owned(), ..GateSettings::default() };
        let contest = Contest::new(&unknown, &["base", "fused"]).unwrap();
        assert!(decide(&unknown, &contest, &scores(GOOD, Direction::Lower, false), None).is_err());
        let neither = scores(GOOD, Direction::Neither, false);
        assert!(decide(&GateSettings::default(), &contest, &neither, None).is_err());
    }
}
