//! Running the subjects of an evaluation.

use std::collections::BTreeMap;
use std::path::PathBuf;

use failure::Result;
use mlx_ext::Backend;
use models::{LoadOptions, Model};
use outputs::{ModelSource, RowLoss};
use tuner::AnswerSettings;

use crate::answers::Answer;
use crate::config::Config;
use crate::gate::Contest;
use crate::guard::GuardSet;
use crate::inputs::{NamedModel, SPLIT, TestSplit};
use crate::rows::Rows;

/// Losses and answers of one subject.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) source: ModelSource,
    /// Losses by row; `None` for answers that were made elsewhere.
    pub(crate) losses: Option<Vec<RowLoss>>,
    /// Losses of every target of every row, if the settings ask for them.
    pub(crate) token_losses: Option<Vec<Vec<f32>>>,
    /// Losses on the guard set, if the gate looks at this model.
    pub(crate) guard: Option<Vec<RowLoss>>,
    /// Answers by index of the row.
    pub(crate) answers: BTreeMap<usize, Answer>,
}

/// Runs models over the split, and keeps the last one loaded, as adapters and checkpoints share it.
pub(crate) struct Runner<'a> {
    pub(crate) split: &'a TestSplit,
    pub(crate) rows: &'a Rows,
    pub(crate) config: &'a Config,
    pub(crate) backend: &'a Backend,
    /// The guard set, and the models that are scored on it.
    pub(crate) guard: Option<(GuardSet, Contest)>,
    pub(crate) loaded: Option<(PathBuf, Model)>,
}

impl Runner<'_> {
    /// Scores the rows of the split and answers its prompts.
    ///
    /// # Errors
    ///
    /// Fails when the model cannot be loaded, does not fit the dataset, or gives a loss that is not finite.
    pub(crate) fn run(&mut self, named: &NamedModel) -> Result<Outcome> {
        let config = self.config;
        let mut model = self.load(named)?;
        if let Some(adapters) = &named.adapters {
            tuner::load_adapters(&mut model, adapters)?;
        }
        let tokens = &self.split.tokens;
        let (losses, token_losses) = if config.token_losses {
            let rows = tuner::token_losses(&model, tokens, SPLIT, config.batch_size)?;
            (rows.iter().map(|losses| tuner::row_loss(losses)).collect(), Some(rows))
        } else {
            (tuner::score(&model, tokens, SPLIT, config.batch_size)?.rows, None)
        };
        let guard = self
            .guard
            .as_ref()
            .filter(|(_, contest)| [&contest.model, &contest.against].contains(&&named.name));
        let guard = guard.map(|(set, _)| tuner::score(&model, &set.split, &set.name, config.batch_size));
        Ok(Outcome {
            name: named.name.clone(),
            source: named.source,
            losses: Some(losses),
            token_losses,
            guard: guard.transpose()?.map(|score| score.rows),
            answers: self.answers(&model)?,
        })
    }

    fn load(&mut self, named: &NamedModel) -> Result<Model> {
        if let Some((folder, model)) = &self.loaded
            && *folder == named.folder
        {
            return Ok(model.clone());
        }
        self.loaded = None; // frees the memory before the next model needs it
        let model = Model::load(&named.folder, &LoadOptions::on(self.backend, self.config.dtype))?;
        self.loaded = Some((named.folder.clone(), model.clone()));
        Ok(model)
    }

    fn answers(&self, model: &Model) -> Result<BTreeMap<usize, Answer>> {
        let settings = AnswerSettings {
            max_tokens: self.config.max_tokens,
            batch_size: self.config.generation_batch_size,
        };
        let prompts = self.split.prompts(&self.rows.asked);
        let answers = tuner::answers(model, &self.split.tokenizer, &prompts, settings)?;
        Ok(self.rows.asked.iter().copied().zip(answers.into_iter().map(Answer::from)).collect())
    }
}
