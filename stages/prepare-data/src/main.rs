//! Command line of `prepare-data`.

use std::path::PathBuf;
use std::process::ExitCode;

use failure::Context;
use outputs::{SPLITS, TOKENIZER};
use prepare_data::Config;
use stage::{CommonArgs, Run};

/// Turn data files into a dataset: splits, chat template, tokens, leak check
#[derive(clap::Parser)]
struct Args {
    /// Artifact of `import-model`, or a folder with `tokenizer.json`
    #[arg(long, value_name = "ARTIFACT")]
    tokenizer: PathBuf,
    /// Data file, or folder with the files that the settings name (repeatable)
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    common: CommonArgs,
}

fn main() -> ExitCode {
    stage::main(
        |args: Args| {
            let mut run = Run::<Config>::new(&args.common)?;
            let tokenizer =
                run.input_or_folder("tokenizer", &args.tokenizer, TOKENIZER, &["tokenizer.json"])?;
            let files =
                prepare_data::find_files(&args.data, run.config()).context("finding the data files")?;
            // Each file is a separate input, so that other files in the folder do not change the key.
            let mut data_bytes = 0;
            for (number, file) in files.iter().enumerate() {
                let split = file.split.map(|split| format!("{}_", split.as_str())).unwrap_or_default();
                let input = run.input_folder(&format!("{split}data_{number}"), &file.path)?;
                data_bytes += input.manifest().files.iter().map(|file| file.size).sum::<u64>();
            }
            run.expect_bytes(data_bytes * prepare_data::WRITTEN_PER_BYTE);
            run.execute(|job, config| {
                let stats = prepare_data::run(tokenizer.path(), &files, config, job.out())
                    .context("making the dataset")?;
                for (split, found) in &stats.splits {
                    job.metric(&format!("{split}_rows"), found.rows as f64);
                    job.metric(&format!("{split}_tokens"), found.tokens as f64);
                    job.metric(&format!("{split}_trained_tokens"), found.trained_tokens as f64);
                }
                for notice in prepare_data::notices(&stats) {
                    tracing::warn!("{notice}");
                }
                let [train, validation, test] = SPLITS.map(|split| stats.splits[split].rows);
                job.summary(format!("{train} training, {validation} validation and {test} test rows"));
                Ok(())
            })
        },
        |args| &args.common,
    )
}
