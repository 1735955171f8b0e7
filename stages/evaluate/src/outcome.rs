//! Running one model over the split.

use std::collections::BTreeMap;

use failure::Result;
use mlx_ext::Backend;
use models::{GenerationOptions, LoadOptions, Model};
use outputs::RowLoss;

use crate::config::Config;
use crate::inputs::{NamedModel, SPLIT, TestSplit};

/// Losses and answers of one model.
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) losses: Vec<RowLoss>,
    /// Losses of every target of every row, if the settings ask for them.
    pub(crate) token_losses: Option<Vec<Vec<f32>>>,
    /// Answers by index of the row.
    pub(crate) answers: BTreeMap<usize, String>,
}

/// Scores the rows of the split and answers its prompts.
pub(crate) fn outcome(
    named: &NamedModel,
    split: &TestSplit,
    config: &Config,
    backend: &Backend,
) -> Result<Outcome> {
    let mut model = Model::load(&named.folder, &LoadOptions::on(backend, config.dtype))?;
    if let Some(adapters) = &named.adapters {
        tuner::load_adapters(&mut model, adapters)?;
    }
    let (losses, token_losses) = if config.token_losses {
        let rows = tuner::token_losses(&model, &split.tokens, SPLIT, config.batch_size)?;
        (rows.iter().map(|losses| tuner::row_loss(losses)).collect(), Some(rows))
    } else {
        (tuner::score(&model, &split.tokens, SPLIT, config.batch_size)?.rows, None)
    };
    let options = GenerationOptions {
        max_tokens: config.max_tokens,
        stop: split.tokenizer.eos().to_vec(),
        batch_size: config.generation_batch_size,
    };
    let mut answers = BTreeMap::new();
    let generations = models::generate(&model, &split.prompts(), &options)?;
    for (&row, generation) in split.asked.iter().zip(generations) {
        answers.insert(row, split.tokenizer.decode(&generation.tokens, true)?.trim().to_owned());
    }
    Ok(Outcome { name: named.name.clone(), losses, token_losses, answers })
}
