//! Command line of `import-model`.

mod args;
mod lock;
mod terminal;

use std::process::ExitCode;

use args::Args;
use import_model::hub::{Hub, Settings};
use import_model::{Config, Source, model};
use terminal::Terminal;

fn main() -> ExitCode {
    stage::main(body, |args: &Args| &args.common)
}

fn body(args: Args) -> stage::Result<()> {
    let settings = Settings::from_env().map_err(import_model::Error::from)?;
    let asked = stage::Run::<Config>::adjusted(&args.common, |config| args.adjust(config))?.config().clone();
    let source = asked.source()?;
    // A branch moves, and the key must not: it holds the commit.
    let commit = match &source {
        Source::Folder(_) => String::new(),
        Source::Hub { id, revision } => {
            let terminal = Terminal::new(stage::StopFlag::default());
            let commit = Hub::new(&settings, &terminal).resolve(id, revision);
            commit?
        }
    };
    let config = Config { commit, ..asked };
    let mut run = stage::Run::<Config>::adjusted(&args.common, |it| it.clone_from(&config))?;
    if let Source::Folder(folder) = &source {
        model::find_in_folder(folder)?; // says better what is missing than hashing would
        run.input_folder("source", folder)?;
    }
    if config.conversion().is_some() {
        if args.write_lock.is_some() {
            let reason = "`--write-lock` pins files as they come, and these settings change them".into();
            let hint =
                "pin without `quantize` and `dequantize`; pins are checked before weights are changed".into();
            return Err(import_model::Error::Settings { reason, hint }.into());
        }
        let backend = mlx_ext::init(&mlx_ext::Options::default())?;
        run.numerics(backend.numerics("stored"));
    }
    let run = run.with_key()?;
    let lock = lock::Lock::new(args.common.out.as_ref(), &run)?;
    lock.check(&config)?;
    run.execute(|job, config| {
        let terminal = Terminal::new(job.stop());
        let result = import_model::run(config, &settings, &terminal, job.resume_dir(), job.out());
        Ok(result?)
    })?;
    args.write_lock.filter(|_| !args.common.plan).map_or(Ok(()), |file| lock.write(&file, &config))
}
