//! Command line of the report stage.

mod lineage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use report::{Config, Inputs};

/// Write what a pipeline run came to as one self-contained page
#[derive(Parser)]
struct Args {
    /// Artifact of evaluate
    #[arg(long, value_name = "ARTIFACT")]
    evaluate: PathBuf,
    /// Artifact of train
    #[arg(long, value_name = "ARTIFACT")]
    train: PathBuf,
    /// Artifact of validate
    #[arg(long, value_name = "ARTIFACT")]
    validate: PathBuf,
    /// Artifact of select-best
    #[arg(long, value_name = "ARTIFACT")]
    select_best: PathBuf,
    /// Artifact of fuse
    #[arg(long, value_name = "ARTIFACT")]
    fuse: Option<PathBuf>,
    /// Artifact of prepare-data
    #[arg(long, value_name = "ARTIFACT")]
    prepare_data: Option<PathBuf>,
    /// Artifact of import-model
    #[arg(long, value_name = "ARTIFACT")]
    import_model: Option<PathBuf>,
    #[command(flatten)]
    common: stage::CommonArgs,
}

fn main() -> ExitCode {
    stage::main(body, |args: &Args| &args.common)
}

fn body(args: Args) -> stage::Result<()> {
    let mut run = stage::Run::<Config>::new(&args.common)?;
    let store = run.store().cloned();
    let mut open = |role, path: &Path| run.input_manifest(role, path);
    let folder = |input: stage::Input| input.artifact_dir().to_owned();
    let train = open("train", &args.train)?;
    let mut origin = |role, of: &str, given: Option<PathBuf>| {
        let path = given.map(|given| lineage::origin(store.as_ref(), &train, of, &given));
        path.map(|path| open(role, &path).map(folder)).transpose()
    };
    let prepare_data = origin("prepare_data", "tokens", args.prepare_data)?;
    let import_model = origin("import_model", "model", args.import_model)?;
    let inputs = Inputs {
        evaluate: folder(open("evaluate", &args.evaluate)?),
        train: folder(train),
        validate: folder(open("validate", &args.validate)?),
        select_best: folder(open("select_best", &args.select_best)?),
        fuse: args.fuse.map(|path| open("fuse", &path).map(folder)).transpose()?,
        prepare_data,
        import_model,
    };
    run.execute(|job, config| {
        let summary = report::run(&inputs, config, job.out()).map_err(stage::bad_input)?;
        tracing::info!("{}\n{}", summary.headline, summary.table.trim_end());
        Ok(())
    })
}
