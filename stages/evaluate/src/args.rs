//! Command line: inputs, and flags that do not change the result.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Parser, ValueEnum};
use stage::{CommonArgs, MemoryArgs, UnpackArgs};

/// Score models on the test split, side by side
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Model to score: a name and an artifact or a model folder (repeatable; the others are compared with the first)
    #[arg(long = "model", value_name = "NAME=ARTIFACT", value_parser = named_path(), required_unless_present_any = ["predictions", "scores"])]
    pub models: Vec<NamedPath>,
    /// Adapters to score with the first model: a name and an artifact or a folder of mlx-lm or PEFT (repeatable)
    #[arg(long, value_name = "NAME=ARTIFACT", value_parser = named_path(), requires = "models")]
    pub adapters: Vec<NamedPath>,
    /// Artifact of `train` whose checkpoints are scored with the first model, as `step_N`
    #[arg(long, value_name = "ARTIFACT", requires = "models")]
    pub checkpoints: Option<PathBuf>,
    /// Answers made elsewhere: a name and a file of rows with `id` and `prediction` (repeatable)
    #[arg(long, value_name = "NAME=FILE", value_parser = named_path())]
    pub predictions: Vec<NamedPath>,
    /// Scores made elsewhere: a file of rows with `model`, the row's id and numbers; excludes all other inputs
    #[arg(long, value_name = "FILE", conflicts_with_all = ["models", "predictions", "dataset", "encoder", "guard"])]
    pub scores: Option<PathBuf>,
    /// Artifact with the dataset; needed unless all answers come from files that have the references
    #[arg(long, value_name = "ARTIFACT", required_unless_present_any = ["predictions", "scores"])]
    pub dataset: Option<PathBuf>,
    /// Artifact or folder with a sentence encoder, to score the similarity of meaning
    #[arg(long, value_name = "ARTIFACT")]
    pub encoder: Option<PathBuf>,
    /// Guard set of the gate; replaces `gate.guard` in the settings
    #[arg(long, value_name = "PATH")]
    pub guard: Option<PathBuf>,
    /// What follows if a model fails the gate: `fail` (exit code 20) or `note` [default: fail; with `--out`: note]
    #[arg(long, value_name = "ACTION", hide_possible_values = true)]
    pub gate: Option<GateAction>,
    /// Limit of the memory.
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// What to do with packed weights.
    #[command(flatten)]
    pub unpack: UnpackArgs,
    /// Flags of every stage.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What follows if a model fails the gate. The artifact is published either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GateAction {
    /// Exit with code 20.
    Fail,
    /// Print the verdict.
    Note,
}

/// A path under a name that the scores use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPath {
    /// The name: `[a-z0-9_]+`.
    pub name: String,
    /// The artifact, folder or file.
    pub path: PathBuf,
}

/// Returns whether a name can be part of a key.
pub(crate) fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    !name.is_empty() && name.bytes().all(is_allowed)
}

impl NamedPath {
    /// Parses `NAME=PATH`. The bytes of the path need not be UTF-8.
    fn parse(text: &OsStr) -> Result<Self, &'static str> {
        let bytes = text.as_bytes();
        let end = bytes.iter().position(|byte| *byte == b'=').ok_or("expected NAME=PATH")?;
        let name = str::from_utf8(&bytes[..end]).ok().filter(|name| is_name(name));
        let name = name.ok_or("the name may contain only a-z, 0-9 and _")?.to_owned();
        Ok(Self { name, path: OsStr::from_bytes(&bytes[end + 1..]).into() })
    }
}

fn named_path() -> impl TypedValueParser<Value = NamedPath> {
    OsStringValueParser::new().try_map(|text| NamedPath::parse(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_a_key_can_contain() {
        let named = NamedPath { name: "fused_2".to_owned(), path: "a=b".into() };
        assert_eq!(NamedPath::parse(OsStr::new("fused_2=a=b")), Ok(named));
        let bytes = NamedPath::parse(OsStr::from_bytes(b"base=g\xff")).unwrap();
        assert_eq!(bytes.path.as_os_str().as_bytes(), b"g\xff");
        for text in [&b"model"[..], b"=model", b"Base=model", b"a-b=model", b"a\xff=model"] {
            assert!(NamedPath::parse(OsStr::from_bytes(text)).is_err(), "{}", text.escape_ascii());
        }
    }
}
