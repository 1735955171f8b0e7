//! The command line of stages: flags, settings, signals, exit codes, and running a body to an artifact.
//!
//! A stage opens its inputs and passes a closure to [`Run::execute`]. This crate computes the key and decides whether the
//! stage runs, resumes or is up to date. Storing artifacts is the job of `artifact`; the names of stages and their outputs
//! are in `outputs`.
//!
//! ```no_run
//! use std::path::PathBuf;
//! use std::process::ExitCode;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Default, Serialize, Deserialize)]
//! #[serde(default, deny_unknown_fields)]
//! struct Config {
//!     limit: u64,
//! }
//!
//! impl stage::Config for Config {
//!     const STAGE: &'static str = "count";
//!     const VERSION: u32 = 1;
//!     fn slug(&self) -> String {
//!         format!("limit{}", self.limit)
//!     }
//! }
//!
//! /// Count the bytes of a file
//! #[derive(clap::Parser)]
//! struct Args {
//!     /// File to count
//!     #[arg(long, value_name = "FILE")]
//!     data: PathBuf,
//!     #[command(flatten)]
//!     common: stage::CommonArgs,
//! }
//!
//! fn main() -> ExitCode {
//!     stage::main(
//!         |args: Args| {
//!             let mut run = stage::Run::<Config>::new(&args.common)?;
//!             let data = run.input_folder("data", &args.data)?;
//!             run.execute(|job, _config| {
//!                 let count = std::fs::read(data.path())?.len();
//!                 std::fs::write(job.out().join("count.json"), format!("{count}\n"))?;
//!                 Ok(())
//!             })
//!         },
//!         |args| &args.common,
//!     )
//! }
//! ```
//!
//! Exit codes are those of [`Kind`]. `--plan` also exits with 10 (would run) and 11 (would resume).

mod args;
mod below;
mod config;
mod ending;
mod environment;
mod folders;
pub mod free_names;
mod identity;
mod input;
mod job;
mod lineage;
mod logging;
mod lookup;
mod output;
mod plan;
mod program;
mod provenance;
mod ranks;
mod related;
mod run;
mod scratch_folder;
mod segment;
mod shape;
mod signals;
mod target;

use std::io::{self, Write as _};
use std::process::ExitCode;

pub use args::{CommonArgs, MemoryArgs, UnpackArgs, Verbosity};
pub use below::last_folder_in;
pub use config::Config;
pub use failure::{Context, Error, Failure, Kind, Required, Result};
pub use folders::make_folder;
pub use input::{Input, locate};
pub use job::Job;
pub use logging::{colour, progress_bar};
pub use output::{TO_STDOUT, json_path, print_path};
pub use ranks::{end_now, speak_as_rank};
pub use related::Segment;
pub use run::{KeyedRun, Run};
pub use segment::SEGMENT_OUTPUT;
pub use signals::{StopFlag, Unhurried, end_after_grace, end_by_signal};
pub use target::{create_file, is_stdout, write_file};

/// Runs a program: listens for signals, and does the rest as [`program`] does.
pub fn main<A: clap::Parser, V: AsRef<Verbosity>>(
    body: impl FnOnce(A) -> Result<()>,
    verbosity: fn(&A) -> &V,
) -> ExitCode {
    let body = |args| {
        if let Err(error) = signals::listen() {
            tracing::warn!("cannot listen for signals: {error}");
        }
        body(args)
    };
    program(body, verbosity)
}

/// Runs a program that handles signals itself: parses the command line (with `--version`), starts logging, runs `body`,
/// reports its error and returns the exit code.
pub fn program<A: clap::Parser, V: AsRef<Verbosity>>(
    body: impl FnOnce(A) -> Result<()>,
    verbosity: fn(&A) -> &V,
) -> ExitCode {
    let command = environment::ignore_empty(A::command().version(env!("CARGO_PKG_VERSION")));
    let parsed = command.try_get_matches().and_then(|matches| A::from_arg_matches(&matches));
    let args = match parsed {
        Ok(args) => args,
        Err(error) => return print_help_or_refusal(&error),
    };
    logging::start(*verbosity(&args).as_ref());
    if let Err(error) = signals::catch_size_limit() {
        tracing::warn!("cannot catch signals: {error}");
    }
    match environment::check_threads().and_then(|()| body(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => print_error(&error),
    }
}

/// Prints help and version to stdout, and errors about the command line to stderr.
fn print_help_or_refusal(said: &clap::Error) -> ExitCode {
    let printed = said.print().and_then(|()| io::stdout().flush());
    match printed {
        // Where stderr is not writable, nothing can be said about it.
        Err(error) if !said.use_stderr() && error.kind() != io::ErrorKind::BrokenPipe => {
            print_error(&Error::wrap(Kind::Storage, error).context(TO_STDOUT))
        }
        _ => ExitCode::from(said.exit_code() as u8),
    }
}

/// Prints an error, unless it only carries an exit code, and returns its exit code.
fn print_error(error: &Error) -> ExitCode {
    if !matches!(error.kind(), Kind::Status(_)) {
        logging::print_error_line(&error.report());
    }
    ExitCode::from(error.kind().exit_code())
}
