//! The local files of a model, with their hashes.

use std::io::Read;
use std::path::{Path, PathBuf};

use artifact::Artifact;
use hub::hex;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::part::Part;

/// Longest file that is sent in one request, in bytes.
const MAX_SMALL_BYTES: u64 = 1 << 30;

/// File to upload.
#[derive(Debug, Clone)]
pub struct LocalFile {
    /// Name in the repository.
    pub name: String,
    /// Local path.
    pub path: PathBuf,
    /// Size.
    pub bytes: u64,
    /// SHA-256 of its bytes, 64 lower-case hex digits.
    pub sha256: String,
}

impl LocalFile {
    /// Writes `text` to the file `name` in `folder`.
    pub(crate) fn write(folder: &Path, name: &str, text: &str) -> Result<Self, Error> {
        let path = folder.join(name);
        fs_err::write(&path, text)?;
        let sha256 = hex(&Sha256::digest(text));
        Ok(Self { name: name.to_owned(), path, bytes: text.len() as u64, sha256 })
    }

    /// Reads a small file and checks it against the hash in its artifact.
    pub(crate) fn read(&self) -> Result<Vec<u8>, Error> {
        let bytes = ::files::read(&self.path, MAX_SMALL_BYTES)?;
        if hex(&Sha256::digest(&bytes)) == self.sha256 {
            return Ok(bytes);
        }
        Err(Error::Input {
            place: self.path.display().to_string(),
            reason: "changed during the upload".into(),
            hint: "run the same command again once nothing writes to the artifact".into(),
        })
    }

    /// Returns the first bytes, from which the hub decides how to store the file.
    pub(crate) fn sample(&self, bytes: u64) -> Result<Vec<u8>, Error> {
        let mut sample = Vec::new();
        ::files::open(&self.path)?.take(bytes).read_to_end(&mut sample)?;
        Ok(sample)
    }

    /// Returns git's hash of the file, which the hub reports for small files.
    pub(crate) fn git_oid(&self) -> Result<String, Error> {
        let mut hasher = Sha1::new();
        hasher.update(format!("blob {}\0", self.bytes));
        let mut file = ::files::open(&self.path)?;
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hex(&hasher.finalize())),
                bytes => hasher.update(&buffer[..bytes]),
            }
        }
    }
}

/// Lists the files of an output of a verified artifact.
///
/// # Errors
///
/// Fails if the artifact has no such output.
pub(crate) fn local_files(artifact: &Artifact, part: Part) -> Result<Vec<LocalFile>, Error> {
    let prefix = format!("{}/", part.output());
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
        let (stage, output) = (&artifact.manifest().stage, part.output());
        let what = if part == Part::Model { "a model".to_owned() } else { format!("`{output}`") };
        let reason = format!("an artifact of `{stage}` without {what}");
        return unusable(artifact.path(), reason, part.remedy());
    }
    Ok(files)
}

/// Returns the error for something that cannot be uploaded.
pub(crate) fn unusable<T>(path: &Path, reason: String, hint: &str) -> Result<T, Error> {
    Err(Error::Input { place: path.display().to_string(), reason, hint: hint.to_owned() })
}
