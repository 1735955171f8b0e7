//! From the command line to an artifact or a page.

use std::path::{Path, PathBuf};

use artifact::Store;
use stage::{Error, Input, Result, Run};

use crate::args::{Args, PageArgs};
use crate::config::Config;
use crate::lineage::origin;
use crate::source::Inputs;
use crate::write::{Aside, write};
use crate::{compare, data_page, sweep};

/// Writes the report of the artifacts on the command line, or says with `--plan` whether it would; or writes another page.
///
/// # Errors
///
/// Fails when an artifact is missing, damaged or of another stage, and when two of them contradict each other.
pub fn program(args: &Args) -> Result<()> {
    match &args.page {
        Some(PageArgs::Compare(args)) => return compare::program(args),
        Some(PageArgs::Sweep(args)) => return sweep::program(args),
        Some(PageArgs::Data(args)) => return data_page::program(args),
        None => {}
    }
    let mut run = Run::<Config>::new(&args.common)?;
    let store = run.store().cloned();
    let inputs = open(&mut run, store.as_ref(), args)?;
    run.execute(|job, config| {
        // When the pipeline began, if make runs it; only the page with times shows what follows from it.
        let since = std::env::var("ASHLAR_PIPELINE_START").ok();
        let aside = Aside { folder: job.telemetry_dir(), since: since.as_deref() };
        let summary = write(&inputs, config, job.out(), Some(aside))?;
        tracing::info!("{}", summary.headline);
        for line in summary.table.trim_end().lines() {
            tracing::info!("{line}");
        }
        Ok(())
    })
}

fn open(run: &mut Run<Config>, store: Option<&Store>, args: &Args) -> Result<Inputs> {
    let mut open = |role: &str, path: &Path| run.input_manifest(role, path);
    let folder = |input: Input| input.artifact_dir().to_owned();
    let train = open("train", given("train", args.train.as_ref())?)?;
    let mut open_origin = |role: &str, train_role: &str, given: &Option<PathBuf>| {
        let path = given.as_ref().map(|given| origin(store, &train, train_role, given));
        path.map(|path| open(role, &path).map(folder)).transpose()
    };
    let prepare_data = open_origin("prepare_data", "tokens", &args.prepare_data)?;
    let import_model = open_origin("import_model", "model", &args.import_model)?;
    Ok(Inputs {
        evaluate: folder(open("evaluate", given("evaluate", args.evaluate.as_ref())?)?),
        train: folder(train),
        validate: folder(open("validate", given("validate", args.validate.as_ref())?)?),
        select_best: folder(open("select_best", given("select-best", args.select_best.as_ref())?)?),
        fuse: args.fuse.as_deref().map(|path| open("fuse", path).map(folder)).transpose()?,
        prepare_data,
        import_model,
    })
}

/// Returns the artifact of a flag that the command line requires, except for other pages.
fn given<'a>(flag: &str, path: Option<&'a PathBuf>) -> Result<&'a Path> {
    path.map(PathBuf::as_path).ok_or_else(|| Error::usage(format!("`--{flag}` is missing")))
}
