//! Elementwise work of models on a CPU in `f32`: vectorized, on all threads, as host operations; those that training uses
//! have gradients.
//!
//! MLX computes these on one thread, one number at a time. Each function here has the values and gradients of the plain
//! MLX operations that its doc comment names. Results do not depend on the number of threads or on the instruction set:
//! every row is computed by one thread, in blocks of 16 numbers ([`lanes`]).
//!
//! Callers ask [`uses_host`](crate::host::uses_host) first; other devices and types use MLX's operations.

mod attention;
mod biased;
mod cross_entropy;
mod gated;
pub(crate) mod lanes;
mod layer_norm;
mod norm;
mod optimizer;
mod product;
mod rope;
#[cfg(test)]
mod testing;
pub(crate) mod threads;

pub use attention::{Attention, attend_rows};
pub use biased::{Pointwise, biased};
pub use cross_entropy::{LossHead, cross_entropy, cross_entropy_with_gradient};
pub use gated::{Gate, gated, gated_gradient};
pub use layer_norm::{Added, LayerNorm};
pub use norm::rms_norm;
pub use optimizer::{AdamStep, adam, sum_of_squares};
pub use product::add_product;
pub use rope::{Positions, Rotation, rotate};
