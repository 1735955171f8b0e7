//! Environment variables that set flags.

use clap::Command;

/// Makes a command treat empty variables as unset, like make.
pub(crate) fn ignore_empty(command: Command) -> Command {
    let ignore = |arg: clap::Arg| {
        let value = arg.get_env().and_then(std::env::var_os);
        if value.is_some_and(|value| value.is_empty()) { arg.env(None::<&'static str>) } else { arg }
    };
    command.mut_args(ignore).mut_subcommands(ignore_empty)
}
