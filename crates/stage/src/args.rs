//! The flags that every stage has.

use std::path::PathBuf;

use artifact::Wait;
use clap::Args;

/// How much a program prints to stderr.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Verbosity {
    /// Print debug messages (`-vv`: also traces)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

impl AsRef<Verbosity> for Verbosity {
    fn as_ref(&self) -> &Verbosity {
        self
    }
}

/// Flag of the stages that load a model.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct MemoryArgs {
    /// Memory limit in GB (default: 80% of available memory)
    #[arg(long, value_name = "GB")]
    pub max_memory: Option<f64>,
}

/// Flag of the programs that compute with a model, other than `train`, which has it as a setting.
#[derive(Debug, Clone, Default, Args)]
pub struct UnpackArgs {
    /// Unpack quantized weights once (`resident`), in each product (`transient`), or as suits the machine (`auto`)
    #[arg(
        long,
        value_name = "WHEN",
        value_parser = ["auto", "resident", "transient"],
        hide_possible_values = true,
        default_value = "auto"
    )]
    pub unpack: String,
}

/// Flags common to all stages; none of them changes the bytes of an artifact.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
#[command(next_help_heading = "Common options")]
pub struct CommonArgs {
    /// Read settings from the stage's table in FILE (repeatable; later files win)
    #[arg(long, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Set one setting (repeatable; `STAGE.KEY=VALUE` is for that stage only)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Store artifacts in DIR
    #[arg(long, value_name = "DIR", env = "ASHLAR_STORE", default_value = "artifacts")]
    pub store: PathBuf,
    /// Write the artifact to DIR instead of the store
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// With --out, keep the resume state in DIR
    #[arg(long, value_name = "DIR", requires = "out")]
    pub resume_dir: Option<PathBuf>,
    /// Show whether the stage would run, and why (exit 0: up to date, 10: run, 11: resume)
    #[arg(long, conflicts_with_all = ["force", "check"])]
    pub plan: bool,
    /// Run even if the artifact exists, and compare the result with it
    #[arg(long, conflicts_with = "check")]
    pub force: bool,
    /// Run again and compare the bytes with the existing artifact (exit 70 if they differ)
    #[arg(long)]
    pub check: bool,
    /// Print --plan as JSON
    #[arg(long)]
    pub json: bool,
    /// How much to print.
    #[command(flatten)]
    pub verbosity: Verbosity,
    /// How long to wait for another process that is making the same artifact (`0`, `30s`, `5m`, `forever`)
    #[arg(long, value_name = "DURATION", default_value = "forever", value_parser = parse_wait)]
    pub lock_wait: Wait,
    /// Label the artifact, so that `refs/NAME` refers to it
    #[arg(long, value_name = "NAME", conflicts_with = "out")]
    pub label: Option<String>,
}

impl AsRef<Verbosity> for CommonArgs {
    fn as_ref(&self) -> &Verbosity {
        &self.verbosity
    }
}

impl Default for CommonArgs {
    fn default() -> Self {
        Self {
            config: Vec::new(),
            set: Vec::new(),
            store: PathBuf::from("artifacts"),
            out: None,
            resume_dir: None,
            plan: false,
            force: false,
            check: false,
            json: false,
            verbosity: Verbosity::default(),
            lock_wait: Wait::Forever,
            label: None,
        }
    }
}

fn parse_wait(text: &str) -> Result<Wait, String> {
    if text == "forever" {
        return Ok(Wait::Forever);
    }
    let expected = |error| format!("expected a duration, such as `30s` or `5m`, or `forever`: {error}");
    humantime::parse_duration(text).map(Wait::AtMost).map_err(expected)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn waits_are_parsed() {
        assert_eq!(parse_wait("forever"), Ok(Wait::Forever));
        for (text, seconds) in [("0", 0), ("30s", 30), ("5m", 300), ("2h", 7200)] {
            assert_eq!(parse_wait(text), Ok(Wait::AtMost(Duration::from_secs(seconds))));
        }
        for text in ["", "s", "-1s", "30", "soon"] {
            assert!(parse_wait(text).is_err(), "{text}");
        }
    }
}
