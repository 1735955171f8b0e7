//! The flags that every stage has.

use std::path::PathBuf;
use std::time::Duration;

use artifact::Wait;
use clap::Args;

/// Flags common to all stages; none of them changes the bytes of an artifact.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
#[command(next_help_heading = "Common options")]
pub struct CommonArgs {
    /// Read settings from the stage's table in FILE (may be repeated; later files win)
    #[arg(long, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Change one setting (may be repeated; `STAGE.KEY=VALUE` names a stage)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Keep artifacts in DIR
    #[arg(long, value_name = "DIR", env = "ASHLAR_STORE", default_value = "artifacts")]
    pub store: PathBuf,
    /// Write one artifact folder to DIR, without a store
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// With --out, keep what is needed to go on after an interruption in DIR
    #[arg(long, value_name = "DIR", requires = "out")]
    pub resume_dir: Option<PathBuf>,
    /// Only tell what would be done and why (exit 0: nothing, 10: run, 11: resume)
    #[arg(long, conflicts_with_all = ["force", "check"])]
    pub plan: bool,
    /// Run even if the artifact exists, and compare with it
    #[arg(long, conflicts_with = "check")]
    pub force: bool,
    /// Run again and compare the bytes with the artifact that exists (exit 70 if they differ)
    #[arg(long)]
    pub check: bool,
    /// Print --plan as JSON
    #[arg(long)]
    pub json: bool,
    /// Say more (twice: even more)
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say only what went wrong
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Wait so long for another process that works on the same artifact (`0`, `30s`, `5m`, `forever`)
    #[arg(long, value_name = "DURATION", default_value = "forever", value_parser = parse_wait)]
    pub lock_wait: Wait,
    /// Name the artifact, so that it can be used as `refs/NAME`
    #[arg(long, value_name = "NAME", conflicts_with = "out")]
    pub label: Option<String>,
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
            verbose: 0,
            quiet: false,
            lock_wait: Wait::Forever,
            label: None,
        }
    }
}

fn parse_wait(text: &str) -> Result<Wait, String> {
    if text == "forever" {
        return Ok(Wait::Forever);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("expected a number with `s`, `m` or `h`, or `forever`".to_owned()),
    };
    let number: u64 =
        digits.parse().map_err(|_| "expected a number, such as `30s`, or `forever`".to_owned())?;
    Ok(Wait::AtMost(Duration::from_secs(number.saturating_mul(factor))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_parsed() {
        assert_eq!(parse_wait("forever"), Ok(Wait::Forever));
        for (text, seconds) in [("0", 0), ("30s", 30), ("5m", 300), ("2h", 7200)] {
            assert_eq!(parse_wait(text), Ok(Wait::AtMost(Duration::from_secs(seconds))));
        }
        for text in ["", "s", "-1", "1d", "soon"] {
            assert!(parse_wait(text).is_err(), "{text}");
        }
    }
}
