//! The program `upload`.

use std::process::ExitCode;

use upload::Args;

fn main() -> ExitCode {
    stage::main(|args: Args| upload::run(&args), |args| &args.verbosity)
}
