//! Command line of the stage `train`.

use std::process::ExitCode;

fn main() -> ExitCode {
    stage::main(|args: train::Args| train::program(&args), |args| &args.common)
}
