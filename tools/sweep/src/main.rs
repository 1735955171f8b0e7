//! The program `sweep`.

use std::process::ExitCode;

use sweep::Args;

fn main() -> ExitCode {
    stage::main(|args: Args| sweep::run(&args), |args| &args.verbosity)
}
