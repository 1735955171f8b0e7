//! From the command line to an artifact.

use std::path::{Path, PathBuf};

use artifact::Store;
use stage::{Input, Result, Run};

use crate::args::Args;
use crate::config::Config;
use crate::lineage::origin;
use crate::source::Inputs;
use crate::write::write;

/// Writes the report of the artifacts on the command line, or says with `--plan` whether it would.
///
/// # Errors
///
/// Fails when an artifact is missing, damaged or of another stage, and when two of them contradict each other.
pub fn program(args: &Args) -> Result<()> {
    let mut run = Run::<Config>::new(&args.common)?;
    let store = run.store().cloned();
    let inputs = open(&mut run, store.as_ref(), args)?;
    run.execute(|job, config| {
        let summary = write(&inputs, config, job.out())?;
        tracing::info!("{}\n{}", summary.headline, summary.table.trim_end());
        Ok(())
    })
}

fn open(run: &mut Run<Config>, store: Option<&Store>, args: &Args) -> Result<Inputs> {
    let mut open = |role: &str, path: &Path| run.input_manifest(role, path);
    let folder = |input: Input| input.artifact_dir().to_owned();
    let train = open("train", &args.train)?;
    let mut open_origin = |role: &str, train_role: &str, given: &Option<PathBuf>| {
        let path = given.as_ref().map(|given| origin(store, &train, train_role, given));
        path.map(|path| open(role, &path).map(folder)).transpose()
    };
    let prepare_data = open_origin("prepare_data", "tokens", &args.prepare_data)?;
    let import_model = open_origin("import_model", "model", &args.import_model)?;
    Ok(Inputs {
        evaluate: folder(open("evaluate", &args.evaluate)?),
        train: folder(train),
        validate: folder(open("validate", &args.validate)?),
        select_best: folder(open("select_best", &args.select_best)?),
        fuse: args.fuse.as_deref().map(|path| open("fuse", path).map(folder)).transpose()?,
        prepare_data,
        import_model,
    })
}
