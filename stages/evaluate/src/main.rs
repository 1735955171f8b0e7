//! Command line of the stage `evaluate`.

use std::process::ExitCode;

fn main() -> ExitCode {
    stage::main(|args: evaluate::Args| evaluate::program(&args), |args| &args.common)
}
