//! The files of a model in a folder, a cache or a download.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use outputs::GgufImport;

use crate::error::Error;
use crate::files::sha256_of;
use crate::pins::SourceFiles;

/// The files of a model in a folder of the user, in the hub's local cache, or freshly downloaded.
#[derive(Debug, Default)]
pub struct Found {
    /// The folder or the repository, for messages.
    pub place: String,
    /// Paths of the files, by name.
    pub files: BTreeMap<String, PathBuf>,
    /// The folder of the downloads. Its files belong to this program, so they are linked instead of copied.
    pub downloads: Option<PathBuf>,
    /// Whether a download of an earlier process was continued or used.
    pub resumed: bool,
    /// Files that are left out, with the reason. Empty for a hub import, where the list would depend on the local cache.
    pub dropped: BTreeMap<String, &'static str>,
    /// Conversion of the tensors, if the model came from a GGUF file.
    pub gguf: Option<GgufImport>,
    /// The files of the source, by name, if `files` were made from them.
    pub originals: Option<BTreeMap<String, PathBuf>>,
    /// The licence, if it is known.
    pub license: Option<String>,
}

impl Found {
    pub(crate) fn paths(&self) -> BTreeMap<String, &Path> {
        self.files.iter().map(|(name, path)| (name.clone(), path.as_path())).collect()
    }

    /// Hashes all files for pinning.
    ///
    /// # Errors
    ///
    /// Fails when a file cannot be read.
    pub fn source_files(&self) -> Result<SourceFiles, Error> {
        let files = self.originals.as_ref().unwrap_or(&self.files);
        let hashes = files.iter().map(|(name, path)| Ok((name.clone(), sha256_of(path)?)));
        Ok(SourceFiles::new(self.place.clone(), hashes.collect::<Result<_, Error>>()?))
    }
}
