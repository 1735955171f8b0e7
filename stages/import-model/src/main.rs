//! Command line of `import-model`.

use std::process::ExitCode;

fn main() -> ExitCode {
    stage::main(|args: import_model::Args| import_model::program(&args), |args| &args.common)
}
