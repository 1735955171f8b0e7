//! S3-compatible storage as a place for artifacts.
//!
//! Settings come from the environment, as for other S3 programs: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
//! `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL` for storage other than Amazon's, and `AWS_ALLOW_HTTP` if that has no encryption.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use artifact::{Artifact, FileHash};
use futures_util::TryStreamExt as _;
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::path::Path as Key;
use object_store::{
    ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, RetryConfig,
};

use super::http::{Connector, Untrusted};
use super::{COMMIT, DESCRIPTION_BYTES, MANIFEST, Name, PROVENANCE, Remote, SUMS, Sent, files, too_long};
use crate::error::{Error, Result};

/// Length of the parts in which files are sent and read; S3 allows 10,000 parts of a file.
const PART_BYTES: usize = 16 << 20;
/// Most attempts of a request.
const RETRIES: usize = 5;

/// A bucket, or the part of it below a prefix.
#[derive(Debug)]
pub(crate) struct S3 {
    address: String,
    prefix: String,
    store: AmazonS3,
    runtime: tokio::runtime::Runtime,
}

impl S3 {
    /// Makes a client for `s3://BUCKET/PREFIX`, without connecting; `rest` is the address without its scheme.
    pub(crate) fn open(address: &str, rest: &str) -> Result<Self> {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let address = address.trim_end_matches('/').to_owned();
        let problem = |problem: String| Error::Remote { place: address.clone(), problem, hint: None };
        if bucket.is_empty() {
            return Err(problem("names no bucket".to_owned()));
        }
        let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
            .iter()
            .find_map(|name| std::env::var(name).ok())
            .filter(|endpoint| !endpoint.is_empty());
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_checksum_algorithm(Checksum::SHA256)
            .with_retry(RetryConfig {
                max_retries: RETRIES,
                retry_timeout: Duration::from_mins(2),
                ..RetryConfig::default()
            })
            .with_http_connector(Connector);
        if let Some(endpoint) = endpoint {
            check_encryption(&endpoint, std::env::var("AWS_ALLOW_HTTP").ok().as_deref())?;
            builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint);
        }
        let store = builder.build().map_err(|error| problem(failure::describe(&error)))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        Ok(Self { address, prefix: prefix.trim_matches('/').to_owned(), store, runtime })
    }

    fn key(&self, name: &Name, file: &str) -> Key {
        Key::from(format!("{}/{name}/{file}", self.prefix))
    }

    fn wait<T>(&self, future: impl Future<Output = object_store::Result<T>>) -> Result<T> {
        if let Some(signal) = crate::signal::stopped() {
            return Err(Error::Stopped { signal });
        }
        self.runtime.block_on(future).map_err(|error| self.blame(&error))
    }

    fn blame(&self, error: &object_store::Error) -> Error {
        if let Some(error) = caused_by::<network::Error>(error) {
            return Error::Network(error.clone());
        }
        let hint = match error {
            _ if caused_by::<Untrusted>(error).is_some() => Some(network::CERTIFICATE_HINT.to_owned()),
            object_store::Error::Unauthenticated { .. } | object_store::Error::PermissionDenied { .. } => {
                Some("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and check what they may do".to_owned())
            }
            object_store::Error::Generic { .. } => Some(
                "check AWS_ENDPOINT_URL, AWS_REGION and the network, then run the same command again"
                    .to_owned(),
            ),
            _ => None,
        };
        Error::Remote { place: self.address.clone(), problem: failure::describe(error), hint }
    }

    fn objects(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        let prefix = Key::from(format!("{}/{prefix}", self.prefix));
        let prefix = (!prefix.as_ref().is_empty()).then_some(prefix);
        self.wait(self.store.list(prefix.as_ref()).try_collect())
    }

    /// Returns the part of an object's key below the prefix.
    fn below<'a>(&self, object: &'a ObjectMeta) -> Option<&'a str> {
        let key = object.location.as_ref();
        if self.prefix.is_empty() { Some(key) } else { key.strip_prefix(&self.prefix)?.strip_prefix('/') }
    }

    /// Sends one file, in parts if it is large; returns the tag of its object, if the storage gives one.
    fn put_file(&self, path: &Path, bytes: u64, key: &Key) -> Result<Option<String>> {
        let mut file = fs_err::File::open(path)?;
        if bytes <= PART_BYTES as u64 {
            let mut content = Vec::new();
            file.read_to_end(&mut content)?;
            return Ok(self.wait(self.store.put(key, PutPayload::from(content)))?.e_tag);
        }
        let mut upload = self.wait(self.store.put_multipart(key))?;
        let sent = (|| loop {
            let mut part = Vec::with_capacity(PART_BYTES);
            std::io::Read::by_ref(&mut file).take(PART_BYTES as u64).read_to_end(&mut part)?;
            if part.is_empty() {
                return Ok(());
            }
            self.wait(upload.put_part(PutPayload::from(part)))?;
        })();
        match sent.and_then(|()| self.wait(upload.complete())) {
            Ok(put) => Ok(put.e_tag),
            Err(error) => {
                // Parts of an upload that is given up cost money until they are removed.
                let _ = self.runtime.block_on(upload.abort());
                Err(error)
            }
        }
    }

    /// Returns the objects of an artifact, by their names below its folder.
    fn objects_of(&self, name: &Name) -> Result<BTreeMap<String, ObjectMeta>> {
        let folder = name.to_string();
        let objects = self.objects(&folder)?.into_iter();
        let named = objects.filter_map(|object| {
            let file = self.below(&object)?.strip_prefix(&folder)?.strip_prefix('/')?.to_owned();
            Some((file, object))
        });
        Ok(named.collect())
    }

    /// Compares the artifact that is there with `artifact`; `None` if it must be sent, because its `COMMIT` does not name the
    /// descriptions that are there: nobody could pull it.
    fn compare(&self, artifact: &Artifact, name: &Name) -> Result<Option<Sent>> {
        let mut commit = String::new();
        let mut manifest = Vec::new();
        for file in [SUMS, MANIFEST, PROVENANCE] {
            let Some(there) = self.read(name, file, DESCRIPTION_BYTES)? else { return Ok(None) };
            writeln!(commit, "{}  {file}", FileHash::of(&there)).expect("writing to a string succeeds");
            if file == MANIFEST {
                manifest = there;
            }
        }
        if self.read(name, COMMIT, DESCRIPTION_BYTES)?.as_deref() != Some(commit.as_bytes()) {
            return Ok(None);
        }
        if FileHash::of(&manifest) == artifact.manifest_hash() {
            return Ok(Some(Sent::Same));
        }
        let manifest = artifact::Manifest::from_bytes(Path::new(MANIFEST), &manifest)?;
        Err(Error::Different {
            there: format!("{}/{name}", self.address),
            here: artifact.path().to_owned(),
            trees: (manifest.tree, artifact.tree()),
        })
    }

    /// Returns the large files that an earlier attempt, which was cut off, has sent whole. Equal lengths do not make equal bytes,
    /// so they count only if that attempt sent the same `SHA256SUMS`, which goes first.
    fn sent_before(&self, artifact: &Artifact, name: &Name) -> Result<BTreeMap<String, ObjectMeta>> {
        let ours = fs_err::read(artifact.path().join(SUMS))?;
        if self.read(name, SUMS, DESCRIPTION_BYTES)? != Some(ours) {
            return Ok(BTreeMap::new());
        }
        let mut objects = self.objects_of(name)?;
        objects.retain(|file, object| file.starts_with("data/") && object.size > PART_BYTES as u64);
        Ok(objects)
    }

    /// Checks that the objects of the artifact still are those with the tags `sent`: another program that sends other bytes, or
    /// another provenance with its telemetry, under the same name at the same time would otherwise leave a mixture.
    fn check_untouched(&self, name: &Name, sent: &BTreeMap<String, Option<String>>) -> Result<()> {
        let there = self.objects_of(name)?;
        let is_ours = |(file, tag): (&String, &Option<String>)| match (tag, there.get(file)) {
            (Some(tag), Some(object)) => object.e_tag.as_ref().is_none_or(|found| found == tag),
            (_, found) => found.is_some(),
        };
        match sent.iter().find(|&sent| !is_ours(sent)) {
            None => Ok(()),
            Some((file, _)) => Err(self.replaced(name, file)),
        }
    }

    fn replaced(&self, name: &Name, file: &str) -> Error {
        Error::Remote {
            place: format!("{}/{name}/{file}", self.address),
            problem: "was replaced by another program while this one sent the artifact".to_owned(),
            hint: Some("wait until the other one has finished, then run the same command again".to_owned()),
        }
    }

    /// Writes `COMMIT`, which makes the artifact visible; if another program was faster, compares with what it sent. A `COMMIT`
    /// that does not name the descriptions which this program has sent is replaced.
    fn commit(&self, artifact: &Artifact, name: &Name) -> Result<Sent> {
        let content = fs_err::read(artifact.path().join(COMMIT))?;
        let key = self.key(name, COMMIT);
        let options = PutOptions::from(PutMode::Create);
        let created =
            self.runtime.block_on(self.store.put_opts(&key, PutPayload::from(content.clone()), options));
        match created {
            Ok(_) => Ok(Sent::New),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                if let Some(sent) = self.compare(artifact, name)? {
                    return Ok(sent);
                }
                self.wait(self.store.put(&key, PutPayload::from(content)))?;
                self.compare(artifact, name)?.ok_or_else(|| self.replaced(name, COMMIT))?;
                Ok(Sent::New)
            }
            // Storage without conditional writes.
            Err(object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }) => {
                self.wait(self.store.put(&key, PutPayload::from(content)))?;
                Ok(Sent::New)
            }
            Err(error) => Err(self.blame(&error)),
        }
    }
}

/// Refuses storage on another machine that has no encryption, unless `allowed`, the value of `AWS_ALLOW_HTTP`, is true.
fn check_encryption(endpoint: &str, allowed: Option<&str>) -> Result<()> {
    let allowed = allowed.unwrap_or_default().to_ascii_lowercase();
    if !network::is_exposed(endpoint) || matches!(allowed.as_str(), "1" | "true" | "on" | "yes" | "y") {
        return Ok(());
    }
    Err(Error::Network(network::Error {
        reason: format!("the storage `{endpoint}` is on another machine and has no encryption"),
        hint:
            "set AWS_ENDPOINT_URL to an `https://` address, or AWS_ALLOW_HTTP=true if that network is trusted"
                .to_owned(),
    }))
}

/// Returns the cause of an error that has the type `T`, if there is one.
fn caused_by<T: std::error::Error + 'static>(error: &object_store::Error) -> Option<&T> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

impl Remote for S3 {
    fn list(&self) -> Result<Vec<Name>> {
        let objects = self.objects("")?;
        let commits = objects.iter().filter_map(|object| self.below(object)?.strip_suffix("/COMMIT"));
        let mut names: Vec<Name> = commits.filter_map(Name::parse).collect();
        names.sort();
        Ok(names)
    }

    fn why_no_store(&self) -> Option<&'static str> {
        Some("holds no artifacts")
    }

    fn read(&self, name: &Name, file: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let key = self.key(name, file);
        let found = self.runtime.block_on(async {
            let head = self.store.head(&key).await?;
            if head.size > limit {
                return Ok(None);
            }
            self.store.get(&key).await?.bytes().await.map(Some)
        });
        match found {
            Ok(Some(bytes)) => Ok(Some(bytes.to_vec())),
            Ok(None) => Err(too_long(&format!("{}/{name}/{file}", self.address), limit)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.blame(&error)),
        }
    }

    fn telemetry(&self, name: &Name) -> Result<Vec<(String, u64)>> {
        let folder = format!("{name}/telemetry");
        let objects = self.objects(&folder)?;
        let with_size = |object: &ObjectMeta| {
            let file = self.below(object)?.strip_prefix(&folder)?.strip_prefix('/')?;
            Some((file.to_owned(), object.size))
        };
        Ok(objects.iter().filter_map(with_size).collect())
    }

    fn download(&self, name: &Name, file: &str, bytes: u64, to: &Path) -> Result<()> {
        let key = self.key(name, file);
        let size = self.wait(self.store.head(&key))?.size;
        if size > bytes {
            return Err(too_long(&format!("{}/{name}/{file}", self.address), bytes));
        }
        let mut out = fs_err::File::create_new(to)?;
        let mut start = 0;
        while start < size {
            let end = size.min(start + PART_BYTES as u64);
            out.write_all(&self.wait(self.store.get_range(&key, start..end))?)?;
            start = end;
        }
        Ok(())
    }

    fn send(&self, artifact: &Artifact, name: &Name) -> Result<Sent> {
        let is_there = self.read(name, COMMIT, DESCRIPTION_BYTES)?.is_some();
        if is_there && let Some(sent) = self.compare(artifact, name)? {
            return Ok(sent);
        }
        let mut before = if is_there {
            tracing::warn!("`{}/{name}` does not match its `{COMMIT}` and is sent again", self.address);
            BTreeMap::new()
        } else {
            self.sent_before(artifact, name)?
        };
        let mut sent = BTreeMap::new();
        for (file, bytes) in files(artifact)? {
            if file == COMMIT {
                continue;
            }
            let tag = match before.remove(&file) {
                Some(object) if object.size == bytes => object.e_tag,
                _ => self.put_file(&artifact.path().join(&file), bytes, &self.key(name, &file))?,
            };
            sent.insert(file, tag);
        }
        self.check_untouched(name, &sent)?;
        let committed = self.commit(artifact, name)?;
        // A repair is reported, although its `COMMIT` may be the one that was there.
        Ok(if is_there { Sent::New } else { committed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_on_another_machine_needs_encryption_or_permission() {
        for (endpoint, allowed, is_used) in [
            ("https://s3.example.com", None, true),
            ("http://localhost:9000", None, true),
            ("http://127.0.0.1:9000", Some("false"), true),
            ("http://minio:9000", Some("true"), true),
            ("HTTP://192.0.2.2", Some("1"), true),
            ("http://minio:9000", None, false),
            ("HTTP://192.0.2.2", Some("false"), false),
            ("http://localhost@192.0.2.2", Some(""), false),
        ] {
            let checked = check_encryption(endpoint, allowed);
            assert_eq!(checked.is_ok(), is_used, "{endpoint} {allowed:?}: {checked:?}");
        }
    }
}
