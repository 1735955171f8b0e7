//! The program `generate`.

use std::process::ExitCode;

use generate::Args;

fn main() -> ExitCode {
    stage::program(|args: Args| generate::run(&args), |args| &args.verbosity)
}
