//! Language models on MLX, one file per architecture: decoders ([`Model`]) and sentence encoders ([`Encoder`]).
//!
//! Loads Hugging Face folders strictly, runs models with or without a key-value cache, and lists every parameter under
//! its checkpoint name ([`Model::layers`]). Leaves training, adapter files and tokenizers to other crates.
//!
//! ```no_run
//! let model = models::Model::load("model".as_ref(), &models::LoadOptions::default())?;
//! let tokens = mlx_rs::Array::from_slice(&[2, 10, 11], &[1, 3]);
//! let hidden = model.hidden(models::Input::tokens(&tokens))?; // [1, 3, D]
//! let logits = model.logits(&hidden)?; // [1, 3, V]
//! # Ok::<(), models::Error>(())
//! ```

mod activation;
mod architectures;
mod attention;
mod backbone;
mod bert;
mod builder;
mod cache;
mod card;
mod cohere;
mod config;
mod convert;
mod description;
mod encoder;
mod error;
mod gemma2;
mod gemma3;
mod generate;
mod infer;
mod keys;
mod layer_norm;
mod layers;
mod llama;
mod loader;
mod lora;
mod mask;
mod mistral;
mod mlp;
mod model;
mod module;
mod network;
mod nomic_bert;
mod options;
mod phi3;
mod quantization;
mod quantize;
mod qwen2;
mod qwen3;
mod rope;
mod sampling;
mod section;
mod settings;
mod sizes;
mod weight;
mod weights;

/// Files of which a folder has one if it is given as a model; an adapter in its place is then named as such.
pub const FOLDER_FILES: &[&str] = &["config.json", "adapter_config.json"];

pub use architectures::supported_model_types;
pub use attention::Input;
pub use backbone::{Pass, Start};
pub use builder::join;
pub use cache::Cache;
pub use card::{card_license, is_license};
pub use config::{adapter_base, context_length, is_packed};
pub use convert::{Conversion, convert, converted_bytes};
pub use encoder::{ENCODER_FILES, Encoder, supported_encoders};
pub use error::{Error, Result};
pub use generate::{Conversation, Flow, Generation, GenerationOptions, generate, generate_with};
pub use layers::{Adapter, Dropout, Embedding, Layer, LayerMut, Linear, Norm, Part, scalar};
pub use model::{Head, Model, check_config};
pub use options::{ComputeDtype, LoadOptions};
pub use quantize::Quantize;
pub use rope::{Llama3, Rotary, Scaling, Yarn};
pub use sampling::Sampling;
pub use section::Section;
pub use settings::Settings;
pub use weight::{QuantizedWeight, Weight};
pub use weights::{TensorFiles, canonical_name, layout_of, stored_dtype, weight_files, write_safetensors};
