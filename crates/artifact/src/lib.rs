//! Content-hashed artifact folders and the store that holds them.
//!
//! An artifact is a folder that describes itself and can be verified: `COMMIT`, `SHA256SUMS`, `manifest.json`,
//! `provenance.json` and the outputs under `data/`. Two hashes matter. The [`Key`], the hash of the [`KeyMaterial`] (stage,
//! version, settings, inputs by content), names the folder. The [`TreeHash`] is the hash of the outputs and enters the keys
//! of later stages, so a stage that produces the same bytes again causes no rerun.
//!
//! Publishing is atomic and survives a crash at any moment ([`atomic`] says how); locks only save work. The format is in
//! `docs/artifact-format.md`. Command lines, settings and the check of weights belong to `stage`; this crate knows nothing
//! of machine learning.
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
mod claim;
mod clock;
mod collect;
mod diff;
mod digest;
mod error;
#[cfg(feature = "fault-injection")]
pub mod faults;
mod folder;
mod hashing;
mod hold;
mod inside;
mod liveness;
mod lock;
mod manifest;
mod material;
mod memo;
mod names;
mod network;
mod os;
mod payload;
mod publish;
mod reader;
mod seal;
mod share;
mod stamp;
mod store;
mod tree;
mod verify;
mod workspace;

pub use bare::Bare;
pub use canonical::canonical;
pub use claim::{
    Claimed, Locked, claim_folder, has_content, lock_folder, release_folder, remove_claimed_folder,
};
pub use clock::{format_utc, now};
pub use collect::{CollectionLock, Condemnation, Condemned, Discarded};
pub use diff::{Change, changes};
pub use digest::{FileHash, Key, ParseHashError, TreeHash};
pub use error::{Error, Refused, Result};
pub use folder::{Folder, write_folder};
pub use hashing::hash_file;
pub use liveness::CLAIM;
pub use lock::{KeyLock, Wait};
pub use manifest::{Claim, Determinism, File, InputRecord, Manifest, Output};
pub use material::{InputContent, KeyMaterial};
pub use memo::Memo;
pub use names::{check_slug, check_stage};
pub use payload::FileCheck;
pub use publish::{Published, Staging};
pub use reader::{Artifact, Level};
pub use seal::Draft;
pub use share::{hand_over_file, share_file};
pub use stamp::{Stamp, Witness};
pub use store::{Ref, Store};
pub use tree::{Tree, TreeFile};
pub use verify::{Fault, Problem, Verification, telemetry_names, verify};
pub use workspace::Workspace;

/// Features that this crate was built with, for the provenance of artifacts.
pub const FEATURES: &[&str] = if cfg!(feature = "fault-injection") { &["fault-injection"] } else { &[] };

/// Checks that 1.1 × `planned_bytes` + 512 MiB are free at `path`; `ASHLAR_MIN_FREE_BYTES` replaces the 512 MiB.
///
/// # Errors
///
/// [`Error::NoSpace`] names both numbers.
pub fn check_space(path: &std::path::Path, planned_bytes: u64) -> Result<()> {
    store::check_space(path, planned_bytes)
}

/// Returns the free space for this user at `path`, which need not exist, in bytes.
///
/// # Errors
///
/// Fails when the file system cannot be measured.
pub fn free_bytes(path: &std::path::Path) -> Result<u64> {
    Ok(os::free_bytes(path)?)
}
