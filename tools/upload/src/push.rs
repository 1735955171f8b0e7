//! From a list of files to a commit on the hub.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hub::{AttemptError, Client, Entry, Progress, Request, Settings, Watch, is_hex, quoted};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{Error, LocalFile, objects, refusal};

/// Bytes from which the hub tells how a file is kept.
const SAMPLE_BYTES: u64 = 512;
/// Files asked about at once.
const ASKED_FILES: usize = 256;
/// The longest answer that is read.
const MAX_ANSWER: u64 = 64 << 20;

/// Where a model goes.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The repository, `OWNER/NAME`.
    pub id: &'a str,
    /// The branch.
    pub revision: &'a str,
    /// Whether a repository that is made is private.
    pub private: bool,
    /// The first line of the commit.
    pub message: &'a str,
}

/// What an upload did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The commit that holds the model now.
    pub commit: String,
    /// Names of the files that were not there, or not the same.
    pub changed: Vec<String>,
    /// Names of weights of an older model that the commit took away.
    pub removed: Vec<String>,
    /// Bytes of large files that travelled.
    pub sent_bytes: u64,
}

/// Makes the repository and the branch if they are missing, and brings `files` there in one commit.
///
/// # Errors
///
/// Fails when the hub refuses or cannot be reached; then the branch is as it was, and what arrived is not sent again.
pub fn push(
    files: &[LocalFile],
    target: &Target<'_>,
    settings: &Settings,
    watch: &dyn Watch,
) -> Result<Outcome, Error> {
    check(target, settings)?;
    let client = Client::new(settings, watch, refusal::explain);
    let url = client.url(&format!("api/models/{}", target.id));
    make_repository(&client, target)?;
    make_branch(&client, target)?;
    let mut done = Outcome { commit: String::new(), changed: vec![], removed: vec![], sent_bytes: 0 };
    // Each round begins by asking what is there: an answer that got lost, or a run that was killed, costs nothing.
    client.retrying::<(), Error>(&url, |progress| {
        let (head, difference) = compare(&client, target, files)?;
        if difference.is_empty() {
            done.commit = head;
            return Ok(());
        }
        let sent = commit(&client, target, &head, &difference, progress)?;
        done.sent_bytes += sent;
        done.changed = difference.changed.iter().map(|file| file.name.clone()).collect();
        done.removed = difference.removed;
        // Nobody is believed: the next round finds everything there, or sends what is not.
        let (head, left) = compare(&client, target, files)?;
        if !left.is_empty() {
            let names: Vec<&str> = left.changed.iter().map(|file| file.name.as_str()).collect();
            return Err(AttemptError::retry(format!("the hub still lacks {}", names.join(", "))));
        }
        done.commit = head;
        Ok(())
    })?;
    Ok(done)
}

fn check(target: &Target<'_>, settings: &Settings) -> Result<(), Error> {
    let bad = |problem: String, hint: &str| Err(Error::Settings { problem, hint: hint.into() });
    let plain = |name: &str| {
        let byte = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        !name.is_empty() && name.len() <= 96 && name.bytes().all(byte) && !name.starts_with(['.', '-'])
    };
    let is_id = target.id.split_once('/').is_some_and(|(owner, name)| plain(owner) && plain(name));
    if !is_id {
        return bad(
            format!("`{}` names no repository", target.id),
            "it is `OWNER/NAME`, such as `jane/my-model`",
        );
    }
    if target.revision.is_empty() || is_hex(target.revision, 40) {
        return bad(
            format!("`{}` is no branch", target.revision),
            "a commit cannot be changed; name a branch with `--revision`, or leave it out for `main`",
        );
    }
    if settings.offline {
        return bad("`HF_HUB_OFFLINE` forbids the network".into(), "unset it to upload");
    }
    if settings.token.is_none() {
        let hint = format!(
            "make a token with write access on `{}/settings/tokens` and set `HF_TOKEN`",
            settings.endpoint
        );
        return bad("no token is set, and the hub takes nothing from strangers".into(), &hint);
    }
    Ok(())
}

/// Sends JSON and reads JSON.
pub(crate) fn post_json<T: DeserializeOwned>(
    client: &Client<'_>,
    url: &str,
    kind: &str,
    question: &Value,
) -> Result<T, AttemptError<Error>> {
    let body = question.to_string();
    let mut answer = post(client, url, kind, body.as_bytes(), &[])?;
    let bytes = answer.read_to_end(MAX_ANSWER)?;
    serde_json::from_slice(if bytes.is_empty() { b"null" } else { &bytes })
        .map_err(|error| AttemptError::retry(format!("the answer is not the expected JSON: {error}")))
}

fn post(
    client: &Client<'_>,
    url: &str,
    kind: &str,
    mut body: &[u8],
    fine: &[u16],
) -> Result<hub::Response, AttemptError<Error>> {
    let bytes = body.len() as u64;
    let accept = if kind == "application/x-ndjson" { "application/json" } else { kind };
    let headers = [("content-type", kind), ("accept", accept)];
    client.send(
        Request { method: "POST", url, headers: &headers, body: &mut body, bytes, with_token: true },
        fine,
    )
}

fn make_repository(client: &Client<'_>, target: &Target<'_>) -> Result<(), Error> {
    let (owner, name) = target.id.split_once('/').expect("the name was checked");
    let question = json!({ "type": "model", "name": name, "organization": owner, "private": target.private })
        .to_string();
    let url = client.url("api/repos/create");
    let there = client.url(&format!("api/models/{}", target.id));
    client.retrying(&there, |_: &mut Progress| {
        // 409: it is there. Some tokens may write to a repository and not make one: then it must be there.
        let status = post(client, &url, "application/json", question.as_bytes(), &[403, 409])?.status();
        if status == 403 && client.get::<Error>(&there, 0).is_err() {
            let reason = format!("`{}` does not exist, and the token may not make it (403)", target.id);
            let hint =
                "make the repository on the hub first, or a token that may write to this account".into();
            return Err(AttemptError::Fatal(hub::Error::Refused { reason, hint }.into()));
        }
        match status {
            403 | 409 => tracing::debug!("`{}` is there", target.id),
            _ => tracing::info!("made the repository `{}`", target.id),
        }
        Ok(())
    })
}

fn make_branch(client: &Client<'_>, target: &Target<'_>) -> Result<(), Error> {
    if target.revision == "main" {
        return Ok(());
    }
    let url = client.url(&format!("api/models/{}/branch/{}", target.id, quoted(target.revision)));
    client.retrying(&url, |_: &mut Progress| post(client, &url, "application/json", b"{}", &[409]).map(drop))
}

/// What has to change on the hub.
struct Difference<'a> {
    changed: Vec<&'a LocalFile>,
    removed: Vec<String>,
}

impl Difference<'_> {
    fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// Asks what the branch holds; returns its commit, and what is missing from it.
fn compare<'a>(
    client: &Client<'_>,
    target: &Target<'_>,
    files: &'a [LocalFile],
) -> Result<(String, Difference<'a>), AttemptError<Error>> {
    let head = hub::resolve(client, target.id, target.revision).map_err(Error::from)?;
    let entries = hub::tree(client, target.id, &head).map_err(Error::from)?;
    let mut changed = Vec::new();
    for file in files {
        if !is_same(file, entries.get(&file.name))? {
            changed.push(file);
        }
    }
    let names: BTreeSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let removed = entries.keys().filter(|name| is_weights(name) && !names.contains(name.as_str())).cloned();
    Ok((head, Difference { changed, removed: removed.collect() }))
}

/// Weights of another model in the same folder would be read together with ours.
fn is_weights(name: &str) -> bool {
    let ours = name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
    name.starts_with("model") && !name.contains('/') && ours
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

/// Brings large files to the storage and makes the commit; returns how many bytes travelled to the storage.
fn commit(
    client: &Client<'_>,
    target: &Target<'_>,
    head: &str,
    difference: &Difference<'_>,
    progress: &mut Progress,
) -> Result<u64, AttemptError<Error>> {
    let large = ask_for_large(client, target, &difference.changed)?;
    let (large, small): (Vec<&LocalFile>, Vec<&LocalFile>) =
        difference.changed.iter().partition(|file| large.contains(&file.name));
    let sent = objects::send(client, target, &large, progress)?;
    let mut lines = vec![json!({
        "key": "header", "value": { "summary": target.message, "description": "", "parentCommit": head },
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
    let url = client.url(&format!("api/models/{}/commit/{}", target.id, quoted(target.revision)));
    post(client, &url, "application/x-ndjson", body.as_bytes(), &[])?;
    progress.made();
    Ok(sent)
}

/// Asks which files the hub wants by way of the storage.
fn ask_for_large(
    client: &Client<'_>,
    target: &Target<'_>,
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
    let url = client.url(&format!("api/models/{}/preupload/{}", target.id, quoted(target.revision)));
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
        return Err(AttemptError::retry(format!("the hub says nothing about `{}`", file.name)));
    }
    Ok(modes.into_iter().filter(|(_, mode)| mode == "lfs").map(|(path, _)| path).collect())
}
