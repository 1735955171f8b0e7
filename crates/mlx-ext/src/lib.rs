//! Safe wrappers for features of MLX that `mlx-rs` lacks: custom gradients, recomputation, groups of processes, memory
//! limits, device properties, raw bytes.
//!
//! This crate and `mlx-sys` are the only ones with unsafe code and with differences between platforms. Models, training
//! and files belong to other crates. Call [`init`] once, before any other use of MLX:
//!
//! ```no_run
//! let backend = mlx_ext::init(&mlx_ext::Options::default())?;
//! println!("running on {}", backend.device);
//! # Ok::<(), mlx_ext::Error>(())
//! ```

#![expect(
    clippy::inline_always,
    reason = "the loops of kernels are compiled once for each instruction set, inside the function that has it enabled"
)]
#![expect(clippy::float_cmp, reason = "kernels compare with exact values: 1, and a maximum with itself")]
#![expect(
    clippy::many_single_char_names,
    clippy::struct_field_names,
    reason = "the names of formulas and formats"
)]
#![expect(clippy::needless_range_loop, reason = "loops over lanes are vectorized as written")]
#![expect(clippy::needless_pass_by_value, reason = "small descriptions of matrices")]

mod bus_error;
mod bytes;
mod device;
mod distributed;
mod error;
mod gpu;
pub mod host;
pub mod kernels;
mod mapped;
mod memory;
mod packed;
mod probe;
mod products;
mod quantized;
mod shares;
mod speed;
mod transforms;
mod unpacking;

pub use bytes::{array_from_bytes, bytes_of, with_bytes};
pub use device::{Backend, MLX_VERSION, Options, init, runs_on_gpu};
pub use distributed::{Group, Transport};
pub use error::{Error, Result};
pub use mapped::{MappedFile, written_array};
pub use memory::{available_memory, peak_resident_memory, resident_memory, set_limits};
pub use packed::{has_packed_products, packed_product, unpack};
pub use products::Products;
pub use quantized::{PackedWeight, Quantization, QuantizationMode, dequantize, quantize, quantized_matmul};
pub use shares::{shares, sum_of_shares};
pub use speed::{matmul_gflops, product_operations, warn_if_slow};
pub use transforms::{Function, after, checkpoint, custom_vjp, value_and_grad};
pub use unpacking::{Unpack, Unpacking};
