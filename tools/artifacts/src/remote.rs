//! Places to which artifacts are pushed and from which they are pulled: a folder, or a bucket of S3-compatible storage.
//!
//! Both hold artifacts as a store does, `STAGE/KEY16-SLUG/…`. An artifact is there when its `COMMIT` is, which is written last.

mod folder;
mod http;
mod s3;

use std::io::Read;
use std::path::Path;

use artifact::Artifact;

use crate::error::{Error, Result};

pub(crate) use folder::Folder;
pub(crate) use s3::S3;

/// Most bytes that are read of a file which describes an artifact.
pub(crate) const DESCRIPTION_BYTES: u64 = 64 << 20;

/// The file with the hash of every file of an artifact.
pub(crate) const SUMS: &str = "SHA256SUMS";
/// The file that says what was made, from what and how.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The file that says where and when.
pub(crate) const PROVENANCE: &str = "provenance.json";
/// The file with the hashes of the three others, which is written last.
pub(crate) const COMMIT: &str = "COMMIT";

/// The name of an artifact: `STAGE/KEY16-SLUG`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) stage: String,
    /// First 16 digits of the key.
    pub(crate) key: String,
    pub(crate) slug: String,
}

impl Name {
    /// Parses `STAGE/KEY16-SLUG`; `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (stage, folder) = text.split_once('/')?;
        let (key, slug) = folder.split_once('-')?;
        crate::catalog::key_of_folder(key)?;
        (artifact::check_stage(stage).is_ok() && artifact::check_slug(slug).is_ok()).then(|| Self {
            stage: stage.to_owned(),
            key: key.to_owned(),
            slug: slug.to_owned(),
        })
    }

    /// Returns the name of the artifact in the folder `path`.
    pub(crate) fn of_folder(path: &Path) -> Option<Self> {
        let folder = path.file_name()?.to_str()?;
        let stage = path.parent()?.file_name()?.to_str()?;
        Self::parse(&format!("{stage}/{folder}"))
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}-{}", self.stage, self.key, self.slug)
    }
}

/// Outcome of sending an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is new there.
    New,
    /// It was there.
    Same,
}

/// A place that holds artifacts.
pub(crate) trait Remote {
    /// Lists the artifacts whose `COMMIT` is there, sorted.
    fn list(&self) -> Result<Vec<Name>>;

    /// Returns why the place, which holds no artifact, is not even an empty store, as the end of a sentence; `None` if it is one.
    fn why_no_store(&self) -> Option<&'static str>;

    /// Reads a small file of an artifact, at most `limit` bytes; `None` if it is missing.
    fn read(&self, name: &Name, file: &str, limit: u64) -> Result<Option<Vec<u8>>>;

    /// Lists the files in `telemetry/` of an artifact: names and sizes in bytes.
    fn telemetry(&self, name: &Name) -> Result<Vec<(String, u64)>>;

    /// Writes a file of an artifact to `to`, but no more than `bytes` bytes (the caller compares hashes).
    fn download(&self, name: &Name, file: &str, bytes: u64, to: &Path) -> Result<()>;

    /// Copies a verified artifact there.
    fn send(&self, artifact: &Artifact, name: &Name) -> Result<Sent>;
}

/// Opens the place that `address` names: `s3://BUCKET/PREFIX`, or a folder.
pub(crate) fn open(address: &str) -> Result<Box<dyn Remote>> {
    if let Some(rest) = address.strip_prefix("s3://") {
        return Ok(Box::new(S3::open(address, rest)?));
    }
    if let Some((scheme, _)) = address.split_once("://") {
        return Err(Error::Remote {
            place: address.to_owned(),
            problem: format!("addresses with `{scheme}:` are not supported"),
            hint: Some("give a folder, or s3://BUCKET/PREFIX".to_owned()),
        });
    }
    Ok(Box::new(Folder::open(Path::new(address))?))
}

/// Lists all files of an artifact below its folder, with their sizes in bytes; [`SUMS`] comes first, `COMMIT` last.
pub(crate) fn files(artifact: &Artifact) -> Result<Vec<(String, u64)>> {
    let with_size = |name: String| {
        let size = fs_err::metadata(artifact.path().join(&name))?.len();
        Ok::<_, Error>((name, size))
    };
    let telemetry = crate::catalog::names(&artifact.path().join("telemetry"))?;
    let mut files = vec![with_size(SUMS.to_owned())?];
    files.extend(artifact.manifest().files.iter().map(|file| (format!("data/{}", file.path), file.size)));
    for name in telemetry {
        files.push(with_size(format!("telemetry/{name}"))?);
    }
    for name in [MANIFEST, PROVENANCE, COMMIT] {
        files.push(with_size(name.to_owned())?);
    }
    Ok(files)
}

/// Reads at most `limit` bytes; fails if there are more.
pub(crate) fn read_limited(reader: impl Read, limit: u64, place: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(too_long(place, limit));
    }
    Ok(bytes)
}

/// Splits an error about a damaged copy into the damaged file, named below `place` instead of below the deleted staging folder, and the
/// reason. Returns other errors as they are.
pub(crate) fn damage_of_copy(
    error: artifact::Error,
    staging: &Path,
    place: &str,
) -> Result<(String, String), artifact::Error> {
    use artifact::Error::{Damaged, Json, NotAnArtifact, Tree};
    let (path, reason) = match &error {
        Damaged { path, reason } | NotAnArtifact { path, reason } | Tree { path, reason } => {
            (path, reason.clone())
        }
        Json { path, source } => (path, format!("it is not the JSON that it should be: {source}")),
        _ => return Err(error),
    };
    let Ok(below) = path.strip_prefix(staging) else { return Err(error) };
    let below = below.display().to_string();
    let damaged = if below.is_empty() { place.to_owned() } else { format!("{place}/{below}") };
    Ok((damaged, reason))
}

/// Makes the error for a file that is longer than it should be.
pub(crate) fn too_long(place: &str, limit: u64) -> Error {
    Error::Remote {
        place: place.to_owned(),
        problem: format!("has more than the expected {limit} bytes"),
        hint: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_artifacts_are_parsed() {
        let parsed = Name::parse("import-model/0123456789abcdef-lora.r8-2").unwrap();
        assert_eq!(parsed.to_string(), "import-model/0123456789abcdef-lora.r8-2");
        let long = "a".repeat(41);
        for text in [
            "0123456789abcdef-x",
            "My Stuff/0123456789abcdef-x",
            "my_stuff/0123456789abcdef-x",
            "2025/0123456789abcdef-x",
            "refs/0123456789abcdef-x",
            "/0123456789abcdef-x",
            "../0123456789abcdef-x",
            ".tmp/0123456789abcdef-x",
            &format!("{long}/0123456789abcdef-x"),
            "train/0123456789abcdef",
            "train/0123456789abcdef-",
            "train/0123456789abcdef-Copy of x",
            "train/0123456789abcdef-x/y",
            &format!("train/0123456789abcdef-{long}"),
            "train/0123456789abcde-x",
            "train/0123456789ABCDEF-x",
        ] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }

    #[test]
    fn damage_is_named_at_its_place() {
        let staging = Path::new("/store/train/.tmp-1-2-x");
        let at = |path: &str| {
            let error = artifact::Error::Damaged { path: path.into(), reason: "why".to_owned() };
            damage_of_copy(error, staging, "away/train/k-s")
        };
        let found = |place: &str| (place.to_owned(), "why".to_owned());
        assert_eq!(at("/store/train/.tmp-1-2-x").unwrap(), found("away/train/k-s"));
        assert_eq!(
            at("/store/train/.tmp-1-2-x/manifest.json").unwrap(),
            found("away/train/k-s/manifest.json")
        );
        assert!(at("/store/train/other").is_err(), "another artifact is not at that place");
        let io = artifact::Error::Io(std::io::Error::other("disk"));
        assert!(damage_of_copy(io, staging, "away/train/k-s").is_err());
    }
}
