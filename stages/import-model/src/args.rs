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
    /// Applies the flags to the settings. Another source drops the pins and the licence of the old one.
    pub(crate) fn adjust(&self, config: &mut Config) {
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
        config.commit.clear();
    }
}

fn clear_wheel(config: &mut Config) {
    for setting in [&mut config.wheel, &mut config.sha256, &mut config.member] {
        setting.clear();
    }
}
