//! Section "Check and repeat": commands that verify the artifacts, and commands that make them again.

use artifact::Manifest;

use crate::error::Error;
use crate::parts::{Section, bare, code, folded};
use crate::settings;
use crate::source::Contents;

/// Returns the section.
///
/// # Errors
///
/// Fails when settings cannot be written as TOML.
pub(crate) fn section(contents: &Contents) -> Result<Section, Error> {
    let mut section = Section::new("reproduce", "Check and repeat")
        .about(
            "Every artifact carries the hashes of its files. These commands check each one a number on this page came from; \
             on macOS, sha256sum is shasum -a 256.",
        )
        .add(code("Commands that check the artifacts", &check_commands(&contents.stages)));
    let settings = settings::toml(&contents.stages)?;
    if !settings.is_empty() {
        section = section
            .about(
                "With these settings in run.toml, these commands make the artifacts again. The same inputs give the same keys \
                 and, where the numerics are equal, the same trees.",
            )
            .add(code("Commands that repeat the run", &run_commands(&contents.stages)))
            .add(folded("All settings as TOML (run.toml)", code("All settings as TOML", &settings)));
    }
    Ok(section)
}

/// Returns a shell function that checks an artifact, and its calls.
fn check_commands(stages: &[Manifest]) -> String {
    let check = |manifest: &Manifest| {
        format!("check {}/{}-* {}\n", manifest.stage, manifest.key.short(), bare(&manifest.tree.to_string()))
    };
    let commands: String = stages.iter().map(check).collect();
    let function = "# $1: an artifact's folder, $2: the tree hash it must have\n\
        check() (\n  cd \"$1\" && sha256sum --quiet -c COMMIT &&\n  \
        echo \"$2  SHA256SUMS\" | sha256sum --quiet -c &&\n  \
        cd data && sha256sum --quiet -c ../SHA256SUMS && echo \"$1 is whole\"\n)\n";
    format!("{function}\ncd artifacts   # the store, or wherever the folders lie\n{commands}")
}

/// Inputs of the stages on the command line; those of import-model depend on its settings.
const FLAGS: [(&str, &str); 6] = [
    ("prepare-data", "--tokenizer \"$import_model\" --data PATH"),
    ("train", "--model \"$import_model\" --dataset \"$prepare_data\""),
    ("validate", "--model \"$import_model\" --dataset \"$prepare_data\" --train \"$train\""),
    ("select-best", "--model \"$import_model\" --train \"$train\" --validate \"$validate\""),
    ("fuse", "--model \"$import_model\" --adapters \"$select_best\" --dataset \"$prepare_data\""),
    ("evaluate", "--model base=\"$import_model\" --model fused=\"$fuse\" --dataset \"$prepare_data\""),
];

/// Returns the commands of the stages, each with the key that it must have.
fn run_commands(stages: &[Manifest]) -> String {
    let command = |manifest: &Manifest| {
        let stage = manifest.stage.as_str();
        let flags = match FLAGS.iter().find(|(name, _)| *name == stage) {
            Some((_, flags)) => format!(" {flags}"),
            None if is_from_hub(manifest) => String::new(),
            None => " --model-dir PATH".to_owned(),
        };
        let key = manifest.key.short();
        format!("# key {key}\n{}=$({stage} --config run.toml{flags})\n", stage.replace('-', "_"))
    };
    stages.iter().map(command).collect()
}

/// Returns whether the settings name the model, so that the command line need not.
fn is_from_hub(manifest: &Manifest) -> bool {
    let names = ["id", "folder", "wheel"];
    let config = &manifest.key_material.config;
    names
        .iter()
        .any(|name| config.get(name).and_then(|value| value.as_str()).is_some_and(|value| !value.is_empty()))
}
