//! Environment variables that set flags, and the number of threads.

use clap::Command;
use failure::{Error, Result};

/// Makes a command treat empty variables as unset, like make.
pub(crate) fn ignore_empty(command: Command) -> Command {
    let ignore = |arg: clap::Arg| {
        let value = arg.get_env().and_then(std::env::var_os);
        if value.is_some_and(|value| value.is_empty()) { arg.env(None::<&'static str>) } else { arg }
    };
    command.mut_args(ignore).mut_subcommands(ignore_empty)
}

/// Refuses a number of threads that no machine could start.
pub(crate) fn check_threads() -> Result<()> {
    let hint = "unset it, to use all processors; results do not depend on the number of threads";
    threads::check().map_err(|reason| Error::usage(reason).hinted(hint))
}
