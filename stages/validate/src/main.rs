//! Command line of the stage `validate`.

use std::process::ExitCode;

fn main() -> ExitCode {
    stage::main(|args: validate::Args| validate::program(&args), |args| &args.common)
}
