//! The program `artifacts`.

use std::process::ExitCode;

use artifacts::Args;

fn main() -> ExitCode {
    stage::main(|args: Args| artifacts::run(&args), |args| &args.verbosity)
}
