//! The files of a model as they lie here, with their hashes.

use std::io::Read;
use std::path::{Path, PathBuf};

use artifact::{Artifact, Level};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::Error;

/// What goes up.
const OUTPUT: &str = "model";
/// The model card: the hub shows it.
const CARD: &str = "README.md";

/// A file to upload.
#[derive(Debug, Clone)]
pub struct LocalFile {
    /// Its name in the repository.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// How long it is.
    pub bytes: u64,
    /// SHA-256 of its bytes, 64 lower-case hex digits.
    pub sha256: String,
}

impl LocalFile {
    /// Reads a small file and makes sure that it is still what its artifact promises.
    pub(crate) fn read(&self) -> Result<Vec<u8>, Error> {
        let bytes = fs_err::read(&self.path)?;
        if hex(&Sha256::digest(&bytes)) == self.sha256 {
            return Ok(bytes);
        }
        Err(Error::Input {
            place: self.path.display().to_string(),
            problem: "changed while it was uploaded".into(),
            hint: "run again when nothing writes to the artifact".into(),
        })
    }

    /// The first bytes, from which the hub tells how a file is kept.
    pub(crate) fn sample(&self, bytes: u64) -> Result<Vec<u8>, Error> {
        let mut sample = Vec::new();
        fs_err::File::open(&self.path)?.take(bytes).read_to_end(&mut sample)?;
        Ok(sample)
    }

    /// Git's own hash of the file, which the hub tells of small files.
    pub(crate) fn git_oid(&self) -> Result<String, Error> {
        let mut hasher = Sha1::new();
        hasher.update(format!("blob {}\0", self.bytes));
        let mut file = fs_err::File::open(&self.path)?;
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hex(&hasher.finalize())),
                bytes => hasher.update(&buffer[..bytes]),
            }
        }
    }
}

/// Opens an artifact, checks every byte of it, and lists the files of its model.
///
/// # Errors
///
/// Fails when `path` is no artifact, when a byte of it changed, or when it holds no model with a card.
pub fn local_files(path: &Path) -> Result<Vec<LocalFile>, Error> {
    let bad = |problem: String, hint: &str| Error::Input {
        place: path.display().to_string(),
        problem,
        hint: hint.into(),
    };
    let artifact = Artifact::open_with(path, Level::Hash).map_err(|error| match error {
        artifact::Error::Io(error) => Error::Io(error),
        error => bad(
            error.to_string(),
            "give the folder that `fuse` printed; if it is damaged, delete it and run `fuse` again",
        ),
    })?;
    let prefix = format!("{OUTPUT}/");
    let files: Vec<LocalFile> = artifact
        .manifest()
        .files
        .iter()
        .filter_map(|file| {
            let name = file.path.strip_prefix(&prefix)?.to_owned();
            let path = artifact.data_dir().join(&file.path);
            Some(LocalFile { name, path, bytes: file.size, sha256: file.sha256.to_string() })
        })
        .collect();
    if files.is_empty() {
        let stage = &artifact.manifest().stage;
        return Err(bad(format!("made by `{stage}`, it holds no model"), "give the artifact of `fuse`"));
    }
    if !files.iter().any(|file| file.name == CARD) {
        let hint =
            "give the artifact of `fuse`, which writes the card; a model without one tells nobody what it is";
        return Err(bad(format!("the model has no card `{CARD}`"), hint));
    }
    Ok(files)
}

/// Returns bytes as lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes anything");
        text
    })
}
