//! The order of the training rows according to the settings: lengths, mixture, curriculum.

use dataset::{MixtureComponents, Split};
use failure::{Error, Required, Result, ensure};
use tuner::{BatchOrder, Curriculum, Mixture};

use crate::config::{Config, CurriculumName};
use crate::inputs::Inputs;
use crate::losses;

/// Makes the order of the training split.
///
/// # Errors
///
/// Fails when `mixture` does not match the components of the dataset (usage), and when a row has no loss to be ordered by
/// (bad input).
pub(crate) fn of_split(inputs: &Inputs<'_>, config: &Config, train: &Split) -> Result<BatchOrder> {
    let lengths: Vec<u32> = (0..train.len()).map(|row| train.row_length(row) as u32).collect();
    let hardness: Option<Vec<f32>> = match config.curriculum {
        CurriculumName::Off => None,
        CurriculumName::Length => Some(lengths.iter().map(|&length| length as f32).collect()),
        CurriculumName::Loss => Some(losses_of_rows(inputs, train.len())?),
    };
    let mut order = config.batch_order(lengths)?;
    if !config.mixture.is_empty() {
        order = order.mixed(mixture(inputs, config, train.len())?);
    }
    if let Some(hardness) = hardness {
        order = order.in_order(Curriculum { hardness, epochs: config.curriculum_epochs });
    }
    Ok(order)
}

fn mixture(inputs: &Inputs<'_>, config: &Config, rows: usize) -> Result<Mixture> {
    let Some(mixture) = MixtureComponents::read(inputs.tokens, rows)? else {
        return Err(Error::usage("`mixture` needs a dataset with mixture components")
            .hinted("name them with the setting `mixture` of prepare-data"));
    };
    Ok(Mixture::new(mixture.components, &config.mixture, config.seed)?)
}

fn losses_of_rows(inputs: &Inputs<'_>, rows: usize) -> Result<Vec<f32>> {
    let file = inputs.losses.required("curriculum = \"loss\" needs the losses of the training rows")?;
    let folder = inputs.rows.required("curriculum = \"loss\" needs the dataset's `rows`")?;
    let stored = folder.join("train.jsonl");
    let losses = losses::of_rows(file, &stored)?;
    ensure!(
        losses.len() == rows,
        "`{}` has {} rows, but the training split has {rows}",
        stored.display(),
        losses.len()
    );
    Ok(losses)
}
