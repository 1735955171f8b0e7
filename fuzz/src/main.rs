//! Feeds mutated bytes to the parsers of foreign bytes.

mod mutate;
mod supervise;
mod targets;

use std::io::Write as _;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Parser;
use failure::{Error, Kind, Result};

use crate::targets::{TARGETS, Target};

/// Feed mutated bytes to the parsers of foreign bytes
#[derive(Debug, Parser)]
struct Args {
    /// Target to run; all if none is given
    target: Option<String>,
    /// Run this file alone
    file: Option<PathBuf>,
    /// Run each target for N seconds
    #[arg(long, value_name = "N", env = "FUZZ_SECONDS", default_value_t = 600)]
    seconds: u64,
    /// Run N targets at once [default: the number of processors]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZero<usize>>,
    /// Make other inputs
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Folder with the corpora
    #[arg(long, value_name = "DIR", default_value = "fuzz/corpus")]
    corpus: PathBuf,
    /// Folder for inputs that show a fault
    #[arg(long, value_name = "DIR", default_value = "fuzz/findings")]
    findings: PathBuf,
    /// Run inputs from this number on, recording each number in the file PROGRESS
    #[arg(long, hide = true, num_args = 2, value_names = ["FIRST", "PROGRESS"])]
    child: Option<Vec<String>>,
}

fn main() -> ExitCode {
    run(&Args::parse()).unwrap_or_else(|error| {
        // Without stderr, the exit code is all there is to say.
        let _ = writeln!(std::io::stderr(), "{}", error.report());
        ExitCode::from(error.kind().exit_code())
    })
}

fn run(args: &Args) -> Result<ExitCode> {
    let chosen: Vec<_> =
        TARGETS.iter().filter(|target| args.target.as_ref().is_none_or(|name| target.name == name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        return Err(Error::usage(format!("no such target; the targets are {}", names.join(", "))));
    }
    let time = Duration::from_secs(args.seconds);
    let inputs = |target| mutate::Inputs::read(target, &args.corpus, args.seed);
    if let (Some(file), [target]) = (&args.file, &chosen[..]) {
        supervise::run_one(target, &fs_err::read(file)?)?;
    } else if let (Some(child), [target]) = (&args.child, &chosen[..]) {
        let first = child[0].parse().map_err(|error| Error::wrap(Kind::Usage, error))?;
        supervise::run_as_child(target, &inputs(target)?, first, child[1].as_ref(), time)?;
    } else {
        let watch = |target| supervise::watch(target, &inputs(target)?, &args.corpus, &args.findings, time);
        let jobs = args.jobs.map_or_else(std::thread::available_parallelism, Ok)?;
        if at_once(&chosen, jobs, watch)? > 0 {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Watches `targets`, up to `jobs` at a time, and returns the number of findings.
fn at_once(
    targets: &[&'static Target],
    jobs: NonZero<usize>,
    watch: impl Fn(&'static Target) -> Result<usize> + Sync,
) -> Result<usize> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<usize> {
        let mut found = 0;
        while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
            found += watch(target)?;
        }
        Ok(found)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.get()).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a watching thread does not panic")).sum()
    })
}
