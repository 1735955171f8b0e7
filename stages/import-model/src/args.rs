//! Flags, and what they do to the settings.

use std::path::PathBuf;

use clap::Parser;
use import_model::Config;

/// Import a base model from a folder or from the Hugging Face hub
#[derive(Parser)]
#[command(version)]
pub(crate) struct Args {
    /// Folder with the model, instead of the one that the settings name
    #[arg(long, value_name = "DIR", conflicts_with_all = ["id", "revision"])]
    pub(crate) model_dir: Option<PathBuf>,
    /// Repository on the hub, instead of the one that the settings name
    #[arg(long, value_name = "ORG/NAME")]
    pub(crate) id: Option<String>,
    /// Branch, tag or commit on the hub
    #[arg(long, value_name = "REV")]
    pub(crate) revision: Option<String>,
    /// Write the commit and the SHA-256 of every file into this settings file
    #[arg(long, value_name = "FILE")]
    pub(crate) write_lock: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) common: stage::CommonArgs,
}

impl Args {
    /// Puts the flags on top of the settings; another source leaves the pins of the old one behind.
    pub(crate) fn adjust(&self, config: &mut Config) {
        let before = config.clone();
        if let Some(folder) = &self.model_dir {
            config.model_dir = folder.display().to_string();
        }
        if let Some(id) = &self.id {
            config.model_dir.clear();
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
            config.id.clear(); // a folder is its content, whatever it was called
        }
        config.commit.clear();
    }
}
