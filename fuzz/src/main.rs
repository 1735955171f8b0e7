//! Feeds mutated bytes to the parsers of foreign bytes.

mod mutate;
mod supervise;
mod targets;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use failure::{Error, Kind, Result};

use crate::targets::TARGETS;

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
    let mut found = 0;
    for target in chosen {
        let inputs = mutate::Inputs::read(target, &args.corpus, args.seed)?;
        if let Some(file) = &args.file {
            supervise::run_one(target, &fs_err::read(file)?)?;
        } else if let Some(child) = &args.child {
            let first = child[0].parse().map_err(|error| Error::wrap(Kind::Usage, error))?;
            supervise::run_as_child(target, &inputs, first, child[1].as_ref(), time)?;
        } else {
            found += supervise::watch(target, &inputs, &args.corpus, &args.findings, time)?;
        }
    }
    Ok(if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
