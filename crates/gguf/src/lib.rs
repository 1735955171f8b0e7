//! GGUF files: a header checked against the file, the values of every common block format, and blocks of values.
//!
//! Every reader starts with [`Header::read`], which checks the header against the file before anything trusts it. Values are
//! computed as in the `gguf` package of llama.cpp, to the bit.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Block formats: `ggml-common.h` of llama.cpp.

mod blocks;
mod error;
mod groups;
mod header;
mod names;
mod pack;
mod quantize;
mod reader;
mod storage;
mod value;

pub use error::{Error, Result};
pub use header::{Header, Tensor};
pub use names::{GEMMA_LAYERS, LAYERS, OUTER_LAYERS, PHI_LAYERS};
pub use pack::{Packed, pack};
pub use storage::Storage;
pub use value::Value;
