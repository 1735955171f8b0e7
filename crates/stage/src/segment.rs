//! Segments: artifacts of runs that were stopped on purpose, from which a later run resumes.
//!
//! A segment is an artifact of the same stage with a single output, [`SEGMENT_OUTPUT`], so that no other stage takes it for
//! the finished artifact. Its key also records where it stops. A run resumed from a segment omits it from its own key,
//! because the bytes are the same either way.

use std::path::{Path, PathBuf};

use artifact::{Artifact, Witness};
use failure::Result;

use crate::input::{Input, unchanged};

/// Name of the only output of a segment.
pub const SEGMENT_OUTPUT: &str = "part";

/// Opened and verified segment, which gc does not remove before this is dropped.
#[derive(Debug)]
pub struct Segment {
    pub(crate) input: Input,
    pub(crate) folder: PathBuf,
    pub(crate) witness: Witness,
}

impl Segment {
    /// Returns the folder with the resume state.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Returns the artifact.
    ///
    /// # Panics
    ///
    /// Never: a segment is an artifact.
    pub fn artifact(&self) -> &Artifact {
        self.input.artifact().expect("a segment is opened as an artifact")
    }

    /// Checks that nothing in the segment has changed since it was verified; call this once the resume state was copied.
    ///
    /// # Errors
    ///
    /// Fails if a file was changed, added or removed.
    pub fn check_unchanged(&self) -> Result<()> {
        unchanged("resume-from", &self.witness)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::TryLockError;

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::args::CommonArgs;
    use crate::config::Config;
    use crate::run::Run;

    #[derive(Debug, Default, Serialize, Deserialize)]
    struct Settings {}

    impl Config for Settings {
        const STAGE: &'static str = "toy";
        const VERSION: u32 = 1;

        fn slug(&self) -> String {
            "toy".to_owned()
        }
    }

    #[test]
    fn segment_is_held_and_watched_while_it_is_open() -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir()?;
        let common = CommonArgs { store: dir.path().join("store"), ..CommonArgs::default() };
        let mut stopped = Run::<Settings>::new(&common)?;
        stopped.stop_at("1");
        let stopped = stopped.with_key()?;
        stopped.execute(|job, _| {
            let part = job.out().join(SEGMENT_OUTPUT);
            fs_err::create_dir(&part)?;
            Ok(fs_err::write(part.join("state"), "1")?)
        })?;
        let folder = stopped.existing()?.expect("it was published").path().to_owned();

        let segment = Run::<Settings>::new(&common)?.with_key()?.segment(&folder)?;
        let lock = fs_err::File::open(&folder)?;
        assert!(matches!(lock.file().try_lock(), Err(TryLockError::WouldBlock)), "gc could remove it");
        segment.check_unchanged()?;
        let state = segment.path().join("state");
        fs_err::set_permissions(&state, std::fs::Permissions::from_mode(0o644))?;
        fs_err::write(&state, "2")?;
        let said = segment.check_unchanged().unwrap_err().to_string();
        assert!(said.contains("resume-from"), "{said}");
        drop(segment);
        lock.file().try_lock().expect("nobody holds it any more");
        Ok(())
    }
}
