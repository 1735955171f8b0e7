//! Inputs of a run, and the model that they make.

use std::path::{Path, PathBuf};

use dataset::Split;
use failure::{Context, Result};
use mlx_ext::Backend;
use models::{LoadOptions, Model, Section};
use stage::Segment;
use tuner::Trainer;

use crate::config::Config;

/// Folders and files that a run reads.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Model folder in Hugging Face layout; if it only has a `config.json`, weights are drawn from the seed.
    pub model: &'a Path,
    /// Output `tokens` of a dataset.
    pub tokens: &'a Path,
    /// Output `rows` of a dataset; needed for the distrust loss and curriculum = "loss".
    pub rows: Option<&'a Path>,
    /// Losses of the training rows; needed for curriculum = "loss".
    pub losses: Option<&'a Path>,
    /// Artifacts of published runs that differ only in [`LENGTH_SETTINGS`](crate::LENGTH_SETTINGS), not verified yet.
    pub shorter: &'a [PathBuf],
    /// Segment to resume from.
    pub segment: Option<&'a Segment>,
}

impl Inputs<'_> {
    /// Opens a split of the dataset.
    pub(crate) fn open_split(&self, name: &str) -> Result<Split> {
        let path = self.tokens.join(format!("{name}.safetensors"));
        Split::open(&path).with_context(|| format!("opening the {name} split"))
    }

    /// Loads a section of the model, adds adapters or selects the weights to train, and makes a trainer.
    ///
    /// Checks that the model knows the tokens of `splits`, given with their names.
    pub(crate) fn trainer(
        &self,
        config: &Config,
        backend: &Backend,
        section: Section,
        splits: &[(&str, &Split)],
    ) -> Result<Trainer> {
        let mut model = self.load_model(config, backend, section)?;
        for (name, split) in splits {
            tuner::check_vocabulary(&model, split, name)
                .with_context(|| format!("checking `{}`", self.tokens.display()))?;
        }
        let adapter = config.adapter();
        let trainable = tuner::attach(&mut model, &adapter, config.seed)?;
        let mut trainer = Trainer::new(model, trainable, config.optimizer(), config.seed)?;
        trainer.set_dropout(adapter.dropout);
        trainer.set_gradient_checkpointing(config.gradient_checkpointing);
        Ok(trainer)
    }

    fn load_model(&self, config: &Config, backend: &Backend, section: Section) -> Result<Model> {
        let folder = self.model;
        if models::weight_files(folder)?.is_empty() {
            tracing::info!("`{}` has no weights; drawing them from seed {}", folder.display(), config.seed);
            return Ok(Model::random_section(&folder.join("config.json"), config.seed, section)?);
        }
        let options = LoadOptions::on(backend, config.dtype);
        Model::load_section(folder, &options, section).context("loading the model")
    }
}
