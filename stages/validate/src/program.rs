//! From the command line to an artifact.

use std::collections::BTreeMap;
use std::path::Path;

use artifact::Bare;
use failure::{Error, Result};
use mlx_ext::Backend;
use serde_json::json;
use stage::{Input, Job, Run};

use crate::answers::{Questions, write_answers};
use crate::args::Args;
use crate::candidates::{Candidate, candidates, foreign_candidates};
use crate::config::Config;
use crate::score::{CheckpointScore, Scorer, read_answers, read_score, write_losses};

/// Name of the units: the scores of one checkpoint.
const UNIT: &str = "validate-checkpoint";
/// Version of the units.
const UNIT_VERSION: u32 = 2;

/// The inputs as they were opened.
struct Inputs {
    model: Input,
    tokens: Input,
    rows: Input,
    checkpoints: Input,
    /// The tokenizer, if prompts are answered.
    tokenizer: Option<Input>,
    encoder: Option<Input>,
}

/// Runs the program: scores the base model and every checkpoint.
///
/// # Errors
///
/// Fails when an input is wrong, when adapters do not fit the model, and when a loss is not finite.
pub fn program(args: &Args) -> Result<()> {
    let mut run = Run::<Config>::new(&args.common)?;
    let answers = run.config().answered_rows > 0;
    if args.encoder.is_some() && !answers {
        return Err(Error::usage("`--encoder` needs answers to score").hinted("set `answered_rows` above 0"));
    }
    let inputs = Inputs {
        model: run.input_or_folder("model", &args.model, outputs::MODEL, models::FOLDER_FILES)?,
        tokens: run.input("tokens", &args.dataset, outputs::TOKENS)?,
        rows: run.input("rows", &args.dataset, outputs::ROWS)?,
        checkpoints: run.input_or_folder(
            "checkpoints",
            &args.train,
            outputs::CHECKPOINTS,
            tuner::ADAPTER_FILES,
        )?,
        tokenizer: answers.then(|| run.input("tokenizer", &args.dataset, outputs::TOKENIZER)).transpose()?,
        encoder: match &args.encoder {
            Some(path) => Some(run.input_or_folder("encoder", path, outputs::MODEL, models::FOLDER_FILES)?),
            None => None,
        },
    };
    let backend = mlx_ext::init(&mlx_ext::Options::for_model(args.memory.max_memory, &args.unpack.unpack))?;
    run.numerics(backend.numerics(run.config().dtype.name(&backend)));
    run.execute(|job, config| validate(job, &inputs, config, &backend))
}

fn validate(job: &mut Job, inputs: &Inputs, config: &Config, backend: &Backend) -> Result<()> {
    mlx_ext::warn_if_slow()?;
    let work = tempfile::tempdir()?;
    let all = match inputs.checkpoints.artifact() {
        Some(_) => candidates(inputs.checkpoints.path())?,
        None => foreign_candidates(inputs.checkpoints.path(), work.path())?,
    };
    let questions = match &inputs.tokenizer {
        Some(tokenizer) => {
            Questions::open(inputs.rows.path(), inputs.tokens.path(), tokenizer.path(), config)?
        }
        None => None,
    };
    let mut scorer = None;
    let (mut scores, mut answers) = (Vec::new(), BTreeMap::new());
    for candidate in all {
        job.stop().check()?;
        let material = unit_material(&candidate, inputs, config)?;
        let folder = job.unit(UNIT, UNIT_VERSION, material, |out: &Path| {
            let scorer = match &mut scorer {
                Some(scorer) => scorer,
                // Opened for the first checkpoint that is not in the store.
                None => {
                    scorer.insert(Scorer::open(inputs.model.path(), inputs.tokens.path(), config, backend)?)
                }
            };
            scorer.score(&candidate, questions.as_ref(), out)
        })?;
        let score = read_score(&folder)?;
        tracing::info!("step {:>6}: validation loss {:.4}", candidate.step, score.mean_loss());
        if questions.is_some() {
            answers.insert(candidate.step, read_answers(&folder)?);
        }
        scores.push(CheckpointScore { step: candidate.step, score });
    }
    let best = scores.iter().map(|scored| scored.score.mean_loss()).fold(f64::INFINITY, f64::min);
    job.metric("best_loss", best);
    job.summary(format!("{} checkpoints and the base model, lowest loss {best:.4}", scores.len() - 1));
    if let Some(questions) = &questions {
        let encoder = inputs.encoder.as_ref().map(Input::path);
        write_answers(questions, &answers, encoder, config, backend, job.out())?;
    }
    write_losses(inputs.rows.path(), &scores, job.out())
}

/// Returns everything that decides the scores of one checkpoint.
fn unit_material(candidate: &Candidate, inputs: &Inputs, config: &Config) -> Result<serde_json::Value> {
    let adapters = candidate.adapters.as_deref().map(Bare::scan).transpose()?;
    let mut material = json!({
        "adapters": adapters.map_or_else(|| "none".to_owned(), |files| files.hash().to_string()),
        "config": config,
        "model": inputs.model.tree().to_string(),
        "tokens": inputs.tokens.tree().to_string(),
    });
    if let Some(tokenizer) = &inputs.tokenizer {
        material["rows"] = inputs.rows.tree().to_string().into();
        material["tokenizer"] = tokenizer.tree().to_string().into();
    }
    Ok(material)
}
