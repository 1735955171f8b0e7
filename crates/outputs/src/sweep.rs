//! `sweep.json`: the members of a sweep and how they ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::files::Document;
use crate::stages;

/// Members of a sweep with what came out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SweepRecord {
    /// Name of the sweep.
    pub name: String,
    /// Kind of search: `grid`, `random`, `halving` or `tpe`.
    pub search: String,
    /// Names of the settings that vary, such as `train.rank`.
    pub varied: Vec<String>,
    /// Steps trained for all members, without those that a run took over from a shorter one.
    pub trained_steps: u64,
    /// Steps that it would take to train every member to the full length, if only some were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_steps: Option<u64>,
    /// The members, in the order in which they were chosen.
    pub members: Vec<SweepMember>,
}

/// One combination of the settings that vary.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SweepMember {
    /// Name made from its settings.
    pub name: String,
    /// Values of the settings that vary, as `--set` reads them.
    pub values: BTreeMap<String, String>,
    /// Its runs, one for each seed.
    pub runs: Vec<SweepRun>,
}

/// One run of the pipeline.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SweepRun {
    /// Seed, if the sweep sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Steps trained, those taken over from a shorter run included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Validation loss of the chosen checkpoint, in nats per target; absent if the run failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
    /// Score of the chosen checkpoint, if `select-best` used a metric of generated answers instead of the loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_score: Option<SweepScore>,
    /// Artifact of report; absent if the run failed or was not trained to the full length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// Whether the run failed.
    pub failed: bool,
}

/// A score of answers on the validation split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepScore {
    /// Name of the metric.
    pub metric: String,
    /// The score of the chosen checkpoint.
    pub value: f64,
    /// Whether a higher score is better.
    pub higher_is_better: bool,
}

impl SweepRecord {
    /// Returns the metric that ranks the members, and whether higher is better: the one that `select-best` used in every run.
    /// `None` means the validation loss, which also ranks the members if the runs used different metrics.
    pub fn metric(&self) -> Option<(&str, bool)> {
        let runs = self.members.iter().flat_map(|member| &member.runs);
        let mut scores = runs.filter(|run| run.validation_loss.is_some()).map(|run| {
            run.validation_score.as_ref().map(|score| (score.metric.as_str(), score.higher_is_better))
        });
        let first = scores.next()??;
        scores.all(|score| score == Some(first)).then_some(first)
    }

    /// Returns the mean over a member's runs of the metric that ranks the members, or of the validation loss in nats per target;
    /// `None` if a run has no value.
    pub fn result(&self, member: &SweepMember) -> Option<f64> {
        if self.metric().is_none() {
            return member.loss();
        }
        mean(member.runs.iter().map(|run| run.validation_score.as_ref().map(|score| score.value)))
    }

    /// Returns [`SweepRecord::result`], negated if higher is better, so that the lowest cost is the best.
    pub fn cost(&self, member: &SweepMember) -> Option<f64> {
        let higher_is_better = self.metric().is_some_and(|(_, higher)| higher);
        self.result(member).map(|result| if higher_is_better { -result } else { result })
    }

    /// Returns the best member among those trained for the most steps.
    pub fn best(&self) -> Option<&SweepMember> {
        let longest =
            self.members.iter().filter(|member| member.loss().is_some()).filter_map(SweepMember::steps).max();
        let members = self.members.iter().filter(|member| member.steps() == longest);
        let scored = members.filter_map(|member| Some((member, self.cost(member)?)));
        scored.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(member, _)| member)
    }

    /// Describes the best member's result: `a validation loss of 1.2345`, or `a validation chrf of 31.2000`.
    pub fn describe_best(&self) -> Option<String> {
        let result = self.result(self.best()?)?;
        let metric = self.metric().map_or("loss", |(metric, _)| metric);
        Some(format!("a validation {metric} of {result:.4}"))
    }
}

/// Returns the mean; `None` if there are no numbers or one is missing.
fn mean(numbers: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let numbers: Vec<f64> = numbers.collect::<Option<_>>()?;
    (!numbers.is_empty()).then(|| numbers.iter().sum::<f64>() / numbers.len() as f64)
}

impl SweepMember {
    /// Returns the mean validation loss of its runs; `None` if one has none.
    pub fn loss(&self) -> Option<f64> {
        mean(self.runs.iter().map(|run| run.validation_loss))
    }

    /// Returns the steps of its longest run.
    pub fn steps(&self) -> Option<u64> {
        self.runs.iter().filter_map(|run| run.steps).max()
    }
}

impl Document for SweepRecord {
    const FILE: &'static str = stages::SWEEP;
    const STAGE: &'static str = "sweep";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, steps: u64, losses: &[Option<f64>]) -> SweepMember {
        let run = |loss: &Option<f64>| SweepRun {
            steps: Some(steps),
            validation_loss: *loss,
            failed: loss.is_none(),
            ..SweepRun::default()
        };
        SweepMember {
            name: name.to_owned(),
            runs: losses.iter().map(run).collect(),
            ..SweepMember::default()
        }
    }

    #[test]
    fn the_best_has_the_lowest_mean_of_those_trained_longest() {
        let members = vec![
            member("short", 10, &[Some(1.0), Some(1.0)]),
            member("uneven", 20, &[Some(1.2), Some(2.0)]),
            member("even", 20, &[Some(1.5), Some(1.5)]),
            member("failed", 20, &[Some(0.1), None]),
        ];
        let record = SweepRecord { members, ..SweepRecord::default() };
        assert_eq!(record.best().map(|member| member.name.as_str()), Some("even"));
        assert_eq!(SweepRecord::default().best(), None);
    }

    fn scored(name: &str, metric: &str, values: &[f64]) -> SweepMember {
        let mut member = member(name, 20, &vec![Some(values[0]); values.len()]);
        for (run, value) in member.runs.iter_mut().zip(values) {
            let higher_is_better = metric != "ter";
            run.validation_score =
                Some(SweepScore { metric: metric.to_owned(), value: *value, higher_is_better });
        }
        member
    }

    #[test]
    fn the_metric_of_the_choice_compares_the_members() {
        let best = |members: Vec<SweepMember>| {
            let record = SweepRecord { members, ..SweepRecord::default() };
            (record.best().map(|member| member.name.clone()), record.describe_best())
        };
        let members =
            |metric: &str| vec![scored("low", metric, &[20.0, 30.0]), scored("high", metric, &[26.0])];
        assert_eq!(best(members("chrf")), (Some("high".into()), Some("a validation chrf of 26.0000".into())));
        assert_eq!(best(members("ter")), (Some("low".into()), Some("a validation ter of 25.0000".into())));
        // Members that were not chosen by the same metric are compared by their losses.
        let mixed = vec![scored("chrf", "chrf", &[40.0]), scored("ter", "ter", &[50.0])];
        assert_eq!(best(mixed), (Some("chrf".into()), Some("a validation loss of 40.0000".into())));
        let partly = vec![scored("chrf", "chrf", &[40.0]), member("loss", 20, &[Some(1.5)])];
        assert_eq!(best(partly), (Some("loss".into()), Some("a validation loss of 1.5000".into())));
        // A failed run does not count.
        let failed = vec![member("failed", 20, &[None]), scored("low", "chrf", &[1.0])];
        assert_eq!(best(failed), (Some("low".into()), Some("a validation chrf of 1.0000".into())));
    }
}
