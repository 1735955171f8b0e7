//! Scores models on the test split, side by side: perplexity of every row, and what they write to its prompt.

use anyhow::{Context, Result};
use dataset::{Split, StoredRow, TextTokenizer};
use metrics::{Bleu, Chrf, exact_match};
use mlx_ext::Backend;
use models::{ComputeDtype, GenerationOptions, LoadOptions, Model};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tuner::RowScore;

/// Settings of the stage `evaluate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `auto`, `float32`, `bfloat16` or `float16`: what the models compute in.
    pub dtype: ComputeDtype,
    /// Rows scored together.
    pub batch_size: usize,
    /// Write an answer to the first so many prompts of the split; 0 for all.
    pub generated_rows: usize,
    /// The most tokens of an answer.
    pub max_tokens: usize,
    /// Prompts answered together.
    pub generation_batch_size: usize,
    /// Seed of the shuffled references that set the floor.
    pub seed: u64,
    /// Write `token_losses.jsonl`: the loss of every single target.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub token_losses: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dtype: ComputeDtype::Auto,
            batch_size: 16,
            generated_rows: 0,
            max_tokens: 256,
            generation_batch_size: 16,
            seed: 1,
            token_losses: false,
        }
    }
}

impl stage::Config for Config {
    const STAGE: &'static str = "evaluate";
    const VERSION: u32 = 1;

    fn problems(&self) -> Vec<String> {
        let sizes = [
            (self.batch_size, "batch_size"),
            (self.max_tokens, "max_tokens"),
            (self.generation_batch_size, "generation_batch_size"),
        ];
        let small = sizes.iter().filter(|(size, _)| *size == 0);
        small.map(|(_, name)| format!("`{name}` must be at least 1")).collect()
    }

    fn slug(&self) -> String {
        "test".to_owned()
    }
}

/// A model under its name.
#[derive(Debug, Clone)]
pub struct NamedModel {
    /// As it is called in the scores.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// The folder of adapters beside it, if there are any.
    pub adapters: Option<PathBuf>,
}

/// The folders of a dataset.
pub struct Dataset<'a> {
    /// `rows`.
    pub rows: &'a Path,
    /// `tokens`.
    pub tokens: &'a Path,
    /// `tokenizer`.
    pub tokenizer: &'a Path,
}

/// What one model made of the split.
struct Outcome {
    losses: Vec<RowScore>,
    /// Of every target of every row, if asked for.
    token_losses: Option<Vec<Vec<f32>>>,
    /// Row number → answer.
    answers: BTreeMap<usize, String>,
}

/// Writes `predictions.jsonl`, `metrics.json` and, if asked for, `token_losses.jsonl` into `out`; returns the metrics.
///
/// `check` is asked between models; its error ends the run.
///
/// # Errors
///
/// Fails when a model or the dataset cannot be read, or when a loss is not a number.
pub fn run(
    models: &[NamedModel],
    dataset: &Dataset<'_>,
    config: &Config,
    backend: &Backend,
    out: &Path,
    check: impl Fn() -> Result<()>,
) -> Result<Value> {
    let split = Split::open(&dataset.tokens.join("test.safetensors")).context("opening the test split")?;
    let rows = dataset::read_rows(&dataset.rows.join("test.jsonl"))?.collect::<dataset::Result<Vec<_>>>()?;
    anyhow::ensure!(rows.len() == split.len(), "the test split's rows and tokens differ in length");
    let tokenizer = TextTokenizer::open(dataset.tokenizer).context("opening the tokenizer")?;
    let asked = asked_rows(&rows, &split, config);
    let mut outcomes = Vec::new();
    for model in models {
        check()?;
        tracing::info!("{}: scoring {} rows, answering {}", model.name, rows.len(), asked.len());
        let outcome = outcome(model, &split, &asked, &tokenizer, config, backend);
        outcomes
            .push((model.name.as_str(), outcome.with_context(|| format!("evaluating `{}`", model.name))?));
    }
    write_predictions(&rows, &outcomes, out)?;
    if config.token_losses {
        write_token_losses(&rows, &split, &tokenizer, &outcomes, out)?;
    }
    let report = report(&rows, &asked, &outcomes, config)?;
    let text = serde_json::to_string_pretty(&report).expect("plain JSON");
    fs_err::write(out.join("metrics.json"), text + "\n")?;
    Ok(report)
}

/// Rows that have a prompt and a reference, as many as are asked for.
fn asked_rows(rows: &[StoredRow], split: &Split, config: &Config) -> Vec<usize> {
    let limit = if config.generated_rows == 0 { usize::MAX } else { config.generated_rows };
    let has_both = |&row: &usize| rows[row].reference.is_some() && split.row(row).prompt_length > 0;
    (0..rows.len()).filter(has_both).take(limit).collect()
}

fn outcome(
    named: &NamedModel,
    split: &Split,
    asked: &[usize],
    tokenizer: &TextTokenizer,
    config: &Config,
    backend: &Backend,
) -> Result<Outcome> {
    let mut model = Model::load(&named.folder, &LoadOptions::on(backend, config.dtype))?;
    if let Some(adapters) = &named.adapters {
        tuner::load_adapters(&mut model, adapters)?;
    }
    let (losses, token_losses) = if config.token_losses {
        let of_rows = tuner::token_losses(&model, split, "test", config.batch_size)?;
        (of_rows.iter().map(|losses| tuner::row_loss(losses)).collect(), Some(of_rows))
    } else {
        (tuner::score(&model, split, "test", config.batch_size)?.rows, None)
    };
    let prompts: Vec<Vec<u32>> = asked
        .iter()
        .map(|&row| {
            let row = split.row(row);
            row.tokens[..row.prompt_length].to_vec()
        })
        .collect();
    let options = GenerationOptions {
        max_tokens: config.max_tokens,
        stop: tokenizer.eos().to_vec(),
        batch_size: config.generation_batch_size,
    };
    let mut answers = BTreeMap::new();
    for (&row, generation) in asked.iter().zip(models::generate(&model, &prompts, &options)?) {
        answers.insert(row, tokenizer.decode(&generation.tokens, true)?.trim().to_owned());
    }
    Ok(Outcome { losses, token_losses, answers })
}

fn write_predictions(rows: &[StoredRow], outcomes: &[(&str, Outcome)], out: &Path) -> Result<()> {
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let predictions: BTreeMap<&str, &String> = outcomes
            .iter()
            .filter_map(|(name, outcome)| Some((*name, outcome.answers.get(&number)?)))
            .collect();
        let losses: BTreeMap<&str, RowScore> =
            outcomes.iter().map(|(name, outcome)| (*name, outcome.losses[number])).collect();
        let line = json!({
            "id": row.id,
            "losses": losses,
            "predictions": predictions,
            "prompt": source_text(row),
            "reference": row.reference.as_deref().unwrap_or_default(),
        });
        text.push_str(&line.to_string());
        text.push('\n');
    }
    Ok(fs_err::write(out.join("predictions.jsonl"), text)?)
}

/// Writes a line a row: its targets as ids and as text, and for every model their losses and the row's perplexity.
fn write_token_losses(
    rows: &[StoredRow],
    split: &Split,
    tokenizer: &TextTokenizer,
    outcomes: &[(&str, Outcome)],
    out: &Path,
) -> Result<()> {
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let targets = targets_of(split, number);
        let texts: Vec<String> =
            targets.iter().map(|&token| tokenizer.decode(&[token], false)).collect::<dataset::Result<_>>()?;
        let (mut losses, mut perplexities) = (BTreeMap::new(), BTreeMap::new());
        for (name, outcome) in outcomes {
            let of_rows = outcome.token_losses.as_ref().context("scored without losses of tokens")?;
            let score = outcome.losses[number];
            losses.insert(*name, &of_rows[number]);
            if score.tokens > 0 {
                perplexities.insert(*name, (score.loss / score.tokens as f64).exp());
            }
        }
        let line = json!({
            "id": row.id,
            "losses": losses,
            "perplexities": perplexities,
            "targets": targets,
            "texts": texts,
        });
        text.push_str(&line.to_string());
        text.push('\n');
    }
    Ok(fs_err::write(out.join("token_losses.jsonl"), text)?)
}

/// The tokens of a row that count as targets; its first one is never predicted.
fn targets_of(split: &Split, row: usize) -> Vec<u32> {
    let row = split.row(row);
    let pairs = row.tokens.iter().zip(row.trained).skip(1);
    pairs.filter(|(_, trained)| **trained != 0).map(|(&token, _)| token).collect()
}

/// What a person asked: the last message before the answer, without the template around it.
fn source_text(row: &StoredRow) -> &str {
    let messages = row.messages.as_deref().unwrap_or_default();
    let asked = messages.iter().rev().find(|message| message["role"] == "user");
    asked.and_then(|message| message["content"].as_str()).or(row.prompt.as_deref()).unwrap_or_default()
}

fn report(
    rows: &[StoredRow],
    asked: &[usize],
    outcomes: &[(&str, Outcome)],
    config: &Config,
) -> Result<Value> {
    let references: Vec<&str> =
        asked.iter().map(|&row| rows[row].reference.as_deref().unwrap_or_default()).collect();
    let sources: Vec<&str> = asked.iter().map(|&row| source_text(&rows[row])).collect();
    let mut scores = serde_json::Map::new();
    for (name, outcome) in outcomes {
        let answers: Vec<&str> = asked.iter().map(|row| outcome.answers[row].as_str()).collect();
        scores.insert((*name).to_owned(), model_scores(outcome, &answers, &references));
    }
    let mut report = json!({"models": scores, "rows": rows.len(), "split": "test"});
    if !asked.is_empty() {
        report["floors"] = floors(&sources, &references, config.seed)?;
    }
    Ok(report)
}

fn model_scores(outcome: &Outcome, answers: &[&str], references: &[&str]) -> Value {
    let tokens: u64 = outcome.losses.iter().map(|row| row.tokens).sum();
    let loss = outcome.losses.iter().map(|row| row.loss).sum::<f64>() / tokens as f64;
    let mut scores = json!({
        "generated_rows": answers.len(),
        "loss": loss,
        "perplexity": loss.exp(),
        "tokens": tokens,
    });
    if !answers.is_empty() {
        for (name, score) in text_scores(answers, references) {
            scores[name] = json!(score);
        }
    }
    scores
}

fn text_scores(answers: &[&str], references: &[&str]) -> [(&'static str, f64); 4] {
    let pairs = || answers.iter().copied().zip(references.iter().copied());
    [
        ("bleu", Bleu::default().corpus(pairs())),
        ("chrf", Chrf::CHRF.corpus(pairs())),
        ("chrf_plus_plus", Chrf::CHRF_PLUS_PLUS.corpus(pairs())),
        ("exact_match", exact_match(pairs())),
    ]
}

fn floors(sources: &[&str], references: &[&str], seed: u64) -> Result<Value> {
    let mut report = json!({});
    for (index, (name, _)) in text_scores(&[], &[]).into_iter().enumerate() {
        let score = |answers: &[&str], references: &[&str]| text_scores(answers, references)[index].1;
        let floors = metrics::floor::floors(sources, references, seed, score)?;
        report["copied_source"][name] = json!(floors.copied_source);
        if let Some(shuffled) = floors.shuffled_reference {
            report["shuffled_reference"][name] = json!(shuffled);
        }
    }
    Ok(report)
}
