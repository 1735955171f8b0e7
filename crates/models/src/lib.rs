//! Decoder language models on MLX, one file per architecture.
//!
//! Loads Hugging Face folders strictly, runs them forward with or without a key-value cache, and shows every
//! parameter under its checkpoint name ([`Visit`]). Training, adapters' files and tokenizers are left to others.
//!
//! ```no_run
//! let model = models::Model::load("model".as_ref(), &models::LoadOptions::default())?;
//! let tokens = mlx_rs::Array::from_slice(&[2, 10, 11], &[1, 3]);
//! let hidden = model.hidden(models::Input::tokens(&tokens))?; // [1, 3, D]
//! let logits = model.logits(&hidden)?; // [1, 3, V]
//! # Ok::<(), models::Error>(())
//! ```

mod attention;
mod backbone;
mod card;
mod cohere;
mod config;
mod error;
mod gemma2;
mod gemma3;
mod generate;
mod layers;
mod llama;
mod mistral;
mod mlp;
mod model;
mod phi3;
mod qwen2;
mod qwen3;
mod rope;
mod sampling;
mod weights;

pub use attention::{Cache, Input};
pub use card::{card_license, is_license};
pub use error::{Error, Result};
pub use generate::{Conversation, Flow, Generation, GenerationOptions, generate, generate_with};
pub use layers::{Adapter, Embedding, Layer, Linear, QuantizedWeight, Visit, Weight, join, scalar};
pub use model::{ComputeDtype, Head, LoadOptions, Model, Pass, canonical_name, supported_model_types};
pub use sampling::Sampling;
pub use weights::{TensorFiles, stored_dtype, weight_files, write_safetensors};
