//! Products with packed weights on a CPU: a panel of a weight is unpacked where the product needs it, and nothing larger.
//!
//! The numbers are those of MLX's own unpacking, bit for bit, and sums are taken in the order of every other product
//! ([`mlx_sys::gemm`]), so a packed weight and its unpacked copy give the same bytes.

mod format;
mod group;
mod matrix;
mod ops;
mod panels;
#[cfg(test)]
mod tests;
mod unpack;
#[cfg(target_arch = "x86_64")]
mod vectors;

pub use ops::{has_packed_products, packed_product, unpack};
