//! Numbers and tensors in files: safetensors headers, finite values, and a writer with shards.
//!
//! Every reader of a safetensors file starts with [`TensorHeader::read`], which checks the header against the file before
//! anything trusts it. This crate moves bytes; it does not compute with them and does not know MLX.
//!
//! ```
//! use tensors::{Dtype, TensorHeader, TensorLayout, TensorWriter};
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("a.safetensors");
//! let layout = TensorLayout { name: "weight".into(), dtype: Dtype::F32, shape: vec![2] };
//! let mut writer = TensorWriter::create(&path, &[layout])?;
//! writer.write(&[0; 8])?;
//! writer.finish()?;
//! assert_eq!(TensorHeader::read(&path)?.tensors()[0].0, "weight");
//! assert_eq!(tensors::find_not_finite(&path)?, None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod finite;
mod header;
mod pointer;
mod shards;
mod write;

pub use error::{Error, Result};
pub use finite::{find_not_finite, refusal};
pub use header::TensorHeader;
pub use pointer::{LFS_POINTER, file_is_lfs_pointer, is_lfs_pointer, lfs_hint};
pub use safetensors::Dtype;
pub use safetensors::tensor::TensorInfo;
pub use shards::{INDEX, SHARD_BYTES, SINGLE_FILE, shards, write_index, write_shards};
pub use write::{TensorLayout, TensorWriter};
