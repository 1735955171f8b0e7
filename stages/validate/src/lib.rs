//! Scores every checkpoint of a run, and the base model, on the whole validation split.
//!
//! Each checkpoint is a unit of its own in the store: a longer run scores only what is new.

use anyhow::{Context, Result};
use dataset::Split;
use mlx_ext::Backend;
use models::{ComputeDtype, LoadOptions, Model};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tuner::{RowScore, Score};

/// Settings of the stage `validate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Rows scored together.
    pub batch_size: usize,
    /// `auto`, `float32`, `bfloat16` or `float16`: what the model computes in.
    pub dtype: ComputeDtype,
}

impl Default for Config {
    fn default() -> Self {
        Self { batch_size: 16, dtype: ComputeDtype::Auto }
    }
}

impl stage::Config for Config {
    const STAGE: &'static str = "validate";
    const VERSION: u32 = 1;

    fn problems(&self) -> Vec<String> {
        let fine = self.batch_size >= 1;
        if fine { Vec::new() } else { vec!["`batch_size` must be at least 1".to_owned()] }
    }

    fn slug(&self) -> String {
        "validation".to_owned()
    }
}

/// A checkpoint of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// After how many steps; 0 is the base model.
    pub step: usize,
    /// The folder with its adapters; `None` for the base model.
    pub adapters: Option<PathBuf>,
}

/// Lists the base model and every checkpoint below `checkpoints`, in the order of their steps.
pub fn candidates(checkpoints: &Path) -> Result<Vec<Candidate>> {
    let mut all = vec![Candidate { step: 0, adapters: None }];
    for entry in fs_err::read_dir(checkpoints)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let step = name.parse().with_context(|| format!("`{}` is not named after a step", path.display()))?;
        all.push(Candidate { step, adapters: Some(path.join("adapters")) });
    }
    all.sort_by_key(|candidate| candidate.step);
    Ok(all)
}

/// What a folder of adapters holds, whoever made it.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// What mlx-lm calls adapters; those of a step have its number before it.
const MLX_ADAPTERS: &str = "adapters.safetensors";

/// Lists the base model and the adapters in a folder of mlx-lm or PEFT; what is read lies in `work` afterwards.
///
/// mlx-lm leaves `0000100_adapters.safetensors` and the like beside the last `adapters.safetensors`: each is a checkpoint
/// of its own. The last is that of the step `iters` in the settings, or of the one after all others.
pub fn foreign_candidates(folder: &Path, work: &Path) -> Result<Vec<Candidate>> {
    let mut all = vec![Candidate { step: 0, adapters: None }];
    let mut steps = BTreeMap::new();
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let number = name.strip_suffix(MLX_ADAPTERS).and_then(|rest| rest.strip_suffix('_'));
        if let Some(step) = number.and_then(|number| number.parse::<usize>().ok()) {
            steps.insert(step, path);
        }
    }
    let config = folder.join(ADAPTER_CONFIG);
    let settings: Value = serde_json::from_str(&fs_err::read_to_string(&config)?)
        .with_context(|| format!("reading `{}`", config.display()))?;
    let last = folder.join(MLX_ADAPTERS);
    if settings.get("peft_type").is_some() || !last.is_file() {
        all.push(Candidate { step: 1, adapters: Some(folder.to_owned()) });
        return Ok(all);
    }
    let hash =
        |path: &Path| -> Result<_> { Ok(artifact::FileHash::of_reader(&mut fs_err::File::open(path)?)?) };
    let newest = steps.last_key_value().map(|(step, path)| (*step, path.clone()));
    let (after, is_saved) = match &newest {
        Some((step, path)) => (step + 1, hash(path)? == hash(&last)?),
        None => (1, false),
    };
    if !is_saved {
        let stated = settings["iters"].as_u64().map_or(0, |iterations| iterations as usize);
        steps.insert(stated.max(after), last);
    }
    for (step, path) in steps {
        let own = work.join(format!("{step:07}"));
        fs_err::create_dir_all(&own)?;
        // A link: adapters of a whole model are as large as it.
        fs_err::os::unix::fs::symlink(fs_err::canonicalize(path)?, own.join(MLX_ADAPTERS))?;
        fs_err::copy(&config, own.join(ADAPTER_CONFIG))?;
        all.push(Candidate { step, adapters: Some(own) });
    }
    Ok(all)
}

/// What scoring needs beside a checkpoint.
pub struct Scorer {
    base: Model,
    validation: Split,
    batch_size: usize,
}

impl Scorer {
    /// Opens the base model and the validation split.
    pub fn open(model: &Path, tokens: &Path, config: &Config, backend: &Backend) -> Result<Self> {
        let base =
            Model::load(model, &LoadOptions::on(backend, config.dtype)).context("loading the model")?;
        let validation = Split::open(&tokens.join("validation.safetensors"))?;
        Ok(Self { base, validation, batch_size: config.batch_size })
    }

    /// Scores one checkpoint and writes `scores.json` into `out`.
    pub fn score(&self, candidate: &Candidate, out: &Path) -> Result<()> {
        let mut model = self.base.clone();
        if let Some(adapters) = &candidate.adapters {
            tuner::load_adapters(&mut model, adapters)?;
        }
        let score = tuner::score(&model, &self.validation, "validation", self.batch_size)?;
        let text = serde_json::to_string(&score.rows).expect("plain numbers");
        Ok(fs_err::write(out.join("scores.json"), text + "\n")?)
    }
}

/// Reads what [`Scorer::score`] wrote.
pub fn read_score(folder: &Path) -> Result<Score> {
    let path = folder.join("scores.json");
    let rows: Vec<RowScore> = serde_json::from_str(&fs_err::read_to_string(&path)?)
        .with_context(|| format!("reading `{}`", path.display()))?;
    Ok(Score { rows })
}

/// Writes `losses.json`: every checkpoint's loss, and that of each row by its id.
pub fn write_losses(rows: &Path, scores: &[(usize, Score)], out: &Path) -> Result<()> {
    let ids = dataset::read_rows(&rows.join("validation.jsonl"))?
        .map(|row| Ok(row?.id))
        .collect::<dataset::Result<Vec<String>>>()?;
    let first = &scores.first().context("there is at least the base model")?.1;
    anyhow::ensure!(ids.len() == first.rows.len(), "`{}` and its tokens differ in length", rows.display());
    let checkpoints = scores.iter().map(|(step, score)| Losses::new(*step, score, &ids)).collect();
    let report = Report { split: "validation", rows: ids.len(), tokens: first.tokens(), checkpoints };
    let text = serde_json::to_string_pretty(&report).expect("plain numbers and strings");
    Ok(fs_err::write(out.join("losses.json"), text + "\n")?)
}

#[derive(Serialize)]
struct Report<'a> {
    split: &'static str,
    rows: usize,
    tokens: u64,
    checkpoints: Vec<Losses<'a>>,
}

#[derive(Serialize)]
struct Losses<'a> {
    step: usize,
    loss: f64,
    perplexity: f64,
    tokens: u64,
    rows: Vec<RowLoss<'a>>,
}

#[derive(Serialize)]
struct RowLoss<'a> {
    id: &'a str,
    loss: f64,
    tokens: u64,
}

impl<'a> Losses<'a> {
    fn new(step: usize, score: &Score, ids: &'a [String]) -> Self {
        let loss = score.mean_loss();
        let rows = ids.iter().zip(&score.rows);
        Self {
            step,
            loss,
            perplexity: loss.exp(),
            tokens: score.tokens(),
            rows: rows.map(|(id, row)| RowLoss { id, loss: row.loss, tokens: row.tokens }).collect(),
        }
    }
}
