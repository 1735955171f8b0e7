//! From a list of files to a commit on the hub.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hub::{AttemptError, Client, Entry, Progress, Settings, Watch, quoted};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::destination::Destination;
use crate::error::Error;
use crate::files::LocalFile;
use crate::post::{post, post_json};
use crate::{objects, refusal};

/// Number of bytes from which the hub decides how to store a file.
const SAMPLE_BYTES: u64 = 512;
/// Number of files per request.
const ASKED_FILES: usize = 256;

/// Result of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The commit that holds the model.
    pub commit: String,
    /// Names of the files that were missing or different.
    pub changed: Vec<String>,
    /// Names of the weight files of an older model that the commit removed.
    pub removed: Vec<String>,
    /// Bytes of large files that were sent.
    pub sent_bytes: u64,
}

/// Creates the repository and the branch if they are missing, and uploads `files` in one commit.
///
/// # Errors
///
/// Fails if the hub refuses or cannot be reached. The branch is then unchanged, and files that arrived are not sent again.
pub fn push(
    files: &[LocalFile],
    destination: &Destination<'_>,
    settings: &Settings,
    watch: &dyn Watch,
) -> Result<Outcome, Error> {
    destination.check(settings)?;
    let client = Client::new(settings, watch, refusal::explain);
    let url = client.url(&format!("api/models/{}", destination.id));
    make_repository(&client, destination)?;
    make_branch(&client, destination)?;
    let mut done = Outcome { commit: String::new(), changed: vec![], removed: vec![], sent_bytes: 0 };
    // Each attempt first asks which files are there, so a lost answer or a killed process costs nothing.
    client.retrying::<(), Error>(&url, |progress| {
        let (head, difference) = compare(&client, destination, files)?;
        if difference.is_empty() {
            done.commit = head;
            return Ok(());
        }
        check_removed(destination, &difference.removed)?;
        let sent = commit(&client, destination, &head, &difference, progress)?;
        done.sent_bytes += sent;
        done.changed = difference.changed.iter().map(|file| file.name.clone()).collect();
        done.removed = difference.removed;
        // Check that all files arrived; otherwise the next attempt sends the missing ones.
        let (head, left) = compare(&client, destination, files)?;
        if !left.is_empty() {
            let names: Vec<&str> = left.changed.iter().map(|file| file.name.as_str()).collect();
            return Err(AttemptError::retry(format!("the hub still lacks {}", names.join(", "))));
        }
        done.commit = head;
        Ok(())
    })?;
    Ok(done)
}

fn make_repository(client: &Client<'_>, destination: &Destination<'_>) -> Result<(), Error> {
    let (owner, name) = destination.id.split_once('/').expect("the name was checked");
    let question =
        json!({ "type": "model", "name": name, "organization": owner, "private": destination.private })
            .to_string();
    let url = client.url("api/repos/create");
    let repository = client.url(&format!("api/models/{}", destination.id));
    client.retrying(&repository, |_: &mut Progress| {
        // 409: it exists. Some tokens may write to a repository but not create one (403): then it must exist.
        let status = post(client, &url, "application/json", question.as_bytes(), &[403, 409])?.status();
        if status == 403 && client.get::<Error>(&repository, 0).is_err() {
            let reason =
                format!("`{}` does not exist, and the token may not create it (403)", destination.id);
            let hint =
                "create the repository on the hub first, or use a token with write access to this account"
                    .into();
            return Err(AttemptError::Fatal(hub::Error::Refused { reason, hint }.into()));
        }
        match status {
            403 | 409 => tracing::debug!("repository `{}` exists", destination.id),
            _ => tracing::info!("created the repository `{}`", destination.id),
        }
        Ok(())
    })
}

fn make_branch(client: &Client<'_>, destination: &Destination<'_>) -> Result<(), Error> {
    if destination.revision == "main" {
        return Ok(());
    }
    let url = client.url(&format!("api/models/{}/branch/{}", destination.id, quoted(destination.revision)));
    client.retrying(&url, |_: &mut Progress| post(client, &url, "application/json", b"{}", &[409]).map(drop))
}

/// Changes to make on the hub.
struct Difference<'a> {
    changed: Vec<&'a LocalFile>,
    removed: Vec<String>,
}

impl Difference<'_> {
    fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// Compares the branch with `files`; returns its commit and the difference.
fn compare<'a>(
    client: &Client<'_>,
    destination: &Destination<'_>,
    files: &'a [LocalFile],
) -> Result<(String, Difference<'a>), AttemptError<Error>> {
    let head = hub::resolve(client, destination.id, destination.revision).map_err(Error::from)?;
    let entries = hub::tree(client, destination.id, &head).map_err(Error::from)?;
    let mut changed = Vec::new();
    for file in files {
        if !is_same(file, entries.get(&file.name))? {
            changed.push(file);
        }
    }
    let names: BTreeSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
    // A GGUF file or adapters are not loaded together with other weights.
    let has_weights = names.iter().any(|name| is_weights(name));
    let is_older = |name: &&String| has_weights && is_weights(name) && !names.contains(name.as_str());
    let removed = entries.keys().filter(is_older).cloned();
    Ok((head, Difference { changed, removed: removed.collect() }))
}

/// Fails if the commit would remove files, and the user did not ask for that.
fn check_removed(destination: &Destination<'_>, removed: &[String]) -> Result<(), Error> {
    if removed.is_empty() || destination.replace_weights {
        return Ok(());
    }
    Err(Error::Settings {
        reason: format!(
            "`{}` has weights of another model, which would be loaded together with this one: `{}`",
            destination.id,
            removed.join("`, `")
        ),
        hint: "remove them in the same commit with `--replace-weights`, or upload to another repository or branch"
            .to_owned(),
    })
}

/// Returns whether a file holds weights: those of an older model would be loaded together with the new ones.
fn is_weights(name: &str) -> bool {
    let is_weights = name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
    name.starts_with("model") && !name.contains('/') && is_weights
}

fn is_same(file: &LocalFile, entry: Option<&Entry>) -> Result<bool, Error> {
    let Some(entry) = entry else { return Ok(false) };
    if entry.bytes.is_some_and(|bytes| bytes != file.bytes) {
        return Ok(false);
    }
    match (&entry.sha256, &entry.git_oid) {
        (Some(sha256), _) => Ok(*sha256 == file.sha256),
        (None, Some(oid)) => Ok(*oid == file.git_oid()?),
        (None, None) => Ok(false),
    }
}

/// Sends large files to the storage and makes the commit; returns the number of bytes sent to the storage.
fn commit(
    client: &Client<'_>,
    destination: &Destination<'_>,
    head: &str,
    difference: &Difference<'_>,
    progress: &mut Progress,
) -> Result<u64, AttemptError<Error>> {
    let large = ask_for_large(client, destination, &difference.changed)?;
    let (large, small): (Vec<&LocalFile>, Vec<&LocalFile>) =
        difference.changed.iter().partition(|file| large.contains(&file.name));
    let sent = objects::send(client, destination, &large, progress)?;
    let mut lines = vec![json!({
        "key": "header", "value": { "summary": destination.message, "description": "", "parentCommit": head },
    })];
    for name in &difference.removed {
        lines.push(json!({ "key": "deletedFile", "value": { "path": name } }));
    }
    for file in small {
        let content = STANDARD.encode(file.read()?);
        let value = json!({ "content": content, "path": file.name, "encoding": "base64" });
        lines.push(json!({ "key": "file", "value": value }));
    }
    for file in large {
        let value = json!({ "path": file.name, "algo": "sha256", "oid": file.sha256, "size": file.bytes });
        lines.push(json!({ "key": "lfsFile", "value": value }));
    }
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    let body = lines.join("\n") + "\n";
    let url = client.url(&format!("api/models/{}/commit/{}", destination.id, quoted(destination.revision)));
    post(client, &url, "application/x-ndjson", body.as_bytes(), &[])?;
    progress.made();
    Ok(sent)
}

/// Asks which files the hub wants in the storage, and returns their names.
fn ask_for_large(
    client: &Client<'_>,
    destination: &Destination<'_>,
    files: &[&LocalFile],
) -> Result<BTreeSet<String>, AttemptError<Error>> {
    #[derive(Deserialize)]
    struct Answer {
        files: Vec<Mode>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Mode {
        path: String,
        upload_mode: String,
    }
    let url =
        client.url(&format!("api/models/{}/preupload/{}", destination.id, quoted(destination.revision)));
    let mut modes = BTreeMap::new();
    for files in files.chunks(ASKED_FILES) {
        let described = files.iter().map(|file| {
            let sample = STANDARD.encode(file.sample(SAMPLE_BYTES)?);
            Ok(json!({ "path": file.name, "sample": sample, "size": file.bytes }))
        });
        let question = json!({ "files": described.collect::<Result<Vec<Value>, Error>>()? });
        let answer: Answer = post_json(client, &url, "application/json", &question)?;
        modes.extend(answer.files.into_iter().map(|mode| (mode.path, mode.upload_mode)));
    }
    if let Some(file) = files.iter().find(|file| !modes.contains_key(&file.name)) {
        return Err(AttemptError::retry(format!("the hub does not mention `{}`", file.name)));
    }
    Ok(modes.into_iter().filter(|(_, mode)| mode == "lfs").map(|(path, _)| path).collect())
}
