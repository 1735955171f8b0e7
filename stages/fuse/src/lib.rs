//! Merges trained adapters into their base model and measures the cost.
//!
//! The result is a complete Hugging Face folder. Tensors without an adapter keep their bytes. A quantized base is
//! dequantized, or its changed layers are quantized again. The loss of the fused model on the validation split is compared
//! with that of the adapter, and a model that lost too much is refused. So is an export, quantized for MLX or as a GGUF file,
//! whose loss is too far above the fused model's.

mod card;
mod config;
mod exports;
mod fusion;
pub mod gguf;
mod inputs;
mod json;
mod measured;
mod modelfile;
mod states;
mod subject;
mod write;

pub use config::{Config, Quantized};
pub use fusion::{run, run_job};
pub use inputs::{Inputs, expected_bytes, optional_input};
