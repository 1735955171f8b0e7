//! Content-hashed artifact folders and the store that holds them.
//!
//! An artifact is a folder that describes and proves itself: `COMMIT`, `SHA256SUMS`, `manifest.json`,
//! `provenance.json` and the payload under `data/`. Two hashes matter: the [`Key`] says what was asked (stage,
//! version, settings, inputs by content) and names the folder; the [`TreeHash`] says what came out and feeds the
//! keys of later stages. An input that changed but hashes the same therefore reruns nothing.
//!
//! Publishing is atomic and survives a crash at any instant; locks only save work. This crate knows nothing of
//! machine learning, command lines or settings files: that is `stage`'s.
//!
//! ```
//! use artifact::{Artifact, Draft, KeyMaterial, write_folder};
//! use serde_json::json;
//!
//! let home = tempfile::tempdir()?;
//! let mut draft = Draft::new("words", KeyMaterial::new("count", 1, json!({"unit": "word"})));
//! draft.metrics.insert("words".into(), 3.0);
//! let out = home.path().join("count");
//! write_folder(&out, &draft, |data| Ok(std::fs::write(data.join("count.json"), "3\n")?))?;
//!
//! let artifact = Artifact::open(&out)?; // verifies
//! assert_eq!(artifact.manifest().metric("words"), Some(3.0));
//! assert!(artifact.output_dir("count.json").is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod atomic;
mod bare;
mod canonical;
mod clock;
mod diff;
mod digest;
mod error;
#[cfg(feature = "fault-injection")]
mod faults;
mod folder;
mod lock;
mod manifest;
mod material;
mod memo;
mod os;
mod payload;
mod publish;
mod reader;
mod seal;
mod stamp;
mod store;
mod tree;
mod workspace;

pub use bare::Bare;
pub use canonical::canonical;
pub use clock::{format_utc, now};
pub use diff::{Change, changes};
pub use digest::{FileHash, Key, ParseHashError, TreeHash};
pub use error::{Error, Refused, Result};
pub use folder::{Folder, write_folder};
pub use lock::{KeyLock, Wait};
pub use manifest::{Claim, Determinism, File, InputRecord, Manifest, Output};
pub use material::{InputContent, KeyMaterial};
pub use memo::Memo;
pub use payload::FileCheck;
pub use publish::{Published, Staging};
pub use reader::{Artifact, Level};
pub use seal::Draft;
pub use stamp::{Stamp, Witness};
pub use store::{Ref, Store};
pub use tree::{Tree, TreeFile};
pub use workspace::Workspace;

/// Fails unless 1.1 × `planned_bytes` + 512 MiB are free at `path` (`ASHLAR_MIN_FREE_BYTES` replaces the 512 MiB).
///
/// # Errors
///
/// [`Error::NoSpace`] names both numbers.
pub fn check_space(path: &std::path::Path, planned_bytes: u64) -> Result<()> {
    store::check_space(path, planned_bytes)
}
