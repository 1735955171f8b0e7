//! GGUF files: a header checked against the file, the model that it describes, the values of every common block format, and blocks
//! of values.
//!
//! Every reader starts with [`Header::read`], which checks the header against the file before anything trusts it. Values are
//! computed as in the `gguf` package of llama.cpp, to the bit.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Block formats: `ggml-common.h` of llama.cpp.

mod architecture;
mod blocks;
mod error;
mod groups;
mod header;
mod keys;
mod metadata;
mod names;
mod numbers;
mod pack;
mod quantize;
mod reader;
mod rope;
mod storage;
mod tokens;
mod value;

pub use architecture::{Architecture, Change};
pub use error::{Error, Result};
pub use header::{Header, Tensor};
pub use metadata::{Metadata, missing};
pub use names::{GEMMA_LAYERS, LAYERS, OUTER_LAYERS, PHI_LAYERS};
pub use pack::{Packed, pack};
pub use rope::{Factors, llama3_divisor};
pub use storage::Storage;
pub use tokens::{Ends, kind};
pub use value::Value;
