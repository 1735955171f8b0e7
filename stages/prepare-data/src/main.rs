//! Command line of the stage `prepare-data`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use prepare_data::Config;

/// Turn data files into a dataset: splits, chat template, tokens, leak check
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Artifact with the tokenizer, or a tokenizer folder
    #[arg(long, value_name = "ARTIFACT")]
    tokenizer: PathBuf,
    /// Data file, or folder with the files that the settings name (may be repeated)
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    common: stage::CommonArgs,
}

fn main() -> ExitCode {
    stage::main(|args: Args| body(&args), |args: &Args| &args.common)
}

fn body(args: &Args) -> stage::Result<()> {
    let mut run = stage::Run::<Config>::new(&args.common)?;
    let tokenizer = if args.tokenizer.join("tokenizer.json").is_file() {
        run.input_folder("tokenizer", &args.tokenizer)?
    } else {
        run.input("tokenizer", &args.tokenizer, "tokenizer")?
    };
    let files = prepare_data::find_files(&args.data, run.config())?;
    // Each file is an input of its own, so that a file beside them does not matter.
    for (number, file) in files.iter().enumerate() {
        run.input_folder(&format!("data_{number}"), &file.path)?;
    }
    run.execute(|job, config| {
        let stats = prepare_data::run(tokenizer.path(), &files, config, job.out())?;
        for (split, found) in &stats.splits {
            job.metric(&format!("{split}_rows"), found.rows as f64);
            job.metric(&format!("{split}_tokens"), found.tokens as f64);
            job.metric(&format!("{split}_trained_tokens"), found.trained_tokens as f64);
        }
        Ok(())
    })
}
