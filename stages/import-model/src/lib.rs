//! Imports a model into the pipeline: from a folder, a GGUF file, a wheel, or the Hugging Face hub.
//!
//! Outputs: `model/`, the complete Hugging Face layout as mlx-lm and transformers load it; `tokenizer/`, for preparing
//! data; and `import.json`, which records the source, the files that were kept and those that were left out. Every file
//! is checked before anything else reads it: a damaged or hostile file stops the import, and nothing is published.
//!
//! Weights are copied unchanged, quantized or dequantized.
//!
//! Left to others: running the model (`models`), publishing and keys (`stage`).
//!
//! ```no_run
//! use std::path::Path;
//!
//! let found = import_model::model::find_in_folder(Path::new("data/models/demo"))?;
//! import_model::model::write(&found, outputs::ImportSource::Folder, None, Path::new("out"))?;
//! # Ok::<(), import_model::Error>(())
//! ```

mod args;
mod config;
mod downloads;
mod error;
mod files;
mod found;
pub mod gguf;
pub mod hub;
mod inputs;
pub mod layout;
pub mod model;
mod parts;
pub mod pins;
mod program;
mod run;
mod space;
mod terminal;
pub mod tokenizer;
pub mod weights;
mod wheel;

pub use ::hub::{Unwatched, Watch};
pub use args::Args;
pub use config::{Config, Source};
pub use error::Error;
pub use found::Found;
pub use inputs::{open_folder, published_files};
pub use models::{Conversion, Quantize};
pub use pins::SourceFiles;
pub use program::program;
pub use run::run;
pub use space::Space;
pub use wheel::Wheel;
