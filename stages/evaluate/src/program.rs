//! From the command line to an artifact.

use std::collections::BTreeSet;

use failure::{Error, Result};
use stage::Run;

use crate::args::Args;
use crate::config::Config;
use crate::evaluate::evaluate;
use crate::inputs::{DatasetFolders, NamedModel};

/// Runs the program: scores every model on the test split.
///
/// # Errors
///
/// Fails when an input or a setting is wrong, when adapters do not fit the model, and when a loss is not finite.
pub fn program(args: &Args) -> Result<()> {
    let mut run = Run::<Config>::new(&args.common)?;
    let models = open_models(&mut run, args)?;
    let rows = run.input("rows", &args.dataset, outputs::ROWS)?;
    let tokens = run.input("tokens", &args.dataset, outputs::TOKENS)?;
    let tokenizer = run.input("tokenizer", &args.dataset, outputs::TOKENIZER)?;
    let backend = mlx_ext::init(&mlx_ext::Options::for_model(args.memory.max_memory, &args.unpack.unpack))?;
    run.numerics(backend.numerics(run.config().dtype.name(&backend)));
    run.execute(|job, config| {
        mlx_ext::warn_if_slow()?;
        let dataset =
            DatasetFolders { rows: rows.path(), tokens: tokens.path(), tokenizer: tokenizer.path() };
        let scores = evaluate(&models, dataset, config, &backend, job.out(), &job.stop())?;
        for (name, model) in &scores.models {
            job.metric(&format!("{name}_loss"), model.loss);
            if let Some(chrf) = model.text.get("chrf") {
                job.metric(&format!("{name}_chrf"), *chrf);
            }
        }
        let losses: Vec<String> = models
            .iter()
            .map(|model| format!("{} {:.4}", model.name, scores.models[&model.name].loss))
            .collect();
        job.summary(format!("{} rows, loss of {}", scores.rows, losses.join(", ")));
        Ok(())
    })
}

/// Opens the models, then the adapters, which are scored with the first model.
fn open_models(run: &mut Run<Config>, args: &Args) -> Result<Vec<NamedModel>> {
    let mut models = Vec::new();
    for (index, named) in args.models.iter().enumerate() {
        // The index keeps the order of the models in the key, because the first one is the reference.
        let role = format!("model_{index}_{}", named.name);
        let input = run.input_or_folder(&role, &named.path, outputs::MODEL, models::FOLDER_FILES)?;
        let folder = input.path().to_owned();
        models.push(NamedModel { name: named.name.clone(), folder, adapters: None });
    }
    let base = models[0].folder.clone();
    for (index, named) in args.adapters.iter().enumerate() {
        let role = format!("adapters_{index}_{}", named.name);
        let input = run.input_or_folder(&role, &named.path, outputs::ADAPTERS, tuner::ADAPTER_FILES)?;
        let adapters = Some(input.path().to_owned());
        models.push(NamedModel { name: named.name.clone(), folder: base.clone(), adapters });
    }
    let mut names = BTreeSet::new();
    match models.iter().find(|model| !names.insert(&model.name)) {
        Some(twice) => Err(Error::usage(format!("the name `{}` is given twice", twice.name))),
        None => Ok(models),
    }
}
