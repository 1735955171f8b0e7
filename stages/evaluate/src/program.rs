//! From the command line to an artifact, and to the exit code of the gate.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use failure::{Error, Kind, Result};
use mlx_ext::Backend;
use outputs::{Document, Gate, ModelSource, Scores};
use stage::{Input, Job, KeyedRun, Run};

use crate::args::{Args, GateAction, NamedPath};
use crate::config::Config;
use crate::evaluate::{Task, evaluate, evaluate_scores};
use crate::guard::{GENERAL_ENGLISH, GuardSource};
use crate::inputs::{DatasetFolders, NamedModel, Subject};
use crate::kept_lines;

/// Inputs of an evaluation of models and answers.
struct Inputs {
    subjects: Vec<Subject>,
    dataset: Option<[Input; 3]>,
    encoder: Option<PathBuf>,
    guard: Option<GuardSource>,
}

/// Runs the program: scores everything on the test split, and applies the gate.
///
/// # Errors
///
/// Fails when an input or a setting is wrong, when adapters do not fit the model, when a loss is not finite, and when the gate
/// is not passed.
pub fn program(args: &Args) -> Result<()> {
    let mut run = Run::<Config>::adjusted(&args.common, |config| {
        if let (Some(gate), Some(guard)) = (&mut config.gate, &args.guard) {
            gate.guard = guard.display().to_string();
        }
    })?;
    if run.config().gate.is_none() {
        refuse_flags_of_the_gate(args)?;
    }
    let run = match &args.scores {
        Some(file) => {
            refuse_what_scores_cannot_use(run.config())?;
            let input = run.input_folder("scores", file)?;
            let run = run.with_key()?;
            run.execute(|job, config| {
                let scores = evaluate_scores(input.path(), config, job.out())?;
                job.summary(format!("{} rows, {} systems", scores.rows, scores.models.len()));
                Ok(())
            })?;
            run
        }
        None => evaluate_models(run, args)?,
    };
    if args.common.plan || run.config().gate.is_none() {
        return Ok(());
    }
    // Whoever asks for a folder, such as Nix, would throw it away with a failure.
    let usual = if args.common.out.is_some() { GateAction::Note } else { GateAction::Fail };
    judge(&verdict(&run)?, args.gate.unwrap_or(usual))
}

/// Refuses the flags that need a gate, for settings without one.
fn refuse_flags_of_the_gate(args: &Args) -> Result<()> {
    if args.guard.is_some() {
        return Err(Error::usage("`--guard` needs a gate")
            .hinted("add `--set gate.metric=loss`, or a table `[evaluate.gate]`"));
    }
    if args.gate == Some(GateAction::Fail) {
        return Err(Error::usage("`--gate fail` needs a gate, and the settings have none")
            .hinted("add a table `[evaluate.gate]`, or `--set gate.metric=loss`"));
    }
    Ok(())
}

/// Refuses settings that need answers or models, for an evaluation of a file of scores.
fn refuse_what_scores_cannot_use(config: &Config) -> Result<()> {
    let has_guard = config.gate.as_ref().is_some_and(|gate| !gate.guard.is_empty());
    let unused = match (has_guard, config.endpoints.keys().next()) {
        (true, _) => "gate.guard".to_owned(),
        (false, Some(name)) => format!("endpoints.{name}"),
        (false, None) => return Ok(()),
    };
    Err(Error::usage(format!(
        "`--scores` excludes the setting `{unused}`: a file of scores has no models and no prompts"
    ))
    .hinted("leave the setting out, or give models or answers instead of scores"))
}

fn evaluate_models(mut run: Run<Config>, args: &Args) -> Result<KeyedRun<Config>> {
    let inputs = open(&mut run, args)?;
    let needs_mlx = inputs.encoder.is_some()
        || inputs.subjects.iter().any(|subject| matches!(subject, Subject::Model(_)));
    let backend = if needs_mlx {
        let options = mlx_ext::Options::for_model(args.memory.max_memory, &args.unpack.unpack);
        let backend = mlx_ext::init(&options)?;
        run.numerics(backend.numerics(run.config().dtype.name(&backend)));
        Some(backend)
    } else {
        None
    };
    if !run.config().endpoints.is_empty() {
        run.claim_nothing();
    }
    let run = run.with_key()?;
    run.execute(|job, config| run_task(&inputs, config, backend.as_ref(), job))?;
    Ok(run)
}

fn run_task(inputs: &Inputs, config: &Config, backend: Option<&Backend>, job: &mut Job) -> Result<()> {
    if backend.is_some() {
        mlx_ext::warn_if_slow()?;
    }
    if kept_lines::is_any_kept(job.resume_dir()) {
        job.resumed();
    }
    let dataset = inputs.dataset.as_ref().map(|[rows, tokens, tokenizer]| DatasetFolders {
        rows: rows.path(),
        tokens: tokens.path(),
        tokenizer: tokenizer.path(),
    });
    let task = Task {
        subjects: inputs.subjects.clone(),
        dataset,
        encoder: inputs.encoder.as_deref(),
        guard: inputs.guard.clone(),
        backend,
        work: job.resume_dir(),
    };
    let scores = evaluate(&task, config, job.out(), &job.stop())?;
    for (name, model) in &scores.models {
        if let Some(loss) = model.loss {
            job.metric(&format!("{name}_loss"), loss);
        }
        if let Some(chrf) = model.text.get("chrf") {
            job.metric(&format!("{name}_chrf"), *chrf);
        }
    }
    let losses: Vec<String> =
        scores.models.iter().filter_map(|(name, model)| Some(format!("{name} {:.4}", model.loss?))).collect();
    let losses = if losses.is_empty() { String::new() } else { format!(", loss of {}", losses.join(", ")) };
    let rows = if scores.rows == 1 { "row" } else { "rows" };
    job.summary(format!("{} {rows}{losses}{}", scores.rows, failures(&scores)));
    Ok(())
}

/// Describes the rows that models failed on; empty if there are none.
fn failures(scores: &Scores) -> String {
    let failed = scores.models.iter().filter(|(_, model)| !model.failed_rows.is_empty());
    let failed = failed
        .map(|(name, model)| format!("; {name} failed on {}, which count as 0", model.failed_rows.len()));
    failed.collect()
}

/// Reads the verdict of the gate in the published artifact, whichever process made it.
///
/// # Errors
///
/// Fails when the artifact is gone or damaged, or has no verdict, so that no failed gate looks like a passed one.
fn verdict(run: &KeyedRun<Config>) -> Result<Gate> {
    let artifact = run.existing()?.ok_or_else(|| {
        Error::failed("the artifact with the verdict of the gate was removed").hinted("run the command again")
    })?;
    let path = artifact.data_dir().join(outputs::SCORES);
    Scores::read(&path)?.gate.ok_or_else(|| {
        Error::bad_input(format!("`{}` has no verdict, although the settings have a gate", path.display()))
            .hinted(format!("delete `{}`, and run the command again", artifact.path().display()))
    })
}

/// Reports the verdict; a failed gate is an error unless `action` says otherwise.
fn judge(gate: &Gate, action: GateAction) -> Result<()> {
    let (model, against) = (&gate.model, &gate.against);
    if gate.passed {
        tracing::info!(
            "gate: passed, `{model}` is better than `{against}` by {:.4} in {}",
            gate.gain.value,
            gate.metric
        );
        return Ok(());
    }
    let reasons = gate.reasons.join("; ");
    match action {
        GateAction::Note => {
            tracing::warn!("gate: failed, {reasons}");
            Ok(())
        }
        GateAction::Fail => {
            Err(Error::new(Kind::GateFailed, format!("`{model}` does not pass the gate: {reasons}"))
                .hinted("`metrics.json` in the artifact has the verdict and the comparison"))
        }
    }
}

/// Opens the inputs: models, adapters, checkpoints, files with answers, endpoints; then dataset, encoder and guard set.
fn open(run: &mut Run<Config>, args: &Args) -> Result<Inputs> {
    let mut subjects = open_models(run, args)?;
    for (index, named) in args.predictions.iter().enumerate() {
        let input = run.input_folder(&role("predictions", index, named), &named.path)?;
        subjects.push(Subject::Predictions { name: named.name.clone(), file: input.path().to_owned() });
    }
    for (name, settings) in &run.config().endpoints {
        subjects.push(Subject::Endpoint { name: name.clone(), settings: settings.clone() });
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = subjects.iter().map(Subject::name).find(|name| !names.insert(*name)) {
        return Err(Error::usage(format!("the name `{twice}` is given twice")));
    }
    let dataset = match &args.dataset {
        Some(dataset) => Some([
            run.input("rows", dataset, outputs::ROWS)?,
            run.input("tokens", dataset, outputs::TOKENS)?,
            run.input("tokenizer", dataset, outputs::TOKENIZER)?,
        ]),
        None if subjects.iter().all(|subject| matches!(subject, Subject::Predictions { .. })) => None,
        None => {
            return Err(Error::usage("`--dataset` is missing").hinted("give the artifact of `prepare-data`"));
        }
    };
    let encoder = match &args.encoder {
        Some(path) => Some(run.input_or_folder("encoder", path, outputs::MODEL, models::FOLDER_FILES)?),
        None => None,
    };
    let guard = open_guard(run, dataset.as_ref())?;
    Ok(Inputs { subjects, dataset, encoder: encoder.map(|input| input.path().to_owned()), guard })
}

fn role(kind: &str, index: usize, named: &NamedPath) -> String {
    // The index keeps the order of the subjects in the key, because the first one is the reference.
    format!("{kind}_{index}_{}", named.name)
}

fn open_models(run: &mut Run<Config>, args: &Args) -> Result<Vec<Subject>> {
    let mut models = Vec::new();
    for (index, named) in args.models.iter().enumerate() {
        let role = role("model", index, named);
        let input = run.input_or_folder(&role, &named.path, outputs::MODEL, models::FOLDER_FILES)?;
        let (name, folder) = (named.name.clone(), input.path().to_owned());
        models.push(NamedModel { name, folder, adapters: None, source: ModelSource::Model });
        models.extend(quantized_form(run, named, &role, &input)?);
    }
    let Some(base) = models.first().map(|model| model.folder.clone()) else { return Ok(Vec::new()) };
    for (index, named) in args.adapters.iter().enumerate() {
        let role = role("adapters", index, named);
        let input = run.input_or_folder(&role, &named.path, outputs::ADAPTERS, tuner::ADAPTER_FILES)?;
        let (name, adapters) = (named.name.clone(), Some(input.path().to_owned()));
        models.push(NamedModel { name, folder: base.clone(), adapters, source: ModelSource::Adapters });
    }
    if let Some(train) = &args.checkpoints {
        let input = run.input("checkpoints", train, outputs::CHECKPOINTS)?;
        models.extend(checkpoints(input.path(), &base)?);
    }
    Ok(models.into_iter().map(Subject::Model).collect())
}

/// Opens the quantized form that `fuse` wrote beside a model; `None` if there is none.
fn quantized_form(
    run: &mut Run<Config>,
    named: &NamedPath,
    role: &str,
    model: &Input,
) -> Result<Option<NamedModel>> {
    let is_there = model.artifact().is_some() && model.manifest().outputs.contains_key(outputs::QUANTIZED);
    if !is_there {
        return Ok(None);
    }
    let input = run.input(&format!("{role}_quantized"), &named.path, outputs::QUANTIZED)?;
    let (name, folder) = (format!("{}_quantized", named.name), input.path().to_owned());
    Ok(Some(NamedModel { name, folder, adapters: None, source: ModelSource::Model }))
}

/// Lists the checkpoints of a training run by step, as models on top of `base`.
fn checkpoints(folder: &Path, base: &Path) -> Result<Vec<NamedModel>> {
    let model = |(step, adapters)| NamedModel {
        name: format!("step_{step}"),
        folder: base.to_owned(),
        adapters: Some(adapters),
        source: ModelSource::Checkpoint,
    };
    Ok(outputs::checkpoint_adapters(folder)?.into_iter().map(model).collect())
}

/// Opens the guard set of the gate: the text that comes with the program, a file, or an artifact of `prepare-data`.
fn open_guard(run: &mut Run<Config>, dataset: Option<&[Input; 3]>) -> Result<Option<GuardSource>> {
    let guard = run.config().gate.as_ref().map(|gate| gate.guard.clone()).unwrap_or_default();
    if guard.is_empty() {
        return Ok(None);
    }
    let path = Path::new(&guard);
    if guard == GENERAL_ENGLISH && !path.exists() {
        return Ok(Some(GuardSource::GeneralEnglish));
    }
    if path.is_file() {
        let input = run.input_folder("guard", path)?;
        return Ok(Some(GuardSource::File(input.path().to_owned())));
    }
    let tokens = run.input("guard", path, outputs::TOKENS).map_err(|error| {
        error.hinted(format!("give a file, an artifact of `prepare-data`, or `{GENERAL_ENGLISH}`"))
    })?;
    let rows = run.input("guard_rows", path, outputs::ROWS)?;
    let tokenizer = run.input("guard_tokenizer", path, outputs::TOKENIZER)?;
    if dataset.is_none_or(|[_, _, own]| own.tree() != tokenizer.tree()) {
        return Err(Error::bad_input(format!("the guard set `{guard}` was prepared with another tokenizer"))
            .hinted("prepare it with the tokenizer of the models, or give it as a text file"));
    }
    Ok(Some(GuardSource::Dataset { rows: rows.path().to_owned(), tokens: tokens.path().to_owned() }))
}
