//! Command line: inputs, and flags that do not change the result.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;
use stage::{CommonArgs, MemoryArgs, UnpackArgs};

/// Score models on the test split, side by side
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Model to score: a name and an artifact or a model folder (repeatable; the others are compared with the first)
    #[arg(long = "model", value_name = "NAME=ARTIFACT", required = true)]
    pub models: Vec<NamedPath>,
    /// Adapters to score with the first model: a name and an artifact or a folder of mlx-lm or PEFT (repeatable)
    #[arg(long, value_name = "NAME=ARTIFACT")]
    pub adapters: Vec<NamedPath>,
    /// Artifact with the dataset
    #[arg(long, value_name = "ARTIFACT")]
    pub dataset: PathBuf,
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

/// A path under a name that the scores use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPath {
    /// The name: `[a-z0-9_]+`.
    pub name: String,
    /// The artifact or folder.
    pub path: PathBuf,
}

impl FromStr for NamedPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or("expected NAME=ARTIFACT")?;
        let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if name.is_empty() || !name.bytes().all(is_allowed) {
            return Err("the name may contain only a-z, 0-9 and _".to_owned());
        }
        Ok(Self { name: name.to_owned(), path: path.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_a_key_can_contain() {
        let named = NamedPath { name: "fused_2".to_owned(), path: "a=b".into() };
        assert_eq!("fused_2=a=b".parse(), Ok(named));
        for text in ["model", "=model", "Base=model", "a-b=model"] {
            assert!(text.parse::<NamedPath>().is_err(), "{text}");
        }
    }
}
