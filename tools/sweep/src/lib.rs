//! Runs the pipeline for many settings.
//!
//! A sweep is described in `pipelines/sweeps/NAME.toml` ([`spec`]): settings that vary, how members are chosen, seeds. Each run
//! is `make pipeline` with its settings in `SET` ([`make`]), so wiring, keys, resuming and publishing are those of every
//! pipeline. This program keeps no state: what was done is in the store. It only decides which runs start, and when ([`pool`],
//! [`search`]).
//!
//! Left to others: the stages' work (make and the stages), several machines (Nix and Slurm, for which [`export`] writes the
//! runs), and the page with the results (`report sweep`).

mod args;
mod error;
mod export;
mod history;
mod make;
mod member;
mod memory;
mod plan;
mod pool;
mod search;
mod space;
mod spec;
mod value;

use std::io::Write as _;
use std::path::Path;

use artifact::atomic;
use outputs::{SweepMember, SweepRecord};
use stage::Context as _;

pub use args::Args;
use error::{Error, Result};
use export::Resources;
use make::Make;
use member::Run;
use pool::Pool;
use spec::Sweep;

/// Name of the file with the best settings, in the folder of a sweep.
const BEST: &str = "best.toml";

/// Runs, plans or exports a sweep.
///
/// # Errors
///
/// Fails when the description of the sweep is wrong, when it is interrupted, and at its end when a run failed.
pub fn run(args: &Args) -> failure::Result<()> {
    let mut sweep = spec::read(&spec::locate(&args.sweep)?)?;
    sweep.pipeline = args.pipeline.clone().unwrap_or(sweep.pipeline);
    sweep.model = args.model.clone().unwrap_or(sweep.model);
    let make = Make::new(args, &sweep)?;
    if args.members {
        return print(&export::lines(&make, &export::all_runs(&sweep)?)?);
    }
    if let Some(file) = &args.nix {
        return write(
            file,
            &export::attribute_set(&sweep, &make.common_settings()?, &export::all_runs(&sweep)?),
        );
    }
    let pool = Pool::new(args, make);
    if args.plan {
        return print(&plan::describe(&sweep, &pool)?);
    }
    if let Some(file) = &args.slurm {
        let runs = export::all_runs(&sweep)?;
        fs_err::create_dir_all(&pool.make.folder)?;
        let resources = Resources { jobs: args.jobs.max(1), memory: needed_memory(&pool, &runs)? };
        return write(file, &export::slurm_script(&sweep, &pool.make, &runs, resources)?);
    }
    plan::check_settings(&sweep, &pool.make)?;
    // Read before the first run: hours later it would be too late to learn that something is missing.
    let common = pool.make.common_settings()?;
    let preset = fs_err::read_to_string(format!("pipelines/models/{}.toml", sweep.model))?;
    let record = search::drive(&sweep, &pool)?;
    let best = export::best_preset(&sweep, &common, &record, &preset)?;
    finish(&sweep, &pool.make, &record, best.as_deref())
}

/// Writes the results, with the preset `best`, and prints the path of the record.
fn finish(sweep: &Sweep, make: &Make, record: &SweepRecord, best: Option<&str>) -> failure::Result<()> {
    let json = serde_json::to_string_pretty(record).map_err(std::io::Error::from)?;
    fs_err::create_dir_all(&make.folder)?;
    let file = make.folder.join(outputs::SWEEP);
    atomic::write_file(&file, (json + "\n").as_bytes())?;
    if let Some(best) = best {
        atomic::write_file(&make.folder.join(BEST), best.as_bytes())?;
    }
    if let Some(best) = record.best() {
        let result = record.describe_best().unwrap_or_default();
        tracing::info!("{}: best is {} with {result}", sweep.name, best.name);
    }
    if let Some(all) = record.full_steps {
        tracing::info!("{}: trained {} steps; a grid would train {all}", sweep.name, record.trained_steps);
    }
    let failed = failed(make, &record.members);
    if !failed.is_empty() {
        let of = record.members.iter().map(|member| member.runs.len()).sum();
        return Err(Error::Failed { failed, of }.into());
    }
    stage::print_path(&file)
}

/// Returns a line for each failed run.
fn failed(make: &Make, members: &[SweepMember]) -> Vec<String> {
    let runs = members.iter().flat_map(|member| member.runs.iter().map(move |run| (member, run)));
    runs.filter(|(_, run)| run.failed)
        .map(|(member, run)| {
            let seed = run.seed.map_or(String::new(), |seed| format!("_seed-{seed}"));
            let name = format!("{}{seed}", member.name);
            let log = make.folder.join(&name).join("log");
            format!("{name}, see {}", log.display())
        })
        .collect()
}

/// Returns the most memory that train needs in one of the runs, if that is known before any has run.
fn needed_memory(pool: &Pool, runs: &[Run]) -> Result<Option<u64>> {
    let plans = pool::parallel(pool.jobs(), runs, |run| pool.make.plan(run));
    let mut most = None;
    for plan in plans {
        most = most.max(plan?.iter().filter_map(|stage| stage.memory).max());
    }
    Ok(most)
}

fn write(file: &Path, text: &str) -> failure::Result<()> {
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs_err::create_dir_all(folder)?;
    }
    fs_err::write(file, text)?;
    stage::print_path(file)
}

fn print(text: &str) -> failure::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("printing to stdout")
}
