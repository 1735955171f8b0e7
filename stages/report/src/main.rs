//! Command line of the stage `report`.

use std::process::ExitCode;

fn main() -> ExitCode {
    stage::main(|args: report::Args| report::program(&args), |args| &args.common)
}
