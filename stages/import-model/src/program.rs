//! From the command line to an artifact.

use failure::Result;
use stage::{Run, StopFlag};

use crate::args::Args;
use crate::config::{Config, Source};
use crate::hub::Settings;
use crate::inputs::{open_folder, published_files};
use crate::terminal::Terminal;
use crate::{pins, run};

/// Runs the program: imports the model, and pins it if asked to.
///
/// # Errors
///
/// Fails when the settings or the model are unusable, when a file differs from its pin, and when a download fails.
pub fn program(args: &Args) -> Result<()> {
    let settings = Settings::from_env()?;
    let asked = Run::<Config>::adjusted(&args.common, |config| args.adjust(config))?;
    let config = asked.config().resolved(&settings, &Terminal::new(StopFlag::default()))?;
    let mut run = Run::<Config>::adjusted(&args.common, |it| it.clone_from(&config))?;
    let in_folder = open_folder(&mut run)?;
    if config.conversion().is_some() {
        let backend = mlx_ext::init(&mlx_ext::Options::with_max_gigabytes(args.memory.max_memory))?;
        run.numerics(backend.numerics("stored"));
    }
    let run = run.with_key()?;
    let is_hub = matches!(config.source()?, Source::Hub { .. });
    let mut files = match in_folder {
        Some(files) => Some(files),
        None if is_hub => published_files(&run)?,
        None => None,
    };
    if let (Some(pins), Some(files)) = (config.pins(), &files) {
        files.compare(pins)?;
    }
    run.execute(|job, config| {
        let terminal = Terminal::new(job.stop());
        let found = run::run(config, &settings, &terminal, job.resume_dir(), job.out())?;
        if found.resumed {
            job.resumed();
        }
        job.summary(format!("{} files from `{}`", found.files.len(), found.place));
        if is_hub && (config.conversion().is_some() || args.write_lock.is_some()) {
            let source = found.source_files()?;
            if config.conversion().is_some() {
                source.record(job.telemetry_dir())?;
            }
            files = Some(source);
        }
        Ok(())
    })?;
    match &args.write_lock {
        Some(_) if matches!(config.source()?, Source::Wheel(_)) => {
            tracing::info!("the wheel is pinned already, by `sha256`");
            Ok(())
        }
        Some(file) if !args.common.plan => Ok(pins::write_lock(file, config.pinned_revision(), files)?),
        _ => Ok(()),
    }
}
