//! Merges trained adapters into their base model and measures the cost.
//!
//! The result is a complete Hugging Face folder. Tensors without an adapter keep their bytes. A quantized base is
//! dequantized, or its changed layers are quantized again. The loss of the fused model on the validation split is compared
//! with that of the adapter, and a model that lost too much is refused.

mod card;
mod config;
mod fusion;
pub mod gguf;
mod inputs;
mod json;
mod measured;
mod modelfile;
mod write;

pub use config::{Config, Quantized};
pub use fusion::{run, run_job};
pub use inputs::{Inputs, expected_bytes, optional_input};
