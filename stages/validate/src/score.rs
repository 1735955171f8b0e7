//! Scoring one checkpoint, and writing the losses of all of them.

use std::path::Path;

use dataset::Split;
use failure::{Context, Error, Kind, Result};
use mlx_ext::Backend;
use models::{LoadOptions, Model};
use outputs::{Changes, CheckpointLosses, Document, Losses, NamedRowLoss};
use tuner::{Answer, Score};

use crate::answers::Questions;
use crate::candidates::Candidate;
use crate::config::{Config, SPLIT};

/// File of a unit: the losses of one checkpoint, row by row.
const SCORES: &str = "scores.json";
/// File of a unit: the answers of one checkpoint, prompt by prompt.
const ANSWERS: &str = "answers.json";

/// The base model and the validation split, opened once for all checkpoints.
pub struct Scorer {
    base: Model,
    validation: Split,
    batch_size: usize,
}

impl Scorer {
    /// Opens the base model and the validation split.
    ///
    /// # Errors
    ///
    /// Fails when one of them cannot be read.
    pub fn open(model: &Path, tokens: &Path, config: &Config, backend: &Backend) -> Result<Self> {
        let base =
            Model::load(model, &LoadOptions::on(backend, config.dtype)).context("loading the model")?;
        let validation = Split::open(&tokens.join(format!("{SPLIT}.safetensors")))?;
        Ok(Self { base, validation, batch_size: config.batch_size })
    }

    /// Scores one checkpoint, lets it answer `questions`, and writes the unit's files to `out`.
    ///
    /// # Errors
    ///
    /// Fails when the adapters do not fit the model or when a loss is not finite.
    pub fn score(&self, candidate: &Candidate, questions: Option<&Questions>, out: &Path) -> Result<()> {
        let mut model = self.base.clone();
        if let Some(adapters) = &candidate.adapters {
            tuner::load_adapters(&mut model, adapters)?;
        }
        let score = tuner::score(&model, &self.validation, SPLIT, self.batch_size)?;
        let text = serde_json::to_string(&score.rows).expect("numbers are always JSON");
        fs_err::write(out.join(SCORES), text + "\n")?;
        if let Some(questions) = questions {
            let text = serde_json::to_string(&questions.ask(&model)?).expect("texts are always JSON");
            fs_err::write(out.join(ANSWERS), text + "\n")?;
        }
        Ok(())
    }
}

/// Reads the file that [`Scorer::score`] wrote to `folder`.
///
/// # Errors
///
/// Fails when the file is missing or damaged.
pub fn read_score(folder: &Path) -> Result<Score> {
    Ok(Score { rows: read(&folder.join(SCORES))? })
}

/// Reads the answers that [`Scorer::score`] wrote to `folder`.
///
/// # Errors
///
/// Fails when the file is missing or damaged.
pub fn read_answers(folder: &Path) -> Result<Vec<Answer>> {
    read(&folder.join(ANSWERS))
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_str(&fs_err::read_to_string(path)?)
        .map_err(|error| Error::wrap(Kind::BadInput, error))
        .with_context(|| format!("reading `{}`", path.display()))
}

/// Score of a checkpoint.
pub struct CheckpointScore {
    /// Step of the checkpoint; 0 is the base model.
    pub step: u64,
    /// Its losses, row by row.
    pub score: Score,
}

/// Writes `losses.json` and `changes.json` to `out`, with ids and groups of the rows in the folder `rows`.
///
/// # Errors
///
/// Fails when the rows cannot be read, when their number differs from that of the scores, or when `out` cannot be
/// written.
pub fn write_losses(rows: &Path, scores: &[CheckpointScore], out: &Path) -> Result<()> {
    let path = rows.join(format!("{SPLIT}.jsonl"));
    let names = dataset::read_rows(&path)?.map(|row| row.map(|row| (row.id, row.group)));
    let names = names.collect::<dataset::Result<Vec<(String, Option<String>)>>>()?;
    let mut checkpoints = Vec::new();
    for CheckpointScore { step, score } in scores {
        dataset::check_rows(&path, names.len(), score.rows.len())?;
        let named = names.iter().zip(&score.rows).map(|((id, group), row)| NamedRowLoss {
            group: group.clone(),
            id: id.clone(),
            loss: row.loss,
            tokens: row.tokens,
        });
        checkpoints.push(CheckpointLosses::new(*step, named.collect()));
    }
    let tokens = checkpoints.first().map_or(0, |base| base.tokens);
    let losses = Losses { split: SPLIT.to_owned(), rows: names.len() as u64, tokens, checkpoints };
    Changes::new(&losses).write(out)?;
    Ok(losses.write(out)?)
}
