//! What all stage programs share: flags, settings, signals, exit codes, and running a body to an artifact.
//!
//! A stage opens its inputs, then hands a closure to [`Run::execute`]. Whether it runs, resumes or finds its work done
//! is decided here by content hash; how artifacts are stored is `artifact`'s. This crate knows no stage.
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
//!             run.execute(|scratch, _config| {
//!                 let count = std::fs::read(data.path())?.len();
//!                 std::fs::write(scratch.out().join("count.json"), format!("{count}\n"))?;
//!                 Ok(())
//!             })
//!         },
//!         |args| &args.common,
//!     )
//! }
//! ```
//!
//! Exit codes: 0 published or found, 1 failed, 2 wrong command line or settings, 65 bad input data, 70 not
//! deterministic (`--check`), 74 no space or I/O error, 75 locked by another process, 130 and 143 interrupted;
//! `--plan` also 10 (would run) and 11 (would resume).

mod args;
mod config;
mod error;
mod input;
mod keep;
mod logging;
mod output;
mod part;
mod plan;
mod provenance;
mod relatives;
mod run;
mod scratch;
mod signals;

use std::process::ExitCode;

pub use args::CommonArgs;
pub use config::Config;
pub use error::{
    Interrupted, Nondeterministic, Usage, bad_input, bad_input_if, exit_code, format_error, hint, usage,
};
pub use input::Input;
pub use logging::{colour, progress_bar};
pub use part::PART;
pub use run::Run;
pub use scratch::Scratch;
pub use signals::StopFlag;

/// Parses the command line, runs `body`, prints what went wrong, and returns the exit code.
pub fn main<A: clap::Parser>(
    body: impl FnOnce(A) -> anyhow::Result<()>,
    common: fn(&A) -> &CommonArgs,
) -> ExitCode {
    let args = match A::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help goes to stdout, mistakes to stderr; a closed pipe is no error.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    logging::start(common(&args));
    if let Err(error) = signals::listen() {
        tracing::warn!("cannot listen for signals: {error}");
    }
    match body(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.downcast_ref::<error::Exit>().is_none() {
                logging::print_error_line(&format_error(&error));
            }
            ExitCode::from(exit_code(&error))
        }
    }
}
