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
    /// Artifact of report; absent if the run failed or was not trained to the full length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// Whether the run failed.
    pub failed: bool,
}

impl SweepRecord {
    /// Returns the member with the lowest mean validation loss among those trained for the most steps.
    pub fn best(&self) -> Option<&SweepMember> {
        let longest =
            self.members.iter().filter(|member| member.loss().is_some()).filter_map(SweepMember::steps).max();
        let members = self.members.iter().filter(|member| member.steps() == longest);
        let scored = members.filter_map(|member| Some((member, member.loss()?)));
        scored.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(member, _)| member)
    }
}

impl SweepMember {
    /// Returns the mean validation loss of its runs; `None` if one has none.
    pub fn loss(&self) -> Option<f64> {
        let losses: Option<Vec<f64>> = self.runs.iter().map(|run| run.validation_loss).collect();
        let losses = losses.filter(|losses| !losses.is_empty())?;
        Some(losses.iter().sum::<f64>() / losses.len() as f64)
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
}
