//! All models on one split.

use std::path::Path;

use failure::{Context, Result};
use mlx_ext::Backend;
use outputs::{Document, Scores};
use stage::StopFlag;

use crate::config::Config;
use crate::files::{write_predictions, write_token_losses};
use crate::inputs::{DatasetFolders, NamedModel, TestSplit};
use crate::outcome::outcome;
use crate::scores::scores;

/// Writes `predictions.jsonl`, `metrics.json` and, with `token_losses`, `token_losses.jsonl` to `out`; returns the scores.
///
/// # Errors
///
/// Fails when a model or the dataset cannot be read, when a loss is not finite, or when `stop` is set between two models.
pub fn evaluate(
    models: &[NamedModel],
    dataset: DatasetFolders<'_>,
    config: &Config,
    backend: &Backend,
    out: &Path,
    stop: &StopFlag,
) -> Result<Scores> {
    let split = TestSplit::open(dataset, config)?;
    let mut outcomes = Vec::new();
    for model in models {
        stop.check()?;
        let (rows, prompts) = (split.rows.len(), split.asked.len());
        tracing::info!("{}: scoring {rows} rows, answering {prompts} prompts", model.name);
        let outcome = outcome(model, &split, config, backend);
        outcomes.push(outcome.with_context(|| format!("evaluating `{}`", model.name))?);
    }
    write_predictions(&split, &outcomes, out)?;
    if config.token_losses {
        write_token_losses(&split, &outcomes, out)?;
    }
    let scores = scores(&split, &outcomes, config.seed)?;
    scores.write(out)?;
    Ok(scores)
}
