//! Imports a model into the pipeline: from a folder, or from the Hugging Face hub.
//!
//! Two named outputs: `model/`, the complete Hugging Face layout as mlx-lm and transformers load it, and
//! `tokenizer/`, what preparing data needs; beside them `import.json` says what was kept and what was left out.
//! Every file is checked here, in Rust, before anything else reads it: a damaged or hostile file stops the import,
//! and nothing is published.
//!
//! Weights are copied as they are, or packed or unpacked on the way.
//!
//! Left to others: running the model (`models`), publishing and keys (`stage`).
//!
//! ```no_run
//! use std::path::Path;
//!
//! let found = import_model::model::find_in_folder(Path::new("data/models/demo"))?;
//! import_model::model::write(&found, &import_model::source_record(None), None, Path::new("out"))?;
//! # Ok::<(), import_model::Error>(())
//! ```

mod config;
mod conversion;
mod convert;
mod error;
mod files;
pub mod hub;
pub mod layout;
pub mod model;
pub mod pin;
pub mod tokens;
pub mod weights;

use std::path::Path;

pub use ::hub::{Unwatched, Watch};
pub use config::{Config, Source};
pub use conversion::{Conversion, Quantize};
pub use error::Error;
use serde_json::{Value, json};

/// Imports the model that `config` names into `out`.
///
/// `config.commit` must be known for a hub import; `resume` keeps partial downloads for the next run.
///
/// # Errors
///
/// Fails on anything that makes the model unusable, see [`Error`]; `out` is then to be thrown away.
pub fn run(
    config: &Config,
    settings: &hub::Settings,
    watch: &dyn Watch,
    resume: &Path,
    out: &Path,
) -> Result<(), Error> {
    let (mut found, record) = match config.source()? {
        Source::Folder(folder) => (model::find_in_folder(&folder)?, source_record(None)),
        Source::Hub { id, .. } => {
            let hub = hub::Hub::new(settings, watch);
            let found = hub.fetch(&id, &config.commit, config.pins(), &resume.join("download"))?;
            (found, source_record(Some((&id, &config.commit))))
        }
    };
    if !config.license.is_empty() {
        found.license = Some(config.license.clone());
    }
    if let Some(pins) = config.pins() {
        model::check_pins(&found, pins)?;
    }
    model::write(&found, &record, config.conversion().as_ref(), out)
}

/// Returns what `import.json` says about the source: repository and commit, or that it was a folder.
pub fn source_record(hub: Option<(&str, &str)>) -> Value {
    hub.map_or_else(
        || json!({ "type": "folder" }),
        |(id, commit)| json!({ "type": "hub", "id": id, "commit": commit }),
    )
}
