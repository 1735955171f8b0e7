//! The order of the rows as the settings ask for it: lengths, mixture, curriculum.

use crate::config::CurriculumName;
use crate::{Config, Inputs, losses};
use anyhow::{Context, Result};
use dataset::{MixtureComponents, Split};
use tuner::{BatchPlan, Curriculum, Mixture, MixturePart};

/// Plans the micro-batches of the training split.
///
/// # Errors
///
/// Fails when the mixture's parts are not those of the dataset (a wrong setting), and when a row has no loss to be
/// ordered by (bad input).
pub(crate) fn plan(inputs: &Inputs<'_>, config: &Config, train: &Split) -> Result<BatchPlan> {
    let lengths: Vec<u32> = (0..train.len()).map(|row| train.row_length(row) as u32).collect();
    let hardness: Option<Vec<f32>> = match config.curriculum {
        CurriculumName::Off => None,
        CurriculumName::Length => Some(lengths.iter().map(|&length| length as f32).collect()),
        CurriculumName::Loss => Some(by_loss(inputs, train.len())?),
    };
    let mut plan = config.plan(lengths)?;
    if !config.mixture.is_empty() {
        plan = plan.mixed(mixture(inputs, config, train.len())?);
    }
    if let Some(hardness) = hardness {
        plan = plan.in_order(Curriculum { hardness, epochs: config.curriculum_epochs });
    }
    Ok(plan)
}

fn mixture(inputs: &Inputs<'_>, config: &Config, rows: usize) -> Result<Mixture> {
    let Some(mixture) = MixtureComponents::read(inputs.tokens, rows)? else {
        return Err(stage::usage(
            "`mixture` needs a dataset with parts\nhint: name them with the setting `mixture` of prepare-data",
        ));
    };
    let parts = mixture.components.into_iter();
    let parts = parts.map(|component| MixturePart { name: component.name, rows: component.rows }).collect();
    Mixture::new(parts, &config.mixture, config.seed).map_err(stage::usage)
}

fn by_loss(inputs: &Inputs<'_>, rows: usize) -> Result<Vec<f32>> {
    let file = inputs.losses.context("a curriculum by loss needs the losses")?;
    let stored = inputs.rows.context("a curriculum by loss needs the dataset's `rows`")?.join("train.jsonl");
    let losses = losses::of_rows(file, &stored)?;
    anyhow::ensure!(losses.len() == rows, "`{}` and its tokens differ in length", stored.display());
    Ok(losses)
}
