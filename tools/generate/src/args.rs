//! The command line.

use std::path::PathBuf;

use clap::{ArgGroup, Parser};
use models::{ComputeDtype, Sampling};
use stage::{Error, Result};

/// Generate text with a model: one prompt, a chat, or a file of prompts
#[derive(Debug, Parser)]
#[command(version, mut_arg("verbose", |arg| arg.help("Print times and speeds (`-vv`: also traces)")))]
#[command(group = ArgGroup::new("task").required(true).args(["prompt", "chat", "input"]))]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub struct Args {
    /// Artifact with a model, its label in the store, or a model folder
    #[arg(long, value_name = "ARTIFACT|FOLDER")]
    pub model: PathBuf,
    /// Artifact with adapters, its label in the store, or a folder with adapters
    #[arg(long, value_name = "ARTIFACT|FOLDER")]
    pub adapters: Option<PathBuf>,
    /// Look up labels of artifacts in DIR
    #[arg(long, value_name = "DIR", env = "ASHLAR_STORE", default_value = "artifacts")]
    pub store: PathBuf,

    /// Answer TEXT (`-` reads it from stdin)
    #[arg(long, value_name = "TEXT", help_heading = "Task")]
    pub prompt: Option<String>,
    /// Chat on the terminal: `/quit` leaves, `/reset` starts over, Ctrl-C ends an answer
    #[arg(long, help_heading = "Task")]
    pub chat: bool,
    /// Answer every row of FILE (`-` for stdin): JSON lines, CSV or TSV with `prompt`, `messages` or `prompt_tokens`
    #[arg(long, value_name = "FILE", help_heading = "Task")]
    pub input: Option<PathBuf>,
    /// With --input, write the rows and their answers to FILE instead of stdout
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "chat"], help_heading = "Task")]
    pub output: Option<PathBuf>,
    /// Put TEXT before the conversation as system message
    #[arg(long, value_name = "TEXT", conflicts_with = "raw", help_heading = "Task")]
    pub system: Option<String>,
    /// Give the chat template these arguments, such as `{"enable_thinking": false}`; those used in training are the default
    #[arg(long, value_name = "JSON", conflicts_with = "raw", value_parser = json_object, help_heading = "Task")]
    pub template_arguments: Option<serde_json::Map<String, serde_json::Value>>,
    /// Continue the prompt as it is, without the chat template
    #[arg(long, conflicts_with = "chat", help_heading = "Task")]
    pub raw: bool,
    /// Also answer with the base model, without the adapters
    #[arg(long, requires = "adapters", conflicts_with = "chat", help_heading = "Task")]
    pub compare: bool,

    /// Maximum number of tokens per answer
    #[arg(long, value_name = "COUNT", default_value_t = 512, value_parser = at_least_one, help_heading = "Sampling")]
    pub max_tokens: usize,
    /// Divide the logits by X; 0 always chooses the most likely token
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = temperature, help_heading = "Sampling")]
    pub temperature: f64,
    /// Choose among the fewest tokens whose probabilities add up to P
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = top_p, help_heading = "Sampling")]
    pub top_p: f64,
    /// Choose among the COUNT most likely tokens; 0 for all
    #[arg(long, value_name = "COUNT", default_value_t = 0, help_heading = "Sampling")]
    pub top_k: usize,
    /// Choose among tokens at least P times as likely as the most likely one
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = min_p, help_heading = "Sampling")]
    pub min_p: f64,
    /// Make tokens that occurred before, in prompt or answer, less likely by a factor of X
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = penalty, help_heading = "Sampling")]
    pub repetition_penalty: f64,
    /// Seed of the random numbers: the same seed gives the same text
    #[arg(long, value_name = "NUMBER", default_value_t = 0, help_heading = "Sampling")]
    pub seed: u64,
    /// End an answer before TEXT (repeatable)
    #[arg(long, value_name = "TEXT", value_parser = not_empty, help_heading = "Sampling")]
    pub stop: Vec<String>,

    /// With --input, number of prompts per batch
    #[arg(long, value_name = "ROWS", default_value_t = 16, value_parser = at_least_one)]
    pub batch_size: usize,
    /// With --input, also write the token ids of each answer
    #[arg(long, conflicts_with_all = ["prompt", "chat"])]
    pub token_ids: bool,
    /// Compute in `auto`, `float32`, `bfloat16` or `float16`
    #[arg(long, value_name = "TYPE", default_value = "auto", value_parser = dtype)]
    pub dtype: ComputeDtype,
    /// Memory limit.
    #[command(flatten)]
    pub memory: stage::MemoryArgs,
    /// What to do with packed weights.
    #[command(flatten)]
    pub unpack: stage::UnpackArgs,
    /// How much to print; `--verbose` also prints times and speeds.
    #[command(flatten)]
    pub verbosity: stage::Verbosity,
}

impl Args {
    /// Checks what the parser cannot see.
    ///
    /// # Errors
    ///
    /// Fails if input and output are the same file (exit 2).
    pub fn check(&self) -> Result<()> {
        if let (Some(input), Some(output)) = (&self.input, &self.output)
            && (input == output || is_same_file(input, output))
        {
            return Err(Error::usage("`--output` would overwrite the file of `--input`"));
        }
        Ok(())
    }

    /// Returns whether to print times and speeds.
    pub(crate) fn is_verbose(&self) -> bool {
        self.verbosity.verbose > 0
    }

    /// Returns the sampling for the rows from `first_row` on, or for the turn of that number.
    pub fn sampling(&self, first_row: u64) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            first_row,
        }
    }
}

fn is_same_file(a: &std::path::Path, b: &std::path::Path) -> bool {
    matches!((fs_err::canonicalize(a), fs_err::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

fn number(text: &str, is_valid: impl Fn(f64) -> bool, range: &str) -> Result<f64, String> {
    text.parse().ok().filter(|&number| is_valid(number)).ok_or_else(|| format!("expected a number {range}"))
}

fn json_object(text: &str) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    serde_json::from_str(text).map_err(|_| "expected a JSON object".to_owned())
}

fn temperature(text: &str) -> Result<f64, String> {
    number(text, |x| x.is_finite() && x >= 0.0, "of at least 0")
}

fn top_p(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0 && x <= 1.0, "above 0 and at most 1")
}

fn min_p(text: &str) -> Result<f64, String> {
    number(text, |x| (0.0..=1.0).contains(&x), "from 0 to 1")
}

fn penalty(text: &str) -> Result<f64, String> {
    number(text, |x| x.is_finite() && x > 0.0, "above 0")
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&count| count > 0).ok_or_else(|| "expected a number of at least 1".to_owned())
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("an empty text would end every answer".to_owned()) } else { Ok(text.to_owned()) }
}

fn dtype(text: &str) -> Result<ComputeDtype, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "expected `auto`, `float32`, `bfloat16` or `float16`".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let parse = |option: &str, value: &str| {
            Args::try_parse_from(["generate", "--model", "m", "--prompt", "p", option, value])
        };
        for (option, value) in [
            ("--temperature", "-1"),
            ("--temperature", "NaN"),
            ("--top-p", "0"),
            ("--top-p", "1.5"),
            ("--min-p", "2"),
            ("--repetition-penalty", "0"),
            ("--max-tokens", "0"),
            ("--stop", ""),
            ("--dtype", "float8"),
        ] {
            assert!(parse(option, value).is_err(), "{option} {value}");
        }
        assert!(parse("--top-p", "0.9").is_ok());
    }

    #[test]
    fn one_task_at_a_time() {
        let parse = |rest: &[&str]| Args::try_parse_from([&["generate", "--model", "m"], rest].concat());
        assert!(parse(&[]).is_err());
        assert!(parse(&["--prompt", "a", "--chat"]).is_err());
        assert!(parse(&["--prompt", "a", "--compare"]).is_err(), "nothing to compare with");
        assert!(parse(&["--prompt", "a", "--output", "f"]).is_err());
        assert!(parse(&["--input", "f", "--output", "g"]).is_ok());
    }
}
