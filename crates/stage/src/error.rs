//! How a stage fails: kinds of errors, their exit codes, and how they are printed.

use std::io;

/// The stage was asked to stop and has saved what it needs to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted; run the same command again to go on")]
pub struct Interrupted {
    /// The number of the signal.
    pub signal: i32,
}

/// A mistake in the command line or the settings (exit 2).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Running again gave other bytes (exit 70).
#[derive(Debug, thiserror::Error)]
#[error("the stage is not deterministic: {0}")]
pub struct Nondeterministic(pub String);

/// Marks an error as caused by the content of an input.
#[derive(Debug)]
struct BadInput;

impl std::fmt::Display for BadInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("bad input data")
    }
}

/// Ends the process with a code and without a message.
#[derive(Debug, thiserror::Error)]
#[error("exit code {0}")]
pub(crate) struct Exit(pub(crate) u8);

/// Wraps any error as caused by input data: the stage exits with 65.
pub fn bad_input(error: impl Into<anyhow::Error>) -> anyhow::Error {
    error.into().context(BadInput)
}

/// Wraps an error as [`bad_input`] does if any of its causes is one that `blames_input`.
pub fn bad_input_if(
    error: anyhow::Error,
    blames_input: fn(&(dyn std::error::Error + 'static)) -> bool,
) -> anyhow::Error {
    if error.chain().any(blames_input) { bad_input(error) } else { error }
}

/// Adds a remedy, printed on its own line after the error.
pub fn hint(error: impl Into<anyhow::Error>, remedy: impl std::fmt::Display) -> anyhow::Error {
    error.into().context(format!("hint: {remedy}"))
}

/// Makes an error about the command line or settings: the stage exits with 2.
pub fn usage(message: impl std::fmt::Display) -> anyhow::Error {
    Usage(message.to_string()).into()
}

/// Returns the exit code for an error.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    use artifact::Error as Artifact;
    if let Some(Exit(code)) = error.downcast_ref() {
        return *code;
    }
    if error.chain().any(is_out_of_space_or_io) {
        return 74;
    }
    for cause in error.chain() {
        if let Some(interrupted) = cause.downcast_ref::<Interrupted>() {
            return 128 + interrupted.signal as u8;
        }
        match cause.downcast_ref() {
            Some(Artifact::Locked { .. }) => return 75,
            Some(Artifact::Stopped) => return 130,
            Some(Artifact::BadName { .. } | Artifact::Occupied { .. }) => return 2,
            _ => {}
        }
        if cause.is::<Nondeterministic>() {
            return 70;
        }
    }
    // Contexts are found through the error itself, plain errors through the chain.
    if error.downcast_ref::<BadInput>().is_some() {
        return 65;
    }
    if error.downcast_ref::<Usage>().is_some() { 2 } else { 1 }
}

fn is_out_of_space_or_io(cause: &(dyn std::error::Error + 'static)) -> bool {
    use rustix::io::Errno;
    if matches!(cause.downcast_ref(), Some(artifact::Error::NoSpace { .. })) {
        return true;
    }
    let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::ReadOnlyFilesystem];
    if let Some(error) = cause.downcast_ref::<io::Error>()
        && kinds.contains(&error.kind())
    {
        return true;
    }
    // Errors that were wrapped as text keep their number only there.
    let text = cause.to_string();
    [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::ROFS]
        .iter()
        .any(|errno| text.contains(&format!("(os error {})", errno.raw_os_error())))
}

/// Formats an error for people: what failed, its causes, and hints at the end.
pub fn format_error(error: &anyhow::Error) -> String {
    let (mut lines, mut hints) = (Vec::<String>::new(), Vec::<String>::new());
    for cause in error.chain() {
        let mut text = String::new();
        for line in cause.to_string().lines() {
            match line.trim_start().strip_prefix("hint: ") {
                Some(remedy) => hints.push(format!("hint: {remedy}")),
                None if text.is_empty() => text.push_str(line),
                None => text.extend(["\n  ", line]),
            }
        }
        let marker = text == BadInput.to_string();
        // Some libraries repeat their cause in their own message.
        let repeated = lines.last().is_some_and(|line| line.ends_with(&text));
        if !text.is_empty() && !marker && !repeated {
            let lead = if lines.is_empty() { "error: " } else { "  caused by: " };
            lines.push(format!("{lead}{text}"));
        }
    }
    let code = exit_code(error);
    if code == 74 && hints.is_empty() {
        hints.push("hint: free some space or use another disk, then run the same command again".to_owned());
    }
    if code == 75 {
        hints.push("hint: wait for it, or give more time with `--lock-wait`".to_owned());
    }
    hints.dedup();
    lines.extend(hints);
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context as _, anyhow};

    #[test]
    fn codes_follow_the_kind_of_error_through_contexts() {
        let no_space = || io::Error::from_raw_os_error(28);
        let cases: [(anyhow::Error, u8); 9] = [
            (anyhow!("x"), 1),
            (usage("x").context("reading settings"), 2),
            (bad_input(anyhow!("x")).context("reading rows"), 65),
            (anyhow::Error::from(no_space()).context("saving"), 74),
            (bad_input(no_space()), 74),
            (anyhow!("failed to write `a`: Input/output error (os error 5)"), 74),
            (anyhow::Error::from(Nondeterministic("x".into())), 70),
            (anyhow::Error::from(Interrupted { signal: 2 }).context("training"), 130),
            (anyhow::Error::from(Interrupted { signal: 15 }), 143),
        ];
        for (error, code) in cases {
            assert_eq!(exit_code(&error), code, "{error:?}");
        }
    }

    #[test]
    fn hints_come_last_and_markers_are_not_printed() {
        let error: anyhow::Error = Err::<(), _>(bad_input(hint(anyhow!("no such column `x`"), "use `y`")))
            .context("reading `a.csv`")
            .unwrap_err();
        assert_eq!(
            format_error(&error),
            "error: reading `a.csv`\n  caused by: no such column `x`\nhint: use `y`"
        );
        let error = anyhow!("several:\nfirst\nhint: do this\nsecond");
        assert_eq!(format_error(&error), "error: several:\n  first\n  second\nhint: do this");
    }
}
