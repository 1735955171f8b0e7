//! Failure of programs: kinds with their exit codes, hints, and the form in which a person reads them.
//!
//! A library's error enum implements [`Failure`]. [`Error`] is what stages return: `?` reads kind and hint from the library's
//! error, [`Context`] adds what was being done, and the program prints [`Error::report`] and exits with
//! [`Kind::exit_code`]. Nothing is decided by the wording of a message.
//!
//! ```
//! use failure::{Context, Error, Failure, Kind};
//!
//! #[derive(Debug, thiserror::Error)]
//! #[error("column `{0}` is missing")]
//! struct MissingColumn(String);
//!
//! impl Failure for MissingColumn {
//!     fn kind(&self) -> Kind {
//!         Kind::BadInput
//!     }
//!     fn hint(&self) -> Option<String> {
//!         Some("name the column with `columns.prompt`".to_owned())
//!     }
//! }
//!
//! let read = || -> Result<(), MissingColumn> { Err(MissingColumn("prompt".into())) };
//! let error = read().context("reading `rows.csv`").unwrap_err();
//! assert_eq!(error.kind().exit_code(), 65);
//! assert_eq!(
//!     error.report(),
//!     "error: reading `rows.csv`\n  caused by: column `prompt` is missing\nhint: name the column with `columns.prompt`"
//! );
//! ```

mod chain;
mod error;
mod kind;
mod printable;
mod system;

pub use chain::describe;
pub use error::{Context, Error, Failure, Required, Result};
pub use kind::Kind;
pub use printable::{is_obeyed, message, one_line, printable};
pub use system::remedy;

/// Returns early with an error of kind [`Kind::Failed`], from a format string.
#[macro_export]
macro_rules! bail {
    ($($message:tt)+) => {
        return Err($crate::Error::failed(format!($($message)+)).into())
    };
}

/// Returns early with an error of kind [`Kind::Failed`] unless a condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            $crate::bail!($($message)+);
        }
    };
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Sample {
        #[error("row 3 is not JSON")]
        Row,
        #[error("cannot write `a`")]
        Write(#[source] io::Error),
    }

    impl Failure for Sample {
        fn kind(&self) -> Kind {
            Kind::BadInput
        }
        fn hint(&self) -> Option<String> {
            matches!(self, Self::Row).then(|| "fix the row".to_owned())
        }
    }

    #[test]
    fn exit_codes_follow_the_kind_through_contexts() {
        let no_space = || io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        let disk = || io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error());
        let descriptors = || io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        let cases: [(Error, u8); 10] = [
            (Error::wrap(Kind::BadInput, Sample::Write(descriptors())), 1),
            (Error::failed("x"), 1),
            (Error::usage("x").context("reading settings"), 2),
            (Error::from(Sample::Row).context("reading rows"), 65),
            (Error::from(no_space()).context("saving"), 74),
            (Error::from(Sample::Write(no_space())), 74),
            (Error::wrap(Kind::BadInput, Sample::Write(disk())), 74),
            (Error::new(Kind::Nondeterministic, "x"), 70),
            (Error::new(Kind::Locked, "x"), 75),
            (Error::new(Kind::Interrupted { signal: 15 }, "x").context("training"), 143),
        ];
        for (error, code) in cases {
            assert_eq!(error.kind().exit_code(), code, "{error:?}");
        }
    }

    #[test]
    fn a_wrapped_io_error_keeps_its_kind() {
        let disk = io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error());
        let wrapped = io::Error::other(Sample::Write(disk));
        assert_eq!(Kind::of_io(&wrapped), Kind::Storage);
        assert!(describe(&wrapped).starts_with("cannot write `a`: Input/output error"));
    }

    #[test]
    fn a_number_in_a_message_decides_nothing() {
        assert_eq!(Error::failed("Input/output error (os error 5)").kind(), Kind::Failed);
        assert_eq!(Error::from(io::Error::other("(os error 28)")).kind(), Kind::Failed);
    }

    #[test]
    fn hints_come_last_and_a_kind_has_a_default() {
        let error = Error::from(Sample::Row).context("reading `a.jsonl`");
        assert_eq!(
            error.report(),
            "error: reading `a.jsonl`\n  caused by: row 3 is not JSON\nhint: fix the row"
        );
        assert_eq!(
            Error::new(Kind::Locked, "another process works on `train`").report(),
            "error: another process works on `train`\nhint: wait until it has finished, or raise `--lock-wait`"
        );
        let several = Error::failed("several:\nfirst\nsecond").hinted("do this");
        assert_eq!(several.report(), "error: several:\n  first\n  second\nhint: do this");
    }

    #[test]
    fn a_failure_of_the_system_has_a_hint_of_its_own() {
        use rustix::io::Errno;
        let hints = |errno: Errno| {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            Error::from(Sample::Write(error)).context("saving").hints()
        };
        for (errno, says) in [
            (Errno::NOSPC, "free some space"),
            (Errno::DQUOT, "quota"),
            (Errno::ROFS, "mount that file system for writing"),
            (Errno::FBIG, "`ulimit -f`"),
            (Errno::IO, "check the disk"),
            (Errno::ACCESS, "the right"),
            (Errno::PERM, "the right"),
            (Errno::MFILE, "`ulimit -n`"),
            (Errno::NFILE, "`ulimit -n`"),
            (Errno::NOMEM, "memory"),
        ] {
            let hints = hints(errno);
            assert!(hints.len() == 1 && hints[0].contains(says), "{errno}: {hints:?}");
        }
        assert!(hints(Errno::NOENT).is_empty());
        let own = Error::from(io::Error::from(io::ErrorKind::PermissionDenied)).hinted("do this");
        assert_eq!(own.hints(), ["do this"]);
    }

    #[test]
    fn a_repeated_cause_is_printed_once() {
        let error = Error::from(io::Error::other(Sample::Row)).context("opening");
        assert_eq!(error.messages(), ["opening", "row 3 is not JSON"]);
    }

    #[test]
    fn macros_and_options_make_failures() {
        fn odd(number: Option<u32>) -> Result<u32> {
            let number = number.required("no number")?;
            ensure!(number % 2 == 1, "{number} is even");
            Ok(number)
        }
        assert_eq!(odd(Some(3)).ok(), Some(3));
        assert_eq!(odd(Some(4)).unwrap_err().to_string(), "4 is even");
        assert_eq!(odd(None).unwrap_err().to_string(), "no number");
    }
}
