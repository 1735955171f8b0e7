//! Large files, by the protocol of git-lfs: offered by hash, sent whole or in byte ranges, then confirmed.

use std::collections::BTreeMap;
use std::io::{Read, Seek as _, SeekFrom};

use hub::{AttemptError, Client, Progress, Request, Watch};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::destination::Destination;
use crate::error::Error;
use crate::files::LocalFile;
use crate::post::post_json;

const LFS_JSON: &str = "application/vnd.git-lfs+json";
/// Number of files per request.
const BATCH: usize = 100;

/// Answer of the hub about one large file.
#[derive(Deserialize)]
struct Object {
    oid: String,
    #[serde(default)]
    actions: Option<Actions>,
    #[serde(default)]
    error: Option<Refused>,
}

#[derive(Deserialize)]
struct Refused {
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Actions {
    #[serde(default)]
    upload: Option<Action>,
    #[serde(default)]
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: BTreeMap<String, Value>,
}

/// Sends the large files that the hub lacks; returns the number of bytes sent.
pub(crate) fn send(
    client: &Client<'_>,
    destination: &Destination<'_>,
    files: &[&LocalFile],
    progress: &mut Progress,
) -> Result<u64, AttemptError<Error>> {
    let mut sent = 0;
    for files in files.chunks(BATCH) {
        let mut wanted: BTreeMap<&str, &LocalFile> =
            files.iter().map(|file| (file.sha256.as_str(), *file)).collect();
        for object in ask(client, destination, &wanted)? {
            let Some(file) = wanted.remove(object.oid.as_str()) else { continue };
            if let Some(refused) = object.error {
                let reason = format!("the hub rejects `{}`: {}", file.name, refused.message);
                let hint = "change the file as the hub asks".into();
                return Err(AttemptError::Fatal(hub::Error::Refused { reason, hint }.into()));
            }
            // The hub has the files without an action.
            let Some(Actions { upload: Some(upload), verify }) = object.actions else { continue };
            client.watch().begin(&file.name, Some(file.bytes), 0);
            let result = send_one(client, file, &upload);
            client.watch().end();
            result?;
            confirm(client, file, verify.as_ref())?;
            progress.made();
            sent += file.bytes;
        }
        if let Some((_, file)) = wanted.first_key_value() {
            return Err(AttemptError::retry(format!("the hub does not mention `{}`", file.name)));
        }
    }
    Ok(sent)
}

fn ask(
    client: &Client<'_>,
    destination: &Destination<'_>,
    files: &BTreeMap<&str, &LocalFile>,
) -> Result<Vec<Object>, AttemptError<Error>> {
    #[derive(Deserialize)]
    struct Answer {
        objects: Vec<Object>,
    }
    let objects: Vec<Value> =
        files.iter().map(|(oid, file)| json!({ "oid": oid, "size": file.bytes })).collect();
    let question = json!({
        "operation": "upload", "transfers": ["basic", "multipart"], "objects": objects, "hash_algo": "sha256",
        "ref": { "name": destination.revision },
    });
    let url = client.url(&format!("{}.git/info/lfs/objects/batch", destination.id));
    let answer: Answer = post_json(client, &url, LFS_JSON, &question)?;
    Ok(answer.objects)
}

/// Sends one file, in byte ranges if the hub gives an address for each.
fn send_one(client: &Client<'_>, file: &LocalFile, upload: &Action) -> Result<(), AttemptError<Error>> {
    let range_bytes = upload.header.get("chunk_size").and_then(|value| match value {
        Value::String(text) => text.parse::<u64>().ok(),
        number => number.as_u64(),
    });
    let Some(range_bytes) = range_bytes.filter(|&bytes| bytes > 0) else {
        let headers: Vec<(&str, &str)> =
            upload.header.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))).collect();
        return put(client, file, &upload.href, &headers, 0..file.bytes).map(drop);
    };
    let mut ranges = Vec::new();
    for number in 1..=file.bytes.div_ceil(range_bytes) {
        let address = upload.header.iter().find(|(name, _)| name.parse() == Ok(number));
        let Some(address) = address.and_then(|(_, value)| value.as_str()) else {
            return Err(AttemptError::retry(format!(
                "the hub gives no address for byte range {number} of `{}`",
                file.name
            )));
        };
        let start = (number - 1) * range_bytes;
        let range = start..file.bytes.min(start + range_bytes);
        // After a failure only this range is sent again.
        let etag =
            client.retrying(address, |_: &mut Progress| put(client, file, address, &[], range.clone()))?;
        let Some(etag) = etag else {
            return Err(AttemptError::retry(format!(
                "the storage gives no receipt for byte range {number} of `{}`",
                file.name
            )));
        };
        ranges.push(json!({ "partNumber": number, "etag": etag }));
    }
    let receipts = json!({ "oid": file.sha256, "parts": ranges });
    let body = receipts.to_string();
    let headers = [("accept", LFS_JSON), ("content-type", LFS_JSON)];
    // The address is signed and needs no token.
    let request = Request {
        method: "POST",
        url: &upload.href,
        headers: &headers,
        body: &mut body.as_bytes(),
        bytes: body.len() as u64,
        with_token: false,
    };
    client.send::<Error>(request, &[]).map(drop)
}

/// Sends a range of a file to a signed address of the storage; returns the receipt.
fn put(
    client: &Client<'_>,
    file: &LocalFile,
    url: &str,
    headers: &[(&str, &str)],
    range: std::ops::Range<u64>,
) -> Result<Option<String>, AttemptError<Error>> {
    let mut source = ::files::open(&file.path).map_err(Error::from)?;
    source.seek(SeekFrom::Start(range.start)).map_err(Error::from)?;
    let bytes = range.end - range.start;
    let mut body = Watched { inner: source.take(bytes), watch: client.watch() };
    let request = Request { method: "PUT", url, headers, body: &mut body, bytes, with_token: false };
    let sent = client.send::<Error>(request, &[]);
    if let Some(signal) = client.watch().stop() {
        return Err(AttemptError::Fatal(hub::Error::Interrupted { signal }.into()));
    }
    Ok(sent?.header("etag"))
}

fn confirm(
    client: &Client<'_>,
    file: &LocalFile,
    verify: Option<&Action>,
) -> Result<(), AttemptError<Error>> {
    let Some(verify) = verify else { return Ok(()) };
    let question = json!({ "oid": file.sha256, "size": file.bytes });
    post_json::<Value>(client, &verify.href, LFS_JSON, &question).map(drop)
}

/// Reports progress while the file is read, and fails when asked to stop.
struct Watched<'a> {
    inner: std::io::Take<fs_err::File>,
    watch: &'a dyn Watch,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.watch.stop().is_some() {
            return Err(std::io::Error::other("interrupted"));
        }
        let bytes = self.inner.read(buffer)?;
        self.watch.advance(bytes as u64);
        Ok(bytes)
    }
}
