//! Safe wrappers for what `mlx-rs` lacks: custom gradients, recomputation, memory limits, device facts, raw bytes.
//!
//! Beside `mlx-sys`, the only crate of the workspace that holds unsafe code, and the only place where platforms
//! differ. Models, training and files are left to others. Call [`init`] once, before anything else touches MLX:
//!
//! ```no_run
//! let backend = mlx_ext::init(&mlx_ext::Options::default())?;
//! println!("running on {}", backend.device);
//! # Ok::<(), mlx_ext::Error>(())
//! ```

mod bytes;
mod device;
mod error;
mod memory;
mod quantized;
mod self_test;
mod transforms;

pub use bytes::{array_from_bytes, bytes_of};
pub use device::{Backend, MLX_VERSION, Options, init};
pub use error::{Error, Result};
pub use memory::{available_memory, hold_back, resident_memory, set_limits};
pub use quantized::{PackedWeight, Quantization, QuantizationMode, dequantize, quantize, quantized_matmul};
pub use self_test::{matmul_gflops, warn_if_slow};
pub use transforms::{Function, after, checkpoint, custom_vjp, value_and_grad};
