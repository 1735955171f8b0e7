//! Command line of the stage `evaluate`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use evaluate::{Config, Dataset, NamedModel};

/// Score models on the test split, side by side
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Artifact with a model (or a model folder), under a name; may be repeated, the first is what the others are held
    /// against
    #[arg(long = "model", value_name = "NAME=ARTIFACT", required = true, value_parser = named)]
    models: Vec<(String, PathBuf)>,
    /// Artifact with adapters (or a folder in the format of mlx-lm or PEFT), scored beside the first model under a name
    /// of their own; may be repeated
    #[arg(long, value_name = "NAME=ARTIFACT", value_parser = named)]
    adapters: Vec<(String, PathBuf)>,
    /// Artifact with the dataset
    #[arg(long, value_name = "ARTIFACT")]
    dataset: PathBuf,
    #[command(flatten)]
    common: stage::CommonArgs,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("expected NAME=ARTIFACT")?;
    let fine =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if fine { Ok((name.to_owned(), path.into())) } else { Err("a name is made of a-z, 0-9 and _".to_owned()) }
}

fn main() -> ExitCode {
    stage::main(body, |args: &Args| &args.common)
}

fn body(args: Args) -> stage::Result<()> {
    let mut run = stage::Run::<Config>::new(&args.common)?;
    let mut models = Vec::new();
    for (index, (name, path)) in args.models.into_iter().enumerate() {
        // The number keeps the order of the models in the key: the first is the reference.
        let role = format!("model_{index}_{name}");
        let input = run.input_or_folder(&role, &path, "model", "config.json")?;
        models.push(NamedModel { name, folder: input.path().to_owned(), adapters: None });
    }
    let base = models[0].folder.clone();
    for (index, (name, path)) in args.adapters.into_iter().enumerate() {
        let role = format!("adapters_{index}_{name}");
        let input = run.input_or_folder(&role, &path, "adapters", "adapter_config.json")?;
        models.push(NamedModel { name, folder: base.clone(), adapters: Some(input.path().to_owned()) });
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = models.iter().find(|model| !names.insert(&model.name)) {
        return Err(stage::Error::usage(format!("the name `{}` is given twice", twice.name)));
    }
    let rows = run.input("rows", &args.dataset, "rows")?;
    let tokens = run.input("tokens", &args.dataset, "tokens")?;
    let tokenizer = run.input("tokenizer", &args.dataset, "tokenizer")?;
    let backend = mlx_ext::init(&mlx_ext::Options::default())?;
    run.numerics(backend.numerics(run.config().dtype.name(&backend)));
    run.execute(|job, config| {
        mlx_ext::warn_if_slow()?;
        let dataset = Dataset { rows: rows.path(), tokens: tokens.path(), tokenizer: tokenizer.path() };
        let stop = job.stop();
        let report = evaluate::run(&models, &dataset, config, &backend, job.out(), || Ok(stop.check()?))?;
        for model in &models {
            for score in ["loss", "chrf"] {
                if let Some(value) = report["models"][&model.name][score].as_f64() {
                    job.metric(&format!("{}_{score}", model.name), value);
                }
            }
        }
        Ok(())
    })
}
