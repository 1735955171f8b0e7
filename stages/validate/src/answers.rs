//! Answers of every checkpoint to prompts of the validation split.

use std::collections::BTreeMap;
use std::path::Path;

use dataset::{Split, StoredRow, TextTokenizer};
use failure::{Context, Error, Result};
use mlx_ext::Backend;
use models::{LoadOptions, Model};
use outputs::{CheckpointAnswers, Line as _};
use tuner::{Answer, AnswerSettings, TextEncoder};

use crate::config::{Config, SPLIT};

/// Texts that the encoder reads together.
const ENCODER_BATCH: usize = 32;

/// The prompts that checkpoints answer.
pub struct Questions {
    rows: Vec<StoredRow>,
    prompts: Vec<Vec<u32>>,
    tokenizer: TextTokenizer,
    settings: AnswerSettings,
}

impl Questions {
    /// Opens the first rows of the split that have a prompt and a reference; `None` if the settings ask for no answers.
    ///
    /// # Errors
    ///
    /// Fails when rows, tokens or tokenizer cannot be read, and when no row has a prompt.
    pub fn open(rows: &Path, tokens: &Path, tokenizer: &Path, config: &Config) -> Result<Option<Self>> {
        if config.answered_rows == 0 {
            return Ok(None);
        }
        let split = Split::open(&tokens.join(format!("{SPLIT}.safetensors")))?;
        let tokenizer = TextTokenizer::open(tokenizer).context("opening the tokenizer")?;
        let (mut asked, mut prompts) = (Vec::new(), Vec::new());
        for (index, row) in dataset::read_rows(&rows.join(format!("{SPLIT}.jsonl")))?.enumerate() {
            let row = row?;
            if asked.len() == config.answered_rows || index >= split.len() {
                break;
            }
            let tokens = split.row(index);
            if row.reference.is_some() && tokens.prompt_length > 0 {
                prompts.push(tokens.tokens[..tokens.prompt_length].to_vec());
                asked.push(row);
            }
        }
        if asked.is_empty() {
            return Err(Error::bad_input("no row of the validation split has a prompt to answer")
                .hinted("set `answered_rows` to 0, or prepare data with prompts and completions"));
        }
        let settings =
            AnswerSettings { max_tokens: config.max_tokens, batch_size: config.generation_batch_size };
        Ok(Some(Self { rows: asked, prompts, tokenizer, settings }))
    }

    /// Returns the model's answers, in the order of the prompts.
    ///
    /// # Errors
    ///
    /// Fails when the model cannot be run.
    pub fn ask(&self, model: &Model) -> Result<Vec<Answer>> {
        Ok(tuner::answers(model, &self.tokenizer, &self.prompts, self.settings)?)
    }

    fn reference(&self, row: usize) -> &str {
        self.rows[row].reference.as_deref().unwrap_or_default()
    }
}

/// Writes `answers.jsonl` to `out`: the answers by step, with their similarity if there is an `encoder`.
///
/// # Errors
///
/// Fails when the encoder cannot be run or the file cannot be written.
pub fn write_answers(
    questions: &Questions,
    answers: &BTreeMap<u64, Vec<Answer>>,
    encoder: Option<&Path>,
    config: &Config,
    backend: &Backend,
    out: &Path,
) -> Result<()> {
    let references: Vec<&str> = (0..questions.rows.len()).map(|row| questions.reference(row)).collect();
    let similarity = match encoder {
        Some(folder) => {
            let encoder = TextEncoder::open(folder, &LoadOptions::on(backend, config.dtype))
                .context("opening the encoder")?;
            let texts = answers.values().flatten().map(|answer| answer.text.as_str());
            let vectors = encoder.vectors(texts.chain(references.iter().copied()), ENCODER_BATCH)?;
            let of = |answers: &Vec<Answer>| {
                let texts = answers.iter().map(|answer| Some(answer.text.as_str()));
                vectors.cosines(texts.zip(references.iter().copied()))
            };
            answers.iter().map(|(step, answers)| (*step, of(answers))).collect()
        }
        None => BTreeMap::new(),
    };
    let lines = questions.rows.iter().enumerate().map(|(index, row)| {
        Ok::<_, Error>(CheckpointAnswers {
            group: row.group.clone(),
            id: row.id.clone(),
            reference: questions.reference(index).to_owned(),
            answers: answers.iter().map(|(step, rows)| (*step, rows[index].text.clone())).collect(),
            unfinished: answers
                .iter()
                .filter(|(_, rows)| rows[index].is_unfinished)
                .map(|(step, _)| *step)
                .collect(),
            similarity: similarity
                .iter()
                .map(|(step, rows): (&u64, &Vec<f64>)| (*step, rows[index]))
                .collect(),
        })
    });
    CheckpointAnswers::write_all(out, lines)
}
