//! Flags and their effect on the settings.

use std::path::PathBuf;

use clap::Parser;

use crate::config::Config;

/// Import a base model from a folder, a GGUF file or the Hugging Face hub
#[derive(Debug, Parser)]
pub struct Args {
    /// Folder with the model, or a GGUF file; replaces the source in the settings
    #[arg(long, value_name = "PATH", conflicts_with_all = ["id", "revision"])]
    pub model_dir: Option<PathBuf>,
    /// Repository on the hub; replaces the source in the settings
    #[arg(long, value_name = "ORG/NAME")]
    pub id: Option<String>,
    /// Branch, tag or commit on the hub
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Pin the model in this settings file: its commit and the SHA-256 of every file
    #[arg(long, value_name = "FILE")]
    pub write_lock: Option<PathBuf>,
    /// Limit of the memory.
    #[command(flatten)]
    pub memory: stage::MemoryArgs,
    /// Flags of every stage.
    #[command(flatten)]
    pub common: stage::CommonArgs,
}

impl Args {
    /// Applies the flags to the settings. Another source drops the pins and the licence of the old one. A commit in the settings
    /// is the revision.
    pub(crate) fn adjust(&self, config: &mut Config) {
        if hub::is_hex(&config.commit, 40) {
            config.revision = std::mem::take(&mut config.commit);
        }
        let before = config.clone();
        if let Some(folder) = &self.model_dir {
            config.model_dir = folder.display().to_string();
        }
        if let Some(id) = &self.id {
            config.model_dir.clear();
            clear_wheel(config);
            config.id.clone_from(id);
            if *id != before.id {
                config.revision.clear();
            }
        }
        if let Some(revision) = &self.revision {
            config.revision.clone_from(revision);
        }
        let source = |config: &Config| (config.model_dir.clone(), config.id.clone(), config.revision.clone());
        if source(&before) != source(config) {
            config.files.clear();
            config.license.clear();
        }
        if !config.model_dir.is_empty() {
            config.id.clear(); // the key of a folder depends on its content only
            clear_wheel(config);
        }
    }
}

fn clear_wheel(config: &mut Config) {
    for setting in [&mut config.wheel, &mut config.sha256, &mut config.member] {
        setting.clear();
    }
}

#[cfg(test)]
mod tests {
    use stage::Config as _;

    use super::*;

    fn adjusted(flags: &[&str], revision: &str, commit: &str) -> Config {
        let (id, files) = ("org/name".to_owned(), [("a".to_owned(), "b".to_owned())].into());
        let (revision, commit) = (revision.to_owned(), commit.to_owned());
        let mut config = Config { id, commit, revision, files, ..Config::default() };
        Args::parse_from(["import-model"].iter().chain(flags)).adjust(&mut config);
        config
    }

    #[test]
    fn a_commit_in_the_settings_is_the_revision() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for before in ["", "main"] {
            let config = adjusted(&[], before, commit);
            assert_eq!((config.revision.as_str(), config.commit.as_str()), (commit, ""));
            assert_eq!(config.files.len(), 1, "the source is the same");
        }
        assert_eq!(adjusted(&["--revision", "v2"], "main", commit).revision, "v2");
        assert_eq!(adjusted(&["--id", "org/other"], "main", commit).revision, "");
        let problems = adjusted(&[], "main", "v1").problems();
        assert!(problems.iter().any(|problem| problem.starts_with("`commit` is `v1`")), "{problems:?}");
    }
}
