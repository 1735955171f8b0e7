//! Intervals of the differences between two evaluations, over the rows that both scored.

use std::collections::BTreeMap;

use artifact::Artifact;
use metrics::LossSum;
use metrics::bootstrap::{Bootstrap, paired_losses};
use outputs::{Line, Prediction};

/// Draws of the bootstrap: enough for two digits of a 95% interval, and fast.
const RESAMPLES: usize = 2_000;

/// 95% interval of a difference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Interval {
    pub(super) low: f64,
    pub(super) high: f64,
}

/// Losses of a model's rows, by their ids.
type RowLosses = BTreeMap<String, LossSum>;

/// Returns the intervals of differences by the name of the metric: the paired bootstrap interval of each `MODEL_loss`, if
/// both artifacts are evaluations of the same rows.
pub(super) fn intervals(old: &Artifact, new: &Artifact) -> BTreeMap<String, Interval> {
    let (old, new) = (losses(old), losses(new));
    let mut intervals = BTreeMap::new();
    for (model, old) in &old {
        let Some(new) = new.get(model) else { continue };
        if !old.keys().eq(new.keys()) {
            continue;
        }
        let (old, new): (Vec<LossSum>, Vec<LossSum>) =
            (old.values().copied().collect(), new.values().copied().collect());
        let settings = Bootstrap { resamples: RESAMPLES, ..Bootstrap::default() };
        if let Ok(found) = paired_losses(&old, &new, &settings) {
            intervals.insert(format!("{model}_loss"), Interval { low: found.low, high: found.high });
        }
    }
    intervals
}

/// Reads the losses of every model; none unless the artifact is an evaluation with readable rows.
fn losses(artifact: &Artifact) -> BTreeMap<String, RowLosses> {
    let mut losses = BTreeMap::<String, RowLosses>::new();
    let Some(path) = artifact.output_dir(outputs::PREDICTIONS) else { return losses };
    let Ok(rows) = Prediction::read(&path) else { return losses };
    for row in rows {
        let Ok(row) = row else { return BTreeMap::new() };
        for (model, loss) in row.losses {
            losses.entry(model).or_default().insert(row.id.clone(), LossSum::new(loss.loss, loss.tokens));
        }
    }
    losses
}
