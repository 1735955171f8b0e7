//! What the tests across crates share: where things are, the programs as a user runs them, and the one table of
//! tolerances.

mod programs;

pub use programs::{Place, Ran, command, copy, programs, remove, run, trees};

use std::path::PathBuf;

/// How far apart two results may be and still count as the same.
pub mod tolerance {
    /// Logits of a plain model against the reference, absolute, `f32`.
    pub const LOGITS: f32 = 1e-4;
    /// Logits of a quantized model against the reference, absolute, `f32`.
    pub const QUANTIZED_LOGITS: f32 = 1e-3;
    /// A mean loss against the reference, in nats.
    pub const LOSS: f32 = 1e-4;
    /// Trained weights and gradients against the reference, absolute.
    pub const WEIGHTS: f32 = 1e-4;
}

/// The root of the repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder with golden cases: `GOLDEN_DIR`, or `tests/golden`.
pub fn golden_dir() -> PathBuf {
    std::env::var_os("GOLDEN_DIR").map_or_else(|| root().join("tests/golden"), PathBuf::from)
}
