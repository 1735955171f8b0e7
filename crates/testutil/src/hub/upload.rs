//! Uploads to the hub: repositories, branches, large files, commits.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde_json::{Value, json};

use super::{READ_TOKEN, Repo, RepoFile, State, TOKEN, error, lock};
use crate::files::sha256_hex;
use crate::http::{Incoming, Response};

/// Uploaded large files by their SHA-256.
#[derive(Default)]
pub(super) struct Uploads {
    /// Files larger than this are uploaded in parts of this size.
    pub(super) part_bytes: Option<usize>,
    blobs: BTreeMap<String, Vec<u8>>,
    parts: BTreeMap<String, BTreeMap<usize, Vec<u8>>>,
}

/// Organizations that the token may not write to.
const FOREIGN: &str = "foreign/";
/// Suffixes of large files; files that are not text are large too.
const LARGE: [&str; 3] = [".safetensors", ".gguf", "tokenizer.json"];
const LFS_JSON: &str = "application/vnd.git-lfs+json";

/// Answers a POST to the hub's host.
pub(super) fn hub_page(state: &State, request: &Incoming, target: &str) -> Response {
    let path = target.split('?').next().unwrap_or_default().trim_start_matches('/');
    if path == "api/complete_multipart" {
        return complete(state, request, target);
    }
    let authorization = request.headers.get("authorization").map_or("", String::as_str);
    match authorization.strip_prefix("Bearer ") {
        Some(TOKEN) => {}
        Some(READ_TOKEN) => return error(403, "", "You have read access but not the required permissions."),
        _ => return error(401, "", "Invalid username or password."),
    }
    if path == "api/repos/create" {
        return create(state, request);
    }
    let (id, rest) = match (path.strip_prefix("api/models/"), path.split_once(".git/info/lfs/")) {
        (Some(path), _) => {
            let parts: Vec<&str> = path.splitn(3, '/').collect();
            let [owner, name, rest] = parts[..] else { return error(404, "", "Not found") };
            (format!("{owner}/{name}"), rest)
        }
        (None, Some((id, rest))) => (id.to_owned(), rest),
        _ => return error(404, "", "Not found"),
    };
    let mut repos = lock(&state.repos);
    let Some(repo) = repos.iter_mut().find(|repo| repo.id == id) else {
        return error(404, "RepoNotFound", "Repository not found");
    };
    match rest.split_once('/') {
        Some(("branch", name)) => branch(repo, name),
        Some(("preupload", _)) => preupload(request),
        Some(("objects", "batch")) => batch(state, request),
        Some(("objects", "verify")) => verify(state, request),
        Some(("commit", name)) => commit(state, repo, name, request),
        _ => error(404, "", "Not found"),
    }
}

fn body(request: &Incoming) -> Value {
    serde_json::from_slice(&request.body).unwrap_or_default()
}

fn create(state: &State, request: &Incoming) -> Response {
    let body = body(request);
    let text = |name: &str| body[name].as_str().unwrap_or_default();
    let id = format!("{}/{}", text("organization"), text("name"));
    if body["type"] != "model" {
        return error(400, "", "\"type\" must be one of [model, dataset, space]");
    }
    if id.starts_with(FOREIGN) {
        return error(403, "", "You don't have the rights to create a model under the namespace \"foreign\"");
    }
    let mut repos = lock(&state.repos);
    if repos.iter().any(|repo| repo.id == id) {
        return error(409, "", "You already created this model repo");
    }
    let mut repo = Repo::new(&id).file(".gitattributes", b"*.safetensors filter=lfs\n");
    repo.private = body["private"] == true;
    repos.push(repo);
    Response::json(&json!({ "url": format!("http://{}/{id}", state.hub), "name": id }))
}

fn branch(repo: &mut Repo, name: &str) -> Response {
    if repo.branches.contains_key(name) {
        return error(409, "", "Reference already exists");
    }
    let commit = repo.commit().to_owned();
    repo.branches.insert(name.into(), commit);
    Response::json(&json!({}))
}

/// Decides from names and first bytes which files are large.
fn preupload(request: &Incoming) -> Response {
    let mut files = Vec::new();
    for file in body(request)["files"].as_array().into_iter().flatten() {
        let path = file["path"].as_str().unwrap_or_default();
        let sample = base64::engine::general_purpose::STANDARD.decode(file["sample"].as_str().unwrap_or("!"));
        let Ok(sample) = sample else { return error(400, "", "\"sample\" must be base64") };
        let large = sample.contains(&0) || LARGE.iter().any(|end| path.ends_with(end));
        let mode = if large { "lfs" } else { "regular" };
        files.push(json!({ "path": path, "uploadMode": mode, "shouldIgnore": false }));
    }
    Response::json(&json!({ "files": files }))
}

/// Returns the addresses for uploading large files.
fn batch(state: &State, request: &Incoming) -> Response {
    let body = body(request);
    let is_lfs = |name: &str| request.headers.get(name).is_some_and(|value| value == LFS_JSON);
    if !is_lfs("content-type")
        || !is_lfs("accept")
        || body["operation"] != "upload"
        || body["hash_algo"] != "sha256"
    {
        return error(422, "", "not a batch request of git-lfs");
    }
    let uploads = lock(&state.uploads);
    let split = uploads.part_bytes.filter(|_| {
        body["transfers"].as_array().is_some_and(|known| known.iter().any(|name| name == "multipart"))
    });
    let mut is_split = false;
    let objects: Vec<Value> = (body["objects"].as_array().into_iter().flatten())
        .map(|object| {
            let (oid, size) = (object["oid"].as_str().unwrap_or_default(), object["size"].as_u64().unwrap_or(0));
            let mut answer = json!({ "oid": oid, "size": size, "authenticated": true });
            if uploads.blobs.contains_key(oid) {
                return answer;
            }
            let verify = json!({ "href": format!("http://{}/{}", state.hub, verify_path(request)), "header": {} });
            let part = split.filter(|part| size > *part as u64);
            let upload = match part {
                None => json!({ "href": format!("http://{}/upload/{oid}?signature=abc", state.storage), "header": {} }),
                Some(part) => {
                    is_split = true;
                    let mut header = json!({ "chunk_size": part.to_string() });
                    for number in 1..=size.div_ceil(part as u64) {
                        let url = format!("http://{}/part/{oid}/{number}?signature=abc", state.storage);
                        header[format!("{number:05}")] = json!(url);
                    }
                    let done = format!("http://{}/api/complete_multipart?oid={oid}&signature=abc", state.hub);
                    json!({ "href": done, "header": header })
                }
            };
            answer["actions"] = json!({ "upload": upload, "verify": verify });
            answer
        })
        .collect();
    let transfer = if is_split { "multipart" } else { "basic" };
    Response::json(&json!({ "transfer": transfer, "objects": objects })).header("content-type", LFS_JSON)
}

fn verify_path(request: &Incoming) -> String {
    let path = request.target.split('?').next().unwrap_or_default();
    path.trim_start_matches('/').replace("objects/batch", "objects/verify")
}

/// Receives a large file, or a part of one, on the storage host.
pub(super) fn store(state: &State, request: &Incoming, target: &str) -> Response {
    let path = target.split('?').next().unwrap_or_default().trim_start_matches('/');
    let mut uploads = lock(&state.uploads);
    match path.split('/').collect::<Vec<_>>()[..] {
        ["upload", oid] if sha256_hex(&request.body) == oid => {
            uploads.blobs.insert(oid.into(), request.body.clone());
            Response::new(200, "")
        }
        ["part", oid, number] => {
            let Ok(number) = number.parse() else { return Response::new(400, "no such part") };
            uploads.parts.entry(oid.into()).or_default().insert(number, request.body.clone());
            Response::new(200, "").header("etag", format!("\"{}\"", &sha256_hex(&request.body)[..32]))
        }
        _ => Response::new(400, "XAmzContentSHA256Mismatch"),
    }
}

/// Joins the parts of a large file.
fn complete(state: &State, request: &Incoming, target: &str) -> Response {
    let body = body(request);
    let oid = body["oid"].as_str().unwrap_or_default();
    if !target.contains(&format!("oid={oid}&")) {
        return error(400, "", "this is another file");
    }
    let mut uploads = lock(&state.uploads);
    let mut whole = Vec::new();
    for (number, listed) in body["parts"].as_array().into_iter().flatten().enumerate() {
        let part = uploads.parts.get(oid).and_then(|parts| parts.get(&(number + 1)));
        let Some(part) = part.filter(|part| {
            let etag = format!("\"{}\"", &sha256_hex(part)[..32]);
            listed["partNumber"] == number + 1 && listed["etag"] == etag
        }) else {
            return error(400, "", "InvalidPart");
        };
        whole.extend_from_slice(part);
    }
    if sha256_hex(&whole) != oid {
        return error(400, "", "the parts do not make the file");
    }
    uploads.blobs.insert(oid.into(), whole);
    Response::json(&json!({ "success": true }))
}

fn verify(state: &State, request: &Incoming) -> Response {
    let body = body(request);
    let uploads = lock(&state.uploads);
    let blob = body["oid"].as_str().and_then(|oid| uploads.blobs.get(oid));
    if blob.is_some_and(|blob| body["size"] == blob.len()) {
        return Response::json(&json!({ "success": true }));
    }
    error(404, "", "Object not found")
}

/// Makes a commit from lines of JSON.
fn commit(state: &State, repo: &mut Repo, name: &str, request: &Incoming) -> Response {
    if request.headers.get("content-type").is_none_or(|kind| kind != "application/x-ndjson") {
        return error(415, "", "expected application/x-ndjson");
    }
    let Some(parent) = repo.branches.get(name).cloned() else {
        return error(404, "RevisionNotFound", &format!("Invalid rev id: {name}"));
    };
    let mut files = repo.commits[&parent].clone();
    let text = String::from_utf8_lossy(&request.body).into_owned();
    let uploads = lock(&state.uploads);
    for (number, line) in text.lines().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        let value = &line["value"];
        let path = value["path"].as_str().unwrap_or_default().to_owned();
        match line["key"].as_str().unwrap_or_default() {
            "header" if number == 0 && value["summary"].is_string() => {
                if value["parentCommit"].as_str().is_some_and(|wanted| wanted != parent) {
                    return error(412, "", "A commit has happened since. Please refresh and try again.");
                }
            }
            "file" if value["encoding"] == "base64" => {
                let content = value["content"].as_str().unwrap_or("!");
                match base64::engine::general_purpose::STANDARD.decode(content) {
                    Ok(bytes) => drop(files.insert(path, RepoFile::new(&bytes, false))),
                    Err(_) => return error(400, "", "content is not base64"),
                }
            }
            "lfsFile" => match value["oid"].as_str().and_then(|oid| uploads.blobs.get(oid)) {
                Some(bytes) if value["size"] == bytes.len() => {
                    files.insert(path, RepoFile::new(bytes, true));
                }
                _ => {
                    return error(
                        400,
                        "",
                        &format!("LFS pointer of {path} points to a file that is not there"),
                    );
                }
            },
            "deletedFile" => drop(files.remove(&path)),
            key => return error(400, "", &format!("unexpected line {key}")),
        }
    }
    let commit = sha256_hex(format!("{parent} {text}").as_bytes())[..40].to_owned();
    repo.commits.insert(commit.clone(), files);
    repo.branches.insert(name.into(), commit.clone());
    let url = format!("http://{}/{}/commit/{commit}", state.hub, repo.id);
    Response::json(&json!({ "success": true, "commitOid": commit, "commitUrl": url, "hookOutput": "" }))
}
